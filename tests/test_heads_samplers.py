"Densities and samplers behind one interface: each learns a known law, and each refuses what it cannot answer."
import math

import pytest
import torch
from torch import nn

from audioengram.core import ParameterError, ShapeError
from audioengram.heads.elliptic import FactoredMixture
from audioengram.heads.energy import EnergyHead
from audioengram.heads.flow import FlowHead, gaussian_velocity
from audioengram.heads.lsd import DistilledHead
from audioengram.heads.mixture import GaussianMixture
from audioengram.heads.sampler import DensityHead, Drawn
from audioengram.measure.trajectories import energy_score

LAWS = ("mixture", "ring", "heavy tail")
HEADS = {
    "mixture": lambda: DensityHead(GaussianMixture(2, 3, components=12, covariance="semi-tied")),
    "factored": lambda: DensityHead(FactoredMixture(2, 3, components=12)),
    "energy": lambda: EnergyHead(2, 3, width=48, layers=2),
    "flow": lambda: FlowHead(2, 3, width=48, layers=2),
    "lsd": lambda: DistilledHead(2, 3, width=48, layers=2)}
SAMPLERS = ("energy", "flow", "lsd")


def law(name, n, g):
    "Draws of a known law in the plane, [n,2]."
    noise = torch.randn(n, 2, generator=g)
    if name == "mixture":
        return torch.tensor([[-1.5, 0.], [1.5, 1.], [0., -1.5]])[torch.randint(3, (n,), generator=g)] + .25 * noise
    if name == "ring": return 1.5 * nn.functional.normalize(noise, dim=1) + .15 * torch.randn(n, 2, generator=g)
    chi = torch._standard_gamma(torch.full((n, 1), 1.5), generator=g) * 2   # Student-t with three degrees of freedom
    return .7 * noise * (3 / chi).sqrt()


def told(which, n): return nn.functional.one_hot(torch.full((n,), which), 3).float()


