"""A sequence model of two million parameters: what a frame costs, times real time, cached against reading again.

    pytest benchmarks/bench_sequence.py --benchmark-columns=median,ops

Weights are random, which changes no cost. All forms draw with one thread in one session; ratios
are of processor time, which other programs on the machine do not change, and they are asserted.
"""
import time
from dataclasses import replace

import pytest
import torch

from audioengram.dynamics.generate import continue_latents
from audioengram.dynamics.sequence import SEQUENCE_HEADS, SequenceModel
from audioengram.dynamics.sequence_train import RECIPES

RATE = 12.5   # frames a second of nano


@pytest.fixture(autouse=True)
def one_thread():
    was = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(was)


def model(head="mixture"):
    config = replace(RECIPES["shipped"].model, head=head)
    frames = torch.randn(2000, config.dim, generator=torch.Generator().manual_seed(0))
    return SequenceModel(config).set_units(frames, {"voice": torch.randn(50, 2 * config.dim)}).eval()


@torch.inference_mode()
def naive(net, prompt, frames):
    "The obvious form: read all that was said for every new frame."
    z = prompt
    for _ in range(frames):
        h = net.read(torch.cat([torch.zeros_like(z[:, :1]), z], 1))[:, -1]
        z = torch.cat([z, net.outer(net.head.sample(h)[0])[:, None]], 1)
    return z


def seconds(f, *args):
    t = time.process_time()
    f(*args)
    return time.process_time() - t


@pytest.mark.parametrize("head", SEQUENCE_HEADS)
def test_ten_seconds(benchmark, head):
    benchmark.pedantic(continue_latents, (model(head), torch.randn(1, 25, 64), 125), rounds=3, warmup_rounds=1)


def test_cached_is_faster_than_reading_again(capsys):
    net, prompt = model(), torch.randn(1, 25, 64)
    continue_latents(net, prompt, 5)
    fast, slow = (min(seconds(f, net, prompt, 250) for _ in range(2)) for f in (continue_latents, naive))
    with capsys.disabled(): print(f"\n20 s: {fast:.2f} s cached, {slow:.2f} s reading again: {slow / fast:.1f}x")
    assert slow > 2 * fast


@torch.inference_mode()
def test_the_thousandth_frame_costs_what_the_first_did(capsys):
    net, x = model(), torch.randn(1, 64)
    run, spent = net.begin(), []
    for t in range(1000):
        began = time.process_time()
        h = net.step(run, x if t else None)
        x = net.outer(net.head.sample(h)[0])
        spent.append(time.process_time() - began)
    # the context is full
    early, late = (torch.tensor(spent[i]).median().item() for i in (slice(150, 250), slice(900, 1000)))
    with capsys.disabled(): print(f"\na frame: {1000 * early:.2f} ms at 200, {1000 * late:.2f} ms at 950")
    assert late < 1.25 * early


@pytest.mark.parametrize("head", ["mixture", "factored"])
def test_ten_times_real_time_on_one_core(head, capsys):
    net, prompt = model(head), torch.randn(1, 25, 64)
    continue_latents(net, prompt, 5)
    times = 250 / RATE / min(seconds(continue_latents, net, prompt, 250) for _ in range(2))
    with capsys.disabled(): print(f"\n{head}: {net.n_parameters / 1e6:.1f} M parameters, {times:.0f} times real time")
    assert times > 10
