"""Every labelled result of part I has a test that would fail if it were wrong; this table says which.

A new `eq-…` or `thm-…` in chapters 01 to 06 needs a line here; definitions (`def-…`) need none.
"""

import ast
import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "book").glob("0[1-6]-*.ipynb"))
LABEL = re.compile(r"^\s*(?:\$\$ \(|:label: *)((?:eq|thm)-[\w-]+)", re.MULTILINE)

DERIVATION, THEORY = (f"tests/test_{name}.py::" for name in ("derivation", "theory"))
SUPERPOSITION, CAPACITY, EDITORS = (f"tests/test_{name}.py::" for name in ("superposition", "capacity", "editors"))

LABELS = {
    # 01 the memory
    "eq-memory-crosstalk": DERIVATION + "test_crosstalk_is_the_sum_over_the_other_facts",
    "eq-memory-noise": DERIVATION + "test_noise_of_the_outer_product_memory",
    "eq-memory-gradient": THEORY + "test_the_symbolic_gradients_are_the_entrywise_ones",
    "eq-memory-normal": DERIVATION + "test_normal_equation_and_its_solution",
    "eq-memory-solution": DERIVATION + "test_normal_equation_and_its_solution",
    "thm-memory-best": DERIVATION + "test_every_other_memory_does_worse_by_its_distance",
    "eq-memory-excess": DERIVATION + "test_every_other_memory_does_worse_by_its_distance",
    "eq-memory-dual": DERIVATION + "test_each_value_is_attached_to_the_corrected_key",
    "eq-memory-recall": DERIVATION + "test_answers_are_a_projection_of_the_values",
    "eq-memory-trace": DERIVATION + "test_answers_are_a_projection_of_the_values",
    "thm-memory-room": DERIVATION + "test_room_for_as_many_facts_as_dimensions",
    "eq-memory-few": DERIVATION + "test_room_for_as_many_facts_as_dimensions",
    "eq-memory-share": DERIVATION + "test_random_values_miss_the_share_outside_the_projection",
    "eq-memory-units": DERIVATION + "test_a_product_is_a_sum_over_hidden_units",
    # 02 the single edit
    "eq-single-damage": DERIVATION + "test_damage_needs_only_the_second_moment",
    "eq-single-objectives": DERIVATION + "test_stored_values_add_a_constant_for_the_least_squares_memory",
    "eq-single-explicit": THEORY + "test_solving_the_lagrangian_gives_the_closed_form",
    "eq-single-gradient": THEORY + "test_the_symbolic_gradients_are_the_entrywise_ones",
    "eq-single-closed": DERIVATION + "test_closed_form_and_multiplier_solve_the_linear_system",
    "eq-single-multiplier": DERIVATION + "test_closed_form_and_multiplier_solve_the_linear_system",
    "thm-single-closed": DERIVATION + "test_every_other_exact_change_does_more",
    "eq-single-pythagoras": DERIVATION + "test_every_other_exact_change_does_more",
    "eq-single-price": DERIVATION + "test_least_damage_is_residual_over_leverage",
    "thm-single-naive": DERIVATION + "test_writing_along_the_key_is_best_only_for_eigenvectors",
    "eq-single-naive": DERIVATION + "test_writing_along_the_key_costs_a_known_factor",
    "eq-single-whitened": DERIVATION + "test_in_whitened_space_the_edit_is_a_write_along_the_key",
    "eq-single-sherman": DERIVATION + "test_sherman_morrison_and_the_weighted_refit",
    "eq-single-soft": DERIVATION + "test_sherman_morrison_and_the_weighted_refit",
    "eq-single-limit": THEORY + "test_limits_of_the_weight",
    "eq-single-interference": DERIVATION + "test_interference_is_p_times_the_residual",
    # 03 a lifetime of edits
    "thm-lifelong-unrolled": DERIVATION + "test_the_memory_after_n_edits_is_the_sum",
    "eq-lifelong-unrolled": DERIVATION + "test_the_memory_after_n_edits_is_the_sum",
    "eq-lifelong-three": THEORY + "test_unrolled_in_numbers",
    "eq-lifelong-entry": THEORY + "test_induction_for_every_n",
    "eq-lifelong-residual": DERIVATION + "test_residuals_follow_the_recursion",
    "eq-lifelong-residuals": THEORY + "test_unrolled_in_numbers",
    "eq-lifelong-system": DERIVATION + "test_one_triangular_solve_replaces_the_recursion",
    "eq-lifelong-oneshot": DERIVATION + "test_one_triangular_solve_replaces_the_recursion",
    "eq-lifelong-original": DERIVATION + "test_interference_on_original_knowledge",
    "eq-lifelong-edited": DERIVATION + "test_interference_on_edited_knowledge",
    "eq-lifelong-triangle": DERIVATION + "test_the_triangle_of_four_edits",
    "eq-lifelong-forecast": DERIVATION + "test_interference_on_edited_knowledge",
    "thm-lifelong-fading": DERIVATION + "test_answers_fade_exactly",
    "eq-lifelong-fading": DERIVATION + "test_answers_fade_exactly",
    "eq-lifelong-halflife": DERIVATION + "test_half_life",
    "thm-lifelong-staircase": DERIVATION + "test_staircase_of_interference",
    "eq-lifelong-staircase": DERIVATION + "test_staircase_of_interference",
    "eq-lifelong-squares": DERIVATION + "test_mean_squares_of_one_more_edit",
    "eq-lifelong-start": DERIVATION + "test_beginning_of_the_staircase",
    # 04 superposition
    "eq-superposition-products": SUPERPOSITION + "test_products_with_the_inverse_are_products_of_whitened_keys",
    "eq-superposition-projection": SUPERPOSITION + "test_p_is_the_foot_of_the_perpendicular",
    "eq-superposition-plane": SUPERPOSITION + "test_the_plane_in_whole_numbers",
    "eq-superposition-pair": SUPERPOSITION + "test_the_plane_in_whole_numbers",
    "eq-superposition-angle": SUPERPOSITION + "test_lengths_angle_asymmetry_and_cosine",
    "eq-superposition-asymmetry": SUPERPOSITION + "test_lengths_angle_asymmetry_and_cosine",
    "eq-superposition-cosine": SUPERPOSITION + "test_lengths_angle_asymmetry_and_cosine",
    "thm-superposition-invariance": SUPERPOSITION + "test_what_overlap_does_not_see",
    "thm-superposition-lossless": SUPERPOSITION + "test_values_without_loss_have_codimension_d",
    "thm-superposition-room": SUPERPOSITION + "test_lists_without_loss_are_the_orthogonal_ones",
    "eq-superposition-cancel": SUPERPOSITION + "test_two_damages_can_cancel",
    # 05 capacity
    "eq-capacity-conservation": CAPACITY + "test_squared_overlaps_sum_to_one_over_the_leverage",
    "thm-capacity-conservation": CAPACITY + "test_squared_overlaps_sum_to_one_over_the_leverage",
    "eq-capacity-others": CAPACITY + "test_squared_overlaps_sum_to_one_over_the_leverage",
    "eq-capacity-leverage": CAPACITY + "test_leverages_share_out_the_rank",
    "eq-capacity-mean": CAPACITY + "test_leverages_share_out_the_rank",
    "eq-capacity-forced": CAPACITY + "test_interference_is_forced_beyond_d_m",
    "thm-capacity-forced": CAPACITY + "test_up_to_d_m_independent_keys_nothing_is_disturbed",
    "eq-capacity-gaussian": CAPACITY + "test_mean_interference_of_normal_keys",
    "eq-capacity-floor": CAPACITY + "test_nothing_stores_edits_for_less",
    "thm-capacity-floor": CAPACITY + "test_nothing_stores_edits_for_less",
    "eq-capacity-lifetime": CAPACITY + "test_mean_price_of_n_kept_edits",
    "eq-capacity-population": CAPACITY + "test_any_distribution_has_the_mean_square_of_its_second_moment",
    "eq-capacity-sphere": CAPACITY + "test_spread_on_a_sphere",
    "eq-capacity-normal": CAPACITY + "test_normal_keys_give_students_t",
    "thm-capacity-null": CAPACITY + "test_normal_keys_give_students_t",
    "eq-capacity-welch": CAPACITY + "test_sets_that_meet_welch",
    "thm-capacity-welch": CAPACITY + "test_no_set_of_vectors_beats_welch",
    "eq-capacity-cap": CAPACITY + "test_two_random_directions_are_seldom_close",
    "thm-capacity-cap": CAPACITY + "test_two_random_directions_are_seldom_close",
    "eq-capacity-fit": CAPACITY + "test_that_many_keys_do_fit",
    "thm-capacity-fit": CAPACITY + "test_that_many_keys_do_fit",
    # 06 the family of editors
    "eq-editors-family": EDITORS + "test_the_soft_answer_has_the_least_objective",
    "thm-editors-family": EDITORS + "test_the_hard_answer_solves_its_kkt_system",
    "eq-editors-push": EDITORS + "test_push_through_with_numbers",
    "eq-editors-emmet": EDITORS + "test_emmet_as_published",
    "eq-editors-memit": EDITORS + "test_memit_as_published",
    "eq-editors-alphaedit": EDITORS + "test_alphaedit_is_the_family_with_a_projector_and_a_limit_of_memit",
    "thm-editors-alphaedit": EDITORS + "test_alphaedit_is_the_family_with_a_projector_and_a_limit_of_memit",
    "eq-editors-transfer": EDITORS + "test_what_reaches_another_key",
    "eq-editors-partial": EDITORS + "test_partial_overlap",
    "thm-editors-partial": EDITORS + "test_partial_overlap",
    "eq-editors-share": EDITORS + "test_the_share_that_gets_written",
    "eq-editors-recursion": EDITORS + "test_one_step_of_the_recursion",
    "eq-editors-soft": EDITORS + "test_the_soft_recursion_is_one_batch_in_any_order",
    "thm-editors-soft": EDITORS + "test_the_soft_recursion_is_one_batch_in_any_order",
    "thm-editors-hard": EDITORS + "test_the_hard_recursion_keeps_every_edit_in_any_order",
    "eq-editors-hard-cost": EDITORS + "test_the_cost_of_the_hard_recursion_has_no_cross_terms",
    "eq-editors-room": EDITORS + "test_each_hard_step_uses_up_one_dimension",
    "eq-editors-limit": EDITORS + "test_a_large_weight_is_a_constraint",
    "thm-editors-coincide": EDITORS + "test_orthogonal_whitened_keys_make_them_one_and_only_they",
}


def labels(notebook) -> list[str]:
    """The labels of results, in the order in which they are defined."""
    return [found for cell in notebook.cells if cell.cell_type == "markdown" for found in LABEL.findall(cell.source)]


def defined() -> dict[str, str]:
    """Label -> chapter."""
    return {label: path.stem for path in CHAPTERS for label in labels(nbformat.read(path, as_version=4))}


def test_every_result_is_in_the_table_and_the_table_is_current():
    in_book = defined()
    missing = sorted(in_book.keys() - LABELS.keys())
    stale = sorted(LABELS.keys() - in_book.keys())
    assert not missing, f"results without a test: {missing}"
    assert not stale, f"the table names labels that no chapter has: {stale}"


def test_no_label_is_given_twice():
    seen = [label for path in CHAPTERS for label in labels(nbformat.read(path, as_version=4))]
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
