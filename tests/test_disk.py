"""What is written, under SIGKILL and on disks that are full or read-only: nothing half, one sentence, and the next call goes on.

The work is done by this file run as a script: it imports once and forks a child for each attempt. A child dies at its n-th durable
operation, or has it fail, so that every moment can be tried without waiting for it.
"""
import contextlib
import errno
import hashlib
import io
import json
import mmap
import os
import signal
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

OPERATIONS = ("fsync", "replace", "rename", "unlink", "mkdir")


def digest(path: Path) -> str:
    "Content of a file, or of every file of a folder; empty if there is none."
    if path.is_file(): return hashlib.sha256(path.read_bytes()).hexdigest()
    files = [f for f in sorted(path.rglob("*")) if f.is_file()]
    return hashlib.sha256(b"".join(f.relative_to(path).as_posix().encode() + digest(f).encode() for f in files)).hexdigest() if files else ""


# What is written: each takes a folder, returns how to write there and how to look at what stands there --------------------------------

def codes(home):
    "A vocabulary, with a checkpoint at every step. A run that went on does not know how far its codes drifted before, so weights are compared."
    from codes_toy import TINY, folder

    from audioengram.codes import training
    from audioengram.codes.modelfile import load_model
    clock, sounds = iter(range(0, 10**6, 30)), folder(3, 1.)
    training.time = type("Clock", (), dict(monotonic=staticmethod(lambda: next(clock)), process_time=staticmethod(lambda: 0.)))
    return lambda at: training.fit(sounds, at / "v.distill", steps=6, size=8, overwrite=True, **TINY), lambda at: load_model(at / "v.distill").fingerprint


def prior(home):
    "A model file with a prior, in the place of one without."
    import codes_toy

    from audioengram.codes.modelfile import load_model, save_model
    plain, full = codes_toy.model(), codes_toy.model(prior=True)
    def write(at):
        if not (at / "v.distill").exists(): save_model(plain, at / "v.distill")
        save_model(full, at / "v.distill", overwrite=True)
    return write, lambda at: digest(at / "v.distill") and [load_model(at / "v.distill").prior is not None, digest(at / "v.distill")]


def weights(home):
    "Weights of a codec."
    from audioengram.codecs.nano_learned import SHIPPED, load_learned, save_learned
    from audioengram.core import fingerprint
    net, _ = load_learned(SHIPPED)
    return lambda at: save_learned(net, at / "nano.safetensors"), lambda at: fingerprint(load_learned(at / "nano.safetensors")[0].state_dict())


def publish(home):
    "Results of a run, in the place of earlier ones."
    import matplotlib
    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    import numpy as np

    import audioengram.data.audio  # once, not in every child
    from audioengram.lab.runs import Run, read_run
    assert audioengram.data.audio
    def write(at):
        for value in (1., 2.) if not (at / "toy").exists() else (2.,):
            with Run("toy", dict(seed=0), folder=at / "toy", profile="smoke") as run:
                run.rows([dict(speaker=s, x=value) for s in "abc"])
                run.claim("x", value, exact="count")
                run.figure("wave", plt.subplots()[0], alt="Nothing")
                run.clip("tone", np.sin(np.arange(8000) / 3), 16_000)
    def look(at):
        result = read_run(at / "toy")
        assert not result.check()
        return [result.claims["x"]["value"], result.table().to_csv(), result.clip("tone").is_file()]
    return write, look


def site(home):
    "A site, in the place of an earlier one."
    from toy_site import make_project

    from audioengram.lab.site import build_site, check_site
    make_project(home / "project")
    def write(at):
        if not (at / "site").exists(): build_site(at / "site", "never", home / "project")
        build_site(at / "site", "never", home / "project", force=True)
    return write, lambda at: not check_site(at / "site") and digest(at / "site")


def fetch(home):
    "LibriSpeech in miniature, from a server that breaks off halfway every other time."
    import numpy as np

    from audioengram.data import fetch as fetching
    from audioengram.data import sources
    from audioengram.data.audio import save_audio
    for i in range(4): save_audio(home / f"made/LibriSpeech/dev-clean/84/1/84-1-{i:04d}.flac", np.sin(np.arange(8000) / (3 + i)), 16_000)
    with tarfile.open(fileobj=(packed := io.BytesIO()), mode="w:gz") as tar: tar.add(home / "made/LibriSpeech", "LibriSpeech")
    data = packed.getvalue()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Half", (Halves,), dict(data=data, asked=[])))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sources.LIBRISPEECH["dev-clean"], fetching.time = hashlib.md5(data).hexdigest(), type("T", (), dict(sleep=staticmethod(lambda s: None), time=staticmethod(lambda: 0.)))
    return (lambda at: sources.fetch_librispeech("dev-clean", at / "here", show=False, site=f"http://127.0.0.1:{server.server_port}"),
            lambda at: digest(at / "here/LibriSpeech/dev-clean"))


class Halves(BaseHTTPRequestHandler):
    "Serves ranges; every other answer ends early."
    def do_GET(self):
        start = int((self.headers.get("Range") or "bytes=0-").split("=")[1].rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.data) - start))
        self.end_headers()
        self.asked.append(start)
        stop = len(self.data) if len(self.asked) % 2 == 0 else start + (len(self.data) - start) // 2 + 1
        self.wfile.write(self.data[start:stop])
    def log_message(self, *a): pass


JOBS = dict(codes=codes, prior=prior, weights=weights, publish=publish, site=site, fetch=fetch)


# The script -----------------------------------------------------------------------------------------------------------------------------

