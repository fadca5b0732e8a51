"""Exercises that check themselves: each function takes the reader's function and tries it on random problems.

``check_NN_name(function)`` draws shapes and inputs from a seeded generator, compares with an oracle that solves
the problem another way, and returns a short sentence if all is well. Where it is not, it raises an
``AssertionError`` that says what is wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

ROUNDS = 30


class _Problem:
    """A random memory with skewed keys, and n facts to be written into it."""

    def __init__(self, rng: np.random.Generator, facts: int = 1, widest: int = 9) -> None:
        self.d, self.d_m = int(rng.integers(1, 6)), int(rng.integers(max(2, facts), widest))
        self.N = self.d_m + int(rng.integers(1, 20))
        stretch = np.exp(rng.normal(size=self.d_m))[:, None]
        self.K = rng.normal(size=(self.d_m, self.d_m)) @ (stretch * rng.normal(size=(self.d_m, self.N)))
        self.C = self.K @ self.K.T
        self.W = rng.normal(size=(self.d, self.d_m))
        self.K_e = rng.normal(size=(self.d_m, facts))
        self.V_e = rng.normal(size=(self.d, facts))

    def __str__(self) -> str:
        return f"d = {self.d}, d_m = {self.d_m}, N = {self.N}"

    def solve(self) -> Float[np.ndarray, "d d_m"]:
        """The memory after the edit, from the stationarity and the constraints solved as one linear system."""
        n = self.K_e.shape[1]
        system = np.block([[self.C, self.K_e], [self.K_e.T, np.zeros((n, n))]])
        right = np.vstack([np.zeros((self.d_m, self.d)), (self.V_e - self.W @ self.K_e).T])
        return self.W + np.linalg.solve(system, right)[: self.d_m].T

    def damage(self, W_hat: np.ndarray) -> float:
        return float(np.linalg.norm((W_hat - self.W) @ self.K) ** 2)


def _problems(chapter: int, facts: Callable[[np.random.Generator], int] = lambda rng: 1) -> Iterator[_Problem]:
    rng = np.random.default_rng(chapter)
    for _ in range(ROUNDS):
        yield _Problem(rng, facts(rng))


def _array(answer: Any, shape: tuple[int, ...], name: str, where: Any) -> np.ndarray:
    assert answer is not None, f"The function returned None: end it with `return {name}`."
    answer = np.asarray(answer)
    assert answer.shape == shape, f"{name} has shape {answer.shape} where {shape} is needed ({where})."
    assert np.isfinite(answer).all(), f"{name} holds NaN or infinity ({where})."
    return answer


def _untouched(before: dict[str, np.ndarray], now: dict[str, np.ndarray]) -> None:
    for name, array in before.items():
        assert np.array_equal(array, now[name]), f"The function changed its argument {name} in place: work on a copy."


def _far(a: np.ndarray, b: np.ndarray, tolerance: float = 1e-6) -> bool:
    return bool(np.linalg.norm(a - b) > tolerance * (1 + np.linalg.norm(b)))


def _check_write(function: Callable[..., Any], problem: _Problem, single: bool) -> None:
    key, value = ("k_e", "v_e") if single else ("K_e", "V_e")
    arguments = {"W": problem.W.copy(), "C": problem.C.copy()}
    arguments[key] = problem.K_e[:, 0].copy() if single else problem.K_e.copy()
    arguments[value] = problem.V_e[:, 0].copy() if single else problem.V_e.copy()
    before = {name: array.copy() for name, array in arguments.items()}
    W_hat = _array(function(*arguments.values()), problem.W.shape, "W_hat", problem)
    _untouched(before, arguments)
    oracle = problem.solve()
    assert _far(W_hat, problem.W) or not _far(oracle, problem.W), f"Nothing was written: W came back ({problem})."
    assert not _far(W_hat @ problem.K_e, problem.V_e), (
        f"W_hat {key} misses {value} by {np.linalg.norm(W_hat @ problem.K_e - problem.V_e):.1e} ({problem}): "
        "the constraint is not met."
    )
    excess = problem.damage(W_hat) / problem.damage(oracle)
    assert not _far(W_hat, oracle), (
        f"The fact is stored, but the damage is {excess:.2f} times the least possible ({problem}): "
        "is the change written along C⁻¹k rather than along k?"
    )


def check_01_memory(function: Callable[..., Any]) -> str:
    """Check ``function(K, V)``: the least-squares memory W (d, d_m) of the pairs in the columns of K and V.

    Oracle: a generic least-squares solver. Chapter ``book/01-memory.ipynb``.
    """
    for problem in _problems(1):
        V = problem.W @ problem.K + np.random.default_rng(problem.N).normal(size=(problem.d, problem.N))
        arguments = {"K": problem.K.copy(), "V": V.copy()}
        W = _array(function(*arguments.values()), problem.W.shape, "W", problem)
        _untouched({"K": problem.K, "V": V}, arguments)
        oracle = np.linalg.lstsq(problem.K.T, V.T, rcond=None)[0].T
        loss, least = np.sum((W @ problem.K - V) ** 2), np.sum((oracle @ problem.K - V) ** 2)
        assert not _far(W, oracle), (
            f"The answers miss the values by {loss / least:.2f} times the least possible ({problem}): "
            "is C⁻¹ there, and on the side of the keys?"
        )
    return f"Right: {ROUNDS} random memories, none could answer better."


def check_01_observe(function: Callable[..., Any]) -> str:
    """Check ``function(W, C, k, v) -> (W_new, C_new)``: the least-squares memory with one more pair, and its moment.

    Oracle: a generic least-squares solver on all pairs. Chapter ``book/01-memory.ipynb``.
    """
    for problem in _problems(11):
        V = problem.W @ problem.K + np.random.default_rng(problem.N).normal(size=(problem.d, problem.N))
        W = np.linalg.lstsq(problem.K.T, V.T, rcond=None)[0].T
        before = {"W": W, "C": problem.C, "k": problem.K_e[:, 0], "v": problem.V_e[:, 0]}
        arguments = {name: array.copy() for name, array in before.items()}
        answer = function(*arguments.values())
        assert isinstance(answer, tuple) and len(answer) == 2, "Return a pair: the new W and the new C."
        W_new = _array(answer[0], W.shape, "W", problem)
        C_new = _array(answer[1], problem.C.shape, "C", problem)
        _untouched(before, arguments)
        K_all, V_all = np.hstack([problem.K, problem.K_e]), np.hstack([V, problem.V_e])
        assert not _far(C_new, K_all @ K_all.T), f"C is not the second moment of all keys, old and new ({problem})."
        oracle = np.linalg.lstsq(K_all.T, V_all.T, rcond=None)[0].T
        assert _far(W_new, W) or not _far(oracle, W), f"W came back unchanged ({problem})."
        assert not _far(W_new, oracle), (
            f"W is not the best memory of all pairs ({problem}): it answers the new key with an error of "
            f"{np.linalg.norm(W_new @ before['k'] - before['v']):.2f}, and "
            f"{np.linalg.norm(oracle @ before['k'] - before['v']):.2f} is right."
        )
    return f"Right: {ROUNDS} memories took one more fact each, as if they had seen all facts at once."


def check_02_edit(function: Callable[..., Any]) -> str:
    """``function(W, C, k_e, v_e) -> W_hat``: the least change in the metric of C that stores one fact.

    Oracle: stationarity and constraint, solved as one linear system. Chapter ``book/02-single-edit.ipynb``.

    Raises
    ------
    AssertionError
        Says what is wrong: a shape, an argument changed, a constraint missed, more damage than needed.
    """
    for problem in _problems(2):
        _check_write(function, problem, single=True)
    return f"Right: {ROUNDS} random edits, each exact and with the least damage."


def check_02_batch(function: Callable[..., Any]) -> str:
    """``function(W, C, K_e, V_e) -> W_hat``: the least change that stores n facts at once, 1 ≤ n ≤ 3.

    Oracle and errors as :func:`check_02_edit`. Chapter ``book/02-single-edit.ipynb``.
    """
    for problem in _problems(22, lambda rng: int(rng.integers(1, 4))):
        _check_write(function, problem, single=False)
    return f"Right: {ROUNDS} random batches, every fact exact and the damage least."


def _one_at_a_time(problem: _Problem) -> tuple[np.ndarray, np.ndarray]:
    """``(W_n, Δ_e)`` of the problem's edits made one after the other, each from its own linear system."""
    W = problem.W
    for j in range(problem.K_e.shape[1]):
        step = object.__new__(_Problem)
        step.__dict__.update(problem.__dict__ | {"W": W, "K_e": problem.K_e[:, [j]], "V_e": problem.V_e[:, [j]]})
        W = step.solve()
    return W, W @ problem.K_e - problem.V_e


