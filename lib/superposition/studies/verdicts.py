"""The claims and their verdicts: :data:`TRIALS` lists what settles each claim, from the book's records, by one rule.

A trial looks at several *cases*: layers of models, seeds or widths of a toy, arms of an experiment. In each case the
claim stands or it does not. It is **reproduced** if it stands in all of them, **refuted** if in none, and **qualified**
if in some. What can fail by a mistake in the code alone is **checked**. The statistics are those of the studies that
the chapters call. Chapter ``claims``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from superposition import records
from superposition.data import facts
from superposition.linear import capacity, overlap
from superposition.linear.memory import LinearMemory
from superposition.records import Record
from superposition.stats.intervals import Estimate, mean_over_seeds
from superposition.studies import (
    edit_sequences,
    forecasts,
    law,
    lists,
    measurement,
    nulls,
    pairs,
    runaway,
    texts,
    toy_memory,
    toys,
)
from superposition.studies.names import MODELS

#: The claims in short. 1 to 17 are those of Hu et al. (arXiv 2408.07413) or follow from them, the later ones are ours.
CLAIMS = {
    1: "a single edit is exact",
    2: "the recursion of edits equals the unrolled sum",
    3: "interference is the sum of $p\\,\\delta$",
    4: "$p = 0$: editing is lossless",
    5: "$p \\neq 0$: editing is never lossless",
    6: "earlier edits suffer more",
    7: "interference grows linearly, without bound",
    8: "superposition is there in every layer",
    9: "the mean of $p$ is zero",
    10: "the kurtosis of $p$ is high",
    11: "the kurtosis falls with depth",
    12: "the kurtosis rises with the size of the model",
    13: "128 facts are enough to see it",
    14: "high overlap joins related knowledge",
    15: "editing a fact also changes those it overlaps with",
    16: "whitened angles are nearer to 90° than raw angles",
    17: "superposition causes the failure",
    18: "(ours) the squared overlaps of an edit add up to one over its leverage",
    19: "(ours) how much is lost is one function of how far edits move the layer",
    20: "(ours) how many edits a layer bears is known before any edit",
    21: "(ours) where a model normalises what its memory writes, overlap makes residuals run away",
}

#: The measurements under C of several texts.
UNDER_TEXTS = ("smollm2-texts", "gemma3-texts")
CONVERGENCE = ("smollm2-convergence", "gemma3-convergence")
#: The records of the law.
LAW = ("law-smollm2", "law-gemma3")

#: The fewest models that could speak of a law of size.
MODELS_FOR_A_LAW = 5
# The facts of a list, how far a statistic of it may scatter, and the seeds of the random memories for a theorem.
FACTS, LARGEST_SCATTER, SEEDS = 128, 1 / 5, range(5)

#: A shape for each verdict, beside its colour.
SIGNS = {"reproduced": "✓", "qualified": "≈", "refuted": "✗", "checked": "="}
#: Whose steps a search for target values takes, as the lines of claim 21 call them.
UNITS = {"answer": "the unedited answer", "ROME": "ROME's code"}
#: What a record is of, where it is not of both models.
SYSTEMS = {"toy-memory": "toy memories", "toy-transformer": "toy transformers"}
SYSTEMS["runaway"] = MODELS["gemma3"]
SYSTEMS |= dict.fromkeys(("smollm2-lifelong", "lists", "pairs-edits", "causes"), "SmolLM2")


@dataclass(frozen=True)
class Verdict:
    """When a claim ``stands`` in a case, in which cases it does, and the statistics that decide it, as Markdown.

    Attributes
    ----------
    found : sequence of Estimate
        What was measured, a case each, to be drawn beside the ``bar``; empty for theorems and identities.
    bar : float
        What an estimate is held against.
    wanted : {"above", "below", "at"}
        On which side of the bar the claim puts it.
    enough : bool
        False where there are too few cases to judge.
    identity : bool
        Whether the two sides agree by algebra, so that only the code is tried.
    of : sequence of (str, str)
        The model and the text of every case, where there are several texts.
    """

    stands: str
    cases: Sequence[bool]
    text: str
    found: Sequence[Estimate] = ()
    bar: float = 0.0
    wanted: Literal["above", "below", "at"] = "above"
    enough: bool = True
    identity: bool = False
    of: Sequence[tuple[str, str]] = ()

    @property
    def word(self) -> str:
        """``reproduced`` if the claim stands in every case, ``refuted`` if in none, else ``qualified``.

        An identity that holds is ``checked``.
        """
        if not self.enough or 0 < sum(self.cases) < len(self.cases):
            return "qualified"
        if not all(self.cases):
            return "refuted"
        return "checked" if self.identity else "reproduced"

    def under_each_text(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Of each model, under each text: in how many cases the claim stands, and how many there are."""
        found: dict[tuple[str, str], tuple[int, int]] = {}
        for of, stands in zip(self.of, self.cases, strict=True):
            so_far = found.get(of, (0, 0))
            found[of] = so_far[0] + bool(stands), so_far[1] + 1
        return found


