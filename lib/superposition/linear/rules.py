"""The edit rules as pure functions of arrays: ``(W, K, V, C, history) -> dW``.

Every rule of the family has the same form. With ``R = V - W K``, what the edits still have to change,

    dW = R Mᵀ,

and the rules differ only in their **directions** ``M`` (d_m, n), which depend on the keys and on ``C`` but
never on the values. A rule writes its batch exactly when ``MᵀK = I``; what it does to any other key ``k_j``
is ``R (Mᵀk_j)``. For ROME ``Mᵀk_j`` is ``p(k, k_j)``, the degree of superposition.

NumPy arrays and torch tensors (any device) are accepted alike, never mixed, and never changed. Work is done
in the widest of the dtypes given (at least float32), and the result has the dtype and the device of ``W``.

**Error in float32.** Relative to float64, the error of ``M`` is at most about ``10 eps cond(C)`` with
``eps = 1.2e-7`` (EMMET: times the condition of the keys' correlation matrix in the metric of ``C``). The
equality ``(W + dW) k = v`` of the hard rules does not feel ``cond(C)`` for a single edit: it holds to about
``10 eps`` of ``|v| + |W| |k|`` times the cancellation ``|M| |k|``. A ``C`` with a condition beyond
``0.01/eps`` of its dtype (8e4 in float32, 4.5e13 in float64) is refused: pass it in float64, also when ``W``
is in float32.

Chapter: ``book/06-editors.ipynb``. Symbolic counterparts: :mod:`superposition.theory.algebra`.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import scipy.linalg
from jaxtyping import Float

from superposition.errors import UserError

__all__ = [
    "Factorised",
    "Solver",
    "alphaedit",
    "alphaedit_directions",
    "emmet",
    "emmet_directions",
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


@runtime_checkable
class Solver(Protocol):
    """Anything with ``solve(B) = C⁻¹ B``; every rule takes it in the place of ``C``."""

    def solve(self, B: Any, /) -> Any: ...


# --- NumPy or torch -----------------------------------------------------------------------------------------


def _torch() -> Any:
    """Torch if somebody has imported it already, else None: a NumPy user does not pay for it."""
    return sys.modules.get("torch")


class _NumPyOps:
    xp = np
    float32, float64 = np.dtype(np.float32), np.dtype(np.float64)

    @staticmethod
    def is_float(dtype: Any) -> bool:
        return np.issubdtype(dtype, np.floating)

    @staticmethod
    def is_real(dtype: Any) -> bool:
        return np.issubdtype(dtype, np.floating) or np.issubdtype(dtype, np.integer) or dtype == np.bool_

    @staticmethod
    def cast(a: Any, dtype: Any) -> Any:
        return a.astype(dtype, copy=False)

    @staticmethod
    def eye(n: int, like: Any) -> Any:
        return np.eye(n, dtype=like.dtype)

    @staticmethod
    def join(parts: list[Any]) -> Any:
        return np.concatenate(parts, axis=1)

    @staticmethod
    def cholesky(A: Any) -> Any | None:
        try:
            return scipy.linalg.cholesky(A, lower=True)
        except scipy.linalg.LinAlgError:
            return None

    @staticmethod
    def cholesky_solve(L: Any, B: Any) -> Any:
        return scipy.linalg.cho_solve((L, True), B)


class _TorchOps:
    def __init__(self, torch: Any) -> None:
        self.xp, self.float32, self.float64 = torch, torch.float32, torch.float64

    def is_float(self, dtype: Any) -> bool:
        return dtype.is_floating_point

    def is_real(self, dtype: Any) -> bool:
        return not dtype.is_complex

    def cast(self, a: Any, dtype: Any) -> Any:
        return a.to(dtype)

    def eye(self, n: int, like: Any) -> Any:
        return self.xp.eye(n, dtype=like.dtype, device=like.device)

    def join(self, parts: list[Any]) -> Any:
        return self.xp.cat(parts, dim=1)

    def cholesky(self, A: Any) -> Any | None:
        L, info = self.xp.linalg.cholesky_ex(A)
        return None if int(info) else L

    def cholesky_solve(self, L: Any, B: Any) -> Any:
        return self.xp.cholesky_solve(B, L)


def _is_tensor(a: Any) -> bool:
    torch = _torch()
    return torch is not None and isinstance(a, torch.Tensor)


def _is_array(a: Any) -> bool:
    return isinstance(a, np.ndarray | list | tuple) or _is_tensor(a)


def _working_dtype(ops: Any, *dtypes: Any) -> Any:
    wide = ops.float32
    for dtype in dtypes:
        dtype = dtype if ops.is_float(dtype) else ops.float64
        wide = ops.xp.promote_types(wide, dtype)
    return wide


def _read(**named: Any) -> tuple[Any, dict[str, Any], Any]:
    """Check kind, device and finiteness of the arrays that are not None; cast them to one working dtype."""
    given = {name: a for name, a in named.items() if a is not None}
    tensors = [name for name, a in given.items() if _is_tensor(a)]
    if tensors and len(tensors) < len(given):
        others = [name for name in given if name not in tensors]
        raise UserError(
            f"{', '.join(tensors)} came as torch tensors and {', '.join(others)} did not: "
            "pass all arrays as torch tensors or all as NumPy arrays."
        )
    if tensors:
        ops: Any = _TorchOps(_torch())
        devices = {str(a.device) for a in given.values()}
        if len(devices) > 1:
            raise UserError(f"The arrays lie on {', '.join(sorted(devices))}: move them to one device first.")
    else:
        ops = _NumPyOps
        given = {name: np.asarray(a) for name, a in given.items()}
    for name, a in given.items():
        if not ops.is_real(a.dtype):
            raise UserError(f"{name} has dtype {a.dtype}: pass real numbers.")
        if not bool(ops.xp.isfinite(a).all()):
            raise UserError(f"{name} holds NaN or infinite values: remove or mend them before editing.")
    dtype = _working_dtype(ops, *(a.dtype for a in given.values()))
    return ops, {name: ops.cast(a, dtype) for name, a in given.items()}, dtype


def _expect(name: str, a: Any, shape: tuple[int | str, ...], meaning: str) -> None:
    """Raise unless `a` has this shape; a string stands for a size that is free."""
    if a.ndim != len(shape) or any(isinstance(n, int) and n != m for n, m in zip(shape, a.shape, strict=True)):
        wanted = "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"
        raise UserError(f"{name} has shape {tuple(a.shape)} where {wanted} is needed: {meaning}.")


def _check_keys(ops: Any, K: Any, name: str = "K") -> None:
    _expect(name, K, ("d_m", "n"), "keys are columns")
    if K.shape[1] == 0:
        raise UserError(f"{name} has shape {tuple(K.shape)}, no key at all: pass at least one column.")
    zero = ~(K != 0).any(0)
    if bool(zero.any()):
        at = int(ops.cast(zero, ops.float32).argmax())
        raise UserError(f"Key {at} of {name} is zero and no value can be stored under it: drop it or pass another key.")


# --- C, factorised once -------------------------------------------------------------------------------------


def _eps(ops: Any, dtype: Any) -> float:
    return float(ops.xp.finfo(dtype).eps)


def _condition(ops: Any, A: Any, L: Any) -> float:
    """Hager's estimate of the 1-norm condition number of the symmetric A = L Lᵀ, from a few solves."""
    n = A.shape[0]
    x = ops.eye(n, A)[:, :1] * 0 + 1.0 / n
    inverse_norm = 0.0
    for _ in range(5):
        y = ops.cholesky_solve(L, x)
        inverse_norm = max(inverse_norm, float(abs(y).sum()))
        z = ops.cholesky_solve(L, ops.xp.sign(y))
        at = int(abs(z).argmax())
        if float(abs(z[at, 0])) <= float((z * x).sum()):
            break
        x = x * 0
        x[at, 0] = 1.0
    return float(abs(A).sum(0).max()) * inverse_norm


