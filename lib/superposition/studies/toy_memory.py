"""What the record of linear toy memories says (``toy-memory``, chapter ``07-toy-memory``)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from superposition.linear.overlap import Overlap
from superposition.records import Record
from superposition.stats import regression
from superposition.stats.intervals import Estimate, mean_over_seeds
from superposition.studies.toys import forgetting

#: d_m of the memories that forget, whose damage grows, and whose earlier edits are asked.
D_M = 48

#: The number of edits from which on a sequence counts as late.
LATE = 2 * D_M


def spread(record: Record, kind: str, name: str) -> Estimate:
    """A statistic of the overlap or damage among keys of a kind, over seeds.

    The mean; for heavy-tailed keys the geometric mean, since a few seeds would rule the other, but of ``worst``,
    a share, and of ``kurtosis_cosine``, which may be negative.
    """
    geometric = kind == "heavy-tailed" and name not in ("worst", "kurtosis_cosine")
    return mean_over_seeds([run[name] for run in record["kinds"][kind]], geometric=geometric)


def harm_of_lengths(record: Record) -> Float[np.ndarray, " seeds"]:
    """How many times the damage is with keys of unequal lengths what it is with random keys."""
    heavy, random = ([run["damage"] for run in record["kinds"][kind]] for kind in ("heavy-tailed", "random"))
    return np.divide(heavy, random)


def squared_among_stored(d_m: int, N: int) -> float:
    """``d_m/(d_m - 2) (N - d_m)/(N - 1)``: d_m times the mean of p² over pairs of N stored random keys.

    Equation ``eq-capacity-gaussian``.
    """
    return d_m / (d_m - 2) * (N - d_m) / (N - 1)


def gap_to_law(record: Record) -> float:
    """Largest distance of the mean course, at the highest load, from :func:`superposition.studies.toys.forgetting`."""
    return float(np.abs(record.arrays["loads"][-1].mean(0) - forgetting(record["stops"]["loads"], D_M)).max())


def growth(record: Record, first: int = 1, last: float = np.inf) -> dict[str, Estimate]:
    """Slope of the damage against n on log-log axes, over first ≤ n ≤ last edits: arm by arm, over seeds."""
    n = np.array(record["stops"]["arms"])
    inside = (n >= first) & (n <= last)
    arms = zip(record["arms"], record.arrays["arms"], strict=True)
    return {arm: mean_over_seeds(regression.log_slope(n[inside], runs[:, inside])) for arm, runs in arms}


def by_age(record: Record) -> Float[np.ndarray, "3 seeds"]:
    """Mean squared change of a sequence's edits by thirds of the list, the oldest first."""
    edits = record.arrays["earlier"]
    third = edits.shape[1] // 3
    return np.stack([edits[:, :third], edits[:, third : 2 * third], edits[:, -third:]]).mean(2)


def lean(layer: Overlap, d_m: int) -> float:
    """``d_m`` times the mean product of two whitened keys over the mean square of one; at most 1 for typical keys.

    Proposition ``thm-toymemory-mean``.
    """
    products = layer.P * layer.norm_whitened[:, None] ** 2  # (m, m): k̃_i · k̃_j
    between = (products.sum() - products.trace()) / (len(products) - 1)
    return float(d_m * between / products.trace())


def crossover(P: Float[np.ndarray, "m m"]) -> float:
    """Edits after which growth turns linear if residuals align completely: ``(s² - μ²)/μ²``.

    Equation ``eq-toymemory-crossover``. μ² and s² are means over the keys; μ² less what chance adds to the square of
    a mean of m - 1 overlaps.
    """
    m = len(P)
    mu, square = (P.sum(0) - 1) / (m - 1), ((P**2).sum(0) - 1) / (m - 1)
    mu2 = np.mean(mu**2 - (square - mu**2) / (m - 2))
    return float((np.mean(square) - mu2) / mu2)
