"""Linear memories with keys of many kinds, edited without end: whom the damage hits, and how it grows.

Chapters ``book/07-toy-memory.ipynb`` and, for the loop of lengthening edits, ``book/17-runaway.ipynb``. The record is
made by ``experiments/toys.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from superposition.errors import UserError
from superposition.linear import overlap
from superposition.linear.memory import LinearMemory
from superposition.stats import shape

#: Kinds of keys that :func:`draw_keys` knows.
KINDS = ("random", "stretched", "orthogonal", "clustered", "duplicated", "heavy-tailed")


def draw_keys(kind: str, d_m: int, N: int, rng: np.random.Generator) -> Float[np.ndarray, "d_m N"]:
    """Keys as columns, (d_m, N), of one of the :data:`KINDS`.

    ``random``: independent normal entries. ``stretched``: the same through a random linear map, so that
    coordinates are correlated and of unequal size. ``orthogonal``: orthogonal within each block of d_m keys.
    ``clustered``: groups of eight around common centres, half of the variance shared. ``duplicated``: every eighth
    key is copied to its neighbour. ``heavy-tailed``: random directions, lognormal lengths (σ = 1).

    Raises
    ------
    UserError
        An unknown kind, or sizes below 1.
    """
    if min(d_m, N) < 1:
        raise UserError(f"{N} keys in {d_m} dimensions make no sense: both sizes must be 1 or more.")
    K = rng.normal(size=(d_m, N))
    if kind == "random":
        return K
    if kind == "stretched":
        return rng.normal(size=(d_m, d_m)) @ K
    if kind == "orthogonal":
        blocks = [np.linalg.qr(rng.normal(size=(d_m, d_m)))[0] for _ in range(-(-N // d_m))]
        return math.sqrt(d_m) * np.concatenate(blocks, axis=1)[:, :N]
    if kind == "clustered":
        centres = rng.normal(size=(d_m, -(-N // 8)))
        return (np.repeat(centres, 8, axis=1)[:, :N] + K) / math.sqrt(2)
    if kind == "duplicated":
        copies = K[:, 1::8].shape[1]
        K[:, 1::8] = K[:, ::8][:, :copies]
        return K
    if kind == "heavy-tailed":
        return K * np.exp(rng.normal(size=N))
    raise UserError(f"There is no kind of keys {kind!r}: choose from {', '.join(KINDS)}.")


def damage_along(
    memory: LinearMemory, K: Float[Any, "d_m N"], stops: Sequence[int] | np.ndarray
) -> Float[np.ndarray, " stops"]:
    """Mean over the columns of K of ``|Δ_o|²`` after each number of edits in ``stops``; NaN where there were fewer."""
    reach, residuals = memory.transfer(K), memory.residuals
    mean = [((residuals[:, :n] @ reach[:n]) ** 2).sum(0).mean() for n in stops if n <= memory.n_edits]
    return np.array(mean + [np.nan] * (len(stops) - len(mean)))


def damages(memory: LinearMemory, K: Float[np.ndarray, "d_m N"]) -> Float[np.ndarray, " N"]:
    """``|Δ_o|²/d`` that all edits did at each column of K, the largest first."""
    return np.sort((memory.measured_interference(K) ** 2).sum(0))[::-1] / len(memory.W)


def share_of_worst(damage: Float[np.ndarray, " N"]) -> float:
    """The share of all damage, given the largest first, that falls on the worst hundredth of the keys."""
    return float(damage[: math.ceil(len(damage) / 100)].sum() / damage.sum())


def spread_of_damage(
    kind: str, seed: int, *, d: int = 16, d_m: int = 64, N: int = 512, n: int = 32
) -> dict[str, float]:
    """Overlap of N stored keys of one kind, and the damage that n ROME edits of some do to the others.

    Returns
    -------
    dict
        ``squared``: d_m times the mean of p²; ``kurtosis`` and ``kurtosis_cosine``: excess kurtosis of p and of the
        whitened cosines; ``damage``: mean ``|Δ_o|²/d`` over the unedited keys; ``median``: its median; ``worst``:
        the share of all damage that falls on the worst hundredth of the keys.
    """
    rng = np.random.default_rng(seed)
    K, V = draw_keys(kind, d_m, N, rng), rng.normal(size=(d, N))
    memory = LinearMemory.from_pairs(K, V)
    stored = overlap.measure(K, memory.metric)
    order = rng.permutation(N)
    memory.edit_batch(K[:, order[:n]], rng.normal(size=(d, n)), "rome")
    damage = damages(memory, K[:, order[n:]])
    return {
        "squared": float(d_m * np.mean(shape.off_diagonal(stored.P) ** 2)),
        "kurtosis": shape.summary(stored.P, resamples=0)["excess_kurtosis"],
        "kurtosis_cosine": shape.summary(stored.cosine_whitened, resamples=0)["excess_kurtosis"],
        "damage": float(damage.mean()),
        "median": float(np.median(damage)),
        "worst": share_of_worst(damage),
    }


def forget(load: float, seed: int, stops: Sequence[int], *, d: int = 16, d_m: int = 48) -> Float[np.ndarray, " stops"]:
    """Damage at unedited stored keys after n ROME edits of others, for a memory of ``load · d_m`` random pairs.

    Relative to ``E|W_0 k|² + E|v|² d_m/(d_m - 2)``, the damage of a memory that has lost everything. NaN beyond half of
    the facts.
    """
    rng = np.random.default_rng(seed)
    N = round(load * d_m)
    K, V = rng.normal(size=(d_m, N)), rng.normal(size=(d, N))
    memory = LinearMemory.from_pairs(K, V, ridge=0.0 if N > d_m else 1e-9 * N)  # of so few keys C is singular
    most = min(N // 2, max(stops))
    memory.edit_batch(K[:, :most], rng.normal(size=(d, most)), "rome")
    whole = (memory.W_0 @ K[:, most:]).var() * d + d * d_m / (d_m - 2)
    return damage_along(memory, K[:, most:], stops) / whole


#: The arms of :func:`grow`: are the targets fixed, do the residuals align, do the facts' keys lean one way?
ARMS = {
    "fixed targets": (True, 0.0, 0.0),
    "fixed targets, leaning keys": (True, 0.0, 0.05),
    "re-optimised, residuals at random": (False, 0.0, 0.05),
    "re-optimised, residuals aligned, keys at random": (False, 1.0, 0.0),
    "re-optimised, residuals aligned, leaning keys": (False, 1.0, 0.05),
}


def mean_squared_answer(arm: str, *, d_m: int = 48) -> float:
    """``E‖W_0 k‖²/d`` at the watched keys of :func:`grow`: some 1/7, and a little more where they lean.

    For N random keys and values of unit variance ``E‖W_0‖²/d = d_m/(N - d_m - 1)``, here with ``N = 8 d_m`` (the trace
    of the mean of an inverse Wishart matrix); a common component of the keys makes each ``1/(1 - lean)`` as long.
    """
    return d_m / (7 * d_m - 1) / (1 - ARMS[arm][2])


def grow(
    arm: str, seed: int, stops: Sequence[int] | np.ndarray, *, d: int = 16, d_m: int = 48, watched: int = 256
) -> Float[np.ndarray, " stops"]:
    """Root mean square of ``|Δ_o|/√d`` at untouched facts after n ROME edits, in one of the :data:`ARMS`.

    The memory stores ``8 d_m`` random pairs, which set C. The facts, edited or watched, have fresh keys; where keys
    *lean*, all share a component that C does not know, which makes the mean of p positive (0.05). Fixed targets
    are random values; a re-optimised one lies at a distance ``√d`` from the present recall, in a random direction or
    in one that is the same for all edits.
    """
    fixed, aligned, _ = ARMS[arm]
    memory, K, V, watch = _draw_arm(arm, seed, int(max(stops)), d, d_m, watched)
    if aligned:
        V = np.repeat(V[:, :1], len(K.T), axis=1)
    if not fixed:
        V *= math.sqrt(d) / np.linalg.norm(V, axis=0)
    for k, v in zip(K.T, V.T, strict=True):
        memory.edit(k, v if fixed else memory.recall(k) + v)
    return np.sqrt(damage_along(memory, watch, stops) / d)


def _draw_arm(arm: str, seed: int, n: int, d: int, d_m: int, watched: int) -> tuple[LinearMemory, Any, Any, Any]:
    """The memory of an arm, the keys of its n edits and their draws of values, and the keys that are watched."""
    lean = ARMS[arm][2]
    rng = np.random.default_rng(seed)
    memory = LinearMemory.from_pairs(rng.normal(size=(d_m, 8 * d_m)), rng.normal(size=(d, 8 * d_m)))
    common = math.sqrt(lean / (1 - lean)) * rng.choice([-1.0, 1.0], size=(d_m, 1))
    K = rng.normal(size=(d_m, n)) + common
    V = rng.normal(size=(d, n))
    return memory, K, V, rng.normal(size=(d_m, watched)) + common


def moments_of_overlap(
    arm: str, seed: int, *, d: int = 16, d_m: int = 48, n: int = 384, watched: int = 256
) -> tuple[float, float]:
    """Squared mean and mean square over edits of ``p(k_e, k_j)``, averaged over the watched keys of :func:`grow`.

    From the keys alone, before any edit. The squared mean is freed of its sampling error (the variance over the edits,
    divided by their number), so that keys that do not lean give zero on average.
    """
    memory, K, _, watch = _draw_arm(arm, seed, n, d, d_m, watched)
    P = overlap.superposition_matrix(np.concatenate([K, watch], axis=1), memory.metric)[:n, n:]
    return float((P.mean(0) ** 2 - P.var(0, ddof=1) / n).mean()), float((P**2).mean())


def growth_law(n: Any, squared_mean: float, square: float, aligned: float = 1.0) -> Any:
    """``√(n (s² - a μ²) + n² a μ²)``: r.m.s. damage after n edits with residuals of mean square 1.

    Equation ``eq-toymemory-growth``: μ² and s² are the squared mean and the mean square of the overlaps, a the squared
    length of the mean residual (1 if all residuals are equal).
    """
    n = np.asarray(n)
    return np.sqrt(n * (square - aligned * squared_mean) + n**2 * aligned * squared_mean)


#: The arms of :func:`feedback`: whose answer the residual is measured by, that its target was found beforehand, or that
#: no key meets another.
LOOPS = ("moving", "anchored", "beforehand", "no overlap")


def feedback(
    arm: str,
    seed: int,
    n: int = 48,
    *,
    c: float = 2.0,
    d: int = 16,
    d_m: int = 64,
    r: int = 16,
    rule: str | Callable[..., Any] = "rome",
) -> LinearMemory:
    """A memory after n edits that each change the answer by c times its length, in one of the :data:`LOOPS`.

    Keys are whitened (C is the identity), of length one, and spread evenly over r of the d_m directions, so that the
    mean of ``p(k_i, k_j)²`` is ``q = 1/r``; with *no overlap* they are orthogonal. The mean of ``|W_0 k|²`` is 1. Each
    residual points in a random direction and is as long as c times the answer of the memory as edited so far
    (*moving*, *no overlap*) or of the unedited one (*anchored*); *beforehand*, the target is that of the unedited
    memory, ``W_0 k`` and such a residual. What to expect: :func:`feedback_law`.

    Raises
    ------
    UserError
        An arm that is not known, r not from 1 to d_m, or more edits than there are orthogonal keys.
    """
    if arm not in LOOPS:
        raise UserError(f"There is no arm {arm!r}: choose from {', '.join(LOOPS)}.")
    if not 1 <= r <= d_m:
        raise UserError(f"r is {r}: the keys' directions are some of the {d_m} that there are, 1 to d_m.")
    if arm == "no overlap" and n > d_m:
        raise UserError(f"{n} keys cannot be orthogonal in {d_m} dimensions: write {d_m} edits or fewer.")
    rng = np.random.default_rng(seed)
    memory = LinearMemory(rng.normal(size=(d, d_m)) / math.sqrt(d), np.eye(d_m))
    if arm == "no overlap":
        K = draw_keys("orthogonal", d_m, n, rng)
    else:
        K = np.concatenate([rng.normal(size=(r, n)), np.zeros((d_m - r, n))])
    K /= np.linalg.norm(K, axis=0)
    directions = rng.normal(size=(d, n))
    directions /= np.linalg.norm(directions, axis=0)
    for k, direction in zip(K.T, directions.T, strict=True):
        now, before = memory.recall(k), memory.W_0 @ k
        measure = now if arm in ("moving", "no overlap") else before
        start = before if arm == "beforehand" else now
        memory.edit(k, start + c * np.linalg.norm(measure) * direction, rule)
    return memory


def change_along(memory: LinearMemory, stops: Sequence[int] | np.ndarray) -> Float[np.ndarray, " stops"]:
    """``‖W_n - W_0‖`` (Frobenius) after each number of edits in ``stops``, each from 1 to the number of edits."""
    residuals, M = memory.residuals, memory.directions
    products = (residuals.T @ residuals) * (M.T @ M)  # entry (i, j): of the changes that edits i and j made
    squared = np.diag(products.cumsum(0).cumsum(1))
    return np.sqrt(squared[np.asarray(stops) - 1])


def feedback_law(arm: str, n: Any, c: float, q: float, a: float = 1.0) -> Any:
    """``√(c² a (gⁿ - 1)/(g - 1))``: r.m.s. of ``‖W_n - W_0‖`` in an arm of :func:`feedback`.

    Equation ``eq-runaway-loop``: ``g = 1 + c²q`` for *moving*, ``1 - q`` for *beforehand* and 1 for the other two,
    where the fraction is n; q is the mean of p² among the edits' keys, a the mean of ``|W_0 k|²``.
    """
    n = np.asarray(n)
    rate = {"moving": c**2 * q, "beforehand": -q}.get(arm, 0.0)
    return np.sqrt(c**2 * a * (np.expm1(n * np.log1p(rate)) / rate if rate else n))


def suffer(seed: int, *, d: int = 16, d_m: int = 48, n: int = 144) -> Float[np.ndarray, " n"]:
    """``|Δ_e[:, j]|²/d`` for each of n ROME edits with fixed targets at fresh random keys, in the order they came."""
    rng = np.random.default_rng(seed)
    memory = LinearMemory.from_pairs(rng.normal(size=(d_m, 8 * d_m)), rng.normal(size=(d, 8 * d_m)))
    memory.edit_batch(rng.normal(size=(d_m, n)), rng.normal(size=(d, n)), "rome")
    return (memory.measured_interference_on_edits() ** 2).sum(0) / d
