"""The book's one figure style, a canvas outside pyplot, and what several figures draw in the same way.

White ground, dark ink; the site's style inverts figures in dark mode.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.rcsetup import cycler
from numpy.typing import ArrayLike

from superposition.figures.colours import CYCLE, SIGNED
from superposition.stats.intervals import over_seeds

WIDTH = 7.2
#: Dots per inch of figures with many parts, which would weigh too much.
LOW_DPI = 92
#: Label of :func:`relative_depth`.
DEPTH = "relative depth (0 first layer, 1 last)"

STYLE = {
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": "#444444",
    "axes.labelcolor": "#222222",
    "axes.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=CYCLE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.labelsize": 10,
    "font.size": 10,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.dpi": 110,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}

#: Decorator of every figure function: what it draws is drawn in the book's style.
plot = mpl.rc_context(STYLE)


class Plot(Figure):
    """A figure that a notebook shows as it is, without pyplot and the state that it keeps."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()


def canvas(rows: int = 1, columns: int = 1, *, height: float, dpi: int | None = None, **options) -> tuple:
    """A figure of the book's width, outside pyplot, and its axes: (columns,) of a single row, else (rows, columns)."""
    figure = Plot(figsize=(WIDTH, height), layout="constrained", dpi=dpi)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, axes[0] if rows == 1 else axes


def curve(axis: Axes, x: ArrayLike, middle: ArrayLike, low: ArrayLike, high: ArrayLike, *, alpha=0.2, **line) -> None:
    """A line with a band between two others."""
    (drawn,) = axis.plot(x, middle, **line)
    axis.fill_between(x, low, high, color=drawn.get_color(), alpha=alpha, linewidth=0)


def band(axis: Axes, x: ArrayLike, runs: np.ndarray, *, geometric: bool = False, **line) -> None:
    """Mean of runs (seeds, points), the geometric one if asked for, as a line with its 95 % interval over seeds.

    Points where a run is NaN are left out.
    """
    there = np.isfinite(runs).all(axis=0)
    x, runs = np.asarray(x)[there], runs[:, there]
    curve(axis, x, *(np.exp(over_seeds(np.log(runs))) if geometric else over_seeds(runs)), **line)


def dots(axis: Axes, x: ArrayLike, runs: np.ndarray, **line) -> None:
    """Mean of runs (seeds, points) as dots with bars, their 95 % intervals over seeds."""
    mean, low, high = over_seeds(runs)
    axis.errorbar(x, mean, [mean - low, high - mean], markersize=5, **line)


def interval(axis: Axes, y: float, value: float, low: float, high: float, *, linewidth=1.5, color, **mark) -> None:
    """A horizontal bar from low to high at height y, and a mark at the value."""
    axis.plot([low, high], [y, y], color=color, linewidth=linewidth)
    axis.plot(value, y, color=color, linestyle="", **mark)


def errors_and_damage(
    axes: np.ndarray,
    n: np.ndarray,
    errors: Mapping[str, np.ndarray],
    damage: Mapping[str, np.ndarray],
    dashes: Sequence,
) -> None:
    """Runs (seeds, len(n)) of each rule on two axes: error of the edits so far, and damage on a logarithmic axis."""
    for name, colour, dash in zip(errors, CYCLE, dashes, strict=False):
        band(axes[0], n, errors[name], label=name, color=colour, linestyle=dash)
        band(axes[1], n, damage[name], geometric=True, color=colour, linestyle=dash)
    axes[0].set(title="Error of the edits so far", xlabel="edits n")
    axes[1].set(title="Damage to the stored keys", xlabel="edits n", yscale="log")
    shared_legend(axes[0], 3)


def relative_depth(layers: ArrayLike) -> np.ndarray:
    """Depth of a model's layers, which begin with the first: 0 the first, 1 the last of them."""
    return np.asarray(layers, dtype=float) / max(np.max(layers), 1)


def ticks(axis: XAxis | YAxis, values: Iterable[Any], spec: str = "g") -> None:
    """Ticks at these values only, in plain numbers, on ``axes.xaxis`` or ``axes.yaxis``."""
    axis.set_ticks(list(values), labels=[format(value, spec) for value in values])
    axis.minorticks_off()


def kurtosis_scale(axis: Axes, top: int = 100) -> None:
    """An ordinate for excess kurtosis: even up to 10, logarithmic above, with ticks up to ``top``."""
    axis.set_yscale("symlog", linthresh=10)
    ticks(axis.yaxis, [value for value in (0, 5, 10, 30, 100, 300) if value <= top])


Beside = Literal["outside lower center", "outside upper center", "outside right upper"]


def shared_legend(axis: Axes, ncols: int, where: Beside = "outside lower center", **options) -> None:
    """The legend of one axes for the whole figure, outside all axes."""
    handles, labels = axis.get_legend_handles_labels()
    axis.figure.legend(handles, labels, loc=where, ncols=ncols, **options)


def heatmap(axis: Axes, matrix: np.ndarray, limit: float = 1.0) -> AxesImage:
    """A matrix in signed colours, cut at ``±limit``, in a frame."""
    axis.spines[:].set_visible(True)
    return axis.imshow(matrix, cmap=SIGNED, vmin=-limit, vmax=limit, interpolation="nearest")
