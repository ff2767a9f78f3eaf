"Rows of clips at one loudness, pictures of any sound, and the explorer on a real latent store."
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from audioengram.core import ParameterError, ShapeError, write_json
from audioengram.data.audio import load_audio, loudness
from audioengram.lab.players import (
    PICTURE,
    Clip,
    Explorer,
    energy_by_frame,
    is_live,
    picture,
    read_row,
    row_loudness,
    write_row,
)
from audioengram.lab.provenance import RunError
from audioengram.lab.runs import read_run
from audioengram.lab.transcripts import UTTERANCES, tell_words, utterance_ids, words_of

RATE = 16_000


def sound(seed: int, seconds=1.0, gain=.1, crest=0.0) -> np.ndarray:
    "Coloured noise with an optional click."
    rng = np.random.default_rng(seed)
    x = np.convolve(rng.normal(size=int(seconds * RATE)), np.ones(8) / 8, "same") * gain
    x[len(x) // 2] += crest
    return x.astype(np.float32)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.floats(.001, .9), st.floats(0, 1)), min_size=1, max_size=4))
def test_no_clip_of_a_row_clips_or_stays_behind(kinds):
    clips = {f"c{i}": (sound(i, gain=g, crest=c), RATE) for i, (g, c) in enumerate(kinds)}
    level = row_loudness(clips)
    assert level <= -23
    for wav, rate in clips.values():
        gain = 10 ** ((level - loudness(wav, rate)) / 20)
        assert np.abs(wav * gain).max() <= .9801


@pytest.mark.parametrize("suffix", [".flac", ".mp3", ".ogg"])
def test_written_rows_play_at_one_loudness(tmp_path, suffix):
    clips = {"quiet": (sound(0, gain=.003), RATE), "loud": (sound(1, gain=.5), RATE), "other_rate": (sound(2), 24_000)}
    row = write_row(tmp_path, clips, suffix=suffix)
    heard = [loudness(*load_audio(c.sound)) for c in row]
    assert np.ptp(heard) < .3 and [c.title for c in row] == ["quiet", "loud", "other rate"]
    assert all(c.picture.stat().st_size < 30_000 for c in row)


@pytest.mark.parametrize("wav", [np.zeros(RATE), sound(0, seconds=15, gain=1), sound(1, seconds=.05), np.ones(RATE), np.r_[np.zeros(9), 1., np.zeros(9)]],
                         ids=["silence", "15 s of noise", "50 ms", "constant", "19 samples"])
@pytest.mark.parametrize("rate", [8_000, 24_000, 48_000])
def test_any_sound_has_a_small_picture(wav, rate):
    png = picture(wav, rate)
    assert len(png) < 30_000
    assert Image.open(io.BytesIO(png)).size == (PICTURE["width"], PICTURE["wave"] + PICTURE["gap"] + PICTURE["mels"])


def test_bad_clips_are_refused_before_anything_is_written(tmp_path):
    good = (sound(0), RATE)
    for bad, error in (((np.full(RATE, np.nan), RATE), ShapeError), ((np.zeros((2, RATE)), RATE), ShapeError)):
        with pytest.raises(error, match="clip 'bad'"): write_row(tmp_path / "row", {"good": good, "bad": bad})
    with pytest.raises(ParameterError, match="at least one"): write_row(tmp_path / "row", {})
    assert not (tmp_path / "row").exists()
    with pytest.raises(RunError, match="no results"): read_row(read_run(tmp_path / "none"))


def test_titles_and_captions_are_text_and_never_markup(tmp_path):
    card = Clip("<b>*a*</b>", tmp_path / "a b.flac", tmp_path / "a b.png", caption='5 < 6 & "x" [y](z) $q$')
    text = card.html(tmp_path)
    assert "<b>" not in text and "*" not in text and "$" not in text and "&lt;b&gt;" in text and 'src="a%20b.flac"' in text
    assert "\n\n" not in text and not any(line.startswith(" ") for line in text.splitlines())     # Markdown would take it apart


def test_clips_are_told_apart_by_utterance_and_system(tmp_path):
    cases = [dict(title="debian-speech × nano+pca64"), dict(title="debian-speech × nano"), dict(title="librispeech × lyra+stack4+pca128")]
    names = ["debian-speech-nano_truth", "debian-speech-nano_free_run", "debian-speech-nano_pca64_truth", "debian-speech-nano_pca64_free_run",
             "librispeech-lyra_stack4_pca128_truth", "librispeech-lyra_stack4_pca128_free_run"]
    write_json(tmp_path / "cases.json", cases)
    write_json(tmp_path / "manifest.json", dict(clips={n: dict(file=f"{n}.ogg", caption="", seconds=1.) for n in names}))
    table = read_row(tmp_path)
    assert [(c.utterance, c.title) for c in table][::2] == [(u, "truth") for u in ("LibriSpeech, Lyra at 12.5 Hz", "Debian speech, nano, 64 dims", "Debian speech, nano")]
    assert [[c.title for c in row] for block in table.blocks() for row in block] == [["truth", "free run"]] * 3
    named = read_row(tmp_path, utterances={"debian-speech-nano": "prompts", "librispeech": "books"})
    assert {c.utterance for c in named} == {"prompts", "books"} and "lyra" in " ".join(c.title.lower() for c in named)


