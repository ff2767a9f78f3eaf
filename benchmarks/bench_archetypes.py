"""Spherical k-means of directions against scikit-learn's KMeans on the same normalised vectors: objective and time, in one run.

    pytest benchmarks/bench_archetypes.py --benchmark-only

One million directions, 128 dimensions, 1,024 centres take scikit-learn the better part of an hour on a laptop core; AUDIOENGRAM_BENCH_SCALE=20 divides the directions and the centres' square by it
(50,000 directions, 229 centres).
"""
import os
import time

import numpy as np
import pytest
from sklearn.cluster import KMeans

from audioengram.dynamics.clusters import assign, spherical_kmeans

SCALE = float(os.environ.get("AUDIOENGRAM_BENCH_SCALE", 1))
N, D, K = int(1_000_000 / SCALE), 128, int(1024 / SCALE**.5)


@pytest.fixture(scope="module")
def directions():
    "A mixture of twice as many clusters as there will be centres, with a covariance like that of latents."
    rng = np.random.default_rng(0)
    centre = rng.standard_normal((2 * K, D), dtype=np.float32)
    x = (.8 * centre[rng.integers(0, 2 * K, N)] + rng.standard_normal((N, D), dtype=np.float32)) * np.geomspace(1, .2, D, dtype=np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def inertia(x, label):
    "KMeans' objective of an assignment: squared distances to the clusters' means."
    count = np.bincount(label, minlength=K)
    total = np.zeros((K, x.shape[1]))
    np.add.at(total, label, x)
    return len(x) - ((total**2).sum(1) / np.maximum(count, 1)).sum()


def test_spherical_kmeans_of_a_million_directions(benchmark, directions):
    start = time.perf_counter()
    theirs = KMeans(K, n_init=1, random_state=0).fit(directions)
    slow = time.perf_counter() - start
    def ours():
        centres = spherical_kmeans(directions, K, iterations=20, init="sample", points=512)      # half of a million for 1,024 centres
        return centres, assign(directions, centres)
    centres, (cos, label) = benchmark.pedantic(ours, rounds=1)
    unit = theirs.cluster_centers_ / np.linalg.norm(theirs.cluster_centers_, axis=1, keepdims=True)
    rival = float(assign(directions, unit)[0].mean())
    share = benchmark.stats.stats.min / slow
    benchmark.extra_info.update(directions=N, dim=D, centres=K, kmeans_seconds=round(slow, 1), kmeans_iterations=int(theirs.n_iter_), share_of_its_time=round(share, 3),
                                mean_cosine=round(float(cos.mean()), 5), kmeans_mean_cosine=round(rival, 5), inertia_ratio=round(inertia(directions, label) / theirs.inertia_, 5))
    assert inertia(directions, label) < 1.01 * theirs.inertia_
    assert cos.mean() > .99 * rival
    assert share < .2
