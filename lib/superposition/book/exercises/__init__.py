"""Exercises that check themselves: each function takes the reader's function and tries it on random problems.

``check_NN_name(function)`` draws shapes and inputs from a seeded generator, compares with an oracle that solves
the problem another way, and returns a short sentence if all is well. Where it is not, it raises an
``AssertionError`` that says what is wrong. By name it takes how many ``problems`` to draw, and another ``seed``.
"""

# The public list, a chapter after the other.
# ruff: noqa: F401, I001
from superposition.book.exercises.part_1 import check_01_memory, check_01_observe, check_02_batch, check_02_edit
from superposition.book.exercises.part_1 import check_03_forecast, check_03_lifelong, check_04_undo, check_04_whitening
from superposition.book.exercises.part_1 import check_05_leverages, check_05_simplex, check_06_family
from superposition.book.exercises.part_1 import check_06_gram_schmidt
from superposition.book.exercises.part_2 import check_07_growth, check_07_sweeps
from superposition.book.exercises.part_2 import check_08_dimensionality, check_08_threshold, check_09_first_order
from superposition.book.exercises.part_2 import check_09_protect
from superposition.book.exercises.part_3 import check_10_token, check_10_tokens, check_11_back, check_12_l_kurtosis
from superposition.book.exercises.part_3 import check_12_tail_factor, check_13_twins, check_14_lost, check_14_meat
from superposition.book.exercises.part_4 import (
    check_15_clamp,
    check_16_suffered,
    check_17_aligned,
    check_17_anchor,
    check_18_drift,
)
from superposition.book.exercises.part_4 import check_20_blame, check_21_protect, check_capstone_blame
from superposition.book.exercises.part_4 import check_capstone_drop, check_capstone_strongest, check_capstone_tokens
