"""What the cells of a chapter call: values and expressions for the prose, comparisons, tables, the model to measure.

Importing this module makes the libraries that a chapter uses keep silent (:func:`superposition.io.console.quiet`),
since whatever they write to standard error would become part of the page.
"""

import ast
import math
import numbers
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass

import numpy as np

from superposition.errors import UserError
from superposition.io.console import quiet
from superposition.stats.intervals import Estimate

#: The key in an output's metadata that says: these are values for the prose. For an equation it holds its name.
GLUED = "glued"


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
        return f"{value:.2f}" if isinstance(value, float) else escaped(value)

    def escaped(text) -> str:
        """A bar would begin a new cell, and an escaped one in a formula is two to some readers."""
        pieces = re.split(r"(\$[^$]*\$)", str(text))  # every second one is a formula
        pieces[1::2] = [formula.replace(r"\|", r"\Vert ").replace("|", r"\vert ") for formula in pieces[1::2]]
        pieces[::2] = [words.replace("|", r"\|") for words in pieces[::2]]
        return "".join(pieces)

    lines = [list(map(escaped, header)), ["---"] * len(list(header)), *([cell(value) for value in row] for row in rows)]
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


def glue(name: str, value, digits: int = 6) -> None:
    """Show a value, and let the prose quote it: ``?<!--=name:.2f-->`` (see ``book/_ext/forms.py``).

    Parameters
    ----------
    name : str
        Unique in the chapter.
    value
        A number, kept to `digits` significant digits (:func:`plain`), or a string.
    digits : int
        Significant digits kept of a float.

    Raises
    ------
    UserError
        If the name is no name, or the value neither a number nor a string.

    Notes
    -----
    A glued value is part of the notebook's output and compared when the notebook is tested, so glue recorded or exact
    values; assert live ones.
    """
    glue_all(**{name: value}, digits=digits)


def glue_all(prefix: str = "", *, digits: int = 6, **values) -> None:
    """Show several values, a line each, and let the prose quote them: ``glue_all(age=ratio, lives=8)``.

    Parameters
    ----------
    prefix : str
        Put before every name, with an underscore.
    digits : int
        Significant digits kept of a float.
    **values
        Numbers, strings; estimates (:class:`superposition.stats.intervals.Estimate`), which give ``name``,
        ``name_low`` and ``name_high``; mappings and dataclasses, which give ``name_key`` for each of their keys.

    Raises
    ------
    UserError
        As :func:`glue`.
    """
    lines = list(_lines(prefix, values, digits))
    _show({"text/plain": "\n".join(lines)}, {GLUED: True})


def _lines(prefix: str, values: Mapping, digits: int) -> Iterator[str]:
    for name, value in values.items():
        name = f"{prefix}_{name}" if prefix else str(name)
        if not re.fullmatch(r"\w[\w-]*", name):
            raise UserError(f"{name!r} cannot name a glued value: use letters, digits, '-' and '_'.")
        value = vars(value) if is_dataclass(value) and not isinstance(value, Estimate) else value
        if isinstance(value, Mapping):
            yield from _lines(name, value, digits)
        elif isinstance(value, Estimate):
            best, low, high = (plain(end, digits) for end in (value.value, value.low, value.high))
            yield f"{name} = {best!r} ({low!r} to {high!r})"
        elif isinstance(plain(value), (bool, int, float, str)):
            yield f"{name} = {plain(value, digits)!r}"
        else:
            raise UserError(f"{name!r} is of type {type(value).__name__}: only numbers and strings can be glued.")


def values(text: str) -> Iterator[tuple[str, bool | int | float | str]]:
    """Names and values in the text that :func:`glue_all` shows; an estimate gives three."""
    for line in text.splitlines():
        name, _, rest = line.partition(" = ")
        interval = re.fullmatch(r"(\S+) \((\S+) to (\S+)\)", rest)
        for end, written in zip(("", "_low", "_high"), interval.groups() if interval else [rest], strict=False):
            yield name + end, float(written) if written in ("nan", "inf", "-inf") else ast.literal_eval(written)


def glue_math(name: str, expression, **options) -> None:
    """Show an expression, and let a numbered equation of the text be it: last line ``\\tag{?} % eq-label = name``.

    Parameters
    ----------
    name : str
        Unique in the chapter.
    expression : sympy expression, equation or matrix, or str
        A string is taken to be LaTeX already, without delimiters.
    **options
        Passed to :func:`sympy.latex`, for instance ``mul_symbol`` or ``symbol_names``.
    """
    if not isinstance(expression, str):
        from sympy import latex

        expression = latex(expression, **options)
    _show({"text/latex": rf"$\displaystyle {expression}$", "text/plain": name}, {GLUED: name})


def agree(what: str, left, right, *, within: float = 1e-9, of: float | None = None) -> None:
    """Assert that two results are the same, and say in a line below the cell what was compared, and how closely.

    Parameters
    ----------
    what : str
        What the two are.
    left, right : array-like of one shape
    within : float
        Largest difference allowed, as a part of `of`.
    of : float, optional
        The largest of the absolute values of `right`, if not given; 1 makes `within` an absolute difference.

    Raises
    ------
    AssertionError
        They differ by more, or in shape, or a value is not finite.
    """
    left, right = np.asarray(left, dtype=float), np.asarray(right, dtype=float)
    if left.shape != right.shape:
        raise AssertionError(f"{what}: the shapes {left.shape} and {right.shape} differ.")
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise AssertionError(f"{what}: not every value is finite.")
    difference = np.abs(left - right).max()
    if not difference <= within * (np.abs(right).max() if of is None else of):
        raise AssertionError(f"{what}: they differ by {difference:.2e}, and {within:g} is allowed.")
    numbers = f"{' × '.join(map(str, left.shape))} numbers" if left.ndim else "1 number"
    largest = "" if of is not None else " of the largest" if left.ndim else " of it"
    print(f"{what}: {numbers}, equal within {within:g}{largest}")


def hold(what: str, truths) -> None:
    """Assert that something is so, in every case, and say it in a line below the cell.

    Parameters
    ----------
    what : str
    truths : bool, or array-like of bool

    Raises
    ------
    AssertionError
        It is not so in some case, or there is none.
    """
    truths = np.asarray(truths)
    if truths.dtype != bool or not truths.size or not truths.all():
        raise AssertionError(f"{what}: so in {np.count_nonzero(truths)} of {truths.size} cases.")
    print(f"{what}: {'yes' if truths.ndim == 0 else f'all {truths.size}'}")


def _show(data: dict[str, str], metadata: dict) -> None:
    from IPython.display import display

    display(data, raw=True, metadata=metadata)


quiet()
