"""Training the learned codec: a run that is cut and resumed equals an unbroken one, stops where it diverges, and exports what the codec reads."""
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from audioengram.codecs.muon import Muon, orthogonal
from audioengram.codecs.nano_learned import LearnedNano, load_learned
from audioengram.codecs.nano_losses import Losses, envelope_loss, prediction_loss, third_octaves
from audioengram.codecs.nano_recipe import PROFILES, SMALL, TrainConfig, read_config
from audioengram.codecs.nano_speech import Pool, Speech, load_speech
from audioengram.codecs.nano_train import Trainer, begin
from audioengram.core import ModelFileError, ParameterError, TrainingError

SMOKE = PROFILES["smoke"]


def tones(seed, seconds=3):
    "A gliding chord with pauses, [S]."
    rng, t = np.random.default_rng(seed), np.arange(seconds * 16_000) / 16_000
    f = rng.uniform(90, 220) * (1 + .1 * np.sin(2 * np.pi * t))
    x = sum(np.sin(2 * np.pi * k * np.cumsum(f) / 16_000) / k for k in range(1, 12)) * (np.sin(2 * np.pi * 2 * t + seed) > -.3)
    return (.1 * x + .001 * rng.normal(size=len(t))).astype("float32")


@pytest.fixture(scope="module")
def speech(): return Speech({f"s{i}": [tones(i, 10), tones(i + 10, 10)] for i in range(3)}), Speech({"v": [tones(99)]})


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
    assert curve[0].keys() >= {"step", "seconds", "train loss", "loud", "envelope", "kl", "noisy loud", "reach"} and curve[0]["reach"] <= 6
    assert codec.about["corpus"] == "tones" and codec.about["steps"] == "4" and codec.encode(torch.zeros(1, 5000)).shape == (1, 4, 64)
    longer = Trainer(replace(SMOKE, steps=6), *speech, tmp_path)                   # a run may be made longer
    assert longer.step == 4
    with pytest.raises(TrainingError, match="another configuration"): Trainer(replace(SMOKE, noise=.1), *speech, tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"no")
    with pytest.raises(ModelFileError, match="starts anew"): Trainer(SMOKE, *speech, tmp_path)


def test_training_lowers_the_loss(tmp_path, speech):
    "On a handful of tones, without noise: what is lost of a held-out tone falls in sixty steps."
    trainer = Trainer(replace(SMOKE, steps=60, batch=8, noise=0., speed=0., average=.8, validate_every=100, save_every=100), *speech, tmp_path)
    before = trainer.validate()
    while trainer.step < 60: trainer.one()
    after = trainer.validate()
    assert after["loud"] < .97 * before["loud"] and after["envelope"] < before["envelope"]


class Scaled:
    "A code that is the picture, `size` times as large."
    def __init__(self, size): self.size = size

    def encode(self, mel): return self.size * mel, torch.full_like(mel, -60.)

    def decode(self, z): return z / self.size


def test_noise_is_a_share_of_the_spread_and_cannot_be_outgrown():
    "Latents that are larger bear as much of it, and its loss has no slope in their size."
    g = torch.Generator().manual_seed(0)
    mel = torch.rand(4, 32, 80, generator=g)
    noise, losses = torch.randn(mel.shape, generator=g), Losses(replace(SMOKE, w_envelope=0., w_kl=0.))
    loss = lambda size, level: losses(Scaled(size), mel, noise, mel.new_full((4, 1, 1), level))[0]
    assert loss(1., 0.) < 1e-6 < .05 < loss(1., .3)
    torch.testing.assert_close(loss(5., .3), loss(1., .3), atol=0, rtol=1e-3)
    size = torch.tensor(2., requires_grad=True)
    loss(size, .3).backward()
    assert abs(size.grad) < 1e-4


def test_noise_costs(tmp_path, speech):
    row = Trainer(SMOKE, *speech, tmp_path).validate()
    assert row["noisy loud"] > row["loud"]


