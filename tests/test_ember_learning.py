"Three rules of learning: what each foretells, that a cut training ends where a whole one does; prices; two codes of the nerve."
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from audioengram.core import ModelFileError, ParameterError, TrainingError
from audioengram.ember.jepa import hide
from audioengram.ember.learning import LEARNING, learner, train_rule
from audioengram.ember.likeness import agreement, beyond, distances, nerve_rate, nerve_timing
from audioengram.ember.observers import Front
from audioengram.ember.prices import Wavelike, ear_operations, energy, fan_out, mel_operations, price_of, reader_of
from audioengram.ember.reader import SENSES

SHAPE = dict(channels=4, dim=16, patch=10, layers=1, filters=8, kernel=4)


def world(n=64, rate=.1, seed=0): return (torch.rand(n, 4, 100, generator=torch.Generator().manual_seed(seed)) < rate).float()
def timeless(curve): return [{k: v for k, v in p.items() if k != "cpu_seconds"} for p in curve]


@pytest.mark.parametrize("rule", LEARNING)
def test_a_cut_training_ends_where_a_whole_one_does(rule, tmp_path):
    grids, file = world(), tmp_path / "run.safetensors"
    whole, cut, again = (learner(rule, 3, **SHAPE) for _ in range(3))
    full = train_rule(whole, grids, 9, batch=8, every=3)
    count, follow = [], cut.follow
    def stop(keep):
        count.append(0)
        if len(count) > 7: raise KeyboardInterrupt
        follow(keep)
    cut.follow = stop
    with pytest.raises(KeyboardInterrupt): train_rule(cut, grids, 9, batch=8, every=3, checkpoint=file)
    assert timeless(train_rule(again, grids, 9, batch=8, every=3, checkpoint=file)) == timeless(full)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), whole.state_dict().values(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(again.student.stack.parameters(), learner(rule, 3, **SHAPE).student.stack.parameters(), strict=True))


def test_a_strange_checkpoint_is_refused(tmp_path):
    grids, file = world(), tmp_path / "run.safetensors"
    train_rule(learner("spikes", **SHAPE), grids, 2, batch=8, checkpoint=file)
    with pytest.raises(TrainingError, match="another run"): train_rule(learner("spikes", **SHAPE), grids, 2, batch=8, seed=1, checkpoint=file)
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(ModelFileError, match="damaged"): train_rule(learner("spikes", **SHAPE), grids, 2, batch=8, checkpoint=file)


def test_spikes_are_scored_over_their_rates():
    "Where spikes have no order, nothing beyond rates can be foretold; where they follow each other, something can."
    def end(grids):
        return train_rule(learner("spikes", **SHAPE), grids, 50, lr=4e-3)[-1]["prediction"]
    beat = torch.zeros(64, 4, 100)
    for i in range(64): beat[i, :, i % 10::10] = 1.
    assert end(beat) < -.2 < -.05 < end(world()) < .1


def test_contrast_knows_no_places():
    "Silent clips hold one token a hundred times: with nothing but its place to tell it by, none is found."
    model, grid = learner("contrast", **SHAPE), torch.zeros(32, 4, 100)
    for tower in (model.student, model.teacher): tower.set_units(world())
    hidden = hide(torch.Generator().manual_seed(0), 32, 10, "masked")
    local = model.student.tokens(grid)
    assert (local[0, 0] - local[0, 1]).abs().max() > .01                 # places are in the tokens
    loss, _ = model.loss(grid, hidden)
    assert loss.item() == pytest.approx(np.log(int(hidden.sum())), abs=1e-4)


def test_towers_of_one_seed_are_one():
    a, b, other = (torch.cat([p.flatten() for p in learner(r, s, **SHAPE).student.parameters()]) for r, s in (("jepa", 1), ("contrast", 1), ("jepa", 2)))
    assert torch.equal(a, b) and not torch.equal(a, other)
    with pytest.raises(ParameterError, match="unknown rule"): learner("parrot", **SHAPE)


@pytest.mark.parametrize("width", [8, 24])
def test_the_small_wav2vec_costs_what_a_profiler_counts(width):
    model = Wavelike(2, width, dim=16)
    with FlopCounterMode(display=False) as counted, torch.no_grad(): model(torch.randn(1, 2, 4800), steps=3)
    assert counted.get_total_flops() / 2 == pytest.approx(model.operations(4800, 3), rel=.1)


def test_readers_are_equal_in_what_is_asked():
    for name, rows in (("spikes", 25), ("log-mel 2.5 ms", 200)):
        reader = reader_of(40, SENSES[name], operations=4_000_000, rows=rows)
        assert price_of(reader, rows, 2) == pytest.approx(4_000_000, rel=.05)
    assert sum(p.numel() for p in reader_of(1, None, parameters=40_000).parameters()) == pytest.approx(40_000, rel=.06)
    with pytest.raises(ParameterError, match="equal in"): reader_of(1, None, parameters=1, operations=1)


def test_prices_add_up():
    assert energy(2e6) == pytest.approx(9.2) and energy(0, 1e6) == pytest.approx(.9)
    assert ear_operations(48) == 2 * ear_operations(24) and fan_out(12) > fan_out(6)
    assert mel_operations(Front(160, 400)) * 4 == mel_operations(Front(40, 400))


def test_timing_and_rate_are_two_codes():
    "Half of the spikes at random: the rate code halves, the intervals of a periodic nerve do not move."
    g, t = torch.Generator().manual_seed(0), torch.arange(8000)
    def nerve(period, keep): return ((t % period < 2) * (torch.rand(4, 12, 8000, generator=g) < keep)).float()
    a, b = nerve(160, .9), nerve(160, .45)
    assert nerve_rate(a)[:, :12].mean() > 1.3 * nerve_rate(b)[:, :12].mean()
    peak = lambda s: nerve_timing(s).reshape(4, 6, 80).mean((0, 1)).argmax()
    assert peak(a) == peak(b) == 39 and peak(nerve(100, .9)) in (24, 49, 74)
    assert np.allclose(nerve_timing(a).reshape(4, 6, 80).sum(2), 1, atol=1e-5)


def test_beyond_holds_the_other_account():
    rng = np.random.default_rng(0)
    a, b, c = (distances(rng.standard_normal((30, 5))) for _ in range(3))
    x = np.column_stack([a, b, c])
    residual = [v - np.column_stack([np.ones(len(c)), c]) @ np.linalg.lstsq(np.column_stack([np.ones(len(c)), c]), v, rcond=None)[0] for v in (x[:, 0], x[:, 1])]
    assert beyond(a, b, c) == pytest.approx(np.corrcoef(*residual)[0, 1], abs=1e-9)
    assert np.isnan(beyond(a, b, a)) and abs(agreement(a, b)) < .3
