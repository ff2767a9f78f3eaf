"Memory as a basis: the lookup and its limits, what is learned end to end, densities that integrate to one, equal costs, and free runs that hold."
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from audioengram.core import ParameterError, ShapeError
from audioengram.dynamics.basis import (
    COSTS,
    RIVALS,
    BasisHead,
    CodebookHead,
    Direct,
    FromLast,
    StateBookHead,
    look_up,
    prepared,
    rival_models,
)
from audioengram.dynamics.predictor import Predictor, train
from audioengram.dynamics.rollout import check_stability
from audioengram.measure.keys import windows_from


def test_soft_lookup_becomes_hard_as_its_sharpness_grows():
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(20, 4, generator=g), torch.randn(6, 4, generator=g), torch.randn(6, 5, generator=g)
    hard = look_up(q, k, v, torch.tensor(1.), hard=True)[0]
    soft = look_up(q, k, v, torch.tensor(1e4))[0]
    torch.testing.assert_close(soft, hard, atol=1e-3, rtol=0)
    d, alpha = look_up(q, k, v, torch.tensor(3.))
    torch.testing.assert_close(d.norm(dim=1), torch.ones(20)); torch.testing.assert_close(alpha.sum(1), torch.ones(20))
    torch.testing.assert_close(look_up(5 * q, 2 * k, 3 * v, torch.tensor(3.))[0], d)     # only angles count


def test_a_hard_lookup_learns_through_the_soft_weights():
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(20, 4, generator=g), torch.randn(6, 4, generator=g).requires_grad_(), torch.randn(6, 5, generator=g).requires_grad_()
    d, alpha = look_up(q, k, v, torch.tensor(3.), hard=True)
    torch.testing.assert_close(d, F.normalize(v[alpha.argmax(1)], dim=1)); assert ((alpha.detach() - alpha.detach().round()).abs() < 1e-6).all()
    d[:, 0].sum().backward()
    assert (k.grad.abs().sum(1) > 0).all() and (v.grad.abs().sum(1) > 0).sum() >= 2


@pytest.mark.parametrize("head", [BasisHead, CodebookHead, StateBookHead])
def test_density_integrates_to_one(head):
    torch.manual_seed(1)
    model = head(2, 3, 4, still=.05).init_from(torch.randn(400, 2))
    if head is StateBookHead: model.remember(torch.randn(300, 2), .7)
    x = torch.linspace(-12, 12, 1201)
    grid = torch.cartesian_prod(x, x)
    grid[grid.norm(dim=1) == 0] = 1e-6
    with torch.no_grad(): total = model(torch.randn(1, 3)).log_prob(grid).double().exp().sum() * (x[1] - x[0]).double() ** 2
    assert total == pytest.approx(1, abs=.01)


def test_bad_sizes_are_refused():
    with pytest.raises(ParameterError, match="no memory"): BasisHead(4, 3, 0)
    with pytest.raises(ShapeError, match="fewer slots"): BasisHead(4, 3, 8).init_from(torch.randn(5, 4))
    with pytest.raises(ParameterError, match="end with a frame"): StateBookHead(4, 3, 8)
    with pytest.raises(ParameterError, match="parameters, multiply-adds"): rival_models(4, 3, 8, equal="words")


def _sets(step, noise=.05, seed=0, D=8, length=2, lag=1):
    "Training and validation windows of z' = step(z) + noise."
    rng, z = np.random.default_rng(seed), []
    for _ in range(40):
        x = [rng.standard_normal(D)]
        for _ in range(40): x.append(step(x[-1]) + noise * rng.standard_normal(D))
        z.append(np.array(x))
    return [_Few(windows_from(z[a:b], range(b - a), length, lag)) for a, b in ((0, 30), (30, 40))]


def _learned(sets, slots, names=None):   # name -> (validation nats a frame, model)
    out = {}
    for name, (head, options) in RIVALS(slots).items():
        if names and name not in names: continue
        model = prepared(Predictor(8, 2, "state", head=head, target="step", hidden=32, layers=1, normalise="global", still=1e-3, **options), sets[0])
        rows = train(model, *sets, epochs=8, batch_size=128, lr=5e-3, progress=False, units=False)
        out[name] = rows.valid.min(), rows.valid.iloc[0], model
    return out


