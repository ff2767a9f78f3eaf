"The factorizer: a planted state is found, nothing is found where there is nothing, collapse, checkpoints, the view."
import numpy as np
import pytest
import torch

from audioengram.codecs import get_codec
from audioengram.core import CodecError, ModelFileError, ParameterError, TrainingError
from audioengram.data.corpora import get_corpus
from audioengram.data.latents import LatentStore, encode_corpus
from audioengram.data.memory_store import MemoryStore, shuffled
from audioengram.dynamics.factorizer import Factorizer, Whiten, fit_factorizer, judge
from audioengram.dynamics.slow import slow_features
from audioengram.dynamics.zdyn import Zdyn, state_codec, with_state

SMALL = dict(window=2, hidden=32, components=2, dropout=0., share=.01)
QUICK = dict(batch_size=128, lr=2e-2, progress=False, device="cpu")


def sources(rho, utterances, frames=100, seed=0):
    "Independent autoregressive sources of unit variance, [U,T,D]."
    g, rho = torch.Generator().manual_seed(seed), torch.tensor(rho)
    s = [torch.randn(utterances, len(rho), generator=g)]
    for _ in range(frames - 1): s.append(rho * s[-1] + (1 - rho**2).sqrt() * torch.randn(utterances, len(rho), generator=g))
    return torch.stack(s, 1)


def windows(z, W=2): return MemoryStore.of(list(z)).windows(length=W)


def principal_angles(a, b):
    "Angles between what two sets of readouts [N,d] say, degrees."
    a, b = (torch.linalg.qr((x - x.mean(0)).double())[0] for x in (a, b))
    return torch.rad2deg(torch.arccos(torch.linalg.svdvals(a.T @ b).clamp(max=1)))


RHO = [.9, .8, .7] + [0.] * 7
MIX = torch.randn(10, 10, generator=torch.Generator().manual_seed(5))
RATE = -.5 * np.log(1 - np.square(RHO)).sum()


@pytest.fixture(scope="module")
def planted():
    tr, va = (windows(sources(RHO, u, seed=s) @ MIX + 3) for u, s in ((60, 0), (15, 1)))
    m = Factorizer(10, 3, start="random", **SMALL | dict(hidden=0))
    return m, fit_factorizer(m, tr, va, epochs=8, **QUICK)


def test_a_planted_state_is_found_from_a_random_start(planted):
    model, history = planted
    s = sources(RHO, 40, seed=2)
    found = judge(model, windows(s @ MIX + 3))
    assert abs(found.gain - RATE) < .15 and abs(found.explained - RATE) < .15
    with torch.no_grad(): y = model.state_of((s @ MIX + 3).flatten(0, 1))
    assert principal_angles(y, s.flatten(0, 1)[:, :3]).max() < 10
    assert found["rank"] > 2.9 and abs(found["shape"]) < .1
    assert found.r2_posterior > .95 and found.r2_prior < found.r2_posterior
    assert history.valid.min() < history.valid[0] - .5


def test_the_first_state_is_the_linear_one():
    w = windows(sources(RHO, 60) @ MIX + 3)
    model = Factorizer(10, 3, **SMALL).set_units(w).eval()
    s = sources(RHO, 40, seed=2)
    with torch.no_grad(): y = model.state_of((s @ MIX + 3).flatten(0, 1))
    assert principal_angles(y, s.flatten(0, 1)[:, :3]).max() < 8
    assert abs(judge(model, windows(s @ MIX + 3)).explained - RATE) < .1      # before any training
    assert torch.allclose(y.T.cov(), torch.eye(3), atol=.1)


def test_nothing_is_gained_on_independent_frames():
    tr, va, te = (shuffled(MemoryStore.of(list(sources(RHO, u, seed=s) @ MIX))).windows(length=2) for u, s in ((40, 0), (10, 1), (40, 2)))
    model = Factorizer(10, 3, **SMALL)
    fit_factorizer(model, tr, va, epochs=2, **QUICK)
    found = judge(model, te)
    assert abs(found.gain) < .03 and abs(found.explained) < .03


