"""Relative drift against what an edited model really does at the layer's block, and the drift of single edits."""

import numpy as np
import pytest
import torch
from conftest import COMMON, tiny

from superposition import editing
from superposition.data.facts import Fact
from superposition.editing import forecast, lifetime
from superposition.errors import UserError
from superposition.linear.memory import LinearMemory
from superposition.lm import keys, passes

WATCHED = [
    Fact("France", "The capital of {} is", "Paris"),
    Fact("Danube", "The {} flows through", "Vienna and Budapest"),
    Fact("Windows", "{} was developed by", "Microsoft"),
]
EDITS = [Fact("violin", "A {} is an", "instrument", "sport"), Fact("football", "{} is a", "sport", "city")]
LAYER = 1
SCALARS = {name: np.ones(2) for name in ("loss", "first_loss", "probability")} | {"steps": np.ones(2, dtype=int)}
ONE_HEAD = COMMON | {"num_key_value_heads": 1}


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma3_text", "olmo2"])
def lm(request):
    model = tiny(request.param, **(ONE_HEAD if request.param == "olmo2" else {}))
    model.model.double()
    return model


@pytest.fixture(scope="module")
def untouched(lm):
    return lifetime.Untouched(lm, forecast.read(lm, WATCHED, LAYER, passes=False))


def memory_of(lm, seed=0):
    """A memory with two edits in it."""
    rng = np.random.default_rng(seed)
    sample = rng.standard_normal((lm.layers[LAYER].d_m, 200))
    K = keys.extract(lm, EDITS, layers=[LAYER])[LAYER]
    memory = LinearMemory(lm.layers[LAYER].weight.double().numpy(), sample @ sample.T / 200)
    memory.edit_batch(K, memory.recall(K) + rng.standard_normal((lm.layers[LAYER].d, len(EDITS))), "rome")
    return memory


def states(lm, reading, j):
    """What the block hands on at every position of a watched prompt and object."""
    seen = []
    ids = torch.from_numpy(reading.token_ids[j : j + 1, : reading.lengths[j]])
    block = lm.block(lm.layers[LAYER])
    keep = lambda *call: seen.append(call[-1][0] if isinstance(call[-1], tuple) else call[-1])  # noqa: E731
    with torch.no_grad(), passes.hooked((block, keep)):
        lm.model(ids)
    return seen[0].reshape(reading.lengths[j], -1)


def test_relative_drift_is_what_the_edited_model_hands_on(lm, untouched):
    memory, reading = memory_of(lm), untouched.reading
    found = untouched.relative(forecast.drift(memory.edits, reading.keys))
    before = [states(lm, reading, j) for j in range(len(WATCHED))]
    with editing.preserved(lm), torch.no_grad():
        lm.layers[LAYER].weight.copy_(torch.from_numpy(memory.W))
        after = [states(lm, reading, j) for j in range(len(WATCHED))]
    for j, (old, new) in enumerate(zip(before, after, strict=True)):
        length = reading.lengths[j]
        np.testing.assert_allclose(found[j, :length], (new - old).norm(dim=1) / old.norm(dim=1), rtol=1e-6)
        assert not found[j, length:].any()
        np.testing.assert_allclose(untouched.stream[j, :length], old.norm(dim=1), rtol=1e-9)


def test_over_the_answer(lm, untouched):
    memory, reading = memory_of(lm), untouched.reading
    layer = lm.layers[LAYER]
    found = untouched.relative(forecast.drift(memory.edits, reading.keys), "answer")
    for j in range(len(WATCHED)):
        for t in range(reading.lengths[j]):
            k = torch.from_numpy(reading.keys[j, t]).double()
            bias = 0 if layer.bias is None else layer.bias
            answers = [W @ k + bias for W in (torch.from_numpy(memory.W), layer.weight)]
            with torch.no_grad():
                new, old = (lm.written(layer, answer) for answer in answers)
            assert found[j, t] == pytest.approx(float((new - old).norm() / old.norm()), rel=1e-6)
    with pytest.raises(UserError, match="choose from answer, stream"):
        untouched.relative(np.zeros_like(untouched.answers), "logits")


