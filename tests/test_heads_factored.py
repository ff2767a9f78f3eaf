"Direction times magnitude: a density over R^D by quadrature and against densities that are known, its draws, its gradients, and the head."
import math

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F

from audioengram.core import ParameterError, ShapeError, generator
from audioengram.heads.factored import STORIES, DirectionMagnitude
from audioengram.heads.lengths import Gamma, LogNormal, LogNormalMixture, bisect_quantile
from audioengram.heads.polar import Polar
from audioengram.heads.vmf import VonMisesFisher

f64 = torch.float64
T = lambda *x: torch.tensor(x, dtype=f64)


def direction(*shape, seed=0): return F.normalize(torch.randn(*shape, dtype=f64, generator=generator(seed)), dim=-1)


def polar(D=2, K=2, slope=True, centre=True, scale=True, still=False, seed=0):
    g = generator(seed)
    r = lambda *s: torch.randn(*s, dtype=f64, generator=g)
    return Polar(VonMisesFisher(F.normalize(r(K, D), dim=-1), (1 + r(K)).exp()), LogNormal(.3 * r(K), -1 + .2 * r(K)), r(K), .3 * r(K, D) if slope else None,
                 r(D) if centre else None, .3 * r(D) if scale else None, (T(-1.)[0], .3) if still else None)