def test_a_network_finds_what_no_linear_map_can():
    "A slow source behind the square of a fast one that is seen too."
    def observed(u, seed):
        s = sources([.95, 0.], u, seed=seed)
        return torch.stack([s[..., 0] + 2 * s[..., 1]**2, s[..., 1]], 2)
    tr, va, te = (windows(observed(u, s)) for u, s in ((60, 0), (15, 1), (40, 2)))
    gains = []
    for learn in (False, True):
        model = Factorizer(2, 1, learn=learn, **SMALL)
        fit_factorizer(model, tr, va, epochs=6, **QUICK | dict(batch_size=256))
        gains.append(judge(model, te).explained)
    assert gains[0] < .15 and gains[1] > .7 * -.5 * np.log(1 - .95**2)   # the rate of the source


def test_whitening_leaves_nothing_to_win_by_shrinking():
    h = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) @ torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    white = Whiten(4, ridge=1e-6).train()
    y = white(h)
    assert torch.allclose(y.T.cov(), torch.eye(4), atol=1e-3) and torch.allclose(white(h * torch.tensor([1e-2, 1., 10., 1.])).T.cov(), torch.eye(4), atol=1e-3)
    h.requires_grad_()
    white(h).pow(4).sum().backward()
    along = (h.grad * (h - h.mean(0)).detach()).sum()                    # the derivative with respect to a common scale
    assert h.grad.abs().max() > 0 and abs(along) < 1e-2 * (h.grad.abs() * h.abs()).sum()
    with pytest.raises(ParameterError, match="cannot whiten"): white(h[:6])
    with torch.no_grad(): assert not torch.isfinite(Whiten(2, ridge=0.).train()(torch.ones(9, 2))).any()   # a constant state cannot pass


def test_only_what_is_explained_and_rebuilt_moves_the_state():
    model, z = Factorizer(6, 2, **SMALL).train(), torch.randn(64, 3, 6)
    terms = model.terms(z[:, :2], z[:, 2])
    grad = lambda x: torch.autograd.grad(x.mean(), model.encoder.linear.weight, retain_graph=True, allow_unused=True)[0]
    assert grad(terms["gain"]) is None and grad(terms["shape"]) is None
    assert grad(terms["explained"]).abs().max() > 0 and grad(terms["objective"]).abs().max() > 0
    assert torch.allclose(terms["kl"].min().clamp(max=0), torch.tensor(0.))
    model.eval()                                                              # the marginal learns by its own likelihood and by nothing else
    with torch.no_grad(): y = model.state_of(z)
    pulls = [torch.autograd.grad(x.mean(), model.marginal.head.loc0)[0] for x in (model.terms(z[:, :2], z[:, 2])["objective"], model.marginal(y[:, :2]).log_prob(y[:, 2]))]
    assert torch.allclose(*pulls, atol=1e-7) and pulls[0].abs().max() > 0


def test_shapes_and_sizes_are_checked():
    with pytest.raises(ParameterError, match="a state of 7"): Factorizer(6, 7)
    with pytest.raises(ParameterError, match="unknown start"): Factorizer(6, 2, start="pca")
    with pytest.raises(ParameterError, match="a state of 9"): slow_features(torch.randn(50, 4), torch.randn(50, 4), 9)
    z = sources([.5, .5], 10)
    z[..., 1] = 1.
    with pytest.raises(TrainingError, match="constant"): Factorizer(2, 1, **SMALL).set_units(windows(z))


def test_seeds_decide():
    tr, va = (windows(sources(RHO, u, seed=s) @ MIX) for u, s in ((10, 0), (5, 1)))
    def fit(seed):
        m = Factorizer(10, 3, seed=seed, **SMALL)
        fit_factorizer(m, tr, va, epochs=1, seed=seed, **QUICK)
        return torch.cat([v.flatten().double() for v in m.state_dict().values()])
    first, again, other = fit(0), fit(0), fit(1)
    assert torch.allclose(first, again, atol=1e-4) and not torch.allclose(first, other, atol=1e-2)   # to the rounding of a least-squares start