class Factorised:
    """``C = L Lᵀ``, factorised once, for as many edits as come.

    Parameters
    ----------
    C
        Second moment of the keys, ``K Kᵀ`` (d_m, d_m): symmetric and positive definite.

    Attributes
    ----------
    condition : float
        Estimate (Hager's, from below, usually within a factor of 3) of the condition of ``C`` in the 1-norm.
    shape, dtype
        Of ``C``, in the dtype the solves are done in.

    Raises
    ------
    UserError
        If ``C`` is not square, not symmetric, not finite, singular, or so ill-conditioned (beyond
        ``0.01/eps``) that not two digits of a solve could be trusted.
    """

    def __init__(self, C: Float[Any, "d_m d_m"]) -> None:
        ops, arrays, dtype = _read(C=C)
        C = arrays["C"]
        _expect("C", C, ("d_m", "d_m"), "C is the keys' second moment K Kᵀ")
        if C.shape[0] != C.shape[1] or C.shape[0] == 0:
            raise UserError(f"C has shape {tuple(C.shape)} where a square matrix is needed: pass K Kᵀ, (d_m, d_m).")
        eps, size = _eps(ops, dtype), float(abs(C).max())
        if float(abs(C - C.T).max()) > eps**0.5 * size:
            raise UserError("C is not symmetric: pass the second moment K Kᵀ, or its symmetric part (C + Cᵀ)/2.")
        L = ops.cholesky(C)
        self.condition = float("inf") if L is None else _condition(ops, C, L)
        if not self.condition <= 0.01 / eps:
            lowest = float(ops.xp.linalg.eigvalsh(C)[0])
            about = f"{self.condition:.1e}"
            if L is None:
                about = f"{1 / max(abs(lowest) / size, eps):.1e} or more" if size else "infinite"
            indefinite = lowest < -10 * C.shape[0] * eps * size
            kind = "not positive definite" if indefinite else "singular or ill-conditioned"
            limit = f"{0.01 / eps:.1e} in {dtype}"
            raise UserError(
                f"C is {kind} (condition about {about}, limit {limit}): estimate it from more keys "
                f"than its {C.shape[0]} dimensions, or in float64, or add a ridge: C + 1e-6 tr(C)/d_m I."
            )
        self._ops, self._L, self.shape, self.dtype = ops, L, tuple(C.shape), dtype

    def solve(self, B: Float[Any, "d_m ..."]) -> Float[Any, "d_m ..."]:
        """``C⁻¹ B`` for a vector or for columns, in the wider dtype of ``C`` and ``B``."""
        if B.shape[0] != self.shape[0]:
            raise UserError(f"B has shape {tuple(B.shape)} and C {self.shape}: they must agree on d_m, the first size.")
        dtype = _working_dtype(self._ops, self.dtype, B.dtype)
        columns = B[:, None] if B.ndim == 1 else B
        X = self._ops.cholesky_solve(self._ops.cast(self._L, dtype), self._ops.cast(columns, dtype))
        return X[:, 0] if B.ndim == 1 else X