@dataclass(frozen=True)
class Trial:
    """A claim's number, the chapter that argues it, and the function that settles it, of the records of these names.

    ``asks`` is the question of the trial, where it is a part of the claim only.
    """

    claim: int
    page: str
    settle: Callable[..., Verdict]
    records: tuple[str, ...] = ()
    asks: str = ""

    @property
    def question(self) -> str:
        """What is put to the test."""
        return self.asks or CLAIMS[self.claim]


def scoreboard() -> list[tuple[Trial, Verdict]]:
    """All trials, settled with the book's records."""
    return [(trial, trial.settle(*map(records.load, trial.records))) for trial in TRIALS]


def counted(board: Sequence[tuple[Trial, Verdict]]) -> dict[str, int]:
    """What the page of claims tells of all trials: how many there are, of which words, over how many numbers."""
    decided = [verdict.word for trial, verdict in board if trial.records and not verdict.identity]
    return {
        "claims": len(CLAIMS),
        "theorems": len({trial.claim for trial, _ in board if not trial.records}),
        "law": MODELS_FOR_A_LAW,
        "trials": len(decided),
        "layers": sum(len(records.load(name)["layers"]) for name in UNDER_TEXTS),
        "intervals": sum(len(verdict.found) for _, verdict in board),
    } | {word: decided.count(word) for word in ("reproduced", "qualified", "refuted")}


def row(trial: Trial, verdict: Verdict) -> tuple[str, str, str, str]:
    """A line of the scoreboard, as Markdown: the claim, its verdict and rule, what was found, and the evidence."""
    count = "" if verdict.identity else f", {sum(verdict.cases)}\u00a0of\u00a0{len(verdict.cases)}"
    page = f"[Chapter {int(trial.page[:2])}]({trial.page}.ipynb)"
    evidence = f"{page}: random memories"
    if trial.records:
        names = ", ".join(f"`{name}`" for name in trial.records)
        system = SYSTEMS.get(trial.records[0], " and ".join(MODELS.values()))
        evidence = f"{page}: {system}; record{'s' * (len(trial.records) > 1)} {names}"
    rule = f'<span class="verdict {verdict.word}">{SIGNS[verdict.word]} {verdict.word}</span>{count}'
    rule += f"<details><summary>bar</summary>It stands if {verdict.stands}.</details>"
    return f"**{trial.claim}** {trial.question}", rule, verdict.text, evidence


def by_text(*pages: str) -> list[tuple[str, ...]]:
    """The trials of some chapters as a table: the question, its verdict, and where it stands under each text.

    A column a text, as in ``texts.TEXTS``; in it the counts of SmolLM2 and of Gemma 3, or of their comparison.
    """
    rows: list[tuple[str, ...]] = []
    for trial in TRIALS:
        if trial.page in pages and set(UNDER_TEXTS) <= set(trial.records):
            verdict = trial.settle(*map(records.load, trial.records))
            counts = verdict.under_each_text()
            told = (
                "; ".join(f"{stands}\u00a0of\u00a0{cases}" for (_, of), (stands, cases) in counts.items() if of == text)
                for text in texts.TEXTS.values()
            )
            rows.append((f"**{trial.claim}** {trial.question}", verdict.word, *told))
    return rows


def interval(ends: Iterable[float], digits: int = 2, sign: str = "") -> str:
    """``value (low to high)``, not to be broken over lines; the value alone where there is no interval."""
    value, low, high = (f"{round(float(x), digits) + 0.0:.{digits}f}" for x in ends)
    told = f"{value}{sign}" if "nan" in (low, high) else f"{value}{sign} ({low} to {high}{sign})"
    return told.replace(" ", "\u00a0").replace("-", "−")


def percent(ends: Iterable[float], digits: int = 0) -> str:
    """A share and the ends of its interval, in per cent."""
    return interval((100 * x for x in ends), digits, " %")


def below(
    stands: str, errors: Sequence[float], bound: float, text: str = "Proved; error below {bound}", *, identity=False
) -> Verdict:
    """Relative errors, each against a bound; the text may show the ``{bound}``."""
    text = text.format(bound=f"$10^{{{round(math.log10(bound))}}}$")
    return Verdict(stands, [bool(error < bound) for error in errors], text, identity=identity)


def _by_model(texts: Iterable[str]) -> str:
    return "<br>".join(f"{model}: {text}" for model, text in zip(MODELS.values(), texts, strict=True))


# Theorems, proved in their chapters: here a few random memories, and a bound in place of noisy digits


def edited(seed: int, rule: str = "rome", n: int = 24) -> tuple[LinearMemory, np.ndarray]:
    """A random memory after n edits, and the keys (d_m, N) it stores."""
    rng, d, d_m = np.random.default_rng(seed), 8, 32
    K, K_e = rng.normal(size=(d_m, 4 * d_m)), rng.normal(size=(d_m, n))
    memory = LinearMemory.from_pairs(K, rng.normal(size=(d, 4 * d_m)))
    memory.edit_batch(K_e, rng.normal(size=(d, n)), rule)
    return memory, K


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def _single_edit() -> Verdict:
    memories = [edited(seed, n=1)[0] for seed in SEEDS]
    errors = [float(np.linalg.norm(memory.edit_error()) / np.linalg.norm(memory.residuals)) for memory in memories]
    return below("the edited key's answer is the value", errors, 1e-11)


