"""What chapters 01 to 03 state, held against loops, generic solvers and exact fractions.

`tests/test_equations.py` maps every labelled result to the test here (or elsewhere) that would fail if it were wrong.
Problems are drawn over shapes, ranks and scales by hypothesis.
"""

import itertools
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import sympy as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import forms
from superposition import theory
from superposition.linear import rules
from superposition.linear.memory import LinearMemory
from superposition.linear.overlap import superposition_matrix
from superposition.theory import expressions as ex

BOOK = Path(__file__).parents[1] / "book"
seeds = st.integers(0, 2**32 - 1)


class Problem:
    """A memory, the keys it stores, and facts to be written; any size, rank and scale."""

    def __init__(self, seed: int, d: int, d_m: int, extra: int, scale: float, facts: int = 1) -> None:
        rng = self.rng = np.random.default_rng(seed)
        self.K = scale * rng.normal(size=(d_m, d_m)) @ rng.normal(size=(d_m, d_m + extra))
        self.C = self.K @ self.K.T
        self.sound = np.linalg.cond(self.C) < 1e7
        self.W = rng.normal(size=(d, d_m))
        self.keys, self.values = scale * rng.normal(size=(d_m, facts)), rng.normal(size=(d, facts))
        self.k, self.v = self.keys[:, 0], self.values[:, 0]
        self.r = self.v - self.W @ self.k

    def damage(self, D: np.ndarray) -> float:
        """Summed over the stored keys, one by one."""
        return sum(float(np.sum((D @ self.K[:, j]) ** 2)) for j in range(self.K.shape[1]))

    def solve(self) -> tuple[np.ndarray, np.ndarray]:
        """``(Ŵ - W, Λ)`` from stationarity and constraint as one linear system, nothing eliminated by hand."""
        d, d_m = self.W.shape
        system = np.zeros((d * d_m + d, d * d_m + d))
        right = np.zeros(d * d_m + d)
        for a in range(d):
            row = slice(a * d_m, (a + 1) * d_m)
            system[row, row], system[row, d * d_m + a] = self.C, -self.k
            system[d * d_m + a, row], right[d * d_m + a] = self.k, self.r[a]
        x = np.linalg.solve(system, right)
        return x[: d * d_m].reshape(d, d_m), x[d * d_m :]


@st.composite
def problems(draw, facts=1):
    shape = draw(st.integers(1, 4)), draw(st.integers(2, 7)), draw(st.integers(0, 12))
    scale = draw(st.sampled_from([1e-3, 1.0, 1e3]))
    q = Problem(draw(seeds), *shape, scale, draw(st.integers(1, facts)))
    assume(q.sound)
    return q


def close(a, b, rtol=1e-7):
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    assert np.linalg.norm(a - b) <= rtol * max(np.linalg.norm(a), np.linalg.norm(b), 1e-300), (a, b)


def shown(chapter: str, name: str) -> str:
    """The LaTeX that a chapter shows under a glued name."""
    notebook = forms.load(next(BOOK.glob(f"{chapter}-*.ipynb")))
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("metadata", {}).get("scrapbook", {}).get("name") == name:
                (latex,) = (text for kind, text in output.data.items() if kind.endswith("text/latex"))
                return latex.strip("$").removeprefix(r"\displaystyle ")
    raise AssertionError(f"{name} is not shown in chapter {chapter}")


TERMS = " + ".join(rf"\Lambda_{{{i}}} k_{{{i}}}^{{\top}} C^{{-1}}" for i in (1, 2, 3))
ROW = r"\left[\begin{matrix}- c_{12} k_{2} + c_{22} k_{1} & c_{11} k_{2} - c_{12} k_{1}\end{matrix}\right]"
RESIDUALS = (
    r"\delta_{1} &= \varepsilon_{1} \\ \delta_{2} &= \varepsilon_{2} - p_{12} \varepsilon_{1} \\ \delta_{3} &= "
    r"\varepsilon_{3} + \left(- p_{13} + p_{12} p_{23}\right) \varepsilon_{1} - p_{23} \varepsilon_{2}"
)
TRIANGLE = r"0 & 0 & 0 & 0\\p_{21} & 0 & 0 & 0\\p_{31} & p_{32} & 0 & 0\\p_{41} & p_{42} & p_{43} & 0"


