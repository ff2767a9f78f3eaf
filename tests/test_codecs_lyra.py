"Lyra beyond the contract: its files, its hidden state, exact frames, codes, and speech through the real weights."
import shutil

import numpy as np
import pytest
import soundfile as sf
import torch

from audioengram.codecs import get_codec
from audioengram.codecs.lyra import LYRA_FILES, Lyra, lyra_files, new_interpreter, stream
from audioengram.core import CodecError
from audioengram.measure.speech import is_sound, round_trip_check


@pytest.fixture(scope="module")
def lyra(lyra_dir):
    pytest.importorskip("ai_edge_litert")
    return Lyra(lyra_dir)


@pytest.fixture(scope="module")
def speech(librispeech_root):
    "Four seconds of each of six LibriSpeech speakers, [6,64000]."
    files = sorted(librispeech_root.glob("train-clean-100/*/*/*.flac"))[::45][:6]
    return torch.stack([torch.from_numpy(sf.read(f, dtype="float32")[0][16_000:80_000]) for f in files])


def test_missing_weights_say_where_to_get_them(monkeypatch, tmp_path):
    monkeypatch.delenv("AUDIOENGRAM_LYRA", raising=False)
    with pytest.raises(CodecError, match="lyra/model_coeffs of https://github.com/google/lyra.*AUDIOENGRAM_LYRA"): get_codec("lyra")
    with pytest.raises(CodecError, match="holds no soundstream_encoder.tflite and no lyragan.tflite"): get_codec("lyra", weights_dir=tmp_path)
    monkeypatch.setenv("AUDIOENGRAM_LYRA", str(tmp_path / "nowhere"))
    with pytest.raises(CodecError, match="nowhere"): get_codec("lyra")


def test_the_environment_names_the_folder(lyra, lyra_dir, monkeypatch):
    monkeypatch.setenv("AUDIOENGRAM_LYRA", str(lyra_dir))
    assert get_codec("lyra").fingerprint == lyra.fingerprint


def test_damaged_and_exchanged_files(lyra_dir, tmp_path):
    for name in LYRA_FILES.values(): shutil.copyfile(lyra_dir / name, tmp_path / name)
    content = (tmp_path / LYRA_FILES["encoder"]).read_bytes()
    (tmp_path / LYRA_FILES["encoder"]).write_bytes(content[:1000])
    with pytest.raises(CodecError, match="encoder cannot be loaded"): Lyra(tmp_path)
    shutil.copyfile(tmp_path / LYRA_FILES["decoder"], tmp_path / LYRA_FILES["encoder"])
    with pytest.raises(CodecError, match="not Lyra v2's weights"): Lyra(tmp_path)


def test_the_fingerprint_is_of_the_weights(lyra, lyra_dir, tmp_path):
    for name in LYRA_FILES.values(): shutil.copyfile(lyra_dir / name, tmp_path / name)
    assert Lyra(tmp_path).fingerprint == lyra.fingerprint      # wherever they lie, with or without the quantizer
    (tmp_path / LYRA_FILES["decoder"]).write_bytes((lyra_dir / LYRA_FILES["decoder"]).read_bytes() + b"\0")
    assert Lyra(tmp_path).fingerprint != lyra.fingerprint


@pytest.mark.parametrize("samples,frames", [(320, 1), (639, 1), (640, 2), (64_000, 200), (16_319, 50)])
def test_frames_are_whole_and_tails_are_dropped(lyra, speech, samples, frames):
    z = lyra.encode(speech[:1, :samples])
    assert z.shape[1] == lyra.frames(samples) == frames and lyra.decode(z).shape[1] == frames * 320
    assert torch.equal(z, lyra.encode(speech[:1])[:, :frames])  # causal, and the tail leaves no trace


def test_rows_and_calls_do_not_hear_each_other(lyra, speech):
    together = lyra.encode(speech)
    for row in (3, 0): assert torch.equal(lyra.encode(speech[row:row + 1]), together[row:row + 1])
    z, lengths = lyra.encode(speech[:2], lengths=[64_000, 20_100]), [200, 62]
    assert torch.equal(z[1, :62], lyra.encode(speech[1:2, :20_100])[0]) and not z[1, 62:].any()
    assert torch.equal(lyra.decode(z, lengths)[1:, :62 * 320], lyra.decode(z[1:, :62]))
    assert torch.equal(Lyra.encode(lyra, speech), together)


def test_an_interpreter_cannot_be_reset(lyra_dir, speech):
    "Why each utterance gets a new one. Should this fail with a new version, interpreters could be pooled."
    content, frames = lyra_files(lyra_dir)["encoder"], speech[0, :32_000].reshape(-1, 320).numpy()
    fresh = stream(new_interpreter(content), frames)
    assert np.array_equal(stream(new_interpreter(content), frames), fresh)
    used = new_interpreter(content)
    stream(used, frames); used.reset_all_variables()
    assert not np.array_equal(stream(used, frames), fresh)
    used.allocate_tensors()
    assert not np.array_equal(stream(used, frames), fresh)


def test_codes(lyra, speech):
    z = lyra.encode(speech[:2, :16_000])
    codes = lyra.codes(z)
    assert codes.shape == (2, 46, 50) and 0 <= int(codes.min()) and int(codes.max()) <= 15
    assert torch.equal(lyra.codes(z, 16), codes[:, :16])
    coarse, fine = (lyra.codes_latents(c) for c in (codes[:, :16], codes))
    error = lambda q: float((q - z).norm() / z.norm())
    assert error(fine) < error(coarse) < 1
    assert torch.equal(lyra.decode_codes(codes), lyra.decode(fine))


def test_codes_need_their_file(lyra_dir, tmp_path, speech):
    for name in LYRA_FILES.values(): shutil.copyfile(lyra_dir / name, tmp_path / name)
    plain = Lyra(tmp_path)
    assert plain.alternatives() == {}
    with pytest.raises(CodecError, match="quantizer.tflite"): plain.codes(torch.zeros(1, 2, 64))


def test_speech_survives_unquantised(lyra, speech):
    stoi = pytest.importorskip("pystoi").stoi
    back = lyra.decode(lyra.encode(speech))
    scores = [stoi(a.numpy(), b.numpy(), 16_000) for a, b in zip(speech, back, strict=True)]
    assert np.mean(scores) > .9 and np.median(scores) > .94 and min(scores) > .7, scores
    late = [stoi(a.numpy(), np.roll(b.numpy(), 320), 16_000) for a, b in zip(speech, back, strict=True)]
    assert np.mean(late) < np.mean(scores) - .2                # frames are where they belong


def test_continuous_decode_is_sound(lyra, speech):
    rows = round_trip_check(lyra, speech[:3, :32_000])
    mel = rows.groupby("way").mel.mean()
    assert is_sound(rows) and mel["continuous"] < mel["quantised 46"] < mel["quantised 16"] < mel["elsewhere"] / 2
    wrong = rows.assign(mel=rows.mel.where(rows.way != "continuous", rows.mel.max()))
    assert not is_sound(wrong)
