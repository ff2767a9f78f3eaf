"data.corpora: tables that tell the truth about their files, splits that keep speakers apart, scans that nothing stops."
import builtins
import hashlib
import io
import json
import os
import shutil
import tarfile
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas import DataFrame
from scipy.signal import periodogram

from audioengram.core import AudioengramError, CorpusError, ParameterError, cache_dir
from audioengram.data import corpora, fetch, sources
from audioengram.data.audio import load_audio, save_audio
from audioengram.data.corpora import COLUMNS, Corpus, SpeakerSplit, fetch_corpus, get_corpus, list_corpora, listen
from audioengram.data.voices import synthesise

RATE = 16_000


def voice(seed=0, seconds=1.0): return synthesise(seconds, seed, 90 + 13 * (seed % 11))


def table(sizes, seconds=3.0):
    "A corpus without files; sizes maps a fold to the numbers of utterances of its speakers."
    rows = [{"utterance_id": f"{f}/{s}/{i}", "speaker_id": f"{f}/{s}", "path": "-", "seconds": seconds * (1 + i % 3), "rate": RATE, "channels": 1, "text": "", "sha256": f"{f}{s}{i}",
             "licence": "CC0", "fold": f, "sex": "", "language": ""} for f, speakers in sizes.items() for s, n in enumerate(speakers) for i in range(n)]
    return Corpus("toy", DataFrame(rows, columns=COLUMNS), "CC0", "here")


SIZES = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.lists(st.integers(1, 30), min_size=1, max_size=4), min_size=2, max_size=12)


# ---- splits

@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 2**31), fraction=st.floats(0.05, 0.9), valid=st.floats(0, 0.5))
def test_split_properties(sizes, seed, fraction, valid):
    c = table(sizes)
    u = c.utterances
    s = c.split(fraction, seed, valid)
    assert s.train and s.eval and not set(s.train) & set(s.eval)
    assert set(s.train) | set(s.eval) == set(u.speaker_id)
    sides = [set(s.train_utterances), set(s.valid_utterances), set(s.eval_utterances)]
    assert sum(map(len, sides)) == len(u) and set.union(*sides) == set(u.utterance_id)   # every utterance on exactly one side
    fold = dict(zip(u.utterance_id, u.fold, strict=True))
    assert not {fold[i] for i in sides[0] | sides[1]} & {fold[i] for i in sides[2]}
    assert sides[0], "something is left to train on"
    assert len(sides[1]) <= max(1, round(valid * (len(sides[0]) + len(sides[1]))))
    shuffled = replace(c, utterances=u.sample(frac=1, random_state=seed % 1000).reset_index(drop=True))
    again = shuffled.split(fraction, seed, valid)
    assert replace(again, fingerprint="") == replace(s, fingerprint="")


@settings(max_examples=30, deadline=None)
@given(speakers=st.integers(20, 120), fraction=st.floats(0.1, 0.5), seed=st.integers(0, 1000))
def test_split_share_is_close_where_it_can_be(speakers, fraction, seed):
    s = table({f"s{i:03d}": [6] for i in range(speakers)}).split(fraction, seed)
    assert abs(len(s.eval) / speakers - fraction) <= 0.5 / speakers + 1e-9


def test_split_of_lopsided_folds_is_close_in_time_too():
    c = table({"en": [500, 400], "it": [300], "fr": [300], "ml": [250], **{f"x{i}": [12, 9] for i in range(20)}})
    for seed in range(10):
        s = c.split(seed=seed)
        share = c.utterances.set_index("utterance_id").seconds[list(s.eval_utterances)].sum() / c.utterances.seconds.sum()
        assert abs(share - 0.2) < 0.05 and abs(len(s.eval) / c.utterances.speaker_id.nunique() - 0.2) < 0.07


def test_split_saves_loads_and_refuses(tmp_path):
    c = table({"a": [5], "b": [5], "c": [5, 5]})
    s = c.split(seed=4)
    s.save(tmp_path / "s.json")
    assert SpeakerSplit.load(tmp_path / "s.json", c) == s
    assert json.loads((tmp_path / "s.json").read_text())["seed"] == 4
    with pytest.raises(CorpusError, match="was drawn from"): SpeakerSplit.load(tmp_path / "s.json", table({"a": [5], "b": [5]}))
    (tmp_path / "s.json").write_text((tmp_path / "s.json").read_text()[:-30])
    with pytest.raises(CorpusError, match="JSON"): SpeakerSplit.load(tmp_path / "s.json")
    (tmp_path / "s.json").write_text('{"format": "audioengram-split-1", "train": []}')
    with pytest.raises(CorpusError, match="not a split"): SpeakerSplit.load(tmp_path / "s.json")
    with pytest.raises(CorpusError, match="1 fold"): table({"a": [3, 4]}).split()
    for bad in (0, 1, -0.1, 1.5):
        with pytest.raises(ParameterError): c.split(bad)


