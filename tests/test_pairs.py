"""Features of pairs against naive loops; least squares and dyadic errors against plain formulas and simulations."""

from dataclasses import replace
from difflib import SequenceMatcher

import numpy as np
import pytest

from superposition import figures, records
from superposition.data import facts, wordings
from superposition.data.facts import Fact
from superposition.errors import UserError
from superposition.figures.colours import PAGE
from superposition.studies import pairs


@pytest.fixture(scope="module")
def record():
    return records.load("smollm2-128")


@pytest.fixture(scope="module")
def known():
    return facts.load("book", limit=128)


def table_of(record, known, directed):
    return pairs.pairs(known, record["token_ids"], record["token_positions"], directed=directed)


@pytest.mark.parametrize("directed", [False, True])
def test_features_are_what_their_names_say(record, known, directed):
    table = table_of(record, known, directed)
    count = 128 * 127 // (1 if directed else 2)
    assert table.X.shape == (count, len(table.names))
    assert directed or (table.first < table.second).all()
    tokens, places = record["token_ids"], record["token_positions"]
    begins = [fact.prompt.startswith("{}") for fact in known]
    for row in np.random.default_rng(0).choice(count, 400, replace=False):
        i, j = int(table.first[row]), int(table.second[row])
        a, b = known[i], known[j]
        one, other = sorted((a.subject.casefold(), b.subject.casefold()))
        expected = {
            "same last token": tokens[i] == tokens[j],
            "spelling": SequenceMatcher(None, one, other, autojunk=False).ratio(),
            "same relation, read": a.relation == b.relation and not (begins[i] or begins[j]),
            "same relation, unread": a.relation == b.relation and begins[i] and begins[j],
            "same object": a.target_true == b.target_true,
            "same kind": a.subject_type == b.subject_type,
            "both begin": begins[i] and begins[j],
            "one begins": begins[i] != begins[j],
            "edited begins": begins[i],
            "read begins": begins[j],
            "both at 0": places[i] == places[j] == 0,
            "one at 0": (places[i] == 0) != (places[j] == 0),
            "edited at 0": places[i] == 0,
            "read at 0": places[j] == 0,
        }
        for name, value in zip(table.names, table.X[row], strict=True):
            assert value == pytest.approx(float(expected[name])), (name, a.subject, b.subject)
    assert set().union(*pairs.GROUPS.values()) >= set(table.names)
    matrix = np.arange(128.0**2).reshape(128, 128)
    assert (table.of(matrix) == [matrix[i, j] for i, j in zip(table.first, table.second, strict=True)]).all()


def test_a_feature_that_no_pair_has_is_left_out_and_reads_as_zero():
    listed = [Fact(name, "Of {} say", relation="P1") for name in ("Abe", "Bea", "Cid", "Dot")]
    table = pairs.pairs(listed, [5, 6, 7, 5], [1, 1, 1, 1])
    assert table.names == ("same last token", "spelling")
    assert (table.column("same object") == 0).all()
    assert table.column("same last token").sum() == 1
    assert "position 0" not in table.groups
    unknown = [Fact(name, "Of {} say") for name in ("Abe", "Bea", "Cid")]  # is not shared
    assert (pairs.pairs(unknown, [5, 6, 7], [1, 1, 1]).column("same relation, read") == 0).all()
    spelling = pairs.spelling(["Croatia", "croatia", "xyz", "Independent State of Croatia"])
    assert np.array_equal(spelling, spelling.T)
    assert spelling[0, 1] == 1 and spelling[0, 2] == 0 and spelling[0, 3] > spelling[2, 3]


def test_same_words_are_told_apart_from_the_relation():
    prompts = ["Of {} say", "Of {} say", "In {} say", "{} say", "{} say"]
    listed = [Fact(f"S{i}", prompt, relation="P1") for i, prompt in enumerate(prompts)]
    table = pairs.pairs(listed, range(5), [1] * 5)
    named = dict(zip(zip(table.first.tolist(), table.second.tolist(), strict=True), table.X, strict=True))
    words, read, unread = (table.names.index(f"same {n}") for n in ("words", "relation, read", "relation, unread"))
    assert [bool(named[0, 1][c]) for c in (words, read, unread)] == [True, True, False]
    assert [bool(named[0, 2][c]) for c in (words, read, unread)] == [False, True, False]
    assert [bool(named[0, 3][c]) for c in (words, read, unread)] == [False, False, True]
    assert [bool(named[3, 4][c]) for c in (words, read, unread)] == [False, False, True]


