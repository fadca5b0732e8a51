"""Pictures that explain: where the memory is, what an edit does in the plane, the two triangles of P, its tails.

Nothing in them is drawn by eye: arrows end where the library's rules put them. Words are set large and the parts are
few, for a page as narrow as a telephone's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle
from numpy.typing import ArrayLike

from superposition.figures.colours import BLUE, FAINT, GREEN, GREY, HAIR, INK, PAGE, PURPLE, SHADE, VERMILION, word
from superposition.figures.style import canvas, plot
from superposition.linear import rules
from superposition.linear.memory import LinearMemory
from superposition.linear.metric import Metric

#: Sizes of type: what is named, and what is said about it.
NAME, NOTE = 13, 11.5
#: A plane for the pictures that are not given one: second moment, edited key, other keys with p of .6, 0 and -.4.
PLANE = np.array([[2.0, 1.0], [1.0, 2.0]])
EDITED = np.array([2.0, 1.0])
OTHERS = np.array([[1.2, 0.0, -0.8], [2.0, 1.8, 0.8]])
#: Two keys of equal length with p = 1/2 either way, and what they are to be answered: two facts that are related.
RELATED, ANSWERS = np.array([[1.0, 0.5], [0.0, 0.75**0.5]]), np.array([1.0, -1.0])
#: Whitened keys of length 1: one, a second with much that is new, a second with little.
ROOMY = np.stack([np.cos([0.0, 1.2, 0.46]), np.sin([0.0, 1.2, 0.46])])


def _say(axis: Axes, x: float, y: float, text: str, colour: str = INK, size: float = NOTE, **how) -> None:
    style: dict[str, Any] = {"ha": "center", "va": "center", "linespacing": 1.25} | how
    axis.text(x, y, text, color=word(colour), fontsize=size, **style)


def _box(axis: Axes, at: tuple[float, float], size: tuple[float, float], text: str, colour: str = FAINT, **how) -> None:
    """A box with its lower left corner at `at`, and words in it."""
    letters = how.pop("letters", NOTE)
    style: dict[str, Any] = {"fc": PAGE, "lw": 1.2, "zorder": 2} | how
    axis.add_patch(FancyBboxPatch(at, *size, boxstyle="round,pad=0,rounding_size=.08", ec=colour, **style))
    _say(axis, at[0] + size[0] / 2, at[1] + size[1] / 2, text, size=letters)


def _arrow(axis: Axes, start: ArrayLike, end: ArrayLike, colour: str = GREY, lw=1.6, **how) -> None:
    style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 14, "shrinkA": 0, "shrinkB": 0} | how
    axis.add_patch(FancyArrowPatch(*np.array([start, end], dtype=float), color=colour, lw=lw, **style))


def _right_angle(axis: Axes, corner: np.ndarray, one: np.ndarray, other: np.ndarray, size: float) -> None:
    one, other = (size * side / np.linalg.norm(side) for side in (one, other))
    axis.add_patch(Polygon([corner + one, corner + one + other, corner + other], closed=False, fill=False, ec=GREY))


def _ground(axis: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    """An empty plane, one scale for both its axes."""
    axis.set(xlim=x, ylim=y, aspect="equal")
    axis.axis("off")


def _along(first: Float[np.ndarray, " 2"], X: Float[np.ndarray, "2 n"]) -> Float[np.ndarray, "2 n"]:
    """Vectors of the plane, turned so that the first points to the right, and mirrored so that most point up."""
    u = first / np.linalg.norm(first)
    turned = np.array([u, [-u[1], u[0]]]) @ X
    return turned * np.array([[1.0], [1.0 if turned[1].sum() >= 0 else -1.0]])


@plot
def block_with_memory() -> Figure:
    """A block of a transformer above a prompt: where the subject's last token is, the key, W, the value, the edit.

    Drawn in inches; norms are left out. That a fact is looked up at the subject's last token: Meng et al. (2022).
    """
    figure, (axis,) = canvas(height=5.0)
    figure.get_layout_engine().set(w_pad=0, h_pad=0)
    _ground(axis, (0, 7.2), (0, 5.0))
    left, stream = 0.12, 2.28
    for token, wide in (("The", 0.62), ("Eiffel", 0.86), ("Tower", 0.9), ("is", 0.5), ("in", 0.5)):
        last = token == "Tower"
        _box(axis, (left, 0.5), (wide, 0.42), token, VERMILION if last else FAINT, lw=2.4 if last else 1, letters=NAME)
        if left < stream - 1:
            _arrow(axis, (left + wide / 2, 0.95), (0.55 + 0.2 * left, 1.67), FAINT, 1)
        left += wide + 0.1
    _say(axis, stream, 0.22, "the subject's last token", VERMILION, NAME)
    axis.add_patch(Rectangle((0.06, 1.18), 7.06, 3.26, fill=False, ec=FAINT, lw=1, ls=(0, (4, 3))))
    _say(axis, 0.2, 4.2, "one block", GREY, ha="left")
    axis.add_patch(Rectangle((2.7, 2.3), 4.28, 1.26, fc=SHADE, ec="none", zorder=0))
    _say(axis, 2.82, 3.4, "MLP", GREY, ha="left")
    _arrow(axis, (stream, 0.95), (stream, 4.94), INK, 2.4)
    _say(axis, stream + 0.14, 4.72, "residual stream, to the next block", ha="left")
    _box(axis, (0.3, 1.7), (1.3, 0.5), "attention")
    axis.plot([stream, 1.3], [1.45, 1.45], color=GREY, lw=1.6)
    _arrow(axis, (1.3, 1.44), (1.3, 1.7))
    axis.plot([0.95, 0.95], [2.2, 2.5], color=GREY, lw=1.6)
    _arrow(axis, (0.94, 2.5), (stream - 0.12, 2.5))
    _arrow(axis, (stream, 2.86), (2.82, 2.86))
    _box(axis, (2.82, 2.54), (1.36, 0.64), "up-projection,\nnonlinearity", letters=11)
    _arrow(axis, (4.18, 2.86), (5.44, 2.86), VERMILION, 2.4)
    _say(axis, 4.8, 3.07, "key $k$", VERMILION, NAME)
    _say(axis, 4.78, 2.63, "$d_m$ numbers", GREY, 11)
    _box(axis, (5.44, 2.36), (1.46, 1.1), "", BLUE, fc=(BLUE, 0.14), lw=3)
    _say(axis, 6.17, 3.04, "$W$", size=24)
    _say(axis, 6.17, 2.56, "down-projection", size=11)
    axis.plot([6.15, 6.15], [3.46, 3.9], color=GREEN, lw=2.4)
    _arrow(axis, (6.165, 3.9), (stream + 0.12, 3.9), GREEN, 2.4)
    _say(axis, 4.2, 4.13, "answer $W k$, added to the stream", GREEN, NAME)
    for height in (2.5, 3.9):
        axis.plot(stream, height, "o", color=PAGE, mec=INK, ms=13, mew=1.4, zorder=3)
        axis.plot(stream, height, "+", color=INK, ms=8, mew=1.4, zorder=4)
    _say(axis, 6.25, 1.9, "an edit changes $W$ and nothing else:", BLUE, NAME, ha="right")
    _say(axis, 6.25, 1.5, r"$\hat W = W + \Lambda\,(C^{-1}k)^{\mathsf{T}}$", BLUE, NAME + 2, ha="right")
    axis.plot([6.36, 6.6], [1.88, 1.88], color=BLUE, lw=1.8)
    _arrow(axis, (6.585, 1.88), (6.585, 2.33), BLUE, 1.8)
    return figure


@plot
def family_and_stranger(people: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> Figure:
    """Three people of an invented world, two of one family: one fact is edited, what becomes of the others?

    Parameters
    ----------
    people : sequence of (name, facts)
        Each with a name of two words and its facts, (relation, object): the edited person, whose first fact is edited,
        a relative and a stranger.
    """
    figure, (axis,) = canvas(height=3.1)
    figure.get_layout_engine().set(w_pad=0, h_pad=0)
    _ground(axis, (0, 7.2), (0, 3.1))
    asked = ("the same person", "a relative: same last token", "a stranger")
    colours = (VERMILION, VERMILION, FAINT)
    for n, ((name, facts), who, colour) in enumerate(zip(people, asked, colours, strict=True)):
        left = 0.06 + 2.42 * n
        axis.add_patch(Rectangle((left, 0.55), 2.24, 2.0, fc=SHADE, ec="none", zorder=0))
        given, family = name.split()
        for at, word_of, edge in ((0.1, given, FAINT), (1.14, family, colour)):
            _box(axis, (left + at, 2.02), (1.0, 0.4), "", edge, lw=2.4 if edge == VERMILION else 1)
            _say(axis, left + at + 0.5, 2.16, word_of, va="baseline")
        for row, (relation, thing) in enumerate(facts):
            height = 1.6 - 0.4 * row
            edited = not n and not row
            _say(axis, left + 0.12, height, f"{relation}:", GREY, 10.5, ha="left", va="baseline")
            _say(axis, left + 1.14, height, thing, BLUE if edited else INK, ha="left", va="baseline")
            if not edited:
                _say(axis, left + 2.1, height, "?", GREY, NAME, va="baseline")
        _say(axis, left + 1.12, 0.26, who, va="baseline")
    _say(axis, 1.18, 2.86, "one edit", BLUE, NAME)
    axis.plot([1.6, 2.35, 2.35], [2.86, 2.86, 1.66], color=BLUE, lw=1.8, zorder=3)
    _arrow(axis, (2.35, 1.66), (2.12, 1.66), BLUE, 1.8)
    return figure


@plot
def edit_as_projection(
    C: Float[np.ndarray, "2 2"] = PLANE,
    k_e: Float[np.ndarray, " 2"] = EDITED,
    others: Float[np.ndarray, "2 n"] = OTHERS,
) -> Figure:
    """Whitened keys above, the edited one to the right; below, what one edit by ROME adds to the answer of each.

    The answers below are read from the edited memory, so that they stand under the keys' shadows because of
    ``(W' - W) k_j = p(k_e, k_j) δ``. Whitening leaves a rotation free; here it turns the edited key to the right.

    Parameters
    ----------
    C : (2, 2) array
        Second moment of the stored keys.
    k_e : (2,) array
        The edited key.
    others : (2, n) array
        Keys that are read, one a column.
    """
    metric = Metric.of(C)
    x_e = metric.whiten(k_e)
    seen = _along(x_e, metric.whiten(others)) / np.linalg.norm(x_e)
    shares = rules.rome(np.zeros((1, 2)), k_e, np.ones(1), C)[0] @ others
    low, high = min(-0.9, shares.min() - 0.35), max(2.1, shares.max() + 0.35)
    step, start = 0.23, -0.34
    figure, (axis,) = canvas(height=4.9)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
    top = max(1.2, seen[1].max() + 0.2)
    _ground(axis, (low - 0.35, high), (start - step * (len(shares) + 0.45), top))
    _arrow(axis, (low, 0), (high, 0), FAINT, 1, mutation_scale=10)
    for tick in (0, 1):
        _say(axis, tick + 0.04, -0.12, f"$p = {tick}$", GREY, ha="left")
    _say(axis, low - 0.33, top - 0.12, "whitened keys", INK, NAME, ha="left")
    _say(axis, high, 0.08, "the one direction\nthat an edit of $k_e$ sees", GREY, ha="right", va="bottom")
    below = start - step * (len(shares) - 0.4)
    said = "what the edit adds\nto the answer of each,\nas a share of $\\delta$"
    _say(axis, high, below, said, INK, NAME, ha="right")
    rows = [(r"\tilde k_e", BLUE, 1.0, (1.0, 0.0))]
    rows += [(rf"\tilde k_{j + 1}", VERMILION, shares[j], tuple(seen[:, j])) for j in range(len(shares))]
    for row, (name, colour, share, tip) in enumerate(rows):
        height = start - step * row
        axis.plot([share, share], [tip[1], height], color=colour, lw=1.2, ls=(0, (3, 2)))
        _arrow(axis, (0, 0), tip, colour, 2.4 if row else 3)
        outward = 0.11 if share >= 0 and row else -0.13
        _say(axis, tip[0] + outward, tip[1] + 0.1, f"${name}$", colour, NAME + 2)
        label = "all of it" if not row else "nothing" if abs(share) < 0.005 else f"{share:+.2g}".replace("-", "−")
        axis.plot([0, share], [height, height], color=colour, lw=5, solid_capstyle="butt")
        axis.plot(share, height, "o", color=colour, ms=7)
        _say(axis, low - 0.33, height, f"${name.replace(chr(92) + 'tilde ', '')}$", colour, NAME, ha="left")
        _say(axis, max(share, 0) + 0.07, height, label, colour, NOTE + 0.5, ha="left")
        if row and abs(share) > 0.1:
            _right_angle(axis, np.array([share, 0.0]), np.array([-share, 0.0]), np.array([0.0, tip[1]]), 0.07)
    axis.plot([0, 0], [0, start - step * (len(rows) - 0.6)], color=FAINT, lw=0.8, zorder=0)
    return figure


def _answers(memory: LinearMemory, K: np.ndarray, values: np.ndarray, turns: int) -> np.ndarray:
    """What a memory of one output answers to two keys, before and after each of so many edits in turn: (2, 1 + t)."""
    path = [memory.recall(K)[0]]
    for turn in range(turns):
        memory.edit(K[:, turn % 2], values[turn % 2 : turn % 2 + 1])
        path.append(memory.recall(K)[0])
    return np.array(path).T


@plot
def edits_that_undo(
    K: Float[np.ndarray, "2 2"] = RELATED,
    values: Float[np.ndarray, " 2"] = ANSWERS,
    C: Float[np.ndarray, "2 2"] | None = None,
    W: Float[np.ndarray, "1 2"] | None = None,
) -> Figure:
    """The answers to two facts while both are edited: keys that do not overlap (left), and keys that do (right).

    On the left the second key is what is left of it at right angles to the first, in the metric of C.

    Parameters
    ----------
    K : (2, 2) array
        Keys of the two facts, one a column; the first is edited first.
    values : (2,) array
        What the one output is to answer them.
    C : (2, 2) array, optional
        Second moment of the stored keys; the identity if none is given.
    W : (1, 2) array, optional
        The memory before both edits; zero if none is given.
    """
    C, W = np.eye(2) if C is None else C, np.zeros((1, 2)) if W is None else W
    p_12 = float(rules.rome_direction(K[:, 0], C) @ K[:, 1])
    apart = np.column_stack([K[:, 0], K[:, 1] - p_12 * K[:, 0]])
    paths = [_answers(LinearMemory(W, C), keys, values, 2) for keys in (apart, K)]
    p_21 = float(rules.rome_direction(K[:, 1], C) @ K[:, 0])
    points = np.column_stack([*paths, values])
    low, high = points.min(axis=1), points.max(axis=1)
    unit = 0.01 * (high - low).max()
    figure, axes = canvas(1, 2, height=4.5)
    for axis, path, title in zip(axes, paths, ("No overlap", f"Overlap, $p(k_2, k_1) = {p_21:.2g}$"), strict=True):
        axis.set(xlim=(low[0] - 44 * unit, high[0] + 42 * unit), ylim=(low[1] - 34 * unit, high[1] + 34 * unit))
        axis.set(aspect="equal", xticks=[], yticks=[])
        axis.set_title(title, fontsize=NAME, pad=8)
        axis.set_xlabel("answer to fact 1", fontsize=NAME)
        axis.axvline(values[0], color=BLUE, lw=1.4, ls="--")
        axis.axhline(values[1], color=VERMILION, lw=1.4, ls=":")
        _say(axis, values[0] + 4 * unit, high[1] + 22 * unit, "fact 1\nright", BLUE, ha="left")
        _say(axis, values[0] + 4 * unit, values[1] - 15 * unit, "fact 2\nright", VERMILION, ha="left")
        _say(axis, path[0, 0] - 6 * unit, path[1, 0], "before", size=NAME, ha="right")
        for n, colour in ((1, BLUE), (2, VERMILION)):
            start, end = path[:, n - 1], path[:, n]
            _arrow(axis, start, end, colour, 2.6, zorder=3)
            away = np.array([start[1] - end[1], end[0] - start[0]]) / np.linalg.norm(end - start)
            x, y = (start + end) / 2 + away * unit * (10 if n == 1 else -17)
            _say(axis, x, y, f"edit {n}", colour, NAME)
        axis.plot(*path[:, 0], "o", color=INK, ms=7)
        axis.plot(*path[:, 2], "o", color=GREEN if axis is axes[0] else INK, ms=9, zorder=4)
    axes[0].set_ylabel("answer to fact 2", fontsize=NAME)
    _say(axes[0], values[0] - 6 * unit, values[1] - 14 * unit, "both right", GREEN, NAME, ha="right")
    at_1, end = paths[1][:, 1], paths[1][:, 2]
    for start, stop in ((at_1, values), (end, values)):
        side = np.array([7 * unit, 0]) if start is at_1 else np.array([0, -7 * unit])
        _arrow(axes[1], start + side, stop + side, INK, 1.3, arrowstyle="<|-|>", mutation_scale=9)
    _say(axes[1], values[0] + 10 * unit, (at_1[1] + values[1]) / 2, r"$\delta(v_2)$", size=NAME, ha="left")
    lost = "fact 1 loses\n$p\\,\\delta(v_2)$"
    _say(axes[1], values[0] - 7 * unit, values[1] - 21 * unit, lost, size=NAME, ha="right")
    return figure


@plot
def edits_that_cancel(K: Float[np.ndarray, "2 2"], values: Float[np.ndarray, " 2"], k_j: np.ndarray) -> Figure:
    """Two edits of a memory with one output and two inputs, ``C = I``, that together leave the answer to k_j as it was.

    A point of the plane is a memory W, a row of two numbers. The edits move it along the two keys; on the line through
    the start, at a right angle to k_j, the answer to k_j is what it was.

    Parameters
    ----------
    K : (2, 2) array
        The edited keys, one a column.
    values : (2,) array
        What they are to be answered.
    k_j : (2,) array
        The key that is read.
    """
    memory, path = LinearMemory(np.zeros((1, 2)), np.eye(2)), [np.zeros(2)]
    for key, value in zip(K.T, values, strict=True):
        memory.edit(key, np.array([value]))
        path.append(memory.W[0])
    figure, (axis,) = canvas(height=3.7)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
    _ground(axis, (-0.62, 2.0), (-0.62, 0.72))
    along = np.array([k_j[1], -k_j[0]]) / np.linalg.norm(k_j)
    axis.plot(*np.column_stack([-0.55 * along, 1.25 * along]), color=GREEN, lw=2, ls="--", zorder=1)
    x, y = 1.22 * along + (0.08, 0.04)
    _say(axis, x, y, "on this line the answer\nto $k_j$ is what it was", GREEN, NAME, ha="left", va="bottom")
    tip = 0.62 * k_j / np.linalg.norm(k_j)
    _arrow(axis, (0, 0), tip, GREY, 1.6)
    _say(axis, tip[0] + 0.08, tip[1] + 0.04, "$k_j$", GREY, NAME)
    for n, colour in ((1, BLUE), (2, VERMILION)):
        _arrow(axis, path[n - 1], path[n], colour, 3, zorder=3)
    _say(axis, 0.55, 0.1, "edit 1, along $k_1$", BLUE, NAME)
    x, y = (path[1] + path[2]) / 2
    _say(axis, x + 0.08, y - 0.08, "edit 2, along $k_2$", VERMILION, NAME, ha="left")
    for n, (right, up) in enumerate([(-0.1, 0.1), (0.12, 0.06), (-0.12, -0.09)]):
        x, y = path[n]
        axis.plot(x, y, "o", color=INK, ms=8, zorder=4)
        _say(axis, x + right, y + up, f"$W_{n}$", size=NAME + 1)
    return figure


@plot
def two_triangles(P: Float[np.ndarray, "n n"], column: int = 3) -> Figure:
    """The overlaps of a sequence of edits: what is corrected lies above the diagonal, the damage below it.

    A square for each ``P[i, j] = p(k_i, k_j)``, its area in proportion to ``|p|``, filled where p is positive. Row i is
    the edit that writes, column j the edit whose key is read. For i < j edit j comes later, finds what edit i did at
    its key, and has it in its residual. For i > j edit j came first, and nobody puts right what edit i does to it.

    Parameters
    ----------
    P : (n, n) array
        Degrees of superposition of the edited keys, in the order of the edits; eight or so are legible.
    column : int
        The edit, counted from 1, whose column is framed.
    """
    n, j = len(P), column - 1
    largest, aside = np.abs(P[~np.eye(n, dtype=bool)]).max(), 0.65 * n
    figure, (axis,) = canvas(height=4.25)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
    _ground(axis, (-aside, n + aside), (n + 1.15, -1.3))
    above, below = np.triu(np.ones((n, n), dtype=bool), 1), np.tril(np.ones((n, n), dtype=bool), -1)
    for triangle, colour in ((above, BLUE), (below, VERMILION)):
        for there, fill in ((triangle & (P > 0), colour), (triangle & (P < 0), PAGE)):
            sides = {(i, k): 0.86 * (abs(P[i, k]) / largest) ** 0.5 for i, k in zip(*np.nonzero(there), strict=True)}
            squares = [Rectangle((k + 0.5 - a / 2, i + 0.5 - a / 2), a, a) for (i, k), a in sides.items()]
            axis.add_collection(PatchCollection(squares, fc=fill, ec=colour, lw=1.4))
    axis.add_collection(PatchCollection([Rectangle((i, i), 1, 1) for i in range(n)], fc=HAIR, ec=PAGE))
    axis.add_patch(Rectangle((0, 0), n, n, fill=False, ec=FAINT, lw=1))
    axis.add_patch(Rectangle((j, 0), 1, j, fill=False, ec=BLUE, lw=2.2))
    axis.add_patch(Rectangle((j, j + 1), 1, n - j - 1, fill=False, ec=VERMILION, lw=2.2))
    for edit in (1, column, n):
        _say(axis, edit - 0.5, -0.3, str(edit), GREY)
        _say(axis, -0.3 if edit < n else n + 0.3, edit - 0.5, str(edit), GREY)
    _say(axis, n / 2, -0.95, "edit $j$, whose key is read", size=NAME)
    _say(axis, -0.65, 0.5, "edit $i$,\nwhich writes", size=NAME, ha="right", va="center")
    _say(axis, n + 0.55, 0.3, "Above: $i < j$", BLUE, NAME, ha="left")
    said = "edit $i$ came first.\nEdit $j$ meets what\nit did, in its own\nresidual $\\delta(v_j)$,\nand puts it right."
    _say(axis, n + 0.55, 0.7, said, ha="left", va="top")
    _say(axis, -0.55, n - 3.5, "Below: $i > j$", VERMILION, NAME, ha="right")
    said = "edit $i$ came later.\nNobody puts right\nwhat it does to $j$:\nit adds to $\\Delta_e$."
    _say(axis, -0.55, n - 3.1, said, ha="right", va="top")
    _say(axis, n + 0.55, n - 1.7, "filled: $p > 0$\nopen: $p < 0$\nlarge: much overlap", GREY, ha="left")
    total = rf"$\Delta_e[:,{column}] = \sum_{{i>{column}}}\, p(k_i, k_{column})\;\delta(v_i)$"
    _say(axis, j + 0.5, n + 0.65, total, VERMILION, NAME)
    return figure


@plot
def gram_schmidt(X: Float[np.ndarray, "2 3"] = ROOMY) -> Figure:
    """What the hard recursion writes along: the part of a key that is new (left: much is new, right: little).

    The direction is the library's own, :func:`superposition.linear.rules.rls_direction` after one earlier edit. In
    whitened space it is ``x⊥ / ‖x⊥‖²``, where x⊥ is what the second key has at right angles to the first: the shorter
    the remainder, the longer the step for the same residual.

    Parameters
    ----------
    X : (2, 3) array
        Whitened keys, one a column: that of the earlier edit, and two to choose from for the second edit.
    """
    state = rules.rls_direction(np.eye(2), X[:, 0], hard=True).S
    steps = np.column_stack([rules.rls_direction(state, x, hard=True).direction for x in X[:, 1:].T])
    turned = _along(X[:, 0], np.column_stack([X, steps]))
    first, seconds, steps = turned[:, 0], turned[:, 1:3], turned[:, 3:]
    top = max(steps[1].max(), seconds[1].max())
    figure, axes = canvas(1, 2, height=5.0)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
    for axis, second, step, what in zip(axes, seconds.T, steps.T, ("Much", "Little"), strict=True):
        _ground(axis, (-0.55, 1.55), (-0.3, top + 0.12))
        axis.set_title(f"{what} is new", fontsize=NAME, pad=4)
        foot = np.array([second[0], 0.0])
        _arrow(axis, (0, 0), first, GREY, 2.4)
        _say(axis, first[0] - 0.15, first[1] - 0.15, r"$\tilde k_1$, edited before", GREY, NAME)
        _arrow(axis, (0, 0), second, VERMILION, 2.4, zorder=3)
        _say(axis, second[0] - 0.02, second[1] + 0.14, r"$\tilde k_2$", VERMILION, NAME + 2)
        _arrow(axis, foot, second, GREEN, 2.4, ls=(0, (3, 1.5)))
        _say(axis, second[0] + 0.07, second[1] / 2, r"$\tilde k_2^\perp$ new", GREEN, NAME, ha="left")
        _right_angle(axis, foot, np.array([-1.0, 0.0]), np.array([0.0, 1.0]), 0.09)
        _arrow(axis, (0, 0), step, BLUE, 3.4)
        _say(axis, -0.08, step[1] / 2, f"step\n{np.linalg.norm(step):.1f}", BLUE, NAME, ha="right")
    _say(axes[0], -0.5, top - 0.02, "The hard recursion\nwrites along what is new:", BLUE, NAME, ha="left", va="top")
    _say(axes[0], -0.5, top - 0.56, r"step = $\tilde k_2^\perp\,/\,\|\tilde k_2^\perp\|^2$", BLUE, NAME + 1, ha="left")
    return figure


@plot
def tails_of_p(samples: Mapping[str, Float[np.ndarray, " n"]], beyond: float = 4.0) -> Figure:
    """Histograms of p on a logarithmic axis, each beside the normal of its own mean and spread, its tails marked.

    Parameters
    ----------
    samples : mapping of str to array
        By name, the p's beside a diagonal, of random keys and of a model's record for example: a panel each, one
        scale for all.
    beyond : float
        Where the tails begin, in standard deviations from the mean.
    """
    figure, axes = canvas(len(samples), 1, height=0.7 + 2.0 * len(samples), sharex=True, sharey=True)
    highest = 0.0
    least = max(min(0.2 / (len(values) * values.std()) for values in samples.values()), 1e-12)
    for axis, (name, values), colour in zip(np.ravel(axes), samples.items(), (BLUE, GREEN, PURPLE), strict=False):
        mean, sd = values.mean(), values.std()
        z = (values - mean) / sd
        wide = beyond / 8
        bins = wide * np.arange(np.floor(z.min() / wide), np.ceil(z.max() / wide) + 1)
        density = np.histogram(z, bins, density=True)[0] / sd
        tail = np.abs(bins[:-1] + wide / 2) > beyond
        edges = mean + sd * bins
        axis.stairs(np.where(tail, np.nan, density), edges, baseline=least, fill=True, color=colour, alpha=0.3, lw=0)
        tails = {"fill": True, "fc": PAGE, "ec": VERMILION, "hatch": "/////", "lw": 1.2}
        axis.stairs(np.where(tail & (density > 0), density, np.nan), edges, baseline=least, **tails)
        x = mean + sd * np.linspace(-6, 6, 241)
        normal = np.exp(-(((x - mean) / sd) ** 2) / 2) / (sd * np.sqrt(2 * np.pi))
        axis.plot(x, normal, color=INK, lw=1.8, ls="--")
        count, expected = int((np.abs(z) > beyond).sum()), len(z) * math.erfc(beyond / np.sqrt(2))
        place = {"transform": axis.transAxes, "va": "top"}
        said = f"beyond {beyond:g} sd: {count:,} of {len(z):,}"
        _say(axis, 0.015, 0.96, said, VERMILION, ha="left", **place)
        _say(axis, 0.985, 0.96, f"a normal (dashed) would have {expected:.0f}", ha="right", **place)
        highest = max(highest, density.max(), normal.max())
        axis.set_title(name, fontsize=NAME, loc="left", pad=4)
        axis.set_yscale("log")
        axis.set_ylabel("density (log)", fontsize=NOTE)
        axis.tick_params(labelsize=11)
    np.ravel(axes)[0].set_ylim(least, 60 * highest)
    np.ravel(axes)[-1].set_xlabel("degree of superposition $p$", fontsize=NAME)
    return figure
