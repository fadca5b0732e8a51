"""Forward passes: the model without its head, its head alone, and a check at load that both are the model's own.

The library runs the body once and asks the head only where it needs a token's probability. What a model does with the
head's answer (scales it, caps it) is part of the model: the check finds it, whatever the architecture.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from superposition.errors import UserError, reason

if TYPE_CHECKING:
    from superposition.lm.models import LanguageModel

#: Share of the largest value by which two ways to the same number may differ, by dtype.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}

#: Tokens of the probe that every model is tried on.
PROBE = 6


def padded(sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask (batch, tokens), padded on the right."""
    length = max(map(len, sequences))
    ids = torch.zeros(len(sequences), length, dtype=torch.long)
    mask = torch.zeros(len(sequences), length, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return ids, mask


def run_body(model: LanguageModel, ids: torch.Tensor, mask: torch.Tensor, **extra: Any) -> Any:
    """The model without its head on token ids (batch, tokens); positions count the mask's ones.

    Raises
    ------
    UserError
        More positions than the model has, or a token id that it has no embedding for.
    """
    model.check_tokens(ids, mask.shape[1])
    body = model.model.base_model
    known = inspect.signature(body.forward).parameters
    if "position_ids" in known and "position_ids" not in extra:
        extra["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :].to(model.device)
    return body(ids.to(model.device), attention_mask=mask.to(model.device), **extra)


def logits_of(model: LanguageModel, hidden: torch.Tensor) -> torch.Tensor:
    """The model's logits (…, vocabulary) in float32 (float64 of a float64 model) for last hidden states (…, d)."""
    logits = (_logits if model.own_head is None else _own_logits)(model, hidden)
    return logits if logits.dtype == torch.float64 else logits.float()


def _logits(model: LanguageModel, hidden: torch.Tensor) -> torch.Tensor:
    """The head, and the cap that the configuration names."""
    logits = model.model.get_output_embeddings()(hidden)
    cap = getattr(model.model.config.get_text_config(), "final_logit_softcapping", None)
    if not cap:
        return logits
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return torch.tanh(logits / cap) * cap


def _own_logits(model: LanguageModel, hidden: torch.Tensor) -> torch.Tensor:
    """The model's own way from last hidden states to logits: its forward pass with the body's answer put in."""
    flat = hidden.reshape(1, -1, hidden.shape[-1])
    ids = torch.zeros(1, flat.shape[1], dtype=torch.long, device=model.device)
    body, kind = model.own_head
    with _answering(body, kind(last_hidden_state=flat)):
        logits = model.model(ids, use_cache=False).logits
    return logits.reshape(*hidden.shape[:-1], logits.shape[-1])


@contextmanager
def _answering(body: torch.nn.Module, answer: Any) -> Iterator[None]:
    """Inside, the body gives this answer to whatever it is asked."""
    before = body.__dict__.get("forward")  # accelerate's, where a device map spreads the model
    body.forward = lambda *_, **__: answer
    try:
        yield
    finally:
        del body.forward
        if before is not None:
            body.forward = before


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
    config = model.model.config
    reserved = {
        number
        for holder in (config, config.get_text_config())
        for name, number in vars(holder).items()
        if name.endswith(("token_id", "token_index")) and isinstance(number, int)
    }
    step = max(1, model.vocabulary // (2 * PROBE))
    text = [i for i in range(1, model.vocabulary, step) if i not in reserved][:PROBE]
    text = text or [0]
    half = max(1, len(text) // 2)
    ids, mask = padded([text, text[:half]])
    bodies = dict.fromkeys((model.model.base_model, model.model.get_decoder()))
    outputs: dict[torch.nn.Module, Any] = {}

    def keep(module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        outputs.setdefault(module, output)

    handles = [body.register_forward_hook(keep) for body in bodies]
    try:
        with torch.inference_mode():
            logits = model.model(ids[:1].to(model.device), use_cache=False).logits[0]
            body = next(body for body in bodies if body in outputs)  # the outermost that the model asks
            own = outputs[body].last_hidden_state
            ours = run_body(model, ids, mask, use_cache=False).last_hidden_state
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
            for handle in handles:
                handle.remove()
            model.own_head = body, type(outputs[body])
            own_logits = [_own_logits(model, own[0] * scale) for scale in (1, 10)]
            if not _agree(own_logits[0], logits, model.dtype):
                raise UserError(
                    f"The logits of {model.name} ({type(model.model).__name__}) hang on more than its last hidden "
                    "states, so probabilities cannot be told."
                )
            if model.model.get_output_embeddings() is not None and all(
                _agree(_logits(model, own[0] * scale), found, model.dtype)
                for scale, found in zip((1, 10), own_logits, strict=True)
            ):
                model.own_head = None
    finally:
        for handle in handles:
            handle.remove()


def _agree(one: torch.Tensor, other: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether two tensors are equal up to rounding in this dtype."""
    one, other = one.double(), other.double().to(one.device)
    return bool((one - other).abs().max() <= TOLERANCE[dtype] * other.abs().max())