def _size(solver: Any, default: int) -> int:
    """d_m as the solver tells it, if it does."""
    return solver.shape[0] if hasattr(solver, "shape") else getattr(solver, "d_m", default)


def _solve(C: Any, K: Any) -> tuple[Any, Any, Any]:
    """``(ops, K, C⁻¹K)``, both in one working dtype, for C an array or a solver."""
    if _is_array(C):
        ops, arrays, _ = _read(K=K, C=C)
        solver, K = Factorised(arrays["C"]), arrays["K"]
    elif isinstance(C, Solver):
        ops, arrays, dtype = _read(K=K)
        solver, K = C, arrays["K"]
        if isinstance(C, Factorised) and isinstance(C._ops, _TorchOps) != _is_tensor(K):
            raise UserError("K and the factorised C are not of one kind: pass both from torch or both from NumPy.")
        if isinstance(C, Factorised):
            K = ops.cast(K, _working_dtype(ops, dtype, C.dtype))
    else:
        raise UserError(f"C is a {type(C).__name__}: pass the matrix K Kᵀ or an object with a solve(B) method.")
    size = _size(solver, K.shape[0])
    if size != K.shape[0]:
        raise UserError(f"K has shape {tuple(K.shape)} and C ({size}, {size}): they must agree on d_m, a key's length.")
    X = solver.solve(K)
    if _is_tensor(X) != _is_tensor(K):
        raise UserError("K and the factorised C are not of one kind: pass both from torch or both from NumPy.")
    if not bool(ops.xp.isfinite(X).all()):
        raise UserError("C⁻¹K overflows: rescale the keys (and C with them) to ordinary sizes.")
    dtype = _working_dtype(ops, K.dtype, X.dtype)
    return ops, ops.cast(K, dtype), ops.cast(X, dtype)