def _unrolled_sum() -> Verdict:
    errors = []
    for memory, _ in map(edited, SEEDS):
        P = overlap.superposition_matrix(memory.keys, memory.metric)
        delta = np.linalg.solve(np.triu(P).T, (memory.values - memory.W_0 @ memory.keys).T).T
        errors.append(_apart(memory.W_0 + delta @ memory.directions.T, memory.W))
    return below("the sum, in one triangular solve, gives the memory that the recursion gives", errors, 1e-8)


def _interference() -> Verdict:
    errors = []
    for memory, K in map(edited, SEEDS):
        errors.append(_apart(memory.predicted_interference(K), memory.measured_interference(K)))
        errors.append(_apart(memory.predicted_interference_on_edits(), memory.measured_interference_on_edits()))
    return below("predicted and measured agree, on original and on edited knowledge", errors, 1e-8)


def _lossless() -> Verdict:
    changes = []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        K = rng.normal(size=(32, 128))
        memory = LinearMemory.from_pairs(K, rng.normal(size=(8, 128)))
        keys = np.linalg.cholesky(K @ K.T) @ nulls.orthonormal(32, 24, rng)
        K_e, others = np.split(keys, 2, axis=1)
        memory.edit_batch(K_e, rng.normal(size=(8, 12)), "rome")
        changes += [memory.measured_interference_on_edits(), memory.measured_interference(others)]
    stands = "keys orthogonal once whitened, edited or not, leave each other's answers alone"
    return below(stands, [np.abs(change).max() for change in changes], 1e-12)


def _never_lossless() -> Verdict:
    total, fixed, hard = [], [], []
    for seed in SEEDS:
        memory, K = edited(seed, n=1)
        least = np.sum(memory.residuals**2) / (memory.keys.T @ memory.metric.solve(memory.keys)).item()
        total.append(np.sum(memory.measured_interference(K) ** 2) > 0.999 * least)
        change = np.linalg.norm(edited(seed)[0].measured_interference_on_edits()[:, :-1], axis=0)
        fixed.append(change.min() > 1e-3)
        hard.append(np.abs(edited(seed, "rls-hard")[0].edit_error()).max() > 1e-6)
    stands = "something is lost: in total; of every earlier edit (fixed $C$); of some earlier edit (hard recursion)"
    text = "Proved; with a fixed $C$ every earlier edit moved, under the hard recursion none by as much as $10^{-6}$"
    return Verdict(stands, [all(total), all(fixed), any(hard)], text)


def _conservation() -> Verdict:
    errors = []
    for seed in SEEDS:
        K = np.random.default_rng(seed).normal(size=(12, 40)) * np.geomspace(1, 20, 12)[:, None]
        P, h = overlap.superposition_matrix(K, K @ K.T), capacity.leverages(K)
        errors += [_apart((P**2).sum(1), 1 / h), abs(h.mean() * 40 / 12 - 1)]
    stands = "the two sides agree, for each stored key and, with a mean leverage of $d_m/N$, in the mean"
    return below(stands, errors, 1e-9)


# Toys, and what edits do to a layer

DIFFER = "Predicted and measured differ by less than {bound} of their size, as they must: the formula is an identity"


def _interference_in_toys(record: Record) -> Verdict:
    stands = "predicted and measured agree within the bound, in a trained model"
    return below(stands, toys.exactness(record), toys.EXACT, DIFFER, identity=True)


def _interference_of_one(record: Record) -> Verdict:
    stands = "predicted and measured agree within the rounding of the weights, after the first edit of a sequence"
    errors, bound = edit_sequences.prediction_errors(record, edits=1), edit_sequences.ROUNDING
    return below(stands, errors, bound, DIFFER, identity=True)


def _interference_of_sequences(record: Record) -> Verdict:
    stands = (
        "predicted and measured agree within the rounding of the weights, at a stop in a sequence of up to 200 edits"
    )
    errors, bound = edit_sequences.prediction_errors(record), edit_sequences.ROUNDING
    return below(stands, errors, bound, DIFFER, identity=True)


def _earlier_suffer(record: Record) -> Verdict:
    old, _, young = toy_memory.by_age(record)
    ends = " against ".join(interval(mean_over_seeds(third)) for third in (old, young))
    stands = "the first third of a sequence's edits suffers more than the last third"
    text = f"Proved in the mean, for random keys; squared change {ends}"
    return Verdict(stands, list(old > young), text, [Estimate(*(ratio,) * 3) for ratio in (old / young).tolist()], 1)


def _earlier_suffer_in_a_model(record: Record) -> Verdict:
    ratios = {name: age.ratio for name, age in edit_sequences.ages(record).items()}
    stands = (
        "the interval of what a sequence's first third of edits suffers, over what its last third does, lies above 1"
    )
    least = f"the least of {len(ratios)} sequences {interval(min(ratios.values()), 1)}"
    cases = [ratio.low > 1 for ratio in ratios.values()]
    return Verdict(stands, cases, f"ROME {interval(ratios['rome'], 1)}; {least} (over edits)", [*ratios.values()], 1)


