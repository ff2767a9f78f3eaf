"Archetypes: planted mixtures are found with their number and centres, a linear process has none by any test, and each null keeps what it says."
import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from audioengram.core import ParameterError
from audioengram.dynamics.archetypes import (
    closest_null,
    excess,
    mixture_table,
    over_ellipse,
    pick_size,
    random_groups,
    tightness_table,
)
from audioengram.dynamics.clusters import assign, spherical_kmeans, tightness, utilisation
from audioengram.dynamics.membership import (
    bigram_information,
    direction_code,
    meaning,
    membership_table,
    state_effect,
    transfer_table,
)
from audioengram.dynamics.nulls import NULLS, elliptic_log_prob, fit_linear, fit_nulls, imitate, scatter_of, simulate
from audioengram.dynamics.steps import Frames, near_zero, steps_of
from audioengram.heads.bessel import log_sphere_area
from audioengram.heads.vmf import VonMisesFisher

K, D = 7, 16


def centres():
    "Planted archetypes, alike for training and held-out speakers: a simplex turned at random, so that shocks have mean zero and no archetype is another's opposite."
    simplex = torch.nn.functional.normalize(torch.eye(K) - 1 / K, dim=1)
    return simplex @ torch.linalg.qr(torch.randn(D, K, generator=torch.Generator().manual_seed(3)))[0].T


def process(archetypes: bool, n=72, T=50, seed=1):
    "A linear process with a dense matrix; its shocks are a mixture of vMF, or Gaussian. Four held-out speakers of twelve."
    rng, g = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    A = .85 * np.eye(D) + .02 * np.random.default_rng(9).standard_normal((D, D))
    z = np.zeros((n, T, D))
    for t in range(1, T):
        if archetypes: shock = VonMisesFisher(centres()[torch.randint(K, (n,), generator=g)], 120.).sample(generator=g).numpy() * rng.lognormal(0, .2, (n, 1))
        else: shock = rng.standard_normal((n, D)) * np.linspace(.5, 1.5, D) / D**.5
        z[:, t] = z[:, t - 1] @ A.T + shock
    speaker = np.repeat(np.arange(n) % 12, T)
    part = lambda m: Frames(z.reshape(-1, D)[m].astype(np.float32), np.repeat(np.arange(n), T)[m], speaker[m], np.zeros(m.sum()))
    return part(speaker < 8), part(speaker >= 8)


@pytest.fixture(scope="module", params=[True, False], ids=["planted", "linear"])
def found(request):
    "Everything the discovery says of a process with archetypes and of one without."
    train, held = process(request.param)
    axes = np.eye(D, dtype=np.float32)
    steps, linear = (steps_of(train, 0., axes), steps_of(held, 0., axes)), fit_linear(train)
    shocks = [steps_of(f, 0., axes, linear.expected_step(f)) for f in (train, held)]      # what the linear process leaves over
    return dict(planted=request.param, train=train, held=held, steps=steps, table=tightness_table(train, held, (K, 14), share=1., restarts=3),
                mixtures=mixture_table(*shocks, (3, K, 14), most=2000, restarts=3), transfer=transfer_table(*steps, K, restarts=3))


def test_tightness_exceeds_every_null_where_archetypes_were_planted_and_only_there(found):
    verdict = closest_null(found["table"])
    assert list(verdict.K) == [K, 14] and set(NULLS) <= set(found["table"].source)
    assert (verdict.exceeds == found["planted"]).all(), verdict
    assert all(excess(found["table"], K, n).n == 4 for n in NULLS)


def test_number_of_components_and_the_ellipse(found):
    beat = over_ellipse(found["mixtures"], K)
    if not found["planted"]: assert over_ellipse(found["mixtures"], pick_size(found["mixtures"])).value < .02
    else: assert beat.lo > 1 and pick_size(found["mixtures"], "bic") == K and pick_size(found["mixtures"]) in (K, 14)


def test_partitions_of_two_groups_of_speakers_agree_where_there_is_something_to_agree_on(found):
    agreement = np.average(found["transfer"].agreement, weights=found["transfer"].steps)
    assert agreement > .9 if found["planted"] else agreement < .4


