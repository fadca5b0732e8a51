"""What is read off a record of convergence: against a record made by hand, whose errors follow the theorem exactly."""

from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from superposition.linear.shrinkage import sampling_error
from superposition.records import Record
from superposition.studies import measurement

D_M = 10
TOKENS = (15, 20, 40, 80, 160, 320)
KAPPA, SD = (4.0, 9.0), (0.2, 0.05)


def row(layer: int) -> dict:
    """A layer whose error is √κ times that of Gaussian keys, except with texts too short or too long to be counted."""
    by_tokens = []
    for tokens in TOKENS:
        error = sampling_error(tokens, D_M, TOKENS[-1]) * KAPPA[layer] ** 0.5
        error *= 100 if tokens < 2 * D_M or tokens > TOKENS[-1] / 2 else 1
        kurtosis = {15: 7.0, 20: 5.0, 40: 3.0, 80: 2.0, 160: 2.5, 320: 4.0}[tokens] + layer
        by_tokens.append({
            "tokens": tokens, "rms_scaled": error, "sd": SD[layer], "excess_kurtosis": kurtosis,
            "mean": 32 / tokens + layer,
        })  # fmt: skip
    return {
        "layer": 3 * layer,
        "by_tokens": by_tokens,
        "halves": {"tokens": [150, 170], "rms": 0.5 + layer},
        "bfloat16": {"text_and_keys": {"rms": 0.25 + layer}},
        "fourth_moments": {"float32_sums": {"rms": 1e-6}, "factor": 1.5 + layer},
        "first_position": {
            "share_of_trace": 0.3 + 0.2 * layer,
            "share_of_tokens": 0.01,
            "condition_with": 5e6 * (1 + layer),
            "condition_without": 300.0,
            "without": {"rms": 0.125, "largest": 0.75},
        },
        "centred": {"mean": 0.2},
        "centred_keys_too": {"mean": 0.3},
        "shrinkage": [{"rms": [0.0, 0.0], "rms_oas": 0.0}, {"rms": [0.4, 0.1, 0.2], "rms_oas": 0.15 + layer}],
    }


@pytest.fixture(scope="module")
def record() -> Record:
    return Record("made", {"d_m": D_M, "rows": [row(0), row(1)]}, Path())


def test_the_factor_is_that_of_the_squared_error_over_the_texts_that_count(record):
    assert measurement.factors(record) == pytest.approx(KAPPA)


def test_error_and_tokens_undo_each_other(record):
    assert measurement.spreads(record).tolist() == list(SD)
    for share in (0.1, 0.5):
        needed = measurement.tokens_needed(record, share)
        for layer, tokens in enumerate(needed):
            assert measurement.error_share(record, tokens)[layer] == pytest.approx(share)


def test_halves_of_a_text_tell_its_error(record):
    """Two halves of n tokens, each with the error e: their difference is √2 e, and twice the spare tokens halve e²."""
    n = 160
    for layer, of_half in enumerate(measurement.error_share(record, n)):
        assert of_half == pytest.approx((0.5 + layer) / 2**0.5 / SD[layer])
    assert measurement.error_share(record, D_M + 2 * (n - D_M)) == pytest.approx(
        measurement.error_share(record, n) / 2**0.5
    )


def test_the_errors_of_a_model_by_layer(record):
    large = Record("large", {"text": {"tokens": 210}}, Path())
    shares, needed = measurement.error_share(record, 210), measurement.tokens_needed(record) / D_M
    named = Record("other", record.data | {"layers": [0, 3], "model": {"name": "smollm2"}}, Path())
    assert measurement.errors_by_layer(named, large) == [
        ("SmolLM2", 0, pytest.approx(KAPPA[0]), 1.5, shares[0], needed[0]),
        ("SmolLM2", 3, pytest.approx(KAPPA[1]), 2.5, shares[1], needed[1]),
    ]


def test_random_keys_seem_wider_by_the_error_of_the_worst_layer(record):
    rng = np.random.default_rng(0)
    tokens = 100
    p = rng.normal(size=400_000) * np.sqrt(1 / D_M + max(KAPPA) / (tokens - D_M))
    share = np.mean(np.abs(p) > 3 / D_M**0.5)
    assert measurement.beyond_with_error(record, tokens / D_M) == pytest.approx(share, rel=0.03)
    assert measurement.beyond_with_error(record, 1e8) == pytest.approx(2 * scipy.stats.norm.sf(3), rel=1e-3)


def test_a_length_is_the_nearest_recorded_and_a_layer_goes_by_its_number(record):
    assert [measurement.at_length(record, 0, n)["tokens"] for n in (1, 31, 29, 200, 9999)] == [15, 40, 20, 160, 320]
    assert measurement.at_length(record, 3, 80)["excess_kurtosis"] == 3
    assert measurement.lowest_kurtosis(record, 3)["tokens"] == 80
    with pytest.raises(ValueError):
        measurement.at_length(record, 1, 80)  # the second row is layer 3


def test_every_choice_is_read_where_the_record_has_it(record):
    assert measurement.moved(record, "halves").tolist() == [0.5, 1.5]
    assert measurement.moved(record, "bfloat16").tolist() == [0.25, 1.25]
    assert measurement.moved(record, "float32_sums").tolist() == [1e-6, 1e-6]
    assert measurement.moved(record, "first_position").tolist() == [0.125, 0.125]


def test_the_first_positions_are_told_of_the_layer_in_which_they_weigh_most(record):
    assert measurement.first_positions(record) == {
        "layer": 3, "share": 0.5, "tokens": 0.01, "with": 10.0, "without": 300.0, "largest": 0.75,
    }  # fmt: skip


def test_means_and_shrinkage_are_rows_a_layer(record):
    assert measurement.centred_means(record) == pytest.approx(np.array([[0.1, 0.2, 0.3], [1.1, 0.2, 0.3]]))
    assert measurement.shrinkage_errors(record, -1) == pytest.approx(np.array([[0.4, 0.1, 0.15], [0.4, 0.1, 1.15]]))


def test_keys_at_position_0_are_compared_with_the_median_of_the_others():
    norms = np.array([[2.0, 10.0, 20.0, 90.0, 5.0]])
    made = Record("made", {"layers": [7], "token_positions": [0, 1, 2, 3, 0]}, Path())
    whole = {name: np.zeros((1, 5, 5)) for name in ("P", "Q", "cosine_whitened", "cosine_raw")}
    vars(made)["arrays"] = whole | {"norm_whitened": norms}
    assert measurement.shorter(made, 7) == 20 / 3.5
    assert measurement.shorter(made, 7, facts=3) == 15 / 2
