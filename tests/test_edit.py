"""An edit as its two factors against the matrix that they stand for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superposition.errors import UserError
from superposition.linear.edit import Edit


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 6), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_everything_is_what_the_matrix_says(seed, d, d_m, n):
    rng = np.random.default_rng(seed)
    delta, M, K, G = (rng.standard_normal(shape) for shape in ((d, n), (d_m, n), (d_m, 7), (d, 7)))
    edit = Edit(delta, M)
    change = sum((np.outer(delta[:, i], M[:, i]) for i in range(n)), np.zeros((d, d_m)))
    np.testing.assert_allclose(edit.matrix(), change, atol=1e-12)
    assert edit.norm() == pytest.approx(np.linalg.norm(change), abs=1e-7)
    np.testing.assert_allclose(edit.at(K), change @ K, atol=1e-12)
    np.testing.assert_allclose(edit.at(K[:, 0]), change @ K[:, 0], atol=1e-12)
    parts = edit.first_order(G, K)
    assert parts.shape == (n, 7) == edit.shares(K).shape and len(edit) == n
    assert parts.sum() == pytest.approx(np.sum((G @ K.T) * change), abs=1e-10)
    for i in range(n):
        np.testing.assert_allclose(
            parts[i],
            [np.outer(g, k).ravel() @ edit[i : i + 1].matrix().ravel() for g, k in zip(G.T, K.T, strict=True)],
            atol=1e-12,
        )
    if n:
        assert edit.scaled_to(3.0).norm() == pytest.approx(3)
        np.testing.assert_allclose(edit[np.arange(n)[::-1]].matrix(), change, atol=1e-12)


@pytest.mark.usefixtures("unchecked")
def test_residuals_and_directions_must_be_as_many():
    with pytest.raises(UserError, match=r"delta has shape \(3, 2\) and M \(4, 1\): pass a residual and a direction"):
        Edit(np.ones((3, 2)), np.ones((4, 1)))
