"""What is read off a record of nulls: against a small record made by hand."""

from pathlib import Path

import numpy as np
import pytest

from superposition.records import Record
from superposition.stats import shape
from superposition.studies import confounds, nulls

LAYERS, M = 5, 40
WITHOUT = ["no position 0, no shared last token", "no position 0, one a last token"]
ONCE = "first 128, no position 0"


@pytest.fixture
def record() -> Record:
    rng = np.random.default_rng(0)
    data = {
        "layers": [0, 2, 4, 6, 8],
        "d_m": [16] * LAYERS,
        "facts": {"count": M},
        "matrices": ["P", "cosine_whitened"],
        "statistics": list(shape.STATISTICS),
        "nulls": ["shuffled", "tokens of text"],
        "without": [*WITHOUT, ONCE, "no position 0"],
        "sizes": [32, 128],
        "readings": ["table", "subject alone"],
        "categories": {"apart": 3, "same relation": 4},
        "means": ["cosine", "p"],
        "facts_left": {"no position 0": 37, "one fact a subject": 38, "one fact a last token": 30, ONCE: 20},
        "pairs_left": {"no shared last token": 770, "no shared word": 775},
        "token_positions": [i % 5 for i in range(M)],
    }
    kinds = (2, len(shape.STATISTICS))
    arrays = {
        "table": rng.uniform(1, 2, size=(LAYERS, *kinds)),
        "nulls": rng.uniform(1, 3, size=(LAYERS, 2, 3, *kinds)),
        "without": rng.uniform(1, 2, size=(LAYERS, 4, *kinds)),
        "pairs": rng.random((LAYERS, 2, 2, 2, 3)),
        "norm": rng.uniform(1, 2, size=(LAYERS, M)),
        "lists": np.sort(rng.uniform(0, 3, size=(3, LAYERS, 2, *kinds)), axis=0),
    }
    record = Record("made", data, Path())
    vars(record)["arrays"] = arrays
    return record


@pytest.mark.parametrize(("null", "beside"), [("shuffled", None), ("tokens of text", 0)])
def test_a_null_model_is_compared_with_facts_that_were_drawn_as_it_was(record, null, beside):
    arrays, n = record.arrays, record["nulls"].index(null)
    facts = arrays["table"] if beside is None else arrays["without"][:, beside]
    for label, (statistic, matrix) in nulls.COMPARED.items():
        where = record["matrices"].index(matrix), record["statistics"].index(statistic)
        expected = [arrays["nulls"][row, n, :, *where].mean() / facts[row, *where] for row in range(LAYERS)]
        assert nulls.ratio(record, null, statistic, matrix) == pytest.approx(expected)
        found = nulls.compared(record, null)[label]
        assert found["layers"] == sum(x >= 1 for x in expected)
        ends = sorted(expected)
        assert (found["median"], found["least"], found["most"]) == pytest.approx((ends[2], ends[0], ends[-1]))


def test_what_taking_confounds_out_does(record):
    column = record["statistics"].index("l_kurtosis")
    record.arrays["table"][:, 0, column] = [4, 2, 2, 2, 1]
    record.arrays["without"][:, 1, 0, column] = [1, 2, 1.8, 2.8, 1.1]
    expected = {"first": 4, "first_clean": 1, "least_clean": 1, "change": 0.75, "typical": 0.1}
    assert nulls.cleaned(record, "l_kurtosis") == pytest.approx(expected)
    assert nulls.cleaned(record, "l_kurtosis", ONCE)["first_clean"] == record.arrays["without"][0, 2, 0, column]


def test_the_typical_cosine_is_that_of_the_median_layer(record):
    cosines = sorted(record.arrays["pairs"][:, 1, 0, 0, 0])
    assert nulls.typical(record, "subject alone", "apart") == cosines[2]


def test_uncertainty_is_half_an_interval_in_the_median_layer(record):
    column = record["statistics"].index("spread")
    record.arrays["table"][:, 0, column] = [-2, 1, 1, 1, 1]
    record.arrays["lists"][0, :, 1, 0, column] = 0
    record.arrays["lists"][2, :, 1, 0, column] = [2, 0.2, 0.4, 8, 0.6]
    assert nulls.uncertainty(record, "spread", 128) == pytest.approx(0.3)  # of 0.5, 0.1, 0.2, 4 and 0.3


def test_lengths_alone_make_a_tail(record):
    inside = np.array(record["token_positions"]) > 0
    tails = [3 * confounds.tail_factor(norms[inside]) - 3 for norms in record.arrays["norm"]]
    kurtosis = nulls.curve(record, "excess_kurtosis", "no position 0")
    assert nulls.tails_of_lengths(record) == pytest.approx(np.median(tails / kurtosis))
    record.arrays["norm"][:, inside] = 2.0
    assert nulls.tails_of_lengths(record) == 0


def test_each_fact_twice_is_the_list_with_its_row_and_column_again():
    rng = np.random.default_rng(3)
    P = rng.normal(0, 0.1, (9, 9))
    np.fill_diagonal(P, 1)
    found = confounds.kurtosis_with_each_twice(P)
    for i in range(9):
        doubled = np.append(np.arange(9), i)
        entries = shape.off_diagonal(P[np.ix_(doubled, doubled)])
        assert found[i] == pytest.approx(shape.statistics(entries, 9)["excess_kurtosis"])


def test_a_fact_that_comes_twice_adds_two_entries_of_one():
    rng, m = np.random.default_rng(2), 400
    entries = rng.normal(0, 0.1, size=m * (m - 1))
    many = np.append(entries[:-2], [1, 1])
    before, after = (((x**4).mean() / (x**2).mean() ** 2 - 3) for x in (entries, many))
    expected = confounds.kurtosis_with_one_twice(before, np.sqrt((entries**2).mean()), m)
    assert expected == pytest.approx(after, rel=1e-3) and after > 0.05 + before


def test_confounded_facts_and_pairs_are_those_that_are_not_left(record):
    assert list(confounds.counts(record).values()) == [3, 2, 10, 10, 5]
