"""The edit rules against KKT systems, generic solvers, naive loops and each other."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from superposition.errors import UserError
from superposition.linear import rules
from superposition.linear.metric import Metric

EXAMPLES = settings(max_examples=20, deadline=None)


class Problem:
    """A random memory with preserved keys, earlier edits and new edits; keys of very different lengths."""

    def __init__(self, seed, d, d_m, n, n_previous=2, spread=1.0):
        rng = np.random.default_rng(seed)
        self.W = rng.normal(size=(d, d_m))
        self.K = rng.normal(size=(d_m, n)) * 10 ** rng.uniform(-spread, spread, size=n)
        self.V = rng.normal(size=(d, n))
        self.K_previous = rng.normal(size=(d_m, n_previous))
        K_0 = np.diag(10 ** rng.uniform(-spread, spread, size=d_m)) @ rng.normal(size=(d_m, 3 * d_m))
        self.C = K_0 @ K_0.T
        self.R = self.V - self.W @ self.K
        self.rng = rng

    @property
    def single(self):
        return self.W, self.K[:, 0], self.V[:, 0], self.C


@st.composite
def problems(draw, most=7):
    d_m = draw(st.integers(2, most))
    n = draw(st.integers(1, d_m))
    n_previous = draw(st.integers(0, d_m - n))
    return Problem(draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 4)), d_m, n, n_previous)


def close(a, b, rtol=1e-8):
    scale = max(np.abs(b).max(), 1e-300)
    np.testing.assert_allclose(np.asarray(a) / scale, np.asarray(b) / scale, rtol=0, atol=rtol)


def kkt(C, U, R):
    """min tr(D C Dᵀ) s.t. D U = R, from its KKT system."""
    m, n = U.shape
    system = np.block([[C, U], [U.T, np.zeros((n, n))]])
    right = np.vstack([np.zeros((m, R.shape[0])), R.T])
    return np.linalg.solve(system, right)[:m].T


def lstsq(*terms):
    """min Σ |D A - B|² over D, from one stacked least-squares problem."""
    A = np.hstack([a for a, _ in terms])
    B = np.hstack([b for _, b in terms])
    return np.linalg.lstsq(A.T, B.T, rcond=None)[0].T


def least_angle(K, C):
    """The smallest sine of a whitened key with the span of those before it."""
    U = np.linalg.solve(np.linalg.cholesky(C), K)
    return np.abs(np.diag(np.linalg.qr(U / np.linalg.norm(U, axis=0))[1])).min()


# --- closed forms against direct solutions --------------------------------------------------------------------


@EXAMPLES
@given(problems())
def test_rome_solves_its_kkt_system(q):
    close(rules.rome(*q.single), kkt(q.C, q.K[:, :1], q.R[:, :1]))


@EXAMPLES
@given(problems())
def test_rome_by_naive_loops(q):
    W, k, v, C = q.single
    g = np.linalg.solve(C, k)
    h = sum(k[b] * g[b] for b in range(len(k)))
    slow = np.zeros_like(W)
    for a in range(W.shape[0]):
        left = v[a] - sum(W[a, b] * k[b] for b in range(len(k)))
        np.testing.assert_allclose(rules.lam(W, k, v, C)[a], left / h, rtol=1e-7, atol=1e-10 * abs(v).max() / h)
        for b in range(len(k)):
            slow[a, b] = left / h * g[b]
    close(rules.rome(W, k, v, C), slow)


@EXAMPLES
@given(problems())
def test_emmet_solves_its_kkt_system(q):
    close(rules.emmet(q.W, q.K, q.V, q.C), kkt(q.C, q.K, q.R), 1e-6)


@EXAMPLES
@given(problems())
def test_emmet_with_history_solves_its_kkt_system(q):
    U = np.hstack([q.K_previous, q.K])
    R = np.hstack([0 * q.W @ q.K_previous, q.R])
    close(rules.emmet(q.W, q.K, q.V, q.C, q.K_previous), kkt(q.C, U, R), 1e-5)


@EXAMPLES
@given(problems(), st.sampled_from([0.1, 1.0, 30.0]), st.booleans())
def test_memit_is_the_least_squares_compromise(q, weight, history):
    L = np.linalg.cholesky(q.C)
    root = weight**0.5
    terms = [(L, np.zeros((q.W.shape[0], L.shape[1]))), (root * q.K, root * q.R)]
    if history:
        terms.append((root * q.K_previous, 0 * q.W @ q.K_previous))
    K_previous = q.K_previous if history else None
    close(rules.memit(q.W, q.K, q.V, q.C, K_previous, weight), lstsq(*terms))


@EXAMPLES
@given(problems(), st.sampled_from([0.3, 1.0, 20.0]))
def test_alphaedit_is_ridge_regression_in_the_null_space(q, ridge):
    values, vectors = np.linalg.eigh(q.C)
    kept = vectors[:, : max(1, len(values) // 2)]
    P = kept @ kept.T
    terms = [(kept.T @ q.K, q.R), (ridge**0.5 * np.eye(kept.shape[1]), np.zeros((q.W.shape[0], kept.shape[1])))]
    for history in (None, q.K_previous):
        if history is not None:
            terms.append((kept.T @ history, 0 * q.W @ history))
        update = rules.alphaedit(q.W, q.K, q.V, P, history, ridge)
        close(update, lstsq(*terms) @ kept.T)
        U = q.K if history is None else np.hstack([history, q.K])
        close(update, q.R @ q.K.T @ P @ np.linalg.inv(U @ U.T @ P + ridge * np.eye(len(P))), 1e-7)
        close(update @ (np.eye(len(P)) - P) + update, update)


def test_alphaedit_writes_the_share_of_its_ridge():
    q = Problem(3, 4, 6, 1)
    P = rules.null_space_projector(q.C, np.sort(np.linalg.eigvalsh(q.C))[3])
    W, k, v, _ = q.single
    gain = k @ P @ k
    left = v - (W + rules.alphaedit(W, q.K, q.V, P)) @ k
    close(left, (v - W @ k) / (1 + gain))


@EXAMPLES
@given(problems(most=4))
def test_generic_solvers_find_nothing_better(q):
    """SLSQP on the constrained and BFGS on the free objective, both from zero, end where the closed forms are."""
    d, m = q.W.shape
    C = q.C / np.trace(q.C)
    K = q.K / np.linalg.norm(q.K, axis=0)
    V = q.V
    R = V - q.W @ K

    def size(x):
        D = x.reshape(d, m)
        return np.sum((D @ C) * D)

    def misfit(x):
        return (x.reshape(d, m) @ K - R).ravel()

    hard, soft = rules.emmet(q.W, K, V, C), rules.memit(q.W, K, V, C)
    constraint = {"type": "eq", "fun": misfit}
    found = scipy.optimize.minimize(
        size, np.zeros(d * m), constraints=[constraint], method="SLSQP", options={"ftol": 1e-14, "maxiter": 500}
    )
    if found.success:
        assert size(hard.ravel()) <= size(found.x) * (1 + 1e-6) + 1e-6
    np.testing.assert_allclose(misfit(hard.ravel()), 0, atol=1e-6)
    found = scipy.optimize.minimize(lambda x: size(x) + np.sum(misfit(x) ** 2), np.zeros(d * m), method="BFGS")
    assert size(soft.ravel()) + np.sum(misfit(soft.ravel()) ** 2) <= found.fun * (1 + 1e-9) + 1e-12


@EXAMPLES
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 6))
def test_least_squares_memory(seed, d, d_m):
    rng = np.random.default_rng(seed)
    K, V = rng.normal(size=(d_m, d_m + 6)), rng.normal(size=(d, d_m + 6))
    close(rules.least_squares(K, V), lstsq((K, V)))
    close(rules.least_squares(K, V, 0.7), lstsq((K, V), (0.7**0.5 * np.eye(d_m), np.zeros((d, d_m)))))


# --- the family -----------------------------------------------------------------------------------------------


@EXAMPLES
@given(problems(), st.sampled_from([1.0, 5.0]))
def test_soft_recursion_is_memit_with_history(q, weight):
    W, S = q.W, np.linalg.inv(q.C)
    for j in range(q.K.shape[1]):
        batch = rules.memit(W, q.K[:, j : j + 1], q.V[:, j : j + 1], q.C, q.K[:, :j], weight)
        step, S = rules.rls_step(W, S, q.K[:, j], q.V[:, j], False, weight=weight)
        np.testing.assert_array_equal(S, S.T)  # though an inverse is symmetric but for rounding
        close(step, batch, 1e-7)
        W = W + step
    close(W - q.W, rules.memit(q.W, q.K, q.V, q.C, weight=weight), 1e-7)
    close(S, np.linalg.inv(q.C + weight * q.K @ q.K.T), 1e-7)


@EXAMPLES
@given(st.integers(0, 2**32 - 1), st.integers(2, 8))
def test_hard_recursion_keeps_every_edit_until_the_space_is_full(seed, d_m):
    q = Problem(seed, 3, d_m, d_m + 1, spread=0.2)
    assume(least_angle(q.K[:, :d_m], q.C) > 3e-3)
    W, S = q.W, np.linalg.inv(q.C)
    for j in range(d_m):
        step, S = rules.rls_step(W, S, q.K[:, j], q.V[:, j], True, C=q.C)
        close(step, rules.emmet(W, q.K[:, j : j + 1], q.V[:, j : j + 1], q.C, q.K[:, :j]), 1e-4)
        W = W + step
        scale = np.abs(W).max() * np.abs(q.K).max()
        np.testing.assert_allclose(W @ q.K[:, : j + 1], q.V[:, : j + 1], atol=1e-8 * scale)
    overlaps = q.K.T @ np.linalg.solve(q.C, q.K)
    assert np.abs(overlaps[~np.eye(d_m + 1, dtype=bool)]).min() > 0
    for C in (q.C, Metric(q.C)):
        with pytest.raises(UserError, match=f"no room for this key .* after d_m = {d_m} edits"):
            rules.rls_step(W, S, q.K[:, d_m], q.V[:, d_m], True, C=C)


@pytest.mark.parametrize(("seed", "scale"), [(0, 1), (1, 1), (2, 1), (3, 1e-12), (4, 1e12)])
def test_hard_recursion_notices_the_end_without_C(seed, scale):
    q = Problem(seed, 2, 6, 7, spread=0.2)
    W, S = q.W, scale * np.linalg.inv(q.C)
    for j in range(6):
        step, S = rules.rls_step(W, S, q.K[:, j], q.V[:, j], True)
        W = W + step
    close(W @ q.K[:, :6], q.V[:, :6], 1e-7)
    assert not S.any()
    with pytest.raises(UserError, match="no room for this key"):
        rules.rls_step(W, S, q.K[:, 6], q.V[:, 6], True)
    S = rules.rls_step(q.W, np.linalg.inv(q.C), q.K[:, 0], q.V[:, 0], True)[1]
    with pytest.raises(UserError, match="no room for this key"):
        rules.rls_step(q.W, S, -2 * q.K[:, 0], q.V[:, 0], True)


def test_room_is_what_lies_off_the_span_by_more_than_rounding():
    """After an edit at e_1 with C = I, ``kᵀS k = t²`` for ``k = e_1 + t e_2``."""
    S, eps = np.diag([0.0, 1, 1]), np.finfo(float).eps
    without = (30 * 2**0.5 * eps) ** 0.5  # 10 eps d_m |k|² |S|
    for C, least in ((np.eye(3), eps**0.25), (None, without)):
        for t in (0.99 * least, 1.01 * least):
            k = np.array([1, t, 0])
            assert rules.has_room(S, k, C) == (t > least)
            if t > least:
                np.testing.assert_allclose(rules.rls_direction(S, k, True, C=C).direction, [0, 1 / t, 0])
            else:
                with pytest.raises(UserError, match="no room for this key"):
                    rules.rls_direction(S, k, True, C=C)


def test_without_a_weight_an_edit_counts_as_one_preserved_key():
    direction, S = rules.rls_direction(np.eye(3), np.array([2.0, 0, 0]), False)
    np.testing.assert_allclose(direction, [2 / 5, 0, 0])
    np.testing.assert_allclose(S, np.diag([1 / 5, 1, 1]))


def test_keys_are_dependent_where_equalities_would_be_lost_in_rounding():
    """The correlation of e_1 and ``e_1 + t e_2`` is within t²/2 of one."""
    for t in (1e-7, 1e-6):
        K = np.array([[1, 1], [0, t], [0, 0]])
        if t < 5e-7:
            with pytest.raises(UserError, match="Keys 0 and 1 of the 2 to be held are the same up to scale"):
                rules.emmet_directions(K, np.eye(3))
        else:
            np.testing.assert_allclose(rules.emmet_directions(K, np.eye(3)).T @ K, np.eye(2), atol=1e-3)


# --- invariances ----------------------------------------------------------------------------------------------


@EXAMPLES
@given(problems(most=5), st.floats(1e-3, 1e3))
def test_change_of_basis_and_scale(q, scale):
    """k → A k, C → A C Aᵀ, W → W A⁻¹ changes an update D into D A⁻¹; C's scale is free in the equality rules."""
    A = np.eye(q.W.shape[1]) + 0.3 * np.tril(q.rng.uniform(-1, 1, size=q.C.shape), -1)
    back = np.linalg.inv(A)
    moved = (q.W @ back, A @ q.K, q.V, A @ q.C @ A.T)
    for rule in (rules.memit, rules.emmet):
        close(rule(*moved), rule(q.W, q.K, q.V, q.C) @ back, 1e-6)
        order = q.rng.permutation(q.K.shape[1])
        close(rule(q.W, q.K[:, order], q.V[:, order], q.C), rule(q.W, q.K, q.V, q.C), 1e-6)
    close(rules.emmet(q.W, q.K, q.V, scale * q.C), rules.emmet(q.W, q.K, q.V, q.C), 1e-6)
    close(rules.rome(*q.single[:3], scale * q.C), rules.rome(*q.single))
    close(rules.lam(*q.single[:3], scale * q.C), scale * rules.lam(*q.single))


