"The house rules for pages and modules: who may import whom, what a page may hold, and that nothing generated is out of step."
import ast
import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from audioengram.lab.claims import format_claims, quoted_claims
from audioengram.lab.glossary import TERMS
from audioengram.lab.home import CARDS, fresh_report, readme, sidebar
from audioengram.lab.pages import library_pages, page_problems, raw_notebook, read_page, result_pages, text_of
from audioengram.lab.reading import lead_of, reading_ease, verdicts_then_and_now
from audioengram.lab.reproduce import stale_reasons
from audioengram.lab.runs import read_run
from audioengram.stages import moved_stages

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "audioengram"
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if not any(part.startswith(".") for part in p.parts))
LIBRARY = [p for p in NOTEBOOKS if "discussions" not in p.parts and p.name != "index.ipynb"]
APPS = sorted((ROOT / "nbs/apps").glob("*.ipynb"))      # opened and used; they export nothing
DISCUSSIONS = sorted((ROOT / "nbs/discussions").glob("d*.ipynb"))
PUBLISHED = [ROOT / p.path for p in result_pages(ROOT)]
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if "__pycache__" not in p.parts and p.name != "_modidx.py")

# The rooms and what each may import, beside itself; `data.audio` names one module of a room.
COMMANDS = ("start", "cli_sounds", "cli_common", "cli", "cli_codes", "cli_generate", "cli_codec", "cli_latents", "cli_corpus", "cli_runs", "cli_study", "cli_ember")
ALL = ("core", "errors", "stages", "devices", "processes", "tracking", "options", "data", "codecs", "heads", "measure", "dynamics", "codes", "ember", "lab", "discussions", *COMMANDS)
BASE = ("core", "errors", "stages", "devices", "processes", "tracking", "options")   # what every room may use
EVERYTHING = tuple(r for r in ALL if r not in COMMANDS)
MAY_IMPORT = dict(
    core=("errors",), errors=(), stages=("core", "errors"), devices=("core", "errors"), processes=("core", "errors", "devices"), tracking=("errors",), options=("core", "errors"), data=BASE, codecs=(*BASE, "data.audio"), heads=BASE,
    measure=(*BASE, "heads"), dynamics=(*BASE, "data", "codecs", "heads", "measure"), codes=(*BASE, "data", "codecs", "measure"),
    ember=(*BASE, "data", "measure"), lab=(*BASE, "data"), discussions=EVERYTHING,
    **{c: tuple(r for r in ALL if r != c) for c in COMMANDS})
ALSO = {f"data.{m}": ("codecs",) for m in ("latents", "cases", "small_codecs")}   # the store builds the codec that decodes it; a case is a corpus under a codec; a small codec is trained on a corpus
ALSO |= {"lab.parameters": ("codecs",), "lab.codec_compare": ("codecs", "measure"), "lab.voices": ("measure",), "lab.verdicts": ("measure",), "lab.study": ("codecs", "measure")}   # a study goes from the download to the report; names are checked before a run; codecs and voices are compared by ear and by score


def ids(paths): return [str(p.relative_to(ROOT)) for p in paths]


def name_of(path: Path) -> str:
    "Dotted name inside the package: `data.audio`, and `codecs` for a room's `__init__`."
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, top_only=False) -> set:
    "Modules of the package that a module imports, wherever in it (or only at its top)."
    tree, here, known = ast.parse(path.read_text()), path.relative_to(PACKAGE).parent.parts, {name_of(p) for p in MODULES}
    found = set()
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import): dotted = [a.name.removeprefix("audioengram.") for a in node.names if a.name.startswith("audioengram.")]
        elif isinstance(node, ast.ImportFrom):
            if node.level: base = ".".join((*here[:len(here) - node.level + 1], *(node.module or "").split("."))).strip(".")
            elif (node.module or "").split(".")[0] == "audioengram": base = node.module.removeprefix("audioengram").strip(".")
            else: continue
            dotted = [d if (d := f"{base}.{a.name}".strip(".")) in known else base for a in node.names]
        else: continue
        found |= {d for d in dotted if d}
    return found


def test_imports_are_read_right(tmp_path):
    "The reader of imports sees relative, absolute, nested and module imports."
    probe = PACKAGE / "lab" / "players.py"
    assert {"core", "data.audio"} <= imports(probe)
    assert name_of(PACKAGE / "codecs" / "__init__.py") == "codecs" and name_of(probe) == "lab.players"