@pytest.mark.parametrize(
    ("chapter", "name", "ends_in"),
    [
        ("01", "gradient", r"= 2 \left(W K - V\right) K^{\top}"),
        ("02", "explicit", r"D = \frac{r}{c_{11} k_{2}^{2} - 2 c_{12} k_{1} k_{2} + c_{22} k_{1}^{2}} " + ROW),
        ("02", "gradient", r"\hat{W} C - \Lambda k_{e}^{\top} - W C = 0"),
        ("02", "sherman", r"^{-1} = C^{-1} - \frac{w}{1 + h_e w} C^{-1} k_{e} k_{e}^{\top} C^{-1}"),
        ("02", "soft", r"\hat{W} = W + \frac{w}{1 + h_e w} \left(v_{e} - W k_{e}\right) k_{e}^{\top} C^{-1}"),
        ("03", "three", f"W_{{3}} = W_{{0}} + {TERMS}"),
        ("03", "residuals", rf"\begin{{aligned}} {RESIDUALS} \end{{aligned}}"),
        ("03", "triangle", rf"\left[\begin{{matrix}}{TRIANGLE}\end{{matrix}}\right]"),
        ("03", "start", r"\left(1 - \frac{t - 1}{2 d_{m}}\right) + \dots"),
    ],
)
def test_the_equation_is_the_one_shown(chapter, name, ends_in):
    assert shown(chapter, name).endswith(ends_in)


# --- 01 the memory ------------------------------------------------------------------------------------------


class Pairs:
    """N random pairs; the keys of one scale, and of full row rank where N ≥ d_m."""

    def __init__(self, seed: int, d: int, d_m: int, N: int, scale: float = 1.0) -> None:
        rng = self.rng = np.random.default_rng(seed)
        self.K, self.V = scale * rng.normal(size=(d_m, N)), rng.normal(size=(d, N))
        self.C = self.K @ self.K.T
        assume(np.linalg.cond(self.K) < 1e3)
        self.W = np.linalg.lstsq(self.K.T, self.V.T, rcond=None)[0].T

    def loss(self, W: np.ndarray) -> float:
        return sum(float(np.sum((W @ k - v) ** 2)) for k, v in zip(self.K.T, self.V.T, strict=True))


@st.composite
def pairs(draw):
    d_m = draw(st.integers(1, 7))
    scale = draw(st.sampled_from([1e-2, 1.0, 1e2]))
    return Pairs(draw(seeds), draw(st.integers(1, 4)), d_m, d_m + draw(st.integers(0, 12)), scale)


@settings(max_examples=30, deadline=None)
@given(pairs())
def test_crosstalk_is_the_sum_over_the_other_facts(q):
    for i, k in enumerate(q.K.T):
        others = sum((q.V[:, j] * (q.K[:, j] @ k) for j in range(q.K.shape[1]) if j != i), np.zeros(len(q.V)))
        close(q.V @ q.K.T @ k, q.V[:, i] * (k @ k) + others)


@pytest.mark.parametrize("d_m, N", [(5, 2), (8, 30), (30, 31)])
def test_noise_of_the_outer_product_memory(d_m, N):
    rng = np.random.default_rng(d_m)
    K, V = rng.normal(size=(4000, d_m, N)), rng.normal(size=(4000, 3, N))
    K /= np.linalg.norm(K, axis=1, keepdims=True)
    error = V @ (K.swapaxes(1, 2) @ K[:, :, :1]) - V[:, :, :1]
    ratio = np.sum(error**2, axis=(1, 2)) / 3
    assert abs(ratio.mean() - (N - 1) / d_m) < 4 * ratio.std() / 4000**0.5


