"Speech measures: known answers, order under noise, what is refused, what is undefined, what is missing."
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from audioengram.core import AudioError, MissingDependency, ParameterError, ShapeError
from audioengram.measure import speech
from audioengram.measure.speech import (
    MEASURES,
    RATE,
    Undefined,
    check_pair,
    is_sound,
    measure_table,
    mel_distance,
    pick_measures,
    si_sdr,
    speech_scores,
)


@pytest.fixture(scope="module")
def voice():
    "Two seconds of syllables: a harmonic sound under a moving envelope, with a pause."
    t = np.arange(2 * RATE) / RATE
    hum = sum(np.sin(2 * np.pi * 140 * k * t + k) / k for k in range(1, 25))
    envelope = np.clip(np.sin(2 * np.pi * 3 * t), 0, 1) * (t < 1.7)
    return (.1 * hum * envelope + 1e-3 * np.random.default_rng(0).standard_normal(len(t))).astype(np.float32)


def noise(like, seed=1): return (np.random.default_rng(seed).standard_normal(len(like)) * like.std()).astype(np.float32)


def tone(hz, seconds=1.5):
    t = np.arange(round(seconds * RATE)) / RATE
    return (.1 * sum(np.sin(2 * np.pi * hz * k * t) / k for k in range(1, 12))).astype(np.float32)


def test_a_perfect_copy_has_the_best_score_of_every_measure(voice):
    row, worse = (speech_scores(voice, x, RATE, m, names="copy").iloc[0] for x, m in ((voice, None), (voice + .1 * noise(voice), ["visqol"])))
    best = dict(stoi=1, estoi=1, pesq_wb=4.64, speaker_cosine=1, f0_cents=0, f0_gross=0, voicing_error=0, mel_db=0)
    assert row[list(best)].astype(float).to_dict() == pytest.approx(best, abs=.01)
    assert worse.visqol + .3 < row.visqol <= 5 and 1 <= row.dnsmos <= 5 and row.si_sdr > 100 and row.notes == "" and row.seconds == 2


def test_more_noise_is_never_better(voice):
    levels = (40, 20, 0)
    df = speech_scores([voice] * 3, [voice + noise(voice) * np.float32(10 ** (-db / 20)) for db in levels], RATE,
                       ("stoi", "pesq", "speaker", "mel", "si_sdr"), names=levels)
    assert list(df.utterance) == list(levels)
    for c in ("stoi", "estoi", "pesq_wb", "speaker_cosine", "si_sdr"): assert df[c].is_monotonic_decreasing, c
    assert df.mel_db.is_monotonic_increasing and df.si_sdr.tolist() == pytest.approx(levels, abs=.3)
    assert "visqol" not in df and df.attrs["unavailable"] == {}


def test_stoi_is_its_package_s_and_si_sdr_the_ratio_of_orthogonal_parts(voice):
    import pystoi
    x, y = voice, voice + .2 * noise(voice)
    row = speech_scores(x, y, RATE, "stoi").iloc[0]
    assert row.stoi == pytest.approx(pystoi.stoi(x, y, RATE)) and row.estoi == pytest.approx(pystoi.stoi(x, y, RATE, extended=True))
    x, n = np.random.default_rng(0).standard_normal((2, RATE))
    x, n = x - x.mean(), n - n.mean()
    n -= (n @ x) / (x @ x) * x
    for db in (-10., 0., 35.):
        y = x + n * np.linalg.norm(x) / np.linalg.norm(n) * 10 ** (-db / 20)
        assert si_sdr(np.stack([x, x]), np.stack([y, -3 * y + 1])) == pytest.approx([db, db], abs=1e-6)   # batched; neither scale, sign nor offset counts


@pytest.mark.parametrize("gain", [.5, .1])
def test_mel_distance_of_a_gain_is_the_gain(gain):
    x = np.random.default_rng(0).standard_normal(RATE)
    assert mel_distance(x, gain * x) == pytest.approx(-20 * np.log10(gain), abs=1e-3)


@pytest.mark.parametrize("cents", [0, 50, 200, 1200])
def test_pitch_error_is_the_interval(cents):
    row = speech_scores(tone(130), tone(130 * 2 ** (cents / 1200)), RATE, "f0").iloc[0]
    assert row.f0_cents == pytest.approx(cents, abs=8) and row.f0_gross == pytest.approx(float(cents > 316), abs=.05) and row.voicing_error < .05


def test_the_voice_of_another_speaker_is_further_away(librispeech_root):
    import soundfile as sf
    files = sorted(librispeech_root.glob("train-clean-100/*/*/*.flac"))[:3]
    one, two, three = (sf.read(f, dtype="float32")[0][:6 * RATE] for f in files)
    df = speech_scores([one, one, one], [one[::-1].copy()[::-1] * .3, two, three], RATE, "speaker")
    assert df.speaker_cosine[0] > .99 and (df.speaker_cosine[1:] < .9).all()


@pytest.mark.parametrize("change, error, says", [
    (lambda x: x[:4000], AudioError, "lasts 0.25 s"), (lambda x: x * 0, AudioError, "is silent"), (lambda x: x * np.nan, AudioError, "NaN or infinite"),
    (lambda x: np.where(np.arange(len(x)) == 9, np.inf, x), AudioError, "NaN or infinite"), (lambda x: x[:-160], AudioError, "holds 32000 samples, the degraded sound 31840"),
    (lambda x: (x * 32767).astype(np.int16), AudioError, "int16 samples"), (lambda x: x[None], ShapeError, "expected [S]")])
