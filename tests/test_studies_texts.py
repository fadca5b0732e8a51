"""What is read off a record of several texts: against arrays whose every entry says where it stands."""

from pathlib import Path

import numpy as np
import pytest

from superposition.records import Record
from superposition.stats.intervals import Estimate
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
    assert texts.steepest(record, "book") == (1, 2)
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


def test_what_facts_have_more_than_a_null_draws_the_facts_only(record):
    facts, null = (texts.beyond(record, "book", of) for of in (texts.FACTS, "random subjects"))
    more = texts.more_than(record, "book", "random subjects", "beyond")
    assert [tuple(x) for x in more] == [
        tuple(end - other.value for end in one) for one, other in zip(facts, null, strict=True)
    ]
    assert texts.more_than(record, "book", "random subjects", "spread")[0].value == (
        texts.statistic(record, "book", "spread", texts.FACTS)[0].value
        - texts.statistic(record, "book", "spread", "random subjects")[0].value
    )
    layers = [Estimate(value, 0.0, 9.0) for value in (3.0, 1.0, 2.0)]
    assert texts.middle(layers).value == 2


def test_a_summary_takes_extremes_over_layers_and_over_all_over_texts_and_records(record):
    arrays = vars(record)["arrays"] = {name: array.astype(float) for name, array in record.arrays.items()}
    record.data.update(statistics=["mean", "spread", "excess_kurtosis"], d_m=16)
    arrays["statistics"] = np.random.default_rng(0).normal(size=(2, 3, 3, 3, 2, 3))
    arrays["kurtosis"] = np.random.default_rng(1).normal(size=(2, 3, 2, 50))
    arrays["angles"][:, :, 0, 0], arrays["angles"][:, :, 1, 0] = 60, np.degrees(np.arccos(0.125))
    each = texts.summaries(record)
    assert (each["layers"], each["d_m"]) == (3, 16)
    values = arrays["statistics"][:, :, 0, 0, 0]  # of the facts, of P
    assert each["wikipedia"]["mean"] == {"least": values[1, :, 0].min(), "most": values[1, :, 0].max()}
    assert each["book"]["fall"].value == pytest.approx(values[0, 0, 2] - values[0, 2, 2])
    assert each["book"]["removed"]["least"] == pytest.approx(0.75)
    whole = texts.over_all([record, record])
    assert whole["mean"]["most"] == values[..., 0].max() and whole["kurtosis"].value == values[..., 2].min()
    assert whole["beyond"].value == arrays["beyond"][:, :, 0, 0].min()
    with pytest.raises(ValueError, match="not in list"):
        texts.beyond(record, "nobody's")


def test_paraphrases_are_nearer_where_their_interval_is(record):
    kinship = vars(record)["arrays"]["kinship"] = np.zeros((2, 3, 2, 2, 3))
    kinship[:, :, 0, 0], kinship[:, :, 1, 0] = (0.9, 0.8, 1.0), (0.4, 0.3, 0.5)
    kinship[1, 2, 0, 0] = 0.9, 0.39, 1.0
    assert texts.nearer_to_paraphrases(record) == [True] * 5 + [False]
