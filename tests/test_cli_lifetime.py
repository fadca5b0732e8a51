"""The command ``lifetime`` on a tiny model: what it writes, what it prints, what it refuses."""

import csv
import json

import numpy as np
import pytest
import torch
from conftest import SENTENCES

from superposition import cli, editing
from superposition.data import facts
from superposition.editing import forecast, lifetime, session, targets
from superposition.lm import keys, models, moments
from superposition.lm.calibration import Calibration

EDITS = (
    "subject,prompt,target_new\nviolin,A {} is an,sport\nfootball,{} is a,city\nOslo,{} is a city in,Japan\n"
    "Rome,{} is a city in,Spain\n"
)
PROTECT = (
    "subject,prompt,target_true\nFrance,The capital of {} is,Paris\nTokyo,{} is a city in,Japan\n"
    "Oslo,The river of {} is,Paris\n"
)


@pytest.fixture
def go(tmp_path, cache, model_folder, capsys, monkeypatch):
    """Run ``lifetime`` with the tiny model, which is taken to know all; the status, what was printed, the errors."""
    monkeypatch.setattr(session.scoring, "known", lambda lm, listed: list(listed))
    (tmp_path / "text.txt").write_text("\n\n".join(SENTENCES * 3), encoding="utf-8")
    for name, content in (("edits.csv", EDITS), ("protect.csv", PROTECT)):
        (tmp_path / name).write_text(content, encoding="utf-8")

    def go(*flags, **changes):
        named = {"model": model_folder, "edits": tmp_path / "edits.csv", "protect": tmp_path / "protect.csv"}
        named |= {"text": tmp_path / "text.txt", "tokens": 300, "tries": 2, "device": "cpu", "out": tmp_path / "out"}
        words = [word for name, value in (named | changes).items() for word in (f"--{name}", str(value))]
        capsys.readouterr()
        status = cli.main(["lifetime", *words, *flags])
        said = capsys.readouterr()
        return status, said.out, said.err

    go.model = model_folder
    return go


