"""The symbolic results: SymPy's reductions hold, the reducer is sound, and exact numbers and the rules agree."""

import functools
import itertools
import operator
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy.polys.rings import sring

from superposition import theory
from superposition.errors import UserError
from superposition.linear import rules
from superposition.theory import expressions as ex

#: The symbols of chapter 06, beside those of the library.
six = SimpleNamespace(
    K_1=sp.MatrixSymbol("K_1", ex.d_m, ex.n),
    K_p=sp.MatrixSymbol("K_p", ex.d_m, sp.Symbol("n_p", integer=True, positive=True)),
    R=sp.MatrixSymbol("R", ex.d, ex.n),
    P=sp.MatrixSymbol("P", ex.d_m, ex.d_m),
    rho=sp.Symbol("rho", positive=True),
)
SIZES = {
    ex.d: sp.Integer(2),
    ex.d_m: sp.Integer(3),
    ex.N: sp.Integer(5),
    ex.n: sp.Integer(2),
    six.K_p.cols: sp.Integer(1),
}

# --- numbers in the place of symbols ------------------------------------------------------------------------


OPERATIONS = (sp.Equality, sp.MatAdd, sp.MatMul, sp.Transpose, sp.Trace)


def evaluate(expr, values):
    """An explicit matrix or a number, exact where the values are; sizes are among them. Independent of the reducer."""
    if expr in values:
        return values[expr]
    parts = [evaluate(part, values) for part in expr.args] if isinstance(expr, OPERATIONS) else []
    if isinstance(expr, sp.Equality):
        return tuple(parts)
    if isinstance(expr, sp.MatAdd | sp.MatMul):
        return functools.reduce(operator.add if isinstance(expr, sp.MatAdd) else operator.mul, parts)
    if isinstance(expr, sp.MatPow):  # an Inverse is one, with exponent -1
        return evaluate(expr.base, values) ** int(expr.exp)
    if isinstance(expr, sp.Transpose | sp.Trace):
        return parts[0].T if isinstance(expr, sp.Transpose) else parts[0].trace()
    if isinstance(expr, sp.Identity):
        return sp.eye(int(evaluate(expr.rows, values)))
    if isinstance(expr, sp.ZeroMatrix):
        return sp.zeros(*(int(evaluate(size, values)) for size in expr.shape))
    if expr.has(sp.Trace):
        return expr.func(*(evaluate(part, values) for part in expr.args))
    assert not isinstance(expr, sp.MatrixSymbol), f"no value for {expr}"
    return sp.sympify(expr).subs({s: x for s, x in values.items() if isinstance(s, sp.Symbol)})


# --- the published closed forms, for explicit matrices ------------------------------------------------------


def memit_update(W, K, V, C, K_p=None, weight=1):
    history = 0 * C if K_p is None else K_p * K_p.T
    return (V - W * K) * K.T * (C / weight + history + K * K.T).inv()


def emmet_update(W, K, V, C):
    inverse = C.inv()
    return (V - W * K) * (K.T * inverse * K).inv() * K.T * inverse


def alphaedit_update(W, K, V, P, K_p=None, ridge=1):
    history = 0 * P if K_p is None else K_p * K_p.T * P
    return (V - W * K) * K.T * P * (history + K * K.T * P + ridge * sp.eye(P.rows)).inv()


def rls_update(W, S, k, v, hard, weight=1):
    """The change of W and the next S."""
    scale = (k.T * S * k)[0, 0] + (0 if hard else 1 / sp.sympify(weight))
    return (v - W * k) * (S * k).T / scale, S - S * k * k.T * S / scale


def questions():
    """What each rule minimises over the change D, and under which constraints (chapter 06)."""
    d, D, K_1, K_p, R, P = ex.d, ex.D, six.K_1, six.K_p, six.R, six.P
    size, miss = sp.Trace(D * ex.C * D.T), D * K_1 - R
    held, written = sp.Trace(D * K_p * K_p.T * D.T), sp.Trace(miss * miss.T)
    exact, kept = ex.equation(D * K_1, R), ex.equation(D * K_p, sp.ZeroMatrix(d, K_p.cols))
    return {
        "rome": (size, (ex.equation(D * ex.k, ex.v - ex.W * ex.k),)),
        "emmet": (size, (exact,)),
        "rls-hard": (size, (exact, kept)),
        "memit": (size / ex.weight + written, ()),
        "rls-soft": (size + written + held, ()),
        "alphaedit": (six.rho * sp.Trace(D * D.T) + written + held, (ex.equation(D * P, D),)),
    }


