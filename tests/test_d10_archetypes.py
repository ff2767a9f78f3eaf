"Discussion d10: what a smoke run publishes, that its verdict follows the rule, heads at equal parameters, and descriptors of sound."
import json
import re

import numpy as np
import pytest

from audioengram.core import get_profile
from audioengram.discussions import d10_archetypes as d10
from audioengram.dynamics.archetypes import MARGIN, NULLS, closest_null
from audioengram.lab.cases import Study
from audioengram.lab.runs import code_fingerprint, read_run


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return d10.run("smoke", folder=tmp_path_factory.mktemp("figures") / d10.NAME)


def test_what_a_run_publishes(result):
    assert result.check() == [] and result.manifest["profile"] == "smoke"
    assert set(result.table_names) == {"results", "near", "mixtures", "transfer", "membership", "state", "order", "codes", "meaning", "heads"}
    assert set(result.manifest["figures"]) == {"tightness", "excess", "transfer", "meaning"}
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
    helps = result.claims["main.basis"]["lo"] > 0
    assert result.claims["main.helps"]["value"].endswith("does not help") != helps


def test_heads_have_equal_parameters():
    how, sizes = d10.recipe("quick"), {}
    for name, (head, options) in d10.RIVALS(how["slots"]).items():
        sizes[name] = d10.head_model(64, how, head, next(iter(sizes.values()), None), **options).n_parameters
    assert max(sizes.values()) / min(sizes.values()) < 1.05, sizes


def test_descriptors_of_a_tone_and_of_noise():
    rate, t = 16_000, np.arange(16_000) / 16_000
    tone, noise = .3 * np.sign(np.sin(2 * np.pi * 125 * t)), .01 * np.random.default_rng(0).standard_normal(len(t))
    a, b = (d10.sound_of(x, rate, 12) for x in (tone, noise))
    assert (a["voicing"] > .9).all() and (b["voicing"] < .6).all()
    right = np.isclose(2 ** a["pitch"], 125, rtol=.02)                          # a frame at the edge may be heard an octave lower
    assert right.mean() >= .7 and np.isclose(2 ** a["pitch"][~right], 62.5, rtol=.02).all() and np.isnan(b["pitch"]).all()
    assert np.allclose(a["level"], 10 * np.log10(.09), atol=.2)


def test_published_rows_are_of_the_code_as_it_is(root):
    "Rows that came with the repository must answer for the measuring code in it; else they would be dropped on the next run."
    published = root / "figures" / d10.NAME / "cases.json"
    if not published.is_file(): pytest.skip("d10_archetypes has not been run: make reproduce")
    now = code_fingerprint(*Study(d10.NAME, d10.measure_store, ()).code)
    stale = [c["title"] for c in json.loads(published.read_text()) if c["code"] != now]
    assert not stale, f"run d10_archetypes where the data of {stale} are present"
    assert read_run(published.parent).check() == []
