"""Chapter 05: the conservation law, forced interference, the least that edits cost, nulls, and how many keys fit."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from superposition.errors import UserError
from superposition.linear import capacity, overlap, rules
from superposition.stats import shape

EXAMPLES = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)


def stored(seed, d_m, N):
    rng = np.random.default_rng(seed)
    return rng, rng.normal(size=(d_m, N)) * 10 ** rng.uniform(-1, 1, size=(d_m, 1)) * rng.uniform(0.3, 3, size=N)


def p(k_e, k_j, C):
    x = np.linalg.solve(C, k_e)
    return (x @ k_j) / (x @ k_e)


# --- the conservation law -------------------------------------------------------------------------------------


@EXAMPLES
@given(SEEDS, st.integers(1, 8), st.integers(0, 20), st.booleans())
def test_squared_overlaps_sum_to_one_over_the_leverage(seed, d_m, more, is_stored):
    """Pair by pair, for a stored key and for one that is not."""
    rng, K = stored(seed, d_m, d_m + more)
    C = K @ K.T
    k_e = K[:, 0] if is_stored else rng.normal(size=d_m)
    total = sum(p(k_e, k, C) ** 2 for k in K.T)
    assert total == pytest.approx(1 / (k_e @ np.linalg.inv(C) @ k_e), rel=1e-6)
    if is_stored:
        assert total - 1 == pytest.approx(1 / capacity.leverages(K)[0] - 1, rel=1e-6, abs=1e-6)


def test_the_law_needs_these_very_keys():
    _, K = stored(0, 5, 20)
    C = K[:, :15] @ K[:, :15].T
    k_e = K[:, 0]
    total = sum(p(k_e, k, C) ** 2 for k in K.T)
    assert total != pytest.approx(1 / (k_e @ np.linalg.solve(C, k_e)), rel=1e-3)


@EXAMPLES
@given(SEEDS, st.integers(1, 8), st.integers(1, 30))
def test_leverages_share_out_the_rank(seed, d_m, N):
    _, K = stored(seed, d_m, N)
    h = capacity.leverages(K)
    assert h.sum() == pytest.approx(min(d_m, N), rel=1e-8)
    assert (h > -1e-12).all() and (h < 1 + 1e-9).all()
    np.testing.assert_allclose(h, np.diag(np.linalg.pinv(K) @ K), atol=1e-7)
    np.testing.assert_allclose(h, np.diag(K.T @ np.linalg.pinv(K @ K.T) @ K), atol=1e-5)
    white = np.linalg.svd(K, full_matrices=False)[2]
    np.testing.assert_allclose(h, (white[: min(d_m, N)] ** 2).sum(0), atol=1e-7)


def test_leverages_of_dependent_keys():
    K = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    np.testing.assert_allclose(capacity.leverages(K), [0.5, 0.5, 1.0], atol=1e-12)


@EXAMPLES
@given(SEEDS, st.integers(1, 8), st.integers(1, 24))
def test_interference_is_forced_beyond_d_m(seed, d_m, more):
    _, K = stored(seed, d_m, d_m + more)
    N = d_m + more
    P = overlap.superposition_matrix(K, K @ K.T)
    others = (P**2).sum(axis=1) - 1
    assert others.mean() >= N / d_m - 1 - 1e-6 * (1 + others.mean())
    assert others.max() > 1e-9


def test_forced_with_equality_for_equal_leverages():
    turn = np.arange(7) * 2 * np.pi / 7
    K = np.stack([np.cos(turn), np.sin(turn)])
    P = overlap.superposition_matrix(K, K @ K.T)
    assert ((P**2).sum(axis=1) - 1).mean() == pytest.approx(7 / 2 - 1)


@EXAMPLES
@given(SEEDS, st.integers(1, 8))
def test_up_to_d_m_independent_keys_nothing_is_disturbed(seed, d_m):
    rng = np.random.default_rng(seed)
    K = rng.normal(size=(d_m, int(rng.integers(1, d_m + 1))))
    products = K.T @ np.linalg.pinv(K @ K.T) @ K
    np.testing.assert_allclose(products, np.eye(K.shape[1]), atol=1e-5)


@pytest.mark.parametrize(("d_m", "N"), [(4, 6), (6, 12), (10, 40)])
def test_mean_interference_of_normal_keys(d_m, N):
    rng = np.random.default_rng(d_m)
    runs = [(1 / capacity.leverages(rng.normal(size=(d_m, N))) - 1).mean() for _ in range(3000)]
    assert np.mean(runs) == pytest.approx((N - d_m) / (d_m - 2), abs=5 * scipy.stats.sem(runs))
    drawn = [capacity.leverages(rng.normal(size=(d_m, N)))[0] for _ in range(2000)]
    assert scipy.stats.kstest(drawn, scipy.stats.beta(d_m / 2, (N - d_m) / 2).cdf).pvalue > 1e-4


# --- what edits cost at least ---------------------------------------------------------------------------------


@EXAMPLES
@given(SEEDS, st.integers(2, 7), st.integers(1, 3))
def test_nothing_stores_edits_for_less(seed, d_m, d):
    rng, K = stored(seed, d_m, 3 * d_m)
    n = int(rng.integers(1, d_m + 1))
    C, K_e, R = K @ K.T, rng.normal(size=(d_m, n)), rng.normal(size=(d, n))
    G = K_e.T @ np.linalg.solve(C, K_e)
    floor = np.trace(R @ np.linalg.solve(G, R.T))
    best = rules.emmet(np.zeros((d, d_m)), K_e, R, C)
    np.testing.assert_allclose(best @ K_e, R, atol=1e-5)
    assert ((best @ K) ** 2).sum() == pytest.approx(floor, rel=1e-5)
    free = scipy.linalg.null_space(K_e.T)
    if free.size:
        detour = best + 0.1 * rng.normal(size=(d, free.shape[1])) @ free.T
        assert ((detour @ K) ** 2).sum() > floor


@pytest.mark.parametrize(("d_m", "n"), [(8, 1), (8, 4), (12, 7)])
def test_mean_price_of_n_kept_edits(d_m, n):
    rng = np.random.default_rng(n)
    R = rng.normal(size=(3, n))
    prices = []
    for _ in range(4000):
        u = rng.normal(size=(d_m, n))
        prices.append(np.trace(R @ np.linalg.solve(u.T @ u, R.T)))
    assert np.mean(prices) == pytest.approx((R**2).sum() / (d_m - n - 1), abs=5 * scipy.stats.sem(prices))


# --- nulls ----------------------------------------------------------------------------------------------------


def test_any_distribution_has_the_mean_square_of_its_second_moment():
    """A discrete, skewed distribution, summed exactly: no sampling at all."""
    rng = np.random.default_rng(3)
    K, chance = np.exp(rng.normal(size=(5, 40))), rng.dirichlet(np.ones(40))
    C = (K * chance) @ K.T
    for k_e in (K[:, 0], rng.normal(size=5)):
        mean_square = sum(q * p(k_e, k, C) ** 2 for q, k in zip(chance, K.T, strict=True))
        assert mean_square == pytest.approx(1 / (k_e @ np.linalg.solve(C, k_e)), rel=1e-8)
    lengths = sum(q * (k @ np.linalg.solve(C, k)) for q, k in zip(chance, K.T, strict=True))
    assert lengths == pytest.approx(5, rel=1e-10)


def cosine_density(t, d_m):
    """Of the cosine of two random directions, up to a factor."""
    return (1 - t * t) ** ((d_m - 3) / 2)


@pytest.mark.parametrize("d_m", [3, 8, 50])
def test_spread_on_a_sphere(d_m):
    """E cos² = 1/d_m, by the density of a cosine and by drawing."""
    whole = scipy.integrate.quad(cosine_density, -1, 1, args=(d_m,))[0]
    square = scipy.integrate.quad(lambda t: t * t * cosine_density(t, d_m), -1, 1)[0]
    assert square / whole == pytest.approx(1 / d_m)
    rng = np.random.default_rng(d_m)
    u = rng.normal(size=(2, d_m, 40_000))
    a, b = u / np.linalg.norm(u, axis=1, keepdims=True)
    squares = (a * b).sum(0) ** 2
    assert squares.mean() == pytest.approx(1 / d_m, abs=5 * scipy.stats.sem(squares))


@pytest.mark.parametrize("d_m", [5, 12, 60])
def test_normal_keys_give_students_t(d_m):
    rng = np.random.default_rng(d_m)
    a, b = rng.normal(size=(2, d_m, 40_000))
    values = np.sqrt(d_m) * (a * b).sum(0) / (a * a).sum(0)
    student = scipy.stats.t(d_m)
    assert scipy.stats.kstest(values, student.cdf).pvalue > 1e-4
    assert student.std() / np.sqrt(d_m) == pytest.approx(1 / np.sqrt(d_m - 2))
    assert student.stats(moments="k") == pytest.approx(6 / (d_m - 4))
    one = overlap.from_products(np.array([[a[:, 0] @ a[:, 0], a[:, 0] @ b[:, 0]], [a[:, 0] @ b[:, 0], 1.0]]))[0, 1]
    assert values[0] == pytest.approx(np.sqrt(d_m) * one)


# --- Welch's bound, and how many keys fit ---------------------------------------------------------------------


@EXAMPLES
@given(SEEDS, st.integers(1, 9), st.integers(1, 30))
def test_no_set_of_vectors_beats_welch(seed, d_m, more):
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(d_m, d_m + more))
    largest = np.abs(shape.off_diagonal(overlap.cosines(u.T @ u))).max()
    assert largest >= capacity.welch_bound(d_m + more, d_m) - 1e-12


def test_sets_that_meet_welch():
    golden = (1 + np.sqrt(5)) / 2
    icosahedron = np.array(
        [[0, 1, golden], [0, 1, -golden], [1, golden, 0], [1, -golden, 0], [golden, 0, 1], [-golden, 0, 1]]
    )
    hesse = np.array([[0, 1, 1], [0, 1, -1], [1, 0, 1], [1, 0, -1], [1, 1, 0], [1, -1, 0]])
    for rows, meets in ((icosahedron, True), (hesse, False)):
        cosines = np.abs(shape.off_diagonal(overlap.cosines((rows @ rows.T).astype(float))))
        assert (cosines.max() == pytest.approx(capacity.welch_bound(6, 3))) == meets
    for d_m in (2, 5, 9):
        U = np.eye(d_m + 1) - 1 / (d_m + 1)
        assert np.abs(shape.off_diagonal(overlap.cosines(U))).max() == pytest.approx(capacity.welch_bound(d_m + 1, d_m))
    assert capacity.welch_bound(4, 7) == 0


@pytest.mark.parametrize(("overlap_", "d_m"), [(0.1, 16), (0.2, 16), (0.01, 3072)])
def test_the_ceiling_inverts_welch(overlap_, d_m):
    assert capacity.welch_bound(capacity.welch_ceiling(overlap_, d_m), d_m) == pytest.approx(overlap_)
    assert capacity.welch_ceiling(1 / np.sqrt(d_m) + 1e-9, d_m) == float("inf")


@pytest.mark.parametrize("d_m", [2, 3, 4, 7, 40, 500])
def test_two_random_directions_are_seldom_close(d_m):
    """The bound against the tail itself, integrated numerically."""
    for epsilon in (0.0, 0.05, 0.2, 0.5, 0.9, 0.999):
        bound = (1 - epsilon**2) ** ((d_m - 1) / 2)
        tail = scipy.stats.beta.sf(epsilon**2, 1 / 2, (d_m - 1) / 2)
        if d_m >= 3:
            near, whole = (scipy.integrate.quad(cosine_density, low, 1, args=(d_m,))[0] for low in (epsilon, 0))
            assert tail == pytest.approx(near / whole, rel=1e-3, abs=1e-9)
        assert tail <= bound * (1 + 1e-9) <= np.exp(-(d_m - 1) * epsilon**2 / 2) * (1 + 1e-8)


@pytest.mark.parametrize(("overlap_", "d_m"), [(0.7, 24), (0.5, 48), (0.4, 110)])
def test_that_many_keys_do_fit(overlap_, d_m):
    """The union bound leaves a chance: draw until a set is found whose every pair is below the overlap."""
    N = int(np.sqrt(2) * (1 - overlap_**2) ** (-(d_m - 1) / 4))
    assert N > d_m / 2
    assert capacity.keys_that_fit(overlap_, d_m) == max(N, d_m)
    assert N * (N - 1) / 2 * (1 - overlap_**2) ** ((d_m - 1) / 2) < 1
    rng = np.random.default_rng(0)
    for _ in range(100):
        u = rng.normal(size=(d_m, N))
        if np.abs(shape.off_diagonal(overlap.cosines(u.T @ u))).max() < overlap_:
            break
    else:
        pytest.fail("no set found in 100 draws")


def test_overlap_that_fits_inverts_keys_that_fit():
    for N, d_m in ((10**6, 3072), (10**4, 768)):
        epsilon = capacity.overlap_that_fits(N, d_m)
        assert capacity.keys_that_fit(epsilon, d_m) == pytest.approx(N, rel=1e-3)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: capacity.leverages(np.ones(3)), "one key a column"),
        (lambda: capacity.leverages(np.array([[np.nan, 1.0]])), "NaN"),
        (lambda: capacity.welch_bound(1, 3), "at least two keys"),
        (lambda: capacity.welch_bound(5, 0), "at least one dimension"),
        (lambda: capacity.welch_ceiling(1.5, 3), "between 0 and 1"),
        (lambda: capacity.keys_that_fit(0, 3), "between 0 and 1"),
        (lambda: capacity.overlap_that_fits(10, 1), "2 or more"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_errors_say_what_to_do(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()
