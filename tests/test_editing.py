"""Edits of tiny models against the closed forms, restored bits, resumed runs; and one edit of SmolLM2's real layer."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny

from superposition import editing
from superposition.data.facts import Fact
from superposition.editing import evaluation, sequence, targets
from superposition.errors import UserError
from superposition.io import console
from superposition.linear import rules
from superposition.lm import keys, moments

SETTINGS = editing.TargetSettings(steps=4, lr=0.2, contexts=("", "She sells sea shells. "))
WRITE = editing.EditSettings(ft_steps=3, ft_lr=1e-2, protected=0.7)
LAYER = 1
EDITS = [
    Fact("France", "The capital of {} is", "Paris", "Madrid"),
    Fact("Tokyo", "{} is a city in", "Japan", "Spain"),
    Fact("The Danube", "People say {} flows through", "Vienna", "London"),
    Fact("Everest", "Mount {} lies in", "Asia", "Rome"),
    Fact("football", "A sport is {} and", "people", "Microsoft"),
]


def moment(lm, seed=0):
    """A well-conditioned stand-in for C with unequal directions."""
    rng = np.random.default_rng(seed)
    K = rng.normal(size=(lm.layers[LAYER].d_m, 400)) * np.geomspace(2, 0.2, lm.layers[LAYER].d_m)[:, None]
    return K @ K.T / 400


def kind_of(method):
    return editing.FineTuner if method == "ft" else editing.Editor


def weights(lm):
    return lm.layers[LAYER].weight.detach().double().numpy().copy()


def closed_form(method, W, W_keys, K, V, C, write):
    """ΔW of one step by the formulas of the book, written out with dense solves; ``W_keys``: keys of earlier edits."""
    d_m = len(C)
    lam = write.text_weight * d_m
    past = W_keys @ W_keys.T
    R = V - W @ K
    if method == "rome":
        X = np.linalg.solve(C, K)
        return R @ X.T / float(K[:, 0] @ X[:, 0])
    if method == "memit":
        return R @ np.linalg.solve(lam * C + K @ K.T, K).T
    if method in ("memit-history", "rls-soft"):
        return R @ np.linalg.solve(lam * C + past + K @ K.T, K).T
    if method == "emmet":
        X = np.linalg.solve(C, K)
        return R @ np.linalg.solve(K.T @ X, X.T)
    if method == "rls-hard":
        U = np.hstack([W_keys, K])
        X = np.linalg.solve(C, U)
        return np.hstack([np.zeros((len(V), W_keys.shape[1])), R]) @ np.linalg.solve(U.T @ X, X.T)
    P, ridge = editing.null_space(C, write)
    return R @ K.T @ P @ np.linalg.inv(past @ P + K @ K.T @ P + ridge * np.eye(d_m))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("method", [name for name in editing.METHODS if name != "ft"])
def test_each_method_is_its_closed_form(method, architecture):
    lm = tiny(architecture)
    C = moment(lm)
    batch = 2 if method in ("memit", "memit-history", "emmet", "alphaedit") else 1
    editor = editing.Editor(lm, LAYER, method, C=C, settings=SETTINGS, write=WRITE)
    W, past = weights(lm), np.zeros((len(C), 0))
    bias = getattr(lm.layers[LAYER].module, "bias", None)
    bias = 0 if bias is None else bias.double().numpy()[:, None]
    for start in range(0, 4, batch):
        group = EDITS[start : start + batch]
        found = editor.find(group)
        editor.edit(group)
        W = W + closed_form(method, W, past, found.keys, found.values - bias, C, WRITE)
        past = np.hstack([past, found.keys])
        assert np.linalg.norm(editor.memory.W - W) < 1e-9 * np.linalg.norm(W)
        assert np.linalg.norm(weights(lm) - W) < 1e-6 * np.linalg.norm(W)
    assert np.linalg.norm(W - editor.W_0) > 1e-3 * np.linalg.norm(W)
    assert editor.n_edits == 4 and len(editor.log) == 4


@pytest.mark.parametrize("method", ["rome", "memit-history", "alphaedit"])
def test_interference_is_as_the_account_says(method):
    lm = tiny("llama")
    editor = editing.Editor(lm, LAYER, method, C=moment(lm), settings=SETTINGS, write=WRITE)
    for fact in EDITS[:3]:
        editor.edit([fact])
    K = keys.extract(lm, EDITS[3:], layers=[LAYER])[LAYER]
    measured = editor.measured(K)
    np.testing.assert_allclose(measured, (weights(lm) - editor.W_0) @ K)
    np.testing.assert_allclose(editor.predicted(K), measured, atol=1e-5 * np.abs(measured).max())
    assert editor.drift() == pytest.approx(np.linalg.norm(weights(lm) - editor.W_0) / np.linalg.norm(editor.W_0))


def test_rome_writes_the_target():
    lm = tiny("llama")
    editor = editing.Editor(lm, LAYER, "rome", C=moment(lm), settings=SETTINGS)
    found = targets.search(lm, EDITS[:1], LAYER, SETTINGS)
    editor.edit(EDITS[:1])
    np.testing.assert_allclose(weights(lm) @ found.keys, found.values, rtol=1e-4, atol=1e-4)
    # so that the model says what the shift alone made it say, in the bare prompt
    again = targets.search(lm, EDITS[:1], LAYER, replace(SETTINGS, contexts=("",), stop_probability=1e-30))
    np.testing.assert_allclose(again.recalled, found.values, rtol=1e-4, atol=1e-4)


def test_targets_are_found_on_the_model_as_it_is():
    lm = tiny("llama")
    editor = editing.Editor(lm, LAYER, "rome", C=moment(lm), settings=SETTINGS)
    untouched = targets.search(lm, EDITS[1:2], LAYER, SETTINGS)
    editor.edit(EDITS[:1])
    now = targets.search(lm, EDITS[1:2], LAYER, SETTINGS, W_0=editor.weights(editor.W_0))
    np.testing.assert_allclose(editor.find(EDITS[1:2], beforehand=True).values, untouched.values, rtol=1e-4, atol=1e-5)
    assert np.abs(now.values - untouched.values).max() > 1e-3
    editor.edit(EDITS[1:2])
    np.testing.assert_array_equal(editor.memory.values[:, 1:], now.values)


def test_sequences_side_by_side_are_the_sequences_alone():
    lm = tiny("llama")
    before, C = lm.digest(), moment(lm)
    names = ["rome", "memit", "rls-hard"]
    editors = [editing.Editor(lm, LAYER, name, C=C, settings=SETTINGS, write=WRITE) for name in names]
    for fact in EDITS[:3]:
        editing.edit_side_by_side(editors, [[fact]] * 3)
    assert lm.digest() == before
    for name, together in zip(names, editors, strict=True):
        with editing.preserved(lm):
            alone = editing.run(lm, EDITS[:3], name, layer=LAYER, C=C, settings=SETTINGS, write=WRITE).editor
            mine = weights(lm)
        np.testing.assert_allclose(together.memory.W, alone.memory.W, rtol=1e-3, atol=1e-3)
        with editing.preserved(lm):
            together.apply()
            np.testing.assert_allclose(weights(lm), mine, rtol=1e-3, atol=1e-3)
    # the search may be another model's business; keys and answers stay the editors' own
    alone = editing.Editor(lm, LAYER, "rome", C=C, settings=SETTINGS)
    editing.edit_side_by_side([alone], [EDITS[:1]], searcher=tiny("llama", seed=7))
    k = keys.extract(lm, EDITS[:1], layers=[LAYER])[LAYER]
    np.testing.assert_allclose(alone.memory.keys, k)
    shift = targets.search(tiny("llama", seed=7), EDITS[:1], LAYER, SETTINGS, weights=[alone.layer.weight]).shifts
    np.testing.assert_allclose(alone.memory.values, alone.W_0 @ k + shift, atol=1e-4)
    with pytest.raises(UserError, match="a step of edits for each"):
        editing.edit_side_by_side(editors, [EDITS[:1]])


def test_steps_of_several_edits_side_by_side_are_steps_alone():
    """Also of different edits, in sequences that share their passes."""
    lm = tiny("llama")
    C = moment(lm)
    orders = {"rome": [EDITS[:2], EDITS[2:3]], "memit": [EDITS[1:3], EDITS[:1]]}
    editors = [editing.Editor(lm, LAYER, name, C=C, settings=SETTINGS, write=WRITE) for name in orders]
    for steps in zip(*orders.values(), strict=True):
        editing.edit_side_by_side(editors, steps, batch=4)
    for together, (name, steps) in zip(editors, orders.items(), strict=True):
        alone = editing.Editor(lm, LAYER, name, C=C, settings=SETTINGS, write=WRITE)
        with editing.preserved(lm):
            for some in steps:
                alone.edit(some)
        np.testing.assert_allclose(together.memory.W, alone.memory.W, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(together.memory.keys, alone.memory.keys, rtol=1e-5, atol=1e-5)
        assert together.batches == alone.batches == [0, 0, 1] and len(together.log) == 3


def test_an_account_that_refuses_its_step_leaves_the_others_theirs():
    lm = tiny("llama")
    editors = [editing.Editor(lm, LAYER, "rome", C=moment(lm), settings=SETTINGS) for _ in range(3)]

    def refuse(*_args, **_kwargs):
        raise UserError("no")

    editors[1].memory.edit_batch = refuse
    with pytest.raises(UserError, match="no"):
        editing.edit_side_by_side(editors, [EDITS[:1]] * 3)
    assert [one.n_edits for one in editors] == [1, 0, 1]


def test_what_alphaedit_protects_is_protected():
    lm = tiny("llama")
    C = moment(lm)
    projector, ridge = editing.null_space(C, WRITE)
    eigenvalues, Q = np.linalg.eigh(C)
    free = round(np.trace(projector))
    assert 0 < free < len(C) and ridge == pytest.approx(eigenvalues[:free].sum())
    assert eigenvalues[:free].sum() <= (1 - WRITE.protected) * eigenvalues.sum() < eigenvalues[: free + 1].sum()
    editor = editing.Editor(lm, LAYER, "alphaedit", C=C, settings=SETTINGS, write=WRITE)
    for fact in EDITS:
        editor.edit([fact])
    D = editor.memory.W - editor.W_0
    assert np.linalg.norm(D @ Q[:, free:]) < 1e-10 * np.linalg.norm(D)
    on_model = editor.measured(Q)
    assert np.linalg.norm(on_model[:, free:]) < 1e-5 * np.linalg.norm(on_model[:, :free])


def test_fine_tuning_is_adam_on_the_matrix():
    lm, other = tiny("llama"), tiny("llama")
    losses = editing.fine_tune(lm, LAYER, EDITS[:2], WRITE)
    weight = other.layers[LAYER].module.weight.requires_grad_(True)
    adam = torch.optim.Adam([weight], lr=WRITE.ft_lr)
    for step in range(WRITE.ft_steps + 1):
        parts = []
        for fact in EDITS[:2]:
            first = len(other.tokenizer(fact.text)["input_ids"])
            ids = other.tokenizer(f"{fact.text} {fact.target_new}")["input_ids"]
            logs = other.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            parts.append(-torch.stack([logs[at - 1, ids[at]] for at in range(first, len(ids))]).mean())
        loss = torch.stack(parts).mean()
        assert losses[step] == pytest.approx(loss.item(), rel=1e-4)
        if step < WRITE.ft_steps:
            adam.zero_grad()
            loss.backward()
            adam.step()
    np.testing.assert_allclose(weights(lm), weights(other), atol=1e-4)
    assert losses[-1] < losses[0] and not lm.layers[LAYER].module.weight.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bound", [None, 0.01])
def test_fine_tuning_in_half_precision_keeps_a_float32_master(dtype, bound):
    narrow, wide = tiny("llama"), tiny("llama")
    narrow.model.to(dtype)
    wide.model.load_state_dict({name: one.float() for name, one in narrow.model.state_dict().items()})
    write = replace(WRITE, ft_lr=1e-3, ft_steps=6, ft_norm=bound)
    before = weights(narrow)
    losses = editing.fine_tune(narrow, LAYER, EDITS[:2], write)
    expected = editing.fine_tune(wide, LAYER, EDITS[:2], write)
    np.testing.assert_allclose(losses, expected, rtol=0.05)
    moved, should = weights(narrow) - before, weights(wide) - before
    # the step is what float32 makes, and the weights its rounding
    assert np.linalg.norm(moved - should) < 0.2 * np.linalg.norm(should)
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


def test_a_loss_of_fine_tuning_that_is_not_finite_is_said_and_nothing_is_changed():
    lm = tiny("llama")
    lm.layers[LAYER].weight[0, 0] = float("inf")
    before = lm.digest()
    with pytest.raises(UserError, match="The loss of fine-tuning is not finite at layer"):
        editing.FineTuner(lm, LAYER, write=WRITE).edit(EDITS[:1])
    assert lm.digest() == before


@pytest.mark.parametrize("method", ["memit", "memit-history", "rls-soft"])
@pytest.mark.parametrize("scale", [1e6, 1e-6])
def test_a_moment_on_another_scale_is_refused_by_rules_that_feel_it(method, scale):
    lm = tiny("llama")
    before = lm.digest()
    with pytest.raises(UserError, match=r"C seems to be on another scale than the keys, by a factor of \de[+-]0\d"):
        editing.Editor(lm, LAYER, method, C=scale * moment(lm), settings=SETTINGS).edit(EDITS[:2])
    assert lm.digest() == before
    editing.Editor(lm, LAYER, "rome", C=scale * moment(lm), settings=SETTINGS).edit(EDITS[:2])


def test_fine_tuning_keeps_its_bound():
    lm = tiny("llama")
    before = weights(lm)
    editing.fine_tune(lm, LAYER, EDITS[:1], replace(WRITE, ft_norm=1e-3))
    assert np.abs(weights(lm) - before).max() == pytest.approx(1e-3, rel=1e-3)
    stopped = editing.fine_tune(tiny("llama"), LAYER, EDITS[:1], replace(WRITE, ft_stop=1e9))
    assert len(stopped) == 1


@pytest.mark.parametrize("method", ["rome", "ft"])
def test_afterwards_the_model_is_the_same_bits(method):
    lm = tiny("llama")
    before = lm.digest()
    with editing.preserved(lm):
        editing.run(lm, EDITS[:2], method, layer=LAYER, C=moment(lm), settings=SETTINGS, write=WRITE)
        assert lm.digest() != before
    assert lm.digest() == before
    with pytest.raises(RuntimeError), editing.preserved(lm):
        editing.FineTuner(lm, LAYER, write=WRITE).edit(EDITS[:1])
        raise RuntimeError
    assert lm.digest() == before and not any(p.requires_grad for p in lm.model.parameters())


@pytest.mark.parametrize("method", ["rome", "alphaedit", "ft"])
def test_the_same_edits_give_the_same_numbers(method):
    found = []
    for _ in range(2):
        lm = tiny("llama")
        done = editing.run(
            lm, EDITS[:3], method, layer=LAYER, C=moment(lm), settings=SETTINGS, write=WRITE, examine=examine
        )
        found.append((lm.digest(), done.results, done.editor.log))
    assert found[0] == found[1]


def examine(editor, _n):
    found = evaluation.evaluate(editor.model, EDITS)
    return {"log_new": found["log_new"], "drift": editor.drift()}


@pytest.mark.parametrize(("method", "batch"), [("rome", 1), ("memit-history", 2), ("rls-hard", 1), ("ft", 1)])
def test_an_interrupted_run_goes_on_with_the_same_results(method, batch, tmp_path, monkeypatch):
    lm = tiny("llama")
    options = {"layer": LAYER, "C": moment(lm), "settings": SETTINGS, "write": WRITE, "batch": batch}
    options |= {"checkpoints": [0, 1, 2, 4, 5], "examine": examine}
    with editing.preserved(lm):
        whole = editing.run(lm, EDITS, method, **options)
        final = lm.digest()
    assert [row["edits"] for row in whole.results] == ([0, 1, 2, 4, 5] if batch == 1 else [0, 2, 4, 5])
    state = tmp_path / "state.safetensors"
    kind = kind_of(method)
    original, calls = kind.edit, []

    def edit(self, facts, **more):
        calls.append(len(facts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, facts, **more)

    monkeypatch.setattr(kind, "edit", edit)
    with pytest.raises(KeyboardInterrupt), editing.preserved(lm):
        editing.run(lm, EDITS, method, state=state, **options)
    assert state.is_file()
    with editing.preserved(lm):
        resumed = editing.run(lm, EDITS, method, state=state, **options)
        assert lm.digest() == final
    assert resumed.results == whole.results and resumed.editor.log == whole.editor.log
    assert sum(calls) - calls[2] == len(EDITS)  # nothing was made twice
    with editing.preserved(lm), pytest.raises(UserError, match="another run"):
        editing.run(lm, EDITS[::-1], method, state=state, **options)
    state.write_bytes(b"half")
    with editing.preserved(lm), pytest.raises(UserError, match="damaged"):
        editing.run(lm, EDITS, method, state=state, **options)


@pytest.mark.parametrize("method", ["rome", "ft"])
@pytest.mark.parametrize("where", ["a search", "a writing", "a look"])
def test_an_interrupt_anywhere_leaves_a_state_to_go_on_from(method, where, tmp_path, monkeypatch):
    lm = tiny("llama")
    options = {"layer": LAYER, "C": moment(lm), "settings": SETTINGS, "write": WRITE, "checkpoints": [0, 3, 5]}
    with editing.preserved(lm):
        whole = editing.run(lm, EDITS, method, examine=examine, **options)
        final = lm.digest()
    state, calls = tmp_path / "state.safetensors", []

    def cut(original, at, signalled=False):
        def call(*arguments, **more):
            calls.append(1)
            if len(calls) == at and not signalled:
                raise KeyboardInterrupt
            if len(calls) == at:
                os.kill(os.getpid(), signal.SIGINT)
            return original(*arguments, **more)

        return call

    look = examine
    with monkeypatch.context() as patch:
        if where == "a search" and method == "ft":
            patch.setattr(torch.optim.Adam, "step", cut(torch.optim.Adam.step, 3 * WRITE.ft_steps - 1))
        elif where == "a search":
            patch.setattr(targets, "search", cut(targets.search, 3))
        elif where == "a writing":
            patch.setattr(kind_of(method), "_count", cut(kind_of(method)._count, 2, signalled=True))
        else:
            look = cut(examine, 2)
        with pytest.raises(KeyboardInterrupt), editing.preserved(lm):
            editing.run(lm, EDITS, method, examine=look, state=state, **options)
    made, original = [], kind_of(method).edit
    monkeypatch.setattr(kind_of(method), "edit", lambda self, *a, **k: made.append(1) or original(self, *a, **k))
    with editing.preserved(lm):
        resumed = editing.run(lm, EDITS, method, examine=examine, state=state, **options)
        assert lm.digest() == final
    assert len(made) == len(EDITS) - (3 if where == "a look" else 2)
    assert resumed.results == whole.results and resumed.editor.log == whole.editor.log


@pytest.mark.parametrize(("method", "batch"), [("rome", 1), ("memit", 2)])
def test_targets_found_beforehand_are_those_of_the_unedited_model(method, batch):
    lm = tiny("llama")
    options = {"layer": LAYER, "C": moment(lm), "settings": SETTINGS, "write": WRITE, "batch": batch}
    alone = targets.search(lm, EDITS, LAYER, SETTINGS)
    with editing.preserved(lm):
        found = editing.run(lm, EDITS, method, targets="beforehand", **options).editor.memory
        np.testing.assert_allclose(weights(lm), found.W, atol=1e-5)
    np.testing.assert_allclose(found.values, alone.values, rtol=1e-3, atol=1e-4)
    with editing.preserved(lm):
        anew = editing.run(lm, EDITS, method, **options).editor.memory
    np.testing.assert_allclose(anew.values[:, :batch], alone.values[:, :batch], rtol=1e-3, atol=1e-4)
    assert np.abs(anew.values - alone.values)[:, batch:].max() > 1e-2
    with pytest.raises(UserError, match="anew or beforehand"):
        editing.run(lm, EDITS, method, targets="before", **options)
    with pytest.raises(UserError, match="no target values"):
        editing.run(lm, EDITS, "ft", targets="beforehand", layer=LAYER)


@pytest.mark.parametrize("stop", range(1, 5))
def test_an_interrupted_run_with_targets_beforehand_goes_on_with_the_same_results(stop, tmp_path, monkeypatch):
    monkeypatch.setattr(sequence, "TOGETHER", 2)
    lm = tiny("llama")
    options = {"layer": LAYER, "C": moment(lm), "settings": SETTINGS, "targets": "beforehand"}
    with editing.preserved(lm):
        whole = editing.run(lm, EDITS, **options)
        final = lm.digest()
    count, state = editing.Editor._count, tmp_path / "state.safetensors"

    def interrupted(self, edits):
        count(self, edits)
        if self.n_edits == stop:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(editing.Editor, "_count", interrupted)
        with pytest.raises(KeyboardInterrupt), editing.preserved(lm):
            editing.run(lm, EDITS, state=state, **options)
    with editing.preserved(lm):
        resumed = editing.run(lm, EDITS, state=state, **options)
        assert lm.digest() == final and resumed.editor.log == whole.editor.log
    with editing.preserved(lm), pytest.raises(UserError, match="another run"):
        editing.run(lm, EDITS, state=state, **options | {"targets": "anew"})


def test_in_a_sequence_the_ball_is_that_of_the_unedited_model():
    """However far earlier edits have moved an answer; the moving ball goes with it."""
    lm = tiny("llama")
    tight = replace(SETTINGS, clamp_norm_factor=0.3, stop_probability=1.0, steps=12)
    K = keys.extract(lm, EDITS, layers=[LAYER])[LAYER]
    lengths = np.linalg.norm(weights(lm) @ K, axis=0)
    for bound in ("anchored", "moving"):
        with editing.preserved(lm):
            run = editing.run(lm, EDITS, layer=LAYER, C=moment(lm), settings=replace(tight, bound=bound))
        shifts = np.array([row["shift_norm"] for row in run.editor.log])
        unit = lengths if bound == "anchored" else np.array([row["recalled_norm"] for row in run.editor.log])
        assert (shifts <= 0.3 * unit * (1 + 1e-3)).all() and (shifts > 0.29 * unit).sum() > 2
    assert not np.allclose(unit, lengths, rtol=0.01)


def test_an_interrupt_while_the_disk_is_full_is_still_an_interrupt(tmp_path, monkeypatch):
    lm, count = tiny("llama"), editing.Editor._count
    (tmp_path / "file").write_text("")

    def interrupted(self, edits):
        count(self, edits)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(editing.Editor, "_count", interrupted)
    with pytest.raises(KeyboardInterrupt), pytest.warns(console.SuperpositionWarning, match="were not kept"):
        editing.run(lm, EDITS, layer=LAYER, C=moment(lm), settings=SETTINGS, state=tmp_path / "file" / "state")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda lm: editing.Editor(lm, 1, "best"), "no method"),
        (lambda lm: editing.FineTuner(lm, 9), "layers 0 to 2"),
        (lambda lm: editing.Editor(lm, 1, "rome"), "needs C"),
        (lambda lm: editing.Editor(lm, 1, "rome", C=np.eye(3)), "40 dimensions"),
        (lambda lm: editing.run(lm, [], "ft", layer=1), "at least one"),
        (lambda lm: editing.run(lm, EDITS, "ft", layer=1, batch=0), "batch"),
        (lambda lm: editing.FineTuner(lm, 1).edit([replace(EDITS[0], target_new=None)]), "target_new"),
        (lambda lm: editing.FineTuner(lm, 1).predicted(np.eye(40)), "no account"),
        (lambda lm: editing.null_space(np.eye(4), editing.EditSettings(protected=0.9)), "protect less"),
        (lambda lm: editing.EditSettings(text_weight=0), "positive"),
        (lambda lm: editing.EditSettings(protected=1.0), "protected"),
        (lambda lm: editing.EditSettings(ft_norm=0.0), "ft_norm"),
    ],
)
def test_what_cannot_be(call, said):
    with pytest.raises(UserError, match=said):
        call(tiny("llama"))


@pytest.mark.real_model
def test_one_edit_of_the_real_layer(user_cache, smollm2):
    layer = 6
    moment = moments.estimate(smollm2, "book", tokens=24_576, layers=[layer]).second_moment(layer)
    fact = Fact("Croatia", "The official language of {} is", "Croatian", "Russian")
    before = smollm2.digest()
    with editing.preserved(smollm2):
        editor = editing.Editor(smollm2, layer, "rome", C=moment)
        editor.edit([fact])
        k, v = editor.memory.keys[:, 0], editor.memory.values[:, 0]
        expected = editor.W_0 + rules.rome(editor.W_0, k, v, moment)
        assert np.linalg.norm(editor.memory.W - expected) < 1e-6 * np.linalg.norm(expected - editor.W_0)
        written = editor.measured(k[:, None])[:, 0] - (v - editor.W_0 @ k)
        assert np.linalg.norm(written) < 1e-5 * np.linalg.norm(v)
        found = evaluation.evaluate(smollm2, [fact])
        assert found["success"]["share"] == 1 and found["exact"]["share"] == 1
    assert smollm2.digest() == before
