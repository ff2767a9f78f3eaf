"Blind listening: orders and sides are drawn, every choice is kept, and a preference is what the choices say."
import json

import numpy as np
import pandas as pd
import pytest

from audioengram.core import ParameterError
from audioengram.lab.listening import BlindTest, Trial, plan_trials, preference, read_choices, record_choice

RATE = 8000


@pytest.fixture
def clips():
    rng = np.random.default_rng(0)
    return {f"u{i}": {s: (rng.standard_normal(4000).astype(np.float32) * g, RATE) for s, g in (("loud", .5), ("soft", .05), ("other", .1))} for i in range(30)}


def test_orders_and_sides_are_balanced_and_a_listeners_own(clips):
    pairs = [("loud", "soft"), ("other", "soft")]
    trials = plan_trials(clips, pairs, "a")
    assert len(trials) == 60 and len({(t.item, frozenset((t.a, t.b))) for t in trials}) == 60
    assert 15 < sum(t.a in ("loud", "other") for t in trials) < 45
    assert trials == plan_trials(clips, pairs, "a") != plan_trials(clips, pairs, "b")
    assert len(plan_trials({"u": dict(clips["u0"]), "v": {"loud": clips["u1"]["loud"]}}, pairs, "a")) == 2   # an item without both is left out


def test_preference_is_by_system_and_not_by_side():
    rows = [dict(item=i, a="x" if i % 2 else "y", b="y" if i % 2 else "x", choice="A" if i % 2 else "B", listener="l") for i in range(10)]
    t = preference(pd.DataFrame(rows + [dict(item=99, a="x", b="y", choice="same", listener="m")]))
    assert len(t) == 1 and tuple(t.iloc[0][["first", "second", "n", "same", "listeners"]]) == ("x", "y", 10, 1, 2)
    assert t.share[0] == 1 and t.lo[0] == pytest.approx(.7225, abs=1e-3) and t.p[0] == pytest.approx(2 / 2**10)
    always_left = pd.DataFrame([dict(r, choice="A") for r in rows])
    assert preference(always_left).share[0] == .5


def test_a_test_goes_on_where_it_stopped_and_keeps_what_was_chosen(clips, tmp_path):
    file = tmp_path / "deep" / "choices.jsonl"
    test = BlindTest(clips, [("loud", "soft")], file, "a")
    for _ in range(7): test.choose("B")
    assert len(read_choices(file)) == 7 and (read_choices(file).seconds >= 0).all()
    assert len(BlindTest(clips, [("loud", "soft")], file, "a").left) == 23 and len(BlindTest(clips, [("loud", "soft")], file, "b").left) == 30
    assert test.result().n[0] == 7
    while test.now: test.choose("same")
    assert test.widget().children[0].value.startswith("Thank you")


def test_both_sides_are_equally_loud(clips, tmp_path):
    import io

    import soundfile as sf
    a, b = (sf.read(io.BytesIO(x))[0] for x in BlindTest(clips, [("loud", "soft")], tmp_path / "c.jsonl").sounds())
    assert np.sqrt((a**2).mean()) == pytest.approx(np.sqrt((b**2).mean()), rel=.1)


def test_what_is_wrong_is_said(clips, tmp_path):
    file = tmp_path / "c.jsonl"
    with pytest.raises(ParameterError, match="no item has both"): plan_trials(clips, [("loud", "missing")])
    with pytest.raises(ParameterError, match="one of A, B, same"): record_choice(file, Trial("u", "x", "y"), "C")
    record_choice(file, Trial("u", "x", "y"), "A"); file.write_text(file.read_text() + json.dumps({})[:-1] + "\n")
    with pytest.raises(ParameterError, match=r"line 2 of c\.jsonl"): read_choices(file)
