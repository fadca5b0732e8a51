"""Pairs of facts: what each pair shares, and how much of the overlap of keys that explains, layer by layer.

Two pairs with a fact in common are not independent, so errors are those of dyadic data: every pair that shares a fact
with a pair may be correlated with it (:func:`superposition.stats.regression.dyadic_covariance`), the bootstrap draws
facts (:func:`bootstrap_shares`), and the null shuffles facts (:func:`shuffled_shares`). Chapter ``14-who-overlaps``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from superposition.data.facts import SLOT, Fact
from superposition.errors import UserError
from superposition.linear import overlap
from superposition.records import Record
from superposition.stats import regression
from superposition.stats.intervals import Estimate
from superposition.stats.ranking import rank_correlations

#: The features of a pair by group; a group's share of the variance is what is lost when all of it is left out.
GROUPS: dict[str, tuple[str, ...]] = {
    "last token": ("same last token",),
    "spelling": ("spelling",),
    "relation": ("same relation, read", "same relation, unread"),
    "words": ("same words",),
    "object": ("same object",),
    "kind": ("same kind",),
    "prompt shape": ("edited begins", "read begins", "both begin", "one begins"),
    "position 0": ("edited at 0", "read at 0", "both at 0", "one at 0"),
}
#: The groups that make two facts related knowledge.
RELATED = ("relation", "kind")


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of ``m`` facts and their features.

    Attributes
    ----------
    m : int
        Number of facts.
    first, second : (n,) integers
        The two facts of each pair: with ``directed``, the edited and the read one, both ways; else ``first < second``.
    names : tuple of str
        Of the features, in the order of :data:`GROUPS`; a feature that is the same in all pairs is left out.
    X : (n, f) array
        The features: 0 or 1, but for ``"spelling"``, from 0 (nothing in common) to 1 (identical).
    directed : bool
    """

    m: int
    first: Int[np.ndarray, " n"]
    second: Int[np.ndarray, " n"]
    names: tuple[str, ...]
    X: Float[np.ndarray, "n f"]
    directed: bool

    @cached_property
    def groups(self) -> dict[str, list[int]]:
        """The columns of each group that has any."""
        found = {g: [self.names.index(name) for name in members if name in self.names] for g, members in GROUPS.items()}
        return {group: columns for group, columns in found.items() if columns}

    @cached_property
    def units(self) -> Float[np.ndarray, " f"]:
        """The step over which an effect is told: from 0 to 1, or two standard deviations (Gelman 2008)."""
        binary = np.isin(self.X, (0, 1)).all(axis=0)
        return np.where(binary, 1.0, 2 * self.X.std(axis=0))

    def of(self, matrix: Float[np.ndarray, "m m"]) -> Float[np.ndarray, " n"]:
        """The pairs' entries of a matrix."""
        return np.asarray(matrix)[self.first, self.second]

    def column(self, name: str) -> Float[np.ndarray, " n"]:
        """A feature by name; zero everywhere if it was left out because no pair has it."""
        return self.X[:, self.names.index(name)] if name in self.names else np.zeros(len(self.X))


def spelling(subjects: Sequence[str]) -> Float[np.ndarray, "m m"]:
    """How alike two subjects are spelt, 0 to 1: :class:`difflib.SequenceMatcher`'s ratio, upper and lower case alike.

    The ratio depends a little on which string comes first; here it is the alphabetically first one, so the matrix is
    symmetric.
    """
    plain = [subject.casefold() for subject in subjects]
    order = sorted(range(len(plain)), key=plain.__getitem__)
    found = np.eye(len(plain))
    for place, j in enumerate(order):
        matcher = SequenceMatcher(None, "", plain[j], autojunk=False)
        for i in order[:place]:
            matcher.set_seq1(plain[i])
            found[i, j] = found[j, i] = matcher.ratio()
    return found


