"""Chapter 06: one question for all editors, what remains of interference, the two recursions, where they coincide."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superposition.linear import overlap, rules
from superposition.linear.memory import LinearMemory

EXAMPLES = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
WEIGHTS = st.sampled_from([0.05, 1.0, 7.0, 300.0])


class Problem:
    """Preserved keys (uneven), earlier and new edits."""

    def __init__(self, seed, d_m, n=2, n_p=2, d=3):
        rng = np.random.default_rng(seed)
        self.rng, self.d_m = rng, d_m
        self.K_0 = rng.normal(size=(d_m, 4 * d_m)) * 10 ** rng.uniform(-0.7, 0.7, size=(d_m, 1))
        self.C = self.K_0 @ self.K_0.T
        self.C_inv = np.linalg.inv(self.C)
        self.W = rng.normal(size=(d, d_m))
        self.K_p, self.K_1 = rng.normal(size=(d_m, n_p)), rng.normal(size=(d_m, n))
        self.V_1 = rng.normal(size=(d, n))
        self.R = self.V_1 - self.W @ self.K_1
        self.U = np.hstack([self.K_p, self.K_1])
        self.R_U = np.hstack([np.zeros((d, n_p)), self.R])


def family(A_inverse, U, R_U, w=np.inf):
    """The closed form of the chapter, as it stands there."""
    G = U.T @ A_inverse @ U
    return R_U @ np.linalg.inv(G + np.eye(len(G)) / w) @ U.T @ A_inverse


def close(a, b, rtol=1e-6, scale=0.0):
    np.testing.assert_allclose(a, b, rtol=0, atol=rtol * (1e-9 + max(scale, np.abs(b).max())))


def whitened(C, K):
    values, vectors = np.linalg.eigh(C)
    return vectors @ np.diag(values**-0.5) @ vectors.T @ K


def remainder(C, K_p, k):
    """What is left of a whitened key after its projection on others, by least squares."""
    u, held = whitened(C, k), whitened(C, K_p)
    return u - held @ np.linalg.lstsq(held, u, rcond=None)[0]


# --- one question ---------------------------------------------------------------------------------------------


@EXAMPLES
@given(SEEDS, st.integers(4, 8), WEIGHTS)
def test_the_soft_answer_has_the_least_objective(seed, d_m, w):
    """As one stacked least-squares problem, with a root of A: nothing of the closed form is used."""
    q = Problem(seed, d_m)
    root = np.linalg.cholesky(q.C)
    stacked = np.hstack([root, np.sqrt(w) * q.U])
    wanted = np.hstack([np.zeros_like(q.W), np.sqrt(w) * q.R_U])
    least = np.linalg.lstsq(stacked.T, wanted.T, rcond=None)[0].T
    close(family(q.C_inv, q.U, q.R_U, w), least)
    close(q.R_U @ q.U.T @ np.linalg.inv(q.C / w + q.U @ q.U.T), least)


@EXAMPLES
@given(SEEDS, st.integers(4, 8))
def test_the_hard_answer_solves_its_kkt_system(seed, d_m):
    q = Problem(seed, d_m)
    n = q.U.shape[1]
    system = np.block([[q.C, -q.U], [q.U.T, np.zeros((n, n))]])
    solved = np.linalg.solve(system, np.vstack([np.zeros((d_m, 3)), q.R_U.T]))[:d_m].T
    close(family(q.C_inv, q.U, q.R_U), solved)


def test_push_through_with_numbers():
    q = Problem(1, 6)
    G = q.K_1.T @ q.C_inv @ q.K_1
    close(np.linalg.inv(q.C + q.K_1 @ q.K_1.T) @ q.K_1, q.C_inv @ q.K_1 @ np.linalg.inv(np.eye(2) + G))


@EXAMPLES
@given(SEEDS, st.integers(4, 8), WEIGHTS)
def test_memit_as_published(seed, d_m, w):
    q = Problem(seed, d_m)
    inverse = np.linalg.inv(q.C / w + q.K_p @ q.K_p.T + q.K_1 @ q.K_1.T)
    close(q.R @ q.K_1.T @ inverse, family(q.C_inv, q.U, q.R_U, w))
    close(rules.memit(q.W, q.K_1, q.V_1, q.C, q.K_p, w), q.R @ q.K_1.T @ inverse)


@EXAMPLES
@given(SEEDS, st.integers(4, 8))
def test_emmet_as_published(seed, d_m):
    q = Problem(seed, d_m)
    shown = q.R @ np.linalg.inv(q.K_1.T @ q.C_inv @ q.K_1) @ q.K_1.T @ q.C_inv
    close(rules.emmet(q.W, q.K_1, q.V_1, q.C), shown)
    close(shown @ q.K_1, q.R)


@EXAMPLES
@given(SEEDS, st.integers(4, 8), st.sampled_from([0.01, 1.0, 20.0]))
def test_alphaedit_is_the_family_with_a_projector_and_a_limit_of_memit(seed, d_m, ridge):
    q = Problem(seed, d_m)
    _, vectors = np.linalg.eigh(q.C)
    P = vectors[:, : d_m // 2] @ vectors[:, : d_m // 2].T
    published = q.R @ q.K_1.T @ P @ np.linalg.inv(q.U @ q.U.T @ P + ridge * np.eye(d_m))
    close(rules.alphaedit(q.W, q.K_1, q.V_1, P, q.K_p, ridge), published)
    close(family(P, q.U, q.R_U, 1 / ridge), published)
    gaps = []
    for t in (1e6, 1e8):
        A = P + t * (np.eye(d_m) - P)
        gaps.append(np.abs(rules.memit(q.W, q.K_1, q.V_1, A, q.K_p, 1 / ridge) - published).max())
    size = np.abs(published).max()
    assert gaps[1] < 1e-3 * size + 1e-6
    assert gaps[1] < 0.05 * gaps[0] + 1e-6 * size


# --- what remains of interference -----------------------------------------------------------------------------


@EXAMPLES
@given(SEEDS, st.integers(4, 8), WEIGHTS)
def test_what_reaches_another_key(seed, d_m, w):
    """Measured on memories that the rules themselves have changed."""
    q = Problem(seed, d_m)
    k_j = q.rng.normal(size=d_m)
    G = q.U.T @ q.C_inv @ q.U
    soft = q.R_U @ np.linalg.solve(G + np.eye(len(G)) / w, q.U.T @ q.C_inv @ k_j)
    close(rules.memit(q.W, q.K_1, q.V_1, q.C, q.K_p, w) @ k_j, soft)
    coefficients = np.linalg.lstsq(whitened(q.C, q.U), whitened(q.C, k_j), rcond=None)[0]
    close(rules.emmet(q.W, q.K_1, q.V_1, q.C, q.K_p) @ k_j, q.R_U @ coefficients)
    p = overlap.superposition_matrix(np.stack([q.K_1[:, 0], k_j], axis=1), q.C)[0, 1]
    close(rules.rome(q.W, q.K_1[:, 0], q.V_1[:, 0], q.C) @ k_j, p * q.R[:, 0], rtol=1e-5)


@EXAMPLES
@given(SEEDS, st.integers(4, 8))
def test_partial_overlap(seed, d_m):
    q = Problem(seed, d_m)
    k, v, k_j = q.K_1[:, 0], q.V_1[:, 0], q.rng.normal(size=d_m)
    left = remainder(q.C, q.K_p, k)
    share = left @ whitened(q.C, k_j) / (left @ left)
    change = rules.emmet(q.W, k[:, None], v[:, None], q.C, q.K_p)
    close(change @ k_j, share * q.R[:, 0], rtol=1e-5)
    S = q.C_inv - q.C_inv @ q.K_p @ np.linalg.solve(q.K_p.T @ q.C_inv @ q.K_p, q.K_p.T @ q.C_inv)
    assert k @ S @ k_j / (k @ S @ k) == pytest.approx(share, rel=1e-4, abs=1e-7)
    close(rules.rls_step(q.W, S, k, v, True)[0], change, rtol=1e-5)
    assert np.abs(change @ q.K_p).max() < 1e-6 * (1 + np.abs(change).max())


@EXAMPLES
@given(SEEDS, st.integers(4, 8), WEIGHTS)
def test_the_share_that_gets_written(seed, d_m, w):
    q = Problem(seed, d_m)
    k, v, k_j = q.K_1[:, 0], q.V_1[:, 0], q.rng.normal(size=d_m)
    S = np.linalg.inv(q.C + w * q.K_p @ q.K_p.T)
    kappa = k @ S @ k / (k @ S @ k + 1 / w)
    change = rules.memit(q.W, k[:, None], v[:, None], q.C, q.K_p, w)
    close(change @ k, kappa * q.R[:, 0])
    close(change @ k_j, kappa * (k @ S @ k_j) / (k @ S @ k) * q.R[:, 0])
    h = k @ q.C_inv @ k
    alone = rules.memit(q.W, k[:, None], v[:, None], q.C, None, w)
    close(alone, w * h / (1 + w * h) * rules.rome(q.W, k, v, q.C))


# --- the recursions -------------------------------------------------------------------------------------------


@EXAMPLES
@given(SEEDS, st.integers(3, 7), WEIGHTS, st.booleans())
def test_one_step_of_the_recursion(seed, d_m, w, hard):
    """Written out, against the library's step; and S against the inverse that it stands for."""
    q = Problem(seed, d_m, n=3)
    S, W = q.C_inv, q.W
    for i, (k, v) in enumerate(zip(q.K_1.T, q.V_1.T, strict=True), start=1):
        c = k @ S @ k + (0 if hard else 1 / w)
        step, following = rules.rls_step(W, S, k, v, hard, weight=w)
        close(step, np.outer(v - W @ k, S @ k) / c)
        scale = 1e-3 * np.abs(q.C_inv).max()  # the hard S ends at zero
        close(following, S - np.outer(S @ k, S @ k) / c, rtol=1e-5, scale=scale)
        W, S = W + step, following
        if not hard:
            close(S, np.linalg.inv(q.C + w * q.K_1[:, :i] @ q.K_1[:, :i].T), rtol=1e-5)


