"""How many times faster than real time each codec encodes and decodes on one core: ten seconds of sound a round, one thread, processor time,
so that whatever else the machine does is not counted."""
import os
import time
from pathlib import Path

import pytest
import torch

from audioengram.codecs import get_codec
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
