"""The benchmark behind the chapters on forecasts and cures, in miniature: exact where theory is, and resumable."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny

from superposition import editing
from superposition.data import facts
from superposition.editing import forecast, targets
from superposition.linear.edit import Edit
from superposition.linear.metric import Metric
from superposition.lm import keys

EDITS, POOL, CHOSEN, LOOKS = 4, 6, 3, (2, 4)


@pytest.fixture
def bench(monkeypatch, cache):
    """The script."""
    path = Path(__file__).parents[1] / "experiments" / "forecasts.py"
    spec = importlib.util.spec_from_file_location("make_forecasts", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "make_forecasts", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def case(bench):
    """Few edits, few facts, and a C drawn at random."""
    listed, sample = facts.load("book"), np.random.default_rng(0).standard_normal((40, 200))
    sizes = bench.Sizes(
        EDITS, POOL, CHOSEN, LOOKS, resamples=20, settings=editing.TargetSettings(steps=3, contexts=("",))
    )
    metric = Metric(sample @ sample.T / 200)
    return bench.Case(tiny(), 1, listed[:POOL], listed[20:32], lambda layer: metric, sizes)


def test_a_sequence_is_forecast_made_and_put_back(bench, case, monkeypatch):
    lm = case.lm
    before = lm.digest()
    row, arrays = bench.forecast_layer(case)
    assert lm.digest() == before
    falls = arrays["fall"]
    assert falls.shape == (2, 12) and np.abs(falls).max() > 0.01
    np.testing.assert_allclose(arrays["forecast 4 known residuals: drift, all"], falls[-1], atol=1e-3)
    assert row["looks"][-1]["ranks"]["known residuals: drift, all"][0] > 0.97
    for look, n in enumerate(LOOKS):  # a dry run knows who is lost
        said = arrays[f"forecast {n} known residuals: margin left"] <= 0
        assert (said == arrays["kept"][look]).all()
    first = arrays["forecast 4 first order, all"]
    by_place = arrays["forecast 4 first order, subject"] + arrays["forecast 4 first order, not the subject"]
    np.testing.assert_allclose(first, by_place, atol=1e-9)
    assert [look["edits"] for look in row["looks"]] == [2, 4]
    # what was kept is not searched for again, and gives the same
    monkeypatch.setattr(bench.targets, "search", None)
    again, arrays_again = bench.forecast_layer(case)
    for name, value in arrays.items():
        np.testing.assert_array_equal(arrays_again[name], value, err_msg=name)
    assert json.dumps(again["looks"]) == json.dumps(row["looks"])
    # what a record keeps of it
    short, kept = bench.compact(row, arrays, first=True)
    assert "ranks" in row["looks"][0] and "ranks" not in short["looks"][0]
    place, look = short["forecasts"].index("drift, all"), row["looks"][1]
    for measure, values_of in zip(bench.MEASURES, kept["statistics"][1], strict=True):
        expected = look[measure].get("drift, all", [np.nan] * 3)  # nothing to separate where nothing is lost
        np.testing.assert_allclose(values_of[place], expected, atol=1e-3)
    assert np.isnan(kept["statistics"][0, 0, short["forecasts"].index("drift, subject")]).all()
    np.testing.assert_allclose(kept["forecast 4 drift, all"], arrays["forecast 4 drift, all"], rtol=1e-3, atol=1e-6)
    M, delta = kept["directions"].astype(float), kept["residuals"].astype(float)
    np.testing.assert_allclose(delta @ M.T, arrays["residuals"][:, :2] @ arrays["directions"][:, :2].T, atol=5e-3)
    assert (kept["blamed"] == arrays["by edit"].argmax(0)).all()
    np.testing.assert_allclose(kept["blamed share"], arrays["by edit"].max(0), rtol=1e-3, atol=1e-4)
    assert "directions" not in bench.compact(row, arrays, first=False)[1]


def test_a_sequence_is_the_one_that_the_editor_makes(bench, case):
    """Also where the bound is measured by the unedited answer, which the model as it is by then does not show."""
    memory, _, _ = bench.live(
        case, lambda: forecast.ask(case.lm, forecast.read(case.lm, case.watched, 1, passes=False))
    )
    with editing.preserved(case.lm):
        made = editing.run(case.lm, case.edits, "rome", layer=1, C=case.C, settings=case.sizes.settings)
    np.testing.assert_allclose(memory.residuals, made.editor.memory.residuals, rtol=1e-4, atol=1e-6)


def test_arms_change_one_thing(bench, case):
    lm = case.lm
    before = lm.digest()
    row, arrays = bench.causes_layer(case, draws=1)
    assert lm.digest() == before
    arms = row["arms"]
    assert arrays["falls"].shape == (len(arms), 12)
    base = arms["as it is"]
    for name, arm in arms.items():
        if "same norm" in name and "overlapping" not in name:
            assert arm["norm"] == pytest.approx(base["norm"]), name
    drawn = [
        arm["norm"] for name, arm in arms.items() if name.startswith("drawn") or name.endswith("lapping, same norm")
    ]
    np.testing.assert_allclose(drawn, drawn[0])
    protected = [arms[f"protected: {weight}"]["p2"] for weight in ("0.1", "1", "10", "100")]
    assert all(a > b for a, b in zip([base["p2"], *protected], protected, strict=False))
    assert arms["scaled: 0.5"]["crowding"] == pytest.approx(base["crowding"] / 4)
    assert arms["scaled: 0.5"]["R"] == pytest.approx(base["R"] / 2)
    assert arms["rls-soft"]["size"] != pytest.approx(arms["rls-hard"]["size"])
    assert arms["only at: subject"]["crowding"] == pytest.approx(base["crowding_at_subject"])
    assert arms["least overlapping"]["p2"] <= arms["most overlapping"]["p2"]
    short, kept = bench.compact(row, arrays, first=False)
    read = dict(zip(short["columns"], kept["table"][short["arms"].index("all at once")], strict=True))
    assert np.isnan(read.pop("held"))  # not asked of this arm
    assert {name: float(value) for name, value in read.items()} == pytest.approx(arms["all at once"])


def test_any_direction_writes_the_edits_at_the_same_length(bench):
    rng = np.random.default_rng(7)
    K, metric = rng.standard_normal((9, 4)), Metric(np.diag(rng.uniform(0.1, 3, 9)))
    M = forecast.directions(K, metric)
    one, other = (bench.any_direction(M, K, rng) for _ in range(2))
    np.testing.assert_allclose(np.sum(one * K, axis=0), 1)
    np.testing.assert_allclose(np.linalg.norm(one, axis=0), np.linalg.norm(M, axis=0))
    assert np.abs(one - other).max() > 0.01


def test_cures_leave_the_model_and_say_what_holds(bench, case):
    lm = case.lm
    before = lm.digest()
    row, arrays = bench.cures_layer(case)
    assert lm.digest() == before
    arms = row["arms"]
    assert all(0 <= arm["held"] <= 1 for arm in arms.values())
    assert arms["order: safe first, by harm"]["edits"] == EDITS
    assert arms["skip: 25% by harm"]["edits"] == round(0.75 * EDITS)
    assert (
        arms["cap: 0.25"]["sum_of_lengths"] < arms["cap: 0.75"]["sum_of_lengths"] < arms["as it is"]["sum_of_lengths"]
    )
    assert arms["all in one step"]["p2"] > 0 and len(arms["spread: 2"]["norms"]) == 2
    first = [name for name in arms if name.startswith("after 2: ")]
    assert len(first) == 6 and {arms[name]["edits"] for name in first} == {2}
    assert all(cost["edit"] > 0 and cost["peak_mib"] > 0 for name, cost in row["costs"].items() if name != "protect")
    assert row["costs"]["protect"]["facts"] == 12
    short, kept = bench.compact(row, arrays, first=True)
    assert "norms" not in short["columns"]
    # the directions that are kept write the first edits, and the arm was made of them
    K = bench.alone(case, case.edits).keys[:, :2]
    np.testing.assert_allclose(np.diag(kept["protecting"].astype(float).T @ K), 1, atol=5e-3)


def test_spreading_reaches_the_stream_that_was_asked_for(bench, case):
    lm = case.lm
    edits = case.pool[:1]
    found = targets.search(lm, edits, 1, editing.TargetSettings())
    block, place = lm.block(lm.layers[1]), keys.locate(lm.tokenizer, edits[0])

    def stream():
        seen = []
        handle = block.register_forward_hook(lambda _m, _i, out: seen.append(out[0] if isinstance(out, tuple) else out))
        with torch.no_grad():
            lm.model(torch.tensor([place.token_ids]))
        handle.remove()
        return seen[0].reshape(-1, lm.layers[1].d)[place.position].double().numpy()

    wanted = stream() + found.shifts[:, 0]
    for layers in ([1], [0, 1]):
        with editing.preserved(lm):
            norms = bench.spread(case, layers, edits, found)
            np.testing.assert_allclose(stream(), wanted, atol=1e-4)
        assert list(norms) == layers and all(norm > 0 for norm in norms.values())


def test_the_spread_of_slopes_is_that_of_residuals_that_point_anywhere(bench):
    rng = np.random.default_rng(6)
    gradient, keys_, M = (rng.standard_normal(shape) for shape in ((3, 4, 8), (3, 4, 5), (5, 2)))
    spread = bench.slope_spread(gradient, forecast.shares(M, keys_))
    for i in range(2):
        delta = rng.standard_normal((8, 4000))
        delta *= 5 / np.linalg.norm(delta, axis=0)
        falls = forecast.first_order(gradient, Edit(delta, np.repeat(M[:, i : i + 1], 4000, axis=1)), keys_)
        np.testing.assert_allclose(spread[i] * 5 / np.sqrt(8), falls.std(0), rtol=0.05)
