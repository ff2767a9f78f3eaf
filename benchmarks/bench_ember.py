"""The ear, its neurons and the training of towers: times real time on one core, and compiled or parallel spikes beside the step loops.

    OMP_NUM_THREADS=1 pytest benchmarks/bench_ember.py --benchmark-only

Ratios are taken in the same run.
"""
import time

import pytest
import scipy.signal
import torch

from audioengram.discussions.d32_sensing import Recipe
from audioengram.ember.cochlea import Cochlea, leaky_scan
from audioengram.ember.coincidence import TOKEN, coincidences, how_many
from audioengram.ember.jepa import beside, bin_spikes
from audioengram.ember.learning import learner, train_rule
from audioengram.ember.spikes import SpikingEncoder, lif, lif_compiled, lif_scan, lif_steps
from audioengram.ember.towers import BIN


@pytest.fixture(autouse=True, scope="module")
def one_core():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def best(f, rounds=3):
    "Shortest of a few calls, s; one call before them does not count."
    f()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter(); f(); seconds.append(time.perf_counter() - start)
    return min(seconds)


@pytest.mark.benchmark(timer=time.process_time)     # on one core: what others take of it does not count
@pytest.mark.parametrize("adaptation", [0., .6])
def test_ear_beside_real_time(benchmark, adaptation):
    ear, wav = Cochlea(32, adaptation=adaptation), torch.randn(1, 160_000) * .1
    benchmark.pedantic(lambda: ear(wav), rounds=9, warmup_rounds=1)
    benchmark.extra_info["times real time"] = round(10 / benchmark.stats.stats.min, 1)
    assert 10 / benchmark.stats.stats.min >= 50


def test_filters_beside_slaneys_recursion(benchmark):
    "FFT or IIR, whichever is faster: SciPy's recursive filters on the same wave."
    ear, wav = Cochlea(32), torch.randn(1, 160_000) * .1
    design, x = [scipy.signal.gammatone(hz, "iir", fs=16_000) for hz in ear.hz], wav[0].double().numpy()
    reference = best(lambda: [scipy.signal.lfilter(b, a, x) for b, a in design])
    benchmark.pedantic(lambda: ear.filter(wav), rounds=5, warmup_rounds=1)
    benchmark.extra_info["times faster than the recursion"] = round(reference / benchmark.stats.stats.min, 2)
    assert reference > benchmark.stats.stats.min


def currents(batch=4): return torch.rand(batch, 32, 1000, generator=torch.Generator().manual_seed(0)) * .3, torch.full((32,), .88), torch.zeros(batch, 32)


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_spikes_beside_the_step_loops(benchmark, batch):
    snntorch = pytest.importorskip("snntorch")
    x, decay, rest = currents(batch)
    neuron = snntorch.Leaky(beta=.88)
    def theirs():
        mem, out = rest, []
        with torch.no_grad():
            for t in range(1000):
                s, mem = neuron(x[..., t], mem)
                out.append(s)
        return torch.stack(out, -1)
    assert torch.equal(theirs(), lif_compiled(x, decay, 1., rest)[0])
    loops = dict(snntorch=best(theirs, 2), steps=best(lambda: lif_steps(x, decay, 1., rest), 2), scan=best(lambda: lif_scan(x, decay, 1., rest), 2))
    benchmark.pedantic(lambda: lif_compiled(x, decay, 1., rest), rounds=10, warmup_rounds=1)
    benchmark.extra_info.update({f"times faster than {k}": round(v / benchmark.stats.stats.min, 1) for k, v in loops.items()})
    assert loops["steps"] >= 10 * benchmark.stats.stats.min


def test_gradients_beside_backpropagation_through_the_loop(benchmark):
    snntorch = pytest.importorskip("snntorch")
    x, decay, rest = currents()
    neuron = snntorch.Leaky(beta=.88, spike_grad=snntorch.surrogate.fast_sigmoid(slope=25))
    def theirs():
        y, mem, total = x.clone().requires_grad_(), rest, 0
        for t in range(1000):
            s, mem = neuron(y[..., t], mem)
            total = total + s.sum()
        total.backward()
    def ours():
        y = x.clone().requires_grad_()
        lif(y, decay)[0].sum().backward()
    reference = best(theirs, 1)
    benchmark.pedantic(ours, rounds=5, warmup_rounds=1)
    benchmark.extra_info["times faster than snntorch"] = round(reference / benchmark.stats.stats.min, 1)
    assert reference >= 10 * benchmark.stats.stats.min


def test_leaky_scan_beside_scipy(benchmark):
    x = torch.rand(4, 32, 16_000)
    reference = best(lambda: scipy.signal.lfilter([1], [1, -.999], x.numpy(), axis=-1))
    benchmark.pedantic(lambda: leaky_scan(x, .999), rounds=5, warmup_rounds=1)
    benchmark.extra_info["times SciPy's lfilter"] = round(benchmark.stats.stats.min / reference, 2)


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("rule", ["jepa", "spikes", "contrast"])
def test_training_beside_real_time(benchmark, rule):
    "From the wave on, with the long tower of the page about sensing: ear, spikes, coincidences and one update on 32 half seconds."
    how = Recipe.of("quick")
    heard = lambda s: beside(bin_spikes(s, BIN), coincidences(s, s).sqrt(), TOKEN // BIN)
    ear, encoder = Cochlea(how.channels), SpikingEncoder(how.channels)
    wavs = torch.randn(32, 8000) * .05
    encoder.calibrate(ear(wavs[:8]), float(how.lead_rate), steps=25)
    model = learner(rule, 0, **how.long_tower, channels=how.channels, patch=TOKEN // BIN, side=how_many())
    benchmark.pedantic(lambda: train_rule(model, heard(encoder(ear(wavs))[0].detach()), 1, every=2), rounds=5, warmup_rounds=1)
    benchmark.extra_info["times real time"] = round(16 / benchmark.stats.stats.min, 1)
    assert 16 / benchmark.stats.stats.min >= 20
