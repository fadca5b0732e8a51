"""Edits of a language model, one step after another: target values found on the model as it is, then one of the rules.

The layer's account is a :class:`superposition.linear.memory.LinearMemory` in float64: it knows every residual
``δ(v_i)`` and direction ``M_i``, so it tells the interference at the layer, ``Σ_i δ(v_i) M_iᵀ k_j``, which
:meth:`Editor.measured` compares with what the model's own weights do. The model gets the account's W, rounded to its
dtype. Nothing is derived here: the rules are those of :mod:`superposition.linear.rules`.

**Scale of C.** C is the mean ``K Kᵀ / N`` over a text (:mod:`superposition.lm.moments`). ROME, EMMET and hard recursive
least squares do not feel its scale. MEMIT and soft recursive least squares do: with ``λ C`` in the place of C the text
counts as λ keys, an edit as one, and the share ``h / (h + λ)`` of a residual is written, ``h = kᵀC⁻¹k``. MEMIT's code
has λ = 15,000 for GPT-J, whose d_m is 16,384. The mean of h over the text's own keys is d_m, so λ is given here per
dimension (``Write.text_weight``). AlphaEdit compares C's eigenvalues with a threshold, which is absolute in its
code (0.02) and follows here from a share of the trace (``Write.protected``).

Chapters ``15-editing-a-model``, ``16-lifelong-failure`` and ``18-cures``.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from superposition.editing.targets import Settings, Targets, keys_of, targets
from superposition.errors import UserError
from superposition.io import console, files
from superposition.linear import rules
from superposition.linear.memory import LinearMemory
from superposition.lm.passes import logits_of, padded, run_body
from superposition.lm.scoring import join

if TYPE_CHECKING:
    from superposition.data.facts import Fact
    from superposition.lm.models import LanguageModel

__all__ = ["METHODS", "Editor", "Run", "Write", "edit_side_by_side", "preserved", "run"]

#: Methods by name, and how many edits each writes in a step unless told otherwise.
METHODS: dict[str, int] = {
    "rome": 1,
    "memit": 1,
    "memit-history": 1,
    "emmet": 1,
    "alphaedit": 1,
    "rls-soft": 1,
    "rls-hard": 1,
    "ft": 1,
}


#: How far from its mean over a text, 1, the size kᵀC⁻¹k / d_m of an edit's key may be, either way.
SCALE = 1e4

#: After how many edits a state is written, checkpoints apart.
SAVE_EVERY = 20


@dataclass(frozen=True)
class Write:
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


@contextmanager
def preserved(model: LanguageModel) -> Iterator[None]:
    """Whatever is done to the down-projections inside, afterwards they are the same bits as before."""
    weights = [layer.module.weight for layer in model.layers]
    kept = [weight.detach().clone() for weight in weights]
    needed = [weight.requires_grad for weight in weights]
    try:
        yield
    finally:
        for weight, before, grad in zip(weights, kept, needed, strict=True):
            weight.requires_grad_(grad)
            weight.grad = None
            weight.data.copy_(before)


class Editor:
    """One layer of a model, and the method by which it is edited.

    Parameters
    ----------
    model : LanguageModel
        Its weights change with every :meth:`edit`; wrap the experiment in :func:`preserved` to get them back.
    layer : int
    method : str
        One of :data:`METHODS`.
    C : (d_m, d_m) array
        Mean second moment of a text's keys at the layer (:meth:`superposition.lm.moments.Moments.second_moment`). Not
        needed for ``ft``.
    settings, write : Settings, Write
        Of the target values and of the writing step.

    Attributes
    ----------
    memory : LinearMemory or None
        The account in float64; None for ``ft``, which changes W in no such way.
    W_0 : (d, d_m) float64
        The layer's weights before the first edit.
    log : list of dict
        For each edit: ``steps``, ``loss``, ``probability`` of its target, norms of key, recalled value and shift.

    Raises
    ------
    UserError
        An unknown method, a layer the model does not have, no C where one is needed, a C of the wrong width.
    """

    def __init__(
        self,
        model: LanguageModel,
        layer: int,
        method: str = "rome",
        *,
        C: Float[np.ndarray, "d_m d_m"] | None = None,
        settings: Settings | None = None,
        write: Write | None = None,
    ):
        if method not in METHODS:
            raise UserError(f"There is no method {method!r}: choose from {', '.join(METHODS)}.")
        (self.layer,) = model.select([layer])
        self.model, self.method = model, method
        self.settings, self.write = settings or Settings(), write or Write()
        self.W_0 = self._weights()
        self.batches: list[int] = []
        self.log: list[dict[str, float]] = []
        self.memory: LinearMemory | None = None
        self.options: dict[str, Any] = {}
        if method == "ft":
            return
        if C is None:
            raise UserError(f"The method {method} needs C: estimate it with superposition.lm.moments.")
        if C.shape != (self.layer.d_m, self.layer.d_m):
            raise UserError(f"C has shape {C.shape} and layer {layer} reads keys of {self.layer.d_m} dimensions.")
        self.memory = LinearMemory(self.W_0, C)
        if method in ("memit", "memit-history", "rls-soft"):
            self.options["weight"] = 1 / (self.write.text_weight * self.layer.d_m)
        if method == "alphaedit":
            self.options |= dict(zip(("projector", "ridge"), null_space(C, self.write), strict=True))

    @property
    def n_edits(self) -> int:
        """How many edits have been made."""
        return len(self.batches)

    def _weights(self) -> Float[np.ndarray, "d d_m"]:
        return self.layer.weight.detach().double().cpu().numpy().copy()

    def apply(self) -> None:
        """Put this account's W into the model (needed after another editor of the same layer was at work there)."""
        if self.memory is None:
            raise UserError("Fine-tuning keeps no account: its W is the model's own.")
        self._put(self.memory.W)

    def weights(self) -> torch.Tensor:
        """This account's W (d, d_m) as the model would have it: its dtype, its device."""
        own = self.layer.module.weight
        return torch.from_numpy(np.ascontiguousarray(self.memory.W)).to(device=own.device, dtype=own.dtype)

    def _put(self, W: Float[np.ndarray, "d d_m"]) -> None:
        weight = self.layer.module.weight
        new = torch.from_numpy(np.ascontiguousarray(W.T if self.layer.transposed else W))
        weight.data.copy_(new.to(weight.dtype))

    def edit(self, facts: Sequence[Fact], batch: int = 8) -> None:
        """Make one step with these edits: find their target values, ``batch`` at a time, and write them together.

        Raises
        ------
        UserError
            As :func:`superposition.editing.targets.targets` and the rules. Then, and after an interrupt, the
            model is as it was before the step.
        """
        facts = list(facts)
        if self.method == "ft":
            self._fine_tune(facts)
            return
        found = targets(self.model, facts, self.layer.index, self.settings, batch=batch)
        self.store(found)

    def _fine_tune(self, facts: list[Fact]) -> None:
        for fact in facts:
            if fact.target_new is None:
                raise UserError(f"The edit {fact.text!r} has no target_new: say what the model shall answer.")
        made, before, weight = self.n_edits, self._weights(), self.layer.module.weight
        kept = weight.detach().clone()
        try:
            losses = fine_tune(self.model, self.layer.index, facts, self.write)
            change = float(np.linalg.norm(self._weights() - before))
            with console.interrupts_wait():
                self.log += [{"steps": len(losses) - 1, "loss": losses[-1], "change": change} for _ in facts]
                self._count(len(facts))
        except BaseException:
            if self.n_edits == made:
                weight.data.copy_(kept)
            raise

    def store(self, found: Targets, apply: bool = True) -> None:
        """Write target values found already, in one step; into the account alone if ``apply`` is false."""
        if self.memory is None:
            raise UserError("Fine-tuning has no target values to write: call edit.")
        rows = zip(
            found.steps.tolist(),
            found.loss.tolist(),
            found.probability.tolist(),
            np.linalg.norm(found.recalled, axis=0).tolist(),
            np.linalg.norm(found.shifts, axis=0).tolist(),
            strict=True,
        )
        names = ("steps", "loss", "probability", "recalled_norm", "shift_norm")
        if "weight" in self.options and not self.n_edits:
            self._check_scale(found.keys)
        bias = self._bias()
        with console.interrupts_wait():  # the account, the model and the log are of the same edits
            self.memory.edit_batch(found.keys, found.values - bias, self.method, **self.options)
            if apply:
                self.apply()
            self._count(len(found))
            self.log += [dict(zip(names, row, strict=True)) for row in rows]

    def _check_scale(self, K: Float[np.ndarray, "d_m n"]) -> None:
        """Refuse a C that is no mean over keys: with the sum over a text's keys these rules write next to nothing.

        In the mean over the text's own keys ``kᵀC⁻¹k / d_m`` is 1.
        """
        size = float(np.median((K * self.memory.factor.solve(K)).sum(0)) / self.layer.d_m)
        if not 1 / SCALE <= size <= SCALE:
            raise UserError(
                f"C seems to be on another scale than the keys, by a factor of {1 / size:.0e}: give the mean of k kᵀ "
                f"over a text's keys, not their sum; {self.method} weighs the text by it."
            )

    def _bias(self) -> Float[np.ndarray, "d 1"] | float:
        bias = getattr(self.layer.module, "bias", None)
        return 0.0 if bias is None else bias.detach().double().cpu().numpy()[:, None]

    def _count(self, edits: int) -> None:
        step = self.batches[-1] + 1 if self.batches else 0
        self.batches += [step] * edits

    # --- the account ----------------------------------------------------------------------------------------

    def measured(self, K: Float[np.ndarray, "d_m N"]) -> Float[np.ndarray, "d N"]:
        """``(W − W_0) K`` with the weights that the model has now: the interference at the layer as it is."""
        return (self._weights() - self.W_0) @ K

    def predicted(self, K: Float[np.ndarray, "d_m N"]) -> Float[np.ndarray, "d N"]:
        """``Σ_i δ(v_i) M_iᵀ K`` from the account; for ROME ``M_iᵀk_j`` is ``p(k_i, k_j)``.

        Raises
        ------
        UserError
            The method is ``ft``, which keeps no account.
        """
        if self.memory is None:
            raise UserError("Fine-tuning keeps no account of its edits: interference cannot be predicted.")
        return self.memory.predicted_interference(K)

    def drift(self) -> float:
        """``‖W − W_0‖ / ‖W_0‖`` of the model's weights."""
        return self._drift_of(self._weights())

    def _drift_of(self, W: Float[np.ndarray, "d d_m"]) -> float:
        return float(np.linalg.norm(W - self.W_0) / np.linalg.norm(self.W_0))

    # --- state ----------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and plain content from which :meth:`resume` gets to the same bits."""
        if self.memory is None:
            arrays, W = {"W": self.layer.weight.detach().float().cpu().numpy().copy()}, self._weights()
        else:
            arrays = {
                "keys": np.ascontiguousarray(self.memory.keys),
                "values": np.ascontiguousarray(self.memory.values),
            }
            W = self.memory.W
        return arrays, {"batches": self.batches, "log": self.log, "drift": self._drift_of(W)}

    def resume(self, arrays: dict[str, np.ndarray], content: dict[str, Any]) -> None:
        """Make the steps of a saved state again, from its keys and values.

        Raises
        ------
        UserError
            The steps do not lead to the same weights.
        """
        if self.memory is None:
            W = arrays["W"].astype(float)
            self._put(W)
        else:
            steps = np.asarray(content["batches"])
            for step in range(steps[-1] + 1 if steps.size else 0):
                mine = steps == step
                self.memory.edit_batch(arrays["keys"][:, mine], arrays["values"][:, mine], self.method, **self.options)
            W = self.memory.W
            self.apply()
        self.batches, self.log = list(content["batches"]), list(content["log"])
        if not np.isclose(self._drift_of(W), content["drift"], rtol=1e-6, atol=0):
            raise UserError("The saved steps lead to other weights on this machine: remove the state and start again.")


