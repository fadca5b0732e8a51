"""The scoreboard: every claim put to its trials, each with a verdict computed from the records by one rule.

A trial looks at several *cases*: layers of models, seeds or widths of a toy, arms of an experiment. In each case the
claim stands or it does not. It is **reproduced** if it stands in all of them, **refuted** if in none, and **qualified**
if in some. The trials are functions of :mod:`superposition.studies.trials`. Chapter ``claims``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps

from superposition import records
from superposition.records import Record

#: The claims in short: 1 to 17 are those of Hu et al. (arXiv 2408.07413) or follow from them, 18 is ours.
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
    16: "whitened angles are near 90°, raw angles are not",
    17: "superposition causes the failure",
    18: "(ours) the squared overlaps of an edit add up to one over its leverage",
}

#: The language models that were measured, their records, and the fewest models that could speak of a law of size.
MODELS, MEASURED, MODELS_FOR_A_LAW = ("SmolLM2", "Gemma 3"), ("smollm2-400", "gemma3-400"), 5

#: What the records are of, where it is not both models.
SYSTEMS = {"toy-memory": "toy memories", "toy-transformer": "toy transformers"}
SYSTEMS |= dict.fromkeys(("smollm2-lifelong", "pairs-edits", "causes"), "SmolLM2")


@dataclass(frozen=True)
class Found:
    """What a trial found: in which cases the claim stands, and the statistics that decide it, as Markdown.

    ``values`` are numbers by the names that the trial's chapter glues them under (``page::name`` for another page);
    ``enough`` is False where there are too few cases to judge.
    """

    cases: Sequence[bool]
    text: str
    values: Mapping[str, float] = field(default_factory=dict)
    enough: bool = True

    @property
    def verdict(self) -> str:
        """``reproduced`` if the claim stands in every case, ``refuted`` if in none, else ``qualified``."""
        if not self.enough or 0 < sum(self.cases) < len(self.cases):
            return "qualified"
        return "reproduced" if all(self.cases) else "refuted"


@dataclass(frozen=True)
class Trial:
    """A claim's number, the chapter that argues it, the names of the records, and the function that settles it."""

    claim: int
    page: str
    records: tuple[str, ...]
    settle: Callable[..., Found]

    @property
    def stands(self) -> str:
        """When the claim stands in a case: the function's docstring."""
        return " ".join((self.settle.__doc__ or "").split())

    @property
    def system(self) -> str:
        """What was measured."""
        return SYSTEMS.get(self.records[0], " and ".join(MODELS)) if self.records else "random memories"

    def run(self) -> Found:
        """Settle it with the book's records."""
        return self.settle(*map(records.load, self.records))


#: All trials: :mod:`superposition.studies.trials` adds its own.
TRIALS: list[Trial] = []


def trial(claim: int, page: str, *names: str) -> Callable:
    """Register a function of the records ``names`` as a trial of a claim."""

    def register(settle: Callable[..., Found]) -> Callable[..., Found]:
        TRIALS.append(Trial(claim, page, names, settle))
        return settle

    return register


def bounded(bound: float, *names: str) -> Callable:
    """A trial from a function of a seed that gives relative errors, all of which must stay below the bound."""

    def make(errors: Callable[[int], Iterable[float]]) -> Callable[[], Found]:
        @wraps(errors)
        def settle() -> Found:
            cases = [bool(error < bound) for seed in range(5) for error in errors(seed)]
            return Found(cases, f"proved; error below $10^{{{round(math.log10(bound))}}}$", dict.fromkeys(names, bound))

        return settle

    return make


def of_each(settle: Callable[[Record], Found]) -> Callable[..., Found]:
    """A trial of both models from one of one record; names of values begin with ``s_`` and ``g_``, as in chapter 11."""

    @wraps(settle)
    def both(*measured: Record) -> Found:
        found = [settle(record) for record in measured]
        text = "<br>".join(f"{model}: {one.text}" for model, one in zip(MODELS, found, strict=True))
        values = {f"{mark}_{n}": x for mark, one in zip("sg", found, strict=True) for n, x in one.values.items()}
        return Found([case for one in found for case in one.cases], text, values)

    return both


def told(ends: Iterable[float], digits: int = 2, sign: str = "") -> str:
    """``value (low to high)``, not to be broken over lines."""
    value, low, high = (f"{round(float(x), digits) + 0.0:.{digits}f}" for x in ends)
    return f"{value}{sign} ({low} to {high}{sign})".replace(" ", "\u00a0").replace("-", "−")


def percent(ends: Iterable[float], digits: int = 0) -> str:
    """A share and the ends of its interval, in per cent."""
    return told((100 * x for x in ends), digits, " %")


def glued(name: str, ends: Iterable[float], value: str = "") -> dict[str, float]:
    """A value and the ends of its interval by their names in a chapter: ``name_low``, or ``low`` in place of ``{}``."""
    parts = (value, "low", "high") if "{}" in name else ("", "_low", "_high")
    name += "" if "{}" in name else "{}"
    return {name.format(part): float(end) for part, end in zip(parts, ends, strict=True)}


def row(trial: Trial, found: Found) -> tuple[str, str, str, str]:
    """A line of the scoreboard, as Markdown: the claim, its verdict and rule, what was found, and the evidence."""
    rule = trial.stands[0].lower() + trial.stands[1:]
    verdict = f"**{found.verdict}**, {sum(found.cases)}\u00a0of\u00a0{len(found.cases)}<br>It stands if {rule}"
    text = found.text[0].upper() + found.text[1:].replace(" %", "\u00a0%")
    kept = "; record" + "s" * (len(trial.records) > 1) + " " + ", ".join(f"`{name}`" for name in trial.records)
    evidence = f"{{doc}}`{trial.page}`: {trial.system}{kept if trial.records else ''}"
    return f"**{trial.claim}** {CLAIMS[trial.claim]}", verdict, text, evidence