def check_03_lifelong(function: Callable[..., Any]) -> str:
    """Check ``function(W, C, K_e, V_e)``: the memory after all edits, made in the order of the columns.

    Oracle: one linear system after the other. Chapter ``book/03-lifelong.ipynb``.
    """
    for problem in _problems(3, lambda rng: int(rng.integers(1, 8))):
        before = {"W": problem.W, "C": problem.C, "K_e": problem.K_e, "V_e": problem.V_e}
        arguments = {name: array.copy() for name, array in before.items()}
        W_n = _array(function(*arguments.values()), problem.W.shape, "W_n", problem)
        _untouched(before, arguments)
        oracle, _ = _one_at_a_time(problem)
        n = problem.K_e.shape[1]
        assert not _far(W_n @ problem.K_e[:, -1], problem.V_e[:, -1]), (
            f"The last of {n} edits is not exact ({problem}): nothing comes after it that could have spoilt it."
        )
        assert not _far(W_n, oracle, 1e-5), (
            f"After {n} edits W_n is off by {np.linalg.norm(W_n - oracle):.1e} ({problem}): does each residual take "
            "account of the edits before it, and only of these?"
        )
    return f"Right: {ROUNDS} random lifetimes, the same memory as step by step."


def check_03_forecast(function: Callable[..., Any]) -> str:
    """Check ``function(P, epsilon)``: ``Δ_e`` (d, n) from the overlaps (n, n) and the first residuals (d, n).

    Oracle: the edits made one after the other. Chapter ``book/03-lifelong.ipynb``.
    """
    for problem in _problems(33, lambda rng: int(rng.integers(1, 8))):
        Q = problem.K_e.T @ np.linalg.solve(problem.C, problem.K_e)
        before = {"P": Q / np.diag(Q)[:, None], "epsilon": problem.V_e - problem.W @ problem.K_e}
        arguments = {name: array.copy() for name, array in before.items()}
        damage = _array(function(*arguments.values()), problem.V_e.shape, "Δ_e", problem)
        _untouched(before, arguments)
        _, oracle = _one_at_a_time(problem)
        n = problem.K_e.shape[1]
        assert not _far(damage[:, -1], 0 * damage[:, -1]), (
            f"Nothing can spoil the last of {n} edits; {np.linalg.norm(damage[:, -1]):.1e} is forecast ({problem})."
        )
        j = int(np.linalg.norm(damage - oracle, axis=0).argmax())
        assert not _far(damage, oracle, 1e-5), (
            f"Edit {j + 1} of {n} is said to suffer by {np.linalg.norm(damage[:, j]):.3f}, and it suffers by "
            f"{np.linalg.norm(oracle[:, j]):.3f} ({problem}): which triangle of P is which?"
        )
    return f"Right: the damage of {ROUNDS} random lifetimes, foreseen."


def _moment(rng: np.random.Generator, d_m: int) -> np.ndarray:
    """A random well-conditioned second moment (d_m, d_m)."""
    K = rng.normal(size=(d_m, 4 * d_m + 2)) * np.exp(rng.uniform(-1, 1, size=(d_m, 1)))
    return K @ K.T


# --- 04 -------------------------------------------------------------------------------------------------------


def check_04_whitening(function: Callable[..., Any], *, problems: int = 20, seed: int = 4) -> str:
    """Check ``function(C)``: a matrix B (d_m, d_m) with ``B C Bᵀ = I``, so that ``B k`` is a whitened key.

    Any such B is right: two of them differ by a rotation, which no inner product sees.
    """
    rng = np.random.default_rng(seed)
    for number in range(problems):
        d_m = int(rng.integers(1, 9))
        C, problem = _moment(rng, d_m), f"problem {number}, d_m = {d_m}"
        B = _array(function(C.copy()), (d_m, d_m), "B", problem)
        off = np.abs(B @ C @ B.T - np.eye(d_m)).max()
        assert off < 1e-8, f"B C Bᵀ differs from the identity by {off:.1e} ({problem})."
    return f"Right on all {problems} problems: your keys are white."


