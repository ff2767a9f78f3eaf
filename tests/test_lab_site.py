"Building the site: what is brought up to date, what is refused, and what is handed to Quarto."
import json
import os
import stat
import subprocess

import pytest
from toy_site import ROOT, cell, make_project, notebook

from audioengram.lab.site import (
    SiteError,
    build_site,
    check_site,
    prepare_site,
    read_notebook,
    tidy,
    tidy_pages,
    write_notebook,
)


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
    assert "https://" not in "".join(p.read_text().split("</head>")[0] for p in site.rglob("*.html"))


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
    hidden = [c for c in read_notebook(project / "nbs/00_core.ipynb")["cells"] if "".join(c["source"]).startswith("#| hide")]
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
    nb = read_notebook(ROOT / name)
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
    assert "The ratio is 0.900 [0.880, 0.920]." in readme and "](figures/d99_toy/wave.svg)" in readme and "](nbs/00_core.ipynb)" in readme
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
