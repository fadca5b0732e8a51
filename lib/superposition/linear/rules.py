"""The edit rules as pure functions of arrays: ``(W, K, V, C, history) -> dW``.

Every rule of the family has the same form. With ``R = V - W K``, what the edits still have to change,

    dW = R Mᵀ,

and the rules differ only in their **directions** ``M`` (d_m, n), which depend on the keys and on ``C`` but
never on the values. A rule writes its batch exactly when ``MᵀK = I``; what it does to any other key ``k_j``
is ``R (Mᵀk_j)``. For ROME ``Mᵀk_j`` is ``p(k, k_j)``, the degree of superposition.

Arguments are never changed. Work is done in float64; a change ``dW`` (d, d_m) has the dtype of ``W``. ``C`` is given
as the matrix, or as its :class:`superposition.linear.metric.Metric`, which is factorised already. Wrong shapes, NaN,
infinity, zero keys and a singular C raise ``UserError``.

Chapter: ``book/06-editors.ipynb``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float

from superposition.errors import UserError
from superposition.linear import check
from superposition.linear.metric import Metric, SecondMoment, reciprocal_condition

__all__ = [
    "RlsStep",
    "alphaedit",
    "alphaedit_directions",
    "emmet",
    "emmet_directions",
    "fit",
    "has_room",
    "lam",
    "least_squares",
    "memit",
    "memit_directions",
    "null_space_projector",
    "rls_direction",
    "rls_step",
    "rome",
    "rome_direction",
]

EPS = float(np.finfo(np.float64).eps)

# Names of shapes: d outputs of the memory, d_m inputs, n new edits, n_p earlier ones.
Memory = Float[np.ndarray, "d d_m"]
Square = Float[np.ndarray, "d_m d_m"]
Keys = Float[np.ndarray, "d_m n"]
Values = Float[np.ndarray, "d n"]
Earlier = Float[np.ndarray, "d_m n_p"]
Key = Float[np.ndarray, " d_m"]
Value = Float[np.ndarray, " d"]


def _solve(C: SecondMoment, K: Keys) -> Keys:
    """``C⁻¹K``."""
    X = Metric.of(C).solve(K)
    if not np.isfinite(X).all():
        raise UserError("C⁻¹K overflows: rescale the keys (and C with them) to ordinary sizes.")
    return X


def _leverages(K: Keys, X: Keys) -> Float[np.ndarray, " n"]:
    """``h_e = k_eᵀC⁻¹k_e`` of each column, for ``X = C⁻¹K``."""
    h = (K * X).sum(0)
    if not (h > 0).all():
        raise UserError("kᵀC⁻¹k is not positive: C must be positive definite and the keys not vanishingly small.")
    return h


def _column(k: Key) -> Float[np.ndarray, "d_m 1"]:
    return check.columns("k", check.array("k", k, ("d_m",), "a single key is a vector")[:, None])


def _history(K: Keys, K_previous: Earlier | None) -> tuple[Keys, Float[np.ndarray, "d_m n_all"]]:
    """The new keys, and all of them: ``U = [K_p, K]``."""
    K = check.columns("K", K)
    if K_previous is None:
        return K, K
    K_previous = check.array("K_previous", K_previous, (len(K), "n_p"), "one key a column, as long as the new keys")
    return K, np.concatenate([K_previous, K], axis=1)


def _cholesky(A: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"] | None:
    try:
        return np.asarray(scipy.linalg.cholesky(A, lower=True))
    except scipy.linalg.LinAlgError:
        return None


def _divided(X: Keys, L: Float[np.ndarray, "n n"]) -> Keys:
    """``X (L Lᵀ)⁻¹``."""
    return np.asarray(scipy.linalg.cho_solve((L, True), X.T)).T


# --- directions ---------------------------------------------------------------------------------------------


def rome_direction(k: Key, C: SecondMoment) -> Key:
    """``C⁻¹k / kᵀC⁻¹k``, whose product with ``k_j`` is ``p(k, k_j)``; otherwise as :func:`rome`."""
    K = _column(k)
    X = _solve(C, K)
    return (X / _leverages(K, X))[:, 0]


def memit_directions(K: Keys, C: SecondMoment, K_previous: Earlier | None = None, weight: float = 1.0) -> Keys:
    """``(C/w + K_p K_pᵀ + K Kᵀ)⁻¹ K``; arguments and errors as :func:`memit`.

    By the push-through identity this is ``C⁻¹U (I/w + UᵀC⁻¹U)⁻¹``, last n columns, with ``U = [K_p, K]``: one
    factorisation of C serves every batch, and ``w = inf`` is EMMET's.
    """
    if not 0 < weight < float("inf"):
        raise UserError(f"weight is {weight}: pass a positive number (for an infinite weight use emmet).")
    K, U = _history(K, K_previous)
    X = _solve(C, U)
    G = U.T @ X
    L = _cholesky((G + G.T) / 2 + np.eye(len(G)) / weight)
    if L is None:
        raise UserError(f"The keys are too dependent for weight {weight:.1e}: lower it, or drop repeats.")
    return _divided(X, L)[:, -K.shape[1] :]


def emmet_directions(K: Keys, C: SecondMoment, K_previous: Earlier | None = None) -> Keys:
    """``C⁻¹U (UᵀC⁻¹U)⁻¹``, last n columns, with ``U = [K_p, K]``; arguments and errors as :func:`emmet`."""
    K, U = _history(K, K_previous)
    d_m, n = U.shape
    if n > d_m:
        raise UserError(
            f"{n} equality constraints in {d_m} dimensions cannot all be met: "
            "forget some of K_previous, or use memit (soft)."
        )
    X = _solve(C, U)
    root = _leverages(U, X) ** 0.5
    G = (U.T @ X) / root / root[:, None]  # (n, n), the keys' correlations: ones on the diagonal
    G = (G + G.T) / 2
    L = _cholesky(G)
    if L is None or reciprocal_condition(G, L) < 100 * EPS:
        i, j = sorted(divmod(int(abs(G - np.eye(n)).argmax()), n))
        if abs(G[i, j]) > 1 - 1e-6:
            what = f"Keys {i} and {j} of the {n} to be held are the same up to scale"
        else:
            what = f"The {n} keys to be held are linearly dependent (condition beyond {0.01 / EPS:.1e})"
        raise UserError(f"{what}, so their equalities contradict or repeat each other: drop one, or use memit (soft).")
    return (_divided(X / root, L) / root)[:, -K.shape[1] :]


def alphaedit_directions(K: Keys, projector: Square, K_previous: Earlier | None = None, ridge: float = 1.0) -> Keys:
    """``P U (ridge I + UᵀP U)⁻¹``, last n columns, with ``U = [K_p, K]``; otherwise as :func:`alphaedit`."""
    if not 0 < ridge < float("inf"):
        raise UserError(f"ridge is {ridge}: pass a positive number (AlphaEdit's own is 1).")
    K, U = _history(K, K_previous)
    P = check.array("projector", projector, (len(K), len(K)), "it acts on keys")
    X = P @ U
    # P P = P is asked of these keys only: of the whole matrix it would cost d_m³ operations an edit
    if abs(P - P.T).max() > EPS**0.5 or abs(P @ X - X).max() > EPS**0.5 * abs(U).max():
        raise UserError("projector is not symmetric with P P = P: build it with null_space_projector(C, threshold).")
    G = X.T @ X
    L = _cholesky(G + ridge * np.eye(len(G)))
    if L is None:
        raise UserError(f"ridge {ridge:.1e} is too small for repeated keys: raise it or drop one of them.")
    return _divided(X, L)[:, -K.shape[1] :]


def _less(S: Square, Z: Float[np.ndarray, "d_m n"]) -> Square:
    """``S - Z Zᵀ``, symmetric to the last bit where S is."""
    taken = np.outer(Z[:, 0], Z[:, 0]) if Z.shape[1] == 1 else Z @ Z.T
    return np.subtract(S, taken, out=taken)


def soft_directions(S: Square, K: Keys) -> tuple[Keys, Square]:
    """``S K (I + KᵀS K)⁻¹`` (d_m, n), and ``S`` after these keys, in d_m² operations a key whatever came before.

    With ``S = (A + K_p K_pᵀ)⁻¹`` of earlier keys they are the last n columns of ``A⁻¹U (I + UᵀA⁻¹U)⁻¹`` for
    ``U = [K_p, K]``, and S becomes ``(A + U Uᵀ)⁻¹``: the rules with a history without going through it again. A is
    ``C/w`` for MEMIT; for AlphaEdit S begins as ``P / ridge``.

    Raises
    ------
    UserError
        The keys are too dependent for so small an A.
    """
    X = S @ K
    G = K.T @ X
    L = _cholesky((G + G.T) / 2 + np.eye(len(G)))
    if L is None:
        raise UserError("The keys are too dependent for this weight or ridge: drop repeats, or hold them more softly.")
    Z = np.asarray(scipy.linalg.solve_triangular(L, X.T, lower=True)).T  # X L⁻ᵀ
    return np.asarray(scipy.linalg.solve_triangular(L, Z.T, lower=True, trans="T")).T, _less(S, Z)


class RlsStep(NamedTuple):
    """A direction (d_m,) and the next ``S`` (d_m, d_m) of the recursion."""

    direction: Key
    S: Square


def _state(S: Square, d_m: int) -> Square:
    return check.array("S", S, (d_m, d_m), "S starts as C⁻¹ and acts on keys")


def _least_room(S: Square, K: Float[np.ndarray, "d_m 1"], C: SecondMoment | None) -> float:
    """Below which ``kᵀS k`` is rounding error."""
    if C is None:
        return 10 * EPS * len(K) * float(K[:, 0] @ K[:, 0]) * float((S * S).sum()) ** 0.5
    return EPS**0.5 * float(_leverages(K, _solve(C, K))[0])


def has_room(S: Square, k: Key, C: SecondMoment | None = None) -> bool:
    """Whether the hard recursion can still write ``k``: not if it lies in the span of the earlier edits' keys."""
    K = _column(k)
    S = _state(S, len(K))
    return float(K[:, 0] @ (S @ K[:, 0])) > _least_room(S, K, C)


