"Slips of the pen and of the place: each is answered in one sentence that names the remedy, at once, and without a traceback."
import os
import resource
import subprocess
import sys

import pytest

OWN = ("-p", "corpus=folder", "-p")

SLIPS = {   # what went wrong -> (words, what the answer says)
    "a corpus misspelt": (("run", "d00", "-p", "corpus=foldr"), "did you mean 'folder'"),
    "a codec misspelt": (("run", "d00", "-p", "codec=nanoo"), "did you mean 'nano'"),
    "a codec misspelt in a case": (("run", "d00", "-p", "cases=synthetic:namo"), "did you mean 'nano'"),
    "a profile misspelt": (("run", "d00", "--profile", "smok"), "did you mean 'smoke'"),
    "a parameter misspelt": (("run", "d00", "-p", "legnth=4"), "did you mean 'length'"),
    "a page misspelt": (("run", "d00_strcture"), "did you mean 'd00_structure'"),
    "a parameter without a value": (("run", "d00", "-p", "length"), "-p name=value"),
    "a parameter of another kind": (("run", "d00", "-p", "length=long"), "expected int"),
    "a share that is none": (("run", "d00", "-p", "eval_fraction=2"), "not a share"),
    "recordings of one's own, but where": (("run", "d00", "-p", "corpus=folder"), "corpus_root=FOLDER"),
    "a root without a corpus": (("run", "d00", "-p", "corpus_root=."), "corpus=folder"),
    "a folder that is not there": (("run", "d00", *OWN, "corpus_root=nowhere"), "is not a folder"),
    "somebody's home that is not there": (("run", "d00", *OWN, "corpus_root=~no-such-person/rec"), "home folder"),
    "an empty folder": (("run", "d00", *OWN, "corpus_root=empty"), "holds no recording"),
    "a single speaker": (("run", "d00", *OWN, "corpus_root=alone"), "more speakers"),
    "a single speaker on a page of codes": (("run", "d20", *OWN, "corpus_root=alone"), "more speakers"),
    "a page without run": (("d00",), "audioengram run d00"),
    "a device that is not here": (("run", "d00", "--device", "cuda:7"), "is not available"),
    "a corpus that is not there": (("corpus", "show", "librispeach"), "did you mean 'librispeech'"),
    "an option of another corpus": (("corpus", "show", "synthetic", "--licence", "CC0-1.0"), "has no option licence"),
    "a channel of no corpus of one's own": (("run", "d00", "--channel", "2"), "-p corpus=folder"),
    "a channel that is none": (("corpus", "show", "folder", "--root", "alone", "--channel", "left"), "Use 1 for the first"),
    "a channel that nothing has": (("corpus", "show", "folder", "--root", "alone", "--channel", "2"), "so that there is no 2"),
    "a codec whose package is not here": (("codec", "score", "a.wav", "--codec", "music2latent"), "music"),
    "a pattern that is none": (("corpus", "show", "folder", "--root", "alone", "--speaker-from", "("), "not a regular expression"),
    "encoding nothing in particular": (("latents", "encode", "folder"), "--root FOLDER"),
    "a store that is none": (("latents", "show", "empty"), "empty"),
    "a recording that is not there": (("codec", "encode", "b.wav", "b.npy"), "b.wav"),
    "latents in a text file": (("codec", "encode", "a.wav", "a.txt"), ".npy, .safetensors, .pt"),
    "an output that is there": (("codec", "encode", "a.wav", "z.npy"), "--overwrite"),
    "an output below a file": (("codec", "encode", "a.wav", "a.wav/b.npy"), "a.wav"),
    "latents of another codec": (("codec", "decode", "z.npy", "b.wav", "--codec", "mel"), "--codec"),
    "a pickle": (("codec", "decode", "pickle.pt", "b.wav"), "is a pickle"),
    "text that is called an array": (("report", "text.npy", "--rate", "12.5"), "no array"),
    "an array of another shape": (("report", "flat.npy", "--rate", "12.5"), "(7,)"),
    "latents without a rate": (("report", "z.npy"), "--rate"),
    "a folder without sound": (("codec", "score", "empty"), "holds no recording"),
    "a measure that is none": (("codec", "score", "a.wav", "--measures", "quality"), "unknown measure"),
    "weights that are not here": (("codec", "compare", "a.wav", "--codecs", "nano,lyra"), "AUDIOENGRAM_LYRA"),
    "no network": (("codec", "encode", "a.wav", "b.npy", "--codec", "mimi"), "HF_HUB_OFFLINE"),
    "no prompt": (("generate", "--prompt", "b.wav", "--out", "c.wav"), "b.wav"),
    "a run that is not there": (("runs", "compare", "d00", "d99"), "no run"),
}


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch):
    "No weights of other codecs, no corpora but those that are made, no network."
    for name in ("AUDIOENGRAM_LYRA", "AUDIOENGRAM_LIBRISPEECH"): monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_answered_in_one_sentence(slip, shell):
    words, says = SLIPS[slip]
    r = shell(*words)
    assert r.code in (1, 2) and says in r.err, r.err
    assert "Traceback" not in r.err and len(r.err.strip().splitlines()) == 1, r.err
    assert r.seconds < 3, r.seconds


def test_words_that_are_none_are_usage(shell):
    for words in (("codec", "squeeze"), ("report",), ("codec", "encode"), ("--versoin",)):
        r = shell(*words)
        assert r.code == 2 and "Traceback" not in r.err and "Usage" in r.err


def test_a_missing_extra_is_named(shell, monkeypatch):
    monkeypatch.setitem(sys.modules, "moshi", None)
    r = shell("run", "d00", "-p", "codec=mimi")
    assert r.code == 1 and '"audioengram[mimi]"' in r.err


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(shell, home):
    (home / "shut").mkdir(mode=0o500)
    r = shell("codec", "encode", "a.wav", "shut/a.npy")
    assert r.code == 1 and "shut" in r.err and len(r.err.strip().splitlines()) == 1


@pytest.mark.parametrize("slip", ["a corpus misspelt", "text that is called an array"])
def test_a_whole_process_takes_three_seconds(slip, home):
    "From the shell's side: interpreter, imports and answer."
    words, says = SLIPS[slip]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    r = subprocess.run([sys.executable, "-m", "audioengram.cli", *words], cwd=home, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert r.returncode == 1 and says in r.stderr and "Traceback" not in r.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 4, "3 s on a machine of its own"