def test_planted_centres_are_recovered():
    train, _ = process(True)
    d = steps_of(train, 0., np.eye(D, dtype=np.float32)).d
    for options in (dict(restarts=4), dict(init="afkmc2", restarts=4), dict(batch=512, restarts=4)):
        cos = centres().numpy() @ spherical_kmeans(d, K, **options).T
        assert cos[linear_sum_assignment(-cos)].min() > .95, options


def test_archetypes_are_signed(found):
    if not found["planted"]: pytest.skip("needs the planted process")
    assert excess(found["table"], K, "mirrored").lo > .2        # -d is far from the centres
    assert tightness(-found["steps"][0].d, spherical_kmeans(-found["steps"][0].d, K, restarts=3)) == pytest.approx(tightness(found["steps"][0].d, spherical_kmeans(found["steps"][0].d, K, restarts=3)), abs=.02)


def test_a_linear_process_has_a_state_effect_that_its_null_explains(found):
    if found["planted"]: pytest.skip("needs the linear process")
    axes = np.eye(D, dtype=np.float32)
    fitted = fit_nulls(found["train"], 0., axes)
    degrees = []
    for kind in (None, "linear"):
        pair = []
        for i, (f, s) in enumerate(zip((found["train"], found["held"]), found["steps"], strict=True)):
            if kind: f = simulate(fitted["process"], f, seed=i); s = steps_of(f, 0., axes)
            pair.append((f, s))
        e = state_effect(*pair, 16)
        degrees.append(e.degrees.sum() / e.steps.sum())
    assert degrees[0] > 2 and abs(degrees[0] - degrees[1]) < .15 * degrees[0], degrees


def test_shocks_without_a_memory_cannot_be_predicted_and_labels_of_the_state_can(found):
    if not found["planted"]: pytest.skip("needs the planted process")
    pairs = list(zip((found["train"], found["held"]), found["steps"], strict=True))
    c = spherical_kmeans(found["steps"][0].d, K, restarts=3)
    t = membership_table(*pairs, c, epochs=4)
    assert abs(t.log_loss.sum() - t.prior_loss.sum()) < .1 * t.steps.sum()
    told = [(Frames(np.concatenate([f.z[:, :0], np.eye(K, dtype=np.float32)[_next(f, s, c)]], 1), f.utterance, f.speaker), s) for f, s in pairs]
    t = membership_table(*told, c, window=1, epochs=4)
    assert t.top1.sum() / t.steps.sum() > .95


def _next(frames, steps, c):
    "The archetype of the step that leaves each frame; 0 for last frames."
    label = np.zeros(len(frames.z), int)
    label[steps.at] = assign(steps.d, c)[1]
    return label


@pytest.mark.parametrize("kind", NULLS)
def test_each_null_stays_on_the_sphere_and_keeps_the_speakers(kind):
    train, _ = process(False, n=24)
    axes, fitted = np.eye(D, dtype=np.float32), fit_nulls(train, 0., np.eye(D, dtype=np.float32))
    s = imitate(kind, train, steps_of(train, 0., axes), fitted, 1)
    np.testing.assert_allclose(np.linalg.norm(s.d, axis=1), 1, atol=1e-5)
    assert set(s.speaker) == set(train.speaker) and (imitate(kind, train, s, fitted, 1).d.shape == s.d.shape)
    if kind == "covariance": np.testing.assert_allclose(s.d.T @ s.d / len(s), _second(fitted["scatter"]), atol=.02)
    if kind == "marginal":   # independent frames: the step's cosine with -z of its start is 1/sqrt(2)
        f = Frames(np.random.default_rng(0).standard_normal(train.z.shape).astype(np.float32), train.utterance, train.speaker)
        m = imitate(kind, f, steps_of(f, 0., axes), dict(fitted), 2)
        assert len(m) and abs((m.d[1:] * m.d[:-1]).sum(1).mean() + .5) < .03


def _second(S):
    x = np.random.default_rng(1).multivariate_normal(np.zeros(len(S)), S, 200_000)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x.T @ x / len(x)


