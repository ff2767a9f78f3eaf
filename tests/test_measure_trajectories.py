"Rollout measures against closed forms: Gaussians, autoregressions, known gaps, and controls that must be caught."
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import energy_distance
from torch.distributions import MultivariateNormal, Normal

from audioengram.core import ParameterError, ShapeError
from audioengram.measure.free_runs import (
    DISTANCES,
    Occupancy,
    against_floor,
    autocorrelation_band,
    autocovariance,
    floor_ratios,
    frechet,
    frechet_pairs,
    free_run_report,
    nearest_distance,
    novelty,
    power_spectrum,
    regions_in_use,
)
from audioengram.measure.gap import gap_table
from audioengram.measure.trajectories import (
    effective_particles,
    energy_score,
    null_rollouts,
    particle_log_score,
    rms_step,
    rollout_rows,
    step_curves,
)


def gen(seed=0): return torch.Generator().manual_seed(seed)


def ar1(rho, B, T, D=4, seed=0):
    e = torch.randn(T, B, D, generator=gen(seed)); z = [e[0]]
    for t in range(1, T): z.append(rho * z[-1] + math.sqrt(1 - rho**2) * e[t])
    return torch.stack(z, 1)


def test_particle_score_converges_from_below_to_the_exact_density():
    g = gen(1)
    y = 2**.5 * torch.randn(20_000, 3, generator=g)
    exact = Normal(0., 2**.5).log_prob(y).sum(-1)
    error, fixed = {}, {}
    for M in (8, 64, 512):
        logp = Normal(torch.randn(20_000, M, 3, generator=g), 1.).log_prob(y[:, None]).sum(-1)
        error[M], fixed[M] = ((particle_log_score(logp, correct=c) - exact).mean().item() for c in (False, True))
    assert error[8] < error[64] < error[512] < 0 and abs(error[512]) < .01
    assert all(abs(fixed[M]) < abs(error[M]) for M in error)
    assert error[8] / error[64] == pytest.approx(8, rel=.5)              # a bias of order 1/M


def test_effective_particles_and_extremes():
    assert effective_particles(torch.zeros(16)).item() == pytest.approx(16)
    logp = torch.full((16,), -1e4); logp[3] = -2000.
    assert effective_particles(logp).item() == pytest.approx(1)
    assert particle_log_score(logp).item() == pytest.approx(-2000 - math.log(16))   # no underflow
    assert particle_log_score(torch.tensor([-3.]), correct=True).item() == -3


