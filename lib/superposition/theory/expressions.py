"""Symbols, a reducer of matrix expressions, and :class:`Result`, an equation with its proof.

Expressions in symbolic sizes are multiplied out by :func:`reduce_matrix`, which cancels ``X X⁻¹``, uses symmetry and
puts a name in the place of a product (``h`` for ``kᵀC⁻¹k``). An equation is proved exactly when the difference of its
two sides reduces to zero. Matrices of explicit size (:func:`matrix`) are left to SymPy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sympy as sp
from sympy.matrices.expressions.matexpr import MatrixExpr
from sympy.printing.latex import LatexPrinter

from superposition.errors import UserError

d, d_m, N, n = sp.symbols("d d_m N n", integer=True, positive=True)
h, weight = sp.symbols("h w", positive=True)

W = sp.MatrixSymbol("W", d, d_m)
W_0 = sp.MatrixSymbol("W_0", d, d_m)
W_hat = sp.MatrixSymbol(r"\hat{W}", d, d_m)
D = sp.MatrixSymbol("D", d, d_m)
C = sp.MatrixSymbol("C", d_m, d_m)
S = sp.MatrixSymbol("S", d_m, d_m)
k = sp.MatrixSymbol("k_e", d_m, 1)
v = sp.MatrixSymbol("v_e", d, 1)
multiplier = sp.MatrixSymbol("Lambda", d, 1)
K, V = sp.MatrixSymbol("K", d_m, N), sp.MatrixSymbol("V", d, N)


def key(index: Any) -> sp.MatrixSymbol:
    """``k_i`` (d_m, 1), the key of edit i (or of a preserved fact, for a letter)."""
    return sp.MatrixSymbol(f"k_{index}", d_m, 1)


def value(index: Any) -> sp.MatrixSymbol:
    """``v_i`` (d, 1)."""
    return sp.MatrixSymbol(f"v_{index}", d, 1)


def delta(index: Any) -> sp.MatrixSymbol:
    """``δ_i`` (d, 1), what edit i still has to change."""
    return sp.MatrixSymbol(f"delta_{index}", d, 1)


def p(first: Any, second: Any) -> sp.Symbol:
    """The scalar ``p_ij = p(k_i, k_j)``."""
    return sp.Symbol(f"p_{{{first}{second}}}", real=True)


def leverage(index: Any) -> sp.Symbol:
    """The scalar ``h_i = k_iᵀC⁻¹k_i``."""
    return sp.Symbol(f"h_{index}", positive=True)


def matrix(name: str, rows: int, columns: int) -> sp.ImmutableMatrix:
    """An explicit matrix of real symbols; a column's entries carry one index."""
    single = columns == 1

    def entry(a: sp.Integer, b: sp.Integer) -> sp.Symbol:
        return sp.Symbol(f"{name}_{a + 1}" if single else f"{name}_{{{a + 1}{b + 1}}}", real=True)

    return sp.ImmutableMatrix(rows, columns, entry)


def symmetric_matrix(name: str, size: int) -> sp.ImmutableMatrix:
    """An explicit symmetric matrix of real symbols."""
    M = matrix(name, size, size)
    return sp.ImmutableMatrix(size, size, lambda a, b: M[min(a, b), max(a, b)])


def check_size(name: str, size: int, most: int = 4) -> None:
    """Refuse, with a :class:`~superposition.errors.UserError`, a size that is not from 1 to ``most``."""
    if not (isinstance(size, int) and 1 <= size <= most):
        raise UserError(f"{name} is {size!r}: explicit algebra takes whole numbers from 1 to {most}.")


# A product: its coefficient, and its factors from left to right.
Term = tuple[Any, tuple[MatrixExpr, ...]]


def _transposed(factor: MatrixExpr, symmetric: frozenset[MatrixExpr]) -> MatrixExpr:
    """The transpose of a symbol, of its transpose or of its inverse, in the same three forms."""
    if factor in symmetric:
        return factor
    if isinstance(factor, sp.Inverse):
        return factor if factor.arg in symmetric else sp.Inverse(_transposed(factor.arg, symmetric))
    return factor.arg if isinstance(factor, sp.Transpose) else sp.Transpose(factor)


