"""Training a predictor: windows gathered by index against a loader that streams one window at a time.

    pytest benchmarks/bench_predictor.py --benchmark-columns=median,ops

Both forms train the same model on the same latents in the same session; `test_training_ratio` prints and asserts the ratio of frames per second.
"""
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from torch.utils.data import DataLoader, Dataset

from audioengram.data.windows import Windows
from audioengram.dynamics.predictor import Predictor

D, W, B, FRAMES, UTTERANCES = 64, 8, 512, 80, 400


@pytest.fixture(scope="module")
def windows():
    z = torch.randn(FRAMES * UTTERANCES, D, generator=torch.Generator().manual_seed(0))
    index = pd.DataFrame(dict(utterance_id=[f"u{i}" for i in range(UTTERANCES)], speaker_id=[f"s{i % 20}" for i in range(UTTERANCES)]))
    store = SimpleNamespace(offsets=np.arange(UTTERANCES + 1) * FRAMES, index=index, tensor=lambda device="cpu": z.to(device), energy=None)
    return Windows(store, np.arange(UTTERANCES), W)


class Streamed(Dataset):
    "The obvious form: one group an utterance, opened and sliced for every window, collated one by one."
    def __init__(self, windows, folder):
        self.root, self.windows = zarr.open_group(folder, mode="w"), windows
        z = windows.store.tensor()
        for i in range(UTTERANCES): self.root.create_group(f"u{i}").create_array("z", data=z[i * FRAMES:(i + 1) * FRAMES].numpy())
    def __len__(self): return len(self.windows)
    def __getitem__(self, i):
        frame = self.windows.frame[i]
        z = self.root[f"u{self.windows.utterance[i]}"]["z"][frame - W:frame + 1]
        return torch.from_numpy(z[:-1]), torch.from_numpy(z[-1])


@pytest.fixture(scope="module")
def streamed(windows, tmp_path_factory): return Streamed(windows, tmp_path_factory.mktemp("groups"))


def trainer(windows):
    model = Predictor(D, W, "state", hidden=64, layers=1, components=4).set_units(windows)
    opt = torch.optim.AdamW(model.parameters(), 1e-3)
    def step(context, target):
        loss = -model(context).log_prob(target).mean()
        opt.zero_grad(); loss.backward(); opt.step()
    return step


def ours(windows, step, batches):
    for _, idx in zip(range(batches), windows.batches(B, seed=0), strict=False): step(windows.contexts(idx), windows.targets(idx))


def naive(streamed, step, batches):
    for _, (context, target) in zip(range(batches), DataLoader(streamed, B, shuffle=True, generator=torch.Generator().manual_seed(0)), strict=False): step(context, target)


def test_ours(benchmark, windows): benchmark.pedantic(ours, (windows, trainer(windows), 10), rounds=5, warmup_rounds=1)
def test_naive(benchmark, streamed, windows): benchmark.pedantic(naive, (streamed, trainer(windows), 1), rounds=3)


def test_streaming_gives_the_same_windows(streamed, windows):
    idx = torch.arange(0, len(windows), 997)
    context, target = zip(*(streamed[i] for i in idx.tolist()), strict=True)
    assert torch.equal(torch.stack(context), windows.contexts(idx)) and torch.equal(torch.stack(target), windows.targets(idx))


def test_training_ratio(streamed, windows, capsys):
    def rate(form, data, batches):
        step = trainer(windows)
        form(data, step, 1)
        t = time.perf_counter(); form(data, step, batches)
        return batches * B / (time.perf_counter() - t)
    fast, slow = max(rate(ours, windows, 20) for _ in range(3)), max(rate(naive, streamed, 2) for _ in range(2))
    with capsys.disabled(): print(f"\ntraining: {fast:,.0f} frames/s by index, {slow:,.0f} frames/s streamed: {fast / slow:.0f}x")
    assert fast > 20 * slow
