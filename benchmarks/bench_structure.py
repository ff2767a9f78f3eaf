"""Phase 0 on a million frames, against the obvious loop over clusters, and the bootstrap against the loop over resamples.

    pytest benchmarks/bench_structure.py --benchmark-only

The naive forms run in the same session on the same arrays; the ratio is in the extra info of each benchmark.
"""
import time

import numpy as np
import pytest

from audioengram.measure.lookup import fit_table, frame_errors
from audioengram.measure.stats import bootstrap_by

N, D, K = 1_000_000, 128, 256


@pytest.fixture(scope="module")
def frames():
    "A million normalised steps and their cells, float32."
    rng = np.random.default_rng(0)
    return rng.standard_normal((N, D), dtype=np.float32), rng.integers(0, K, N)


def seconds(f):
    "Wall time of one call, and what it returned."
    start = time.perf_counter()
    value = f()
    return time.perf_counter() - start, value


def naive(x, cell):
    "Within-cluster over total sum of squares, as one would write it down."
    within = sum(((x[cell == k] - x[cell == k].mean(0))**2).sum(dtype=np.float64) for k in range(K))
    return within / ((x - x.mean(0))**2).sum(dtype=np.float64)


def test_in_sample_ratio_of_a_million_frames(benchmark, frames):
    slow, expected = seconds(lambda: naive(*frames))
    ratio = benchmark.pedantic(lambda: fit_table(*frames, K).ratio, rounds=3, warmup_rounds=1)
    assert ratio == pytest.approx(expected, abs=1e-6)
    benchmark.extra_info.update(frames=N, dim=D, cells=K, naive_seconds=round(slow, 2), times_naive=round(slow / benchmark.stats.stats.median, 1))
    assert benchmark.stats.stats.median < 5


def test_out_of_sample_ratio_of_a_million_frames(benchmark, frames):
    "Table from one half, errors of every frame of the other: what each key, slice and control costs."
    x, cell = frames
    half = N // 2
    def ours():
        within, total = frame_errors(fit_table(x[:half], cell[:half], K), x[half:], cell[half:])
        return within.sum() / total.sum()
    def loop():
        a, b, m = x[:half], x[half:], x[:half].mean(0)
        within = sum(((b[cell[half:] == k] - a[cell[:half] == k].mean(0))**2).sum(dtype=np.float64) for k in range(K))
        return within / ((b - m)**2).sum(dtype=np.float64)
    slow, expected = seconds(loop)
    assert benchmark.pedantic(ours, rounds=3, warmup_rounds=1) == pytest.approx(expected, abs=1e-6)
    benchmark.extra_info.update(naive_seconds=round(slow, 2), times_naive=round(slow / benchmark.stats.stats.median, 1))
    assert benchmark.stats.stats.median < 5


def test_bootstrap_of_a_million_frames(benchmark):
    "Two thousand resamples of 57 speakers; the naive form gathers the rows of each resample (20 of them are timed)."
    rng = np.random.default_rng(0)
    speaker = rng.integers(0, 57, N)
    score = rng.normal(size=57)[speaker] + rng.normal(size=N)
    slow, few = seconds(lambda: bootstrap_by(score, speaker, lambda v: v.mean(), n=20))
    ours = benchmark.pedantic(lambda: bootstrap_by(score, speaker), rounds=3, warmup_rounds=1)
    assert few.value == pytest.approx(ours.value)
    benchmark.extra_info.update(naive_seconds=round(100 * slow, 1), times_naive=round(100 * slow / benchmark.stats.stats.median))
    assert slow * 100 > 20 * benchmark.stats.stats.median
