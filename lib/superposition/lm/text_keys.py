"""Keys at random tokens of a text, beside which keys of facts can be held (chapter ``12-nulls-and-confounds``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int

from superposition.errors import UserError

if TYPE_CHECKING:
    from superposition.lm.models import LanguageModel


def keys_of_text(
    model: LanguageModel,
    texts: Iterable[str],
    *,
    count: int,
    draws: int = 1,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    context: int = 128,
    batch: int = 16,
    part: tuple[int, int] = (0, 1),
) -> tuple[dict[int, Float[np.ndarray, "draws d_m count"]], Int[np.ndarray, "draws count"]]:
    """Keys at random tokens of a text, by layer, and the tokens' ids: facts as if they were any tokens at all.

    Each text is cut after ``context`` tokens; ``count`` of those with at least two tokens are drawn, and from each
    one random position a draw, never the first (attention sinks). ``part=(i, n)`` reads the i-th of n parts of the
    batches and leaves zeros elsewhere, so that the n results add up to the whole.

    Raises
    ------
    UserError
        The texts are fewer than ``count``.
    """
    rng = np.random.default_rng(seed)
    ids = [model.tokenizer(text, verbose=False)["input_ids"][:context] for text in texts]
    ids = [piece for piece in ids if len(piece) > 1]
    if len(ids) < count:
        raise UserError(f"Keys of {count} texts were asked for, and there are {len(ids)}: give more text.")
    chosen = [ids[i] for i in rng.choice(len(ids), size=count, replace=False)]
    places = np.array([rng.integers(1, len(piece), size=draws) for piece in chosen])
    selected = model.select(layers)
    found = {layer.index: np.zeros((draws, layer.d_m, count)) for layer in selected}
    by_length = sorted(range(count), key=lambda i: len(chosen[i]))
    for start in range(0, count, batch)[part[0] :: part[1]]:
        group = by_length[start : start + batch]
        length = max(len(chosen[i]) for i in group)
        tokens, mask = torch.zeros(2, len(group), length, dtype=torch.long)
        for row, i in enumerate(group):
            tokens[row, : len(chosen[i])] = torch.tensor(chosen[i])
            mask[row, : len(chosen[i])] = 1

        def receive(layer: Any, keys: torch.Tensor, group: list[int] = group) -> None:
            rows = torch.arange(len(group), device=keys.device)[:, None]
            read = keys[rows, torch.tensor(places[group], device=keys.device)]  # (group, draws, d_m)
            found[layer.index][:, :, group] = read.permute(1, 2, 0).cpu().double().numpy()

        model.read_keys(tokens, mask, selected, receive)
    return found, np.array([[piece[p] for p in row] for piece, row in zip(chosen, places, strict=True)]).T
