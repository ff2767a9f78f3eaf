"Speed of the von Mises-Fisher head beside a diagonal Gaussian and SciPy: `pytest benchmarks/bench_vmf.py`; ratios are measured in the same run."
import time

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from torch.distributions import Independent, Normal

from audioengram.heads.bessel import cumulants
from audioengram.heads.vmf import VonMisesFisher
from audioengram.heads.vmf_mixture import MixtureVonMisesFisher

N, D = 65_536, 512


def best(f, rounds=3):
    "Shortest of a few calls, s; one call before them does not count."
    f()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter(); f(); seconds.append(time.perf_counter() - start)
    return min(seconds)


def compare(benchmark, ours, other, name, bar=None, rounds=3):
    "Time ours, and record how many times as long (or, below 1, as short) it takes as the other."
    reference = best(other, rounds)
    benchmark.pedantic(ours, rounds=rounds, warmup_rounds=1)
    ratio = benchmark.stats.stats.min / reference
    benchmark.extra_info.update({f"times {name}": round(ratio, 4), f"{name} [s]": round(reference, 4)})
    print(f"\n{benchmark.stats.stats.min:.4f} s, {name} {reference:.4f} s: ratio {ratio:.4f}")
    if bar is not None: assert ratio <= bar


def data():
    torch.manual_seed(0)
    return F.normalize(torch.randn(N, D), dim=-1)


def vmf_step(x):
    mu, kappa = F.normalize(torch.randn(N, D), dim=-1).requires_grad_(), torch.full((N,), 500.).requires_grad_()
    def step():
        mu.grad = kappa.grad = None
        VonMisesFisher(mu, kappa).log_prob(x).sum().backward()
    return step


def test_log_prob_forward_and_backward(benchmark):
    x = data()
    mu, log_scale = torch.randn(N, D).requires_grad_(), torch.zeros(N, D).requires_grad_()
    def gaussian():
        mu.grad = log_scale.grad = None
        Independent(Normal(mu, log_scale.exp()), 1).log_prob(x).sum().backward()
    compare(benchmark, vmf_step(x), gaussian, "diagonal Gaussian head", bar=3)


def test_log_prob_beside_the_leanest_gaussian(benchmark):
    "One scale for all frames, written out by hand: the least work that a Gaussian can be."
    x = data()
    mu, log_scale = torch.randn(N, D).requires_grad_(), torch.zeros(D).requires_grad_()
    def gaussian():
        mu.grad = log_scale.grad = None
        (-.5 * ((x - mu) * (-log_scale).exp()).square().sum() - N * log_scale.sum()).backward()
    compare(benchmark, vmf_step(x), gaussian, "lean Gaussian", bar=3)


@pytest.mark.parametrize("dim", [2, 16, 128])
def test_scalar_functions(benchmark, dim):
    "The price of the normaliser itself, for 65 536 concentrations, beside SciPy's one Bessel function."
    kappa = torch.logspace(-3, 5, N, dtype=torch.float64)
    compare(benchmark, lambda: cumulants(kappa, dim), lambda: scipy.special.ive(dim / 2 - 1, kappa.numpy()), "scipy ive", rounds=5)


def test_sampling_beside_scipy_vectorised(benchmark):
    mu = F.normalize(torch.randn(128), dim=-1)
    d, s = VonMisesFisher(mu, 100.), scipy.stats.vonmises_fisher(F.normalize(mu.double(), dim=-1).numpy(), 100.)
    compare(benchmark, lambda: d.sample((100_000,)), lambda: s.rvs(100_000), "SciPy rvs, one mean direction", bar=1)


def test_sampling_beside_scipy_loop(benchmark):
    "A network gives every draw its own mean direction; SciPy then needs a loop (timed on 300 draws)."
    mu, kappa = F.normalize(torch.randn(100_000, 128), dim=-1), torch.rand(100_000) * 200
    d, few = VonMisesFisher(mu, kappa), F.normalize(mu[:300].double(), dim=-1).numpy()
    per_draw = best(lambda: [scipy.stats.vonmises_fisher(m, float(k)).rvs(1) for m, k in zip(few, kappa, strict=False)]) / 300
    benchmark.pedantic(lambda: d.sample(), rounds=3, warmup_rounds=1)
    ratio = per_draw * 100_000 / benchmark.stats.stats.min
    benchmark.extra_info["times faster than SciPy's loop"] = round(ratio, 1)
    print(f"\n{ratio:.0f} times faster than the loop")
    assert ratio >= 100


def test_reparameterised_gradient(benchmark):
    mu, kappa = F.normalize(torch.randn(100_000, 128), dim=-1), torch.full((100_000,), 100.).requires_grad_()
    def step():
        kappa.grad = None
        VonMisesFisher(mu, kappa).rsample().sum().backward()
    compare(benchmark, step, lambda: VonMisesFisher(mu, kappa).sample(), "a sample without gradient")


def test_em(benchmark):
    torch.manual_seed(0)
    x = MixtureVonMisesFisher(torch.zeros(8), F.normalize(torch.randn(8, 64), dim=-1), torch.full((8,), 50.)).sample((50_000,))
    model = benchmark.pedantic(lambda: MixtureVonMisesFisher.fit(x, 8, tolerance=0., max_iterations=50), rounds=1)
    benchmark.extra_info.update(frames=len(x), iterations=len(model.history))


