"""The book's algebra, done by SymPy: closed forms, the unrolled recursion and the identities, as expressions.

Two kinds of function:

- **explicit sizes** (up to 4 × 4): matrices of symbols, entry by entry; SymPy solves or expands everything.
- **symbolic sizes**: matrices of size d × d_m with d, d_m, N left as symbols. SymPy differentiates traces and
  multiplies out; :func:`reduce_matrix`, a small rewriter below, cancels ``X X⁻¹``, uses symmetry and puts a name
  in the place of a product (``h`` for ``kᵀC⁻¹k``). What is left to a hand is said in each :class:`Result`.

A :class:`Result` is an equation with the difference of its two sides *as SymPy reduced it*: the equation is
proved exactly when that difference is zero (``result.holds``). :func:`evaluate` puts numbers into any of
these expressions.

Keys are columns; ``C`` is symmetric and positive definite; the paper's symbols are kept
(``book/notation.md``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sympy as sp
from sympy.matrices.expressions.matexpr import MatrixExpr
from sympy.printing.latex import LatexPrinter

from superposition.errors import UserError

# --- symbols ------------------------------------------------------------------------------------------------

d, d_m, N, n = sp.symbols("d d_m N n", integer=True, positive=True)
i, j = sp.symbols("i j", integer=True, positive=True)
h, weight, rho, gain = sp.symbols("h w rho g", positive=True)

W = sp.MatrixSymbol("W", d, d_m)
W_hat = sp.MatrixSymbol(r"\hat{W}", d, d_m)
D = sp.MatrixSymbol("D", d, d_m)
C = sp.MatrixSymbol("C", d_m, d_m)
S = sp.MatrixSymbol("S", d_m, d_m)
P = sp.MatrixSymbol("P", d_m, d_m)
A = sp.MatrixSymbol("A", d_m, d_m)
k = sp.MatrixSymbol("k_e", d_m, 1)
v = sp.MatrixSymbol("v_e", d, 1)
multiplier = sp.MatrixSymbol("Lambda", d, 1)
K, V = sp.MatrixSymbol("K", d_m, N), sp.MatrixSymbol("V", d, N)
K_1, R = sp.MatrixSymbol("K_1", d_m, n), sp.MatrixSymbol("R", d, n)
K_p = sp.MatrixSymbol("K_p", d_m, sp.Symbol("n_p", integer=True, positive=True))


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

    def entry(a: int, b: int) -> sp.Symbol:
        return sp.Symbol(f"{name}_{a + 1}" if single else f"{name}_{{{a + 1}{b + 1}}}", real=True)

    return sp.ImmutableMatrix(rows, columns, entry)


def symmetric_matrix(name: str, size: int) -> sp.ImmutableMatrix:
    """An explicit symmetric matrix of real symbols."""
    M = matrix(name, size, size)
    return sp.ImmutableMatrix(size, size, lambda a, b: M[min(a, b), max(a, b)])


def lower_triangular(name: str, size: int) -> sp.ImmutableMatrix:
    """An explicit lower triangular matrix with a positive diagonal, as a Cholesky factor has."""
    return sp.ImmutableMatrix(
        size, size, lambda a, b: 0 if b > a else sp.Symbol(f"{name}_{{{a + 1}{b + 1}}}", positive=a == b, real=True)
    )


def _size(name: str, size: int, most: int = 4) -> None:
    if not (isinstance(size, int) and 1 <= size <= most):
        raise UserError(f"{name} is {size!r}: explicit algebra takes whole numbers from 1 to {most}.")


# --- reducing matrix expressions ----------------------------------------------------------------------------

Term = tuple[Any, tuple[MatrixExpr, ...]]


def _transposed(factor: MatrixExpr, symmetric: frozenset[MatrixExpr]) -> MatrixExpr:
    if factor in symmetric:
        return factor
    if isinstance(factor, sp.Inverse):
        return factor if factor.arg in symmetric else sp.Inverse(_transposed(factor.arg, symmetric))
    return factor.arg if isinstance(factor, sp.Transpose) else sp.Transpose(factor)


def _terms(expr: Any, symmetric: frozenset[MatrixExpr]) -> list[Term]:
    """Multiply out into (coefficient, factors); every factor is a symbol, its transpose or its inverse."""
    if isinstance(expr, sp.ZeroMatrix):
        return []
    if isinstance(expr, sp.Identity):
        return [(sp.Integer(1), ())]
    if isinstance(expr, sp.MatAdd):
        return [term for part in expr.args for term in _terms(part, symmetric)]
    if isinstance(expr, sp.MatMul):
        product: list[Term] = [(sp.Integer(1), ())]
        for part in expr.args:
            more = _terms(part, symmetric) if isinstance(part, MatrixExpr) else [(part, ())]
            product = [(a * b, x + y) for a, x in product for b, y in more]
        return product
    if isinstance(expr, sp.MatPow) and not isinstance(expr, sp.Inverse):
        if expr.exp == -1:
            return _terms(sp.Inverse(expr.base), symmetric)
        if expr.exp.is_Integer and expr.exp > 0:
            return _terms(sp.MatMul(*[expr.base] * int(expr.exp), evaluate=False), symmetric)
    if isinstance(expr, sp.Inverse) and isinstance(expr.arg, sp.Transpose):
        expr = sp.Inverse(_transposed(expr.arg.arg, symmetric))
    if isinstance(expr, sp.Transpose) and not isinstance(expr.arg, sp.MatrixSymbol):
        return [
            (a, tuple(_transposed(factor, symmetric) for factor in reversed(x))) for a, x in _terms(expr.arg, symmetric)
        ]
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
    rules: dict[tuple[MatrixExpr, ...], list[Term]] = {}
    for product, named in (products or {}).items():
        ((_, pattern),) = _terms(product, kept)
        if isinstance(named, MatrixExpr):
            rules[pattern] = _terms(named, kept)
            reverse = _terms(sp.Transpose(named), kept)
        else:
            rules[pattern] = reverse = [(sp.sympify(named), ())] if named != 0 else []
        rules.setdefault(tuple(_transposed(factor, kept) for factor in reversed(pattern)), reverse)
    todo, done = _terms(expr, kept), {}
    while todo:
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


def evaluate(expr: Any, values: Mapping[Any, Any]) -> Any:
    """Put explicit matrices and numbers in the place of symbols; sizes (d, d_m, …) are among the `values`.

    Returns an explicit matrix or a number, exact where the values are. Used to hold an identity against
    numbers and against the rules of :mod:`superposition.linear.rules`.
    """
    if expr in values:
        return values[expr]
    if isinstance(expr, sp.Equality):
        return evaluate(expr.lhs, values), evaluate(expr.rhs, values)
    if isinstance(expr, sp.MatAdd):
        total = evaluate(expr.args[0], values)
        for part in expr.args[1:]:
            total = total + evaluate(part, values)
        return total
    if isinstance(expr, sp.MatMul):
        total = sp.Integer(1)
        for part in expr.args:
            total = total * evaluate(part, values)
        return total
    if isinstance(expr, sp.Transpose):
        return evaluate(expr.arg, values).T
    if isinstance(expr, sp.MatPow):  # an Inverse is one, with exponent -1
        return evaluate(expr.base, values) ** int(expr.exp)
    if isinstance(expr, sp.Trace):
        return evaluate(expr.arg, values).trace()
    if isinstance(expr, sp.Identity):
        return sp.eye(int(evaluate(expr.rows, values)))
    if isinstance(expr, sp.ZeroMatrix):
        return sp.zeros(int(evaluate(expr.rows, values)), int(evaluate(expr.cols, values)))
    if isinstance(expr, sp.MatrixSymbol):
        raise UserError(f"No value for {expr}: add it to the values.")
    if isinstance(expr, sp.Expr) and expr.has(sp.Trace):
        return expr.func(*(evaluate(part, values) for part in expr.args))
    return sp.sympify(expr).subs({s: x for s, x in values.items() if isinstance(s, sp.Symbol)})


class _Reader(LatexPrinter):
    """LaTeX with the terms of a matrix sum in reading order, and without the transpose of the symmetric C."""

    def _print_MatAdd(self, expr: sp.MatAdd) -> str:
        def place(term: Any) -> tuple[bool, bool, int, str]:
            factors = term.args if isinstance(term, sp.MatMul) else (term,)
            number = [factor for factor in factors if not isinstance(factor, MatrixExpr)]
            return any(x.could_extract_minus_sign() for x in number), bool(number), len(factors), str(term)

        return " + ".join(self._print(term) for term in sorted(expr.args, key=place)).replace("+ -", "-")

    def _print_Transpose(self, expr: sp.Transpose) -> str:
        symmetric = expr.arg == C
        return self._print(C) if symmetric else super()._print_Transpose(expr).replace("^{T}", r"^{\top}")

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


def _result(
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


# --- 01 the memory ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NormalEquation:
    """The least-squares memory: objective, its gradient, the equation where it vanishes, and the solution."""

    objective: sp.Trace
    gradient: MatrixExpr
    equation: sp.Eq
    solution: sp.Eq
    result: Result


def normal_equation() -> NormalEquation:
    """``min_W |W K - V|²`` in symbolic sizes: gradient by SymPy, ``W C = V Kᵀ``, ``W = V KᵀC⁻¹`` (chapter 01).

    By hand: naming ``K Kᵀ = C`` and multiplying by ``C⁻¹``; SymPy confirms that the gradient is zero there.
    """
    objective = sp.Trace((W * K - V) * (W * K - V).T)
    gradient = objective.diff(W)
    solution = V * K.T * C.I
    at = gradient.subs(W, solution)
    proof = _result(at, sp.ZeroMatrix(d, d_m), {C: K * K.T})
    return NormalEquation(objective, gradient, equation(W * C, V * K.T), equation(W, solution), proof)


def memory_matrix(K: Any, V: Any) -> Any:
    """``V Kᵀ(K Kᵀ)⁻¹`` for explicit or symbolic matrices."""
    return V * K.T * (K * K.T).inv()


# --- 02 the single edit -------------------------------------------------------------------------------------


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
            unknown = [*self.W_hat[a, :], self.multipliers[a]]
            equations = [*self.stationarity[a * columns : (a + 1) * columns], self.constraint[a]]
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
    _size("rows", rows)
    _size("columns", columns)
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
    found, left = single_edit(), v - W * k
    _, gradient = lagrangian_symbolic()
    at = gradient.subs(W_hat, found).subs(multiplier, left / h)
    change = found - W
    return {
        "stationarity": _result(at, sp.ZeroMatrix(d, d_m), names),
        "constraint": _result(found * k, v, names),
        "minimum": _result((D - change) * C * change.T, sp.ZeroMatrix(d, d), names, {D * k: left}),
    }


def loss_is_distance() -> Result:
    """``|Ŵ K - V|² - |W K - V|² = tr((Ŵ - W) C (Ŵ - W)ᵀ)`` for the least-squares W, in symbolic sizes.

    It holds already without the traces, by the normal equation ``W C = V Kᵀ``: the cross terms cancel.
    """
    old, new = W * K - V, W_hat * K - V
    change = W_hat - W
    return _result(
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
    proof = _result(product, sp.Identity(d_m), {h: k.T * C.I * k})
    return Result(equation((C + weight * k * k.T).I, inverse), proof.where, proof.difference)


def weighted_fit() -> Result:
    """Refitting the memory with the new pair at weight w changes it by ``w/(1 + w h) (v - W k) kᵀC⁻¹``.

    ``(V Kᵀ + w v kᵀ)(C + w k kᵀ)⁻¹``, with ``V Kᵀ = W C``. As ``w → ∞`` the factor goes to ``1/h`` and the
    refit becomes the single edit (:func:`weight_limit`).
    """
    inverse = C.I - weight / (1 + weight * h) * C.I * k * k.T * C.I
    fitted = (W * C + weight * v * k.T) * inverse
    expected = W + weight / (1 + weight * h) * (v - W * k) * k.T * C.I
    proof = _result(fitted, expected, {h: k.T * C.I * k})
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


# --- 03 a lifetime of edits ---------------------------------------------------------------------------------


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


W_0 = sp.MatrixSymbol("W_0", d, d_m)


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
    _size("edits", edits)
    indices = range(1, edits + 1)
    products = _products(indices, indices)
    steps, residuals, total, named = [W_0], [], W_0, W_0
    for a in indices:
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


def residual_recursion(edits: int) -> tuple[sp.Eq, ...]:
    """``δ_i = ε_i - Σ_{l<i} p_li δ_l`` with ``ε_i = v_i - W_0 k_i``, for i = 1 … n ≤ 4: proved, then solved.

    Returned are the solved forms, each δ in the ε's and p's alone: what edit i has to change depends on all
    edits before it through the overlaps (a triangular system). Raises if the recursion is not the unrolled
    memory's.
    """
    _size("edits", edits)
    epsilon = {a: sp.MatrixSymbol(f"varepsilon_{a}", d, 1) for a in range(1, edits + 1)}
    memory, solved = unrolled(edits), {}
    for a in range(1, edits + 1):
        form = epsilon[a] - sum((p(b, a) * solved[b] for b in range(1, a)), sp.ZeroMatrix(d, 1))
        solved[a] = reduce_matrix(form)
        spelled = solved[a].subs({e: value(b) - W_0 * key(b) for b, e in epsilon.items()})
        if not isinstance(reduce_matrix(memory.residuals[a - 1] - spelled), sp.ZeroMatrix):
            raise ArithmeticError(f"δ_{a} does not follow the recursion")
    return tuple(equation(delta(a), solved[a]) for a in solved)


def interference_original(edits: int) -> Result:
    """``(W_n - W_0) k_j = Σ_{i=1..n} p_ij δ_i`` for n = 1 … 4 edits and an original key ``k_j``, in symbolic sizes."""
    _size("edits", edits)
    indices = range(1, edits + 1)
    change = unrolled(edits).total - W_0
    expected = sp.MatAdd(*(p(a, "j") * delta(a) for a in indices)).doit()
    difference = reduce_matrix(change * key("j") - expected, _products(indices, ["j"]))
    left = (sp.MatrixSymbol(f"W_{edits}", d, d_m) - W_0) * key("j")
    return Result(equation(left, expected), _names(indices, ["j"]), difference)


def interference_edited(edits: int, which: int) -> Result:
    """``(W_n - W_j) k_j = Σ_{i=j+1..n} p_ij δ_i``, what later edits do to edit j; zero for the last (chapter 03)."""
    _size("edits", edits)
    _size("which", which, edits)
    later = range(which + 1, edits + 1)
    change = unrolled(edits).total - unrolled(which).total
    expected = sp.MatAdd(sp.ZeroMatrix(d, 1), *(p(a, which) * delta(a) for a in later)).doit()
    difference = reduce_matrix(change * key(which) - expected, _products(later, [which]))
    left = (sp.MatrixSymbol(f"W_{edits}", d, d_m) - sp.MatrixSymbol(f"W_{which}", d, d_m)) * key(which)
    return Result(equation(left, expected), _names(later, [which]), difference)


def interference_matrix(edits: int) -> sp.ImmutableMatrix:
    """The triangle T with ``Δ_e = [δ_1 … δ_n] T``: ``T_ij = p_ij`` for i > j, else 0."""
    _size("edits", edits)
    return sp.ImmutableMatrix(edits, edits, lambda a, b: p(a + 1, b + 1) if a > b else 0)


@dataclass(frozen=True)
class Induction:
    """A statement for every n: base case, the step's difference (both reduced by SymPy), and the claim itself."""

    claim: sp.Eq
    base: sp.Expr
    step: sp.Expr

    @property
    def holds(self) -> bool:
        """Whether base and step both reduced to zero."""
        return self.base == 0 and self.step == 0