def _growth(record: Record) -> Verdict:
    slopes = toy_memory.growth(record, first=toy_memory.LATE)
    fixed, _, anew, _, lean = map(interval, slopes.values())
    stands = (
        "late in a sequence, the interval of the slope on log-log axes reaches 1 (five ways to choose keys and targets)"
    )
    text = f"Slope {fixed} with fixed targets, {anew} with re-optimised ones, {lean} if residuals align and keys lean"
    return Verdict(stands, [slope.high >= 1 for slope in slopes.values()], text, [*slopes.values()], 1)


def _linear_in_a_model(record: Record) -> Verdict:
    slopes = {name: edit_sequences.growth(record, name).slope for name in edit_sequences.with_interference(record)}
    least, *_, most = sorted(slopes[name] for name in edit_sequences.whole(record))
    stands = "the interval of a sequence's slope on log-log axes reaches 1"
    text = f"Slope {interval(least)} to {interval(most)} in long sequences (over watched keys)"
    return Verdict(stands, [slope.high >= 1 for slope in slopes.values()], text, [*slopes.values()], 1)


def _unbounded_in_a_model(record: Record) -> Verdict:
    long = edit_sequences.whole(record)
    late = sorted(edit_sequences.growth(record, name, first=edit_sequences.LATE).slope for name in long)
    stands = f"in a long sequence, the interval of the slope from edit {edit_sequences.LATE} on lies above 0"
    text = f"Slope {interval(late[0])} and more (over watched keys)"
    return Verdict(stands, [slope.low > 0 for slope in late], text, late)


def _growth_over_lists(record: Record) -> Verdict:
    found = lists.read(record)
    slopes = {rule: found.slope(rule) for rule in found.rules}
    least, *_, most = sorted(slopes.values())
    stands = "with a rule, the interval of the mean slope over lists and orders, from the tenth edit on, holds 1"
    text = f"Mean slope over {found.kept.shape[1]} lists in {found.kept.shape[2]} orders each: {interval(least)} to "
    text += interval(most)
    cases = [slope.low <= 1 <= slope.high for slope in slopes.values()]
    return Verdict(stands, cases, text, [*slopes.values()], 1, "at")


# Measuring language models


def each_model(settle: Callable[..., Verdict], *measured: Record, kinds: int = 1) -> Verdict:
    """The verdict over the cases of all models, from that on the records of one.

    There may be several kinds of record: all models' of one kind come first, then those of the next.
    """
    models = len(measured) // kinds
    verdicts = [settle(*measured[model::models]) for model in range(models)]
    cases, found, of = ([x for one in verdicts for x in getattr(one, name)] for name in ("cases", "found", "of"))
    text = _by_model(verdict.text for verdict in verdicts)
    return replace(verdicts[0], cases=cases, found=found, of=of, text=text)


def _under_texts(
    record: Record,
    read: Callable[[Record, str], Sequence[Estimate]],
    holds: Callable[[Estimate], bool],
    show: Callable[[Sequence[Estimate]], str],
    **how: Any,
) -> Verdict:
    """A verdict over the layers of a model under C of several texts; ``show`` tells of all of them together."""
    found, of = [], []
    for source in texts.sources(record):
        here = read(record, source)
        found += here
        of += [(measurement.called(record), texts.TEXTS[source])] * len(here)
    return Verdict(how.pop("stands"), [holds(estimate) for estimate in found], show(found), found, of=of, **how)


def _everywhere(convergence: Record, record: Record) -> Verdict:
    """Against random keys, with the error that C has."""
    tokens = min(text["tokens"] for text in record["texts"]) / record["d_m"]
    random = measurement.beyond_with_error(convergence, tokens)
    stands = "more of a layer's pairs overlap by over three standard deviations of random keys than random keys would"
    told = percent((random, math.nan, math.nan), 1)
    return _under_texts(
        record,
        texts.beyond,
        lambda share: share.low > random,
        lambda shares: f"at the least {percent(min(shares))} of the pairs, of random keys {told}",
        stands=stands,
        bar=random,
    )


def _more_than(null: str, name: str, record: Record) -> Verdict:
    """Whether facts have more than a null model, of the share of far pairs or of a statistic of p."""
    what = "share of far pairs" if name == "beyond" else "kurtosis"
    return _under_texts(
        record,
        partial(texts.more_than, null=null, name=name),
        lambda more: more.low > 0,
        lambda found: f"{sum(more.low > 0 for more in found)} of {len(found)} layers and texts",
        stands=f"the interval of a layer's {what} lies above that of {texts.NULLS[null]} (no token shared or at 0)",
    )


def _against_nulls(claim: int, name: str, asks: str) -> list[Trial]:
    """A trial for each null model."""
    return [
        Trial(
            claim,
            "12-nulls-and-confounds",
            partial(each_model, partial(_more_than, null, name)),
            UNDER_TEXTS,
            f"{asks} {called}",
        )
        for null, called in texts.NULLS.items()
    ]


