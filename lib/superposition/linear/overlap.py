"""Overlap of keys: superposition in whitened space, cosines, and what their distribution looks like.

Equations of chapters ``04-superposition`` and ``11-superposition-in-llms``; ``p`` is that of Hu et al.
(arXiv 2408.07413): ``p(k_i, k_j) = k_iᵀ C⁻¹ k_j / k_iᵀ C⁻¹ k_i``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from superposition.errors import UserError
from superposition.linear import check
from superposition.linear.metric import Metric, SecondMoment


@dataclass(frozen=True)
class Overlap:
    """The four matrices of m keys at one layer, each (m, m) float64.

    Attributes
    ----------
    P : ``P[i, j] = p(k_i, k_j)``, the projection coefficient of key j on key i in whitened space; not symmetric.
    Q : ``Q[i, j] = k_iᵀ k_j``, the raw products.
    cosine_whitened, cosine_raw : cosines of the keys after and before whitening.
    norm_whitened : (m,), ``√(k_iᵀ C⁻¹ k_i)``, the keys' lengths after whitening.
    """

    P: Float[np.ndarray, "m m"]
    Q: Float[np.ndarray, "m m"]
    cosine_whitened: Float[np.ndarray, "m m"]
    cosine_raw: Float[np.ndarray, "m m"]
    norm_whitened: Float[np.ndarray, " m"]


def whitened_products(keys: Float[np.ndarray, "d_m m"], C: SecondMoment) -> Float[np.ndarray, "m m"]:
    """``Kᵀ C⁻¹ K``: the products of the keys in whitened space, symmetric.

    Parameters
    ----------
    keys : (d_m, m) array
        One key a column.
    C : (d_m, d_m) array or Metric
        The second moment, or its metric, which is factorised already.

    Raises
    ------
    UserError
        Shapes do not fit, a key is zero or not finite, or ``C`` is singular.
    """
    return Metric.of(C).products(check.columns("K", keys))


def from_products(products: Float[np.ndarray, "m m"]) -> Float[np.ndarray, "m m"]:
    """``P`` from the whitened products: each row divided by its diagonal entry."""
    return products / np.diag(products)[:, None]


def cosines(products: Float[np.ndarray, "m m"]) -> Float[np.ndarray, "m m"]:
    """Cosines from inner products: each entry divided by the lengths of its two keys."""
    norms = np.sqrt(np.diag(products))
    return products / np.outer(norms, norms)


def superposition_matrix(keys: Float[np.ndarray, "d_m m"], C: SecondMoment) -> Float[np.ndarray, "m m"]:
    """``P[i, j] = p(k_i, k_j)``. Parameters and errors as in :func:`whitened_products`."""
    return from_products(whitened_products(keys, C))


def measure(keys: Float[np.ndarray, "d_m m"], C: SecondMoment) -> Overlap:
    """All four matrices of one layer. Parameters and errors as in :func:`whitened_products`."""
    products = whitened_products(keys, C)
    keys = np.asarray(keys, dtype=np.float64)
    raw = keys.T @ keys
    norms = np.sqrt(np.diag(products))
    return Overlap(from_products(products), raw, cosines(products), cosines(raw), norms)


def off_diagonal(matrix: Shaped[np.ndarray, "m m"]) -> Shaped[np.ndarray, " pairs"]:
    """The m(m − 1) entries beside the diagonal, row by row."""
    return matrix[~np.eye(len(matrix), dtype=bool)]


def quantile_kurtosis(values: Float[np.ndarray, " n"]) -> float:
    """Moors' kurtosis from octiles, less the 1.233 of a normal distribution: 0 if normal, robust to a few outliers.

    ``((E7 − E5) + (E3 − E1)) / (E6 − E2) − 1.233`` (Moors 1988).
    """
    octiles = np.quantile(values, np.arange(1, 8) / 8)
    return float((octiles[6] - octiles[4] + octiles[2] - octiles[0]) / (octiles[5] - octiles[1]) - MOORS_NORMAL)


def strongest(P: Float[np.ndarray, "m m"], count: int) -> list[tuple[int, int]]:
    """The ``count`` pairs (i, j) of largest ``P[i, j]``, in descending order, each pair in its stronger direction."""
    stronger = np.where(P >= P.T, P, -np.inf)
    np.fill_diagonal(stronger, -np.inf)
    stronger[np.triu(P == P.T)] = -np.inf
    order = np.argsort(stronger, axis=None, kind="stable")[::-1][:count]
    pairs = zip(*np.unravel_index(order, P.shape), strict=True)
    return [(int(i), int(j)) for i, j in pairs if np.isfinite(stronger[i, j])]


#: Moors' kurtosis of a normal distribution.
MOORS_NORMAL = 1.2330876085


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
        total, m1, m2 = _sums(powers[:3], drawn)
        counts = drawn[m2 * total - m1**2 > 1e-12 * m2 * total][:resamples]
        resamples -= len(counts)
        yield counts


def _sums(powers: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """``wᵀ A w`` for each matrix and each row of weights, by matrix products: einsum takes twenty times as long."""
    return [np.einsum("bi,bi->b", weights @ power, weights) for power in powers]


def _moments(powers: np.ndarray, weights: np.ndarray, centre: float) -> dict[str, np.ndarray]:
    """Mean, sd, skew and excess kurtosis of the pairs (i ≠ j) weighted by ``w_i w_j``, for each row of weights."""
    total, m1, m2, m3, m4 = _sums(powers, weights)
    m1, m2, m3, m4 = m1 / total, m2 / total, m3 / total, m4 / total
    variance = m2 - m1**2
    third = m3 - 3 * m1 * m2 + 2 * m1**3
    fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
    return {
        "mean": centre + m1,
        "sd": np.sqrt(variance),
        "skew": third / variance**1.5,
        "excess_kurtosis": fourth / variance**2 - 3,
    }
