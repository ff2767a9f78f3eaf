"Discussions d02, d11 and d12: what smoke runs publish, that verdicts follow the rules, and that examples are chosen by a rule."
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from audioengram.discussions import d02_measures as d02
from audioengram.discussions import d11_generation as d11
from audioengram.discussions import d12_drift as d12
from audioengram.dynamics.continued import quality_estimates, run_counts
from audioengram.measure.continuation import MARK_WORDS


def seconds_of(**shift) -> pd.DataFrame:
    "Logits of 12 speakers: real ones at 0, those of each system so far below."
    rng, rows = np.random.default_rng(0), []
    for system, below in shift.items():
        for real in (True, False):
            for clip in range(12):
                x = rng.standard_normal(10) * .3 - (0 if real else below)
                rows.append(dict(system=system.replace("_", " "), real=real, clip=clip, speaker=f"s{clip}",
                                 **{f"s{k + 1}": v for k, v in enumerate(x)}))
    return pd.DataFrame(rows)


def test_d02_publishes_the_matrix(smoke):
    result = smoke(d02.NAME)
    areas = result.table("areas")
    assert {"independent frames", "sequence model", "other speaker"} <= set(areas.rival)
    assert d02.TEST in set(areas.measure) and set(areas.measure) - {d02.TEST} <= set(MARK_WORDS)
    asked = areas[areas.measure == d02.TEST].rival
    assert "other speaker" not in set(asked)                 # its clips are the real ones
    assert result.claims["main.rivals"]["value"] == areas.rival.nunique()
    assert all(f"| {d02.WORDS[m]} |" in d02.area_tables(result) for m in areas.measure.unique())


def test_d02_names_what_no_measure_tells():
    rng, rows = np.random.default_rng(1), []
    for system, by in (("real", 0), ("seen", 3), ("unseen", 0)):
        rows += [dict(system=system, clip=i, speaker=f"s{i}", norm=x + by, step=x) for i, x in enumerate(rng.standard_normal(20))]
    tables = dict(marks=pd.DataFrame(rows), seconds=seconds_of(seen=2., unseen=0.))
    say = d02.claims_of(tables, dict(title="toy"), SimpleNamespace(seed=0), n=200)
    assert say["untold"] == "unseen" and say["norm_tells"] == 1 and say["step_tells"] == 0 and say["strong"] == 0
    assert say["two_sample_tells"] == 1 and say["sequence_area"] == "not measured"


def test_d11_publishes_every_table(smoke):
    result = smoke(d11.NAME)
    assert set(d11.TABLES[1:]) | {"results", "hypotheses", "areas"} == set(result.table_names)
    h = result.table("hypotheses")
    assert len(h) == 8 and h.p.between(0, 1).all() and set(h.id) >= {"nats", "drift", "copy", "cool"}
    assert result.claims["main.runs"]["value"] == d11.Recipe.of("smoke").runs
    assert set(result.table("runs").kind) == {"free", "unbounded", "real"}
    assert set(result.table("temperatures").temperature) == set(d11.TEMPERATURES)
    nats = result.table("nats")
    assert (nats.sequence >= nats[["member1", "member2"]].mean(axis=1) - 1e-3).all()          # Jensen's inequality
    for table in (d11.hypothesis_table, d11.score_tables, d11.mark_tables, d11.long_run_table, d11.temperature_table,
                  d11.verdict_table):
        assert "| " in table(result)
    assert len(d11.players(result, "best")) == len(d11.players(result, "median")) == len(d11.HEARD)


@pytest.mark.parametrize("better, drifts", [(True, False), (False, True)])
def test_d11_verdict_follows_the_hypotheses(better, drifts):
    ids = ("less_0", "less_1", "less_2", "less_3", "drift", "copy", "nats", "cool")
    h = {i: pd.Series(dict(holds=better if i.startswith("less") else drifts)) for i in ids}
    say = d11._answer(h)
    assert ("none of its rivals" in say["answer"]) != better and ("moves away" in say["drift_word"]) == drifts
    assert say["copy_word"].startswith("It copies") == drifts


def test_d11_examples_are_the_best_and_the_median():
    seconds = seconds_of(**{d11.MODEL: 1.})
    fake = seconds[~seconds.real].set_index("clip")
    score = fake[["s8", "s9", "s10"]].mean(axis=1)
    assert d11.example_of(seconds, "best") == score.idxmax()
    assert (score > score[d11.example_of(seconds, "median")]).sum() == len(score) // 2


