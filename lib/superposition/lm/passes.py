"""Forward passes: body and head, batches that fit, hooks, and a check at load that all this is the model's own.

The library runs the body once and asks the head only where it needs a token's probability. What a model does with the
head's answer (scales it, caps it) is part of the model: the check finds it, whatever the architecture.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from superposition.errors import UserError, reason
from superposition.io import console
from superposition.lm import products

if TYPE_CHECKING:
    from transformers import Cache

    from superposition.lm.model import LanguageModel, Layer

#: Share of the largest value by which two ways to the same number may differ, by dtype.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}

#: Tokens of the probe that every model is tried on.
PROBE = 6


def padded(sequences: Sequence[Sequence[int]], side: str = "right") -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask (batch, tokens), padded with zeros on the right or on the left."""
    length = max(map(len, sequences))
    ids = torch.zeros(len(sequences), length, dtype=torch.long)
    mask = torch.zeros(len(sequences), length, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        start = length - len(sequence) if side == "left" else 0
        ids[row, start : start + len(sequence)] = torch.tensor(sequence)
        mask[row, start : start + len(sequence)] = 1
    return ids, mask


def run_body(
    model: LanguageModel, ids: torch.Tensor, mask: torch.Tensor, *, cache: Cache | None = None, **extra: Any
) -> Any:
    """The model without its head on token ids (batch, tokens); positions count the mask's ones.

    ``cache`` holds the attention keys and values of tokens before these, and gets those of these.

    Raises
    ------
    UserError
        More positions than the model has, or a token id that it has no embedding for.
    """
    model.check_tokens(ids, mask.shape[1])
    body = model.model.base_model
    known = inspect.signature(body.forward).parameters
    if cache is not None:  # transformers before 5.24 has it under its old name
        extra["cache" if "cache" in known else "past_key_values"] = cache
    if "position_ids" in known and "position_ids" not in extra:
        extra["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :].to(model.device)
    with products.own_tokens(mask[:, -ids.shape[1] :]):
        return body(ids.to(model.device), attention_mask=mask.to(model.device), **extra)


def logits_of(model: LanguageModel, hidden: torch.Tensor) -> torch.Tensor:
    """The model's logits (…, vocabulary) in float32 (float64 of a float64 model) for last hidden states (…, d)."""
    own = model.own_head
    logits = _logits(model, hidden) if own is None else _own_logits(model, own, hidden)
    return logits if logits.dtype == torch.float64 else logits.float()


def _logits(model: LanguageModel, hidden: torch.Tensor) -> torch.Tensor:
    """The head, and the cap that the configuration names."""
    logits = model.model.get_output_embeddings()(hidden)
    cap = getattr(model.model.config.get_text_config(), "final_logit_softcapping", None)
    if not cap:
        return logits
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return torch.tanh(logits / cap) * cap


def _own_logits(model: LanguageModel, own: tuple[torch.nn.Module, type], hidden: torch.Tensor) -> torch.Tensor:
    """The model's own way from last hidden states to logits: its forward pass with the body's answer put in."""
    flat = hidden.reshape(1, -1, hidden.shape[-1])
    ids = torch.zeros(1, flat.shape[1], dtype=torch.long, device=model.device)
    body, kind = own
    with answering((body, kind(last_hidden_state=flat))):
        logits = model.model(ids, use_cache=False).logits
    return logits.reshape(*hidden.shape[:-1], logits.shape[-1])


@contextmanager
def answering(*answers: tuple[torch.nn.Module, Any]) -> Generator[None]:
    """Inside, each module gives its answer to whatever it is asked."""
    before = {module: module.__dict__.get("forward") for module, _ in answers}  # accelerate's, with a device map
    for module, answer in answers:
        module.forward = lambda *_, answer=answer, **__: answer
    try:
        yield
    finally:
        for module, own in before.items():
            del module.forward
            if own is not None:
                module.forward = own


def in_batches(
    count: int,
    run: Callable[[int, int], int | None],
    size: int,
    advice: str = "give a smaller --dtype",
    *,
    start: int = 0,
) -> None:
    """Call ``run(start, stop)`` until ``count`` items are done, ``size`` at once; a tenth fewer where memory lacks.

    Parameters
    ----------
    run : callable
        May return how far it has got, if not to ``stop``. After a lack of memory it is called again from ``start``.
    advice : str
        What to do where memory does not suffice for one item.
    start : int
        How many items are done already.

    Raises
    ------
    UserError
        A size below 1; memory does not suffice for one item.
    """
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    if size < 1:
        raise UserError(f"A batch of {size} makes no sense: give 1 or more.")
    size = min(size, count)
    while start < count:
        stop, scarce = min(start + size, count), False
        try:
            reached = run(start, stop)
            start = stop if reached is None else reached
        except Exception as error:  # of torch's allocator, of cuDNN, of the CPU's: several kinds
            if not should_reduce_batch_size(error):
                raise
            if size == 1:
                raise UserError(f"Memory does not suffice for one text at a time: {advice}.") from error
            scarce = True
        if scarce:  # out here, where the failed pass is let go of
            size = size * 9 // 10
            clear_device_cache(garbage_collection=True)


def last_states(
    model: LanguageModel, sequences: Sequence[Sequence[int]], batch: int, use: Callable[[list[int], torch.Tensor], None]
) -> None:
    """Run sequences, the longest first, and hand ``use`` their indices and last hidden states (rows, tokens, d).

    Raises
    ------
    UserError
        A batch below 1; a sequence longer than the model's context; memory that does not suffice for one.
    """
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))

    def run(start: int, stop: int) -> None:
        ids, mask = padded([sequences[i] for i in order[start:stop]])
        with torch.inference_mode():
            use(order[start:stop], run_body(model, ids, mask, use_cache=False).last_hidden_state)

    in_batches(len(order), run, batch)