def rls_direction(S: Square, k: Key, hard: bool, *, weight: float = 1.0, C: SecondMoment | None = None) -> RlsStep:
    """The direction ``S k / (kᵀS k + 1/w)`` (hard: ``w = inf``) and the next ``S``; as :func:`rls_step`.

    ``S`` must be symmetric to the last bit: what is not stays in it while the rest shrinks.
    """
    if not weight > 0:
        raise UserError(f"weight is {weight}: pass a positive number.")
    K = _column(k)
    k, S = K[:, 0], _state(S, len(K))
    g = S @ k
    room = float(k @ g)
    if hard and not room > _least_room(S, K, C):
        raise UserError(
            f"The hard recursion has no room for this key (kᵀSk = {room:.1e}): it lies in "
            f"the span of the earlier edits' keys, as every key does after d_m = {len(k)} edits; stop, or "
            "use the soft recursion."
        )
    scale = room if hard else room + 1 / weight
    S_new = _less(S, g[:, None] / scale**0.5)
    if hard and C is None and float((S_new * S_new).sum()) <= EPS * float((S * S).sum()):
        S_new = np.zeros_like(S)  # what is left is rounding error: the space is used up
    return RlsStep(g / scale, S_new)


# --- rules --------------------------------------------------------------------------------------------------