def test_d11_counts_runs_that_die_explode_and_loop():
    free = dict(kind="free", speaker="a", longest=1., loop=.6, furthest=10.)
    real = dict(kind="real", speaker="b", loop=.5, furthest=9.)
    wild = dict(kind="unbounded", speaker="a", loop=.6, furthest=30.)
    runs = pd.DataFrame([free, free | dict(longest=4.), free | dict(furthest=20.), free | dict(loop=.1), real, wild, wild])
    assert run_counts(runs) == dict(runs=4, runs_silent=1, runs_real=1, runs_exploded=1, runs_looping=1,
                                    runs_exploded_unbounded=2)


def test_d11_states_the_warmest_temperature_that_is_good():
    rows = [dict(temperature=t, speaker=s, clip=0, dnsmos=q + x, apart=10 * t)
            for t, q in ((1., 2.4), (.8, 2.55), (.7, 2.7)) for s, x in zip("abcd", (-.1, -.02, .02, .1), strict=True)]
    say = quality_estimates(pd.DataFrame(rows), d11.GOOD, n=100)
    assert say["quality_temperature"] == .8 and say["quality_best"].value == pytest.approx(2.55)
    assert say["quality_apart"].value == pytest.approx(8) and say["quality_apart_warm"].value == pytest.approx(10)
    low = quality_estimates(pd.DataFrame(rows).assign(dnsmos=lambda r: r.dnsmos - 1), d11.GOOD, n=100)
    assert low["quality_temperature"] == .7 and "does not reach" in low["quality_word"]
    unheard = quality_estimates(pd.DataFrame(rows).assign(dnsmos=float("nan")), d11.GOOD, n=100)
    assert unheard["quality_best"] == "not measured" and unheard["quality_temperature"] == 1


def test_d12_interventions_change_what_they_name(smoke):
    import torch

    from audioengram.dynamics.rivals import Prompts
    from audioengram.dynamics.sequence import SequenceConfig, SequenceModel
    from audioengram.dynamics.sequence_data import Sequences
    frames, who = torch.randn(200, 3) * 2 + 1, np.array(["a", "b"])
    train = Sequences(frames, np.array([100, 100]), who, who)
    model = SequenceModel(SequenceConfig(dim=3, width=8, layers=1, heads=1, hidden=8)).set_units(frames)
    p, x = Prompts.cut(train, train, 20, 30), torch.randn(2, 3)
    inner = {k: model.inner(d12.intervention(k, model, p)(model.outer(x))) for k in d12.LENGTHS}
    cosine = {k: torch.nn.functional.cosine_similarity(v, x) for k, v in inner.items()}
    assert torch.allclose(inner["length held"].norm(dim=1), model.inner(p.given).norm(dim=2).mean(1), atol=1e-5)
    assert all(torch.allclose(cosine[k], torch.ones(2), atol=1e-5) for k in ("length held", "length drawn"))
    assert torch.allclose(inner["direction redrawn"].norm(dim=1), x.norm(dim=1), atol=1e-5) and (cosine["direction redrawn"] < .999).any()
    assert d12.intervention(d12.DRAWN, model, p) is None
    result = smoke(d12.NAME)
    assert set(result.table("results").system) == set(d12.SYSTEMS) and "| " in d12.verdict_table(result) + d12.block_table(result)
    assert "length" in result.claims["main.scale_word"]["value"]


def test_d12_words_follow_the_blocks():
    rows = [dict(system=k, clip=i, speaker=f"s{i}", block=b, norm=8 + b + .01 * i, level=-30., voice=.8 - .1 * b - .01 * i % .03)
            for k in d12.SYSTEMS for i in range(8) for b in range(3)]
    tables = dict(blocks=pd.DataFrame(rows), seconds=seconds_of(**{k.replace(" ", "_"): 1. for k in d12.SYSTEMS}))
    say = d12.claims_of(tables, dict(title="toy"), SimpleNamespace(seed=0, run_seconds=30.), n=200)
    assert say["scale_word"] == "the length of latents drifts" and "the voice wanders" in say["verdict_short"]
    assert say["norm_slope"].value == pytest.approx(2) and say["voice_slope"].value == pytest.approx(-.2)
    assert say["untold"].value == pytest.approx(0, abs=1e-12)