@contextmanager
def hooked(*hooks: tuple[torch.nn.Module, Callable[..., Any]], before: bool = False) -> Generator[None]:
    """Inside, each module calls its hook after its forward pass, or with ``before`` ahead of it.

    A hook is called with the module, its inputs and, after the pass, its output; what it returns, if it is not None,
    replaces the output (the inputs). Hooks of one module are called in order.
    """
    handles = []
    try:
        for module, hook in hooks:
            register = module.register_forward_pre_hook if before else module.register_forward_hook
            handles.append(register(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


class Enough(Exception):
    """Raised by a hook once all that a pass was run for has been read; whoever runs the pass catches it."""


class Below:
    """What the blocks below a layer hand on, for passes over the same tokens that differ above it only.

    The first pass inside :meth:`spared` runs these blocks and keeps the states (batch, tokens, d); those after it get
    them, or rows of them. Where a block's answer is something else, it is run again each time.
    """

    def __init__(self, model: LanguageModel, layer: Layer):
        self.blocks = [model.block(below) for below in model.layers[: layer.index]]
        self.states: torch.Tensor | None = None

    def _keep(self, _block: torch.nn.Module, _inputs: Any, output: Any) -> None:
        if torch.is_tensor(output) and output.ndim == 3:
            self.states = output.detach()

    def spared(self, rows: Sequence[int] | None = None, length: int | None = None) -> AbstractContextManager[None]:
        """Around a pass: over all rows, or later over some of them and their first ``length`` tokens."""
        if self.states is None:
            return hooked(*((block, self._keep) for block in self.blocks[-1:]))
        states = self.states if rows is None else self.states[list(rows), :length]
        return answering(*((block, states) for block in self.blocks))


@contextmanager
def shifted(layer: Layer, shift: torch.Tensor, positions: torch.Tensor | None = None) -> Generator[None]:
    """Inside, the down-projection of a layer answers with ``shift`` added.

    Parameters
    ----------
    shift : (batch, tokens, d), or (batch, d) with ``positions``
    positions : (batch,) integers, optional
        The one position of each row at which its shift is added; by default ``shift`` holds all positions.
    """

    def add(_module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if positions is None:
            return output + shift.reshape(output.shape)
        answers = output.reshape(len(shift), -1, output.shape[-1])  # some models hand on (batch · tokens, d)
        at = torch.arange(len(shift), device=answers.device), positions.to(answers.device)
        return (answers + torch.zeros_like(answers).index_put(at, shift.to(answers))).reshape(output.shape)

    with hooked((layer.module, add)):
        yield


@contextmanager
def restored(*parameters: torch.Tensor) -> Generator[None]:
    """Whatever is done to the parameters inside, afterwards they are the same bits as before, and need no new gradient.

    Also after an error or an interrupt.
    """
    kept = [(parameter, parameter.detach().clone(), parameter.requires_grad) for parameter in parameters]
    try:
        yield
    finally:
        with console.interrupts_wait():
            for parameter, values, learns in kept:
                parameter.requires_grad_(learns)
                parameter.grad = None
                parameter.data.copy_(values)


def check(model: LanguageModel) -> None:
    """Run a few tokens in the model's own way and in the library's; where the heads differ, take the model's own.

    Sets ``model.own_head``. Weights that are not finite are left to the commands, which name the layer.

    Raises
    ------
    UserError
        The tokenizer has tokens that the model has no embedding for; a token's state depends on what comes after it;
        the library's passes do not give what the model's own give; or the model cannot be run on token ids alone.
    """
    _check_vocabulary(model)
    try:
        _check_passes(model)
    except UserError:
        raise
    except Exception as error:  # of the model's own code: any kind
        if "out of memory" in str(error) or "can't allocate memory" in str(error):
            raise
        raise UserError(
            f"{model.name} ({type(model.model).__name__}) cannot be run on token ids alone: {reason(error)}"
        ) from error


def _check_vocabulary(model: LanguageModel) -> None:
    rows, tokenizer = model.vocabulary, model.tokenizer
    added = set(getattr(tokenizer, "added_tokens_decoder", {}))  # of images and the like: texts do not hold them
    beyond = [number for number in tokenizer.get_vocab().values() if number >= rows and number not in added]
    if beyond:
        raise UserError(
            f"The tokenizer of {model.name} has tokens up to {max(beyond)} and the model embeds {rows}: they do not "
            "belong together. Give the folder in which both were saved, or resize the embedding."
        )


def _check_passes(model: LanguageModel) -> None:
    ids, mask, half = _probe(model)
    bodies = dict.fromkeys((model.model.base_model, model.model.get_decoder()))
    outputs: dict[torch.nn.Module, Any] = {}

    def keep(module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        outputs.setdefault(module, output)

    with torch.inference_mode():
        with hooked(*((body, keep) for body in bodies)):
            logits = model.model(ids[:1].to(model.device), use_cache=False).logits[0]
            body = next(body for body in bodies if body in outputs)  # the outermost that the model asks
            ours = run_body(model, ids, mask, use_cache=False).last_hidden_state
        own = outputs[body].last_hidden_state
        if not torch.isfinite(logits).all():
            return
        if not _agree(ours[1, :half], ours[0, :half], model.dtype):
            raise UserError(
                f"In {model.name} ({type(model.model).__name__}) a token's state depends on what comes after it, "
                "so it is no causal language model as far as its keys go."
            )
        if not _agree(ours[0], own[0], model.dtype):
            raise UserError(
                f"The library's forward pass of {model.name} ({type(model.model).__name__}) does not give what "
                "the model's own gives, so nothing that it would measure could be trusted."
            )
        model.own_head = body, type(outputs[body])
        own_logits = [_own_logits(model, model.own_head, own[0] * scale) for scale in (1, 10)]
        if not _agree(own_logits[0], logits, model.dtype):
            raise UserError(
                f"The logits of {model.name} ({type(model.model).__name__}) hang on more than its last hidden "
                "states, so probabilities cannot be told."
            )
        if model.model.get_output_embeddings() is not None and all(
            _agree(_logits(model, own[0] * scale), expected, model.dtype)
            for scale, expected in zip((1, 10), own_logits, strict=True)
        ):
            model.own_head = None


def output_norms(model: LanguageModel) -> tuple[torch.nn.Module | None, ...]:
    """For each layer the module that normalises what its memory writes, None where that is added as it is.

    It is known by what it does, on a few tokens: it is fed the down-projection's answer and nothing else, and gives for
    ten times as long an answer the same.
    """
    ids, mask, _ = _probe(model)
    answers: dict[Layer, torch.Tensor] = {}
    norms: dict[Layer, torch.nn.Module] = {}

    def watch(layer: Layer) -> Callable[..., None]:
        def look(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if module is layer.module:
                answers[layer] = output
            elif layer in answers and layer not in norms and _fed(inputs, answers[layer]):
                if _forgets_length(module, inputs[0], model.dtype):
                    norms[layer] = module

        return look

    hooks = [(module, watch(layer)) for layer in model.layers for module in model.block(layer).modules()]
    with torch.inference_mode(), hooked(*hooks):
        run_body(model, ids, mask, use_cache=False)
    return tuple(norms.get(layer) for layer in model.layers)


def _probe(model: LanguageModel) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Ids and mask (2, tokens) of a few tokens that mean nothing special and of their first half; the half's length."""
    config = model.model.config
    reserved = {
        number
        for holder in (config, config.get_text_config())
        for name, number in vars(holder).items()
        if name.endswith(("token_id", "token_index")) and isinstance(number, int)
    }
    step = max(1, model.vocabulary // (2 * PROBE))
    text = [i for i in range(1, model.vocabulary, step) if i not in reserved][:PROBE] or [0]
    half = max(1, len(text) // 2)
    return *padded([text, text[:half]]), half


def _fed(inputs: tuple[Any, ...], answer: torch.Tensor) -> bool:
    """Whether a module's first input is the answer, whatever its shape."""
    first = inputs[0] if inputs else None
    return (
        torch.is_tensor(first) and first.numel() == answer.numel() and torch.equal(first.reshape(answer.shape), answer)
    )


def _forgets_length(module: torch.nn.Module, answers: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether a module gives for answers of any length the same. They are made long enough for a norm's epsilon."""
    size = answers.square().mean(-1, keepdim=True).sqrt()
    if not (size > 0).all():
        return False
    short, long = (module(answers / size * scale) for scale in (100, 1000))
    return torch.is_tensor(short) and bool(short.any()) and _agree(long, short, dtype)


def _agree(one: torch.Tensor, other: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether two tensors are equal up to rounding in this dtype."""
    one, other = one.double(), other.double().to(one.device)
    return bool((one - other).abs().max() <= TOLERANCE[dtype] * other.abs().max())
