"""A sequence of edits, one step after another: what is examined at its checkpoints, and a state to resume it from.

Chapters ``16-lifelong-failure`` and ``21-cures``.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from superposition.editing.editor import Editor, EditSettings
from superposition.editing.finetune import FineTuner
from superposition.editing.targets import Targets, TargetSettings
from superposition.errors import UserError
from superposition.io import console, files
from superposition.linear.memory import RULES
from superposition.linear.metric import Metric, SecondMoment

if TYPE_CHECKING:
    from superposition.data.facts import Fact
    from superposition.lm.models import LanguageModel

__all__ = ["METHODS", "Run", "run"]

#: Methods by name: the rules of :class:`superposition.editing.editor.Editor`, and fine-tuning.
METHODS = (*RULES, "ft")

#: Where each edit's target is looked for: on the model as edited so far, or on the unedited model.
TARGETS = ("anew", "beforehand")
#: How many targets at least are looked for in shared passes, where they are found beforehand.
TOGETHER = 8

#: After how many edits a state is written, checkpoints apart.
SAVE_EVERY = 20


@dataclass(eq=False)
class Run:
    """What :func:`run` returns: the editor, and what was found at each checkpoint."""

    editor: Editor | FineTuner
    results: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


def run(  # twelve parameters: what is edited, how, what is looked at and kept; each is a caller's own choice
    model: LanguageModel,
    edits: Sequence[Fact],
    method: str = "rome",
    *,
    layer: int,
    C: SecondMoment | None = None,
    batch: int = 1,
    targets: str = "anew",
    settings: TargetSettings | None = None,
    write: EditSettings | None = None,
    checkpoints: Sequence[int] | None = None,
    examine: Callable[[Editor | FineTuner, int], dict[str, Any]] | None = None,
    state: Path | None = None,
) -> Run:
    """Make edits one step after another.

    Parameters
    ----------
    model : LanguageModel
        Is changed; see :func:`superposition.editing.editor.preserved`.
    edits : sequence of Fact
    method : str
        One of :data:`METHODS`.
    layer, C, settings, write
        See :class:`superposition.editing.editor.Editor`; ``"ft"`` needs no C.
    batch : int
        Edits a step.
    targets : {"anew", "beforehand"}
        Look for a step's target values on the model as edited so far, or on the unedited model. What is found
        beforehand does not depend on the edits before it, so a forecast of it, one edit a step, is
        exact (:func:`superposition.editing.forecast.run`). Fine-tuning has no target values.
    checkpoints : sequence of int, optional
        After how many edits ``examine(editor, n)`` is called; at the end by default. One that falls inside a step
        counts after the step.
    examine : callable, optional
        Returns plain content, which is kept with ``"edits": n``.
    state : Path, optional
        A file that is written at every checkpoint, every twentieth edit, and after an interrupt if an edit was made. If
        it is there and of the same run, the run goes on where it stopped, with the same results.

    Raises
    ------
    UserError
        As :class:`superposition.editing.editor.Editor` and its ``edit``; a state file of another run, or damaged.
    """
    if batch < 1:
        raise UserError(f"A batch of {batch} makes no sense: give 1 or more.")
    if not edits:
        raise UserError("There are no edits: give at least one.")
    if method not in METHODS:
        raise UserError(f"There is no method {method!r}: choose from {', '.join(METHODS)}.")
    check_targets(targets, method)
    how = (method, layer, C, batch, targets, settings, write, checkpoints)
    recipe = None if state is None else _recipe(model, edits, *how)
    if method == "ft":
        editor = FineTuner(model, layer, write=write)
    else:
        editor = Editor(model, layer, method, C=C, settings=settings, write=write)
    outcome = Run(editor)
    if state is not None and state.is_file():
        _resume(state, recipe, outcome)
    saved = editor.n_edits
    foreseen = targets == "beforehand" and isinstance(editor, Editor)
    step = _beforehand(editor, edits, batch) if foreseen else editor.edit

    def checkpoint_since(count: int) -> bool:
        return any(count < checkpoint <= editor.n_edits for checkpoint in checkpoints or [len(edits)])

    def examine_if_due() -> None:
        if examine and checkpoint_since(outcome.results[-1]["edits"] if outcome.results else -1):
            outcome.results.append({"edits": editor.n_edits} | examine(editor, editor.n_edits))

    try:
        with console.bar(total=len(edits), what=method, unit="edit") as bar:
            bar.update(editor.n_edits)
            examine_if_due()
            while editor.n_edits < len(edits):
                began, before = time.perf_counter(), editor.n_edits
                step(edits[before : before + batch])
                outcome.seconds += time.perf_counter() - began
                examine_if_due()
                if state is not None and (checkpoint_since(before) or editor.n_edits - saved >= SAVE_EVERY):
                    _save(state, recipe, outcome)
                    saved = editor.n_edits
                bar.update(editor.n_edits - before)
    except KeyboardInterrupt:
        if state is not None and editor.n_edits > saved:
            try:
                _save(state, recipe, outcome)
            except UserError as error:
                console.warn(f"The edits made so far were not kept. {error}")
        raise
    return outcome


def check_targets(targets: str, method: str) -> None:
    """Raise a :class:`UserError` for targets that are not of :data:`TARGETS`, or that fine-tuning does not have."""
    if targets not in TARGETS:
        raise UserError(f"Targets {targets!r} make no sense: choose {' or '.join(TARGETS)}.")
    if targets == "beforehand" and method == "ft":
        raise UserError("Fine-tuning has no target values to find beforehand: choose another method, or targets anew.")


def _beforehand(editor: Editor, edits: Sequence[Fact], batch: int) -> Callable[[Sequence[Fact]], None]:
    """A step of edits whose targets are found on the unedited model, those of several steps at a time.

    Which ones are found together does not depend on where a run was interrupted.
    """
    together = batch * -(-TOGETHER // batch)
    found: dict[int, Targets] = {}

    def step(facts: Sequence[Fact]) -> None:
        start, at = divmod(editor.n_edits, together)
        if start not in found:
            found.clear()
            found[start] = editor.find(edits[start * together : (start + 1) * together], beforehand=True)
        editor.store(found[start][at : at + len(facts)])

    return step


def _recipe(model, edits, method, layer, C, batch, targets, settings, write, checkpoints) -> str:
    """Digest of all that determines a run."""
    digest = hashlib.sha256(model.digest().encode())
    if C is not None:
        digest.update(np.ascontiguousarray(C.moment if isinstance(C, Metric) else C).tobytes())
    content = [
        [asdict(fact) for fact in edits],
        [method, layer, batch, targets, list(checkpoints or [])],
        (settings or TargetSettings()).as_dict(),
        asdict(write or EditSettings()),
    ]
    digest.update(json.dumps(content, sort_keys=True).encode())
    return digest.hexdigest()


def _save(path: Path, recipe: str | None, outcome: Run) -> None:
    arrays, content = outcome.editor.state()
    content |= {"recipe": recipe, "results": outcome.results, "seconds": outcome.seconds}
    metadata = {"state": json.dumps(content, allow_nan=False)}
    files.write_whole(path, lambda temporary: save_file(arrays, temporary, metadata=metadata))


def _resume(path: Path, recipe: str | None, outcome: Run) -> None:
    try:
        with safe_open(path, framework="numpy") as stored:
            content = json.loads(stored.metadata()["state"])
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}
        made_by, results, seconds = content["recipe"], list(content["results"]), float(content["seconds"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"The state {path.name} is damaged: remove it and run again.") from error
    if made_by != recipe:
        raise UserError(
            f"The state {path.name} is of another run (model, edits or settings): remove it or name another."
        )
    outcome.editor.resume(arrays, content)
    outcome.results, outcome.seconds = results, seconds
