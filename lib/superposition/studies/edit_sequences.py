"""What sequences of edits did to a model, read off the records of single edits and of sequences (chapters 15 and 16).

A record of sequences has them at the key ``lives``. Those of a closed form have arrays, too: after each edit the norm
of what changed in the layer's answer to every watched key (``NAME/interference``, (edits, keys)), the root mean square
over these keys of each edit's own ``p δ`` (``NAME/step``), of their sum if all pointed one way (``NAME/straight``), and
the norm of what later edits did to each edited key's answer (``NAME/on_edits``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from superposition.errors import UserError
from superposition.records import Record
from superposition.stats import intervals, regression
from superposition.stats.intervals import Estimate

#: Bound on the relative error of predicted interference, which comes from the rounding of the model's weights.
ROUNDING = 1e-4

#: The edit from which on a long sequence counts as late.
LATE = 100

# Single edits


@dataclass(frozen=True)
class Trace:
    """Where facts are found by causal tracing, in the mean over the traced facts.

    Attributes
    ----------
    clean, spoilt
        Probability of the object with all tokens intact, and with a spoilt subject.
    handover
        The lowest layer at which the state at the prompt's last token brings back more than that at the subject's.
    top
        The last layer.
    mlp_last
        The layer whose window of MLPs brings back most at the prompt's last token.
    """

    clean: float
    spoilt: float
    handover: int
    top: int
    mlp_last: int


def trace(record: Record) -> Trace:
    """What the traces of a record of single edits say (rows: last of the subject, the next token, last of the prompt).

    Raises
    ------
    UserError
        The subject's last token brings back as much in every layer.
    """
    facts = list(record["trace"].values())
    states, layers = [fact["state"] for fact in facts], facts[0]["state"]["layers"]
    restored = np.mean([state["restored"] for state in states], axis=0)  # (3, layers)
    if not np.any(restored[2] > restored[0]):
        raise UserError("These traces have no handover: the subject's last token brings back most in every layer.")
    mlps = np.mean([np.array(fact["mlp"]["restored"]) - fact["mlp"]["corrupted"] for fact in facts], axis=0)
    return Trace(
        clean=float(np.mean([state["clean"] for state in states])),
        spoilt=float(np.mean([state["corrupted"] for state in states])),
        handover=layers[int(np.argmax(restored[2] > restored[0]))],
        top=layers[-1],
        mlp_last=layers[int(mlps[2].argmax())],
    )


def paraphrases(record: Record, *, rest: bool) -> Estimate:
    """Share of paraphrases answered exactly, of the edits on which the layer was chosen, or of the ``rest``.

    The record's sweep edits the first of its facts. Facts are drawn whole.
    """
    chosen = record["sweep"][str(record["layer"])]["facts"]
    hits, asked = (
        counts[chosen:] if rest else counts[:chosen] for counts in _asked(record, "after", "paraphrase_exact")
    )
    return intervals.ratio_of_sums(hits, asked)


def _asked(record: Record, when: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    counts = np.array([row[when][name] for row in record["edits"]], dtype=float)
    return counts[:, 0], counts[:, 1]


def answered(record: Record, when: str, name: str) -> Estimate:
    """Share of the prompts of one kind that were answered as wanted ``before`` or ``after`` each edit.

    A fact has several of them, so facts are drawn whole; where it has one, or all are alike, Wilson's of facts.
    """
    hits, asked = _asked(record, when, name)
    if asked.max() == 1 or hits.sum() in (0, asked.sum()):
        found = intervals.share(hits[asked > 0] > 0)
        return Estimate(*(found[end] for end in ("share", "low", "high")))
    return intervals.ratio_of_sums(hits, asked)


def answered_more(record: Record, name: str) -> Estimate:
    """By how much that share rose from before to after, the same facts drawn for both."""
    (before, asked), (after, _) = (_asked(record, when, name) for when in ("before", "after"))
    return intervals.ratio_of_sums(after - before, asked)


# Sequences


def with_interference(record: Record) -> list[str]:
    """The sequences whose interference on the layer was measured after every edit: those of a closed form."""
    return [name for name in record["lives"] if f"{name}/step" in record.arrays]


def whole(record: Record) -> list[str]:
    """Those of :func:`with_interference` that run through all of the record's edits, in the record's order."""
    return [name for name in with_interference(record) if record["lives"][name]["edits"] == len(record["subjects"])]


def checkpoint(record: Record, name: str, edits: int | None = None) -> dict[str, Any]:
    """What a sequence's model said after so many edits; at its end without ``edits``.

    Raises
    ------
    UserError
        The sequence was not examined there.
    """
    results = record["lives"][name]["results"]
    if edits is None:
        return results[-1]
    for result in results:
        if result["edits"] == edits:
            return result
    raise UserError(f"{name!r} was examined after {[result['edits'] for result in results]} edits, not {edits}.")


def prediction_errors(record: Record, edits: int | None = None) -> list[float]:
    """Relative error of the predicted interference at every checkpoint; only at those after so many ``edits``.

    Equation ``eq-failure-interference``.
    """
    results = [result for sequence in record["lives"].values() for result in sequence["results"]]
    asked = [result for result in results if edits is None or result["edits"] == edits]
    return [result["prediction_error"] for result in asked if "prediction_error" in result]


def untouched_change(record: Record, name: str, other: str | None = None) -> Estimate:
    """Mean change of the untouched facts' log P(true object) by a whole sequence, or by how much more than by another.

    Fact by fact; the interval is a bootstrap over facts.
    """
    before = record.arrays["untouched_log_true"] if other is None else checkpoint(record, other)["untouched_log_true"]
    change = np.array(checkpoint(record, name)["untouched_log_true"]) - before
    mean = intervals.mean_interval(change, resamples=2000, seed=16)
    return Estimate(mean["mean"], mean["low"], mean["high"])


def untouched_lost(record: Record, name: str) -> Estimate:
    """Share of the untouched facts, known before, that are not answered exactly at the end; Wilson's interval."""
    kept = checkpoint(record, name)["untouched_exact"]
    return Estimate(1 - kept["share"], 1 - kept["high"], 1 - kept["low"])


