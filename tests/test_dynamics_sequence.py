"The sequence model: cached equals whole, packed equals alone, noise in training only, a resumed run equals a whole one."
import json
import signal
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributions import Independent, Normal

from audioengram.core import AudioError, ModelFileError, ParameterError, TrainingError
from audioengram.dynamics.committee import SequenceCommittee
from audioengram.dynamics.gap import measure_gap
from audioengram.dynamics.generate import Sampling, continue_latents, prompt_latents
from audioengram.dynamics.injection import Switching
from audioengram.dynamics.rollout import check_stability, rollout
from audioengram.dynamics.sequence import SEQUENCE_HEADS, SequenceConfig, SequenceModel, block_reaches
from audioengram.dynamics.sequence_data import Packer, Sequences, set_aside
from audioengram.dynamics.sequence_file import SHIPPED_SEQUENCE, load_sequence, save_sequence
from audioengram.dynamics.sequence_score import frame_scores
from audioengram.dynamics.sequence_train import (
    RECIPES,
    SequenceRecipe,
    SequenceTrainer,
    average_into,
    batch_conditions,
    batch_loss,
    noised,
    read_recipe,
)

TINY = SequenceConfig(dim=3, width=16, layers=3, heads=2, hidden=24, context=12, components=2, head_width=16,
                      head_layers=1)
VARIANTS = {
    "plain": TINY,
    "one frame": replace(TINY, context=1),
    "short context": replace(TINY, short=2, short_frames=5),
    "voice": replace(TINY, conditions=(("voice", 6), ("channel", 2)), anchor="prompt"),
    "sink": replace(TINY, anchor="sink", sinks=3),
    "sink and short context": replace(TINY, anchor="sink", short=1, short_frames=4)}


def rough(config, seed=0):
    "A model with units and with a head that does not ignore its features."
    g = torch.Generator().manual_seed(seed)
    model = SequenceModel(config).set_units(torch.randn(400, config.dim, generator=g) * 2 + 1,
                                            {n: torch.randn(30, s, generator=g) for n, s in config.conditions})
    for p in model.head.parameters():
        if p.ndim == 2 and not p.any(): nn.init.normal_(p, std=.1, generator=g)
    return model.eval()


def walks(n, speakers, seed=0, dim=3):
    "Utterances that follow a slow walk, of which a marginal knows nothing."
    g = np.random.default_rng(seed)
    frames = g.integers(25, 60, n)
    parts = []
    for length in frames:
        z = torch.zeros(int(length), dim)
        for t in range(length): z[t] = (.95 * z[t - 1] if t else 0.) + .3 * torch.from_numpy(g.normal(size=dim)).float()
        parts.append(z)
    who = np.array([f"s{i % speakers}" for i in range(n)])
    return Sequences(torch.cat(parts), frames, who, who)


def told(config, rows):
    return {n: torch.randn(rows, s, generator=torch.Generator().manual_seed(5)) for n, s in config.conditions}


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_cached_equals_the_full_pass_at_every_step(name):
    model = rough(VARIANTS[name])
    z = torch.randn(2, 400, 3, generator=torch.Generator().manual_seed(1)) * 2 + 1
    before, begin = torch.cat([torch.zeros(2, 1, 3), z[:, :-1]], 1), (torch.arange(400) == 0).expand(2, 400)
    whole = model.read(before, begin, conditions=told(model.config, 2))
    run = model.begin(told(model.config, 2))
    steps = torch.stack([model.step(run, z[:, t - 1] if t else None, 2) for t in range(400)], 1)
    assert (steps - whole).abs().max() < 1e-5
    kept = [held["k"].shape[2] for tower in run.kept for held in tower]
    # a run keeps no more than its context
    assert sum(k - 1 for k in kept) <= model.config.context - 1 + model.config.short_frames - 1


@torch.no_grad()
@pytest.mark.parametrize("name", ["plain", "one frame", "short context", "voice"])
def test_a_density_depends_on_its_context_and_on_nothing_before(name):
    model = rough(VARIANTS[name])
    C, z = model.config.context, torch.randn(1, 60, 3)
    at = lambda x: model.read(x, conditions=told(model.config, 1))[:, -1]
    inside, outside = z.clone(), z.clone()
    inside[:, 60 - C] += 3.
    outside[:, :60 - C] += 3.
    assert torch.equal(at(outside), at(z)) and not torch.allclose(at(inside), at(z))
    assert torch.allclose(model(z).log_prob(z[:, 0]), model(z[:, -C:]).log_prob(z[:, 0]), atol=1e-4)


