"Sampling ten seconds of codes: with the cache, against running the whole network again for every code."
import time

import numpy as np
import pytest
import torch

from audioengram.codes.model import ModelConfig
from audioengram.codes.prior import Prior, PriorConfig, generate, to_stream


@pytest.mark.parametrize("hidden, layers", [(128, 2), (256, 4)])
def test_sampling_with_the_cache(benchmark, hidden, layers):
    "The bars: 10 times recomputation, and ten seconds of sound in under five."
    torch.manual_seed(0)
    c = ModelConfig()
    prior, columns = Prior(PriorConfig(c.size, c.levels, c.bands, hidden=hidden, layers=layers)).eval(), round(10 * c.columns_per_second)
    codes = benchmark.pedantic(lambda: generate(prior, columns, seed=1), rounds=1, warmup_rounds=0)
    stream, spent = to_stream(codes, c.size)[None], []
    for n in np.linspace(c.bands * c.levels, stream.shape[1], 8).astype(int) // (c.bands * c.levels) * (c.bands * c.levels):   # positions spread over the piece
        start = time.perf_counter()
        with torch.inference_mode(): prior(stream[:, :n])
        spent.append(time.perf_counter() - start)
    benchmark.extra_info["times recomputation"] = round(float(np.mean(spent)) * stream.shape[1] / benchmark.stats.stats.mean, 1)
    print(f"\n{hidden}/{layers}: {benchmark.stats.stats.mean:.2f} s for 10 s of sound, {benchmark.extra_info['times recomputation']} times faster than recomputing")
