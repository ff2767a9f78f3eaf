"Stimuli: pairs alike but in time or phase; ablations take away what they say; words and corpora's folders."
import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audioengram.core import CorpusError, ParameterError, ShapeError
from audioengram.data.corpora import get_corpus
from audioengram.data.voices import synthesise
from audioengram.ember.tasks import (
    BANDS,
    TASKS,
    ablate,
    excerpt,
    gap_pair,
    level,
    make_pairs,
    micro_pair,
    order_pair,
    phase_pair,
    read_msp_improv,
    read_ravdess,
    scatter_spikes,
    smooth,
)
from audioengram.ember.words import TOKENS, VOCABULARY, attributes, describe, to_tokens

RATE = 16_000


@pytest.fixture(scope="module")
def speech(): return excerpt(synthesise(1.2, seed=3, pitch=130).astype(np.float32))


def test_an_excerpt_is_the_loudest_stretch():
    x = np.random.default_rng(0).standard_normal(20_000).astype(np.float32) * .01
    x[9000:17_000] *= 20
    assert np.array_equal(excerpt(x), x[9000:17_000])
    for bad, why in ((np.zeros(9000), "silent"), (np.ones(9000), "silent"), (np.zeros(10), "too short"), (np.full(9000, np.inf), "infinite")):
        with pytest.raises(ShapeError, match=why): excerpt(bad)
    assert np.isfinite(level(np.clip(x * 100, -1, 1))).all()     # clipped input is levelled like any other


@pytest.mark.parametrize("task", ["order", "gap", "phase"])
def test_pairs_have_the_same_spectrum_level_and_length(task, speech):
    "A long-term spectrum cannot tell the classes apart: over many draws it is the same."
    spectra = []
    for seed in range(12):
        a, b = TASKS[task](speech, np.random.default_rng(seed))
        assert a.shape == b.shape == speech.shape and np.isfinite([a, b]).all() and np.sqrt(np.mean(a**2)) == pytest.approx(np.sqrt(np.mean(b**2)), rel=.02)
        spectra.append([np.log(scipy.signal.welch(x, RATE, nperseg=256)[1] + 1e-9) for x in (a, b)])
    apart = np.mean(spectra, 0)
    assert np.abs(apart[0] - apart[1]).mean() < .35


def test_order_and_gap_are_where_they_should_be(speech):
    low = scipy.signal.butter(3, BANDS[0], "bandpass", fs=RATE, output="sos")
    high = scipy.signal.butter(3, BANDS[1], "bandpass", fs=RATE, output="sos")
    centre = lambda sos, x: (lambda e: (np.arange(len(e)) @ e) / e.sum())(np.abs(scipy.signal.hilbert(scipy.signal.sosfiltfilt(sos, x)))**4)
    first, second = order_pair(speech, np.random.default_rng(0), gap=.04)
    assert centre(high, first) - centre(low, first) == pytest.approx(.04 * RATE, abs=200) and centre(low, second) - centre(high, second) == pytest.approx(.04 * RATE, abs=200)
    split, whole = gap_pair(speech, np.random.default_rng(0), gap=.012)
    quietest = lambda x: (lambda e: min(e[k:k + 120].mean() for k in range(int(np.argmax(e > .3 * e.max())) + 400, len(e) - int(np.argmax(e[::-1] > .3 * e.max())) - 520, 20)) / e.max())(np.abs(x))
    assert quietest(split) < .5 * quietest(whole)


def test_phase_pair_leads_and_lags(speech):
    found = []
    for x in phase_pair(speech, np.random.default_rng(1), hz=12.):
        a, b = (np.abs(scipy.signal.hilbert(scipy.signal.sosfiltfilt(scipy.signal.butter(3, band, "bandpass", fs=RATE, output="sos"), x))) for band in BANDS)
        w = np.exp(-2j * np.pi * 12 * np.arange(len(x)) / RATE)
        found.append(np.angle((w @ (b - b.mean())) / (w @ (a - a.mean()))))
    assert found[0] == pytest.approx(np.pi / 2, abs=.5) and found[1] == pytest.approx(-np.pi / 2, abs=.5)


def test_micro_pair_keeps_pitch_and_level_and_takes_irregularity(speech):
    pytest.importorskip("pyworld")
    kept, calm = micro_pair(speech, least=.3)
    a, b = attributes(kept), attributes(calm)
    assert abs(a["loudness"] - b["loudness"]) < .5 and abs(np.log2(a["pitch"] / b["pitch"])) < .05
    rough = lambda x: np.mean(np.abs(np.diff(np.log(scipy.signal.stft(x, RATE, nperseg=256, noverlap=192)[2].__abs__() + 1e-4), axis=1)))
    assert rough(calm) < rough(kept)
    hiss = scipy.signal.sosfilt(scipy.signal.butter(8, 2000, "high", fs=RATE, output="sos"), np.random.default_rng(0).standard_normal(8000)) * .1
    with pytest.raises(ShapeError, match="voiced"): micro_pair(hiss, least=.9)


