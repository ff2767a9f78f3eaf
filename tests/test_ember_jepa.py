"The embedding: hidden patches are hidden, targets do not learn, collapse is seen and prevented, bad input is named."
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audioengram.core import ParameterError, ShapeError, TrainingError
from audioengram.ember.jepa import Jepa, Tower, bin_spikes, fit_jepa, health, hide, probe, vicreg
from audioengram.ember.layers import Stack, places


def tower(**kw): return Tower(**dict(channels=4, dim=16, patch=20, layers=1, filters=8) | kw)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 30), share=st.floats(0, 1), kind=st.sampled_from(["masked", "future"]), seed=st.integers(0, 99))
def test_something_is_hidden_and_something_seen(n, share, kind, seed):
    m = hide(torch.Generator().manual_seed(seed), 5, n, kind, share)
    assert m.shape == (5, n) and m.any(1).all() and (~m).any(1).all()
    if kind == "future": assert (m[:, 1:] >= m[:, :-1]).all()


def test_the_visible_part_cannot_see_the_hidden_one():
    torch.manual_seed(0)
    t, grid = tower(), torch.rand(3, 4, 100)
    hidden = torch.tensor([[0, 1, 1, 0, 0]]).bool().expand(3, -1)
    other = grid.clone(); other[..., 20:60] = 7.
    assert torch.allclose(t(grid, ~hidden)[~hidden], t(other, ~hidden)[~hidden], atol=1e-6)
    assert not torch.allclose(t(grid), t(other))


def test_only_the_student_learns_and_the_target_follows():
    torch.manual_seed(0)
    model = Jepa(tower())
    loss, parts = model.loss(torch.rand(8, 4, 100), hide(torch.Generator().manual_seed(0), 8, 5, "masked"))
    loss.backward()
    assert all(p.grad is None for p in model.teacher.parameters()) and any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.student.parameters())
    assert parts.keys() == {"prediction", "variance", "covariance"}
    with torch.no_grad(): model.student.out.weight.add_(1.)
    before = model.teacher.out.weight.clone()
    model.follow(.9)
    assert torch.allclose(model.teacher.out.weight, before + .1, atol=1e-5)


def test_collapse_is_prevented_and_without_the_terms_seen():
    g = torch.Generator().manual_seed(0)
    grids, found = (torch.rand(96, 4, 100, generator=g) < .2).float(), {}
    for name, kw in dict(kept={}, lost=dict(variance=0., covariance=0., ema=0.)).items():
        torch.manual_seed(0)
        found[name] = fit_jepa(Jepa(tower(), **kw), grids, 20, lr=6e-3)
    kept, lost = (found[k][-1] for k in ("kept", "lost"))
    assert kept["share"] > .5 and kept["least"] > .5
    assert lost["mean"] < .5 * kept["mean"] and lost["prediction"] < .1 * kept["prediction"]     # it predicts perfectly because nothing differs


def test_health_and_terms_have_known_values():
    torch.manual_seed(0)
    z = torch.randn(4000, 10)
    assert health(z)["share"] > .99 and health(torch.zeros(50, 10))["rank"] == 1
    z[:, 5:] = z[:, :5]
    assert health(z)["rank"] == pytest.approx(5, abs=.1)
    assert float(vicreg(z)[1]) == pytest.approx(1, abs=.1)      # each of ten dimensions shares its unit variance with one other


def test_same_seed_same_embedding():
    grids, out = torch.rand(20, 4, 60, generator=torch.Generator().manual_seed(1)), []
    for _ in range(2):
        torch.manual_seed(3)
        model = Jepa(tower()); fit_jepa(model, grids, 2, batch=8, seed=5)
        out.append(model.embed(grids))
    assert torch.equal(*out)


def test_probe_reads_what_is_there():
    torch.manual_seed(0)
    z, t = torch.randn(300, 6), torch.randn(200, 6)
    assert probe(z, (z[:, 0] > 0).int(), t, (t[:, 0] > 0).int()) > .9
    assert probe(z, z[:, 1].numpy().astype(float), t, t[:, 1].numpy().astype(float)) > .9
    assert abs(probe(z, torch.randint(2, (300,)), t, torch.randint(2, (200,))) - .5) < .15


def test_a_stack_ignores_masked_places_and_positions_differ():
    torch.manual_seed(0)
    stack, h, mask = Stack(16, 2), torch.randn(1, 4, 16), torch.tensor([[True, True, False, True]])
    other = h.clone(); other[0, 2] = 50
    assert torch.allclose(stack(h, mask)[:, mask[0]], stack(other, mask)[:, mask[0]], atol=1e-5)
    assert torch.pdist(places(40, 16)).min() > .05


def test_bad_input_is_named():
    t = tower()
    with pytest.raises(ShapeError, match="too short"): t(torch.rand(1, 4, 19))
    with pytest.raises(ShapeError, match="NaN"): t(torch.full((1, 4, 20), torch.nan))
    with pytest.raises(ShapeError, match="C=4"): t(torch.rand(1, 5, 20))
    with pytest.raises(ShapeError, match="too short"): bin_spikes(torch.zeros(1, 4, 5))
    with pytest.raises(ShapeError, match="nothing to predict"): hide(torch.Generator(), 1, 1, "masked")
    with pytest.raises(ParameterError, match="unknown kind"): hide(torch.Generator(), 1, 4, "x")
    with pytest.raises(ParameterError, match="multiple"): tower(patch=22, kernel=8)
    broken = Jepa(tower()); broken.mark.data.fill_(torch.nan)
    with pytest.raises(TrainingError, match="lower the learning rate|Lower the learning rate"): fit_jepa(broken, torch.rand(4, 4, 60), 1)
    assert torch.isfinite(t(torch.zeros(1, 4, 20))).all()      # silence
