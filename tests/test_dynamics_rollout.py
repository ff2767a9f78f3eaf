"The rollout engine against a naive loop, its gradients against finite differences, its trainer against the one-step trainer."
import math

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from audioengram.core import ParameterError, TrainingError
from audioengram.dynamics.draws import draw
from audioengram.dynamics.predictor import Predictor, train
from audioengram.dynamics.rollout import ContextBuffer, Stabiliser, Stretches, check_stability, proposal, rollout
from audioengram.dynamics.unroll import Unroll, train_rollout, unrolled_loss
from audioengram.heads.mixture import Mixture
from audioengram.measure.prediction import GaussianForecast
from audioengram.measure.trajectories import particle_log_score


def ar1(rho, B, T, D=2, seed=0):
    e = torch.randn(T, B, D, generator=torch.Generator().manual_seed(seed)); z = [e[0]]
    for t in range(1, T): z.append(rho * z[-1] + math.sqrt(1 - rho**2) * e[t])
    return torch.stack(z, 1)


class Paths:
    "Windows over trajectories [U,T,D] with the methods of a latent store's windows."
    def __init__(self, z, length):
        self.z, self.length, (U, T, _) = z, length, z.shape
        self.at = torch.cartesian_prod(torch.arange(U), torch.arange(length, T))
        self.speaker, self.speakers = self.at[:, 0].numpy(), np.arange(U)
    def __len__(self): return len(self.at)
    def contexts(self, i): u, t = self.at[i].unbind(-1); return self.z[u[:, None], t[:, None] + torch.arange(-self.length, 0)]
    def targets(self, i): u, t = self.at[i].unbind(-1); return self.z[u, t]
    def current(self, i): return self.contexts(i)[:, -1]
    def steps(self, i): return self.targets(i) - self.current(i)
    def batches(self, B, shuffle=True, generator=None, drop_last=False):
        idx = (torch.randperm(len(self), generator=generator) if shuffle else torch.arange(len(self))).split(B)
        yield from idx[:-1] if drop_last and len(idx[-1]) < B else idx


def predictor(target="state", D=2, W=3, head="mixture", seed=1, **kw):
    "A small model with weights that do something, untrained."
    m = Predictor(D, W, encoder="mlp", head=head, target=target, hidden=16, layers=1, dropout=.3, seed=seed, **{**(dict(components=3) if head == "mixture" else {}), **kw})
    m.set_units(Paths(ar1(.8, 10, 60, D), W))
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in m.head.parameters():
            if p.ndim > 1: p.add_(.1 * torch.randn_like(p))
    return m.eval()


def test_buffer_is_a_sliding_window_without_copies():
    b = ContextBuffer(torch.arange(4.)[None, :, None].repeat(2, 1, 3), room=4)
    for t in range(4, 60):
        b.push(torch.full((2, 3), float(t)))
        assert b.view[1, :, 2].tolist() == [t - 3., t - 2., t - 1., float(t)] and b.last[0, 0] == t
        assert b.view.flatten(1).data_ptr() == b.view.data_ptr()
    assert b.frames.shape[1] == 8


@pytest.mark.parametrize("target", ["state", "step"])
def test_engine_equals_a_loop_over_segments(target):
    m, z = predictor(target), ar1(.8, 7, 3 + 6)
    c, y = z[:, :3], z[:, 3:]
    ours = rollout(m, c, 6, mode="mean", truth=y)
    for b in range(7):
        window = c[b:b + 1]
        for s in range(6):
            with torch.no_grad(): d = m(window)
            now = window[:, -1] if target == "step" else 0.
            assert ours.logp[b, 0, s].item() == pytest.approx(d.log_prob(y[b:b + 1, s] - now).item(), abs=1e-4)
            nxt = d.mean + now
            assert torch.allclose(ours.frames[b, 0, s], nxt[0], atol=1e-5)
            window = torch.cat([window[:, 1:], nxt[:, None]], 1)


