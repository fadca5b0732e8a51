"""The book's algebra, done by SymPy: closed forms, the unrolled recursion and the identities, as expressions.

Two kinds of function:

- **explicit sizes** (up to 4 × 4): matrices of symbols, entry by entry; SymPy solves or expands everything.
- **symbolic sizes**: matrices of size d × d_m with d, d_m, N left as symbols. SymPy differentiates traces; a small
  rewriter multiplies out. What is left to a hand is said in each :class:`~superposition.theory.expressions.Result`.

Keys are columns; ``C`` is symmetric and positive definite; the paper's symbols are kept (``book/notation.md``).
A module a chapter: ``memory`` (01, 02), ``lifelong`` (03, 07). Chapters 04 to 06 do their algebra in their
own cells.
"""

# The public list, a chapter after the other.
# ruff: noqa: F401, I001
from superposition.theory.expressions import Result, W_hat, equation, p, reduce_matrix, tex
from superposition.theory.memory import memory_matrix
from superposition.theory.memory import SingleEdit, lagrangian_single_edit, lagrangian_symbolic, single_edit
from superposition.theory.memory import loss_is_distance, rome_update, single_edit_proof
from superposition.theory.memory import sherman_morrison, weight_limit, weighted_fit
from superposition.theory.lifelong import Unrolled, unrolled
from superposition.theory.lifelong import interference_edited, interference_matrix, interference_original
