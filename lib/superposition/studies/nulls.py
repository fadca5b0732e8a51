"""Null models for the keys at a layer, the statistics of their overlaps, and the record that compares them.

Chapter ``12-nulls-and-confounds``. A null model keeps one property of the true keys and draws the rest at random, so
that what it reproduces needs no other explanation than the property it keeps. Keys are columns, ``Z`` stands for
whitened keys, ``Z = L⁻¹K`` with ``C = L Lᵀ``, and ``ZᵀZ = Kᵀ C⁻¹ K``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from superposition.errors import UserError
from superposition.linear import overlap
from superposition.records import Record
from superposition.stats import shape
from superposition.studies import confounds

# Null models of whitened keys


def gaussian(Z: Float[np.ndarray, "d_m m"], rng: np.random.Generator) -> Float[np.ndarray, "d_m m"]:
    """Whitened keys of independent standard normal entries: what random text with the same ``C`` would look like.

    Keeps the shape of ``Z`` (d_m, m) and nothing else.
    """
    return rng.standard_normal(Z.shape)


def same_norms(Z: Float[np.ndarray, "d_m m"], rng: np.random.Generator) -> Float[np.ndarray, "d_m m"]:
    """Each whitened key keeps its length and is turned in a random direction of its own."""
    directions = rng.standard_normal(Z.shape)
    return directions * (np.linalg.norm(Z, axis=0) / np.linalg.norm(directions, axis=0))


def same_spectrum(Z: Float[np.ndarray, "d_m m"], rng: np.random.Generator) -> Float[np.ndarray, "d_m m"]:
    """Same singular values as ``Z``, random singular vectors: each key a random mixture of all true ones, ``Z O``.

    ``O`` is a random orthogonal (m, m) matrix. The left singular vectors stay, since no product of keys sees them.
    """
    return Z @ orthonormal(Z.shape[1], Z.shape[1], rng)


def shuffled(Z: Float[np.ndarray, "d_m m"], rng: np.random.Generator) -> Float[np.ndarray, "d_m m"]:
    """Each dimension permuted across facts: every dimension keeps its values, so its mean, and no fact its key.

    Of raw keys or of whitened ones; the two differ.
    """
    return rng.permuted(Z, axis=1)


def turned(K: Float[np.ndarray, "d_m m"], rng: np.random.Generator) -> Float[np.ndarray, "d_m m"]:
    """All keys turned together by one random rotation, ``Q K``.

    Of raw keys: their lengths and angles stay, and how they lie towards ``C`` is lost. Of whitened keys it changes no
    overlap at all. Only the part of ``Q`` that the keys see is drawn.
    """
    _, triangle = np.linalg.qr(K)
    return orthonormal(K.shape[0], triangle.shape[0], rng) @ triangle


def orthonormal(rows: int, columns: int, rng: np.random.Generator) -> Float[np.ndarray, "rows columns"]:
    """Orthonormal columns, uniformly distributed (Haar measure): QR of a normal matrix with the signs set free."""
    q, r = np.linalg.qr(rng.standard_normal((rows, columns)))
    return q * np.sign(np.diag(r))


#: Null models of whitened keys by name, in the order of how much they keep.
WHITENED: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "gaussian": gaussian,
    "same norms": same_norms,
    "same spectrum": same_spectrum,
    "shuffled": shuffled,
}
#: Null models of raw keys, to be whitened with the true C afterwards.
RAW: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "shuffled before": shuffled,
    "turned before": turned,
}

# Statistics of overlaps


def of_products(
    products: Float[np.ndarray, "m m"], d_m: int, keep: Bool[np.ndarray, "m m"] | None = None
) -> Float[np.ndarray, "2 statistics"]:
    """``shape.STATISTICS`` of ``P`` (first row) and of the symmetric whitened cosine (second), in their order.

    Parameters
    ----------
    products : (m, m) array
        ``Kᵀ C⁻¹ K`` (:func:`superposition.linear.overlap.whitened_products`).
    d_m : int
    keep : (m, m) array of bool, optional
        Pairs to count, symmetric; by default all. The diagonal never counts.
    """
    beside = ~np.eye(len(products), dtype=bool) if keep is None else keep & ~np.eye(len(products), dtype=bool)
    cosine = overlap.cosines(products)[np.triu(beside)]
    rows = [shape.statistics(overlap.from_products(products)[beside], d_m), shape.statistics(cosine, d_m)]
    return np.array([[row[name] for name in shape.STATISTICS] for row in rows])


def resampled(
    products: Float[np.ndarray, "m m"],
    d_m: int,
    resamples: int,
    rng: np.random.Generator,
    keep: Bool[np.ndarray, "m m"] | None = None,
) -> Float[np.ndarray, "resamples 2 statistics"]:
    """:func:`of_products` of bootstrap samples of facts; a fact that is drawn twice does not meet itself."""
    m, drawn = len(products), []
    keep = np.ones((m, m), dtype=bool) if keep is None else keep
    for _ in range(resamples):
        chosen = np.sort(rng.integers(0, m, size=m))
        other = chosen[:, None] != chosen[None, :]
        drawn.append(of_products(products[np.ix_(chosen, chosen)], d_m, other & keep[np.ix_(chosen, chosen)]))
    return np.array(drawn)


def subsampled(
    products: Float[np.ndarray, "m m"], d_m: int, size: int, draws: int, rng: np.random.Generator
) -> Float[np.ndarray, "draws 2 statistics"]:
    """:func:`of_products` of random lists of ``size`` of the m facts, drawn without replacement."""
    if not 4 <= size <= len(products):
        raise UserError(f"Lists of {size} facts cannot be drawn from {len(products)}: give 4 to {len(products)}.")
    chosen = (rng.choice(len(products), size=size, replace=False) for _ in range(draws))
    return np.array([of_products(products[np.ix_(some, some)], d_m) for some in chosen])


# Reading a record of nulls (experiments/nulls.py)


def curve(record: Record, statistic: str, of: str = "table", matrix: str = "P") -> Float[np.ndarray, " layers"]:
    """A statistic by layer: of the ``table`` of facts, the ``low`` or ``high`` end of its 95 % interval, a null model
    (the mean of its draws), or the facts without a confound.

    Raises
    ------
    UserError
        The record holds no such thing.
    """
    row, column = record["matrices"].index(matrix), record["statistics"].index(statistic)
    if of in record["nulls"]:
        return record.arrays["nulls"][:, record["nulls"].index(of), :, row, column].mean(1)
    if of in record["without"]:
        return record.arrays["without"][:, record["without"].index(of), row, column]
    if of not in ("table", "low", "high"):
        raise UserError(f"The record {record.name} holds no {of}: choose among {record['nulls'] + record['without']}.")
    return record.arrays[of][:, row, column]


def pairs(record: Record, reading: str, category: str, mean: str = "cosine") -> Float[np.ndarray, "3 layers"]:
    """Mean over pairs of one category in one reading by layer, and the ends of its 95 % interval."""
    where = record["readings"].index(reading), list(record["categories"]).index(category), record["means"].index(mean)
    return record.arrays["pairs"][:, *where].T


def scatter(record: Record, statistic: str, matrix: str = "P") -> Float[np.ndarray, "layers sizes"]:
    """How far a statistic scatters over lists of a size: half the 95 % interval over the whole table's value."""
    row, column = record["matrices"].index(matrix), record["statistics"].index(statistic)
    low, _, high = record.arrays["lists"][..., row, column]
    return (high - low) / 2 / np.abs(record.arrays["table"][:, row, column])[:, None]