@pytest.mark.parametrize("target", ["state", "step"])
def test_every_particle_is_scored_on_its_own_context(target):
    m, z = predictor(target), ar1(.8, 5, 3 + 4)
    c, y = z[:, :3], z[:, 3:]
    r = rollout(m, c, 4, particles=6, truth=y, rows=12)                  # several blocks
    window = torch.cat([c[:, None].expand(-1, 6, -1, -1), r.frames], 2)
    with torch.no_grad():
        for s in range(4):
            w = window[:, :, s:s + 3].flatten(0, 1)
            goal = y[:, None, s].expand(-1, 6, -1).flatten(0, 1) - (w[:, -1] if target == "step" else 0.)
            assert torch.allclose(m(w).log_prob(goal).view(5, 6), r.logp[:, :, s], atol=1e-4)
    assert (r.frames.std(1) > 1e-3).all()                                # particles differ


def test_blocks_seeds_and_modes():
    m, c = predictor(), ar1(.8, 9, 3)
    m.train()                                                            # dropout must not leak into rollouts
    a, b = (rollout(m, c, 5, mode="mean", rows=r).frames for r in (2, 1000))
    assert torch.allclose(a, b, atol=1e-5) and m.training
    before = torch.random.get_rng_state()
    x, y, other = (rollout(m, c, 5, 4, seed=s).frames for s in (3, 3, 4))
    assert torch.equal(x, y) and not torch.equal(x, other) and torch.equal(before, torch.random.get_rng_state())
    cold, hot = (rollout(m, c, 1, 400, temperature=t).frames.std(1).mean() for t in (1e-6, 1.))
    assert cold < hot
    with pytest.raises(ParameterError, match="one particle"): rollout(m, c, 5, 4, mode="median")
    with pytest.raises(ParameterError, match="sample, mean or median"): rollout(m, c, 5, mode="mode")
    plain = GaussianForecast(1, torch.eye(2), torch.zeros(2), torch.ones(2))
    assert rollout(plain, c, 3, 2).frames.shape == (9, 2, 3, 2)          # torch's own distributions roll too
    with pytest.raises(ParameterError, match="no temperature"): rollout(plain, c, 3, temperature=.5)
    with pytest.raises(ParameterError, match="side values"): rollout(Predictor(2, 3, hidden=8, side=1), c, 3)


def test_injection_is_teacher_forcing_where_the_truth_goes_in():
    m, z = predictor(), ar1(.8, 6, 3 + 8)
    c, y = z[:, :3], z[:, 3:]
    forced = torch.stack([m(z[:, s:s + 3]).log_prob(y[:, s]) for s in range(8)], 1).detach()
    assert torch.allclose(rollout(m, c, 8, truth=y, inject=[True] * 8).logp[:, 0], forced, atol=1e-4)
    whole = rollout(m, c, 8, mode="mean", truth=y, inject=[s == 3 for s in range(8)], whole=True).logp[:, 0]
    one = rollout(m, c, 8, mode="mean", truth=y, inject=[s == 3 for s in range(8)]).logp[:, 0]
    none = rollout(m, c, 8, mode="mean", truth=y).logp[:, 0]
    assert torch.allclose(whole[:, 4], forced[:, 4], atol=1e-4)          # the whole window is back
    assert not torch.allclose(one[:, 4], forced[:, 4], atol=1e-3) and not torch.allclose(one[:, 4], none[:, 4], atol=1e-3)
    assert torch.equal(one[:, :4], none[:, :4])
    with pytest.raises(ParameterError, match="needs the truth"): rollout(m, c, 8, inject=[True] * 8)


def test_step_scores_are_those_of_the_true_step_from_where_the_particle_is():
    m, z = predictor("step"), ar1(.8, 6, 3 + 3)
    c, y = z[:, :3], z[:, 3:]
    r = rollout(m, c, 3, mode="mean", truth=y, score="step")
    window = torch.cat([c[:, 1:], r.frames[:, 0, :1]], 1)
    assert torch.allclose(r.logp[:, 0, 1], m(window).log_prob(y[:, 1] - y[:, 0]).detach(), atol=1e-4)


