"""Statistics by their definitions, and the numbers of chapters 10 to 14 computed once more (see :mod:`recompute`).

A convention, such as which facts count, is one line of comment where it is used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
import scipy.stats

from printed import BOOK, Cells, Numbers, glued, table
from superposition.data import facts

KEYS, LLMS, NULLS = "10-keys-and-moments", "11-superposition-in-llms", "12-nulls-and-confounds"
SCALING, WHO = "13-scaling", "14-who-overlaps"
#: The models by the names of records, and as tables call them.
MODELS = {"smollm2": "SmolLM2", "gemma3": "Gemma 3"}
#: Measurements of 400 facts, by the letter that chapter 11 puts before their numbers.
LARGE = {"s": "smollm2-400", "g": "gemma3-400"}


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


def ratios_to_gaussian(row: dict[str, Any]) -> np.ndarray:
    """The squared error of p over ``1/(N − d_m) − 1/(M − d_m)``, with its unit ‖r‖/‖x_i‖ (eq-moments-nested)."""
    d_m, M = row["d_m"], row["by_tokens"][-1]["tokens"]
    # Convention: texts from two tokens a dimension to half of the longest.
    some = [e for e in row["by_tokens"] if 2 * d_m <= e["tokens"] <= M / 2]
    return np.array([e["rms_scaled"] ** 2 / (1 / (e["tokens"] - d_m) - 1 / (M - d_m)) for e in some])


@cache
def kappa(model: str = "smollm2") -> np.ndarray:
    """κ by layer, the geometric mean of the ratios over lengths (chapter 10)."""
    rows = record(f"{model}-convergence")["rows"]
    return np.array([math.exp(np.mean(np.log(ratios_to_gaussian(row)))) for row in rows])


@cache
def of_halves(model: str) -> np.ndarray:
    """``(N − d_m) e²/sd²`` by layer, e² half the squared difference of P from two halves of N tokens (chapter 10)."""
    of = record(f"{model}-convergence")
    halves = [row["halves"] for row in of["rows"]]
    N, sd = (np.mean([half["tokens"] for half in halves], 1), [row["by_tokens"][-1]["sd"] for row in of["rows"]])
    return (N - of["d_m"]) * np.array([half["rms"] for half in halves]) ** 2 / 2 / np.array(sd) ** 2


def left(model: str) -> np.ndarray:
    """The error over sd(P) at the large record's N, by two halves of the text (chapter 10)."""
    return np.sqrt(
        of_halves(model) / (record(f"{model}-400")["text"]["tokens"] - record(f"{model}-convergence")["d_m"])
    )


def needed(model: str) -> np.ndarray:
    """``N/d_m`` for an error of a tenth of sd(P), by two halves of the text (chapter 10)."""
    return 1 + of_halves(model) / 0.1**2 / record(f"{model}-convergence")["d_m"]


@table(KEYS, "κ")
def kappa_by_layer() -> Cells:
    """κ, the error over sd(P) that the large records leave, and the tokens that a tenth takes (chapter 10)."""
    head, cells = ("κ", "error in the large record, over P's sd", "tokens a dimension for a tenth"), {}
    for model, called in MODELS.items():
        layers = record(f"{model}-convergence")["layers"]
        for layer, *told in zip(layers, kappa(model), left(model), needed(model), strict=True):
            cells[called, str(layer)] = dict(zip(head, told, strict=True))
    return cells


@glued(KEYS, "need_least", "need_most", "share_most", "enough")
def tokens_needed() -> Numbers:
    """The extremes of both, and at how many layers the large records leave less than a tenth (chapter 10)."""
    need, share = (np.concatenate([of(model) for model in MODELS]) for of in (needed, left))
    yield from (need.min(), need.max(), share.max(), int(np.sum(share <= 0.1)))


@glued(KEYS, "beyond_short", "beyond_book")
def random_shares() -> Numbers:
    """The share of random keys beyond 3/√d_m: under the short text, and under those of 400 facts (chapter 10)."""
    short = record("smollm2-128")
    yield random_share("smollm2", short["text"]["tokens"] / record("smollm2-convergence")["d_m"])
    yield max(random_share(model) for model in MODELS)


@glued(KEYS, "kappa_first", "kappa_most", "times_least", "times_most", "other_times_least", "other_times_most")
def errors_over_gaussian() -> Numbers:
    """κ, and the range of the errors over those of Gaussian keys (chapter 10)."""
    yield from (kappa()[0], kappa("gemma3").max())
    for model in MODELS:
        rows = record(f"{model}-convergence")["rows"]
        times = np.sqrt(np.concatenate([ratios_to_gaussian(row) for row in rows]))
        yield from (times.min(), times.max())


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


