"""Plots of measurements: heatmaps, densities, depth, angles (Part III)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from superposition.figures.style import BLACK, BLUE, CYCLE, ORANGE, SIGNED, STYLE, canvas
from superposition.records import Record
from superposition.stats import shape


def _heatmap(axis: Axes, matrix: np.ndarray, *, limit: float = 1.0):
    image = axis.imshow(matrix, cmap=SIGNED, vmin=-limit, vmax=limit, interpolation="nearest", aspect="equal")
    axis.spines[:].set_visible(True)
    return image


def needed_and_found(record: Record, layer: int, *, order: ArrayLike | None = None) -> Figure:
    """What editing without loss would need, the identity, beside the P that a model has at one layer."""
    found = record.overlaps(layer).P
    order = np.arange(len(found)) if order is None else np.asarray(order)
    with mpl.rc_context(STYLE):
        figure, axes = canvas(1, 2, height=3.7, sharey=True)
        _heatmap(axes[0, 0], np.eye(len(found)))
        image = _heatmap(axes[0, 1], found[np.ix_(order, order)])
        axes[0, 0].set_title("What lossless editing needs")
        axes[0, 1].set_title(f"What the model holds (layer {layer})")
        for axis in axes[0]:
            axis.set_xlabel("fact $j$, which should stay")
        axes[0, 0].set_ylabel("fact $i$, which is edited")
        bar = figure.colorbar(image, ax=axes, shrink=0.85, extend="both")
        bar.set_label("superposition $p(k_i, k_j)$")
    return figure


def heatmaps(record: Record, layers: Sequence[int], *, order: ArrayLike, limit: float = 0.6) -> Figure:
    """P at several layers, the facts in a given order, on one colour scale that is cut at ``±limit``."""
    with mpl.rc_context(STYLE):
        figure, axes = canvas(1, len(layers), height=2.9, sharey=True)
        for axis, layer in zip(axes[0], layers, strict=True):
            matrix = record.overlaps(layer).P[np.ix_(order, order)]
            image = _heatmap(axis, matrix, limit=limit)
            axis.set_title(f"layer {layer}")
            axis.set_xlabel("fact $j$")
        axes[0, 0].set_ylabel("fact $i$")
        bar = figure.colorbar(image, ax=axes, shrink=0.85, extend="both")
        bar.set_label("$p(k_i, k_j)$")
    return figure


def densities(record: Record, layers: Sequence[int]) -> Figure:
    """Density of the standardised p beside the diagonal on a logarithmic axis, against a normal distribution."""
    edges = np.linspace(-6, 14, 81)
    middles = (edges[1:] + edges[:-1]) / 2
    with mpl.rc_context(STYLE):
        figure, axes = canvas(height=3.4)
        axis = axes[0, 0]
        for layer, marker in zip(layers, "osD^v", strict=False):
            values = shape.off_diagonal(record.overlaps(layer).P)
            scaled = (values - values.mean()) / values.std()
            density, _ = np.histogram(scaled, edges, density=True)
            density[density == 0] = np.nan
            axis.plot(middles, density, marker=marker, markersize=3, linewidth=1.2, label=f"layer {layer}")
        normal = np.exp(-(middles**2) / 2) / np.sqrt(2 * np.pi)
        axis.plot(middles, normal, color="#666666", linestyle="--", label="normal")
        axis.set_yscale("log")
        axis.set_ylim(1e-4, 2)
        axis.set_xlabel("$p$, in standard deviations from its mean")
        axis.set_ylabel("density (logarithmic)")
        axis.legend()
    return figure


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
    rows = record["statistics"]
    subset = []
    if inside is not None:
        subset = [
            shape.summary(record.overlaps(layer).P[np.ix_(inside, inside)], resamples=0) for layer in record["layers"]
        ]
    depth = np.array([row["layer"] for row in rows], dtype=float)
    depth /= max(depth.max(), 1)
    root = np.sqrt([row["d_m"] for row in rows])
    panels = (
        ("mean of $p$", "mean", np.ones_like(root)),
        (r"spread: sd · $\sqrt{d_m}$ (1 for random keys)", "sd", root),
        ("excess kurtosis", "excess_kurtosis", np.ones_like(root)),
    )
    with mpl.rc_context(STYLE):
        figure, axes = canvas(2, 2, height=5.0, sharex=True)
        for axis, (title, name, scale) in zip(axes.flat, panels, strict=False):
            value = np.array([row["P"][name] for row in rows]) * scale
            low, high = np.array([row["P"][f"{name}_interval"] for row in rows]).T * scale
            axis.fill_between(depth, low, high, color=BLUE, alpha=0.2, linewidth=0)
            axis.plot(depth, value, marker="o", markersize=3, label=record["model"]["name"])
            if subset:
                trimmed = np.array([row[name] for row in subset]) * scale
                axis.plot(depth, trimmed, color=ORANGE, linewidth=1.2, linestyle="-.", label="without position 0")
            axis.set_title(title, fontweight="normal")
        axes[0, 0].axhline(0, color="#666666", linestyle="--", linewidth=1)
        axes[0, 1].axhline(1, color="#666666", linestyle="--", linewidth=1)
        axes[0, 1].set_ylim(bottom=0)
        axes[1, 0].axhline(0, color="#666666", linestyle="--", linewidth=1)
        for (name, curve), colour in zip((published or {}).items(), CYCLE[1:], strict=False):
            axes[1, 0].plot(np.linspace(0, 1, len(curve)), curve, color=colour, marker="s", markersize=3, label=name)
        axes[1, 0].set_yscale("symlog", linthresh=10)
        axes[1, 0].set_yticks([0, 5, 10, 30, 100], labels=["0", "5", "10", "30", "100"])
        axes[1, 0].legend()
        axes[1, 1].plot(depth, [row["P"]["quantile_kurtosis"] for row in rows], marker="o", markersize=3)
        if subset:
            robust = [row["quantile_kurtosis"] for row in subset]
            axes[1, 1].plot(depth, robust, color=ORANGE, linewidth=1.2, linestyle="-.")
        axes[1, 1].axhline(0, color="#666666", linestyle="--", linewidth=1)
        axes[1, 1].set_title("quantile kurtosis (0 if normal)", fontweight="normal")
        for axis in axes[1]:
            axis.set_xlabel("relative depth (0 first layer, 1 last)")
    return figure


def several_by_depth(measured: Sequence[Record], published: Mapping[str, Sequence[float]] | None = None) -> Figure:
    """Mean, spread, excess kurtosis and quantile kurtosis of p against depth, a line and a band a model.

    Parameters
    ----------
    measured : sequence of Record
        Of measurements.
    published : mapping of str to sequence of float, optional
        Excess kurtosis by layer of other models; drawn against relative depth.
    """
    titles = {
        "mean": "mean of $p$",
        "sd": r"spread: sd · $\sqrt{d_m}$ (1 for random keys)",
        "excess_kurtosis": "excess kurtosis",
        "quantile_kurtosis": "quantile kurtosis (0 if normal)",
    }
    with mpl.rc_context(STYLE):
        figure, axes = canvas(2, 2, height=5.2, sharex=True)
        for axis, (name, title) in zip(axes.flat, titles.items(), strict=True):
            for record, colour, marker in zip(measured, CYCLE, "osD^v", strict=False):
                rows = record["statistics"]
                depth = np.array([row["layer"] for row in rows]) / max(rows[-1]["layer"], 1)
                scale = np.sqrt([row["d_m"] for row in rows]) if name == "sd" else np.ones(len(rows))
                value = np.array([row["P"][name] for row in rows]) * scale
                if f"{name}_interval" in rows[0]["P"]:
                    low, high = np.array([row["P"][f"{name}_interval"] for row in rows]).T * scale
                    axis.fill_between(depth, low, high, color=colour, alpha=0.2, linewidth=0)
                axis.plot(depth, value, color=colour, marker=marker, markersize=3, label=record["model"]["name"])
            axis.axhline(1 if name == "sd" else 0, color="#666666", linestyle="--", linewidth=1)
            axis.set_title(title, fontweight="normal")
        kurtosis = axes[1, 0]
        for name, curve in (published or {}).items():
            kurtosis.plot(np.linspace(0, 1, len(curve)), curve, color=BLACK, linestyle=":", marker="x", label=name)
        kurtosis.set_yscale("symlog", linthresh=10)
        kurtosis.set_yticks([0, 5, 10, 30, 100], labels=["0", "5", "10", "30", "100"])
        axes[0, 1].set_ylim(bottom=0)
        for axis in axes[1]:
            axis.set_xlabel("relative depth (0 first layer, 1 last)")
        figure.legend(*kurtosis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _edges(cosines: np.ndarray, step: float) -> np.ndarray:
    """Edges of bins of angles: no bin is narrower than the step in which the cosines are kept."""
    if not step:
        return np.linspace(0, 180, 73)
    least, most = cosines.min(), min(cosines.max(), 1.0)
    edges = least - step / 2 + step * np.arange(np.ceil((most - least) / step) + 2)
    return np.unique(np.degrees(np.arccos(np.clip(edges, -1, 1))))


def angles(record: Record, layers: Sequence[int]) -> Figure:
    """Angles between keys before and after whitening, a panel a layer."""
    with mpl.rc_context(STYLE):
        figure, axes = canvas(1, len(layers), height=2.8, sharey=True, sharex=True)
        for axis, layer in zip(axes[0], layers, strict=True):
            found = record.overlaps(layer)
            raw, whitened = (shape.off_diagonal(m) for m in (found.cosine_raw, found.cosine_whitened))
            for name, cosines, edges, colour, hatch in (
                ("raw", raw, _edges(raw, record.resolution("cosine_raw")), ORANGE, "//"),
                ("whitened", whitened, np.linspace(0, 180, 73), BLUE, ""),
            ):
                axis.hist(
                    np.degrees(np.arccos(np.clip(cosines, -1, 1))),
                    edges,
                    density=True,
                    histtype="stepfilled",
                    alpha=0.55,
                    color=colour,
                    hatch=hatch,
                    label=name,
                )
            axis.axvline(90, color="#444444", linestyle="--", linewidth=1)
            axis.set_title(f"layer {layer}")
            axis.set_xlabel("angle (degrees)")
            axis.set_xlim(0, 130)
            axis.set_xticks([0, 45, 90])
        axes[0, 0].set_ylabel("density (per degree)")
        axes[0, 0].legend(loc="upper left")
    return figure
