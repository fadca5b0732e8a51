"""Part IV, chapters 15 to 21, and the capstone."""

from __future__ import annotations

import itertools

import numpy as np

from superposition.book.exercises.problems import check, direction, far, least_change, moment, require


@check("Right on all {} shifts.", problems=40, seed=15)
def check_15_clamp(ask, rng, number):
    """Check ``function(delta, recalled, c)``: ``delta`` brought into the ball of radius ``c ‖recalled‖``.

    Oracle: no other point of the ball may be nearer, among random ones, than the answer is.
    """
    d, c = int(rng.integers(1, 30)), float(rng.uniform(0.2, 4))
    recalled = rng.normal(size=d)
    delta = rng.normal(size=d) * rng.uniform(0.1, 3) * c * np.linalg.norm(recalled) / np.sqrt(d)
    answer = ask(lambda answer: np.asarray(answer, dtype=float), delta=delta, recalled=recalled, c=c)
    radius, length = c * np.linalg.norm(recalled), np.linalg.norm(answer)
    left, outside = np.linalg.norm(answer - delta), np.linalg.norm(delta) - radius
    require(
        length <= radius * (1 + 1e-9),
        f"The shift has length {length:.3f} and the ball radius {radius:.3f} (problem {number}).",
    )
    require(
        outside > 0 or left == 0,
        f"A shift inside the ball is left alone, and yours moved by {left:.3f} (problem {number}).",
    )
    inside = rng.normal(size=(200, d))
    inside *= radius * rng.uniform(size=(200, 1)) / np.linalg.norm(inside, axis=1)[:, None]
    nearest = min(np.linalg.norm(inside - delta, axis=1).min(), max(outside, 0))
    require(
        left <= nearest + 1e-9 * radius,
        f"There is a point of the ball at distance {nearest:.3f} from delta, and yours is at {left:.3f} "
        f"(problem {number}): keep the direction.",
    )


@check("Right on all {} memories.", problems=20, seed=16)
def check_16_suffered(ask, rng, number):
    """Check ``function(delta, M, K_e)``: norms (n,) of what later edits did to each edit.

    Oracle: edit a random memory one by one, and compare each answer right after its edit with the answer at the end.
    """
    d, d_m, n = (int(size) for size in rng.integers(2, 9, size=3))
    W, M, K_e = (rng.normal(size=shape) for shape in ((d, d_m), (d_m, n), (d_m, n)))
    delta, written = rng.normal(size=(d, n)), []
    for i in range(n):
        W = W + np.outer(delta[:, i], M[:, i])
        written.append(W @ K_e[:, i])
    right = np.linalg.norm(W @ K_e - np.array(written).T, axis=0)
    answer = ask(lambda answer: np.asarray(answer, dtype=float), delta=delta, M=M, K_e=K_e)
    require(answer.shape == (n,), f"One norm for each of the {n} edits is wanted, and the shape is {answer.shape}.")
    worst = int(np.abs(answer - right).argmax())
    require(
        np.allclose(answer, right, atol=1e-9),
        f"Edit {worst} of {n} moved by {right[worst]:.4f}, and the answer is {answer[worst]:.4f} "
        f"(problem {number}): only later edits count.",
    )


@check("Right on all {} memories.", problems=20, seed=170)
def check_17_aligned(ask, rng, number):
    """Check ``function(c, answers, P)``: lengths (n,) of residuals that all point the way of the unedited answers.

    Each has the proportion ``c_n`` to the answer that it meets. Oracle: a random memory, edited one by one by ROME.
    """
    d, d_m, n = (int(size) for size in rng.integers(2, 9, size=3))
    C, K, way = moment(rng, d_m), rng.normal(size=(d_m, n)), rng.normal(size=d)
    way /= np.linalg.norm(way)
    W, c = np.outer(way, rng.normal(size=d_m)), rng.uniform(0.2, 2, size=n)
    K = K * np.sign(way @ W @ K)
    M = np.stack([direction(C, k) for k in K.T], axis=1)
    answers, right = np.linalg.norm(W @ K, axis=0), np.zeros(n)
    for i in range(n):
        right[i] = c[i] * np.linalg.norm(W @ K[:, i])
        W = W + np.outer(right[i] * way, M[:, i])
    problem = f"problem {number}, n = {n}"
    lengths = ask.array("lengths", (n,), problem, c=c, answers=answers, P=M.T @ K)
    require(
        not far(lengths, right),
        f"The lengths are off by {np.linalg.norm(lengths - right):.1e} ({problem}): every earlier residual counts, "
        "with its overlap P[i, n] and its sign.",
    )


