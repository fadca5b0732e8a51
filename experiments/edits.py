"""Measure edits of a language model, one by one and in long sequences, and write the book's records of them.

python experiments/edits.py single --out book/records/smollm2-single-edits.json
python experiments/edits.py lifelong --out book/records/smollm2-lifelong.json

Every sequence of edits keeps its state in the user's cache; interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from superposition import editing, records
from superposition.data import facts
from superposition.data.facts import Fact
from superposition.editing import evaluation, targets
from superposition.errors import UserError
from superposition.io import cache, console, paths
from superposition.linear.memory import LinearMemory
from superposition.linear.metric import Metric
from superposition.lm import keys, models, moments, scoring, tracing
from superposition.stats import intervals
from units import WAYS


@dataclass(frozen=True)
class Way:
    """How a sequence is made: the method, how many edits, in which order, how many a step, side by side or alone."""

    name: str
    method: str
    edits: int = 200
    order: int = 0
    batch: int = 1
    alone: bool = False
    changes: dict[str, Any] = field(default_factory=dict)  # of the writing


@dataclass(frozen=True)
class Plan:
    """Which edits are made, and how; ``untouched`` are known facts that nobody edits.

    The sequences made side by side search for their shifts in the dtype ``search``, twice as fast; all else is in the
    model's. The short sequences of fine-tuning are there to see whether other settings of it do better. ``known`` says
    which facts a model knows, and ``step`` makes a step of several sequences. Targets are searched in ROME's units.
    """

    settings: editing.TargetSettings = WAYS["ROME's"]
    checkpoints: tuple[int, ...] = (1, 5, 10, 20, 50, 100, 150, 200)
    edits: int = 200
    untouched: int = 80
    search: str = "bfloat16"
    ways: tuple[Way, ...] = (
        Way("rome", "rome"),
        Way("memit", "memit"),
        Way("alphaedit", "alphaedit"),
        Way("rls-soft", "rls-soft"),
        Way("rls-hard", "rls-hard"),
        Way("rome order 2", "rome", 60, order=1),
        Way("alphaedit order 2", "alphaedit", 60, order=1),
        Way("memit batch 20", "memit", batch=20, alone=True),
        Way("ft", "ft", alone=True),
        Way("ft slower", "ft", 60, alone=True, changes={"ft_lr": 2e-4, "ft_steps": 50}),
        Way("ft bounded", "ft", 60, alone=True, changes={"ft_norm": 2e-3, "ft_steps": 50}),
    )
    known: Callable[..., list[Fact]] = scoring.known
    step: Callable[..., None] = editing.edit_side_by_side


#: What the book's records are made by.
PLAN = Plan()


# --- the facts ----------------------------------------------------------------------------------------------


def described(edits: Sequence[Fact]) -> list[list[str | None]]:
    """What an edit's result depends on, of each."""
    return [[fact.text, fact.target_true, fact.target_new] for fact in edits]


def at_start(model: models.LanguageModel, listed: Sequence[Fact]) -> list[bool]:
    """Whether each fact's key is read at the first position of its prompt, the attention sink."""
    return [found.position == 0 for found in keys.locate_all(model, listed)]


def split(model: models.LanguageModel, plan: Plan) -> dict[str, Any]:
    """Known facts to edit one by one; a sequence's edits in order; known facts nobody edits. Keys at 0 left out."""
    listed = facts.load("book")
    known = set(plan.known(model, listed))
    sinks = [fact for fact, sink in zip(listed, at_start(model, listed), strict=True) if sink]
    usable = [fact for fact in listed if fact not in set(sinks)]
    rng = np.random.default_rng(0)
    order = [usable[i] for i in rng.permutation(len(usable))]
    untouched, subjects = [], set()
    for fact in order:
        if fact in known and fact.subject not in subjects and len(untouched) < plan.untouched:
            untouched.append(fact)
            subjects.add(fact.subject)
    edits = [fact for fact in order if fact.subject not in subjects][: plan.edits]
    return {
        "known": [fact for fact in order if fact in known],
        "sinks": sinks,
        "edits": edits,
        "untouched": untouched,
        "counts": {"facts": len(listed), "known": len(known), "sinks": len(sinks)},
        "known_edits": [fact in known for fact in edits],
    }