def pairs(
    facts: Sequence[Fact],
    token_ids: Sequence[int],
    positions: Sequence[int],
    *,
    directed: bool = False,
    alike: Float[np.ndarray, "m m"] | None = None,
) -> Pairs:
    """All pairs of facts with what they share.

    Same last token: the tokens at which the two keys are read are the same. Same relation, read: the relation's words
    stand before both subjects, so the keys have read them. Same relation, unread: at least one prompt begins with its
    subject, whose key cannot know what is asked. Same words: the very same words stand before both subjects; left out
    where it says the same as the relation read. Same kind: the subjects' type. Prompt shape: which of the prompts
    begin with the subject. Position 0: which keys are read at the text's first token.

    Parameters
    ----------
    facts : sequence of m Fact
    token_ids, positions : sequence of m integers
        Of the token at which each key is read (``token_ids`` and ``token_positions`` of a record).
    directed : bool
        Pairs both ways, edited and read, for ``p``; else each pair once, for a symmetric measure.
    alike : (m, m) array, optional
        :func:`spelling` of the subjects, if it is at hand.

    Raises
    ------
    UserError
        Fewer than three facts, or lengths that do not fit.
    """
    m = len(facts)
    if m < 3 or not m == len(token_ids) == len(positions):
        raise UserError(
            f"Pairs need three or more facts with a token each: there are {m} facts, {len(token_ids)} tokens and "
            f"{len(positions)} positions."
        )
    first, second = np.nonzero(~np.eye(m, dtype=bool)) if directed else np.triu_indices(m, 1)

    def same(values: Sequence[Any]) -> np.ndarray:
        code = np.unique([str(value) for value in values], return_inverse=True)[1]
        known = np.array([value is not None for value in values])
        return (code[first] == code[second]) & known[first] & known[second]

    relation = same([fact.relation for fact in facts])
    begins = np.array([fact.prompt.startswith(SLOT) for fact in facts])
    before = [fact.prompt[: fact.prompt.index(SLOT)].strip() or None for fact in facts]
    at_0 = np.asarray(positions) == 0
    alike = spelling([fact.subject for fact in facts]) if alike is None else np.asarray(alike)
    features = {
        "same last token": same(list(token_ids)),
        "spelling": alike[first, second],
        "same relation, read": relation & ~begins[first] & ~begins[second],
        "same relation, unread": relation & (begins[first] | begins[second]),
        "same words": same(before),
        "same object": same([fact.target_true for fact in facts]),
        "same kind": same([fact.subject_type for fact in facts]),
        **_ends("begin", "begins", begins, first, second, directed),
        **_ends("at 0", "at 0", at_0, first, second, directed),
    }
    if np.array_equal(features["same words"], features["same relation, read"]):
        del features["same words"]
    names = [name for group in GROUPS.values() for name in group if name in features]
    names = [name for name in names if np.ptp(features[name].astype(float)) > 0]
    X = np.column_stack([features[name].astype(float) for name in names]) if names else np.zeros((len(first), 0))
    return Pairs(m, first, second, tuple(names), X, directed)


def _ends(plural: str, single: str, mark: np.ndarray, first: np.ndarray, second: np.ndarray, directed: bool) -> dict:
    one, other = mark[first], mark[second]
    both = {f"both {plural}": one & other}
    return both | ({f"edited {single}": one, f"read {single}": other} if directed else {f"one {single}": one ^ other})


# Least squares of dyadic data


@dataclass(frozen=True, eq=False)
class Fit:
    """Least squares of overlaps on the features of pairs, for L layers at once.

    Attributes
    ----------
    effects, errors : (f, L)
        How many standard deviations of the overlap a feature's :attr:`Pairs.units` is worth, and the standard errors.
    share : (L,)
        Share of the variance that all features explain, R².
    shares : dict of str to (L,)
        By group: its part of R² (:func:`superposition.stats.regression.shapley`).
    """

    effects: Float[np.ndarray, "f L"]
    errors: Float[np.ndarray, "f L"]
    share: Float[np.ndarray, " L"]
    shares: dict[str, Float[np.ndarray, " L"]]

    @property
    def intervals(self) -> Float[np.ndarray, "2 f L"]:
        """95 % intervals of the effects."""
        return self.effects + np.array([-1.96, 1.96])[:, None, None] * self.errors


