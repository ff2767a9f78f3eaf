"""How many times faster than real time each codec encodes and decodes on one core, whole and in pieces of 80 ms: ten seconds of sound a round, one thread, processor time,
so that whatever else the machine does is not counted; and phases from peaks against a loop over frames and bins."""
import math
import os
import time
from pathlib import Path

import pytest
import torch

from audioengram.codecs import get_codec
from audioengram.codecs.nano import BINS, FAINT, HOP, WINDOW, peak_phase
from audioengram.core import AudioengramError

pytestmark = pytest.mark.benchmark(timer=time.process_time)
SECONDS = 10
SHARED = Path(os.environ.get("AUDIOENGRAM_SHARED") or Path(__file__).resolve().parents[2] / "shared")
OPTIONS = {"mimi": {"weights": "random"}, "mimi-vae": {"weights": "random"}, "encodec": {"weights": "random"}, "lyra": {"weights_dir": SHARED / "data/lyra/model_coeffs"}}


@pytest.fixture(scope="module", params=["nano", "mimi", "mimi-vae", "encodec", "lyra"])
def codec(request):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try: yield get_codec(request.param, **OPTIONS.get(request.param, {}))
    except (AudioengramError, ImportError) as e: pytest.skip(str(e))
    finally: torch.set_num_threads(threads)


def timed(benchmark, codec, f):
    benchmark.group = "codecs: encode and decode, one thread"
    benchmark.pedantic(f, rounds=3, warmup_rounds=1)
    benchmark.extra_info |= {"codec": codec.name, "times_real_time": round(SECONDS / benchmark.stats["min"], 1)}
    print(f"\n{codec.name}: {SECONDS / benchmark.stats['min']:.0f}x real time")


@pytest.fixture(scope="module")
def wav(codec): return torch.randn(1, SECONDS * codec.sample_rate, generator=torch.Generator().manual_seed(0)) * .1


def test_encode(benchmark, codec, wav): timed(benchmark, codec, lambda: codec.encode(wav))


def test_decode(benchmark, codec, wav):
    z = codec.encode(wav)
    timed(benchmark, codec, lambda: codec.decode(z))


def streamed(push, finish, pieces):
    for p in pieces: push(p)
    finish()


def streaming(codec, half):
    "A half that has heard nothing."
    try: return getattr(codec.stream(), half)
    except AudioengramError as e: pytest.skip(str(e))


def test_encode_in_pieces(benchmark, codec, wav):
    pieces = wav[0].split(round(.08 * codec.sample_rate))

    def run():
        encoder = streaming(codec, "encoder")
        streamed(encoder.push, encoder.finish, pieces)
    timed(benchmark, codec, run)


def test_decode_in_pieces(benchmark, codec, wav):
    pieces = codec.encode(wav)[0].split(round(.08 * codec.frame_rate))

    def run():
        decoder = streaming(codec, "decoder")
        streamed(decoder.push, decoder.finish, pieces)
    timed(benchmark, codec, run)


def naive_phase(mag, table):
    "Peak phases of [F,241], one bin of one frame after the other."
    run, out = [0.] * BINS, table[:len(mag)].clone()
    for t, frame in enumerate((mag + FAINT * mag.amax(-1, keepdim=True) + 1e-6).log().tolist()):
        peaks = [k for k in range(1, BINS - 1) if frame[k] > max(frame[k - 1], frame[k + 1]) + 1e-3]
        if not peaks: continue
        for k in range(BINS):
            p = min(peaks, key=lambda p: (abs(p - k), p))
            a, b, c = frame[p - 1:p + 2]
            run[k] += 2 * math.pi * HOP / WINDOW * (p + min(.5, max(-.5, .5 * (a - c) / (a - 2 * b + c))))
        for k in range(BINS): out[t, k] = (run[min(peaks, key=lambda p: (abs(p - k), p))] - math.pi * k) % (2 * math.pi)
    return out


def test_phase_from_peaks(benchmark):
    benchmark.group = "phase from peaks, one second"
    g = torch.Generator().manual_seed(0)
    mag, table = torch.rand(100, BINS, generator=g).square(), torch.rand(100, BINS, generator=g)
    began = time.process_time()
    expected = naive_phase(mag, table)
    slow = time.process_time() - began
    found = benchmark.pedantic(lambda: peak_phase(mag[None], table)[0], rounds=10, warmup_rounds=1)
    assert (torch.polar(torch.ones_like(found), found) - torch.polar(torch.ones_like(expected), expected)).abs().max() < 1e-2
    benchmark.extra_info["times_naive"] = round(slow / benchmark.stats["min"], 1)
    print(f"\n{slow / benchmark.stats['min']:.0f} times faster than a loop over frames and bins")
