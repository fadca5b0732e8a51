"""What hangs on the text behind C: statistics of the same facts, and of nulls, under several texts.

Chapters ``11-superposition-in-llms`` and ``12-nulls-and-confounds``, from the records of ``experiments/texts.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from superposition.records import Record
from superposition.stats import shape
from superposition.stats.intervals import Estimate

#: What the texts are called.
TEXTS = {"book": "SmolLM2's own text", "manual": "Python's manual", "wikipedia": "Wikipedia"}
#: Null models of keys, and what they are called.
NULLS = {
    "random subjects": "prompts about random words",
    "tokens of another text": "any tokens",
    "random weights": "random weights",
}
#: The facts of which no two share their last token and none is at position 0: what nulls are held against.
FACTS = "strangers"


def sources(record: Record) -> list[str]:
    """The texts of a record, in its order."""
    return [text["source"] for text in record["texts"]]


def _estimates(rows: np.ndarray) -> list[Estimate]:
    return [Estimate(*map(float, row)) for row in rows]


def statistic(record: Record, source: str, name: str, of: str = "facts", matrix: str = "P") -> list[Estimate]:
    """A statistic of P, or of the whitened cosines, by layer; its interval draws facts."""
    where = record["sets"].index(of), slice(None), record["matrices"].index(matrix), record["statistics"].index(name)
    return _estimates(record.arrays["statistics"][sources(record).index(source)][:, *where])


def beyond(record: Record, source: str, of: str = "facts") -> list[Estimate]:
    """By layer, the share of pairs with an overlap beyond three standard deviations of that of random keys."""
    return _estimates(record.arrays["beyond"][sources(record).index(source)][:, record["sets"].index(of)])


def more_than(record: Record, source: str, null: str, name: str) -> list[Estimate]:
    """By layer, what :data:`FACTS` have more than a null: of far pairs (:func:`beyond`), or of a statistic of p.

    The interval draws facts; the null's own value is taken as it is.
    """
    facts, there = (
        beyond(record, source, of) if name == "beyond" else statistic(record, source, name, of) for of in (FACTS, null)
    )
    return [Estimate(*(end - other.value for end in estimate)) for estimate, other in zip(facts, there, strict=True)]


def middle(layers: Sequence[Estimate]) -> Estimate:
    """The estimate of the median layer."""
    return sorted(layers)[len(layers) // 2]


def _drawn(record: Record, source: str, of: str = "facts") -> np.ndarray:
    """The kurtosis of p by layer in every resample of the facts."""
    return record.arrays["kurtosis"][sources(record).index(source)][:, record["drawn"].index(of)].astype(float)


def kurtosis_falls(record: Record, source: str, before: int, after: int) -> Estimate:
    """By how much the kurtosis of p is higher at one layer than at another; the same facts are drawn at both."""
    value = [estimate.value for estimate in statistic(record, source, "excess_kurtosis")]
    drawn = _drawn(record, source)
    low, high = np.quantile(drawn[before] - drawn[after], [0.025, 0.975])
    return Estimate(value[before] - value[after], float(low), float(high))


def wider(narrow: Record, wide: Record, source: str, depth: float) -> Estimate:
    """By how much the kurtosis of p is higher in the wider of two models at a relative depth, of :data:`FACTS`.

    The same facts are drawn in both; the pairs that are left out, for a shared token, are each model's own.
    """
    value, drawn = [], []
    for record in (narrow, wide):
        layer = round(depth * (len(record["layers"]) - 1))
        value.append(statistic(record, source, "excess_kurtosis", FACTS)[layer].value)
        drawn.append(_drawn(record, source, FACTS)[layer])
    low, high = np.quantile(drawn[1] - drawn[0], [0.025, 0.975])
    return Estimate(value[1] - value[0], float(low), float(high))


def steepest(record: Record, source: str) -> tuple[int, int]:
    """The two layers between which the kurtosis of p rises most: of the rises whose intervals lie above 0, if any."""
    layers = range(len(record["layers"]))
    rises = {
        (layer, later): kurtosis_falls(record, source, later, layer)
        for layer in layers
        for later in layers[layer + 1 :]
    }
    return max(rises, key=lambda pair: (rises[pair].low > 0, rises[pair].value))


def steepest_rise(record: Record, source: str) -> Estimate:
    """How much the kurtosis of p rises at its :func:`steepest`; the same facts are drawn at both layers."""
    layer, later = steepest(record, source)
    return kurtosis_falls(record, source, later, layer)


def nearer_to_right_angles(record: Record, source: str) -> list[Estimate]:
    """By layer, by how many degrees whitening brings the angle of the mean cosine nearer to 90°."""
    return _estimates(record.arrays["angles"][sources(record).index(source)][:, 2])


def kinship(record: Record, source: str, which: str, mean: str = "P") -> list[Estimate]:
    """By layer, the mean p, or the mean whitened cosine, over pairs of one kind, as ``own paraphrase``."""
    where = record["kinship"].index(which), record["matrices"].index(mean)
    return _estimates(record.arrays["kinship"][sources(record).index(source)][:, *where])


def nearer_to_paraphrases(record: Record) -> list[bool]:
    """Whether own paraphrases overlap more than pairs of one relation, with the interval, by text and layer."""
    both = (
        zip(*(kinship(record, source, which) for which in ("own paraphrase", "one relation")), strict=True)
        for source in sources(record)
    )
    return [own.low > relation.value for pairs in both for own, relation in pairs]


def summary(record: Record, source: str) -> dict[str, Any]:
    """What chapter 11 tells of one text.

    The extremes over layers of the ``mean`` of p; the ``fall`` of its excess kurtosis from the first layer to the last,
    and its ``steepest`` ``rise``; the share of the mean raw cosine that whitening takes away (``removed``).
    """
    raw, white = np.cos(np.radians(record.arrays["angles"][sources(record).index(source)][:, :2, 0].T))
    return {
        "mean": shape.extremes([estimate.value for estimate in statistic(record, source, "mean")]),
        "fall": kurtosis_falls(record, source, 0, -1),
        "rise": steepest_rise(record, source),
        "steepest": dict(zip(("from", "to"), steepest(record, source), strict=True)),
        "removed": shape.extremes(1 - white / raw),
    }


def summaries(record: Record) -> dict[str, Any]:
    """:func:`summary` of every text under its name, with the numbers of layers and dimensions."""
    each = {source: summary(record, source) for source in sources(record)}
    return {"layers": len(record["layers"]), "d_m": record["d_m"]} | each


def over_all(records: Sequence[Record]) -> dict[str, Any]:
    """Over all layers, models and texts: extremes of the mean of p, and the least of what claims ask for.

    Also the extremes of the spread of :data:`FACTS`, and the least angle of a mean whitened cosine, in degrees.
    """

    def every(read: Callable[[Record, str], Sequence[Estimate]]) -> list[Estimate]:
        return [estimate for record in records for source in sources(record) for estimate in read(record, source)]

    mean, kurtosis = (every(partial(statistic, name=name)) for name in ("mean", "excess_kurtosis"))
    spread = every(partial(statistic, name="spread", of=FACTS))
    return {
        "mean": shape.extremes([estimate.value for estimate in mean]) | {"near": min(mean)},
        "spread": shape.extremes([estimate.value for estimate in spread]),
        "kurtosis": min(kurtosis),
        "beyond": min(every(beyond)),
        "gain": min(every(nearer_to_right_angles)),
        "white_least": min(record.arrays["angles"][:, :, 1, 0].min() for record in records),
    }
