"""Figures of part I: the plane of a single edit, a lifetime of edits, overlap, capacity, the family of editors.

Every function takes arrays and returns a Matplotlib figure; the numbers come from the chapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from superposition.figures.colours import (
    BLUE,
    CYCLE,
    FAINT,
    GREEN,
    GREY,
    HAIR,
    INK,
    MARKERS,
    PAGE,
    SHADE,
    SKY,
    VERMILION,
    editor_look,
    word,
)
from superposition.figures.style import band, canvas, heatmap, name_lines, plot, ticks


def _arrow(axis: Axes, tip: np.ndarray, colour: str) -> None:
    arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", xy=(tip[0], tip[1]), xytext=(0, 0), arrowprops=arrow)


# --- 01: room in a memory -------------------------------------------------------------------------------------


@plot
def recall_against_load(
    loads: Float[np.ndarray, " n"], outer: Float[np.ndarray, " n"], fitted: Float[np.ndarray, " n"]
) -> Figure:
    """Relative squared error of two memories against ``N/d_m``: measured (dots), expected for random facts (lines)."""
    figure, (axis,) = canvas(height=3.1)
    x = np.linspace(0.01, loads.max(), 400)
    axis.plot(x, x, color=VERMILION, lw=1.4)
    axis.plot(x, np.maximum(0, 1 - 1 / x), color=BLUE, lw=1.4)
    axis.plot(loads, outer, "s", color=VERMILION, label="outer products, $V K^\\top$")
    axis.plot(loads, fitted, "o", color=BLUE, label="best memory", clip_on=False, zorder=3)
    axis.axvline(1, color=FAINT, lw=0.8, ls="--")
    offset = {"xytext": (-6, 0), "textcoords": "offset points"}
    axis.annotate("one fact for\neach dimension", (1, 1.5), color=GREY, ha="right", **offset)
    axis.axhline(1, color=FAINT, lw=0.8, ls=":")
    axis.set(xlim=(0, loads.max()), ylim=(0, 1.8), xlabel="facts stored per dimension, $N/d_m$")
    axis.set_ylabel("squared error of the answers\n(1: the size of the values)")
    name_lines(axis, inside={"outer products, $V K^\\top$": (0.47, 0.9), "best memory": (0.75, 0.5)})
    return figure


# --- 02: a single edit ---------------------------------------------------------------------------------------


def _ellipses(axis: Axes, C: np.ndarray, span: tuple[float, float, float, float], levels: list, **look) -> None:
    """Changes (D_1, D_2) of equal damage ``D C Dᵀ``, over x and y from ... to."""
    x, y = np.meshgrid(np.linspace(*span[:2], 301), np.linspace(*span[2:], 301))
    axis.contour(x, y, C[0, 0] * x**2 + 2 * C[0, 1] * x * y + C[1, 1] * y**2, levels=levels, **look)


def _line_of_changes(axis: Axes, key: np.ndarray, answer: float, reach: float, **look) -> None:
    """Changes (D_1, D_2) that give a key an answer, ``D k = answer``."""
    foot, along = answer * key / (key @ key), np.array([-key[1], key[0]]) / np.linalg.norm(key)
    axis.plot(*(foot[:, None] + along[:, None] * np.array([-reach, reach])), **look)


@plot
def touching_ellipse(
    keys: Float[np.ndarray, "2 N"], k: np.ndarray, r: float, exact: np.ndarray, naive: np.ndarray
) -> Figure:
    """Two dimensions, one row of W: the cloud of keys (left) and the changes D with ``D k = r`` (right).

    `exact` and `naive` are the two changes, each (2,). The ellipses are level sets of the damage ``D K Kᵀ Dᵀ``.
    """
    figure, (cloud, weights) = canvas(1, 2, height=4.6)
    cloud.scatter(*keys, s=9, color=SKY, alpha=0.7, linewidths=0, label="stored keys")
    direction = exact * np.linalg.norm(k) / np.linalg.norm(exact)
    for tip, colour, label in ((k, VERMILION, "edited key $k_e$"), (direction, BLUE, "direction $C^{-1}k_e$")):
        _arrow(cloud, tip, colour)
        cloud.plot([], [], color=colour, label=label, lw=2)
    reach = np.ceil(np.abs(keys).max())
    cloud.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel="first entry of a key", ylabel="second entry of a key")
    cloud.set_title("Where the keys lie", loc="left")

    extent = 1.35 * max(np.abs(exact).max(), np.abs(naive).max())
    C, span = keys @ keys.T, (-extent, extent, -extent, extent)
    least, other = exact @ C @ exact, naive @ C @ naive
    _ellipses(weights, C, span, [least], colors=[BLUE], linewidths=1.6)
    _ellipses(weights, C, span, [other], colors=[VERMILION], linewidths=1.6)
    _ellipses(weights, C, span, [least / 4, 4 * least], colors=[FAINT], linewidths=0.7)
    _line_of_changes(weights, k, r, 4 * extent, color=INK, lw=1.4, label="changes that store the fact")
    weights.plot(*naive, "s", color=VERMILION, ms=7, label="write along $k_e$")
    weights.plot(*exact, "o", color=BLUE, ms=8, label="write along $C^{-1}k_e$")
    weights.plot(0, 0, "+", color=INK, ms=8)
    weights.set(xlim=(-extent, extent), ylim=(-extent, extent))
    weights.set(xlabel="$D_1$, change of the first weight", ylabel="$D_2$, change of the second weight")
    weights.set_title("Ellipses of equal damage", loc="left")
    for axis in (cloud, weights):
        axis.set_aspect("equal")
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), handlelength=1.4, labelspacing=0.3)
    return figure


@plot
def shares_of_others(naive: Float[np.ndarray, " m"], exact: Float[np.ndarray, " m"]) -> Figure:
    """Histograms of the share of one edit that arrives at each of m other keys, for two directions of writing."""
    figure, (axis,) = canvas(height=2.9)
    edge = 1.02 * max(np.abs(naive).max(), np.abs(exact).max())
    bins = np.linspace(-edge, edge, 41)
    for shares, colour, label in ((naive, VERMILION, "write along $k_e$"), (exact, BLUE, "write along $C^{-1}k_e$")):
        rms = np.sqrt(np.mean(shares**2))
        axis.hist(shares, bins=bins, color=colour, alpha=0.25, label=f"{label},\nroot mean square {rms:.2f}")
        axis.hist(shares, bins=bins, color=colour, histtype="step", lw=2)
    axis.axvline(0, color=INK, lw=0.8)
    axis.set(xlabel="share of the edit's residual that arrives at another key", ylabel="number of keys")
    axis.legend(loc="upper left")
    return figure


# --- 03: a lifetime of edits ----------------------------------------------------------------------------------


# --- 03: edits in sequence --------------------------------------------------------------------------------------


@plot
def story_of_edits(stops: Sequence[int], chances: Float[np.ndarray, "stops facts"], names: Sequence[str]) -> Figure:
    """The probability of the first name's new answer, and of the others' true ones, after so many edits in sequence."""
    figure, (axis,) = canvas(height=3.9)
    for column, name in enumerate(names):
        look = {"lw": 2.8, "zorder": 4} if not column else {"lw": 1.6}
        look |= {"color": CYCLE[column], "marker": MARKERS[column], "ms": 5.5}
        axis.plot(stops, chances[:, column], label=name, clip_on=False, **look)
    axis.set(xlim=(0, max(stops)), ylim=(0, 1), xlabel="edits made, one after the other")
    axis.set_ylabel("probability of the answer")
    ticks(axis.xaxis, [stop for stop in stops if stop % 10 == 0])
    name_lines(axis, wide=20)
    return figure


@plot
def staircase(
    after: Float[np.ndarray, "n n"], final: Float[np.ndarray, "n sequences"], expected: Float[np.ndarray, " n"]
) -> Figure:
    """Damage to edit j after edit i (left), and after the last one (right: every sequence, mean, expectation).

    `after[i, j]` is a mean over sequences, NaN for j > i; `final` holds single sequences.
    """
    n, sequences = final.shape
    figure, (triangle, last) = canvas(1, 2, height=3.5, width_ratios=[1, 1.15])
    figure.get_layout_engine().set(wspace=0.08)
    image = triangle.imshow(after, cmap="viridis", interpolation="none", extent=(0.5, n + 0.5, n + 0.5, 0.5), vmin=0)
    triangle.set(xlabel="edit $j$, whose answer is checked", ylabel="after edit $i$")
    triangle.set_title("Damage grows, on average", loc="left")
    bar = figure.colorbar(image, ax=triangle, shrink=0.8, label="damage, mean of all lifetimes")
    bar.outline.set_visible(False)
    edits = np.arange(1, n + 1)
    few = final[:, :: max(1, sequences // 6)]
    last.plot(edits, few, color=FAINT, lw=0.7, alpha=0.7)
    last.plot([], [], color=FAINT, lw=0.8, label="single lifetimes")
    last.plot(edits[::3], final.mean(axis=1)[::3], "o", ms=4, color=VERMILION, label="their mean", zorder=3)
    last.plot(edits, expected, color=BLUE, label="expected", zorder=4)
    last.set(
        xlim=(0, n + 1), ylim=(0, 5.5), xlabel="edit $j$", ylabel="damage at the end\n(1: the mean squared answer)"
    )
    last.set_title("The first suffer most", loc="left")
    last.legend(loc="upper right")
    return figure


# --- 04: the whitened plane -----------------------------------------------------------------------------------


def _label(axis: Axes, at: np.ndarray, colour: str, name: str, nudge: tuple[float, float]) -> None:
    halo = [patheffects.withStroke(linewidth=3, foreground=PAGE)]
    axis.annotate(
        name,
        xy=(at[0], at[1]),
        xytext=nudge,
        textcoords="offset points",
        color=word(colour),
        fontsize=13,
        path_effects=halo,
        zorder=5,
    )


@plot
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
    figure, axes = canvas(1, 2, height=3.7)
    titles, letters = ("Keys as they are", "Keys whitened"), ("k", r"\tilde k")
    for axis, B, title, k in zip(axes, spaces, titles, letters, strict=True):
        axis.scatter(*(B @ K), s=7, color=FAINT, alpha=0.5, linewidths=0)
        for radius in (1, 2):
            axis.plot(*(radius * B @ ring), color=GREY, linewidth=0.9)
        foot, tip, drop = p * B @ k_i, B @ k_i, B @ k_j
        axis.axline((0, 0), tip, color=BLUE, linewidth=0.8, linestyle=":")
        axis.plot(*np.stack([drop, foot], axis=1), color=VERMILION, linewidth=1.4, linestyle="--")
        for at, colour, name, nudge in ((tip, BLUE, f"${k}_i$", (7, -5)), (drop, VERMILION, f"${k}_j$", (1, 7))):
            _arrow(axis, at, colour)
            _label(axis, at, colour, name, nudge)
        axis.plot(*foot, marker="o", color=GREEN, markersize=7)
        _label(axis, foot, GREEN, f"$p\\,{k}_i$", (0, -16))
        axis.set(title=title, xlabel="first coordinate")
        axis.set_aspect("equal", adjustable="datalim")
        axis.axhline(0, color=HAIR, linewidth=0.8, zorder=0)
        axis.axvline(0, color=HAIR, linewidth=0.8, zorder=0)
    axes[0].set_ylabel("second coordinate")
    return figure


@plot
def damage_around(angles: Mapping[str, np.ndarray], damage: np.ndarray) -> Figure:
    """Signed share of an edit that reaches a key, against its angle to the edited key, on top of a cosine.

    Parameters
    ----------
    angles : mapping of str to array
        Degrees, for the same keys measured in different spaces.
    damage : array
        Signed share of the edit's residual that arrives at each key.
    """
    figure, (axis,) = canvas(height=3.3)
    degrees = np.linspace(0, 180, 181)
    cosine = np.cos(np.radians(degrees))
    axis.plot(degrees, cosine, color=FAINT, alpha=0.5, linewidth=5, label="cosine")
    for (name, values), colour, mark in zip(angles.items(), (VERMILION, BLUE), "so", strict=False):
        axis.plot(values, damage, linestyle="", marker=mark, markersize=4, color=colour, label=name)
    axis.axhline(0, color=GREY, linewidth=0.8)
    axis.axvline(90, color=GREY, linewidth=0.8, linestyle="--")
    axis.set(xticks=range(0, 181, 30), xlabel="angle to the edited key (degrees)", ylabel="share of δ that arrives")
    places = ((0.36, 0.88), (0.27, 0.3), (0.56, 0.62))
    name_lines(axis, inside=dict(zip(("cosine", *angles), places, strict=False)))
    return figure


# --- 05: capacity ---------------------------------------------------------------------------------------------


@plot
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
    figure, (axis,) = canvas(height=3.4)
    wide = np.linspace(d_m, N[-1], 200)
    band(axis, N, runs, color=BLUE, label="random keys, measured", marker="o", markersize=4)
    axis.plot(wide, (wide - d_m) / (d_m - 2), color=INK, linestyle=":", label="random keys, expected")
    axis.plot(wide, wide / d_m - 1, color=VERMILION, linestyle="--", label="forced: $N/d_m - 1$")
    axis.axvline(d_m, color=GREY, linewidth=0.8)
    axis.text(d_m + 0.8, 0.97, "$N = d_m$", transform=axis.get_xaxis_transform(), va="top", color=GREY)
    axis.set(xlabel=f"stored keys $N$ ($d_m$ = {d_m})", ylabel="$\\Sigma\\, p^2$ over the other keys")
    name_lines(axis, wide=13)
    return figure


@plot
def edit_over_text(of_text: Float[np.ndarray, " tokens"], of_facts: Mapping[str, float]) -> Figure:
    """Above, p of one edit with the tokens of a text (histogram, logarithmic); below, with some facts by name."""
    figure, (tokens, facts) = canvas(2, 1, height=4.0, sharex=True, height_ratios=[1.35, 1])
    tokens, facts = tokens[0], facts[0]
    width = 0.01
    low = np.floor(min(of_text.min(), *of_facts.values()) / width)
    high = np.ceil(max(of_text.max(), *of_facts.values()) / width)
    tokens.hist(of_text, bins=width * np.arange(low, high + 1), color=BLUE)
    tokens.set(yscale="log", ylabel="tokens of text\n(logarithmic)")
    for row, share in enumerate(of_facts.values()):
        facts.plot([0, share], [row, row], color=VERMILION, lw=1.6)
        facts.plot(share, row, "o", color=VERMILION, ms=7)
    facts.set_yticks(range(len(of_facts)), list(of_facts))
    facts.invert_yaxis()
    facts.margins(y=0.15)
    facts.set_xlabel("$p$, the share of the edit that arrives")
    for axis in (tokens, facts):
        axis.axvline(0, color=INK, lw=0.8)
    return figure


@plot
def keys_that_fit(overlap: np.ndarray, fit: Mapping[int, np.ndarray], ceiling: Mapping[int, np.ndarray]) -> Figure:
    """How many keys fit below an overlap: bounds from below (solid) and from above (dashed), by d_m.

    Parameters
    ----------
    overlap : array
        Largest ``|cos|`` allowed.
    fit, ceiling : mapping of d_m to array
        Numbers of keys; infinite ceilings are not drawn.
    """
    figure, (axis,) = canvas(height=3.4)
    for (d_m, values), colour in zip(fit.items(), CYCLE, strict=False):
        axis.plot(overlap, values, color=colour, label=f"$d_m$ = {d_m:,}")
        axis.plot(overlap, ceiling[d_m], color=colour, linestyle="--", linewidth=1.2)
    axis.set(yscale="log", ylim=(10, 1e9), xlim=(0, overlap[-1]))
    axis.set(xlabel="largest overlap allowed (cosine)", ylabel="number of keys (logarithmic)")
    said = "solid: at least so many fit\ndashed: at most so many"
    axis.text(0.97, 0.35, said, transform=axis.transAxes, ha="right", va="center")
    name_lines(axis)
    return figure


# --- 06: the family of editors --------------------------------------------------------------------------------


@plot
def one_question(
    C: Float[np.ndarray, "2 2"],
    edited: Float[np.ndarray, " 2"],
    earlier: Float[np.ndarray, " 2"],
    answers: Mapping[str, Float[np.ndarray, " 2"]],
) -> Figure:
    """One output, two inputs: the change D that each rule makes, as a point, among ellipses of equal damage.

    Parameters
    ----------
    C : (2, 2) array
        Second moment of the keys whose answers should not change.
    edited, earlier : (2,) array
        The edited key, whose answer is to change by 1, and that of an earlier edit.
    answers : mapping of str to array
        Each rule's change, by the key of the rule.
    """
    figure, (axis,) = canvas(height=5.0)
    span = left, right, low, high = -0.36, 1.16, -0.14, 1.1
    _ellipses(axis, C, span, [0.05, 0.2, 0.45, 1.25, 2.6, 3.6], colors=[HAIR], linewidths=0.8)
    for rule in ("rome", "rls-hard"):
        through = answers[rule] @ C @ answers[rule]
        _ellipses(axis, C, span, [through], colors=[editor_look(rule).colour], linewidths=1.3)
    for key, answer, said, look in (
        (edited, 1, "$Dk_e=1$: the edit is exact", {"color": INK, "lw": 1.6}),
        (earlier, 0, "$Dk_p=0$: the earlier\nanswer stays", {"color": GREY, "lw": 1.6, "ls": "--"}),
    ):
        _line_of_changes(axis, key, answer, 4.0, label=said, **look)
    for rule in ("rome", "alphaedit"):  # the direction in which it writes
        axis.axline((0, 0), tuple(answers[rule]), color=editor_look(rule).colour, lw=1, ls=":")
    halo = [patheffects.withStroke(linewidth=3, foreground=PAGE)]
    for rule, D in answers.items():
        look, at_left = editor_look(rule), D[0] < 0.05
        axis.plot(*D, look.marker, color=look.colour, ms=9, zorder=4)
        beside = {"xytext": (-9, 0) if at_left else (9, 3), "textcoords": "offset points", "path_effects": halo}
        beside |= {"ha": "right" if at_left else "left", "va": "center", "zorder": 5}
        axis.annotate(look.name, tuple(D), color=word(look.colour), **beside)
    axis.plot(0, 0, "+", color=INK, ms=9)
    axis.set(xlim=(left, right), ylim=(low, high), aspect="equal")
    axis.set(xlabel="$D_1$, change of the first weight", ylabel="$D_2$, change of the second weight")
    axis.legend(loc="upper right")
    return figure


@plot
def miss_and_damage(
    missed: Float[np.ndarray, " n"],
    damage: Float[np.ndarray, " n"],
    found: Mapping[str, tuple[float, float]],
    inside: Float[np.ndarray, "2 n"] | None = None,
) -> Figure:
    """Share of the squared wanted change that is missed, and damage: the least possible (curve), and that of rules.

    Parameters
    ----------
    missed, damage : (n,) array
        The curve, weight by weight.
    found : mapping of str to two floats
        What each rule misses and its damage, by the key of the rule.
    inside : (2, n) array, optional
        A second curve, of changes inside AlphaEdit's directions: what they miss, and their damage.
    """
    figure, (axis,) = canvas(height=3.8)
    if inside is not None:
        green = editor_look("alphaedit").colour
        axis.plot(*inside, color=green, lw=1.2, ls="--", zorder=1)
        height = np.interp(0.16, *inside[:, ::-1])
        axis.annotate("least, in AlphaEdit's\ndirections", (0.16, height + 0.004), color=word(green), va="bottom")
    axis.plot(missed, damage, color=INK, lw=1.6, zorder=1)
    axis.fill_between(missed, 0, damage, color=SHADE, lw=0)
    axis.annotate("no change of the memory\nlies below the curve", (0.02, 0.004), color=GREY, va="bottom")
    named = {}  # rules at one point share a name
    for rule, point in found.items():
        look = editor_look(rule)
        looks = named.setdefault(tuple(np.round(point, 4)), [])
        axis.plot(*point, look.marker, color=look.colour, ms=8 if looks else 10, clip_on=False, zorder=3)
        looks.append(look)
    for point, looks in named.items():
        beside: dict = {
            "xytext": (8, -4) if looks[0].name == "MEMIT" else (6, 8),
            "textcoords": "offset points",
            "color": word(looks[0].colour),
        }
        if len(looks) > 1:
            beside |= {"xytext": (70, 14), "arrowprops": {"arrowstyle": "-", "color": GREY, "linewidth": 0.8}}
        halo = [patheffects.withStroke(linewidth=3, foreground=PAGE)]
        axis.annotate(", ".join(look.name for look in looks), point, path_effects=halo, **beside)
    axis.set(xlim=(-0.005, 0.25), ylim=(0, 0.2), ylabel="damage over the text behind $C$")
    axis.set_xlabel("missed share of the squared wanted change, after all edits")
    return figure


@plot
def transfers(matrices: Mapping[str, np.ndarray], limit: float = 1.0) -> Figure:
    """What edit i (row) adds to the recall of edited key j (column), as a share of δ_i, one panel a rule.

    Above the diagonal an edit meets keys not yet written, which costs nothing; below it, earlier edits.
    """
    rows = -(-len(matrices) // 2)
    figure, axes = canvas(rows, 2, height=2.7 * rows, sharex=True, sharey=True)
    axes = np.atleast_2d(axes)
    for axis in axes.flat[len(matrices) :]:
        axis.set_visible(False)
    for axis, (name, matrix) in zip(axes.flat, matrices.items(), strict=False):
        heatmap(axis, matrix, limit)
        axis.plot([-0.5, len(matrix) - 0.5], [-0.5, len(matrix) - 0.5], color=GREY, linewidth=0.7)
        axis.set_title(name)
        counts = [0, len(matrix) // 2 - 1, len(matrix) - 1]
        axis.set(xticks=counts, xticklabels=[n + 1 for n in counts], yticks=counts, yticklabels=[n + 1 for n in counts])
    for axis in axes[-1]:
        axis.set_xlabel("key $j$ read")
    for axis in axes[:, 0]:
        axis.set_ylabel("edit $i$ written")
    label = "share of $\\delta_i$ that arrives"
    figure.colorbar(axes[0, 0].images[0], ax=axes, shrink=0.7, extend="both", label=label)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # it would move a little at every drawing
    return figure


@plot
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
    figure, axes = canvas(1, 2, height=4.2)
    for name in errors:
        look = editor_look(name)
        style = {"label": look.name, "color": look.colour, "linestyle": look.dash}
        band(axes[0], n, errors[name], **style)
        band(axes[1], n, damage[name], geometric=True, **style)
    axes[0].set(title="Error of the edits so far", xlabel="edits $n$")
    axes[1].set(title="Damage to the stored keys", xlabel="edits $n$", yscale="log")
    axes[0].set_ylabel("squared error / squared values")
    axes[1].set_ylabel("damage (logarithmic)")
    ticks(axes[1].yaxis, [0.1, 1, 10, 100])
    for axis in axes:
        axis.axvline(d_m, color=GREY, linewidth=0.8)
        axis.text(d_m - 0.5, 0.98, "$d_m$", transform=axis.get_xaxis_transform(), va="top", ha="right", color=GREY)
        if full is not None:
            axis.axvline(full, color=GREY, linewidth=0.8, linestyle=":")
            style = {"va": "top", "ha": "right", "color": GREY}
            axis.text(full - 0.5, 0.98, "$d_m/2$", transform=axis.get_xaxis_transform(), **style)
        name_lines(axis)
    return figure
