"""Chapter 06: the family of editors, the two recursions, and where the rules coincide."""

from __future__ import annotations

import sympy as sp
from sympy.matrices.expressions.matexpr import MatrixExpr

from superposition.theory.expressions import K_1, W_0, A, C, D, K_p, P, R, S, W, d, d_m, gain, h, k, n, rho, v, weight

# isort: split
from superposition.theory.expressions import Result, check_size, equation, key, leverage, prove, reduce_matrix, value


def _gradient(objective: sp.Expr, variable: sp.MatrixSymbol) -> MatrixExpr:
    """The derivative of a weighted sum of traces: each trace by SymPy, the sum by linearity."""
    total: MatrixExpr = sp.ZeroMatrix(*variable.shape)
    for term in sp.Add.make_args(objective):
        factor, trace = term.as_independent(sp.Trace)
        total = total + factor * trace.diff(variable)
    return total


def memit_proof() -> Result:
    """MEMIT's closed form makes the gradient of its objective zero, with weight and history, in symbolic sizes.

    Objective ``tr(D C Dᵀ)/w + |D K_1 - R|² + |D K_p|²``; ``D = R K_1ᵀA⁻¹`` with
    ``A = C/w + K_p K_pᵀ + K_1 K_1ᵀ``.
    """
    miss = D * K_1 - R
    objective = sp.Trace(D * C * D.T) / weight + sp.Trace(miss * miss.T) + sp.Trace(D * K_p * K_p.T * D.T)
    at = _gradient(objective, D).subs(D, R * K_1.T * A.I)
    # C in terms of A, so that A A⁻¹ can cancel in 2 D C/w + 2 (D K_1 - R) K_1ᵀ + 2 D K_p K_pᵀ = 2 (D A - R K_1ᵀ)
    inside = weight * (A - K_p * K_p.T - K_1 * K_1.T)
    difference = reduce_matrix(reduce_matrix(at).subs(C, inside), symmetric=(A, C))
    where = (equation(A, C / weight + K_p * K_p.T + K_1 * K_1.T),)
    return Result(equation(at, sp.ZeroMatrix(d, d_m)), where, difference)


def push_through() -> Result:
    """``(C + U Uᵀ) C⁻¹U = U (I + UᵀC⁻¹U)``, hence ``(C + U Uᵀ)⁻¹U = C⁻¹U (I + UᵀC⁻¹U)⁻¹`` (Woodbury), symbolic sizes.

    It turns a d_m × d_m inverse into an n × n one; the rules of :mod:`superposition.linear.rules` are computed so.
    """
    G = sp.MatrixSymbol("G", n, n)
    proof = prove((C + K_1 * K_1.T) * C.I * K_1, K_1 * (sp.Identity(n) + G), {G: K_1.T * C.I * K_1}, symmetric=(C, G))
    left, right = (C + K_1 * K_1.T).I * K_1, C.I * K_1 * (sp.Identity(n) + G).I
    return Result(equation(left, right), proof.where, proof.difference, by_hand="multiplying by the two inverses")


def emmet_proof() -> dict[str, Result]:
    """EMMET's closed form: stationarity of its Lagrangian, and the constraint, in symbolic sizes.

    ``D = R G⁻¹K_1ᵀC⁻¹`` with ``G = K_1ᵀC⁻¹K_1`` and multipliers ``R G⁻¹``. With ``K_p`` among the columns of
    ``K_1`` and zeros in R it is recursive least squares in its hard form.
    """
    G = sp.MatrixSymbol("G", n, n)
    Lam = sp.MatrixSymbol("Lambda", d, n)
    gradient = sp.Trace(D * C * D.T).diff(D) / 2 - sp.Trace(Lam.T * (D * K_1 - R)).diff(D)
    closed = R * G.I * K_1.T * C.I
    names, at = {G: K_1.T * C.I * K_1}, gradient.subs(D, closed).subs(Lam, R * G.I)
    return {
        "stationarity": prove(at, sp.ZeroMatrix(d, d_m), names, symmetric=(C, G)),
        "constraint": prove(closed * K_1, R, names, symmetric=(C, G)),
    }


