"""What is read off a measurement's record: against records made by hand, whose statistics are known."""

from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from superposition.linear import overlap
from superposition.records import Record
from superposition.stats import shape
from superposition.studies import measurement


def made(matrices, rows=None, **data) -> Record:
    """A record of these matrices P, one a layer, whose statistics are those of the matrices unless ``rows`` says."""
    m = len(matrices[0])
    rows = [{"P": shape.summary(P, resamples=20)} for P in matrices] if rows is None else rows
    data = {
        "layers": list(range(len(rows))),
        "facts": {"count": m},
        "text": {"tokens": 640},
        "token_positions": [0, *range(1, m)],
        "statistics": [{"layer": n, "d_m": 16} | row for n, row in enumerate(rows)],
    } | data
    record = Record("made", data, Path())
    stacked = np.array(matrices)
    whole = {name: stacked for name in ("P", "Q", "cosine_whitened", "cosine_raw")}
    vars(record)["arrays"] = whole | {"norm_whitened": np.ones((len(stacked), m))}
    return record


@pytest.fixture(scope="module")
def record() -> Record:
    rng = np.random.default_rng(0)
    keys = [rng.normal(0.3, 1, size=(16, 12)) * rng.uniform(0.5, 2, 12) for _ in range(4)]
    matrices = [overlap.superposition_matrix(K, np.eye(16)) for K in keys]
    return made(matrices, relations=list("aabbccddeeff"))


def test_size(record):
    size = measurement.size(record)
    assert size == {
        "layers": 4, "facts": 12, "pairs": 132, "sinks": 1, "tokens": 640, "d_m": 16, "tokens_over_d_m": 40,
    }  # fmt: skip
    alone = made([record.overlaps(2).P], rows=record["statistics"][2:3])
    assert measurement.size(alone) == size | {"layers": 1}


def test_a_statistic_is_a_row_a_layer_with_its_interval(record):
    found = measurement.statistic(record, "mean")
    assert found.shape == (4, 3)
    for row, (value, low, high) in zip(record["statistics"], found, strict=True):
        assert (value, [low, high]) == (row["P"]["mean"], row["P"]["mean_interval"])


def test_off_the_sink_the_first_fact_is_left_out(record):
    assert measurement.off_sink(record).tolist() == [False] + 11 * [True]
    for layer, kurtosis in enumerate(measurement.kurtosis_off_sink(record)):
        P = record.overlaps(layer).P[1:, 1:]
        assert kurtosis == pytest.approx(scipy.stats.kurtosis(P[~np.eye(11, dtype=bool)]))


def test_crowded_counts_pairs_beyond_three_standard_deviations():
    P = np.eye(6)
    P[0, 1], P[1, 0], P[2, 3], P[4, 5] = 0.76, -0.76, 0.74, 3  # the bar is 3/√16
    (share,) = measurement.crowded(made([P], rows=[{}]))
    assert share.value == 3 / 30
    assert share.low < share.value < share.high
    (same,) = measurement.crowded(made([np.ones((6, 6))], rows=[{}]))
    assert tuple(same) == (1, 1, 1)  # whatever is drawn, and no fact meets itself
    (none,) = measurement.crowded(made([np.eye(6)], rows=[{}]))
    assert tuple(none) == (0, 0, 0)
    P, shares = np.random.default_rng(1).normal(0, 0.7, size=(12, 12)), []
    (share,) = measurement.crowded(made([P], rows=[{}]))
    for counts in np.random.default_rng(8).multinomial(12, np.full(12, 1 / 12), size=200):
        drawn = np.repeat(range(12), counts)
        shares.append(np.mean([abs(P[i, j]) > 0.75 for i in drawn for j in drawn if i != j]))
    assert (share.low, share.high) == pytest.approx(tuple(np.quantile(shares, [0.025, 0.975])))
    assert 0 < share.low < np.quantile(shares, 0.05)


def test_random_keys_are_as_crowded_as_a_normal_law():
    assert pytest.approx(2 * scipy.stats.norm.sf(3)) == measurement.BEYOND_RANDOM
    K = np.random.default_rng(1).normal(size=(400, 60))
    P = overlap.superposition_matrix(K / np.linalg.norm(K, axis=0), np.eye(400))
    record = made([P], rows=[{"d_m": 400}])
    (share,) = measurement.crowded(record)
    assert share.value == pytest.approx(measurement.BEYOND_RANDOM, abs=2e-3)


def test_likeness_by_brute_force(record):
    kinds, P = list("xxxxyyyyzzzz"), record.overlaps(2).P
    found: dict[str, list[float]] = {"together": [], "alike": [], "apart": []}
    for i in range(1, 12):
        for j in set(range(1, 12)) - {i}:
            same = record["relations"][i] == record["relations"][j]
            found["together" if same else "alike" if kinds[i] == kinds[j] else "apart"].append(P[i, j])
    expected = {name: np.mean(values) for name, values in found.items()}
    assert measurement.by_likeness(record, 2, kinds) == pytest.approx(expected)


def rows_of(name: str, values, reach: float = 0.1) -> list[dict]:
    return [{"P": {name: x, f"{name}_interval": [x - reach, x + reach]}} for x in values]


def test_keys_on_one_token_by_brute_force():
    P = np.arange(25.0).reshape(5, 5)
    found = made([P], token_ids=[7, 7, 8, 7, 7], subjects=["a", "b", "c", "b", "d"])
    # fact 0 is at position 0, facts 1 and 3 have one subject
    assert measurement.on_one_token(found, 0) == np.mean([P[1, 4], P[4, 1], P[3, 4], P[4, 3]])
