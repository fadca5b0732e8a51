"""The command ``edit``, end to end on a tiny model: record, edited model, and what a user sees when something fails."""

import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import SENTENCES, build, environment, tokenizer

from superposition import cli, editing
from superposition.cli import edit as cli_edit
from superposition.data import facts
from superposition.editing import forecast, sequence, session
from superposition.errors import UserError
from superposition.lm import models, moments
from superposition.lm.calibration import Calibration

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


def test_paraphrases_are_protected_where_asked(go, tmp_path, model_folder):
    """The keys of both wordings are left alone, and without the flag only those of the prompt."""
    spared, reworded = tmp_path / "spared.csv", "Ships on the Rhine go to"
    table = "subject,relation,target_true\nthe Rhine,R,Cologne\n"
    spared.write_text(table, encoding="utf-8")
    table = "relation,prompt,paraphrase_1\nR,People say {} flows through,Ships on {} go to\n"
    (tmp_path / "relations.csv").write_text(table, encoding="utf-8")
    lm = models.load(model_folder, device="cpu")
    (fact,) = facts.load(spared)
    assert [other.text for other in fact.reworded()] == [reworded]
    K = forecast.read(lm, fact.reworded(), 1, passes=False).everywhere()
    options = ("--limit", 1, "--protect", spared, "--protect-weight", 1000)
    moved = {}
    for name, more in {"prompt": (), "both": ("--protect-paraphrases",)}.items():
        assert go(*options, *more, out=tmp_path / name)[0] == 0
        edited = models.load(tmp_path / name / "model", device="cpu")
        moved[name] = np.linalg.norm((edited.layers[1].weight - lm.layers[1].weight).double().numpy() @ K)
        record = json.loads((tmp_path / name / "edit.json").read_text(encoding="utf-8"))
        assert record["protect"]["paraphrases"] == bool(more)
    assert moved["both"] < moved["prompt"] / 5
    (tmp_path / "relations.csv").write_text("relation,prompt\nR,People say {} flows through\n", encoding="utf-8")
    assert "have no paraphrases" in go(*options, "--protect-paraphrases")[2]
    assert "give that, and a --protect-weight above 0" in go("--protect-paraphrases")[2]


def test_one_call_from_python_gives_what_the_command_writes(go, tmp_path, model_folder):
    spared = tmp_path / "spared.csv"
    spared.write_text("subject,prompt,target_true\nThe Rhine,People say {} flows through,Cologne\n", encoding="utf-8")
    edits = tmp_path / "edits.csv"
    options = ("--method", "alphaedit", "--protected-share", 0.8, "--batch", 2, "--limit", 2, "--watch", edits)
    assert go(*options, "--protect", spared, "--protect-weight", 3)[0] == 0
    C, write = Calibration(tmp_path / "text.txt", 200), editing.EditSettings(protected=0.8)
    plan = session.Plan("alphaedit", 1, C, protect=spared, protect_weight=3, write=write)
    called = {"loaded": models.load(model_folder, device="cpu"), "source": models.Source(model_folder, "cpu")}
    for name, model in called.items():
        state = tmp_path / f"{name}.safetensors"
        outcome = session.edit(model, edits, plan, limit=2, batch=2, watch=edits, state=state)
        assert state.is_file()
        outcome.write(tmp_path / name)
        assert not state.exists()
        assert models.load(tmp_path / name / "model", device="cpu").digest() == outcome.model.digest()
    records = [json.loads((tmp_path / name / "edit.json").read_text(encoding="utf-8")) for name in ("out", *called)]
    commands = [(record.pop("provenance")["command"], record.pop("seconds"))[0] for record in records]
    assert commands[0].startswith("python -m superposition edit --model")
    assert commands[1:] == ["superposition.editing.session.edit"] * 2
    assert records[0] == records[1] == records[2]
    assert called["loaded"].digest() == records[0]["edited_digest"]


def test_how_c_was_estimated_is_kept_and_counts(go, tmp_path, model_folder):
    go("--limit", 1)  # writes the tables
    kept, weights = [], []
    for C in (Calibration(tmp_path / "text.txt", 200), Calibration(tmp_path / "text.txt", 200, shrinkage=1.0)):
        plan = session.Plan("rome", 1, C)
        outcome = session.edit(models.Source(model_folder, "cpu"), tmp_path / "edits.csv", plan, limit=1)
        kept.append(outcome.data["text"])
        weights.append(outcome.model.layers[1].weight.detach().clone())
    assert [text.pop("shrinkage") for text in kept] == [0.0, 1.0]
    assert kept[0] == kept[1] and kept[0]["centred"] is False
    assert not np.array_equal(*weights)


def test_a_plan_that_makes_no_sense_is_none():
    with pytest.raises(UserError, match="There is no method 'magic'"):
        session.Plan("magic")
    with pytest.raises(UserError, match="Fine-tuning has no C"):
        session.Plan("ft", protect="book")
    with pytest.raises(UserError, match="no target values to find beforehand"):
        session.Plan("ft", targets="beforehand")
    with pytest.raises(UserError, match="choose anew or beforehand"):
        session.Plan(targets="later")


def test_the_command_knows_what_the_library_does():
    assert cli_edit.TARGETS == sequence.TARGETS


def test_a_plan_is_checked_before_the_weights_are_loaded(go, tmp_path, cache, monkeypatch):
    for width, name in ((100, "wide"), (300, "wider")):
        build("llama", intermediate_size=width).save_pretrained(tmp_path / name)
        tokenizer().save_pretrained(tmp_path / name)
    status, _, err = go("--limit", 1, model=tmp_path / "wide", tokens=None)
    assert status == 0
    assert "note: The text holds " in err and "the standard error of p is" in err

    def load(*_args, **_more):
        raise AssertionError("loaded")

    monkeypatch.setattr(models.Source, "load", load)
    for options, sentence in (
        ({"model": tmp_path / "wider", "tokens": None}, "C of width 300 takes at least 1,200: give a longer --text"),
        ({"tokens": 39}, "C of width 40 is singular when estimated from 39 tokens"),
        ({"tokens": 99_999}, "and 99,999 were asked for"),
        ({"layer": 7}, "has layers 0 to 2"),
    ):
        status, out, err = go(**options)
        assert (status, out) == (2, "") and sentence in err


