"Memory as a basis: the lookup and its limits, what is learned end to end, and densities that integrate to one."
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from audioengram.core import ParameterError, ShapeError
from audioengram.dynamics.basis import RIVALS, BasisHead, CodebookHead, look_up
from audioengram.dynamics.predictor import Predictor, train
from audioengram.measure.structure import windows_from


def test_soft_lookup_becomes_hard_as_its_sharpness_grows():
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(20, 4, generator=g), torch.randn(6, 4, generator=g), torch.randn(6, 5, generator=g)
    hard = look_up(q, k, v, torch.tensor(1.), hard=True)[0]
    soft = look_up(q, k, v, torch.tensor(1e4))[0]
    torch.testing.assert_close(soft, hard, atol=1e-3, rtol=0)
    d, alpha = look_up(q, k, v, torch.tensor(3.))
    torch.testing.assert_close(d.norm(dim=1), torch.ones(20)); torch.testing.assert_close(alpha.sum(1), torch.ones(20))
    torch.testing.assert_close(look_up(5 * q, 2 * k, 3 * v, torch.tensor(3.))[0], d)     # only angles count


@pytest.mark.parametrize("head", [BasisHead, CodebookHead])
def test_density_integrates_to_one(head):
    torch.manual_seed(1)
    model = head(2, 3, 4, still=.05).init_from(torch.randn(400, 2))
    x = torch.linspace(-12, 12, 1201)
    grid = torch.cartesian_prod(x, x)
    grid[grid.norm(dim=1) == 0] = 1e-6
    with torch.no_grad(): total = model(torch.randn(1, 3)).log_prob(grid).double().exp().sum() * (x[1] - x[0]).double() ** 2
    assert total == pytest.approx(1, abs=.01)


def test_bad_sizes_are_refused():
    with pytest.raises(ParameterError, match="no memory"): BasisHead(4, 3, 0)
    with pytest.raises(ShapeError, match="fewer slots"): BasisHead(4, 3, 8).init_from(torch.randn(5, 4))


def test_a_process_that_moves_along_few_directions_is_learned():
    "The state names one of six directions: both memories find them and their gain over a head without context is large."
    rng = np.random.default_rng(0)
    way = rng.standard_normal((6, 8)); way /= np.linalg.norm(way, axis=1, keepdims=True)
    says = rng.standard_normal((6, 8))
    z = []
    for _ in range(40):
        x = [rng.standard_normal(8)]
        for _ in range(40): x.append(x[-1] * .5 + way[(says @ x[-1]).argmax()] * 2 + .05 * rng.standard_normal(8))
        z.append(np.array(x))
    parts = [windows_from(z[a:b], range(b - a), 2) for a, b in ((0, 30), (30, 40))]
    sets = [_Few(p) for p in parts]
    for name, (head, options) in RIVALS(12).items():
        model = Predictor(8, 2, "state", head=head, target="step", hidden=32, layers=1, normalise="global", still=1e-3, **options)
        rows = train(model, *sets, epochs=12, batch_size=128, lr=5e-3, progress=False)
        assert rows.valid.iloc[0] - rows.valid.min() > 1, name
    assert isinstance(model.head, CodebookHead)


class _Few:
    "Windows of arrays with the methods that training asks for."
    def __init__(self, w): self.w = w; self.delta, self.now, self.frames = (torch.as_tensor(np.ascontiguousarray(a), dtype=torch.float32) for a in (w.delta, w.now, w.frames))
    def __len__(self): return len(self.delta)
    def contexts(self, i=slice(None)): return self.frames[i]
    def steps(self, i=slice(None)): return self.delta[i]
    def current(self, i=slice(None)): return self.now[i]
    def targets(self, i=slice(None)): return self.delta[i] + self.now[i]
    def batches(self, size, shuffle=True, seed=0, generator=None, drop_last=False):
        parts = torch.randperm(len(self), generator=generator).split(size)
        yield from parts[:-1] if drop_last and len(parts[-1]) < size else parts


def test_the_lookup_is_what_the_head_predicts():
    torch.manual_seed(0)
    head = BasisHead(5, 3, 7).init_from(torch.randn(300, 5))
    h = torch.randn(4, 3)
    d, alpha = head.compose(h)
    torch.testing.assert_close(head(h).direction.loc[:, 0], d)
    head.hard = True
    torch.testing.assert_close(head.compose(h)[0], F.normalize(head.values, dim=1)[alpha.argmax(1)])