def attempt(write, at, trouble=None, moment=0, count=None):
    "Write in a child, where something happens to its n-th durable operation: 'done', 'killed', or what it said."
    said, say = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            signal.alarm(120)
            for name in OPERATIONS: setattr(os, name, fateful(getattr(os, name), trouble, moment, count))
            write(at)
            os.write(say, b"done")
        except BaseException as e: os.write(say, f"{type(e).__mro__[1].__name__} {type(e).__name__}: {e}".encode())
        os._exit(0)
    os.close(say)
    with os.fdopen(said) as f: words = f.read()
    _, status = os.waitpid(pid, 0)
    return "killed" if os.WIFSIGNALED(status) else words


def fateful(operation, trouble, moment, count):
    "An operation that is counted, and is the last one, or fails, at a moment."
    def f(*a, **k):
        n = int.from_bytes(count[:4], "little") + 1
        count[:4] = n.to_bytes(4, "little")
        if trouble == "kill" and n == moment: os.kill(os.getpid(), signal.SIGKILL)
        if trouble in ("full", "locked") and n >= moment and operation.__name__ not in ("unlink",):
            raise OSError(errno.ENOSPC if trouble == "full" else errno.EROFS, os.strerror(errno.ENOSPC if trouble == "full" else errno.EROFS))
        return operation(*a, **k)
    return f


def look_at(look, at):
    "What stands there; None if nothing does. Half a thing raises."
    from audioengram.core import AudioengramError
    try: return look(at) or None
    except AudioengramError as e:
        if any(w in str(e) for w in ("not found", "no results", "no such file")): return None
        raise
    except FileNotFoundError: return None


def trial(home, job, moments):
    "Try a job at some moments: what stands there at any of them, and after it was done again."
    write, look = JOBS[job](home)
    count = mmap.mmap(-1, 4)
    (home / "clean").mkdir()
    first = attempt(write, home / "clean", count=count)
    total = int.from_bytes(count[:4], "little")
    seen = {json.dumps(look_at(look, home / "clean"))}
    out = dict(first=first, total=total, said=[], odd=[], left=[])
    points = sorted({1, total, *(1 + (total - 1) * i // (moments - 1) for i in range(moments))})
    for trouble in ("kill", "full", "locked"):
        for n in points if trouble == "kill" else points[::max(1, len(points) // 3)]:
            at = home / f"{trouble}{n}"
            at.mkdir()
            count[:4] = bytes(4)
            word = attempt(write, at, trouble, n, count)
            if trouble == "kill" and word != "killed" or trouble != "kill": out["said"].append([trouble, n, word])
            stands = json.dumps(look_at(look, at))           # raises if it is half
            count[:4] = bytes(4)
            again = attempt(write, at, count=count)
            end = json.dumps(look_at(look, at))
            if again != "done" or {end} != seen: out["odd"].append([trouble, n, again, stands, end])
            # a killed process leaves its temporary files, and a killed run its stage, which `reproduce` tidies up
            hidden = [p.name for p in at.rglob(".*") if p.name != ".built" and (trouble != "kill" or p.is_dir() and job != "publish")]
            if hidden: out["left"].append([trouble, n, hidden])
    return out


def run(home, job, moments):
    "In a process that has no threads yet."
    home.mkdir(exist_ok=True)
    env = {**os.environ, "AUDIOENGRAM_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__, str(home), job, str(moments)], capture_output=True, text=True, env=env, timeout=900)
    assert done.returncode == 0, done.stderr[-1500:]
    return json.loads(done.stdout.splitlines()[-1])


def check(out):
    "What every job must show."
    assert out["first"] == "done" and out["total"] > 1 and not out["odd"], out
    assert not out["left"], out["left"]
    for trouble, _, word in out["said"]:      # tidying up comes last, and may fail unseen
        named = ("the disk is full", "No space left") if trouble == "full" else ("cannot be written", "Read-only file system")
        assert word == "done" or word.startswith("AudioengramError") and any(n in word for n in named), word


@pytest.mark.parametrize("job", ["prior", "publish"])
def test_nothing_half(tmp_path, job): check(run(tmp_path / "w", job, 3))


@pytest.mark.slow
@pytest.mark.parametrize("job", list(JOBS))
def test_nothing_half_at_ten_moments(tmp_path, job): check(run(tmp_path / "w", job, 10))


# Two at once -----------------------------------------------------------------------------------------------------------------------------

def several(home, job, n, rounds):
    "Processes that write to one place, over and over: what each said, and what stood there after each round."
    write, look = JOBS[job](home)
    count, out = mmap.mmap(-1, 4), []
    (at := home / "shared").mkdir()
    for _ in range(rounds):
        children = []
        for _ in range(n):
            said, say = os.pipe()
            if (pid := os.fork()) == 0:
                os.write(say, attempt(write, at, count=count).encode())
                os._exit(0)
            os.close(say)
            children.append((pid, said))
        words = []
        for pid, said in children:
            with os.fdopen(said) as f: words.append(f.read())
            os.waitpid(pid, 0)
        out.append([words, look_at(look, at) is not None, sorted(p.name for p in at.rglob(".*") if p.name != ".built")])
    return out


@pytest.mark.parametrize("job", ["publish", pytest.param("fetch", marks=pytest.mark.slow), pytest.param("site", marks=pytest.mark.slow),
                                 pytest.param("prior", marks=pytest.mark.slow)])
def test_two_at_once(tmp_path, job):
    "Both are right: what stands there is whole, and nothing else is left."
    for words, whole, left in run(tmp_path / "w", job, 0): assert words == ["done"] * len(words) and whole and not left


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    home, job, moments = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    with contextlib.redirect_stdout(sys.stderr): found = trial(home, job, moments) if moments else several(home, job, 3, 2)
    print(json.dumps(found))
