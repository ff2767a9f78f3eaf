"Discussion d09: closed-form forecasts, what a smoke run publishes, claims that follow from rows, codecs whose weights are absent, and the round-trip verdict."
import contextlib
import io
import json
import re
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from audioengram.codecs.nano_recipe import SMALL
from audioengram.core import ParameterError
from audioengram.data.cases import parse_cases
from audioengram.discussions import d09_representations as d09
from audioengram.dynamics.representation import paired_differences
from audioengram.dynamics.round_trips import scored_utterances
from audioengram.lab.claims import format_claims
from audioengram.lab.runs import read_run
from audioengram.measure.closed_form import GatedRidge, fit_mixture, mixing_weight
from audioengram.measure.forecast_gain import nearest_lag, window_length
from audioengram.measure.stats import Estimate


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    "A smoke run of an embedded codec, its reference, and a codec whose weights are not here."
    home = tmp_path_factory.mktemp("figures") / d09.NAME
    with contextlib.redirect_stdout(io.StringIO()) as said: d09.run("smoke", cases=d09.SMOKE + "; synthetic:encodec", lags=(1, 2), folder=home)
    return home, said.getvalue()


@pytest.fixture
def folder(published): return published[0]


def test_the_profiles_share_one_recipe():
    quick, full = d09.Recipe.of("quick"), d09.Recipe.of("full")
    assert quick.lags == full.lags == [1, 2, 4, 8, 16] and full.scored > quick.scored
    assert json.loads(json.dumps(asdict(d09.Recipe.of("quick", lags=np.array([1, 2]))))) == asdict(d09.Recipe.of("quick", lags=(1, 2)))   # plain values: kept rows compare equal
    assert len(parse_cases(d09.CASES)) == len(set(parse_cases(d09.CASES))) >= 18 and d09.CASES.startswith("debian-speech:nano;")


@pytest.mark.parametrize("rate, dim, frames", [(12.5, 64, 4), (50., 16, 16), (100., 80, 25), (12.5, 512, 4), (75., 128, 16), (2., 64, 1)])
def test_context_is_equal_in_time_and_bounded_in_regressors(rate, dim, frames):
    assert window_length(rate, dim, 320) == frames


class Series:
    "Windows of one frame over a trajectory."
    speakers = ["a"]
    def __init__(self, z): self.z, self.speaker = torch.as_tensor(z).float(), torch.zeros(len(z) - 1, dtype=torch.long)
    def __len__(self): return len(self.z) - 1
    def contexts(self, i): return self.z[i][:, None]
    def targets(self, i): return self.z[i + 1]
    def current(self, i): return self.z[i]


def ar1(factor, T, D, seed=0):
    rng, z = np.random.default_rng(seed), np.zeros((T, D))
    for t in range(1, T): z[t] = factor * z[t - 1] + np.sqrt(1 - factor**2) * rng.standard_normal(D)
    return z


@pytest.mark.parametrize("factor", [0., .6, .9])
def test_the_gain_on_a_linear_gaussian_process_is_its_information(factor):
    "For an AR(1) the gain over the marginal is -D/2 log(1 - factor²), exactly; without memory it is zero."
    z = ar1(factor, 20_000, 4)
    train, test = Series(z[:14_000]), Series(z[14_000:])
    null = fit_mixture(z[:14_000], z[14_000:], [(2, "diag")])
    model = GatedRidge(null, 1e-3).fit(train, torch.arange(len(train)))
    gain = (model.log_prob(test, torch.arange(len(test))) - null.score_samples(z[14_001:])).mean()
    assert gain == pytest.approx(-2 * np.log(1 - factor**2), abs=.06)


def test_a_gated_density_integrates_to_one():
    z = ar1(.8, 3000, 1)
    s = Series(z)
    model = GatedRidge(fit_mixture(z, z, [(3, "diag")]), 1e-3).fit(s, torch.arange(len(s)))
    grid = np.linspace(-9, 9, 3001)
    at = SimpleNamespace(contexts=lambda i: torch.full((len(grid), 1, 1), 1.3), targets=lambda i: torch.as_tensor(grid[:, None]).float())
    assert np.trapezoid(np.exp(model.log_prob(at, None)), grid) == pytest.approx(1, abs=1e-4)


def test_the_mixing_weight_finds_the_better_forecast():
    rng = np.random.default_rng(0)
    a, b = rng.normal(-2, 1, 5000), rng.normal(-2, 1, 5000)
    assert mixing_weight(a, b) == pytest.approx(.5, abs=.05) and mixing_weight(a + 5, a) > .98 and mixing_weight(a - 5, a) < .02
    assert mixing_weight(np.full(9, -1e4), np.zeros(9)) < 1e-6                  # no overflow