def _peel(total: sp.Sum) -> sp.Expr:
    """``Σ_{i=a..m+1} f_i = Σ_{i=a..m} f_i + f_{m+1}``, the recursive definition of a sum."""
    (index, low, high), term = total.limits[0], total.function
    return sp.Sum(term, (index, low, high - 1)) + term.subs(index, high)


def induction() -> dict[str, Induction]:
    """The three statements of chapter 03 for every n, by induction on n, entry by entry.

    ``unrolled``: ``(W_n)_ab = (W_0)_ab + Σ_{i≤n} Λ_ia g_ib`` with ``g_i = C⁻¹k_i``; ``original``:
    ``Δ_o[a, j] = Σ_{i≤n} p_ij δ_ia``; ``edited``: ``Δ_e[a, j] = Σ_{j<i≤n} p_ij δ_ia``. One further edit adds
    ``Λ_{n+1} g_{n+1}ᵀ``; applied to ``k_j`` that is ``Λ_{n+1} (g_{n+1}ᵀk_j)``, with ``Λ = δ/h`` and
    ``gᵀk_j = h p``.

    By hand: that a sum to n + 1 is the sum to n and one term more. SymPy: base cases and the difference of
    the step.
    """
    a, b = sp.symbols("a b", integer=True, positive=True)
    Lam, g, dlt, P_, H = (sp.IndexedBase(s) for s in ("Lambda", "g", "delta", "p", "h"))
    start = sp.IndexedBase("W_0")[a, b]
    out: dict[str, Induction] = {}

    term = Lam[i, a] * g[i, b]
    claimed = start + sp.Sum(term, (i, 1, n))
    grown = start + _peel(sp.Sum(term, (i, 1, n + 1)))
    base = (start + sp.Sum(term, (i, 1, 0))).doit() - start
    step = sp.expand(grown - (claimed + Lam[n + 1, a] * g[n + 1, b]))
    out["unrolled"] = Induction(equation(sp.IndexedBase("W_n")[a, b], claimed), base, step)

    added = (Lam[n + 1, a] * (H[n + 1] * P_[n + 1, j])).subs(Lam[n + 1, a], dlt[n + 1, a] / H[n + 1])
    term = P_[i, j] * dlt[i, a]
    for name, low, symbol in (("original", sp.Integer(1), "Delta_o"), ("edited", j + 1, "Delta_e")):
        total = sp.Sum(term, (i, low, n))
        base = sp.Sum(term, (i, low, low - 1)).doit()
        step = sp.expand(_peel(sp.Sum(term, (i, low, n + 1))) - (total + added))
        out[name] = Induction(equation(sp.IndexedBase(symbol)[a, j], total), base, step)
    return out


