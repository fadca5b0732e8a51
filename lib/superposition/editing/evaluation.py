"""What a model says of edits and of facts that nobody edited: efficacy, generalisation, specificity.

The field asks three things of an edit: the edited prompt (*efficacy*), its paraphrases (*generalisation*), and prompts
of other subjects that share the true object (*specificity*, by ``neighbourhood`` prompts). Each is judged in two ways.
Success *by comparison* asks whether the new object has become more probable than the true one, which flatters: both may
be improbable. *Exact match* asks whether greedy decoding gives the object, token by token. Reported beside each other.

Chapters ``15-editing-a-model`` and ``16-lifelong-failure``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from superposition.errors import UserError
from superposition.lm.scoring import score
from superposition.stats.intervals import mean_interval, share

if TYPE_CHECKING:
    from superposition.data.facts import Fact
    from superposition.lm.model import LanguageModel


def evaluate(
    model: LanguageModel,
    edits: Sequence[Fact],
    *,
    paraphrases: int | None = None,
    neighbours: int | None = None,
    batch: int = 32,
) -> dict[str, Any]:
    """How edited facts fare in the model as it is now, in one run of all their prompts.

    Parameters
    ----------
    edits : sequence of Fact
        With ``target_new``. Those without ``target_true`` are left out where the two are compared.
    paraphrases, neighbours : int, optional
        How many prompts of each kind to ask for an edit; all by default.

    Returns
    -------
    dict
        Efficacy: ``success`` (new above true), ``exact`` (greedy decoding gives the new object). Generalisation: the
        same two as ``paraphrase_…``. Specificity: ``neighbourhood_success`` (true above new), ``neighbourhood_exact``
        (greedy decoding gives the true object). Each is a :func:`superposition.stats.intervals.share`. And lists by
        edit: ``log_new``, ``log_true`` (None without a true object), ``hit`` (exact).

    Raises
    ------
    UserError
        An edit lacks an object; and as :func:`superposition.lm.scoring.score`.
    """
    for fact in edits:
        if fact.target_new is None:
            raise UserError(f"The edit {fact.text!r} has no target_new: say what the model shall answer.")
    prompts = [
        (kind, i, prompt)
        for i, fact in enumerate(edits)
        for kind, prompt in chain(
            [("", fact.text)],
            (("paraphrase_", prompt) for prompt in fact.paraphrases[:paraphrases]),
            (("neighbourhood_", prompt) for prompt in fact.neighbourhood[:neighbours]),
        )
    ]
    texts = [prompt for _, _, prompt in prompts]
    of = np.array([i for _, i, _ in prompts])
    compared = np.array([fact.target_true is not None for fact in edits])[of]
    new = [str(edits[i].target_new) for i in of]
    true = [edits[i].target_true or edits[i].target_new for i in of]
    joints = [edits[i].joint for i in of] * 2
    scores = score(model, texts * 2, [*new, *map(str, true)], joints=joints, batch=batch)
    log_new, log_true = np.split(scores.log_probability, 2)
    exact_new, exact_true = np.split(scores.exact, 2)
    result: dict[str, Any] = {}
    for kind in ("", "paraphrase_", "neighbourhood_"):
        rows = np.array([of_kind == kind for of_kind, _, _ in prompts])
        beyond, exact = log_new > log_true, exact_new
        if kind == "neighbourhood_":
            rows, beyond, exact = rows & compared, log_true > log_new, exact_true
        result[f"{kind}success"] = share(beyond[rows & compared])
        result[f"{kind}exact"] = share(exact[rows])
    own = [row for row, (kind, _, _) in enumerate(prompts) if kind == ""]
    return result | {
        "log_new": log_new[own].tolist(),
        "log_true": [float(log_true[row]) if compared[row] else None for row in own],
        "hit": exact_new[own].tolist(),
    }


def untouched(
    model: LanguageModel, facts: Sequence[Fact], before: ArrayLike | None = None, *, batch: int = 32
) -> dict[str, Any]:
    """How facts that nobody edited fare: ``exact`` (a share), ``log_true`` by fact, and ``change`` from before.

    Raises
    ------
    UserError
        A fact without a true object; and as :func:`superposition.lm.scoring.score`.
    """
    if any(fact.target_true is None for fact in facts):
        raise UserError("A fact has no target_true: give the true object of every fact that is to be watched.")
    true = [str(fact.target_true) for fact in facts]
    scores = score(model, [fact.text for fact in facts], true, joints=[fact.joint for fact in facts], batch=batch)
    result = {"exact": share(scores.exact), "log_true": scores.log_probability.tolist(), "hit": scores.exact.tolist()}
    if before is not None:
        result["change"] = mean_interval(scores.log_probability - np.asarray(before))
    return result
