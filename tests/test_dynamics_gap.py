"The price of rolling out: the stacked ceiling, balanced stretches, silence, clips that do not overlap."
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import softmax
from torch.distributions import Independent, Normal

from audioengram.core import ParameterError
from audioengram.data.cases import open_case, parse_cases, split_windows
from audioengram.dynamics.gap import (
    ahead,
    ahead_of,
    direct_models,
    floor_of,
    measure_free,
    measure_gap,
    measure_limit,
    measure_stability,
    real_clips,
    recovered,
    rollout_sets,
    sample_stretches,
    stack_weights,
    stacked,
)
from audioengram.measure.prediction import fit_baselines

HOW = SimpleNamespace(length=3, steps=3, segments=12, particles=4, seed=0, encoder="state", hidden=16, layers=1, dropout=0., components=2, epochs=1, epoch_frames=None, clips=6, reference=200, regions=4, repeats=2)


@pytest.fixture(scope="module")
def toy():
    _, split, store = open_case(parse_cases("synthetic:nano")[0], eval_fraction=.25)
    return store, split, direct_models(store, split, HOW, "test", [1, 2, 3])


def test_stacking_is_never_worse_than_either_on_the_frames_it_is_chosen_on():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.gamma(3, 2, (2, 300)) - rng.normal(0, 3)
        both = np.stack([a, b], 1)
        w = stack_weights(both)
        assert (w >= 0).all() and abs(w.sum() - 1) < 1e-9 and stacked(both, w).mean() <= min(a.mean(), b.mean()) + 1e-3
    same = rng.normal(size=50)
    assert np.allclose(stacked(np.stack([same, same], 1), [.3, .7]), same)
    assert np.allclose(stacked(np.stack([same, same + 1e4], 1), [.5, .5]), same + math.log(2))     # no overflow, no underflow


def test_shares_of_a_stack_are_those_of_a_general_optimiser():
    rng = np.random.default_rng(1)
    scores = rng.gamma(3, 2, (400, 3))
    best = minimize(lambda u: stacked(scores, softmax(u)).mean(), np.zeros(3), method="BFGS")
    assert stacked(scores, stack_weights(scores)).mean() <= best.fun + 1e-5


def test_stretches_come_in_turn_from_every_speaker(toy):
    store, split, _ = toy
    stretches, idx = sample_stretches(store, split.eval_utterances, HOW, 12)
    count = pd.Series(stretches.who(idx)).value_counts()
    assert len(idx) == len(set(idx.tolist())) == 12 and len(count) == len(np.unique(stretches.who(np.arange(len(stretches))))) and count.max() - count.min() <= 1
    again = sample_stretches(store, split.eval_utterances, HOW, 12)[1]
    assert torch.equal(idx, again) and not torch.equal(idx, sample_stretches(store, split.eval_utterances, SimpleNamespace(**vars(HOW) | dict(seed=1)), 12)[1])


def test_gap_of_a_model_that_is_its_own_ceiling(toy):
    store, split, direct = toy
    base = fit_baselines(split_windows(store, split, 3, 1)["train"])["step-diagonal"]
    sums = measure_gap(direct[1], direct, store, split, HOW, base)
    first = sums[sums.step == 1]
    assert np.allclose(first.A, first.C) and np.allclose(first.A, first.R, rtol=1e-4) and np.allclose(first.weight, first.segments)
    later = sums[sums.step > 1]
    share = later.weight / later.segments
    assert ((share >= 0) & (share <= 1)).all()
    assert recovered(sums[sums.step == 3]).n == first.speaker.nunique()


def test_silence_is_left_out(toy):
    store, split, direct = toy
    windows = split_windows(store, split, 3, 1)["train"]
    base, floor = fit_baselines(windows)["step-diagonal"], float(windows.steps().norm(dim=1).median())
    assert floor_of(windows) == pytest.approx(.05 * floor)
    every, moving = (measure_gap(direct[1], direct, store, split, SimpleNamespace(**vars(HOW) | dict(segments=40)), base, f) for f in (0., floor))
    assert 0 < moving.segments.sum() < every.segments.sum() == moving.frames.sum()
    assert np.allclose(every.R, moving.R_all, rtol=1e-4) and np.allclose(every.true_step, moving.true_step)      # only the scores leave silence out


def test_the_ceiling_by_number_of_particles_counts_the_marginal(toy):
    store, split, direct = toy
    base = fit_baselines(split_windows(store, split, 3, 1)["train"])["step-diagonal"]
    gap = measure_gap(direct[1], direct, store, split, SimpleNamespace(**vars(HOW) | dict(segments=40)), base, null=direct[0])
    assert np.allclose(gap.null, gap.null_all) and not np.allclose(gap.null, gap.A)
    some = measure_limit(direct[1], direct, store, split, HOW, 0., (1, 4), 8)
    assert set(some.particles) == {1, 4} and set(some.step) == {2, 3}
    both = some.pivot_table(index=["speaker", "step"], columns="particles", values=["R", "null"])
    assert np.allclose(both["null"][1], both["null"][4])                  # the same frames, the same marginal
    assert both["R"][4].sum() < both["R"][1].sum()                        # more particles score better