@EXAMPLES
@given(SEEDS, st.integers(3, 7), WEIGHTS)
def test_the_soft_recursion_is_one_batch_in_any_order(seed, d_m, w):
    """The batch by stacked least squares on the original memory."""
    q = Problem(seed, d_m, n=5)
    root = np.linalg.cholesky(q.C)
    stacked = np.hstack([root, np.sqrt(w) * q.K_1])
    wanted = np.hstack([np.zeros_like(q.W), np.sqrt(w) * q.R])
    least = np.linalg.lstsq(stacked.T, wanted.T, rcond=None)[0].T
    shown = q.R @ q.K_1.T @ np.linalg.inv(q.C / w + q.K_1 @ q.K_1.T)
    close(shown, least)
    for order in (np.arange(5), q.rng.permutation(5)):
        memory = LinearMemory(q.W, q.C)
        memory.edit_batch(q.K_1[:, order], q.V_1[:, order], "rls-soft", weight=w)
        close(memory.W - q.W, least, rtol=1e-5)
        stepwise = LinearMemory(q.W, q.C)
        for i in order:
            stepwise.edit(q.K_1[:, i], q.V_1[:, i], "memit-history", weight=w)
        close(stepwise.W - q.W, least, rtol=1e-5)


def independent(q, n):
    """Edits that are not nearly dependent in whitened space, so that rounding does not drown the statement."""
    return np.linalg.cholesky(q.C) @ (
        np.linalg.qr(q.rng.normal(size=(q.d_m, n)))[0] + 0.3 * q.rng.normal(size=(q.d_m, n))
    )


