"""The options of the command line: what their values may be, those that several commands share, and what they make."""

from __future__ import annotations

import math
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from superposition.errors import UserError
from superposition.io import paths

if TYPE_CHECKING:
    from superposition.editing.session import Plan
    from superposition.lm.models import LanguageModel, Source


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


def number(value: str) -> float:
    """A number that is neither infinite nor NaN."""
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ArgumentTypeError(f"{paths.shown(value)} is no finite number: give one such as 0.5.")
    return found


def shrinkage(value: str) -> float | Literal["oas"]:
    """A number, or ``oas``."""
    try:
        return "oas" if value == "oas" else float(value)
    except ValueError:
        raise ArgumentTypeError(f"{value} is no shrinkage: give a number from 0 to 1, or oas.") from None


def size(value: str) -> int:
    """``500M``, ``4G``, ``1.5 GB`` or a plain number of bytes."""
    match = re.fullmatch(r"([0-9.]+)\s*([KMGT]?)i?B?", value.strip(), re.IGNORECASE)
    number, unit = match.groups() if match else ("", "")
    try:
        return int(float(number) * 1000 ** " KMGT".index(unit.upper() or " "))
    except (ValueError, OverflowError):
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


#: Options that several commands share, as :meth:`argparse.ArgumentParser.add_argument` takes them.
SHARED: dict[str, dict[str, Any]] = {
    "--model": {"default": "smollm2", "help": "preset, folder, .gguf file or hub id (default: smollm2)"},
    "--device": {"help": "cpu, cuda, cuda:1, …, or auto to spread a large model (default: a GPU if any)"},
    "--dtype": {"default": "float32", "help": "float32, bfloat16, float16 or float64"},
    "--down-projection": {
        "metavar": "NAME",
        "help": "name of the MLP's down-projection inside a decoder layer, such as mlp.down_proj (default: looked for)",
    },
    "--edits": {
        "type": source,
        "required": True,
        "metavar": "FACTS",
        "help": "facts to edit, with target_new: book, or a .csv or CounterFact .json file",
    },
    "--limit": {"type": int, "metavar": "M", "help": "only the first M facts"},
    "--layer": {"type": int, "metavar": "L", "help": "layer to edit (default: a fifth of the way up)"},
    "--layers": {
        "type": layers,
        "nargs": "+",
        "metavar": "L",
        "help": "layers by index, or from:to with both ends included, such as 0 5:7 -1 (default: all)",
    },
    "--memory": {
        "type": size,
        "metavar": "SIZE",
        "help": "for C of all layers at once, such as 4G; else several passes",
    },
    "--method": {"default": "rome", "metavar": "X"},
    "--protect": {"type": source, "metavar": "FACTS"},
    "--protect-weight": {"type": number, "metavar": "W"},
    "--protect-paraphrases": {
        "action": "store_true",
        "help": "put the protected facts' paraphrases into C, too: else they are spared in the words of their prompts",
    },
    "--text": {
        "type": source,
        "default": "book",
        "metavar": "TEXT",
        "help": "for C: book, a .jsonl or .txt file, or hub:wikitext",
    },
    "--tokens": {
        "type": int,
        "metavar": "N",
        "help": "tokens of it (default: 16 for each dimension of C, or what there is)",
    },
    "--shrinkage": {"type": number, "default": 0.0, "metavar": "X", "help": "of C toward the identity, 0 to 1"},
    "--moment": {
        "type": path,
        "metavar": "FILE.npz",
        "help": "C from the statistics file of ROME's or MEMIT's code for this layer, in place of a text",
    },
    "--seed": {"type": int, "default": 0},
    "--out": {"type": path, "required": True, "metavar": "DIR", "help": "folder of the result"},
}


def share(command: ArgumentParser, *names: str, **changes: dict[str, Any]) -> None:
    """Add the options of a model and others of :data:`SHARED` to a command, with what differs there."""
    for name in ("--model", "--device", "--dtype", "--down-projection", *names):
        command.add_argument(name, **SHARED[name] | changes.get(name[2:].replace("-", "_"), {}))


def of(kind: type, args: Namespace) -> Any:
    """A dataclass of settings from the options that bear its fields' names; the others keep their defaults."""
    given = {field.name: getattr(args, field.name, None) for field in fields(kind)}
    return kind(**{name: value for name, value in given.items() if value is not None})


def model(args: Namespace) -> Source:
    """The model that was asked for."""
    from superposition.lm.models import Source

    return Source(args.model, args.device, args.dtype, args.down_projection)


def plan(args: Namespace) -> Plan:
    """How the edits are made, for ``edit`` and for ``forecast``.

    Raises
    ------
    UserError
        Options that make no sense, or not together.
    """
    from superposition.editing import EditSettings
    from superposition.editing.session import Plan
    from superposition.lm.calibration import Calibration

    if args.moment and (args.tokens or getattr(args, "shrinkage", 0) or args.method == "ft"):
        raise UserError("With --moment no text is read and fine-tuning needs none: leave it or the other out.")
    calibration = args.moment or of(Calibration, args)
    return replace(of(Plan, args), calibration=calibration, write=of(EditSettings, args))