# ---- subsets

@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 99), n=st.integers(1, 60), seconds=st.floats(9, 300))
def test_subset_properties(sizes, seed, n, seconds):
    c = table(sizes)
    s = c.subset(n, seconds, seed)
    assert 1 <= len(s) <= n and s.utterances.seconds.sum() <= seconds
    assert set(s.utterances.utterance_id) <= set(c.utterances.utterance_id)
    assert s.fingerprint == c.subset(n, seconds, seed).fingerprint
    fitting = c.utterances[c.utterances.seconds <= seconds / 2]
    if n >= 2 and fitting.fold.nunique() >= 2: assert s.split().eval, "two folds, so that it can be split"


def test_subset_has_several_speakers_and_can_be_split():
    c = table({f"f{i}": [40, 40] for i in range(20)})
    s = c.subset(max_seconds=120)
    assert s.utterances.speaker_id.nunique() == 8 and s.utterances.fold.nunique() == 8
    assert s.split().eval
    assert len(c.subset()) == len(c) and c.subset().fingerprint == c.fingerprint
    assert c.subset(n_utterances=4, seed=1).fingerprint != c.subset(n_utterances=4, seed=2).fingerprint
    with pytest.raises(CorpusError, match="shorter"): c.subset(max_seconds=1)
    with pytest.raises(ParameterError): c.subset(n_utterances=0)


# ---- scans

@pytest.fixture
def tree(tmp_path):
    for who in ("ann", "bob", "cyd"):
        for i in range(3): save_audio(tmp_path / "tree" / who / f"{i}.flac", voice(hash_of(who, i)), RATE)
    return tmp_path / "tree"


def hash_of(*x): return int(hashlib.md5(repr(x).encode()).hexdigest()[:6], 16)


def test_folder_speakers_and_columns(tree):
    c = get_corpus("folder", root=tree, licence="mine")
    assert tuple(c.utterances.columns) == COLUMNS and len(c) == 9
    assert c.utterances.speaker_id.value_counts().to_dict() == {"ann": 3, "bob": 3, "cyd": 3}
    assert set(c.utterances.licence) == {"mine"} and c.utterances.utterance_id.is_unique
    row = c.utterances.iloc[4]
    assert row.sha256 == hashlib.sha256(Path(row.path).read_bytes()).hexdigest()
    wav, rate = c.load(row.utterance_id)
    assert rate == row["rate"] == RATE and len(wav) / rate == pytest.approx(row.seconds)
    with pytest.raises(CorpusError, match="no utterance"): c.load("nobody")
    assert c.speakers.set_index("speaker_id").minutes["ann"] == pytest.approx(3 / 60, abs=1e-3)
    assert c.summary()["utterances"] == 9 and "9 utterances, 3 speakers" in repr(c)


def test_folder_by_pattern(tree):
    named = get_corpus("folder", root=tree, speaker=r"(?P<speaker>[ab])[a-z]+/")
    assert sorted(set(named.utterances.speaker_id)) == ["a", "b"]
    assert len(named.failures) == 3 and named.failures.reason.str.contains("gives no speaker").all()
    assert sorted(set(get_corpus("folder", root=tree, speaker=r"/(\d)").utterances.speaker_id)) == ["0", "1", "2"]
    with pytest.raises(ParameterError, match="regular expression"): get_corpus("folder", root=tree, speaker="[")
    with pytest.raises(CorpusError, match="needs root"): get_corpus("folder")
    with pytest.raises(CorpusError, match="not a folder"): get_corpus("folder", root=tree / "nowhere")
    with pytest.raises(CorpusError, match="no usable recording"): get_corpus("folder", root=tree, speaker="nomatch")