def check_04_undo(function: Callable[..., Any], *, problems: int = 20, seed: int = 44) -> str:
    """Check ``function(W, k_1, v_1, k_2, k_j, C)``: a value v_2 (d,) for which the damage at k_j cancels.

    Two edits by ROME with the same C, first (k_1, v_1), then (k_2, v_2); afterwards W k_j must be what it was.
    """
    rng = np.random.default_rng(seed)
    for number in range(problems):
        d, d_m = int(rng.integers(1, 6)), int(rng.integers(2, 9))
        W, C, problem = rng.normal(size=(d, d_m)), _moment(rng, d_m), f"problem {number}, d = {d}, d_m = {d_m}"
        k_1, k_2, k_j = rng.normal(size=(3, d_m))
        v_1 = rng.normal(size=d)
        given = [a.copy() for a in (W, k_1, v_1, k_2, k_j, C)]
        v_2 = _array(function(*given), (d,), "v_2", problem)
        after = W
        for k, v in ((k_1, v_1), (k_2, v_2)):
            m = np.linalg.solve(C, k)
            after = after + np.outer(v - after @ k, m) / (m @ k)
        size = np.abs(W @ k_j).max() + np.abs(v_1).max() + np.abs(v_2).max()
        off = np.abs(after @ k_j - W @ k_j).max()
        assert off < 1e-8 * size, f"After both edits W k_j has moved by {off:.1e}; it should be back ({problem})."
    return f"Right on all {problems} problems: two damages cancelled, with both p's different from zero."


# --- 05 -------------------------------------------------------------------------------------------------------


def check_05_leverages(function: Callable[..., Any], *, problems: int = 20, seed: int = 5) -> str:
    """Check ``function(K)``: the leverages (N,) of N stored keys (columns of K, of full row rank) by ``C = K Kᵀ``."""
    rng = np.random.default_rng(seed)
    for number in range(problems):
        d_m = int(rng.integers(1, 9))
        N = d_m + int(rng.integers(0, 20))
        K = rng.normal(size=(d_m, N)) * np.exp(rng.uniform(-1, 1, size=(d_m, 1)))
        problem = f"problem {number}, d_m = {d_m}, N = {N}"
        h = _array(function(K.copy()), (N,), "h", problem)
        assert abs(h.sum() - d_m) < 1e-6, f"The leverages sum to {h.sum():.4f}; the sum must be d_m ({problem})."
        inverse = np.linalg.inv(K @ K.T)
        wanted = np.array([k @ inverse @ k for k in K.T])
        e = int(np.abs(h - wanted).argmax())
        assert abs(h[e] - wanted[e]) < 1e-8, f"Key {e} gets {h[e]:.4f}, not {wanted[e]:.4f} ({problem})."
    return f"Right on all {problems} problems: each sum of leverages is d_m."


def check_05_simplex(function: Callable[..., Any], *, most: int = 12) -> str:
    """Check ``function(d_m)``: d_m + 1 unit vectors (columns) whose pairwise ``|cos|`` meets Welch's bound, 1/d_m."""
    for d_m in range(2, most + 1):
        U = _array(function(d_m), (d_m, d_m + 1), "U", f"d_m = {d_m}")
        G = U.T @ U
        assert np.abs(np.diag(G) - 1).max() < 1e-8, f"Not every column has length 1 (d_m = {d_m})."
        worst = np.abs(G - np.diag(np.diag(G))).max()
        off = f"The largest |cos| is {worst:.4f}, Welch's bound {1 / d_m:.4f} (d_m = {d_m})."
        assert abs(worst - 1 / d_m) < 1e-8, off
    return f"Right for d_m from 2 to {most}: no {most + 1} keys could do better."


# --- 06 -------------------------------------------------------------------------------------------------------


def check_06_family(function: Callable[..., Any], *, problems: int = 20, seed: int = 6) -> str:
    """Check ``function(A_inverse, U, R, weight)``: the change D (d, d_m) of the family, for any weight up to infinity.

    For a finite weight the least ``tr(D A Dᵀ) + w |R - D U|²``; for an infinite one the least ``tr(D A Dᵀ)`` with
    ``D U = R``. Oracle: the stationarity conditions, solved as one linear system.
    """
    rng = np.random.default_rng(seed)
    for number in range(problems):
        d, d_m = int(rng.integers(1, 5)), int(rng.integers(2, 8))
        n = int(rng.integers(1, d_m + 1))
        A, U, R = _moment(rng, d_m), rng.normal(size=(d_m, n)), rng.normal(size=(d, n))
        weight = float(np.inf if number % 3 == 0 else 10 ** rng.uniform(-1, 3))
        problem = f"problem {number}, d = {d}, d_m = {d_m}, n = {n}, weight {weight:.3g}"
        D = _array(function(np.linalg.inv(A), U.copy(), R.copy(), weight), (d, d_m), "D", problem)
        system = np.block([[A, -U], [U.T, np.eye(n) / weight]])  # D A = Λ Uᵀ and D U + Λ/w = R
        wanted = np.linalg.solve(system, np.vstack([np.zeros((d_m, d)), R.T]))[:d_m].T
        assert not _far(D, wanted), (
            f"D is off by {np.linalg.norm(D - wanted):.1e} ({problem}); it leaves |R - D U| = "
            f"{np.linalg.norm(R - D @ U):.1e}, and {np.linalg.norm(R - wanted @ U):.1e} is right."
        )
    return f"Right on all {problems} problems, soft and hard."


def check_06_gram_schmidt(function: Callable[..., Any], *, problems: int = 20, seed: int = 66) -> str:
    """Check ``function(K, C)``: the directions M (d_m, n) of the hard recursion, one a column.

    Edit i changes W by ``δ_i M_iᵀ``. Oracle: a column is the one combination of ``C⁻¹k_1 … C⁻¹k_i`` with
    ``M_iᵀk_i = 1`` and ``M_iᵀk_l = 0`` for l < i.
    """
    rng = np.random.default_rng(seed)
    for number in range(problems):
        d_m = int(rng.integers(2, 9))
        n = int(rng.integers(1, d_m + 1))
        K, C, problem = rng.normal(size=(d_m, n)), _moment(rng, d_m), f"problem {number}, d_m = {d_m}, n = {n}"
        M = _array(function(K.copy(), C.copy()), (d_m, n), "M", problem)
        for i in range(n):
            held = K[:, : i + 1]
            X = np.linalg.solve(C, held)
            wanted = X @ np.linalg.solve(held.T @ X, np.eye(i + 1)[i])
            assert abs(M[:, i] @ K[:, i] - 1) < 1e-6, (
                f"Edit {i} does not write what it should: M·k is not 1 ({problem})."
            )
            assert not (i and _far(M[:, i] @ K[:, :i], np.zeros(i))), f"Edit {i} touches an earlier one ({problem})."
            assert not _far(M[:, i], wanted), (
                f"Edit {i} holds the earlier ones, but costs more than it must ({problem})."
            )
    return f"Right on all {problems} problems: whitened, the directions are Gram and Schmidt's."


# --- 07 -------------------------------------------------------------------------------------------------------


