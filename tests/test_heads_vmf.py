"von Mises-Fisher: numbers against mpmath, samples against their law, gradients against both, and the whole of torch's Distribution contract."
import math

import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import kl_divergence, transform_to

from audioengram.core import AudioengramError, ParameterError, ShapeError, generator
from audioengram.heads.bessel import bessel_ratio, cumulants, inverse_bessel_ratio, log_normaliser, log_sphere_area
from audioengram.heads.vmf import HypersphericalUniform, VonMisesFisher, _ImplicitGap, sample_gap, unit_sphere
from audioengram.heads.vmf_mixture import MixtureVonMisesFisher

DIMS = [2, 3, 4, 5, 8, 10, 16, 32, 64, 128, 512, 1024, 4096]
KAPPAS = [0.] + [10.**i for i in range(-8, 9)] + [30., 37., 45., 60., 300., 3000.]
f64 = torch.float64


def exact(kappa, dim):
    "log C, A, 1 - A, L, A', A'' with 50 digits left after every cancellation."
    with mpmath.workdps(120):
        k, nu = mpmath.mpf(kappa), mpmath.mpf(dim) / 2 - 1
        C0 = mpmath.loggamma(nu + 1) - mpmath.log(2) - (nu + 1) * mpmath.log(mpmath.pi)
        if k == 0: return C0, mpmath.mpf(0), mpmath.mpf(1), mpmath.mpf(0), 1 / mpmath.mpf(dim), mpmath.mpf(0)
        if k > max(2e4, 2 * nu**2): logI, A = _hankel(nu, k)
        else:
            I = mpmath.besseli(nu, k, maxterms=10**7)
            logI, A = mpmath.log(I), mpmath.besseli(nu + 1, k, maxterms=10**7) / I
        logC = nu * mpmath.log(k) - (nu + 1) * mpmath.log(2 * mpmath.pi) - logI
        V = 1 - A**2 - (dim - 1) * A / k
        return logC, A, 1 - A, C0 - logC, V, -2 * A * V - (dim - 1) * (V / k - A / k**2)


def _hankel(nu, k):
    "DLMF 10.40.1; log I_nu and I_{nu+1}/I_nu."
    def series(order):
        term = total = mpmath.mpf(1)
        for j in range(1, 10_000):
            term *= -(4 * order**2 - (2 * j - 1) ** 2) / (8 * k * j)
            total += term
            if abs(term) < mpmath.mpf(10) ** -110: return total
        raise AssertionError("Hankel's series did not reach its precision")
    return k - mpmath.log(2 * mpmath.pi * k) / 2 + mpmath.log(series(nu)), series(nu + 1) / series(nu)


def rel(ours, truth): return float(abs(mpmath.mpf(ours) - truth) / abs(truth)) if truth else abs(ours)


def direction(*shape, dtype=f64, seed=0): return F.normalize(torch.randn(*shape, dtype=dtype, generator=generator(seed)), dim=-1)


# --- numbers ---------------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(("dtype", "bar"), [(f64, 1e-10), (torch.float32, 2e-6)])
def test_against_50_digits(dim, dtype, bar):
    k = torch.tensor(KAPPAS, dtype=dtype)
    c = cumulants(k, dim)
    assert c.L.dtype == f64 and log_normaliser(k, dim).dtype == dtype
    ours = [log_normaliser(k, dim), bessel_ratio(k, dim), *(x.to(dtype) for x in (c.gap, c.L, c.variance, c.third))]
    for i, kappa in enumerate(k.tolist()):
        for name, o, t in zip(("logC", "A", "gap", "L", "variance", "third"), ours, exact(kappa, dim), strict=True):
            assert rel(o[i].item(), t) < bar, (name, dim, kappa)
        assert rel(c.M[i].item(), mpmath.mpf(kappa) - exact(kappa, dim)[3]) < 1e-10


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 5000), st.floats(-8, 8))
def test_any_dimension_and_kappa_within_amos_bounds(dim, exponent):
    k, nu = 10.**exponent, dim / 2 - 1
    c = cumulants(torch.tensor(k, dtype=f64), dim)
    assert all(torch.isfinite(x) for x in c)
    lower, upper = k / (nu + 1 + math.hypot(k, nu + 1)), k / (nu + .5 + math.hypot(k, nu + .5))
    assert lower * (1 - 1e-14) <= c.mean <= upper * (1 + 1e-14)
    assert c.variance > 0 and c.third <= 0 and c.L > 0 and c.M > 0
    if k < 2e4: assert rel(c.mean.item(), exact(k, dim)[1]) < 1e-12


