"Prior: the cache is the network, the seed decides, a hole is filled and nothing else."
import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audioengram.codes.engram import Engram, EngramConfig, key_offsets
from audioengram.codes.prior import (
    Prior,
    PriorConfig,
    bits_per_code,
    choose_prior,
    fit_prior,
    from_stream,
    table_bits,
    to_stream,
)
from audioengram.codes.writing import Writer, choose, generate, infill, write_side_by_side, write_sounds
from audioengram.core import ModelFileError, ParameterError, TrainingError


def prior(seed=0, **options):
    torch.manual_seed(seed)
    p = Prior(PriorConfig(**dict(size=6, levels=2, bands=2, hidden=16, layers=2, heads=2, window=12, rows=53, memory_dim=8) | options)).eval()
    with torch.no_grad():
        for x in p.parameters(): x.add_(.3 * torch.randn_like(x))        # far from an innocent start
    return p


def grid(seed=0, columns=15): return np.random.default_rng(seed).integers(0, 6, (columns, 2, 2)).astype(np.int16)


@settings(deadline=None, max_examples=15)
@given(st.sampled_from(["", "suffix", "column"]), st.integers(1, 25), st.integers(0, 99), st.sampled_from([4, 12, 40]))
def test_the_cache_gives_what_the_whole_network_gives(memory, columns, seed, window):
    p = prior(seed, memory=memory, window=window)
    s = torch.stack([to_stream(grid(seed + i, columns), 6) for i in range(2)])
    writer, out = Writer(p, 2), []
    for i in range(s.shape[1]): out.append(writer.logits()); writer.write(s[:, i])
    with torch.no_grad(): assert torch.allclose(torch.stack(out, 1), p(s), atol=2e-3)


@pytest.mark.parametrize("memory", ["", "suffix", "column"])
def test_no_code_sees_itself_or_what_follows(memory):
    p, s = prior(memory=memory, window=48), to_stream(grid(), 6)[None]
    for at in (0, 5, 17, 59):
        other = s.clone(); other[0, at] = (other[0, at] // 6) * 6 + (other[0, at] + 1) % 6
        with torch.no_grad(): same = torch.isclose(p(s), p(other), atol=1e-6).all(-1)[0]
        assert same[:at + 1].all() and (at == 59 or not same[at + 1])


@pytest.mark.parametrize("memory", ["suffix", "column"])
def test_training_pieces_see_the_past_that_the_whole_file_has(memory):
    "A piece with what comes before it gives the memory the same keys as the file it was cut from."
    p, s = prior(memory=memory), to_stream(grid(), 6)[None]
    whole = p.memory.rows(p._past(s, None), 0)
    piece = p.memory.rows(p._past(s[:, 20:], s[:, 12:20]), 20)
    assert torch.equal(whole[:, 20:], piece)


def test_a_piece_goes_on_for_any_length_and_under_one_seed_alike():
    p = prior()
    a = generate(p, 40, seed=1)
    assert (a == generate(p, 40, seed=1)).all() and (a != generate(p, 40, seed=2)).any() and a.shape == (40, 2, 2) and a.min() >= 0 and a.max() < 6
    assert (generate(p, 5, prompt=a, seed=3)[:40] == a).all()


def test_pieces_written_side_by_side_are_what_each_would_be_alone():
    p, prompts = prior(memory="suffix"), [grid(i, 7) for i in range(3)]
    together = write_side_by_side(p, 6, prompts, temperature=0)
    assert together.shape == (3, 13, 2, 2)
    for made, prompt in zip(together, prompts, strict=True): assert (made == generate(p, 6, prompt=prompt, temperature=0)).all() and (made[:7] == prompt).all()
    free = write_side_by_side(p, 6, np.zeros((4, 0, 2, 2), int), seed=2)
    assert len({f.tobytes() for f in free}) == 4 and (free == write_side_by_side(p, 6, np.zeros((4, 0, 2, 2), int), seed=2)).all()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.integers(1, 9), st.floats(.01, 1), st.integers(0, 50))
def test_filters_keep_what_they_promise(logits, k, p, seed):
    x, g = torch.tensor([logits]), torch.Generator().manual_seed(seed)
    order, probs = x[0].argsort(descending=True), x[0].softmax(-1)
    assert x[0, choose(x, top_k=k, g=g)] >= x[0].sort(descending=True).values[min(k, len(logits)) - 1]
    taken, head = int(choose(x, top_p=p, g=g)), probs[order].cumsum(0)
    allowed = order[:int((head < p - 1e-5).sum()) + 2]
    assert probs[taken] >= probs[allowed].min() - 1e-6
    assert x[0, choose(x, temperature=0)] == x.max()


@pytest.mark.parametrize("how, says", [(dict(temperature=[1, 2, 3]), "3 values for 2 levels"), (dict(temperature=-1), "temperature is -1"), (dict(top_p=0.), "top_p is 0"), (dict(top_k=0), "top_k is 0"), (dict(temperature=float("nan")), "temperature is nan")])
def test_sampling_options_are_checked(how, says):
    with pytest.raises(ParameterError, match=says): generate(prior(), 1, **how)


@pytest.mark.parametrize("memory", ["", "column"])
def test_infill_keeps_the_rest(memory):
    p, codes, mask = prior(memory=memory), grid(columns=12), np.zeros((12, 2, 2), bool)
    mask[4:6, 1], mask[8, 0, 1] = True, True
    new, *bits = infill(p, codes, mask, seed=3)
    assert (new[~mask] == codes[~mask]).all() and np.isfinite(bits).all() and (infill(p, codes, mask, seed=3)[0] == new).all()
    assert (infill(p, codes, np.zeros_like(mask))[0] == codes).all()
    end = np.zeros_like(mask); end[-1] = True
    assert (infill(p, codes, end)[0][:-1] == codes[:-1]).all()          # nothing behind the hole to judge by