def test_energy_score_is_unbiased_in_particles_and_proper():
    g = gen(2)
    exact = 2 / math.sqrt(math.pi) - 1 / math.sqrt(math.pi)              # E|X-y| - E|X-X'|/2 with X, X', y ~ N(0,1)
    for M in (2, 4, 9, 64):                                              # both forms of the pair distances
        value = energy_score(torch.randn(40_000 // M * 8, M, 1, generator=g), torch.randn(40_000 // M * 8, 1, generator=g)).mean().item()
        assert value == pytest.approx(exact, abs=.03), M
    y = torch.randn(4000, 5, generator=g)
    score = {s: energy_score(s * torch.randn(4000, 16, 5, generator=g), y).mean().item() for s in (.6, 1., 1.6)}
    assert min(score, key=score.get) == 1.
    a, b = torch.randn(1, 400, 1, generator=g), torch.randn(300, generator=g) + 1
    cross = energy_score(a.expand(300, -1, -1), b[:, None]).mean()       # scipy's energy distance from two energy scores
    own = energy_score(b[None, :, None].expand(300, -1, -1), b[:, None]).mean()
    unbiased = 2 * (cross - own).item()
    assert unbiased == pytest.approx(energy_distance(a.flatten(), b)**2, abs=.03)


def test_energy_score_has_gradients_even_where_particles_coincide():
    x = torch.zeros(3, 4, 2, requires_grad=True)
    energy_score(x, torch.ones(3, 2)).sum().backward()
    assert torch.isfinite(x.grad).all() and (x.grad < 0).all()           # towards the truth


def test_rows_of_a_perfect_a_still_and_an_exploding_rollout():
    z = ar1(.9, 60, 9)
    truth, start, unit = z[:, 1:], z[:, 0], rms_step(z)
    perfect = rollout_rows(truth[:, None].expand(-1, 3, -1, -1), truth, start, unit)
    assert perfect.state_error.abs().max() < 1e-6 and np.allclose(perfect.cosine, 1, atol=1e-5) and perfect.energy.abs().max() < 1e-5
    still = rollout_rows(start[:, None, None].expand(-1, 1, 8, -1), truth, start, unit)
    first = still[still.step == 1]
    assert math.sqrt((first.state_error**2).mean()) == pytest.approx(1, rel=.1)        # one rms step away after one step
    assert (still.own_step == 0).all()
    curves = step_curves(rollout_rows(3 * truth[:, None], truth, start, unit), n=100).pivot(index="step", columns="measure", values="value")
    assert np.allclose(curves.state_ratio, 3, rtol=1e-5) and curves.step_ratio[8] == pytest.approx(3, rel=1e-5)
    with pytest.raises(ShapeError, match="truth"): rollout_rows(truth[:, None], truth[:, :4], start, unit)


def test_zero_steps_have_no_direction():
    z = torch.zeros(2, 1, 3, 2)
    rows = rollout_rows(z + 1, z[:, 0], z[:, 0, 0], 1.)
    assert rows.cosine.isna().all() and np.isfinite(rows.state_error).all()
    assert "cosine" not in set(step_curves(rows, n=50).measure)


def test_nulls_have_the_statistics_they_promise():
    z = ar1(.9, 500, 12)
    c, y = z[:, :4], z[:, 4:]
    nulls = null_rollouts(c, y)
    assert set(nulls) == {"still", "other", "marginal", "inertia"} and all(f.shape == (500, 1, 8, 4) for f in nulls.values())
    assert torch.equal(nulls["inertia"][:, 0, 1], c[:, -1] + 2 * (c[:, -1] - c[:, -2]))
    assert not (nulls["other"][:, 0] == y).all((1, 2)).any()                           # nobody gets their own truth
    norm = lambda f: f.diff(dim=2).norm(dim=-1).mean().item()
    assert norm(nulls["other"]) == pytest.approx(norm(y[:, None]), rel=.01)
    assert norm(nulls["marginal"]) == pytest.approx(norm(y[:, None]) / math.sqrt(.1), rel=.06)


def test_gap_of_an_autoregression_is_the_known_one():
    rho, D, S, M, N = .7, 3, 5, 400, 3000
    z, one = ar1(rho, N, S + 1, D, 7), math.sqrt(1 - rho**2)
    logn = lambda x, m, s: Normal(m, s).log_prob(x).sum(-1)
    p, parts = z[:, :1].expand(-1, M, -1), []
    for s in range(1, S + 1):
        y = z[:, s]
        parts.append(pd.DataFrame(dict(speaker=np.arange(N) // 60, step=s, method="exact", A=-logn(y, rho * z[:, s - 1], one), C=-logn(y, rho**s * z[:, 0], math.sqrt(1 - rho**(2 * s))),
                                       R=-particle_log_score(logn(y[:, None], rho * p, one), correct=True), R_mean=-logn(y, rho**s * z[:, 0], one), base=-logn(y, 0., 1.))))
        p = rho * p + one * torch.randn(p.shape, generator=gen(s))
    table = gap_table(pd.concat(parts), by=("method", "step"), n=400)
    get = lambda q: table[table.quantity == q].set_index("step")
    r = (1 - rho**(2 * np.arange(1, S + 1))) / (1 - rho**2)
    for name, known in (("irreducible", D / 2 * np.log(r)), ("price of the mean", D / 2 * (r - 1 - np.log(r))), ("compounding", 0 * r)):
        e = get(name)
        assert ((e.lo - .01 <= known) & (known <= e.hi + .01)).all(), name
    assert (get("share lost").value.abs() < .1).all() and (get("A").n == 50).all()
    with pytest.raises(ParameterError, match="R_mean"): gap_table(pd.concat(parts).drop(columns="R_mean"))
    nothing = pd.concat(parts).assign(C=lambda d: d.base)                              # a ceiling that gains nothing has no share to lose
    assert "share lost" not in set(gap_table(nothing, n=50).quantity)


def test_frechet_closed_form_and_symmetry():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 5)), rng.normal(size=(5, 5))
    A, B = a @ a.T + np.eye(5), b @ b.T + np.eye(5)
    x, y = (MultivariateNormal(torch.full((5,), m, dtype=torch.float64), torch.tensor(S)).sample((200_000,)).numpy() for m, S in ((0., A), (1., B)))
    from scipy.linalg import sqrtm
    exact = 5 + np.trace(A + B - 2 * np.real(sqrtm(A @ B)))
    assert frechet(x, y) == pytest.approx(exact, rel=.03) and frechet(x, y) == pytest.approx(frechet(y, x), rel=1e-6)
    assert abs(frechet(x, x)) < 1e-8
    flat = np.zeros((50, 5)); flat[:, 0] = rng.normal(size=50)                          # singular covariances are no obstacle
    assert np.isfinite(frechet(flat, x[:100]))