@EXAMPLES
@given(SEEDS, st.integers(2, 7))
def test_the_hard_recursion_keeps_every_edit_in_any_order(seed, d_m):
    q = Problem(seed, d_m)
    n = int(q.rng.integers(1, d_m + 1))
    K, V = independent(q, n), q.rng.normal(size=(3, n))
    if np.linalg.cond(whitened(q.C, K)) > 1e3:
        return
    batch = rules.emmet(q.W, K, V, q.C)
    for order in (np.arange(n), q.rng.permutation(n)):
        memory = LinearMemory(q.W, q.C)
        memory.edit_batch(K[:, order], V[:, order], "rls-hard")
        assert np.abs(memory.edit_error()).max() < 1e-6 * (1 + np.abs(V).max())
        assert np.abs(memory.measured_interference_on_edits()).max() < 1e-6 * (1 + np.abs(V).max())
        close(memory.W - q.W, batch, rtol=1e-5)


@EXAMPLES
@given(SEEDS, st.integers(2, 7))
def test_the_cost_of_the_hard_recursion_has_no_cross_terms(seed, d_m):
    """The damage measured on the stored keys; the remainders by least squares; the directions mutually orthogonal."""
    q = Problem(seed, d_m)
    n = int(q.rng.integers(1, d_m + 1))
    K, V = independent(q, n), q.rng.normal(size=(3, n))
    if np.linalg.cond(whitened(q.C, K)) > 1e3:
        return
    memory = LinearMemory(q.W, q.C)
    memory.edit_batch(K, V, "rls-hard")
    cost = 0.0
    for i in range(n):
        left = remainder(q.C, K[:, :i], K[:, i]) if i else whitened(q.C, K[:, 0])
        cost += (memory.residuals[:, i] ** 2).sum() / (left @ left)
        close(np.linalg.cholesky(q.C).T @ memory.directions[:, i], _rotate(q.C, left / (left @ left)), rtol=1e-5)
    assert (memory.measured_interference(q.K_0) ** 2).sum() == pytest.approx(cost, rel=1e-5)
    M = np.linalg.cholesky(q.C).T @ memory.directions
    between = M.T @ M - np.diag((M**2).sum(0))
    assert np.abs(between).max() < 1e-6 * (M**2).sum()


