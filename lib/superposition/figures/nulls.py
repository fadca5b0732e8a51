"""Plots of null models, confounds and the number of facts (chapter ``12-nulls-and-confounds``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from superposition.figures.colours import BLACK, BLUE, CYCLE, GREEN, GREY, MARKERS, ORANGE, PURPLE, SKY, VERMILION
from superposition.figures.style import DEPTH, canvas, curve, kurtosis_scale, plot, relative_depth, shared_legend, ticks
from superposition.records import Record
from superposition.stats.shape import LABELS
from superposition.studies import nulls

#: Line colour and style of each null model, the same in every figure.
_LOOKS = {
    "gaussian": (BLACK, ":"),
    "same norms": (ORANGE, "-"),
    "same spectrum": (GREEN, "--"),
    "shuffled": (VERMILION, "--"),
    "shuffled before": (PURPLE, "-."),
    "turned before": (SKY, "-."),
    "tokens of text": (GREEN, "-"),
    "random subjects": (VERMILION, "-"),
}


def _facts(axis: Axes, record: Record, name: str, matrix: str, **line) -> None:
    """A statistic of all facts by depth, with its interval."""
    curves = (nulls.curve(record, name, which, matrix) for which in ("table", "low", "high"))
    curve(axis, relative_depth(record["layers"]), *curves, color=BLUE, **line)


@plot
def tails_without_meaning(
    twins: Mapping[int, Sequence[tuple[int, float, float]]], lengths: Sequence[tuple[float, float, float, float]]
) -> Figure:
    """Two ways to a high kurtosis in random keys: equal pairs, and unequal lengths.

    Parameters
    ----------
    twins : mapping of width to (pairs of twins, kurtosis found, kurtosis expected)
    lengths : sequence of (σ of the log-lengths, kurtosis of p found, kurtosis of p expected, of the cosines found)
    """
    figure, axes = canvas(1, 2, height=3.2)
    for (width, rows), colour, marker in zip(twins.items(), CYCLE, MARKERS, strict=False):
        pairs, found, expected = np.array(rows).T
        axes[0].plot(pairs, expected, color=colour, linewidth=1.2)
        axes[0].plot(pairs, found, color=colour, marker=marker, linestyle="none", label=f"$d_m$ = {width:,}")
    axes[0].set(xlabel="pairs of equal keys among 128", ylabel="excess kurtosis of $p$")
    axes[0].set_ylim(0, 1.6 * max(row[1] for rows in twins.values() for row in rows) + 1)
    axes[0].legend(loc="upper right")
    sigma, found, expected, cosine = np.array(lengths).T
    axes[1].plot(sigma, expected, color=BLUE, linewidth=1.2, label="$p$, expected")
    axes[1].plot(sigma, found, color=BLUE, marker="o", linestyle="none", label="$p$, found")
    axes[1].plot(sigma, cosine, color=VERMILION, marker="s", linestyle="none", label="cosine, found")
    axes[1].set_xlabel("spread σ of the keys' log-lengths")
    axes[1].legend()
    return figure


@plot
def nulls_by_depth(record: Record, names: Sequence[str]) -> Figure:
    """Statistics by depth: the facts with their interval, and null models, each the mean of its draws.

    Mean, spread and excess kurtosis are those of p, the L-kurtosis is that of the whitened cosines.
    """
    panels = ("mean", "P"), ("spread", "P"), ("excess_kurtosis", "P"), ("l_kurtosis", "cosine_whitened")
    depth = relative_depth(record["layers"])
    figure, axes = canvas(2, 2, height=5.8, sharex=True)
    for axis, (name, matrix) in zip(axes.flat, panels, strict=True):
        _facts(axis, record, name, matrix, linewidth=2.4, label="the facts")
        strangers = nulls.curve(record, name, "no position 0, no shared last token", matrix)
        axis.plot(depth, strangers, color=BLUE, linestyle="--", linewidth=1.6, label="no shared token")
        for null in names:
            colour, line = _LOOKS[null]
            values = nulls.curve(record, name, null, matrix)
            axis.plot(depth, values, color=colour, linestyle=line, linewidth=1.4, label=null)
        if name == "excess_kurtosis":
            kurtosis_scale(axis, 300)
        if name == "spread":
            axis.set_ylim(bottom=0)
        axis.set_title(f"{LABELS[name]} of " + ("$p$" if matrix == "P" else "cosines"), fontweight="normal")
    for axis in axes[1]:
        axis.set_xlabel(DEPTH)
    shared_legend(axes[0, 0], 4)
    return figure


@plot
def confounds_by_depth(records: Sequence[Record], names: Mapping[str, str], matrix: str = "P") -> Figure:
    """Excess kurtosis and L-kurtosis of p by depth, of all facts and with confounds taken out; a column a model."""
    looks = [(VERMILION, "-."), (GREEN, "--"), (PURPLE, ":"), (ORANGE, "-")]
    figure, axes = canvas(2, len(records), height=5.2, sharex=True, sharey="row")
    for column, record in enumerate(records):
        for axis, name in zip(axes[:, column], ("excess_kurtosis", "l_kurtosis"), strict=True):
            _facts(axis, record, name, matrix, linewidth=2.2, label="all facts")
            for (variant, label), (colour, line) in zip(names.items(), looks, strict=False):
                values = nulls.curve(record, name, variant, matrix)
                axis.plot(
                    relative_depth(record["layers"]), values, color=colour, linestyle=line, linewidth=1.5, label=label
                )
            if name == "excess_kurtosis":
                kurtosis_scale(axis, 300)
            axis.axhline(0, color=GREY, linewidth=0.8)
        axes[0, column].set_title(record["model"]["name"])
        axes[1, column].set_xlabel(DEPTH)
    axes[0, 0].set_ylabel("excess kurtosis of $p$")
    axes[1, 0].set_ylabel("L-kurtosis of $p$")
    shared_legend(axes[0, 0], 3)
    return figure


@plot
def words_or_relation(records: Sequence[Record]) -> Figure:
    """Mean whitened cosine of pairs by depth: asked as in the table, by the subject alone, with prompts swapped."""
    same, swapped = "same relation, words before", "apart, swapped into one prompt"
    curves = {
        "same relation, asked in the same words": ("table", same, BLUE, "-"),
        "the same pairs, subject alone": ("subject alone", same, SKY, "--"),
        "nothing in common": ("table", "apart", BLACK, ":"),
        "nothing in common but the words before": ("prompts swapped", swapped, VERMILION, "-."),
    }
    figure, axes = canvas(1, len(records), height=3.7, sharey=True)
    for axis, record in zip(axes, records, strict=True):
        for label, (reading, category, colour, line) in curves.items():
            style = {"alpha": 0.15, "color": colour, "linestyle": line, "label": label}
            curve(axis, relative_depth(record["layers"]), *nulls.pairs(record, reading, category), **style)
        axis.set(title=record["model"]["name"], xlabel=DEPTH)
    axes[0].set_ylabel("mean whitened cosine")
    shared_legend(axes[0], 2)
    return figure


@plot
def lists_by_size(record: Record, layer: int, statistics: Sequence[str]) -> Figure:
    """Lists drawn from the table by their size: the range of the kurtosis, and how far each statistic scatters."""
    place, sizes = list(record["layers"]).index(layer), np.array(record["sizes"])
    column = record["statistics"].index("excess_kurtosis")
    figure, axes = canvas(1, 2, height=3.5)
    low, middle, high = record.arrays["lists"][:, place, :, 0, column]
    curve(axes[0], sizes, middle, low, high, color=BLUE, marker="o", markersize=4, label="lists drawn from the table")
    table = record.arrays["table"][place, 0, column]
    axes[0].plot(record["facts"]["count"], table, marker="D", color=BLACK, linestyle="none", label="the table")
    axes[0].set(ylabel="excess kurtosis of $p$", ylim=(0, None))
    axes[0].set_title(f"{record['model']['name']}, layer {layer}", fontweight="normal")
    axes[0].legend()
    for name, colour, marker in zip(statistics, CYCLE, MARKERS, strict=False):
        scatter = np.median(nulls.scatter(record, name), axis=0)
        axes[1].plot(sizes, scatter, color=colour, marker=marker, markersize=4, label=LABELS[name])
    axes[1].set_yscale("log")
    axes[1].set_yticks([0.03, 0.1, 0.3, 1], labels=["3 %", "10 %", "30 %", "100 %"])
    axes[1].set_ylim(0.015, 1.5)
    axes[1].set_title("half a 95 % interval, median of layers", fontweight="normal")
    axes[1].legend(loc="lower left")
    for axis in axes:
        axis.set_xscale("log", base=2)
        ticks(axis.xaxis, sizes)
        axis.yaxis.minorticks_off()
        axis.axvline(128, color=GREY, linewidth=0.8, linestyle="--")
        axis.set_xlabel("facts in the list")
    return figure
