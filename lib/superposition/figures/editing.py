"""Plots of edits on a real model: layers and tracing, single edits, sequences of two hundred (chapters 15 and 16)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from superposition.figures.colours import BLACK, BLUE, DASHED, FAINT, GREEN, OF_EDITOR, ORANGE, search_look
from superposition.figures.style import canvas, curve, interval, name_lines, plot, shared_legend, ticks
from superposition.records import Record
from superposition.studies.to_failure import PANELS, PROTECTED, SHARES, Course


@plot
def sweep_of_layers(record: Record) -> Figure:
    """Left: what single edits achieve, by layer. Right: how far the target value lies from the recalled one."""
    layers = sorted(map(int, record["sweep"]))
    rows = [record["sweep"][str(layer)] for layer in layers]
    figure, (left, right) = canvas(1, 2, height=3.2, width_ratios=[1.6, 1])
    for name, colour, marker, words in (
        ("exact", BLUE, "o", "the prompt"),
        ("paraphrase_exact", ORANGE, "s", "paraphrases"),
        ("neighbourhood_exact", GREEN, "^", "neighbours"),
    ):
        shares = ([row[name][part] for row in rows] for part in ("share", "low", "high"))
        curve(left, layers, *shares, alpha=0.15, color=colour, marker=marker, markersize=4, label=words)
    swept = [row["before"]["neighbourhood_exact"] for row in record["edits"][: rows[0]["facts"]]]  # (hits, asked)
    before = sum(hits for hits, _ in swept) / sum(asked for _, asked in swept)
    left.plot(layers, [before] * len(layers), color=GREEN, linewidth=1, linestyle="--", label="neighbours, before")
    left.set(xlabel="layer", ylabel="answered as wanted", ylim=(-0.02, 1.04), title="exact match")
    name_lines(left, wide=14)
    right.plot(layers, [row["shift_over_recalled"] for row in rows], "o-", color=BLACK, markersize=4)
    right.set(xlabel="layer", ylabel=r"$\|\delta\| \,/\, \|W k\|$", title="size of the shift", ylim=(0, None))
    return figure


@plot
def traced(record: Record) -> Figure:
    """How much of the fact returns, by layer, when the clean run's state (left) or MLP output (right) is put back."""
    facts = list(record["trace"].values())
    figure, axes = canvas(1, 2, height=3.4, sharey=True)
    places = (
        ("last token of the subject", BLUE, "o"),
        ("the token after it", ORANGE, "s"),
        ("last token of the prompt", GREEN, "^"),
    )
    for axis, (kind, title) in zip(axes, (("state", "state put back"), ("mlp", "MLP outputs put back")), strict=True):
        layers = facts[0][kind]["layers"]
        for place, (words, colour, marker) in enumerate(places):
            effect = np.array([np.array(one[kind]["restored"][place]) - one[kind]["corrupted"] for one in facts])
            middle, error = effect.mean(0), 1.96 * effect.std(0, ddof=1) / np.sqrt(len(effect))
            style = {"color": colour, "marker": marker, "markersize": 3.5, "label": words}
            curve(axis, layers, middle, middle - error, middle + error, alpha=0.15, **style)
        axis.axhline(0, color=FAINT, linewidth=0.8)
        axis.set(xlabel="layer", title=title)
    axes[0].set_ylabel("probability that returns")
    shared_legend(axes[0], 3)
    return figure


@plot
def before_and_after(record: Record) -> Figure:
    """Probability of the new object against that of the true one, before and after each single edit."""
    rows = record["edits"]
    figure, axes = canvas(1, 2, height=3.3, sharex=True, sharey=True)
    for axis, when in zip(axes, ("before", "after"), strict=True):
        true, new = (np.array([row[when][name] for row in rows]) for name in ("log_true", "log_new"))
        axis.scatter(true, new, s=14, color=BLUE, alpha=0.7, linewidth=0)
        axis.axline((0, 0), slope=1, color=FAINT, linewidth=0.9, linestyle="--")
        axis.set(xlabel="log P(true object)", title=f"{when} the edit")
    axes[0].set_ylabel("log P(new object)")
    return figure


def _points(sequence: dict[str, Any], *path: str) -> tuple[list[int], list[Any]]:
    """Edits and values of a sequence's checkpoints that have the value."""
    found = []
    for result in sequence["results"]:
        value: Any = result
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            found.append((result["edits"], value))
    return [n for n, _ in found], [value for _, value in found]


