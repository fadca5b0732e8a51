"""P, Q and the cosines against their definitions, and the statistics against SciPy and a naive bootstrap."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from superposition.errors import UserError
from superposition.linear import overlap
from superposition.lm.moments import Whitening
from superposition.stats import shape


def problem(seed, width=9, count=6, tokens=60):
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((width, width))
    text = mixing @ rng.standard_normal((width, tokens)) + rng.standard_normal((width, 1))
    return mixing @ rng.standard_normal((width, count)), text @ text.T / tokens, text


seeds = st.integers(0, 2**32 - 1)


def test_every_entry_is_the_papers_formula():
    keys, C, _ = problem(1)
    inverse = np.linalg.inv(C)
    found = overlap.measure(keys, C)
    for i in range(6):
        for j in range(6):
            a, b = keys[:, i], keys[:, j]
            assert found.P[i, j] == pytest.approx(a @ inverse @ b / (a @ inverse @ a), rel=1e-9)
            assert found.Q[i, j] == pytest.approx(a @ b, rel=1e-12)
            angle = a @ inverse @ b / np.sqrt((a @ inverse @ a) * (b @ inverse @ b))
            assert found.cosine_whitened[i, j] == pytest.approx(angle, rel=1e-9)
            raw = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            assert found.cosine_raw[i, j] == pytest.approx(raw, rel=1e-12)
        length = np.sqrt(keys[:, i] @ inverse @ keys[:, i])
        assert found.norm_whitened[i] == pytest.approx(length, rel=1e-9)
    assert np.array_equal(overlap.superposition_matrix(keys, C), found.P)


def test_p_is_the_projection_of_one_whitened_key_on_another():
    keys, C, _ = problem(2)
    values, vectors = np.linalg.eigh(C)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    white = root @ keys
    projection = [[(a @ b) / (a @ a) for b in white.T] for a in white.T]
    np.testing.assert_allclose(overlap.superposition_matrix(keys, C), projection, rtol=1e-9, atol=1e-12)


def test_whitened_text_has_the_identity_for_its_second_moment():
    _, C, text = problem(3, width=12, tokens=400)
    white = Whitening(C).whiten(text)
    np.testing.assert_allclose(white @ white.T / text.shape[1], np.eye(12), atol=1e-10)


@given(seeds, st.floats(1e-6, 1e6))
@settings(max_examples=30, deadline=None)
def test_p_has_a_unit_diagonal_and_does_not_depend_on_the_scale_of_c(seed, scale):
    keys, C, _ = problem(seed)
    P = overlap.superposition_matrix(keys, C)
    np.testing.assert_allclose(np.diag(P), 1, rtol=1e-12)
    np.testing.assert_allclose(overlap.superposition_matrix(keys, scale * C), P, rtol=1e-6, atol=1e-9)


scales = st.floats(0.02, 50) | st.floats(-50, -0.02)


@given(seeds, scales, scales)
@settings(max_examples=30, deadline=None)
def test_p_scales_with_its_keys_as_b_over_a(seed, a, b):
    keys, C, _ = problem(seed)
    P = overlap.superposition_matrix(keys, C)
    scaled = keys.copy()
    scaled[:, 0] *= a
    p = overlap.superposition_matrix(np.column_stack([scaled[:, 0], keys[:, 1] * b]), C)
    assert p[0, 1] == pytest.approx(b / a * P[0, 1], rel=1e-6, abs=1e-9)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_p_is_invariant_to_a_change_of_basis_and_the_raw_cosine_is_not(seed):
    keys, C, _ = problem(seed)
    basis = np.random.default_rng(seed + 1).standard_normal((9, 9)) + 4 * np.eye(9)
    before, after = overlap.measure(keys, C), overlap.measure(basis @ keys, basis @ C @ basis.T)
    np.testing.assert_allclose(after.P, before.P, rtol=1e-5, atol=1e-7)
    assert np.abs(after.cosine_raw - before.cosine_raw).max() > 1e-3


def test_a_factor_a_matrix_and_any_solver_give_the_same():
    keys, C, _ = problem(4)

    class Slow:
        def solve(self, keys):
            return np.linalg.inv(C) @ keys

    expected = overlap.superposition_matrix(keys, C)
    np.testing.assert_allclose(overlap.superposition_matrix(keys, Whitening(C)), expected, rtol=1e-12)
    np.testing.assert_allclose(overlap.superposition_matrix(keys, Slow()), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda keys, C: (keys[:, 0], C), "one key a column"),
        (lambda keys, C: (keys[:, :0], C), "one key a column"),
        (lambda keys, C: (np.where(np.eye(9, 6), np.nan, keys), C), "NaN or infinity"),
        (lambda keys, C: (np.where(np.eye(9, 6), np.inf, keys), C), "NaN or infinity"),
        (lambda keys, C: (keys * [1, 1, 0, 1, 1, 1], C), "A key is zero"),
        (lambda keys, C: (keys, C[:5, :5]), "width 9 do not fit a C of width 5"),
        (lambda keys, C: (keys, C[:5]), "C must be square"),
        (lambda keys, C: (keys, C * np.nan), "C holds NaN"),
        (lambda keys, C: (keys, np.zeros((9, 9))), "singular"),
    ],
)
def test_bad_input_gets_its_sentence(spoil, sentence):
    with pytest.raises(UserError, match=sentence):
        overlap.superposition_matrix(*spoil(*problem(5)[:2]))


@given(seeds, st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_the_strongest_pairs_are_those_of_a_sorted_list(seed, count):
    P = np.round(np.random.default_rng(seed).standard_normal((6, 6)), 2)
    P[4, 1] = P[1, 4]  # both directions alike
    pairs = sorted((max(P[i, j], P[j, i]) for i in range(6) for j in range(i)), reverse=True)
    found = overlap.strongest(P, count)
    assert [P[i, j] for i, j in found] == pairs[:count]
    assert len({frozenset(pair) for pair in found}) == len(found) == min(count, 15)


# Statistics


def heavy(seed=0, m=14):
    return np.random.default_rng(seed).standard_t(4, size=(m, m)) + 0.1


@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_statistics_are_scipys_of_the_off_diagonal(shift):
    matrix = heavy() + shift
    values = [matrix[i, j] for i in range(14) for j in range(14) if i != j]
    found = shape.summary(matrix, resamples=0)
    assert found["pairs"] == 14 * 13
    assert found["mean"] == pytest.approx(np.mean(values), rel=1e-12)
    assert found["sd"] == pytest.approx(np.std(values), rel=1e-10)
    assert found["skew"] == pytest.approx(scipy.stats.skew(values), rel=1e-9)
    assert found["excess_kurtosis"] == pytest.approx(scipy.stats.kurtosis(values), rel=1e-9)
    assert found["share_below_0"] == sum(v < 0 for v in values) / len(values)
    assert found["median"] == np.median(values)
    assert (found["min"], found["max"]) == (min(values), max(values))
    assert not any(name.endswith("interval") for name in found)


def test_the_diagonal_does_not_count():
    matrix = heavy()
    other = matrix.copy()
    np.fill_diagonal(other, 1e6)
    assert shape.summary(other, resamples=50) == shape.summary(matrix - np.diag(np.diag(matrix)), resamples=50)


def test_off_diagonal_goes_row_by_row():
    matrix = np.arange(9).reshape(3, 3)
    assert shape.off_diagonal(matrix).tolist() == [1, 2, 3, 5, 6, 7]


def test_intervals_are_those_of_a_naive_bootstrap_over_facts():
    matrix, m, seed = heavy(3), 14, 11
    rows = []
    for counts in np.random.default_rng(seed).multinomial(m, np.full(m, 1 / m), size=60):
        drawn = np.repeat(np.arange(m), counts)
        pairs = [matrix[a, b] for a in drawn for b in drawn if a != b]
        rows.append([np.mean(pairs), np.std(pairs), scipy.stats.skew(pairs), scipy.stats.kurtosis(pairs)])
    found = shape.summary(matrix, resamples=60, seed=seed, level=0.9)
    for name, column in zip(("mean", "sd", "skew", "excess_kurtosis"), np.transpose(rows), strict=True):
        np.testing.assert_allclose(found[f"{name}_interval"], np.quantile(column, [0.05, 0.95]), rtol=1e-8)


def test_resamples_of_fewer_than_three_facts_are_drawn_again():
    matrix, m, means = heavy(8, m=4), 4, []
    rng = np.random.default_rng(5)
    while len(means) < 50:
        for counts in rng.multinomial(m, np.full(m, 1 / m), size=50):
            drawn = np.repeat(np.arange(m), counts)
            if len(set(drawn)) >= 3:
                means.append(np.mean([matrix[a, b] for a in drawn for b in drawn if a != b]))
    found = shape.summary(matrix, resamples=50, seed=5)
    np.testing.assert_allclose(found["mean_interval"], np.quantile(means[:50], [0.025, 0.975]), rtol=1e-8)


def test_intervals_are_the_same_for_a_seed_and_cover_the_point():
    matrix = heavy(4, m=40)
    one, two, other = (shape.summary(matrix, resamples=200, seed=seed) for seed in (1, 1, 2))
    assert one == two
    assert one["mean_interval"] != other["mean_interval"]
    for name in ("mean", "sd"):
        low, high = one[f"{name}_interval"]
        assert low < one[name] < high


@pytest.mark.parametrize("m", [3, 4, 5])
def test_few_facts_give_finite_intervals(m):
    keys, C, _ = problem(6, count=m)
    found = overlap.measure(keys, C)
    for matrix in (found.P, found.cosine_whitened):
        statistics = shape.summary(matrix, resamples=300)
        assert all(np.isfinite(value).all() for value in statistics.values())


def test_duplicates_give_finite_intervals():
    keys, C, _ = problem(7)
    keys = keys[:, [0, 0, 0, 0, 0, 1]]
    statistics = shape.summary(overlap.measure(keys, C).cosine_whitened, resamples=300)
    assert all(np.isfinite(value).all() for value in statistics.values())


def test_quantile_kurtosis_is_zero_for_a_normal_and_deaf_to_an_outlier():
    normal = scipy.stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    assert shape.quantile_kurtosis(normal) == pytest.approx(0, abs=1e-3)
    assert shape.quantile_kurtosis(3 * normal - 5) == pytest.approx(0, abs=1e-3)
    assert shape.quantile_kurtosis(np.append(normal, 1e9)) == pytest.approx(0, abs=1e-3)
    assert shape.quantile_kurtosis(scipy.stats.cauchy.ppf((np.arange(20_000) + 0.5) / 20_000)) > 0.5
    # Of a uniform distribution it is known exactly: (1/4 + 1/4) / (1/2) − 1.233.
    assert shape.quantile_kurtosis(np.linspace(0, 1, 10_001)) == pytest.approx(-0.2330876, abs=1e-6)
    assert shape.summary(heavy(), resamples=0)["quantile_kurtosis"] == shape.quantile_kurtosis(
        shape.off_diagonal(heavy())
    )


def test_resamples_in_blocks_are_the_same_resamples(monkeypatch):
    whole = shape.summary(heavy(), resamples=300)
    monkeypatch.setattr(overlap, "RESAMPLES_AT_ONCE", 7)
    blocks = shape.summary(heavy(), resamples=300)
    assert whole.keys() == blocks.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(blocks[name], value, rtol=1e-9)


@pytest.mark.parametrize(
    ("matrix", "options", "sentence"),
    [
        (np.eye(2), {}, "at least three facts, and there are 2"),
        (heavy(), {"resamples": -1}, "-1 resamples make no sense"),
        (heavy(), {"resamples": 10**9}, "1,000,000,000 resamples are too many: give --resamples of 1,000,000 at most"),
        (np.ones((5, 5)), {}, "overlap alike"),
        (np.full((4, 4), np.nan), {}, "NaN or infinity"),
    ],
)
def test_statistics_refuse_what_has_none(matrix, options, sentence):
    with pytest.raises(UserError, match=sentence):
        shape.summary(matrix, **options)