@pytest.mark.parametrize("which", [0, 1])
def test_what_cannot_be_compared_is_refused_by_name(voice, change, error, says, which):
    pair = [voice, change(voice)][:: -1 if which else 1]
    if which: says = says.replace("holds 32000 samples, the degraded sound 31840", "holds 31840 samples, the degraded sound 32000")
    with pytest.raises(error, match=says.replace("[", r"\[")) as e: speech_scores(*pair, RATE, "mel", names="utt-7")
    assert "utt-7" in str(e.value) and ("degraded" in str(e.value) if not which else "reference" in str(e.value))


def test_one_silent_clip_does_not_end_a_table(voice):
    df = speech_scores([voice, voice, voice], [voice, voice * 0, voice * .5], RATE, ("mel", "si_sdr"), names=["a", "b", "c"])
    assert df.utterance.tolist() == ["a", "b", "c"] and df.mel_db.isna().tolist() == [False, True, False]
    assert "silent" in df.notes[1] and df.notes[0] == df.notes[2] == "" and df.seconds[1] == 2
    with pytest.raises(AudioError, match="silent"): speech_scores([voice, voice], [voice * 0, voice * 0], RATE, "mel")


def test_other_rates_are_brought_to_16_khz(voice):
    import soxr
    there = soxr.resample(voice, RATE, 24_000)
    row = speech_scores(there, there, 24_000, ("stoi", "mel")).iloc[0]
    assert row.seconds == pytest.approx(2, abs=.001) and row.stoi == pytest.approx(1) and row.mel_db == 0
    a, b = check_pair(torch.from_numpy(there), there, 24_000)
    assert a.dtype == b.dtype == np.float32 and np.abs(a - voice)[800:-800].max() < .02


def test_what_has_no_value_is_nan_and_says_why(voice):
    click = np.zeros_like(voice); click[:40] = .5                       # 2.5 ms of sound in two seconds
    df = speech_scores([click, noise(voice)], [click, tone(120, 2.)], RATE, ("stoi", "f0", "mel"), names=["click", "hiss"])
    assert np.isnan(df.stoi[0]) and "stoi: less than 0.4 s" in df.notes[0] and df.mel_db[0] == 0
    assert np.isnan(df.f0_cents[1]) and df.voicing_error[1] > .9 and "f0: no frame is voiced in both" in df.notes[1] and not np.isnan(df.stoi[1])
    again = pickle.loads(pickle.dumps(Undefined("x")))
    assert str(again) == "x" and again.kept == {}


def test_missing_packages_are_named_and_never_dropped_in_silence(voice, monkeypatch):
    monkeypatch.setitem(MEASURES, "visqol", replace(MEASURES["visqol"], modules=("visqol_of_nowhere",)))
    for other in ("pesq", "dnsmos", "speaker", "f0", "stoi"): monkeypatch.delitem(MEASURES, other)
    with pytest.raises(MissingDependency, match=r'visqol_of_nowhere.*pip install "audioengram\[metrics\]"'): speech_scores(voice, voice, RATE, "visqol")
    with pytest.warns(UserWarning, match="visqol is left out: visqol_of_nowhere not installed"): df = speech_scores(voice, voice, RATE)
    assert df.attrs["unavailable"] == {"visqol": ["visqol_of_nowhere"]} and {"mel_db", "si_sdr"} < set(df) and "visqol" not in df
    table = measure_table().set_index("measure")
    assert table.missing["visqol"] == "visqol_of_nowhere" and table.missing["mel"] == ""
    assert pick_measures() == (("mel", "si_sdr"), {"visqol": ("visqol_of_nowhere",)})


def test_wrong_calls_are_refused(voice):
    with pytest.raises(ParameterError, match="unknown measure 'moss'"): speech_scores(voice, voice, RATE, ["mel", "moss"])
    with pytest.raises(ParameterError, match="do not belong together"): speech_scores([voice], [voice, voice], RATE, "mel")


def test_nothing_heavy_is_imported_before_it_is_asked_for():
    heavy = ("pystoi", "pesq", "visqol", "speechmos", "onnxruntime", "resemblyzer", "swift_f0", "transformers")
    code = f"import sys, audioengram.measure.speech as s; s.measure_table(); print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_every_measure_keeps_its_promise_of_columns(voice):
    for name, m in MEASURES.items():
        if name in ("visqol", "dnsmos"): continue                       # covered by the perfect copy, and slow
        assert set(m.run(voice, voice)) == set(m.columns), name
    assert set(speech.MEASURES["dnsmos"].columns) == {"dnsmos", "dnsmos_sig", "dnsmos_bak", "dnsmos_p808"}


def test_round_trip_of_a_codec_that_changes_nothing_is_sound():
    import pandas as pd
    rows = pd.DataFrame([dict(way=w, mel=m) for w, m in (("continuous", 3.), ("elsewhere", 8.), ("quantised 8", 2.9))])
    assert is_sound(rows) and not is_sound(rows, slack=.02)
    assert not is_sound(rows.assign(mel=[5., 8., 6.]))
