"""The book's one figure style, a canvas outside pyplot, and what several figures draw in the same way.

White page, dark ink. :func:`superposition.figures.svg.dark` makes the second rendering, for dark pages.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.rcsetup import cycler
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

from superposition.figures.colours import CYCLE, GREY, INK, PAGE, SIGNED, word
from superposition.figures.svg import light
from superposition.stats.intervals import over_seeds

WIDTH = 7.2
#: Size of all words, in points: at the width of the page, that of its captions.
TEXT = 10.5
#: Dots per inch of what is drawn in dots: clouds of more than so many points, and maps of as many cells.
DPI, MANY = 200, 120
#: Label of :func:`relative_depth`.
DEPTH = "relative depth (0 first layer, 1 last)"
#: The same, where there is no room.
SHORT_DEPTH = "relative depth"

STYLE = {
    "figure.dpi": 110,
    "figure.facecolor": PAGE,
    "axes.facecolor": PAGE,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=CYCLE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": TEXT,
    "axes.titleweight": "normal",
    "axes.labelsize": TEXT,
    "figure.labelsize": TEXT,
    "font.size": TEXT,
    "hatch.color": INK,
    "legend.fontsize": TEXT,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.8,
    "savefig.dpi": 110,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": TEXT,
    "ytick.labelsize": TEXT,
}

#: Decorator of every figure function: what it draws is drawn in the book's style.
plot = mpl.rc_context(STYLE)


class Plot(Figure):
    """A figure that a notebook shows as it is, without pyplot and the state that it keeps."""

    def __repr__(self) -> str:
        return "A figure: trust this notebook, or run the cell, to see it."  # vector graphics may carry scripts

    def _repr_svg_(self) -> str:
        rasterise(self)
        held = io.StringIO()
        with mpl.rc_context({"svg.hashsalt": "superposition", "svg.fonttype": "path"}):
            self.savefig(held, format="svg", dpi=DPI, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        return light(held.getvalue())


def rasterise(figure: Figure) -> None:
    """Have clouds of many points, and maps of many cells, drawn in dots: as vector graphics they weigh too much."""
    for artist in figure.findobj():
        many = (
            isinstance(artist, Line2D) and artist.get_marker() not in NO_MARK and np.size(artist.get_xdata()) > MANY
        ) or (isinstance(artist, PathCollection) and np.shape(artist.get_offsets())[0] > MANY)
        if many or isinstance(artist, QuadMesh):
            artist.set_rasterized(True)


def canvas(rows: int = 1, columns: int = 1, *, height: float, **options) -> tuple:
    """A figure of the book's width, outside pyplot, and its axes: (columns,) of a single row, else (rows, columns)."""
    figure = Plot(figsize=(WIDTH, height), layout="constrained")
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
    ticks(axis.yaxis, [value for value in (0, 5, 10, 30, 100, 300, 1000) if value <= top])


NO_MARK = (None, "", "None", "none", " ")


def name_lines(
    axis: Axes,
    names: Mapping[str, str] | None = None,
    *,
    inside: Mapping[str, tuple[float, float]] | None = None,
    wide: int = 24,
) -> None:
    """Write the name of every labelled line at its right end, in its colour, in place of a legend.

    Names of lines that end at the right edge stand beside the axes, pushed apart where they would meet, with a thin
    line from the end of their own; that of a line that ends before it stands at its end. Call it last: limits and
    scales have to be those of the finished figure.

    Parameters
    ----------
    names : mapping of label to name, optional
        What to write for a label, the label itself if it is not here.
    inside : mapping of label to (x, y), optional
        Names that are written elsewhere: where they begin, in shares of the axes.
    wide : int
        Characters of a line, from which on a label is broken.

    Raises
    ------
    ValueError
        If a labelled line has no point within the axes.
    """
    figure, names, inside = axis.figure, names or {}, inside or {}
    figure.draw_without_rendering()  # pyrefly: ignore[missing-attribute]  # a whole figure: canvas made it
    box, height = axis.get_window_extent(), 1.2 * TEXT * figure.dpi / 72 / axis.get_window_extent().height
    beside, before = [], []
    for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
        line = handle[0] if isinstance(handle, ErrorbarContainer) else handle
        if not isinstance(line, Line2D):
            continue
        text, colour = names.get(label) or broken(label, wide), word(to_hex(line.get_color()))
        style = {"color": colour, "ha": "left", "va": "center", "linespacing": 1.05, "annotation_clip": False}
        points = line.get_transform().transform(
            np.column_stack([np.asarray(of, dtype=float) for of in line.get_data()])
        )
        shares = (points - box.p0) / box.size
        shown = shares[(np.abs(shares - 0.5) <= 0.52).all(axis=1)]  # NaN is nowhere; what leaves the axes ends there
        if not len(shown):
            raise ValueError(f"the line {label!r} has no point within the axes, so its name has no place")
        x, y = shown[-1]
        if label in inside:
            axis.annotate(text, inside[label], xycoords="axes fraction", **style)
        else:
            (before if x < 0.9 else beside).append((min(y, 1 - height / 2), x, text, style))
    for ends in (before, beside):
        ends.sort(key=lambda end: end[0])
        places = apart([end[0] for end in ends], [height * (1.3 + end[2].count("\n")) for end in ends])
        lead = any(abs(at - end[0]) > 0.3 * height for at, end in zip(places, ends, strict=True))
        right = max((end[1] for end in ends), default=1.0)
        for (y, x, text, style), at in zip(ends, places, strict=True):
            if ends is before:
                axis.annotate(text, (x, at), (6, 0), "axes fraction", textcoords="offset points", **style)
                continue
            if lead:
                line = {"arrowstyle": "-", "color": style["color"], "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3}
                style |= {"arrowprops": line | {"relpos": (0, 0.5)}}
            place = (right + (18 if lead else 5) * figure.dpi / 72 / box.width, at)
            axis.annotate(text, (x, y), place, "axes fraction", textcoords="axes fraction", **style)


def broken(label: str, wide: int) -> str:
    """A label in lines of so many characters; formulas stay whole."""
    whole = re.sub(r"\$[^$]*\$", lambda formula: formula[0].replace(" ", "\0"), label)
    return textwrap.fill(whole, wide, break_long_words=False, break_on_hyphens=False).replace("\0", " ")


def apart(wanted: Sequence[float], heights: Sequence[float]) -> Float[np.ndarray, " n"]:
    """Places near those wanted, which rise, with room for what is to stand at each of them (least squares)."""
    if not len(wanted):
        return np.zeros(0)
    room = np.asarray(heights, dtype=float)
    offsets = np.concatenate([[0.0], np.cumsum((room[1:] + room[:-1]) / 2)])
    return isotonic_regression(np.asarray(wanted, dtype=float) - offsets).x + offsets


Beside = Literal["outside lower center", "outside upper center", "outside upper right"]


def shared_legend(axis: Axes, ncols: int, where: Beside = "outside lower center", **options) -> None:
    """The legend of one axes for the whole figure, outside all axes."""
    handles, labels = axis.get_legend_handles_labels()
    axis.figure.legend(handles, labels, loc=where, ncols=ncols, **options)


def heatmap(axis: Axes, matrix: np.ndarray, limit: float = 1.0) -> AxesImage:
    """A matrix in signed colours, cut at ``±limit``, in a frame."""
    axis.spines[:].set_visible(True)
    return axis.imshow(matrix, cmap=SIGNED, vmin=-limit, vmax=limit, interpolation="none")
