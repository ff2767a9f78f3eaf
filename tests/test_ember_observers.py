"Fine tasks and who can solve them: closed-form observers of the waveform, classifiers of words, log-mel at several hops; ablations take away what they say."
import numpy as np
import pytest
import torch

from audioengram.core import ParameterError
from audioengram.data.voices import synthesise
from audioengram.ember.fine import FINE, pair_maker, pitch_and_colour
from audioengram.ember.observers import (
    FRONTS,
    Front,
    answers,
    folded,
    observe,
    seen,
    spectrogram,
    texture,
    train_listener,
)
from audioengram.ember.tasks import ablate, excerpt, make_pairs

LOST = dict(clicks="phase", dips="phase", curve="phase", ears="phase", pulses="phase", partials="phase")


@pytest.fixture(scope="module")
def voices(): return [excerpt(synthesise(1.2, seed=s, pitch=p).astype(np.float32)) for s, p in ((3, 130), (4, 180), (5, 105))]


def statistics(task, voices, change=lambda c, i: c, n=18):
    "[n,2]: the observer's number for either class."
    found = []
    for i in range(n):
        pair = pair_maker(task)(voices[i % len(voices)], np.random.default_rng(i))
        found.append(seen(task, [change(c, 2 * i + k) for k, c in enumerate(pair)])[:, 0])
    return np.array(found)


@pytest.mark.parametrize("task", FINE)
def test_the_waveform_tells_and_pairs_share_all_else(task, voices):
    a, b = pair_maker(task)(voices[0], np.random.default_rng(5))
    again = pair_maker(task)(voices[0], np.random.default_rng(5))
    assert np.array_equal(a, again[0]) and np.array_equal(b, again[1]) and not np.array_equal(a, b)
    assert np.sqrt(np.mean(a**2)) == pytest.approx(np.sqrt(np.mean(b**2)), rel=.01)
    found = statistics(task, voices)
    middle = np.median(found)
    assert np.mean([found[:, 0] > middle, found[:, 1] <= middle]) >= .9


@pytest.mark.parametrize("task", LOST)
def test_random_phases_take_the_answer_from_the_observer(task, voices):
    found = statistics(task, voices, lambda c, i: ablate(c, "phase", i))
    middle = np.median(found)
    assert np.mean([found[:, 0] > middle, found[:, 1] <= middle]) < .75


def test_a_pitch_is_brought_into_its_octave(voices):
    assert all(110 <= pitch_and_colour(v)[0] <= 220 for v in voices)
    with pytest.raises(ParameterError, match="unknown task"): pair_maker("x")
    with pytest.raises(ParameterError, match="nobody"): seen("x", [])


def test_log_mel_hears_what_frames_hold_and_not_the_curve():
    "The trained observer is one: it learns a coarse change at any hop."
    rng = np.random.default_rng(0)
    clips = rng.standard_normal((120, 4000)).astype(np.float32) * .05
    labels = np.tile([0, 1], 60)
    clips[labels == 1, 2000:] *= 2
    held = np.arange(120) >= 80
    said = observe("dips", clips, labels, held, FRONTS[:2], epochs=6)
    assert all(np.mean(v == labels[held]) > .9 for k, v in said.items() if "mel" in k) and len(said) == 5
    table = answers(said, labels[held], np.repeat(["a", "b"], 20))
    assert table.asked.eq(20).all() and set(table.observer) == set(said)


def test_two_ears_are_bands_below_each_other():
    x = torch.randn(3, 2, 4000)
    both, one = spectrogram(x, Front(160, 400, 12)), spectrogram(x[:, 1], Front(160, 400, 12))
    assert both.shape[1] == 24 and torch.allclose(both[:, 12:], one) and texture(one).shape == (3, 59)
    assert set(train_listener(one, torch.tensor([0, 1, 0]), one, 1)) <= {0, 1}


def test_folds_keep_groups_apart():
    "A feature that only names the group teaches nothing about other groups."
    groups = np.repeat(np.arange(10), 8)
    labels = (groups * 7 + np.arange(80) % 2) % 2
    assert np.mean(folded(groups[:, None] + 0., labels, groups) == labels) < .7


def test_utterances_serve_again_with_other_draws():
    from audioengram.data.corpora import get_corpus
    corpus = get_corpus("synthetic", n_speakers=3, n_utterances=1, seconds=.8, show=False)
    clips, table, tried = make_pairs(corpus, corpus.utterances.utterance_id, pair_maker("ears"), 7, seconds=.3, rounds=3)
    assert clips.shape == (14, 2, 4800) and tried == 7 and table.speaker.nunique() == 3 and len(np.unique(clips[:, 0, 100])) == 14
