"`reproduce` under fire: parent, worker or kernel killed, Ctrl-C; nothing is published half, nobody goes on computing, and the next call goes on."
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from audioengram.lab.claims import make_claim
from audioengram.lab.provenance import RunError
from audioengram.lab.reproduce import compare, kept_prefixes, print_report
from audioengram.lab.runs import read_run

PAGE = """import os, time
from pathlib import Path
(Path(os.environ["KILLS"]) / f"{name}.{os.getpid()}").touch()
from audioengram.lab.runs import Run
with Run(name, {}, profile=profile) as run:
    run.claim("answer", 42, exact="count")
    run.rows([dict(speaker="a", value=1.)])
    for i in range(20): time.sleep(.1); run.path(f"part{i}.txt").write_text("x" * 100_000)"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    "Three pages that take two seconds each, in a project of their own."
    root = tmp_path / "project"
    (root / "nbs" / "discussions").mkdir(parents=True); (root / "settings.ini").touch(); (tmp_path / "kills").mkdir()
    for variable in ("AUDIOENGRAM_FIGURES", "AUDIOENGRAM_RUNS", "AUDIOENGRAM_STAGE"): monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AUDIOENGRAM_CACHE", str(tmp_path / "cache")); monkeypatch.setenv("KILLS", str(tmp_path / "kills"))
    (tmp_path / "cache" / "latents" / "some").mkdir(parents=True)          # something is encoded: pages run side by side
    new = nbformat.v4
    for name in ("d90_a", "d91_b", "d92_c"):
        cells = [new.new_markdown_cell("# Toy\n> {claim:answer}"), new.new_code_cell("profile = 'quick'", metadata=dict(tags=["parameters"])),
                 new.new_code_cell(f"name = {name!r}\n{PAGE}")]
        nb = new.new_notebook(cells=cells)
        nb.metadata.kernelspec = dict(name="python3", display_name="python3", language="python")
        nbformat.write(nb, root / "nbs" / "discussions" / f"{name}.ipynb")
    return root


def start(project) -> subprocess.Popen:
    code = ("import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "      # a background job of a shell ignores it
            "from audioengram.lab.reproduce import reproduce; raise SystemExit(len(reproduce(workers=2)))")
    return subprocess.Popen([sys.executable, "-c", code], cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def marks(project) -> dict:
    "page -> process number of its kernel, for kernels that have begun."
    return {name: int(pid) for name, _, pid in (p.name.partition(".") for p in (project.parent / "kills").iterdir())}


def alive(pid: int) -> bool:
    try: os.kill(pid, 0)
    except ProcessLookupError: return False
    stat = Path(f"/proc/{pid}/stat")
    return stat.read_text().rpartition(")")[2].split()[0] != "Z" if stat.exists() else True


def until(condition, seconds=60):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "waited in vain"
        time.sleep(.05)


def children(pid: int) -> list:
    "Process numbers below one, from the process table."
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.split()
    parent = dict(zip(map(int, table[::2]), map(int, table[1::2]), strict=True))
    below = lambda p: p == pid or (p in parent and below(parent[p]))
    return [p for p in parent if p != pid and below(p)]


def whole(project):
    "Whatever is published is whole."
    for folder in (project / "figures").iterdir():
        if not folder.name.startswith("."): assert read_run(folder).check() == [] and (folder / "page.ipynb").is_file()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at the process table of Linux")
@pytest.mark.parametrize("wait", [.3, pytest.param(1., marks=pytest.mark.slow), pytest.param(1.9, marks=pytest.mark.slow), pytest.param(2.6, marks=pytest.mark.slow)])
def test_a_killed_parent_leaves_nothing_behind(project, wait):
    p = start(project)
    until(lambda: len(marks(project)) >= 2)
    time.sleep(wait)
    below = children(p.pid)
    assert below and set(marks(project).values()) & set(below)
    p.kill(); p.wait()
    until(lambda: not any(map(alive, [*below, *marks(project).values()])), 5)      # nobody computes on
    whole(project)
    done = {f.name for f in (project / "figures").iterdir() if not f.name.startswith(".")}
    again = start(project)
    said, _ = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert sorted(f.name for f in (project / "figures").iterdir()) == ["d90_a", "d91_b", "d92_c"], "no stage is left after the next start"
    assert said.count("measured in") == 3 - len(done) and "left by a run that was killed" in said
    whole(project)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at the process table of Linux")
@pytest.mark.parametrize("victim", ["worker", pytest.param("kernel", marks=pytest.mark.slow)])
def test_a_killed_worker_or_kernel_costs_one_page(project, victim):
    p = start(project)
    until(lambda: "d90_a" in marks(project))
    kernel = marks(project)["d90_a"]
    worker = int(Path(f"/proc/{kernel}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(kernel if victim == "kernel" else worker, signal.SIGKILL)
    said, _ = p.communicate(timeout=120)
    assert p.returncode == 1 and "d90_a failed" in said and ("the kernel died" in said) == (victim == "kernel")
    assert said.count("measured in") == 2
    until(lambda: not any(map(alive, marks(project).values())), 5)
    whole(project)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at the process table of Linux")
def test_ctrl_c_keeps_what_is_done(project):
    p = start(project)
    until(lambda: (project / "figures" / "d90_a" / "page.ipynb").is_file() or (project / "figures" / "d91_b" / "page.ipynb").is_file())
    p.send_signal(signal.SIGINT)
    p.communicate(timeout=60)
    assert p.returncode != 0
    until(lambda: not any(map(alive, marks(project).values())), 5)
    whole(project)
    assert not list((project / "figures").glob(".stage-*"))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at the process table of Linux")
@pytest.mark.slow
def test_two_at_once(project):
    "Started together, both end well and what stands is whole; started while a page is published, likewise."
    both = [start(project), start(project)]
    said = [p.communicate(timeout=120)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    whole(project)
    assert sorted(f.name for f in (project / "figures").iterdir()) == ["d90_a", "d91_b", "d92_c"]
    assert not any("Traceback" in s for s in said)


# ---- what a new measurement says of the old one

def claims(**values): return {k.replace("__", "."): make_claim(v, exact="word" if isinstance(v, str) else "one number") for k, v in values.items()}


class Lines:
    "A console that remembers."
    def __init__(self): self.said = []
    def print(self, x): self.said.append(x if isinstance(x, str) else [list(c.cells) for c in x.columns])


def test_verdicts_first_then_numbers_and_what_was_kept_apart():
    old = claims(main__verdict="fails", main__gain=1., far__gain=5.)
    same = compare("d90_a", old, claims(main__verdict="fails", main__gain=1.01, far__gain=5.), ("far",))
    other = compare("d91_b", old, claims(main__verdict="passes", main__gain=2., far__gain=5.), ())
    assert (same.verdicts_held, same.moved, same.kept) == (1, (), 1) and [m[0] for m in other.moved] == ["main.verdict", "main.gain"]
    print_report([same, other], console := Lines())
    assert console.said[0].startswith("[bold]1 of 2 pages keep every verdict[/bold] (1 of 2") and console.said[1].startswith("2 of 3 measured numbers")
    assert console.said[2] == [["d91_b"] * 2, ["main.verdict", "main.gain"], ["fails", "1.00"], ["passes", "2.00"]]
    assert "1 claims were carried over unchanged" in console.said[3]


def test_a_smaller_run_replaces_no_larger_one(project, monkeypatch, capfd):
    "A page that is published from its thorough run keeps it; the quick one beside it is a draft, whose intervals are held against it."
    from audioengram.lab.notebooks import run_notebook, why_draft
    from audioengram.lab.reproduce import reproduce
    for name in ("d91_b", "d92_c"): (project / f"nbs/discussions/{name}.ipynb").unlink()
    path = project / "nbs/discussions/d90_a.ipynb"
    nb = nbformat.read(path, 4)
    nb.cells[-1].source = ("from audioengram.core import get_profile\nfrom audioengram.lab.runs import Run\nhalf = get_profile(profile).pick(0, .5, 0, thorough=.1)\n"
                           "with Run('d90_a', {}, profile=profile) as run:\n    run.claim('answer', 1., 1 - half, 1 + half, 9)\n    run.rows([dict(speaker='a', value=half)])")
    nbformat.write(nb, path)
    monkeypatch.chdir(project)
    run_notebook(path, profile="thorough", figures=project / "figures", progress=False)
    published = project / "figures/d90_a/manifest.json"
    before = published.read_bytes()
    assert "its thorough run is published" in "; ".join(why_draft("quick", {}, stands="thorough")) and not why_draft("full", {}, project, "thorough")
    with pytest.raises(RunError, match="its thorough run is published, and a quick one is smaller"): run_notebook(path, publish=True, progress=False)
    assert reproduce(progress=False, workers=1) == [] and published.read_bytes() == before
    assert read_run(project / "runs/d90_a").manifest["profile"] == "quick"
    said = capfd.readouterr().err
    assert "stays published from its thorough run" in said and "1 of 1 intervals meet the published ones" in said
    assert reproduce(progress=False, workers=1) == [] and "d90_a is up to date" in capfd.readouterr().err
    assert reproduce(profile="thorough", progress=False, workers=1) == []
    assert "measured in" not in (again := capfd.readouterr().err) and "up to date" in again


def test_which_claims_were_kept(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps(dict(name="d90_a")))
    (tmp_path / "claims.json").write_text(json.dumps({"main.case": dict(value="far × nano")}))
    assert kept_prefixes(tmp_path) == ()
    (tmp_path / "cases.json").write_text(json.dumps([dict(case="near-nano", title="near × nano", kept=False), dict(case="far-nano", title="far × nano", kept=True)]))
    assert kept_prefixes(tmp_path) == ("far-nano", "main")
    (tmp_path / "claims.json").write_text("[]")
    with pytest.raises(RunError): kept_prefixes(tmp_path)


# ---- a slice measured again

def test_verify_measures_again(project, monkeypatch):
    "A page without cases is measured whole: it holds where nothing moved, and says which number and which rows did."
    from audioengram.core import ParameterError
    from audioengram.lab.notebooks import run_notebook
    from audioengram.lab.verify import verify
    path = project / "nbs/discussions/d90_a.ipynb"
    nb = nbformat.read(path, 4)
    nb.cells[-1].source = ("import os\nfrom audioengram.lab.runs import Run\nx = float(os.environ['TOY'])\nassert ('AUDIOENGRAM_FRESH' in os.environ) == (x > 1)\n"
                           "with Run('d90_a', {}, profile=profile) as run:\n    run.claim('answer', x, exact='count')\n    run.rows([dict(speaker='a', value=1.), dict(speaker='b', value=x)])")
    nbformat.write(nb, path)
    monkeypatch.chdir(project); monkeypatch.setenv("TOY", "1")
    run_notebook(path, figures=project / "figures", progress=False)
    published = (project / "figures/d90_a/claims.json").read_bytes()
    monkeypatch.setenv("TOY", "1.0000001")
    assert verify("d90", progress=False).holds
    monkeypatch.setenv("TOY", "3")
    found = verify("d90", progress=False)
    assert not found.holds and [m[0] for m in found.claims.moved] == ["answer"] and list(found.rows.same) == [True] and found.rows.apart[0] > 1
    assert (project / "figures/d90_a/claims.json").read_bytes() == published, "nothing is published"
    with pytest.raises(ParameterError, match="has no cases"): verify("d90", "toy:nano", progress=False)