def trained(name, steps=600, rows=180):
    "A head that has learned all three laws, told which."
    g = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = HEADS[name]().init_from(torch.cat([law(k, 3000, g) for k in LAWS]))
        opt = torch.optim.Adam(head.parameters(), lr=1.5e-3 if name == "lsd" else 4e-3)
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)
        h = torch.cat([told(i, rows // 3) for i in range(3)])
        for _ in range(steps):
            loss = head.loss(h, torch.cat([law(k, rows // 3, g) for k in LAWS])).mean()
            opt.zero_grad(); loss.backward()
            nn.utils.clip_grad_norm_(head.parameters(), 1.)
            opt.step(); fall.step()
    return head.eval()


@pytest.fixture(scope="module")
def heads(): return {name: trained(name) for name in HEADS}


def excess(head, which, n=2000, draws=16):
    "Energy score of a head's draws less that of true draws, on the same truths: mean and standard error."
    g = torch.Generator().manual_seed(1)
    truth, true = law(LAWS[which], n, g), law(LAWS[which], n * draws, g).view(n, draws, 2)
    own = head.sample(told(which, n), draws, g).movedim(0, 1)
    d = energy_score(own, truth) - energy_score(true, truth)
    return d.mean().item(), (d.std() / n**.5).item(), energy_score(true, truth).mean().item()


@pytest.mark.parametrize("which", range(3), ids=LAWS)
@pytest.mark.parametrize("name", HEADS)
def test_a_head_learns_a_known_law_to_within_sampling_error(heads, name, which):
    mean, error, _ = excess(heads[name], which)
    assert abs(mean) < 3 * error, f"{mean:.4f} ± {error:.4f}"
    frames = torch.cat([law(k, 3000, torch.Generator().manual_seed(0)) for k in LAWS])
    assert mean < excess(HEADS[name]().init_from(frames), which)[0] - error     # the score can tell: it has learned


@pytest.mark.parametrize("which", range(3), ids=LAWS)
def test_one_step_of_self_distillation_is_as_good_as_sixteen_of_flow(heads, which):
    assert heads["lsd"].steps == 1 and heads["flow"].steps == 16
    (lsd, _, true), (flow, _, _) = excess(heads["lsd"], which), excess(heads["flow"], which)
    assert true + lsd < 1.1 * (true + flow)


def test_a_mixture_has_its_closed_form():
    head = DensityHead(GaussianMixture(2, 3, components=4))
    torch.manual_seed(0)
    for p in head.parameters(): nn.init.normal_(p, std=.3)
    h, x = torch.randn(50, 3), torch.randn(50, 2)
    at = head(h)
    parts = torch.distributions.Independent(torch.distributions.Normal(at.loc, at.log_scale.exp()), 1)
    want = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=at.logits), parts).log_prob(x)
    assert torch.allclose(-head.loss(h, x), want, atol=1e-5)


def test_a_flow_between_gaussians_has_its_closed_form():
    "The mean velocity carries a point along x_t = x_s r_t / r_s; many small steps agree, and a Gaussian stays one."
    r = lambda t: (t**2 + (1 - t)**2)**.5
    x, (s, t) = torch.randn(100, 3).double(), (torch.full((100,), value).double() for value in (.15, .8))
    assert torch.allclose(x + (t - s)[:, None] * gaussian_velocity(x, s, t), x * r(.8) / r(.15))
    y, n = x.clone(), 4000
    for i in range(n):
        now = s + (t - s) * (i + .5) / n
        y = y + (t - s)[:, None] / n * gaussian_velocity(y, now, now)
    assert torch.allclose(y, x * r(.8) / r(.15), rtol=2e-4)                      # n Euler steps err by about 1/n
    assert torch.allclose(DistilledHead(3, 1).draw(torch.zeros(9, 1), noise := torch.randn(1, 9, 3)), noise, atol=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_starts_at_the_marginal(name):
    g = torch.Generator().manual_seed(0)
    frames = torch.randn(4000, 2, generator=g) @ torch.tensor([[2., 0.], [1., .4]]) + 3
    draws = HEADS[name]().init_from(frames).sample(told(0, 20_000), generator=g)[0]
    # sixteen Euler steps err by a few percent
    assert torch.allclose(draws.mean(0), frames.mean(0), atol=.1) and torch.allclose(draws.T.cov(), frames.T.cov(),
                                                                                     rtol=.15, atol=.1)


@pytest.mark.parametrize("name", HEADS)
def test_draws_follow_the_generator_and_the_temperature(name):
    head, h = HEADS[name]().init_from(torch.randn(2000, 2)), told(1, 3000)
    a, b, c = (head.sample(h, 2, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert a.shape == (2, 3000, 2) and torch.equal(a, b) and not torch.equal(a, c)
    if name == "factored": return   # its temperature acts on lengths and directions: tests/test_heads_elliptic.py
    cold = head.sample(h, 1, torch.Generator().manual_seed(0), temperature=.25)[0]
    assert cold.var(0).sum() < .6 * a[0].var(0).sum()


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_a_sampler_cannot_answer_it_refuses_in_words(name):
    dist = HEADS[name]()(told(0, 5))
    assert isinstance(dist, Drawn) and dist.sample((4,)).shape == (4, 5, 2)
    with pytest.raises(ParameterError, match="has no density"): dist.log_prob(torch.zeros(5, 2))
    with pytest.raises(ParameterError, match="no mean in closed form"): dist.mean  # noqa: B018
    with pytest.raises(ParameterError, match="negative"): HEADS[name]().sample(told(0, 5), temperature=-1.)
    with pytest.raises(ShapeError, match="NaN"): HEADS[name]().init_from(torch.full((9, 2), math.nan))


def test_impossible_settings_are_refused():
    with pytest.raises(ParameterError, match="at least two"): EnergyHead(2, 3, draws=1)
    with pytest.raises(ParameterError, match="leaves none"): DistilledHead(2, 3, draws=2, equal=.9)
