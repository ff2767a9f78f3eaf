"Intervals against SciPy and closed forms; nulls that keep what they promise."
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sps

from audioengram.core import ParameterError, ShapeError
from audioengram.measure.stats import (
    Estimate,
    block_index,
    bootstrap_by,
    bootstrap_sums,
    circular_index,
    group_sums,
    paired_by,
    permutation_p,
    shuffle_index,
    sign_flip_p,
)

RNG = np.random.default_rng(0)


def speech(G=20, per=50, spread=1., seed=0):
    "Frames with a speaker effect; speakers speak for different times."
    rng = np.random.default_rng(seed)
    sizes = rng.integers(per // 2, per * 2, G)
    speaker = np.repeat(np.arange(G), sizes)
    return spread * rng.normal(size=G)[speaker] + rng.normal(size=len(speaker)), speaker


@pytest.mark.parametrize(("ours", "theirs"), [("percentile", "percentile"), ("bca", "BCa")])
@pytest.mark.parametrize("skewed", [False, True])
def test_macro_mean_agrees_with_scipy_on_speaker_means(ours, theirs, skewed):
    values, speaker = speech(G=15)
    if skewed: values = np.exp(values)
    means = np.array([values[speaker == s].mean() for s in range(15)])
    ref = sps.bootstrap((means,), np.mean, n_resamples=20_000, method=theirs, rng=np.random.default_rng(1))
    e = bootstrap_by(values, speaker, "macro", n=20_000, method=ours)
    width = ref.confidence_interval.high - ref.confidence_interval.low
    assert e.value == pytest.approx(means.mean())
    assert np.allclose([e.lo, e.hi], ref.confidence_interval, atol=.025 * width)
    assert (e.n, e.unit) == (15, "speaker")


def test_fast_route_equals_the_loop_over_resamples():
    values, speaker = speech(G=9)
    for method in ("expanded", "percentile", "bca"):
        fast, slow = (bootstrap_by(values, speaker, s, n=200, seed=5, method=method) for s in ("mean", lambda x: x.mean()))
        assert np.allclose([fast.value, fast.lo, fast.hi], [slow.value, slow.lo, slow.hi], atol=1e-12)


def test_ratio_of_sums_equals_the_loop_over_resamples():
    "R² as a function of sums, against gathering the rows."
    values, speaker = speech(G=7)
    y = values + RNG.normal(size=len(values))
    parts = np.stack([(y - values)**2, (y - y.mean())**2], 1)
    fast = bootstrap_sums(parts, speaker, lambda s: 1 - s[..., 0] / s[..., 1], n=300, seed=2)
    slow = bootstrap_by(parts, speaker, lambda p: 1 - p[:, 0].sum() / p[:, 1].sum(), n=300, seed=2)
    assert np.allclose([fast.value, fast.lo, fast.hi], [slow.value, slow.lo, slow.hi], atol=1e-10)


@pytest.mark.parametrize(("G", "bounds"), [(6, (.89, .97)), (12, (.925, .97)), (20, (.93, .97))])
def test_expanded_interval_covers_nearly_as_often_as_it_says(G, bounds):
    "Nominal 95 %, counted over 1000 corpora; the binomial error of the count is 0.7 %. Six speakers are too few for any bootstrap."
    rng, groups, hits = np.random.default_rng(3), np.repeat(np.arange(G), 5), 0
    for i in range(1000):
        x = np.repeat(rng.normal(size=G), 5) + rng.normal(size=5 * G)
        hits += 0 in bootstrap_sums(x, groups, lambda s: s[..., 0] / s[..., 1], n=400, seed=i)
    assert bounds[0] < hits / 1000 < bounds[1]


def test_frames_are_not_observations():
    "With a strong speaker effect the interval is that of the speaker means, however many frames there are."
    rng = np.random.default_rng(4)
    effect = rng.normal(size=10)
    few, many = (bootstrap_by(np.repeat(effect, per), np.repeat(np.arange(10), per), n=4000) for per in (2, 2000))
    assert (few.lo, few.hi) == pytest.approx((many.lo, many.hi))
    half = sps.t.ppf(.975, 9) * effect.std(ddof=1) / np.sqrt(10)
    assert (many.hi - many.lo) / 2 == pytest.approx(half, rel=.06)


def test_level_and_names():
    values, speaker = speech()
    names = np.array([f"spk-{s:02d}" for s in speaker])
    wide, narrow = (bootstrap_by(values, names, level=p, unit="reader") for p in (.99, .8))
    assert wide.lo < narrow.lo < narrow.hi < wide.hi and wide.unit == "reader"
    assert bootstrap_by(values, names, seed=1) == bootstrap_by(values, speaker, seed=1)


def test_one_speaker_has_no_interval():
    e = bootstrap_by([1., 2.], ["a", "a"])
    assert (e.value, e.lo, e.hi, e.n) == (1.5, None, None, 1) and 1.5 not in e and "no interval" in str(e)
    assert e.as_dict()["unit"] == "speaker"


def test_pairing_removes_the_spread_between_speakers():
    values, speaker = speech(G=12, spread=5)
    other = values - .1 + .05 * np.random.default_rng(1).normal(size=len(values))
    paired = paired_by(values, other, speaker)
    separate = bootstrap_by(values, speaker)
    assert .1 in paired and 0 not in paired and paired.hi - paired.lo < .02 * (separate.hi - separate.lo)


@pytest.mark.parametrize("n", [4, 9, 13])
def test_sign_flip_is_scipys_exact_test(n):
    x = np.random.default_rng(n).normal(.5, 1, n)
    exact = sps.permutation_test((x,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip_p(x) == pytest.approx(exact)
    assert sign_flip_p(x, n=4000) == pytest.approx(exact, abs=.03)


def test_permutation_p_is_uniform_under_the_null():
    rng = np.random.default_rng(0)
    for tail in ("upper", "lower", "both"):
        p = [permutation_p(rng.normal(), rng.normal(size=99), tail) for _ in range(800)]
        assert min(p) > 0 and abs(np.mean(np.array(p) <= .1) - .1) < .03
    with pytest.raises(ParameterError, match="upper, lower or both"): permutation_p(0, [1], "left")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 7), st.integers(0, 99))
def test_nulls_permute_inside_utterances(utterances, block, seed):
    "Interleaved, single-row and long utterances alike."
    u, rows = np.array(utterances), np.arange(len(utterances))
    for index in (shuffle_index(len(u), u, seed), circular_index(u, seed), circular_index(u, seed, margin=3), block_index(u, block, seed)):
        assert (np.sort(index) == rows).all() and (u[index] == u).all()
    for name in np.unique(u):
        mine = rows[u == name]
        place = np.searchsorted(mine, circular_index(u, seed)[mine])
        assert (np.diff(place) % len(mine) == 1 % len(mine)).all()                  # the order is kept, going round
        if len(mine) > 1: assert place[0] != 0                                      # and every utterance moved
        jumps = np.diff(np.searchsorted(mine, block_index(u, block, seed)[mine]))
        assert (jumps != 1).sum() <= -(-len(mine) // block) - 1                     # blocks stay whole


def test_circular_shifts_are_uniform_beyond_the_margin():
    u = np.repeat(np.arange(4000), 10)
    shift = circular_index(u, margin=3).reshape(4000, 10)[:, 0] % 10
    counts = np.bincount(shift, minlength=10)
    assert counts[[0, 1, 2, 8, 9]].sum() == 0
    assert sps.chisquare(counts[3:8]).pvalue > 1e-3


def test_circular_null_keeps_the_autocorrelation():
    x = np.convolve(np.random.default_rng(0).normal(size=2009), np.ones(10), "valid")
    corr = lambda y: np.corrcoef(y[:-1], y[1:])[0, 1]
    u = np.repeat(np.arange(4), 500)
    assert corr(x[circular_index(u)]) == pytest.approx(corr(x), abs=.02)
    assert abs(corr(x[shuffle_index(2000, u)])) < .1
    assert corr(x[block_index(u, 50)]) == pytest.approx(corr(x), abs=.05)


def test_errors_say_what_to_do():
    with pytest.raises(ShapeError, match="one speaker a row"): group_sums(np.zeros(3), [1])
    with pytest.raises(ShapeError, match="same rows"): paired_by([1, 2], [1], [0, 1])
    with pytest.raises(ParameterError, match="no rows"): bootstrap_by([], [])
    with pytest.raises(ParameterError, match="interval method"): bootstrap_by([1., 2.], [0, 1], method="normal")
    with pytest.raises(ParameterError, match="at least one row"): block_index([0, 0], 0)
    assert isinstance(Estimate(1., 0., 2., 3).as_dict(), dict)