@check("Right on all {} problems, every outcome counted.", problems=20, seed=707)
def check_17_anchor(ask, rng, number):
    """Check ``function(c, q, anchored)``: the mean of ``|W_n k|²`` over that of ``|W_0 k|²``, as a function of n.

    ROME writes answers of a random direction, c times as long as the memory's own, the unedited (anchored) or the
    present one, under whitened keys of length one that are spread evenly over 1/q directions. Oracle: a memory of one
    row, keys along its axes, and every outcome counted, for n up to 3.
    """
    c, axes, anchored = float(np.exp(rng.uniform(-1, 1))), int(rng.integers(1, 4)), bool(number % 2)
    W_0 = rng.normal(size=axes)
    steps = list(itertools.product(range(axes), (c, -c)))
    for n in (0, 1, 2, 3):
        squares = []
        for outcome in itertools.product(steps, repeat=n):
            W = W_0.copy()
            for k, gain in outcome:
                W[k] = gain * abs(W_0[k] if anchored else W[k])
            squares.append(np.mean(W**2))
        right = float(np.mean(squares) / np.mean(W_0**2))
        answer = ask(lambda f, n=n: float(f(n)), c=c, q=1 / axes, anchored=anchored)
        require(
            abs(answer - right) < 1e-8 * (1 + right),
            f"Problem {number}: with c = {c:.3f}, q = 1/{axes} and anchored = {anchored}, f({n}) is {right:.4f}, not "
            f"{answer:.4f}.",
        )


@check("Right on all {} problems: every edit arrives at every position.", problems=20, seed=17)
def check_18_drift(ask, rng, number):
    """Check ``function(W, C, K_e, delta, keys)``: the drift (T, d) of one prompt, whose keys are (T, d_m).

    Edit i adds ``delta_i`` to what the memory answers to ``k_{e_i}``, by ROME. Oracle: the edits made one by one.
    """
    d, d_m, n, T = (int(size) for size in rng.integers(2, 8, size=4))
    W, C, problem = rng.normal(size=(d, d_m)), moment(rng, d_m), f"problem {number}, n = {n}, T = {T}"
    K_e, delta, keys = (rng.normal(size=shape) for shape in ((d_m, n), (d, n), (T, d_m)))
    answer = ask.array("drift", (T, d), problem, W=W, C=C, K_e=K_e, delta=delta, keys=keys)
    after = W
    for k, step in zip(K_e.T, delta.T, strict=True):
        after = after + np.outer(step, direction(C, k))
    right = keys @ (after - W).T
    require(
        not far(answer, right),
        f"The drift is off by {np.linalg.norm(answer - right):.1e} ({problem}): every position t gets "
        "p(k_{e_i}, k_t) of each residual, not only the subject's.",
    )


@check("Right on all {} problems: each edit answers for its own part.", problems=20, seed=177)
def check_20_blame(ask, rng, number):
    """Check ``function(slope, shares, delta)``: the fall (n,) that each edit brings to one prompt, to first order.

    ``slope`` (T, d) is the gradient of log p by the memory's answer at each position, ``shares`` (n, T) the
    ``p(k_{e_i}, k_t)``, ``delta`` (d, n) the residuals. Oracle: a read-out that is linear, with and without each edit.
    """
    d, n, T = (int(size) for size in rng.integers(2, 8, size=3))
    slope, shares, delta = (rng.normal(size=shape) for shape in ((T, d), (n, T), (d, n)))
    problem = f"problem {number}, n = {n}"
    answer = ask.array("fall", (n,), problem, slope=slope, shares=shares, delta=delta)
    drift = shares[:, :, None] * delta.T[:, None, :]  # (n, T, d)
    without = np.array([np.sum(slope * np.delete(drift, i, axis=0).sum(0)) for i in range(n)])
    right = without - np.sum(slope * drift.sum(0))
    require(
        not far(answer, right),
        f"The shares of the edits are off by {np.linalg.norm(answer - right):.1e} ({problem}): a fall is "
        "minus the change, and every position counts.",
    )


@check("Right on all {} problems: written, and the others are spared as far as they can be.", problems=20, seed=18)
def check_21_protect(ask, rng, number):
    """Check ``function(C, k_e, K_w, weight)``: the direction M (d_m,) that writes k_e and spares the keys K_w.

    It has ``Mᵀk_e = 1`` and the least ``MᵀCM + weight · mean_w (Mᵀk_w)²``. Oracle: the stationarity conditions as one
    linear system.
    """
    d_m, count = int(rng.integers(2, 9)), int(rng.integers(1, 6))
    C, k_e, K_w = moment(rng, d_m), rng.normal(size=d_m), rng.normal(size=(d_m, count))
    weight, problem = float(10 ** rng.uniform(-1, 3)), f"problem {number}, d_m = {d_m}, {count} keys to spare"
    M = ask.array("M", (d_m,), problem, C=C, k_e=k_e, K_w=K_w, weight=weight)
    metric = C + weight * np.mean([np.outer(k, k) for k in K_w.T], axis=0)
    right = least_change(metric, k_e[:, None], np.ones((1, 1)))[0]
    require(not far(M @ k_e, np.ones(())), f"M does not write: Mᵀk_e is {M @ k_e:.3f} ({problem}).")
    require(not far(M, right), f"M writes, but another one spares more ({problem}); mind the mean over keys.")


