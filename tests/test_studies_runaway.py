"""The loop of norms: lengths told before any edit, on memories that are in the loop; and read off a record."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from superposition.linear import overlap
from superposition.linear.memory import LinearMemory
from superposition.studies import runaway
from superposition.studies.runaway import CAUSES, WHOLE


def in_the_loop(seed, n, c):
    """A memory whose residuals are c times the answers they meet, at right angles to these and to each other."""
    rng = np.random.default_rng(seed)
    d, d_m = 2 * n + 2, 9
    W = np.zeros((d, d_m))
    W[:2] = rng.normal(size=(2, d_m))
    memory = LinearMemory(W, np.cov(rng.normal(size=(d_m, 40))))
    for place, k in enumerate(rng.normal(size=(n, d_m))):
        answer = memory.recall(k)
        shift = np.zeros(d)
        shift[2 + place] = c * np.linalg.norm(answer)
        memory.edit(k, answer + shift, "rome")
    return memory


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 12), st.floats(0.2, 3))
def test_lengths_are_exact_where_residuals_stand_at_right_angles(seed, n, c):
    memory = in_the_loop(seed, n, c)
    answers = np.linalg.norm(memory.W_0 @ memory.keys, axis=0)
    P = overlap.superposition_matrix(memory.keys, memory.metric)
    came = np.linalg.norm(memory.residuals, axis=0)
    np.testing.assert_allclose(overlap.residual_lengths(c * answers, answers, P), came, rtol=1e-8)


def test_lengths_without_overlap_are_those_alone():
    alone, answers = np.array([1.0, 2, 3]), np.array([2.0, 2, 2])
    assert np.array_equal(overlap.residual_lengths(alone, answers, np.eye(3)), alone)
    only_later = np.tril(np.ones((3, 3)))  # what an edit leaves at earlier keys does not lengthen later ones
    assert np.array_equal(overlap.residual_lengths(alone, answers, only_later), alone)


class Made(dict):
    """As much of a record as the study reads."""

    arrays: dict


def record_of(growth=4.0, n=24):
    """Sequences in both units at a layer with an output norm, and one at a layer without."""
    rng = np.random.default_rng(5)
    answers, alone = rng.uniform(1, 3, n), rng.uniform(2, 5, n)
    P = rng.normal(size=(n, n)) / 3
    arrays, points = {}, {}
    for units, names in runaway.ARMS.items():
        mine = alone * (1 if units == "answer" else 10)
        for arm, name in names.items():
            points[name] = {f"{look}/perplexity": 10.0 + look for look in (5, n)} | {f"{n}/success": 0.8}
            came = overlap.residual_lengths(mine, answers, P) if arm == WHOLE else mine * 1.5
            if arm == WHOLE and growth is not None:
                came[-runaway.LAST :] = growth * mine[-runaway.LAST :]
            stem = f"gemma3 9/{name}"
            arrays |= {f"{stem}/delta": came, f"{stem}/kept": np.arange(10) < np.array([[9], [3]])}
            arrays[f"{stem}/shift_norm"] = mine
    arrays |= {"gemma3 9/before/P": P, "gemma3 9/before/delta": alone, "gemma3 9/before/size": alone / answers}
    runs = [{"model": "gemma3", "layer": 9, "points": points, "perplexity": 17.0}]
    runs.append({"model": "smollm2", "layer": 6, "points": {"moving, rome": {}, "anchored, rome": {}}})
    record = Made(runs=runs, looks=[5, n])
    record.arrays = arrays
    return record, alone, answers, P


@pytest.mark.parametrize("units", ["answer", "ROME"])
def test_the_loop_is_read_off_its_record(units):
    record, alone, answers, P = record_of()
    (loop,) = runaway.loops(record, units)
    scale = 1 if units == "answer" else 10
    assert (loop.model, loop.layer) == ("gemma3", 9) and loop.lost() == pytest.approx(0.7)
    assert loop.dearer[WHOLE] == pytest.approx(34 / 17) and loop.hold[CAUSES[0]] == 0.8
    np.testing.assert_allclose(loop.alone, scale * alone)
    np.testing.assert_allclose(loop.answers, answers)
    assert loop.growth().value == pytest.approx(4) and loop.growth(CAUSES[0]).value == pytest.approx(1.5)
    for cause in CAUSES:
        assert loop.left(cause) == pytest.approx((0.375, 0.375, 0.375))
        assert loop.loss_left(cause) == pytest.approx((1, 1, 1))  # the same facts are lost in every arm
    above = P[np.triu_indices(len(P), 1)]
    assert loop.rate == pytest.approx(np.mean((scale * alone / answers) ** 2) * np.mean(above**2))


def test_a_forecast_that_came_true_is_one_and_a_shuffled_one_is_not():
    record, *_ = record_of(growth=None)
    (loop,) = runaway.loops(record, "answer")
    assert loop.correlation().value == pytest.approx(1) and loop.near(1.01) == 1
    turned = loop.came[WHOLE][::-1].copy()
    record.arrays["gemma3 9/moving, rome/delta"] = 3 * turned
    (loop,) = runaway.loops(record, "answer")
    assert loop.correlation().value < 0.8 and loop.near(1.5) < 1
    assert loop.correlation().low < loop.correlation().value < loop.correlation().high


def test_a_forecast_that_needs_the_overlaps_loses_to_none_without_them():
    record, *_ = record_of(growth=None)
    (loop,) = runaway.loops(record, "answer")
    shuffled = loop.overlaps_shuffled()
    assert shuffled.low <= shuffled.value <= shuffled.high < loop.correlation().value
    assert loop.overlaps_shuffled() == shuffled
    came = loop.came[WHOLE][: runaway.FIRST]
    assert loop.by_number() == pytest.approx(scipy.stats.spearmanr(range(len(came)), came).statistic)
    assert loop.near(1.01, first=3) == 1
    assert loop.alone_near(1.01, first=1) == 1 > loop.alone_near(1.01)


def test_the_share_of_a_loss_that_is_left_is_of_facts_in_pairs():
    record, *_ = record_of()
    record.arrays["gemma3 9/moving, no overlap/kept"][-1] = np.arange(10) < 6  # four lost of seven
    (loop,) = runaway.loops(record, "answer")
    left = loop.loss_left(CAUSES[0])
    assert left.value == pytest.approx(4 / 7) and 0 <= left.low < left.value < left.high <= 1
    assert loop.lost(CAUSES[0]) == pytest.approx(0.4)


def test_norm_anchors_beside_the_same_edits_without():
    points = {
        "moving, rome": {"60/change": 0.8, "60/paraphrase_exact": 0.7},
        "norm anchors, rome": {"60/change": 0.2, "60/paraphrase_exact": 0.4},
    }
    record = Made(runs=[{"model": "gemma3", "layer": 9, "points": points}], looks=[5, 60])
    said = np.ones((2, 40), dtype=bool)
    whole, part = said.copy(), said.copy()
    whole[1, :20], part[1, 15:20] = False, False  # the first look is not asked
    whole[0], part[0] = False, False
    record.arrays = {"gemma3 9/moving, rome/kept": whole, "gemma3 9/norm anchors, rome/kept": part}
    (found,) = runaway.norm_anchors(record).values()
    assert (found.norm, found.answered, found.answered_without) == (pytest.approx(0.25), 0.4, 0.7)
    assert found.left.value == 0.25 and found.left.low < 0.25 < found.left.high
