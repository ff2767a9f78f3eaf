"What a thousand hours take: statistics run in blocks, so that memory stays and time grows with the frames."
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scale
import torch

from audioengram.data import windows as windows_module
from audioengram.data.windows import Windows, blocks_of
from audioengram.measure import structure
from audioengram.measure.keys import KeySpec

HERE = Path(__file__).resolve().parent
SIZES = (2**20, 2**22, 2**24)
KINDS = ("structure", "ladder", "gap", "predictor", "sequence")


def sparse(path, frames, dim):
    "A file of zeros that takes no room on the disk."
    with open(path, "wb") as f: f.truncate(4 * frames * dim)
    return path


def test_a_thousand_hours_are_opened_sampled_and_counted(tmp_path):
    "45 million frames of 64 numbers, 11.5 GB, with less than 4 GB of memory of one's own."
    path, peak = sparse(tmp_path / "z.f32", 45_000_000, 64), scale.Peak()
    peak.start()
    store = scale.MappedStore(path, 45_000_000, 64)
    w = store.windows(store.split(), length=8)
    idx = torch.from_numpy(np.sort(np.random.default_rng(0).integers(len(w), size=200)))
    assert w.contexts(idx).shape == (200, 8, 64) and len(next(w.batches(4096))) == 4096
    counts = np.bincount(w.speaker)
    assert len(store.z) == 45_000_000 and counts.sum() == len(w) == 45_000_000 // 800 * 35 // 50 * 792 and w.row.dtype == np.int32
    peak.over.set()
    peak.look()
    assert path.stat().st_blocks * 512 < 2e9 and peak.most < 4e9, f"{peak.most / 1e9:.1f} GB"


def test_phase_0_is_the_same_whether_steps_are_held_or_made_again(tmp_path, monkeypatch):
    scale.make_file(tmp_path / "z.f32", 2**15, block=2**12)
    store = scale.MappedStore(tmp_path / "z.f32", 2**15)
    split, tables = store.split(), []
    for held in (structure.STEPS_HELD, 0):
        monkeypatch.setattr(structure, "STEPS_HELD", held)
        sides = tuple(store.windows(ids, length=2) for ids in (split.train_utterances, split.eval_utterances))
        tables.append(structure.phase0(dict(all=sides), (KeySpec("pool", "pool", None, 8),), min_count=20, repeats=2))
    for name in ("rows", "summary", "readers", "confidence", "cells"): assert getattr(tables[0], name).equals(getattr(tables[1], name)), name


def test_a_large_epoch_reads_neighbours_and_every_window_once(tmp_path, monkeypatch):
    scale.make_file(tmp_path / "z.f32", 2**15, block=2**12)
    w = scale.MappedStore(tmp_path / "z.f32", 2**15).windows(length=4)
    whole = [b.tolist() for b in w.batches(500, seed=3)]
    monkeypatch.setattr(windows_module, "SHUFFLED_WHOLE", 1000)
    monkeypatch.setattr(windows_module, "RUN_OF_WINDOWS", 64)
    monkeypatch.setattr(windows_module, "RUNS_TOGETHER", 16)
    parts, again, other = (list(w.batches(500, **how)) for how in (dict(seed=3), dict(seed=3), dict(seed=4)))
    assert sorted(torch.cat(parts).tolist()) == sorted(sum(whole, [])) == list(range(len(w)))
    assert {len(b) for b in parts[:-1]} == {500} and all(map(torch.equal, parts, again)) and not torch.equal(parts[0], other[0])
    runs = np.unique(parts[0].numpy() // 64)
    assert len(runs) <= 16 and np.abs(np.diff(parts[0].numpy())).mean() > 1000      # few places, far from each other
    assert len(list(w.batches(500, seed=3, drop_last=True))) == len(w) // 500
    assert torch.equal(torch.cat(list(w.batches(500, shuffle=False))), torch.arange(len(w)))


def test_indices_are_small_and_count_what_they_counted(tmp_path):
    scale.make_file(tmp_path / "z.f32", 2**13, block=2**12)
    store = scale.MappedStore(tmp_path / "z.f32", 2**13)
    w = Windows(store, np.array([1, 3, 7]), length=5, lag=2, slice="medial")
    assert {w.row.dtype, w.frame.dtype, w.utterance.dtype, w.speaker.dtype} == {np.dtype(np.int32)}
    naive = [(u, t) for u in (1, 3, 7) for t in range(6, 800) if .17 * 799 <= t <= .83 * 799]
    assert [(int(w._starts[u]) + f == r and f) for u, f, r in zip(w.utterance, w.frame, w.row, strict=True)] == [t for _, t in naive]
    assert w.speakers[w.speaker].tolist() == [f"s{u:02d}" for u, _ in naive]
    assert np.array_equal(torch.cat([w.targets(i) for i in blocks_of(w, 100)]), store.z[w.row])


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    "Sixteen million frames of 128 numbers in a file; AUDIOENGRAM_SCALE_FILE names one that is kept."
    kept = os.environ.get("AUDIOENGRAM_SCALE_FILE")
    path = Path(kept) if kept else tmp_path_factory.mktemp("scale") / "z.f32"
    if not path.exists(): scale.make_file(path, SIZES[-1])
    yield path
    if not kept: path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("what", KINDS)
def test_time_grows_with_the_frames_and_memory_does_not(what, large, tmp_path):
    "1, 4 and 16 million frames: no more than 15 % over proportion, and memory within 20 % once it is over 2 GB."
    env = os.environ | dict(PYTHONPATH=str(HERE.parent), OMP_NUM_THREADS="1", AUDIOENGRAM_CACHE=str(tmp_path))
    def once(frames):
        done = subprocess.run([sys.executable, HERE / "scale.py", what, str(frames), str(large)], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)
    # the two smaller ones twice: a second of start-up that is slow by chance is a third of the smallest
    took = [min((once(frames) for _ in range(1 + (frames < SIZES[-1]))), key=lambda t: t["seconds"]) for frames in SIZES]
    print(what, took)
    seconds, own = ([t[k] for t in took] for k in ("seconds", "own_gb"))
    assert max(own[2], 2) < 1.2 * max(own[1], 2), own
    assert seconds[2] - seconds[1] < 1.15 * 4 * max(seconds[1] - seconds[0], 1), seconds
