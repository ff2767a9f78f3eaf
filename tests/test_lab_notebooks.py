"The runner refuses what would silently give wrong numbers, publishes whole pages, and keeps old ones when a run fails."
import contextlib
import io
import json
import os
import re
import subprocess
from pathlib import Path

import nbformat
import pytest

from audioengram.core import ParameterError
from audioengram.lab import notebooks
from audioengram.lab.notebooks import clean_page, notebook_path, redraw_page, run_notebook, sweep
from audioengram.lab.parameters import inject, parameters_of, read_parameters
from audioengram.lab.provenance import RunError
from audioengram.lab.reproduce import list_discussions, reproduce
from audioengram.lab.runs import read_run

PARAMETERS = "profile = 'quick'\nseed = 0\ncodec = 'nano'\nlags = (1, 2)\nrate = .5\nfast = False\nextra = None"
MEASURE = """from audioengram.lab.runs import Run
with Run("{name}", dict(seed=seed, codec=codec), profile=profile) as run:
    run.claim("answer", 40 + seed, exact="count"); run.claim("lags", len(lags), exact="count")
    run.rows([dict(speaker="a", value=rate)])"""


def notebook(*cells, name="d90_toy", tags=("parameters",), parameters=PARAMETERS, prose="# Toy\n> It is {claim:answer}."):
    new = nbformat.v4
    nb = new.new_notebook(cells=[new.new_markdown_cell(prose), new.new_code_cell("import sys, os"),
                                 *(new.new_code_cell(parameters, metadata=dict(tags=[t] if t else [])) for t in tags),
                                 *(new.new_code_cell(c.replace("{name}", name)) for c in cells)])
    nb.metadata.kernelspec = dict(name="python3", display_name="python3", language="python")
    return nb


@pytest.fixture
def project(tmp_path, monkeypatch):
    "A project of its own, the working directory inside it."
    root = tmp_path / "project"
    (root / "nbs" / "discussions").mkdir(parents=True); (root / "settings.ini").touch()
    for v in ("AUDIOENGRAM_FIGURES", "AUDIOENGRAM_RUNS", "AUDIOENGRAM_STAGE"): monkeypatch.delenv(v, raising=False)
    monkeypatch.setenv("AUDIOENGRAM_CACHE", str(tmp_path / "cache")); monkeypatch.chdir(root)
    def add(name, *cells, **kwargs): nbformat.write(notebook(*cells, name=name, **kwargs), root / "nbs" / "discussions" / f"{name}.ipynb")
    add.root = root
    return add


# ---- the guard, without a kernel

@pytest.mark.parametrize("tags, says", [(("",), "has 0 cells"), (("parameters", "parameters"), "has 2 cells"), ((), "has 0 cells")])
def test_the_tag_must_be_there_once(project, tags, says):
    project("d90_toy", MEASURE, tags=tags)
    with pytest.raises(ParameterError, match=says): run_notebook("d90_toy", dict(seed=1))
    assert not (project.root / "figures").exists()


def test_a_notebook_whose_tag_was_cleaned_away_is_refused(project):
    "As nbdev_clean leaves it where settings.ini does not allow the key `tags`."
    from execnb.nbio import dict2nb, nb2dict
    from nbdev.clean import clean_nb
    project("d90_toy", MEASURE)
    path = project.root / "nbs/discussions/d90_toy.ipynb"
    assert parameters_of(nbformat.read(path, 4))["seed"] == 0
    nb = dict2nb(nbformat.read(path, 4)); clean_nb(nb, allowed_cell_metadata_keys=[])
    nbformat.write(nbformat.from_dict(nb2dict(nb)), path)
    with pytest.raises(ParameterError, match="allowed_cell_metadata_keys = tags"): run_notebook("d90_toy", dict(seed=1))


@pytest.mark.parametrize("given, says", [(dict(sed=1), "did you mean 'seed'.*It has profile, seed"), (dict(zzz=1), "no parameter 'zzz'"),
                                         (dict(seed="x"), "expected int"), (dict(seed=True), "expected int"), (dict(fast="maybe"), "expected bool"),
                                         (dict(lags="1,b"), "expected tuple"), (dict(profile="huge"), "smoke, quick, thorough, full")])
def test_unknown_names_and_wrong_types(project, given, says):
    project("d90_toy", MEASURE)
    with pytest.raises(ParameterError, match=says):
        run_notebook("d90_toy", {k: v for k, v in given.items() if k != "profile"}, profile=given.get("profile", "quick"))


