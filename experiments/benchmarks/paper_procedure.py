"""The paper's own procedure for P, written plainly, to be compared with the library's.

As released with Hu et al. (arXiv 2408.07413): for every layer, an explicit inverse of C; for every fact i, its key;
and for every pair (i, j), a forward pass that reads the key of fact j again. The repeated passes are what makes it
slow, and what the library does not do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from superposition.data.facts import Fact
from superposition.lm.models import LanguageModel
from superposition.lm.passes import hooked


def last_subject_token(model: LanguageModel, fact: Fact) -> tuple[list[int], int]:
    """Token ids of the prompt, and where the subject ends, by the number of tokens up to there."""
    ids = model.tokenizer(fact.text)["input_ids"]
    upto = model.tokenizer(fact.text[: fact.subject_span[1]])["input_ids"]
    return ids, len(upto) - 1


def key(model: LanguageModel, layer: int, fact: Fact) -> np.ndarray:
    """One full forward pass, language-model head included, for one key."""
    ids, position = last_subject_token(model, fact)
    seen = []
    module = model.layers[layer].module
    with torch.no_grad(), hooked((module, lambda _module, inputs, _output: seen.append(inputs[0][0, position]))):
        model.model(torch.tensor([ids], device=model.device))
    return seen[0].cpu().double().numpy()


def superposition_of_pairs(
    model: LanguageModel, layer: int, facts: Sequence[Fact], moment: np.ndarray
) -> tuple[np.ndarray, float]:
    """P of a few facts at one layer, pair by pair, and the seconds a pass took (without the inverse)."""
    inverse = np.linalg.inv(moment)
    found = np.empty((len(facts), len(facts)))
    began = time.perf_counter()
    for i, first in enumerate(facts):
        k_i = key(model, layer, first)
        C_k_i = inverse @ k_i
        for j, second in enumerate(facts):
            found[i, j] = (C_k_i @ key(model, layer, second)) / (C_k_i @ k_i)
    return found, (time.perf_counter() - began) / (len(facts) ** 2 + len(facts))
