"""The script behind the records of edits, on a tiny model: whole sequences, cut ones, and their figures."""

import importlib.util
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from superposition import editing, figures, records

SCRIPT = Path(__file__).parents[1] / "experiments" / "edits.py"


@pytest.fixture
def script(cache, model_folder, tmp_path):
    """Run the script with few edits and short searches on the tiny model; the script itself; and where it writes."""
    spec = importlib.util.spec_from_file_location("make_edits", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_edits"] = module  # its dataclasses look for it
    spec.loader.exec_module(module)
    ways = module.PLAN.ways
    plan = module.Plan(
        settings=editing.TargetSettings(steps=2, contexts=("",)),
        checkpoints=(1, 4, 6),
        edits=6,
        untouched=5,
        ways=(
            *(replace(way, edits=6 if way.edits > 60 else 4) for way in ways if not way.alone),
            module.Way("memit batch 20", "memit", 6, batch=4, alone=True),
            module.Way("ft", "ft", 6, alone=True, changes={"ft_steps": 2}),
        ),
        known=lambda model, listed: list(listed)[::3],
    )

    def go(what, **changes):
        words = [what, "--out", str(tmp_path / f"{what}.json"), "--model", str(model_folder), "--tokens", "300"]
        words += ["--layer", "1", "--layers", "0", "1", "--sweep", "2", "--count", "5", "--traced", "2"]
        return module.main(words, replace(plan, **changes))

    yield go, plan, tmp_path
    del sys.modules["make_edits"]


def test_edit_sequences(script, cache):
    go, plan, folder = script
    assert go("lifelong") == 0
    record = records.load(folder / "lifelong.json")
    assert set(record["lives"]) == {way.name for way in plan.ways}
    for name, sequence in record["lives"].items():  # the record's key
        assert sequence["edits"] == sequence["planned"] == sequence["results"][-1]["edits"]
        assert max(result.get("prediction_error", 0) for result in sequence["results"]) < 1e-3
        if sequence["method"] != "ft":
            assert sequence["closed_form_error"] < 1e-6
            assert sequence.get("protection", {"leak": 0})["leak"] < 1e-5
            norms = record.arrays[f"{name}/interference"].astype(float)
            assert norms.shape == (sequence["edits"], 5)
            assert norms[-1].mean() == pytest.approx(sequence["results"][-1]["interference"], rel=1e-2)
            step, straight = (record.arrays[f"{name}/{what}"] for what in ("step", "straight"))
            root = np.sqrt((norms**2).mean(1))
            assert step[0] == pytest.approx(straight[0], rel=1e-5) == pytest.approx(root[0], rel=1e-3)
            for sums in (root, np.sqrt(np.cumsum(step**2))):
                assert np.all(sums <= straight * (1 + 1e-3))
            np.testing.assert_allclose(
                record.arrays[f"{name}/on_edits"], record.arrays[f"{name}/on_edits_measured"], atol=1e-4
            )
    assert not {fact.split()[0] for fact in record["untouched"]} & set(record["subjects"])
    for figure in (
        figures.edit_sequences(record),
        figures.growth_on_a_layer(record, ["rome", "alphaedit"]),
        figures.suffering_by_age(record, ["rome", "memit"]),
    ):
        assert figure._repr_svg_()
    # cut in the middle, and taken up again
    shutil.rmtree(cache / "edits")
    calls = []

    def cut(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        plan.step(*arguments)

    with pytest.raises(KeyboardInterrupt):
        go("lifelong", step=cut)
    assert go("lifelong") == 0
    again = records.load(folder / "lifelong.json")
    for name in record["lives"]:
        one, other = (dict(whole["lives"][name]["results"][-1]) for whole in (record, again))
        errors = one.pop("prediction_error", 0), other.pop("prediction_error", 0)
        assert one == other and errors[0] == pytest.approx(errors[1], rel=1e-3), name


def test_single_edits(script):
    go, _, folder = script
    assert go("single") == 0
    record = records.load(folder / "single.json")
    assert len(record["edits"]) == 5 and set(record["sweep"]) == {"0", "1"} and len(record["trace"]) == 2
    for row in record["edits"]:
        assert row["drift"] > 0 and row["after"]["exact"][1] == 1
    hits = [row["after"]["exact"][0] for row in record["edits"]]
    assert record["after"]["exact"]["share"] == np.mean(hits)
    assert [row["subject"] for row in record["told"]] == [row["subject"] for row in record["edits"]]
    for figure in (figures.sweep_of_layers(record), figures.traced(record), figures.before_and_after(record)):
        assert figure._repr_svg_()
    swept = record["edits"][: record["sweep"]["0"]["facts"]]  # dashed: their neighbours before any edit
    hits, asked = (sum(row["before"]["neighbourhood_exact"][part] for row in swept) for part in (0, 1))
    dashed = figures.sweep_of_layers(record).axes[0].lines[-1].get_ydata()
    assert asked and list(dashed) == [hits / asked] * 2