def _leverages(K: Any, X: Any) -> Any:
    """``h_e = k_eᵀC⁻¹k_e`` of each column."""
    h = (K * X).sum(0)
    if not bool((h > 0).all()):
        raise UserError("kᵀC⁻¹k is not positive: C must be positive definite and the keys not vanishingly small.")
    return h


def _history(ops: Any, K: Any, K_previous: Any) -> Any:
    """K_previous and K side by side."""
    if K_previous is None:
        return K
    _expect(
        "K_previous",
        K_previous,
        (K.shape[0], "n_p"),
        "keys of earlier edits are columns as long as the new keys",
    )
    return ops.join([K_previous, K])


# --- directions ---------------------------------------------------------------------------------------------


def _pair(K: Any, K_previous: Any) -> tuple[Any, Any]:
    ops, arrays, _ = _read(K=K, K_previous=K_previous)
    _check_keys(ops, arrays["K"])
    return arrays["K"], _history(ops, arrays["K"], arrays.get("K_previous"))


def rome_direction(k: Float[Any, " d_m"], C: Any) -> Float[Any, " d_m"]:
    """``C⁻¹k / kᵀC⁻¹k``, whose product with ``k_j`` is ``p(k, k_j)``; otherwise as :func:`rome`."""
    ops, arrays, _ = _read(k=k)
    _expect("k", arrays["k"], ("d_m",), "a single key is a vector")
    K = arrays["k"][:, None]
    _check_keys(ops, K, "k")
    _, K, X = _solve(C, K)
    return (X / _leverages(K, X))[:, 0]


def memit_directions(
    K: Float[Any, "d_m n"], C: Any, K_previous: Float[Any, "d_m n_p"] | None = None, weight: float = 1.0
) -> Float[Any, "d_m n"]:
    """``(C/w + K_p K_pᵀ + K Kᵀ)⁻¹ K``; arguments and errors as :func:`memit`.

    By the push-through identity this is ``C⁻¹U (I/w + UᵀC⁻¹U)⁻¹``, last n columns, with ``U = [K_p, K]``: one
    factorisation of C serves every batch, and ``w = inf`` is EMMET's.
    """
    if not weight > 0 or weight == float("inf"):
        raise UserError(f"weight is {weight}: pass a positive number (for an infinite weight use emmet).")
    K, U = _pair(K, K_previous)
    ops, U, X = _solve(C, U)
    G = U.T @ X
    L = ops.cholesky((G + G.T) / 2 + ops.eye(G.shape[0], G) / weight)
    if L is None:
        raise UserError(f"The keys are too dependent for weight {weight:.1e} in {G.dtype}: lower it, or drop repeats.")
    return ops.cholesky_solve(L, X.T).T[:, -K.shape[1] :]


