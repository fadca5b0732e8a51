"""An edit of a linear memory, ``ΔW = δ Mᵀ``, kept as its two thin factors.

``M`` (the directions) comes from a rule, the keys and C; ``δ`` (the residuals) from what the values still lack.
Equations of chapters ``03-lifelong`` and ``20-forecasting-damage``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from superposition.errors import UserError

__all__ = ["Edit"]


@dataclass(frozen=True, eq=False)
class Edit:
    """``ΔW = δ Mᵀ = Σ_i δ_i M_iᵀ``, the sum of n edits of rank one.

    Attributes
    ----------
    delta : (d, n) float64
        ``δ``, a residual a column.
    M : (d_m, n) float64
        The directions, columns that belong to the residuals.

    Raises
    ------
    UserError
        Not as many directions as residuals.
    """

    delta: Float[np.ndarray, "d n"]
    M: Float[np.ndarray, "d_m n"]

    def __post_init__(self) -> None:
        if self.delta.ndim != 2 or self.M.ndim != 2 or self.delta.shape[1] != self.M.shape[1]:
            raise UserError(
                f"delta has shape {self.delta.shape} and M {self.M.shape}: pass a residual and a direction for each "
                "edit, both as columns."
            )

    def __len__(self) -> int:
        return self.M.shape[1]

    def __getitem__(self, columns: slice | Int[np.ndarray, " k"] | Bool[np.ndarray, " n"]) -> Edit:
        """Some of the edits, by a slice or an array of numbers."""
        return Edit(self.delta[:, columns], self.M[:, columns])

    def matrix(self) -> Float[np.ndarray, "d d_m"]:
        """``ΔW`` itself."""
        return self.delta @ self.M.T

    def norm(self) -> float:
        """``‖ΔW‖`` (Frobenius), from ``tr(δᵀδ MᵀM)``: the matrix is not formed."""
        return float(np.sqrt(max(0.0, np.sum((self.delta.T @ self.delta) * (self.M.T @ self.M)))))

    def scaled_to(self, norm: float) -> Edit:
        """The edit in the same direction with this norm."""
        return Edit(self.delta * norm / self.norm(), self.M)

    def shares(self, K: Float[np.ndarray, "d_m ..."]) -> Float[np.ndarray, "n ..."]:
        """``MᵀK``: entry (i, j) is the share of ``δ_i`` that reaches ``k_j``; for ROME it is ``p(k_{e_i}, k_j)``."""
        return self.M.T @ K

    def at(self, K: Float[np.ndarray, "d_m ..."]) -> Float[np.ndarray, "d ..."]:
        """``ΔW K = δ (MᵀK)``: how far the answers to the keys move."""
        return self.delta @ self.shares(K)

    def first_order(self, G: Float[np.ndarray, "d N"], K: Float[np.ndarray, "d_m N"]) -> Float[np.ndarray, "n N"]:
        """``⟨g_j k_jᵀ, δ_i M_iᵀ⟩ = (M_iᵀk_j) ⟨g_j, δ_i⟩``: the first-order effect of edit i through key j.

        With ``g_j`` the gradient of a function by the memory's answer to ``k_j``, its gradient by W is
        ``Σ_j g_j k_jᵀ``, and the sum of all entries is the inner product of that gradient with ``ΔW``.
        """
        return (self.delta.T @ G) * self.shares(K)
