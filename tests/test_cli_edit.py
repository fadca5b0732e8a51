"""The command ``edit``, end to end on a tiny model: record, edited model, and what a user sees when something fails."""

import json

import numpy as np
import pytest
import torch
from conftest import SENTENCES

from superposition import cli, editing, facts, forecast, models

ROWS = [
    "subject,prompt,target_true,target_new",
    "France,The capital of {} is,Paris,Madrid",
    "Tokyo,{} is a city in,Japan,Spain",
    "The Danube,People say {} flows through,Vienna,London",
]


@pytest.fixture
def go(cache, model_folder, tmp_path, capsys):
    edits, text = tmp_path / "edits.csv", tmp_path / "text.txt"
    edits.write_text("\n".join(ROWS), encoding="utf-8")
    text.write_text("\n".join(SENTENCES * 3), encoding="utf-8")

    def go(*options, **changes):
        named = {"model": model_folder, "edits": edits, "text": text, "tokens": 200, "layer": 1, "device": "cpu"}
        named |= {"out": tmp_path / "out"} | changes
        words = [word for name, value in named.items() if value is not None for word in (f"--{name}", str(value))]
        capsys.readouterr()
        status = cli.main(["edit", *words, *map(str, options)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return go


@pytest.mark.parametrize("method", ["rome", "alphaedit", "ft"])
def test_an_edited_model_is_saved_and_loads(go, tmp_path, model_folder, method):
    status, out, err = go("--method", method, "--watch", tmp_path / "edits.csv")
    assert (status, err) == (0, "")
    record = json.loads((tmp_path / "out" / "edit.json").read_text(encoding="utf-8"))
    assert record["method"] == method and record["facts"]["count"] == len(record["edits"]) == 3
    edited, original = models.load(tmp_path / "out" / "model", device="cpu"), models.load(model_folder, device="cpu")
    assert edited.digest() == record["edited_digest"] != original.digest()
    for before, after in zip(original.layers, edited.layers, strict=True):
        assert torch.equal(before.weight, after.weight) == (before.index != 1)
    W_0, W = (lm.layers[1].weight.double().numpy() for lm in (original, edited))
    assert record["drift"] == pytest.approx(np.linalg.norm(W - W_0) / np.linalg.norm(W_0), rel=1e-6)
    assert record["watched"]["after"]["log_true"] == pytest.approx(record["after"]["log_true"])
    assert not (tmp_path / "out" / "state.safetensors").exists()
    assert "3 edits by" in out and "watched facts" in out


def test_protected_facts_are_spared(go, tmp_path, model_folder):
    spared = tmp_path / "spared.csv"
    rows = [
        "subject,prompt,target_true",
        "The Rhine,People say {} flows through,Cologne",
        "France,The capital of {} is,Paris",
    ]
    spared.write_text("\n".join(rows), encoding="utf-8")
    moved, lm = {}, models.load(model_folder, device="cpu")
    K = forecast.read(lm, facts.load(spared)[:1], 1, passes=False).everywhere()
    for name, options in {"plain": [], "sparing": ["--protect", spared, "--protect-weight", 1000]}.items():
        status, out, err = go("--limit", 1, *options, out=tmp_path / name)
        assert (status, err) == (0, "")
        edited = models.load(tmp_path / name / "model", device="cpu")
        moved[name] = np.linalg.norm((edited.layers[1].weight - lm.layers[1].weight).double().numpy() @ K)
    assert moved["sparing"] < moved["plain"] / 10
    record = json.loads((tmp_path / "sparing" / "edit.json").read_text(encoding="utf-8"))
    assert (record["protect"]["count"], record["protect"]["positions"]) == (1, K.shape[1])
    assert record["drift"] > 0
    assert "protected facts" in out
    assert "leave --protect out" in go("--protect", spared, method="ft")[2]
    assert "only what --edits" in go("--protect", tmp_path / "edits.csv")[2]
    assert "weight of -1" in go("--protect", spared, "--protect-weight", -1)[2]


def test_an_interrupted_command_goes_on(go, tmp_path, monkeypatch):
    go(out=tmp_path / "whole")
    original, calls = editing.Editor.edit, []

    def edit(self, facts, **more):
        calls.append(facts)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, facts, **more)

    monkeypatch.setattr(editing.Editor, "edit", edit)
    monkeypatch.setattr(editing, "SAVE_EVERY", 1)
    assert go()[0] == 130
    assert go()[0] == 0
    assert len(calls) == 4
    one, other = (json.loads((tmp_path / name / "edit.json").read_text()) for name in ("out", "whole"))
    assert one["edited_digest"] == other["edited_digest"] and one["after"] == other["after"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "magic"}, "no method"),
        ({"layer": 12}, "layers 0 to 2"),
        ({"edits": "nowhere.csv"}, "no facts file"),
        ({"tokens": 20}, "singular"),
        ({"batch": 0}, "batch"),
        ({"protected-share": 2}, "protected"),
    ],
)
def test_what_goes_wrong_is_one_sentence(go, tmp_path, options, said):
    status, _, err = go(**options)
    assert status == 2 and said in err and err.count("\n") == 1 and err.startswith("error: ")
    assert not (tmp_path / "out" / "model").exists()


def test_edits_need_a_new_object(go, tmp_path):
    (tmp_path / "edits.csv").write_text("subject,prompt,target_true\nFrance,The capital of {} is,Paris\n")
    status, _, err = go()
    assert status == 2 and "target_new" in err
    (tmp_path / "file").write_text("")
    assert "not a folder" in go(out=tmp_path / "file")[2]
