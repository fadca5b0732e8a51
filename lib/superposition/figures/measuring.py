"""Plots of measurements: heatmaps, densities, depth, angles (Part III)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from superposition.figures.colours import (
    BLACK,
    BLUE,
    DASHED,
    GREEN,
    GREY,
    MARKERS,
    ORANGE,
    PUBLISHED,
    PURPLE,
    model_looks,
)
from superposition.figures.style import (
    DEPTH,
    SHORT_DEPTH,
    canvas,
    curve,
    heatmap,
    kurtosis_scale,
    name_lines,
    plot,
    relative_depth,
    shared_legend,
)
from superposition.records import Record
from superposition.stats import shape
from superposition.stats.shape import LABELS
from superposition.studies import texts
from superposition.studies.measurement import called

#: How the texts behind C are drawn.
OF_TEXT = {"book": (BLACK, "o", "-"), "manual": (GREEN, "^", "--"), "wikipedia": (PURPLE, "D", "-.")}


@plot
def needed_and_found(record: Record, layer: int, *, order: ArrayLike | None = None) -> Figure:
    """What editing without loss would need, the identity, beside the P that a model has at one layer."""
    found = record.overlaps(layer).P
    order = np.arange(len(found)) if order is None else np.asarray(order)
    figure, axes = canvas(1, 2, height=3.7, sharey=True)
    heatmap(axes[0], np.eye(len(found)))
    image = heatmap(axes[1], found[np.ix_(order, order)])
    axes[0].set(title="What lossless editing needs", ylabel="fact $i$, which is edited")
    axes[1].set_title(f"What the model holds (layer {layer})")
    for axis in axes:
        axis.set_xlabel("fact $j$, which should stay")
    figure.colorbar(image, ax=axes, shrink=0.85, extend="both", label="superposition $p(k_i, k_j)$")
    return figure


@plot
def heatmaps(record: Record, layers: Sequence[int], *, order: ArrayLike, limit: float = 0.6) -> Figure:
    """P at several layers, the facts in a given order, on one colour scale that is cut at ``±limit``."""
    figure, axes = canvas(1, len(layers), height=2.7, sharey=True)
    rows = np.asarray(order)
    for axis, layer in zip(axes, layers, strict=True):
        heatmap(axis, record.overlaps(layer).P[np.ix_(rows, rows)], limit)
        axis.set(title=f"layer {layer}", xlabel="fact $j$", xticks=[0, 50, 100], yticks=[0, 50, 100])
    axes[0].set_ylabel("fact $i$")
    figure.colorbar(axes[-1].images[0], ax=axes, shrink=0.85, extend="both", label="$p(k_i, k_j)$")
    return figure


@plot
def densities(record: Record, layers: Sequence[int]) -> Figure:
    """Density of the standardised p beside the diagonal on a logarithmic axis, against a normal distribution."""
    edges = np.linspace(-6, 14, 81)
    middles = (edges[1:] + edges[:-1]) / 2
    figure, (axis,) = canvas(height=3.4)
    for layer, marker in zip(layers, MARKERS, strict=False):
        values = shape.off_diagonal(record.overlaps(layer).P)
        scaled = (values - values.mean()) / values.std()
        density, _ = np.histogram(scaled, edges, density=True)
        density[density == 0] = np.nan
        axis.plot(middles, density, marker=marker, markersize=3, linewidth=1.2, label=f"layer {layer}")
    normal = np.exp(-(middles**2) / 2) / np.sqrt(2 * np.pi)
    axis.plot(middles, normal, color=GREY, linestyle="--", label="normal")
    axis.set(yscale="log", ylim=(1e-4, 2), ylabel="density (logarithmic)")
    axis.set_xlabel("$p$, in standard deviations from its mean")
    axis.legend()  # its curves end where each has no value any more
    return figure


#: The four panels of p by depth: statistic and title.
_STATISTICS = {
    "mean": "mean of $p$",
    "sd": r"spread: sd · $\sqrt{d_m}$ (1 for random keys)",
    "excess_kurtosis": "excess kurtosis",
    "quantile_kurtosis": "quantile kurtosis (0 if normal)",
}


def _statistic(axis: Axes, rows: Sequence[Mapping], name: str, **line) -> None:
    """A statistic of p by relative depth from a record's rows, a layer each, with its interval where they have one."""
    depth = relative_depth([row["layer"] for row in rows])
    scale = np.sqrt([row["d_m"] for row in rows]) if name == "sd" else np.ones(len(rows))
    axis.plot(depth, np.array([row["P"][name] for row in rows]) * scale, **line)
    if f"{name}_interval" in rows[0]["P"]:
        low, high = np.array([row["P"][f"{name}_interval"] for row in rows]).T * scale
        axis.fill_between(depth, low, high, color=line["color"], alpha=0.2, linewidth=0)