@settings(max_examples=40, deadline=None)
@given(pairs())
def test_every_other_memory_does_worse_by_its_distance(q):
    D = q.rng.normal(size=q.W.shape) * np.linalg.norm(q.W)
    excess = q.loss(q.W + D) - q.loss(q.W)
    close(excess, np.sum((D @ q.K) ** 2), 1e-6)
    assert excess > 0


@settings(max_examples=30, deadline=None)
@given(pairs())
def test_each_value_is_attached_to_the_corrected_key(q):
    close(sum(np.outer(v, np.linalg.solve(q.C, k)) for k, v in zip(q.K.T, q.V.T, strict=True)), q.W, 1e-6)


@settings(max_examples=40, deadline=None)
@given(pairs())
def test_answers_are_a_projection_of_the_values(q):
    H = q.K.T @ np.linalg.inv(q.C) @ q.K
    assert np.allclose(q.W @ q.K, q.V @ H, atol=1e-8)
    assert np.allclose(H @ H, H, atol=1e-8) and np.allclose(H, H.T, atol=1e-8)
    leverages = [k @ np.linalg.solve(q.C, k) for k in q.K.T]
    assert np.allclose(np.diag(H), leverages) and np.isclose(sum(leverages), len(q.C))


def test_the_fourth_fact_in_fractions():
    K = sp.Matrix([[1, 1, 0, 1], [1, 0, 1, 1], [0, 1, 1, 1]])
    answers = theory.memory_matrix(K, sp.eye(4)) * K
    assert 7 * answers == sp.Matrix([[6, -1, -1, 2], [-1, 6, -1, 2], [-1, -1, 6, 2], [2, 2, 2, 3]])


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 3), st.integers(1, 7), st.integers(0, 6))
def test_room_for_as_many_facts_as_dimensions(seed, d, d_m, drop):
    N = max(1, d_m - drop)
    q = Pairs(seed, d, d_m, N)
    assert np.allclose(q.V @ np.linalg.inv(q.K.T @ q.K) @ q.K.T @ q.K, q.V)
    K = np.column_stack([q.K, q.K @ q.rng.normal(size=N)])  # one key more, dependent on the others
    V = q.rng.normal(size=(d, N + 1))
    best = np.linalg.lstsq(K.T, V.T, rcond=None)[0].T
    assert np.linalg.norm(best @ K - V) > 1e-6


@settings(max_examples=20, deadline=None)
@given(pairs())
def test_random_values_miss_the_share_outside_the_projection(q):
    N, d_m = q.K.shape[1], len(q.C)
    H = q.K.T @ np.linalg.inv(q.C) @ q.K
    assert np.isclose(np.trace(np.eye(N) - H) / N, 1 - d_m / N)
    missed = []
    for unit in np.eye(N)[:, None]:
        q.V = unit
        missed.append(q.loss(np.linalg.lstsq(q.K.T, unit.T, rcond=None)[0].T))
    assert np.isclose(np.mean(missed), 1 - d_m / N)  # E|W K - V|²/E|V|² for white values is the mean over a basis


def test_a_product_is_a_sum_over_hidden_units():
    rng = np.random.default_rng(0)
    W, k = rng.normal(size=(3, 5)), rng.normal(size=5)
    close(sum(k[a] * W[:, a] for a in range(5)), W @ k)


# --- 02 the single edit -------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(problems())
def test_damage_needs_only_the_second_moment(q):
    D = q.rng.normal(size=q.W.shape)
    close(np.trace(D @ q.C @ D.T), q.damage(D))


@settings(max_examples=40, deadline=None)
@given(problems())
def test_stored_values_add_a_constant_for_the_least_squares_memory(q):
    V = q.rng.normal(size=(q.W.shape[0], q.K.shape[1]))
    W = np.linalg.lstsq(q.K.T, V.T, rcond=None)[0].T
    D = q.rng.normal(size=q.W.shape) * np.linalg.norm(W)
    with_values = np.sum(((W + D) @ q.K - V) ** 2) - np.sum((W @ q.K - V) ** 2)
    close(with_values, q.damage(D), 1e-6)