@plot
def edit_sequences(record: Record) -> Figure:
    """Seven measures of every method's sequence against the number of edits."""
    panels = (
        (("new", "exact", "share"), "last edits", False),
        (("old", "exact", "share"), "older edits", False),
        (("old", "paraphrase_exact", "share"), "older edits' paraphrases", False),
        (("old", "neighbourhood_exact", "share"), "older edits' neighbours", True),
        (("untouched_exact", "share"), "untouched facts", True),
        (("perplexity",), "perplexity of plain text", True),
        (("drift",), r"$\|W_n - W_0\| \,/\, \|W_0\|$", False),
    )
    figure, axes = canvas(4, 2, height=9.6, sharex=True)
    for axis, (path, title, unedited) in zip(axes.flat, panels, strict=False):
        for name, look in OF_EDITOR.items():
            if name in record["lives"]:  # the record's key of the sequences
                axis.plot(*_points(record["lives"][name], *path), **look.line(markersize=4, linewidth=1.5))
        if unedited:
            value = record["start"]
            for part in path:
                value = value[part]
            axis.axhline(value, color=FAINT, linewidth=0.8)
        axis.set_title(title)
        if path[-1] == "share":
            axis.set(ylim=(-0.03, 1.05), ylabel="exact match")
    axes[3, 0].set_ylim(bottom=0)
    for axis in (axes[3, 0], axes[2, 1]):
        axis.set_xlabel("edits $n$")
        axis.tick_params(labelbottom=True)
    axes[3, 1].axis("off")
    axes[3, 1].legend(*axes[0, 0].get_legend_handles_labels(), loc="center")
    return figure


@plot
def growth_on_a_layer(record: Record, names: Sequence[str]) -> Figure:
    """Interference on untouched keys after every edit (root mean square), and how much each edit asks for.

    Left, for the first of the names, also what its steps would sum to at right angles and all in one direction.
    Right, the first of the names and AlphaEdit in their colours, the others grey.
    """
    figure, axes = canvas(1, 2, height=4.2)
    for name in names:
        words, colour, _, dash = OF_EDITOR[name]
        norms = np.sqrt((record.arrays[f"{name}/interference"].astype(float) ** 2).mean(1))
        residual = record.arrays[f"{name}/residual"]
        n = np.arange(1, len(norms) + 1)
        axes[0].plot(n, norms, color=colour, linestyle=dash, label=words)
        width = min(10, len(residual))
        smooth = np.convolve(residual, np.ones(width) / width, mode="valid")
        shown = (
            {"color": colour, "zorder": 3} if name in (names[0], "alphaedit") else {"color": FAINT, "linewidth": 0.8}
        )
        axes[1].plot(n[width - 1 :], smooth, **shown)
    first = OF_EDITOR[names[0]].name
    step = record.arrays[f"{names[0]}/step"].astype(float)
    n = np.arange(1, len(step) + 1)
    axes[0].plot(
        n,
        np.sqrt(np.cumsum(step**2)),
        color=BLACK,
        linewidth=1,
        linestyle="--",
        label=f"{first}'s steps at right angles",
    )
    axes[0].plot(
        n,
        record.arrays[f"{names[0]}/straight"],
        color=FAINT,
        linewidth=1,
        linestyle=":",
        label=f"{first}'s steps, all aligned",
    )
    axes[0].set(xscale="log", yscale="log", xlabel="edits $n$", ylabel=r"$\|\Delta_o[:, j]\|$, root mean square")
    name_lines(axes[0], wide=14)
    axes[1].set(xlabel="edits $n$", ylabel=r"$\|\delta(v_n)\|$, mean of ten", ylim=(0, None))
    return figure


@plot
def suffering_by_age(record: Record, names: Sequence[str]) -> Figure:
    """Norm of what later edits did to edit j, against j: each edit a dot, means of ten as a line."""
    figure, axes = canvas(1, len(names), height=3.0, sharey=True)
    for axis, name in zip(axes, names, strict=True):
        words, colour, *_ = OF_EDITOR[name]
        norms = record.arrays[f"{name}/on_edits"]
        j = np.arange(1, len(norms) + 1)
        axis.scatter(j, norms, s=9, color=colour, alpha=0.45, linewidth=0)
        ten = len(norms) // 10 * 10
        means = [part[:ten].reshape(-1, 10).mean(1) for part in (j, norms)]
        axis.plot(*means, color=BLACK, linewidth=1.5)
        axis.set(xlabel="edit $j$", title=words)
    axes[0].set(ylim=(0, None), ylabel=r"$\|\Delta_e[:, j]\|$")
    return figure


