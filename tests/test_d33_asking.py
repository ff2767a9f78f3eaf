"What d33 publishes, that its answers follow the rows, that planted differences are found and noise is not; asking, startle, hints and text."
import numpy as np
import pandas as pd
import pytest
import torch

from audioengram.core import CorpusError
from audioengram.discussions import d33_asking as d33
from audioengram.ember.asking import NATS, PLACES, POLICIES, PRICE, WORLDS, choices_of, planted_world
from audioengram.ember.binding import LOOKS, HMini
from audioengram.ember.startle import SPENDING, spent, startle_clip
from audioengram.ember.text import KneserNey, pretrain, python_docs, spoken_nats
from audioengram.ember.told import HINTS, READERS, parted_hints
from audioengram.measure.rules import NO, YES

SPEAKERS = [f"v{i:02d}" for i in range(16)]
CONTROLS = [k for k in d33.ASKED if k.startswith(("here", "nowhere", "nothing"))]


def made(seed, gain):
    "Tables of a made-up experiment in which learned asking, startle and reading are ahead by so much."
    rng = np.random.default_rng(seed)
    base = [dict(seed=s, speaker=v, asked=200) for s in range(5) for v in SPEAKERS]
    def draw(p): return int(rng.binomial(200, p))
    rows = [b | dict(world=w, price=PRICE, policy=p, cost=0., apt=100, right=draw(.7 + gain * (p == "learned" and w == "pays")))
            for b in base for w in WORLDS for p in POLICIES]
    startle = [b | dict(world=w, policy=p, right=draw(.7 + gain * (p == "startle" and w == d33.TELLS)))
               for b in base for w in (d33.TELLS, d33.NOTHING) for p in (*SPENDING, "seven units")]
    told = [b | dict(reader=k, words=w, price=PRICE, policy="learned", cost=0., apt=9, right=draw(.7 + gain * (k != "plain")))
            for b in base for k in READERS for w in ("met", "unheard")]
    texts = [dict(model=m, seed=s, document=f"d{d}", words=100, source="toy", nats=450. - 100 * gain * (m == "network") + 2 * rng.standard_normal())
             for m, n in (("network", 5), *((f"{k}-grams", 1) for k in d33.NGRAMS)) for s in range(n) for d in range(12)]
    return tuple(map(pd.DataFrame, (rows, startle, told, texts)))


@pytest.mark.parametrize("gain,answer", [(.1, YES), (-.1, NO)])
def test_what_is_planted_is_found_and_told(gain, answer):
    table = d33.decisions(*made(0, gain))
    says = table.set_index("hypothesis").says
    assert list(says.index) == list(d33.ASKED) and set(says.drop(CONTROLS)) == {answer} and answer not in set(says[CONTROLS])
    told = d33.sayings(table)
    assert told["lead"].startswith("Asking pays" if answer == YES else "Asking does not pay")
    assert len(told["lead"]) <= 114 and len(told["verdict"].split()) <= 45


@pytest.mark.slow
def test_nineteen_of_twenty():
    found = sum((d33.decisions(*made(seed, .1)).set_index("hypothesis").says == YES).astype(int) for seed in range(20))
    assert (found.drop(CONTROLS) >= 19).all() and (found[CONTROLS] <= 1).all(), found
    noise = pd.concat([d33.decisions(*made(seed, 0.)) for seed in range(100, 120)])
    assert noise.says.isin([YES, NO]).mean() <= .05


def test_smoke_publishes_every_table(smoke):
    result = smoke(d33.NAME)
    rows, startle, told, texts = map(result.table, d33.TABLES)
    assert set(rows.world) == set(WORLDS) and set(rows.policy) == set(POLICIES) and (rows.right <= rows.asked).all()
    shared = rows.groupby(["world", "seed", "policy"]).cost.sum().unstack()
    assert (shared.random == shared.learned).all() and (shared.never == 0).all() and (shared.always == 2 * rows.groupby(["world", "seed", "policy"]).asked.sum().unstack().always).all()
    assert (rows[rows.policy == "knowing"].eval("apt == asked")).all()
    assert set(startle.policy) == {*SPENDING, "seven units"} and set(told.reader) == set(READERS) and set(told.words) == {"met", "unheard"}
    assert set(texts.model) == {"network", *(f"{n}-grams" for n in d33.NGRAMS)} and (texts.nats > 0).all()
    assert set(result.table("planted").kind) <= set(WORLDS)
    assert d33.answers_table(result).count("\n") == len(d33.ASKED) + 1 and d33.policies_table(result).count("\n") == len(WORLDS) * len(POLICIES) + 1


