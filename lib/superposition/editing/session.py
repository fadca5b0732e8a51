"""Edit a model, or forecast what that would damage, or how long its layers last, in one call.

Chapters ``15-editing-a-model`` and ``20-forecasting-damage``; the commands ``edit``, ``forecast`` and
``lifetime`` call these.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from superposition import records
from superposition.data import facts, text
from superposition.data.facts import Fact
from superposition.editing import evaluation, sequence
from superposition.editing import forecast as forecasts
from superposition.editing import lifetime as lifetimes
from superposition.editing.editor import EditSettings
from superposition.editing.lifetime import Outlook
from superposition.editing.targets import TargetSettings, search
from superposition.errors import UserError
from superposition.io import cache, console, files, paths
from superposition.linear import shrinkage
from superposition.linear.metric import Metric
from superposition.lm import keys, models, moments, scoring
from superposition.lm.calibration import Calibration
from superposition.lm.models import LanguageModel, Source
from superposition.stats import intervals


@dataclass(frozen=True)
class Plan:
    """How edits are made.

    Parameters
    ----------
    method : str
        One of :data:`superposition.editing.sequence.METHODS`.
    layer : int, optional
        Default: a fifth of the way up.
    calibration : Calibration, str or Path
        What C is estimated from, by default as many tokens of the book's text as
        :func:`superposition.lm.moments.plan` says; or the file of :func:`superposition.lm.moments.of_rome` that holds
        it. Fine-tuning needs none.
    protect : str or Path, optional
        Facts with ``target_true`` that the edits are to spare; those that are edited themselves are left out.
    protect_weight : float
        How many times their keys are counted in C (:func:`superposition.linear.shrinkage.protecting`).
    protect_limit : int, optional
        Only the first of them.
    protect_paraphrases : bool
        Whether their paraphrases count among them, too: without, a fact is spared in the words of its prompt.
    targets : {"anew", "beforehand"}
        Where target values are looked for, see :func:`superposition.editing.sequence.run`. A forecast takes those found
        beforehand: of edits that are made with them one at a time it is exact.
    write, settings : EditSettings, TargetSettings
        Of the writing step and of the target values.

    Raises
    ------
    UserError
        An unknown method; fine-tuning with facts to protect, or with targets found beforehand; paraphrases to protect
        without facts or with a weight of 0.
    """

    method: str = "rome"
    layer: int | None = None
    calibration: Calibration | str | Path = field(default_factory=Calibration)
    protect: str | Path | None = None
    protect_weight: float = 10.0
    protect_limit: int | None = None
    protect_paraphrases: bool = False
    targets: str = "anew"
    write: EditSettings = field(default_factory=EditSettings)
    settings: TargetSettings = field(default_factory=TargetSettings)

    def __post_init__(self) -> None:
        if self.method not in sequence.METHODS:
            raise UserError(f"There is no method {self.method!r}: choose from {', '.join(sequence.METHODS)}.")
        if self.protect and self.method == "ft":
            raise UserError("Fine-tuning has no C to put facts into: choose another --method, or leave --protect out.")
        if self.protect_paraphrases and not (self.protect and self.protect_weight):
            raise UserError("--protect-paraphrases adds to --protect: give that, and a --protect-weight above 0.")
        sequence.check_targets(self.targets, self.method)


@dataclass(frozen=True, eq=False)
class _Session:
    """What a plan comes to on a model: its weights, the facts, the layer, and what C is made of."""

    model: LanguageModel
    edits: list[Fact]
    protect: list[Fact]
    layer: int
    C: Calibration | Float[np.ndarray, "d_m d_m"] | None
    moment: dict[str, str] | None  # the file that C is from, for the record

    def metric(self) -> tuple[Metric, int | None]:
        """C without the facts to protect, and of how many tokens it was estimated."""
        if not isinstance(self.C, Calibration):
            return Metric(self.C), None
        summed = moments.estimate(self.model, self.C.text, layers=[self.layer], **self.C.reading(self.model))
        return Metric(self.C.second_moment(summed, self.layer)[0]), summed.tokens

    def protecting(self, C: Metric, plan: Plan) -> tuple[Metric, int]:
        """C with the facts to protect at all their positions, and how many these are."""
        named = list(self.protect)
        if plan.protect_paraphrases:
            named += [reworded for fact in self.protect for reworded in fact.reworded()]
            if len(named) == len(self.protect):
                raise UserError(
                    "The facts to protect have no paraphrases: add some, or leave --protect-paraphrases out."
                )
        K = forecasts.read(self.model, named, self.layer, passes=False).everywhere()
        return Metric(shrinkage.protecting(C.moment, K, plan.protect_weight)), K.shape[1]


def _prepare(model: LanguageModel | Source, edits: str | Path, plan: Plan, limit: int | None) -> _Session:
    """Check all that needs no weights, then load them."""
    listed = _with_new(facts.load(edits, limit=limit))
    protect = facts.load_besides(plan.protect, listed, plan.protect_limit) if plan.protect else []
    sketch = model.outline if isinstance(model, Source) else model
    (layer,) = sketch.select([len(sketch.layers) // 5 if plan.layer is None else plan.layer])
    keys.note_first(keys.locate_all(sketch, listed))
    C, moment = plan.calibration, None
    if plan.method == "ft":
        C = None
    elif isinstance(C, Calibration):
        C = C.plan(sketch, layer.d_m)
    else:
        path = paths.expanded(C)
        C, moment = moments.of_rome(path, layer.d_m), {"source": str(path), "sha256": files.sha256_of(path)}
    return _Session(model.load() if isinstance(model, Source) else model, listed, protect, layer.index, C, moment)


def _with_new(listed: list[Fact]) -> list[Fact]:
    """The same facts; refuses those without a new object."""
    without = [fact for fact in listed if fact.target_new is None]
    if without:
        raise UserError(
            f"{len(without)} of the {len(listed)} edits have no target_new, the first {without[0].text!r}: "
            "add that column to say what the model shall answer."
        )
    return listed


@dataclass(frozen=True, eq=False)
class EditResult:
    """What :func:`edit` returns: the record's content, the edited model, and the state that it could go on from."""

    data: dict[str, Any]
    model: LanguageModel
    state: Path | None = None

    def write(self, folder: str | Path) -> None:
        """Write the model as it is now to ``folder/model`` and the record ``edit.json``; then the state goes."""
        models.save(self.model, Path(folder) / "model")
        records.write(Path(folder) / "edit.json", self.data)
        if self.state is not None:
            self.state.unlink(missing_ok=True)


