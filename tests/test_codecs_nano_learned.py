"""The learned codec: bounded latents, locality, bad sounds, bounded memory, and the file it comes in."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from audioengram.codecs import get_codec
from audioengram.codecs.nano import BLOCK, HOP, fit_axes, mel_filters, mel_loudness
from audioengram.codecs.nano import SHIPPED as LINEAR
from audioengram.codecs.nano_learned import (
    EXACT,
    FORMAT,
    SHIPPED,
    LearnedNano,
    NanoBlock,
    NanoNet,
    Sizes,
    load_learned,
    save_learned,
    sharpen,
)
from audioengram.core import CodecError, ModelFileError, ParameterError
from audioengram.data.audio import load_audio

SMALL = Sizes(width=32, encoder_blocks=2, decoder_blocks=2)


@pytest.fixture(scope="module")
def linear():
    "The matrices that are shipped."
    net = load_learned(SHIPPED)[0]
    return {k: getattr(net, k) for k in EXACT}


@pytest.fixture(scope="module")
def net(linear):
    "Small networks that add a lot."
    torch.manual_seed(0)
    net = NanoNet(SMALL, linear).requires_grad_(False)
    for layer in (net.out, net.last): layer.weight.normal_(std=.1)
    return net


@pytest.fixture(scope="module")
def small(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_learned(net, path, corpus="none")
    return LearnedNano(path, iterations=2)


@pytest.fixture(scope="module")
def shipped(): return LearnedNano()


def noise(n, seed=0): return torch.rand(1, n, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def picture(wav, stride=BLOCK): return mel_loudness(wav, mel_filters(), [-(-wav.shape[1] // (HOP * stride))], stride)


def test_what_is_shipped(shipped):
    assert Path(str(SHIPPED)).stat().st_size < 25_000_000
    assert sum(p.numel() for p in shipped.net.parameters()) <= 12_000_000
    assert (shipped.sample_rate, shipped.frame_rate, shipped.dim, shipped.hop) == (16_000, 12.5, 64, 1280)
    assert {"corpus", "corpus_fingerprint", "licence", "source", "split_seed", "recipe", "steps"} <= shipped.about.keys()
    assert shipped.about["corpus"] == "debian-speech, librispeech" and max(shipped.look_ahead) <= .3
    assert len(shipped.heard) == int(shipped.about["train_speakers"]) and {h.split("/")[0] for h in shipped.heard} == {"debian-speech", "librispeech"}


@pytest.mark.parametrize("gain", [1e-3, .5, 1., 30.])
def test_latents_never_leave_the_bound(net, gain):
    z, logvar = net.encode(picture(gain * noise(32_000)))
    assert z.abs().max() <= SMALL.bound and torch.isfinite(logvar).all()


def test_the_bound_is_smooth():
    "Its slope never vanishes within 1.5 times the bound: a clamp would have none beyond it."
    u = torch.linspace(-9, 9, 100, requires_grad=True)
    (6 * torch.tanh(u / 6)).sum().backward()
    assert u.grad.min() > .1


def test_skip_path_is_the_linear_code(linear):
    "What a fresh network gives is the first components, mixed; what comes back is their projection."
    torch.manual_seed(0)
    fresh, mel = NanoNet(Sizes(width=8, bound=1e4), linear).requires_grad_(False), picture(.1 * noise(32_000))
    for layer in (fresh.out, fresh.last): layer.weight.zero_()
    from audioengram.codecs.nano import lap, unlap
    parts = ((lap(mel) - linear["mean"]) @ linear["axes"])[..., :64]
    torch.testing.assert_close(fresh.encode(mel)[0], parts @ fresh.into, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(fresh.decode(parts @ fresh.into), unlap(parts @ linear["axes"][:, :64].mT + linear["mean"], [25]), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("whiten", [0., .5, 1.])
def test_mixed_latents_have_one_spread(linear, whiten):
    "Components as independent Gaussians of the fitted deviations: every latent has the mean square 1, and mixing loses nothing."
    net = NanoNet(Sizes(width=8, whiten=whiten), linear)
    parts = torch.randn(20_000, 64, generator=torch.Generator().manual_seed(0)) * linear["scale"][:64]
    z = parts @ net.into
    assert float(z.square().mean()) == pytest.approx(1, abs=.03)
    torch.testing.assert_close(z @ net.back, parts, atol=1e-3, rtol=1e-3)
    spread = z.std(0)
    if whiten == 1.: assert (spread - 1).abs().max() < .05
    else: assert spread.max() < 3 * spread.median()      # the first component alone has thirty times the deviation of the last


def test_half_whitening_is_best_under_noise(linear):
    "Error of the linear code with noise of 0.3 of each latent's spread, against every other exponent and against components that are not mixed."
    scale, g = linear["scale"][:64], torch.Generator().manual_seed(0)
    parts = torch.randn(20_000, 64, generator=g) * scale
    def error(whiten):
        net = NanoNet(Sizes(width=8, whiten=whiten), linear)
        z = parts @ net.into
        return float((.3 * z.std(0) * torch.randn(z.shape, generator=g) @ net.back).square().mean())
    errors = {w: error(w) for w in (0., .5, 1.)}
    assert errors[.5] < min(errors[0.], errors[1.]) and errors[.5] < .6 * float((.3 * scale).square().mean())


@pytest.mark.parametrize("dim", [0, 641])
def test_dimensions_there_cannot_be(dim):
    with pytest.raises(CodecError, match="Choose 1 to 640"): Sizes(dim=dim)


def test_matrices_of_another_rate(linear):
    with pytest.raises(ParameterError, match="2, 4, 8 or 16"): Sizes(stride=3)
    with pytest.raises(CodecError, match="block=4"): NanoNet(Sizes(dim=16, stride=4), linear)


@pytest.mark.parametrize("stride, dim", [(2, 16), (4, 32), (16, 128)])
def test_other_frame_rates(tmp_path, stride, dim):
    pictures = [picture(.3 * noise(64_000, seed), stride) for seed in range(8 * stride)]
    linear = {"filters": mel_filters(), **fit_axes(pictures, 80 * stride, stride)}
    save_learned(NanoNet(Sizes(dim, width=8, stride=stride), linear), tmp_path / "w.safetensors")
    codec, wav = LearnedNano(tmp_path / "w.safetensors", iterations=1), .3 * noise(32_000)
    z = codec.encode(wav)
    assert codec.frame_rate == 100 / stride and codec.hop == 160 * stride and z.shape == (1, -(-32_000 // (160 * stride)), dim)
    assert codec.decode(z).shape[1] == z.shape[1] * codec.hop


@pytest.mark.parametrize("kernel, ahead", [(7, 3), (5, 1), (5, 0)])
def test_a_block_sees_as_far_as_it_says(kernel, ahead):
    torch.manual_seed(0)
    block, x = NanoBlock(4, 8, kernel, ahead), torch.randn(1, 40, 4)
    other = x.clone(); other[:, 20] += 1
    seen = (block(x) != block(other)).any(-1)[0].nonzero()[:, 0]
    assert (int(seen.min()), int(seen.max())) == (20 - ahead, 20 + kernel - 1 - ahead)


def test_nothing_depends_on_sound_beyond_the_stated_look_ahead(small):
    wav = .3 * noise(20 * 1280)
    encoder, decoder = (round(x * 16_000) for x in small.look_ahead)
    z, t = small.encode(wav), 9
    later = wav.clone(); later[:, (t + 1) * 1280 + encoder:] = .5
    torch.testing.assert_close(small.encode(later)[:, :t + 1], z[:, :t + 1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(small.encode(later)[:, t + 2], z[:, t + 2], atol=1e-5)
    other = z.clone(); other[:, t + 1 + decoder // 1280:] = 1.
    a, b = small.loudness(z), small.loudness(other)
    torch.testing.assert_close(a[:, :(t + 1) * BLOCK], b[:, :(t + 1) * BLOCK], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(a[:, (t + 2) * BLOCK:], b[:, (t + 2) * BLOCK:], atol=1e-5)


@pytest.mark.parametrize("size", [5, 7, 64])
def test_pieces_change_nothing(small, monkeypatch, size):
    "Streaming in pieces with context equals the whole."
    wav = .3 * noise(100 * 1280)
    whole = small.encode(wav)
    back = small.loudness(whole)
    monkeypatch.setattr("audioengram.codecs.nano_learned.PIECE", size * BLOCK)
    torch.testing.assert_close(small.encode(wav), whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(small.loudness(whole), back, atol=1e-4, rtol=1e-4)


def test_pieces_of_a_ragged_batch(small, monkeypatch):
    wav = .3 * torch.cat([noise(60 * 1280), noise(60 * 1280, 1)])
    lengths = [60 * 1280, 21 * 1280 + 7]
    z = small.encode(wav, lengths)
    back = small.decode(z, [60, 22])
    monkeypatch.setattr("audioengram.codecs.nano_learned.PIECE", 160)
    torch.testing.assert_close(small.encode(wav, lengths), z, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(small.encode(wav[1:, :lengths[1]]), z[1:, :22], atol=1e-4, rtol=1e-4)
    assert back.shape == (2, 60 * 1280) and not back[1, 22 * 1280:].any()


@pytest.mark.parametrize("name, wav", [
    ("silence", torch.zeros(1, 16_000)), ("dc", torch.full((1, 16_000), .9)), ("full-scale noise", noise(16_000)), ("square", (torch.arange(16_000) // 40 % 2 * 2. - 1)[None]),
    ("10 ms", .3 * noise(160)), ("one sample", torch.ones(1, 1)), ("click", torch.nn.functional.one_hot(torch.tensor([5000]), 16_000).float())], ids=lambda x: x if isinstance(x, str) else "")
def test_bad_sounds(shipped, name, wav):
    z = shipped.encode(wav)
    back = shipped.decode(z)
    assert torch.isfinite(z).all() and z.abs().max() <= 6
    assert torch.isfinite(back).all() and back.abs().max() <= 1 and back.shape[1] == 1280 * shipped.frames(wav.shape[1])


def test_sharpening_raises_peaks_and_keeps_energy_and_level():
    g = torch.Generator().manual_seed(0)
    mel = torch.rand(3, 9, 80, generator=g)
    m = mel**(1 / .3)
    torch.testing.assert_close(sharpen(mel, 0., 0.), m)
    by_hand = m**1.2 * (m.square().sum(-1, keepdim=True) / (m**2.4).sum(-1, keepdim=True)).sqrt()
    torch.testing.assert_close(sharpen(mel, 0., .2), by_hand, atol=1e-6, rtol=1e-4)
    bump = torch.zeros(1, 1, 80); bump[..., 40] = 1.
    torch.testing.assert_close(sharpen(bump + 1., .5, 0.)[0, 0, 38:43]**.3, torch.tensor([.9, .9, 2.4, .9, .9]), atol=1e-5, rtol=1e-5)   # the mean of five is 1.2
    for level in (1e-3, 1e2): torch.testing.assert_close(sharpen(level * mel), sharpen(mel) * level**(1 / .3), atol=0, rtol=2e-3)
    tiny = torch.full((1, 2, 80), 1e-6, requires_grad=True)
    sharpen(tiny).sum().backward()
    assert torch.isfinite(tiny.grad).all() and not sharpen(torch.zeros(1, 2, 80)).any() and torch.isfinite(sharpen(torch.full((1, 2, 80), 1e3))).all()


def test_sharpening_can_be_left_out(shipped):
    plain = LearnedNano(sharp=False)
    z = shipped.encode(.3 * noise(16_000))
    assert plain.options == {"sharp": False} and plain.fingerprint == shipped.fingerprint and torch.equal(z, plain.encode(.3 * noise(16_000)))
    assert torch.equal(plain.loudness(z), shipped.loudness(z)) and not torch.allclose(plain.decode(z), shipped.decode(z), atol=1e-4)


def test_silence_is_one_vector_and_stays_quiet(shipped):
    z = shipped.encode(torch.zeros(1, 64_000))
    inner = z[:, 16:-16]
    assert torch.allclose(inner, inner[:, :1].expand_as(inner), atol=1e-4)
    assert shipped.decode(z).abs().max() < 5e-3


def test_ten_minutes_need_little_memory():
    "A process of its own, since the peak of this one is past."
    code = """
