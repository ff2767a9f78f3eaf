"Batches: what is done is skipped, what fails is listed, a process that dies takes no other task with it."
import os
import signal
import sys
import threading
import time
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
def write_slowly(path): time.sleep(2); write(path, str(os.getppid()))


@pytest.fixture
def importable(monkeypatch):
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (here, here.parent))))
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


@pytest.mark.slow
def test_a_node_that_is_killed_loses_no_task(tmp_path, importable):
    "A real head and two nodes; one of them is killed while it works, and the other does its tasks too."
    pytest.importorskip("ray", reason="needs cluster/requirements.txt")
    from ray.cluster_utils import Cluster
    cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=0))
    try:
        first, second = (cluster.add_node(num_cpus=1) for _ in range(2))
        victim = first.all_processes["raylet"][0].process.pid
        def kill():
            while not list(tmp_path.glob("*.txt")): time.sleep(.1)
            os.kill(victim, signal.SIGKILL)
        threading.Thread(target=kill, daemon=True).start()
        tasks = [task("write_slowly", tmp_path / f"{i}.txt") for i in range(8)] + [task("die", tmp_path / "h")]
        got = launch(tasks, cluster=cluster.address, progress=False, num_cpus=1, max_retries=3)
    finally: cluster.shutdown()
    assert list(got.status) == ["done"] * 8 + ["failed"] and "WorkerCrashedError" in got.error[8]
    assert not first.all_processes.get("raylet") or first.all_processes["raylet"][0].process.poll() is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{i}.txt" for i in range(8)]


@pytest.fixture
def bucket(monkeypatch):
    "Address of a bucket in an object store of this machine, in the settings that tasks inherit."
    server = pytest.importorskip("moto.server", reason="needs cluster/requirements-test.txt")
    pytest.importorskip("s3fs", reason="needs cluster/requirements-test.txt")
    moto = server.ThreadedMotoServer(port=0)
    moto.start()
    host, port = moto.get_host_and_port()
    settings = dict(AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}", AWS_ACCESS_KEY_ID="none", AWS_SECRET_ACCESS_KEY="none", AWS_DEFAULT_REGION="us-east-1")
    for name, value in settings.items(): monkeypatch.setenv(name, value)
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir("reruns")
    yield "s3://reruns"
    moto.stop()


@pytest.mark.slow
def test_an_object_store_from_a_ray_worker(bucket, tmp_path, importable):
    pytest.importorskip("ray", reason="needs cluster/requirements.txt")
    path, urls = toy_page(tmp_path), [f"{bucket}/{i}/out.txt" for i in range(3)]
    pages = rerun_tasks([str(path)], f"{bucket}/grid", dict(seed=[0, 2]))
    got = launch([*(task("write", u) for u in urls), *pages], cluster="local", progress=False, num_cpus=1)
    assert list(got.status) == ["done"] * 5, list(got.error)
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    assert [fs.cat_file(u) for u in urls] == [b"done"] * 3 and not [f for f in fs.find("reruns") if f.endswith(".part")]
    assert sorted(collect(f"{bucket}/grid").value) == [40, 42]
    assert list(launch(pages, cluster="local", progress=False).status) == ["skipped"] * 2


# ---- notebooks as tasks

def toy_page(tmp_path):
    "A notebook that claims 40 and its seed, but fails for seed 1."
    new = nbformat.v4
    nb = new.new_notebook(cells=[new.new_markdown_cell("# Toy\n> {claim:answer}"), new.new_code_cell("seed = 0\nlags = (1, 2)", metadata=dict(tags=["parameters"])), new.new_code_cell(
        'from audioengram.lab.runs import Run\nwith Run("d90_toy", dict(seed=seed)) as run:\n    run.claim("answer", 40 + seed, exact="count")\n    assert seed != 1, "unlucky"')])
    nb.metadata.kernelspec = dict(name="python3", display_name="python3", language="python")
    path = tmp_path / "d90_toy.ipynb"; nbformat.write(nb, path)
    return path


def test_a_grid_of_reruns(tmp_path, monkeypatch):
    path = toy_page(tmp_path)
    with pytest.raises(ParameterError, match="did you mean 'seed'"): rerun_tasks([path], "memory://grid", dict(sed=[1]))
    tasks = rerun_tasks([str(path)], "memory://grid", dict(seed=["0", "1"]))
    assert tasks == rerun_tasks([str(path)], "memory://grid", dict(seed=[0, 1])) and len({t.outputs for t in tasks}) == 2
    got = launch(tasks, workers=0, progress=False)
    assert list(got.status) == ["done", "failed"] and "unlucky" in got.error[1]
    table = collect("memory://grid")
    assert table[["run", "seed", "claim", "value"]].values.tolist() == [["d90_toy", 0, "answer", 40]]
    assert list(launch(tasks[:1], workers=0, progress=False).status) == ["skipped"]