def committee():
    "Two unlike members, each with units and latents of its own."
    voice = dict(conditions=(("voice", 6),), anchor="prompt")
    return SequenceCommittee([rough(replace(TINY, **voice)),
                              rough(replace(TINY, head="factored", width=20, layers=2, seed=1, **voice), 1)])


@torch.no_grad()
def test_a_committee_is_the_mean_of_its_members_in_one_pass_and_in_cached_steps():
    both = committee()
    z = torch.randn(2, 400, 3, generator=torch.Generator().manual_seed(1)) * 2 + 1
    before, begin = torch.cat([torch.zeros(2, 1, 3), z[:, :-1]], 1), (torch.arange(400) == 0).expand(2, 400)
    voice = told(both.config, 2)
    whole, run = both.read(before, begin, conditions=voice), both.begin(voice)
    steps = torch.stack([both.step(run, z[:, t - 1] if t else None, 2) for t in range(400)], 1)
    assert (steps - whole).abs().max() < 1e-5 and run.seen == 400
    alone = torch.stack([m.density(m.read(before, begin, conditions=voice).flatten(0, 1)).log_prob(z.flatten(0, 1))
                         for m in both.members])
    mixed = both.density(whole.flatten(0, 1)).log_prob(z.flatten(0, 1))
    assert torch.allclose(mixed, alone.double().exp().mean(0).log().float(), atol=1e-3)
    assert (mixed - alone.mean(0)).min() > -1e-3 and (alone[0] - alone[1]).abs().mean() > .1
    twice = SequenceCommittee([both.members[0]] * 2)
    assert torch.allclose(twice(z).log_prob(z[:, 0]), both.members[0](z).log_prob(z[:, 0]), atol=1e-4)


@torch.no_grad()
def test_a_committee_is_used_as_any_model_is(tmp_path):
    both, data = committee(), walks(6, 2)
    scores = frame_scores(both, data, draws=4, white=torch.eye(3))
    apart = [frame_scores(m, data).logp for m in both.members]
    assert np.allclose(scores.logp, np.logaddexp(*apart) - np.log(2), atol=1e-3) and scores.energy.notna().all()
    assert rollout(both, torch.randn(4, 12, 3), 5, particles=2).frames.shape == (4, 2, 5, 3)
    prompt, how = torch.randn(2, 20, 3), Sampling(seed=3, guidance=1.5, noise=.05)
    free = continue_latents(both, prompt, 30, how)
    assert free.isfinite().all() and torch.equal(free, continue_latents(both, prompt, 30, how))
    save_sequence(both, tmp_path / "b.safetensors", dict(codec="toy", codec_fingerprint="abc"))
    again = load_sequence(tmp_path / "b.safetensors")
    assert [m.config for m in again.members] == [m.config for m in both.members]
    assert again.fingerprint == load_sequence(tmp_path / "b.safetensors").fingerprint != both.fingerprint
    assert np.allclose(frame_scores(again, data).logp, scores.logp, atol=.05)       # matrices in half precision


def test_members_that_read_differently_are_no_committee():
    one = rough(TINY)
    for other, say in ((rough(replace(TINY, context=4)), "the same context"), (rough(VARIANTS["voice"]), "the same"),
                       (rough(replace(TINY, head="energy")), "no density")):
        with pytest.raises(ParameterError, match=say): SequenceCommittee([one, other])
    with pytest.raises(ParameterError, match="at least two"): SequenceCommittee([one])


@torch.no_grad()
@pytest.mark.parametrize("head", SEQUENCE_HEADS)
def test_no_frame_is_longer_than_the_longest_that_was_learned(head):
    model, prompt = rough(replace(TINY, head=head)), torch.randn(3, 12, 3)
    free = continue_latents(model, prompt, 60).norm(dim=2)
    bound = float(free.flatten().quantile(.8))
    model.about = dict(longest=bound)
    held = continue_latents(model, prompt, 60)
    assert held.norm(dim=2).max() <= bound * (1 + 1e-6) < free.max()
    assert torch.equal(continue_latents(model, prompt, 60, Sampling(longest=float("inf"))).norm(dim=2), free)
    model.about = dict(longest=float(free.max()) * 1.01)                            # a bound that is not met
    assert torch.equal(continue_latents(model, prompt, 60).norm(dim=2), free)


