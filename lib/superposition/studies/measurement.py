"""What a measurement's record says of its layers, and what the length and the kind of the text change about it.

Crowding, likeness, and keys at position 0 (chapter ``11-superposition-in-llms``); how C, and
P with it, converges, and what the choices in its making move (chapter ``10-keys-and-moments``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float

from superposition.linear.shrinkage import sampling_error
from superposition.records import Record
from superposition.stats import shape
from superposition.stats.intervals import Estimate, over_pairs
from superposition.studies.names import MODELS


def called(record: Record) -> str:
    """What the book calls a record's model."""
    name = record["model"]["name"]
    return MODELS.get(name, name)


#: Excess kurtosis of p by layer of GPT2-small, read off the plot of Hu et al. (arXiv 2408.07413) within about 0.5.
GPT2_SMALL = (72.7, 24.5, 28.9, 29.3, 26.7, 20.0, 15.3, 10.8, 9.8, 9.7, 8.4, 7.8)

#: Share of the overlaps of random keys beyond three standard deviations.
BEYOND_RANDOM = math.erfc(3 / math.sqrt(2))


def size(record: Record) -> dict[str, float]:
    """The numbers of layers, facts, ordered pairs and tokens, and the keys' width ``d_m``.

    Also the facts whose key is read at position 0 (``sinks``), and the tokens for each dimension.
    """
    first, tokens = record["statistics"][0], record["text"]["tokens"]
    return {
        "layers": len(record["statistics"]),
        "facts": record["facts"]["count"],
        "pairs": first["P"]["pairs"],
        "sinks": int((~off_sink(record)).sum()),
        "tokens": tokens,
        "d_m": first["d_m"],
        "tokens_over_d_m": tokens / first["d_m"],
    }


def statistic(record: Record, name: str, of: str = "P") -> Float[np.ndarray, "layers 3"]:
    """A recorded statistic of every layer, with the low and the high end of its interval."""
    return np.array([[row[of][name], *row[of][f"{name}_interval"]] for row in record["statistics"]])


def off_sink(record: Record) -> Bool[np.ndarray, " m"]:
    """Which facts have a key that is not read at position 0."""
    return np.array(record["token_positions"]) > 0


def kurtosis_off_sink(record: Record) -> Float[np.ndarray, " layers"]:
    """The excess kurtosis of P by layer, without the keys that are read at position 0."""
    inside = np.ix_(off_sink(record), off_sink(record))
    matrices = (record.overlaps(layer).P[inside] for layer in record["layers"])
    return np.array([shape.summary(P, resamples=0)["excess_kurtosis"] for P in matrices])


def shorter(record: Record, layer: int, facts: int | None = None) -> float:
    """How many times shorter the keys at position 0 are in whitened space than the median of the others.

    Of the first so many facts, by default of all.
    """
    norms, inside = record.overlaps(layer).norm_whitened[:facts], off_sink(record)[:facts]
    return float(np.median(norms[inside]) / np.mean(norms[~inside]))


def crowded(record: Record, resamples: int = 200) -> list[Estimate]:
    """By layer, the share of pairs whose overlap is beyond three standard deviations of that of random keys.

    The standard deviation is ``1/√d_m``, and random keys have :data:`BEYOND_RANDOM`. The interval draws facts; a fact
    drawn twice does not meet itself.
    """
    every, shares = np.ones((record["facts"]["count"],) * 2, dtype=bool), []
    for row in record["statistics"]:
        beyond = np.abs(record.overlaps(row["layer"]).P) > 3 / np.sqrt(row["d_m"])
        shares.append(over_pairs(beyond[None].astype(float), every, resamples=resamples, seed=8))
    return shares


def by_likeness(record: Record, layer: int, kinds: Sequence[str]) -> dict[str, float]:
    """The mean of p, off the sink, between facts of one relation, of one kind of subject only, and of neither.

    Parameters
    ----------
    layer : int
    kinds : sequence of m str
        The facts' types of subject.
    """
    P, inside = record.overlaps(layer).P, off_sink(record)
    relation, kind = (np.equal.outer(x, x) for x in (np.array(record["relations"]), np.array(kinds)))
    both = np.outer(inside, inside) & ~np.eye(len(inside), dtype=bool)
    sets = {"together": relation, "alike": kind & ~relation, "apart": ~kind & ~relation}
    return {name: float(P[both & pairs].mean()) for name, pairs in sets.items()}


def on_one_token(record: Record, layer: int) -> float:
    """The mean of p, off the sink, between facts of different subjects whose keys are read at one token."""
    token, subject, inside = (np.array(record[name]) for name in ("token_ids", "subjects", "token_positions"))
    pairs = np.equal.outer(token, token) & np.not_equal.outer(subject, subject)
    return float(record.overlaps(layer).P[pairs & np.outer(inside > 0, inside > 0)].mean())


# Reading the record of convergence (experiments/convergence.py): rows by layer, of texts of several lengths


def spreads(record: Record) -> Float[np.ndarray, " layers"]:
    """The standard deviation of p with the whole text."""
    return np.array([row["by_tokens"][-1]["sd"] for row in record["rows"]])


