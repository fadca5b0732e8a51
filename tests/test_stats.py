"""Statistics against SciPy, brute force and closed forms: intervals, shapes, regressions, rankings."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from superposition.errors import UserError
from superposition.linear import overlap
from superposition.stats import intervals, ranking, regression, shape

RNG = np.random.default_rng

# --- intervals ------------------------------------------------------------------------------------------------


def wilson(hits, n, z):
    """The roots of ``(p̂ − p)² = z² p (1 − p)/n`` (Wilson 1927)."""
    a, b, c = 1 + z**2 / n, -2 * hits / n - z**2 / n, (hits / n) ** 2
    return np.sort(np.roots([a, b, c]).real)


@given(st.integers(1, 300), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_a_share_has_wilsons_interval(n, part):
    hits = round(part * n)
    found = intervals.share([True] * hits + [False] * (n - hits))
    assert (found["share"], found["n"]) == (hits / n, n)
    np.testing.assert_allclose((found["low"], found["high"]), wilson(hits, n, scipy.stats.norm.isf(0.025)), atol=1e-7)
    assert 0 <= found["low"] <= found["share"] <= found["high"] <= 1


def test_a_share_of_all_or_of_none_ends_where_shares_do():
    for n in range(1, 60):
        assert intervals.share([True] * n)["high"] == 1.0 and intervals.share([False] * n)["low"] == 0.0
    assert intervals.share([]) == {"share": None, "low": None, "high": None, "n": 0}
    found = intervals.share([True] * 8 + [False] * 2)
    assert (found["low"], found["high"]) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # a published example


def test_a_mean_has_scipys_percentile_bootstrap():
    values = RNG(1).normal(3, 2, size=400)
    found = intervals.mean_interval(values, resamples=500, seed=7)
    kept = scipy.stats.bootstrap((values,), np.mean, n_resamples=500, method="percentile", rng=7).confidence_interval
    assert (found["mean"], found["n"]) == (values.mean(), 400)
    np.testing.assert_allclose((found["low"], found["high"]), kept, rtol=1e-13)
    assert intervals.mean_interval([2.5]) == {"mean": 2.5, "low": 2.5, "high": 2.5, "n": 1}
    assert intervals.mean_interval([]) == {"mean": None, "low": None, "high": None, "n": 0}


@pytest.mark.parametrize("size", [(5,), (7, 3), (2, 4, 3)])
def test_intervals_over_seeds_are_students(size):
    runs = RNG(0).normal(size=size)
    mean, low, high = intervals.over_seeds(runs, 0.9)
    kept = scipy.stats.ttest_1samp(runs, 0).confidence_interval(0.9)
    np.testing.assert_allclose((mean, low, high), (runs.mean(0), kept.low, kept.high), rtol=1e-12)
    assert intervals.over_seeds([0.25] * 5).tolist() == [0.25, 0.25, 0.25]


# --- shape ----------------------------------------------------------------------------------------------------


def heavy(seed=0, m=14):
    return np.random.default_rng(seed).standard_t(4, size=(m, m)) + 0.1


@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_statistics_are_scipys_of_the_off_diagonal(shift):
    matrix = heavy() + shift
    values = [matrix[i, j] for i in range(14) for j in range(14) if i != j]
    assert shape.off_diagonal(matrix).tolist() == values
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
    matrix[0, 1] = 0.0  # is not below zero
    assert shape.summary(matrix, resamples=0)["share_below_0"] == np.mean(shape.off_diagonal(matrix) < 0)
    other = matrix + 1e6 * np.eye(14)  # the diagonal does not count
    assert shape.summary(other, resamples=50) == shape.summary(matrix, resamples=50)


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


@pytest.mark.parametrize("m", [3, 4, 5, 6])
def test_few_facts_and_duplicates_give_finite_intervals(m):
    keys = RNG(7).standard_normal((9, m))
    if m == 6:
        keys[:, :5] = keys[:, :1]
    products = keys.T @ keys
    for matrix in (overlap.cosines(products), *([overlap.from_products(products)] if m < 6 else [])):
        statistics = shape.summary(matrix, resamples=300)
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
    monkeypatch.setattr(shape, "RESAMPLES_AT_ONCE", 7)
    blocks = shape.summary(heavy(), resamples=300)
    assert whole.keys() == blocks.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(blocks[name], value, rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: shape.summary(np.eye(2)), "at least three facts, and there are 2"),
        (lambda: shape.summary(heavy(), resamples=-1), "-1 resamples make no sense"),
        (
            lambda: shape.summary(heavy(), resamples=10**9),
            "1,000,000,000 .* too many: give --resamples of 1,000,000 at most",
        ),
        (lambda: shape.summary(np.ones((5, 5))), "overlap alike"),
        (lambda: shape.summary(np.full((4, 4), np.nan)), "NaN or infinity"),
        (lambda: shape.l_kurtosis([1.0, 2.0, 3.0]), "at least four"),
        (lambda: shape.l_kurtosis([1.0] * 9), "not all the same"),
        (lambda: shape.hill(np.arange(10.0)), "larger share"),
        (lambda: shape.hill(np.arange(10.0), 0.5), "below one half"),
        (lambda: shape.hill([0.0] * 99 + [1.0]), "no tail"),
        (lambda: intervals.over_seeds([1.0]), "at least two"),
        (lambda: regression.logistic(np.ones((50, 1)), np.ones(50)), "all alike"),
        (lambda: ranking.rank_correlation(np.arange(2.0), np.arange(2.0)), "three facts and more"),
        (lambda: ranking.roc_area(np.arange(9.0), np.zeros(9, dtype=bool)), "some of both"),
    ],
)
def test_what_has_no_statistic_gets_a_sentence(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()


def test_l_kurtosis_of_known_distributions():
    """τ₄ of the uniform is 0, of the exponential 1/6, of the logistic 1/6 (Hosking 1990, Table 1)."""
    for name, expected in (("uniform", 0), ("expon", 1 / 6), ("logistic", 1 / 6), ("norm", 0.122602)):
        middles = (np.arange(100_000) + 0.5) / 100_000
        found = shape.l_kurtosis(getattr(scipy.stats, name).ppf(middles)) + shape.L_NORMAL
        assert found == pytest.approx(expected, abs=2e-4), name


def test_l_kurtosis_is_scipys():
    for n in (4, 5, 9, 200):
        x = RNG(n).standard_cauchy(n)
        kept = scipy.stats.lmoment(x, order=4)  # the ratio to the second
        assert shape.l_kurtosis(x) + shape.L_NORMAL == pytest.approx(kept, rel=1e-12)


@pytest.mark.parametrize("alpha", [1.5, 3.0])
def test_hill_finds_the_exponent_of_a_power_law(alpha):
    middles = (np.arange(200_000) + 0.5) / 200_000
    half = (1 - middles) ** (-1 / alpha)
    assert shape.hill(np.concatenate([half, -half])) == pytest.approx(1 / alpha, rel=0.01)


def test_hill_of_a_normal_distribution():
    t = scipy.stats.norm.isf(shape.TAIL / 2)
    expected = 2 * integrate.quad(lambda x: np.log(x / t) * scipy.stats.norm.pdf(x), t, 12)[0] / shape.TAIL
    found = shape.hill(scipy.stats.norm.ppf((np.arange(400_000) + 0.5) / 400_000))
    assert found == pytest.approx(expected, rel=0.01)
    assert expected == pytest.approx(0.13, abs=0.005)


def test_hill_by_its_definition():
    x = RNG(1).standard_t(3, size=501) + 5
    far = np.sort(np.abs(x - np.median(x)))[::-1]
    assert shape.hill(x) == pytest.approx(np.mean([np.log(v / far[10]) for v in far[:10]]))


def test_statistics_agree_with_others():
    x = RNG(2).gamma(2, size=3001)
    found = shape.statistics(x, 49)
    assert list(found) == list(shape.STATISTICS)
    assert found["mean"] == pytest.approx(x.mean())
    assert found["spread"] == pytest.approx(7 * x.std())
    assert found["excess_kurtosis"] == pytest.approx(scipy.stats.kurtosis(x))
    assert found["quantile_kurtosis"] == pytest.approx(shape.quantile_kurtosis(x))
    assert found["l_kurtosis"] == pytest.approx(shape.l_kurtosis(x))
    assert found["hill"] == pytest.approx(shape.hill(x))


# --- regression -----------------------------------------------------------------------------------------------


def test_a_slope_is_the_power():
    n = np.array([1, 3, 10, 40])
    powers = np.array([0.5, 1.0, -2.0])
    assert np.allclose(regression.log_slope(n, 3 * n[None] ** powers[:, None]), powers)


@pytest.mark.parametrize("directed", [False, True])
def test_dyadic_covariance_sums_over_all_pairs_of_pairs_that_share_a_fact(directed):
    rng, m = RNG(0), 9
    first, second = np.nonzero(~np.eye(m, dtype=bool)) if directed else np.triu_indices(m, 1)
    order = rng.permutation(len(first))  # in any order
    first, second = first[order], second[order]
    raw, residuals = rng.random((len(first), 3)), rng.standard_normal(len(first))
    X = raw - raw.mean(0)
    meat = np.zeros((3, 3))
    ends = [{i, j} for i, j in zip(first, second, strict=True)]
    for a, b in itertools.product(range(len(X)), repeat=2):
        if ends[a] & ends[b]:
            meat += residuals[a] * residuals[b] * np.outer(X[a], X[b])
    bread = np.linalg.inv(X.T @ X)
    assert np.allclose(regression.dyadic_covariance(raw, residuals, first, second), bread @ meat @ bread)


def test_least_squares_of_dyads_with_their_errors():
    rng, (first, second) = RNG(1), np.triu_indices(12, 1)
    X = rng.random((len(first), 2)) + 3
    Y = X @ [[1.0, 0.0], [-2.0, 1.0]] + rng.standard_normal((len(first), 2)) + 5
    coefficients, errors = regression.dyadic(X, Y, first, second)
    with_one = np.column_stack([np.ones(len(X)), X])
    b = np.linalg.lstsq(with_one, Y)[0]
    np.testing.assert_allclose(coefficients, b[1:])
    for column, residual in enumerate((Y - with_one @ b).T):
        variance = np.diag(regression.dyadic_covariance(X, residual, first, second))
        np.testing.assert_allclose(errors[:, column] ** 2, np.clip(variance, 0, None), atol=1e-15)
    with pytest.raises(UserError, match="follows from"):
        regression.dyadic(X[:, [0, 0]], Y, first, second)


def test_the_share_of_rows_and_columns():
    rng = RNG(0)
    m = 15
    matrix = rng.standard_normal(m)[:, None] + 2 * rng.standard_normal(m) + rng.standard_normal((m, m))
    i, j = np.nonzero(~np.eye(m, dtype=bool))
    dummies = np.column_stack([np.eye(m)[i], np.eye(m)[j]])
    y = matrix[i, j]
    rest = y - dummies @ np.linalg.lstsq(dummies, y)[0]
    assert regression.row_and_column_share(matrix) == pytest.approx(1 - (rest**2).sum() / ((y - y.mean()) ** 2).sum())


def test_logistic_finds_the_maximum_of_the_likelihood():
    from scipy.optimize import minimize

    rng = RNG(0)
    X = rng.standard_normal((400, 2))
    y = (rng.random(400) < 1 / (1 + np.exp(-(X @ [1.0, -0.5] - 1)))).astype(float)
    w = rng.integers(0, 4, 400).astype(float)
    with_one = np.column_stack([np.ones(400), X])

    def loss(b):
        z = with_one @ b
        return (w * (np.logaddexp(0, z) - y * z)).sum()

    assert np.allclose(regression.logistic(X, y, w), minimize(loss, np.zeros(3), tol=1e-10).x, atol=2e-4)
    repeated = np.repeat(np.arange(400), w.astype(int))
    assert np.isfinite(regression.logistic(X, (X[:, 0] > 0).astype(float))).all()  # where it separates
    assert np.allclose(regression.logistic(X, y, w), regression.logistic(X[repeated], y[repeated]), atol=1e-6)


def test_drawing_edits_and_partners_covers_the_truth_where_both_have_effects():
    """Mean of a_i + b_j: the interval is as wide as the two effects make it, wider than cells alone would have it."""
    rng = RNG(0)
    table = rng.standard_normal(40)[:, None] + rng.standard_normal(60)
    drawn = regression.over_both(lambda w: (w * table).sum() / w.sum(), 40, 60, resamples=1000)
    assert drawn.std() == pytest.approx(np.sqrt(1 / 40 + 1 / 60), rel=0.25)

    def refuses_half(w):
        if w[0, 0] == 0:
            raise UserError("not defined")
        return w[0, 0]

    assert 0 < len(regression.over_both(refuses_half, 4, 4, resamples=200)) < 200


def test_bins_hold_the_cells_of_their_overlap():
    rng = RNG(0)
    p = rng.uniform(-0.2, 1, (20, 30))
    outcome = (p > 0.5) + 0.0
    among = rng.random((20, 30)) < 0.5
    found = regression.binned(p, outcome, [0, 0.25, 0.75, 1, 5], among, resamples=100)
    assert len(found["p"]) == 3
    for b, (low, high) in enumerate(((0, 0.25), (0.25, 0.75), (0.75, 1))):
        inside = (p >= low) & (p < high) & among
        assert found["cells"][b] == inside.sum()
        assert found["mean"][b] == pytest.approx(outcome[inside].mean())
        assert found["p"][b] == pytest.approx(p[inside].mean())
        assert found["low"][b] <= found["mean"][b] <= found["high"][b]
    assert found["low"][0] == found["high"][0] == 0
    assert found["high"][1] - found["low"][1] > 0.03


# --- ranking --------------------------------------------------------------------------------------------------


def test_a_rank_correlation_and_its_interval():
    rng = np.random.default_rng(4)
    x = rng.standard_normal(300)
    y = 0.6 * x + 0.8 * rng.standard_normal(300)
    value, low, high = ranking.rank_correlation(x, y)
    assert low < value < high and 0.1 < high - low < 0.25
    assert ranking.rank_correlation(x, np.exp(x))[0] == pytest.approx(1)
    assert ranking.rank_correlation(x, -x)[:2] == pytest.approx((-1, -1))
    # the interval covers the truth about as often as it says (ρ_s of a normal pair: 6/π asin(ρ/2))
    truth, hits = 6 / np.pi * np.arcsin(0.3), 0
    for seed in range(60):
        rng = np.random.default_rng([5, seed])
        x = rng.standard_normal(100)
        y = 0.6 * x + 0.8 * rng.standard_normal(100)
        _, low, high = ranking.rank_correlation(x, y, resamples=300, seed=seed)
        hits += low < truth < high
    assert hits >= 52
    # the same resamples, ranked one by one, with ties
    x, y = np.round(rng.standard_normal(30), 1), np.round(rng.standard_normal(30), 1)
    counts = np.random.default_rng(9).multinomial(30, np.full(30, 1 / 30), size=50)
    rows = [np.repeat(np.arange(30), count) for count in counts]
    slow = np.quantile([scipy.stats.spearmanr(x[r], y[r]).statistic for r in rows], [0.025, 0.975])
    assert ranking.rank_correlation(x, y, resamples=50, seed=9)[1:] == pytest.approx(tuple(slow))


def test_the_area_under_the_roc_curve_counts_pairs():
    rng = np.random.default_rng(7)
    made, lost = np.round(rng.standard_normal(40), 1), rng.random(40) < 0.3
    pairs = [
        (made[a] > made[b]) + 0.5 * (made[a] == made[b]) for a in range(40) for b in range(40) if lost[a] > lost[b]
    ]
    value, low, high = ranking.roc_area(made, lost)
    assert value == pytest.approx(np.mean(pairs)) and low < value < high
    kept = scipy.stats.mannwhitneyu(made[lost], made[~lost]).statistic / (lost.sum() * (~lost).sum())
    assert value == pytest.approx(kept, rel=1e-14)
    assert ranking.roc_area(lost.astype(float), lost) == (1, 1, 1)
    assert ranking.roc_area(np.zeros(40), lost) == (0.5, 0.5, 0.5)


def test_the_lead_of_a_forecast_is_drawn_in_pairs():
    rng = np.random.default_rng(8)
    lost = rng.random(80) < 0.4
    worse = rng.standard_normal(80) + lost
    better = worse + 0.6 * lost  # the same noise
    lead = ranking.roc_lead(better, worse, lost)
    areas = ranking.roc_area(better, lost), ranking.roc_area(worse, lost)
    assert lead[0] == pytest.approx(areas[0][0] - areas[1][0]) and 0 < lead[1] < lead[0] < lead[2]
    assert areas[0][1] < areas[1][2]  # each by itself, their intervals overlap
    assert ranking.roc_lead(worse, better, lost) == pytest.approx((-lead[0], -lead[2], -lead[1]))
    assert ranking.roc_lead(worse, 3 * worse + 1, lost) == (0, 0, 0)
    with pytest.raises(UserError, match="some of both"):
        ranking.roc_lead(worse, better, lost | True)