# --- lengths ---------------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("ours", "theirs"), [
    (LogNormal(T(.3), T(-.5)), scipy.stats.lognorm(math.exp(-.5), scale=math.exp(.3))),
    (Gamma(T(.7), T(-.2)), scipy.stats.gamma(math.exp(.7), scale=math.exp(.2))),
    (Gamma(T(math.log(64)), T(math.log(.5)), power=2.), scipy.stats.chi(128)),
    (Gamma(T(.4), T(0.), power=.7), scipy.stats.gengamma(math.exp(.4), .7)),
])
def test_laws_of_length_against_scipy(ours, theirs):
    m = T(.01, .3, 1., 4., 20.)
    np.testing.assert_allclose(ours.log_prob(m), theirs.logpdf(m), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(ours.cdf(m), theirs.cdf(m), atol=1e-9)
    np.testing.assert_allclose([ours.mean.item(), ours.variance.item(), ours.median.item()], [theirs.mean(), theirs.var(), theirs.median()], rtol=1e-7)
    grid = torch.linspace(.01, 20, 200_001, dtype=f64)
    assert abs(ours.mode.item() - grid[ours.log_prob(grid).argmax()].item()) < 2e-4
    draws = ours.sample((20_000,), generator=generator(1))
    assert scipy.stats.kstest(draws[:, 0].numpy(), theirs.cdf).pvalue > 1e-3
    np.testing.assert_allclose(bisect_quantile(ours.cdf_of_log, T(0.), .9).exp(), theirs.ppf(.9), rtol=1e-9)


def test_mixture_of_lengths():
    mix = LogNormalMixture(T(.2, -.5, 0.), T(-2., 0., 1.), T(-1., -.5, .1))
    m = T(.05, .5, 2., 9.)
    w = torch.softmax(T(.2, -.5, 0.), -1)
    ref = sum(w[j] * LogNormal(T(-2., 0., 1.)[j], T(-1., -.5, .1)[j]).log_prob(m).exp() for j in range(3))
    np.testing.assert_allclose(mix.log_prob(m).exp(), ref, rtol=1e-12)
    x = mix.sample((50_000,), generator=generator(0))
    assert scipy.stats.kstest(x.numpy(), lambda v: mix.cdf(torch.as_tensor(v)).numpy()).pvalue > 1e-3
    assert abs(mix.cdf(mix.median) - .5) < 1e-12 and not mix.has_rsample


def test_temperature_scales_the_spread():
    cold = LogNormal(T(1.), T(-.5)).sample((40_000,), generator=generator(0), temperature=.25).log()
    assert abs(cold.std().item() / math.exp(-.5) - .5) < .02
    warm, plain = Gamma(T(2.), T(0.)).sample((40_000,), generator=generator(0), temperature=.5), Gamma(T(2.), T(0.))
    assert abs(warm.mean() / plain.mean - 1) < .02 and abs(warm.var() / plain.variance - .5) < .03


# --- density ---------------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("D", [2, 3, 16, 128, 1024])
def test_equals_the_gaussian_that_it_is(D):
    sigma, centre = .8, torch.randn(D, dtype=f64, generator=generator(1))
    p = Polar(VonMisesFisher(direction(1, D), 0.), Gamma(T(math.log(D / 2)), T(-math.log(2 * sigma**2)), power=2.), centre=centre)
    x = centre + sigma * torch.randn(50, D, dtype=f64, generator=generator(2))
    truth = torch.distributions.Normal(centre, sigma).log_prob(x).sum(-1)
    np.testing.assert_allclose(p.log_prob(x), truth, rtol=1e-11)
    np.testing.assert_allclose(p.mean, centre, atol=1e-12)
    np.testing.assert_allclose(p.variance, np.full(D, sigma**2), rtol=1e-9)
    s = torch.linspace(-1, 1, D, dtype=f64)                                       # one scale a dimension: still a Gaussian
    wide = Polar(p.direction, p.magnitude, centre=centre, log_scale=s)
    np.testing.assert_allclose(wide.log_prob(x), torch.distributions.Normal(centre, sigma * s.exp()).log_prob(x).sum(-1), rtol=1e-10)
    f32 = Polar(VonMisesFisher(direction(1, D).float(), 0.), Gamma(torch.tensor([D / 2]).log(), torch.tensor([1 / (2 * sigma**2)]).log(), power=2.), centre=centre.float())
    np.testing.assert_allclose(f32.log_prob(x.float()), truth, rtol=2e-5, atol=1e-3)


def test_is_the_product_that_it_says():
    D, m, d = 5, T(.3, 2., 9.), direction(3, 5, seed=4)
    mu = direction(5)
    p = Polar(VonMisesFisher(mu[None], 7.), LogNormal(T(.5), T(-.7)))
    by_hand = scipy.stats.vonmises_fisher(mu.numpy(), 7.).logpdf(d.numpy()) + scipy.stats.lognorm(math.exp(-.7), scale=math.exp(.5)).logpdf(m) - (D - 1) * np.log(m.numpy())
    np.testing.assert_allclose(p.log_prob(m[:, None] * d), by_hand, atol=1e-12)


@pytest.mark.parametrize("options", [dict(), dict(slope=False), dict(still=True), dict(K=1, centre=False, scale=False)])
def test_integrates_to_one_in_the_plane(options):
    p = polar(2, seed=3, **options)
    s = 1 if p.log_scale is None else p.log_scale.exp()
    c = 0 if p.centre is None else p.centre
    reach = T(12.) if p.log_scale is None else 12 * p.log_scale.exp().max()
    axis = torch.linspace(-1, 1, 1201, dtype=f64) * reach
    grid = c + torch.cartesian_prod(axis, axis) + 1e-7 * s
    assert abs(p.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2 - 1) < 2e-3


@pytest.mark.parametrize("D", [3, 6])
def test_integrates_to_one_by_importance_sampling(D):
    p = polar(D, K=3, seed=D)
    q = torch.distributions.MultivariateNormal(p.mean, torch.diag(9 * p.variance))
    x = torch.cat([q.sample((200_000,)), p.sample((200_000,), generator=generator(0))])  # a proposal with p in it has bounded weights
    weight = 2 / (1 + (q.log_prob(x) - p.log_prob(x)).exp())
    inside = (q.log_prob(x) > -1e9).double() * weight
    assert abs(inside.mean() - 1) < 5 * inside.std() / math.sqrt(len(x))


@pytest.mark.parametrize("options", [dict(), dict(slope=False), dict(still=True), dict(K=1)])
def test_moments_are_those_of_the_draws(options):
    p = polar(4, seed=1, **options)
    x = p.sample((300_000,), generator=generator(5))
    np.testing.assert_allclose(x.mean(0), p.mean, atol=.02 * p.variance.sqrt().max())
    np.testing.assert_allclose(x.var(0) / p.variance, 1, atol=.06)
    np.testing.assert_allclose(p.responsibilities(x[:100]).sum(-1), 1, atol=1e-12)
    assert p.responsibilities(x[:9]).shape == (9, p.logits.shape[-1] + ("still" in options))


def test_log_prob_is_the_law_of_its_own_draws():
    p = polar(3, K=2, seed=8)
    x = p.sample((20_000,), generator=generator(0))
    assert scipy.stats.kstest(p.magnitude_cdf(x).numpy(), "uniform").pvalue > 1e-3
    shifted = Polar(p.direction, LogNormal(p.magnitude.loc + .2, p.magnitude.log_scale), p.logits, p.slope, p.centre, p.log_scale)
    gap = p.log_prob(x) - shifted.log_prob(x)                                     # Gibbs: nothing beats the truth
    assert gap.mean() > 3 * gap.std() / math.sqrt(len(x))
    assert scipy.stats.kstest(shifted.magnitude_cdf(x).numpy(), "uniform").pvalue < 1e-6


def test_points():
    p = Polar(VonMisesFisher(direction(1, 6), 30.), LogNormal(T(.5), T(-.2)))
    np.testing.assert_allclose(p.point("median"), math.exp(.5) * p.direction.loc[0], atol=1e-12)
    np.testing.assert_allclose(p.point("mode"), math.exp(.5 - math.exp(-.4)) * p.direction.loc[0], atol=1e-12)
    np.testing.assert_allclose(p.point("mean"), p.direction.mean[0] * math.exp(.5 + math.exp(-.4) / 2), atol=1e-12)
    two = polar(4, K=3, seed=2)
    step = two.point("median")
    assert abs(two.magnitude_cdf(step) - .5) < 1e-9                               # half the lengths in that direction are shorter
    with pytest.raises(ParameterError, match="median"): two.point("middle")


def test_untied_is_one_law_for_all():
    d = VonMisesFisher(direction(3, 5), T(1., 5., 20.))
    one, tied = Polar(d, LogNormal(T(.4), T(-1.)), T(0., 1., 2.)), Polar(d, LogNormal(T(.4, .4, .4), T(-1., -1., -1.)), T(0., 1., 2.))
    x = tied.sample((50,), generator=generator(0))
    np.testing.assert_allclose(one.log_prob(x), tied.log_prob(x), atol=1e-13)
    assert one.sample((7,)).shape == (7, 5)


# --- gradients -------------------------------------------------------------------------------------------------------------------------------------

def test_gradients_of_log_prob():
    g = generator(0)
    r = lambda *s: torch.randn(*s, dtype=f64, generator=g).requires_grad_()
    params = [r(2, 3), r(2), r(2), r(2), r(2), r(2, 3), r(3), r(3), r(4, 3)]
    def f(raw, log_kappa, loc, log_scale, logits, slope, centre, s, x):
        return Polar(VonMisesFisher(F.normalize(raw, dim=-1), log_kappa.exp(), validate_args=False), LogNormal(loc, log_scale), logits, slope, centre, s, (logits[0], .5)).log_prob(x)
    assert torch.autograd.gradcheck(f, params)


def test_reparameterised_gradient():
    kappa, loc, n = T(6.).requires_grad_(), T(.2).requires_grad_(), 60_000
    mu, slope = direction(1, 4), .4 * direction(1, 4, seed=1)
    p = Polar(VonMisesFisher(mu, kappa), LogNormal(loc, T(-1.)), slope=slope)
    got = torch.autograd.grad(p.rsample((n,), generator=generator(3)).mean(0) @ mu[0], (kappa, loc))
    want = torch.autograd.grad(p.mean @ mu[0], (kappa, loc))
    np.testing.assert_allclose(got[0], want[0], rtol=.05)
    np.testing.assert_allclose(got[1], want[1], rtol=.02)
    with pytest.raises(NotImplementedError, match="single component"): polar(K=2).rsample()


def test_steps_of_length_zero():
    x = torch.zeros(2, 3, dtype=f64)
    with pytest.raises(ShapeError, match="2 steps have length zero.*still"): polar(3, centre=False).log_prob(x)
    with pytest.raises(ShapeError, match="3 dimensions"): polar(2).log_prob(x)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ShapeError, match="NaN or infinite"): polar(3).log_prob(torch.full((2, 3), bad, dtype=f64))
    p = polar(3, centre=False, scale=False, still=True)
    x.requires_grad_()
    p.log_prob(x).sum().backward()
    assert torch.isfinite(p.log_prob(x)).all() and torch.isfinite(x.grad).all()
    assert (p.responsibilities(x)[:, -1] > .999).all()
    idle = (p.sample((50_000,), generator=generator(1)).norm(dim=-1) < .3 * 4).double().mean()
    assert idle > torch.sigmoid(T(-1.)) - .01
    with pytest.raises(ShapeError, match="component axis"): Polar(VonMisesFisher(direction(3), 1.), LogNormal(T(0.)[0], T(0.)[0]))
    with pytest.raises(ShapeError, match="broadcast"): Polar(VonMisesFisher(direction(3, 2), 1.), LogNormal(torch.zeros(2), torch.zeros(2)))


