"""Numbers that compare models, against small measurements made by hand."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from superposition.linear import overlap
from superposition.records import Record
from superposition.stats import shape
from superposition.studies import nulls, scaling


def measurement(positions, subjects, tokens, layers=(0,), d_m=5, seed=0):
    data = {"token_positions": positions, "subjects": subjects, "token_ids": tokens, "layers": list(layers)}
    data |= {"facts": {"count": len(subjects)}, "statistics": [{"d_m": d_m + n} for n in range(len(layers))]}
    record = Record("made", data, Path())
    rng = np.random.default_rng(seed)
    kept = {n: overlap.measure(rng.normal(size=(d_m, len(subjects))), np.eye(d_m)) for n in layers}
    vars(record)["overlaps"] = kept.__getitem__
    return record


def test_facts_are_clean_in_every_model_of_the_same_list():
    one = measurement([0, 1, 1, 1, 1], list("abcde"), [1, 2, 3, 3, 4])  # a at position 0, d shares c's token
    two = measurement([1, 1, 1, 1, 1], list("abcde"), [1, 2, 3, 4, 2])  # e shares b's token
    other = measurement([1, 1, 1], list("xyx"), [1, 2, 3])  # x comes twice
    assert scaling.clean_in_every([one, two, other]) == [[1, 2], [1, 2], [0, 1]]
    assert scaling.clean_in_every([one]) == [[1, 2, 4]]


def test_layers_by_depth_and_inputs_of_all():
    record = measurement([1] * 3, list("abc"), [1, 2, 3], layers=(2, 5, 7, 11), d_m=5)
    assert [scaling.layer_at(record, depth) for depth in (0, 0.3, 0.7, 1)] == [2, 5, 7, 11]


def test_the_columns_are_those_of_the_statistics():
    products = np.cov(np.random.default_rng(1).normal(size=(12, 30)))
    values = nulls.of_products(products, 9)
    P, cosine = overlap.from_products(products), overlap.cosines(products)
    of_p = shape.statistics(shape.off_diagonal(P), 9)
    assert values[scaling.KURTOSIS] == of_p["excess_kurtosis"] and values[scaling.SPREAD] == of_p["spread"]
    tails = shape.statistics(cosine[np.triu_indices(12, 1)], 9)["l_kurtosis"]
    assert values[scaling.TAILS] == pytest.approx(tails)


def test_a_mirror_image_has_a_rank_correlation_of_minus_one():
    values = np.zeros((4, 2, len(shape.STATISTICS)))
    values[:, *scaling.SPREAD], values[:, *scaling.KURTOSIS] = [1, 2, 3, 4], [100, 9, 8, 1]
    assert scaling.mirrored(values) == pytest.approx(-1)
    values[:, *scaling.KURTOSIS] = [1, 9, 8, 100]
    assert scaling.mirrored(values) == pytest.approx(0.8)


def test_the_strongest_pair_is_sought_among_the_facts_given():
    P = np.array([[1, 0.2, 9], [-0.5, 1, 0.1], [3, 0.3, 1]])
    record = Record("toy", {"layers": [0]}, Path())
    vars(record)["overlaps"] = lambda layer: SimpleNamespace(P=P)
    assert scaling.strongest(record, [0, 1, 2]) == [9]
    assert scaling.strongest(record, [0, 1]) == [0.2] and scaling.strongest(record, [1, 2]) == [0.3]


def test_at_a_depth_two_models_draw_the_same_facts():
    record = measurement([1] * 25, list("abcdefghijklmnopqrstuvwxy"), list(range(25)), layers=(0, 1), d_m=6)
    facts = [*range(1, 25, 2), 24, 0]
    sample = scaling.at_depth(record, facts, 1, resamples=5)
    products = scaling.products_of(record, 1)[np.ix_(facts, facts)]
    np.testing.assert_allclose(sample.value, nulls.of_products(products, 7))
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(sample.drawn, nulls.resampled(products, 7, 5, rng))
    same = scaling.difference(sample, scaling.at_depth(record, facts, 1, resamples=5), scaling.KURTOSIS)
    assert same == (0, 0, 0)


def test_the_kurtosis_at_a_depth_is_that_of_the_sample_with_more_draws():
    record = measurement([1] * 25, list("abcdefghijklmnopqrstuvwxy"), list(range(25)), layers=(0, 1), d_m=6)
    facts = list(range(20))
    value, low, high = scaling.kurtosis_at(record, facts, 1)
    sample = scaling.at_depth(record, facts, 1, resamples=500)
    assert value == pytest.approx(scaling.estimate(sample, scaling.KURTOSIS).value)
    drawn = sample.drawn[:, *scaling.KURTOSIS]
    assert 0.01 < np.mean(drawn < low) < 0.05 and 0.01 < np.mean(drawn > high) < 0.05
    assert scaling.kurtosis_at(record, facts, 0).value != value


def test_a_rise_is_that_of_the_same_facts_in_both():
    record = measurement([1] * 25, list("abcdefghijklmnopqrstuvwxy"), list(range(25)), layers=(0, 1), d_m=6)
    facts, others = list(range(20)), list(range(5, 25))
    assert scaling.kurtosis_rise((record, facts), (record, facts), 1) == pytest.approx((0, 0, 0), abs=1e-9)
    rise = scaling.kurtosis_rise((record, facts), (record, others), 1)
    back = scaling.kurtosis_rise((record, others), (record, facts), 1)
    at = scaling.kurtosis_at(record, others, 1).value - scaling.kurtosis_at(record, facts, 1).value
    assert rise.value == pytest.approx(at) and rise.low < rise.value < rise.high
    assert rise == pytest.approx((-back.value, -back.high, -back.low))


def test_estimates_are_percentiles_and_differences_pair_the_samples():
    value, drawn = np.zeros((2, 6)), np.zeros((41, 2, 6))
    value[scaling.TAILS], drawn[:, *scaling.TAILS] = 7, np.arange(41)[::-1]
    narrow = scaling.Resampled(value, drawn)
    assert scaling.estimate(narrow, scaling.TAILS) == pytest.approx((7, 1, 39))
    wide = scaling.Resampled(value + 1, drawn + 2)
    assert scaling.difference(narrow, wide, scaling.TAILS) == pytest.approx((1, 2, 2))
    assert scaling.difference(wide, narrow, scaling.TAILS) == pytest.approx((-1, -2, -2))


def test_random_weights_are_a_mean_over_draws():
    shape_ = (2, 3, 2, 2, 2)  # draws, layers, lists, matrices, statistics
    drawn = np.arange(np.prod(shape_), dtype=float).reshape(shape_)
    data = {"lists": {"all": 9, "clean": 5}, "matrices": ["P", "cosine"], "statistics": ["mean", "spread"]}
    record = Record("control", data, Path())
    vars(record)["arrays"] = {"trained": drawn[0], "untrained": drawn}
    of = "clean", "spread", "cosine"
    assert scaling.untrained_or_trained(record, "trained", *of).tolist() == [7, 15, 23]
    assert scaling.untrained_or_trained(record, "untrained", *of).tolist() == [19, 27, 35]
    assert scaling.untrained_or_trained(record, "trained", "all", "mean").tolist() == [0, 8, 16]
