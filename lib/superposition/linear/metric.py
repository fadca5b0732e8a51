"""The second moment of the keys, factorised once: the metric in which keys overlap and edits are small.

``C = L Lᵀ`` is the sum ``K Kᵀ`` or the mean ``K Kᵀ / N`` over keys. Every rule, memory and overlap takes the matrix or
its :class:`Metric`; the second saves the factorisation, ``d_m³/3`` operations.

Equations of chapters ``02-single-edit`` and ``04-superposition``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import scipy.linalg
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, eigsh

from superposition.errors import UserError
from superposition.linear import check

__all__ = ["Metric", "SecondMoment", "reciprocal_condition"]


def reciprocal_condition(A: Float[np.ndarray, "n n"], L: Float[np.ndarray, "n n"]) -> float:
    """LAPACK's estimate of one over the condition number, in the 1-norm, of ``A = L Lᵀ`` with L lower triangular."""
    dpocon = scipy.linalg.lapack.dpocon  # pyrefly: ignore[missing-attribute]  # SciPy makes its names at import
    return float(dpocon(L, np.abs(A).sum(0).max(), uplo="L")[0])


class Metric:
    """``C`` factorised once, ``C = L Lᵀ``: solves, whitens and multiplies any number of keys.

    Parameters
    ----------
    moment : (d_m, d_m) array
        Second moment of the keys, symmetric and positive definite. It is not copied: leave it as it is.

    Attributes
    ----------
    moment : (d_m, d_m) float64
        C itself.
    factor : (d_m, d_m) float64
        L, lower triangular.

    Raises
    ------
    UserError
        The matrix is not square, not finite, not symmetric, or singular: ``C`` scaled to a unit diagonal, on which the
        error of a Cholesky solve depends, has a reciprocal condition below ``d_m`` times float64's epsilon.
    """

    def __init__(self, moment: Float[Any, "d_m d_m"]):
        moment = self._read(moment)
        check.second_moment(moment)
        self.moment = moment
        try:
            self.factor = self._factorised()
            if self._reciprocal_condition() < len(moment) * np.finfo(float).eps:
                raise scipy.linalg.LinAlgError("singular to working precision")
        except scipy.linalg.LinAlgError as error:
            raise UserError(
                f"C of width {len(moment)} is singular or not positive definite: estimate it from more tokens "
                f"(at least {len(moment)}, better ten times that), or give a shrinkage above 0 (a ridge), which alone "
                "helps where units of the layer are dead or alike."
            ) from error

    @classmethod
    def of(cls, C: Float[np.ndarray, "d_m d_m"] | Metric) -> Metric:
        """The metric itself, or that of a matrix. Errors as the class."""
        return C if isinstance(C, Metric) else cls(C)

    # Where and by what C is factorised; a subclass may do it elsewhere.

    def _read(self, moment: Any) -> Any:
        return check.array("C", moment, None)

    def _factorised(self) -> Any:
        return scipy.linalg.cholesky(self.moment, lower=True, check_finite=False)

    def _reciprocal_condition(self) -> float:
        """Of ``C`` scaled to a unit diagonal."""
        scale = np.sqrt(np.diag(self.moment))
        return reciprocal_condition(self.moment / np.outer(scale, scale), self.factor / scale[:, None])

    def _times(self, vector: Float[np.ndarray, " d_m"]) -> Float[np.ndarray, " d_m"]:
        return self.moment @ vector

    def _checked(self, K: Any) -> Float[np.ndarray, "d_m ..."]:
        K = np.asarray(K, dtype=np.float64)
        if not K.ndim or K.shape[0] != self.d_m:
            raise UserError(f"K has shape {K.shape} and C {(self.d_m,) * 2}: they must agree on d_m, a key's length.")
        return K

    @property
    def d_m(self) -> int:
        """The length of a key."""
        return self.moment.shape[0]

    def solve(self, K: Float[np.ndarray, "d_m ..."]) -> Float[np.ndarray, "d_m ..."]:
        """``C⁻¹ K`` for a key (d_m,) or keys as columns. Raises ``UserError`` for keys of another length."""
        return np.asarray(scipy.linalg.cho_solve((self.factor, True), self._checked(K), check_finite=False))

    def whiten(self, K: Float[np.ndarray, "d_m ..."]) -> Float[np.ndarray, "d_m ..."]:
        """``L⁻¹ K``: in these coordinates the text's keys have the identity for their second moment."""
        return np.asarray(scipy.linalg.solve_triangular(self.factor, self._checked(K), lower=True, check_finite=False))

    def products(self, K: Float[np.ndarray, "d_m n"]) -> Float[np.ndarray, "n n"]:
        """``Kᵀ C⁻¹ K``: the inner products of keys in whitened space, symmetric."""
        whitened = self.whiten(K)
        return whitened.T @ whitened

    def condition(self) -> float:
        """Condition number of ``C``: its largest eigenvalue over its smallest, by Lanczos iteration."""
        if self.d_m < 16:
            return float(np.linalg.cond(np.stack([self._times(unit) for unit in np.eye(self.d_m)])))
        start = np.random.default_rng(0).standard_normal(self.d_m)

        def largest(product: Callable[[np.ndarray], np.ndarray]) -> float:
            # pyrefly: ignore[missing-argument, unexpected-keyword, bad-keyword-argument]  # __new__ makes a subclass
            operator = LinearOperator((self.d_m, self.d_m), matvec=product, dtype=np.float64)
            return float(eigsh(operator, k=1, v0=start, tol=1e-6, return_eigenvectors=False)[0])

        return largest(self._times) * largest(self.solve)


#: What may stand for C, the matrix or its metric.
SecondMoment: TypeAlias = Float[np.ndarray, "d_m d_m"] | Metric
