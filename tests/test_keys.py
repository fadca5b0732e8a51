"""Keys against a loop that reads one prompt at a time, and that nothing but the facts changes them."""

import inspect
import itertools

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES, tiny, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from superposition.data.facts import Fact
from superposition.errors import UserError
from superposition.linear import overlap
from superposition.lm import keys, models, moments

FACTS = [
    Fact("France", "The capital of {} is"),
    Fact("Mount Everest", "{} lies in"),
    Fact("Tokyo", "In the year 1984 people moved to the city of {}, where"),
    Fact("Pelé", "{} plays the sport of"),
    Fact("France", "The capital of {} is"),
    Fact("東京語", "The language {} is spoken in"),
    Fact("Windows", "Windows blows over the hills; {}"),
    Fact("a", "{}"),
    Fact("São Paulo", "the people of {} speak"),
]


def naive_position(cutter, fact):
    """The subject's last token by brute force: the last one whose characters include the subject's last."""
    stop = len(fact.prompt.split("{}")[0]) + len(fact.subject)
    encoded = cutter(fact.text, return_offsets_mapping=True)
    inside = [n for n, (a, b) in enumerate(encoded["offset_mapping"]) if set(range(a, b)) & {stop - 1}]
    return encoded["input_ids"], max(inside)


def naive_keys(model, facts):
    """One prompt a forward pass, the whole model, a hook on the module itself."""
    found, caught = {layer.index: [] for layer in model.layers}, {}
    hooks = [
        layer.module.register_forward_hook(lambda _m, x, _y, i=layer.index: caught.__setitem__(i, x[0]))
        for layer in model.layers
    ]
    for fact in facts:
        ids, place = naive_position(model.tokenizer, fact)
        with torch.no_grad():
            model.model(torch.tensor([ids]))
        for index, inputs in caught.items():
            found[index].append(inputs.reshape(-1, inputs.shape[-1])[place].double().numpy())
    for hook in hooks:
        hook.remove()
    return {index: np.stack(columns, axis=1) for index, columns in found.items()}


def close(a, b, within=1e-5):
    """Within a share of the largest entry."""
    a, b = np.asarray(a), np.asarray(b)
    np.testing.assert_allclose(a, b, rtol=0, atol=within * np.abs(b).max())


# Where the key is


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.text)
def test_the_key_sits_at_the_last_token_of_the_subject(fact, bos):
    cutter = tokenizer(bos)
    found = keys.locate(cutter, fact)
    ids, place = naive_position(cutter, fact)
    assert (list(found.token_ids), found.position) == (ids, place)
    assert found.token_id == ids[place]
    # What comes before the next token is the prompt up to the subject's end, and no less.
    start, stop = fact.subject_span
    upto = cutter.decode(ids[: place + 1], skip_special_tokens=True)
    assert fact.text.startswith(upto) and len(upto) >= stop
    assert len(cutter.decode(ids[:place], skip_special_tokens=True).replace("\ufffd", "")) < stop
    assert start < stop


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=6),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="{}"), max_size=8),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="{}"), max_size=8),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_any_subject_in_any_prompt_is_read_to_its_end(subject, before, after, bos):
    if "{}" in subject:
        return
    fact, cutter = Fact(subject, before + "{}" + after), tokenizer(bos)
    found = keys.locate(cutter, fact)
    upto = cutter.decode(list(found.token_ids[: found.position + 1]), skip_special_tokens=True)
    assert len(upto) >= fact.subject_span[1] and fact.text.startswith(upto.rstrip("\ufffd"))
    assert (list(found.token_ids), found.position) == naive_position(cutter, fact)


def test_the_subject_counts_where_its_slot_is_not_where_its_letters_are_first():
    fact = Fact("a", "a capital a {} a")
    found = keys.locate(tokenizer(), fact)
    assert tokenizer()(fact.text, return_offsets_mapping=True)["offset_mapping"][found.position][1] == 13


