"""Part I, chapters 01 to 06."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from superposition.book.exercises.problems import Memory, as_array, check, direction, far, least_change, moment, require


@check("Right: {} random memories, none could answer better.", problems=30, seed=1)
def check_01_memory(ask, rng, number):
    """Check ``function(K, V)``: the least-squares memory W (d, d_m) of the pairs in the columns of K and V.

    Oracle: a generic least-squares solver. Chapter ``book/01-memory.ipynb``.
    """
    memory = Memory.draw(rng)
    V, best = memory.fit()
    W = ask.array("W", best.shape, memory, K=memory.K, V=V)
    loss, least = np.sum((W @ memory.K - V) ** 2), np.sum((best @ memory.K - V) ** 2)
    require(
        not far(W, best),
        f"The answers miss the values by {loss / least:.2f} times the least possible ({memory}): "
        "is C⁻¹ there, and on the side of the keys?",
    )


@check("Right: {} memories took one more fact each, as if they had seen all facts at once.", problems=30, seed=11)
def check_01_observe(ask, rng, number):
    """Check ``function(W, C, k, v) -> (W_new, C_new)``: the least-squares memory with one more pair, and its moment.

    Oracle: a generic least-squares solver on all pairs. Chapter ``book/01-memory.ipynb``.
    """
    memory = Memory.draw(rng)
    k, v, C = memory.K_e[:, 0], memory.V_e[:, 0], memory.C
    V, W = memory.fit()
    answer = ask(W=W, C=C, k=k, v=v)
    require(isinstance(answer, tuple) and len(answer) == 2, "Return a pair: the new W and the new C.")
    W_new = as_array(answer[0], "W", W.shape, memory)
    C_new = as_array(answer[1], "C", C.shape, memory)
    K_all, V_all = np.hstack([memory.K, memory.K_e]), np.hstack([V, memory.V_e])
    require(not far(C_new, K_all @ K_all.T), f"C is not the second moment of all keys, old and new ({memory}).")
    best = np.linalg.lstsq(K_all.T, V_all.T, rcond=None)[0].T
    require(far(W_new, W) or not far(best, W), f"W came back unchanged ({memory}).")
    require(
        not far(W_new, best),
        f"W is not the best memory of all pairs ({memory}): it answers the new key with an error of "
        f"{np.linalg.norm(W_new @ k - v):.2f}, and {np.linalg.norm(best @ k - v):.2f} is right.",
    )


def _stores_at_least_damage(W_hat: np.ndarray, memory: Memory, key: str, value: str) -> None:
    best = memory.edited()
    require(far(W_hat, memory.W) or not far(best, memory.W), f"Nothing was written: W came back ({memory}).")
    miss = W_hat @ memory.K_e - memory.V_e
    require(
        not far(W_hat @ memory.K_e, memory.V_e),
        f"W_hat {key} misses {value} by {np.linalg.norm(miss):.1e} ({memory}): the constraint is not met.",
    )
    damage, least = (np.linalg.norm((after - memory.W) @ memory.K) ** 2 for after in (W_hat, best))
    require(
        not far(W_hat, best),
        f"The fact is stored, but the damage is {damage / least:.2f} times the least possible ({memory}): "
        "is the change written along C⁻¹k rather than along k?",
    )


@check("Right: {} random edits, each exact and with the least damage.", problems=30, seed=2)
def check_02_edit(ask, rng, number):
    """``function(W, C, k_e, v_e) -> W_hat``: the least change in the metric of C that stores one fact.

    Oracle: stationarity and constraint, solved as one linear system. Chapter ``book/02-single-edit.ipynb``.

    Raises
    ------
    AssertionError
        Says what is wrong: a shape, an argument changed, a constraint missed, more damage than needed.
    """
    memory = Memory.draw(rng)
    given = {"W": memory.W, "C": memory.C, "k_e": memory.K_e[:, 0], "v_e": memory.V_e[:, 0]}
    W_hat = ask.array("W_hat", memory.W.shape, memory, **given)
    _stores_at_least_damage(W_hat, memory, "k_e", "v_e")


@check("Right: {} random batches, every fact exact and the damage least.", problems=30, seed=22)
def check_02_batch(ask, rng, number):
    """``function(W, C, K_e, V_e) -> W_hat``: the least change that stores n facts at once, 1 ≤ n ≤ 3.

    Oracle and errors as :func:`check_02_edit`. Chapter ``book/02-single-edit.ipynb``.
    """
    memory = Memory.draw(rng, int(rng.integers(1, 4)))
    W_hat = ask.array("W_hat", memory.W.shape, memory, W=memory.W, C=memory.C, K_e=memory.K_e, V_e=memory.V_e)
    _stores_at_least_damage(W_hat, memory, "K_e", "V_e")


@check("Right: {} random lifetimes, the same memory as step by step.", problems=30, seed=3)
def check_03_lifelong(ask, rng, number):
    """Check ``function(W, C, K_e, V_e)``: the memory after all edits, made in the order of the columns.

    Oracle: one linear system after the other. Chapter ``book/03-lifelong.ipynb``.
    """
    n = int(rng.integers(1, 8))
    memory = Memory.draw(rng, n)
    W_n = ask.array("W_n", memory.W.shape, memory, W=memory.W, C=memory.C, K_e=memory.K_e, V_e=memory.V_e)
    right = memory.edited_in_turn()
    require(
        not far(W_n @ memory.K_e[:, -1], memory.V_e[:, -1]),
        f"The last of {n} edits is not exact ({memory}): nothing comes after it that could have spoilt it.",
    )
    require(
        not far(W_n, right, 1e-5),
        f"After {n} edits W_n is off by {np.linalg.norm(W_n - right):.1e} ({memory}): does each residual take "
        "account of the edits before it, and only of these?",
    )


@check("Right: the interference in {} random lifetimes, predicted.", problems=30, seed=33)
def check_03_forecast(ask, rng, number):
    """Check ``function(P, epsilon)``: ``Δ_e`` (d, n) from the overlaps (n, n) and the first residuals (d, n).

    Oracle: the edits made one after the other. Chapter ``book/03-lifelong.ipynb``.
    """
    n = int(rng.integers(1, 8))
    memory = Memory.draw(rng, n)
    K_e, V_e = memory.K_e, memory.V_e
    Q = K_e.T @ np.linalg.solve(memory.C, K_e)
    damage = ask.array("Δ_e", V_e.shape, memory, P=Q / np.diag(Q)[:, None], epsilon=V_e - memory.W @ K_e)
    right = memory.edited_in_turn() @ K_e - V_e
    last = np.linalg.norm(damage[:, -1])
    require(not last > 1e-6, f"Nothing can spoil the last of {n} edits; {last:.1e} is forecast ({memory}).")
    j = int(np.linalg.norm(damage - right, axis=0).argmax())
    require(
        not far(damage, right, 1e-5),
        f"Edit {j + 1} of {n} is said to suffer by {np.linalg.norm(damage[:, j]):.3f}, and it suffers by "
        f"{np.linalg.norm(right[:, j]):.3f} ({memory}): which triangle of P is which?",
    )


@check("Right on all {} problems: your keys are white.", problems=20, seed=4)
def check_04_whitening(ask, rng, number):
    """Check ``function(C)``: a matrix B (d_m, d_m) with ``B C Bᵀ = I``, so that ``B k`` is a whitened key.

    Any such B is right: two of them differ by a rotation, which no inner product sees.
    """
    d_m = int(rng.integers(1, 9))
    C, problem = moment(rng, d_m), f"problem {number}, d_m = {d_m}"
    B = ask.array("B", (d_m, d_m), problem, C=C)
    off = np.abs(B @ C @ B.T - np.eye(d_m)).max()
    require(off < 1e-8, f"B C Bᵀ differs from the identity by {off:.1e} ({problem}).")


@check("Right on all {} problems: two changes cancelled, with both p's different from zero.", problems=20, seed=44)
def check_04_undo(ask, rng, number):
    """Check ``function(W, k_1, v_1, k_2, k_j, C)``: a value v_2 (d,) for which the change at k_j cancels.

    Two edits by ROME with the same C, first (k_1, v_1), then (k_2, v_2); afterwards W k_j must be what it was.
    """
    d, d_m = int(rng.integers(1, 6)), int(rng.integers(2, 9))
    W, C, problem = rng.normal(size=(d, d_m)), moment(rng, d_m), f"problem {number}, d = {d}, d_m = {d_m}"
    k_1, k_2, k_j = rng.normal(size=(3, d_m))
    v_1 = rng.normal(size=d)
    v_2 = ask.array("v_2", (d,), problem, W=W, k_1=k_1, v_1=v_1, k_2=k_2, k_j=k_j, C=C)
    after = W
    for k, v in ((k_1, v_1), (k_2, v_2)):
        after = after + np.outer(v - after @ k, direction(C, k))
    size = np.abs(W @ k_j).max() + np.abs(v_1).max() + np.abs(v_2).max()
    off = np.abs(after @ k_j - W @ k_j).max()
    require(off < 1e-8 * size, f"After both edits W k_j has moved by {off:.1e}; it should be back ({problem}).")


@check("Right on all {} problems: each sum of leverages is d_m.", problems=20, seed=5)
def check_05_leverages(ask, rng, number):
    """Check ``function(K)``: the leverages (N,) of N stored keys (columns of K, of full row rank) by ``C = K Kᵀ``."""
    d_m = int(rng.integers(1, 9))
    N = d_m + int(rng.integers(0, 20))
    K = rng.normal(size=(d_m, N)) * np.exp(rng.uniform(-1, 1, size=(d_m, 1)))
    problem = f"problem {number}, d_m = {d_m}, N = {N}"
    h = ask.array("h", (N,), problem, K=K)
    require(abs(h.sum() - d_m) < 1e-6, f"The leverages sum to {h.sum():.4f}; the sum must be d_m ({problem}).")
    inverse = np.linalg.inv(K @ K.T)
    right = np.array([k @ inverse @ k for k in K.T])
    e = int(np.abs(h - right).argmax())
    require(abs(h[e] - right[e]) < 1e-8, f"Key {e} gets {h[e]:.4f}, not {right[e]:.4f} ({problem}).")


def check_05_simplex(function: Callable[..., Any], *, most: int = 12) -> str:
    """Check ``function(d_m)``: d_m + 1 unit vectors (columns) whose pairwise ``|cos|`` meets Welch's bound, 1/d_m."""
    for d_m in range(2, most + 1):
        U = as_array(function(d_m), "U", (d_m, d_m + 1), f"d_m = {d_m}")
        G = U.T @ U
        require(np.abs(np.diag(G) - 1).max() < 1e-8, f"Not every column has length 1 (d_m = {d_m}).")
        worst = np.abs(G - np.diag(np.diag(G))).max()
        off = f"The largest |cos| is {worst:.4f}, Welch's bound {1 / d_m:.4f} (d_m = {d_m})."
        require(abs(worst - 1 / d_m) < 1e-8, off)
    return f"Right for d_m from 2 to {most}: no d_m + 1 keys could do better."


