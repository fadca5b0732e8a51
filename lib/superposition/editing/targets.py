"""Target values: what the down-projection should answer at a subject for the model to say the new object.

An edit of a fact looks for a shift ``δ`` (d,) of the output that the down-projection of one layer has at the subject's
last token. It minimises, by Adam and separately for each edit,

    L(δ) = mean over contexts of −log P(object | context, prompt) / tokens
           + kl_factor · KL(P₀(· | "{subject} is a") ‖ P(· | "{subject} is a"))
           + weight_decay · ‖δ‖ / ‖W k‖,                     ‖δ‖ ≤ clamp_norm_factor · ‖W k‖,

and the target value is ``v = W k + δ``, with k the key of the bare prompt. This is the objective of ROME (Meng et al.
2022), whose code writes ``‖δ‖ / ‖W k‖²`` in the last term: it depends on the units of the residual stream, so the book
divides once. Chapter ``15-editing-a-model``.

**Why it is fast.** Nothing before the subject's last token depends on δ, so its attention keys and values are computed
once; a step runs only the tokens from there on, and of the model only the part from the layer up; it asks the head only
where a target or the KL term needs it. Several edits share a forward pass; each stops by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from superposition.data.facts import shown
from superposition.errors import UserError
from superposition.io import console
from superposition.lm import keys
from superposition.lm.passes import TOLERANCE, logits_of, padded, run_body
from superposition.lm.scoring import join

if TYPE_CHECKING:
    from superposition.data.facts import Fact
    from superposition.lm.models import LanguageModel, Layer

__all__ = ["Settings", "Targets", "targets"]


@dataclass(frozen=True)
class Settings:
    """Every hyperparameter of the target optimisation.

    Parameters
    ----------
    steps : int
        Adam steps at most. ROME: 20, MEMIT and AlphaEdit: 25.
    lr : float
        Of Adam, with its usual β. ROME and MEMIT: 0.5 (0.1 in some of AlphaEdit's settings).
    kl_factor : float
        Weight of the KL term. ROME, MEMIT: 0.0625.
    weight_decay : float
        Weight of the norm term. ROME, MEMIT: 0.5.
    clamp_norm_factor : float
        Largest ``‖δ‖`` in units of ``‖W k‖``. ROME: 4; MEMIT 0.75, in units of the (larger) residual stream.
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
        if self.key not in ("bare", "mean"):
            raise UserError(f"The key is {self.key!r}: choose bare or mean.")

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
    steps: Float[np.ndarray, " n"]
    probability: Float[np.ndarray, " n"]

    def __len__(self) -> int:
        return self.keys.shape[1]

    def __getitem__(self, chosen: int | slice) -> Targets:
        """Some of the edits; one by its number is :class:`Targets` of one."""
        part = chosen if isinstance(chosen, slice) else slice(chosen, chosen + 1)
        return Targets(**{name: getattr(self, name)[..., part] for name in Targets.__dataclass_fields__})


@dataclass(frozen=True)
class _Row:
    """One text of one edit: its tokens, the place of the subject's last token, and where the head is asked for what."""

    edit: int
    token_ids: tuple[int, ...]
    place: int
    asked: tuple[int, ...]
    wanted: tuple[int, ...]  # empty for the KL text

    @property
    def is_kl(self) -> bool:
        return not self.wanted


def _rows(model: LanguageModel, edit: int, fact: Fact, settings: Settings) -> list[_Row]:
    rows = []
    for context in settings.contexts:
        told = replace(fact, prompt=context + fact.prompt) if context else fact
        joined = join(model.tokenizer, told.text, str(fact.target_new), fact.joint_to(str(fact.target_new)))
        place = keys.subject_token(told, joined.offsets)
        if place >= joined.first:
            raise UserError(f"The object {fact.target_new!r} shares a token with the subject in {told.text!r}.")
        if model.context_length and len(joined.token_ids) - 1 > model.context_length:
            raise UserError(
                f"The prompt {shown(fact.text)} with its object and the context {context!r} has "
                f"{len(joined.token_ids)} tokens and {model.name} takes {model.context_length}: shorten the prompt."
            )
        asked = tuple(range(joined.first - 1, len(joined.token_ids) - 1))
        rows.append(_Row(edit, joined.token_ids[:-1], place, asked, joined.target))
    essence = keys.locate(model.tokenizer, replace(fact, prompt=settings.kl_prompt))
    rows.append(_Row(edit, essence.token_ids, essence.position, (len(essence.token_ids) - 1,), ()))
    return rows


class _Prefix:
    """Attention keys and values of everything before the subject's last token, aligned on the right, for all rows."""

    def __init__(self, model: LanguageModel, rows: Sequence[_Row], layer: Layer, weights: list[torch.Tensor] | None):
        self.length = max(row.place for row in rows)
        self.mask = torch.zeros(len(rows), self.length, dtype=torch.long)
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        if self.length == 0:
            return
        from transformers import DynamicCache

        ids, mask = padded([row.token_ids[: row.place] or (0,) for row in rows])
        for row, one in enumerate(rows):
            self.mask[row, self.length - one.place :] = 1
        with torch.no_grad(), _hooked(layer, _Answer(len(rows), weights)):
            out = run_body(model, ids, mask, past_key_values=DynamicCache(), use_cache=True)
        keep = self.mask.bool()
        source, target = torch.zeros_like(keep), keep
        for row, one in enumerate(rows):
            source[row, : one.place] = True
        for layer in out.past_key_values.layers:
            self.layers.append(tuple(_shifted(part, source, target) for part in (layer.keys, layer.values)))

    def of(self, rows: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of some of the rows, layer by layer."""
        return [tuple(part[rows] for part in parts) for parts in self.layers]


def _cache(layers: list[tuple[torch.Tensor, torch.Tensor]]) -> Any:
    """A fresh cache: a forward pass adds to it and leaves what it was made from alone."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for index, parts in enumerate(layers):
        cache.update(*parts, index)
    return cache


def _shifted(part: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(rows, heads, tokens, width) with each row's tokens moved from the places of one mask to those of another."""
    moved = torch.zeros_like(part)
    moved.transpose(1, 2)[target.to(part.device)] = part.transpose(1, 2)[source.to(part.device)]
    return moved.clone()


@contextmanager
def _hooked(layer: Layer, hook: Callable[..., torch.Tensor]) -> Iterator[None]:
    handle = layer.module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _entered_at(
    model: LanguageModel, layer: Layer, entering: torch.Tensor | None, kept: list[torch.Tensor]
) -> Iterator[None]:
    """Inside, a pass skips the decoder layers below ``layer``, which gets ``entering`` in place of their output.

    Where ``entering`` is None nothing is skipped, and what enters the layer is put into ``kept``, unless the layers'
    calls are of another form than (hidden states, …) → hidden states.
    """
    blocks = [model.block(one) for one in model.layers[: layer.index + 1]]
    before = [block.__dict__.get("forward") for block in blocks]

    def enter(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if inputs and isinstance(output, torch.Tensor) and output.shape == inputs[0].shape and output.ndim == 3:
            kept.append(inputs[0].detach())

    def replaced(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (entering, *inputs[1:])

    if entering is None:
        handle = blocks[-1].register_forward_hook(enter)
    else:
        handle = blocks[-1].register_forward_pre_hook(replaced)
        for block in blocks[:-1]:
            block.forward = lambda hidden, *_, **__: hidden
    try:
        yield
    finally:
        handle.remove()
        for block, forward in zip(blocks[:-1], before, strict=False):
            if forward is not None:
                block.forward = forward
            else:
                block.__dict__.pop("forward", None)


class _Answer:
    """A hook that lets every row (a text) be answered by a weight matrix of its own, where ``weights`` is given.

    With ``places`` and ``shifts`` it adds each row's shift to the answer at the row's place, and notes that answer.
    """

    def __init__(
        self,
        rows: int,
        weights: list[torch.Tensor] | None,
        places: torch.Tensor | None = None,
        shifts: torch.Tensor | None = None,
    ):
        self.rows, self.places, self.shifts = rows, places, shifts
        self.recalled: torch.Tensor | None = None
        self.shared: list[tuple[torch.Tensor, list[int]]] | None = None
        if weights is not None:  # rows that share a matrix are multiplied together
            mine: dict[int, list[int]] = {}
            for row, weight in enumerate(weights):
                mine.setdefault(id(weight), []).append(row)
            self.shared = [(weights[its_rows[0]], its_rows) for its_rows in mine.values()]

    def __call__(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        flat = output.reshape(self.rows, -1, output.shape[-1])
        if self.shared is not None:
            keys = inputs[0].reshape(self.rows, -1, inputs[0].shape[-1])
            flat = torch.empty_like(flat)
            for weight, its_rows in self.shared:
                flat[its_rows] = keys[its_rows] @ weight.T
            if getattr(module, "bias", None) is not None:
                flat = flat + module.bias
        if self.shifts is not None:
            at, places = torch.arange(self.rows, device=flat.device), self.places.to(flat.device)
            self.recalled = flat[at, places].detach()
            flat = flat + torch.zeros_like(flat).index_put((at, places), self.shifts.to(flat))
        return flat.reshape(output.shape)


@dataclass(frozen=True)
class _Pass:
    """What every step of a search does alike while the same edits are searched for: rows, tokens, places, targets.

    ``asked`` are the (row, position) where the head is asked; ``lines`` are those of them that hold a token of an
    object, with its edit, its id and its share in the misfit; ``essences`` the others, of the KL texts.
    """

    chosen: list[int]
    ids: torch.Tensor
    mask: torch.Tensor
    prefix: list[tuple[torch.Tensor, torch.Tensor]]
    owner: torch.Tensor
    places: torch.Tensor
    weights: list[torch.Tensor] | None
    asked: tuple[torch.Tensor, torch.Tensor]
    lines: torch.Tensor
    line_owner: torch.Tensor
    line_token: torch.Tensor
    line_share: torch.Tensor
    essences: torch.Tensor


class _Objective:
    """The loss of a group of edits as a function of their shifts.

    With ``cached`` false every step runs the whole texts: the slow reference.
    """

    def __init__(
        self,
        model: LanguageModel,
        edits: Sequence[Fact],
        layer: int,
        settings: Settings,
        cached: bool = True,
        weights: Sequence[torch.Tensor] | None = None,
    ):
        self.model, self.settings = model, settings
        self.layer = model.layers[layer]
        self.rows = [row for i, fact in enumerate(edits) for row in _rows(model, i, fact, settings)]
        self.weights = None if weights is None else [weights[row.edit] for row in self.rows]
        self.cached = cached
        self.prefix = _Prefix(model, self.rows, self.layer, self.weights) if cached else None
        self.reference: torch.Tensor | None = None
        self.entering: list[torch.Tensor] = []
        self._laid_out: tuple[list[int], _Pass] | None = None

    def _lay_out(self, active: list[int]) -> _Pass:
        """The pass for the active edits: made once, and again when an edit has stopped."""
        if self._laid_out is not None and self._laid_out[0] == active:
            return self._laid_out[1]
        turn = {edit: i for i, edit in enumerate(active)}
        chosen = [at for at, row in enumerate(self.rows) if row.edit in turn]
        rows = [self.rows[at] for at in chosen]
        for row in rows:
            self.model.check_tokens(torch.tensor(row.token_ids), len(row.token_ids))
        start = [row.place if self.cached else 0 for row in rows]
        ids, mask = padded([row.token_ids[first:] for row, first in zip(rows, start, strict=True)])
        prefix = []
        if self.cached and self.prefix.length:
            mask = torch.cat([self.prefix.mask[chosen], mask], dim=1)
            prefix = self.prefix.of(chosen)
        asked = [(i, at - start[i]) for i, row in enumerate(rows) for at in row.asked]
        told = [(line, i) for line, (i, _) in enumerate(asked) if not rows[i].is_kl]
        contexts, device = len(self.settings.contexts), self.model.device

        def there(numbers: list) -> torch.Tensor:
            return torch.tensor(numbers, device=device)

        owner = [turn[row.edit] for row in rows]
        found = _Pass(
            chosen,
            ids.to(device),
            mask.to(device),
            prefix,
            there(owner),
            there([row.place - first for row, first in zip(rows, start, strict=True)]),
            None if self.weights is None else [self.weights[at] for at in chosen],
            (there([i for i, _ in asked]), there([at for _, at in asked])),
            there([line for line, _ in told]),
            there([owner[i] for _, i in told]),
            there([token for row in rows for token in row.wanted]),
            there([1.0 / len(rows[i].wanted) / contexts for _, i in told]),
            there([line for line, (i, _) in enumerate(asked) if rows[i].is_kl]),
        )
        self._laid_out = (list(active), found)
        return found

    def run(self, shifts: torch.Tensor, active: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Misfit (NLL), KL (both for the active edits), and the down-projection's own output at every row's place.

        ``shifts`` (active, d) belongs to the active edits, in order.
        """
        this = self._lay_out(active)
        extra: dict[str, Any] = {"use_cache": False}
        if this.prefix:
            extra = {"past_key_values": _cache(this.prefix), "use_cache": True}
        hook = _Answer(len(this.chosen), this.weights, this.places, shifts[this.owner.to(shifts.device)])
        kept = self.entering if self.cached else []
        entering = kept[0][this.chosen, : this.ids.shape[1]] if kept else None
        with _hooked(self.layer, hook), _entered_at(self.model, self.layer, entering, kept):
            hidden = run_body(self.model, this.ids, this.mask, **extra).last_hidden_state
        logs = logits_of(self.model, hidden[tuple(one.to(hidden.device) for one in this.asked)]).log_softmax(-1)
        return self._misfit(logs, this, len(active)), self._divergence(logs, this, active), hook.recalled

    def _misfit(self, logs: torch.Tensor, this: _Pass, active: int) -> torch.Tensor:
        """−log P of the objects, mean over tokens, then over contexts (active,)."""
        lines, owner, token, share = (
            one.to(logs.device) for one in (this.lines, this.line_owner, this.line_token, this.line_share)
        )
        return logs.new_zeros(active).index_add(0, owner, -logs[lines, token] * share.to(logs))

    def _divergence(self, logs: torch.Tensor, this: _Pass, active: list[int]) -> torch.Tensor:
        """``KL(P₀ ‖ P)`` at the essence prompt (active,); the first call, with all edits and no shift, sets P₀."""
        now = logs[this.essences.to(logs.device)]
        if self.reference is None:
            self.reference = now.detach()
        before = self.reference[active]
        return (before.exp() * (before - now)).sum(-1)


def targets(
    model: LanguageModel,
    edits: Sequence[Fact],
    layer: int,
    settings: Settings | None = None,
    *,
    batch: int = 8,
    weights: Sequence[torch.Tensor] | None = None,
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
    settings : Settings, optional
    batch : int
        Edits a forward pass. The results do not depend on it, up to rounding.
    weights : sequence of (d, d_m) tensors, optional
        For each edit, the layer's W in its place: several edited models, which differ in this one matrix, share a pass.
    cached : bool, optional
        Keep what comes before the subject's last token (see the module). False: the slow reference. By default it is
        kept where that gives what the reference gives, which is tried once a model and layer.

    Raises
    ------
    UserError
        No edits; no new object; a subject not found; a layer the model does not have, or from which nothing reaches
        the object; a prompt too long with a context; NaN or infinity on the way.
    """
    settings = settings or Settings()
    if batch < 1:
        raise UserError(f"A batch of {batch} makes no sense: give 1 or more.")
    for fact in edits:
        if fact.target_new is None:
            raise UserError(f"The edit {fact.text!r} has no target_new: say what the model shall answer.")
    (place,) = model.select([layer])
    if weights is not None and len(weights) != len(edits):
        raise UserError(f"{len(weights)} weights for {len(edits)} edits: give one for each.")
    if not edits:
        raise UserError("There are no edits: give at least one.")
    if cached is None:
        cached = _may_keep(model, edits[0], place.index, settings)
    order = sorted(range(len(edits)), key=lambda i: len(edits[i].text) - edits[i].subject_span[1])  # like to like
    groups = [order[at : at + batch] for at in range(0, len(order), batch)]
    parts = [
        _optimise(
            model,
            [edits[i] for i in group],
            place.index,
            settings,
            cached,
            None if weights is None else [weights[i] for i in group],
        )
        for group in groups
    ]
    back = np.argsort(order)
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts], axis=-1)[..., back]
        for name in Targets.__dataclass_fields__
    }
    return Targets(**joined)


def _may_keep(model: LanguageModel, edit: Fact, layer: int, settings: Settings) -> bool:
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
    layer = objective.layer
    turns = torch.arange(layer.d, device=layer.weight.device)
    found, size = [], 0.0
    for share in (0.0, 0.5):
        shift = (share * size * torch.cos(turns) * (2 / layer.d) ** 0.5)[None].float().requires_grad_()
        misfit, divergence, recalled = objective.run(shift, [0])
        (slope,) = torch.autograd.grad((misfit + divergence).sum(), shift)
        size = float(recalled[0].norm())
        found += [part.detach().double() for part in (misfit, recalled[0], slope)]
    return found


def _optimise(
    model: LanguageModel,
    edits: Sequence[Fact],
    layer: int,
    settings: Settings,
    cached: bool,
    weights: Sequence[torch.Tensor] | None,
) -> Targets:
    objective = _Objective(model, edits, layer, settings, cached, weights)
    n, d = len(edits), model.layers[layer].d
    wide = torch.float64 if model.dtype == torch.float64 else torch.float32
    shifts = torch.zeros(n, d, dtype=wide, device=model.layers[layer].weight.device)
    first, second = torch.zeros_like(shifts), torch.zeros_like(shifts)
    steps, loss, first_loss, misfit = np.zeros(n, dtype=int), np.zeros(n), np.zeros(n), np.zeros(n)
    recalled = size = None
    active = list(range(n))
    for turn in range(settings.steps + 1):
        here = shifts[active].requires_grad_(turn < settings.steps)
        with torch.set_grad_enabled(turn < settings.steps):
            found, divergence, output = objective.run(here, active)
            if recalled is None:
                bare = [at for at, row in enumerate(objective.rows) if at == 0 or objective.rows[at - 1].is_kl]
                recalled = output[bare].to(wide)
                size = recalled.norm(dim=1)
            # the norm at 0 has no gradient: it is left out there
            length = torch.sqrt((here**2).sum(1).clamp(min=1e-30)) / size[active]
            total = found.to(wide) + settings.kl_factor * divergence.to(wide) + settings.weight_decay * length
        if not torch.isfinite(total).all():
            raise UserError(
                f"The loss of an edit is not finite at layer {layer}: the weights are damaged, or {model.dtype} is too "
                "narrow (try --dtype float32)."
            )
        misfit[active], loss[active] = found.detach().double().cpu(), total.detach().double().cpu()
        if turn == 0:
            first_loss = loss.copy()
        going = [
            i
            for i, edit in enumerate(active)
            if turn < settings.steps and np.exp(-misfit[edit]) < settings.stop_probability
        ]
        if not going:
            break
        (gradient,) = torch.autograd.grad(total.sum(), here)
        if turn == 0 and (still := [i for i in going if not gradient[i].any()]):
            idle = edits[still[0]]
            raise UserError(
                f"Nothing that layer {layer} answers at the subject reaches the words after {idle.text!r}: "
                "choose a lower layer."
            )
        active = [active[i] for i in going]
        gradient = gradient[going].detach()
        steps[active] += 1
        first[active] = 0.9 * first[active] + 0.1 * gradient
        second[active] = 0.999 * second[active] + 0.001 * gradient**2
        step = (first[active] / (1 - 0.9 ** (turn + 1))) / (
            torch.sqrt(second[active] / (1 - 0.999 ** (turn + 1))) + 1e-8
        )
        moved = shifts[active] - settings.lr * step
        bound = settings.clamp_norm_factor * size[active]
        shifts[active] = moved * (bound / moved.norm(dim=1)).clamp(max=1.0)[:, None]
    k = keys_of(model, edits, layer, settings)
    shift, answer = (part.double().cpu().numpy().T for part in (shifts, recalled))
    return Targets(k, answer + shift, shift, answer, loss, first_loss, steps, np.exp(-misfit))


def keys_of(model: LanguageModel, edits: Sequence[Fact], layer: int, settings: Settings) -> Float[np.ndarray, "d_m n"]:
    """The keys (d_m, n) at which the edits are written, by the settings' ``key``."""
    contexts = settings.contexts if settings.key == "mean" else ("",)
    told = [replace(fact, prompt=context + fact.prompt) for context in contexts for fact in edits]
    found = keys.extract(model, told, layers=[layer], batch=max(32, len(told)))[layer]
    return found.reshape(found.shape[0], len(contexts), len(edits)).mean(1)
