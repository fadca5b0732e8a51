"""The linear memory and its ledger: what it predicts is what is measured."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from superposition.errors import UserError
from superposition.linear import rules
from superposition.linear.memory import RULES, LinearMemory

EXAMPLES = settings(max_examples=20, deadline=None)


def world(seed, d=3, d_m=6, N=14, n=4):
    rng = np.random.default_rng(seed)
    K, V = rng.normal(size=(d_m, N)), rng.normal(size=(d, N))
    return K, V, K @ K.T, rng.normal(size=(d_m, n)), rng.normal(size=(d, n))


def relative(a, b):
    return np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(np.asarray(b))


def options_for(rule, C):
    return {"projector": rules.null_space_projector(C, 0.9, relative=True)} if rule == "alphaedit" else {}


def p(k_i, k_j, C):
    """The definition, by loops and an explicit inverse."""
    inverse, total, own = np.linalg.inv(C), 0.0, 0.0
    for a in range(len(k_i)):
        for b in range(len(k_j)):
            total += k_i[a] * inverse[a, b] * k_j[b]
            own += k_i[a] * inverse[a, b] * k_i[b]
    return total / own


@EXAMPLES
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(2, 6), st.integers(1, 8))
def test_rome_interference_is_the_sum_of_p_delta(seed, d, d_m, n):
    """Claims 1 to 3 by an independent loop over single edits, definition of p and all."""
    K, V, C, K_e, V_e = world(seed, d, d_m, d_m + 5, n)
    memory = LinearMemory.from_pairs(K, V)
    W, deltas, after = memory.W_0.copy(), [], []
    for i in range(n):
        memory.edit(K_e[:, i], V_e[:, i])
        deltas.append(V_e[:, i] - W @ K_e[:, i])
        W = W + np.outer(deltas[i], np.linalg.inv(C) @ K_e[:, i]) / (K_e[:, i] @ np.linalg.inv(C) @ K_e[:, i])
        assert relative(memory.recall(K_e[:, i]), V_e[:, i]) < 1e-8
        after.append(W)
    assert relative(memory.W, W) < 1e-8
    expected = np.stack([sum(p(K_e[:, i], k, C) * deltas[i] for i in range(n)) for k in K.T], axis=1)
    assert relative(memory.predicted_interference(K), expected) < 1e-8
    assert relative(memory.measured_interference(K), expected) < 1e-8
    late = np.zeros((d, n))
    for j in range(n):
        for i in range(j + 1, n):
            late[:, j] += p(K_e[:, i], K_e[:, j], C) * deltas[i]
        np.testing.assert_allclose((W - after[j]) @ K_e[:, j], late[:, j], atol=1e-7 * max(1, abs(W).max()))
    np.testing.assert_allclose(memory.predicted_interference_on_edits(), late, atol=1e-7 * max(1, abs(W).max()))
    assert not memory.predicted_interference_on_edits()[:, -1].any()


@EXAMPLES
@given(st.integers(0, 2**32 - 1), st.sampled_from(RULES), st.booleans())
def test_prediction_equals_measurement_for_every_rule(seed, rule, batched):
    K, V, C, K_e, V_e = world(seed, d_m=7, N=40, n=5)
    memory = LinearMemory.from_pairs(K, V)
    options = options_for(rule, C)
    if batched:
        memory.edit_batch(K_e[:, :2], V_e[:, :2], rule, **options)
        memory.edit_batch(K_e[:, 2:], V_e[:, 2:], rule, **options)
    else:
        for i in range(5):
            memory.edit(K_e[:, i], V_e[:, i], rule, **options)
    assert relative(memory.predicted_interference(K), memory.measured_interference(K)) < 1e-10
    predicted, measured = memory.predicted_interference_on_edits(), memory.measured_interference_on_edits()
    np.testing.assert_allclose(predicted, measured, atol=1e-10 * np.abs(memory.W).max() * np.abs(K_e).max())
    by_edit = memory.interference_by_edit(K)
    assert by_edit.shape == (5, 3, 40)
    assert relative(by_edit.sum(0), memory.measured_interference(K)) < 1e-10
    for i in range(5):
        assert relative(by_edit[i], memory.edit_of(i) @ K) < 1e-10
    assert relative(sum(memory.edit_of(i) for i in range(5)), memory.W - memory.W_0) < 1e-10


@EXAMPLES
@given(st.integers(0, 2**32 - 1))
def test_each_rule_by_name_is_the_pure_function(seed):
    K, V, C, K_e, V_e = world(seed, N=30)
    start = rules.least_squares(K, V)
    P = rules.null_space_projector(C, 0.9, relative=True)
    first, second = (K_e[:, :2], V_e[:, :2]), (K_e[:, 2:], V_e[:, 2:])
    expected = {
        "memit": lambda W, K, V, past: rules.memit(W, K, V, C),
        "memit-history": lambda W, K, V, past: rules.memit(W, K, V, C, past),
        "emmet": lambda W, K, V, past: rules.emmet(W, K, V, C),
        "alphaedit": lambda W, K, V, past: rules.alphaedit(W, K, V, P, past),
        "rls-soft": lambda W, K, V, past: rules.memit(W, K, V, C, past),
        "rls-hard": lambda W, K, V, past: rules.emmet(W, K, V, C, past),
    }
    for rule, update in expected.items():
        memory = LinearMemory(start, C)
        W, past = start, K_e[:, :0]
        for batch in (first, second):
            memory.edit_batch(*batch, rule, **({"projector": P} if rule == "alphaedit" else {}))
            W, past = W + update(W, *batch, past), np.hstack([past, batch[0]])
            assert relative(memory.W, W) < 1e-6, rule


@EXAMPLES
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 3), min_size=4, max_size=5), st.booleans())
def test_a_rule_that_honours_history_keeps_a_state_in_its_place(seed, sizes, change):
    """Whatever the batches are, and whoever wrote in between; where an option changes, the state is made anew."""
    K, V, C, K_e, V_e = world(seed, N=30, n=sum(sizes))
    projector = rules.null_space_projector(C, 0.9, relative=True)
    direct = {
        "memit-history": lambda W, K, V, past, weight: rules.memit(W, K, V, C, past, weight=weight),
        "alphaedit": lambda W, K, V, past, weight: rules.alphaedit(W, K, V, projector, past, 1 / weight),
    }
    for rule, update in direct.items():
        memory = LinearMemory(rules.least_squares(K, V), C)
        W, done = memory.W, 0
        for step, size in enumerate(sizes):
            now = slice(done, done + size)
            weight = 0.5 + step if change else 0.5
            own = {"projector": projector, "ridge": 1 / weight} if rule == "alphaedit" else {"weight": weight}
            other = step == 1
            memory.edit_batch(K_e[:, now], V_e[:, now], *(["rome"] if other else [rule]), **({} if other else own))
            if other:
                W = memory.W
            else:
                W = W + update(W, K_e[:, now], V_e[:, now], K_e[:, :done], weight)
            done += size
            assert relative(memory.W, W) < 1e-7, rule


@EXAMPLES
@given(st.integers(0, 2**32 - 1), st.integers(2, 7))
def test_hard_memory_keeps_all_edits_until_it_is_full(seed, d_m):
    K, V, _, K_e, V_e = world(seed, 3, d_m, 3 * d_m, d_m + 1)
    U = np.linalg.solve(np.linalg.cholesky(K @ K.T), K_e[:, :d_m])
    assume(np.abs(np.diag(np.linalg.qr(U / np.linalg.norm(U, axis=0))[1])).min() > 3e-3)
    memory = LinearMemory.from_pairs(K, V)
    for i in range(d_m):
        memory.edit(K_e[:, i], V_e[:, i], "rls-hard")
        np.testing.assert_allclose(memory.edit_error(), 0, atol=1e-7 * np.abs(memory.W).max() * np.abs(K_e).max())
    P = np.array([[p(a, b, K @ K.T) for b in K_e.T] for a in K_e.T])
    assert np.abs(P).min() > 0
    W = memory.W.copy()
    with pytest.raises(UserError, match=f"no room for this key .* after d_m = {d_m} edits"):
        memory.edit(K_e[:, d_m], V_e[:, d_m], "rls-hard")
    np.testing.assert_array_equal(memory.W, W)
    assert memory.n_edits == d_m


def test_soft_memory_and_fixed_C_do_not_keep_their_edits():
    K, V, _, K_e, V_e = world(1)
    for rule in ("rome", "rls-soft", "memit-history"):
        memory = LinearMemory.from_pairs(K, V)
        for i in range(4):
            memory.edit(K_e[:, i], V_e[:, i], rule)
        assert np.abs(memory.edit_error()[:, 0]).max() > 1e-3


@pytest.mark.parametrize("rule", ["memit-history", "rls-soft", "rls-hard", "alphaedit"])
def test_the_state_of_earlier_edits_is_symmetric_to_the_last_bit(rule):
    """What is not would stay while the state shrinks, and cost the hard recursion a digit for an ill-conditioned C."""
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    C = (Q * np.geomspace(1, 1e9, 40)) @ Q.T
    C = (C + C.T) / 2
    memory = LinearMemory(np.zeros((3, 40)), C)
    for size in (1, 1, 4, 1):
        memory.edit_batch(rng.normal(size=(40, size)), rng.normal(size=(3, size)), rule, **options_for(rule, C))
        memory.edit(rng.normal(size=40), rng.normal(size=3))  # another's, to catch up with
    S = memory._recursion[0] if rule == "rls-hard" else memory._held[rule][0]
    np.testing.assert_array_equal(S, S.T)


def test_histories_reach_across_rules():
    K, V, C, K_e, V_e = world(2)
    memory = LinearMemory.from_pairs(K, V)
    memory.edit_batch(K_e[:, :2], V_e[:, :2], "emmet")
    memory.edit(K_e[:, 0], V_e[:, 0], "rome")
    held = memory.recall(K_e[:, :2])
    W = memory.W
    memory.edit(K_e[:, 2], V_e[:, 2], "rls-hard")
    np.testing.assert_allclose(memory.recall(K_e[:, :2]), held, atol=1e-10)
    assert relative(memory.W - W, rules.emmet(W, K_e[:, 2:3], V_e[:, 2:3], C, K_e[:, :2])) < 1e-8
    W = memory.W
    memory.edit(K_e[:, 3], V_e[:, 3], "rls-soft")
    past = K_e[:, [0, 1, 0, 2]]
    assert relative(memory.W - W, rules.memit(W, K_e[:, 3:], V_e[:, 3:], C, past)) < 1e-8
    held = memory.recall(K_e)
    memory.edit(np.ones(6), np.ones(3), "rls-hard")
    np.testing.assert_allclose(memory.recall(K_e), held, atol=1e-8)
    assert memory.batches == [0, 0, 1, 2, 3, 4]


def test_transfer_is_P():
    from superposition.linear.overlap import superposition_matrix

    K, V, C, K_e, V_e = world(3)
    memory = LinearMemory.from_pairs(K, V)
    memory.edit_batch(K_e, V_e, "rome")
    np.testing.assert_allclose(memory.transfer(K_e), superposition_matrix(K_e, C), rtol=1e-9)
    np.testing.assert_allclose(memory.transfer(K_e), superposition_matrix(K_e, memory.metric), rtol=1e-9)


def test_nothing_given_is_changed_or_shared():
    K, V, C, K_e, V_e = world(6)
    W = rules.least_squares(K, V)
    given_arrays = (W, C, K_e, V_e)
    copies = [a.copy() for a in given_arrays]
    memory = LinearMemory(W, C)
    for rule in RULES:
        if rule != "rls-hard":
            memory.edit_batch(K_e, V_e, rule, **options_for(rule, C))
    for a, b in zip(given_arrays, copies, strict=True):
        np.testing.assert_array_equal(a, b)
    recalled, predicted = memory.recall(K), memory.predicted_interference(K)
    for a in given_arrays:
        a[:] = np.nan
    np.testing.assert_array_equal(memory.recall(K), recalled)
    np.testing.assert_array_equal(memory.predicted_interference(K), predicted)
    assert relative(memory.measured_interference(K), predicted) < 1e-10


def test_the_ledger_keeps_its_own_copies():
    K, V, _, K_e, V_e = world(10)
    memory = LinearMemory.from_pairs(K, V)
    k, v = K_e[:, 0].copy(), V_e[:, 0].copy()
    memory.edit(k, v)
    k[:], v[:] = np.nan, np.nan
    np.testing.assert_array_equal(memory.keys[:, 0], K_e[:, 0])
    np.testing.assert_array_equal(memory.values[:, 0], V_e[:, 0])


def test_a_function_is_a_rule():
    K, V, _, K_e, V_e = world(7)
    seen = []

    def raw(K, C, K_previous, gain):
        seen.append(K_previous.shape)
        return gain * K / (K * K).sum(0)

    memory = LinearMemory.from_pairs(K, V)
    memory.edit(K_e[:, 0], V_e[:, 0], raw, gain=1.0)
    assert relative(memory.recall(K_e[:, 0]), V_e[:, 0]) < 1e-10
    memory.edit_batch(K_e[:, 1:], V_e[:, 1:], raw, gain=0.5)
    assert seen == [(6, 0), (6, 1)]
    assert relative(memory.predicted_interference(K), memory.measured_interference(K)) < 1e-10
    assert memory.directions.shape == (6, 4) and memory.values.shape == (3, 4)


def test_a_new_memory_has_an_empty_ledger():
    K, V, _, _, _ = world(8)
    memory = LinearMemory.from_pairs(K, V)
    assert memory.n_edits == 0 and memory.keys.shape == (6, 0) and memory.values.shape == (3, 0)
    assert memory.predicted_interference_on_edits().shape == memory.edit_error().shape == (3, 0)
    assert not memory.predicted_interference(K).any() and not memory.measured_interference(K).any()
    again = LinearMemory(memory.W, memory.metric)
    assert again.metric is memory.metric
    ridge = LinearMemory.from_pairs(K[:, :2], V[:, :2], ridge=0.5)
    np.testing.assert_allclose(ridge.W @ (K[:, :2] @ K[:, :2].T + 0.5 * np.eye(6)), V[:, :2] @ K[:, :2].T, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda m: m.edit(np.ones(6), np.ones(3), "mend"), "no rule 'mend': choose from rome, memit"),
        (lambda m: m.edit(np.ones(6), np.ones(3), "rome", ridge=1), "'rome' was given the wrong options"),
        (lambda m: m.edit(np.ones(6), np.ones(3), "alphaedit"), "'alphaedit' was given the wrong options"),
        (lambda m: m.edit(np.ones(5), np.ones(3)), r"K has shape \(5, 1\) where \(6, n\)"),
        (lambda m: m.edit(np.ones(6), np.ones(4)), r"V has shape \(4, 1\) where \(3, 1\)"),
        (lambda m: m.edit(np.ones((6, 2)), np.ones(3)), r"k has shape \(6, 2\)"),
        (lambda m: m.edit(np.zeros(6), np.ones(3)), "Key 0 of K is zero"),
        (lambda m: m.edit_batch(np.ones((6, 2)), np.ones((3, 2)), "emmet"), "the same up to scale"),
        (lambda m: m.edit(np.full(6, np.nan), np.ones(3)), "NaN or infinite"),
        (lambda m: m.edit(np.ones(6), np.ones(3), lambda K, C, past: K.T), "The rule's M has shape"),
        (lambda m: m.recall(np.ones(5)), r"K has shape \(5,\) and W \(3, 6\)"),
        (lambda m: m.edit_of(0), "There is no edit 0: the memory holds 0"),
        (lambda m: LinearMemory(m.W, np.zeros((6, 6))), "C of width 6 is singular"),
        (lambda m: LinearMemory(m.W, np.eye(5)), r"W has shape \(3, 6\) where \(d, 5\)"),
        (lambda m: LinearMemory(m.W, None), "C has dtype object"),
        (lambda m: LinearMemory(m.W[0], np.eye(6)), r"W has shape \(6,\)"),
        (lambda m: LinearMemory.from_pairs(np.eye(6)[:, :4], np.ones((3, 4))), "C of width 6 is singular"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_errors_say_what_to_do_and_change_nothing(call, sentence):
    K, V, _, _, _ = world(9)
    memory = LinearMemory.from_pairs(K, V)
    with pytest.raises(UserError, match=sentence):
        call(memory)
    np.testing.assert_array_equal(memory.W, memory.W_0)
    assert memory.n_edits == 0 and memory.keys.shape == (6, 0)