def test_stored_values_do_not_add_a_constant_for_another_memory():
    K, V, W, D = np.eye(2), np.array([[1.0, 2.0]]), np.zeros((1, 2)), np.array([[1.0, 0.0]])
    assert np.sum(((W + D) @ K - V) ** 2) - np.sum((W @ K - V) ** 2) != np.sum((D @ K) ** 2)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_every_other_exact_change_does_more(q):
    """Existence, exactness, uniqueness: Pythagoras, with a detour drawn at random and thrown off the key."""
    D = rules.rome(q.W, q.k, q.v, q.C)
    detour = q.rng.normal(size=q.W.shape) * np.linalg.norm(D)
    detour -= np.outer(detour @ q.k, q.k) / (q.k @ q.k)
    assert np.allclose((D + detour) @ q.k, q.r)
    close(q.damage(D + detour), q.damage(D) + q.damage(detour), 1e-6)
    assert q.damage(D + detour) > q.damage(D)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_writing_along_the_key_costs_a_known_factor(q):
    least = q.damage(rules.rome(q.W, q.k, q.v, q.C))
    along = q.damage(np.outer(q.r, q.k) / (q.k @ q.k))
    factor = (q.k @ q.C @ q.k) * (q.k @ np.linalg.inv(q.C) @ q.k) / (q.k @ q.k) ** 2
    close(along / least, factor, 1e-6)
    assert factor >= 1 - 1e-9


@settings(max_examples=30, deadline=None)
@given(problems())
def test_writing_along_the_key_is_best_only_for_eigenvectors(q):
    values, vectors = np.linalg.eigh(q.C)
    q.k = vectors[:, -1]
    q.r = q.v - q.W @ q.k
    close(q.damage(np.outer(q.r, q.k)), q.damage(rules.rome(q.W, q.k, q.v, q.C)), 1e-6)
    assume(values[-1] > 1.5 * values[0])
    q.k = vectors[:, -1] + vectors[:, 0]
    q.r = q.v - q.W @ q.k
    assert q.damage(np.outer(q.r, q.k) / 2) > 1.001 * q.damage(rules.rome(q.W, q.k, q.v, q.C))


@settings(max_examples=40, deadline=None)
@given(problems())
def test_in_whitened_space_the_edit_is_a_write_along_the_key(q):
    root = scipy.linalg.sqrtm(q.C).real
    whitened = np.linalg.solve(root, q.k)
    nearest = np.linalg.lstsq(whitened[None, :], q.r[None, :], rcond=None)[0].T  # least norm, by a generic solver
    close(np.outer(q.r, whitened) / (whitened @ whitened), nearest)
    close(nearest @ np.linalg.inv(root), q.solve()[0], 1e-5)
    close(whitened @ whitened, q.k @ np.linalg.solve(q.C, q.k), 1e-5)


@settings(max_examples=40, deadline=None)
@given(problems(), st.floats(1e-2, 1e2))
def test_sherman_morrison_and_the_weighted_refit(q, weight):
    weight /= q.k @ np.linalg.solve(q.C, q.k)  # so that neither term is lost
    h, inverse = q.k @ np.linalg.inv(q.C) @ q.k, np.linalg.inv(q.C)
    stated = inverse - weight / (1 + weight * h) * np.outer(inverse @ q.k, q.k @ inverse)
    close(stated, np.linalg.inv(q.C + weight * np.outer(q.k, q.k)), 1e-5)
    keys = np.column_stack([q.K, np.sqrt(weight) * q.k])
    answers = np.column_stack([q.W @ q.K, np.sqrt(weight) * q.v])
    refit = np.linalg.lstsq(keys.T, answers.T, rcond=None)[0].T
    close(weight / (1 + weight * h) * np.outer(q.r, q.k @ inverse), refit - q.W, 1e-5)
    close(refit - q.W, weight * h / (1 + weight * h) * rules.rome(q.W, q.k, q.v, q.C), 1e-5)


