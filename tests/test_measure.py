"""A measurement from end to end on a tiny model: every number of the record and of the matrices, by another way."""

import csv
import json
from dataclasses import fields

import numpy as np
import pytest
import scipy.stats
import torch
from conftest import CONTEXT, tiny
from test_keys import naive_keys
from test_moments import naive

from superposition.data import facts
from superposition.errors import UserError
from superposition.io import files
from superposition.linear import overlap, shrinkage
from superposition.lm import models, moments
from superposition.lm.calibration import Calibration
from superposition.measure import MATRICES, measure
from superposition.stats import shape

pytestmark = pytest.mark.usefixtures("cache")

ROWS = [
    ("Tokyo", "{} is a city in"),
    ("France", "The capital of {} is"),
    ("Pelé", "{} plays the sport of"),
    ("France", "The capital of {} is"),
    ("Mount Everest", "{} lies in"),
    ("Windows", "people know that {} was developed by"),
]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "facts.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["subject", "prompt", "relation"])
        writer.writerows([subject, prompt, f"P{number}"] for number, (subject, prompt) in enumerate(ROWS))
    return path


def run(table, corpus, architecture="llama", **options):
    return called(tiny(architecture), table, corpus, **{"resamples": 40} | options)


def called(model, table, corpus, **options):
    of_c = {field.name: options.pop(field.name) for field in fields(Calibration) if field.name in options}
    return measure(model, table, Calibration(corpus, **of_c), **options)


def comparable(data):
    """The record without what a second run may change: times and memory."""
    data = {name: value for name, value in data.items() if name != "seconds"}
    data["provenance"] = {name: v for name, v in data["provenance"].items() if not name.startswith("peak")}
    return data


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_matrices_are_those_of_the_naive_procedure(table, corpus, architecture):
    found, model = run(table, corpus, architecture), tiny(architecture)
    keys = naive_keys(model, facts.load(table))
    outer, _, tokens = naive(model, corpus)
    assert set(found.matrices) == set(MATRICES)
    for place, index in enumerate((0, 1, 2)):
        inverse = np.linalg.inv(outer[index] / tokens)
        K = keys[index]
        white = K.T @ inverse @ K
        P = white / np.diag(white)[:, None]
        norms, lengths = np.sqrt(np.diag(white)), np.linalg.norm(K, axis=0)
        assert np.abs(found.matrices["P"][place] - P).max() < 1e-4
        np.testing.assert_allclose(found.matrices["Q"][place], K.T @ K, atol=1e-4 * np.abs(K.T @ K).max())
        assert np.abs(found.matrices["cosine_whitened"][place] - white / np.outer(norms, norms)).max() < 1e-4
        assert np.abs(found.matrices["cosine_raw"][place] - K.T @ K / np.outer(lengths, lengths)).max() < 1e-4
        np.testing.assert_allclose(found.matrices["norm_whitened"][place], norms, rtol=1e-4)
        row = found.data["statistics"][place]
        assert row["layer"] == index and row["d_m"] == 40
        assert row["condition"] == pytest.approx(np.linalg.cond(outer[index]), rel=1e-2)
        values = P[~np.eye(len(P), dtype=bool)]
        assert row["P"]["mean"] == pytest.approx(values.mean(), abs=1e-4)
        assert row["P"]["excess_kurtosis"] == pytest.approx(scipy.stats.kurtosis(values), rel=1e-2, abs=1e-2)
        for name in ("P", "cosine_whitened", "cosine_raw"):
            assert row[name] == shape.summary(found.matrices[name][place], resamples=40)
        assert np.array_equal(found.overlaps(index).P, found.matrices["P"][place])