def edit(
    model: LanguageModel | Source,
    edits: str | Path,
    plan: Plan | None = None,
    *,
    limit: int | None = None,
    batch: int = 1,
    watch: str | Path | None = None,
    state: Path | None = None,
    command: str = "superposition.editing.session.edit",
) -> EditResult:
    """Edit a model step by step, and ask it before and after.

    Parameters
    ----------
    model : LanguageModel or Source
        Is changed; see :func:`superposition.editing.editor.preserved`. With a source, all that needs no weights is
        checked before they are loaded.
    edits : str or Path
        With ``target_new``; see :func:`superposition.data.facts.load`.
    plan : Plan, optional
    limit : int, optional
        Only the first edits.
    batch : int
        Edits a step.
    watch : str or Path, optional
        Facts with ``target_true`` that are asked before and after, as those to protect are.
    state : Path, optional
        A file to go on from after an interrupt, see :func:`superposition.editing.sequence.run`.
    command : str
        Kept in the record.

    Raises
    ------
    UserError
        Whatever is wrong with model, facts, text, plan or state, in one sentence.
    """
    plan = plan or Plan()
    asked = {"watched": (watch, facts.load(watch))} if watch else {}
    session = _prepare(model, edits, plan, limit)
    lm, C, tokens, protection = session.model, None, None, {}
    if plan.method != "ft":
        C, tokens = session.metric()
        if plan.protect:
            C, positions = session.protecting(C, plan)
            asked["protect"] = (plan.protect, session.protect)
            protection = {"weight": plan.protect_weight, "positions": positions}
            protection["paraphrases"] = plan.protect_paraphrases
    before = evaluation.evaluate(lm, session.edits)
    untouched = {name: evaluation.untouched(lm, listed) for name, (_, listed) in asked.items()}
    how: dict[str, Any] = {"layer": session.layer, "C": C, "batch": batch, "targets": plan.targets}
    how |= {"settings": plan.settings, "write": plan.write}
    done = sequence.run(lm, session.edits, plan.method, **how, state=state)
    after = evaluation.evaluate(lm, session.edits)
    data: dict[str, Any] = {
        "kind": "edit",
        "model": records.header(lm),
        "edited_digest": lm.digest(),
        "facts": _origin(edits, facts) | {"count": len(session.edits)},
        "text": _text_of(plan.calibration, tokens),
        "moment": session.moment,
        "layer": session.layer,
        "method": plan.method,
        "batch": batch,
        "targets": None if plan.method == "ft" else plan.targets,
        "dtype": records.dtype(lm),
        "settings": plan.settings.as_dict(),
        "write": asdict(plan.write),
        "drift": done.editor.drift(),
        "before": before,
        "after": after,
        "edits": [
            {"subject": fact.subject, "prompt": fact.text, "target_new": fact.target_new} | row
            for fact, row in zip(session.edits, done.editor.log, strict=True)
        ],
        "seconds": {"edits": round(done.seconds, 2)},
        "provenance": records.provenance(command=command, device=lm.device),
    }
    for name, (source, listed) in asked.items():
        answers = {"before": untouched[name], "after": evaluation.untouched(lm, listed, untouched[name]["log_true"])}
        data[name] = _origin(source, facts) | {"count": len(listed)} | answers
    if plan.protect:
        data["protect"] |= protection
    return EditResult(data, lm, state)


