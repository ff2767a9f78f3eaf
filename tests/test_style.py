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
        long_leads=sum(len(text.splitlines()[0]) > 120 for p in MODULES if p.parent.name != "discussions" and (text := p.read_text())),   # those state results
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


# what draws units or makes an interval; whoever names one of these, in the library or on a page, does so too
RESAMPLERS = {"resample_counts", "crossed", "error_rate", "sign_flip_p", "permutation_p", "rank_agreement"}
DISCUSSIONS = sorted((ROOT / "audioengram" / "discussions").glob("d*.py"))


def names_of(tree) -> dict:
    "Function of a module -> the names that it takes from outside itself."
    found = {}
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef): continue
        used = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
        own = {n.id for n in used if isinstance(n.ctx, ast.Store)} | {a.arg for a in ast.walk(node) if isinstance(a, ast.arg)}
        found[node.name] = {n.id for n in used} - own
    return found


def reaching(functions: dict, wanted) -> set:
    "Functions that name one of those wanted, or another that does."
    there, more = set(), True
    while more:
        more = {f for f, names in functions.items() if names & (wanted | there)} - there
        there |= more
    return there


def library_resamplers() -> set:
    "Public names of the library that reach a resampler; they are unique in it."
    known, modules = set(RESAMPLERS), [names_of(ast.parse(p.read_text())) for p in MODULES if p.parent.name != "discussions"]
    while more := {f for m in modules for f in reaching(m, known) if not f.startswith("_")} - known: known |= more
    return known


def drawing_that_resamples(source: str, known: set) -> list:
    "Functions of a page that draw and reach a resampler, or ask for resamples or a seed."
    tree = ast.parse(source)
    functions = names_of(tree)
    there = reaching(functions, known - functions.keys())      # a page's own name hides that of the library
    asks = {f.name for f in tree.body if isinstance(f, ast.FunctionDef) and {"n", "seed"} & {a.arg for a in f.args.args + f.args.kwonlyargs}}
    return sorted(f for f in there | asks if f.startswith("draw_"))


KNOWN = library_resamplers()


@pytest.mark.parametrize("page", DISCUSSIONS, ids=lambda p: p.stem)
def test_drawing_reads_estimates_and_never_resamples(page):
    assert not drawing_that_resamples(page.read_text(), KNOWN), "make the table in `tell` and hand it to the drawing (how we write, bound 6)"


def test_drawing_that_resamples_is_seen():
    assert {"bootstrap_by", "bootstrap_sums", "speaker_means", "paired_by", "ratio_of", "ratio_of_sums", "area_by", "test_rows", "gain"} <= KNOWN
    assert not {"panels", "interval_plot", "band_plot", "case_plot", "estimate_row", "by_title", "pick"} & KNOWN
    page = "def table(t): return crossed(t)\ndef draw_far(t): return middle(t)\ndef middle(t): return table(t)\ndef draw_read(table): return table.value"
    assert drawing_that_resamples(page, KNOWN) == ["draw_far"]
    assert drawing_that_resamples("def draw_a(t, seed=0): return t\ndef draw_b(t, *, n): return t\ndef make(t, n): return n", KNOWN) == ["draw_a", "draw_b"]
    assert not drawing_that_resamples("def gain(t): return t\ndef draw_own(t): return gain(t)", KNOWN)


if __name__ == "__main__": print(json.dumps(measured(), indent=1)); print(twice())
