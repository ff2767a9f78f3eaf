"Every discussion runs from top to bottom in its smoke profile and publishes a whole result."
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DISCUSSIONS = sorted(p.stem for p in (ROOT / "nbs" / "discussions").glob("d*.ipynb"))


@pytest.mark.parametrize("name", DISCUSSIONS)
def test_smoke(name, tmp_path):
    from audioengram.lab.notebooks import run_notebook
    from audioengram.lab.runs import read_run
    run_notebook(name, profile="smoke", figures=tmp_path, progress=False)
    result = read_run(tmp_path / name)
    assert result.manifest["profile"] == "smoke" and result.claims and len(result.table("results"))
    page = json.loads((tmp_path / name / "page.ipynb").read_text())
    code = [c for c in page["cells"] if c["cell_type"] == "code"]
    assert not [o for c in code for o in c["outputs"] if o["output_type"] == "error"]
    prose = "".join("".join(c["source"]) for c in page["cells"] if c["cell_type"] == "markdown")
    assert "{claim:" not in prose, "a claim was not filled in"
