"The static metadata, the exact pins and the documented commands agree with one another."
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {canonicalize_name(r.name): r for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#") for r in [Requirement(line)]}


def test_pins_are_exact():
    assert all(len(r.specifier) == 1 and next(iter(r.specifier)).operator == "==" for r in PINS.values())


def test_every_requirement_is_pinned_and_its_pin_satisfies_it():
    from audioengram.errors import OUTSIDE
    extras = PROJECT["optional-dependencies"]
    assert set(OUTSIDE) < set(extras)
    wanted = list(PROJECT["dependencies"]) + [r for k, rs in extras.items() if k not in OUTSIDE for r in rs]
    for r in (r for r in map(Requirement, wanted) if r.name != PROJECT["name"]):     # an extra may name another one
        pin = PINS.get(canonicalize_name(r.name))
        assert pin is not None, f"{r.name} is required but not pinned in constraints.txt"
        assert r.specifier.contains(next(iter(pin.specifier)).version), f"{pin} does not satisfy {r}"


@pytest.mark.skipif("AUDIOENGRAM_CURRENT" in os.environ, reason="`make current` is the other environment")
def test_the_environment_is_the_pinned_one():
    import torch
    assert torch.__version__.split("+")[0] == next(iter(PINS["torch"].specifier)).version
    assert version("nbdev") == next(iter(PINS["nbdev"].specifier)).version


def test_settings_and_project_agree():
    ini = ConfigParser(interpolation=None); ini.read(ROOT / "settings.ini")
    s = ini["DEFAULT"]
    assert s["version"] == PROJECT["version"] and s["lib_name"] == PROJECT["name"] and s["description"] == PROJECT["description"]
    assert "tags" in s["allowed_cell_metadata_keys"].split(), "without it nbdev_clean strips papermill's parameters tag"


def test_both_jobs_of_the_workflow_are_make_targets():
    "CI runs what a contributor can run; the second job leaves the pins of torch and numpy, on every Python that is promised."
    jobs = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]
    runs = {name: [s["run"] for s in job["steps"] if "run" in s] for name, job in jobs.items()}
    assert "make test" in runs["test"] and "make current PYTHON=python" in runs["current"]
    assert jobs["current"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    names = re.search(r"^CURRENT \?= (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    assert {"torch", "numpy"} <= set(names) <= PINS.keys() and "make current" in (ROOT / "CONTRIBUTING.md").read_text()


def test_every_make_target_is_explained():
    text = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", text, re.M).group(1).split())
    assert phony == set(re.findall(r"^([a-z]+):.*## \S", text, re.M))
    readme = (ROOT / "README.md").read_text()
    assert "make reproduce" in readme and "make test" in readme


CORE = """
import importlib, importlib.abc, json, pkgutil, sys, time
barred = set(json.loads(sys.argv[1]))
class Barred(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in barred: raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Barred())
import torch
began = time.process_time()
import audioengram.core
core = time.process_time() - began
for room in ("heads", "codecs", "measure"):
    package = importlib.import_module(f"audioengram.{room}")
    for module in pkgutil.iter_modules(package.__path__): importlib.import_module(f"audioengram.{room}.{module.name}")
from audioengram.codecs import get_codec
from audioengram.measure.report import latent_report
for name in ("nano", "nano-linear", "mel"):
    codec = get_codec(name)
    assert codec.decode(codec.encode(.1 * torch.randn(1, 8000))).shape[1] >= 8000
print(json.dumps(dict(core=core, rows=len(latent_report([torch.randn(400, 4).numpy()], 12.5, n=50)))))
"""


def test_the_core_needs_no_extra():
    "Heads, codecs and measures import and work where not one package of an extra is installed; core adds little to torch."
    from audioengram.errors import PACKAGES
    barred = sorted({p for packages in PACKAGES.values() for p in packages} | {"numba", "llvmlite", "traitlets", "IPython", "einops"})
    r = subprocess.run([sys.executable, "-c", CORE, json.dumps(barred)], capture_output=True, text=True, cwd=ROOT)
    assert r.returncode == 0, r.stderr[-3000:]
    found = json.loads(r.stdout)
    assert found["core"] < .5 and found["rows"] > 8, found


def closure(wanted, extras=frozenset(), found=None) -> dict:
    "Names of distributions that requirements bring on this machine, and all that those bring, as far as they are installed."
    found = {} if found is None else found
    for r in (Requirement(w) for w in wanted):
        if r.marker and not any(r.marker.evaluate({"extra": e}) for e in extras or {""}): continue
        name = canonicalize_name(r.name)
        if name in found and r.extras <= found[name]: continue
        found[name] = found.get(name, frozenset()) | r.extras
        try: closure(distribution(name).requires or [], frozenset(r.extras), found)
        except PackageNotFoundError: continue
    return found


def test_the_core_is_small():
    "Under fifteen distributions beside torch's own, and none that belongs to an extra alone."
    core, torch = set(closure(PROJECT["dependencies"])), set(closure(["torch"]))
    assert {"torch", "numpy", "scipy", "pandas"} <= core and len(core - torch) < 15, sorted(core - torch)
    assert not core & {"typer", "rich", "matplotlib", "librosa", "numba", "zarr", "pyarrow", "scikit-learn", "transformers"}
    assert {"typer", "rich"} <= set(closure(PROJECT["optional-dependencies"]["cli"]))
    assert "audioengram[cli]" in PROJECT["optional-dependencies"]["data"], "who reads recordings has the command line"


def test_without_a_command_line_the_command_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['typer'] = None; from audioengram.start import start; start()"
    r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert r.returncode == 1 and 'pip install "audioengram[cli]"' in r.stderr and len(r.stderr.strip().splitlines()) == 1


def test_the_command_line_starts_at_once():
    "Help waits neither for torch nor for pandas."
    code = "import sys, audioengram.cli; print([m for m in ('torch', 'numpy', 'pandas') if m in sys.modules])"
    r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert r.stdout.strip() == "[]", r.stdout + r.stderr


def test_what_is_missing_names_the_extra_that_brings_it():
    from audioengram.errors import PACKAGES
    extras = PROJECT["optional-dependencies"]
    assert set(PACKAGES) == set(extras)
    names = {"PIL": "pillow", "sklearn": "scikit-learn", "faiss": "faiss-cpu", "yaml": "pyyaml", "jupyter_client": "jupyter-client",
             "huggingface_hub": "huggingface-hub", "ai_edge_litert": "ai-edge-litert", "pocket_tts": "pocket-tts", "visqol": "visqol-python",
             "swift_f0": "swift-f0", "vector_quantize_pytorch": "vector-quantize-pytorch"}
    for extra, packages in PACKAGES.items():
        brought = {canonicalize_name(Requirement(r).name) for r in extras[extra]}
        assert {canonicalize_name(names.get(p, p)) for p in packages} <= brought, extra


def test_papers_of_a_project():
    for name in ("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "audioengram/py.typed"): assert (ROOT / name).is_file(), name
    assert f"version: {PROJECT['version']}" in (ROOT / "CITATION.cff").read_text() and f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.slow
def test_a_wheel_is_whole(tmp_path):
    "Built from a copy, installed without the clone: pages run, a recording goes on, latents are reported on, codecs are compared."
    import numpy as np
    import soundfile as sf
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv", "_site", "runs", "__pycache__", "*.egg-info", "build", "*.ogg", "*.flac"))
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", source], check=True, capture_output=True)
    wheel, sdist = next((tmp_path / "dist").glob("*.whl")), next((tmp_path / "dist").glob("*.tar.gz"))
    names = set(zipfile.ZipFile(wheel).namelist())
    discussions = {p.name for p in (ROOT / "nbs" / "discussions").glob("d*.ipynb")}
    assert {f"audioengram/pages/{n}" for n in discussions} | {"audioengram/py.typed", "audioengram/assets/nano.safetensors"} <= names
    assert not [n for n in names if n.startswith(("tests", "nbs", "figures"))] and wheel.stat().st_size < 30e6 and sdist.stat().st_size < 40e6
    home = tmp_path / "home"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / "venv"], check=True)
    site = next((home / "venv").glob("lib/python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")       # everything but this package; its links are not followed
    sf.write(home / "a.wav", .3 * np.sin(np.arange(40_000) / 20) * np.sin(np.arange(40_000) / 4000), 16_000)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("AUDIOENGRAM", "PYTHON"))} | dict(AUDIOENGRAM_CACHE=str(home / "cache"), HF_HUB_OFFLINE="1")
    def call(*words):
        r = subprocess.run([home / "venv/bin/python", "-m", "audioengram.cli", *words], cwd=home, env=env, capture_output=True, text=True)
        assert r.returncode == 0, r.stdout[-1000:] + r.stderr[-3000:]
        return r.stdout
    where = subprocess.run([home / "venv/bin/python", "-c", "import audioengram; print(audioengram.__file__)"], cwd=home, env=env, capture_output=True, text=True)
    assert str(home) in where.stdout, where.stdout
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([home / "venv/bin/python", "-c", "import audioengram.core, audioengram.codecs"], cwd=home, env=env, check=True)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime < 3, "1.5 s on a machine of its own, torch and all"
    entry = subprocess.run([home / "venv/bin/python", "-c", "from audioengram.start import start; start()", "--version"], cwd=home, env=env, capture_output=True, text=True)
    assert entry.stdout.strip() == f"audioengram {PROJECT['version']}", entry.stderr
    call("codec", "encode", "a.wav", "a.npy")
    np.save(home / "long.npy", np.random.default_rng(0).normal(size=(400, 4)))
    assert "effective rank" in call("report", "long.npy", "--rate", "12.5")
    call("generate", "--prompt", "a.wav", "--out", "b.wav", "--seconds", "1")
    call("codec", "compare", "a.wav", "--codecs", "nano,mel", "--measures", "mel", "--out", "page")
    assert (home / "page" / "index.html").is_file()
    call("run", "d08", "--profile", "smoke")                # its method has a lesson, on names that the page takes from the package
    page = (home / "runs" / "d08_listening" / "page.ipynb").read_text()
    assert "import audioengram.discussions.d08_listening as method" in page and "#| export" not in page
