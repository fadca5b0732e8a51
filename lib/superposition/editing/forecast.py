"""What a list of edits will damage, told before anything is edited.

An edit of a layer's memory moves its answer to every key ``k`` of every prompt by ``Σ_i (M_iᵀk) δ(v_i)``, at every
position, not only at the subject. Nothing before the layer changes, so the keys of a protected prompt can be read from
the unedited model, and the whole drift is known as soon as the edits' keys and target values are. How much a forecast
may know, and what it costs:

* ``"keys"``: the edits' keys and those of the protected prompts, and one pass for the margins of the protected facts.
  Gives the shares ``M_iᵀk`` (for ROME the degree of superposition p), and how much of them comes on a nat of margin.
* ``"values"``: also target values, found for each edit on the unedited model. Gives the drift itself and its size.
* ``"passes"``: also passes of the unedited model above the layer. Gives the fall of log-probability, in nats: by its
  gradient (first order, and the share of each edit in it), and with the drift put in as the prompt runs.

The shares are those of :meth:`superposition.linear.memory.LinearMemory.transfer`.
Chapter: ``book/20-forecasting-damage.ipynb``.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from superposition.editing.editor import Editor, EditSettings
from superposition.editing.targets import Targets, TargetSettings, search
from superposition.errors import UserError
from superposition.io import console, files
from superposition.linear.edit import Edit
from superposition.linear.memory import RULES, LinearMemory
from superposition.linear.metric import SecondMoment
from superposition.lm import keys as key_reader
from superposition.lm.passes import Below, hooked, logits_of, padded, run_body, shifted
from superposition.lm.scoring import join, subject_of

if TYPE_CHECKING:
    from superposition.data.facts import Fact
    from superposition.lm.models import LanguageModel

#: What a forecast may know, from little to much.
LEVELS = ("keys", "values", "passes")
#: The unit of a forecast's numbers, by level.
UNITS = {"keys": "overlap by nat of margin", "values": "length of the drift", "passes": "nats of log-probability"}
#: The positions that the level ``"keys"`` looks at, and the least margin that it divides by, in nats.
RISKY, LEAST_MARGIN = "from the subject on", 1e-3
#: Where a drift can be put in (:meth:`Reading.mask`).
PLACES = ("subject", "last", "subject and last", "not the subject", "after the subject", "from the subject on", "all")


# --- reading the unedited model -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Texts:
    """Prompts of m protected facts with their true objects, as tokens.

    Attributes
    ----------
    facts : tuple of Fact
    layer : int
    token_ids : (m, T + 1)
        The prompt and its true object, padded with zeros on the right.
    lengths : (m,)
        How many positions the model reads, T at most: all tokens but the object's last.
    prompts : (m,)
        How many of them are the prompt's; its last token is at ``prompts - 1``.
    subjects : (m,)
        Where the subject's last token is.
    """

    facts: tuple[Fact, ...]
    layer: int
    token_ids: Int[np.ndarray, "m tokens"]
    lengths: Int[np.ndarray, " m"]
    prompts: Int[np.ndarray, " m"]
    subjects: Int[np.ndarray, " m"]

    def __len__(self) -> int:
        return len(self.facts)


@dataclass(frozen=True, eq=False)
class Reading(Texts):
    """What the unedited model shows of m protected facts at one layer, at every position of prompt and object.

    Attributes
    ----------
    keys : (m, T, d_m), the model's dtype as float32 or float64
        What enters the memory; zero beyond the length.
    gradient : (m, T, d) or None
        Of ``log p`` of the true object by the memory's answer at each position; zero beyond the length.
    log_probability : (m,) or None
        Of the true object, the sum over its tokens, in nats.
    exact : (m,) bool or None
        Whether each token of the true object is the likeliest, given those before it: the model would say it.
    margin : (m,) or None
        By how many nats each token of the true object is ahead of its likeliest rival; the least over tokens. It is
        above 0 where ``exact``, but for ties.
    """

    keys: Float[np.ndarray, "m T d_m"]
    gradient: Float[np.ndarray, "m T d"] | None = None
    log_probability: Float[np.ndarray, " m"] | None = None
    exact: Bool[np.ndarray, " m"] | None = None
    margin: Float[np.ndarray, " m"] | None = None

    def mask(self, where: str = "all") -> Bool[np.ndarray, "m T"]:
        """The positions of a place of :data:`PLACES`; ``"last"`` is the prompt's last token.

        Raises
        ------
        UserError
            There is no such place.
        """
        position = np.arange(self.keys.shape[1])[None, :]
        inside, subject = position < self.lengths[:, None], position == self.subjects[:, None]
        last = position == self.prompts[:, None] - 1
        masks = {
            "subject": subject,
            "last": last,
            "subject and last": subject | last,
            "not the subject": inside & ~subject,
            "after the subject": inside & (position > self.subjects[:, None]),
            "from the subject on": inside & (position >= self.subjects[:, None]),
            "all": inside,
        }
        if where not in masks:
            raise UserError(f"There is no place {where!r}: choose from {', '.join(PLACES)}.")
        return masks[where]

    def at_subject(self) -> Float[np.ndarray, "d_m m"]:
        """The keys at the subjects, as columns."""
        return self.keys[np.arange(len(self)), self.subjects].T.astype(np.float64)

    def everywhere(self) -> Float[np.ndarray, "d_m N"]:
        """The keys at every position of every prompt and object, as columns."""
        return self.keys[self.mask()].T.astype(np.float64)

    def subset(self, chosen: Sequence[int] | np.ndarray) -> Reading:
        """The reading of some of the facts, by index or by a boolean mask."""
        rows = np.arange(len(self))[np.asarray(chosen)]
        arrays = {name: value[rows] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return replace(self, facts=tuple(self.facts[i] for i in rows), **arrays)


def read(
    model: LanguageModel,
    facts: Sequence[Fact],
    layer: int,
    *,
    passes: bool = True,
    gradient: bool = True,
    batch: int = 32,
) -> Reading:
    """Read keys at every position; with ``passes`` also the log-probability of the true object, and its gradient.

    Without ``passes`` the forward pass stops at the layer; with it, each prompt takes one pass forward and, for the
    ``gradient``, one back to the layer.

    Raises
    ------
    UserError
        No facts; a fact without a true object; a prompt longer than the model's context; a layer out of range.
    """
    (memory,) = model.select([layer])
    texts = _texts(model, facts, memory.index)
    wide = np.float64 if model.dtype == torch.float64 else np.float32
    K = np.zeros((len(facts), texts.lengths.max(), memory.d_m), dtype=wide)

    def keep(rows: np.ndarray, keys: torch.Tensor) -> None:
        if not torch.isfinite(keys).all():
            raise UserError(f"Layer {memory.index} gives NaN or infinity: damaged weights, or too narrow a dtype.")
        keys = keys.reshape(len(rows), -1, memory.d_m)
        inside = np.arange(keys.shape[1]) < texts.lengths[rows][:, None]
        K[rows, : keys.shape[1]] = keys.cpu().to(torch.float64).numpy() * inside[..., None]

    if passes:
        seen = _run(model, texts, None, batch=batch, gradient=gradient, keep=keep)
        return Reading(**vars(texts), keys=K, **vars(seen))
    for rows in groups(texts, batch):
        ids, mask = padded([texts.token_ids[row, : texts.lengths[row]].tolist() for row in rows])
        model.read_keys(ids, mask, [memory], lambda _, keys, rows=rows: keep(rows, keys))
    return Reading(**vars(texts), keys=K)


def _texts(model: LanguageModel, facts: Sequence[Fact], layer: int) -> Texts:
    if not facts:
        raise UserError("There are no facts to protect: give at least one.")
    joined, subjects = [], []
    for fact in facts:
        if not fact.target_true:
            raise UserError(f"The fact about {fact.subject!r} has no true object: give it a target_true to protect.")
        joined.append(join(model.tokenizer, fact.text, fact.target_true, fact.joint))
        subjects.append(subject_of(fact, joined[-1]))
    token_ids = padded([text.token_ids for text in joined])[0].numpy()
    prompts = np.array([text.first for text in joined])
    lengths = np.array([len(text.token_ids) for text in joined]) - 1
    if model.context_length and lengths.max() > model.context_length:
        raise UserError(f"A prompt with its object has {lengths.max() + 1} tokens: shorten it.")
    return Texts(tuple(facts), layer, token_ids, lengths, prompts, np.array(subjects))


def groups(texts: Texts, batch: int = 32) -> list[np.ndarray]:
    """Rows of facts, the longest first, ``batch`` at once."""
    return np.split(np.argsort(-texts.lengths, kind="stable"), range(batch, len(texts), batch))


@dataclass(frozen=True, eq=False)
class Said:
    """What a model says of the protected facts' true objects: as in :class:`Reading`."""

    log_probability: Float[np.ndarray, " m"]
    exact: Bool[np.ndarray, " m"]
    margin: Float[np.ndarray, " m"]
    gradient: Float[np.ndarray, "m T d"] | None = None