def test_floor_is_fair_and_catches_speed_and_spread():
    real, speaker = ar1(.9, 200, 80, seed=1).numpy(), np.arange(200) // 10
    ratio = lambda m: floor_ratios(against_floor(m, real, speaker, repeats=8)).set_index("distance").ratio
    same = ratio(ar1(.9, 200, 80, seed=2).numpy())
    assert (same < 2).all() and list(same.index) == list(DISTANCES)
    fast = ratio(ar1(.5, 200, 80, seed=3).numpy())
    assert fast["frechet"] < 2 < 4 < fast["frechet pairs"] and fast["power_spectrum"] > 4 and fast["log step"] > 4
    backwards = frechet_pairs(real, real[:, ::-1])
    assert backwards < .05                                                              # reversible process: no arrow
    rows = against_floor(real[:7], real, speaker, repeats=2)
    assert (rows.n == 7).all()                                                          # equal n on both sides
    with pytest.raises(ParameterError, match="two speakers"): against_floor(real, real, np.zeros(200))
    with pytest.raises(ShapeError, match="NaN"): against_floor(real * np.nan, real, speaker)


def test_occupancy_is_jensen_shannon_and_counts():
    frames = ar1(0., 50, 100, 2).numpy()
    where = Occupancy(frames.reshape(-1, 2), 8)
    p, q = where.share(frames), where.share(frames + 1)
    assert where(frames, frames + 1) == pytest.approx(jensenshannon(p, q)**2, abs=1e-9) and where(frames, frames) == pytest.approx(0, abs=1e-12)
    assert regions_in_use(p) <= 8 and regions_in_use(np.eye(8)[0]) == pytest.approx(1) and p.sum() == pytest.approx(1)


def test_autocovariance_by_hand_and_band():
    x = ar1(.8, 100, 120, seed=4).numpy()
    by_hand = [np.mean([(c[:120 - k] * c[k:]).sum(-1).mean() for c in x.astype(float)]) for k in (0, 1, 7)]
    assert autocovariance(x, 7, 0.).mean(0)[[0, 1, 7]] == pytest.approx(by_hand, abs=1e-9)
    speaker = np.arange(100) // 5
    assert autocorrelation_band(ar1(.8, 100, 120, seed=5).numpy(), x, speaker, 8).inside.all()
    assert not autocorrelation_band(.5 * x, x, speaker, 8).inside[0]                    # a collapse shows at lag 0
    with pytest.raises(ShapeError, match="lag 120"): autocovariance(x, 120)


def test_spectrum_of_a_sine_peaks_where_it_should():
    t = np.arange(256) / 12.5
    f, p = power_spectrum(np.sin(2 * np.pi * 2. * t)[None, :, None].repeat(2, 2), frame_rate=12.5, length=128)
    assert abs(f[p.argmax()] - 2.) < .1


def test_novelty_sees_copies_and_strangers():
    train, real = ar1(.9, 40, 50, seed=6).numpy(), ar1(.9, 40, 50, seed=7).numpy()
    d = nearest_distance(real[0] + 1e4, train.reshape(-1, 4) + 1e4)                      # far from the origin: no cancellation
    full = np.linalg.norm(real[0][:, None].astype(float) - train.reshape(1, -1, 4), axis=-1).min(1)
    assert d == pytest.approx(full, abs=2e-2)
    assert novelty(train[:5], real, train.reshape(-1, 4))["ratio"] < 1e-3
    assert novelty(5 * real, real, train.reshape(-1, 4))["far"] > .5


def test_report_passes_the_process_itself_and_fails_a_collapse():
    real, speaker, train = ar1(.9, 160, 60, seed=8).numpy(), np.arange(160) // 8, ar1(.9, 80, 60, seed=9).numpy().reshape(-1, 4)
    marks = lambda m: free_run_report(m, real, speaker, train, clusters=8, max_lag=10, repeats=5).set_index("measure").passes
    assert marks(ar1(.9, 160, 60, seed=10).numpy()).dropna().all()
    assert not marks(.02 * real)[["frechet", "mean step norm", "autocorrelation inside the band"]].any()
    broken = real.copy(); broken[0, 5, 1] = np.inf
    with pytest.raises(ShapeError, match="unstable"): marks(broken)