def synthetic(seed=0, m=40, directed=False):
    rng = np.random.default_rng(seed)
    first, second = np.nonzero(~np.eye(m, dtype=bool)) if directed else np.triu_indices(m, 1)
    group, token = rng.integers(0, 4, m), rng.integers(0, 8, m)
    X = np.column_stack([token[first] == token[second], rng.random(len(first)), group[first] == group[second]]).astype(
        float
    )
    names = ("same last token", "spelling", "same object")
    return pairs.Pairs(m, first, second, names, X, directed), rng


def test_fit_is_least_squares_with_an_intercept():
    table, rng = synthetic()
    Y = table.X @ [[1.0, 0], [0.5, 2], [-1, 0]] + rng.standard_normal((len(table.X), 2))
    found = pairs.fit(table, Y)
    with_one = np.column_stack([np.ones(len(Y)), table.X])
    b, _, _, _ = np.linalg.lstsq(with_one, Y)
    scale = np.array([1, 2 * table.X[:, 1].std(), 1])[:, None] / Y.std(0)
    assert np.allclose(found.effects, b[1:] * scale)
    share = 1 - ((Y - with_one @ b) ** 2).sum(0) / ((Y - Y.mean(0)) ** 2).sum(0)
    assert np.allclose(found.share, share)
    for column, group in enumerate(("last token", "spelling", "object")):
        without = np.delete(with_one, column + 1, axis=1)
        rest = ((Y - without @ np.linalg.lstsq(without, Y)[0]) ** 2).sum(0) / ((Y - Y.mean(0)) ** 2).sum(0)
        alone = np.array([np.corrcoef(table.X[:, column], y)[0, 1] ** 2 for y in Y.T])
        ends = np.sort([share - (1 - rest), alone], axis=0)
        assert (found.shares[group] >= ends[0] - 1e-9).all() and (found.shares[group] <= ends[1] + 1e-9).all()
    assert np.allclose(sum(found.shares.values()), share)
    assert np.allclose(found.intervals.mean(0), found.effects)
    assert (found.intervals[1] > found.intervals[0]).all()


def test_intervals_cover_where_facts_have_effects_of_their_own():
    """Errors a_i + a_j + noise: the dyadic intervals hold the truth about as often as they say, plain ones do not."""
    held, plain = 0, 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        m = 60
        first, second = np.triu_indices(m, 1)
        mark, own = rng.integers(0, 2, m), rng.standard_normal(m)
        X = np.column_stack([(mark[first] & mark[second]), rng.random(len(first))]).astype(float)
        table = pairs.Pairs(m, first, second, ("same object", "spelling"), X, False)
        y = own[first] + own[second] + rng.standard_normal(len(first))
        found = pairs.fit(table, y)
        low, high = found.intervals[:, 0, 0]
        held += low <= 0 <= high
        centred = X - X.mean(0)
        error = y.std() * np.sqrt(np.linalg.inv(centred.T @ centred)[0, 0]) / y.std()
        plain += abs(found.effects[0, 0]) <= 1.96 * error
    assert held / 200 > 0.87
    assert plain / 200 < 0.6


def test_bootstrap_shares_surround_the_share_and_shuffled_ones_lie_below():
    table, rng = synthetic(m=60)
    matrix = np.zeros((60, 60))
    matrix[table.first, table.second] = table.X[:, 0] + rng.standard_normal(len(table.X))
    matrix += matrix.T
    found = pairs.fit(table, table.of(matrix))
    drawn = pairs.bootstrap_shares(table, table.of(matrix), resamples=200)
    low, high = np.quantile(drawn["last token"][:, 0], [0.025, 0.975])
    assert low < found.shares["last token"][0] < high
    chance = pairs.shuffled_shares(table, [matrix], shuffles=50)
    assert chance.shape == (50, 1)
    assert chance.max() < found.share[0]


