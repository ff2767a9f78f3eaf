"Phase 0 on worlds whose answer is known: planted clusters pass with the ratio of a closed form, noise fails, controls are 1."
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from audioengram.core import ParameterError, ShapeError
from audioengram.measure.keys import KEYS, ArrayWindows, KeySpec, fit_key, windows_from
from audioengram.measure.lookup import cluster_moments, fit_table, frame_errors, variance_ratio
from audioengram.measure.ridge import LinearSums, fit_readers, reader_errors, ridge
from audioengram.measure.structure import (
    Side,
    beyond_differencing,
    decide,
    drop_small_cells,
    phase0,
    ratio_of,
    step_scale,
    structure_verdict,
)

FEW = (KeySpec("pool", "pool", None, 16), KeySpec("PCA", "flat", 8, 16))   # keys of the right size for 16 planted clusters


def planted(rng, means, speakers=20, n=1500, W=4, fooled=False):
    "Contexts near one of K centres, steps near that cluster's mean; if fooled, held-out speakers map clusters to other means."
    K, D = means.shape
    centres, k = 4 * rng.normal(size=(K, D)), rng.integers(0, K, speakers * n)
    speaker = np.repeat(np.arange(speakers), n)
    held = speaker >= speakers * 3 // 4
    frames = (centres[k][:, None] + .3 * rng.normal(size=(len(k), W, D))).astype(np.float32)
    target = np.where(held, (k + 1) % K, k) if fooled else k
    delta = (means[target] + rng.normal(size=(len(k), D))).astype(np.float32)
    loud, medial = rng.random(len(k)) < .5, rng.random(len(k)) < .66
    side = lambda m: ArrayWindows(frames[m], delta[m], speaker[m], speaker[m], frames[m, -1])
    return {s: (side(~held & m), side(held & m)) for s, m in dict(all=loud | True, high_energy=loud, medial=medial).items()}


