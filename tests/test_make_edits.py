"""The script behind the records of edits, on a tiny model: whole lives, cut lives, and the figures that read them."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from superposition import editing, figures, records
from superposition.lm import models, scoring

SCRIPT = Path(__file__).parents[1] / "experiments" / "edits.py"


@pytest.fixture
def script(cache, model_folder, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("make_edits", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SETTINGS", editing.TargetSettings(steps=2, contexts=("",)))
    monkeypatch.setattr(module, "CHECKPOINTS", [1, 4, 6])
    for name, size in (("EDITS", 6), ("UNTOUCHED", 5), ("SHORT", 4)):
        monkeypatch.setattr(module, name, size)
    together = [
        (name, method, order, min(count, 6 if count > 60 else 4)) for name, method, order, count in module.TOGETHER
    ]
    monkeypatch.setattr(module, "TOGETHER", tuple(together))
    monkeypatch.setattr(module, "ALONE", (("memit batch 20", "memit", 4, 6, {}), ("ft", "ft", 1, 6, {"ft_steps": 2})))
    monkeypatch.setattr(scoring, "known", lambda model, listed: list(listed)[::3])
    load = models.load
    path = str(model_folder)
    monkeypatch.setattr(module.models, "load", lambda source, **more: load(path, device="cpu", **more))

    def go(what, *options):
        words = [what, "--out", str(tmp_path / f"{what}.json"), "--model", path, "--tokens", "300", "--layer", "1"]
        words += [
            "--work",
            str(tmp_path / "work"),
            "--layers",
            "0",
            "1",
            "--sweep",
            "2",
            "--count",
            "5",
            "--traced",
            "2",
        ]
        monkeypatch.setattr("sys.argv", ["edits.py", *words, *options])
        return module.main()

    return go, module, tmp_path


def test_lives(script, monkeypatch):
    go, module, folder = script
    assert go("lifelong") == 0
    record = records.load(folder / "lifelong.json")
    assert set(record["lives"]) == {name for name, *_ in module.TOGETHER + module.ALONE}
    for name, life in record["lives"].items():
        assert life["edits"] == life["planned"] == life["results"][-1]["edits"]
        assert max(result.get("prediction_error", 0) for result in life["results"]) < 1e-3
        if life["method"] != "ft":
            assert life["closed_form_error"] < 1e-6
            assert life.get("protection", {"leak": 0})["leak"] < 1e-5
            norms = record.arrays[f"{name}/interference"].astype(float)
            assert norms.shape == (life["edits"], 5)
            assert norms[-1].mean() == pytest.approx(life["results"][-1]["interference"], rel=1e-2)
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
        figures.lives(record),
        figures.growth_on_a_layer(record, ["rome", "alphaedit"]),
        figures.suffering_by_age(record, ["rome", "memit"]),
    ):
        assert figure._repr_png_()
    # cut in the middle, and taken up again
    for path in (folder / "work").iterdir():
        path.unlink()
    side_by_side, calls = module.editing.edit_side_by_side, []

    def cut(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        side_by_side(*arguments)

    monkeypatch.setattr(module.editing, "edit_side_by_side", cut)
    with pytest.raises(KeyboardInterrupt):
        go("lifelong")
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
    assert json.loads((folder / "work" / "single.json").read_text())["told"] == record["told"]
    for figure in (figures.sweep_of_layers(record), figures.traced(record), figures.before_and_after(record)):
        assert figure._repr_png_()
