"""What is read off a record of several texts: against arrays whose every entry says where it stands."""

from pathlib import Path

import numpy as np
import pytest

from superposition.records import Record
from superposition.studies import texts

SETS = ["facts", "strangers", "random subjects"]
KINSHIP = ["own paraphrase", "one relation"]


@pytest.fixture
def record() -> Record:
    data = {
        "texts": [{"source": "book"}, {"source": "wikipedia"}],
        "layers": [0, 1, 2],
        "sets": SETS,
        "drawn": ["facts", "strangers"],
        "kinship": KINSHIP,
        "matrices": ["P", "cosine_whitened"],
        "statistics": ["mean", "spread"],
    }
    shapes = {
        "statistics": (2, 3, 3, 3, 2, 2),
        "beyond": (2, 3, 3, 3),
        "angles": (2, 3, 3, 3),
        "kinship": (2, 3, 2, 2, 3),
    }
    record = Record("made", data, Path())
    vars(record)["arrays"] = {name: np.arange(np.prod(shape)).reshape(shape) for name, shape in shapes.items()}
    return record


def test_every_number_stands_at_its_place(record):
    arrays = record.arrays
    found = texts.statistic(record, "wikipedia", "spread", "strangers", "cosine_whitened")
    assert np.array_equal(found, arrays["statistics"][1, :, 1, :, 1, 1])
    assert np.array_equal(texts.statistic(record, "book", "mean"), arrays["statistics"][0, :, 0, :, 0, 0])
    assert np.array_equal(texts.beyond(record, "book", "random subjects"), arrays["beyond"][0, :, 2])
    assert np.array_equal(texts.nearer_to_right_angles(record, "wikipedia"), arrays["angles"][1, :, 2])
    assert np.array_equal(texts.kinship(record, "book", "one relation"), arrays["kinship"][0, :, 1, 0])
    assert np.array_equal(
        texts.kinship(record, "book", "own paraphrase", "cosine_whitened"), arrays["kinship"][0, :, 0, 1]
    )


def test_a_fall_is_that_of_the_same_facts_and_the_steepest_rise_is_a_sure_one(record):
    arrays = record.arrays
    arrays["statistics"] = np.zeros(arrays["statistics"].shape)
    record.data["statistics"] = ["mean", "excess_kurtosis"]
    arrays["statistics"][0, :, 0, 0, 0, 1] = [5, 1, 4]
    noise = np.random.default_rng(0).normal(0, 3, 200)
    arrays["kurtosis"] = np.stack([np.array([5 + noise, 1 + noise, 4 + noise]), np.zeros((3, 200))], 1)[None]
    assert texts.kurtosis_falls(record, "book", 0, 2) == pytest.approx((1, 1, 1))
    assert texts.steepest_rise(record, "book") == pytest.approx((3, 3, 3))
    arrays["kurtosis"][0, 2, 0] = np.linspace(-50, 50, 200)
    assert texts.steepest_rise(record, "book").low < 0 and texts.steepest_rise(record, "book").value == 3


def test_two_models_are_compared_at_one_depth_and_in_the_same_draws(record):
    arrays, wide = record.arrays, Record("wider", dict(record.data, layers=[0, 1]), Path())
    record.data["statistics"] = wide.data["statistics"] = ["mean", "excess_kurtosis"]
    arrays["kurtosis"] = np.random.default_rng(0).normal(0, 3, (2, 3, 2, 200))
    vars(wide)["arrays"] = {name: array[:, [0, 2]].copy() for name, array in arrays.items()}
    wide.arrays["kurtosis"][:, :, 1] += 2
    wide.arrays["statistics"] = wide.arrays["statistics"] + 2
    for depth in (0, 1):
        assert texts.wider(record, wide, "wikipedia", depth) == pytest.approx((2, 2, 2))


def test_under_every_text_are_the_layers_of_one_after_those_of_the_other(record):
    found = texts.under_every_text(record, texts.beyond)
    assert np.array_equal(found, record.arrays["beyond"][:, :, 0].reshape(6, 3))
    with pytest.raises(ValueError, match="not in list"):
        texts.beyond(record, "nobody's")
