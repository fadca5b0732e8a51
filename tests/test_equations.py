"""Every labelled result of part I has a test that would fail if it were wrong; this table says which.

A new `eq-…` or `thm-…` in chapters 01 to 06 needs a line here; definitions (`def-…`) need none.
"""

import ast
import re
from pathlib import Path

import nbformat

import forms

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "book").glob("0[1-6]-*.ipynb"))
LABEL = re.compile(r"^\s*(?:\$\$ \(|:label: *)((?:eq|thm)-[\w-]+)", re.MULTILINE)

#: File, test, and the labels of what it would find wrong.
TESTS = {
    "derivation": {
        "crosstalk_is_the_sum_over_the_other_facts": "eq-memory-crosstalk",
        "noise_of_the_outer_product_memory": "eq-memory-noise",
        "every_other_memory_does_worse_by_its_distance": "thm-memory-best eq-memory-excess",
        "each_value_is_attached_to_the_corrected_key": "eq-memory-dual",
        "answers_are_a_projection_of_the_values": "eq-memory-recall eq-memory-trace",
        "room_for_as_many_facts_as_dimensions": "thm-memory-room eq-memory-few",
        "random_values_miss_the_share_outside_the_projection": "eq-memory-share",
        "a_product_is_a_sum_over_hidden_units": "eq-memory-units",
        "damage_needs_only_the_second_moment": "eq-single-damage",
        "stored_values_add_a_constant_for_the_least_squares_memory": "eq-single-objectives",
        "every_other_exact_change_does_more": "thm-single-closed eq-single-pythagoras",
        "writing_along_the_key_is_best_only_for_eigenvectors": "thm-single-naive",
        "writing_along_the_key_costs_a_known_factor": "eq-single-naive",
        "in_whitened_space_the_edit_is_a_write_along_the_key": "eq-single-whitened",
        "sherman_morrison_and_the_weighted_refit": "eq-single-sherman eq-single-soft",
        "one_triangular_solve_replaces_the_recursion": "eq-lifelong-system eq-lifelong-oneshot eq-lifelong-forecast",
        "answers_fade_exactly": "thm-lifelong-fading eq-lifelong-fading",
        "half_life": "eq-lifelong-halflife",
        "staircase_of_interference": "thm-lifelong-staircase eq-lifelong-staircase",
        "mean_squares_of_one_more_edit": "eq-lifelong-squares",
        "beginning_of_the_staircase": "eq-lifelong-start",
    },
    "theory": {
        "the_symbolic_gradients_are_the_entrywise_ones": "eq-memory-gradient eq-single-gradient",
        "solving_the_lagrangian_gives_the_closed_form": "eq-single-explicit",
        "limits_of_the_weight": "eq-single-limit",
        "unrolled_in_numbers": "thm-lifelong-unrolled eq-lifelong-unrolled eq-lifelong-three eq-lifelong-residual "
        "eq-lifelong-residuals",
        "interference_has_the_terms_of_the_paper": "eq-lifelong-triangle",
    },
    "rules": {
        "least_squares_memory": "eq-memory-normal eq-memory-solution",
        "rome_solves_its_kkt_system": "eq-single-closed",
        "rome_by_naive_loops": "eq-single-multiplier",
    },
    "memory": {
        "rome_interference_is_the_sum_of_p_delta": "eq-single-interference eq-lifelong-original eq-lifelong-edited"
    },
    "superposition": {
        "products_with_the_inverse_are_products_of_whitened_keys": "eq-superposition-products",
        "p_is_the_foot_of_the_perpendicular": "eq-superposition-projection",
        "the_plane_in_whole_numbers": "eq-superposition-plane eq-superposition-pair",
        "lengths_angle_asymmetry_and_cosine": "eq-superposition-angle eq-superposition-asymmetry "
        "eq-superposition-cosine",
        "what_overlap_does_not_see": "thm-superposition-invariance",
        "values_without_loss_have_codimension_d": "thm-superposition-lossless",
        "lists_without_loss_are_the_orthogonal_ones": "thm-superposition-room",
        "two_damages_can_cancel": "eq-superposition-cancel",
    },
    "capacity": {
        "squared_overlaps_sum_to_one_over_the_leverage": "eq-capacity-conservation "
        "thm-capacity-conservation eq-capacity-others",
        "leverages_share_out_the_rank": "eq-capacity-leverage eq-capacity-mean",
        "interference_is_forced_beyond_d_m": "eq-capacity-forced",
        "up_to_d_m_independent_keys_nothing_is_disturbed": "thm-capacity-forced",
        "mean_interference_of_normal_keys": "eq-capacity-gaussian",
        "nothing_stores_edits_for_less": "eq-single-price eq-capacity-price eq-capacity-floor thm-capacity-floor",
        "mean_price_of_n_kept_edits": "eq-capacity-lifetime",
        "any_distribution_has_the_mean_square_of_its_second_moment": "eq-capacity-population",
        "spread_on_a_sphere": "eq-capacity-sphere",
        "normal_keys_give_students_t": "eq-capacity-normal thm-capacity-null",
        "sets_that_meet_welch": "eq-capacity-welch",
        "no_set_of_vectors_beats_welch": "thm-capacity-welch",
        "two_random_directions_are_seldom_close": "eq-capacity-cap thm-capacity-cap",
        "that_many_keys_do_fit": "eq-capacity-fit thm-capacity-fit",
    },
    "editors": {
        "the_soft_answer_has_the_least_objective": "eq-editors-family eq-editors-slope",
        "the_hard_answer_solves_its_kkt_system": "thm-editors-family",
        "push_through_with_numbers": "eq-editors-push",
        "emmet_as_published": "eq-editors-emmet",
        "memit_as_published": "eq-editors-memit",
        "alphaedit_is_the_family_with_a_projector_and_a_limit_of_memit": "eq-editors-alphaedit thm-editors-alphaedit",
        "what_reaches_another_key": "eq-editors-transfer",
        "partial_overlap": "eq-editors-partial thm-editors-partial",
        "the_share_that_gets_written": "eq-editors-share eq-editors-part",
        "one_step_of_the_recursion": "eq-editors-recursion",
        "the_soft_recursion_is_one_batch_in_any_order": "eq-editors-soft thm-editors-soft",
        "the_hard_recursion_keeps_every_edit_in_any_order": "thm-editors-hard",
        "the_cost_of_the_hard_recursion_has_no_cross_terms": "eq-editors-hard-cost",
        "each_hard_step_uses_up_one_dimension": "eq-editors-room",
    },
}
LABELS = {
    label: f"tests/test_{file}.py::test_{test}"
    for file, tests in TESTS.items()
    for test, labels in tests.items()
    for label in labels.split()
}


