"""The latent store against the obvious form: one zarr group an utterance, one read a window.

    pytest benchmarks/bench_latents.py --benchmark-columns=median,ops

The naive form and ours run in the same session on the same latents; `test_gather_ratio` prints and asserts the ratio.
"""
import os
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
import zarr

from audioengram.codecs.base import LatentCodec
from audioengram.data.latents import encode_corpus

HOP, DIM, W, B = 320, 64, 8, 1024


class Projection(LatentCodec):
    "A codec that costs next to nothing, so that what is timed is the store."
    name, sample_rate, frame_rate, dim = "bench", 4000, 4000 / HOP, DIM
    def __init__(self):
        super().__init__()
        self.register_buffer("matrix", torch.randn(HOP, DIM, generator=torch.Generator().manual_seed(0)))
    def identity(self): return "v1"
    def _encode(self, wav, lengths): return torch.nn.functional.pad(wav, (0, -wav.shape[1] % HOP)).unflatten(1, (-1, HOP)) @ self.matrix


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    "Forty minutes in 240 utterances."
    folder, rng, rows = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0), []
    for i in range(240):
        sf.write(folder / f"{i}.wav", rng.normal(0, .1, 4000 * int(rng.integers(4, 17))), 4000)
        rows.append((f"u{i}", f"s{i % 20}", str(folder / f"{i}.wav"), sf.info(folder / f"{i}.wav").duration))
    return SimpleNamespace(name="bench", utterances=pd.DataFrame(rows, columns=["utterance_id", "speaker_id", "path", "seconds"]),
                           fingerprint="bench", licence="CC0", source="here", split=None)


@pytest.fixture(scope="module")
def store(corpus, tmp_path_factory): return encode_corpus(corpus, Projection(), tmp_path_factory.mktemp("store") / "s", progress=False)


@pytest.fixture(scope="module")
def groups(store, tmp_path_factory):
    "The same latents, a group an utterance."
    root = zarr.create_group(tmp_path_factory.mktemp("groups"))
    for u, z in store.items(): root.create_group(u).create_array("z", data=z)
    return root


def naive(groups, windows, idx):
    "Each window from its own array; the arrays are open already, which favours this form."
    names, frame = windows.utterances[windows.utterance[idx]], windows.frame[idx]
    return np.stack([groups[u][t - W:t] for u, t in zip(names, frame, strict=True)])


def median_of(f, n):
    times = []
    for _ in range(n):
        start = time.perf_counter(); f(); times.append(time.perf_counter() - start)
    return float(np.median(times))


def test_gather_ratio(store, groups):
    "At least twenty times faster than a store of groups; a window of ours is also the same numbers."
    w = store.windows(length=W)
    opened, idx = {u: groups[u]["z"] for u in store.keys()}, torch.randperm(len(w), generator=torch.Generator().manual_seed(0))[:B]
    assert np.array_equal(naive(opened, w, idx[:50].numpy()), w.contexts(idx[:50]).numpy())
    slow = median_of(lambda: naive(opened, w, idx[:100].numpy()), 3) / 100
    fast = median_of(lambda: w.contexts(idx), 50) / B
    print(f"\na window of {W} frames of {DIM}-d: {slow * 1e6:.0f} us from groups, {fast * 1e6:.2f} us from the store: {slow / fast:.0f} times faster, "
          f"{1 / fast / 1e6:.2f} million windows a second")
    assert slow / fast >= 20


def test_gather_contexts(benchmark, store):
    w = store.windows(length=W)
    idx = torch.randperm(len(w))[:B]
    benchmark(lambda: (w.contexts(idx), w.steps(idx)))


def test_epoch_of_batches(benchmark, store):
    w = store.windows(length=W)
    benchmark(lambda: sum(len(w.contexts(idx)) for idx in w.batches(B, seed=0)))


def test_make_windows(benchmark, store):
    benchmark(lambda: store.windows(length=W, slice="medial"))


def test_encode(benchmark, corpus, tmp_path):
    "Reading, batching, sealing and publishing, with a codec that costs next to nothing: the ceiling in multiples of real time."
    n = iter(range(1000))
    benchmark.pedantic(lambda: encode_corpus(corpus, Projection(), tmp_path / str(next(n)), progress=False), rounds=3)
    benchmark.extra_info["x real time"] = round(corpus.utterances.seconds.sum() / benchmark.stats.stats.median)
    print(f"\n{benchmark.extra_info['x real time']} x real time")


def test_encode_nano(benchmark, tmp_path, monkeypatch):
    "The default codec, every core, from files to a finished store."
    monkeypatch.setenv("AUDIOENGRAM_CACHE", str(tmp_path))
    from audioengram.codecs import get_codec
    from audioengram.data.corpora import get_corpus
    corpus, codec, n = get_corpus("synthetic", n_speakers=8, n_utterances=16, seconds=6.0), get_codec("nano"), iter(range(1000))
    benchmark.pedantic(lambda: encode_corpus(corpus, codec, tmp_path / str(next(n)), progress=False), rounds=3)
    benchmark.extra_info["x real time"] = round(corpus.utterances.seconds.sum() / benchmark.stats.stats.median)
    print(f"\nnano: {benchmark.extra_info['x real time']} x real time on {len(os.sched_getaffinity(0))} cores")


def test_open_and_load(benchmark, store):
    benchmark(lambda: type(store)(store.path).z.sum())