def test_unknown_names_are_refused():
    train, _ = process(False, n=24)
    s = steps_of(train, 0., np.eye(D, dtype=np.float32))
    with pytest.raises(ParameterError, match="Choose one of"): imitate("nonsense", train, s, {}, 0)
    with pytest.raises(ParameterError, match="Choose one of"): spherical_kmeans(s.d, 4, init="nonsense")
    with pytest.raises(ParameterError, match="fewer clusters"): spherical_kmeans(s.d[:3], 4)
    with pytest.raises(ParameterError, match="product or residual"): direction_code(s.d, s.d, "nonsense")


def test_a_growing_process_is_refused():
    t = np.arange(400)
    z = (1.05**(t % 50))[:, None] * np.random.default_rng(0).standard_normal((8, 3)).repeat(50, 0)
    with pytest.raises(ParameterError, match="without bound"): fit_linear(Frames(z.astype(np.float32), t // 50, t // 50))


def test_elliptic_residuals_keep_covariance_and_lengths():
    train, _ = process(False)
    p = fit_linear(train)
    np.testing.assert_allclose(np.mean(p.lengths**2), D, rtol=.02)
    own = simulate(p, train, own=True, seed=4)
    np.testing.assert_allclose(np.trace(np.cov(own.z.T)), np.trace(np.cov(train.z.T)), rtol=.15)


def test_tyler_scatter_is_a_fixed_point_and_its_density_is_uniform_for_the_sphere():
    d = np.random.default_rng(0).standard_normal((4000, 5)) * [3, 2, 1, 1, 1]
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    S = scatter_of(d, 60)
    w = 5 / np.einsum("np,np->n", d, np.linalg.solve(S, d.T).T)
    np.testing.assert_allclose((d.T * w) @ d / len(d), S, atol=1e-4)
    np.testing.assert_allclose(elliptic_log_prob(d, np.eye(5)), -log_sphere_area(5))
    assert elliptic_log_prob(d, S).mean() > elliptic_log_prob(d, np.eye(5)).mean()


def test_counts_and_shuffles():
    assert utilisation(np.array([0, 0, 0]), 3) == pytest.approx(dict(used=1 / 3, entropy=0., perplexity=1.))
    train, held = process(False, n=24)
    s = steps_of(train, 0., np.eye(D, dtype=np.float32))
    order = bigram_information(np.arange(len(s)) % 4, s, 4)
    assert order["p"] == pytest.approx(1 / 21) and order["beyond"] > .5
    assert bigram_information(np.random.default_rng(0).integers(0, 4, len(s)), s, 4)["p"] > .05
    assert np.abs(tightness(s.d, random_groups(s.d, 8))) < .6
    near = near_zero(Frames(np.zeros((20, 2), np.float32), np.zeros(20), np.zeros(20), np.zeros(20)), 1., -40.)
    assert near.still == 1 and near.silent == 0 and near.run == 19


def test_meaning_finds_what_labels_carry_and_nothing_else():
    train, held = process(True)
    a, b = (steps_of(f, 0., np.eye(D, dtype=np.float32)) for f in (train, held))
    c, rng = spherical_kmeans(a.d, K, restarts=3), np.random.default_rng(0)
    say = lambda s, gain: gain * assign(s.d, c)[1] + rng.standard_normal(len(s))
    told, noise = (meaning(a, b, c, (say(a, g), say(b, g)), shifts=19) for g in (1., 0.))
    assert told["p"] == .05 and told["eta2"].lo > .6 and told["random"] < told["eta2"].value and told["shifted"] < .05
    assert abs(noise["eta2"].value) < .03
    slow = rng.standard_normal(len(np.unique(b.utterance)))[np.unique(b.utterance, return_inverse=True)[1]]
    assert abs(meaning(a, b, c, (rng.standard_normal(len(a)), slow), shifts=9)["eta2"].value) < .05   # a property of the recording is none of the step


def test_codes_of_more_bits_are_nearer():
    train, held = process(True)
    a, b = (steps_of(f, 0., np.eye(D, dtype=np.float32)).d for f in (train, held))
    one, two, product = direction_code(a, b, "residual", 1, 4), direction_code(a, b, "residual", 2, 4), direction_code(a, b, "product", 3, 4)
    assert one < two < 1 and 0 < product < 1