@pytest.mark.parametrize("path", MODULES, ids=ids(MODULES))
def test_a_module_imports_only_from_rooms_on_its_left(path):
    name = name_of(path)
    if not name: return   # the package's own __init__ holds a version
    room = name.split(".")[0]
    assert room in MAY_IMPORT, f"{name} is in a room that the architecture does not know"
    allowed = (*MAY_IMPORT[room], *ALSO.get(name, ()))
    wrong = [m for m in imports(path) if m.split(".")[0] != room and not any(m == a or m.startswith(a + ".") or a.startswith(m + ".") and m != room for a in allowed)]
    assert not wrong, f"{name} may import {', '.join(allowed) or 'nothing'}, not {', '.join(sorted(wrong))}"
    if room == "discussions": assert not [m for m in imports(path) if m.startswith("discussions")], "discussions never import each other"


def test_no_room_imports_in_circles():
    graph = {name_of(p): imports(p, top_only=True) for p in MODULES}
    done, open_ = set(), []
    def visit(m):
        assert m not in open_, f"circular import: {' -> '.join([*open_[open_.index(m):], m])}"
        if m in done or m not in graph: return
        open_.append(m)
        for n in sorted(graph[m]): visit(n)
        open_.pop(); done.add(m)
    for m in sorted(graph): visit(m)


def test_one_notebook_one_module():
    pages = [read_page(p, ROOT) for p in NOTEBOOKS if p.name != "index.ipynb" and p not in APPS]
    unnamed = [str(p.path) for p in pages if not p.module]
    assert not unnamed, f"no default_exp in {unnamed}"
    twice = [m for m, n in Counter(p.module for p in pages).items() if n > 1]
    assert not twice, f"two notebooks export to {twice}: the first one's code is lost"
    exported = {p.module.removesuffix(".__init__") for p in pages}
    written = {name_of(p) for p in MODULES if name_of(p)}
    bare = {n for n in written if (PACKAGE / n.replace(".", "/") / "__init__.py").is_file() and n not in exported}   # nbdev makes empty ones
    assert all(len((PACKAGE / n.replace(".", "/") / "__init__.py").read_text().strip()) == 0 for n in bare)
    assert written - bare == exported, f"without a notebook: {sorted(written - bare - exported)}; without a module: {sorted(exported - written)}"


def test_a_notebook_stands_where_its_module_does():
    for page in (read_page(p, ROOT) for p in NOTEBOOKS if p.name != "index.ipynb" and p not in APPS):
        room, stem = (page.path.parts[1] if len(page.path.parts) > 2 else ""), page.path.stem
        name = stem if room == "discussions" else re.sub(r"^\d\d_", "", stem)
        want = {f"{room}.{name}".strip("."), *((f"{room}.__init__",) if name == room else ())}
        assert page.module in want, f"{page.path} exports to {page.module}, expected {sorted(want)}"


def test_numbers_give_one_reading_order():
    for folder in {p.parent for p in LIBRARY}:
        numbers = Counter(re.match(r"(\d\d)_", p.name)[1] if re.match(r"(\d\d)_", p.name) else "" for p in folder.glob("*.ipynb") if p.name != "index.ipynb")
        assert "" not in numbers, f"a notebook in {folder.relative_to(ROOT)} has no number"
        assert max(numbers.values()) == 1, f"two notebooks in {folder.relative_to(ROOT)} have one number: {[n for n, k in numbers.items() if k > 1]}"
    assert len({p.stem.split("_")[0] for p in DISCUSSIONS}) == len(DISCUSSIONS)
    order = [p.path for p in library_pages(ROOT)]
    assert len(order) == len(LIBRARY) and order[0].name == "00_core.ipynb"


def parameter_cells(path: Path) -> list:
    return [c for c in raw_notebook(path)["cells"] if "parameters" in c["metadata"].get("tags", [])]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=ids(NOTEBOOKS))
def test_parameters_cells(path):
    cells = parameter_cells(path)
    if path in DISCUSSIONS: assert len(cells) == 1 and cells[0]["cell_type"] == "code", f"{path.name} needs exactly one cell tagged parameters"
    else: assert not cells, f"{path.name} is no discussion: it takes no parameters"


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PUBLISHED], ids=ids([*NOTEBOOKS, *PUBLISHED]))
def test_page_is_fit_to_publish(path):
    problems = page_problems(path)
    assert not problems, f"{path.relative_to(ROOT)} " + "; ".join(problems)


