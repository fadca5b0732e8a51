"""A linear associative memory, edited in sequence, that keeps an account of what each edit did to the others.

``W`` (d, d_m) recalls ``W k`` for a key ``k``. A toy memory and the down-projection of a language model are
both one. Every rule of :mod:`superposition.linear.rules` changes it by ``δ Mᵀ``, so that edit i moves the recall of
any key ``k_j`` by ``(M_iᵀk_j) δ(v_i)``; for ROME ``M_iᵀk_j = p(k_{e_i}, k_j)``. The account (the *ledger*)
keeps the δ's and the M's, d + d_m numbers an edit, and from them tells the interference edit by edit, before
or after the fact.

Chapters: ``book/01-memory.ipynb``, ``book/03-lifelong.ipynb``, ``book/07-toy-memory.ipynb``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from superposition.errors import UserError
from superposition.linear import check, rules
from superposition.linear.edit import Edit
from superposition.linear.metric import Metric, SecondMoment

__all__ = ["RULES", "LinearMemory"]


def _inverse(C: Metric) -> Float[np.ndarray, "d_m d_m"]:
    """``C⁻¹``, symmetric to the last bit: what is not would stay in a recursion's state while that shrinks."""
    found = C.solve(np.eye(C.d_m))
    return (found + found.T) / 2


#: Rules in closed form: the directions M (d_m, n) for keys K (d_m, n), given C, for a memory without earlier edits.
_CLOSED: dict[str, Callable[..., np.ndarray]] = {
    "rome": lambda K, C, **options: rules.rome_direction(K[:, 0], C, **options)[:, None],
    "memit": lambda K, C, **options: rules.memit_directions(K, C, **options),
    "memit-history": lambda K, C, **options: rules.memit_directions(K, C, **options),
    "emmet": lambda K, C, **options: rules.emmet_directions(K, C, **options),
    "alphaedit": lambda K, _, **options: rules.alphaedit_directions(K, **options),
    "rls-soft": lambda K, C, **options: rules.memit_directions(K, C, **options),
}
#: Of these, the ones that honour earlier edits: where their state S starts from (:func:`rules.soft_directions`).
_STARTS: dict[str, Callable[..., np.ndarray]] = {
    "memit-history": lambda C, weight=1.0: weight * _inverse(C),
    "alphaedit": lambda _, projector, ridge=1.0: projector / ridge,
}
_STARTS["rls-soft"] = _STARTS["memit-history"]  # which it is, an edit at a time
_ONE_AT_A_TIME = ("rome", "rls-soft", "rls-hard")

#: The rules a memory knows by name. A callable ``(K, C, K_previous, **options) -> M`` is a rule, too.
RULES = (*_CLOSED, "rls-hard")


def _same(options: dict[str, Any] | None, others: dict[str, Any]) -> bool:
    """Whether two calls gave a rule the same options: numbers that are equal, arrays that are the same object."""
    return (
        options is not None
        and options.keys() == others.keys()
        and all(
            value is others[name] or (np.isscalar(value) and value == others[name]) for name, value in options.items()
        )
    )


class _Step(NamedTuple):
    """One entry of the ledger, each array with a column an edit."""

    keys: Float[np.ndarray, "d_m n"]
    values: Float[np.ndarray, "d n"]
    residuals: Float[np.ndarray, "d n"]
    directions: Float[np.ndarray, "d_m n"]
    written: Float[np.ndarray, "d n"]  # the memory's answers right after the step


