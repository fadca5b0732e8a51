"""Regressions and the errors that their data call for: dyads that share a member, tables of which both sides are drawn.

Two pairs with a fact in common are not independent, so errors are those of dyadic data: every pair that shares a fact
with a pair may be correlated with it (Aronow, Samii and Assenova 2015, :func:`dyadic_covariance`). Chapter
``14-who-overlaps``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Real
from numpy.typing import ArrayLike
from scipy import sparse

from superposition.errors import UserError


def log_slope(n: ArrayLike, runs: Float[np.ndarray, "... steps"]) -> Float[Any, " ..."]:
    """Slope of ``log y`` against ``log n`` by least squares, one for each run (row): the power that y grows with."""
    x = np.log(np.asarray(n, dtype=np.float64))
    x = x - x.mean()
    return np.log(runs) @ x / (x @ x)


def dyadic(
    X: Float[np.ndarray, "n f"],
    Y: Float[np.ndarray, "n L"],
    first: Int[np.ndarray, " n"],
    second: Int[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, "f L"], Float[np.ndarray, "f L"]]:
    """Least squares with an intercept of L outcomes of pairs on their features: coefficients, and standard errors.

    The errors are those of :func:`dyadic_covariance`.

    Raises
    ------
    UserError
        One feature follows from the others.
    """
    centred, Y = X - X.mean(axis=0), Y - Y.mean(axis=0)
    if np.linalg.matrix_rank(centred) < X.shape[1]:
        raise UserError("One feature of the pairs follows from the others: leave one out.")
    coefficients = np.linalg.solve(centred.T @ centred, centred.T @ Y)
    residuals = Y - centred @ coefficients
    variances = [np.diag(dyadic_covariance(X, residual, first, second)) for residual in residuals.T]
    return coefficients, np.sqrt(np.clip(variances, 0, None)).T


def dyadic_covariance(
    X: Float[np.ndarray, "n f"],
    residuals: Float[np.ndarray, " n"],
    first: Int[np.ndarray, " n"],
    second: Int[np.ndarray, " n"],
) -> Float[np.ndarray, "f f"]:
    """Covariance of least-squares coefficients when pairs that share a fact may be correlated.

    ``(XᵀX)⁻¹ (Σ_i S_i S_iᵀ − Σ_d T_d T_dᵀ) (XᵀX)⁻¹``: ``S_i`` sums the scores ``x e`` over all pairs that hold fact
    ``i``, ``T_d`` over the rows of one pair of facts (two if directed), which would else be counted twice. Equation
    ``eq-who-dyadic``.

    Parameters
    ----------
    X : (n, f) array
        Features of the pairs; centred here.
    residuals : (n,) array
    first, second : (n,) integers
        The two facts of each pair, counted from 0.
    """
    X = X - X.mean(axis=0)
    scores = X * residuals[:, None]
    facts = 1 + int(max(first.max(), second.max()))
    of_fact = _sums(scores, first, facts) + _sums(scores, second, facts)  # S, (facts, f)
    _, dyad = np.unique(np.minimum(first, second) * facts + np.maximum(first, second), return_inverse=True)
    of_dyad = _sums(scores, dyad, 1 + int(dyad.max()))  # T, (dyads, f)
    meat = of_fact.T @ of_fact - of_dyad.T @ of_dyad
    bread = np.linalg.inv(X.T @ X)
    return bread @ meat @ bread


def _sums(scores: Float[np.ndarray, "n f"], group: Int[np.ndarray, " n"], groups: int) -> Float[np.ndarray, "groups f"]:
    """Sums of the rows of each group: a sparse product, many times as fast as ``np.add.at``."""
    rows = np.arange(len(group))
    return sparse.csr_array((np.ones(len(group)), (group, rows)), (groups, len(group))) @ scores


def explained(
    XX: Float[np.ndarray, "f f"], XY: Float[np.ndarray, "f L"], YY: Float[np.ndarray, " L"]
) -> Float[np.ndarray, " L"]:
    """Share of the variance that all columns explain, from centred cross-products."""
    return _explained(XX, XY, list(range(len(XX)))) / YY


def shapley(
    groups: Mapping[str, list[int]],
    XX: Float[np.ndarray, "f f"],
    XY: Float[np.ndarray, "f L"],
    YY: Float[np.ndarray, " L"],
) -> dict[str, Float[np.ndarray, " L"]]:
    """Each group's share of the variance: what it adds to what is there, in the mean over all orders of the groups.

    The shares add up to that of all groups together (Shapley 1953; of regressions Lindeman, Merenda and Gold 1980).

    Parameters
    ----------
    groups : mapping of str to list of int
        Columns; all subsets of the groups are regressed, so that twelve take some thousand regressions.
    XX, XY, YY
        Centred cross-products.
    """
    names, count = list(groups), len(groups)
    subsets = [tuple(n for n in range(count) if number >> n & 1) for number in range(2**count)]
    worth = {some: _explained(XX, XY, [c for n in some for c in groups[names[n]]]) / YY for some in subsets}
    weight = [1 / (count * math.comb(count - 1, size)) for size in range(count)]
    found = {name: np.zeros_like(YY) for name in names}
    for some in subsets:
        for n in set(range(count)) - set(some):
            more = worth[tuple(sorted((*some, n)))] - worth[some]
            found[names[n]] = found[names[n]] + weight[len(some)] * more
    return found


def _explained(XX: np.ndarray, XY: np.ndarray, columns: list[int]) -> np.ndarray:
    """The sum of squares that some columns explain, from cross-products; a column may have vanished in a resample."""
    if not columns:
        return np.zeros(XY.shape[1])
    inside = np.ix_(columns, columns)
    return (XY[columns] * (np.linalg.pinv(XX[inside], rcond=1e-10, hermitian=True) @ XY[columns])).sum(0)


def row_and_column_share(matrix: Float[np.ndarray, "m m"]) -> float:
    """Share of the variance beside the diagonal that rows and columns explain, whatever the pair: ``a_i + b_j``."""
    M, m = np.array(matrix, dtype=np.float64), len(matrix)
    np.fill_diagonal(M, 0)
    M -= M.sum() / (m * (m - 1)) * ~np.eye(m, dtype=bool)
    rows, columns = M.sum(1), M.sum(0)
    # Least squares with the diagonal missing: (m − 1) a_i + Σ_{j≠i} b_j = rows_i, and the same for columns.
    a = ((m - 1) * rows + columns) / (m * (m - 2))
    b = ((m - 1) * columns + rows) / (m * (m - 2))
    return float((a @ rows + b @ columns) / (M**2).sum())


def logistic(
    X: Float[np.ndarray, "n f"], y: Float[np.ndarray, " n"], weights: Real[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, " f1"]:
    """Logistic regression by Newton's method: the intercept, then the log odds ratio of each column.

    A penalty of one millionth a row keeps a coefficient finite where a column separates the answers.

    Raises
    ------
    UserError
        The answers are all alike.
    """
    X = np.column_stack([np.ones(len(y)), X])
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=float)
    if np.ptp(np.asarray(y, dtype=float)[w > 0]) == 0:
        raise UserError("The answers are all alike: there is nothing to explain.")
    b, ridge = np.zeros(X.shape[1]), 1e-6 * w.sum() * np.diag([0.0] + [1.0] * (X.shape[1] - 1))
    for _ in range(100):
        q = 1 / (1 + np.exp(-X @ b))
        gradient = X.T @ (w * (y - q)) - ridge @ b
        step = np.linalg.solve((X * (w * q * (1 - q))[:, None]).T @ X + ridge, gradient)
        b += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            break
    return b


def over_both(
    statistic: Callable[[np.ndarray], Any], edits: int, partners: int, *, resamples: int = 500, seed: int = 0
) -> np.ndarray:
    """A statistic of a table of edits by partners when both are drawn again (the pigeonhole bootstrap, Owen 2007).

    Parameters
    ----------
    statistic : callable
        Of weights (edits, partners), how often each cell is drawn; may raise :class:`UserError` for a draw for which
        it is not defined, which is then left out.

    Returns
    -------
    array
        Of the statistic's values, one row a draw.
    """
    rng, found = np.random.default_rng(seed), []
    for _ in range(resamples):
        rows = rng.multinomial(edits, np.full(edits, 1 / edits))
        columns = rng.multinomial(partners, np.full(partners, 1 / partners))
        with suppress(UserError):
            found.append(statistic(np.outer(rows, columns)))
    return np.array(found)


def binned(
    p: Float[np.ndarray, "edits partners"],
    outcome: Float[np.ndarray, "edits partners"],
    edges: Sequence[float],
    among: Bool[np.ndarray, "edits partners"] | None = None,
    *,
    resamples: int = 500,
    seed: int = 0,
) -> dict[str, Float[np.ndarray, " bins"]]:
    """Means of an outcome over bins of ``p``, with 95 % intervals over edits and partners (:func:`over_both`).

    Parameters
    ----------
    edges : sequence of float
        Bins ``[low, high)``; cells beyond them are left out.
    among : (edits, partners) bool array, optional
        Which cells count.

    Returns
    -------
    dict
        ``"p"`` and ``"mean"`` of each bin, ``"low"`` and ``"high"``, ``"cells"`` the number; bins of fewer than five
        cells are left out.
    """
    place = np.digitize(p, edges) - 1
    masks = [(place == b) & (True if among is None else among) for b in range(len(edges) - 1)]
    masks = [mask for mask in masks if mask.sum() >= 5]

    def means(weights: np.ndarray) -> list[float]:
        totals = [(weights * mask).sum() for mask in masks]
        return [
            float((weights * mask * outcome).sum() / total) if total else np.nan
            for mask, total in zip(masks, totals, strict=True)
        ]

    drawn = over_both(means, *np.shape(p), resamples=resamples, seed=seed)
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    return {
        "p": np.array([p[mask].mean() for mask in masks]),
        "mean": np.array(means(np.ones(np.shape(p)))),
        "low": low,
        "high": high,
        "cells": np.array([mask.sum() for mask in masks]),
    }