@pytest.fixture(scope="module")
def planted():
    "Two processes in which the state names one of six: directions to move along, and places to go to."
    rng = np.random.default_rng(0)
    way, says = rng.standard_normal((6, 8)), rng.standard_normal((6, 8))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    along = lambda x: (x + 2 * way[(says @ x).argmax()]) if np.linalg.norm(x) < 4 else x - 2 * x / np.linalg.norm(x)
    place = 3 * way
    def towards(x):
        gap = place[((says @ x).argmax() + 1) % 6] - x
        return x + gap / np.linalg.norm(gap) * 1.5
    return _learned(_sets(along), 12), _learned(_sets(towards), 12)


def test_a_process_that_moves_along_few_directions_is_learned(planted):
    "Both memories of directions find them and gain over where they start; a memory of places is no better."
    directions, _ = planted
    assert all(start - best > 1 for best, start, _ in directions.values())
    assert directions["codebook of states"][0] > directions["codebook of directions"][0]


def test_a_process_that_goes_to_few_places_is_learned_by_places(planted):
    _, places = planted
    assert all(places["codebook of states"][0] < places[n][0] - .5 for n in ("codebook of directions", "memory as a basis"))


def test_heads_run_freely_for_2000_steps(planted):
    "Sampled, float32, no clipping: all stay finite, and a head that always makes for a stored place stays among them."
    contexts = _sets(lambda x: .9 * x)[1].contexts(torch.arange(2))
    for name in ("memory as a basis", "codebook of states"):
        held = check_stability(planted[1][name][2], contexts, 2000, block=500)
        assert held["finite"] and held["steps"] == 2000, name
    assert held["last"] < 20


def test_samples_follow_the_density():
    torch.manual_seed(0)
    for name, model in rival_models(6, 9, 16, window=2).items():
        if isinstance(model.head, StateBookHead): model.head.remember(torch.randn(50, 6), 1.)
        model.eval()
        dist = model(torch.randn(1, 2, 6))
        with torch.no_grad():
            x = dist.sample((20_000,))[:, 0]
            error = x.std(0) / len(x)**.5
            assert ((x.mean(0) - dist.mean[0]).abs() < 5 * error).all(), name
            assert torch.isfinite(dist.log_prob(x[:100, None])).all()


@pytest.mark.parametrize("equal", COSTS)
def test_rivals_cost_what_the_bar_costs(equal):
    spent = {name: COSTS[equal](m) for name, m in rival_models(64, 64, 128, equal=equal).items()}
    assert all(abs(v / spent["plain vMF"] - 1) < .03 for v in spent.values()), spent


def test_the_way_from_the_last_frame_at_any_lag():
    sets = _sets(lambda x: .8 * x, lag=3)
    far, i = FromLast(sets[0]), torch.arange(10)
    torch.testing.assert_close(far.steps(i), sets[0].targets(i) - sets[0].contexts(i)[:, -1])
    assert not torch.allclose(far.steps(i), sets[0].steps(i))
    near = _sets(lambda x: .8 * x)[0]
    torch.testing.assert_close(FromLast(near).steps(i), near.steps(i), atol=1e-6, rtol=0)
    model = prepared(rival_models(8, 4, 16, window=2)["codebook of states"], far).eval()
    direct = Direct(model)(sets[0].contexts(i))
    torch.testing.assert_close(direct.log_prob(sets[0].targets(i)), model(sets[0].contexts(i)).log_prob(far.steps(i)), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(direct.mean, sets[0].contexts(i)[:, -1] + model(sets[0].contexts(i)).mean)


def test_states_are_stored_in_units_of_the_step():
    "The head's means point from the frame to the stored states, whatever the origin and the scale of the latents."
    sets = _sets(lambda x: .5 * x)
    for w in sets: w.frames, w.now = 7 * w.frames + 100, 7 * w.now + 100; w.delta = 7 * w.delta
    model = prepared(rival_models(8, 5, 16, window=2)["codebook of states"], sets[0]).eval()
    c = sets[0].contexts(torch.arange(20))
    places = model.head.values * model.out_scale + model.in_mean
    want = F.normalize(places - c[:, -1:], dim=-1)
    torch.testing.assert_close(model(c).base.direction.loc, want, atol=1e-3, rtol=0)
    assert (places.mean(0) - model.in_mean).norm() < 7 * 3


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
