"""The shape of a distribution: moments of overlaps, and kurtosis and tails that no single pair can set.

Chapters ``11-superposition-in-llms`` and ``12-nulls-and-confounds``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from superposition.errors import UserError
from superposition.stats.intervals import pair_sums

#: Moors' kurtosis of a normal distribution.
MOORS_NORMAL = 1.2330876085

#: L-kurtosis of a normal distribution, ``30/π · arctan √2 − 9``.
L_NORMAL = float(30 / np.pi * np.arctan(np.sqrt(2)) - 9)

#: The share of entries that counts as the tail.
TAIL = 0.02

#: Statistics of overlaps, with what figures and tables call them.
LABELS = {
    "mean": "mean",
    "spread": "spread",
    "excess_kurtosis": "excess kurtosis",
    "l_kurtosis": "L-kurtosis",
    "quantile_kurtosis": "quantile kurtosis",
    "hill": "Hill's tail index",
}
STATISTICS = tuple(LABELS)


def off_diagonal(matrix: Float[np.ndarray, "m m"]) -> Float[np.ndarray, " pairs"]:
    """The m(m − 1) entries beside the diagonal, row by row."""
    return matrix[~np.eye(len(matrix), dtype=bool)]


def extremes(values: ArrayLike) -> dict[str, float]:
    """The ``least`` and the ``most`` of some values."""
    return {"least": float(np.min(values)), "most": float(np.max(values))}


def quantile_kurtosis(values: ArrayLike) -> float:
    """Moors' kurtosis from octiles, less the 1.233 of a normal distribution: 0 if normal, robust to a few outliers.

    ``((E7 − E5) + (E3 − E1)) / (E6 − E2) − 1.233`` (Moors 1988).
    """
    octiles = np.quantile(np.asarray(values), np.arange(1, 8) / 8)
    return float((octiles[6] - octiles[4] + octiles[2] - octiles[0]) / (octiles[5] - octiles[1]) - MOORS_NORMAL)


def l_kurtosis(values: ArrayLike) -> float:
    """L-kurtosis ``λ₄/λ₂`` less that of a normal distribution, 0.1226: 0 if normal, at most 0.877 (Hosking 1990).

    From the unbiased probability-weighted moments. A far entry counts by its size, not by its fourth power.

    Raises
    ------
    UserError
        Fewer than four values, or all of them the same.
    """
    x = np.sort(np.asarray(values, dtype=np.float64), kind="stable")  # in no time if sorted already
    if len(x) < 4 or x[0] == x[-1]:
        raise UserError("L-kurtosis needs at least four values that are not all the same.")
    b = _weights(len(x)) @ x
    second, fourth = 2 * b[1] - b[0], 20 * b[3] - 30 * b[2] + 12 * b[1] - b[0]
    return float(fourth / second - L_NORMAL)


@lru_cache(maxsize=4)
def _weights(n: int) -> Float[np.ndarray, "4 n"]:
    """Weights of n sorted values in the probability-weighted moments b₀ … b₃."""
    rank, rows = np.arange(n), [np.full(n, 1 / n)]
    for r in range(3):
        rows.append(rows[-1] * (rank - r) / (n - 1 - r))
    return np.array(rows)


def hill(values: ArrayLike, share: float = TAIL) -> float:
    """Hill's estimate of the tail's heaviness ``ξ = 1/α`` from the ``share`` of values furthest from the median.

    The mean of ``log(|x − median| / threshold)`` over them (Hill 1975). For a power law ``P(|x| > t) ~ t^(−α)`` it
    tends to 1/α; the far 2 % of a normal distribution give 0.13.

    Raises
    ------
    UserError
        The share is outside (0, ½) or leaves no value, or the threshold is zero.
    """
    x = np.sort(np.asarray(values, dtype=np.float64), kind="stable")
    count = int(share * len(x))
    if not 0 < share < 0.5 or count < 1:
        raise UserError(f"A tail of {share} of {len(x)} values makes no sense: give a larger share below one half.")
    middle = (x[(len(x) - 1) // 2] + x[len(x) // 2]) / 2
    far = np.sort(np.abs(np.concatenate([x[: count + 1], x[-count - 1 :]]) - middle))[-count - 1 :]
    if far[0] <= 0:
        raise UserError("More than half of the values are the same, so they have no tail.")
    return float(np.log(far[1:] / far[0]).mean())


def statistics(values: ArrayLike, d_m: int) -> dict[str, float]:
    """The ``STATISTICS`` of overlaps beside the diagonal.

    ``mean``; ``spread``, the standard deviation times ``√d_m`` (1 for random directions); ``excess_kurtosis``;
    ``l_kurtosis`` (:func:`l_kurtosis`); ``quantile_kurtosis`` (:func:`quantile_kurtosis`), all three 0 if normal;
    ``hill`` (:func:`hill`).
    """
    x = np.sort(np.asarray(values, dtype=np.float64))
    mean = x.mean()
    square = (x - mean) ** 2
    variance = square.mean()
    return {
        "mean": float(mean),
        "spread": float(np.sqrt(variance * d_m)),
        "excess_kurtosis": float((square**2).mean() / variance**2 - 3),
        "l_kurtosis": l_kurtosis(x),
        "quantile_kurtosis": quantile_kurtosis(x),
        "hill": hill(x),
    }


def summary(
    matrix: Float[np.ndarray, "m m"], *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """Statistics of the entries beside the diagonal, with bootstrap intervals.

    The bootstrap draws facts, not pairs: two pairs that share a fact are not independent. A fact drawn twice would
    meet itself; such pairs are left out. A resample of fewer than three facts, or of facts that all overlap alike,
    is drawn again.

    Parameters
    ----------
    matrix : (m, m) array
    resamples : int
        Bootstrap resamples; 0 leaves the intervals out.
    level : float
        Of the percentile intervals.
    seed : int

    Returns
    -------
    dict
        ``pairs``, ``mean``, ``sd``, ``skew``, ``excess_kurtosis`` (population moments), ``quantile_kurtosis``
        (:func:`quantile_kurtosis`), ``share_below_0``, ``median``, ``max``, ``min``; and, for the first four
        statistics, ``*_interval``.

    Raises
    ------
    UserError
        Fewer than three keys, overlaps that are all the same or not finite; and as :func:`check_resamples`.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    m = len(matrix)
    if m < 3:
        raise UserError(f"Statistics need at least three facts, and there are {m}.")
    check_resamples(resamples, seed)
    values = off_diagonal(matrix)
    if not np.isfinite(values).all():
        raise UserError("The overlaps hold NaN or infinity: check the keys and C.")
    if values.std() <= 1e-12 * np.abs(values).max():
        raise UserError("All facts overlap alike, so the overlap has no statistics: give facts with different keys.")
    centre = values.mean()
    shifted = np.where(np.eye(m, dtype=bool), 0.0, matrix - centre)
    powers = np.stack([1.0 - np.eye(m), *(shifted**r for r in (1, 2, 3, 4))])
    point = _moments(powers, np.ones((1, m)), centre)
    result: dict[str, Any] = {"pairs": int(values.size)} | {name: float(column[0]) for name, column in point.items()}
    result |= {
        "quantile_kurtosis": quantile_kurtosis(values),
        "share_below_0": float((values < 0).mean()),
        "median": float(np.median(values)),
        "min": float(values.min()),
        "max": float(values.max()),
    }
    if resamples:
        drawn = [_moments(powers, counts, centre) for counts in _draw(powers, resamples, seed)]
        tails = [(1 - level) / 2, (1 + level) / 2]
        for name in point:
            column = np.concatenate([block[name] for block in drawn])
            result[f"{name}_interval"] = [float(x) for x in np.quantile(column, tails)]
    return result


