"""What every codec promises, one parametrised contract. To add a codec, add a Case (and nothing else) to CASES."""
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from audioengram.codecs import get_codec, parse_name
from audioengram.codecs.base import LatentCodec
from audioengram.core import CodecError, MissingDependency, ShapeError

SHARED = Path(os.environ.get("AUDIOENGRAM_SHARED") or Path(__file__).resolve().parents[2] / "shared")


@dataclass(frozen=True)
class Case:
    "A codec under test."
    name: str                                 # as get_codec takes it
    options: Callable[[], dict] = dict        # options of the base codec; skip inside it when something it needs is absent
    bar: float | None = None                  # least correlation of log-mel pictures after a round trip; None: random weights, no bar
    tolerance: float = 1e-4                   # batch against single, share of the largest value
    seconds: float = 2.03                     # of speech; less for large networks

    def __str__(self): return self.name


def lyra_options():
    folder = SHARED / "data" / "lyra" / "model_coeffs"
    if not folder.exists(): pytest.skip("needs the Lyra v2 weights in shared/data/lyra/model_coeffs (set AUDIOENGRAM_SHARED)")
    return {"weights_dir": folder}


CASES = [
    Case("nano", bar=.9, options=lambda: {"iterations": 2}),   # many rounds of Griffin-Lim make a few samples of a rounding error
    Case("nano+stack2+pca48+normalise", bar=.8, options=lambda: {"iterations": 2}),
    Case("nano-linear", bar=.9),
    Case("mel", bar=.95),
    Case("mel+stack8+pca64", bar=.9),
    Case("mimi", options=lambda: {"weights": "random"}, seconds=.33),
    Case("mimi-vae", options=lambda: {"weights": "random"}, seconds=.33),
    Case("encodec", options=lambda: {"weights": "random"}, seconds=.33),
    Case("dac", options=lambda: {"weights": "random"}, seconds=.1),
    Case("snac", options=lambda: {"weights": "random"}, seconds=.1),
    pytest.param(Case("music2latent", options=lambda: {"weights": "random"}, seconds=.3), marks=pytest.mark.slow),   # seconds a call
    Case("lyra", options=lyra_options, bar=.95),
    Case("lyra+stack4+pca64", options=lyra_options, bar=.93),
]


def speechlike(seconds, rate, seed=0):
    "Syllables of a gliding buzz through moving formants, with pauses; [S] in [-0.5, 0.5]."
    rng, n = np.random.default_rng(seed), int(seconds * rate)
    t = np.arange(n) / rate
    pitch = 120 + 30 * np.sin(2 * np.pi * .7 * t + seed)
    buzz = np.where(np.diff(np.floor(np.cumsum(pitch) / rate), prepend=0) > 0, 1., 0.) + .01 * rng.normal(size=n)
    out, block = np.zeros(n), int(.16 * rate)
    for start in range(0, n, block):
        part = slice(start, min(start + block, n))
        x = buzz[part]
        for low, high in ((300, 800), (900, 2200), (2400, 3200)):
            r, f = np.exp(-np.pi * 90 / rate), rng.uniform(low, high)
            x = lfilter([1 - r], [1, -2 * r * np.cos(2 * np.pi * f / rate), r * r], x)
        out[part] = x * np.hanning(len(x)) * rng.choice([0, .3, 1, 1])
    return torch.tensor(.5 * out / np.abs(out).max(), dtype=torch.float32)


