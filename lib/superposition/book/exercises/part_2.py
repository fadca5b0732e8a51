"""Part II, chapters 07 to 09."""

from __future__ import annotations

import itertools

import numpy as np

from superposition.book.exercises.problems import Memory, check, direction, far, least_change, moment, require


@check("Right on all {} problems, every outcome counted.", problems=20, seed=7)
def check_07_growth(ask, rng, number):
    """Check ``function(P, deltas)``: the mean of ``|Σ_{i≤n} p_i δ_i|²`` as a function of n, for 1 ≤ n ≤ 3.

    Each p is one of the entries of P (a,), each δ one of the columns of ``deltas`` (d, b), all equally likely and
    independent. Oracle: every outcome, counted.
    """
    a, b, d = (int(x) for x in rng.integers(1, 4, size=3))
    P, deltas = rng.normal(size=a) + rng.normal(), rng.normal(size=(d, b)) + rng.normal()
    steps = [p * column for p in P for column in deltas.T]
    for n in (1, 2, 3):
        sums = [np.sum(outcome, axis=0) for outcome in itertools.product(steps, repeat=n)]
        right = float(np.mean([np.sum(s**2) for s in sums]))
        answer = ask(lambda f, n=n: float(f(n)), P=P, deltas=deltas)
        require(
            abs(answer - right) < 1e-8 * (1 + right),
            f"Problem {number}: with {a} overlaps and {b} residuals, f({n}) is {right:.4f}, not {answer:.4f}.",
        )


@check("Right on all {} lists: repeated, ROME ends where EMMET does in one batch.", problems=6, seed=77)
def check_07_sweeps(ask, rng, number):
    """Check ``function(W, K, V, C)``: the memory after ROME has written the list again and again.

    Oracle: the least change in the metric of C that stores all edits, from one linear system.
    """
    memory = Memory.draw(rng, int(rng.integers(1, 4)))
    W = ask.array("W", memory.W.shape, memory, W=memory.W, K=memory.K_e, V=memory.V_e, C=memory.C)
    missed = np.abs(W @ memory.K_e - memory.V_e).max()
    require(missed < 1e-6, f"An edit is still off by {missed:.1e}: go on sweeping ({memory}).")
    require(not far(W, memory.edited(), 1e-5), f"All edits are held, but it is not where ROME ends ({memory}).")


@check("Right on all {} problems.", problems=20, seed=8)
def check_08_dimensionality(ask, rng, number):
    """Check ``function(W)``: the dimensionality (n,) of each feature, a column of W (m, n). Oracle: two loops."""
    m, n = int(rng.integers(1, 5)), int(rng.integers(2, 9))
    W = rng.normal(size=(m, n)) * np.exp(rng.normal(size=n))
    D = ask.array("D", (n,), f"problem {number}, m = {m}, n = {n}", W=W)
    for i in range(n):
        unit = W[:, i] / np.sqrt(sum(x * x for x in W[:, i]))
        crowd = sum(float(unit @ W[:, j]) ** 2 for j in range(n))
        right = sum(x * x for x in W[:, i]) / crowd
        require(abs(D[i] - right) < 1e-8, f"D of feature {i} is {right:.4f}, not {D[i]:.4f} (problem {number}).")


@check("Right for {} importances.", problems=20, seed=88)
def check_08_threshold(ask, rng, number):
    """Check ``function(r)``: the density at which an antipodal pair ties with dropping the lesser of two features.

    The features have importance 1 and r and share one dimension. Oracle: both losses, integrated numerically.
    """
    r = float(np.exp(rng.uniform(-2, 2))) if number else 1.0
    n = 2000
    t = (np.arange(n) + 0.5) / n
    both = (t**2 * (2 * n - 1 - 2 * np.arange(n))).sum() / n**2  # the mean of min(t, s)², over all pairs of t and s
    low, high = 1e-6, 1.0
    for _ in range(50):
        q = (low + high) / 2
        pair = (1 + r) * q**2 * both
        dropped = min(1, r) * (q * (t**2).mean() - (q * t.mean()) ** 2)
        low, high = (q, high) if pair < dropped else (low, q)
    answer = ask(float, r=r)
    require(abs(answer - q) < 1e-4, f"For r = {r:.3f} the losses tie at q = {q:.4f}, not {answer:.4f}.")


@check("Right on all {} problems: every edit counted once, along each fact's own gradient.", problems=20, seed=9)
def check_09_first_order(ask, rng, number):
    """Check ``function(P, D, G)``: the first-order change (N,) of the log-probability of N facts after n edits.

    ``P`` (n, N) holds ``p(k_{e_i}, k_j)``, ``D`` (d, n) the residuals, ``G`` (d, N) the gradient of each fact's
    log-probability by the memory's answer. Oracle: ROME, edit by edit, on a memory that is read out linearly.
    """
    d, d_m, n, N = (int(size) for size in rng.integers(2, 9, size=4))
    W, C, problem = rng.normal(size=(d, d_m)), moment(rng, d_m), f"problem {number}, d = {d}, n = {n}, N = {N}"
    K_e, K, G = rng.normal(size=(d_m, n)), rng.normal(size=(d_m, N)), rng.normal(size=(d, N))
    after, P, D = W, np.empty((n, N)), np.empty((d, n))
    for i in range(n):
        m = direction(C, K_e[:, i])
        P[i], D[:, i] = m @ K, rng.normal(size=d) - after @ K_e[:, i]
        after = after + np.outer(D[:, i], m)
    change = ask.array("change", (N,), problem, P=P, D=D, G=G)
    right = np.einsum("dN,dN->N", G, after @ K - W @ K)
    require(
        not far(change, right),
        f"The forecast is off by {np.linalg.norm(change - right):.1e} ({problem}): fact j feels every edit i "
        "through P[i, j], and only the part of it along its own gradient.",
    )


@check("Right on all {} problems: written, and the neighbour has not felt it.", problems=20, seed=99)
def check_09_protect(ask, rng, number):
    """Check ``function(W, C, k_e, v_e, k_j)``: the W_hat (d, d_m) that stores v_e, leaves W k_j, and damages least.

    Least means ``tr((W_hat - W) C (W_hat - W)ᵀ)``. Oracle: the stationarity conditions as one linear system.
    """
    d, d_m = int(rng.integers(1, 6)), int(rng.integers(2, 9))
    W, C, problem = rng.normal(size=(d, d_m)), moment(rng, d_m), f"problem {number}, d = {d}, d_m = {d_m}"
    k_e, k_j = rng.normal(size=(2, d_m))
    v_e = rng.normal(size=d)
    W_hat = ask.array("W_hat", W.shape, problem, W=W, C=C, k_e=k_e, v_e=v_e, k_j=k_j)
    right = W + least_change(C, np.stack([k_e, k_j], axis=1), np.stack([v_e - W @ k_e, np.zeros(d)], axis=1))
    require(not far(W_hat @ k_e, v_e), f"W_hat k_e misses v_e ({problem}).")
    require(not far(W_hat @ k_j, W @ k_j), f"W_hat k_j is not what W k_j was ({problem}).")
    require(not far(W_hat, right), f"Both facts are right, but another W_hat damages less ({problem}).")
