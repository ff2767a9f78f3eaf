"Training: what goes in, what is refused, and that an interruption costs nothing."
import signal

import numpy as np
import pytest
import torch
from codes_toy import TINY, folder

from audioengram.codes import training
from audioengram.codes.losses import spectral_loss
from audioengram.codes.modelfile import load_model
from audioengram.codes.recordings import read_recordings
from audioengram.codes.training import fit
from audioengram.core import CorpusError, TrainingError
from audioengram.data.audio import save_audio

NOISE = np.random.default_rng(0).normal(size=48_000).astype(np.float32) * .1


def test_mixed_rates_channels_and_lengths(tmp_path):
    save_audio(tmp_path / "a.wav", NOISE[:44_100], 44_100)
    save_audio(tmp_path / "b.flac", np.stack([NOISE, NOISE[::-1]], 1), 48_000)
    save_audio(tmp_path / "c.ogg", NOISE[:16_000], 16_000)
    save_audio(tmp_path / "short.wav", NOISE[:5000] * .5, 22_050)              # shorter than a crop
    m = fit(tmp_path, steps=6, **TINY)
    assert len(m.about["provenance"]) == 4 and np.isfinite([r["loss"] for r in m.about["history"]]).all()
    assert len(m.decode(m.encode(NOISE[:100]), 100)) == 100


def test_what_cannot_be_learnt_from(tmp_path):
    with pytest.raises(CorpusError, match="holds no recording"): fit(tmp_path, **TINY)
    save_audio(tmp_path / "silence.wav", np.zeros(24_000), 24_000)
    with pytest.raises(CorpusError, match="is silence"): fit(tmp_path, **TINY)
    save_audio(tmp_path / "one.wav", NOISE, 24_000)
    with pytest.raises(CorpusError, match="1 usable recording.*at least two"): fit(tmp_path, tmp_path / "m.distill", **TINY)
    save_audio(tmp_path / "copy.wav", NOISE, 24_000)                             # the same again is still one
    with pytest.raises(CorpusError, match="1 usable recording"): fit(tmp_path, tmp_path / "m.distill", **TINY)
    assert not list(tmp_path.glob("*.distill"))
    with pytest.raises(CorpusError, match="is not a folder"): fit(tmp_path / "nowhere", **TINY)


def test_files_are_split_whole_and_the_split_is_told():
    sounds = read_recordings(folder(6), share=.3, show=False)
    assert len(sounds.held) == 2 and set(sounds.rows.name[sounds.rows.side == "held out"]) == set(sounds.held)
    assert sum(map(len, sounds.side(False))) + sum(map(len, sounds.side(True))) == sum(map(len, sounds.wavs))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A folder, and what an uninterrupted run of it ends in."
    home = folder()
    return home, fit(home, tmp_path_factory.mktemp("whole") / "whole.distill", steps=12, **TINY)


def press_at(monkeypatch, at, where="step_loss"):
    "Ctrl-C arrives while the call number `at` of a function of training is running."
    honest, calls = getattr(training, where), []
    def pressed(*args, **options):
        calls.append(1)
        if len(calls) == at: signal.raise_signal(signal.SIGINT)
        return honest(*args, **options)
    monkeypatch.setattr(training, where, pressed)


@pytest.mark.parametrize("at, where", [(2, "step_loss"), (4, "step_loss"), (7, "step_loss"), (8, "step_loss"), (11, "step_loss"), (1, "settle_model"), (1, "picture_distance"),
                                       *(pytest.param(at, where, marks=pytest.mark.slow) for at, where in ((3, "step_loss"), (5, "step_loss"), (9, "step_loss")))])
def test_an_interrupted_run_leaves_a_model_and_goes_on(tmp_path, monkeypatch, whole, at, where):
    "Ctrl-C at any moment: a usable file that says so; the same call again ends where an uninterrupted run ends."
    home, model = whole
    with monkeypatch.context() as m:
        press_at(m, at, where)
        cut = fit(home, tmp_path / "cut.distill", steps=12, **TINY)
    assert cut.about["interrupted"] and 2 <= len(cut.about["history"]) < 12
    assert cut.about["verdict"][0].startswith(f"Interrupted after {len(cut.about['history'])} of 12")
    usable = load_model(tmp_path / "cut.distill")
    assert np.isfinite(usable.decode(usable.encode(NOISE))).all()
    again = fit(home, tmp_path / "cut.distill", steps=12, **TINY)
    assert not again.about["interrupted"] and [r["step"] for r in again.about["history"]] == list(range(12))
    assert again.fingerprint == model.fingerprint
    assert not list(tmp_path.glob("*.checkpoint.*"))


def test_interrupted_at_once_there_is_nothing_to_keep(tmp_path, monkeypatch):
    press_at(monkeypatch, 1)
    with pytest.raises(TrainingError, match="before anything was learnt"): fit(folder(), tmp_path / "m.distill", steps=5, **TINY)
    assert not list(tmp_path.iterdir())


