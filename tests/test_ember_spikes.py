"Spikes beside snntorch: same spikes, same gradients, streams, phase locking, cost, bad input."
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audioengram.core import ParameterError, ShapeError
from audioengram.ember.cochlea import Cochlea
from audioengram.ember.spikes import (
    SpikingEncoder,
    activity,
    lif,
    lif_compiled,
    lif_scan,
    lif_steps,
    sparsity_loss,
    vector_strength,
)

snntorch = pytest.importorskip("snntorch")


def reference(x, decay, mem, **kw):
    neuron, spikes = snntorch.Leaky(beta=decay, **kw), []
    for t in range(x.shape[-1]):
        s, mem = neuron(x[..., t], mem)
        spikes.append(s)
    return torch.stack(spikes, -1), neuron


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 999), level=st.floats(-.2, 1.5), a=st.floats(0, .99), S=st.integers(1, 300))
def test_same_spikes_as_snntorch(seed, level, a, S):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, S, generator=g, dtype=torch.float64) + level
    decay, first = torch.tensor([a, .5, .9], dtype=torch.float64), torch.randn(2, 3, generator=g, dtype=torch.float64)
    with torch.no_grad(): wanted, _ = reference(x, decay, first)
    for form in (lif_steps, lif_scan, lif_compiled): assert torch.equal(form(x, decay, 1., first)[0], wanted), form.__name__


def test_same_spikes_at_1000_steps_in_single_precision():
    x, decay, first = torch.rand(4, 32, 1000, generator=torch.Generator().manual_seed(0)) * .3, torch.full((32,), .88), torch.zeros(4, 32)
    with torch.no_grad(): wanted, _ = reference(x, decay, first)
    assert wanted.sum() > 500 and torch.equal(lif_compiled(x, decay, 1., first)[0], wanted)


def test_gradients_are_snntorchs():
    g = torch.Generator().manual_seed(1)
    x, decay = torch.rand(2, 3, 150, generator=g, dtype=torch.float64) * .5, torch.tensor([.7, .9, .95], dtype=torch.float64)
    weight, grads = torch.randn(2, 3, 150, generator=g, dtype=torch.float64), []
    for ours in (True, False):
        y, b = x.clone().requires_grad_(), decay.clone().requires_grad_()
        if ours: s = lif(y, b)[0]
        else:
            s, neuron = reference(y, b, torch.zeros(2, 3, dtype=torch.float64), learn_beta=True, spike_grad=snntorch.surrogate.fast_sigmoid(slope=25))
            b = neuron.beta
        (s * weight).sum().backward()
        grads.append((y.grad, b.grad))
    assert torch.allclose(grads[0][0], grads[1][0], atol=1e-9) and torch.allclose(grads[0][1].double(), grads[1][1].double(), atol=1e-6)


def test_a_stream_equals_a_batch():
    ear, encoder = Cochlea(6), SpikingEncoder(6)
    cells = ear(torch.randn(2, 2000, generator=torch.Generator().manual_seed(2)) * .2)
    encoder.log_gain.data += 1.5
    whole, end = encoder(cells)
    one, state = encoder(cells[..., :777])
    two, state = encoder(cells[..., 777:], state)
    assert whole.sum() > 0 and torch.equal(torch.cat([one, two], -1), whole) and torch.equal(state, end)


def test_gradients_find_a_firing_rate():
    torch.manual_seed(0)
    encoder, cells = SpikingEncoder(6), Cochlea(6)(torch.randn(2, 4000) * .1)
    losses = encoder.calibrate(cells, target=100, steps=50)
    rates = encoder(cells)[0].mean((0, 2)) * 16_000
    assert losses[-1] < .05 and (rates - 100).abs().max() < 40


def test_phase_locking_and_its_null():
    t = np.arange(16_000)
    spikes = (t % 80 == 3) & (np.random.default_rng(0).random(16_000) < .7)
    assert vector_strength(spikes, 200)[0] == pytest.approx(1) and vector_strength(spikes, 213.7)[0] < .1
    assert vector_strength(np.zeros(10), 100) == (0., 0)


def test_cost_counts_spikes():
    s = torch.zeros(1, 2, 16_000); s[0, 0, ::160] = 1
    assert activity(s, 10) == pytest.approx(dict(spikes=100, each=50, operations=1000, dense=320_000, ratio=1 / 320))
    assert float(sparsity_loss(torch.zeros(1, 2, 10), 50)) == 1


def test_bad_input_is_named():
    good = torch.zeros(1, 2, 5)
    with pytest.raises(ShapeError, match="NaN"): lif(good * torch.nan, torch.zeros(2))
    with pytest.raises(ShapeError, match="C=3"): lif(good, torch.zeros(3))
    with pytest.raises(ParameterError, match="outside"): lif(good, torch.tensor([.5, 1.]))
    with pytest.raises(ParameterError, match="unknown form"): lif(good, torch.zeros(2), form="x")
    for form in ("steps", "scan", "compiled"):
        for threshold in (0., -1., float("nan"), float("inf")):
            with pytest.raises(ParameterError, match="not a positive number"): lif(good, torch.zeros(2), threshold, form=form)
        with pytest.raises(ParameterError, match="outside"): lif(good, torch.tensor([.5, torch.nan]), form=form)
    assert lif(good, torch.zeros(2))[0].sum() == 0   # silence is silent
