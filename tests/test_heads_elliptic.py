"The factored mixture in its components' own coordinates: mass, moments, special cases, gradients."
import math

import pytest
import torch
from scipy import stats

from audioengram.core import ParameterError, ShapeError
from audioengram.heads.elliptic import EllipticMixture, FactoredMixture
from audioengram.heads.lengths import Gamma, LogNormal, LogNormalMixture
from audioengram.heads.mixture import GaussianMixture, Mixture
from audioengram.heads.vmf import VonMisesFisher


def parts(K=3, D=5, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    r = lambda *s: torch.randn(*s, generator=g, dtype=dtype)
    return r(K), r(K, D), r(K, D) * .3, (r(K, D, D) * .3).tril(-1) + torch.eye(D, dtype=dtype), g


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("D", [2, 5, 64])
def test_a_chi_length_makes_it_the_gaussian_mixture(D, dtype):
    logits, loc, log_scale, factor, g = parts(D=D, dtype=dtype)
    chi = Gamma(torch.full((3,), math.log(D / 2), dtype=dtype), torch.full((3,), -math.log(2), dtype=dtype), power=2.)
    x = torch.randn(50, D, generator=g, dtype=dtype) * 3
    ours, gauss = EllipticMixture(logits, loc, log_scale, chi, factor=factor).log_prob(x), Mixture(logits, loc, log_scale, factor).log_prob(x)
    assert torch.allclose(ours, gauss, rtol=1e-10 if dtype == torch.float64 else 3e-5, atol=1e-4 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("law", ["lognormal", "mixture", "gamma"])
@pytest.mark.parametrize("directed", [False, True])
def test_draws_have_the_mean_and_the_mass_is_one(law, directed):
    logits, loc, log_scale, factor, g = parts(D=3)
    magnitude = dict(lognormal=LogNormal(torch.tensor([.1, .5, .9]).double(), torch.tensor(-1.).double()), gamma=Gamma(torch.ones(3).double(), torch.zeros(3).double()),
                     mixture=LogNormalMixture(torch.zeros(3, 2).double(), torch.tensor([[0., 1.]] * 3).double(), torch.tensor(-1.).double()))[law]
    towards = VonMisesFisher(torch.nn.functional.normalize(loc, dim=-1), torch.tensor([0., 3., 30.]).double()) if directed else None
    mix = EllipticMixture(logits, loc, log_scale, magnitude, towards, factor)
    x = mix.sample((150_000,), generator=g)
    error = (x.mean(0) - mix.mean).abs() / (x.std(0) / len(x)**.5)
    assert error.max() < 5                                         # five standard errors
    wide = torch.distributions.MultivariateNormal(x.mean(0), 4 * x.T.cov())
    torch.manual_seed(1)
    y = wide.sample((200_000,))
    w = (mix.log_prob(y) - wide.log_prob(y)).exp()
    assert abs(w.mean() - 1) < 5 * w.std() / len(w)**.5 + .01


def test_the_length_is_uniform_under_its_own_distribution():
    logits, loc, log_scale, factor, g = parts(K=1)
    mix = EllipticMixture(logits, loc, log_scale, LogNormal(torch.tensor([.6]).double(), torch.tensor([-.7]).double()), factor=factor)
    assert stats.kstest(mix.magnitude_cdf(mix.sample((4000,), generator=g)).numpy(), "uniform").pvalue > 1e-3


def test_temperature_and_shapes():
    logits, loc, log_scale, factor, g = parts(dtype=torch.float32)
    head = FactoredMixture(5, 4, 3, magnitude="mixture", directed=True)
    d = head(torch.randn(7, 4, generator=g))
    assert d.sample((2, 3), generator=g).shape == (2, 3, 7, 5) and d.log_prob(torch.zeros(7, 5)).shape == (7,) and d.responsibilities(torch.zeros(7, 5)).shape == (7, 3)
    cold = EllipticMixture(logits[:1], loc[:1], log_scale[:1], LogNormal(torch.zeros(1), torch.zeros(1)), factor=factor[:1])
    spread = lambda t: cold.magnitude_cdf(cold.sample((2000,), generator=g, temperature=t)).std()
    assert spread(.01) < .2 * spread(1.)
    with pytest.raises(ShapeError, match="dimensions"): d.log_prob(torch.zeros(7, 6))
    with pytest.raises(ParameterError, match="lognormal"): FactoredMixture(5, 4, magnitude="cauchy")


def test_finite_at_the_centre_and_far_away():
    head = FactoredMixture(5, 0, 2, covariance="diagonal")
    d = head(torch.zeros(2, 0))
    x = torch.stack([head.loc0[0], head.loc0[0] + 1e12]).detach()
    assert torch.isfinite(d.log_prob(x)).all()
    loss = -d.log_prob(x).mean(); loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


def test_a_component_of_a_single_frame_does_not_spoil_the_start():
    g = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(500, 4, generator=g), torch.full((1, 4), 1e3)])
    head = FactoredMixture(4, 0, 3, "diagonal", magnitude="mixture").init_from(x)
    assert all(torch.isfinite(p).all() for p in head.parameters()) and torch.isfinite(head(torch.zeros(len(x), 0)).log_prob(x)).all()


def test_within_one_percent_of_the_entropy_rate_and_parameters_recovered():
    "Truth: direction uniform, log length Gaussian with mean and spread that depend on the context."
    g = torch.Generator().manual_seed(0)
    N, D = 20_000, 6
    h = torch.rand(N, 1, generator=g) * 2 - 1
    log_m = 1 + .8 * h[:, 0] + .3 * torch.randn(N, generator=g)
    x = log_m.exp()[:, None] * torch.nn.functional.normalize(torch.randn(N, D, generator=g), dim=-1)
    area = math.log(2) + D / 2 * math.log(math.pi) - math.lgamma(D / 2)
    truth = area + .5 * math.log(2 * math.pi * math.e * .3**2) + D * log_m.mean().item()          # E[-log p] = log area + h(log m) + D E[log m]
    nll = {}
    for name, head in dict(factored=FactoredMixture(D, 1, 1, "diagonal"), gaussian=GaussianMixture(D, 1, 8)).items():
        head.init_from(x[:10_000])
        opt = torch.optim.Adam(head.parameters(), 2e-2)
        for _ in range(250): loss = -head(h[:10_000]).log_prob(x[:10_000]).mean(); opt.zero_grad(); loss.backward(); opt.step()
        nll[name] = -head(h[10_000:]).log_prob(x[10_000:]).mean().item()
    assert abs(nll["factored"] - truth) < .01 * abs(truth) and nll["gaussian"] > nll["factored"]
