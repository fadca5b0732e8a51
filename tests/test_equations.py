"""Every labelled result of part I has a test that would fail if it were wrong; this table says which.

A new `eq-…` or `thm-…` in chapters 01 to 06 needs a line here; definitions (`def-…`) need none.
"""

import ast
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "book").glob("0[1-6]-*.ipynb"))
LABEL = re.compile(r"^\s*(?:\$\$ \(|:label: *)((?:eq|thm)-[\w-]+)", re.MULTILINE)

DERIVATION, ALGEBRA, RULES, MEMORY = (
    f"tests/test_{name}.py::" for name in ("derivation", "algebra", "rules", "memory")
)

LABELS = {
    # 02 the single edit
    "eq-single-damage": DERIVATION + "test_damage_needs_only_the_second_moment",
    "eq-single-objectives": DERIVATION + "test_stored_values_add_a_constant_for_the_least_squares_memory",
    "eq-single-explicit": DERIVATION + "test_explicit_solution_for_two_inputs",
    "eq-single-gradient": DERIVATION + "test_gradient_of_the_lagrangian",
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
    "eq-single-limit": DERIVATION + "test_an_infinite_weight_is_the_edit",
    "eq-single-interference": DERIVATION + "test_interference_is_p_times_the_residual",
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


@pytest.mark.parametrize("label", LABELS)
def test_the_test_exists(label):
    path, _, name = LABELS[label].partition("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, LABELS[label]
    assert name.startswith("test_")


def test_the_collector_sees_every_way_to_write_a_label():
    cells = [
        nbformat.v4.new_markdown_cell("$$\nx\n$$ (eq-a-one)\n\n$$\ny\n$$ (def-a-two)"),
        nbformat.v4.new_markdown_cell("```{math}\n:label: eq-a-three\n```\n\n```{glue:math} g\n:label: eq-a-four\n```"),
        nbformat.v4.new_markdown_cell("- :::{prf:lemma} L\n  :label: thm-a-five\n  x\n  :::"),
        nbformat.v4.new_code_cell("# $$ (eq-a-code)"),
    ]
    assert labels(nbformat.v4.new_notebook(cells=cells)) == ["eq-a-one", "eq-a-three", "eq-a-four", "thm-a-five"]
