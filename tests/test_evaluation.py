"""Evaluation against a naive loop: one text a forward pass, all logits, greedy decoding step by step."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny
from hypothesis import given
from hypothesis import strategies as st

from superposition.data import text
from superposition.data.facts import Fact
from superposition.editing import evaluation
from superposition.errors import UserError
from superposition.io import console
from superposition.lm import scoring, tracing

PROMPTS = ["The capital of France is", "The capital of France is", "Tokyo", "She sells sea shells on the sea", "Keys"]
OBJECTS = ["Paris", "Paris, and the capital", "is a city", "shore", "overlap where the model has"]


def naive(lm, prompt, continuation):
    """(log-probability, tokens, whether greedy decoding gives it)."""
    ids = lm.tokenizer(f"{prompt} {continuation}")["input_ids"]
    first = len(lm.tokenizer(prompt)["input_ids"])
    logs = lm.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    total = sum(float(logs[at - 1, ids[at]]) for at in range(first, len(ids)))
    told = ids[:first]
    for _ in range(first, len(ids)):
        told = [*told, int(lm.model(torch.tensor([told])).logits[0, -1].argmax())]
    return total, len(ids) - first, told == ids


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3_text", "gpt_neox", "opt"])
@pytest.mark.parametrize("batch", [1, 4])
def test_scores(architecture, batch):
    lm = tiny(architecture)
    own = [scoring.generate(lm, "Tokyo is", 1).strip() or "a"]
    prompts, objects = [*PROMPTS, "Tokyo is"], [*OBJECTS, *own]
    found = scoring.score(lm, prompts, objects, batch=batch)
    for i, pair in enumerate(zip(prompts, objects, strict=True)):
        total, tokens, exact = naive(lm, *pair)
        assert found.log_probability[i] == pytest.approx(total, rel=1e-4)
        assert (found.tokens[i], bool(found.exact[i])) == (tokens, exact)
    np.testing.assert_array_equal(scoring.log_probability(lm, prompts, objects, batch=batch), found.log_probability)


def test_exact_means_what_greedy_decoding_gives():
    lm = tiny("llama")
    tokenizer = lm.tokenizer
    prompt = "The capital of France is"
    ids = lm.model.generate(
        torch.tensor([tokenizer(prompt)["input_ids"]]), do_sample=False, max_new_tokens=4, pad_token_id=0
    )[0].tolist()

    class Fixed:
        """A tokenizer that knows two texts only, so that the greedy answer need not survive a round trip."""

        def __call__(self, asked, **_options):
            tokens = ids if asked.endswith("right") else [*ids[:-1], (ids[-1] + 1) % 300]
            start = len(tokenizer(prompt)["input_ids"])
            spans = [(0, 1)] * start + [(len(prompt) + 1, len(prompt) + 2)] * (len(ids) - start)
            return {"input_ids": tokens, "offset_mapping": spans}

    lm.tokenizer = Fixed()
    assert scoring.score(lm, [prompt] * 2, ["right", "wrong"]).exact.tolist() == [True, False]


@given(st.lists(st.lists(st.integers(0, 2), max_size=5).map(tuple), min_size=1, max_size=12))
def test_a_text_is_run_once(sequences):
    kept, home = scoring._longest(sequences)
    for sequence, host in zip(sequences, home, strict=True):
        assert kept[host][: len(sequence)] == sequence
    for i, one in enumerate(kept):
        assert not any(other[: len(one)] == one for j, other in enumerate(kept) if j != i)


def test_perplexity(corpus):
    lm = tiny("gpt2")
    windows = text.windows(text.read(corpus), lm.tokenizer, tokens=300, skip_first=1, context=40)
    total, count = 0.0, 0
    for window in windows:
        logs = lm.model(torch.tensor([window.token_ids])).logits[0].log_softmax(-1)
        for at in range(window.first, window.stop):
            total, count = total - float(logs[at - 1, window.token_ids[at]]), count + 1
    assert count == 300
    assert scoring.perplexity(lm, windows) == pytest.approx(np.exp(total / count), rel=1e-4)
    with pytest.raises(UserError, match="skip_first"):
        scoring.perplexity(lm, text.windows(text.read(corpus), lm.tokenizer, tokens=30))


def test_held_out_text_is_from_the_end():
    lm = tiny("llama")
    windows = scoring.held_out(lm, 50, context=64)
    last = list(text.read("book"))[-1]
    assert windows[0].token_ids == tuple(lm.tokenizer(last)["input_ids"][:64])
    assert sum(window.counted for window in windows) == 50 and all(window.first == 1 for window in windows)


def _facts(lm):
    best = scoring.generate(lm, "The capital of France is", 1).strip()
    return [
        Fact("France", "The capital of {} is", best or "a", "Madrid", paraphrases=("In France", "Of France")),
        Fact("Tokyo", "{} is a city in", "Japan", "Spain", neighbourhood=("Kyoto is in", "Osaka is in", "Kobe is in")),
    ]


def test_known_facts_are_kept_by_content(cache, monkeypatch):
    lm = tiny("llama")
    listed = _facts(lm)
    expected = [f for f in listed if naive(lm, f.text, f.target_true)[2]]
    assert scoring.known(lm, listed) == expected
    asked = []
    monkeypatch.setattr(scoring, "score", lambda *a, **k: asked.append(a) or pytest.fail("asked again"))
    assert scoring.known(lm, listed[::-1]) == expected[::-1]
    lm.layers[0].module.weight.data *= 1.5  # another model
    with pytest.raises(BaseException, match="asked again"):
        scoring.known(lm, listed)


@pytest.mark.parametrize("content", ["", "[1]", None])
def test_a_damaged_cache_of_known_facts_is_made_afresh(cache, content):
    lm = tiny("llama")
    listed = _facts(lm)
    expected = scoring.known(lm, listed)
    (path,) = (cache / "known").iterdir()
    before = path.read_bytes()
    path.unlink()
    path.mkdir() if content is None else path.write_text(content)
    if content is None:
        with pytest.warns(console.SuperpositionWarning, match="not kept in the cache"):
            assert scoring.known(lm, listed) == expected
    else:
        assert scoring.known(lm, listed) == expected
        with np.load(path) as now, np.load(io.BytesIO(before)) as then:
            assert now["plain content"] == then["plain content"]


def test_edits_are_judged_by_comparison_and_exactly():
    lm = tiny("llama")
    listed = _facts(lm)
    found = evaluation.evaluate(lm, listed)
    new = [naive(lm, f.text, f.target_new) for f in listed]
    true = [naive(lm, f.text, f.target_true) for f in listed]
    np.testing.assert_allclose(found["log_new"], [one[0] for one in new], rtol=1e-4)
    np.testing.assert_allclose(found["log_true"], [one[0] for one in true], rtol=1e-4)
    assert found["success"]["share"] == np.mean([a[0] > b[0] for a, b in zip(new, true, strict=True)])
    assert found["exact"]["share"] == np.mean([one[2] for one in new]) and found["hit"] == [one[2] for one in new]
    near = [(naive(lm, p, "Japan"), naive(lm, p, "Spain")) for p in listed[1].neighbourhood]
    assert found["neighbourhood_success"]["share"] == np.mean([a[0] > b[0] for a, b in near])
    assert found["neighbourhood_exact"]["share"] == np.mean([a[2] for a, _ in near])
    again = [(naive(lm, p, "Madrid"), naive(lm, p, listed[0].target_true)) for p in listed[0].paraphrases]
    assert found["paraphrase_success"]["share"] == np.mean([a[0] > b[0] for a, b in again])
    fewer = evaluation.evaluate(lm, listed, paraphrases=1, neighbours=2)
    assert (fewer["paraphrase_success"]["n"], fewer["neighbourhood_success"]["n"]) == (1, 2)
    assert evaluation.evaluate(lm, listed, paraphrases=0)["paraphrase_exact"]["n"] == 0
    tied = evaluation.evaluate(lm, [replace(listed[0], target_new=listed[0].target_true)])
    assert tied["success"]["share"] == tied["paraphrase_success"]["share"] == 0  # a tie is no success
    nameless = [replace(f, target_true=None) for f in listed]
    alone = evaluation.evaluate(lm, [listed[0], nameless[1]])
    assert (alone["success"]["n"], alone["exact"]["n"], alone["neighbourhood_success"]["n"]) == (1, 2, 0)
    assert alone["log_true"][1] is None and alone["paraphrase_exact"] == found["paraphrase_exact"]


def test_bystanders():
    lm = tiny("llama")
    listed = _facts(lm)
    before = evaluation.untouched(lm, listed)
    assert "change" not in before and before["hit"][0] == naive(lm, listed[0].text, listed[0].target_true)[2]
    lm.layers[1].module.weight.data *= 2
    after = evaluation.untouched(lm, listed, before["log_true"])
    expected = np.mean(np.subtract(after["log_true"], before["log_true"]))
    assert after["change"]["mean"] == pytest.approx(expected) and abs(expected) > 1e-3


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_tracing(architecture):
    lm = tiny(architecture)
    fact = Fact("France", "The capital of {} is", "Paris")
    ids = lm.tokenizer(fact.text)["input_ids"]
    first = lm.tokenizer(f"{fact.text} Paris")["input_ids"][len(ids)]
    found = tracing.trace(lm, fact, samples=2, batch=5)
    clean = lm.model(torch.tensor([ids])).logits[0, -1].softmax(-1)[first]
    assert found["clean"] == pytest.approx(float(clean), rel=1e-4)
    # everything after the last layer at the last token is clean again; at other tokens nothing reaches the head
    subject, _, last = np.array(found["restored"])
    assert last[-1] == pytest.approx(found["clean"], rel=1e-4)
    assert subject[-1] == pytest.approx(found["corrupted"], rel=1e-4) and found["corrupted"] != found["clean"]
    assert abs(subject[0] / found["corrupted"] - 1) > 1e-3
    # no noise: nothing is spoilt
    calm = tracing.trace(lm, fact, noise=0.0, samples=1, kind="mlp")
    np.testing.assert_allclose(calm["restored"], found["clean"], rtol=1e-4)
    # a window over all layers puts all of them back
    wide, narrow = (tracing.trace(lm, fact, samples=2, kind="mlp", window=w, layers=[1]) for w in (9, 1))
    assert abs(wide["restored"][0][0] / narrow["restored"][0][0] - 1) > 1e-4
    with pytest.raises(UserError, match="state or mlp"):
        tracing.trace(lm, fact, kind="all")
    with pytest.raises(UserError, match="target_true"):
        tracing.trace(lm, Fact("France", "{} is"))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda lm: scoring.score(lm, ["a"], []), "one each"),
        (lambda lm: scoring.score(lm, [], []), "one each"),
        (lambda lm: scoring.score(lm, ["Keys"], [" "]), "empty"),
        (lambda lm: scoring.score(lm, [" "], ["Keys"]), "no token before"),
        (lambda lm: scoring.score(lm, ["Keys"], ["overlap"], batch=0), "batch"),
        (lambda lm: scoring.score(lm, ["Keys " * 100], ["overlap"]), "shorten"),
        (lambda lm: scoring.known(lm, [Fact("A", "{} is")]), "target_true"),
        (lambda lm: evaluation.evaluate(lm, [Fact("A", "{} is", "b")]), "target_new"),
        (lambda lm: evaluation.untouched(lm, [Fact("A", "{} is")]), "target_true"),
    ],
)
def test_what_cannot_be(call, said):
    with pytest.raises(UserError, match=said):
        call(tiny("llama"))
