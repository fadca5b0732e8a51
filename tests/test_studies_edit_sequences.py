"""What is read off a record of edit sequences: closed forms, and small records made by hand."""

import numpy as np
import pytest
import scipy.stats

from superposition import records
from superposition.errors import UserError
from superposition.records import Record
from superposition.stats import intervals
from superposition.stats.intervals import Estimate
from superposition.studies import edit_sequences


def result(edits, **more):
    return {"edits": edits, **more}


def small(sequences, subjects=(), **arrays) -> Record:
    record = Record("small", {"lives": sequences, "subjects": subjects}, None)
    vars(record)["arrays"] = {name.replace("__", "/"): np.array(array) for name, array in arrays.items()}
    return record


def test_sequences_with_interference_and_the_whole_ones():
    sequences = {"a": {"edits": 3}, "b": {"edits": 2}, "ft": {"edits": 3}}
    record = small(sequences, "xyz", a__step=[1], b__step=[1])
    assert edit_sequences.with_interference(record) == ["a", "b"]
    assert edit_sequences.whole(record) == ["a"]


def test_a_checkpoint_is_the_last_or_the_one_asked_for():
    record = small({"a": {"results": [result(1), result(50, x=1), result(200, x=2)]}})
    assert edit_sequences.checkpoint(record, "a")["x"] == 2
    assert edit_sequences.checkpoint(record, "a", 50)["x"] == 1
    with pytest.raises(UserError, match=r"'a' was examined after \[1, 50, 200\] edits, not 7"):
        edit_sequences.checkpoint(record, "a", 7)


def test_prediction_errors_of_all_checkpoints_and_of_those_after_so_many_edits():
    sequences = {
        "a": {"results": [result(1, prediction_error=0.1), result(50, prediction_error=0.2)]},
        "ft": {"results": [result(1), result(50)]},
        "b": {"results": [result(1, prediction_error=0.3)]},
    }
    assert edit_sequences.prediction_errors(small(sequences)) == [0.1, 0.2, 0.3]
    assert edit_sequences.prediction_errors(small(sequences), edits=1) == [0.1, 0.3]


def test_change_of_untouched_facts_alone_and_fact_by_fact():
    def ends(logs):
        return {"results": [result(1, untouched_log_true=[9] * len(logs)), result(2, untouched_log_true=list(logs))]}

    before, after = np.random.default_rng(0).normal(size=(2, 30))
    record = small({"a": ends(after), "b": ends(after - 1)}, untouched_log_true=before)
    change = edit_sequences.untouched_change(record, "a")
    kept = scipy.stats.bootstrap((after - before,), np.mean, n_resamples=2000, method="percentile", rng=16)
    assert change == pytest.approx((np.mean(after - before), *kept.confidence_interval))
    # They scatter alike, so that the difference is the same for every fact and has no interval.
    assert edit_sequences.untouched_change(record, "a", "b") == pytest.approx((1, 1, 1))


@pytest.mark.parametrize(("first", "power"), [(10, 0.5), (3, 1.3)])
def test_growth_of_a_power_is_its_exponent(first, power):
    n = np.arange(1, 41)
    interference = n[:, None] ** power * np.array([3.0, 4.0])
    record = small({}, a__interference=interference, a__step=np.full(40, 2.0), a__straight=2.0 * n)
    growth = edit_sequences.growth(record, "a", first=first, resamples=20)
    assert growth.slope == pytest.approx((power,) * 3)
    assert growth.walk == pytest.approx((0.5,) * 3)  # equal steps at right angles, in whatever order
    end = 40**power * np.sqrt(12.5)
    assert growth.over_walk == pytest.approx(end / (2 * np.sqrt(40)))
    assert growth.aligned == pytest.approx(80 / end)


