"""Figures of part I: the plane of a single edit, what other keys feel, and what a lifetime of edits leaves behind.

Every function takes arrays and returns a Matplotlib figure; the numbers come from the chapter.
"""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from superposition.figures.style import BLUE, SKY, STYLE, VERMILION, canvas

INK, FAINT = "#222222", "#888888"


def _arrow(axis, tip, colour, label=None, **options) -> None:
    axis.annotate(
        "",
        xy=tip,
        xytext=(0, 0),
        arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2, "shrinkA": 0, "shrinkB": 0},
    )
    axis.plot([], [], color=colour, label=label, lw=2, **options)


@mpl.rc_context(STYLE)
def touching_ellipse(
    keys: Float[np.ndarray, "2 N"], k: np.ndarray, r: float, exact: np.ndarray, naive: np.ndarray
) -> Figure:
    """Two dimensions, one row of W: the cloud of keys (left) and the changes D with ``D k = r`` (right).

    `exact` and `naive` are the two changes, each (2,). The ellipses are level sets of the damage ``D K Kᵀ Dᵀ``.
    """
    figure, ((cloud, weights),) = canvas(1, 2, height=4.6)
    cloud.scatter(*keys, s=9, color=SKY, alpha=0.7, linewidths=0, label="stored keys")
    _arrow(cloud, k, VERMILION, "edited key $k_e$")
    _arrow(cloud, exact * np.linalg.norm(k) / np.linalg.norm(exact), BLUE, "direction $C^{-1}k_e$")
    reach = np.ceil(np.abs(keys).max())
    cloud.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel="first entry of a key", ylabel="second entry of a key")
    cloud.set_title("Where the keys lie", loc="left")

    extent = 1.35 * max(np.abs(exact).max(), np.abs(naive).max())
    x, y = np.meshgrid(np.linspace(-extent, extent, 301), np.linspace(-extent, extent, 301))
    C = keys @ keys.T
    damage = C[0, 0] * x**2 + 2 * C[0, 1] * x * y + C[1, 1] * y**2
    least, other = exact @ C @ exact, naive @ C @ naive
    weights.contour(x, y, damage, levels=[least], colors=[BLUE], linewidths=1.6)
    weights.contour(x, y, damage, levels=[other], colors=[VERMILION], linewidths=1.6)
    weights.contour(x, y, damage, levels=[least / 4, 4 * least], colors=[FAINT], linewidths=0.7)
    foot, along = r * k / (k @ k), np.array([-k[1], k[0]]) / np.linalg.norm(k)
    line = foot[:, None] + along[:, None] * np.array([-4 * extent, 4 * extent])
    weights.plot(*line, color=INK, lw=1.4, label="changes that store the fact")
    weights.plot(*naive, "s", color=VERMILION, ms=7, label="write along $k_e$")
    weights.plot(*exact, "o", color=BLUE, ms=8, label="write along $C^{-1}k_e$")
    weights.plot(0, 0, "+", color=INK, ms=8)
    weights.set(xlim=(-extent, extent), ylim=(-extent, extent), xlabel="$D_1$, change of the first weight")
    weights.set_ylabel("$D_2$, change of the second weight")
    weights.set_title("Ellipses of equal damage", loc="left")
    for axis in (cloud, weights):
        axis.set_aspect("equal")
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), handlelength=1.4, labelspacing=0.3)
    return figure


@mpl.rc_context(STYLE)
def shares_of_others(naive: Float[np.ndarray, " m"], exact: Float[np.ndarray, " m"]) -> Figure:
    """Histograms of the share of one edit that arrives at each of m other keys, for two directions of writing."""
    figure, ((axis,),) = canvas(height=2.9)
    edge = 1.02 * max(np.abs(naive).max(), np.abs(exact).max())
    bins = np.linspace(-edge, edge, 41)
    for shares, colour, label in ((naive, VERMILION, "write along $k_e$"), (exact, BLUE, "write along $C^{-1}k_e$")):
        rms = np.sqrt(np.mean(shares**2))
        axis.hist(shares, bins=bins, color=colour, alpha=0.55, label=f"{label}: root mean square {rms:.2f}")
        axis.hist(shares, bins=bins, color=colour, histtype="step", lw=1.4)
    axis.axvline(0, color=INK, lw=0.8)
    axis.set(xlabel="share of the edit's residual that arrives at another key", ylabel="number of keys")
    axis.legend(loc="upper left")
    return figure


