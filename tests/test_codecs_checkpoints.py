"Checkpoints of others: tensors without unpickling, and the codecs that are published as such."
import pickle
import zipfile

import pytest
import torch

import audioengram.codecs.weights as weights_module
from audioengram.codecs.checkpoints import Named, read_checkpoint, read_weights
from audioengram.core import CodecError


def same(a, b):
    if isinstance(b, torch.Tensor): return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(b, dict): return list(a) == list(b) and all(same(a[k], b[k]) for k in b)
    if isinstance(b, (list, tuple)): return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture
def saved(tmp_path):
    "A checkpoint as training scripts write them: views of one storage, all kinds of numbers, an optimiser's state."
    model = torch.nn.Sequential(torch.nn.Conv1d(2, 3, 3), torch.nn.BatchNorm1d(3))
    for p in model.parameters(): p.grad = torch.ones_like(p)
    optimiser = torch.optim.Adam(model.parameters()); optimiser.step()
    base = torch.arange(24.).view(4, 6)
    what = dict(gen_state_dict=model.state_dict(), opt=optimiser.state_dict(), views=[base[1:, ::2], base.T, base[:0]], step=70_000, big=2**40, lr=1e-3,
                kinds=tuple(torch.ones(3).to(k) for k in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool)),
                parameter=torch.nn.Parameter(torch.ones(2)).data, ok=True, nothing=None, text="ü" * 300, empty=dict(a=[], b=()))
    torch.save(what, tmp_path / "c.pt")
    return tmp_path / "c.pt"


def test_reads_what_torch_reads(saved):
    assert same(read_checkpoint(saved), torch.load(saved, weights_only=True))
    assert same(read_weights(saved, "gen_state_dict"), dict(torch.load(saved, weights_only=True)["gen_state_dict"]))


def test_nothing_in_a_file_is_run(tmp_path):
    class Trap:
        def __reduce__(self): return exec, (f"open({str(tmp_path / 'sprung')!r}, 'w')",)
    torch.save({"w": torch.ones(2), "trap": Trap(), "list": [Trap()]}, tmp_path / "t.pt")
    found = read_checkpoint(tmp_path / "t.pt")
    assert not (tmp_path / "sprung").exists() and isinstance(found["trap"], Named) and "exec" in found["trap"].name
    assert list(read_weights(tmp_path / "t.pt")) == ["w"]
    with pytest.raises(pickle.UnpicklingError): torch.load(tmp_path / "t.pt", weights_only=True)


def test_a_view_beyond_its_storage_is_refused(tmp_path):
    "A file that would show memory that is not its own."
    torch.save({"w": torch.arange(4.)}, tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt") as old, zipfile.ZipFile(tmp_path / "bad.pt", "w") as new:
        for n in old.namelist(): new.writestr(n, old.read(n)[:8] if "/data/" in n else old.read(n))
    with pytest.raises(CodecError, match="is not a checkpoint that can be read"): read_checkpoint(tmp_path / "bad.pt")


def test_a_damaged_file_is_told_in_a_sentence(saved, tmp_path):
    "Every damage is an error of ours, or is where it does not matter."
    whole, g = saved.read_bytes(), torch.Generator().manual_seed(0)
    for i in range(60):
        bad = bytearray(whole)
        for at in torch.randint(0, len(bad), (1 + i % 4,), generator=g).tolist(): bad[at] ^= 1 + i
        (tmp_path / "bad.pt").write_bytes(bad[:len(bad) - (i % 3) * 97])
        try: read_checkpoint(tmp_path / "bad.pt")
        except CodecError as e: assert "bad.pt" in str(e) and "\n" not in str(e)
    with pytest.raises(CodecError, match="no such weights file"): read_checkpoint(tmp_path / "none.pt")
    with pytest.raises(CodecError, match="holds no weights under 'ema'"): read_weights(saved, "ema")


def test_snac_from_the_file_that_is_published(tmp_path, monkeypatch):
    pytest.importorskip("snac")
    from audioengram.codecs.snac import SNAC_FILE, Snac
    random, wav = Snac(weights="random", seed=3), torch.randn(1, 5000, generator=torch.Generator().manual_seed(0)) * .1
    torch.save(random.model.state_dict(), tmp_path / SNAC_FILE)
    read = Snac(weights=tmp_path)                                     # a folder will do
    assert torch.equal(read.encode(wav), random.encode(wav)) and torch.equal(read.decode(read.encode(wav)), random.decode(random.encode(wav)))
    assert read.fingerprint != random.fingerprint
    monkeypatch.setattr(weights_module, "hub_file", lambda *a: tmp_path / SNAC_FILE)
    with pytest.raises(CodecError, match="not the file on record"): Snac()
    torch.save({"w": torch.ones(1)}, tmp_path / "other.bin")
    with pytest.raises(CodecError, match="another model's weights"): Snac(weights=tmp_path / "other.bin")


@pytest.mark.slow
def test_music2latent_from_the_file_that_is_published(tmp_path, monkeypatch):
    pytest.importorskip("music2latent", reason="music2latent is an extra of its own: not for commercial use")
    from audioengram.codecs.music import MUSIC_FILE, MUSIC_PART, MUSIC_REPO, MUSIC_REVISION, Music2Latent
    random, wav = Music2Latent(weights="random", seed=3), torch.randn(1, 5000, generator=torch.Generator().manual_seed(0)) * .1
    torch.save({MUSIC_PART: random.model.state_dict(), "step": 1}, tmp_path / MUSIC_FILE)
    read = Music2Latent(weights=tmp_path)
    assert torch.equal(read.encode(wav), random.encode(wav)) and read.fingerprint != random.fingerprint
    asked = []
    monkeypatch.setattr(weights_module, "hub_file", lambda repo, name, commit, *a: asked.append((repo, name, commit)) or tmp_path / MUSIC_FILE)
    assert Music2Latent().fingerprint == read.fingerprint and asked == [(MUSIC_REPO, MUSIC_FILE, MUSIC_REVISION)]
