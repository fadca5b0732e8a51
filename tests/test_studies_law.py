"""The studies of the law, on records in which the law holds by construction, or does not."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from superposition.errors import UserError
from superposition.stats import intervals, ranking, response
from superposition.stats.response import LogLogistic
from superposition.studies import law

TRUE = LogLogistic(0.2, 1.4)
FACTS = 4000
LOOKS = (5, 15, 30)
PLAIN = {"change": 0.1, "condition": 9.0, "energy": 1.1, "perplexity": 16.0}


def facts_of(lost):
    """Facts of which a share is lost, in no order."""
    kept = np.arange(FACTS) >= round(lost * FACTS)
    return np.random.default_rng(0).permutation(kept)


class Made:
    """As much of a record as the studies read."""

    def __init__(self, content, arrays):
        self.content, self.arrays = content, arrays

    def __getitem__(self, name):
        return self.content[name]


def record_of(D_of, looks=LOOKS):
    """A record of layers at which an edit causes a mean square drift D."""
    arrays, rows = {}, []
    for layer, D in enumerate(D_of):
        for name, value in (("size", 2.0), ("q", D / 4), (f"D {law.R}", D), ("delta", 1.0)):
            arrays[f"{layer}/before/{name}"] = np.full(3, value)
        row = {"layer": layer}
        for n in looks:
            stem = f"{layer}/beforehand/{n}/"
            R = np.sqrt(n * D)
            arrays[f"{stem}kept"] = facts_of(TRUE.share(R))
            moved = dict.fromkeys((law.R, "answer, subject", "stream, subject", "last state"), R) | {law.MU: 2 * R}
            row |= {f"{stem.removeprefix(f'{layer}/')}{name}": value for name, value in (PLAIN | moved).items()}
        rows.append(row)
    content = {"kind": "law", "model": {"name": "smollm2"}, "looks": list(looks), "perplexity": 8.0, "layers": rows}
    return Made(content, arrays)


D_OF = (1e-4, 4e-4, 8e-4, 2e-3, 4e-3, 8e-3)


def test_points_hold_what_the_record_does():
    points = law.points(record_of(D_OF))
    assert len(points) == len(D_OF) * len(LOOKS)
    one = points[4]  # layer 1, 15 edits
    assert (one.layer, one.edits, one.rule, one.targets, one.place) == (1, 15, "rome", "beforehand", "smollm2 1")
    assert one.lost == pytest.approx(TRUE.share(np.sqrt(15 * 4e-4)), abs=1 / FACTS)
    assert one.drift == pytest.approx(np.sqrt(15 * 4e-4))
    assert one.quantities["forecast"] == pytest.approx(one.drift)
    assert one.quantities["size"] == pytest.approx(2 * np.sqrt(15))
    assert one.quantities["overlap"] == pytest.approx(np.sqrt(15 * 1e-4))
    assert one.quantities["perplexity"] == 2
    assert one.quantities[law.MU] == pytest.approx(2 * one.drift)
    assert {*law.QUANTITIES} <= {*one.quantities}
    with pytest.raises(UserError, match="holds no points"):
        law.points(Made({"kind": "measurement"}, {}))


def test_a_drift_is_over_positions_where_there_are_several():
    of = np.arange(4) % 2 == 0
    found = {law.R: np.where(of, 2.0, 0.0), "stream, subject": np.where(of, 2.0, 0.0), law.MU: np.where(of, 3.0, -1.0)}
    told = law.drifts(found | {"change": 0.1}, np.array([1, 3, 1, 3]))
    assert told == {law.R: pytest.approx(1), "stream, subject": pytest.approx(np.sqrt(2)), law.MU: 2}


def test_sequences_give_points_by_arm():
    content, arrays = {"before": {}}, {}
    for arm in ("moving, rome", "none, ft"):
        content[arm] = {f"{n}/{name}": value for name, value in PLAIN.items() for n in (5, 9)}
        content[arm] |= {f"{n}/{name}": n / 10 for name in ("stream, all", "margin") for n in (5, 9)}
        arrays[f"gemma3 9/{arm}/kept"] = np.array([[True, True, True, False], [False, True, True, False]])
    arrays |= {f"gemma3 9/before/{name}": np.full(3, 0.1) for name in ("size", "q", f"D {law.R}")}
    run = {"model": "gemma3", "layer": 9, "points": content, "perplexity": 4.0}
    points = law.points(Made({"kind": "ways", "runs": [run], "looks": [5, 9]}, arrays))
    assert [(p.targets, p.rule, p.edits, p.lost, p.drift) for p in points] == [
        (targets, rule, n, lost, pytest.approx(n / 10))
        for targets, rule in (("moving", "rome"), ("none", "ft"))
        for n, lost in ((5, 0.25), (9, 0.5))
    ]


def test_a_state_that_two_records_hold_is_taken_once():
    of_layers = record_of(D_OF[:2])
    first = law.points(of_layers)
    content, arrays = {"before": {}}, {}
    for arm in ("beforehand, rome", "anchored, memit"):
        content[arm] = {f"{n}/{name}": value for name, value in PLAIN.items() for n in (15, 60)}
        content[arm] |= {f"{n}/margin": 1.0 for n in (15, 60)}
        content[arm] |= {f"{n}/{law.R}": np.float32(np.sqrt(n * D_OF[1])) for n in (15, 60)}
        arrays[f"smollm2 1/{arm}/kept"] = np.array([[True, False], [False, False]])
    arrays |= {f"smollm2 1/before/{name}": np.full(3, 0.1) for name in ("size", "q", f"D {law.R}")}
    run = {"model": "smollm2", "layer": 1, "points": content, "perplexity": 8.0}
    ways = Made({"kind": "ways", "runs": [run], "looks": [15, 60]}, arrays)
    found = law.gathered(of_layers, ways)
    assert found[: len(first)] == first
    told = [(point.rule, point.targets, point.edits) for point in found[len(first) :]]
    assert told == [("rome", "beforehand", 60), ("memit", "anew", 15), ("memit", "anew", 60)]
    for point in (name for n, name in content.items() if n == "beforehand, rome"):
        point[f"15/{law.R}"] *= 1.01  # of another list, perhaps
    assert len(law.gathered(of_layers, ways)) == len(first) + 4


def test_a_layer_has_a_curve_of_its_own():
    """Fitted to ROME's points with targets beforehand; other closed forms are scored, fine-tuning is not."""
    some = []
    for layer, true in ((6, TRUE), (12, LogLogistic(0.05, 2.0))):
        ways = [("rome", "beforehand"), ("rome", "anew"), ("memit", "beforehand"), ("ft", "none")]
        for (rule, targets), reach in zip(ways, (1, 1.2, 0.6, 1), strict=True):
            for n in (5, 15, 30, 60):
                R = 0.02 * reach * n**0.5
                lost = 0.9 if rule == "ft" else float(true.share(R))
                quantities = {law.R: R, "change": R * (4 if rule == "memit" else 1)}
                some.append(law.Point("smollm2", layer, rule, targets, n, lost, quantities, "ways"))
    found = law.by_layer(some)
    assert list(found) == [("smollm2", 6), ("smollm2", 12)]
    for at, true in zip(found.values(), (TRUE, LogLogistic(0.05, 2.0)), strict=True):
        assert [len(of) for of in (at.fitted, at.others, at.tuned)] == [4, 8, 4]
        assert at.curve().middle == pytest.approx(true.middle, rel=1e-2)
        over, by_norm = at.score(resamples=50), at.score("change", resamples=50)
        assert over.points == 8 and over.error.value < 1e-2 < by_norm.error.value
        assert len(at.without_one()) == 4 and max(at.without_one()) < 2e-2
        reach = max(point.drift for point in at.fitted)
        off = [replace(point, lost=point.lost - 0.2 * (point.drift > reach)) for point in at.others]
        parts = replace(at, others=off).by_reach()
        assert parts["within"] < 1e-2 and parts["beyond"] == pytest.approx(0.2, abs=2e-2)
        assert list(replace(at, others=at.fitted).by_reach()) == ["within"]
        at.fitted[0] = replace(at.fitted[0], lost=0.9)  # a stray that the curve then hangs on
        first, *others = at.without_one()
        assert first < 2e-2 < min(others)


