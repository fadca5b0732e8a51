"""Figures of forecasts and cures: what is drawn is what was given."""

import numpy as np
import pytest

from superposition import figures


def test_the_ladder_puts_every_forecast_of_every_run_at_its_value(drawn):
    ranks = {"a": {"x": (0.2, 0.1, 0.3), "y": (0.6, 0.5, 0.7)}, "b": {"y": (0.4, 0.2, 0.5)}}
    figure = figures.ladder(ranks, {"little": {"x": "named x"}, "much": {"y": "named y"}})
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["named x", "named y"]
    at = dict(zip(["x", "y"], axis.get_yticks(), strict=True))
    points = [line.get_xydata()[0] for line in axis.lines if len(line.get_xdata()) == 1]
    for run in ranks.values():
        for name, (value, _, _) in run.items():
            assert any(x == value and abs(y - at[name]) < 0.3 for x, y in points)
    bars = [tuple(line.get_xdata()) for line in axis.lines if len(line.get_xdata()) == 2]
    assert {(0.1, 0.3), (0.5, 0.7), (0.2, 0.5)} <= set(bars)
    assert axis.yaxis_inverted()
    drawn(figure)


def test_forecast_and_loss_marks_the_lost_and_draws_the_diagonal_for_nats(drawn):
    rng = np.random.default_rng(0)
    fall, kept = rng.standard_normal(20), rng.random(20) < 0.5
    figure = figures.forecast_and_loss({"risk": np.abs(fall), "nats": fall}, fall, kept, nats=("nats",))
    left, right = figure.axes
    for axis in (left, right):
        shown, lost = (np.asarray(part.get_offsets()) for part in axis.collections)
        assert len(shown) == kept.sum() and np.allclose(lost[:, 1], fall[~kept])
    assert len(right.lines) == len(left.lines) + 1
    drawn(figure)


def test_calibration_draws_the_means_of_bins(drawn):
    made = np.arange(12.0)
    figure = figures.calibration({"it": (made, 2 * made)}, bins=3)
    points = figure.axes[0].lines[0].get_xydata()
    np.testing.assert_allclose(points, [[1.5, 3], [5.5, 11], [9.5, 19]])
    drawn(figure)


def test_what_is_left_and_doses(drawn):
    figure = figures.what_is_left([("all", 1.0, 1.0, 1.0), ("half", 0.5, 0.4, 0.6)])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["all", "half"]
    assert any(np.allclose(line.get_xdata(), [0.4, 0.6]) for line in figure.axes[0].lines)
    drawn(figure)
    figure = figures.dose_and_damage({"edits": ([1, 10], [0.1, 0.3])}, ([0.5, 1], [0.1, 0.2]))
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[0].get_xydata(), [[1, 0.1], [10, 0.3]])
    np.testing.assert_allclose(right.lines[0].get_xydata(), [[0.5, 0.1], [1, 0.2]])
    drawn(figure)


def test_cures_are_named_where_they_are(drawn):
    rows = {"plain": {"loss": 0.4, "held": 0.9}, "better": {"loss": 0.1, "held": 0.8}}
    figure = figures.cures(rows, "plain")
    (axis,) = figure.axes
    assert {(text.get_text(), *text.xy) for text in axis.texts} == {("plain", 0.4, 0.9), ("better", 0.1, 0.8)}
    assert axis.lines[0].get_color() != axis.lines[1].get_color()
    assert [line.get_xydata()[0].tolist() for line in axis.lines] == [
        pytest.approx([0.4, 0.9]),
        pytest.approx([0.1, 0.8]),
    ]
    drawn(figure)


def test_cures_on_the_way_are_shares_by_edits(drawn):
    shares = {"plain": {"lost": [0.1, 0.2], "held": [1.0, 0.9]}, "better": {"lost": [0.0, 0.1], "held": [1.0, 1.0]}}
    figure = figures.cures_on_the_way(shares, [15, 30])
    for axis, what in zip(figure.axes, ("lost", "held"), strict=True):
        assert {line.get_label(): line.get_ydata().tolist() for line in axis.lines} == {
            label: row[what] for label, row in shares.items()
        }
        assert all(line.get_xdata().tolist() == [15, 30] for line in axis.lines)
    drawn(figure)