def test_blocks_share_the_context_exactly():
    for layers in (1, 3, 4, 8):
        for context in (1, 2, 8, 64, 128): assert 1 + sum(r - 1 for r in block_reaches(context, layers)) == context


@torch.no_grad()
def test_packed_rows_do_not_leak_and_read_as_alone():
    data, model = walks(40, 8), rough(replace(TINY, conditions=(("voice", 6),), short=1))
    batch = Packer(data, rows=3, length=128, seed=3).batch(0)
    before, conditions = data.z[(batch.index - 1).clamp(min=0)], batch_conditions(model, data, batch)
    whole = model.read(before, batch.begin, batch.segment, conditions)
    for row in range(3):
        for piece in range(int(batch.segment[row].max()) + 1):
            at = batch.segment[row] == piece
            alone = model.read(before[row:row + 1, at], batch.begin[row:row + 1, at],
                               conditions={k: v[row:row + 1, at] for k, v in conditions.items()})
            assert (alone[0] - whole[row, at]).abs().max() < 1e-5
    assert (batch.segment.max(1).values > 0).all()


def test_speakers_are_drawn_by_the_root_of_their_speech():
    rng = np.random.default_rng(0)
    frames = np.concatenate([rng.integers(20, 250, 90), rng.integers(20, 250, 10)])
    who = np.array(["much"] * 90 + ["little"] * 10)
    packer = Packer(Sequences(torch.randn(frames.sum(), 2), frames, who, who), rows=64)
    share = np.mean([(who[packer.batch(i).utterance] == "much").mean() for i in range(20)])
    roots = [frames[who == w].sum()**.5 for w in ("much", "little")]
    assert share == pytest.approx(roots[0] / sum(roots), abs=.03)
    assert share < frames[:90].sum() / frames.sum() - .1


def test_noise_is_in_training_only():
    data = walks(20, 4)
    noisy = rough(replace(TINY, k_max=1.))
    batch, g = Packer(data, rows=2).batch(0), lambda s: torch.Generator().manual_seed(s)
    with torch.no_grad():
        a, b, c = (batch_loss(noisy, data, batch, g(s)) for s in (0, 0, 1))
        assert torch.equal(a, b) and not torch.equal(a, c)
        clean = rough(TINY)
        clean.load_state_dict(noisy.state_dict())
        for mode in (True, False):     # scoring and reading are the clean model's, in training mode as well
            noisy.train(mode)
            assert torch.equal(noisy.read(data.z[None, :50]), clean.read(data.z[None, :50]))
            assert np.array_equal(frame_scores(noisy, data).logp, frame_scores(clean, data).logp)
    x = noised(torch.randn(100_000, 2, generator=g(0)), .8, g(1))
    assert x.std().item() == pytest.approx(1., abs=.01)
    mixed = noised(torch.full((100_000, 1), 1e5), .8, g(1)) / 1e5
    # E sqrt(1-k), k ~ U(0, .8)
    assert mixed.min() > .2**.5 - 1e-3 and mixed.mean() == pytest.approx(float((2 / 3) * (1 - .2**1.5) / .8), abs=.01)


def test_a_noised_history_leaves_the_short_context_clean():
    model = rough(replace(TINY, short=1))
    x, other = torch.randn(1, 30, 3), torch.randn(1, 30, 3)
    with torch.no_grad(): a, b = model.read(x), model.read(x, history=other)
    assert not torch.allclose(a[..., :16], b[..., :16]) and torch.equal(a[..., 16:], b[..., 16:])


def test_the_average_follows_as_stated():
    torch.manual_seed(0)
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    start = a.weight.detach().clone()
    average_into(a, b, 0, .999)
    assert torch.allclose(a.weight, .1 * start + .9 * b.weight)
    start = a.weight.detach().clone()
    average_into(a, b, 10**6, .999)
    assert torch.allclose(a.weight, .999 * start + .001 * b.weight, atol=1e-6)