def _mean_is_zero(record: Record) -> Verdict:
    return _under_texts(
        record,
        partial(texts.statistic, name="mean"),
        lambda mean: mean.low <= 0 <= mean.high,
        lambda means: f"{interval(min(means), 3)} to {interval(max(means), 3)}",
        stands="the interval of a layer's mean holds zero",
        wanted="at",
    )


def _kurtosis_is_high(record: Record) -> Verdict:
    return _under_texts(
        record,
        partial(texts.statistic, name="excess_kurtosis"),
        lambda kurtosis: kurtosis.low > 0,
        lambda layers: f"at the least {interval(min(layers), 1)}",
        stands="the interval of a layer's excess kurtosis lies above zero",
    )


def _falls_to_the_last(record: Record) -> Verdict:
    return _under_texts(
        record,
        lambda record, source: [texts.kurtosis_falls(record, source, 0, -1)],
        lambda fall: fall.low > 0,
        lambda falls: f"by {interval(min(falls), 0)} or more",
        stands="the interval of the fall from the first layer to the last lies above zero",
    )


def _never_rises(record: Record) -> Verdict:
    return _under_texts(
        record,
        lambda record, source: [texts.steepest_rise(record, source)],
        lambda rise: rise.low <= 0,
        lambda rises: f"rises again, by {interval(min(rises), 1)} or more",
        stands="no rise from a layer to a later one has an interval above zero",
        wanted="below",
    )


def _angles(record: Record) -> Verdict:
    return _under_texts(
        record,
        texts.nearer_to_right_angles,
        lambda gain: gain.low > 0,
        lambda gains: f"nearer by {interval(min(gains), 1, '°')} at the least",
        stands="whitening brings the angle of a layer's mean cosine nearer to 90°, with its interval",
    )


def _rises_in_toys(record: Record) -> Verdict:
    lists = [(kind, layer) for kind in toys.LISTS for layer in (0, 1)]
    rises = {of: mean_over_seeds(toys.per_doubling(record, *of)) for of in lists}
    distinct, shared, twin = (interval(rises[kind, 0], 1) for kind in toys.LISTS)
    stands = "the interval of the rise per doubling of the width lies above zero (three lists of facts, two layers)"
    text = f"First layer: {distinct} where last tokens differ, {shared} where shared, {twin} with one key twice"
    return Verdict(stands, [rise.low > 0 for rise in rises.values()], text, [*rises.values()])


def _rises_in_models(*measured: Record) -> Verdict:
    narrow, wide = sorted(measured, key=lambda record: record["d_m"])
    verdict = _under_texts(
        wide,
        lambda wide, source: [texts.wider(narrow, wide, source, depth) for depth in (0, 0.5, 1)],
        lambda rise: rise.low > 0,
        lambda rises: f"{interval(min(rises), 1)} to {interval(max(rises), 1)}",
        stands="the wider model lies above, without shared tokens (first, middle, last layer; three texts)",
        enough=len(measured) >= MODELS_FOR_A_LAW,
    )
    text = (
        f"{measurement.called(wide)} less {measurement.called(narrow)}, by layer and text: {verdict.text}; two models "
    )
    return replace(verdict, text=text + "are too few to judge")


def _facts_suffice(*measured: Record) -> Verdict:
    names = ("mean", "spread", "excess_kurtosis")
    scatter = [[nulls.uncertainty(record, name, FACTS) for name in names] for record in measured]
    texts = [", ".join(f"±{100 * value:.0f}\u00a0%" for value in values) for values in scatter]
    stands = f"over lists of {FACTS} facts the mean, the spread, the kurtosis scatter by a fifth at most"
    found = [Estimate(value, value, value) for values in scatter for value in values]
    cases = [estimate.value <= LARGEST_SCATTER for estimate in found]
    text = f"Half an interval of each<br>{_by_model(texts)}"
    return Verdict(stands, cases, text, found, LARGEST_SCATTER, "below")


# Neighbours and causes


def _related(record: Record) -> Verdict:
    found, texts = [], []
    for model in MODELS:
        table = pairs.regressions(record, model)
        more = {place: pairs.related(table, place) for place in pairs.PLACES}
        found += more.values()
        texts.append(", ".join(f"{percent(share)} in the {place}" for place, share in more.items()))
    stands = "relation and kind explain more of the overlap than the last token, with the interval (three layers)"
    text = f"Relation and kind less last token, of the variance, by layer<br>{_by_model(texts)}"
    return Verdict(stands, [more.low > 0 for more in found], text, found)


def _partners_in_toys(record: Record) -> Verdict:
    flips = [toys.flips_near_and_far(record, width) for width in toys.widths(record)]
    more = [toys.more_flips_near(record, width) for width in toys.widths(record)]
    (near, far), (wider, _), *_ = flips
    stands = f"at a width, answers flip more often where $|p|$ is above {toys.NEAR} than below {toys.FAR}, in pairs"
    text = f"Flips, narrowest: {percent(near)} against {percent(far, 1)}; "
    text += f"above {toys.NEAR}, next wider: {percent(wider, 1)}"
    return Verdict(stands, [share.low > 0 for share in more], text, more)