# Chapter 11


#: Records of several texts, by the letter that chapter 11 puts before their numbers; its texts, and what it calls them.
UNDER = {"s": "smollm2-texts", "g": "gemma3-texts"}
TEXTS = {"book": "SmolLM2's own text", "manual": "Python's manual", "wikipedia": "Wikipedia"}


def of_text(name: str, source: str, statistic: str, of: str = "facts") -> np.ndarray:
    """A statistic of P under one text, (layers, 3): value and interval; ``beyond``, ``angles``: see chapter 11."""
    kept, told = arrays(name), record(name)
    at = [text["source"] for text in told["texts"]].index(source)
    if statistic == "beyond":
        return kept["beyond"][at, :, told["sets"].index(of)].astype(float)
    if statistic == "angles":
        return kept["angles"][at].astype(float)
    return kept["statistics"][at, :, told["sets"].index(of), :, 0, told["statistics"].index(statistic)].astype(float)


def drawn_kurtosis(name: str, source: str, of: str = "facts") -> np.ndarray:
    """The kurtosis of P at every layer in every draw of the facts."""
    at = [text["source"] for text in record(name)["texts"]].index(source)
    return arrays(name)["kurtosis"][at, :, record(name)["drawn"].index(of)].astype(float)


def inner(drawn: np.ndarray) -> np.ndarray:
    """The ends of the inner 95 % of draws, along the last axis."""
    return np.quantile(drawn, [0.025, 0.975], axis=-1)


OF_TEXT = ("mean_most", "fall", "fall_low", "fall_high", "rise", "removed_least", "removed_most")


@glued(LLMS, *(f"{letter}_{source}_{name}" for letter in UNDER for source in TEXTS for name in OF_TEXT))
def under_each_text() -> Numbers:
    """Mean, fall and rise of the kurtosis, and what whitening takes of the raw cosine, by text (chapter 11)."""
    for name in UNDER.values():
        for source in TEXTS:
            tails, drawn = of_text(name, source, "excess_kurtosis")[:, 0], drawn_kurtosis(name, source)
            yield from (of_text(name, source, "mean")[:, 0].max(), tails[0] - tails[-1])
            yield from inner(drawn[0] - drawn[-1])
            pairs = [(a, b) for b in range(len(tails)) for a in range(b)]
            sure = [tails[b] - tails[a] for a, b in pairs if inner(drawn[b] - drawn[a])[0] > 0]
            # Convention: the largest of the rises whose intervals lie above zero.
            yield max(sure)
            angles = of_text(name, source, "angles")[:, :, 0]
            removed = 1 - np.cos(np.radians(angles[:, 1])) / np.cos(np.radians(angles[:, 0]))
            yield from (removed.min(), removed.max())


@glued(
    LLMS,
    *(f"all_{x}" for x in ("mean_least", "mean_most", "spread_least", "spread_most", "beyond", "gain", "white_least")),
)
def over_every_text() -> Numbers:
    """The extremes over both models and all texts (chapter 11)."""
    each = [(name, source) for name in UNDER.values() for source in TEXTS]
    mean = np.concatenate([of_text(*of, "mean")[:, 0] for of in each])
    # Convention: the spread is that of facts without shared tokens, none at position 0.
    spread = np.concatenate([of_text(*of, "spread", "strangers")[:, 0] for of in each])
    yield from (mean.min(), mean.max(), spread.min(), spread.max())
    yield min(of_text(*of, "beyond")[:, 0].min() for of in each)
    yield min(of_text(*of, "angles")[:, 2, 0].min() for of in each)
    yield min(of_text(*of, "angles")[:, 1, 0].min() for of in each)


def random_share(model: str, tokens: float | None = None) -> float:
    """The share of random keys beyond 3/√d_m once p has the error of C, by the largest κ (claim 8, chapter 11).

    Of so many tokens a dimension; by default, of those of the texts.
    """
    tokens = tokens or record(UNDER["s"])["sizes"]["tokens"]
    return 2 * float(scipy.stats.norm.sf(3 / math.sqrt(1 + kappa(model).max() / (tokens - 1))))


