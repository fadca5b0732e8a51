"""Chapter 05: the conservation law of overlap, the mean leverage, and Welch's bound."""

from __future__ import annotations

import sympy as sp
from sympy.matrices.expressions.matexpr import MatrixExpr

from superposition.theory.expressions import C, K, N, Result, d_m, equation, h, j, k, prove, reduce_matrix, terms


def conservation_law() -> Result:
    """``Σ_j p(k_e, k_j)² = 1/h_e`` over the stored keys, ``C = K Kᵀ``, in symbolic sizes (chapter 05; ours).

    The sum over j is the matrix product with ``K Kᵀ``: ``Σ_j (k_eᵀC⁻¹k_j)² = k_eᵀC⁻¹K KᵀC⁻¹k_e = h_e``, over
    ``h_e²``.
    """
    row = k.T * C.I * K / h
    proof = prove(row * row.T, sp.Identity(1) / h, {h: k.T * C.I * k, C: K * K.T})
    index = sp.IndexedBase("p")
    shown = equation(sp.Sum(index[sp.Symbol("e"), j] ** 2, (j, 1, N)), 1 / sp.Symbol("h_e", positive=True))
    return Result(shown, proof.where, proof.difference, by_hand="Σ_j x_j² = x xᵀ for the row x = (p(k_e, k_1), …)")


def mean_leverage() -> Result:
    """``Σ_e h_e = tr(KᵀC⁻¹K) = tr(C⁻¹C) = d_m``, so the mean leverage of N stored keys is ``d_m/N``, symbolic sizes.

    By hand: the trace is cyclic. SymPy: ``C⁻¹K Kᵀ`` reduces to the identity, whose trace is d_m.
    """
    shown = equation(sp.Trace(K.T * C.I * K) / N, d_m / N)
    difference = sp.Trace(reduce_matrix(C.I * K * K.T, {K * K.T: C})).doit() - d_m
    return Result(shown, (equation(C, K * K.T),), sp.simplify(difference), by_hand="tr(X Y) = tr(Y X)")


def welch_bound() -> sp.Rel:
    """``max_{i≠j} |cos θ_ij| ≥ √((N - d_m)/(d_m (N - 1)))`` for N > d_m unit vectors in d_m dimensions (Welch 1974)."""
    largest = sp.Symbol(r"\max_{i\ne j}|\cos\theta_{ij}|", nonnegative=True)
    return sp.Ge(largest, sp.sqrt((N - d_m) / (d_m * (N - 1))), evaluate=False)


def welch_proof() -> tuple[Result, sp.Eq]:
    """The two steps of Welch's bound, in symbolic sizes.

    First, for unit columns U with Gram matrix ``G = UᵀU``: ``tr(G²) - N²/d_m = tr((U Uᵀ - (N/d_m) I)²) ≥ 0``.
    Second, the N diagonal ones apart, the ``N(N - 1)`` squares average to at least
    ``(N²/d_m - N)/(N(N - 1))``, Welch's bound squared. SymPy multiplies out; by hand: the trace is cyclic,
    ``tr(U Uᵀ) = tr(UᵀU) = N``.
    """
    U, F = sp.MatrixSymbol("U", d_m, N), sp.MatrixSymbol("F", d_m, d_m)
    spread = F - N / d_m * sp.Identity(d_m)
    product = reduce_matrix(spread * spread, symmetric=(F,))
    # the trace term by term, F = U Uᵀ: tr I = d_m, tr F = N, tr(F F) = tr(G²) = t
    square = sp.Symbol("t", positive=True)
    traces: dict[tuple[MatrixExpr, ...], sp.Expr] = {(): d_m, (F,): N, (F, F): square}
    total = sum(a * traces[factors] for a, factors in terms(product, frozenset({F})))
    shown = equation(sp.Trace(U.T * U * U.T * U) - N**2 / d_m, sp.Trace((U * U.T - N / d_m * sp.Identity(d_m)) ** 2))
    first = Result(
        shown, (equation(F, U * U.T),), sp.simplify(total - (square - N**2 / d_m)), by_hand="tr(F²) = tr(G²), tr F = N"
    )
    mean = (N**2 / d_m - N) / (N * (N - 1))
    return first, equation(mean, sp.factor(sp.simplify(mean)))