def check_07_growth(function: Callable[..., Any], *, problems: int = 20, seed: int = 7) -> str:
    """Check ``function(P, deltas)``: the mean of ``|Σ_{i≤n} p_i δ_i|²`` as a function of n, for 1 ≤ n ≤ 3.

    Each p is one of the entries of P (a,), each δ one of the columns of ``deltas`` (d, b), all equally likely and
    independent. Oracle: every outcome, counted.
    """
    rng = np.random.default_rng(seed)
    for number in range(problems):
        a, b, d = (int(x) for x in rng.integers(1, 4, size=3))
        P, deltas = rng.normal(size=a) + rng.normal(), rng.normal(size=(d, b)) + rng.normal()
        steps = [p * column for p in P for column in deltas.T]
        for n in (1, 2, 3):
            sums = [np.sum(outcome, axis=0) for outcome in itertools.product(steps, repeat=n)]
            wanted = float(np.mean([np.sum(s**2) for s in sums]))
            answer = float(function(P.copy(), deltas.copy())(n))
            assert abs(answer - wanted) < 1e-8 * (1 + wanted), (
                f"Problem {number}: with {a} overlaps and {b} residuals, f({n}) is {wanted:.4f}, not {answer:.4f}."
            )
    return f"Right on all {problems} problems, every outcome counted."


def check_07_sweeps(function: Callable[..., Any], *, problems: int = 6, seed: int = 77) -> str:
    """Check ``function(W, K, V, C)``: the memory after ROME has written the list again and again.

    Oracle: the least change in the metric of C that stores all edits, from one linear system.
    """
    rng = np.random.default_rng(seed)
    for _ in range(problems):
        problem = _Problem(rng, int(rng.integers(1, 4)))
        given = [a.copy() for a in (problem.W, problem.K_e, problem.V_e, problem.C)]
        W = _array(function(*given), problem.W.shape, "W", problem)
        _untouched(
            dict(zip("WKVC", (problem.W, problem.K_e, problem.V_e, problem.C), strict=True)),
            dict(zip("WKVC", given, strict=True)),
        )
        missed = np.abs(W @ problem.K_e - problem.V_e).max()
        assert missed < 1e-6, f"An edit is still off by {missed:.1e}: go on sweeping ({problem})."
        assert not _far(W, problem.solve(), 1e-5), f"All edits are held, but it is not where ROME ends ({problem})."
    return f"Right on all {problems} lists: repeated, the soft-hearted rule becomes the hard one."


# --- 08 -------------------------------------------------------------------------------------------------------


def check_08_dimensionality(function: Callable[..., Any], *, problems: int = 20, seed: int = 8) -> str:
    """Check ``function(W)``: the dimensionality (n,) of each feature, a column of W (m, n). Oracle: two loops."""
    rng = np.random.default_rng(seed)
    for number in range(problems):
        m, n = int(rng.integers(1, 5)), int(rng.integers(2, 9))
        W = rng.normal(size=(m, n)) * np.exp(rng.normal(size=n))
        D = _array(function(W.copy()), (n,), "D", f"problem {number}, m = {m}, n = {n}")
        for i in range(n):
            unit = W[:, i] / np.sqrt(sum(x * x for x in W[:, i]))
            crowd = sum(float(unit @ W[:, j]) ** 2 for j in range(n))
            wanted = sum(x * x for x in W[:, i]) / crowd
            assert abs(D[i] - wanted) < 1e-8, f"D of feature {i} is {wanted:.4f}, not {D[i]:.4f} (problem {number})."
    return f"Right on all {problems} problems."


def check_08_threshold(function: Callable[..., Any], *, problems: int = 20, seed: int = 88) -> str:
    """Check ``function(r)``: the density at which an antipodal pair ties with dropping the lesser of two features.

    The features have importance 1 and r and share one dimension. Oracle: both losses, integrated numerically.
    """
    rng = np.random.default_rng(seed)
    t = (np.arange(2000) + 0.5) / 2000
    both = np.minimum.outer(t, t) ** 2
    for r in [1.0, *np.exp(rng.uniform(-2, 2, size=problems - 1))]:
        low, high = 1e-6, 1.0
        for _ in range(50):
            q = (low + high) / 2
            pair = (1 + r) * q**2 * both.mean()
            dropped = min(1, r) * (q * (t**2).mean() - (q * t.mean()) ** 2)
            low, high = (q, high) if pair < dropped else (low, q)
        answer = float(function(float(r)))
        assert abs(answer - q) < 1e-4, f"For r = {r:.3f} the losses tie at q = {q:.4f}, not {answer:.4f}."
    return f"Right for {problems} importances."


# --- 09 -------------------------------------------------------------------------------------------------------


def check_09_first_order(function: Callable[..., Any], *, problems: int = 20, seed: int = 9) -> str:
    """Check ``function(P, D, G)``: the first-order change (N,) of the log-probability of N facts after n edits.

    ``P`` (n, N) holds ``p(k_{e_i}, k_j)``, ``D`` (d, n) the residuals, ``G`` (d, N) the gradient of each fact's
    log-probability by the memory's answer. Oracle: ROME, edit by edit, on a memory that is read out linearly.
    """
    rng = np.random.default_rng(seed)
    for number in range(problems):
        d, d_m, n, N = (int(size) for size in rng.integers(2, 9, size=4))
        W, C, problem = rng.normal(size=(d, d_m)), _moment(rng, d_m), f"problem {number}, d = {d}, n = {n}, N = {N}"
        K_e, K, G = rng.normal(size=(d_m, n)), rng.normal(size=(d_m, N)), rng.normal(size=(d, N))
        after, P, D = W, np.empty((n, N)), np.empty((d, n))
        for i in range(n):
            m = np.linalg.solve(C, K_e[:, i])
            m = m / (m @ K_e[:, i])
            P[i], D[:, i] = m @ K, rng.normal(size=d) - after @ K_e[:, i]
            after = after + np.outer(D[:, i], m)
        given = {"P": P.copy(), "D": D.copy(), "G": G.copy()}
        change = _array(function(*given.values()), (N,), "change", problem)
        _untouched({"P": P, "D": D, "G": G}, given)
        wanted = np.einsum("dN,dN->N", G, after @ K - W @ K)
        assert not _far(change, wanted), (
            f"The forecast is off by {np.linalg.norm(change - wanted):.1e} ({problem}): fact j feels every edit i "
            "through P[i, j], and only the part of it along its own gradient."
        )
    return f"Right on all {problems} problems: every edit counted once, along each fact's own gradient."


