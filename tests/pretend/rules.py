"The pretend device refuses what CUDA refuses and counts who waits for it. Run by tests/test_pretend_device.py."
import copy

import numpy as np
import pretend_cuda
import pytest
import torch
from torch import nn


@pytest.fixture
def x(): return torch.arange(6., device="cuda").view(2, 3)


def test_it_is_there_and_its_values_are_real(x):
    assert torch.cuda.is_available() and x.device == torch.device("cuda:0") and x.is_cuda
    assert torch.equal((2 * x + 1).cpu(), 2 * torch.arange(6.).view(2, 3) + 1)


def test_tensors_of_two_devices_are_refused(x):
    here = torch.ones(1, 3)
    for f in (lambda: x + here, lambda: x @ here.T, lambda: torch.cat([x, here]), lambda: nn.Linear(3, 2)(x)):
        with pytest.raises(RuntimeError, match="found at least two devices, cuda:0 and cpu"): f()


def test_a_number_goes_along_where_torch_lets_it(x):
    assert torch.equal((x * torch.tensor(2.)).cpu(), (2 * x).cpu())
    with pytest.raises(RuntimeError, match="two devices"): torch.stack([x.sum(), torch.tensor(1.)])


def test_the_cpu_may_index_the_device_but_not_the_other_way_round(x):
    assert torch.equal(x[torch.tensor([1])].cpu(), torch.tensor([[3., 4., 5.]]))
    with pytest.raises(RuntimeError, match="indexed tensor"): torch.arange(3)[torch.tensor([1], device="cuda")]


def test_numpy_sees_no_device_tensor(x):
    for f in (x.numpy, lambda: np.asarray(x), lambda: np.add(x, 1)):
        with pytest.raises(TypeError, match="Use Tensor.cpu"): f()
    assert x.cpu().numpy().sum() == 15 and x.tolist()[1] == [3., 4., 5.]


def test_a_generator_draws_on_its_own_device_only():
    host, far = torch.Generator(), torch.Generator("cuda").manual_seed(3)
    for dice, device, wanted in ((host, "cuda", "cuda"), (far, "cpu", "cpu")):
        with pytest.raises(RuntimeError, match=f"Expected a '{wanted}' device type for generator"):
            torch.randn(2, device=device, generator=dice)
    a, b = torch.randn(4, device="cuda", generator=far), torch.randn(4, device="cuda", generator=far)
    assert not torch.equal(a, b) and torch.equal(a, torch.randn(4, device="cuda", generator=far.manual_seed(3)))


def test_the_device_has_a_stream_of_random_numbers_of_its_own():
    torch.manual_seed(0); first = torch.randn(3, device="cuda")
    torch.manual_seed(0); torch.randn(99)                                   # on the CPU
    assert torch.equal(first, torch.randn(3, device="cuda"))
    with torch.random.fork_rng(devices=[torch.device("cuda:0")]): torch.randn(5, device="cuda")
    second = torch.randn(3, device="cuda")
    torch.manual_seed(0); torch.randn(3, device="cuda")
    assert torch.equal(second, torch.randn(3, device="cuda"))


def test_views_share_and_shapes_change_in_place(x):
    x[1].fill_(7); x.t_()
    assert x.shape == (3, 2) and x.cpu()[:, 1].tolist() == [7., 7., 7.]
    sound = torch.sin(torch.arange(2000., device="cuda"))[None]
    spectrum = lambda s: torch.stft(s, 256, 64, window=torch.hann_window(256, device=s.device), return_complex=True)
    assert torch.allclose(spectrum(sound).cpu(), spectrum(sound.cpu()))


def test_modules_move_train_and_are_copied():
    torch.manual_seed(0); net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))
    twin = copy.deepcopy(net).to("cuda")
    for m in (net, twin):
        opt, data = torch.optim.AdamW(m.parameters(), 1e-2, fused=True), torch.linspace(0, 1, 12).view(4, 3)
        for _ in range(3):
            loss = m(data.to(next(m.parameters()).device)).square().mean()
            opt.zero_grad(); loss.backward()
            nn.utils.clip_grad_norm_(m.parameters(), 1.); opt.step()
    again = copy.deepcopy(twin)
    for a, b, c in zip(net.parameters(), twin.parameters(), again.parameters(), strict=True):
        assert b.is_cuda and c.is_cuda and isinstance(c, nn.Parameter)
        assert torch.allclose(a, b.cpu(), atol=1e-6) and torch.equal(b, c)


def waits(f) -> int:
    "How often f made the CPU wait."
    before = pretend_cuda.syncs.total()
    f()
    return pretend_cuda.syncs.total() - before


def test_who_waits_is_counted(x):
    up, first = torch.ones(2), torch.tensor([0])
    for f in (lambda: (x * 2).sum(), lambda: up.to("cuda"), lambda: x[first]): assert waits(f) == 0
    for f in (lambda: x.sum().item(), lambda: bool((x > 0).any()), lambda: torch.equal(x, x)): assert waits(f) == 1
    for f in (x.cpu, x.nonzero, lambda: x[x > 2], lambda: torch.zeros(2, 3).copy_(x)): assert waits(f) == 1
    before = pretend_cuda.kernels.total()
    x + x
    assert pretend_cuda.kernels.total() == before + 1


def test_counts_name_the_line_of_the_package():
    from audioengram.core import fingerprint
    pretend_cuda.syncs.clear()
    fingerprint(torch.ones(3, device="cuda"))
    (place, n), = pretend_cuda.syncs.items()
    assert place.startswith("core.py:") and n == 1
