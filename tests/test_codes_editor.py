"The editor in headless Chromium, served by Voilà: real clicks, a dragged rectangle, keys, and players with sound."
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import pytest
from codes_toy import model

from audioengram.codes.app import editor_notebook
from audioengram.codes.editor import CodeGridEditor
from audioengram.codes.grid import CodeGrid
from audioengram.codes.modelfile import save_model
from audioengram.data.voices import synthesise

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def editor(): return CodeGridEditor(CodeGrid.encode(model(prior=True), synthesise(1., 7, rate=24_000)))


BOX, OTHER = dict(time=[2, 4], frequency=[1, 3]), dict(time=[8, 10], frequency=[1, 3])


@pytest.mark.parametrize("message", [dict(do="set", region=BOX, level=1, code=5), dict(do="mute", region=BOX, level=2), dict(do="swap", region=BOX, mark=OTHER), dict(do="blend", region=BOX, mark=OTHER, ratio=1.),
                                     dict(do="infill", region=BOX)])
def test_every_command_changes_the_grid_and_is_undone(message):
    e = editor()
    first, heard = list(e.codes), e.edited_wav
    e.handle(message)
    assert e.codes != first and e.can_undo and e.edited_wav != heard and e.original_codes == first
    e.handle(dict(do="undo"))
    assert e.codes == first and e.edited_wav == heard and e.can_redo
    e.handle(dict(do="redo"))
    assert e.codes != first


@pytest.mark.parametrize("message, says", [(dict(do="swap", region=BOX), "no rectangle is marked"), (dict(do="set", region=BOX, code=99), "99"), (dict(do="erase"), "no command"), (dict(do="set"), "does not understand"),
                                           (dict(do="set", region=dict(time=[50, 99], frequency=[0, 1])), "time axis"), (dict(do="undo"), "Nothing to undo"), (dict(nonsense=1), "does not understand")])
