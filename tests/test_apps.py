"The apps of nbs/apps are live where a person opens them: here by Voilà, which shows no code."
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

APPS = sorted((Path(__file__).resolve().parent.parent / "nbs/apps").glob("*.ipynb"))
SHOWS = dict(explore="select", blind_test="audio", edit_codes="canvas", continue_="audio", run_page="button")      # what a live one has
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None: pytest.skip("needs Chromium: apt-get install chromium")
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.slow
@pytest.mark.parametrize("path", APPS, ids=lambda p: p.stem)
def test_an_app_is_live_under_voila(path, chromium, tmp_path):
    pytest.importorskip("voila")
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "voila", path, "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"],
                              cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(tmp_path))
    try:
        for _ in range(120):
            try: socket.create_connection(("127.0.0.1", port), 1).close(); break
            except OSError: time.sleep(.5)
        page = chromium.new_page()
        page.goto(f"http://127.0.0.1:{port}/", timeout=120_000)
        wanted = SHOWS[next(k for k in SHOWS if k.rstrip("_") in path.stem)]
        page.wait_for_selector(f".jp-OutputArea-output {wanted}", timeout=120_000, state="attached")
        assert "open the notebook" not in page.inner_text("body") and "Traceback" not in page.inner_text("body")
        page.close()
    finally:
        server.terminate(); server.wait()


def environment(home: Path) -> dict:
    "Without what tells a kernel that a test runs it."
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    return kept | dict(AUDIOENGRAM_CACHE=str(home / "cache"), OMP_NUM_THREADS="1")
