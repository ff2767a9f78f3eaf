"Training: what goes in, what is refused, and that an interruption costs nothing."
import numpy as np
import pytest
import torch
from codes_toy import TINY, folder

from audioengram.codes import training
from audioengram.codes.modelfile import load_model
from audioengram.codes.training import fit, read_recordings, spectral_loss
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


@pytest.mark.parametrize("at", [3, 9])
def test_an_interrupted_run_leaves_a_model_and_goes_on(tmp_path, monkeypatch, at):
    "Ctrl-C in either stage: a usable file; the same call again ends where an uninterrupted run ends."
    home, honest = folder(), training.step_loss
    whole = fit(home, tmp_path / "whole.distill", steps=12, **TINY)
    calls = []
    def step_loss(*args, **options):
        calls.append(1)
        if len(calls) == at: raise KeyboardInterrupt
        return honest(*args, **options)
    monkeypatch.setattr(training, "step_loss", step_loss)
    cut = fit(home, tmp_path / "cut.distill", steps=12, **TINY)
    monkeypatch.setattr(training, "step_loss", honest)
    assert cut.about["interrupted"] and len(cut.about["history"]) == at - 1
    usable = load_model(tmp_path / "cut.distill")
    assert np.isfinite(usable.decode(usable.encode(NOISE))).all()
    again = fit(home, tmp_path / "cut.distill", steps=12, **TINY)
    assert not again.about["interrupted"] and [r["step"] for r in again.about["history"]] == list(range(12))
    assert again.fingerprint == whole.fingerprint
    assert not list(tmp_path.glob("*.checkpoint.*"))


def test_interrupted_at_once_there_is_nothing_to_keep(tmp_path, monkeypatch):
    def stop(*a, **k): raise KeyboardInterrupt
    monkeypatch.setattr(training, "step_loss", stop)
    with pytest.raises(TrainingError, match="before anything was learnt"): fit(folder(), tmp_path / "m.distill", steps=5, **TINY)
    assert not list(tmp_path.iterdir())


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
