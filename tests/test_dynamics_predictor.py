"The predictor and its trainer: entropy rate, nulls, divergence, checkpoints, determinism."
import numpy as np
import pytest
import torch

from audioengram.core import ModelFileError, ParameterError, TrainingError
from audioengram.dynamics.predictor import Predictor, train
from audioengram.measure.prediction import fit_baselines, gain, ladder, score_windows


class Paths:
    "Windows over trajectories [U,T,D] with the methods of a latent store's windows."
    def __init__(self, z, W=4, lag=1):
        U, T, self.D = z.shape
        t = torch.arange(W + lag - 1, T)
        at = lambda shift: z[:, t - shift].reshape(-1, self.D)
        self.c, self.y, self.now = torch.stack([at(lag + W - 1 - i) for i in range(W)], 1), at(0), at(1)
        self.speaker, self.speakers = np.repeat(np.arange(U), len(t)), np.arange(U)
    def __len__(self): return len(self.y)
    def contexts(self, i=slice(None)): return self.c[i]
    def targets(self, i=slice(None)): return self.y[i]
    def current(self, i=slice(None)): return self.now[i]
    def steps(self, i=slice(None)): return (self.y - self.now)[i]
    def batches(self, B, shuffle=True, generator=None, drop_last=False):
        idx = torch.randperm(len(self), generator=generator).split(B)
        yield from idx[:-1] if drop_last and len(idx[-1]) < B else idx


