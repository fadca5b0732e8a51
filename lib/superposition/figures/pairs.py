"""Plots of pairs of facts: what explains their overlap, who is among the strongest, what an edit does to a partner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from superposition.figures.style import BLACK, BLUE, CYCLE, STYLE, VERMILION, canvas

MARKERS = "osD^vPX"
GREY = "#666666"
DPI = 92


def shares_by_depth(tables: Mapping[str, Mapping[str, np.ndarray | Sequence[str]]], groups: Sequence[str]) -> Figure:
    """Share of the variance that is lost when a group of features is left out, by depth, a panel a model.

    Parameters
    ----------
    tables : mapping of str to mapping
        By title: ``"dropped"`` (1 + groups, layers), the first row all features together, ``"dropped_interval"``
        (2, 1 + groups, layers), and ``"groups"``, the names of the rows.
    groups : sequence of str
        Which to draw.
    """
    with mpl.rc_context(STYLE):
        figure, axes = canvas(1, len(tables), height=3.7, dpi=DPI, sharey=True)
        for axis, (title, table) in zip(axes[0], tables.items(), strict=True):
            depth = np.arange(table["dropped"].shape[1])
            axis.plot(depth, table["dropped"][0], color=BLACK, linestyle="--", linewidth=1.2, label="all together")
            for group, colour, marker in zip(groups, CYCLE, MARKERS, strict=False):
                if group not in table["groups"]:
                    continue
                row = list(table["groups"]).index(group)
                axis.fill_between(depth, *table["dropped_interval"][:, row], color=colour, alpha=0.15, linewidth=0)
                axis.plot(
                    depth, table["dropped"][row], color=colour, marker=marker, markersize=3, linewidth=1.3, label=group
                )
            axis.set_title(title)
            axis.set_xlabel("layer")
        axes[0, 0].set_ylim(bottom=0)
        axes[0, 0].set_ylabel("share of the variance")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def effects(rows: Mapping[str, Mapping[str, tuple[Sequence[str], ArrayLike, ArrayLike]]]) -> Figure:
    """Effects of the features with 95 % intervals, a panel a place, a colour a model.

    Parameters
    ----------
    rows : mapping of str to mapping
        By panel and by model: names of the features, effects (f,) and standard errors (f,).
    """
    names = list(dict.fromkeys(name for panel in rows.values() for found in panel.values() for name in found[0]))
    with mpl.rc_context(STYLE):
        figure, axes = canvas(1, len(rows), height=0.8 + 0.36 * len(names), dpi=DPI, sharey=True)
        for axis, (title, panel) in zip(axes[0], rows.items(), strict=True):
            axis.axvline(0, color=GREY, linestyle="--", linewidth=1)
            for (model, (known, effect, error)), colour, marker, shift in zip(
                panel.items(), (BLUE, VERMILION), "os", (-0.15, 0.15), strict=False
            ):
                place = np.array([names.index(name) for name in known]) + shift
                axis.errorbar(
                    effect, place, xerr=1.96 * np.asarray(error), color=colour, fmt=marker, markersize=4, label=model
                )
            axis.set_xscale("symlog", linthresh=1, linscale=1.5)
            axis.set_xticks([-1, 0, 1, 3, 10], labels=["−1", "0", "1", "3", "10"])
            axis.set_title(title)
            axis.set_xlabel("effect (sd)")
        axes[0, 0].set_yticks(range(len(names)), labels=names)
        axes[0, 0].invert_yaxis()
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def strongest_by_depth(panels: Mapping[str, Mapping[str, np.ndarray]], base: Mapping[str, float]) -> Figure:
    """What the strongest pairs share, by layer, a panel a model; dotted, how common it is among all pairs.

    Parameters
    ----------
    panels : mapping of str to mapping of str to (layers,) array
        By model and by feature: its share among the strongest pairs.
    base : mapping of str to float
        Its share among all pairs.
    """
    with mpl.rc_context(STYLE):
        figure, axes = canvas(1, len(panels), height=3.6, dpi=DPI, sharey=True)
        for axis, (title, lines) in zip(axes[0], panels.items(), strict=True):
            for (name, values), colour, marker in zip(lines.items(), CYCLE, MARKERS, strict=False):
                axis.plot(values, color=colour, marker=marker, markersize=3, linewidth=1.3, label=name)
                axis.axhline(base[name], color=colour, linestyle=":", linewidth=1)
            axis.set_title(title)
            axis.set_xlabel("layer")
            axis.set_ylim(0, 1)
        axes[0, 0].set_ylabel("share of the 100 strongest pairs")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def relation_by_wording(panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]) -> Figure:
    """The effect of a relation that the key has read, by layer, under several wordings, with 95 % intervals.

    Parameters
    ----------
    panels : mapping of str to mapping
        By model and by wording: effects (layers,) and standard errors (layers,).
    """
    with mpl.rc_context(STYLE):
        figure, axes = canvas(1, len(panels), height=3.0, dpi=DPI, sharey=True)
        for axis, (title, lines) in zip(axes[0], panels.items(), strict=True):
            for (name, (effect, error)), colour, marker in zip(lines.items(), CYCLE, MARKERS, strict=False):
                layers = np.arange(len(effect))
                low, high = effect - 1.96 * error, effect + 1.96 * error
                axis.fill_between(layers, low, high, color=colour, alpha=0.15, linewidth=0)
                axis.plot(effect, color=colour, marker=marker, markersize=3, linewidth=1.3, label=name)
            axis.axhline(0, color=GREY, linestyle="--", linewidth=1)
            axis.set_title(title)
            axis.set_xlabel("layer")
        axes[0, 0].set_ylabel("effect (sd)")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def by_overlap(panels: Mapping[str, Mapping[str, Mapping[str, ArrayLike]]], titles: Sequence[str]) -> Figure:
    """Means over bins of p with 95 % intervals: a panel an outcome, a colour a group of pairs.

    Parameters
    ----------
    panels : mapping of str to mapping of str to mapping
        By the axis' label and by group: ``"p"``, ``"mean"``, ``"low"`` and ``"high"``, a value a bin.
    titles : sequence of str
        Of the panels.
    """
    with mpl.rc_context(STYLE):
        figure, axes = canvas(1, len(panels), height=3.3, dpi=DPI)
        for axis, (label, lines), title in zip(axes[0], panels.items(), titles, strict=True):
            for (name, bins), colour, marker in zip(lines.items(), (BLUE, VERMILION, GREY), MARKERS, strict=False):
                p, mean = np.asarray(bins["p"]), np.asarray(bins["mean"])
                axis.fill_between(p, bins["low"], bins["high"], color=colour, alpha=0.18, linewidth=0)
                axis.plot(p, mean, color=colour, marker=marker, markersize=4, label=name)
            axis.axhline(0, color=GREY, linestyle="--", linewidth=1)
            axis.set_title(title, fontweight="normal")
            axis.set_xlabel("overlap $p(k_A, k_B)$")
            axis.set_ylabel(label)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
