"""Training the learned codec: a run that is cut and resumed equals an unbroken one, stops where it diverges, and exports what the codec reads."""
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from audioengram.codecs.nano_learned import LearnedNano
from audioengram.codecs.nano_train import PROFILES, Speech, TrainConfig, Trainer, envelope_loss, prediction_loss, read_config, third_octaves
from audioengram.core import ModelFileError, ParameterError, TrainingError

SMOKE = PROFILES["smoke"]


def tones(seed, seconds=3):
    "A gliding chord with pauses, [S]."
    rng, t = np.random.default_rng(seed), np.arange(seconds * 16_000) / 16_000
    f = rng.uniform(90, 220) * (1 + .1 * np.sin(2 * np.pi * t))
    x = sum(np.sin(2 * np.pi * k * np.cumsum(f) / 16_000) / k for k in range(1, 12)) * (np.sin(2 * np.pi * 2 * t + seed) > -.3)
    return (.1 * x + .001 * rng.normal(size=len(t))).astype("float32")


@pytest.fixture(scope="module")
def speech(): return Speech({f"s{i}": [tones(i), tones(i + 10)] for i in range(3)}), Speech({"v": [tones(99)]})


def silent(_): pass


def test_a_resumed_run_equals_an_unbroken_one(tmp_path, speech):
    whole = Trainer(SMOKE, *speech, tmp_path / "whole").run(say=silent)
    first = Trainer(SMOKE, *speech, tmp_path / "cut")
    while first.step < 3: first.one()
    first._save(0.)
    second = Trainer(SMOKE, *speech, tmp_path / "cut")
    assert second.step == 3
    second.run(say=silent)
    assert second.step == whole.step == SMOKE.steps
    for (name, a), b in zip(whole.net.state_dict().items(), second.net.state_dict().values(), strict=True): torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5, msg=name)
    for a, b in zip(whole.average.state_dict().values(), second.average.state_dict().values(), strict=True): torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert [r["step"] for r in whole.curve] == [4, 8]


def test_what_a_run_writes(tmp_path, speech):
    trainer = Trainer(replace(SMOKE, steps=4), *speech, tmp_path)
    trainer.about = {"corpus": "tones"}
    trainer.run(say=silent)
    curve, codec = json.loads((tmp_path / "curve.json").read_text()), LearnedNano(tmp_path / "nano.safetensors")
    assert curve[0].keys() >= {"step", "seconds", "train loss", "loud", "mel", "envelope", "kl", "noisy loud", "reach"} and curve[0]["reach"] <= 6
    assert codec.about["corpus"] == "tones" and codec.about["steps"] == "4" and codec.encode(torch.zeros(1, 5000)).shape == (1, 4, 64)
    longer = Trainer(replace(SMOKE, steps=6), *speech, tmp_path)                   # a run may be made longer
    assert longer.step == 4
    with pytest.raises(TrainingError, match="another configuration"): Trainer(replace(SMOKE, noise=.1), *speech, tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"no")
    with pytest.raises(ModelFileError, match="starts anew"): Trainer(SMOKE, *speech, tmp_path)


def test_training_lowers_the_loss(tmp_path, speech):
    "On a handful of tones, without noise: error on a held-out tone falls in forty steps."
    config = replace(SMOKE, steps=40, rate=5e-3, noise=0., speed=0., average=.8, w_stft=0., validate_every=100, save_every=100)
    trainer = Trainer(config, *speech, tmp_path)
    before = trainer.validate()["loud"]
    losses = [trainer.one()["loss"] for _ in range(config.steps)]
    assert np.mean(losses[-10:]) < .95 * np.mean(losses[:10]) and trainer.validate()["loud"] < before


def test_noise_enters_with_the_spread(tmp_path, speech):
    trainer = Trainer(SMOKE, *speech, tmp_path)
    row = trainer.validate()
    assert row["noisy loud"] > row["loud"]
    trainer.average.spread.mul_(4)
    assert trainer.validate()["noisy loud"] > row["noisy loud"]


def test_minutes_stop_a_run_whole(tmp_path, speech):
    trainer = Trainer(SMOKE, *speech, tmp_path).run(minutes=0, say=silent)
    assert trainer.step == 0 and (tmp_path / "checkpoint.safetensors").exists() and Trainer(SMOKE, *speech, tmp_path).step == 0


