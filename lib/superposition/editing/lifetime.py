"""How far edits move a layer, in units of what the layer carries, and how much one edit adds to that.

After n edits the memory of a layer answers a key k of an untouched prompt with ``W₀k + Σ_i (M_iᵀk) δ_i``. What counts
is how far this is from ``W₀k`` compared with the **residual stream** that the block hands on, for this is what the next
block normalises. Where the block normalises what the memory writes, it is the normalised answers that are compared. The
**relative drift** ``R`` is the root mean square of that over untouched facts, at the subject or at every position.

If the residuals of different edits have nothing to do with one another, the squares add: ``R² ≈ n D``, with ``D`` the
mean square of the relative drift of single edits, each alone on the unedited model. For ROME at the subject and over
``‖W₀k‖`` that is ``D = c² q``: ``c`` the size of an edit, ``‖δ‖/‖W₀k‖``, and ``q = mean p²`` its overlap with what is
untouched. Both are known before any edit.

How long a layer lasts can be told then, too: keys cost next to nothing, so those of all edits to come are read; their
shifts are borrowed from a few edits that were tried (:func:`replayed`); with the drift of the whole put in, the model
says what it will have lost. Chapters ``18-law`` and ``19-lifetime``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from superposition.data import facts
from superposition.data.facts import Fact
from superposition.editing import forecast
from superposition.editing.forecast import Reading
from superposition.editing.targets import Targets
from superposition.errors import UserError
from superposition.io import paths
from superposition.linear.edit import Edit
from superposition.linear.memory import LinearMemory
from superposition.linear.metric import SecondMoment
from superposition.lm import keys, passes
from superposition.stats import response
from superposition.stats.intervals import Estimate

if TYPE_CHECKING:
    from superposition.lm.models import LanguageModel

#: What a drift is measured by: the memory's own answer, or the residual stream after the block.
OVER = ("answer", "stream")
#: The shares whose loss is forecast.
SHARES = (0.1, 0.25, 0.5)
#: After how many edits it is looked at what is lost.
LOOKS = (10, 30, 100, 300)
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
            raise passes.Enough

        def run(start: int, stop: int) -> None:
            ids, mask = passes.padded([read.token_ids[row, : read.lengths[row]].tolist() for row in range(start, stop)])
            with suppress(passes.Enough):
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


def coming(
    model: LanguageModel, tried: Sequence[Fact], listed: Sequence[Fact], asked: Sequence[Fact], most: int
) -> list[Fact]:
    """The edits that follow those that are tried: the rest of a list, then the book's requests until there are enough.

    Edits about subjects that the model is asked for are left out, for such facts would be lost to the edit itself; of
    the requests also those about subjects of the list, and those whose key would be at position 0.
    """
    watched = {fact.subject for fact in asked}
    found = [fact for fact in listed if fact not in tried and fact.subject not in watched]
    taken = watched | {fact.subject for fact in listed}
    for fact in facts.load(paths.data_dir() / "requests" / "facts.csv"):
        if len(tried) + len(found) >= most:
            break
        if fact.subject not in taken and keys.locate(model.tokenizer, fact).position > 0:
            taken.add(fact.subject)
            found.append(fact)
    return found


def replayed(
    found: Targets,
    K: Float[np.ndarray, "d_m N"],
    C: SecondMoment,
    rule: str = "rome",
    *,
    step: int = 1,
    whole: bool = False,
    seed: int = 0,
    **options: Any,
) -> Edit:
    """What a rule would write, if the edits that were not tried asked for the shifts of those that were.

    Every edit's target is its own answer of the unedited model and a shift; what earlier edits have already moved there
    it need not write again (:meth:`superposition.linear.memory.LinearMemory.edit_batch`). Targets that are found anew
    in the edited model are otherwise: there an edit asks for its shift on top of what earlier steps have moved.

    Parameters
    ----------
    found : Targets
        The edits that were tried, each alone on the unedited model.
    K : (d_m, N) array
        Keys of all edits in their order, the first those of ``found``.
    C : (d_m, d_m) array or Metric
        Second moment of the layer's keys.
    rule, options
        As :meth:`superposition.linear.memory.LinearMemory.edit_batch` takes them.
    step : int
        How many edits are asked for, and written, at a time.
    whole : bool
        Write each shift whole, as for targets that are found anew.
    seed : int
        Of the draw that says whose shift each of the others gets.

    Raises
    ------
    UserError
        There are fewer keys than edits that were tried.
    """
    tried, N = len(found), K.shape[1]
    if N < tried:
        raise UserError(f"There are keys of {N} edits, and {tried} were tried: give the keys of all.")
    others = np.random.default_rng(seed).integers(tried, size=N - tried)
    shifts = found.shifts[:, [*range(tried), *others]]
    change = LinearMemory(
        np.zeros((len(found.shifts), len(K))), C
    )  # the answers before are in values and residuals alike
    for start in range(0, N, step):
        now = slice(start, start + step)
        moved = change.recall(K[:, now]) if whole else 0
        change.edit_batch(K[:, now], shifts[:, now] + moved, rule, **options)
    return change.edits


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
    looks : (looks,)
        After how many edits it was looked, ascending.
    kept : (looks, m) bool
        Which of the untouched facts the model still says then (:func:`replayed`).
    """

    layer: int
    size: Float[np.ndarray, " n"]
    overlap: Float[np.ndarray, " n"]
    drift: Float[np.ndarray, " n"]
    probability: Float[np.ndarray, " n"]
    looks: Int[np.ndarray, " looks"]
    kept: Bool[np.ndarray, "looks m"]

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

    def lost(self) -> Float[np.ndarray, " looks"]:
        """The share of the untouched facts that is lost at each look."""
        return 1 - self.kept.mean(1)

    def edits_until(self, share: float, *, resamples: int = 1000, seed: int = 0) -> Estimate:
        """After how many edits a share of what the model knows is lost; infinite if after more than the last look.

        The interval is a bootstrap over the untouched facts and over the edits, whose mean D stretches the count.
        """
        ends = [response.reached(self.looks, lost, share) / part for lost, part in self._drawn(resamples, seed)]
        low, high = np.quantile(ends, [0.025, 0.975], method="nearest")
        return Estimate(response.reached(self.looks, self.lost(), share), float(low), float(high))

    def lost_after(self, edits: int, *, resamples: int = 1000, seed: int = 0) -> Estimate:
        """The share of what the model knows that is lost after so many edits, at most the last look's.

        Interval as :meth:`edits_until`.
        """

        ends = [response.at(self.looks, lost, edits * part) for lost, part in self._drawn(resamples, seed)]
        low, high = np.quantile(ends, [0.025, 0.975])
        return Estimate(response.at(self.looks, self.lost(), edits), float(low), float(high))

    def _drawn(self, resamples: int, seed: int) -> Iterator[tuple[Float[np.ndarray, " looks"], float]]:
        """Of resampled facts the share lost at each look, and of resampled edits their D over that of all."""
        rng, (n, m) = np.random.default_rng(seed), (len(self.drift), self.kept.shape[1])
        for _ in range(resamples):
            facts, edits = rng.integers(m, size=m), rng.integers(n, size=n)
            yield 1 - self.kept[:, facts].mean(1), float(self.drift[edits].mean() / self.D)


