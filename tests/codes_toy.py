"A tiny vocabulary for the tests of the codes room: seconds to train, and it means nothing."
import functools
import tempfile
from pathlib import Path

import numpy as np

from audioengram.codes.model import ModelConfig
from audioengram.codes.prior import PriorConfig, fit_prior
from audioengram.codes.training import fit
from audioengram.data.audio import save_audio
from audioengram.data.voices import synthesise

TINY = dict(config=ModelConfig(width=12), batch=4, frames=32, show=False)


def folder(n=4, seconds=1.2) -> Path:
    "A new folder with n voices."
    home = Path(tempfile.mkdtemp())
    for i in range(n): save_audio(home / f"voice{i}.wav", synthesise(seconds, i, 90 + 25 * i), 16_000)
    return home


@functools.lru_cache
def model(prior=False):
    "A trained toy, with a prior if asked."
    m = fit(folder(), steps=12, size=8, **TINY)
    if prior:
        rng = np.random.default_rng(0)
        grids = [rng.integers(0, 8, (12, 4, 3)) for _ in range(3)]
        m.prior = fit_prior(grids[:2], grids[2:], PriorConfig(8, 3, 4, hidden=16, layers=1, heads=2, window=48), steps=4, batch=2, show=False)
    return m
