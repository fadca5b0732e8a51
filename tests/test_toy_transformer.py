"""The small transformer: its world, its training, its edits held against slower ways, and what ships with the book."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

import grid
from superposition import figures, records
from superposition.data import facts
from superposition.editing import forecast
from superposition.errors import UserError
from superposition.io import files
from superposition.linear import overlap
from superposition.linear.memory import LinearMemory
from superposition.lm import keys, models, passes
from superposition.studies import toys
from superposition.toys import transformer as toy
from superposition.toys.transformer import Setting
from superposition.toys.world import COMPARED, make_world, tokenizer

SMALL = Setting(width=16, families=64, steps=120, seed=3)


@pytest.fixture(scope="module")
def world():
    return make_world(64, 3)


@pytest.fixture(scope="module")
def trained(world):
    """A little training is enough for keys, slopes and edits to be what they are anywhere. float64."""
    lm = toy.train(world, SMALL)
    lm.model.double()
    return lm


@pytest.fixture(scope="module")
def moment(trained, world):
    return toy.second_moments(trained, world).second_moment(0)


@pytest.fixture(scope="module")
def edits(trained, world):
    return toy.choose_edits(trained, world, people=12)


# The world


def test_a_world_is_what_its_seed_says(world):
    assert make_world(64, 3) == world
    other = make_world(64, 4)
    words = set(tokenizer(64).get_vocab())
    assert {word for fact in other.facts for word in f"{fact.text} {fact.target_true}".split()} <= words
    assert [f.target_true for f in world.facts] != [f.target_true for f in other.facts]


def test_everyone_is_somebody_else_and_every_fact_has_a_false_rival(world):
    people = [world.of_person(person) for person in range(world.people)]
    assert len({known[0].subject for known in people}) == world.people == 128
    for known in people:
        assert [fact.relation for fact in known] == ["birthplace", "profession", "instrument"]
        assert len({fact.subject for fact in known}) == 1
    kinds = {}
    for fact in world.facts:
        assert fact.target_true != fact.target_new
        kinds.setdefault(fact.object_type, set()).update({fact.target_true, fact.target_new})
    names = [name for found in kinds.values() for name in found]
    assert len(names) == len(set(names)), "an object of two kinds"
    assert len(world.facts) == 3 * 128 + 2 * 32


def test_the_held_out_phrasing_is_never_read(world):
    sentences = set(world.sentences())
    assert len(world.sentences()) == 3 * len(world.facts) == len(sentences)
    for fact, unseen in zip(world.facts, world.unseen(), strict=True):
        assert unseen in fact.paraphrases
        asked = [p for p in (fact.text, *fact.paraphrases) if f"{p} {fact.target_true}" in sentences]
        assert sorted([*asked, unseen]) == sorted((fact.text, *fact.paraphrases))
    assert set(world.held_out) == {0, 1, 2}, "every phrasing is held out somewhere, so all are read elsewhere"


def test_the_three_lists_differ_in_their_last_tokens_only(world, trained):
    lists = world.compared()
    assert {name: len(found) for name, found in lists.items()} == dict.fromkeys(toys.LISTS, COMPARED)
    last = {name: Counter(fact.subject.split()[-1] for fact in found) for name, found in lists.items()}
    assert set(last["distinct"].values()) == {1}
    assert set(last["shared"].values()) == {2}
    for name in ("distinct", "shared"):
        assert len({fact.subject for fact in lists[name]}) == COMPARED
    K = keys.extract(trained, lists["twin"])
    for layer in (0, 1):
        np.testing.assert_allclose(K[layer][:, 0], K[layer][:, -1], rtol=1e-12)
        assert np.linalg.matrix_rank(K[layer]) == min(len(K[layer]), COMPARED - 1)


def test_every_word_is_one_token_with_its_place(world):
    words = tokenizer(64)
    for text in [*world.sentences(), *world.unseen()]:
        found = words(text, return_offsets_mapping=True)
        assert found["input_ids"][0] == words.bos_token_id
        assert words.unk_token_id not in found["input_ids"]
        assert [text[start:stop] for start, stop in found["offset_mapping"][1:]] == text.split()
    for fact in world.facts:
        place = keys.locate(words, fact)
        assert words.convert_ids_to_tokens(place.token_id) == fact.subject.split()[-1]


# The model


def test_padding_is_never_looked_at(trained, world):
    texts = [fact.text for fact in world.facts[:9]] + world.unseen()[:9]
    together = toy.logits(trained, *toy.encode(trained, texts))
    ids = [torch.tensor([trained.tokenizer(text)["input_ids"]]) for text in texts]
    alone = torch.cat([trained.model(input_ids=row).logits[:, -1] for row in ids])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_training_learns_and_gives_the_same_bits_again(world, trained):
    again, none = toy.train(world, SMALL), toy.train(world, replace(SMALL, steps=0))
    assert models.digest(none.model) == models.digest(toy.build(SMALL).model)
    known, guessed = toy.knows(again, world), toy.knows(none, world)
    assert known["trained"] > 0.3 > 0.05 > guessed["trained"]
    again.model.double()
    assert models.digest(again.model) == models.digest(trained.model)


def test_a_small_world_and_a_setting_of_another_are_refused(world):
    with pytest.raises(UserError, match="another world"):
        toy.train(world, Setting(seed=4, families=64))
    with pytest.raises(UserError, match="at least 64"):
        make_world(63)


def test_the_moment_counts_every_token_but_the_first(trained, world):
    summed = toy.second_moments(trained, world)
    assert summed.tokens == sum(len(text.split()) for text in world.sentences())
    ids, last = toy.encode(trained, world.sentences())
    taken = []
    with passes.hooked((trained.layers[1].module, lambda _, inputs: taken.append(inputs[0])), before=True):
        trained.model(input_ids=ids)
    position = torch.arange(ids.shape[1])
    K = taken[0][(position >= 1) & (position <= last[:, None])]
    torch.testing.assert_close(summed.outer[1], K.T @ K, rtol=1e-9, atol=1e-9)


def test_the_overlaps_are_those_of_the_library(trained, world):
    summed = toy.second_moments(trained, world)
    listed, beside = world.compared()["shared"], ~np.eye(COMPARED, dtype=bool)
    last = np.array([fact.subject.split()[-1] for fact in listed])
    for layer, row in enumerate(toy.overlaps(trained, world, summed)):
        found = overlap.measure(keys.extract(trained, listed)[layer], summed.second_moment(layer))
        p, cosine = found.P[beside], found.cosine_whitened[beside]
        wanted = {"mean": p.mean(), "spread": p.std() * row["d_m"] ** 0.5, "max": p.max()}
        wanted |= {"excess_kurtosis": scipy.stats.kurtosis(p), "cosine_kurtosis": scipy.stats.kurtosis(cosine)}
        wanted["kurtosis_of_strangers"] = scipy.stats.kurtosis(found.P[last[:, None] != last])
        assert {name: row["shared"][name] for name in wanted} == pytest.approx(wanted)


# Its edits


def test_a_target_that_is_reached_makes_the_model_say_the_new_object(trained, edits):
    layer = trained.layers[0]
    assert 0 < len(edits) <= 12
    shifts = torch.from_numpy(edits.values - layer.weight.double().numpy() @ edits.K).T
    for fact, shift in zip(edits.facts, shifts, strict=True):
        read = keys.locate(trained.tokenizer, fact)
        with passes.shifted(layer, shift[None], torch.tensor([read.position])):
            says = int(trained.model(input_ids=torch.tensor([read.token_ids])).logits[0, -1].argmax())
        assert trained.tokenizer.decode([says]) == fact.target_new


def test_a_fact_that_cannot_be_reached_is_not_edited(trained, world, monkeypatch):
    real = toy.target_values

    def sees_no_profession(lm, reading):
        values, reached = real(lm, reading)
        return values, reached & np.array([fact.relation != "profession" for fact in reading.facts])

    monkeypatch.setattr(toy, "target_values", sees_no_profession)
    chosen = toy.choose_edits(trained, world, people=12)
    assert {fact.relation for fact in chosen.facts} == {"birthplace", "instrument"}
    assert chosen.reached["profession"][0] == 0 < chosen.reached["profession"][1]
    monkeypatch.setattr(toy, "target_values", lambda lm, reading: (np.zeros((16, 3)), np.zeros(3, bool)))
    with pytest.raises(UserError, match="No target can be reached"):
        toy.choose_edits(trained, world, people=3)
    with pytest.raises(UserError, match="the world has 128"):
        toy.choose_edits(trained, world, people=129)


def test_edits_name_each_person_once_and_leave_others_alone(world, edits):
    edited = [fact.subject for fact in edits.facts]
    assert len(set(edited)) == len(edited)
    assert not set(edited) & {fact.subject for fact in edits.untouched}
    assert len(edits.untouched) == 3 * (world.people - 12) + 2 * 32
    for fact, beside in zip(edits.facts, edits.beside, strict=True):
        assert len(beside) == 2 and fact not in beside and {f.subject for f in beside} == {fact.subject}
    assert sum(good for good, _ in edits.reached.values()) == len(edits)


def test_the_last_layers_memory_is_read_by_nobody_at_the_subject(trained, world):
    reading = forecast.read(trained, [world.facts[1], world.facts[4]], 1, passes=False)
    _, reached = toy.target_values(trained, reading, steps=5)
    assert not reached.any(), "no later layer reads what the last one writes at the subject"


def test_what_a_sequence_reports_is_what_the_edited_model_says(trained, world, edits, moment):
    bits, layer = models.digest(trained.model), trained.layers[0]
    data, arrays = toy.edit_sequence(trained, world, edits, moment)
    assert data["exactness"] < 1e-10 and models.digest(trained.model) == bits
    memory = LinearMemory(layer.weight.double().numpy(), moment)
    for k, v in zip(edits.K.T, edits.values.T, strict=True):
        memory.edit(k, v)

    def says(texts):
        rows = [torch.tensor([trained.tokenizer(text)["input_ids"]]) for text in texts]
        return torch.cat([trained.model(input_ids=row).logits[:, -1].log_softmax(-1) for row in rows])

    def right(texts, objects):
        return float((says(texts).argmax(1) == toy.token_of(trained, objects)).double().mean())

    texts = [fact.text for fact in edits.untouched]
    true = toy.token_of(trained, [fact.target_true for fact in edits.untouched])
    unseen, beside = dict(zip(world.facts, world.unseen(), strict=True)), sum(edits.beside, ())
    new = [fact.target_new for fact in edits.facts]
    before = says(texts)
    with toy.written(layer, memory.W):
        fall = (before - says(texts))[torch.arange(len(texts)), true].numpy()
        look = {
            "edits": len(edits),
            "kept": right(texts, [fact.target_true for fact in edits.untouched]),
            "held": right([fact.text for fact in edits.facts], new),
            "held_unseen": right([unseen[fact] for fact in edits.facts], new),
            "beside": right([fact.text for fact in beside], [fact.target_true for fact in beside]),
            "fall": pytest.approx(fall.mean(), abs=1e-6),
        }
    assert data["looks"][-1] == look and data["edits"] == len(edits)
    np.testing.assert_allclose(arrays["edits_16"][0], fall, atol=1e-6)
    norm = np.linalg.norm(memory.measured_interference(keys.extract(trained, edits.untouched)[0]), axis=0)
    np.testing.assert_allclose(arrays["edits_16"][1 + toy.FORECASTS.index("norm")], norm, rtol=1e-9)


def test_the_slope_forecast_is_the_derivative(trained, edits, moment):
    layer, size = trained.layers[0], 1e-4
    W, k = layer.weight.double().numpy().copy(), edits.K[:, 0]
    memory = LinearMemory(W, moment)
    memory.edit(k, W @ k + size * (edits.values[:, 0] - W @ k))
    reading = forecast.read(trained, edits.untouched, 0)
    made = toy.forecasts(trained, reading, memory)
    assert tuple(made) == toy.FORECASTS
    with toy.written(layer, memory.W):
        fall = reading.log_probability - forecast.ask(trained, reading).log_probability
    # Llama's norms and softmax work in float32, whatever the weights are in.
    worst = np.abs(made["first_order"] - fall).max() / np.abs(fall).max()
    assert worst < 0.05 and np.corrcoef(made["first_order"], fall)[0, 1] > 0.995
    assert np.corrcoef(made["first_order_subject"], fall)[0, 1] < 0.99, "other positions count, too"
    drift = made["drift_subject"] - made["first_order_subject"]
    assert np.abs(drift).max() < 0.05 * np.abs(made["first_order_subject"]).max()


def test_a_model_that_does_not_come_back_is_an_error(trained, world, edits, moment, monkeypatch):
    digests = iter(["before", "after"])
    monkeypatch.setattr(models.LanguageModel, "digest", lambda model: next(digests))
    with pytest.raises(RuntimeError, match="not what they were"):
        toy.edit_sequence(trained, world, edits, moment)


def test_partners_are_counted_pair_by_pair(trained, world, edits, moment):
    counted = toy.partners(trained, world, edits, moment)
    layer, p, change, flips = trained.layers[0], [], [], []
    same = {True: [], False: []}
    before = forecast.read(trained, world.facts, 0)
    for i, fact in enumerate(edits.facts):
        memory, k = LinearMemory(layer.weight.double().numpy(), moment), edits.K[:, i]
        memory.edit(k, edits.values[:, i])
        with toy.written(layer, memory.W):
            after = forecast.ask(trained, before)
        m = np.linalg.solve(moment, k)
        for j, other in enumerate(world.facts):
            if not before.exact[j] or other == fact:
                continue
            if other.subject == fact.subject:
                same[other.prompt[0] == fact.prompt[0] == "{"].append(not after.exact[j])
            else:
                p.append(abs(m @ before.at_subject()[:, j] / (m @ k)))
                change.append(abs(after.log_probability[j] - before.log_probability[j]))
                flips.append(not after.exact[j])
    assert counted["pairs"] == np.histogram(p, toy.EDGES)[0].tolist() and sum(counted["pairs"]) > 20
    assert counted["flips"] == np.histogram(np.array(p)[flips], toy.EDGES)[0].tolist()
    assert counted["rank"] == pytest.approx(scipy.stats.spearmanr(p, change).statistic, abs=1e-3)
    assert counted["change"][0] == pytest.approx(np.mean(np.array(change)[np.array(p) < toy.EDGES[1]]), rel=1e-4)
    assert counted["same_subject"]["key"] == [sum(same[True]), len(same[True])]
    assert counted["same_subject"]["other_key"] == [sum(same[False]), len(same[False])] and all(same.values())


# The grid and the record


def test_the_grid_turns_one_knob_at_a_time_with_five_seeds_each():
    cells = grid.grid_settings()
    assert len(set(cells)) == len(cells)
    for cell in cells:
        assert {replace(cell, seed=seed) for seed in range(5)} <= set(cells)
        assert cell.families == 128 or (cell.width, cell.steps * 128) == (32, 200 * cell.families)


def test_an_interrupted_grid_goes_on_where_it_stopped(cache, tmp_path, monkeypatch):
    made = []

    def cell(setting):
        made.append(setting.seed)
        if made == [0, 1, 2]:
            raise KeyboardInterrupt
        return {"seed": setting.seed, "seconds": 0.5}, {"edits_16": np.ones((2, 3))}

    monkeypatch.setattr(grid, "grid_settings", lambda: [Setting(steps=0, seed=seed) for seed in (0, 1, 2)])
    monkeypatch.setattr(grid, "run_cell", cell)
    with pytest.raises(KeyboardInterrupt):
        grid.grid(tmp_path / "grid.json", "the command")
    assert not (tmp_path / "grid.json").exists()
    grid.grid(tmp_path / "grid.json", "the command")
    assert made == [0, 1, 2, 2], "finished cells are not run again"
    one, two, _ = sorted((cache / "toy-transformer").rglob("*.json"))
    one.write_text("{")
    two.write_text("[]")
    grid.grid(tmp_path / "grid.json", "the command")
    assert len(made) == 6, "damaged cells are run again"
    record = records.load(tmp_path / "grid.json")
    assert [row["seed"] for row in record["cells"]] == [0, 1, 2] and record["seconds"] == 1.5
    assert record["provenance"]["command"] == "the command"


@pytest.fixture(scope="module")
def record():
    return records.load("toy-transformer")


def test_the_record_is_the_whole_grid(record):
    cells = [Setting(*(row[name] for name in ("width", "families", "steps", "seed"))) for row in record["cells"]]
    assert cells == grid.grid_settings()
    assert record["provenance"]["command"].startswith("python experiments/grid.py grid --out ")
    assert max(toys.exactness(record)) < 1e-10
    assert toys.widths(record) == list(grid.WIDTHS)


def test_the_live_model_agrees_with_its_cell_of_the_record(record):
    world = make_world()
    lm = models.load(toy.folder(), dtype="float64")
    row = toys.select(record, edited=True, width=32)[0]
    for live, kept in zip(toy.overlaps(lm, world, toy.second_moments(lm, world)), row["overlaps"], strict=True):
        for kind in toys.LISTS:
            assert live[kind] == pytest.approx(kept[kind], rel=1e-3, abs=1e-3)


def test_random_keys_of_which_two_are_equal():
    rng, m, d_m = np.random.default_rng(1), 64, 512
    found = []
    for _ in range(20):
        K = rng.standard_normal((d_m, m))
        K[:, 1] = K[:, 0]
        found.append(toy.tails(*[overlap.superposition_matrix(K, np.eye(d_m))] * 2, d_m)["excess_kurtosis"])
    assert toys.twin_of_random_keys(np.array([d_m]), m)[0] == pytest.approx(np.mean(found), rel=0.1)


@pytest.mark.usefixtures("unchecked")
def test_training_runs_on_one_thread_and_gives_the_others_back(monkeypatch):
    before, seen, world = torch.get_num_threads(), [], make_world(families=64)
    monkeypatch.setattr(toy, "build", lambda setting: seen.append(torch.get_num_threads()))
    torch.set_num_threads(2)
    try:
        toy.train(world, Setting(families=64, steps=0))
        with pytest.raises(UserError):
            toy.train(world, Setting(families=65))
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_figures_draw_what_the_record_holds(record):
    line = figures.facts_kept_and_edits_held(record).axes[0].get_lines()[0]
    steps, kept = toys.course(record, 16, "kept")
    np.testing.assert_allclose(line.get_data(), [steps, kept.mean(0)])
    twin, untrained = figures.tails_by_width(record).axes[1].get_lines()[4:6]
    for drawn, trained in ((twin, True), (untrained, False)):
        means = toys.by_width(record, 1, "twin", "excess_kurtosis", trained=trained).mean(0)
        np.testing.assert_allclose(drawn.get_ydata(), means)
    history = figures.tails_by_history(record).axes[0].get_lines()[0]
    means = [toys.series(record, 0, "distinct", "excess_kurtosis", width=32, families=128, steps=n) for n in grid.STEPS]
    np.testing.assert_allclose(history.get_ydata(), np.mean(means, axis=1))
    dots = figures.forecasts_and_falls(record, 64).axes[1].collections[0].get_offsets()
    fall, made = toys.falls(record, 64)
    np.testing.assert_allclose(dots, np.stack([made["first_order"], fall], 1), rtol=1e-5)
    rank = scipy.stats.spearmanr(made["overlap"], fall).statistic
    assert toys.ranks(record, "overlap", 64)[0] == pytest.approx(rank, abs=1e-3)
    share = figures.reach_of_an_edit(record, [16]).axes[1].get_lines()[0]
    assert share.get_ydata()[0] == pytest.approx(toys.flips(record, 16, high=0.05).mean())


# What ships


def test_the_trained_model_that_ships_is_an_ordinary_folder():
    folder, world = toy.folder(), make_world()
    assert all(path.stat().st_size < 2_000_000 for path in folder.iterdir())
    assert [path.name for path in folder.glob("*.safetensors")] == ["model.safetensors"]
    lm = models.load(folder)
    known = toy.knows(lm, world)
    assert known["trained"] > 0.99 and known["held_out"] > 0.95
    listed = facts.load(folder / "facts.csv")
    assert [(f.text, f.target_true, f.target_new, f.paraphrases, f.relation) for f in listed] == [
        (f.text, f.target_true, f.target_new, f.paraphrases, f.relation) for f in world.facts
    ]
    lines = (folder / "sentences.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == world.sentences()


def test_its_command_trains_and_saves_it(tmp_path, capsys, monkeypatch, record):
    """A quarter of its steps, which the record has too: within 2 points of accuracy on any machine."""
    monkeypatch.setattr(grid, "BASE", replace(grid.BASE, steps=50))
    assert grid.main(["train", "--out", str(tmp_path)]) == 0
    (cell,) = (row for row in toys.select(record, width=32, families=128, steps=50) if row["seed"] == 0)
    assert json.loads(capsys.readouterr().out) == pytest.approx(cell["accuracy"], abs=0.02)
    for name in ("facts.csv", "relations.csv", "sentences.jsonl", "tokenizer.json"):
        assert files.sha256_of(tmp_path / name) == files.sha256_of(toy.folder() / name)
    assert models.load(tmp_path).layers[0].weight.shape == (32, 128)


def test_errors_for_people_leave_one_sentence(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(grid, "make_world", lambda *a: (_ for _ in ()).throw(UserError("No world today.")))
    assert grid.main(["train", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.strip() == "No world today."
