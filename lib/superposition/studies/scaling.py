"""Measurements of several models side by side (chapter ``13-scaling``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Float

from superposition import records
from superposition.records import Record
from superposition.stats import shape
from superposition.stats.intervals import Estimate, over_pairs
from superposition.studies.confounds import firsts
from superposition.studies.nulls import of_products, resampled

#: Where :func:`superposition.studies.nulls.of_products` has a statistic of P, and one of the whitened cosines.
KURTOSIS = 0, shape.STATISTICS.index("excess_kurtosis")
SPREAD = 0, shape.STATISTICS.index("spread")
TAILS = 1, shape.STATISTICS.index("l_kurtosis")


def largest_measurements(names: Iterable[str] | None = None) -> list[Record]:
    """The book's measurements, one a model: that of the most facts, then of the most tokens; by width, then by name.

    A record of another model dropped into ``book/records`` is among them.
    """
    best: dict[str, Record] = {}
    for name in records.names(kind="measurement") if names is None else names:
        record = records.load(name)
        size = record["facts"]["count"], record["text"]["tokens"]
        kept = best.get(record["model"]["sha256"])
        if kept is None or size > (kept["facts"]["count"], kept["text"]["tokens"]):
            best[record["model"]["sha256"]] = record
    return sorted(best.values(), key=lambda record: (width(record), record["model"]["name"]))


def width(record: Record) -> int:
    """The widest memory of a measurement's layers."""
    return max(row["d_m"] for row in record["statistics"])


def clean_facts(record: Record) -> list[int]:
    """Facts of a measurement without known confounds: none at position 0, one for each last token and each subject."""
    inside = [i for i, position in enumerate(record["token_positions"]) if position > 0]
    inside = [inside[i] for i in firsts([record["token_ids"][i] for i in inside])]
    return [inside[i] for i in firsts([record["subjects"][i] for i in inside])]


def clean_in_every(measured: Sequence[Record]) -> list[list[int]]:
    """For each measurement its facts that are clean in every model measured on the same list of facts."""
    alike = [[other for other in measured if other["subjects"] == record["subjects"]] for record in measured]
    return [sorted(set.intersection(*(set(clean_facts(record)) for record in group))) for group in alike]


def layer_at(record: Record, depth: float) -> int:
    """The recorded layer nearest to a relative depth: 0 the first, 1 the last."""
    return record["layers"][round(depth * (len(record["layers"]) - 1))]


def products_of(record: Record, layer: int) -> Float[np.ndarray, "m m"]:
    """``Kᵀ C⁻¹ K`` of a recorded layer."""
    kept = record.overlaps(layer)
    return kept.cosine_whitened * np.outer(kept.norm_whitened, kept.norm_whitened)


def by_layer(record: Record, facts: Sequence[int] | None = None) -> Float[np.ndarray, "layers 2 statistics"]:
    """:func:`superposition.studies.nulls.of_products` of a measurement's layers, of all facts or of some."""
    chosen = list(range(record["facts"]["count"])) if facts is None else list(facts)
    rows = zip(record["layers"], (row["d_m"] for row in record["statistics"]), strict=True)
    return np.array([of_products(products_of(record, layer)[np.ix_(chosen, chosen)], d_m) for layer, d_m in rows])


def mirrored(values: Float[np.ndarray, "layers 2 statistics"]) -> float:
    """Rank correlation, over a model's layers, of the spread of P with its excess kurtosis."""
    return float(scipy.stats.spearmanr(values[:, *SPREAD], values[:, *KURTOSIS]).statistic)


def strongest(record: Record, facts: Sequence[int]) -> list[float]:
    """The largest overlap of two of some facts, layer by layer."""
    return [float(shape.off_diagonal(record.overlaps(n).P[np.ix_(facts, facts)]).max()) for n in record["layers"]]


class Resampled(NamedTuple):
    """Statistics of a list of facts, and those of its bootstrap samples."""

    value: Float[np.ndarray, "2 statistics"]
    drawn: Float[np.ndarray, "resamples 2 statistics"]


def at_depth(record: Record, facts: Sequence[int], depth: float, resamples: int = 60) -> Resampled:
    """:func:`superposition.studies.nulls.of_products` of some facts at the layer of a relative depth.

    Two models with as many facts draw the *same* facts, so that their difference can be judged as well.
    """
    layer = layer_at(record, depth)
    products = products_of(record, layer)[np.ix_(facts, facts)]
    d_m = record["statistics"][record["layers"].index(layer)]["d_m"]
    return Resampled(of_products(products, d_m), resampled(products, d_m, resamples, np.random.default_rng(0)))


def _powers(record: Record, facts: Sequence[int], depth: float) -> Float[np.ndarray, "4 m m"]:
    P = record.overlaps(layer_at(record, depth)).P[np.ix_(facts, facts)]
    return np.stack([P, P**2, P**3, P**4])


def kurtosis_at(record: Record, facts: Sequence[int], depth: float, resamples: int = 500) -> Estimate:
    """The excess kurtosis of P over some facts at the layer of a relative depth; the facts are drawn."""
    every = np.ones((len(facts),) * 2, dtype=bool)
    return over_pairs(
        _powers(record, facts, depth), every, lambda moments: shape.excess_kurtosis(*moments), resamples=resamples
    )


def kurtosis_rise(
    narrow: tuple[Record, Sequence[int]], wide: tuple[Record, Sequence[int]], depth: float, resamples: int = 500
) -> Estimate:
    """By how much :func:`kurtosis_at` is higher in the wider of two models; the same facts are drawn in both.

    Parameters
    ----------
    narrow, wide : (Record, facts)
        Lists of the same facts.
    """
    both = np.concatenate([_powers(*of, depth) for of in (narrow, wide)])
    every = np.ones(both.shape[1:], dtype=bool)

    def rise(moments: Float[np.ndarray, "8 b"]) -> Float[np.ndarray, " b"]:
        return shape.excess_kurtosis(*moments[4:]) - shape.excess_kurtosis(*moments[:4])

    return over_pairs(both, every, rise, resamples=resamples)


def estimate(sample: Resampled, statistic: tuple[int, int]) -> Estimate:
    """One statistic, such as ``KURTOSIS``, with its 95 % percentile interval."""
    ends = np.quantile(sample.drawn[:, *statistic], [0.025, 0.975])
    return Estimate(float(sample.value[statistic]), *map(float, ends))


def difference(narrow: Resampled, wide: Resampled, statistic: tuple[int, int]) -> Estimate:
    """By how much a statistic is higher in the wider model, sample by sample of the same facts."""
    return estimate(Resampled(wide.value - narrow.value, wide.drawn - narrow.drawn), statistic)


def untrained_or_trained(record: Record, name: str, listed: str, statistic: str, matrix: str = "P") -> np.ndarray:
    """A statistic by layer of the ``trained`` model, or its mean over draws of random weights (``untrained``)."""
    place = [list(record[x]).index(y) for x, y in (("lists", listed), ("matrices", matrix), ("statistics", statistic))]
    values = record.arrays[name]
    return (values.mean(0) if name == "untrained" else values)[:, *place]
