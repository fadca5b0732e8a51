"""Chapter 04: overlap as a shadow, its lengths and angle, what it ignores, and when an edit is lossless."""

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from superposition.linear import overlap
from superposition.linear.memory import LinearMemory

EXAMPLES = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)


def problem(seed, d_m, keys=2):
    """A second moment of uneven keys, its symmetric inverse root, and some keys of very different lengths."""
    rng = np.random.default_rng(seed)
    K = rng.normal(size=(d_m, 3 * d_m + 2)) * 10 ** rng.uniform(-1, 1, size=(d_m, 1))
    C = K @ K.T
    values, vectors = np.linalg.eigh(C)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    return rng, C, root, rng.normal(size=(d_m, keys)) * 10 ** rng.uniform(-1, 1, size=keys)


def p_by_solving(k_i, k_j, C):
    x = np.linalg.solve(C, k_i)
    return (x @ k_j) / (x @ k_i)


def orthogonal(C, n, rng):
    basis, _ = np.linalg.qr(rng.normal(size=(len(C), n)))
    return np.linalg.cholesky(C) @ basis


@EXAMPLES
@given(SEEDS, st.integers(1, 12))
def test_products_with_the_inverse_are_products_of_whitened_keys(seed, d_m):
    _, C, root, K = problem(seed, d_m, 5)
    wanted = K.T @ np.linalg.solve(C, K)
    for B in (root, np.linalg.inv(np.linalg.cholesky(C))):
        np.testing.assert_allclose((B @ K).T @ (B @ K), wanted, rtol=1e-6, atol=1e-9 * np.abs(wanted).max())


@EXAMPLES
@given(SEEDS, st.integers(1, 12))
def test_p_is_the_foot_of_the_perpendicular(seed, d_m):
    """By least squares: the multiple of ũ_i nearest to ũ_j; nothing of p's formula is used."""
    _, C, root, K = problem(seed, d_m)
    u = root @ K
    nearest = np.linalg.lstsq(u[:, :1], u[:, 1], rcond=None)[0][0]
    P = overlap.superposition_matrix(K, C)
    assert P[0, 1] == pytest.approx(nearest, rel=1e-6, abs=1e-9)
    assert P[0, 0] == pytest.approx(1)


@EXAMPLES
@given(SEEDS, st.integers(2, 12))
def test_lengths_angle_asymmetry_and_cosine(seed, d_m):
    _, C, root, K = problem(seed, d_m)
    u, v = (root @ K).T
    cosine = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
    P = overlap.superposition_matrix(K, C)
    assert P[0, 1] == pytest.approx(cosine * np.linalg.norm(v) / np.linalg.norm(u), rel=1e-5, abs=1e-9)
    assert P[0, 1] * (u @ u) == pytest.approx(P[1, 0] * (v @ v), rel=1e-5, abs=1e-9)
    assert P[0, 1] * P[1, 0] == pytest.approx(cosine**2, rel=1e-5, abs=1e-9)


def test_the_plane_in_whole_numbers():
    C = sp.Matrix([[5, 2], [2, 1]])
    x_i, y_i, x_j, y_j = sp.symbols("x_i y_i x_j y_j", real=True)
    shown = (x_i * x_j - 2 * x_i * y_j - 2 * x_j * y_i + 5 * y_i * y_j) / (x_i**2 - 4 * x_i * y_i + 5 * y_i**2)
    inverse = C.inv()
    assert inverse == sp.Matrix([[1, -2], [-2, 5]])

    def p(a, b):
        a, b = sp.Matrix(a), sp.Matrix(b)
        return (a.T * inverse * b)[0] / (a.T * inverse * a)[0]

    assert sp.simplify(p((x_i, y_i), (x_j, y_j)) - shown) == 0

    assert [p([3, 1], k) for k in ([3, 2], [1, 1], [-1, 3])] == [sp.Rational(1, 2), 0, -2]
    assert p([-1, 3], [3, 1]) == sp.Rational(-2, 29)
    lengths = [(sp.Matrix(k).T * inverse * sp.Matrix(k))[0] for k in ([3, 1], [-1, 3])]
    assert lengths == [2, 58]


@EXAMPLES
@given(SEEDS, st.integers(2, 8), st.floats(1e-6, 1e6), st.floats(0.02, 50), st.floats(-50, -0.02))
def test_what_overlap_does_not_see(seed, d_m, scale, a, b):
    rng, C, _, K = problem(seed, d_m)
    P = overlap.superposition_matrix(K, C)
    assert P[0, 1] == pytest.approx(p_by_solving(*K.T, C), rel=1e-6, abs=1e-9)
    close = {"rtol": 1e-5, "atol": 1e-8 * (1 + np.abs(P).max())}
    np.testing.assert_allclose(overlap.superposition_matrix(K, scale * C), P, **close)
    changed = P * [[1, b / a], [a / b, 1]]
    np.testing.assert_allclose(overlap.superposition_matrix(K * [a, b], C), changed, rtol=1e-5, atol=1e-7)
    A = np.linalg.qr(rng.normal(size=(d_m, d_m)))[0] * rng.uniform(0.5, 2, size=d_m)
    np.testing.assert_allclose(overlap.superposition_matrix(A @ K, A @ C @ A.T), P, **close)


