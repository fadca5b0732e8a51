"""Target values against ROME's procedure written out naively: one edit, whole texts, no cache, torch's own Adam."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny

from superposition import editing
from superposition.data.facts import Fact
from superposition.editing import targets
from superposition.errors import UserError
from superposition.lm import keys, passes, scoring

ARCHITECTURES = ["llama", "gpt2", "gemma3_text", "gpt_neox", "opt", "mistral"]
EDITS = [
    Fact("France", "The capital of {} is", "Paris", "Madrid"),
    Fact("Tokyo", "{} is a city in", "Japan", "the north of Spain"),
    Fact("The Danube", "People say {} flows through", "Vienna", "London"),
]
SETTINGS = editing.TargetSettings(
    steps=6, lr=0.2, contexts=("", "She sells sea shells. ", "In the year "), stop_probability=0.9
)


def naive(lm, fact, layer, settings, unedited=None):
    """(shift, recalled, loss, steps, probability) of one edit, after the code of Meng et al.

    ``unedited`` is the length of the unedited model's answer, by default that of the model as it is.
    """
    model, tokenizer, module = lm.model, lm.tokenizer, lm.layers[layer].module

    def run(text, subject_end, delta):
        encoded = tokenizer(text, return_offsets_mapping=True)
        place = max(i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a < subject_end <= b)
        seen = {}

        def hook(_module, _inputs, output):
            shape = output.shape
            output = output.reshape(1, -1, shape[-1]).clone()
            seen["value"] = output[0, place].detach().clone()
            output[0, place] = output[0, place] + delta
            return output.reshape(shape)

        handle = module.register_forward_hook(hook)
        logits = model(torch.tensor([encoded["input_ids"]])).logits[0]
        handle.remove()
        return logits.log_softmax(-1), encoded["input_ids"], seen["value"]

    delta = torch.zeros(lm.layers[layer].d, requires_grad=True)
    adam = None
    essence = settings.kl_prompt.replace("{}", fact.subject)
    essence_end = settings.kl_prompt.index("{}") + len(fact.subject)
    reference = run(essence, essence_end, delta.detach())[0][-1]
    for turn in range(settings.steps + 1):
        misfit = 0.0
        for number, context in enumerate(settings.contexts):
            prompt = context + fact.text
            logs, ids, value = run(f"{prompt} {fact.target_new}", len(context) + fact.subject_span[1], delta)
            if number == 0:
                recalled = value
                unedited = unedited or float(value.norm())
            first = len(tokenizer(prompt)["input_ids"])
            misfit = misfit - torch.stack([logs[at - 1, ids[at]] for at in range(first, len(ids))]).mean()
        misfit = misfit / len(settings.contexts)
        now = run(essence, essence_end, delta)[0][-1]
        divergence = torch.nn.functional.kl_div(now, reference, log_target=True, reduction="sum")
        unit = float(recalled.norm()) if settings.bound == "moving" else unedited
        norm = delta.norm() / unit if delta.detach().any() else 0.0
        loss = misfit + settings.kl_factor * divergence + settings.weight_decay * norm
        if float(torch.exp(-misfit.detach())) >= settings.stop_probability or turn == settings.steps:
            break
        if adam is None:
            a_coordinate = unedited / len(delta) ** 0.5 if settings.step == "relative" else 1.0
            adam = torch.optim.Adam([delta], lr=settings.lr * a_coordinate)
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            bound = settings.clamp_norm_factor * unit
            if delta.norm() > bound:
                delta *= bound / delta.norm()
    return delta.detach().numpy(), recalled.numpy(), float(loss.detach()), turn, float(torch.exp(-misfit.detach()))


def check(lm, settings, layer=1, edits=EDITS, unedited=None, **options):
    found = targets.search(lm, edits, layer, settings, **options)
    for i, fact in enumerate(edits):
        length = None if unedited is None else float(unedited[i])
        shift, recalled, loss, steps, probability = naive(lm, fact, layer, settings, length)
        np.testing.assert_allclose(found.recalled[:, i], recalled, rtol=1e-4, atol=1e-5)
        assert found.steps[i] == steps
        np.testing.assert_allclose(found.shifts[:, i], shift, rtol=1e-3, atol=2e-3 * np.abs(shift).max())
        np.testing.assert_allclose([found.loss[i], found.probability[i]], [loss, probability], rtol=2e-3)
    return found


@pytest.mark.parametrize("architecture, bos", [*((one, False) for one in ARCHITECTURES), ("llama", True)])
def test_equals_the_naive_procedure(architecture, bos):
    found = check(tiny(architecture, bos=bos), SETTINGS)
    assert found.steps.max() == SETTINGS.steps


@pytest.mark.parametrize("step", ["relative", "absolute"])
@pytest.mark.parametrize("bound", ["anchored", "moving"])
def test_what_measures_step_ball_and_norm_term_in_an_edited_model(step, bound):
    """Against the naive procedure, whose lengths are told by the unedited model, with a ball that binds."""
    lm = tiny("gpt2")
    layer = lm.layers[1]
    W_0 = layer.weight.clone()
    K = keys.extract(lm, EDITS, layers=[1])[1]
    unedited = np.linalg.norm(W_0.double().numpy() @ K + layer.bias.double().numpy()[:, None], axis=0)
    with torch.no_grad():
        layer.weight.mul_(3.0)
    settings = replace(SETTINGS, step=step, bound=bound, clamp_norm_factor=0.3, stop_probability=1.0)
    found = check(lm, settings, unedited=unedited, W_0=W_0)
    unit = unedited if bound == "anchored" else np.linalg.norm(found.recalled, axis=0)
    assert (np.linalg.norm(found.shifts, axis=0) <= 0.3 * unit * (1 + 1e-3)).all()
    assert (np.linalg.norm(found.recalled, axis=0) > 1.5 * unedited).all()


def test_the_first_step_is_as_long_as_the_lr_says_in_units_of_the_answer():
    lm = tiny("llama")
    found = targets.search(lm, EDITS, 1, replace(SETTINGS, steps=1, lr=0.3, stop_probability=1.0))
    lengths = np.linalg.norm(found.shifts, axis=0) / np.linalg.norm(found.recalled, axis=0)
    np.testing.assert_allclose(lengths, 0.3, rtol=1e-3)


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_anchored_values_have_the_length_of_the_unedited_answer(architecture):
    """And what they achieve is what the model says with them, not with the values as they were found."""
    lm = tiny(architecture)
    settings = replace(SETTINGS, contexts=("",))
    free = targets.search(lm, EDITS, 1, settings)
    found = targets.search(lm, EDITS, 1, replace(settings, values="anchored"))
    np.testing.assert_allclose(np.linalg.norm(found.values, axis=0), np.linalg.norm(free.recalled, axis=0), rtol=1e-4)
    cosines = (found.values * free.values).sum(0) / np.linalg.norm(found.values, axis=0)
    np.testing.assert_allclose(cosines, np.linalg.norm(free.values, axis=0), rtol=1e-4)
    for i, fact in enumerate(EDITS):
        subject = torch.tensor([keys.locate(lm.tokenizer, fact).position])
        with passes.shifted(lm.layers[1], torch.from_numpy(found.shifts[:, i]).float()[None], subject):
            said = scoring.score(lm, [fact.text], [fact.target_new])
        tokens = len(scoring.join(lm.tokenizer, fact.text, fact.target_new).target)
        assert found.probability[i] == pytest.approx(np.exp(said.log_probability[0] / tokens), rel=1e-3)
    if architecture == "gemma3_text":  # only the direction counts
        np.testing.assert_allclose(found.probability, free.probability, rtol=0.05)


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_the_cache_changes_nothing(architecture):
    lm = tiny(architecture)
    fast, slow = (targets.search(lm, EDITS, 1, SETTINGS, cached=cached) for cached in (True, False))
    np.testing.assert_allclose(fast.values, slow.values, rtol=1e-3, atol=1e-3)
    assert (fast.steps == slow.steps).all()


def test_one_at_a_time_is_the_same():
    lm = tiny("llama")
    together = targets.search(lm, EDITS, 0, SETTINGS, batch=3)
    for i, fact in enumerate(EDITS):
        alone = targets.search(lm, [fact], 0, SETTINGS)
        np.testing.assert_allclose(alone.values[:, 0], together.values[:, i], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        targets.search(lm, EDITS, 0, SETTINGS, batch=1).values, together.values, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_each_edit_may_see_a_matrix_of_its_own(architecture):
    lm = tiny(architecture)
    own = lm.layers[1].weight.clone()
    matrices = [own, own + 0.3 * torch.randn(own.shape, generator=torch.Generator().manual_seed(1)), 2 * own]
    together = targets.search(lm, EDITS, 1, SETTINGS, weights=matrices)
    for i, fact in enumerate(EDITS):
        with torch.no_grad():
            lm.layers[1].weight.copy_(matrices[i])
        alone = targets.search(lm, [fact], 1, SETTINGS)
        np.testing.assert_allclose(alone.values[:, 0], together.values[:, i], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(alone.recalled, together[i].recalled, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="one for each"):
        targets.search(lm, EDITS, 1, SETTINGS, weights=matrices[:1])


def test_the_norm_is_held():
    lm = tiny("llama")
    tight = replace(SETTINGS, clamp_norm_factor=0.1, stop_probability=1.0)
    found = check(lm, tight)
    length = np.linalg.norm(found.shifts, axis=0) / np.linalg.norm(found.recalled, axis=0)
    assert length.max() == pytest.approx(0.1, rel=1e-4)
    assert np.linalg.norm(targets.search(lm, EDITS, 1, SETTINGS).shifts, axis=0).max() > 0.5


def test_an_edit_that_is_true_already_is_left_alone():
    found = targets.search(tiny("llama"), EDITS[:1], 1, replace(SETTINGS, stop_probability=1e-30))
    assert found.steps.tolist() == [0] and not found.shifts.any()
    np.testing.assert_array_equal(found.values, found.recalled)


def test_the_value_is_what_the_layer_answers_to_the_key_and_the_shift():
    lm = tiny("gpt2")
    found = targets.search(lm, EDITS, 1, SETTINGS)
    W, bias = lm.layers[1].weight.double().numpy(), lm.layers[1].module.bias.double().numpy()
    np.testing.assert_allclose(found.keys, keys.extract(lm, EDITS, layers=[1])[1])
    np.testing.assert_allclose(found.recalled, W @ found.keys + bias[:, None], atol=1e-4)
    np.testing.assert_allclose(found.values, found.recalled + found.shifts)


def test_the_mean_key():
    lm = tiny("llama")
    found = targets.search(lm, EDITS[:2], 1, replace(SETTINGS, key="mean", steps=1))
    for i, fact in enumerate(EDITS[:2]):
        told = [replace(fact, prompt=context + fact.prompt) for context in SETTINGS.contexts]
        np.testing.assert_allclose(found.keys[:, i], keys.extract(lm, told, layers=[1])[1].mean(1))


def test_the_model_is_left_as_it_was():
    lm = tiny("llama")
    before = lm.digest()
    targets.search(lm, EDITS, 1, SETTINGS)
    assert lm.digest() == before
    assert not lm.layers[1].module._forward_hooks and not any(p.requires_grad for p in lm.model.parameters())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "positive"),
        ({"lr": 0.0}, "positive"),
        ({"clamp_norm_factor": -1.0}, "positive"),
        ({"kl_factor": -1.0}, "negative"),
        ({"stop_probability": 0.0}, "stop_probability"),
        ({"contexts": ()}, "bare prompt"),
        ({"contexts": ("Well, ",)}, "bare prompt"),
        ({"kl_prompt": "it is"}, "kl_prompt"),
        ({"key": "first"}, "bare or mean"),
        ({"step": "long"}, "relative or absolute"),
        ({"bound": "none"}, "anchored or moving"),
        ({"values": "fixed"}, "free or anchored"),
    ],
)
def test_settings_that_make_no_sense(changes, said):
    with pytest.raises(UserError, match=said):
        editing.TargetSettings(**changes)


def test_edits_that_cannot_be():
    lm = tiny("llama")
    with pytest.raises(UserError, match="at least one"):
        targets.search(lm, [], 1)
    with pytest.raises(UserError, match="target_new"):
        targets.search(lm, [replace(EDITS[0], target_new=None)], 1)
    with pytest.raises(UserError, match="layers 0 to 2"):
        targets.search(lm, EDITS, 7)
    with pytest.raises(UserError, match="batch"):
        targets.search(lm, EDITS, 1, batch=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lm.layers[2].module.weight.data.fill_(float("nan"))
        with pytest.raises(UserError, match="not finite"):
            targets.search(lm, EDITS[:1], 1)
