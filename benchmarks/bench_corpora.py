"A corpus that was scanned before must be there at once: the second scan against a fresh one, in the same run."
import time

import numpy as np
import pytest

from audioengram.core import cache_dir
from audioengram.data.audio import save_audio
from audioengram.data.corpora import get_corpus


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("tree"), np.random.default_rng(0)
    for i in range(200): save_audio(folder / f"s{i % 10}" / f"{i}.flac", 0.1 * rng.standard_normal(48_000).cumsum() / 100, 16_000)
    return folder


def forget():
    for table in cache_dir("manifests").glob("folder-*"): table.unlink()


def test_fresh_scan(benchmark, tree):
    benchmark.group = "scan of 200 files of 3 s"
    benchmark.pedantic(lambda: get_corpus("folder", root=tree), setup=forget, rounds=3)


def test_second_scan(benchmark, tree):
    benchmark.group = "scan of 200 files of 3 s"
    get_corpus("folder", root=tree)
    benchmark.pedantic(lambda: get_corpus("folder", root=tree), rounds=10)


def test_second_scan_ratio(tree):
    "At least ten times faster: nothing is decoded and nothing is hashed."
    times = {}
    for name, before in (("fresh", forget), ("second", lambda: None)):
        spans = []
        for _ in range(3): before(); start = time.perf_counter(); get_corpus("folder", root=tree); spans.append(time.perf_counter() - start)
        times[name] = min(spans)
    print(f"fresh {times['fresh']:.3f} s, second {times['second']:.3f} s, {times['fresh'] / times['second']:.0f} times faster")
    assert times["fresh"] > 10 * times["second"]
