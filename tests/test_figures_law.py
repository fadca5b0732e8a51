"""Figures of the law: every point where it belongs, the curve that was given, every lifetime against what came."""

from dataclasses import replace

import numpy as np
import pytest

from superposition import figures
from superposition.stats.intervals import Estimate
from superposition.stats.response import LogLogistic
from superposition.studies import law
from superposition.studies.law import Lifetime, Point


def points(model, seed, count=6):
    rng = np.random.default_rng(seed)
    names = tuple(law.QUANTITIES)
    return [
        Point(
            model,
            layer,
            "rome",
            "beforehand",
            5,
            float((rng.random(20) < 0.4).mean()),
            dict(zip(names, rng.random(len(names)) + 0.1, strict=True)),
            "law",
        )
        for layer in range(count)
    ]


@pytest.fixture
def groups():
    return {"fitted": points("smollm2", 0), "others": points("smollm2", 1) + points("gemma3", 2)}


def offsets(axis):
    found = [np.asarray(part.get_offsets()) for part in axis.collections]
    return np.concatenate([part for part in found if len(part)])


def test_the_law_draws_every_point_and_the_curve(groups, drawn):
    curves = {law.R: LogLogistic(0.3, 1.5), law.S: LogLogistic(0.5, 2.0)}
    figure = figures.loss_by_drift(groups, curves)
    for axis, (name, curve) in zip(figure.axes, curves.items(), strict=True):
        shown = {tuple(np.round(row, 9)) for row in offsets(axis)}
        for some in groups.values():
            assert {(round(p.quantities[name], 9), round(p.lost, 9)) for p in some} <= shown
        x, y = axis.lines[0].get_data()
        np.testing.assert_allclose(y, curve.share(x))
    drawn(figure)


def test_methods_are_lines_beside_the_curve_that_was_fitted_before(drawn):
    methods = [replace(point, rule=rule) for rule in ("rome", "alphaedit") for point in points("smollm2", 3)]
    methods = [replace(point, layer=6, edits=10 * (1 + n % 6)) for n, point in enumerate(methods)]
    curves = {law.R: LogLogistic(0.3, 1.5), "change": LogLogistic(0.8, 1.2)}
    figure = figures.loss_by_method(methods, curves)
    for axis, (name, curve) in zip(figure.axes, curves.items(), strict=True):
        *lines, fitted = axis.lines
        assert [line.get_label() for line in lines] == ["ROME", "AlphaEdit"]
        for line, rule in zip(lines, ("rome", "alphaedit"), strict=True):
            some = [point for point in methods if point.rule == rule]
            np.testing.assert_allclose(line.get_xdata(), [point.quantities[name] for point in some])
            np.testing.assert_allclose(line.get_ydata(), [point.lost for point in some])
        np.testing.assert_allclose(fitted.get_ydata(), curve.share(fitted.get_xdata()))
    drawn(figure)


def test_ways_are_points_by_rule_and_targets_at_every_layer(drawn):
    ways = (("rome", "anew"), ("memit", "beforehand"), ("rls-hard", "moving"), ("ft", "none"))
    some = [
        replace(point, layer=layer, rule=rule, targets=targets)
        for layer in (6, 12)
        for (rule, targets), point in zip(ways, points("smollm2", layer, 4), strict=True)
    ]
    of_layer = {
        ("smollm2", 6): {law.R: LogLogistic(0.3, 1.5), law.MU: LogLogistic(2.0, 1.2)},
        ("smollm2", 12): {law.R: LogLogistic(0.2, 1.1), law.MU: LogLogistic(2.0, 1.2)},
    }
    figure = figures.loss_by_way(some, of_layer)
    for row, ((_, layer), curves) in enumerate(of_layer.items()):
        assert figure.axes[2 * row].get_ylabel().endswith(f"layer {layer}")
        for axis, (name, curve) in zip(figure.axes[2 * row : 2 * row + 2], curves.items(), strict=True):
            mine = {(p.quantities[name], p.lost) for p in some if p.layer == layer}
            assert {tuple(spot) for spot in offsets(axis)} == mine
            x, y = axis.lines[0].get_data()
            np.testing.assert_allclose(y, curve.share(x))
    _, words = figure.axes[0].get_legend_handles_labels()
    assert {"ROME", "MEMIT", "hard recursion", "fine-tuning", "targets beforehand"} < {*words}
    drawn(figure)


def test_every_rival_has_a_panel_with_its_correlation(groups, drawn):
    names = list(law.QUANTITIES)
    figure = figures.loss_by_rivals(groups, names)
    every = [point for some in groups.values() for point in some]
    for axis, name in zip(figure.axes[: len(names)], names, strict=True):
        assert axis.get_title().endswith(f"{law.correlation(every, name):.2f}")
        assert len(offsets(axis)) == len(every)
    drawn(figure)


def test_lifetimes_stand_against_what_came(drawn):
    rows = [
        Lifetime("smollm2", 1, "rome", "beforehand", 0.1, 12.0, 10.0),
        Lifetime("gemma3", 2, "rome", "beforehand", 0.25, 50.0, 20.0),
        Lifetime("gemma3", 2, "rome", "beforehand", 0.5, np.inf, 30.0),  # neither this
        Lifetime("gemma3", 3, "rome", "beforehand", 0.5, 100.0, np.inf),  # nor this can be drawn
    ]
    figure = figures.lifetimes_forecast({"one": rows, "two": rows[:1]}, factor=2.0)
    shown = [offsets(axis).tolist() for axis in figure.axes]
    assert [10.0, 12.0] in shown[0] and [20.0, 50.0] in shown[0] and [10.0, 12.0] in shown[1]
    assert not any(30.0 in row or 100.0 in row for row in shown[0])
    drawn(figure)


def test_leads_and_their_intervals(drawn):
    figure = figures.leads_of_drift({"edits": Estimate(0.3, 0.1, 0.5), "norm": Estimate(0.1, -0.1, 0.2)})
    (axis,) = figure.axes
    bars = [tuple(line.get_xdata()) for line in axis.lines if len(line.get_xdata()) == 2]
    assert {(0.1, 0.5), (-0.1, 0.2)} <= set(bars)
    assert [label.get_text() for label in axis.get_yticklabels()] == ["edits", "norm"]
    drawn(figure)