def test_infill_chooses_what_the_codes_behind_ask_for():
    "In this world each code is followed by the next higher one. The first code of a file cannot be known from the past, but the second tells it."
    files = [((i + np.arange(20)) % 6).reshape(-1, 1, 1) for i in range(24)]
    p = fit_prior(files[:18], files[18:], PriorConfig(6, 1, 1, hidden=16, layers=1, heads=2, window=16), steps=100, lr=1e-2, dropout=0., show=False)
    mask = np.zeros((20, 1, 1), bool); mask[0] = True
    hits = [infill(p, files[i], mask, seed=i, candidates=24)[0][0, 0, 0] == files[i][0, 0, 0] for i in range(12)]
    assert np.mean(hits) > .7, "a blind guess is right one time in six"
    mask[0:2] = True
    fits, blind = np.mean([infill(p, files[i], mask, seed=i, candidates=24, ahead=6)[1:] for i in range(12)], 0)
    assert fits < .7 * blind, "with what follows in view, the true continuation is likelier than after a blind draw"


@pytest.fixture(scope="module")
def two_kinds():
    "A prior of low sounds of 12 columns and of high ones of 30, with rests of 2 and of 20."
    make = lambda a, n, i: np.random.default_rng(a + i).integers(a, a + 3, (n, 1, 1))
    files, names = [make(a, n, i) for a, n in ((0, 12), (3, 30)) for i in range(10)], ["low"] * 10 + ["high"] * 10
    train, valid = ([x for i, x in enumerate(files) if (i % 5 == 0) == held] for held in (False, True))
    of = tuple([x for i, x in enumerate(names) if (i % 5 == 0) == held] for held in (False, True))
    shape = PriorConfig(6, 1, 1, hidden=16, layers=1, heads=2, window=32, labels=("high", "low"))
    return fit_prior(train, valid, shape, steps=150, lr=1e-2, patience=0, show=False, rests=[2 if k == "low" else 20 for k in of[0]], labels=of)


def test_a_kind_can_be_asked_for(two_kinds):
    low, high, any_ = (generate(two_kinds, 600, seed=1, label=name) for name in ("low", "high", ""))
    sound = lambda g: g[g >= 0]
    assert (sound(low) < 3).mean() > .95 and (sound(high) > 2).mean() > .95
    assert .1 < (sound(any_) > 2).mean() < .9, "without a label both kinds are written"
    assert (low < 0).mean() < .3 < (high < 0).mean(), "rests are those of the kind"
    assert (generate(two_kinds, 600, seed=1, label="low") == low).all()
    longest = {name: max(len(s) for s in write_sounds(two_kinds, 12, 30, label=name)) for name in ("low", "high")}
    assert longest["low"] < 20 < longest["high"], longest
    with pytest.raises(ParameterError, match="no label 'mid'. It has high, low"): generate(two_kinds, 9, label="mid")
    with pytest.raises(ParameterError, match="no label 'low'. Train one on a folder with subfolders"): generate(prior(), 9, label="low")


def test_labels_are_read_from_json_or_refused():
    shape = PriorConfig(6, 1, 1, labels=("a", "b"))
    model = SimpleNamespace(size=6, levels=1, grid_bands=1)
    told = json.loads(json.dumps(asdict(shape)))
    assert PriorConfig.read(told, model) == shape
    del told["labels"]
    assert PriorConfig.read(told, model).labels == (), "a file from before there were labels"
    for bad in ("ab", [1], ["a", "a"], [""], ["x" * 400], None):
        with pytest.raises(ModelFileError, match="impossible labels"): PriorConfig.read(told | dict(labels=bad), model)


def test_baselines_against_a_known_source():
    rng, p = np.random.default_rng(0), np.array([.5, .25, .125, .125])
    files = [rng.choice(4, (200, 1, 1), p=p) for _ in range(30)]
    bits = table_bits(files[:20], files[20:], 4).sum(0)
    assert bits[0] / bits[1] == pytest.approx(1.75, abs=.03)
    assert table_bits(files[:20], files[20:], 4, 2).sum(0)[0] / bits[1] == pytest.approx(1.75, abs=.05)     # nothing more to know from the one before


def test_streams_are_exact_and_absent_codes_have_a_token():
    codes = np.random.default_rng(0).integers(-1, 6, (9, 2, 2))
    assert (from_stream(to_stream(codes, 6), prior().config) == codes).all()
    assert np.isfinite(bits_per_code(prior(), [np.where(codes < 0, 0, codes)])).all()


def test_the_memory_never_reads_ahead():
    for kind in ("suffix", "column"): assert min(map(min, key_offsets(kind, 4))) >= 1
    m = Engram(EngramConfig("suffix", 53, dim=8), 8, 4)
    past = torch.randint(0, 9, (1, m.reach + 6)); other = past.clone(); other[0, m.reach + 3] += 1
    same = (m.rows(past, 0) == m.rows(other, 0)).flatten(2).all(-1)[0]
    assert same[:4].all() and not same[4]


def test_sizes_follow_the_data_and_fitting_needs_files():
    from audioengram.codes.model import ModelConfig
    assert [(c.hidden, c.layers) for c in (choose_prior(n, ModelConfig()) for n in (10**4, 10**6, 10**7))] == [(128, 2), (256, 4), (512, 6)]
    with pytest.raises(TrainingError, match="training and of validation"): fit_prior([], [grid()], prior().config)
