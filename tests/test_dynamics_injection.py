"Injection modes, reset and horizon on processes whose answers are known, and the decomposition on two exactly specified processes."
import math

import numpy as np
import pandas as pd
import pytest
import torch

from audioengram.core import ParameterError
from audioengram.dynamics.injection import (
    Switching,
    divergence_horizon,
    fit_direct,
    gap_rows,
    injection_mask,
    injection_rows,
    reset_after_injection,
    true_windows,
)
from audioengram.dynamics.predictor import Predictor
from audioengram.dynamics.rollout import Stretches
from audioengram.measure.gap import gap_table
from audioengram.measure.prediction import GaussianForecast
from audioengram.measure.trajectories import null_rollouts, rollout_rows


class Segments:
    "Every segment one window; speakers of ten."
    def __init__(self, z): self.z, self.speaker, self.speakers = z, np.arange(len(z)) // 10, np.arange(len(z) // 10 + 1)
    def __len__(self): return len(self.z)
    def contexts(self, i): return self.z[i, :-1]
    def targets(self, i): return self.z[i, -1]


def ar1(rho, B, T, D=2, seed=0):
    e = torch.randn(T, B, D, generator=torch.Generator().manual_seed(seed)); z = [e[0]]
    for t in range(1, T): z.append(rho * z[-1] + math.sqrt(1 - rho**2) * e[t])
    return torch.stack(z, 1)


def linear(rho, var=None, D=2): return GaussianForecast(1, rho * torch.eye(D), torch.zeros(D), torch.full((D,), 1 - rho**2 if var is None else var))
def get(table, q): return table[table.quantity == q].set_index("step")
def around(e, value, slack): return ((e.lo - slack < value) & (value < e.hi + slack)).all()


def test_masks():
    on = lambda mode, **kw: [s + 1 for s, x in enumerate(injection_mask(mode, 12, **kw)) if x]
    assert on("A") == list(range(1, 13)) and on("B") == [4, 8, 12] and on("B", every=5) == [5, 10] and on("C") == [1] and on("D") == []
    with pytest.raises(ParameterError, match="A, B, C, D"): injection_mask("E", 4)
    z = torch.arange(30.).view(2, 5, 3)
    assert torch.equal(true_windows(z, 2), torch.stack([z[:, s:s + 2] for s in range(3)], 1))


def test_modes_reset_a_model_that_reads_one_frame_entirely():
    z = ar1(.9, 300, 2 + 9)
    s = Stretches(Segments(z), 9)
    rows = injection_rows(linear(.9), s, linear(0.), mode="mean", batch_size=100)
    assert len(rows) == 4 * 300 * 9 and set(rows.injection) == set("ABCD")
    per = {m: rows[rows.injection == m].sort_values(["segment", "step"]) for m in "ABCD"}
    same = lambda a, b, step: np.allclose(per[a].nll[per[a].step == step], per[b].nll[per[b].step == step], atol=1e-4)
    assert same("A", "B", 5) and same("A", "B", 9) and same("B", "D", 4) and same("A", "C", 2) and not same("A", "C", 3) and not same("A", "D", 2)
    assert np.allclose(reset_after_injection(rows, n=200).value, 1, atol=.12)
    exact = linear(.9)(true_windows(z, 2).flatten(0, 1)).log_prob(z[:, 2:].flatten(0, 1)).view(300, 9)
    assert np.allclose(per["A"].nll, -exact.flatten(), atol=1e-4)              # A is teacher forcing
    assert per["A"].gain.mean() == pytest.approx(-math.log(1 - .81), abs=.15)  # nats over the marginal, two dimensions
    step = per["A"][per["A"].step == 5].own_step                               # after an injection a step starts from the truth
    assert np.allclose(step, (.1 * z[:, 5]).norm(dim=-1), atol=1e-4)


def test_one_true_frame_is_not_enough_for_a_model_that_reads_two():
    w = torch.cat([-.3 * torch.eye(2), 1.2 * torch.eye(2)])                    # frames t-1, t
    two = GaussianForecast(2, w, torch.zeros(2), torch.full((2,), .1))
    z = [*ar1(.9, 300, 2).unbind(1)]
    g = torch.Generator().manual_seed(3)
    for _ in range(9): z.append(1.2 * z[-1] - .3 * z[-2] + .1**.5 * torch.randn(300, 2, generator=g))
    s = Stretches(Segments(torch.stack(z, 1)), 9)
    share = lambda whole: reset_after_injection(injection_rows(two, s, linear(0.), modes="B", mode="mean", whole=whole), n=200).value.mean()
    assert share(True) == pytest.approx(1, abs=.12) and share(False) < share(True) - .05
    with pytest.raises(ParameterError, match="mode B"): reset_after_injection(injection_rows(two, s, linear(0.), modes="D", mode="mean"))


def test_horizon_of_a_decaying_mean_is_the_closed_form():
    z = ar1(.9, 800, 1 + 16)
    s = Stretches(Segments(z), 16)
    rows = injection_rows(linear(.9), s, linear(0.), modes="D", mode="mean", unit=1.)
    null = rollout_rows(null_rollouts(z[:, :1], z[:, 1:])["other"], z[:, 1:], z[:, 0], 1., s.who(torch.arange(800)), energy=False)
    e = divergence_horizon(rows, null, share=.6, n=300)
    want = math.log(1 - 2 * .6**2) / (2 * math.log(.9))                        # sqrt(1 - rho^2s) = .6 sqrt 2
    assert e.value == pytest.approx(want, abs=.7) and e.lo < want < e.hi and e.n == 80
    assert divergence_horizon(rows, 100.).value == 16 and divergence_horizon(rows, 1e-3).value == 1
    with pytest.raises(ParameterError, match="other segments"): divergence_horizon(rows, null[null.segment > 5])