def fit(table: Pairs, Y: Float[np.ndarray, "n L"] | Float[np.ndarray, " n"]) -> Fit:
    """Regress overlaps on the features of their pairs, with an intercept.

    Parameters
    ----------
    table : Pairs
    Y : (n, L) or (n,) array
        An overlap of each pair, a layer a column (:meth:`Pairs.of`).

    Raises
    ------
    UserError
        Shapes do not fit, the overlaps are constant or not finite, or one feature follows from the others.
    """
    Y = _columns(table, Y)
    coefficients, errors = regression.dyadic(table.X, Y, table.first, table.second)
    X, Y = table.X - table.X.mean(axis=0), Y - Y.mean(axis=0)
    scale = table.units[:, None] / Y.std(axis=0)
    products = X.T @ X, X.T @ Y, (Y**2).sum(0)
    parts = regression.shapley(table.groups, *products)
    return Fit(coefficients * scale, errors * scale, regression.explained(*products), parts)


def bootstrap_shares(
    table: Pairs, Y: Float[np.ndarray, "n L"] | Float[np.ndarray, " n"], *, resamples: int = 500, seed: int = 0
) -> dict[str, Float[np.ndarray, "resamples L"]]:
    """Shares of variance under resamples of facts: the whole (``"all"``) and each group's part.

    A pair is weighted by how often its two facts are drawn; a fact drawn twice does not meet itself.

    Raises
    ------
    UserError
        Fewer than one resample, or overlaps that do not fit.
    """
    if resamples < 1:
        raise UserError(f"{resamples} resamples make no sense: give 1 or more.")
    Y, rng = _columns(table, Y), np.random.default_rng(seed)
    found = []
    for counts in rng.multinomial(table.m, np.full(table.m, 1 / table.m), size=resamples):
        weight = (counts[table.first] * counts[table.second]).astype(float)
        kept = weight > 0
        w, X, y = weight[kept] / weight.sum(), table.X[kept], Y[kept]
        X, y = X - w @ X, y - w @ y
        weighted = X * w[:, None]
        products = weighted.T @ X, weighted.T @ y, w @ y**2
        found.append({"all": regression.explained(*products)} | regression.shapley(table.groups, *products))
    return {name: np.array([one[name] for one in found]) for name in found[0]}


def shuffled_shares(
    table: Pairs, matrices: Sequence[Float[np.ndarray, "m m"]], *, shuffles: int = 200, seed: int = 0
) -> Float[np.ndarray, "shuffles L"]:
    """The share of variance when the facts' labels are shuffled: what chance explains (a QAP test, as Mantel's).

    Rows and columns of each layer's matrix are permuted together, so that its own structure stays.
    """
    rng = np.random.default_rng(seed)
    X = table.X - table.X.mean(axis=0)
    products, found = X.T @ X, []
    for _ in range(shuffles):
        order = rng.permutation(table.m)
        Y = np.column_stack([np.asarray(matrix)[order[table.first], order[table.second]] for matrix in matrices])
        Y -= Y.mean(axis=0)
        found.append(regression.explained(products, X.T @ Y, (Y**2).sum(0)))
    return np.array(found)


def _columns(table: Pairs, Y: np.ndarray) -> np.ndarray:
    Y = np.asarray(Y, dtype=np.float64)
    Y = Y[:, None] if Y.ndim == 1 else Y
    if len(Y) != len(table.X):
        raise UserError(f"There are {len(table.X)} pairs and {len(Y)} overlaps: take them with Pairs.of.")
    if not np.isfinite(Y).all() or not (np.ptp(Y, axis=0) > 0).all():
        raise UserError("The overlaps are constant, NaN or infinite: there is nothing to explain.")
    return Y


