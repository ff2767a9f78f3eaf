"The Mimi study rehearsed: random weights, a loopback openslr of five speakers, killed three times, from nothing to the report."
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest

from audioengram.core import ParameterError
from audioengram.data.audio import save_audio
from audioengram.data.voices import synthesise
from audioengram.lab import study
from audioengram.lab.study import SUBSETS, CodecStudy, check_space, pages_of, plan, run_study, study_named


@pytest.fixture
def openslr(tmp_path):
    "Address of a server that has a dev-clean of five speakers, and the MD5 of its archive."
    home = tmp_path / "made/LibriSpeech"
    for who in range(5):
        for i in range(4): save_audio(home / f"dev-clean/{84 + who}/1/{84 + who}-1-{i:04d}.flac", synthesise(3., 10 * who + i, 90 + 25 * who), 16_000)
    with tarfile.open(fileobj=(packed := io.BytesIO()), mode="w:gz") as tar: tar.add(home, "LibriSpeech")
    data = packed.getvalue()

    class Site(BaseHTTPRequestHandler):
        def do_GET(self):
            start = int((self.headers.get("Range") or "bytes=0-").split("=")[1].rstrip("-"))
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start:])
        def log_message(self, *a): pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", hashlib.md5(data).hexdigest()
    server.shutdown()


REHEARSAL = """
import sys
from audioengram.data import sources
sources.LIBRISPEECH["dev-clean"] = sys.argv[1]
from audioengram.lab.study import run_study, study_named
codec, pages, out, root, site = sys.argv[2:]
print(run_study(study_named("mimi", codecs=tuple(codec.split(",")), subset="dev-clean", profile="smoke", pages=tuple(pages.split(",")), out=out, root=root, site=site), "cpu"))
"""


def rehearse(tmp_path, openslr, codecs, pages, kills):
    "Run a study in a process that is killed after so many seconds, again and again, then to its end; the log."
    site, md5 = openslr
    out, env = tmp_path / "out", {**os.environ, "AUDIOENGRAM_CACHE": str(tmp_path / "cache"), "AUDIOENGRAM_MIMI": "random", "AUDIOENGRAM_MIMI_VAE": "random"}
    command = [sys.executable, "-c", REHEARSAL, md5, codecs, pages, str(out), str(tmp_path / "here"), site]
    for seconds in kills:
        job = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(seconds)
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-1500:]
    return out, done.stdout


def test_nano_from_nothing_to_the_report(tmp_path, openslr):
    out, said = rehearse(tmp_path, openslr, "nano", "d00", [])
    assert said.splitlines()[-1] == str(out / "report.md")
    report, steps = (out / "report.md").read_text(), json.loads((out / "steps.json").read_text())["steps"]
    assert list(steps) == ["fetch dev-clean", "check nano", "encode nano", "d00_structure nano"] and sum(s["seconds"] for s in steps.values()) > 0
    assert "Sound comes back" in report and "d00_structure" in report and "## What it took" in report
    _, again = rehearse(tmp_path, openslr, "nano", "d00", [])
    assert again.splitlines() == [str(out / "report.md")]       # nothing is left to do


def promised(tmp_path, monkeypatch, hours, codecs, pages) -> pd.DataFrame:
    "The plan of the same study, with the length of the speech that there really is."
    for name in ("MIMI", "MIMI_VAE"): monkeypatch.setenv(f"AUDIOENGRAM_{name}", "random")
    monkeypatch.setitem(SUBSETS, "dev-clean", (SUBSETS["dev-clean"][0], hours))
    return plan(study_named("mimi", codecs=codecs, subset="dev-clean", profile="smoke", pages=pages, root=str(tmp_path / "here")), "cpu").set_index("step")


@pytest.mark.slow
def test_mimi_rehearsed_and_killed_three_times(tmp_path, openslr, monkeypatch):
    out, _ = rehearse(tmp_path, openslr, "mimi,mimi-vae", "d00,d01", [5, 25, 45])
    report = (out / "report.md").read_text()
    assert "## mimi-vae" in report and "cosine of the predicted" in report and "left out" not in report
    said, steps = promised(tmp_path, monkeypatch, 20 * 3 / 3600, ("mimi", "mimi-vae"), ("d00", "d01")), json.loads((out / "steps.json").read_text())["steps"]
    manifests = (tmp_path / "cache/latents").glob("*/manifest.json")
    stores = {json.loads(m.read_text())["codec"]["name"]: m.parent for m in manifests}
    for codec in ("mimi", "mimi-vae"):
        disk, hours = said.disk_gb[f"encode {codec}"], said.hours[f"encode {codec}"]
        used = sum(f.stat().st_size for f in stores[codec].rglob("*") if f.is_file()) / 1e9
        print(f"{codec}: {used:.5f} GB, planned {disk:.5f}; encoding took {steps[f'encode {codec}']['seconds']:.1f} s, planned {3600 * hours:.1f}")
        assert abs(used / disk - 1) < .2


def test_a_plan_says_what_is_known(monkeypatch):
    monkeypatch.setattr(study, "encoding_speed", lambda codec: 100.)
    rows = plan(study_named("librispeech-100", subset="dev-other"), "cpu").set_index("step")
    archive, hours = SUBSETS["dev-other"]
    assert rows.hours["encode nano"] == hours / 100 and rows.disk_gb["fetch dev-other"] == archive
    assert len(rows) == 3 + len(pages_of(study_named("mimi"))) and {"d00_structure nano", "d05_gap nano"} <= set(rows.index)


def test_what_cannot_be_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ParameterError, match="no subset 'dev'"): study_named("mimi", subset="dev")
    few = CodecStudy("x", ("nano",), "train-other-500")
    monkeypatch.setattr(study.shutil, "disk_usage", lambda p: type("D", (), dict(free=30e9)))
    with pytest.raises(ParameterError, match="needs 60.0 GB of disk and 30.0 GB are free"): check_space(few, pd.DataFrame(dict(disk_gb=[30., 0.])))


def test_a_codec_that_cannot_be_had_is_left_out(tmp_path, monkeypatch):
    for who in "12":
        for i in range(2): save_audio(tmp_path / f"LibriSpeech/dev-clean/{who}/3/{who}-3-000{i}.flac", synthesise(1., int(who) + 5 * i), 16_000)
    monkeypatch.delenv("AUDIOENGRAM_LYRA", raising=False)
    few = CodecStudy("y", ("lyra",), "dev-clean", "smoke", ("d00",), str(tmp_path), str(tmp_path / "out"))
    assert "lyra is left out" in run_study(few, "cpu", lambda line: None).read_text()