def test_one_resample_is_weighted_least_squares():
    table, rng = synthetic(m=12)
    y = rng.standard_normal(len(table.X))
    drawn = pairs.bootstrap_shares(table, y, resamples=1, seed=3)
    counts = np.random.default_rng(3).multinomial(12, np.full(12, 1 / 12))
    rows = [
        r for r, (i, j) in enumerate(zip(table.first, table.second, strict=True)) for _ in range(counts[i] * counts[j])
    ]
    X, Y = np.column_stack([np.ones(len(rows)), table.X[rows]]), y[rows]
    rest = Y - X @ np.linalg.lstsq(X, Y)[0]
    assert drawn["all"][0, 0] == pytest.approx(1 - rest.var() / Y.var())


def test_a_shuffle_takes_rows_and_columns_together():
    """A matrix that is symmetric stays so: shuffled shares of its two directed halves are those of either."""
    table, rng = synthetic(m=20, directed=True)
    symmetric = rng.random((20, 20))
    symmetric += symmetric.T
    found = pairs.shuffled_shares(table, [symmetric, symmetric.T], shuffles=5)
    assert np.allclose(found[:, 0], found[:, 1])


def test_among_strongest_counts():
    table, _ = synthetic(m=10)
    features = {"token": ["same last token"], "object or token": ["same object", "same last token"]}
    found = pairs.among_strongest(table, table.X[:, 0], features, count=int(table.X[:, 0].sum()))
    assert found["token"] == (1.0, pytest.approx(table.X[:, 0].mean()))
    either = (table.X[:, 0] + table.X[:, 2]) > 0
    assert found["object or token"] == (1.0, pytest.approx(either.mean()))
    assert found["none"] == (0.0, pytest.approx(1 - either.mean()))
    table, rng = synthetic(m=20)
    values = rng.random(len(table.X))
    hundred = sorted(zip(values, table.X[:, 0], strict=True), reverse=True)[:100]
    found = pairs.among_strongest(table, values, {"token": ["same last token"]})
    assert found["token"][0] == pytest.approx(np.mean([has for _, has in hundred]))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda table, y: pairs.fit(table, np.ones(len(y))), "nothing to explain"),
        (lambda table, y: pairs.fit(table, np.ones(3)), "take them with"),
        (lambda table, y: pairs.fit(replace(table, names=("a", "b"), X=table.X[:, [0, 0]]), y), "follows from"),
        (lambda table, y: pairs.bootstrap_shares(table, y, resamples=0), "resamples"),
        (lambda *_: pairs.pairs([Fact("a", "{}"), Fact("b", "{}")], [1, 2], [0, 0]), "three or more"),
        (lambda *_: pairs.pairs([Fact(name, "{}") for name in "abc"], [1, 2], [0, 0, 0]), "three or more"),
    ],
)
def test_what_cannot_be_made_is_refused(call, sentence):
    table, rng = synthetic()
    with pytest.raises(UserError, match=sentence):
        call(table, rng.random(len(table.X)))


def test_reworded_facts_use_their_relations_templates(known):
    relations = facts.relations("book")
    changed = wordings.reworded(known, relations, seed=1)
    for before, after in zip(known, changed, strict=True):
        assert after.prompt in (relations[before.relation].prompt, *relations[before.relation].paraphrases)
        assert (after.subject, after.relation, after.target_true) == (
            before.subject,
            before.relation,
            before.target_true,
        )
    different = sum(before.prompt != after.prompt for before, after in zip(known, changed, strict=True))
    assert 0.6 < different / 128 < 0.9
    assert changed == wordings.reworded(known, relations, seed=1)
    with pytest.raises(UserError, match="no templates"):
        wordings.reworded([Fact("x", "{} y", relation="P0")], relations)


def test_stacks_and_names_come_from_the_record(record, known):
    layer = record["layers"][3]
    matrices = list(pairs.stack(record))
    assert len(matrices) == len(record["layers"])
    assert np.array_equal(matrices[3], record.overlaps(layer).P)
    [(a, b, there, back)] = pairs.strongest_names(matrices[3], known, 1)
    i, j = record["subjects"].index(a), record["subjects"].index(b)
    assert there == matrices[3][i, j] >= back == matrices[3][j, i]
    off = matrices[3][~np.eye(128, dtype=bool)]
    assert there == off.max()
    assert np.array_equal(pairs.larger(matrices[3])[[i, j], [j, i]], [there, there])


