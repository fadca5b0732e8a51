"""The library's forward pass and head against the model's own, for every architecture, and what is refused."""

from functools import partial

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES, COMMON, build, tiny, tokenizer

from superposition import editing
from superposition.data import facts
from superposition.editing import targets
from superposition.errors import UserError
from superposition.lm import keys, models, passes, scoring

pytestmark = pytest.mark.usefixtures("cache")

FACTS = [
    facts.Fact("France", "The capital of {} is", "Paris", "Rome"),
    facts.Fact("Tokyo", "{} is a city in", "Japan", "Spain"),
]
ONE_HEAD = COMMON | {"num_key_value_heads": 1}
#: Models that do more with a head's answer than to take it, each with what it does.
SCALED = {
    "granite": ONE_HEAD | {"logits_scaling": 8.0},
    "cohere": ONE_HEAD | {"logit_scale": 0.0625},
    "cohere2": ONE_HEAD | {"logit_scale": 0.0625, "head_dim": 12},
    "gemma2": ONE_HEAD | {"head_dim": 12, "final_logit_softcapping": 2.0},
}


def own_score(model, fact):
    """``log P`` of a fact's object by the model's own forward pass."""
    joined = scoring.join(model.tokenizer, fact.text, fact.target_true)
    with torch.no_grad():
        logs = model.model(torch.tensor([joined.token_ids])).logits[0].double().log_softmax(-1)
    return sum(float(logs[joined.first - 1 + at, token]) for at, token in enumerate(joined.target))


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *SCALED])
def test_scores_are_the_models_own(architecture):
    model = tiny(architecture, **SCALED.get(architecture, {}))
    scores = scoring.score(model, [fact.text for fact in FACTS], [fact.target_true for fact in FACTS])
    np.testing.assert_allclose(scores.log_probability, [own_score(model, fact) for fact in FACTS], atol=1e-4)
    assert (model.own_head is None) == (architecture not in ("granite", "cohere", "cohere2"))


