"""95 % intervals of shares and means: Wilson's, Student's over seeds, and the percentile bootstrap's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import ArrayLike

from superposition.errors import UserError


class Estimate(NamedTuple):
    """A value with the low and the high end of its 95 % interval."""

    value: float
    low: float
    high: float


def share(hits: Iterable[Any]) -> dict[str, Any]:
    """A share with Wilson's 95 % interval: ``{"share", "low", "high", "n"}``; all None where n is 0."""
    hits = np.asarray(list(hits), dtype=bool)
    if not hits.size:
        return {"share": None, "low": None, "high": None, "n": 0}
    ends = scipy.stats.binomtest(int(hits.sum()), hits.size).proportion_ci(method="wilson")
    return {"share": float(hits.mean()), "low": float(ends.low), "high": float(ends.high), "n": int(hits.size)}


def mean_interval(values: Iterable[float], *, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """A mean with its 95 % percentile bootstrap interval: ``{"mean", "low", "high", "n"}``; None where n is 0."""
    values = np.asarray(list(values), dtype=float)
    if values.size == 0:
        return {"mean": None, "low": None, "high": None, "n": 0}
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, values.size, size=(resamples, values.size))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high), "n": int(values.size)}


def over_seeds(runs: ArrayLike, level: float = 0.95) -> Float[np.ndarray, "3 ..."]:
    """Mean over seeds, the first axis, then the low and the high end of its interval by Student's t.

    With five seeds a bootstrap would be too narrow.

    Raises
    ------
    UserError
        Fewer than two seeds.
    """
    runs = np.asarray(runs, dtype=float)
    count = len(runs)
    if count < 2:
        raise UserError("An interval over seeds needs at least two of them.")
    mean, error = runs.mean(axis=0), runs.std(axis=0, ddof=1) / count**0.5
    reach = scipy.stats.t.ppf((1 + level) / 2, count - 1) * error
    return np.array([mean, mean - reach, mean + reach])


def mean_over_seeds(runs: ArrayLike, *, geometric: bool = False) -> Estimate:
    """:func:`over_seeds` of one number a seed; geometric: of the logarithms, given as numbers again."""
    ends = np.exp(over_seeds(np.log(runs))) if geometric else over_seeds(runs)
    return Estimate(*map(float, ends))


def over_clusters(
    statistic: Callable[[Int[np.ndarray, " n"]], float],
    clusters: ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """A statistic of points that hang together, with its bootstrap interval: whole clusters are drawn.

    Parameters
    ----------
    statistic : callable
        Of indices of points, which may come back.
    clusters : (n,)
        The cluster of each point, such as the layer it was measured at.

    Raises
    ------
    UserError
        Fewer than two clusters.
    """
    cluster, draws = _drawn(clusters, resamples, seed)
    members = [np.flatnonzero(cluster == number) for number in range(draws.shape[1])]
    drawn = [statistic(np.concatenate([members[number] for number in draw])) for draw in draws]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Estimate(float(statistic(np.arange(len(cluster)))), float(low), float(high))


def over_clusters_at_once(
    statistics: Callable[[Int[np.ndarray, "b n"]], Float[np.ndarray, " b"]],
    clusters: ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """:func:`over_clusters` of the same draws, for a statistic that takes all of them in one call.

    ``statistics`` is given how often each of n points is in each of b draws.

    Raises
    ------
    UserError
        Fewer than two clusters.
    """
    cluster, draws = _drawn(clusters, resamples, seed)
    times = np.array([np.bincount(draw, minlength=draws.shape[1]) for draw in draws])
    low, high = np.nanquantile(statistics(times[:, cluster]), [0.025, 0.975])
    return Estimate(float(statistics(np.ones((1, len(cluster)), dtype=int))[0]), float(low), float(high))


def _drawn(clusters: ArrayLike, resamples: int, seed: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, "b c"]]:
    """The number of each point's cluster, and the clusters of each draw."""
    names, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < 2:
        raise UserError("An interval over clusters needs at least two of them.")
    return cluster, np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))


def ratio_of_sums(part: Shaped[np.ndarray, " m"], whole: Shaped[np.ndarray, " m"]) -> Estimate:
    """``Σ part / Σ whole``, both asked of the same m things, with its interval: the things are drawn, in pairs."""
    return over_clusters_at_once(lambda counts: counts @ part / (counts @ whole), np.arange(len(whole)))


def pair_sums(matrices: Iterable[np.ndarray], counts: Float[np.ndarray, "b m"]) -> list[Float[np.ndarray, " b"]]:
    """``wᵀ A w`` for each matrix and each row of counts, by matrix products: einsum takes twenty times as long."""
    return [np.einsum("bi,bi->b", counts @ matrix, counts) for matrix in matrices]


def over_pairs(
    matrices: Float[np.ndarray, "k m m"],
    keep: Bool[np.ndarray, "m m"],
    statistic: Callable[[Float[np.ndarray, "k b"]], Float[np.ndarray, " b"]] = lambda means: means[0],
    *,
    resamples: int = 200,
    seed: int = 0,
) -> Estimate:
    """A statistic of the means of matrices over pairs of m facts, with its bootstrap interval: facts are drawn.

    A fact that is drawn twice does not meet itself; a pair counts as often as both of its facts are drawn. Several
    matrices are drawn together, so that a difference of their means is paired.

    Parameters
    ----------
    matrices : (k, m, m)
        What is averaged, such as P.
    keep : (m, m) of bool
        The pairs that count; the diagonal never does.
    statistic : callable
        Of the means (k, b), one number for each of b draws; by default the first mean.

    Raises
    ------
    UserError
        No pair counts.
    """
    m = len(keep)
    kept = (keep & ~np.eye(m, dtype=bool)).astype(float)
    if not kept.any():
        raise UserError("There is no pair to average over.")
    drawn = np.random.default_rng(seed).multinomial(m, np.full(m, 1 / m), size=resamples)
    drawn = np.concatenate([np.ones((1, m)), drawn])  # (1 + b, m); the first is the list itself
    pairs, *summed = pair_sums([kept, *(kept * matrix for matrix in matrices)], drawn)
    with np.errstate(invalid="ignore"):
        found = statistic(np.array(summed) / pairs)
    return Estimate(float(found[0]), *map(float, np.nanquantile(found[1:], [0.025, 0.975])))