def outlook(
    untouched: Untouched,
    found: Targets,
    C: SecondMoment,
    K: Float[np.ndarray, "d_m N"] | None = None,
    looks: Sequence[int] = LOOKS,
) -> Outlook:
    """What single edits say of a layer's life, if ROME writes them.

    Parameters
    ----------
    untouched : Untouched
        Facts that the model knows; it is asked for them again with the drift of so many edits put in.
    found : Targets
        Each edit alone on the unedited model (:func:`superposition.editing.targets.search`).
    C : (d_m, d_m) array or Metric
        Second moment of the layer's keys.
    K : (d_m, N) array, optional
        Keys of all edits to come, the first those of ``found``; by default there are no others.
    looks : sequence of int
        After how many edits; those of more than N are left out, and none at all spares the passes.
    """
    K = found.keys if K is None else K
    reading, numbers = untouched.reading, np.array(sorted({n for n in looks if n <= K.shape[1]}), dtype=int)
    single = Edit(found.shifts, forecast.directions(found.keys, C))
    kept = np.zeros((len(numbers), len(reading)), dtype=bool)
    edits, model = replayed(found, K, C), untouched.model
    below = None
    if model.cached_search.get(reading.layer):  # it was tried there that passes may leave the lower blocks out
        below = [passes.Below(model, model.layers[reading.layer]) for _ in forecast.groups(reading)]
    for row, n in enumerate(numbers.tolist()):
        moved = forecast.drift(edits[:n], reading.keys)
        kept[row] = forecast.ask(model, reading, moved, below=below).exact
    return Outlook(
        reading.layer,
        np.linalg.norm(found.shifts, axis=0) / np.linalg.norm(found.recalled, axis=0),
        ((single.M.T @ reading.at_subject()) ** 2).mean(1),
        (untouched.by_edit(single) ** 2)[:, reading.mask()].mean(1),
        found.probability,
        numbers,
        kept,
    )


def root_mean_square(numbers: ArrayLike) -> float:
    """``√mean x²``; of relative drifts, ``R``."""
    return float(np.sqrt(np.mean(np.square(numbers))))
