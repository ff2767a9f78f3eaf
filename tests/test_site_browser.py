"The site in headless Chromium, opened from disk without a network: every page quiet, every picture seen, every clip loaded."
import gzip
import json
import os
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from toy_site import ROOT, make_project

from audioengram.lab.dress import _CODE, _NOT_LINKED, _PROSE, _QUIET, LEAST_LETTER, change_text
from audioengram.lab.glossary import _FORMS, _ORDER
from audioengram.lab.listening import preference, read_choices
from audioengram.lab.site import build_site, check_site, render_site

pytestmark = pytest.mark.browser
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# Every picture and clip of a page, asked to load as a reader would make them load.
LOAD = """async () => {
  const wait = (ok, node, events) => ok() ? true : new Promise((done) => { for (const e of events) node.addEventListener(e, () => done(ok()), {once: true}); setTimeout(() => done(ok()), 8000); });
  const bad = [];
  for (const i of document.images) { i.loading = "eager"; if (!await wait(() => i.complete && i.naturalWidth > 0, i, ["load", "error"])) bad.push("image " + i.src); }
  for (const a of document.querySelectorAll("audio")) {
    if (a.preload !== "none") bad.push("preloads " + a.currentSrc);
    a.load(); a.preload = "auto";
    if (!await wait(() => a.readyState >= 3 && a.duration > 0, a, ["canplay", "error"])) bad.push("clip " + a.currentSrc);
    if (!a.controls) bad.push("no controls " + a.currentSrc);
  }
  for (const s of document.querySelectorAll("main svg, main math")) if (!s.closest("details") && s.getBoundingClientRect().width < 1) bad.push(s.localName + " without width");
  const prose = document.body.cloneNode(true);
  for (const n of prose.querySelectorAll("pre, code, script, style")) n.remove();
  return {bad, images: document.images.length, clips: document.querySelectorAll("audio").length, formulas: document.querySelectorAll("math").length, text: prose.textContent, title: document.querySelector("main h1").textContent};
}"""

# What a reader without a mouse or with tired eyes would stumble over, in words: names, labels, landmarks, headings, contrast.
AUDIT = """() => {
  const found = [], say = (what, node) => found.push(what + ": " + (node.outerHTML || "").slice(0, 110));
  const shown = (n) => n.getClientRects().length > 0 && getComputedStyle(n).visibility !== "hidden";
  const name = (n) => (n.getAttribute("aria-label") || n.textContent || n.title || n.querySelector("img")?.alt || "").trim();
  for (const n of document.querySelectorAll("a[href], button, summary, [role=button]")) if (shown(n) && !name(n)) say("no name", n);
  for (const n of document.images) if (!n.hasAttribute("alt") || (n.closest("main") && !n.alt.trim())) say("no alternative text", n);
  for (const n of document.querySelectorAll("input, select, textarea")) if (shown(n) && !n.labels?.length && !n.getAttribute("aria-label")) say("no label", n);
  for (const n of document.querySelectorAll("audio")) if (!n.getAttribute("aria-label") && !n.title) say("a player without a name", n);
  for (const n of document.querySelectorAll("main thead th, main tbody th")) if (!n.scope) say("a heading of a table without scope", n);
  if (document.querySelectorAll("main").length !== 1 || document.querySelectorAll("h1").length !== 1) found.push("not one main and one h1");
  if (!document.documentElement.lang || !document.title) found.push("no language or title");
  const ids = [...document.querySelectorAll("[id]")].map((n) => n.id), twice = ids.filter((id, i) => ids.indexOf(id) !== i);
  if (twice.length) found.push("ids twice: " + twice.slice(0, 3));
  for (const n of document.querySelectorAll("[aria-hidden=true] a[href], [role=navigation][aria-expanded]")) say("a wrong role", n);

  const parse = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
  const light = ([r, g, b]) => { const f = (x) => (x /= 255) <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4; return .2126 * f(r) + .7152 * f(g) + .0722 * f(b); };
  const behind = (n) => { for (; n; n = n.parentElement) { const c = parse(getComputedStyle(n).backgroundColor); if (c[3] > .9) return c; } return [255, 255, 255, 1]; };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const n = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !shown(n) || n.closest("svg, script, style, .ae-skip")) continue;
    const style = getComputedStyle(n), a = light(parse(style.color)), b = light(behind(n)), ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.7 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) say("contrast " + ratio.toFixed(2), n);
  }
  return [...new Set(found)].slice(0, 12);
}"""