def test_a_moment_from_romes_code_takes_the_place_of_a_text(go, tmp_path, model_folder):
    summed = moments.estimate(models.load(model_folder), tmp_path / "text.txt", tokens=200, layers=[1])
    statistics = tmp_path / "mom2.npz"
    np.savez(statistics, **{"mom2.mom2": summed.outer[1].numpy(), "mom2.count": summed.tokens})
    assert go("--limit", 1, "--method", "memit", out=tmp_path / "text")[0] == 0
    status, _, err = go("--limit", 1, "--method", "memit", "--moment", statistics, tokens=None)
    assert (status, err) == (0, "")
    one, other = (json.loads((tmp_path / name / "edit.json").read_text()) for name in ("out", "text"))
    assert one["text"] is None and one["moment"]["source"] == str(statistics) and other["moment"] is None
    assert one["drift"] == pytest.approx(other["drift"], rel=1e-6)
    assert "leave it or the other out" in go("--moment", statistics)[2]
    assert "no statistics file" in go("--moment", tmp_path / "edits.csv", tokens=None)[2]


def test_what_lay_beside_the_weights_lies_beside_the_edited_ones(go, tmp_path, model_folder):
    origin = shutil.copytree(model_folder, tmp_path / "origin")
    (origin / "preprocessor_config.json").write_text('{"image_processor_type": "None"}')
    (origin / "chat_template.jinja").write_text("{{ messages }}")
    (origin / "notes.pdf").write_text("x")
    assert go("--limit", 1, model=origin)[0] == 0
    saved = {path.name for path in (tmp_path / "out" / "model").iterdir()}
    assert {path.name for path in origin.iterdir()} - {"notes.pdf"} <= saved and "notes.pdf" not in saved
    assert models.load(tmp_path / "out" / "model").tokenizer.chat_template == "{{ messages }}"


def test_subjects_at_the_beginning_are_counted(go, tmp_path):
    rows = [ROWS[0], "a,{} is a city in,Japan,Spain", ROWS[1]]
    edits = tmp_path / "first.csv"
    edits.write_text("\n".join(rows), encoding="utf-8")
    status, _, err = go("--limit", 1, edits=edits)
    assert status == 0
    assert "note: 1 of 1 subjects are a single token at the beginning of the prompt" in err


def test_a_down_projection_can_be_named(go):
    assert go("--limit", 1, "--down-projection", "mlp.down_proj")[0] == 0
    assert "for mlp.gate; found there" in go("--down-projection", "mlp.gate")[2]


def test_an_interrupted_command_goes_on(go, tmp_path, monkeypatch):
    go(out=tmp_path / "whole")
    original, calls = editing.Editor.edit, []

    def edit(self, facts, **more):
        calls.append(facts)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, facts, **more)

    monkeypatch.setattr(editing.Editor, "edit", edit)
    status, _, err = go()
    assert status == 130 and "Run the same command again: it goes on where it stopped." in err
    assert go()[0] == 0
    assert len(calls) == 4  # the edit that was made is kept
    one, other = (json.loads((tmp_path / name / "edit.json").read_text()) for name in ("out", "whole"))
    assert one["edited_digest"] == other["edited_digest"] and one["after"] == other["after"]


def test_interrupted_before_the_first_edit_it_says_so(go, tmp_path, monkeypatch):
    def interrupted(*_args, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr(editing.Editor, "edit", interrupted)
    status, out, err = go()
    assert (status, out) == (130, "") and not (tmp_path / "out").exists()
    assert err == "\nInterrupted. No edit was kept: the same command begins with the first.\n"


@pytest.mark.slow
def test_asked_to_end_a_process_keeps_the_edits_made(go, tmp_path, model_folder, cache):
    assert go(out=tmp_path / "whole")[0] == 0
    script = (
        "import sys, time\n"
        "from superposition import cli; from superposition.editing import editor as editing\n"
        "edit = editing.Editor.edit\n"
        "def slow(self, *a, **k):\n"
        "    edit(self, *a, **k); print('edit', flush=True); time.sleep(0.5)\n"
        "editing.Editor.edit = slow\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    named = {"model": model_folder, "edits": tmp_path / "edits.csv", "text": tmp_path / "text.txt", "tokens": 200}
    named |= {"layer": 1, "device": "cpu", "out": tmp_path / "out"}
    words = [word for name, value in named.items() for word in (f"--{name}", str(value))]
    process = subprocess.Popen(
        [sys.executable, "-c", script, "edit", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(SUPERPOSITION_CACHE=str(cache)),
    )
    assert process.stdout.readline() == "edit\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err.strip() == "Interrupted. Run the same command again: it goes on where it stopped."
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["state.safetensors"]
    assert go()[0] == 0
    one, other = (json.loads((tmp_path / name / "edit.json").read_text()) for name in ("out", "whole"))
    assert one["edited_digest"] == other["edited_digest"]


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


def test_what_cannot_be_written_is_refused_before_the_model_is_loaded(go, tmp_path, monkeypatch):
    monkeypatch.setattr(models.Source, "load", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "out" / "edit.json").mkdir(parents=True)
    assert "edit.json cannot be written" in go()[2]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model").write_text("a file")
    assert "cannot be written" in go(out=tmp_path / "other")[2]
