"""Soft retrieval of the eight nearest of 2,048 cluster centres and of every training frame, against a full sort of all distances (which come from a matrix product there too).

    pytest benchmarks/bench_memory.py --benchmark-only

The naive form runs in the same session on a part of the queries; `times_naive` is how much longer it would take.
"""
import time

import pytest
import torch

from audioengram.dynamics.memory import Memory, cluster_statistics

D = 128


def naive(m, q):
    "Weights over the eight nearest, by sorting everything."
    d = torch.cdist(q, m.keys, compute_mode="use_mm_for_euclid_dist").square()
    order = d.argsort(1)[:, :8]
    w = (-d.gather(1, order) / m.tau).softmax(1)
    return (w[..., None] * m.mean[order]).sum(1)


@pytest.mark.parametrize("keys, kind", [(2048, "auto"), (2048, "faiss"), (40_000, "exact"), (40_000, "auto"), (40_000, "ivf")])
def test_soft_top_8(benchmark, keys, kind):
    g = torch.Generator().manual_seed(0)
    m = Memory(D, keys, 8, kind)
    m.keys.copy_(torch.randn(keys, D, generator=g)); m.mean.copy_(torch.randn(keys, D, generator=g)); m.tau.fill_(50.)
    q, few = torch.randn(2048, D, generator=g), 512
    m(q[:8])                                                    # the index is built when first asked for
    ours, _ = benchmark.pedantic(lambda: m(q), rounds=3, warmup_rounds=1)
    start = time.perf_counter(); want = naive(m, q[:few]); slow = (time.perf_counter() - start) * len(q) / few
    if kind != "ivf": assert torch.allclose(ours[:few], want, atol=1e-3)
    benchmark.extra_info.update(naive_seconds=round(slow, 2), times_naive=round(slow / benchmark.stats.stats.min, 1), queries_a_second=round(len(q) / benchmark.stats.stats.min))
    assert slow > 5 * benchmark.stats.stats.min or kind not in ("auto", "ivf")


def test_cluster_statistics(benchmark):
    "Moments of 200,000 steps in 2,048 clusters, against a loop over clusters."
    g = torch.Generator().manual_seed(0)
    x, label = torch.randn(200_000, D, generator=g), torch.randint(2048, (200_000,), generator=g)
    mean, *_ = benchmark.pedantic(lambda: cluster_statistics(x, label, 2048, 0), rounds=3, warmup_rounds=1)
    start = time.perf_counter()
    want = torch.stack([x[label == k].mean(0) for k in range(128)])
    slow = (time.perf_counter() - start) * 16
    assert torch.allclose(mean[:128], want, atol=1e-4)
    benchmark.extra_info.update(naive_seconds=round(slow, 2), times_naive=round(slow / benchmark.stats.stats.min, 1))
    assert slow > benchmark.stats.stats.min
