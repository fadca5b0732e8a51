"""The figure of all trials: a case lies where the claim has it, or on the other side of the bar."""

import numpy as np
import pytest
from test_explaining import collisions

from superposition import figures
from superposition.figures.claims import FAR, REACH, towards
from superposition.stats.intervals import Estimate
from superposition.studies import verdicts
from superposition.studies.verdicts import Trial, Verdict


def verdict(found, bar, wanted, cases=None):
    return Verdict("it does", cases or [True] * len(found), "so", [Estimate(*x) for x in found], bar, wanted)


def test_right_of_the_bar_is_where_the_claim_puts_it():
    found = [(3, 2, 5), (0, -1, 2)]
    np.testing.assert_allclose(towards(verdict(found, 1, "above")), [[1, 0.5, 2], [-0.5, -1, 0.5]])
    np.testing.assert_allclose(towards(verdict(found, 1, "below")), [[-1, -2, -0.5], [0.5, -0.5, 1]])


def test_at_the_bar_an_interval_that_holds_it_ends_there():
    found = [(3, 2, 5), (0, -1, 2), (-1, -3, 0)]
    expected = [[-2, -4, -1], [-1, -2, 0], [-2, -4, -1]]
    np.testing.assert_allclose(towards(verdict(found, 1, "at")), np.array(expected) / 2)


def test_what_never_comes_true_is_far_and_finite():
    found = towards(verdict([(0.1, 0.1, 0.1), (np.inf, np.inf, np.inf)], 0.4, "below"))
    assert np.isfinite(found).all() and found[1, 0] == -1
    assert found[0, 0] == pytest.approx(0.3 / (FAR - 0.4))


def test_no_two_names_of_trials_meet():
    assert collisions(figures.trials(verdicts.scoreboard())) == []


def test_a_row_a_trial_and_a_mark_a_case():
    board = [
        (Trial(1, "02-single-edit", lambda: None), Verdict("it is", [True], "Proved")),
        (Trial(6, "03-lifelong", lambda: None, ("toy-memory",)), verdict([(2, 1.5, 3)], 1, "above")),
        (Trial(9, "11-superposition-in-llms", lambda: None), verdict([(1, 0.5, 2), (3, 2, 4)], 0, "at", [False] * 2)),
    ]
    (axis,) = figures.trials(board).axes
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels == ["9: the mean of $p$ is zero", "6: earlier edits suffer more, toys"]
    marks = [line.get_xdata() for line in axis.lines if line.get_marker() not in ("None", "")]
    assert sorted(map(len, marks)) == [1, 2] and max(np.abs(x).max() for x in marks) <= REACH
    assert {text.get_text() for text in axis.texts} == {"1 of 1", "0 of 2", "as claimed"}
