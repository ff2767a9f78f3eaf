"""The encoder under SIGKILL and a disk that refuses to take more.

The work is done by this file run as a script: it imports everything once and forks a child for each attempt, so that dozens of kills
take seconds. Threads and tensor work exist only in the children.
"""
import errno
import hashlib
import json
import mmap
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch

from audioengram.codecs import get_codec, register_codec
from audioengram.codecs.base import LatentCodec
from audioengram.core import StoreError
from audioengram.data.latents import LatentStore, encode_corpus

RATE, HOP, DIM = 8000, 80, 24


class Projection(LatentCodec):
    "Frames of 10 ms through a fixed matrix."
    name, sample_rate, frame_rate, dim, pause = "projection", RATE, RATE / HOP, DIM, 0.0
    def __init__(self):
        super().__init__()
        self.register_buffer("matrix", torch.from_numpy(np.random.default_rng(7).standard_normal((HOP, DIM)).astype("float32")))
    def identity(self): return "v1"
    def _encode(self, wav, lengths):
        time.sleep(self.pause)
        return torch.nn.functional.pad(wav, (0, -wav.shape[1] % HOP)).unflatten(1, (-1, HOP)) @ self.matrix


def make_corpus(folder, n=24):
    rng, rows = np.random.default_rng(1), []
    for i in range(n):
        path = folder / f"u{i}.wav"
        sf.write(path, .1 * rng.standard_normal(int(rng.integers(800, 16000))), RATE)
        rows.append((f"u{i}", f"s{i % 3}", str(path), sf.info(path).duration))
    rows[5] = ("u5", "s2", str(folder / "missing.wav"), 1.)   # a failure has to survive too
    table = pd.DataFrame(rows, columns=["utterance_id", "speaker_id", "path", "seconds"])
    split = SimpleNamespace(train=("s0", "s1"), eval=("s2",), valid_utterances=(),
                            **{f"{k}_utterances": tuple(table.utterance_id[table.speaker_id.isin(v)]) for k, v in (("train", ["s0", "s1"]), ("eval", ["s2"]))})
    return SimpleNamespace(name="noise", utterances=table, fingerprint="f", licence="CC0", source="here", split=lambda: split)


def digest(folder) -> str:
    "Every file's name and content, hidden ones included."
    files = sorted(f for f in Path(folder).rglob("*") if f.is_file())
    return hashlib.sha256(b"".join(f.relative_to(folder).as_posix().encode() + hashlib.sha256(f.read_bytes()).digest() for f in files)).hexdigest()


# The script -----------------------------------------------------------------------------------------------------------------------

def attempt(work, arm=lambda: None, kill_after=None):
    "Encode in a child; returns how it ended: 'done', 'killed', or its error's text."
    said, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(60)
            os.dup2(say, 2)
            os.environ["AUDIOENGRAM_CACHE"] = str(work["cache"])
            arm()
            codec = get_codec(work["codec"])
            codec.base.pause = work.get("pause", 0.)
            encode_corpus(work["corpus"], codec, work["store"], progress=False, workers=work.get("workers", 1), shard_seconds=work["shard_seconds"])
            code = 0
        except BaseException as e: sys.stderr.write(f"{type(e).__name__}: {e}"); sys.stderr.flush()
        os._exit(code)
    os.close(say)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    with os.fdopen(said) as f: words = f.read()   # until the child is gone
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status): return "killed" if os.WTERMSIG(status) == signal.SIGKILL else f"signal {os.WTERMSIG(status)}"
    return "done" if status == 0 else words


def job(folder, name, codec, **more):
    return {"folder": folder, "store": folder / name, "cache": folder / f"cache-{name}", "codec": codec, "shard_seconds": 2., **more}


def must(outcome, wanted="done"):
    if outcome != wanted: raise SystemExit(f"expected {wanted!r}, got {outcome!r}")


def random_kills(folder, corpus, codec):
    "One store, killed at ten random moments."
    rng = random.Random(0)
    clean = job(folder, "clean", codec, corpus=corpus, pause=.1, workers=2)
    start = time.monotonic()
    must(attempt(clean))
    whole, scale, series = time.monotonic() - start, .3, 0
    while True:   # until ten kills came before the end
        series += 1
        work = job(folder, f"killed{series}", codec, corpus=corpus, pause=.1, workers=2)
        done, outcome = [], "killed"
        while len(done) < 10 and outcome == "killed":
            outcome = attempt(work, kill_after=rng.uniform(0, scale * whole))
            ledger = work["store"].with_name(f".{work['store'].name}.partial") / "shards.json"
            if outcome == "killed": done.append(len(json.loads(ledger.read_text())) if ledger.exists() else 0)
        if len(done) == 10: break
        must(outcome)
        if digest(work["store"]) != digest(clean["store"]): raise SystemExit("a store that was finished early differs")
        scale *= .8
    must(attempt(work))
    return {"kills": len(done), "shards_done": done, "same": digest(work["store"]) == digest(clean["store"]),
            "left": [f.name for f in folder.glob(".*.partial")]}


