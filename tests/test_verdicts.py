"The list of rules, and what no published claim may say: a share above one, a ceiling below its null, a doubt where there is none."
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from audioengram.discussions import d05_gap as d05
from audioengram.discussions import d07_factorization as d07
from audioengram.discussions import d21_memory_over_codes as d21
from audioengram.lab.verdicts import LEVEL, RULES, answers_table, decide_all_rules
from audioengram.measure.rules import UNKNOWN, crossed, decided, sturdy
from audioengram.measure.stats import estimate_of

FIGURES = Path(__file__).resolve().parent.parent / "figures"
CLAIMS = {f.parent.name: json.loads(f.read_text()) for f in sorted(FIGURES.glob("d*/claims.json"))}
SHARES = ("recovered", "could", "kept")     # shares whose name does not say so


def estimate(page, id): return estimate_of(pd.Series(CLAIMS[page][id]))
def cases(page): return sorted({id.split(".")[0] for id in CLAIMS[page]} - {"main"})


def test_every_rule_is_one_row_and_is_answered():
    assert len({r.id for r in RULES}) == len(RULES)
    table = decide_all_rules()
    assert list(table.page) == [r.page for r in RULES] and table.p.between(0, 1).all() and (table.adjusted >= table.p - 1e-12).all()
    turned = table[table.raw != table.answer]
    assert (turned.answer == UNKNOWN).all() and (turned.adjusted >= LEVEL).all()
    assert answers_table(table).count("\n| [d") == len(RULES)


def test_pages_that_decide_something_are_in_the_list():
    assert {r.page for r in RULES} >= {name for name in CLAIMS if name.split("_")[0] not in ("d02", "d09", "d22")}      # instruments and tables


def test_no_share_is_above_one():
    shares = {(page, id): c["value"] for page, claims in CLAIMS.items() for id, c in claims.items()
              if (id.endswith("share") or id.split(".")[-1] in SHARES) and not isinstance(c["value"], str)}
    assert len(shares) > 10 and not {k: v for k, v in shares.items() if v > 1}


def test_no_ceiling_is_below_its_null():
    for case in cases("d05_gap"):
        for id in ("C8", "C_last", "ceiling_many"): assert CLAIMS["d05_gap"][f"{case}.{id}"]["value"] >= 0, (case, id)


def test_two_pages_that_ask_the_same_agree():
    "d01's gain of the past over the mixture marginal and d05's teacher-forced score one step ahead are the same quantity."
    both = set(cases("d01_predictability")) & set(cases("d05_gap"))
    assert len(both) == 2
    for case in both:
        a, b = estimate("d01_predictability", f"{case}.gain"), estimate("d05_gap", f"{case}.A1")
        assert a.lo <= b.hi and b.lo <= a.hi, (case, a, b)


def test_answers_follow_from_their_intervals():
    "No page doubts what its interval excludes, or is sure of what it holds."
    for case in cases("d05_gap"):
        at = lambda id, case=case: estimate("d05_gap", f"{case}.{id}")
        assert CLAIMS["d05_gap"][f"{case}.verdict_short"]["value"] == d05.verdict(at("lost_limit"), at("ceiling_many"), CLAIMS["d05_gap"][f"{case}.step"]["value"])
    for case in cases("d07_factorization"):
        parts = {k: estimate("d07_factorization", f"{case}.{k}") for k in ("whole", "direction", "length")}
        assert CLAIMS["d07_factorization"][f"{case}.verdict_short"]["value"] == d07.verdict(parts)
    for case in cases("d21_memory_over_codes"):
        same, width = (estimate("d21_memory_over_codes", f"{case}.{k}") for k in ("gain_same", "gain_parameters"))
        assert CLAIMS["d21_memory_over_codes"][f"{case}.outcome"]["value"] == d21.verdict(same, width)
    for task in ("parity", "maze", "order"):
        for rival in ("equal", "tied", "single"):
            e, says = estimate("d31_recursion", f"main.{task}_over_{rival}"), CLAIMS["d31_recursion"][f"main.{task}_{rival}_says"]["value"]
            assert says == UNKNOWN or says == decided(e), (task, rival)
            assert 0 not in e or says == UNKNOWN, (task, rival)


@pytest.mark.parametrize("seeds", [1, 3])
def test_crossed_intervals_cover_what_they_should(seeds):
    rng, held = np.random.default_rng(seeds), 0
    for _ in range(300):
        x = rng.normal(0, .5 if seeds > 1 else 0., (seeds, 1)) + rng.normal(0, 1, (1, 20)) + rng.normal(0, .5, (seeds, 20))
        held += 0 in crossed(x)
    assert held > 270


def test_one_voice_or_one_seed_decides_nothing():
    x = np.full((3, 10), 1.) + .01 * np.arange(10)
    assert sturdy(x) and not sturdy(np.where(np.arange(10) == 3, 30., -.2)) and not sturdy(x * [[1.], [1.], [-.1]])
    assert decided(crossed(x), x) == "yes" and decided(crossed(-x), -x) == "no" and decided(crossed(x), x, mark=1.) != "no"