def among_strongest(
    table: Pairs, values: Float[np.ndarray, " n"], features: Mapping[str, Sequence[str]], count: int = 100
) -> dict[str, tuple[float, float]]:
    """How common features are among the pairs of largest overlap, and among all pairs.

    Parameters
    ----------
    table : Pairs
    values : (n,) array
        Of an undirected table; for ``p`` take the larger direction.
    features : mapping of str to sequence of str
        A pair counts for a name if it has any of the features.
    count : int
        How many pairs are strongest.

    Returns
    -------
    dict
        By name, the two shares; under ``"none"`` the pairs that have none of the features.
    """
    top = np.argsort(-np.asarray(values), kind="stable")[:count]
    has = {name: np.any([table.column(c) > 0 for c in columns], axis=0) for name, columns in features.items()}
    has["none"] = ~np.any(list(has.values()), axis=0)
    return {name: (float(held[top].mean()), float(held.mean())) for name, held in has.items()}


def larger(P: Float[np.ndarray, "m m"]) -> Float[np.ndarray, "m m"]:
    """The larger of ``P[i, j]`` and ``P[j, i]``."""
    return np.maximum(P, np.asarray(P).T)


def stack(record: Record, measure: str = "P") -> Iterator[Float[np.ndarray, "m m"]]:
    """The matrices of one measure, ``"P"`` or ``"cosine_whitened"``, of a record's layers in order."""
    for layer in record["layers"]:
        yield getattr(record.overlaps(layer), measure)


def strongest_names(P: Float[np.ndarray, "m m"], facts: Sequence[Fact], count: int) -> list[tuple]:
    """(edited, read, p, p back) of the strongest pairs by name, each pair once, in its stronger direction."""
    return [
        (facts[i].subject, facts[j].subject, float(P[i, j]), float(P[j, i])) for i, j in overlap.strongest(P, count)
    ]


def sink_among_strongest(record: Record, count: int = 100) -> Float[np.ndarray, " layers"]:
    """By layer, the share of the pairs of largest p that have a key read at position 0."""
    at_0, shares = np.array(record["token_positions"]) == 0, []
    for P in stack(record):
        upper = np.triu(larger(P), 1)
        i, j = np.unravel_index(np.argsort(-upper, axis=None)[:count], upper.shape)
        shares.append((at_0[i] | at_0[j]).mean())
    return np.array(shares)


# Reading the record of regressions (experiments/pairs.py)

#: The layers that a chapter looks at.
PLACES = ("first", "middle", "last")


def regressions(
    record: Record, model: str, *, wording: str = "own", measure: str = "cosine_whitened"
) -> dict[str, Any]:
    """A model's regressions, a layer a column: its entry in the record's ``tables`` and its arrays.

    Parameters
    ----------
    record : Record
        ``pairs``.
    model : str
        ``"smollm2"`` or ``"gemma3"``.
    wording : str
        The book's ``"own"`` prompts, or wordings ``"drawn"`` from their relations.
    measure : str
        ``"cosine_whitened"`` or ``"P"``.

    Returns
    -------
    dict
        ``names`` of the features and how many pairs are ``having`` them; ``effects`` and ``errors`` (f, L); the
        ``groups``, all of them first, the ``shares`` of each (g, L) with their ``shares_interval`` (2, g, L), how
        much more ``related`` ones have than the last token (3, L), and what ``chance`` reaches (L,); ``own`` (L,), the
        share of row and column means.
    """
    name = f"{model} {wording} {measure}"
    entry = next(entry for entry in record["tables"] if entry["name"] == name)
    stem = f"{name} "
    return entry | {key.removeprefix(stem): rows for key, rows in record.arrays.items() if key.startswith(stem)}


