"""The command ``forecast`` from end to end on a tiny model: what it writes, what it prints, what it refuses."""

import csv
import json

import numpy as np
import pytest
from conftest import SENTENCES, tiny

from superposition import cli, editing
from superposition.cli import forecast as cli_forecast
from superposition.data import facts
from superposition.editing import forecast, session, targets
from superposition.linear import memory, shrinkage
from superposition.linear.edit import Edit
from superposition.lm import models, moments, scoring
from superposition.lm.calibration import Calibration
from superposition.stats import intervals

EDITS = "subject,prompt,target_true,target_new\nviolin,A {} is an,instrument,sport\nfootball,{} is a,sport,city\n"
PROTECT = (
    "subject,prompt,target_true\nFrance,The capital of {} is,Paris\nTokyo,{} is a city in,Japan\n"
    "Spain,The capital of {} is,Madrid\nfootball,{} is a,sport\n"
)


@pytest.fixture
def go(tmp_path, cache, model_folder, capsys):
    """Run ``forecast`` with the tiny model; return the status, what was printed, and what was said as errors."""
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 3), encoding="utf-8")
    for name, content in (("edits.csv", EDITS), ("protect.csv", PROTECT)):
        (tmp_path / name).write_text(content, encoding="utf-8")

    def go(*flags, **changes):
        named = {"model": model_folder, "edits": tmp_path / "edits.csv", "protect": tmp_path / "protect.csv"}
        named |= {"text": text, "tokens": 300, "layer": 1, "device": "cpu", "out": tmp_path / "out"} | changes
        words = [word for name, value in named.items() for word in (f"--{name}", str(value))]
        capsys.readouterr()
        status = cli.main(["forecast", *words, *flags])
        said = capsys.readouterr()
        return status, said.out, said.err

    return go


