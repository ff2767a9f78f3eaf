"Odd recordings in a folder: each right, or named with a reason, and never the end of a scan."
import os
import socket
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from formats import BARE_MP3, RF64, VORBIS, WAV, by_ffmpeg, edited, pages, put, wav_sizes

from audioengram.codecs import get_codec
from audioengram.core import AudioError, CorpusError, StoreError
from audioengram.data import audio, corpora, decode, encode
from audioengram.data.audio import UNREAD_SUFFIXES, load_audio, read_audio, resample, save_audio, stream_audio
from audioengram.data.corpora import get_corpus, listen
from audioengram.data.latents import LatentStore, encode_corpus
from audioengram.data.voices import synthesise

RATE = 16_000


def voice(seed=0, seconds=1.0): return synthesise(seconds, seed, 90 + 13 * (seed % 11))


@pytest.fixture
def tree(tmp_path):
    "Two speakers with two recordings each."
    for i, name in enumerate(("ann/0", "ann/1", "bob/0", "bob/1")): save_audio(tmp_path / f"tree/{name}.flac", voice(i), RATE)
    return tmp_path / "tree"


def reasons(listing): return {Path(p).name: r for p, r in zip(listing.path, listing.reason, strict=True)}


# ---- the cases that were filed

SECONDS = {"f02_total0.flac": 2.5, "w30_ima_adpcm.wav": 2.5, "w01_stream_ffffffff.wav": 2.5, "w03_stream_7fffffff.wav": 2.5, "w02_stream_zero.wav": 2.5, "w13_data_16_more.wav": 2.5,
           "m02_vbr_no_xing.mp3": 2.59, "o03_chained.ogg": 2.5, "v01_video_longer.mp4": 2.5, "s01.wv": 2.5, "o06_live.webm": 2.5, "base.wav": 2.5, "c02_antiphase.wav": 2.5}


def test_the_cases_that_were_filed(shared_dir, tmp_path):
    cases = shared_dir / "cases/audio"
    if not cases.is_dir(): pytest.skip("needs shared/cases")
    for name, seconds in SECONDS.items():
        x, rate = read_audio(cases / name)
        assert len(x) / rate == pytest.approx(seconds, abs=.06), name
    for i, f in enumerate(sorted(cases.iterdir())):     # a copy of one sound in many wrappings is one sound; here each is somebody's
        (tmp_path / f"{i}").mkdir()
        (tmp_path / f"{i}/{f.name}").write_bytes(f.read_bytes())
    c = get_corpus("folder", root=tmp_path)
    assert set(reasons(c.failures)) == {"w17_rate100.wav"} and "100 samples a second" in c.failures.reason[0]
    assert "cancel" in reasons(c.excluded)["c02_antiphase.wav"]
    assert "never got its length" in reasons(c.notes).get("w02_stream_zero.wav", "never got its length")
    assert len(c) + len(c.excluded) + len(c.failures) == len(list(cases.iterdir()))


def test_one_of_several_is_not_taken_for_all(tmp_path):
    "Two recordings end to end, or two stretches of samples: decoders read the first."
    wav, rf64 = WAV(tmp_path / "a"), RF64(tmp_path / "a")
    half = wav[:44] + wav[44:40_044] + b"data" + (40_000).to_bytes(4, "little") + wav[40_044:]
    cases = {"joined.wav": wav * 2, "joined64.wav": rf64 * 2, "chunks.wav": put(half, 40, (40_000).to_bytes(4, "little")),
             "rates.mp3": BARE_MP3(tmp_path / "a") + by_ffmpeg(".mp3", "libmp3lame", rate=24_000, write_xing="0")(tmp_path / "b")}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(AudioError, match="several recordings|changes its sample rate") as e: read_audio(tmp_path / name)
        assert name in str(e.value)


