"""Measure edits of a language model, one by one and in long sequences, and write the book's records of them.

python experiments/edits.py single --out book/records/smollm2-single-edits.json
python experiments/edits.py lifelong --out book/records/smollm2-lifelong.json

Every life keeps its state in ``--work``; interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from superposition import editing, records
from superposition.data import facts
from superposition.data.facts import Fact
from superposition.editing import evaluation, targets
from superposition.errors import UserError
from superposition.io import console, files
from superposition.linear.memory import LinearMemory
from superposition.linear.metric import Metric
from superposition.lm import keys, models, moments, scoring, tracing
from superposition.stats import intervals

TOKENS = 102_400
LAYER = 6
SETTINGS = editing.TargetSettings()
CHECKPOINTS = [1, 5, 10, 20, 50, 100, 150, 200]
EDITS, UNTOUCHED, SHORT = 200, 80, 60
#: In which dtype the lives led side by side search for their shifts, twice as fast; all else is in the model's.
SEARCH = "bfloat16"
#: Lives that are led side by side: name, method, order, edits.
TOGETHER = (
    ("rome", "rome", 0, EDITS),
    ("memit", "memit", 0, EDITS),
    ("alphaedit", "alphaedit", 0, EDITS),
    ("rls-soft", "rls-soft", 0, EDITS),
    ("rls-hard", "rls-hard", 0, EDITS),
    ("rome order 2", "rome", 1, SHORT),
    ("alphaedit order 2", "alphaedit", 1, SHORT),
)
#: Lives that are led alone: name, method, edits a step, edits, changes of the writing. The short ones of fine-tuning
#: are there to see whether other settings of it do better.
ALONE = (
    ("memit batch 20", "memit", 20, EDITS, {}),
    ("ft", "ft", 1, EDITS, {}),
    ("ft slower", "ft", 1, SHORT, {"ft_lr": 2e-4, "ft_steps": 50}),
    ("ft bounded", "ft", 1, SHORT, {"ft_norm": 2e-3, "ft_steps": 50}),
)


# --- the facts ----------------------------------------------------------------------------------------------


def at_start(model: models.LanguageModel, listed: Sequence[Fact]) -> list[bool]:
    """Whether each fact's key is read at the first position of its prompt, the attention sink."""
    return [found.position == 0 for found in keys.locate_all(model, listed)]


def split(model: models.LanguageModel) -> dict[str, Any]:
    """Known facts to be edited one by one; a life's edits in order; known facts nobody edits. Keys at 0 left out."""
    listed = facts.load("book")
    known = set(scoring.known(model, listed))
    sinks = [fact for fact, sink in zip(listed, at_start(model, listed), strict=True) if sink]
    usable = [fact for fact in listed if fact not in set(sinks)]
    rng = np.random.default_rng(0)
    order = [usable[i] for i in rng.permutation(len(usable))]
    untouched, subjects = [], set()
    for fact in order:
        if fact in known and fact.subject not in subjects and len(untouched) < UNTOUCHED:
            untouched.append(fact)
            subjects.add(fact.subject)
    edits = [fact for fact in order if fact.subject not in subjects][:EDITS]
    return {
        "known": [fact for fact in order if fact in known],
        "sinks": sinks,
        "edits": edits,
        "untouched": untouched,
        "counts": {"facts": len(listed), "known": len(known), "sinks": len(sinks)},
        "known_edits": [fact in known for fact in edits],
    }


def about(
    model: models.LanguageModel, kind: str, command: str, began: float, summed: moments.Moments
) -> dict[str, Any]:
    """What both records say of their making."""
    return {
        "kind": kind,
        "model": {"name": model.name, "sha256": model.sha256, "architecture": type(model.model).__name__},
        "facts": {"source": "book", "sha256": facts.fingerprint("book")},
        "text": {"source": "book", "tokens": summed.tokens},
        "dtype": str(model.dtype).removeprefix("torch."),
        "settings": SETTINGS.as_dict(),
        "write": asdict(editing.EditSettings()),
        "seconds": {"all": round(time.perf_counter() - began, 1)},
        "provenance": records.provenance(command=command, seed=0, device=model.device),
    }