def test_a_forecast_is_written_and_the_weights_are_let_be(go, tmp_path, model_folder):
    status, out, _ = go("--all-facts")
    assert status == 0
    data = json.loads((tmp_path / "out" / "forecast.json").read_text(encoding="utf-8"))
    with np.load(tmp_path / "out" / "by_edit.npz") as archive:
        by_edit, total = archive["by_edit"], archive["total"]
    model = models.load(model_folder, device="cpu")
    assert data["model"]["digest_before"] == data["model"]["digest_after"] == model.digest()
    assert data["provenance"]["command"].startswith("python -m superposition forecast --model")
    # the same by hand: really edit a copy, and look
    edits, protect = facts.load(tmp_path / "edits.csv"), facts.load(tmp_path / "protect.csv")[:3]
    C = moments.estimate(model, tmp_path / "text.txt", tokens=300, layers=[1]).second_moment(1)
    found = targets.search(model, edits, 1)
    reading = forecast.read(model, protect, 1)
    weight = model.layers[1].weight
    for k, v in zip(found.keys.T, found.values.T, strict=True):
        W, u = weight.double().numpy(), np.linalg.solve(C, k)
        weight.copy_(weight.new_tensor(W + np.outer(v - W @ k, u / (u @ k))))
    fall = reading.log_probability - forecast.ask(model, reading).log_probability
    np.testing.assert_allclose(total, fall, atol=1e-3 * max(1, np.abs(fall).max()))
    assert by_edit.shape == (2, 3)
    # the tables say the same
    order = [row["fact"] for row in data["facts"]]
    assert order == np.argsort(-total).tolist()
    for row in data["facts"]:
        assert row["prompt"] == protect[row["fact"]].text
        assert row["risk"] == pytest.approx(total[row["fact"]])
        assert row["edit"] == by_edit[:, row["fact"]].argmax()
        assert row["edit_share"] == pytest.approx(by_edit[:, row["fact"]].max())
    with (tmp_path / "out" / "forecast.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in data["facts"]]
    assert protect[order[0]].text in out and "Nothing was changed" in out
    assert "2 edits, 3 facts to protect" in out  # football is edited, so it is not to be protected
    assert "left out" not in out


def test_one_call_from_python_gives_what_the_command_writes(go, tmp_path, model_folder, monkeypatch):
    text, edits, protect = (tmp_path / name for name in ("text.txt", "edits.csv", "protect.csv"))
    assert go("--all-facts", "--shrinkage", "0.1", "--protect-weight", "3", "--method", "memit")[0] == 0
    plan = session.Plan("memit", 1, Calibration(text, 300, shrinkage=0.1), protect, protect_weight=3)
    model = models.load(model_folder, device="cpu")
    for name, given in {"loaded": model, "source": models.Source(model_folder, "cpu")}.items():
        outcome = session.forecast(given, edits, plan, all_facts=True)
        outcome.write(tmp_path / name)
        assert outcome.unknown == 0
        assert (tmp_path / name / "forecast.csv").read_bytes() == (tmp_path / "out" / "forecast.csv").read_bytes()
        command, called = (json.loads((tmp_path / out / "forecast.json").read_text()) for out in ("out", name))
        for data in (command, called):
            del data["provenance"], data["seconds"]
        assert called == command
    monkeypatch.setattr(scoring, "known", lambda _model, listed: listed[:1])
    without = session.forecast(model, edits, session.Plan(layer=1, calibration=plan.calibration), level="keys")
    assert without.data["protect_weight"] == 0 and without.data["sources"]["protect"] == "book"
    assert without.unknown == len(facts.load("book")) - 1
    with pytest.raises(forecast.UserError, match="There is no method 'ft'"):
        session.forecast(model, edits, session.Plan("ft"))


def test_the_command_knows_what_the_library_does():
    assert (cli_forecast.LEVELS, cli_forecast.RULES) == (forecast.LEVELS, memory.RULES)


def test_of_edits_with_targets_beforehand_the_forecast_is_exact(go, tmp_path, model_folder, capsys):
    """And of edits with targets found anew it is not."""
    assert go("--all-facts")[0] == 0
    watched = tmp_path / "watched.csv"
    watched.write_text(PROTECT.rsplit("football", 1)[0], encoding="utf-8")
    told = json.loads((tmp_path / "out" / "forecast.json").read_text(encoding="utf-8"))["facts"]
    risks = np.array([row["risk"] for row in sorted(told, key=lambda row: row["fact"])])
    words = ["--model", model_folder, "--edits", tmp_path / "edits.csv", "--watch", watched, "--layer", 1]
    words += ["--text", tmp_path / "text.txt", "--tokens", 300, "--device", "cpu"]
    errors = {}
    for way in ("beforehand", "anew"):
        assert cli.main(["edit", *map(str, words), "--targets", way, "--out", str(tmp_path / way)]) == 0
        data = json.loads((tmp_path / way / "edit.json").read_text(encoding="utf-8"))
        assert data["targets"] == way
        before, after = (np.array(data["watched"][when]["log_true"]) for when in ("before", "after"))
        errors[way] = np.abs(before - after - risks).max()
    assert errors["beforehand"] < 1e-3 * np.abs(risks).max()
    assert errors["anew"] > 10 * errors["beforehand"]


@pytest.mark.parametrize("level", ["keys", "values"])
def test_cheaper_levels(go, tmp_path, level):
    status, out, _ = go("--all-facts", level=level)
    data = json.loads((tmp_path / "out" / "forecast.json").read_text(encoding="utf-8"))
    assert status == 0 and data["level"] == level and data["unit"] == forecast.UNITS[level]
    assert all(row["risk"] > 0 and "lost" not in row for row in data["facts"])
    assert forecast.UNITS[level] in out


def test_a_forecast_for_protected_facts_is_for_a_C_that_holds_their_keys(go, tmp_path, model_folder):
    risks = {}
    for weight in (0, 10, 1e4):
        assert go("--all-facts", "--protect-weight", str(weight), level="keys")[0] == 0
        data = json.loads((tmp_path / "out" / "forecast.json").read_text(encoding="utf-8"))
        assert data["protect_weight"] == weight
        risks[weight] = {row["fact"]: row["risk"] for row in data["facts"]}
    model = models.load(model_folder, device="cpu")
    edits, protect = facts.load(tmp_path / "edits.csv"), facts.load(tmp_path / "protect.csv")[:3]
    C = moments.estimate(model, tmp_path / "text.txt", tokens=300, layers=[1]).second_moment(1)
    K = forecast.read(model, protect, 1, passes=False).everywhere()
    by_hand = forecast.run(model, edits, protect, "keys", layer=1, C=C + 10 * K @ K.T / K.shape[1])
    assert [risks[10][j] for j in range(3)] == pytest.approx(by_hand.total.tolist())
    assert all(risks[1e4][j] < risks[0][j] / 3 for j in range(3))
    assert "weight of -1" in go("--all-facts", "--protect-weight", "-1", level="keys")[2]


def test_facts_that_the_model_does_not_know_are_protected_too(go, tmp_path, monkeypatch):
    """As `edit --protect` does, which forecasts for none of them."""
    monkeypatch.setattr(scoring, "known", lambda _model, listed: listed[:1])
    spared, original = [], shrinkage.protecting
    monkeypatch.setattr(shrinkage, "protecting", lambda C, K, w: spared.append(K.shape[1]) or original(C, K, w))
    status, out, _ = go("--protect-weight", "10", level="keys")
    assert status == 0 and "2 of 3 facts to protect are left out" in out
    assert go("--protect-weight", "10", "--all-facts", level="keys")[0] == 0
    assert spared[0] == spared[1]


def test_the_layer_by_default_is_a_fifth_of_the_way_up(go, tmp_path):
    assert go("--all-facts", level="keys", layer=-3)[0] == 0
    assert json.loads((tmp_path / "out" / "forecast.json").read_text(encoding="utf-8"))["layer"] == 0


def test_what_cannot_be_forecast_is_said(go, tmp_path):
    def refused(sentence, *flags, **changes):
        status, out, err = go(*flags, **changes)
        assert status == 2 and out == "" and err.startswith("error: ") and sentence in err, err
        assert not (tmp_path / "out").exists()

    refused("have no target_new", edits=tmp_path / "protect.csv")
    refused("holds only what --edits does", protect=tmp_path / "edits.csv")
    refused("knows none of the facts")
    refused("layers 0 to 2", "--all-facts", layer=9)
    refused("is singular", "--all-facts", tokens=20)
    (tmp_path / "file").write_text("")
    status, _, err = go("--all-facts", out=tmp_path / "file")
    assert status == 2 and "is not a folder" in err


def test_run_is_what_its_parts_give():
    lm = tiny()
    edits, protect = [facts.Fact("violin", "A {} is an", "instrument", "sport")], facts_to_protect()
    C = np.diag(np.linspace(0.5, 2, lm.layers[1].d_m))
    found = targets.search(lm, edits, 1)
    before = lm.digest()
    by_level = {
        level: forecast.run(lm, edits, protect, level, layer=1, C=C, targets=found) for level in forecast.LEVELS
    }
    assert lm.digest() == before
    reading = forecast.read(lm, protect, 1)
    part = forecast.shares(forecast.directions(found.keys, C), reading.keys)
    for level in ("keys", "values"):
        np.testing.assert_allclose(by_level[level].by_edit[0], by_level[level].total, rtol=1e-5)
    after = np.arange(part.shape[2]) >= reading.subjects[:, None]  # beyond a prompt's end the keys are zero
    overlap = np.sqrt((part[0] ** 2 * after).sum(1))
    assert (np.abs(reading.margin) > forecast.LEAST_MARGIN).all()
    np.testing.assert_allclose(by_level["keys"].total, overlap / np.abs(reading.margin), rtol=1e-5)
    sizes = np.linalg.norm(found.shifts) * np.sqrt((part[0] ** 2).sum(1))
    np.testing.assert_allclose(by_level["values"].total, sizes, rtol=1e-5)
    moved = forecast.drift(Edit(found.shifts, forecast.directions(found.keys, C)), reading.keys)
    said = forecast.ask(lm, reading, moved)
    passes = by_level["passes"]
    np.testing.assert_allclose(passes.total, reading.log_probability - said.log_probability, atol=1e-5)
    np.testing.assert_array_equal(passes.lost, reading.exact & ~said.exact)
    np.testing.assert_allclose(passes.left, np.where(reading.exact, said.margin, np.inf), atol=1e-5)
    assert passes.endangered(1) == [(int(passes.total.argmax()), 0)]
    with pytest.raises(forecast.UserError, match="to be edited and to be protected"):
        forecast.run(lm, edits, [*protect, edits[0]], layer=1, C=C)
    with pytest.raises(forecast.UserError, match="There is no level 'all'"):
        forecast.run(lm, edits, protect, "all", layer=1, C=C)
    with pytest.raises(forecast.UserError, match="There is no method 'best'"):
        forecast.run(lm, edits, protect, layer=1, C=C, method="best")
    with pytest.raises(forecast.UserError, match="There are no edits"):
        forecast.run(lm, [], protect, layer=1, C=C)


def test_paraphrases_without_a_weight_are_not_taken_in_silence(go):
    status, _, err = go("--protect-paraphrases")
    assert status == 2 and "a --protect-weight above 0" in err


def test_the_table_marks_who_is_forecast_to_be_lost():
    edits, protect = (facts.Fact("violin", "A {} is an", "instrument", "sport"),), tuple(facts_to_protect())
    risk, lost = np.array([0.5, 2.0, -1.0]), np.array([False, True, False])
    told = risk[None], risk, -risk, lost, np.array([np.inf, -0.25, 1.5])  # the first is not known now
    found = forecast.Forecast("passes", 1, "rome", edits, protect, *told)
    assert [j for j, _ in found.endangered()] == [1, 2, 0]
    assert [row["margin_left"] for row in found.summary()["facts"]] == [-0.25, 1.5, None]
    lines = cli_forecast.describe(found, "tiny", intervals.share(lost)).splitlines()
    head, expected, risk, columns, *rows = lines
    assert columns.split()[:2] == ["risk", "left"]
    assert head == "tiny, layer 1, rome: 1 edits, 3 facts to protect" and risk.endswith("most 2.000")
    rest = "if the rest of what the model knows is like them, 33 % (6 to 79 %)"
    assert expected == f"Forecast lost: 1 of them; {rest}"
    assert [line.split()[:2] for line in rows] == [["2.000", "-0.25"], ["-1.000", "1.50"], ["0.500", "inf"]]
    assert [line.split()[2] for line in rows] == ["lost", "The", "The"]
    assert len({line.index(protect[j].text) for line, j in zip(rows, (1, 2, 0), strict=True)}) == 1
    assert cli_forecast.describe(found, "tiny").splitlines()[1] == "Forecast lost: 1 of them"


def facts_to_protect():
    return [
        facts.Fact("France", "The capital of {} is", "Paris"),
        facts.Fact("Tokyo", "{} is a city in", "Japan"),
        facts.Fact("Danube", "The {} flows through", "Vienna"),
    ]


@pytest.mark.parametrize(
    ("architecture", "rule"),
    [("gpt2", "rome"), ("llama", "rls-hard"), ("llama", "memit-history"), ("opt", "alphaedit")],
)
def test_a_forecast_is_what_the_editor_does_with_the_same_values(architecture, rule):
    lm = tiny(architecture)
    sample = np.random.default_rng(0).standard_normal((40, 200))
    C, protect = sample @ sample.T / 200, facts_to_protect()
    edits = [facts.Fact("violin", "A {} is an", "instrument", "sport"), facts.Fact("Asia", "{} is a", "place", "city")]
    found = targets.search(lm, edits, 1)
    told = forecast.run(lm, edits, protect, layer=1, C=C, method=rule, targets=found, nodes=8)
    reading, editor = forecast.read(lm, protect, 1), editing.Editor(lm, 1, rule, C=C)
    with editing.preserved(lm):
        editor.store(found[0])
        editor.store(found[1])
        fall = reading.log_probability - forecast.ask(lm, reading).log_probability
    assert np.abs(fall).max() > 1e-3
    np.testing.assert_allclose(told.total, fall, atol=1e-4)
    np.testing.assert_allclose(told.by_edit.sum(0), told.total, atol=0.05 * np.abs(fall).max())


def test_interrupted_nothing_is_written_and_it_says_so(go, tmp_path, monkeypatch):
    def interrupted(*_args, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr(forecast, "run", interrupted)
    status, out, err = go("--all-facts")
    assert (status, out, err) == (130, "", "\nInterrupted. Nothing was written.\n")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_written_is_refused_before_the_model_is_loaded(go, tmp_path, monkeypatch):
    monkeypatch.setattr(models.Source, "load", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "out" / "forecast.csv").mkdir(parents=True)
    assert "forecast.csv cannot be written" in go()[2]


def test_the_table_does_nothing_to_the_terminal():
    assert cli_forecast._cut("a\x1b[31m") == "a\\x1b[31m"
