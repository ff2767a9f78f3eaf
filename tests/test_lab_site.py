"Building the site: what is brought up to date, what is refused, and what is handed to Quarto."
import json
import os
import re
import stat
import subprocess

import pytest
from toy_site import ROOT, cell, make_project, notebook

from audioengram.lab.pages import SiteError, raw_notebook, tidy, write_notebook
from audioengram.lab.site import build_site, check_site, prepare_site, tidy_pages


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def site(project):
    return build_site(root=project, quarto="never")


def test_site_is_whole_and_offline(site):
    assert check_site(site) == []
    page = (site / "figures/d99_toy/page.html").read_text()
    assert "<math" in page and "\\(" not in page and "katex" not in page
    assert (site / "index.html").is_file() and (site / "figures/d99_toy/original.flac").stat().st_size > 1000
    heads = "".join(p.read_text().split("</head>")[0] for p in site.rglob("*.html"))
    assert not re.search(r'<(?:script|link)[^>]*(?:src|href)="https?:', heads)          # addresses for others to follow are no loads


def test_a_page_can_be_shared(project, site):
    page, library = (site / "figures/d99_toy/page.html").read_text(), (site / "nbs/00_core.html").read_text()
    for part in ('property="og:title" content="Does the toy ring?"', 'property="og:description" content="Yes: the ratio is 0.900."', "og:image", "Cite this page",
                 "@misc{audioengram_d99_toy", '<a href="page.ipynb" download>', "/edit/main/nbs/discussions/d99_toy.ipynb", 'href="../../feed.xml"'):
        assert part in page, part
    measured = json.loads((project / "figures/d99_toy/manifest.json").read_text())["started"][:10]
    assert f'<time datetime="{measured}">' in page and "Cite this page" not in library and "/blob/main/nbs/00_core.ipynb" in library
    assert raw_notebook(site / "nbs/00_core.ipynb") == raw_notebook(project / "nbs/00_core.ipynb")
    assert "<title>Does the toy ring?</title>" in (site / "feed.xml").read_text()


def test_a_page_is_dressed(site):
    page = (site / "figures/d99_toy/page.html").read_text()
    for part in ('class="ae-skip"', '<th scope="col"', 'class="ae-scroll"', "--ae-least:"): assert part in page, part
    assert "prefers-color-scheme" in (site / "figures/d99_toy/wave.svg").read_text()


def test_search_finds_a_page_by_its_module(site):
    index = json.loads((site / "search.json").read_text())
    assert any(e["title"] == "Core · core" for e in index) and (site / "search.js").read_text().startswith("window.searchIndex=[")


def test_preparing_twice_changes_nothing(project, site):
    files = [p for p in project.rglob("*") if p.is_file() and "_site" not in p.parts]
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in files}
    prepare_site(project)
    assert [p for p in files if before[p] != (p.stat().st_mtime_ns, p.read_bytes())] == []


def test_a_second_build_does_nothing_until_something_changes(project, site):
    index, stamp = site / "nbs/index.html", (site / ".built").stat().st_mtime_ns
    index.write_text(index.read_text() + "<!-- untouched -->")
    assert build_site(root=project, quarto="never") == site and "untouched" in index.read_text() and (site / ".built").stat().st_mtime_ns == stamp
    css = project / "nbs/assets/site.css"
    css.write_text(css.read_text() + "/* changed */")
    build_site(root=project, quarto="never")
    assert "untouched" not in index.read_text() and "changed" in (site / "nbs/assets/site.css").read_text()


def test_pages_are_made_fit_for_quarto(project, site):
    hidden = [c for c in raw_notebook(project / "nbs/00_core.ipynb")["cells"] if "".join(c["source"]).startswith("#| hide")]
    assert hidden and all("remove-cell" in c["metadata"]["tags"] for c in hidden)
    page = (site / "nbs/00_core.html").read_text()
    assert "test_fail</code>" not in page and "default_exp" not in page and "#| export" not in page


def quarto_markdown(nb: dict) -> str:
    "Code cells as Quarto 1.8 writes them for Pandoc (src/core/jupyter/jupyter.ts): text where YAML should be is spelled into attributes."
    md = []
    for i, c in enumerate(nb["cells"]):
        lines = "".join(c["source"]).splitlines()
        if c["cell_type"] != "code": md.append("\n".join(lines) + "\n"); continue
        if "remove-cell" in c["metadata"].get("tags", []): continue
        head = [line[2:].strip() for line in lines if line.startswith("#|")]
        code, text = lines[len(head):], " ".join(head)
        if not code: continue
        attributes = "".join(f"{k}='{letter}' " for k, letter in enumerate(text)) if ":" not in text else ""
        outputs = [f"\n::: {{.cell-output .cell-output-display}}\n```\n{''.join(o['data']['text/plain'])}\n```\n:::\n" for o in c["outputs"] if "text/plain" in o.get("data", {})]
        md.append(f"::: {{#cell-{i} .cell {attributes}}}\n".replace(" }", "}") + "``` {.python .cell-code}\n" + "\n".join(code) + "\n```\n" + "".join(outputs) + ":::\n")
    return "\n".join(md)


