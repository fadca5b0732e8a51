"""Plots of forecasts, causes and cures (chapters 20 and 21)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter

from superposition.figures.colours import (
    BLACK,
    BLUE,
    DASHED,
    GREEN,
    GREY,
    MARKERS,
    OF_EDITOR,
    OF_MODEL,
    ORANGE,
    PAGE,
    PURPLE,
    VERMILION,
    Look,
    editor_look,
)
from superposition.figures.style import canvas, interval, name_lines, plot, shared_legend, ticks

#: Forecasts by what they know, each with how the figure calls it.
LADDER = {
    "no edit known": {"null: margin": "margin over the next answer"},
    "keys": {
        "p norm, from the subject on": r"overlap, $\sqrt{\sum p^2}$",
        "p over margin, from the subject on": "overlap over margin",
        "slope spread": "spread of the slope",
    },
    "values": {
        "drift norm, all": r"length of the drift, $\|\Delta\|$",
        "push over margin, from the subject on": r"$\sqrt{\sum p^2 \|\delta\|^2}$ over margin",
    },
    "passes": {
        "first order, all": "fall to first order",
        "drift, all": "fall, drift put in",
        "margin left": "margin left, drift put in",
    },
    "dry run": {"known residuals: margin left": "margin left, targets anew"},
}


def _of_run(run: str, runs: Sequence[str]) -> dict:
    """Look of a run, ``MODEL, layer N``: the model's, hollow for its second layer."""
    name = run.split(",")[0]
    look = next((look for look in OF_MODEL.values() if look.name == name), Look(name, GREEN, "D"))
    first = next(other for other in runs if other.split(",")[0] == name) == run
    return {"color": look.colour, "marker": look.marker, "markersize": 5, "mfc": look.colour if first else PAGE}


@plot
def skill_and_cost(
    skill: Mapping[str, Mapping[str, Sequence[float]]],
    seconds: Mapping[str, Mapping[str, float]],
    groups: Mapping[str, Mapping[str, str]] = LADDER,
    *,
    measure: str = "chance that a lost fact ranks above a kept one",
    chance: float = 0.5,
) -> Figure:
    """Left how well forecasts rank, right the seconds that they take: a row a forecast, a colour a run.

    Parameters
    ----------
    skill : mapping of run to mapping of forecast to (value, low, high)
    seconds : mapping of run to mapping of forecast to seconds
    groups : mapping of a group's title to mapping of forecast to how the figure calls it
    measure : str
        Of the skill.
    chance : float
        Of a forecast that knows nothing.
    """
    rows = [(name, label) for named in groups.values() for name, label in named.items()]
    figure, (left, right) = canvas(
        1, 2, height=1.1 + 0.36 * len(rows) + 0.25 * len(groups), sharey=True, width_ratios=(3, 1.5)
    )
    place, places, start = 0.0, [], []
    for named in groups.values():
        start.append(place)
        places += [place + step for step in range(len(named))]
        place += len(named) + 0.8
    spread = np.linspace(-0.24, 0.24, len(skill))
    for (run, found), off in zip(skill.items(), spread, strict=True):
        style = _of_run(run, list(skill))
        for (name, _), at in zip(rows, places, strict=True):
            interval(left, at + off, *found[name], linewidth=1.4, **style)
            right.plot(seconds[run][name], at + off, linestyle="", **style)
        left.plot([], [], label=run, **style)
    left.axvline(chance, **DASHED)
    left.set_yticks(places, labels=[label for _, label in rows])
    left.set_ylim(place - 1.0, -1.2)
    words: dict[str, Any] = {"style": "italic", "color": GREY, "ha": "left", "va": "center"}
    words["bbox"] = {"fc": PAGE, "ec": "none", "pad": 1}
    for title, at in zip(groups, start, strict=True):
        left.text(0.01, at - 0.7, title, transform=left.get_yaxis_transform(), **words)
    left.set(xlabel=measure)
    right.set(xscale="log", xlabel="CPU seconds (log)")
    shared_legend(left, 2, "outside upper center")
    return figure


