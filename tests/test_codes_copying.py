"Copying: what a copy looks like, and that held-out files do not look like one."
import numpy as np
import pytest
from codes_toy import model

from audioengram.codes.copying import copy_report, nearest, pictures, run_overlap
from audioengram.core import ParameterError
from audioengram.data.corpora import synthesise

WAVS = [synthesise(1.5, i, 90 + 20 * i, rate=24_000) for i in range(4)]


def test_a_copied_window_is_found_whatever_its_level():
    m = model()
    known, where = pictures(m, WAVS)
    copy, _ = pictures(m, [.6 * WAVS[2][6144:18432]])
    d, i = nearest(copy[:1], known)
    other, _ = nearest(pictures(m, [synthesise(1.5, 77, 150, rate=24_000)])[0], known)
    assert where[i[0]][0] == 2 and d[0] < 3.5 and d[0] < .7 * np.median(other)      # dB; the floor of the picture moves with the level


def test_silence_is_not_compared():
    assert len(pictures(model(), [np.zeros(24_000, np.float32)])[0]) == 0
    with pytest.raises(ParameterError, match="no windows above silence"): nearest(np.zeros((0, 384)), np.zeros((3, 384)))


def test_overlap_of_runs():
    train = [np.arange(24).reshape(12, 2, 1) % 8]
    assert run_overlap([train[0][2:8]], train) == 1 and run_overlap([train[0][::-1]], train) == 0
    assert np.isnan(run_overlap([train[0][:3]], train))                               # shorter than a run


def test_a_report_needs_a_prior_and_counts_its_signs():
    with pytest.raises(ParameterError, match="has no prior"): copy_report(model(), WAVS[:2], WAVS[2:])
    report = copy_report(model(prior=True), WAVS[:2], WAVS[2:], seconds=2.)
    assert report.flagged == (report.signs.seen.sum() > 1) and set(report.signs.sign) == {"gap", "runs", "distance"}
    assert all(len(p["generated"]) <= 12_000 and p["file"] in (0, 1) for p in report.pairs) and set(report.distances.kind) == {"generated", "held out"}