def test_matrix_expressions_are_printed_in_reading_order():
    W, k, v, C = ex.W, ex.k, ex.v, ex.C
    assert theory.tex(v - W * k) == r"v_{e} - W k_{e}"
    assert theory.tex(W + (v - W * k) * k.T * C.I / ex.h) == (
        r"W + \frac{1}{h_e} \left(v_{e} - W k_{e}\right) k_{e}^{\top} C^{-1}"
    )
    assert theory.tex(ex.multiplier * (C.I * k).T) == r"\Lambda k_{e}^{\top} C^{-1}"
    assert theory.tex((C + k * k.T).I) == r"\left(C + k_{e} k_{e}^{\top}\right)^{-1}"


# --- 03 a lifetime of edits ---------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(problems(facts=6))
def test_one_triangular_solve_replaces_the_recursion(q):
    """Residuals, the whole change and what the edits suffer, from P and the first residuals alone."""
    memory, P, n = LinearMemory(q.W, q.C), superposition_matrix(q.keys, q.C), q.keys.shape[1]
    memory.edit_batch(q.keys, q.values, rule="rome")
    epsilon, above, directions = q.values - q.W @ q.keys, np.triu(P, 1), np.linalg.solve(q.C, q.keys)
    directions /= (q.keys * directions).sum(0)
    size = float(np.abs(memory.residuals).max() * max(1, np.abs(P).max()) * n)
    near = {"rtol": 0, "atol": 1e-6 * size}
    np.testing.assert_allclose(memory.residuals @ (np.eye(n) + above), epsilon, **near)
    change = epsilon @ np.linalg.inv(np.eye(n) + above) @ directions.T
    np.testing.assert_allclose(change, memory.W - q.W, rtol=0, atol=1e-6 * size * np.abs(directions).max())
    forecast, suffered = epsilon @ np.linalg.inv(np.triu(P)) @ np.tril(P, -1), memory.W @ q.keys - q.values
    np.testing.assert_allclose(memory.residuals @ np.tril(P, -1), suffered, **near)
    np.testing.assert_allclose(forecast, suffered, rtol=0, atol=1e-5 * size * max(1, np.abs(P).max()))
    np.testing.assert_allclose(suffered[:, -1], 0, **near)


@pytest.mark.parametrize("d_m, later", [(2, 4), (3, 3), (4, 2)])
def test_answers_fade_exactly(d_m, later):
    """Every sequence of later edits from a distribution without a preferred direction, averaged without sampling.

    Whitened directions: the d_m axes of a rotated frame; values: plus or minus one vector; keys of any length.
    """
    rng = np.random.default_rng(d_m)
    K = rng.normal(size=(d_m, 3 * d_m))
    C, turn = K @ K.T, np.linalg.qr(rng.normal(size=(d_m, d_m)))[0]
    root = scipy.linalg.sqrtm(C).real
    W_0, k, v, w = rng.normal(size=(2, d_m)), rng.normal(size=d_m), rng.normal(size=2), rng.normal(size=2)
    old, answers, original = rng.normal(size=d_m), [], []
    outcomes = [
        (length * root @ axis, sign * w)
        for axis, length in zip(turn.T, (1, 2, 3, 4)[:d_m], strict=True)
        for sign in (1, -1)
    ]
    for path in itertools.product(outcomes, repeat=later):
        W = W_0 + rules.rome(W_0, k, v, C)
        written = W
        for key, value in path:
            W = W + rules.rome(W, key, value, C)
        answers.append(W @ k)
        original.append(W @ old)
    close(np.mean(answers, axis=0), (1 - 1 / d_m) ** later * v)
    close(np.mean(original, axis=0), (1 - 1 / d_m) ** later * written @ old)