def test_a_live_recording_that_broke_off(tmp_path):
    "WebM without a duration has blocks that know their size; Ogg without a last page has at least no page that says so."
    data = by_ffmpeg(".webm", "libopus", "webm", 48_000, live="1")(tmp_path / "a")
    (tmp_path / "cut.webm").write_bytes(data[:len(data) // 2])
    with pytest.raises(AudioError, match="is truncated"): read_audio(tmp_path / "cut.webm")
    sf.write(tmp_path / "a.ogg", np.tile(voice(3, 5.), 3), RATE)
    (tmp_path / "cut.ogg").write_bytes(b"".join(pages((tmp_path / "a.ogg").read_bytes())[:-2]))
    assert "end may be missing" in decode.open_sound(tmp_path / "cut.ogg").note and not decode.open_sound(tmp_path / "a.ogg").note


def test_a_suffix_is_not_a_format(tmp_path):
    "Only what begins like nothing else is raw G.722."
    for i, make in enumerate((WAV, VORBIS)):
        (tmp_path / f"{i}.g722").write_bytes(make(tmp_path / "a"))
        assert read_audio(tmp_path / f"{i}.g722")[0].shape == (40_000, 1)


def test_what_is_no_file_is_not_waited_for(tree):
    os.mkfifo(tree / "ann/pipe.wav")
    (tree / "ann/zero.wav").symlink_to("/dev/zero")
    (tree / "ann/circle.wav").symlink_to("circle.wav")
    (tree / "ann/folder.wav").mkdir()
    (tree / "ann/up").symlink_to("..")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(os.path.relpath(tree / "ann/socket.wav"))
        c = get_corpus("folder", root=tree)
    why = reasons(c.failures)
    assert len(c) == 4 and set(why) == {"pipe.wav", "zero.wav", "circle.wav", "socket.wav"} and "levels of symbolic links" in why.pop("circle.wav")
    assert set(why.values()) == {"is a pipe, a socket or a device, not a recording. Remove it from the corpus"}


def test_names_that_shells_and_markup_mind(tree):
    names = ["Interview [id].wav", "[old].wav", "new\nline.wav", "quote'\".wav", "data:x.wav", "a%03d.wav", "-n.wav", "a#2.wav", " .wav"]
    for i, name in enumerate(names):
        save_audio(tree.parent / "a.flac", voice(20 + i), RATE)
        (tree / "bob" / name).write_bytes((tree.parent / "a.flac").read_bytes())
    c = get_corpus("folder", root=tree)
    assert {Path(p).name for p in c.utterances.path} >= set(names) and not len(c.failures)
    assert all(len(c.load(f"bob/{name}")[0]) == RATE for name in names)


# ---- one file is one row

@pytest.mark.parametrize("error, word", [(MemoryError(), "more memory"), (RuntimeError("something\nodd"), "RuntimeError: something"), (ValueError("x"), "ValueError"), (OSError(5, "Input/output error"), "Input/output")])
def test_whatever_one_file_raises_is_listed(tree, monkeypatch, error, word):
    real = corpora.open_sound
    def fail(path):
        if str(path).endswith("ann/1.flac"): raise error
        return real(path)
    monkeypatch.setattr(corpora, "open_sound", fail)
    c = get_corpus("folder", root=tree)
    assert len(c) == 3 and word in reasons(c.failures)["1.flac"]


def test_rates_that_no_sound_has(tree):
    data = WAV(tree.parent / "a")
    for rate in (0, 1, 100, 999, 2_000_000, 2**32 - 1): (tree / f"ann/r{rate}.wav").write_bytes(put(data, 24, rate.to_bytes(4, "little")))
    c = get_corpus("folder", root=tree)
    assert len(c) == 4 and len(c.failures) == 6
    assert sf.info(tree / "ann/0.flac").samplerate == RATE


def test_notes_are_kept_and_say_what_is_odd(tree):
    (tree / "ann/zero.wav").write_bytes(edited(WAV, wav_sizes(0, 0))(tree.parent / "a"))
    for _ in range(2):       # also from the cache
        c = get_corpus("folder", root=tree)
        assert reasons(c.notes) == {"zero.wav": "its header never got its length, so it was read to its end"} and len(c) == 5
    assert len(c.subset(2).notes) == 0


def test_antiphase_is_not_silence(tree):
    x = voice(9)
    for name, other in (("inverted", -x), ("nearly", -.97 * x), ("half", -.5 * x), ("same", x), ("noise", np.random.default_rng(0).standard_normal(len(x)) * .1)):
        sf.write(tree / f"ann/{name}.wav", np.stack([x, other], 1) * (1 - .01 * len(name)), RATE)
    sf.write(tree / "bob/quiet.wav", np.zeros((RATE, 2)), RATE)
    why = reasons(get_corpus("folder", root=tree).excluded)
    assert set(why) == {"inverted.wav", "nearly.wav", "quiet.wav"}
    assert "cancel each other" in why["inverted.wav"] and "cancel each other" in why["nearly.wav"] and why["quiet.wav"] == "is silence"


def test_integers_stored_as_floats(tree):
    sf.write(tree / "ann/loud.wav", voice(5) * 32768, RATE, subtype="FLOAT")
    sf.write(tree / "ann/hot.wav", voice(6) * 30, RATE, subtype="FLOAT")
    c = get_corpus("folder", root=tree)
    assert "integers stored as floats" in reasons(c.failures)["loud.wav"] and len(c) == 5


def test_recordings_that_are_not_read_are_named(tree):
    for suffix in (".raw", ".mid", ".aax", ".voc"): (tree / f"ann/x{suffix}").write_bytes(b"something")
    (tree / "ann/notes.txt").write_text("buy milk")
    c = get_corpus("folder", root=tree)
    assert set(reasons(c.failures)) == {"x.raw", "x.mid", "x.aax", "x.voc"}
    assert all(s in r for s, r in ((Path(n).suffix, r) for n, r in reasons(c.failures).items()))
    assert not audio.AUDIO_SUFFIXES & set(UNREAD_SUFFIXES)


# ---- who speaks

def people(root, **kw):
    u = get_corpus("folder", root=root, **kw).utterances
    return dict(zip(u.utterance_id, u.speaker_id, strict=True)), dict(zip(u.utterance_id, u.fold, strict=True))


def test_sessions_of_one_name_are_not_one_speaker(tmp_path):
    for i, name in enumerate(("anna/s1", "anna/s2", "ben/s1", "ben/s3")): save_audio(tmp_path / f"{name}/0.flac", voice(i), RATE)
    who, _ = people(tmp_path)
    assert who == {"anna/s1/0.flac": "anna", "anna/s2/0.flac": "anna", "ben/s1/0.flac": "ben", "ben/s3/0.flac": "ben"}
    apart, fold = people(tmp_path, speaker="parent")
    assert apart["anna/s1/0.flac"] == "anna/s1" and len(set(apart.values())) == 4 and fold["anna/s2/0.flac"] == "anna"
    s = get_corpus("folder", root=tmp_path, speaker="parent").split(.5)
    assert not {u.split("/")[0] for u in s.eval_utterances} & {u.split("/")[0] for u in (*s.train_utterances, *s.valid_utterances)}


def test_parts_of_a_corpus_are_no_people(tmp_path):
    for i, name in enumerate(("train/anna/s1", "test-clean/anna/s2", "train/ben", "dev/cyd")): save_audio(tmp_path / f"wavs/{name}/0.flac", voice(i), RATE)
    who, _ = people(tmp_path)
    assert set(who.values()) == {"anna", "ben", "cyd"} and who["wavs/test-clean/anna/s2/0.flac"] == "anna"


def test_accents_are_spelt_in_one_way(tmp_path):
    for i, form in enumerate(("NFC", "NFD")): save_audio(tmp_path / unicodedata.normalize(form, "José") / f"{i}.flac", voice(i), RATE)
    save_audio(tmp_path / "ben/0.flac", voice(7), RATE)
    who, _ = people(tmp_path)
    assert set(who.values()) == {"José", "ben"} and all(unicodedata.is_normalized("NFC", u) for u in who)


def test_links_rename_nobody(tree):
    (tree / "aaa").symlink_to(tree / "bob")                         # before bob in every order
    (tree / "ann/00.flac").symlink_to(tree / "bob/0.flac")
    c = get_corpus("folder", root=tree)
    assert dict(c.utterances.speaker_id.value_counts()) == {"ann": 2, "bob": 2}
    assert reasons(c.excluded) == {"00.flac": "is a link to another recording of the corpus"}


def test_a_byte_order_mark_costs_no_words(tmp_path):
    for i in range(2): save_audio(tmp_path / f"dev-clean/1/2/1-2-000{i}.flac", voice(i), RATE)
    (tmp_path / "dev-clean/1/2/1-2.trans.txt").write_bytes(b"\xef\xbb\xbf1-2-0000 FIRST WORDS\n1-2-0001 SECOND WORDS\n")
    u = get_corpus("librispeech", root=tmp_path).utterances
    assert u.text.tolist() == ["FIRST WORDS", "SECOND WORDS"]


def test_roots_begin_at_home(tree, monkeypatch):
    monkeypatch.setenv("HOME", str(tree.parent))
    assert len(get_corpus("folder", root="~/tree")) == 4
    assert len(load_audio("~/tree/ann/0.flac")[0]) == RATE


# ---- what was left out is said

def test_the_store_names_what_the_corpus_left_out(tree, tmp_path):
    whole = (tree / "ann/0.flac").read_bytes()
    (tree / "ann/cut.flac").write_bytes(whole[:len(whole) // 2])
    codec = get_codec("nano")
    with pytest.warns(UserWarning, match="1 of 5 utterances could not be encoded"): store = encode_corpus(get_corpus("folder", root=tree), codec, tmp_path / "store", progress=False)
    for s in (store, LatentStore(tmp_path / "store"), encode_corpus(get_corpus("folder", root=tree), codec, tmp_path / "store", progress=False)):
        assert len(s) == 4 and s.failures.path.tolist() == [str(tree / "ann/cut.flac")] and "truncated" in s.failures.message[0]
    (tree / "bob/text.wav").write_text("buy milk\n" * 50)             # and what came later
    later = encode_corpus(get_corpus("folder", root=tree), codec, tmp_path / "store", progress=False)
    assert sorted(Path(p).name for p in later.failures.path) == ["cut.flac", "text.wav"]
    with pytest.warns(UserWarning): views = encode_corpus(get_corpus("folder", root=tree), get_codec("nano+stack2"), tmp_path / "views", progress=False)
    assert len(views.failures) == 2


def test_places_that_are_none(tree, tmp_path, monkeypatch):
    c, codec = get_corpus("folder", root=tree), get_codec("nano")
    monkeypatch.chdir(tmp_path)
    for out in (".", "/"):
        with pytest.raises(StoreError, match="cannot be the folder of a store"): encode_corpus(c, codec, out, progress=False)
    (tmp_path / "s").mkdir()
    (tmp_path / "s/manifest.json").write_text("[]")
    with pytest.raises(StoreError, match="list where a dict"): LatentStore(tmp_path / "s")


def test_a_decoder_that_fails_while_encoding_is_one_row(tree, tmp_path, monkeypatch):
    c = get_corpus("folder", root=tree)
    real = encode.load_audio
    def fail(path, rate):
        if str(path).endswith("ann/1.flac"): raise MemoryError
        return real(path, rate)
    monkeypatch.setattr(encode, "load_audio", fail)
    with pytest.warns(UserWarning): store = encode_corpus(c, get_codec("nano"), tmp_path / "store", progress=False)
    assert store.failures.utterance_id.tolist() == ["ann/1.flac"] and "memory" in store.failures.message[0]


# ---- blocks

@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_blocks_are_the_whole(tmp_path, monkeypatch, suffix):
    "An MP3 decoder that is moved between two blocks makes a click of a quarter of full scale."
    x = np.tile(voice(3, 3.0), 3)
    save_audio(tmp_path / f"a{suffix}", x, RATE)
    at_once = sf.SoundFile(tmp_path / f"a{suffix}").read(dtype="float32", always_2d=True)
    for block in (1000, 4096, 10**9):
        monkeypatch.setattr(decode, "BLOCK", block)
        np.testing.assert_array_equal(read_audio(tmp_path / f"a{suffix}")[0], at_once)
        for rate in (None, 24_000, 44_100):
            np.testing.assert_array_equal(np.concatenate([*stream_audio(tmp_path / f"a{suffix}", rate)]), resample(at_once[:, 0], RATE, rate or RATE))


def test_ears_do_not_mind_blocks(monkeypatch):
    x = voice(4, 5.0)
    whole = listen(x, RATE)
    ear = corpora.Ear(RATE)
    for piece in np.array_split(x, 17): ear.hear(piece)
    assert ear.verdict() == whole
    monkeypatch.setattr(corpora, "LISTEN_SECONDS", 1)
    by_seconds = listen(x, RATE)
    assert by_seconds["content"] == whole["content"] and by_seconds["peak"] == whole["peak"]
    assert all(by_seconds[k] == pytest.approx(whole[k], rel=.02) for k in ("level", "tone", "flatness"))


@pytest.mark.parametrize("name, eps", [("nano", 1e-3), ("mel", 1e-4)])
def test_pieces_are_the_whole(tmp_path, name, eps):
    save_audio(tmp_path / "a.flac", np.tile(voice(3, 5.0), 3)[:16_000 * 14 + 123], RATE)
    codec = get_codec(name)
    at_once = encode._encode_batch([load_audio(tmp_path / "a.flac", RATE)[0]], codec)[0]
    z, energy = encode._encode_long(tmp_path / "a.flac", codec, piece_seconds=3.2, margin_seconds=2.4)
    assert z.shape == at_once.shape and len(energy) == len(z)
    assert np.abs(z - at_once).max() < eps * np.abs(at_once).max()


def test_a_long_ogg_can_be_written(tmp_path):
    "libvorbis puts what it gets at once on the stack: ten minutes are more than it holds."
    code = f"import numpy as np; from audioengram.data.audio import save_audio; save_audio({str(tmp_path / 'a.ogg')!r}, np.zeros(16000 * 600, np.float32), 16000)"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ}).returncode == 0
    assert sf.info(tmp_path / "a.ogg").frames == 16_000 * 600


def test_channels_and_samples_are_not_exchanged(tmp_path):
    with pytest.raises(AudioError, match="16000 channels.*transpose"): save_audio(tmp_path / "o.wav", np.zeros((2, 16_000)), RATE)
    save_audio(tmp_path / "o.wav", np.zeros((16_000, 2)), RATE)
    assert os.listdir(tmp_path) == ["o.wav"]


# the most memory that a process held: `ru_maxrss` would be that of the process which started it, if that was larger
PEAK = "int(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"


@pytest.mark.slow
@pytest.mark.parametrize("hours", [1, 6])
def test_hours_of_stereo_fit(tmp_path, hours):
    "44.1 kHz, two channels, scanned and encoded under 1.5 GB."
    x = np.repeat(synthesise(20, 1, 120, rate=44_100)[:, None], 2, 1)
    (tmp_path / "anna").mkdir()
    with sf.SoundFile(tmp_path / "anna/a.wav", "w", 44_100, 2, "PCM_16") as f:
        for i in range(180 * hours): f.write(x * (.5 + .5 * np.sin(i)))
    code = (f"from audioengram.codecs import get_codec; from audioengram.data.corpora import get_corpus; from audioengram.data.latents import encode_corpus\n"
            f"s = encode_corpus(get_corpus('folder', root={str(tmp_path)!r}, show=False), get_codec('nano'), {str(tmp_path / 'store')!r}, progress=False)\n"
            f"assert s.meta['frames'] == {45_000 * hours}; print({PEAK})")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr[-500:]
    print(f"{hours} h: {int(done.stdout) / 1e6:.2f} GB")
    assert int(done.stdout) < 1.5e6      # kB


# ---- two at once

def test_two_scans_and_two_encodes_of_one_folder(tree, tmp_path):
    code = (f"from audioengram.codecs import get_codec; from audioengram.data.corpora import get_corpus; from audioengram.data.latents import encode_corpus\n"
            f"print(encode_corpus(get_corpus('folder', root={str(tree)!r}, show=False), get_codec('nano'), progress=False).fingerprint)")
    env = {**os.environ, "AUDIOENGRAM_CACHE": str(tmp_path / "cache")}
    jobs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env) for _ in range(2)]
    said = [job.communicate()[0].strip() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0] and said[0] == said[1] != ""


def test_an_ascii_locale_names_what_it_cannot_spell(tree):
    os.rename(tree / "ann", tree / "anné")
    code = (f"from audioengram.data.corpora import get_corpus; c = get_corpus('folder', root={str(tree)!r}, show=False); print(len(c), ascii(c.failures.reason.tolist()))")
    env = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.startswith("2 ") and "LC_ALL=C.UTF-8" in done.stdout


def test_nothing_readable_is_one_sentence(tmp_path):
    (tmp_path / "a.wav").write_text("buy milk")
    with pytest.raises(CorpusError, match="no usable recording"): get_corpus("folder", root=tmp_path)
