"""Figures of several texts behind C draw the numbers of their records."""

from pathlib import Path

import numpy as np
import pytest

from superposition import figures
from superposition.records import Record
from superposition.stats import shape
from superposition.studies import texts


@pytest.fixture
def record() -> Record:
    data = {
        "model": {"name": "toy"},
        "texts": [{"source": "book"}, {"source": "wikipedia"}],
        "layers": [0, 1, 2],
        "sets": ["facts", "strangers", *texts.NULLS],
        "kinship": ["own paraphrase", "one relation", "one kind", "apart"],
        "matrices": ["P", "cosine_whitened"],
        "statistics": list(shape.STATISTICS),
    }
    rng, record = np.random.default_rng(0), Record("made", data, Path())
    vars(record)["arrays"] = {
        "statistics": rng.uniform(1, 20, (2, 3, 5, 3, 2, len(shape.STATISTICS))),
        "beyond": rng.uniform(0, 1, (2, 3, 5, 3)),
        "kinship": rng.uniform(0, 1, (2, 3, 4, 2, 3)),
    }
    return record


def lines(axis) -> dict[str, list[float]]:
    """What the labelled lines of an axis show."""
    return {line.get_label(): list(line.get_ydata()) for line in axis.lines}


def values(estimates) -> list[float]:
    return [estimate.value for estimate in estimates]


def test_each_text_has_its_line(record, drawn):
    figure = drawn(figures.under_texts([record, record]))
    shown = lines(figure.axes[4])
    assert shown["Wikipedia"] == values(texts.statistic(record, "wikipedia", "excess_kurtosis"))
    assert lines(figure.axes[0])["SmolLM2's own text"] == values(texts.statistic(record, "book", "mean"))


def test_facts_stand_beside_three_nulls(record, drawn):
    figure = drawn(figures.nulls_by_depth([record, record], "wikipedia"))
    far, kurtosis = lines(figure.axes[0]), lines(figure.axes[2])
    assert far["facts without shared tokens"] == values(texts.beyond(record, "wikipedia", "strangers"))
    assert kurtosis["any tokens"] == values(
        texts.statistic(record, "wikipedia", "excess_kurtosis", "tokens of another text")
    )


def test_pairs_stand_by_what_they_share(record, drawn):
    shown = lines(drawn(figures.kinship_by_depth([record, record])).axes[0])
    assert shown["one kind"] == values(texts.kinship(record, "book", "one kind"))