def alphaedit_proof() -> dict[str, Result]:
    """AlphaEdit's closed form makes the gradient (within the space of P) zero, and stays in that space.

    Objective ``|D P K_1 - R|² + |D P K_p|² + ρ|D P|²``; ``Δ = D P = R K_1ᵀP M`` with ``M = (B P + ρ I)⁻¹``
    and ``B = K_p K_pᵀ + K_1 K_1ᵀ``. Given: P is symmetric with P P = P. By hand: ``P M P = P M`` and
    ``M B P = I - ρ M``, both from the definition of M (the first since ``P (B P + ρ I) = (P B + ρ I) P``).
    """
    M, B = sp.MatrixSymbol("M", d_m, d_m), sp.MatrixSymbol("B", d_m, d_m)
    miss = D * P * K_1 - R
    # K_p K_pᵀ enters as B - K_1 K_1ᵀ, so that B meets M in the products that are given
    gradient = _gradient(
        sp.Trace(miss * miss.T) + sp.Trace(D * P * B * P.T * D.T) - sp.Trace(D * P * K_1 * K_1.T * P.T * D.T), D
    ) + rho * sp.Trace(D * P * P.T * D.T).diff(D)
    closed = R * K_1.T * P * M
    given = {P * P: P, P * M * P: P * M, M * B * P: sp.Identity(d_m) - rho * M}
    at = gradient.subs(D, closed)
    note = "P M P = P M and M B P = I - ρ M from M's definition"
    where = (equation(B, K_p * K_p.T + K_1 * K_1.T), equation(M, (B * P + rho * sp.Identity(d_m)).I))

    def proved(left: MatrixExpr, right: MatrixExpr) -> Result:
        proof = prove(left, right, None, given, (P, B), note)
        return Result(proof.equation, where, proof.difference, (equation(P * P, P), equation(P.T, P)), note)

    return {"stationarity": proved(at, sp.ZeroMatrix(d, d_m)), "inside": proved(closed * P, closed)}


def alphaedit_residual() -> dict[str, Result]:
    """AlphaEdit with one edit writes ``g/(ρ + g)`` of δ, with ``g = kᵀP k``, and leaves ``ρ/(ρ + g)``; symbolic sizes.

    ``closed form``: ``kᵀP (k kᵀP + ρ I)⁻¹ = kᵀP/(ρ + g)``, proved by multiplying out; ``left``:
    ``v - Ŵ k = ρ/(ρ + g) δ``.
    """
    names, given = {gain: k.T * P * k}, {P * P: P}
    left = v - W * k
    update = left * k.T * P / (rho + gain)
    inverse = prove(k.T * P / (rho + gain) * (k * k.T * P + rho * sp.Identity(d_m)), k.T * P, names, given, (P,))
    shown = equation(k.T * P * (k * k.T * P + rho * sp.Identity(d_m)).I, k.T * P / (rho + gain))
    return {
        "closed form": Result(shown, inverse.where, inverse.difference, inverse.assumes, "multiplying by the inverse"),
        "left": prove(v - (W + update) * k, rho / (rho + gain) * left, names, given, (P,)),
    }


def soft_recursion() -> dict[str, Result]:
    """The soft recursion is MEMIT with history, one step, in symbolic sizes.

    With ``S = (C + K_p K_pᵀ)⁻¹`` (here ``S⁻¹`` stands for the moment) and ``s = kᵀS k``. ``direction``:
    ``(S⁻¹ + k kᵀ)⁻¹k = S k/(1 + s)``. ``state``: ``(S⁻¹ + k kᵀ)⁻¹ = S - S k kᵀS/(1 + s)``, so the next S is the
    inverse of the moment with k added. ``damped``: ``S' k = S k/(1 + s)``, so later edits disturb this one by that
    factor less, but not by nothing. By induction on the edits, every step is MEMIT's with ``K_p`` = all earlier keys.
    """
    s = sp.Symbol("s", positive=True)
    names, note = {s: k.T * S * k}, "multiplying by the inverse"
    direction = prove((S.I + k * k.T) * S * k / (1 + s), k, names, None, (S,))
    following = S - S * k * k.T * S / (1 + s)
    state = prove((S.I + k * k.T) * following, sp.Identity(d_m), names, None, (S,))
    moment = (S.I + k * k.T).I  # Sherman and Morrison's formula, with S for C⁻¹
    return {
        "damped": prove(following * k, S * k / (1 + s), names, None, (S,)),
        "direction": Result(equation(moment * k, S * k / (1 + s)), direction.where, direction.difference, (), note),
        "state": Result(equation(moment, following), state.where, state.difference, (), note),
    }


