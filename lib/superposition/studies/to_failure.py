"""Edits one after another until a model breaks, read off a record of the kind ``failure`` (chapters 16, 18 and 19).

Several methods make the same edits, and at checkpoints it is asked what is lost of facts that nobody edits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from superposition.errors import UserError
from superposition.records import Record
from superposition.stats import regression, response
from superposition.stats.intervals import Estimate
from superposition.studies.names import EDITORS

#: Methods by their names in records, and what figures and tables call them.
METHODS = {name: EDITORS[name] for name in ("rome", "memit with history", "alphaedit", "rome, protected")}
#: The method in whose C the named half of the watched facts is.
PROTECTED = "rome, protected"
#: Shares of the known facts after whose loss it is asked how many edits it took. A model breaks at the last.
SHARES = (0.1, 0.25, 0.5)
#: What the losses are of, by the words of figures and tables: a share of the checkpoints, or one of their panels.
PANELS = {
    "no edited subject": ("lost",),
    "of these, edited relation": ("panels", "same relation", "lost"),
    "edited subject, other relation": ("panels", "same subject", "lost"),
}


@dataclass(frozen=True)
class Course:
    """What became of a model under one method.

    Attributes
    ----------
    method : str
        One of :data:`METHODS`.
    checkpoints : sequence of mappings
        The record's rows, in the order of their edits.
    perplexity : float
        Of the unedited model.
    """

    method: str
    checkpoints: Sequence[Mapping[str, Any]]
    perplexity: float

    @property
    def edits(self) -> np.ndarray:
        """How many edits had been made at each checkpoint."""
        return np.array([row["edits"] for row in self.checkpoints])

    def value(self, name: str) -> Float[np.ndarray, " n"]:
        """A plain number at each checkpoint."""
        return np.array([row[name] for row in self.checkpoints], dtype=float)

    def share(self, *path: str) -> Float[np.ndarray, "n 3"]:
        """A share at each checkpoint, with the ends of its interval."""
        found = []
        for row in self.checkpoints:
            of: Any = row
            for name in path:
                of = of[name]
            found.append([of[end] for end in ("share", "low", "high")])
        return np.array(found, dtype=float)

    @property
    def dearer(self) -> Float[np.ndarray, " n"]:
        """Perplexity over that of the unedited model."""
        return self.value("perplexity") / self.perplexity

    def until(self, share: float, *path: str) -> Estimate:
        """After how many edits a share is lost, of all watched facts or of what a path names; infinite if it was not.

        The interval is of the facts: from where the upper end of the interval of the share lost reaches it to where
        the lower end does.
        """
        value, low, high = self.share(*(path or ("lost",))).T
        return Estimate(*(response.reached(self.edits, of, share) for of in (value, high, low)))

    def at(self, edits: int) -> Mapping[str, Any]:
        """The checkpoint after so many edits.

        Raises
        ------
        UserError
            There was none.
        """
        for row in self.checkpoints:
            if row["edits"] == edits:
                return row
        raise UserError(f"After {edits} edits nothing was asked: choose from {', '.join(map(str, self.edits))}.")

    def exponent(self) -> float:
        """``s`` of drift ``∝ n^s``, by least squares over the checkpoints."""
        return float(regression.log_slope(self.edits, self.value("drift_over_stream_all")))


def courses(record: Record, order: int = 0) -> dict[str, Course]:
    """Every method's course in one order of the edits, as :data:`METHODS` has them."""
    found = {row["method"]: row for row in record["sequences"] if row["order"] == order}
    start = record["start"]["perplexity"]
    return {name: Course(name, found[name]["checkpoints"], start) for name in METHODS if name in found}


def together(found: Mapping[str, Course]) -> int:
    """After how many edits, at the most, all of some courses were asked."""
    return int(max(set.intersection(*({*course.edits.tolist()} for course in found.values()))))
