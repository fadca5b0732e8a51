"""Plots of the law: how much is lost at which drift, what else tells it, and how long a layer lasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter

from superposition.figures.colours import BLACK, BLUE, DASHED, GREY, MARKERS, OF_EDITOR, OF_MODEL, OF_SEARCH
from superposition.figures.style import canvas, interval, plot, shared_legend, ticks
from superposition.stats.intervals import Estimate
from superposition.stats.response import LogLogistic
from superposition.studies.law import MU, QUANTITIES, Lifetime, Point, R, S, correlation, series
from superposition.studies.names import MODELS

#: What the drifts are called at an axis.
DRIFTS = {
    R: "relative drift $R$\nof the layer",
    S: "relative drift $S$\nof the last state",
    MU: "change of the margin\n$\\mu$ (nats)",
}


def _scatter(axis: Axes, groups: Mapping[str, Sequence[Point]], name: str, size: float) -> None:
    """Share lost over a quantity: a marker a group, a colour a model; the first group is hollow."""
    for number, (points, marker) in enumerate(zip(groups.values(), MARKERS, strict=False)):
        for model, (_, colour, *_) in OF_MODEL.items():
            some = [point for point in points if point.model == model]
            if some:
                x, y = [point.quantities[name] for point in some], [point.lost for point in some]
                face = "none" if number == 0 else colour
                axis.scatter(x, y, s=size, marker=marker, facecolors=face, edgecolors=colour, linewidths=0.9, alpha=0.8)
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _join(axis: Axes, points: Sequence[Point], name: str) -> None:
    """A thin line through the points of every layer, by number of edits."""
    for some in series(points).values():
        colour = OF_MODEL[some[0].model].colour
        x, y = [point.quantities[name] for point in some], [point.lost for point in some]
        axis.plot(x, y, color=colour, linewidth=0.5, alpha=0.5)


def _curve(axis: Axes, points: Sequence[Point], name: str, fitted: LogLogistic, label: str | None = None) -> None:
    """A fitted curve over a quantity, as far as the points reach, on a logarithmic axis."""
    x = np.array([point.quantities[name] for point in points])
    doses = np.geomspace(x.min() / 1.2, x.max() * 1.2, 200)
    axis.plot(doses, fitted.share(doses), color=BLACK, linewidth=1.4, label=label)
    axis.set_xscale("log")
    ticks(axis.xaxis, [dose for dose in (0.03, 0.1, 0.3, 1, 3, 10) if doses[0] <= dose <= doses[-1]])


@plot
def loss_by_drift(
    groups: Mapping[str, Sequence[Point]], curves: Mapping[str, LogLogistic], *, names: Sequence[str] = (R, S)
) -> Figure:
    """Share lost over each of some drifts, a panel each, with the curve that was fitted to the first group.

    The points of a layer are joined.

    Parameters
    ----------
    groups : mapping of label to points
        The first is the set that the curves were fitted to.
    curves : mapping of drift to curve
    """
    figure, axes = canvas(1, len(names), height=4.2, sharey=True)
    every = [point for points in groups.values() for point in points]
    for axis, name in zip(axes, names, strict=True):
        _scatter(axis, groups, name, 22)
        _curve(axis, every, name, curves[name])
        _join(axis, every, name)
        axis.set(xlabel=DRIFTS[name], ylim=(0, 1))
    for (label, _), marker, number in zip(groups.items(), MARKERS, range(len(groups)), strict=False):
        face = "none" if number == 0 else GREY
        axes[0].scatter([], [], s=26, marker=marker, facecolors=face, edgecolors=GREY, label=label)
    for label, colour, *_ in OF_MODEL.values():
        axes[0].plot([], [], color=colour, linewidth=5, label=label)
    axes[0].plot([], [], color=BLACK, linewidth=1.4, label="curve fitted to the hollow points")
    axes[0].set_ylabel("lost, of what the model knew")
    shared_legend(axes[0], 3)
    return figure


@plot
def loss_by_method(points: Sequence[Point], curves: Mapping[str, LogLogistic]) -> Figure:
    """Share lost over each of some quantities, a panel each: a line a method, by number of edits, and the curve."""
    figure, axes = canvas(1, len(curves), height=3.8, sharey=True)
    for axis, (name, fitted) in zip(axes, curves.items(), strict=True):
        for (_, _, rule, _), some in series(points).items():
            x, y = [point.quantities[name] for point in some], [point.lost for point in some]
            axis.plot(x, y, **OF_EDITOR[rule].line(markersize=4, linewidth=1))
        _curve(axis, points, name, fitted, label="curve fitted before, on 30 edits")
        axis.set_xlabel(DRIFTS.get(name, QUANTITIES[name]))
    axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0].set(ylabel="lost, of what the model knew", ylim=(0, 1))
    shared_legend(axes[0], 3)
    return figure


#: Marker and name of where target values came from, where one layer is drawn; fine-tuning has none.
OF_TARGETS = {
    "anew": (OF_SEARCH["anchored"].marker, "targets anew, anchored ball"),
    "moving": (OF_SEARCH["moving"].marker, "anew, moving ball"),
    "norm anchors": ("v", "anew, norm anchors"),
    "beforehand": (OF_SEARCH["beforehand"].marker, "targets beforehand"),
    "none": ("X", None),
}


@plot
def loss_by_way(points: Sequence[Point], curves: Mapping[tuple[str, int], Mapping[str, LogLogistic]]) -> Figure:
    """Share lost at every layer over each of some quantities: a colour a rule, a marker for where targets came from.

    Parameters
    ----------
    points : sequence of Point
    curves : mapping of model and layer to curves by quantity
        A row a layer, a panel a quantity, with its curve.
    """
    names = list(next(iter(curves.values())))
    figure, axes = canvas(len(curves), len(names), height=0.9 + 2.5 * len(curves), sharey="row", sharex="col")
    for row, ((model, layer), of) in zip(np.atleast_2d(axes), curves.items(), strict=True):
        some = [point for point in points if (point.model, point.layer) == (model, layer)]
        for axis, (name, fitted) in zip(row, of.items(), strict=True):
            for rule, targets in dict.fromkeys((point.rule, point.targets) for point in some):
                _, colour, _, dash = OF_EDITOR[rule]
                face, (marker, _) = "none" if dash == "--" else colour, OF_TARGETS[targets]
                alike = [point for point in some if (point.rule, point.targets) == (rule, targets)]
                spots = np.array([(point.quantities[name], point.lost) for point in alike]).T
                look = {"s": 20, "marker": marker, "facecolors": face, "edgecolors": colour, "linewidths": 0.9}
                axis.scatter(*spots, alpha=0.85, **look)
            _curve(axis, points, name, fitted)
            axis.set(ylim=(0, None))
            axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        row[0].set_ylabel(f"lost, {MODELS[model]}, layer {layer}")
    first = np.ravel(axes)[0]
    for axis, name in zip(np.atleast_2d(axes)[-1], names, strict=True):
        axis.set_xlabel(DRIFTS.get(name, QUANTITIES[name]))
    for rule in dict.fromkeys(point.rule for point in points):
        words, colour, _, dash = OF_EDITOR[rule]
        face, marker = "none" if dash == "--" else colour, "X" if rule == "ft" else "s"
        first.scatter([], [], s=26, marker=marker, facecolors=face, edgecolors=colour, label=words)
    for marker, words in OF_TARGETS.values():
        if words:
            first.scatter([], [], s=26, marker=marker, facecolors=GREY, edgecolors=GREY, label=words)
    first.plot([], [], color=BLACK, linewidth=1.2, label="curve")
    shared_legend(first, 3)
    return figure


@plot
def loss_by_rivals(groups: Mapping[str, Sequence[Point]], names: Sequence[str], *, columns: int = 3) -> Figure:
    """Share lost over every quantity that was proposed, a small panel each, titled with the rank correlation."""
    rows = -(-len(names) // columns)
    figure, axes = canvas(rows, columns, height=2.0 * rows + 0.4, sharey=True)
    every = [point for points in groups.values() for point in points]
    panels = np.ravel(axes)
    for axis, name in zip(panels, names, strict=False):
        _scatter(axis, groups, name, 7)
        axis.set(xscale="log", ylim=(0, 1))
        axis.set_title(f"{QUANTITIES[name]}\n{correlation(every, name):.2f}")
        far = axis.get_xlim()[1] > 8 * axis.get_xlim()[0]
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)) if far else MaxNLocator(2))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
    for axis in panels[len(names) :]:
        axis.axis("off")
    if len(panels) > len(names):
        marks = [Line2D([], [], color=look.colour, linewidth=5, label=look.name) for look in OF_MODEL.values()]
        panels[len(names)].legend(handles=marks, loc="center")
    figure.supylabel("lost, of what the model knew")
    return figure


@plot
def lifetimes_forecast(forecasts: Mapping[str, Sequence[Lifetime]], *, factor: float = 1.5) -> Figure:
    """Edits until a share is lost: forecast before any edit, over what came; a panel a forecast, a marker a share."""
    figure, axes = canvas(1, len(forecasts), height=3.6, sharey=True)
    for axis, (title, rows) in zip(axes, forecasts.items(), strict=True):
        rows = [row for row in rows if row.seen and np.isfinite(row.forecast)]
        for share, marker in zip(sorted({row.share for row in rows}), MARKERS, strict=False):
            for model, (_, colour, *_) in OF_MODEL.items():
                some = [row for row in rows if (row.share, row.model) == (share, model)]
                x, y = [row.came for row in some], [row.forecast for row in some]
                axis.scatter(x, y, s=22, marker=marker, color=colour, alpha=0.8, linewidths=0)
        ends = np.array([0.5, 600])
        axis.plot(ends, ends, color=BLACK, linewidth=1)
        axis.fill_between(ends, ends / factor, ends * factor, color=GREY, alpha=0.15, linewidth=0)
        axis.set(title=title, xscale="log", yscale="log", xlabel="edits until lost, as it came")
        for one in (axis.xaxis, axis.yaxis):
            ticks(one, (1, 3, 10, 30, 100, 300))
        axis.set(xlim=(1, 60), ylim=(0.7, 300))
    shares = sorted({row.share for rows in forecasts.values() for row in rows})
    for share, marker in zip(shares, MARKERS, strict=False):
        axes[0].scatter([], [], s=22, marker=marker, color=GREY, label=f"{share:.0%} lost")
    for label, colour, *_ in OF_MODEL.values():
        axes[0].plot([], [], color=colour, linewidth=5, label=label)
    axes[0].set_ylabel("as forecast before any edit")
    shared_legend(axes[0], len(shares) + len(OF_MODEL))
    return figure


@plot
def leads_of_drift(rows: Mapping[str, Estimate], *, over: str = "R") -> Figure:
    """By how much the rank correlation with the share lost exceeds each rival's, with its interval over layers."""
    figure, (axis,) = canvas(height=0.7 + 0.3 * len(rows))
    for number, estimate in enumerate(rows.values()):
        interval(axis, number, *estimate, color=BLUE, marker="o", markersize=5)
    axis.axvline(0, **DASHED)
    axis.set_yticks(range(len(rows)), labels=list(rows))
    axis.invert_yaxis()
    axis.set_xlabel(f"rank correlation of ${over}$ with the share lost, less the rival's")
    return figure
