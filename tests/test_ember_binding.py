"H-mini: what reaches it and what does not, asking at a price, startle, equal sizes; likeness and its ceiling; go and no-go from made-up rows."
import numpy as np
import pytest
import torch

from audioengram.core import ParameterError, ShapeError, TrainingError
from audioengram.ember.binding import LOOKS, HMini, act, dry_run, fit_curious, fit_h, log_mel, look, salience, towers
from audioengram.ember.likeness import agreement, ceiling, distances, modulation
from audioengram.ember.words import TOKENS


def toy(n=300, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(2, (n,), generator=g), torch.randint(len(TOKENS), (n, 3), generator=g), torch.randn(n, 4, 8, generator=g)


def test_sensations_teach_what_words_do_not_hold():
    y, words, noise = toy()
    senses = noise + 1.5 * (2 * y[:, None, None] - 1) * torch.linspace(-1, 1, 8)
    accuracy = {}
    for name, v in dict(words=None, both=senses).items():
        torch.manual_seed(0)
        h = fit_h(HMini(8, dim=16, layers=1), y[:200], words[:200], None if v is None else v[:200], updates=60, lr=1e-2)
        accuracy[name] = float((h(words[200:], None if v is None else v[200:])[0].argmax(1) == y[200:]).float().mean())
    assert accuracy["both"] > .9 and accuracy["words"] < .7


def test_the_signal_reaches_attention_to_senses_only():
    torch.manual_seed(0)
    h, (_, words, v) = HMini(8, dim=16), toy(6)
    h.gain.data.fill_(3.)
    s = torch.rand(6) + .5
    assert torch.allclose(h(words, None, signal=s)[0], h(words, None)[0])                       # nothing sensed, nothing to turn up
    assert not torch.allclose(h(words, v, signal=s)[0], h(words, v)[0], atol=1e-4)
    assert torch.allclose(h(words, v, signal=0 * s)[0], h(words, v)[0], atol=1e-5)
    assert not torch.allclose(h(words, v, "glance")[0], h(words, v, "both")[0], atol=1e-5)      # it knows how it looked


def test_it_asks_where_asking_pays_and_startle_lowers_the_price():
    y, words, noise = toy(500)
    seen = {k: noise + (k in ("window", "both")) * 2. * (2 * y[:, None, None] - 1) * torch.linspace(-1, 1, 8) for k in LOOKS}
    torch.manual_seed(0)
    h = fit_curious(HMini(8, dim=16, layers=1), y, words, seen, updates=80, lr=1e-2)
    assert act(h, words, seen, .2)[1].mean() > .8 and act(h, words, seen, 5.)[1].mean() < .1
    signal = (torch.arange(500) % 2).float()
    said, cost, chosen = act(h, words, seen, 1.5, signal)
    assert cost[signal == 1].mean() > cost[signal == 0].mean() + .5
    assert torch.equal(act(h, words, seen, 1.5, signal, policy=torch.Generator().manual_seed(0))[1].sort().values, cost.sort().values)     # the same choices, for other clips


def test_looks_let_through_what_they_cost():
    grid = torch.rand(2, 6, 40)
    heard = {k: (look(grid, k) > 0).float().mean() for k in LOOKS}
    assert heard["glance"] < heard["band"] == heard["window"] < heard["both"] == 1
    assert torch.equal(look(grid, "both"), grid)
    with pytest.raises(ParameterError, match="unknown look"): look(grid, "x")


def test_salience_is_suddenness():
    g = torch.Generator().manual_seed(0)
    calm = (torch.rand(20, 8, 400, generator=g) < .05).float()
    sudden = calm.clone(); sudden[..., 200:220] = 1
    assert salience(calm).max() < salience(sudden).min() and salience(torch.zeros(1, 8, 400)).item() == 0 and salience(sudden).max() < 1


def test_rivals_have_equal_size_and_tokens():
    x = np.random.default_rng(0).standard_normal((2, 8000)).astype(np.float32)
    mel = log_mel(x)
    assert mel.shape == (2, 24, 200) and mel.max() == 0 and mel.min() >= -1
    a, b = (f() for f in towers(24, 32, 2, 32).values())
    n = [sum(p.numel() for p in m.parameters()) for m in (a, b)]
    assert abs(n[0] / n[1] - 1) < .1 and a(torch.zeros(2, 24, 1000)).shape == b(mel).shape
    with pytest.raises(ShapeError, match="NaN"): log_mel(x * np.nan)


def test_full_sizes_are_those_of_the_idea():
    t = dry_run("full").set_index("network").parameters / 1e6
    assert 18 < t["L"] < 22 and 5 <= t["core"] <= 7 and 90 < t["H"] < 100
    small = dry_run("quick").set_index("network").parameters
    made = sum(p.numel() for p in HMini(32, 2, 32, 2).parameters())
    assert small["H"] == made
    with pytest.raises(ParameterError): dry_run("x")


def test_bad_input_is_named():
    with pytest.raises(ParameterError, match="nothing to read"): HMini(4)()
    h = HMini(4); h.place.data.fill_(torch.nan)
    with pytest.raises(TrainingError, match="after 0 updates"): fit_h(h, torch.zeros(4, dtype=torch.long), torch.zeros(4, 2, dtype=torch.long), updates=2)


def test_likeness_and_ceiling():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((30, 6))
    assert agreement(distances(z), distances(z * 3 + 1)) == pytest.approx(1) and abs(agreement(distances(z), distances(rng.standard_normal((30, 6))))) < .2
    low, high = ceiling([distances(z + .3 * rng.standard_normal(z.shape)) for _ in range(4)])
    assert .3 < low < high < 1
    with pytest.raises(ShapeError): ceiling([distances(z)])
    with pytest.raises(ShapeError): distances(z[:2])
    t = np.arange(16_000) / 16_000
    m = modulation(np.stack([rng.standard_normal(16_000) * (1 + .9 * np.sin(2 * np.pi * f * t)) for f in (5, 18)]).astype(np.float32)).reshape(2, 4, 5, 2).mean((1, 3))
    assert (m - m.mean(0)).argmax(1).tolist() == [1, 3]
