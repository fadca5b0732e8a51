"""Figures of nulls and of several models draw the numbers that they are given, from any record of the right kind."""

import numpy as np
import pytest

from superposition import figures, records
from superposition.stats import shape
from superposition.studies import nulls

STRANGERS = "no position 0, no shared last token"


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """A record of nulls of four layers with random numbers."""
    rng, names = np.random.default_rng(0), ["gaussian", "same norms"]
    without, sizes = ["no position 0", STRANGERS], [32, 64, 128]
    categories = dict.fromkeys(["same relation, words before", "apart", "apart, swapped into one prompt"], 9)
    readings, count = ["table", "subject alone", "prompts swapped"], len(shape.STATISTICS)
    data = {
        "kind": "nulls",
        "model": {"name": "toy"},
        "facts": {"count": 200},
        "layers": [0, 1, 2, 5],
        "statistics": list(shape.STATISTICS),
        "matrices": ["P", "cosine_whitened"],
        "nulls": names,
        "without": without,
        "sizes": sizes,
        "seeds": 3,
        "readings": readings,
        "categories": categories,
        "means": ["cosine", "p"],
    }
    shapes = {
        "table": (4, 2, count),
        "nulls": (4, 2, 3, 2, count),
        "without": (4, 2, 2, count),
        "pairs": (4, 3, 3, 2, 3),
        "lists": (3, 4, 3, 2, count),
    }
    arrays = {name: rng.uniform(1, 20, shape).astype(np.float32) for name, shape in shapes.items()}
    arrays |= {"low": arrays["table"] - 1, "high": arrays["table"] + 1}
    arrays["lists"].sort(axis=0)
    path = tmp_path_factory.mktemp("records") / "toy-nulls.json"
    records.write(path, data, arrays)
    return records.load(path)


def test_curves_of_a_record(record):
    column = shape.STATISTICS.index("hill")
    assert np.array_equal(nulls.curve(record, "hill"), record.arrays["table"][:, 0, column])
    low = nulls.curve(record, "hill", "low", "cosine_whitened")
    assert np.array_equal(low, record.arrays["table"][:, 1, column] - 1)
    null = record.arrays["nulls"][:, 1, :, 0, column].mean(1)
    assert np.allclose(nulls.curve(record, "hill", "same norms"), null)
    assert np.array_equal(nulls.curve(record, "hill", STRANGERS), record.arrays["without"][:, 1, 0, column])
    with pytest.raises(nulls.UserError, match="choose among"):
        nulls.curve(record, "hill", "nobody")
    low, _, high = record.arrays["lists"][:, 2, 1, 0, column]
    assert nulls.scatter(record, "hill")[2, 1] == pytest.approx((high - low) / 2 / record.arrays["table"][2, 0, column])
    assert np.array_equal(nulls.pairs(record, "subject alone", "apart", "p"), record.arrays["pairs"][:, 1, 1, 1].T)


def test_nulls_stand_beside_the_facts(record, drawn):
    figure = drawn(figures.nulls_beside_facts([record]))
    spread = figure.axes[list(nulls.COMPARED).index("spread")]
    ratios = nulls.ratio(record, "same norms", "spread")
    lines = [line for line in spread.lines if len(line.get_xdata()) == 2 and np.ptp(line.get_ydata()) == 0]
    assert [tuple(line.get_xdata()) for line in lines][1] == pytest.approx((ratios.min(), ratios.max()))
    marks = [line.get_xdata()[0] for line in spread.lines if line.get_marker() == "o"]
    assert marks[1] == pytest.approx(np.median(ratios))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["same norms", "gaussian"]


def test_confounds_by_depth(record, drawn):
    figure = figures.confounds_by_depth([record, record], {"no position 0": "without"})
    lines = {line.get_label(): line for line in figure.axes[2].lines}
    assert np.array_equal(lines["without"].get_ydata(), nulls.curve(record, "l_kurtosis", "no position 0"))
    drawn(figure)


