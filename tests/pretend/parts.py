"Heads, encoders and densities where the device is. Run by tests/test_pretend_device.py."
import pytest
import torch
from torch.distributions import MixtureSameFamily

from audioengram.dynamics.basis import RIVALS, prepared, rival_models
from audioengram.dynamics.predictor import ENCODERS, HEADS, Predictor
from audioengram.heads.vmf import VonMisesFisher
from audioengram.heads.vmf_mixture import MixtureVonMisesFisher

D, W = 6, 4


@pytest.fixture(scope="module")
def context():
    g = torch.Generator().manual_seed(0)
    return torch.randn(32, W, D, generator=g).cumsum(1)


def check(model, context):
    "Scores, draws and gradients lie on the device, and the scores are those of the CPU."
    goal = context[:, -1] + .1 * torch.arange(1., D + 1)
    model.eval()
    want = model(context).log_prob(goal).detach()
    model.to("cuda")
    dist = model(context.to("cuda"))
    logp = dist.log_prob(goal.to("cuda"))
    assert logp.is_cuda and torch.allclose(logp.cpu(), want, atol=1e-3, rtol=1e-4)
    draws = dist.sample((3,))
    assert draws.is_cuda and dist.mean.is_cuda
    assert draws.shape == (3, len(context), D) and torch.isfinite(draws.cpu()).all()
    if not isinstance(dist.base, MixtureSameFamily):      # torch's own mixture takes no generator
        once, again = (dist.sample(generator=torch.Generator("cuda").manual_seed(1)) for _ in range(2))
        assert torch.equal(once, again)
    (-logp.mean()).backward()
    assert all(p.grad is None or p.grad.is_cuda for p in model.parameters())


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("target", ["state", "step"])
def test_heads(head, target, context):
    units = "global" if head == "direction" else "dimension"
    check(Predictor(D, W, "state", head, target, hidden=16, layers=1, dropout=0., normalise=units), context)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoders(encoder, context): check(Predictor(D, W, encoder, hidden=16, layers=1, dropout=0.), context)


class Some:
    "Windows of a tensor [N,W,D], with the step to what follows."
    def __init__(self, c): self.c = c
    def __len__(self): return len(self.c)
    def contexts(self, i): return self.c[i]
    def steps(self, i): return .5 * self.c[i, -1] + .1
    def targets(self, i): return self.c[i, -1] + self.steps(i)


@pytest.mark.parametrize("name", RIVALS(3))
def test_heads_with_a_memory_start_and_score(name, context):
    model = rival_models(D, 3, 16, W, encoder="state")[name].to("cuda")
    prepared(model, Some(context))
    assert all(t.is_cuda for t in model.state_dict().values())
    check(model.cpu(), context)


def test_directions_are_fitted_and_drawn():
    x = torch.nn.functional.normalize(torch.randn(300, 5, generator=torch.Generator().manual_seed(0)), dim=1).to("cuda")
    for dist in (VonMisesFisher.fit(x), MixtureVonMisesFisher.fit(x, 3, pseudo_count=1., max_iterations=3)):
        draws = dist.sample((7,))
        assert draws.is_cuda and dist.log_prob(x).is_cuda
        assert torch.allclose(draws.norm(dim=-1).cpu(), torch.ones(7), atol=1e-5)