def hard_recursion() -> dict[str, Result]:
    """The hard recursion keeps every earlier edit and uses up one dimension a step, in symbolic sizes.

    ``S' = S - S k kᵀS/s`` with ``s = kᵀS k > 0``. ``written``: the new edit is exact.
    ``forgotten direction``: ``S' k = 0``. ``earlier``: a key with ``S k_p = 0`` keeps ``S' k_p = 0``;
    ``kept``: and the update does not touch it. ``idempotent``: from ``S C S = S`` follows ``S' C S' = S'``,
    so ``S C`` is a projector. ``room``: ``tr(S' C) = tr(S C) - 1``. From ``S = C⁻¹``, with trace d_m, the
    trace after n edits is d_m - n: room for exactly d_m edits, whatever the p's. By induction.
    """
    s, earlier = sp.Symbol("s", positive=True), key("p")
    names, nothing = {s: k.T * S * k}, sp.ZeroMatrix(d_m, 1)
    following = S - S * k * k.T * S / s
    update = (v - W * k) * (S * k).T / s
    gone, projector = {S * earlier: nothing}, {S * C * S: S}
    # tr(S' C) = tr(S C) - tr(S k kᵀS C)/s, and the second trace is the scalar kᵀS C S k = kᵀS k = s
    lost = reduce_matrix(k.T * S * C * S * k / s, {**projector, k.T * S * k: s}, (C, S))
    shown = equation(sp.Trace(following * C), sp.Trace(S * C) - 1)
    return {
        "written": prove((W + update) * k, v, names, None, (S,)),
        "forgotten direction": prove(following * k, nothing, names, None, (S,)),
        "earlier": prove(following * earlier, nothing, names, gone, (S,)),
        "kept": prove(update * earlier, sp.ZeroMatrix(d, 1), names, gone, (S,)),
        "idempotent": prove(following * C * following, following, names, projector, (C, S)),
        "room": Result(
            shown,
            (equation(s, k.T * S * k),),
            reduce_matrix(lost - sp.Identity(1)),
            (equation(S * C * S, S),),
            "tr(S k kᵀS C) = kᵀS C S k: the trace is cyclic",
        ),
    }


def interference_left() -> dict[str, Result]:
    """What one more edit of each rule does to another key ``k_j``, in symbolic sizes (chapter 06).

    ``rome`` (EMMET for one edit): ``p δ``. ``memit``, weight w: ``w h/(1 + w h) p δ``. ``rls-soft``:
    ``kᵀS k_j/(1 + s) δ``; ``rls-hard``: ``kᵀS k_j/s δ``, and 0 for an earlier edit's key (:func:`hard_recursion`).
    ``alphaedit``: ``kᵀP k_j/(ρ + g) δ``; ``alphaedit, preserved``: 0 where ``P k_j = 0``. Always δ times a number that
    is known from the keys alone.
    """
    k_j, named, left = key("j"), sp.Symbol("p", real=True), v - W * k
    s, q = sp.Symbol("s", positive=True), sp.Symbol("q", real=True)
    plain = {h: k.T * C.I * k, h * named: k.T * C.I * k_j}
    recursion = {s: k.T * S * k, q: k.T * S * k_j}
    projected, given = {gain: k.T * P * k, q: k.T * P * k_j}, {P * P: P}
    rome, memit = left * k.T * C.I / h, weight / (1 + weight * h) * left * k.T * C.I
    alphaedit = left * k.T * P / (rho + gain)
    nothing = {P * k_j: sp.ZeroMatrix(d_m, 1)}
    return {
        "rome": prove(rome * k_j, named * left, plain),
        "memit": prove(memit * k_j, weight * h / (1 + weight * h) * named * left, plain),
        "rls-soft": prove(left * (S * k).T / (1 + s) * k_j, q / (1 + s) * left, recursion, None, (S,)),
        "rls-hard": prove(left * (S * k).T / s * k_j, q / s * left, recursion, None, (S,)),
        "alphaedit": prove(alphaedit * k_j, q / (rho + gain) * left, projected, given, (P,)),
        "alphaedit, preserved": prove(alphaedit * k_j, sp.ZeroMatrix(d, 1), {gain: k.T * P * k}, nothing, (P,)),
    }