RECIPE = SequenceRecipe(replace(TINY, k_max=.2, dropout=.1, conditions=(("voice", 6),)), steps=30, rows=4, length=64,
                        warmup=5, rate=1e-2, validate_every=10, save_every=10, average=.9)
QUIET = dict(say=lambda line: None)


@pytest.mark.parametrize("recipe",
                         [RECIPE, replace(RECIPE, matrix_rate=2e-2),
                          replace(RECIPE, model=replace(RECIPE.model, head="energy"))], ids=["AdamW", "Muon",
                                                                                             "a sampler"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, recipe):
    train, valid = walks(40, 8), walks(10, 3, seed=1)
    whole = SequenceTrainer(recipe, train, valid, tmp_path / "whole").run(**QUIET)
    lines = []
    def stop(line):
        lines.append(line)
        if line.startswith("step 10/"): signal.raise_signal(signal.SIGINT)        # Ctrl-C
    first = SequenceTrainer(recipe, train, valid, tmp_path / "parts").run(say=stop)
    assert first.interrupted and first.step == 10 and "goes on from there" in lines[-1]
    second = SequenceTrainer(recipe, train, valid, tmp_path / "parts")
    assert second.step == 10
    second.run(**QUIET)
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True): assert torch.equal(a, b)
    for a, b in zip(whole.best_model().parameters(), second.best_model().parameters(), strict=True):
        assert torch.equal(a, b)
    score = lambda curve: [{k: v for k, v in r.items() if k not in ("seconds", "train")} for r in curve]
    assert score(whole.curve) == score(second.curve) and whole.curve[-1]["energy"] < whole.curve[0]["energy"]
    card = load_sequence(second.export(codec="toy", codec_fingerprint="f")).about
    assert card["scores"]["energy"] == min(r["energy"] for r in card["curve"])
    assert card["train_speakers"] == sorted(set(train.speaker))


def test_a_folder_of_another_run_is_refused(tmp_path):
    train, valid = walks(40, 8), walks(10, 3, seed=1)
    SequenceTrainer(RECIPE, train, valid, tmp_path)._save(0.)
    with pytest.raises(TrainingError, match="another recipe"):
        SequenceTrainer(replace(RECIPE, seed=1), train, valid, tmp_path)
    with pytest.raises(TrainingError, match="other latents"):
        SequenceTrainer(RECIPE, walks(40, 8, seed=2), valid, tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"half")
    with pytest.raises(ModelFileError, match="damaged"): SequenceTrainer(RECIPE, train, valid, tmp_path)
    with pytest.raises(TrainingError, match="codecs"):
        a, b = walks(10, 3), walks(10, 3)
        a.about, b.about = [dict(codec_fingerprint="a")], [dict(codec_fingerprint="b")]
        SequenceTrainer(RECIPE, a, b, tmp_path / "new")


def test_divergence_is_an_error(tmp_path):
    trainer = SequenceTrainer(RECIPE, walks(40, 8), walks(10, 3, seed=1), tmp_path)
    trainer.train.z[:] = torch.nan
    with pytest.raises(TrainingError, match="diverged at step 0"): trainer.one()


def test_it_is_a_predictor_for_the_gap_and_for_free_runs(tmp_path):
    truth, how = Switching(), SimpleNamespace(length=6, steps=3, segments=24, particles=8, seed=0)
    z = truth.paths(40, 60, seed=0)
    store = ToyStore(z)
    split = SimpleNamespace(**{f"{k}_utterances": ids for k,
                               ids in (("train", store.ids[:20]), ("valid", store.ids[20:30]),
                                       ("eval", store.ids[30:]))})
    data = Sequences(z[:20].flatten(0, 1), np.full(20, 60), np.array(store.ids[:20]), np.array(store.ids[:20]))
    valid = Sequences(z[20:30].flatten(0, 1), np.full(10, 60), np.array(store.ids[20:30]), np.array(store.ids[20:30]))
    recipe = SequenceRecipe(SequenceConfig(dim=1, width=32, layers=1, heads=2, hidden=48, context=1, components=4),
                            steps=150, rows=8, rate=1e-2, warmup=10, validate_every=50, average=.95)
    model = SequenceTrainer(recipe, data, valid, tmp_path).run(**QUIET).best_model()
    marginal = lambda c: Independent(Normal(torch.zeros(len(c), 1) + z.mean(), z.std()), 1)
    lags = {s: replace(truth, lag=s) for s in (2, 3)}
    sums, exact = (measure_gap(m, lags, store, split, how, baseline=marginal) for m in (model, truth))
    mean = lambda s, c: s[c].sum() / s.segments.sum()
    # most of what the true law gains one step ahead
    assert mean(sums, "base") - mean(sums, "A") > .8 * (mean(exact, "base") - mean(exact, "A")) > 0
    hold = check_stability(model, z[30:, :6], steps=500)
    assert hold["finite"] and .5 < hold["last"] / hold["first"] < 2
    assert rollout(model, z[30:, :6], 4, particles=3).frames.shape == (10, 3, 4, 1)


