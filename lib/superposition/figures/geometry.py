"""Plots of overlap and its limits: the whitened plane, capacity, the family of editors (Part I)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from superposition.figures.style import BLUE, CYCLE, GREEN, SIGNED, STYLE, VERMILION, band, canvas
from superposition.stats.intervals import over_seeds

GREY = "#666666"


# --- 04: the whitened plane -----------------------------------------------------------------------------------


def _arrow(axis: Axes, tip: np.ndarray, colour: str, name: str, nudge: tuple[float, float]) -> None:
    arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", xy=tip, xytext=(0, 0), arrowprops=arrow)
    _label(axis, tip, colour, name, nudge)


def _label(axis: Axes, at: np.ndarray, colour: str, name: str, nudge: tuple[float, float]) -> None:
    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    axis.annotate(
        name, xy=at, xytext=nudge, textcoords="offset points", color=colour, fontsize=13, path_effects=halo, zorder=5
    )


def whitened_plane(K: np.ndarray, k_i: np.ndarray, k_j: np.ndarray) -> Figure:
    """A cloud of keys (2, N) and two keys, before and after whitening; p is the shadow of k_j on k_i.

    Left, the keys whose p with ``k_i`` is the same lie on a slanted line; right, on a perpendicular.
    """
    C = K @ K.T / K.shape[1]
    values, vectors = np.linalg.eigh(C)
    spaces = (np.eye(2), vectors @ np.diag(values**-0.5) @ vectors.T)
    p = k_i @ np.linalg.solve(C, k_j) / (k_i @ np.linalg.solve(C, k_i))
    turn = np.linspace(0, 2 * np.pi, 200)
    ring = vectors @ np.diag(values**0.5) @ np.stack([np.cos(turn), np.sin(turn)])
    with mpl.rc_context(STYLE):
        figure, axes = canvas(1, 2, height=3.7)
        titles, letters = ("Keys as they are", "Keys whitened"), ("k", r"\tilde k")
        for axis, B, title, k in zip(axes[0], spaces, titles, letters, strict=True):
            axis.scatter(*(B @ K), s=7, color="#b0b0b0", alpha=0.5, linewidths=0)
            for radius in (1, 2):
                axis.plot(*(radius * B @ ring), color=GREY, linewidth=0.9)
            foot, tip, drop = p * B @ k_i, B @ k_i, B @ k_j
            axis.axline((0, 0), tip, color=BLUE, linewidth=0.8, linestyle=":")
            axis.plot(*np.stack([drop, foot], axis=1), color=VERMILION, linewidth=1.4, linestyle="--")
            _arrow(axis, tip, BLUE, f"${k}_i$", (7, -5))
            _arrow(axis, drop, VERMILION, f"${k}_j$", (1, 7))
            axis.plot(*foot, marker="o", color=GREEN, markersize=7)
            _label(axis, foot, GREEN, f"$p\\,{k}_i$", (0, -16))
            axis.set_title(title)
            axis.set_aspect("equal", adjustable="datalim")
            axis.axhline(0, color="#cccccc", linewidth=0.8, zorder=0)
            axis.axvline(0, color="#cccccc", linewidth=0.8, zorder=0)
            axis.set_xlabel("first coordinate")
        axes[0, 0].set_ylabel("second coordinate")
    return figure


def damage_around(angles: Mapping[str, np.ndarray], damage: np.ndarray) -> Figure:
    """Signed share of an edit that reaches a key, against its angle to the edited key, on top of a cosine.

    Parameters
    ----------
    angles : mapping of str to array
        Degrees, for the same keys measured in different spaces.
    damage : array
        Signed share of the edit's residual that arrives at each key.
    """
    with mpl.rc_context(STYLE):
        figure, axes = canvas(height=3.3)
        axis = axes[0, 0]
        degrees = np.linspace(0, 180, 181)
        cosine = np.cos(np.radians(degrees))
        axis.plot(degrees, cosine, color="#bbbbbb", linewidth=5, label="cosine")
        for (name, values), colour, mark in zip(angles.items(), (VERMILION, BLUE), "so", strict=False):
            axis.plot(values, damage, linestyle="", marker=mark, markersize=4, color=colour, label=name)
        axis.axhline(0, color=GREY, linewidth=0.8)
        axis.axvline(90, color=GREY, linewidth=0.8, linestyle="--")
        axis.set_xticks(range(0, 181, 30))
        axis.set_xlabel("angle to the edited key (degrees)")
        axis.set_ylabel("share of δ that arrives")
        axis.legend()
    return figure


# --- 05: capacity ---------------------------------------------------------------------------------------------


def capacity(N: np.ndarray, runs: np.ndarray, d_m: int) -> Figure:
    """Squared interference of an edit with all other stored keys against their number, and what is forced.

    Parameters
    ----------
    N : array
        Numbers of stored keys.
    runs : (seeds, len(N)) array
        Mean over the stored keys of ``Σ_{j≠e} p(k_e, k_j)²``.
    d_m : int
    """
    with mpl.rc_context(STYLE):
        figure, axes = canvas(height=3.4)
        axis = axes[0, 0]
        wide = np.linspace(d_m, N[-1], 200)
        band(axis, N, runs, color=BLUE, label="random keys, measured", marker="o", markersize=4)
        axis.plot(wide, (wide - d_m) / (d_m - 2), color="black", linestyle=":", label="random keys, expected")
        axis.plot(wide, wide / d_m - 1, color=VERMILION, linestyle="--", label="forced: $N/d_m - 1$")
        axis.axvline(d_m, color=GREY, linewidth=0.8)
        axis.text(d_m + 0.8, 0.97, "$N = d_m$", transform=axis.get_xaxis_transform(), va="top", color=GREY)
        axis.set_xlabel(f"stored keys N ($d_m$ = {d_m})")
        axis.set_ylabel("Σ p² over the other keys")
        axis.legend(loc="lower right")
    return figure


def null_spread(d_m: Sequence[int], runs: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> Figure:
    """``d_m · mean(p²)`` of random keys against d_m, with intervals over seeds; dashed: the exact value.

    Parameters
    ----------
    d_m : sequence of int
    runs : mapping of str to (seeds, len(d_m)) array
    expected : mapping of str to (len(d_m),) array
    """
    with mpl.rc_context(STYLE):
        figure, axes = canvas(height=3.2)
        axis = axes[0, 0]
        for (name, values), colour, mark in zip(runs.items(), CYCLE, "os^", strict=False):
            mean, low, high = over_seeds(values)
            axis.plot(d_m, expected[name], color=colour, linestyle="--", linewidth=1.2)
            error = [mean - low, high - mean]
            axis.errorbar(d_m, mean, error, color=colour, fmt=mark, markersize=5, capsize=3, label=name)
        axis.set_xscale("log", base=2)
        axis.set_xticks(list(d_m), labels=[str(x) for x in d_m])
        axis.set_xlabel("dimensions $d_m$ (logarithmic)")
        axis.set_ylabel("$d_m$ · mean of p²")
        axis.legend()
    return figure


def keys_that_fit(overlap: np.ndarray, fit: Mapping[int, np.ndarray], ceiling: Mapping[int, np.ndarray]) -> Figure:
    """How many keys fit below an overlap: bounds from below (solid) and from above (dashed), by d_m.

    Parameters
    ----------
    overlap : array
        Largest ``|cos|`` allowed.
    fit, ceiling : mapping of d_m to array
        Numbers of keys; infinite ceilings are not drawn.
    """
    with mpl.rc_context(STYLE):
        figure, axes = canvas(height=3.4)
        axis = axes[0, 0]
        for (d_m, values), colour in zip(fit.items(), CYCLE, strict=False):
            axis.plot(overlap, values, color=colour, label=f"$d_m$ = {d_m:,}")
            axis.plot(overlap, ceiling[d_m], color=colour, linestyle="--", linewidth=1.2)
        axis.set_yscale("log")
        axis.set_ylim(10, 1e9)
        axis.set_xlim(0, overlap[-1])
        axis.set_xlabel("largest overlap allowed (cosine)")
        axis.set_ylabel("number of keys (logarithmic)")
        axis.legend(title="solid: at least so many fit\ndashed: at most so many", loc="center right")
    return figure


# --- 06: the family of editors --------------------------------------------------------------------------------


def transfers(matrices: Mapping[str, np.ndarray], limit: float = 1.0) -> Figure:
    """What edit i (row) adds to the recall of edited key j (column), as a share of δ_i, one panel a rule.

    Above the diagonal an edit meets keys not yet written, which costs nothing; below it, earlier edits.
    """
    with mpl.rc_context(STYLE):
        figure, axes = canvas(1, len(matrices), height=2.6, sharey=True)
        for axis, (name, matrix) in zip(axes[0], matrices.items(), strict=True):
            image = axis.imshow(matrix, cmap=SIGNED, vmin=-limit, vmax=limit, interpolation="nearest")
            axis.plot([-0.5, len(matrix) - 0.5], [-0.5, len(matrix) - 0.5], color=GREY, linewidth=0.7)
            axis.spines[:].set_visible(True)
            axis.set_title(name, fontsize=10)
            axis.set_xlabel("key j read")
            axis.set_xticks([])
            axis.set_yticks([])
        axes[0, 0].set_ylabel("edit i written")
        bar = figure.colorbar(image, ax=axes, shrink=0.8, extend="both")
        bar.set_label("share of $\\delta_i$ that arrives")
    return figure


def lifetimes(
    n: np.ndarray, errors: Mapping[str, np.ndarray], damage: Mapping[str, np.ndarray], d_m: int, full: int | None = None
) -> Figure:
    """Error of the edits so far (left) and damage to the stored keys (right, logarithmic) against their number.

    Parameters
    ----------
    n : array
        Numbers of edits.
    errors, damage : mapping of str to (seeds, len(n)) array
        By rule; NaN where a rule has stopped or not yet written. Lines are means (geometric for the damage), bands
        95 % intervals over seeds.
    d_m : int
        Where the space is full.
    full : int, optional
        Draw a second line, where AlphaEdit's space is full.
    """
    dashes = ("-", "--", "-.", ":", (0, (5, 1)), "-")
    with mpl.rc_context(STYLE):
        figure, axes = canvas(1, 2, height=4.2)
        for name, colour, dash in zip(errors, CYCLE, dashes, strict=False):
            there = np.isfinite(errors[name]).all(axis=0)
            style = {"color": colour, "linestyle": dash}
            band(axes[0, 0], n[there], errors[name][:, there], label=name, **style)
            band(axes[0, 1], n[there], damage[name][:, there], geometric=True, **style)
        axes[0, 0].set_title("Error of the edits so far")
        axes[0, 0].set_ylabel("relative to what each had to change")
        axes[0, 1].set_title("Damage to the stored keys")
        axes[0, 1].set_ylabel("relative to their recall (logarithmic)")
        axes[0, 1].set_yscale("log")
        axes[0, 1].set_yticks([0.1, 0.3, 1, 3, 10], labels=["0.1", "0.3", "1", "3", "10"])
        axes[0, 1].minorticks_off()
        for axis in axes[0]:
            axis.axvline(d_m, color=GREY, linewidth=0.8)
            axis.text(d_m - 0.5, 0.98, "$d_m$", transform=axis.get_xaxis_transform(), va="top", ha="right", color=GREY)
            if full is not None:
                axis.axvline(full, color=GREY, linewidth=0.8, linestyle=":")
            axis.set_xlabel("edits n")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
