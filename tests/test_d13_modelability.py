"Does predictability predict generation? One recipe for all representations, what a run publishes, and a verdict that follows from its rows."
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps

from audioengram.core import ParameterError
from audioengram.data.cases import parse_cases
from audioengram.discussions import d13_modelability as d13
from audioengram.dynamics import equal
from audioengram.dynamics.sequence import SequenceModel
from audioengram.measure.ranks import LEAST_LEFT, rank_correlation, ranked
from audioengram.measure.stats import Estimate


@pytest.fixture(scope="module")
def result(smoke): return smoke(d13.NAME)


def test_kinds_are_what_representations_are_made_from():
    kinds = {c.codec: d13.kind_of(c.codec) for c in parse_cases(d13.CASES) if c.corpus == "librispeech"}
    assert len(kinds) == 12 and set(kinds.values()) == {"nano", "linear", "mel", "lyra", "small"}
    assert {kinds[c] for c in d13.LADDER} == {"small"} and kinds["nano-linear-32"] == "linear" and kinds["nano+pca32"] == "nano"
    sizes = pd.Series(kinds).value_counts()
    assert len(kinds) - sizes.max() >= LEAST_LEFT      # the rule has an interval, whichever kind is left out


@pytest.mark.parametrize("plan", d13.PLANS[:2], ids=("smoke", "quick"))
@pytest.mark.parametrize("dim, rate", [(64, 12.5), (32, 25.), (32, 12.5)])
def test_models_have_equal_parameters_and_seconds(plan, dim, rate):
    config = equal.equal_config(dim, rate, plan)
    inner = plan.layers * 3 * plan.width              # parameters of one inner channel of SwiGLU in every block
    assert abs(SequenceModel(config).n_parameters - plan.parameters) <= inner / 2
    assert config.context == round(plan.context * rate)
    recipe = equal.equal_recipe(dim, rate, plan)
    assert recipe.length / rate == pytest.approx(plan.row, abs=.5 / rate) and recipe.steps == plan.steps


def test_a_plan_that_is_too_small_is_refused():
    with pytest.raises(ParameterError, match="need more than 20,000 parameters"): equal.equal_config(512, 12.5, equal.EqualPlan(20_000))


def test_an_interrupted_training_is_told(monkeypatch, tmp_path):
    "It must not be taken for one that is done."
    monkeypatch.setenv("AUDIOENGRAM_CACHE", str(tmp_path))
    part = SimpleNamespace(z=np.zeros((4, 32)), fingerprint="x")
    monkeypatch.setattr(equal.Sequences, "of_store", lambda store, ids: part)
    stopped = SimpleNamespace(run=lambda say: SimpleNamespace(interrupted=True))
    monkeypatch.setattr(equal, "SequenceTrainer", lambda *a: stopped)
    split = SimpleNamespace(train_utterances=(), valid_utterances=())
    with pytest.raises(KeyboardInterrupt): equal.train_equally(SimpleNamespace(dim=32, frame_rate=12.5), split, d13.PLANS[0])


def test_a_run_publishes_every_representation(result):
    cases = parse_cases(d13.SMOKE)
    assert result.claims["main.representations"]["value"] == len(cases) == result.table("training")["case"].nunique()
    assert set(result.table_names) == {"results", "gains", "fidelity", "training"}
    assert result.table("training").parameters.sub(d13.PLANS[0].parameters).abs().max() <= 24
    assert d13.table_of_all(result).count("\n") == len(cases) + 1
    assert all(f"without {k} " in d13.left_out_table(result) for k in ("nano", "linear", "mel"))
    assert d13.ladder_table(result).startswith("The ladder was not measured") and "not measured" in result.claims["main.noise_word"]["value"]
    assert list(result.manifest["clips"]) == ["synthetic-nano"]


