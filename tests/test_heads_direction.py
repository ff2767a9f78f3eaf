"The split of a step into direction and length: exact integrals, a density on the sphere, a gain without remainder."
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import multivariate_normal

from audioengram.core import ParameterError
from audioengram.heads.direction import direction_log_prob, line_coefficients, log_moment, step_log_probs
from audioengram.heads.mixture import GaussianMixture, Mixture


def leaning(K=3, D=4, seed=0):
    "A semi-tied mixture with random factors and centres, read from no features."
    gen = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=gen)
    factor = torch.diag_embed(.5 + draw(K, D).abs()) + .4 * draw(K, D, D).tril(-1)
    return Mixture(draw(K), draw(K, D), .3 * draw(K, D), factor, draw(K, D))


def as_scipy(mix):
    "The same mixture as SciPy Gaussians: weights, means, covariances."
    inverse = torch.linalg.inv(mix.factor.double())
    cov = inverse @ torch.diag_embed((2 * mix.log_scale).double().exp()) @ inverse.mT
    return mix.logits.double().exp().numpy(), mix.component_means().double().numpy(), cov.numpy()


def test_direction_of_a_leaning_mixture_against_quadrature_of_scipy_densities():
    mix, rng = leaning(), np.random.default_rng(0)
    weights, means, covs = as_scipy(mix)
    for _ in range(6):
        z, d = rng.normal(size=(2, 4))
        d /= np.linalg.norm(d)
        p = lambda m, z=z, d=d: m ** 3 * sum(w * multivariate_normal.pdf(z + m * d, mu, cov) for w, mu, cov in zip(weights, means, covs, strict=True))
        want = math.log(quad(p, 0, 60, limit=400, points=[.5, 1, 2, 4, 8])[0])
        got = direction_log_prob(mix, torch.tensor(z).float(), torch.tensor(d).float()).item()
        assert got == pytest.approx(want, abs=2e-5)


@pytest.mark.parametrize("D", [1, 2, 7, 128, 1024])
@pytest.mark.parametrize("far", [-1e4, -1., 0., 3., 1e4])
def test_extreme_lines_are_finite_and_have_gradients(D, far):
    b = torch.tensor(far, dtype=torch.float64, requires_grad=True)
    a = torch.tensor(2., dtype=torch.float64)
    value = log_moment(a, b, D)
    slope, = torch.autograd.grad(value, b)
    assert math.isfinite(value.item()) and slope.item() > 0          # d/db is the mean length, which is positive
    if far == 0: assert value.item() == pytest.approx(math.lgamma(D / 2) + (D / 2 - 1) * math.log(2) - D / 2 * math.log(2), abs=1e-8)


def test_direction_and_length_add_up_and_a_far_origin_sees_one_direction():
    mix = leaning(K=2, D=3, seed=1).expand((50,))
    gen = torch.Generator().manual_seed(2)
    z, x = torch.randn(50, 3, generator=gen), torch.randn(50, 3, generator=gen)
    along, length = step_log_probs(mix, z, x)
    m = (x - z).norm(dim=1).double()
    assert torch.allclose(along + length, mix.log_prob(x).double() + 2 * m.log(), atol=1e-5)
    away = torch.full((50, 3), 300.)
    home = torch.nn.functional.normalize(mix.mean - away, dim=1)
    assert (direction_log_prob(mix, away, home) > direction_log_prob(mix, away, -home) + 50).all()


def test_a_student_t_is_refused_in_words():
    head = GaussianMixture(3, 0, 2, student=True)
    with pytest.raises(ParameterError, match="no quadratic"): line_coefficients(head(torch.empty(4, 0)), torch.zeros(4, 3), torch.ones(4, 3))