def _text_of(how: Calibration | str | Path, tokens: int | None) -> dict[str, Any] | None:
    """What a record says of the text that C is estimated from, and of how; None where it is not."""
    if tokens is None or not isinstance(how, Calibration):
        return None
    return _origin(how.text, text) | {"tokens": tokens, "shrinkage": how.shrinkage, "centred": how.centred}


def _origin(source: str | Path, kind: Any) -> dict[str, str]:
    """What a record says of a table of facts or of a text."""
    return {"source": str(source), "sha256": kind.fingerprint(source)}


@dataclass(frozen=True, eq=False)
class ForecastResult:
    """What :func:`forecast` returns.

    Attributes
    ----------
    forecast : Forecast
        For the facts to protect that the model knows.
    unknown : int
        How many it does not know, and are left out.
    data : dict
        What the record says besides :meth:`superposition.editing.forecast.Forecast.summary`.
    """

    forecast: forecasts.Forecast
    unknown: int
    data: dict[str, Any]

    def write(self, folder: str | Path) -> None:
        """Write the three files of :meth:`superposition.editing.forecast.Forecast.write`."""
        self.forecast.write(Path(folder), **self.data)


def forecast(
    model: LanguageModel | Source,
    edits: str | Path,
    plan: Plan | None = None,
    *,
    level: str = "passes",
    limit: int | None = None,
    all_facts: bool = False,
    command: str = "superposition.editing.session.forecast",
) -> ForecastResult:
    """Forecast which facts :func:`edit` would damage by the same plan, and leave the model as it is.

    Parameters
    ----------
    model, edits, limit, command
        As :func:`edit`.
    plan : Plan, optional
        The facts that the forecast is for are those to protect, with a weight of 0 as they are without protection. A
        plan without any is forecast for the book's.
    level : str
        What the forecast may know, one of :data:`superposition.editing.forecast.LEVELS`.
    all_facts : bool
        Forecast also for facts that the model does not know.

    Raises
    ------
    UserError
        Whatever is wrong with model, facts, text or plan, in one sentence.
    """
    start, plan = time.perf_counter(), plan or Plan()
    forecasts.check(level, plan.method)
    protected = plan.protect or "book"
    plan = plan if plan.protect else replace(plan, protect=protected, protect_weight=0.0)
    session = _prepare(model, edits, plan, limit)
    lm = session.model
    before = lm.digest()
    protect = session.protect if all_facts else scoring.known(lm, session.protect)
    if not protect:
        raise UserError("The model knows none of the facts to protect: give others, or --all-facts.")
    C, tokens = session.metric()
    if plan.protect_weight:
        C, _ = session.protecting(C, plan)  # all of them, as `edit` does
    how = {"layer": session.layer, "C": C, "settings": plan.settings, "write": plan.write}
    outcome = forecasts.run(lm, session.edits, protect, level, method=plan.method, **how)
    data = {
        "model": records.header(lm, architecture=False) | {"digest_before": before, "digest_after": lm.digest()},
        "text": _text_of(plan.calibration, tokens),
        "moment": session.moment,
        "protect_weight": plan.protect_weight,
        "protect_paraphrases": plan.protect_paraphrases,
        "expected_lost": None if outcome.lost is None or all_facts else intervals.share(outcome.lost),
        "sources": {
            name: files.sha256_of(path) if (path := paths.expanded(source)).is_file() else str(source)
            for name, source in (("edits", edits), ("protect", protected))
        },
        "seconds": round(time.perf_counter() - start, 1),
        "provenance": records.provenance(command=command, device=lm.device),
    }
    return ForecastResult(outcome, len(session.protect) - len(protect), data)


