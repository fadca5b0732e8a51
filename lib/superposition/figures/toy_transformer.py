"""Plots of the small transformer: forgetting, forecasts, the reach of an edit, tails over the grid (chapter 09)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike

from superposition.figures.style import BLUE, CYCLE, GREEN, ORANGE, PURPLE, SKY, STYLE, VERMILION, band, canvas
from superposition.records import Record
from superposition.stats.intervals import over_seeds
from superposition.studies.toys import LISTS, ranks, select, series, twin_of_random_keys, widths

_MARKERS = "osD^v"
_LISTS = {
    "distinct": ("last tokens all different", BLUE),
    "shared": ("last tokens shared in pairs", ORANGE),
    "twin": ("one key twice", VERMILION),
}
#: How a forecast is called in a figure.
FORECAST_NAMES = {
    "overlap": r"$\sum_i p^2$: keys alone",
    "norm": r"$\|\Delta_o\|$ at the subject",
    "first_order_subject": "slope at the subject",
    "first_order": "slope at every position",
    "drift_subject": r"$\Delta_o$ put in at the subject",
}


def _ticks(axis: Axes, places: ArrayLike) -> None:
    axis.set_xticks(places, labels=[f"{place:g}" for place in places])
    axis.xaxis.set_minor_locator(NullLocator())


def edited_lives(record: Record) -> Figure:
    """Facts of other subjects still known, and edits that still hold, against the number of edits, a line a width.

    A line ends at the last look that every seed reached.
    """
    panels = (("kept", "facts of other subjects still right"), ("held", "edits that still hold"))
    with mpl.rc_context(STYLE):
        figure, axes = canvas(1, 2, height=3.2, sharey=True)
        for axis, (name, title) in zip(axes[0], panels, strict=True):
            for width, colour, marker in zip(widths(record), CYCLE, _MARKERS, strict=False):
                looks = [look for row in select(record, width=width, life=True) for look in row["life"]["looks"]]
                after = sorted({look["edits"] for look in looks})
                values = {edits: [look[name] for look in looks if look["edits"] == edits] for edits in after}
                seeds = len(values[1])
                at = [edits for edits, found in values.items() if len(found) == seeds]
                style = {"color": colour, "marker": marker, "markersize": 4, "label": f"$d_m$ = {4 * width}"}
                band(axis, at, np.array([values[edits] for edits in at]).T, **style)
            axis.set_xscale("log", base=2)
            _ticks(axis, [1, 4, 16, 64, 192])
            axis.set_title(title, fontweight="normal")
            axis.set_xlabel("edits so far (logarithmic)")
        axes[0, 0].set_ylabel("share (0 to 1)")
        axes[0, 0].set_ylim(0, 1.02)
        axes[0, 0].legend()
    return figure


def forecasts_and_falls(record: Record, edits: int, seed: int = 0) -> Figure:
    """What untouched facts lost against two forecasts (one seed), and the rank correlation of all forecasts."""
    names = record["forecasts"]
    found = record.arrays[f"seed_{seed}_edits_{edits}"]
    fall, made = found[0], dict(zip(names, found[1:], strict=True))
    with mpl.rc_context(STYLE):
        figure, axes = canvas(1, 3, height=3.1, width_ratios=[1, 1, 1.25])
        for axis, name in zip(axes[0], ("norm", "first_order"), strict=False):
            axis.scatter(made[name], fall, s=10, color=BLUE, alpha=0.5, linewidths=0)
            axis.axhline(0, color="#666666", linestyle="--", linewidth=1)
            axis.set_xlabel(FORECAST_NAMES[name].replace("slope", "slope forecast (nats)\n"))
        axes[0, 0].set_ylabel(r"fall of $\log p$ (nats)")
        looks = sorted({at for at in record["forecast_at"]})
        for step, (at, marker, colour) in enumerate(zip(looks, _MARKERS, (SKY, BLUE, PURPLE), strict=False)):
            for row, name in enumerate(names):
                middle, low, high = over_seeds(ranks(record, name, at))
                place = len(names) - row + 0.22 * (1 - step)
                axes[0, 2].plot([low, high], [place, place], color=colour, linewidth=1.5)
                label = (f"{at} edits" if at < looks[-1] else "all edits") if not row else None
                axes[0, 2].plot(middle, place, marker=marker, color=colour, linestyle="", markersize=5, label=label)
        axes[0, 2].axvline(0, color="#666666", linestyle="--", linewidth=1)
        axes[0, 2].set_yticks(range(len(names), 0, -1), labels=[FORECAST_NAMES[name] for name in names])
        axes[0, 2].yaxis.tick_right()
        axes[0, 2].set_xlim(-0.2, 1)
        axes[0, 2].set_xlabel("rank correlation with the fall")
        axes[0, 2].legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=3, columnspacing=0.8, handletextpad=0.1)
    return figure


def reach_of_an_edit(record: Record, widths: Sequence[int]) -> Figure:
    """What one edit does to facts of other subjects, by the size of p between the two keys."""
    edges = [*record["edges"], None]
    short = ["" if edge is None else f"{edge:g}".removeprefix("0") or "0" for edge in edges]
    labels = [f"{a}–{b}" if b else f"> {a}" for a, b in pairwise(short)]
    with mpl.rc_context(STYLE):
        figure, axes = canvas(1, 2, height=3.2)
        for width, colour, marker in zip(widths, CYCLE, _MARKERS, strict=False):
            rows = [row["partners"] for row in select(record, width=width, life=True)]
            counts, flips = np.array([row["pairs"] for row in rows]), np.array([row["flips"] for row in rows])
            change = np.array([[np.nan if c is None else c for c in row["change"]] for row in rows])
            full = (counts >= 20).all(0)
            place = np.flatnonzero(full)
            style = {"color": colour, "marker": marker, "markersize": 4, "label": f"$d_m$ = {4 * width}"}
            band(axes[0, 0], place, change[:, full], **style)
            band(axes[0, 1], place, flips[:, full] / counts[:, full], **style)
        axes[0, 0].set_yscale("log")
        axes[0, 0].set_ylabel(r"mean change of $\log p$, size (nats)")
        axes[0, 1].set_ylabel("share of right answers that flip")
        axes[0, 1].set_ylim(bottom=0)
        used = 1 + max(int(line.get_xdata()[-1]) for line in axes[0, 0].get_lines())
        for axis in axes[0]:
            axis.set_xticks(range(used), labels=labels[:used])
            axis.set_xlabel("$|p|$ between the edit's key and the fact's")
        axes[0, 0].legend()
    return figure


def tails_by_width(record: Record) -> Figure:
    """Excess kurtosis, quantile kurtosis and spread of p against d_m, a row a layer, a line a list of facts."""
    d_m = 4.0 * np.array(widths(record))
    panels = (
        ("excess_kurtosis", "excess kurtosis"),
        ("quantile_kurtosis", "quantile kurtosis"),
        ("spread", r"spread: sd · $\sqrt{d_m}$"),
    )
    with mpl.rc_context(STYLE):
        figure, axes = canvas(2, 3, height=5.0, sharex=True)
        for layer in (0, 1):
            for axis, (name, title) in zip(axes[layer], panels, strict=True):
                for (kind, (label, colour)), marker in zip(_LISTS.items(), _MARKERS, strict=False):
                    values = np.array([series(record, layer, kind, name, width=w, life=True) for w in widths(record)]).T
                    band(axis, d_m, values, color=colour, marker=marker, markersize=4, label=label)
                axis.set_xscale("log", base=2)
                _ticks(axis, d_m)
                axis.set_title(title, fontweight="normal")
                axis.axhline(1 if name == "spread" else 0, color="#666666", linestyle="--", linewidth=1)
            fine = np.geomspace(d_m[0], d_m[-1], 50)
            curve = twin_of_random_keys(fine, record["compared"])
            axes[layer, 0].plot(fine, curve, color="#666666", linewidth=1.2, linestyle=":", label="random, one twice")
            axes[layer, 0].set_yscale("symlog", linthresh=10)
            axes[layer, 0].set_yticks([0, 5, 10, 30, 100], labels=["0", "5", "10", "30", "100"])
            axes[layer, 0].set_ylabel(f"layer {layer}")
            axes[layer, 2].set_ylim(bottom=0)
        for axis in axes[1]:
            axis.set_xlabel("width of the memory, $d_m$")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4, columnspacing=1.2)
    return figure


def tails_by_history(record: Record) -> Figure:
    """Excess kurtosis of p against training steps and against the number of facts, a line a layer and list."""
    base = record["base"]
    axis_of: tuple[tuple[str, str, Callable[[dict], float], dict], ...] = (
        ("training steps", "steps", lambda row: row["steps"], {"width": base["width"], "families": base["families"]}),
        ("facts in the world", "families", lambda row: row["facts"], {"width": base["width"]}),
    )
    with mpl.rc_context(STYLE):
        figure, axes = canvas(1, 2, height=3.2, sharey=True)
        for panel, (label, name, place, where) in zip(axes[0], axis_of, strict=True):
            cells = select(record, **where)
            if name == "families":
                cells = [row for row in cells if row["steps"] * base["families"] == base["steps"] * row["families"]]
            values = sorted({row[name] for row in cells})
            at = [place(next(row for row in cells if row[name] == value)) for value in values]
            for layer, colour in ((0, GREEN), (1, PURPLE)):
                for kind, line, marker in zip(LISTS[:2], ("-", "--"), "os", strict=True):
                    found = np.array(
                        [
                            [r["overlaps"][layer][kind]["excess_kurtosis"] for r in cells if r[name] == value]
                            for value in values
                        ]
                    ).T
                    shown = range(len(at)) if name == "steps" else at
                    text = f"layer {layer}, {_LISTS[kind][0].removeprefix('last tokens ')}"
                    style = {"color": colour, "linestyle": line, "marker": marker, "markersize": 4, "label": text}
                    band(panel, shown, found, **style)
            if name == "steps":
                panel.set_xticks(range(len(at)), labels=[f"{step:,}" for step in at])
            else:
                panel.set_xscale("log", base=2)
                _ticks(panel, at)
            panel.set_xlabel(label)
            panel.axhline(0, color="#666666", linestyle="--", linewidth=1)
        axes[0, 0].set_ylabel("excess kurtosis")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2, columnspacing=1.2)
    return figure