def test_words_or_relation(record, drawn):
    figure = figures.words_or_relation([record])
    shown = figure.axes[0].lines[1].get_ydata()
    assert np.array_equal(shown, nulls.pairs(record, "subject alone", "same relation, words before")[0])
    drawn(figure)


def test_lists_by_size(record, drawn):
    figure = figures.lists_by_size(record, 2, ["hill", "spread"])
    column = shape.STATISTICS.index("excess_kurtosis")
    assert np.array_equal(figure.axes[0].lines[0].get_ydata(), record.arrays["lists"][1, 2, :, 0, column])
    assert np.allclose(figure.axes[1].lines[0].get_ydata(), np.median(nulls.scatter(record, "hill"), axis=0))
    drawn(figure)


def test_tails_without_meaning(drawn):
    figure = figures.tails_without_meaning({64: [(0, 0, 0), (1, 90, 100)]}, [(0, 0, 0, 0), (0.1, 1, 2, 0.1)])
    assert figure.axes[0].lines[0].get_ydata().tolist() == [0, 100]
    assert figure.axes[1].lines[1].get_ydata().tolist() == [0, 1]
    drawn(figure)


# --- several models -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("records"), []
    for name, d_m, layers in (("one", 500, [0, 1, 2]), ("two", 500, [0, 1]), ("three", 4000, [0, 4, 8, 12])):
        data = {"model": {"name": name}, "layers": layers, "statistics": [{"d_m": d_m}] * len(layers)}
        records.write(folder / f"{name}.json", data)
        made.append(records.load(folder / f"{name}.json"))
    return made


def values(measured, seed):
    rng, count = np.random.default_rng(seed), len(shape.STATISTICS)
    return [rng.uniform(3, 90, (len(record["layers"]), 2, count)) for record in measured]


def test_models_by_depth_draws_as_many_models_as_there_are(measured, drawn):
    found = values(measured, 0)
    figure = figures.models_by_depth(measured, found, {"GPT2-small": [70.0, 8.0]})
    lines = {line.get_label(): line for line in figure.axes[1].lines}
    assert set(lines) == {"one", "two", "three", "GPT2-small (published)"}
    assert np.array_equal(lines["three"].get_ydata(), found[2][:, 0, shape.STATISTICS.index("excess_kurtosis")])
    tails = {line.get_label(): line for line in figure.axes[2].lines}["two"]
    assert np.array_equal(tails.get_ydata(), found[1][:, 1, shape.STATISTICS.index("l_kurtosis")])
    drawn(figure)


def test_models_by_width_draws_every_layer(measured, drawn):
    every, clean = values(measured, 1), values(measured, 2)
    figure = figures.models_by_width(measured, every, clean)
    dots = [dot for points in figure.axes[0].collections for dot in points.get_offsets()[:, 1]]
    column = shape.STATISTICS.index("excess_kurtosis")
    assert sorted(dots) == sorted(x for found in every + clean for x in found[:, 0, column])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["500\none\ntwo", "4,000\nthree"]
    drawn(figure)


def test_law_of_one_pair(drawn):
    figure = figures.law_of_one_pair([512, 1024], {1: [2.0, 8.0], 3: [1.0, 2.0]}, {"GPT2-small": 768})
    assert figure.axes[0].lines[0].get_ydata().tolist() == [2, 8]
    drawn(figure)


def test_before_training(tmp_path, drawn):
    count = len(shape.STATISTICS)
    rng = np.random.default_rng(0)
    arrays = {"trained": rng.random((3, 2, 2, count)), "untrained": rng.random((2, 3, 2, 2, count))}
    data = {"lists": {"all": 9, "some": 5}, "layers": [0, 4, 8], "depth": 9, "statistics": list(shape.STATISTICS)}
    records.write(tmp_path / "control.json", data, arrays)
    figure = figures.before_training(records.load(tmp_path / "control.json"), "some")
    column = shape.STATISTICS.index("spread")
    assert np.array_equal(figure.axes[0].lines[0].get_ydata(), arrays["trained"][:, 1, 0, column])
    assert np.array_equal(figure.axes[0].lines[2].get_ydata(), arrays["untrained"][1, :, 1, 0, column])
    drawn(figure)