@plot
def by_depth(
    record: Record, published: Mapping[str, Sequence[float]] | None = None, *, inside: ArrayLike | None = None
) -> Figure:
    """Mean, spread, excess kurtosis and quantile kurtosis of p against depth, with bootstrap intervals.

    Parameters
    ----------
    record : Record
        Of a measurement.
    published : mapping of str to sequence of float, optional
        Excess kurtosis by layer of other models; drawn against relative depth.
    inside : sequence of int, optional
        Facts whose own curve is drawn beside that of all.
    """
    (look,) = model_looks([record["model"]["name"]])
    figure, axes = canvas(2, 2, height=5.4, sharex=True)
    for axis, name in zip(axes.flat, _STATISTICS, strict=True):
        _statistic(axis, record["statistics"], name, **look.line(markersize=3))
    if inside is not None:
        rows = np.asarray(inside)
        matrices = {layer: record.overlaps(layer).P[np.ix_(rows, rows)] for layer in record["layers"]}
        subset = [row | {"P": shape.summary(matrices[row["layer"]], resamples=0)} for row in record["statistics"]]
        style = {"color": ORANGE, "linewidth": 1.2, "linestyle": "-.", "label": "without position 0"}
        for axis, name in zip(axes.flat, _STATISTICS, strict=True):
            _statistic(axis, subset, name, **style)
    for axis, (name, title) in zip(axes.flat, _STATISTICS.items(), strict=True):
        axis.axhline(1 if name == "sd" else 0, **DASHED)
        axis.set_title(title)
    for name, kurtosis in (published or {}).items():
        axes[1, 0].plot(np.linspace(0, 1, len(kurtosis)), kurtosis, label=name, **PUBLISHED)
    kurtosis_scale(axes[1, 0])
    axes[0, 1].set_ylim(bottom=0)
    for axis in axes[1]:
        axis.set_xlabel(DEPTH)
    shared_legend(axes[1, 0], 3)
    return figure


@plot
def under_texts(records: Sequence[Record]) -> Figure:
    """Mean, spread and excess kurtosis of p against depth, a column a model, a line and a band a text behind C."""
    names = "mean", "spread", "excess_kurtosis"
    figure, axes = canvas(len(names), len(records), height=6.8, sharex=True, sharey="row")
    for column, record in zip(axes.T, records, strict=True):
        depth = relative_depth(record["layers"])
        for axis, name in zip(column, names, strict=True):
            for source in texts.sources(record):
                look = dict(zip(("color", "marker", "linestyle"), OF_TEXT[source], strict=True))
                ends = np.array(texts.statistic(record, source, name)).T
                curve(axis, depth, *ends, markersize=3, label=texts.TEXTS[source], **look)
            axis.axhline({"spread": 1}.get(name, 0), **DASHED)
            if name == "excess_kurtosis":
                kurtosis_scale(axis, 1000)
        column[0].set_title(called(record))
        column[-1].set_xlabel(SHORT_DEPTH)
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(LABELS[name] + " of $p$")
    name_lines(axes[0, -1], wide=10)
    return figure


def _edges(cosines: np.ndarray, step: float) -> np.ndarray:
    """Edges of bins of angles: no bin is narrower than the step in which the cosines are kept."""
    if not step:
        return np.linspace(0, 180, 73)
    least, most = cosines.min(), min(cosines.max(), 1.0)
    edges = least - step / 2 + step * np.arange(np.ceil((most - least) / step) + 2)
    return np.unique(np.degrees(np.arccos(np.clip(edges, -1, 1))))


@plot
def angles(record: Record, layers: Sequence[int]) -> Figure:
    """Angles between keys before and after whitening, a panel a layer."""
    figure, axes = canvas(1, len(layers), height=2.8, sharey=True, sharex=True)
    for axis, layer in zip(axes, layers, strict=True):
        found = record.overlaps(layer)
        raw, whitened = (shape.off_diagonal(m) for m in (found.cosine_raw, found.cosine_whitened))
        for name, cosines, edges, colour, hatch in (
            ("raw", raw, _edges(raw, record.resolution("cosine_raw")), ORANGE, "//"),
            ("whitened", whitened, np.linspace(0, 180, 73), BLUE, ""),
        ):
            style = {"histtype": "stepfilled", "alpha": 0.55, "color": colour, "hatch": hatch, "label": name}
            axis.hist(np.degrees(np.arccos(np.clip(cosines, -1, 1))), edges, density=True, **style)
        axis.axvline(90, color=GREY, linestyle="--", linewidth=1)
        axis.set(title=f"layer {layer}", xlabel="angle (degrees)", xlim=(25, 120), xticks=[30, 60, 90])
    axes[0].set_ylabel("density (per degree)")
    axes[0].legend(loc="upper left")
    return figure


@plot
def exponents(record: Record) -> Figure:
    """Exponents with which time and memory grow: measured (filled), and by the operations and what is kept (open).

    ``record`` is ``benchmark-growth``: a row a series.
    """
    figure, axes = canvas(1, 2, height=3.6, sharey=True)
    names = list(record["series"])
    rows = np.arange(len(names))[::-1]
    for axis, (what, by, title) in zip(
        axes, (("time", "operations", "time"), ("memory", "kept", "memory")), strict=True
    ):
        found = [record["series"][name][what] for name in names]
        told, measured = (np.array([one[key] for one in found]) for key in (by, "measured"))
        axis.hlines(rows, told, measured, color=GREY, linewidth=1)
        axis.scatter(
            told,
            rows,
            s=60,
            facecolors="none",
            edgecolors=GREY,
            linewidths=1.4,
            label="by the operations (time), by what is kept (memory)",
        )
        axis.scatter(measured, rows, s=22, color=BLUE, label="measured")
        for power in range(4):
            axis.axvline(power, **DASHED)
        axis.set(title=title, xlabel="exponent", xlim=(-0.4, 3.4), xticks=range(4))
    axes[0].set_yticks(rows, labels=[re.sub("^([CP]) ", r"$\1$ ", name) for name in names])
    shared_legend(axes[0], 2)
    return figure