# --- dtypes, what is given, what is taken ---------------------------------------------------------------------


def every_rule(q, C):
    W, K, V, K_p = q.W, q.K, q.V, q.K_previous
    P = rules.null_space_projector(q.C, 0.1, relative=True)
    S = np.linalg.inv(q.C)
    return {
        "rome": rules.rome(W, K[:, 0], V[:, 0], C),
        "lam": rules.lam(W, K[:, 0], V[:, 0], C),
        "memit": rules.memit(W, K, V, C),
        "memit-history": rules.memit(W, K, V, C, K_p),
        "emmet": rules.emmet(W, K, V, C),
        "emmet-history": rules.emmet(W, K, V, C, K_p),
        "alphaedit": rules.alphaedit(W, K, V, P, K_p),
        "projector": P,
        "rls-soft": rules.rls_step(W, S, K[:, 0], V[:, 0], False)[0],
        "rls-hard": rules.rls_step(W, S, K[:, 0], V[:, 0], True, C=C)[0],
        "rls-S": rules.rls_step(W, S, K[:, 0], V[:, 0], True)[1],
        "least-squares": rules.least_squares(q.C, W),
    }


def test_a_memory_of_whole_numbers_is_changed_in_float64(unchecked):
    q = Problem(5, 3, 6, 2, spread=0.3)
    W = np.round(3 * q.W).astype(int)
    close(rules.rome(W, q.K[:, 0], q.V[:, 0], q.C), rules.rome(W.astype(float), q.K[:, 0], q.V[:, 0], q.C), 1e-15)


