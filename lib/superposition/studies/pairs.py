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
from jaxtyping import Float, Int

from superposition.data.facts import SLOT, Fact
from superposition.errors import UserError
from superposition.linear import overlap
from superposition.records import Record
from superposition.stats import regression

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
    dropped : dict of str to (L,)
        By group: the share that is lost when the group alone is left out.
    alone : dict of str to (L,)
        By group: the share that the group explains by itself.
    """

    effects: Float[np.ndarray, "f L"]
    errors: Float[np.ndarray, "f L"]
    share: Float[np.ndarray, " L"]
    dropped: dict[str, Float[np.ndarray, " L"]]
    alone: dict[str, Float[np.ndarray, " L"]]

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
    return Fit(coefficients * scale, errors * scale, *regression.shares(table.groups, X.T @ X, X.T @ Y, (Y**2).sum(0)))


def bootstrap_shares(
    table: Pairs, Y: Float[np.ndarray, "n L"] | Float[np.ndarray, " n"], *, resamples: int = 500, seed: int = 0
) -> dict[str, Float[np.ndarray, "resamples L"]]:
    """Shares of variance under resamples of facts: the whole (``"all"``) and what each group's absence costs.

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
        share, dropped, _ = regression.shares(table.groups, weighted.T @ X, weighted.T @ y, w @ y**2)
        found.append({"all": share} | dropped)
    return {name: np.array([one[name] for one in found]) for name in found[0]}


def shuffled_shares(
    table: Pairs, matrices: Sequence[Float[np.ndarray, "m m"]], *, shuffles: int = 200, seed: int = 0
) -> dict[str, Float[np.ndarray, "shuffles L"]]:
    """Shares of variance when the facts' labels are shuffled: what chance explains (a QAP test, as Mantel's).

    Rows and columns of each layer's matrix are permuted together, so that its own structure stays.
    """
    rng = np.random.default_rng(seed)
    X = table.X - table.X.mean(axis=0)
    products, found = X.T @ X, []
    for _ in range(shuffles):
        order = rng.permutation(table.m)
        Y = np.column_stack([np.asarray(matrix)[order[table.first], order[table.second]] for matrix in matrices])
        Y -= Y.mean(axis=0)
        share, dropped, _ = regression.shares(table.groups, products, X.T @ Y, (Y**2).sum(0))
        found.append({"all": share} | dropped)
    return {name: np.array([one[name] for one in found]) for name in found[0]}


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