def test_only_the_edits_from_the_first_on_are_fitted_and_keys_and_orders_make_the_intervals():
    n = np.arange(1, 41)
    bent = np.where(n < 20, 1.0, n / 20)[:, None]
    record = small({}, a__interference=bent * [1.0, 1.0], a__step=n, a__straight=n)
    assert edit_sequences.growth(record, "a", first=20, resamples=20).slope == pytest.approx((1, 1, 1))
    spread = n[:, None] ** np.array([0.3, 0.9])
    record = small({}, a__interference=spread, a__step=n, a__straight=n)
    growth = edit_sequences.growth(record, "a")
    assert growth.slope.low == pytest.approx(0.3) and growth.slope.high == pytest.approx(0.9)
    assert 0.3 < growth.slope.value < 0.9
    assert growth.walk.low < 0.5 < growth.walk.high < growth.walk.value  # steps that rise: no shuffle does as much


def test_growth_by_naive_loops():
    rng = np.random.default_rng(0)
    norms, step = rng.uniform(0, 3, (30, 5)).cumsum(0), rng.uniform(1, 3, 30)

    def slope(course):
        return np.polyfit(np.log(range(10, 31)), np.log(course[9:]), 1)[0]

    def walk(steps):
        return slope([sum(one**2 for one in steps[:i]) ** 0.5 for i in range(1, 31)])

    def over(keys):
        return slope([np.mean([row[j] ** 2 for j in keys]) ** 0.5 for row in norms])

    rng = np.random.default_rng(16)
    by_keys = [over(keys) for keys in rng.integers(0, 5, size=(400, 5))]
    by_orders = [walk(order) for order in rng.permuted(np.tile(step, (400, 1)), axis=1)]
    growth = edit_sequences.growth(small({}, a__interference=norms, a__step=step, a__straight=step), "a")
    assert growth.slope == pytest.approx((over(range(5)), *np.percentile(by_keys, [2.5, 97.5])))
    assert growth.walk == pytest.approx((walk(step), *np.percentile(by_orders, [2.5, 97.5])))


def test_share_of_the_largest_steps():
    record = small({}, a__step=[1.0] * 19 + [9.0] + [1.0] * 20)  # of 40 steps the two largest: 81 and 1
    assert edit_sequences.largest_share(record, "a") == pytest.approx(82 / (81 + 39))
    assert edit_sequences.largest_share(record, "a", parts=2) == pytest.approx((81 + 19) / (81 + 39))
    record = small({}, a__step=[3.0, 2.0] + [1.0] * 19)  # a twentieth of 21 steps is two, rounded up
    assert edit_sequences.largest_share(record, "a") == pytest.approx((9 + 4) / (9 + 4 + 19))


def test_residuals_and_shifts():
    record = small({}, a__residual=[1, 2, 3, 50, 4, 6])
    # 4 and 6 over 1 and 2; drawn, 4 and 4 over 2 and 2 at the least
    assert edit_sequences.residual_ratio(record, "a", edits=2) == pytest.approx((10 / 3, 2, 6))
    level = edit_sequences.residual_ratio(small({}, a__residual=[3.0] * 40), "a")
    assert level == (1, 1, 1)
    logs = {"a": {"shift_norm": [2, 6], "recalled_norm": [1, 2]}, "b": {"shift_norm": [7], "recalled_norm": [7]}}
    sequences = {name: {"log": log} for name, log in (logs | {"ft": {}}).items()}
    assert edit_sequences.largest_shift(small(sequences)) == 3


def test_suffering_by_age_compares_the_outer_thirds():
    record = small({}, a__on_edits=[4.0, 4.0, 100.0, 0.0, 7.0, 2.0, 2.0])  # seven edits: thirds of two
    age = edit_sequences.by_age(record, "a")
    assert (age.first, age.last, age.ratio) == (4, 2, Estimate(2, 2, 2))
    scattered = small({}, a__on_edits=[1.0, 7.0, 0.0, 0.0, 2.0, 2.0])
    assert edit_sequences.by_age(scattered, "a").ratio == Estimate(2, 0.5, 3.5)
    norms = np.random.default_rng(0).uniform(1, 2, 18)
    first, last = np.random.default_rng(17).integers(0, 6, size=(2, 1000, 6))
    ratios = [np.mean(norms[:6][i]) / np.mean(norms[12:][j]) for i, j in zip(first, last, strict=True)]
    ratio = edit_sequences.by_age(small({}, a__on_edits=norms), "a").ratio
    assert ratio == pytest.approx((norms[:6].mean() / norms[12:].mean(), *np.percentile(ratios, [2.5, 97.5])))


