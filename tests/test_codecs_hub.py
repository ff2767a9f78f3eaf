"A codec goes to the hub and comes back, against a stand-in on this machine that speaks as much of the hub's API as that takes."
import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from audioengram.codecs import parse_name
from audioengram.codecs.hub import hub_codec, push_codec
from audioengram.codecs.nano_learned import SHIPPED
from audioengram.core import CodecError, ModelFileError
from audioengram.data.cases import parse_cases

COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    "Repositories as dictionaries."
    files, asked = {}, []

    def log_message(self, *_): pass

    def answer(self, body=b"", status=200, **headers):
        self.send_response(status)
        for k, v in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items(): self.send_header(k.replace("_", "-"), v)
        self.end_headers()
        if self.command != "HEAD": self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.asked.append(self.path)
        if "Bearer" not in self.headers.get("Authorization", ""): return self.answer(b"{}", 401)
        if self.path.endswith("/preupload/main"):
            told = [dict(path=f["path"], uploadMode="regular", shouldIgnore=False) for f in json.loads(body)["files"]]
            return self.answer(json.dumps(dict(files=told)).encode())
        if self.path.endswith("/commit/main"):
            repo = self.path.removeprefix("/api/models/").removesuffix("/commit/main")
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file": self.files[repo, line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.answer(json.dumps(dict(success=True, commitOid=COMMIT, commitUrl=f"http://{self.headers['Host']}/{repo}/commit/{COMMIT}")).encode())
        self.answer(json.dumps(dict(url=f"http://{self.headers['Host']}/anna/nano-de", errors=[], warnings=[])).encode())

    def do_HEAD(self):
        repo, _, file = self.path.strip("/").partition("/resolve/")
        found = self.files.get((repo, file.partition("/")[2]))
        if found is None: return self.answer(status=404, X_Error_Code="EntryNotFound")
        self.answer(found, ETag=f'"{hashlib.sha1(found).hexdigest()}"')

    do_GET = do_HEAD


@pytest.fixture
def hub(tmp_path):
    "Runs Python that believes in the stand-in."
    Hub.files, Hub.asked = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = os.environ | dict(HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}", HF_HOME=str(tmp_path / "hf"), HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1")
    def run(*argv, **more):
        return subprocess.run([sys.executable, *map(str, argv)], env={**env, **more}, capture_output=True, text=True, timeout=120)
    yield run
    server.shutdown(); server.server_close()


def test_a_codec_goes_there_and_comes_back(hub):
    refused = hub("-m", "audioengram.cli", "codec", "push", SHIPPED, "anna/nano-de")
    assert refused.returncode == 1 and "hf auth login" in refused.stderr and "Traceback" not in refused.stderr and not Hub.files
    done = hub("-m", "audioengram.cli", "codec", "push", SHIPPED, "anna/nano-de", HF_TOKEN="hf_x")
    assert done.returncode == 0 and f"anna/nano-de/commit/{COMMIT}" in done.stdout, done.stderr
    assert Hub.files["anna/nano-de", "nano.safetensors"] == SHIPPED.read_bytes() and b'get_codec("hub:anna/nano-de")' in Hub.files["anna/nano-de", "README.md"]
    ask = "from audioengram.codecs import get_codec; c, own = get_codec('hub:anna/nano-de+pca8'), get_codec('nano'); print(c.base.name, c.base.fingerprint == own.fingerprint, c.dim, c.base.identity()[1].keys() == own.identity()[1].keys())"
    back = hub("-c", ask)
    assert back.stdout.split()[0] == "hub:anna/nano-de" and back.stdout.split()[2:] == ["8", "True"], back.stderr
    lost = hub("-m", "audioengram.cli", "codec", "score", "no.wav", "--codec", "hub:anna/other")
    assert lost.returncode == 1 and "Traceback" not in lost.stderr


def test_what_cannot_go_is_told_before_anything_is_sent(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelFileError, match="is damaged"): push_codec(tmp_path / "x.safetensors", "anna/x")
    with pytest.raises(CodecError, match="names no repository"): push_codec(SHIPPED, "nano")
    with pytest.raises(CodecError, match="names a commit"): push_codec(SHIPPED, "anna/x@1a2b")
    with pytest.raises(CodecError, match="names no repository"): hub_codec("nano")


def test_its_name_is_one_everywhere():
    assert parse_name("hub:anna/nano-de@v1+stack2") == ("hub:anna/nano-de@v1", (("stack", 2),))
    case, = parse_cases("librispeech:hub:anna/nano-de@v1+stack2")
    assert case.codec == "hub:anna/nano-de@v1+stack2" and case.slug == "librispeech-hub-anna-nano-de-v1+stack2" and "/" not in case.file
