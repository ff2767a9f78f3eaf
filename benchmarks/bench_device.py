"""What a device makes of the project: training windows, rollout frames and encoded sound a second, each beside the bare matrix products of the
same model on the same device, and as a share of the best matrix product that the device does.

    pytest benchmarks/bench_device.py -s -p no:xdist                                # on the GPU where there is one
    AUDIOENGRAM_DEVICE=cpu AUDIOENGRAM_BENCH=small pytest benchmarks/bench_device.py -s

`peak_share` is the number to raise: operations of the model's products that are done, over those that the device can do in the same time.
"""
import os
import time

import pytest
import torch

from audioengram.core import pick_dtype
from audioengram.data.memory_store import MemoryStore
from audioengram.devices import working_device
from audioengram.dynamics.predictor import Predictor, train
from audioengram.dynamics.rollout import rollout

SMALL = os.environ.get("AUDIOENGRAM_BENCH") == "small"
DEVICE = working_device()
D, W, H, K = (16, 4, 32, 2) if SMALL else (512, 8, 512, 8)       # Mimi's latents, and the predictor of the full profile
BATCHES = (64,) if SMALL else (512, 4096, 16_384)
M, STEPS = (8, 4) if SMALL else (64, 16)                         # particles and steps of a rollout


def wait():
    if DEVICE.type == "cuda": torch.cuda.synchronize()


def seconds(f, rounds=3) -> float:
    "The best of some rounds after one that warms up."
    f(); wait()
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter(); f(); wait()
        best = min(best, time.perf_counter() - began)
    return best


@pytest.fixture(scope="module")
def peak() -> float:
    "Operations a second of the best square matrix product, in the kind of number that training uses."
    n, kind = (256 if SMALL else 8192 if DEVICE.type == "cuda" else 1024), pick_dtype(DEVICE)
    a, b = (torch.ones(n, n, device=DEVICE, dtype=kind) for _ in range(2))
    found = 2 * n**3 / seconds(lambda: a @ b)
    print(f"\n{DEVICE}: {found / 1e12:.2f} Tops/s in {kind}")
    return found


def products(model, rows: int) -> float:
    "Seconds of one pass through the matrix products of a model."
    kind = pick_dtype(DEVICE)
    pairs = [(torch.ones(rows, w.shape[1], device=DEVICE, dtype=kind), w.detach().to(kind).T)
             for w in (m.weight for m in model.modules() if isinstance(m, torch.nn.Linear))]
    return seconds(lambda: [x @ w for x, w in pairs])


def predictor() -> Predictor: return Predictor(D, W, "mlp", "mixture", hidden=H, layers=2, components=K, covariance="semi-tied")


def windows(n: int):
    z = torch.randn(20, n // 20 + W, D, generator=torch.Generator().manual_seed(0)).cumsum(1) * .1
    return MemoryStore.of(list(z)).windows(length=W)


def tell(benchmark, name, **facts):
    benchmark.extra_info.update(device=str(DEVICE), **facts)
    print(f"\n{name} on {DEVICE}: " + ", ".join(f"{k} {v:,.4g}" for k, v in facts.items()))


@pytest.mark.parametrize("batch", BATCHES)
def test_training(benchmark, peak, batch):
    "One epoch of the project's own trainer, validation left out as far as it can be."
    data, few, model, steps = windows(batch * (4 if SMALL else 40)), windows(20 * W), predictor(), []
    def epoch(): steps.append(train(model, data, few, epochs=1, batch_size=batch, progress=False, device=DEVICE, units=not steps).seconds.iloc[1])
    benchmark.pedantic(epoch, rounds=2, warmup_rounds=1)
    rate = len(data) // batch * batch / min(steps[1:])
    bare = 3 * products(model, batch) / batch                    # forwards, and twice as much backwards
    tell(benchmark, f"training, batches of {batch}", windows_a_second=rate, times_products=1 / rate / bare, peak_share=6 * model.flops * rate / peak)


def test_rollout(benchmark, peak):
    "Particles drawn frame by frame."
    model, contexts = predictor().to(DEVICE).set_units(windows(4000)).eval(), torch.randn(4 if SMALL else 256, W, D, device=DEVICE)
    def run(): rollout(model, contexts, STEPS, M, seed=0); wait()
    benchmark.pedantic(run, rounds=2, warmup_rounds=1)
    frames = len(contexts) * M * STEPS
    rate = frames / benchmark.stats.stats.min
    bare = STEPS * products(model, len(contexts) * M) / frames
    tell(benchmark, "rollout", frames_a_second=rate, times_products=1 / rate / bare, peak_share=2 * model.flops * rate / peak)


@pytest.mark.parametrize("name", ["nano", "mimi"])
def test_encoding(benchmark, peak, name):
    "A batch of recordings; Mimi has random weights, which cost what its own do."
    if name == "mimi": pytest.importorskip("moshi", reason="needs the extra mimi")
    from torch.utils.flop_counter import FlopCounterMode

    from audioengram.codecs import get_codec
    codec = get_codec(name, **(dict(weights="random") if name == "mimi" else {})).to(DEVICE)
    rows, length = (1, 2) if SMALL else (16, 30)
    wav = torch.randn(rows, length * codec.sample_rate, generator=torch.Generator().manual_seed(0)) * .1
    with FlopCounterMode(display=False) as count: codec.encode(wav[:1])
    def run(): codec.encode(wav); wait()
    benchmark.pedantic(run, rounds=2, warmup_rounds=1)
    rate = rows * length / benchmark.stats.stats.min
    tell(benchmark, f"encoding with {name}", times_real_time=rate, peak_share=count.get_total_flops() / length * rate / peak)
