"What several tests look at and one makes: a cache for all workers, and one smoke run of each discussion."
import os
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


def common(tmp_path_factory) -> Path:
    "A folder that all workers of this session share."
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


@contextmanager
def common_kernels(cache: Path):
    """Processes started here compute with instructions that every x86-64 machine of the last ten years has, by code that is the same on all
    of them, in a cache of their own: numbers of smoke runs are then equal to many digits, and a canary that sings was not woken by another
    processor."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
    newer = [f for f in __cpu_dispatch__ if __cpu_features__.get(f) and f.startswith("AVX512")]
    same = dict(ATEN_CPU_CAPABILITY="avx2", MKL_CBWR="COMPATIBLE", ONEDNN_MAX_CPU_ISA="AVX2", OPENBLAS_CORETYPE="Haswell",
                FAISS_SIMD_LEVEL="AVX2", NPY_DISABLE_CPU_FEATURES=" ".join(newer), OMP_NUM_THREADS="1", MKL_NUM_THREADS="1",
                AUDIOENGRAM_CACHE=str(cache))
    before = {k: os.environ.get(k) for k in same}
    os.environ.update(same)
    try: yield
    finally:
        for k, v in before.items():
            if v is None: os.environ.pop(k)
            else: os.environ[k] = v


def smoke_run(name: str, place: Path):
    "The smoke run of a discussion, executed as a page, once a session."
    from audioengram.lab.notebooks import run_notebook
    from audioengram.lab.runs import read_run
    place.mkdir(exist_ok=True)
    with FileLock(place / f".{name}.lock"):
        if not (place / name / "page.ipynb").is_file():
            with common_kernels(place / ".cache"): run_notebook(name, profile="smoke", figures=place, progress=False)
    return read_run(place / name)
