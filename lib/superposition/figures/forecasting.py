"""Plots of forecasts, causes and cures (chapters 18 and 19)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter

from superposition.figures.colours import (
    BLACK,
    BLUE,
    CYCLE,
    DASHED,
    GREEN,
    GREY,
    MARKERS,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
)
from superposition.figures.style import canvas, interval, plot, shared_legend, ticks

_RUNS = ((BLUE, "o"), (SKY, "s"), (VERMILION, "D"), (ORANGE, "^"))


#: Forecasts by what they know, each with how the figure calls it.
LADDER = {
    "no edit known": {"null: unsure": "how unsure the model is now"},
    "keys": {
        "p norm, subject": r"$\sqrt{\sum p^2}$ at the subject",
        "p norm, from the subject on": r"$\sqrt{\sum p^2}$ from the subject on",
        "p norm, all": r"$\sqrt{\sum p^2}$ at every position",
    },
    "keys and slopes": {"slope spread": "spread of the slope"},
    "values": {
        "drift norm, subject": r"$\|\Delta\|$ at the subject",
        "drift norm, all": r"$\|\Delta\|$ at every position",
    },
    "passes": {
        "first order, all": "first order, every position",
        "second order, all": "second order, every position",
        "drift, subject": r"$\Delta$ put in at the subject",
        "drift, all": r"$\Delta$ put in everywhere",
    },
}


@plot
def ladder(
    ranks: Mapping[str, Mapping[str, Sequence[float]]],
    groups: Mapping[str, Mapping[str, str]] = LADDER,
    *,
    measure: str = "rank correlation with the loss",
) -> Figure:
    """Rank correlation of forecasts with the loss, a row a forecast, a colour a run, bars for the intervals.

    Parameters
    ----------
    ranks : mapping of run to mapping of forecast to (value, low, high)
    groups : mapping of a group's title to mapping of forecast to how the figure calls it
    """
    rows = [(name, label) for named in groups.values() for name, label in named.items()]
    figure, (axis,) = canvas(height=0.9 + 0.34 * len(rows) + 0.1 * len(groups))
    place, places, start = 0.0, [], []
    for named in groups.values():
        start.append(place)
        places += [place + step for step in range(len(named))]
        place += len(named) + 0.4
    spread = np.linspace(-0.24, 0.24, len(ranks))
    for (run, found), (colour, marker), off in zip(ranks.items(), _RUNS, spread, strict=False):
        for (name, _), at in zip(rows, places, strict=True):
            if name in found:
                interval(axis, at + off, *found[name], linewidth=1.4, color=colour, marker=marker, markersize=5)
        axis.plot([], [], color=colour, marker=marker, markersize=5, label=run)
    axis.axvline(0, **DASHED)
    axis.set_yticks(places, labels=[label for _, label in rows])
    axis.set_ylim(place - 0.6, -0.9)
    style = {"fontsize": 9, "style": "italic", "color": "#444444", "ha": "right", "va": "center"}
    for title, at in zip(groups, start, strict=True):
        axis.text(0.995, at - 0.45, title, transform=axis.get_yaxis_transform(), **style)
    axis.set(xlim=(None, 1.02), xlabel=measure)
    axis.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=len(ranks), columnspacing=1.2, handletextpad=0.2)
    return figure


@plot
def forecast_and_loss(
    forecasts: Mapping[str, np.ndarray], fall: np.ndarray, kept: np.ndarray, *, nats: Sequence[str] = ()
) -> Figure:
    """What each watched fact lost against several forecasts, a panel each; crosses are facts no longer said.

    Panels named in ``nats`` have both axes in nats, and the diagonal drawn.
    """
    figure, axes = canvas(1, len(forecasts), height=3.0, sharey=True)
    for axis, (name, made) in zip(axes, forecasts.items(), strict=True):
        axis.axhline(0, color=GREY, linestyle="--", linewidth=0.8)
        if name in nats:
            ends = [min(made.min(), fall.min()), max(made.max(), fall.max())]
            axis.plot(ends, ends, color=GREY, linewidth=1)
        style = {"linewidths": 0.8, "alpha": 0.7}
        axis.scatter(made[kept], fall[kept], s=10, color=BLUE, label="still said", **style)
        axis.scatter(made[~kept], fall[~kept], s=22, color=VERMILION, marker="x", label="lost", **style)
        axis.set_xlabel(name)
    axes[0].set_ylabel(r"fall of $\log p$ (nats)")
    axes[0].legend(loc="upper left", handletextpad=0.1)
    return figure


@plot
def calibration(forecasts: Mapping[str, tuple[np.ndarray, np.ndarray]], bins: int = 6) -> Figure:
    """Mean fall that came about against the mean forecast, in bins of equally many facts; left all, right the bulk.

    ``forecasts`` maps a label to (forecast, fall).
    """
    figure, (axis,) = canvas(height=3.2)
    for (label, (made, fall)), (colour, marker) in zip(forecasts.items(), _RUNS, strict=False):
        parts = np.array_split(np.argsort(made, kind="stable"), bins)
        x, y = ([float(values[part].mean()) for part in parts] for values in (made, fall))
        error = 1.96 * np.array([fall[part].std(ddof=1) / np.sqrt(len(part)) for part in parts])
        axis.errorbar(x, y, error, color=colour, marker=marker, markersize=5, linewidth=1.3, label=label)
    ends = axis.get_xlim()
    axis.plot(ends, ends, **DASHED, label="as forecast")
    axis.set(xlabel="forecast fall, mean of a bin (nats)", ylabel="fall that came about,\nmean of the bin (nats)")
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return figure


@plot
def what_is_left(rows: Sequence[tuple[str, float, float, float]], *, unit: str = "share of the damage left") -> Figure:
    """Horizontal bars with intervals: (label, value, low, high), 1 being the damage of the edits as they are."""
    figure, (axis,) = canvas(height=0.8 + 0.33 * len(rows))
    for place, (_, *values) in enumerate(rows):
        interval(axis, place, *values, color=BLUE, marker="o", markersize=6)
    axis.axvline(1, **DASHED)
    axis.axvline(0, color=GREY, linewidth=0.8)
    axis.set_yticks(range(len(rows)), labels=[row[0] for row in rows])
    axis.invert_yaxis()
    axis.set_xlabel(unit)
    return figure


@plot
def dose_and_damage(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], by_norm: tuple[Sequence[float], Sequence[float]]
) -> Figure:
    """Left: mean loss against the crowding ``Σ p²|δ|²`` of arms whose change has one norm. Right: against the norm."""
    colours = (BLUE, GREEN, VERMILION, PURPLE, ORANGE, BLACK)
    figure, (left, right) = canvas(1, 2, height=3.4, sharey=True)
    for (label, (x, y)), colour, marker in zip(series.items(), colours, MARKERS, strict=False):
        left.plot(x, y, color=colour, marker=marker, markersize=5, linestyle="", alpha=0.85, label=label)
    left.set(xscale="log", yscale="log", ylabel=r"mean loss of $\log p$ (nats, log)")  # shared with the other panel
    left.set_xlabel(r"crowding $\sum_i \sum_t p^2\, \|\delta\|^2$, mean over facts (log)")
    left.set_title(r"one norm $\|\Delta W\|$, other overlaps", fontweight="normal")
    left.legend(fontsize=8)
    right.set(xscale="log", xlabel=r"$\|\Delta W\|$, relative to the edits as they are")
    ticks(right.xaxis, by_norm[0])
    right.plot(*by_norm, color=BLUE, marker="o", markersize=5)
    right.set_title("one overlap, other norms", fontweight="normal")
    return figure


@plot
def cures(rows: Mapping[str, Mapping[str, Any]], start: str) -> Figure:
    """Edits that hold against damage to the others, a point a cure; ``start`` is the one without any."""
    figure, (axis,) = canvas(height=3.8)
    for turn, (label, row) in enumerate(rows.items()):
        colour, marker = (VERMILION, "s") if label == start else (BLUE, "o")
        axis.plot(row["loss"], row["held"], color=colour, marker=marker, markersize=6, linestyle="")
        up = 5 if turn % 2 else -11
        axis.annotate(label, (row["loss"], row["held"]), xytext=(5, up), textcoords="offset points", fontsize=8)
    axis.set(xlabel=r"damage: mean loss of $\log p$ of untouched facts (nats)", ylabel="edits that hold (exact match)")
    return figure


@plot
def cures_on_the_way(shares: Mapping[str, Mapping[str, Sequence[float]]], edits: Sequence[int]) -> Figure:
    """Left what is lost, right what holds, against the number of edits, a line a rule.

    ``shares`` maps a label to ``lost`` and ``held``, (n,) at each of ``edits``.
    """
    figure, axes = canvas(1, 2, height=3.2)
    for axis, what in zip(axes, ("lost", "held"), strict=True):
        for (label, row), colour, marker in zip(shares.items(), CYCLE, MARKERS, strict=False):
            axis.plot(edits, row[what], color=colour, marker=marker, markersize=5, label=label)
        axis.set(xticks=edits, xlabel="edits")
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.yaxis.set_major_locator(MultipleLocator(0.05))
    axes[0].set_ylabel("untouched facts lost")
    axes[1].set(ylabel="edits that hold", ylim=(min(0.85, axes[1].get_ylim()[0]), 1.01))
    shared_legend(axes[0], 3, "outside upper center")
    return figure
