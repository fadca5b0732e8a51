"""Plots of how well C is known: tokens, texts, positions, shrinkage, precision (chapter ``10-keys-and-moments``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from superposition.figures.colours import BLACK, CYCLE, DASHED, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from superposition.figures.style import canvas, kurtosis_scale, name_lines, plot, shared_legend, ticks
from superposition.linear.shrinkage import sampling_error
from superposition.records import Record
from superposition.studies.measurement import moved

_MARKERS = "os^Dv*"

# Choices of a measurement, by name: label, colour, marker.
CHOICES = {
    "float32_sums": ("sums in float32", SKY, "v"),
    "bfloat16": ("forward pass in bfloat16", GREEN, "s"),
    "halves": ("another sample of the same text", BLACK, "o"),
    "first_position": ("first positions left out", ORANGE, "^"),
    "other_text": ("a manual in place of the sample", VERMILION, "D"),
    "centred": ("mean key subtracted", PURPLE, "*"),
}


@plot
def errors_of_draws(draws: Mapping[int, np.ndarray], d_m: int) -> Figure:
    """Errors of p over many random texts of Gaussian keys, scaled, against Student's t.

    Parameters
    ----------
    draws : mapping of tokens to (draws,) array
        Errors in units of the two keys' scale, for each number of tokens.
    d_m : int
    """
    figure, axes = canvas(1, len(draws), height=2.9, sharex=True)
    x = np.linspace(-0.8, 0.8, 401)
    for axis, (tokens, errors) in zip(axes, draws.items(), strict=True):
        n = tokens - d_m + 2
        weight = np.full(len(errors), 81 / 1.6 / len(errors))  # a density over all draws, those outside too
        axis.hist(errors, bins=81, range=(-0.8, 0.8), weights=weight, color=SKY, label="texts")
        axis.plot(x, stats.t.pdf(x * np.sqrt(n), n) * np.sqrt(n), color=BLACK, linewidth=1.2, label="Student")
        axis.set_title(f"$N = {tokens / d_m:g}\\, d_m$")
        axis.set_yticks([])
    axes[0].set_ylabel("density")
    shared_legend(axes[-1], 2, "outside upper center")
    figure.supxlabel("error of $p$, in units of the keys' scale")
    return figure


@plot
def error_by_tokens(record: Record) -> Figure:
    """The error of p against the number of tokens, a line a layer, and what independent Gaussian keys would give."""
    figure, (axis,) = canvas(height=3.8)
    d_m = record["d_m"]
    end = record["rows"][0]["by_tokens"][-1]["tokens"]
    x = np.geomspace(1.1 * d_m, 0.85 * end, 200)
    expected = sampling_error(x, d_m, end)
    axis.plot(x / d_m, expected, color=BLACK, linestyle="--", linewidth=1.2, label="Gaussian keys")
    for row, colour, marker in zip(record["rows"], CYCLE, _MARKERS, strict=False):
        entries = [entry for entry in row["by_tokens"] if entry["tokens"] <= 0.85 * end]
        share, error = ([entry["tokens"] / d_m for entry in entries], [entry["rms_scaled"] for entry in entries])
        style = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1}
        axis.plot(share, error, label=f"layer {row['layer']}", **style)
    axis.set(xscale="log", yscale="log")
    ticks(axis.xaxis, [1, 2, 4, 8, 16, 32, 64, 128])
    axis.set(xlabel=r"tokens a dimension, $N / d_m$", ylabel="error of $p$ in units of its scale (rms)")
    name_lines(axis)
    return figure


@plot
def statistics_by_tokens(record: Record) -> Figure:
    """Spread and tails of P against the number of tokens, a line a layer."""
    figure, axes = canvas(1, 2, height=3.3)
    d_m = record["d_m"]
    for row, colour, marker in zip(record["rows"], CYCLE, _MARKERS, strict=False):
        share = [entry["tokens"] / d_m for entry in row["by_tokens"]]
        spread = [entry["sd"] * np.sqrt(d_m) for entry in row["by_tokens"]]
        tails = [entry["excess_kurtosis"] for entry in row["by_tokens"]]
        for axis, values in zip(axes, (spread, tails), strict=True):
            axis.plot(
                share, values, color=colour, marker=marker, markersize=3.5, linewidth=1, label=f"layer {row['layer']}"
            )
    for axis in axes:
        axis.set_xscale("log")
        ticks(axis.xaxis, [1, 4, 16, 64])
        axis.set_xlabel(r"tokens a dimension, $N / d_m$")
    axes[0].axhline(1, **DASHED)
    axes[0].set_ylim(bottom=0)
    axes[0].set_title(r"spread: sd · $\sqrt{d_m}$ (random keys: 1)")
    kurtosis_scale(axes[1])
    axes[1].set_ylim(0, 300)
    axes[1].set_title("excess kurtosis (normal: 0)")
    name_lines(axes[0])
    return figure


@plot
def choices(record: Record, names: Sequence[str] = tuple(CHOICES)) -> Figure:
    """How far each choice moves p, by layer, beside the spread of p itself."""
    figure, (axis,) = canvas(height=4.6)
    rows, places = record["rows"], np.arange(len(record["rows"]))
    spread = [row["by_tokens"][-1]["sd"] for row in rows]
    axis.plot(places, spread, color=GREY, linestyle="--", linewidth=1.2, label="spread of $p$ itself (sd)")
    for name in names:
        label, colour, marker = CHOICES[name]
        style = {"color": colour, "marker": marker, "markersize": 6, "linewidth": 0.8, "label": label}
        axis.plot(places, moved(record, name), **style)
    axis.set(yscale="log", xlabel="layer", ylabel="change of $p$ (rms over pairs)")
    axis.set_xticks(places, labels=[row["layer"] for row in rows])
    name_lines(axis, wide=20)
    return figure


@plot
def shrinkage(record: Record, layers: Sequence[int]) -> Figure:
    """The error of p against the shrinkage of C, for several numbers of tokens, a panel a layer."""
    figure, axes = canvas(1, len(layers), height=3.2, sharey=True)
    by_layer = {row["layer"]: row for row in record["rows"]}
    for axis, layer in zip(axes, layers, strict=True):
        for entry, colour, marker in zip(by_layer[layer]["shrinkage"], CYCLE, _MARKERS, strict=False):
            x = np.array(entry["shrinkages"], dtype=float)
            x[0] = x[1] / 10  # zero has no place on a logarithmic axis
            label = f"$N = {entry['tokens'] / record['d_m']:.2g}\\,d_m$"
            axis.plot(x, entry["rms"], color=colour, marker=marker, markersize=3.5, linewidth=1, label=label)
            axis.plot(entry["oas"], entry["rms_oas"], color=colour, marker="*", markersize=11, linestyle="")
        axis.set(xscale="log", yscale="log")
        axis.set_xticks([1e-6, 1e-4, 1e-2], labels=["0", "$10^{-4}$", "0.01"])
        axis.xaxis.minorticks_off()
        axis.set_title(f"layer {layer}")
        axis.set_xlabel("shrinkage $s$ (log)")
    axes[0].set_ylabel("error of $p$ (rms, log)")
    ticks(axes[0].yaxis, [0.02, 0.05, 0.1, 0.2])
    name_lines(axes[-1])
    return figure
