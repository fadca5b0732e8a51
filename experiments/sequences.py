"""Sequences of sixty edits: where the target values come from, what bounds them, how they are written.

python experiments/sequences.py runaway --runs gemma3:5 gemma3:9 --out book/records/runaway.json
python experiments/sequences.py ways --runs smollm2:6 smollm2:12 gemma3:5 gemma3:9 --out book/records/sequences.json
python experiments/sequences.py lists --runs smollm2:6 --out book/records/lists.json

``runaway`` makes one list of edits by ROME with each of three causes of growing residuals taken away (:data:`LOOP`);
``ways`` makes it in every way of :data:`ARMS`; ``lists`` makes three lists in four orders each, with
targets found beforehand. The record is written after every layer; run again, the layers that it holds are kept, and
within a layer targets and arms are in the user's cache as they are found.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from forecasts import choose, described, found_alone, say
from growing import held
from law import POINTS, Case, alone, before_any_edit, in_short, point
from superposition import editing, records
from superposition.data import facts
from superposition.editing import evaluation, forecast, lifetime
from superposition.io import cache
from superposition.linear import overlap, rules
from superposition.linear.edit import Edit
from superposition.linear.memory import LinearMemory
from superposition.linear.metric import Metric
from superposition.lm import models, moments, scoring

#: Raise it when what an arm's name stands for changes: what is found is kept in the cache under it.
ARMS_VERSION = 1
#: Where targets are found anew.
ANEW = ("moving", "anchored", "norm anchors", "ROME's units", "ROME's units anchored")
#: The rule by which no edit moves the answer at any other edit's key.
APART = "no overlap"


@dataclass(frozen=True)
class Arm:
    """One way to make a sequence.

    Parameters
    ----------
    targets : str
        ``moving`` or ``anchored``: found anew, within that ball; ``norm anchors``: found anew within the moving ball
        and then scaled to the unedited length; ``beforehand``: found on the unedited model; ``none``: fine-tuning.
        ``ROME's units``: anew, with the absolute steps and the moving ball of ROME's code; the same ``anchored``, or
        ``beforehand``.
    rule : str
        One of :data:`superposition.linear.memory.RULES`, :data:`APART`, or ``ft``.
    batch : int
        Edits a step.
    """

    targets: str
    rule: str
    batch: int = 1

    @property
    def name(self) -> str:
        return f"{self.targets}, {self.rule}"

    def settings(self, of: editing.TargetSettings) -> editing.TargetSettings:
        """The settings of its search."""
        changes = {"moving": {"bound": "moving"}, "norm anchors": {"bound": "moving", "values": "anchored"}}
        own = {"step": "absolute"} if self.targets.startswith("ROME's units") else {}
        changes["ROME's units"] = {"bound": "moving"}
        return replace(of, **changes.get(self.targets, {}), **own)


_RULES = (("rome", 1), ("memit", 1), ("rls-soft", 1), ("rls-hard", 1), ("alphaedit", 1), (APART, 1), ("emmet", 10))
ARMS = (
    *(Arm(targets, rule, batch) for targets in ("moving", "anchored", "beforehand") for rule, batch in _RULES),
    Arm("norm anchors", "rome"),
    Arm("none", "ft"),
)
#: As edited; without overlap among the edits; with the ball anchored; with targets beforehand. In both units.
LOOP = (
    Arm("moving", "rome"),
    Arm("moving", APART),
    Arm("anchored", "rome"),
    Arm("beforehand", "rome"),
    Arm("ROME's units", "rome"),
    Arm("ROME's units", APART),
    Arm("ROME's units anchored", "rome"),
    Arm("ROME's units beforehand", "rome"),
)


@dataclass(frozen=True)
class Sizes:
    """How much is done, as in :class:`law.Sizes`; the lists, the orders of each, the rules they are written by."""

    edits: int = 60
    looks: tuple[int, ...] = (5, 15, 30, 60)
    tokens: int = 102_400
    held_out: int = 1_000
    arms: tuple[Arm, ...] = ARMS
    lists: int = 3
    orders: int = 4
    rules: tuple[str, ...] = ("rome", "memit", "rls-soft", "rls-hard", "alphaedit")
    settings: editing.TargetSettings = field(default_factory=editing.TargetSettings)


def apart(K: Float[np.ndarray, "d_m n"], C: Metric) -> Callable[..., Float[np.ndarray, "d_m b"]]:
    """The rule :data:`APART` for edits at the keys K, in their order: ``M_iᵀk_j = 0`` for all other j.

    Hard recursive least squares keeps only earlier keys; here it is those to come, too.
    """
    M = rules.emmet_directions(K, C)
    return lambda keys, _C, previous, **_: M[:, previous.shape[1] : previous.shape[1] + keys.shape[1]]


def arms_of(case: Case) -> list[Arm]:
    """The arms of a layer: with a moving bound ROME alone, where no output norm drives residuals to the bound."""
    norm, settings = case.lm.output_norms[case.layer], case.sizes.settings
    every = case.sizes.arms
    return [arm for arm in every if norm is not None or arm.rule == "rome" or arm.settings(settings).bound != "moving"]


# --- making a sequence --------------------------------------------------------------------------------------


def editor_of(case: Case, arm: Arm) -> editing.Editor:
    """An account for an arm."""
    named = "rome" if arm.rule == APART else arm.rule
    editor = editing.Editor(case.lm, case.layer, named, C=case.C, settings=arm.settings(case.sizes.settings))
    if arm.rule == APART:
        editor.method = apart(alone(case).keys, case.C)
    return editor


def walk(case: Case, arms: Sequence[Arm], every: int = 10) -> dict[str, editing.Editor]:
    """Sequences of arms that search alike, made side by side with their targets found anew; their accounts by name.

    A state is kept at every so manyth edit.
    """
    editors = {arm.name: editor_of(case, arm) for arm in arms}
    keys = {name: case.key("walk", arm=name, arms=ARMS_VERSION) for name in editors}
    for name, editor in editors.items():
        kept = cache.load(keys[name])
        if kept is not None:
            with editing.preserved(case.lm):
                editor.resume({name: kept[name] for name in ("keys", "values")}, kept["content"])
    going, batch = list(editors.values()), arms[0].batch
    while going:
        n = min(editor.n_edits for editor in going)
        if n == len(case.edits):
            break
        now = [editor for editor in going if editor.n_edits == n]
        step = case.edits[n : n + batch]
        editing.edit_side_by_side(now, [step] * len(now), len(now) * batch)
        if (n + batch) % every == 0 or n + batch >= len(case.edits):
            for name, editor in editors.items():
                if editor in now:
                    arrays, content = editor.state()
                    cache.save(keys[name], arrays | {"content": content})
            say(f"layer {case.layer}: {now[0].n_edits} edits of {len(now)} sequences")
    return editors


def replayed(case: Case, arm: Arm) -> editing.Editor:
    """The sequence of an arm with targets found beforehand: nothing is searched for but what each edit has alone."""
    editor = editor_of(case, arm)
    found = found_alone(case.lm, case.layer, arm.settings(case.sizes.settings), case.edits)
    for start in range(0, len(found), arm.batch):
        editor.store(found[start : start + arm.batch], apply=False)
    return editor


def fine_tuned(case: Case) -> dict[int, Edit]:
    """What fine-tuning has changed at each look, by number of edits."""
    with editing.preserved(case.lm):
        tuner, changes = editing.FineTuner(case.lm, case.layer), {}
        for n, fact in enumerate(case.edits, 1):
            tuner.edit([fact])
            if n in case.sizes.looks:
                change = case.lm.layers[case.layer].weight.detach().double().cpu().numpy() - tuner.W_0
                changes[n] = Edit(change, np.eye(change.shape[1]))
    return changes


# --- examining it -------------------------------------------------------------------------------------------


def examined(case: Case, edit: Edit, n: int) -> dict[str, Any]:
    """A point of the law, and what became of the n edits made: hits of the prompts, shares of their paraphrases."""
    found = point(case, edit)
    parameter = case.lm.layers[case.layer].parameter
    with editing.preserved(case.lm):
        W = case.W_0 + edit.matrix()
        parameter.data.copy_(torch.from_numpy(W.T if case.lm.layers[case.layer].transposed else W))
        made = evaluation.evaluate(case.lm, case.edits[:n], neighbours=0)
    found["held"] = np.array(made["hit"])
    return found | {name: made[name]["share"] for name in ("success", "paraphrase_success", "paraphrase_exact")}


def arm_of(case: Case, arm: Arm, editor: editing.Editor | None) -> dict[str, Any]:
    """All that is kept of an arm, its points by number of edits."""
    result: dict[str, Any] = {}
    if editor is None:
        edits = fine_tuned(case)
    else:
        edits = {n: editor.memory.edits[:n] for n in case.sizes.looks}
        result |= {"delta": np.linalg.norm(editor.memory.residuals, axis=0)}
        names = ("recalled_norm", "shift_norm", "probability")
        result |= {name: np.array([row[name] for row in editor.log]) for name in names}
        result["among"] = editor.memory.directions.T @ editor.memory.keys  # (60, 60)
    for n, edit in edits.items():
        for name, value in examined(case, edit, n).items():
            result[f"{n}/{name}"] = value
        drift = lifetime.root_mean_square(result[f"{n}/stream, all"])
        say(f"layer {case.layer}, {arm.name}, {n} edits: R {drift:.3f}, lost {1 - result[f'{n}/kept'].mean():.3f}")
    return result


def every_arm(case: Case) -> dict[str, Any]:
    """Every arm of one layer; arms that search alike share their passes."""
    found = alone(case)
    before = before_any_edit(case, found) | {"P": overlap.superposition_matrix(found.keys, case.C)}
    result: dict[str, Any] = {"before": before}
    groups: dict[tuple[str, int], list[Arm]] = {}
    for arm in arms_of(case):
        groups.setdefault((arm.targets, arm.batch), []).append(arm)
    for (how, _), arms in groups.items():
        missing = [
            arm
            for arm in arms
            if cache.load(case.key("arm", arm=arm.name, arms=ARMS_VERSION, looks=case.sizes.looks)) is None
        ]
        searched = walk(case, missing) if missing and how in ANEW else {}
        for arm in arms:

            def make(arm: Arm = arm, searched: dict = searched) -> dict[str, Any]:
                editor = searched.get(arm.name) or (None if arm.rule == "ft" else replayed(case, arm))
                return arm_of(case, arm, editor)

            result[arm.name] = cache.made(
                case.key("arm", arm=arm.name, arms=ARMS_VERSION, looks=case.sizes.looks), make
            )
    return result


def every_list(case: Case) -> dict[str, Any]:
    """Lists in orders, written by several rules with targets found beforehand: points by list, order, rule and look."""
    sizes, found, result = case.sizes, alone(case), {}
    for number in range(sizes.lists):
        for order in range(sizes.orders):
            mine = np.arange(number * sizes.edits, (number + 1) * sizes.edits)
            turned = np.random.default_rng([number, order]).permutation(mine) if order else mine
            for rule in sizes.rules:
                name = f"list {number}, order {order}, {rule}"

                def make(turned: np.ndarray = turned, rule: str = rule) -> dict[str, Any]:
                    options = editing.Editor(case.lm, case.layer, rule, C=case.C).options
                    memory = LinearMemory(case.W_0, case.C)
                    for one in turned:  # a rule for batches would write all in one step
                        memory.edit_batch(found.keys[:, [one]], found.values[:, [one]], rule, **options)
                    points = {f"{n}/{k}": v for n in sizes.looks for k, v in point(case, memory.edits[:n]).items()}
                    return points | {"delta": np.linalg.norm(memory.residuals, axis=0)}

                result[name] = cache.made(
                    case.key("list", of=name, arms=ARMS_VERSION, looks=case.sizes.looks, step=1), make
                )
                say(f"layer {case.layer}, {name}: lost {1 - result[name][f'{sizes.edits}/kept'].mean():.3f}")
    return result


# --- the records --------------------------------------------------------------------------------------------


def case_of(lm: models.LanguageModel, layer: int, sizes: Sizes, count: int) -> Case:
    """A layer of a model with the first edits of the book's, and all facts that it knows to watch."""
    edits, known = choose(lm, count)
    summed = moments.estimate(lm, "book", tokens=sizes.tokens, layers=[layer])
    untouched = lifetime.Untouched(lm, forecast.read(lm, known, layer, passes=False))
    C = Metric(summed.second_moment(layer))
    return Case(lm, layer, edits, untouched, C, scoring.held_out(lm, sizes.held_out), sizes)