@pytest.mark.parametrize("off, taken", [(1e-10, True), (1e-6, False)])
def test_a_projector_may_be_off_by_its_rounding(off, taken):
    q = Problem(5, 3, 6, 2, spread=0.3)
    P = rules.null_space_projector(q.C, 0.1, relative=True) + off * np.eye(6)
    if taken:
        rules.alphaedit(q.W, q.K, q.V, P)
    else:
        with pytest.raises(UserError, match="is not symmetric with P P = P"):
            rules.alphaedit(q.W, q.K, q.V, P)


def test_the_result_has_the_dtype_of_W_and_is_worked_out_in_float64():
    q = Problem(5, 3, 6, 2, spread=0.3)
    W = q.W.astype(np.float32)
    update = rules.emmet(W, q.K, q.V, q.C)
    assert update.dtype == np.float32
    exact = rules.emmet(W.astype(np.float64), q.K, q.V, q.C)
    np.testing.assert_array_equal(update, exact.astype(np.float32))


@pytest.mark.usefixtures("unchecked")
def test_lists_and_whole_numbers_are_taken():
    whole = rules.rome(np.eye(2, dtype=int), [1, 0], [0, 1], np.eye(2, dtype=int))
    np.testing.assert_allclose(whole, [[-1, 0], [1, 0]])