def test_figures_are_light():
    hidden = lambda p: any(part.startswith(".") for part in p.relative_to(ROOT).parts)
    # pictures of clips are drawn where they are shown, and are not kept
    files = [p for p in (ROOT / "figures").rglob("*") if p.is_file() and not hidden(p) and p.suffix != ".png"]
    assert sum(p.stat().st_size for p in files) < 20e6
    heavy = [f"{p.relative_to(ROOT)} {p.stat().st_size / 1e3:.0f} kB" for p in files if p.suffix in (".png", ".svg", ".flac", ".mp3", ".ogg") and p.stat().st_size > 500e3]
    assert not heavy


@pytest.mark.parametrize("path", PUBLISHED, ids=ids(PUBLISHED))
def test_published_results_are_what_the_run_wrote(path):
    run = read_run(path.parent)
    assert run.name == path.parent.name and run.check() == []
    commit = run.manifest["git"]
    assert commit and not commit["dirty"], "a published number points at a clean commit: commit the code, then audioengram run --publish"
    assert not (run.manifest.get("stated") or {}).get("dirty"), "what is stated points at a clean commit: commit, then audioengram redraw"
    text = "".join(p.read_text() for p in (path.parent / "manifest.json", path.parent / "claims.json"))
    assert not re.search(r'"/(home|root|tmp|work|Users)/', text), "the manifest names a place of this machine"


@pytest.mark.parametrize("path", DISCUSSIONS, ids=ids(DISCUSSIONS))
def test_published_numbers_answer_for_the_stages_of_today(path):
    "Each page and each of its cases: what was carried over from an absent corpus would be dropped on the next run."
    folder = ROOT / "figures" / path.stem
    if not folder.exists(): pytest.skip(f"{path.stem} has not been run: make reproduce")
    assert stale_reasons(path) == []
    for about in json.loads((folder / "cases.json").read_text()) if (folder / "cases.json").exists() else []:
        assert moved_stages(about["made_by"]) == [] and set(about["clips"]) <= read_run(folder).manifest["clips"].keys(), about["title"]


@pytest.mark.parametrize("path", DISCUSSIONS, ids=ids(DISCUSSIONS))
def test_prose_quotes_claims_that_exist_and_are_filled_in_as_they_are_now(path):
    page = ROOT / "figures" / path.stem / "page.ipynb"
    if not page.exists(): pytest.skip(f"{path.stem} has not been run: make reproduce")
    claims = read_run(page.parent).claims
    shown = "\n".join(text_of(c["source"]) for c in raw_notebook(page)["cells"] if c["cell_type"] == "markdown")
    for cell in raw_notebook(path)["cells"]:
        if cell["cell_type"] == "markdown" and quoted_claims(text_of(cell["source"])):
            assert format_claims(text_of(cell["source"]), claims).strip() in shown, f"{page.relative_to(ROOT)} is old: run audioengram redraw {path.stem}"


# A number as prose would type a result: with two or more decimals, a percentage, or with an interval behind it.
_TYPED = re.compile(r"(?<![\w.{/])[-−]?\d+\.\d{2,}(?![\w.]*\})|\d(?:\.\d+)?\s?%|\d \[[-−\d]")


def test_the_report_types_no_measured_number():
    prose = "\n".join(text_of(c["source"]) for c in raw_notebook(ROOT / "nbs/index.ipynb")["cells"])
    prose = re.sub(r"```.*?```|`[^`]*`|\{claim:[^}]*\}|(Python|License|Debian) [\d.]+", "", prose, flags=re.S)
    assert not _TYPED.findall(prose)


def test_generated_files_are_in_step():
    remedy = "run `audioengram site`"
    assert fresh_report(ROOT) == raw_notebook(ROOT / "nbs/index.ipynb"), f"nbs/index.ipynb stores old outputs: {remedy}"
    assert (ROOT / "README.md").read_text() == readme(ROOT), f"README.md differs from nbs/index.ipynb: {remedy}"
    assert (ROOT / "_sidebar.yml").read_text() == sidebar(ROOT), f"_sidebar.yml differs from the notebooks on disk: {remedy}"