def about(
    model: models.LanguageModel,
    kind: str,
    command: str,
    began: float,
    summed: moments.Moments,
    settings: editing.TargetSettings,
) -> dict[str, Any]:
    """What both records say of their making."""
    return {
        "kind": kind,
        "model": records.header(model),
        "facts": {"source": "book", "sha256": facts.fingerprint("book")},
        "text": {"source": "book", "tokens": summed.tokens},
        "dtype": records.dtype(model),
        "settings": settings.as_dict(),
        "write": asdict(editing.EditSettings()),
        "seconds": {"all": round(time.perf_counter() - began, 1)},
        "provenance": records.provenance(command=command, seed=0, device=model.device),
    }


# --- one by one ---------------------------------------------------------------------------------------------


def singles(
    model: models.LanguageModel,
    layer: int,
    C: np.ndarray,
    edits: Sequence[Fact],
    settings: editing.TargetSettings,
    windows: Sequence[Any] = (),
) -> list[dict[str, Any]]:
    """Each edit alone on the unedited model by ROME; what it did, as a row; of the first four also the perplexity."""
    editor = editing.Editor(model, layer, "rome", C=C, settings=settings)
    metric = editor.memory.metric
    cpu = time.process_time()
    found = targets.search(model, edits, layer, settings, batch=8)
    cpu = (time.process_time() - cpu) / len(edits)
    rows = []
    before = [evaluation.evaluate(model, [fact], neighbours=3) for fact in edits]
    for i, fact in enumerate(edits):
        editor.memory = LinearMemory(editor.W_0, metric)
        with editing.preserved(model):
            editor.store(found[i])
            after = evaluation.evaluate(model, [fact], neighbours=3)
            k = found.keys[:, i]
            row = {
                "subject": fact.subject,
                "relation": fact.relation,
                "steps": int(found.steps[i]),
                "first_loss": float(found.first_loss[i]),
                "loss": float(found.loss[i]),
                "probability": float(found.probability[i]),
                "recalled_norm": float(np.linalg.norm(found.recalled[:, i])),
                "shift_norm": float(np.linalg.norm(found.shifts[:, i])),
                "key_norm": float(np.linalg.norm(k)),
                "leverage": float(k @ metric.solve(k)),
                "drift": editor.drift(),
                "seconds_cpu": cpu,
                "before": compact(before[i]),
                "after": compact(after),
            }
            if windows and i < 4:
                row["perplexity"] = scoring.perplexity(model, windows)
        rows.append(row)
    return rows


def compact(found: dict[str, Any]) -> dict[str, Any]:
    """Of a single edit's evaluation: hits over number for every measure, and the two log-probabilities."""
    counts = {
        name: [round(one["share"] * one["n"]) if one["n"] else 0, one["n"]]
        for name, one in found.items()
        if isinstance(one, dict)
    }
    return counts | {"log_new": found["log_new"][0], "log_true": found["log_true"][0]}


def summary(rows: Sequence[dict[str, Any]], when: str = "after") -> dict[str, Any]:
    """Shares over the rows of :func:`singles`."""
    names = [name for name, one in rows[0][when].items() if isinstance(one, list)]
    return {
        name: intervals.share(
            hit for row in rows for hit in [1] * row[when][name][0] + [0] * (row[when][name][1] - row[when][name][0])
        )
        for name in names
    }


def tell(
    model: models.LanguageModel, layer: int, C: np.ndarray, edits: Sequence[Fact], settings: editing.TargetSettings
) -> list[dict[str, str]]:
    """What the model writes after a prompt, before the edit of it and after, by greedy decoding."""
    rows = []
    for fact in edits:
        row = {"subject": fact.subject, "prompt": fact.text, "true": fact.target_true, "new": fact.target_new}
        row["before"] = scoring.generate(model, fact.text, 14)
        with editing.preserved(model):
            editing.run(model, [fact], "rome", layer=layer, C=C, settings=settings)
            row["after"] = scoring.generate(model, fact.text, 14)
            row["essence"] = scoring.generate(model, f"{fact.subject} is", 14)
        row["essence_before"] = scoring.generate(model, f"{fact.subject} is", 14)
        rows.append(row)
    return rows