#: What a null model is compared in: statistics of P, or of the cosines in whitened space.
COMPARED = {
    "mean": ("mean", "P"),
    "spread": ("spread", "P"),
    "kurtosis": ("excess_kurtosis", "P"),
    "kurtosis of cosines": ("excess_kurtosis", "cosine_whitened"),
    "L-kurtosis of cosines": ("l_kurtosis", "cosine_whitened"),
}


def ratio(record: Record, null: str, statistic: str, matrix: str = "P") -> Float[np.ndarray, " layers"]:
    """A null model's statistic over that of the facts, by layer.

    Tokens of text and random subjects were drawn without shared last tokens, and are compared with the facts without
    these, and without keys at position 0.
    """
    facts = "no position 0, no shared last token" if null in ("tokens of text", "random subjects") else "table"
    return curve(record, statistic, null, matrix) / curve(record, statistic, facts, matrix)


def compared(record: Record, null: str) -> dict[str, dict[str, float]]:
    """For each of :data:`COMPARED`, the :func:`ratio` in the median layer, its extremes, and where it reaches 1."""
    ratios = {label: ratio(record, null, *what) for label, what in COMPARED.items()}
    return {
        label: {"median": float(np.median(r)), "layers": int((r >= 1).sum())} | shape.extremes(r)
        for label, r in ratios.items()
    }


def cleaned(record: Record, statistic: str, without: str = "no position 0, one a last token") -> dict[str, float]:
    """What taking confounds out does to a statistic of P.

    Its value in the ``first`` layer before and after (``first_clean``), the ``least_clean`` of all layers, the largest
    relative ``change`` and the ``typical`` one, the median over layers.
    """
    all_, kept = curve(record, statistic), curve(record, statistic, without)
    change = np.abs(kept / all_ - 1)
    return {
        "first": all_[0],
        "first_clean": kept[0],
        "least_clean": kept.min(),
        "change": change.max(),
        "typical": np.median(change),
    }


def typical(record: Record, reading: str, category: str) -> float:
    """The mean cosine over pairs of one category in one reading, in the median layer."""
    return float(np.median(pairs(record, reading, category)[0]))


def uncertainty(record: Record, statistic: str, size: int) -> float:
    """:func:`scatter` over lists of a size, in the median layer."""
    return float(np.median(scatter(record, statistic)[:, record["sizes"].index(size)]))


def tails_of_lengths(record: Record) -> float:
    """What the lengths of the keys off position 0 make of the facts' kurtosis by themselves, in the median layer.

    Random directions of these lengths have it (:func:`superposition.studies.confounds.tail_factor`), over the kurtosis
    of the facts without position 0.
    """
    inside = np.array(record["token_positions"]) > 0
    alone = np.array([3 * confounds.tail_factor(norms[inside]) - 3 for norms in record.arrays["norm"]])
    return float(np.median(alone / curve(record, "excess_kurtosis", "no position 0")))
