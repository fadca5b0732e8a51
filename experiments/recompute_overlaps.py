"""Statistics by their definitions, and the numbers of chapters 10 to 14 computed once more (see :mod:`recompute`).

A convention, such as which facts count, is one line of comment where it is used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from functools import cache
from typing import Any

import numpy as np
import scipy.stats

from printed import BOOK, Cells, Numbers, glued, interval, table
from superposition.data import facts

KEYS, LLMS, NULLS = "10-keys-and-moments", "11-superposition-in-llms", "12-nulls-and-confounds"
SCALING, WHO = "13-scaling", "14-who-overlaps"
#: The models by the names of records, and as tables call them.
MODELS = {"smollm2": "SmolLM2", "gemma3": "Gemma 3"}
#: Measurements of 400 facts, by the letter that chapter 11 puts before their numbers.
LARGE = {"s": "smollm2-400", "g": "gemma3-400"}
#: Kurtosis of Moors, and L-kurtosis, of a normal distribution.
OCTILES = scipy.stats.norm.ppf(np.arange(1, 8) / 8)
L_NORMAL = 30 / math.pi * math.atan(math.sqrt(2)) - 9


@cache
def record(name: str) -> dict[str, Any]:
    """A record's JSON."""
    return json.loads((BOOK / "records" / f"{name}.json").read_text(encoding="utf-8"))


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    """The arrays beside a record."""
    with np.load(BOOK / "records" / f"{name}.npz") as beside:
        return {key: beside[key] for key in beside.files}


@cache
def listed() -> list[facts.Fact]:
    """The book's table of facts."""
    return facts.load("book")


# Statistics, from their definitions


def kurtosis(x: np.ndarray) -> float:
    """``μ₄/μ₂² − 3``, population moments."""
    square = (x - x.mean()) ** 2
    return float(np.mean(square**2) / np.mean(square) ** 2 - 3)


def moors(octiles: np.ndarray) -> float:
    """``((E₇ − E₅) + (E₃ − E₁)) / (E₆ − E₂)``."""
    return float((octiles[6] - octiles[4] + octiles[2] - octiles[0]) / (octiles[5] - octiles[1]))


def l_kurtosis(x: np.ndarray) -> float:
    """``λ₄/λ₂`` less that of a normal distribution, by the weights of the shifted Legendre polynomials."""
    x, n = np.sort(x), len(x)
    rank = np.arange(n)
    weight = [np.ones(n)]
    for r in range(3):
        weight.append(weight[-1] * (rank - r) / (n - 1 - r))  # share of the subsets that lie below
    b0, b1, b2, b3 = (np.mean(w * x) for w in weight)
    return float((20 * b3 - 30 * b2 + 12 * b1 - b0) / (2 * b1 - b0) - L_NORMAL)


def spearman(x: Any, y: Any) -> float:
    """Pearson's correlation of mid-ranks."""
    return float(np.corrcoef(scipy.stats.rankdata(x), scipy.stats.rankdata(y))[0, 1])


def wilson(share: float, n: int) -> tuple[float, float, float]:
    """A share, and the two shares q with ``(p̂ − q)² = z² q (1 − q)/n``."""
    z = float(scipy.stats.norm.ppf(0.975))
    middle, half = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return share, (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)


def power(n: Any, y: Any) -> float:
    """``s`` of ``y ∝ n^s``, by least squares of the logarithms."""
    x = np.log(n) - np.mean(np.log(n))
    return float(x @ np.log(y) / (x @ x))


