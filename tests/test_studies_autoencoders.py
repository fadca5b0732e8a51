"""Numbers read off the record of toy models of superposition, against a record made by hand."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from superposition.records import Record
from superposition.studies import autoencoders
from superposition.studies.toys import forecast_kurtosis


def made(arrays=None, **data):
    record = Record("toy-autoencoders", data, Path())
    vars(record)["arrays"] = arrays or {}
    return record


def student(values):
    return np.mean(values), *stats.ttest_1samp(values, 0).confidence_interval()


def test_features_at_a_fraction_are_counted_among_those_represented():
    length = np.ones((3, 2, 4))
    length[:, 1, 3] = 0.4  # not represented
    D = np.full((3, 2, 4), 0.9)
    D[:, 1] = [[0.51, 0.47, 0.485, 0.5], [0.5, 0.5, 0.9, 0.5], [0.53, 0.5, 0.5, 0.5]]
    record = made({"large_norm": length, "large_D": D}, sparsity=[1.0, 3.0])
    assert autoencoders.represented(record, 3.0).sum(1).tolist() == [3, 3, 3]
    assert autoencoders.represented(record, 1.0).all()
    shares = autoencoders.at_fraction(record, 3.0, 0.5)
    assert shares == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert autoencoders.at_fraction(record, 1.0, 0.5) == (0, 0, 0)
    np.testing.assert_array_equal(autoencoders.dimensionality(record), np.where(length > 0.5, D, np.nan))


def test_dimensions_over_squared_length():
    length = np.sqrt([[[4.0, 6.0]], [[2.0, 3.0]]])
    record = made({"large_norm": length}, sparsity=[3.0])
    assert autoencoders.dimensions_per_length(record) == pytest.approx(np.array([[2], [4]]))


def test_features_and_facts_as_keys_are_arranged_by_seed():
    record = made(
        features_as_keys=[[None, {"skew": 1.0}], [{"skew": 2.0}, {"skew": 3.0}]],
        bridge=[[32, 0.1], [64, 0.02]],
        bridge_runs=[
            [{"kurtosis_cosine": 1.0}, {"kurtosis_cosine": 2.0}],
            [{"kurtosis_cosine": x} for x in (5.0, 9.0)],
        ],
    )
    np.testing.assert_array_equal(autoencoders.of_features(record, "skew"), [[np.nan, 1], [2, 3]])
    assert autoencoders.of_facts(record, "kurtosis_cosine").tolist() == [[1, 5], [2, 9]]
    said, measured = autoencoders.forecasts(record, 128)
    assert measured.tolist() == [1.5, 7]
    assert said.tolist() == [forecast_kurtosis(0.1, 128, 32), forecast_kurtosis(0.02, 128, 64)]