@pytest.mark.parametrize("dim", [2, 3, 7, 16, 63, 64, 65, 66, 67, 68, 512, 4096])
def test_dense_scan_is_monotone_and_continuous(dim):
    k = torch.logspace(-8, 8, 20_001, dtype=f64)
    c = cumulants(k, dim)
    assert all(torch.isfinite(x).all() for x in c)
    # steps of A (and, where A has no digits left, of 1 - A) are those of its derivative: no step at any place
    assert (c.mean.diff() >= 0).all() and (c.gap.diff()[k[1:] > 1e-6] < 0).all() and (c.variance.diff() <= 1e-15 / dim).all() and (c.L.diff() > 0).all()
    slope = (c.variance[1:] + c.variance[:-1]) / 2 * k.diff()
    assert ((c.mean.diff() / slope - 1).abs()[k[1:] < 100] < 1e-5).all()
    assert ((-c.gap.diff() / slope - 1).abs()[k[1:] > .01] < 1e-5).all()
    smooth = c.variance.log().diff(n=2)
    assert smooth.diff().abs().max() < 1e-5


def test_derivatives_to_third_order_and_of_every_cumulant():
    k = torch.tensor([0., 1e-6, .3, 7., 31.9, 300., 1e5, 1e8], dtype=f64, requires_grad=True)
    d = lambda y: torch.autograd.grad(y.sum(), k, create_graph=True)[0]
    for dim in (2, 3, 17, 128, 4096):
        c = cumulants(k, dim)
        first = d(log_normaliser(k, dim)); second = d(first); third = d(second)
        for i, kappa in enumerate(k.tolist()):
            _, A, _, _, V, T = exact(kappa, dim)
            for o, t in ((first, -A), (second, -V), (third, -T), (d(c.mean), V), (d(d(c.mean)), T), (d(c.M), 1 - A), (d(c.gap), -V), (d(c.variance), T)):
                assert rel(o[i].item(), t) < 1e-10, (dim, kappa)


def test_inverse_bessel_ratio():
    for dim in (2, 3, 8, 100, 1024):
        k = torch.logspace(-7, 7.9, 200, dtype=f64)
        c = cumulants(k, dim)
        assert (inverse_bessel_ratio(c.mean, dim, gap=c.gap) / k - 1).abs().max() < 1e-10
    r = torch.tensor([.01, .3, .6, .99], dtype=f64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r: inverse_bessel_ratio(r, 5), r) and torch.autograd.gradgradcheck(lambda r: inverse_bessel_ratio(r, 5), r)
    assert inverse_bessel_ratio(torch.tensor([0., 1.]), 64).tolist() == [0., 1e8]


# --- density ---------------------------------------------------------------------------------------------------------------------------------------

def test_log_prob_against_scipy_and_closed_forms():
    mu, x = direction(4, 6), direction(100, 4, 6, seed=1)
    d = VonMisesFisher(mu, torch.tensor([.1, 2., 40., 500.], dtype=f64))
    for i, kappa in enumerate(d.concentration.tolist()):
        np.testing.assert_allclose(d.log_prob(x)[:, i], scipy.stats.vonmises_fisher(mu[i].numpy(), kappa).logpdf(x[:, i].numpy()), atol=1e-12)
    circle, angle = VonMisesFisher(torch.tensor([1., 0.], dtype=f64), 3.), torch.linspace(-3, 3, 50, dtype=f64)
    np.testing.assert_allclose(circle.log_prob(torch.stack([angle.cos(), angle.sin()], -1)), scipy.stats.vonmises.logpdf(angle, 3.), atol=1e-13)
    ball = VonMisesFisher(direction(3), 2.)
    w = (direction(9, 3, seed=2) @ ball.loc)
    np.testing.assert_allclose(ball.log_prob(direction(9, 3, seed=2)), 2 * w + math.log(2 / (4 * math.pi * math.sinh(2))), atol=1e-13)


@pytest.mark.parametrize("dim", [2, 3, 5, 30])
@pytest.mark.parametrize("kappa", [0., .5, 20., 5e3])
def test_density_integrates_to_one(dim, kappa):
    k = torch.tensor(kappa, dtype=f64)
    f = lambda t: math.exp(log_normaliser(k, dim).item() + kappa * math.cos(t) + log_sphere_area(dim - 1)) * math.sin(t) ** (dim - 2)
    total, _ = scipy.integrate.quad(f, 0, math.pi, points=[min(3., 1 / math.sqrt(kappa + 1)), min(3.1, 10 / math.sqrt(kappa + 1))], limit=200)
    assert abs(total - 1) < 1e-8


