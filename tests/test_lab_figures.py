"Figures draw the rows they are given, name their nulls, and say which column is missing."
import json
import re
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from audioengram.core import ParameterError
from audioengram.lab import figures as f
from audioengram.lab.findings import FINDINGS, finding
from audioengram.lab.layout import COLUMN, LETTER, letters_on_a_phone, parts_of, stack_parts


@pytest.fixture(autouse=True)
def clean():
    f.use_style(); yield; plt.close("all")


ROWS = pd.DataFrame([dict(key=k, lag=g, ratio=r, lo=r - 0.02, hi=r + 0.01) for k, r in (("a", 0.9), ("b", 0.95)) for g in (1, 2, 4)])


def texts(ax): return [t.get_text().strip() for t in ax.texts]


@pytest.mark.parametrize("lag", [int, str])
def test_interval_plot_draws_every_row(lag):
    ax = f.interval_plot(ROWS.assign(lag=ROWS.lag.map(lag)), "lag", "ratio", hue="key", null=1, null_label="permuted")
    lines = {line.get_label(): line for line in ax.lines}
    for k in "ab": assert list(lines[k].get_ydata()) == list(ROWS[ROWS.key == k].ratio)
    assert (lines["a"].get_linestyle() == "-") == (lag is int)
    ends = np.concatenate([[s[:, 1] for s in c.get_segments()] for c in ax.collections])
    np.testing.assert_allclose(np.sort(ends, 1), ROWS[["lo", "hi"]].to_numpy())
    assert texts(ax) == ["permuted"]


def test_a_value_outside_its_interval_and_a_missing_interval_are_drawn():
    df = pd.DataFrame(dict(x=["u", "v"], y=[5.0, 1.0], lo=[1.0, np.nan], hi=[2.0, np.nan]))
    ax = f.interval_plot(df, "x", "y")
    assert list(ax.lines[-1].get_ydata()) == [5.0, 1.0]


def test_the_legend_hides_no_point():
    ax = f.interval_plot(ROWS, "lag", "ratio", hue="key")
    ax.figure.canvas.draw()
    box = ax.get_legend().get_window_extent()
    points = ax.transData.transform(ROWS[["lag", "hi"]].to_numpy(float))
    assert not any(box.contains(*p) for p in points)


def test_missing_columns_and_too_many_hues():
    for draw in (lambda: f.interval_plot(ROWS, "lag", "nope"), lambda: f.band_plot(ROWS, "lag", "nope"), lambda: f.distribution(ROWS, "nope")):
        with pytest.raises(ParameterError, match="no column 'nope'.*It has key, lag, ratio"): draw()
    with pytest.raises(ParameterError, match="too many"): f.looks("abcdefgh")


def test_colours_stay_with_names():
    assert f.looks(["x", "y", "x"]) == f.looks(["x", "y"]) and len({s["marker"] for s in f.looks("abcdefg").values()}) == 7


def test_heat_map_numbers_and_centre():
    ax = f.heat_map(pd.DataFrame([[0.1, -0.4], [np.nan, 0.2]], index=["r", "s"], columns=[1, 2]), centre=0, numbers=".1f", label="gain")
    assert texts(ax) == ["0.1", "-0.4", "0.2"] and ax.images[0].get_clim() == (-0.4, 0.4)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["r", "s"] and ax.figure.axes[1].get_ylabel() == "gain"


def test_cloud_samples_points_with_their_colours():
    x = np.arange(8000.0); ax = f.cloud(np.stack([x, x], 1), color=x, most=500)
    drawn = ax.collections[0]
    assert len(drawn.get_offsets()) == 500 and np.array_equal(drawn.get_offsets()[:, 0], drawn.get_array())


def test_distribution_ignores_missing_and_shares_bins():
    df = pd.DataFrame(dict(v=[*np.linspace(0, 1, 50), np.nan, *np.linspace(2, 3, 20)], g=["a"] * 51 + ["b"] * 20))
    ax = f.distribution(df, "v", hue="g", density=False, bins=10)
    outlines = [p.get_data() for p in ax.patches if not p.get_fill()]
    assert [o.values.sum() for o in outlines] == [50, 20] and np.array_equal(outlines[0].edges, outlines[1].edges)


@pytest.mark.parametrize("n, shape", [(1, 1), (4, 4), (7, 7)])
def test_panels(n, shape):
    fig, axes = f.panels(n, titles=list("abcdefg"[:n]))
    assert len(axes) == len(fig.axes) == shape and axes[-1].get_title(loc="left") == "abcdefg"[n - 1]


FIGURES = Path(__file__).resolve().parent.parent / "figures"
PUBLISHED = {f"{m.parent.name}/{name}": m.parent for m in sorted(FIGURES.glob("*/manifest.json")) for name in json.loads(m.read_text())["figures"]}
# words that answer a question without a number
VERDICT = re.compile(r"\b(no|none|not|better|worse|ahead|behind|fails|wins|loses|beats)\b")


@pytest.mark.parametrize("name", PUBLISHED)
def test_letters_of_a_published_figure_can_be_read_on_a_phone(name):
    "Nine pixels at 390: its panels stand below each other, or it is narrow enough."
    svg = (FIGURES / f"{name}.svg").read_text()
    assert parts_of(svg), f"drawn before figures said where their panels lie: audioengram redraw {name.partition('/')[0]}"
    assert letters_on_a_phone(svg) >= LETTER, f"{letters_on_a_phone(svg):.1f} px"
    phone = stack_parts(svg)
    if phone:
        wide, high = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', phone).groups())
        assert wide <= COLUMN and high > max(h for *_, h in parts_of(svg)) and phone.count("#drawn\"/>") == len(parts_of(svg)) > 1


def test_a_figure_with_small_letters_would_be_noticed():
    fig, ax = plt.subplots(figsize=(6.4, 3)); ax.set_title("a title of seven points", fontsize=7)
    fig.savefig(out := __import__("io").StringIO(), format="svg")
    assert letters_on_a_phone(out.getvalue()) < LETTER


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_alternative_text_states_the_finding(name):
    manifest, claims = (json.loads((PUBLISHED[name] / f"{part}.json").read_text()) for part in ("manifest", "claims"))
    about = manifest["figures"][name.partition("/")[2]]
    said, shown = finding(name, claims, about["alt"]).split(" Drawn: ")
    assert shown and not shown.startswith(said) and said.casefold().rstrip(".") not in (about["alt"].casefold().rstrip("."), about["caption"].casefold().rstrip("."))
    assert re.search(r"\d", said) or VERDICT.search(said), f"no number and no verdict: {said}"
    assert 5 <= len(said.split()) <= 60 and "{claim" not in said


def test_no_finding_is_left_of_a_figure_that_went(): assert FINDINGS.keys() <= PUBLISHED.keys()