def _run(
    model: LanguageModel,
    texts: Texts,
    shift: Float[np.ndarray, "m T d"] | None,
    *,
    batch: int = 32,
    gradient: bool = False,
    keep: Callable[[np.ndarray, torch.Tensor], None] | None = None,
    below: Sequence[Below] | None = None,
) -> Said:
    """What the model says of the true objects with ``shift`` added to the memory's answers; ``keep`` gets its keys."""
    (memory,) = model.select([texts.layer])
    total, exact, margin = np.zeros(len(texts)), np.zeros(len(texts), dtype=bool), np.zeros(len(texts))
    slopes = np.zeros((len(texts), texts.lengths.max(), memory.d)) if gradient else None
    for number, rows in enumerate(console.bar(groups(texts, batch), what="passes", unit="batch")):
        lengths, prompts = texts.lengths[rows], texts.prompts[rows]
        ids, mask = padded([texts.token_ids[row, :length].tolist() for row, length in zip(rows, lengths, strict=True)])
        # a line for each token of each object: its row, and where it is told
        line = np.repeat(np.arange(len(rows)), lengths - prompts + 1)
        at = np.concatenate([np.arange(a - 1, b) for a, b in zip(prompts, lengths, strict=True)])
        token = torch.from_numpy(texts.token_ids[rows[line], at + 1]).to(model.device)[:, None]  # (lines, 1)
        added = memory.weight.new_zeros(*ids.shape, memory.d)
        if shift is not None:
            added = torch.from_numpy(np.ascontiguousarray(shift[rows, : ids.shape[1]])).to(added)
        added.requires_grad_(gradient)
        watch = () if keep is None else ((memory.module, lambda _, inputs, rows=rows: keep(rows, inputs[0].detach())),)
        spared = nullcontext() if below is None else below[number].spared()
        with torch.set_grad_enabled(gradient), spared, hooked(*watch, before=True), shifted(memory, added):
            hidden = run_body(model, ids, mask, use_cache=False).last_hidden_state
            logs = logits_of(model, hidden[line.tolist(), at.tolist()]).log_softmax(-1)  # (lines, vocabulary)
            true = logs.gather(1, token.to(logs.device))  # (lines, 1)
            if slopes is not None:
                (slope,) = torch.autograd.grad(true.sum(), added)  # (rows, T, d)
                slopes[rows, : ids.shape[1]] = slope.cpu().double().numpy()
        two = logs.detach().topk(2).values  # (lines, 2): the rival is the second where the first is the true one
        ahead = true.detach() - torch.where(true.detach() < two[:, :1], two[:, :1], two[:, 1:])
        starts = np.flatnonzero(np.diff(line, prepend=-1))
        total[rows] = np.add.reduceat(true.detach().cpu().double().numpy()[:, 0], starts)
        hits = (logs.argmax(1, keepdim=True) == token.to(logs.device)).cpu().numpy()[:, 0]
        exact[rows] = np.logical_and.reduceat(hits, starts)
        margin[rows] = np.minimum.reduceat(ahead.cpu().double().numpy()[:, 0], starts)
    return Said(total, exact, margin, slopes)


