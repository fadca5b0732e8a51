"""Chapters 01 and 02: the least-squares memory and the single edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy as sp
from sympy.matrices.expressions.matexpr import MatrixExpr

from superposition.theory.expressions import C, D, K, V, W, W_hat, d, d_m, h, k, matrix, multiplier, v, weight

# isort: split
from superposition.theory.expressions import Result, check_size, equation, prove, reduce_matrix, symmetric_matrix


def memory_matrix(K: Any, V: Any) -> Any:
    """``V Kᵀ(K Kᵀ)⁻¹`` for explicit or symbolic matrices."""
    return V * K.T * (K * K.T).inv()


@dataclass(frozen=True)
class SingleEdit:
    """The constrained problem behind a single edit, entry by entry, for explicit sizes.

    ``L = ½ tr((Ŵ - W) C (Ŵ - W)ᵀ) - Λᵀ(Ŵ k - v)``; :attr:`stationarity` holds ``∂L/∂Ŵ_ab = 0``, and
    :attr:`constraint` holds ``(Ŵ k - v)_a = 0``.
    """

    W: sp.ImmutableMatrix
    W_hat: sp.ImmutableMatrix
    k: sp.ImmutableMatrix
    v: sp.ImmutableMatrix
    C: sp.ImmutableMatrix
    multipliers: sp.ImmutableMatrix
    lagrangian: sp.Expr
    stationarity: tuple[sp.Eq, ...]
    constraint: tuple[sp.Eq, ...]

    def solve(self) -> tuple[sp.ImmutableMatrix, sp.ImmutableMatrix]:
        """``(Ŵ, Λ)``, solved by SymPy from the linear system of stationarity and constraint; nothing is put in.

        The rows of Ŵ do not meet in the system, so each is solved for itself: d_m + 1 equations.
        """
        rows, columns = self.W.shape
        solved, multipliers = [], []
        for a in range(rows):
            unknown = [*self.W_hat.row(a), self.multipliers[a]]
            equations = [*self.stationarity[a * columns : (a + 1) * columns], self.constraint[a]]
            # fraction-free elimination over polynomials: SymPy's own solve divides by symbols at every step
            system, right = sp.linear_eq_to_matrix([e.lhs - e.rhs for e in equations], unknown)
            left_side, right_side = system.to_DM().unify(right.to_DM())
            answer, denominator = left_side.solve_den(right_side)
            column = answer.to_Matrix() / answer.domain.to_sympy(denominator)
            solved.append(list(column[:-1]))
            multipliers.append(column[-1])
        return sp.ImmutableMatrix(solved), sp.ImmutableMatrix(multipliers)

    def closed_form(self) -> tuple[sp.ImmutableMatrix, sp.ImmutableMatrix]:
        """``(W + Λ (C⁻¹k)ᵀ, Λ)`` with ``Λ = (v - W k) / kᵀC⁻¹k``."""
        direction = self.C.adjugate() * self.k  # C⁻¹k det C; the determinant cancels in the update
        left, scale = self.v - self.W * self.k, (self.k.T * direction)[0, 0]
        return self.W + left * direction.T / scale, left * self.C.det() / scale


def lagrangian_single_edit(rows: int, columns: int) -> SingleEdit:
    """The single edit's Lagrangian for an explicit (rows × columns) memory, both from 1 to 4 (chapter 02).

    The objective is the change in the metric of C. It is also the least-squares loss over the stored pairs,
    up to a constant, because W minimises that loss: ``|Ŵ K - V|² = |W K - V|² + tr((Ŵ - W) C (Ŵ - W)ᵀ)``
    (:func:`loss_is_distance`).
    """
    check_size("rows", rows)
    check_size("columns", columns)
    W, W_hat = matrix("w", rows, columns), matrix(r"\hat{w}", rows, columns)
    k, v = matrix("k", columns, 1), matrix("v", rows, 1)
    C, multipliers = symmetric_matrix("c", columns), matrix("Lambda", rows, 1)
    change, miss = W_hat - W, W_hat * k - v
    lagrangian = sp.expand((change * C * change.T).trace() / 2 - (multipliers.T * miss)[0, 0])
    stationarity = tuple(equation(sp.expand(lagrangian.diff(w)), 0) for w in W_hat)
    return SingleEdit(W, W_hat, k, v, C, multipliers, lagrangian, stationarity, tuple(equation(m, 0) for m in miss))


def lagrangian_symbolic() -> tuple[sp.Expr, MatrixExpr]:
    """The single edit's Lagrangian in symbolic sizes and its gradient in Ŵ, by SymPy's matrix calculus.

    By hand: the linearity of the derivative over the two traces.
    """
    change = W_hat - W
    distance, pull = sp.Trace(change * C * change.T) / 2, sp.Trace(multiplier.T * (W_hat * k - v))
    gradient = sp.Trace(change * C * change.T).diff(W_hat) / 2 - pull.diff(W_hat)
    return distance - pull, reduce_matrix(gradient)


def single_edit() -> MatrixExpr:
    """``Ŵ = W + (v - W k) kᵀC⁻¹ / h`` in symbolic sizes, with ``h = kᵀC⁻¹k``."""
    return W + (v - W * k) * k.T * C.I / h


def single_edit_proof() -> dict[str, Result]:
    """The closed form satisfies the stationarity and the constraint, and nothing is smaller, in symbolic sizes.

    Keys: ``stationarity``, ``constraint``, and ``minimum``: for any other change D with ``D k = v - W k`` the
    cross term ``(D - D̂) C D̂ᵀ`` vanishes, so that ``tr(D C Dᵀ) = tr(D̂ C D̂ᵀ) + tr((D - D̂) C (D - D̂)ᵀ)``.
    """
    names = {h: k.T * C.I * k}
    closed, left = single_edit(), v - W * k
    _, gradient = lagrangian_symbolic()
    at = gradient.subs(W_hat, closed).subs(multiplier, left / h)
    change = closed - W
    return {
        "stationarity": prove(at, sp.ZeroMatrix(d, d_m), names),
        "constraint": prove(closed * k, v, names),
        # (D - D̂) C D̂ᵀ = (D - D̂) k (v - W k)ᵀ/h: the C of the metric cancels, and (D - D̂) k = 0 is left
        "minimum": prove((D - change) * C * change.T, sp.ZeroMatrix(d, d), names, {D * k: left}),
    }


def loss_is_distance() -> Result:
    """``|Ŵ K - V|² - |W K - V|² = tr((Ŵ - W) C (Ŵ - W)ᵀ)`` for the least-squares W, in symbolic sizes.

    It holds already without the traces, by the normal equation ``W C = V Kᵀ``: the cross terms cancel.
    """
    old, new = W * K - V, W_hat * K - V
    change = W_hat - W
    return prove(
        new * new.T - old * old.T,
        change * C * change.T,
        {C: K * K.T},
        {V * K.T: W * C},
        by_hand="taking the trace of both sides; W C = V Kᵀ is the normal equation",
    )


def sherman_morrison() -> Result:
    """``(C + w k kᵀ)⁻¹ = C⁻¹ - w C⁻¹k kᵀC⁻¹ / (1 + w h)``, proved by multiplying with ``C + w k kᵀ``."""
    inverse = C.I - weight / (1 + weight * h) * C.I * k * k.T * C.I
    product = (C + weight * k * k.T) * inverse
    proof = prove(product, sp.Identity(d_m), {h: k.T * C.I * k})
    return Result(equation((C + weight * k * k.T).I, inverse), proof.where, proof.difference)


def weighted_fit() -> Result:
    """Refitting the memory with the new pair at weight w changes it by ``w/(1 + w h) (v - W k) kᵀC⁻¹``.

    ``(V Kᵀ + w v kᵀ)(C + w k kᵀ)⁻¹``, with ``V Kᵀ = W C``. As ``w → ∞`` the factor goes to ``1/h`` and the
    refit becomes the single edit (:func:`weight_limit`).
    """
    inverse = C.I - weight / (1 + weight * h) * C.I * k * k.T * C.I
    fitted = (W * C + weight * v * k.T) * inverse
    expected = W + weight / (1 + weight * h) * (v - W * k) * k.T * C.I
    proof = prove(fitted, expected, {h: k.T * C.I * k})
    return Result(
        equation((W * C + weight * v * k.T) * (C + weight * k * k.T).I, expected),
        proof.where,
        proof.difference,
        by_hand="V Kᵀ = W C is the normal equation; the inverse is Sherman and Morrison's",
    )


def weight_limit() -> sp.Eq:
    """``lim_{w→∞} w/(1 + w h) = 1/h``: MEMIT with one key, and the refit, become ROME."""
    factor = weight / (1 + weight * h)
    return equation(sp.Limit(factor, weight, sp.oo), sp.limit(factor, weight, sp.oo))


def rome_update(W: Any, k: Any, v: Any, C: Any) -> Any:
    """``(v - W k) kᵀC⁻¹ (kᵀC⁻¹k)⁻¹`` (d, d_m), for explicit matrices; k (d_m, 1) and v (d, 1) are single columns."""
    inverse = C.inv()
    return (v - W * k) * (k.T * inverse) / (k.T * inverse * k)[0, 0]
