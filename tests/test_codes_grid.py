"Grid: any sequence of edits undone is the exact grid; edits stay where they are made; what does not fit is one sentence."
import json

import numpy as np
import pytest
from codes_toy import model
from hypothesis import given, settings
from hypothesis import strategies as st

from audioengram.codes.grid import CodeGrid, Region
from audioengram.codes.quantizer import ABSENT
from audioengram.core import ModelFileError, ParameterError, ShapeError

WAV = np.random.default_rng(0).normal(size=24_000).astype(np.float32) * np.linspace(.3, 0, 24_000, dtype=np.float32)


def fresh(seed=0, columns=20):
    return CodeGrid(model(prior=True), np.random.default_rng(seed).integers(-1, 8, (columns, 4, 3)))


box = st.tuples(st.integers(0, 15), st.integers(1, 4), st.integers(0, 2), st.integers(1, 2))
regions = box.map(lambda b: Region((b[0], b[0] + b[1]), (b[2], b[2] + b[3])))
edits = st.one_of(
    st.tuples(st.just("set_cell"), st.integers(0, 19), st.integers(0, 3), st.integers(0, 2), st.integers(-1, 7)), st.tuples(st.just("mute"), regions),
    st.tuples(st.just("swap"), regions, regions), st.tuples(st.just("blend"), regions, regions, st.floats(0, 1)),
    st.tuples(st.just("mix"), st.lists(st.tuples(regions, st.floats(0, 1)), min_size=1, max_size=3)), st.tuples(st.just("undo")), st.tuples(st.just("redo")))


@settings(deadline=None, max_examples=25)
@given(st.lists(edits, max_size=12))
def test_whatever_is_done_can_be_undone_and_redone(script):
    grid, other = fresh(), fresh(1)
    first, states = grid.codes, [grid.codes]
    for name, *args in script:
        depth = len(grid.done)
        try: getattr(grid, name)(*([other, *args] if name == "mix" else args))
        except ParameterError:                                    # refused: regions that overlap or differ in shape
            assert (grid.codes == states[-1]).all() and len(grid.done) == depth, "a refused edit must leave no trace"
        states.append(grid.codes)
    last = grid.codes
    n = 0
    while grid.undo(): n += 1
    assert (grid.codes == first).all()
    for _ in range(n): assert grid.redo()
    assert (grid.codes == last).all()


def test_a_new_edit_forgets_what_was_undone():
    grid = fresh()
    grid.set_cell(0, 0, 0, 1); grid.set_cell(0, 0, 0, 2); grid.undo(); grid.set_cell(0, 0, 0, 3)
    assert not grid.redo() and grid.codes[0, 0, 0] == 3 and grid.undo() and grid.codes[0, 0, 0] == 1


def test_encoding_is_deterministic_and_json_is_exact(tmp_path):
    a, b = CodeGrid.encode(model(), WAV), CodeGrid.encode(model(), WAV)
    assert (a.codes == b.codes).all() and (a.sound() == b.sound()).all() and len(a.sound()) == len(WAV)
    a.mute(Region((3, 5), level=(2, 3))); a.save(tmp_path / "g.json")
    back = CodeGrid.load(tmp_path / "g.json", model())
    assert (back.codes == a.codes).all() and back.length == a.length and (back.sound() == a.sound()).all()


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 22), st.integers(0, 3), st.integers(0, 2), st.integers(1, 7))
def test_an_edit_is_heard_near_its_column_and_nowhere_else(t, f, q, by):
    grid = CodeGrid.encode(model(), WAV)
    before, column, reach = grid.sound(), model().config.column, model().decoder.reach
    grid.set_cell(t, f, q, int((grid.codes[t, f, q] + by) % 8))
    changed = np.flatnonzero(grid.sound() != before)
    assert not len(changed) or (changed[0] >= t * column - reach and changed[-1] < (t + 1) * column + reach)


