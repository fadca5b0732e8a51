"""The law of lifelong editing, read off its records: how much is lost at which drift, and how long a layer lasts.

A *point* is a model after some edits at one layer: which of the facts that nobody edits it still says, how far the
edits have moved the layer, and what else was proposed to tell how much is lost. Chapters ``18-law`` and
``19-lifetime``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from superposition.errors import UserError
from superposition.records import Record
from superposition.stats import response
from superposition.stats.intervals import Estimate, over_clusters_at_once
from superposition.stats.ranking import rank_correlations
from superposition.stats.response import LogLogistic

#: A statistic of points in b draws, of how often each draw has each point.
Draws = Callable[[Int[np.ndarray, "b n"]], Float[np.ndarray, " b"]]

#: The drift that the law is about: of what is written, over the residual stream, at every position.
R = "stream, all"
#: The drift of the last state, which the model's head reads.
S = "last state"
#: The mean distance, in nats, by which a fact's margin over the next best answer has moved.
MU = "margin"
#: What else was proposed to tell how much is lost (``book/data/bars.toml``, ``claim-19.rivals``).
RIVALS = ("edits", "change", "size", "overlap", "condition", "energy", "perplexity")
#: The quantities of a point by name, and how figures and tables call them.
QUANTITIES = {
    "edits": "number of edits $n$",
    "change": r"$\|\Delta W\|/\|W\|$",
    "size": r"size, $c\sqrt{n}$",
    "overlap": r"overlap, $\sqrt{nq}$",
    "condition": "condition number",
    "energy": "hyperspherical energy",
    "perplexity": "perplexity",
    "answer, subject": "drift over the answer",
    "stream, subject": "drift, subject only",
    R: "relative drift $R$",
    S: "last state's drift $S$",
    MU: r"change of the margin $\mu$",
    "forecast": r"forecast drift, $\sqrt{nD}$",
}
#: The shares whose loss ends a layer's life.
SHARES = (0.1, 0.25, 0.5)
#: How many edits are tried for forecasts of a layer's life (``book/data/bars.toml``); a look within them is exact.
TRIED = 10
#: Layers whose points had been seen when S was put beside R (``book/data/bars.toml``, ``claim-19.state``).
SEEN = {"smollm2": range(9), "gemma3": range(1)}
#: Layers at which replays had been seen when their bar was frozen (``claim-20.replay``).
REPLAYS_SEEN = {"smollm2": (6, 12, 18, 24)}
#: The layer whose points in several ways had been seen when ``claim-19.layer`` was frozen.
WAYS_SEEN = ("smollm2", 6)
#: Kinds of points; the curve is fitted to those of the first.
KINDS = ("fitted", "targets beforehand", "targets anew", "other editors", "fine-tuning", "a thousand edits")


@dataclass(frozen=True)
class Point:
    """A model after some edits at one layer.

    Attributes
    ----------
    model : str
    layer : int
    rule, targets : str
        How the edits were written, and where their targets came from: ``beforehand``; found ``anew``, within a ball
        about the unedited answer; or in another way that the record names.
    edits : int
    lost : float
        The share of the watched facts that the model does not say any more.
    quantities : mapping
        By name: the drifts (root mean squares), and what its record has of :data:`QUANTITIES`.
    record : str
        Kind of the record that it is of: ``law``, ``ways``, ``runaway`` or ``failure``.
    """

    model: str
    layer: int
    rule: str
    targets: str
    edits: int
    lost: float
    quantities: Mapping[str, float]
    record: str

    @property
    def drift(self) -> float:
        """R."""
        return self.quantities[R]

    @property
    def place(self) -> str:
        """Model and layer: what points that hang together share."""
        return f"{self.model} {self.layer}"


def _mean_square(x: np.ndarray) -> float:
    return float(np.mean(np.square(x, dtype=float)))


def drifts(found: Mapping[str, Any], positions: Int[np.ndarray, " m"]) -> dict[str, float]:
    """The drifts of a point, from those of its facts: root mean squares, and of the margin's change the mean size.

    A drift is a mean square over the positions of a fact: where there are several, each counts once in R.

    Parameters
    ----------
    found : mapping of name to (m,)
        What begins with ``stream``, ``answer`` or ``last state`` is a drift; :data:`MU` must be there.
    positions : (m,)
        How many positions each fact has.
    """
    numbers = {MU: float(np.abs(found[MU]).mean())}
    for name in found:
        if name.startswith(("stream", "answer", "last state")):
            weights = positions if name.endswith("all") else None
            numbers[name] = float(np.sqrt(np.average(np.square(found[name], dtype=float), weights=weights)))
    return numbers


def _point(found: Mapping[str, Any], before: Mapping[str, float], unedited: float, **names: Any) -> Point:
    """From the drifts and everything else a record holds of a point, and what was known before any edit."""
    n, rivals = names["edits"], {name: found[name] for name in ("change", "condition", "energy")}
    rivals |= {"edits": n, "perplexity": found["perplexity"] / unedited}
    rivals |= {"size": np.sqrt(n) * before["c"], "overlap": np.sqrt(n * before["q"])}
    rivals |= {"forecast": np.sqrt(n * before["D"])}
    moved = {name: found[name] for name in found if name == MU or name.startswith(("stream", "answer", "last state"))}
    lost = 1 - float(found["kept"].mean())
    return Point(**names, lost=lost, quantities={k: float(v) for k, v in (moved | rivals).items()})


def before_any_edit(arrays: Mapping[str, np.ndarray], stem: str) -> dict[str, float]:
    """Of a layer's single edits, each alone on the unedited model: size ``c``, overlap ``q``, and ``D``."""
    size, q, each = (arrays[f"{stem}{name}"] for name in ("size", "q", f"D {R}"))
    return {"c": float(np.sqrt(_mean_square(size))), "q": float(np.mean(q)), "D": float(np.mean(each))}