def emmet_directions(
    K: Float[Any, "d_m n"], C: Any, K_previous: Float[Any, "d_m n_p"] | None = None
) -> Float[Any, "d_m n"]:
    """``C⁻¹U (UᵀC⁻¹U)⁻¹``, last n columns, with ``U = [K_p, K]``; arguments and errors as :func:`emmet`."""
    K, U = _pair(K, K_previous)
    if U.shape[1] > U.shape[0]:
        raise UserError(
            f"{U.shape[1]} equality constraints in {U.shape[0]} dimensions cannot all be met: "
            "write fewer edits, or use memit, which meets them in the least-squares sense."
        )
    ops, U, X = _solve(C, U)
    root = _leverages(U, X) ** 0.5
    G = (U.T @ X) / root / root[:, None]
    G = (G + G.T) / 2
    L = ops.cholesky(G)
    limit = 0.01 / _eps(ops, G.dtype)
    if L is None or not _condition(ops, G, L) <= limit:
        i, j = divmod(int(abs(G - ops.eye(G.shape[0], G)).argmax()), G.shape[0])
        i, j = min(i, j), max(i, j)
        if float(abs(G[i, j])) > 1 - 1e-6:
            what = f"Keys {i} and {j} of the {G.shape[0]} to be held are the same up to scale"
        else:
            what = f"The {G.shape[0]} keys to be held are linearly dependent (condition beyond {limit:.1e})"
        raise UserError(f"{what}, so their equalities contradict or repeat each other: drop one, or use memit (soft).")
    return (ops.cholesky_solve(L, (X / root).T).T / root)[:, -K.shape[1] :]


def alphaedit_directions(
    K: Float[Any, "d_m n"],
    projector: Float[Any, "d_m d_m"],
    K_previous: Float[Any, "d_m n_p"] | None = None,
    ridge: float = 1.0,
) -> Float[Any, "d_m n"]:
    """``P U (ridge I + UᵀP U)⁻¹``, last n columns, with ``U = [K_p, K]``; otherwise as :func:`alphaedit`."""
    if not 0 < ridge < float("inf"):
        raise UserError(f"ridge is {ridge}: pass a positive number (AlphaEdit's own is 1).")
    ops, arrays, dtype = _read(K=K, K_previous=K_previous, projector=projector)
    K, P = arrays["K"], arrays["projector"]
    _check_keys(ops, K)
    _expect("projector", P, (K.shape[0], K.shape[0]), "it acts on keys")
    if float(abs(P - P.T).max()) > _eps(ops, dtype) ** 0.5 or float(abs(P @ P - P).max()) > _eps(ops, dtype) ** 0.5:
        raise UserError("projector is not symmetric with P P = P: build it with null_space_projector(C, threshold).")
    X = P @ _history(ops, K, arrays.get("K_previous"))
    G = X.T @ X
    L = ops.cholesky(G + ridge * ops.eye(G.shape[0], G))
    if L is None:
        raise UserError(f"ridge {ridge:.1e} is too small for repeated keys in {dtype}: raise it or drop one of them.")
    return ops.cholesky_solve(L, X.T).T[:, -K.shape[1] :]


class RlsStep(NamedTuple):
    """A direction (d_m,) and the next ``S`` (d_m, d_m) of the recursion."""

    direction: Any
    S: Any


def rls_direction(
    S: Float[Any, "d_m d_m"], k: Float[Any, " d_m"], hard: bool, *, weight: float = 1.0, C: Any | None = None
) -> RlsStep:
    """The direction ``S k / (kᵀS k + 1/w)`` (hard: ``w = inf``) and the next ``S``; as :func:`rls_step`."""
    if not weight > 0:
        raise UserError(f"weight is {weight}: pass a positive number.")
    ops, arrays, dtype = _read(S=S, k=k)
    S, k = arrays["S"], arrays["k"]
    _expect("k", k, ("d_m",), "a single key is a vector")
    _check_keys(ops, k[:, None], "k")
    _expect("S", S, (k.shape[0], k.shape[0]), "S starts as C⁻¹ and acts on keys")
    g = S @ k
    left = float(k @ g)
    if hard:
        eps = _eps(ops, dtype)
        if C is None:
            floor = 10 * eps * k.shape[0] * float(k @ k) * float((S * S).sum()) ** 0.5
        else:
            _, K, X = _solve(C, k[:, None])
            floor = eps**0.5 * float(_leverages(K, X)[0])
        if not left > floor:
            raise UserError(
                f"The hard recursion has no room for this key (kᵀSk = {left:.1e}): it lies in "
                f"the span of the earlier edits' keys, as every key does after d_m = {k.shape[0]} edits; stop, or "
                "use the soft recursion."
            )
    scale = left if hard else left + 1 / weight
    S_new = S - g[:, None] * (g / scale)[None, :]
    S_new = (S_new + S_new.T) / 2
    if hard and C is None and float((S_new * S_new).sum()) <= eps * float((S * S).sum()):
        S_new = S_new * 0  # what is left is rounding error: the space is used up
    return RlsStep(g / scale, S_new)


