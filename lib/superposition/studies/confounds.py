"""Pairs of facts that are alike for a known reason, and what equal keys and unequal lengths do to the kurtosis.

Chapter ``12-nulls-and-confounds``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from superposition.errors import UserError
from superposition.records import Record
from superposition.stats import shape


def same(values: Sequence[Any]) -> Bool[np.ndarray, "m m"]:
    """Which pairs of facts agree in something: a token id, a relation, a subject. The diagonal is False."""
    codes = {value: code for code, value in enumerate(dict.fromkeys(values))}
    code = np.array([codes[value] for value in values])
    return np.equal.outer(code, code) & ~np.eye(len(code), dtype=bool)


def shared_words(subjects: Sequence[str]) -> Bool[np.ndarray, "m m"]:
    """Which pairs of subjects are near-duplicates: they have a word of three letters or more in common."""
    words = [set(re.findall(r"\w{3,}", subject.lower())) for subject in subjects]
    common = np.array([[bool(a & b) for b in words] for a in words])
    return common & ~np.eye(len(words), dtype=bool)


def firsts(values: Sequence[Any]) -> list[int]:
    """The indices at which a value stands for the first time: one fact for each last token, say."""
    return sorted({value: i for i, value in reversed(list(enumerate(values)))}.values())


def counts(record: Record) -> dict[str, int]:
    """How many facts and pairs of the table have a confound, from a record of nulls (experiments/nulls.py)."""
    m, facts, pairs = record["facts"]["count"], record["facts_left"], record["pairs_left"]
    return {
        "facts whose key is at position 0": m - facts["no position 0"],
        "facts whose subject comes again": m - facts["one fact a subject"],
        "facts whose last token comes again": m - facts["one fact a last token"],
        "pairs that share the last token": m * (m - 1) // 2 - pairs["no shared last token"],
        "pairs that share a word": m * (m - 1) // 2 - pairs["no shared word"],
    }


def kurtosis_with_each_twice(P: Float[np.ndarray, "m m"]) -> Float[np.ndarray, " m"]:
    """The excess kurtosis beside the diagonal if the list held one of its facts twice, for each of the m facts.

    Its row and its column come again, and the two copies meet with an overlap of 1.
    """
    m = len(P)
    inside = np.where(np.eye(m, dtype=bool), 0, np.asarray(P, dtype=float))
    powers = [inside**k for k in (1, 2, 3, 4)]
    raw = [(power.sum() + power.sum(0) + power.sum(1) + 2) / (m * (m + 1)) for power in powers]
    return shape.excess_kurtosis(*raw)


def kurtosis_with_twins(m: int, d_m: int, twins: int = 1) -> float:
    """Expected excess kurtosis of the overlaps of m random unit keys of which ``twins`` pairs are equal.

    Equation ``eq-nulls-twins``: a share ε = 2·twins/(m(m − 1)) of the entries is 1, the others have the moments of a
    random cosine, ``E c² = 1/d_m`` and ``E c⁴ = 3/(d_m(d_m + 2))``.
    """
    if m < 3 or d_m < 2 or not 0 <= 2 * twins <= m:
        raise UserError(f"{twins} pairs of twins among {m} keys of width {d_m} make no sense.")
    share = 2 * twins / (m * (m - 1))
    raw = [1.0, share, (1 - share) / d_m + share, share, (1 - share) * 3 / (d_m * (d_m + 2)) + share]
    variance = raw[2] - raw[1] ** 2
    return (raw[4] - 4 * raw[1] * raw[3] + 6 * raw[1] ** 2 * raw[2] - 3 * raw[1] ** 4) / variance**2 - 3


def kurtosis_with_one_twice(kurtosis: Any, sigma: Any, m: int) -> Any:
    """Excess kurtosis of the overlaps of m facts once one of them comes twice, from theirs and their deviation sigma.

    Equation ``eq-nulls-increment``: a share ε = 2/(m(m − 1)) of the entries becomes 1.
    """
    share = 2 / (m * (m - 1))
    return ((kurtosis + 3) * sigma**4 + share) / (sigma**2 + share) ** 2 - 3


def tail_factor(norms: Float[np.ndarray, " m"]) -> float:
    """By how much unequal lengths multiply the kurtosis of p: ``mean(r⁴)/mean(r²)²`` of ``r = ‖z_j‖/‖z_i‖``, i ≠ j.

    Equation ``eq-nulls-norms``: with cosines of mean 0 and independent of the lengths, the kurtosis of p (3 more than
    the excess) is that of the cosines times this. It is 1 for equal lengths.
    """
    square = np.asarray(norms, dtype=np.float64) ** 2
    if square.ndim != 1 or len(square) < 2 or not (square > 0).all():
        raise UserError("Lengths must be a list of at least two positive numbers.")
    m = len(square)

    def mean(power: int) -> float:
        return float((np.sum(square**power) * np.sum(square**-power) - m) / (m * (m - 1)))

    return mean(2) / mean(1) ** 2