# --- 01: room in a memory -------------------------------------------------------------------------------------


@mpl.rc_context(STYLE)
def recall_against_load(
    loads: Float[np.ndarray, " n"], outer: Float[np.ndarray, " n"], fitted: Float[np.ndarray, " n"]
) -> Figure:
    """Relative squared error of two memories against ``N/d_m``: measured (dots), expected for random facts (lines)."""
    figure, ((axis,),) = canvas(height=3.1)
    x = np.linspace(0.01, loads.max(), 400)
    axis.plot(x, x, color=VERMILION, lw=1.4)
    axis.plot(x, np.maximum(0, 1 - 1 / x), color=BLUE, lw=1.4)
    axis.plot(loads, outer, "s", color=VERMILION, label="outer products, $V K^\\top$", clip_on=True)
    axis.plot(loads, fitted, "o", color=BLUE, label="best memory", clip_on=False, zorder=3)
    axis.axvline(1, color=FAINT, lw=0.8, ls="--")
    axis.annotate(
        "one fact for\neach dimension",
        (1, 1.5),
        xytext=(-6, 0),
        textcoords="offset points",
        color="#555555",
        ha="right",
    )
    axis.axhline(1, color=FAINT, lw=0.8, ls=":")
    axis.set(xlim=(0, loads.max()), ylim=(0, 1.8))
    axis.set_xlabel("facts stored per dimension, $N/d_m$")
    axis.set_ylabel("squared error of the answers\n(1: the size of the values)")
    axis.legend(loc="lower right")
    return figure


# --- 03: a lifetime of edits ----------------------------------------------------------------------------------


@mpl.rc_context(STYLE)
def staircase(
    after: Float[np.ndarray, "n n"], final: Float[np.ndarray, "n lives"], expected: Float[np.ndarray, " n"]
) -> Figure:
    """Damage to edit j after edit i (left), and after the last one (right: every life, their mean, the expectation).

    `after[i, j]` is a mean over lives, NaN for j > i; `final` holds single lives.
    """
    n, lives = final.shape
    figure, ((triangle, last),) = canvas(1, 2, height=3.5, width_ratios=[1, 1.15])
    figure.get_layout_engine().set(wspace=0.08)
    image = triangle.imshow(after, cmap="viridis", origin="upper", extent=(0.5, n + 0.5, n + 0.5, 0.5), vmin=0)
    triangle.set(xlabel="edit $j$, whose answer is checked", ylabel="after edit $i$")
    triangle.set_title("Damage grows, on average", loc="left")
    bar = figure.colorbar(image, ax=triangle, shrink=0.8)
    bar.set_label("mean squared damage, in $\\sigma^2$")
    bar.outline.set_visible(False)
    edits = np.arange(1, n + 1)
    few = final[:, :: max(1, lives // 15)]
    last.plot(edits, few, color=FAINT, lw=0.5, alpha=0.45)
    last.plot([], [], color=FAINT, lw=0.8, label="single lifetimes")
    last.plot(edits[::3], final.mean(axis=1)[::3], "o", ms=4, color=VERMILION, label="their mean", zorder=3)
    last.plot(edits, expected, color=BLUE, label="expected", zorder=4)
    last.set(xlim=(0, n + 1), ylim=(0, 4.5), xlabel="edit $j$", ylabel="squared damage at the end, in $\\sigma^2$")
    last.set_title("The first suffer most", loc="left")
    last.legend(loc="upper right")
    return figure
