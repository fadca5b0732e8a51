"""What the options of the command line may be: paths, sizes, layers. For ``type=`` of :mod:`argparse`."""

from __future__ import annotations

import math
import re
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from superposition.errors import UserError
from superposition.io import paths

if TYPE_CHECKING:
    from superposition.lm.models import LanguageModel


def path(value: str) -> Path:
    """A file or folder to write; ``~`` is expanded, which a shell does not do after ``--out=``."""
    if not value or "\0" in value:
        raise ArgumentTypeError("a name that is empty or holds a NUL names nothing: give a path.")
    try:
        return paths.expanded(value)
    except UserError as error:
        raise ArgumentTypeError(str(error)) from None


def source(value: str) -> str:
    """The name of facts or of a text, as it was given; refuses what cannot even be looked up as a path."""
    try:
        path(value).is_file()
    except OSError as error:
        raise ArgumentTypeError(f"{value} cannot be looked up ({error.strerror}): check the path.") from None
    return value


def moment(command: ArgumentParser) -> None:
    """Add the option that takes C from a file."""
    command.add_argument(
        "--moment",
        type=path,
        metavar="FILE.npz",
        help="C from the statistics file of ROME's or MEMIT's code for this layer, in place of a text",
    )


def number(value: str) -> float:
    """A number that is neither infinite nor NaN."""
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ArgumentTypeError(f"{paths.shown(value)} is no finite number: give one such as 0.5.")
    return found


def shrinkage(value: str) -> float | str:
    """A number, or ``oas``."""
    try:
        return value if value == "oas" else float(value)
    except ValueError:
        raise ArgumentTypeError(f"{value} is no shrinkage: give a number from 0 to 1, or oas.") from None


def size(value: str) -> int:
    """``500M``, ``4G``, ``1.5 GB`` or a plain number of bytes."""
    match = re.fullmatch(r"([0-9.]+)\s*([KMGT]?)i?B?", value.strip(), re.IGNORECASE)
    try:
        return int(float(match[1]) * 1000 ** " KMGT".index(match[2].upper() or " "))
    except (TypeError, ValueError, OverflowError):
        raise ArgumentTypeError(f"{value} is no size: give one such as 4G.") from None


def layers(value: str) -> tuple[int, int]:
    """``5``, ``-1``, or ``5:7`` for 5, 6 and 7: the first and the last."""
    match = re.fullmatch(r"(-?\d{1,9})(?::(-?\d{1,9}))?", value.strip(), re.ASCII)
    if match is None:
        raise ArgumentTypeError(f"{value} is no layer: give an index such as 5, or a range such as 5:7.")
    return int(match[1]), int(match[2] or match[1])


def chosen(model: LanguageModel, ranges: Sequence[tuple[int, int]] | None) -> list[int] | None:
    """The indices in ranges of layers, both ends included; None, which is all, for None.

    Raises
    ------
    UserError
        An end is out of range, or a range ends before it begins.
    """
    if ranges is None:
        return None
    found: list[int] = []
    for first, last in ranges:
        begin, end = (model.select([index])[0].index for index in (first, last))
        if begin > end:
            raise UserError(f"The layers {first}:{last} end before they begin: give the lower first.")
        found += range(begin, end + 1)
    return found
