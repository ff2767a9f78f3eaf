"data.audio: everything that reads comes in whole, everything else is refused with a file and a remedy."
import builtins
import errno
import math
import pickle
import struct

import av
import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from audioengram.core import AudioError, DiskError, ParameterError
from audioengram.data import audio
from audioengram.data.audio import (
    audio_info,
    audio_tags,
    load_audio,
    loudness,
    match_loudness,
    read_audio,
    resample,
    save_audio,
)

RATE = 16_000
TIME = np.arange(RATE) / RATE
TONES = (0.3 * np.sin(2 * np.pi * 440 * TIME) + 0.2 * np.sin(2 * np.pi * 1234 * TIME)).astype(np.float32)


def encode(path, codec, container=None, rate=RATE, wav=TONES):
    "Write with FFmpeg what libsndfile cannot."
    with av.open(str(path), "w", format=container) as c:
        stream = c.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray((wav * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)): c.mux(packet)
    return path


def best_snr(got, want):
    "Signal to noise ratio in dB at the best alignment within 3000 samples (lossy codecs delay)."
    n = len(want) - 6000
    lags = np.correlate(got, want[3000:3000 + n], "valid")
    at = int(lags.argmax())
    piece, ref = got[at:at + n], want[3000:3000 + n]
    return 10 * np.log10((ref**2).sum() / (((piece - ref) ** 2).sum() + 1e-12))


# ---- what comes in

@pytest.mark.parametrize("suffix, subtype", [(".wav", "PCM_16"), (".wav", "PCM_24"), (".wav", "FLOAT"), (".wav", "PCM_U8"), (".wav", "ULAW"), (".flac", "PCM_16"),
                                             (".flac", "PCM_24"), (".ogg", "VORBIS"), (".opus", "OPUS"), (".mp3", "MPEG_LAYER_III"), (".aiff", "PCM_16"), (".w64", "PCM_16")])
def test_formats_of_libsndfile(tmp_path, suffix, subtype):
    path = tmp_path / f"a{suffix}"
    sf.write(path, TONES, RATE, subtype=subtype, format={".opus": "OGG"}.get(suffix))
    wav, rate = load_audio(path)
    assert (wav.dtype, wav.ndim, rate) == (np.float32, 1, RATE)
    assert audio_info(path).frames == len(wav) == RATE
    assert best_snr(wav, TONES) > 20


@pytest.mark.parametrize("name, codec, container, rate", [("a.m4a", "aac", None, RATE), ("a.g722", "g722", "g722", RATE), ("a.webm", "libopus", None, 48_000), ("a.mp4", "aac", None, 44_100)])
def test_formats_of_ffmpeg(tmp_path, name, codec, container, rate):
    path = encode(tmp_path / name, codec, container, rate)
    wav, own = load_audio(path, rate=RATE)
    assert own == RATE and wav.dtype == np.float32
    assert abs(len(wav) - RATE) < 0.2 * RATE
    assert best_snr(wav, TONES) > 12
    info = audio_info(path)
    assert info.rate == rate and info.channels == 1 and abs(info.seconds - 1) < 0.2


def test_upper_case_suffix_of_g722(tmp_path):
    path = encode(tmp_path / "a.g722", "g722", "g722")
    assert load_audio(path.rename(tmp_path / "A.G722"))[1] == RATE


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 128_000, 192_000])
def test_any_rate(tmp_path, rate):
    t = np.arange(rate) / rate
    sf.write(tmp_path / "a.wav", 0.4 * np.sin(2 * np.pi * 500 * t), rate, subtype="FLOAT")
    wav, own = load_audio(tmp_path / "a.wav", rate=16_000)
    assert (own, len(wav)) == (16_000, 16_000)
    assert np.abs(wav - 0.4 * np.sin(2 * np.pi * 500 * TIME))[400:-400].max() < 1e-3


