"Memories: search against a full sort, shrinkage against its oracle, retrieval on a known field, and predictors with their controls."
import numpy as np
import pytest
import torch

from audioengram.core import ParameterError
from audioengram.dynamics.memory import (
    FORMS,
    Memory,
    MemoryPredictor,
    Neighbours,
    cluster_statistics,
    fit_forms,
    kmeans,
    matched,
)
from audioengram.dynamics.predictor import train
from audioengram.dynamics.rollout import check_stability, rollout


def gen(s=0): return torch.Generator().manual_seed(s)
def field(z): return torch.stack([torch.sin(3 * z[:, 0]), torch.cos(3 * z[:, 1])], 1)
def square(n, s): return torch.rand(n, 2, generator=gen(s)) * 4 - 2


@pytest.mark.parametrize("kind", ["exact", "faiss", "auto"])
def test_search_is_a_full_sort(kind):
    keys, q = torch.randn(700, 12, generator=gen()) + 30, torch.randn(90, 12, generator=gen(1)) + 30    # far from the origin
    full = torch.cdist(q.double(), keys.double()).square()
    d, i = Neighbours(keys, kind, chunk=32)(q, 5)
    assert torch.equal(i, full.argsort(1)[:, :5]) and torch.allclose(d, full.sort(1).values[:, :5].float(), atol=1e-2)
    assert (d.diff(dim=1) >= 0).all() and Neighbours(keys[:3], kind)(keys[:3], 1)[1].flatten().tolist() == [0, 1, 2]


def test_inverted_file_and_refusals():
    keys = torch.randn(3000, 8, generator=gen(2))
    want = Neighbours(keys, "exact")(keys[:100], 8)[1]
    got = Neighbours(keys, "ivf", probes=32)(keys[:100], 8)[1]
    assert (got[:, :, None] == want[:, None]).any(2).float().mean() > .8
    with pytest.raises(ParameterError, match="auto, exact, faiss, ivf"): Neighbours(keys, "hnsw")
    with pytest.raises(ValueError, match="NaN"): Neighbours(keys * float("nan"))
    with pytest.raises(ParameterError, match="5 frames"): kmeans(keys[:5], 8)


def test_statistics_are_those_of_a_loop_and_shrink_to_the_oracle():
    x, label = torch.randn(500, 3, generator=gen()) + 2, torch.randint(7, (500,), generator=gen(1))
    mean, var, count, n0 = cluster_statistics(x, label, 9, shrink=0)                       # two clusters stay empty
    for k in range(7):
        part = x[label == k]
        assert torch.allclose(mean[k], part.mean(0), atol=1e-5) and torch.allclose(var[k], part.var(0, correction=0), atol=1e-4) and count[k] == len(part)
    assert torch.allclose(mean[8], x.mean(0), atol=1e-5) and torch.allclose(var[7], x.var(0, correction=0), atol=1e-4) and n0 == 0
    assert torch.allclose(cluster_statistics(x, label, 7, shrink=1e9)[0], x.mean(0).expand(7, 3), atol=1e-4)
    truth = .5 * torch.randn(300, 4, generator=gen(2))
    label = torch.randint(300, (3000,), generator=gen(3))
    y = truth[label] + 2 * torch.randn(3000, 4, generator=gen(4))
    error = lambda s: (cluster_statistics(y, label, 300, s)[0] - truth).square().mean().item()
    assert cluster_statistics(y, label, 300)[3] == pytest.approx(16, rel=.25)              # (2 / .5)²
    assert error("auto") < .65 * error(0) and error("auto") < 1.05 * min(error(s) for s in (4, 8, 16, 32, 64))
    noise = torch.randn(3000, 4, generator=gen(5))
    assert cluster_statistics(noise, label, 300)[0].square().mean() < .1 * cluster_statistics(noise, label, 300, 0)[0].square().mean()   # no structure: back to the mean


def test_readings_hard_soft_and_of_every_frame():
    z, held, new = square(5000, 0), square(1500, 1), square(1000, 2)
    step = field(z) + .3 * torch.randn(5000, 2, generator=gen(3))
    r2 = lambda m: 1 - ((m(new)[0] - field(new)).square().sum() / (field(new) - step.mean(0)).square().sum()).item()
    hard, soft, kernel = Memory(2, 200, 1).fill(z, step), Memory(2, 200, 8).fill(z, step), Memory(2, 5000, 32).fill(z, step, frames=True)
    target = field(held) + .3 * torch.randn(1500, 2, generator=gen(4))
    for m in (soft, kernel): m.tune(held, target)
    assert .9 < r2(hard) < r2(soft) and r2(kernel) > .95
    mean, var = kernel(held)
    assert ((target - mean).square() / var).mean().item() == pytest.approx(1, abs=.1)      # a calibrated spread
    assert r2(Memory(2, 200, 8).fill(z, step[torch.randperm(5000, generator=gen(5))])) < .05
    i = soft.index(new, 8)
    w = (-i[0] / soft.tau).softmax(1)
    by_hand = (w[..., None] * soft.mean[i[1]]).sum(1)
    assert torch.allclose(soft(new)[0], by_hand, atol=1e-5)
    second = (w[..., None] * (soft.var[i[1]] + soft.mean[i[1]].square())).sum(1) - by_hand.square()
    assert torch.allclose(soft(new)[1], second, atol=1e-4)                                 # moments of the mixture
    before = soft(new)[0]
    soft.keys.add_(1.)
    assert not torch.equal(soft(new)[0], before)                                           # the index follows its keys
    with pytest.raises(ParameterError, match="k=9"): Memory(2, 8, 9)


