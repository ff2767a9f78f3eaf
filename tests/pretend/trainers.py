"Trainers end on the device, scores on the CPU, and a step waits for nothing. Run by tests/test_pretend_device.py."
import codes_toy
import numpy as np
import pretend_cuda
import pytest
import torch

from audioengram.core import TrainingError
from audioengram.data.memory_store import MemoryStore
from audioengram.devices import computing_on, device_of, working_device
from audioengram.dynamics.factorizer import Factorizer, fit_factorizer, judge
from audioengram.dynamics.fit import LOOK
from audioengram.dynamics.generate import Sampling, continue_latents
from audioengram.dynamics.injection import gap_rows, injection_rows
from audioengram.dynamics.memory import fit_forms
from audioengram.dynamics.predictor import Predictor, fitted, train
from audioengram.dynamics.rollout import Stretches, check_stability, rollout
from audioengram.dynamics.sequence import SEQUENCE_HEADS, SequenceConfig
from audioengram.dynamics.sequence_data import Sequences
from audioengram.dynamics.sequence_score import frame_scores
from audioengram.dynamics.sequence_train import SequenceRecipe, SequenceTrainer
from audioengram.dynamics.unroll import Unroll, train_rollout
from audioengram.ember.jepa import Jepa, Tower, fit_jepa
from audioengram.ember.recursion import fit_core, rivals, running_parity
from audioengram.measure.free_runs import free_run_report
from audioengram.measure.prediction import fit_baselines, score_windows

D, W = 4, 3
SMALL = dict(hidden=16, layers=1, components=2)
QUICK = dict(epochs=1, batch_size=32, progress=False)


def store(utterances=8, frames=40, seed=0):
    g = torch.Generator().manual_seed(seed)
    slow, fast = torch.randn(2, utterances, frames, D, generator=g)
    return MemoryStore.of(list(.3 * slow.cumsum(1) + fast))


@pytest.fixture(scope="module")
def sets(): return {part: store(seed=i).windows(length=W) for i, part in enumerate(("train", "valid", "test"))}


@pytest.fixture(scope="module")
def model(sets): return fitted(Predictor(D, W, **SMALL), sets, "toy", **QUICK)


def on_device(m): return device_of(m).type == "cuda" and all(t.is_cuda for t in m.state_dict().values())


def test_a_fitted_predictor_is_read_back_to_the_device(model, sets):
    again = fitted(Predictor(D, W, **SMALL), sets, "toy", **QUICK)
    assert on_device(model) and on_device(again) and again.fingerprint == model.fingerprint
    assert not again.log_prob(sets["test"]).is_cuda
    assert np.isfinite(score_windows(again, sets["test"], samples=4).nll).all()


def test_the_profile_says_which_device_and_a_variable_overrules_it(sets, monkeypatch):
    m = Predictor(D, W, **SMALL)
    with computing_on("cpu"): train(m, sets["train"], sets["valid"], **QUICK)
    assert device_of(m).type == "cpu"
    monkeypatch.setenv("AUDIOENGRAM_DEVICE", "cuda")
    with computing_on("cpu"): assert working_device().type == "cuda" and working_device("cpu").type == "cpu"


@pytest.mark.parametrize("covariance", ["diagonal", "semi-tied"])
def test_a_training_step_of_the_mixture_waits_for_nothing(covariance, sets):
    def waits(steps):
        m = Predictor(D, W, **SMALL, covariance=covariance)
        many = store(utterances=4, frames=steps + W).windows(length=W)         # one window more a step and utterance
        before = pretend_cuda.syncs.total(), pretend_cuda.kernels.total()
        train(m, many, sets["valid"], epochs=1, batch_size=4, progress=False)
        return pretend_cuda.syncs.total() - before[0], pretend_cuda.kernels.total() - before[1]
    (few, _), (more, _) = waits(LOOK), waits(4 * LOOK)
    assert more - few <= 3, f"{3 * LOOK} further steps waited {more - few} times: {pretend_cuda.syncs.most_common(3)}"


def test_divergence_is_told_between_looks(sets):
    broken = store().windows(length=W)
    broken._z = broken._z.clone(); broken._z[50] = float("inf")
    m = Predictor(D, W, **SMALL).to("cuda").set_units(sets["train"])
    good = {k: v.clone() for k, v in m.state_dict().items()}
    with pytest.raises(TrainingError, match=r"diverged at step \d+ \(epoch 1\)"):
        train(m, broken, sets["valid"], units=False, **QUICK)
    assert all(torch.equal(v, good[k]) for k, v in m.state_dict().items())


