"""A forecast against what an edit does: weights really changed, gradients by finite differences, naive loops."""

import numpy as np
import pytest
import torch
from conftest import tiny

from superposition.data.facts import Fact
from superposition.editing import TargetSettings, forecast
from superposition.errors import UserError
from superposition.linear import overlap, rules
from superposition.linear.memory import LinearMemory
from superposition.lm import keys, passes

PROTECT = [
    Fact("France", "The capital of {} is", "Paris"),
    Fact("Tokyo", "{} is a city in", "Japan"),
    Fact("Danube", "The {} flows through", "Vienna and Budapest"),
    Fact("Spain", "The capital of {} is", "Madrid"),
    Fact("Windows", "{} was developed by", "Microsoft"),
]
EDITS = [Fact("violin", "A {} is an", "instrument", "sport"), Fact("football", "{} is a", "sport", "city")]
LAYER = 1


def moment(d_m, seed=0):
    sample = np.random.default_rng(seed).standard_normal((d_m, 3 * d_m))
    return sample @ sample.T / (3 * d_m)


def edited_memory(lm, seed=0, scale=1.0):
    """A memory that two edits were written into, their values drawn at random."""
    K = keys.extract(lm, EDITS, layers=[LAYER])[LAYER]
    memory = LinearMemory(lm.layers[LAYER].weight.double().numpy(), moment(lm.layers[LAYER].d_m))
    values = memory.recall(K) + scale * np.random.default_rng(seed).standard_normal((lm.layers[LAYER].d, len(EDITS)))
    memory.edit_batch(K, values, rule="rome")
    return memory


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma3_text", "opt"])
def lm(request):
    model = tiny(request.param, bos=request.param == "gemma3_text")
    model.model.double()
    return model


def naive_log_probability(lm, fact):
    prompt = lm.tokenizer(fact.text)["input_ids"]
    wanted = lm.tokenizer(" " + fact.target_true, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = lm.model(torch.tensor([prompt + wanted])).logits[0].log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(wanted) - 1)
    each = [logits[place] for place in places]
    return (
        float(sum(row[token] for row, token in zip(each, wanted, strict=True))),
        all(int(row.argmax()) == token for row, token in zip(each, wanted, strict=True)),
    )


def test_a_reading_is_what_single_prompts_give(lm):
    found = forecast.read(lm, PROTECT, LAYER, batch=2)
    for j, fact in enumerate(PROTECT):
        value, exact = naive_log_probability(lm, fact)
        assert found.log_probability[j] == pytest.approx(value, abs=1e-9)
        assert found.exact[j] == exact
    np.testing.assert_allclose(found.at_subject(), keys.extract(lm, PROTECT, layers=[LAYER])[LAYER], atol=1e-9)
    assert not found.keys[~found.mask()].any() and not found.gradient[~found.mask()].any()
    assert np.abs(found.keys[found.mask()]).min(axis=1).size == found.lengths.sum()


def test_margins_are_those_of_single_prompts(lm):
    facts = [
        Fact("France", "The capital of {} is", "Paris"),
        Fact("Danube", "The {} flows through", "Vienna and London"),
    ]
    reading = forecast.read(lm, facts, 1)
    for j in range(len(facts)):
        ids = torch.from_numpy(reading.token_ids[j : j + 1, : reading.lengths[j] + 1])
        with torch.no_grad():
            logs = lm.model(ids[:, :-1]).logits[0, reading.prompts[j] - 1 :].log_softmax(-1)
        ahead = []
        for row, token in zip(logs, ids[0, reading.prompts[j] :].tolist(), strict=True):
            others = torch.cat([row[:token], row[token + 1 :]])
            ahead.append(float(row[token] - others.max()))
        assert reading.margin[j] == pytest.approx(min(ahead), abs=1e-4)
        assert bool(reading.exact[j]) == (min(ahead) > 0)


def test_keys_alone_need_no_pass_above_the_layer(lm, monkeypatch):
    full = forecast.read(lm, PROTECT, LAYER)
    monkeypatch.setattr(forecast, "_run", None)
    found = forecast.read(lm, PROTECT, LAYER, passes=False)
    np.testing.assert_allclose(found.keys, full.keys, atol=1e-12)
    assert found.gradient is None and found.log_probability is None and found.exact is None
    assert found.keys.dtype == np.float64


