"What matters? Models of one size with a part switched, areas as means over speakers, equal diversity, and words that follow from rows."
import numpy as np
import pandas as pd
import pytest
import torch

from audioengram.discussions import d14_what_matters as d14
from audioengram.dynamics.equal import EqualPlan, equal_config
from audioengram.dynamics.sequence import SequenceModel
from audioengram.measure.rules import crossed


@pytest.fixture(scope="module")
def result(smoke): return smoke(d14.NAME)


@pytest.mark.parametrize("system", d14.SWITCHES)
def test_a_switch_changes_what_it_names_and_not_the_size(system):
    own = dict(head="factored", conditions=(("voice", 128),), anchor="prompt", head_width=128, head_layers=2)
    plain, switched = (equal_config(64, 12.5, d14.PLANS[1], **own | options) for options in ({}, d14.SWITCHES[system][2]))
    changed = {k for k in vars(plain) if getattr(plain, k) != getattr(switched, k)} - {"hidden"}
    assert changed == set(d14.SWITCHES[system][2]) and plain.context == 128
    inner = 3 * plain.width * (plain.layers + switched.short)           # parameters of one inner channel of every block
    assert abs(SequenceModel(switched).n_parameters - EqualPlan().parameters) <= inner / 2


def test_diversity_is_made_equal():
    find = lambda law, target: law(d14.even_temperature(law, target))
    assert find(np.sqrt, .8) == pytest.approx(.8, rel=.04) and find(lambda t: 3 * t, 2.) == pytest.approx(2., rel=.07)
    assert d14.even_temperature(lambda t: t, 100.) == pytest.approx(4., rel=.04)         # it cannot be: the nearer end
    first, second = torch.zeros(2, 5, 3), torch.tensor([[[3., 4., 0.]], [[0., 0., 1.]]]).expand(2, 5, 3)
    assert d14.apart(first, second) == pytest.approx([5., 1.])


def rows_of(**added) -> pd.DataFrame:
    "Areas of every switch on six speakers and two trainings, so much above the recipe's."
    rng, rows = np.random.default_rng(0), []
    for system, (factor, *_) in d14.SWITCHES.items():
        for seed in range(2):
            for even in (False, True)[:1 + (factor == "head")]:
                x = .7 + added.get(system, 0.) + .01 * rng.standard_normal(6)
                rows.append(pd.DataFrame(dict(system=system, seed=seed, even=even, speaker=np.arange(6), late=x, early=.7, logit=x,
                                              apart=10.)))
    return pd.concat(rows)


def test_a_switch_is_compared_with_its_neighbour_and_where_its_hypothesis_lies():
    rows = rows_of(noise_50=.2, noise_50_short=.2, head_flow=.1)
    rows.loc[(rows.system == "head_flow") & ~rows.even, "late"] = 0.                    # as it comes: not what is asked
    assert abs(d14.difference_of(rows, "noise_50_short").mean()) < .02 and d14.difference_of(rows, "noise_50").mean() > .18
    assert d14.difference_of(rows, "head_flow").mean() == pytest.approx(.1, abs=.02)
    h = d14.hypotheses(dict(results=rows)).set_index("id")
    assert len(h) == len(d14.SWITCHES) - 1 and set(h.index[h.holds]) == {"noise_50", "head_flow"}
    assert h.loc["noise_50"].value == pytest.approx(crossed(d14.difference_of(rows, "noise_50")).value)


@pytest.mark.parametrize("added, verdict, word", [
    (dict(context_1=.2), "Context matters; noise in the history, a short context and the head are not shown to", "Context of 1 frame: is told"),
    (dict(context_1=-.2), "Nothing is shown to matter among", "Context of 1 frame: is told from speech less easily"),
    ({}, "Nothing is shown to matter among", "No shorter context is shown"),
    ({s: .2 for s in ("context_1", "noise_10", "head_lsd", "noise_50_short")},
     "Context, noise in the history, a short context and the head matter", "Context of 1 frame: is told from speech more easily")])
def test_words_follow_from_the_hypotheses(added, verdict, word):
    h = d14.hypotheses(dict(results=rows_of(**added)))
    assert d14.verdict(h).startswith(verdict) and d14.factor_word(h, "context").startswith(word)
    assert all(d14.factor_word(h, f).endswith(".") for f in d14.FACTORS)


def test_examples_are_the_best_and_the_median():
    rows = rows_of()
    part = rows[(rows.system == d14.RECIPE) & (rows.seed == 0)].set_index("speaker").logit
    assert d14.example_speaker(rows, "best") == part.idxmax()
    assert (part > part[d14.example_speaker(rows, "median")]).sum() == 3


def test_a_run_publishes_every_switch(result):
    few = list(d14.Recipe.of("smoke").systems)
    assert set(result.table_names) == {"results", "gains", "models", "hypotheses"} and set(result.table("results").system) == set(few)
    models = result.table("models")
    assert models.parameters.sub(d14.PLANS[0].parameters).abs().max() <= 48 and len(models) == 2 * (len(few) + 1)
    assert d14.system_table(result).count("\n") == len(few) + 2 and d14.hypothesis_table(result).count("\n| ") == len(few) + 1
    assert "nats_head_energy" not in str(result.claims) and len(result.manifest["clips"]) == 6
    gains = result.table("gains")
    means = gains.assign(x=gains.nats / gains.frames).pivot_table(index=["seed", "speaker"], columns="system", values="x")
    assert result.claims["main.nats_short"]["value"] == pytest.approx((means.short - means.marginal).mean(), rel=1e-4)