def _residuals(W: Memory, K: Keys, V: Values) -> Values:
    """``R = V - W K``."""
    W = check.array("W", W, ("d", len(K)), f"W reads keys of length {len(K)}")
    V = check.array("V", V, (len(W), K.shape[1]), "one value, a column as long as W has rows, for each key")
    return V - W @ K


def _in_dtype_of(like: Any, a: np.ndarray) -> np.ndarray:
    dtype = np.asarray(like).dtype
    return a.astype(dtype if dtype.kind == "f" else np.float64, copy=False)


def _change(W: Memory, K: Keys, V: Values, M: Keys) -> Memory:
    """``(V - W K) Mᵀ`` in the dtype of W."""
    return _in_dtype_of(W, _residuals(W, np.asarray(K, dtype=np.float64), V) @ M.T)


def _value(v: Value) -> Float[np.ndarray, "d 1"]:
    return check.array("v", v, ("d",), "a single value is a vector")[:, None]


def rome(W: Memory, k: Key, v: Value, C: SecondMoment) -> Memory:
    """ROME: the smallest change in the metric of ``C`` that stores ``v`` under ``k`` exactly.

    ``dW = (v - W k) (C⁻¹k)ᵀ / kᵀC⁻¹k``, the minimiser of ``tr(D C Dᵀ)`` subject to ``(W + D) k = v``.

    Meng et al. (2022); chapter ``book/02-single-edit.ipynb``.

    Parameters
    ----------
    W
        The memory, (d, d_m).
    k, v
        Key (d_m,) and value (d,).
    C
        Second moment ``K Kᵀ`` (d_m, d_m) of the keys to be preserved, or its metric. Its scale does not matter here.

    Raises
    ------
    UserError
        Wrong shapes, NaN or infinity, a zero key, a singular C.
    """
    return _change(W, _column(k), _value(v), rome_direction(k, C)[:, None])


