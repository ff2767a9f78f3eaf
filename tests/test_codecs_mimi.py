"Mimi, Mimi-VAE and EnCodec beyond the contract: weights from the hub and from files, the way round the quantiser, windows, the round-trip check."
import copy
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

import audioengram.codecs.weights as weights_module
from audioengram.codecs import get_codec
from audioengram.codecs.mimi import (
    MIMI_FILE,
    MIMI_REPO,
    MIMI_REVISION,
    Mimi,
    MimiVAE,
    in_windows,
    vae_config,
)
from audioengram.codecs.weights import hub_file, read_tensors, sha256_of
from audioengram.core import CodecError, ParameterError
from audioengram.measure.speech import is_sound, mel_distance, round_trip_check, si_sdr


def error(a, b): return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def mimi(): return Mimi(weights="random")


@pytest.fixture(scope="module")
def vae(): return MimiVAE(weights="random")


@pytest.fixture
def wav(): return torch.randn(1, 7680, generator=torch.Generator().manual_seed(0)) * .01


# ---- the hub -----------------------------------------------------------------------------------------------------------------------

@pytest.fixture
def online(monkeypatch):
    "A hub that answers, with an empty cache and no files of its own; a test says what a download does."
    import huggingface_hub
    from huggingface_hub import constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("requests.head", lambda *a, **k: None)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: None)
    def download(behaviour): monkeypatch.setattr(huggingface_hub, "hf_hub_download", behaviour)
    return download


@pytest.mark.parametrize("name", ["mimi", "mimi-vae", "encodec"])
def test_offline_is_said_at_once(name, monkeypatch):
    "Left to itself the hub's client retries for 23 s a file; here neither it nor the network is asked."
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for asked in ("requests.head", "huggingface_hub.hf_hub_download"): monkeypatch.setattr(asked, lambda *a, **k: pytest.fail("the network was asked"))
    with pytest.raises(CodecError, match="HF_HUB_OFFLINE is set.*weights=PATH") as e: get_codec(name)
    assert "\n" not in str(e.value)


def test_a_hub_that_does_not_answer_is_not_asked_twice(online, monkeypatch):
    import requests
    asked = []
    def head(url, timeout): asked.append(timeout); raise requests.ConnectionError("no route")
    monkeypatch.setattr("requests.head", head)
    online(lambda *a, **k: pytest.fail("the download was started"))
    with pytest.raises(CodecError, match="does not answer") as e: hub_file(MIMI_REPO, MIMI_FILE, MIMI_REVISION)
    assert asked == [3] and MIMI_REVISION in str(e.value)


def test_a_gated_repository_names_its_terms(online):
    import requests
    from huggingface_hub.errors import GatedRepoError
    def refuse(*a, **k): raise GatedRepoError("403", response=requests.Response())
    online(refuse)
    with pytest.raises(CodecError, match="wants its terms accepted.*hf auth login"): hub_file("kyutai/pocket-tts", "x.safetensors", "0" * 40)


def test_a_full_disk_is_reported(online):
    def fill(*a, **k): raise OSError(28, "No space left on device")
    online(fill)
    with pytest.raises(CodecError, match="could not be downloaded .*No space left"): hub_file(MIMI_REPO, MIMI_FILE, MIMI_REVISION)


def test_the_pinned_file_is_fetched_and_compared(online, tmp_path):
    asked = []
    def fetch(repo, filename, revision):
        asked.append((repo, filename, revision)); (tmp_path / filename).write_bytes(b"something else")
        return str(tmp_path / filename)
    online(fetch)
    with pytest.raises(CodecError, match="not the file on record"): Mimi()
    assert asked == [(MIMI_REPO, MIMI_FILE, "2bfc9ae6e89079a5cc7ed2a68436010d91a3d289")]


def test_a_cached_file_needs_no_network(monkeypatch, tmp_path):
    import huggingface_hub
    (tmp_path / "w.safetensors").write_bytes(b"x")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: str(tmp_path / "w.safetensors"))
    monkeypatch.setattr(weights_module, "_hub_closed", lambda: pytest.fail("the network was asked"))
    assert hub_file("a/b", "w.safetensors", "0" * 40) == tmp_path / "w.safetensors"