def ar(rho, U=20, T=300, D=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    z = [torch.randn(U, D, generator=g)]
    for _ in range(1, T): z.append(rho * z[-1] + (1 - rho**2)**.5 * torch.randn(U, D, generator=g))
    return torch.stack(z, 1)


RATE = lambda rho, D=3: D / 2 * np.log(2 * np.pi * np.e * (1 - rho**2))
SMALL = dict(window=4, hidden=32, layers=1, components=2, dropout=0.)


@pytest.mark.parametrize("encoder", ["state", "mlp", "conv", "transformer"])
def test_reaches_the_entropy_rate_of_an_autoregression(encoder):
    scale = torch.tensor([1e-3, 1., 1e3])                     # raw latents: three units of their own
    w, v, t = (Paths(ar(.9, seed=s) * scale + 5 * scale) for s in range(3))
    m = Predictor(3, encoder=encoder, **SMALL)
    history = train(m, w, v, epochs=8, batch_size=256, lr=3e-3, progress=False, device="cpu")
    rate = RATE(.9) + float(scale.log().sum())
    assert abs(-m.log_prob(t).mean().item() - rate) < .04
    assert history.valid.iloc[-1] < history.valid[0] - 1.5     # it began at the marginal
    raw = score_windows(m, t, samples=0).nll.mean()
    assert abs(raw + m.log_prob(t).mean().item()) < 1e-4        # one measure, wherever it is computed


def test_step_and_state_targets_agree_in_one_measure():
    w, v = Paths(ar(.8)), Paths(ar(.8, seed=1))
    nll = [-train_and_score(Predictor(3, target=target, **SMALL), w, v) for target in ("state", "step")]
    assert abs(nll[0] - nll[1]) < .05 and abs(nll[0] - RATE(.8)) < .05


def train_and_score(m, w, v):
    train(m, w, v, epochs=8, batch_size=256, lr=3e-3, progress=False, device="cpu")
    return m.log_prob(v).mean().item()


def test_ladder_of_independent_frames_has_one_rung():
    w, v, t = (Paths(torch.randn(20, 300, 8, generator=torch.Generator().manual_seed(s))) for s in range(3))
    far = lambda p: p                                          # independent frames: an old context is as good as a new one
    base = fit_baselines(w)
    models = {}
    for name, encoder in (("mixture", "none"), ("slow", "mlp"), ("fast", "mlp")):
        models[name] = Predictor(8, encoder=encoder, **SMALL)
        train(models[name], far(w), v, epochs=3, batch_size=256, progress=False, device="cpu")
    s = {k: score_windows(f, t, samples=16) for k, f in {**base, **models}.items()}
    rungs = ladder(s["step-diagonal"], s["marginal-diagonal"], s["mixture"], s["slow"], s["fast"]).set_index("rung")
    assert abs(rungs.value["differencing"] - 4 * np.log(2)) < .1
    assert (rungs.value[["marginal shape", "slow context", "short-horizon dynamics"]].abs() < .06).all()
    assert abs(s["fast"].cosine.mean() - s["marginal-diagonal"].cosine.mean()) < .01
    wide = Paths(torch.randn(10, 300, 256, generator=torch.Generator().manual_seed(9)))
    assert abs(score_windows(fit_baselines(wide)["marginal-diagonal"], wide, samples=2).cosine.mean() - 2**-.5) < .01


def test_gain_pairs_windows():
    w = Paths(ar(.5))
    base = fit_baselines(w)
    e = gain(score_windows(base["marginal-full"], w, samples=0), score_windows(base["ridge-1"], w, samples=0))
    assert e.lo < -1.5 * np.log(1 - .25) < e.hi and e.n == 20


def test_divergence_stops_names_the_step_and_keeps_good_weights(tmp_path):
    w, v = Paths(ar(.8)), Paths(ar(.8, seed=1))
    m = Predictor(3, **SMALL)
    w.y = w.y.clone(); w.y[7] = float("inf")
    good = {k: p.clone() for k, p in m.set_units(v).state_dict().items()}
    with pytest.raises(TrainingError, match=r"diverged at step \d+ \(epoch 1\)"):
        train(m, w, v, epochs=2, batch_size=256, progress=False, device="cpu", folder=tmp_path, units=False)
    assert all(torch.equal(p, good[k]) for k, p in m.state_dict().items())
    assert all(torch.isfinite(p).all() for p in Predictor.load(tmp_path).state_dict().values())


@pytest.mark.parametrize("head", ["mixture", "lowrank", "factored"])
def test_a_loss_between_two_looks_is_the_reason_of_what_breaks_after_it(head):
    "Weights that are lost may make the next density fail in its own words; the step that lost them is named all the same."
    w, v = Paths(ar(.8)), Paths(ar(.8, seed=1))
    m = Predictor(3, **SMALL | dict(head=head)).set_units(v)
    w.y = w.y.clone(); w.y[::97] = float("inf")
    good = {k: p.clone() for k, p in m.state_dict().items()}
    with pytest.raises(TrainingError, match=r"diverged at step [0-5] \(epoch 1\)"):
        train(m, w, v, epochs=1, batch_size=64, progress=False, device="cpu", units=False)
    assert all(torch.equal(p, good[k]) for k, p in m.state_dict().items())


def test_nan_latents_and_constant_dimensions_are_refused():
    z = ar(.8); z[0, 5, 1] = float("nan")
    with pytest.raises(ValueError, match="NaN"): train(Predictor(3, **SMALL), Paths(z), Paths(ar(.8)), progress=False, device="cpu")
    z = ar(.8); z[..., 1] = 2.
    with pytest.raises(TrainingError, match="1 latent dimensions are constant"): train(Predictor(3, **SMALL), Paths(z), Paths(ar(.8)), progress=False, device="cpu")


def test_same_seed_same_numbers_and_checkpoints_resume(tmp_path):
    w, v = Paths(ar(.8)), Paths(ar(.8, seed=1))
    fit = lambda folder=None: train(m := Predictor(3, **{**SMALL, "dropout": .2}), w, v, epochs=2, batch_size=256, progress=False, device="cpu", folder=folder, seed=4) is None or m
    a, b = fit(tmp_path), fit()
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    loaded = Predictor.load(tmp_path)
    assert torch.equal(loaded.log_prob(v), a.log_prob(v))
    history = train(Predictor(3, **{**SMALL, "dropout": .2}), w, v, epochs=2, progress=False, device="cpu", folder=tmp_path)
    assert len(history) == 3                                   # read back, not run again
    (tmp_path / "weights.safetensors").write_bytes(b"no")
    with pytest.raises(ModelFileError, match="Train it again"): Predictor.load(tmp_path)


def test_wrong_shapes_and_names():
    with pytest.raises(ValueError, match="expected"): Predictor(3, **SMALL)(torch.zeros(2, 4, 5))
    with pytest.raises(ParameterError, match="transformer"): Predictor(3, encoder="lstm")
    with pytest.raises(ParameterError, match="mixture"): Predictor(3, head="flow")


def test_stories_read_history_and_side_values():
    "Lengths that follow the last length (story D), or a value that only the side channel carries (story C), are learned; the encoder never sees them."
    g = torch.Generator().manual_seed(0)
    U, T, D = 20, 200, 4
    loud = torch.rand(U, T, generator=g)                          # drawn afresh every frame
    d = torch.nn.functional.normalize(torch.randn(U, T, D, generator=g), dim=-1)
    step = (3 * loud.roll(1, 1))[..., None].exp() * d            # length of a step depends on the value one frame earlier
    w = Paths(step.cumsum(1))
    side = torch.stack([loud[:, 4 + i - 4: T + i - 4] for i in range(4)], 2).reshape(-1, 4, 1)
    class Told(Paths):
        def __init__(self): self.__dict__ |= w.__dict__
        def contexts(self, i=slice(None)): return torch.cat([w.contexts(i), side[i]], -1)
    kw = dict(window=4, encoder="none", head="direction", target="step", normalise="global", layers=1, hidden=8)
    fit = lambda m, x: train(m, x, x, epochs=25, batch_size=256, lr=1e-2, progress=False, device="cpu").valid.min()
    unconditional, told = fit(Predictor(D, **kw, story="unconditional"), w), fit(Predictor(D, **kw, story="side", side=1), Told())
    assert told < unconditional - .8                             # three nats of spread in log m are known
    m = Predictor(D, **kw, story="autoregressive")
    assert fit(m, w) < unconditional + .05 and m.given(w.contexts(slice(5)))["history"].shape == (5, 3)
    with pytest.raises(ValueError, match="expected"): Predictor(D, **kw, story="side", side=1)(w.contexts(slice(5)))


def test_starting_from_another_model_takes_its_density_over():
    w, v = Paths(ar(.8)), Paths(ar(.8, seed=1))
    marginal = Predictor(3, **{**SMALL, "components": 2}, encoder="none").set_units(w)
    m = Predictor(3, **SMALL, encoder="state").start_from(marginal)
    assert torch.allclose(m.log_prob(v), marginal.log_prob(v), atol=1e-4)


def test_an_epoch_may_be_shorter_than_the_data():
    calls = []
    m = Predictor(3, **SMALL)
    train(m, Paths(ar(.8)), Paths(ar(.8, seed=1)), epochs=2, epoch_frames=512, batch_size=256, progress=False, device="cpu", callback=lambda model, e: calls.append(e))
    assert calls == [1, 2]