def test_six_channels_are_averaged(tmp_path):
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (RATE, 6)).astype(np.float32)
    sf.write(tmp_path / "a.wav", x, RATE, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav")[0], x.sum(1) / 6, atol=1e-6)
    assert read_audio(tmp_path / "a.wav")[0].shape == (RATE, 6) and audio_info(tmp_path / "a.wav").channels == 6


def test_levels_beyond_full_scale_survive(tmp_path):
    sf.write(tmp_path / "a.wav", 3 * TONES, RATE, subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav")[0], 3 * TONES)


def test_streamed_wav_without_a_length(tmp_path):
    "A program that writes WAV to a pipe leaves 0xFFFFFFFF where the length belongs."
    save_audio(tmp_path / "a.wav", TONES, RATE)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    at = data.index(b"data") + 4
    data[4:8] = data[at:at + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(data)
    assert len(load_audio(tmp_path / "a.wav")[0]) == RATE


def test_other_chunks_before_and_after_data(tmp_path):
    save_audio(tmp_path / "a.wav", TONES, RATE)
    data = (tmp_path / "a.wav").read_bytes()
    at = data.index(b"data")
    junk = b"JUNK" + struct.pack("<I", 5) + b"12345\0"
    whole = data[:at] + junk + data[at:] + b"LIST" + struct.pack("<I", 4) + b"INFO"
    (tmp_path / "a.wav").write_bytes(whole[:4] + struct.pack("<I", len(whole) - 8) + whole[8:])
    assert len(load_audio(tmp_path / "a.wav")[0]) == RATE


def test_tags(tmp_path):
    with sf.SoundFile(tmp_path / "a.ogg", "w", RATE, 1) as f: f.artist = "Otger Mas"; f.write(TONES)
    assert audio_tags(tmp_path / "a.ogg")["artist"] == "Otger Mas"
    assert audio_tags(encode(tmp_path / "a.g722", "g722", "g722")) == {}


# ---- what is refused

def refusal(path):
    "The message, checked to name the file and to end in a remedy."
    with pytest.raises(AudioError) as e: load_audio(path)
    assert str(path) in str(e.value) and e.value.remedy and str(e.value).endswith(e.value.remedy)
    assert str(pickle.loads(pickle.dumps(e.value))) == str(e.value)
    return e.value.what


def put(path, data):
    path.write_bytes(data)
    return path


def test_empty_short_and_strange_files(tmp_path):
    assert "empty" in refusal(put(tmp_path / "empty.wav", b""))
    assert "empty" in refusal(put(tmp_path / "empty.g722", b""))
    for n, word in ((0, "0 samples"), (1, "1 sample,"), (80, "80 samples")):
        sf.write(tmp_path / f"{n}.wav", TONES[:n], RATE)
        assert word in refusal(tmp_path / f"{n}.wav")
    sf.write(tmp_path / "161.wav", TONES[:161], RATE)
    assert len(load_audio(tmp_path / "161.wav")[0]) == 161
    assert "not audio" in refusal(put(tmp_path / "text.wav", b"It was a dark and stormy night.\n" * 50))
    for suffix in ("flac", "ogg", "mp3", "m4a", "opus", "webm"):
        assert "not audio" in refusal(put(tmp_path / f"text.{suffix}", b"It was a dark and stormy night.\n" * 50)), suffix
    assert "folder" in refusal(tmp_path)
    assert "not found" in refusal(tmp_path / "nowhere.flac")
    assert "sound track" in refusal(_silent_film(tmp_path / "film.mp4"))


def _silent_film(path):
    with av.open(str(path), "w") as c:
        stream = c.add_stream("mpeg4", rate=10); stream.width = stream.height = 32; stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for packet in (*stream.encode(frame), *stream.encode(None)): c.mux(packet)
    return path


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(tmp_path, value):
    x = TONES.copy(); x[777] = value
    sf.write(tmp_path / "a.wav", x, RATE, subtype="FLOAT")
    assert "NaN or infinite" in refusal(tmp_path / "a.wav")
    sf.write(tmp_path / "b.wav", np.stack([TONES, x], 1), RATE, subtype="FLOAT")  # also in one channel of several
    assert "NaN or infinite" in refusal(tmp_path / "b.wav")


@pytest.mark.parametrize("error, word", [(PermissionError(errno.EACCES, "Permission denied"), "may not be read"), (OSError(errno.EIO, "Input/output error"), "Input/output error")])
def test_unreadable(tmp_path, monkeypatch, error, word):
    "Simulated, since root may read everything."
    save_audio(tmp_path / "a.wav", TONES, RATE)
    real = builtins.open
    def refuse(file, *a, **k):
        if str(file) == str(tmp_path / "a.wav"): raise error
        return real(file, *a, **k)
    monkeypatch.setattr(builtins, "open", refuse)
    assert word in refusal(tmp_path / "a.wav")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "The same second in several formats, as bytes."
    d = tmp_path_factory.mktemp("whole")
    noisy = np.clip(TONES + 0.05 * np.random.default_rng(0).standard_normal(RATE), -1, 1).astype(np.float32)
    for s in ("wav", "flac", "ogg", "mp3"): save_audio(d / f"a.{s}", np.tile(noisy, 4), RATE)
    sf.write(d / "f.wav", noisy, RATE, subtype="FLOAT")
    encode(d / "a.m4a", "aac"); encode(d / "a.webm", "libopus", rate=48_000)
    return {p.name: p.read_bytes() for p in d.iterdir()}


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0.001, 0.999), name=st.sampled_from(["a.wav", "f.wav", "a.flac"]))
def test_any_cut_of_wav_and_flac_is_noticed(whole, tmp_path_factory, share, name):
    data = whole[name]
    cut = max(1, int(share * len(data)))
    refusal(put(tmp_path_factory.mktemp("cut") / name, data[:cut]))


def test_a_few_bytes_missing_at_the_end(whole, tmp_path):
    for name in ("a.flac", "a.wav", "f.wav"):
        for n in (1, 2, 4, 40):
            if name == "a.wav" and n == 1: continue  # half a 16-bit sample: nothing to hear is lost, and libsndfile rounds down
            assert "truncated" in refusal(put(tmp_path / name, whole[name][:-n])), (name, n)


@pytest.mark.parametrize("name", ["a.mp3", "a.ogg", "a.m4a", "a.webm"])
def test_a_cut_in_the_middle_of_other_formats(whole, tmp_path, name):
    assert refusal(put(tmp_path / name, whole[name][:len(whole[name]) * 6 // 10]))


def test_damage_in_the_middle_of_a_flac(whole, tmp_path):
    data = bytearray(whole["a.flac"])
    data[len(data) // 2:len(data) // 2 + 2000] = bytes(2000)
    refusal(put(tmp_path / "a.flac", bytes(data)))


# ---- resampling

@settings(max_examples=30, deadline=None)
@given(rate=st.integers(4_000, 96_000), n=st.integers(400, 4_000))
def test_resampled_length_and_level(rate, n):
    x = np.sin(2 * np.pi * 200 * np.arange(n) / 16_000).astype(np.float32)
    y = resample(x, 16_000, rate)
    assert y.dtype == np.float32 and abs(len(y) - n * rate / 16_000) <= 1
    assert np.abs(y).max() < 1.2


def test_resample_checks_rates_and_copies_nothing_away():
    np.testing.assert_array_equal(resample(TONES, RATE, RATE), TONES)
    for bad in (0, -8_000, 22_050.5):
        with pytest.raises(ParameterError): resample(TONES, RATE, bad)
    stereo = np.stack([TONES, -TONES], 1)
    np.testing.assert_allclose(resample(stereo, RATE, 8_000).sum(1), 0, atol=1e-6)


# ---- loudness

def test_loudness_against_the_standard():
    "BS.1770-4: a 997 Hz sine of 0 dB FS in one channel reads -3.01 LUFS; 20 dB less reads 20 LU less; silence in between is gated away."
    sine = np.sin(2 * np.pi * 997 * np.arange(10 * 48_000) / 48_000)
    assert loudness(sine, 48_000) == pytest.approx(-3.01, abs=0.01)
    assert loudness(0.1 * sine, 48_000) == pytest.approx(-23.01, abs=0.01)
    gap = np.concatenate([0.1 * sine, np.zeros(20 * 48_000)])
    assert loudness(gap, 48_000) == pytest.approx(-23.01, abs=0.2)   # without gating it would read -27.8
    for rate in (8_000, 16_000, 22_050, 24_000, 44_100):
        assert loudness(np.sin(2 * np.pi * 997 * np.arange(5 * rate) / rate), rate) == pytest.approx(-3.01, abs=0.06)


@pytest.mark.parametrize("n", [1, 160, 1_600, 6_399, 6_400, 6_401, 16_000])
def test_loudness_of_short_clips(n):
    assert math.isfinite(loudness(TONES[:n], RATE)) or n == 1
    if n >= 1_600: assert loudness(TONES[:n], RATE) == pytest.approx(loudness(TONES, RATE), abs=1)


def test_loudness_of_nothing():
    assert loudness(np.zeros(0), RATE) == loudness(np.zeros(RATE), RATE) == loudness(1e-6 * TONES, RATE) == -math.inf
    np.testing.assert_array_equal(match_loudness(np.zeros(100), RATE), np.zeros(100))


@settings(max_examples=30, deadline=None)
@given(level=st.floats(-50, 20), target=st.floats(-40, -6))
def test_match_loudness_hits_or_stops_at_full_scale(level, target):
    x = match_loudness((10 ** (level / 20) * TONES).astype(np.float32), RATE, target)
    assert x.dtype == np.float32 and np.abs(x).max() <= 1 + 1e-6
    assert loudness(x, RATE) == pytest.approx(target, abs=0.02) or np.abs(x).max() == pytest.approx(1, abs=1e-5)


# ---- writing

def test_save_refuses_what_no_file_should_hold(tmp_path):
    with pytest.raises(AudioError, match="suffix"): save_audio(tmp_path / "a.m4a", TONES, RATE)
    with pytest.raises(AudioError, match="NaN"): save_audio(tmp_path / "a.wav", TONES * np.nan, RATE)
    with pytest.raises(AudioError, match="cannot be written"): save_audio(tmp_path / "a.opus", TONES, 44_100)  # Opus knows five rates
    assert list(tmp_path.iterdir()) == []


def test_save_clips_instead_of_wrapping(tmp_path):
    save_audio(tmp_path / "a.wav", 4 * TONES, RATE)
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav")[0], np.clip(4 * TONES, -1, 1), atol=1e-4)


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    save_audio(tmp_path / "a.wav", TONES, RATE)
    before = (tmp_path / "a.wav").read_bytes()
    def full(file, *_, **__):
        with open(file, "wb") as f: f.write(b"RIFF")
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(audio.sf, "write", full)
    with pytest.raises(DiskError, match="the disk is full"): save_audio(tmp_path / "a.wav", -TONES, RATE)
    assert (tmp_path / "a.wav").read_bytes() == before and len(list(tmp_path.iterdir())) == 1