# --- rules --------------------------------------------------------------------------------------------------


def _apply(W: Any, K: Any, V: Any, M: Any) -> Any:
    """``(V - W K) Mᵀ`` in the dtype of W."""
    ops, arrays, dtype = _read(W=W, K=K, V=V, M=M)
    R, M = _residual(arrays["W"], arrays["K"], arrays["V"]), arrays["M"]
    own = W.dtype if _is_array(W) and hasattr(W, "dtype") and ops.is_float(W.dtype) else dtype
    return ops.cast(R @ M.T, own)


def _residual(W: Any, K: Any, V: Any) -> Any:
    _expect("W", W, ("d", K.shape[0]), f"W reads keys of length {K.shape[0]}")
    _expect("V", V, (W.shape[0], K.shape[1]), "one value, a column as long as W has rows, for each key")
    return V - W @ K


def _column(name: str, a: Any) -> Any:
    a = a if _is_tensor(a) else np.asarray(a)
    _expect(name, a, ("d_m" if name == "k" else "d",), "a single edit takes vectors")
    return a[:, None]


def rome(W: Float[Any, "d d_m"], k: Float[Any, " d_m"], v: Float[Any, " d"], C: Any) -> Float[Any, "d d_m"]:
    """ROME: the smallest change in the metric of ``C`` that stores ``v`` under ``k`` exactly.

    ``dW = (v - W k) (C⁻¹k)ᵀ / kᵀC⁻¹k``, the minimiser of ``tr(D C Dᵀ)`` subject to ``(W + D) k = v``.

    Parameters
    ----------
    W
        The memory, (d, d_m). Not changed.
    k, v
        Key (d_m,) and value (d,).
    C
        Second moment ``K Kᵀ`` (d_m, d_m) of the keys to be preserved, or any object with ``solve(B) = C⁻¹B``.
        Its scale does not matter here.

    Returns
    -------
    array
        ``dW`` (d, d_m), of rank one, in the dtype and on the device of W.

    Raises
    ------
    UserError
        Wrong shapes, NaN or infinity, mixed kinds or devices, a zero key, a singular or ill-conditioned C.

    Notes
    -----
    Meng et al. (2022); chapter ``book/02-single-edit.ipynb``. Error in float32: see the module.
    """
    K, V = _column("k", k), _column("v", v)
    return _apply(W, K, V, rome_direction(K[:, 0], C)[:, None])


def lam(W: Float[Any, "d d_m"], k: Float[Any, " d_m"], v: Float[Any, " d"], C: Any) -> Float[Any, " d"]:
    """``Λ = (v - W k) / kᵀC⁻¹k`` (d,), the multiplier of a single edit; otherwise as :func:`rome`."""
    K, V = _column("k", k), _column("v", v)
    _check_keys(_read(k=K)[0], K, "k")
    _, K_wide, X = _solve(C, K)
    return _apply(W, K, V, 1 / _leverages(K_wide, X)[:, None])[:, 0]


def memit(
    W: Float[Any, "d d_m"],
    K: Float[Any, "d_m n"],
    V: Float[Any, "d n"],
    C: Any,
    K_previous: Float[Any, "d_m n_p"] | None = None,
    weight: float = 1.0,
) -> Float[Any, "d d_m"]:
    """MEMIT: the least-squares compromise between the preserved keys and the new ones.

    ``dW = R Kᵀ(C/w + K_p K_pᵀ + K Kᵀ)⁻¹`` with ``R = V - W K``, the minimiser of
    ``tr(D C Dᵀ)/w + |(W + D) K - V|² + |D K_p|²``. With ``K_previous`` it is recursive least squares in its
    soft form; as ``weight`` grows it becomes :func:`emmet`.

    Parameters
    ----------
    W, K, V
        Memory (d, d_m), keys (d_m, n), values (d, n).
    C
        Second moment ``K₀K₀ᵀ`` of the preserved keys, or an object with ``solve``. A *sum* over keys: a mean
        must be multiplied by the number of keys it should count for.
    K_previous
        Keys of the earlier edits (d_m, n_p), whose present values are to be kept. None: no history.
    weight
        How much an edit counts against a preserved key, w > 0.

    Returns
    -------
    array
        ``dW`` (d, d_m) in the dtype and on the device of W.

    Raises
    ------
    UserError
        As :func:`rome`; and a weight that is not positive and finite.

    Notes
    -----
    Meng et al. (2023); chapter ``book/06-editors.ipynb``. Error in float32: see the module.
    """
    return _apply(W, K, V, memit_directions(K, C, K_previous, weight))


