"""How well a forecast ranks: the area under the ROC curve and Spearman's correlation, with intervals over facts.

Chapter ``20-forecasting-damage``.
"""

from __future__ import annotations

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float, Int

from superposition.errors import UserError


def roc_area(
    forecast: Float[np.ndarray, " m"],
    lost: Bool[np.ndarray, " m"],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
    """The chance that a lost fact had been forecast to be worse off than one that was kept (area under the ROC curve).

    Ties count half. A value of 0.5 is no forecast at all. The interval is a bootstrap over facts.

    Raises
    ------
    UserError
        No fact was lost, or all were.
    """
    value, drawn = _areas(forecast, lost, resamples, seed)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return value, float(low), float(high)


def roc_lead(
    first: Float[np.ndarray, " m"], second: Float[np.ndarray, " m"], lost: Bool[np.ndarray, " m"]
) -> tuple[float, float, float]:
    """By how much the :func:`roc_area` of one forecast exceeds another's; 95 % bootstrap over facts, in pairs.

    Raises
    ------
    UserError
        No fact was lost, or all were.
    """
    (value, drawn), (other, drawn_of_other) = (_areas(x, lost) for x in (first, second))
    low, high = np.quantile(drawn - drawn_of_other, [0.025, 0.975])
    return value - other, float(low), float(high)


def _areas(forecast: np.ndarray, lost: np.ndarray, resamples: int = 2000, seed: int = 0) -> tuple[float, np.ndarray]:
    """An area, and those of samples of the lost and of the kept, which are the same whatever the forecast."""
    forecast, lost = np.asarray(forecast, dtype=float), np.asarray(lost, dtype=bool)
    if lost.all() or not lost.any():
        raise UserError("To separate the lost from the kept there must be some of both.")
    bad, good = forecast[lost], forecast[~lost]
    above = (bad[:, None] > good[None, :]) + 0.5 * (bad[:, None] == good[None, :])
    rng = np.random.default_rng(seed)
    rows, columns = (rng.multinomial(size, np.full(size, 1 / size), size=resamples) for size in above.shape)
    areas = np.einsum("bi,ij,bj->b", rows, above, columns, optimize=True) / above.size
    return float(above.mean()), areas


def rank_correlation(
    forecast: Float[np.ndarray, " m"],
    actual: Float[np.ndarray, " m"],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Spearman's rank correlation of a forecast with what happened, and its bootstrap interval over facts.

    Returns
    -------
    value, low, high : float

    Raises
    ------
    UserError
        Fewer than three facts, or lengths that differ.
    """
    forecast, actual = np.asarray(forecast, dtype=float), np.asarray(actual, dtype=float)
    if forecast.shape != actual.shape or len(actual) < 3:
        raise UserError(f"A rank correlation needs three facts and more, and got {forecast.shape} and {actual.shape}.")
    value = float(scipy.stats.spearmanr(forecast, actual).statistic)
    m = len(actual)
    counts = np.random.default_rng(seed).multinomial(m, np.full(m, 1 / m), size=resamples)
    low, high = np.nanquantile(rank_correlations(forecast, actual, counts), [(1 - level) / 2, (1 + level) / 2])
    return value, float(low), float(high)


def rank_correlations(
    forecast: Float[np.ndarray, " m"], actual: Float[np.ndarray, " m"], counts: Int[np.ndarray, "b m"]
) -> Float[np.ndarray, " b"]:
    """Spearman's rank correlation where each of m facts comes as often as ``counts`` says, for b draws; may be NaN."""
    total = counts.sum(1, keepdims=True)
    a, b = (_ranks(x, counts) for x in (forecast, actual))
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = (x - (counts * x).sum(1, keepdims=True) / total for x in (a, b))
        return (counts * a * b).sum(1) / np.sqrt((counts * a**2).sum(1) * (counts * b**2).sum(1))


def _ranks(values: Float[np.ndarray, " m"], counts: Int[np.ndarray, "resamples m"]) -> Float[np.ndarray, "resamples m"]:
    """Mid-ranks of values in samples that hold each of them so many times."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    together = np.add.reduceat(counts[:, order], np.flatnonzero(np.diff(group[order], prepend=-1)), axis=1)
    return (together.cumsum(1) - (together - 1) / 2)[:, group]
