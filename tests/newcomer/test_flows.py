"From recordings to something to look at or to listen to: what a newcomer does, as a newcomer does it."
import json
import os
import re
import shutil
from urllib.parse import unquote

import numpy as np
import pytest

from audioengram.codecs import get_codec
from audioengram.data.audio import audio_info, save_audio
from audioengram.data.latents import LatentStore
from audioengram.data.sources import synthesise
from audioengram.lab.claims import NOT_MEASURED

PAGES = ("d00", "d01", "d02", "d03", "d04", "d05", "d06", "d07", "d08", "d09", "d10", "d11", "d12", "d13")


def done(r) -> str:
    assert r.code == 0, r.err
    return r.out


def test_who_speaks_and_what_is_left_out(shell, recordings):
    told = done(shell("corpus", "show", "folder", "--root", recordings, "--licence", "CC0-1.0", "--language", "en"))
    assert "anna" in told and "ben" in told and "CC0-1.0" in told
    rows = json.loads(done(shell("corpus", "show", "folder", "--root", recordings, "--json")))
    assert len(rows) == 5 and {r["speaker_id"] for r in rows} == {"anna", "ben"}


def test_one_channel_of_two(shell, tmp_path):
    "Two people on two tracks; another channel is another corpus, and its latents are those of that track alone."
    left, right = (synthesise(2., seed, pitch) for seed, pitch in ((1, 110), (2, 210)))
    (tmp_path / "rec").mkdir()
    for name in ("anna", "ben"): save_audio(tmp_path / "rec" / f"{name}.wav", np.stack([left, right], 1), 16_000)
    save_audio(tmp_path / "right.wav", right, 16_000)
    words = ("--root", tmp_path / "rec", "--speaker-from", "(.*)[.]wav")
    mixed, second = (json.loads(done(shell("corpus", "show", "folder", *words, *more, "--json"))) for more in ((), ("--channel", "2")))
    assert [r["channels"] for r in mixed + second] == [2, 1] and mixed[0]["sha256"] != second[0]["sha256"]
    done(shell("latents", "encode", "folder", "nano", *words, "--channel", "2", "--out", tmp_path / "store", "--workers", "1"))
    done(shell("codec", "encode", tmp_path / "right.wav", tmp_path / "z.npy"))
    np.testing.assert_allclose(LatentStore(tmp_path / "store")["anna.wav"], np.load(tmp_path / "z.npy"), atol=.02)


def test_paths_as_people_write_them(shell, recordings, monkeypatch):
    monkeypatch.chdir(recordings.parent)
    done(shell("corpus", "show", "folder", "--root", recordings.name))                     # relative, a blank and a # in it
    monkeypatch.setenv("HOME", str(recordings.parent))
    done(shell("corpus", "show", "folder", "--root", f"~/{recordings.name}"))              # in quotes a shell leaves ~ alone


def test_there_and_back(shell, home, tmp_path):
    done(shell("codec", "encode", "a.wav", tmp_path / "a.safetensors"))
    done(shell("codec", "decode", tmp_path / "a.safetensors", tmp_path / "a.flac"))
    assert audio_info(tmp_path / "a.flac").seconds == pytest.approx(4., abs=.09)


def test_what_a_codec_keeps(shell, recordings):
    rows = json.loads(done(shell("codec", "score", recordings, "--measures", "mel,si_sdr", "--json")))
    assert {"mel_db", "si_sdr", "numbers a second"} <= {r["measure"] for r in rows} and all(np.isfinite(r["value"]) for r in rows)


def test_codecs_side_by_side_with_a_page_to_listen(shell, recordings, tmp_path):
    told = done(shell("codec", "compare", recordings, "--codecs", "nano,nano-linear,mel", "--measures", "mel", "--out", tmp_path / "page"))
    page = (tmp_path / "page" / "index.html").read_text()
    assert "nano-linear" in told and page.count("<audio") == 5 * 4
    assert all((tmp_path / "page" / unquote(src)).is_file() for src in re.findall(r'src="([^"]+)"', page))


