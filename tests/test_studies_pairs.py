"""What is read off the records of pairs: against small records made by hand, and naive loops."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from superposition.data.facts import Fact
from superposition.records import Record
from superposition.studies import pairs


def made(arrays, **data) -> Record:
    record = Record("made", data, Path())
    vars(record)["arrays"] = arrays
    return record


def test_the_sink_among_the_strongest():
    P = np.zeros((2, 4, 4))
    P[0, 1, 0], P[0, 2, 3], P[0, 3, 1] = 3, 2, 1  # fact 0 is read at position 0
    P[1, 1, 2], P[1, 3, 0], P[1, 0, 3] = 1, 2, 5
    norms = np.ones((2, 4))
    arrays = {name: P for name in ("P", "Q", "cosine_whitened", "cosine_raw")} | {"norm_whitened": norms}
    record = made(arrays, layers=[0, 1], token_positions=[0, 2, 1, 5])
    assert pairs.sink_among_strongest(record, 1).tolist() == [1, 1]
    assert pairs.sink_among_strongest(record, 2).tolist() == [0.5, 0.5]
    assert pairs.sink_among_strongest(record, 3)[0] == pytest.approx(1 / 3)
    P = np.random.default_rng(0).random((1, 20, 20))
    at_0 = [i % 7 == 0 for i in range(20)]
    every = sorted(
        ((max(P[0, i, j], P[0, j, i]), at_0[i] or at_0[j]) for i in range(20) for j in range(i)), reverse=True
    )
    arrays = {name: P for name in arrays} | {"norm_whitened": np.ones((1, 20))}
    record = made(arrays, layers=[0], token_positions=[0 if sink else 3 for sink in at_0])
    assert pairs.sink_among_strongest(record).tolist() == [np.mean([sink for _, sink in every[:100]])]


# The record of regressions


@pytest.fixture
def regressions() -> Record:
    rng, arrays, tables = np.random.default_rng(0), {}, []
    for model, wording in itertools.product(("a", "b"), ("own", "drawn")):
        for measure in ("P", "cosine_whitened"):
            name = f"{model} {wording} {measure}"
            tables.append({"name": name, "names": ["x", "y", "z"], "groups": ["all", "g"], "having": [1, 2, 3]})
            arrays |= {f"{name} {what}": rng.random((3, 5)) for what in ("effects", "errors")}
            arrays |= {f"{name} shares": rng.random((2, 5)), f"{name} shares_interval": rng.random((2, 2, 5))}
            arrays[f"{name} related"] = rng.random((3, 5))
    return made(arrays, tables=tables)


def test_regressions_are_those_of_their_name(regressions):
    table = pairs.regressions(regressions, "b", wording="drawn", measure="P")
    assert table["name"] == "b drawn P" and table["having"] == [1, 2, 3]
    assert np.array_equal(table["errors"], regressions.arrays["b drawn P errors"])
    assert pairs.regressions(regressions, "a")["name"] == "a own cosine_whitened"


@pytest.mark.parametrize(("place", "column"), [("first", 0), ("middle", 2), ("last", 4)])
def test_effects_and_shares_stand_in_their_columns(regressions, place, column):
    table = pairs.regressions(regressions, "a")
    assert pairs.effect(table, "y", place) == table["effects"][1, column]
    names, effects, errors = pairs.effects(table, place, without=["y"])
    assert names == ["x", "z"]
    assert effects.tolist() == table["effects"][[0, 2], column].tolist()
    assert errors.tolist() == table["errors"][[0, 2], column].tolist()
    assert pairs.share(table, "g", place) == table["shares"][1, column]
    low, high = table["shares_interval"][:, 1, column]
    assert pairs.share_estimate(table, "g", place) == (table["shares"][1, column], low, high)
    assert pairs.related(table, place) == tuple(table["related"][:, column])


def test_the_middle_of_an_even_number_of_layers_is_the_upper(regressions):
    table = {name: x[..., :4] if hasattr(x, "ndim") else x for name, x in pairs.regressions(regressions, "a").items()}
    assert pairs.effect(table, "x", "middle") == table["effects"][0, 2]
    effects, errors = pairs.effect_by_layer(table, "z")
    assert np.array_equal(effects, table["effects"][2]) and np.array_equal(errors, table["errors"][2])


# The record of single edits


def fact(n: int) -> Fact:
    relation, kind = "PQ"[n % 2], "xyz"[n % 3]
    return Fact(
        f"s{n // 2}", "{} is", target_true=f"t{n % 5}", target_new=f"t{n % 7}", relation=relation, subject_type=kind
    )


KNOWN = [fact(n) for n in range(60)]


@pytest.fixture(scope="module")
def edits() -> Record:
    rng, shape = np.random.default_rng(3), (12, 40)
    arrays = {f"layer 4 {what}": rng.normal(0, 0.3, size=shape) for what in ("p", "change_new", "change_true")}
    arrays["layer 4 asked"] = rng.random(shape) < 0.8
    arrays["layer 4 right"] = rng.random(shape) > 1 / (1 + np.exp(1 - 4 * arrays["layer 4 p"]))
    arrays["layer 4 change_new"] += arrays["layer 4 p"]
    arrays["layer 4 shift"] = rng.random(12)
    return made(
        arrays,
        layers=[4],
        edits=[list(range(0, 24, 2))],
        partners=list(range(20, 60)),
        held=[[n % 4 > 0 for n in range(12)]],
        token_ids=[n % 4 for n in range(60)],
        positions=[n % 3 for n in range(60)],
    )


@pytest.fixture(scope="module")
def at(edits) -> pairs.Partners:
    return pairs.partners(edits, 4, KNOWN)


def test_partners_by_brute_force(edits, at):
    chosen, read = edits["edits"][0], edits["partners"]
    assert at.held.tolist() == edits["held"][0] and at.at_0.tolist() == [i % 3 == 0 for i in chosen]
    assert np.array_equal(at.shift, edits.arrays["layer 4 shift"]) and at.groups["all"].any(axis=1).all()
    for (row, i), (column, j) in itertools.product(enumerate(chosen), enumerate(read)):
        a, b = KNOWN[i], KNOWN[j]
        same = {
            "relation": a.relation == b.relation,
            "kind": a.subject_type == b.subject_type,
            "object": a.target_true == b.target_true,
            "last token": i % 4 == j % 4,
        }
        assert {name: bool(held[row, column]) for name, held in at.same.items()} == same
        asked = edits.arrays["layer 4 asked"][row, column]
        counts = bool(asked and a.subject != b.subject and a.target_new != b.target_true)
        held = edits["held"][0][row]
        groups = {"all": counts, "held": counts and held, "failed": counts and not held}
        groups["apart"] = groups["held"] and not any(same.values())
        assert {name: bool(group[row, column]) for name, group in at.groups.items()} == groups
        assert at.wrong[row, column] != edits.arrays["layer 4 right"][row, column]


def test_flips_are_counted_where_the_push_lies(at):
    some = []
    for (i, j), p in np.ndenumerate(at.p):
        push = abs(p) * at.shift[i] / np.median(at.shift)
        assert at.push[i, j] == pytest.approx(push)
        if at.groups["all"][i, j] and 0.1 <= push < 0.2:
            some.append(bool(at.wrong[i, j]))
    assert some and pairs.flips(at, 0.1, 0.2) == (pytest.approx(np.mean(some)), len(some))
    edge = at.push[at.groups["all"]].max()
    assert pairs.flips(at, 0, edge)[1] == at.groups["all"].sum() - 1 and pairs.flips(at, edge)[1] == 1


def test_a_trend_is_the_mean_rank_correlation_over_edits(at):
    by_edit = []
    for row in range(len(at.p)):
        use = at.groups["all"][row]
        by_edit.append(scipy.stats.spearmanr(at.p[row, use], at.change_new[row, use]).statistic)
    found = pairs.trend(at, "change_new", resamples=3000)
    assert found.value == pytest.approx(np.mean(by_edit))
    rng, drawn = np.random.default_rng(1), []
    for _ in range(300):  # by a loop: edits and facts are drawn
        columns = rng.integers(at.p.shape[1], size=at.p.shape[1])
        each = []
        for row in rng.integers(len(at.p), size=len(at.p)):
            use = columns[at.groups["all"][row, columns]]
            each.append(scipy.stats.spearmanr(at.p[row, use], at.change_new[row, use]).statistic)
        drawn.append(np.nanmean(each))
    assert found[1:] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.03)
    assert pairs.trend(at, "change_new").low > 0.3 > pairs.trend(at, "change_true").low
    few = at.groups["all"] & (np.arange(12) < 6)[:, None]
    five, four = (np.flatnonzero(at.groups["all"][row])[:count] for row, count in ((6, 5), (7, 4)))
    few[6, five] = few[7, four] = True
    expected = [*by_edit[:6], scipy.stats.spearmanr(at.p[6, five], at.change_new[6, five]).statistic]
    few = pairs.Partners(**vars(at) | {"groups": {"all": few}})
    assert pairs.trend(few, "change_new").value == pytest.approx(np.mean(expected))
    same = np.where(np.arange(12) == 0, 1.0, at.change_new.T).T  # a change that is the same for all has no ranks
    assert pairs.trend(pairs.Partners(**vars(few) | {"change_new": same}), "change_new").value == pytest.approx(
        np.mean(expected[1:])
    )


def test_odds_hold_what_is_shared_fixed(at):
    """Flips made by a shared relation alone leave odds of 1; those made by the push, or by p, give its odds back."""
    rng = np.random.default_rng(5)
    shift = rng.uniform(0.2, 3, 60)
    push = lambda p: np.abs(p) * shift[:, None] / np.median(shift)  # noqa: E731

    def big(log_odds):
        rows, columns = 60, 200
        relation = rng.random((rows, columns)) < 0.5
        p = rng.normal(0, 0.1, size=(rows, columns)) + 0.2 * relation
        wrong = rng.random(p.shape) < 1 / (1 + np.exp(-log_odds(p, relation)))
        whole = np.ones(p.shape, dtype=bool)
        empty = np.ones(rows, dtype=bool)
        return pairs.Partners(p, p, p, wrong, {"relation": relation}, {"all": whole}, empty, empty, shift)

    odds = pairs.odds_of_a_flip(big(lambda p, relation: 2.0 * relation - 1), resamples=30)
    assert odds.low < 1 < odds.high and abs(odds.value - 1) < 0.1
    odds = pairs.odds_of_a_flip(big(lambda p, relation: 10 * push(p) * np.log(1.5) - relation), resamples=30)
    assert odds.low < odds.value < odds.high and odds.value == pytest.approx(1.5, rel=0.1)
    odds = pairs.odds_of_a_flip(big(lambda p, relation: 10 * p * np.log(1.5) - relation), "p", resamples=30)
    assert odds.low < odds.value < odds.high and odds.value == pytest.approx(1.5, rel=0.1)
