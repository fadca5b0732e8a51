"""The edit that runs through Part I: what is read from a model, and what it is asked."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import fifty
from superposition import editing, records
from superposition.book import example
from superposition.editing import targets
from superposition.linear import overlap, rules
from superposition.lm import keys, models, moments


@pytest.fixture(scope="module")
def tower(tmp_path_factory, model_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUPERPOSITION_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield example.load(model_folder)


def test_it_is_what_chapter_1_reads_line_by_line(tower, cache):
    lm = tower.lm
    layer = lm.layers[len(lm.layers) // 5]
    text = moments.estimate(lm, tokens=16 * layer.d_m, layers=[layer.index])
    target = targets.search(lm, [example.EDIT], layer.index)
    assert tower.layer is layer
    np.testing.assert_array_equal(tower.C, text.second_moment(layer.index))
    np.testing.assert_array_equal(tower.W, layer.weight.detach().double().numpy())
    np.testing.assert_allclose(tower.k, target.keys[:, 0])
    np.testing.assert_allclose(tower.v, target.values[:, 0])
    np.testing.assert_allclose(
        tower.others, keys.extract(lm, example.BYSTANDERS, layers=[layer.index])[layer.index], rtol=1e-5, atol=1e-6
    )


@pytest.fixture
def recorded(tower, tmp_path, monkeypatch):
    """As if the record of the fifty were of the tiny model."""
    monkeypatch.setattr(example, "EDITS", 3)
    monkeypatch.setattr(sys, "argv", ["fifty", tower.lm.name, "--out", str(tmp_path / "record.json")])
    monkeypatch.setattr(models, "load", lambda name: tower.lm)
    assert not fifty.main()
    monkeypatch.setattr(example, "RECORD", tmp_path / "record.json")
    return tower


def test_the_fifty_are_read_from_the_record_of_the_same_model(recorded, monkeypatch):
    searched = targets.search(recorded.lm, example.requests(), recorded.layer.index, batch=example.BATCH)
    monkeypatch.setattr(example.targets, "search", None)
    requests, read = example.fifty(recorded)
    assert requests[0].subject == "The Eiffel Tower" and len(requests) == 3
    for name in ("keys", "values", "shifts", "recalled", "loss", "first_loss", "steps", "probability"):
        value = getattr(searched, name)
        assert getattr(read, name).dtype == value.dtype
        np.testing.assert_allclose(getattr(read, name), value, rtol=1e-5, atol=1e-5 * abs(value).max())


def test_the_edit_itself_is_read_from_it_too(recorded, monkeypatch):
    monkeypatch.setattr(example.targets, "search", None)
    read = example.load("the tiny model").target
    assert len(read) == 1
    for name in ("keys", "values", "shifts", "recalled", "loss", "first_loss", "steps", "probability"):
        value = getattr(recorded.target, name)
        np.testing.assert_allclose(getattr(read, name), value, rtol=1e-5, atol=1e-5 * abs(value).max())


@pytest.mark.parametrize(
    "change", [{"edits": []}, {"layer": 17}, {"model": {"sha256": "of another"}}, {"settings": {"steps": 7}}]
)
def test_the_fifty_are_searched_for_where_the_record_is_of_something_else(recorded, monkeypatch, change):
    kept = records.load(example.RECORD)
    monkeypatch.setattr(records, "load", lambda name: replace(kept, data=kept.data | change))
    monkeypatch.setattr(example.targets, "search", lambda lm, facts, layer, batch: (len(facts), layer, batch))
    assert example.fifty(recorded)[1] == (3, recorded.layer.index, example.BATCH)
    assert example.load("the tiny model").target == (1, recorded.layer.index, example.BATCH)


def test_the_model_it_edits_moves_bystanders_by_p_delta(tower):
    lm, before = tower.lm, tower.lm.digest()
    K = np.column_stack([tower.k, tower.others])
    p = overlap.superposition_matrix(K, tower.C)[0, 1:]
    with editing.preserved(lm):
        editor = editing.Editor(lm, tower.layer.index, "rome", C=tower.C)
        editor.store(tower.target)
        moved = editor.measured(tower.others)
        np.testing.assert_allclose(editor.memory.W - tower.W, rules.rome(tower.W, tower.k, tower.v, tower.C), atol=1e-9)
    assert lm.digest() == before
    expected = np.outer(tower.v - tower.W @ tower.k, p)
    assert abs(moved - expected).max() < 1e-4 * abs(expected).max()


def test_chances_are_products_over_the_tokens_of_the_true_object(tower):
    lm = tower.lm
    for fact, chance in zip(example.BYSTANDERS, example.chances(lm, example.BYSTANDERS), strict=True):
        prompt = lm.tokenizer(fact.text)["input_ids"]
        ids = lm.tokenizer(f"{fact.text} {fact.target_true}")["input_ids"]
        assert ids[: len(prompt)] == prompt
        with torch.no_grad():
            logs = lm.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        naive = np.exp(sum(float(logs[at - 1, ids[at]]) for at in range(len(prompt), len(ids))))
        assert chance == pytest.approx(naive, rel=1e-4)


def test_it_goes_on_greedily_up_to_the_end_of_the_line(tower, monkeypatch):
    asked = example.ask(tower.lm, example.BYSTANDERS[:2])
    assert [chance for _, chance in asked] == example.chances(tower.lm, example.BYSTANDERS[:2])
    assert [words for words, _ in asked] == [example.went_on(tower.lm, fact.text, 4) for fact in example.BYSTANDERS[:2]]
    monkeypatch.setattr(example.scoring, "generate", lambda model, prompt, tokens: " Paris.\nThe Eiffel")
    assert example.went_on(tower.lm, "x") == "Paris."


def test_the_model_is_that_of_the_chapters(monkeypatch, model_folder):
    monkeypatch.setenv("SUPERPOSITION_MODEL", str(model_folder))
    assert models.load(example.model_name()).name == models.load(model_folder).name


def test_only_the_eiffel_tower_is_edited():
    assert example.EDIT.target_new and not any(fact.target_new for fact in example.BYSTANDERS)
    assert len({fact.subject for fact in (example.EDIT, *example.BYSTANDERS)}) == 6
    assert {fact.prompt for fact in (example.EDIT, *example.BYSTANDERS)} == {example.PROMPT}