def told_in_short(arm: dict[str, Any], positions: np.ndarray) -> dict[str, Any]:
    """What the record keeps of an arm: points :func:`law.in_short`, what is still said at all looks in one array."""
    looks = sorted({int(name.split("/")[0]) for name in arm if "/" in name})
    short = in_short({name: value for name, value in arm.items() if name != "among"}, positions)
    return short | {"kept": np.stack([short.pop(f"{n}/kept") for n in looks])}


def flattened(content: dict[str, Any], stem: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Plain numbers and arrays of nested content, the arrays under their paths and no wider than they need be."""
    plain: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            plain[name], inner = flattened(value, f"{stem}/{name}")
            arrays |= inner
        elif isinstance(value, np.ndarray):
            arrays[f"{stem}/{name}"] = value if value.dtype == bool else value.astype(np.float32)
        else:
            plain[name] = value
    return plain, arrays


def measure(what: str, runs: Sequence[str], sizes: Sizes, out: Path, command: str) -> None:
    """Make the sequences of the layers that the record does not hold yet, and write it after each."""
    head = {
        "kind": what,
        "arms": ARMS_VERSION,
        "points": POINTS,
        "facts": {"source": "book", "sha256": facts.fingerprint("book")},
        "text": {"source": "book", "tokens": sizes.tokens},
        "settings": sizes.settings.as_dict(),
        "looks": list(sizes.looks),
    }
    rows, arrays = held(out, head, "runs")
    lm: models.LanguageModel | None = None
    for run in runs:
        name, layer = run.rsplit(":", 1)
        if (name, int(layer)) in [(row["model"], row["layer"]) for row in rows]:
            continue
        lm = lm if lm is not None and lm.name == name else models.load(name)
        bits = lm.digest()
        case = case_of(lm, int(layer), sizes, sizes.edits * (sizes.lists if what == "lists" else 1))
        positions = case.untouched.reading.lengths.astype(np.int32)
        made = every_list(case) if what == "lists" else every_arm(case)
        made = {arm: of if arm == "before" else told_in_short(of, positions) for arm, of in made.items()}
        plain, found = flattened(made, f"{name} {layer}")
        if lm.digest() != bits:
            raise RuntimeError("The weights are not what they were before.")
        arrays |= found
        told = records.provenance(command=command, seed=0)
        rows.append(
            {
                "model": name,
                "layer": int(layer),
                "sha256": lm.sha256,
                "commit": told["commit"],
                "watched": len(case.untouched.reading),
                "edits": described(case.edits),
                "perplexity": scoring.perplexity(lm, case.windows),
                "points": plain,
            }
        )
        records.write(out, head | {"runs": rows, "provenance": told}, arrays)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(prog="python experiments/sequences.py", description=__doc__)
    parser.add_argument("what", choices=("runaway", "ways", "lists"))
    parser.add_argument("--runs", nargs="+", required=True, metavar="MODEL:LAYER")
    parser.add_argument("--out", type=Path, required=True)
    words = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(words)
    command = shlex.join(["python", "experiments/sequences.py", *map(str, words)])
    sizes = Sizes(arms=LOOP) if options.what == "runaway" else Sizes()
    measure(options.what, options.runs, sizes, options.out, command)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