# How wide each figure is shown once the picture for this width is there (a turned phone chooses another), and which part of a page sticks out.
FIGURES = """() => Promise.all([...document.querySelectorAll("main .ae-figure img")].map(async (i) => {
  for (let tries = 0; tries < 200 && !(i.currentSrc && i.complete && i.naturalWidth); tries++) await new Promise((done) => setTimeout(done, 40));
  return [i.currentSrc, i.getBoundingClientRect().width, i.parentElement.closest(".ae-figure").clientWidth];
}))"""
SIDEWAYS = "() => document.documentElement.scrollWidth - window.innerWidth"


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None: pytest.skip("needs Chromium: apt-get install chromium")
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"])
        yield browser
        browser.close()


class Tab:
    "A browser tab without a network that notes whatever goes wrong."
    def __init__(self, browser, scheme="light"):
        self.context = browser.new_context(offline=True, viewport=dict(width=1400, height=900), color_scheme=scheme)
        self.page, self.wrong = self.context.new_page(), []
        self.page.on("console", lambda m: self.wrong.append(f"console: {m.text}") if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.wrong.append(f"script: {e}"))
        self.page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else self.wrong.append(f"network: {r.url}"))
        self.page.on("requestfailed", lambda r: self.wrong.append(f"failed: {r.url}") if "ERR_ABORTED" not in str(r.failure) else None)

    def __enter__(self): return self
    def __exit__(self, *_): self.context.close()

    def look(self, path: Path) -> dict:
        "Open a page, load all it holds, and insist that nothing went wrong."
        self.page.goto(path.as_uri(), wait_until="load")
        if 'http-equiv="refresh"' in path.read_text(): self.page.wait_for_url(lambda url: url != path.as_uri(), wait_until="load")
        seen = self.page.evaluate(LOAD)
        assert not self.wrong and not seen["bad"], f"{path.name}: {self.wrong + seen['bad']}"
        for scrap in (":::", "{claim:", "\\(", "[object Object]"): assert scrap not in seen["text"], f"{path.name} shows {scrap!r}"
        return seen


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return build_site(root=make_project(tmp_path_factory.mktemp("project"), library=("nbs/00_core.ipynb", "nbs/01_errors.ipynb", "nbs/lab/25_site.ipynb")), quarto="never")


def test_every_page_of_the_toy_opens_offline(chromium, toy):
    pages = sorted(toy.rglob("*.html"))
    assert len(pages) == 7
    with Tab(chromium) as tab:
        for path in pages: tab.look(path)
        seen = tab.look(toy / "figures/d99_toy/page.html")
        assert (seen["images"], seen["clips"], seen["formulas"]) == (4, 3, 2)
        assert tab.look(toy / "index.html")["title"] == "Toy"      # the front door leads to the report


def test_a_missing_clip_would_be_noticed(chromium, toy, tmp_path):
    broken = shutil.copytree(toy, tmp_path / "site")
    (broken / "figures/d99_toy/noisy.flac").write_bytes(b"not a clip")
    with Tab(chromium) as tab, pytest.raises(AssertionError, match="noisy.flac"): tab.look(broken / "figures/d99_toy/page.html")


