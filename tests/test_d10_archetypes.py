"Discussion d10: what a smoke run publishes, that its verdict follows the rule, heads at equal parameters, and descriptors of sound."
import re

import numpy as np
import pandas as pd
import pytest

from audioengram.core import get_profile
from audioengram.discussions import d10_archetypes as d10
from audioengram.dynamics.archetypes import MARGIN, closest_null
from audioengram.dynamics.basis import COSTS, RIVALS
from audioengram.dynamics.memory_heads import BAR, BASIS, GATED, head_gain, head_values
from audioengram.dynamics.nulls import NULLS
from audioengram.measure.descriptors import frame_descriptors
from audioengram.measure.rules import crossed, decided


@pytest.fixture(scope="module")
def result(smoke):
    return smoke(d10.NAME)


def test_what_a_run_publishes(result):
    assert result.check() == [] and result.manifest["profile"] == "smoke"
    assert set(result.table_names) == {"results", "near", "mixtures", "transfer", "membership", "state", "order", "codes", "meaning", "heads", "horizon", "free", "stability", "splices"}
    assert set(result.manifest["figures"]) == {"tightness", "excess", "transfer", "meaning", "heads", "horizon"}
    assert {"real", "mirrored", *NULLS} <= set(result.table("results").source) and set(NULLS[:-1]) <= set(result.table("transfer").source)
    clips = list(result.manifest["clips"])
    assert sum("_real_" in c for c in clips) == sum("_made_" in c for c in clips) >= 2
    assert not re.search(r'"/\w', (result.folder / "manifest.json").read_text())
    assert "verdict" in d10.verdict_table(result) and "residual" in d10.tables_of(result)


def test_the_verdict_follows_the_rule(result):
    rows = closest_null(result.table("results"), n=get_profile("smoke").bootstrap)
    over = result.claims["main.over"]["value"]
    assert over == pytest.approx(rows.excess.max(), abs=1e-6)
    exists = result.claims["main.verdict_short"]["value"].startswith("archetypes exist")
    assert exists == bool(rows.exceeds.any() and result.claims["main.transfer_over"]["lo"] > 0)
    assert not exists or over > MARGIN
    values = head_values(result.table("heads"), GATED)
    gated = result.claims["main.gated"]
    assert values.shape[0] == d10.Recipe.of("smoke").seeds and gated["value"] == pytest.approx(values.mean(), abs=1e-3)
    answer = decided(crossed(values), values)
    assert result.claims["main.helps"]["value"] == d10.HELPS[answer]
    assert result.claims["main.places"]["value"].startswith("nor") == (result.claims["main.states"]["lo"] <= 0)


def test_every_head_is_asked_everything(result):
    names, how = list(RIVALS(1)), d10.Recipe.of("smoke")
    h = result.table("heads")
    assert set(h["head"]) == set(names) and set(h.equal) == set(COSTS) and set(h.number) == set(range(how.seeds))
    for equal, column in (("parameters", "parameters"), ("multiply-adds", "multiply_adds")):
        cost = h[h.equal == equal].groupby("head")[column].first()
        assert cost.max() / cost.min() < 1.1, cost
    assert set(result.table("horizon").step) == {1, how.steps} and (result.table("horizon").segments <= result.table("horizon").frames).all()
    assert set(result.table("stability").method) == set(names) and set(result.table("splices")["head"]) == set(names)
    clips = {c.split("_heads_")[1] for c in result.manifest["clips"] if "_heads_" in c}
    assert clips == {"truth", *(f"{s}_{kind}" for s in ("plain", "basis", "gated", "directions", "states") for kind in ("spliced", "free"))}
    assert all(name in d10.head_tables(result) for name in names)


def test_gains_of_heads_are_over_all_seeds_and_paired_by_speaker():
    rows = [dict(head=h, equal="parameters", number=n, speaker=f"s{s}", log_prob=10. * s + (g + n) * (h != BAR) * (5 + s), cosine=0., steps=5 + s) for h, g in ((BAR, 0.), (BASIS, 2.)) for n in (0, 1, 2) for s in range(6)]
    table = pd.DataFrame(rows)
    e = head_gain(table, BASIS, n=300)
    assert e.value == pytest.approx(3) and e.lo == pytest.approx(3) and e.n == 6
    assert [head_gain(table, BASIS, number=k, n=300).value for k in (0, 1, 2)] == pytest.approx([2, 3, 4])
    assert head_gain(table, BAR, BASIS, n=300).value == pytest.approx(-3)


def test_descriptors_of_a_tone_and_of_noise():
    rate, t = 16_000, np.arange(16_000) / 16_000
    tone, noise = .3 * np.sign(np.sin(2 * np.pi * 125 * t)), .01 * np.random.default_rng(0).standard_normal(len(t))
    a, b = (frame_descriptors(x, rate, 12) for x in (tone, noise))
    assert (a["voicing"] > .9).all() and (b["voicing"] < .6).all()
    right = np.isclose(2 ** a["pitch"], 125, rtol=.02)                          # a frame at the edge may be heard an octave lower
    assert right.mean() >= .7 and np.isclose(2 ** a["pitch"][~right], 62.5, rtol=.02).all() and np.isnan(b["pitch"]).all()
    assert np.allclose(a["level"], 10 * np.log10(.09), atol=.2)