def test_the_null_is_the_mixture_that_held_out_frames_prefer():
    rng = np.random.default_rng(0)
    tilted = rng.standard_normal((4000, 3)) @ np.array([[3, 2.9, 0], [0, .3, 0], [0, 0, 1.]])
    assert fit_mixture(tilted[:3000], tilted[3000:], [(2, "diag"), (1, "full")]).covariance_type == "full"
    wide = rng.standard_normal((400, 130))
    assert fit_mixture(wide[:300], wide[300:], [(1, "diag"), (1, "full")]).covariance_type == "diag"    # no full covariance above 128 dimensions


def test_what_a_run_publishes(folder):
    result = read_run(folder)
    assert result.check() == [] and set(result.table_names) == {"results", *d09.TABLES[1:]}
    assert set(result.table().case) == {"synthetic-nano", "synthetic-nano-linear", "synthetic-mel+stack8+pca16"}       # EnCodec's weights are not here
    assert set(result.manifest["figures"]) == {"tradeoff", "gains", "geometry"} and set(result.manifest["clips"]) == {"synthetic_original", "synthetic-nano", "synthetic-nano-linear", "synthetic-mel_stack8_pca16"}
    assert result.table().groupby("case").speaker.nunique().tolist() == [2, 2, 2] and set(result.table().lag) == {1, 2}
    assert not re.search(r'"/\w', (folder / "manifest.json").read_text() + (folder / "cases.json").read_text())
    text = (folder / "tradeoff.svg").read_text()
    assert "nano (64 dims)" in text and "mel+stack8+pca16 (16 dims)" in text


def test_absent_weights_are_named_with_their_reason(published):
    assert re.search(r"synthetic × encodec is left out: .*HF_HUB_OFFLINE.*nothing was published", published[1])


def test_claims_follow_from_the_rows(folder):
    result = read_run(folder)
    claims, rows = result.claims, result.table()
    at = rows[(rows.case == "synthetic-nano") & (rows.lag == 1)]
    nats = ((at.mixture - at.gated) / at.frames).mean()         # each speaker counts once
    assert claims["synthetic-nano.gain_nats"]["value"] == pytest.approx(nats, rel=1e-5)
    assert claims["synthetic-nano.gain"]["value"] == pytest.approx(nats / np.log(2) * 12.5, rel=1e-5)
    assert claims["synthetic-nano.linear"]["value"] == pytest.approx(((at.full - at.ridge) / at.frames).mean() / np.log(2) * 12.5, rel=1e-5)
    speech = result.table("speech").query("case == 'synthetic-nano'")
    assert claims["synthetic-nano.stoi"]["value"] == pytest.approx(speech.groupby("speaker").stoi.mean().mean(), rel=1e-5) and claims["synthetic-nano.stoi"]["n"] == 2
    assert claims["main.most"]["value"] == "nano" and claims["main.n"]["value"] == 3
    both = result.table("speech").pivot(index="utterance", columns="case", values="stoi")
    assert claims["default.stoi"]["value"] == pytest.approx((both["synthetic-nano"] - both["synthetic-nano-linear"]).mean(), rel=1e-4)
    assert re.match(r"`nano` against `nano-linear`, paired by speaker: STOI [+-][\d.]+ \[.*\], predictable bits a second [+-]", claims["main.verdict_default"]["value"])
    assert 1 <= claims["synthetic-nano.mle"]["value"] < claims["synthetic-nano.mle_gaussian"]["value"] <= 64 and claims["synthetic-nano.dim"]["value"] == 64
    assert 1 < claims["synthetic-nano.rank"]["value"] <= 64 and -1 <= claims["synthetic-nano.rho"]["value"] <= 1
    assert d09.sound_table(result).startswith("None of the codecs") and "synthetic × nano | 64" in d09.comparison(result, dict(dim="D", gain="gain"))


def test_the_page_quotes_only_claims_that_a_run_states(folder, root):
    claims = read_run(folder).claims
    cells = json.loads((root / "nbs/discussions/d09_representations.ipynb").read_text())["cells"]
    for c in cells:
        if c["cell_type"] == "markdown": assert "{claim:" not in format_claims("".join(c["source"]), claims)


def test_changes_to_the_small_codec_are_paired_by_speaker(folder):
    "The same rows under two names differ by nothing; fewer nats and a lower score differ by what was taken away."
    result = read_run(folder)
    about = json.loads((folder / "cases.json").read_text())[0]
    base = {t: df[df.case == "synthetic-nano"] for t in d09.TABLES if len(df := result.table("results" if t == "gains" else t))}
    worse = base | {"gains": base["gains"].assign(gated=base["gains"].gated + base["gains"].frames), "speech": base["speech"].assign(stoi=base["speech"].stoi - .1)}
    claims = paired_differences({"small": (about, base), "small-32": (about, base), "small-kl": (about, worse)}, "small", n=200)
    assert claims["small-32.gain"].value == claims["small-32.stoi"].value == 0
    assert claims["small-kl.gain"].value == pytest.approx(-12.5 / np.log(2), rel=1e-6) and claims["small-kl.stoi"].value == pytest.approx(-.1)
    assert claims["small-kl.stoi"].hi - claims["small-kl.stoi"].lo < 1e-9 and paired_differences({"small": (about, base)}, "nano", n=200) == {}