# --- one by one ---------------------------------------------------------------------------------------------


def singles(
    model: models.LanguageModel, layer: int, C: np.ndarray, edits: Sequence[Fact], windows: list, with_text: int
) -> list[dict[str, Any]]:
    """Each edit alone on the unedited model by ROME; what it did, as a row."""
    editor = editing.Editor(model, layer, "rome", C=C, settings=SETTINGS)
    metric = editor.memory.metric
    cpu = time.process_time()
    found = targets.search(model, edits, layer, SETTINGS, batch=8)
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
            if i < with_text:
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


def tell(model: models.LanguageModel, layer: int, C: np.ndarray, edits: Sequence[Fact]) -> list[dict[str, str]]:
    """What the model writes after a prompt, before the edit of it and after, by greedy decoding."""
    rows = []
    for fact in edits:
        row = {"subject": fact.subject, "prompt": fact.text, "true": fact.target_true, "new": fact.target_new}
        row["before"] = scoring.generate(model, fact.text, 14)
        with editing.preserved(model):
            editing.run(model, [fact], "rome", layer=layer, C=C, settings=SETTINGS)
            row["after"] = scoring.generate(model, fact.text, 14)
            row["essence"] = scoring.generate(model, f"{fact.subject} is", 14)
        row["essence_before"] = scoring.generate(model, f"{fact.subject} is", 14)
        rows.append(row)
    return rows


def single(options: argparse.Namespace, command: str) -> None:
    began = time.perf_counter()
    model = models.load(options.model)
    parts = split(model)
    summed = moments.estimate(model, "book", tokens=options.tokens)
    windows = scoring.held_out(model, 500)
    work = options.work / "single.json"
    done: dict[str, Any] = json.loads(work.read_text()) if work.is_file() else {"sweep": {}, "trace": {}}

    def keep() -> None:
        files.write_json(work, done)

    sweep = parts["known"][: options.sweep]
    for layer in options.layers:
        if str(layer) not in done["sweep"]:
            done["sweep"][str(layer)] = singles(model, layer, summed.second_moment(layer), sweep, windows, 0)
            keep()
            print("layer", layer, {k: v["share"] for k, v in summary(done["sweep"][str(layer)]).items()}, flush=True)
    C = summed.second_moment(options.layer)
    chosen = parts["known"][: options.count]
    edits = done.setdefault("edits", [])
    if "perplexity_before" not in done:
        done["perplexity_before"] = scoring.perplexity(model, windows)
    while len(edits) < len(chosen):
        group = chosen[len(edits) : len(edits) + 20]
        edits += singles(model, options.layer, C, group, windows, with_text=4)
        keep()
        print(len(edits), {k: v["share"] for k, v in summary(edits).items()}, flush=True)
    for fact in parts["known"][: options.traced]:
        if fact.text not in done["trace"]:
            one = {
                kind: tracing.trace(
                    model, fact, kind=kind, layers=range(0, len(model.layers), 3), samples=3, window=window
                )
                for kind, window in (("state", 1), ("mlp", 5))
            }
            done["trace"][fact.text] = one
            keep()
    if "told" not in done:
        done["told"] = tell(model, options.layer, C, chosen[:8])
        keep()
    data = about(model, "single edits", command, began, summed) | {
        "layer": options.layer,
        "told": done["told"],
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
            for layer, rows in done["sweep"].items()
        },
        "before": summary(done["edits"], "before"),
        "after": summary(done["edits"]),
        "perplexity_before": done["perplexity_before"],
        "edits": done["edits"],
        "trace": done["trace"],
    }
    records.write(options.out, data)


# --- one after another --------------------------------------------------------------------------------------


class Examiner:
    """What is asked of the model at a checkpoint of a life."""

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
    """The edits of a life in one of the orders; 0 is the first."""
    edits = parts["edits"]
    if order:
        edits = [edits[i] for i in np.random.default_rng(order).permutation(len(edits))]
    return edits[:count]