def test_points_of_one_layer_and_one_rule_have_no_interval():
    some = [point for point in law.points(record_of(D_OF)) if point.layer == 3]
    found = law.score(some, TRUE)
    assert found.correlation.value == 1 and found.error.value < 0.01
    assert np.isnan([*found.correlation[1:], *found.error[1:]]).all()


def test_the_curve_is_found_again_and_forecasts_lifetimes():
    points = law.points(record_of(D_OF))
    fitted = [point for point in points if law.is_fitted(point)]
    assert {point.layer for point in fitted} == {0, 2, 4}
    curve = law.fit(fitted)
    assert curve.middle == pytest.approx(TRUE.middle, rel=0.01)
    assert curve.steepness == pytest.approx(TRUE.steepness, rel=0.01)
    others = [point for point in points if not law.is_fitted(point)]
    found = law.score(others, curve, resamples=50)
    assert found.points == len(others) and found.correlation.value == pytest.approx(1)
    assert found.error.value < 2e-3
    lives = law.lifetimes(others, law.by_drift(curve))
    seen = [life for life in lives if life.seen]
    assert {life.share for life in seen} >= {0.1, 0.25}
    for life in lives:
        assert life.forecast == pytest.approx(TRUE.dose(life.share) ** 2 / D_OF[life.layer], rel=0.03)
    assert all(0.8 < life.factor < 1.2 for life in seen) and law.within(lives, 1.25).all()
    assert law.share_within(lives, 1.25, resamples=20) == (1, 1, 1)
    half = [replace(life, forecast=life.came * (3 if life.layer == 1 else 1)) for life in seen]
    told = law.share_within(half, 1.25, resamples=200)
    assert told.value == np.mean([life.layer != 1 for life in half]) and told.low < told.value < told.high
    late = [life for life in lives if np.isinf(life.came)]
    assert late and all(life.forecast > 0.9 * LOOKS[-1] for life in late)
    assert all(life.forecast < LOOKS[0] for life in lives if np.isnan(life.came))