def test_a_subject_that_no_token_holds_gets_a_sentence():
    with pytest.raises(UserError, match=r"The subject 'France ' was not found in the tokens of"):
        keys.locate(tokenizer(), Fact("France ", "The capital of {}"))


# The keys


@pytest.mark.parametrize(
    "architecture, bos", [*((one, False) for one in ARCHITECTURES), ("gpt2", True), ("llama", True)]
)
def test_keys_are_those_of_one_prompt_at_a_time_and_the_models_bits_stay(architecture, bos):
    model = tiny(architecture, bos=bos)
    before = models.digest(model.model)
    found, expected = keys.extract(model, FACTS), naive_keys(model, FACTS)
    assert list(found.by_layer) == [0, 1, 2]
    for index in expected:
        assert found[index].dtype == np.float64 and found[index].shape == (40, len(FACTS))
        close(found[index], expected[index])
        assert np.ptp(expected[index], axis=1).max() > 0.1  # the facts' keys differ at all
    assert [(list(token.token_ids), token.position) for token in found.tokens] == [
        naive_position(model.tokenizer, fact) for fact in FACTS
    ]
    assert models.digest(model.model) == before
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.model.modules())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("architecture, batch", [*zip(ARCHITECTURES, itertools.cycle([1, 2, 4, 100]), strict=False)])
def test_neither_batch_nor_padding_changes_the_keys(architecture, side, batch):
    model = tiny(architecture)
    found, expected = keys.extract(model, FACTS, batch=batch, padding_side=side), naive_keys(model, FACTS)
    for index in expected:
        close(found[index], expected[index])


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama", "mistral", "gemma3_text"])
def test_p_is_the_same_for_any_batch_padding_and_number_of_threads(architecture, corpus, threads):
    model = tiny(architecture)
    facts = [fact for n, fact in enumerate(FACTS) if n != 7]
    found = []
    for number, batch, side in ((1, 1, "right"), (1, 100, "left"), (2, 3, "left")):
        threads(number)
        sums = moments.estimate(model, corpus, tokens=300, batch=batch, cache=False)
        read = keys.extract(model, facts, batch=batch, padding_side=side)
        found.append([overlap.superposition_matrix(read[i], sums.second_moment(i, shrinkage=1e-3)) for i in range(3)])
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "phi"])
def test_the_pass_stops_after_the_last_layer_asked_for(architecture):
    model = tiny(architecture)
    everything, ran = keys.extract(model, FACTS), []
    for layer in model.layers:
        layer.module.register_forward_hook(lambda *_, i=layer.index: ran.append(i))
    some = keys.extract(model, FACTS, layers=[1, 0], batch=4)
    # Three batches ran the first layer whole, and none the second's module, let alone the third.
    assert ran == [0, 0, 0]
    assert list(some.by_layer) == [0, 1]
    for index in (0, 1):
        close(some[index], everything[index])
    ran.clear()
    assert list(keys.extract(model, FACTS, layers=[-1]).by_layer) == [2] and ran == [0, 1]


# What goes wrong


LONG = Fact("Tokyo", "a b c d e " * 40 + "{} is")


@pytest.mark.parametrize(
    ("facts", "options", "sentence"),
    [
        ([], {}, "There are no facts"),
        (FACTS, {"batch": 0}, "batch of 0 makes no sense"),
        (FACTS, {"layers": [5]}, "layers 0 to 2"),
        (FACTS, {"layers": []}, "none"),
        ([*FACTS, LONG], {}, r"The prompt of 'Tokyo' has \d+ tokens and the model takes 96: shorten it"),
    ],
)
def test_what_makes_no_sense_gets_a_sentence(facts, options, sentence):
    with pytest.raises(UserError, match=sentence):
        keys.extract(tiny(), facts, **options)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_weights_get_a_sentence(value):
    model = tiny("gpt2")
    model.layers[1].module.weight[0, 0] = value  # spoils what follows layer 1
    assert np.isfinite(keys.extract(model, FACTS, layers=[0, 1])[1]).all()
    with pytest.raises(UserError, match="Layer 2 gives NaN or infinity at a subject"):
        keys.extract(model, FACTS)
    assert not any(module._forward_pre_hooks for module in model.model.modules())


