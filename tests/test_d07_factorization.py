"Discussion d07: what a smoke run publishes, equal parameters, the independent-frames null, and the clamp."
import re

import pytest
import torch

from audioengram.discussions import d07_factorization as d07
from audioengram.dynamics.step_factors import Independent
from audioengram.dynamics.step_heads import STEP_HEADS, head_model


@pytest.fixture(scope="module")
def result(smoke):
    return smoke(d07.NAME)


def test_what_a_run_publishes(result):
    assert result.check() == [] and result.manifest["profile"] == "smoke"
    assert set(result.table_names) == {"results", "split", "parts", "stories", "curves", "clamps", "pit", "sizes", "heads"}
    assert set(result.manifest["figures"]) == {"split", "heads", "factors", "stories", "calibration", "curves", "clamps"}
    assert set(result.table("stories").story) == set("ABCD")
    assert not re.search(r'"/\w', (result.folder / "manifest.json").read_text())
    assert "vMF × log-normal" in d07.heads_table(result) and "over the marginal" in d07.verdict_table(result)


def test_heads_have_equal_parameters():
    how = d07.Recipe.of("quick")
    budget = head_model(64, how, **STEP_HEADS[d07.MDN]).n_parameters
    for name, options in STEP_HEADS.items():
        n = head_model(64, how, budget, **options).n_parameters
        assert abs(n / budget - 1) < .03, (name, n, budget)


def test_claims_follow_from_the_rows(result):
    rows = result.table()
    of = lambda model: rows[rows.model == model].set_index("speaker")
    ahead = ((of(d07.MDN).nll_above - of(d07.BEST).nll_above) / of(d07.BEST).above).mean()       # each speaker counts once
    assert result.claims["main.elliptic_ahead"]["value"] == pytest.approx(ahead, rel=1e-5)
    split = result.table("split")
    each = split[["direction", "length", "whole"]].div(split.frames, axis=0).mean()
    assert each.direction + each.length == pytest.approx(each.whole, rel=1e-4)           # nothing is left over
    assert result.claims["main.direction"]["value"] == pytest.approx(each.direction, rel=1e-4)
    over, real, free = (result.claims[f"main.length_{k}"]["value"] for k in ("over", "real", "free"))
    assert over == pytest.approx(real - free, abs=1e-4)


def test_a_hard_clamp_has_no_gradient_and_a_smooth_bound_has(result):
    t = result.table("clamps")
    hard, smooth = (t[t.bound == b] for b in ("hard clamp", "smooth bound"))
    assert (hard.grad_kappa == 0).all() and (smooth.grad_kappa > 0).all()
    assert hard.kappa.iloc[-1] == pytest.approx(torch.tensor(-2.).exp().item(), rel=1e-4)
    assert smooth.loss.iloc[-1] < smooth.loss.iloc[0]


def test_a_constant_concentration_already_beats_the_uniform_direction():
    "D = 512, cosine .727: the value that science says a constant κ near 790 has, about 193 nats."
    assert d07._constant_gain(512, 790., .727) == pytest.approx(192.3, abs=.5)


def test_independent_targets_are_the_same_frames_in_another_order():
    class Few:
        speaker, speakers, utterances, lag = [0] * 6, ["a"], ["u"], 1
        y, now = torch.arange(12.).view(6, 2), torch.zeros(6, 2)
        def __len__(self): return 6
        def targets(self, i): return self.y[i]
        def current(self, i=slice(None)): return self.now[i]
    w = Independent(Few(), seed=0)
    assert torch.equal(w.targets().sort(dim=0).values, Few.y) and not torch.equal(w.targets(), Few.y)
    assert torch.equal(w.steps(), w.targets() - Few.now)
