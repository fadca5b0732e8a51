"""Numbers read off the record of linear toy memories, against records made by hand and sums written out."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from superposition.linear import overlap
from superposition.records import Record
from superposition.studies import toy_memory
from superposition.studies.toys import forgetting


def record(arrays=None, **data):
    made = Record("toy-memory", data, Path())
    vars(made)["arrays"] = arrays or {}
    return made


def student(values):
    return stats.ttest_1samp(values, 0).confidence_interval()


def test_a_spread_is_a_mean_over_seeds_and_geometric_for_heavy_tails():
    runs = [{"damage": x, "worst": x, "kurtosis_cosine": -x} for x in (1.0, 2.0, 8.0)]
    made = record(kinds={"random": runs, "heavy-tailed": runs})
    plain = toy_memory.spread(made, "random", "damage")
    assert plain == pytest.approx((11 / 3, *student([1, 2, 8])))
    assert toy_memory.spread(made, "heavy-tailed", "worst") == plain
    assert toy_memory.spread(made, "heavy-tailed", "kurtosis_cosine").value == pytest.approx(-11 / 3)
    heavy = toy_memory.spread(made, "heavy-tailed", "damage")
    assert heavy == pytest.approx((16 ** (1 / 3), *np.exp(student(np.log([1, 2, 8])))))


def test_harm_of_lengths_is_a_ratio_of_each_seed():
    kinds = {"heavy-tailed": [{"damage": 6.0}, {"damage": 5.0}], "random": [{"damage": 2.0}, {"damage": 10.0}]}
    assert toy_memory.harm_of_lengths(record(kinds=kinds)).tolist() == [3.0, 0.5]


def test_overlap_among_stored_random_keys():
    rng, d_m, N, seen = np.random.default_rng(0), 16, 64, []
    for _ in range(60):
        K = rng.normal(size=(d_m, N))
        P = overlap.superposition_matrix(K, K @ K.T)
        seen.append(d_m * np.mean(P[~np.eye(N, dtype=bool)] ** 2))
    assert np.mean(seen) == pytest.approx(toy_memory.squared_among_stored(d_m, N), rel=0.03)


def test_the_gap_to_the_law_is_that_of_the_mean_at_the_highest_load():
    stops = [1, 48, 96]
    law = forgetting(stops, 48)
    off = np.array([[0.1, 0.0, 0.0], [-0.06, 0.0, -0.1]])  # mean 0.02, 0, -0.05
    arrays = {"loads": np.stack([law + 9 + 0 * off, law + off])}
    assert toy_memory.gap_to_law(record(arrays, stops={"loads": stops})) == pytest.approx(0.05)


def test_growth_is_the_power_over_the_stops_asked_for():
    n = np.array([1, 4, 16, 64, 256])
    runs = [np.where(n <= 16, n**power, 16.0**power) for power in (0.4, 0.6)]
    made = record({"arms": np.array([runs, [n, n]])}, arms=["bent", "line"], stops={"arms": n.tolist()})
    early, late = toy_memory.growth(made, last=16), toy_memory.growth(made, first=16)
    assert early["bent"] == pytest.approx((0.5, *student([0.4, 0.6])))
    assert late["bent"] == pytest.approx((0, 0, 0), abs=1e-12)
    assert toy_memory.growth(made)["line"].value == pytest.approx(1)


def test_thirds_of_a_sequence_begin_with_the_oldest():
    edits = np.array([[9.0, 7, 4, 2, 1, 0], [5.0, 5, 3, 3, 0, 0]])
    assert toy_memory.by_age(record({"earlier": edits})).tolist() == [[8, 5], [3, 3], [0.5, 0]]


def test_typical_keys_do_not_lean_and_a_common_part_makes_them():
    rng, d_m, m = np.random.default_rng(1), 40, 400
    K = rng.normal(size=(d_m, m))
    K[0] += 3  # the common part has the square 9, a key has d_m + 9
    layer = overlap.measure(K, np.eye(d_m))
    products = K.T @ K
    between = products[~np.eye(m, dtype=bool)].mean()
    assert toy_memory.lean(layer, d_m) == pytest.approx(d_m * between / np.diag(products).mean())
    assert toy_memory.lean(layer, d_m) == pytest.approx(d_m * 9 / (d_m + 9), rel=0.05)
    assert abs(toy_memory.lean(overlap.measure(rng.normal(size=(d_m, m)), np.eye(d_m)), d_m)) < 0.2


def test_the_crossover_is_the_variance_over_the_squared_mean():
    rng, m = np.random.default_rng(2), 300
    P = rng.normal(0.1, 0.3, size=(m, m))
    np.fill_diagonal(P, 1)
    assert toy_memory.crossover(P) == pytest.approx(9, rel=0.05)  # 0.09 / 0.01
    small = [P[:4, :4][i] for i in range(4)]
    columns = [[small[i][j] for i in range(4) if i != j] for j in range(4)]
    mu2 = np.mean([np.mean(x) ** 2 - np.var(x, ddof=1) / 3 for x in columns])  # unbiased
    assert toy_memory.crossover(P[:4, :4]) == pytest.approx(np.mean(np.square(columns)) / mu2 - 1)
