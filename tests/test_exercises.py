"""The exercises' checks accept a right answer and say of a wrong one what is wrong."""

import re

import numpy as np
import pytest

from superposition import exercises, rules


def solve(C, k):
    return np.linalg.solve(C, k)


# --- 02 the single edit -------------------------------------------------------------------------------------


def edit(W, C, k_e, v_e):
    return W + rules.rome(W, k_e, v_e, C)


def batch(W, C, K_e, V_e):
    return W + rules.emmet(W, K_e, V_e, C)


def edit_along_the_key(W, C, k_e, v_e):
    return W + np.outer(v_e - W @ k_e, k_e) / (k_e @ k_e)


def edit_that_forgets_W(W, C, k_e, v_e):
    return W + np.outer(v_e, solve(C, k_e)) / (k_e @ solve(C, k_e))


def edit_in_place(W, C, k_e, v_e):
    W += rules.rome(W, k_e, v_e, C)
    return W


def edits_added_up(W, C, K_e, V_e):
    return W + sum(rules.rome(W, k, v, C) for k, v in zip(K_e.T, V_e.T, strict=True))


def memit(W, C, K_e, V_e):
    return W + rules.memit(W, K_e, V_e, C)


RIGHT = [(exercises.check_02_edit, edit), (exercises.check_02_batch, batch)]

WRONG = [
    (exercises.check_02_edit, lambda W, C, k, v: None, "returned None"),
    (exercises.check_02_edit, lambda W, C, k, v: rules.rome(W, k, v, C).T, "shape"),
    (exercises.check_02_edit, lambda W, C, k, v: W * np.nan, "NaN"),
    (exercises.check_02_edit, lambda W, C, k, v: W.copy(), "Nothing was written"),
    (exercises.check_02_edit, lambda W, C, k, v: rules.rome(W, k, v, C), "misses v_e"),
    (exercises.check_02_edit, edit_that_forgets_W, "misses v_e"),
    (exercises.check_02_edit, edit_in_place, "changed its argument W"),
    (exercises.check_02_edit, edit_along_the_key, r"damage is \d+\.\d\d times the least"),
    (exercises.check_02_batch, edits_added_up, "misses V_e"),
    (exercises.check_02_batch, memit, "misses V_e"),
    (exercises.check_02_batch, lambda W, C, K, V: W + (V - W @ K) @ np.linalg.pinv(K), "times the least"),
]


@pytest.mark.parametrize("check, answer", RIGHT, ids=lambda x: getattr(x, "__name__", ""))
def test_a_right_answer_is_accepted_again_and_again(check, answer):
    said = check(answer)
    assert said.startswith("Right") and said == check(answer)


@pytest.mark.parametrize("check, answer, complaint", WRONG, ids=lambda x: getattr(x, "__name__", str(x)))
def test_a_wrong_answer_hears_what_is_wrong(check, answer, complaint):
    with pytest.raises(AssertionError) as heard:
        check(answer)
    assert re.search(complaint, str(heard.value)), heard.value