def test_no_nan_near_the_centre_or_far_away():
    p = polar(8, K=2, centre=False)
    x = torch.cat([direction(5, 8) * s for s in (1e-30, 1e-8, 1., 1e8, 1e30)]).requires_grad_()
    out = p.log_prob(x)
    assert torch.isfinite(out).all()


# --- head ------------------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("story", list(STORIES))
@pytest.mark.parametrize(("magnitude", "tied", "centre", "components"), [("lognormal", True, "zero", 1), ("gamma", False, "constant", 3), ("mixture", True, "predicted", 3)])
def test_every_option_gives_a_density_and_a_gradient(story, magnitude, tied, centre, components):
    g = generator(0)
    x, h = torch.randn(300, 6, generator=g) * 3 + 1, torch.randn(300, 5, generator=g)
    head = DirectionMagnitude(6, 5, components, magnitude, story, side=2, history=3, tied=tied, centre=centre, anisotropic=components > 1).init_from(x)
    d = head(h, side=torch.randn(300, 2, generator=g), history=torch.rand(300, 3, generator=g))
    assert d.batch_shape == (300,) and d.event_shape == (6,) and d.log_prob(x).shape == (300,)
    assert d.sample((4,)).shape == (4, 300, 6) and d.mean.shape == d.point("median").shape == d.point("mode").shape == (300, 6)
    assert d.responsibilities(x).shape == (300, components) and torch.isfinite(d.variance).all() and d.expand((2, 300)).log_prob(x).shape == (2, 300)
    (-d.log_prob(x).mean()).backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())
    np.testing.assert_allclose(d.log_prob(x).detach(), head(torch.zeros_like(h), side=torch.zeros(300, 2), history=torch.zeros(300, 3)).log_prob(x).detach(), rtol=1e-5)  # starts unconditional