#: The most resamples of a bootstrap, and how many are in memory at once.
MOST_RESAMPLES, RESAMPLES_AT_ONCE = 1_000_000, 1000


def check_resamples(resamples: int, seed: int = 0) -> None:
    """Raise a :class:`UserError` for a negative seed, and for resamples below 0 or above :data:`MOST_RESAMPLES`."""
    if seed < 0:
        raise UserError(f"A seed of {seed} makes no sense: give 0 or more.")
    if resamples < 0:
        raise UserError(f"{resamples} resamples make no sense: give 0 or more.")
    if resamples > MOST_RESAMPLES:
        raise UserError(f"{resamples:,} resamples are too many: give --resamples of {MOST_RESAMPLES:,} at most.")


def _draw(powers: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each fact is drawn, in blocks (n, m), for so many resamples whose statistics are defined."""
    m, rng = powers.shape[1], np.random.default_rng(seed)
    while resamples:
        drawn = rng.multinomial(m, np.full(m, 1 / m), size=min(resamples, RESAMPLES_AT_ONCE)).astype(float)
        drawn = drawn[(drawn > 0).sum(1) >= 3]
        total, m1, m2 = pair_sums(powers[:3], drawn)
        counts = drawn[m2 * total - m1**2 > 1e-12 * m2 * total][:resamples]
        resamples -= len(counts)
        yield counts


def excess_kurtosis(first: Any, second: Any, third: Any, fourth: Any) -> Any:
    """The excess kurtosis of a distribution, or of several, from its raw moments."""
    central = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
    return central / (second - first**2) ** 2 - 3


def _moments(powers: np.ndarray, weights: np.ndarray, centre: float) -> dict[str, np.ndarray]:
    """Mean, sd, skew and excess kurtosis of the pairs (i ≠ j) weighted by ``w_i w_j``, for each row of weights."""
    total, m1, m2, m3, m4 = pair_sums(powers, weights)
    m1, m2, m3, m4 = m1 / total, m2 / total, m3 / total, m4 / total
    variance = m2 - m1**2
    third = m3 - 3 * m1 * m2 + 2 * m1**3
    return {
        "mean": centre + m1,
        "sd": np.sqrt(variance),
        "skew": third / variance**1.5,
        "excess_kurtosis": excess_kurtosis(m1, m2, m3, m4),
    }