def test_places_of_a_prompt():
    found = forecast.read(tiny(), PROTECT, LAYER, passes=False)
    for j, fact in enumerate(PROTECT):
        tokens = [tiny().tokenizer.decode([i]) for i in found.token_ids[j]]
        (subject,) = np.flatnonzero(found.mask("subject")[j])
        (last,) = np.flatnonzero(found.mask("last")[j])
        assert "".join(tokens[: last + 1]) == fact.text
        assert "".join(tokens[: subject + 1]).endswith(fact.subject)
        assert "".join(tokens[: found.lengths[j] + 1]) == f"{fact.text} {fact.target_true}"
        here = {
            "subject": [subject],
            "last": [last],
            "subject and last": [subject, last],
            "not the subject": [at for at in range(found.lengths[j]) if at != subject],
            "after the subject": range(subject + 1, found.lengths[j]),
            "from the subject on": range(subject, found.lengths[j]),
            "all": range(found.lengths[j]),
        }
        assert set(here) == set(forecast.PLACES)
        for place, positions in here.items():
            assert np.flatnonzero(found.mask(place)[j]).tolist() == sorted(set(positions)), place
    assert found.keys.dtype == np.float32
    with pytest.raises(UserError, match="There is no place 'first': choose from subject"):
        found.mask("first")


def test_a_subset_keeps_every_row_together(lm):
    found = forecast.read(lm, PROTECT, LAYER)
    some = found.subset([3, 0])
    assert some.facts == (PROTECT[3], PROTECT[0])
    np.testing.assert_array_equal(some.keys, found.keys[[3, 0]])
    np.testing.assert_array_equal(some.gradient, found.gradient[[3, 0]])
    np.testing.assert_array_equal(found.subset(found.exact).log_probability, found.log_probability[found.exact])