def single(options: argparse.Namespace, command: str, plan: Plan) -> None:
    began = time.perf_counter()
    model = models.load(options.model)
    parts = split(model, plan)
    summed = moments.estimate(model, "book", tokens=options.tokens)
    windows, settings = scoring.held_out(model, 500), plan.settings
    key = partial(cache.key, "edits", 1, weights=model.digest(), tokens=options.tokens, settings=settings.as_dict())

    def rows_of(layer: int, C: np.ndarray, edits: Sequence[Fact], windows: Sequence[Any] = ()) -> list[dict[str, Any]]:
        recipe = {"single": described(edits), "layer": layer, "with_text": len(windows)}
        return cache.made(key(**recipe), lambda: {"rows": singles(model, layer, C, edits, settings, windows)})["rows"]

    def traced(fact: Fact) -> dict[str, Any]:
        how = {"layers": range(0, len(model.layers), 3), "samples": 3}
        windows = {"state": 1, "mlp": 5}
        return {kind: tracing.trace(model, fact, kind=kind, window=n, **how) for kind, n in windows.items()}

    sweep = {}
    for layer in options.layers:
        sweep[str(layer)] = rows_of(layer, summed.second_moment(layer), parts["known"][: options.sweep])
        print("layer", layer, {k: v["share"] for k, v in summary(sweep[str(layer)]).items()}, flush=True)
    C, chosen = summed.second_moment(options.layer), parts["known"][: options.count]
    edits: list[dict[str, Any]] = []
    for first in range(0, len(chosen), 20):
        edits += rows_of(options.layer, C, chosen[first : first + 20], windows)
        print(len(edits), {k: v["share"] for k, v in summary(edits).items()}, flush=True)
    trace = {
        fact.text: cache.made(key(trace=described([fact])), lambda fact=fact: traced(fact))
        for fact in parts["known"][: options.traced]
    }
    recipe = {"told": described(chosen[:8]), "layer": options.layer}
    said = cache.made(key(**recipe), lambda: {"rows": tell(model, options.layer, C, chosen[:8], settings)})
    data = about(model, "single edits", command, began, summed, settings) | {
        "layer": options.layer,
        "told": said["rows"],
        "counts": parts["counts"],
        "sinks": [fact.subject for fact in parts["sinks"]],
        "sweep": {
            layer: summary(rows)
            | {
                "shift_over_recalled": float(np.mean([row["shift_norm"] / row["recalled_norm"] for row in rows])),
                "steps": float(np.mean([row["steps"] for row in rows])),
                "seconds_cpu": rows[0]["seconds_cpu"],
                "facts": len(rows),
            }
            for layer, rows in sweep.items()
        },
        "before": summary(edits, "before"),
        "after": summary(edits),
        "perplexity_before": scoring.perplexity(model, windows),
        "edits": edits,
        "trace": trace,
    }
    records.write(options.out, data)


# --- one after another --------------------------------------------------------------------------------------


class Examiner:
    """What is asked of the model at a checkpoint of a sequence."""

    def __init__(self, model: models.LanguageModel, parts: dict[str, Any], layer: int, windows: list):
        self.model, self.windows, self.untouched = model, windows, parts["untouched"]
        self.K = keys.extract(model, self.untouched, layers=[layer])[layer]
        self.before = evaluation.untouched(model, self.untouched)["log_true"]

    def __call__(self, editor: editing.Editor, edits: Sequence[Fact]) -> dict[str, Any]:
        n = editor.n_edits
        begun = {"drift": editor.drift(), "perplexity": scoring.perplexity(self.model, self.windows)}
        others = evaluation.untouched(self.model, self.untouched, self.before)
        begun |= {"untouched_exact": others["exact"], "untouched_change": others["change"]}
        begun["untouched_log_true"] = [round(one, 3) for one in others["log_true"]]
        if n == 0:
            return begun
        recent = list(edits[max(0, n - 20) : n])
        old = list(edits[: max(0, n - 20)])
        begun["new"] = shares(evaluation.evaluate(self.model, recent, paraphrases=1, neighbours=1))
        if old:
            begun["old"] = self.asked_of(old)
        if n == len(edits):
            found = evaluation.evaluate(self.model, edits, paraphrases=0, neighbours=0)
            begun["every"] = {name: found[name] for name in ("success", "exact", "hit")}
        measured = editor.measured(self.K)
        begun["interference"] = float(np.linalg.norm(measured, axis=0).mean())
        if editor.memory is not None:
            error = np.linalg.norm(editor.predicted(self.K) - measured) / np.linalg.norm(measured)
            begun["prediction_error"] = float(error)
        return begun

    def asked_of(self, old: Sequence[Fact]) -> dict[str, Any]:
        some = [old[i] for i in np.linspace(0, len(old) - 1, min(30, len(old))).astype(int)]
        return shares(evaluation.evaluate(self.model, some, paraphrases=1, neighbours=1))


