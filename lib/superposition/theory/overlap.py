"""Chapter 04: the degree of superposition p, in whitened space, and edits that lose nothing."""

from __future__ import annotations

from typing import Any

import sympy as sp


def superposition(k_i: Any, k_j: Any, C: Any) -> Any:
    """``p(k_i, k_j) = k_iᵀC⁻¹k_j / k_iᵀC⁻¹k_i``: a scalar for explicit matrices, a 1 × 1 expression for symbols."""
    if isinstance(k_i, sp.MatrixSymbol):
        return (k_i.T * C.I * k_i).I * (k_i.T * C.I * k_j)
    adjugate = C.adjugate()  # C⁻¹ det C; the determinant cancels
    return (k_i.T * adjugate * k_j)[0, 0] / (k_i.T * adjugate * k_i)[0, 0]
