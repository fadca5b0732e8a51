"""Chapter 04: the degree of superposition p, in whitened space, and edits that lose nothing."""

from __future__ import annotations

from typing import Any

import sympy as sp

from superposition.theory.expressions import A, C, Result, W, d_m, equation, h, k, key, p, prove, reduce_matrix, v
from superposition.theory.memory import single_edit


def superposition(k_i: Any, k_j: Any, C: Any) -> Any:
    """``p(k_i, k_j) = k_iᵀC⁻¹k_j / k_iᵀC⁻¹k_i``: a scalar for explicit matrices, a 1 × 1 expression for symbols."""
    if isinstance(k_i, sp.MatrixSymbol):
        return (k_i.T * C.I * k_i).I * (k_i.T * C.I * k_j)
    adjugate = C.adjugate()  # C⁻¹ det C; the determinant cancels
    return (k_i.T * adjugate * k_j)[0, 0] / (k_i.T * adjugate * k_i)[0, 0]


def whitening_products() -> dict[str, Result]:
    """Products with ``C⁻¹`` are plain products of whitened keys, in symbolic sizes.

    ``any root``: for any A with ``A Aᵀ = C`` (so ``C⁻¹ = A⁻ᵀA⁻¹``), ``k_iᵀC⁻¹k_j = (A⁻¹k_i)ᵀ(A⁻¹k_j)``;
    ``perpendicular``: ``u_j - p u_i`` is perpendicular to ``u_i``, which makes p the coefficient of a
    projection.
    """
    k_i, k_j = key("i"), key("j")
    u_i, u_j = A.I * k_i, A.I * k_j
    root = Result(
        equation(k_i.T * C.I * k_j, u_i.T * u_j),
        (),
        reduce_matrix((k_i.T * C.I * k_j).subs(C.I, A.T.I * A.I) - u_i.T * u_j),
        (equation(C, A * A.T),),
        by_hand="(A Aᵀ)⁻¹ = A⁻ᵀA⁻¹",
    )
    a, b = sp.MatrixSymbol("u_i", d_m, 1), sp.MatrixSymbol("u_j", d_m, 1)
    square, product = sp.Symbol("s_i", positive=True), sp.Symbol("q_ij", real=True)
    perpendicular = prove(a.T * (b - product / square * a), sp.ZeroMatrix(1, 1), {square: a.T * a, product: a.T * b})
    return {"any root": root, "perpendicular": perpendicular}


def asymmetry() -> dict[str, sp.Eq]:
    """p in lengths and angle of the whitened keys: ``p_ij = cos θ |u_j|/|u_i|`` and what follows, simplified by SymPy.

    ``ratio``: ``p_ij/p_ji = |u_j|²/|u_i|²``; ``product``: ``p_ij p_ji = cos² θ``; ``mean``: the geometric
    mean of the two is ``|cos θ|``, the symmetric overlap.
    """
    a, b = sp.symbols("u_i u_j", positive=True)
    theta = sp.Symbol("theta", real=True)
    q = a * b * sp.cos(theta)
    p_ij, p_ji = q / a**2, q / b**2
    there, back = p("i", "j"), p("j", "i")
    return {
        "p": equation(there, p_ij),
        "ratio": equation(there / back, sp.simplify(p_ij / p_ji)),
        "product": equation(there * back, sp.simplify(p_ij * p_ji)),
        "mean": equation(sp.sqrt(there * back), sp.sqrt(sp.simplify(p_ij * p_ji))),
    }


def lossless() -> dict[str, Result]:
    """One edit and one preserved key: the change is ``p δ``; so it is zero exactly when p (or δ) is (chapter 04).

    ``change``: ``(Ŵ - W) k_j = p δ``. ``orthogonal``: with ``k_eᵀC⁻¹k_j = 0`` given, ``Ŵ k_j = W k_j``. By
    hand: a scalar times a vector is zero only if one of them is. For several edits the sum can cancel though
    no p is zero (:func:`cancellation_example`): then "only if" needs the δ's to be linearly independent.
    """
    k_j, named = key("j"), sp.Symbol("p", real=True)
    names = {h: k.T * C.I * k, h * named: k.T * C.I * k_j}
    left = v - W * k
    return {
        "change": prove((single_edit() - W) * k_j, named * left, names),
        "orthogonal": prove(single_edit() * k_j, W * k_j, {h: k.T * C.I * k}, {k.T * C.I * k_j: 0}),
    }


def cancellation_example() -> dict[str, sp.ImmutableMatrix]:
    """Two edits that overlap with ``k_j`` and yet leave it alone, exactly: p = 1 and 3/2, δ = 1 and -2/3, C = I.

    Returned are W_0, the keys, the values, W_2 and the change of ``W k_j``, in exact fractions, from the
    recursion.
    """
    W_now, keys, values = sp.zeros(1, 2), [sp.Matrix([1, 0]), sp.Matrix([1, 1])], [1, sp.Rational(1, 3)]
    k_j = sp.Matrix([1, 2])
    for key_, value_ in zip(keys, values, strict=True):
        W_now = W_now + (sp.Matrix([value_]) - W_now * key_) * key_.T / (key_.T * key_)[0, 0]
    return {
        "W_0": sp.zeros(1, 2).as_immutable(),
        "keys": sp.ImmutableMatrix.hstack(*keys),
        "values": sp.ImmutableMatrix([values]),
        "k_j": k_j.as_immutable(),
        "W_2": W_now.as_immutable(),
        "p": sp.ImmutableMatrix([superposition(key_, k_j, sp.eye(2)) for key_ in keys]),
        "change": (W_now * k_j).as_immutable(),
    }
