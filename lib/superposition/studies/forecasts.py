"""Forecasts of damage, its causes and its cures, read off their records (chapters 20 and 21).

These records hold runs, each of one model and layer; a run's arrays are named ``MODEL LAYER NAME``. The *loss* of a
watched fact is the fall of the log-probability of its true object, in nats, or zero where there was none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from superposition.errors import UserError
from superposition.records import Record
from superposition.stats import ranking
from superposition.stats.intervals import Estimate, over_clusters, share
from superposition.studies.names import MODELS

MEASURES = ("ranks", "sizes", "separations")
#: What forecasts take of a record's ``costs``: ``targets`` and ``dry run`` for each edit, the rest for all facts.
NEEDS = {
    "null: margin": ("pass",),
    "p norm, from the subject on": ("keys",),
    "p over margin, from the subject on": ("keys", "pass"),
    "slope spread": ("keys", "slope"),
    "drift norm, all": ("keys", "targets"),
    "push over margin, from the subject on": ("keys", "pass", "targets"),
    "first order, all": ("keys", "slope", "targets"),
    "drift, all": ("keys", "pass", "targets"),
    "margin left": ("keys", "pass", "targets"),
    "known residuals: margin left": ("keys", "pass", "dry run"),
}


def gone(left: Estimate) -> Estimate:
    """One minus a share."""
    return Estimate(1 - left.value, 1 - left.high, 1 - left.low)


def ratio_of_sums(
    above: Float[np.ndarray, " facts"],
    below: Float[np.ndarray, " facts"],
    *,
    seed: int,
    among: Bool[np.ndarray, " facts"] | None = None,
) -> Estimate:
    """A loss summed over facts, all or some ``among`` them, over another loss; bootstrap interval over facts."""
    facts = np.arange(len(above)) if among is None else np.flatnonzero(among)
    draws = facts[np.random.default_rng(seed).integers(len(facts), size=(2000, len(facts)))]
    low, high = np.quantile(above[draws].sum(1) / below[draws].sum(1), [0.025, 0.975])
    return Estimate(float(above[facts].sum() / below[facts].sum()), float(low), float(high))


class Run:
    """One model and layer of a record.

    Attributes
    ----------
    data : dict
        The run's entry in the record.
    model : str
    layer : int
    arrays : dict of str to array
        Those of the run, without model and layer in their names.
    """

    def __init__(self, record: Record, number: int = 0):
        self.data = record["runs"][number]
        self.model, self.layer = self.data["model"], self.data["layer"]
        stem = f"{self.model} {self.layer} "
        self.arrays = {name.removeprefix(stem): array for name, array in record.arrays.items() if name.startswith(stem)}


# Forecasts


@dataclass(frozen=True)
class Damage:
    """What a list of edits did to the watched facts: mean fall, share that gained, mean loss, largest fall, share lost.

    A fact is lost that the model said before, by itself, and does not any more.
    """

    fall: float
    gained: float
    loss: float
    worst: float
    lost: float


class Forecasts(Run):
    """A run of the record ``forecasts``; ``look`` counts the points at which the watched facts were asked.

    Attributes
    ----------
    edits : list of int
        How many edits had been made at each look.
    """

    def __init__(self, record: Record, number: int = 0):
        super().__init__(record, number)
        self.edits = list(record["looks"])

    def fall(self, look: int = -1) -> Float[np.ndarray, " facts"]:
        """How far the log-probability of each watched fact's true object fell, in nats."""
        return self.arrays["fall"][look].astype(float)

    def forecast(self, name: str) -> Float[np.ndarray, " facts"]:
        """What a forecast said about all of the edits, in nats where it is one of the loss."""
        return self.arrays[f"forecast {self.edits[-1]} {name}"].astype(float)

    def statistic(self, name: str, measure: str = "ranks", look: int = -1) -> Estimate:
        """How good a forecast was, with its interval over facts.

        ``ranks``: rank correlation with the signed fall; ``sizes``: with its size; ``separations``: the chance that a
        lost fact was forecast to be worse off than a kept one.

        Raises
        ------
        UserError
            There is no such forecast, or no such measure.
        """
        if name not in self.data["forecasts"] or measure not in MEASURES:
            raise UserError(f"There is no {measure!r} of {name!r}: name one of {MEASURES} and a forecast of the run.")
        statistics = self.arrays["statistics"][look, MEASURES.index(measure), self.data["forecasts"].index(name)]
        return Estimate(*statistics.astype(float).tolist())

    def lead(self, name: str, over: str = "null: margin") -> Estimate:
        """By how much a forecast separates the lost from the kept better than another; facts are drawn in pairs."""
        return Estimate(*ranking.roc_lead(self.forecast(name), self.forecast(over), ~self.arrays["kept"][-1]))

    def seconds(self, name: str) -> float:
        """CPU seconds that a forecast of :data:`NEEDS` takes for all of the edits."""
        costs, each = self.data["costs"], ("targets", "dry run")
        return sum(costs[part] * (self.edits[-1] if part in each else 1) for part in NEEDS[name])

    def damage(self, look: int = -1) -> Damage:
        """What the edits did to the watched facts."""
        fall, kept = self.fall(look), self.arrays["kept"][look]
        loss = np.maximum(fall, 0).mean()
        return Damage(fall.mean(), (fall < 0).mean(), loss, fall.max(), 1 - kept.mean())

    def dose(self, name: str, parts: int = 5) -> list[dict[str, Any]]:
        """What share of the facts is lost in the end by how large a forecast was: fifths of them, from low to high.

        Each is a share with Wilson's interval (:func:`superposition.stats.intervals.share`).
        """
        order = np.argsort(self.forecast(name), kind="stable")
        return [share(~self.arrays["kept"][-1][part]) for part in np.array_split(order, parts)]

    def theorem_error(self) -> float:
        """Largest difference, in nats, between the falls and the drift put in with the true residuals."""
        return float(np.abs(self.forecast("known residuals: drift, all") - self.fall()).max())

    def at_risk(self, count: int = 10) -> np.ndarray:
        """Indices of the watched facts most at risk, by the margin that is left with the drift put in; worst first."""
        return np.argsort(-self.forecast("margin left"), kind="stable")[:count]

    def growth(self, count: int = 10) -> float:
        """Length of the residuals in the sequence over that of the same edits alone: median of the last edits."""
        return float(np.median((self.arrays["delta"] / self.arrays["delta_alone"])[-count:]))

    def cost_of_sequence(self, replayed: str = "drift, all") -> Estimate:
        """Loss of the edits with every target looked for anew, over that forecast with targets found beforehand."""
        return ratio_of_sums(np.maximum(self.fall(), 0), np.maximum(self.forecast(replayed), 0), seed=17)


