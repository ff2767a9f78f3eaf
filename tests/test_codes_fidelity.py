"Encoding: at the right level, at the right moment, and nothing else is changed."
import numpy as np
import pytest
import torch
from codes_toy import model

from audioengram.codes import fidelity
from audioengram.codes.fidelity import (
    AttackJudge,
    attack_window,
    centroid_ms,
    encode_at_level,
    encode_closely,
    level_cost,
    mend_attack,
)
from audioengram.codes.model import CodeModel, ModelConfig
from audioengram.codes.quantizer import settle

RATE = 24_000


def hit(at, n=12_000, seed=0):
    "A decaying noise that begins at a sample."
    rng, x = np.random.default_rng(seed), np.zeros(n, np.float32)
    x[at:] = (rng.normal(size=n - at) * np.exp(-np.arange(n - at) / 900)).astype(np.float32) * .2
    return x


@pytest.mark.parametrize("at", [0, 1500, 6000])
def test_a_search_never_makes_the_attack_worse_as_the_judge_hears_it(at):
    wav, m = hit(at), model()
    own = encode_at_level(m, wav)
    mended, judge = mend_attack(m, wav, own), AttackJudge(m, wav)
    grids = torch.from_numpy(np.stack([c[judge.columns, judge.rows] for c in (own, mended)])).long()
    (before, after), _ = judge(grids)
    assert after <= before + 1e-6
    inner = np.arange(len(own))[judge.columns][judge.inner]
    others = np.setdiff1d(np.arange(len(own)), inner)
    assert (mended[others] == own[others]).all() and (mend_attack(m, wav, own) == mended).all()


@pytest.mark.parametrize("late, passes", [(1e9, 1), (-1., 2)])
def test_an_attack_that_stays_late_gets_a_second_search_over_all_its_places(late, passes, monkeypatch):
    wav, m, asked = hit(3000, seed=1), model(), []
    judge, honest = AttackJudge(m, wav), fidelity.exchange_codes
    def watched(judge, z, grid, places, most):
        asked.append((len(places), most, float(judge(grid[None])[0][0])))
        return honest(judge, z, grid, places, most)
    monkeypatch.setattr(fidelity, "exchange_codes", watched)
    monkeypatch.setattr(fidelity, "LATE", late)
    mended = mend_attack(m, wav, encode_at_level(m, wav))
    assert len(asked) == passes and asked[0][0] <= fidelity.PLACES and asked[-1][0] >= asked[0][0]
    assert passes == 1 or asked[1][1] == fidelity.MANY_CODES and asked[1][2] <= asked[0][2] + 1e-6
    grid = torch.from_numpy(mended[judge.columns, judge.rows]).long()
    assert float(judge(grid[None])[0][0]) <= asked[-1][2] + 1e-6


def test_rivals_are_found_where_the_encoder_is_late():
    "A palette of hits at eight moments; the codes of another moment are put in, and the search finds back."
    torch.manual_seed(0)
    m = CodeModel(ModelConfig(width=8, dim=8, size=8, levels=1)).eval()
    hits = [hit(100 + 120 * k) for k in range(8)]
    m.start(torch.from_numpy(np.stack([np.pad(w, (0, 4 * m.config.column)) for w in hits])[:, :12 * m.config.column]))
    settle(m.quantizer, torch.cat([m.vectors(w).reshape(-1, 8) for w in hits]).clone())
    wrong, wav = m.encode(hits[7]), hits[0]
    where = attack_window(wav, RATE)
    off = lambda codes: abs(centroid_ms(m.decode(codes, len(wav)), where, RATE) - centroid_ms(wav, where, RATE))
    assert off(mend_attack(m, wav, wrong)) < .7 * off(wrong)


@pytest.mark.parametrize("wav", [np.zeros(5000, np.float32), hit(0)[:480], hit(0)[:1], hit(11_900)],
                         ids=["silence", "20 ms", "one sample", "at the end"])
def test_odd_sounds_are_encoded(wav):
    codes = encode_closely(model(), wav)
    assert codes.shape == model().encode(wav).shape and np.isfinite(model().decode(codes, len(wav))).all()


def test_both_channels_keep_their_codes_but_for_the_attack():
    m = CodeModel(ModelConfig(channels=2, width=8, dim=4, size=8, levels=2)).eval()
    left = np.stack([hit(2000), np.zeros(12_000, np.float32)], 1)
    m.start(torch.from_numpy(np.stack([hit(k, 8192) for k in range(0, 4000, 500)])))
    settle(m.quantizer, m.vectors(left).reshape(-1, 4).clone())
    own, closer = encode_at_level(m, left), encode_closely(m, left)
    judge = AttackJudge(m, left)
    quiet = np.setdiff1d(np.arange(m.config.grid_bands), np.arange(m.config.grid_bands)[judge.rows])
    assert closer.shape == own.shape and (closer[:, quiet] == own[:, quiet]).all()


def test_what_a_wrong_level_is_worth():
    assert level_cost(0) == 0 and level_cost(-2) == level_cost(2) == pytest.approx(.2)
    assert level_cost(13) == pytest.approx(1.3 + 5.) and level_cost(4) > level_cost(3)