def test_points_outside_the_fit_set_are_grouped():
    record = record_of(D_OF)
    for n in LOOKS:
        for name in [name for name in record.arrays if name.startswith(f"3/beforehand/{n}/")]:
            record.arrays[name.replace("beforehand", "anew")] = record.arrays[name]
        record["layers"][3] |= {f"anew/{n}/{name}": value for name, value in PLAIN.items()}
    points = law.points(record)
    groups = law.grouped(points)
    assert {of: len(group) for of, group in groups.items()} == {
        ("smollm2", "targets beforehand"): 9,
        ("smollm2", "targets anew"): 3,
    }
    assert {point.layer for point in groups["smollm2", "targets anew"]} == {3}
    assert {law.kind_of(point) for point in points if law.is_fitted(point)} == {"fitted"}
    assert {point.targets for point in law.beforehand(points)} == {"beforehand"}
    assert law.beforehand(points, unseen=True) == law.beforehand(points)  # none of these layers had been replayed
    assert law.unseen(points) == []  # all six layers had been seen


def test_lifetimes_by_drawn_drifts():
    record = record_of(D_OF)
    for layer, D in enumerate(D_OF):
        record.arrays[f"{layer}/drawn/looks"] = np.array([3, 10, 30, 100])
        shares = TRUE.share(np.sqrt(D * np.array([3, 10, 30, 100])))
        record.arrays[f"{layer}/drawn/kept"] = np.stack([facts_of(share) for share in shares])
    lives = law.lifetimes(law.points(record), law.by_asking(record, "drawn"))
    assert sum(life.seen for life in lives) > 6
    assert all(0.8 < life.factor < 1.3 for life in lives if life.seen)
    assert np.isinf(next(life.forecast for life in lives if (life.layer, life.share) == (0, 0.5)))


def test_a_rival_that_tells_less_is_behind():
    points = law.points(record_of(D_OF))
    lead = law.ahead(points, "edits", resamples=50)
    assert lead.low > 0 and lead.value == pytest.approx(1 - law.correlation(points, "edits"))
    assert law.ahead(points, "overlap", resamples=50).value == pytest.approx(0)


def test_reached_between_two_looks():
    dose, share = [10, 40], [0.1, 0.3]
    assert response.reached(dose, share, 0.2) == pytest.approx(20)  # half way on the logarithm
    assert response.reached(dose, share, 0.08) == pytest.approx(8)
    assert response.reached(dose, share, 0.5) == np.inf
    for wanted in (0.01, 0.1, 0.17, 0.3):
        assert response.at(dose, share, response.reached(dose, share, wanted)) == pytest.approx(wanted)
    assert response.at(dose, share, 4000) == pytest.approx(0.3)


@settings(deadline=None)
@given(st.floats(0.01, 10), st.floats(0.3, 5), st.floats(0.01, 0.99))
def test_dose_and_share_are_inverse(middle, steepness, share):
    curve = LogLogistic(middle, steepness)
    assert curve.share(curve.dose(share)) == pytest.approx(share)
    assert curve.share(0) == 0 and curve.share(middle) == pytest.approx(0.5)


def test_what_is_no_curve_is_refused():
    with pytest.raises(UserError, match="above 0"):
        LogLogistic(0, 1)
    with pytest.raises(UserError, match="between 0 and 1"):
        TRUE.dose([0.5, 1.0])
    for dose in ([0.1, 0.2], [0.0, 0.1, 0.2]):
        with pytest.raises(UserError, match="three points"):
            response.fit(dose, np.full(len(dose), 0.5))


