"""The studies of lists and orders, on sequences whose losses and slopes are known."""

import numpy as np
import pytest

from superposition.studies import lists

LOOKS, FACTS, RULES = (5, 15, 30, 60), 40, ("rome", "rls-soft")


class Made(dict):
    """As much of a record as the study reads."""

    arrays: dict


def record_of(worse=8, slope=0.5, bend=0.0):
    """Under ROME a list loses ``worse`` facts more than the one before it; slopes differ by list and order."""
    points, arrays = {}, {}
    for rule, part in zip(RULES, (1.0, 0.5), strict=True):
        for one in range(3):
            for order in range(4):
                name = f"list {one}, order {order}, {rule}"
                lost = [part * (n / 60) * (8 + worse * one) for n in LOOKS]
                kept = np.stack([np.roll(np.arange(FACTS), order) >= round(k) for k in lost])
                arrays[f"smollm2 6/{name}/kept"] = kept
                power = slope + 0.1 * (one - 1) + bend * (order - 1.5)
                points[name] = {f"{n}/answer, subject": part * 0.1 * n**power for n in LOOKS}
    record = Made(runs=[{"model": "smollm2", "layer": 6, "points": points}], looks=list(LOOKS))
    record.arrays = arrays
    return record


def test_shares_lost_by_list_and_order():
    found = lists.read(record_of())
    assert (found.model, found.layer, found.rules) == ("smollm2", 6, RULES)
    assert found.kept.shape == (2, 3, 4, 4, FACTS)
    np.testing.assert_allclose(found.by_list("rome"), [0.2, 0.4, 0.6])
    assert found.order_spread("rome") == pytest.approx(0)
    stray = record_of()
    stray.arrays["smollm2 6/list 1, order 2, rome/kept"][-1, :] = True
    assert lists.read(stray).order_spread("rome") == pytest.approx(0.4)
    rome, soft = found.lost("rome"), found.lost("rls-soft")
    assert rome.value == pytest.approx(0.4) and soft.value == pytest.approx(0.2)
    assert rome.low < 0.25 and rome.high > 0.55  # the lists differ, and there are three of them
    alike = lists.read(record_of(worse=0)).lost("rome")
    assert alike.high - alike.low < 0.7 * (rome.high - rome.low)
    more = found.more_lost("rls-soft", "rome")
    assert more.value == pytest.approx(-0.2) and more.high < 0
    alone = found.more_lost_by_list("rls-soft", "rome")  # differences of -0.1, -0.2, -0.3
    reach = 4.302653 * 0.1 / 3**0.5  # Student's, with two degrees of freedom
    assert alone == pytest.approx((-0.2, -0.2 - reach, -0.2 + reach), rel=1e-5)
    assert found.lost("rome", 0).value < found.lost("rome", 1).value < rome.value


def test_slopes_are_taken_from_the_tenth_edit_on():
    record = record_of(slope=0.6, bend=0.05)
    for of in record["runs"][0]["points"].values():
        of["5/answer, subject"] = 100.0
    found = lists.read(record)
    np.testing.assert_allclose(found.slopes("rome").mean(1), [0.5, 0.6, 0.7])
    slope = found.slope("rome")
    assert slope.value == pytest.approx(0.6) and 0.45 < slope.low < 0.6 < slope.high < 0.75
