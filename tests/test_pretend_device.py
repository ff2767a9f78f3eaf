"The device rule without a GPU: what trains, scores, rolls out or encodes runs under a device with CUDA's rules."
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from worlds import common

HERE = Path(__file__).resolve().parent
DISCUSSIONS = sorted(p.stem for p in (HERE.parent / "nbs" / "discussions").glob("d*.ipynb"))
PREDICT = {f"d{n}" for n in ("01", "03", "04", "05", "06", "07", "10")}   # train predictors; others are slow

NO_COMPILER = shutil.which(os.environ.get("CXX", "g++")) is None
pytestmark = pytest.mark.skipif(NO_COMPILER, reason="the pretend device needs a C++ compiler")


def under_device(*argv, **environment):
    "Run a file of tests/pretend, or a module, in a process that believes in the device."
    where = os.pathsep.join(map(str, (HERE.parent, HERE / "pretend", HERE)))
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    env = kept | dict(PYTHONPATH=where, OMP_NUM_THREADS="1") | environment
    command = [sys.executable, HERE / "pretend" / "pretend_cuda.py", *argv]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=HERE.parent)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


def checked(*argv): return under_device("-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "no:xdist", *argv)


def test_the_device_itself_then_heads_encoders_and_trainers():
    assert " passed" in checked(*(HERE / "pretend" / f"{what}.py" for what in ("rules", "parts", "trainers")))


def test_what_is_marked_gpu_runs_under_the_device():
    "Codecs with random weights, a step of nano's trainer, windows."
    files = [HERE / f"test_{name}.py" for name in ("codecs_contract", "codecs_nano_train", "data_latents")]
    assert " passed" in checked("-m", "gpu", *files)


@pytest.mark.slow
def test_the_benchmark_of_devices_is_ready():
    "On a GPU it is one command; here its three rates come out of a device that is none, so only that they do is looked at."
    said = under_device("-m", "pytest", "-s", "-p", "no:cacheprovider", "-p", "no:xdist", HERE.parent / "benchmarks" / "bench_device.py",
                        AUDIOENGRAM_BENCH="small", AUDIOENGRAM_DEVICE="cuda")
    for line in ("training, batches of 64", "rollout", "encoding with nano", "encoding with mimi"): assert f"{line} on cuda: " in said
    assert said.count("peak_share") == 4 and "windows_a_second" in said


CASES = [pytest.param(n, marks=[] if n[:3] in PREDICT else pytest.mark.slow) for n in DISCUSSIONS]

@pytest.mark.parametrize("name", CASES)
def test_smoke_run_on_the_device(name, tmp_path, tmp_path_factory):
    cache = common(tmp_path_factory) / "pretend-cache"      # latents and models made on the device
    said = under_device(HERE / "pretend" / "discussion.py", name, tmp_path / name, AUDIOENGRAM_CACHE=str(cache))
    used = int(said.split()[-2])
    assert used > 100 or name == "d90_codec_card", "nothing ran on the device"      # the card times codecs on one core