def independent(rng, speakers=20, T=800, D=6, lag=1, rho=0., W=8):
    "AR(1) frames with autocorrelation rho; independent at 0."
    def speak():
        z = rng.normal(size=(T, D))
        for t in range(1, T): z[t] = rho * z[t - 1] + np.sqrt(1 - rho**2) * z[t]
        return z
    cut = lambda ids: windows_from([speak() for _ in ids], ids, W, lag)
    return cut(range(speakers // 2)), cut(range(speakers // 2, speakers))


# the ratio

@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(2, 300), st.integers(1, 9), st.integers(1, 40), st.sampled_from([np.float32, np.float64]), st.sampled_from([0, 1e3]))
def test_one_pass_equals_the_definition(seed, n, D, K, dtype, offset):
    rng = np.random.default_rng(seed)
    x, k = (rng.normal(size=(n, D)) + offset).astype(dtype), rng.integers(0, K, n)
    count, mean, var = cluster_moments(x, k, K, chunk=64)
    X = x.astype(np.float64)
    for c in np.unique(k):
        mine = X[k == c]
        tol = 1e-8 if dtype == np.float64 else 1e-4 * (1 + offset / 100)
        assert count[c] == len(mine) and np.allclose(mean[c], mine.mean(0), atol=tol) and np.allclose(var[c], mine.var(0), atol=tol)
    within = sum(((X[k == c] - X[k == c].mean(0))**2).sum() for c in np.unique(k))
    total = ((X - X.mean(0))**2).sum()
    if dtype == np.float64: assert variance_ratio(x, k) == pytest.approx(within / total, rel=1e-7)


def test_ratio_is_one_minus_r2_of_the_cell_means():
    from sklearn.metrics import r2_score
    rng = np.random.default_rng(0)
    k, x = rng.integers(0, 7, 4000), rng.normal(size=(4000, 5))
    x += rng.normal(size=(7, 5))[k]
    train, held = slice(0, 3000), slice(3000, None)
    table = fit_table(x[train], k[train])
    residual = ((x[held] - table.mean[k[held]])**2).sum() / ((x[held] - table.all_mean)**2).sum()
    assert variance_ratio(x[held], k[held], table) == pytest.approx(residual)
    own = fit_table(x, k)
    r2 = r2_score(x, own.mean[k], multioutput=np.var(x, axis=0))
    assert own.ratio == pytest.approx(1 - r2)


def test_leave_one_out_is_unbiased_where_in_sample_is_not():
    rng = np.random.default_rng(1)
    x, k = rng.normal(size=(5000, 8)), rng.integers(0, 250, 5000)
    table = fit_table(x, k)
    within, total = frame_errors(table, x, k, left_out=True)
    assert table.ratio == pytest.approx(1 - 249 / 5000, abs=.005)
    assert within.sum() / total.sum() == pytest.approx(1 + 250 / 5000, abs=.01)


def test_weights_turn_normalised_errors_into_raw_ones():
    rng = np.random.default_rng(2)
    raw, k = rng.normal(size=(3000, 4)) * [1, 5, .1, 2] + 3 * rng.normal(size=(6, 4))[rng.integers(0, 6, 3000)], rng.integers(0, 6, 3000)
    sd = raw.std(0)
    direct = frame_errors(fit_table(raw, k), raw, k)
    through = frame_errors(fit_table(raw / sd, k), raw / sd, k, weight=sd**2)
    for a, b in zip(direct, through, strict=True): assert np.allclose(a, b)


def test_small_cells_go_on_both_sides():
    side = lambda cell: Side(np.zeros((len(cell), 2)), *(np.zeros(len(cell), int),) * 2, np.array(cell), np.zeros(len(cell)))
    train, held, kept = drop_small_cells(side([7] * 5 + [3] * 9 + [9] * 5), side([3, 7, 9, 9, 5, 100, 0]), min_count=5)
    assert kept.tolist() == [3, 7, 9] and np.bincount(train.cell).tolist() == [9, 5, 5] and held.cell.tolist() == [0, 1, 2, 2]
    train, held, kept = drop_small_cells(train, held, min_count=10)
    assert len(kept) == len(train.x) == len(held.x) == 0


# keys

def test_keys_agree_with_brute_force():
    rng = np.random.default_rng(3)
    contexts = rng.normal(size=(3000, 8, 5)).astype(np.float32)
    for spec in (KeySpec("a", "pool", None, 20), KeySpec("b", "flat", 3, 20), KeySpec("c", "last", None, 20)):
        key = fit_key(spec, contexts, seed=1)
        f = dict(pool=contexts.mean(1), flat=contexts.reshape(3000, -1), last=contexts[:, -1])[spec.feature]
        f = f if spec.pca is None else (f - key.pca.mean_) @ key.pca.components_.T
        d = np.linalg.norm(f[:, None] - key.centres, axis=-1)
        cell, confidence = key.assign(contexts)
        assert (cell == d.argmin(1)).mean() > .999
        near = np.sort(d, 1)
        assert np.allclose(confidence, 1 - near[:, 0] / near[:, 1], atol=2e-3) and confidence.min() >= 0
        again = fit_key(spec, contexts, seed=1)
        assert np.array_equal(again.centres, key.centres)


def test_quartile_bins_split_each_dimension_in_four():
    rng = np.random.default_rng(4)
    contexts = rng.normal(size=(8000, 2, 8)).astype(np.float32) * np.arange(1, 9)
    key = fit_key(KEYS[2], contexts)
    cell, confidence = key.assign(contexts)
    for d in range(8):
        assert np.allclose(np.bincount(cell // 4**d % 4, minlength=4) / 8000, .25, atol=.001)
    assert cell.max() < 4**8 and (confidence >= 0).all()


# the linear readers

def test_ridge_from_sums_is_scikit_learns():
    rng = np.random.default_rng(5)
    X, Y = rng.normal(size=(900, 12)) * np.arange(1, 13) + 5, rng.normal(size=(900, 3))
    Y += X @ rng.normal(size=(12, 3))
    sums = sum((LinearSums.empty(X.mean(0), Y.mean(0)).add(X[i::3], Y[i::3]) for i in (1, 2)), LinearSums.empty(X.mean(0), Y.mean(0)).add(X[::3], Y[::3]))
    for strength in (1e-4, .1, 10.):
        b, b0 = ridge(sums, strength)
        ref = Ridge(alpha=strength * len(X) * X.var(0).mean()).fit(X, Y)
        assert np.allclose(b, ref.coef_.T, atol=2e-4) and np.allclose(b0, ref.intercept_, atol=5e-3)


@pytest.mark.parametrize("rho", [0., .5, .9])
def test_readers_meet_the_closed_forms_of_autocorrelated_frames(rho):
    "Differencing: 1 − 1/(2(1−ρ)); diagonal, last, flattened: (1−ρ)/2; nothing beyond."
    train, held = independent(np.random.default_rng(6), rho=rho)
    mean, scale, now = step_scale(train)
    errors = reader_errors(held, fit_readers(train, mean, scale), mean, scale, now)
    r2 = 1 - errors.sum() / (((held.delta - mean) / scale)**2).sum()
    assert r2.differencing == pytest.approx(1 - 1 / (2 * (1 - rho)), abs=.03 / (1 - rho)**1.5)
    for reader in ("diagonal", "last", "flattened"): assert r2[reader] == pytest.approx((1 - rho) / 2, abs=.02)
    if rho == 0: assert r2.pooled == pytest.approx(1 / 16, abs=.01)


def test_at_lag_two_a_context_of_independent_frames_knows_nothing():
    train, held = independent(np.random.default_rng(7), lag=2)
    mean, scale, now = step_scale(train)
    errors = reader_errors(held, fit_readers(train, mean, scale), mean, scale, now)
    r2 = 1 - errors.sum() / (((held.delta - mean) / scale)**2).sum()
    assert abs(r2.flattened) < .01 and abs(r2.diagonal) < .01 and r2.differencing == pytest.approx(.5, abs=.02)


def test_windows_hold_what_the_lag_says():
    z = np.arange(40.)[:, None] ** 2
    for lag in (1, 2, 4):
        w = windows_from([z, z[:6]], [0, 1], length=5, lag=lag)
        for i in range(0, len(w), 7):
            last, now = np.sqrt(w.contexts(i)[-1]), np.sqrt(w.current(i))
            assert now + 1 - last == lag and w.steps(i) == (now + 1)**2 - now**2


# Phase 0

def test_planted_clusters_pass_with_the_closed_ratio():
    rng = np.random.default_rng(8)
    means = 1.5 * rng.normal(size=(16, 10))
    slices = planted(rng, means)
    closed = (1 / (1 + means.var(0))).mean()
    found = phase0(slices, FEW, repeats=3)
    rows, table = found.rows.assign(lag=1), decide(found.rows.assign(lag=1), FEW)
    assert table.passes.all() and np.allclose(table.ratio, closed, atol=.02) and np.allclose(table.worst_slice, closed, atol=.03)
    assert (table.degradation.abs() < .05).all() and (table.control - 1).abs().max() <= .01
    assert structure_verdict(table, found.readers[found.readers.slice == "all"]) == "key"
    estimate = ratio_of(rows[(rows.slice == "all") & (rows.key == "pool")])
    assert estimate.lo < estimate.value < estimate.hi and estimate.n == 5
    gain = rows[(rows.split == "held") & (rows.slice == "all") & (rows.key == "pool")]
    nats = gain.gain.sum() / gain.frames.sum()
    assert nats == pytest.approx(.5 * np.log(1 + means.var(0)).sum(), rel=.03)     # log-likelihood a lookup earns, in closed form


def test_the_keys_on_noise_fail_and_their_controls_are_one():
    "The real keys, on contexts that know nothing; the shuffled control must be 1.00 ± 0.01 on every slice, and in-sample is biased low."
    rng = np.random.default_rng(9)
    slices = planted(rng, np.zeros((16, 10)), speakers=24, n=3000)
    found = phase0(slices, repeats=3)
    rows = found.rows.assign(lag=1)
    table = decide(rows)
    assert len(table) == 4 and not table.passes.any()
    assert (table.ratio.iloc[:2] - 1).abs().max() < .01 and structure_verdict(table, found.readers[found.readers.slice == "all"]) == "none"
    for (key, piece), g in rows[rows.split == "held"].groupby(["key", "slice"]):
        assert g.within_shuffled.sum() / g.total.sum() == pytest.approx(1, abs=.01), (key, piece)
        facts = found.summary[(found.summary.key == key) & (found.summary.slice == piece)].iloc[0]
        own = g.within_own_shuffled.sum() / g.total_own.sum()
        assert own == pytest.approx(1 - (facts.cells_kept - 1) / g.frames.sum(), abs=.004), (key, piece)
        assert g.within_shuffled.sum() / g.total.sum() == pytest.approx(facts.expected_control, abs=.003)


def test_speakers_with_their_own_mapping_fail_by_degradation():
    "Clusters that hold for the training speakers only."
    rng = np.random.default_rng(10)
    found = phase0(planted(rng, 3 * rng.normal(size=(16, 10)), fooled=True), FEW, repeats=1)
    table = decide(found.rows.assign(lag=1), FEW)
    assert (table.degradation > 1).all() and not table.passes.any()
    in_sample = found.rows[(found.rows.split == "held") & (found.rows.slice == "all")].groupby("key")[["within_own", "total_own"]].sum()
    assert (in_sample.within_own / in_sample.total_own < .4).all()           # earlier work's form would have passed them


def test_a_slow_key_shows_in_the_rotated_control():
    "A cell that marks the utterance, and utterances with their own mean step: shuffled labels say 1, rotated labels keep the effect."
    rng = np.random.default_rng(11)
    speakers, n = 16, 1200
    utterance = np.repeat(np.arange(speakers * 4), n // 4)
    speaker, kind = utterance // 4, utterance % 4
    frames = (4 * np.eye(4)[kind][:, None] + .3 * rng.normal(size=(len(kind), 4, 4))).astype(np.float32)
    delta = (2 * np.eye(4)[kind] + rng.normal(size=(len(kind), 4))).astype(np.float32)
    side = lambda m: ArrayWindows(frames[m], delta[m], speaker[m], utterance[m], frames[m, -1])
    found = phase0({"all": (side(speaker < 12), side(speaker >= 12))}, (KeySpec("pool", "pool", None, 4),), repeats=2)
    held = found.rows[found.rows.split == "held"].sum(numeric_only=True)
    true = held.within / held.total
    assert true < .7 and held.within_rotated / held.total == pytest.approx(true, abs=.01)
    assert held.within_shuffled / held.total == pytest.approx(1, abs=.01)


def test_beyond_differencing_tells_linear_dynamics_from_differencing():
    rng = np.random.default_rng(12)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    def speak():
        z = [rng.normal(size=6)]
        for _ in range(700): z.append(.9 * turn @ z[-1] + .4 * rng.normal(size=6))
        return np.array(z)
    cut = lambda ids: windows_from([speak() for _ in ids], ids)
    for pair, low, high in (((cut(range(8)), cut(range(8, 16))), .2, .6), (independent(rng), -.02, .01)):
        found = phase0({"all": pair}, FEW, repeats=1)
        beyond = beyond_differencing(found.readers)
        assert low < beyond.value < high
        expected = "linear" if low > 0 else "differencing"
        assert structure_verdict(decide(found.rows.assign(lag=1), FEW), found.readers) == expected


def test_confidence_bins_share_the_frames_and_add_up():
    rng = np.random.default_rng(13)
    found = phase0({"all": planted(rng, rng.normal(size=(16, 10)))["all"]}, FEW, repeats=1)
    for key, curve in found.confidence.groupby("key"):
        rows = found.rows[(found.rows.split == "held") & (found.rows.key == key)]
        assert curve.within.sum() == pytest.approx(rows.within.sum()) and curve.frames.sum() == rows.frames.sum()
        assert np.allclose(curve.groupby("bin").frames.sum() / rows.frames.sum(), .1, atol=.02)
    for key, cells in found.cells.groupby("key"):
        facts = found.summary[found.summary.key == key].iloc[0]
        assert len(cells) == facts.cells_kept and cells.frames.sum() == facts.frames_train * (1 - facts.excluded_train)


def test_same_seed_same_numbers():
    rng = np.random.default_rng(14)
    slices = {"all": planted(rng, rng.normal(size=(16, 10)), speakers=8, n=600)["all"]}
    a, b = (phase0(slices, FEW, min_count=20, repeats=1, seed=3) for _ in range(2))
    assert a.rows.equals(b.rows) and a.readers.equals(b.readers)


def test_a_key_without_cells_fails_rather_than_crashes():
    rng = np.random.default_rng(15)
    found = phase0(planted(rng, np.zeros((16, 10)), speakers=4, n=90), FEW, min_count=1000, repeats=1)
    assert found.summary.excluded_train.eq(1).all() and len(found.rows) == 0
    with pytest.raises(ShapeError, match="no key kept a cell"): decide(found.rows, FEW)
    some = phase0(planted(rng, np.zeros((16, 10)), speakers=8, n=90), FEW, min_count=25, repeats=1)      # enough in "all", too few in slices
    assert {"all"} <= set(some.rows.slice)
    assert not decide(some.rows.assign(lag=1), FEW).passes.any()


def test_errors_say_what_to_do():
    rng = np.random.default_rng(16)
    good, _ = independent(rng, speakers=4, T=60)
    bad = ArrayWindows(good.frames, np.where(np.arange(len(good))[:, None] == 5, np.nan, good.delta), good.speaker, good.utterance, good.now)
    with pytest.raises(ShapeError, match="NaN"): phase0({"all": (bad, good)}, FEW)
    with pytest.raises(ShapeError, match="expected"): ArrayWindows(good.frames, good.delta[:-1], good.speaker, good.utterance, good.now)
    with pytest.raises(ShapeError, match="cannot fit the key"): phase0({"all": (good, good)}, KEYS)
    with pytest.raises(ParameterError, match="pool, flat or last"): fit_key(KeySpec("x", "median", None, 4), good.frames)
    with pytest.raises(ShapeError, match="longer recordings"): windows_from([np.zeros((5, 2))], [0])
    empty = ArrayWindows(*(getattr(good, f)[:0] for f in ("frames", "delta", "speaker", "utterance", "now")))
    with pytest.raises(ShapeError, match="no windows"): phase0({"all": (good, empty)}, FEW)