def test_clusters_are_drawn_whole():
    """The mean of clusters of equal points scatters as that of the clusters, not as that of the points."""
    values = np.repeat(np.random.default_rng(1).standard_normal(20), 50)
    found = intervals.over_clusters(lambda i: values[i].mean(), np.repeat(np.arange(20), 50), resamples=2000)
    assert found.value == pytest.approx(values.mean())
    expected = 2 * 1.96 * values[::50].std() / np.sqrt(20)
    assert found.high - found.low == pytest.approx(expected, rel=0.1)
    with pytest.raises(UserError, match="at least two"):
        intervals.over_clusters(lambda i: 0.0, [3, 3])


def test_all_draws_at_once_are_the_same_as_one_after_the_other():
    rng = np.random.default_rng(2)
    x, clusters = rng.standard_normal(60), rng.integers(7, size=60)
    y = np.round(x + rng.standard_normal(60))  # with ties of its own
    slow = intervals.over_clusters(lambda i: scipy.stats.spearmanr(x[i], y[i]).statistic, clusters, resamples=40)
    fast = intervals.over_clusters_at_once(
        lambda counts: ranking.rank_correlations(x, y, counts), clusters, resamples=40
    )
    assert fast == pytest.approx(slow, rel=1e-12)
    points = law.points(record_of(D_OF))
    naive = np.mean([(TRUE.share(point.quantities["edits"]) - point.lost) ** 2 for point in points]) ** 0.5
    assert law.error(points, TRUE, "edits") == pytest.approx(naive)
    with pytest.raises(UserError, match="at least two"):
        intervals.over_clusters_at_once(lambda counts: np.zeros(len(counts)), [3, 3])


EDITS = (10, 30, 100, 300, 1000)


def to_failure(D=8e-4, faster=1.0):
    """A record of a thousand edits by two methods in two orders, the second of which moves the layer half as far."""
    sequences, replay = [], {}
    for method, part in (("rome", 1.0), ("rome, protected", 0.5)):
        rows = []
        for n in EDITS:
            R = part * np.sqrt(n * D)
            row = {"edits": n, "change": 3 * R / part, "perplexity": 8 + R, "lost": {"share": float(TRUE.share(R))}}
            row |= {f"drift_over_{of}": R for of in ("answer_subject", "stream_subject", "stream_all")}
            rows.append(row)
        sequences += [{"method": method, "order": order, "checkpoints": rows} for order in (0, 1)]
        shares = [float(TRUE.share(part * np.sqrt(faster * n * D))) for n in EDITS]
        told = zip(EDITS, shares, strict=True)
        replay[f"{method} 0"] = [{"edits": n, "lost": {"share": share}} for n, share in told]
    content = {"kind": "failure", "model": {"name": "smollm2"}, "layer": 6, "start": {"perplexity": 4.0}}
    return Made(content | {"before": {"c": 2.0, "q": D / 4, "D": D}, "sequences": sequences, "replay": replay}, {})


def test_a_thousand_edits_are_points_of_their_own_kind():
    record = to_failure()
    points = law.points(record)
    assert {law.kind_of(point) for point in points} == {"a thousand edits"}
    assert not any(law.is_fitted(point) for point in points)
    assert {rule for _, _, rule, _ in law.series(points)} == {
        *("rome", "rome, order 1", "rome, protected", "rome, protected, order 1")
    }
    one = points[2]
    assert one.drift == pytest.approx(np.sqrt(100 * 8e-4)) and one.lost == pytest.approx(TRUE.share(one.drift))
    assert one.quantities["perplexity"] == pytest.approx((8 + one.drift) / 4)
    assert one.quantities["size"] == pytest.approx(20) and "condition" not in one.quantities
    assert {point.rule for point in points if "forecast" in point.quantities} == {"rome", "rome, order 1"}
    # all are of one layer, so intervals are over methods; the change knows nothing of the method, and R does
    fitted = [point for point in law.points(record_of(D_OF)) if law.is_fitted(point)]
    told = law.score(points, law.fit(fitted), resamples=50)
    assert told.correlation.value == pytest.approx(1) and told.error.value < 0.01
    lead = law.ahead(points, "change", resamples=100)
    assert lead.value > 0 and lead.low <= lead.value <= lead.high
    with_rivals = [*points, *law.points(record_of(D_OF))]
    alike = law.points(record_of(D_OF))
    assert law.ahead(with_rivals, law.S, resamples=20) == law.ahead(alike, law.S, resamples=20)


@pytest.mark.parametrize("faster", [1.0, 4.0])
def test_lifetimes_by_the_replay_of_each_method(faster):
    record = to_failure(faster=faster)
    points = [point for point in law.points(record) if "order" not in point.rule]
    lives = law.lifetimes(points, law.by_replay(record))
    seen = [life for life in lives if life.seen and np.isfinite(life.forecast)]
    assert {life.rule for life in seen} == {"rome", "rome, protected"}
    for life in seen:
        assert life.factor == 1 if faster == 1 else life.factor < 0.6