def test_particles_reach_the_exact_density_of_an_autoregression():
    z = ar1(.8, 400, 1 + 6, seed=5)
    exact = GaussianForecast(1, .8 * torch.eye(2), torch.zeros(2), torch.full((2,), 1 - .64))
    r = rollout(exact, z[:, :1], 6, 100, truth=z[:, 1:])
    for s in range(6):
        var = 1 - .64**(s + 1)
        direct = Normal(.8**(s + 1) * z[:, 0], math.sqrt(var)).log_prob(z[:, s + 1]).sum(-1)
        difference = particle_log_score(r.logp[..., s], correct=True) - direct
        assert abs(difference.mean()) < 4 * difference.std() / 400**.5 + .01
        assert r.frames[:, :, s].var().item() == pytest.approx(1, abs=.1)


def test_stabilisers_hold_an_explosion_and_say_so():
    def explode(c): return Independent(Normal(2 * c[:, -1], .1), 1)
    c = torch.ones(4, 2, 3)
    free, held = rollout(explode, c, 200, mode="mean"), rollout(explode, c, 200, mode="mean", stabiliser=Stabiliser(max_step=.5))
    assert not torch.isfinite(free.frames).all() and free.cut == 0
    assert torch.isfinite(held.frames).all() and held.cut == 4 * 200
    assert held.frames.diff(dim=2).norm(dim=-1).max() < .5001
    half = rollout(explode, c, 1, mode="mean", stabiliser=Stabiliser(alpha=.5)).frames
    assert torch.allclose(half, torch.full_like(half, 1.5))


HEADS = {"mixture": dict(components=3), "semi-tied": dict(components=3, covariance="semi-tied"), "gaussian": {}, "student": {}, "lowrank": dict(components=2, rank=1),
         "factored": dict(components=2), "direction": dict(components=2, centre="predicted")}


@pytest.mark.parametrize("name", HEADS)
def test_draws_follow_the_density_and_carry_gradients(name):
    m = predictor(head="mixture" if name == "semi-tied" else name, **HEADS[name])
    c = ar1(.8, 1, 3).expand(600, -1, -1)
    torch.manual_seed(0)
    x, s = draw(m(c))
    with torch.no_grad(): y = m(c).sample()
    assert torch.allclose(x.mean(0), y.mean(0), atol=.25) and torch.allclose(x.std(0), y.std(0), rtol=.3)
    assert (s is None) == (name in ("gaussian", "student"))
    x.square().sum().backward()
    got = [p.grad is not None and bool(torch.isfinite(p.grad).all()) for n, p in m.named_parameters() if n in ("head.loc0", "head.log_scale0", "head.start.loc", "head.start.law")]
    assert got and all(got)
    assert proposal(m(c[:4]), "median").shape == (4, 2)


class Toy:
    "A mixture of two narrow laws in one dimension; the weight depends on the state and on a."
    target, dim, in_scale = "state", 1, torch.ones(1)
    def __init__(self, a): self.a = a
    def __call__(self, c):
        z = c[:, -1]
        return Mixture(torch.cat([torch.zeros_like(z), self.a + .5 * z], 1), torch.stack([.5 * z - 1, .3 * z + 1], 1), torch.full((len(z), 2, 1), -.7))


@pytest.mark.parametrize("term", ["energy", "particle", "rollout", "state"])
def test_gradients_of_the_weights_are_unbiased(term):
    B, truth = 8_000, torch.tensor([[[.8], [1.2], [.6]]])
    plan = lambda **kw: Unroll(3, particles=3, teacher=0., **{term: 1.}, **kw)
    def value(a, plan, seed):
        torch.manual_seed(seed)
        return unrolled_loss(Toy(a), torch.zeros(B, 1, 1), truth.expand(B, -1, -1), plan)
    h, pairs = .25, [(value(torch.tensor(.2 + .25), plan(), s).mean() - value(torch.tensor(.2 - .25), plan(), s + 9).mean()).item() / .5 for s in range(5)]
    want, error = np.mean(pairs), np.std(pairs, ddof=1) / 5**.5
    got = {}
    for weights in ("score", "none"):
        each = []
        for s in range(3):
            a = torch.tensor(.2, requires_grad=True)
            loss = value(a, plan(weights=weights), 50 + s).mean()
            each.append(torch.autograd.grad(loss, a)[0].item() if loss.requires_grad else 0.)   # energy and state: without the scores nothing depends on a
        got[weights] = np.mean(each)
    assert abs(got["score"] - want) < 4 * error + .02 * abs(want) + h**2 * .05, (got, want, error)
    assert abs(got["none"] - want) > 3 * abs(got["score"] - want)        # what leaving it out would cost


