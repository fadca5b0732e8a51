"""Keys of facts: what enters each down-projection at the last token of the subject, all layers in one pass.

Chapter ``11-superposition-in-llms``; the token rule is that of Hu et al. (arXiv 2408.07413) and of ROME.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from superposition.errors import UserError
from superposition.io import console
from superposition.lm import passes

if TYPE_CHECKING:
    from superposition.data.facts import Fact
    from superposition.lm.model import LanguageModel, Layer


@dataclass(frozen=True)
class SubjectToken:
    """A prompt's token ids, and the index and id of the token that holds its subject's last character."""

    token_ids: tuple[int, ...]
    position: int

    @property
    def token_id(self) -> int:
        return self.token_ids[self.position]


@dataclass(frozen=True)
class Keys:
    """Keys of m facts at several layers.

    Attributes
    ----------
    by_layer : dict of int to (d_m, m) float64
        One column a fact, in the facts' order.
    tokens : tuple of SubjectToken
        Where each key was read.
    """

    by_layer: dict[int, Float[np.ndarray, "d_m m"]]
    tokens: tuple[SubjectToken, ...]

    def __getitem__(self, layer: int) -> Float[np.ndarray, "d_m m"]:
        return self.by_layer[layer]


def subject_token(fact: Fact, offsets: Sequence[tuple[int, int]]) -> int:
    """Index of the token that holds the last character of a fact's subject.

    Where a byte-level tokenizer spreads that character over several tokens, it is the last of them. Accents written as
    characters of their own (``"e\\u0301"``) belong to the letter before them: a tokenizer that composes them covers
    the letter only.

    Parameters
    ----------
    fact : Fact
    offsets : sequence of (start, stop)
        Of the tokens of a text that begins with the fact's own (:attr:`superposition.data.facts.Fact.text`), in
        characters.

    Raises
    ------
    UserError
        No token covers that character.
    """
    begin, end = fact.subject_span
    while end - 1 > begin and unicodedata.category(fact.text[end - 1]) == "Mn":
        end -= 1
    holders = [
        at for at, (start, stop) in enumerate(offsets) if start < fact.subject_span[1] and max(start + 1, end) <= stop
    ]
    if holders:
        return holders[-1]
    raise UserError(
        f"The subject {fact.subject!r} was not found in the tokens of {fact.text!r}: "
        "check the subject's last character, or the tokenizer."
    )


def locate(tokenizer, fact: Fact) -> SubjectToken:
    """Tokenise a fact's prompt with the tokenizer's defaults and find its subject's token (:func:`subject_token`).

    Raises
    ------
    UserError
        As there.
    """
    encoded = tokenizer(fact.text, return_offsets_mapping=True)
    return SubjectToken(tuple(encoded["input_ids"]), subject_token(fact, encoded["offset_mapping"]))


def locate_all(model: LanguageModel, facts: Sequence[Fact]) -> tuple[SubjectToken, ...]:
    """:func:`locate` for each fact.

    Raises
    ------
    UserError
        No facts; a subject not found in its tokens; a prompt longer than the model's context.
    """
    if not facts:
        raise UserError("There are no facts to read keys from: give at least one.")
    located = tuple(locate(model.tokenizer, fact) for fact in facts)
    for fact, subject in zip(facts, located, strict=True):
        if model.context_length and len(subject.token_ids) > model.context_length:
            raise UserError(
                f"The prompt of {fact.subject!r} has {len(subject.token_ids)} tokens and the model "
                f"takes {model.context_length}: shorten it."
            )
    return located


def note_first(located: Sequence[SubjectToken]) -> None:
    """Say how many subjects are read at position 0: a model's keys there are alike, whatever the token is.

    Chapter ``12-nulls-and-confounds``.
    """
    first = sum(subject.position == 0 for subject in located)
    if first:
        console.warn(
            f"{first} of {len(located)} subjects are a single token at the beginning of the prompt. What a model holds "
            "there hardly depends on the token, so the overlap of these facts with each other says little about them "
            "(chapter 12). Put words before the subject."
        )


def extract(
    model: LanguageModel,
    facts: Sequence[Fact],
    *,
    layers: Sequence[int] | None = None,
    batch: int = 32,
    padding_side: str = "right",
) -> Keys:
    """Read the keys of facts at several layers, each batch of prompts in one forward pass.

    Parameters
    ----------
    model : LanguageModel
    facts : sequence of Fact
    layers : sequence of int, optional
        Default: all.
    batch : int
        Prompts a forward pass; made smaller by itself while memory does not suffice.
    padding_side : {"right", "left"}

    Raises
    ------
    UserError
        No facts; a batch below 1; a subject not found in its tokens; a prompt longer than the model's context;
        NaN or infinite keys; memory that does not suffice for one prompt.
    """
    chosen = model.select(layers)
    located = locate_all(model, facts)
    by_length = sorted(range(len(located)), key=lambda i: len(located[i].token_ids))
    by_layer = {layer.index: np.empty((layer.d_m, len(facts))) for layer in chosen}

    def run(start: int, stop: int) -> None:
        group = by_length[start:stop]
        for index, keys in _read(model, [located[i] for i in group], chosen, padding_side).items():
            by_layer[index][:, group] = keys.T.numpy()
        bar.update(len(group))

    with console.bar(total=len(facts), what="keys", unit="fact") as bar:
        passes.in_batches(len(facts), run, batch, "give fewer --layers or a smaller --dtype")
    return Keys(by_layer, located)


def _read(
    model: LanguageModel, located: Sequence[SubjectToken], chosen: Sequence[Layer], padding_side: str
) -> dict[int, torch.Tensor]:
    """Keys (batch, d_m) float64 of some prompts by layer, in one pass."""
    ids, mask = passes.padded([subject.token_ids for subject in located], padding_side)
    shifts = ids.shape[1] - mask.sum(1) if padding_side == "left" else 0
    positions = torch.tensor([subject.position for subject in located]) + shifts
    rows = torch.arange(len(located))
    by_layer = {}

    def receive(layer: Layer, keys: torch.Tensor) -> None:
        read = keys[rows.to(keys.device), positions.to(keys.device)].cpu().double()  # (batch, tokens, d_m) -> (…, d_m)
        if not torch.isfinite(read).all():
            raise UserError(
                f"Layer {layer.index} gives NaN or infinity at a subject: the weights are damaged, or {model.dtype} "
                "is too narrow (try --dtype float32)."
            )
        by_layer[layer.index] = read

    model.read_keys(ids, mask, chosen, receive)
    return by_layer