def test_a_page_shows_eight_clips_and_keeps_the_rest(tmp_path):
    names = [f"librispeech_{k}" for k in ("original", "nano", "nano-linear-32", *"abcdefgh")]
    write_json(tmp_path / "manifest.json", dict(clips={n: dict(file=f"{n}.ogg", caption="", seconds=1.) for n in names}))
    text = read_row(tmp_path).html(page=tmp_path)
    assert text.partition("<details>")[0].count("<audio") == 8 and text.count("<audio") == 11 and "3 more clips" in text
    assert "linear nano, 32 dims" in text and text.count('<th scope="row">LibriSpeech</th>') == 3


def test_energy_follows_the_sound():
    wav = np.concatenate([sound(0, gain=g) for g in (.01, .1, 1.)])
    assert np.allclose(np.diff(energy_by_frame(wav, 3)), 20, atol=.5)
    assert len(energy_by_frame(wav[:7], 12)) == 12                                                  # more frames than samples


def test_explorer_on_a_latent_store_plays_what_its_codec_decodes(tmp_path):
    import soundfile as sf

    from audioengram.codecs import get_codec
    from audioengram.data.corpora import get_corpus
    from audioengram.data.latents import encode_corpus
    corpus = get_corpus("synthetic").subset(n_utterances=4)
    store = encode_corpus(corpus, get_codec("nano"), tmp_path / "store", progress=False)
    explorer = Explorer(store, clusters=lambda z: (z[:, 0] > 0).astype(int))
    assert not is_live() and sorted(u for ids in explorer.speakers.values() for u in ids) == sorted(store.keys())
    menus, image, audio = explorer.widget().children
    first, other = bytes(audio.value), list(explorer.speakers)[-1]
    menus.children[0].value = other
    uid = menus.children[1].value
    wav, rate = sf.read(io.BytesIO(audio.value))
    assert uid in explorer.speakers[other] and audio.value != first
    assert rate == store.codec().sample_rate and abs(len(wav) / rate - len(store[uid]) / store.frame_rate) < .1
    assert Image.open(io.BytesIO(image.value)).size[0] == 640 and len(image.value) < 60_000


ROOT = Path(__file__).resolve().parent.parent
HEARD = {i for m in sorted((ROOT / "figures").glob("*/manifest.json")) for c in json.loads(m.read_text())["clips"].values() for i in utterance_ids(c["caption"])}


def test_every_utterance_that_a_page_names_has_a_speaker():
    assert {i for i in HEARD if not i.endswith(":unnamed")} <= UTTERANCES.keys(), "a new utterance: add it to lab.transcripts, with the words of its corpus"


def test_words_are_those_of_librispeech():
    place = Path(os.environ.get("AUDIOENGRAM_LIBRISPEECH") or ROOT.parent / "shared/data/LibriSpeech")
    if not place.is_dir(): pytest.skip("LibriSpeech is not here: set AUDIOENGRAM_LIBRISPEECH")
    sexes = {f[0].strip(): f[1].strip() for f in (line.split("|") for line in (place / "SPEAKERS.TXT").read_text().splitlines() if not line.startswith(";"))}
    for u in UTTERANCES.values():
        if not u.id[0].isdigit(): continue
        speaker, chapter, _ = u.id.split("-")
        files = list(place.glob(f"*/{speaker}/{chapter}/{speaker}-{chapter}.trans.txt"))
        lines = dict(line.split(" ", 1) for f in files for line in f.read_text().splitlines())
        assert u.words == lines.get(u.id, ""), u.id
        assert u.speaker == f"LibriSpeech {speaker}, a {dict(F='woman', M='man')[sexes[speaker]]}"


def test_a_row_of_sounds_tells_who_speaks_and_what(tmp_path):
    names = ["librispeech-lyra_stack4_pca128_original", "librispeech-lyra_stack4_pca128_round_trip"]
    write_json(tmp_path / "cases.json", [dict(title="librispeech × lyra+stack4+pca128")])
    captions = ["1988-147956-0021, held-out speaker", "the same through a codec"]
    write_json(tmp_path / "manifest.json", dict(clips={n: dict(file=f"{n}.ogg", caption=c, seconds=1.) for n, c in zip(names, captions, strict=True)}))
    text = tell_words(read_row(tmp_path).html(page=tmp_path))
    head = text[text.index('<th scope="row">'):].partition("</th>")[0]
    assert "LibriSpeech, Lyra at 12.5 Hz" in head and "LibriSpeech 1988, a woman" in head and words_of("1988-147956-0021") in head
