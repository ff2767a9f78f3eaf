"Claims follow from rows: what a page states is made again from its published tables, and comes out the same."
import importlib
import inspect
import shutil

import pytest

from audioengram.core import read_json, write_json
from audioengram.lab.notebooks import redraw_page
from audioengram.lab.provenance import RunError, figures_dir
from audioengram.lab.reproduce import discussion_paths
from audioengram.lab.runs import Run, read_run

QUICK = ("d21_memory_over_codes", "d31_recursion")     # seconds; the others draw more
# these still measure and state in one function, and say so by `published`
WHOLE = [p.stem for p in discussion_paths() if "@published" in (p.parent.parent.parent / f"audioengram/discussions/{p.stem}.py").read_text()]
CASES = [pytest.param(p.stem, marks=() if p.stem in QUICK else pytest.mark.slow, id=p.stem) for p in discussion_paths() if p.stem not in WHOLE]


def close(a: dict, b: dict) -> bool:
    "Equal but for the seven digits with which rows are written."
    if a.keys() != b.keys() or any(isinstance(a[k], str) and a[k] != b[k] for k in a): return False
    scale = max([abs(a["hi"] - a["lo"])] if "lo" in a else [abs(a["value"])] if not isinstance(a["value"], str) else [0.])
    numbers = [k for k in ("value", "lo", "hi") if k in a and not isinstance(a[k], str)]
    return all(abs(a[k] - b[k]) <= 2e-3 * scale + 1e-9 for k in numbers)


@pytest.mark.parametrize("name", CASES)
def test_published_claims_follow_from_published_rows(name, tmp_path, monkeypatch):
    shutil.copytree(figures_dir() / name, tmp_path / name)
    was = read_run(tmp_path / name)
    monkeypatch.setenv("AUDIOENGRAM_STAGE", str(tmp_path))
    monkeypatch.setenv("AUDIOENGRAM_REDRAW", "1")
    run = importlib.import_module(f"audioengram.discussions.{name}").run
    given = was.manifest["page"]["parameters"]
    now = run(**{k: given[k] for k in inspect.signature(run).parameters if k in given})
    assert now.claims.keys() == was.claims.keys() and now.check() == []
    assert [k for k in was.claims if not close(was.claims[k], now.claims[k])] == []
    assert now.manifest["clips"] == was.manifest["clips"] and now.manifest["made_by"] == was.manifest["made_by"]
    assert now.manifest["git"] == was.manifest["git"]                     # rows are of the commit that measured them


def toy(folder, value=2.):
    "A run with one claim that is made from its rows."
    def measure(run, how): run.rows([dict(speaker="a", x=1.), dict(speaker="b", x=value)]); run.input(codec=dict(name="toy", fingerprint="abc"))
    with Run("toy", {}, folder=folder, profile="smoke") as run:
        run.measured(measure, None)
        run.claim("sum", float(run.table().x.sum()), exact="toy")
    return read_run(folder)


def test_rows_stand_and_claims_are_made_from_them(tmp_path, monkeypatch):
    first = toy(tmp_path / "toy")
    monkeypatch.setenv("AUDIOENGRAM_REDRAW", "1")
    again = toy(tmp_path / "toy", value=99.)                              # what would be measured now is not asked
    assert again.claims["sum"]["value"] == 3. and again.manifest == first.manifest
    rows = (tmp_path / "toy" / "results.csv").read_text()
    write_json(tmp_path / "toy" / "claims.json", dict(sum=dict(value=7., exact="typed by hand")))
    mended = toy(tmp_path / "toy")
    assert mended.claims["sum"]["value"] == 3. and (tmp_path / "toy" / "results.csv").read_text() == rows
    assert mended.manifest["inputs"] == first.manifest["inputs"] and mended.check() == []


def test_rows_of_other_stages_are_not_drawn_again(tmp_path):
    shutil.copytree(figures_dir() / "d31_recursion", tmp_path / "d31_recursion")
    file = tmp_path / "d31_recursion" / "manifest.json"
    manifest = read_json(file)
    write_json(file, manifest | dict(made_by=manifest["made_by"] | {"recursion": 0}))
    with pytest.raises(RunError, match="other measuring code: stage recursion was version 0") as e: redraw_page("d31_recursion", tmp_path)
    assert "audioengram run d31_recursion --publish" in str(e.value)
