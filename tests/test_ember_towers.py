"Towers in a file and the long training; readers that learn until they have learned."
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from audioengram.core import CorpusError, ModelFileError
from audioengram.discussions.d32_sensing import Recipe
from audioengram.ember import towers
from audioengram.ember.learning import learner
from audioengram.ember.prices import reader_of
from audioengram.ember.reader import Sense
from audioengram.ember.senses import teaching_of
from audioengram.ember.spikes import SpikingEncoder
from audioengram.ember.teaching import CHANCE, Teaching, begun, deep_loss, recent, taught
from audioengram.ember.tower_file import SHIPPED_TOWER, load_tower, save_tower
from audioengram.options import frozen

SHAPE = dict(channels=4, dim=16, patch=20, layers=1, filters=8)


@pytest.fixture
def written(tmp_path):
    torch.manual_seed(0)
    encoder = SpikingEncoder(4)
    encoder.log_gain.data.copy_(torch.randn(4))
    model = learner("contrast", 0, **SHAPE).eval()
    about = dict(tower=SHAPE, sources=[dict(speakers=["a"], hours=.1)], curve=[dict(update=1)])
    return model, encoder, save_tower(model, encoder, tmp_path / "t.safetensors", about)


def test_a_tower_comes_back_with_its_ear(written):
    model, encoder, file = written
    back, grids = load_tower(file), torch.rand(3, 4, 100)
    assert torch.equal(back.encoder.log_gain, encoder.log_gain)
    assert torch.allclose(back.model.embed(grids), model.embed(grids), atol=2e-2)
    assert back.about["sources"][0]["speakers"] == ["a"] and not back.encoder.log_gain.requires_grad
    with safe_open(file, "pt") as f: assert {f.get_tensor(k).dtype for k in f.keys()} == {torch.float16, torch.float32}


@pytest.mark.parametrize("spoil,match", [
    (lambda f: f.unlink(), "no such file"),
    (lambda f: f.write_bytes(f.read_bytes()[:200]), "damaged"),
    (lambda f: save_file({"x": torch.zeros(2)}, f), "does not hold a tower"),
    (lambda f: save_file({"tower.x": torch.full((2,), torch.nan)}, f, {"format": "audioengram-tower-1", "about": "{}"}), "not finite"),
    (lambda f: save_file({"tower.x": torch.zeros(2)}, f, {"format": "audioengram-tower-1", "about": json.dumps(dict(tower=SHAPE))}), "does not fit its own card"),
])
def test_a_spoilt_tower_is_refused(written, spoil, match):
    spoil(written[2])
    with pytest.raises(ModelFileError, match=match): load_tower(written[2])


def test_what_is_shipped_is_what_the_page_asks_for():
    "One and a half megabytes at most, the shape and the number of updates of the recipe, and nobody of the page's unheard speakers."
    how, kept = Recipe.of("quick"), load_tower()
    assert SHIPPED_TOWER.stat().st_size <= 1.5e6
    assert {k: kept.about["tower"][k] for k in how.long_tower} == how.long_tower and kept.about["tower"]["channels"] == how.channels
    assert (kept.about["rule"], kept.about["updates"], kept.about["rate"]) == (how.long_rule, how.long_updates, how.lead_rate)
    curve = kept.about["curve"]
    assert curve[-1]["update"] == how.long_updates and curve[-1]["cpu_seconds"] >= 1500 and min(p["share"] for p in curve) > 0
    assert sum(s["hours"] for s in kept.about["sources"]) > 1.5 and kept.encoder.log_gain.isfinite().all()


def test_heard_speakers_are_not_asked(monkeypatch, written):
    "A tower that has heard all speakers but one of a corpus cannot be asked about it."
    how = Recipe.of("smoke", seed=3)
    asked = towers.speech_of("synthetic").split(how.held, how.seed).eval
    kept = load_tower()
    kept.about["sources"] = [dict(speakers=list(asked)[1:], hours=1.)]
    monkeypatch.setattr(towers, "load_tower", lambda: kept)
    with pytest.raises(CorpusError, match="has heard the speakers"): towers.measure_probes(f"{towers.LONG}:{towers.SHIPPED}", 0, how)
    assert len(asked) > 2 and frozen(how)


def toy(n=240, shown=1.5):
    rng, y = np.random.default_rng(0), np.tile([0, 1], n // 2)
    x = torch.from_numpy(rng.standard_normal((n, 2, 25)).astype(np.float32))
    x[:, 0, :5] += shown * (2. * torch.tensor(y)[:, None] - 1)
    return x, y, np.arange(n) // 8, np.arange(n) < n * 2 // 3


def make(seed):
    torch.manual_seed(seed)
    return reader_of(2, Sense("toy", 1), parameters=6000, dim=16)


def test_a_start_that_stays_at_chance_is_given_up():
    "The first two readers are dumb, the third learns; noise uses up all starts, and the one with the lowest loss goes on."
    x, y, speakers, fit = toy()
    made = []
    def some(seed):
        made.append(make(seed))
        if len(made) < 3:
            made[-1].answer.weight.data.zero_()
            made[-1].answer.requires_grad_(False)
        return made[-1]
    how = Teaching(cap=60, trial=25, patience=25, warm=5, lr=4e-3)
    found = taught(some, x, y, speakers, fit, how)
    assert found.starts == 3 and found.learned and (found.said == y[~fit]).mean() > .9
    x, y, speakers, fit = toy(shown=0.)
    run, starts = begun(make, x, torch.as_tensor(y), torch.arange(160), Teaching(cap=20, trial=10, left=.5), 0)
    assert starts == 3 and recent(run.losses) > .5 * CHANCE


def test_the_unheard_decide_nothing():
    "Other labels of the test leave every answer as it was."
    x, y, speakers, fit = toy()
    how = Teaching(cap=40, trial=20, patience=30, warm=5)
    assert (taught(make, x, y, speakers, fit, how).said == taught(make, x, np.where(fit, y, 1 - y), speakers, fit, how).said).all()


def test_depth_is_supervised_at_every_step():
    reader, x, y = make(0), torch.randn(6, 2, 25), torch.tensor([0, 1] * 3)
    logits = reader(x, steps=2)[0]
    assert deep_loss(reader, x, y, 2).item() == pytest.approx(torch.stack([torch.nn.functional.cross_entropy(k, y) for k in logits]).mean().item(), abs=1e-5)


def test_the_page_teaches_by_its_recipe():
    how = teaching_of(Recipe.of("quick"))
    assert how.trial < how.cap and how.patience < how.cap and how.starts >= 2