def test_training_ends_when_held_out_files_no_longer_gain(monkeypatch):
    "The distance rises from the third look on: what is kept is the decoder of the second."
    fake = iter([5., 4.] + [6.] * 50)
    monkeypatch.setattr(training.CodeTrainer, "look", lambda self, step: (
        self.looks.append(dict(step=step, held=next(fake))), self.best_step == step and self.best.update(self.model.decoder.state_dict())))
    m = fit(folder(), steps=100, patience=3, **TINY)
    looks = m.about["looks"]
    assert len(looks) == 5 and m.about["steps"] == dict(done=looks[-1]["step"] + 1, planned=100, best=looks[1]["step"] + 1)
    assert not m.about["interrupted"]


def test_short_sounds_are_kept_and_flagged(tmp_path):
    for i, n in enumerate((500, 2000, 30_000)): save_audio(tmp_path / f"{i}.wav", NOISE[i * 100:i * 100 + n], 24_000)
    save_audio(tmp_path / "click.wav", NOISE[:300], 24_000)                      # 12 ms
    sounds = read_recordings(tmp_path, show=False)
    assert sounds.rows.name.tolist() == ["0.wav", "1.wav", "2.wav"] and (sounds.rows.note != "").tolist() == [True, True, False]
    assert len(sounds.left_out) == 1
    m = fit(tmp_path, steps=6, **TINY)
    assert len(m.decode(m.encode(NOISE[:500]), 500)) == 500


def test_a_damaged_checkpoint_and_an_existing_file_are_refused(tmp_path):
    home = folder()
    fit(home, tmp_path / "m.distill", steps=4, **TINY)
    before = (tmp_path / "m.distill").read_bytes()
    with pytest.raises(TrainingError, match="is there already"): fit(home, tmp_path / "m.distill", steps=4, **TINY)
    (tmp_path / "n.checkpoint.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match="checkpoint cannot be read"): fit(home, tmp_path / "n.distill", steps=4, **TINY)
    assert (tmp_path / "m.distill").read_bytes() == before


def test_learning_lowers_the_distance_and_uses_every_code():
    m = fit(folder(6, 2.), steps=40, size=8, config=training.ModelConfig(width=16), batch=4, frames=32, show=False)
    first, last = (np.mean([r["mel"] for r in part]) for part in (m.about["history"][:5], m.about["history"][-5:]))
    assert last < .8 * first
    assert all(r["dead"] == 0 for r in m.about["health"]) and m.about["health"][-1]["variance_explained"] > .8


def test_spectral_loss_sees_level_and_not_polarity():
    x = torch.from_numpy(NOISE[None, :8192])
    assert spectral_loss(x, x) == 0 and spectral_loss(-x, x) == 0 and spectral_loss(.5 * x, x) > .5


def drum(i, rate=24_000):
    "Kicks, snares and hats, each a little different."
    rng, t = np.random.default_rng(i), np.arange(rate // 2) / rate
    decay = np.exp(-t / rng.uniform(.03, .12)) * rng.uniform(.3, .95)
    sweep = np.sin(2 * np.pi * (rng.uniform(45, 70) * t + rng.uniform(2, 5) * (1 - np.exp(-t / .03))))
    noise = rng.normal(size=len(t)) * .3
    return (decay * [sweep, .5 * sweep + noise, np.diff(noise, prepend=0)][i % 3]).clip(-1, 1).astype(np.float32)


@pytest.mark.slow
def test_unheard_drums_come_back_with_level_and_attack(tmp_path):
    "Default settings: what the issue of a new user asked for, on drums that are drawn and not recorded."
    for i in range(40): save_audio(tmp_path / f"{i:02d}.wav", drum(i), 24_000)
    said = fit(tmp_path, show=False).about["fidelity"]
    assert said["distance"] < 3 and said["distance"] < said["nearest"] < said["silence"]
    assert said["level"] < 3 and said["level_worst"] < 10 and said["attack"] < 2 and said["attack_worst"] < 5
    assert said["clipped"] == 0


@pytest.mark.slow
def test_two_thousand_files(tmp_path):
    "In memory that does not grow with their length, and none is passed over."
    for i in range(2000): save_audio(tmp_path / f"{i % 20:02d}" / f"{i:04d}.wav", np.resize(drum(i), 24_000 * (1 + i % 8)), 24_000)
    sounds = read_recordings(tmp_path, show=False)
    assert len(sounds.names) + len(sounds.left_out) == 2000 and all(w.base is None for w in sounds.wavs)
    assert sum(w.nbytes for w in sounds.wavs) <= 2000 * 3 * 24_000 * 4
    told = fit(tmp_path, tmp_path / "m.distill", steps=100, show=False).about
    assert len(told["provenance"]) == len(sounds.names) and told["fidelity"]["distance"] < told["fidelity"]["silence"]
    assert load_model(tmp_path / "m.distill").fingerprint