def test_checkpoints(tmp_path):
    tr, va = (windows(sources(RHO, u, seed=s) @ MIX) for u, s in ((10, 0), (5, 1)))
    model = Factorizer(10, 3, start="random", **SMALL)
    history = fit_factorizer(model, tr, va, tmp_path, epochs=2, **QUICK)
    again = Factorizer(10, 3, start="random", **SMALL)
    assert fit_factorizer(again, tr, va, tmp_path, epochs=2, **QUICK).valid.tolist() == history.valid.tolist()   # read back
    assert again.fingerprint == model.fingerprint and Factorizer.load(tmp_path).config == model.config

    cut = tmp_path / "cut"
    model.save(cut, history=[])                                             # as an interrupted run leaves it
    on = Factorizer(10, 3, start="random", **SMALL)
    more = fit_factorizer(on, tr, va, cut, epochs=1, **QUICK)
    assert more.valid[0] == pytest.approx(history.valid.min(), abs=.2) and more.valid[0] < history.valid[0] - .5
    other = Factorizer(10, 4, start="random", **SMALL)
    assert fit_factorizer(other, tr, va, cut, epochs=1, **QUICK).valid[0] != more.valid[0]   # another configuration begins anew

    (cut / "weights.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(ModelFileError, match="Train it again"): Factorizer.load(cut)


def test_divergence_is_an_error(tmp_path):
    tr, va = (windows(sources(RHO, u, seed=s) @ MIX) for u, s in ((20, 0), (5, 1)))
    with pytest.raises(TrainingError, match="diverged"): fit_factorizer(Factorizer(10, 3, **SMALL), tr, va, tmp_path, epochs=3, **QUICK | dict(lr=1e18))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    corpus, nano = get_corpus("synthetic", n_speakers=4, n_utterances=5), get_codec("nano")
    folder = tmp_path_factory.mktemp("stores")
    base = encode_corpus(corpus, nano, folder / "nano", progress=False)
    view = Zdyn(nano.dim, 6, window=2, hidden=16, components=2).fit(base.latents(), epochs=1, batch_size=64)
    return corpus, base, view, encode_corpus(corpus, with_state(nano, view), folder / "zdyn", progress=False)


def test_a_store_of_states(stored):
    corpus, base, view, store = stored
    assert store.meta["codec"]["name"] == "nano+zdyn6" and store.dim == 6 and store.keys() == base.keys()
    uid = store.keys()[0]
    assert np.allclose(store[uid], view.transform(base[uid]), atol=1e-4)
    assert store.windows(length=2).contexts([0]).shape == (1, 2, 6)
    codec = state_codec(LatentStore(store.path, corpus=corpus))             # from nothing but the files
    assert codec.fingerprint == store.meta["codec"]["fingerprint"] and codec.name == "nano+zdyn6"
    y = torch.as_tensor(store[uid])[None]
    wav = codec.decode(y)
    assert torch.allclose(wav, codec.base.decode(view.inverse(y)), atol=1e-4) and wav.abs().max() > 0
    assert torch.allclose(codec.encode(torch.as_tensor(corpus.load(uid, codec.sample_rate)[0])[None])[0], y[0], atol=.05)
    with pytest.raises(CodecError, match="holds no z_dyn"): state_codec(base)


def test_the_view_and_its_state(stored):
    _, base, view, _ = stored
    again = Zdyn(64, 6).load_state(view.state())
    assert again.fingerprint == view.fingerprint and again.is_fitted
    with pytest.raises(CodecError, match="not been fitted"): Zdyn(64, 6).transform(base[base.keys()[0]])
    with pytest.raises(CodecError, match="not of view"): Zdyn(64, 5).load_state(view.state())
    with pytest.raises(CodecError, match="more dimensions"): Zdyn(4, 6)
    with pytest.raises(CodecError, match="at least ten"): Zdyn(64, 6, window=2).fit([base[base.keys()[0]]])
    other = Zdyn.of(view.model)
    assert other.label == "zdyn6" and other.fingerprint == view.fingerprint


def test_an_unfitted_view_learns_from_training_speakers_only(stored, tmp_path, monkeypatch):
    corpus, base, _, _ = stored
    split, seen, fit = corpus.split(.25, 0), [], Zdyn.fit
    def spy(self, latents):
        latents = list(latents)
        seen.append(sum(map(len, latents)))
        return fit(self, latents, epochs=1, batch_size=64)
    monkeypatch.setattr(Zdyn, "fit", spy)
    store = encode_corpus(corpus, with_state(get_codec("nano"), Zdyn(64, 4, window=2, hidden=8, components=2)), tmp_path / "z", split=split, progress=False)
    assert seen == [sum(len(base[u]) for u in split.train_utterances)]
    assert store.meta["codec"]["fitted_on"]["speakers"] == sorted(split.train) and state_codec(store).is_fitted