def terms(expr: Any, symmetric: frozenset[MatrixExpr]) -> list[Term]:
    """Multiply out into (coefficient, factors); every factor is a symbol, its transpose or its inverse."""
    if isinstance(expr, sp.ZeroMatrix):
        return []
    if isinstance(expr, sp.Identity):
        return [(sp.Integer(1), ())]
    if isinstance(expr, sp.MatAdd):
        return [term for part in expr.args for term in terms(part, symmetric)]
    if isinstance(expr, sp.MatMul):
        product: list[Term] = [(sp.Integer(1), ())]
        for part in expr.args:  # every term so far times every term of the next factor
            more = terms(part, symmetric) if isinstance(part, MatrixExpr) else [(part, ())]
            product = [(a * b, x + y) for a, x in product for b, y in more]
        return product
    if isinstance(expr, sp.MatPow) and not isinstance(expr, sp.Inverse):
        if expr.exp == -1:
            return terms(sp.Inverse(expr.base), symmetric)
        if expr.exp.is_Integer and expr.exp > 0:
            return terms(sp.MatMul(*[expr.base] * int(expr.exp), evaluate=False), symmetric)
    if isinstance(expr, sp.Inverse) and isinstance(expr.arg, sp.Transpose):
        expr = sp.Inverse(_transposed(expr.arg.arg, symmetric))
    if isinstance(expr, sp.Transpose) and not isinstance(expr.arg, sp.MatrixSymbol):  # (X Y)ᵀ = YᵀXᵀ
        parts = terms(expr.arg, symmetric)
        return [(a, tuple(_transposed(factor, symmetric) for factor in reversed(x))) for a, x in parts]
    if isinstance(expr, sp.Transpose) and expr.arg in symmetric:
        expr = expr.arg
    return [(sp.Integer(1), (expr,))]


def _rewrite(term: Term, products: Mapping[tuple[MatrixExpr, ...], list[Term]]) -> list[Term] | None:
    """One rewriting step, or None where there is none left to do."""
    a, x = term
    for at in range(len(x) - 1):
        left, right = x[at], x[at + 1]
        if left == sp.Inverse(right) or right == sp.Inverse(left):
            return [(a, x[:at] + x[at + 2 :])]
    for pattern, result in products.items():
        for at in range(len(x) - len(pattern) + 1):
            if x[at : at + len(pattern)] == pattern:
                return [(a * b, x[:at] + y + x[at + len(pattern) :]) for b, y in result]
    return None


def reduce_matrix(
    expr: MatrixExpr, products: Mapping[MatrixExpr, Any] | None = None, symmetric: Iterable[MatrixExpr] = (C,)
) -> MatrixExpr:
    """Multiply out, cancel ``X X⁻¹``, replace named products, and collect equal terms.

    Parameters
    ----------
    expr
        Sum of products of matrix symbols, their transposes and inverses.
    products
        What a product equals: ``{k.T * C.I * k: h}`` (a scalar stands for itself times the identity) or
        ``{K * K.T: C}``. The transposed product is replaced by the transposed value.
    symmetric
        Symbols X with ``Xᵀ = X``.

    Returns
    -------
    MatrixExpr
        A sum of terms, each with a SymPy-simplified coefficient; a ``ZeroMatrix`` where all cancel.
    """
    kept = frozenset(symmetric)
    # Every named product is a rule, and so is its transpose: k_jᵀC⁻¹k_i follows from k_iᵀC⁻¹k_j.
    rules: dict[tuple[MatrixExpr, ...], list[Term]] = {}
    for product, named in (products or {}).items():
        ((_, pattern),) = terms(product, kept)
        reverse: list[Term]
        if isinstance(named, MatrixExpr):
            rules[pattern], reverse = terms(named, kept), terms(sp.Transpose(named), kept)
        else:
            reverse = [(sp.sympify(named), ())] if named != 0 else []
            rules[pattern] = reverse
        rules.setdefault(tuple(_transposed(factor, kept) for factor in reversed(pattern)), reverse)
    todo, done = terms(expr, kept), {}
    while todo:  # a step shortens a product or replaces it by named ones, so that this ends
        term = todo.pop()
        step = _rewrite(term, rules)
        if step is None:
            done[term[1]] = done.get(term[1], 0) + term[0]
        else:
            todo += step
    collected = [(sp.factor(sp.cancel(a)), x) for x, a in sorted(done.items(), key=lambda item: str(item[0]))]
    parts = [sp.MatMul(a, *x, evaluate=False) if x else a * sp.Identity(expr.rows) for a, x in collected if a != 0]
    parts = [part.doit() for part in parts]
    return sp.MatAdd(*parts).doit() if parts else sp.ZeroMatrix(*expr.shape)


