"Batches: what is done is skipped, what fails is listed, a process that dies takes no other task with it."
import os
import signal
import sys
import types
from pathlib import Path

import fsspec
import nbformat
import pytest

from audioengram.core import MissingDependency, ParameterError
from audioengram.lab import batch
from audioengram.lab.batch import Task, collect, is_done, launch, put_folder, rerun_tasks, whole_file


# Tasks of this module, found by spawned processes through PYTHONPATH.
def write(path, text="done"):
    with whole_file(path) as tmp: tmp.write_text(text)
def fail(path): raise ValueError(f"cannot make {Path(path).name}")
def forget(path): pass
def die(path): os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def task(kind, path): return Task(f"test_lab_batch:{kind}", dict(path=str(path)), (str(path),), f"{kind} {Path(str(path)).name}")


def test_processes_resume_and_list_failures(tmp_path, importable):
    tasks = [task("write", tmp_path / f"{i}.txt") for i in range(5)] + [task("fail", tmp_path / "f"), task("forget", tmp_path / "g"), task("die", tmp_path / "h")]
    first = launch([tasks[-1], *tasks[:-1]], workers=2, progress=False)
    assert list(first.status) == ["failed"] + ["done"] * 5 + ["failed"] * 2
    assert "process died" in first.error[0] and "ValueError: cannot make f" in first.error[6] and "did not write" in first.error[7]
    stamp = (tmp_path / "0.txt").stat().st_mtime_ns
    (tmp_path / "3.txt").unlink()
    again = launch(tasks[:5], workers=1, progress=False)
    assert list(again.status) == ["skipped"] * 3 + ["done", "skipped"] and (tmp_path / "0.txt").stat().st_mtime_ns == stamp
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{i}.txt" for i in range(5)]


def test_memory_files_in_this_process(importable):
    urls = [f"memory://batch/{i}/out.txt" for i in range(3)]
    assert list(launch([task("write", u) for u in urls], workers=0, progress=False).status) == ["done"] * 3
    assert list(launch([task("write", u) for u in urls], workers=0, progress=False).status) == ["skipped"] * 3
    assert fsspec.open(urls[2]).open().read() == b"done"


@pytest.mark.parametrize("where", ["memory://folders/x", "file"])
def test_a_folder_is_done_only_with_its_last_file(tmp_path, where, monkeypatch):
    src = tmp_path / "src"; (src / "sub").mkdir(parents=True)
    for name in ("a.txt", "page.ipynb", "sub/z.txt"): (src / name).write_text(name)
    url = where if "://" in where else f"file://{tmp_path}/dst"
    sent, real = [], batch._put
    def put(local, to):
        if len(sent) == 2: raise OSError("connection lost")
        sent.append(to); real(local, to)
    monkeypatch.setattr(batch, "_put", put)
    with pytest.raises(OSError): put_folder(src, url, last="page.ipynb")
    page = Task("os:getcwd", outputs=(f"{url}/page.ipynb",))
    assert len(sent) == 2 and not is_done(page)
    monkeypatch.setattr(batch, "_put", real); put_folder(src, url, last="page.ipynb")
    fs, at = fsspec.core.url_to_fs(url)
    assert is_done(page) and fs.cat_file(f"{at}/sub/z.txt") == b"sub/z.txt" and not [p for p in fs.find(at) if p.endswith(".part")]


@pytest.mark.parametrize("bad, says", [(Task(lambda: 1), "cannot be imported"), (Task("no_such_module:f"), "cannot be imported"), (Task("os:nothing"), "cannot be imported"),
                                       (Task("os:getcwd", dict(x=lambda: 1)), "cannot be sent")])
def test_tasks_that_could_not_run_are_refused_at_once(bad, says):
    with pytest.raises(ParameterError, match=says): launch([bad], workers=0)


def test_misuse(importable):
    with pytest.raises(ParameterError, match="two tasks write"): launch([task("write", "/x/a"), task("fail", "/x/a")], workers=0)
    with pytest.raises(ParameterError, match="num_gpus is for a cluster"): launch([], num_gpus=1)
    assert launch([], workers=2, progress=False).empty