def test_gradients_of_log_prob():
    raw, kappa, x = torch.randn(3, 7, dtype=f64, generator=generator(3), requires_grad=True), torch.tensor([.2, 5., 300.], dtype=f64, requires_grad=True), direction(3, 7, seed=4)
    f = lambda raw, kappa: VonMisesFisher(F.normalize(raw, dim=-1), kappa).log_prob(x)
    assert torch.autograd.gradcheck(f, (raw, kappa)) and torch.autograd.gradgradcheck(f, (raw, kappa))
    mu = F.normalize(raw, dim=-1)
    by_hand = torch.autograd.grad((kappa.detach()[:, None] * mu * x).sum(), raw)[0]
    np.testing.assert_allclose(torch.autograd.grad(f(raw, kappa).sum(), raw)[0], by_hand, atol=1e-10)
    w = (mu * x).sum(-1)
    np.testing.assert_allclose(torch.autograd.grad(f(raw, kappa).sum(), kappa)[0].numpy(), (w - bessel_ratio(kappa, 7)).detach().numpy(), atol=1e-12)


def test_gradients_are_finite_everywhere():
    for dim in (2, 3, 64, 1024):
        for dtype in (torch.float32, f64):
            k = torch.tensor(KAPPAS, dtype=dtype, requires_grad=True)
            mu = direction(len(KAPPAS), dim, dtype=dtype).requires_grad_()
            d = VonMisesFisher(mu, k)
            x = torch.cat([mu.detach()[None], -mu.detach()[None], direction(3, len(KAPPAS), dim, dtype=dtype, seed=1)])
            (d.log_prob(x).sum() + d.entropy().sum() + d.rsample((3,)).square().sum() + d.mean.sum() + d.variance.sum()).backward()
            assert torch.isfinite(k.grad).all() and torch.isfinite(mu.grad).all()


def test_float32_at_extreme_kappa():
    for dim, kappa in ((2, 1e8), (16, 1e6), (512, 1e8), (4096, 1e8)):
        d = VonMisesFisher(direction(dim, dtype=torch.float32), kappa)
        x = d.sample((500,))
        assert x.dtype == torch.float32 and (torch.linalg.vector_norm(x.double(), dim=-1) - 1).abs().max() < 6e-7
        truth = VonMisesFisher(F.normalize(d.loc.double(), dim=-1), kappa).log_prob(F.normalize(x.double(), dim=-1))
        assert ((d.log_prob(x) - truth).abs() / truth.abs().clamp(min=1)).max() < 1e-4


def test_transforms_of_torch():
    k, x = torch.tensor([.1, 3., 700.], dtype=f64), direction(3, 12)
    mu = direction(12, seed=5)
    f = lambda kappa, x: VonMisesFisher(mu, kappa, validate_args=False).log_prob(x)
    w = x @ mu
    A, V = bessel_ratio(k, 12), cumulants(k, 12).variance
    np.testing.assert_allclose(torch.func.vmap(f)(k, x), VonMisesFisher(mu, k).log_prob(x), atol=1e-13)
    np.testing.assert_allclose(torch.func.vmap(torch.func.grad(f))(k, x), w - A, atol=1e-12)
    np.testing.assert_allclose(torch.func.vmap(torch.func.hessian(f))(k, x), -V, rtol=1e-12)
    np.testing.assert_allclose(torch.func.jvp(lambda k: f(k, x), (k,), (torch.ones_like(k),))[1], w - A, atol=1e-12)


