"Copying: what a copy looks like, that held-out files do not look like one, and that the stated rate of false alarms is kept."
import numpy as np
import pytest
from codes_toy import model
from hypothesis import given, settings
from hypothesis import strategies as st

from audioengram.codes.copying import ALARM, allowance, bits_saved, copy_report, cut, nearest, run_overlap, sign
from audioengram.codes.prior import PriorConfig, fit_prior
from audioengram.core import ParameterError
from audioengram.data.voices import synthesise

WAVS = [synthesise(1.5, i, 90 + 20 * i, rate=24_000) for i in range(4)]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 80))
def test_the_allowance_keeps_the_rate_whatever_the_numbers(n, m):
    rank, k = allowance(n, m)
    draws = np.random.default_rng(n + 99 * m).exponential(size=(4000, n + m))
    beyond = (draws[:, :n] > np.sort(draws[:, n:], 1)[:, [-rank]]).sum(1)
    if k is None: assert (beyond == n).mean() > .6 * ALARM / 3                          # even all of them would come by chance too often
    else: assert (beyond >= k).mean() < ALARM / 3 + 4 * np.sqrt(ALARM / 3 / 4000)


def test_a_sign_is_a_count_and_for_the_gap_a_majority():
    rng = np.random.default_rng(0)
    new, old = rng.normal(size=40), np.r_[rng.normal(size=15), np.full(5, 9.)]          # five of twenty stand out
    assert sign("runs", old, new)["seen"] and sign("runs", old, new)["beyond"] >= 5 and not sign("gap", old, new, most=True)["seen"]
    assert sign("gap", new[:20] + 9, new, most=True)["seen"] and not sign("gap", new[:5] + 99, new[:2], most=True)["seen"]     # two files tell nothing
    assert not sign("runs", np.ones(20), np.ones(40))["seen"]                           # ties are not beyond


def test_a_copied_window_is_found_whatever_its_level():
    near = nearest(model(), [.6 * WAVS[2][6144:18432], synthesise(1.5, 77, 150, rate=24_000)], WAVS).set_index("piece")
    assert near.file[0] == 2 and near.distance[0] < 3.5 and near.distance[0] < .7 * near.distance[1]      # dB; the floor of the picture moves with the level
    own = nearest(model(), [WAVS[2]], WAVS, own=[2])
    assert own.file[0] != 2 and own.distance[0] > near.distance[0]


def test_silence_is_not_compared():
    with pytest.raises(ParameterError, match="no windows above silence"): nearest(model(), [np.zeros(24_000, np.float32)], WAVS)
    assert list(nearest(model(), [np.zeros(24_000, np.float32), WAVS[0]], WAVS).piece) == [1]


def test_overlap_of_runs():
    train = [np.arange(24).reshape(12, 2, 1) % 8, np.zeros((9, 2, 1), int)]
    assert run_overlap([train[0][2:8], train[0][::-1], train[0][:3], np.zeros((9, 2, 1))], train).tolist() == [1, 0, 0, 0]      # shorter than a run; silence
    assert run_overlap([train[0]], train, own=[0]) == 0 and run_overlap([train[0]], [*train, train[0]], own=[0]) == 1


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(1, 12))
def test_pieces_are_cut_whole(lengths, size):
    grids = [np.arange(n).reshape(n, 1, 1) for n in lengths]
    pieces, own = cut(grids, size)
    assert all(len(p) == min(size, lengths[i]) for p, i in zip(pieces, own, strict=True)) and [own.count(i) for i in range(len(grids))] == [max(1, n // size) for n in lengths]


def test_bits_saved_do_not_count_the_file_itself():
    rng = np.random.default_rng(0)
    grids = [rng.integers(0, 4, (20, 1, 1)) + 4 * (i == 0) for i in range(4)]           # the first has codes of its own
    p = fit_prior(grids, grids, PriorConfig(8, 1, 1, hidden=16, layers=1, heads=2, window=16), steps=3, patience=0, show=False)
    saved = bits_saved(p, grids, grids, own=[0, 1, 2, 3]) - bits_saved(p, grids, grids)
    assert saved[0] > 1.5 and abs(saved[1:]).max() < .5


def test_who_knows_files_by_heart_is_flagged_and_who_learnt_little_is_not():
    rng = np.random.default_rng(0)
    tunes = [synthesise(1., i, 90 + 9 * i, rate=24_000) for i in range(14)]
    learnt, unheard = tunes[:4], tunes[4:]
    grids = [model().encode(w) for w in learnt]
    shape = PriorConfig(8, 3, 4, hidden=32, layers=1, window=120)
    by_heart, novice = (fit_prior(grids, grids, shape, steps=n, patience=0, dropout=0., batch=4, lr=4e-3, show=False) for n in (200, 5))
    bad, good = (copy_report(model(), learnt, unheard, seconds=5., prior=p, seed=int(rng.integers(99))) for p in (by_heart, novice))
    assert bad.flagged and bad.signs.set_index("sign").seen["gap"] and not good.flagged and good.sentence.startswith("It composes")


def test_a_report_needs_a_prior_and_says_what_it_cannot_tell():
    with pytest.raises(ParameterError, match="has no prior"): copy_report(model(), WAVS[:2], WAVS[2:])
    report = copy_report(model(prior=True), WAVS[:2], WAVS[2:3], seconds=2.)
    assert report.flagged == bool(report.signs.seen.any()) and set(report.signs.sign) == {"gap", "runs", "distance"}
    assert np.isnan(report.signs.needed[0]) and "too few files to judge by gap" in report.sentence
    assert all(len(p["generated"]) <= 12_000 and p["file"] in (0, 1) for p in report.pairs) and set(report.distances.kind) == {"generated", "unheard"}