def test_claims_follow_from_the_rows(result):
    rows, gains = (result.table(t) for t in ("results", "gains"))
    case = "synthetic-mel+stack4+pca8"                # 25 frames a second
    own, clips = gains[gains["case"] == case], rows[rows["case"] == case]
    nats = ((own.model - own.null) / own.frames).mean()
    assert result.claims[f"{case}.gain"]["value"] == pytest.approx(nats / np.log(2) * 25, rel=1e-4)
    real, fake = (clips[clips.system == s].late.to_numpy() for s in ("real", "model"))
    assert result.claims[f"{case}.area"]["value"] == pytest.approx(((real[:, None] > fake) + .5 * (real[:, None] == fake)).mean())
    grown = np.log(clips.norm_last / clips.norm_first)
    drift = grown[clips.system == "model"].mean() - grown[clips.system == "real"].mean()
    assert result.claims[f"{case}.drift"]["value"] == pytest.approx(drift, rel=1e-4)


def test_the_rule_ranks_what_the_table_says(result):
    names = [c.slug for c in parse_cases(d13.SMOKE)]
    bits, area, stoi = (np.array([result.claims[f"{c}.{k}"]["value"] for c in names]) for k in ("gain", "area", "stoi"))
    assert result.claims["main.rank"]["value"] == pytest.approx(rank_correlation(bits, -area, stoi))
    assert result.claims["main.rank_plain"]["value"] == pytest.approx(sps.spearmanr(bits, -area).statistic)
    assert result.claims["main.without_most"]["value"] == max(result.claims[f"main.without_{k}"]["value"] for k in ("nano", "linear", "mel"))
    assert result.claims["main.verdict_short"]["value"] == d13.verdict(Estimate(*(result.claims["main.rank"][k] for k in ("value", "lo", "hi", "n"))))


@pytest.mark.parametrize("lo, hi, said", [(.1, .9, "is made better"), (-.9, -.1, "is made worse"), (-.2, .8, "No proxy")])
def test_verdicts_follow_their_interval(lo, hi, said):
    e = Estimate((lo + hi) / 2, lo, hi, 5, "kind")
    assert said in d13.verdict(e) and d13._answer(e).startswith(d13.verdict(e)) and "interval" in d13._answer(e)


def test_too_few_representations_say_nothing():
    e = ranked([1, 2, 3, 4], [4, 3, 2, 1], ["nano", "linear", "mel", "mel"])
    assert e.lo is None and "No proxy" in d13.verdict(e) and "fewer than 4 representations" in d13._answer(e)


def ladder(bits, far, codec):
    "Rows of a codec of the ladder on eight speakers, whose model is so predictable and whose speech so far from real."
    rng, who = np.random.default_rng(0), [f"s{i}" for i in range(8)]
    clips = [pd.DataFrame(dict(system=s, clip=range(8), speaker=who, late=np.linspace(-1, 1, 8) - by, norm_first=1., norm_last=1.))
             for s, by in (("real", 0), ("model", far))]
    gains = pd.DataFrame(dict(speaker=who, frames=10, model=10 * (bits + .1 * rng.standard_normal(8)), null=0.))
    fidelity = pd.DataFrame(dict(speaker=who, stoi=.9 - .1 * bits))
    return dict(clips=pd.concat(clips), gains=gains, fidelity=fidelity), dict(case=f"toy-{codec}", corpus=dict(name="toy"), frame_rate=12.5)


def test_the_ladder_compares_its_ends_on_the_same_speakers():
    found = [ladder(1., 0., "nano-noise-50"), ladder(2., 1., "nano-noise-10"), ladder(3., 3., "nano-small-exact"), ladder(9., 9., "nano")]
    say = d13.ladder_claims(found, 500)
    assert say["noise_gain"].value == pytest.approx(-2 / np.log(2) * 12.5, rel=.1) and say["noise_stoi"].value == pytest.approx(.2)
    assert say["noise_area"].hi < 0 and say["noise_word"] == (
        "Noise makes its latents less predictable, and what is generated more like speech.")
    assert d13.ladder_claims(found[-1:], 500)["noise_word"] == "The ladder was not measured here."
