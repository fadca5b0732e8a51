"""Numbers read off the record of toy transformers, against a record made by hand."""

from pathlib import Path

import numpy as np
import pytest

from superposition.errors import UserError
from superposition.records import Record
from superposition.studies import toys


def cell(width, seed, steps=10, **more):
    return {"width": width, "seed": seed, "families": 4, "steps": steps} | more


def tails(value, spread=1.0):
    lists = {kind: {"excess_kurtosis": value + n, "spread": spread} for n, kind in enumerate(toys.LISTS)}
    return [lists, {kind: {"excess_kurtosis": -row["excess_kurtosis"]} for kind, row in lists.items()}]


def edited(looks, **more):
    return {"looks": [{"edits": n, "kept": kept} for n, kept in looks]} | more


@pytest.fixture
def record():
    cells = [
        cell(8, 1, life=edited([(1, 0.9)], exactness=3e-12), accuracy={"trained": 0.5, "held_out": 0.4}),
        cell(8, 0, life=edited([(1, 0.8), (4, 0.6)], exactness=1e-12), accuracy={"trained": 0.7, "held_out": 0.6}),
        cell(16, 0, life=edited([(4, 1.0)], exactness=2e-12), accuracy={"trained": 1.0, "held_out": 0.9}),
        cell(16, 1, life=edited([(4, 0.5)], exactness=2e-12), accuracy={"trained": 1.0, "held_out": 0.9}),
        *(cell(width, seed, steps=0) for width in (8, 16) for seed in (0, 1)),
        cell(8, 0, steps=20),
    ]
    for row in cells:
        slope = (2.0 if row["seed"] else 1.0) * (1 if row["steps"] else -1)
        row["overlaps"] = tails(slope * np.log2(row["width"]) + row["steps"], 2.0 if row["steps"] else 0.5)
    forecasts = {(8, 0): (0.5, 0.2), (8, 1): (0.4, 0.3)}
    for row in cells[:4]:
        keys, slope = forecasts.get((row["width"], row["seed"]), (0, 0))
        row["life"]["forecasts"] = [{"a": 0, "b": 0}, {"a": keys, "b": slope}]
        row["life"]["reached"] = {"town": [3, 4] if row["seed"] else [0, 0]}
        row["partners"] = {"pairs": [100, 50, 0, 4], "flips": [1, 5, 0, 3 - row["seed"]], "change": [0.1, 0.2, None, 1]}
    data = {"cells": cells, "base": {"width": 8, "families": 4, "steps": 10}, "forecast_at": [1, 4], "compared": 64}
    made = Record("toy-transformer", data | {"edges": [0, 0.05, 0.2, 0.4], "forecasts": ["a", "b"]}, Path())
    vars(made)["arrays"] = {"seed_1_edits_4": np.array([[5.0, 6], [1, 2], [3, 4]])}
    return made


def test_cells_come_by_seed_and_none_at_all_is_an_error(record):
    assert toys.known(record, 8, "trained") == [0.7, 0.5] and toys.known(record, 8, "held_out") == [0.6, 0.4]
    assert sorted(toys.exactness(record)) == [1e-12, 2e-12, 2e-12, 3e-12]
    assert toys.widths(record) == [8, 16]
    with pytest.raises(UserError, match="no cell"):
        toys.known(record, 32, "trained")


def test_what_is_left_after_edits_leaves_out_shorter_sequences(record):
    assert toys.after(record, 1, 8, "kept") == [0.8, 0.9]
    assert toys.after(record, 4, 8, "kept") == [0.6] and toys.after(record, 4, 16, "kept") == [1.0, 0.5]


def test_a_course_holds_the_steps_that_every_seed_saw(record):
    steps, kept = toys.course(record, 8, "kept")
    assert steps == [1] and kept.tolist() == [[0.8], [0.9]]
    assert toys.course(record, 16, "kept")[1].tolist() == [[1.0], [0.5]]


def test_falls_come_first_and_forecasts_by_name(record):
    fall, forecasts = toys.falls(record, 4, seed=1)
    assert fall.tolist() == [5, 6] and list(forecasts) == ["a", "b"] and forecasts["b"].tolist() == [3, 4]


def test_a_lead_is_a_difference_of_each_seed_at_the_base(record):
    assert toys.lead(record, "a", "b", 4) == pytest.approx([0.3, 0.1])
    assert toys.lead(record, "a", "b", 1).tolist() == [0, 0]


def test_a_relation_never_tried_was_never_reached(record):
    assert toys.reached(record, 16, "town") == [0, 0.75]


def test_flips_by_overlap_hold_the_lower_edge_and_not_the_upper(record):
    assert toys.flip_counts(record, 8, 0.05, 0.4).tolist() == [[5, 5], [50, 50]]
    assert toys.flip_counts(record, 8).tolist() == [[9, 8], [154, 154]]
    assert toys.flips(record, 8, 0.4).tolist() == [0.75, 0.5]
    assert toys.flips(record, 8, high=0.05).tolist() == [0.01, 0.01]
    assert toys.flips(record, 8, 0.2, 0.4).tolist() == [0, 0]  # no pairs, no flips
    assert [row["pairs"][0] for row in toys.partners(record, 16)] == [100, 100]
    near, far = toys.flips_near_and_far(record, 8)
    assert near.value == 0.625 and near.low < 0 and near.high > 1  # two seeds say little
    assert far == pytest.approx((0.01, 0.01, 0.01))


def test_the_reach_leaves_out_classes_of_few_pairs(record):
    classes, change, flips = toys.reach(record, 8)
    assert classes.tolist() == [0, 1] and change.tolist() == [[0.1, 0.2]] * 2 and flips.tolist() == [[0.01, 0.1]] * 2
    assert toys.reach(record, 8, least=4)[2].tolist() == [[0.01, 0.1, 0.75], [0.01, 0.1, 0.5]]


def test_settings_along_a_knob_go_through_the_base(record):
    record["cells"].extend(cell(8, 0, steps=steps, families=8) for steps in (10, 20))
    assert [where["steps"] for where in toys.settings_along(record, "steps")] == [0, 10, 20]
    along = [(where["families"], where["steps"]) for where in toys.settings_along(record, "families")]
    assert along == [(4, 10), (8, 20)], "each fact is seen as often"


def test_a_rise_is_a_slope_for_each_seed_trained_or_not(record):
    assert toys.setting(record) == {"families": 4, "steps": 10}
    assert toys.by_width(record, 0, "twin", "excess_kurtosis").tolist() == [[15, 16], [18, 20]]
    assert toys.per_doubling(record, "twin", 0) == pytest.approx([1, 2])
    assert toys.per_doubling(record, "shared", 1) == pytest.approx([-1, -2])
    assert toys.per_doubling(record, "distinct", 0, trained=False) == pytest.approx([-1, -2])
    assert toys.per_doubling(record, "distinct", 0, name="spread") == pytest.approx([0, 0])


def test_one_pair_among_random_keys_and_in_a_crowd(record):
    def kurtosis(variance):  # of entries of variance v and a share e of ones
        e = 1 / 2016
        return (3 * variance**2 + e) / (variance + e) ** 2 - 3

    assert toys.rise_of_random_keys(record) == pytest.approx(kurtosis(1 / 64) - kurtosis(1 / 32))
    assert toys.twin_in_a_crowd(record, 8) == pytest.approx(kurtosis(4 / 32))
    assert toys.twin_in_a_crowd(record, 16, trained=False) == pytest.approx(kurtosis(0.25 / 64))
