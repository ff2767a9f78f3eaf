"Discussion d08: steps are altered as the modes say, the verdict follows its rules, measures that agree are found to, and the blind test hears the page's clips."
import re

import numpy as np
import pandas as pd
import pytest

from audioengram.core import get_profile
from audioengram.discussions import d08_listening as d08
from audioengram.lab.listening import read_choices


@pytest.fixture(scope="module")
def result(smoke):
    return smoke(d08.NAME)


@pytest.fixture
def z():
    return np.random.default_rng(0).standard_normal((40, 6)).cumsum(0).astype(np.float32)


@pytest.mark.parametrize("reach", [1, 3, 16, 99])
def test_altered_steps_are_what_the_modes_say(z, reach):
    start = np.arange(len(z)) // (reach + 1) * (reach + 1)
    inside = np.flatnonzero(start[1:] != np.arange(1, len(z))) + 1                # frames that follow a step inside a stretch
    true = np.diff(z, axis=0, prepend=z[:1])
    np.testing.assert_array_equal(d08.altered(z, "A", reach), z[start])           # nothing moves
    np.testing.assert_allclose(d08.altered(z, "GT", reach), z, atol=1e-5)
    np.testing.assert_allclose(2 * d08.altered(z, "B 50", reach) - d08.altered(z, "A", reach), z, atol=1e-5)   # half way from A to the truth
    for mode, share in (("B 25", .25), ("B 75", .75)):
        np.testing.assert_allclose(np.diff(d08.altered(z, mode, reach), axis=0)[inside - 1], share * true[inside], atol=1e-5)
    for mode in ("C", "C real"):
        made = d08.altered(z, mode, reach, 3)
        step = np.diff(made, axis=0)[inside - 1]
        np.testing.assert_array_equal(made[start], z[start])                      # the truth comes back
        np.testing.assert_allclose(np.linalg.norm(step, axis=1), np.linalg.norm(true[inside], axis=1), rtol=1e-3)
        cos = (step * true[inside]).sum(1) / np.linalg.norm(true[inside], axis=1) ** 2
        assert abs(cos.mean()) < .35 and (cos < .99).all()
        np.testing.assert_array_equal(made, d08.altered(z, mode, reach, 3))
        assert not np.allclose(made, d08.altered(z, mode, reach, 4))
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    near = (unit(np.diff(d08.altered(z, "C real", reach, 3), axis=0)[inside - 1]) @ unit(true[1:]).T).max(1)
    np.testing.assert_allclose(near, 1, atol=1e-3)                                # a direction that was taken elsewhere


def test_silence_stands_still_in_every_mode():
    z = np.zeros((10, 3), np.float32); z[5:] = 1
    assert all(np.isfinite(d08.altered(z, m, 4)).all() for m in d08.MODES)
    assert not d08.altered(0 * z, "C real", 4).any()


def scores(effect, seed=0, speakers=12):
    "Made scores: effect(mode, reach) is what it costs in dB, a second measure agrees, a third one knows nothing."
    rng, rows = np.random.default_rng(seed), []
    for s in range(speakers):
        own = rng.standard_normal()
        for mode, reach in [("GT", 0), *((m, r) for m in d08.MODES if m != "GT" for r in (1, 4, 16))]:
            db = 5 + own + effect(mode, reach) + .05 * rng.standard_normal()
            rows.append(dict(mode=mode, reach=reach, utterance=f"u{s}", speaker=f"s{s}", mel_db=db, stoi=1 - .02 * db + .0005 * rng.standard_normal(), si_sdr=rng.standard_normal()))
    return pd.DataFrame(rows)


def claims(table): return d08.claims_of(dict(scores=table), dict(title="made", speakers_held=12), d08.Recipe.of("quick"), 300)


