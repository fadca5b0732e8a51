"""How much a linear memory can hold: leverages, Welch's bound, and how many nearly orthogonal keys fit.

Chapter: ``book/05-capacity.ipynb``.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from superposition.errors import UserError

__all__ = ["keys_that_fit", "leverages", "overlap_that_fits", "welch_bound", "welch_ceiling"]


def leverages(K: Float[np.ndarray, "d_m N"]) -> Float[np.ndarray, " N"]:
    """``h_e = k_eᵀ(K Kᵀ)⁺k_e`` of each stored key, with the pseudo-inverse: any number of keys will do.

    Parameters
    ----------
    K
        Stored keys as columns (d_m, N).

    Returns
    -------
    array
        (N,), each between 0 and 1; their sum is the rank of K, d_m at most (equation ``eq-capacity-mean``).

    Raises
    ------
    UserError
        K is no matrix, is empty, or holds NaN or infinity.
    """
    K = np.asarray(K, dtype=np.float64)
    if K.ndim != 2 or not K.size:
        raise UserError(f"K must be a matrix with one key a column, and its shape is {K.shape}.")
    if not np.isfinite(K).all():
        raise UserError("K holds NaN or infinite values: check where the keys come from.")
    _, sizes, right = np.linalg.svd(K, full_matrices=False)
    rank = int((sizes > sizes[0] * max(K.shape) * np.finfo(float).eps).sum())
    return (right[:rank] ** 2).sum(0)


def _sizes(d_m: int, N: float | None = None, overlap: float | None = None) -> None:
    if d_m < 1:
        raise UserError(f"d_m is {d_m}: give the keys at least one dimension.")
    if N is not None and N < 2:
        raise UserError(f"N is {N}: overlap needs at least two keys.")
    if overlap is not None and not 0 < overlap < 1:
        raise UserError(f"The overlap is {overlap}: give a cosine between 0 and 1.")


def welch_bound(N: float, d_m: int) -> float:
    """The least that the largest ``|cos θ|`` among N vectors in d_m dimensions can be (``eq-capacity-welch``).

    ``√((N - d_m)/(d_m (N - 1)))``, and 0 for N ≤ d_m (Welch 1974). Raises ``UserError`` for d_m < 1 or N < 2.
    """
    _sizes(d_m, N)
    return float(np.sqrt(max(N - d_m, 0) / (d_m * (N - 1))))


def welch_ceiling(overlap: float, d_m: int) -> float:
    """The most vectors whose largest ``|cos θ|`` Welch's bound lets stay at `overlap` or below.

    ``d_m (1 - ε²)/(1 - d_m ε²)``; infinite from ``ε = 1/√d_m`` on, where the bound says nothing. Raises
    ``UserError`` for d_m < 1 or an overlap outside (0, 1).
    """
    _sizes(d_m, overlap=overlap)
    room = 1 - d_m * overlap**2
    return d_m * (1 - overlap**2) / room if room > 0 else float("inf")


def keys_that_fit(overlap: float, d_m: int) -> int:
    """As many unit vectors certainly exist in d_m dimensions with every ``|cos θ|`` below `overlap`.

    ``√2 (1 - ε²)^(-(d_m - 1)/4)`` of random ones (``eq-capacity-fit``), or d_m orthogonal ones if that is more.
    Raises ``UserError`` for d_m < 1 or an overlap outside (0, 1).
    """
    _sizes(d_m, overlap=overlap)
    return max(int(d_m), int(np.sqrt(2) * (1 - overlap**2) ** (-(d_m - 1) / 4)))


def overlap_that_fits(N: float, d_m: int) -> float:
    """An overlap that N unit vectors in d_m > 1 dimensions can all stay below: :func:`keys_that_fit` inverted."""
    _sizes(d_m, N)
    if d_m == 1:
        raise UserError("In one dimension all keys overlap fully: give d_m of 2 or more.")
    return float(np.sqrt(1 - (2 / N**2) ** (2 / (d_m - 1))))
