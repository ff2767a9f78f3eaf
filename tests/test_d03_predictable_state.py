"Discussion d03: the linear states, the paired difference of gains, the spectrum of a state, and the way back, against what is known."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from audioengram.data.memory_store import MemoryStore
from audioengram.discussions import d03_predictable_state as d03
from audioengram.dynamics.state_scores import fit_pair, gain_difference, score_state, spectrum_rows, state_gain
from audioengram.dynamics.states import contrastive_state, linear_states
from audioengram.dynamics.ways_back import decoder_of, r2_of, reconstruction_rows
from audioengram.measure.prediction import of_sums
from audioengram.measure.rules import crossed

HOW = replace(d03.Recipe.of("smoke"), hidden=16, epochs=15)


@pytest.fixture(scope="module")
def sets():
    "Two slow sources of small variance among white ones of large variance, seen through a rotation."
    g = torch.Generator().manual_seed(0)
    rho, size = torch.tensor([.95, .8, 0., 0., 0., 0.]), torch.tensor([.3, .3, 3., 2., 1., 1.])
    turn = torch.linalg.qr(torch.randn(6, 6, generator=g))[0]
    def utterances(n):
        s = [torch.randn(n, 6, generator=g)]
        for _ in range(99): s.append(rho * s[-1] + (1 - rho**2).sqrt() * torch.randn(n, 6, generator=g))
        return MemoryStore.of(list((torch.stack(s, 1) * size) @ turn), speakers=[f"s{i % 5}" for i in range(n)])
    return {k: utterances(n).windows(length=2) for k, n in dict(train=60, valid=10, test=30).items()}


def test_linear_states_are_what_they_are_called(sets):
    found, z = linear_states(sets["train"], 2, 0), sets["test"].targets()
    read = {name: (z - m) @ w for name, (m, w) in found.items()}
    assert read["pca"].var(0).sum() > .7 * z.var(0).sum() > read["slow"].var(0).sum()
    lag1 = {name: torch.stack([torch.corrcoef(torch.stack([y, b]))[0, 1] for y, b in zip(((sets["test"].current() - m) @ w).T, ((z - m) @ w).T, strict=True)]) for name, (m, w) in found.items()}
    assert torch.allclose(lag1["slow"], torch.tensor([.95, .8]), atol=.03) and lag1["pca"].abs().max() < .1
    assert all(torch.linalg.matrix_rank(w) == 2 for _, w in found.values())


def test_a_contrastive_state_finds_what_moves_slowly(sets):
    mean, weight = contrastive_state(sets, 2, replace(HOW, epochs=25))
    z, now = ((w - mean) @ weight for w in (sets["test"].targets(), sets["test"].current()))
    lag1 = [float(torch.corrcoef(torch.stack([a, b]))[0, 1]) for a, b in zip(z.T, now.T, strict=True)]
    assert min(lag1) > .6 and torch.linalg.matrix_rank(weight) == 2


def test_the_rule_of_states():
    lead = {"slow": .5, "cpc": .6, "pca": .7}
    said = lambda **change: d03.verdict({k: (crossed(v := np.full(9, x) + .01 * np.arange(9)), v) for k, x in (lead | change).items()})
    assert said().startswith("the learned state is") and "slow features" in said(slow=-.5) and said(slow=-.5).startswith("a simpler state is")
    assert "not known" in said(cpc=-.04) and "contrastive" in said(cpc=-.04)


def test_a_linear_gaussian_state_has_the_gain_and_spectrum_that_theory_says(sets):
    mean, weight = linear_states(sets["train"], 2, 0)["slow"]
    frames = {k: MemoryStore.through(w.store, lambda z: (z - mean) @ weight, "slow").windows(length=2) for k, w in sets.items()}
    null, model = fit_pair(frames["train"].store, frames, HOW, "tests")
    lengths = sets["test"].steps().norm(dim=1).numpy()
    rows = pd.concat([score_state(f, frames["test"], lengths, 0., HOW).assign(state="slow", d=2, model=name) for name, f in dict(marginal=null, model=model).items()])
    e = state_gain(rows, "slow", 2)
    assert abs(e.value - -.5 * np.log((1 - .95**2) * (1 - .8**2))) < .2 and e.n == 5
    spectrum = spectrum_rows(model, frames, HOW)
    assert np.allclose(spectrum.r2, [.95**2, .8**2], atol=.07) and (spectrum.lo <= spectrum.r2).all()
    cosine = of_sums(rows[rows.model == "marginal"].reset_index(drop=True), "cosine")
    assert cosine.value < .5                                    # the null's cosine is 0.707 only where frames are independent


def test_differences_of_gains_are_paired():
    rng = np.random.default_rng(0)
    nll = {(s, m): rng.normal(size=6) * 10 + 100 for s in ("zdyn", "slow") for m in ("marginal", "model")}
    rows = pd.concat([pd.DataFrame(dict(speaker=list("abcdef"), frames=50, above=40, nll=0., nll_above=v, state=s, d=3, model=m)) for (s, m), v in nll.items()])
    want = (nll["zdyn", "marginal"] - nll["zdyn", "model"] - nll["slow", "marginal"] + nll["slow", "model"]).sum() / 240
    assert gain_difference(rows, "zdyn", "slow", 3, n=200).value == pytest.approx(want)
    assert gain_difference(rows, "zdyn", "slow", 3, n=200).value == pytest.approx(state_gain(rows, "zdyn", 3).value - state_gain(rows, "slow", 3).value)


def test_the_way_back_is_the_best_linear_one_where_all_is_linear(sets):
    found = linear_states(sets["train"], 2, 0)
    back = {name: decoder_of(lambda z, m=m, w=w: (z - m) @ w, sets, HOW) for name, (m, w) in found.items()}
    rows = reconstruction_rows(back, sets["test"]).assign(d=2)
    z = sets["test"].targets()
    kept = {name: 1 - float(((z - m) - (z - m) @ w @ torch.linalg.pinv(w)).square().sum() / (z - m).square().sum()) for name, (m, w) in found.items() if name == "pca"}
    assert r2_of(rows, "pca", 2).value == pytest.approx(kept["pca"], abs=.03)
    assert r2_of(rows, "slow", 2).value < .1


def test_rows_survive_the_file_they_are_published_in(tmp_path):
    "A machine without the data draws from the published CSV."
    rows = pd.DataFrame([dict(speaker=s, frames=9, above=9, nll=n, nll_above=n, state="zdyn", d=3, model=m) for s in "ab" for m, n in (("marginal", 18.), ("model", 9.))])
    rows.to_csv(tmp_path / "rows.csv", index=False)
    assert state_gain(pd.read_csv(tmp_path / "rows.csv"), "zdyn", 3, n=50).value == pytest.approx(1.)
