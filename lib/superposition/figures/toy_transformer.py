"""Plots of the small transformer: forgetting, forecasts, the reach of an edit, tails over the grid (chapter 09)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure

from superposition.figures.colours import BLUE, CYCLE, DASHED, GREEN, GREY, MARKERS, ORANGE, PURPLE, SKY, VERMILION
from superposition.figures.style import band, canvas, interval, kurtosis_scale, plot, shared_legend, ticks
from superposition.records import Record
from superposition.stats.intervals import over_seeds
from superposition.studies import toys

_LISTS = {
    "distinct": ("last tokens all different", BLUE),
    "shared": ("last tokens shared in pairs", ORANGE),
    "twin": ("one key twice", VERMILION),
}
#: How a forecast is called in a figure.
_FORECASTS = {
    "overlap": r"$\sum_i p^2$: keys alone",
    "norm": r"$\|\Delta_o\|$ at the subject",
    "first_order_subject": "slope at the subject",
    "first_order": "slope at every position",
    "drift_subject": r"$\Delta_o$ put in at the subject",
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
        axis.set_title(title, fontweight="normal")
        axis.set_xlabel("edits so far (logarithmic)")
    axes[0].set(ylabel="share (0 to 1)", ylim=(0, 1.02))
    axes[0].legend()
    return figure


@plot
def forecasts_and_falls(record: Record, edits: int, seed: int = 0) -> Figure:
    """What untouched facts lost against two forecasts (one seed), and the rank correlation of all forecasts."""
    names = record["forecasts"]
    fall, made = toys.falls(record, edits, seed)
    figure, axes = canvas(1, 3, height=3.1, width_ratios=[1, 1, 1.25])
    for axis, name in zip(axes, ("norm", "first_order"), strict=False):
        axis.scatter(made[name], fall, s=10, color=BLUE, alpha=0.5, linewidths=0)
        axis.axhline(0, **DASHED)
        axis.set_xlabel(_FORECASTS[name].replace("slope", "slope forecast (nats)\n"))
    axes[0].set_ylabel(r"fall of $\log p$ (nats)")
    looks = sorted({at for at in record["forecast_at"]})
    for step, (at, marker, colour) in enumerate(zip(looks, MARKERS, (SKY, BLUE, PURPLE), strict=False)):
        for row, name in enumerate(names):
            place = len(names) - row + 0.22 * (1 - step)
            label = (f"{at} edits" if at < looks[-1] else "all edits") if not row else None
            style = {"color": colour, "marker": marker, "markersize": 5, "label": label}
            interval(axes[2], place, *over_seeds(toys.ranks(record, name, at)), **style)
    axes[2].axvline(0, **DASHED)
    axes[2].set_yticks(range(len(names), 0, -1), labels=[_FORECASTS[name] for name in names])
    axes[2].yaxis.tick_right()
    axes[2].set(xlim=(-0.2, 1), xlabel="rank correlation with the fall")
    axes[2].legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=3, columnspacing=0.8, handletextpad=0.1)
    return figure


@plot
def reach_of_an_edit(record: Record, widths: Sequence[int]) -> Figure:
    """What one edit does to facts of other subjects, by the size of p between the two keys."""
    edges = [*record["edges"], None]
    short = ["" if edge is None else f"{edge:g}".removeprefix("0") or "0" for edge in edges]
    labels = [f"{a}–{b}" if b else f"> {a}" for a, b in pairwise(short)]
    figure, axes = canvas(1, 2, height=3.2)
    for width, colour, marker in zip(widths, CYCLE, MARKERS, strict=False):
        classes, change, flips = toys.reach(record, width)
        style = {"color": colour, "marker": marker, "markersize": 4, "label": f"$d_m$ = {4 * width}"}
        band(axes[0], classes, change, **style)
        band(axes[1], classes, flips, **style)
    axes[0].set(yscale="log", ylabel=r"mean change of $\log p$, size (nats)")
    axes[1].set(ylabel="share of right answers that flip", ylim=(0, None))
    used = 1 + max(int(line.get_xdata()[-1]) for line in axes[0].get_lines())
    for axis in axes:
        axis.set_xticks(range(used), labels=labels[:used])
        axis.set_xlabel("$|p|$ between the edit's key and the fact's")
    axes[0].legend()
    return figure


@plot
def tails_by_width(record: Record) -> Figure:
    """Excess kurtosis, quantile kurtosis and spread of p against d_m, a row a layer, a line a list of facts."""
    d_m = 4.0 * np.array(toys.widths(record))
    panels = (
        ("excess_kurtosis", "excess kurtosis"),
        ("quantile_kurtosis", "quantile kurtosis"),
        ("spread", r"spread: sd · $\sqrt{d_m}$"),
    )
    figure, axes = canvas(2, 3, height=5.0, sharex=True)
    for layer in (0, 1):
        for axis, (name, title) in zip(axes[layer], panels, strict=True):
            for (kind, (label, colour)), marker in zip(_LISTS.items(), MARKERS, strict=False):
                values = toys.by_width(record, layer, kind, name)
                band(axis, d_m, values, color=colour, marker=marker, markersize=4, label=label)
            axis.set_xscale("log", base=2)
            ticks(axis.xaxis, d_m)
            axis.set_title(title, fontweight="normal")
            axis.axhline(1 if name == "spread" else 0, **DASHED)
        fine = np.geomspace(d_m[0], d_m[-1], 50)
        expected = toys.twin_of_random_keys(fine, record["compared"])
        axes[layer, 0].plot(fine, expected, color=GREY, linewidth=1.2, linestyle=":", label="random, one twice")
        kurtosis_scale(axes[layer, 0])
        axes[layer, 0].set_ylabel(f"layer {layer}")
        axes[layer, 2].set_ylim(bottom=0)
    for axis in axes[1]:
        axis.set_xlabel("width of the memory, $d_m$")
    shared_legend(axes[0, 0], 4, "outside upper center", columnspacing=1.2)
    return figure


@plot
def tails_by_history(record: Record) -> Figure:
    """Excess kurtosis of p against training steps and against the number of facts, a line a layer and list."""
    knobs = (("training steps", "steps", "steps"), ("facts in the world", "families", "facts"))
    figure, axes = canvas(1, 2, height=3.2, sharey=True)
    for panel, (label, knob, name) in zip(axes, knobs, strict=True):
        settings = toys.settings_along(record, knob)
        at = [toys.select(record, **where)[0][name] for where in settings]
        for layer, colour in ((0, GREEN), (1, PURPLE)):
            for kind, line, marker in zip(toys.LISTS[:2], ("-", "--"), "os", strict=True):
                tails = [toys.series(record, layer, kind, "excess_kurtosis", **where) for where in settings]
                shown = range(len(at)) if knob == "steps" else at
                text = f"layer {layer}, {_LISTS[kind][0].removeprefix('last tokens ')}"
                style = {"color": colour, "linestyle": line, "marker": marker, "markersize": 4, "label": text}
                band(panel, shown, np.array(tails).T, **style)
        if knob == "steps":
            panel.set_xticks(range(len(at)), labels=[f"{step:,}" for step in at])
        else:
            panel.set_xscale("log", base=2)
            ticks(panel.xaxis, at)
        panel.set_xlabel(label)
        panel.axhline(0, **DASHED)
    axes[0].set_ylabel("excess kurtosis")
    shared_legend(axes[0], 2, "outside upper center", columnspacing=1.2)
    return figure