def shares(found: dict[str, Any]) -> dict[str, Any]:
    return {name: one for name, one in found.items() if isinstance(one, dict)}


def order_of(parts: dict[str, Any], order: int, count: int) -> list[Fact]:
    """The edits of a sequence in one of the orders; 0 is the first."""
    edits = parts["edits"]
    if order:
        edits = [edits[i] for i in np.random.default_rng(order).permutation(len(edits))]
    return edits[:count]


@dataclass
class EditSequence:
    """A sequence of edits: what determines it, how far it has come, and where it is kept."""

    way: Way
    key: str
    edits: list[Fact]
    editor: editing.Editor | None = None
    results: list[dict[str, Any]] = field(default_factory=list)
    cpu: float = 0.0
    content: dict[str, Any] | None = None  # as it is kept

    def save(self) -> None:
        arrays, state = self.editor.state()
        self.content = arrays | {"state": state, "results": self.results, "cpu": self.cpu}
        cache.save(self.key, self.content)

    def begin(self, model: models.LanguageModel, layer: int, C: np.ndarray, plan: Plan) -> EditSequence:
        """Make the editor, and go on from the state that was kept, if one was."""
        self.editor = editing.Editor(model, layer, self.way.method, C=C, settings=plan.settings)
        if stored := cache.load(self.key):
            with editing.preserved(model):
                self.editor.resume(stored, stored["state"])
            self.results, self.cpu = stored["results"], stored["cpu"]
        return self

    def __str__(self) -> str:
        last = self.results[-1] if self.results else {}
        exact = last.get("new", {}).get("exact", {}).get("share")
        return f"{self.way.name} {last.get('perplexity', 0):.1f} {exact}"


def sequences_of(
    model: models.LanguageModel, parts: dict[str, Any], options: argparse.Namespace, plan: Plan
) -> list[EditSequence]:
    """The sequences that are planned, each with its edits."""
    key = partial(cache.key, "edits", 1, weights=model.digest(), tokens=options.tokens, layer=options.layer)
    how = {"settings": plan.settings.as_dict(), "checkpoints": plan.checkpoints, "search": plan.search}
    how["untouched"] = described(parts["untouched"])
    edits = [order_of(parts, way.order, way.edits) for way in plan.ways]
    keys = [key(way=asdict(way), edits=described(mine), **how) for way, mine in zip(plan.ways, edits, strict=True)]
    return list(map(EditSequence, plan.ways, keys, edits))


def edit_together(
    model: models.LanguageModel,
    searcher: models.LanguageModel,
    sequences: Sequence[EditSequence],
    examine: Examiner,
    plan: Plan,
) -> None:
    """Sequences step by step side by side; the laggards first, if a run was interrupted."""
    while going := [sequence for sequence in sequences if sequence.editor.n_edits < len(sequence.edits)]:
        n = min(sequence.editor.n_edits for sequence in going)
        now = [sequence for sequence in going if sequence.editor.n_edits == n]
        cpu = time.process_time()
        try:
            plan.step([sequence.editor for sequence in now], [[sequence.edits[n]] for sequence in now], 8, searcher)
        except UserError:  # a sequence that cannot go on ends; the others go on without it
            for sequence in now:
                if sequence.editor.n_edits == n:
                    _step_alone(sequence, n, searcher, plan)
            now = [sequence for sequence in now if sequence.editor.n_edits == n + 1]
        cpu = (time.process_time() - cpu) / max(1, len(now))
        for sequence in now:
            sequence.cpu += cpu
            examined = n + 1 in plan.checkpoints or n + 1 == len(sequence.edits)
            if examined:
                with editing.preserved(model):
                    sequence.editor.apply()
                    sequence.results.append({"edits": n + 1} | examine(sequence.editor, sequence.edits))
            if examined or (n + 1) % 10 == 0:
                sequence.save()
        if n + 1 in plan.checkpoints or (n + 1) % 10 == 0:
            print(n + 1, round(cpu, 1), *map(str, sequences), sep=", ", flush=True)