def test_a_model_that_is_edited_afterwards_changes_nothing(lm, untouched):
    memory, reading = memory_of(lm), untouched.reading
    late = lifetime.Untouched(lm, reading)
    with editing.preserved(lm), torch.no_grad():
        lm.layers[LAYER].weight.copy_(torch.from_numpy(memory.W))
        for over in lifetime.OVER:
            drift = forecast.drift(memory.edits, reading.keys)
            np.testing.assert_array_equal(late.relative(drift, over), untouched.relative(drift, over))


def test_each_edit_alone(lm, untouched):
    edit = memory_of(lm).edits
    found = untouched.by_edit(edit)
    for i in range(len(edit)):
        moved = forecast.drift(edit[i : i + 1], untouched.reading.keys)
        np.testing.assert_allclose(found[i], untouched.relative(moved), rtol=1e-6, atol=1e-12)


def test_squares_of_independent_residuals_add():
    """R² = n D in the mean over residuals that point anywhere: the law behind a layer's lifetime."""
    lm = tiny("llama")
    lm.model.double()
    untouched = lifetime.Untouched(lm, forecast.read(lm, WATCHED, LAYER, passes=False))
    M, inside = memory_of(lm).directions, untouched.reading.mask()
    rng, total, single = np.random.default_rng(1), [], []
    for _ in range(400):
        edit = lifetime.Edit(rng.standard_normal((lm.layers[LAYER].d, 2)), M)
        drift = untouched.relative(forecast.drift(edit, untouched.reading.keys))
        total.append(lifetime.root_mean_square(drift[inside]) ** 2)
        single.append((untouched.by_edit(edit)[:, inside] ** 2).mean())
    assert np.mean(total) == pytest.approx(2 * np.mean(single), rel=0.03)


def test_a_replay_of_edits_that_were_all_tried_is_the_sequence_itself(lm):
    """And of others it is the sequence in which they ask for borrowed shifts, edit by edit."""
    rng, layer = np.random.default_rng(3), lm.layers[LAYER]
    sample = rng.standard_normal((layer.d_m, 200))
    C, K, W_0 = sample @ sample.T / 200, rng.standard_normal((layer.d_m, 5)), layer.weight.double().numpy()
    shifts = rng.standard_normal((layer.d, 2))
    recalled = W_0 @ K[:, :2]
    found = editing.Targets(K[:, :2], recalled + shifts, shifts, recalled, **SCALARS)
    change = lifetime.replayed(found, K, C)
    assert len(change) == 5
    W = W_0.copy()
    for i in range(5):
        k, u = K[:, i], np.linalg.solve(C, K[:, i])
        residual = W_0 @ k + (shifts.T if i > 1 else shifts[:, i : i + 1].T) - W @ k  # of the others, one of the two
        nearest = np.abs(residual - change.delta[:, i]).sum(1).argmin()
        np.testing.assert_allclose(change.delta[:, i], residual[nearest], rtol=1e-8, atol=1e-10)
        W += np.outer(residual[nearest], u / (u @ k))
    np.testing.assert_allclose(W_0 + change.matrix(), W, rtol=1e-8, atol=1e-10)
    with pytest.raises(UserError, match="keys of 1 edits, and 2 were tried"):
        lifetime.replayed(found, K[:, :1], C)


@pytest.mark.parametrize("rule", ["rome", "memit-history"])
def test_a_replay_of_whole_shifts_writes_each_on_top_of_what_earlier_steps_have_moved(rule):
    """Against the sequence in which every step's targets are its answers by then, and the shifts."""
    rng = np.random.default_rng(5)
    sample, K, W = rng.standard_normal((8, 200)), rng.standard_normal((8, 6)), rng.standard_normal((4, 8))
    C, shifts = sample @ sample.T / 200, rng.standard_normal((4, 6))
    scalars = {name: np.ones(6, x.dtype) for name, x in SCALARS.items()}
    found = editing.Targets(K, W @ K + shifts, shifts, W @ K, **scalars)
    options = {} if rule == "rome" else {"weight": 0.5}
    change = lifetime.replayed(found, K, C, rule, step=3, whole=True, **options)
    memory = LinearMemory(W, C)
    for now in (slice(0, 3), slice(3, 6)):
        memory.edit_batch(K[:, now], memory.recall(K[:, now]) + shifts[:, now], rule, **options)
    np.testing.assert_allclose(change.matrix(), memory.W - W, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(change.delta[:, 0], shifts[:, 0])
    if rule != "rome":  # its steps are written at once
        np.testing.assert_allclose(change.delta, shifts)
