"Every library notebook runs from top to bottom, and the package is exactly what the notebooks export."
import contextlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = sorted(p.relative_to(ROOT) for p in (ROOT / "nbs").rglob("*.ipynb")
                 if "discussions" not in p.parts and p.name != "index.ipynb" and ".ipynb_checkpoints" not in p.parts)
HEAVY = ["torch", "numpy", "pandas", "scipy.stats", "scipy.optimize", "sklearn.cluster", "matplotlib.pyplot", "librosa", "nbdev.test",
         "papermill", "zarr", "av", "soundfile"]


@pytest.fixture(scope="module")
def server():
    "Processes that have imported what every notebook imports: half of a notebook's time was that."
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    return context


def run_here(notebook: str, log: str):
    "What a process of the server does: run one notebook, its words in a file."
    from nbdev.test import test_nb
    os.chdir(ROOT)
    with open(log, "w", buffering=1) as f, contextlib.redirect_stdout(f), contextlib.redirect_stderr(f):
        try: ok, _ = test_nb(Path(notebook), do_print=False, showerr=True)
        except BaseException: traceback.print_exc(); ok = False
    os._exit(not ok)


@pytest.mark.parametrize("notebook", LIBRARY, ids=str)
def test_library_notebook_runs(notebook, tmp_path, server, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    process = server.Process(target=run_here, args=(str(notebook), str(tmp_path / "log")))
    process.start()
    process.join(300)
    if process.is_alive(): process.kill()
    assert process.exitcode == 0, (tmp_path / "log").read_text()[-4000:]


def tool(code: str, cwd: Path, **env) -> subprocess.CompletedProcess:
    "Run nbdev in a process of its own: it keeps state in modules and changes the working directory."
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True)


def test_export_and_clean_leave_no_diff(tmp_path):
    for name in ("nbs", "audioengram"): shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for name in ("settings.ini", "pyproject.toml"): shutil.copy(ROOT / name, tmp_path)
    before = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    r = tool("from nbdev.clean import nbdev_clean; from nbdev.doclinks import nbdev_export; nbdev_clean(); nbdev_export()", tmp_path)
    assert r.returncode == 0, r.stderr[-4000:]
    after = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    changed = sorted(str(p) for p in before.keys() | after.keys() if before.get(p) != after.get(p))
    assert not changed, f"run nbdev_clean and nbdev_export: {changed}"