def test_mistakes_are_told_and_change_nothing(message, says):
    e = editor()
    before = list(e.codes)
    e.handle(message)
    assert says in e.status and e.codes == before and not e.can_undo


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    "The editor as an app, and the folder it writes into."
    if CHROMIUM is None: pytest.skip("needs Chromium: apt-get install chromium")
    pytest.importorskip("voila")
    home = tmp_path_factory.mktemp("app")
    save_model(model(prior=True), home / "toy.distill"); np.save(home / "sound.npy", synthesise(1., 7, rate=24_000))
    CodeGrid.encode(model(prior=True), np.load(home / "sound.npy")).save(home / "first.json")
    nbformat.write(editor_notebook(home / "toy.distill", home / "first.json", home / "now.json"), home / "editor.ipynb")
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "JUPYTER_PLATFORM_DIRS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    log = open(home / "voila.log", "w")
    server = subprocess.Popen([sys.executable, "-m", "voila", "editor.ipynb", "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"], cwd=home, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(240):
            if server.poll() is not None: break
            try: urllib.request.urlopen(f"http://127.0.0.1:{port}/static/", timeout=1); break
            except urllib.error.HTTPError: break
            except OSError: time.sleep(.5)
        yield f"http://127.0.0.1:{port}/", home
    finally:
        os.killpg(server.pid, signal.SIGTERM); server.wait(20); log.close()


@pytest.mark.browser
def test_clicks_drags_and_keys_in_a_browser(app):
    address, home = app
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"])
        page, abroad = browser.new_page(viewport=dict(width=1300, height=900)), []
        page.route(re.compile(r"^https?://(?!127\.0\.0\.1)"), lambda r: (abroad.append(r.request.url), r.abort()))
        page.set_default_timeout(120_000)
        page.goto(address, wait_until="domcontentloaded")
        grid = page.locator("canvas.ae-edited")
        grid.wait_for()
        box, saved = grid.bounding_box(), home / "now.json"
        T, F = round(box["width"] / 16), round(box["height"] / 22)
        at = lambda t, f: dict(x=(t + .5) * box["width"] / T, y=(F - f - .5) * box["height"] / F)
        def codes():
            return CodeGrid.load(saved, model(prior=True)).codes
        def until(ok):
            for _ in range(200):
                page.wait_for_timeout(150)
                if saved.exists() and ok(codes()): return codes()
            raise AssertionError(f"the grid never came to be so; status: {page.locator('.ae-status').text_content()}")
        first = CodeGrid.encode(model(prior=True), np.load(home / "sound.npy")).codes

        grid.click(position=at(5, 2))                                                    # a click selects one cell, and shows its code
        assert page.locator(".ae-where").text_content() == "columns 5–5, bands 2–2"
        assert page.locator(".ae-code").input_value() == str(first[5, 2, 0])
        page.locator(".ae-code").fill(str((first[5, 2, 0] + 3) % 8)); page.locator("button.ae-set").click()
        one = until(lambda c: c[5, 2, 0] == (first[5, 2, 0] + 3) % 8)
        assert (one != first).sum() == 1

        grid.hover(position=at(8, 0)); page.mouse.down(); grid.hover(position=at(10, 1)); page.mouse.up()      # a dragged rectangle
        assert page.locator(".ae-where").text_content() == "columns 8–10, bands 0–1"
        page.locator("select.ae-level").select_option("1")
        page.keyboard.press("Tab"); grid.focus(); page.keyboard.press("Delete")
        two = until(lambda c: (c[8:11, 0:2, 1] == -1).all())
        assert (two != one).sum() <= 6 and (two[8:11, 0:2, 0] == one[8:11, 0:2, 0]).all()

        for want in (one, first): grid.focus(); page.keyboard.press("Control+z"); until(lambda c, w=want: (c == w).all())
        page.keyboard.press("Control+y"); until(lambda c: (c == one).all())
        grid.click(position=at(2, 0)); page.keyboard.press("ArrowRight"); page.keyboard.press("ArrowUp")     # arrows move, Shift widens
        page.keyboard.press("Shift+ArrowRight")
        assert page.locator(".ae-where").text_content() == "columns 3–4, bands 1–1"
        page.keyboard.press("Control+c"); grid.click(position=at(10, 3)); page.keyboard.press("Control+v")   # copied to another place
        three = until(lambda c: (c[10:12, 3] == one[3:5, 1]).all())
        assert (three[:, :3] == one[:, :3]).all()
        grid.focus(); page.keyboard.press("Control+z"); until(lambda c: (c == one).all())
        dark = "() => { const c = document.querySelector('canvas.ae-picture'); return c.getContext('2d').getImageData(0, 0, c.width, c.height - 16).data.filter((v, i) => i % 4 === 0 && v < 128).length }"
        assert page.evaluate(dark) > 100                                                 # the spectrogram is drawn
        page.locator("button.ae-swap").click()                                          # nothing marked yet: told, not done
        page.wait_for_function("() => document.querySelector('.ae-status').value.includes('no rectangle is marked')")

        ready = "(name) => { const a = document.querySelector(`audio.ae-audio-${name}`); return a.readyState >= 3 && a.duration > .9 }"
        for name in ("original", "edited"): page.wait_for_function(ready, arg=name)
        grid.focus(); page.keyboard.press("b")
        page.wait_for_function("() => !document.querySelector('audio.ae-audio-edited').paused || document.querySelector('audio.ae-audio-edited').currentTime > 0")
        page.wait_for_function("() => !document.querySelector('.ae-head').hidden")                     # the playhead runs
        with page.expect_download() as got: page.locator("button.ae-json").click()
        assert (CodeGrid.load(got.value.path(), model(prior=True)).codes == one).all()
        page.keyboard.press("a")
        page.wait_for_function("() => document.querySelector('audio.ae-audio-edited').paused")
        browser.close()
    abroad = [u for u in abroad if "fontawesome" not in u]      # Voilà's own template looks for icons that the editor does not use
    assert not abroad, f"the app asked for {abroad[:3]}"