class _Reader(LatexPrinter):
    """LaTeX with the terms of a matrix sum in reading order, and without the transpose of the symmetric C."""

    def _print_MatAdd(self, expr: sp.MatAdd) -> str:
        def rank(term: Any) -> tuple[bool, bool, int, str]:
            factors = term.args if isinstance(term, sp.MatMul) else (term,)
            number = [factor for factor in factors if not isinstance(factor, MatrixExpr)]
            return any(x.could_extract_minus_sign() for x in number), bool(number), len(factors), str(term)

        return " + ".join(self._print(term) for term in sorted(expr.args, key=rank)).replace("+ -", "-")

    def _print_Transpose(self, expr: sp.Transpose) -> str:
        symmetric = expr.arg == C
        return self._print(C) if symmetric else super()._print_Transpose(expr).replace("^{T}", r"^{\top}")

    def _print_Identity(self, expr: sp.Identity) -> str:
        return "I"

    def _print_Inverse(self, expr: sp.Inverse) -> str:
        return super()._print_MatPow(C.I if expr.arg == C.T else expr)

    def _print_Indexed(self, expr: sp.Indexed) -> str:
        base, indices = str(self._print(expr.base.label)), " ".join(map(self._print, expr.indices))
        return (rf"\left({base}\right)" if "_" in base else base) + f"_{{{indices}}}"

    def _print_Add(self, expr: sp.Add, order: str | None = None) -> str:
        sums = [term for term in expr.args if isinstance(term, sp.Sum)]
        if not sums:
            return super()._print_Add(expr, order)
        return " + ".join(map(self._print, [expr - sp.Add(*sums), *sums]))


def tex(expr: Any, **options: Any) -> str:
    """LaTeX as one reads it: ``W + …`` and ``v_e - W k_e``, where SymPy writes ``… + W`` and ``-W k_e + v_e``.

    In a sum of matrices those without a coefficient come first, short before long, and those with a minus last.
    `options` as for :func:`sympy.latex`; unless told otherwise, ``h`` is shown as ``h_e``.
    """
    return _Reader({"order": "rev-lex", "symbol_names": {h: "h_e"}} | options).doprint(expr)


@dataclass(frozen=True)
class Result:
    """An equation and its proof.

    Attributes
    ----------
    equation : sympy.Eq
        To be shown: both sides as they are spoken of.
    where : tuple of sympy.Eq
        The names used in it and in the proof, each with its meaning.
    difference
        Left less right side, as SymPy reduced it; the zero matrix (or 0) exactly when the equation is proved.
    assumes : tuple of sympy.Eq
        What the proof takes as given.
    by_hand : str
        The step SymPy does not do, if any.
    """

    equation: sp.Eq
    where: tuple[sp.Eq, ...]
    difference: Any
    assumes: tuple[sp.Eq, ...] = ()
    by_hand: str = ""

    @property
    def holds(self) -> bool:
        """Whether SymPy reduced the difference of the two sides to zero."""
        return isinstance(self.difference, sp.ZeroMatrix) or self.difference == 0


def equation(left: Any, right: Any) -> sp.Eq:
    """``left = right``, kept as it is written."""
    return sp.Eq(left, right, evaluate=False)


def prove(
    left: MatrixExpr,
    right: MatrixExpr,
    names: Mapping[Any, MatrixExpr] | None = None,
    given: Mapping[MatrixExpr, Any] | None = None,
    symmetric: Iterable[MatrixExpr] = (C,),
    by_hand: str = "",
) -> Result:
    """Prove left = right by reduction; names are introduced for products, `given` products are assumptions."""
    names, given = names or {}, given or {}
    products = {**{product: name for name, product in names.items()}, **given}
    return Result(
        equation(left, right),
        tuple(equation(name, product) for name, product in names.items()),
        reduce_matrix(left - right, products, symmetric),
        tuple(equation(product, result) for product, result in given.items()),
        by_hand,
    )
