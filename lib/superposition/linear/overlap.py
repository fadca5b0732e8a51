"""Overlap of keys: superposition in whitened space, raw products, cosines.

Equations of chapters ``04-superposition`` and ``11-superposition-in-llms``; ``p`` is that of Hu et al.
(arXiv 2408.07413): ``p(k_i, k_j) = k_iᵀ C⁻¹ k_j / k_iᵀ C⁻¹ k_i``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float

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

    def as_arrays(self) -> dict[str, np.ndarray]:
        """The arrays by the names of the attributes."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Overlap:
        """What :meth:`as_arrays` gave, in float64."""
        return cls(**{field.name: np.asarray(arrays[field.name], dtype=np.float64) for field in fields(cls)})


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


def strongest(P: Float[np.ndarray, "m m"], count: int) -> list[tuple[int, int]]:
    """The ``count`` pairs (i, j) of largest ``P[i, j]``, in descending order, each pair in its stronger direction."""
    stronger = np.where(P >= P.T, P, -np.inf)
    stronger[np.triu(P == P.T)] = -np.inf
    order = np.argsort(stronger, axis=None, kind="stable")[::-1][:count]
    pairs = zip(*np.unravel_index(order, P.shape), strict=True)
    return [(int(i), int(j)) for i, j in pairs if np.isfinite(stronger[i, j])]


def residual_lengths(
    alone: Float[np.ndarray, " n"], answers: Float[np.ndarray, " n"], P: Float[np.ndarray, "n n"]
) -> Float[np.ndarray, " n"]:
    """How long the residuals of edits come out where each is in proportion to the answer that it meets.

    ``‖δ_n‖ = c_n √(a_n² + Σ_{i<n} P[i, n]² ‖δ_i‖²)`` with ``c_n = alone_n / a_n``: what earlier edits left at a key
    is taken to stand at right angles to its unedited answer and to each other. Equation ``eq-runaway-lengths``.

    Parameters
    ----------
    alone : (n,)
        Length of each edit's residual, alone on the unedited model.
    answers : (n,)
        ``a_i = ‖W_0 k_i‖``.
    P : (n, n)
        ``p(k_i, k_j)``, or another rule's ``m_iᵀk_j``, in the order of the edits; only i < j counts.
    """
    squares = np.zeros(len(alone))
    for n, (own, answer) in enumerate(zip(alone, answers, strict=True)):
        squares[n] = (own / answer) ** 2 * (answer**2 + P[:n, n] ** 2 @ squares[:n])
    return np.sqrt(squares)