def every_point(folder, corpus, codec, step):
    "Die at the n-th durable operation, for every `step`-th n (1: all of them) and the last three; resume; compare."
    count = mmap.mmap(-1, 4)   # shared with the children
    def armed(n):
        def arm():
            count[:4] = bytes(4)
            def deadly(f):
                def g(*a, **k):
                    i = int.from_bytes(count[:4], "little") + 1
                    count[:4] = i.to_bytes(4, "little")
                    if i == n: os.kill(os.getpid(), signal.SIGKILL)
                    return f(*a, **k)
                return g
            for name in ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir"): setattr(os, name, deadly(getattr(os, name)))
        return arm
    clean = job(folder, "clean", codec, corpus=corpus, shard_seconds=9.)
    must(attempt(clean, armed(0)))
    want, total, seen = digest(clean["store"]), int.from_bytes(count[:4], "little"), set()
    points = sorted({*range(int(step), total, int(step)), total - 2, total - 1, total})
    for n in points:
        work = job(folder, "died", codec, corpus=corpus, shard_seconds=9.)
        must(attempt(work, armed(n)), "killed")
        seen.add("published" if work["store"].exists() else "assembling" if (folder / ".died.partial/store").exists() else "sharding")
        must(attempt(work))
        if left := [*folder.glob(".*"), *work["cache"].glob("latents/.*")]: raise SystemExit(f"death at operation {n} leaves {left}")
        if digest(work["store"]) != want: raise SystemExit(f"differs after death at operation {n}")
        subprocess.run(["rm", "-rf", work["store"], work["cache"]], check=True)
    return {"points": len(points), "of": total, "stages": sorted(seen)}


def full_disk(folder, corpus, codec):
    "The system refuses files beyond a size, in shards, in chunks, in the manifest; then space returns."
    def armed(size):
        def arm():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        return arm
    clean = job(folder, "clean", codec, corpus=corpus)
    must(attempt(clean))
    out = []
    biggest = max(f.stat().st_size for f in clean["store"].rglob("*") if f.is_file())
    for size in (100, 1000, 8000, biggest - 1):
        work = job(folder, f"full{size}", codec, corpus=corpus)
        said = attempt(work, armed(size))
        half = work["store"].exists()
        must(attempt(work))
        out.append({"size": size, "said": said, "half": half, "same": digest(work["store"]) == digest(clean["store"])})
    return out


if __name__ == "__main__":
    register_codec("projection", Projection)
    what, folder, *rest = sys.argv[1:]
    print(json.dumps(globals()[what](Path(folder), make_corpus(Path(folder)), *rest)))


# The tests ------------------------------------------------------------------------------------------------------------------------

def script(what, folder, *rest):
    r = subprocess.run([sys.executable, __file__, what, str(folder), *rest], capture_output=True, text=True, timeout=300,
                       env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"})
    assert r.returncode == 0, r.stderr[-2000:]
    return json.loads(r.stdout)


VIEWS = "projection+stack2+pca8+normalise"

def test_ten_random_kills(tmp_path):
    r = script("random_kills", tmp_path, "projection")
    assert r["kills"] == 10 and r["same"] and not r["left"]
    assert r["shards_done"] == sorted(r["shards_done"])          # no kill costs a finished shard
    assert 0 < r["shards_done"][-1]


@pytest.mark.parametrize("codec, step", [("projection", "7"), (VIEWS, "13")])   # "1" tries them all, in a minute or two
def test_death_between_durable_operations(tmp_path, codec, step):
    r = script("every_point", tmp_path, codec, step)
    assert r["points"] >= 10 and r["stages"] == ["assembling", "published", "sharding"]


def test_full_disk(tmp_path):
    for r in script("full_disk", tmp_path, "projection"):
        assert "StoreError: the disk is full" in r["said"] and "run again" in r["said"], r
        assert not r["half"] and r["same"], r


@pytest.mark.parametrize("where", ["shard-00002", "shards.json", "chunk", "index.parquet", "manifest.json", "rename"])
def test_full_disk_at_each_stage(tmp_path, monkeypatch, where):
    register_codec("projection", Projection)
    corpus, codec = make_corpus(tmp_path), Projection()
    encoded = []
    monkeypatch.setattr(Projection, "_encode", lambda self, wav, lengths, f=Projection._encode: encoded.append(len(wav)) or f(self, wav, lengths))
    def refuse(target):
        if where in str(target): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
    with monkeypatch.context() as m:
        replace, rename = os.replace, os.rename
        m.setattr(os, "replace", lambda a, b: (refuse(b), replace(a, b)))
        m.setattr(os, "rename", lambda a, b: (refuse("rename"), rename(a, b)))
        if where == "chunk":
            import zarr
            put = zarr.storage.LocalStore.set
            m.setattr(zarr.storage.LocalStore, "set", lambda self, key, value: (refuse("chunk" if "/c/" in key else key), put(self, key, value))[1])
        with pytest.raises(StoreError, match="the disk is full.*Free some space and run again"):
            encode_corpus(corpus, codec, tmp_path / "store", progress=False, workers=1, shard_seconds=2)
    assert not (tmp_path / "store").exists()
    with pytest.raises(StoreError, match="is not complete.*goes on where it stopped"): LatentStore(tmp_path / "store")
    before, all_of_them = len(encoded), len(corpus.utterances)
    with pytest.warns(UserWarning, match="1 of 24 utterances"): store = encode_corpus(corpus, codec, tmp_path / "store", progress=False, shard_seconds=2)
    if where not in ("shard-00002", "shards.json"): assert len(encoded) == before      # nothing was encoded twice
    with pytest.warns(UserWarning): fresh = encode_corpus(corpus, codec, tmp_path / "fresh", progress=False, shard_seconds=2)
    assert digest(store.path) == digest(fresh.path) and len(store) == all_of_them - 1