@pytest.mark.parametrize("architecture", ["granite", "cohere"])
def test_the_models_own_way_has_the_gradient_of_its_logits(architecture):
    model = tiny(architecture, **SCALED[architecture])
    hidden = torch.randn(2, 3, 24, generator=torch.Generator().manual_seed(1)).requires_grad_()
    scale = 1 / 8 if architecture == "granite" else 1 / 16
    logits = passes.logits_of(model, hidden)
    torch.testing.assert_close(logits, model.model.get_output_embeddings()(hidden) * scale)
    (slope,) = torch.autograd.grad(logits[0, 0, 5], hidden)
    torch.testing.assert_close(slope[0, 0], model.model.get_output_embeddings().weight[5] * scale)
    assert "forward" not in vars(model.model.base_model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("architecture", ["llama", "granite", "gemma2"])
def test_the_check_knows_rounding_from_scaling(architecture, dtype):
    model = tiny(architecture, **SCALED.get(architecture, {}))
    model.model.to(dtype)
    model.own_head = None
    passes.check(model)
    assert (model.own_head is None) == (architecture != "granite")


def test_weights_that_are_not_finite_are_left_to_the_commands():
    model = tiny()
    model.layers[1].weight[0, 0] = float("nan")
    passes.check(model)
    with pytest.raises(UserError, match="Layer 2 gives NaN"):
        keys.extract(model, FACTS)


#: Blocks that normalise what the memory writes, and what their norm is called.
NORMED = {
    "gemma2": "post_feedforward_layernorm",
    "gemma3_text": "post_feedforward_layernorm",
    "olmo2": "post_feedforward_layernorm",
    "glm4": "post_mlp_layernorm",
}


@pytest.mark.parametrize("architecture", sorted({*ARCHITECTURES, *NORMED, "granite", "cohere"}))
def test_the_norm_after_a_memory_is_found_and_only_there(architecture):
    changes = {"head_dim": 12} if architecture in ("gemma2", "glm4") else {}
    model = tiny(architecture, **(COMMON | {"num_key_value_heads": 1} if architecture in NORMED else {}), **changes)
    named = NORMED.get(architecture)
    assert [*model.output_norms] == [named and model.block(layer).get_submodule(named) for layer in model.layers]
    layer, ids = model.layers[1], torch.tensor([[5, 6, 7, 8]])
    states = []

    def with_answer(answer):
        seen = lambda *call: states.append(call[-1][0] if isinstance(call[-1], tuple) else call[-1])  # noqa: E731
        given = lambda *call: answer.reshape(call[-1].shape)  # noqa: E731
        with torch.no_grad(), passes.hooked((layer.module, given), (model.block(layer), seen)):
            passes.run_body(model, ids, torch.ones_like(ids))
        return states[-1].reshape(4, -1)

    answer = torch.randn(4, layer.d, generator=torch.Generator().manual_seed(2))
    nothing = with_answer(torch.zeros(4, layer.d))
    added = with_answer(3 * answer) - nothing
    if architecture == "granite":  # a factor on everything that a block adds, no norm
        added = added / model.model.config.residual_multiplier
    torch.testing.assert_close(added, model.written(layer, 3 * answer), rtol=1e-3, atol=1e-4)
    assert torch.allclose(added, with_answer(30 * answer) - nothing, rtol=1e-3, atol=1e-3) == (named is not None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_an_output_norm_is_known_in_any_dtype(dtype):
    for architecture, there in {"llama": False, "gemma3_text": True, "olmo2": True}.items():
        model = tiny(architecture, **(ONE_HEAD if architecture == "olmo2" else {}))
        model.model.to(dtype)
        assert [norm is not None for norm in model.output_norms] == [there] * len(model.layers)


def mixing(plain, input_ids, **given):
    output = plain(input_ids, **given)
    output.last_hidden_state = output.last_hidden_state + output.last_hidden_state.mean(1, keepdim=True)
    return output


def elsewhere(plain, input_ids, **given):
    return plain(input_ids, position_ids=7 * torch.arange(input_ids.shape[1])[None], **given)


def by_token(plain, input_ids, **given):
    output = plain(input_ids, **given)
    output.logits[..., 3] += 1000 * input_ids
    return output


def failing(*_args, **_given):
    raise KeyError("pixel_values\nof the image")


@pytest.mark.parametrize(
    ("part", "forward", "sentence"),
    [
        ("model", mixing, "depends on what comes after it"),
        (None, elsewhere, "does not give what the model's own gives"),
        (None, by_token, "hang on more than its last hidden states"),
        (None, failing, r"llama \(LlamaForCausalLM\) cannot be run on token ids alone: "),
    ],
)
def test_a_model_that_does_otherwise_is_refused(monkeypatch, part, forward, sentence):
    model = tiny()
    owner = type(model.model if part is None else getattr(model.model, part))
    plain = owner.forward
    monkeypatch.setattr(
        owner, "forward", lambda self, input_ids, **given: forward(partial(plain, self), input_ids, **given)
    )
    with pytest.raises(UserError, match=sentence) as caught:
        passes.check(model)
    assert "\n" not in str(caught.value)


def test_a_text_longer_than_the_model_takes_is_refused():
    model = tiny("gpt2")
    ids = torch.ones(1, 97, dtype=torch.long)
    with pytest.raises(UserError, match="A text has 97 tokens and gpt2 takes 96"):
        passes.run_body(model, ids, torch.ones_like(ids))
    with pytest.raises(UserError, match="A text has 97 tokens and gpt2 takes 96"):
        model.read_keys(ids, torch.ones_like(ids), model.layers, lambda *_: None)


# The target search


def hybrid(architecture):
    """Models on which a search that keeps what comes before the subject would stop or go wrong."""
    if architecture == "qwen3_5_text":
        linear = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_conv_kernel_dim": 4}
        linear |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
        return tiny(architecture, **ONE_HEAD | linear | {"num_hidden_layers": 4, "head_dim": 12})
    shared = {"num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 384}
    shared |= {"head_dim": 12, "global_head_dim": 12, "sliding_window": 16, "num_hidden_layers": 6}
    return tiny(architecture, **ONE_HEAD | shared | {"layer_types": ["sliding_attention", "full_attention"] * 3})


def test_a_search_that_cannot_keep_what_comes_before_runs_whole_texts_and_says_so():
    model = hybrid("qwen3_5_text")
    settings = editing.TargetSettings(steps=4)
    with pytest.warns(match="does not allow to keep what comes before a subject"):
        found = targets.search(model, FACTS, 1, settings)
    slow = targets.search(model, FACTS, 1, settings, cached=False)
    np.testing.assert_array_equal(found.shifts, slow.shifts)
    assert model.cached_search == {1: False}
    assert np.all(found.loss < found.first_loss)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_search_in_a_model_that_shares_keys_and_values_is_right(layer):
    model = hybrid("gemma4_text")
    settings = editing.TargetSettings(steps=4)
    found = targets.search(model, FACTS, layer, settings)
    slow = targets.search(model, FACTS, layer, settings, cached=False)
    np.testing.assert_allclose(found.shifts, slow.shifts, rtol=1e-3, atol=1e-4)


def test_a_layer_above_the_last_keys_and_values_of_its_own_is_refused():
    with pytest.raises(UserError, match="Nothing that layer 3 answers at the subject reaches the words"):
        targets.search(hybrid("gemma4_text"), FACTS, 3, editing.TargetSettings(steps=2), cached=False)


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_search_that_may_keep_what_comes_before_does(architecture, dtype, recwarn):
    model = tiny(architecture)
    model.model.to(dtype)
    targets.search(model, FACTS, 1, editing.TargetSettings(steps=1))
    assert model.cached_search == {1: True}
    assert not recwarn


def test_a_search_that_would_go_wrong_in_silence_is_noticed(monkeypatch):
    model = tiny()
    plain = targets._to_the_right
    monkeypatch.setattr(targets, "_to_the_right", lambda *arguments: plain(*arguments) * 1.1)
    with pytest.warns(match="does not allow to keep"):
        targets.search(model, FACTS, 1, editing.TargetSettings(steps=1))
    assert model.cached_search == {1: False}


def test_a_layer_from_which_nothing_reaches_the_object_is_refused():
    model = tiny()
    with pytest.raises(UserError, match="Nothing that layer 2 answers at the subject reaches the words after"):
        targets.search(model, FACTS, 2, editing.TargetSettings(steps=2))
    last = [facts.Fact("France", "Paris is the capital of {}", "Paris", "Rome")]
    assert targets.search(model, last, 2, editing.TargetSettings(steps=2)).steps[0] > 0


def test_a_prompt_that_fits_and_does_not_with_a_context_is_refused():
    model = tiny("gpt2")
    long = facts.Fact("France", "the " * 40 + "{} is", "Paris", "Rome")
    while len(tokenizer()(long.text)["input_ids"]) < 90:
        long = facts.Fact("France", "a " + long.prompt, "Paris", "Rome")
    with pytest.raises(UserError, match=r"with its object and the context .* takes 96: shorten the prompt"):
        targets.search(model, [long], 1)


def test_models_are_checked_at_load(tmp_path, monkeypatch):
    build("llama").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    asked = []
    monkeypatch.setattr(passes, "check", asked.append)
    assert models.load(tmp_path) is asked[0]


# Hooks, batches and weights that come back


def test_hooks_are_gone_afterwards_whatever_happens():
    model, seen = tiny(), []
    with pytest.raises(KeyError), passes.hooked((model.layers[0].module, lambda *_: seen.append(1))):
        passes.run_body(model, *passes.padded([[5, 6]]))
        raise KeyError
    passes.run_body(model, *passes.padded([[5, 6]]))
    assert seen == [1]


@pytest.mark.parametrize("architecture", ["llama", "opt"])
def test_a_shift_at_one_position_is_the_same_as_one_that_is_zero_elsewhere(architecture):
    model = tiny(architecture)
    layer, positions = model.layers[1], torch.tensor([1, 0])
    shift = torch.randn(2, layer.d, generator=torch.Generator().manual_seed(0))
    full = torch.zeros(2, 3, layer.d)
    full[torch.arange(2), positions] = shift
    ids, mask = passes.padded([[5, 6, 7], [8, 9, 10]])
    states = []
    for given in ((layer, shift, positions), (layer, full)):
        with torch.no_grad(), passes.shifted(*given):
            states.append(passes.run_body(model, ids, mask).last_hidden_state)
    assert torch.equal(*states)
    plain = passes.run_body(model, ids, mask).last_hidden_state
    assert torch.equal(plain[0, :1], states[0][0, :1]) and not torch.equal(plain[0, 1:], states[0][0, 1:])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_blocks_below_a_layer_run_once_and_what_comes_out_is_the_same(architecture):
    """Also for some of the rows and a part of their tokens."""
    model = tiny(architecture)
    layer, runs = model.layers[2], []
    ids, mask = passes.padded([[5, 6, 7, 8], [8, 9, 10], [11, 12, 5]])
    below = passes.Below(model, layer)
    shift = torch.randn(len(ids), layer.d, generator=torch.Generator().manual_seed(0))
    for rows, length in ((None, None), ([0, 1, 2], 4), ([2, 1], 3)):
        taken = range(3) if rows is None else rows
        part = ids[list(taken), :length], mask[list(taken), :length]
        states = []
        with torch.no_grad(), passes.shifted(layer, shift[list(taken)], torch.zeros(len(part[0]), dtype=torch.long)):
            states.append(passes.run_body(model, *part, use_cache=False).last_hidden_state)
            own = model.layers[0].module, lambda *_: runs.append(1)
            with passes.hooked(own), below.spared(rows, length):
                states.append(passes.run_body(model, *part, use_cache=False).last_hidden_state)
        inside = part[1].bool()
        torch.testing.assert_close(states[0][inside], states[1][inside], rtol=1e-5, atol=1e-5)
    assert len(runs) == (3 if below.states is None else 1)


def test_a_search_runs_the_blocks_below_its_layer_once():
    """Before the subject, at its first step, and for the key: however many steps there are."""
    model, settings = tiny(), editing.TargetSettings(steps=6, stop_probability=1)
    targets.search(model, FACTS, 1, settings)  # and is tried against whole texts
    runs, above = [], []
    counts = ((model.layers[0].module, runs), (model.layers[1].module, above))
    with passes.hooked(*((module, lambda *_, kept=kept: kept.append(1)) for module, kept in counts)):
        found = targets.search(model, FACTS, 1, settings)
    assert len(runs) == 3 and len(above) >= max(found.steps) > 3


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_restored_weights_have_their_bits_back_after_an_interrupt(architecture):
    model = tiny(architecture)
    before = model.digest()
    with pytest.raises(KeyboardInterrupt), passes.restored(model.layers[0].weight, model.layers[2].module.weight):
        model.layers[0].weight.zero_()
        model.layers[2].module.weight.requires_grad_(True).grad = torch.ones_like(model.layers[2].module.weight)
        assert model.digest() != before
        raise KeyboardInterrupt
    weight = model.layers[2].module.weight
    assert model.digest() == before and not weight.requires_grad and weight.grad is None


def test_batches_shrink_where_memory_lacks_and_go_on_from_where_a_run_has_got():
    calls = []

    def run(start, stop):
        calls.append((start, stop))
        if stop - start > 2:
            raise RuntimeError("CUDA out of memory.")
        return start + 1 if start == 3 else None

    passes.in_batches(7, run, 4, start=1)
    assert calls == [(1, 5), (1, 4), (1, 3), (3, 5), (4, 6), (6, 7)]
    with pytest.raises(UserError, match="for one text at a time: read less"):
        passes.in_batches(3, lambda *_: run(0, 9), 2, "read less")
