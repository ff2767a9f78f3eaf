"Model files: exact round trips, and every hostile or damaged file is one sentence."
import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from codes_toy import model

from audioengram.codes.model import ModelConfig
from audioengram.codes.modelfile import LIMIT, load_model, read_members, save_model
from audioengram.core import ModelFileError


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return save_model(model(prior=True), tmp_path_factory.mktemp("models") / "good.distill")


def rewrite(good, to, change=None, sums=True, compress=zipfile.ZIP_STORED):
    "A copy with members changed; checksums made right unless asked otherwise, as an attacker would."
    import hashlib
    with zipfile.ZipFile(good) as z: members = {n: z.read(n) for n in z.namelist()}
    manifest = json.loads(members.pop("manifest.json"))
    members |= change or {}
    members = {k: v for k, v in members.items() if v is not None}
    if sums: manifest["sha256"] = {k: hashlib.sha256(v).hexdigest() for k, v in members.items()}
    with zipfile.ZipFile(to, "w", compress) as z:
        z.writestr("manifest.json", json.dumps(manifest))
        for k, v in members.items(): z.writestr(k, v)
    return to


def tensors(header, size=64):
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(size)


def test_round_trip_is_exact(good, tmp_path):
    m = load_model(good)
    assert m.fingerprint == model(prior=True).fingerprint
    wav = np.random.default_rng(0).normal(size=12_000) * .1
    assert (m.encode(wav) == model(prior=True).encode(wav)).all() and m.prior.config == model(prior=True).prior.config
    assert all(torch.equal(a, b) for a, b in zip(m.prior.state_dict().values(), model(prior=True).prior.state_dict().values(), strict=True))
    assert save_model(m, tmp_path / "again.distill").read_bytes() == good.read_bytes()
    assert m.about["health"] and m.about["history"] and {"licence", "sha256", "side"} <= set(m.about["provenance"][0])


def test_nothing_is_overwritten_or_half_written(good, tmp_path, monkeypatch):
    before = good.read_bytes()
    with pytest.raises(ModelFileError, match="is there already"): save_model(model(), good)
    monkeypatch.setattr(zipfile.ZipFile, "writestr", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError): save_model(model(), tmp_path / "new.distill")
    with pytest.raises(OSError): save_model(model(), good, overwrite=True)
    assert good.read_bytes() == before and not list(tmp_path.iterdir())


class Bomb:
    "Runs code when it is unpickled."
    def __reduce__(self): return (exec, ("import pathlib; pathlib.Path('pwned').touch()",))


