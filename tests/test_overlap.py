"""P, Q and the cosines against their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superposition.errors import UserError
from superposition.linear import overlap
from superposition.linear.metric import Metric


def problem(seed, width=9, count=6, tokens=60):
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((width, width))
    text = mixing @ rng.standard_normal((width, tokens)) + rng.standard_normal((width, 1))
    return mixing @ rng.standard_normal((width, count)), text @ text.T / tokens, text


seeds = st.integers(0, 2**32 - 1)


def test_every_entry_is_the_papers_formula():
    keys, C, _ = problem(1)
    inverse = np.linalg.inv(C)
    found = overlap.measure(keys, C)
    for i in range(6):
        for j in range(6):
            a, b = keys[:, i], keys[:, j]
            assert found.P[i, j] == pytest.approx(a @ inverse @ b / (a @ inverse @ a), rel=1e-9)
            assert found.Q[i, j] == pytest.approx(a @ b, rel=1e-12)
            angle = a @ inverse @ b / np.sqrt((a @ inverse @ a) * (b @ inverse @ b))
            assert found.cosine_whitened[i, j] == pytest.approx(angle, rel=1e-9)
            raw = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            assert found.cosine_raw[i, j] == pytest.approx(raw, rel=1e-12)
        length = np.sqrt(keys[:, i] @ inverse @ keys[:, i])
        assert found.norm_whitened[i] == pytest.approx(length, rel=1e-9)
    assert np.array_equal(overlap.superposition_matrix(keys, C), found.P)


def test_whitened_text_has_the_identity_for_its_second_moment():
    _, C, text = problem(3, width=12, tokens=400)
    white = Metric(C).whiten(text)
    np.testing.assert_allclose(white @ white.T / text.shape[1], np.eye(12), atol=1e-10)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_p_is_invariant_to_a_change_of_basis_and_the_raw_cosine_is_not(seed):
    keys, C, _ = problem(seed)
    basis = np.random.default_rng(seed + 1).standard_normal((9, 9)) + 4 * np.eye(9)
    before, after = overlap.measure(keys, C), overlap.measure(basis @ keys, basis @ C @ basis.T)
    np.testing.assert_allclose(after.P, before.P, rtol=1e-5, atol=1e-7)
    assert np.abs(after.cosine_raw - before.cosine_raw).max() > 1e-3


def test_a_metric_stands_for_its_matrix():
    keys, C, _ = problem(4)
    assert np.array_equal(overlap.superposition_matrix(keys, Metric(C)), overlap.superposition_matrix(keys, C))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda keys, C: (keys[:, 0], C), "one key a column"),
        (lambda keys, C: (keys[:, :0], C), "one key a column"),
        (lambda keys, C: (np.where(np.eye(9, 6), np.nan, keys), C), "NaN or infinite"),
        (lambda keys, C: (np.where(np.eye(9, 6), np.inf, keys), C), "NaN or infinite"),
        (lambda keys, C: (keys * [1, 1, 0, 1, 1, 1], C), "Key 2 of K is zero"),
        (lambda keys, C: (keys, C[:5, :5]), r"K has shape \(9, 6\) and C \(5, 5\)"),
        (lambda keys, C: (keys, C[:5]), "a square matrix is needed"),
        (lambda keys, C: (keys, C * np.nan), "C holds NaN"),
        (lambda keys, C: (keys, np.zeros((9, 9))), "singular"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_gets_its_sentence(spoil, sentence):
    with pytest.raises(UserError, match=sentence):
        overlap.superposition_matrix(*spoil(*problem(5)[:2]))


@given(seeds, st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_the_strongest_pairs_are_those_of_a_sorted_list(seed, count):
    P = np.round(np.random.default_rng(seed).standard_normal((6, 6)), 2)
    P[4, 1] = P[1, 4]  # both directions alike
    pairs = sorted((max(P[i, j], P[j, i]) for i in range(6) for j in range(i)), reverse=True)
    found = overlap.strongest(P, count)
    assert [P[i, j] for i, j in found] == pairs[:count]
    assert len({frozenset(pair) for pair in found}) == len(found) == min(count, 15)