@plot
def loss_by_fifths(doses: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]) -> Figure:
    """Share lost in each fifth of the facts, from the safest to those most at risk: a panel a run, a line a forecast.

    ``doses`` maps a run and a forecast's label to shares, ``share``, ``low`` and ``high`` each.
    """
    figure, axes = canvas(1, len(doses), height=3.3, sharey=True)
    for axis, (run, forecasts) in zip(axes, doses.items(), strict=True):
        off, parts = (-0.12, 0.0, 0.12), len(next(iter(forecasts.values())))
        for (label, shares), colour, marker, aside in zip(
            forecasts.items(), (PURPLE, GREEN, BLACK), "D^P", off, strict=False
        ):
            value, low, high = (np.array([share[end] for share in shares]) for end in ("share", "low", "high"))
            x, bars = np.arange(1, parts + 1) + aside, [value - low, high - value]
            axis.errorbar(x, value, bars, color=colour, marker=marker, markersize=4, linewidth=1.2, label=label)
        axis.set(title=run.replace(", ", ",\n"), xlabel="fifth\n(1 safest)", xticks=np.arange(1, parts + 1))
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0].set_ylabel("facts lost")
    shared_legend(axes[0], len(forecasts), "outside upper center")
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
    figure, (left, right) = canvas(1, 2, height=3.8, sharey=True)
    for (label, (x, y)), colour, marker in zip(series.items(), colours, MARKERS, strict=False):
        left.plot(x, y, color=colour, marker=marker, markersize=5, linestyle="", alpha=0.85, label=label)
    left.set(xscale="log", yscale="log", ylabel=r"mean loss of $\log p$ (nats, log)")  # shared with the other panel
    left.set_xlabel("crowding $\\sum_i \\sum_t p^2\\, \\|\\delta\\|^2$,\nmean over facts (log)")
    left.set_title(r"one norm $\|\Delta W\|$, other overlaps")
    shared_legend(left, 4, "outside upper center")
    right.set(xscale="log", xlabel="$\\|\\Delta W\\|$, relative to\nthe edits as they are")
    ticks(right.xaxis, by_norm[0])
    right.plot(*by_norm, color=BLACK, marker="o", markersize=5)
    right.set_title("one overlap, other norms")
    return figure


@plot
def cures_on_the_curve(
    rows: Mapping[str, Mapping[str, Any]], start: str, curve: Callable[[np.ndarray], np.ndarray] | None = None
) -> Figure:
    """Share of facts lost over the relative drift R, a numbered point a cure: ``R`` and ``lost`` of each.

    ``start`` is the one without any cure. One whose R is NaN is counted and not drawn. ``curve`` gives the share lost
    at an R, and is drawn behind the points.
    """
    figure, (axis,) = canvas(height=4.8)
    if curve is not None:
        x = np.linspace(0, 1.15 * np.nanmax([row["R"] for row in rows.values()]), 100)[1:]
        axis.plot(x, curve(x), **DASHED)
    numbers: dict[tuple[float, float], list[str]] = {}
    for number, (label, row) in enumerate(rows.items(), 1):
        at = row["R"], row["lost"]
        if np.isnan(at[0]):
            continue
        colour, marker, above = (*OF_EDITOR["rome"][1:3], 3) if label == start else (GREY, "s", 2)
        axis.plot(*at, color=colour, marker=marker, markersize=6, linestyle="", zorder=above)
        near = next((old for old in numbers if np.allclose(old, at, rtol=0, atol=0.003)), at)
        numbers.setdefault(near, []).append(str(number))
    for at, some in numbers.items():  # one label for points that lie upon each other, on the left where one is near
        left = any(other > at and np.allclose(other, at, rtol=0, atol=0.014) for other in numbers)
        style = {"ha": "right" if left else "left", "textcoords": "offset points"}
        axis.annotate(", ".join(some), at, (-6 if left else 6, 3), **style)
    axis.set(xlabel="relative drift $R$ of the layer", ylabel="watched facts lost", xlim=(0, None), ylim=(0, None))
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


@plot
def cures_on_the_way(shares: Mapping[str, Mapping[str, Sequence[float]]], edits: Sequence[int]) -> Figure:
    """Left what is lost, right what holds, against the number of edits, a line a rule.

    ``shares`` maps an editor to ``lost`` and ``held``, (n,) at each of ``edits``.
    """
    figure, axes = canvas(1, 2, height=3.5)
    for axis, what in zip(axes, ("lost", "held"), strict=True):
        for name, row in shares.items():
            axis.plot(edits, row[what], **editor_look(name).line(markersize=6))
        axis.set(xticks=edits, xlabel="edits")
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.yaxis.set_major_locator(MultipleLocator(0.05))
    axes[0].set_ylabel("watched facts lost")
    axes[1].set(ylabel="edits that hold", ylim=(min(0.85, axes[1].get_ylim()[0]), 1.01))
    name_lines(axes[0], wide=14)
    return figure
