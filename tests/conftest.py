"Fixtures shared by all tests: a cache of their own, and the optional development data beside the repository."
import json
import os
import sys
from pathlib import Path

import pytest
from worlds import common, smoke_run

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")    # a test that reaches for the hub fails at once
os.environ.setdefault("NO_TORCH_COMPILE", "1")


@pytest.fixture(scope="session")
def root() -> Path:
    "The repository's root."
    return ROOT


def pytest_addoption(parser):
    parser.addoption("--canaries", action="store_true", help="write tests/canaries anew instead of comparing with them")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    "Tests never read or write the user's cache or results; workers share what they make."
    for name in ("cache", "runs"):
        place = common(tmp_path_factory) / name
        place.mkdir(exist_ok=True)
        os.environ[f"AUDIOENGRAM_{name.upper()}"] = str(place)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    "smoke(name): the smoke run of a discussion as a RunResult, one for all tests."
    return lambda name: smoke_run(name, common(tmp_path_factory) / "smoke")


def _shared(*parts) -> Path:
    base = Path(os.environ.get("AUDIOENGRAM_SHARED") or ROOT.parent / "shared")
    path = base.joinpath(*parts)
    if not path.exists(): pytest.skip(f"needs {'/'.join(parts) or 'the shared folder'} (set AUDIOENGRAM_SHARED)")
    return path


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    return _shared()


@pytest.fixture(scope="session")
def librispeech_root() -> Path:
    return _shared("data", "LibriSpeech")


@pytest.fixture(scope="session")
def lyra_dir() -> Path:
    return _shared("data", "lyra", "model_coeffs")


TRACKIO = '''
import json, os
HERE = os.path.join(os.path.dirname(__file__), "said.jsonl")
def say(*what):
    with open(HERE, "a") as f: f.write(json.dumps(what) + "\\n")
def init(project, name=None, config=None, resume="never", embed=True):
    say("init", project, name, config, [k for k in os.environ if k in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")])
def log(metrics, step=None): say("log", step, metrics)
def finish(): say("finish")
'''


@pytest.fixture
def trackio(tmp_path, monkeypatch):
    "A stand-in for the package, and what it was told."
    (tmp_path / "site" / "trackio").mkdir(parents=True)
    (tmp_path / "site" / "trackio" / "__init__.py").write_text(TRACKIO)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    yield lambda: [json.loads(line) for line in (tmp_path / "site/trackio/said.jsonl").read_text().splitlines()]
    sys.modules.pop("trackio", None)