def labels(notebook) -> list[str]:
    """The labels of results, in the order in which they are defined."""
    return [found for cell in notebook.cells if cell.cell_type == "markdown" for found in LABEL.findall(cell.source)]


def defined() -> dict[str, str]:
    """Label -> chapter."""
    return {label: path.stem for path in CHAPTERS for label in labels(forms.load(path))}


def test_every_result_is_in_the_table_and_the_table_is_current():
    in_book = defined()
    missing = sorted(in_book.keys() - LABELS.keys())
    stale = sorted(LABELS.keys() - in_book.keys())
    assert not missing, f"results without a test: {missing}"
    assert not stale, f"the table names labels that no chapter has: {stale}"
    assert sum(len(labels.split()) for tests in TESTS.values() for labels in tests.values()) == len(LABELS)


def test_no_label_is_given_twice():
    seen = [label for path in CHAPTERS for label in labels(forms.load(path))]
    assert sorted(set(seen)) == sorted(seen)


def test_every_test_in_the_table_exists():
    paths = {label.partition("::")[0] for label in LABELS.values()}
    trees = {path: ast.parse((ROOT / path).read_text(encoding="utf8")) for path in paths}
    tests = {f"{path}::{node.name}" for path in paths for node in trees[path].body if isinstance(node, ast.FunctionDef)}
    assert not set(LABELS.values()) - tests
    assert all("::test_" in test for test in LABELS.values())


def test_the_collector_sees_every_way_to_write_a_label():
    cells = [
        nbformat.v4.new_markdown_cell("$$\nx\n$$ (eq-a-one)\n\n$$\ny\n$$ (def-a-two)"),
        nbformat.v4.new_markdown_cell("```{math}\n:label: eq-a-three\n```\n\n```{glue:math} g\n:label: eq-a-four\n```"),
        nbformat.v4.new_markdown_cell("- :::{prf:lemma} L\n  :label: thm-a-five\n  x\n  :::"),
        nbformat.v4.new_code_cell("# $$ (eq-a-code)"),
    ]
    assert labels(nbformat.v4.new_notebook(cells=cells)) == ["eq-a-one", "eq-a-three", "eq-a-four", "thm-a-five"]