@pytest.mark.parametrize("text, value", [("3", 3), ("-2", -2)])
def test_text_from_a_shell_takes_the_type_of_the_default(text, value):
    known = parameters_of(notebook())
    got = read_parameters(known, dict(seed=text, lags="4,8", rate="1e-3", fast="true", extra="[1, a] #2", codec="123"))
    assert got == dict(seed=value, lags=(4, 8), rate=0.001, fast=True, extra="[1, a] #2", codec="123")
    assert read_parameters(known, dict(lags="[4]", fast="False", rate=2, codec=7)) == dict(lags=(4,), fast=False, rate=2.0, codec="7")


@pytest.mark.parametrize("cell", ["seed = 1 + 1", "import os", "a, b = 1, 2", "seed = int(3)"])
def test_a_parameters_cell_only_assigns_literals(cell):
    with pytest.raises(ParameterError, match="parameters cell may only|must be a literal"): parameters_of(notebook(parameters=cell))


def test_injection_stands_behind_the_parameters_and_is_exact():
    given = dict(lags=(1,), codec='a"b\\n', rate=0.1)
    nb = inject(notebook("x = 1"), given)
    at = [i for i, c in enumerate(nb.cells) if "parameters" in c.metadata.tags][0]
    scope = {}; exec(nb.cells[at + 1].source, scope)
    assert {k: scope[k] for k in given} == given
    with pytest.raises(RunError, match="defaults would win"): inject(notebook("x = 1", tags=("",)), given)


def test_outside_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); monkeypatch.setattr(notebooks, "__file__", str(tmp_path / "site-packages" / "x.py"))
    with pytest.raises(ParameterError, match="Clone audioengram"): run_notebook("d00_structure")
    (tmp_path / "bad.ipynb").write_text("no notebook")
    with pytest.raises(RunError, match="not a notebook"): run_notebook(tmp_path / "bad.ipynb")


def test_a_discussion_that_is_not_there(project):
    project("d90_toy", MEASURE)
    with pytest.raises(ParameterError, match="did you mean 'd90_toy'"): run_notebook("d90_toi")


# ---- with a kernel

NOISY = """import os, pathlib
from tqdm import tqdm
for _ in tqdm(range(3)): pass
print("\\rhalf", end=""); print("\\rwhole"); print("\\x1b[31mred\\x1b[0m")
print(pathlib.Path.home() / "secret")
print(os.getcwd())
import warnings; warnings.warn("only for those who watch")
from IPython.display import Markdown
Markdown(f"![a]({os.path.relpath(os.environ['AUDIOENGRAM_STAGE'] + '/d90_toy/a.svg')})")"""


def test_end_to_end(project):
    project("d90_toy", MEASURE, NOISY, prose="# Toy\n> It is {claim:answer}, {claim:lags} lags.")
    page = run_notebook("d90_toy", dict(seed="2", lags="1,2,4"), profile="smoke", progress=False)
    assert page == project.root / "runs/d90_toy/page.ipynb" and [p.name for p in project.root.iterdir() if p.name != "nbs"] == ["settings.ini", "runs"]
    r, nb, raw = read_run(page.parent), nbformat.read(page, 4), page.read_text()
    assert nb.cells[0].source == "# Toy\n> It is 42, 3 lags." and r.claims["lags"]["value"] == 3
    assert r.manifest["profile"] == "smoke" and r.manifest["page"]["parameters"]["lags"] == [1, 2, 4] and r.manifest["page"]["parameters"]["rate"] == 0.5
    out = "".join(o.text for o in nb.cells[-1].outputs if o.output_type == "stream")
    assert out.startswith("whole\nred\n~/secret\n") and "papermill" not in raw
    shown = json.dumps([c.outputs for c in nb.cells if c.cell_type == "code"])
    assert "it/s" not in shown and "only for those" not in shown
    assert nb.cells[-1].outputs[-1].data["text/markdown"] == "![a](a.svg)"
    for place in (project.root, Path.home(), os.environ["AUDIOENGRAM_CACHE"]): assert not re.search(re.escape(str(place)) + r"\b", raw)
    assert not re.search(r'"(start_time|end_time|duration|iopub[^"]*)"', raw) and len(raw) < 300_000
    nbformat.validate(nb)


@pytest.mark.parametrize("cells, says", [((MEASURE, "y = 1\nraise ValueError('boom')"), r"failed in cell 5 \(y = 1\): ValueError: boom"),
                                         (("raise SystemExit(0)", MEASURE), "ended the notebook early"), (("x = 1",), "published nothing"),
                                         (("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", MEASURE), r"failed in cell 4 .*the kernel died")])
