"""Toy worlds in which every cause can be turned by hand: keys of many kinds, and ReLU autoencoders.

The first part draws keys for a linear memory, and says how far n edits move it when the keys are random
(chapter ``book/07-toy-memory.ipynb``). The second trains the autoencoders of Elhage et al. (arXiv 2209.10652),
``x̂ = ReLU(WᵀW x + b)``, which squeeze n features that are seldom there through m < n dimensions, many models at a
time (chapter ``book/08-toy-superposition.ipynb``). There W is (m, n): its columns are the directions that the
features were given, just as the columns of K are the keys of a memory.

The records of both chapters are made by ``experiments/toys.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from superposition.errors import UserError
from superposition.linear import overlap, rules
from superposition.linear.memory import LinearMemory
from superposition.stats import shape

__all__ = [
    "ARMS",
    "EDITORS",
    "KINDS",
    "LITTLE_USED",
    "SHAPES",
    "Autoencoders",
    "autoencode",
    "bridge",
    "compare_editors",
    "damage_along",
    "draw_facts",
    "draw_keys",
    "error_along",
    "feature_cosines",
    "feature_dimensionality",
    "feature_groups",
    "feature_moment",
    "features_as_keys",
    "find_shape",
    "forget",
    "grow",
    "growth_law",
    "mean_squared_overlap",
    "moments_of_overlap",
    "sample_features",
    "spread_of_damage",
    "suffer",
    "train_autoencoders",
]

# --- 07: keys of many kinds ---------------------------------------------------------------------------------

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


def damage_along(memory: LinearMemory, K: Float[Any, "d_m N"], stops: Sequence[int]) -> Float[np.ndarray, " stops"]:
    """Mean over the columns of K of ``|Δ_o|²`` after each number of edits in ``stops``, read off the ledger."""
    reach = memory.transfer(K)
    return np.array([((memory.residuals[:, :n] @ reach[:n]) ** 2).sum(0).mean() for n in stops])


def error_along(memory: LinearMemory, stops: Sequence[int]) -> Float[np.ndarray, " stops"]:
    """Mean of ``|W_n k_e - v_e|²`` over the edits so far, after each number of edits in ``stops``."""
    reach, missing = memory.transfer(memory.keys), memory.W_0 @ memory.keys - memory.values
    return np.array([((missing + memory.residuals[:, :n] @ reach[:n])[:, :n] ** 2).sum(0).mean() for n in stops])


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
    products = overlap.whitened_products(K, memory.metric)
    P = overlap.from_products(products)
    order = rng.permutation(N)
    memory.edit_batch(K[:, order[:n]], rng.normal(size=(d, n)), "rome")
    damage = np.sort((memory.measured_interference(K[:, order[n:]]) ** 2).sum(0))[::-1] / d
    return {
        "squared": float(d_m * np.mean(shape.off_diagonal(P) ** 2)),
        "kurtosis": shape.summary(P, resamples=0)["excess_kurtosis"],
        "kurtosis_cosine": shape.summary(overlap.cosines(products), resamples=0)["excess_kurtosis"],
        "damage": float(damage.mean()),
        "median": float(np.median(damage)),
        "worst": float(damage[: math.ceil(len(damage) / 100)].sum() / damage.sum()),
    }


def forget(load: float, seed: int, stops: Sequence[int], *, d: int = 16, d_m: int = 48) -> Float[np.ndarray, " stops"]:
    """Damage at unedited stored keys after n ROME edits of others, for a memory of ``load · d_m`` random pairs.

    Relative to ``E|W_0 k|² + E|v|² d_m/(d_m - 2)``, the damage of a memory that has lost everything. NaN beyond half of
    the facts.
    """
    rng = np.random.default_rng(seed)
    N = round(load * d_m)
    K, V = rng.normal(size=(d_m, N)), rng.normal(size=(d, N))
    memory = LinearMemory.from_pairs(K, V, ridge=0.0 if N > d_m else 1e-9 * N)
    most = min(N // 2, max(stops))
    memory.edit_batch(K[:, :most], rng.normal(size=(d, most)), "rome")
    whole = (memory.W_0 @ K[:, most:]).var() * d + d * d_m / (d_m - 2)
    damage = damage_along(memory, K[:, most:], [n for n in stops if n <= most]) / whole
    return np.concatenate([damage, np.full(len(stops) - len(damage), np.nan)])


#: The arms of :func:`grow`: are the targets fixed, do the residuals align, do the facts' keys lean one way?
ARMS = {
    "fixed targets": (True, 0.0, 0.0),
    "fixed targets, leaning keys": (True, 0.0, 0.05),
    "re-optimised, residuals at random": (False, 0.0, 0.05),
    "re-optimised, residuals aligned, keys at random": (False, 1.0, 0.0),
    "re-optimised, residuals aligned, leaning keys": (False, 1.0, 0.05),
}


def grow(
    arm: str, seed: int, stops: Sequence[int], *, d: int = 16, d_m: int = 48, watched: int = 256
) -> Float[np.ndarray, " stops"]:
    """Root mean square of ``|Δ_o|/√d`` at untouched facts after n ROME edits, in one of the :data:`ARMS`.

    The memory stores ``8 d_m`` random pairs, which set C. The facts, edited or watched, have fresh keys; where keys
    *lean*, all share a component that C does not know, which makes the mean of p positive (0.05). Fixed targets
    are random values; a re-optimised one lies at a distance ``√d`` from the present recall, in a random direction or
    in one that is the same for all edits.
    """
    fixed, aligned, _ = ARMS[arm]
    memory, K, V, watch = _draw_arm(arm, seed, max(stops), d, d_m, watched)
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


def suffer(seed: int, *, d: int = 16, d_m: int = 48, n: int = 144) -> Float[np.ndarray, " n"]:
    """``|Δ_e[:, j]|²/d`` for each of n ROME edits with fixed targets at fresh random keys, in the order they came."""
    rng = np.random.default_rng(seed)
    memory = LinearMemory.from_pairs(rng.normal(size=(d_m, 8 * d_m)), rng.normal(size=(d, 8 * d_m)))
    memory.edit_batch(rng.normal(size=(d_m, n)), rng.normal(size=(d, n)), "rome")
    return (memory.measured_interference_on_edits() ** 2).sum(0) / d


#: How large a key's entries are in the half of the coordinates that :func:`compare_editors` leaves to AlphaEdit.
LITTLE_USED = 0.3

#: The editors of :func:`compare_editors`: rule of :class:`superposition.linear.memory.LinearMemory`, and its options.
EDITORS: dict[str, tuple[str, dict[str, float]]] = {
    "ROME": ("rome", {}),
    "MEMIT": ("memit", {"weight": 50.0}),
    "MEMIT with history (soft)": ("memit-history", {"weight": 50.0}),
    "AlphaEdit": ("alphaedit", {"ridge": 0.1}),
    "recursion, hard": ("rls-hard", {}),
}


def compare_editors(
    editor: str, seed: int, stops: Sequence[int], *, d: int = 16, d_m: int = 64, N: int = 512
) -> tuple[Float[np.ndarray, " stops"], Float[np.ndarray, " stops"]]:
    """Mean squared error of the edits so far, and mean squared damage at the stored keys, after n edits.

    Both over the mean squared change that the edits ask of the memory as it was. Half of the directions are little
    used (:data:`LITTLE_USED`): the room that AlphaEdit writes in. NaN where an editor has stopped.
    """
    rule, options = EDITORS[editor]
    rng = np.random.default_rng(seed)
    used = np.where(np.arange(d_m) < d_m // 2, 1.0, LITTLE_USED)[:, None]
    K, K_e = used * rng.normal(size=(d_m, N)), used * rng.normal(size=(d_m, max(stops)))
    V, V_e = rng.normal(size=(d, N)), rng.normal(size=(d, max(stops)))
    memory = LinearMemory.from_pairs(K, V)
    options = dict(options)
    if rule == "alphaedit":
        options["projector"] = rules.null_space_projector(K @ K.T, 0.3 * N)
    for k, v in zip(K_e.T, V_e.T, strict=True):
        try:
            memory.edit_batch(k[:, None], v[:, None], rule, **options)
        except UserError:
            break
    asked = ((V_e - memory.W_0 @ K_e) ** 2).sum(0).mean()
    held = [n for n in stops if n <= memory.n_edits]
    rest = np.full(len(stops) - len(held), np.nan)
    error, damage = error_along(memory, held), damage_along(memory, K, held)
    return np.concatenate([error / asked, rest]), np.concatenate([damage / asked, rest])


# --- 08: autoencoders ---------------------------------------------------------------------------------------

#: The shapes behind the fractions: features, dimensions, and the largest cosine between two of its features.
SHAPES = {
    "antipodal pair": (2, 1, -1.0),
    "triangle": (3, 2, -1 / 2),
    "pentagon": (5, 2, math.cos(2 * math.pi / 5)),
    "tetrahedron": (4, 3, -1 / 3),
    "square antiprism": (8, 3, 0.26),
}


@dataclass(frozen=True)
class Autoencoders:
    """Trained autoencoders, one for each seed and condition.

    Attributes
    ----------
    W : (seeds, conditions, m, n) float32
        Column i is the direction of feature i.
    b : (seeds, conditions, n) float32
    loss : (seeds, conditions)
        Importance-weighted squared error, summed over features, mean over fresh data.
    """

    W: Float[np.ndarray, "seeds conditions m n"]
    b: Float[np.ndarray, "seeds conditions n"]
    loss: Float[np.ndarray, "seeds conditions"]


def sample_features(u: Float[Any, "*batch"], density: Any) -> Float[Any, "*batch"]:
    """Features from uniform numbers u: 0 with probability ``1 - density``, else uniform in (0, 1].

    ``(1 - u/density)₊``. One draw decides whether a feature is there and how large it is, so models of different
    density can be given the same luck.
    """
    return (1 - u / density).clip(0)


def autoencode(W: Float[Any, "*models m n"], b: Float[Any, "*models n"], x: Float[Any, "*models n batch"]) -> Any:
    """``x̂ = ReLU(WᵀW x + b)``, inputs as columns; NumPy or torch."""
    return (W.swapaxes(-1, -2) @ (W @ x) + b[..., None]).clip(0)


def _gradients(W: Any, b: Any, x: Any, weight: Any) -> tuple[Any, Any]:
    """Gradients of ``Σ weight (x̂ - x)²`` by W and b, summed over the last axis of x."""
    h = W @ x
    x_hat = (W.mT @ h).add_(b[..., None]).clamp_(min=0)
    slope = (x_hat - x).mul_(2 * weight).mul_(x_hat > 0)
    return h @ slope.mT + (W @ slope) @ x.mT, slope.sum(-1)


def train_autoencoders(
    n: int,
    m: int,
    density: Sequence[float],
    *,
    importance: Float[np.ndarray, "*conditions n"] | None = None,
    seeds: Sequence[int] = range(5),
    steps: int = 2000,
    batch: int = 256,
    rate: float = 1e-2,
    init: float = 0.1,
) -> Autoencoders:
    """Train ``len(seeds) × len(density)`` autoencoders side by side, each on data of its own.

    Adam with a cosine schedule from ``rate`` to 0. Adam works entry by entry, so a model does not feel the others:
    it comes out as it would alone, up to rounding. Models of one seed start alike and see the same draws.

    Parameters
    ----------
    n, m : int
        Features and dimensions.
    density : (conditions,)
        Probability that a feature is there (1 minus the *sparsity* of Elhage et al.); features are independent and,
        if there, uniform in (0, 1].
    importance : (n,) or (conditions, n), optional
        Weight of each feature's squared error; 1 if left out.
    seeds : sequence of int
    steps, batch, rate
        Of the training.
    init : float
        Initial weights are normal with standard deviation ``init/√n``.

    Raises
    ------
    UserError
        Sizes, densities or importances that make no sense.
    """
    import torch

    q = np.asarray(density, dtype=np.float64)
    if min(n, m, steps, batch) < 1 or not len(seeds):
        raise UserError(f"n = {n}, m = {m}, {steps} steps, batch {batch}, {len(seeds)} seeds: give 1 or more of each.")
    if q.ndim != 1 or not q.size or not ((q > 0) & (q <= 1)).all():
        raise UserError("density must be a list of probabilities, above 0 and at most 1.")
    weight = np.ones(n) if importance is None else np.asarray(importance, dtype=np.float64)
    if weight.shape not in ((n,), (len(q), n)) or not (weight >= 0).all():
        raise UserError(f"importance must be {n} weights, or a row of them for each density, none negative.")
    weight = torch.tensor(np.broadcast_to(weight, (len(q), n)) / q[:, None], dtype=torch.float32)[..., None]
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    start = torch.stack([torch.randn(m, n, generator=g) for g in generators]) * (init / math.sqrt(n))
    W = start[:, None].repeat(1, len(q), 1, 1)
    b = torch.zeros(len(seeds), len(q), n)
    optimiser = torch.optim.Adam([W, b], lr=rate)
    chance = torch.tensor(q, dtype=torch.float32)[:, None, None]
    u = torch.empty(len(seeds), 1, n, batch)

    def draw() -> Any:
        for row, generator in zip(u, generators, strict=True):
            torch.rand(n, batch, generator=generator, out=row[0])
        return (1 - u / chance).clamp_(min=0)

    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate / 2 * (1 + math.cos(math.pi * step / steps))
        W.grad, b.grad = _gradients(W, b, draw(), weight / batch)
        optimiser.step()
    rounds = max(1, 4096 // batch)
    loss = torch.zeros(len(seeds), len(q))
    for _ in range(rounds):
        x = draw()
        loss += ((autoencode(W, b, x) - x) ** 2 * weight * chance).sum(-2).mean(-1) / rounds
    return Autoencoders(W.numpy(), b.numpy(), loss.numpy())


def feature_dimensionality(W: Float[np.ndarray, "*models m n"]) -> Float[np.ndarray, "*models n"]:
    """``D_i = |W_i|² / Σ_j (Ŵ_i·W_j)²``, the share of a dimension that feature i has to itself; 0 for a zero column.

    Elhage et al. (2022), equation ``eq-toys-dimensionality``.
    """
    W = np.asarray(W, dtype=np.float64)
    products = W.swapaxes(-1, -2) @ W
    squared = np.diagonal(products, axis1=-2, axis2=-1)
    crowd = (products**2).sum(-1)
    return np.divide(squared**2, crowd, out=np.zeros_like(crowd), where=crowd > 0)


def feature_cosines(W: Float[np.ndarray, "m n"], least: float = 0.5) -> Float[np.ndarray, "k k"]:
    """Cosines of the features that are represented: those with ``|W_i| > least``."""
    W = np.asarray(W, dtype=np.float64)
    kept = W[:, np.linalg.norm(W, axis=0) > least]
    unit = kept / np.linalg.norm(kept, axis=0)
    return unit.T @ unit


def feature_groups(
    W: Float[np.ndarray, "m n"], *, least: float = 0.5, touch: float = 0.2
) -> list[tuple[list[int], Float[np.ndarray, "dims k"]]]:
    """The represented features taken apart into groups that do not overlap, and each group in its own dimensions.

    Two features with ``|cos| > touch`` are in one group, and so are those linked through others.

    Returns
    -------
    list of (features, shape)
        ``shape`` (dims, k): the group's columns in an orthonormal basis of their span, singular values below a fifth
        of the largest left out. Three features in two dimensions are a triangle, five a pentagon.
    """
    W = np.asarray(W, dtype=np.float64)
    rest = [int(i) for i in np.flatnonzero(np.linalg.norm(W, axis=0) > least)]
    unit = W / np.maximum(np.linalg.norm(W, axis=0), 1e-12)
    groups = []
    while rest:
        group, front = [], [rest[0]]
        while front:
            group += front
            rest = [i for i in rest if i not in front]
            front = [i for i in rest if np.abs(unit[:, i] @ unit[:, group]).max() > touch]
        U, size, _ = np.linalg.svd(W[:, sorted(group)], full_matrices=False)
        groups.append((sorted(group), U[:, size > size[0] / 5].T @ W[:, sorted(group)]))
    return groups


def find_shape(W: Float[np.ndarray, "m n"], name: str, within: float = 0.1) -> list[Float[np.ndarray, "dims k"]]:
    """The groups of features (:func:`feature_groups`) that make one of the :data:`SHAPES`, each in its own dimensions.

    A group counts if it has the shape's features and dimensions, and its largest cosine is the shape's ``within`` this
    much. The cosine matters: dimensionality is blind to signs, and a tetrahedron with arrows reversed has 3/4 as well.
    """
    features, dims, cosine = SHAPES[name]
    found = [shape for _, shape in feature_groups(W) if shape.shape == (dims, features)]
    largest = [(feature_cosines(x, 0) - 2 * np.eye(features)).max() for x in found]
    return [x for x, c in zip(found, largest, strict=True) if abs(c - cosine) < within]


def mean_squared_overlap(W: Float[np.ndarray, "m n"], least: float = 0.5) -> float:
    """Mean of ``cos²`` over pairs of represented features; 1/m for random directions. NaN for fewer than two."""
    cosines = feature_cosines(W, least)
    k = len(cosines)
    return float(((cosines**2).sum() - k) / (k * (k - 1))) if k > 1 else math.nan


def feature_moment(n: int, density: float) -> Float[np.ndarray, "n n"]:
    """``E[x xᵀ]`` of the features, exactly: ``q/3`` on the diagonal and ``q²/4`` beside it, q the density."""
    return np.full((n, n), density**2 / 4) + (density / 3 - density**2 / 4) * np.eye(n)


def features_as_keys(W: Float[np.ndarray, "m n"], density: float, least: float = 0.5) -> dict[str, float] | None:
    """Statistics of P when each represented feature (``|W_i| > least``) is a key and C is the features' own moment.

    Returns
    -------
    dict or None
        ``count`` of represented features, then ``mean``, ``skew``, ``excess_kurtosis``, ``quantile_kurtosis``, ``min``
        and ``max`` of p, and ``squared``: m times the mean squared whitened cosine. None for fewer than three
        features, or where they all overlap alike.
    """
    W = np.asarray(W, dtype=np.float64)
    kept = W[:, np.linalg.norm(W, axis=0) > least]
    if kept.shape[1] < 3:
        return None
    found = overlap.measure(kept, W @ feature_moment(W.shape[1], density) @ W.T)
    try:
        statistics = shape.summary(found.P, resamples=0)
    except UserError:
        return None
    wanted = ("mean", "skew", "excess_kurtosis", "quantile_kurtosis", "min", "max")
    squared = len(W) * np.mean(shape.off_diagonal(found.cosine_whitened) ** 2)
    return {"count": kept.shape[1], "squared": float(squared)} | {name: statistics[name] for name in wanted}


def draw_facts(
    n: int, count: int, density: float, rng: np.random.Generator, relations: int = 0
) -> Float[np.ndarray, "n count"]:
    """Facts as sums of sparse features, one a column (n, count): each has at least two features.

    With ``relations``, fact j has feature ``j mod relations`` at full strength besides, as facts of one relation
    share what makes them a relation.
    """
    if n * density < 0.1 or n < 2:
        raise UserError(f"{n} features of density {density} hardly ever meet in a fact: give more, or denser ones.")
    x = sample_features(rng.random((n, count)), density)
    while len(bare := np.flatnonzero((x > 0).sum(0) < 2)):
        x[:, bare] = sample_features(rng.random((n, len(bare))), density)
    if relations:
        x[np.arange(count) % relations, np.arange(count)] = 1.0
    return x


def bridge(
    m: int, density: float, seed: int, *, n: int = 256, facts: int = 256, edits: int = 32, relations: int = 0
) -> dict[str, float]:
    """Statistics of P for facts that are sums of n sparse features in m dimensions, and where edits' damage falls.

    Features have random directions (one dimension each if m = n), C is their exact second moment, and the memory is
    edited by ROME.

    Returns
    -------
    dict
        ``mean``, ``skew``, ``kurtosis``, ``quantile_kurtosis`` of p; ``kurtosis_cosine`` of the whitened cosines, which
        know no lengths; ``squared``: m times the mean squared cosine; ``damage``: mean ``|Δ_o|²/d`` at unedited
        facts; ``worst``: share of the damage on the worst hundredth of them; both with all keys scaled to one
        whitened length, as ``damage_equal`` and ``worst_equal``.
    """
    rng = np.random.default_rng(seed)
    W = np.eye(n) if m == n else rng.normal(size=(m, n)) / math.sqrt(m)
    C = W @ feature_moment(n, density) @ W.T
    K = W @ draw_facts(n, facts, density, rng, relations)
    found = overlap.measure(K, C)
    P = shape.summary(found.P, resamples=0)
    cosine = shape.off_diagonal(found.cosine_whitened)
    result = {name: P[name] for name in ("mean", "skew", "quantile_kurtosis")}
    result |= {
        "kurtosis": P["excess_kurtosis"],
        "kurtosis_cosine": shape.summary(found.cosine_whitened, resamples=0)["excess_kurtosis"],
        "squared": float(m * (cosine**2).mean()),
    }
    V = rng.normal(size=(16, edits))
    for name, keys in (("", K), ("_equal", K * math.sqrt(m) / found.norm_whitened)):
        memory = LinearMemory(np.zeros((16, m)), C)
        memory.edit_batch(keys[:, :edits], V, "rome")
        damage = np.sort((memory.measured_interference(keys[:, edits:]) ** 2).sum(0))[::-1] / len(V)
        result[f"damage{name}"] = float(damage.mean())
        result[f"worst{name}"] = float(damage[: math.ceil(len(damage) / 100)].sum() / damage.sum())
    return result
