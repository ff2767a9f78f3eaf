"Decisions, sizes and power; coincidences at the lags where they were put; sequences of events in their order."
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audioengram.core import ParameterError
from audioengram.data.voices import synthesise
from audioengram.ember.coincidence import EARS_LAG, coincidences, how_many, lagged
from audioengram.ember.rules import decide_all, found_by, power_curve, size_in_words
from audioengram.ember.tasks import events, excerpt


def series(mean, sd, n=40, seed=0): return pd.Series(mean + sd * np.random.default_rng(seed).standard_normal(n), range(n))


def test_decisions_are_corrected_together():
    one, many = series(.03, .07), {f"h{i}": series(.03, .07) for i in range(40)}
    assert decide_all({"one": one}).says[0] == "yes" and set(decide_all(many).says) == {"not known"}
    table = decide_all(dict(better=series(.2, .05), worse=series(-.2, .05, seed=1)), least=.05).set_index("hypothesis")
    assert table.says.to_dict() == dict(better="yes", worse="no") and table.value["better"] == pytest.approx(.2, abs=.03)
    assert [size_in_words(x) for x in (.001, -.02, .1, -.4)] == ["no", "a small", "a moderate", "a large"]


@settings(max_examples=15, deadline=None)
@given(sd=st.floats(.01, .3), n=st.integers(4, 60))
def test_power_rises_with_the_effect(sd, n):
    curve = power_curve(series(0., sd, n).to_numpy(), draws=400)
    assert curve.power.is_monotonic_increasing and 0 <= curve.power.min() <= curve.power.max() <= 1
    least = found_by(curve)
    assert least == float("inf") or 0 <= least <= .2
    assert found_by(power_curve(np.array([.1]))) == float("inf")


@pytest.mark.parametrize("late", [-4, 0, 3])
def test_two_ears_meet_at_their_delay(late):
    g = torch.Generator().manual_seed(0)
    left = (torch.rand(1, 12, 3200, generator=g) < .02).float()
    counts = coincidences(left, torch.roll(left, late, -1))
    assert counts.shape == (1, how_many(), 10)
    ears = counts[:, -6 * (2 * EARS_LAG + 1):].unflatten(1, (6, -1)).sum((0, 1, 3))
    assert int(ears.argmax()) - EARS_LAG == -late and ears.max() > 3 * ears.median()


def test_no_coincidence_is_lost_or_invented():
    g = torch.Generator().manual_seed(1)
    a = (torch.rand(1, 2, 200, generator=g) < .3).float()
    found = lagged(a, a, range(-199, 200), 40)
    assert found.sum() == a.sum()**2            # every spike meets every other at some lag


def test_events_are_bands_in_their_order():
    wav = excerpt(synthesise(1.2, seed=3, pitch=130).astype(np.float32))
    for k in (2, 6):
        clip, order = events(wav, np.random.default_rng(k), k)
        assert clip.shape == wav.shape and len(set(order)) == k and np.array_equal(order, events(wav, np.random.default_rng(k), k)[1])
    with pytest.raises(ParameterError, match="one to six"): events(wav, np.random.default_rng(0), 0)
