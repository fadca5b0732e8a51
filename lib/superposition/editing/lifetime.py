"""How far edits move a layer, in units of what the layer carries, and how much one edit adds to that.

After n edits the memory of a layer answers a key k of an untouched prompt with ``W₀k + Σ_i (M_iᵀk) δ_i``. What counts
is how far this is from ``W₀k`` compared with the **residual stream** that the block hands on, for this is what the next
block normalises. Where the block normalises what the memory writes, it is the normalised answers that are compared. The
**relative drift** ``R`` is the root mean square of that over untouched facts, at the subject or at every position.

If the residuals of different edits have nothing to do with one another, the squares add: ``R² ≈ n D``, with ``D`` the
mean square of the relative drift of single edits, each alone on the unedited model. For ROME at the subject and over
``‖W₀k‖`` that is ``D = c² q``: ``c`` the size of an edit, ``‖δ‖/‖W₀k‖``, and ``q = mean p²`` its overlap with what is
untouched. Both are known before any edit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike

from superposition.editing import forecast
from superposition.editing.forecast import Reading
from superposition.errors import UserError
from superposition.linear.edit import Edit
from superposition.lm import passes

if TYPE_CHECKING:
    from superposition.lm.models import LanguageModel

#: What a drift is measured by: the memory's own answer, or the residual stream after the block.
OVER = ("answer", "stream")


@dataclass(frozen=True, eq=False)
class Untouched:
    """The facts that nobody edits, as the unedited model reads them at one layer: what drift is measured by.

    Parameters
    ----------
    model : LanguageModel
        Unedited: what is needed of it is read at once, so that it can be edited afterwards.
    reading : Reading
        Of m facts (:func:`superposition.editing.forecast.read`).
    """

    model: LanguageModel
    reading: Reading

    def __post_init__(self) -> None:
        _ = self.written, self.stream

    @cached_property
    def answers(self) -> Float[np.ndarray, "m T d"]:
        """``W₀k`` and the bias, at every position of every prompt and object; zero beyond the length."""
        layer = self.model.layers[self.reading.layer]
        found = self.reading.keys.astype(np.float64) @ layer.weight.detach().double().cpu().numpy().T
        if layer.bias is not None:
            found += layer.bias.detach().double().cpu().numpy()
        return found * self.reading.mask()[..., None]

    @cached_property
    def written(self) -> Float[np.ndarray, "m T d"]:
        """What the memory adds to the residual stream: its answers, normalised where the block does that."""
        return self._written(self.answers)

    def _written(self, answers: Float[np.ndarray, "m T d"]) -> Float[np.ndarray, "m T d"]:
        layer = self.model.layers[self.reading.layer]
        if self.model.output_norms[layer.index] is None:
            return answers
        own = layer.parameter
        with torch.inference_mode():
            given = torch.from_numpy(answers).to(device=own.device, dtype=own.dtype)
            return self.model.written(layer, given).double().cpu().numpy()

    @cached_property
    def stream(self) -> Float[np.ndarray, "m T"]:
        """Length of the residual stream after the block; one beyond the length of a prompt."""
        read, model = self.reading, self.model
        found = np.ones(read.keys.shape[:2])
        states: list[torch.Tensor] = []

        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            states[:] = [output[0] if isinstance(output, tuple) else output]

        def run(start: int, stop: int) -> None:
            ids, mask = passes.padded([read.token_ids[row, : read.lengths[row]].tolist() for row in range(start, stop)])
            passes.run_body(model, ids, mask, use_cache=False)
            lengths = states[0].reshape(*ids.shape, -1).double().norm(dim=-1).cpu().numpy()
            found[start:stop, : ids.shape[1]] = np.where(mask.numpy() > 0, lengths, 1.0)

        with torch.inference_mode(), passes.hooked((model.block(model.layers[read.layer]), keep)):
            passes.in_batches(len(read), run, 64)
        return found

    def lengths(self, over: str = "stream") -> Float[np.ndarray, "m T"]:
        """What a drift is divided by: the length of the answer as it is written, or of the residual stream.

        Raises
        ------
        UserError
            Neither of :data:`OVER`.
        """
        if over not in OVER:
            raise UserError(f"There is no length {over!r}: choose from {', '.join(OVER)}.")
        if over == "stream":
            return self.stream
        inside = self.reading.mask()
        return np.where(inside, np.linalg.norm(self.written, axis=2), 1.0)

    def relative(self, moved: Float[np.ndarray, "m T d"], over: str = "stream") -> Float[np.ndarray, "m T"]:
        """``‖written(W₀k + drift) − written(W₀k)‖`` over :meth:`lengths`, zero beyond the length.

        ``moved`` is the drift of the memory's answers (:func:`superposition.editing.forecast.drift`).
        """
        inside = self.reading.mask()
        change = np.linalg.norm(self._written(self.answers + moved) - self.written, axis=2)
        return change * inside / self.lengths(over)

    def by_edit(self, edit: Edit, over: str = "stream") -> Float[np.ndarray, "n m T"]:
        """The relative drift of each edit alone, at every position: ``D`` is the mean of its squares over a place.

        The edits' residuals are to be those of each alone on the unedited model.
        """
        parts = forecast.shares(edit.M, self.reading.keys)  # (n, m, T)
        if self.model.output_norms[self.reading.layer] is None:
            lengths = np.linalg.norm(edit.delta, axis=0)[:, None, None]
            return np.abs(parts) * lengths * self.reading.mask() / self.lengths(over)
        alone = zip(parts, edit.delta.T, strict=True)
        return np.stack([self.relative(part[..., None] * delta, over) for part, delta in alone])


def root_mean_square(numbers: ArrayLike) -> float:
    """``√mean x²``; of relative drifts, ``R``."""
    return float(np.sqrt(np.mean(np.square(numbers))))