def test_the_verdict_follows_its_rules():
    cost = {"A": 1., "B 25": .7, "B 50": .4, "B 75": .1, "C": 3., "C real": 2., "GT": 0.}
    say = claims(scores(lambda m, r: cost[m] * r**.25))
    assert say["verdict_short"] == "A wrong direction costs more than no step, and three quarters of a step pass for a whole one"
    assert say["creal"].value == pytest.approx(2, abs=.1) and say["a_far"].value == pytest.approx(2, abs=.1) and say["c_over_a"].lo > .8 and say["late"] == "and still does"
    worse = claims(scores(lambda m, r: dict(cost, A=2.5, **{"B 75": .5})[m]))
    assert worse["verdict_short"] == "A wrong direction costs no more than no step, and three quarters of a step do not pass for a whole one"
    same = claims(scores(lambda m, r: dict(cost, A=2.)[m], speakers=4))
    assert same["verdict_short"].startswith("A wrong direction costs no more")


def test_agreement_is_one_for_the_same_order_and_none_for_noise():
    table = scores(lambda m, r: list(d08.MODES).index(m) * r if m != "GT" else -1)
    pairs = d08.agreements(table, 300).set_index(["measure", "other"])
    means = table.groupby(["mode", "reach"])[["stoi", "mel_db", "si_sdr"]].mean()
    rank = (means * [1, -1, 1]).corr("spearman")
    for (a, b), r in pairs.iterrows():
        assert r.value == pytest.approx(rank.loc[a, b], abs=1e-6) and r.lo <= r.value <= r.hi and r.n == 12
    assert pairs.loc[("stoi", "mel_db")].value > .98 and abs(pairs.loc[("stoi", "si_sdr")].value) < .6
    table.loc[(table["mode"] == "A") & (table.speaker == "s0"), "stoi"] = np.nan          # a value that does not exist takes no part
    assert d08.agreements(table, 300).value.notna().all()


def test_a_measure_that_likes_the_alteration_is_named():
    table = scores(lambda m, r: 1. if m != "GT" else 0.)
    assert d08.betters(table, n=300) == []
    table.loc[table["mode"] == "C", "si_sdr"] += 20
    assert d08.betters(table, n=300) == ["si_sdr"] and claims(table)["deaf"] == "SI-SDR"


def test_what_a_run_publishes(result):
    assert result.check() == [] and result.manifest["profile"] == "smoke"
    assert set(result.table_names) == {"results", "agreement"} and set(result.manifest["figures"]) == {"costs", "measures", "agreement"}
    t = result.table("results")
    assert set(t["mode"]) == set(d08.MODES) and set(t.reach) == {0, 1, 16} and (t.groupby("utterance").size() == 13).all()
    assert t[t["mode"] == "GT"].mel_db.max() < t[t["mode"] == "C"].mel_db.min()
    assert len(result.manifest["clips"]) == 10 and all(c["file"].endswith(".ogg") for c in result.manifest["clips"].values())
    assert not re.search(r'"/\w', (result.folder / "manifest.json").read_text())
    assert "verdict" in d08.verdict_table(result) and "STOI" in d08.score_tables(result)
    for mode in ("A", "B 75", "C real"):
        assert result.claims[f"main.{mode.lower().replace(' ', '')}"]["value"] == pytest.approx(d08.cost(t, mode, 1, n=get_profile("smoke").bootstrap).value, abs=1e-5)


def test_the_blind_test_hears_the_pages_clips(result, tmp_path):
    test = d08.blind_test(result, tmp_path / "choices.jsonl", "anna")
    case = "synthetic-nano"
    assert set(test.clips) == {f"{case}, reach 1", f"{case}, reach 16"}
    assert set(test.clips[f"{case}, reach 1"]) == {m.replace(" ", "") for m in d08.MODES} and set(test.clips[f"{case}, reach 16"]) == {"GT", "A", "B75", "Creal"}
    assert len(test.trials) == 6 + 3                                                   # pairs that a reach has both of
    wav, rate = test.clips[f"{case}, reach 1"]["A"]
    about = result.manifest["clips"]["synthetic-nano_reach1_A"]
    assert rate == 16_000 and len(wav) / rate == pytest.approx(about["seconds"], abs=.01)
    a, b = test.sounds()
    assert a != b
    test.choose("B")
    assert read_choices(tmp_path / "choices.jsonl").choice.tolist() == ["B"] and len(d08.blind_test(result, tmp_path / "choices.jsonl", "anna").left) == 8
