"""Figures of chapters 04 to 06 draw what they are given, and draw without a warning."""

import numpy as np
import pytest

from superposition import figures


def test_a_plot_shows_itself_the_same_way_each_time():
    figure = figures.transfers({"one": np.eye(3)})
    assert figure._repr_svg_().startswith("<svg ")
    assert figure._repr_svg_() == figure._repr_svg_()
    assert "trust this notebook" in repr(figure)  # shown in place of vector graphics


def test_the_shadow_falls_where_p_says(drawn):
    rng = np.random.default_rng(0)
    K = np.linalg.cholesky([[5, 2], [2, 1]]) @ rng.normal(size=(2, 200))
    k_i, k_j = np.array([3.0, 1.0]), np.array([3.0, 2.0])
    C = K @ K.T / 200
    p = k_i @ np.linalg.solve(C, k_j) / (k_i @ np.linalg.solve(C, k_i))
    figure = figures.whitened_plane(K, k_i, k_j)
    raw, white = ([line.get_xydata() for line in axis.lines if line.get_marker() == "o"] for axis in figure.axes)
    np.testing.assert_allclose(raw[0][0], p * k_i)
    shadow = next(line.get_xydata() for line in figure.axes[1].lines if line.get_linestyle() == "--")
    tip, foot = shadow
    np.testing.assert_allclose(foot, white[0][0])
    assert (tip - foot) @ foot == pytest.approx(0, abs=1e-10)
    cloud = np.array(figure.axes[1].collections[0].get_offsets()).T
    np.testing.assert_allclose(cloud @ cloud.T / 200, np.eye(2), atol=1e-10)
    drawn(figure)


def test_damage_is_drawn_against_every_angle(drawn):
    damage = np.linspace(1, -1, 9)
    angles = {"raw": np.linspace(0, 170, 9), "whitened": np.linspace(10, 160, 9)}
    figure = figures.damage_around(angles, damage)
    shown = {line.get_label(): line.get_data() for line in figure.axes[0].lines}
    for name, values in angles.items():
        np.testing.assert_allclose(shown[name], (values, damage))
    degrees, cosine = shown["cosine"]
    np.testing.assert_allclose(cosine, np.cos(np.radians(degrees)))
    drawn(figure)


def test_capacity_draws_the_mean_and_what_is_forced(drawn):
    N, runs = np.array([8, 16, 32]), np.random.default_rng(0).uniform(size=(5, 3))
    figure = figures.capacity(N, runs, 16)
    measured, expected, forced = figure.axes[0].lines[:3]
    np.testing.assert_allclose(measured.get_ydata(), runs.mean(0))
    x, y = expected.get_data()
    np.testing.assert_allclose(y, (x - 16) / 14)
    np.testing.assert_allclose(forced.get_ydata(), x / 16 - 1)
    drawn(figure)


def test_an_edit_over_a_text_counts_its_tokens_and_marks_the_facts(drawn):
    shares = np.random.default_rng(0).normal(scale=0.02, size=500)
    figure = figures.edit_over_text(shares, {"a": 0.5, "b": -0.03})
    above, below = figure.axes
    assert sum(bar.get_height() for bar in above.patches) == 500
    assert [line.get_xdata()[-1] for line in below.lines if line.get_marker() == "o"] == [0.5, -0.03]
    assert [label.get_text() for label in below.get_yticklabels()] == ["a", "b"]
    assert above.get_xlim()[0] < shares.min() and above.get_xlim()[1] > 0.5
    drawn(figure)


def test_keys_that_fit_draw_what_they_get(drawn):
    grid = np.linspace(0.01, 0.4, 5)
    fit, most = {4: np.full(5, 20.0)}, {4: np.array([20.0, 50.0, np.inf, np.inf, np.inf])}
    figure = figures.keys_that_fit(grid, fit, most)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_data(), (grid, fit[4]))
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata(), most[4])
    drawn(figure)


def test_transfers_show_the_matrices_on_one_scale(drawn):
    matrices = {"one": np.eye(3), "two": np.arange(9.0).reshape(3, 3)}
    figure = figures.transfers(matrices)
    for axis, (name, matrix) in zip(figure.axes, matrices.items(), strict=False):
        assert axis.get_title() == name
        np.testing.assert_allclose(axis.images[0].get_array(), matrix)
        assert axis.images[0].get_clim() == (-1, 1)
    drawn(figure)


def test_lifetimes_leave_out_what_a_rule_did_not_do(drawn):
    n, rng = np.arange(1, 6), np.random.default_rng(0)
    errors = {name: rng.uniform(size=(4, 5)) for name in ("always", "stops")}
    damage = {name: rng.uniform(1, 2, size=(4, 5)) for name in errors}
    errors["stops"][:, 3:] = damage["stops"][:, 3:] = np.nan
    figure = figures.lifetimes(n, errors, damage, 4)
    left, right = ([line.get_data() for line in axis.lines[:2]] for axis in figure.axes)
    np.testing.assert_allclose(left[0], (n, errors["always"].mean(0)))
    np.testing.assert_allclose(left[1], (n[:3], errors["stops"][:, :3].mean(0)))
    np.testing.assert_allclose(right[1], (n[:3], np.exp(np.log(damage["stops"][:, :3]).mean(0))))
    drawn(figure)


def test_one_question_marks_every_rules_change_and_the_line_on_which_the_edit_is_exact(drawn):
    answers = {"rome": np.array([0.2, 0.8]), "rls-hard": np.array([2 / 3, 1 / 3]), "alphaedit": np.array([0.0, 0.4])}
    key, earlier = np.ones(2), np.array([-0.5, 1.0])
    figure = figures.one_question(np.diag([4.0, 1.0]), key, earlier, answers)
    lines = figure.axes[0].lines
    np.testing.assert_allclose(key @ np.array(lines[0].get_data()), 1)
    np.testing.assert_allclose(earlier @ np.array(lines[1].get_data()), 0, atol=1e-12)
    marks = [tuple(np.ravel(line.get_data())) for line in lines if len(line.get_xdata()) == 1]
    for D in answers.values():
        assert any(np.allclose(D, mark) for mark in marks)
    drawn(figure)


def test_miss_and_damage_names_rules_at_one_point_together(drawn):
    missed, damage = np.linspace(0, 0.25, 9), np.linspace(0.15, 0.02, 9)
    found = {"emmet": (0.0, 0.15), "rls-hard": (0.0, 0.15), "rome": (0.1, 0.115)}
    figure = figures.miss_and_damage(missed, damage, found)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_data(), (missed, damage))
    said = [text.get_text() for text in figure.axes[0].texts]
    assert "EMMET, hard recursion" in said and "ROME" in said
    drawn(figure)


def test_family_and_stranger_ask_about_every_fact_but_the_edited_one(drawn):
    facts = [("birthplace", "Rome"), ("profession", "cook"), ("instrument", "lute")]
    figure = figures.family_and_stranger([("Ada Verr", facts), ("Bo Verr", facts), ("Cy Dunn", facts)])
    said = [text.get_text() for text in figure.axes[0].texts]
    assert said.count("?") == 8 and said.count("Verr") == 2 and said.count("Rome") == 3
    drawn(figure)
