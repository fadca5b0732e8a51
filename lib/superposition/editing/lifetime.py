"""How far edits move a layer, in units of what the layer carries, and how much one edit adds to that.

After n edits the memory of a layer answers a key k of an untouched prompt with ``W₀k + Σ_i (M_iᵀk) δ_i``. What counts
is how far this is from ``W₀k`` compared with the **residual stream** that the block hands on, for this is what the next
block normalises. Where the block normalises what the memory writes, it is the normalised answers that are compared. The
**relative drift** ``R`` is the root mean square of that over untouched facts, at the subject or at every position.

If the residuals of different edits have nothing to do with one another, the squares add: ``R² ≈ n D``, with ``D`` the
mean square of the relative drift of single edits, each alone on the unedited model. For ROME at the subject and over
``‖W₀k‖`` that is ``D = c² q``: ``c`` the size of an edit, ``‖δ‖/‖W₀k‖``, and ``q = mean p²`` its overlap with what is
untouched. Both are known before any edit, and so is how long a layer lasts: a share of what the model knows is lost at
a drift ``R_share`` (:data:`CURVE`), after ``n = R_share²/D`` edits. Chapter ``17-law``.
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
from superposition.editing.targets import Targets
from superposition.errors import UserError
from superposition.linear.edit import Edit
from superposition.linear.metric import SecondMoment
from superposition.lm import passes
from superposition.stats.intervals import Estimate
from superposition.stats.response import LogLogistic

if TYPE_CHECKING:
    from superposition.lm.models import LanguageModel

#: What a drift is measured by: the memory's own answer, or the residual stream after the block.
OVER = ("answer", "stream")
#: The share of the watched facts that is lost, over R: fitted to the even layers of SmolLM2 (record ``law-smollm2``).
CURVE = LogLogistic(middle=0.3, steepness=1.5)
#: Root mean square distance from it of the shares that were lost at layers and models it was not fitted to.
ERROR = 0.05
#: The shares whose loss is forecast.
SHARES = (0.1, 0.25, 0.5)
#: An edit takes at a layer if its new object is at least as likely as this; a layer is worth editing if so many do.
TAKEN, TAKES = 0.5, 0.9


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


def expected_lost(untouched: Untouched, edit: Edit) -> Estimate:
    """The share of what the model knows that edits lose, by the law: from R alone, and twice :data:`ERROR` about it."""
    moved = forecast.drift(edit, untouched.reading.keys)
    share = float(CURVE.share(root_mean_square(untouched.relative(moved)[untouched.reading.mask()])))
    return Estimate(share, max(0.0, share - 2 * ERROR), min(1.0, share + 2 * ERROR))


@dataclass(frozen=True, eq=False)
class Outlook:
    """What is known of a layer's life before any edit, from n edits each found alone on the unedited model.

    Attributes
    ----------
    layer : int
    size : (n,)
        ``‖δ‖/‖W₀k‖`` of each edit.
    overlap : (n,)
        Mean ``p²`` of each edit with the subjects of the untouched facts.
    drift : (n,)
        Mean square relative drift that each edit causes, over the residual stream, at all positions.
    probability : (n,)
        Of the new object with the edit's value put in.
    """

    layer: int
    size: Float[np.ndarray, " n"]
    overlap: Float[np.ndarray, " n"]
    drift: Float[np.ndarray, " n"]
    probability: Float[np.ndarray, " n"]

    @property
    def c(self) -> float:
        """Size of an edit, a root mean square."""
        return root_mean_square(self.size)

    @property
    def q(self) -> float:
        """Overlap of an edit with what is untouched."""
        return float(self.overlap.mean())

    @property
    def D(self) -> float:
        """Mean square relative drift of one edit: ``R² ≈ n D`` after n of them."""
        return float(self.drift.mean())

    @property
    def takes(self) -> float:
        """Share of the edits whose new object is likelier than not (:data:`TAKEN`)."""
        return float((self.probability >= TAKEN).mean())

    def edits_until(self, share: float, *, resamples: int = 2000, seed: int = 0) -> Estimate:
        """After how many edits a share of what the model knows is lost, with its interval over edits (bootstrap)."""
        reach, (low, high) = float(CURVE.dose(share)) ** 2, self._ends(resamples, seed)
        return Estimate(reach / self.D, reach / high, reach / low)

    def lost_after(self, edits: int, *, resamples: int = 2000, seed: int = 0) -> Estimate:
        """The share of what the model knows that is lost after so many edits, with its interval over edits."""
        ends = (self.D, *self._ends(resamples, seed))
        return Estimate(*(float(CURVE.share((edits * D) ** 0.5)) for D in ends))

    def _ends(self, resamples: int, seed: int) -> tuple[float, float]:
        """The 95 % bootstrap interval of D over edits."""
        rng, n = np.random.default_rng(seed), len(self.drift)
        drawn = self.drift[rng.integers(n, size=(resamples, n))].mean(1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        return float(low), float(high)


def outlook(untouched: Untouched, found: Targets, C: SecondMoment) -> Outlook:
    """What single edits say of a layer's life, if ROME writes them.

    Parameters
    ----------
    untouched : Untouched
    found : Targets
        Each edit alone on the unedited model (:func:`superposition.editing.targets.search`).
    C : (d_m, d_m) array or Metric
        Second moment of the layer's keys.
    """
    single = Edit(found.shifts, forecast.directions(found.keys, C))
    overlaps = single.M.T @ untouched.reading.at_subject()
    squares = untouched.by_edit(single) ** 2  # (n, m, T)
    return Outlook(
        untouched.reading.layer,
        np.linalg.norm(found.shifts, axis=0) / np.linalg.norm(found.recalled, axis=0),
        (overlaps**2).mean(1),
        squares[:, untouched.reading.mask()].mean(1),
        found.probability,
    )


def root_mean_square(numbers: ArrayLike) -> float:
    """``√mean x²``; of relative drifts, ``R``."""
    return float(np.sqrt(np.mean(np.square(numbers))))
