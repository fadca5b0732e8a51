"""The symbolic results: SymPy's reductions hold, the reducer is sound, and exact numbers and the rules agree."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy.polys.rings import sring

from superposition.errors import UserError
from superposition.linear import rules
from superposition.theory import algebra as al

RESULTS = al.every_result()
SIZES = {
    al.d: sp.Integer(2),
    al.d_m: sp.Integer(3),
    al.N: sp.Integer(5),
    al.n: sp.Integer(2),
    al.K_p.cols: sp.Integer(1),
}


class Numbers:
    """Exact random matrices for every symbol of the algebra, consistent with what the results assume."""

    def __init__(self, seed, orthogonal=False):
        self.rng = np.random.default_rng(seed)
        v = self.values = dict(SIZES)
        v[al.K] = self.random(3, 5)
        v[al.C] = v[al.K] * v[al.K].T
        v[al.V] = self.random(2, 5)
        v[al.W] = v[al.V] * v[al.K].T * v[al.C].inv()
        for symbol, shape in {al.W_hat: (2, 3), al.W_0: (2, 3), al.k: (3, 1), al.v: (2, 1)}.items():
            v[symbol] = self.random(*shape)
        for symbol, shape in {al.K_1: (3, 2), al.R: (2, 2), al.K_p: (3, 1), al.multiplier: (2, 1)}.items():
            v[symbol] = self.random(*shape)
        v |= {al.weight: sp.Rational(7, 3), al.rho: sp.Rational(2, 5)}
        for index in (1, 2, 3, 4, "i", "j", "p"):
            v[al.key(index)] = self.random(3, 1)
        if orthogonal:
            for b in (2, 3):
                for a in range(1, b):
                    x, y = v[al.key(a)], v[al.key(b)]
                    inverse = v[al.C].inv()
                    v[al.key(b)] = y - x * (x.T * inverse * y)[0, 0] / (x.T * inverse * x)[0, 0]
        basis = self.random(3, 2)
        v[al.P] = basis * (basis.T * basis).inv() * basis.T
        v[al.W_0] = self.random(2, 3)
        memory = v[al.W_0]
        for index in range(1, 5):
            v[al.value(index)] = self.random(2, 1)
            v[al.delta(index)] = v[al.value(index)] - memory * v[al.key(index)]
            memory = memory + al.rome_update(memory, v[al.key(index)], v[al.value(index)], v[al.C])
            v[sp.MatrixSymbol(f"W_{index}", al.d, al.d_m)] = memory
            inverse = v[al.C].inv()
            lam = v[al.delta(index)] / (v[al.key(index)].T * inverse * v[al.key(index)])[0, 0]
            v[sp.MatrixSymbol(f"Lambda_{index}", al.d, 1)] = lam
        free = self.random(2, 3)
        miss = v[al.v] - v[al.W] * v[al.k] - free * v[al.k]
        v[al.D] = free + miss * v[al.k].T / (v[al.k].T * v[al.k])[0, 0]
        v[sp.MatrixSymbol("u_i", al.d_m, 1)] = self.random(3, 1)
        v[sp.MatrixSymbol("u_j", al.d_m, 1)] = self.random(3, 1)
        v[al.S] = v[al.C].inv()

    def random(self, rows, columns):
        return sp.ImmutableMatrix(rows, columns, lambda a, b: sp.Integer(int(self.rng.integers(-5, 6)))).applyfunc(
            lambda x: x if x else sp.Rational(1, 2)
        )

    def learn(self, equations):
        for known in equations:
            if isinstance(known.lhs, sp.Mul) and not isinstance(known.lhs, sp.MatMul):
                factors = [f for f in known.lhs.args if f not in self.values]
                rest = al.evaluate(known.lhs / factors[0], self.values)
                self.values[factors[0]] = al.evaluate(known.rhs, self.values)[0, 0] / rest
            elif isinstance(known.lhs, sp.Symbol | sp.MatrixSymbol):
                number = al.evaluate(known.rhs, self.values)
                self.values[known.lhs] = number[0, 0] if isinstance(known.lhs, sp.Symbol) else number


def numbers_for(name, seed):
    numbers = Numbers(seed, orthogonal=name.startswith("orthogonal"))
    v = numbers.values
    if name.startswith(("hard", "interference left: rls")):
        v[al.S] = al.rls_update(v[al.W], v[al.S], v[al.key("p")], v[al.v], hard=True)[1]
    if name == "whitening: any root":
        v[al.A] = sp.ImmutableMatrix([[2, 0, 0], [1, 3, 0], [-1, 1, 1]])
    if name == "lossless: orthogonal":
        inverse = v[al.C].inv()
        x, y = v[al.k], v[al.key("j")]
        v[al.key("j")] = y - x * (x.T * inverse * y)[0, 0] / (x.T * inverse * x)[0, 0]
    if name == "interference left: alphaedit, preserved":
        v[al.key("j")] = (sp.eye(3) - v[al.P]) * v[al.key("j")]
    if name == "Welch":
        unit = [(3, 4, 0), (0, -4, 3), (5, 0, 12), (2, 2, 1), (-12, 5, 0)]
        columns = [sp.Matrix(u) / sp.sqrt(sum(x * x for x in u)) for u in unit]
        v[sp.MatrixSymbol("U", al.d_m, al.N)] = sp.Matrix.hstack(*columns)
    return numbers


# --- the proofs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RESULTS)
def test_sympy_reduces_the_difference_to_zero(name):
    result = RESULTS[name]()
    assert result.holds, result.difference


@pytest.mark.parametrize("name", [name for name in RESULTS if name != "conservation law"])
def test_the_equation_holds_in_exact_numbers(name):
    """The equation as shown, evaluated on its own at random exact matrices: independent of the reducer."""
    result, nonzero = RESULTS[name](), False
    for seed in range(2):
        numbers = numbers_for(name, seed)
        numbers.learn(result.assumes)
        numbers.learn(result.where)
        for known in result.assumes:
            left, right = al.evaluate(known, numbers.values)
            zero = right == 0 or right == sp.zeros(*getattr(left, "shape", (1, 1)))
            assert left == right or (zero and not any(left)), f"the numbers do not satisfy {known}"
        left, right = al.evaluate(result.equation, numbers.values)
        assert left == right or left - right == sp.zeros(*left.shape)
        nonzero |= left != 0 and (not hasattr(left, "shape") or any(left))
    zero = isinstance(result.equation.rhs, sp.ZeroMatrix) or "orthogonal" == name
    last = name.startswith("interference on edit") and name.split()[3].strip(",") == name[-1]
    assert nonzero or zero or last


def test_false_statements_do_not_hold():
    found = al.single_edit() - al.W / 2
    assert not al._result(found * al.k, al.v, {al.h: al.k.T * al.C.I * al.k}).holds
    assert not al._result(al.C * al.W.T, al.W.T).holds
    assert not al._result(al.W * al.C, al.W * al.C * 2).holds
    assert not al._result(al.S * al.C, al.C * al.S, symmetric=(al.C, al.S)).holds


@st.composite
def expressions(draw):
    """Random sums and products of square symbols, with transposes and inverses."""
    X, Y = sp.MatrixSymbol("X", al.d_m, al.d_m), sp.MatrixSymbol("Y", al.d_m, al.d_m)

    def build(depth):
        kind = draw(st.sampled_from(["leaf"] if depth == 0 else ["leaf", "add", "mul", "mul", "transpose", "scale"]))
        if kind == "leaf":
            leaf = draw(st.sampled_from([X, Y, al.C, sp.Identity(al.d_m)]))
            return leaf.I if draw(st.booleans()) else leaf
        if kind == "add":
            return build(depth - 1) + build(depth - 1)
        if kind == "mul":
            return build(depth - 1) * build(depth - 1)
        if kind == "scale":
            return draw(st.sampled_from([al.h, sp.Rational(-2, 3), 1 / al.h])) * build(depth - 1)
        return sp.Transpose(build(depth - 1))

    return build(draw(st.integers(1, 4)))


@settings(max_examples=60, deadline=None)
@given(expressions())
def test_the_reducer_changes_no_value(expr):
    """Reduction, with C symmetric, X Y named C and its transposed product too, keeps the value of any expression."""
    X, Y = sp.MatrixSymbol("X", al.d_m, al.d_m), sp.MatrixSymbol("Y", al.d_m, al.d_m)
    x, c = sp.ImmutableMatrix([[1, 2, 0], [0, 1, -1], [1, 0, 3]]), sp.ImmutableMatrix([[2, 1, 0], [1, 3, 1], [0, 1, 2]])
    values = {**SIZES, X: x, Y: x.inv() * c, al.C: c, al.h: sp.Rational(3, 7)}
    reduced = al.reduce_matrix(expr, {X * Y: al.C})
    assert al.evaluate(expr, values) == al.evaluate(reduced, values)
    assert isinstance(al.reduce_matrix(expr - reduced, {X * Y: al.C}), sp.ZeroMatrix)


# --- 01, 02: explicit sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), list(itertools.product(range(1, 5), repeat=2)))
def test_solving_the_lagrangian_gives_the_closed_form(rows, columns):
    edit = al.lagrangian_single_edit(rows, columns)
    assert len(edit.stationarity) == rows * columns and len(edit.constraint) == rows
    found, multipliers = edit.solve()
    closed, expected = edit.closed_form()
    for left, right in [*zip(found, closed, strict=True), *zip(multipliers, expected, strict=True)]:
        parts = [*sp.fraction(sp.together(left)), *sp.fraction(sp.together(right))]
        top, bottom, stated_top, stated_bottom = sring(parts)[1]
        assert top * stated_bottom == stated_top * bottom


def test_the_lagrangian_is_the_one_stated():
    edit = al.lagrangian_single_edit(2, 3)
    values = {s: sp.Integer(at % 7 - 3) for at, s in enumerate(sorted(edit.lagrangian.free_symbols, key=str))}
    W, W_hat, k, v, C, lam = (
        np.array(m.subs(values), float) for m in (edit.W, edit.W_hat, edit.k, edit.v, edit.C, edit.multipliers)
    )
    expected = 0.5 * np.trace((W_hat - W) @ C @ (W_hat - W).T) - lam[:, 0] @ (W_hat @ k - v)[:, 0]
    assert abs(float(edit.lagrangian.subs(values)) - expected) < 1e-12


def test_the_solved_edit_is_the_rule():
    edit = al.lagrangian_single_edit(2, 3)
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
    K, V, W = al.matrix("k", columns, pairs), al.matrix("y", rows, pairs), al.matrix("w", rows, columns)
    loss = sum(x**2 for x in W * K - V)
    (solution,) = sp.linsolve([loss.diff(w) for w in W], list(W))
    for left, right in zip(solution, al.memory_matrix(K, V), strict=True):
        assert sp.cancel(sp.together(left - right)) == 0


def test_the_symbolic_gradients_are_the_entrywise_ones():
    numbers = Numbers(3).values
    gradient = al.normal_equation().gradient
    W, K, V = al.matrix("w", 2, 3), numbers[al.K], numbers[al.V]
    loss = sum(x**2 for x in W * K - V)
    entrywise = sp.ImmutableMatrix(2, 3, lambda a, b: loss.diff(W[a, b]))
    assert sp.expand(al.evaluate(gradient, {**numbers, al.W: W}) - entrywise) == sp.zeros(2, 3)
    _, gradient = al.lagrangian_symbolic()
    edit = al.lagrangian_single_edit(2, 3)
    explicit = sp.ImmutableMatrix(2, 3, [e.lhs for e in edit.stationarity])
    named = {al.W: edit.W, al.W_hat: edit.W_hat, al.k: edit.k, al.C: edit.C, al.multiplier: edit.multipliers}
    assert sp.expand(al.evaluate(gradient, {**SIZES, **named}) - explicit) == sp.zeros(2, 3)


# --- 03 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edits", [1, 2, 3, 4])
def test_unrolled_in_numbers(edits):
    numbers = Numbers(edits)
    memory = al.unrolled(edits)
    numbers.learn(memory.result.where)
    assert len(memory.steps) == edits + 1 and len(memory.residuals) == edits
    expected = numbers.values[sp.MatrixSymbol(f"W_{edits}", al.d, al.d_m)]
    for form in (memory.steps[-1], memory.total, memory.equation.rhs):
        assert al.evaluate(form, numbers.values) == expected
    for index, form in enumerate(memory.residuals, 1):
        assert al.evaluate(form, numbers.values) == numbers.values[al.delta(index)]
    for index, solved in enumerate(al.residual_recursion(edits), 1):
        for b in range(1, edits + 1):
            start = numbers.values[al.value(b)] - numbers.values[al.W_0] * numbers.values[al.key(b)]
            numbers.values[sp.MatrixSymbol(f"varepsilon_{b}", al.d, 1)] = start
        assert al.evaluate(solved.rhs, numbers.values) == numbers.values[al.delta(index)]


def test_interference_has_the_terms_of_the_paper():
    result = al.interference_original(4)
    assert result.equation.rhs == sp.MatAdd(*(al.p(a, "j") * al.delta(a) for a in range(1, 5))).doit()
    assert al.interference_edited(4, 2).equation.rhs == al.p(3, 2) * al.delta(3) + al.p(4, 2) * al.delta(4)
    assert isinstance(al.interference_edited(4, 4).equation.rhs, sp.ZeroMatrix)
    T = al.interference_matrix(4)
    assert T.is_lower and all(T[a, a] == 0 for a in range(4)) and T[2, 0] == al.p(3, 1)
    numbers = Numbers(5)
    deltas = sp.Matrix.hstack(*(numbers.values[al.delta(a)] for a in range(1, 5)))
    for which in range(1, 5):
        result = al.interference_edited(4, which)
        numbers.learn(result.where)
        left, _ = al.evaluate(result.equation, numbers.values)
        column = T[:, which - 1].subs({s: x for s, x in numbers.values.items() if isinstance(s, sp.Symbol)})
        assert deltas * column == left


def test_induction_for_every_n():
    statements = al.induction()
    assert set(statements) == {"unrolled", "original", "edited"}
    assert all(statement.holds for statement in statements.values())
    assert statements["edited"].claim.rhs.limits[0][1:] == (al.j + 1, al.n)
    assert not al.Induction(sp.true, sp.Integer(0), al.h).holds and not al.Induction(sp.true, al.h, sp.Integer(0)).holds
    total = sp.Sum(al.i**2, (al.i, 1, al.n + 1))
    assert sp.simplify((al._peel(total) - total).doit()) == 0


# --- 04 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_p_is_a_projection_coefficient(size):
    assert al.projection_identity(size).holds


def test_superposition_by_the_definition():
    numbers = Numbers(1).values
    k_i, k_j, C = numbers[al.key("i")], numbers[al.key("j")], numbers[al.C]
    expected = (k_i.T * C.inv() * k_j)[0, 0] / (k_i.T * C.inv() * k_i)[0, 0]
    assert al.superposition(k_i, k_j, C) == expected
    symbolic = al.superposition(al.key("i"), al.key("j"), al.C)
    assert al.evaluate(symbolic, numbers)[0, 0] == expected
    L = sp.Matrix(C).cholesky()
    u_i, u_j = L.inv() * k_i, L.inv() * k_j
    cosine = (u_i.T * u_j)[0, 0] / (u_i.norm() * u_j.norm())
    lengths = {"u_i": u_i.norm(), "u_j": u_j.norm(), "theta": sp.acos(cosine)}
    p_ij, p_ji = al.superposition(k_i, k_j, C), al.superposition(k_j, k_i, C)
    real = {al.p("i", "j"): p_ij, al.p("j", "i"): p_ji}
    for name, relation in al.asymmetry().items():
        sides = [
            side.subs(real).subs({s: lengths[s.name] for s in side.free_symbols if s.name in lengths})
            for side in relation.args
        ]
        assert abs(sp.N(sides[0] - sides[1])) < 1e-10, name


def test_interference_can_cancel_though_keys_overlap():
    example = al.cancellation_example()
    assert example["change"] == sp.zeros(1, 1)
    assert all(x != 0 for x in example["p"])
    W = np.zeros((1, 2))
    for at in range(2):
        k, v = np.array(example["keys"][:, at], float)[:, 0], np.array(example["values"][:, at], float)[:, 0]
        W = W + rules.rome(W, k, v, np.eye(2))
    np.testing.assert_allclose(W, np.array(example["W_2"], float))
    assert abs(W @ np.array(example["k_j"], float)).max() < 1e-15


# --- 05 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 4), (2, 2), (2, 3), (2, 4), (3, 3)])
def test_conservation_law_entry_by_entry(rows, columns):
    left, right = al.conservation_law_explicit(rows, columns, columns - 1)
    assert sp.cancel(left - right) == 0 if rows < 3 else sp.simplify(sp.numer(sp.together(left - right)).expand()) == 0


def test_conservation_law_in_numbers():
    numbers = Numbers(2).values
    K, C = numbers[al.K], numbers[al.C]
    total = Fraction(0)
    for e in range(5):
        own = K[:, e]
        squares = sum(al.superposition(own, K[:, b], C) ** 2 for b in range(5))
        leverage = (own.T * C.inv() * own)[0, 0]
        assert squares == 1 / leverage
        total += Fraction(leverage.p, leverage.q)
    assert total == 3
    left, right = al.conservation_law_explicit(3, 5, 2)
    named = dict(zip(al.matrix("k", 3, 5), K, strict=True))
    assert left.subs(named) == right.subs(named) == 1 / (K[:, 2].T * C.inv() * K[:, 2])[0, 0]
    assert al.conservation_law().equation.rhs == 1 / sp.Symbol("h_e", positive=True)
    assert al.mean_square_superposition().subs({al.N: 5, al.d_m: 3}).rhs == sp.Rational(1, 3)


@pytest.mark.parametrize("count", range(1, 7))
def test_interference_is_forced(count):
    assert al.harmonic_identity(count).holds
    bound = al.forced_interference().rhs
    assert sp.simplify(bound - (al.N / al.d_m - 1)) == 0
    rng = np.random.default_rng(count)
    K = rng.normal(size=(3, 3 + count))
    h = np.einsum("ae,ae->e", K, np.linalg.solve(K @ K.T, K))
    P = K.T @ np.linalg.solve(K @ K.T, K) / h[:, None]
    others = (P**2).sum(1) - 1
    assert others.mean() >= float(bound.subs({al.N: 3 + count, al.d_m: 3})) - 1e-12


def test_welch_bound_is_met_by_the_simplex_and_kept_by_random_keys():
    bound = sp.lambdify((al.N, al.d_m), al.welch_bound().rhs)
    corner = np.eye(4) - 0.25
    simplex = corner / np.linalg.norm(corner, axis=0)
    G = simplex.T @ simplex
    np.testing.assert_allclose(np.abs(G[~np.eye(4, dtype=bool)]), bound(4, 3))
    for seed in range(20):
        U = np.random.default_rng(seed).normal(size=(3, 7))
        G = (U / np.linalg.norm(U, axis=0)).T @ (U / np.linalg.norm(U, axis=0))
        assert np.abs(G - np.eye(7)).max() >= bound(7, 3)
    square = al.welch_proof()[1]
    assert sp.simplify(square.lhs - square.rhs) == 0
    assert sp.simplify(square.rhs - al.welch_bound().rhs ** 2) == 0


def test_null_deviation():
    rng = np.random.default_rng(0)
    U = rng.normal(size=(64, 800))
    P = U.T @ U / (U**2).sum(0)[:, None]
    spread = P[~np.eye(800, dtype=bool)].std()
    assert abs(spread - float(al.null_deviation().rhs.subs(al.d_m, 64))) < 0.03 / 8


# --- 06 -------------------------------------------------------------------------------------------------------


def to_float(*matrices):
    return [np.array(m, float) for m in matrices]


@pytest.mark.parametrize("seed", range(3))
def test_closed_forms_are_the_rules(seed):
    v = Numbers(seed).values
    W, K, V, C, K_p, P = (v[s] for s in (al.W, al.K_1, al.R, al.C, al.K_p, al.P))
    w, x, y, c, past, projector = to_float(W, K, V, C, K_p, P)
    first = K[:, 0], V[:, 0]
    S = C.inv()
    pairs = [
        (al.rome_update(W, *first, C), rules.rome(w, x[:, 0], y[:, 0], c)),
        (al.memit_update(W, K, V, C), rules.memit(w, x, y, c)),
        (al.memit_update(W, K, V, C, K_p, sp.Integer(1)), rules.memit(w, x, y, c, past)),
        (al.memit_update(W, K, V, C, None, sp.Rational(7, 2)), rules.memit(w, x, y, c, weight=3.5)),
        (al.emmet_update(W, K, V, C), rules.emmet(w, x, y, c)),
        (al.alphaedit_update(W, K, V, P, K_p, sp.Rational(1, 3)), rules.alphaedit(w, x, y, projector, past, 1 / 3)),
    ]
    for hard in (False, True):
        exact = al.rls_update(W, S, *first, hard)
        numeric = rules.rls_step(w, np.array(S, float), x[:, 0], y[:, 0], hard)
        pairs += list(zip(exact, numeric, strict=True))
    for exact, numeric in pairs:
        np.testing.assert_allclose(np.array(exact, float), numeric, rtol=0, atol=1e-9 * max(1, np.abs(numeric).max()))


def test_each_closed_form_answers_its_question():
    """Feasible, and no feasible step away makes the stated objective smaller, in exact numbers."""
    v = Numbers(4).values
    v[al.V] = v[al.R] + v[al.W] * v[al.K_1]
    K, C, P, past, rho, weight = (v[s] for s in (al.K_1, al.C, al.P, al.K_p, al.rho, al.weight))
    S = C.inv()
    for column in range(past.cols):
        S = al.rls_update(v[al.W], S, past[:, column], v[al.v], True)[1]
    W_hard, S_hard = v[al.W], S
    for column in range(2):
        step, S_hard = al.rls_update(W_hard, S_hard, K[:, column], v[al.V][:, column], True)
        W_hard = W_hard + step
    memory, values = v[al.W], v[al.V]
    closed = {
        "rome": al.rome_update(memory, v[al.k], v[al.v], C),
        "emmet": al.emmet_update(memory, K, values, C),
        "rls-hard": W_hard - memory,
        "memit": al.memit_update(memory, K, values, C / weight),
        "rls-soft": al.memit_update(memory, K, values, C, past),
        "alphaedit": al.alphaedit_update(memory, K, values, P, past, rho),
    }
    fixed = {"rome": v[al.k], "emmet": K, "rls-hard": sp.Matrix.hstack(K, past)}
    rng = np.random.default_rng(0)
    assert set(closed) == set(al.family())
    for rule, (objective, constraints) in al.family().items():

        def cost(change, objective=objective):
            return sum(
                al.evaluate(f, v) * al.evaluate(t, {**v, al.D: change})
                for f, t in (term.as_independent(sp.Trace) for term in sp.Add.make_args(objective))
            )

        best = closed[rule]
        for constraint in constraints:
            left, right = al.evaluate(constraint, {**v, al.D: best})
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
    assert al.weight_limit().rhs == 1 / al.h
    v = Numbers(6).values
    W, K, V, C = v[al.W], v[al.K_1], v[al.R], v[al.C]
    growing = al.memit_update(W, K, V, C, None, al.weight)
    limit = growing.applyfunc(lambda entry: sp.limit(sp.cancel(entry), al.weight, sp.oo))
    assert limit == al.emmet_update(W, K, V, C)
    single = al.memit_update(W, K[:, :1], V[:, :1], C, None, al.weight)
    limit = single.applyfunc(lambda entry: sp.limit(sp.cancel(entry), al.weight, sp.oo))
    assert limit == al.rome_update(W, K[:, 0], V[:, 0], C)


def test_explicit_two_by_two_family_in_symbols():
    """Entry by entry with every symbol free: for one edit ROME = EMMET = hard RLS, and soft RLS = MEMIT, d_m = 2."""
    W, k, v, C = al.matrix("w", 1, 2), al.matrix("k", 2, 1), al.matrix("v", 1, 1), al.symmetric_matrix("c", 2)
    S = C.inv()
    rome = al.rome_update(W, k, v, C)
    assert sp.simplify(al.emmet_update(W, k, v, C) - rome) == sp.zeros(1, 2)
    assert sp.simplify(al.rls_update(W, S, k, v, True)[0] - rome) == sp.zeros(1, 2)
    soft, S_new = al.rls_update(W, S, k, v, False, al.weight)
    assert sp.simplify(soft - al.memit_update(W, k, v, C, None, al.weight)) == sp.zeros(1, 2)
    second, value = al.matrix("q", 2, 1), al.matrix("z", 1, 1)
    again = al.rls_update(W + soft.subs(al.weight, 1), S_new.subs(al.weight, 1), second, value, False)[0]
    memit = al.memit_update(W + soft.subs(al.weight, 1), second, value, C, k)
    numbers = {s: sp.Integer(at * at % 11 + 1) for at, s in enumerate(sorted((again - memit).free_symbols, key=str))}
    assert (again - memit).subs(numbers) == sp.zeros(1, 2)
    assert sp.cancel(sp.together((again - memit)[0])) == 0


def test_hard_recursion_has_room_for_d_m_edits():
    v = Numbers(7).values
    S, C, memory = v[al.C].inv(), v[al.C], v[al.W]
    for index in range(1, 4):
        assert (S * C).trace() == 3 - (index - 1)
        step, S = al.rls_update(memory, S, v[al.key(index)], v[al.value(index)], True)
        memory = memory + step
        assert S * C * S == S
        for earlier in range(1, index + 1):
            assert memory * v[al.key(earlier)] == v[al.value(earlier)]
    assert S == sp.zeros(3, 3)
    assert al.superposition(v[al.key(1)], v[al.key(2)], C) != 0


# --- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: al.lagrangian_single_edit(5, 2), "rows is 5: explicit algebra takes whole numbers from 1 to 4"),
        (lambda: al.lagrangian_single_edit(2, 0), "columns is 0"),
        (lambda: al.unrolled(5), "edits is 5"),
        (lambda: al.interference_edited(2, 3), "which is 3: explicit algebra takes whole numbers from 1 to 2"),
        (lambda: al.projection_identity(5), "size is 5"),
        (lambda: al.conservation_law_explicit(3, 2), "take at least 3 keys"),
        (lambda: al.harmonic_identity(7), "count is 7"),
        (lambda: al.evaluate(al.W, {}), "No value for W"),
    ],
)
def test_errors_say_what_to_do(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()