class Cloud:
    "Windows over pairs (z, step)."
    def __init__(self, n, seed):
        self.z = square(n, seed)
        self.y = -.5 * self.z + field(self.z) + .2 * torch.randn(n, 2, generator=gen(seed + 100))
        self.speaker, self.speakers = np.arange(n) // 100, np.arange(n // 100)
    def __len__(self): return len(self.z)
    def contexts(self, i=slice(None)): return self.z[i][:, None]
    def steps(self, i=slice(None)): return self.y[i]
    def current(self, i=slice(None)): return self.z[i]
    def targets(self, i=slice(None)): return self.z[i] + self.y[i]
    def batches(self, B, shuffle=True, generator=None, drop_last=False):
        idx = torch.randperm(len(self), generator=generator).split(B)
        yield from idx[:-1] if drop_last and len(idx[-1]) < B else idx


@pytest.fixture(scope="module")
def fitted():
    return fit_forms(Cloud(5000, 0), Cloud(1500, 1), 2, 1, clusters=128, model=dict(hidden=8, layers=0, dropout=0.), epochs=5, batch_size=128, lr=1e-2, progress=False, device="cpu")


def test_memory_helps_a_network_that_cannot_learn_the_field(fitted):
    nll = {k: -m.log_prob(Cloud(3000, 2)).mean().item() for k, m in fitted.items()}
    assert set(nll) == {"memory-hard", "memory-soft", "param", "hybrid", "residual-add", "residual-gated"}
    assert nll["memory-soft"] < nll["memory-hard"] < nll["param"]
    assert max(nll["residual-add"], nll["residual-gated"], nll["hybrid"]) < nll["param"] - .3
    entropy = 2 * .5 * np.log(2 * np.pi * np.e * .04)
    assert all(v > entropy - .05 for v in nll.values())                                    # nobody beats the noise


def test_models_with_memories_save_load_and_roll(fitted, tmp_path):
    z = Cloud(300, 3).contexts()
    for name, m in fitted.items():
        m.save(tmp_path / name)
        again = MemoryPredictor.load(tmp_path / name)
        assert torch.allclose(again(z).mean, m(z).mean, atol=1e-5) and torch.equal(again.log_prob(Cloud(300, 3)), m.log_prob(Cloud(300, 3)))
        r = rollout(m, z[:10], 6, 4, truth=torch.zeros(10, 6, 2))
        assert torch.isfinite(r.frames).all() and torch.isfinite(r.logp).all()
    assert check_stability(fitted["residual-gated"], z[:16], steps=200, block=100)["finite"]


def test_residual_memory_remembers_what_the_network_gets_wrong(fitted):
    w = Cloud(2000, 4)
    m = fitted["residual-add"]
    keys, values = m._pairs(w, 500, 0)
    c = keys[:, None] * m.in_scale + m.in_mean
    shown = torch.stack([(w.y[(w.z - z).norm(dim=1).argmin()] - m.out_mean) / m.out_scale for z in c[:, 0]])
    assert torch.allclose(values, shown - m.network(c), atol=1e-4)


def test_controls_of_equal_cost():
    m = MemoryPredictor(16, 4, "gated", clusters=512, hidden=64, layers=1)
    plain = MemoryPredictor(16, 4, "param", hidden=64, layers=1)
    assert m.flops >= plain.flops + 512 * 16                                               # the distances are counted
    assert m.n_stored == m.n_parameters + 512 * (3 * 16 + 1) + 1
    make = lambda h: MemoryPredictor(16, 4, "param", hidden=h, layers=1)
    assert matched(make, m.flops, lambda c: c.flops, step=2).flops == pytest.approx(m.flops, rel=.03)
    assert matched(make, m.n_stored, lambda c: c.n_stored, step=2).n_stored == pytest.approx(m.n_stored, rel=.03)
    with pytest.raises(ParameterError, match="costs more"): matched(make, 10, lambda c: c.flops)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_starts_at_the_marginal_and_can_be_trained(form):
    m = MemoryPredictor(2, 1, form, clusters=32, hidden=8, layers=0, spread="global" if form == "memory" else "predicted")
    m.set_units(Cloud(1000, 5))
    if form != "param": m.remember(Cloud(1000, 5), Cloud(500, 6))
    before = m.log_prob(Cloud(500, 6)).mean()
    if form != "memory": train(m, Cloud(1000, 5), Cloud(500, 6), epochs=1, batch_size=128, units=False, progress=False, device="cpu")
    assert m.log_prob(Cloud(500, 6)).mean() >= before - 1e-4
    with pytest.raises(ParameterError, match="memory, param"): MemoryPredictor(2, form="lookup")
    with pytest.raises(ParameterError, match="global or predicted"): MemoryPredictor(2, spread="none")