import functools, resource, torch
from audioengram.codecs import nano_learned
codec = nano_learned.LearnedNano(iterations=1); codec.decode(codec.encode(torch.rand(1, 16_000)))   # one iteration allocates what 32 do
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
wav = torch.rand(1, 600 * 16_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
z = codec.encode(wav); y = codec.decode(z)
assert torch.isfinite(y).all() and y.abs().max() <= 1 and z.abs().max() <= 6
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert r.returncode == 0, r.stderr[-2000:]
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(r.stdout) * unit < 800e6, f"{int(r.stdout) * unit / 1e6:.0f} MB above the baseline; samples alone are 38 MB"


@pytest.fixture(scope="module")
def speech(librispeech_root, shipped):
    "Eight speakers who were not trained on, six seconds each."
    files = [f for f in sorted((librispeech_root / "train-clean-100").glob("*/*/*.flac")) if f"librispeech/{f.parts[-3]}" not in shipped.heard][::5]
    return torch.tensor(np.stack([x[:96_000] for x in (load_audio(f, 16_000)[0] for f in files) if len(x) >= 96_000][:8]))


def scores(a, b):
    stoi, pesq = pytest.importorskip("pystoi").stoi, pytest.importorskip("pesq").pesq
    return np.array([(stoi(x, y, 16_000), pesq(16_000, x, y, "wb")) for x, y in zip(a.numpy(), b.numpy(), strict=True)]).mean(0)


def test_better_than_the_linear_codec_on_unseen_speakers(shipped, speech):
    linear = get_codec("nano-linear")
    learned, old = scores(speech, shipped.decode(shipped.encode(speech))), scores(speech, linear.decode(linear.encode(speech)))
    assert (learned > old).all()


def test_latents_bear_noise_and_are_all_alive(shipped, speech):
    z = shipped.encode(speech)
    spread = z.flatten(0, 1).std(0)
    assert .2 < spread.min() and spread.max() < 3 and z.abs().max() < 6
    noisy = z + .3 * spread * torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    linear = get_codec("nano-linear")
    y = linear.encode(speech)
    shaken = y + .3 * y.flatten(0, 1).std(0) * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    assert scores(speech, shipped.decode(noisy))[0] > scores(speech, linear.decode(shaken))[0] + .02


@pytest.mark.parametrize("damage", ["absent", "cut", "text", "other format", "a tensor less", "other sizes", "a linear nano"])
def test_damaged_files_are_named(small, tmp_path, damage):
    path, good = tmp_path / "w.safetensors", Path(small.options["weights"])
    tensors, about = load_file(good), {"format": FORMAT, "sizes": load_learned(good)[1]["sizes"]}
    if damage == "cut": path.write_bytes(good.read_bytes()[:5000])
    if damage == "text": path.write_text("not weights")
    if damage == "other format": save_file(tensors, path)
    if damage == "a tensor less": save_file({k: v for k, v in tensors.items() if k != "see.weight"}, path, about)
    if damage == "other sizes": save_file(tensors, path, about | {"sizes": '{"width": 48}'})
    if damage == "a linear nano": path.write_bytes(Path(str(LINEAR)).read_bytes())
    with pytest.raises(ModelFileError, match="w.safetensors"): LearnedNano(path)


def test_file_keeps_provenance_and_identity(small, net, tmp_path):
    again = LearnedNano(small.options["weights"], iterations=2)
    assert again.fingerprint == small.fingerprint and again.about["corpus"] == "none" and again.options == {"weights": small.options["weights"], "iterations": 2}
    net.last.bias[0] += 1
    save_learned(net, tmp_path / "other.safetensors")
    net.last.bias[0] -= 1
    assert LearnedNano(tmp_path / "other.safetensors").fingerprint != small.fingerprint
    assert HOP * BLOCK == small.hop