# --- the algebra --------------------------------------------------------------------------------------------


def directions(
    K: Float[np.ndarray, "d_m n"], C: SecondMoment, rule: str | Callable[..., Any] = "rome", **options: Any
) -> Float[np.ndarray, "d_m n"]:
    """``M`` of a rule for edits made in this order: it depends on the keys and on C, not on the values.

    Arguments and errors as :meth:`superposition.linear.memory.LinearMemory.edit_batch`.
    """
    memory = LinearMemory(np.zeros((1, len(K))), C)
    memory.edit_batch(K, np.zeros((1, K.shape[1])), rule, **options)
    return memory.directions


def _columns(positions: Float[np.ndarray, "m T c"]) -> Float[np.ndarray, "c N"]:
    """All positions of all prompts as columns, in float64."""
    return positions.reshape(-1, positions.shape[2]).T.astype(np.float64)


def shares(M: Float[np.ndarray, "d_m n"], keys: Float[np.ndarray, "m T d_m"]) -> Float[np.ndarray, "n m T"]:
    """``M_iᵀk`` at every position of every protected prompt: what part of ``δ(v_i)`` arrives there.

    At the subject and for ROME it is ``p(k_i, k_j)``.
    """
    return (M.T @ _columns(keys)).reshape(-1, *keys.shape[:2])