def lam(W: Memory, k: Key, v: Value, C: SecondMoment) -> Value:
    """``Λ = (v - W k) / kᵀC⁻¹k`` (d,), the multiplier of a single edit; otherwise as :func:`rome`."""
    K = _column(k)
    return _in_dtype_of(W, _residuals(W, K, _value(v)) / _leverages(K, _solve(C, K)))[:, 0]


def memit(
    W: Memory, K: Keys, V: Values, C: SecondMoment, K_previous: Earlier | None = None, weight: float = 1.0
) -> Memory:
    """MEMIT: the least-squares compromise between the preserved keys and the new ones.

    ``dW = R Kᵀ(C/w + K_p K_pᵀ + K Kᵀ)⁻¹`` with ``R = V - W K``, the minimiser of
    ``tr(D C Dᵀ)/w + |(W + D) K - V|² + |D K_p|²``. With ``K_previous`` it is recursive least squares in its
    soft form; as ``weight`` grows it becomes :func:`emmet`.

    Meng et al. (2023); chapter ``book/06-editors.ipynb``.

    Parameters
    ----------
    W, K, V
        Memory (d, d_m), keys (d_m, n), values (d, n).
    C
        Second moment ``K₀K₀ᵀ`` of the preserved keys, or its metric. A *sum* over keys: a mean must be multiplied
        by the number of keys it should count for.
    K_previous
        Keys of the earlier edits (d_m, n_p), whose present values are to be kept. None: no history.
    weight
        How much an edit counts against a preserved key, w > 0.

    Raises
    ------
    UserError
        As :func:`rome`; and a weight that is not positive and finite.
    """
    return _change(W, K, V, memit_directions(K, C, K_previous, weight))


def emmet(W: Memory, K: Keys, V: Values, C: SecondMoment, K_previous: Earlier | None = None) -> Memory:
    """EMMET: the smallest change in the metric of ``C`` that stores a whole batch exactly.

    ``dW = R (KᵀC⁻¹K)⁻¹ KᵀC⁻¹`` with ``R = V - W K``. For one key it is :func:`rome`. With ``K_previous`` the
    values at the earlier keys are constraints too, ``dW K_p = 0``: recursive least squares in its hard form,
    in one step.

    Gupta et al. (2024); chapter ``book/06-editors.ipynb``.

    Parameters
    ----------
    W, K, V, C, K_previous
        As :func:`memit`. The scale of C does not matter.

    Raises
    ------
    UserError
        As :func:`rome`; and keys (with those of ``K_previous``) that are repeated, linearly dependent, or
        more than d_m.
    """
    return _change(W, K, V, emmet_directions(K, C, K_previous))


def alphaedit(
    W: Memory, K: Keys, V: Values, projector: Square, K_previous: Earlier | None = None, ridge: float = 1.0
) -> Memory:
    """AlphaEdit: write only where the preserved keys (nearly) do not reach.

    ``dW = R KᵀP (K_p K_pᵀP + K KᵀP + ridge I)⁻¹`` with ``R = V - W K``. For one edit the share
    ``kᵀPk / (kᵀPk + ridge)`` of R is written; a key with ``P k = 0`` cannot be written at all; ``dW (I - P) = 0``.

    Fang et al. (2025); chapter ``book/06-editors.ipynb``.

    Parameters
    ----------
    W, K, V, K_previous
        As :func:`memit`.
    projector
        ``P`` (d_m, d_m), symmetric, ``P P = P``: see :func:`null_space_projector`.
    ridge
        Penalty on the size of the change, > 0, in units of a squared key.

    Raises
    ------
    UserError
        As :func:`rome` (C apart); a P that is no projector; a ridge that is not positive.
    """
    return _change(W, K, V, alphaedit_directions(K, projector, K_previous, ridge))