def lead_together(
    model: models.LanguageModel, parts: dict[str, Any], layer: int, C: np.ndarray, examine: Examiner, work: Path
) -> None:
    """The lives of :data:`TOGETHER`, step by step side by side; the laggards first, if a run was interrupted."""
    searcher = models.load(model.name, dtype=SEARCH)
    lives = {}
    for name, method, order, count in TOGETHER:
        editor = editing.Editor(model, layer, method, C=C, settings=SETTINGS)
        path = work / f"{name.replace(' ', '-')}.json"
        life = {"editor": editor, "edits": order_of(parts, order, count), "path": path, "results": [], "cpu": 0.0}
        if path.is_file():
            stored = json.loads(path.read_text())
            arrays = dict(np.load(path.with_suffix(".npz")))
            with editing.preserved(model):
                editor.resume(arrays, stored["state"])
            life |= {"results": stored["results"], "cpu": stored["cpu"]}
        lives[name] = life
    while going := [one for one in lives.values() if one["editor"].n_edits < len(one["edits"])]:
        n = min(one["editor"].n_edits for one in going)
        now = [one for one in going if one["editor"].n_edits == n]
        cpu = time.process_time()
        try:
            editing.edit_side_by_side([one["editor"] for one in now], [[one["edits"][n]] for one in now], 8, searcher)
        except UserError as error:  # a life that cannot go on ends; the others go on without it
            if len(now) == 1:
                now[0]["edits"] = now[0]["edits"][:n]
                print(now[0]["path"].stem, "ends after", n, error, flush=True)
                continue
            for one in now:
                if one["editor"].n_edits == n:
                    _alone(one, n, searcher)
            now = [one for one in now if one["editor"].n_edits == n + 1]
        cpu = (time.process_time() - cpu) / len(now)
        for one in now:
            one["cpu"] += cpu
            if n + 1 in CHECKPOINTS or n + 1 == len(one["edits"]):
                with editing.preserved(model):
                    one["editor"].apply()
                    one["results"].append({"edits": n + 1} | examine(one["editor"], one["edits"]))
                save(one)
        if n + 1 in CHECKPOINTS or (n + 1) % 10 == 0:
            print(n + 1, round(cpu, 1), [(name, told(one)) for name, one in lives.items()], flush=True)
        if (n + 1) % 10 == 0:
            for one in now:
                save(one)


def _alone(life: dict[str, Any], n: int, searcher: models.LanguageModel) -> None:
    try:
        editing.edit_side_by_side([life["editor"]], [[life["edits"][n]]], 8, searcher)
    except UserError as error:
        life["edits"] = life["edits"][:n]
        print(life["path"].stem, "ends after", n, error, flush=True)


def told(life: dict[str, Any]) -> str:
    last = life["results"][-1] if life["results"] else {}
    return f"{last.get('perplexity', 0):.1f} {last.get('new', {}).get('exact', {}).get('share')}"


def save(life: dict[str, Any]) -> None:
    arrays, state = life["editor"].state()
    content = {"state": state, "results": life["results"], "cpu": life["cpu"]}
    path = life["path"]
    files.write_together(
        {path.with_suffix(".npz"): files.npz_writer(arrays, small=True), path: files.json_writer(content)}
    )


def lead_alone(
    model: models.LanguageModel, parts: dict[str, Any], layer: int, C: np.ndarray, examine: Examiner, work: Path
) -> None:
    for name, method, batch, count, changes in ALONE:
        path = work / f"{name.replace(' ', '-')}.json"
        if path.is_file():
            continue
        edits = order_of(parts, 0, count)
        cpu = time.process_time()
        with editing.preserved(model):
            done = editing.run(
                model,
                edits,
                method,
                layer=layer,
                C=C,
                batch=batch,
                settings=SETTINGS,
                write=replace(editing.EditSettings(), **changes),
                checkpoints=[mark for mark in CHECKPOINTS if mark],
                examine=lambda editor, n, edits=edits: examine(editor, edits),
                state=path.with_suffix(".safetensors"),
            )
            arrays, state = done.editor.state()
            arrays = {} if method == "ft" else arrays
        content = {"state": state, "results": done.results, "cpu": time.process_time() - cpu, "batch": batch}
        files.write_together(
            {path.with_suffix(".npz"): files.npz_writer(arrays, small=True), path: files.json_writer(content)}
        )
        print(name, told({"results": done.results}), flush=True)


