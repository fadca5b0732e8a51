"""Toy models of superposition (Elhage et al., arXiv 2209.10652), and what their features are as keys of a memory.

An autoencoder ``x̂ = ReLU(WᵀW x + b)`` squeezes n features that are seldom there through m < n dimensions; many are
trained at a time. W is (m, n): its columns are the directions that the features were given, as the columns of K are the
keys of a memory. Chapter ``book/08-toy-superposition.ipynb``; its record is made by ``experiments/toys.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from superposition.errors import UserError
from superposition.linear import overlap
from superposition.linear.memory import LinearMemory
from superposition.stats import shape
from superposition.toys.memory import damages, share_of_worst

#: The shapes behind the fractions: features, dimensions, and the largest cosine between two of its features.
SHAPES = {
    "antipodal pair": (2, 1, -1.0),
    "triangle": (3, 2, -1 / 2),
    "pentagon": (5, 2, math.cos(2 * math.pi / 5)),
    "tetrahedron": (4, 3, -1 / 3),
    "square antiprism": (8, 3, 0.26),
}
#: A feature is represented if its direction is longer; two are in one group if the size of their cosine is larger.
REPRESENTED, LINKED = 0.5, 0.2


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
    importance: ArrayLike | None = None,
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


def pair_loss(
    W: Float[np.ndarray, "*models 2"],
    b: Float[np.ndarray, "*models 2"],
    density: Float[np.ndarray, "*models"],
    importance: Float[np.ndarray, "*models 2"],
    points: int = 100,
) -> Float[np.ndarray, "*models"]:
    """Loss of autoencoders with two features in one dimension, by integration over both sizes (midpoint rule).

    A sample of inputs has a scatter of its own, and the least of several sampled losses lies below the least loss.
    """
    t = (np.arange(points) + 0.5) / points
    cases = [(0 * t[:1], 0 * t[:1]), (t, 0 * t), (0 * t, t), tuple(x.ravel() for x in np.meshgrid(t, t))]
    chances = [(1 - density) ** 2, density * (1 - density), density * (1 - density), density**2]
    total = np.zeros(np.shape(density))
    for x, chance in zip(map(np.stack, cases), chances, strict=True):
        for at in np.ndindex(total.shape):
            x_hat = np.maximum(np.outer(W[at], W[at] @ x) + b[at][:, None], 0)
            total[at] += chance[at] * (importance[at] @ ((x_hat - x) ** 2).mean(1))
    return total


def feature_dimensionality(W: Float[np.ndarray, "*models m n"]) -> Float[np.ndarray, "*models n"]:
    """``D_i = |W_i|² / Σ_j (Ŵ_i·W_j)²``, the share of a dimension that feature i has to itself; 0 for a zero column.

    Elhage et al. (2022), equation ``eq-toys-dimensionality``.
    """
    W = np.asarray(W, dtype=np.float64)
    products = W.swapaxes(-1, -2) @ W
    squared = np.diagonal(products, axis1=-2, axis2=-1)
    crowd = (products**2).sum(-1)
    return np.divide(squared**2, crowd, out=np.zeros_like(crowd), where=crowd > 0)


def represented(W: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m k"]:
    """The directions of the features that are represented, ``|W_i| >`` :data:`REPRESENTED`, in float64."""
    W = np.asarray(W, dtype=np.float64)
    return W[:, np.linalg.norm(W, axis=0) > REPRESENTED]


def feature_groups(W: Float[np.ndarray, "m n"]) -> list[tuple[list[int], Float[np.ndarray, "dims k"]]]:
    """The represented features taken apart into groups that do not overlap, and each group in its own dimensions.

    Two features with ``|cos| >`` :data:`LINKED` are in one group, and so are those linked through others.

    Returns
    -------
    list of (features, shape)
        ``shape`` (dims, k): the group's columns in an orthonormal basis of their span, singular values below a fifth
        of the largest left out. Three features in two dimensions are a triangle, five a pentagon.
    """
    W = np.asarray(W, dtype=np.float64)
    rest = [int(i) for i in np.flatnonzero(np.linalg.norm(W, axis=0) > REPRESENTED)]
    unit = W / np.maximum(np.linalg.norm(W, axis=0), 1e-12)
    groups = []
    while rest:
        group, front = [], [rest[0]]
        while front:
            group += front
            rest = [i for i in rest if i not in front]
            front = [i for i in rest if np.abs(unit[:, i] @ unit[:, group]).max() > LINKED]
        U, size, _ = np.linalg.svd(W[:, sorted(group)], full_matrices=False)
        inside = size > size[0] / 5  # training leaves the arrows of a plane a little out of it
        groups.append((sorted(group), U[:, inside].T @ W[:, sorted(group)]))
    return groups


def find_shape(W: Float[np.ndarray, "m n"], name: str, within: float = 0.1) -> list[Float[np.ndarray, "dims k"]]:
    """The groups of features (:func:`feature_groups`) that make one of the :data:`SHAPES`, each in its own dimensions.

    A group counts if it has the shape's features and dimensions, and its largest cosine is the shape's ``within`` this
    much. The cosine matters: dimensionality is blind to signs, and a tetrahedron with arrows reversed has 3/4 as well.
    """
    features, dims, cosine = SHAPES[name]
    groups = [group for _, group in feature_groups(W) if group.shape == (dims, features)]
    largest = [(overlap.cosines(x.T @ x) - 2 * np.eye(features)).max() for x in groups]
    return [x for x, c in zip(groups, largest, strict=True) if abs(c - cosine) < within]


def feature_moment(n: int, density: float) -> Float[np.ndarray, "n n"]:
    """``E[x xᵀ]`` of the features, exactly: ``q/3`` on the diagonal and ``q²/4`` beside it, q the density."""
    return np.full((n, n), density**2 / 4) + (density / 3 - density**2 / 4) * np.eye(n)


def features_as_keys(W: Float[np.ndarray, "m n"], density: float) -> dict[str, float] | None:
    """Statistics of P when each represented feature is a key and C is the features' own moment.

    Returns
    -------
    dict or None
        ``count`` of represented features, then ``mean``, ``skew``, ``excess_kurtosis``, ``quantile_kurtosis``, ``min``
        and ``max`` of p, and ``squared``: m times the mean squared whitened cosine. None for fewer than three
        features, or where they all overlap alike.
    """
    W = np.asarray(W, dtype=np.float64)
    kept = represented(W)
    if kept.shape[1] < 3:
        return None
    measured = overlap.measure(kept, W @ feature_moment(W.shape[1], density) @ W.T)
    try:
        summary = shape.summary(measured.P, resamples=0)
    except UserError:
        return None
    names = ("mean", "skew", "excess_kurtosis", "quantile_kurtosis", "min", "max")
    squared = len(W) * np.mean(shape.off_diagonal(measured.cosine_whitened) ** 2)
    return {"count": kept.shape[1], "squared": float(squared)} | {name: summary[name] for name in names}


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
    measured = overlap.measure(K, C)
    P = shape.summary(measured.P, resamples=0)
    result = {name: P[name] for name in ("mean", "skew", "quantile_kurtosis")}
    result |= {
        "kurtosis": P["excess_kurtosis"],
        "kurtosis_cosine": shape.summary(measured.cosine_whitened, resamples=0)["excess_kurtosis"],
        "squared": float(m * (shape.off_diagonal(measured.cosine_whitened) ** 2).mean()),
    }
    V = rng.normal(size=(16, edits))
    for name, keys in (("", K), ("_equal", K * math.sqrt(m) / measured.norm_whitened)):
        memory = LinearMemory(np.zeros((16, m)), C)
        memory.edit_batch(keys[:, :edits], V, "rome")
        damage = damages(memory, keys[:, edits:])
        result |= {f"damage{name}": float(damage.mean()), f"worst{name}": share_of_worst(damage)}
    return result