def test_a_failing_run_leaves_the_published_page(project, cells, says):
    project("d90_toy", MEASURE)
    page = run_notebook("d90_toy", progress=False)
    before = {p.name: p.read_bytes() for p in page.parent.iterdir()}
    project("d90_toy", *cells)
    with pytest.raises(RunError, match=says) as e: run_notebook("d90_toy", dict(seed=9), progress=False)
    assert {p.name: p.read_bytes() for p in page.parent.iterdir()} == before and [p.name for p in page.parent.parent.iterdir()] == ["d90_toy"]
    if "cell" in says: assert nbformat.read(e.value.file, 4).cells, "the half-executed page is kept"


def test_prose_with_an_unknown_claim_is_not_published(project):
    project("d90_toy", MEASURE, prose="# Toy\n> {claim:anser}")
    with pytest.raises(ParameterError, match="d90_toy, cell 1: unknown claim 'anser'.*answer"): run_notebook("d90_toy", progress=False)
    assert not list((project.root / "runs").iterdir())


def test_a_heavy_page_is_refused(project):
    project("d90_toy", MEASURE, "print('x' * 400_000)")
    with pytest.raises(RunError, match=r"weighs 4\d\d kB.*begins with .print"): run_notebook("d90_toy", progress=False)


def test_only_a_clean_commit_is_published(project, monkeypatch):
    "Publishing wants a commit that holds the code, a profile that measures, and the page's own parameters."
    project("d90_toy", MEASURE)
    git = lambda *args: subprocess.run(("git", "-c", "user.name=a", "-c", "user.email=a@b", *args), cwd=project.root, check=True, capture_output=True)
    (project.root / ".gitignore").write_text("/runs/\n")
    git("init", "-q"); git("add", "."); git("commit", "-qm", "pages")
    for given, says in ((dict(profile="smoke"), "smoke profile"), (dict(parameters=dict(seed=1)), "seed differs from the page's own")):
        with pytest.raises(RunError, match=says): run_notebook("d90_toy", progress=False, publish=True, **given)
    page = run_notebook("d90_toy", progress=False, publish=True)
    assert page.parent == project.root / "figures/d90_toy" and read_run("d90_toy").manifest["git"]["dirty"] is False
    before = page.read_bytes()
    (project.root / "settings.ini").write_text("# edited")
    with pytest.raises(RunError, match="commit the code first"): run_notebook("d90_toy", progress=False, publish=True)
    draft = run_notebook("d90_toy", dict(seed=3), progress=False)
    assert draft.parent == project.root / "runs/d90_toy" and read_run(draft.parent).manifest["git"]["dirty"] is True
    assert reproduce(profile="smoke", progress=False, workers=1) == [] and page.read_bytes() == before      # a smoke run replaces no published page


def test_a_page_is_drawn_again_without_measuring(project):
    guard = "import os\nassert not os.environ.get('AUDIOENGRAM_REDRAW'), 'measured'\n"
    measure = ("from audioengram.lab.runs import published\n@published('d90_toy')\ndef run():\n    " + (guard + MEASURE).replace("\n", "\n    ")
               + "\n    from audioengram.lab.runs import read_run\n    return read_run(run.final)")
    project("d90_toy", measure, "result = run()", "result.claims['answer']['value']")
    page = run_notebook("d90_toy", progress=False, publish=True)
    was = {p.name: p.read_bytes() for p in page.parent.iterdir()}
    project("d90_toy", measure, "result = run()", "'now ' + str(result.claims['answer']['value'])", prose="# Toy\n> Written anew: {claim:answer}.")
    assert list_discussions().redraw[0] == "the page's text changed" and list_discussions().stale[0] == ""
    assert redraw_page("d90_toy") == page and list_discussions().redraw[0] == ""
    nb = nbformat.read(page, 4)
    assert nb.cells[0].source == "# Toy\n> Written anew: 40." and nb.cells[-1].outputs[0].data["text/plain"] == "'now 40'"
    now = {p.name: p.read_bytes() for p in page.parent.iterdir()}
    assert {k for k in was if was[k] != now[k]} == {"page.ipynb", "manifest.json"} and read_run("d90_toy").check() == []


def test_a_listing_shows_questions_and_answers_and_no_placeholder(project):
    "A title may quote its answer, which only the published page has."
    from audioengram.cli import list_
    project("d90_toy", MEASURE, prose="# Beyond words: {claim:answer} of them\n> It is {claim:answer}.")
    assert list_discussions()[["asks", "verdict"]].values.tolist() == [["Beyond words", ""]]
    run_notebook("d90_toy", progress=False, publish=True)
    assert list_discussions()[["asks", "verdict"]].values.tolist() == [["Beyond words", "It is 40."]]
    with contextlib.redirect_stdout(io.StringIO()) as said: list_()
    assert "Beyond words" in said.getvalue() and "It is 40" in said.getvalue() and "claim:" not in said.getvalue()