def test_clips_do_not_overlap_and_follow_their_contexts(toy):
    store, split, _ = toy
    context, clips, who = real_clips(store, split.eval_utterances, 3, lengths=(10_000, 6))
    assert clips.shape[1] == 6 and context.shape[1] == 3 and len(who) == len(clips)
    flat = clips.reshape(-1, clips.shape[-1]).numpy()
    assert len(np.unique(flat, axis=0)) == len(flat)                          # no frame twice
    z = torch.cat([torch.as_tensor(store[u]) for u in split.eval_utterances])
    row = int((z - context[0, 0]).abs().sum(1).argmin())
    assert torch.equal(z[row:row + 9], torch.cat([context[0], clips[0]]))
    with pytest.raises(ParameterError, match="held-out speakers have"): real_clips(store, split.eval_utterances, 3, lengths=(10_000,))


def test_independent_frames_are_like_real_ones_but_for_their_order(toy):
    store, split, direct = toy
    report = measure_free({"independent": (direct[0], {})}, store, split, HOW)
    assert set(report.name) == {"independent"} and report.frames.nunique() == 1 and np.isfinite(report.ratio).all()


def test_stability_is_of_as_many_runs_as_asked_and_finds_what_breaks(toy):
    class Explodes:
        target = "state"
        def __call__(self, c): return Independent(Normal(3 * c[:, -1], 1.), 1)
    store, split, direct = toy
    table = measure_stability({"fitted": direct[1], "explodes": Explodes()}, store, split, SimpleNamespace(**vars(HOW) | dict(held=5, long=200))).set_index("method")
    assert table.runs.tolist() == [5, 5] and table.finite["fitted"] and table.steps["fitted"] == 200 and np.isfinite(table.peak["fitted"])
    assert not table.finite["explodes"] and 60 < table.broke["explodes"] < 100       # 3^81 is the largest power of 3 in float32


def test_ahead_is_nats_a_scored_frame_and_each_speaker_counts_once():
    a = pd.DataFrame(dict(speaker=["x", "y"], segments=[2, 6], R=[10., 20.], C=[9., 17.]))
    b = pd.DataFrame(dict(speaker=["y", "x"], segments=[6, 2], R=[12., 6.]))
    assert ahead(a, "R", "C").value == pytest.approx(.5)
    assert ahead_of(a, b, "R").value == pytest.approx((4 / 2 + 8 / 6) / 2)              # a mean over speakers, not over frames
    assert ahead_of(b, b, "R").value == 0


def test_rollout_sets(toy):
    store, split, _ = toy
    train, valid = rollout_sets(store, split, 3, 4, 10)
    assert train.horizon == valid.horizon == 4 and len(valid) <= 10 and valid.frames(torch.arange(2)).shape == (2, 7, store.dim)
    assert not set(train.windows.utterances[train.windows.utterance]) & set(valid.windows.windows.utterances[valid.windows.windows.utterance])


def test_a_known_process_loses_nothing():
    class Linear:
        target = "state"
        def __init__(self, rho): self.rho = rho
        def __call__(self, c): return Independent(Normal(self.rho * c[:, -1], math.sqrt(1 - self.rho**2)), 1)

    class Paths:
        lag = 1
        def __init__(self, n, length):
            g, z = torch.Generator().manual_seed(n), [torch.randn(n, 1, generator=torch.Generator().manual_seed(1))]
            for _ in range(length): z.append(.6 * z[-1] + .8 * torch.randn(n, 1, generator=g))
            self.z, self.speakers, self.speaker = torch.stack(z, 1), np.arange(4), np.arange(n) % 4
        def __len__(self): return len(self.z)
        def contexts(self, i): return self.z[i, :-1]
        def targets(self, i): return self.z[i, -1]

    class Store:
        def windows(self, ids, length, lag): return Paths(ids, length)

    class Split: valid_utterances, eval_utterances = 600, 1201

    sums = measure_gap(Linear(.6), {0: Linear(0.), 1: Linear(.6), 4: Linear(.6**4)}, Store(), Split, SimpleNamespace(length=1, steps=4, segments=1200, particles=128, seed=0), Linear(0.))
    mean = lambda a, b: (sums[sums.step == 4][a].sum() - sums[sums.step == 4][b].sum()) / sums[sums.step == 4].segments.sum()
    assert abs(mean("R", "C")) < .03 and mean("base", "C") == pytest.approx(-.5 * math.log(1 - .6**8), abs=.02)
    v = 1 - .6**8
    assert mean("R_mean", "R") == pytest.approx(.5 * (v / .64 - 1 - math.log(v / .64)), abs=.03)   # the mean rollout is too sure of itself
