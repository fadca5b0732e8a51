"""Measurements of several models side by side (chapter ``13-scaling``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from superposition import records
from superposition.records import Record
from superposition.studies.confounds import firsts
from superposition.studies.nulls import of_products


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


def products_of(record: Record, layer: int) -> Float[np.ndarray, "m m"]:
    """``Kᵀ C⁻¹ K`` of a recorded layer."""
    kept = record.overlaps(layer)
    return kept.cosine_whitened * np.outer(kept.norm_whitened, kept.norm_whitened)


def by_layer(record: Record, facts: Sequence[int] | None = None) -> Float[np.ndarray, "layers 2 statistics"]:
    """:func:`superposition.studies.nulls.of_products` of a measurement's layers, of all facts or of some."""
    chosen = list(range(record["facts"]["count"])) if facts is None else list(facts)
    rows = zip(record["layers"], (row["d_m"] for row in record["statistics"]), strict=True)
    return np.array([of_products(products_of(record, layer)[np.ix_(chosen, chosen)], d_m) for layer, d_m in rows])