def test_stages_of_the_dead_are_swept_and_those_of_the_living_are_not(project):
    from filelock import FileLock
    place = project.root / "figures"
    for name in ("dead", "alive"): (place / f".stage-{name}").mkdir(parents=True)
    with FileLock(place / ".stage-alive" / ".busy"): assert sweep(place) == [".stage-dead"]
    assert sweep(place) == [".stage-alive"] and not list(place.iterdir())


def test_a_page_is_named_by_its_number(project):
    project("d90_toy", MEASURE)
    assert notebook_path("d90") == notebook_path("d90_toy")


def test_reproduce_runs_what_is_stale_and_goes_on_after_a_failure(project, capsys):
    project("d90_good", MEASURE); project("d91_bad", "1 / 0"); project("d92_quotes", MEASURE, prose="# Q\n> As {claim:d90_good/answer}.")
    project("d20_extra", MEASURE)
    assert [n for n, _ in reproduce(progress=False, workers=1)] == ["d91_bad"]
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said and "d20_extra" not in said and {p.name for p in (project.root / "figures").iterdir()} == {"d90_good", "d92_quotes"}
    assert nbformat.read(project.root / "figures/d92_quotes/page.ipynb", 4).cells[0].source == "# Q\n> As 40."
    times = {p: p.stat().st_mtime_ns for p in (project.root / "figures").rglob("*.ipynb")}
    assert [n for n, _ in reproduce(progress=False, workers=1, only=["d90", "d92_quotes"])] == []      # nothing to do
    assert capsys.readouterr().err.count("up to date") == 2 and all(p.stat().st_mtime_ns == t for p, t in times.items())
    project("d90_good", MEASURE, parameters=PARAMETERS.replace("seed = 0", "seed = 10"))               # another seed: another number
    assert reproduce(progress=False, workers=1, only=["d90_good", "d92_quotes"]) == []
    said = capsys.readouterr().err
    assert "1 of 2 measured numbers lie within their tolerance" in said and "parameter seed was 0, is 10" in said and "answer" in said
    assert list_discussions().set_index("name").redraw["d92_quotes"] == "the quoted claim d90_good/answer changed"
    assert reproduce(progress=False, workers=1, only=["d92_quotes"]) == [] and "drawn again" in capsys.readouterr().err
    table = list_discussions().set_index("name")
    assert table.verdict["d92_quotes"] == "As 50." and table.stale["d91_bad"] == "no results" and table.redraw["d92_quotes"] == ""


def test_discussions_run_side_by_side_and_one_that_quotes_comes_after(project, capsys):
    import time
    stamp = MEASURE + "\nimport time; run_at = time.time(); time.sleep(3); open(os.environ['STAMPS'] + '/{name}', 'w').write(f'{run_at} {time.time()}')"
    folder = project.root / "stamps"; folder.mkdir(); os.environ["STAMPS"] = str(folder)
    project("d90_first", stamp, prose="# First\n> {claim:answer}, as {claim:d93_last/answer}."); project("d91_one", stamp); project("d92_bad", "1 / 0"); project("d93_last", stamp)
    begun = time.time()
    assert [n for n, _ in reproduce(workers=2)] == ["d92_bad"]
    at = {p.name: [float(x) - begun for x in p.read_text().split()] for p in folder.iterdir()}
    assert at["d90_first"][0] > at["d93_last"][1]                                                 # quotes wait
    said = capsys.readouterr().err
    assert said.count("measured in") == 3 and "ZeroDivisionError" in said
    assert reproduce(workers=2, only=["d90_first", "d91_one", "d93_last"]) == [] and capsys.readouterr().err.count("up to date") == 3
    (project.root / "nbs/discussions/d91_one.ipynb").write_text("{")                             # a page that cannot be read stops no other
    assert [n for n, _ in reproduce(workers=1, only=["d90_first", "d91_one"])] == ["d91_one"]


def test_pages_lose_widgets_and_keep_links_to_other_results():
    nb = notebook("1"); new = nbformat.v4.new_output
    nb.cells[-1].outputs = [new("display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "Bar"}),
                            new("display_data", {"text/html": '<a href="../../d01_other/a.svg">'})]
    page = clean_page(nb, dict(answer=dict(value=1)), "d90_toy")
    assert [o.data["text/html"] for o in page.cells[-1].outputs] == ['<a href="../d01_other/a.svg">']
