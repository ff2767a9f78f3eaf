"Rates and channels: what goes in comes out in the same shape, from the files' own rate and channels unless told."
import numpy as np
import pytest
from test_cli_codes import call

from audioengram.codes.grid import CodeGrid
from audioengram.codes.model import ModelConfig
from audioengram.codes.modelfile import load_model, save_model
from audioengram.codes.prior import choose_prior, fit_prior
from audioengram.codes.training import fit
from audioengram.codes.writing import generate
from audioengram.core import ShapeError
from audioengram.data.audio import audio_info, save_audio
from audioengram.data.voices import synthesise


def stereo_folder(home, rate, n=4):
    "Voices on the left, half as loud on the right."
    for i in range(n):
        left = synthesise(.6, i, 90 + 25 * i, rate=rate)
        save_audio(home / f"voice{i}.wav", np.stack([left, .3 * left], 1), rate)
    return home


@pytest.fixture(scope="module")
def stereo(tmp_path_factory):
    "A folder at 48 kHz, and a model of it that was told nothing."
    home = stereo_folder(tmp_path_factory.mktemp("stereo"), 48_000)
    return home, fit(home, steps=12, size=8, batch=4, frames=32, show=False)


def test_the_folder_decides(stereo):
    _, m = stereo
    assert (m.config.rate, m.config.channels, m.config.grid_bands) == (48_000, 2, 8)


@pytest.mark.parametrize("rate, channels", [(24_000, 1), (44_100, 1), (44_100, 2), (48_000, 2)])
def test_round_trip(rate, channels, tmp_path):
    "Shape, length and silence survive; peaks stay within full scale; a model file gives the same sound again."
    m = fit(stereo_folder(tmp_path, rate, 3), steps=4, size=8, batch=2, frames=16, show=False,
            config=ModelConfig.of(rate, channels, width=8))
    for n in (1, 777, rate // 2):
        wav = np.random.default_rng(n).normal(size=(n, 2)[:channels]).astype(np.float32)
        codes = m.encode(wav)
        made = m.decode(codes, n)
        assert made.shape == wav.shape and np.isfinite(made).all() and np.abs(made).max() <= 1
        assert codes.shape[1:] == (4 * channels, 3) and (codes == m.encode(wav)).all()
    again = load_model(save_model(m, tmp_path / "m.distill"))
    assert np.array_equal(again.decode(codes, n), made)
    grid = CodeGrid.encode(m, wav)
    assert grid.sound().shape == wav.shape


def test_left_stays_left(stereo):
    home, m = stereo
    left = synthesise(.6, 1, 115, rate=48_000)
    made = m.decode(m.encode(np.stack([left, .3 * left], 1)), len(left))
    loud = np.sqrt(np.square(made).mean(0))
    assert loud[0] > 1.5 * loud[1] > 0


def test_a_mono_model_refuses_stereo_and_a_stereo_model_takes_mono(stereo):
    _, m = stereo
    assert m.encode(np.zeros(5000)).shape[1] == 8
    for bad in (np.zeros((5000, 3)), np.zeros((2, 3, 4))):
        with pytest.raises(ShapeError, match="shape"): m.encode(bad)


def test_stereo_through_prior_and_command_line(stereo, tmp_path):
    home, m = stereo
    grids = [m.encode(np.random.default_rng(i).normal(size=(20_000, 2)) * .1) for i in range(3)]
    m.prior = fit_prior(grids[:2], grids[2:], choose_prior(1, m.config, hidden=16, layers=1, heads=2, window=96), steps=2, batch=2, show=False)
    save_model(m, tmp_path / "s.distill")
    assert load_model(tmp_path / "s.distill").prior.config.bands == 8
    assert m.decode(generate(m.prior, 6)).shape == (6 * m.config.column, 2)
    for args in (("generate", tmp_path / "s.distill", tmp_path / "a.wav", "--seconds", .3), ("encode", tmp_path / "s.distill", home / "voice0.wav", tmp_path / "g.json"),
                 ("decode", tmp_path / "s.distill", tmp_path / "g.json", tmp_path / "b.wav"), ("decode", tmp_path / "s.distill", tmp_path / "g.json", tmp_path / "c.wav", "--channels", 1)):
        assert (r := call(*args)).exit_code == 0, r.exception
    assert [audio_info(tmp_path / f"{n}.wav").channels for n in "abc"] == [2, 2, 1]
    assert audio_info(tmp_path / "b.wav").frames == audio_info(home / "voice0.wav").frames
