"One reader for every sense; planted answers pass every rule and noise fails every one."
import numpy as np
import pandas as pd
import pytest
import torch

from audioengram.discussions import d30_binding as d30
from audioengram.ember.reader import SENSES, equal_reader, read_by_core, read_by_line, standard_rows
from audioengram.ember.rules import decide_all

SPEAKERS, CLIPS = 12, 20


def experiment(draw: int, planted: bool, seeds=3) -> dict:
    "Differences of accuracy [seeds, speakers], learned by real readers from a sense that is given the answer, or from noise, over noise."
    rng = np.random.default_rng([draw, planted])
    labels, fit = np.tile([0, 1], SPEAKERS * CLIPS), np.arange(2 * SPEAKERS * CLIPS) < SPEAKERS * CLIPS
    who = np.arange((~fit).sum()) % SPEAKERS
    noise = lambda: torch.from_numpy(rng.standard_normal((len(labels), 2, 25)).astype(np.float32))
    one, other = noise(), noise()
    if planted: one[:, 0] += torch.from_numpy(2. * labels - 1)[:, None]
    def score(x, seed):
        said, _, _ = read_by_core(x, labels, fit, SENSES["spikes"], updates=16, steps=1, batch=16, parameters=6_000, dim=16, seed=seed)
        return pd.Series(said == labels[~fit]).groupby(who).mean()
    return dict(core=pd.DataFrame([score(one, s) - score(other, s) for s in range(seeds)]))


def test_a_planted_answer_passes_and_noise_fails():
    for planted, says in ((True, "yes"), (False, "not known")):
        assert decide_all(experiment(0, planted, seeds=2)).says.tolist() == [says]


@pytest.mark.slow
def test_twenty_of_twenty():
    assert [decide_all(experiment(d, True)).says[0] for d in range(20)] == ["yes"] * 20
    told = decide_all({str(d): experiment(d, False)["core"] for d in range(20)})
    assert not (told.says == "yes").any() and not (told.says == "no").any()


def results(rng, better: dict, control=.96) -> pd.DataFrame:
    "Rows of a made-up experiment with known accuracies."
    return pd.DataFrame([
        dict(task=t, condition=c, reader=r, seed=s, speaker=f"v{g:02d}", asked=200, learned=1., right=int(rng.binomial(200, control if t == d30.CONTROL else better.get(c, .5))))
        for t in ("clicks", "curve", "ears", d30.CONTROL) for c in d30.CONDITIONS for r in ("core", "line") for s in range(5 if r == "core" else 1) for g in range(20)])


def observers(rng, mel=.52, words=.5) -> pd.DataFrame:
    "What made-up observers know."
    known = dict(waveform=.99, words=words) | {f"log-mel {f}, network": mel for f in ("25/10 ms", "25/2.5 ms", "5/2.5 ms")}
    return pd.DataFrame([dict(task=t, observer=o, speaker=f"v{g:02d}", asked=200, right=int(rng.binomial(200, .97 if t == d30.CONTROL and o != "words" else p)))
                         for t in ("clicks", "curve", "ears", d30.CONTROL) for o, p in known.items() for g in range(20)])


def verdict(rows, known):
    tasks = d30.entered(known, rows)
    return d30.go(d30.decisions(rows, tasks), tasks, d30.passing(rows, known))


CASES = [({"spikes": .95}, "go"), ({}, "no go"), ({"log-mel 10 ms": .95}, "no go"), ({"spikes": .95, "spike counts": .95}, "no go")]


@pytest.mark.parametrize("better, says", CASES[:2])
def test_the_verdict_follows_the_declared_rules(better, says):
    rng = np.random.default_rng(0)
    assert verdict(results(rng, better), observers(rng)) == says


@pytest.mark.slow
@pytest.mark.parametrize("better, says", CASES)
def test_the_verdict_is_the_same_in_twenty_draws(better, says):
    told = []
    for draw in range(20):
        rng = np.random.default_rng(draw)
        told.append(verdict(results(rng, better), observers(rng)))
    assert told == [says] * 20


def test_who_enters_and_who_has_learned():
    rng = np.random.default_rng(1)
    assert d30.certified(observers(rng)).enters.all()
    assert d30.certified(observers(rng, words=.6)).enters.to_dict() == dict(clicks=False, curve=False, ears=False, coarse=True)
    assert not d30.certified(observers(rng, mel=.95)).enters.drop(d30.CONTROL).any()
    unlearned = results(rng, {"spikes": .95}, control=.6)
    assert d30.passing(unlearned, observers(rng)) == {} and verdict(unlearned, observers(rng)) == "not known"


@pytest.mark.parametrize("name", SENSES)
def test_readers_have_one_size_and_answer(name):
    reader = equal_reader(48, SENSES[name], 30_000)
    assert sum(p.numel() for p in reader.parameters()) == pytest.approx(30_000, rel=.06)
    rows = 8000 if name == "waveform" else 200 if "2.5" in name else 50 if "10 ms" in name else 25
    logits, sure = reader(torch.randn(3, 48, rows), steps=2)
    assert logits.shape == (2, 3, 2) and sure.shape == (2, 3) and torch.isfinite(logits).all()


def test_rows_are_levelled_by_what_is_learned_from():
    x = torch.randn(20, 3, 10) * torch.tensor([1., 100., 0.])[:, None] + 5
    fit = np.arange(20) < 12
    y = standard_rows(x, fit)
    assert y[:12].mean((0, 2)).abs().max() < 1e-3 and y[:12, 2].abs().max() < 1e-6 and .8 < y[:12, 1].std() < 1
    assert read_by_line(x, np.arange(20) % 2, fit).shape == (8,)