# Plots


def test_shares_are_drawn_by_depth_with_their_intervals(drawn):
    rng = np.random.default_rng(0)
    groups = ["all", "last token", "relation"]
    shares = rng.random((3, 5))
    table = {"groups": groups, "shares": shares, "shares_interval": np.stack([shares - 0.1, shares + 0.1])}
    figure = drawn(figures.shares_by_depth({"one": table, "other": table}, ["last token", "relation", "position 0"]))
    for axis in figure.axes:
        for line, row in zip(axis.lines, shares, strict=True):
            assert np.array_equal(line.get_ydata(), row)
        assert [line.get_label() for line in axis.lines] == ["all together", "last token", "relation"]
        bands = [band.get_paths()[0].get_extents() for band in axis.collections]
        assert np.allclose([band.y1 - band.y0 for band in bands], np.ptp(shares[1:], axis=1) + 0.2)


def test_shares_of_unlike_models_all_fit():
    table = {"groups": ["all", "kind"], "shares": np.ones((2, 3)), "shares_interval": np.ones((2, 2, 3))}
    small = table | {"shares": np.full((2, 3), 0.1), "shares_interval": np.full((2, 2, 3), 0.1)}
    for order in ({"small": small, "large": table}, {"large": table, "small": small}):
        for axis in figures.shares_by_depth(order, ["kind"]).axes:
            assert axis.get_ylim()[0] == 0 and axis.get_ylim()[1] > 1


def test_effects_stand_in_their_features_rows(drawn):
    rows = {"first": {"a": (("x", "y"), [1.0, -2.0], [0.1, 0.2]), "b": (("y",), [3.0], [0.5])}, "last": {}}
    rows["last"] = rows["first"]
    figure = drawn(figures.effects(rows))
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["x", "y"]
    points = {c.get_label(): c.lines[0].get_xydata() for c in axis.containers}
    assert np.allclose(points["a"][:, 0], [1, -2])
    assert np.allclose(np.rint(points["b"]), [[3, 1]])
    bars = axis.containers[0].lines[2][0].get_segments()
    assert np.allclose(bars[1][:, 0], [-2 - 1.96 * 0.2, -2 + 1.96 * 0.2])


def test_the_strongest_are_drawn_beside_all(drawn):
    lines = {"token": np.array([0.9, 0.2]), "none": np.array([0.1, 0.5])}
    figure = drawn(figures.strongest_by_depth({"model": lines}, {"token": 0.01, "none": 0.8}))
    found = [line.get_ydata() for line in figure.axes[0].lines]
    assert [list(np.atleast_1d(y)) for y in found] == [[0.9, 0.2], [0.01, 0.01], [0.1, 0.5], [0.8, 0.8]]


def test_wordings_and_bins_are_drawn_as_they_are(drawn):
    effect, error = np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.1])
    lines = {"own": (effect, error), "drawn": (effect / 2, error)}
    figure = drawn(figures.relation_by_wording({"model": lines}))
    assert np.array_equal(figure.axes[0].lines[1].get_ydata(), effect / 2)
    band = figure.axes[0].collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((1 - 0.196, 3 + 0.196))
    bins = {"all": {"p": [0.0, 0.5], "mean": [0.1, 0.4], "low": [0.0, 0.3], "high": [0.2, 0.5], "cells": [99, 29]}}
    figure = drawn(figures.by_overlap({"flips": bins, "change": bins}, ["one", "two"]))
    assert [axis.get_ylabel() for axis in figure.axes] == ["flips", "change"]
    line = next(line for line in figure.axes[1].lines if line.get_label() == "all")
    assert np.array_equal(line.get_xydata(), [[0, 0.1]])
    (hollow,) = (line for line in figure.axes[1].lines if line.get_markerfacecolor() == PAGE)
    assert np.array_equal(hollow.get_xydata(), [[0.5, 0.4]])
