"""The small transformer: forgetting, forecasts, the reach of an edit, tails over the grid (chapters 09 and 13)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
from matplotlib.figure import Figure

from superposition.figures.colours import (
    BLACK,
    BLUE,
    CYCLE,
    DASHED,
    GREY,
    HAIR,
    INK,
    MARKERS,
    ORANGE,
    PAGE,
    PURPLE,
    VERMILION,
)
from superposition.figures.style import band, canvas, interval, name_lines, plot, shared_legend, ticks
from superposition.records import Record
from superposition.stats.intervals import over_seeds
from superposition.studies import toys

_LISTS = {
    "distinct": BLUE,
    "shared": ORANGE,
    "twin": VERMILION,
}
_LAYERS = ("first layer", "second layer")
#: How a forecast is called in a figure.
_FORECASTS = {
    "overlap": "keys",
    "norm": r"length, $\|\Delta_o\|$",
    "first_order_subject": "slope at the subject",
    "first_order": "slope everywhere",
    "drift_subject": "drifted pass",
}


@plot
def facts_kept_and_edits_held(record: Record) -> Figure:
    """Facts of other subjects still known, and edits that still hold, against the number of edits, a line a width.

    A line ends at the last look that every seed reached.
    """
    panels = (("kept", "facts of other subjects still right"), ("held", "edits that still hold"))
    figure, axes = canvas(1, 2, height=3.2, sharey=True)
    for axis, (name, title) in zip(axes, panels, strict=True):
        for width, colour, marker in zip(toys.widths(record), CYCLE, MARKERS, strict=False):
            style = {"color": colour, "marker": marker, "markersize": 4, "label": f"$d_m$ = {4 * width}"}
            band(axis, *toys.course(record, width, name), **style)
        axis.set_xscale("log", base=2)
        ticks(axis.xaxis, [1, 4, 16, 64, 192])
        axis.set_title(title)
        axis.set_xlabel("edits so far (logarithmic)")
    axes[0].set(ylabel="share (0 to 1)", ylim=(0, 1))
    for line in (line for axis in axes for line in axis.lines):
        line.set_clip_on(False)  # whole marks at 1; bands end there
    high = [line for line in axes[0].get_lines() if line.get_ydata()[-1] > 0.97]  # on one another
    if high:
        widths = " and ".join(str(line.get_label()).removeprefix("$d_m$ = ") for line in high)
        axes[0].annotate(f"$d_m$ = {widths}", (0.05, 0.92), xycoords="axes fraction", va="center", color=INK)
        for line in high:
            line.set_label("_")
    name_lines(axes[0])
    name_lines(axes[1])
    return figure


@plot
def forecasts_and_falls(record: Record, edits: int, seed: int = 0) -> Figure:
    """What untouched facts lost against two forecasts (one seed), and the rank correlation of all forecasts."""
    names = record["forecasts"]
    fall, made = toys.falls(record, edits, seed)
    figure, axes = canvas(1, 3, height=3.4, width_ratios=[1, 1, 1.1])
    for axis, name in zip(axes, ("norm", "first_order"), strict=False):
        axis.scatter(made[name], fall, s=10, color=BLUE, alpha=0.5, linewidths=0)
        axis.axhline(0, **DASHED)
    reach = axes[1].get_xlim()
    axes[1].axline((0, 0), slope=1, color=GREY, linewidth=1, linestyle=":")
    axes[1].set_xlim(reach)
    axes[0].set_xlabel(_FORECASTS["norm"])
    axes[1].set_xlabel("slope everywhere\n(nats)")
    axes[0].set_ylabel("fall of log-probability (nats)")
    looks = sorted({at for at in record["forecast_at"]})
    for step, (at, marker, colour) in enumerate(zip(looks, MARKERS, (BLUE, ORANGE, PURPLE), strict=False)):
        for row, name in enumerate(names):
            place = len(names) - row + 0.22 * (1 - step)
            label = (f"{at} edits" if at < looks[-1] else "all edits") if not row else None
            style = {"color": colour, "marker": marker, "markersize": 5, "label": label}
            interval(axes[2], place, *over_seeds(toys.ranks(record, name, at)), **style)
    axes[2].axvline(0, **DASHED)
    axes[2].grid(axis="y", color=HAIR, linewidth=0.5)
    axes[2].set_yticks(range(len(names), 0, -1), labels=[_FORECASTS[name] for name in names])
    axes[2].yaxis.tick_right()
    axes[2].set(xlim=(-0.2, 1), xlabel="rank correlation\nwith the fall")
    shared_legend(axes[2], 3, "outside upper right", handletextpad=0.1)
    return figure


@plot
def reach_of_an_edit(record: Record, widths: Sequence[int]) -> Figure:
    """What one edit does to facts of other subjects, by the size of p between the two keys."""
    edges = [*record["edges"], None]
    short = ["" if edge is None else f"{edge:g}".removeprefix("0") or "0" for edge in edges]
    labels = [f"{a}–{b}" if b else f"> {a}" for a, b in pairwise(short)]
    figure, axes = canvas(1, 2, height=3.2)
    figure.get_layout_engine().set(wspace=0.12)
    for width, colour, marker in zip(widths, CYCLE, MARKERS, strict=False):
        classes, change, flips = toys.reach(record, width)
        style = {"color": colour, "marker": marker, "markersize": 4, "label": f"$d_m$ = {4 * width}"}
        band(axes[0], classes, change, **style)
        if flips.mean(0).max() < 0.005:
            style["label"] = "_on zero"
        band(axes[1], classes, flips, **style)
    axes[0].set(yscale="log", ylabel="mean change of log-probability\n(nats, logarithmic)")
    axes[1].set(ylabel="right answers that flip, share", ylim=(0, None))
    used = 1 + max(int(line.get_xdata()[-1]) for line in axes[0].get_lines())
    for axis in axes:
        axis.set_xticks(range(used), labels=labels[:used], rotation=30, ha="right", rotation_mode="anchor")
        axis.set_xlabel("$|p|$ between the two keys")
        name_lines(axis)
    return figure


@plot
def tails_by_width(record: Record) -> Figure:
    """Excess kurtosis and spread of p against d_m, trained and not: a column a layer, a colour a list of facts."""
    d_m = 4.0 * np.array(toys.widths(record))
    rows = (("excess_kurtosis", "excess kurtosis\n(logarithmic)"), ("spread", r"spread: sd · $\sqrt{d_m}$"))
    figure, axes = canvas(2, 2, height=5.4, sharex=True, sharey="row")
    for (layer, column), (row, (name, label)) in product(enumerate(axes.T), enumerate(rows)):
        axis = column[row]
        for (kind, colour), marker in zip(_LISTS.items(), MARKERS, strict=False):
            look = {"color": colour, "marker": marker}
            band(axis, d_m, toys.by_width(record, layer, kind, name), markersize=5, label=kind, **look)
            untrained = toys.by_width(record, layer, kind, name, trained=False).mean(axis=0)
            axis.plot(d_m, untrained, linestyle=":", linewidth=1.2, markersize=4, markerfacecolor=PAGE, **look)
        axis.set_xscale("log", base=2)
        ticks(axis.xaxis, d_m)
        axis.set(ylabel="" if layer else label)
    fine = np.geomspace(d_m[0], d_m[-1], 50)
    for layer, column in enumerate(axes.T):
        expected = toys.twin_of_random_keys(fine, record["compared"])
        column[0].plot(fine, expected, color=BLACK, linewidth=1.2, linestyle="-.", label="random keys, one twice")
        column[0].set_title(_LAYERS[layer])
        column[1].axhline(1, **DASHED)
        column[1].set_xlabel("width of the memory, $d_m$")
    axes[0, 0].set_yscale("log")
    ticks(axes[0, 0].yaxis, [1, 3, 10, 30, 100])
    axes[1, 0].set_ylim(0.6, 1.5)
    name_lines(axes[0, 1], wide=14)
    for look, what in (("-", "trained"), (":", "random weights")):
        axes[0, 0].plot([], [], color=BLACK, linestyle=look, label=what)
    ends = axes[0, 0].get_legend_handles_labels()
    axes[0, 0].legend(*(part[-2:] for part in ends), loc="upper left")
    return figure


@plot
def tails_by_history(record: Record) -> Figure:
    """Excess kurtosis of p against training steps and the number of facts (columns), a row a layer, a line a list."""
    knobs = (("training steps", "steps", "steps"), ("facts in the world", "families", "facts"))
    figure, axes = canvas(2, 2, height=4.6, sharey=True, sharex="col")
    for (label, knob, name), column in zip(knobs, axes.T, strict=True):
        settings = toys.settings_along(record, knob)
        at = [toys.select(record, **where)[0][name] for where in settings]
        shown = list(range(len(at))) if knob == "steps" else at
        for layer, panel in enumerate(column):
            for kind, marker in zip(toys.LISTS[:2], "os", strict=True):
                tails = [toys.series(record, layer, kind, "excess_kurtosis", **where) for where in settings]
                style = {"color": _LISTS[kind], "marker": marker, "markersize": 4, "label": kind}
                band(panel, shown, np.array(tails).T, **style)
            panel.axhline(0, **DASHED)
            panel.set_title(_LAYERS[layer])
        if knob == "steps":
            column[1].set_xticks(shown, labels=[f"{step:,}" for step in at])
        else:
            column[1].set_xscale("log", base=2)
            ticks(column[1].xaxis, at)
        column[1].set_xlabel(label)
    for row in axes:
        row[0].set_ylabel("excess kurtosis")
        name_lines(row[1])
    return figure