def _partners_change(record: Record) -> Verdict:
    known, layers = facts.load("book"), record["layers"]
    odds = [pairs.odds_of_a_flip(pairs.partners(record, layer, known)) for layer in layers]
    each = " and ".join(f"by {interval(ends)} at layer {layer}" for ends, layer in zip(odds, layers, strict=True))
    stands = "at a layer, the interval of the odds ratio of a flipped answer lies above 1"
    text = "Each tenth of $|p|\\,\\lVert\\delta\\rVert$, over the median $\\lVert\\delta\\rVert$, multiplies the odds "
    text += each
    return Verdict(stands, [ends.low > 1 for ends in odds], text, odds, 1)


def _without_overlap(record: Record) -> Verdict:
    conditions = forecasts.Conditions(record)
    removed, halved = (forecasts.gone(conditions.left(name)) for name in ("protected: 100", "scaled: 0.5"))
    stands = "the loss at least halves where directions avoid the keys of the watched prompts"
    text = f"Loss gone, asked in the same words: {percent(removed, 1)}; with half the norm {percent(halved)}"
    return Verdict(stands, [removed.low > 0.5], text, [removed], 0.5)


def _with_the_drift(record: Record) -> Verdict:
    conditions = forecasts.Conditions(record)
    drawn = conditions.starting("drawn")
    rank, crowded = (conditions.rank(drawn, of) for of in ("drift", "crowding"))
    stands = "the rank correlation with the mean square of $\\sum p\\,\\delta$ has an interval above 0"
    text = f"{interval(rank)} over {len(drawn)} lists, which share edits; with the crowding {interval(crowded)}"
    return Verdict(stands, [rank.low > 0], text, [rank])


def _most_against_least(record: Record) -> Verdict:
    conditions = forecasts.Conditions(record)
    ends = [f"{which} overlapping, same norm" for which in ("most", "least")]
    times = conditions.left(ends[0], of=ends[1])
    stands = "the list of most overlap loses more than that of least, with its interval"
    text = f"{interval(times)} times as much, where the crowding is {conditions.relative('crowding', *ends):.1f} times"
    return Verdict(stands, [times.low > 1], text, [times], 1)


# The law. What decides was written down before: ``book/data/bars.toml``


def _one_curve(trial: str, name: str, *measured: Record) -> Verdict:
    """Whether one curve over R, or over S, tells the share lost of every group of points outside its fit set."""
    bar, points = records.bars(trial), law.gathered(*measured)
    curve = law.fit([point for point in points if law.is_fitted(point)], name)
    held_out = law.unseen(points) if name == law.S else points
    cases, texts, errors = [], [], []
    for (model, kind), group in law.grouped(held_out).items():
        found = law.score(group, curve, name)
        errors.append(found.error)
        cases.append(found.correlation.value >= bar["correlation"] and found.error.value <= bar["error"])
        texts.append(
            f"{MODELS[model]}, {kind}: {interval(found.correlation)}, error "
            f"{interval((100 * end for end in found.error), 1)}"
        )
    stands = f"in a group of points, the rank correlation is {bar['correlation']} or more and the error "
    stands += f"{100 * bar['error']:.0f} points at most"
    what = "last state's drift $S$" if name == law.S else "layer's drift $R$"
    text = f"Rank correlation with the {what}, error in points<br>" + "<br>".join(texts)
    return Verdict(stands, cases, text, errors, bar["error"], "below")


def _one_curve_a_layer(ways: Record) -> Verdict:
    """Whether a layer's curve over R, of ROME's points, tells what other closed forms lose; better than the norm."""
    bar, cases, texts, errors = records.bars("claim-19.layer"), [], [], []
    for (model, layer), at in law.by_layer(law.points(ways)).items():
        if (model, layer) == law.WAYS_SEEN:
            continue
        over, by_norm = at.score().error, at.score("change").error
        errors.append(over)
        cases.append(over.value <= bar["error"] and over.value < by_norm.value)
        ends = (interval((100 * end for end in error), 1) for error in (over, by_norm))
        least, most = (100 * choose(at.without_one()) for choose in (min, max))
        texts.append(f"{MODELS[model]}, layer {layer}: {', over the norm '.join(ends)}; ")
        texts[-1] += f"with one point of the fit left out {least:.0f} to {most:.0f}"
    stands = f"at a layer, the error is {100 * bar['error']:.0f} points at most, and less than over the norm"
    text = "Error of the layer's own curve over $R$, in points<br>" + "<br>".join(texts)
    return Verdict(stands, cases, text, errors, bar["error"], "below")