def drift(edit: Edit, keys: Float[np.ndarray, "m T d_m"]) -> Float[np.ndarray, "m T d"]:
    """``Σ_i (M_iᵀk) δ(v_i)``: how far the edits move the memory's answer at every position."""
    return edit.at(_columns(keys)).T.reshape(*keys.shape[:2], -1)


def first_order(
    gradient: Float[np.ndarray, "m T d"], edit: Edit, keys: Float[np.ndarray, "m T d_m"]
) -> Float[np.ndarray, "n m"]:
    """The fall of ``log p`` of fact j by edit i to first order: ``-Σ_t (M_iᵀk_jt) ⟨g_jt, δ(v_i)⟩``, in nats.

    The sum over i is ``-⟨∇_W log p, ΔW⟩``, since ``∇_W log p = Σ_t g_jt k_jtᵀ``.
    """
    by_position = edit.first_order(_columns(gradient), _columns(keys))  # (n, m T)
    return -by_position.reshape(len(edit), *keys.shape[:2]).sum(2)


def ask(
    model: LanguageModel,
    reading: Reading,
    shift: Float[np.ndarray, "m T d"] | None = None,
    *,
    batch: int = 32,
    below: Sequence[Below] | None = None,
) -> Said:
    """What the model says of the true objects now, with a drift added to its answers at the layer if one is given.

    The unedited model with the drift of all edits at every position says what the edited model says, up to rounding.

    Parameters
    ----------
    below : sequence of Below, optional
        One for each of the :func:`groups`, new or of an earlier call: the blocks below the layer are run by the first
        call only. For a model that has not changed there.
    """
    return _run(model, reading, shift, batch=batch, below=below)


def slope_along(
    model: LanguageModel, reading: Reading, shift: Float[np.ndarray, "m T d"], nodes: int = 1, *, batch: int = 32
) -> Float[np.ndarray, "m T d"]:
    """The gradient of ``log p`` averaged along the straight way from no drift to ``shift``, by Gauss's nodes.

    With it :func:`first_order` is exact in the limit: the shares of the edits add up to the fall (integrated
    gradients). One node is the midpoint, that is second order; each costs a pass forward and one back.

    Raises
    ------
    UserError
        Fewer than one node.
    """
    if nodes < 1:
        raise UserError(f"{nodes} nodes make no sense: give 1 or more.")
    points, weights = np.polynomial.legendre.leggauss(nodes)
    total = np.zeros(shift.shape)
    for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
        total += weight * _run(model, reading, point * shift, batch=batch, gradient=True).gradient
    return total


# --- risks without a unit -----------------------------------------------------------------------------------


def norm_over(
    part: Float[np.ndarray, "n m T"], mask: Bool[np.ndarray, "m T"] | None = None
) -> Float[np.ndarray, "n m"]:
    """``√Σ_t (M_iᵀk_jt)²`` over the positions of a mask: the size of edit i at fact j."""
    squared = part**2 if mask is None else part**2 * mask
    return np.sqrt(squared.sum(2))


