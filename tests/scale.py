"""What a thousand hours ask of the machine: `scale.py WHAT FRAMES FILE` measures one thing on so many frames of a mapped file. It prints
seconds of processor time, those of them that are the system's (it fetches pages of the file: more, the less of it is still in memory), and the peak
of the memory that is the process's own (pages of the file belong to the system). Run by tests/test_scale.py.
"""
import json
import os
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from audioengram.data.corpus import SpeakerSplit
from audioengram.data.latents import LatentStore

D, FRAMES, SPEAKERS = 128, 800, 50   # dimensions, frames of an utterance, speakers


def make_file(path, frames: int, block=2**18):
    "Latents that move slowly, a block of them again and again, each time elsewhere."
    rng = np.random.default_rng(0)
    z = rng.standard_normal((block, D), dtype=np.float32)
    for t in range(1, block): z[t] += .8 * z[t - 1]
    with open(path, "wb") as f:
        for k in range(-(-frames // block)): (z[:frames - k * block] * np.float32(1 + .01 * (k % 7))).tofile(f)


class MappedStore(LatentStore):
    "A latent store whose frames are the first so many of a file."
    def __init__(self, path, frames, dim=D, mean_frames=FRAMES):
        n = np.full(frames // mean_frames, mean_frames)
        ids = [f"u{i:07d}" for i in range(len(n))]
        speakers = [f"s{i % SPEAKERS:02d}" for i in range(len(n))]
        self.index = pd.DataFrame(dict(utterance_id=ids, speaker_id=speakers, offset=np.cumsum(n) - n, frames=n, seconds=n / 12.5))
        self.path, self.memory, self._state = Path(path), "map", {}
        self.failures = self.index.iloc[:0].assign(error="", message="")
        self.meta = dict(frames=int(n.sum()), fingerprint=f"scale {frames}", codec=dict(name="scale", dim=dim, frame_rate=12.5, fingerprint="scale"),
                         corpus=dict(name="scale", fingerprint="scale", licence="CC0"))
        self.__dict__["_data"] = np.memmap(path, np.float32, "c", shape=(int(n.sum()), dim))
    def split(self):
        "Every fifth speaker is held out, every tenth validates."
        side = {f"s{k:02d}": "eval" if k % 5 == 0 else "valid" if k % 10 == 1 else "train" for k in range(SPEAKERS)}
        of = {p: tuple(self.index.utterance_id[self.index.speaker_id.map(side) == p]) for p in ("train", "valid", "eval")}
        return SpeakerSplit(tuple(s for s, p in side.items() if p != "eval"), tuple(s for s, p in side.items() if p == "eval"), 0,
                            of["train"], of["valid"], of["eval"])


SMALL = dict(hidden=16, layers=1, components=2)


def structure(store, split):
    "Phase 0 of the first page."
    from audioengram.discussions.d00_structure import SMALL_KEYS
    from audioengram.measure.structure import phase0
    sides = tuple(store.windows(ids, length=2) for ids in ((*split.train_utterances, *split.valid_utterances), split.eval_utterances))
    assert len(phase0(dict(all=sides), SMALL_KEYS[:1], repeats=1).rows)


def ladder(store, split):
    "Nulls and a mixture scored on every held-out frame, with the lengths of all training steps."
    from audioengram.data.cases import split_windows
    from audioengram.data.windows import step_lengths
    from audioengram.discussions.d01_predictability import score
    from audioengram.dynamics.predictor import Predictor
    from audioengram.dynamics.side import step_signals
    from audioengram.measure.prediction import StandStill, fit_baselines, score_points
    sets, how = split_windows(store, split, 4, 1), SimpleNamespace(seed=0, scored=2000, samples=8)
    moves = step_lengths(sets["train"])
    sums = dict(centre=float(moves[moves > 0].log().mean()), floor=.05 * float(moves.median()))
    store.__dict__["energy"] = np.zeros(len(store.z), np.float32)
    assert len(step_signals(store)) == len(store.z)
    base = fit_baselines(sets["train"], max_frames=20_000)
    for forecast in (base["step-diagonal"], Predictor(D, 4, "state", **SMALL).set_units(sets["train"], 20_000)):
        assert np.isfinite(score(forecast, sets["test"], how, **sums)[0].nll).all()
    assert len(score_points(StandStill(), sets["test"])) == len(sets["test"])


def gap(store, split):
    "Rollouts beside the ceiling."
    from audioengram.data.cases import split_windows
    from audioengram.dynamics.gap import floor_of, measure_gap, measure_limit
    from audioengram.dynamics.predictor import Predictor
    from audioengram.measure.prediction import fit_baselines
    how = SimpleNamespace(length=4, steps=2, seed=0, segments=200, particles=8)
    sets = {lag: split_windows(store, split, 4, lag)["train"] for lag in (1, 2)}
    make = lambda lag, encoder: Predictor(D, 4, encoder, **SMALL).set_units(sets[lag], 20_000)
    direct = {0: make(1, "none"), 1: make(1, "state"), 2: make(2, "state")}
    base, floor = fit_baselines(sets[1], max_frames=20_000)["step-diagonal"], floor_of(sets[1])
    assert len(measure_gap(direct[1], direct, store, split, how, base, floor, null=direct[0]))
    assert len(measure_limit(direct[1], direct, store, split, how, floor, (2, 4), 32))


def predictor(store, split):
    "An epoch of a predictor over every training window."
    from audioengram.data.cases import split_windows
    from audioengram.dynamics.predictor import Predictor, train
    sets = split_windows(store, split, 4, 1)
    history = train(Predictor(D, 4, "state", **SMALL), sets["train"], sets["valid"], epochs=1, batch_size=4096, progress=False)
    assert np.isfinite(history.valid).all()


def sequence(store, split):
    "An epoch of a sequence model."
    from audioengram.dynamics.sequence import SequenceConfig
    from audioengram.dynamics.sequence_data import Sequences
    from audioengram.dynamics.sequence_train import SequenceRecipe, SequenceTrainer
    train, valid = Sequences.of_store(store, split.train_utterances), Sequences.of_store(store, split.valid_utterances)
    config = SequenceConfig(dim=D, width=16, layers=1, heads=2, hidden=16, context=8, components=2, conditions=(("voice", 2 * D),))
    steps = len(train.z) // (32 * 256)
    recipe = SequenceRecipe(config, steps=steps, rows=32, length=256, warmup=1, validate_every=steps, save_every=steps, draws=2)
    with tempfile.TemporaryDirectory() as folder:
        assert np.isfinite(SequenceTrainer(recipe, train, valid, folder).run(say=lambda text: None).curve[-1]["energy"])


class Peak(threading.Thread):
    "Watches the memory of the process that is not a file's."
    def __init__(self): super().__init__(daemon=True); self.most, self.over = 0, threading.Event()
    def run(self):
        while not self.over.wait(.02): self.look()
    def look(self):
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        self.most = max(self.most, int(status["RssAnon"].split()[0]) * 1024)


if __name__ == "__main__":
    what, frames, path = sys.argv[1:]
    torch.set_num_threads(1)
    store = MappedStore(path, int(frames))
    split, peak = store.split(), Peak()
    peak.start()
    began, wall = os.times(), time.perf_counter()
    globals()[what](store, split)
    peak.over.set()
    user, system = (b - a for a, b in zip(began[:2], os.times()[:2], strict=True))
    print(json.dumps(dict(seconds=user + system, system=system, wall=time.perf_counter() - wall, own_gb=peak.most / 1e9,
                          resident_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)))
