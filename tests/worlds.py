"What several tests look at and one makes: a cache for all workers, and one smoke run of each discussion."
import os
from pathlib import Path

from filelock import FileLock


def common(tmp_path_factory) -> Path:
    "A folder that all workers of this session share."
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


def smoke_run(name: str, place: Path):
    "The smoke run of a discussion, executed as a page, once a session."
    from audioengram.lab.notebooks import run_notebook
    from audioengram.lab.runs import read_run
    place.mkdir(exist_ok=True)
    with FileLock(place / f".{name}.lock"):
        if not (place / name / "page.ipynb").is_file(): run_notebook(name, profile="smoke", figures=place, progress=False)
    return read_run(place / name)