@plot
def loss_to_failure(courses: Mapping[str, Course]) -> Figure:
    """Share lost of the facts that nobody edits, by method and number of edits (95 % over facts), and the perplexity.

    Where some of the watched facts are protected by name, the dashed line is of the others.
    """
    figure, (left, right) = canvas(1, 2, height=3.7, width_ratios=[1.4, 1])
    for name, course in courses.items():
        style = OF_EDITOR[name].line(markersize=3.5)
        curve(left, course.edits, *course.share("lost").T, alpha=0.13, **style)
        if name == PROTECTED:
            unnamed = course.share("lost_unnamed")[:, 0]
            left.plot(
                course.edits,
                unnamed,
                **style | {"linestyle": "--", "marker": "", "label": "facts protected: those not named"},
            )
        right.plot(course.edits, course.dearer, **style)
    left.axhline(SHARES[-1], **DASHED)
    left.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    left.set(xlabel="edits $n$", ylabel="lost, of what the model knew", ylim=(0, 0.9), xlim=(0, None))
    right.set(xlabel="edits $n$", ylabel="perplexity, over that\nof the unedited model", ylim=(1, None), xlim=(0, None))
    name_lines(left, wide=14)
    return figure


@plot
def loss_by_kind(courses: Mapping[str, Course], edits: int) -> Figure:
    """Share lost after so many edits of three kinds of facts that nobody edits, by method (95 % over facts)."""
    figure, (axis,) = canvas(height=3.2)
    apart = 0.8 / len(courses)
    for number, (name, course) in enumerate(courses.items()):
        words, colour, marker, _ = OF_EDITOR[name]
        row = int(np.flatnonzero(course.edits == edits)[0])
        for place, path in enumerate(PANELS.values()):
            share = course.share(*path)[row]
            mark = {"marker": marker, "markersize": 6, "label": words if place == 0 else None}
            interval(axis, place + apart * (number - (len(courses) - 1) / 2), *share, color=colour, **mark)
    axis.set_yticks(range(len(PANELS)), labels=[name.replace(", ", ",\n") for name in PANELS])
    axis.invert_yaxis()
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set(xlabel=f"lost after {edits} edits, of what the model knew", xlim=(0, 1))
    shared_legend(axis, 2)
    return figure


@plot
def residuals_along(panels: Mapping[str, Mapping[str, Float[np.ndarray, " n"]]], *, wide: int = 5) -> Figure:
    """Length of each residual over that of the same edit alone, along a sequence: a panel a case, a line an arm.

    Lines are running medians over ``wide`` edits. The first arm of a panel is drawn heaviest, the last dashed; that one
    may be shorter than the others, or leave the axis.
    """
    figure, axes = canvas(1, len(panels), height=3.6, sharey=True)
    top = 1.0
    for axis, (title, arms) in zip(axes, panels.items(), strict=True):
        *names, last = arms
        for name in names:
            grown, style = _running_median(arms[name], wide), search_look(name).line(marker="")
            axis.plot(*grown, linewidth=2.6 if name == names[0] else 1.3, **style)
            top = max(top, grown[1].max())
        told = _running_median(arms[last], wide)
        axis.plot(*told, color=BLACK, linewidth=1.3, linestyle="--")
        axis.axhline(1, color=FAINT, linewidth=0.8, linestyle=":")
        axis.set(title=title, xlabel="edit $n$", yscale="log")
    axes[0].set_ylim(0.5, 1.3 * top)
    ticks(axes[0].yaxis, [value for value in (0.5, 1, 2, 3, 5, 10, 20, 50, 100) if value < 1.3 * top])
    axes[0].set_ylabel(r"$\|\delta(v_n)\|$, over its length alone")
    name_lines(axes[-1], wide=14)
    called, told = list(next(iter(panels.values())).items())[-1]
    x, y = _running_median(told, wide)
    axes[0].annotate(called, (x[-1], y[-1]), (6, 0), textcoords="offset points", va="top")
    return figure


def _running_median(values: Float[np.ndarray, " n"], wide: int) -> tuple[np.ndarray, np.ndarray]:
    windows = np.lib.stride_tricks.sliding_window_view(values, wide)
    return np.arange(len(windows)) + (wide + 1) / 2, np.median(windows, axis=1)
