"""Figures of forecasts and cures: what is drawn is what was given."""

import numpy as np

from superposition import figures


def test_skill_and_cost_put_every_forecast_of_every_run_at_its_values(drawn):
    skill = {"a": {"x": (0.2, 0.1, 0.3), "y": (0.6, 0.5, 0.7)}, "b": {"x": (0.1, 0.0, 0.2), "y": (0.4, 0.2, 0.5)}}
    seconds = {"a": {"x": 1, "y": 20}, "b": {"x": 2, "y": 30}}
    figure = figures.skill_and_cost(skill, seconds, {"little": {"x": "named x"}, "much": {"y": "named y"}})
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["named x", "named y"]
    at = dict(zip(["x", "y"], left.get_yticks(), strict=True))
    for axis, values in (
        (left, {run: {k: v[0] for k, v in row.items()} for run, row in skill.items()}),
        (right, seconds),
    ):
        points = [line.get_xydata()[0] for line in axis.lines if len(line.get_xdata()) == 1]
        for run in values.values():
            for name, value in run.items():
                assert any(x == value and abs(y - at[name]) < 0.3 for x, y in points)
    bars = [tuple(line.get_xdata()) for line in left.lines if len(line.get_xdata()) == 2]
    assert {(0.1, 0.3), (0.5, 0.7), (0.2, 0.5)} <= set(bars)
    assert left.yaxis_inverted() and right.get_xscale() == "log"
    drawn(figure)


def test_loss_by_fifths_draws_a_line_a_forecast(drawn):
    shares = [{"share": x, "low": x - 0.1, "high": x + 0.1} for x in (0.2, 0.4, 0.7)]
    figure = figures.loss_by_fifths({"one": {"p": shares, "drift": shares[::-1]}, "two": {"p": shares}})
    assert [axis.get_title() for axis in figure.axes] == ["one", "two"]
    assert [len(axis.containers) for axis in figure.axes] == [2, 1]
    line, _, (bars,) = figure.axes[0].containers[1]
    assert line.get_ydata().tolist() == [0.7, 0.4, 0.2]
    np.testing.assert_allclose([part[:, 1] for part in bars.get_segments()], [[0.6, 0.8], [0.3, 0.5], [0.1, 0.3]])
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


def test_cures_are_numbered_on_the_curve(drawn):
    rows = {"plain": {"R": 0.4, "lost": 0.9}, "unknown": {"R": np.nan, "lost": 0}, "better": {"R": 0.1, "lost": 0.8}}
    rows["same"] = {"R": 0.1001, "lost": 0.8}
    figure = figures.cures_on_the_curve(rows, "plain", lambda x: x / 2)
    (axis,) = figure.axes
    assert {(text.get_text(), *text.xy) for text in axis.texts} == {("1", 0.4, 0.9), ("3, 4", 0.1, 0.8)}
    curve, first, second, _ = axis.lines
    np.testing.assert_allclose(curve.get_ydata(), curve.get_xdata() / 2)
    assert first.get_color() != second.get_color()
    assert [line.get_xydata()[0].tolist() for line in (first, second)] == [[0.4, 0.9], [0.1, 0.8]]
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
