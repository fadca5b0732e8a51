"""The book's one figure style: colours, sizes, and a canvas outside pyplot.

White ground, dark ink; the site's style inverts figures in dark mode. Categories use the Okabe–Ito colours, signed
values a diverging map centred at 0, so that nothing rests on telling red from green.
"""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from superposition.stats.intervals import over_seeds

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
#: Line colours in the order in which they are used.
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
SIGNED = "RdBu_r"
WIDTH = 7.2

STYLE = {
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": "#444444",
    "axes.labelcolor": "#222222",
    "axes.linewidth": 0.8,
    "axes.prop_cycle": mpl.cycler(color=CYCLE),
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


class Plot(Figure):
    """A figure that a notebook shows as it is, without pyplot and the state that it keeps."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()


def canvas(
    rows: int = 1, columns: int = 1, *, height: float = 3.2, dpi: int = STYLE["figure.dpi"], **options
) -> tuple[Figure, np.ndarray]:
    """A figure of the book's width in the book's style, outside pyplot, and its axes as a (rows, columns) array."""
    with mpl.rc_context(STYLE):
        figure = Plot(figsize=(WIDTH, height), layout="constrained", dpi=dpi)
        axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, axes


def band(axis: Axes, x: ArrayLike, runs: np.ndarray, *, geometric: bool = False, **line: Any) -> None:
    """Mean of runs (seeds, points), the geometric one if asked for, as a line with its 95 % interval over seeds."""
    mean, low, high = np.exp(over_seeds(np.log(runs))) if geometric else over_seeds(runs)
    (drawn,) = axis.plot(x, mean, **line)
    axis.fill_between(x, low, high, color=drawn.get_color(), alpha=0.2, linewidth=0)