def count(stands: Callable[[str, str], np.ndarray], models: Sequence[str] = tuple(UNDER.values())) -> dict[str, tuple]:
    """In how many of its cases a claim stands, and how many they are, model after model, by column of the table."""
    cells = {}
    for source, text in TEXTS.items():
        cases = [np.atleast_1d(stands(name, source)) for name in models]
        cells[text] = tuple(number for each in cases for number in (int(each.sum()), len(each)))
    return cells


@table(LLMS, "Wikipedia")
def verdicts_by_text() -> Cells:
    """In how many layers an interval lies where the claim puts it (claims 8 to 12 and 16, chapter 11)."""

    def rise(name: str, source: str) -> bool:
        value, drawn = of_text(name, source, "excess_kurtosis")[:, 0], drawn_kurtosis(name, source)
        pairs = ((a, b) for a in range(len(value)) for b in range(a + 1, len(value)))
        return any(inner(drawn[b] - drawn[a])[0] > 0 for a, b in pairs)

    def wider(name: str, source: str) -> np.ndarray:
        del name  # one row for both
        lows = []
        for depth in (0, 0.5, 1):
            narrow, wide = (
                drawn_kurtosis(of, source, "strangers")[round(depth * (len(record(of)["layers"]) - 1))]
                for of in UNDER.values()
            )
            lows.append(inner(wide - narrow)[0])
        return np.array(lows) > 0

    return {
        ("**8** superposition is there in every layer",): count(
            lambda name, source: of_text(name, source, "beyond")[:, 1] > random_share(name.removesuffix("-texts"))
        ),
        ("**9** the mean of $p$ is zero",): count(
            lambda *of: (of_text(*of, "mean")[:, 1] <= 0) & (of_text(*of, "mean")[:, 2] >= 0)
        ),
        ("**10** the kurtosis of $p$ is high",): count(lambda *of: of_text(*of, "excess_kurtosis")[:, 1] > 0),
        ("**11** the kurtosis is lower in the last layer than in the first",): count(
            lambda *of: np.array(inner(drawn_kurtosis(*of)[0] - drawn_kurtosis(*of)[-1])[0] > 0)
        ),
        ("**11** the kurtosis falls from layer to layer",): count(lambda *of: np.array(not rise(*of))),
        ("**16** whitened angles are nearer to 90° than raw angles",): count(
            lambda *of: of_text(*of, "angles")[:, 2, 1] > 0
        ),
        ("**12** the kurtosis rises with the size of the model",): count(wider, [UNDER["g"]]),
    }


# Chapter 12


def of_nulls(model: str, array: str, statistic: str, matrix: str = "P") -> np.ndarray:
    """One statistic of an array of a record of nulls, whose last two axes are matrix and statistic."""
    of = record(f"{model}-nulls")
    kept = arrays(f"{model}-nulls")[array].astype(float)
    return kept[..., of["matrices"].index(matrix), of["statistics"].index(statistic)]


#: What the prose of chapter 12 has of a null model over the facts.
OVER_FACTS = {
    "shuffled_mean": ("shuffled", "mean"),
    "same_norms_kurtosis": ("same norms", "excess_kurtosis"),
    "random_subjects_spread": ("random subjects", "spread"),
}


@glued(NULLS, *(f"{model}_{name}_median" for model in MODELS for name in OVER_FACTS))
def null_models() -> Numbers:
    """A null model's statistic, the mean of its draws, over that of the facts; the median of layers (chapter 12)."""
    for model in MODELS:
        for null, what in OVER_FACTS.values():
            drawn = of_nulls(model, "nulls", what)[:, record(f"{model}-nulls")["nulls"].index(null)].mean(1)
            own = of_nulls(model, "table", what)
            # Convention: these have no shared last tokens, so they are held against the facts without them.
            if null == "random subjects":
                at = record(f"{model}-nulls")["without"].index("no position 0, no shared last token")
                own = of_nulls(model, "without", what)[:, at]
            yield np.median(drawn / own)


@table(NULLS, "Wikipedia")
def facts_against_nulls() -> Cells:
    """In how many layers the facts without shared tokens have more than a null (claims 8 and 10, chapter 12)."""
    nulls = {"random subjects": "prompts about random words", "tokens of another text": "any tokens"}
    nulls["random weights"] = "random weights"
    found = {}
    for claim, what in (
        ("**8** facts have more of it than", "beyond"),
        ("**10** facts have a higher kurtosis than", "excess_kurtosis"),
    ):
        for null, told in nulls.items():
            found[(f"{claim} {told}",)] = count(
                lambda *of, null=null, what=what: of_text(*of, what, "strangers")[:, 1] > of_text(*of, what, null)[:, 0]
            )
    return found