def _rotate(C, u):
    """From the whitened space of the symmetric root to that of the Cholesky factor."""
    values, vectors = np.linalg.eigh(C)
    return np.linalg.solve(np.linalg.cholesky(C), vectors @ np.diag(values**0.5) @ vectors.T @ u)


@pytest.mark.parametrize("d_m", [2, 5, 9])
def test_each_hard_step_uses_up_one_dimension(d_m):
    q = Problem(d_m, d_m)
    K, S = independent(q, d_m), q.C_inv
    for i in range(d_m):
        S = rules.rls_direction(S, K[:, i], True, C=q.C).S
        assert np.trace(S @ q.C) == pytest.approx(d_m - i - 1, abs=1e-6)
        assert np.linalg.matrix_rank(S @ q.C, tol=1e-6) == d_m - i - 1
    with pytest.raises(ValueError, match="no room"):
        rules.rls_direction(S, q.rng.normal(size=d_m), True, C=q.C)


# --- where they coincide --------------------------------------------------------------------------------------


@EXAMPLES
@given(SEEDS, st.integers(2, 7), WEIGHTS)
def test_for_one_edit_they_are_one(seed, d_m, w):
    q = Problem(seed, d_m, n=1)
    k, v = q.K_1[:, 0], q.V_1[:, 0]
    rome, h = rules.rome(q.W, k, v, q.C), k @ q.C_inv @ k
    close(rules.emmet(q.W, q.K_1, q.V_1, q.C), rome)
    close(rules.rls_step(q.W, q.C_inv, k, v, True)[0], rome)
    close(rules.memit(q.W, q.K_1, q.V_1, q.C, weight=w), w * h / (1 + w * h) * rome)
    close(rules.rls_step(q.W, q.C_inv, k, v, False, weight=w)[0], w * h / (1 + w * h) * rome)


@EXAMPLES
@given(SEEDS, st.integers(4, 7))
def test_a_large_weight_is_a_constraint(seed, d_m):
    q = Problem(seed, d_m)
    G = q.K_1.T @ q.C_inv @ q.K_1
    for w in (0.5, 10.0, 1e3):
        H = np.linalg.inv(G + np.eye(2) / w)
        close(np.linalg.inv(G) - H, np.linalg.inv(G) @ H / w)
    least = np.linalg.eigvalsh(G)[0]
    emmet = rules.emmet(q.W, q.K_1, q.V_1, q.C)
    gaps = [np.abs(rules.memit(q.W, q.K_1, q.V_1, q.C, weight=w / least) - emmet).max() for w in (1e3, 1e5)]
    assert gaps[1] < 0.02 * gaps[0] + 1e-9 * np.abs(emmet).max()
    tiny = rules.memit(q.W, q.K_1, q.V_1, q.C, weight=1e-7 / np.linalg.eigvalsh(G)[-1])
    hebb = 1e-7 / np.linalg.eigvalsh(G)[-1] * q.R @ q.K_1.T @ q.C_inv
    close(tiny, hebb, rtol=1e-5)


@EXAMPLES
@given(SEEDS, st.integers(3, 7), WEIGHTS)
def test_orthogonal_whitened_keys_make_them_one_and_only_they(seed, d_m, w):
    q = Problem(seed, d_m)
    basis, _ = np.linalg.qr(q.rng.normal(size=(d_m, d_m)))
    K, V = np.linalg.cholesky(q.C) @ basis * q.rng.uniform(0.5, 2, size=d_m), q.rng.normal(size=(3, d_m))

    def total(rule, K=K, V=V, batch=None, **options):
        memory = LinearMemory(q.W, q.C)
        for start in range(0, K.shape[1], batch or K.shape[1]):
            part = slice(start, start + (batch or K.shape[1]))
            memory.edit_batch(K[:, part], V[:, part], rule, **options)
        return memory.W - q.W

    rome = total("rome")
    for other in (total("emmet"), total("emmet", batch=2), total("rls-hard")):
        close(other, rome, rtol=1e-5)
    h = (K * (q.C_inv @ K)).sum(0)
    shares = (V - q.W @ K) * (w * h / (1 + w * h))
    for other in (total("memit", weight=w), total("memit", batch=2, weight=w), total("rls-soft", weight=w)):
        close(other @ K, shares, rtol=1e-5)

    bent = K.copy()
    bent[:, 1] += 0.3 * bent[:, 0]
    assert np.abs(total("rome", K=bent) - total("emmet", K=bent)).max() > 1e-4 * np.abs(rome).max()