# ---- Ray

class FakeRay(types.ModuleType):
    "The part of Ray's interface that is used, run in place; tasks of kind `die` are lost with their node."
    def __init__(self):
        super().__init__("ray")
        self.calls, self.exceptions = [], types.SimpleNamespace(RayError=RuntimeError)
    def init(self, **kwargs): self.calls.append(("init", kwargs["address"]))
    def shutdown(self): self.calls.append(("shutdown",))
    def remote(self, fn):
        def start(*args): return (fn, args)
        make = lambda: types.SimpleNamespace(remote=lambda *a: (fn, a[0], id(a), a), options=lambda **o: (self.calls.append(("options", o)), make())[1])
        return make()
    def wait(self, refs, num_returns): return refs[-1:], refs[:-1]
    def get(self, ref):
        if ref[1].endswith(":die"): raise RuntimeError("node lost")
        return ref[0](*ref[3])


def test_ray_takes_the_same_tasks(tmp_path, monkeypatch, importable):
    ray = FakeRay(); monkeypatch.setitem(sys.modules, "ray", ray)
    class Ref(tuple): __hash__ = object.__hash__                 # a reference is hashable, its arguments need not be
    plain = ray.remote
    def remote(fn):
        def wrap(m): return types.SimpleNamespace(remote=lambda *a: Ref(m.remote(*a)), options=lambda **o: wrap(m.options(**o)))
        return wrap(plain(fn))
    ray.remote = remote
    tasks = [task("write", tmp_path / "a"), task("fail", tmp_path / "b"), task("die", tmp_path / "c")]
    got = launch(tasks, cluster="auto", progress=False, num_gpus=1)
    assert list(got.status) == ["done", "failed", "failed"] and "node lost" in got.error[2]
    assert ray.calls == [("init", "auto"), ("options", dict(num_gpus=1)), ("shutdown",)]


def test_without_ray_there_is_one_sentence(tmp_path, monkeypatch, importable):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependency, match=r'audioengram\[cluster\]'): launch([task("write", tmp_path / "a")], cluster="auto", progress=False)


@pytest.mark.slow
def test_real_ray(tmp_path, importable):
    pytest.importorskip("ray")
    tasks = [task("write", tmp_path / "a"), task("fail", tmp_path / "b")]
    assert list(launch(tasks, cluster="local", progress=False, num_cpus=1).status) == ["done", "failed"]


# ---- notebooks as tasks

def test_a_grid_of_reruns(tmp_path, monkeypatch):
    new = nbformat.v4
    nb = new.new_notebook(cells=[new.new_markdown_cell("# Toy\n> {claim:answer}"), new.new_code_cell("seed = 0\nlags = (1, 2)", metadata=dict(tags=["parameters"])), new.new_code_cell(
        'from audioengram.lab.runs import Run\nwith Run("d90_toy", dict(seed=seed)) as run:\n    run.claim("answer", 40 + seed, exact="count")\n    assert seed != 1, "unlucky"')])
    nb.metadata.kernelspec = dict(name="python3", display_name="python3", language="python")
    path = tmp_path / "d90_toy.ipynb"; nbformat.write(nb, path)
    with pytest.raises(ParameterError, match="did you mean 'seed'"): rerun_tasks([path], "memory://grid", dict(sed=[1]))
    tasks = rerun_tasks([str(path)], "memory://grid", dict(seed=["0", "1"]))
    assert tasks == rerun_tasks([str(path)], "memory://grid", dict(seed=[0, 1])) and len({t.outputs for t in tasks}) == 2
    got = launch(tasks, workers=0, progress=False)
    assert list(got.status) == ["done", "failed"] and "unlucky" in got.error[1]
    table = collect("memory://grid")
    assert table[["run", "seed", "claim", "value"]].values.tolist() == [["d90_toy", 0, "answer", 40]]
    assert list(launch(tasks[:1], workers=0, progress=False).status) == ["skipped"]