def test_a_run_may_begin_with_weights_and_more_blocks(tmp_path, speech):
    "Added blocks change nothing at first; the file says what came before, and who was heard."
    Trainer(replace(SMOKE, steps=4), *speech, tmp_path / "a").run(say=silent)
    start = str(tmp_path / "a" / "nano.safetensors")
    deeper = replace(SMOKE, steps=2, start=start, sizes=replace(SMOKE.sizes, encoder_blocks=3, decoder_blocks=2))
    old, (new, before) = load_learned(start)[0], begin(deeper, speech[0])
    mel = torch.rand(2, 64, 80, generator=torch.Generator().manual_seed(0))
    for f in (lambda n: n.encode(mel)[0], lambda n: n.decode(old.encode(mel)[0])): torch.testing.assert_close(f(new), f(old), atol=1e-6, rtol=1e-5)
    assert before["steps"] == "4" and before["seconds"] > 0
    others = Speech({"t": [tones(50, 10), tones(51, 10)]})
    run = Trainer(deeper, others, speech[1], tmp_path / "b").run(say=silent)
    assert run.net.encoder[2].narrow.weight.abs().sum() > 0                        # and they learn
    again = LearnedNano(tmp_path / "b" / "nano.safetensors")
    assert again.heard == {"s0", "s1", "s2", "t"} and start not in str(again.about)
    third = Trainer(replace(deeper, start=str(tmp_path / "b" / "nano.safetensors")), speech[1], speech[0], tmp_path / "c")
    third.export(tmp_path / "c.safetensors")
    assert LearnedNano(tmp_path / "c.safetensors").heard == {"s0", "s1", "s2", "t", "v"}


@pytest.mark.parametrize("sizes", [{"encoder_blocks": 0}, {"width": 48}, {"dim": 32}, {"stride": 4}])
def test_weights_of_other_sizes_are_refused(tmp_path, speech, sizes):
    Trainer(SMOKE, *speech, tmp_path).export(tmp_path / "w.safetensors")
    with pytest.raises(ParameterError, match="only blocks may be added"): begin(replace(SMOKE, start=str(tmp_path / "w.safetensors"), sizes=replace(SMOKE.sizes, **sizes)), speech[0])
    with pytest.raises(ModelFileError, match="no such file"): begin(replace(SMOKE, start=str(tmp_path / "x.safetensors")), speech[0])


def test_speakers_of_two_corpora_keep_apart():
    from audioengram.data.corpora import get_corpus
    a, b = (get_corpus("synthetic", n_speakers=2, n_utterances=2, seconds=3, seed=s, show=False) for s in (0, 1))
    b = replace(b, name="other")
    both = load_speech([(a, list(a.utterances.utterance_id)), (b, list(b.utterances.utterance_id)[:2])])
    assert {s.split("/")[0] for s in both.streams} == {"synthetic", "other"} and len(both.streams) == 3
    assert load_speech([(a, list(a.utterances.utterance_id))], most=.5).seconds < both.seconds


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