@check("Right on all {} problems, soft and hard.", problems=20, seed=6)
def check_06_family(ask, rng, number):
    """Check ``function(A_inverse, U, R, weight)``: the change D (d, d_m) of the family, for any weight up to infinity.

    For a finite weight the least ``tr(D A Dᵀ) + w |R - D U|²``; for an infinite one the least ``tr(D A Dᵀ)`` with
    ``D U = R``. Oracle: the stationarity conditions, solved as one linear system.
    """
    d, d_m = int(rng.integers(1, 5)), int(rng.integers(2, 8))
    n = int(rng.integers(1, d_m + 1))
    A, U, R = moment(rng, d_m), rng.normal(size=(d_m, n)), rng.normal(size=(d, n))
    weight = float(np.inf if number % 3 == 0 else 10 ** rng.uniform(-1, 3))
    problem = f"problem {number}, d = {d}, d_m = {d_m}, n = {n}, weight {weight:.3g}"
    D = ask.array("D", (d, d_m), problem, A_inverse=np.linalg.inv(A), U=U, R=R, weight=weight)
    right = least_change(A, U, R, weight)
    require(
        not far(D, right),
        f"D is off by {np.linalg.norm(D - right):.1e} ({problem}); it leaves |R - D U| = "
        f"{np.linalg.norm(R - D @ U):.1e}, and {np.linalg.norm(R - right @ U):.1e} is right.",
    )