@pytest.mark.parametrize("dim", [3, 128])
def test_compiles_to_one_graph(dim):
    def f(raw, kappa, x):
        return VonMisesFisher(F.normalize(raw, dim=-1), F.softplus(kappa)).log_prob(x)
    raw, kappa, x = torch.randn(4, dim, requires_grad=True), torch.randn(4, requires_grad=True), direction(4, dim, dtype=torch.float32)
    fast = torch.compile(f, fullgraph=True, backend="aot_eager")
    np.testing.assert_allclose(fast(raw, kappa, x).detach(), f(raw, kappa, x).detach(), rtol=1e-5)
    for a, b in zip(torch.autograd.grad(fast(raw, kappa, x).sum(), (raw, kappa)), torch.autograd.grad(f(raw, kappa, x).sum(), (raw, kappa)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


# --- samples ---------------------------------------------------------------------------------------------------------------------------------------

def numeric_cdf(dim, kappa, theta):
    "P(angle <= theta) on a grid, by the trapezoid rule in the angle: no code of ours."
    sd = math.sqrt((dim - 1) / (kappa + dim))
    grid = np.unique(np.concatenate([np.linspace(0, math.pi, 40_001), np.linspace(0, min(math.pi, 12 * sd), 40_001)]))
    with np.errstate(divide="ignore"): log_p = kappa * (np.cos(grid) - 1) + (dim - 2) * np.log(np.sin(grid)) if dim > 2 else kappa * (np.cos(grid) - 1)
    p = np.exp(log_p - log_p.max())
    cdf = np.concatenate([[0], np.cumsum((p[1:] + p[:-1]) / 2 * np.diff(grid))])
    return np.interp(theta, grid, cdf / cdf[-1])


@pytest.mark.parametrize("dim", [2, 3, 4, 8, 16, 128, 1024])
@pytest.mark.parametrize("kappa", [0., 1e-3, 1., 30., 1e3, 1e5, 1e8])
def test_sampler_follows_its_law(dim, kappa):
    n, d = 4000, VonMisesFisher(direction(dim, seed=dim), kappa)
    x = d.sample((n,), generator=generator(round(dim + kappa)))
    assert (torch.linalg.vector_norm(x, dim=-1) - 1).abs().max() < 1e-14
    angle = 2 * torch.asin(torch.linalg.vector_norm(x - d.loc, dim=-1) / 2)
    assert scipy.stats.kstest(angle.numpy(), lambda t: numeric_cdf(dim, kappa, t)).pvalue > 1e-3
    assert scipy.stats.kstest(d.cosine_cdf(x).numpy(), "uniform").pvalue > 1e-3
    c = cumulants(d.concentration, dim)
    gap = (1 - torch.cos(angle)) if kappa < 1e3 else 2 * torch.sin(angle / 2) ** 2
    assert abs(gap.mean() - c.gap) < 4.5 * (c.variance / n).sqrt()
    across = x - (x @ d.loc)[:, None] * d.loc                                       # uniform around μ: no direction is preferred
    u = F.normalize(across, dim=-1)
    assert torch.linalg.vector_norm(u.mean(0)) < 5 / math.sqrt(n) and (u @ d.loc).abs().max() < 1e-6
    if dim <= 16: np.testing.assert_allclose(u.T @ u / n, (torch.eye(dim, dtype=f64) - torch.outer(d.loc, d.loc)) / (dim - 1), atol=5 / math.sqrt(n))


def test_moments():
    d = VonMisesFisher(direction(2, 4), torch.tensor([2., 30.], dtype=f64))
    x = d.sample((200_000,), generator=generator(0))
    np.testing.assert_allclose(x.mean(0), d.mean, atol=6e-3)
    np.testing.assert_allclose(x.var(0), d.variance, atol=6e-3)
    for i in range(2): np.testing.assert_allclose(x[:, i].T.cov(), d.covariance_matrix[i], atol=6e-3)
    np.testing.assert_allclose(torch.diagonal(d.covariance_matrix, dim1=-2, dim2=-1), d.variance, atol=1e-15)
    assert torch.equal(d.mode, d.loc) and torch.equal(d.mean_resultant_length, bessel_ratio(d.concentration, 4))
    flat = VonMisesFisher(direction(9), 0.)
    np.testing.assert_allclose(flat.covariance_matrix, torch.eye(9) / 9, atol=1e-15)


@pytest.mark.parametrize("loc", [[1., 0, 0], [-1., 0, 0], [0, 1., 0], [-0., -1., 0], [1e-12, 0, 1.]])
def test_no_mean_direction_is_singular(loc):
    mu = torch.tensor(loc, dtype=f64, requires_grad=True)
    x = VonMisesFisher(mu, 50.).rsample((20_000,), generator=generator(1))
    grad, = torch.autograd.grad(x.mean(0) @ torch.tensor([1., 2., 3.], dtype=f64), mu)
    np.testing.assert_allclose(x.mean(0).detach(), VonMisesFisher(mu, 50.).mean.detach(), atol=5e-3)
    A = bessel_ratio(torch.tensor(50., dtype=f64), 3)
    tangent = torch.eye(3, dtype=f64) - torch.outer(mu.detach(), mu.detach())   # mean = A μ: along the sphere its derivative is A
    np.testing.assert_allclose(tangent @ grad, A * tangent @ torch.tensor([1., 2., 3.], dtype=f64), atol=2e-2)


@pytest.mark.parametrize(("dim", "kappa"), [(2, .3), (2, 50.), (3, 2.), (5, 1e-4), (8, 9.), (64, 500.), (512, 20.)])
def test_implicit_gradient_keeps_the_quantile(dim, kappa):
    "de/dκ = -sinθ (dF/dκ)/p with F = P(angle <= θ) and p its density, both from mpmath."
    c = cumulants(torch.tensor(kappa, dtype=f64), dim)
    with mpmath.workdps(30):
        for z in (-2.5, -1, .1, 1.5):
            e = (c.gap + z * c.variance.sqrt()).clamp(1e-6, 1.99).item()
            theta, k = mpmath.acos(1 - mpmath.mpf(e)), torch.tensor(kappa, dtype=f64, requires_grad=True)
            A = exact(kappa, dim)[1]                                   # dF/dκ = ∫ (cos t - A) p dt
            ratio = lambda t, th=theta: mpmath.exp(kappa * (mpmath.cos(t) - mpmath.cos(th))) * (mpmath.sin(t) / mpmath.sin(th)) ** (dim - 2)
            truth = -mpmath.sin(theta) * mpmath.quad(lambda t, A=A, ratio=ratio: (mpmath.cos(t) - A) * ratio(t), mpmath.linspace(0, theta, 9))
            got, = torch.autograd.grad(_ImplicitGap.apply(k, torch.tensor(e, dtype=f64), dim), k)
            assert rel(got.item(), truth) < 1e-9, (z, got.item(), truth)


@pytest.mark.parametrize(("dim", "kappa"), [(2, 1.), (3, 1e4), (16, 10.), (512, 790.)])
def test_reparameterised_gradient_matches_the_analytic_one(dim, kappa):
    k = torch.tensor(kappa, dtype=f64, requires_grad=True)
    mu, a, n = direction(dim), direction(dim, seed=7), 40_000
    each = k.expand(n).detach().requires_grad_()                     # one κ a draw, so that every draw's gradient is seen
    x = VonMisesFisher(mu, each).rsample(generator=generator(5))
    for f, truth in ((lambda x: x @ mu, lambda d: d.mean_resultant_length), (lambda x: (x @ a) ** 2, lambda d: a @ d.covariance_matrix @ a + (d.mean @ a) ** 2)):
        got, = torch.autograd.grad(f(x).sum(), each, retain_graph=True)
        want, = torch.autograd.grad(truth(VonMisesFisher(mu, k)), k)
        assert abs(got.mean() - want) < 4.5 * got.std() / math.sqrt(n)


def test_sampling_contract():
    d = VonMisesFisher(direction(3, 1, 5), torch.tensor([1., 2.], dtype=f64))
    assert d.has_rsample and d.batch_shape == (3, 2) and d.event_shape == (5,)
    assert d.sample().shape == (3, 2, 5) and d.rsample((4, 6)).shape == (4, 6, 3, 2, 5) and d.sample((0,)).shape == (0, 3, 2, 5)
    assert torch.equal(d.sample((7,), generator=generator(1)), d.sample((7,), generator=generator(1)))
    torch.manual_seed(0); a = d.sample(); torch.manual_seed(0)
    assert torch.equal(a, d.sample()) and not d.sample().requires_grad
    assert (sample_gap(torch.full((10_000,), 1e8, dtype=f64), 2) > 0).all()
    half = VonMisesFisher(direction(4, 32).bfloat16(), 10.)
    assert half.sample().dtype == torch.bfloat16 and half.log_prob(half.sample()).dtype == torch.bfloat16


# --- entropy and divergences -----------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dim", [2, 3, 16, 512])
def test_entropy_and_divergences(dim):
    k = torch.tensor([0., 1e-6, .5, 20., 1e3, 1e6, 1e8], dtype=f64, requires_grad=True)
    p = VonMisesFisher(direction(dim), k)
    flat = HypersphericalUniform(dim, dtype=f64)
    for i, kappa in enumerate(k.tolist()):
        with mpmath.workdps(100):
            logC, A, _, L, *_ = exact(kappa, dim)
            assert rel(p.entropy()[i].item(), -logC - kappa * A) < 1e-12
            assert rel(kl_divergence(p, flat)[i].item(), kappa * A - L) < 1e-11
    grad, = torch.autograd.grad(p.entropy().sum(), k)
    np.testing.assert_allclose(grad, (-k * cumulants(k, dim).variance).detach(), rtol=1e-10, atol=1e-15)  # dH/dκ = -κ A'
    np.testing.assert_allclose(kl_divergence(flat, p).detach(), cumulants(k, dim).L.detach())
    assert (kl_divergence(p, p) == 0).all()
    q = VonMisesFisher(direction(dim, seed=1), 3.)
    p = VonMisesFisher(direction(dim), 8.)
    x = p.sample((40_000,), generator=generator(0))
    for other in (q, flat):
        ratio = p.log_prob(x) - other.log_prob(x)
        assert abs(kl_divergence(p, other) - ratio.mean()) < 4.5 * ratio.std() / 200
    near = VonMisesFisher(p.loc, 8 + 1e-5)
    assert abs(kl_divergence(p, near).item() - .5e-10 * cumulants(torch.tensor(8., dtype=f64), dim).variance.item()) < 1e-14  # Fisher information
    with pytest.raises(ShapeError): kl_divergence(p, HypersphericalUniform(dim + 1))
    with pytest.raises(ShapeError): kl_divergence(p, VonMisesFisher(direction(dim + 1), 1.))


def test_uniform():
    d = HypersphericalUniform(4, (2,), dtype=f64)
    x = d.rsample((100_000,), generator=generator(0))
    assert x.shape == (100_000, 2, 4) and d.log_prob(x).shape == (100_000, 2)
    np.testing.assert_allclose(x.mean(0), d.mean, atol=1e-2)
    np.testing.assert_allclose(x.var(0), d.variance, atol=1e-2)
    np.testing.assert_allclose(d.entropy(), [math.log(2 * math.pi**2)] * 2)
    np.testing.assert_allclose(d.log_prob(x[:3]), VonMisesFisher(x[0, 0], 0.).log_prob(x[:3]), atol=1e-14)
    assert d.expand([5, 2]).sample().shape == (5, 2, 4)
    with pytest.raises(ShapeError): HypersphericalUniform(1)


# --- fit -------------------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dim", [2, 3, 8, 64, 72, 128, 512, 1024])
@pytest.mark.parametrize("scale", [.3, 1., 20.])
def test_fit_recovers_kappa_within_its_sampling_error(dim, scale):
    kappa, n = scale * dim, 6000
    true = VonMisesFisher(direction(dim), kappa)
    x = true.sample((n,), generator=generator(dim))
    V = cumulants(true.concentration, dim).variance
    se = (n * V).rsqrt().item()
    got, free = VonMisesFisher.fit(x), VonMisesFisher.fit(x, unbiased=True)
    A = true.mean_resultant_length
    bias = ((1 - A**2) / (2 * n * A) / V).item()                       # of maximum likelihood: E R² = A² + (1 - A²)/n
    assert abs(got.concentration.item() - kappa - bias) < 4 * se and abs(free.concentration.item() - kappa) < 4 * se
    assert ((got.loc - true.loc).square().sum() * n * kappa * A / (dim - 1)) < 1 + 8 / math.sqrt(dim)   # (D-1)/(nκA): its Cramér-Rao bound
    score = x @ got.loc                                                # the likelihood equation A(κ) = R
    assert abs(score.mean() - got.mean_resultant_length) < 1e-12


def test_fit_weights_batches_and_limits():
    x = VonMisesFisher(direction(7), 5.).sample((50,), generator=generator(0))
    count = torch.randint(0, 4, (50,), generator=generator(1))
    a, b = VonMisesFisher.fit(x, weight=count.double()), VonMisesFisher.fit(x.repeat_interleave(count, 0))
    np.testing.assert_allclose(a.concentration, b.concentration, rtol=1e-12)
    np.testing.assert_allclose(a.loc, b.loc, atol=1e-14)
    both = VonMisesFisher.fit(torch.stack([x, -x]))
    assert both.batch_shape == (2,) and torch.allclose(both.loc[0], -both.loc[1])
    one = VonMisesFisher.fit(x[:1].repeat(5, 1))
    assert one.concentration == 1e8 and torch.allclose(one.loc, x[0])
    assert VonMisesFisher.fit(torch.cat([x, -x])).concentration < 1e-6
    tight = VonMisesFisher(direction(16, dtype=torch.float32), 1e7).sample((4000,), generator=generator(2))
    assert abs(VonMisesFisher.fit(tight).concentration / 1e7 - 1) < .03
    for bad in (torch.zeros(5, 3), x * 2, x * float("nan"), x[0], x[:0]):
        with pytest.raises(ShapeError): VonMisesFisher.fit(bad)
    for bad in (-torch.ones(50), torch.zeros(50), torch.full((50,), float("inf"))):
        with pytest.raises(ParameterError): VonMisesFisher.fit(x, weight=bad)
    with pytest.raises(ShapeError): VonMisesFisher.fit(x, weight=torch.ones(49))


# --- contract --------------------------------------------------------------------------------------------------------------------------------------

def test_distribution_contract():
    d = VonMisesFisher(direction(3, 4), 2.)
    wide = d.expand([2, 3])
    assert wide.batch_shape == (2, 3) and wide.log_prob(direction(2, 3, 4)).shape == (2, 3) and wide.entropy().shape == (2, 3)
    assert isinstance(repr(d), str) and unit_sphere.check(transform_to(d.support)(torch.randn(5, 4))).all()
    assert d.log_prob(direction(10, 1, 4)).shape == (10, 3)
    f32 = VonMisesFisher(direction(4, dtype=torch.float32), 2.)
    assert f32.concentration.dtype == f32.log_prob(f32.sample()).dtype == torch.float32
    ind = torch.distributions.Independent(d, 1)
    np.testing.assert_allclose(ind.log_prob(direction(3, 4)), d.log_prob(direction(3, 4)).sum())
    k = torch.tensor(3., requires_grad=True)   # nothing is cached: a distribution may be used across optimiser steps
    live = VonMisesFisher(direction(4, dtype=torch.float32), k)
    before = live.log_prob(live.loc).item()
    with torch.no_grad(): k.fill_(30.)
    assert live.log_prob(live.loc).item() > before
    live.log_prob(live.loc).backward(); live.log_prob(live.loc).backward()


def test_a_concentration_that_is_no_number_draws_none_and_leaves_its_neighbours_alone():
    kappa = torch.tensor([3., float("nan"), 40.], dtype=f64)
    x = VonMisesFisher(torch.eye(5, dtype=f64)[0].expand(3, 5), kappa, validate_args=False).sample()
    assert torch.isnan(x[1]).all() and torch.allclose(x[[0, 2]].norm(dim=1), torch.ones(2, dtype=f64))


@pytest.mark.parametrize(("make", "error", "says"), [
    (lambda: VonMisesFisher(torch.ones(3), 1.), ParameterError, "normalize"),
    (lambda: VonMisesFisher(torch.zeros(3), 1.), ParameterError, "normalize"),
    (lambda: VonMisesFisher(torch.full((3,), float("nan")), 1.), ParameterError, "finite"),
    (lambda: VonMisesFisher(torch.tensor([1., 0.]), -1.), ParameterError, "concentration"),
    (lambda: VonMisesFisher(torch.tensor([1., 0.]), float("inf")), ParameterError, "concentration"),
    (lambda: VonMisesFisher(torch.tensor([1., 0.]), float("nan")), ParameterError, "concentration"),
    (lambda: VonMisesFisher(torch.tensor([1.]), 1.), ShapeError, "D >= 2"),
    (lambda: VonMisesFisher(torch.tensor(1.), 1.), ShapeError, "D >= 2"),
    (lambda: VonMisesFisher(torch.eye(3), torch.ones(2)), ShapeError, "broadcast"),
    (lambda: VonMisesFisher(torch.eye(3), 1.).log_prob(torch.zeros(3)), ShapeError, "length zero"),
    (lambda: VonMisesFisher(torch.eye(3), 1.).log_prob(torch.eye(4)), ShapeError, "expected"),
    (lambda: VonMisesFisher(torch.eye(3), 1.).log_prob(torch.eye(3)[:2]), ShapeError, "broadcast"),
    (lambda: MixtureVonMisesFisher(torch.zeros(2), torch.eye(3), torch.ones(3)), ShapeError, "broadcast"),
    (lambda: MixtureVonMisesFisher(torch.full((3,), float("nan")), torch.eye(3), torch.ones(3)), ParameterError, "logits"),
    (lambda: MixtureVonMisesFisher(torch.zeros(3), torch.eye(3), torch.ones(3)).log_prob(torch.ones(3)), ShapeError, "unit"),
    (lambda: MixtureVonMisesFisher.fit(torch.eye(3), 4), ParameterError, "4 components"),
])
def test_bad_input_says_what_to_do(make, error, says):
    with pytest.raises(error, match=says) as caught: make()
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, AudioengramError)


# --- mixture ---------------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_mixture_against_torch(batch):
    g = generator(8)
    logits, kappa = torch.randn(*batch, 5, dtype=f64, generator=g), torch.rand(*batch, 5, dtype=f64, generator=g).mul(8).exp()
    loc = F.normalize(torch.randn(*batch, 5, 6, dtype=f64, generator=g), dim=-1)
    m = MixtureVonMisesFisher(logits, loc, kappa)
    ref = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=logits), VonMisesFisher(loc, kappa))
    x = m.sample((7,))
    assert x.shape == (7, *batch, 6) and m.sample().shape == (*batch, 6)
    np.testing.assert_allclose(m.log_prob(x), ref.log_prob(x), atol=1e-11)
    np.testing.assert_allclose(m.mean, ref.mean, atol=1e-14)
    np.testing.assert_allclose(m.variance, ref.variance, atol=1e-14)
    np.testing.assert_allclose(m.posterior(x).sum(-1), 1, atol=1e-12)
    assert m.expand([3, *batch]).log_prob(x[:1]).shape == (3, *batch)
    draws = m.sample((60_000,), generator=generator(0))
    np.testing.assert_allclose(draws.mean(0), m.mean, atol=2e-2)
    np.testing.assert_allclose(draws.var(0), m.variance, atol=2e-2)


