"What d32 publishes, that its answers follow the rows, that planted differences are found and noise is not."
import numpy as np
import pandas as pd
import pytest

from audioengram.discussions import d32_sensing as d32
from audioengram.ember.towers import INPUT, LONG, MANNER, UNTRAINED, WIDE, manner_of
from audioengram.measure.rules import NO, YES

SPEAKERS = [f"v{i:02d}" for i in range(16)]


def made(column, accuracy, tasks, rng, seeds=3):
    return pd.DataFrame([{column: k, "seed": s, "task": t, "speaker": v, "asked": 200, "reader": "core", "right": int(rng.binomial(200, p))}
                         for k, p in accuracy.items() for s in range(seeds) for t in tasks for v in SPEAKERS])


def asked(seed, gain):
    "Decisions of a made-up experiment in which JEPA and spikes are ahead of all else by so much, and every rule is nearer to timing."
    rng = np.random.default_rng(seed)
    rows = made("rule", {r: .75 + gain * (r in ("jepa", LONG)) for r in (*d32.RULES_SHOWN, LONG, WIDE)}, ("clicks", MANNER), rng)
    reading = made("condition", {"spikes 80": .75 + gain, **dict.fromkeys(d32.RIVALS.values(), .75)}, ("clicks",), rng)
    like = pd.DataFrame([dict(rule=r, layer=k, seed=s, speaker=v, timing_beyond_rate=.3 + gain * (r != UNTRAINED) + .03 * rng.standard_normal())
                         for r in d32.RULES_SHOWN for k in ("tokens", "layer 1", "layer 2") for s in range(3) for v in SPEAKERS])
    return d32.decisions(rows, reading, like, ["clicks"], "spikes 80")


PLANTED = ["jepa_over_untrained", "jepa_over_spikes", "jepa_over_contrast", "long_over_wide", *(f"over_{k}" for k in d32.RIVALS), "jepa_nearer", "spikes_nearer", "contrast_nearer"]


def test_what_is_planted_is_found_and_told():
    table = asked(0, .1)
    says = table.set_index("hypothesis").says
    assert set(says.index) == set(d32.ASKED) and (says[PLANTED] == YES).all()
    told = d32.sayings(table)
    assert told["matters"] == "The learning rule matters" and "ahead of masked spikes and contrastive" in told["verdict"]
    assert len(told["lead"]) <= 114 and len(told["verdict"].split()) <= 45
    assert "half an hour of training tells more." in told["verdict"]
    back = d32.sayings(asked(0, -.1))
    assert "half an hour of training tells less." in back["verdict"]
    assert "behind masked spikes and contrastive" in back["verdict"] and back["matters"] == "The learning rule matters"
    nothing = d32.sayings(asked(1, 0.))
    assert nothing["matters"] == "No learning rule is shown to matter" and len(nothing["lead"]) <= 114


@pytest.mark.slow
def test_nineteen_of_twenty():
    "Each planted answer is found in 19 of 20 experiments at least, though all are corrected together, and noise is in one of 20 at most."
    found = sum((asked(seed, .1).set_index("hypothesis").says[PLANTED] == YES).astype(int) for seed in range(20))
    assert (found >= 19).all(), found
    noise = pd.concat([asked(seed, 0.) for seed in range(100, 120)])
    assert noise.says.isin([YES, NO]).mean() <= .05


def test_smoke_publishes_every_table(smoke):
    result = smoke(d32.NAME)
    rows, reading = result.table(), result.table("reading")
    assert set(rows.rule) == {*d32.RULES_SHOWN, INPUT, LONG, WIDE} and MANNER in set(rows.task)
    assert set(result.table("curves").rule) == {"jepa", "spikes", "contrast", LONG}
    assert set(result.table("likeness")) >= set(d32.LIKE) and (result.table("likeness").low <= result.table("likeness").high + 1e-9).all()
    prices = result.table("prices").set_index("condition")
    assert (prices.spikes > 0).tolist() == [c.startswith("spikes") for c in prices.index] and (prices.uj > 0).all()
    whole = prices.front + prices.additions + prices.reading
    assert whole[d32.RIVALS["equal"]] == pytest.approx(whole["spikes 80"], rel=.1)
    assert prices.parameters[d32.RIVALS["mel"]] == pytest.approx(prices.parameters["spikes 80"], rel=.06)
    assert not set(reading.reader) - {"core", "line"} and (reading.right <= reading.asked).all()
    cores = reading[reading.reader == "core"]
    assert cores.starts.between(1, 2).all() and (cores.updates <= 4).all() and set(cores.learned) <= {0, 1}
    assert d32.teaching_table(result).count("\n") == cores.groupby(["task", "condition"]).ngroups + 1
    assert d32.answers_table(result).count("\n") == len(d32.ASKED) + 1 and d32.prices_table(result).count("\n") == len(prices) + 1


def test_manner_tells_a_voice_from_noise_and_silence():
    rng, t = np.random.default_rng(0), np.arange(8000) / 16_000
    voice = sum(np.sin(2 * np.pi * 150 * k * t) / k for k in range(1, 12))
    kinds = {name: manner_of(x[None])[0] for name, x in dict(voice=voice, noise=rng.standard_normal(8000)).items()}
    assert (kinds["voice"][1:-1] == 1).all() and (kinds["noise"] == 2).mean() > .7
    assert (manner_of(np.concatenate([voice[:4000], 1e-4 * rng.standard_normal(4000)])[None])[0][14:] == 0).all()