def test_a_key_that_is_infinite_gets_a_sentence():
    model = tiny("gpt2")
    model.model.transformer.h[1].mlp.c_fc.bias[0] = float("inf")
    with pytest.raises(UserError, match="Layer 1 gives NaN or infinity at a subject"):
        keys.extract(model, FACTS, layers=[0, 1])


ON_GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
ON_CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you …")


def out_of_memory(model, monkeypatch, above, error=ON_GPU):
    """The body runs out of memory for every batch above a size; the sizes tried are returned."""
    forward, tried = model.model.base_model.forward, []

    def limited(ids, *args, **kwargs):
        tried.append(len(ids))
        if len(ids) > above:
            raise error
        return forward(ids, *args, **kwargs)

    limited.__signature__ = inspect.signature(forward)
    monkeypatch.setattr(model.model.base_model, "forward", limited)
    return tried


@pytest.mark.parametrize("error", [ON_GPU, ON_CPU], ids=["gpu", "cpu"])
def test_out_of_memory_makes_batches_smaller(monkeypatch, error):
    model = tiny("gptj")
    expected = naive_keys(model, FACTS)
    tried = out_of_memory(model, monkeypatch, 3, error)
    found = keys.extract(model, FACTS, batch=5)
    assert tried[0] == 5 and set(tried[-3:]) == {3}
    for index in expected:
        close(found[index], expected[index])


def test_memory_that_does_not_suffice_for_one_prompt_gets_a_sentence(monkeypatch):
    model = tiny()
    out_of_memory(model, monkeypatch, 0)
    with pytest.raises(UserError, match="Memory does not suffice for one text at a time: give fewer --layers"):
        keys.extract(model, FACTS, batch=2)
    assert not any(module._forward_pre_hooks for module in model.model.modules())


def test_any_other_error_is_not_taken_for_a_lack_of_memory(monkeypatch):
    model = tiny()
    tried = out_of_memory(model, monkeypatch, 0, RuntimeError("a shape does not fit"))
    with pytest.raises(RuntimeError, match="a shape does not fit"):
        keys.extract(model, FACTS, batch=4)
    assert tried == [4]


# The real model


@pytest.mark.real_model
def test_smollm2s_keys_and_p_are_the_same_for_any_batch_padding_and_number_of_threads(smollm2, english, threads):
    facts = [*FACTS[:4], *FACTS[5:7], FACTS[8], Fact("Microsoft Windows", "{} was developed by")]
    layers, found = [0, 1], []
    for number, batch, side in ((1, 1, "right"), (2, 3, "left")):
        threads(number)
        sums = moments.estimate(smollm2, english, tokens=4000, layers=layers, batch=batch, cache=False)
        read = keys.extract(smollm2, facts, layers=layers, batch=batch, padding_side=side)
        found.append((read, [overlap.superposition_matrix(read[i], sums.second_moment(i)) for i in layers]))
    for read, matrices in found[1:]:
        for index in layers:
            close(read[index], found[0][0][index])
        np.testing.assert_allclose(matrices, found[0][1], rtol=0, atol=1e-5)


@pytest.mark.real_model
def test_smollm2s_keys_are_those_of_one_prompt_at_a_time_and_its_weights_stay(smollm2):
    before, facts = models.digest(smollm2.model), FACTS[:4]
    found, expected = keys.extract(smollm2, facts, padding_side="left"), naive_keys(smollm2, facts)
    for index in expected:
        close(found[index], expected[index])
    assert models.digest(smollm2.model) == before
