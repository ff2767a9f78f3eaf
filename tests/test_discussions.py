"Every discussion runs from top to bottom in its smoke profile, publishes a whole result, and measures what it measured before."
import json
from pathlib import Path

import canary
import pandas as pd
import pytest

from audioengram.stages import stage_versions

ROOT = Path(__file__).resolve().parent.parent
DISCUSSIONS = sorted(p.stem for p in (ROOT / "nbs" / "discussions").glob("d*.ipynb"))


@pytest.mark.parametrize("name", DISCUSSIONS)
def test_smoke(name, smoke):
    result = smoke(name)
    assert result.manifest["profile"] == "smoke" and result.claims and len(result.table("results")) and result.check() == []
    page = json.loads((result.folder / "page.ipynb").read_text())
    code = [c for c in page["cells"] if c["cell_type"] == "code"]
    assert not [o for c in code for o in c["outputs"] if o["output_type"] == "error"]
    prose = "".join("".join(c["source"]) for c in page["cells"] if c["cell_type"] == "markdown")
    assert "{claim:" not in prose, "a claim was not filled in"


@pytest.mark.parametrize("name", DISCUSSIONS)
def test_numbers_move_only_with_a_version(name, smoke, request):
    found = canary.digest(smoke(name))
    assert found["made_by"].items() <= stage_versions().items() and found["made_by"], "every page is made by stages of the register"
    if request.config.getoption("--canaries"): canary.write(name, found)
    assert not (said := canary.problem(name, found)), said


def test_every_canary_has_a_discussion():
    assert sorted(p.stem for p in canary.PLACE.glob("*.json")) == DISCUSSIONS
    assert max(p.stat().st_size for p in canary.PLACE.glob("*.json")) < 40_000


def test_the_canary_sees_what_it_should():
    "A change of one in a thousand of one value, a row, a column, a label and a missing value; and nothing where nothing moved."
    def of(df): return dict(made_by={"gap": 1}, tables=dict(results=dict(rows=len(df), columns={c: canary.summary(df[c]) for c in df})))
    df = pd.DataFrame(dict(speaker=list("abcde"), nll=[-1., 2., 3., 4., -8.], n=range(5)))
    base = of(df)
    assert canary.differences(base, of(df)) == []
    assert canary.differences(base, of(df.assign(nll=df.nll * (1 + 2e-4)))) == []
    assert canary.differences(base, of(df.assign(nll=[-1., 2.02, 3., 4., -8.]))) != []
    assert canary.differences(base, of(df[1:])) == ["results: 5 rows, now 4"]
    assert canary.differences(base, of(df.assign(speaker=list("abcdd")))) != []
    assert canary.differences(base, of(df.drop(columns="n"))) == ["results.n is gone"]
    assert "missing" in canary.differences(base, of(df.assign(nll=[float("nan"), *df.nll[1:]])))[0]