def test_the_record_holds_the_facts_in_their_order_none_dropped(table, corpus):
    data = run(table, corpus).data
    listed = facts.load(table)
    assert data["subjects"] == [subject for subject, _ in ROWS] == [fact.subject for fact in listed]
    assert data["relations"] == [f"P{number}" for number in range(6)]
    assert data["facts"]["count"] == 6 and data["facts"]["sha256"] == files.sha256_of(table)
    cutter = tiny().tokenizer
    for fact, place, token in zip(listed, data["token_positions"], data["token_ids"], strict=True):
        assert cutter(fact.text)["input_ids"][place] == token
        assert cutter.decode(cutter(fact.text)["input_ids"][: place + 1]).endswith(fact.subject)
    # A fact that stands twice overlaps itself wholly.
    assert run(table, corpus).matrices["P"][:, 1, 3] == pytest.approx(1)


def test_the_record_says_what_was_run(table, corpus):
    model = tiny()
    options = {"tokens": 500, "skip_first": 1, "layers": [2, 0], "shrinkage": 0.1, "centred": True, "seed": 4}
    data = run(table, corpus, command="as typed", **options).data
    assert data["kind"] == "measurement"
    assert data["model"] == {"name": "llama", "sha256": model.sha256, "architecture": "LlamaForCausalLM"}
    assert data["text"] == {
        "source": str(corpus), "sha256": files.sha256_of(corpus), "tokens": 500, "skip_first": 1, "context": CONTEXT,
    }  # fmt: skip
    assert (data["layers"], data["dtype"]) == ([0, 2], "float32")
    assert (data["shrinkage"], data["centred"]) == (0.1, True)
    assert (data["provenance"]["command"], data["provenance"]["seed"]) == ("as typed", 4)
    assert set(data["seconds"]) == {"moments", "keys", "overlap", "moments_from_cache"}
    assert data["processes"] == 1
    json.dumps(data, allow_nan=False)


def test_the_same_run_gives_the_same_record_with_and_without_the_cache_and_in_groups(
    table, corpus, tmp_path, monkeypatch
):
    found = [run(table, corpus), run(table, corpus)]
    for name, memory in (("another", None), ("third", 8 * 40 * 40)):
        monkeypatch.setenv("SUPERPOSITION_CACHE", str(tmp_path / name))
        found.append(run(table, corpus, memory=memory))
    for other in found[1:]:
        assert comparable(other.data) == comparable(found[0].data)
        for name, stack in found[0].matrices.items():
            assert np.array_equal(other.matrices[name], stack)


@pytest.mark.parametrize(
    "options", [{"layers": [1]}, {"limit": 4}, {"batch": 1}, {"batch": 4}, {"resamples": 0}], ids=str
)
def test_what_is_left_out_or_batched_does_not_change_the_rest(table, corpus, options):
    everything = run(table, corpus)
    some = run(table, corpus, **options)
    layers, m = options.get("layers", [0, 1, 2]), options.get("limit", 6)
    assert some.data["layers"] == layers and some.data["subjects"] == everything.data["subjects"][:m]
    for name in ("P", "Q", "cosine_whitened", "cosine_raw"):
        expected = everything.matrices[name][layers, :m, :m]
        np.testing.assert_allclose(some.matrices[name], expected, atol=1e-5 * max(1, np.abs(expected).max()))


def test_a_shrinkage_can_be_left_to_oas_layer_by_layer(table, corpus):
    found, summed = run(table, corpus, shrinkage="oas"), moments.estimate(tiny(), corpus)
    for place, row in enumerate(found.data["statistics"]):
        s = shrinkage.oas(summed.second_moment(place), summed.tokens)
        assert row["shrinkage"] == s and 0 < s < 1
        fixed = run(table, corpus, shrinkage=s, layers=[place])
        assert np.array_equal(fixed.matrices["P"][0], found.matrices["P"][place])
    assert found.data["shrinkage"] == "oas"
    assert run(table, corpus, shrinkage=0.25).data["statistics"][0]["shrinkage"] == 0.25