def test_gap_of_a_linear_process_is_known_in_every_part():
    S, rho, s = 6, .9, np.arange(1, 7)
    rows = gap_rows(linear(rho), {k: linear(rho**k) for k in s.tolist()}, Stretches(Segments(ar1(rho, 1200, 1 + S)), S), linear(0.), particles=128, correct=True)
    table, r = gap_table(rows, n=400), (1 - rho**(2 * s)) / (1 - rho**2)
    assert around(get(table, "A"), -math.log(1 - rho**2), .03)
    assert around(get(table, "irreducible"), np.log(r), .03)
    assert around(get(table, "compounding"), 0., .01) and get(table, "compounding").value.abs().max() < .03      # R = C
    assert around(get(table, "price of the mean"), r - 1 - np.log(r), .05)
    assert (rows.effective > 1).all() and abs(rows.own_step.mean() / rows.true_step.mean() - 1) < .03
    assert rows[rows.step == 6].mean_step.mean() < .2 * rows[rows.step == 6].true_step.mean()                    # the mean rollout comes to rest, as it should


def test_gap_of_a_wrong_model_is_the_divergence_of_its_densities():
    S, rho, s, off = 5, .9, np.arange(1, 6), .7
    rows = gap_rows(linear(off, .19), {k: linear(rho**k) for k in s.tolist()}, Stretches(Segments(ar1(rho, 1500, 1 + S, seed=4)), S), linear(0.), particles=128, correct=True)
    v, u = 1 - rho**(2 * s), .19 * (1 - off**(2 * s)) / (1 - off**2)
    assert around(get(gap_table(rows, n=400), "compounding"), np.log(u / v) + v / u - 1 + (rho**s - off**s)**2 / u, .06)


def test_gap_of_a_switching_process_has_no_compounding_error():
    S, process = 5, Switching()
    z = process.paths(1200, 1 + S, D=2)
    marginal = GaussianForecast(0, torch.zeros(0, 2), z.mean((0, 1)), z.var((0, 1)))
    table = gap_table(gap_rows(process, {k: Switching(lag=k) for k in range(1, S + 1)}, Stretches(Segments(z), S), marginal, particles=128, correct=True), n=400)
    assert around(get(table, "compounding"), 0., .015) and (get(table, "price of the mean").lo[1:] > .1).all()
    assert (get(table, "C").value.diff()[1:] < 0).all() and (get(table, "irreducible").value[2:] > 0).all()


def test_switching_densities_are_those_of_its_paths():
    z = Switching().paths(40_000, 4)
    assert len(Switching(lag=3).branches()[0]) == 8 and Switching(lag=3).branches()[0].exp().sum().item() == pytest.approx(1)
    one = Switching(lag=3)(z[:, :1])
    assert one.mean.mean().item() == pytest.approx(z[:, 3].mean().item(), abs=.02)
    grid = torch.linspace(-4, 8, 2001)[:, None]
    assert torch.trapezoid(Switching(lag=3)(torch.full((2001, 1, 1), .5)).log_prob(grid).exp(), grid[:, 0]).item() == pytest.approx(1, abs=1e-3)
    residual = (z[:, 3] - one.mean).square().mean().item()
    assert one.variance.mean().item() == pytest.approx(residual, rel=.03)


def test_gap_refuses_what_it_cannot_score():
    s = Stretches(Segments(ar1(.9, 20, 5)), 3)
    with pytest.raises(ParameterError, match=r"lags \[4\]"): gap_rows(linear(.9), {4: linear(.5)}, s, linear(0.))
    steps = Predictor(2, 2, target="step", hidden=8)
    with pytest.raises(ParameterError, match="target='state'"): gap_rows(linear(.9), {2: steps}, s, linear(0.))
    only = gap_rows(linear(.9), {3: linear(.9**3)}, s, linear(0.), particles=4)
    assert set(only.step) == {1, 3}


class Paths:
    "One-step or lagged windows over trajectories."
    def __init__(self, z, lag, W=2):
        U, T, D = z.shape
        t = torch.arange(W + lag - 1, T)
        self.c = torch.stack([z[:, t - lag - W + 1 + i] for i in range(W)], 2).reshape(-1, W, D)
        self.y, self.speaker, self.speakers = z[:, t].reshape(-1, D), np.repeat(np.arange(U), len(t)), np.arange(U)
    def __len__(self): return len(self.y)
    def contexts(self, i=slice(None)): return self.c[i]
    def targets(self, i=slice(None)): return self.y[i]
    def batches(self, B, shuffle=True, generator=None, drop_last=False):
        idx = torch.randperm(len(self), generator=generator).split(B)
        yield from idx[:-1] if drop_last and len(idx[-1]) < B else idx


def test_direct_models_start_from_the_lag_before_and_reach_the_ceiling():
    z = {"train": ar1(.8, 30, 60, seed=1), "valid": ar1(.8, 10, 60, seed=2)}
    make = lambda: Predictor(2, 2, encoder="state", head="gaussian", hidden=8, layers=0, dropout=0.)
    models = fit_direct(make, lambda s, part: Paths(z[part], s), (1, 3), epochs=8, batch_size=64, lr=1e-2, progress=False, device="cpu")
    test = ar1(.8, 60, 60, seed=3)
    for s, m in models.items():
        want = math.log(2 * math.pi * math.e * (1 - .8**(2 * s)))              # entropy of two dimensions
        assert -m.log_prob(Paths(test, s)).mean().item() == pytest.approx(want, abs=.08)
    rows = gap_rows(models[1], models, Stretches(Segments(test[:, :5]), 3), linear(0.), particles=32)
    assert isinstance(rows, pd.DataFrame) and set(rows.step) == {1, 3}
