"The filter bank against SciPy, Slaney's recursive design and closed forms; streams in any cut; bad input."
import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audioengram.core import ParameterError, ShapeError
from audioengram.ember.cochlea import Cochlea, erb, erb_rate, gammatone, leaky_scan

RATE = 16_000


def test_published_constants():
    "Glasberg & Moore 1990: 24.7 (4.37 F + 1); about 33 ERBs up to 8 kHz; Slaney's EarQ and minimum bandwidth are the same line."
    assert float(erb(1000)) == pytest.approx(132.64, abs=.01)
    assert float(erb_rate(8000)) == pytest.approx(33.3, abs=.1)
    hz = np.array([100., 1000., 5000.])
    assert np.allclose(erb(hz), hz / 9.26449 + 24.7, rtol=1e-4)
    assert np.allclose(np.gradient(erb_rate(np.linspace(200, 6000, 5801)))[1:-1], 1 / erb(np.linspace(200, 6000, 5801))[1:-1], rtol=.004)


@pytest.mark.parametrize("fc", [80., 150., 440., 1000., 2500., 6000.])
def test_response_within_one_percent_of_the_continuous_filter(fc):
    f = np.fft.rfftfreq(1 << 16, 1 / RATE)
    H = np.abs(np.fft.rfft(gammatone(fc, RATE)[0], 1 << 16))
    b = 1.019 * float(erb(fc))
    ideal = lambda f: (b + 1j * (f - fc))**-4. + (b + 1j * (f + fc))**-4.
    want = np.abs(ideal(f) / ideal(fc))
    near = np.abs(f - fc) < 2 * erb(fc)
    assert np.abs(H[near] - want[near]).max() < .01
    assert (H**2).sum() * f[1] / H.max()**2 == pytest.approx(float(erb(fc)), rel=.01)


@pytest.mark.parametrize("fc", [300., 1000., 3000.])
def test_agrees_with_slaney(fc):
    "SciPy's recursive gammatone is Slaney's (Apple report 35): its gains are ours; its click response too, but for a fraction of a sample that his pole placement costs."
    click = np.zeros(2000); click[0] = 1
    slaney = scipy.signal.lfilter(*scipy.signal.gammatone(fc, "iir", fs=RATE), click)
    ours = np.zeros(2000); h = gammatone(fc, RATE, floor=120)[0][:2000]; ours[:len(h)] = h
    gains = [np.abs(np.fft.rfft(x, 1 << 14)) for x in (slaney, ours)]
    near = np.abs(np.fft.rfftfreq(1 << 14, 1 / RATE) - fc) < 2 * erb(fc)
    assert np.abs(gains[0] - gains[1])[near].max() < .01
    assert slaney @ ours > .99 * np.linalg.norm(slaney) * np.linalg.norm(ours)
    fir, _ = scipy.signal.gammatone(fc, "fir", numtaps=len(h := gammatone(fc, RATE)[0]), fs=RATE)
    assert np.abs(fir - h).max() < .01 * np.abs(h).max()


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, 2999), max_size=6), adaptation=st.sampled_from([0., .7]), seed=st.integers(0, 99))
def test_a_stream_equals_a_batch(cuts, adaptation, seed):
    wav = torch.randn(2, 3000, generator=torch.Generator().manual_seed(seed)) * .1
    ear, state, out = Cochlea(8, adaptation=adaptation), None, []
    edges = [0, *sorted(set(cuts)), 3000]
    for a, b in zip(edges, edges[1:], strict=False):
        y, state = ear.stream(wav[:, a:b], state)
        out.append(y)
    assert torch.allclose(torch.cat(out, -1), ear(wav), atol=2e-4)


def test_gradient_is_right():
    ear = Cochlea(4, low=400, adaptation=.5).double()
    ear.response = torch.fft.rfft(torch.as_tensor(gammatone(ear.hz)), ear.n_fft)
    wav = (torch.randn(1, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * .3).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: ear(w).sum((0, 2)), wav, eps=1e-6, atol=1e-4)


def test_adaptation_lets_onsets_stand_out():
    tone = torch.sin(2 * np.pi * 1000 * torch.arange(RATE) / RATE)[None] * .1
    ratio = {}
    for a in (0., .8):
        y = Cochlea(16, adaptation=a)(tone)[0].sum(0)
        ratio[a] = float(y[:1600].mean() / y[-1600:].mean())
    assert ratio[.8] > 1.2 * ratio[0.]


@pytest.mark.parametrize("wav, match", [(torch.full((1, 9), torch.nan), "NaN"), (torch.full((1, 9), torch.inf), "infinite"), (torch.zeros(1, 0), "no samples"), (torch.zeros(9), "expected")])
def test_bad_input_is_named(wav, match):
    with pytest.raises(ShapeError, match=match): Cochlea(4)(wav)


def test_wrong_rate_and_wrong_ear():
    with pytest.raises(ShapeError, match="resample"): Cochlea(4)(torch.zeros(1, 9), rate=8000)
    for bad in (dict(channels=0), dict(power=0.), dict(adaptation=2.), dict(high=7900.), dict(low=0.)):
        with pytest.raises(ParameterError): Cochlea(**bad)


def test_odd_input_is_heard():
    "Silence, DC, clipped and a single sample give finite, sensible answers."
    ear = Cochlea(8)
    assert ear(torch.zeros(1, 500)).abs().max() == 0
    assert Cochlea(8, power=1.)(torch.ones(1, 8000))[..., 4000:].max() < .03
    assert torch.isfinite(ear((torch.randn(1, 4000) * 9).clamp(-1, 1))).all()
    assert ear(torch.ones(1, 1)).shape == (1, 8, 1)


@pytest.mark.parametrize("S", [1, 63, 64, 65, 5000])
def test_leaky_scan_is_the_recursion(S):
    x, a, first = torch.randn(2, 3, S, dtype=torch.float64), torch.tensor([0., .7, .9999], dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    y, want = first, []
    for t in range(S):
        y = a * y + x[..., t]
        want.append(y)
    assert torch.allclose(leaky_scan(x, a, first), torch.stack(want, -1), atol=1e-9)
