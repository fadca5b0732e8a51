"""Causal tracing: where in a model a fact passes through (Meng et al. 2022, section 2).

Chapter ``15-editing-a-model``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from superposition.errors import UserError
from superposition.lm.passes import hooked, logits_of, run_body
from superposition.lm.scoring import join, subject_of

if TYPE_CHECKING:
    from superposition.data.facts import Fact
    from superposition.lm.model import LanguageModel

Hook = tuple[torch.nn.Module, Callable[..., Any]]


def trace(
    model: LanguageModel,
    fact: Fact,
    *,
    kind: str = "state",
    layers: Sequence[int] | None = None,
    window: int = 1,
    noise: float = 3.0,
    samples: int = 4,
    seed: int = 0,
    batch: int = 64,
) -> dict[str, Any]:
    """Causal tracing: spoil the subject, put back what the model had at one place, and see whether the fact returns.

    Normal noise of ``noise`` standard deviations of the subject's embeddings is added to them. Then, layer by layer,
    the clean run's output is put back at one token: the last of the subject, the one after it, or the last of the
    prompt.

    Parameters
    ----------
    fact : Fact
        With ``target_true``; its first token is watched.
    kind : {"state", "mlp"}
        What is put back: the decoder layer's output, or the down-projection's.
    layers : sequence of int, optional
        Default: all.
    window : int
        How many layers around each are put back together (for ``"mlp"``; Meng et al. take 10).
    samples : int
        Draws of the noise, the same for every place; results are means over them.

    Returns
    -------
    dict
        ``clean`` and ``corrupted``, probabilities of the object's first token; ``restored``, a list for each token of
        ``places`` ("subject", "after", "last") with a probability for each of ``layers``. Where the subject ends the
        prompt, the three are one token.

    Raises
    ------
    UserError
        No true object, an unknown kind, or a layer the model does not have.

    Notes
    -----
    Meng et al. (2022), section 2; chapter ``15-editing-a-model``.
    """
    if fact.target_true is None:
        raise UserError(f"The fact {fact.text!r} has no target_true: tracing watches the true object.")
    if kind not in ("state", "mlp"):
        raise UserError(f"There is nothing called {kind!r} to put back: choose state or mlp.")
    chosen = [layer.index for layer in model.select(layers)]
    joined = join(model.tokenizer, fact.text, fact.target_true, fact.joint)
    subject, last = subject_of(fact, joined), joined.first - 1
    begin, end = fact.subject_span
    spoilt = [at for at, (start, stop) in enumerate(joined.offsets[: subject + 1]) if start < end and stop > begin]
    prompt = _Prompt(model, torch.tensor([joined.token_ids[: joined.first]]), joined.target[0])
    modules = [model.block(layer) if kind == "state" else layer.module for layer in model.layers]
    clean, states, deviation = prompt.clean(modules, spoilt)
    embedding = model.model.get_input_embeddings()
    drawn = torch.from_numpy(
        np.random.default_rng(seed).normal(size=(samples, len(spoilt), states[0].shape[-1])) * noise * deviation
    )
    corrupted = float(prompt.probabilities(samples, [(embedding, _spoiling(spoilt, drawn))]).mean())
    positions = [subject, min(subject + 1, last), last]
    cells = [(at, layer, draw) for at in dict.fromkeys(positions) for layer in chosen for draw in range(samples)]
    by_cell: dict[tuple[int, int], list[float]] = {}
    for start in range(0, len(cells), batch):
        group = cells[start : start + batch]  # a row each
        hooks = [(embedding, _spoiling(spoilt, drawn[[draw for *_, draw in group]]))]
        for number, module in enumerate(modules):
            rows = [row for row, (_, layer, _) in enumerate(group) if abs(2 * (number - layer)) < window + 1]
            hooks.append((module, _putting_back(states[number], rows, [group[row][0] for row in rows])))
        for (at, layer, _), probability in zip(group, prompt.probabilities(len(group), hooks), strict=True):
            by_cell.setdefault((at, layer), []).append(float(probability))
    return {
        "places": ["subject", "after", "last"],
        "layers": chosen,
        "clean": clean,
        "corrupted": corrupted,
        "restored": [[float(np.mean(by_cell[at, layer])) for layer in chosen] for at in positions],
    }


@dataclass(frozen=True)
class _Prompt:
    """A prompt, (1, tokens), and the token whose probability after it is watched."""

    model: LanguageModel
    ids: torch.Tensor
    target: int

    def probabilities(self, rows: int, hooks: Sequence[Hook]) -> Float[np.ndarray, " rows"]:
        """Of the watched token, in as many copies of the prompt, which the hooks treat differently."""
        ids = self.ids.expand(rows, -1)
        with torch.inference_mode(), hooked(*hooks):
            hidden = run_body(self.model, ids, torch.ones(ids.shape).long(), use_cache=False)
            logits = logits_of(self.model, hidden.last_hidden_state[:, -1])
        return logits.softmax(-1)[:, self.target].double().cpu().numpy()

    def clean(self, modules: Sequence[torch.nn.Module], subject: list[int]) -> tuple[float, list[torch.Tensor], float]:
        """The probability, each module's states (1, tokens, d), and the deviation of the subject's embeddings."""
        states: list[torch.Tensor] = []
        deviations: list[float] = []

        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            state = _states(output).detach()
            if state.numel() != self.ids.shape[1] * self.model.layers[0].d:
                raise UserError(
                    f"The layers of {type(self.model.model).__name__} hand on more than one state a token, which "
                    "tracing cannot put back: trace with kind mlp."
                )
            states.append(state.reshape(1, self.ids.shape[1], -1).clone())

        def measure(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
            deviations.append(float(output[0, subject].std()))

        hooks = [(self.model.model.get_input_embeddings(), measure), *((module, keep) for module in modules)]
        return float(self.probabilities(1, hooks)[0]), states, deviations[0]


def _spoiling(subject: list[int], noise: Float[torch.Tensor, "rows subject d"]) -> Callable[..., Any]:
    """A hook that adds noise to the embeddings of the subject's tokens."""

    def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()  # (rows, tokens, d)
        output[:, subject] += noise.to(output)
        return output

    return hook


def _putting_back(state: torch.Tensor, rows: list[int], positions: list[int]) -> Callable[..., Any]:
    """A hook that puts the clean states (1, tokens, d) back at one position of some rows."""

    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        own = _states(output)
        mixed = own.reshape(-1, *state.shape[1:]).clone()  # (rows, tokens, d)
        mixed[rows, positions] = state[0, positions].to(mixed)
        mixed = mixed.reshape(own.shape)
        return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

    return hook


def _states(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output
