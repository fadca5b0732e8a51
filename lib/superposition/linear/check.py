"""What the linear algebra asks of an array: real, finite, of the right shape. What is not is refused in a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from superposition.errors import UserError

__all__ = ["array", "columns", "second_moment"]


def array(name: str, a: Any, shape: tuple[int | str, ...] | None, meaning: str = "") -> Float[np.ndarray, " ..."]:
    """``a`` as a float64 array; what is float64 already is not copied.

    Parameters
    ----------
    name
        What the sentence calls it.
    a
        Whatever NumPy takes for an array of real numbers.
    shape
        The size of each axis; a string stands for any size. None: any shape.
    meaning
        Said after a wrong shape: what the axes are.

    Raises
    ------
    UserError
        Not an array of real numbers, NaN or infinity, or another shape.
    """
    try:
        a = np.asarray(a)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{name} is a {type(a).__name__} that NumPy does not take: pass a NumPy array.") from error
    if a.dtype.kind not in "fiub":
        raise UserError(f"{name} has dtype {a.dtype}: pass real numbers.")
    a = a.astype(np.float64, copy=False)
    if not np.isfinite(a).all():
        raise UserError(f"{name} holds NaN or infinite values: check where it comes from.")
    if shape is not None and (
        a.ndim != len(shape) or any(isinstance(n, int) and n != m for n, m in zip(shape, a.shape, strict=True))
    ):
        needed = "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"
        raise UserError(f"{name} has shape {a.shape} where {needed} is needed: {meaning}.")
    return a


def columns(name: str, K: Any, d_m: int | str = "d_m") -> Float[np.ndarray, "d_m n"]:
    """Keys as columns (d_m, n), float64: at least one, none of them zero. Errors as :func:`array`."""
    K = array(name, K, (d_m, "n"), "one key a column")
    if not K.size:
        raise UserError(f"{name} has shape {K.shape}, no key at all: pass at least one key a column.")
    zero = ~K.any(0)
    if zero.any():
        raise UserError(f"Key {int(zero.argmax())} of {name} is zero: leave it out or pass another key.")
    return K


def second_moment(C: Any) -> None:
    """Raise a :class:`UserError` unless C, an array or a tensor of real numbers, is square, finite and symmetric."""
    if C.ndim != 2 or C.shape[0] != C.shape[1] or not C.shape[0]:
        raise UserError(f"C has shape {tuple(C.shape)} where a square matrix is needed: pass K Kᵀ, (d_m, d_m).")
    largest = float(abs(C).max())
    if not largest < float("inf"):
        raise UserError("C holds NaN or infinite values: check the keys that it was made from.")
    if float(abs(C - C.T).max()) > 1e-8 * largest:
        raise UserError("C is not symmetric: pass the second moment K Kᵀ, or its symmetric part (C + Cᵀ)/2.")