def emmet(
    W: Float[Any, "d d_m"],
    K: Float[Any, "d_m n"],
    V: Float[Any, "d n"],
    C: Any,
    K_previous: Float[Any, "d_m n_p"] | None = None,
) -> Float[Any, "d d_m"]:
    """EMMET: the smallest change in the metric of ``C`` that stores a whole batch exactly.

    ``dW = R (KᵀC⁻¹K)⁻¹ KᵀC⁻¹`` with ``R = V - W K``. For one key it is :func:`rome`. With ``K_previous`` the
    values at the earlier keys are constraints too, ``dW K_p = 0``: recursive least squares in its hard form,
    in one step.

    Parameters
    ----------
    W, K, V, C, K_previous
        As :func:`memit`. The scale of C does not matter.

    Returns
    -------
    array
        ``dW`` (d, d_m) in the dtype and on the device of W.

    Raises
    ------
    UserError
        As :func:`rome`; and keys (with those of ``K_previous``) that are repeated, linearly dependent, or
        more than d_m.

    Notes
    -----
    Gupta et al. (2024); chapter ``book/06-editors.ipynb``. Error in float32: see the module.
    """
    return _apply(W, K, V, emmet_directions(K, C, K_previous))


def alphaedit(
    W: Float[Any, "d d_m"],
    K: Float[Any, "d_m n"],
    V: Float[Any, "d n"],
    projector: Float[Any, "d_m d_m"],
    K_previous: Float[Any, "d_m n_p"] | None = None,
    ridge: float = 1.0,
) -> Float[Any, "d d_m"]:
    """AlphaEdit: write only where the preserved keys (nearly) do not reach.

    ``dW = R KᵀP (K_p K_pᵀP + K KᵀP + ridge I)⁻¹`` with ``R = V - W K``. For one edit the share
    ``kᵀPk / (kᵀPk + ridge)`` of R is written; a key with ``P k = 0`` cannot be written at all.

    Parameters
    ----------
    W, K, V, K_previous
        As :func:`memit`.
    projector
        ``P`` (d_m, d_m), symmetric, ``P P = P``: see :func:`null_space_projector`.
    ridge
        Penalty on the size of the change, > 0, in units of a squared key.

    Returns
    -------
    array
        ``dW`` (d, d_m) in the dtype and on the device of W; ``dW (I - P) = 0``.

    Raises
    ------
    UserError
        As :func:`rome` (C apart); a P that is no projector; a ridge that is not positive.

    Notes
    -----
    Fang et al. (2025); chapter ``book/06-editors.ipynb``. Error in float32: at most about
    ``10 eps (1 + |P U|²/ridge)`` relative, with U all keys side by side.
    """
    return _apply(W, K, V, alphaedit_directions(K, projector, K_previous, ridge))