def test_readme_tells_a_newcomer_what_is_needed():
    text = (ROOT / "README.md").read_text()
    for word in ("make reproduce", "make test", "apt-get install", "GPU", "Mimi", "Apache-2.0", "](nbs/00_core.ipynb)"): assert word in text, word
    for target in re.findall(r"\]\(([^)#:]+)\)", text): assert (ROOT / target).exists(), f"README.md links to {target}, which is not there"


def test_quarto_configuration():
    "Every key that matters offline, and no page rendered twice or left out."
    config = yaml.safe_load((ROOT / "_quarto.yml").read_text())
    assert config["execute"] == {"enabled": False}
    assert config["format"]["html"]["html-math-method"] == "mathml" and config["format"]["html"]["theme"] == "default"
    contents = yaml.safe_load((ROOT / "_sidebar.yml").read_text())["website"]["sidebar"]["contents"]
    assert len({c["section"] for c in contents if "section" in c}) >= 10, "contents in groups"
    linked = [x if isinstance(x, str) else x.get("href") for c in contents for x in (c["contents"] if isinstance(c, dict) and "section" in c else [c])]
    assert sorted(linked) == sorted(["nbs/index.ipynb", *(p.path.as_posix() for p in (*library_pages(ROOT), *result_pages(ROOT)))])
    for name in (config["format"]["html"]["css"], config["website"]["favicon"], config["format"]["html"]["include-after-body"][0]["file"]): assert (ROOT / name).is_file()
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {"_site/", ".quarto/"} <= set(ignored)


def test_nothing_in_the_assets_comes_from_the_network():
    for path in (ROOT / "nbs/assets").glob("*.*"):
        assert not re.search(r"(src|href|url)\s*[=(]\s*['\"]?(https?:)?//", path.read_text()), path.name
    assert "SIL Open Font License" in (ROOT / "nbs/assets/fonts/LICENSES.txt").read_text()


def test_notebook_json_is_small_enough_to_review():
    "Kernels and nothing else in the metadata: state of widgets or of an editor does not belong in a repository."
    for path in NOTEBOOKS:
        assert set(json.loads(path.read_text())["metadata"]) <= {"kernelspec"}, path.relative_to(ROOT)


def test_cards_name_figures_and_claims_that_are_published():
    "The front page quotes a figure and a number of each result, by name."
    for page in result_pages(ROOT):
        run = read_run(ROOT / page.path.parent)
        figure, claim, says = CARDS.get(run.name.split("_")[0], (None, None, "unlisted"))
        if figure is None: continue
        assert figure in run.manifest["figures"], f"lab.home.CARDS shows {figure!r} of {run.name}, which has {', '.join(run.manifest['figures'])}"
        assert claim.partition("|")[0] in run.claims and says, f"lab.home.CARDS quotes {claim!r}, which {run.name} does not state"


def test_terms_of_the_glossary_lead_to_pages_that_are_there():
    for term in TERMS: assert not term.page or (ROOT / term.page).is_file(), f"{term.name} leads to {term.page}"


@pytest.mark.parametrize("path", PUBLISHED, ids=ids(PUBLISHED))
def test_a_verdict_is_read_in_one_breath(path):
    "At most 45 words; an interval is none."
    lead = re.sub(r"\[[^\]]*\]", "", read_page(path, ROOT).lead)
    words = re.findall(r"[\w%][\w%.,'’()+-]*", lead)
    assert 5 <= len(words) <= 45, f"{len(words)} words; the rest belongs under the result: {lead}"


LEAST_EASE = 40     # Flesch's reading ease: papers of this field lie between 10 and 30, newspapers near 60
HARD = {}                # page -> why its verdict may be harder


@pytest.mark.parametrize("path", PUBLISHED, ids=ids(PUBLISHED))
def test_a_verdict_is_read_easily(path):
    lead = read_page(path, ROOT).lead
    assert reading_ease(lead) >= LEAST_EASE or path.parent.name in HARD, f"reading ease {reading_ease(lead):.0f}, at least {LEAST_EASE}: {lead}"


def test_a_hard_verdict_would_be_noticed():
    hard = "Probabilistic autoregression presupposes conditional stationarity of representational dynamics under teacher-forced marginalisation."
    assert reading_ease(hard) < LEAST_EASE and lead_of(f"# Title\n> {hard}\n\nText") == hard


def test_every_first_verdict_is_on_record():
    rows = verdicts_then_and_now(ROOT)
    assert [r["page"] for r in rows if not r["then"]] == [], "run python benchmarks/first_verdicts.py after a page was published first"
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", r["date"]) for r in rows)