@pytest.mark.parametrize("loss, norm, times", [(float("nan"), 1., 1), (1., float("inf"), 1), (50., 1., 20)])
def test_divergence_stops_the_run(tmp_path, speech, loss, norm, times):
    trainer = Trainer(SMOKE, *speech, tmp_path)
    for _ in range(60): trainer._watch(1., 1.)
    trainer._watch(9., 100.)                                        # a bad batch passes
    with pytest.raises(TrainingError, match="Lower `rate`"):
        for _ in range(times): trainer._watch(loss, norm)


@pytest.mark.parametrize("term", ["w_smooth", "w_pred"])
def test_options_that_make_latents_predictable_are_in_the_objective(tmp_path, speech, term):
    trainer = Trainer(replace(SMOKE, **{term: 1.}), *speech, tmp_path)
    row = trainer.one()
    assert row[term[2:]] > 0 and torch.isfinite(trainer.net.out.weight).all()


def test_prediction_loss_tells_a_smooth_path_from_noise():
    g = torch.Generator().manual_seed(0)
    t = torch.arange(200.)
    smooth = torch.stack([torch.sin(t / 9 + k) for k in range(4)], 1)[None]
    assert prediction_loss(smooth) < .1 < .8 < prediction_loss(torch.randn(1, 2000, 4, generator=g))


def test_envelope_loss_sees_shape_not_level():
    g, bands = torch.Generator().manual_seed(0), third_octaves()
    mag = torch.rand(2, 80, 241, generator=g)
    assert envelope_loss(3 * mag, mag, bands) < 1e-3
    assert envelope_loss(mag.flip(1), mag, bands) > .7
    assert bands.sum(0).min() >= 1 and not (bands.sum(1) > 1).any()


def test_segments_repeat_and_stay_in_range(speech):
    a, b, c = (speech[0].batch(i, SMOKE) for i in (5, 5, 6))
    assert torch.equal(a, b) and not torch.equal(a, c) and a.shape == (2, SMOKE.samples) and a.abs().max() <= 1
    with pytest.raises(TrainingError, match="no speaker has a second"): Speech({"s": [np.zeros(100, "float32")]})


@pytest.mark.parametrize("text, says", [("batch = 'two'", "batch must be int"), ("colour = 1", "unknown setting 'colour'"), ("profile = 'huge'", "unknown profile"),
                                        ("seconds = 1.3", "whole latent frames"), ("steps = 0", "at least 1"), ("steps =", "cannot be read"), ("[sizes]\nstride = 4", "no linear skip")])
def test_bad_configurations_are_named(tmp_path, text, says):
    path = tmp_path / "c.toml"; path.write_text(text)
    with pytest.raises(ParameterError, match=says): read_config(path)


def test_configurations_from_files(tmp_path):
    (tmp_path / "c.toml").write_text('profile = "smoke"\nw_pred = 1\n[sizes]\ndim = 32\n')
    (tmp_path / "c.json").write_text('{"profile": "full", "steps": 9}')
    assert read_config(tmp_path / "c.toml") == replace(SMOKE, w_pred=1., sizes=replace(SMOKE.sizes, dim=32))
    assert read_config(tmp_path / "c.json").bf16 and read_config(tmp_path / "c.json").steps == 9 and read_config("quick") == TrainConfig()
    with pytest.raises(ParameterError, match="no such configuration"): read_config(tmp_path / "d.toml")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_step_on_a_gpu_in_bf16(tmp_path, speech):
    row = Trainer(replace(SMOKE, bf16=True), *speech, tmp_path, "cuda").one()
    assert np.isfinite(row["loss"])


def test_the_command_trains_and_goes_on(tmp_path):
    def call(): return subprocess.run([Path(sys.executable).with_name("audioengram"), "codec", "train", "synthetic", "--config", "smoke", "--out", tmp_path / "run", "--device", "cpu"], capture_output=True, text=True)
    first, second = call(), call()
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "from step 0" in first.stdout and f"from step {SMOKE.steps}" in second.stdout
    assert LearnedNano(tmp_path / "run" / "nano.safetensors").about["corpus"] == "synthetic"
