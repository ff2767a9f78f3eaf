"""The style ratchet: what `how we write` bounds may only get better. A number that fell is lowered here in the same commit."""
import ast
import json
from collections import Counter
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if not any(part.startswith(".") for part in p.parts))
MODULES = sorted(p for p in (ROOT / "audioengram").rglob("*.py") if p.name not in ("_modidx.py", "__init__.py") or p.parent.name == "codecs")
LIMITS = json.loads((ROOT / "tests" / "style.json").read_text())


def exported() -> list:
    "(notebook, source) of every exported cell."
    found = []
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code" and (source := "".join(cell["source"])).startswith("#| export"): found.append((path.name, source))
    return found


def code_cells() -> list:
    return [s for p in NOTEBOOKS for c in json.loads(p.read_text())["cells"] if c["cell_type"] == "code" for s in "".join(c["source"]).splitlines()]


def functions() -> list:
    "(module, name, lines) of every function of the package."
    found = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)): found.append((path.stem, node.name, node.end_lineno - node.lineno + 1))
    return found


def twice() -> list:
    "Public functions and classes whose name is defined in more than one module of the library; discussions have their own."
    names = Counter()
    for path in MODULES:
        if path.parent.name == "discussions" or path.name.startswith("cli"): continue
        names.update({n.name for n in ast.parse(path.read_text()).body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith("_")})
    return sorted(n for n, k in names.items() if k > 1)


def measured() -> dict:
    "What is bounded, as it is now."
    cells = [s.count("\n") + 1 for _, s in exported()]
    lengths = [len(p.read_text().splitlines()) for p in MODULES]
    return dict(
        long_lines=sum(len(line) > 120 for _, s in exported() for line in s.splitlines()),
        long_lines_of_lessons=sum(len(line) > 120 for line in code_cells()) - sum(len(line) > 120 for _, s in exported() for line in s.splitlines()),
        modules_over_400=sum(n > 400 for n in lengths),
        functions_over_60=sum(n > 60 for *_, n in functions()),
        cells_over_30=sum(n > 30 for n in cells),
        median_cell=median(cells),
        public_names_twice=len(twice()))


NOW = measured()


@pytest.mark.parametrize("what", sorted(LIMITS))
def test_it_only_gets_better(what):
    assert NOW[what] <= LIMITS[what], f"{what}: {NOW[what]}, at most {LIMITS[what]} (how we write: 120 columns, cells of 30 lines, functions of 60, modules of 400)"
    assert NOW[what] == LIMITS[what], f"{what} fell to {NOW[what]}: lower it in tests/style.json, so that it stays there"


def test_every_bound_is_measured():
    assert LIMITS.keys() == NOW.keys()


if __name__ == "__main__": print(json.dumps(measured(), indent=1)); print(twice())