def test_a_store_for_another_trainer(shell, recordings, tmp_path):
    done(shell("latents", "encode", "folder", "nano", "--root", recordings, "--out", tmp_path / "store", "--workers", "1"))
    done(shell("latents", "show", tmp_path / "store", "--check"))
    done(shell("latents", "export", tmp_path / "store", tmp_path / "npy"))
    assert sorted(p.suffix for p in (tmp_path / "npy").rglob("*.npy")) == [".npy"] * 5
    by_store, by_folder = (json.loads(done(shell("latents", "stats", tmp_path / n, "--json"))) for n in ("store", "npy"))
    assert by_store["rows"] == by_folder["rows"] and by_folder["rows"][0]["unit"] == "speaker"


def test_a_report_on_any_latents(shell):
    told = done(shell("report", "z.npy", "--rate", "12.5"))
    assert "effective rank" in told and "segments" in " ".join(told.split())


def test_a_recording_goes_on(shell, tmp_path):
    done(shell("generate", "--prompt", "a.wav", "--seconds", "1", "--out", tmp_path / "on.wav"))
    assert audio_info(tmp_path / "on.wav").seconds == pytest.approx(5., abs=.2)


def page_of(shell, name, recordings) -> str:
    "Run a page on one's own recordings; its text."
    place = done(shell("run", name, "--profile", "smoke", "-p", "corpus=folder", "-p", f"corpus_root={recordings}")).strip().splitlines()[-1]
    cells = json.loads(open(place).read())["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def test_a_page_on_five_recordings_and_runs_beside_each_other(shell, recordings, home):
    text = page_of(shell, "d09", recordings)
    assert "Few recordings" in text and "read recordings" in text and "{claim:" not in text
    assert "AUDIOENGRAM_OWN_RECORDINGS" not in os.environ
    assert "d09_representations" in done(shell("runs", "list"))
    assert "claims agree" in done(shell("runs", "compare", "d09", home / "runs" / "d09_representations"))


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_every_page_on_five_recordings(name, shell, recordings):
    assert "Few recordings" in page_of(shell, name, recordings)


@pytest.fixture(scope="module")
def held_out(librispeech_root, tmp_path_factory):
    "Five utterances of two people whose voices nano has not heard."
    folder, heard = tmp_path_factory.mktemp("held out"), get_codec("nano").heard
    people = [p for p in sorted(librispeech_root.glob("*/*")) if p.is_dir() and f"librispeech/{p.name}" not in heard]
    if len(people) < 2: pytest.skip("needs two speakers of LibriSpeech whom nano has not heard")
    for who, n in zip(people, (3, 2), strict=False):
        for file in [p for p in sorted(who.glob("*/*")) if p.suffix in (".flac", ".mp3")][:n]:
            (folder / who.name).mkdir(exist_ok=True)
            shutil.copy(file, folder / who.name)
    assert len([*folder.glob("*/*")]) == 5
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_every_page_on_five_utterances_of_held_out_speech(name, shell, held_out, home, capsys):
    "A page is whole, or the claims that five utterances cannot carry are counted and named; what it says is printed (-s)."
    text = page_of(shell, name, held_out)
    told = next(line for line in text.splitlines() if "Few recordings" in line)
    run = next(p for p in (home / "runs").iterdir() if p.name.startswith(name))
    claims = json.loads((run / "claims.json").read_text())
    lost = [id for id, c in claims.items() if c["value"] == NOT_MEASURED]
    assert claims and len(lost) < len(claims) and "There are 2 speakers" in told and "{claim:" not in text
    assert (f"{len(lost)} claims could not be measured" in told) == bool(lost) and all(id in told for id in lost[:12])
    with capsys.disabled(): print(f"\n{name}: {len(claims) - len(lost)} of {len(claims)} claims measured. Left out: {', '.join(lost) or 'nothing'}")