def null_space_projector(C: Float[Any, "d_m d_m"], threshold: float, relative: bool = False) -> Float[Any, "d_m d_m"]:
    """The projector ``P`` on the eigenvectors of ``C`` whose eigenvalues lie below ``threshold``.

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

    Notes
    -----
    Fang et al. (2025); chapter ``book/06-editors.ipynb``.
    """
    ops, arrays, dtype = _read(C=C)
    C = arrays["C"]
    if C.ndim != 2 or C.shape[0] != C.shape[1]:
        raise UserError(f"C has shape {tuple(C.shape)} where a square matrix is needed: pass K Kᵀ, (d_m, d_m).")
    if float(abs(C - C.T).max()) > _eps(ops, dtype) ** 0.5 * float(abs(C).max()):
        raise UserError("C is not symmetric: pass the second moment K Kᵀ, or its symmetric part (C + Cᵀ)/2.")
    if not threshold > 0:
        raise UserError(f"threshold is {threshold}: pass a positive number.")
    values, vectors = ops.xp.linalg.eigh((C + C.T) / 2)
    limit = threshold * float(values[-1]) if relative else threshold
    if not float(values[0]) < limit:
        raise UserError(
            f"No eigenvalue of C lies below {limit:.1e} (the smallest is {float(values[0]):.1e}): there is "
            "nowhere to write: raise the threshold."
        )
    Q = vectors[:, values < limit]
    return Q @ Q.T


def rls_step(
    W: Float[Any, "d d_m"],
    S: Float[Any, "d_m d_m"],
    k: Float[Any, " d_m"],
    v: Float[Any, " d"],
    hard: bool,
    *,
    weight: float = 1.0,
    C: Any | None = None,
) -> tuple[Float[Any, "d d_m"], Float[Any, "d_m d_m"]]:
    """One step of recursive least squares: the update, and the inverse second moment that remembers it.

    Start from ``S = C⁻¹``. Soft: ``dW = (v - W k)(S k)ᵀ / (kᵀS k + 1/w)``,
    ``S ← S - S k kᵀS / (kᵀS k + 1/w)``, so that S stays ``(C + w Σ k kᵀ)⁻¹``: with w = 1, MEMIT with history
    (:func:`memit` with ``K_previous``). Hard: the same with ``w = inf``; every earlier edit is then kept
    exactly (:func:`emmet` with ``K_previous``), until d_m edits have used up the space and ``kᵀS k`` is zero.

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
        Optional, the C the recursion started from (array or solver): the hard form then measures the room a
        key has left by ``kᵀS k / kᵀC⁻¹k`` and stops where it falls to rounding error (``sqrt(eps)``). Without
        it the room is judged from S alone, which is safe up to a condition of about 1e7 in float64.

    Returns
    -------
    dW, S_new
        ``dW`` (d, d_m) in the dtype of W; ``S_new`` (d_m, d_m).

    Raises
    ------
    UserError
        As :func:`rome`; and, in the hard form, a key in the span of the earlier ones.

    Notes
    -----
    Chapter ``book/06-editors.ipynb``. Both recursions lose digits step by step: in the hard form the earlier
    edits are kept to about ``1e-14 cond(C)`` relative after hundreds of steps in float64; in float32 only
    tens of steps are safe.
    """
    step = rls_direction(S, k, hard, weight=weight, C=C)
    return _apply(W, _column("k", k), _column("v", v), step.direction[:, None]), step.S


def least_squares(K: Float[Any, "d_m N"], V: Float[Any, "d N"], ridge: float = 0.0) -> Float[Any, "d d_m"]:
    """The memory that fits its pairs best in the least-squares sense: ``W = V Kᵀ(K Kᵀ + ridge I)⁻¹``.

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

    Notes
    -----
    The normal equation of the linear associative memory; chapter ``book/01-memory.ipynb``. Error in float32:
    at most about ``10 eps cond(C)`` relative.
    """
    return _fit(K, V, ridge)[0]


def _fit(K: Any, V: Any, ridge: float) -> tuple[Any, Factorised]:
    """The least-squares memory and its factorised C."""
    ops, arrays, dtype = _read(K=K, V=V)
    K, values = arrays["K"], arrays["V"]
    _expect("K", K, ("d_m", "N"), "keys are columns")
    _expect("V", values, ("d", K.shape[1]), "one value, a column, for each key")
    if not 0 <= ridge < float("inf"):
        raise UserError(f"ridge is {ridge}: pass zero or a positive number.")
    C = K @ K.T
    factor = Factorised(C + ridge * ops.eye(C.shape[0], C))
    own = V.dtype if hasattr(V, "dtype") and ops.is_float(V.dtype) else dtype
    return ops.cast(factor.solve(K @ values.T).T, own), factor