@pytest.mark.parametrize(
    "options", [{"skip_first": 3}, {"context": 20}, {"shrinkage": 0.5}, {"centred": True}, {"tokens": 400}], ids=str
)
def test_options_of_c_change_p_as_they_change_c(table, corpus, options):
    plain, found = run(table, corpus), run(table, corpus, **options)
    of_c = {name: options[name] for name in ("shrinkage", "centred") if name in options}
    of_text = {name: value for name, value in options.items() if name not in of_c}
    outer, total, tokens = naive(tiny(), corpus, **of_text)
    sums = moments.Moments(
        {i: torch.from_numpy(outer[i]) for i in outer}, {i: torch.from_numpy(total[i]) for i in total}, tokens
    )
    keys = naive_keys(tiny(), facts.load(table))
    for place in range(3):
        expected = overlap.superposition_matrix(keys[place], sums.second_moment(place, **of_c))
        assert np.abs(found.matrices["P"][place] - expected).max() < 1e-4
    assert np.abs(found.matrices["P"] - plain.matrices["P"]).max() > 1e-3
    assert found.matrices["Q"] == pytest.approx(plain.matrices["Q"])


def test_no_pass_takes_more_than_a_batch(table, corpus, monkeypatch):
    read, sizes = models.LanguageModel.read_keys, []
    monkeypatch.setattr(
        models.LanguageModel, "read_keys", lambda self, i, *a: sizes.append(len(i)) or read(self, i, *a)
    )
    run(table, corpus, batch=2)
    assert set(sizes[-3:]) == {2} and max(sizes) == 2
    sizes.clear()
    run(table, corpus, tokens=300)
    assert sizes[-1] == 6 and max(sizes[:-1]) > 2


def test_two_files_are_written_and_nothing_else(table, corpus, tmp_path):
    found = run(table, corpus)
    found.write(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["matrices.npz", "measurement.json"]
    with np.load(tmp_path / "out" / "matrices.npz") as archive:
        assert set(archive.files) == set(MATRICES)
        for name, stack in found.matrices.items():
            assert archive[name].dtype == np.float32
            np.testing.assert_allclose(archive[name], stack, rtol=1e-6)
    data = json.loads((tmp_path / "out" / "measurement.json").read_text(encoding="utf-8"))
    assert data == json.loads(json.dumps(found.data)) | {"matrices": "matrices.npz"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tokens": 39}, r"C of width 40 is singular when estimated from 39 tokens: ask for at least 40"),
        ({"tokens": 0}, "0 tokens were asked for"),
        ({"tokens": -5}, "-5 tokens were asked for"),
        ({"tokens": 10**6}, "and 1,000,000 were asked for"),
        ({"skip_first": -1}, "cannot be -1"),
        ({"skip_first": 500}, "leave nothing after"),
        ({"context": 0}, "Windows of 0 tokens"),
        ({"layers": [9]}, "has layers 0 to 2"),
        ({"limit": 0}, "limit of 0"),
        ({"limit": -2}, "limit of -2"),
        ({"limit": 2}, "at least three facts, and .* gives 2"),
        ({"batch": -1}, "batch of -1"),
        ({"batch": 0}, "batch of 0"),
        ({"shrinkage": 2.0}, "A shrinkage of 2.0"),
        ({"resamples": -1}, "-1 resamples"),
        ({"seed": -1}, "A seed of -1"),
        ({}, "The prompt of 'Tokyo' has"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_stop_before_the_first_forward_pass(table, corpus, options, sentence):
    model, long = tiny(), table.with_name("long.csv")
    long.write_text(table.read_text(encoding="utf-8") + "Tokyo," + "a b c d e " * 40 + "{} is,P1\n", encoding="utf-8")
    model.model.base_model.forward = lambda *_, **__: pytest.fail("a forward pass")
    with pytest.raises(UserError, match=sentence):
        called(model, table if options else long, corpus, **options)


def test_a_text_that_is_too_short_for_c_says_so(table, corpus):
    with pytest.raises(UserError, match=r"C of width 40 takes at least 160: give a longer --text"):
        run(table, corpus, skip_first=90)
    with pytest.raises(UserError, match="ask for at least 40"):
        run(table, corpus, tokens=20)
    assert run(table, corpus, tokens=20, shrinkage=0.1).data["text"]["tokens"] == 20


def test_three_facts_will_do(table, corpus):
    data = run(table, corpus, limit=3).data
    assert data["facts"]["count"] == 3
    json.dumps(data, allow_nan=False)