def superposition(k_i, k_j, C):
    """``p(k_i, k_j)`` of explicit matrices, exactly."""
    inverse = C.inv()
    return (k_i.T * inverse * k_j)[0, 0] / (k_i.T * inverse * k_i)[0, 0]


# --- every proof in symbolic sizes, by name -----------------------------------------------------------------

RESULTS = {
    "loss is distance": theory.loss_is_distance,
    "Sherman-Morrison": theory.sherman_morrison,
    "weighted fit": theory.weighted_fit,
}
GROUPS = {
    "single edit": theory.single_edit_proof,
}
for edits in range(1, 5):
    RESULTS[f"unrolled, n = {edits}"] = lambda edits=edits: theory.unrolled(edits).result
    RESULTS[f"interference on original, n = {edits}"] = lambda edits=edits: theory.interference_original(edits)
    for which in range(1, edits + 1):
        RESULTS[f"interference on edit {which}, n = {edits}"] = functools.partial(
            theory.interference_edited, edits, which
        )
for group, prove in GROUPS.items():
    RESULTS |= {f"{group}: {name}": lambda result=result: result for name, result in prove().items()}


class Numbers:
    """Exact random matrices for every symbol of the algebra, consistent with what the results assume."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        v = self.values = dict(SIZES)
        v[ex.K] = self.random(3, 5)
        v[ex.C] = v[ex.K] * v[ex.K].T
        v[ex.V] = self.random(2, 5)
        v[ex.W] = v[ex.V] * v[ex.K].T * v[ex.C].inv()
        for symbol, shape in {ex.W_hat: (2, 3), ex.W_0: (2, 3), ex.k: (3, 1), ex.v: (2, 1)}.items():
            v[symbol] = self.random(*shape)
        for symbol, shape in {six.K_1: (3, 2), six.R: (2, 2), six.K_p: (3, 1), ex.multiplier: (2, 1)}.items():
            v[symbol] = self.random(*shape)
        v |= {ex.weight: sp.Rational(7, 3), six.rho: sp.Rational(2, 5)}
        for index in (1, 2, 3, 4, "i", "j", "p"):
            v[ex.key(index)] = self.random(3, 1)
        basis = self.random(3, 2)
        v[six.P] = basis * (basis.T * basis).inv() * basis.T
        v[ex.W_0] = self.random(2, 3)
        memory = v[ex.W_0]
        for index in range(1, 5):
            v[ex.value(index)] = self.random(2, 1)
            v[ex.delta(index)] = v[ex.value(index)] - memory * v[ex.key(index)]
            memory = memory + theory.rome_update(memory, v[ex.key(index)], v[ex.value(index)], v[ex.C])
            v[sp.MatrixSymbol(f"W_{index}", ex.d, ex.d_m)] = memory
            inverse = v[ex.C].inv()
            lam = v[ex.delta(index)] / (v[ex.key(index)].T * inverse * v[ex.key(index)])[0, 0]
            v[sp.MatrixSymbol(f"Lambda_{index}", ex.d, 1)] = lam
        free = self.random(2, 3)
        miss = v[ex.v] - v[ex.W] * v[ex.k] - free * v[ex.k]
        v[ex.D] = free + miss * v[ex.k].T / (v[ex.k].T * v[ex.k])[0, 0]

    def random(self, rows, columns):
        return sp.ImmutableMatrix(rows, columns, lambda a, b: sp.Integer(int(self.rng.integers(-5, 6)))).applyfunc(
            lambda x: x if x else sp.Rational(1, 2)
        )

    def learn(self, equations):
        for known in equations:
            if isinstance(known.lhs, sp.Mul) and not isinstance(known.lhs, sp.MatMul):
                factors = [f for f in known.lhs.args if f not in self.values]
                rest = evaluate(known.lhs / factors[0], self.values)
                self.values[factors[0]] = evaluate(known.rhs, self.values)[0, 0] / rest
            elif isinstance(known.lhs, sp.Symbol | sp.MatrixSymbol):
                number = evaluate(known.rhs, self.values)
                self.values[known.lhs] = number[0, 0] if isinstance(known.lhs, sp.Symbol) else number


# --- the proofs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RESULTS)
def test_sympy_reduces_the_difference_to_zero(name):
    result = RESULTS[name]()
    assert result.holds, result.difference


@pytest.mark.parametrize("name", RESULTS)
def test_the_equation_holds_in_exact_numbers(name):
    """The equation as shown, evaluated on its own at random exact matrices: independent of the reducer."""
    result, nonzero = RESULTS[name](), False
    for seed in range(2):
        numbers = Numbers(seed)
        numbers.learn(result.assumes)
        numbers.learn(result.where)
        for known in result.assumes:
            left, right = evaluate(known, numbers.values)
            zero = right == 0 or right == sp.zeros(*getattr(left, "shape", (1, 1)))
            assert left == right or (zero and not any(left)), f"the numbers do not satisfy {known}"
        left, right = evaluate(result.equation, numbers.values)
        assert left == right or left - right == sp.zeros(*left.shape)
        nonzero |= left != 0 and (not hasattr(left, "shape") or any(left))
    zero = isinstance(result.equation.rhs, sp.ZeroMatrix)
    last = name.startswith("interference on edit") and name.split()[3].strip(",") == name[-1]
    assert nonzero or zero or last


def test_false_statements_do_not_hold():
    wrong = theory.single_edit() - ex.W / 2
    assert not ex.prove(wrong * ex.k, ex.v, {ex.h: ex.k.T * ex.C.I * ex.k}).holds
    assert not ex.prove(ex.C * ex.W.T, ex.W.T).holds
    assert not ex.prove(ex.W * ex.C, ex.W * ex.C * 2).holds
    assert not ex.prove(ex.S * ex.C, ex.C * ex.S, symmetric=(ex.C, ex.S)).holds


@st.composite
def expressions(draw):
    """Random sums and products of square symbols, with transposes and inverses."""
    X, Y = sp.MatrixSymbol("X", ex.d_m, ex.d_m), sp.MatrixSymbol("Y", ex.d_m, ex.d_m)

    def build(depth):
        kind = draw(st.sampled_from(["leaf"] if depth == 0 else ["leaf", "add", "mul", "mul", "transpose", "scale"]))
        if kind == "leaf":
            leaf = draw(st.sampled_from([X, Y, ex.C, sp.Identity(ex.d_m)]))
            return leaf.I if draw(st.booleans()) else leaf
        if kind == "add":
            return build(depth - 1) + build(depth - 1)
        if kind == "mul":
            return build(depth - 1) * build(depth - 1)
        if kind == "scale":
            return draw(st.sampled_from([ex.h, sp.Rational(-2, 3), 1 / ex.h])) * build(depth - 1)
        return sp.Transpose(build(depth - 1))

    return build(draw(st.integers(1, 4)))


@settings(max_examples=60, deadline=None)
@given(expressions())
def test_the_reducer_changes_no_value(expr):
    """Reduction, with C symmetric, X Y named C and its transposed product too, keeps the value of any expression."""
    X, Y = sp.MatrixSymbol("X", ex.d_m, ex.d_m), sp.MatrixSymbol("Y", ex.d_m, ex.d_m)
    x, c = sp.ImmutableMatrix([[1, 2, 0], [0, 1, -1], [1, 0, 3]]), sp.ImmutableMatrix([[2, 1, 0], [1, 3, 1], [0, 1, 2]])
    values = {**SIZES, X: x, Y: x.inv() * c, ex.C: c, ex.h: sp.Rational(3, 7)}
    reduced = ex.reduce_matrix(expr, {X * Y: ex.C})
    assert evaluate(expr, values) == evaluate(reduced, values)
    assert isinstance(ex.reduce_matrix(expr - reduced, {X * Y: ex.C}), sp.ZeroMatrix)


# --- 01, 02: explicit sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [*itertools.product(range(1, 4), repeat=2), (4, 1)])
def test_solving_the_lagrangian_gives_the_closed_form(rows, columns):
    edit = theory.lagrangian_single_edit(rows, columns)
    assert len(edit.stationarity) == rows * columns and len(edit.constraint) == rows
    solved, multipliers = edit.solve()
    closed, expected = edit.closed_form()
    for left, right in [*zip(solved, closed, strict=True), *zip(multipliers, expected, strict=True)]:
        parts = [*sp.fraction(sp.together(left)), *sp.fraction(sp.together(right))]
        top, bottom, stated_top, stated_bottom = sring(parts)[1]
        assert top * stated_bottom == stated_top * bottom


def test_the_lagrangian_is_the_one_stated():
    edit = theory.lagrangian_single_edit(2, 3)
    values = {s: sp.Integer(at % 7 - 3) for at, s in enumerate(sorted(edit.lagrangian.free_symbols, key=str))}
    W, W_hat, k, v, C, lam = (
        np.array(m.subs(values), float) for m in (edit.W, edit.W_hat, edit.k, edit.v, edit.C, edit.multipliers)
    )
    expected = 0.5 * np.trace((W_hat - W) @ C @ (W_hat - W).T) - lam[:, 0] @ (W_hat @ k - v)[:, 0]
    assert abs(float(edit.lagrangian.subs(values)) - expected) < 1e-12


def test_the_solved_edit_is_the_rule():
    edit = theory.lagrangian_single_edit(2, 3)
    found, multipliers = edit.solve()
    rng = np.random.default_rng(0)
    K = rng.integers(-4, 5, size=(3, 6))
    numbers = {
        edit.W: rng.normal(size=(2, 3)),
        edit.k: rng.normal(size=(3, 1)),
        edit.v: rng.normal(size=(2, 1)),
        edit.C: K @ K.T,
    }
    values = {s: x for m, a in numbers.items() for s, x in zip(m, a.ravel(), strict=True)}
    W, k, v, C = (np.asarray(a, float) for a in numbers.values())
    np.testing.assert_allclose(np.array(found.subs(values), float), W + rules.rome(W, k[:, 0], v[:, 0], C), atol=1e-12)
    np.testing.assert_allclose(np.array(multipliers.subs(values), float)[:, 0], rules.lam(W, k[:, 0], v[:, 0], C))


@pytest.mark.parametrize(("rows", "columns", "pairs"), [(1, 1, 2), (2, 2, 2), (2, 2, 3)])
def test_the_memory_solves_the_zero_gradient_entry_by_entry(rows, columns, pairs):
    K, V, W = ex.matrix("k", columns, pairs), ex.matrix("y", rows, pairs), ex.matrix("w", rows, columns)
    loss = sum(x**2 for x in W * K - V)
    (solution,) = sp.linsolve([loss.diff(w) for w in W], list(W))
    for left, right in zip(solution, theory.memory_matrix(K, V), strict=True):
        assert sp.cancel(sp.together(left - right)) == 0


def test_the_symbolic_gradients_are_the_entrywise_ones():
    numbers = Numbers(3).values
    gradient = sp.Trace((ex.W * ex.K - ex.V) * (ex.W * ex.K - ex.V).T).diff(ex.W)
    W, K, V = ex.matrix("w", 2, 3), numbers[ex.K], numbers[ex.V]
    loss = sum(x**2 for x in W * K - V)
    entrywise = sp.ImmutableMatrix(2, 3, lambda a, b: loss.diff(W[a, b]))
    assert sp.expand(evaluate(gradient, {**numbers, ex.W: W}) - entrywise) == sp.zeros(2, 3)
    _, gradient = theory.lagrangian_symbolic()
    edit = theory.lagrangian_single_edit(2, 3)
    explicit = sp.ImmutableMatrix(2, 3, [e.lhs for e in edit.stationarity])
    named = {ex.W: edit.W, ex.W_hat: edit.W_hat, ex.k: edit.k, ex.C: edit.C, ex.multiplier: edit.multipliers}
    assert sp.expand(evaluate(gradient, {**SIZES, **named}) - explicit) == sp.zeros(2, 3)


# --- 03 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edits", [1, 2, 3, 4])
def test_unrolled_in_numbers(edits):
    numbers = Numbers(edits)
    memory = theory.unrolled(edits)
    numbers.learn(memory.result.where)
    assert len(memory.steps) == edits + 1 and len(memory.residuals) == edits
    expected = numbers.values[sp.MatrixSymbol(f"W_{edits}", ex.d, ex.d_m)]
    for form in (memory.steps[-1], memory.total, memory.equation.rhs):
        assert evaluate(form, numbers.values) == expected
    for index, form in enumerate(memory.residuals, 1):
        assert evaluate(form, numbers.values) == numbers.values[ex.delta(index)]
    for index in range(1, edits + 1):
        first = numbers.values[ex.value(index)] - numbers.values[ex.W_0] * numbers.values[ex.key(index)]
        done = (numbers.values[ex.p(b, index)] * numbers.values[ex.delta(b)] for b in range(1, index))
        assert numbers.values[ex.delta(index)] == first - sum(done, sp.zeros(*first.shape))


def test_interference_has_the_terms_of_the_paper():
    result = theory.interference_original(4)
    assert result.equation.rhs == sp.MatAdd(*(ex.p(a, "j") * ex.delta(a) for a in range(1, 5))).doit()
    assert theory.interference_edited(4, 2).equation.rhs == ex.p(3, 2) * ex.delta(3) + ex.p(4, 2) * ex.delta(4)
    assert isinstance(theory.interference_edited(4, 4).equation.rhs, sp.ZeroMatrix)
    T = theory.interference_matrix(4)
    assert T.is_lower and all(T[a, a] == 0 for a in range(4)) and T[2, 0] == ex.p(3, 1)
    numbers = Numbers(5)
    deltas = sp.Matrix.hstack(*(numbers.values[ex.delta(a)] for a in range(1, 5)))
    for which in range(1, 5):
        result = theory.interference_edited(4, which)
        numbers.learn(result.where)
        left, _ = evaluate(result.equation, numbers.values)
        column = T[:, which - 1].subs({s: x for s, x in numbers.values.items() if isinstance(s, sp.Symbol)})
        assert deltas * column == left


# --- 04 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3])
def test_p_is_a_projection_coefficient(size):
    """``p = u_iᵀu_j/u_iᵀu_i`` with ``u = L⁻¹k``, for any ``C = L Lᵀ``, L lower triangular with a positive diagonal."""
    L = sp.Matrix(size, size, lambda a, b: 0 if b > a else sp.Symbol(f"l_{a}{b}", positive=a == b, real=True))
    u, w = ex.matrix("u", size, 1), ex.matrix("w", size, 1)
    left = superposition(L * u, L * w, L * L.T)
    assert sp.cancel(sp.together(left - (u.T * w)[0, 0] / (u.T * u)[0, 0])) == 0


def test_overlaps_either_way_share_the_angle_and_differ_by_lengths():
    numbers = Numbers(1).values
    k_i, k_j, C = numbers[ex.key("i")], numbers[ex.key("j")], numbers[ex.C]
    L = sp.Matrix(C).cholesky()
    u_i, u_j = L.inv() * k_i, L.inv() * k_j
    cosine = (u_i.T * u_j)[0, 0] / (u_i.norm() * u_j.norm())
    p_ij, p_ji = superposition(k_i, k_j, C), superposition(k_j, k_i, C)
    assert sp.simplify(p_ij - cosine * u_j.norm() / u_i.norm()) == 0
    assert sp.simplify(p_ij / p_ji - (u_j.norm() / u_i.norm()) ** 2) == 0
    assert sp.simplify(p_ij * p_ji - cosine**2) == 0


# --- 05 -------------------------------------------------------------------------------------------------------


def both_sides(K, which):
    """``Σ_j p(k_e, k_j)²`` over the columns of an explicit K, and ``1/h_e``."""
    C, own = K * K.T, K[:, which]
    left = sum(superposition(own, K[:, b], C) ** 2 for b in range(K.cols))
    return left, C.det() / (own.T * C.adjugate() * own)[0, 0]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 4), (2, 2), (2, 3), (3, 3)])
def test_conservation_law_entry_by_entry(rows, columns):
    left, right = both_sides(ex.matrix("k", rows, columns), columns - 1)
    assert sp.cancel(left - right) == 0 if rows < 3 else sp.simplify(sp.numer(sp.together(left - right)).expand()) == 0


def test_conservation_law_in_numbers():
    numbers = Numbers(2).values
    K, C = numbers[ex.K], numbers[ex.C]
    total = Fraction(0)
    for e in range(5):
        own = K[:, e]
        squares = sum(superposition(own, K[:, b], C) ** 2 for b in range(5))
        leverage = (own.T * C.inv() * own)[0, 0]
        assert squares == 1 / leverage
        total += Fraction(leverage.p, leverage.q)
    assert total == 3


@pytest.mark.parametrize("count", range(1, 7))
def test_interference_is_forced(count):
    """The mean of 1/h is at least one over the mean of h, ``d_m/N``: by an identity, in symbols, and in numbers."""
    own = [ex.leverage(a) for a in range(count)]
    squares = sum((x - y) ** 2 / (x * y) for x, y in itertools.combinations(own, 2))
    assert sp.cancel(sp.together(sum(own) * sum(1 / x for x in own) - count**2 - squares)) == 0
    rng = np.random.default_rng(count)
    K = rng.normal(size=(3, 3 + count))
    h = np.einsum("ae,ae->e", K, np.linalg.solve(K @ K.T, K))
    P = K.T @ np.linalg.solve(K @ K.T, K) / h[:, None]
    others = (P**2).sum(1) - 1
    assert others.mean() >= (3 + count) / 3 - 1 - 1e-12


# --- 06 -------------------------------------------------------------------------------------------------------


def to_float(*matrices):
    return [np.array(m, float) for m in matrices]


@pytest.mark.parametrize("seed", range(3))
def test_closed_forms_are_the_rules(seed):
    v = Numbers(seed).values
    W, K, V, C, K_p, P = (v[s] for s in (ex.W, six.K_1, six.R, ex.C, six.K_p, six.P))
    w, x, y, c, past, projector = to_float(W, K, V, C, K_p, P)
    first = K[:, 0], V[:, 0]
    S = C.inv()
    pairs = [
        (theory.rome_update(W, *first, C), rules.rome(w, x[:, 0], y[:, 0], c)),
        (memit_update(W, K, V, C), rules.memit(w, x, y, c)),
        (memit_update(W, K, V, C, K_p, sp.Integer(1)), rules.memit(w, x, y, c, past)),
        (memit_update(W, K, V, C, None, sp.Rational(7, 2)), rules.memit(w, x, y, c, weight=3.5)),
        (emmet_update(W, K, V, C), rules.emmet(w, x, y, c)),
        (alphaedit_update(W, K, V, P, K_p, sp.Rational(1, 3)), rules.alphaedit(w, x, y, projector, past, 1 / 3)),
    ]
    for hard in (False, True):
        exact = rls_update(W, S, *first, hard)
        numeric = rules.rls_step(w, np.array(S, float), x[:, 0], y[:, 0], hard)
        pairs += list(zip(exact, numeric, strict=True))
    for exact, numeric in pairs:
        np.testing.assert_allclose(np.array(exact, float), numeric, rtol=0, atol=1e-9 * max(1, np.abs(numeric).max()))


def test_each_closed_form_answers_its_question():
    """Feasible, and no feasible step away makes the stated objective smaller, in exact numbers."""
    v = Numbers(4).values
    v[ex.V] = v[six.R] + v[ex.W] * v[six.K_1]
    K, C, P, past, rho, weight = (v[s] for s in (six.K_1, ex.C, six.P, six.K_p, six.rho, ex.weight))
    S = C.inv()
    for column in range(past.cols):
        S = rls_update(v[ex.W], S, past[:, column], v[ex.v], True)[1]
    W_hard, S_hard = v[ex.W], S
    for column in range(2):
        step, S_hard = rls_update(W_hard, S_hard, K[:, column], v[ex.V][:, column], True)
        W_hard = W_hard + step
    memory, values = v[ex.W], v[ex.V]
    closed = {
        "rome": theory.rome_update(memory, v[ex.k], v[ex.v], C),
        "emmet": emmet_update(memory, K, values, C),
        "rls-hard": W_hard - memory,
        "memit": memit_update(memory, K, values, C / weight),
        "rls-soft": memit_update(memory, K, values, C, past),
        "alphaedit": alphaedit_update(memory, K, values, P, past, rho),
    }
    fixed = {"rome": v[ex.k], "emmet": K, "rls-hard": sp.Matrix.hstack(K, past)}
    rng = np.random.default_rng(0)
    assert set(closed) == set(questions())
    for rule, (objective, constraints) in questions().items():

        def cost(change, objective=objective):
            return sum(
                evaluate(f, v) * evaluate(t, {**v, ex.D: change})
                for f, t in (term.as_independent(sp.Trace) for term in sp.Add.make_args(objective))
            )

        best = closed[rule]
        for constraint in constraints:
            left, right = evaluate(constraint, {**v, ex.D: best})
            assert left == right or left - right == sp.zeros(*left.shape), rule
        lowest = cost(best)
        for _ in range(6):
            step = sp.Matrix(2, 3, [sp.Rational(int(x), 50) for x in rng.integers(-9, 10, size=6)])
            if rule in fixed:
                F = fixed[rule]
                basis = sp.Matrix.hstack(*sp.Matrix(F).columnspace())
                step = step * (sp.eye(3) - basis * (basis.T * basis).inv() * basis.T)
            if rule == "alphaedit":
                step = step * P
            assert cost(best + step) >= lowest, rule
            assert cost(best + step) > lowest or step == sp.zeros(2, 3)


def test_limits_of_the_weight():
    assert theory.weight_limit().rhs == 1 / ex.h
    v = Numbers(6).values
    W, K, V, C = v[ex.W], v[six.K_1], v[six.R], v[ex.C]
    growing = memit_update(W, K, V, C, None, ex.weight)
    limit = growing.applyfunc(lambda entry: sp.limit(sp.cancel(entry), ex.weight, sp.oo))
    assert limit == emmet_update(W, K, V, C)
    single = memit_update(W, K[:, :1], V[:, :1], C, None, ex.weight)
    limit = single.applyfunc(lambda entry: sp.limit(sp.cancel(entry), ex.weight, sp.oo))
    assert limit == theory.rome_update(W, K[:, 0], V[:, 0], C)


def test_explicit_two_by_two_family_in_symbols():
    """Entry by entry with every symbol free: for one edit ROME = EMMET = hard RLS, and soft RLS = MEMIT, d_m = 2."""
    W, k, v, C = ex.matrix("w", 1, 2), ex.matrix("k", 2, 1), ex.matrix("v", 1, 1), ex.symmetric_matrix("c", 2)
    S = C.inv()
    rome = theory.rome_update(W, k, v, C)
    assert sp.simplify(emmet_update(W, k, v, C) - rome) == sp.zeros(1, 2)
    assert sp.simplify(rls_update(W, S, k, v, True)[0] - rome) == sp.zeros(1, 2)
    soft, S_new = rls_update(W, S, k, v, False, ex.weight)
    assert sp.simplify(soft - memit_update(W, k, v, C, None, ex.weight)) == sp.zeros(1, 2)
    second, value = ex.matrix("q", 2, 1), ex.matrix("z", 1, 1)
    again = rls_update(W + soft.subs(ex.weight, 1), S_new.subs(ex.weight, 1), second, value, False)[0]
    memit = memit_update(W + soft.subs(ex.weight, 1), second, value, C, k)
    numbers = {s: sp.Integer(at * at % 11 + 1) for at, s in enumerate(sorted((again - memit).free_symbols, key=str))}
    assert (again - memit).subs(numbers) == sp.zeros(1, 2)
    assert sp.cancel(sp.together((again - memit)[0])) == 0


def test_hard_recursion_has_room_for_d_m_edits():
    v = Numbers(7).values
    S, C, memory = v[ex.C].inv(), v[ex.C], v[ex.W]
    for index in range(1, 4):
        assert (S * C).trace() == 3 - (index - 1)
        step, S = rls_update(memory, S, v[ex.key(index)], v[ex.value(index)], True)
        memory = memory + step
        assert S * C * S == S
        for earlier in range(1, index + 1):
            assert memory * v[ex.key(earlier)] == v[ex.value(earlier)]
    assert S == sp.zeros(3, 3)
    assert superposition(v[ex.key(1)], v[ex.key(2)], C) != 0


# --- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: theory.lagrangian_single_edit(5, 2), "rows is 5: explicit algebra takes whole numbers from 1 to 4"),
        (lambda: theory.lagrangian_single_edit(2, 0), "columns is 0"),
        (lambda: theory.unrolled(5), "edits is 5"),
        (lambda: theory.interference_edited(2, 3), "which is 3: explicit algebra takes whole numbers from 1 to 2"),
    ],
)
def test_errors_say_what_to_do(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()
