"""What the cells of a chapter call: values and expressions carried into the prose, tables, the model to measure.

Importing this module makes the libraries that a chapter uses keep silent (:func:`superposition.io.console.quiet`),
since whatever they write to standard error would become part of the page.
"""

import math
import numbers
import os
from collections.abc import Mapping
from dataclasses import is_dataclass

from superposition.errors import UserError
from superposition.io.console import quiet
from superposition.stats.intervals import Estimate


def model_name() -> str:
    """The model that a chapter's live cells measure: ``SUPERPOSITION_MODEL``, or the book's default ``smollm2``."""
    return os.environ.get("SUPERPOSITION_MODEL") or "smollm2"


def table(header, rows):
    """A table below a cell, as Markdown: numbers with two decimals unless they are integers or strings already.

    Parameters
    ----------
    header : sequence of str
    rows : iterable of sequences
        As long as the header.
    """
    from IPython.display import Markdown

    def cell(value) -> str:
        value = plain(value)
        return f"{value:.2f}" if isinstance(value, float) else str(value).replace("|", "\\|")

    lines = [list(map(str, header)), ["---"] * len(list(header)), *([cell(value) for value in row] for row in rows)]
    return Markdown("\n".join("| " + " | ".join(line) + " |" for line in lines))


def plain(value, digits: int = 6):
    """Return `value` as the Python number or string that is to be shown, the same on every machine.

    Parameters
    ----------
    value
        A number, a string, a 0-d array or tensor, a sequence of these, or an object that displays itself.
    digits : int
        Significant digits kept of a float: the last bits differ between machines.

    Returns
    -------
    object
        A ``bool``, ``int``, ``float`` or ``str`` where the value is one; tuples and lists keep their type;
        anything else comes back untouched.
    """
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(plain(v, digits) for v in value)
    if isinstance(value, (str, bool)):
        return value
    if isinstance(value, numbers.Integral) and not hasattr(value, "free_symbols"):
        return int(value)
    if isinstance(value, numbers.Real) and not hasattr(value, "free_symbols"):
        value = float(value)
        return float(f"{value:.{digits}g}") if math.isfinite(value) else value
    return value


def glue(name: str, value, display: bool = False, digits: int = 6) -> None:
    """Carry a value from a cell into the prose, where ``{glue:text}`name:.2f``` shows it.

    Parameters
    ----------
    name : str
        Unique in the chapter.
    value
        Numbers are kept to `digits` significant digits (:func:`plain`), the rest as it displays itself.
    display : bool
        Show the value below the cell as well.
    digits : int
        Significant digits kept of a float.

    Raises
    ------
    UserError
        If the name is empty or holds a colon or a backtick, which the role could not read back.

    Notes
    -----
    Where myst-nb is not installed the chapter still runs: the value is shown if `display` is true, and
    nothing else happens. A glued value is part of the notebook's output and compared when the notebook is
    tested, so glue recorded or exact values; assert live ones.
    """
    if not name or any(character in name for character in ":`\n"):
        raise UserError(f"{name!r} cannot name a glued value: use letters, digits, '-' and '_' (no ':').")
    value = plain(value, digits)
    try:
        from myst_nb import glue as paste
    except ImportError:
        if display:
            from IPython.display import display as show

            show(value)
        return
    paste(name, value, display=display)


def glue_all(prefix: str = "", *, digits: int = 6, **values) -> None:
    """Carry several values into the prose in one call: ``glue_all(age=ratio, lives=8)``.

    Parameters
    ----------
    prefix : str
        Put before every name, with an underscore.
    digits : int
        Significant digits kept of a float.
    **values
        Numbers, strings; estimates (:class:`superposition.stats.intervals.Estimate`), which give ``name``,
        ``name_low`` and ``name_high``; mappings and dataclasses, which give ``name_key`` for each of their keys.
    """
    for name, value in values.items():
        name = f"{prefix}_{name}" if prefix else name
        value = vars(value) if is_dataclass(value) else value
        if isinstance(value, Mapping):
            glue_all(name, digits=digits, **value)
        elif isinstance(value, Estimate):
            glue(name, value.value, digits=digits)
            glue(f"{name}_low", value.low, digits=digits)
            glue(f"{name}_high", value.high, digits=digits)
        else:
            glue(name, value, digits=digits)


def glue_math(name: str, expression, display: bool = False, **options) -> None:
    """Carry an expression into a numbered equation: ``{glue:math} name`` with ``:label: eq-…``.

    Parameters
    ----------
    name : str
        Unique in the chapter.
    expression : sympy expression, equation or matrix, or str
        A string is taken to be LaTeX already, without delimiters.
    display : bool
        Show the equation below the cell as well.
    **options
        Passed to :func:`sympy.latex`, for instance ``mul_symbol`` or ``symbol_names``.
    """
    from IPython.display import Math

    if not isinstance(expression, str):
        from sympy import latex

        expression = latex(expression, **options)
    glue(name, Math(expression), display=display)


quiet()
