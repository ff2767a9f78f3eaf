"The latent store: what is written, what is refused, and windows against loops."
import hashlib
import json
import os
import shutil
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from audioengram.codecs import get_codec, register_codec
from audioengram.codecs.base import LatentCodec
from audioengram.core import CodecError, CorpusError, ParameterError, StoreError
from audioengram.data import encode, latents, store_files, windows
from audioengram.data.audio import frame_energy, stacked_energy
from audioengram.data.encode import plan_batches, plan_shards
from audioengram.data.latents import LatentStore, encode_corpus
from audioengram.data.store_files import list_stores

RATE, HOP, DIM = 8000, 80, 24


class Projection(LatentCodec):
    "Overlapping frames of 20 ms, every 10 ms, through a fixed matrix: neighbours and padding matter, and batches go through one product."
    name, sample_rate, frame_rate, dim = "overlap", RATE, RATE / HOP, DIM
    def __init__(self, seed=7):
        super().__init__()
        self.seed, self.options, self.calls = seed, {} if seed == 7 else {"seed": seed}, []
        self.register_buffer("matrix", torch.from_numpy(np.random.default_rng(seed).standard_normal((2 * HOP, DIM)).astype("float32")))
    def identity(self): return self.seed
    def _encode(self, wav, lengths):
        self.calls.append(list(lengths))
        for n in lengths:
            if n == 4242: raise CodecError("does not like 4242 samples")
        z = torch.nn.functional.pad(wav, (0, -wav.shape[1] % HOP + HOP)).unfold(1, 2 * HOP, HOP) @ self.matrix
        if 4343 in lengths: z[lengths.index(4343)] = torch.nan
        return z
    def _decode(self, z, lengths): return torch.zeros(len(z), z.shape[1] * HOP)


@pytest.fixture(autouse=True)
def codec():
    register_codec("overlap", Projection)
    return Projection()