def check_09_protect(function: Callable[..., Any], *, problems: int = 20, seed: int = 99) -> str:
    """Check ``function(W, C, k_e, v_e, k_j)``: the W_hat (d, d_m) that stores v_e, leaves W k_j, and damages least.

    Least means ``tr((W_hat - W) C (W_hat - W)ᵀ)``. Oracle: the stationarity conditions as one linear system.
    """
    rng = np.random.default_rng(seed)
    for number in range(problems):
        d, d_m = int(rng.integers(1, 6)), int(rng.integers(2, 9))
        W, C, problem = rng.normal(size=(d, d_m)), _moment(rng, d_m), f"problem {number}, d = {d}, d_m = {d_m}"
        k_e, k_j = rng.normal(size=(2, d_m))
        v_e = rng.normal(size=d)
        given = {"W": W.copy(), "C": C.copy(), "k_e": k_e.copy(), "v_e": v_e.copy(), "k_j": k_j.copy()}
        before = {name: array.copy() for name, array in given.items()}
        W_hat = _array(function(*given.values()), W.shape, "W_hat", problem)
        _untouched(before, given)
        held = np.stack([k_e, k_j], axis=1)
        right = np.vstack([np.zeros((d_m, d)), (v_e - W @ k_e)[None], np.zeros((1, d))])
        wanted = W + np.linalg.solve(np.block([[C, held], [held.T, np.zeros((2, 2))]]), right)[:d_m].T
        assert not _far(W_hat @ k_e, v_e), f"W_hat k_e misses v_e ({problem})."
        assert not _far(W_hat @ k_j, W @ k_j), f"W_hat k_j is not what W k_j was ({problem})."
        assert not _far(W_hat, wanted), f"Both facts are right, but another W_hat damages less ({problem})."
    return f"Right on all {problems} problems: written, and the neighbour has not felt it."


# --- 11 -------------------------------------------------------------------------------------------------------


def check_11_back(function: Callable[..., Any], *, problems: int = 20, seed: int = 11) -> str:
    """Check ``function(p, length_i, length_j)``: p(k_j, k_i) from p(k_i, k_j) and the keys' whitened lengths."""
    rng = np.random.default_rng(seed)
    for number in range(problems):
        d_m = int(rng.integers(2, 9))
        C = _moment(rng, d_m)
        k_i, k_j = rng.normal(size=(2, d_m)) * np.exp(rng.uniform(-2, 2, size=(2, 1)))
        m_i, m_j = np.linalg.solve(C, k_i), np.linalg.solve(C, k_j)
        answer = float(function(m_i @ k_j / (m_i @ k_i), np.sqrt(m_i @ k_i), np.sqrt(m_j @ k_j)))
        right = m_j @ k_i / (m_j @ k_j)
        assert abs(answer - right) < 1e-8 * (1 + abs(right)), (
            f"Problem {number} (d_m = {d_m}): p(k_j, k_i) is {right:.4f}, and the answer is {answer:.4f}."
        )
    return f"Right on all {problems} problems: the numerator is shared, the lengths are not."


# --- 17 -------------------------------------------------------------------------------------------------------


def check_17_drift(function: Callable[..., Any], *, problems: int = 20, seed: int = 17) -> str:
    """Check ``function(W, C, K_e, delta, keys)``: the drift (T, d) of one prompt, whose keys are (T, d_m).

    Edit i adds ``delta_i`` to what the memory answers to ``k_{e_i}``, by ROME. Oracle: the edits made one by one.
    """
    rng = np.random.default_rng(seed)
    for number in range(problems):
        d, d_m, n, length = (int(size) for size in rng.integers(2, 8, size=4))
        W, C, problem = rng.normal(size=(d, d_m)), _moment(rng, d_m), f"problem {number}, n = {n}, T = {length}"
        given = {"W": W, "C": C, "K_e": rng.normal(size=(d_m, n)), "delta": rng.normal(size=(d, n))}
        given |= {"keys": rng.normal(size=(length, d_m))}
        copies = {name: array.copy() for name, array in given.items()}
        answer = _array(function(*copies.values()), (length, d), "drift", problem)
        _untouched(given, copies)
        after = W
        for k, step in zip(given["K_e"].T, given["delta"].T, strict=True):
            u = np.linalg.solve(C, k)
            after = after + np.outer(step, u / (u @ k))
        wanted = given["keys"] @ (after - W).T
        assert not _far(answer, wanted), (
            f"The drift is off by {np.linalg.norm(answer - wanted):.1e} ({problem}): every position t gets "
            "p(k_{e_i}, k_t) of each residual, not only the subject's."
        )
    return f"Right on all {problems} problems: every edit arrives at every position."


def check_17_blame(function: Callable[..., Any], *, problems: int = 20, seed: int = 177) -> str:
    """Check ``function(slope, shares, delta)``: the fall (n,) that each edit brings to one prompt, to first order.

    ``slope`` (T, d) is the gradient of log p by the memory's answer at each position, ``shares`` (n, T) the
    ``p(k_{e_i}, k_t)``, ``delta`` (d, n) the residuals. Oracle: a read-out that is linear, with and without each edit.
    """
    rng = np.random.default_rng(seed)
    for number in range(problems):
        d, n, length = (int(size) for size in rng.integers(2, 8, size=3))
        given = {"slope": rng.normal(size=(length, d)), "shares": rng.normal(size=(n, length))}
        given |= {"delta": rng.normal(size=(d, n))}
        copies, problem = {name: array.copy() for name, array in given.items()}, f"problem {number}, n = {n}"
        answer = _array(function(*copies.values()), (n,), "fall", problem)
        _untouched(given, copies)
        drift = given["shares"][:, :, None] * given["delta"].T[:, None, :]  # (n, T, d)
        whole = np.sum(given["slope"] * drift.sum(0))
        without = np.array([np.sum(given["slope"] * np.delete(drift, i, axis=0).sum(0)) for i in range(n)])
        assert not _far(answer, without - whole), (
            f"The shares of the edits are off by {np.linalg.norm(answer - without + whole):.1e} ({problem}): a fall is "
            "minus the change, and every position counts."
        )
    return f"Right on all {problems} problems: each edit answers for its own part."


# --- 12 -------------------------------------------------------------------------------------------------------


