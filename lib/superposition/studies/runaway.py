"""The loop of norms in a model that normalises what its memory writes, read off the record ``runaway`` (chapter 17).

A sequence by ROME may lengthen its own residuals: edits overlap, each residual may be as long as the answer that it
meets allows, and each target is sought in the edited model. Every arm here takes away one of these three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from superposition.linear.overlap import residual_lengths
from superposition.records import Record
from superposition.stats.intervals import Estimate, over_clusters, ratio_of_sums
from superposition.stats.ranking import rank_correlation

#: With all three causes.
WHOLE = "as edited"
#: What is taken away, one at a time, and how figures and tables call it.
CAUSES = ("no overlap among the edits", "anchored ball", "targets beforehand")
#: Names of the arms by the units of the search: of the unedited answer, or absolute as in ROME's code.
ARMS = {
    "answer": {
        WHOLE: "moving, rome",
        CAUSES[0]: "moving, no overlap",
        CAUSES[1]: "anchored, rome",
        CAUSES[2]: "beforehand, rome",
    },
    "ROME": {
        WHOLE: "ROME's units, rome",
        CAUSES[0]: "ROME's units, no overlap",
        CAUSES[1]: "ROME's units anchored, rome",
        CAUSES[2]: "ROME's units beforehand, rome",
    },
}
#: Edits at the beginning whose lengths are forecast, and at the end whose growth is looked at (``bars.toml``).
FIRST, LAST = 20, 10


@dataclass(frozen=True)
class Loop:
    """How long the residuals of one list of edits came out at a layer.

    Attributes
    ----------
    model : str
    layer : int
    alone : (n,)
        Length of each edit's residual, alone on the unedited model.
    answers : (n,)
        ``‖W_0 k‖`` at its key.
    P : (n, n)
        ``p(k_i, k_j)`` among the edits, in their order.
    came : mapping of arm to (n,)
        Length of each residual in a sequence: :data:`WHOLE`, and with each of :data:`CAUSES` taken away.
    kept : mapping of arm to (m,) bool
        Which of the facts known before that nobody edits the model still says after all edits.
    hold : mapping of arm to share
        Of the edits, after all of them: the new object is more probable than the true one.
    dearer : mapping of arm to float
        Perplexity of plain text after all edits, over that of the unedited model.
    """

    model: str
    layer: int
    alone: Float[np.ndarray, " n"]
    answers: Float[np.ndarray, " n"]
    P: Float[np.ndarray, "n n"]
    came: Mapping[str, Float[np.ndarray, " n"]]
    kept: Mapping[str, Bool[np.ndarray, " m"]]
    hold: Mapping[str, float]
    dearer: Mapping[str, float]

    @cached_property
    def forecast(self) -> Float[np.ndarray, " n"]:
        """Lengths told before any edit (:func:`superposition.linear.overlap.residual_lengths`)."""
        return residual_lengths(self.alone, self.answers, self.P)

    @property
    def rate(self) -> float:
        """``c² q`` among the edits' own keys: the share by which an edit lengthens the squared answer of the next."""
        apart = self.P[np.triu_indices(len(self.P), 1)]
        return float(np.mean(np.square(self.alone / self.answers)) * np.mean(np.square(apart)))

    def grown(self, arm: str = WHOLE) -> Float[np.ndarray, " n"]:
        """Length in a sequence over the length alone."""
        return self.came[arm] / self.alone

    def growth(self, arm: str = WHOLE) -> Estimate:
        """Median of :meth:`grown` over the last edits; interval over these edits, drawn as if independent."""
        last = self.grown(arm)[-LAST:]
        return over_clusters(lambda drawn: float(np.median(last[drawn])), np.arange(len(last)))

    def left(self, cause: str) -> Estimate:
        """Share of the growth that is left with a cause taken away; interval over the last edits."""
        whole, without = self.grown()[-LAST:], self.grown(cause)[-LAST:]
        return over_clusters(
            lambda drawn: float(np.median(without[drawn]) / np.median(whole[drawn])), np.arange(len(whole))
        )

    def lost(self, arm: str = WHOLE) -> float:
        """Share of the facts known before that nobody edits, lost after all edits."""
        return 1 - float(self.kept[arm].mean())

    def loss_left(self, cause: str) -> Estimate:
        """Share of the loss that is left with a cause taken away; interval over facts, drawn in pairs."""
        return ratio_of_sums(~self.kept[cause], ~self.kept[WHOLE])

    def correlation(self) -> Estimate:
        """Rank correlation of the forecast lengths with those that came, over the first edits; interval over edits."""
        return Estimate(*rank_correlation(self.forecast[:FIRST], self.came[WHOLE][:FIRST]))

    def near(self, factor: float, first: int = FIRST) -> float:
        """Share of the first edits whose forecast length lies within a factor of the one that came."""
        off = np.log(self.forecast[:first] / self.came[WHOLE][:first])
        return float(np.mean(np.abs(off) <= np.log(factor)))

    def alone_near(self, factor: float, first: int = FIRST) -> float:
        """The same share of lengths alone, which know nothing of other edits."""
        return float(np.mean(np.abs(np.log(self.grown()[:first])) <= np.log(factor)))

    def by_number(self) -> float:
        """The same correlation of the edit's number, which knows only that lengths grow."""
        return rank_correlation(np.arange(FIRST, dtype=float), self.came[WHOLE][:FIRST], resamples=1)[0]

    def overlaps_shuffled(self, draws: int = 200, seed: int = 0) -> Estimate:
        """The same correlation with overlaps dealt out among the edits at random: median, and 95 % of draws."""
        rng, found = np.random.default_rng(seed), []
        alone, answers, came = self.alone[:FIRST], self.answers[:FIRST], self.came[WHOLE][:FIRST]
        for _ in range(draws):
            turned = rng.permutation(len(came))
            told = residual_lengths(alone, answers, self.P[np.ix_(turned, turned)])
            found.append(rank_correlation(told, came, resamples=1)[0])
        low, middle, high = np.quantile(found, [0.025, 0.5, 0.975])
        return Estimate(float(middle), float(low), float(high))