def test_smoothing_keeps_constants_and_means():
    assert np.allclose(smooth(np.ones((50, 3)), 11), 1)
    assert smooth(np.eye(1, 51, 25)[0], 11).sum() == pytest.approx(1)


@pytest.mark.parametrize("kind", ["phase", "shuffle", "spectrum"])
def test_ablations_keep_level_and_take_structure(kind, speech):
    y = ablate(speech, kind, 1)
    assert len(y) == len(speech) and np.sqrt(np.mean(y**2)) == pytest.approx(np.sqrt(np.mean(speech**2)), rel=.02)
    assert abs(np.corrcoef(speech, y)[0, 1]) < .5 and not np.array_equal(y, ablate(speech, kind, 2)) and np.array_equal(y, ablate(speech, kind, 1))
    with pytest.raises(ParameterError): ablate(speech, "x")


@settings(max_examples=25, deadline=None)
@given(bins=st.integers(1, 50), rate=st.floats(0, .6), seed=st.integers(0, 99))
def test_redrawn_spikes_keep_every_count(bins, rate, seed):
    grid = (torch.rand(2, 3, 130, generator=torch.Generator().manual_seed(seed)) < rate).float() * 2
    out, n = scatter_spikes(grid, bins, seed), 130 // bins * bins
    assert torch.equal(out[..., :n].unflatten(-1, (-1, bins)).sum(-1), grid[..., :n].unflatten(-1, (-1, bins)).sum(-1)) and torch.equal(out[..., n:], grid[..., n:])


def test_pairs_come_in_twos_from_many_speakers():
    corpus = get_corpus("synthetic", n_speakers=4, n_utterances=3, seconds=.8, show=False)
    clips, table, tried = make_pairs(corpus, corpus.utterances.utterance_id, "order", 5, seed=1)
    assert clips.shape == (10, 8000) and tried >= 5 and table.speaker.nunique() == 4
    assert (table.groupby("pair").label.apply(list).map(tuple) == (0, 1)).all() and (table.groupby("pair").speaker.nunique() == 1).all()
    again, _, _ = make_pairs(corpus, corpus.utterances.utterance_id, "order", 5, seed=1)
    assert np.array_equal(clips, again)
    with pytest.raises(CorpusError, match="no pair"): make_pairs(corpus, corpus.utterances.utterance_id, "order", 5, keep=lambda a, b: False)
    with pytest.raises(ParameterError, match="unknown task"): make_pairs(corpus, [], "x", 1)


def test_descriptions_cover_the_vocabulary_and_survive_odd_sounds():
    assert len(TOKENS) == len(set(TOKENS)) == sum(len(w) for _, w in VOCABULARY.values()) and all(len(e) + 1 == len(w) for e, w in VOCABULARY.values())
    for x in (np.zeros(4000), np.ones(4000), np.sign(np.sin(np.arange(8000))), np.random.default_rng(0).standard_normal(1600)):
        words = describe(x)
        assert [k for k, _ in words] == list(VOCABULARY) and all(0 <= t < len(TOKENS) for t in to_tokens(words))
    tone = np.sin(2 * np.pi * 200 * np.arange(8000) / RATE)
    assert attributes(tone)["pitch"] == pytest.approx(200, rel=.02) and attributes(tone)["brightness"] == pytest.approx(200, rel=.05)
    with pytest.raises(ShapeError, match="0.1 s"): describe(np.zeros(99))
    with pytest.raises(ShapeError, match="NaN"): describe(np.full(4000, np.nan))


def test_recorded_affect_is_read_by_its_layout(tmp_path):
    for name in ("Actor_01/03-01-06-01-02-02-01.wav", "Actor_02/03-01-02-02-01-01-02.wav", "Actor_02/01-01-02-02-01-01-02.wav"):
        (tmp_path / "ravdess" / name).parent.mkdir(parents=True, exist_ok=True); (tmp_path / "ravdess" / name).touch()
    t = read_ravdess(tmp_path / "ravdess")
    assert t[["speaker", "sex", "emotion", "intensity", "statement", "repetition"]].values.tolist() == [["ravdess:01", "M", "fearful", 1, 2, 2], ["ravdess:02", "F", "calm", 2, 1, 1]]
    (tmp_path / "ravdess/Actor_02/take.wav").touch()
    with pytest.raises(CorpusError, match="take.wav"): read_ravdess(tmp_path / "ravdess")
    for name in ("session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.wav", "session1/S01A/R/MSP-IMPROV-S01A-M01-R-MM02.wav", "session2/S12N/T/MSP-IMPROV-S12N-F03-T-MF03.wav"):
        (tmp_path / "msp" / name).parent.mkdir(parents=True, exist_ok=True); (tmp_path / "msp" / name).touch()
    t = read_msp_improv(tmp_path / "msp")
    assert t[["speaker", "sentence", "emotion", "condition", "label"]].values.tolist() == [["msp:F01", "S01", "angry", "natural", 1], ["msp:M01", "S01", "angry", "read", 0], ["msp:F03", "S12", "neutral", "target improvised", 0]]
    for read in (read_ravdess, read_msp_improv):
        with pytest.raises(CorpusError, match="holds no"): read(tmp_path / "nowhere")