class LinearMemory:
    """A memory ``W``, the metric ``C`` of its keys, and the history of its edits; all in float64.

    Parameters
    ----------
    W
        The memory (d, d_m). It is copied; the array given is never changed.
    C
        Second moment ``K Kᵀ`` (d_m, d_m), factorised once, here; or its metric.

    Attributes
    ----------
    W, W_0 : array (d, d_m)
        The memory now, and before any edit.
    metric : Metric
        The factorised C; hand it to a second memory to save the work.
    batches : list of int
        The step, counted from 0, in which each edit was written: edits of one batch share it.

    Raises
    ------
    UserError
        As :class:`superposition.linear.metric.Metric`; and where W and C do not fit each other.

    Examples
    --------
    >>> import numpy as np
    >>> memory = LinearMemory.from_pairs(np.eye(2), np.array([[3.0, 5.0]]))
    >>> memory.edit(np.array([1.0, 0.0]), np.array([4.0]))
    >>> memory.recall(np.eye(2)).round(6)
    array([[4., 5.]])
    """

    def __init__(self, W: Float[np.ndarray, "d d_m"], C: SecondMoment) -> None:
        self.metric = Metric.of(C)
        self.W_0 = check.array("W", W, ("d", self.metric.d_m), "W must have as many columns as C").copy()
        self.W = self.W_0.copy()
        self.batches: list[int] = []
        self._steps: list[_Step] = []
        self._recursion: tuple[Float[np.ndarray, "d_m d_m"], int] | None = None
        self._held: dict[str, tuple[Float[np.ndarray, "d_m d_m"], int, dict[str, Any]]] = {}

    @classmethod
    def from_pairs(cls, K: Float[np.ndarray, "d_m N"], V: Float[np.ndarray, "d N"], ridge: float = 0.0) -> LinearMemory:
        """The least-squares memory of N pairs: ``W = V KᵀC⁻¹`` with ``C = K Kᵀ + ridge I``.

        Arguments and errors as :func:`superposition.linear.rules.least_squares`.
        """
        return cls(*rules.fit(K, V, ridge))

    # --- editing --------------------------------------------------------------------------------------------

    def edit(
        self,
        k: Float[np.ndarray, " d_m"],
        v: Float[np.ndarray, " d"],
        rule: str | Callable[..., Any] = "rome",
        **options: Any,
    ) -> None:
        """Store the value ``v`` (d,) under the key ``k`` (d_m,); otherwise as :meth:`edit_batch`."""
        k = check.array("k", k, ("d_m",), "a single edit takes vectors")
        v = check.array("v", v, ("d",), "a single edit takes vectors")
        self.edit_batch(k[:, None], v[:, None], rule, **options)

    def edit_batch(
        self,
        K: Float[np.ndarray, "d_m n"],
        V: Float[np.ndarray, "d n"],
        rule: str | Callable[..., Any] = "memit",
        **options: Any,
    ) -> None:
        """Store n values under n keys, all in one step where the rule can.

        Parameters
        ----------
        K, V
            Keys (d_m, n) and values (d, n), columns that belong together.
        rule
            ``"rome"``, ``"rls-soft"`` and ``"rls-hard"`` write the columns one after the other; ``"memit"``
            (which forgets its earlier batches), ``"memit-history"``, ``"emmet"`` and ``"alphaedit"`` write
            them together. The rules with a history (``memit-history``, ``alphaedit``, both ``rls``) honour
            every earlier edit of this memory, whatever rule wrote it. A callable
            ``(K, C, K_previous, **options) -> M`` (d_m, n) is a rule, too; C is the :attr:`metric`.
        options
            ``weight`` (memit, memit-history, rls-soft), ``projector`` and ``ridge`` (alphaedit), or the
            callable's own.

        Raises
        ------
        UserError
            A rule that is not known, or what the rule itself refuses (see :mod:`superposition.linear.rules`). The
            memory is then as it was before the column (or batch) at fault.
        """
        if not callable(rule) and rule not in RULES:
            raise UserError(f"There is no rule {rule!r}: choose from {', '.join(RULES)}, or pass a function.")
        d, d_m = self.W.shape
        K = check.columns("K", K, d_m)
        V = check.array("V", V, (d, K.shape[1]), "one value, a column as long as W has rows, for each key")
        size = 1 if rule in _ONE_AT_A_TIME else K.shape[1]
        for start in range(0, K.shape[1], size):
            self._write(K[:, start : start + size], V[:, start : start + size], rule, options)

    def _write(self, K: Any, V: Any, rule: Any, options: dict[str, Any]) -> None:
        M = self._direct(K, rule, options)
        R = V - self.W @ K
        self.W = self.W + R @ M.T
        self.batches += [self.batches[-1] + 1 if self.batches else 0] * K.shape[1]
        self._steps.append(_Step(K.copy(), V.copy(), R, M.copy(), self.W @ K))

    def _direct(self, K: Any, rule: Any, options: dict[str, Any]) -> Float[np.ndarray, "d_m n"]:
        """The rule's directions for K (d_m, n)."""
        C = self.metric
        if callable(rule):
            M = rule(K, C, self.keys, **options)
            return check.array("The rule's M", M, K.shape, "one direction, a column, for each key")
        try:
            if rule == "rls-hard":
                return self._recurse(K[:, 0], **options)
            if rule in _STARTS and self.n_edits:
                return self._after_others(K, rule, options)
            return _CLOSED[rule](K, C, **options)
        except TypeError as error:
            raise UserError(f"Rule {rule!r} was given the wrong options ({error}): see edit_batch.") from error

    def _after_others(self, K: Any, rule: str, options: dict[str, Any]) -> Float[np.ndarray, "d_m n"]:
        """The directions of a rule that honours all earlier edits; its state S catches up with them first.

        S (d_m, d_m) stands for them, so that an edit costs the same after a thousand others as after one.
        """
        S, seen, made_for = self._held.get(rule, (None, 0, None))
        if S is None or not _same(made_for, options):
            _CLOSED[rule](K, self.metric, **options)  # refuses what the rule refuses
            S, seen = _STARTS[rule](self.metric, **options), 0  # d_m³ operations, once
        if seen < self.n_edits:
            _, S = rules.soft_directions(S, self.keys[:, seen:])
        M, after = rules.soft_directions(S, K)
        self._held[rule] = after, self.n_edits + K.shape[1], dict(options)
        return M

    def _recurse(self, k: Any) -> Float[np.ndarray, "d_m 1"]:
        """The hard recursion's direction for k (d_m,); its state S first catches up with what other rules wrote."""
        C, (S, seen) = self.metric, self._recursion or (_inverse(self.metric), 0)
        for earlier in self.keys.T[seen:] if seen < self.n_edits else ():
            # a key in the span of those before it is held with them: S is blind to it already
            if rules.has_room(S, earlier, C):
                S = rules.rls_direction(S, earlier, True, C=C).S
        step = rules.rls_direction(S, k, True, C=C)
        self._recursion = step.S, self.n_edits + 1
        return step.direction[:, None]

    # --- reading --------------------------------------------------------------------------------------------

    def _keys(self, K: Any) -> Float[np.ndarray, "d_m ..."]:
        K = check.array("K", K, None)
        if not K.ndim or len(K) != self.W.shape[1]:
            raise UserError(f"K has shape {K.shape} and W {self.W.shape}: keys must have length d_m.")
        return K

    def recall(self, K: Float[np.ndarray, "d_m ..."]) -> Float[np.ndarray, "d ..."]:
        """``W K``, what the memory answers to a key (d_m,) or to keys as columns (d_m, N)."""
        return self.W @ self._keys(K)

    # --- the ledger -----------------------------------------------------------------------------------------

    def _column(self, name: str, length: int) -> Float[np.ndarray, "length n"]:
        """One array of the ledger, the steps side by side."""
        return np.concatenate([np.empty((length, 0)), *(getattr(step, name) for step in self._steps)], axis=1)

    @property
    def n_edits(self) -> int:
        """How many values have been stored since the start."""
        return len(self.batches)

    @property
    def keys(self) -> Float[np.ndarray, "d_m n"]:
        """The edits' keys, in order."""
        return self._column("keys", self.W.shape[1])

    @property
    def values(self) -> Float[np.ndarray, "d n"]:
        """The values asked for."""
        return self._column("values", len(self.W))

    @property
    def residuals(self) -> Float[np.ndarray, "d n"]:
        """``δ(v_i) = v_i - W k_i``, W as it was just before the step of edit i."""
        return self._column("residuals", len(self.W))

    @property
    def directions(self) -> Float[np.ndarray, "d_m n"]:
        """``M``: edit i changed W by ``δ(v_i) M_iᵀ``."""
        return self._column("directions", self.W.shape[1])

    @property
    def edits(self) -> Edit:
        """``W - W_0 = δ Mᵀ``, all edits so far; ``edits[:n]`` are the first n."""
        return Edit(self.residuals, self.directions)

    def edit_of(self, i: int) -> Float[np.ndarray, "d d_m"]:
        """``ΔW_i = δ(v_i) M_iᵀ``, the share of edit i (from 0) in ``W - W_0``."""
        if not 0 <= i < self.n_edits:
            raise UserError(f"There is no edit {i}: the memory holds {self.n_edits}, counted from 0.")
        return self.edits[i : i + 1].matrix()

    def transfer(self, K: Float[np.ndarray, "d_m ..."]) -> Float[np.ndarray, "n ..."]:
        """``MᵀK``: entry (i, j) is the share of ``δ(v_i)`` that edit i adds to the recall of ``k_j``.

        For ROME it is the degree of superposition ``p(k_{e_i}, k_j)``.
        """
        return self.edits.shares(self._keys(K))

    def predicted_interference(self, K: Float[np.ndarray, "d_m ..."]) -> Float[np.ndarray, "d ..."]:
        """``Δ_o[:, j] = Σ_i p(k_{e_i}, k_j) δ(v_i)``, what all edits did to each column of K.

        For other rules than ROME ``M_iᵀk_j`` stands in the place of p. Equal to :meth:`measured_interference`
        up to rounding; (d, N).
        """
        return self.edits.at(self._keys(K))

    def interference_by_edit(self, K: Float[np.ndarray, "d_m N"]) -> Float[np.ndarray, "n d N"]:
        """The terms of :meth:`predicted_interference`: entry (i, :, j) is what edit i did to ``k_j``."""
        return self.residuals.T[:, :, None] * self.transfer(K)[:, None, :]

    def predicted_interference_on_edits(self) -> Float[np.ndarray, "d n"]:
        """``Δ_e[:, j] = Σ_{i > j} p(k_{e_i}, k_{e_j}) δ(v_i)``, what later edits did to edit j.

        Later means in a later step: edits of one batch are written together and do not count as each other's
        interference.
        """
        step = np.array(self.batches)
        return self.residuals @ (self.transfer(self.keys) * (step[:, None] > step[None, :]))

    def measured_interference(self, K: Float[np.ndarray, "d_m ..."]) -> Float[np.ndarray, "d ..."]:
        """``(W - W_0) K``, from the two memories themselves."""
        return self.recall(K) - self.W_0 @ self._keys(K)

    def measured_interference_on_edits(self) -> Float[np.ndarray, "d n"]:
        """The memory's answer to each edit's key now, less its answer right after that edit's step."""
        return self.recall(self.keys) - self._column("written", len(self.W))

    def edit_error(self) -> Float[np.ndarray, "d n"]:
        """``W k_{e_j} - v_{e_j}``: how far the memory is now from what each edit asked for."""
        return self.recall(self.keys) - self.values