def area(forecast: np.ndarray, lost: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a lost fact ranks above a kept one, ties half."""
    ranks, bad = scipy.stats.rankdata(forecast), lost.sum()
    return float((ranks[lost].sum() - bad * (bad + 1) / 2) / (bad * (len(lost) - bad)))


def ends(statistic: Callable[[np.ndarray], float], n: int, draws: int = 600) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles of a statistic over draws of n things with replacement."""
    rng = np.random.default_rng(20261201)
    drawn = [statistic(rng.integers(n, size=n)) for _ in range(draws)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def beside(matrix: np.ndarray) -> np.ndarray:
    """The entries off the diagonal."""
    return matrix[~np.eye(len(matrix), dtype=bool)]


# Chapter 10


@cache
def kappa() -> np.ndarray:
    """κ by layer, of ``rms² = κ (1/(N − d_m) − 1/(M − d_m))`` in units of ‖r‖/‖x_i‖ (eq-moments-nested, chapter 10)."""
    of, found = record("smollm2-convergence"), []
    for row in of["rows"]:
        d_m, M = of["d_m"], row["by_tokens"][-1]["tokens"]
        # Convention: the geometric mean over texts from two tokens a dimension to half of the longest.
        some = [e for e in row["by_tokens"] if 2 * d_m <= e["tokens"] <= M / 2]
        ratios = [e["rms_scaled"] ** 2 / (1 / (e["tokens"] - d_m) - 1 / (M - d_m)) for e in some]
        found.append(math.exp(np.mean(np.log(ratios))))
    return np.array(found)


def longest(name: str) -> np.ndarray:
    """A statistic of P with the longest text, by layer."""
    return np.array([row["by_tokens"][-1][name] for row in record("smollm2-convergence")["rows"]])


@table(KEYS, "κ")
def kappa_by_layer() -> Cells:
    """κ, and ``√(κ/(N − d_m))`` over sd(P) at the large record's N (def-moments-factor, chapter 10)."""
    of, N = record("smollm2-convergence"), record("smollm2-400")["text"]["tokens"]
    share = np.sqrt(kappa() / (N - of["d_m"])) / longest("sd")
    head = ("κ", "error in the large record, over P's sd")
    rows = zip(of["layers"], kappa(), share, strict=True)
    return {(str(layer),): dict(zip(head, told, strict=True)) for layer, *told in rows}


@glued(KEYS, "need_least", "need_later", "need_most", "share_first", "share_later")
def tokens_needed() -> Numbers:
    """``N/d_m`` with ``N = d_m + κ/(sd/10)²``; the error's share of sd at the large record's N (chapter 10)."""
    d_m, N = record("smollm2-convergence")["d_m"], record("smollm2-400")["text"]["tokens"]
    need = 1 + kappa() / (longest("sd") / 10) ** 2 / d_m
    share = np.sqrt(kappa() / (N - d_m)) / longest("sd")
    yield from (need.min(), need[1:].max(), need.max(), share[0], share[1:].max())


# The measured P (records smollm2-128, smollm2-400, gemma3-400)


@cache
def pairs_of(name: str) -> np.ndarray:
    """The larger overlap of each pair, by layer; the layout is that of ``records.py``.

    Whole steps off a fit by one, the two layers before, and, of the overlap, the raw cosine of the same layer.
    """
    kept = arrays(name)

    def rows(what: str, step: float, also: np.ndarray | None) -> np.ndarray:
        found: list[np.ndarray] = []
        for layer, (steps, fit) in enumerate(zip(kept[what], kept[f"{what}_fit"], strict=True)):
            by = [np.ones(len(steps)), *found[-2:], *([] if also is None else [also[layer]])]
            found.append(step * steps + sum(a * x for a, x in zip(fit, by, strict=False)))
        return np.array(found)

    return rows("overlap", 1.4e-4, rows("cosine_raw", 0.06, None))


def square_of(pairs: np.ndarray, m: int) -> np.ndarray:
    """A symmetric matrix (m, m) from its pairs, row by row above the diagonal; zero on it."""
    matrix = np.zeros((m, m))
    matrix[np.triu_indices(m, 1)] = pairs
    return matrix + matrix.T


@cache
def products(name: str, at: int) -> np.ndarray:
    """``Kᵀ C⁻¹ K`` of a recorded layer: the larger overlap of a pair times the shorter key's squared length."""
    norms = arrays(name)["norm_whitened"][at].astype(float)
    matrix = square_of(pairs_of(name)[at], len(norms)) * np.minimum.outer(norms, norms) ** 2
    return matrix + np.diag(norms**2)


def P_of(name: str, at: int) -> np.ndarray:
    """``P[i, j] = k_iᵀ C⁻¹ k_j / k_iᵀ C⁻¹ k_i`` (eq-llm-superposition)."""
    G = products(name, at)
    return G / np.diag(G)[:, None]


def cosine_of(name: str, at: int) -> np.ndarray:
    """The cosine in whitened space."""
    G = products(name, at)
    return G / np.sqrt(np.outer(np.diag(G), np.diag(G)))


def off_sink(name: str) -> np.ndarray:
    """Which keys are not read at position 0."""
    return np.array(record(name)["token_positions"]) > 0


@cache
def by_layer(name: str) -> dict[str, np.ndarray]:
    """Statistics of the entries beside the diagonal of P, a layer each; angles of the mean cosine in degrees."""
    found: dict[str, list[float]] = {}
    inside = np.ix_(off_sink(name), off_sink(name))
    for at, row in enumerate(record(name)["statistics"]):
        P = P_of(name, at)
        x = beside(P)
        octiles = np.quantile(x, np.arange(1, 8) / 8)
        # The raw cosines are kept in coarse steps, so their mean is taken as the record has it.
        white, raw = np.mean(beside(cosine_of(name, at))), row["cosine_raw"]["mean"]
        told = {"mean": x.mean(), "sd": x.std(), "kurtosis": kurtosis(x), "moors": moors(octiles) - moors(OCTILES)}
        told |= {"median": octiles[3], "positive": np.mean(x >= 0), "spread": x.std() * math.sqrt(row["d_m"])}
        told |= {"inside": kurtosis(beside(P[inside])), "beyond": np.mean(np.abs(x) > 3 / math.sqrt(row["d_m"]))}
        told |= {"white": math.degrees(math.acos(white)), "raw": math.degrees(math.acos(raw)), "left": white / raw}
        for key, value in told.items():
            found.setdefault(key, []).append(float(value))
    return {key: np.array(values) for key, values in found.items()}


# Chapter 11


def both(*names: str) -> list[str]:
    """These names with the letters of both models before them."""
    return [f"{letter}_{name}" for letter in LARGE for name in names]


@glued(LLMS, *both("mean_least", "mean_most", "in_sd_least", "in_sd_most", "median_least", "share_positive"))
def mean_of_p() -> Numbers:
    """Mean, mean over sd, median and share above zero of p beside the diagonal (claim 9, chapter 11)."""
    for name in LARGE.values():
        of = by_layer(name)
        in_sd = of["mean"] / of["sd"]
        yield from (of["mean"].min(), of["mean"].max(), in_sd.min(), in_sd.max())
        yield from (of["median"].min(), of["positive"].max())


COURSE = ("first", "dip", "rise", "last", "dip_layer", "rise_layer", "rank", "rise_inside")


@glued(
    LLMS,
    *both(*COURSE, "spread_least", "spread_most", "crowded", "excess_kurtosis_least"),
    "g_moors_most",
    "over_laplace",
)
def tails_of_p() -> Numbers:
    """Kurtosis over depth, Moors' kurtosis, ``sd √d_m``, the share beyond ``3/√d_m`` (claims 8 to 11, chapter 11)."""
    over_laplace = 0
    for name in LARGE.values():
        of = by_layer(name)
        found, inside = of["kurtosis"], of["inside"]
        # Convention: the dip is the lowest of the first three quarters, the rise the highest from there on.
        dip, inner_dip = (int(np.argmin(x[: len(x) * 3 // 4])) for x in (found, inside))
        rise, inner_rise = dip + int(np.argmax(found[dip:])), inner_dip + int(np.argmax(inside[inner_dip:]))
        yield from (found[0], found[dip], found[rise], found[-1], dip, rise, spearman(range(len(found)), found))
        yield from (inside[inner_rise], of["spread"].min(), of["spread"].max())
        yield from (of["beyond"].min(), found.min())
        over_laplace += int((found > 3).sum())
    yield by_layer(LARGE["g"])["moors"].max()
    yield over_laplace


@interval(LLMS, "s_first", "g_first", "s_last", "g_last", within=0.2)
def kurtosis_over_facts() -> Numbers:
    """Bootstrap of the kurtosis: facts are drawn, a pair counts ``w_i w_j``, ``i ≠ j`` (claim 10, chapter 11)."""
    for at in (0, -1):
        for name in LARGE.values():
            yield kurtosis_drawn(P_of(name, at))[1]


def kurtosis_drawn(P: np.ndarray, draws: int = 1000) -> tuple[np.ndarray, tuple[float, float]]:
    """The excess kurtosis of draws of facts, the same for lists of one length, and the ends of its interval."""
    m = len(P)
    w = np.random.default_rng(11).multinomial(m, np.full(m, 1 / m), size=draws).astype(float)
    x = P - beside(P).mean()
    np.fill_diagonal(x, 0)
    pairs = w.sum(1) ** 2 - (w**2).sum(1)
    m1, m2, m3, m4 = (((w @ x**r) * w).sum(1) / pairs for r in (1, 2, 3, 4))
    drawn = (m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4) / (m2 - m1**2) ** 2 - 3
    low, high = np.quantile(drawn, [0.025, 0.975])
    return drawn, (float(low), float(high))


ANGLES = ("raw_least", "raw_most", "white_least", "removed_least", "removed_most", "closer", "white_near", "raw_far")


@glued(LLMS, *both(*ANGLES), "both_angles")
def angles() -> Numbers:
    """``arccos`` of the mean cosine, raw and whitened, and how many are within 10° of 90° (claim 16, chapter 11)."""
    together = 0
    for name in LARGE.values():
        raw, white, removed = by_layer(name)["raw"], by_layer(name)["white"], 1 - by_layer(name)["left"]
        near, far = np.abs(white - 90) <= 10, np.abs(raw - 90) > 10
        yield from (raw.min(), raw.max(), white.min(), removed.min(), removed.max())
        yield from ((np.abs(white - 90) < np.abs(raw - 90)).sum(), near.sum(), far.sum())
        together += int((near & far).sum())
    yield together


# Chapter 12


def of_nulls(model: str, array: str, statistic: str, matrix: str = "P") -> np.ndarray:
    """One statistic of an array of a record of nulls, whose last two axes are matrix and statistic."""
    of = record(f"{model}-nulls")
    kept = arrays(f"{model}-nulls")[array].astype(float)
    return kept[..., of["matrices"].index(matrix), of["statistics"].index(statistic)]


COMPARED = {
    "mean": ("mean", "P"),
    "spread": ("spread", "P"),
    "kurtosis": ("excess_kurtosis", "P"),
    "kurtosis of cosines": ("excess_kurtosis", "cosine_whitened"),
    "L-kurtosis of cosines": ("l_kurtosis", "cosine_whitened"),
}


@table(NULLS, "kurtosis of cosines")
def null_models() -> Cells:
    """A null model's statistic, the mean of its draws, over that of the facts; the median of layers (chapter 12)."""

    def part(model: str, null: str, what: tuple[str, str]) -> float:
        drawn = of_nulls(model, "nulls", *what)[:, record(f"{model}-nulls")["nulls"].index(null)].mean(1)
        own = of_nulls(model, "table", *what)
        # Convention: these two have no shared last tokens, so they are held against the facts without them.
        if null in ("tokens of text", "random subjects"):
            at = record(f"{model}-nulls")["without"].index("no position 0, no shared last token")
            own = of_nulls(model, "without", *what)[:, at]
        return float(np.median(drawn / own))

    nulls = record("smollm2-nulls")["nulls"]
    return {(n,): {c: tuple(part(m, n, what) for m in MODELS) for c, what in COMPARED.items()} for n in nulls}


def with_twins(m: int, d_m: int) -> float:
    """Excess kurtosis of m random unit keys of which one pair is equal (eq-nulls-twins)."""
    e = 2 / (m * (m - 1))
    m2 = (1 - e) / d_m + e - e**2
    m4 = (1 - e) * 3 / (d_m * (d_m + 2)) + e - 4 * e**2 + 6 * e**2 * ((1 - e) / d_m + e) - 3 * e**4
    return m4 / m2**2 - 3


def with_a_pair_of_ones(kurtosis_before: Any, variance: Any, m: int) -> Any:
    """Excess kurtosis of the overlaps of m facts once one of them comes twice (eq-nulls-increment)."""
    e = 2 / (m * (m - 1))
    return ((kurtosis_before + 3) * variance**2 + e) / (variance + e) ** 2 - 3


TWICE = [f"{model}_{name}" for model in MODELS for name in ("twice", "twice_first", "twice_first_predicted")]


@glued(NULLS, "twin_1536", "twin_3072", *TWICE)
def one_fact_twice() -> Numbers:
    """One equal pair of 128 random keys, and of 126 to 128 facts (eq-nulls-twins, eq-nulls-increment, chapter 12)."""
    yield from (with_twins(128, 1536), with_twins(128, 3072))
    for model in MODELS:
        of = record(f"{model}-nulls")
        once, twice = (of["without"].index(name) for name in ("first 128, no position 0", "the same, one fact twice"))
        tails, spread = (of_nulls(model, "without", name) for name in ("excess_kurtosis", "spread"))
        before, moved = tails[:, once], tails[:, twice] - tails[:, once]
        variance, m = spread[:, once] ** 2 / np.array(of["d_m"]), of["facts_left"]["first 128, no position 0"]
        yield from (np.median(np.abs(moved)), moved[0], (with_a_pair_of_ones(before, variance, m) - before)[0])


# Chapter 13


@glued(SCALING, "pair_3072", "pair_5120", "pair_16384", "crowd_1", "crowd_2", "crowd_3", "crowd_5", "room")
def arithmetic_of_width() -> Numbers:
    """One equal pair among 128 keys, at three widths and at four spreads (eq-scaling-crowded, chapter 13)."""
    yield from (with_twins(128, d_m) for d_m in (3072, 5120, 16384))
    yield from (with_a_pair_of_ones(0, s**2 / 3072, 128) for s in (1, 2, 3, 5))
    yield 128 * 127 // 2


@cache
def clean() -> np.ndarray:
    """Facts without known confounds in either model: none at position 0, the first of each last token and subject."""
    kept = []
    for name in LARGE.values():
        of = record(name)
        left = [i for i, position in enumerate(of["token_positions"]) if position > 0]
        for values in (of["token_ids"], of["subjects"]):
            first: dict[Any, int] = {}
            for i in left:
                first.setdefault(values[i], i)
            left = sorted(first.values())
        kept.append(set(left))
    return np.array(sorted(set.intersection(*kept)))


PAIR = ("shared", "clean", "tail_clean", "top_all", "top_clean")


@glued(SCALING, *(f"{model}_{name}" for model in ("narrow", "wide") for name in PAIR), "clean")
def two_models() -> Numbers:
    """Kurtosis of P and L-kurtosis of the cosines without confounds, median of layers (claim 12, chapter 13)."""
    some = np.ix_(clean(), clean())
    for name in LARGE.values():
        tokens = np.unique(record(name)["token_ids"], return_counts=True)[1]
        depth = range(len(record(name)["layers"]))
        of_p = [kurtosis(beside(P_of(name, at)[some])) for at in depth]
        # Convention: a cosine is counted once a pair.
        tails = [l_kurtosis(cosine_of(name, at)[some][np.triu_indices(len(clean()), 1)]) for at in depth]
        yield from (int((tokens * (tokens - 1) // 2).sum()), np.median(of_p), np.median(tails))
        yield from (by_layer(name)["kurtosis"][0], of_p[0])
    yield len(clean())


# Chapter 14


@cache
def spelling(m: int) -> np.ndarray:
    """The ratio of ``difflib``'s matcher for each pair of subjects, capitals alike, the first in the alphabet first."""
    subjects = [fact.subject.casefold() for fact in listed()[:m]]
    order, found = sorted(range(m), key=subjects.__getitem__), np.zeros((m, m))
    for place, j in enumerate(order):
        matcher = SequenceMatcher(None, "", subjects[j], autojunk=False)  # it keeps what it knows of the second
        for i in order[:place]:
            matcher.set_seq1(subjects[i])
            found[i, j] = found[j, i] = matcher.ratio()
    return found[np.triu_indices(m, 1)]


@cache
def features(name: str) -> dict[str, np.ndarray]:
    """What each pair of facts shares, a column a feature; what is the same in all pairs is left out (chapter 14)."""
    of = record(name)
    some = listed()[: of["facts"]["count"]]
    i, j = np.triu_indices(len(some), 1)

    def same(values: Sequence[Any]) -> np.ndarray:
        return np.equal.outer(np.array(values), np.array(values))[i, j]

    begins = np.array([fact.prompt.startswith("{}") for fact in some])
    at_0, relation = np.array(of["token_positions"]) == 0, same([fact.relation for fact in some])
    read = relation & ~begins[i] & ~begins[j]
    found = {
        "same last token": same(of["token_ids"]),
        "spelling": spelling(len(some)),
        "same relation, read": read,
        "same relation, unread": relation & ~read,
        "same object": same([fact.target_true for fact in some]),
        "same kind": same([fact.subject_type for fact in some]),
        "both begin": begins[i] & begins[j],
        "one begins": begins[i] ^ begins[j],
        "both at 0": at_0[i] & at_0[j],
        "one at 0": at_0[i] ^ at_0[j],
    }
    return {feature: x.astype(float) for feature, x in found.items() if np.ptp(x.astype(float)) > 0}


def explained(X: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """R² and coefficients of least squares with an intercept (eq-who-regression)."""
    X, y = X - X.mean(0), y - y.mean()
    beta = np.linalg.solve(X.T @ X, X.T @ y)
    left = y - X @ beta
    return float(1 - left @ left / (y @ y)), beta


SHARES = ("all_first_share", "token_first_share", "all_middle_share", "kind_middle_share", "relation_middle_share")


@glued(WHO, *(f"{model}_{name}" for model in MODELS for name in (*SHARES, "token_first", "kind_middle")))
def variance_shares() -> Numbers:
    """R² of the whitened cosine, what is lost without a group, effects in sd of y (eq-who-regression, chapter 14)."""
    for name in LARGE.values():
        columns, half = features(name), len(record(name)["layers"]) // 2

        def without_these(at: int, *left_out: str, name: str = name) -> float:
            y = cosine_of(name, at)[np.triu_indices(record(name)["facts"]["count"], 1)]
            kept = [x for feature, x in features(name).items() if feature not in left_out]
            return explained(np.column_stack(kept), y)[0]

        first, middle = without_these(0), without_these(half)
        relation = ("same relation, read", "same relation, unread")
        yield from (first, first - without_these(0, "same last token"), middle)
        yield from (middle - without_these(half, "same kind"), middle - without_these(half, *relation))
        for at, feature in ((0, "same last token"), (half, "same kind")):
            y = cosine_of(name, at)[np.triu_indices(record(name)["facts"]["count"], 1)]
            yield explained(np.column_stack([*columns.values()]), y)[1][list(columns).index(feature)] / y.std()


@cache
def partners(layer: int) -> dict[str, np.ndarray]:
    """Single edits and the facts asked after each, (edits, partners): the push, what they share, which answers flip."""
    of, kept = record("pairs-edits"), arrays("pairs-edits")
    n = of["layers"].index(layer)
    edits, asked = ([listed()[place] for place in places] for places in (of["edits"][n], of["partners"]))
    tokens = np.array(of["token_ids"])

    def same(here: str, there: str) -> np.ndarray:
        return np.array([[getattr(a, here) == getattr(b, there) for b in asked] for a in edits])

    shift, p = kept[f"layer {layer} shift"].astype(float), kept[f"layer {layer} p"].astype(float)
    found = {
        "push": np.abs(p) * (shift / np.median(shift))[:, None],
        "relation": same("relation", "relation"),
        "kind": same("subject_type", "subject_type"),
        "object": same("target_true", "target_true"),
        "token": tokens[of["edits"][n]][:, None] == tokens[of["partners"]][None, :],
        "wrong": ~kept[f"layer {layer} right"],
        "held": np.array(of["held"][n], dtype=bool),
        "at 0": np.array(of["positions"])[of["edits"][n]] == 0,
    }
    # Convention: pairs of one subject do not count, nor those whose true object is the one written.
    found["counts"] = kept[f"layer {layer} asked"] & ~same("subject", "subject") & ~same("target_new", "target_true")
    return found


def logistic(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coefficients of a logistic regression with an intercept, by Newton's method."""
    X = np.column_stack([np.ones(len(y)), X])
    beta = np.zeros(X.shape[1])
    for _ in range(50):
        q = 1 / (1 + np.exp(-X @ beta))
        step = np.linalg.solve((X.T * (q * (1 - q))) @ X, X.T @ (y - q))
        beta += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    return beta


@glued(WHO, *(f"{name}_{what}" for name in ("low", "high") for what in ("ratio", "failed", "zero", "took")))
def odds_of_a_flip() -> Numbers:
    """Odds for a tenth of ``|p| ‖δ‖/median ‖δ‖``, what is shared held fixed; edits that took (claim 15, chapter 14)."""
    for layer in record("pairs-edits")["layers"]:
        at = partners(layer)
        some, held, at_0 = at["counts"], at["held"], at["at 0"]
        X = [10 * at["push"][some], *(at[name][some] for name in ("relation", "kind", "object", "token"))]
        yield np.exp(logistic(np.column_stack(X), at["wrong"][some].astype(float))[1])
        yield from ((~held).sum(), at_0.sum(), (held & at_0).sum())