def test_second_scan_measures_only_what_changed(tree, monkeypatch):
    first = get_corpus("folder", root=tree)
    seen = []
    real = corpora._measure
    monkeypatch.setattr(corpora, "_measure", lambda path, ears: seen.append(Path(path).name) or real(path, ears))
    assert get_corpus("folder", root=tree).fingerprint == first.fingerprint and seen == []
    save_audio(tree / "ann/1.flac", voice(999, 2.0), RATE)
    (tree / "bob/2.flac").unlink()
    save_audio(tree / "dan/new.wav", voice(7), RATE)
    third = get_corpus("folder", root=tree)
    assert sorted(seen) == ["1.flac", "new.wav"]
    assert third.fingerprint != first.fingerprint and len(third) == 9
    assert third.utterances.set_index("utterance_id").seconds["ann/1.flac"] == pytest.approx(2.0, abs=0.01)


def test_fingerprint_does_not_know_where_files_lie(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "elsewhere")
    assert get_corpus("folder", root=tree).fingerprint == get_corpus("folder", root=tmp_path / "elsewhere").fingerprint


def test_bad_files_are_listed_and_nothing_else_is_lost(tree, monkeypatch):
    good = {p.name for p in (tree / "ann").iterdir()}
    whole = (tree / "bob/0.flac").read_bytes()
    nan = voice(3); nan[100] = np.nan
    sf.write(tree / "bob/nan.wav", nan, RATE, subtype="FLOAT")
    sf.write(tree / "bob/one.wav", voice(3)[:1], RATE)
    sf.write(tree / "bob/zero.wav", voice(3)[:0], RATE)
    (tree / "bob/empty.ogg").write_bytes(b"")
    (tree / "bob/cut.flac").write_bytes(whole[:len(whole) // 2])
    (tree / "bob/text.wav").write_text("call me Ishmael\n" * 99)
    save_audio(tree / "bob/locked.wav", voice(5), RATE)
    real = builtins.open
    def refuse(file, *a, **k):
        if str(file).endswith("locked.wav"): raise PermissionError(13, "Permission denied")
        return real(file, *a, **k)
    monkeypatch.setattr(builtins, "open", refuse)
    for _ in range(2):  # failures are not cached: a file that was repaired is found the next time
        c = get_corpus("folder", root=tree)
        why = {Path(p).name: r for p, r in zip(c.failures.path, c.failures.reason, strict=True)}
        assert set(why) == {"nan.wav", "one.wav", "zero.wav", "empty.ogg", "cut.flac", "text.wav", "locked.wav"}
        assert "truncated" in why["cut.flac"] and "NaN" in why["nan.wav"] and "may not be read" in why["locked.wav"] and "not audio" in why["text.wav"]
        assert len(c) == 9 and {Path(p).name for p in c.utterances.path if "ann" in p} == good
    monkeypatch.setattr(builtins, "open", real)
    assert len(get_corpus("folder", root=tree)) == 10


def test_links_are_followed_once_and_odd_names_are_listed(tree, tmp_path):
    (tree / "eve").symlink_to(tmp_path / "far"); (tmp_path / "far").mkdir()
    save_audio(tmp_path / "far/a.wav", voice(77), RATE)
    (tree / "ann/loop").symlink_to(tree)
    odd = os.fsencode(tree / "bob") + b"/\xff\xfe.wav"
    with open(odd, "wb") as f: f.write((tmp_path / "far/a.wav").read_bytes())
    c = get_corpus("folder", root=tree)
    assert len(c) == 10 and "eve" in set(c.utterances.speaker_id)
    assert [r for r in c.failures.reason] == ["has a name that is not valid UTF-8. Rename it"] and "\\xff" in c.failures.path[0]


def test_a_damaged_manifest_is_only_a_lost_cache_and_a_full_disk_is_said(tree, monkeypatch):
    first = get_corpus("folder", root=tree)
    for table_ in cache_dir("manifests").glob("folder-*"): table_.write_bytes(b"PAR1 nonsense")
    assert get_corpus("folder", root=tree).fingerprint == first.fingerprint
    save_audio(tree / "ann/9.flac", voice(12), RATE)
    def full(*_, **__): raise OSError(28, "No space left on device")
    monkeypatch.setattr(DataFrame, "to_parquet", full)
    with pytest.raises(CorpusError, match="No space left") as e: get_corpus("folder", root=tree)
    assert "AUDIOENGRAM_CACHE" in str(e.value)


def test_silence_and_copies_are_left_out_with_a_reason(tree):
    shutil.copy(tree / "ann/0.flac", tree / "bob/again.flac")
    wav, _ = load_audio(tree / "ann/1.flac")
    save_audio(tree / "cyd/rewrapped.wav", wav, RATE)     # another container, the same samples up to 16-bit rounding
    save_audio(tree / "cyd/silent.wav", np.zeros(RATE), RATE)
    save_audio(tree / "cyd/blip.wav", voice(1)[:1_600], RATE)
    c = get_corpus("folder", root=tree)
    why = {Path(p).name: r for p, r in zip(c.excluded.path, c.excluded.reason, strict=True)}
    assert set(why) >= {"again.flac", "silent.wav", "blip.wav"}
    assert "copy" in why["again.flac"] and "silence" in why["silent.wav"] and "shortest" in why["blip.wav"]
    assert len(get_corpus("folder", root=tree, shortest=0.05)) == len(c) + 1


def test_two_files_of_one_name_in_librispeech_are_listed(tmp_path):
    for suffix in ("flac", "wav"): save_audio(tmp_path / "dev-clean/1/2" / f"1-2-0000.{suffix}", voice(1), RATE)
    save_audio(tmp_path / "dev-clean/3/4/3-4-0000.flac", voice(2), RATE)
    c = get_corpus("librispeech", root=tmp_path)
    assert len(c) == 2 and c.failures.reason.str.contains("same utterance id").tolist() == [True]


# ---- what listening tells

def test_rules_on_sounds_made_for_them():
    t = np.arange(RATE) / RATE
    rng = np.random.default_rng(0)
    heard = DataFrame({name: {"seconds": 1.0, **listen(np.float32(wav), RATE)} for name, wav in {
        "speech": synthesise(1, 3, 110), "beep": 0.1 * np.sin(2 * np.pi * 700 * t), "two tones": np.where(t < 0.5, 0.1 * np.sin(2 * np.pi * 440 * t), 0.1 * np.sin(2 * np.pi * 880 * t)),
        "beep in noise floor": 0.1 * np.sin(2 * np.pi * 320 * t) + 1e-4 * rng.standard_normal(RATE), "noise": 0.1 * rng.standard_normal(RATE), "dither": rng.integers(-1, 2, RATE) / 32768,
        "hum": 0.1 * np.sin(2 * np.pi * 50 * t) + 0.002 * synthesise(1, 3, 110), "hot": 40 * synthesise(1, 3, 110), "zeros": np.zeros(RATE), "direct current": np.full(RATE, 0.3)}.items()}).T
    hits = {name: [rule for rule, (which, _) in corpora.RULES.items() if rule != "copy" and bool(which(heard.loc[[name]], 0.2).iloc[0])] for name in heard.index}
    assert hits["speech"] == []
    assert all("tone" in hits[n] for n in ("beep", "two tones", "beep in noise floor"))
    assert "noise" in hits["noise"] and "silent" in hits["dither"] and "silent" in hits["zeros"] and "silent" in hits["direct current"]
    assert "hum" in hits["hum"] and "overdriven" in hits["hot"]


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 4_000), rate=st.sampled_from([8_000, 16_000, 44_100, 128_000]), seed=st.integers(0, 99))
def test_listen_takes_any_clip(n, rate, seed):
    heard = listen(np.random.default_rng(seed).uniform(-1, 1, n).astype(np.float32), rate)
    assert all(np.isfinite(v) for v in heard.values() if not isinstance(v, str))


