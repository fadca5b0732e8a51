"""The studies of sequences that go on until a model breaks, on a course that is known."""

import numpy as np
import pytest

from superposition import figures
from superposition.errors import UserError
from superposition.stats import intervals
from superposition.studies import to_failure

LOST = {"rome": (8, 20, 40, 60), "memit with history": (4, 8, 12, 20), "rome, protected": (0, 4, 8)}
EDITS = (10, 100, 400, 1000)


def share(lost, of=80):
    return intervals.share([True] * lost + [False] * (of - lost))


def row(n, lost):
    panels = {name: {"known": 30, "lost": share(min(30, lost), 30)} for name in ("same relation", "same subject")}
    found = {"edits": n, "lost": share(lost), "panels": panels, "perplexity": 6.0 + lost / 10}
    found |= {"drift_over_stream_all": 0.02 * n**0.5}
    return found | {"lost_named": share(0, 40), "lost_unnamed": share(min(40, lost), 40)}


@pytest.fixture
def found():
    sequences = [
        {"method": method, "order": order, "checkpoints": [row(n, k) for n, k in zip(EDITS, lost, strict=False)]}
        for method, lost in LOST.items()
        for order in (0, 1)
    ]
    return to_failure.courses({"sequences": sequences, "start": {"perplexity": 5.0}})


def test_courses_say_what_the_record_does(found):
    assert list(found) == list(LOST)  # in the order in which the methods are named, one order of the edits
    rome = found["rome"]
    assert rome.edits.tolist() == list(EDITS)
    np.testing.assert_allclose(rome.share("lost")[:, 0], [0.1, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(rome.share("panels", "same subject", "lost")[0, 0], 8 / 30)
    np.testing.assert_allclose(rome.dearer, [(6 + k / 10) / 5 for k in LOST["rome"]])
    assert rome.exponent() == pytest.approx(0.5)
    assert rome.at(400)["lost"]["share"] == 0.5
    with pytest.raises(UserError, match="After 30 edits nothing was asked: choose from 10, 100, 400, 1000"):
        rome.at(30)
    assert to_failure.together(found) == 400


def test_how_many_edits_it_takes_to_lose_a_share(found):
    rome, memit = found["rome"], found["memit with history"]
    assert [rome.until(part).value for part in to_failure.SHARES] == pytest.approx([10, 100, 400])
    for part in to_failure.SHARES:
        estimate = rome.until(part)
        assert estimate.low < estimate.value < estimate.high
    assert memit.until(0.1).value == pytest.approx(100) and np.isinf(memit.until(0.5).value)
    assert memit.until(0.25).value == pytest.approx(1000) and np.isinf(memit.until(0.25).high)
    assert found["rome, protected"].until(0.1, "lost_unnamed").value == pytest.approx(100)


def test_figures_of_courses(found):
    axes = figures.loss_to_failure(found).axes
    assert len(axes[0].lines) == len(found) + 2  # the unnamed half, and the line at which a model breaks
    axis = figures.loss_by_kind(found, 400).axes[0]
    assert [label.get_text().replace("\n", " ") for label in axis.get_yticklabels()] == list(to_failure.PANELS)
    assert axis.get_ylim()[0] > axis.get_ylim()[1]
