"core: seeds and hashes that know no pointers, paths from home, and defaults of torch that somebody changed."
import numpy as np
import pytest
import torch

from audioengram.codecs import get_codec
from audioengram.core import (
    AudioengramError,
    ParameterError,
    StoreError,
    cache_dir,
    expand,
    fingerprint,
    own_seed,
    plain_torch,
    read_json,
    spawn,
)


def test_seeds_are_what_they_were():
    "Values of runs that are published."
    assert [spawn(0, "a"), spawn(7, "seed", 3), spawn(1, "x", "y", 0)] == [344251059, 484953179, 188090165]


@pytest.mark.parametrize("same", [np.int64(3), np.int8(3), np.uint32(3), torch.tensor(3), np.array(3)])
def test_a_number_is_a_number_whoever_holds_it(same):
    assert spawn(0, "seed", same) == spawn(same - 3, np.str_("seed"), 3) == spawn(0, "seed", 3)
    assert spawn(0, (1, same), [same]) == spawn(0, (1, 3), [3])
    assert spawn(0, np.float64(.5)) == spawn(0, .5) and spawn(0, np.bool_(True)) == spawn(0, True)


def test_pointers_are_refused():
    for name in (object(), lambda: 0, [object()]):
        with pytest.raises(ParameterError, match="place in memory"): spawn(0, name)
    for x in (np.array(["a", None], object), np.array([(1, "a")], [("n", int), ("o", object)])):
        with pytest.raises(ParameterError, match="places in memory"): fingerprint(x)


def test_every_kind_of_tensor_has_a_hash():
    assert [fingerprint(np.arange(3.)), fingerprint(torch.arange(3), "nano"), fingerprint(dict(a=1, b=[1, 2.5, None]))] == ["336657032c5d108d", "2e83a63497279282", "600f402b178fb67a"]   # as ever
    kinds = [torch.bfloat16, torch.float8_e4m3fn, torch.float16, torch.float32, torch.int8, torch.bool, torch.complex64]
    prints = {fingerprint(torch.ones(4).to(k)) for k in kinds}
    assert len(prints) == len(kinds)
    assert fingerprint(torch.tensor(1., dtype=torch.bfloat16)) != fingerprint(torch.tensor(2., dtype=torch.bfloat16))
    assert fingerprint(torch.ones(2, 3, dtype=torch.bfloat16)) != fingerprint(torch.ones(3, 2, dtype=torch.bfloat16))


def test_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AUDIOENGRAM_CACHE", "~/ae")
    assert cache_dir("x") == tmp_path / "ae/x" and (tmp_path / "ae/x").is_dir()
    assert expand("~/a") == tmp_path / "a" and str(expand("a~b")) == "a~b"
    with pytest.raises(ParameterError, match="home folder"): expand("~nobody-of-this-name/x")


def test_an_impossible_cache_is_one_sentence(monkeypatch):
    monkeypatch.setenv("AUDIOENGRAM_CACHE", "/dev/null/x")
    with pytest.raises(AudioengramError, match="cache folder cannot be made.*AUDIOENGRAM_CACHE"): cache_dir("manifests")


def test_json_of_another_kind(tmp_path):
    (tmp_path / "m.json").write_text("[]")
    assert read_json(tmp_path / "m.json") == []
    with pytest.raises(StoreError, match="holds a list where a dict belongs"): read_json(tmp_path / "m.json", StoreError, dict)


@pytest.mark.parametrize("name", ["nano", "nano-linear", "mel", "nano+stack2"])
def test_codecs_do_not_see_what_the_caller_made_the_default(name):
    wav = torch.linspace(-1, 1, 8_000, dtype=torch.float32).sin()[None]
    want = get_codec(name).encode(wav)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        codec = get_codec(name)
        z = codec.encode(wav)
        assert torch.get_default_dtype() == torch.float64 and torch.get_default_device().type == "meta"
        back = codec.decode(z)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert torch.equal(z, want) and back.dtype == torch.float32 and back.device.type == "cpu"
    with plain_torch(): assert torch.zeros(1).dtype == torch.float32


def test_own_seed_leaves_everything_else_alone(monkeypatch):
    torch.manual_seed(5)
    state, seeded = torch.get_rng_state(), []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda s: seeded.append(s))
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda s: seeded.append(s))
    with own_seed(np.int64(3)): x = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), state) and seeded == []
    torch.manual_seed(3)
    assert torch.equal(x, torch.rand(4))
