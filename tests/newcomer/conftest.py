"What a newcomer has: five recordings of two speakers, and a shell."
import os
import time
from types import SimpleNamespace

import numpy as np
import pytest


def record(folder, files: dict):
    "Write recordings: path below the folder -> (seconds, seed, pitch in Hz)."
    from audioengram.data.audio import save_audio
    from audioengram.data.voices import synthesise
    for name, (seconds, seed, pitch) in files.items(): save_audio(folder / name, synthesise(seconds, seed, pitch), 16_000)
    return folder


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    "Five recordings of two speakers, with a blank and a # in the folder's name."
    women, men = ({f"{who}/{i}.wav": (8., 10 * pitch + i, pitch) for i in range(n)} for who, n, pitch in (("anna", 3, 210), ("ben", 2, 110)))
    return record(tmp_path_factory.mktemp("my recordings #1"), women | men)


@pytest.fixture(scope="session")
def home(tmp_path_factory, recordings):
    "Files of a newcomer's: a recording, its latents, and some that are not what their names say."
    home = tmp_path_factory.mktemp("home")
    record(home, {"a.wav": (4., 1, 120)})
    (home / "empty").mkdir()
    record(home / "alone", {f"anna/{i}.wav": (2., i, 200) for i in range(3)})
    np.save(home / "z.npy", np.random.default_rng(0).normal(size=(400, 64)))
    np.save(home / "flat.npy", np.zeros(7))
    (home / "pickle.pt").write_bytes(b"\x80\x04.")
    (home / "text.npy").write_text("buy milk")
    return home


@pytest.fixture
def shell(capsys, home, monkeypatch):
    "shell('codec', 'list'): exit code, what is said and the processor's time; words are taken as they stand."
    from audioengram.cli import main
    monkeypatch.chdir(home)
    monkeypatch.setenv("AUDIOENGRAM_RUNS", str(home / "runs"))
    before = dict(os.environ)
    def shell(*words):
        capsys.readouterr()
        began = time.process_time()
        try: main([str(w) for w in words]); code = 0
        except SystemExit as e: code = e.code or 0
        told = capsys.readouterr()
        return SimpleNamespace(code=code, out=told.out, err=told.err, seconds=time.process_time() - began)
    yield shell
    for name in set(os.environ) - set(before): del os.environ[name]