def test_small_codecs_have_panels_and_a_table_of_their_own(folder):
    result = read_run(folder)
    assert d09.family("nano-small-32") == d09.family("nano-small") == "nano-small" and d09.family("nano-linear-32") == d09.family("nano+pca32") == "nano" and d09.family("mimi-vae") == "mimi-vae"
    say = dict(gain=Estimate(3., 2., 4., 5), stoi=Estimate(.9, .8, .95, 5), numbers=800, dim=64, frame_rate="12.5 Hz")
    fig = d09.draw_tradeoff([("nano", say), ("nano-small", say), ("nano-small-32", say)])
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["", "one small network, one thing changed"] and len(fig.axes[1].texts) == 2
    assert d09.small_table(result).startswith("None of the small codecs was measured") and set(d09.CHANGES) == set(SMALL)


def test_random_weights_are_found_unsound():
    "The section that decides about a checkpoint, run on EnCodec's true configuration with random weights."
    pytest.importorskip("transformers")
    from audioengram.codecs.encodec import Encodec
    from audioengram.measure.speech import is_sound, round_trip_check
    t = torch.arange(12_000) / 24_000
    rows = round_trip_check(Encodec(weights="random"), [.3 * torch.sin(2 * torch.pi * (200 * t + 900 * t**2))])
    assert {"continuous", "quantised 8", "quantised 32", "elsewhere"} <= set(rows.way) and not is_sound(rows)
    result = SimpleNamespace(table=lambda name: rows.assign(case="c"), claims={"c.sound": {"value": "not sound"}}, folder=None)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(d09, "read_json", lambda path: [dict(case="c", title="speech × encodec", kept=False)])
        result.folder = __import__("pathlib").Path("x")
        assert "| speech × encodec | not sound |" in d09.sound_table(result)


def toy(codec, dim, rate, gain, stoi):
    e = lambda v: Estimate(v, v - .01, v + .01, 5)
    return (dict(case=f"x-{codec}", corpus=dict(name="x"), codec=dict(name=codec), frame_rate=rate), dict(dim=dim, numbers=round(dim * rate), gain=e(gain), stoi=e(stoi), speakers=5))


def test_verdicts_are_words_that_follow_from_numbers():
    cases = [toy("mel+stack8+pca64", 64, 12.5, 30., .9), toy("mel+stack8+pca32", 32, 12.5, 20., .8), toy("mel+stack4+pca32", 32, 25., 50., .85), toy("mel+stack2+pca16", 16, 50., 60., .7)]
    say = d09.main_claims(cases)
    assert "in 1 of 1 pairs and held more predictable bits a second in 1." in say["verdict_dimension"]
    assert "at 50 Hz are more predictable at a horizon of 80 ms than at 12.5 Hz, and less faithful" in say["verdict_rate"]
    assert say["most"] == "mel+stack8+pca64" and say["least"] == "mel+stack2+pca16" and say["gain_top_name"] == "mel+stack2+pca16"
    assert say["rank_correlation"] == pytest.approx(-.4) and say["rank_word"] == "have little to do with each other"
    turned = d09.main_claims([toy("mel+stack8+pca64", 64, 12.5, 10., .7), toy("mel+stack8+pca32", 32, 12.5, 20., .8)])
    assert "in 0 of 1 pairs and held more predictable bits a second in 0." in turned["verdict_dimension"] and turned["verdict_rate"] == ""


def test_horizons_are_compared_in_milliseconds():
    about = lambda rate: dict(frame_rate=rate, recipe=dict(lags=[1, 2, 4, 8, 16]))
    assert [nearest_lag(about(r)) for r in (12.5, 25., 50., 100., 75.)] == [1, 2, 4, 8, 8]


def test_utterances_that_are_scored_are_one_a_speaker_and_long_enough():
    index = pd.DataFrame(dict(utterance_id=list("abcdef"), speaker_id=list("xxyyzz"), seconds=[2., 9., 3., 4., .3, .4]))
    store, split = SimpleNamespace(index=index), SimpleNamespace(eval_utterances=tuple("abcdef"))
    assert scored_utterances(store, split, 9, 5.) == ["b", "d"]                # z has nothing of a second
    assert len(scored_utterances(store, split, 1, 5.)) == 1
    with pytest.raises(ParameterError, match="cannot be read"): parse_cases("what is this")
