"""A causal language model: its memories, the down-projections of its MLPs, and the keys that enter them.

The memory of a layer is the down-projection of its MLP, ``W`` of shape (d, d_m); what enters it is the key
(:doc:`/book/notation`, chapter ``11-superposition-in-llms``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from superposition.errors import UserError
from superposition.io import console, files
from superposition.lm import passes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

console.quiet()

#: Where a decoder layer keeps its down-projection, by architecture.
DOWN_PROJECTIONS: dict[str, str] = {
    "mlp.down_proj": "Llama, Mistral, Qwen2, Qwen3, Gemma 3",
    "mlp.c_proj": "GPT-2",
    "mlp.fc_out": "GPT-J",
    "mlp.dense_4h_to_h": "GPT-NeoX",
    "fc2": "OPT",
    "mlp.fc2": "Phi",
    "ffn.down_proj": "MPT",
    "feed_forward.w2": "LFM 2",
    "feed_forward.down_proj": "Falcon H1",
}


@dataclass(frozen=True)
class Layer:
    """The memory of one decoder layer.

    Attributes
    ----------
    index : int
        Position of the layer, from 0.
    block : str
        Name of the decoder layer inside the model.
    name : str
        Name of the down-projection inside the model.
    module : torch.nn.Module
        The down-projection itself.
    transposed : bool
        Whether the module stores ``Wᵀ``, as GPT-2's ``Conv1D`` does.
    """

    index: int
    block: str
    name: str
    module: nn.Module = field(repr=False)
    transposed: bool

    @property
    def parameter(self) -> nn.Parameter:
        """The model's own parameter: ``W``, or ``Wᵀ`` where it is stored transposed."""
        return cast(nn.Parameter, self.module.weight)

    @property
    def weight(self) -> torch.Tensor:
        """``W`` of shape (d, d_m): a view of the model's own parameter."""
        return self.parameter.T if self.transposed else self.parameter

    @property
    def bias(self) -> torch.Tensor | None:
        """The bias (d,) that the down-projection adds, if it has one."""
        return cast("torch.Tensor | None", getattr(self.module, "bias", None))

    @property
    def d(self) -> int:
        return self.weight.shape[0]

    @property
    def d_m(self) -> int:
        return self.weight.shape[1]


