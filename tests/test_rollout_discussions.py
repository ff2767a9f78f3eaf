"Discussions d04, d05, d06: what is published follows from its rows, the controls are what they say, and the ceiling is one."
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from audioengram.core import read_json
from audioengram.discussions import d04_memory as d04
from audioengram.discussions import d05_gap as d05
from audioengram.discussions import d06_rollout_training as d06
from audioengram.dynamics.rollout_plans import by_count, differences, in_the_limit, particles_of, plans, plans_of
from audioengram.lab.runs import read_run

FIGURES = Path(__file__).resolve().parent.parent / "figures"


def cases(name):
    result = read_run(FIGURES / name)
    mine = lambda t, case: (df := result.table(t))[df.case == case]
    return [(result, about["case"], {t: mine(t, about["case"]) for t in result.table_names}) for about in read_json(result.folder / "cases.json")]


def test_published_ceiling_is_a_ceiling():
    "Free-running particles are nowhere ahead of C beyond noise, and C is ahead of the direct predictor alone."
    for _, _, t in cases(d05.NAME):
        q = t["quantities"]
        lost = q[(q.quantity == "compounding") & (q.method == d05.MAIN)]
        assert (lost.hi >= -.05).all(), lost
        sums = t["results"][(t["results"].method == d05.MAIN) & (t["results"].step > 1)].groupby("step")[["direct", "C"]].sum()
        assert (sums.C <= sums.direct + 1e-6).all()


def test_published_gap_follows_from_its_rows():
    for result, case, t in cases(d05.NAME):
        rows = t["results"][(t["results"].method == d05.MAIN) & (t["results"].step == 8)]
        rows = rows[rows.segments > 0]
        per = lambda a, b, rows=rows: ((rows[a] - rows[b]) / rows.segments).mean()               # each speaker counts once
        claim = lambda id, result=result, case=case: result.claims[f"{case}.{id}"]["value"]
        assert claim("A8") == pytest.approx(per("null", "A"), rel=1e-3) and claim("compounding") == pytest.approx(per("R", "C"), rel=1e-3, abs=1e-3)
        assert claim("irreducible") + claim("compounding") + claim("price") == pytest.approx(claim("A8") - claim("mean8"), rel=1e-3)
        assert claim("recovered") == pytest.approx(per("R_mean", "R") / per("R_mean", "A"), rel=1e-3)
        assert t["stability"].finite.all()


def test_every_model_is_scored_on_the_same_frames():
    for name, by, zero in ((d05.NAME, ["method"], "base"), (d06.NAME, ["seed", "method"], "null")):
        for _, _, t in cases(name):
            count = t["results"].groupby([*by, "step"]).segments.sum().unstack()
            assert (count.nunique() == 1).all()
            base = t["results"].groupby([*by, "step"])[zero].sum().unstack()
            assert np.allclose(base, base.iloc[0], rtol=1e-3)


def test_memory_controls_cost_what_they_should():
    for _, _, t in cases(d04.NAME):
        size = t["sizes"].set_index("model")
        memory = size.loc["residual, added"]
        assert size.multiply_adds[d04.FLOPS] == pytest.approx(memory.multiply_adds, rel=.05) and size.stored[d04.NUMBERS] == pytest.approx(memory.stored, rel=.05)
        assert size.gate.dropna().between(0, 1).all() and set(size.index[size.gate.notna()]) >= {"hybrid", "residual, gated"}
        assert set(t["rolled"]["mode"]) == {"sample", "mean"}


def test_plans_of_rollout_training():
    every = plans()
    steps = lambda kind: {p.steps for n, p in every.items() if n.startswith(kind)}
    assert steps("particles, K") == steps("mean, K") == {4, 8, 16, 32}
    assert all(p.mode == "mean" and p.particles == 1 and p.truth_rate > 0 for n, p in every.items() if n.startswith("mean"))
    assert every["particles, λ = 0.1"].particle == .1 and every["mean, λ = 10"].rollout == 10 and every[d06.ONE].steps == 1
    assert set(plans_of(d06.Recipe.of("full"))) == set(every) > set(plans_of(d06.Recipe.of("quick")))


