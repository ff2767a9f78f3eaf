"""Rolling out and training on rollouts, against the matrix products that they cannot do without and against the obvious loops.

    pytest benchmarks/bench_rollout.py --benchmark-only

Ratios are of medians in the same run; `times_products` is the time over that of the bare matrix products of the same model, `times_naive` how much longer the naive form takes.
"""
import time

import pytest
import torch

from audioengram.dynamics.predictor import Predictor
from audioengram.dynamics.rollout import rollout
from audioengram.dynamics.unroll import Unroll, unrolled_loss
from audioengram.measure.trajectories import energy_score

B, M, S, D, W, H = 256, 64, 16, 128, 8, 512


class Contexts:
    "Random windows, enough to set a model's units."
    def __len__(self): return 2000
    def contexts(self, i): return torch.randn(len(i), W, D, generator=torch.Generator().manual_seed(0))
    def targets(self, i): return torch.randn(len(i), D, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model():
    torch.set_flush_denormal(True)
    return Predictor(D, W, encoder="mlp", head="mixture", components=8, hidden=H, layers=2).set_units(Contexts()).eval()


def weights(model): return [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear)]


def products(model, rows, block, steps=1):
    "The matrix products of `steps` forward passes over `rows` rows, `block` at a time as the engine does, into memory that is there already."
    w = weights(model)
    x, out = [torch.randn(block, v.shape[1]) for v in w], [torch.empty(block, v.shape[0]) for v in w]
    def run():
        with torch.inference_mode():
            for _ in range(steps * (rows // block)):
                for a, v, y in zip(x, w, out, strict=True): torch.mm(a, v.T, out=y)
    return run


def seconds(f, rounds=3):
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter(); f(); best = min(best, time.perf_counter() - start)
    return best


def test_particles(benchmark, model):
    "64 particles x 256 segments x 16 steps of a 2 x 512 MLP with 8 components on 128 dimensions."
    c = torch.randn(B, W, D)
    benchmark.pedantic(lambda: rollout(model, c, S, M), rounds=2, warmup_rounds=0)
    bare = seconds(products(model, B * M, 2048), 2) * S
    ratio = benchmark.stats.stats.min / bare
    benchmark.extra_info.update(rows=B * M, steps=S, product_seconds=round(bare, 2), times_products=round(ratio, 2), frames_a_second=round(B * M * S / benchmark.stats.stats.min))
    assert ratio < 1.5


def test_particles_against_a_loop_over_segments(benchmark, model):
    "The obvious form: one segment and particle at a time, a new window every step (1/64 of the work is timed)."
    c = torch.randn(32, W, D)
    def naive():
        for b in range(4):
            for _ in range(8):
                window = c[b:b + 1]
                for _ in range(S):
                    with torch.no_grad(): x = model(window).sample()
                    window = torch.cat([window[:, 1:], x[:, None]], 1)
    benchmark.pedantic(lambda: rollout(model, c, S, 8), rounds=3, warmup_rounds=1)
    slow = 8 * seconds(naive, 1)
    benchmark.extra_info.update(naive_seconds=round(slow, 2), times_naive=round(slow / benchmark.stats.stats.min, 1))
    assert slow > 5 * benchmark.stats.stats.min


def test_training_step(benchmark, model):
    "K = 16 unrolled steps of 128 stretches, scheduled sampling, teacher, state and rollout weights: at the bound of its matrix products forward and backward (three times the forward ones)."
    z = torch.randn(128, W + 16, D)
    plan = Unroll(16, mode="mean", particles=1, teacher=1., state=1., rollout=1.)
    model.train()
    def step():
        model.zero_grad(set_to_none=True)
        unrolled_loss(model, z[:, :W], z[:, W:], plan, truth_rate=.25).mean().backward()
    benchmark.pedantic(step, rounds=3, warmup_rounds=1)
    bare = 3 * seconds(products(model, 128, 128, 16))
    def naive():   # earlier work's loop: one utterance at a time, a list of frames stacked anew at every step
        model.zero_grad(set_to_none=True)
        loss = 0.
        for b in range(8):
            frames = list(z[b, :W])
            for s in range(16):
                dist = model(torch.stack(frames[-W:])[None])
                x = dist.mean[0]
                loss = loss - dist.log_prob(z[b:b + 1, W + s]).sum() + (x - z[b, W + s]).square().mean()
                frames.append(z[b, W + s] if torch.rand(()) < .25 else x)
        loss.backward()
    slow = 16 * seconds(naive, 1)
    model.eval()
    took = benchmark.stats.stats.min
    benchmark.extra_info.update(product_seconds=round(bare, 3), times_products=round(took / bare, 2), naive_seconds=round(slow, 2), times_naive=round(slow / took, 1))
    assert slow > 5 * took


def test_energy_score(benchmark):
    "64 particles: all pairs through a matrix product, against differences (1/16 of the work is timed)."
    x, y = torch.randn(1024, 64, D), torch.randn(1024, D)
    def naive():
        a = x[:64] - y[:64, None]
        return a.norm(dim=-1).mean(-1) - (a[:, :, None] - a[:, None]).norm(dim=-1).sum((1, 2)) / (2 * 64 * 63)
    ours = benchmark.pedantic(lambda: energy_score(x, y), rounds=3, warmup_rounds=1)
    assert torch.allclose(ours[:64], naive(), atol=1e-3)
    slow = 16 * seconds(naive, 1)
    benchmark.extra_info.update(naive_seconds=round(slow, 2), times_naive=round(slow / benchmark.stats.stats.min, 1))
    assert slow > 3 * benchmark.stats.stats.min