def test_mixture_gradients():
    logits, raw, log_kappa, x = torch.randn(3, dtype=f64, requires_grad=True), torch.randn(3, 4, dtype=f64, requires_grad=True), torch.randn(3, dtype=f64, requires_grad=True), direction(5, 4)
    f = lambda *p: MixtureVonMisesFisher(p[0], F.normalize(p[1], dim=-1), p[2].exp()).log_prob(x)
    assert torch.autograd.gradcheck(f, (logits, raw, log_kappa)) and torch.autograd.gradgradcheck(f, (logits, raw, log_kappa))


@pytest.mark.parametrize("dim", [2, 8, 128])
def test_em_climbs_and_recovers(dim):
    loc = direction(3, dim) if dim > 2 else torch.tensor([[1., 0.], [-.5, 3**.5 / 2], [-.5, -3**.5 / 2]], dtype=f64)
    true = MixtureVonMisesFisher(torch.tensor([.6, .3, .1], dtype=f64).log(), loc, torch.tensor([1., 2., 8.], dtype=f64) * (dim + 10))
    x = true.sample((20_000,), generator=generator(1))
    got = MixtureVonMisesFisher.fit(x, 3)
    assert (np.diff(got.history) > -1e-10).all() and len(got.history) < 200
    order = (true.loc @ got.loc.mT).argmax(-1)
    assert sorted(order.tolist()) == [0, 1, 2]
    np.testing.assert_allclose(got.logits.softmax(-1)[order], [.6, .3, .1], atol=.02)
    se = (2 / ((dim - 1) * 20_000 * true.logits.softmax(-1))).sqrt()                 # of log κ, for large κ, were the labels known
    assert ((got.concentration[order] / true.concentration).log().abs() < 5 * se + .01).all()
    assert (got.log_prob(x).mean() - true.log_prob(x).mean()) > -1e-6                # maximum likelihood is no worse than the truth in sample
    single = MixtureVonMisesFisher.fit(x, 1)
    np.testing.assert_allclose(single.concentration[0], VonMisesFisher.fit(x).concentration, rtol=1e-9)