def test_a_table_of_layers(go, tmp_path, model_folder):
    status, out, err = go()
    assert status == 0 and "Nothing was changed" in out, err
    data = json.loads((tmp_path / "out" / "lifetime.json").read_text(encoding="utf-8"))
    assert {name: data["facts"][name] for name in ("count", "tried")} == {"count": 4, "tried": 2}
    assert data["protect"]["asked"] == 3 and data["text"]["tokens"] == 300
    with (tmp_path / "out" / "lifetime.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    lm = models.load(model_folder, device="cpu")
    assert data["model"]["digest"] == lm.digest()
    assert [int(row["layer"]) for row in rows] == list(range(len(lm.layers) - 1))
    # one layer by hand: the first and the last edit, those of France, Tokyo and Oslo untouched
    edits, known = facts.load(tmp_path / "edits.csv"), facts.load(tmp_path / "protect.csv")
    found = targets.search(lm, [edits[0], edits[3]], 1)
    C = moments.estimate(lm, tmp_path / "text.txt", tokens=300).second_moment(1)
    reading = forecast.read(lm, known, 1, passes=False)
    M = np.linalg.solve(C, found.keys)
    M /= (M * found.keys).sum(0)
    p = M.T @ reading.at_subject()
    c2 = ((found.shifts**2).sum(0) / (found.recalled**2).sum(0)).mean()
    assert float(rows[1]["c"]) ** 2 == pytest.approx(c2, rel=1e-4)
    assert float(rows[1]["q"]) == pytest.approx((p**2).mean(), rel=1e-4)
    squares = lifetime.Untouched(lm, reading).by_edit(lifetime.Edit(found.shifts, M)) ** 2
    assert float(rows[1]["D"]) == pytest.approx(squares[:, reading.mask()].mean(), rel=1e-4)
    # after three edits, all but that of Oslo: what the model says with W and what they would write
    coming = lifetime.coming(lm, [edits[0], edits[3]], edits, known, 4)
    assert coming[0] is edits[1] and "Oslo" not in [fact.subject for fact in coming]  # Oslo is asked for
    K = keys.extract(lm, [edits[0], edits[3], coming[0]], layers=[1])[1]
    np.testing.assert_allclose(K[:, :2], found.keys, rtol=1e-5, atol=1e-5)  # float32, in another batch
    three = lifetime.replayed(found, K, C)
    with editing.preserved(lm), torch.no_grad():
        lm.layers[1].weight.add_(torch.from_numpy(three.matrix()))
        lost = 1 - forecast.ask(lm, reading).exact.mean()
    assert float(rows[1]["lost_after_3"]) == pytest.approx(lost)
    assert data["facts"]["replayed"] == 3
    assert float(rows[1]["until_10_low"]) <= float(rows[1]["until_10"]) <= float(rows[1]["until_10_high"])


def test_what_the_list_is_about_is_asked_last(go, tmp_path):
    """With room for two questions nothing is left out: Oslo, whom the list names, is not asked for."""
    known = [fact.subject for fact in facts.load(tmp_path / "protect.csv")]
    assert known == ["France", "Tokyo", "Oslo"]
    edits = facts.load(tmp_path / "edits.csv")
    text = Calibration(tmp_path / "text.txt", tokens=300)
    lm = models.load(go.model, device="cpu")
    for most, replayed in ((2, 4), (3, 3)):
        found = session.lifetime(
            lm, tmp_path / "edits.csv", text, layers=[1], protect=tmp_path / "protect.csv", tries=2, most=most
        )
        assert found.planned == replayed and found.data["facts"]["count"] == len(edits)


def test_weights_that_have_changed_are_no_result(go, monkeypatch):
    def spoil(lm, *_):
        lm.layers[0].weight.mul_(2)
        return outlook(0, [1e-4] * 4, [0.9] * 4)

    monkeypatch.setattr(session, "_outlook", spoil)
    with pytest.raises(RuntimeError, match="not what they were"), torch.no_grad():
        go(layers="0")


def test_run_again_nothing_is_searched_for(go, tmp_path, monkeypatch):
    go(layers="1")
    before = json.loads((tmp_path / "out" / "lifetime.json").read_text(encoding="utf-8"))
    monkeypatch.setattr(session, "search", None)
    status, *_ = go(layers="1")
    after = json.loads((tmp_path / "out" / "lifetime.json").read_text(encoding="utf-8"))
    assert status == 0 and before["layers"] == after["layers"]


LOOKS = np.array([3, 10, 30, 100])


def outlook(layer, drift, probability, lost=(0.0, 0.1, 0.3, 0.8)):
    """A layer with an edit a number, at which so many of a hundred facts are lost at the looks."""
    drift, lost = np.asarray(drift), np.asarray(lost)
    kept = np.arange(100) >= 100 * lost[:, None]
    return lifetime.Outlook(layer, np.full(len(drift), 2.0), drift / 4, drift, np.asarray(probability), LOOKS, kept)


def test_the_best_layer_is_one_at_which_edits_take():
    late = outlook(9, [1e-6] * 4, [0.1, 0.2, 0.99, 0.1], lost=[0, 0, 0, 0])
    good, poor = outlook(3, [1e-4] * 4, [0.99] * 4), outlook(4, [1e-5] * 4, [0.99] * 4, lost=[0.1, 0.2, 0.5, 0.9])
    data = {"model": {"name": "tiny"}, "facts": {"tried": 4, "count": 100}, "protect": {"asked": 7}}
    found = session.LifetimeResult([poor, good, late], 100, data)
    assert found.best is good
    assert "Edit layer 3" in cli.lifetime.describe(found) and "all 100 edits of the list" in cli.lifetime.describe(
        found
    )
    fewer = session.LifetimeResult([good], 97, data)
    assert "After 97 edits of the list (left out: 3 about what is asked for)" in cli.lifetime.describe(fewer)
    assert "At no layer" in cli.lifetime.describe(session.LifetimeResult([late], 100, data))


def test_what_was_not_seen_is_written_as_nothing(tmp_path):
    never = outlook(3, [1e-6] * 4, [0.99] * 4, lost=[0, 0, 0, 0.2])
    data = {"model": {"name": "tiny"}, "facts": {"tried": 4, "count": 100}, "protect": {"asked": 7}}
    found = session.LifetimeResult([never], 100, data)
    found.write(tmp_path)
    (row,) = json.loads((tmp_path / "lifetime.json").read_text(encoding="utf-8"))["layers"]
    assert row["until_25"] is None and row["until_50_high"] is None and 30 < row["until_10"] < 100
    with (tmp_path / "lifetime.csv").open(encoding="utf-8") as stream:
        assert next(csv.DictReader(stream))["until_50"] == ""
    assert "∞" in cli.lifetime.describe(found)


def test_the_interval_is_over_facts_and_edits():
    same, apart = outlook(0, [1e-4] * 8, [1.0] * 8), outlook(0, [1e-6] * 7 + [8e-4], [1.0] * 8)
    value, low, high = same.edits_until(0.3)
    assert value == pytest.approx(30) and low < value < high
    assert apart.edits_until(0.3).low < low and apart.edits_until(0.3).high > high
    assert same.edits_until(0.9).value == np.inf
    steady = outlook(0, [1e-4] * 8, [1.0] * 8, lost=(0.1, 0.2, 0.3, 0.8))
    for edits in (1, 7, 42):  # there and back
        assert steady.edits_until(steady.lost_after(edits).value).value == pytest.approx(edits)
    assert same.lost_after(30).value == pytest.approx(0.3)
    assert same.lost_after(30).low < 0.3 < same.lost_after(30).high
    assert cli.lifetime.count(same.edits_until(0.9)) == "∞ (∞ to ∞)"


@pytest.mark.parametrize(
    ("flags", "changes", "sentence"),
    [
        ((), {"tries": 1}, "try 2 or more"),
        ((), {"layers": "99"}, "99"),
        ((), {"edits": "nowhere.csv"}, "no facts file nowhere.csv"),
        ((), {"tokens": "0"}, "0 tokens"),
    ],
)
def test_bad_input_gets_one_sentence(go, flags, changes, sentence):
    status, _, err = go(*flags, **changes)
    assert status == 2 and sentence in err and len(err.strip().splitlines()) == 1


def test_a_single_edit_says_nothing_of_a_lifetime(go, tmp_path):
    (tmp_path / "one.csv").write_text("subject,prompt,target_new\nOslo,{} is a city in,Norway\n", encoding="utf-8")
    status, _, err = go(edits=tmp_path / "one.csv")
    assert status == 2 and "From 1 edits" in err


def test_edits_without_a_new_object(go, tmp_path):
    (tmp_path / "bare.csv").write_text("subject,prompt,target_true\nOslo,{} is a city in,Norway\n", encoding="utf-8")
    status, _, err = go(edits=tmp_path / "bare.csv")
    assert status == 2 and "have no target_new" in err


def test_a_model_that_knows_nothing(go, monkeypatch):
    monkeypatch.setattr(session.scoring, "known", lambda lm, listed: [])
    status, _, err = go()
    assert status == 2 and "knows none of the facts" in err
