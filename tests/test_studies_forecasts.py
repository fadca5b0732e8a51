"""What is read off the records of forecasts, causes and cures: small records made by hand, and closed forms."""

from pathlib import Path

import numpy as np
import pytest

from superposition.errors import UserError
from superposition.records import Record
from superposition.stats.intervals import Estimate
from superposition.studies import forecasts


def small(arrays, looks=(2, 5), **run) -> Record:
    runs = [{"model": "toy", "layer": 1, **run}]
    record = Record("small", {"runs": runs, "looks": list(looks)}, Path())
    vars(record)["arrays"] = {f"toy 1 {name}": np.array(array) for name, array in arrays.items()}
    record.arrays["toy 12 fall"] = np.array([9.0])  # of another layer
    return record


def test_a_runs_arrays_are_its_own():
    run = forecasts.Run(small({"fall": [1.0], "kept": [True]}))
    assert set(run.arrays) == {"fall", "kept"} and run.arrays["fall"] == 1.0
    assert (run.model, run.layer) == ("toy", 1)


def test_gone():
    assert forecasts.gone(Estimate(0.25, 0.125, 0.5)) == Estimate(0.75, 0.5, 0.875)


def test_a_ratio_of_sums_and_its_interval():
    rng = np.random.default_rng(1)
    below = rng.random(30)
    exact = forecasts.ratio_of_sums(3 * below, below, seed=17)
    assert exact == pytest.approx((3, 3, 3))
    above = rng.random(30)
    ratio = forecasts.ratio_of_sums(above, below, seed=17)
    draws = np.random.default_rng(17).integers(30, size=(2000, 30))
    drawn = [sum(above[row]) / sum(below[row]) for row in draws]
    assert ratio == pytest.approx((sum(above) / sum(below), *np.quantile(drawn, [0.025, 0.975])))
    assert forecasts.ratio_of_sums(above, below, seed=18).low != ratio.low


def test_a_ratio_among_some_facts_never_sees_the_others():
    above, below = np.array([2.0, 100.0, 2.0, 100.0]), np.array([1.0, 1.0, 1.0, 0.0])
    among = np.array([True, False, True, False])
    assert forecasts.ratio_of_sums(above, below, seed=1, among=among) == Estimate(2, 2, 2)


# Forecasts


def lived() -> forecasts.Forecasts:
    arrays = {
        "fall": np.tile([[0, 0, 0, 0.0], [9, 9, 9, 9], [1, -3, 4, 2.0]], 8),  # 32 facts
        "kept": np.tile([[True] * 4, [False] * 4, [True, True, False, True]], 8),
        "forecast 5 drift, all": np.tile([0.5, -1.5, 2.0, 1.0], 8),
        "forecast 2 drift, all": np.full(32, 9.0),
        "forecast 5 margin left": np.tile([-0.5, -1.5, 1.0, 0.5], 8),
        "forecast 5 known residuals: drift, all": np.tile([1.0, -2.75, 4.0, 2.125], 8),
        "statistics": np.arange(3 * 3 * 2 * 3).reshape(3, 3, 2, 3),
    }
    return forecasts.Forecasts(small(arrays, looks=(2, 3, 5), forecasts=["a", "b"]))


def test_the_damage_of_a_look():
    assert lived().damage() == forecasts.Damage(fall=1, gained=0.25, loss=7 / 4, worst=4, lost=0.25)
    assert lived().damage(0) == forecasts.Damage(0, 0, 0, 0, 0)


def test_a_statistic_by_look_measure_and_forecast():
    run = lived()
    assert run.statistic("a") == Estimate(36, 37, 38)  # the last look
    assert run.statistic("b", look=0) == Estimate(3, 4, 5)
    assert run.statistic("b", "separations") == Estimate(51, 52, 53)
    for name, measure in (("c", "ranks"), ("a", "ranking")):
        with pytest.raises(UserError, match="There is no"):
            run.statistic(name, measure)