def points(record: Record) -> list[Point]:
    """All points of a record of the kind ``law``, ``ways``, ``runaway`` or ``failure``.

    Raises
    ------
    UserError
        The record is of another kind.
    """
    if record["kind"] == "law":
        return _of_layers(record)
    if record["kind"] in ("ways", "runaway"):
        return _of_sequences(record)
    if record["kind"] == "failure":
        return _to_failure(record)
    raise UserError(f"A record of the kind {record['kind']!r} holds no points of the law.")


def gathered(*measured: Record) -> list[Point]:
    """All points of several records; a state that two of them hold is taken once, from the first."""
    found: dict[tuple[Any, ...], list[Point]] = {}
    for point in (point for record in measured for point in points(record)):
        alike = found.setdefault((point.model, point.layer, point.rule, point.targets, point.edits), [])
        if not any(np.isclose(point.drift, other.drift, rtol=1e-4) for other in alike):
            alike.append(point)
    return [point for alike in found.values() for point in alike]


def _under(stem: str, of: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(stem): value for name, value in of.items() if name.startswith(stem)}


def _of_layers(record: Record) -> list[Point]:
    found, model = [], record["model"]["name"]
    for row in record["layers"]:
        layer = row["layer"]
        arrays = _under(f"{layer}/", record.arrays)
        before = before_any_edit(arrays, "before/")
        for targets in ("beforehand", "anew"):
            for n in record["looks"]:
                of = _under(f"{targets}/{n}/", arrays | row)
                if "kept" in of:
                    names = {"model": model, "layer": layer, "rule": "rome", "targets": targets, "edits": n}
                    names["record"] = "law"
                    found.append(_point(of, before, record["perplexity"], **names))
    return found


def _of_sequences(record: Record) -> list[Point]:
    found = []
    for row in record["runs"]:
        stem = f"{row['model']} {row['layer']}/"
        before = before_any_edit(record.arrays, f"{stem}before/")
        for arm, plain in row["points"].items():
            if arm == "before":
                continue
            targets, rule = arm.split(", ", 1)
            targets = "anew" if targets == "anchored" else targets  # the search of the records of layers
            for n, kept in zip(record["looks"], record.arrays[f"{stem}{arm}/kept"], strict=True):
                of = _under(f"{n}/", plain) | {"kept": kept}
                names = {"model": row["model"], "layer": row["layer"], "rule": rule, "targets": targets, "edits": n}
                names["record"] = record["kind"]
                found.append(_point(of, before, row["perplexity"], **names))
    return found