def test_clips_are_compared_with_keys_and_clicks(chromium, toy):
    state = "() => [...document.querySelectorAll('audio')].map(a => [a.paused, a.currentTime])"
    with Tab(chromium) as tab:
        tab.page.goto((toy / "figures/d99_toy/page.html").as_uri())
        tab.page.evaluate("() => document.querySelectorAll('audio').forEach(a => a.playbackRate = .1)")   # a busy machine must not reach the end of a clip
        box = tab.page.locator(".ae-picture").first.bounding_box()
        tab.page.locator(".ae-picture").first.click(position=dict(x=box["width"] / 2, y=20))            # seek to the middle of the first
        tab.page.wait_for_function("() => { const a = document.querySelectorAll('audio')[0]; return !a.paused && a.currentTime > 1.4 }")
        tab.page.keyboard.press("2")                                                                    # the second, at the same moment
        tab.page.wait_for_function("() => { const a = document.querySelectorAll('audio')[1]; return !a.paused && a.currentTime > 1.4 }")
        (first, at), (second, then), (third, _) = tab.page.evaluate(state)
        assert first and third and not second and abs(at - then) < .4
        assert tab.page.evaluate("() => document.activeElement === document.querySelectorAll('audio')[1]")
        tab.page.evaluate("() => document.querySelectorAll('audio')[2].play()")                         # by its own button, as a mouse would
        tab.page.wait_for_function("() => { const a = document.querySelectorAll('audio')[2]; return !a.paused && a.currentTime > 1.4 }")
        assert tab.page.evaluate("() => document.querySelectorAll('audio')[1].paused")
        tab.page.locator("audio").nth(2).focus(); tab.page.keyboard.press("Space")
        tab.page.wait_for_function("() => document.querySelectorAll('audio')[2].paused")
        assert tab.page.locator(".ae-keys").count() == 1 and not tab.wrong


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_read_by_keyboard_and_by_weak_eyes(chromium, toy, scheme):
    with Tab(chromium, scheme) as tab:
        for path in ("figures/d99_toy/page.html", "nbs/index.html", "nbs/00_core.html"):
            tab.page.goto((toy / path).as_uri())
            assert tab.page.evaluate(AUDIT) == [], path
        paper = tab.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
        tab.page.keyboard.press("Tab")
        assert tab.page.evaluate("() => document.activeElement.className") == "ae-skip"


def test_a_term_explains_itself_under_the_keyboard(chromium, toy):
    with Tab(chromium) as tab:
        tab.page.goto((toy / "nbs/index.html").as_uri())
        term = tab.page.locator("a.ae-term").first
        shown = "(n) => getComputedStyle(n, '::after').display + getComputedStyle(n, '::after').content"
        assert term.evaluate(shown).startswith("none")
        tab.page.keyboard.press("Tab"); term.focus()
        assert term.evaluate(shown).startswith("block") and len(term.get_attribute("aria-description")) > 40


def test_search_works_from_disk(chromium, toy):
    with Tab(chromium) as tab:
        tab.page.goto((toy / "nbs/index.html").as_uri())
        tab.page.locator("input[type=search], .smalldocs-search input, #quarto-search input").first.fill("fingerprints")
        tab.page.wait_for_function("() => /Core/.test([...document.querySelectorAll('.smalldocs-search a, .search-results a, [class*=search] a')].map(a => a.textContent).join())")
        assert not tab.wrong


def test_code_folds_and_text_keeps_its_measure(chromium, toy):
    with Tab(chromium) as tab:
        tab.page.goto((toy / "figures/d99_toy/page.html").as_uri())
        folds = tab.page.locator("details.code-fold")
        assert folds.count() >= 4 and not tab.page.locator("details.code-fold[open]").count()
        folds.nth(1).locator("summary").press("Enter")
        assert folds.nth(1).locator("pre").is_visible()
        tab.page.goto((toy / "nbs/00_core.html").as_uri())
        widths = tab.page.evaluate("() => [...document.querySelectorAll('main p')].map(p => p.getBoundingClientRect().width / parseFloat(getComputedStyle(p).fontSize))")
        assert max(widths) <= 43                                                                        # em: about 80 characters
        fonts = tab.page.evaluate("async () => { await document.fonts.ready; return [...document.fonts].filter(f => f.status === 'loaded').map(f => f.family) }")
        assert {"Source Serif 4", "Source Sans 3"} <= {f.strip('"') for f in fonts}
        for width in (1400, 800, 380):
            tab.page.set_viewport_size(dict(width=width, height=900))
            assert tab.page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth + 1"), f"the page scrolls sideways at {width} px"