def null_space_projector(C: Square, threshold: float, relative: bool = False) -> Square:
    """The projector ``P`` on the eigenvectors of ``C`` whose eigenvalues lie below ``threshold``.

    Fang et al. (2025); chapter ``book/06-editors.ipynb``.

    Parameters
    ----------
    C
        Second moment of the preserved keys (d_m, d_m), symmetric; may be singular.
    threshold
        In the units of C (AlphaEdit: 2e-2 for a mean over tokens); with ``relative``, a share of the largest
        eigenvalue.
    relative
        Whether ``threshold`` is a share.

    Returns
    -------
    array
        ``P`` (d_m, d_m); its trace is the number of dimensions left for writing.

    Raises
    ------
    UserError
        C not square, symmetric and finite; a threshold that is not positive; no eigenvalue below it.
    """
    C = check.array("C", C, None)
    check.second_moment(C)
    if not threshold > 0:
        raise UserError(f"threshold is {threshold}: pass a positive number.")
    values, vectors = np.linalg.eigh((C + C.T) / 2)
    limit = threshold * float(values[-1]) if relative else threshold
    if not float(values[0]) < limit:
        raise UserError(
            f"No eigenvalue of C lies below {limit:.1e} (the smallest is {float(values[0]):.1e}): there is "
            "nowhere to write: raise the threshold."
        )
    Q = vectors[:, values < limit]
    return Q @ Q.T


def rls_step(
    W: Memory, S: Square, k: Key, v: Value, hard: bool, *, weight: float = 1.0, C: SecondMoment | None = None
) -> tuple[Memory, Square]:
    """One step of recursive least squares: the update, and the inverse second moment that remembers it.

    Start from ``S = C⁻¹``. Soft: ``dW = (v - W k)(S k)ᵀ / (kᵀS k + 1/w)``,
    ``S ← S - S k kᵀS / (kᵀS k + 1/w)``, so that S stays ``(C + w Σ k kᵀ)⁻¹``: with w = 1, MEMIT with history
    (:func:`memit` with ``K_previous``). Hard: the same with ``w = inf``; every earlier edit is then kept
    exactly (:func:`emmet` with ``K_previous``), until d_m edits have used up the space and ``kᵀS k`` is zero.

    Chapter ``book/06-editors.ipynb``. Both recursions lose digits step by step: in the hard form the earlier
    edits are kept to about ``1e-14 cond(C)`` relative after hundreds of steps.

    Parameters
    ----------
    W, k, v
        Memory (d, d_m), key (d_m,), value (d,).
    S
        State of the recursion (d_m, d_m): ``C⁻¹`` at the start, then what the last step returned.
    hard
        Whether earlier edits are constraints (True) or observations of weight ``weight`` (False).
    weight
        Of one edit against one preserved key, soft form only.
    C
        Optional, the C the recursion started from: the hard form then measures the room a key has left by
        ``kᵀS k / kᵀC⁻¹k`` and stops where it falls to rounding error (``sqrt(eps)``). Without it the room is judged
        from S alone, which is safe up to a condition of about 1e7.

    Returns
    -------
    dW, S_new
        ``dW`` (d, d_m) in the dtype of W; ``S_new`` (d_m, d_m).

    Raises
    ------
    UserError
        As :func:`rome`; and, in the hard form, a key in the span of the earlier ones.
    """
    S = _state(S, len(_column(k)))
    step = rls_direction((S + S.T) / 2, k, hard, weight=weight, C=C)  # an inverse is symmetric but for rounding
    return _change(W, _column(k), _value(v), step.direction[:, None]), step.S


def fit(K: Float[np.ndarray, "d_m N"], V: Float[np.ndarray, "d N"], ridge: float = 0.0) -> tuple[Memory, Metric]:
    """:func:`least_squares`, and the metric of ``K Kᵀ + ridge I`` that it took."""
    K = check.array("K", K, ("d_m", "N"), "one key a column")
    values = check.array("V", V, ("d", K.shape[1]), "one value, a column, for each key")
    if not 0 <= ridge < float("inf"):
        raise UserError(f"ridge is {ridge}: pass zero or a positive number.")
    metric = Metric(K @ K.T + ridge * np.eye(len(K)))
    return _in_dtype_of(V, metric.solve(K @ values.T).T), metric


def least_squares(K: Float[np.ndarray, "d_m N"], V: Float[np.ndarray, "d N"], ridge: float = 0.0) -> Memory:
    """The memory that fits its pairs best in the least-squares sense: ``W = V Kᵀ(K Kᵀ + ridge I)⁻¹``.

    The normal equation of the linear associative memory; chapter ``book/01-memory.ipynb``.

    Parameters
    ----------
    K, V
        Keys (d_m, N) and values (d, N), columns that belong together.
    ridge
        Penalty on ``|W|²``, in units of C.

    Returns
    -------
    array
        ``W`` (d, d_m) in the dtype of V.

    Raises
    ------
    UserError
        Shapes that do not match, NaN or infinity, or fewer than d_m independent keys (singular C) with
        ``ridge = 0``.
    """
    return fit(K, V, ridge)[0]