def test_a_forecast_takes_what_it_needs_once_or_for_each_edit():
    costs = {"keys": 1, "pass": 10, "slope": 100, "targets": 1000, "dry run": 10_000}
    run = forecasts.Forecasts(small({}, looks=(2, 5), costs=costs))
    seconds = {name: run.seconds(name) for name in forecasts.NEEDS}
    assert seconds["p over margin, from the subject on"] == 11 and seconds["first order, all"] == 5101
    assert seconds["known residuals: margin left"] == 50_011


def test_a_dose_is_a_share_of_each_fifth():
    rng = np.random.default_rng(2)
    size, kept = rng.random(50), rng.random(50) < 0.6
    run = forecasts.Forecasts(small({"forecast 5 p": size, "kept": np.stack([~kept, kept])}))
    order = sorted(range(50), key=lambda j: size[j])
    for part, found in enumerate(run.dose("p")):
        tenth = order[10 * part : 10 * part + 10]
        assert found["share"] == pytest.approx(np.mean([not kept[j] for j in tenth])) and found["n"] == 10


def test_the_theorems_error_who_is_at_risk_and_what_the_sequence_cost():
    run = lived()
    assert run.theorem_error() == 0.25
    assert run.forecast("margin left")[run.at_risk()].tolist() == [1.0] * 8 + [0.5] * 2
    assert run.cost_of_sequence() == pytest.approx((2, 2, 2))
    run.arrays["fall"] = np.random.default_rng(0).normal(size=(3, 32))
    losses = (np.maximum(falls, 0) for falls in (run.fall(), run.forecast("drift, all")))
    assert run.cost_of_sequence() == forecasts.ratio_of_sums(*losses, seed=17)


def test_runs_are_named_by_model_and_layer():
    assert list(forecasts.runs(small({}))) == ["toy, layer 1"]


# Causes and cures

NAMES = ["as it is", "scaled: 0.5", "scaled: 2.0", "drawn 0", "drawn 1", "drawn 2"]
COLUMNS = ["norm", "loss", "crowding", "kept", "held", "edits", "size", "p2", "R"]


def conditions(**more) -> forecasts.Conditions:
    base = np.tile([1.0, -5.0, 2.0, 1.0], 8)
    falls = base * np.array([1, 0.25, 4, 2, 3, 4])[:, None]
    table = [
        [10, 1.0, 5, 0.5, 1.0, 4, 2, 1, 0.4],
        [5, 0.25, 5, 0.75, 1.0, 4, 1, 1, 0.2],
        [20, 4.0, 5, 0.25, 1.0, 4, 4, 1, 0.8],
        [10, 2.0, 1, 0.5, 0.5, 2, 2, 2, 0.1],
        [20, 3.0, 2, 0.25, 0.75, 1, 4, 1, 0.2],
        [30, 4.0, 3, 0.0, 1.0, 4, 6, 9, 0.3],
    ]
    return forecasts.Conditions(small({"table": table, "falls": falls}, arms=NAMES, columns=COLUMNS), **more)


def test_conditions_by_name_prefix_and_column():
    run = conditions()
    assert run["drawn 1"] == dict(zip(COLUMNS, [20, 3, 2, 0.25, 0.75, 1, 4, 1, 0.2], strict=True))
    assert run.starting("drawn") == ["drawn 0", "drawn 1", "drawn 2"]
    assert run.column("crowding", ["drawn 2", "drawn 0"]) == [3, 1]
    assert run.relative("norm", "drawn 2") == 3 and run.relative("norm", "drawn 2", of="drawn 1") == 1.5


def test_gains_are_no_loss_and_conditions_are_averaged():
    run = conditions()
    assert run.loss("drawn 0").tolist() == [2, 0, 4, 2] * 8
    assert run.loss("drawn 0", "drawn 2").tolist() == [3, 0, 6, 3] * 8
    with pytest.raises(UserError, match="no condition 'drawn 9': choose among as it is"):
        run.loss("as it is", "drawn 9")


