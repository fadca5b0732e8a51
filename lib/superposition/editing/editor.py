"""Edits of a language model, one step after another: target values found on the model as it is, then one of the rules.

The layer's account is a :class:`superposition.linear.memory.LinearMemory` in float64: it knows every residual
``δ(v_i)`` and direction ``M_i``, so it tells the interference at the layer, ``Σ_i δ(v_i) M_iᵀ k_j``, which
:meth:`Editor.measured` compares with what the model's own weights do. The model gets the account's W, rounded to its
dtype. Nothing is derived here: the rules are those of :mod:`superposition.linear.rules`.

**Scale of C.** C is the mean ``K Kᵀ / N`` over a text (:mod:`superposition.lm.moments`). ROME, EMMET and hard recursive
least squares do not feel its scale. MEMIT and soft recursive least squares do: with ``λ C`` in the place of C the text
counts as λ keys, an edit as one, and the share ``h / (h + λ)`` of a residual is written, ``h = kᵀC⁻¹k``. MEMIT's code
has λ = 15,000 for GPT-J, whose d_m is 16,384. The mean of h over the text's own keys is d_m, so λ is given here per
dimension (``EditSettings.text_weight``). AlphaEdit compares C's eigenvalues with a threshold, which is absolute in its
code (0.02) and follows here from a share of the trace (``EditSettings.protected``).

Chapters ``15-editing-a-model``, ``16-lifelong-failure`` and ``21-cures``.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from superposition.editing import targets
from superposition.editing.targets import Targets, TargetSettings
from superposition.errors import UserError
from superposition.io import console
from superposition.linear import rules
from superposition.linear.memory import RULES, LinearMemory
from superposition.linear.metric import Metric, SecondMoment
from superposition.lm import passes

if TYPE_CHECKING:
    from superposition.data.facts import Fact
    from superposition.lm.models import LanguageModel

__all__ = ["EditSettings", "Editor", "LayerEditor", "edit_side_by_side", "null_space", "preserved"]

#: How far from its mean over a text, 1, the size kᵀC⁻¹k / d_m of an edit's key may be, either way.
SCALE = 1e4


@dataclass(frozen=True)
class EditSettings:
    """Every hyperparameter of the writing step.

    Parameters
    ----------
    text_weight : float
        λ / d_m of memit, memit-history and rls-soft, see the module. MEMIT for GPT-J: 15,000 / 16,384 = 0.92.
    protected : float
        AlphaEdit: share of C's trace that is protected. The directions with the smallest eigenvalues that together hold
        no more than the rest are left for writing.
    ridge : float
        AlphaEdit: penalty on the change, in units of the mean squared length of a text key in the directions left for
        writing. Its code has 1, 10 in some settings, in absolute units.
    ft_lr, ft_steps, ft_stop : float, int, float
        Fine-tuning: Adam's rate, steps at most, and the loss at which it stops. ROME's code: 5e-4, 25, 0.01.
    ft_norm : float, optional
        Largest change of any entry of W in one step's edits ("FT-L"; ROME's code: 5e-5 … 2e-4). None: unbounded.
    """

    text_weight: float = 0.92
    protected: float = 0.9
    ridge: float = 1.0
    ft_lr: float = 5e-4
    ft_steps: int = 25
    ft_stop: float = 0.01
    ft_norm: float | None = None

    def __post_init__(self) -> None:
        if not self.text_weight > 0 or not self.ridge > 0 or not self.ft_lr > 0 or self.ft_steps < 1:
            raise UserError("text_weight, ridge, ft_lr and ft_steps must be positive.")
        if not 0 < self.protected < 1:
            raise UserError(f"A protected share of {self.protected} makes no sense: give one between 0 and 1.")
        if self.ft_norm is not None and not self.ft_norm > 0:
            raise UserError(f"An ft_norm of {self.ft_norm} forbids every change: give a positive one, or none.")


def preserved(model: LanguageModel) -> AbstractContextManager[None]:
    """Whatever is done to the down-projections inside, afterwards they are the same bits as before."""
    return passes.restored(*(layer.parameter for layer in model.layers))


class LayerEditor:
    """What every editor of one layer of a model has in common, by a rule or by fine-tuning.

    Attributes
    ----------
    W_0 : (d, d_m) float64
        The layer's weights before the first edit.
    batches : list of int
        For each edit the number of its step.
    log : list of dict
        A row an edit.
    """

    def __init__(self, model: LanguageModel, layer: int, method: str, write: EditSettings | None = None):
        (self.layer,) = model.select([layer])
        self.model, self.method, self.write = model, method, write or EditSettings()
        self.W_0 = self._weights()
        self.batches: list[int] = []
        self.log: list[dict[str, float]] = []

    @property
    def n_edits(self) -> int:
        """How many edits have been made."""
        return len(self.batches)

    def _weights(self) -> Float[np.ndarray, "d d_m"]:
        return self.layer.weight.detach().double().cpu().numpy().copy()

    def _put(self, W: Float[np.ndarray, "d d_m"]) -> None:
        weight = self.layer.parameter
        new = torch.from_numpy(np.ascontiguousarray(W.T if self.layer.transposed else W))
        weight.data.copy_(new.to(weight.dtype))

    def _count(self, edits: int) -> None:
        step = self.batches[-1] + 1 if self.batches else 0
        self.batches += [step] * edits

    def measured(self, K: Float[np.ndarray, "d_m N"]) -> Float[np.ndarray, "d N"]:
        """``(W − W_0) K`` with the weights that the model has now: the interference at the layer as it is."""
        return (self._weights() - self.W_0) @ K

    def drift(self) -> float:
        """``‖W − W_0‖ / ‖W_0‖`` of the model's weights."""
        return self._drift_of(self._weights())

    def _drift_of(self, W: Float[np.ndarray, "d d_m"]) -> float:
        return float(np.linalg.norm(W - self.W_0) / np.linalg.norm(self.W_0))

    def _content(self, W: Float[np.ndarray, "d d_m"]) -> dict[str, Any]:
        """The plain content of a state that has led to W."""
        return {"batches": self.batches, "log": self.log, "drift": self._drift_of(W)}

    def _take_up(self, W: Float[np.ndarray, "d d_m"], content: dict[str, Any]) -> None:
        self.batches, self.log = list(content["batches"]), list(content["log"])
        if not np.isclose(self._drift_of(W), content["drift"], rtol=1e-6, atol=0):
            raise UserError("The saved steps lead to other weights on this machine: remove the state and start again.")