def test_hard_recursive_least_squares_has_no_age():
    kept = {"rome": {}, "rls-hard": {}, "ft": {}}
    arrays = {f"{name}__{array}": [2.0, 1.0, 1.0] for name in ("rome", "rls-hard") for array in ("step", "on_edits")}
    assert list(edit_sequences.ages(small(kept, **arrays))) == ["rome"]


def test_the_books_random_walk_accounts_for_its_interference():
    record = records.load("smollm2-lifelong")
    for name in edit_sequences.with_interference(record):
        assert edit_sequences.growth(record, name, resamples=2).over_walk == pytest.approx(1, abs=0.35)


def test_untouched_facts_lost():
    kept = {"share": 0.75, "low": 0.5, "high": 0.875}
    record = small({"a": {"results": [result(1, untouched_exact={}), result(2, untouched_exact=kept)]}})
    assert edit_sequences.untouched_lost(record, "a") == Estimate(0.25, 0.125, 0.5)


# Single edits


def traced(*last_of_prompt):
    def fact(clean, shift):
        state = {"clean": clean, "corrupted": 0.1, "layers": [0, 2, 4], "restored": [[0.5, 0.4, 0.3], [0] * 3]}
        state["restored"].append(list(last_of_prompt))
        mlp = {"corrupted": shift, "restored": [[0.1, 0.2, 0.1], [0, 0, 0], [shift, shift, shift + 0.1]]}
        return {"state": state, "mlp": mlp}

    return Record("traced", {"trace": {"a": fact(0.5, 0.1), "b": fact(0.7, 0.3)}}, None)


def test_a_trace_says_where_the_fact_is_handed_over():
    found = edit_sequences.trace(traced(0.1, 0.5, 0.9))
    assert (found.clean, found.spoilt) == (pytest.approx(0.6), pytest.approx(0.1))
    assert (found.handover, found.top, found.mlp_last) == (2, 4, 4)
    with pytest.raises(UserError, match="no handover"):
        edit_sequences.trace(traced(0.1, 0.2, 0.3))


def test_paraphrases_of_the_edits_on_which_the_layer_was_not_chosen():
    edits = [{"after": {"paraphrase_exact": counts}} for counts in ([3, 3], [3, 3], [1, 3], [2, 2])]
    record = Record("single", {"layer": 6, "sweep": {"6": {"facts": 2}, "7": {"facts": 3}}, "edits": edits}, None)
    assert edit_sequences.paraphrases(record, rest=True).value == 3 / 5


def test_prompts_of_one_fact_are_drawn_together():
    before = {"near": [2, 2], "prompt": [0, 1]}
    rows = [{"before": before, "after": {"near": hits, "prompt": [1, 1]}} for hits in [[2, 2], [0, 2]] * 10]
    record = Record("single", {"edits": rows}, None)
    start = edit_sequences.answered(record, "before", "near")
    assert start.value == 1 and start.low == intervals.share([True] * 20)["low"]
    after = edit_sequences.answered(record, "after", "near")
    wilson = intervals.share([True, True, False, False] * 10)  # as if 40 facts were asked
    assert after.value == 0.5 and after.high - after.low > wilson["high"] - wilson["low"]
    more = edit_sequences.answered_more(record, "near")
    assert more == pytest.approx((-0.5, after.low - 1, after.high - 1))
    once = edit_sequences.answered(record, "after", "prompt")  # one prompt a fact
    assert once.value == 1 and once.low == intervals.share([True] * 20)["low"]