def _to_failure(record: Record) -> list[Point]:
    """With the quantities that such a record has; a forecast of R only for ROME, as D is of its single edits."""
    found, before = [], record["before"]
    names = {"model": record["model"]["name"], "layer": record["layer"], "targets": "anew", "record": "failure"}
    for sequence in record["sequences"]:
        rule = sequence["method"] + f", order {sequence['order']}" * (sequence["order"] > 0)
        for row in sequence["checkpoints"]:
            n, quantities = row["edits"], {"edits": row["edits"], "change": row["change"]}
            quantities |= {"size": np.sqrt(n) * before["c"], "overlap": np.sqrt(n * before["q"])}
            quantities |= {"perplexity": row["perplexity"] / record["start"]["perplexity"]}
            for name in ("answer, subject", "stream, subject", R):
                quantities[name] = row["drift_over_" + name.replace(", ", "_")]
            if sequence["method"] == "rome":
                quantities["forecast"] = np.sqrt(n * before["D"])
            told = {name: float(value) for name, value in quantities.items()}
            found.append(Point(**names, rule=rule, edits=n, lost=row["lost"]["share"], quantities=told))
    return found


# How good a quantity is


def fit(some: Sequence[Point], name: str = R) -> LogLogistic:
    """The curve of the share lost over R, or over another quantity, fitted to points."""
    return response.fit([point.quantities[name] for point in some], [point.lost for point in some])


def is_fitted(point: Point) -> bool:
    """Whether a point is of the set that the curve is fitted to (``book/data/bars.toml``)."""
    of = point.record, point.model, point.rule, point.targets
    return of == ("law", "smollm2", "rome", "beforehand") and point.layer % 2 == 0


def kind_of(point: Point) -> str:
    """Which of :data:`KINDS` a point is of."""
    if point.record == "failure":
        return KINDS[-1]
    if point.rule == "ft":
        return "fine-tuning"
    if point.rule != "rome":
        return "other editors"
    if not point.targets.endswith("beforehand"):  # in whichever units
        return "targets anew"
    return "fitted" if is_fitted(point) else "targets beforehand"


def by_kind(some: Sequence[Point]) -> dict[str, list[Point]]:
    """Points by their kind, those that the curve is fitted to first."""
    found = {kind: [point for point in some if kind_of(point) == kind] for kind in KINDS}
    return {kind: group for kind, group in found.items() if group}


def grouped(some: Sequence[Point]) -> dict[tuple[str, str], list[Point]]:
    """Points by model and kind, in the order in which they come; those the curve is fitted to are left out."""
    found: dict[tuple[str, str], list[Point]] = {}
    for point in some:
        if not is_fitted(point):
            found.setdefault((point.model, kind_of(point)), []).append(point)
    return found


def unseen(some: Sequence[Point]) -> list[Point]:
    """Without the layers that had been seen when S was put beside R."""
    return [point for point in some if point.layer not in SEEN[point.model]]


def _of_all(some: Sequence[Point], statistics: Draws) -> float:
    """Of the points as they are, each once."""
    return float(statistics(np.ones((1, len(some)), dtype=int))[0])


def correlation(some: Sequence[Point], name: str = R) -> float:
    """Spearman's rank correlation of a quantity with the share lost."""
    return _of_all(some, _correlations(some, name))


def _correlations(some: Sequence[Point], name: str) -> Draws:
    values, lost = (np.array(column) for column in zip(*((p.quantities[name], p.lost) for p in some), strict=True))
    return lambda counts: rank_correlations(values, lost, counts)


def error(some: Sequence[Point], curve: LogLogistic, name: str = R) -> float:
    """Root mean square distance of the share lost from a curve."""
    return _of_all(some, _errors(some, curve, name))


