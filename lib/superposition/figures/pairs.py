"""Plots of pairs of facts: what explains their overlap, who is among the strongest, what an edit does to a partner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from superposition.figures.colours import (
    BLACK,
    BLUE,
    CYCLE,
    DASHED,
    GREY,
    HAIR,
    MARKERS,
    OF_MODEL,
    PAGE,
    SKY,
    model_looks,
)
from superposition.figures.style import canvas, curve, name_lines, plot, shared_legend

#: Fewer pairs than this make a hollow mark.
FEW = 30
_LINE = {"alpha": 0.15, "markersize": 3, "linewidth": 1.3}


@plot
def shares_by_depth(tables: Mapping[str, Mapping[str, Any]], groups: Sequence[str]) -> Figure:
    """Each group's share of the variance, by depth, a panel a model.

    Parameters
    ----------
    tables : mapping of str to mapping
        By title: ``"shares"`` (1 + groups, layers), the first row all features together, ``"shares_interval"``
        (2, 1 + groups, layers), and ``"groups"``, the names of the rows.
    groups : sequence of str
        Which to draw.
    """
    figure, axes = canvas(1, len(tables), height=3.7, sharey=True)
    for axis, (title, table) in zip(axes, tables.items(), strict=True):
        depth = np.arange(table["shares"].shape[1])
        axis.plot(depth, table["shares"][0], color=BLACK, linestyle="--", linewidth=1.2, label="all together")
        for group, colour, marker in zip(groups, CYCLE, MARKERS, strict=False):
            if group in table["groups"]:
                row = list(table["groups"]).index(group)
                values = table["shares"][row], *table["shares_interval"][:, row]
                curve(axis, depth, *values, color=colour, marker=marker, label=group, **_LINE)
        axis.set(title=title, xlabel="layer")
    axes[0].set(ylim=(0, None), ylabel="share of the variance")
    name_lines(axes[-1])
    return figure


@plot
def effects(rows: Mapping[str, Mapping[str, tuple[Sequence[str], ArrayLike, ArrayLike]]]) -> Figure:
    """Effects of the features with 95 % intervals, a panel a place, a colour a model.

    Parameters
    ----------
    rows : mapping of str to mapping
        By panel and by model: names of the features, effects (f,) and standard errors (f,).
    """
    keys = {look.name: key for key, look in OF_MODEL.items()}
    names = list(dict.fromkeys(name for panel in rows.values() for found in panel.values() for name in found[0]))
    figure, axes = canvas(1, len(rows), height=0.8 + 0.36 * len(names), sharey=True)
    for axis, (title, panel) in zip(axes, rows.items(), strict=True):
        axis.axvline(0, **DASHED)
        looks = model_looks(keys.get(name, name) for name in panel)
        for (known, effect, error), look, shift in zip(panel.values(), looks, (-0.15, 0.15), strict=False):
            place = np.array([names.index(name) for name in known]) + shift
            bars = {"xerr": 1.96 * np.asarray(error), "fmt": look.marker, "markersize": 5}
            axis.errorbar(effect, place, color=look.colour, label=look.name, **bars)
        axis.set_xscale("symlog", linthresh=1, linscale=1.5)
        axis.set_xticks([-1, 0, 1, 10], labels=["−1", "0", "1", "10"])
        axis.grid(axis="y", color=HAIR, linewidth=0.5)
        axis.set(title=title, xlabel="effect (sd)")
    axes[0].set_yticks(range(len(names)), labels=names)
    axes[0].invert_yaxis()
    shared_legend(axes[0], 2)
    return figure


@plot
def strongest_by_depth(panels: Mapping[str, Mapping[str, np.ndarray]], base: Mapping[str, float]) -> Figure:
    """What the strongest pairs share, by layer, a panel a model; dotted, how common it is among all pairs.

    Parameters
    ----------
    panels : mapping of str to mapping of str to (layers,) array
        By model and by feature: its share among the strongest pairs.
    base : mapping of str to float
        Its share among all pairs.
    """
    figure, axes = canvas(1, len(panels), height=3.6, sharey=True)
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        for (name, values), colour, marker in zip(lines.items(), CYCLE, MARKERS, strict=False):
            axis.plot(values, color=colour, marker=marker, label=name, markersize=3, linewidth=1.3)
            axis.axhline(base[name], color=colour, linestyle=":", linewidth=1)
        axis.set(title=title, xlabel="layer", ylim=(0, 1.03))
    axes[0].set_ylabel("share of the 100 strongest pairs")
    name_lines(axes[-1])
    return figure


@plot
def relation_by_wording(panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]) -> Figure:
    """The effect of a relation that the key has read, by layer, under several wordings, with 95 % intervals.

    Parameters
    ----------
    panels : mapping of str to mapping
        By model and by wording: effects (layers,) and standard errors (layers,).
    """
    figure, axes = canvas(1, len(panels), height=3.0, sharey=True)
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        for (name, (effect, error)), colour, marker in zip(lines.items(), CYCLE, MARKERS, strict=False):
            ends = effect - 1.96 * error, effect + 1.96 * error
            curve(axis, np.arange(len(effect)), effect, *ends, color=colour, marker=marker, label=name, **_LINE)
        axis.axhline(0, **DASHED)
        axis.set(title=title, xlabel="layer")
    axes[0].set_ylabel("effect (sd)")
    name_lines(axes[-1], wide=16)
    return figure


@plot
def by_overlap(panels: Mapping[str, Mapping[str, Mapping[str, ArrayLike]]], titles: Sequence[str]) -> Figure:
    """Means over bins of p with 95 % intervals: a panel an outcome, a colour a group of pairs.

    Parameters
    ----------
    panels : mapping of str to mapping of str to mapping
        By the axis' label and by group: ``"p"``, ``"mean"``, ``"low"``, ``"high"`` and the number of ``"cells"``, a
        value a bin; bins of fewer than :data:`FEW` pairs are hollow marks beside the line, without an interval.
    titles : sequence of str
        Of the panels.
    """
    figure, axes = canvas(1, len(panels), height=3.6, sharex=True)
    looks = dict(zip(next(iter(panels.values())), ((SKY, "o"), (BLUE, "s"), (GREY, "D")), strict=False))
    for axis, (label, lines), title in zip(axes, panels.items(), titles, strict=True):
        axis.axhline(0, **DASHED)
        for name, bins in lines.items():
            colour, marker = looks[name]
            p, mean, low, high, cells = (np.asarray(bins[of]) for of in ("p", "mean", "low", "high", "cells"))
            some = cells >= FEW
            curve(axis, p[some], mean[some], low[some], high[some], alpha=0.18, color=colour, label=name)
            axis.plot(p[some], mean[some], marker, color=colour, markersize=4.5)
            axis.plot(p[~some], mean[~some], marker, color=colour, markerfacecolor=PAGE, markersize=4.5, zorder=1)
        axis.set_title(title)
        axis.set(xlabel="overlap $p(k_A, k_B)$", ylabel=label.strip().replace(" of log-", "\nof log-"))
    shared_legend(axes[0], 3)
    return figure