def runs(record: Record) -> dict[str, Forecasts]:
    """The runs of the record ``forecasts``, by ``MODEL, layer LAYER``, with the model's name as the book has it."""
    every = [Forecasts(record, number) for number in range(len(record["runs"]))]
    return {f"{MODELS.get(run.model, run.model)}, layer {run.layer}": run for run in every}


# Causes and cures


@dataclass(frozen=True)
class Cure:
    """What a condition does: mean over its draws.

    Attributes
    ----------
    left : Estimate
        Of the loss, as a share of what it is without; the interval is over facts.
    lost, held : float
        Shares of the watched facts, and of the edits.
    norm, size, overlap : float
        Of the change, of an edit (root mean square of ``|δ|``), and the sum of ``p²`` that a watched fact meets by edit
        (its root), relative to what they are without. NaN where the record has none.
    edits : float
        How many it makes.
    R : float
        Relative drift; NaN where it was not taken.
    """

    left: Estimate
    lost: float
    held: float
    norm: float
    size: float
    overlap: float
    edits: float
    R: float


class Conditions(Run):
    """A run of the record ``causes`` or ``cures``: the same edits under several conditions, ``as it is`` among them.

    Attributes
    ----------
    names : list of str
        The conditions (``arms`` in the record).
    table : dict of str to dict of str to float
        For each condition what the record's columns say: ``norm`` of the change, ``crowding``, mean ``loss``, the
        shares ``kept`` of the watched facts and ``held`` of the edits, and others.
    falls, losses : array (conditions, facts)
        In nats.
    """

    def __init__(self, record: Record, number: int = 0, *, seed: int = 17):
        super().__init__(record, number)
        self.seed, self.names = seed, list(self.data["arms"])
        rows = self.arrays["table"].astype(float).tolist()
        self.table = {
            name: dict(zip(self.data["columns"], row, strict=True)) for name, row in zip(self.names, rows, strict=True)
        }
        self.falls = self.arrays["falls"].astype(float)
        self.losses = np.maximum(self.falls, 0)

    def __getitem__(self, name: str) -> dict[str, float]:
        return self.table[name]

    def starting(self, words: str) -> list[str]:
        """The conditions whose names begin with these words."""
        return [name for name in self.names if name.startswith(words)]

    def column(self, column: str, names: Sequence[str]) -> list[float]:
        """What some conditions have in one column."""
        return [self.table[name][column] for name in names]

    def loss(self, *names: str) -> Float[np.ndarray, " facts"]:
        """Loss of each fact, in the mean over some conditions.

        Raises
        ------
        UserError
            There is no such condition.
        """
        if missing := [name for name in names if name not in self.table]:
            raise UserError(f"The record has no condition {missing[0]!r}: choose among {', '.join(self.names)}.")
        return np.mean([self.losses[self.names.index(name)] for name in names], axis=0)

    def left(self, *names: str, of: str = "as it is", **among: Any) -> Estimate:
        """Loss under some conditions, averaged, over that of another; keywords of :func:`ratio_of_sums`."""
        among.setdefault("seed", self.seed)
        return ratio_of_sums(self.loss(*names), self.loss(of), **among)

    def rank(self, names: Sequence[str], cause: str = "crowding") -> Estimate:
        """Rank correlation of a column with the mean loss, over some conditions."""
        return Estimate(*ranking.rank_correlation(*(np.array(self.column(name, names)) for name in (cause, "loss"))))

    def relative(self, column: str, name: str, of: str = "as it is") -> float:
        """A column of one condition over that of another."""
        return self.table[name][column] / self.table[of][column]

    def of_one_norm(self) -> dict[str, list[str]]:
        """The conditions whose change has one norm and whose overlaps differ, by what was varied."""
        return {
            "other edits": [*self.starting("drawn"), "least overlapping, same norm", "most overlapping, same norm"],
            "protecting the watched": ["as it is", *self.starting("protected, same norm")],
            "any direction": self.starting("any direction"),
            "not whitened": self.starting("not whitened"),
        }

    def by_norm(self) -> tuple[list[float], list[float]]:
        """Relative norm, and mean loss, of the edits with all residuals scaled, by rising norm."""
        names = sorted([*self.starting("scaled"), "as it is"], key=lambda name: self.table[name]["norm"])
        return [self.relative("norm", name) for name in names], self.column("loss", names)

    def norm_exponent(self) -> Estimate:
        """The power of the norm with which the loss grows, at the same overlaps; the interval is over facts."""
        names = [*self.starting("scaled"), "as it is"]
        norms = np.log(self.column("norm", names))
        losses = self.losses[[self.names.index(name) for name in names]]

        def exponent(drawn: np.ndarray) -> float:
            return float(np.polyfit(norms, np.log(losses[:, drawn].mean(1)), 1)[0])

        return over_clusters(exponent, np.arange(losses.shape[1]))

    def cure(self, *names: str) -> Cure:
        """What a cure leaves, in the mean over several draws of it."""
        mean = {column: float(np.mean(self.column(column, names))) for column in ("kept", "held", "edits", "R")}
        times = {column: float(np.mean([self.relative(column, name) for name in names])) for column in ("norm", "size")}
        squares = [self.relative("p2", name) / self.relative("edits", name) for name in names]
        return Cure(
            self.left(*names),
            lost=1 - mean.pop("kept"),
            overlap=float(np.sqrt(np.mean(squares))),
            **times,
            **mean,
        )


