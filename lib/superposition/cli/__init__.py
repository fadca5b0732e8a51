"""The command line, ``superposition COMMAND``. Each command parses, calls the library, and prints."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from superposition import __version__
from superposition.cli import edit, forecast, lifetime, measure, sample
from superposition.errors import UserError
from superposition.io import console

COMMANDS = {"measure": measure, "sample": sample, "edit": edit, "forecast": forecast, "lifetime": lifetime}


class _Parser(argparse.ArgumentParser):
    def parse_args(self, *arguments: Any, **more: Any) -> argparse.Namespace:
        args = super().parse_args(*arguments, **more)
        if [] in vars(args).values():  # argparse takes "--tokens --" for no value, and checks nothing
            self.error("expected a value before --")
        return args

    def error(self, message: str) -> NoReturn:
        super().error(console.readable(console.one_line(message)))


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = _Parser(
        prog="python -m superposition" if Path(sys.argv[0]).name == "__main__.py" else "superposition",
        description="Measure how much the facts in a language model overlap, edit it, and forecast what edits lose.",
    )
    top.add_argument("--version", action="version", version=f"superposition {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS.values():
        module.add(commands)
    doctor = commands.add_parser("doctor", help="what is installed, what is missing, and what to do about it")
    doctor.add_argument("--quick", action="store_true", help="do not verify checksums")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status.

    It is 0; 1 where ``doctor`` misses something; 2 for an error of the user's; and 128 plus the signal's number when
    interrupted, as a shell has it: 130 by Ctrl-C, 143 when the process is asked to end, 129 when the terminal is
    closed. Interrupted, the process removes its temporary files and keeps what is done.
    """
    console.encodable()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    args = parser().parse_args(arguments)
    command = "python -m superposition " + shlex.join(arguments)
    with warnings.catch_warnings(), console.ends_interrupt():
        warnings.simplefilter("always", console.SuperpositionWarning)
        warnings.showwarning = _show_warning
        try:
            if args.command != "measure" and os.environ.get("WORLD_SIZE", "1") != "1":
                raise UserError(f"Only measure is shared by several processes: run {args.command} without a launcher.")
            return _doctor(args) if args.command == "doctor" else COMMANDS[args.command].main(args, command)
        except UserError as error:
            console.say(f"error: {console.one_line(error)}")
            return 2
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not any(
                said in str(error) for said in ("out of memory", "can't allocate memory")
            ):
                raise
            console.say(
                "error: Memory does not suffice: measure with --memory 2G, with fewer --layers, or a smaller --dtype."
            )
            return 2
        except KeyboardInterrupt as error:
            console.say(f"\nInterrupted. {_left(args)}")
            return 128 + (error.number if isinstance(error, console.Ended) else signal.SIGINT)


def _left(args: argparse.Namespace) -> str:
    """What an interrupted command leaves."""
    if args.command in ("forecast", "doctor"):
        return "Nothing was written."
    if args.command == "edit" and not (args.out / edit.STATE).is_file():
        return "No edit was kept: the same command begins with the first."
    return "Run the same command again: it goes on where it stopped."


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    if issubclass(category, console.SuperpositionWarning) and os.environ.get("RANK", "0") == "0":
        console.say(f"note: {console.one_line(message)}")


def _doctor(args: argparse.Namespace) -> int:
    from superposition.cli import doctor  # it loads torch

    report = doctor.examine(verify=not args.quick)
    print(doctor.describe(report))
    return 0 if all(line.fine for line in report if line.needed) else 1