def hostile(good, tmp_path):
    "name -> (file, what the sentence says)"
    f, old = tmp_path / "bad.distill", io.BytesIO()
    def plain(data): f.write_bytes(data); return f
    def zipped(members, compress=zipfile.ZIP_STORED):
        with zipfile.ZipFile(f, "w", compress) as z:
            for k, v in members.items(): z.writestr(k, v)
        return f
    torch.save(dict(w=torch.zeros(2), evil=Bomb()), old)
    m, config = model(prior=True), dict(json.loads(read_members(good)["config.json"]))
    weights = read_members(good)["model.safetensors"]
    state = {k: dict(dtype="F32", shape=list(v.shape), data_offsets=[0, 4]) for k, v in m.state_dict().items() if not k.startswith("prior.")}
    huge = state | {"encoder.patch.weight": dict(dtype="F32", shape=[2**40, 2**20], data_offsets=[0, 2**62])}
    nan = bytearray(weights); start = 8 + struct.unpack("<Q", weights[:8])[0] + json.loads(weights[8:8 + struct.unpack("<Q", weights[:8])[0]])["decoder.enter.weight"]["data_offsets"][0]
    nan[start:start + 4] = struct.pack("<f", float("nan"))
    half = good.read_bytes()
    return {
        "path traversal": (lambda: zipped({"../../../evil.json": "{}", "manifest.json": "{}"}), "which no model file has"),
        "absolute path": (lambda: zipped({"/etc/passwd": "root"}), "which no model file has"),
        "wrong checksum": (lambda: rewrite(good, f, {"config.json": json.dumps(config | dict(hop=256, size=9)).encode()}, sums=False), "wrong checksum for config.json"),
        "missing checksum": (lambda: rewrite(good, f, {"prior.json": None}, sums=False), "wrong checksum for prior.json"),
        "huge tensor": (lambda: rewrite(good, f, {"model.safetensors": tensors(huge)}), "declares encoder.patch.weight"),
        "huge header": (lambda: rewrite(good, f, {"model.safetensors": struct.pack("<Q", 2**60) + bytes(100)}), "impossible header"),
        "strange tensor": (lambda: rewrite(good, f, {"model.safetensors": tensors(state | dict(extra=dict(dtype="F32", shape=[1], data_offsets=[0, 4])))}), "declares extra"),
        "overlapping tensors": (lambda: rewrite(good, f, {"model.safetensors": tensors(state)}), "is damaged"),
        "NaN weights": (lambda: rewrite(good, f, {"model.safetensors": bytes(nan)}), "not finite"),
        "huge configuration": (lambda: rewrite(good, f, {"config.json": json.dumps(config | dict(size=16_384, dim=512, width=2048, bands=1, levels=16)).encode()}), "far larger"),
        "absurd configuration": (lambda: rewrite(good, f, {"config.json": json.dumps(config | dict(size=10**12)).encode()}), "impossible configuration"),
        "other configuration": (lambda: rewrite(good, f, {"config.json": json.dumps(config | dict(size=16)).encode()}), "declares"),
        "unknown field": (lambda: rewrite(good, f, {"config.json": json.dumps(config | dict(shell="sh")).encode()}), "another version"),
        "prior of another model": (lambda: rewrite(good, f, {"prior.json": read_members(good)["prior.json"].replace(b'"size": 8', b'"size": 9')}), "prior of another model"),
        "half a prior": (lambda: rewrite(good, f, {"prior.safetensors": None}), "half a prior"),
        "zip bomb": (lambda: rewrite(good, f, {"about.json": b"0" * 10**6}, compress=zipfile.ZIP_DEFLATED), "not what a model file stores"),
        "nested JSON": (lambda: rewrite(good, f, {"about.json": b"[" * 200_000}), "not valid JSON"),
        "about is a list": (lambda: rewrite(good, f, {"about.json": b"[]"}), "no table"),
        "old version": (lambda: zipped({"manifest.json": json.dumps(dict(format="audioengram-distill", version=2)), "config.json": "", "model.safetensors": "", "about.json": ""}), "version 2"),
        "version 2 pickle": (lambda: plain(pickle.dumps(Bomb())), "version 2 model"),
        "version 2 torch file": (lambda: plain(old.getvalue()), "version 2 model"),
        "cut": (lambda: plain(half[:len(half) // 2]), "is no model file"),
        "empty": (lambda: plain(b""), "is no model file"),
        "text": (lambda: plain(b"hello"), "is no model file"),
        "not there": (lambda: tmp_path / "nowhere.distill", "file not found"),
    }


@pytest.mark.parametrize("name", ["path traversal", "absolute path", "wrong checksum", "missing checksum", "huge tensor", "huge header", "strange tensor", "overlapping tensors", "NaN weights", "huge configuration",
                                  "absurd configuration", "other configuration", "unknown field", "prior of another model", "half a prior", "zip bomb", "nested JSON", "about is a list", "old version", "version 2 pickle",
                                  "version 2 torch file", "cut", "empty", "text", "not there"])
def test_hostile_files_are_one_sentence(good, tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, says = hostile(good, tmp_path)[name]
    with pytest.raises(ModelFileError, match=says) as e: load_model(make())
    assert len(str(e.value)) < 500 and "\n" not in str(e.value) and e.value.remedy
    assert not (tmp_path / "pwned").exists() and {p.name for p in tmp_path.iterdir()} <= {"bad.distill"}


def test_any_flipped_byte_is_noticed_or_harmless(good, tmp_path):
    "Bytes flipped anywhere: refused, or (in the zip's own bookkeeping) the very same model."
    data, rng = good.read_bytes(), np.random.default_rng(0)
    for at in rng.integers(0, len(data), 25):
        bad = bytearray(data); bad[at] ^= 1 << int(rng.integers(8))
        (tmp_path / "bad.distill").write_bytes(bad)
        try: assert load_model(tmp_path / "bad.distill").fingerprint == model(prior=True).fingerprint
        except ModelFileError: pass


def test_configurations_stay_in_bounds():
    assert LIMIT < 2**30 and ModelConfig().bits_per_second == pytest.approx(23.4375 * 4 * 3 * 6)