@check("Right on all {} problems: whitened, the directions are Gram and Schmidt's.", problems=20, seed=66)
def check_06_gram_schmidt(ask, rng, number):
    """Check ``function(K, C)``: the directions M (d_m, n) of the hard recursion, one a column.

    Edit i changes W by ``δ_i M_iᵀ``. Oracle: a column is the one combination of ``C⁻¹k_1 … C⁻¹k_i`` with
    ``M_iᵀk_i = 1`` and ``M_iᵀk_l = 0`` for l < i.
    """
    d_m = int(rng.integers(2, 9))
    n = int(rng.integers(1, d_m + 1))
    K, C, problem = rng.normal(size=(d_m, n)), moment(rng, d_m), f"problem {number}, d_m = {d_m}, n = {n}"
    M = ask.array("M", (d_m, n), problem, K=K, C=C)
    for i in range(n):
        X = np.linalg.solve(C, K[:, : i + 1])
        right = X @ np.linalg.solve(K[:, : i + 1].T @ X, np.eye(i + 1)[i])
        written, touched = M[:, i] @ K[:, i], M[:, i] @ K[:, :i]
        require(abs(written - 1) < 1e-6, f"Edit {i} does not write what it should: M·k is not 1 ({problem}).")
        require(not far(touched, np.zeros(i)), f"Edit {i} touches an earlier one ({problem}).")
        require(not far(M[:, i], right), f"Edit {i} holds the earlier ones, but costs more than it must ({problem}).")
