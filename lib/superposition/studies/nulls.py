"""Null models for the keys at a layer, other readings of the same facts, and statistics that one pair cannot set.

Chapter ``12-nulls-and-confounds``. A null model keeps one property of the true keys and draws the rest at random, so
that what it reproduces needs no other explanation than the property it keeps. Keys are columns, ``Z`` stands for
whitened keys, ``Z = L⁻¹K`` with ``C = L Lᵀ``, and ``ZᵀZ = Kᵀ C⁻¹ K``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from superposition.data.facts import SLOT, Fact
from superposition.errors import UserError
from superposition.linear import overlap

if TYPE_CHECKING:
    from superposition.lm.models import LanguageModel
    from superposition.records import Record

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

# Other readings of the same facts


def bare(facts: Sequence[Fact]) -> list[Fact]:
    """Each fact with its subject alone for a prompt: a key that can carry no relation and no words before it."""
    return [replace(fact, prompt=SLOT) for fact in facts]


def swapped(facts: Sequence[Fact], rng: np.random.Generator) -> list[Fact]:
    """Each fact asked with the prompt of another fact, never with its own prompt where another is left.

    The prompts are those of the list, each as often as before: words and relation part ways.

    Raises
    ------
    UserError
        One prompt belongs to more than half of the facts, so that some would keep theirs.
    """
    prompts = [fact.prompt for fact in facts]
    if any(2 * prompts.count(prompt) > len(prompts) for prompt in set(prompts)):
        raise UserError("More than half of the facts share one prompt, so prompts cannot be swapped: give other facts.")
    given = [prompts[i] for i in rng.permutation(len(prompts))]
    while own := [i for i, prompt in enumerate(given) if prompt == prompts[i]]:
        i, j = rng.choice(own), rng.integers(len(given))
        if given[j] != prompts[i] and given[i] != prompts[j]:
            given[i], given[j] = given[j], given[i]
    return [replace(fact, prompt=prompt) for fact, prompt in zip(facts, given, strict=True)]


def random_subjects(facts: Sequence[Fact], texts: Iterable[str], rng: np.random.Generator) -> list[Fact]:
    """Each fact with as many random words in its subject as it had: the prompts stay, who they ask about goes.

    Words are drawn from the distinct words of the texts, none twice, and capitalised as names are.

    Raises
    ------
    UserError
        The texts hold fewer distinct words of three letters or more.
    """
    words = sorted({word.lower() for text in texts for word in re.findall(r"[A-Za-z]{3,}", text)})
    needed = [len(fact.subject.split()) for fact in facts]
    if len(words) < sum(needed):
        raise UserError(f"The texts hold {len(words)} different words and {sum(needed)} are needed: give more text.")
    drawn = iter(rng.permutation(words))
    return [
        replace(fact, subject=" ".join(next(drawn).title() for _ in range(count)))
        for fact, count in zip(facts, needed, strict=True)
    ]


def keys_of_text(
    model: LanguageModel,
    texts: Iterable[str],
    *,
    count: int,
    draws: int = 1,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    context: int = 128,
    batch: int = 16,
    part: tuple[int, int] = (0, 1),
) -> tuple[dict[int, Float[np.ndarray, "draws d_m count"]], Int[np.ndarray, "draws count"]]:
    """Keys at random tokens of a text, by layer, and the tokens' ids: facts as if they were any tokens at all.

    Each text is cut after ``context`` tokens; ``count`` of those with at least two tokens are drawn, and from each
    one random position a draw, never the first (attention sinks). ``part=(i, n)`` reads the i-th of n parts of the
    batches and leaves zeros elsewhere, so that the n results add up to the whole.

    Raises
    ------
    UserError
        The texts are fewer than ``count``.
    """
    import torch

    rng = np.random.default_rng(seed)
    ids = [model.tokenizer(text, verbose=False)["input_ids"][:context] for text in texts]
    ids = [piece for piece in ids if len(piece) > 1]
    if len(ids) < count:
        raise UserError(f"Keys of {count} texts were asked for, and there are {len(ids)}: give more text.")
    chosen = [ids[i] for i in rng.choice(len(ids), size=count, replace=False)]
    places = np.array([rng.integers(1, len(piece), size=draws) for piece in chosen])
    selected = model.select(layers)
    found = {layer.index: np.zeros((draws, layer.d_m, count)) for layer in selected}
    by_length = sorted(range(count), key=lambda i: len(chosen[i]))
    for start in range(0, count, batch)[part[0] :: part[1]]:
        group = by_length[start : start + batch]
        length = max(len(chosen[i]) for i in group)
        tokens, mask = torch.zeros(2, len(group), length, dtype=torch.long)
        for row, i in enumerate(group):
            tokens[row, : len(chosen[i])] = torch.tensor(chosen[i])
            mask[row, : len(chosen[i])] = 1

        def receive(layer: Any, keys: torch.Tensor, group: list[int] = group) -> None:
            rows = torch.arange(len(group), device=keys.device)[:, None]
            read = keys[rows, torch.tensor(places[group], device=keys.device)]  # (group, draws, d_m)
            found[layer.index][:, :, group] = read.permute(1, 2, 0).cpu().double().numpy()

        model.read_keys(tokens, mask, selected, receive)
    return found, np.array([[piece[p] for p in row] for piece, row in zip(chosen, places, strict=True)]).T


# Confounds: pairs that are alike for a known reason


def same(values: Sequence[Any]) -> Bool[np.ndarray, "m m"]:
    """Which pairs of facts agree in something: a token id, a relation, a subject. The diagonal is False."""
    codes = {value: code for code, value in enumerate(dict.fromkeys(values))}
    listed = np.array([codes[value] for value in values])
    return np.equal.outer(listed, listed) & ~np.eye(len(listed), dtype=bool)


def shared_words(subjects: Sequence[str]) -> Bool[np.ndarray, "m m"]:
    """Which pairs of subjects are near-duplicates: they have a word of three letters or more in common."""
    words = [set(re.findall(r"\w{3,}", subject.lower())) for subject in subjects]
    found = np.array([[bool(a & b) for b in words] for a in words])
    return found & ~np.eye(len(words), dtype=bool)


def firsts(values: Sequence[Any]) -> list[int]:
    """The indices at which a value stands for the first time: one fact for each last token, say."""
    return sorted({value: place for place, value in reversed(list(enumerate(values)))}.values())


# Statistics

#: L-kurtosis of a normal distribution, ``30/π · arctan √2 − 9``.
L_NORMAL = float(30 / np.pi * np.arctan(np.sqrt(2)) - 9)

#: The share of entries that counts as the tail.
TAIL = 0.02

#: Statistics of overlaps, with what figures and tables call them.
LABELS = {
    "mean": "mean",
    "spread": "spread",
    "excess_kurtosis": "excess kurtosis",
    "l_kurtosis": "L-kurtosis",
    "quantile_kurtosis": "quantile kurtosis",
    "hill": "Hill's tail index",
}
STATISTICS = tuple(LABELS)


def l_kurtosis(values: Float[np.ndarray, " n"]) -> float:
    """L-kurtosis ``λ₄/λ₂`` less that of a normal distribution, 0.1226: 0 if normal, at most 0.877 (Hosking 1990).

    From the unbiased probability-weighted moments. A far entry counts by its size, not by its fourth power.

    Raises
    ------
    UserError
        Fewer than four values, or all of them the same.
    """
    x = np.sort(np.asarray(values, dtype=np.float64))
    return _l_kurtosis(x)


def _l_kurtosis(x: np.ndarray) -> float:
    n = len(x)
    if n < 4 or x[0] == x[-1]:
        raise UserError("L-kurtosis needs at least four values that are not all the same.")
    b = _weights(n) @ x
    second, fourth = 2 * b[1] - b[0], 20 * b[3] - 30 * b[2] + 12 * b[1] - b[0]
    return float(fourth / second - L_NORMAL)


@lru_cache(maxsize=4)
def _weights(n: int) -> Float[np.ndarray, "4 n"]:
    """Weights of n sorted values in the probability-weighted moments b₀ … b₃."""
    place, rows = np.arange(n), [np.full(n, 1 / n)]
    for r in range(3):
        rows.append(rows[-1] * (place - r) / (n - 1 - r))
    return np.array(rows)


def hill(values: Float[np.ndarray, " n"], share: float = TAIL) -> float:
    """Hill's estimate of the tail's heaviness ``ξ = 1/α`` from the ``share`` of values furthest from the median.

    The mean of ``log(|x − median| / threshold)`` over them (Hill 1975). For a power law ``P(|x| > t) ~ t^(−α)`` it
    tends to 1/α; the far 2 % of a normal distribution give 0.13.

    Raises
    ------
    UserError
        The share is outside (0, ½) or leaves no value, or the threshold is zero.
    """
    x = np.sort(np.asarray(values, dtype=np.float64))
    return _hill(x, share)


def _hill(x: np.ndarray, share: float = TAIL) -> float:
    count = int(share * len(x))
    if not 0 < share < 0.5 or count < 1:
        raise UserError(f"A tail of {share} of {len(x)} values makes no sense: give a larger share below one half.")
    middle = (x[(len(x) - 1) // 2] + x[len(x) // 2]) / 2
    far = np.sort(np.abs(np.concatenate([x[: count + 1], x[-count - 1 :]]) - middle))[-count - 1 :]
    if far[0] <= 0:
        raise UserError("More than half of the values are the same, so they have no tail.")
    return float(np.log(far[1:] / far[0]).mean())


def statistics(values: Float[np.ndarray, " n"], d_m: int) -> dict[str, float]:
    """The ``STATISTICS`` of overlaps beside the diagonal.

    ``mean``; ``spread``, the standard deviation times ``√d_m`` (1 for random directions); ``excess_kurtosis``;
    ``l_kurtosis`` (:func:`l_kurtosis`); ``quantile_kurtosis`` (:func:`superposition.linear.overlap.quantile_kurtosis`),
    all three 0 if normal; ``hill`` (:func:`hill`).
    """
    x = np.sort(np.asarray(values, dtype=np.float64))
    mean = x.mean()
    square = (x - mean) ** 2
    variance = square.mean()
    return {
        "mean": float(mean),
        "spread": float(np.sqrt(variance * d_m)),
        "excess_kurtosis": float((square**2).mean() / variance**2 - 3),
        "l_kurtosis": _l_kurtosis(x),
        "quantile_kurtosis": _quantile_kurtosis(x),
        "hill": _hill(x),
    }


def _quantile_kurtosis(x: np.ndarray) -> float:
    """:func:`superposition.linear.overlap.quantile_kurtosis` of sorted values, in no time."""
    at = np.arange(1, 8) / 8 * (len(x) - 1)
    low = at.astype(int)
    e = x[low] + (at - low) * (x[np.minimum(low + 1, len(x) - 1)] - x[low])
    return float((e[6] - e[4] + e[2] - e[0]) / (e[5] - e[1]) - overlap.MOORS_NORMAL)


def of_products(
    products: Float[np.ndarray, "m m"], d_m: int, keep: Bool[np.ndarray, "m m"] | None = None
) -> Float[np.ndarray, "2 statistics"]:
    """Statistics of ``P`` (first row) and of the symmetric whitened cosine (second), in the order of STATISTICS.

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
    found = [statistics(overlap.from_products(products)[beside], d_m), statistics(cosine, d_m)]
    return np.array([[row[name] for name in STATISTICS] for row in found])


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
    found = []
    for _ in range(draws):
        chosen = rng.choice(len(products), size=size, replace=False)
        found.append(of_products(products[np.ix_(chosen, chosen)], d_m))
    return np.array(found)


# What arithmetic says


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


# Measurements of several models (chapter 13-scaling)


def largest_measurements(names: Iterable[str] | None = None) -> list[Record]:
    """The book's measurements, one a model: that of the most facts, then of the most tokens; by width, then by name.

    A record of another model dropped into ``book/records`` is among them.
    """
    from superposition import records

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
    found = record.overlaps(layer)
    return found.cosine_whitened * np.outer(found.norm_whitened, found.norm_whitened)


def by_layer(record: Record, facts: Sequence[int] | None = None) -> Float[np.ndarray, "layers 2 statistics"]:
    """:func:`of_products` of a measurement's layers, of all facts or of some."""
    chosen = list(range(record["facts"]["count"])) if facts is None else list(facts)
    rows = zip(record["layers"], (row["d_m"] for row in record["statistics"]), strict=True)
    return np.array([of_products(products_of(record, layer)[np.ix_(chosen, chosen)], d_m) for layer, d_m in rows])
