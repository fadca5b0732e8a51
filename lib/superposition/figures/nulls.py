"""Plots of null models, confounds and the number of facts (chapter ``12-nulls-and-confounds``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from superposition.figures.colours import (
    BLACK,
    BLUE,
    CYCLE,
    DASHED,
    GREEN,
    GREY,
    HAIR,
    MARKERS,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    model_looks,
)
from superposition.figures.style import (
    SHORT_DEPTH,
    canvas,
    curve,
    interval,
    kurtosis_scale,
    name_lines,
    plot,
    relative_depth,
    shared_legend,
    ticks,
)
from superposition.records import Record
from superposition.stats.shape import LABELS
from superposition.studies import nulls, texts
from superposition.studies.measurement import called

#: Shares of a statistic below this are drawn at it.
LEAST = 0.01


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
    axes[0].set(xlabel="pairs of equal keys among 128", ylabel="excess kurtosis of $p$", ylim=(0, None))
    name_lines(axes[0])
    sigma, found, expected, cosine = np.array(lengths).T
    axes[1].plot(sigma, expected, color=BLUE, linewidth=1.2, label="$p$, expected")
    axes[1].plot(sigma, found, color=BLUE, marker="o", linestyle="none", label="$p$, found")
    axes[1].plot(sigma, cosine, color=VERMILION, marker="s", linestyle="none", label="cosine, found")
    axes[1].set(xlabel="spread σ of keys' log-lengths", ylabel="excess kurtosis")
    axes[1].legend()
    return figure


@plot
def nulls_beside_facts(records: Sequence[Record]) -> Figure:
    """What each null model has of a statistic of the facts: a panel a statistic, a row a null model, a mark a model.

    A mark is the median over layers, its line reaches from the least layer to the most; the facts are at 1. Shares
    below :data:`LEAST` are drawn there.
    """
    names, columns = records[0]["nulls"], 3
    looks = model_looks(record["model"]["name"] for record in records)
    figure, axes = canvas(-(-len(nulls.COMPARED) // columns), columns, height=6.4, sharey=True, sharex=True)
    shifts = np.linspace(0.16, -0.16, len(records)) if len(records) > 1 else [0.0]
    for axis, (label, what) in zip(axes.flat, nulls.COMPARED.items(), strict=False):
        axis.axvline(1, color=BLACK, linewidth=1)
        for record, look, shift in zip(records, looks, shifts, strict=True):
            for row, null in enumerate(names):
                ratios = np.maximum(nulls.ratio(record, null, *what), LEAST)
                ends = np.median(ratios), ratios.min(), ratios.max()
                mark = {"marker": look.marker, "markersize": 5, "label": None if row else look.name}
                interval(axis, len(names) - 1 - row + shift, *ends, color=look.colour, linewidth=1.3, **mark)
        axis.set(xscale="log", xlim=(LEAST / 1.6, 14), title=label)
        axis.xaxis.set_ticks([LEAST, 0.1, 1, 10], labels=[f"≤ {LEAST:g}", "0.1", "1", "10"])
        axis.tick_params(labelbottom=True)
        axis.minorticks_off()
        axis.grid(axis="y", color=HAIR, linewidth=0.5)
        axis.set_yticks(range(len(names)), names[::-1])
    for axis in axes.flat[len(nulls.COMPARED) :]:
        axis.axis("off")
        axis.legend(*axes[0, 0].get_legend_handles_labels(), loc="center")
    figure.supxlabel("null model over the facts (logarithmic): median and range of layers")
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
        axes[0, column].set_title(called(record))
        axes[1, column].set_xlabel(SHORT_DEPTH)
    axes[0, 0].set_ylabel("excess kurtosis of $p$")
    axes[1, 0].set_ylabel("L-kurtosis of $p$")
    shared_legend(axes[0, 0], 2)
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
        axis.set(title=called(record), xlabel=SHORT_DEPTH)
    axes[0].set_ylabel("mean whitened cosine")
    name_lines(axes[-1], wide=16)
    return figure


@plot
def nulls_by_depth(records: Sequence[Record], source: str) -> Figure:
    """Share of far pairs and excess kurtosis of p by depth, of facts and of three nulls; a column a model."""
    looks = dict(
        zip((texts.FACTS, *texts.NULLS), ((BLUE, "-"), (ORANGE, "--"), (GREY, ":"), (PURPLE, "-.")), strict=True)
    )
    figure, axes = canvas(2, len(records), height=5.2, sharex=True, sharey="row")
    for column, record in zip(axes.T, records, strict=True):
        depth = relative_depth(record["layers"])
        for of, (colour, line) in looks.items():
            style = {"color": colour, "linestyle": line, "label": texts.NULLS.get(of, "facts without shared tokens")}
            far = texts.beyond(record, source, of), texts.statistic(record, source, "excess_kurtosis", of)
            for axis, estimates in zip(column, far, strict=True):
                curve(axis, depth, *np.array(estimates).T, alpha=0.12, **style)
        kurtosis_scale(column[1], 300)
        column[1].axhline(0, **DASHED)
        column[0].set_title(called(record))
        column[1].set_xlabel(SHORT_DEPTH)
    axes[0, 0].set(ylabel="share of pairs with\n$|p| > 3/\\sqrt{d_m}$", ylim=(0, None))
    axes[1, 0].set_ylabel("excess kurtosis of $p$")
    name_lines(axes[0, -1], wide=15)
    return figure


@plot
def kinship_by_depth(records: Sequence[Record], source: str = "book") -> Figure:
    """Mean p by depth over pairs that share their fact, their relation, their kind of subject, or nothing."""
    looks = {
        "own paraphrase": (BLACK, "-"),
        "one relation": (BLUE, "-"),
        "one kind": (SKY, "--"),
        "apart": (GREY, ":"),
    }
    figure, axes = canvas(1, len(records), height=3.6, sharey=True)
    for axis, record in zip(axes, records, strict=True):
        depth = relative_depth(record["layers"])
        for which, (colour, line) in looks.items():
            ends = np.array(texts.kinship(record, source, which)).T
            curve(axis, depth, *ends, color=colour, linestyle=line, alpha=0.15, label=which)
        axis.axhline(1, **DASHED)
        axis.set(title=called(record), xlabel=SHORT_DEPTH)
    axes[0].set(ylabel="mean $p$", ylim=(0, None))
    name_lines(axes[-1], wide=10)
    return figure


@plot
def lists_by_size(record: Record, layer: int, statistics: Sequence[str]) -> Figure:
    """Lists drawn from the table by their size: the range of the kurtosis, and how far each statistic scatters."""
    place, sizes = list(record["layers"]).index(layer), np.array(record["sizes"])
    column = record["statistics"].index("excess_kurtosis")
    figure, axes = canvas(1, 2, height=3.5)
    low, middle, high = record.arrays["lists"][:, place, :, 0, column]
    curve(axes[0], sizes, middle, low, high, color=BLUE, marker="o", markersize=4, label="lists drawn")
    table = record.arrays["table"][place, 0, column]
    axes[0].plot(record["facts"]["count"], table, marker="D", color=BLACK, linestyle="none", label="the table")
    axes[0].set(ylabel="excess kurtosis of $p$", ylim=(0, None))
    axes[0].set_title(f"{called(record)}, layer {layer}")
    axes[0].legend(loc="upper right")
    for name, colour, marker in zip(statistics, CYCLE, MARKERS, strict=False):
        scatter = np.median(nulls.scatter(record, name), axis=0)
        axes[1].plot(sizes, scatter, color=colour, marker=marker, markersize=4, label=LABELS[name])
    axes[1].set(yscale="log", ylabel="of the value")
    axes[1].set_yticks([0.03, 0.1, 0.3, 1], labels=["3 %", "10 %", "30 %", "100 %"])
    axes[1].set_ylim(0.015, 1.5)
    axes[1].set_title("half a 95 % interval,\nmedian of layers")
    for axis in axes:
        axis.set_xscale("log", base=2)
        ticks(axis.xaxis, sizes)
        axis.yaxis.minorticks_off()
        axis.axvline(128, color=GREY, linewidth=0.8, linestyle="--")
        axis.set_xlabel("facts in the list")
    name_lines(axes[1])
    return figure