def _column(table: Mapping[str, Any], place: str) -> int:
    last = table["effects"].shape[1] - 1
    return {"first": 0, "middle": (last + 1) // 2, "last": last}[place]


def effect(table: Mapping[str, Any], feature: str, place: str) -> float:
    """A feature's effect in the first, the middle or the last layer (:func:`regressions`)."""
    return float(table["effects"][table["names"].index(feature), _column(table, place)])


def effects(table: Mapping[str, Any], place: str, without: Sequence[str] = ()) -> tuple[list[str], Any, Any]:
    """The names, the effects and the standard errors of all features at a place, but for some."""
    kept = [n for n, name in enumerate(table["names"]) if name not in without]
    names = [table["names"][n] for n in kept]
    return names, *(table[what][kept, _column(table, place)] for what in ("effects", "errors"))


def effect_by_layer(table: Mapping[str, Any], feature: str) -> tuple[np.ndarray, np.ndarray]:
    """A feature's effects and their standard errors, (L,) each."""
    row = table["names"].index(feature)
    return table["effects"][row], table["errors"][row]


def shares(table: Mapping[str, Any], group: str) -> Float[np.ndarray, " L"]:
    """A group's share of the variance, by layer."""
    return table["shares"][table["groups"].index(group)]


def share(table: Mapping[str, Any], group: str, place: str) -> float:
    """A group's share of the variance at a place; of ``"all"``, that of all features."""
    return float(table["shares"][table["groups"].index(group), _column(table, place)])


def share_estimate(table: Mapping[str, Any], group: str, place: str) -> Estimate:
    """:func:`share` with its interval, which the record holds for the book's own prompts."""
    ends = table["shares_interval"][:, table["groups"].index(group), _column(table, place)]
    return Estimate(share(table, group, place), *map(float, ends))


def related(table: Mapping[str, Any], place: str) -> Estimate:
    """By how much the shares of :data:`RELATED` exceed that of the last token at a place; facts are drawn, in pairs."""
    return Estimate(*map(float, table["related"][:, _column(table, place)]))


# Reading the record of single edits (experiments/pairs.py)


@dataclass(frozen=True, eq=False)
class Partners:
    """What single edits at one layer did to the facts that were asked after each.

    Attributes
    ----------
    p : (edits, partners)
        Overlap of the edited key with the partner's.
    change_new, change_true : (edits, partners)
        Of the log-probability of the edit's new object and of the partner's own.
    wrong : (edits, partners) of bool
        The partner's answer is no longer right.
    same : dict of str to (edits, partners) of bool
        What edit and partner share: ``relation``, ``kind``, ``object``, ``last token``.
    groups : dict of str to (edits, partners) of bool
        Pairs that were asked and are of different subjects, and whose partner's answer is not what the edit says:
        ``all``; of edits that took (``held``) or did not (``failed``); ``held`` that share nothing (``apart``).
    held, at_0 : (edits,) of bool
        Which edits took, and which write at a key that is read at position 0.
    shift : (edits,)
        Length of the edit's shift of the value.
    """

    p: Float[np.ndarray, "edits partners"]
    change_new: Float[np.ndarray, "edits partners"]
    change_true: Float[np.ndarray, "edits partners"]
    wrong: Bool[np.ndarray, "edits partners"]
    same: dict[str, Bool[np.ndarray, "edits partners"]]
    groups: dict[str, Bool[np.ndarray, "edits partners"]]
    held: Bool[np.ndarray, " edits"]
    at_0: Bool[np.ndarray, " edits"]
    shift: Float[np.ndarray, " edits"]

    @property
    def push(self) -> Float[np.ndarray, "edits partners"]:
        """How far the edit moves the layer's answer for the partner, ``|p| ‖δ‖``, over the median ``‖δ‖``."""
        return np.abs(self.p) * (self.shift / np.median(self.shift))[:, None]


def partners(record: Record, layer: int, known: Sequence[Fact]) -> Partners:
    """The edits at one layer of the record ``pairs-edits``; ``known`` is the table of facts that it counts in."""
    n = record["layers"].index(layer)
    chosen, read, held = record["edits"][n], record["partners"], np.array(record["held"][n], dtype=bool)
    token = np.array(record["token_ids"])

    def equal(of_edit: str, of_partner: str) -> np.ndarray:
        here, there = [getattr(known[i], of_edit) for i in chosen], [getattr(known[j], of_partner) for j in read]
        return np.equal.outer(np.array(here), np.array(there))

    columns = {"relation": "relation", "kind": "subject_type", "object": "target_true"}
    same = {name: equal(column, column) for name, column in columns.items()}
    same["last token"] = np.equal.outer(token[chosen], token[read])
    of = {what: record.arrays[f"layer {layer} {what}"] for what in ("p", "change_new", "change_true", "asked", "right")}
    counted = of["asked"] & ~equal("subject", "subject") & ~equal("target_new", "target_true")
    groups = {"all": counted, "held": counted & held[:, None], "failed": counted & ~held[:, None]}
    groups["apart"] = groups["held"] & ~np.any(list(same.values()), axis=0)
    at_0 = np.array(record["positions"])[chosen] == 0
    shift = record.arrays[f"layer {layer} shift"]
    return Partners(of["p"], of["change_new"], of["change_true"], ~of["right"], same, groups, held, at_0, shift)


def odds_of_a_flip(at: Partners, of: str = "push", resamples: int = 500) -> Estimate:
    """Odds ratio of a flipped answer for each tenth of the push, or of ``p``, what facts share held fixed.

    The interval draws edits and partners (:func:`superposition.stats.regression.over_both`).
    """
    X = np.stack([getattr(at, of) * 10, *at.same.values()], axis=-1).astype(float)

    def log_odds(weights: np.ndarray) -> float:
        use = at.groups["all"] & (weights > 0)
        return regression.logistic(X[use], at.wrong[use].astype(float), weights[use])[1]

    drawn = regression.over_both(log_odds, *at.p.shape, resamples=resamples)
    return Estimate(*np.exp([log_odds(np.ones(at.p.shape)), *np.quantile(drawn, [0.025, 0.975])]))


def flips(at: Partners, low: float, high: float = np.inf) -> tuple[float, int]:
    """The share of answers that flip where ``low ≤ push < high``, and the number of these pairs."""
    some = at.groups["all"] & (at.push >= low) & (at.push < high)
    return float(at.wrong[some].mean()), int(some.sum())


def trend(at: Partners, change: str, among: str = "all", resamples: int = 500) -> Estimate:
    """Rank correlation of p with a change, over the facts asked after an edit; the mean over edits.

    The interval draws edits and facts, both. Edits with fewer than five facts, or with a change that is the same for
    all, are left out.
    """
    values, rng = getattr(at, change), np.random.default_rng(0)
    edits, partners = at.p.shape
    kept = [row for row, use in enumerate(at.groups[among]) if use.sum() > 4 and np.ptp(values[row, use]) > 0]
    rows = rng.multinomial(edits, np.full(edits, 1 / edits), size=resamples)[:, kept]  # (b, kept)
    columns = rng.multinomial(partners, np.full(partners, 1 / partners), size=resamples)
    rows, columns = (np.concatenate([np.ones((1, x.shape[1]), dtype=int), x]) for x in (rows, columns))
    ranks = np.empty(rows.shape)
    for place, row in enumerate(kept):
        use = at.groups[among][row]
        ranks[:, place] = rank_correlations(at.p[row, use], values[row, use], columns[:, use])
    means = np.nansum(rows * ranks, axis=1) / (rows * np.isfinite(ranks)).sum(1)
    return Estimate(float(means[0]), *map(float, np.nanquantile(means[1:], [0.025, 0.975])))