def check_12_tail_factor(function: Callable[..., Any], *, problems: int = 20, seed: int = 12) -> str:
    """Check ``function(norms)``: by how much unequal lengths multiply the kurtosis of p. Oracle: all ordered pairs."""
    rng = np.random.default_rng(seed)
    for number in range(problems):
        norms = np.exp(rng.uniform(0.1, 0.8) * rng.normal(size=int(rng.integers(2, 12))))
        given = norms.copy()
        answer = float(function(given))
        _untouched({"norms": norms}, {"norms": given})
        r = np.array([b / a for i, a in enumerate(norms) for j, b in enumerate(norms) if i != j])
        right = (r**4).mean() / (r**2).mean() ** 2
        problem = f"problem {number}, {len(norms)} keys"
        assert not abs(answer - (r**2).mean()) < 1e-9, f"That is the mean of r², not the factor ({problem})."
        assert abs(answer - right) < 1e-8 * right, (
            f"The factor is {right:.4f}, and the answer is {answer:.4f} ({problem}): mean over ordered pairs i ≠ j."
        )
    return f"Right on all {problems} problems: lengths alone can make tails."


def check_12_l_kurtosis(function: Callable[..., Any], *, problems: int = 20, seed: int = 112) -> str:
    """Check ``function(x)``: the L-kurtosis λ₄/λ₂ of a sample. Oracle: contrasts over all subsets of two and four."""
    rng = np.random.default_rng(seed)
    for number in range(problems):
        x = rng.standard_t(2, size=int(rng.integers(4, 11)))
        given = x.copy()
        answer = float(function(given))
        _untouched({"x": x}, {"x": given})
        two, four = (np.sort(np.array(list(itertools.combinations(x, r))), axis=1) for r in (2, 4))
        second, fourth = (two @ [-1, 1]).mean() / 2, (four @ [-1, 3, -3, 1]).mean() / 4
        assert abs(answer - fourth / second) < 1e-8, (
            f"The L-kurtosis is {fourth / second:.4f}, and the answer is {answer:.4f} (problem {number}, {len(x)} "
            "values): sort each subset before its contrast."
        )
    return f"Right on all {problems} samples, with no fourth power anywhere."


# --- 13 -------------------------------------------------------------------------------------------------------


def check_13_twins(function: Callable[..., Any], *, problems: int = 20, seed: int = 13) -> str:
    """Check ``function(m, d_m)``: expected excess kurtosis of m random unit keys, two of them equal.

    Oracle: moments of a random cosine by integrating its density, and of the mixture about its mean.
    """
    from scipy import integrate

    rng = np.random.default_rng(seed)
    for number in range(problems):
        m, d_m = int(rng.integers(4, 400)), int(rng.integers(3, 60))
        answer = float(function(m, d_m))
        share = 2 / (m * (m - 1))

        def central(power: int, d_m: int = d_m, share: float = share) -> float:
            def weighted(c: float) -> float:
                return (c - share) ** power * (1 - c**2) ** ((d_m - 3) / 2)

            whole = integrate.quad(lambda c: (1 - c**2) ** ((d_m - 3) / 2), -1, 1)[0]
            return (1 - share) * integrate.quad(weighted, -1, 1)[0] / whole + share * (1 - share) ** power

        right = central(4) / central(2) ** 2 - 3
        assert abs(answer - right) < 0.01 * (1 + abs(right)), (
            f"For m = {m} and d_m = {d_m} it is {right:.3f}, and the answer is {answer:.3f} (problem {number})."
        )
    return f"Right for {problems} widths and lists."


# --- 15 -------------------------------------------------------------------------------------------------------


def check_15_clamp(function: Callable[..., Any], *, problems: int = 40, seed: int = 15) -> str:
    """Check ``function(delta, recalled, c)``: ``delta`` brought into the ball of radius ``c ‖recalled‖``.

    Oracle: no other point of the ball may be nearer, among random ones, than the answer is.
    """
    rng = np.random.default_rng(seed)
    for number in range(problems):
        d, c = int(rng.integers(1, 30)), float(rng.uniform(0.2, 4))
        recalled = rng.normal(size=d)
        delta = rng.normal(size=d) * rng.uniform(0.1, 3) * c * np.linalg.norm(recalled) / np.sqrt(d)
        given = delta.copy(), recalled.copy()
        answer = np.asarray(function(delta, recalled, c), dtype=float)
        _untouched({"delta": delta, "recalled": recalled}, {"delta": given[0], "recalled": given[1]})
        radius, left = c * np.linalg.norm(recalled), np.linalg.norm(answer - delta)
        assert np.linalg.norm(answer) <= radius * (1 + 1e-9), (
            f"The shift has length {np.linalg.norm(answer):.3f} and the ball radius {radius:.3f} (problem {number})."
        )
        if np.linalg.norm(delta) <= radius:
            assert left == 0, (
                f"A shift inside the ball is left alone, and yours moved by {left:.3f} (problem {number})."
            )
        inside = rng.normal(size=(200, d))
        inside *= radius * rng.uniform(size=(200, 1)) / np.linalg.norm(inside, axis=1)[:, None]
        nearest = min(np.linalg.norm(inside - delta, axis=1).min(), max(np.linalg.norm(delta) - radius, 0))
        assert left <= nearest + 1e-9 * radius, (
            f"There is a point of the ball at distance {nearest:.3f} from delta, and yours is at {left:.3f} "
            f"(problem {number}): keep the direction."
        )
    return f"Right on all {problems} shifts."


# --- 16 -------------------------------------------------------------------------------------------------------


def check_16_suffered(function: Callable[..., Any], *, problems: int = 20, seed: int = 16) -> str:
    """Check ``function(delta, M, K_e)``: norms (n,) of what later edits did to each edit.

    Oracle: edit a random memory one by one, and compare each answer right after its edit with the answer at the end.
    """
    rng = np.random.default_rng(seed)
    for number in range(problems):
        d, d_m, n = (int(size) for size in rng.integers(2, 9, size=3))
        W, M, K_e = (rng.normal(size=shape) for shape in ((d, d_m), (d_m, n), (d_m, n)))
        delta, written = rng.normal(size=(d, n)), []
        for i in range(n):
            W = W + np.outer(delta[:, i], M[:, i])
            written.append(W @ K_e[:, i])
        right = np.linalg.norm(W @ K_e - np.array(written).T, axis=0)
        given = delta.copy(), M.copy(), K_e.copy()
        answer = np.asarray(function(delta, M, K_e), dtype=float)
        _untouched({"delta": delta, "M": M, "K_e": K_e}, {"delta": given[0], "M": given[1], "K_e": given[2]})
        assert answer.shape == (n,), f"One norm for each of the {n} edits is wanted, and the shape is {answer.shape}."
        worst = int(np.abs(answer - right).argmax())
        assert np.allclose(answer, right, atol=1e-9), (
            f"Edit {worst} of {n} moved by {right[worst]:.4f}, and the answer is {answer[worst]:.4f} "
            f"(problem {number}): only later edits count."
        )
    return f"Right on all {problems} memories."


# --- 10 -------------------------------------------------------------------------------------------------------


