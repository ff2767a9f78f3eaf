"Building the site: what is brought up to date, what is refused, and what is handed to Quarto."
import json
import os
import stat

import pytest
from toy_site import ROOT, cell, make_project, notebook

from audioengram.lab.site import SiteError, build_site, check_site, prepare_site, read_notebook, tidy_pages, write_notebook


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def site(project):
    return build_site(root=project, quarto="never")


def test_site_is_whole_and_offline(site):
    assert check_site(site) == []
    page = (site / "figures/d99_toy/page.html").read_text()
    assert "<math" in page and "\\(" not in page and "katex" not in page and 'class="code-fold"' in page
    assert (site / "index.html").is_file() and (site / "figures/d99_toy/original.flac").stat().st_size > 1000
    assert "https://" not in "".join(p.read_text().split("</head>")[0] for p in site.rglob("*.html"))


def test_preparing_twice_changes_nothing(project, site):
    files = [p for p in project.rglob("*") if p.is_file() and "_site" not in p.parts]
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in files}
    prepare_site(project)
    assert [p for p in files if before[p] != (p.stat().st_mtime_ns, p.read_bytes())] == []


def test_pages_are_made_fit_for_quarto(project, site):
    sources = ["".join(c["source"]) for c in read_notebook(project / "nbs/00_core.ipynb")["cells"] if c["cell_type"] == "code"]
    directives = [line for s in sources for line in s.splitlines() if line.startswith("#|")]
    assert directives and all(line.endswith(":") or "default_exp" in line or ": " in line for line in directives)
    assert "#| code-fold: true" in (project / "figures/d99_toy/page.ipynb").read_text()


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
    assert (project / "called").read_text().split() == [str(project.resolve()), "render", ".", "--output-dir", "_quarto_site"] and (out / "index.html").is_file()
    (project / "called").unlink()
    quarto(tmp_path, "echo 'ERROR: YAML is bad' >&2; exit 1\n")
    with pytest.raises(SiteError, match="YAML is bad"): build_site(out="_quarto_site", root=project)


def test_outside_a_clone_it_says_so(tmp_path):
    with pytest.raises(SiteError, match="inside a clone"): build_site(root=tmp_path)


def test_the_toy_uses_the_real_configuration():
    assert (ROOT / "_quarto.yml").is_file() and tidy_pages(ROOT / "no-such-folder") == []
