"""Figures show the record: what is drawn is compared with the numbers it is drawn from."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from test_explaining import collisions

from superposition import figures, records
from superposition.figures import style
from superposition.figures.colours import (
    BLUE,
    CYCLE,
    DARK,
    DARK_PAGE,
    GREEN,
    GREY,
    OF_EDITOR,
    ORANGE,
    PAGE,
    VERMILION,
    contrast,
    editor_look,
    model_looks,
    word,
)
from superposition.stats import shape
from superposition.studies.names import EDITORS


@pytest.fixture(scope="module")
def record():
    return records.load("smollm2-128")


def test_heatmaps_show_P_in_the_order_given(record, drawn):
    order = np.argsort(record["relations"], kind="stable")
    figure = figures.heatmaps(record, [0, 15], order=order)
    shown = figure.axes[1].images[0]
    assert np.allclose(shown.get_array(), record.overlaps(15).P[np.ix_(order, order)])
    assert shown.norm.vmin == -shown.norm.vmax
    drawn(figure)


def test_by_depth_draws_the_records_statistics(record, drawn):
    inside = np.flatnonzero(np.array(record["token_positions"]) > 0)
    figure = figures.by_depth(record, {"other": [3.0, 2.0, 1.0]}, inside=inside)
    mean, spread, kurtosis, robust = figure.axes
    rows = record["statistics"]
    assert np.allclose(mean.lines[0].get_ydata(), [row["P"]["mean"] for row in rows])
    assert np.allclose(spread.lines[0].get_ydata(), [row["P"]["sd"] * np.sqrt(row["d_m"]) for row in rows])
    assert np.allclose(robust.lines[0].get_ydata(), [row["P"]["quantile_kurtosis"] for row in rows])
    subset = [shape.summary(record.overlaps(n).P[np.ix_(inside, inside)], resamples=0) for n in record["layers"]]
    assert np.allclose(kurtosis.lines[1].get_ydata(), [row["excess_kurtosis"] for row in subset])
    assert any(np.array_equal(line.get_ydata(), [3.0, 2.0, 1.0]) for line in kurtosis.lines)
    drawn(figure)


def test_densities_integrate_to_one(record, drawn):
    figure = figures.densities(record, [0, 29])
    for line in figure.axes[0].lines:
        x, y = line.get_data()
        assert np.nansum(y) * (x[1] - x[0]) == pytest.approx(1, abs=0.01)
    drawn(figure)


def test_angles_are_those_of_the_cosines(record, drawn):
    figure = figures.angles(record, [15])
    tallest = max(patch.get_xy()[:, 1].max() for patch in figure.axes[0].patches)
    degrees = np.degrees(np.arccos(np.clip(shape.off_diagonal(record.overlaps(15).cosine_whitened), -1, 1)))
    assert tallest == pytest.approx(np.histogram(degrees, np.linspace(0, 180, 73), density=True)[0].max(), rel=1e-6)
    drawn(figure)


def test_feedback_draws_root_mean_squares_and_the_law_it_is_given(drawn):
    n, rng = np.array([1, 4, 16]), np.random.default_rng(0)
    runs = {arm: np.exp(rng.normal(size=(6, 3)) / 9) * n for arm in ("moving", "no overlap")}
    figure = figures.feedback(n, runs, {"moving": 2.0 * np.arange(1, 17)})
    marks = [line for line in figure.axes[0].lines if line.get_marker() in "o^"]
    for line, values in zip(marks, runs.values(), strict=True):
        assert np.allclose(line.get_ydata(), np.sqrt((values**2).mean(0)))
    assert any(np.array_equal(2.0 * line.get_xdata(), line.get_ydata()) for line in figure.axes[0].lines)
    drawn(figure)


def test_names_stand_at_the_ends_of_their_lines_in_their_colours_and_apart():
    figure, (axis,) = style.canvas(height=3)
    x = np.arange(10.0)
    for number, colour in enumerate((BLUE, ORANGE, GREEN)):
        axis.plot(x, 1 + 0.001 * number * x, color=colour, label=f"line {number}")
    axis.plot(x[:4], 0.2 * x[:4] + 0.1, color=VERMILION, label="a line that stops $p\\, q$ early")
    axis.plot(x, np.full(10, 0.5), color=GREY)  # has no name
    style.name_lines(axis, {"line 2": "the last"}, inside={"line 1": (0.2, 0.3)}, wide=12)
    assert collisions(figure) == []
    texts = {text.get_text(): text for text in axis.texts}
    assert [*texts] == ["line 1", "a line that\nstops\n$p\\, q$\nearly", "line 0", "the last"]
    assert [text.get_color() for text in texts.values()] == [word(c) for c in (ORANGE, VERMILION, BLUE, GREEN)]
    below, above = (Text.get_window_extent(texts[name]) for name in ("line 0", "the last"))
    assert below.y1 <= above.y0 and below.x0 > axis.transData.transform((9, 1))[0]


def test_a_line_that_is_not_to_be_seen_has_no_place_for_its_name():
    _, (axis,) = style.canvas(height=2)
    axis.plot([0, 1], [0, 1], label="there")
    axis.scatter([0], [1], label="no line")
    axis.axhline(0.5, label="across")
    style.name_lines(axis)
    assert {text.get_text() for text in axis.texts} == {"there", "across"}
    axis.plot([0, 1], [np.nan, np.nan], label="nowhere")
    with pytest.raises(ValueError, match="the line 'nowhere' has no point within the axes"):
        style.name_lines(axis)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(0.01, 2)), max_size=8).map(sorted),
)
def test_what_is_pushed_apart_keeps_its_order_and_room_and_moves_no_more_than_it_must(ends):
    wanted, heights = (np.array([end[i] for end in ends]) for i in (0, 1))
    places = style.apart(wanted, heights)
    room = (heights[1:] + heights[:-1]) / 2
    assert (np.diff(places) >= room - 1e-9).all()
    assert places.sum() == pytest.approx(wanted.sum(), abs=1e-9)
    if (np.diff(wanted) >= room).all():
        np.testing.assert_allclose(places, wanted, atol=1e-12)


def test_an_editor_and_a_model_look_the_same_in_every_figure():
    n, runs = np.arange(1, 5), np.ones((3, 4))
    rules = ["rome", "memit with history", "alphaedit", "rls-hard"]
    life = figures.lifetimes(n, dict.fromkeys(rules, runs), dict.fromkeys(rules, runs), 16)
    cures = figures.cures_on_the_way({key: {"lost": [0.1, 0.2], "held": [1, 1]} for key in rules}, [1, 2])
    for figure in (life, cures):
        for line in (line for axis in figure.axes for line in axis.lines if not line.get_label().startswith("_")):
            look = editor_look(line.get_label())
            assert (line.get_color(), line.get_linestyle()) == (look.colour, look.dash)
    assert [look.name for look in model_looks(["gemma3", "mine", "smollm2"])] == ["Gemma 3", "mine", "SmolLM2"]
    assert len({look.colour for look in model_looks(["gemma3", "mine", "smollm2", "yours"])}) == 4
    assert {*EDITORS} == {*OF_EDITOR}
    assert len(model_looks(map(str, range(20)))) == 20


def test_colours_are_written_in_one_place_only():
    for path in Path(style.__file__).parent.glob("*.py"):
        if path.name != "colours.py":
            text = path.read_text(encoding="utf-8")
            assert re.findall(r"""["'](?:#[0-9a-fA-F]{3,8}|white|black|gr[ae]y|C\d|tab:\w+)["']""", text) == [], (
                path.name
            )