def test_who_foretells_exactly_takes_what_is_needed():
    "At a price that a look is worth, the learned choice is the cheapest look that shows the answer; beyond it, none."
    place = torch.arange(4).repeat(8)
    shown = torch.tensor([[name == p or name == "both" or p == "glance" for name in LOOKS] for p in PLACES])
    exact = torch.where(shown[place], 0., NATS / 2)
    for price in (.05, .2, .3, .6):
        taken = choices_of(exact, place, price, 0)
        assert torch.equal(taken["learned"], taken["knowing"]) and torch.equal(taken["random"].sort().values, taken["learned"].sort().values)
    assert set(choices_of(exact, place, .6, 0)["learned"].tolist()) == {0}


def test_planted_worlds_hide_what_they_say():
    "A line reads the answer from a look that shows it, and from no other."
    for kind, expected in (("pays", (1, 2, 2, 4)), ("here", (4, 4, 4, 4)), ("nowhere", (0, 0, 0, 0))):
        looks, label, table = planted_world(kind, 4000, np.random.default_rng(0))
        for name, quarters in zip(LOOKS, expected, strict=True):
            said = (looks[name][:, 1, 4:] * torch.linspace(-1, 1, 4)).sum(1) > 0
            assert float((said == (label == 1)).float().mean()) == pytest.approx(.5 + quarters / 8, abs=.03), (kind, name)


def test_a_sudden_sound_and_the_same_backwards():
    "Alike in what they hold: the startling stretch has one spectrum in both, and what is asked about does not touch it."
    wav = np.random.default_rng(3).standard_normal(8000)
    def stretch(sudden, hidden): return startle_clip(wav, np.random.default_rng(0), sudden, hidden, 1)[0][1920:3520]
    power = {s: np.abs(np.fft.rfft(stretch(s, True))) for s in (True, False)}
    assert np.corrcoef(power[True], power[False])[0, 1] > .99
    rise = {s: np.square(stretch(s, True)[:400]).sum() / np.square(stretch(s, True)).sum() for s in (True, False)}
    assert rise[True] > .6 > .1 > rise[False]


def test_every_way_spends_what_it_says():
    rng, n = np.random.default_rng(0), 40
    hidden = rng.random(n) < .5
    looks = dict(glance=torch.randn(n, 25, 12), both=torch.randn(n, 25, 12))
    shares = spent(dict(steps=torch.from_numpy(~hidden), looks=torch.from_numpy(hidden)), looks, looks, hidden, 0)
    assert shares["startle"].mean() == pytest.approx(.5, abs=.03) and shares["shuffled"].sum() == shares["startle"].sum()
    assert (shares["even"] == .5).all() and (shares["knowing"] == hidden).all() and shares["steps"].sum() == 0


def test_text_at_hand_and_what_is_missing():
    docs = python_docs("collections")
    assert "collections/__init__.py" in docs and "OrderedDict" in docs["collections/__init__.py"]
    with pytest.raises(CorpusError, match="holds no docstrings"): python_docs("no_such_package")


def test_an_ngram_and_a_network_find_what_recurs():
    "A text that goes round is foretold by both, at no cost in the end; single words cost what they are."
    text = torch.arange(5).repeat(60) + 1
    assert KneserNey([text], 6, 2).nats(text).mean() < .05 < 1.5 < KneserNey([text], 6, 1).nats(text).mean()
    torch.manual_seed(0)
    model = pretrain(HMini(4, dim=16, layers=1, vocabulary=6, ordered=True), [text], 60, 8, 8, lr=2e-2)
    assert spoken_nats(model, text, 8)[4:].mean() < .2


def test_hints_are_parted_anew_by_every_seed():
    seen = [parted_hints(s) for s in range(20)]
    for met, unheard in seen: assert all(sorted(met[p] + unheard[p]) == sorted(HINTS[p]) for p in PLACES)
    assert len({str(met) for met, _ in seen}) > 15