def rms(norms: Float[np.ndarray, "... keys"]) -> Float[np.ndarray, " ..."]:
    """Root mean square over keys."""
    return np.sqrt((norms**2).mean(axis=-1))


@dataclass(frozen=True)
class Growth:
    """How interference grows with the number of edits n.

    Attributes
    ----------
    slope
        Exponent s of n on logarithmic axes, of the root mean square over keys; interval over keys.
    walk
        That of the random walk (equation ``eq-failure-walk``); the interval is of its steps in other orders.
    over_walk
        Interference at the end over what steps at right angles would give.
    aligned
        What steps of one direction would give, over the interference at the end.
    """

    slope: Estimate
    walk: Estimate
    over_walk: float
    aligned: float


def growth(record: Record, name: str, first: int = 10, resamples: int = 400) -> Growth:
    """How a sequence's interference on untouched keys grows, fitted from edit ``first`` on."""
    norms, step = (record.arrays[f"{name}/{array}"].astype(float) for array in ("interference", "step"))

    def slope(course: Float[np.ndarray, "... n"]) -> Any:
        return regression.log_slope(np.arange(first, len(step) + 1), course[..., first - 1 :])

    def estimate(value: float, drawn: Float[np.ndarray, " resamples"]) -> Estimate:
        return Estimate(float(value), *map(float, np.percentile(drawn, [2.5, 97.5])))

    rng = np.random.default_rng(16)
    keys = rng.integers(0, norms.shape[1], size=(resamples, norms.shape[1]))
    drawn = np.array([slope(rms(norms[:, chosen])) for chosen in keys])
    orders = rng.permuted(np.tile(step, (resamples, 1)), axis=1)
    course, walk = rms(norms), np.sqrt(np.cumsum(step**2))
    return Growth(
        slope=estimate(slope(course), drawn),
        walk=estimate(slope(walk), slope(np.sqrt(np.cumsum(orders**2, axis=1)))),
        over_walk=float(course[-1] / walk[-1]),
        aligned=float(record.arrays[f"{name}/straight"][-1] / course[-1]),
    )


def largest_share(record: Record, name: str, parts: int = 20) -> float:
    """Share of a sequence's sum of squared steps that the largest ``1/parts`` of its steps has."""
    squares = np.sort(record.arrays[f"{name}/step"].astype(float) ** 2)
    return float(squares[-len(squares) // parts :].sum() / squares.sum())


def residual_ratio(record: Record, name: str, edits: int = 20) -> Estimate:
    """Mean norm of the residuals of a sequence's last ``edits``, over that of its first; edits are drawn."""
    residual = record.arrays[f"{name}/residual"].astype(float)
    first, last = residual[:edits], residual[-edits:]
    draws = np.random.default_rng(0).integers(edits, size=(2, 2000, edits))
    low, high = np.quantile(last[draws[0]].mean(1) / first[draws[1]].mean(1), [0.025, 0.975])
    return Estimate(float(last.mean() / first.mean()), float(low), float(high))


def largest_shift(record: Record) -> float:
    """The longest shift ``|δ|`` that a search for a target value asked for, over the recalled answer's norm.

    In all sequences; the search holds it below ``clamp_norm_factor``.
    """
    logs = [sequence["log"] for sequence in record["lives"].values() if "shift_norm" in sequence["log"]]
    return max(float(np.max(np.divide(log["shift_norm"], log["recalled_norm"]))) for log in logs)


@dataclass(frozen=True)
class Suffering:
    """Mean norm of what later edits did to a sequence's first and last third of edits, and the ratio of the two."""

    first: float
    last: float
    ratio: Estimate


def by_age(record: Record, name: str, resamples: int = 1000) -> Suffering:
    """What a sequence's first third of edits suffered on the layer, and its last; interval over edits, independent."""
    norms = record.arrays[f"{name}/on_edits"].astype(float)
    third = len(norms) // 3
    early, late = norms[:third], norms[-third:]
    draw = np.random.default_rng(17).integers(0, third, size=(2, resamples, third))
    ratios = early[draw[0]].mean(axis=1) / late[draw[1]].mean(axis=1)
    ends = map(float, np.percentile(ratios, [2.5, 97.5]))
    return Suffering(float(early.mean()), float(late.mean()), Estimate(float(early.mean() / late.mean()), *ends))


def ages(record: Record) -> dict[str, Suffering]:
    """:func:`by_age` of every sequence whose rule lets earlier edits suffer: all but hard recursive least squares."""
    return {name: by_age(record, name) for name in with_interference(record) if name != "rls-hard"}