KIN = {"own_paraphrase": 0, "one_relation": 1, "apart": 3}


@glued(NULLS, *(f"s_{kin}_{end}" for kin in KIN for end in ("first", "last")))
def kinship() -> Numbers:
    """The mean of p over pairs of a kind, in the first and the last layer, with C of the book's text (chapter 12)."""
    for kin in KIN.values():
        values = arrays(UNDER["s"])["kinship"][0, :, kin, 0, 0]
        yield from (values[0], values[-1])


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


@glued(NULLS, "twin_1536", "twin_3072")
def one_fact_twice() -> Numbers:
    """One equal pair of 128 random keys (eq-nulls-twins, chapter 12)."""
    yield from (with_twins(128, 1536), with_twins(128, 3072))


# Chapter 13


@glued(SCALING, "pair_3072", "pair_5120", "pair_16384", "crowd_1", "crowd_2", "crowd_3", "crowd_5", "room")
def arithmetic_of_width() -> Numbers:
    """One equal pair among 128 keys, at three widths and at four spreads (eq-scaling-crowded, chapter 13)."""
    yield from (with_twins(128, d_m) for d_m in (3072, 5120, 16384))
    yield from (with_a_pair_of_ones(0, s**2 / 3072, 128) for s in (1, 2, 3, 5))
    yield 128 * 127 // 2


@glued(SCALING, "narrow_top_all", "wide_top_all")
def two_models() -> Numbers:
    """Kurtosis of P over all facts, in the first layer of both models (chapter 13)."""
    for name in LARGE.values():
        yield kurtosis(beside(P_of(name, 0)))


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


#: Groups of features whose shares of the variance are asked for, and the rest.
GROUPS = [["same last token"], ["spelling"], ["same relation, read", "same relation, unread"], ["same object"]]
GROUPS += [["same kind"], ["both begin", "one begins"], ["both at 0", "one at 0"]]


@cache
def shapley(name: str, at: int) -> list[float]:
    """What each group adds to R² in the mean over all orders in which the groups could come (chapter 14)."""
    columns = features(name)
    y = cosine_of(name, at)[np.triu_indices(record(name)["facts"]["count"], 1)]
    everything = np.column_stack([*columns.values(), y])
    cross, names = np.cov(everything.T), list(columns)
    groups = [[names.index(feature) for feature in group if feature in names] for group in GROUPS]

    @cache
    def explained_by(some: frozenset[int]) -> float:
        chosen = [column for group in some for column in groups[group]]
        if not chosen:
            return 0.0
        beta = np.linalg.solve(cross[np.ix_(chosen, chosen)], cross[chosen, -1])
        return float(beta @ cross[chosen, -1] / cross[-1, -1])

    added = np.zeros(len(groups))
    for order in permutations(range(len(groups))):
        for place, group in enumerate(order):
            before = frozenset(order[:place])
            added[group] += explained_by(before | {group}) - explained_by(before)
    return list(added / math.factorial(len(groups)))


@glued(WHO, *(f"{model}_{name}" for model in MODELS for name in ("token_first", "token_first_share", "related_last")))
def variance_shares() -> Numbers:
    """The effect of one last token in sd of y, its share, and those of relation and kind less it (chapter 14)."""
    for name in LARGE.values():
        columns, m = features(name), record(name)["facts"]["count"]
        y = cosine_of(name, 0)[np.triu_indices(m, 1)]
        yield explained(np.column_stack([*columns.values()]), y)[1][list(columns).index("same last token")] / y.std()
        last = shapley(name, len(record(name)["layers"]) - 1)
        yield from (shapley(name, 0)[0], last[2] + last[4] - last[0])


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


@glued(WHO, *(f"{name}_{what}" for name in ("low", "high") for what in ("ratio", "failed", "hard")))
def odds_of_a_flip() -> Numbers:
    """Odds for a tenth of ``|p| ‖δ‖/median ‖δ‖``, what is shared held fixed; edits that took (claim 15, chapter 14)."""
    for layer in record("pairs-edits")["layers"]:
        at = partners(layer)
        some = at["counts"]
        X = [10 * at["push"][some], *(at[name][some] for name in ("relation", "kind", "object", "token"))]
        yield np.exp(logistic(np.column_stack(X), at["wrong"][some].astype(float))[1])
        yield from ((~at["held"]).sum(), at["wrong"][some & (at["push"] >= 0.6)].mean())