def test_colours_of_data_differ_and_stand_out_from_either_page():
    assert len(set(CYCLE)) == len(CYCLE)
    for colour in CYCLE:
        assert contrast(colour, PAGE) >= 3, colour
        assert contrast(DARK.get(colour, colour), DARK_PAGE) >= 3, colour
        assert contrast(word(colour), PAGE) >= 4.5, colour
        assert contrast(DARK[word(colour)], DARK_PAGE) >= 4.5, colour


#: What readers see who lack one kind of cone, of linear RGB (Machado, Oliveira and Fernandes, 2009, severity 1).
CONES = {
    "none": np.eye(3),
    "long": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "middle": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "short": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(rgb):
    """CIE L*a*b* of linear RGB (sRGB's primaries, D65)."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(rgb, 0, 1) / [0.9505, 1.0, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("missing", CONES)
def test_colours_of_data_can_be_told_apart_whatever_cones_a_reader_lacks(missing):
    for palette in (CYCLE, [DARK[colour] for colour in CYCLE]):
        rgb = np.array([to_rgb(colour) for colour in palette])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        seen = [lab(np.asarray(CONES[missing]) @ colour) for colour in linear]
        apart = min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2))
        assert apart > 13, palette  # that of Okabe and Ito's own is 16


def test_a_cloud_of_many_points_is_drawn_in_dots_and_a_curve_is_not():
    figure, (axis,) = style.canvas(height=2)
    many, few = np.random.default_rng(0).normal(size=(2, style.MANY + 1)), np.ones((2, 5))
    drawn = [axis.scatter(*many), axis.scatter(*few), *axis.plot(*many, "o"), *axis.plot(*many), *axis.plot(*few, "o")]
    assert figure._repr_svg_().count("<image ") == 2
    assert [bool(artist.get_rasterized()) for artist in drawn] == [True, False, True, False, False]


def test_residuals_along_a_sequence_are_running_medians_and_the_last_arm_may_be_short(drawn):
    rng = np.random.default_rng(0)
    arms = {name: np.exp(rng.normal(size=30)) for name in ("as edited", "one away", "another away")}
    figure = figures.residuals_along({"a": arms | {"forecast": arms["as edited"][:8]}, "b": arms})
    first = figure.axes[0].lines
    x, y = first[0].get_data()
    assert list(x[:2]) == [3, 4] and y[0] == np.median(arms["as edited"][:5]) and len(x) == 26
    assert first[0].get_linewidth() > first[1].get_linewidth()
    assert first[3].get_linestyle() == "--" and len(first[3].get_xdata()) == 4
    drawn(figure)
