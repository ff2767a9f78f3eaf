"The command line from outside: exit codes, JSON, one-line errors."
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).with_name("audioengram")


def call(*args, **env):
    return subprocess.run([PROGRAM, *map(str, args)], capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1", **env})


def test_help_teaches():
    r = call("--help")
    assert r.returncode == 0 and all(word in r.stdout for word in ("doctor", "reproduce", "corpus", "latents", "codec", "run", "site"))


def test_doctor_is_json_and_names_a_remedy_for_all_that_is_missing():
    r = call("doctor", "--json")
    assert r.returncode == 0, r.stderr
    found = json.loads(r.stdout)
    assert {"debian-speech", "librispeech", "folder", "synthetic"} <= {c["name"] for c in found["corpora"]}
    assert {"nano", "mimi", "mimi-vae", "lyra"} <= {c["name"] for c in found["codecs"]}
    assert all(c["why"] for c in found["codecs"] if not c["usable"])


def test_encode_and_show_a_store(tmp_path):
    out = tmp_path / "store"
    r = call("latents", "encode", "synthetic", "nano", "--out", out, "--workers", 1)
    assert r.returncode == 0, r.stderr
    assert call("latents", "show", out, "--check").returncode == 0
    victim = max((p for p in out.rglob("*") if p.is_file() and "zarr" in str(p.relative_to(out)) or p.suffix == ""), key=lambda p: p.stat().st_size if p.is_file() else 0)
    data = bytearray(victim.read_bytes()); data[len(data) // 2] ^= 0xFF; victim.write_bytes(data)
    r = call("latents", "show", out, "--check")
    assert r.returncode == 1 and "StoreError" in r.stderr and "Traceback" not in r.stderr


@pytest.mark.parametrize("args, says", [
    (("run", "d99_nothing"), "d99_nothing"),
    (("run", "d00_structure", "-p", "no_such=1"), "no_such"),
    (("run", "d00_structure", "--profile", "huge"), "smoke, quick, full"),
    (("latents", "encode", "synthetic", "nanoo"), "nanoo"),
    (("codec", "train", "--config", "nowhere.toml"), "no such configuration"),
    (("codec", "train", "debian-speech", "librispeech", "--root", "somewhere"), "2 are named"),
    (("corpus", "show", "no-corpus"), "no-corpus"),
    (("latents", "show", "not/there"), "not/there"),
])
def test_mistakes_are_one_sentence(args, says, tmp_path):
    r = call(*args)
    assert r.returncode == 1 and says in r.stderr and "Traceback" not in r.stderr, r.stderr


def test_an_absent_device_is_said_before_anything_runs():
    r = call("run", "d31", "--device", "cuda:7", "--profile", "smoke")
    assert r.returncode == 1 and "is not available" in r.stderr and "Traceback" not in r.stderr


def test_names_with_brackets_are_shown_whole(tmp_path):
    import numpy as np
    import soundfile as sf
    (tmp_path / "rec [x]").mkdir()
    sf.write(tmp_path / "rec [x]" / "Interview [id].wav", .1 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    r = call("corpus", "show", "folder", "--root", str(tmp_path))
    assert r.returncode == 0 and "[id]" in re.sub(r"[\s│]", "", r.stdout)