def test_em_weights_and_pseudo_counts():
    x = direction(12, 3)
    count = torch.randint(1, 4, (12,), generator=generator(1))
    a = MixtureVonMisesFisher.fit(x, 2, weight=count.double(), pseudo_count=1., tolerance=0., max_iterations=20)
    b = MixtureVonMisesFisher.fit(x.repeat_interleave(count, 0), 2, pseudo_count=1., tolerance=0., max_iterations=20)
    np.testing.assert_allclose(sorted(a.concentration), sorted(b.concentration), rtol=1e-4)
    assert MixtureVonMisesFisher.fit(x, 12).concentration.max() == 1e8                # one component a point: the cap holds, nothing overflows
    assert MixtureVonMisesFisher.fit(x, 12, pseudo_count=1.).concentration.max() < 10


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu():
    mu, k = direction(64, 128).cuda().requires_grad_(), torch.logspace(-3, 6, 64, dtype=f64, device="cuda", requires_grad=True)
    d = VonMisesFisher(mu, k)
    x = d.rsample((100,), generator=generator(0, "cuda"))
    (d.log_prob(x).mean() + d.entropy().mean()).backward()
    cpu = VonMisesFisher(mu.detach().cpu(), k.detach().cpu())
    np.testing.assert_allclose(d.log_prob(x).detach().cpu(), cpu.log_prob(x.detach().cpu()), rtol=1e-10)
    assert torch.isfinite(mu.grad).all() and torch.isfinite(k.grad).all()
    assert scipy.stats.kstest(d.cosine_cdf(x.detach())[:, 30].cpu().numpy(), "uniform").pvalue > 1e-3
    assert MixtureVonMisesFisher.fit(x.detach()[:, 40], 2).loc.device.type == "cuda"
