"""Lists of edits in several orders, by several rules, read off a record of the kind ``lists`` (chapter 16).

What a share lost, or a slope, owes to the list of edits that happened to be made, and to their order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float

from superposition.records import Record
from superposition.stats import regression
from superposition.stats.intervals import Estimate

#: From which number of edits on a slope is taken (``book/data/bars.toml``, ``claim-7.growth``).
FROM = 10
#: The drift that grows: of the answers at the subjects of the watched facts, as in ``eq-failure-interference``.
DRIFT = "answer, subject"


@dataclass(frozen=True)
class Lists:
    """All sequences of one layer.

    Attributes
    ----------
    model : str
    layer : int
    looks : (looks,)
        After how many edits it was asked what is kept.
    rules : tuple of str
    kept : (rules, lists, orders, looks, m) bool
        Which of the facts that nobody edits the model still says.
    drift : (rules, lists, orders, looks)
        Root mean square over these facts of :data:`DRIFT`.
    """

    model: str
    layer: int
    looks: np.ndarray
    rules: tuple[str, ...]
    kept: Bool[np.ndarray, "rules lists orders looks m"]
    drift: Float[np.ndarray, "rules lists orders looks"]

    @cached_property
    def gone(self) -> Float[np.ndarray, "rules lists looks m"]:
        """In which share of a list's orders a fact is lost."""
        return 1 - self.kept.mean(2)

    def lost(self, rule: str, look: int = -1) -> Estimate:
        """The share lost, its interval over lists and facts."""
        return self._over_both(lambda lists, facts: self._share(rule, look, lists, facts))

    def more_lost(self, rule: str, than: str, look: int = -1) -> Estimate:
        """By how much more is lost under a rule than under another, its interval over lists and facts."""
        return self._over_both(
            lambda lists, facts: self._share(rule, look, lists, facts) - self._share(than, look, lists, facts)
        )

    def more_lost_by_list(self, rule: str, than: str, look: int = -1) -> Estimate:
        """The same over lists alone: Student's interval of the lists' differences, which are few."""
        apart = self.by_list(rule, look) - self.by_list(than, look)
        low, high = scipy.stats.t.interval(0.95, len(apart) - 1, apart.mean(), scipy.stats.sem(apart))
        return Estimate(float(apart.mean()), float(low), float(high))

    def _share(self, rule: str, look: int, lists: np.ndarray, facts: np.ndarray) -> float:
        return float(self.gone[self.rules.index(rule), lists, look][:, facts].mean())

    def by_list(self, rule: str, look: int = -1) -> Float[np.ndarray, " lists"]:
        """The share lost under each list, a mean over its orders."""
        return self._shares(rule, look).mean(1)

    def order_spread(self, rule: str, look: int = -1) -> float:
        """By how much the orders of a list differ in the share lost, at most."""
        return float(np.ptp(self._shares(rule, look), axis=1).max())

    def _shares(self, rule: str, look: int) -> Float[np.ndarray, "lists orders"]:
        return 1 - self.kept[self.rules.index(rule), :, :, look].mean(-1)

    def slopes(self, rule: str) -> Float[np.ndarray, "lists orders"]:
        """``s`` of ``drift ∝ n^s`` from :data:`FROM` edits on, of each sequence."""
        late = self.looks >= FROM
        return regression.log_slope(self.looks[late], self.drift[self.rules.index(rule)][..., late])

    def slope(self, rule: str) -> Estimate:
        """Their mean, with its interval over lists and orders: lists are drawn, and orders in each."""
        slopes = self.slopes(rule)
        lists, orders = slopes.shape
        rng = np.random.default_rng(0)
        drawn = []
        for _ in range(2000):
            some = rng.integers(lists, size=lists)
            drawn.append(slopes[some[:, None], rng.integers(orders, size=(lists, orders))].mean())
        low, high = np.quantile(drawn, [0.025, 0.975])
        return Estimate(float(slopes.mean()), float(low), float(high))

    def _over_both(self, statistic: Callable[[np.ndarray, np.ndarray], float]) -> Estimate:
        lists, m = self.gone.shape[1], self.gone.shape[3]
        rng = np.random.default_rng(0)
        drawn = [statistic(rng.integers(lists, size=lists), rng.integers(m, size=m)) for _ in range(2000)]
        low, high = np.quantile(drawn, [0.025, 0.975])
        return Estimate(statistic(np.arange(lists), np.arange(m)), float(low), float(high))


def read(record: Record, run: int = 0) -> Lists:
    """The sequences of one of the record's layers."""
    row = record["runs"][run]
    stem, names = f"{row['model']} {row['layer']}", list(row["points"])
    parts = [name.split(", ") for name in names]
    lists, orders, rules = (tuple(dict.fromkeys(part[place] for part in parts)) for place in range(3))

    def gathered(of: Callable[[str], np.ndarray]) -> np.ndarray:
        return np.stack([[[of(f"{one}, {order}, {rule}") for order in orders] for one in lists] for rule in rules])

    looks = np.array(record["looks"])
    return Lists(
        row["model"],
        row["layer"],
        looks,
        rules,
        gathered(lambda name: record.arrays[f"{stem}/{name}/kept"].astype(bool)),
        gathered(lambda name: np.array([row["points"][name][f"{n}/{DRIFT}"] for n in looks], dtype=float)),
    )
