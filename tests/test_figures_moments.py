"""The figures of chapter 10 draw what the record says."""

from pathlib import Path

import numpy as np
import pytest

from superposition import records
from superposition.figures import moments as figures
from superposition.linear import shrinkage

D_M, END = 100, 6400


def row(layer):
    rng = np.random.default_rng(layer)
    sizes = [110, 200, 800, 3200, END]
    entry = {"rms": 0.1, "largest": 0.5, "correlation": 0.9, "mean": 0.05}
    by_tokens = [
        {"tokens": n, "rms_scaled": rng.uniform(0.01, 0.3), "sd": rng.uniform(0.1, 0.2), "excess_kurtosis": 9.0 + n}
        | entry
        for n in sizes
    ]
    part = {"tokens": 200, "oas": 0.01, "rms_oas": 0.03, "shrinkages": [0, 1e-5, 0.1], "rms": [0.05, 0.04, 0.06]}
    return {
        "layer": layer,
        "d_m": D_M,
        "by_tokens": by_tokens,
        "halves": {"rms": 0.011},
        "first_position": {"without": {"rms": 0.012}},
        "other_text": {"rms": 0.013},
        "centred": {"rms": 0.014},
        "bfloat16": {"text_and_keys": {"rms": 0.015}},
        "fourth_moments": {"float32_sums": {"rms": 0.016}},
        "shrinkage": [part, part | {"tokens": 400}],
    }


@pytest.fixture
def record():
    data = {"d_m": D_M, "layers": [0, 7], "rows": [row(0), row(7)]}
    return records.Record("synthetic", data, Path())


def test_errors_are_drawn_by_tokens_a_dimension_beside_the_law(record, drawn):
    figure = figures.error_by_tokens(record)
    law, first, second = figure.axes[0].lines
    assert np.allclose(law.get_ydata(), shrinkage.sampling_error(law.get_xdata() * D_M, D_M, END))
    for line, one in ((first, row(0)), (second, row(7))):
        assert np.allclose(line.get_xdata(), [1.1, 2, 8, 32])  # the end has no error of its own
        assert np.allclose(line.get_ydata(), [entry["rms_scaled"] for entry in one["by_tokens"][:-1]])
    drawn(figure)


def test_statistics_are_drawn_to_the_end(record, drawn):
    figure = figures.statistics_by_tokens(record)
    spread, tails = figure.axes
    assert np.allclose(spread.lines[1].get_ydata(), [10 * entry["sd"] for entry in row(7)["by_tokens"]])
    assert np.allclose(tails.lines[0].get_ydata(), [entry["excess_kurtosis"] for entry in row(0)["by_tokens"]])
    drawn(figure)


def test_every_choice_is_drawn_with_its_own_change(record, drawn):
    figure = figures.choices(record)
    assert [line.get_label() for line in figure.axes[0].lines[1:]] == [choice[0] for choice in figures.CHOICES.values()]
    heights = {line.get_ydata()[0] for line in figure.axes[0].lines[1:]}
    assert heights == {0.011, 0.012, 0.013, 0.014, 0.015, 0.016}
    drawn(figure)


def test_shrinkage_marks_what_oas_proposes(record, drawn):
    figure = figures.shrinkage(record, [7])
    curve, star = figure.axes[0].lines[:2]
    assert list(curve.get_ydata()) == [0.05, 0.04, 0.06] and list(star.get_xydata()[0]) == [0.01, 0.03]
    drawn(figure)


def test_histograms_lie_under_students_density(drawn):
    draws = {20: np.random.default_rng(0).standard_t(6, size=400_000) / np.sqrt(6)}
    figure = figures.errors_of_draws(draws, 16)
    axis = figure.axes[0]
    heights = np.array([patch.get_height() for patch in axis.patches])
    middles = np.array([patch.get_x() + patch.get_width() / 2 for patch in axis.patches])
    expected = np.interp(middles, *axis.lines[0].get_data())
    assert np.abs(heights - expected).max() < 0.05
    drawn(figure)