def test_rollouts_gaps_and_training_on_rollouts(model, sets):
    long = [store(seed=s).windows(length=W + 3) for s in (0, 1)]
    stretches, valid = (Stretches(w, 4) for w in long)
    run = rollout(model, stretches.contexts(torch.arange(5)), 4, particles=3)
    assert run.frames.shape == (5, 3, 4, D) and not run.frames.is_cuda and torch.isfinite(run.frames).all()
    base, idx = fit_baselines(sets["train"])["step-diagonal"], torch.arange(12)
    assert np.isfinite(gap_rows(model, {1: model}, stretches, base, particles=4, idx=idx).C).all()
    assert np.isfinite(injection_rows(model, stretches, base, idx=idx).gain).all()
    assert check_stability(model, stretches.contexts(torch.arange(2)), 20, block=10)["finite"]
    real = valid.future(torch.arange(8))
    own, reference = run.frames[:, 0].repeat(2, 1, 1)[:8], sets["train"].targets()
    assert len(free_run_report(own, real, np.arange(8) % 4, reference, clusters=4, repeats=2))
    for plan in (Unroll(4, rollout=1.), Unroll(4, mode="mean", particles=1, state=1.)):
        history = train_rollout(model, stretches, valid, plan, epochs=1, batch_size=16, progress=False)
        assert np.isfinite(history.valid).all() and on_device(model)


def test_factorizer(sets):
    m = Factorizer(D, 2, window=W, hidden=16, components=2)
    assert np.isfinite(fit_factorizer(m, sets["train"], sets["valid"], **QUICK).valid).all() and on_device(m)
    assert np.isfinite(judge(m, sets["test"])).all()


def test_memories(sets):
    small = dict(hidden=16, layers=1)
    forms = fit_forms(sets["train"], sets["valid"], D, W, clusters=6, k=3, model=small, **QUICK)
    for m in forms.values(): assert on_device(m) and np.isfinite(score_windows(m, sets["test"], samples=2).energy).all()


def test_spikes_learn_to_predict_themselves():
    grids = torch.randint(0, 3, (12, 5, 160), generator=torch.Generator().manual_seed(0)).float()
    m = Jepa(Tower(5, dim=16, layers=1, filters=8))
    history = fit_jepa(m, grids, epochs=1, batch=6)
    assert on_device(m) and np.isfinite(history[-1]["prediction"]) and not m.embed(grids).is_cuda


@pytest.mark.parametrize("name", ["recursive", "single pass"])
def test_cores(name):
    net = rivals(2, 2, 16, latent_steps=1, rounds=2, steps=2, layers=1, ordered=True, each=True)[name]
    fit, history = fit_core(net, lambda g: running_parity(g, 4, 5), updates=2, steps=2)
    assert on_device(fit) and np.isfinite(history).all()


def test_codes_and_their_prior():
    from audioengram.codes.prior import bits_per_code
    from audioengram.codes.writing import generate, infill
    m = codes_toy.model(prior=True)
    assert on_device(m) and on_device(m.prior)
    codes = m.encode(np.sin(np.arange(24_000) / 20).astype("float32"))
    assert np.isfinite(m.decode(codes)).all() and np.isfinite(bits_per_code(m.prior, [codes])).all()
    made = generate(m.prior, 2, codes[:3])
    assert len(infill(m.prior, made, np.arange(len(made))[:, None, None] == 3, candidates=2)[0]) == len(made)


def test_codes_with_a_memory():
    from audioengram.codes.prior import PriorConfig, fit_prior
    grids = [np.random.default_rng(i).integers(0, 8, (12, 4, 3)) for i in range(3)]
    config = PriorConfig(8, 3, 4, hidden=16, layers=1, heads=2, window=48, memory="suffix", rows=64, memory_dim=16)
    assert on_device(fit_prior(grids[:2], grids[2:], config, steps=2, batch=2, show=False))


# "lsd" differentiates forwards, in which torch itself crashes on tensors that only pretend to be elsewhere
@pytest.mark.parametrize("head", [h for h in SEQUENCE_HEADS if h != "lsd"])
def test_sequence_models_train_speak_and_score(head, tmp_path):
    "Every head behind a transformer with all its options: training, a checkpoint, cached sampling, scores."
    frames, who = torch.randn(6 * 40, D, generator=torch.Generator().manual_seed(0)), np.array([f"s{i // 2}" for i in range(6)])
    data = Sequences(frames, np.full(6, 40), who, who, about=[dict(codec="toy", codec_fingerprint="toy")])
    config = SequenceConfig(dim=D, width=16, layers=2, heads=2, hidden=16, context=8, components=2, head=head, head_width=16,
                            head_layers=1, k_max=.5, short=1, short_frames=4, conditions=(("voice", 2 * D),), anchor="sink")
    recipe = SequenceRecipe(config, steps=3, rows=2, length=32, warmup=1, validate_every=3, save_every=2, draws=2,
                            check_frames=40)
    run = SequenceTrainer(recipe, data, data, tmp_path, "cuda")
    run.run(say=lambda text: None)
    assert on_device(run.model) and np.isfinite(run.curve[-1]["energy"])
    model = run.best_model()
    z = continue_latents(model, frames.view(6, 40, D)[:2].to("cuda"), 5, Sampling(guidance=1.5, noise=.1))
    assert z.is_cuda and z.shape == (2, 5, D) and torch.isfinite(z.cpu()).all()
    rows = frame_scores(model, data, draws=2, white=torch.eye(D), utterances=[0, 1])
    assert len(rows) == 80 and np.isfinite(rows.energy).all()
