"""Plots of the toy worlds: sequences of edits of a memory, and the features of small autoencoders (Part II)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from superposition.figures.colours import (
    BLACK,
    BLUE,
    CYCLE,
    DASHED,
    GREY,
    HAIR,
    INK,
    ORANGE,
    PAGE,
    SKY,
    VERMILION,
    search_look,
    word,
)
from superposition.figures.style import band, canvas, dots, name_lines, plot, ticks
from superposition.stats.intervals import over_seeds
from superposition.studies import toys

_MARKERS = "os^Dv*P"


def _plain(number: str) -> str:
    return f"{float(number):g}"


# --- 07: a toy memory -----------------------------------------------------------------------------------------


@plot
def kinds_of_keys(samples: Mapping[str, Float[np.ndarray, " n"]], reach: float = 1.25) -> Figure:
    """Histograms of p for several kinds of keys, each beside the normal of its own mean and spread, with its kurtosis.

    Parameters
    ----------
    samples : mapping of str to array
        By kind, the p's beside the diagonal: a panel each, three in a row.
    reach : float
        How far the axis goes to either side; what lies beyond is counted in the panel.
    """
    rows = -(-len(samples) // 3)
    figure, axes = canvas(rows, 3, height=0.9 + 2.1 * rows, sharex=True, sharey=True)
    bins = np.linspace(-reach, reach, 76)
    x, least = np.linspace(-reach, reach, 501), 3e-4
    for axis, (name, values) in zip(np.ravel(axes), samples.items(), strict=True):
        mean, sd = values.mean(), values.std()
        density = np.histogram(values, bins)[0] / (len(values) * (bins[1] - bins[0]))
        axis.stairs(density, bins, baseline=least, fill=True, color=BLUE, alpha=0.45, lw=0)
        normal = np.exp(-(((x - mean) / sd) ** 2) / 2) / (sd * np.sqrt(2 * np.pi))
        axis.plot(x, normal, color=INK, linestyle="--", linewidth=1.3)
        beyond = (np.abs(values) > reach).mean()
        said = f"kurtosis {((values - mean) ** 4).mean() / sd**4 - 3:.1f}".replace("-", "\u2212")
        said += f"\n{beyond:.0%} beyond the axis" if beyond else ""
        axis.text(0.03, 0.96, said, transform=axis.transAxes, va="top", color=INK)
        axis.set_title(name, loc="left")
        axis.set(yscale="log", xlim=(-reach, reach), ylim=(least, 200))
    for row in np.reshape(axes, (rows, 3)):
        row[0].set_ylabel("density (log)")
    for axis in np.ravel(axes)[-3:]:
        axis.set_xlabel("$p$ of two stored keys")
    return figure


@plot
def forgetting_curves(n: np.ndarray, runs: Mapping[str, np.ndarray], d_m: int) -> Figure:
    """Damage after n edits, relative to that of a memory that lost all, by load; dashed, the law for fresh keys.

    Parameters
    ----------
    n : array
        Numbers of edits.
    runs : mapping of str to (seeds, len(n)) array
        By load; NaN where no stored fact is left to edit.
    d_m : int
    """
    figure, (axis,) = canvas(height=3.6)
    nothing = [name for name, values in runs.items() if np.nanmax(values) < 1e-5]
    for (name, values), colour, mark in zip(runs.items(), CYCLE, _MARKERS, strict=False):
        label = (
            None
            if name in nothing[:-1]
            else f"load {' and '.join(map(_plain, nothing)) if name in nothing else _plain(name)}"
        )
        band(axis, n / d_m, values, color=colour, label=label, marker=mark, markersize=4, linewidth=1.4)
    fine = np.linspace(0, n.max(), 200)
    axis.plot(fine / d_m, toys.forgetting(fine, d_m), color=GREY, linestyle="--", label="law for random keys")
    axis.set(xlabel="edits per dimension, $n/d_m$", ylabel="damage, as a share of its limit")
    name_lines(axis, inside={"law for random keys": (0.2, 0.9), "load 4": (0.49, 0.75)})
    return figure


@plot
def growth(
    n: np.ndarray, runs: Mapping[str, np.ndarray], d_m: int, laws: Mapping[str, np.ndarray] | None = None
) -> Figure:
    """Root of the damage against the number of edits, both logarithmic, one band for each arm.

    Parameters
    ----------
    n : array
    runs : mapping of str to (seeds, len(n)) array
    d_m : int
    laws : mapping of str to (len(n),) array, optional
        What the root of an arm's damage should be, drawn as a thin black line.
    """
    figure, (axis,) = canvas(height=4.6)
    for number, ((name, values), colour, mark) in enumerate(zip(runs.items(), CYCLE, _MARKERS, strict=False)):
        hollow = {} if number % 2 else {"markerfacecolor": PAGE, "markersize": 7}  # arms lie upon each other
        style = {"color": colour, "label": name, "marker": mark, "markersize": 4} | hollow
        band(axis, n, values, geometric=True, linewidth=1.4, **style)
    for law in (laws or {}).values():
        axis.plot(n, law, color=BLACK, linewidth=0.9, zorder=5)
    if laws:
        at, leader = len(n) // 2, {"arrowstyle": "-", "color": GREY, "linewidth": 0.9}
        place = {"xytext": (0.38, 0.72), "textcoords": "axes fraction", "ha": "center", "arrowprops": leader}
        axis.annotate("thin: predicted\nfrom the overlaps", (n[at], law[at]), **place)
    end = np.array([d_m, n.max()])
    top = np.exp(np.log(list(runs.values())[-1][:, -1]).mean()) * 1.5
    for power, name in ((1, "∝ n"), (0.5, "∝ √n")):
        height = top if power == 1 else top / 4.2
        axis.plot(end, height * (end / end[1]) ** power, color=GREY, linewidth=0.9, linestyle="--")
        axis.annotate(name, (end[1], height), color=GREY, ha="right", va="bottom")
    axis.axvline(d_m, color=GREY, linewidth=0.8, linestyle=":")
    axis.annotate("$d_m$", (d_m, 0.02), xycoords=axis.get_xaxis_transform(), color=GREY, ha="right")
    axis.set(xscale="log", yscale="log")
    ticks(axis.xaxis, [1, 3, 10, 30, 100, 300])
    ticks(axis.yaxis, [0.5, 1, 2, 5, 10, 20, 50])
    axis.set(xlabel="edits $n$ (logarithmic)", ylabel="root of the damage (logarithmic)")
    name_lines(axis, wide=20)
    return figure


@plot
def feedback(n: np.ndarray, runs: Mapping[str, np.ndarray], laws: Mapping[str, np.ndarray]) -> Figure:
    """Root mean square of ``‖W_n - W_0‖/‖W_0‖`` (logarithmic) against the number of edits; lines, the law.

    Parameters
    ----------
    n : array
    runs : mapping of str to (seeds, len(n)) array
        By arm; drawn as marks with 95 % intervals of the mean square over seeds.
    laws : mapping of str to array
        By arm, after each number of edits from 1 on.
    """
    figure, (axis,) = canvas(height=3.9)
    for name, values in runs.items():
        called, colour, mark, _ = search_look(name)
        mean, low, high = np.sqrt(np.maximum(over_seeds(values**2), 0))
        fill = "none" if name == "no overlap" else colour  # its marks lie on those of another arm
        style = {"color": colour, "fmt": mark, "markersize": 9 if fill == "none" else 5, "markerfacecolor": fill}
        axis.errorbar(n, mean, [mean - low, high - mean], label=called, capsize=2, **style)
    for number, law in enumerate(laws.values()):
        label = None if number else "the law"
        axis.plot(np.arange(1, len(law) + 1), law, color=BLACK, linewidth=0.9, zorder=0, label=label)
    axis.set(yscale="log", xlim=(0, None))
    ticks(axis.yaxis, [0.3, 1, 3, 10, 30, 100])
    axis.set(xlabel="edits $n$", ylabel="root of the damage (logarithmic)")
    name_lines(axis, inside={"the law": (0.6, 0.75)})
    return figure


# --- 08: features in superposition ----------------------------------------------------------------------------


@plot
def feature_planes(panels: Mapping[str, np.ndarray]) -> Figure:
    """Directions of features in the plane, numbered from the first, a panel for each W (2, n)."""
    figure, axes = canvas(1, len(panels), height=2.95, sharex=True, sharey=True)
    for axis, (title, W) in zip(axes, panels.items(), strict=True):
        for i, ((x, y), colour) in enumerate(zip(W.T, cycle(CYCLE), strict=False)):
            axis.plot([0, x], [0, y], color=colour, linewidth=2)
            axis.plot(x, y, "o", color=colour, markersize=6)
            if np.hypot(x, y) > 0.3:
                axis.annotate(str(i + 1), (1.22 * x, 1.22 * y), ha="center", va="center", color=INK)
        axis.set_title(title)
        axis.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal")
        axis.axhline(0, color=HAIR, linewidth=0.8, zorder=0)
        axis.axvline(0, color=HAIR, linewidth=0.8, zorder=0)
        axis.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1], xlabel="$h_1$")
    axes[0].set_ylabel("$h_2$")
    return figure


@plot
def solids(panels: Mapping[str, tuple[np.ndarray, float]]) -> Figure:
    """Small geometries in two or three dimensions: features (blue) and edges between nearest neighbours (orange).

    Parameters
    ----------
    panels : mapping of str to (W, dimensionality)
        W (m, n), m up to 3.
    """
    figure, (holder,) = canvas(height=2.2)
    figure.set_layout_engine("none")
    holder.remove()
    wide = 1 / len(panels)
    for place, (title, (W, share)) in enumerate(panels.items()):
        points = np.zeros((3, W.shape[1]))
        points[: len(W)] = W
        flat = len(W) < 3
        if W.shape[1] > 4 and not flat:  # the axis in which the shape differs from the other two, up
            U, size, _ = np.linalg.svd(W)
            points = (U if size[1] - size[2] > size[0] - size[1] else U[:, ::-1]).T @ W
        elif not flat:  # the shape's first feature up, its second to the right
            frame, _ = np.linalg.qr(np.column_stack([W[:, 0], W[:, 1], np.cross(W[:, 0], W[:, 1])]))
            points = (frame * np.sign(frame[:, 0] @ W[:, 0])).T[[1, 2, 0]] @ W
        axis = figure.add_axes((place * wide, -0.04, wide, 0.84), projection="3d")
        axis.view_init(elev=90 if flat else 20, azim=-90 if flat else -35)
        size = 1.08 * np.linalg.norm(W, axis=0).max()
        unit = W / np.linalg.norm(W, axis=0)
        cosines = unit.T @ unit - 2 * np.eye(W.shape[1])
        edge = cosines > cosines.max(axis=1, keepdims=True) - 0.25
        for i in range(W.shape[1]):
            axis.plot(*np.stack([0 * points[:, i], points[:, i]]).T, color=BLUE, linewidth=1.8)
            axis.plot(*points[:, i, None], "o", color=BLUE, markersize=6)
            for j in np.flatnonzero(edge[i] | edge[:, i]).tolist():
                if W.shape[1] > 2:
                    axis.plot(*points[:, [i, j]], color=ORANGE, linewidth=1)
        axis.set_box_aspect((1, 1, 1), zoom=1.5)
        for limits in (axis.set_xlim, axis.set_ylim, axis.set_zlim):
            limits(-size, size)
        axis.set_axis_off()
        figure.text((place + 0.5) * wide, 0.98, f"{title}\n$D$ = {share:.3f}", ha="center", va="top")
    return figure


@plot
def gain_of_sharing(
    aspects: np.ndarray,
    densities: np.ndarray,
    gain: Float[np.ndarray, "aspects densities"],
    tie: Float[np.ndarray, " aspects"],
    at: int,
    untuned: tuple[np.ndarray, np.ndarray],
) -> Figure:
    """How much less trained models lose than if they dropped a feature, and where an untuned pair ties.

    Parameters
    ----------
    aspects, densities : array
        Relative importance of the second feature, and the probability that a feature is there.
    gain : array
        One less the loss of the best of all seeds over that of dropping.
    tie : array
        The density at which an untuned antipodal pair loses as much as dropping, for each aspect.
    at : int
        The aspect whose cross-section is drawn beside the plane.
    untuned : pair of arrays
        Densities, and there the loss of an untuned pair over that of dropping, for that aspect.
    """
    figure, (plane, cut) = canvas(1, 2, height=3.4)
    mesh = plane.pcolormesh(densities, aspects, gain, cmap="cividis", vmin=0, vmax=1, shading="nearest")
    plane.plot(tie, aspects, color=VERMILION, linewidth=2.2)
    plane.set(xscale="log", yscale="log", xlabel="density q (log)", ylabel="importance of feature 2 (log)")
    ticks(plane.xaxis, [0.05, 0.1, 0.2, 0.5, 1])
    ticks(plane.yaxis, [0.1, 0.3, 1, 3, 10])
    plane.set_xlim(densities[0], densities[-1])
    figure.get_layout_engine().set(wspace=0.1)
    figure.colorbar(mesh, ax=plane, label="share of the loss saved")
    cut.axhline(1, **DASHED)
    cut.plot(*untuned, color=VERMILION, label="untuned pair")
    cut.plot(densities, 1 - gain[at], "o", color=BLUE, markersize=5, label="best trained")
    cut.set(xscale="log", xlabel="density q (log)", ylabel="loss over that of dropping", ylim=(0, 1.6))
    cut.set_title(f"importance {aspects[at]:g}")
    ticks(cut.xaxis, [0.05, 0.1, 0.2, 0.5, 1])
    name_lines(cut, inside={"untuned pair": (0.3, 0.9), "best trained": (0.05, 0.3)})
    return figure


@plot
def dimensionality_steps(sparsity: np.ndarray, D: np.ndarray, per_length: np.ndarray) -> Figure:
    """Dimensions per feature of large autoencoders (line), and how many features have which dimensionality (bars).

    Parameters
    ----------
    sparsity : array
        1/q, one for each condition.
    D : (seeds, conditions, n) array
        Dimensionality of each feature; NaN is left out.
    per_length : (seeds, conditions) array
        ``m/‖W‖_F²`` of each autoencoder.
    """
    figure, (axis,) = canvas(height=4.6)
    edges, half = np.linspace(0, 1.08, 55), 0.45
    for place, values in enumerate(np.moveaxis(D, 1, 0)):
        count, _ = np.histogram(values[np.isfinite(values)], edges)
        if count.any():
            wide = half * np.sqrt(count / count.max())  # the area of a bar would hide a few features among many
            axis.barh(edges[:-1], 2 * wide, np.diff(edges), place - wide, align="edge", color=SKY)
    places = np.arange(len(sparsity))
    band(axis, places, per_length, color=VERMILION, marker="o", markersize=4, linewidth=1.4)
    for name, fraction in toys.FRACTIONS.items():
        axis.axhline(fraction, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
        va = "top" if name == "square antiprism" else "center"
        axis.annotate(name, (1.01, fraction), xycoords=axis.get_yaxis_transform(), va=va, color=GREY)
    axis.annotate("$m/\\|W\\|_F^2$", (8.9, 0.36), color=word(VERMILION), va="bottom")
    axis.annotate("$D_i$ of single features", (5.4, 0.57), color=word(SKY), va="bottom")
    axis.set_xticks(places, labels=[f"{one:.2g}" for one in sparsity])
    axis.set(xlabel="sparsity, $1/q$", ylabel="dimensions of a feature", ylim=(0, 1.12), xlim=(-0.6, len(places) - 0.4))
    return figure


@plot
def features_by_sparsity(sparsity: np.ndarray, runs: Mapping[str, np.ndarray]) -> Figure:
    """Statistics of P, features as keys, against sparsity: a panel each; (seeds, conditions) arrays, NaN left out."""
    figure, axes = canvas(1, len(runs), height=2.9)
    for axis, (name, values) in zip(axes, runs.items(), strict=True):
        band(axis, sparsity, values, color=BLUE, marker="o", markersize=4)
        axis.axhline(0, color=GREY, linewidth=0.8, linestyle="--")
        axis.set_title(name)
        axis.set(xscale="log", xlabel="sparsity $1/q$ (log)")
        ticks(axis.xaxis, [2, 5, 10, 20, 50])
    return figure


@plot
def crowding(
    m: np.ndarray, runs: Mapping[float, Mapping[str, np.ndarray]], n: int, panels: Mapping[str, str]
) -> Figure:
    """Tails of P and where damage falls, against the width m, by density; lines in the first panel are the forecast.

    Parameters
    ----------
    m : array
    runs : mapping of density to a mapping of statistic to (seeds, len(m)) array
    n : int
        Number of features.
    panels : mapping of statistic to title
        The first is the excess kurtosis that :func:`superposition.studies.toys.forecast_kurtosis` speaks of.
    """
    figure, axes = canvas(1, len(panels), height=3.4)
    fine = np.geomspace(m[0], m[-1], 60)
    for (density, found), colour, mark in zip(runs.items(), CYCLE, _MARKERS, strict=False):
        axes[0].plot(fine, toys.forecast_kurtosis(density, n, fine), color=colour, linewidth=1.2)
        for axis, name in zip(axes, panels, strict=True):
            line = mark if axis is axes[0] else mark + ":"
            dots(axis, m, found[name], color=colour, fmt=line, capsize=2, label=f"$q$ = {density:g}")
    for axis, title in zip(axes, panels.values(), strict=True):
        axis.set_title(title)
        axis.set_xscale("log", base=2)
        ticks(axis.xaxis, m)
        axis.set(xlabel="width $m$", ylim=(0, None))
    axes[0].set_ylim(-0.3, None)
    axes[0].set_yscale("asinh", linear_width=1)
    ticks(axes[0].yaxis, [0, 1, 3, 10, 30])
    axes[0].axhline(0, color=GREY, linewidth=0.8, linestyle="--")
    name_lines(axes[2])
    return figure