@dataclass(eq=False)
class LanguageModel:
    """A causal language model, its tokenizer and its memories.

    Attributes
    ----------
    model : transformers.PreTrainedModel
    tokenizer : transformers.PreTrainedTokenizerFast
    layers : tuple of Layer
        One for each decoder layer, in order.
    name : str
        Preset, hub id, or the last part of the folder's or file's path.
    weight_files : tuple of Path
        The files that the weights were read from, all of them and no others.
    folder : Path or None
        Where they, the configuration and the tokenizer lie.
    own_head : (torch.nn.Module, type) or None
        Where logits are more than the head's answer: the module that hands last hidden states to the model's own
        way to them, and the type in which it does (:func:`superposition.lm.passes.check`).
    cached_search : dict of int to bool
        By layer, whether the target search may keep what comes before the subject
        (:func:`superposition.editing.targets.search`).
    """

    model: Any
    tokenizer: Any
    layers: tuple[Layer, ...]
    name: str
    weight_files: tuple[Path, ...] = field(default=(), repr=False)
    known_sha256: str | None = field(default=None, repr=False)
    folder: Path | None = field(default=None, repr=False)
    own_head: tuple[nn.Module, type] | None = field(default=None, repr=False)
    cached_search: dict[int, bool] = field(default_factory=dict, repr=False)

    @cached_property
    def sha256(self) -> str:
        """Digest of the weights: of the published file of a preset or GGUF, else of the files that were read."""
        if self.known_sha256 is not None:
            return self.known_sha256
        return files.sha256_of(self.weight_files) if self.weight_files else digest(self.model)

    def digest(self) -> str:
        """Digest of the weights as they are now (:func:`digest`): an edit changes it, undoing the edit restores it."""
        return digest(self.model)

    @property
    def device(self) -> torch.device:
        """Where token ids enter the model."""
        embeddings = self.model.get_input_embeddings()
        hook = getattr(embeddings, "_hf_hook", None)  # of accelerate, where a device map spreads the model
        device = getattr(hook, "execution_device", None)
        return embeddings.weight.device if device is None else torch.device(device)

    @property
    def dtype(self) -> torch.dtype:
        return self.layers[0].weight.dtype

    @cached_property
    def context_length(self) -> int | None:
        """Longest text in tokens that the configuration allows, if it says."""
        config = self.model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)

    @cached_property
    def output_norms(self) -> tuple[nn.Module | None, ...]:
        """For each layer the module that normalises what its memory writes before it enters the residual stream.

        None where it is added as it is. With one, as in Gemma 2, Gemma 3 and OLMo 2, only the direction of ``W k``
        counts. Found by what the block does (:func:`superposition.lm.passes.output_norms`), not by a name.
        """
        return passes.output_norms(self)

    def written(self, layer: Layer, answers: torch.Tensor) -> torch.Tensor:
        """What a layer adds to the residual stream where its memory answers ``answers`` (…, d)."""
        norm = self.output_norms[layer.index]
        return answers if norm is None else norm(answers)

    def block(self, layer: Layer) -> nn.Module:
        """The decoder layer that holds a down-projection."""
        return self.model.get_submodule(layer.block)

    @property
    def vocabulary(self) -> int:
        """How many tokens the model embeds."""
        return self.model.get_input_embeddings().weight.shape[0]

    def check_tokens(self, token_ids: torch.Tensor, length: int) -> None:
        """Refuse texts of more positions than the model has, and token ids that it does not embed.

        Ids are looked at on the CPU only: asking a GPU would make every pass wait.

        Raises
        ------
        UserError
        """
        if self.context_length and length > self.context_length:
            raise UserError(f"A text has {length} tokens and {self.name} takes {self.context_length}: shorten it.")
        if token_ids.device.type == "cpu" and token_ids.numel() and int(token_ids.max()) >= self.vocabulary:
            raise UserError(
                f"A text holds the token {self.tokenizer.convert_ids_to_tokens(int(token_ids.max()))!r}, and "
                f"{self.name} has no embedding for it: take it out of the text."
            )

    def select(self, layers: Sequence[int] | None) -> tuple[Layer, ...]:
        """The layers with these indices, in ascending order; all for ``None``; negative counts from the end.

        Raises
        ------
        UserError
            An index is out of range, or the selection is empty.
        """
        if layers is None:
            return self.layers
        count = len(self.layers)
        outside = [index for index in layers if not -count <= index < count]
        if outside or not layers:
            asked = ", ".join(map(str, outside)) if outside else "none"
            raise UserError(f"Layers asked for: {asked}; {self.name} has layers 0 to {count - 1}. Choose among those.")
        return tuple(self.layers[index] for index in sorted({index % count for index in layers}))

    def read_keys(
        self,
        token_ids: torch.Tensor,
        mask: torch.Tensor,
        layers: Sequence[Layer],
        receive: Callable[[Layer, torch.Tensor], None],
    ) -> None:
        """One forward pass that hands over what enters each down-projection, and stops after the last layer asked.

        Parameters
        ----------
        token_ids : (batch, tokens) integers
        mask : (batch, tokens) integers
            1 at a text's own tokens, 0 at padding, which may be on either side.
        layers : sequence of Layer
        receive : callable
            Called once a layer, in order, with the layer and its keys, (batch, tokens, d_m).
        """
        batch, length = token_ids.shape
        last = max(layers, key=lambda layer: layer.index)

        def hook(layer: Layer) -> Callable[..., None]:
            def read(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
                receive(layer, inputs[0].reshape(batch, length, -1))
                if layer is last:
                    raise passes.Enough

            return read

        hooks = [(layer.module, hook(layer)) for layer in layers]
        with suppress(passes.Enough), passes.hooked(*hooks, before=True), torch.inference_mode():
            passes.run_body(self, token_ids, mask, use_cache=False)


def digest(model: nn.Module) -> str:
    """SHA-256 of every parameter's and buffer's name and bytes: equal before and after means the same bits."""
    total = hashlib.sha256()
    state = model.state_dict()
    if any(tensor.is_meta for tensor in state.values()):  # accelerate keeps these in memory or on the disk
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        state = get_state_dict_offloaded_model(model)
    for name, tensor in sorted(state.items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def find_layers(model: PreTrainedModel, suffix: str | None = None) -> tuple[Layer, ...]:
    """Find the down-projection of every decoder layer.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of a model that also sees or hears, the text part is searched.
    suffix : str, optional
        Its name inside a decoder layer, ``"mlp.down_proj"``; by default one of
        :data:`superposition.lm.model.DOWN_PROJECTIONS` is looked for.

    Raises
    ------
    UserError
        There is none in every layer: the message names what was looked for and what was found.
    """
    count = model.config.get_text_config().num_hidden_layers
    modules = _decoder_modules(model)
    for known in DOWN_PROJECTIONS if suffix is None else [suffix]:
        pattern = re.compile(rf"((?:.*\.)?\w+)\.(\d+)\.{re.escape(known)}")
        stacks: dict[str, dict[int, str]] = {}
        for name, module in modules.items():
            if (match := pattern.fullmatch(name)) and getattr(module, "weight", None) is not None:
                stacks.setdefault(match[1], {})[int(match[2])] = name
        for stack, names in stacks.items():
            if sorted(names) == list(range(count)):
                return tuple(
                    Layer(
                        index,
                        f"{stack}.{index}",
                        names[index],
                        modules[names[index]],
                        transposed=type(modules[names[index]]).__name__ == "Conv1D",
                    )
                    for index in range(count)
                )
    raise UserError(_no_layers(model, modules, count, suffix))


def _decoder_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The modules of the text part by their names in the whole model."""
    modules = dict(model.named_modules())
    find = getattr(model, "get_decoder", None)
    decoder = find() if find is not None else None
    if decoder is None or decoder is model:
        return modules
    prefix = next((f"{name}." for name, module in modules.items() if module is decoder), "")
    return {name: module for name, module in modules.items() if name.startswith(prefix)}


def _no_layers(model: nn.Module, modules: dict[str, nn.Module], count: int, suffix: str | None) -> str:
    """Why no down-projections were found."""
    kind = type(model).__name__
    experts = sorted(
        {match[1] for name in modules if (match := re.search(r"\.(\d+)\.(?:.*\.)?experts\b", name))}, key=int
    )
    if experts:
        which = "all" if len(experts) == count else f"{len(experts)}"
        return (
            f"{kind} has a mixture of experts in {which} of its {count} layers: a fact's key then depends on which "
            "expert is asked, and this library does not measure or edit that. Choose a dense model."
        )
    linear = sorted(
        {
            re.sub(r"^.*?\.\d+\.", "", name)
            for name, module in modules.items()
            if getattr(module, "weight", None) is not None and module.weight.ndim == 2 and re.search(r"\.\d+\.", name)
        }
    )
    return (
        f"No down-projection was found in {kind}: looked in each of its {count} layers for "
        f"{', '.join(DOWN_PROJECTIONS) if suffix is None else suffix}; found there "
        f"{', '.join(linear) or 'no matrix at all'}. Name the right one with --down-projection, or down_projection= "
        "in the library."
    )