def test_sounds_are_compared_blind(chromium, toy):
    "No choice before both sounds were heard; the answers are a file that the package reads."
    with Tab(chromium) as tab:
        tab.page.goto((toy / "figures/d99_toy/page.html").as_uri())
        tab.page.get_by_role("button", name="Compare them blind").click()
        tab.page.locator("dialog input").fill("ann")
        tab.page.get_by_role("button", name="Begin").click()
        for pair in (1, 2, 3):
            dialog = tab.page.locator("dialog")
            assert dialog.locator("h2").text_content() == f"Pair {pair} of 3" and not any(n in dialog.text_content() for n in ("original", "decoded", "noisy"))
            tab.page.keyboard.press("1")                                                                # not heard yet: no choice
            assert dialog.locator("[data-choice]:disabled").count() == 3
            for _ in range(10):                                                                         # a busy machine plays late
                for key in "ab":
                    tab.page.keyboard.press(key)
                    tab.page.wait_for_timeout(1650)
                if not dialog.locator("[data-choice]:disabled").count(): break
            tab.page.keyboard.press("2")
        link = dialog.locator("a[download]")
        rows = [json.loads(line) for line in tab.page.evaluate("async (u) => (await fetch(u)).text()", link.get_attribute("href")).splitlines()]
        assert [r["choice"] for r in rows] == ["B"] * 3 and {r["listener"] for r in rows} == {"ann"} and not tab.wrong
        assert {frozenset((r["a"], r["b"])) for r in rows} == {frozenset(p) for p in (("original", "decoded"), ("original", "noisy"), ("decoded", "noisy"))}
        (toy / "choices.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        assert len(preference(read_choices(toy / "choices.jsonl"))) == 3
        assert link.get_attribute("download") == "choices-d99_toy-ann.jsonl"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return render_site(ROOT, tmp_path_factory.mktemp("real") / "_site")


@pytest.mark.parametrize("every", [pytest.param(6, id="results"), pytest.param(1, id="whole", marks=pytest.mark.slow)])
def test_the_real_site_opens_offline(chromium, real, every):
    """Every result page, and library pages (a sixth of them, which share one form), on a desk and on a phone: quiet, whole, and no wider
    than the screen; the letters of every figure can be read."""
    assert check_site(real) == []
    clips, wide, small = 0, [], []
    pages = sorted(real.rglob("*.html"))
    library = [p for p in pages if "nbs" in p.relative_to(real).parts and p.name != "index.html"]
    with Tab(chromium) as tab:
        for path in pages:
            if path in library and library.index(path) % every: continue
            clips += tab.look(path)["clips"]
            if 'http-equiv="refresh"' in path.read_text(): continue                                     # it only leads to the report
            tab.page.set_viewport_size(dict(width=390, height=844))
            if tab.page.evaluate(SIDEWAYS) > 1: wide.append(path.relative_to(real).as_posix())
            for source, seen, room in tab.page.evaluate(FIGURES):
                assert source, f"{path.name}: a figure without a picture at this width"
                svg = Path(unquote(urlparse(source).path)).read_text()
                letters = min((float(a or b) for a, b in re.findall(r'font(?:-size)?: ?([\d.]+)px|font-size="([\d.]+)"', svg)), default=99)
                shown = letters * seen / float(re.search(r'viewBox="[\d.-]+ [\d.-]+ ([\d.]+)', svg)[1])
                if shown < LEAST_LETTER - .1 or seen > room + 1: small.append(f"{source.partition('figures/')[2]}: {shown:.1f} px, {seen:.0f} of {room} wide")
            tab.page.set_viewport_size(dict(width=1400, height=900))
            if tab.page.evaluate(SIDEWAYS) > 1: wide.append(path.relative_to(real).as_posix())
    assert not wide, "pages that scroll sideways"
    assert not small, "letters too small on a phone, or a figure that must be pushed aside"
    published = len(list((ROOT / "figures").glob("*/page.ipynb")))
    assert clips >= published, "every discussion lets the reader listen"


def test_a_sound_is_near(chromium, real):
    "The first player of the front page is on the first screen, that of a result within two."
    first = "() => document.querySelector('audio').getBoundingClientRect().top + scrollY"
    with Tab(chromium) as tab:
        for name, limit in (("nbs/index.html", 900), ("figures/d09_representations/page.html", 1800), ("figures/d20_small_data_codes/page.html", 1800)):
            if not (real / name).is_file(): continue
            tab.page.goto((real / name).as_uri(), wait_until="load")
            for image in tab.page.locator("main img").all()[:6]: image.evaluate("i => { i.loading = 'eager'; return i.decode().catch(() => 0) }")
            assert tab.page.evaluate(first) <= limit, name


def test_ten_pages_of_the_real_site_pass_the_audit(chromium, real):
    names = ["nbs/index.html", "nbs/lab/13_glossary.html", "nbs/heads/05_vmf.html", "nbs/lab/25_site.html",
             *(f"figures/{p.parent.name}/page.html" for p in sorted((ROOT / "figures").glob("*/page.ipynb"))[::3])]
    for scheme in ("light", "dark"):
        with Tab(chromium, scheme) as tab:
            for name in names:
                tab.page.goto((real / name).as_uri())
                assert tab.page.evaluate(AUDIT) == [], f"{name} ({scheme})"


def test_search_finds_a_module_first(chromium, real):
    with Tab(chromium) as tab:
        tab.page.goto((real / "nbs/index.html").as_uri())
        for asked, wanted in (("vmf", "05_vmf"), ("glossary", "13_glossary"), ("engram", "30_engram")):
            tab.page.locator("#quarto-search input").first.fill(asked)
            tab.page.wait_for_function("(w) => document.querySelector('.search-result')?.href.includes(w)", arg=wanted)


AXE = next((p for p in (Path(os.environ.get("AUDIOENGRAM_AXE", "/nowhere")), ROOT / "node_modules/axe-core/axe.min.js") if p.is_file()), None)
FAULTS = """async () => (await axe.run(document, {resultTypes: ["violations"]})).violations
  .filter((v) => ["serious", "critical"].includes(v.impact)).map((v) => v.id + ": " + v.nodes[0].html.slice(0, 110))"""


def ten_pages(site: Path) -> list:
    results = sorted(p.relative_to(site).as_posix() for p in site.glob("figures/*/page.html"))
    return ["nbs/index.html", "nbs/lab/13_glossary.html", "nbs/heads/05_vmf.html", "nbs/lab/25_site.html", *results[::3]][:10]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault_on_ten_pages(chromium, real, scheme):
    if AXE is None: pytest.skip("needs axe-core: npm install --no-save axe-core@4, or AUDIOENGRAM_AXE=.../axe.min.js")
    with Tab(chromium, scheme) as tab:
        tab.page.set_content('<html lang="en"><title>t</title><main><img src="data:,"></main></html>')
        tab.page.add_script_tag(content=AXE.read_text())
        assert any(f.startswith("image-alt") for f in tab.page.evaluate(FAULTS)), "axe would notice a picture without a text"
        found = {}
        for name in ten_pages(real):
            tab.page.goto((real / name).as_uri())
            tab.page.add_script_tag(content=AXE.read_text())
            if faults := tab.page.evaluate(FAULTS): found[name] = faults
        assert not found


# Tables that are wider than their place without a cue, and estimates that stand on two lines.
TABLES = """() => {
  const wide = [...document.querySelectorAll("main .ae-scroll")].filter((n) => n.scrollWidth > n.clientWidth + 1);
  const broken = [...document.querySelectorAll("main .ae-whole")].filter((n) => n.getClientRects().length > 1);
  const bare = [...document.querySelectorAll("main td")].filter((n) => /\\d \\[[-−]?\\d/.test(n.textContent) && !n.closest(".ae-table") && !n.querySelector(".ae-whole"));
  return {tables: document.querySelectorAll("main table").length, wide: wide.length, uncued: wide.filter((n) => !n.classList.contains("ae-more")).map((n) => n.getAttribute("aria-label")), broken: broken.map((n) => n.textContent), bare: bare.map((n) => n.textContent.slice(0, 40))};
}"""


@pytest.mark.parametrize("name", ["d04_memory", "d09_representations"])
def test_tables_scroll_with_a_cue_and_keep_intervals_whole(chromium, real, name):
    with Tab(chromium) as tab:
        tab.page.set_viewport_size(dict(width=390, height=844))
        tab.page.goto((real / f"figures/{name}/page.html").as_uri())
        for folded in tab.page.locator("main details").all(): folded.evaluate("n => { n.open = true }")
        tab.page.evaluate("() => window.dispatchEvent(new Event('resize'))")
        tab.page.wait_for_timeout(400)
        seen = tab.page.evaluate(TABLES)
        assert seen["tables"] and seen["wide"] and not seen["uncued"] and not seen["broken"] and not seen["bare"], seen
        tab.page.locator("main .ae-scroll.ae-more").first.evaluate("n => { n.scrollLeft = n.scrollWidth }")       # at its end the cue goes
        tab.page.wait_for_function("() => [...document.querySelectorAll('main .ae-scroll')].some((n) => n.scrollLeft > 0 && !n.classList.contains('ae-more'))")


def test_every_term_is_linked_where_a_page_uses_it_first(real):
    missed = {}
    for path in sorted(real.rglob("*.html")):
        if path.name == "13_glossary.html" or 'http-equiv="refresh"' in path.read_text(): continue
        used = set()
        def look(text, tags, classes, used=used, path=path):
            for m in _FORMS.finditer(text):
                term = _ORDER[m.lastindex - 1].name
                if "ae-term" in classes: used.add(term)
                elif term not in used and tags & _PROSE and not (tags & (_CODE | _NOT_LINKED) or classes & _QUIET):
                    missed.setdefault(path.relative_to(real).as_posix(), set()).add(term)
            return text
        change_text(path.read_text(), look)
    assert not missed


def test_the_front_page_is_light(chromium, real):
    "As a host sends it, text compressed, and before any sound: 500 kB."
    sent = {}
    with Tab(chromium) as tab:
        tab.page.on("response", lambda r: sent.__setitem__(r.url, r.body()))
        tab.page.goto((real / "nbs/index.html").as_uri(), wait_until="load")
        tab.page.wait_for_timeout(500)
    weigh = lambda url, body: len(body) if url.partition("?")[0].endswith((".woff2", ".png")) else len(gzip.compress(body))
    weights = {url.rpartition("/")[2]: weigh(url, body) for url, body in sent.items()}
    assert len(weights) > 8 and not any(url.endswith((".ogg", ".flac", ".mp3")) for url in sent)
    assert sum(weights.values()) < 500e3, weights


def test_rendering_leaves_the_project_as_it_is(tmp_path):
    root = make_project(tmp_path / "project")
    (root / ".gitignore").write_text("/runs/\n")
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    render_site(root, tmp_path / "site")
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before


def test_a_page_from_disk_plays_and_tells_what_it_cannot(chromium, real):
    "From a `file://` address: sound plays, text is there without scripts, and the search answers."
    name = "figures/d05_gap/page.html"
    with Tab(chromium) as tab:
        tab.page.goto((real / name).as_uri())
        tab.page.evaluate("() => { const a = document.querySelector('audio'); a.muted = true; return a.play() }")
        tab.page.wait_for_function("() => document.querySelector('audio').currentTime > .1")
        assert not tab.wrong
    plain = chromium.new_context(offline=True, java_script_enabled=False)
    page = plain.new_page()
    page.goto((real / name).as_uri())
    assert len(page.locator("main").inner_text()) > 3000 and page.locator("audio[controls]").count() > 4
    plain.close()
