"Quantizer: what the library is trusted with, and what is decided around it."
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audioengram.codes.health import code_counts, codebook_drift, health_table, verdict
from audioengram.codes.quantizer import (
    ABSENT,
    PER_CODE,
    PER_SMALL,
    SMALL,
    Quantizer,
    check_codes,
    choose_size,
    reference_size,
    settle,
)
from audioengram.core import ParameterError, ShapeError, TrainingError


def trained(size=8, levels=2, n=400, **options):
    torch.manual_seed(0)
    q, z = Quantizer(4, size, levels, **options), torch.randn(1, n // 2, 2, 4)
    for _ in range(5): q(z)
    return q.eval(), z


def test_commitment_is_weighted_once():
    q, z = trained(dropout=0.)
    q.train()
    before = [b.clone() for b in q.codebooks]
    quantized, codes, loss = q(z)
    residual, want = z, 0.
    for level, book in enumerate(before):
        near = book[codes[..., level]]
        want, residual = want + .25 * (residual - near).square().mean(), residual - near
    assert float(loss.detach()) == pytest.approx(float(want), rel=1e-4)


def test_nothing_starts_before_there_are_enough_vectors():
    q = Quantizer(4, 32, 2)
    for _ in range(3):
        out, codes, loss = q(torch.randn(1, 4, 2, 4))
        assert not q.started and (codes == ABSENT).all() and float(loss) == 0
    q(torch.randn(1, 4, 2, 4))                      # the 32nd vector
    assert q.started and len(q.codebooks[0].unique(dim=0)) == 32      # no centroid is a copy of another
    with pytest.raises(TrainingError, match="has not been trained"): Quantizer(4, 32, 2).eval()(torch.randn(1, 4, 2, 4))


def test_dropout_yields_absent_codes_that_nobody_counts():
    q, z = trained(levels=3, dropout=1.)
    q.train(); torch.manual_seed(3)
    grids = [q(z)[1][0].numpy() for _ in range(12)]
    assert any((g[..., 2] == ABSENT).all() for g in grids) and all((g[..., 0] >= 0).all() for g in grids)
    counts, table = code_counts(grids, 8), health_table(grids, 8)
    assert counts.sum() == sum((g >= 0).sum() for g in grids)
    assert 0 < table.absent.iloc[2] < 1 and table.absent.iloc[0] == 0 and np.isfinite(table.perplexity).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 300), st.integers(2, 64), st.integers(0, 99))
def test_after_settling_a_code_is_dead_only_for_want_of_vectors(n, size, seed):
    torch.manual_seed(seed)
    q, z = Quantizer(3, size, 1), torch.randn(n, 3)
    settle(q, z, seed)
    used = len(q.snap(z)[0].unique())
    assert used == min(n, size)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 10**7))
def test_sizing_keeps_its_promise(n):
    s = choose_size(n)
    assert s.size == 8 or n / s.size >= (PER_SMALL if s.size <= SMALL else PER_CODE)
    assert s.size == 512 or n / (2 * s.size) < (PER_SMALL if s.size < SMALL else PER_CODE)
    assert 0 < s.decay < 1 and s.levels in (3, 4)


def test_overrides_are_marked_and_checked():
    s = choose_size(5000, size=32, levels=None)
    assert s.size == 32 and {r["choice"]: r["source"] for r in s.table(5000, 60., ["size"])}["size"] == "override"
    assert [reference_size(n, 10).size for n in (5, 50, 500)] == [64, 128, 256]
    for bad in (dict(size=1), dict(decay=2.), dict(steps=0)):
        with pytest.raises(ParameterError): choose_size(5000, **bad)
    with pytest.raises(ParameterError, match="no vectors"): choose_size(0)


def test_codes_are_checked():
    for bad, says in (([[[8]]], "hold 8"), ([[[-2]]], "hold -2"), ([[1]], "shape"), ([[[.5]]], "whole numbers"), ([[[1, 1]]], "Q=1")):
        with pytest.raises(ShapeError, match=says): check_codes(bad, 8, levels=1)


def test_verdicts_name_a_level_and_an_action():
    good = [np.random.default_rng(i).integers(0, 8, (50, 4, 2)) for i in range(3)]
    assert verdict(health_table(good, 8))[0].startswith("Healthy")
    poor = [np.where(np.arange(2) == 1, g // 4, g) for g in good]
    assert verdict(health_table(poor, 8)) == ("Collapsed: level 2 uses 25% of its codes.", "Train with fewer codes (size), or give more and more varied recordings.")
    books = np.random.default_rng(0).normal(size=(2, 8, 4))
    assert codebook_drift(books, books) == [0, 0]
    said, todo = verdict(health_table(good, 8).assign(drift=[.1, .5]))
    assert said.startswith("Healthy") and "moved by 50%" in todo                   # a remark: they are refitted at the end
