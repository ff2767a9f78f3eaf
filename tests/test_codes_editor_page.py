"The editor's own script in headless Chromium, without a server: a model of a few lines stands for Python, and notes what it is asked for."
import json
import shutil
from pathlib import Path

import pytest

import audioengram

pytestmark = pytest.mark.browser
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCRIPT = Path(audioengram.__file__).parent / "assets" / "code_grid_editor.js"
T, F, Q, SIZE = 234, 4, 3, 64                                     # ten seconds of the default model

OPEN = """([script, state]) => import(URL.createObjectURL(new Blob([script], {type: "text/javascript"}))).then((editor) => {
  const heard = {}, wav = (seconds) => {                          // 16-bit silence, as long as a sound would be
    const n = 24000 * seconds, v = new DataView(new ArrayBuffer(44 + 2 * n)), text = (at, s) => [...s].forEach((c, i) => v.setUint8(at + i, c.charCodeAt(0)));
    text(0, "RIFF"); v.setUint32(4, 36 + 2 * n, true); text(8, "WAVEfmt "); v.setUint32(16, 16, true); v.setUint16(20, 1, true); v.setUint16(22, 1, true);
    v.setUint32(24, 24000, true); v.setUint32(28, 48000, true); v.setUint16(32, 2, true); v.setUint16(34, 16, true); text(36, "data"); v.setUint32(40, 2 * n, true);
    return v;
  };
  state.original_wav = state.edited_wav = wav(10); state.preview_wav = new DataView(new ArrayBuffer(0)); state.picture = new DataView(new ArrayBuffer(state.picture_shape[0] * state.picture_shape[1]));
  window.sent = [];
  window.model = {get: (k) => state[k], set: (k, v) => { state[k] = v; (heard[k] ?? []).forEach((f) => f()); }, on: (e, f) => (heard[e.slice(7)] ??= []).push(f), send: (m) => window.sent.push(m)};
  editor.default.render({model: window.model, el: document.body});
})"""

# Milliseconds of one pointer move while a rectangle is dragged across the grid, the slowest of a hundred left out.
DRAG = """() => {
  const grid = document.querySelector("canvas.ae-edited"), box = grid.getBoundingClientRect(), spent = [];
  const fire = (kind, x, y) => grid.dispatchEvent(new PointerEvent(kind, {clientX: box.left + x, clientY: box.top + y, pointerId: 1, bubbles: true}));
  grid.setPointerCapture = () => {};
  fire("pointerdown", 5, 5);
  for (let i = 0; i < 100; i++) { const start = performance.now(); fire("pointermove", 5 + 30 * i, 5 + i % 60); grid.getContext("2d").getImageData(0, 0, 1, 1); spent.push(performance.now() - start); }
  fire("pointerup", 300, 5);
  return spent.sort((a, b) => a - b)[98];
}"""


@pytest.fixture(scope="module")
def page():
    if CHROMIUM is None: pytest.skip("needs Chromium: apt-get install chromium")
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"])
        made = browser.new_page(viewport=dict(width=4000, height=900))
        codes = [(t * 7 + f * 3 + q) % SIZE for t in range(T) for f in range(F) for q in range(Q)]
        state = dict(shape=[T, F, Q], size=SIZE, codes=codes, original_codes=codes, step=1024 / 24_000, picture_shape=[96, 4 * T], can_undo=False, can_redo=False, status="",
                     band_names=["0–471 Hz", "471–1500 Hz", "1500–4200 Hz", "4200–12000 Hz"], exported="")
        made.set_content("<!doctype html><title>editor</title><body></body>")
        made.evaluate(OPEN, [SCRIPT.read_text(encoding="utf-8"), state])
        yield made
        browser.close()


def spot(page, t, f, lane=.5):
    "Where a cell lies on the grid."
    box = page.locator("canvas.ae-edited").bounding_box()
    return dict(x=(t + .5) * box["width"] / T, y=(F - 1 - f + lane) * box["height"] / F)


def sent(page, do):
    return [m for m in json.loads(page.evaluate("() => JSON.stringify(window.sent)")) if m["do"] == do]


def test_a_stroke_of_the_brush_is_one_edit(page):
    grid = page.locator("canvas.ae-edited")
    page.locator(".ae-brush").check(); page.locator(".ae-code").fill("9")
    grid.hover(position=spot(page, 10, 1)); page.mouse.down(); grid.hover(position=spot(page, 11, 1)); grid.hover(position=spot(page, 12, 2)); page.mouse.up()
    page.locator(".ae-brush").uncheck()
    (stroke,) = sent(page, "paint")
    assert stroke["cells"] == [[10, 1], [11, 1], [12, 2]] and stroke["code"] == 9 and stroke["level"] == 0


def test_a_code_is_heard_where_the_pointer_rests_and_a_lane_is_a_level(page):
    grid = page.locator("canvas.ae-edited")
    assert not sent(page, "hover")                                # nobody asked to hear anything yet
    page.locator(".ae-lanes").check(); page.locator(".ae-hover").check()
    grid.hover(position=spot(page, 20, 3, lane=.9))
    page.wait_for_function("() => window.sent.some((m) => m.do === 'hover')")
    assert sent(page, "hover")[0]["region"] == dict(time=[20, 21], frequency=[3, 4]) and sent(page, "hover")[0]["level"] == 2
    grid.click(position=spot(page, 5, 0, lane=.5))
    assert page.locator("select.ae-level").input_value() == "1"   # the lane that was clicked
    page.locator(".ae-hover").uncheck(); page.locator(".ae-lanes").uncheck()


def test_a_loop_stays_in_its_selection(page):
    grid = page.locator("canvas.ae-edited")
    grid.hover(position=spot(page, 40, 0)); page.mouse.down(); grid.hover(position=spot(page, 43, 1)); page.mouse.up()
    page.keyboard.press("l"); page.keyboard.press("b")
    begin, end = 40 * 1024 / 24_000, 44 * 1024 / 24_000
    page.wait_for_function("([a, b]) => { const p = document.querySelector('audio.ae-audio-edited'); return !p.paused && p.currentTime >= a && p.currentTime < b + .1 }", arg=[begin, end])
    page.wait_for_timeout(400)                                    # twice as long as the selection
    now = page.evaluate("() => document.querySelector('audio.ae-audio-edited').currentTime")
    assert begin - .1 <= now <= end + .1
    page.keyboard.press("a")                                      # the original goes on at the same place
    page.wait_for_function("([a, b]) => { const p = document.querySelector('audio.ae-audio-original'); return !p.paused && p.currentTime >= a - .1 && p.currentTime < b + .1 }", arg=[begin, end])
    page.keyboard.press("l"); page.evaluate("() => document.querySelectorAll('audio').forEach((a) => a.pause())")


def test_sixty_frames_a_second_on_ten_seconds(page):
    "A pointer move must leave most of a frame (16.7 ms) to the browser."
    spent = page.evaluate(DRAG)
    assert spent < 10, f"a pointer move takes {spent:.1f} ms"
    print(f"a pointer move takes {spent:.2f} ms")