def rome_by_hand(W, C, K, V):
    """The sequence of edits written out, and the residuals on the way."""
    residuals = []
    for k, v in zip(K.T, V.T, strict=True):
        x = np.linalg.solve(C, k)
        residuals.append(v - W @ k)
        W = W + np.outer(residuals[-1], x) / (x @ k)
    return W, np.array(residuals).T


@EXAMPLES
@given(SEEDS, st.integers(3, 8), st.integers(1, 3))
def test_orthogonal_is_lossless_for_every_choice_of_values(seed, d_m, d):
    """(1) ⇒ (2) and (3): the key is orthogonal to the edits, and nothing moves, whatever is written."""
    rng, C, _, _ = problem(seed, d_m)
    keys = orthogonal(C, d_m, rng)
    K_e, k_j = keys[:, 1:] @ rng.normal(size=(d_m - 1, 4)), keys[:, 0]
    W, V = rng.normal(size=(d, d_m)), 10 * rng.normal(size=(d, 4))
    for n in range(1, 5):
        after, _ = rome_by_hand(W, C, K_e[:, :n], V[:, :n])
        assert np.abs(after @ k_j - W @ k_j).max() < 1e-6 * (1 + np.abs(after).max() * np.linalg.norm(k_j))


@EXAMPLES
@given(SEEDS, st.integers(2, 8), st.integers(1, 3), st.integers(1, 4))
def test_some_choice_of_values_loses_if_one_p_is_not_zero(seed, d_m, d, n):
    """(2) ⇒ (1): choose the values so that only edit l has a residual; the loss is p_l times it. And the sum holds."""
    rng, C, _, _ = problem(seed, d_m)
    K_e, k_j, W_0 = rng.normal(size=(d_m, n)), rng.normal(size=d_m), rng.normal(size=(d, d_m))
    which = int(rng.integers(n))
    wanted = rng.normal(size=d)
    W, V = W_0, np.zeros((d, n))
    for i in range(n):
        V[:, i] = W @ K_e[:, i] + (wanted if i == which else 0)
        W, _ = rome_by_hand(W, C, K_e[:, i : i + 1], V[:, i : i + 1])
    p = p_by_solving(K_e[:, which], k_j, C)
    size = 1 + np.abs(W).max() * np.linalg.norm(k_j)
    np.testing.assert_allclose(W @ k_j - W_0 @ k_j, p * wanted, atol=1e-6 * size)

    after, residuals = rome_by_hand(W_0, C, K_e, rng.normal(size=(d, n)))
    total = sum(p_by_solving(K_e[:, i], k_j, C) * residuals[:, i] for i in range(n))
    np.testing.assert_allclose(after @ k_j - W_0 @ k_j, total, atol=1e-6 * (1 + np.abs(after).max() * size))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_values_without_loss_have_codimension_d(d):
    """The map from all values to the loss is affine; its linear part has rank d if some p is not zero, else 0."""
    rng, C, _, _ = problem(d, 5)
    W, n = rng.normal(size=(d, 5)), 3
    keys = orthogonal(C, 5, rng)
    for k_j, rank in ((rng.normal(size=5), d), (keys[:, 4], 0)):
        K_e = keys[:, :4] @ rng.normal(size=(4, n))

        def loss(V, K_e=K_e, k_j=k_j):
            return (rome_by_hand(W, C, K_e, V.reshape(d, n))[0] - W) @ k_j

        origin = loss(np.zeros(d * n))
        linear = np.array([loss(e) - origin for e in np.eye(d * n)])
        assert np.linalg.matrix_rank(linear, tol=1e-8) == rank


def test_lists_without_loss_are_the_orthogonal_ones():
    rng, C, _, _ = problem(3, 6)
    W, V = rng.normal(size=(2, 6)), rng.normal(size=(2, 6))
    memory = LinearMemory(W, C)
    memory.edit_batch(orthogonal(C, 6, rng), V, "rome")
    assert np.abs(memory.recall(memory.keys) - V).max() < 1e-9
    tilted = orthogonal(C, 6, rng)
    tilted[:, 4] += 0.01 * tilted[:, 1]
    memory = LinearMemory(W, C)
    memory.edit_batch(tilted, V, "rome")
    lost = np.abs(memory.recall(memory.keys) - V).max(axis=0)
    assert lost[1] > 1e-4 and np.delete(lost, 1).max() < 1e-9


def test_two_damages_can_cancel():
    W, C = np.zeros((1, 2)), np.eye(2)
    K, V, k_j = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 1 / 3]]), np.array([1.0, 2.0])
    assert [p_by_solving(k, k_j, C) for k in K.T] == pytest.approx([1, 1.5])
    one, _ = rome_by_hand(W, C, K[:, :1], V[:, :1])
    both, _ = rome_by_hand(W, C, K, V)
    assert abs((one @ k_j)[0]) > 0.5
    assert (both @ k_j)[0] == pytest.approx(0, abs=1e-15)
