"""Plots of several models: by depth, by width, before and after training (chapter ``13-scaling``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from superposition.figures.colours import BLUE, CYCLE, DASHED, FAINT, GREEN, GREY, PUBLISHED, model_looks
from superposition.figures.style import SHORT_DEPTH, canvas, name_lines, plot, relative_depth, shared_legend, ticks
from superposition.records import Record
from superposition.stats.shape import LABELS, STATISTICS
from superposition.studies import scaling
from superposition.studies.measurement import called

#: Panels by depth: a statistic, of P (0) or of the whitened cosines (1).
_PANELS = ("spread", 0), ("excess_kurtosis", 0), ("l_kurtosis", 1)


def _dress(axes: np.ndarray) -> None:
    """Titles and axes of the panels by depth, once all measured values are drawn."""
    for axis, (name, matrix) in zip(axes, _PANELS, strict=True):
        axis.set_title(LABELS[name] + "\nof cosines" * matrix)
        axis.set_xlabel(SHORT_DEPTH)
    axes[0].set_ylim(bottom=0)


@plot
def law_of_one_pair(
    widths: ArrayLike, spreads: Mapping[float, ArrayLike], models: Mapping[str, int], m: int = 128
) -> Figure:
    """Expected excess kurtosis of m keys of which one comes twice, against the width.

    Parameters
    ----------
    widths : (n,) array
    spreads : mapping of the spread, in units of ``1/√d_m``, to the expected kurtosis at each width
    models : mapping of name to width
        Marked on the axis.
    """
    figure, (axis,) = canvas(height=3.6)
    for (spread, values), colour, line in zip(spreads.items(), CYCLE, ("-", "--", "-.", ":"), strict=False):
        label = "random keys (spread 1)" if spread == 1 else f"keys of spread {spread:g}"
        axis.plot(widths, values, color=colour, linestyle=line, label=label)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    style = {"rotation": 35, "ha": "left", "va": "bottom", "color": GREY}
    groups: list[list[str]] = []
    for name in sorted(models, key=models.__getitem__):
        near = groups and models[name] < 1.3 * models[groups[-1][-1]]
        groups = [*groups[:-1], [*groups[-1], name]] if near else [*groups, [name]]
    for names in groups:
        for name in names:
            axis.axvline(models[name], color=FAINT, linewidth=0.7, zorder=0)
        axis.annotate(", ".join(names), (models[names[0]], 1.01), xycoords=("data", "axes fraction"), **style)
    ticks(axis.xaxis, [512, 1024, 2048, 4096, 8192, 16384], ",g")
    ticks(axis.yaxis, [0.1, 1, 10, 100, 1000, 10000], ",g")
    axis.set(xlabel="width $d_m$ of the memory", ylabel=f"excess kurtosis,\n{m} facts, one twice")
    name_lines(axis, wide=16)
    return figure


@plot
def models_by_depth(
    measured: Sequence[Record], found: Sequence[np.ndarray], published: Mapping[str, Sequence[float]]
) -> Figure:
    """Spread, excess kurtosis and L-kurtosis of p by depth, a line a model, and published curves of the kurtosis.

    ``found`` holds :func:`superposition.studies.scaling.by_layer` of each record.
    """
    figure, axes = canvas(1, 3, height=3.6)
    looks = model_looks(record["model"]["name"] for record in measured)
    for record, values, look in zip(measured, found, looks, strict=True):
        style = look.line(markersize=3, linewidth=1.4)
        for axis, (name, matrix) in zip(axes, _PANELS, strict=True):
            axis.plot(relative_depth(record["layers"]), values[:, matrix, STATISTICS.index(name)], **style)
    _dress(axes)
    axes[0].axhline(1, **DASHED)
    axes[2].axhline(0, **DASHED)
    for name, kurtosis in published.items():
        x = np.linspace(0, 1, len(kurtosis))
        axes[1].plot(x, kurtosis, label=f"{name} (published)", **PUBLISHED)
    axes[1].set_yscale("log")
    ticks(axes[1].yaxis, [1, 3, 10, 30, 100])
    shared_legend(axes[1], 3)
    return figure


@plot
def models_by_width(measured: Sequence[Record], every: Sequence[np.ndarray], clean: Sequence[np.ndarray]) -> Figure:
    """Each layer of each model against the model's width: of all facts (open) and without confounds (filled)."""
    panels = ("excess_kurtosis", 0, "excess kurtosis of $p$"), ("l_kurtosis", 1, "L-kurtosis of cosines")
    widths = np.array([scaling.width(record) for record in measured])
    names = {w: "\n".join(called(r) for r in measured if scaling.width(r) == w) for w in widths}
    figure, axes = canvas(1, 2, height=3.6)
    for axis, (name, matrix, title) in zip(axes, panels, strict=True):
        column = STATISTICS.index(name)
        for found, colour, shift, fill, label in (
            (every, GREY, 0.975, "none", "all facts"),
            (clean, GREEN, 1.025, GREEN, "without confounds"),
        ):
            for n, values in enumerate(found):
                x = np.full(len(values), widths[n] * shift)
                y = values[:, matrix, column]
                given = {"label": label} if n == 0 else {}
                axis.scatter(x, y, s=18, edgecolors=colour, facecolors=fill, alpha=0.75, linewidths=1, **given)
                axis.plot(x[0], np.median(y), marker="_", markersize=22, color=colour)
        axis.set_title(title)
        axis.set_xscale("log", base=2)
        axis.set_xticks(list(names), labels=[f"{w:,}\n{name}" for w, name in names.items()])
        axis.minorticks_off()
        axis.set(xlim=(widths.min() / 1.3, widths.max() * 1.3), xlabel="width $d_m$")
    axes[0].set_yscale("log")
    axes[0].set_yticks([1, 3, 10, 30, 100], labels=["1", "3", "10", "30", "100"])
    axes[0].legend()
    return figure


@plot
def before_training(record: Record, listed: str) -> Figure:
    """Spread, excess kurtosis and L-kurtosis by depth of a trained model and of the same with random weights."""
    row = list(record["lists"]).index(listed)
    x = np.array(record["layers"]) / (record["depth"] - 1)
    figure, axes = canvas(1, 3, height=3.3)
    for axis, (name, matrix) in zip(axes, _PANELS, strict=True):
        column = record["statistics"].index(name)
        axis.plot(x, record.arrays["trained"][:, row, matrix, column], color=BLUE, marker="o", label="trained")
        for seed, values in enumerate(record.arrays["untrained"][:, :, row, matrix, column]):
            given = {"label": "random weights"} if seed == 0 else {}
            axis.plot(x, values, color=GREY, marker="D", markersize=4, linestyle="-", linewidth=1.2, **given)
        axis.axhline(1 if name == "spread" else 0, **DASHED)
    _dress(axes)
    shared_legend(axes[2], 2)
    return figure
