"""How well a second moment is estimated from N tokens, and what helps: shrinkage, and protected keys counted in.

Chapters ``10-keys-and-moments`` and ``21-cures``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from superposition.errors import UserError

__all__ = ["check_shrinkage", "oas", "protecting", "sampling_error", "shrunk"]


def check_shrinkage(shrinkage: float) -> None:
    """Raise a :class:`UserError` unless the shrinkage is from 0 to 1."""
    if not 0 <= shrinkage <= 1:
        raise UserError(f"A shrinkage of {shrinkage} makes no sense: give a number from 0 to 1.")


def shrunk(moment: Any, shrinkage: float) -> Any:
    """``(1 − s) C + s · tr(C)/d_m · I`` for an array or a tensor C (d_m, d_m) and a shrinkage s from 0 to 1."""
    check_shrinkage(shrinkage)
    if shrinkage:
        every = range(len(moment))
        towards = shrinkage * moment.trace() / len(moment)
        moment = (1 - shrinkage) * moment
        moment[every, every] += towards
    return moment


def sampling_error(tokens: ArrayLike, d_m: int, end: int | None = None) -> np.ndarray | np.float64:
    """Standard deviation of an estimate of p from N tokens, in units of ``‖r‖ / ‖k_i‖`` in whitened space.

    ``√(1/(N − d_m))`` for independent Gaussian keys, r being what p leaves of ``k_j`` (``thm-moments-error`` of chapter
    ``10-keys-and-moments``). With ``end``, of its difference from the estimate of a longer text of ``end`` tokens that
    begins with these: ``√(1/(N − d_m) − 1/(end − d_m))``.

    Parameters
    ----------
    tokens : int or array of int
        N, more than ``d_m``.
    d_m : int
    end : int, optional

    Raises
    ------
    UserError
        N is not above ``d_m``, or ``end`` is below N.
    """
    tokens = np.asarray(tokens, dtype=float)
    if (tokens <= d_m).any():
        raise UserError(f"With {int(tokens.min())} tokens for {d_m} dimensions C is singular: take more.")
    if end is not None and (tokens > end).any():
        raise UserError(f"A text of {end} tokens does not begin with {int(tokens.max())}: give a longer end.")
    return np.sqrt(1 / (tokens - d_m) - (0 if end is None else 1 / (end - d_m)))


def oas(moment: Float[np.ndarray, "d_m d_m"], tokens: int) -> float:
    """The shrinkage of Chen et al. (2010), "oracle approximating", from C and the number of tokens alone.

    It would be the best for independent Gaussian keys. What
    :meth:`superposition.lm.moments.Moments.second_moment` takes as ``shrinkage``.
    """
    width = len(moment)
    mean_square, mean = float((moment**2).mean()), float(np.trace(moment)) / width
    below = (tokens + 1) * (mean_square - mean**2 / width)
    return min(1.0, (mean_square + mean**2) / below) if below > 0 else 1.0


def protecting(
    moment: Float[np.ndarray, "d_m d_m"], keys: Float[np.ndarray, "d_m N"], weight: float = 10.0
) -> Float[np.ndarray, "d_m d_m"]:
    """``C + λ · mean k kᵀ``: C with keys counted ``weight`` = λ times, as a text of their own.

    An edit written with it in place of C spares these keys; it stays exact (``eq-cures-protect`` of chapter
    ``21-cures``).

    Raises
    ------
    UserError
        A weight below 0; no keys, or keys of another width than C.
    """
    if not weight >= 0:
        raise UserError(f"A weight of {weight} makes no sense: give 0 or more.")
    if keys.ndim != 2 or keys.shape[0] != len(moment) or not keys.shape[1]:
        raise UserError(f"Keys of shape {keys.shape} cannot be counted in C of width {len(moment)}.")
    keys = np.asarray(keys, dtype=np.float64)
    return moment + weight * keys @ keys.T / keys.shape[1]