def _errors(some: Sequence[Point], curve: LogLogistic, name: str) -> Draws:
    off = curve.share([point.quantities[name] for point in some]) - np.array([point.lost for point in some])
    return lambda counts: np.sqrt(counts @ off**2 / counts.sum(1))


def _clusters(some: Sequence[Point | Lifetime]) -> list[str]:
    """What is drawn whole for an interval: layers; where all are of one layer, the rules that they were written by."""
    places = [one.place for one in some]
    return places if len(set(places)) > 1 else [one.rule for one in some]


def _over_places(some: Sequence[Point], statistics: Draws, resamples: int) -> Estimate:
    """With its interval; without ends, NaN, where there is one layer and one rule only."""
    if len(set(_clusters(some))) < 2:
        return Estimate(_of_all(some, statistics), np.nan, np.nan)
    return over_clusters_at_once(statistics, _clusters(some), resamples=resamples)


@dataclass(frozen=True)
class Score:
    """How points lie about a curve: their number, rank correlation and error, with intervals over layers."""

    points: int
    correlation: Estimate
    error: Estimate


def score(some: Sequence[Point], curve: LogLogistic, name: str = R, resamples: int = 500) -> Score:
    """Rank correlation of a quantity with the share lost, and the curve's error; both over whole layers."""
    ranks = _over_places(some, _correlations(some, name), resamples)
    return Score(len(some), ranks, _over_places(some, _errors(some, curve, name), resamples))


def ahead(some: Sequence[Point], rival: str, name: str = R, resamples: int = 500) -> Estimate:
    """By how much R's rank correlation with the share lost exceeds a rival's, with its interval over layers.

    Over the points that have both.
    """
    some = [point for point in some if {rival, name} <= {*point.quantities}]
    own, other = _correlations(some, name), _correlations(some, rival)
    return _over_places(some, lambda counts: own(counts) - other(counts), resamples)


@dataclass(frozen=True)
class AtLayer:
    """The points of one layer, in ways to make the same sequence of edits.

    Attributes
    ----------
    fitted : list of Point
        ROME's with targets beforehand, which the layer's own curve is fitted to.
    others : list of Point
        All other closed forms', and ROME's with targets of another kind.
    tuned : list of Point
        Fine-tuning's.
    """

    fitted: list[Point]
    others: list[Point]
    tuned: list[Point]

    def curve(self, name: str = R) -> LogLogistic:
        """The layer's own curve over a quantity."""
        return fit(self.fitted, name)

    def score(self, name: str = R, resamples: int = 500) -> Score:
        """How the other closed forms' points lie about it; intervals over rules."""
        return score(self.others, self.curve(name), name, resamples)

    def without_one(self, name: str = R) -> list[float]:
        """Their error about the curve that is fitted without each of its points in turn."""
        rest = [self.fitted[:i] + self.fitted[i + 1 :] for i in range(len(self.fitted))]
        return [error(self.others, fit(some, name), name) for some in rest]

    def by_reach(self) -> dict[str, float]:
        """Their error about the curve over R ``within`` the largest drift that it was fitted to, and ``beyond`` it."""
        reach, curve = max(point.drift for point in self.fitted), self.curve()
        within = [point for point in self.others if point.drift <= reach]
        parts = {"within": within, "beyond": [point for point in self.others if point.drift > reach]}
        return {name: error(some, curve) for name, some in parts.items() if some}


def by_layer(some: Sequence[Point]) -> dict[tuple[str, int], AtLayer]:
    """Points of sequences, by model and layer."""
    found: dict[tuple[str, int], AtLayer] = {}
    for point in some:
        at = found.setdefault((point.model, point.layer), AtLayer([], [], []))
        own = (point.rule, point.targets) == ("rome", "beforehand")
        (at.tuned if point.rule == "ft" else at.fitted if own else at.others).append(point)
    return found


# How long a layer lasts


