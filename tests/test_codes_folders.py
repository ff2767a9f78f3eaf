"Folders at default settings: the plain model, how a prior is drawn, what noise allows, and what the page says of all of it."
import numpy as np
import pandas as pd
import pytest
import torch
from codes_toy import folder, model

from audioengram.codes.copying import copy_report
from audioengram.codes.folder_trial import OURS, PLAIN, folder_estimates
from audioengram.codes.folders import SETTINGS, files_apart, noise_floor, reach_row
from audioengram.codes.model import MelPicture, ModelConfig
from audioengram.codes.plain import NEVER, PlainConfig, fit_plain, fit_plain_prior, plain_crops
from audioengram.codes.prior import PriorConfig
from audioengram.codes.recordings import read_recordings
from audioengram.codes.writing import generate


@pytest.fixture(scope="module")
def stereo():
    "A plain model of two channels, of voices whose right side is quieter."
    sounds = read_recordings(folder(4, .7), 24_000, 2, show=False)
    for w in sounds.wavs: w[:, 1] *= .25
    config = PlainConfig(channels=2, width=4, size=16)
    return sounds, fit_plain(sounds, config, steps=60, batch=4, length=4096)


def test_a_plain_model_keeps_length_and_channels(stereo):
    sounds, m = stereo
    wav = sounds.side(True)[0]
    codes = m.encode(wav)
    made = m.decode(codes, len(wav))
    assert made.shape == wav.shape and codes.shape == (-(-len(wav) // m.config.column), 1, 3)
    assert np.square(made[:, 1]).sum() < .5 * np.square(made[:, 0]).sum()                     # the sides are not mixed up
    assert m.decode(codes).shape == (len(codes) * m.config.column, 2)


def test_a_plain_model_repeats_with_its_seed_and_not_with_another(stereo):
    sounds, m = stereo
    again, other = (fit_plain(sounds, m.config, steps=60, batch=4, length=4096, seed=seed) for seed in (0, 1))
    assert again.about["losses"] == m.about["losses"] and other.about["losses"] != m.about["losses"]


def test_a_plain_prior_writes_one_stream_and_never_ends(stereo):
    sounds, m = stereo
    shape = PriorConfig(m.config.size, 3, 1, hidden=16, layers=1, heads=2, window=48)
    prior = fit_plain_prior(m, sounds.side(False), sounds.side(True), shape, steps=20, batch=4)
    assert torch.sigmoid(torch.tensor(NEVER)) < 1e-12 and prior.about["lengths"] == prior.about["rests"] == []
    piece = generate(prior, 400, seed=0)
    assert piece.shape == (400, 1, 3) and piece.min() >= 0


def test_crops_are_of_the_files():
    wavs = [np.arange(100, 130, dtype=np.float32), np.arange(5, dtype=np.float32)]
    some = plain_crops(wavs, 60, 8, np.random.default_rng(0))[:, 0].numpy()
    long, short = some[some[:, 0] >= 100], some[some[:, 0] < 100]
    assert (np.diff(long) == 1).all() and long.max() == 129 and (short == [0, 1, 2, 3, 4, 0, 0, 0]).all() and len(short)


def test_the_detector_judges_what_is_written_as_it_is_asked_to_be_written(monkeypatch):
    asked, m = [], model(prior=True)
    def written(prior, columns, **how): asked.append(how); return np.zeros((columns, 4, 3), np.int16)
    monkeypatch.setattr("audioengram.codes.copying.generate", written)
    wavs = [np.random.default_rng(i).normal(size=12_000).astype(np.float32) * .1 for i in range(4)]
    monkeypatch.setattr(type(m), "decode", lambda self, codes, length=None, upto=None: wavs[0][:1024 * len(codes)])
    copy_report(m, wavs[:2], wavs[2:], seconds=1, **SETTINGS[1])
    assert [(h["temperature"], h["top_p"]) for h in asked] == [(.9, .95)]


def test_reach_is_the_share_of_the_folder_and_playing_it_reaches_more():
    m, rng = model(), np.random.default_rng(0)
    tone = lambda f: np.sin(np.arange(24_576) * f).astype(np.float32) * .1
    kinds = [*(rng.normal(size=24_576).astype(np.float32) * .1 for _ in range(2)), tone(.05), tone(.052)]
    known, apart = files_apart(m, kinds)
    row = reach_row(m, known, apart, [kinds[0]], [np.concatenate(kinds)])
    assert 0 < row["written"] < row["low"] <= 1 and not row["true"]
    assert reach_row(m, known, apart, [np.zeros(24_576)], [kinds[0]])["written"] == 0


@pytest.mark.parametrize("rate", [24_000, 44_100])
def test_noise_has_a_floor_that_its_level_does_not_move(rate):
    mel, noise = MelPicture(ModelConfig.of(rate)), np.random.default_rng(0).normal(size=rate).astype(np.float32) * .1
    floor = noise_floor(mel, noise)
    assert 2 < floor < 20 * np.log10(2) and abs(noise_floor(mel, noise / 4) - floor) < .1     # a single bin would be at 6.02 dB
    assert noise_floor(mel, noise, 1) != floor and noise_floor(mel, np.zeros(rate, np.float32)) == 0


def told(gap, n=12, noise=True):
    "Tables of a page whose plain model is so many dB further off in one folder and nearer in another."
    rng = np.random.default_rng(0)
    rows = [dict(folder=f, maker=m, file=f"{i}", distance=3. + rng.normal() * .01 + (g if m == PLAIN else 0), again=2.5,
                 level=-2. if i else -7., attack=1., peak=1.2 if m == PLAIN else .9)
            for f, g in (("drums", gap), ("loops", -gap)) for m in (OURS, PLAIN) for i in range(n)]
    if noise: rows += [dict(folder="hats", maker=OURS, file=f"{i}", distance=3.2 + rng.normal() * .01, again=3., level=1., attack=1., peak=.5) for i in range(n)]
    facts = [dict(folder=f, maker=m, true=m == OURS) for f in ("drums", "loops") for m in (OURS, PLAIN) for _ in range(4)]
    folders = [dict(folder=f, maker=m, cpu=9., copies=m == PLAIN) for f in ("drums", "loops") for m in (OURS, PLAIN)]
    return [pd.DataFrame(t) for t in (rows, facts, folders + [dict(folder="hats", maker=OURS, cpu=7.)])]


def test_what_the_page_says_of_folders_follows_from_the_rows():
    say = folder_estimates(*told(1.), n=200)
    assert (say["folders"], say["folder_closer"], say["folder_clipped"], say["plain_clipped"]) == (2, 1, 0, 24)
    assert (say["folder_level"], say["folder_level_worst"], say["folder_true"], say["plain_true"]) == (2., 7., 8, 0)
    assert (say["folder_copies"], say["plain_copies"], say["folder_facts"]) == (0, 2, 8)
    assert say["noise_over"].lo < .2 < say["noise_over"].hi and say["noise_over"].n == 12
    assert folder_estimates(*told(0.), n=200)["folder_closer"] == 0
    assert np.isnan(folder_estimates(*told(1., noise=False), n=200)["noise_over"])