def test_the_control_of_rollout_training_trains_as_long():
    "It takes every update that any method takes, in every seed, and the published answer follows from the rows."
    for result, case, t in cases(d06.NAME):
        trained = t["training"].pivot(index="seed", columns="method", values="updates")
        assert trained.stack().nunique() == 1 and trained[d06.ONE].min() >= 2000 and len(trained) == 3
        claim = lambda id, result=result, case=case: result.claims[f"{case}.{id}"]["value"]
        best, step = particles_of(claim("K")), claim("step")
        values = differences(t["results"], best, step, "R", d06.ONE)
        assert values.shape[0] == 3 and claim("beyond") == pytest.approx(values.mean(), abs=1e-3)
        counted = by_count(t["limit"], best)
        assert claim("verdict_short") == d06.verdict(values, counted.iloc[:, -1]) and claim("beyond_many") == pytest.approx(counted.iloc[:, -1].mean(), abs=1e-3)


def test_the_rule_of_rollout_training():
    "A clear gain is a yes, a loss a no; one speaker, one seed or the number of particles turns either into not known."
    gain = 1 + .1 * np.arange(30.).reshape(3, 10)
    assert d06.verdict(gain).startswith("yes") and d06.verdict(-gain).startswith("no:")
    assert d06.verdict(gain, gain[0]).startswith("yes") and all(d06.verdict(gain, x) == d06.SAID["few"] for x in (-gain[0], gain[0] - gain[0].mean()))
    ahead = pd.DataFrame({16: [1.5, 3.], 64: [.6, 1.2], 128: [.45, .9]}, index=["a", "b"])               # .3 + 19.2 / M, and twice that
    assert in_the_limit(ahead) == pytest.approx([.3, .6])
    assert d06.verdict(gain * [[1], [1], [-.01]]).startswith("not known")


@pytest.fixture(scope="module")
def gap(smoke):
    return smoke(d05.NAME)


def test_smoke_run_of_the_gap(gap):
    assert gap.check() == [] and set(gap.manifest["figures"]) == {"gap", "lost", "injection", "particles", "spread", "splices"}
    assert "R − R_mean" in d05.gap_tables(gap) and "frechet" in d05.free_table(gap) and "C − R" in d05.verdict_table(gap)
    heard = list(gap.manifest["clips"])
    assert sum("spliced" in c for c in heard) == 3 and any(c.endswith("truth") for c in heard)
    table = gap.table("splices")
    assert (table.distance > 0).all() and np.isfinite(table.distance).all()
    first = gap.table("quantities").query("step == 1 and quantity in ['A', 'C', 'R', 'R_mean']").groupby("method").value
    assert (first.max() - first.min() < 1e-3).all()                           # one step ahead they are the same density


def test_clips_are_what_their_captions_say(gap):
    "A spliced clip equals the truth until its first rolled-out frame, and the mean's free run ends quiet in change."
    import soundfile as sf

    from audioengram.measure.speech import mel_distance
    read = lambda name: sf.read(gap.folder / next(c["file"] for n, c in gap.manifest["clips"].items() if n.endswith(name)))
    (truth, rate), (spliced, _), (mean, _) = read("truth"), read("spliced_1"), read("free_mean")
    context = int(d05.Recipe.of("smoke").length / 12.5 * rate * .5)
    assert len(truth) == len(spliced)
    apart = lambda a, b: mel_distance(a, b, rate)          # phases are found for the whole clip, so samples differ where magnitudes do not
    before, after = apart(truth[:context], spliced[:context]), apart(truth[context:], spliced[context:])
    assert before < 1.5 and before < .6 * after
    assert len(mean) == len(truth)