def test_arguments_are_not_changed_and_a_metric_stands_for_its_matrix():
    q = Problem(6, 3, 5, 2)
    before = {name: getattr(q, name).copy() for name in ("W", "K", "V", "C", "K_previous")}
    by_matrix, by_metric = every_rule(q, q.C), every_rule(q, Metric(q.C))
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(q, name), value)
    for name, value in by_matrix.items():
        np.testing.assert_array_equal(by_metric[name], value)


def test_projector_is_the_near_null_space():
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    C = (Q * np.array([1e-9, 1e-3, 0.5, 2.0, 10.0])) @ Q.T
    C = (C + C.T) / 2
    for threshold, relative, kept in ((0.01, False, 2), (1.0, False, 3), (0.1, True, 3), (1e-5, True, 1)):
        P = rules.null_space_projector(C, threshold, relative=relative)
        close(P, Q[:, :kept] @ Q[:, :kept].T, 1e-7)


# --- errors ---------------------------------------------------------------------------------------------------

W, K, V, C = np.zeros((2, 3)), np.eye(3)[:, :2], np.ones((2, 2)), np.eye(3)
k, v = K[:, 0], V[:, 0]
rank_two = np.diag([1.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: rules.rome(W, k, v, rank_two), r"C of width 3 is singular .*at least 3.*shrinkage above 0"),
        (lambda: rules.rome(W, k, v, np.ones((3, 3)) + 1e-16 * C), "C of width 3 is singular"),
        (lambda: rules.rome(W, k, v, np.diag([1, 1, -1.0])), "not positive definite"),
        (lambda: rules.rome(W, k, v, np.triu(np.ones((3, 3)))), "C is not symmetric"),
        (lambda: rules.rome(W, k, v, np.eye(3, 4)), r"C has shape \(3, 4\) where a square matrix"),
        (lambda: rules.rome(W, k, v, np.eye(4)), r"K has shape \(3, 1\) and C \(4, 4\): they must agree on d_m"),
        (lambda: rules.rome(W, 0 * k, v, C), "Key 0 of k is zero"),
        (lambda: rules.rome(W, 1e-200 * k, v, C), "not vanishingly small"),
        (lambda: rules.rome(W, K, v, C), r"k has shape \(3, 2\) where \(d_m,\) is needed"),
        (lambda: rules.rome(W, k, np.ones(3), C), r"V has shape \(3, 1\) where \(2, 1\) is needed"),
        (lambda: rules.rome(W.T, k, v, C), r"W has shape \(3, 2\) where \(d, 3\) is needed"),
        (lambda: rules.rome(W, k, v * np.nan, C), "v holds NaN or infinite"),
        (lambda: rules.rome(W, k / 0.0, v, C), "k holds NaN or infinite"),
        (lambda: rules.rome(W * np.inf, k, v, C), "W holds NaN or infinite"),
        (lambda: rules.rome(W, k, v, C * np.nan), "C holds NaN or infinite"),
        (lambda: rules.rome(W, k, v, "C"), "C has dtype <U1: pass real numbers"),
        (lambda: rules.rome(W + 1j, k, v, C), "pass real numbers"),
        (lambda: rules.lam(W, 0 * k, v, C), "Key 0 of k is zero"),
        (lambda: rules.memit(W, 0 * K, V, C), "Key 0 of K is zero"),
        (lambda: rules.memit(W, K * [1, 0], V, C), "Key 1 of K is zero"),
        (lambda: rules.memit(W, K[:, :0], V[:, :0], C), "no key at all"),
        (lambda: rules.memit(W, K, V[:, :1], C), r"V has shape \(2, 1\) where \(2, 2\)"),
        (lambda: rules.memit(W, K, V, C, np.eye(2)), r"K_previous has shape \(2, 2\) where \(3, n_p\)"),
        (lambda: rules.memit(W, K, V, C, weight=0), "weight is 0: pass a positive number"),
        (lambda: rules.memit(W, K, V, C, weight=np.inf), "weight is inf: .*for an infinite weight use emmet"),
        (lambda: rules.rls_step(W, C, k, v, False, weight=0), "weight is 0: pass a positive number"),
        (lambda: rules.emmet(W, K[:, [0, 0]], V, C), "Keys 0 and 1 of the 2 to be held are the same up to scale"),
        (lambda: rules.emmet(W, K, V, C, -3 * K[:, 1:]), "Keys 0 and 2 of the 3 to be held are the same"),
        (lambda: rules.emmet(W, K, V, C, K.sum(1, keepdims=True)), "3 keys to be held are linearly dependent"),
        (lambda: rules.emmet(W, K, V, C, K), "4 equality constraints in 3 dimensions"),
        (lambda: rules.rome(W, 1e10 * k, v, 1e-300 * C), "C⁻¹K overflows"),
        (lambda: rules.alphaedit(W, K, V, 2 * C), "projector is not symmetric with P P = P"),
        (lambda: rules.alphaedit(W, K, V, np.eye(2)), r"projector has shape \(2, 2\) where \(3, 3\)"),
        (lambda: rules.alphaedit(W, K, V, C, ridge=0), "ridge is 0: pass a positive number"),
        (lambda: rules.alphaedit(W, K, V, C, ridge=np.inf), "ridge is inf: pass a positive number"),
        (lambda: rules.null_space_projector(C, 0.5), "No eigenvalue of C lies below 5.0e-01 .*smallest is 1.0e"),
        (lambda: rules.null_space_projector(C, -1), "threshold is -1"),
        (lambda: rules.null_space_projector(np.triu(np.ones((3, 3))), 1), "C is not symmetric"),
        (lambda: rules.null_space_projector(W, 1), "where a square matrix is needed"),
        (lambda: rules.rls_step(W, np.eye(2), k, v, True), r"S has shape \(2, 2\) where \(3, 3\)"),
        (lambda: rules.rls_step(W, C, 0 * k, v, True), "Key 0 of k is zero"),
        (lambda: rules.rls_step(W, rank_two, np.eye(3)[2], v, True), "no room for this key"),
        (lambda: rules.least_squares(K, V), "C of width 3 is singular .*more tokens"),
        (lambda: rules.least_squares(K, V[:, :1]), r"V has shape \(2, 1\) where \(d, 2\)"),
        (lambda: rules.least_squares(K, V, -1), "ridge is -1"),
        (lambda: Metric(C).solve(np.ones(4)), r"K has shape \(4,\) and C \(3, 3\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.usefixtures("unchecked")
def test_errors_say_what_to_do(call, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and ":" in text