# ---- synthetic

def test_synthetic_is_the_same_everywhere_and_quick_to_find(tmp_path, monkeypatch):
    options = {"n_speakers": 3, "n_utterances": 2, "seconds": 1.5}
    prints = []
    for name in ("a", "b"):
        monkeypatch.setenv("AUDIOENGRAM_CACHE", str(tmp_path / name))
        prints.append(get_corpus("synthetic", **options).fingerprint)
    assert prints[0] == prints[1] != get_corpus("synthetic", seed=1, **options).fingerprint
    c = get_corpus("synthetic", **options)
    assert len(c) == 6 and set(c.utterances.sex) == {"F", "M"} and len(c.failures) == 0
    assert c.split().eval


def test_synthetic_alternates_voice_noise_and_pause():
    wav = synthesise(6, 5, 100)
    frames = wav[:len(wav) // 400 * 400].reshape(-1, 400)
    level = 10 * np.log10((frames**2).mean(1))
    assert (level < level.max() - 35).mean() > 0.03 and (level > level.max() - 15).mean() > 0.3
    crossings = (np.diff(np.signbit(frames), axis=1).sum(1) / 0.025)[level > level.max() - 30]
    assert (crossings > 4_000).any() and (crossings < 1_500).mean() > 0.3             # fricatives and vowels


# ---- librispeech

@pytest.fixture(scope="module")
def libri(librispeech_root): return get_corpus("librispeech", root=librispeech_root)


def test_librispeech_facts(libri):
    u = libri.utterances
    assert (len(libri), u.speaker_id.nunique()) == (1383, 267) and len(libri.failures) == len(libri.excluded) == 0
    texts = u[u.text != ""]
    assert len(texts) == 1132 and texts.utterance_id.str.startswith("1272-").any()
    assert texts.set_index("utterance_id").text["1272-128104-0000"] == "MISTER QUILTER IS THE APOSTLE OF THE MIDDLE CLASSES AND WE ARE GLAD TO WELCOME HIS GOSPEL"
    assert set(u.sex) == {"F", "M"} and set(u.licence) == {"CC BY 4.0"} and set(u["rate"]) == {16_000}
    assert u.seconds.sum() / 60 == pytest.approx(182, abs=2)


def test_librispeech_roots_and_subsets(libri, librispeech_root, monkeypatch):
    dev = get_corpus("librispeech", root=librispeech_root / "dev-clean")
    assert dev.utterances.speaker_id.nunique() == 16 and len(dev) == 1132
    assert get_corpus("librispeech", root=librispeech_root.parent, subset="dev-clean").fingerprint == dev.fingerprint
    monkeypatch.setenv("AUDIOENGRAM_LIBRISPEECH", str(librispeech_root))
    assert get_corpus("librispeech").fingerprint == libri.fingerprint
    assert get_corpus("librispeech", subset=["train-clean-100"]).utterances.speaker_id.nunique() == 251
    assert list_corpora().set_index("name").ready["librispeech"]
    with pytest.raises(CorpusError, match="test-clean"): get_corpus("librispeech", subset="test-clean")


def test_librispeech_missing_tells_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("AUDIOENGRAM_LIBRISPEECH", raising=False)
    with pytest.raises(CorpusError, match="corpus fetch librispeech"): get_corpus("librispeech", root=tmp_path)
    with pytest.raises(CorpusError, match="corpus fetch librispeech"): get_corpus("librispeech")
    with pytest.raises(ParameterError, match="no subset"): fetch_corpus("librispeech", root=tmp_path, subset="dev-dirty")


class Site(BaseHTTPRequestHandler):
    "A web site that breaks off after `limit` bytes."
    files, limit, asked = {}, 10**9, []

    def do_GET(self):
        body = self.files.get(self.path)
        self.asked.append((self.path, self.headers.get("Range")))
        if body is None: return self.send_error(404)
        start = int((self.headers.get("Range") or "bytes=0-").split("=")[1].rstrip("-"))
        if start >= len(body): return self.send_error(416)
        self.send_response(206 if start else 200); self.send_header("Content-Length", str(len(body) - start)); self.end_headers()
        self.wfile.write(body[start:start + self.limit])

    def log_message(self, *_): pass


@pytest.fixture
def site():
    handler = type("Handler", (Site,), {"files": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()


@pytest.fixture
def archive(tmp_path):
    "dev-clean in miniature, as openslr.org would send it."
    home = tmp_path / "made/LibriSpeech"
    for who, n in (("84", 3), ("174", 2)):
        for i in range(n): save_audio(home / f"dev-clean/{who}/1/{who}-1-{i:04d}.flac", voice(int(who) + i), RATE)
    (home / "SPEAKERS.TXT").write_text("84 | F | dev-clean | 8.02 | Christie Nowak\n174 | M | dev-clean | 8.04 | Peter Eastman\n")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar: tar.add(home, "LibriSpeech")
    return out.getvalue()


def test_librispeech_is_fetched_resumed_checked_and_unpacked(site, archive, tmp_path, monkeypatch):
    url, handler = site
    handler.files["/dev-clean.tar.gz"] = archive
    monkeypatch.setitem(sources.LIBRISPEECH, "dev-clean", hashlib.md5(archive).hexdigest())
    monkeypatch.setattr(fetch.time, "sleep", lambda s: None)
    handler.limit = len(archive) // 3
    home = sources.fetch_librispeech("dev-clean", tmp_path / "here", show=False, site=url)
    starts = [int((r or "bytes=0-").split("=")[1].rstrip("-")) for _, r in handler.asked]
    assert starts[0] == 0 and starts == sorted(starts) and len(starts) >= 3      # broken off, and taken up again
    c = get_corpus("librispeech", root=tmp_path / "here")
    assert len(c) == 5 and dict(zip(c.speakers.speaker_id, c.speakers.sex, strict=True)) == {"84": "F", "174": "M"}
    assert sorted(p.name for p in (tmp_path / "here").iterdir()) == ["LibriSpeech"]  # no archive, no scratch
    n = len(handler.asked)
    assert sources.fetch_librispeech("dev-clean", tmp_path / "here", site=url) == home and len(handler.asked) == n


def test_a_wrong_archive_is_refused(site, archive, tmp_path, monkeypatch):
    url, handler = site
    handler.files["/dev-clean.tar.gz"] = archive
    with pytest.raises(CorpusError, match="wrong md5"): sources.fetch_librispeech("dev-clean", tmp_path / "here", show=False, site=url)
    assert not (tmp_path / "here/LibriSpeech").exists() or not list((tmp_path / "here/LibriSpeech").iterdir())
    with pytest.raises(CorpusError, match="HTTP 404"): sources.fetch_librispeech("test-clean", tmp_path / "here", show=False, site=url)


def test_a_stale_part_is_replaced(site, archive, tmp_path, monkeypatch):
    "What is here may be the beginning of another file: the checksum tells, and it is fetched from the start."
    url, handler = site
    handler.files["/x"] = archive
    (tmp_path / "x.part").write_bytes(b"something else" * 10)
    got = fetch.download(f"{url}/x", tmp_path / "x", digest=hashlib.md5(archive).hexdigest(), show=False)
    assert got.read_bytes() == archive and not (tmp_path / "x.part").exists()


def test_two_fetches_of_one_thing_are_one(site, archive, tmp_path, monkeypatch):
    "The second waits for the first, and finds all of it."
    url, handler = site
    handler.files["/x"] = archive * 20
    monkeypatch.setattr(Site, "limit", 10**9)
    digest, got = hashlib.md5(archive * 20).hexdigest(), []
    jobs = [threading.Thread(target=lambda: got.append(fetch.download(f"{url}/x", tmp_path / "x", digest=digest, show=False).read_bytes())) for _ in range(4)]
    for job in jobs: job.start()
    for job in jobs: job.join()
    assert len(handler.asked) == 1 and got == [archive * 20] * 4 and os.listdir(tmp_path / "..").count("x.part") == 0


def test_a_cache_that_cannot_hold_a_lock_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUDIOENGRAM_CACHE", str(tmp_path / "file/x"))
    with pytest.raises(AudioengramError, match="cache folder cannot be made"): fetch.download("http://127.0.0.1:9/x", tmp_path / "x", show=False)


def test_a_full_disk_while_downloading(site, tmp_path, monkeypatch):
    url, handler = site
    handler.files["/x"] = b"x" * 100_000
    real = builtins.open
    def full(file, mode="r", *a, **k):
        f = real(file, mode, *a, **k)
        if str(file).endswith(".part") and "b" in mode and "r" not in mode:
            class Full(io.RawIOBase):
                def write(self, _): raise OSError(28, "No space left on device")
            return Full()
        return f
    monkeypatch.setattr(builtins, "open", full)
    with pytest.raises(CorpusError, match="No space left"): fetch.download(f"{url}/x", tmp_path / "x", show=False)
    assert not (tmp_path / "x").exists()


def test_no_network_is_one_clear_sentence(tmp_path, monkeypatch):
    with pytest.raises(CorpusError, match="cannot be downloaded") as e: fetch.download("http://127.0.0.1:9/x", tmp_path / "x", attempts=2, patience=0, show=False)
    assert "resumes" in str(e.value) and len(str(e.value)) < 400


# ---- debian-speech

def test_without_apt_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
    with pytest.raises(CorpusError, match="librispeech") as e: get_corpus("debian-speech", root=tmp_path)
    assert "apt-get" in str(e.value) and "folder" in str(e.value)
    row = list_corpora(debian_speech=tmp_path).set_index("name").loc["debian-speech"]
    assert not row.ready and not row.usable and "no apt-get" in row.why
    with pytest.raises(CorpusError, match="none of the speech packages"): get_corpus("debian-speech", root=tmp_path, fetch=False)


def test_paths_become_speakers_and_folds(tmp_path):
    base = tmp_path / "klettres-data/usr/share/klettres"
    kt = tmp_path / "ktuberling-data/usr/share/ktuberling/sounds"
    for i in range(3): save_audio(base / f"pt_BR/alpha/{i}.ogg", voice(i), RATE)
    (base / "pt_BR/sounds.xml").write_text('<klettres><language code="pt_BR"><alphabet><sound name="Á" file="pt_BR/alpha/0.ogg"/></alphabet></language></klettres>')
    for i, artist in enumerate(["Otger Mas", "Otger Mas", "Orestes"]):
        (kt / "ca").mkdir(parents=True, exist_ok=True)
        with sf.SoundFile(kt / f"ca/{i}.ogg", "w", RATE, 1) as f: f.artist = artist; f.write(voice(10 + i))
    save_audio(kt / "sr@latin/x.ogg", voice(20), RATE); save_audio(kt / "sr/x.ogg", voice(20), RATE)
    save_audio(kt / "nn/x.opus", voice(21), RATE)
    c = get_corpus("debian-speech", root=tmp_path, fetch=False)
    u = c.utterances.set_index("utterance_id")
    assert u.fold.to_dict() == {"klettres:pt_BR:alpha/0": "pt", "klettres:pt_BR:alpha/1": "pt", "klettres:pt_BR:alpha/2": "pt", "ktuberling:ca:0": "ca", "ktuberling:ca:1": "ca",
                                "ktuberling:ca:2": "ca", "ktuberling:sr:x": "sr"}
    assert u.speaker_id["ktuberling:ca:1"] == "ktuberling:ca:otger-mas" and u.speaker_id["ktuberling:ca:2"] == "ktuberling:ca:orestes"
    assert u.text["klettres:pt_BR:alpha/0"] == "Á" and u.text["klettres:pt_BR:alpha/1"] == ""
    assert sorted(c.excluded.reason) == ["is a copy of another recording", "was spoken by a text-to-speech service"]
    assert (c.failures.reason.str.contains("package is not here")).sum() == 5


@pytest.mark.slow
def test_debian_speech_as_installed():
    "The real corpus, where it was fetched before: facts, and by other means than the rules' that no silence and no tone is left."
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "audioengram/corpora/debian-speech"
    if not (root / "ktuberling-data").is_dir(): pytest.skip("needs `audioengram corpus fetch debian-speech`")
    c = get_corpus("debian-speech", root=root, fetch=False)
    assert len(c) > 5_500 and 180 < c.utterances.seconds.sum() / 60 < 220 and c.utterances.fold.nunique() >= 25
    for path in c.utterances.path:
        wav, rate = load_audio(path)
        hz, power = periodogram(wav - wav.mean(), rate)
        band = power * (hz > 100)
        at = band.argmax()
        assert np.sqrt((wav**2).mean()) > 1e-3, f"silence: {path}"
        assert band[np.abs(hz - hz[at]) < 12].sum() / band.sum() < 0.98, f"tone: {path}"
    s = c.split()
    fold = c.utterances.drop_duplicates("speaker_id").set_index("speaker_id").fold
    assert not set(fold[list(s.train)]) & set(fold[list(s.eval)])


# ---- the registry

def test_registry():
    t = list_corpora().set_index("name")
    assert set(t.index) == {"synthetic", "librispeech", "folder", "debian-speech", "sonic-pi", "supersonic", "hydrogen-drumkits"}
    assert t[["licence", "source", "fetched", "speakers", "folds", "why"]].map(bool).all().all()
    with pytest.raises(CorpusError, match="Choose one of"): get_corpus("imaginary")
    with pytest.raises(ParameterError, match="no option voice"): get_corpus("synthetic", voice=3)
    c = fetch_corpus("synthetic", n_speakers=2, n_utterances=1, seconds=1.0)
    assert len(c) == 2 and c.utterances.path.str.startswith(str(cache_dir())).all()