def memit_limit() -> Result:
    """MEMIT with weight w differs from EMMET by a term in 1/w, in symbolic sizes: as ``w → ∞`` it becomes EMMET.

    With ``G = K_1ᵀC⁻¹K_1`` and ``H = (I/w + G)⁻¹``: ``G⁻¹ - H = (1/w) G⁻¹H``; and H stays bounded (by G⁻¹).
    For one key see :func:`~superposition.theory.memory.weight_limit`. Multiplied by G in the proof, where
    ``G H = I - H/w`` by H's definition.
    """
    G, H = sp.MatrixSymbol("G", n, n), sp.MatrixSymbol("H", n, n)
    given = {G * H: sp.Identity(n) - H / weight}  # H⁻¹ = I/w + G, multiplied by H
    difference = reduce_matrix(G * (G.I - H - G.I * H / weight), given, (G, H))
    where = (equation(G, K_1.T * C.I * K_1), equation(H, (sp.Identity(n) / weight + G).I))
    return Result(equation(G.I - H, G.I * H / weight), where, difference, by_hand="multiplying by G")


def one_edit() -> dict[str, Result]:
    """For one edit ROME, EMMET and the hard recursion (from ``S = C⁻¹``) are one rule, in symbolic sizes."""
    names = {h: k.T * C.I * k}
    rome = (v - W * k) * k.T * C.I / h
    emmet = (v - W * k) * (sp.Identity(1) / h) * k.T * C.I
    hard = ((v - W * k) * (S * k).T / h).subs(S, C.I)
    return {"emmet": prove(emmet, rome, names), "rls-hard": prove(hard, rome, names)}


def orthogonal_keys(edits: int) -> dict[str, Result]:
    """With keys orthogonal in whitened space the equality rules coincide, for n = 1 … 4 edits (chapter 06).

    Given ``k_iᵀC⁻¹k_j = 0`` for i ≠ j. ``rome``: the sequence amounts to
    ``D = Σ (v_i - W_0 k_i) kᵢᵀC⁻¹/h_i``: no δ depends on the edits before. ``emmet``: that D meets every
    constraint at once (and has EMMET's form ``Λ KᵀC⁻¹``, so it is EMMET's). ``rls-hard``: the last key meets
    an S that still acts on it as ``C⁻¹``.
    """
    check_size("edits", edits)
    indices = range(1, edits + 1)
    names = {leverage(a): key(a).T * C.I * key(a) for a in indices}
    given = {key(a).T * C.I * key(b): 0 for a in indices for b in indices if a < b}
    products = {**{product: name for name, product in names.items()}, **given}
    memory, before, state = W_0, C.I, C.I
    for a in indices:  # ROME and the hard recursion, step by step, with every cross product k_iᵀC⁻¹k_j zero
        memory = reduce_matrix(memory + (value(a) - memory * key(a)) * key(a).T * C.I / leverage(a), products)
        before, state = state, reduce_matrix(state - state * key(a) * key(a).T * state / leverage(a), products)
    parts = [(value(a) - W_0 * key(a)) * key(a).T * C.I / leverage(a) for a in indices]
    total = sp.MatAdd(*parts) if len(parts) > 1 else parts[0]
    last = key(edits)
    out = {
        "rome": prove(memory - W_0, total, names, given),
        "rls-hard": prove(before * last, C.I * last, names, given),
    }
    for a in indices:
        out[f"emmet {a}"] = prove(total * key(a), value(a) - W_0 * key(a), names, given)
    return out
