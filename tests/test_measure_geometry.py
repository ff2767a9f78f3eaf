"Autocorrelation, effective rank and intrinsic dimension against closed forms and surfaces of known dimension."
import numpy as np
import pytest

from audioengram.core import ParameterError, ShapeError
from audioengram.measure.geometry import (
    autocorrelation,
    autocorrelation_rows,
    axes_for,
    effective_rank,
    intrinsic_dimension,
    neighbour_ratios,
    spectrum,
)


def ar1(factor, T, D, seed):
    rng, z = np.random.default_rng(seed), np.zeros((T, D))
    for t in range(1, T): z[t] = factor * z[t - 1] + np.sqrt(1 - factor**2) * rng.standard_normal(D)
    return z


@pytest.mark.parametrize("factor", [0., .5, .9, -.5])
def test_autocorrelation_of_an_ar1_is_its_power(factor):
    rows = autocorrelation_rows([ar1(factor, 1500, 12, s) for s in range(8)], range(8), lags=(1, 2, 3))
    for k in (1, 2, 3):
        e = autocorrelation(rows, k, n=500)
        assert e.value == pytest.approx(factor**k, abs=.03) and e.n == 8 and e.lo <= e.value <= e.hi


def test_autocorrelation_is_bounded_and_its_ends_are_reached():
    still, flip = np.ones((50, 3)), np.resize([1., -1.], (3, 50)).T
    assert autocorrelation(autocorrelation_rows([still], [0]), 4).value == pytest.approx(1)
    assert autocorrelation(autocorrelation_rows([flip], [0]), 1).value == pytest.approx(-1)
    assert autocorrelation(autocorrelation_rows([flip], [0]), 2).value == pytest.approx(1)


def test_mean_and_scale_are_taken_off():
    z = ar1(.6, 4000, 4, 0)
    moved = z * [1, 10, 100, 1000] + 7
    plain = autocorrelation(autocorrelation_rows([z], [0], mean=z.mean(0), scale=z.std(0))).value
    same = autocorrelation(autocorrelation_rows([moved], [0], mean=moved.mean(0), scale=moved.std(0))).value
    largest = autocorrelation(autocorrelation_rows([moved], [0], mean=moved.mean(0))).value
    x = z[:, 3] - z[:, 3].mean()
    assert same == pytest.approx(plain) and largest == pytest.approx((x[:-1] @ x[1:]) / (x @ x), abs=1e-3)


def test_short_utterances_give_no_pair():
    rows = autocorrelation_rows([np.ones((3, 2)), np.ones((20, 2))], "ab", lags=(1, 16))
    assert rows[rows.lag == 16].speaker.tolist() == ["b"] and rows.pairs.tolist() == [2, 19, 4]
    with pytest.raises(ParameterError, match="no utterance is longer than 8"): autocorrelation(rows, 8)
    with pytest.raises(ShapeError): autocorrelation_rows([np.ones(5)], "a")


def test_rank_counts_equal_directions():
    for D in (1, 7, 100):
        assert effective_rank(np.ones(D)) == pytest.approx(D) == effective_rank(5 * np.ones(D), "participation")
    assert effective_rank([1, 0, 0]) == 1 and effective_rank([4, 2, 2]) == pytest.approx(2**1.5)
    assert effective_rank([3, 1], "participation") == pytest.approx(16 / 10)
    with pytest.raises(ParameterError, match="do not vary"): effective_rank(np.zeros(4))
    with pytest.raises(ParameterError, match="unknown kind"): effective_rank([1.], "renyi")


def test_spectrum_is_that_of_the_covariance_and_of_no_rotation():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((50_000, 4)) * [4, 3, 2, 1]
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    assert spectrum(z @ turn) == pytest.approx(spectrum(z)) and spectrum(z) == pytest.approx([16, 9, 4, 1], rel=.03)
    assert axes_for(spectrum(z), .5) == 1 and axes_for(spectrum(z), .8) == 2 and axes_for(np.ones(10), .9) == 9
    assert spectrum(z[:, :1]).shape == (1,)


@pytest.mark.parametrize("k", [2, 10])
@pytest.mark.parametrize("d", [1, 2, 4, 6])
def test_intrinsic_dimension_of_a_cube_bent_into_fifteen(d, k):
    rng = np.random.default_rng(d)
    x = rng.uniform(size=(1500, d))
    x = np.concatenate([x, np.sin(x), x**2], 1) @ rng.standard_normal((3 * d, 15))         # smooth, and so of the same dimension
    e = intrinsic_dimension(neighbour_ratios(x, k=k), np.arange(1500) % 30, n=300)
    assert e.value == pytest.approx(d, rel=.15) and e.lo < e.value < e.hi and e.n == 30


def test_neighbours_of_one_s_own_utterance_do_not_count():
    t = np.linspace(0, 1, 40)[:, None]
    rng = np.random.default_rng(0)
    lines = np.concatenate([rng.standard_normal(6) * 3 + t * rng.standard_normal(6) * .3 for _ in range(80)])   # short strokes, thrown into six dimensions
    of = np.repeat(np.arange(80), 40)
    assert 1 / neighbour_ratios(lines, k=10).mean() < 1.6 and 1 / neighbour_ratios(lines, of).mean() > 4


def test_twins_have_no_ratio_and_bad_points_are_refused():
    x = np.random.default_rng(0).standard_normal((100, 5))
    r = neighbour_ratios(np.concatenate([x, x[:10]]))
    assert np.isnan(r).sum() == 20 and (r[np.isfinite(r)] >= 0).all()   # zero: the two nearest are twins of each other
    with pytest.raises(ParameterError, match="fewer than 2 neighbours"): neighbour_ratios(x, np.zeros(100))
    with pytest.raises(ParameterError, match="at least 2"): neighbour_ratios(x, k=1)
    with pytest.raises(ShapeError, match="NaN"): neighbour_ratios(x * np.nan)
