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
    "energy": lambda: EnergyHead(2, 3, width=64, layers=3),
    "flow": lambda: FlowHead(2, 3, width=64, layers=3),
    "lsd": lambda: DistilledHead(2, 3, width=64, layers=3)}
SAMPLERS = ("energy", "flow", "lsd")


def law(name, n, g):
    "Draws of a known law in the plane, [n,2]."
    noise = torch.randn(n, 2, generator=g)
    if name == "mixture": return torch.tensor([[-1.5, 0.], [1.5, 1.], [0., -1.5]])[torch.randint(3, (n,), generator=g)] + .25 * noise
    if name == "ring": return 1.5 * nn.functional.normalize(noise, dim=1) + .15 * torch.randn(n, 2, generator=g)
    chi = torch._standard_gamma(torch.full((n, 1), 1.5), generator=g) * 2            # Student-t with three degrees of freedom
    return .7 * noise * (3 / chi).sqrt()


def told(which, n): return nn.functional.one_hot(torch.full((n,), which), 3).float()


def trained(name, steps=900, rows=384):
    "A head that has learned all three laws, told which."
    g = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = HEADS[name]().init_from(torch.cat([law(k, 3000, g) for k in LAWS]))
        opt = torch.optim.Adam(head.parameters(), lr=4e-3)
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


def excess(head, which, n=4000, draws=24):
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
if __name__ == "__main__":
    import time
    for name in HEADS:
        t = time.time(); hd = trained(name); print(name, round(time.time()-t,1), [tuple(round(v,4) for v in excess(hd,i)) for i in range(3)])