def over_gaussian(record: Record) -> Float[np.ndarray, "layers lengths"]:
    """The error of p over that of Gaussian keys, for texts of two tokens a dimension up to half of the whole."""
    d_m, times = record["d_m"], []
    for row in record["rows"]:
        end = row["by_tokens"][-1]["tokens"]
        far = [entry for entry in row["by_tokens"] if 2 * d_m <= entry["tokens"] <= end / 2]
        gaussian = sampling_error([entry["tokens"] for entry in far], d_m, end)
        times.append(np.array([entry["rms_scaled"] for entry in far]) / gaussian)
    return np.array(times)


def factors(record: Record) -> Float[np.ndarray, " layers"]:
    """κ of ``def-moments-factor``: the square of :func:`over_gaussian`, in the geometric mean over lengths."""
    return np.exp(2 * np.log(over_gaussian(record)).mean(1))


def _of_halves(record: Record) -> Float[np.ndarray, " layers"]:
    """By layer, (N − d_m) times the squared error of p, of two halves of N tokens each, over the variance of p.

    The halves share no token, so that each has half of their squared difference; the lengths of the keys are in it.
    """
    found = []
    for row in record["rows"]:
        spare = np.mean(row["halves"]["tokens"]) - record["d_m"]
        found.append(spare * row["halves"]["rms"] ** 2 / 2)
    return np.array(found) / spreads(record) ** 2


def error_share(record: Record, tokens: int) -> Float[np.ndarray, " layers"]:
    """The error of p that a text of so many tokens leaves, over p's standard deviation, by two halves of the text."""
    return np.sqrt(_of_halves(record) / (tokens - record["d_m"]))


def errors_by_layer(record: Record, large: Record) -> list[tuple[str, int, float, float, float, float]]:
    """Rows of a table: model, layer, κ, κ if tokens were independent, the error of p and the tokens that it takes.

    The error is :func:`error_share` in a large measurement, the tokens are :func:`tokens_needed` for each dimension.
    """
    independent = [row["fourth_moments"]["factor"] for row in record["rows"]]
    shares = error_share(record, large["text"]["tokens"])
    needed = tokens_needed(record) / record["d_m"]
    numbers = np.array([factors(record), independent, shares, needed]).T.tolist()
    return [(called(record), layer, *found) for layer, found in zip(record["layers"], numbers, strict=True)]


def tokens_needed(record: Record, share: float = 0.1) -> Float[np.ndarray, " layers"]:
    """The tokens that leave an error of this share of p's standard deviation, by two halves of the text."""
    return record["d_m"] + _of_halves(record) / share**2


def beyond_with_error(record: Record, tokens_over_d_m: float) -> float:
    """:data:`BEYOND_RANDOM` once random keys have the error of C too, in the worst layer: of so many tokens for d_m."""
    wider = np.sqrt(1 + max(factors(record)) / (tokens_over_d_m - 1))
    return float(2 * scipy.stats.norm.sf(3 / wider))


def at_length(record: Record, layer: int, tokens: float) -> dict[str, float]:
    """The statistics of p at one layer with the text whose length is nearest to so many tokens."""
    (row,) = (row for row in record["rows"] if row["layer"] == layer)
    return min(row["by_tokens"], key=lambda entry: abs(entry["tokens"] - tokens))


def lowest_kurtosis(record: Record, layer: int) -> dict[str, float]:
    """The statistics of p at one layer with the text that gives it the lowest excess kurtosis."""
    (row,) = (row for row in record["rows"] if row["layer"] == layer)
    return min(row["by_tokens"], key=lambda entry: entry["excess_kurtosis"])


def moved(record: Record, choice: str) -> Float[np.ndarray, " layers"]:
    """How far a choice in the making of C moves p: root mean square over the pairs."""
    read = {
        "float32_sums": lambda row: row["fourth_moments"]["float32_sums"],
        "bfloat16": lambda row: row["bfloat16"]["text_and_keys"],
        "first_position": lambda row: row["first_position"]["without"],
    }.get(choice, lambda row: row[choice])
    return np.array([read(row)["rms"] for row in record["rows"]])


def first_positions(record: Record) -> dict[str, float]:
    """The layer whose trace of C the first positions of texts hold most of.

    Their ``share`` of the trace and of the ``tokens``, the condition number of C ``with`` them in millions and
    ``without``, and the ``largest`` change of p if they are left out.
    """
    row = max(record["rows"], key=lambda row: row["first_position"]["share_of_trace"])
    of = row["first_position"]
    return {
        "layer": row["layer"],
        "share": of["share_of_trace"],
        "tokens": of["share_of_tokens"],
        "with": of["condition_with"] / 1e6,
        "without": of["condition_without"],
        "largest": of["without"]["largest"],
    }


def centred_means(record: Record) -> Float[np.ndarray, "layers 3"]:
    """The mean of p as it is, with the mean key subtracted from C, and from the facts' keys as well."""
    return np.array(
        [
            [row["by_tokens"][-1]["mean"], row["centred"]["mean"], row["centred_keys_too"]["mean"]]
            for row in record["rows"]
        ]
    )


def shrinkage_errors(record: Record, length: int) -> Float[np.ndarray, "layers 3"]:
    """The error of p without shrinkage, with the best of the grid, and with OAS, for one of the recorded lengths."""
    entries = [row["shrinkage"][length] for row in record["rows"]]
    return np.array([[entry["rms"][0], min(entry["rms"]), entry["rms_oas"]] for entry in entries])