def check_10_token(function: Callable[..., Any], *, problems: int = 60, seed: int = 10) -> str:
    """Check ``function(offsets, start, stop)``: the index of the token that holds the subject's last character.

    ``offsets`` is a list of (first character, one past the last) by token, with (0, 0) for a token of no text, as
    tokenizers give them; the subject is the characters [start, stop). Oracle: character by character.
    """
    rng = np.random.default_rng(seed)
    for number in range(problems):
        lengths = rng.integers(1, 6, size=rng.integers(2, 12))
        ends = [int(end) for end in np.cumsum(lengths)]
        offsets = list(zip([0, *ends[:-1]], ends, strict=True))
        if number % 2:
            offsets = [(0, 0), *offsets]
        if number % 3 == 0:  # one character of several bytes, a token each
            place = int(rng.integers(len(offsets)))
            offsets.insert(place, offsets[place])
        start = int(rng.integers(0, ends[-1]))
        stop = int(rng.integers(start + 1, ends[-1] + 1))
        right = [place for place, (first, last) in enumerate(offsets) if stop - 1 in range(first, last)][-1]
        answer = function(list(offsets), start, stop)
        assert answer == right, (
            f"Problem {number}: offsets {offsets}, subject [{start}, {stop}): the last token with character {stop - 1} "
            f"is number {right}, and the answer is {answer}."
        )
    return f"Right on all {problems} prompts."


def check_10_tokens(function: Callable[..., Any], *, problems: int = 40, seed: int = 10) -> str:
    """Check ``function(d_m, sd, share, factor)``: the tokens that C needs.

    Wanted: the least whole N for which the error of p, ``√(factor / (N − d_m))``, is at most ``share · sd``. Oracle:
    the answer is enough and one token fewer is not.
    """
    rng = np.random.default_rng(seed)
    for number in range(problems):
        d_m = int(rng.integers(10, 20_000))
        sd, share, factor = rng.uniform(0.01, 0.3), rng.uniform(0.02, 1), rng.uniform(1, 60)
        answer = function(d_m, sd, share, factor)
        given = f"d_m = {d_m}, sd = {sd:.4f}, share = {share:.4f}, factor = {factor:.4f}"
        assert answer == int(answer) and answer > d_m, f"Problem {number}: a whole number above d_m, not {answer}."

        def enough(tokens: float, d_m=d_m, limit=share * sd, factor=factor) -> bool:
            return tokens > d_m and np.sqrt(factor / (tokens - d_m)) <= limit * (1 + 1e-12)

        assert enough(answer), f"Problem {number} ({given}): {answer} tokens are too few."
        assert not enough(answer - 1 - 1e-9 * answer), f"Problem {number} ({given}): fewer than {answer} would do."
    return f"Right on all {problems} widths."


# --- 14 -------------------------------------------------------------------------------------------------------


def check_14_lost(function: Callable[..., Any], *, problems: int = ROUNDS, seed: int = 14) -> str:
    """Check ``function(X, y, columns)``: the share of y's variance that is lost when columns of X are left out.

    Oracle: the added variables' own part, taken out of everything else first (Frisch, Waugh and Lovell).
    """
    rng = np.random.default_rng(seed)
    for number in range(problems):
        n, f = int(rng.integers(20, 60)), int(rng.integers(2, 6))
        X = rng.standard_normal((n, f)) @ rng.standard_normal((f, f)) + rng.standard_normal(f)
        y = X @ rng.standard_normal(f) + 3 * rng.standard_normal(n) + 5
        columns = sorted(rng.choice(f, size=int(rng.integers(1, f)), replace=False).tolist())
        rest = np.column_stack([np.ones(n), np.delete(X, columns, axis=1)])
        project = rest @ np.linalg.pinv(rest)
        own, left = X[:, columns] - project @ X[:, columns], y - project @ y
        right = float(((own @ np.linalg.pinv(own) @ left) ** 2).sum() / ((y - y.mean()) ** 2).sum())
        answer = float(function(X.copy(), y.copy(), list(columns)))
        assert abs(answer - right) < 1e-8, (
            f"Problem {number}: without the columns {columns} of {f}, {right:.6f} of the variance is lost, and the "
            f"answer is {answer:.6f}. Both regressions have an intercept."
        )
    return f"Right on all {problems} regressions."


def check_14_meat(function: Callable[..., Any], *, problems: int = ROUNDS, seed: int = 14) -> str:
    """Check ``function(scores, first, second, m)``: the sum of ``s_a s_bᵀ`` over all a, b that share a fact.

    ``scores`` is (n, f), a row for each pair ``first[r] < second[r]`` of m facts. Oracle: every pair of pairs.
    """
    rng = np.random.default_rng(seed)
    for number in range(problems):
        m, f = int(rng.integers(3, 9)), int(rng.integers(1, 4))
        first, second = np.triu_indices(m, 1)
        scores = rng.standard_normal((len(first), f))
        ends = [{int(i), int(j)} for i, j in zip(first, second, strict=True)]
        right = sum(
            np.outer(scores[a], scores[b])
            for a, b in itertools.product(range(len(ends)), repeat=2)
            if ends[a] & ends[b]
        )
        answer = np.asarray(function(scores.copy(), first.copy(), second.copy(), m))
        assert answer.shape == (f, f), f"A matrix ({f}, {f}) is wanted, and the shape is {answer.shape}."
        assert np.allclose(answer, right, atol=1e-9), (
            f"Problem {number}: {m} facts; off by {np.abs(answer - right).max():.2g}. A pair shares both facts with "
            "itself, and counts once."
        )
    return f"Right on all {problems} tables of pairs."


# --- 18 -------------------------------------------------------------------------------------------------------


def check_18_protect(function: Callable[..., Any], *, problems: int = 20, seed: int = 18) -> str:
    """Check ``function(C, k_e, K_w, weight)``: the direction M (d_m,) that writes k_e and spares the keys K_w.

    It has ``Mᵀk_e = 1`` and the least ``MᵀCM + weight · mean_w (Mᵀk_w)²``. Oracle: the stationarity conditions as one
    linear system.
    """
    rng = np.random.default_rng(seed)
    for number in range(problems):
        d_m, count = int(rng.integers(2, 9)), int(rng.integers(1, 6))
        given = {"C": _moment(rng, d_m), "k_e": rng.normal(size=d_m), "K_w": rng.normal(size=(d_m, count))}
        weight, problem = float(10 ** rng.uniform(-1, 3)), f"problem {number}, d_m = {d_m}, {count} keys to spare"
        copies = {name: array.copy() for name, array in given.items()}
        answer = _array(function(*copies.values(), weight), (d_m,), "M", problem)
        _untouched(given, copies)
        C, k_e, K_w = given.values()
        metric = C + weight * np.mean([np.outer(k, k) for k in K_w.T], axis=0)
        system = np.block([[2 * metric, k_e[:, None]], [k_e[None, :], np.zeros((1, 1))]])
        wanted = np.linalg.solve(system, np.append(np.zeros(d_m), 1.0))[:d_m]
        assert not _far(answer @ k_e, np.ones(())), f"M does not write: Mᵀk_e is {answer @ k_e:.3f} ({problem})."
        assert not _far(answer, wanted), f"M writes, but another one spares more ({problem}); mind the mean over keys."
    return f"Right on all {problems} problems: written, and the others are spared as far as they can be."