# ---- files -------------------------------------------------------------------------------------------------------------------------

def test_mimi_loads_the_layout_of_the_published_file(mimi, tmp_path, wav):
    "The names that the published file uses, which moshi translates: with them the file has exactly the size of the one on the hub."
    old = {k.replace("in_projs.0.weight", "in_proj_weight").replace("out_projs.0.weight", "out_proj.weight"): v for k, v in mimi.model.state_dict().items()}
    path = tmp_path / MIMI_FILE
    save_file({k: v.contiguous() for k, v in old.items()}, path)
    assert path.stat().st_size == 384_644_900
    loaded = Mimi(weights=tmp_path)                 # its folder will do
    assert loaded.weights_id == f"sha256 {sha256_of(path)}" and loaded.fingerprint != mimi.fingerprint
    assert torch.equal(loaded.encode(wav), mimi.encode(wav))
    path.unlink()


def test_vae_loads_a_bundle_and_a_codec_alone(vae, tmp_path, wav):
    tensors = {k: v.contiguous() for k, v in vae.model.state_dict().items()}
    save_file({f"mimi.{k}": v for k, v in tensors.items()} | {"flow_lm.emb_std": torch.ones(32)}, tmp_path / "bundle.safetensors")
    save_file(tensors, tmp_path / "alone.safetensors")
    written = {"model." + k.replace("conv.weight", "conv.conv.weight").replace("conv.bias", "conv.conv.bias").replace("convtr.weight", "convtr.convtr.weight")
               .replace("convtr.bias", "convtr.convtr.bias").replace("in_proj.weight", "in_proj_weight"): v for k, v in tensors.items()}
    save_file(written, tmp_path / "training.safetensors")
    bundle, alone, training = (MimiVAE(weights=tmp_path / f"{name}.safetensors") for name in ("bundle", "alone", "training"))
    for codec in (bundle, alone, training): assert torch.equal(codec.encode(wav), vae.encode(wav))
    assert len({bundle.fingerprint, alone.fingerprint, vae.fingerprint}) == 3   # the checksum is the file's

    save_file({f"mimi.{k}": torch.zeros_like(v) if k.startswith("encoder.") else v for k, v in tensors.items()}, tmp_path / "open.safetensors")
    with pytest.raises(CodecError, match="its encoder is empty.*without voice cloning"): MimiVAE(weights=tmp_path / "open.safetensors")
    with pytest.raises(CodecError, match="another model's weights.*tensors missing"): Mimi(weights=tmp_path / "alone.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "alone.safetensors").read_bytes()[:-100])
    with pytest.raises(CodecError, match="cannot be read"): MimiVAE(weights=tmp_path / "cut.safetensors")


def test_encodec_loads_the_names_of_the_published_file(tmp_path, wav):
    encodec = get_codec("encodec", weights="random")
    old = {k.replace("parametrizations.weight.original0", "weight_g").replace("parametrizations.weight.original1", "weight_v"): v
           for k, v in encodec.model.state_dict().items()}
    assert any(k.endswith("weight_g") for k in old)
    save_file({k: v.contiguous() for k, v in old.items()}, tmp_path / "model.safetensors")
    assert torch.equal(get_codec("encodec", weights=tmp_path).encode(wav), encodec.encode(wav))


def test_nothing_is_unpickled(tmp_path):
    torch.save({"model": {}}, tmp_path / "mimi.pt")
    with pytest.raises(CodecError, match="safetensors only"): Mimi(weights=tmp_path / "mimi.pt")
    with pytest.raises(CodecError, match="safetensors only"): read_tensors(tmp_path / "mimi.pt")
    with pytest.raises(CodecError, match='"hub" or "random"'): Mimi(weights=tmp_path / "nowhere.safetensors")


def test_vae_configurations():
    for config in ("english_2026-10", "english", "german", "english_2m_2026-10"):
        settings, (repo, filename, revision) = vae_config(config)
        assert settings.quantizer.dimension == 32 and repo == "kyutai/pocket-tts" and filename.endswith("model.safetensors") and len(revision) == 40
    with pytest.raises(CodecError, match="Choose one of"): vae_config("klingon")
    with pytest.raises(CodecError, match="encodes to 512"): vae_config("english_2026-01")


def test_fingerprints_tell_what_decides_the_output(vae, mimi):
    assert MimiVAE(weights="random").fingerprint == vae.fingerprint
    assert MimiVAE(weights="random", seed=1).fingerprint != vae.fingerprint
    assert MimiVAE(weights="random", config="german").fingerprint != vae.fingerprint   # same random numbers, another codec by name
    other = copy.copy(mimi); other.bypass = "direct"
    assert other.fingerprint != mimi.fingerprint
    with pytest.raises(ParameterError, match="projected"): Mimi(weights="random", bypass="none")


# ---- what importing them leaves behind ---------------------------------------------------------------------------------------------

IMPORTING = """
import json, os, torch
torch.set_num_threads(2)
before = dict(os.environ)
from audioengram.codecs.mimi import Mimi, vae_config
from audioengram.core import CodecError
vae_config()
try: Mimi(weights="nowhere")
except CodecError: pass          # the import is what is looked at
import moshi.modules.rope, pocket_tts
changed = [k for k in before.keys() | os.environ.keys() if before.get(k) != os.environ.get(k)]
print(json.dumps([torch.get_num_threads(), "NO_TORCH_COMPILE" in changed, hasattr(moshi.modules.rope.apply_rope, "__wrapped__")]))
"""


def test_importing_leaves_threads_environment_and_compiler_alone():
    clean = {k: v for k, v in os.environ.items() if k != "NO_TORCH_COMPILE"}
    r = subprocess.run([sys.executable, "-c", IMPORTING], env=clean, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr[-2000:]
    threads, left_behind, compiling = json.loads(r.stdout.splitlines()[-1])
    assert threads == 2, "pocket-tts sets one thread when it is imported"
    assert not left_behind and not compiling, "moshi wraps functions in torch.compile when it is imported"


# ---- the way back ------------------------------------------------------------------------------------------------------------------

def test_continuous_decode_is_the_forward_pass_without_rounding(mimi, wav):
    class NoRounding(torch.nn.Module):
        def forward(self, x, n_q=None): return x, torch.zeros(1, len(x), x.shape[-1], dtype=torch.long), torch.zeros(1), {}
    model = copy.deepcopy(mimi.model)
    model.quantizer.rvq_first.vq, model.quantizer.rvq_rest.vq = NoRounding(), NoRounding()
    with torch.no_grad(): whole = model(wav[:, None]).x[:, 0]
    assert float(whole.abs().max()) < 1
    z = mimi.encode(wav)
    assert error(mimi.decode(z), whole) < 1e-5
    direct = mimi.alternatives()["direct"](z)
    assert error(direct, whole) > .1, "the two ways must differ, or this test says nothing"
    with torch.no_grad(): by_hand = mimi.model.decoder(mimi.model.decoder_transformer(mimi.model._to_encoder_framerate(z.transpose(1, 2)))[0])[:, 0]
    assert error(direct, by_hand.clamp(-1, 1)) < 1e-5


def test_codes_are_those_of_the_discrete_codec(mimi, wav):
    z = mimi.encode(wav)
    with torch.no_grad(): theirs = mimi.model.encode(wav[:, None])
    assert torch.equal(mimi.codes(z, 32), theirs) and torch.equal(mimi.codes(z, 8), theirs[:, :8])
    for q in (1, 8, 32):
        with torch.no_grad(): sound = mimi.model.decode(theirs[:, :q])[:, 0]
        assert error(mimi.decode_codes(theirs[:, :q]), sound.clamp(-1, 1)) < 1e-5


def test_a_random_model_hears_its_input(mimi, vae, wav):
    "With torch's default biases the decoder's output hardly depends on its input, and every comparison above would be empty."
    for codec in (mimi, vae):
        z = codec.encode(wav)
        moved = z + .1 * z.std() * torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
        assert error(codec.decode(moved), codec.decode(z)) > .03


def test_transformers_in_windows_with_their_reach(mimi, vae):
    for codec in (mimi, vae):
        for transformer in (codec.model.encoder_transformer, codec.model.decoder_transformer):
            layers = transformer.transformer.layers
            assert codec.reach == len(layers) * layers[0].self_attn.context
    attend, x = vae._stages()["attend_in"], torch.randn(1, 512, 800, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(): assert error(in_windows(attend, x, 200, vae.reach, 10**6), attend(x)) < 1e-5


def test_rows_are_taken_in_groups(vae, monkeypatch):
    wav = torch.randn(5, 3840, generator=torch.Generator().manual_seed(0)) * .01
    together = vae.encode(wav), vae.decode(vae.encode(wav))
    longest = []
    encoder = vae.model.encoder.forward
    monkeypatch.setattr(vae.model.encoder, "forward", lambda x, state: longest.append(x.shape[0]) or encoder(x, state))
    monkeypatch.setattr(type(vae), "_seconds", .35)   # two rows of 0.16 s
    assert error(vae.encode(wav), together[0]) < 1e-5 and error(vae.decode(together[0]), together[1]) < 1e-4
    assert longest == [2, 2, 1]


# ---- the check ---------------------------------------------------------------------------------------------------------------------

def test_measures_of_the_check_against_closed_forms():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 48_000, generator=g, dtype=torch.float64)
    a, b = a - a.mean(), b - b.mean()
    b -= (a @ b) / (a @ a) * a
    for ratio in (.01, .3, 2.): assert float(si_sdr(a, 5 * (a + ratio * a.norm() / b.norm() * b))) == pytest.approx(-20 * torch.tensor(ratio).log10().item(), abs=1e-3)
    noise = torch.randn(24_000, generator=g)
    assert mel_distance(noise, .1 * noise, 24_000) == pytest.approx(20, abs=.01)
    assert mel_distance(noise, noise, 24_000) == 0


def test_the_check_tells_sound_from_unsound(vae, mimi, wav):
    t = torch.arange(11_520) / 24_000
    glide = .3 * torch.sin(2 * torch.pi * (300 * t + 1500 * t**2)) * torch.sin(3 * torch.pi * t / t[-1])**2
    rows = round_trip_check(vae, [glide.numpy()], names=["glide"])
    assert list(rows.way) == ["continuous", "elsewhere"] and set(rows.recording) == {"glide"} and not is_sound(rows)
    rows = round_trip_check(mimi, [glide])
    assert list(rows.way) == ["continuous", "direct", "quantised 8", "quantised 32", "elsewhere"] and not is_sound(rows)
    assert rows[["mel", "si_sdr", "latent_error"]].notna().all().all()
    better = rows.assign(mel=rows.mel.where(rows.way != "continuous", rows.mel[rows.way == "elsewhere"].item() / 2.01))
    better.loc[better.way.str.startswith("quantised"), "mel"] = better.mel[0] / 1.04
    assert is_sound(better) and not is_sound(better, slack=0)    # four per cent behind its own rounding


@pytest.mark.mimi
@pytest.mark.parametrize("name", ["mimi", "mimi-vae", "encodec"])
def test_continuous_decode_of_the_real_weights_is_sound(name, librispeech_root):
    "Runs where the weights are in the hub's cache; the same two lines decide for any checkpoint."
    import soundfile as sf
    import soxr
    try: codec = get_codec(name)
    except CodecError as e: pytest.skip(str(e))
    files = sorted(librispeech_root.glob("train-clean-100/*/*/*.flac"))[::50][:5]
    rows = round_trip_check(codec, [soxr.resample(*sf.read(f, dtype="float32"), codec.sample_rate) for f in files])
    assert is_sound(rows), rows.groupby("way").mean(numeric_only=True).to_string()