class ToyStore:
    "Equal utterances, [U,T,D], as windows by index."
    def __init__(self, z): self.z, self.ids = z, [f"u{i:02d}" for i in range(len(z))]
    def windows(self, ids, length, lag=1): return ToyWindows(self, [self.ids.index(i) for i in ids], length, lag)


class ToyWindows:
    def __init__(self, store, rows, length, lag):
        self.z, self.length, self.lag = store.z[rows], length, lag
        starts = self.z.shape[1] - length - lag + 1
        self.row, self.start = (torch.as_tensor(x) for x in np.divmod(np.arange(len(rows) * starts), starts))
        self.speaker, self.speakers = self.row.numpy(), np.array([store.ids[r] for r in rows])
    def __len__(self): return len(self.row)
    def _take(self, idx, first, n):
        return self.z[self.row[idx][:, None], self.start[idx][:, None] + first + torch.arange(n)]
    def contexts(self, idx): return self._take(idx, 0, self.length)
    def targets(self, idx): return self._take(idx, self.length + self.lag - 1, 1)[:, 0]


@pytest.mark.parametrize("head", SEQUENCE_HEADS)
def test_every_head_rolls_out_and_only_densities_have_scores(head):
    model = rough(replace(TINY, head=head))
    context = torch.randn(4, 12, 3)
    run = rollout(model, context, 5, particles=2, temperature=.8)
    assert run.frames.shape == (4, 2, 5, 3) and run.frames.isfinite().all()
    if head in ("mixture", "factored"): assert model(context).log_prob(context[:, 0]).shape == (4,)
    else:
        with pytest.raises(ParameterError, match="no density"): model(context).log_prob(context[:, 0])
        scores = frame_scores(model, walks(6, 2), draws=4, white=torch.eye(3))
        assert scores.logp.isna().all() and scores.energy.notna().all()


@torch.no_grad()
def test_guidance_moves_features_and_needs_a_condition():
    model, prompt = rough(replace(TINY, conditions=(("voice", 6),))), torch.randn(2, 20, 3)
    one, two, zero = (continue_latents(model, prompt, 6, Sampling(guidance=g)) for g in (1., 2., 0.))
    assert not torch.equal(one, two)
    assert torch.allclose(zero, continue_latents(model, prompt, 6, conditions={"voice": torch.full((2, 6), torch.nan)}),
                          atol=1e-4)
    with pytest.raises(ParameterError, match="this model has none"):
        continue_latents(rough(TINY), prompt, 2, Sampling(guidance=2.))
    with pytest.raises(ParameterError, match="too short to tell a voice"):
        continue_latents(model, prompt[:, :3], 2, Sampling(guidance=2.))
    with pytest.raises(ParameterError, match="no condition 'mood'"):
        continue_latents(model, prompt, 2, conditions={"mood": torch.zeros(2, 1)})


@pytest.mark.parametrize("bad,text", [
    (dict(head="oracle"), "unknown head"), (dict(anchor="rope"), "unknown anchor"), (dict(anchor="prompt"),
                                                                                     "voice"), (dict(width=20, heads=6),
                                                                                                "rotary"),
    (dict(k_max=2.), "k_max"), (dict(context=0), "whole numbers"), (dict(drop=1.), "drop")])
def test_impossible_configurations_are_refused(bad, text):
    with pytest.raises(ParameterError, match=text): replace(TINY, **bad)