# Protection in other words


class Wordings:
    """A run of the record ``wordings``: facts whose keys went into C in some wordings, and which were asked in others.

    Wording 0 is the prompt, the next ``inside`` are paraphrases that may be in C, and the last one never is.

    Attributes
    ----------
    data : dict
        The run's entry in the record; under ``arms`` what was protected (``nothing``, ``all, prompt``, and others).
    inside : int
        Paraphrases that may be in C.
    """

    def __init__(self, record: Record, number: int = 0):
        self.data, self.inside = record["runs"][number], record["inside"]
        stem = f"{self.data['model']} {self.data['layer']}/"
        self.arrays = {name.removeprefix(stem): array for name, array in record.arrays.items() if name.startswith(stem)}

    def left(self, arm: str, wording: int, *, unnamed: bool = False) -> Estimate:
        """Loss under an arm over that without protection, of the facts that the model said in a wording.

        Where half of the facts are named, of those, or of the ``unnamed`` ones; the bootstrap interval is over facts.

        Raises
        ------
        UserError
            There is no such arm, or no fact is left out by it.
        """
        if arm not in self.data["arms"]:
            raise UserError(f"The record has no arm {arm!r}: choose among {', '.join(self.data['arms'])}.")
        half = self.arrays["half"] if arm.startswith("half") else np.ones_like(self.arrays["half"])
        among = self.arrays[f"said/{wording}"] & (~half if unnamed else half)
        if not among.any():
            raise UserError(f"{arm!r} leaves no fact to ask: ask for the named ones.")
        loss = {name: np.maximum(self.arrays[f"{name}/fall/{wording}"].astype(float), 0) for name in (arm, "nothing")}
        return ratio_of_sums(loss[arm], loss["nothing"], seed=19, among=among)

    def dearer(self, arm: str) -> float:
        """Perplexity of plain text after the edits, over that of the unedited model."""
        return self.data["arms"][arm]["perplexity"] / self.data["perplexity"]