def _ahead_of_rivals(*measured: Record) -> Verdict:
    held_out = [point for group in law.grouped(law.gathered(*measured)).values() for point in group]
    leads = {name: law.ahead(held_out, name) for name in law.RIVALS}
    least, most = (choose(leads, key=lambda name: leads[name].value) for choose in (min, max))
    stands = "the rank correlation of $R$ with the share lost exceeds the rival's, with its interval (seven rivals)"
    text = f"$R$: {law.correlation(held_out):.2f}; least ahead of the {law.QUANTITIES[least]}, by "
    text += f"{interval(leads[least])}; most of the {law.QUANTITIES[most]}, by {interval(leads[most])} "
    text += "(condition number and energy: without the thousand edits)"
    return Verdict(stands, [lead.low > 0 for lead in leads.values()], text, [*leads.values()])


def _lifetime_by_drift(*measured: Record) -> Verdict:
    bar, points = records.bars("claim-20.lifetime"), law.gathered(*measured)
    curve = law.fit([point for point in points if law.is_fitted(point)])
    held_out = [point for group in law.grouped(points).values() for point in group]
    return _within(law.lifetimes(held_out, law.by_drift(curve)), bar["factor"], "$n_a = R_a^2/D$")


def _lifetime_by_draw(*measured: Record) -> Verdict:
    lives = [life for record in measured for life in law.lifetimes(law.points(record), law.by_asking(record, "drawn"))]
    return _within(lives, records.bars("claim-20.drawn")["factor"], "drawn drifts' forecast")


def _lifetime_by_replay(*measured: Record) -> Verdict:
    lives = []
    for record in measured:
        points = law.beforehand(law.points(record), unseen=True)
        lives += law.lifetimes(points, law.by_asking(record, "replay"))
    return _beyond_the_tried(lives, records.bars("claim-20.replay")["factor"], "the replay's forecast")


def _lifetime_of_a_thousand(record: Record) -> Verdict:
    lives = law.lifetimes(law.points(record), law.by_replay(record))
    return _beyond_the_tried(lives, records.bars("claim-20.thousand")["factor"], "the replay of its method")


def _beyond_the_tried(lives: Sequence[law.Lifetime], factor: float, what: str) -> Verdict:
    """:func:`_within`, with how many there are of those that do not end within the edits that were tried."""
    verdict, beyond = _within(lives, factor, what), [life for life in lives if life.seen and life.came > law.TRIED]
    near = int(law.within(beyond, factor).sum())
    text = f"{verdict.text}; of the {len(beyond)} that outlast the {law.TRIED} edits tried, {near}"
    return replace(verdict, text=text)


def _within(lives: Sequence[law.Lifetime], factor: float, what: str) -> Verdict:
    """Whether forecasts of lifetimes lie within a factor of those that came."""
    seen = [life for life in lives if life.seen]
    factors = np.array([life.factor for life in seen])
    stands = f"edits until 10, 25 or 50 % is lost, at a layer, lie within a factor of {factor} of {what}"
    text = f"Within the factor: {percent(law.share_within(seen, factor))}; forecast over what came in the median "
    text += f"{np.median(factors):.2f}"
    found = [Estimate(*(abs(math.log(life.factor)),) * 3) for life in seen]
    return Verdict(stands, list(law.within(seen, factor)), text, found, math.log(factor), "below")


def _lengths_known(trial: str, units: str, record: Record) -> Verdict:
    """Whether keys and single edits of the unedited model tell how long the residuals of a sequence come out."""
    bar, cases, texts, found = records.bars(trial), [], [], []
    for loop in runaway.loops(record, units):
        ranks, near = loop.correlation(), loop.near(bar["factor"])
        cases.append(bool(ranks.value >= bar["correlation"] and near >= 0.5))
        found.append(ranks)
        texts.append(f"layer {loop.layer}: {interval(ranks)}, {near:.0%} within the factor".replace("%", "\u00a0%"))
    stands = f"of the first {runaway.FIRST} lengths, the forecast's rank correlation is {bar['correlation']} or more, "
    stands += f"half within a factor of {bar['factor']}"
    text = f"Steps in units of {UNITS[units]}; rank correlation<br>" + "<br>".join(texts)
    return Verdict(stands, cases, text, found, bar["correlation"])


def _fed_by(trial: str, units: str, record: Record) -> Verdict:
    """Whether residuals stop growing when one of the causes is taken away."""
    bar, cases, texts, found = records.bars(trial), [], [], []
    for loop in runaway.loops(record, units):
        left = {cause: loop.left(cause) for cause in runaway.CAUSES}
        found += left.values()
        cases += [bool(share.value < bar["share"]) for share in left.values()]
        most = max(left, key=lambda cause: left[cause].value)
        texts.append(
            f"layer {loop.layer}: residuals {interval(loop.growth(), 1)} times as long as alone; "
            f"most of that is left with {most}, {percent(left[most])}"
        )
    stands = (
        "with one cause taken away, less than half of the growth of the residuals is left (three causes, two layers)"
    )
    text = f"Steps in units of {UNITS[units]}<br>" + "<br>".join(texts)
    return Verdict(stands, cases, text, found, bar["share"], "below")


