"""Views: inverses, what is learned from a stream, names and states."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from audioengram.codecs import get_codec, parse_name, register_codec
from audioengram.codecs.base import LatentCodec
from audioengram.codecs.views import Normalise, Pca, StackedFrames, View, ViewCodec
from audioengram.core import CodecError, ParameterError

quick = settings(max_examples=40, deadline=None)


class Blocks(LatentCodec):
    "Blocks of samples as latents: a base whose latents are known."
    name, sample_rate, frame_rate, dim = "blocks", 8000, 2000., 4
    def identity(self): return "v1"
    def _encode(self, wav, lengths): return torch.nn.functional.pad(wav, (0, -wav.shape[1] % 4)).unflatten(1, (-1, 4))
    def _decode(self, z, lengths): return z.flatten(1)


@pytest.fixture(autouse=True)
def blocks():
    from audioengram.codecs import CODECS
    register_codec("blocks", Blocks, "for tests")
    yield
    CODECS.pop("blocks")


def latents(seed, T, D, spread=1.):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(T, D)) @ rng.normal(size=(D, D)) * spread + rng.normal(size=D) * 10).astype("float32")


@quick
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 6), st.integers(1, 5))
def test_stack_is_undone_but_for_its_tail(seed, T, D, n):
    view, z = StackedFrames(D, n), latents(seed, T, D)
    y = view.transform(z)
    assert y.shape == (T // n, n * D) == (view.frames(T), view.dim_out)
    np.testing.assert_array_equal(view.inverse(y), z[:T // n * n])


@quick
@given(st.integers(0, 10**6), st.integers(8, 200), st.integers(1, 6), st.floats(1e-3, 1e3))
def test_normalise_is_undone(seed, T, D, spread):
    z = latents(seed, T, D, spread)
    view = Normalise(D).fit([z])
    np.testing.assert_allclose(view.inverse(view.transform(z)), z, atol=1e-4 * np.abs(z).max())
    np.testing.assert_allclose(view.transform(z).astype("float64").mean(0), 0, atol=2e-3 * (1 + 10 / spread))


@quick
@given(st.integers(0, 10**6), st.integers(2, 8), st.data())
def test_pca_projects_and_whole_pca_is_undone(seed, D, data):
    n, z = data.draw(st.integers(1, D)), latents(seed, 100, D)
    view = Pca(D, n).fit(np.array_split(z, 3))
    y, scale = view.transform(z), np.abs(z).max()
    np.testing.assert_allclose(view.transform(view.inverse(y)), y, atol=1e-4 * scale)
    if n == D: np.testing.assert_allclose(view.inverse(y), z, atol=1e-4 * scale)
    lost = ((view.inverse(y).astype("float64") - z)**2).sum() / ((z - z.mean(0, dtype="float64"))**2).sum()
    assert abs(lost - (1 - float(view.kept))) < 1e-4
    assert (np.diff(y.astype("float64").var(0)) <= 1e-3 * scale**2).all(), "largest variance first"


@pytest.mark.parametrize("make", [lambda: Normalise(5), lambda: Pca(5, 3)])
def test_cutting_the_stream_differently_changes_nothing(make):
    z = latents(3, 1000, 5)
    a, b = make().fit([z]), make().fit(iter(np.array_split(z, 77)))
    y = a.transform(z)
    np.testing.assert_allclose(b.transform(z), y, atol=1e-3)
    np.testing.assert_allclose(make().fit([torch.tensor(z)]).transform(z), y, atol=1e-3)


@pytest.mark.parametrize("view", [StackedFrames(4, 3), Normalise(4), Pca(4, 2)])
def test_state_survives_safetensors(view):
    fresh = view.state()
    assert type(view).from_state(fresh).is_fitted == view.is_fitted
    view.fit([latents(0, 50, 4)])
    again = type(view).from_state(load(save(view.state())))
    assert again.fingerprint == view.fingerprint
    z = latents(1, 12, 4)
    np.testing.assert_array_equal(again.transform(z), view.transform(z))
    with pytest.raises(CodecError, match="not of view"): type(view).from_state(view.state()).load_state({"other": np.zeros(3)})


def test_arrays_come_back_as_arrays_and_batches_as_batches():
    view, z = Pca(4, 2).fit([latents(0, 50, 4)]), torch.tensor(latents(1, 24, 4)).view(2, 3, 4, 4)
    assert isinstance(view.transform(z.numpy()), np.ndarray) and isinstance(view.transform(z), torch.Tensor)
    assert view.transform(z).shape == (2, 3, 4, 2) and view.transform(z).dtype == torch.float32
    with pytest.raises(CodecError, match="expects"): view.transform(torch.zeros(3, 5))
    with pytest.raises(CodecError, match="expects"): view.inverse(torch.zeros(3, 4))


@pytest.mark.parametrize("bad, word", [([], "0 frames"), ([np.zeros((1, 4))], "1 frames"), ([np.full((9, 4), np.inf)], "NaN or infinite"), ([np.zeros((9, 3))], "D=4")])
def test_what_cannot_be_learned_from(bad, word):
    with pytest.raises(Exception, match=word) as e: Normalise(4).fit(bad)
    assert "audioengram" in type(e.value).__module__


def test_pca_needs_more_frames_than_axes():
    with pytest.raises(CodecError, match="cannot be fitted on 3 frames"): Pca(4, 3).fit([latents(0, 3, 4)])


def test_names_compose_and_say_rate_and_width():
    codec = get_codec("blocks+stack5+pca6+normalise")
    assert (codec.name, codec.frame_rate, codec.dim, codec.hop, codec.is_fitted) == ("blocks+stack5+pca6+normalise", 400., 6, 20, False)
    assert [type(v) for v in codec.views] == [StackedFrames, Pca, Normalise] and isinstance(codec.base, Blocks)
    assert get_codec("blocks+stack2+stack2").frame_rate == 500. and get_codec("blocks+stack2").is_fitted
    with pytest.raises(CodecError, match="pca5 asks for more"): get_codec("blocks+pca5")
    with pytest.raises(CodecError, match="unknown view"): parse_name("blocks+wavelet3")
    with pytest.raises(CodecError, match="unknown codec 'opus'"): get_codec("opus+stack2")
    with pytest.raises(ParameterError, match="options"): get_codec("blocks+stack2", dim=3)


def test_unfitted_codecs_say_what_to_do():
    codec = get_codec("blocks+pca2")
    for call in (lambda: codec.encode(torch.rand(1, 40)), lambda: codec.decode(torch.rand(1, 4, 2))):
        with pytest.raises(CodecError, match="codec.fit_views"): call()


def test_fingerprint_knows_what_was_learned():
    name, data = "blocks+stack2+normalise", [latents(s, 60, 4) for s in (0, 1)]
    a, b, c = (get_codec(name).fit_views(d) for d in (data, data, data[:1]))
    assert a.fingerprint == b.fingerprint and len({get_codec(name).fingerprint, a.fingerprint, c.fingerprint, get_codec("blocks").fingerprint}) == 4
    again = get_codec(name).load_state(load(save(a.state())))
    assert again.is_fitted and again.fingerprint == a.fingerprint
    for other in ("blocks+normalise", "blocks+stack3+normalise", "blocks+normalise+stack2"):
        with pytest.raises(CodecError, match="this state is not of"): get_codec(other).load_state(a.state())


def test_views_are_fitted_on_what_the_views_below_make():
    data = [latents(s, 63, 4) for s in range(4)]
    codec = get_codec("blocks+stack3+pca8+normalise").fit_views(data)
    out = np.concatenate([codec.transform(z) for z in data])
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(out.std(0), 1, atol=1e-3)
    with pytest.raises(CodecError, match="Pass a list"): get_codec("blocks+pca3+normalise").fit_views(iter(data))
    assert get_codec("blocks+pca3").fit_views(iter(data)).is_fitted, "one pass is enough for one view"


def test_sound_returns_through_lossless_views():
    wav = torch.rand(2, 480, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codec = get_codec("blocks+stack3+pca12+normalise")
    codec.fit_views(codec.base.encode(wav).numpy())
    torch.testing.assert_close(codec.decode(codec.encode(wav)), wav, atol=1e-4, rtol=0)


def test_the_shortest_recording_fills_one_frame():
    codec = get_codec("blocks+stack3")
    assert codec.min_samples == 9 and codec.frames(9) == 1 and codec.frames(8) == 0
    with pytest.raises(CodecError, match="at least 9"): codec.encode(torch.zeros(1, 8))


def test_a_view_codec_takes_any_view():
    class Flip(View):
        kind, dim_in, dim_out = "flip", 4, 4
        def _transform(self, z): return z.flip(-1)
        _inverse = _transform
    codec, wav = ViewCodec(Blocks(), [Flip()]), torch.rand(1, 16)
    torch.testing.assert_close(codec.decode(codec.encode(wav)), wav)
    assert codec.name == "blocks+flip"