@check("Right on all {} texts.", problems=40, seed=19)
def check_capstone_tokens(ask, rng, number):
    """Check ``function(moved, half, tokens, d_m, wanted)``: the tokens that an error of p below ``wanted`` takes.

    The squared error is ``κ / (N − d_m)``, and between ``half`` and ``tokens`` P moved by ``moved``, both in the same
    unit. Oracle: a κ is drawn first, and ``moved`` made from it.
    """
    d_m = int(rng.integers(10, 20_000))
    half = d_m + int(rng.integers(1, 20 * d_m))
    tokens = half + int(rng.integers(1, 20 * d_m))
    kappa, wanted = rng.uniform(0.1, 60), rng.uniform(0.01, 1)
    moved = float(np.sqrt(kappa / (half - d_m) - kappa / (tokens - d_m)))
    right = d_m + kappa / wanted**2
    answer = ask(float, moved=moved, half=half, tokens=tokens, d_m=d_m, wanted=wanted)
    require(answer > d_m, f"Problem {number}: with {answer:.0f} tokens for {d_m} dimensions C is singular.")
    require(
        right * (1 - 1e-6) <= answer <= right * (1 + 1e-6) + 1,
        f"Problem {number}: P of {d_m} dimensions moved by {moved:.4f} between {half} and {tokens} tokens; an "
        f"error of {wanted:.4f} takes {np.ceil(right):.0f}, and the answer is {answer:.0f}.",
    )


@check("Right on all {} matrices.", problems=60, seed=20)
def check_capstone_strongest(ask, rng, number):
    """Check ``function(P, keep)``: the kept pair (i, j), i ≠ j, of largest ``P[i, j]``, or None.

    Oracle: all pairs, sorted.
    """
    m = int(rng.integers(2, 9))
    P = rng.normal(size=(m, m)) - rng.integers(0, 4)
    np.fill_diagonal(P, 1.0)
    keep = rng.uniform(size=(m, m)) < rng.uniform()
    keep = keep | keep.T if number % 5 else np.eye(m, dtype=bool)
    pairs = sorted((-P[i, j], i, j) for i, j in itertools.permutations(range(m), 2) if keep[i, j])
    answer = ask(P=P, keep=keep)
    if not pairs:
        require(answer is None, f"No pair of two facts is kept, and the answer is {answer} (problem {number}).")
        return
    right = pairs[0][1:]
    require(answer is not None, f"The pair {right} is kept, and the answer is None (problem {number}).")
    require(
        tuple(int(fact) for fact in answer) == right,
        f"Among {m} facts the strongest kept pair is {right}, and the answer is {tuple(answer)} (problem {number}).",
    )


def _list_of_edits(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Residuals δ (d, n) of two or more edits, and overlaps p (n, m) that lean to one side."""
    d, n, m = int(rng.integers(1, 6)), int(rng.integers(2, 9)), int(rng.integers(1, 9))
    delta = rng.normal(size=(d, n)) * rng.uniform(0.2, 2, size=n)
    return {"delta": delta, "p": rng.normal(size=(n, m)) * 0.3 + rng.normal()}


@check("Right on all {} lists of edits.", problems=30, seed=21)
def check_capstone_blame(ask, rng, number):
    """Check ``function(delta, p)``: the share (n, m) of each edit in the squared length of each fact's drift.

    Oracle: every inner product by itself.
    """
    given, problem = _list_of_edits(rng), f"problem {number}"
    delta, p = given.values()
    answer = ask.array("the array of shares", p.shape, problem, **given)
    right = np.zeros(p.shape)
    for i, j in np.ndindex(p.shape):
        moved = [share * residual for share, residual in zip(p[:, j], delta.T, strict=True)]
        drift = sum(moved, np.zeros(len(delta)))
        right[i, j] = p[i, j] * (delta[:, i] @ drift) / (drift @ drift)
    worst = np.abs(answer.sum(0) - 1).argmax()
    require(
        np.allclose(answer.sum(0), 1, atol=1e-6),
        f"The shares of fact {worst} add up to {answer.sum(0)[worst]:.4f}, not to 1 ({problem}).",
    )
    require(
        np.allclose(answer, right, rtol=1e-6, atol=1e-6 * np.abs(right).max()),
        f"The shares add up, and are not those of the inner products with the drift ({problem}).",
    )


@check("Right on all {} lists of edits.", problems=30, seed=22)
def check_capstone_drop(ask, rng, number):
    """Check ``function(delta, p)``: the edit without which ``Σ_j ‖Σ_i p_ij δ_i‖²`` is least.

    Oracle: leave out each in turn.
    """
    given = _list_of_edits(rng)
    delta, p = given.values()
    n = len(p)
    left = [((np.delete(delta, i, axis=1) @ np.delete(p, i, axis=0)) ** 2).sum() for i in range(n)]
    answer, best = ask(**given), int(np.argmin(left))
    wanted = answer is not None and 0 <= int(answer) < n
    require(wanted, f"An edit from 0 to {n - 1} is wanted, not {answer}.")
    require(
        left[int(answer)] <= left[best] * (1 + 1e-9),
        f"Without edit {int(answer)} the squared drift is {left[int(answer)]:.4f}, and without edit {best} it is "
        f"{left[best]:.4f} (problem {number}).",
    )