#: All trials, in the order of the claims.
#:
#: :meta hide-value:
TRIALS = [
    Trial(1, "02-single-edit", _single_edit),
    Trial(2, "03-lifelong", _unrolled_sum),
    Trial(3, "03-lifelong", _interference),
    Trial(3, "09-toy-transformer", _interference_in_toys, ("toy-transformer",)),
    Trial(3, "15-editing-a-model", _interference_of_one, ("smollm2-lifelong",)),
    Trial(3, "16-lifelong-failure", _interference_of_sequences, ("smollm2-lifelong",)),
    Trial(4, "04-superposition", _lossless),
    Trial(5, "06-editors", _never_lossless),
    Trial(6, "03-lifelong", _earlier_suffer, ("toy-memory",)),
    Trial(6, "16-lifelong-failure", _earlier_suffer_in_a_model, ("smollm2-lifelong",)),
    Trial(7, "07-toy-memory", _growth, ("toy-memory",)),
    Trial(7, "16-lifelong-failure", _linear_in_a_model, ("smollm2-lifelong",), "interference grows linearly"),
    Trial(7, "16-lifelong-failure", _unbounded_in_a_model, ("smollm2-lifelong",), "interference grows without bound"),
    Trial(7, "16-lifelong-failure", _growth_over_lists, ("lists",), "interference grows linearly, over lists"),
    Trial(8, "11-superposition-in-llms", partial(each_model, _everywhere, kinds=2), (*CONVERGENCE, *UNDER_TEXTS)),
    *_against_nulls(8, "beyond", "facts have more of it than"),
    Trial(9, "11-superposition-in-llms", partial(each_model, _mean_is_zero), UNDER_TEXTS),
    Trial(10, "11-superposition-in-llms", partial(each_model, _kurtosis_is_high), UNDER_TEXTS),
    *_against_nulls(10, "excess_kurtosis", "facts have a higher kurtosis than"),
    Trial(
        11,
        "11-superposition-in-llms",
        partial(each_model, _falls_to_the_last),
        UNDER_TEXTS,
        "the kurtosis is lower in the last layer than in the first",
    ),
    Trial(
        11,
        "11-superposition-in-llms",
        partial(each_model, _never_rises),
        UNDER_TEXTS,
        "the kurtosis falls from layer to layer",
    ),
    Trial(12, "13-scaling", _rises_in_toys, ("toy-transformer",)),
    Trial(12, "13-scaling", _rises_in_models, UNDER_TEXTS),
    Trial(13, "12-nulls-and-confounds", _facts_suffice, ("smollm2-nulls", "gemma3-nulls")),
    Trial(14, "14-who-overlaps", _related, ("pairs",)),
    Trial(15, "09-toy-transformer", _partners_in_toys, ("toy-transformer",)),
    Trial(15, "14-who-overlaps", _partners_change, ("pairs-edits",)),
    Trial(16, "11-superposition-in-llms", partial(each_model, _angles), UNDER_TEXTS),
    Trial(17, "20-forecasting-damage", _without_overlap, ("causes",), "without the overlap, the failure is gone"),
    Trial(17, "20-forecasting-damage", _with_the_drift, ("causes",), "at one norm, loss goes with $\\sum p\\,\\delta$"),
    Trial(17, "20-forecasting-damage", _most_against_least, ("causes",), "at one norm, loss goes with overlap"),
    Trial(18, "05-capacity", _conservation),
    Trial(
        19,
        "18-law",
        partial(_one_curve, "claim-19.curve", law.R),
        (*LAW, "sequences", "smollm2-failure"),
        "(ours) how much is lost is one function of the layer's drift $R$",
    ),
    Trial(
        19,
        "18-law",
        partial(_one_curve, "claim-19.state", law.S),
        (*LAW, "sequences"),
        "(ours) how much is lost is one function of the last state's drift $S$",
    ),
    Trial(19, "18-law", _one_curve_a_layer, ("sequences",), "(ours) at one layer, it is one function of $R$"),
    Trial(
        19,
        "18-law",
        _ahead_of_rivals,
        (*LAW, "sequences", "smollm2-failure"),
        "(ours) $R$ tells it better than what else has been proposed",
    ),
    Trial(20, "19-lifetime", _lifetime_by_drift, LAW, "(ours) how many edits a layer bears is known from $R$"),
    Trial(20, "19-lifetime", _lifetime_by_draw, LAW, "(ours) it is known by drawn drifts"),
    Trial(20, "19-lifetime", _lifetime_by_replay, LAW, "(ours) it is known by a replay"),
    Trial(20, "19-lifetime", _lifetime_of_a_thousand, ("smollm2-failure",), "(ours) it is, up to a thousand edits"),
    *(
        Trial(
            21, "17-runaway", partial(settle, f"claim-21.{bar}{suffix}", units), ("runaway",), f"(ours) {asks} ({said})"
        )
        for units, suffix, said in (("answer", "", "the answer's units"), ("ROME", "-units", "ROME's units"))
        for settle, bar, asks in (
            (_lengths_known, "lengths", "overlap tells how residuals grow behind a norm"),
            (_fed_by, "taken-away", "without overlap, moving ball or new search they stop growing"),
        )
    ),
]