@pytest.mark.parametrize("name", ["nbs/00_core.ipynb", "nbs/lab/25_site.ipynb", "nbs/lab/15_players.ipynb"])
def test_exported_cells_survive_quarto(name):
    import pypandoc
    nb = raw_notebook(ROOT / name)
    tidy(nb)
    exported = sum("".join(c["source"]).startswith("#| export") for c in nb["cells"])
    def render(*filters): return subprocess.run([pypandoc.get_pandoc_path(), "-f", "markdown", "-t", "html", *filters], input=quarto_markdown(nb), capture_output=True, text=True, check=True)
    broken, whole = render(), render("--lua-filter", str(ROOT / "nbs/assets/nbdev.lua"))
    assert broken.stdout.count("<p>::: {#cell") == exported > 3          # what Quarto would show
    assert "<p>:::" not in whole.stdout and not whole.stderr
    cells = [c for c in nb["cells"] if c["cell_type"] == "code" and [line for line in "".join(c["source"]).splitlines() if not line.startswith("#|")]]
    visible = sum("remove-cell" not in c["metadata"].get("tags", []) for c in cells)
    assert whole.stdout.count('class="cell"') == visible and whole.stdout.count("cell-code") == visible


def test_report_and_readme_quote_the_run(project, site):
    readme = (project / "README.md").read_text()
    assert "The ratio is 0.900 [0.880, 0.920]." in readme and 'src="figures/d99_toy/wave.svg"' in readme and "](nbs/00_core.ipynb)" in readme
    claims = project / "figures/d99_toy/claims.json"
    old = claims.read_text()
    try:
        claims.write_text(old.replace("0.9,", "0.7,").replace("0.88", "0.68"))
        prepare_site(project)
        assert "The ratio is 0.70 [0.68, 0.92]." in (project / "README.md").read_text()
        claims.write_text(json.dumps({}))
        with pytest.raises(Exception, match="unknown claim"): prepare_site(project)
    finally:
        claims.write_text(old); prepare_site(project)


@pytest.mark.parametrize("text, what", [
    ("[gone](nowhere.ipynb)", "nowhere"), ("![gone](../figures/d99_toy/gone.svg)", "gone.svg"), ("[gone](00_core.ipynb#no-such-part)", "no such anchor"),
    ('<audio controls preload="none" src="gone.flac"><source src="gone.flac"></audio>', "gone.flac"), ('<img src="https://x.org/p.png">', "from the network")])
def test_a_broken_reference_fails_the_build(project, text, what):
    page = project / "nbs/01_broken.ipynb"
    write_notebook(notebook(cell("markdown", f"# Broken\n> On purpose.\n\n{text}"), cell("code", "#| default_exp broken")), page)
    try:
        with pytest.raises(SiteError, match=what): build_site(out="_broken", root=project, quarto="never")
    finally: page.unlink()


def test_a_formula_that_cannot_be_read_is_named(project):
    page = project / "nbs/01_broken.ipynb"
    write_notebook(notebook(cell("markdown", "# Broken\n> On purpose.\n\nSo $\\frac{a$ is."), cell("code", "#| default_exp broken")), page)
    try:
        with pytest.raises(SiteError, match="frac"): build_site(out="_broken", root=project, quarto="never")
    finally: page.unlink()


def test_another_folder_is_never_emptied(project):
    precious = project / "figures" / "keep.txt"; precious.write_text("data")
    with pytest.raises(SiteError, match="not a built site"): build_site(out="figures", root=project, quarto="never")
    assert precious.read_text() == "data"; precious.unlink()


def quarto(folder, script):
    "A stand-in for the quarto binary."
    path = folder / "quarto"
    path.write_text("#!/bin/sh\n" + script); path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return path


def test_quarto_renders_where_it_is_on_the_path(project, tmp_path, monkeypatch):
    quarto(tmp_path, 'echo "$PWD $@" > called; mkdir -p "$4"; echo "<h1>Toy</h1>" > "$4/index.html"\n')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    out = build_site(out="_quarto_site", root=project)
    assert (project / "called").read_text().split() == [str(project.resolve()), "render", ".", "--output-dir", "._quarto_site.building"] and (out / "index.html").is_file()
    (project / "called").unlink()
    quarto(tmp_path, "echo 'ERROR: YAML is bad' >&2; exit 1\n")
    with pytest.raises(SiteError, match="YAML is bad"): build_site(out="_quarto_site", root=project, force=True)


def test_outside_a_clone_it_says_so(tmp_path):
    with pytest.raises(SiteError, match="inside a clone"): build_site(root=tmp_path)


def test_the_toy_uses_the_real_configuration():
    assert (ROOT / "_quarto.yml").is_file() and tidy_pages(ROOT / "no-such-folder") == []