def test_objective_terms_by_hand():
    m, z = predictor(), ar1(.8, 8, 3 + 4)
    c, y = z[:, :3], z[:, 3:]
    with torch.no_grad():
        forced = torch.stack([-m(z[:, s:s + 3]).log_prob(y[:, s]) for s in range(4)], 1)
        teacher = unrolled_loss(m, c, y, Unroll(4))
        assert torch.allclose(teacher, forced[:, 0], atol=1e-4)
        kept_on_truth = unrolled_loss(m, c, y, Unroll(4, teacher=0., rollout=1.), truth_rate=1.)
        assert torch.allclose(kept_on_truth, forced[:, 1:].mean(1), atol=1e-4)
        mean = rollout(m, c, 4, mode="mean", truth=y)
        plan = Unroll(4, mode="mean", particles=1, teacher=2., rollout=.5, state=3., discount=.5)
        by_hand = -2 * mean.logp[:, 0, 0] - .5 / 3 * (mean.logp[:, 0, 1:] * torch.tensor([.5, .25, .125])).sum(1)
        by_hand = by_hand + 3 / 4 * (((mean.frames[:, 0] - y) / m.in_scale).square().mean(-1) * .5**torch.arange(4)).sum(1)
        assert torch.allclose(unrolled_loss(m, c, y, plan), by_hand, atol=1e-4)


def test_truncation_cuts_the_gradient():
    z = ar1(.8, 8, 3 + 4)
    def grad(truncate):
        m = predictor()
        unrolled_loss(m, z[:, :3], z[:, 3:], Unroll(4, mode="mean", particles=1, teacher=0., rollout=1., truncate=truncate)).mean().backward()
        return m.head.loc0.grad
    assert torch.equal(grad(None), grad(4)) and not torch.allclose(grad(None), grad(1))


def stretches(seed, U, K, W=2): return Stretches(Paths(ar1(.9, U, 40, seed=seed), W + K - 1), K)