def _step_alone(sequence: EditSequence, n: int, searcher: models.LanguageModel, plan: Plan) -> None:
    try:
        plan.step([sequence.editor], [[sequence.edits[n]]], 8, searcher)
    except UserError as error:
        sequence.edits = sequence.edits[:n]
        print(sequence.way.name, "ends after", n, error, flush=True)


def edit_alone(
    model: models.LanguageModel, sequence: EditSequence, layer: int, C: np.ndarray, examine: Examiner, plan: Plan
) -> dict[str, Any]:
    """A sequence from its first edit to its last; what is kept of it."""
    way, cpu = sequence.way, time.process_time()
    with editing.preserved(model):
        done = editing.run(
            model,
            sequence.edits,
            way.method,
            layer=layer,
            C=C,
            batch=way.batch,
            settings=plan.settings,
            write=replace(editing.EditSettings(), **way.changes),
            checkpoints=list(plan.checkpoints),
            examine=lambda editor, n: examine(editor, sequence.edits),
            state=paths.cache_dir() / f"{sequence.key}.safetensors",
        )
        arrays, state = done.editor.state()
    print(way.name, flush=True)
    arrays = {} if way.method == "ft" else arrays
    return arrays | {"state": state, "results": done.results, "cpu": time.process_time() - cpu}


def lifelong(options: argparse.Namespace, command: str, plan: Plan) -> None:
    began = time.perf_counter()
    model = models.load(options.model)
    parts = split(model, plan)
    summed = moments.estimate(model, "book", tokens=options.tokens)
    layer, C = options.layer, summed.second_moment(options.layer)
    examine = Examiner(model, parts, layer, scoring.held_out(model, 600))
    before, sequences = model.digest(), sequences_of(model, parts, options, plan)
    together = [sequence for sequence in sequences if not sequence.way.alone]
    if "together" in options.sequences:
        searcher = models.load(options.model, dtype=plan.search)
        edit_together(model, searcher, [sequence.begin(model, layer, C, plan) for sequence in together], examine, plan)
    if "alone" in options.sequences:
        for sequence in (sequence for sequence in sequences if sequence.way.alone):
            sequence.content = cache.made(
                sequence.key, lambda sequence=sequence: edit_alone(model, sequence, layer, C, examine, plan)
            )
    assert model.digest() == before, "the model is not as it was"
    data, arrays = merge(model, parts, sequences, layer, C, examine)
    data["search_dtype"] = plan.search
    head = about(model, "lifelong edits", command, began, summed, plan.settings)
    records.write(options.out, head | data, arrays)