def test_start_is_a_fit_of_the_data():
    true = Polar(VonMisesFisher(direction(2, 8).float(), torch.tensor([40., 3.])), LogNormal(torch.tensor([2., -1.]), torch.tensor([-1., -1.])), torch.tensor([0., -.5]))
    x = true.sample((20_000,), generator=generator(0))
    head = DirectionMagnitude(8, 0, components=2).init_from(x)
    got = head(torch.zeros(20_000, 0)).log_prob(x).mean()
    assert abs(got - true.log_prob(x).mean()) < .03                               # before any training
    order = head.start["law"][:, 0, 0].argsort(descending=True)
    np.testing.assert_allclose(head.start["law"][order, 0, 0].detach(), [2., -1.], atol=.05)
    np.testing.assert_allclose(head(torch.zeros(1, 0)).direction.concentration[0, order].detach(), [40., 3.], rtol=.08)


def train(head, h, x, steps=250, lr=.03, **inputs):
    head.init_from(x)
    opt = torch.optim.Adam(head.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, lr, steps)
    for i in range(steps):
        pick = torch.randint(len(x), (256,), generator=generator(i))
        loss = -head(h[pick], **{k: v[pick] for k, v in inputs.items()}).log_prob(x[pick]).mean()
        opt.zero_grad(); loss.backward(); opt.step(); schedule.step()
    return head


@pytest.mark.parametrize("family", ["lognormal", "gamma"])
def test_reaches_the_entropy_rate_and_recovers_its_parameters(family):
    def world(seed, n=8000):
        g = generator(seed)
        h, turn = torch.randn(n, 4, generator=g), torch.randn(4, 12, generator=generator(99))
        loc = 1 + .6 * h[:, 1:2]
        law = LogNormal(loc, torch.full((n, 1), -1.)) if family == "lognormal" else Gamma(torch.full((n, 1), 2.), 2 - loc)
        truth = Polar(VonMisesFisher(F.normalize(h @ turn, dim=-1)[:, None], (3.5 + .5 * h[:, :1]).exp(), validate_args=False), law)
        return h, truth.sample(generator=g), truth
    (h, x, _), (h_test, x_test, truth) = world(0), world(1)
    got = train(DirectionMagnitude(12, 4, magnitude=family), h, x)(h_test)
    rate, nll = -truth.log_prob(x_test).mean().item(), -got.log_prob(x_test).mean().item()
    assert abs(nll - rate) < .01 * abs(rate)
    assert (got.direction.loc * truth.direction.loc).sum(-1).mean() > .995
    assert (got.direction.concentration.log() - truth.direction.concentration.log()).abs().mean() < .15
    assert (got.magnitude.median.log() - truth.magnitude.median.log()).abs().mean() < .1