def test_one_step_plan_is_one_step_training_to_the_last_bit():
    make = lambda: Predictor(2, 2, encoder="mlp", components=2, hidden=16, layers=1, dropout=.2)
    keep = dict(epochs=2, batch_size=128, lr=3e-3, seed=5, noise=.1, progress=False, device="cpu")
    a, b = make(), make()
    train(a, Paths(ar1(.9, 12, 40, seed=0), 2), Paths(ar1(.9, 4, 40, seed=1), 2), **keep)
    train_rollout(b, stretches(0, 12, 1), stretches(1, 4, 1), Unroll(1, mode="mean", particles=1), units=True, **keep)
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_proper_losses_keep_the_process_alive_and_squared_error_kills_it(tmp_path):
    K, test, make = 3, stretches(2, 30, 3), lambda: Predictor(2, 2, encoder="mlp", components=2, hidden=16, layers=1, dropout=0.)
    one, i = make(), torch.arange(400)
    train(one, Paths(ar1(.9, 60, 40, seed=0), 2), Paths(ar1(.9, 10, 40, seed=1), 2), epochs=10, batch_size=128, lr=1e-2, progress=False, device="cpu")
    true = test.future(i).diff(dim=1).norm(dim=-1).mean().item()
    norm = lambda m: rollout(m, test.contexts(i), K, 8).frames.diff(dim=2).norm(dim=-1).mean().item() / true
    assert norm(one) == pytest.approx(1, abs=.1)
    def tuned(plan, lr, **kw):
        m = make(); m.load_state_dict(one.state_dict())
        return m, train_rollout(m, stretches(0, 30, K), stretches(1, 8, K), plan, epochs=4, batch_size=128, lr=lr, progress=False, device="cpu", **kw)
    plans = dict(particle=Unroll(K, particle=1.), energy=Unroll(K, teacher=.1, energy=5.), squared=Unroll(K, teacher=0., state=1., particles=2))
    fitted = {name: tuned(plan, 3e-2 if name == "squared" else 1e-3, folder=tmp_path / name) for name, plan in plans.items()}
    ratio = {name: norm(m) for name, (m, _) in fitted.items()}
    assert abs(ratio["particle"] - 1) < .2 and abs(ratio["energy"] - 1) < .1 and ratio["squared"] < .75, ratio
    m, history = fitted["squared"]
    assert history.valid.min() < history.valid[0]
    again, read = tuned(plans["squared"], 3e-2, folder=tmp_path / "squared")                     # read back, not run again
    assert np.allclose(read.seconds, history.seconds) and all(torch.equal(p, q) for p, q in zip(again.parameters(), m.parameters(), strict=True))
    _, other = tuned(plans["energy"], 3e-2, folder=tmp_path / "squared")
    assert not np.allclose(other.valid[0], history.valid[0])                                    # another plan is not taken for a finished one


def test_scheduled_sampling_falls_and_divergence_stops():
    m, s = Predictor(2, 2, encoder="mlp", components=2, hidden=16, layers=1), stretches(0, 6, 3)
    train_rollout(m, s, s, Unroll(3, rollout=1., truth_rate=1., truth_rate_end=0., truncate=2), epochs=1, units=True, progress=False, device="cpu", noise=.1)
    broken = stretches(0, 6, 3)
    broken.windows.z[0, 20] = float("inf")
    with pytest.raises(TrainingError, match="diverged"): train_rollout(m, broken, s, Unroll(3, rollout=1.), epochs=1, progress=False, device="cpu")
    assert all(torch.isfinite(p).all() for p in m.parameters())


def test_what_is_refused():
    with pytest.raises(ParameterError, match="one particle"): Unroll(mode="mean")
    with pytest.raises(ParameterError, match="two particles"): Unroll(particles=1, energy=1.)
    with pytest.raises(ParameterError, match="sample or mean"): Unroll(mode="median")
    with pytest.raises(ParameterError, match="whole numbers"): Unroll(steps=0)
    with pytest.raises(ParameterError, match="cannot hold"): Stretches(Paths(ar1(.9, 3, 20), 3), 4)
    with pytest.raises(ParameterError, match="for a plan of 5"): train_rollout(predictor(), stretches(0, 3, 3), stretches(0, 3, 3), Unroll(5))


def test_free_runs_stay_finite_and_explosions_are_reported():
    ok = check_stability(predictor(), ar1(.8, 32, 3), steps=600, block=200)
    assert ok["finite"] and ok["steps"] == 600 and ok["broke"] is None and ok["last"] == pytest.approx(ok["first"], rel=.2)
    bad = check_stability(lambda c: Independent(Normal(1.5 * c[:, -1], 1.), 1), torch.ones(2, 1, 2), steps=1000, block=100)
    assert not bad["finite"] and 190 < bad["broke"] < 230


@pytest.mark.slow
def test_a_hundred_thousand_free_running_steps():
    m = Predictor(3, 2, encoder="state", components=2, hidden=16, layers=1, dropout=0.)
    w = Paths(ar1(.9, 20, 60, 3), 2)
    train(m, w, w, epochs=2, batch_size=128, progress=False, device="cpu")
    held = check_stability(m, ar1(.9, 4, 2, 3), steps=100_000)
    assert held["finite"] and held["steps"] == 100_000 and held["last"] == pytest.approx(3**.5, rel=.3)
