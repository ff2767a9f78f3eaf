"The core: the published rounds, masks, deep supervision, halting, equal operations, and a task that needs depth."
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from audioengram.core import ParameterError, ShapeError, TrainingError
from audioengram.ember.recursion import (
    Plain,
    RecursiveCore,
    fit_core,
    graded,
    halted,
    localised,
    operations,
    reach_maze,
    rivals,
    running_parity,
    tied_depth,
)


def core(**kw):
    torch.manual_seed(0)
    return RecursiveCore(**dict(features=5, classes=3, dim=16, layers=1, latent_steps=2, rounds=2) | kw)


def test_rounds_are_the_packages():
    package = pytest.importorskip("tiny_recursive_model").TinyRecursiveModel
    c = core(latent_steps=3, rounds=3, layers=2)
    theirs = package(dim=16, num_tokens=4, network=c.network, num_refinement_blocks=3, num_latent_refinements=3)
    h, m = c.read(torch.randn(2, 6, 5))
    y, z = c.y0.expand_as(h), c.z0.expand_as(h)
    wanted = theirs.deep_refinement(h, y, z)
    _, _, got = c.step(h, m)
    assert torch.allclose(got[0], wanted[0], atol=1e-5) and torch.allclose(got[1], wanted[1], atol=1e-5)


@pytest.mark.parametrize("each", [False, True])
def test_masked_places_change_nothing(each):
    c, x = core(each=each), torch.randn(2, 6, 5)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]]).bool()
    other = x.clone(); other[0, 3:] = torch.nan
    a, b = c(x, mask), c(other.masked_fill(~mask[..., None], 9.), mask)
    logits = [o[0][:, 0, :3] if each else o[0][:, 0] for o in (a, b)]
    assert torch.allclose(*logits, atol=1e-5) and torch.allclose(a[1], b[1], atol=1e-5)
    alone = c(x[:1, :3])
    assert torch.allclose(alone[0][:, 0], logits[0], atol=1e-5)      # padding is as good as absence


def test_order_matters_only_with_positions():
    x, turned = torch.randn(1, 4, 5), [2, 0, 3, 1]
    assert torch.allclose(core()(x)[0], core()(x[:, turned])[0], atol=1e-5)
    assert not torch.allclose(core(ordered=True)(x)[0], core(ordered=True)(x[:, turned])[0], atol=1e-5)


def test_only_the_last_round_of_a_step_learns():
    "With no gradient to earlier rounds and steps, the start values learn only if there is a single round."
    for rounds, learns in ((1, True), (2, False)):
        c = core(rounds=rounds)
        c.step(*c.read(torch.randn(2, 3, 5)))[0].sum().backward()
        assert (c.z0.grad is not None and bool(c.z0.grad.abs().sum() > 0)) == learns
    c = core()
    _, _, (y, z) = c.step(*c.read(torch.randn(2, 3, 5)))
    assert not y.requires_grad and not z.requires_grad


def test_the_estimate_does_not_teach_the_network():
    c = core()
    with torch.no_grad(): c.halt.weight.fill_(1.)
    c.step(*c.read(torch.randn(2, 3, 5)))[1].sum().backward()
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in c.network.parameters()) and c.halt.weight.grad.abs().sum() > 0


def test_graded_targets():
    logits = torch.log(torch.tensor([[.7, .3], [.2, .8]]))
    assert torch.allclose(graded(logits, torch.tensor([0, 0])), torch.tensor([.7, .2]))
    assert torch.allclose(graded(logits[None], torch.tensor([[0, -1]])), torch.tensor([.7]))     # places without a question do not count


def test_halting_takes_the_first_sure_answer():
    logits = torch.eye(4)[torch.tensor([[0, 1], [1, 2], [3, 3]])]
    sure = torch.logit(torch.tensor([[.2, .95], [.8, .5], [.1, .1]]))
    said, taken = halted(logits, sure, .7)
    assert said.tolist() == [1, 1] and taken.tolist() == [2, 1]
    assert halted(logits, sure, .99)[1].tolist() == [3, 3]


def test_operations_are_what_torch_counts():
    for model, steps in ((core(), 3), (Plain(5, 3, 16, 4), 1), (core(each=True, layers=2), 1)):
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad(): model(torch.randn(1, 7, 5), steps=steps)
        assert counter.get_total_flops() / 2 == pytest.approx(operations(model, 7, steps), rel=.1)
    r = rivals(5, 3, 16, 2, 2, 3)
    assert operations(r["recursive"], 7, 3) == pytest.approx(operations(r["equal operations"], 7), rel=.01)


def test_training_is_repeatable_and_learns():
    runs = []
    for _ in range(2):
        torch.manual_seed(1)
        runs.append(fit_core(RecursiveCore(2, 2, dim=16, layers=1, latent_steps=1, rounds=1, ordered=True, each=True), lambda g: running_parity(g, 32, 3), 40, steps=2, seed=3))
    assert runs[0][1] == runs[1][1] and sum(runs[0][1][-5:]) < .9 * sum(runs[0][1][:5])
    assert all(torch.equal(a, b) for a, b in zip(runs[0][0].parameters(), runs[1][0].parameters(), strict=True))


def test_bad_input_is_named():
    with pytest.raises(ShapeError, match="NaN"): core()(torch.full((1, 2, 5), torch.nan))
    with pytest.raises(ShapeError, match="F=5"): core()(torch.zeros(1, 2, 4))
    with pytest.raises(ShapeError, match="mask"): core()(torch.zeros(1, 2, 5), torch.ones(1, 3).bool())
    with pytest.raises(ParameterError): core(dim=15)
    broken = core(); broken.query.data.fill_(torch.inf)
    with pytest.raises(TrainingError, match="after 0 updates"): fit_core(broken, lambda g: (torch.zeros(2, 2, 5), None, torch.zeros(2, dtype=torch.long)), 1)

def test_what_is_far_takes_many_steps():
    "Two applications a step pass on two places; padding is as good as absence; a picture has neighbours on all sides."
    near = localised(core(features=2, classes=2, latent_steps=1, rounds=1, each=True), 1).double()
    x = torch.randn(1, 9, 2).double()
    far = x.clone(); far[0, 8] += 1.
    assert ((near(x, steps=5)[0] - near(far, steps=5)[0])[:, 0, 0].abs().amax(1) > 0).tolist() == [False] * 3 + [True] * 2
    mask = torch.arange(9)[None] < 6
    assert torch.allclose(near(x, mask, 3)[0][:, :, :6], near(x[:, :6], None, 3)[0], atol=1e-9)
    with pytest.raises(ShapeError, match="no square"): localised(core(each=True), 2)(torch.randn(1, 8, 5))


def test_tied_depth_costs_as_much_and_teaches_through_all_of_it():
    tied, r = tied_depth(5, 3, 16, 12, each=True), core(latent_steps=2, rounds=1, each=True)
    assert operations(tied, 7) == pytest.approx(operations(r, 7, 4), rel=.01)
    assert sum(p.numel() for p in tied.parameters()) == sum(p.numel() for p in r.parameters())
    tied(torch.randn(2, 4, 5), steps=1)[0].sum().backward()
    assert tied.z0.grad.abs().sum() > 0


def test_mazes_are_fresh_and_have_a_start():
    a, b = (reach_maze(torch.Generator().manual_seed(s), 30, 6) for s in (0, 1))
    assert not torch.equal(a[0], b[0]) and a[0].shape == (30, 36, 2) and (a[0][..., 1].sum(1) == 1).all()
    assert (a[2][a[0][..., 1] == 1] == 1).all() and ((a[2] == -1) == (a[0][..., 0] == 1)).all()