def merge(
    model: models.LanguageModel,
    parts: dict[str, Any],
    sequences: Sequence[EditSequence],
    layer: int,
    C: np.ndarray,
    examine: Examiner,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The sequences there are, and the course of interference at the layer from their accounts."""
    start = examine(editing.FineTuner(model, layer), [])
    start["old"] = examine.asked_of(parts["edits"][:-20] or parts["edits"])
    rows, arrays = {}, {"untouched_log_true": np.float32(examine.before)}
    metric = Metric(C)
    for sequence in sequences:
        stored, name, method = sequence.content or cache.load(sequence.key), sequence.way.name, sequence.way.method
        if stored is None:
            continue
        log = stored["state"]["log"]
        rows[name] = {
            "method": method,
            "order": sequence.way.order,
            "batch": sequence.way.batch,
            "changes": sequence.way.changes,
            "edits": len(stored["state"]["batches"]),
            "planned": sequence.way.edits,
            "seconds_cpu": stored["cpu"],
            "results": stored["results"],
            "log": {key: [brief(row[key]) for row in log] for key in log[0]},
        }
        if method != "ft":
            editor = editing.Editor(model, layer, method, C=metric)
            with editing.preserved(model):
                editor.resume(stored, stored["state"])
            rows[name]["closed_form_error"] = closed_form_error(editor, C)
            if method == "alphaedit":
                rows[name]["protection"] = protection(editor)
            arrays |= {f"{name}/{key}": array for key, array in course(editor.memory, examine.K).items()}
        print(name, rows[name]["edits"], flush=True)
    data = {
        "layer": layer,
        "counts": parts["counts"],
        "subjects": [fact.subject for fact in parts["edits"]],
        "relations": [fact.relation for fact in parts["edits"]],
        "known_edits": parts["known_edits"],
        "untouched": [fact.text for fact in parts["untouched"]],
        "start": start,
        "lives": rows,  # the record's key of the sequences
        "seconds": {"cpu": round(sum(row["seconds_cpu"] for row in rows.values()))},
    }
    return data, arrays


def brief(number: float) -> float:
    """With five digits, as a record of thousands of them keeps it."""
    return number if isinstance(number, int) else float(f"{number:.5g}")


def closed_form_error(editor: editing.Editor, C: np.ndarray) -> float:
    """Relative error of the last step's change of W against the method's formula, solved densely and from scratch."""
    memory, method, d_m = editor.memory, editor.method, len(C)
    last = np.array(memory.batches) == memory.batches[-1]
    K, past, R = memory.keys[:, last], memory.keys[:, ~last], memory.residuals[:, last]
    made = memory.edits[last].matrix()
    weight = editor.write.text_weight * d_m
    if method == "rome":
        X = np.linalg.solve(C, K)
        right = R @ X.T / float(K[:, 0] @ X[:, 0])
    elif method == "memit":
        right = R @ np.linalg.solve(weight * C + K @ K.T, K).T
    elif method == "rls-soft":
        right = R @ np.linalg.solve(weight * C + past @ past.T + K @ K.T, K).T
    elif method == "rls-hard":
        X = np.linalg.solve(C, np.hstack([past, K]))
        G = np.hstack([past, K]).T @ X
        right = R @ np.linalg.solve(G, X.T)[-K.shape[1] :]
    else:
        P, ridge = editor.options["projector"], editor.options["ridge"]
        A = past @ past.T @ P + K @ K.T @ P + ridge * np.eye(d_m)
        right = R @ np.linalg.solve(A.T, P @ K).T
    return float(np.linalg.norm(made - right) / np.linalg.norm(right))


def protection(editor: editing.Editor) -> dict[str, float]:
    """AlphaEdit: how many directions are free, and what share of the model's change lies in the others."""
    P = editor.options["projector"]
    D = editor.weights().double().numpy() - editor.W_0
    return {"free": round(float(np.trace(P))), "leak": float(np.linalg.norm(D - D @ P) / np.linalg.norm(D))}


def course(memory: LinearMemory, K: np.ndarray) -> dict[str, np.ndarray]:
    """After every edit, the norm of the interference on each untouched key; at the end that on each edit; the δ's.

    ``step`` is the size of each step at the untouched keys, the root of the mean over the keys of ``p² |δ|²``: steps at
    right angles to each other sum to the root of the sum of its squares. ``straight`` is what they would sum to if all
    went in one direction.
    """
    shares = memory.transfer(K)  # (n, N)
    total = np.zeros((memory.W.shape[0], K.shape[1]))
    norms = []
    for delta, share in zip(memory.residuals.T, shares, strict=True):
        total += np.outer(delta, share)
        norms.append(np.linalg.norm(total, axis=0))
    steps = np.abs(shares) * np.linalg.norm(memory.residuals, axis=0)[:, None]
    return {
        "interference": np.float16(norms),
        "step": np.float32(np.sqrt((steps**2).mean(1))),
        "straight": np.float32(np.sqrt((np.cumsum(steps, axis=0) ** 2).mean(1))),
        "on_edits": np.float32(np.linalg.norm(memory.predicted_interference_on_edits(), axis=0)),
        "on_edits_measured": np.float32(np.linalg.norm(memory.measured_interference_on_edits(), axis=0)),
        "residual": np.float32(np.linalg.norm(memory.residuals, axis=0)),
        "value": np.float32(np.linalg.norm(memory.values, axis=0)),
    }


# --- the command line ---------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None, plan: Plan = PLAN) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["single", "lifelong"])
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=102_400, help="of the text that C comes from")
    parser.add_argument("--layer", type=int, default=6)
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 3, 6, 9, 12, 18, 24], help="of the sweep")
    parser.add_argument("--sweep", type=int, default=16, help="facts of the sweep")
    parser.add_argument("--count", type=int, default=100, help="single edits")
    parser.add_argument("--traced", type=int, default=10, help="facts traced")
    parser.add_argument("--sequences", nargs="*", default=["together", "alone"], choices=["together", "alone"])
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(arguments)
    console.quiet()
    make = {"single": single, "lifelong": lifelong}[options.what]
    make(options, "python experiments/edits.py " + shlex.join(arguments), plan)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