def edit_side_by_side(
    editors: Sequence[Editor],
    steps: Sequence[Sequence[Fact]],
    batch: int = 8,
    searcher: LanguageModel | None = None,
) -> None:
    """Make one step of edits in each of several accounts of a layer, their targets found in shared passes.

    A forward pass takes its time for reading the weights, or for telling a GPU what to do, so that several lives of one
    model, which differ in one matrix only, cost little more than one. The model itself is left as it is;
    :meth:`Editor.apply` shows it a life. The search for the shifts can be left to a ``searcher``, the same unedited
    model in a narrower dtype; keys, recalled answers and the writing stay the editors' own.

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
        one.model is not first.model
        or one.layer.index != first.layer.index
        or one.settings != first.settings
        or one.memory is None
        for one in editors
    ):
        raise UserError(
            "Side by side go editors of one model, layer and settings, no fine-tuning, and a step of edits for each."
        )
    lm = searcher or first.model
    weights = [one.weights().to(lm.dtype) for one in editors]
    facts = [fact for step in steps for fact in step]
    of = [weight for weight, step in zip(weights, steps, strict=True) for _ in step]
    found = targets(lm, facts, first.layer.index, first.settings, batch=batch, weights=of)
    ends = np.cumsum([len(step) for step in steps])
    parts = [slice(end - len(step), end) for end, step in zip(ends, steps, strict=True)]
    if searcher is not None:
        K = keys_of(first.model, facts, first.layer.index, first.settings)
        answers = [one.memory.W @ K[:, part] + one._bias() for one, part in zip(editors, parts, strict=True)]
        recalled = np.concatenate(answers, axis=1)
        found = replace(found, keys=K, recalled=recalled, values=recalled + found.shifts)
    with ThreadPoolExecutor() as pool:  # each writes into an account of its own
        writing = [pool.submit(one.store, found[part], False) for one, part in zip(editors, parts, strict=True)]
    for one in writing:
        one.result()


def null_space(C: Float[np.ndarray, "d_m d_m"], write: Write) -> tuple[Float[np.ndarray, "d_m d_m"], float]:
    """AlphaEdit's projector on the directions that hold the unprotected share of C's trace, and the ridge."""
    values = np.linalg.eigvalsh(C)
    total = np.cumsum(values)
    count = int(np.searchsorted(total, (1 - write.protected) * total[-1], side="right"))
    if count == 0:
        raise UserError(f"To protect {write.protected} of C leaves no direction to write in: protect less.")
    threshold = (values[count - 1] + values[min(count, len(values) - 1)]) / 2
    return rules.null_space_projector(C, threshold), write.ridge * float(total[count - 1])


def fine_tune(model: LanguageModel, layer: int, facts: Sequence[Fact], write: Write) -> list[float]:
    """Adam on the layer's whole W, for the objects' mean log-probability at the bare prompts; the losses by step."""
    joined = [join(model.tokenizer, fact.text, str(fact.target_new), fact.joint) for fact in facts]
    ids, mask = padded([one.token_ids[:-1] for one in joined])
    asked = [(row, at) for row, one in enumerate(joined) for at in range(one.first - 1, len(one.token_ids) - 1)]
    wanted = torch.tensor([token for one in joined for token in one.target], device=model.device)
    share = torch.tensor([1.0 / len(one.target) / len(joined) for one in joined for _ in one.target])
    weight = model.layers[layer].module.weight
    narrow = weight.dtype in (torch.float16, torch.bfloat16)
    master = weight.detach().float() if narrow else weight  # Adam's ε is 0 in float16, and its small steps are lost
    before = master.detach().clone()
    weight.requires_grad_(True)
    adam = torch.optim.Adam([master], lr=write.ft_lr)
    losses = []
    try:
        for turn in range(write.ft_steps + 1):
            with torch.set_grad_enabled(turn < write.ft_steps):
                hidden = run_body(model, ids, mask, use_cache=False).last_hidden_state
                logs = logits_of(model, hidden[[r for r, _ in asked], [a for _, a in asked]]).log_softmax(-1)
                loss = -(logs.gather(1, wanted[:, None])[:, 0] * share.to(logs)).sum()
            losses.append(float(loss.detach()))
            if not np.isfinite(losses[-1]):
                raise UserError(
                    f"The loss of fine-tuning is not finite at layer {layer}: the weights are damaged, or "
                    f"{model.dtype} is too narrow (try --dtype float32)."
                )
            if losses[-1] < write.ft_stop or turn == write.ft_steps:
                break
            adam.zero_grad()
            weight.grad = None
            loss.backward()
            if narrow:
                master.grad = weight.grad.float()
            adam.step()
            with torch.no_grad():
                if write.ft_norm is not None:
                    master.copy_(torch.clamp(master, before - write.ft_norm, before + write.ft_norm))
                if narrow:
                    weight.copy_(master)
    finally:
        weight.requires_grad_(False)
        weight.grad = None
    return losses


# --- a lifetime ---------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Run:
    """What :func:`run` returns: the editor, and what was found at each checkpoint."""

    editor: Editor
    results: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


def run(
    model: LanguageModel,
    edits: Sequence[Fact],
    method: str = "rome",
    *,
    layer: int,
    C: Float[np.ndarray, "d_m d_m"] | None = None,
    batch: int | None = None,
    settings: Settings | None = None,
    write: Write | None = None,
    checkpoints: Sequence[int] | None = None,
    examine: Callable[[Editor, int], dict[str, Any]] | None = None,
    state: Path | None = None,
) -> Run:
    """Make edits one step after another, each step's targets on the model as edited so far.

    Parameters
    ----------
    model : LanguageModel
        Is changed; see :func:`preserved`.
    edits : sequence of Fact
    method, layer, C, settings, write
        See :class:`Editor`.
    batch : int, optional
        Edits a step; the method's own by default.
    checkpoints : sequence of int, optional
        After how many edits ``examine(editor, n)`` is called; at the end by default. One that falls inside a step
        counts after the step.
    examine : callable, optional
        Returns plain content, which is kept with ``"edits": n``.
    state : Path, optional
        A file that is written at every checkpoint, every twentieth edit, and after an interrupt if an edit was made. If
        it is there and of the same run, the run goes on where it stopped, with the same results.

    Raises
    ------
    UserError
        As :class:`Editor` and :meth:`Editor.edit`; a state file of another run, or damaged.
    """
    size = METHODS.get(method, 1) if batch is None else batch
    if size < 1:
        raise UserError(f"A batch of {size} makes no sense: give 1 or more.")
    if not edits:
        raise UserError("There are no edits: give at least one.")
    recipe = None
    if state is not None:
        recipe = _recipe(model, edits, method, layer, C, size, settings, write, checkpoints)
    editor = Editor(model, layer, method, C=C, settings=settings, write=write)
    done = Run(editor)
    marks = sorted({mark for mark in checkpoints or [len(edits)] if mark <= len(edits)})
    if state is not None and state.is_file():
        _take_up(state, recipe, done)
    last_saved = editor.n_edits

    def look() -> None:
        seen = done.results[-1]["edits"] if done.results else -1
        if examine and any(seen < mark <= editor.n_edits for mark in marks):
            done.results.append({"edits": editor.n_edits} | examine(editor, editor.n_edits))

    try:
        with console.bar(total=len(edits), what=method, unit="edit") as bar:
            bar.update(editor.n_edits)
            look()
            while editor.n_edits < len(edits):
                began = time.perf_counter()
                before = editor.n_edits
                editor.edit(edits[before : before + size])
                done.seconds += time.perf_counter() - began
                look()
                reached = any(before < mark <= editor.n_edits for mark in marks)
                if state is not None and (reached or editor.n_edits - last_saved >= SAVE_EVERY):
                    _save(state, recipe, done)
                    last_saved = editor.n_edits
                bar.update(editor.n_edits - before)
    except KeyboardInterrupt:
        if state is not None and editor.n_edits > last_saved:
            try:
                _save(state, recipe, done)
            except UserError as error:
                console.warn(f"The edits made so far were not kept. {error}")
        raise
    return done


def _recipe(model, edits, method, layer, C, size, settings, write, checkpoints) -> str:
    """Digest of all that determines a run."""
    digest = hashlib.sha256(model.digest().encode())
    if C is not None:
        digest.update(np.ascontiguousarray(C).tobytes())
    content = [
        [asdict(fact) for fact in edits],
        [method, layer, size, list(checkpoints or [])],
        (settings or Settings()).as_dict(),
        asdict(write or Write()),
    ]
    digest.update(json.dumps(content, sort_keys=True).encode())
    return digest.hexdigest()


def _save(path: Path, recipe: str | None, done: Run) -> None:
    arrays, content = done.editor.state()
    content |= {"recipe": recipe, "results": done.results, "seconds": done.seconds}
    metadata = {"state": json.dumps(content, allow_nan=False)}
    files.write_whole(path, lambda temporary: save_file(arrays, temporary, metadata=metadata))


def _take_up(path: Path, recipe: str | None, done: Run) -> None:
    try:
        with safe_open(path, framework="numpy") as stored:
            content = json.loads(stored.metadata()["state"])
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}
        made_by, results, seconds = content["recipe"], list(content["results"]), float(content["seconds"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"The state {path.name} is damaged: remove it and run again.") from error
    if made_by != recipe:
        raise UserError(
            f"The state {path.name} is of another run (model, edits or settings): remove it or name another."
        )
    done.editor.resume(arrays, content)
    done.results, done.seconds = results, seconds
