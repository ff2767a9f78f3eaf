"The command line from outside: exit codes, JSON, one-line errors. Slips and flows of a newcomer stand in tests/newcomer."
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

PROGRAM = Path(sys.executable).with_name("audioengram")


@pytest.fixture
def call(capsys):
    "The command line in this process: what a shell would see of it."
    from audioengram.cli import main
    def call(*args):
        capsys.readouterr()
        try: main([str(a) for a in args]); code = 0
        except SystemExit as e: code = e.code or 0
        told = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=told.out, stderr=told.err)
    return call


def test_help_teaches():
    r = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, env=os.environ | {"COLUMNS": "120"})
    assert r.returncode == 0 and all(word in r.stdout for word in ("doctor", "reproduce", "corpus", "latents", "codec", "run", "runs", "report", "site"))


def test_every_command_has_help_and_the_version_is_told(call):
    from typer.main import get_command

    from audioengram import __version__
    from audioengram.cli import app
    def walk(command, words):
        for name, sub in sorted(getattr(command, "commands", {}).items()):
            r = call(*words, name, "--help")
            assert r.returncode == 0 and sub.help and r.stdout.strip(), (words, name)
            walk(sub, [*words, name])
    walk(get_command(app), [])
    assert call("--version").stdout.strip() == f"audioengram {__version__}"


def test_doctor_is_json_and_names_a_remedy_for_all_that_is_missing(call):
    r = call("doctor", "--json")
    assert r.returncode == 0, r.stderr
    found = json.loads(r.stdout)
    assert {"debian-speech", "librispeech", "folder", "synthetic"} <= {c["name"] for c in found["corpora"]}
    assert {"nano", "mimi", "mimi-vae", "lyra"} <= {c["name"] for c in found["codecs"]}
    assert all(c["why"] for c in found["codecs"] if not c["usable"])


def test_encode_and_show_a_store(tmp_path, call):
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
    (("run", "d00_structure", "--profile", "huge"), "smoke, quick, thorough, full"),
    (("codec", "train", "--config", "nowhere.toml"), "no such configuration"),
    (("codec", "train", "debian-speech", "librispeech", "--root", "somewhere"), "2 are named"),
    (("latents", "show", "not/there"), "not/there"),
])
def test_mistakes_are_one_sentence(args, says, call):
    r = call(*args)
    assert r.returncode == 1 and says in r.stderr and "Traceback" not in r.stderr, r.stderr


def test_what_was_not_expected_keeps_its_traceback(call, monkeypatch):
    import audioengram.codecs
    def broken(*_, **__): raise RuntimeError("a bug")
    monkeypatch.setattr(audioengram.codecs, "codec_status", broken)
    with pytest.raises(RuntimeError, match="a bug"): call("codec", "list")


def test_names_with_brackets_are_shown_whole(tmp_path, call):
    import numpy as np
    import soundfile as sf
    (tmp_path / "rec [x]").mkdir()
    sf.write(tmp_path / "rec [x]" / "Interview [id].wav", .1 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    r = call("corpus", "show", "folder", "--root", str(tmp_path))
    assert r.returncode == 0 and "[id]" in re.sub(r"[\s│]", "", r.stdout)