def test_smaller_latents_are_not_smoother(tmp_path, speech):
    trainer = Trainer(replace(SMOKE, w_smooth=1.), *speech, tmp_path)
    net, mel = trainer.net, trainer.pool.batch(0)
    noise, level = torch.zeros(len(mel), mel.shape[1] // 8, 64), torch.zeros(len(mel), 1, 1)
    smooth = lambda: float(trainer.losses(net, mel, noise, level)[1]["smooth"])
    with torch.no_grad():
        net.into *= .1; net.out.weight *= .1; before = smooth()     # small enough that the bound bends nothing
        net.into *= .1; net.out.weight *= .1
        assert smooth() == pytest.approx(before, rel=.05) and 0 < before < 4


def test_small_profiles_change_one_thing_each():
    base = asdict(SMALL["small"])
    for name, config in SMALL.items():
        changed = {k for k, v in asdict(config).items() if v != base[k]}
        assert len(changed) == (name != "small") and PROFILES[name] is config, name


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


def test_batches_follow_from_their_number(speech):
    a, b = Pool(speech[0], SMOKE), Pool(speech[0], SMOKE)
    late = b.batch(7)
    for i in range(8): last = a.batch(i)
    assert torch.equal(last, late) and not torch.equal(last, b.batch(6)) and last.shape == (2, 64, 80) and last.min() >= 0
    assert a.have.keys() == b.have.keys() == {1, 2}                      # renewed after four steps
    with pytest.raises(TrainingError, match="no speaker has a second"): Speech({"s": [np.zeros(100, "float32")]})
    with pytest.raises(TrainingError, match="fills a segment"): Pool(Speech({"s": [tones(0)]}), replace(SMOKE, seconds=4.)).batch(0)


def test_version_0_is_the_corpus_as_it_is(speech):
    "And other versions are not, each in its own way."
    names, config = list(speech[0].streams), replace(SMOKE, speed=.2)
    plain, one, two = (speech[0].pictures(v, config) for v in range(3))
    x = torch.from_numpy(speech[0].streams[names[1]][:15 * 16_000].astype("float32") / 32768)[None]
    from audioengram.codecs.nano import mel_filters, mel_loudness
    first = next(mel for i, mel in plain if i == 1)
    torch.testing.assert_close(first.float(), mel_loudness(x[:, :len(x[0]) // 1280 * 1280], mel_filters(), [len(x[0]) // 1280])[0], atol=2e-3, rtol=2e-3)
    assert len(plain) == len(one) == 6 and len({len(m) for _, m in one}) > 2
    assert not torch.equal(one[0][1][:500], two[0][1][:500])


def test_speakers_are_balanced():
    "A speaker with nine times the speech is drawn three times as often at balance 0.5."
    pool = Pool(Speech({"long": [tones(0, 90)], "short": [tones(1, 10)]}), replace(SMOKE, pool=1))
    pool.batch(0, change=False)
    long = sum(p for p, (i, _) in zip(pool.p, pool.have[0], strict=True) if i == 0)
    assert long == pytest.approx(.75, abs=.01)


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (16, 16)])
def test_orthogonal_is_near_the_polar_factor(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(x, full_matrices=False)
    y = orthogonal(x, 5)
    kept = S > .02 * S[0]
    values = torch.diagonal(U.mT @ y @ Vh.mT)
    assert values[kept].min() > .5 and values.max() < 1.3
    torch.testing.assert_close(U.mT @ y @ Vh.mT, torch.diag(values), atol=1e-9, rtol=0)      # singular vectors stay


def test_three_iterations_are_enough_for_most_directions():
    "Singular values from a fiftieth of the norm to nearly all of it."
    values = torch.logspace(-1.65, -.1, 40, dtype=torch.float64)
    for s in values:
        x = torch.diag(torch.stack([s, (1 - s**2).sqrt()]))
        found = torch.linalg.svdvals(orthogonal(x))
        assert .68 < found.min() and found.max() < 1.21


def test_muon_moves_by_its_rate_whatever_the_gradient():
    "Root mean square of a step: 0.2 of the rate, as Adam's; weights decay; momentum is kept."
    w = torch.nn.Parameter(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)))
    for size in (1e-6, 1., 1e4):
        muon, before = Muon([w], decay=0.), w.detach().clone()
        muon.rate = .01
        w.grad = size * torch.randn(64, 64, generator=torch.Generator().manual_seed(1)); muon.step()
        assert .5 < float((w.detach() - before).square().mean().sqrt()) / (.2 * .01) < 1.3
    muon, before = Muon([w], decay=.5), w.detach().clone()
    muon.rate, w.grad = .1, torch.zeros(64, 64)
    muon.step()
    torch.testing.assert_close(w.detach(), .95 * before)


@pytest.mark.parametrize("text, says", [("batch = 'two'", "batch must be int"), ("colour = 1", "unknown setting 'colour'"), ("profile = 'huge'", "unknown profile"),
                                        ("seconds = 1.3", "whole latent frames"), ("steps = 0", "at least 1"), ("steps =", "cannot be read"), ("[sizes]\nstride = 3", "2, 4, 8 or 16")])
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