# --- capstone -------------------------------------------------------------------------------------------------


def check_capstone_tokens(function: Callable[..., Any], *, problems: int = 40, seed: int = 19) -> str:
    """Check ``function(moved, half, tokens, d_m, wanted)``: the tokens that an error of p below ``wanted`` takes.

    The squared error is ``κ / (N − d_m)``, and between ``half`` and ``tokens`` P moved by ``moved``, both in the same
    unit. Oracle: a κ is drawn first, and ``moved`` made from it.
    """
    rng = np.random.default_rng(seed)
    for number in range(problems):
        d_m = int(rng.integers(10, 20_000))
        half = d_m + int(rng.integers(1, 20 * d_m))
        tokens = half + int(rng.integers(1, 20 * d_m))
        kappa, wanted = rng.uniform(0.1, 60), rng.uniform(0.01, 1)
        moved = float(np.sqrt(kappa / (half - d_m) - kappa / (tokens - d_m)))
        right, answer = d_m + kappa / wanted**2, float(function(moved, half, tokens, d_m, wanted))
        assert answer > d_m, f"Problem {number}: with {answer:.0f} tokens for {d_m} dimensions C is singular."
        assert right * (1 - 1e-6) <= answer <= right * (1 + 1e-6) + 1, (
            f"Problem {number}: P of {d_m} dimensions moved by {moved:.4f} between {half} and {tokens} tokens; an "
            f"error of {wanted:.4f} takes {np.ceil(right):.0f}, and the answer is {answer:.0f}."
        )
    return f"Right on all {problems} texts."


def check_capstone_strongest(function: Callable[..., Any], *, problems: int = 60, seed: int = 20) -> str:
    """Check ``function(P, keep)``: the kept pair (i, j), i ≠ j, of largest ``P[i, j]``, or None.

    Oracle: all pairs, sorted.
    """
    rng = np.random.default_rng(seed)
    for number in range(problems):
        m = int(rng.integers(2, 9))
        P = rng.normal(size=(m, m)) - rng.integers(0, 4)
        np.fill_diagonal(P, 1.0)
        keep = rng.uniform(size=(m, m)) < rng.uniform()
        keep = keep | keep.T if number % 5 else np.eye(m, dtype=bool)
        given = P.copy(), keep.copy()
        pairs = sorted((-P[i, j], i, j) for i, j in itertools.permutations(range(m), 2) if keep[i, j])
        answer = function(P, keep)
        _untouched({"P": P, "keep": keep}, {"P": given[0], "keep": given[1]})
        if not pairs:
            assert answer is None, f"No pair of two facts is kept, and the answer is {answer} (problem {number})."
            continue
        right = pairs[0][1:]
        assert answer is not None, f"The pair {right} is kept, and the answer is None (problem {number})."
        assert tuple(int(place) for place in answer) == right, (
            f"Among {m} facts the strongest kept pair is {right}, and the answer is {tuple(answer)} (problem {number})."
        )
    return f"Right on all {problems} matrices."


def _list_of_edits(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Residuals δ (d, n) of two or more edits, overlaps p (n, m) that lean to one side, and copies of both by name."""
    d, n, m = int(rng.integers(1, 6)), int(rng.integers(2, 9)), int(rng.integers(1, 9))
    delta = rng.normal(size=(d, n)) * rng.uniform(0.2, 2, size=n)
    p = rng.normal(size=(n, m)) * 0.3 + rng.normal()
    return delta, p, {"delta": delta.copy(), "p": p.copy()}


def check_capstone_blame(function: Callable[..., Any], *, problems: int = ROUNDS, seed: int = 21) -> str:
    """Check ``function(delta, p)``: the share (n, m) of each edit in the squared length of each fact's drift.

    Oracle: every inner product by itself.
    """
    rng = np.random.default_rng(seed)
    for number in range(problems):
        delta, p, given = _list_of_edits(rng)
        (n, m), problem = p.shape, f"problem {number}"
        answer = _array(function(delta, p), (n, m), "the array of shares", problem)
        _untouched({"delta": delta, "p": p}, given)
        right = np.zeros((n, m))
        for j in range(m):
            drift = sum(p[i, j] * delta[:, i] for i in range(n))
            for i in range(n):
                right[i, j] = p[i, j] * (delta[:, i] @ drift) / (drift @ drift)
        worst = np.abs(answer.sum(0) - 1).argmax()
        assert np.allclose(answer.sum(0), 1, atol=1e-6), (
            f"The shares of fact {worst} add up to {answer.sum(0)[worst]:.4f}, not to 1 ({problem})."
        )
        assert np.allclose(answer, right, rtol=1e-6, atol=1e-6 * np.abs(right).max()), (
            f"The shares add up, and are not those of the inner products with the drift ({problem})."
        )
    return f"Right on all {problems} lists of edits."


def check_capstone_drop(function: Callable[..., Any], *, problems: int = ROUNDS, seed: int = 22) -> str:
    """Check ``function(delta, p)``: the edit without which ``Σ_j ‖Σ_i p_ij δ_i‖²`` is least.

    Oracle: leave out each in turn.
    """
    rng = np.random.default_rng(seed)
    for number in range(problems):
        delta, p, given = _list_of_edits(rng)
        n = len(p)
        left = [((np.delete(delta, i, axis=1) @ np.delete(p, i, axis=0)) ** 2).sum() for i in range(n)]
        answer = function(delta, p)
        _untouched({"delta": delta, "p": p}, given)
        assert answer is not None and 0 <= int(answer) < n, f"An edit from 0 to {n - 1} is wanted, not {answer}."
        assert left[int(answer)] <= min(left) * (1 + 1e-9), (
            f"Without edit {int(answer)} the squared drift is {left[int(answer)]:.4f}, and without edit "
            f"{int(np.argmin(left))} it is {min(left):.4f} (problem {number})."
        )
    return f"Right on all {problems} lists of edits."