# --- a forecast ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Forecast:
    """What n edits are forecast to do to m protected facts.

    Attributes
    ----------
    level : str
        What it knows: one of :data:`LEVELS`. Its unit is in :data:`UNITS`.
    layer : int
    method : str
    edits, protect : tuple of Fact
    by_edit : (n, m) array
        What edit i is forecast to do to fact j. At the level ``"passes"`` it is signed, a fall being positive, and adds
        up to ``total`` nearly; at the others it is a size. At the level ``"keys"`` that is the root of the sum of its
        squared shares, over how far the fact's object is ahead of the next best answer or behind it.
    total : (m,) array
        What all edits together are forecast to do to fact j.
    before : (m,) array or None
        The facts' log-probability before any edit (level ``"passes"``).
    lost : (m,) bool or None
        Whether the model says the true object now and is forecast not to say it any more (level ``"passes"``).
    left : (m,) array or None
        By how many nats the true object stays ahead of its likeliest rival, below 0 where it is lost (level
        ``"passes"``); infinite where the model does not say it now, and so has nothing to lose.
    """

    level: str
    layer: int
    method: str
    edits: tuple[Fact, ...]
    protect: tuple[Fact, ...]
    by_edit: Float[np.ndarray, "n m"]
    total: Float[np.ndarray, " m"]
    before: Float[np.ndarray, " m"] | None = None
    lost: Bool[np.ndarray, " m"] | None = None
    left: Float[np.ndarray, " m"] | None = None

    def endangered(self, count: int = 10) -> list[tuple[int, int]]:
        """The facts most at risk, the worst first, each with the edit most to blame: pairs (j, i).

        By the margin that is left, if it is known, then by ``total``.
        """
        worst = np.lexsort([-self.total] if self.left is None else [-self.total, self.left])[:count]
        return [(int(j), int(self.by_edit[:, j].argmax())) for j in worst]

    def summary(self) -> dict[str, Any]:
        """Plain content for a JSON file: settings, a row a fact in the order of risk, and the edits by their harm."""
        rows = []
        for j, i in self.endangered(len(self.protect)):
            fact, edit = self.protect[j], self.edits[i]
            row: dict[str, Any] = {"fact": j, "prompt": fact.text, "object": fact.target_true}
            row |= {"risk": float(self.total[j]), "edit": i, "edit_prompt": edit.text, "edit_object": edit.target_new}
            row["edit_share"] = float(self.by_edit[i, j])
            if self.before is not None:
                row["log_probability"] = float(self.before[j])
            if self.lost is not None and self.left is not None:
                row["lost"] = bool(self.lost[j])
                row["margin_left"] = float(self.left[j]) if np.isfinite(self.left[j]) else None
            rows.append(row)
        harm = self.by_edit.sum(1)
        return {
            "kind": "forecast",
            "level": self.level,
            "unit": UNITS[self.level],
            "layer": self.layer,
            "method": self.method,
            "facts": rows,
            "edits": [
                {
                    "edit": int(i),
                    "prompt": self.edits[i].text,
                    "object": self.edits[i].target_new,
                    "harm": float(harm[i]),
                }
                for i in np.argsort(-harm, kind="stable")
            ],
        }

    def write(self, folder: Path, **more: Any) -> None:
        """Write ``forecast.json`` (:meth:`summary`, and what else is given), ``forecast.csv`` (a row a fact) and
        ``by_edit.npz`` (the matrix) into a folder: all or none."""
        summary = self.summary()
        table = io.StringIO()
        writer = csv.DictWriter(table, summary["facts"][0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(summary["facts"])
        matrix = {"by_edit": self.by_edit, "total": self.total}
        files.write_together(
            {
                folder / "forecast.json": files.json_writer(summary | more),
                folder / "forecast.csv": lambda path: path.write_bytes(table.getvalue().encode()),
                folder / "by_edit.npz": files.npz_writer(matrix),
            }
        )


def check(level: str, method: str) -> None:
    """Raise a :class:`UserError` for a level or a method that is not known."""
    for what, name, known in (("level", level, LEVELS), ("method", method, RULES)):
        if name not in known:
            raise UserError(f"There is no {what} {name!r}: choose from {', '.join(known)}.")


def run(  # twelve parameters: each is a caller's own choice, and a container for them would be made only for this call
    model: LanguageModel,
    edits: Sequence[Fact],
    protect: Sequence[Fact],
    level: str = "passes",
    *,
    layer: int,
    C: SecondMoment,
    method: str = "rome",
    targets: Targets | None = None,
    settings: TargetSettings | None = None,
    write: EditSettings | None = None,
    nodes: int = 2,
    batch: int = 32,
) -> Forecast:
    """Forecast what edits will do to protected facts, and leave the model as it is.

    Parameters
    ----------
    model : LanguageModel
    edits : sequence of Fact
        In the order in which they would be made, with ``target_new``.
    protect : sequence of Fact
        With ``target_true``. A fact that is also edited is no fact to protect: leave it out.
    level : {"keys", "values", "passes"}
    layer : int
    C : (d_m, d_m) array or Metric
        The second moment of the layer's keys (:meth:`superposition.lm.moments.Moments.second_moment`), perhaps with the
        keys of the protected facts in it (:func:`superposition.linear.shrinkage.protecting`).
    method : str
        One of :data:`superposition.linear.memory.RULES`.
    write : superposition.editing.editor.EditSettings, optional
        Settings of the writing step.
    targets : superposition.editing.targets.Targets, optional
        Target values found already (levels ``"values"`` and ``"passes"``); else they are looked for, by
        :func:`superposition.editing.targets.search` with ``settings``.
    nodes : int
        Of the way from no drift to the whole (:func:`slope_along`), for the share of each edit (level ``"passes"``).
    batch : int

    Raises
    ------
    UserError
        A level or method that is not known; no edits; a fact on both sides; and as :func:`read` and
        :func:`superposition.editing.targets.search`.
    """
    check(level, method)
    if not edits:
        raise UserError("There are no edits: give at least one.")
    both = {fact.text for fact in edits} & {fact.text for fact in protect}
    if both:
        raise UserError(f"{sorted(both)[0]!r} is to be edited and to be protected: take it out of one of the lists.")
    layer = model.select([layer])[0].index
    bits = model.digest()
    reading = read(model, protect, layer, passes=level != "values", gradient=level == "passes", batch=batch)
    editor = Editor(model, layer, method, C=C, settings=settings, write=write)
    about = (level, layer, method, tuple(edits), tuple(protect))
    if level == "keys":
        K = key_reader.extract(model, edits, layers=[layer])[layer]
        M = directions(K, editor.memory.metric, method, **editor.options)
        assert reading.margin is not None  # read with the keys
        margin = np.maximum(np.abs(reading.margin), LEAST_MARGIN)
        risk = norm_over(shares(M, reading.keys), reading.mask(RISKY)) / margin
        forecast = Forecast(*about, risk, np.sqrt((risk**2).sum(0)))
    else:
        targets = search(model, edits, layer, settings) if targets is None else targets
        for i in range(len(targets)):
            editor.store(targets[i], apply=False)
        edit = editor.memory.edits
        moved = drift(edit, reading.keys)
        if level == "values":
            size = norm_over(shares(edit.M, reading.keys)) * np.linalg.norm(edit.delta, axis=0)[:, None]
            forecast = Forecast(*about, size, np.sqrt((moved**2).sum((1, 2))))
        else:
            after = ask(model, reading, moved, batch=batch)
            slope = slope_along(model, reading, moved, nodes, batch=batch) if nodes else reading.gradient
            assert slope is not None and reading.exact is not None  # level "passes" has read the gradient
            fall = reading.log_probability - after.log_probability
            by_edit = first_order(slope, edit, reading.keys)
            left = np.where(reading.exact, after.margin, np.inf)
            lost = reading.exact & ~after.exact
            forecast = Forecast(*about, by_edit, fall, reading.log_probability, lost, left)
    if model.digest() != bits:
        raise RuntimeError("The weights are not what they were before the forecast.")
    return forecast
