"""Chapter 03: edits in sequence, unrolled into a sum, and the interference that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sympy as sp
from sympy.matrices.expressions.matexpr import MatrixExpr

from superposition.theory.expressions import W_0, C, d, d_m

# isort: split
from superposition.theory.expressions import Result, check_size, delta, equation, key, leverage, p, reduce_matrix, value


@dataclass(frozen=True)
class Unrolled:
    """n edits in sequence, in symbolic sizes: the memories of the recursion and the sum they amount to.

    ``steps[i]`` is ``W_i`` written out in W_0, the keys and the values; ``residuals[i - 1]`` is ``δ_i``
    written out; ``total`` is ``W_0 + Σ δ_i kᵢᵀC⁻¹/h_i`` in the *named* δ's; ``equation`` states ``W_n`` in
    the Λ's.
    """

    steps: tuple[MatrixExpr, ...]
    residuals: tuple[MatrixExpr, ...]
    total: MatrixExpr
    equation: sp.Eq
    result: Result


def _products(first: Sequence[Any], second: Sequence[Any]) -> dict[MatrixExpr, Any]:
    """``k_iᵀC⁻¹k_j`` as ``h_i p_ij`` (as ``h_i`` for i = j)."""
    return {key(a).T * C.I * key(b): leverage(a) * (1 if a == b else p(a, b)) for a in first for b in second}


def _names(first: Sequence[Any], second: Sequence[Any]) -> tuple[sp.Eq, ...]:
    own = [equation(leverage(a), key(a).T * C.I * key(a)) for a in first]
    pairs = [(a, b) for a in first for b in second if a != b]
    return (*own, *(equation(p(a, b), (key(a).T * C.I * key(b)) / leverage(a)) for a, b in pairs))


@cache
def unrolled(edits: int) -> Unrolled:
    """``W_i = W_{i-1} + Λ_i (C⁻¹k_i)ᵀ`` for i = 1 … n, n from 1 to 4, written out against the sum (chapter 03).

    The recursion is expanded until only W_0, the keys, the values, ``h_i`` and ``p_ij`` are left; the sum is
    written with the δ's of the same recursion. SymPy reduces the difference of the two to zero.
    """
    check_size("edits", edits)
    indices = range(1, edits + 1)
    products = _products(indices, indices)
    steps, residuals, total, named = [W_0], [], W_0, W_0
    for a in indices:  # steps: the recursion written out; total: the sum in the same δ's; named: in symbols δ_i
        residual = reduce_matrix(value(a) - steps[-1] * key(a), products)
        residuals.append(residual)
        update = residual * key(a).T * C.I / leverage(a)
        steps.append(
            reduce_matrix(steps[-1] + (value(a) - steps[-1] * key(a)) * key(a).T * C.I / leverage(a), products)
        )
        total = total + update
        named = named + delta(a) * key(a).T * C.I / leverage(a)
    shown = W_0 + sp.MatAdd(*(sp.MatrixSymbol(f"Lambda_{a}", d, 1) * key(a).T * C.I for a in indices))
    statement = equation(sp.MatrixSymbol(f"W_{edits}", d, d_m), shown)
    where = _names(indices, indices)
    proof = Result(equation(steps[-1], total), where, reduce_matrix(steps[-1] - total, products))
    return Unrolled(tuple(steps), tuple(residuals), named, statement, proof)


def interference_original(edits: int) -> Result:
    """``(W_n - W_0) k_j = Σ_{i=1..n} p_ij δ_i`` for n = 1 … 4 edits and an original key ``k_j``, in symbolic sizes."""
    check_size("edits", edits)
    indices = range(1, edits + 1)
    change = unrolled(edits).total - W_0
    expected = sp.MatAdd(*(p(a, "j") * delta(a) for a in indices)).doit()
    difference = reduce_matrix(change * key("j") - expected, _products(indices, ["j"]))
    left = (sp.MatrixSymbol(f"W_{edits}", d, d_m) - W_0) * key("j")
    return Result(equation(left, expected), _names(indices, ["j"]), difference)


def interference_edited(edits: int, which: int) -> Result:
    """``(W_n - W_j) k_j = Σ_{i=j+1..n} p_ij δ_i``, what later edits do to edit j; zero for the last (chapter 03)."""
    check_size("edits", edits)
    check_size("which", which, edits)
    later = range(which + 1, edits + 1)
    change = unrolled(edits).total - unrolled(which).total
    expected = sp.MatAdd(sp.ZeroMatrix(d, 1), *(p(a, which) * delta(a) for a in later)).doit()
    difference = reduce_matrix(change * key(which) - expected, _products(later, [which]))
    left = (sp.MatrixSymbol(f"W_{edits}", d, d_m) - sp.MatrixSymbol(f"W_{which}", d, d_m)) * key(which)
    return Result(equation(left, expected), _names(later, [which]), difference)


def interference_matrix(edits: int) -> sp.ImmutableMatrix:
    """The triangle T with ``Δ_e = [δ_1 … δ_n] T``: ``T_ij = p_ij`` for i > j, else 0."""
    check_size("edits", edits)
    return sp.ImmutableMatrix(edits, edits, lambda a, b: p(a + 1, b + 1) if a > b else 0)