def test_predicted_centre_and_anisotropy_are_found():
    g = generator(0)
    h, W, s = torch.randn(6000, 3, generator=g), torch.randn(3, 5, generator=g), torch.tensor([-1.5, -.5, 0., .5, 1.5])
    x = h @ W + s.exp() * torch.randn(6000, 5, generator=g)
    head = train(DirectionMagnitude(5, 3, centre="predicted", anisotropic=True, magnitude="gamma"), h, x, steps=400)
    centre = head(h).centre.detach()
    assert 1 - (centre - h @ W).square().mean() / (h @ W).var(0).mean() > .98
    np.testing.assert_allclose((head.log_scale - head.log_scale.mean()).detach(), s, atol=.15)
    entropy = 5 / 2 * math.log(2 * math.pi * math.e) + s.sum()
    assert -head(h).log_prob(x).mean() < entropy + .15                            # a Gaussian seen as direction × Gamma length costs little


def test_still_component_learns_its_weight():
    g = generator(0)
    x = torch.randn(3000, 4, generator=g) + 2
    x[:600] = 0
    head = DirectionMagnitude(4, 0, still=.01).init_from(x)
    assert abs(torch.sigmoid(head.still_weight).item() - .2) < .02
    d = head(torch.zeros(3000, 0))
    assert torch.isfinite(d.log_prob(x)).all() and (d.responsibilities(x)[:600, -1] > .99).all() and (d.responsibilities(x)[600:, -1] < .01).all()
    with pytest.raises(ShapeError, match="600 steps have length zero"): DirectionMagnitude(4, 0).init_from(x)(torch.zeros(3000, 0)).log_prob(x)


@pytest.mark.parametrize("push", [-1e4, 1e4])
def test_no_scale_can_get_stuck(push):
    x = torch.randn(200, 4, generator=generator(0))
    head = DirectionMagnitude(4, 3, components=2).init_from(x)
    with torch.no_grad(): head.start["log_kappa"].fill_(push); head.start["law"][..., 1].fill_(push)
    loss = -head(torch.randn(200, 3, generator=generator(1))).log_prob(x).mean()
    loss.backward()
    for grad in (head.start["log_kappa"].grad, head.start["law"].grad[..., 1]): assert torch.isfinite(grad).all() and (grad != 0).all()
    assert torch.isfinite(loss)


def test_state_dict_round_trip():
    h, x = torch.randn(50, 3), torch.randn(50, 4)
    make = lambda: DirectionMagnitude(4, 3, 2, story="direction", centre="constant", still=.1, anisotropic=True)
    a, b = make().init_from(x), make()
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(h).log_prob(x), b(h).log_prob(x))


@pytest.mark.parametrize(("make", "error", "says"), [
    (lambda: DirectionMagnitude(4, 3, story="weather"), ParameterError, "autoregressive"),
    (lambda: DirectionMagnitude(4, 3, story=("features", "weather")), ParameterError, "story"),
    (lambda: DirectionMagnitude(4, 3, magnitude="normal"), ParameterError, "lognormal"),
    (lambda: DirectionMagnitude(4, 3, centre="middle"), ParameterError, "predicted"),
    (lambda: DirectionMagnitude(4, 3, story="side"), ParameterError, "side="),
    (lambda: DirectionMagnitude(4, 3, story="side", side=2)(torch.zeros(5, 3)), ParameterError, "side"),
    (lambda: DirectionMagnitude(4, 3, story="side", side=2)(torch.zeros(5, 3), side=torch.zeros(5, 3)), ShapeError, "side"),
    (lambda: DirectionMagnitude(4, 3).init_from(torch.full((9, 4), float("nan"))), ShapeError, "NaN"),
    (lambda: DirectionMagnitude(4, 3).init_from(torch.zeros(9, 5)), ShapeError, "targets"),
    (lambda: DirectionMagnitude(4, 3).init_from(torch.zeros(9, 4)), ShapeError, "length"),
])
def test_bad_input_says_what_to_do(make, error, says):
    with pytest.raises(error, match=says): make()


def test_directions_that_cancel_can_still_be_learned():
    "Over all contexts the directions are uniform, given the context they are not: κ must not start where it has no gradient."
    g = torch.Generator().manual_seed(0)
    h = torch.nn.functional.normalize(torch.randn(4000, 32, generator=g), dim=1)
    x = torch.nn.functional.normalize(h + .8 * 32**-.5 * torch.randn(4000, 32, generator=g), dim=1) * (.2 * torch.randn(4000, 1, generator=g)).exp()
    head = DirectionMagnitude(32, 32).init_from(x)
    before = -head(h).log_prob(x).mean().item()
    opt = torch.optim.Adam(head.parameters(), 2e-2)
    for _ in range(60): loss = -head(h).log_prob(x).mean(); opt.zero_grad(); loss.backward(); opt.step()
    assert loss.item() < before - 10 and head(h).direction.concentration.mean() > 20