def lifelong(options: argparse.Namespace, command: str) -> None:
    began = time.perf_counter()
    model = models.load(options.model)
    parts = split(model)
    summed = moments.estimate(model, "book", tokens=options.tokens)
    C = summed.second_moment(options.layer)
    windows = scoring.held_out(model, 600)
    examine = Examiner(model, parts, options.layer, windows)
    before = model.digest()
    if "together" in options.lives:
        lead_together(model, parts, options.layer, C, examine, options.work)
    if "alone" in options.lives:
        lead_alone(model, parts, options.layer, C, examine, options.work)
    assert model.digest() == before, "the model is not as it was"
    data, arrays = merge(model, parts, options, C, examine)
    records.write(options.out, about(model, "lifelong edits", command, began, summed) | data, arrays)


def merge(
    model: models.LanguageModel, parts: dict[str, Any], options: argparse.Namespace, C: np.ndarray, examine: Examiner
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The lives there are, and the course of interference at the layer from their accounts."""
    start = examine(editing.FineTuner(model, options.layer), [])
    start["old"] = examine.asked_of(parts["edits"][:-20] or parts["edits"])
    lives, arrays = {}, {"untouched_log_true": np.float32(examine.before)}
    metric = Metric(C)
    planned = [(name, method, order, count, 1, {}) for name, method, order, count in TOGETHER]
    planned += [(name, method, 0, count, batch, changes) for name, method, batch, count, changes in ALONE]
    for name, method, order, count, batch, changes in planned:
        path = options.work / f"{name.replace(' ', '-')}.json"
        if not path.is_file():
            continue
        stored = json.loads(path.read_text())
        lives[name] = {
            "method": method,
            "order": order,
            "batch": batch,
            "changes": changes,
            "edits": len(stored["state"]["batches"]),
            "planned": count,
            "seconds_cpu": stored["cpu"],
            "results": stored["results"],
            "log": {key: [brief(row[key]) for row in stored["state"]["log"]] for key in stored["state"]["log"][0]},
        }
        if method != "ft":
            editor = editing.Editor(model, options.layer, method, C=metric)
            with editing.preserved(model):
                editor.resume(dict(np.load(path.with_suffix(".npz"))), stored["state"])
            lives[name]["closed_form_error"] = closed_form_error(editor, C)
            if method == "alphaedit":
                lives[name]["protection"] = protection(editor)
            arrays |= {f"{name}/{key}": one for key, one in course(editor.memory, examine.K).items()}
        print(name, lives[name]["edits"], flush=True)
    data = {
        "layer": options.layer,
        "search_dtype": SEARCH,
        "counts": parts["counts"],
        "subjects": [fact.subject for fact in parts["edits"]],
        "relations": [fact.relation for fact in parts["edits"]],
        "known_edits": parts["known_edits"],
        "untouched": [fact.text for fact in parts["untouched"]],
        "start": start,
        "lives": lives,
        "seconds": {"cpu": round(sum(life["seconds_cpu"] for life in lives.values()))},
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["single", "lifelong"])
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of the text that C comes from")
    parser.add_argument("--layer", type=int, default=LAYER)
    parser.add_argument("--work", type=Path, default=Path("_build/edits"), help="states of unfinished runs")
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 3, 6, 9, 12, 18, 24], help="of the sweep")
    parser.add_argument("--sweep", type=int, default=16, help="facts of the sweep")
    parser.add_argument("--count", type=int, default=100, help="single edits")
    parser.add_argument("--traced", type=int, default=10, help="facts traced")
    parser.add_argument("--lives", nargs="*", default=["together", "alone"], choices=["together", "alone"])
    options = parser.parse_args()
    command = "python experiments/edits.py " + shlex.join(sys.argv[1:])
    console.quiet()
    {"single": single, "lifelong": lifelong}[options.what](options, command)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