@pytest.mark.parametrize("d_m", [2, 32, 1536, 16384])
def test_half_life(d_m):
    t = np.log(2) / -np.log(1 - 1 / d_m)
    assert np.isclose((1 - 1 / d_m) ** t, 0.5)
    assert d_m < 32 or abs(t / d_m - 0.69) < 0.02


def on_the_sphere(rng, *shape):
    x = rng.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_mean_squares_of_one_more_edit():
    """a' and b' from an a and b that differ, by sampling."""
    rng, d_m, sigma, samples = np.random.default_rng(7), 5, 1.3, 200_000
    W, u = rng.normal(size=(3, d_m)), np.eye(d_m)[0]
    W[:, 0] *= 2
    a, b = np.sum((W @ u) ** 2), np.sum(W**2) / d_m
    x, v = on_the_sphere(rng, samples, d_m), rng.normal(size=(samples, 3)) * sigma / np.sqrt(3)
    written = v - x @ W.T  # (samples, d)
    squares = np.sum((W @ u + written * (x @ u)[:, None]) ** 2, axis=1)
    fresh = on_the_sphere(rng, samples, d_m)
    others = np.sum((fresh @ W.T + written * np.sum(x * fresh, axis=1)[:, None]) ** 2, axis=1)
    stated = (1 - 2 / d_m + 2 / (d_m * (d_m + 2))) * a + b / (d_m + 2) + sigma**2 / d_m
    assert abs(a - b) > 0.5  # or the two could be mistaken for each other
    assert abs(squares.mean() - stated) < 4 * squares.std() / samples**0.5 < 0.05
    stated = (1 - 1 / d_m) * b + sigma**2 / d_m
    assert abs(others.mean() - stated) < 4 * others.std() / samples**0.5 < 0.03


@pytest.mark.parametrize("d_m, n", [(4, 12), (16, 30)])
def test_staircase_of_interference(d_m, n):
    rng, sigma, sequences, d = np.random.default_rng(n), 0.7, 4000, 2
    keys, values = on_the_sphere(rng, n, sequences, d_m), rng.normal(size=(n, sequences, d)) * sigma / np.sqrt(d)
    W_0 = rng.normal(size=(sequences, d, d_m)) * sigma / np.sqrt(d)
    W, old = W_0.copy(), on_the_sphere(rng, sequences, d_m)
    for i in range(n):
        for sequence in range(sequences):
            k = keys[i, sequence]
            W[sequence] += np.outer(values[i, sequence] - W[sequence] @ k, k)
    damage = np.sum((np.einsum("lam,jlm->jla", W, keys) - values) ** 2, axis=2)  # (edit, sequence)
    on_original = np.sum(np.einsum("lam,lm->la", W - W_0, old) ** 2, axis=1)
    expected = 2 * sigma**2 * (1 - (1 - 1 / d_m) ** np.arange(n)[::-1])
    error = damage.std(axis=1) / sequences**0.5
    assert np.all(np.abs(damage.mean(axis=1) - expected) < 4.5 * error + 1e-12)
    assert np.all(error < 0.05 * sigma**2) and np.all(np.diff(expected) < 0) and expected[-1] == 0
    stated = 2 * sigma**2 * (1 - (1 - 1 / d_m) ** n)
    assert abs(on_original.mean() - stated) < 4.5 * on_original.std() / sequences**0.5


@pytest.mark.parametrize("t", [1, 2, 7])
def test_beginning_of_the_staircase(t):
    gaps = []
    for d_m in (1000.0, 2000.0):
        stated = 2 * t / d_m * (1 - (t - 1) / (2 * d_m))
        gaps.append(abs(2 * (1 - (1 - 1 / d_m) ** t) - stated))
    assert gaps[0] <= t**3 / 1000.0**3 and gaps[1] <= gaps[0] / 7 + 1e-14