def corpus_of(folder, lengths, speakers=3, rates=(RATE,), seed=1, **columns):
    "Noise of given lengths in samples at RATE, written at several rates."
    folder.mkdir(exist_ok=True)
    rng, rows = np.random.default_rng(seed), []
    for i, n in enumerate(lengths):
        path, rate = folder / f"u{i}.wav", rates[i % len(rates)]
        sf.write(path, rng.uniform(.01, .5) * rng.standard_normal(n * rate // RATE).clip(-1.9, 1.9), rate, subtype="FLOAT")
        rows.append((f"u{i}", f"s{i % speakers}", str(path), n / RATE))
    return as_corpus(pd.DataFrame(rows, columns=["utterance_id", "speaker_id", "path", "seconds"]).assign(**columns))


def as_corpus(table, fingerprint="corpus-1"):
    def split(n_eval=1):
        names = sorted(table.speaker_id.unique())
        of = lambda who: tuple(table.utterance_id[table.speaker_id.isin(who)])
        return SimpleNamespace(train=tuple(names[:-n_eval]), eval=tuple(names[-n_eval:]), train_utterances=of(names[:-n_eval]),
                               eval_utterances=of(names[-n_eval:]), valid_utterances=())
    return SimpleNamespace(name="noise", utterances=table, fingerprint=fingerprint, licence="CC0", source="here", split=split)


LENGTHS = [int(n) for n in np.random.default_rng(3).integers(400, 20000, 30)] + [80, 80, 81, 4000]

@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    return corpus_of(tmp_path_factory.mktemp("ragged"), LENGTHS, text=[f"word {i}" for i in range(len(LENGTHS))])


@pytest.fixture(scope="module")
def made(ragged, tmp_path_factory):
    register_codec("overlap", Projection)
    return encode_corpus(ragged, Projection(), tmp_path_factory.mktemp("made") / "store", progress=False, shard_seconds=4)


def digest(folder):
    return {f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(Path(folder).rglob("*")) if f.is_file()}


def quiet(*a, **k):
    "Encode without a bar; failures are looked at in the store."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return encode_corpus(*a, progress=False, **k)


# What is written ------------------------------------------------------------------------------------------------------------------

def test_latents_are_those_of_each_recording_alone(made, ragged, codec):
    for row in ragged.utterances.itertuples():
        wav = sf.read(row.path, dtype="float32")[0]
        np.testing.assert_allclose(made[row.utterance_id], codec.encode(torch.from_numpy(wav)[None])[0].numpy(), atol=2e-5)


def test_index_and_energy(made, ragged):
    assert made.keys() == ragged.utterances.utterance_id.tolist() == list(made) and len(made) == 34 and "u3" in made and "x" not in made
    assert made.index.frames.tolist() == [-(-n // HOP) for n in LENGTHS]
    assert made.index.offset.tolist() == [0, *np.cumsum(made.index.frames)[:-1]] == made.offsets[:-1].tolist()
    assert made.index.text.tolist() == ragged.utterances.text.tolist()
    assert np.array_equal(np.concatenate([z for _, z in made.items()]), made.z) and made.z.dtype == np.float32
    for r, row in enumerate(ragged.utterances.itertuples()):
        wav = sf.read(row.path)[0]
        for t in range(made.index.frames[r]):                       # by the definition
            block = np.pad(wav[t * HOP:(t + 1) * HOP], (0, max(0, (t + 1) * HOP - len(wav))))
            assert made.energy[made.offsets[r] + t] == pytest.approx(10 * np.log10((block**2).mean() + 1e-10), abs=1e-3)
    assert made.median_energy(["u3", "u5"]) == pytest.approx(np.median(np.concatenate([made.energy[slice(*made.offsets[[r, r + 1]])] for r in (3, 5)])))


def test_format_is_plain_zarr_and_parquet(made):
    group = zarr.open_group(made.path, mode="r")
    assert group["z"].metadata.zarr_format == 3 and np.array_equal(group["z"][:], made.z) and np.array_equal(group["energy"][:], made.energy)
    assert [c["name"] for c in json.loads((made.path / "z/zarr.json").read_text())["codecs"]] == ["bytes", "crc32c"]
    assert pd.read_parquet(made.path / "index.parquet").equals(made.index)
    files = [f for f in made.path.rglob("*") if f.is_file()]
    assert len(files) < 12                                           # never one group an utterance
    assert not list(made.path.parent.glob(".*"))                     # and nothing left beside it


def test_many_chunks(ragged, tmp_path, codec, made, monkeypatch):
    monkeypatch.setattr(store_files, "_CHUNK_BYTES", 4 * DIM * 100)
    store = quiet(ragged, codec, path=tmp_path / "s", shard_seconds=4)
    assert len(list((store.path / "z/c").iterdir())) == -(-len(made.z) // 100) and np.array_equal(store.z, made.z)
    assert np.array_equal(store.energy, made.energy) and np.array_equal(LatentStore(store.path, memory="map").z, made.z)


def test_bytes_do_not_depend_on_workers_threads_or_order_of_finishing(ragged, tmp_path, codec, made):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try: stores = [quiet(ragged, Projection(), path=tmp_path / str(n), workers=n, shard_seconds=4) for n in (1, 2, 5)]
    finally: torch.set_num_threads(threads)
    assert torch.get_num_threads() == threads
    assert all(digest(s.path) == digest(made.path) for s in stores) and {s.fingerprint for s in stores} == {made.fingerprint}


def test_interrupted_by_a_bug_and_taken_up(ragged, tmp_path, made, monkeypatch):
    codec, n = Projection(), []
    def fragile(wav, lengths, f=codec._encode):
        n.append(1)
        if len(n) == 6: raise ZeroDivisionError("a bug")
        return f(wav, lengths)
    monkeypatch.setattr(codec, "_encode", fragile)
    with pytest.raises(ZeroDivisionError) as e: quiet(ragged, codec, path=tmp_path / "s", workers=2, shard_seconds=4)
    assert "while encoding rows" in e.value.__notes__[0]
    with pytest.raises(StoreError, match="interrupted.*goes on where it stopped"): LatentStore(tmp_path / "s")
    with pytest.raises(StoreError, match="another corpus or codec is in the way"): quiet(ragged, Projection(8), path=tmp_path / "s")
    done = len(n)
    assert digest(quiet(ragged, codec, path=tmp_path / "s").path) == digest(made.path)
    assert len(n) - done < done


def test_a_shard_damaged_while_interrupted_is_done_again(ragged, tmp_path, made, monkeypatch):
    monkeypatch.setattr(latents, "_publish", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError): quiet(ragged, Projection(), path=tmp_path / "s", shard_seconds=4)
    monkeypatch.undo()
    shard = tmp_path / ".s.partial/shard-00002.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    codec = Projection()
    assert digest(quiet(ragged, codec, path=tmp_path / "s").path) == digest(made.path)
    assert 1 <= len(codec.calls) <= 3                                 # that one shard


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60), st.floats(1, 200))
def test_plans(seconds, size):
    shards = plan_shards(seconds, size)
    assert [r for a, b in shards for r in range(a, b)] == list(range(len(seconds))) and all(b > a for a, b in shards)
    for batch in (batches := plan_batches(seconds, range(len(seconds)), size)):
        assert len(batch) == 1 or len(batch) * max(seconds[r] for r in batch) <= size
    assert sorted(r for b in batches for r in b) == list(range(len(seconds)))
    assert all(max(seconds[r] for r in a) <= min(seconds[r] for r in b) for a, b in zip(batches, batches[1:], strict=False))


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 99))
def test_stacked_energy_is_energy_of_longer_frames(n, T, seed):
    x = np.random.default_rng(seed).normal(0, .3, T * 16)
    np.testing.assert_allclose(stacked_energy(frame_energy(x, 16, T), n, T // n), frame_energy(x, 16 * n, T // n), atol=1e-4)


def test_progress_says_multiples_of_real_time(ragged, tmp_path, codec, capfd):
    encode_corpus(ragged, codec, tmp_path / "s")
    err = capfd.readouterr().err
    assert "x real time]" in err and "noise x overlap" in err


# Where it lies --------------------------------------------------------------------------------------------------------------------

def test_cache_key_is_content(ragged, codec):
    a = quiet(ragged, codec)
    assert quiet(ragged, Projection()).path == a.path
    assert quiet(ragged, Projection(8)).path != a.path
    fewer = as_corpus(ragged.utterances[:5])
    assert quiet(fewer, codec).path != a.path and len(quiet(fewer, codec)) == 5
    assert quiet(as_corpus(ragged.utterances, "corpus-2"), codec).path != a.path
    assert str(a.path) in list_stores().path.tolist() and list_stores(a.path / "nothing").empty


def test_nothing_is_encoded_twice_unless_asked(ragged, tmp_path, codec):
    quiet(ragged, codec, path=tmp_path / "s")
    n = len(codec.calls)
    quiet(ragged, codec, path=tmp_path / "s")
    assert len(codec.calls) == n
    before = digest(tmp_path / "s")
    quiet(ragged, codec, path=tmp_path / "s", overwrite=True)
    assert len(codec.calls) == 2 * n and digest(tmp_path / "s") == before and not list(tmp_path.glob(".*"))


def test_what_is_not_a_store_is_left_alone(ragged, tmp_path, codec):
    (tmp_path / "s").mkdir(); (tmp_path / "s/thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="no latent store is in the way"): quiet(ragged, codec, path=tmp_path / "s", overwrite=overwrite)
        assert (tmp_path / "s/thesis.txt").read_text() == "years of work"


def test_two_writers(ragged, tmp_path, codec):
    with encode._Place(tmp_path / "s", latents._request(ragged, codec, None)):
        with pytest.raises(StoreError, match="another process is writing"): quiet(ragged, codec, path=tmp_path / "s")
    assert len(quiet(ragged, codec, path=tmp_path / "s")) == 34


def test_runs_that_share_a_cache_share_the_work(ragged, monkeypatch):
    codec = Projection(21)
    monkeypatch.setattr(codec, "_encode", lambda wav, lengths, f=codec._encode: time.sleep(.02) or f(wav, lengths))
    with ThreadPoolExecutor(4) as pool: stores = list(pool.map(lambda _: quiet(ragged, codec, workers=1), range(4)))
    assert len({s.fingerprint for s in stores}) == 1 and sum(map(len, codec.calls)) == 34
    assert not list(stores[0].path.parent.glob(".*"))


def test_a_writer_killed_after_its_last_rename(ragged, tmp_path, codec, monkeypatch):
    "What it left is neither taken for unfinished work nor left lying."
    for again in ({}, {"overwrite": True}):
        with monkeypatch.context() as m:
            m.setattr(encode, "_wipe", lambda work, but=None: None)
            quiet(ragged, codec, path=tmp_path / "s", overwrite=True)
        assert (tmp_path / ".s.partial/shards.json").exists()
        n = len(codec.calls)
        quiet(ragged, codec, path=tmp_path / "s", **again)
        assert (len(codec.calls) > n) == bool(again) and not list(tmp_path.glob(".*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(ragged, tmp_path, codec):
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="cannot write"): quiet(ragged, codec, path=tmp_path / "s")


# Bad input ------------------------------------------------------------------------------------------------------------------------

def test_bad_recordings_are_listed_and_nothing_else_is_lost(tmp_path, codec):
    corpus = corpus_of(tmp_path / "c", [8000] * 12, rates=(8000, 96000, 44100))
    path = [Path(p) for p in corpus.utterances.path]
    path[0].write_bytes(b"")                                                        # empty file
    sf.write(path[1], np.zeros(0), RATE)                                            # no samples
    sf.write(path[2], np.zeros(1), RATE)                                            # one
    sf.write(path[3], np.r_[np.zeros(4000), np.nan], RATE, subtype="FLOAT")         # NaN
    path[4].write_text("this is text, " * 500)                                      # text renamed
    sf.write(tmp_path / "x.flac", np.random.default_rng(0).normal(0, .1, 80000), RATE)
    (flac := tmp_path / "cut.flac").write_bytes((tmp_path / "x.flac").read_bytes()[:30000])
    corpus.utterances.loc[5, "path"] = str(flac)                                    # truncated
    path[6].unlink()                                                                # missing
    sf.write(path[7], np.random.default_rng(0).normal(0, .1, (8000, 6)), RATE)      # six channels: fine
    sf.write(path[8], np.random.default_rng(0).normal(0, .1, 4242), RATE)           # the codec refuses it
    sf.write(path[9], np.random.default_rng(0).normal(0, .1, 4343), RATE)           # the codec makes NaN
    with pytest.warns(UserWarning, match=r"9 of 12 utterances could not be encoded(?s:.*)u0: (?s:.*)u6: file not found"):
        store = encode_corpus(corpus, codec, tmp_path / "s", progress=False)
    f = store.failures.set_index("utterance_id")
    assert sorted(f.index) == sorted(f"u{i}" for i in (0, 1, 2, 3, 4, 5, 6, 8, 9)) and store.keys() == ["u7", "u10", "u11"]
    assert set(f.error) == {"AudioError", "CodecError"} and f.speaker_id["u4"] == "s1"
    assert "u4.wav" in f.message["u4"] and "4242" in f.message["u8"] and "not finite" in f.message["u9"]
    assert np.isfinite(store.z).all() and store.meta["failed"] == 9
    assert list(store.rows(["u0", "u7", "u11"])) == [0, 2]                          # ids that failed are left out of windows
    with pytest.raises(StoreError, match="store.failures says why"): store["u0"]
    wav = sf.read(path[10], dtype="float32")[0]                                     # 96 kHz
    assert len(wav) == 96000 and len(store["u10"]) == 100


def test_all_failed(tmp_path, codec):
    corpus = corpus_of(tmp_path / "c", [8000] * 3)
    for p in corpus.utterances.path: Path(p).write_text("no sound")
    for _ in range(2):                                                              # again, not from what was left
        with pytest.raises(StoreError, match="none of 3 utterances could be encoded.*not audio"): quiet(corpus, codec, path=tmp_path / "s")
        assert not (tmp_path / "s").exists() and not list(tmp_path.glob(".*"))
    for i, p in enumerate(corpus.utterances.path): sf.write(p, np.random.default_rng(i).normal(0, .1, 8000), RATE)
    assert len(quiet(corpus, codec, path=tmp_path / "s")) == 3


def test_bad_corpora(ragged, codec):
    table = ragged.utterances
    for bad, what in ((table.drop(columns="seconds"), "lacks seconds"), (table[:0], "no utterances"),
                      (pd.concat([table, table[:1]]), "two utterances called 'u0'"), (table.assign(seconds=[np.nan, *table.seconds[1:]]), "how long utterance 'u0'")):
        with pytest.raises(CorpusError, match=what): quiet(as_corpus(bad), codec)


# Something else than expected -----------------------------------------------------------------------------------------------------

def test_another_codec_or_corpus(made, ragged, codec):
    assert len(LatentStore(made.path, codec=codec, corpus=ragged)) == 34
    with pytest.raises(StoreError, match="not of this 'overlap'.*encode to another path"): LatentStore(made.path, codec=Projection(8))
    with pytest.raises(StoreError, match="of corpus 'noise'.*corpus-2"): LatentStore(made.path, corpus=as_corpus(ragged.utterances, "corpus-2"))
    with pytest.raises(StoreError, match="not of this"): quiet(ragged, Projection(8), path=made.path)
    with pytest.raises(StoreError, match="other utterances of this corpus"): quiet(as_corpus(ragged.utterances[:5]), codec, path=made.path)
    with pytest.raises(StoreError, match="not of this"): LatentStore(made.path, codec=get_codec("overlap+stack2"))
    register_codec("overlap", lambda: Projection(9))                  # the codec has changed since
    with pytest.raises(StoreError, match="codec 'overlap'.*not of this"): made.codec()


def test_codec_comes_back_with_its_options(ragged):
    store = quiet(ragged, Projection(8))
    assert store.codec().seed == 8
    with pytest.raises(StoreError, match="not of this"): store.codec(seed=9)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "longer", "missing"])
@pytest.mark.parametrize("file", ["z/c/0/0", "energy/c/0", "index.parquet", "failures.parquet", "views.safetensors", "zarr.json", "z/zarr.json", "manifest.json"])
def test_damage(viewed, tmp_path, file, damage):
    shutil.copytree(viewed.path, path := tmp_path / "s")
    data = (path / file).read_bytes()
    mid = len(data) // 2
    new = {"flip": data[:mid] + bytes([data[mid] ^ 1]) + data[mid + 1:], "cut": data[:mid], "empty": b"", "longer": data + b"\0"}
    (path / file).unlink() if damage == "missing" else (path / file).write_bytes(new[damage])
    if "/c/" in file:
        store = LatentStore(path)
        with pytest.raises(StoreError, match=f"{file}.*Encode it again"): store.z if file[0] == "z" else store.energy
        with pytest.raises(StoreError, match=f"1 of .* damaged or missing, the first: .*{file}"): store.check()
    else:
        with pytest.raises(StoreError, match=("Make one with" if damage == "missing" else "manifest.json") if file == "manifest.json" else file): LatentStore(path)


def test_another_format(made, tmp_path):
    shutil.copytree(made.path, tmp_path / "s")
    m = json.loads((tmp_path / "s/manifest.json").read_text())
    (tmp_path / "s/manifest.json").write_text(json.dumps(m | {"format": "audioengram latents 0"}))
    with pytest.raises(StoreError, match="format 'audioengram latents 0'.*Encode it again"): LatentStore(tmp_path / "s")


# Views ----------------------------------------------------------------------------------------------------------------------------

VIEW = "overlap+stack2+pca8+normalise"

@pytest.fixture(scope="module")
def viewed(ragged, tmp_path_factory):
    register_codec("overlap", Projection)
    return quiet(ragged, get_codec(VIEW), path=tmp_path_factory.mktemp("viewed") / "store")


def test_view_store(viewed, made, ragged):
    codec = viewed.codec()
    assert codec.is_fitted and viewed.dim == 8 and viewed.frame_rate == 50
    for row in ragged.utterances.itertuples():
        if row.utterance_id in viewed:
            wav = torch.from_numpy(sf.read(row.path, dtype="float32")[0])[None]
            np.testing.assert_allclose(viewed[row.utterance_id], codec.encode(wav)[0].numpy(), atol=1e-4)
    r, s = viewed.rows(["u4"])[0], made.rows(["u4"])[0]
    assert np.allclose(viewed.energy[viewed.offsets[r]:viewed.offsets[r + 1]],
                       stacked_energy(made.energy[made.offsets[s]:made.offsets[s + 1]], 2, viewed.index.frames[r]))
    short = [f"u{i}" for i, n in enumerate(LENGTHS) if -(-n // HOP) < 2]       # one base frame makes no stacked one
    assert short and viewed.failures.utterance_id.tolist() == short and "shorter than one frame" in viewed.failures.message[0]
    z = np.concatenate([*viewed.latents(ragged.split().train_utterances)])
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-3); np.testing.assert_allclose(z.std(0), 1, atol=1e-3)
    assert viewed.summary()["views fitted on"].startswith("2 speakers") and viewed.meta["codec"]["fitted_on"]["speakers"] == ["s0", "s1"]
    LatentStore(viewed.path, codec=get_codec(VIEW)); LatentStore(viewed.path, codec=codec)


def test_views_never_see_evaluation_speakers(tmp_path):
    "Other recordings of the evaluation speaker leave what was fitted, and the training latents, untouched."
    a = corpus_of(tmp_path / "a", [8000] * 9)
    b = corpus_of(tmp_path / "b", [8000] * 9)
    for i in (2, 5, 8): sf.write(b.utterances.path[i], np.full(8000, .9), RATE)
    b.fingerprint = "corpus-b"
    x, y = quiet(a, get_codec(VIEW)), quiet(b, get_codec(VIEW))
    assert x.codec().fingerprint == y.codec().fingerprint and np.array_equal(x["u0"], y["u0"]) and not np.allclose(x["u2"], y["u2"])


def test_base_is_encoded_once_for_all_views(ragged):
    base = Projection(11)
    from audioengram.codecs.views import Normalise, StackedFrames, ViewCodec
    one = quiet(ragged, ViewCodec(base, [StackedFrames(DIM, 2)]))
    n = len(base.calls)
    view = ViewCodec(base, [Normalise(DIM)])
    two = quiet(ragged, view)
    assert n and len(base.calls) == n and len(one.z) < len(two.z)
    assert not view.is_fitted                                                   # the argument stays as it was
    with pytest.raises(StoreError, match="fitted on another split"): quiet(ragged, view, path=two.path, split=ragged.split(2))
    other = quiet(ragged, view, split=ragged.split(2))
    assert other.path != two.path and len(other.windows(ragged.split()))       # fitted on s0 alone
    with pytest.raises(StoreError, match="fitted on 1 speakers that this split evaluates, such as 's1'"): two.windows(ragged.split(2))


def test_failures_of_the_base_are_failures_of_the_view(tmp_path):
    corpus = corpus_of(tmp_path / "c", [8000] * 6)
    Path(corpus.utterances.path[2]).unlink()
    with pytest.warns(UserWarning, match="1 of 6"): store = encode_corpus(corpus, get_codec("overlap+stack2"), progress=False)
    assert store.failures.utterance_id.tolist() == ["u2"] and len(store) == 5


# Windows --------------------------------------------------------------------------------------------------------------------------

def by_loop(store, ids, W, k, slice, threshold):
    "Straight from the definition: frames t-W-k+2 ... t-k+1 predict z_{t+1}."
    out = []
    for r, u in enumerate(store.keys()):
        if u not in ids: continue
        z, energy = store[u], store.energy[store.offsets[r]:store.offsets[r + 1]]
        for t in range(len(z) - 1):
            if t - W - k + 2 < 0: continue
            if slice == "medial" and not .17 <= (t + 1) / (len(z) - 1) <= .83: continue
            if slice == "high_energy" and not energy[t + 1] > threshold: continue
            out.append((u, store.index.speaker_id[r], t + 1, z[t - W - k + 2:t - k + 2], z[t], z[t + 1]))
    return out


@settings(max_examples=60, deadline=None)
@given(W=st.integers(1, 20), k=st.integers(1, 9), slice=st.sampled_from(windows.SLICES), ids=st.sets(st.sampled_from([f"u{i}" for i in range(34)]), min_size=1))
def test_windows_against_a_loop(made, W, k, slice, ids):
    want = by_loop(made, ids, W, k, slice, -20.)
    if not want:
        with pytest.raises(ParameterError, match="no window of"): made.windows(ids, W, k, slice, energy_threshold=-20.)
        return
    w = made.windows(ids, W, k, slice, energy_threshold=-20.)
    assert len(w) == len(want)
    assert w.utterances[w.utterance].tolist() == [x[0] for x in want] and w.speakers[w.speaker].tolist() == [x[1] for x in want]
    assert w.frame.tolist() == [x[2] for x in want]
    assert np.array_equal(w.contexts().numpy(), np.stack([x[3] for x in want]))
    assert np.array_equal(w.current().numpy(), np.stack([x[4] for x in want])) and np.array_equal(w.targets().numpy(), np.stack([x[5] for x in want]))
    assert np.array_equal(w.steps().numpy(), np.stack([x[5] - x[4] for x in want])) and np.array_equal(made.z[w.row], w.targets().numpy())
    if k == 1: assert torch.equal(w.contexts()[:, -1], w.current())


def test_ways_to_index(made):
    w, pick = made.windows(length=4), [5, 0, 5, 77]
    want = w.contexts()[pick]
    for idx in (pick, np.array(pick), torch.tensor(pick), torch.tensor(pick, dtype=torch.int32)): assert torch.equal(w.contexts(idx), want)
    mask = np.zeros(len(w), bool); mask[[3, 9]] = True
    assert torch.equal(w.targets(mask), w.targets([3, 9])) and torch.equal(w.targets(slice(3, 9)), w.targets()[3:9])
    with pytest.raises(IndexError): w.targets([len(w)])
    before = made.z.copy()
    w.contexts([0]).zero_()                                                     # a batch is a copy
    assert np.array_equal(made.z, before)
    with pytest.raises(ValueError): made.z[0] = 0


def test_windows_of_a_split(made, ragged):
    split = ragged.split()
    train, ev = made.windows(split), made.windows(split, part="eval")
    assert set(train.speakers) == {"s0", "s1"} and set(ev.speakers) == {"s2"} and len(train) + len(ev) == len(made.windows())
    loud = [made.windows(split, slice="high_energy", part=p) for p in ("train", "eval")]
    assert {w.energy_threshold for w in loud} == {made.median_energy(split.train_utterances)}       # from training speech, for both
    assert .4 < len(loud[0]) / len(train) < .6
    with pytest.raises(ParameterError, match="no window"): made.windows(split, part="valid")
    assert made.tensor().data_ptr() == train._z.data_ptr() == ev._z.data_ptr()                      # one copy of the latents


def test_bad_windows(made):
    for kw, what in (({"length": 0}, "length=0"), ({"lag": -1}, "lag=-1"), ({"length": 2.5}, "length=2.5"), ({"slice": "loud"}, "all, high_energy, medial"),
                     ({"slice": "high_energy"}, "threshold from training speech"), ({"length": 10_000}, "among 34 utterances of at most")):
        with pytest.raises(ParameterError, match=what): made.windows(**kw)
    with pytest.raises(StoreError, match="1 of 2 utterances are not in this store, such as 'zz'"): made.windows(["u1", "zz"])
    with pytest.raises(ParameterError, match="memory"): LatentStore(made.path, memory="lots")


def test_batches(made):
    w = made.windows()
    one = [b for b in w.batches(100, seed=3)]
    assert torch.equal(torch.cat(one).sort().values, torch.arange(len(w))) and {len(b) for b in one[:-1]} == {100}
    assert torch.equal(torch.cat(one), torch.cat([*w.batches(7, seed=3)])) and not torch.equal(torch.cat(one), torch.cat([*w.batches(100, seed=4)]))
    g = torch.Generator().manual_seed(0)
    assert not torch.equal(next(w.batches(50, generator=g)), next(w.batches(50, generator=g)))
    assert {len(b) for b in w.batches(100, drop_last=True)} == {100}
    assert torch.equal(torch.cat([*w.batches(64, shuffle=False)]), torch.arange(len(w)))


def test_mapped_store(made, monkeypatch):
    mapped = LatentStore(made.path, memory="map")
    assert isinstance(mapped._data, np.memmap) and np.array_equal(mapped.z, made.z)
    a, b = mapped.windows(length=5, lag=3), made.windows(length=5, lag=3)
    assert torch.equal(a.contexts(), b.contexts()) and np.array_equal(mapped["u7"], made["u7"])
    monkeypatch.setattr(os, "sysconf", lambda name: 512)                         # a machine with 256 kB of memory
    assert isinstance(LatentStore(made.path)._data, np.memmap)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_windows_on_a_gpu(made):
    w = made.windows(length=6, lag=2)
    g = w.to("cuda")
    idx = next(g.batches(128, seed=0))
    assert idx.device.type == "cuda" and torch.equal(g.contexts(idx).cpu(), w.contexts(idx.cpu())) and torch.equal(g.steps(idx).cpu(), w.steps(idx.cpu()))


# Real ones ------------------------------------------------------------------------------------------------------------------------

def test_synthetic_corpus_through_nano(tmp_path):
    from audioengram.data.corpora import get_corpus
    corpus, codec = get_corpus("synthetic"), get_codec("nano")
    store = quiet(corpus, codec, path=tmp_path / "s")
    assert len(store) == len(corpus.utterances) and store.failures.empty
    from audioengram.data.audio import load_audio
    for row in list(corpus.utterances.itertuples())[:3]:
        wav = torch.from_numpy(load_audio(row.path, codec.sample_rate)[0])[None]
        np.testing.assert_allclose(store[row.utterance_id], codec.encode(wav)[0].numpy(), atol=2e-3)
    split = corpus.split()
    assert set(store.windows(split, length=2).speakers) <= set(split.train) and set(store.windows(split, length=2, part="eval").speakers) <= set(split.eval)
    view = quiet(corpus, get_codec("nano+pca16+normalise"))
    assert view.dim == 16 and view.codec().decode(torch.from_numpy(view[view.keys()[0]])[None]).abs().max() > .01