def test_shares_at_the_subject_are_the_degree_of_superposition(lm):
    found = forecast.read(lm, PROTECT, LAYER, passes=False)
    K = keys.extract(lm, EDITS, layers=[LAYER])[LAYER]
    C = moment(K.shape[0])
    memory = edited_memory(lm)
    M = forecast.directions(K, C)
    part = forecast.shares(M, found.keys)
    at_subject = part[:, np.arange(len(PROTECT)), found.subjects]
    both = overlap.superposition_matrix(np.hstack([K, found.at_subject()]), C)
    np.testing.assert_allclose(at_subject, both[:2, 2:], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(at_subject, memory.transfer(found.at_subject()), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(M, memory.directions, rtol=1e-9)


def test_directions_of_a_rule_with_a_history_depend_on_it():
    K, C = np.random.default_rng(1).standard_normal((12, 3)), moment(12)
    hard = forecast.directions(K, C, "rls-hard")
    np.testing.assert_allclose(hard.T @ K, np.triu(hard.T @ K), atol=1e-9)
    np.testing.assert_allclose(forecast.directions(K, C)[:, 2], rules.rome_direction(K[:, 2], C), rtol=1e-9)


def test_the_drift_is_what_the_edited_memory_answers(lm):
    memory, found = edited_memory(lm), forecast.read(lm, PROTECT, LAYER, passes=False)
    moved = forecast.drift(memory.edits, found.keys)
    for j in range(len(PROTECT)):
        np.testing.assert_allclose(moved[j].T, (memory.W - memory.W_0) @ found.keys[j].T, atol=1e-9)


def test_the_drift_at_every_position_is_the_edit(lm):
    memory, found = edited_memory(lm), forecast.read(lm, PROTECT, LAYER)
    moved = forecast.drift(memory.edits, found.keys)
    before = lm.digest()
    predicted = forecast.ask(lm, found, moved)
    assert lm.digest() == before
    weight = lm.layers[LAYER].weight
    kept = weight.detach().clone()
    weight.copy_(torch.from_numpy(memory.W))
    try:
        actual = np.array([naive_log_probability(lm, fact)[0] for fact in PROTECT])
    finally:
        weight.copy_(kept)
    assert np.abs(actual - found.log_probability).max() > 0.01
    np.testing.assert_allclose(predicted.log_probability, actual, atol=1e-6)


def test_passes_that_leave_out_the_blocks_below_say_the_same(lm):
    memory, found = edited_memory(lm), forecast.read(lm, PROTECT, LAYER)
    below = [passes.Below(lm, lm.layers[LAYER]) for _ in forecast.groups(found, 2)]
    for scale in (0, 1, 0.5):
        moved = scale * forecast.drift(memory.edits, found.keys)
        plain, spared = forecast.ask(lm, found, moved), forecast.ask(lm, found, moved, batch=2, below=below)
        np.testing.assert_allclose(spared.log_probability, plain.log_probability, atol=1e-5)
        np.testing.assert_allclose(spared.margin, plain.margin, atol=1e-5)


def test_first_order_is_the_slope_of_the_fall(lm):
    memory, found = edited_memory(lm), forecast.read(lm, PROTECT, LAYER)
    by_edit = forecast.first_order(found.gradient, memory.edits, found.keys)
    h = 3e-3  # norms of most architectures work in float32, whatever the model does
    for i in range(len(EDITS)):
        moved = h * forecast.drift(memory.edits[i : i + 1], found.keys)
        up, down = (forecast.ask(lm, found, sign * moved).log_probability for sign in (1, -1))
        np.testing.assert_allclose(by_edit[i], (down - up) / (2 * h), rtol=5e-3, atol=1e-3)


def test_first_order_is_the_gradient_by_the_weights():
    lm = tiny()
    lm.model.double()
    memory, found = edited_memory(lm), forecast.read(lm, PROTECT, LAYER)
    total = forecast.first_order(found.gradient, memory.edits, found.keys).sum(0)
    weight = lm.layers[LAYER].module.weight
    weight.requires_grad_(True)
    change = torch.from_numpy(memory.W - memory.W_0)
    for j, fact in enumerate(PROTECT):
        prompt, wanted = found.token_ids[j, : found.prompts[j]], found.token_ids[j, found.prompts[j] :]
        wanted = wanted[: found.lengths[j] + 1 - found.prompts[j]]
        logits = lm.model(torch.tensor(np.concatenate([prompt, wanted]))[None]).logits[0].log_softmax(-1)
        value = sum(logits[found.prompts[j] - 1 + n, token] for n, token in enumerate(wanted))
        (slope,) = torch.autograd.grad(value, weight)
        assert total[j] == pytest.approx(-float((slope * change).sum()), rel=1e-8), fact


def test_slopes_along_the_way_add_up_to_the_fall(lm):
    memory, found = edited_memory(lm, scale=0.3), forecast.read(lm, PROTECT, LAYER)
    edit = memory.edits
    moved = forecast.drift(edit, found.keys)
    fall = found.log_probability - forecast.ask(lm, found, moved).log_probability
    off = []
    for nodes in (1, 2, 6):
        slope = forecast.slope_along(lm, found, moved, nodes)
        off.append(np.abs(forecast.first_order(slope, edit, found.keys).sum(0) - fall).max())
    first = np.abs(forecast.first_order(found.gradient, edit, found.keys).sum(0) - fall).max()
    bends = lm.name == "opt"  # ReLU: the slope jumps on the way
    assert off[2] < (0.03 if bends else 1e-3) * np.abs(fall).max()
    assert off[2] < off[0] / (2 if bends else 5) and off[0] < first / 2
    with pytest.raises(UserError, match="0 nodes make no sense"):
        forecast.slope_along(lm, found, moved, 0)


def test_norms_over_positions():
    part = np.random.default_rng(2).standard_normal((3, 4, 5))
    mask = np.random.default_rng(3).random((4, 5)) < 0.5
    for i in range(3):
        for j in range(4):
            wanted = sum(part[i, j, t] ** 2 for t in range(5) if mask[j, t]) ** 0.5
            assert forecast.norm_over(part, mask)[i, j] == pytest.approx(wanted)
    np.testing.assert_allclose(forecast.norm_over(part), np.linalg.norm(part, axis=2))


def test_targets_that_are_given_are_not_looked_for_and_who_is_lost_is_told(monkeypatch):
    model = tiny()
    found = forecast.search(model, EDITS, LAYER, TargetSettings(steps=1))
    monkeypatch.setattr(forecast, "search", None)
    for level in ("values", "passes"):
        made = forecast.run(model, EDITS, PROTECT, level, layer=LAYER, C=moment(40), targets=found)
        rows = made.summary()["facts"]
        assert [row["fact"] for row in rows] == np.argsort(-made.total, kind="stable").tolist()
        if level == "passes":
            assert [row["lost"] for row in rows] == [bool(made.lost[row["fact"]]) for row in rows]
            assert [row["log_probability"] for row in rows] == [made.before[row["fact"]] for row in rows]
        else:
            assert not any("lost" in row or "log_probability" in row for row in rows)


def test_without_nodes_the_edits_share_by_the_gradient_before_them():
    model, C = tiny(), moment(40)
    found = forecast.search(model, EDITS, LAYER, TargetSettings(steps=1))
    made = forecast.run(model, EDITS, PROTECT, layer=LAYER, C=C, targets=found, nodes=0)
    reading, editor = forecast.read(model, PROTECT, LAYER), forecast.Editor(model, LAYER, C=C)
    for i in range(len(found)):
        editor.store(found[i], apply=False)
    np.testing.assert_allclose(
        made.by_edit, forecast.first_order(reading.gradient, editor.memory.edits, reading.keys), rtol=1e-6, atol=1e-12
    )


def test_weights_that_a_forecast_has_changed_are_no_result(monkeypatch):
    model, read = tiny(), forecast.read
    monkeypatch.setattr(forecast, "read", lambda *a, **k: model.layers[2].weight.add_(1e-3) is None or read(*a, **k))
    with pytest.raises(RuntimeError, match="not what they were before the forecast"):
        forecast.run(model, EDITS, PROTECT, "keys", layer=LAYER, C=moment(40))


def test_what_cannot_be_read_is_said():
    lm = tiny()
    with pytest.raises(UserError, match="'France' has no true object"):
        forecast.read(lm, [Fact("France", "The capital of {} is")], LAYER)
    with pytest.raises(UserError, match="has layers 0 to 2"):
        forecast.read(lm, PROTECT, 7)
    with pytest.raises(UserError, match="tokens: shorten it"):
        forecast.read(lm, [Fact("France", "The {}" + " is" * 94, "Paris and more and more")], LAYER)