def test_swap_mix_and_blend_do_what_they_say():
    grid, other = fresh(), fresh(1)
    a, b = grid.codes, other.codes
    grid.swap(Region((0, 3), (0, 2)), Region((10, 13), (2, 4)))
    assert (grid.codes[0:3, 0:2] == a[10:13, 2:4]).all() and (grid.codes[10:13, 2:4] == a[0:3, 0:2]).all() and (grid.codes[3:10] == a[3:10]).all()
    grid.undo()
    far = grid.mix(other, [(Region((0, 5)), 1.), (Region((5, 10)), 0.), (Region((10, 15)), .5)])
    assert (grid.codes[:5] == b[:5]).all() and (grid.codes[5:10] == a[5:10]).all() and (grid.codes[15:] == a[15:]).all()
    assert far[:10].max() == 0 and far[15:].max() == 0 and far[10:15].max() > 0
    q, at = model().quantizer, (slice(10, 15),)
    import torch
    x, y, z = (q.embed(torch.as_tensor(c[at])) for c in (a, b, grid.codes))
    assert np.allclose((.5 * x + .5 * y - z).norm(dim=-1), far[10:15], atol=1e-4)


def test_previews_are_silent_elsewhere_and_not_code_0():
    grid = CodeGrid.encode(model(), WAV)
    cell = grid.preview(Region((4, 5), (1, 2), (0, 1)))
    assert len(cell) == model().config.column
    alone = np.full_like(grid.codes, ABSENT); alone[4, 1, 0] = grid.codes[4, 1, 0]
    zeros = np.zeros_like(alone); zeros[4, 1, 0] = grid.codes[4, 1, 0]
    column = model().config.column
    assert (cell == model().decode(alone)[4 * column:5 * column]).all() and not np.allclose(cell, model().decode(zeros)[4 * column:5 * column])
    assert len(grid.preview(Region(frequency=(0, 1)))) == grid.length and len(grid.preview(Region((20, 24)))) <= 4 * column


def test_infill_writes_its_region_and_is_the_same_under_a_seed():
    a, b, region = fresh(), fresh(), Region((5, 8), (1, 3))
    first = a.codes
    a.infill(region, seed=4); b.infill(region, seed=4)
    mask = np.zeros(a.shape, bool); mask[region.within(a.shape)] = True
    assert (a.codes == b.codes).all() and (a.codes[~mask] == first[~mask]).all() and (a.codes[mask] >= 0).all()
    a.undo()
    assert (a.codes == first).all()


@pytest.mark.parametrize("edit, says", [
    (lambda g: g.set_cell(99, 0, 0, 1), "time axis, which has 20"), (lambda g: g.set_cell(0, 0, 0, 8), "the cell hold 8"), (lambda g: g.swap(Region((0, 2)), Region((1, 3))), "overlap"),
    (lambda g: g.swap(Region((0, 2)), Region((5, 8))), "cannot swap"), (lambda g: g.blend(Region((0, 2)), Region((5, 7)), 2.), "ratio is 2"), (lambda g: g.blend(Region((0, 2), level=(0, 1)), Region((5, 7))), "level axis open"),
    (lambda g: g.mix(fresh(1, 10), [(Region(), .5)]), "cannot mix"), (lambda g: g.mute(Region((5, 5))), "outside the grid's time axis")])
def test_edits_that_cannot_be_made(edit, says):
    grid = fresh()
    before = grid.codes
    with pytest.raises((ParameterError, ShapeError), match=says): edit(grid)
    assert (grid.codes == before).all() and not grid.done


@pytest.mark.parametrize("change, says", [
    (dict(model="0123"), "belongs to the model '0123'"), (dict(codes=[[[99] * 3] * 4]), "hold 99"), (dict(codes=[[[0] * 3] * 5]), "shape"), (dict(codes=[[[.5] * 3] * 4]), "whole numbers"), (dict(codes=[]), "shape"),
    (dict(codes=[[1, 2], [3]]), "cannot have"), (dict(codes="abc"), "cannot have"), (dict(length=10**12), "do not lie"), (dict(length="x"), "cannot have"), (dict(version=7), "version 7"), (dict(format="zip"), "no code grid")])
def test_grids_that_do_not_fit(tmp_path, change, says):
    path = tmp_path / "g.json"
    path.write_text(json.dumps(fresh().as_dict() | change))
    with pytest.raises(ModelFileError, match=says) as e: CodeGrid.load(path, model(prior=True))
    assert "\n" not in str(e.value)
    path.write_text("{not json")
    with pytest.raises(ModelFileError, match="not valid JSON"): CodeGrid.load(path, model(prior=True))