def test_impossible_samplings_are_refused():
    for bad in (dict(temperature=-1.), dict(temperature=float("nan")), dict(guidance=float("inf")), dict(noise=2.),
                dict(longest=0.)):
        with pytest.raises(ParameterError): Sampling(**bad)


def test_recipes_are_read_and_unknown_settings_refused(tmp_path):
    assert all(read_recipe(name) is recipe for name, recipe in RECIPES.items())
    (tmp_path / "r.json").write_text(json.dumps(dict(recipe="small",
                                                     model=dict(conditions=[["voice", 128]], anchor="prompt"), rate=1)))
    assert read_recipe(tmp_path / "r.json").model.sizes == {"voice": 128}
    for text, say in (('{"stepps": 1}', "unknown setting"), ('{"steps": "many"}', "must be int"),
                      ('{"recipe": "x"}', "unknown recipe"), ("{", "cannot be read")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ParameterError, match=say): read_recipe(tmp_path / "bad.json")


def test_model_files_are_checked_from_the_first_byte(tmp_path):
    model, file = rough(TINY), tmp_path / "m.safetensors"
    save_sequence(model, file, dict(codec="toy", codec_fingerprint="abc"))
    toy, other = SimpleNamespace(name="toy", fingerprint="abc"), SimpleNamespace(name="other", fingerprint="xyz")
    assert load_sequence(file, toy).config == TINY
    with pytest.raises(ModelFileError, match="not of this other"): load_sequence(file, other)
    with pytest.raises(ModelFileError, match="no such file"): load_sequence(tmp_path / "none.safetensors")
    for broken in (file.read_bytes()[:-9], b"\x80\x04pickle", b""):
        (tmp_path / "b.safetensors").write_bytes(broken)
        with pytest.raises(ModelFileError, match="damaged"): load_sequence(tmp_path / "b.safetensors")
    text = {"format": "audioengram-sequence-1", "config": json.dumps(asdict(replace(TINY, width=32))), "about": "{}"}
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "c.safetensors", text)
    with pytest.raises(ModelFileError, match="does not fit its own configuration"):
        load_sequence(tmp_path / "c.safetensors")
    text["config"] = json.dumps(asdict(TINY))
    save_file({k: torch.full_like(v, torch.nan).contiguous() for k, v in model.state_dict().items()},
              tmp_path / "n.safetensors", text)
    with pytest.raises(ModelFileError, match="not finite"): load_sequence(tmp_path / "n.safetensors")


def test_prompts_that_nobody_can_continue():
    codec = SimpleNamespace(name="toy", sample_rate=1000, frame_rate=10., frames=lambda n: n // 100)
    for wav, say in ((np.full(50, .1), "shorter than a frame"), (np.zeros(3000), "silence"),
                     (np.full(3000, np.nan), "NaN"), (np.zeros(0), "shorter than a frame")):
        with pytest.raises(AudioError, match=say): prompt_latents(wav, 1000, codec, "a.wav")


def test_speakers_set_aside_are_few_and_small():
    speaker = np.repeat([f"s{i}" for i in range(30)] + ["star"], [4] * 30 + [90])
    aside = set_aside(speaker, np.full(len(speaker), 50))
    assert "star" not in speaker[aside] and 1 <= len(set(speaker[aside])) <= 3
    with pytest.raises(TrainingError, match="cannot be divided"): set_aside(np.array(["a"]), np.array([9]))


@pytest.mark.skipif(not SHIPPED_SEQUENCE.is_file(), reason="the shipped model is not here")
def test_the_shipped_model_is_small_honest_and_of_the_default_codec():
    from audioengram.codecs import get_codec
    codec = get_codec("nano")
    model = load_sequence(codec=codec)
    made = [RECIPES[name].model for name in ("shipped", "shipped-beside")]
    assert SHIPPED_SEQUENCE.stat().st_size < 10e6 and [m.config for m in model.members] == made
    assert model.n_parameters <= 5e6
    scores = [m["scores"]["nats"] for m in model.about["members"]]
    assert min(scores) > model.about["members"][0]["marginal"]["nats"] + 8
    assert model.about["scores"]["nats"] > max(scores)
    assert not set(model.about["train_speakers"]) & set(model.about["valid_speakers"])
    # nobody whom the codec holds out
    assert set(model.about["train_speakers"]) | set(model.about["valid_speakers"]) <= codec.heard