def loops(record: Record, units: str) -> list[Loop]:
    """The loop at every layer of a record of sequences whose model normalises what the memory writes.

    Only there does the record hold a sequence by a moving ball without overlap. ``units`` is one of :data:`ARMS`.
    """
    found = []
    for row in record["runs"]:
        names, arms = ARMS[units], row["points"]
        if not set(names.values()) <= set(arms):
            continue
        stem = f"{row['model']} {row['layer']}"

        def array(name: str, stem: str = stem) -> np.ndarray:
            return record.arrays[f"{stem}/{name}"].astype(float)

        # The answer's norm is of the unedited model, whatever the units; the length alone is of these units.
        answers = array("before/delta") / array("before/size")
        alone = array("before/delta" if units == "answer" else f"{names[CAUSES[-1]]}/shift_norm")
        dear, held = (f"{record['looks'][-1]}/{what}" for what in ("perplexity", "success"))
        found.append(
            Loop(
                row["model"],
                row["layer"],
                alone,
                answers,
                array("before/P"),
                came={arm: array(f"{name}/delta") for arm, name in names.items()},
                kept={arm: array(f"{name}/kept")[-1] > 0 for arm, name in names.items()},
                hold={arm: arms[name][held] for arm, name in names.items()},
                dearer={arm: arms[name][dear] / row["perplexity"] for arm, name in names.items()},
            )
        )
    return found


@dataclass(frozen=True)
class Anchored:
    """What norm anchors do to a sequence by ROME in a moving ball.

    Attributes
    ----------
    left : Estimate
        Facts lost, over those lost without; the interval is over facts.
    norm : float
        Of the change, over that without.
    answered, answered_without : float
        Share of the edits' paraphrases that are answered exactly.
    """

    left: Estimate
    norm: float
    answered: float
    answered_without: float


def norm_anchors(ways: Record) -> dict[tuple[str, int], Anchored]:
    """By model and layer of a record of the kind ``ways``, at its last look."""
    found, n = {}, ways["looks"][-1]
    for run in ways["runs"]:
        stem, arms = f"{run['model']} {run['layer']}", ("norm anchors, rome", "moving, rome")
        lost = [~ways.arrays[f"{stem}/{arm}/kept"][-1].astype(bool) for arm in arms]
        norms, answered = ([run["points"][arm][f"{n}/{of}"] for arm in arms] for of in ("change", "paraphrase_exact"))
        found[run["model"], run["layer"]] = Anchored(ratio_of_sums(*lost), norms[0] / norms[1], *answered)
    return found
