"""The experiments behind the law, in miniature: what a point holds, what is kept, what is put back."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import tiny

import law
import sequences
import units
import wordings
from superposition import editing, records
from superposition.data.facts import Fact
from superposition.editing import forecast, lifetime, targets
from superposition.errors import UserError
from superposition.linear.memory import LinearMemory
from superposition.linear.metric import Metric
from superposition.studies import runaway
from superposition.studies.law import points as points_of

SIZES = law.Sizes(
    edits=3, looks=(1, 3), anew=2, tokens=400, held_out=60, settings=editing.TargetSettings(steps=2, contexts=("",))
)


@pytest.fixture
def small(monkeypatch, cache):
    """A tiny model that is taken to know some facts and not others, and a C drawn at random."""
    listed = law.facts.load("book")
    monkeypatch.setattr(law, "TRIED", 2)
    monkeypatch.setattr(law, "DRAWN", (1, 3))
    monkeypatch.setattr(law, "REPLAYED", (1, 3, 5))
    monkeypatch.setattr(law, "choose", lambda lm, count: (listed[:count], listed[20:28]))
    monkeypatch.setattr(units, "choose", lambda lm, count: (listed[:count], listed[20:28]))
    monkeypatch.setattr(law.moments, "estimate", lambda lm, *_, **__: Drawn())
    return tiny()


class Drawn:
    def second_moment(self, layer):
        sample = np.random.default_rng(layer).standard_normal((40, 200))
        return sample @ sample.T / 200


def measured(lm, layers, out):
    law.measure(lm, layers, SIZES, out, "made by a test")
    made = records.load(out)
    return made, made.arrays


def test_a_layer_is_measured_and_put_back(small, tmp_path):
    before = small.digest()
    made, arrays = measured(small, [0, 1], tmp_path / "law.json")
    assert small.digest() == before
    assert [row["layer"] for row in made["layers"]] == [0, 1]
    ways = {name.split("/")[1] for name in arrays if name.startswith("0/")}
    assert ways == {"before", "drawn", "replay", "beforehand", "anew"} and not any(
        name.startswith("1/anew") for name in arrays
    )
    assert arrays["1/beforehand/3/kept"].shape == (8,) and arrays["1/beforehand/3/kept"].dtype == bool
    row = made["layers"][1]
    assert {f"beforehand/3/{name}" for name in ("margin", "last state", "stream, all", "answer, subject")} <= {*row}
    # D of a first edit is the square of the drift that it makes
    for place in ("stream, subject", "stream, all"):
        first = row[f"beforehand/1/{place}"]
        assert arrays[f"1/before/D {place}"][0] == pytest.approx(first**2, rel=1e-4)


def test_a_record_grows_by_the_layers_that_it_lacks(small, tmp_path, monkeypatch):
    """And does so without the cache, too: what a record holds is not measured again."""
    whole, arrays = measured(small, [0, 1], tmp_path / "whole.json")
    measured(small, [1], tmp_path / "law.json")
    monkeypatch.setenv("SUPERPOSITION_CACHE", str(tmp_path / "empty"))
    plain, asked_for = law.at_layer, []
    monkeypatch.setattr(law, "at_layer", lambda case: asked_for.append(case.layer) or plain(case))
    again, later = measured(small, [1, 0], tmp_path / "law.json")
    assert asked_for == [0]
    assert [row["layer"] for row in again["layers"]] == [0, 1] and later.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(later[name], array, err_msg=name)
    # a record of before there were replays gets them, on a machine that rounds otherwise, and nothing else is measured
    data = json.loads((tmp_path / "law.json").read_text(encoding="utf-8"))
    data["perplexity"] *= 1 + 1e-5
    for name in [name for name in later if "/replay/" in name]:
        del later[name]
    records.write(tmp_path / "law.json", data, later)
    filled, arrays_again = measured(small, [0, 1], tmp_path / "law.json")
    assert asked_for == [0] and arrays_again.keys() == arrays.keys()
    assert [{**row, "commit": None} for row in filled["layers"]] == [{**row, "commit": None} for row in again["layers"]]
    np.testing.assert_array_equal(arrays_again["0/replay/kept"], arrays["0/replay/kept"])
    monkeypatch.setattr(law, "POINTS", law.POINTS + 1)
    with pytest.raises(UserError, match="parts of another run"):
        measured(small, [0], tmp_path / "law.json")
    assert records.load(tmp_path / "law.json").data == filled.data and whole["looks"] == [1, 3]


def test_every_beginning_covers_the_depth():
    assert law.in_turn(8) == [0, 6, 3, 2, 4, 1, 5]
    assert sorted(law.in_turn(30)) == list(range(29)) and law.in_turn(30)[:5] == [0, 6, 12, 18, 24]


def test_a_point_says_what_an_edited_model_says(small):
    edits, known = law.choose(small, 3)
    reading = forecast.read(small, known, 1, passes=False)
    C = Metric(Drawn().second_moment(1))
    case = law.Case(small, 1, edits, lifetime.Untouched(small, reading), C, law.scoring.held_out(small, 60), SIZES)
    found = law.alone(case)
    memory = LinearMemory(case.W_0, C)
    memory.edit_batch(found.keys, found.values, "rome")
    point = law.point(case, memory.edits)
    before = forecast.ask(small, reading)

    def last_states(j):
        """Of one fact, where its object is told: (tokens of it, d)."""
        ids = law.torch.from_numpy(reading.token_ids[j : j + 1, : reading.lengths[j]])
        with law.torch.no_grad():
            return small.model.base_model(ids).last_hidden_state[0, reading.prompts[j] - 1 :].numpy()

    old = [last_states(j) for j in range(len(known))]
    with editing.preserved(small):
        small.layers[1].weight.copy_(law.torch.from_numpy(memory.W))
        after = forecast.ask(small, reading)
        new = [last_states(j) for j in range(len(known))]
        perplexity = law.scoring.perplexity(small, case.windows)
    np.testing.assert_allclose(point["fall"], before.log_probability - after.log_probability, atol=1e-4)
    assert point["perplexity"] == pytest.approx(perplexity, rel=1e-5)
    far = [np.linalg.norm(b - a, axis=1) / np.linalg.norm(a, axis=1) for a, b in zip(old, new, strict=True)]
    np.testing.assert_allclose(
        point["last state"], [lifetime.root_mean_square(one) for one in far], rtol=1e-3, atol=1e-6
    )
    assert (point["kept"] == after.exact).all() and (point["last state"] > 0).all()
    change = np.linalg.norm(memory.W - case.W_0) / np.linalg.norm(case.W_0)
    assert point["change"] == pytest.approx(change, rel=1e-6)


WAYS = sequences.Sizes(
    edits=4,
    looks=(2, 4),
    tokens=400,
    held_out=60,
    lists=2,
    orders=2,
    rules=("rome", "rls-hard", "memit", "alphaedit"),
    arms=tuple(
        arm
        for arm in dict.fromkeys((*sequences.ARMS, *sequences.LOOP))
        if arm.rule in ("rome", "rls-soft", sequences.APART, "emmet", "ft")
    ),
    settings=editing.TargetSettings(steps=3, contexts=("",), stop_probability=1.0),
)


@pytest.fixture
def sequence_case(small, monkeypatch):
    for module in (sequences, law):
        monkeypatch.setattr(module.moments, "estimate", lambda lm, *_, **__: Drawn())
    listed = law.facts.load("book")
    monkeypatch.setattr(sequences, "choose", lambda lm, count: (listed[:count], listed[20:28]))
    return sequences.case_of(small, 1, WAYS, 4)


def test_every_arm_is_the_sequence_that_its_name_says(sequence_case):
    case, lm = sequence_case, sequence_case.lm
    before = lm.digest()
    found = sequences.every_arm(case)
    assert lm.digest() == before and found.keys() == {"before", *(arm.name for arm in sequences.arms_of(case))}
    everything = {arm.name for arm in WAYS.arms}
    moves = {arm.name for arm in WAYS.arms if arm.settings(WAYS.settings).bound == "moving"}
    assert everything - found.keys() == {name for name in moves if name[-4:] != "rome"}
    normalised = replace(case, lm=tiny("gemma3_text"))
    assert {arm.name for arm in sequences.arms_of(normalised)} == everything
    units = {"step": "absolute", "bound": "moving"}
    for where, changes in {"moving": {"bound": "moving"}, "anchored": {}, "ROME's units": units}.items():
        with editing.preserved(lm):
            settings = replace(WAYS.settings, **changes)
            run = editing.run(lm, case.edits, "rome", layer=1, C=case.C, settings=settings)
        arm = found[f"{where}, rome"]
        lengths = np.linalg.norm(run.editor.memory.residuals, axis=0)
        np.testing.assert_allclose(arm["delta"], lengths, rtol=1e-2)
        np.testing.assert_allclose(arm["among"], run.editor.memory.directions.T @ run.editor.memory.keys, atol=1e-6)
    for where in ("anchored", "beforehand"):  # whatever was written before, no other edit's key feels it
        arm = found[f"{where}, {sequences.APART}"]
        np.testing.assert_allclose(arm["among"], np.eye(4), atol=1e-6)
        np.testing.assert_allclose(arm["recalled_norm"], found["before"]["delta"] / found["before"]["size"], rtol=1e-3)
    own = targets.search(lm, case.edits, 1, replace(WAYS.settings, step="absolute"))
    lengths = np.linalg.norm(own.shifts, axis=0)
    np.testing.assert_allclose(found["ROME's units beforehand, rome"]["shift_norm"], lengths, rtol=1e-3)
    assert not np.allclose(lengths, found["before"]["delta"], rtol=1e-2)
    anchors = found["norm anchors, rome"]
    first = found["before"]["delta"][0] / found["before"]["size"][0]
    assert anchors["recalled_norm"][0] == pytest.approx(first, rel=1e-4)
    assert found["none, ft"]["4/change"] > found["none, ft"]["2/change"] > 0
    for arm in found.values():
        if "4/held" in arm:
            assert arm["4/held"].shape == (4,) and arm["4/kept"].shape == (8,)


def test_interrupted_sequences_go_on_with_the_same_results(sequence_case, monkeypatch):
    case = sequence_case
    arms = [arm for arm in WAYS.arms if arm.targets == "moving" and arm.batch == 1]
    plain, calls = editing.edit_side_by_side, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(editing, "edit_side_by_side", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sequences.walk(case, arms, every=1)
    resumed = sequences.walk(case, arms, every=1)
    assert len(calls) == 3 + 2  # two of four steps were kept
    monkeypatch.setattr(sequences.cache, "load", lambda key: None)
    whole = sequences.walk(case, arms, every=1)
    for name, editor in whole.items():
        np.testing.assert_allclose(resumed[name].memory.values, editor.memory.values, rtol=1e-4, atol=1e-5)


def test_a_record_of_sequences_grows_by_the_layers_that_it_lacks(sequence_case, monkeypatch, tmp_path):
    sizes = replace(WAYS, arms=WAYS.arms[:1] + WAYS.arms[-1:])
    monkeypatch.setattr(sequences.models, "load", lambda name: sequence_case.lm)
    out, asked_for, plain = tmp_path / "ways.json", [], sequences.every_arm
    monkeypatch.setattr(sequences, "every_arm", lambda case: asked_for.append(case.layer) or plain(case))
    for layers in ((1,), (0, 1)):
        sequences.measure("ways", [f"tiny:{layer}" for layer in layers], sizes, out, "made by a test")
    made = records.load(out)
    assert asked_for == [1, 0] and [row["layer"] for row in made["runs"]] == [1, 0]
    assert {name.split("/")[0] for name in made.arrays} == {"tiny 0", "tiny 1"}


def test_the_study_reads_the_loop_off_the_record_that_the_script_writes(small, monkeypatch, tmp_path):
    """Every arm under the name by which the study looks for it, in both units."""
    lm, listed = tiny("gemma3_text"), law.facts.load("book")
    monkeypatch.setattr(sequences.models, "load", lambda name: lm)
    monkeypatch.setattr(sequences, "choose", lambda lm, count: (listed[:count], listed[20:28]))
    sizes = replace(WAYS, looks=(2, 4), arms=sequences.LOOP)
    sequences.measure("runaway", ["tiny:1"], sizes, tmp_path / "runaway.json", "made by a test")
    case, record = sequences.case_of(lm, 1, sizes, 4), records.load(tmp_path / "runaway.json")
    for whose, step in (("answer", "relative"), ("ROME", "absolute")):
        (loop,) = runaway.loops(record, whose)
        alone = targets.search(lm, case.edits, 1, replace(sizes.settings, step=step))
        np.testing.assert_allclose(loop.alone, np.linalg.norm(alone.shifts, axis=0), rtol=1e-3)
        np.testing.assert_allclose(loop.answers, np.linalg.norm(case.W_0 @ alone.keys, axis=0), rtol=1e-3)
        np.testing.assert_allclose(np.diag(loop.P), 1, rtol=1e-5)
        for arm in loop.came:  # the first edit meets the unedited model in every arm
            assert loop.grown(arm)[0] == pytest.approx(1, rel=1e-3)
        assert loop.forecast[0] == pytest.approx(loop.came[runaway.WHOLE][0], rel=1e-3)
    last = sequences.every_arm(case)["ROME's units, rome"]
    (point,) = [one for one in points_of(record) if (one.targets, one.rule, one.edits) == ("ROME's units", "rome", 4)]
    weights = case.untouched.reading.lengths  # of each fact, how many positions
    assert point.drift**2 == pytest.approx(np.average(last["4/stream, all"] ** 2, weights=weights))
    assert point.lost == 1 - last["4/kept"].mean() and point.quantities["change"] == pytest.approx(last["4/change"])


def test_lists_and_orders(sequence_case):
    case = sequences.case_of(sequence_case.lm, 1, WAYS, 8)
    found = sequences.every_list(case)
    assert found.keys() == {
        f"list {number}, order {order}, {rule}" for number in (0, 1) for order in (0, 1) for rule in WAYS.rules
    }
    turned = found["list 1, order 1, rome"], found["list 1, order 0, rome"]
    order = np.random.default_rng([1, 1]).permutation(4)
    assert (order != np.arange(4)).any()
    lengths = np.linalg.norm(law.alone(case).shifts[:, 4:], axis=0)
    assert turned[0]["delta"][0] == pytest.approx(lengths[order[0]], rel=1e-4)  # the first of a list is written alone
    assert turned[1]["delta"][0] == pytest.approx(lengths[0], rel=1e-4)
    targets_of = law.alone(case)
    for rule in WAYS.rules:  # a look is what so many edits leave, and no part of a step of more
        memory = LinearMemory(case.W_0, case.C)
        options = editing.Editor(case.lm, 1, rule, C=case.C).options
        for one in range(WAYS.looks[0]):
            memory.edit_batch(targets_of.keys[:, [one]], targets_of.values[:, [one]], rule, **options)
        there = law.point(case, memory.edits)
        looked = found[f"list 0, order 0, {rule}"]
        np.testing.assert_allclose(looked[f"{WAYS.looks[0]}/stream, all"], there["stream, all"], rtol=1e-6)
    plain, arrays = sequences.flattened(found, "tiny 1")
    assert arrays["tiny 1/list 0, order 0, rome/4/kept"].dtype == bool
    assert plain["list 0, order 0, rome"]["4/change"] > 0


def test_energy_is_the_sum_over_pairs():
    W = np.random.default_rng(0).standard_normal((5, 7))
    rows = [row / np.linalg.norm(row) for row in W]
    pairs = [1 / np.linalg.norm(a - b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
    assert law.hyperspherical_energy(W) == pytest.approx(np.mean(pairs))
    assert law.hyperspherical_energy(3 * W) == pytest.approx(np.mean(pairs))


def test_the_scripts_write_their_records(small, monkeypatch, tmp_path):
    monkeypatch.setattr(law.models, "load", lambda name: small)
    monkeypatch.setattr(law, "Sizes", lambda: SIZES)
    assert law.main(["--model", "tiny", "--layers", "1", "--out", str(tmp_path / "law.json")]) == 0
    made = records.load(tmp_path / "law.json")
    assert made["kind"] == "law" and made["normalised"] is False and made["looks"] == [1, 3]
    assert made["provenance"]["command"].startswith("python experiments/law.py --model tiny")
    monkeypatch.setattr(
        units, "WAYS", {name: editing.TargetSettings(steps=1, step=way.step) for name, way in units.WAYS.items()}
    )
    assert units.main(["--runs", "tiny:0", "tiny:1", "--count", "2", "--out", str(tmp_path / "units.json")]) == 0
    rows = records.load(tmp_path / "units.json")["rows"]
    assert [(row["layer"], row["way"]) for row in rows] == [(i, way) for i in (0, 1) for way in units.WAYS]
    assert all(row["size"] > 0 and row["steps"] == 1 for row in rows)


def test_protection_is_asked_in_words_that_are_in_C_and_in_others(small, monkeypatch):
    listed = law.facts.load("book")  # the layer has 40 dimensions, so what is protected must be short
    watched = [
        Fact("Paris", "{} is", "city", paraphrases=("The Paris is", "A Paris", "Paris of")),
        Fact("Japan", "{} of", "city", paraphrases=("The Japan of", "A Japan", "Japan is")),
    ]
    monkeypatch.setattr(wordings, "choose", lambda lm, count: (listed[:count], watched))
    monkeypatch.setattr(wordings.models, "load", lambda name: small)
    before = small.digest()
    sizes = wordings.Sizes(edits=2, weight=1000.0, held_out=60, settings=SIZES.settings)
    data, arrays = wordings.measure(["tiny:1"], sizes)
    assert small.digest() == before
    (row,) = data["runs"]
    assert set(row["arms"]) == set(wordings.ARMS) and row["watched"] == 2
    stem = f"{small.name} 1/"
    assert arrays[f"{stem}nothing/fall/3"].shape == (2,)

    def size(arm, wording, some=slice(None)):
        return np.abs(arrays[f"{stem}{arm}/fall/{wording}"][some]).mean()

    # what is in C is spared: the prompt, the paraphrases, the named half
    assert size("all, prompt", 0) < 0.2 * size("nothing", 0)
    assert size("all, prompt and paraphrases", 2) < 0.2 * size("all, prompt", 2)
    half = arrays[f"{stem}half"]
    assert size("half, prompt", 0, half) < 0.2 * size("half, prompt", 0, ~half)