#: Edits whose target values are looked for in one pass.
AT_ONCE = 16

#: Raise it when what a layer's outlook is changes: outlooks are kept in the cache under it.
_OUTLOOKS = 3


@dataclass(frozen=True, eq=False)
class LifetimeResult:
    """What :func:`lifetime` returns.

    Attributes
    ----------
    outlooks : list of Outlook
        One a layer.
    planned : int
        How many edits of the list were replayed: all but those about facts that the model is asked for.
    data : dict
        What the record says besides the layers.
    """

    outlooks: list[Outlook]
    planned: int
    data: dict[str, Any]

    @property
    def best(self) -> Outlook | None:
        """The layer that lasts longest, of those at which the edits take; None if there is none."""
        able = [found for found in self.outlooks if found.takes >= lifetimes.TAKES]
        return max(able, key=lambda found: (found.edits_until(lifetimes.SHARES[1]).value, -found.D), default=None)

    def rows(self) -> list[dict[str, float | None]]:
        """A row a layer: what is known of it before any edit, and after how many edits each share is lost.

        None stands where that is more edits than were looked at.
        """
        found: list[dict[str, float | None]] = []
        for one in self.outlooks:
            row: dict[str, float | None] = {
                "layer": one.layer,
                "c": one.c,
                "q": one.q,
                "c2q": one.c**2 * one.q,
                "D": one.D,
                "takes": one.takes,
            }
            for share in lifetimes.SHARES:
                names = (f"until_{share:.0%}{end}".replace("%", "") for end in ("", "_low", "_high"))
                row |= {
                    name: end if np.isfinite(end) else None
                    for name, end in zip(names, one.edits_until(share), strict=True)
                }
            names = (f"lost_after_{self.planned}{end}" for end in ("", "_low", "_high"))
            found.append(row | dict(zip(names, one.lost_after(self.planned), strict=True)))
        return found

    def write(self, folder: str | Path) -> None:
        """Write ``lifetime.json`` and ``lifetime.csv`` (a row a layer) into a folder: both or none."""
        rows, table = self.rows(), io.StringIO()
        writer = csv.DictWriter(table, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        files.write_together(
            {
                Path(folder) / "lifetime.json": files.json_writer(self.data | {"layers": rows}),
                Path(folder) / "lifetime.csv": lambda path: path.write_bytes(table.getvalue().encode()),
            }
        )


def lifetime(
    model: LanguageModel | Source,
    edits: str | Path = "book",
    calibration: Calibration | None = None,
    *,
    layers: Sequence[int] | None = None,
    protect: str | Path = "book",
    tries: int = 10,
    most: int = 100,
    settings: TargetSettings | None = None,
    memory: int | None = None,
    command: str = "superposition.editing.session.lifetime",
) -> LifetimeResult:
    """How many edits each layer bears until a share of what the model knows is lost, told before any edit is made.

    It is told of edits by ROME with targets found beforehand (:func:`superposition.editing.lifetime.replayed`). Where
    the list is shorter than the last look, the book's requests follow it.

    Parameters
    ----------
    model, command
        As :func:`edit`; the model is left as it is.
    edits : str or Path
        With ``target_new``: the edits that are planned, or others like them.
    calibration : Calibration, optional
        What C is estimated from, by default as many tokens of the book's text as
        :func:`superposition.lm.moments.plan` says.
    layers : sequence of int, optional
        Default: all but the last, whose answer at a subject no later word can read.
    protect : str or Path
        Facts with ``target_true``: what of them the model knows, about other subjects, is what may be lost.
    tries : int
        How many edits are tried at each layer, each alone; they are spread evenly over the list.
    most : int
        How many of the facts to protect are asked at most, the first that the model knows; those about subjects of the
        list come last, for edits about what is asked for are left out.
    settings : TargetSettings, optional
        Of the target values.
    memory : int, optional
        Bytes for the second moments held at once, as :func:`superposition.measure.measure` has it.

    Raises
    ------
    UserError
        Whatever is wrong with model, facts, text or layers, in one sentence.
    """
    start, settings = time.perf_counter(), settings or TargetSettings()
    sketch = model.outline if isinstance(model, Source) else model
    listed = _with_new(facts.load(edits))
    if min(tries, len(listed)) < 2:
        raise UserError(f"From {min(tries, len(listed))} edits a layer's life cannot be told: try 2 or more.")
    tried = [listed[i] for i in np.unique(np.linspace(0, len(listed) - 1, tries).astype(int))]
    subjects = {fact.subject for fact in tried}
    others = [fact for fact in facts.load_besides(protect, tried) if fact.subject not in subjects]
    named = {fact.subject for fact in listed}
    others.sort(key=lambda fact: fact.subject in named)  # asked last: edits about what is asked for are left out
    layers = range(len(sketch.layers) - 1) if layers is None else layers
    chosen = sketch.select(layers)
    keys.note_first(keys.locate_all(sketch, tried))
    calibration = (calibration or Calibration()).plan(sketch, max(layer.d_m for layer in chosen))
    lm = model.load() if isinstance(model, Source) else model
    before, known = lm.digest(), scoring.known(lm, others)[:most]
    if not known:
        raise UserError("The model knows none of the facts to protect about other subjects: give others.")
    coming = lifetimes.coming(lm, tried, listed, known, max(lifetimes.LOOKS))
    planned = len(tried) + sum(fact in coming for fact in listed)
    reading, found, tokens = calibration.reading(lm), [], 0
    with console.bar(total=len(chosen), what="lifetime", unit="layer") as bar:
        for summed in moments.in_groups(lm, calibration.text, memory=memory, layers=layers, **reading):
            tokens = summed.tokens
            group = list(summed.outer)
            # one pass for all layers of a group, if any of them is not in the cache
            later = functools.cache(lambda group=group: keys.extract(lm, coming, layers=group) if coming else None)
            for layer in group:
                C = Metric(calibration.second_moment(summed, layer)[0])
                looks = sorted({*lifetimes.LOOKS, planned})
                found.append(_outlook(lm, before, layer, (tried, coming), later, known, C, settings, looks))
                bar.update()
            del summed  # or two groups are in memory
    if lm.digest() != before:
        raise RuntimeError("The weights are not what they were before.")
    data = {
        "kind": "lifetime",
        "model": records.header(lm) | {"digest": before},
        "facts": _origin(edits, facts) | {"count": len(listed), "tried": len(tried), "replayed": planned},
        "protect": _origin(protect, facts) | {"count": len(others), "asked": len(known)},
        "text": _text_of(calibration, tokens),
        "settings": settings.as_dict(),
        "seconds": round(time.perf_counter() - start, 1),
        "provenance": records.provenance(command=command, device=lm.device),
    }
    return LifetimeResult(found, planned, data)


def _outlook(
    lm: LanguageModel,
    digest: str,
    layer: int,
    edits: tuple[Sequence[Fact], Sequence[Fact]],
    later: Callable[[], keys.Keys | None],
    known: Sequence[Fact],
    C: Metric,
    settings: TargetSettings,
    looks: list[int],
) -> Outlook:
    """One layer's, of the edits to try and those that follow, whose keys are ``later()``; ``digest`` is the weights'.

    It is kept under all it depends on, so that an interrupted run goes on.
    """
    tried, coming = edits
    key = cache.key(
        "lifetime",
        _OUTLOOKS,
        weights=digest,
        layer=layer,
        edits=[[fact.text, fact.target_new] for fact in tried],
        coming=[fact.text for fact in coming],
        known=[[fact.text, fact.target_true] for fact in known],
        C=hashlib.sha256(C.moment.tobytes()).hexdigest(),
        settings=settings.as_dict(),
        dtype=str(lm.dtype),
        looks=looks,
    )

    def make() -> dict[str, Any]:
        untouched = lifetimes.Untouched(lm, forecasts.read(lm, known, layer, passes=False))
        found, others = search(lm, tried, layer, settings, batch=AT_ONCE), later()
        K = found.keys if others is None else np.concatenate([found.keys, others[layer]], axis=1)
        return vars(lifetimes.outlook(untouched, found, C, K, looks))

    return Outlook(**cache.made(key, make))