def test_what_is_left_of_the_loss():
    run = conditions()
    assert run.left("drawn 0", "drawn 1") == pytest.approx((2.5, 2.5, 2.5))
    assert run.left("drawn 0", of="scaled: 2.0") == pytest.approx((0.5, 0.5, 0.5))


def test_the_seed_of_the_interval_is_that_of_the_run_unless_another_is_named():
    run = conditions(seed=18)
    run.losses = run.losses * np.random.default_rng(0).random(run.losses.shape)
    base, drawn = run.losses[0], run.losses[3]
    assert run.left("drawn 0") == forecasts.ratio_of_sums(drawn, base, seed=18)
    assert run.left("drawn 0", seed=19) == forecasts.ratio_of_sums(drawn, base, seed=19)
    some = np.arange(32) % 4 != 1
    assert run.left("drawn 0", among=some) == forecasts.ratio_of_sums(drawn, base, seed=18, among=some)


def test_rank_of_the_loss_with_a_cause():
    run = conditions()
    assert run.rank(run.starting("drawn")).value == pytest.approx(1)
    assert run.rank(run.starting("drawn"), "kept").value == pytest.approx(-1)


def test_loss_by_the_norm_and_its_power():
    run = conditions()
    assert run.by_norm() == ([0.5, 1, 2], [0.25, 1, 4])  # by rising norm
    assert run.norm_exponent() == pytest.approx((2, 2, 2))  # every fact's loss is the norm's square


def test_a_cure_and_the_mean_of_several_draws_of_it():
    assert conditions().cure("drawn 1") == forecasts.Cure(
        left=Estimate(*[pytest.approx(3)] * 3), lost=0.75, held=0.75, norm=2, size=2, overlap=2, edits=1, R=0.2
    )
    mean = conditions().cure("drawn 0", "drawn 1", "drawn 2")
    assert mean.left == pytest.approx((3, 3, 3))
    assert (mean.lost, mean.held, mean.norm, mean.size) == (0.75, 0.75, 2, 2)
    assert mean.overlap == pytest.approx(((4 + 4 + 9) / 3) ** 0.5) and mean.R == pytest.approx(0.2)


def test_protection_is_asked_of_the_named_or_the_others_in_a_wording():
    arms = {name: {"perplexity": 20.0} for name in ("nothing", "half, prompt")} | {"all, prompt": {"perplexity": 22.0}}
    run = {"model": "toy", "layer": 1, "arms": arms, "perplexity": 10.0}
    record = Record("small", {"runs": [run], "inside": 2}, Path())
    falls = {"nothing": [2.0, 2, 2, -1], "half, prompt": [0.5, 4, 1, 9], "all, prompt": [1, 1, 1, 1]}
    vars(record)["arrays"] = {
        "toy 1/half": np.array([True, False, True, False]),
        "toy 1/said/0": np.array([True, True, True, False]),
        "toy 1/said/3": np.array([False, False, True, False]),
        **{f"toy 1/{arm}/fall/{wording}": np.array(fall) for arm, fall in falls.items() for wording in (0, 3)},
    }
    wordings = forecasts.Wordings(record)
    assert wordings.left("half, prompt", 0).value == 1.5 / 4
    assert wordings.left("half, prompt", 0, unnamed=True) == Estimate(2, 2, 2)
    assert wordings.left("half, prompt", 3) == Estimate(0.5, 0.5, 0.5)
    assert wordings.left("all, prompt", 0).value == 0.5 and wordings.dearer("all, prompt") == 2.2
    with pytest.raises(UserError, match="leaves no fact"):
        wordings.left("all, prompt", 0, unnamed=True)
    with pytest.raises(UserError, match="no arm 'some'"):
        wordings.left("some", 0)