def loudest(wav, n):
    "The n samples about the highest peak."
    start = min(max(0, int(wav.abs().argmax()) - n // 2), len(wav) - n)
    return wav[start:start + n]


def mel_picture(wav, rate):
    "Log-mel picture at 100 Hz, floored 50 dB under its peak."
    import librosa
    m = librosa.feature.melspectrogram(y=wav.numpy(), sr=rate, n_fft=1024, hop_length=rate // 100, n_mels=40, fmax=7000)
    m = 10 * np.log10(m + 1e-12)
    return np.maximum(m, m.max() - 50)


def round_trip_score(wav, back, rate):
    "Correlation of mel pictures, best over delays to 100 ms."
    a, b = mel_picture(wav, rate), mel_picture(back[:len(wav)], rate)
    n = min(a.shape[1], b.shape[1])
    return max(np.corrcoef(a[:, :n - d].ravel(), b[:, d:n].ravel())[0, 1] for d in range(11))


def close(a, b, tolerance):
    assert a.shape == b.shape
    assert float((a - b).abs().max()) <= tolerance * max(1e-3, float(b.abs().max()))


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request): return request.param


@pytest.fixture(scope="module")
def codec(case) -> LatentCodec:
    state = torch.random.get_rng_state()
    try: codec = get_codec(case.name, **case.options())
    except MissingDependency as e: pytest.skip(str(e))
    assert torch.equal(torch.random.get_rng_state(), state), "making a codec must not draw from the global generator"
    if not codec.is_fitted:
        training = [codec.base.encode(speechlike(6, codec.sample_rate, seed)[None])[0].numpy() for seed in range(2, 8)]
        with pytest.raises(CodecError, match="has not been fitted"): codec.encode(torch.zeros(1, codec.sample_rate))
        codec.fit_views(training)
    return codec


@pytest.fixture(scope="module")
def wav(case, codec): return torch.stack([loudest(speechlike(2.03, codec.sample_rate, seed), int(case.seconds * codec.sample_rate)) for seed in (0, 1)])


def test_says_what_it_is(case, codec):
    parse_name(codec.name)
    assert codec.name == case.name
    assert isinstance(codec.sample_rate, int) and codec.dim > 0
    assert codec.hop * codec.frame_rate == pytest.approx(codec.sample_rate, abs=1e-6)
    assert codec.fingerprint == codec.fingerprint and len(codec.fingerprint) >= 16


def test_shapes_and_frame_rate(codec, wav):
    z = codec.encode(wav)
    assert z.shape == (2, codec.frames(wav.shape[1]), codec.dim) and z.dtype == torch.float32 and not z.requires_grad
    assert abs(z.shape[1] - wav.shape[1] * codec.frame_rate / codec.sample_rate) <= 1
    back = codec.decode(z)
    assert back.shape == (2, codec.samples(z.shape[1])) and back.dtype == torch.float32 and not back.requires_grad
    assert z.device == back.device == codec.device
    assert float(back.abs().max()) <= 1


@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_lengths_around_a_frame_boundary(codec, wav, offset):
    n = codec.samples(3) + offset
    z = codec.encode(wav[:, :n])
    assert z.shape[1] == codec.frames(n)
    assert codec.decode(z).shape[1] == codec.samples(codec.frames(n))


def test_same_input_same_output(case, codec, wav):
    torch.manual_seed(1); z, state = codec.encode(wav), torch.random.get_rng_state()
    torch.manual_seed(2); again = codec.encode(wav)
    assert torch.equal(z, again)
    a, b = codec.decode(z), codec.decode(again)
    assert torch.equal(a, b)
    torch.manual_seed(1); codec.decode(codec.encode(wav))
    assert torch.equal(torch.random.get_rng_state(), state), "a codec must not draw from the global generator"


def test_batch_equals_single(case, codec, wav):
    z = codec.encode(wav)
    close(z[1:], codec.encode(wav[1:]), case.tolerance)
    close(codec.decode(z)[1:], codec.decode(z[1:]), 10 * case.tolerance)


@pytest.mark.parametrize("filling, extra", [(0., 0), (.7, 5)], ids=["silence after a whole frame", "garbage after a started one"])
def test_padding_does_not_leak(case, codec, wav, filling, extra):
    n = codec.samples(codec.frames(wav.shape[1]) // 2) + extra
    ragged = wav.clone(); ragged[1, n:] = filling
    z, alone = codec.encode(ragged, lengths=[wav.shape[1], n]), codec.encode(wav[1:, :n])
    T = codec.frames(n)
    close(z[1:, :T], alone, case.tolerance)
    assert not z[1, T:].any()
    close(z[:1], codec.encode(wav[:1]), case.tolerance)
    dirty = z.clone(); dirty[1, T:] = filling
    back, alone = codec.decode(dirty, lengths=[z.shape[1], T]), codec.decode(z[1:, :T])
    close(back[1:, :codec.samples(T)], alone, 10 * case.tolerance)
    assert not back[1, codec.samples(T):].any()


def test_round_trip(case, codec):
    if case.bar is None: pytest.skip("random weights: nothing to hear")
    wav = speechlike(4, codec.sample_rate, seed=9)
    back = codec.decode(codec.encode(wav[None]))[0]
    noise = torch.randn(len(wav), generator=torch.Generator().manual_seed(0)) * .1
    score = round_trip_score(wav, back, codec.sample_rate)
    assert score >= case.bar > round_trip_score(wav, noise, codec.sample_rate)


@pytest.mark.parametrize("kind", ["silence", "dc", "full-scale noise", "clipped square"])
def test_odd_sounds(codec, kind):
    n = codec.sample_rate
    wav = {"silence": torch.zeros(1, n), "dc": torch.full((1, n), .8),
           "full-scale noise": torch.rand(1, n, generator=torch.Generator().manual_seed(0)) * 2 - 1,
           "clipped square": (torch.arange(n) // 40 % 2 * 2. - 1)[None]}[kind]
    z = codec.encode(wav)
    back = codec.decode(z)
    assert torch.isfinite(z).all() and torch.isfinite(back).all() and float(back.abs().max()) <= 1


def test_shortest_and_too_short(codec):
    n = codec.min_samples
    assert codec.encode(torch.zeros(1, n)).shape[1] == codec.frames(n) >= 1
    if n > 1:
        with pytest.raises(CodecError, match=f"at least {n}"): codec.encode(torch.zeros(1, n - 1))
    with pytest.raises(CodecError, match="row 1 holds 0"): codec.encode(torch.zeros(2, n), lengths=[n, 0])
    with pytest.raises(CodecError, match="empty"): codec.encode(torch.zeros(1, 0))
    with pytest.raises(CodecError, match="empty"): codec.decode(torch.zeros(1, 0, codec.dim))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_not_finite(codec, bad):
    wav = torch.zeros(1, codec.sample_rate); wav[0, 100] = bad
    with pytest.raises(CodecError, match="NaN or infinite"): codec.encode(wav)
    with pytest.raises(CodecError, match="NaN or infinite"): codec.decode(torch.full((1, 4, codec.dim), bad))


def test_wrong_type_and_shape(codec):
    with pytest.raises(CodecError, match="float tensor"): codec.encode(torch.zeros(1, codec.sample_rate, dtype=torch.int16))
    with pytest.raises(CodecError, match="float tensor"): codec.encode(np.zeros((1, codec.sample_rate), dtype="float32"))
    with pytest.raises(ShapeError): codec.encode(torch.zeros(codec.sample_rate))
    with pytest.raises(ShapeError): codec.decode(torch.zeros(1, 4, codec.dim + 1))


def test_float64_is_taken_as_float32(codec, wav):
    assert torch.equal(codec.encode(wav.double()), codec.encode(wav))


def test_latents_that_no_speech_has_still_decode_in_range(codec):
    z = 1e4 * torch.randn(1, 4, codec.dim, generator=torch.Generator().manual_seed(0))
    back = codec.decode(z)
    assert torch.isfinite(back).all() and float(back.abs().max()) <= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_same_on_a_gpu(case, codec, wav):
    z, back = codec.encode(wav), codec.decode(codec.encode(wav))
    try:
        codec.to("cuda")
        if codec.device.type != "cuda": pytest.skip("runs on the CPU only")
        other = codec.encode(wav)
        assert other.device.type == "cuda" and codec.decode(other).device.type == "cuda"
        close(other.cpu(), z, 50 * case.tolerance)
        if case.bar: assert round_trip_score(back[0], codec.decode(other)[0].cpu(), codec.sample_rate) >= case.bar
    finally: codec.to("cpu")
