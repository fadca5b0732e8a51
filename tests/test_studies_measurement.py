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


def test_means():
    rows = rows_of("mean", [0.05, 0.2, -0.3])
    for row, median, below, sd in zip(rows, (0, 0.1, -1), (0.4, 0.2, 0.9), (0.5, 0.25, 1), strict=True):
        row["P"] |= {"median": median, "share_below_0": below, "sd": sd}
    found = measurement.means(made([np.eye(3)] * 3, rows))
    assert found["mean"] == {"least": -0.3, "most": 0.2} and found["median"] == {"least": -1, "most": 0.1}
    assert found["positive"] == 1 and found["share_positive"] == 0.8
    assert found["in_sd"] == pytest.approx({"least": -0.3, "most": 0.8})


def test_tails():
    rows = rows_of("excess_kurtosis", [9, 3, 0.05, 4, 3.01])
    for row, moors, sd in zip(rows, (0.3, 0.1, 0.2, 0.5, 0.4), (0.25, 0.5, 1, 0.75, 0.3), strict=True):
        row["P"] |= {"quantile_kurtosis": moors, "sd": sd}
    found = measurement.tails(made([np.eye(3)] * 5, rows))
    assert found["excess_kurtosis"] == {"least": 0.05, "most": 9} and found["moors"] == {"least": 0.1, "most": 0.5}
    assert found["spread"] == {"least": 1, "most": 4}
    assert found["heavy"] == 4 and found["over_laplace"] == 3


def test_the_dip_lies_in_the_first_three_quarters_and_the_rise_after_it():
    assert measurement.turns([9, 5, 2, 4, 7, 6, 3, 1]) == {"first": 0, "dip": 2, "rise": 4, "last": 7}
    assert measurement.turns([4, 3, 2, 1]) == {"first": 0, "dip": 2, "rise": 2, "last": 3}
    assert measurement.turns([9, 1, 0.5, 8, 2, 5, 7, 3])["rise"] == 3


def test_the_course_of_the_kurtosis():
    rows = rows_of("excess_kurtosis", [9, 5, 2, 2.5, 7, 6, 3, 1])
    rows[3]["P"]["excess_kurtosis_interval"][0] = -5  # the turns are those of the values
    found = measurement.course(made([np.eye(3)] * 8, rows))
    assert {name: found[name].value for name in ("first", "dip", "rise", "last")} == {
        "first": 9, "dip": 2, "rise": 7, "last": 1,
    }  # fmt: skip
    assert found["dip"] == pytest.approx((2, 1.9, 2.1)) and (found["dip_layer"], found["rise_layer"]) == (2, 4)
    assert (found["first_layer"], found["last_layer"], found["ups"]) == (0, 7, 2)
    assert measurement.course(made([np.eye(3)] * 4, rows_of("excess_kurtosis", [3, 3, 2, 4])))["ups"] == 1
    d = np.arange(8) - np.array([7, 4, 1, 2, 6, 5, 3, 0])
    assert found["rank"] == pytest.approx(1 - 6 * (d**2).sum() / (8 * 63))


def test_angles():
    raw, whitened = np.array([45.0, 85, 70, 92, 65, 79.8]), np.array([80.5, 99, 60, 120, 65, 80.4])  # degrees
    rows = [
        {
            f"cosine_{name}": {"mean": c, "mean_interval": [c - 0.05, c + 0.05]}
            for name, c in (("raw", np.cos(np.radians(a))), ("whitened", np.cos(np.radians(b))))
        }
        for a, b in zip(raw, whitened, strict=True)
    ]
    record = made([np.eye(3)] * 6, rows)
    assert measurement.mean_angles(record, "raw")[:, 0] == pytest.approx(raw)
    low, high = measurement.mean_angles(record, "whitened")[0, 1:]
    assert low > 80.5 > high

    def layers_of(angles):
        return np.stack([np.full((3, 3), np.cos(np.radians(angle))) for angle in angles])

    vars(record)["arrays"] |= {"cosine_raw": layers_of(raw), "cosine_whitened": layers_of(whitened)}
    gains = measurement.nearer_to_right_angles(record, resamples=5)
    nearer = np.abs(raw - 90) - np.abs(whitened - 90)
    np.testing.assert_allclose([gain.value for gain in gains], nearer)
    np.testing.assert_allclose([[gain.low, gain.high] for gain in gains], np.stack([nearer, nearer], axis=1))
    found = measurement.angles(record)
    assert found["raw"] == pytest.approx({"least": 45, "most": 92})
    assert found["white"] == pytest.approx({"least": 60, "most": 120})
    removed = 1 - np.cos(np.radians(whitened)) / np.cos(np.radians(raw))
    assert found["removed"] == pytest.approx({"least": removed.min(), "most": removed.max()})
    assert found["gain"] == pytest.approx({"least": nearer.min(), "most": nearer.max()})
    assert (found["closer"], found["raw_positive"]) == (int((nearer > 1e-6).sum()), 5)
