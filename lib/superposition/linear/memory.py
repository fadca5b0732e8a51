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
from typing import Any

from jaxtyping import Float

from superposition.errors import UserError
from superposition.linear import rules

__all__ = ["RULES", "LinearMemory"]

#: The rules a memory knows by name. A callable ``(K, C, K_previous, **options) -> M`` is a rule, too.
RULES = ("rome", "memit", "memit-history", "emmet", "alphaedit", "rls-soft", "rls-hard")

_ONE_AT_A_TIME = ("rome", "rls-soft", "rls-hard")


class LinearMemory:
    """A memory ``W``, the factorised second moment ``C`` of its keys, and the history of its edits.

    Parameters
    ----------
    W
        The memory (d, d_m), NumPy or torch, any device. It is copied; the array given is never changed.
    C
        Second moment ``K Kᵀ`` (d_m, d_m) or an object with ``solve(B) = C⁻¹B``; factorised once, here.

    Attributes
    ----------
    W, W_0 : array (d, d_m)
        The memory now, and before any edit.
    factor
        The factorised C; hand it to a second memory to save the work.
    batches : list of int
        For each edit, the number (from 0) of the step it was written in: edits of one batch share it.

    Raises
    ------
    UserError
        As :class:`superposition.linear.rules.Factorised`; and where W and C do not fit each other.

    Examples
    --------
    >>> import numpy as np
    >>> memory = LinearMemory.from_pairs(np.eye(2), np.array([[3.0, 5.0]]))
    >>> memory.edit(np.array([1.0, 0.0]), np.array([4.0]))
    >>> memory.recall(np.eye(2)).round(6)
    array([[4., 5.]])
    """

    def __init__(self, W: Float[Any, "d d_m"], C: Any) -> None:
        ops, arrays, _ = rules._read(W=W)
        W = arrays["W"] if not hasattr(W, "dtype") or not ops.is_float(W.dtype) else W
        rules._expect("W", W, ("d", "d_m"), "a memory is a matrix")
        self.factor = rules.Factorised(C) if rules._is_array(C) else C
        if not isinstance(self.factor, rules.Solver):
            raise UserError(f"C is a {type(C).__name__}: pass the matrix K Kᵀ or an object with a solve(B) method.")
        size = rules._size(self.factor, W.shape[1])
        if size != W.shape[1]:
            raise UserError(f"W has shape {tuple(W.shape)} and C ({size}, {size}): W must have as many columns as C.")
        self.W_0, self.W = _copy(W), _copy(W)
        self.batches: list[int] = []
        self._ops = ops
        self._keys: list[Any] = []
        self._values: list[Any] = []
        self._residuals: list[Any] = []
        self._directions: list[Any] = []
        self._written: list[Any] = []
        self._rls: dict[bool, tuple[Any, int]] = {}

    @classmethod
    def from_pairs(cls, K: Float[Any, "d_m N"], V: Float[Any, "d N"], ridge: float = 0.0) -> LinearMemory:
        """The least-squares memory of N pairs: ``W = V KᵀC⁻¹`` with ``C = K Kᵀ + ridge I``.

        Arguments and errors as :func:`superposition.linear.rules.least_squares`.
        """
        return cls(*rules._fit(K, V, ridge))

    # --- editing --------------------------------------------------------------------------------------------

    def edit(
        self,
        k: Float[Any, " d_m"],
        v: Float[Any, " d"],
        rule: str | Callable[..., Any] = "rome",
        **options: Any,
    ) -> None:
        """Store the value ``v`` (d,) under the key ``k`` (d_m,); otherwise as :meth:`edit_batch`."""
        self.edit_batch(rules._column("k", k), rules._column("v", v), rule, **options)

    def edit_batch(
        self,
        K: Float[Any, "d_m n"],
        V: Float[Any, "d n"],
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
            ``(K, C, K_previous, **options) -> M`` (d_m, n) is a rule, too.
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
        ops, arrays, _ = rules._read(K=K, V=V, W=self.W)
        K, V = arrays["K"], arrays["V"]
        rules._check_keys(ops, K)
        rules._residual(arrays["W"], K, V)
        if rule in _ONE_AT_A_TIME:
            for j in range(K.shape[1]):
                self._write(K[:, j : j + 1], V[:, j : j + 1], rule, options)
        else:
            self._write(K, V, rule, options)

    def _write(self, K: Any, V: Any, rule: Any, options: dict[str, Any]) -> None:
        M, next_rls = self._direct(K, rule, options)
        _, arrays, _ = rules._read(W=self.W, K=K, V=V, M=M)
        R, M = rules._residual(arrays["W"], arrays["K"], arrays["V"]), arrays["M"]
        self.W = self.W + self._ops.cast(R @ M.T, self.W.dtype)
        if next_rls is not None:
            self._rls[rule == "rls-hard"] = next_rls
        step = self.batches[-1] + 1 if self.batches else 0
        self.batches += [step] * K.shape[1]
        for held, new in zip(self._stores(), (K, V, R, M, self.recall(K)), strict=True):
            held.append(_copy(new))

    def _direct(self, K: Any, rule: Any, options: dict[str, Any]) -> tuple[Any, tuple[Any, int] | None]:
        """The rule's directions for K (d_m, n), and the state of the recursion after them."""
        C = self.factor
        if callable(rule):
            M = rule(K, C, self.keys, **options)
            rules._expect("The rule's M", M, tuple(K.shape), "one direction, a column, for each key")
            return M, None
        try:
            if rule == "rome":
                return rules.rome_direction(K[:, 0], C, **options)[:, None], None
            if rule == "memit":
                return rules.memit_directions(K, C, **options), None
            if rule == "memit-history":
                return rules.memit_directions(K, C, self.keys, **options), None
            if rule == "emmet":
                return rules.emmet_directions(K, C, **options), None
            if rule == "alphaedit":
                return rules.alphaedit_directions(K, K_previous=self.keys, **options), None
            return self._recurse(K[:, 0], rule == "rls-hard", options)
        except TypeError as error:
            raise UserError(f"Rule {rule!r} was given the wrong options ({error}): see edit_batch.") from error

    def _recurse(self, k: Any, hard: bool, options: dict[str, Any]) -> tuple[Any, tuple[Any, int]]:
        ops = self._ops
        S, seen = self._rls.get(hard, (None, 0))
        if S is None:
            S = self.factor.solve(ops.eye(k.shape[0], k))
        for j in range(seen, self.n_edits):
            try:
                S = rules.rls_direction(S, self.keys[:, j], hard, C=self.factor if hard else None, **options).S
            except UserError:
                continue  # a key in the span of those before it: already held
        step = rules.rls_direction(S, k, hard, C=self.factor if hard else None, **options)
        return step.direction[:, None], (step.S, self.n_edits + 1)

    # --- reading --------------------------------------------------------------------------------------------

    def recall(self, K: Float[Any, "d_m ..."]) -> Float[Any, "d ..."]:
        """``W K``, what the memory answers to a key (d_m,) or to keys as columns (d_m, N)."""
        return self._times(self.W, K)

    def _times(self, W: Any, K: Any) -> Any:
        _, arrays, _ = rules._read(W=W, K=K)
        K = arrays["K"]
        if K.shape[0] != W.shape[1]:
            raise UserError(f"K has shape {tuple(K.shape)} and W {tuple(W.shape)}: keys must have length d_m.")
        return arrays["W"] @ K

    # --- the ledger -----------------------------------------------------------------------------------------

    def _stores(self) -> tuple[list[Any], ...]:
        return self._keys, self._values, self._residuals, self._directions, self._written

    def _joined(self, store: list[Any], empty: Any) -> Any:
        if not store:
            return empty
        if len(store) > 1:
            store[:] = [self._ops.join(store)]
        return store[0]

    @property
    def n_edits(self) -> int:
        """How many values have been stored since the start."""
        return len(self.batches)

    @property
    def keys(self) -> Float[Any, "d_m n"]:
        """The edits' keys, in order."""
        return self._joined(self._keys, self.W_0[:0].T)

    @property
    def values(self) -> Float[Any, "d n"]:
        """The values asked for."""
        return self._joined(self._values, self.W_0[:, :0])

    @property
    def residuals(self) -> Float[Any, "d n"]:
        """``δ(v_i) = v_i - W k_i``, W as it was just before the step of edit i."""
        return self._joined(self._residuals, self.W_0[:, :0])

    @property
    def directions(self) -> Float[Any, "d_m n"]:
        """``M``: edit i changed W by ``δ(v_i) M_iᵀ``."""
        return self._joined(self._directions, self.W_0[:0].T)

    def edit_of(self, i: int) -> Float[Any, "d d_m"]:
        """``ΔW_i = δ(v_i) M_iᵀ``, the share of edit i (from 0) in ``W - W_0``."""
        if not 0 <= i < self.n_edits:
            raise UserError(f"There is no edit {i}: the memory holds {self.n_edits}, counted from 0.")
        return self.residuals[:, i : i + 1] @ self.directions[:, i : i + 1].T

    def transfer(self, K: Float[Any, "d_m N"]) -> Float[Any, "n N"]:
        """``MᵀK``: entry (i, j) is the share of ``δ(v_i)`` that edit i adds to the recall of ``k_j``.

        For ROME it is the degree of superposition ``p(k_{e_i}, k_j)``.
        """
        return self._times(self.directions.T, K)

    def predicted_interference(self, K: Float[Any, "d_m N"]) -> Float[Any, "d N"]:
        """``Δ_o[:, j] = Σ_i p(k_{e_i}, k_j) δ(v_i)``, what all edits did to each column of K.

        For other rules than ROME ``M_iᵀk_j`` stands in the place of p. Equal to :meth:`measured_interference`
        up to rounding; (d, N).
        """
        return self.residuals @ self.transfer(K)

    def interference_by_edit(self, K: Float[Any, "d_m N"]) -> Float[Any, "n d N"]:
        """The terms of :meth:`predicted_interference`: entry (i, :, j) is what edit i did to ``k_j``."""
        return self.residuals.T[:, :, None] * self.transfer(K)[:, None, :]

    def predicted_interference_on_edits(self) -> Float[Any, "d n"]:
        """``Δ_e[:, j] = Σ_{i > j} p(k_{e_i}, k_{e_j}) δ(v_i)``, what later edits did to edit j.

        Later means in a later step: edits of one batch are written together and do not count as each other's
        interference.
        """
        if not self.batches:
            return self.values
        xp = self._ops.xp
        step = xp.asarray(self.batches) if xp is rules.np else xp.tensor(self.batches, device=self.W.device)
        T = self.transfer(self.keys)
        return self.residuals @ (T * self._ops.cast(step[:, None] > step[None, :], T.dtype))

    def measured_interference(self, K: Float[Any, "d_m N"]) -> Float[Any, "d N"]:
        """``(W - W_0) K``, from the two memories themselves."""
        return self.recall(K) - self._times(self.W_0, K)

    def measured_interference_on_edits(self) -> Float[Any, "d n"]:
        """The memory's answer to each edit's key now, less its answer right after that edit's step."""
        return self.recall(self.keys) - self._joined(self._written, self.W_0[:, :0])

    def edit_error(self) -> Float[Any, "d n"]:
        """``W k_{e_j} - v_{e_j}``: how far the memory is now from what each edit asked for."""
        return self.recall(self.keys) - self.values


def _copy(a: Any) -> Any:
    """A copy that shares nothing and carries no gradient."""
    return a.detach().clone() if rules._is_tensor(a) else a.copy()