class Editor(LayerEditor):
    """One layer of a model, and the rule by which it is edited.

    Parameters
    ----------
    model : LanguageModel
        Its weights change with every :meth:`edit`; wrap the experiment in :func:`preserved` to get them back.
    layer : int
    method : str
        One of :data:`superposition.linear.memory.RULES`; for fine-tuning see
        :class:`superposition.editing.finetune.FineTuner`.
    C : (d_m, d_m) array or Metric
        Mean second moment of a text's keys at the layer (:meth:`superposition.lm.moments.Moments.second_moment`).
    settings, write : TargetSettings, EditSettings
        Of the target values and of the writing step.

    Attributes
    ----------
    memory : LinearMemory
        The account in float64.
    log : list of dict
        For each edit: ``steps``, ``loss``, ``probability`` of its target, norms of recalled value and shift.

    Raises
    ------
    UserError
        An unknown method, a layer the model does not have, no C, a C of the wrong width.
    """

    memory: LinearMemory

    def __init__(
        self,
        model: LanguageModel,
        layer: int,
        method: str = "rome",
        *,
        C: SecondMoment | None = None,
        settings: TargetSettings | None = None,
        write: EditSettings | None = None,
    ):
        if method not in RULES:
            raise UserError(f"There is no method {method!r}: choose from {', '.join(RULES)}.")
        super().__init__(model, layer, method, write)
        self.settings = settings or TargetSettings()
        if C is None:
            raise UserError(f"The method {method} needs C: estimate it with superposition.lm.moments.")
        metric = Metric.of(C)
        if metric.d_m != self.layer.d_m:
            raise UserError(f"C has width {metric.d_m} and layer {layer} reads keys of {self.layer.d_m} dimensions.")
        self.memory = LinearMemory(self.W_0, metric)
        self.options: dict[str, Any] = {}
        if method in ("memit", "memit-history", "rls-soft"):
            self.options["weight"] = 1 / (self.write.text_weight * self.layer.d_m)
        if method == "alphaedit":
            self.options["projector"], self.options["ridge"] = null_space(metric.moment, self.write)

    def apply(self) -> None:
        """Put this account's W into the model (needed after another editor of the same layer was at work there)."""
        self._put(self.memory.W)

    def weights(self, W: Float[np.ndarray, "d d_m"] | None = None) -> Float[torch.Tensor, "d d_m"]:
        """This account's W, or another, as the model would have it: its dtype, its device."""
        own = self.layer.parameter
        W = self.memory.W if W is None else W
        return torch.from_numpy(np.ascontiguousarray(W)).to(device=own.device, dtype=own.dtype)

    def find(self, facts: Sequence[Fact], batch: int = 8, *, beforehand: bool = False) -> Targets:
        """Look for the target values of edits, ``batch`` at a time; nothing is written.

        Parameters
        ----------
        beforehand : bool
            Look on the unedited model, whatever has been edited since. By default on the model as it is now.

        Raises
        ------
        UserError
            As :func:`superposition.editing.targets.search`.
        """
        W_0 = self.weights(self.W_0)
        own = [W_0] * len(facts) if beforehand else None
        layer = self.layer.index
        return targets.search(self.model, list(facts), layer, self.settings, batch=batch, weights=own, W_0=W_0)

    def edit(self, facts: Sequence[Fact], batch: int = 8) -> None:
        """Make one step with these edits: find their target values, ``batch`` at a time, and write them together.

        Raises
        ------
        UserError
            As :func:`superposition.editing.targets.search` and the rules. Then, and after an interrupt, the
            model is as it was before the step.
        """
        self.store(self.find(facts, batch))

    def store(self, new: Targets, apply: bool = True) -> None:
        """Write target values found already, in one step; into the account alone if ``apply`` is false."""
        columns = {"steps": new.steps, "loss": new.loss, "probability": new.probability}
        columns |= {"recalled_norm": np.linalg.norm(new.recalled, axis=0)}
        columns |= {"shift_norm": np.linalg.norm(new.shifts, axis=0)}
        if "weight" in self.options and not self.n_edits:
            self._check_scale(new.keys)
        bias = self._bias()
        with console.interrupts_wait():  # the account, the model and the log are of the same edits
            self.memory.edit_batch(new.keys, new.values - bias, self.method, **self.options)
            if apply:
                self.apply()
            self._count(len(new))
            self.log += [{name: column[i].item() for name, column in columns.items()} for i in range(len(new))]

    def _check_scale(self, K: Float[np.ndarray, "d_m n"]) -> None:
        """Refuse a C that is no mean over keys: with the sum over a text's keys these rules write next to nothing.

        In the mean over the text's own keys ``kᵀC⁻¹k / d_m`` is 1.
        """
        size = float(np.median((K * self.memory.metric.solve(K)).sum(0)) / self.layer.d_m)
        if not 1 / SCALE <= size <= SCALE:
            raise UserError(
                f"C seems to be on another scale than the keys, by a factor of {1 / size:.0e}: give the mean of k kᵀ "
                f"over a text's keys, not their sum; {self.method} weighs the text by it."
            )

    def _bias(self) -> Float[np.ndarray, "d 1"] | float:
        bias = self.layer.bias
        return 0.0 if bias is None else bias.detach().double().cpu().numpy()[:, None]

    def predicted(self, K: Float[np.ndarray, "d_m N"]) -> Float[np.ndarray, "d N"]:
        """``Σ_i δ(v_i) M_iᵀ K`` from the account; for ROME ``M_iᵀk_j`` is ``p(k_i, k_j)``."""
        return self.memory.predicted_interference(K)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and plain content from which :meth:`resume` gets to the same bits."""
        arrays = {"keys": self.memory.keys, "values": self.memory.values}
        return {name: np.ascontiguousarray(array) for name, array in arrays.items()}, self._content(self.memory.W)

    def resume(self, arrays: dict[str, np.ndarray], content: dict[str, Any]) -> None:
        """Make the steps of a saved state again, from its keys and values.

        Raises
        ------
        UserError
            The steps do not lead to the same weights.
        """
        steps = np.asarray(content["batches"])
        for step in range(steps[-1] + 1 if steps.size else 0):
            mine = steps == step
            self.memory.edit_batch(arrays["keys"][:, mine], arrays["values"][:, mine], self.method, **self.options)
        self.apply()
        self._take_up(self.memory.W, content)


def edit_side_by_side(
    editors: Sequence[Editor],
    steps: Sequence[Sequence[Fact]],
    batch: int = 8,
    searcher: LanguageModel | None = None,
) -> None:
    """Make one step of edits in each of several accounts of a layer, their targets found in shared passes.

    A forward pass takes its time for reading the weights, or for telling a GPU what to do, so that several edited
    copies of one model, which differ in one matrix only, cost little more than one. The model itself is left as it is;
    :meth:`Editor.apply` puts an account into it. The search for the shifts can be left to a ``searcher``, the same
    unedited model in a narrower dtype; keys, recalled answers and the writing stay the editors' own.

    Parameters
    ----------
    editors : sequence of Editor
    steps : sequence of sequence of Fact
        For each editor the edits of its step.
    batch : int
        Edits a forward pass.
    searcher : LanguageModel, optional

    Raises
    ------
    UserError
        Editors of different layers, models or settings, or of fine-tuning; as many steps as editors are needed; and as
        :meth:`Editor.edit`. Where one account refuses its step, the others have made theirs.
    """
    first = editors[0]
    if len(steps) != len(editors) or any(
        not isinstance(editor, Editor)
        or editor.model is not first.model
        or editor.layer.index != first.layer.index
        or editor.settings != first.settings
        or not np.array_equal(editor.W_0, first.W_0)
        for editor in editors
    ):
        raise UserError(
            "Side by side go editors of one unedited model, one layer and the same settings, no fine-tuning, and a "
            "step of edits for each."
        )
    lm, layer, settings = searcher or first.model, first.layer.index, first.settings
    facts = [fact for step in steps for fact in step]
    weights = [editor.weights().to(lm.dtype) for editor in editors]
    of_fact = [weight for weight, step in zip(weights, steps, strict=True) for _ in step]
    W_0 = first.weights(first.W_0).to(lm.dtype)
    new = targets.search(lm, facts, layer, settings, batch=batch, weights=of_fact, W_0=W_0)
    ends = np.cumsum([len(step) for step in steps])
    parts = [slice(end - len(step), end) for end, step in zip(ends, steps, strict=True)]
    if searcher is not None:
        K = targets.keys_of(first.model, facts, layer, settings)  # (d_m, facts)
        answers = [editor.memory.W @ K[:, part] + editor._bias() for editor, part in zip(editors, parts, strict=True)]
        recalled = np.concatenate(answers, axis=1)  # (d, facts)
        new = replace(new, keys=K, recalled=recalled, values=recalled + new.shifts)
    with ThreadPoolExecutor() as pool:  # each writes into an account of its own
        writing = [pool.submit(editor.store, new[part], False) for editor, part in zip(editors, parts, strict=True)]
    for task in writing:
        task.result()


def null_space(C: Float[np.ndarray, "d_m d_m"], write: EditSettings) -> tuple[Float[np.ndarray, "d_m d_m"], float]:
    """AlphaEdit's projector on the directions that hold the unprotected share of C's trace, and the ridge."""
    values = np.linalg.eigvalsh(C)
    total = np.cumsum(values)
    count = int(np.searchsorted(total, (1 - write.protected) * total[-1], side="right"))
    if count == 0:
        raise UserError(f"To protect {write.protected} of C leaves no direction to write in: protect less.")
    threshold = (values[count - 1] + values[min(count, len(values) - 1)]) / 2
    return rules.null_space_projector(C, threshold), write.ridge * float(total[count - 1])
