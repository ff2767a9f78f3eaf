"Mixture heads against torch and SciPy, at extremes, and on data whose entropy is known."
import numpy as np
import pytest
import torch
from scipy import stats

from audioengram.core import ParameterError, ShapeError
from audioengram.heads.bounds import soft_bound
from audioengram.heads.mixture import Gaussian, GaussianMixture, LowRankMixture, Mixture, StudentT


def parts(K=3, D=4, B=(), dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    draw = lambda *s: torch.randn(*B, *s, generator=g, dtype=dtype)
    return draw(K), draw(K, D), draw(K, D)


@pytest.mark.parametrize("dtype, tol", [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_diagonal_equals_torch(dtype, tol):
    logits, loc, log_scale = parts(B=(7,), dtype=dtype)
    ref = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=logits), torch.distributions.Independent(torch.distributions.Normal(loc, log_scale.exp()), 1))
    x = torch.randn(7, 4, dtype=dtype)
    torch.testing.assert_close(Mixture(logits, loc, log_scale).log_prob(x), ref.log_prob(x), atol=tol, rtol=tol)
    torch.testing.assert_close(Mixture(logits, loc, log_scale).mean, ref.mean, atol=tol, rtol=tol)


def test_semi_tied_density_integrates_to_one():
    logits, loc, log_scale = parts(K=2, D=2)
    U = torch.tensor([[[2., 0], [1, 1.5]], [[1, 0], [-2, 3]]], dtype=torch.float64)
    mix = Mixture(logits, loc, log_scale - 1, U, torch.zeros(2, 2, dtype=torch.float64))
    axis = torch.linspace(-12, 12, 1201, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    assert abs(mix.log_prob(grid).exp().sum() * (axis[1] - axis[0])**2 - 1) < 1e-4


def test_samples_follow_the_density():
    logits, loc, log_scale = parts(K=2, D=1)
    mix = Mixture(logits, 2 * loc, log_scale)
    draws = mix.sample((20_000,), generator=torch.Generator().manual_seed(3))[:, 0].numpy()
    w = torch.softmax(logits, 0).numpy()
    cdf = lambda x: sum(w[k] * stats.norm(2 * loc[k, 0].item(), log_scale[k, 0].exp().item()).cdf(x) for k in range(2))
    assert stats.kstest(draws, cdf).pvalue > 1e-3


def test_batched_semi_tied_samples_pick_the_right_component():
    U = torch.stack([torch.eye(2), 2 * torch.eye(2)])
    centre = torch.tensor([[10., 0], [-10, 0]])
    logits = torch.tensor([[50., 0], [0, 50.]])                     # row 0 is component 0, row 1 component 1
    mix = Mixture(logits, torch.zeros(2, 2, 2), torch.full((2, 2, 2), -3.), U, centre)
    x = mix.sample((500,), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(x.mean(0), centre, atol=.02, rtol=0)
    torch.testing.assert_close(x.std(0)[:, 0], torch.tensor([1., .5]) * float(np.exp(-3)), atol=.006, rtol=0)


def test_training_reaches_the_entropy_of_a_known_conditional():
    g = torch.Generator().manual_seed(0)
    h = torch.randn(6000, 3, generator=g)
    scale = (.5 * h[:, :1]).exp()
    y = h[:, :2] * 2 + scale * torch.randn(6000, 2, generator=g)     # entropy: D/2 ln(2πe) + E[D * h/2] = D/2 ln(2πe)
    head = Gaussian(2, 3).init_from(y)
    opt = torch.optim.Adam(head.parameters(), lr=.02)
    for _ in range(400): opt.zero_grad(); (-head(h).log_prob(y).mean()).backward(); opt.step()
    entropy = np.log(2 * np.pi * np.e) + .5 * 2 * float(h[:, 0].mean())
    assert abs(-head(h).log_prob(y).mean().item() - entropy) < .01 * entropy


def test_student_learns_its_degrees_of_freedom():
    y = torch.from_numpy(stats.t(4).rvs((8000, 2), random_state=0)).float()
    head = StudentT(2, 0)
    opt = torch.optim.Adam(head.parameters(), lr=.05)
    empty = torch.zeros(len(y), 0)
    for _ in range(300): opt.zero_grad(); (-head(empty).log_prob(y).mean()).backward(); opt.step()
    df = head(empty).df.item()
    assert 3.3 < df < 4.8
    assert head(empty).log_prob(y).mean() > Gaussian(2, 0).init_from(y)(empty).log_prob(y).mean() + .05


@pytest.mark.parametrize("make", [GaussianMixture, LowRankMixture, StudentT, Gaussian])
def test_extreme_features_stay_finite_and_keep_gradients(make):
    head = make(5, 4)
    with torch.no_grad(): head.out.weight.normal_(std=1.)
    for size in (0., 1e-6, 1e3):
        head.zero_grad()
        loss = -head(size * torch.randn(8, 4)).log_prob(torch.randn(8, 5)).mean()
        loss.backward()
        assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


def test_soft_bound_second_derivative():
    x = torch.linspace(-30, 30, 13, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: soft_bound(t, -3, 5), x) and torch.autograd.gradgradcheck(lambda t: soft_bound(t, -3, 5), x)


def test_bad_input_is_refused():
    with pytest.raises(ShapeError, match="NaN"): Mixture(torch.tensor([float("nan")]), torch.zeros(1, 2), torch.zeros(1, 2), validate_args=True)
    with pytest.raises(ShapeError, match="3 dimensions"): Mixture(torch.zeros(1), torch.zeros(1, 2), torch.zeros(1, 2)).log_prob(torch.zeros(3))
    with pytest.raises(ParameterError, match="semi-tied"): GaussianMixture(2, 2, covariance="full")


def test_no_point_at_all():
    "A batch of none has a density each, none at all, and a gradient."
    for head in (GaussianMixture(4, 6), LowRankMixture(4, 6), Gaussian(4, 6, covariance="semi-tied")):
        d = head(torch.zeros(0, 6))
        assert d.log_prob(torch.zeros(0, 4)).shape == (0,)
        d.log_prob(torch.zeros(0, 4)).sum().backward()


@pytest.mark.parametrize("targets, says", [(torch.ones(100, 4), "all the same"), (torch.zeros(3, 4), "3 points"), (torch.full((100, 4), torch.nan), "NaN")])
def test_a_start_that_is_none(targets, says):
    for head in (GaussianMixture(4, 6), LowRankMixture(4, 6)):
        with pytest.raises(ParameterError, match=says): head.init_from(targets)
    level = torch.randn(100, 4) * torch.tensor([1., 0, 1, 0])      # a dimension that never moves is none of these
    assert GaussianMixture(4, 6, components=2).init_from(level)(torch.zeros(1, 6)).log_prob(level[:1]).isfinite().all()