# --- 04 superposition ---------------------------------------------------------------------------------------


def superposition(k_i: Any, k_j: Any, C: Any) -> Any:
    """``p(k_i, k_j) = k_iᵀC⁻¹k_j / k_iᵀC⁻¹k_i``: a scalar for explicit matrices, a 1 × 1 expression for symbols."""
    if isinstance(k_i, sp.MatrixSymbol):
        return (k_i.T * C.I * k_i).I * (k_i.T * C.I * k_j)
    adjugate = C.adjugate()
    return (k_i.T * adjugate * k_j)[0, 0] / (k_i.T * adjugate * k_i)[0, 0]


def projection_identity(size: int) -> Result:
    """``p(k_i, k_j) = u_iᵀu_j / u_iᵀu_i`` with ``u = L⁻¹k``, for ``C = L Lᵀ`` of explicit size 1 to 4 (chapter 04).

    L is any lower triangular matrix with a positive diagonal, and every positive definite C has one. A
    rotation of the whitened space changes nothing, so that ``C^{-1/2}`` serves as well
    (:func:`whitening_products`).
    """
    _size("size", size)
    L, u, w = lower_triangular("l", size), matrix("u", size, 1), matrix("w", size, 1)
    k_i, k_j = L * u, L * w
    left = superposition(k_i, k_j, sp.ImmutableMatrix(L * L.T))
    right = (u.T * w)[0, 0] / (u.T * u)[0, 0]
    where = (equation(sp.Symbol("C"), L * L.T), equation(sp.Symbol("k_i"), k_i), equation(sp.Symbol("k_j"), k_j))
    return Result(equation(sp.Symbol("p_{ij}"), right), where, sp.cancel(sp.together(left - right)))


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
    perpendicular = _result(a.T * (b - product / square * a), sp.ZeroMatrix(1, 1), {square: a.T * a, product: a.T * b})
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
    one, two = p("i", "j"), p("j", "i")
    return {
        "p": equation(one, p_ij),
        "ratio": equation(one / two, sp.simplify(p_ij / p_ji)),
        "product": equation(one * two, sp.simplify(p_ij * p_ji)),
        "mean": equation(sp.sqrt(one * two), sp.sqrt(sp.simplify(p_ij * p_ji))),
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
        "change": _result((single_edit() - W) * k_j, named * left, names),
        "orthogonal": _result(single_edit() * k_j, W * k_j, {h: k.T * C.I * k}, {k.T * C.I * k_j: 0}),
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


# --- 05 capacity --------------------------------------------------------------------------------------------


def conservation_law() -> Result:
    """``Σ_j p(k_e, k_j)² = 1/h_e`` over the stored keys, ``C = K Kᵀ``, in symbolic sizes (chapter 05; ours).

    The sum over j is the matrix product with ``K Kᵀ``: ``Σ_j (k_eᵀC⁻¹k_j)² = k_eᵀC⁻¹K KᵀC⁻¹k_e = h_e``, over
    ``h_e²``.
    """
    row = k.T * C.I * K / h
    proof = _result(row * row.T, sp.Identity(1) / h, {h: k.T * C.I * k, C: K * K.T})
    index = sp.IndexedBase("p")
    shown = equation(sp.Sum(index[sp.Symbol("e"), j] ** 2, (j, 1, N)), 1 / sp.Symbol("h_e", positive=True))
    return Result(shown, proof.where, proof.difference, by_hand="Σ_j x_j² = x xᵀ for the row x = (p(k_e, k_1), …)")


def conservation_law_explicit(rows: int, columns: int, which: int = 0) -> tuple[sp.Expr, sp.Expr]:
    """Both sides of the conservation law for an explicit K of symbols (rows × columns), key number `which` of it."""
    _size("rows", rows)
    _size("columns", columns, 6)
    if columns < rows or not 0 <= which < columns:
        raise UserError(f"K would be {rows} × {columns}, key {which}: take at least {rows} keys, and one of them.")
    K = matrix("k", rows, columns)
    C = K * K.T
    adjugate, own = C.adjugate(), K[:, which]
    left = sum(((own.T * adjugate * K[:, b])[0, 0] ** 2 for b in range(columns)), sp.Integer(0))
    square = (own.T * adjugate * own)[0, 0]
    return left / square**2, C.det() / square


def mean_leverage() -> Result:
    """``Σ_e h_e = tr(KᵀC⁻¹K) = tr(C⁻¹C) = d_m``, so the mean leverage of N stored keys is ``d_m/N``, symbolic sizes.

    By hand: the trace is cyclic. SymPy: ``C⁻¹K Kᵀ`` reduces to the identity, whose trace is d_m.
    """
    shown = equation(sp.Trace(K.T * C.I * K) / N, d_m / N)
    difference = sp.Trace(reduce_matrix(C.I * K * K.T, {K * K.T: C})).doit() - d_m
    return Result(shown, (equation(C, K * K.T),), sp.simplify(difference), by_hand="tr(X Y) = tr(Y X)")


def mean_square_superposition() -> sp.Eq:
    """The mean of ``p(k_e, ·)²`` over the N stored keys is ``1/(N h_e)``; ``1/d_m`` at mean leverage."""
    own = sp.Symbol("h_e", positive=True)
    return equation(1 / (N * own), sp.simplify((1 / (N * own)).subs(own, d_m / N)))


def forced_interference() -> sp.Rel:
    """The overlap with the *other* stored keys is on average at least ``N/d_m - 1``.

    For one key it is ``Σ_{j≠e} p(k_e, k_j)² = 1/h_e - 1``; the average is over the N keys e. It follows from the
    conservation law and the mean leverage ``d_m/N``, since the mean of ``1/h`` is at least one over the mean of h
    (:func:`harmonic_identity`). Hence positive once ``N > d_m``: interference is forced (chapter 05; ours).
    """
    own = sp.IndexedBase("h")
    return sp.Ge(sp.Sum(1 / own[i] - 1, (i, 1, N)) / N, sp.expand(1 / (d_m / N) - 1), evaluate=False)


def harmonic_identity(count: int) -> Result:
    """``(Σ h_e)(Σ 1/h_e) - N² = Σ_{a<b} (h_a - h_b)²/(h_a h_b) ≥ 0`` for N = 1 … 6 positive numbers, by SymPy."""
    _size("count", count, 6)
    own = [leverage(a) for a in range(1, count + 1)]
    left = sum(own) * sum(1 / x for x in own) - count**2
    right = sum(((x - y) ** 2 / (x * y) for at, x in enumerate(own) for y in own[at + 1 :]), start=sp.Integer(0))
    return Result(equation(left, right), (), sp.cancel(sp.together(left - right)))


def null_deviation() -> sp.Eq:
    """The null: for keys random in whitened space, ``sd(p) = 1/√d_m``.

    With ``E[u_j u_jᵀ] = I`` and mean zero, ``E[(u_iᵀu_j)² | u_i] = |u_i|²``; so ``Var(p) = 1/|u_i|²``, and
    ``|u_i|²`` is ``d_m`` on average (here C is the mean of ``k kᵀ``; with the sum both numbers carry the same
    N).
    """
    square = sp.Symbol("s", positive=True)
    variance = square / square**2
    return equation(sp.Symbol("sd(p)"), sp.sqrt(variance.subs(square, d_m)))


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
    square, trace = sp.Symbol("t", positive=True), N
    total = 0
    for a, factors in _terms(product, frozenset({F})):
        total += a * {(): d_m, (F,): trace, (F, F): square}[factors]
    shown = equation(sp.Trace(U.T * U * U.T * U) - N**2 / d_m, sp.Trace((U * U.T - N / d_m * sp.Identity(d_m)) ** 2))
    first = Result(
        shown, (equation(F, U * U.T),), sp.simplify(total - (square - N**2 / d_m)), by_hand="tr(F²) = tr(G²), tr F = N"
    )
    mean = (N**2 / d_m - N) / (N * (N - 1))
    return first, equation(mean, sp.factor(sp.simplify(mean)))


# --- 06 the family of editors -------------------------------------------------------------------------------


def rome_update(W: Any, k: Any, v: Any, C: Any) -> Any:
    """``(v - W k) kᵀC⁻¹ (kᵀC⁻¹k)⁻¹``, for explicit matrices (k, v single columns)."""
    inverse = C.inv()
    return (v - W * k) * (k.T * inverse) / (k.T * inverse * k)[0, 0]


def memit_update(W: Any, K: Any, V: Any, C: Any, K_previous: Any = None, weight: Any = 1) -> Any:
    """``(V - W K) Kᵀ(C/w + K_p K_pᵀ + K Kᵀ)⁻¹``, for explicit matrices."""
    history = K_previous * K_previous.T if K_previous is not None else 0 * C
    return (V - W * K) * K.T * (C / weight + history + K * K.T).inv()


def emmet_update(W: Any, K: Any, V: Any, C: Any) -> Any:
    """``(V - W K)(KᵀC⁻¹K)⁻¹KᵀC⁻¹``, for explicit matrices."""
    inverse = C.inv()
    return (V - W * K) * (K.T * inverse * K).inv() * K.T * inverse


def alphaedit_update(W: Any, K: Any, V: Any, P: Any, K_previous: Any = None, ridge: Any = 1) -> Any:
    """``(V - W K) KᵀP (K_p K_pᵀP + K KᵀP + ridge I)⁻¹``, for explicit matrices."""
    history = K_previous * K_previous.T * P if K_previous is not None else 0 * P
    return (V - W * K) * K.T * P * (history + K * K.T * P + ridge * sp.eye(P.rows)).inv()


def rls_update(W: Any, S: Any, k: Any, v: Any, hard: bool, weight: Any = 1) -> tuple[Any, Any]:
    """``(v - W k)(S k)ᵀ/c`` and ``S - S k kᵀS/c`` with ``c = kᵀS k`` (hard) or ``kᵀS k + 1/w``, explicit matrices."""
    scale = (k.T * S * k)[0, 0] + (0 if hard else 1 / sp.sympify(weight))
    return (v - W * k) * (S * k).T / scale, S - S * k * k.T * S / scale


def family() -> dict[str, tuple[sp.Expr, tuple[sp.Eq, ...]]]:
    """The question each rule answers: ``(objective, constraints)`` in the change D."""
    size = sp.Trace(D * C * D.T)
    miss = D * K_1 - R
    held = sp.Trace(D * K_p * K_p.T * D.T)
    written, kept = sp.Trace(miss * miss.T), equation(D * K_p, sp.ZeroMatrix(d, K_p.cols))
    exact, inside = equation(D * K_1, R), equation(D * P, D)
    return {
        "rome": (size, (equation(D * k, v - W * k),)),
        "emmet": (size, (exact,)),
        "rls-hard": (size, (exact, kept)),
        "memit": (size / weight + written, ()),
        "rls-soft": (size + written + held, ()),
        "alphaedit": (rho * sp.Trace(D * D.T) + written + held, (inside,)),
    }


def _gradient(objective: sp.Expr, variable: sp.MatrixSymbol) -> MatrixExpr:
    """The derivative of a weighted sum of traces: each trace by SymPy, the sum by linearity."""
    total: MatrixExpr = sp.ZeroMatrix(*variable.shape)
    for term in sp.Add.make_args(objective):
        factor, trace = term.as_independent(sp.Trace)
        total = total + factor * trace.diff(variable)
    return total


def memit_proof() -> Result:
    """MEMIT's closed form makes the gradient of its objective zero, with weight and history, in symbolic sizes.

    Objective ``tr(D C Dᵀ)/w + |D K_1 - R|² + |D K_p|²``; ``D = R K_1ᵀA⁻¹`` with
    ``A = C/w + K_p K_pᵀ + K_1 K_1ᵀ``.
    """
    objective, _ = family()["memit"]
    held = sp.Trace(D * K_p * K_p.T * D.T)
    gradient = _gradient(objective, D) + held.diff(D)
    closed = R * K_1.T * A.I
    inside = weight * (A - K_p * K_p.T - K_1 * K_1.T)
    difference = reduce_matrix(reduce_matrix(gradient.subs(D, closed)).subs(C, inside), symmetric=(A, C))
    where = (equation(A, C / weight + K_p * K_p.T + K_1 * K_1.T),)
    return Result(equation(gradient.subs(D, closed), sp.ZeroMatrix(d, d_m)), where, difference)


def push_through() -> Result:
    """``(C + U Uᵀ) C⁻¹U = U (I + UᵀC⁻¹U)``, hence ``(C + U Uᵀ)⁻¹U = C⁻¹U (I + UᵀC⁻¹U)⁻¹`` (Woodbury), symbolic sizes.

    It turns a d_m × d_m inverse into an n × n one; the rules of :mod:`superposition.linear.rules` are computed so.
    """
    G = sp.MatrixSymbol("G", n, n)
    proof = _result((C + K_1 * K_1.T) * C.I * K_1, K_1 * (sp.Identity(n) + G), {G: K_1.T * C.I * K_1}, symmetric=(C, G))
    left, right = (C + K_1 * K_1.T).I * K_1, C.I * K_1 * (sp.Identity(n) + G).I
    return Result(equation(left, right), proof.where, proof.difference, by_hand="multiplying by the two inverses")


def emmet_proof() -> dict[str, Result]:
    """EMMET's closed form: stationarity of its Lagrangian, and the constraint, in symbolic sizes.

    ``D = R G⁻¹K_1ᵀC⁻¹`` with ``G = K_1ᵀC⁻¹K_1`` and multipliers ``R G⁻¹``. With ``K_p`` among the columns of
    ``K_1`` and zeros in R it is recursive least squares in its hard form.
    """
    G = sp.MatrixSymbol("G", n, n)
    Lam = sp.MatrixSymbol("Lambda", d, n)
    gradient = sp.Trace(D * C * D.T).diff(D) / 2 - sp.Trace(Lam.T * (D * K_1 - R)).diff(D)
    closed = R * G.I * K_1.T * C.I
    names, at = {G: K_1.T * C.I * K_1}, gradient.subs(D, closed).subs(Lam, R * G.I)
    return {
        "stationarity": _result(at, sp.ZeroMatrix(d, d_m), names, symmetric=(C, G)),
        "constraint": _result(closed * K_1, R, names, symmetric=(C, G)),
    }


def alphaedit_proof() -> dict[str, Result]:
    """AlphaEdit's closed form makes the gradient (within the space of P) zero, and stays in that space.

    Objective ``|D P K_1 - R|² + |D P K_p|² + ρ|D P|²``; ``Δ = D P = R K_1ᵀP M`` with ``M = (B P + ρ I)⁻¹``
    and ``B = K_p K_pᵀ + K_1 K_1ᵀ``. Given: P is symmetric with P P = P. By hand: ``P M P = P M`` and
    ``M B P = I - ρ M``, both from the definition of M (the first since ``P (B P + ρ I) = (P B + ρ I) P``).
    """
    M, B = sp.MatrixSymbol("M", d_m, d_m), sp.MatrixSymbol("B", d_m, d_m)
    miss = D * P * K_1 - R
    gradient = _gradient(
        sp.Trace(miss * miss.T) + sp.Trace(D * P * B * P.T * D.T) - sp.Trace(D * P * K_1 * K_1.T * P.T * D.T), D
    ) + rho * sp.Trace(D * P * P.T * D.T).diff(D)
    closed = R * K_1.T * P * M
    given = {P * P: P, P * M * P: P * M, M * B * P: sp.Identity(d_m) - rho * M}
    at = gradient.subs(D, closed)
    note = "P M P = P M and M B P = I - ρ M from M's definition"
    where = (equation(B, K_p * K_p.T + K_1 * K_1.T), equation(M, (B * P + rho * sp.Identity(d_m)).I))

    def proved(left: MatrixExpr, right: MatrixExpr) -> Result:
        proof = _result(left, right, None, given, (P, B), note)
        return Result(proof.equation, where, proof.difference, (equation(P * P, P), equation(P.T, P)), note)

    return {"stationarity": proved(at, sp.ZeroMatrix(d, d_m)), "inside": proved(closed * P, closed)}


def alphaedit_residual() -> dict[str, Result]:
    """AlphaEdit with one edit writes ``g/(ρ + g)`` of δ, with ``g = kᵀP k``, and leaves ``ρ/(ρ + g)``; symbolic sizes.

    ``closed form``: ``kᵀP (k kᵀP + ρ I)⁻¹ = kᵀP/(ρ + g)``, proved by multiplying out; ``left``:
    ``v - Ŵ k = ρ/(ρ + g) δ``.
    """
    names, given = {gain: k.T * P * k}, {P * P: P}
    left = v - W * k
    update = left * k.T * P / (rho + gain)
    inverse = _result(k.T * P / (rho + gain) * (k * k.T * P + rho * sp.Identity(d_m)), k.T * P, names, given, (P,))
    shown = equation(k.T * P * (k * k.T * P + rho * sp.Identity(d_m)).I, k.T * P / (rho + gain))
    return {
        "closed form": Result(shown, inverse.where, inverse.difference, inverse.assumes, "multiplying by the inverse"),
        "left": _result(v - (W + update) * k, rho / (rho + gain) * left, names, given, (P,)),
    }


def soft_recursion() -> dict[str, Result]:
    """The soft recursion is MEMIT with history, one step, in symbolic sizes.

    With ``S = (C + K_p K_pᵀ)⁻¹`` (here ``S⁻¹`` stands for the moment) and ``s = kᵀS k``. ``direction``:
    ``(S⁻¹ + k kᵀ)⁻¹k = S k/(1 + s)``. ``state``: ``(S⁻¹ + k kᵀ)⁻¹ = S - S k kᵀS/(1 + s)``, so the next S is the
    inverse of the moment with k added. ``damped``: ``S' k = S k/(1 + s)``, so later edits disturb this one by that
    factor less, but not by nothing. By induction on the edits, every step is MEMIT's with ``K_p`` = all earlier keys.
    """
    s = sp.Symbol("s", positive=True)
    names, note = {s: k.T * S * k}, "multiplying by the inverse"
    direction = _result((S.I + k * k.T) * S * k / (1 + s), k, names, None, (S,))
    following = S - S * k * k.T * S / (1 + s)
    state = _result((S.I + k * k.T) * following, sp.Identity(d_m), names, None, (S,))
    moment = (S.I + k * k.T).I
    return {
        "damped": _result(following * k, S * k / (1 + s), names, None, (S,)),
        "direction": Result(equation(moment * k, S * k / (1 + s)), direction.where, direction.difference, (), note),
        "state": Result(equation(moment, following), state.where, state.difference, (), note),
    }


def hard_recursion() -> dict[str, Result]:
    """The hard recursion keeps every earlier edit and uses up one dimension a step, in symbolic sizes.

    ``S' = S - S k kᵀS/s`` with ``s = kᵀS k > 0``. ``written``: the new edit is exact.
    ``forgotten direction``: ``S' k = 0``. ``earlier``: a key with ``S k_p = 0`` keeps ``S' k_p = 0``;
    ``kept``: and the update does not touch it. ``idempotent``: from ``S C S = S`` follows ``S' C S' = S'``,
    so ``S C`` is a projector. ``room``: ``tr(S' C) = tr(S C) - 1``. From ``S = C⁻¹``, with trace d_m, the
    trace after n edits is d_m - n: room for exactly d_m edits, whatever the p's. By induction.
    """
    s, earlier = sp.Symbol("s", positive=True), key("p")
    names, nothing = {s: k.T * S * k}, sp.ZeroMatrix(d_m, 1)
    following = S - S * k * k.T * S / s
    update = (v - W * k) * (S * k).T / s
    gone, projector = {S * earlier: nothing}, {S * C * S: S}
    lost = reduce_matrix(k.T * S * C * S * k / s, {**projector, k.T * S * k: s}, (C, S))
    shown = equation(sp.Trace(following * C), sp.Trace(S * C) - 1)
    return {
        "written": _result((W + update) * k, v, names, None, (S,)),
        "forgotten direction": _result(following * k, nothing, names, None, (S,)),
        "earlier": _result(following * earlier, nothing, names, gone, (S,)),
        "kept": _result(update * earlier, sp.ZeroMatrix(d, 1), names, gone, (S,)),
        "idempotent": _result(following * C * following, following, names, projector, (C, S)),
        "room": Result(
            shown,
            (equation(s, k.T * S * k),),
            reduce_matrix(lost - sp.Identity(1)),
            (equation(S * C * S, S),),
            "tr(S k kᵀS C) = kᵀS C S k: the trace is cyclic",
        ),
    }


def interference_left() -> dict[str, Result]:
    """What one more edit of each rule does to another key ``k_j``, in symbolic sizes (chapter 06).

    ``rome`` (EMMET for one edit): ``p δ``. ``memit``, weight w: ``w h/(1 + w h) p δ``. ``rls-soft``:
    ``kᵀS k_j/(1 + s) δ``; ``rls-hard``: ``kᵀS k_j/s δ``, and 0 for an earlier edit's key (:func:`hard_recursion`).
    ``alphaedit``: ``kᵀP k_j/(ρ + g) δ``; ``alphaedit, preserved``: 0 where ``P k_j = 0``. Always δ times a number that
    is known from the keys alone.
    """
    k_j, named, left = key("j"), sp.Symbol("p", real=True), v - W * k
    s, q = sp.Symbol("s", positive=True), sp.Symbol("q", real=True)
    plain = {h: k.T * C.I * k, h * named: k.T * C.I * k_j}
    recursion = {s: k.T * S * k, q: k.T * S * k_j}
    projected, given = {gain: k.T * P * k, q: k.T * P * k_j}, {P * P: P}
    rome, memit = left * k.T * C.I / h, weight / (1 + weight * h) * left * k.T * C.I
    alphaedit = left * k.T * P / (rho + gain)
    nothing = {P * k_j: sp.ZeroMatrix(d_m, 1)}
    return {
        "rome": _result(rome * k_j, named * left, plain),
        "memit": _result(memit * k_j, weight * h / (1 + weight * h) * named * left, plain),
        "rls-soft": _result(left * (S * k).T / (1 + s) * k_j, q / (1 + s) * left, recursion, None, (S,)),
        "rls-hard": _result(left * (S * k).T / s * k_j, q / s * left, recursion, None, (S,)),
        "alphaedit": _result(alphaedit * k_j, q / (rho + gain) * left, projected, given, (P,)),
        "alphaedit, preserved": _result(alphaedit * k_j, sp.ZeroMatrix(d, 1), {gain: k.T * P * k}, nothing, (P,)),
    }


def memit_limit() -> Result:
    """MEMIT with weight w differs from EMMET by a term in 1/w, in symbolic sizes: as ``w → ∞`` it becomes EMMET.

    With ``G = K_1ᵀC⁻¹K_1`` and ``H = (I/w + G)⁻¹``: ``G⁻¹ - H = (1/w) G⁻¹H``; and H stays bounded (by G⁻¹).
    For one key see :func:`weight_limit`. Multiplied by G in the proof, where ``G H = I - H/w`` by H's
    definition.
    """
    G, H = sp.MatrixSymbol("G", n, n), sp.MatrixSymbol("H", n, n)
    given = {G * H: sp.Identity(n) - H / weight}
    difference = reduce_matrix(G * (G.I - H - G.I * H / weight), given, (G, H))
    where = (equation(G, K_1.T * C.I * K_1), equation(H, (sp.Identity(n) / weight + G).I))
    return Result(equation(G.I - H, G.I * H / weight), where, difference, by_hand="multiplying by G")


def one_edit() -> dict[str, Result]:
    """For one edit ROME, EMMET and the hard recursion (from ``S = C⁻¹``) are one rule, in symbolic sizes."""
    names = {h: k.T * C.I * k}
    rome = (v - W * k) * k.T * C.I / h
    emmet = (v - W * k) * (sp.Identity(1) / h) * k.T * C.I
    hard = ((v - W * k) * (S * k).T / h).subs(S, C.I)
    return {"emmet": _result(emmet, rome, names), "rls-hard": _result(hard, rome, names)}


def orthogonal_keys(edits: int) -> dict[str, Result]:
    """With keys orthogonal in whitened space the equality rules coincide, for n = 1 … 4 edits (chapter 06).

    Given ``k_iᵀC⁻¹k_j = 0`` for i ≠ j. ``rome``: the sequence amounts to
    ``D = Σ (v_i - W_0 k_i) kᵢᵀC⁻¹/h_i``: no δ depends on the edits before. ``emmet``: that D meets every
    constraint at once (and has EMMET's form ``Λ KᵀC⁻¹``, so it is EMMET's). ``rls-hard``: the last key meets
    an S that still acts on it as ``C⁻¹``.
    """
    _size("edits", edits)
    indices = range(1, edits + 1)
    names = {leverage(a): key(a).T * C.I * key(a) for a in indices}
    given = {key(a).T * C.I * key(b): 0 for a in indices for b in indices if a < b}
    products = {**{product: name for name, product in names.items()}, **given}
    memory, state = W_0, C.I
    for a in indices:
        memory = reduce_matrix(memory + (value(a) - memory * key(a)) * key(a).T * C.I / leverage(a), products)
        before, state = state, reduce_matrix(state - state * key(a) * key(a).T * state / leverage(a), products)
    parts = [(value(a) - W_0 * key(a)) * key(a).T * C.I / leverage(a) for a in indices]
    total = sp.MatAdd(*parts) if len(parts) > 1 else parts[0]
    last = key(edits)
    out = {
        "rome": _result(memory - W_0, total, names, given),
        "rls-hard": _result(before * last, C.I * last, names, given),
    }
    for a in indices:
        out[f"emmet {a}"] = _result(total * key(a), value(a) - W_0 * key(a), names, given)
    return out


def every_result() -> dict[str, Callable[[], Result]]:
    """Every proof in symbolic sizes by name, for tests and for a table in the book."""
    out: dict[str, Callable[[], Result]] = {
        "normal equation": lambda: normal_equation().result,
        "loss is distance": loss_is_distance,
        "Sherman-Morrison": sherman_morrison,
        "weighted fit": weighted_fit,
        "conservation law": conservation_law,
        "mean leverage": mean_leverage,
        "Welch": lambda: welch_proof()[0],
        "MEMIT": memit_proof,
        "push-through": push_through,
        "MEMIT to EMMET": memit_limit,
    }
    groups: dict[str, Callable[[], dict[str, Result]]] = {
        "single edit": single_edit_proof,
        "whitening": whitening_products,
        "lossless": lossless,
        "EMMET": emmet_proof,
        "AlphaEdit": alphaedit_proof,
        "AlphaEdit, one edit": alphaedit_residual,
        "soft recursion": soft_recursion,
        "hard recursion": hard_recursion,
        "interference left": interference_left,
        "one edit": one_edit,
        "orthogonal keys, n = 3": lambda: orthogonal_keys(3),
    }
    for edits in range(1, 5):
        out[f"unrolled, n = {edits}"] = lambda edits=edits: unrolled(edits).result
        out[f"interference on original, n = {edits}"] = lambda edits=edits: interference_original(edits)
        for which in range(1, edits + 1):
            name = f"interference on edit {which}, n = {edits}"
            out[name] = lambda edits=edits, which=which: interference_edited(edits, which)
    for group, prove in groups.items():
        for name in prove():
            out[f"{group}: {name}"] = lambda prove=prove, name=name: prove()[name]
    return out