@dataclass(frozen=True)
class Lifetime:
    """How many edits a layer bears until a share is lost: as forecast before any edit, and as it came.

    Attributes
    ----------
    model : str
    layer : int
    rule, targets : str
        As of a :class:`Point`.
    share : float
    forecast : float
        Infinite if it is more than was looked at.
    came : float
        Infinite if the share was not yet lost at the last look, NaN if more than one and a half times the share was
        lost at the first: then nobody saw it go.
    """

    model: str
    layer: int
    rule: str
    targets: str
    share: float
    forecast: float
    came: float

    @property
    def seen(self) -> bool:
        """Whether it is known after how many edits the share was lost."""
        return bool(np.isfinite(self.came))

    @property
    def factor(self) -> float:
        """Forecast over what came."""
        return self.forecast / self.came

    @property
    def place(self) -> str:
        """Model and layer, as of a :class:`Point`."""
        return f"{self.model} {self.layer}"


def series(some: Sequence[Point]) -> dict[tuple[str, int, str, str], list[Point]]:
    """Points by model, layer, rule and kind of targets, those of each in the order of their edits."""
    found: dict[tuple[str, int, str, str], list[Point]] = {}
    for point in sorted(some, key=lambda point: point.edits):
        found.setdefault((point.model, point.layer, point.rule, point.targets), []).append(point)
    return found


def lifetimes(
    some: Sequence[Point], forecasts: Callable[[Point, float], float], shares: Sequence[float] = SHARES
) -> list[Lifetime]:
    """Of every layer, rule and kind of targets among points, a row a share.

    ``forecasts`` gives the number of edits for a point, of which only the layer counts, and a share:
    :func:`by_drift` or :func:`by_asking`.
    """
    found = []
    for of in series(some).values():
        lost = [point.lost for point in of]
        for share in shares:
            came = np.nan if lost[0] > 1.5 * share else response.reached([point.edits for point in of], lost, share)
            first = of[0]
            told = forecasts(first, share)
            found.append(Lifetime(first.model, first.layer, first.rule, first.targets, share, told, came))
    return found


def by_drift(curve: LogLogistic) -> Callable[[Point, float], float]:
    """Lifetimes from D and the curve over R: ``n = R_share²/D``."""

    def edits(point: Point, share: float) -> float:
        D = point.quantities["forecast"] ** 2 / point.edits
        return float(curve.dose(share)) ** 2 / D

    return edits


def by_asking(record: Record, way: str) -> Callable[[Point, float], float]:
    """Lifetimes from what the model still says with a forecast drift put in, as a record of the kind ``law`` holds it.

    ``way`` is ``drawn``, the drifts of ten edits times random numbers, or ``replay``, the keys of all edits with the
    shifts of ten.
    """

    def edits(point: Point, share: float) -> float:
        kept, looks = (record.arrays[f"{point.layer}/{way}/{name}"] for name in ("kept", "looks"))
        return response.reached(looks, 1 - kept.mean(1), share)

    return edits


def by_replay(record: Record) -> Callable[[Point, float], float]:
    """Lifetimes by the replay of each method, as a record of the kind ``failure`` holds it."""

    def edits(point: Point, share: float) -> float:
        rows = record["replay"][f"{point.rule} 0"]
        return response.reached([row["edits"] for row in rows], [row["lost"]["share"] for row in rows], share)

    return edits


def beforehand(some: Sequence[Point], *, unseen: bool = False) -> list[Point]:
    """Points whose targets were found beforehand; if asked, without the layers at which replays had been seen."""
    found = [point for point in some if point.targets == "beforehand"]
    return [point for point in found if not (unseen and point.layer in REPLAYS_SEEN.get(point.model, ()))]


def within(some: Sequence[Lifetime], factor: float) -> Bool[np.ndarray, " n"]:
    """Of lifetimes that were seen: whether the forecast lies within a factor of them."""
    return np.array([abs(np.log(row.factor)) <= np.log(factor) for row in some if row.seen], dtype=bool)


def share_within(some: Sequence[Lifetime], factor: float, resamples: int = 500) -> Estimate:
    """Of lifetimes that were seen: the share whose forecast lies within a factor, with its interval over layers.

    Where all are of one layer it is over rules.
    """
    seen = [row for row in some if row.seen]
    near = within(seen, factor)
    return over_clusters_at_once(lambda counts: counts @ near / counts.sum(1), _clusters(seen), resamples=resamples)
