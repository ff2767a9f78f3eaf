"The site in headless Chromium, opened from disk without a network: every page quiet, every picture seen, every clip loaded."
import shutil
from pathlib import Path

import pytest
from toy_site import ROOT, make_project

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
    def __init__(self, browser):
        self.context = browser.new_context(offline=True, viewport=dict(width=1400, height=900))
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
    return build_site(root=make_project(tmp_path_factory.mktemp("project"), library=("nbs/00_core.ipynb", "nbs/lab/25_site.ipynb")), quarto="never")


def test_every_page_of_the_toy_opens_offline(chromium, toy):
    pages = sorted(toy.rglob("*.html"))
    assert len(pages) == 5
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
        tab.page.keyboard.press("Space")
        tab.page.wait_for_function("() => document.querySelectorAll('audio')[1].paused")
        assert tab.page.locator(".ae-row + .ae-keys").count() == 1 and not tab.wrong


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


def test_the_real_site_opens_offline(chromium, tmp_path):
    out = render_site(ROOT, tmp_path / "_site")
    assert check_site(out) == []
    clips = 0
    with Tab(chromium) as tab:
        for path in sorted(out.rglob("*.html")): clips += tab.look(path)["clips"]
    published = len(list((ROOT / "figures").glob("*/page.ipynb")))
    assert clips >= published, "every discussion lets the reader listen"
