"""Target values: what the down-projection should answer at a subject for the model to say the new object.

An edit of a fact looks for a shift ``δ`` (d,) of the output that the down-projection of one layer has at the subject's
last token. It minimises, by Adam and separately for each edit,

    L(δ) = mean over contexts of −log P(object | context, prompt) / tokens
           + kl_factor · KL(P₀(· | "{subject} is a") ‖ P(· | "{subject} is a"))
           + weight_decay · ‖δ‖ / ‖W₀k‖,                     ‖δ‖ ≤ clamp_norm_factor · ‖W₀k‖,

and the target value is ``v = W k + δ``, with k the key of the bare prompt, W the weights as they are by now, W₀ those
of the unedited model. This is the objective of ROME (Meng et al. 2022) with three changes. ROME's code writes
``‖δ‖ / ‖W k‖²`` in the last term: it depends on the units of the residual stream, so the book divides once. ROME's lr
is absolute; here it is in units of the answer, ``‖W₀k‖/√d`` a coordinate. And ROME measures ball and norm term by
``‖W k‖`` of the model as edited so far, so that they grow with the drift; here it is by that of the unedited model.
``step="absolute"`` and ``bound="moving"`` are ROME's. Where the block normalises what the memory writes
(:attr:`superposition.lm.models.LanguageModel.output_norms`), only the direction of ``W k + δ`` counts, and the δ that
an edit needs grows with the length to which the drift has brought ``W k``.
Chapters ``15-editing-a-model`` and ``20-forecasting-damage``.

**Why it is fast.** Nothing before the subject's last token depends on δ, so its attention keys and values are computed
once; a step runs only the tokens from there on and only the blocks from the edited layer up, and asks the head only
where a target or the KL term needs it. Several edits share a forward pass; each stops by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from superposition.data.facts import shown
from superposition.errors import UserError
from superposition.io import console
from superposition.lm import keys
from superposition.lm.passes import TOLERANCE, Below, hooked, logits_of, padded, run_body, shifted
from superposition.lm.scoring import join, subject_of

if TYPE_CHECKING:
    from superposition.data.facts import Fact
    from superposition.lm.models import LanguageModel, Layer

__all__ = ["TargetSettings", "Targets", "search"]


#: What some of the settings may be.
CHOICES = {
    "step": ("relative", "absolute"),
    "bound": ("anchored", "moving"),
    "values": ("free", "anchored"),
    "key": ("bare", "mean"),
}


@dataclass(frozen=True)
class TargetSettings:
    """Every hyperparameter of the target optimisation.

    Parameters
    ----------
    steps : int
        Adam steps at most. ROME: 20, MEMIT and AlphaEdit: 25.
    lr : float
        Of Adam, with its usual β: the first step's length a coordinate, in the unit that ``step`` says. ROME and MEMIT:
        0.5, absolute (0.1 in some of AlphaEdit's settings).
    step : {"relative", "absolute"}
        The unit of lr: ``‖W₀k‖ / √d``, the root mean square of the coordinates of the unedited answer; or 1.
    kl_factor : float
        Weight of the KL term. ROME, MEMIT: 0.0625.
    weight_decay : float
        Weight of the norm term. ROME, MEMIT: 0.5.
    clamp_norm_factor : float
        Largest ``‖δ‖`` in units of ``‖W₀k‖``. ROME: 4; MEMIT 0.75, in units of the (larger) residual stream.
    bound : {"anchored", "moving"}
        Which answer's length measures the largest ``‖δ‖`` and the norm term: that of the unedited model, ``‖W₀k‖``, or
        that of the model as edited so far, ``‖W k‖``, as ROME has it.
    values : {"free", "anchored"}
        The target values as they are found, or scaled to the length ``‖W₀k‖`` afterwards (Norm-Anchor Scaling, Liu et
        al. 2026, arXiv 2602.02543).
    contexts : tuple of str
        Texts before the prompt over which the object's log-probability is averaged; ``""`` is the bare prompt and comes
        first. ROME samples some twenty from the model; here a few openings that never change.
    kl_prompt : str
        What the subject's essence is asked with. ROME: ``"{} is a"``.
    stop_probability : float
        An edit stops once the object's probability (geometric mean over contexts and tokens) is this high. ROME
        stops at a loss of 0.05, which is 0.95 and more.
    key : {"bare", "mean"}
        Write at the key of the bare prompt, as the book's P has it, or at the mean of the keys over all contexts, as
        the code of ROME and MEMIT does.
    """

    steps: int = 25
    lr: float = 0.5
    kl_factor: float = 0.0625
    weight_decay: float = 0.5
    clamp_norm_factor: float = 4.0
    step: str = "relative"
    bound: str = "anchored"
    values: str = "free"
    contexts: tuple[str, ...] = ("", "The other day I read this. ", "As everybody knows, ")
    kl_prompt: str = "{} is a"
    stop_probability: float = 0.95
    key: str = "bare"

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.lr > 0 or not self.clamp_norm_factor > 0:
            raise UserError("Steps, lr and clamp_norm_factor must be positive.")
        if self.kl_factor < 0 or self.weight_decay < 0:
            raise UserError("kl_factor and weight_decay cannot be negative.")
        if not 0 < self.stop_probability <= 1:
            raise UserError(f"A stop_probability of {self.stop_probability} makes no sense: give one up to 1.")
        if not self.contexts or self.contexts[0] != "":
            raise UserError('The first context must be the bare prompt, "".')
        if self.kl_prompt.count("{}") != 1:
            raise UserError('The kl_prompt needs one {}, where the subject goes, as in "{} is a".')
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"The {name} is {getattr(self, name)!r}: choose {' or '.join(choices)}.")

    def as_dict(self) -> dict[str, Any]:
        """Plain content for a record."""
        return asdict(self) | {"contexts": list(self.contexts)}


@dataclass(frozen=True, eq=False)
class Targets:
    """Keys and target values of n edits at one layer.

    Attributes
    ----------
    keys : (d_m, n) float64
    values : (d, n) float64
        ``W k + δ``; W as it is in the model, k the bare prompt's key.
    shifts : (d, n) float64
        The optimised ``δ``.
    recalled : (d, n) float64
        ``W k`` of the bare prompt, before the edit.
    loss : (n,) float64
        The objective at the values returned.
    first_loss : (n,) float64
        The objective before the first step.
    steps : (n,) int
        Adam steps taken.
    probability : (n,) float64
        Of the new object with δ put in: geometric mean over contexts and tokens.
    """

    keys: Float[np.ndarray, "d_m n"]
    values: Float[np.ndarray, "d n"]
    shifts: Float[np.ndarray, "d n"]
    recalled: Float[np.ndarray, "d n"]
    loss: Float[np.ndarray, " n"]
    first_loss: Float[np.ndarray, " n"]
    steps: Int[np.ndarray, " n"]
    probability: Float[np.ndarray, " n"]

    def __len__(self) -> int:
        return self.keys.shape[1]

    def __getitem__(self, chosen: int | slice) -> Targets:
        """Some of the edits; one by its number is :class:`Targets` of one."""
        part = chosen if isinstance(chosen, slice) else slice(chosen, chosen + 1)
        return Targets(**{name: getattr(self, name)[..., part] for name in Targets.__dataclass_fields__})


# --- texts --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Text:
    """One text of one edit: a context with prompt and object, or the prompt of the KL term, which has no object.

    ``subject`` is the position of the subject's last token, ``head`` are the positions at which the head is asked: for
    each of the object's tokens, or for whatever follows the prompt of the KL term.
    """

    edit: int
    token_ids: tuple[int, ...]
    subject: int
    head: tuple[int, ...]
    object_ids: tuple[int, ...]


def _texts(model: LanguageModel, edit: int, fact: Fact, settings: TargetSettings) -> list[_Text]:
    """The texts of one edit: one a context, and then the one of the KL term."""
    texts = []
    for context in settings.contexts:
        in_context = replace(fact, prompt=context + fact.prompt) if context else fact
        new_object = str(fact.target_new)
        joined = join(model.tokenizer, in_context.text, new_object, fact.joint_to(new_object))
        subject, length = subject_of(in_context, joined), len(joined.token_ids)
        if model.context_length and length - 1 > model.context_length:
            raise UserError(
                f"The prompt {shown(fact.text)} with its object and the context {context!r} has "
                f"{length} tokens and {model.name} takes {model.context_length}: shorten the prompt."
            )
        head = tuple(range(joined.first - 1, length - 1))
        texts.append(_Text(edit, joined.token_ids[:-1], subject, head, joined.target))
    essence = keys.locate(model.tokenizer, replace(fact, prompt=settings.kl_prompt))
    texts.append(_Text(edit, essence.token_ids, essence.position, (len(essence.token_ids) - 1,), ()))
    return texts


def _answered_by(layer: Layer, weights: Sequence[torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A hook of a layer's module by which row r of a batch is answered by ``weights[r]`` (d, d_m) in place of its W.

    Rows that share one are answered in one product.
    """
    rows_of: dict[int, list[int]] = {}
    for row, weight in enumerate(weights):
        rows_of.setdefault(id(weight), []).append(row)

    def answer(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        K = inputs[0].reshape(len(weights), -1, inputs[0].shape[-1])  # (rows, tokens, d_m)
        answers = torch.empty_like(output.reshape(len(weights), -1, output.shape[-1]))  # (rows, tokens, d)
        for rows in rows_of.values():
            answers[rows] = K[rows] @ weights[rows[0]].T
        if layer.bias is not None:
            answers = answers + layer.bias
        return answers.reshape(output.shape)

    return answer


def _to_the_right(part: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """(rows, heads, tokens, width) whose rows begin with so many tokens each, with these at the end instead."""
    return torch.stack([row.roll(row.shape[1] - length, 1) for row, length in zip(part, lengths, strict=True)])


# --- the objective ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Batch:
    """The texts of the edits that are still searched for, laid out for a forward pass.

    R rows (texts) of T tokens, after P tokens whose attention keys and values are kept; the head is asked A times.
    """

    edits: list[int]
    rows: list[int]  # R of all the objective's texts
    ids: torch.Tensor  # (R, T)
    mask: torch.Tensor  # (R, P + T)
    prefix: list[tuple[torch.Tensor, torch.Tensor]]  # a layer: keys and values (R, heads, P, width)
    weights: list[torch.Tensor] | None  # R of (d, d_m)
    owner: torch.Tensor  # (R,): whose text it is, as an index into ``edits``
    subject: torch.Tensor  # (R,): the subject's position among the T
    head: tuple[torch.Tensor, torch.Tensor]  # (A,), (A,): row and position
    head_owner: torch.Tensor  # (A,), an index into ``edits``
    token: torch.Tensor  # (A,): the object's token to come; -100 in the text of the KL term
    share: torch.Tensor  # (A,): of this token in its edit's misfit
    essence: torch.Tensor  # (edits,): which of the A belong to the KL term


class _Objective:
    """The loss of a group of edits as a function of their shifts.

    With ``cached`` false every step runs the whole texts: the slow reference. The first run, of all edits and without a
    shift, notes ``recalled`` (edits, d), what the layer answers at the subject of the bare prompt, ``unedited``
    (edits,), how long that answer is with the weights of the unedited model, P₀, and what the blocks below the layer
    hand on: no shift reaches them, so later runs need not run them.
    """

    recalled: torch.Tensor
    unedited: torch.Tensor
    reference: torch.Tensor

    def __init__(
        self,
        model: LanguageModel,
        edits: Sequence[Fact],
        layer: int,
        settings: TargetSettings,
        cached: bool = True,
        weights: Sequence[torch.Tensor] | None = None,
        W_0: torch.Tensor | None = None,
    ):
        self.model, self.settings, self.layer, self.cached = model, settings, model.layers[layer], cached
        self.W_0 = W_0
        self.texts = [text for i, fact in enumerate(edits) for text in _texts(model, i, fact, settings)]
        for text in self.texts:
            model.check_tokens(torch.tensor(text.token_ids), len(text.token_ids))
        self.weights = None if weights is None else [weights[text.edit] for text in self.texts]
        self.noted = False
        self.prefix: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.below = Below(model, self.layer) if cached else None
        if cached and any(text.subject for text in self.texts):
            self._keep_prefix()

    def _keep_prefix(self) -> None:
        """Keep attention keys and values of everything before the subject's last token, aligned on the right."""
        from transformers import DynamicCache

        before = [text.token_ids[: text.subject] for text in self.texts]
        self.prefix_mask = padded(before, side="left")[1]  # (R, P)
        ids, mask = padded([ids or (0,) for ids in before])
        with torch.no_grad(), ExitStack() as hooks:
            if self.weights is not None:
                hooks.enter_context(hooked((self.layer.module, _answered_by(self.layer, self.weights))))
            cache: Any = DynamicCache()
            run_body(self.model, ids, mask, cache=cache, use_cache=True)
        lengths = [len(ids) for ids in before]
        for layer in cache.layers:
            self.prefix.append((_to_the_right(layer.keys, lengths), _to_the_right(layer.values, lengths)))

    def lay_out(self, edits: list[int]) -> _Batch:
        """The batch of some of the edits."""
        index = {edit: i for i, edit in enumerate(edits)}
        chosen = [row for row, text in enumerate(self.texts) if text.edit in index]
        texts = [self.texts[row] for row in chosen]
        start = [text.subject if self.cached else 0 for text in texts]  # of the tokens that are run
        ids, mask = padded([text.token_ids[first:] for text, first in zip(texts, start, strict=True)])
        if self.prefix:
            mask = torch.cat([self.prefix_mask[chosen], mask], dim=1)
        head = [(row, at - start[row]) for row, text in enumerate(texts) for at in text.head]
        tokens = [token for text in texts for token in text.object_ids or (-100,)]
        contexts = len(self.settings.contexts)

        def on_device(numbers: list) -> torch.Tensor:
            return torch.tensor(numbers, device=self.model.device)

        return _Batch(
            edits=list(edits),
            rows=chosen,
            ids=ids.to(self.model.device),
            mask=mask.to(self.model.device),
            prefix=[(K[chosen], V[chosen]) for K, V in self.prefix],
            weights=None if self.weights is None else [self.weights[row] for row in chosen],
            owner=on_device([index[text.edit] for text in texts]),
            subject=on_device([text.subject - first for text, first in zip(texts, start, strict=True)]),
            head=(on_device([row for row, _ in head]), on_device([at for _, at in head])),
            head_owner=on_device([index[texts[row].edit] for row, _ in head]),
            token=on_device(tokens),
            share=on_device([1.0 / len(texts[row].head) / contexts for row, _ in head]),
            essence=on_device([line for line, token in enumerate(tokens) if token == -100]),
        )

    def run(self, shifts: torch.Tensor, batch: _Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Misfit (−log P of the object, mean over tokens, then contexts) and KL of the batch's edits, both (edits,).

        ``shifts`` (edits, d) belongs to them, in order.
        """
        from transformers import DynamicCache

        cache = DynamicCache() if batch.prefix else None  # a pass adds to its cache: each has its own
        if cache is not None:
            for number, (K, V) in enumerate(batch.prefix):
                cache.update(K, V, number)
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        with ExitStack() as hooks:
            if batch.weights is not None:
                hooks.enter_context(hooked((self.layer.module, _answered_by(self.layer, batch.weights))))
            if self.below is not None:
                hooks.enter_context(self.below.spared(batch.rows, batch.ids.shape[1]))
            if not self.noted:

                def note(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
                    seen.append((inputs[0].detach(), output.detach()))

                hooks.enter_context(hooked((self.layer.module, note)))
            hooks.enter_context(shifted(self.layer, shifts[batch.owner.to(shifts.device)], batch.subject))
            ran = run_body(self.model, batch.ids, batch.mask, cache=cache, use_cache=cache is not None)
            hidden = ran.last_hidden_state  # (R, T, d)
        head = tuple(index.to(hidden.device) for index in batch.head)
        logs = logits_of(self.model, hidden[head]).log_softmax(-1)  # (A, vocabulary)
        owner, token, share, essence = (
            index.to(logs.device) for index in (batch.head_owner, batch.token, batch.share, batch.essence)
        )
        lines = nn.functional.nll_loss(logs, token, reduction="none") * share.to(logs)  # (A,), 0 where token is -100
        misfit = logs.new_zeros(len(batch.edits)).index_add(0, owner, lines)  # (edits,)
        after = logs[essence]  # (edits, vocabulary)
        if not self.noted:
            self._note(batch, *seen[0])
            self.reference = after.detach()
            self.noted = True
        before = self.reference[batch.edits]
        return misfit, (before.exp() * (before - after)).sum(-1)

    def _note(self, batch: _Batch, K: torch.Tensor, answers: torch.Tensor) -> None:
        """Keep what the layer answers at the subjects of the bare prompts, and how long it is in the unedited model."""
        bare = torch.arange(0, len(batch.ids), len(self.settings.contexts) + 1, device=answers.device)  # (edits,)
        at = bare, batch.subject.to(answers.device)[bare]
        self.recalled = answers.reshape(*batch.ids.shape, -1)[at]  # (edits, d)
        before = self.recalled
        if self.W_0 is not None:
            before = K.reshape(*batch.ids.shape, -1)[at] @ self.W_0.to(K).T
            before = before if self.layer.bias is None else before + self.layer.bias
        self.unedited = _lengths(before)


# --- the search ---------------------------------------------------------------------------------------------


def search(
    model: LanguageModel,
    edits: Sequence[Fact],
    layer: int,
    settings: TargetSettings | None = None,
    *,
    batch: int = 8,
    weights: Sequence[torch.Tensor] | None = None,
    W_0: Float[torch.Tensor, "d d_m"] | None = None,
    cached: bool | None = None,
) -> Targets:
    """Optimise the target value of each edit, alone but several in a forward pass.

    Parameters
    ----------
    model : LanguageModel
        As it is now; not changed.
    edits : sequence of Fact
        With ``target_new``.
    layer : int
        Where the values are to be stored.
    settings : TargetSettings, optional
    batch : int
        Edits a forward pass. The results do not depend on it, up to rounding.
    weights : sequence of (d, d_m) tensors, optional
        For each edit, the layer's W in its place: several edited models, which differ in this one matrix, share a pass.
    W_0 : (d, d_m) tensor, optional
        The layer's W in the unedited model, for the units of the search. By default the model has not been edited.
    cached : bool, optional
        Keep what comes before the subject's last token (see the module). False: the slow reference. By default it is
        kept where that gives what the reference gives, which is tried once a model and layer.

    Raises
    ------
    UserError
        No edits; no new object; a subject not found; a layer the model does not have, or from which nothing reaches
        the object; a prompt too long with a context; NaN or infinity on the way.
    """
    settings = settings or TargetSettings()
    if batch < 1:
        raise UserError(f"A batch of {batch} makes no sense: give 1 or more.")
    for fact in edits:
        if fact.target_new is None:
            raise UserError(f"The edit {fact.text!r} has no target_new: say what the model shall answer.")
    layer = model.select([layer])[0].index
    if weights is not None and len(weights) != len(edits):
        raise UserError(f"{len(weights)} weights for {len(edits)} edits: give one for each.")
    if not edits:
        raise UserError("There are no edits: give at least one.")
    if cached is None:
        cached = _cache_is_exact(model, edits[0], layer, settings)
    order = sorted(range(len(edits)), key=lambda i: len(edits[i].text) - edits[i].subject_span[1])  # like to like
    parts = []
    for start in range(0, len(order), batch):
        group = order[start : start + batch]
        own = None if weights is None else [weights[i] for i in group]
        objective = _Objective(model, [edits[i] for i in group], layer, settings, cached, own, W_0)
        parts.append(_optimise(objective, [edits[i] for i in group]))
    back = np.argsort(order)
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts], axis=-1)[..., back]
        for name in Targets.__dataclass_fields__
    }
    return Targets(**joined)


def _cache_is_exact(model: LanguageModel, edit: Fact, layer: int, settings: TargetSettings) -> bool:
    """Whether a search that keeps what comes before the subject gives what whole texts give; tried once a layer.

    Attention over a recurrent state, or over keys and values that lower layers share, may not allow it.
    """
    if layer not in model.cached_search:
        slow = _probe(_Objective(model, [edit], layer, settings, cached=False))
        try:
            fast = _probe(_Objective(model, [edit], layer, settings))
            close = 3 * TOLERANCE[model.dtype]
            same = all(float((a - b).norm()) <= close * float(b.norm()) for a, b in zip(fast, slow, strict=True))
        except (UserError, MemoryError):
            raise
        except Exception as error:  # of the model's own code: any kind
            if "out of memory" in str(error) or "can't allocate memory" in str(error):
                raise
            same = False
        model.cached_search[layer] = same
        if not same:
            console.warn(
                f"{type(model.model).__name__} does not allow to keep what comes before a subject at layer {layer}: "
                "target values are found from whole texts, which is slower and as exact."
            )
    return model.cached_search[layer]


def _probe(objective: _Objective) -> list[torch.Tensor]:
    """What a search for one edit reads off the model, without a shift and with one."""
    batch, layer = objective.lay_out([0]), objective.layer
    wave = torch.cos(torch.arange(layer.d, device=layer.weight.device)) * (2 / layer.d) ** 0.5
    seen, size = [], 0.0
    for share in (0.0, 0.5):
        shift = (share * size * wave)[None].float().requires_grad_()
        misfit, divergence = objective.run(shift, batch)
        (gradient,) = torch.autograd.grad((misfit + divergence).sum(), shift)
        size = float(objective.recalled[0].norm())
        seen += [part.detach().double() for part in (misfit, objective.recalled[0], gradient)]
    return seen


def _optimise(objective: _Objective, edits: Sequence[Fact]) -> Targets:
    """The targets of an objective's edits: an Adam on a parameter each, which rests once its edit is finished."""
    model, layer, settings = objective.model, objective.layer, objective.settings
    wide = torch.float64 if model.dtype == torch.float64 else torch.float32
    device = layer.weight.device
    shifts: list[torch.Tensor] = [nn.Parameter(torch.zeros(layer.d, dtype=wide, device=device)) for _ in edits]
    adam = torch.optim.Adam([{"params": [shift]} for shift in shifts], lr=settings.lr)
    steps = np.zeros(len(edits), dtype=int)
    loss, first_loss, misfit = np.zeros((3, len(edits)))
    active = list(range(len(edits)))
    batch = objective.lay_out(active)
    for step in range(settings.steps + 1):
        last = step == settings.steps
        with torch.set_grad_enabled(not last):
            total, nll = _loss(objective, torch.stack([shifts[i] for i in active]), batch)
        if not torch.isfinite(total).all():
            raise UserError(
                f"The loss of an edit is not finite at layer {layer.index}: the weights are damaged, or {model.dtype} "
                "is too narrow (try --dtype float32)."
            )
        misfit[active], loss[active] = nll.detach().double().cpu(), total.detach().double().cpu()
        if step == 0:
            first_loss[:] = loss
            if settings.step == "relative":
                for group, size in zip(adam.param_groups, objective.unedited.tolist(), strict=True):
                    group["lr"] *= size / layer.d**0.5
        going = [i for i in active if not last and np.exp(-misfit[i]) < settings.stop_probability]
        if not going:
            break
        gradients = torch.autograd.grad(total.sum(), [shifts[i] for i in going])
        adam.zero_grad()
        for i, gradient in zip(going, gradients, strict=True):
            shifts[i].grad = gradient
            if step == 0 and not gradient.any():
                raise UserError(
                    f"Nothing that layer {layer.index} answers at the subject reaches the words after "
                    f"{edits[i].text!r}: choose a lower layer."
                )
        adam.step()
        steps[going] += 1
        with torch.no_grad():
            norm = torch.stack([shifts[i] for i in going]).norm(dim=1)  # (going,)
            factor = (settings.clamp_norm_factor * _unit(objective)[going] / norm).clamp(max=1.0)
            for i, factor_of_i in zip(going, factor, strict=True):
                shifts[i] *= factor_of_i
        if going != active:
            active, batch = going, objective.lay_out(going)
    shift = torch.stack(shifts).detach()  # (edits, d)
    if settings.values == "anchored":
        with torch.no_grad():
            values = objective.recalled.to(wide) + shift
            length = objective.unedited.to(wide) / values.norm(dim=1).clamp(min=1e-30)
            shift = values * length[:, None] - objective.recalled.to(wide)
            total, nll = _loss(objective, shift, objective.lay_out(list(range(len(edits)))))
        misfit[:], loss[:] = nll.double().cpu(), total.double().cpu()
    K = keys_of(model, edits, layer.index, settings)
    shift = shift.double().cpu().numpy().T  # (d, edits)
    recalled = objective.recalled.double().cpu().numpy().T  # (d, edits)
    return Targets(K, recalled + shift, shift, recalled, loss, first_loss, steps, np.exp(-misfit))


def _unit(objective: _Objective) -> torch.Tensor:
    """The length of the answer by which ball and norm term are measured, (edits,)."""
    moving = objective.settings.bound == "moving"
    return _lengths(objective.recalled) if moving else objective.unedited


def _lengths(answers: torch.Tensor) -> torch.Tensor:
    """The lengths of answers (edits, d), in single precision at least."""
    return answers.to(torch.promote_types(answers.dtype, torch.float32)).norm(dim=1)


def _loss(objective: _Objective, shifts: torch.Tensor, batch: _Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The objective and the misfit in it for the shifts (active, d) of a batch, both (active,)."""
    settings = objective.settings
    nll, divergence = objective.run(shifts, batch)
    # the norm at 0 has no gradient: it is left out there
    length = torch.sqrt((shifts**2).sum(1).clamp(min=1e-30)) / _unit(objective).to(shifts)[batch.edits]
    total = nll.to(shifts) + settings.kl_factor * divergence.to(shifts) + settings.weight_decay * length
    return total, nll


def keys_of(
    model: LanguageModel, edits: Sequence[Fact], layer: int, settings: TargetSettings
) -> Float[np.ndarray, "d_m n"]:
    """The keys (d_m, n) at which the edits are written, by the settings' ``key``."""
    contexts = settings.contexts if settings.key == "mean" else ("",)
    in_context = [replace(fact, prompt=context + fact.prompt) for context in contexts for fact in edits]
    K = keys.extract(model, in_context, layers=[layer], batch=max(32, len(in_context)))[layer]
    return K.reshape(len(K), len(contexts), len(edits)).mean(1)
