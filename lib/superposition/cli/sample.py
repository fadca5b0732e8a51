"""The command ``sample``: calibration text from a model itself."""

from __future__ import annotations

import argparse

from superposition.cli import options
from superposition.errors import UserError


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser to those of the others."""
    command = commands.add_parser("sample", help="calibration text sampled from a model itself")
    options.share(
        command,
        *("--tokens", "--seed", "--out"),
        tokens={"default": 120_000, "help": None},
        out={"metavar": "FILE.jsonl", "help": None},
    )
    command.add_argument("--length", type=int, default=256, metavar="T", help="tokens of a text at most (default: 256)")
    command.add_argument("--temperature", type=options.number, default=0.8, metavar="X")
    command.add_argument("--batch", type=int, default=64, metavar="B", help="texts at once")


def main(args: argparse.Namespace, command: str) -> int:
    """Run the command; return the exit status."""
    from superposition.io import files
    from superposition.lm import sampling

    if args.out.suffix != ".jsonl":
        raise UserError(f"{args.out} does not end in .jsonl, as a sampled text must to be read: name it so.")
    files.check_targets([args.out])
    total = sampling.sample(
        options.model(args).load(),
        args.out,
        tokens=args.tokens,
        seed=args.seed,
        length=args.length,
        temperature=args.temperature,
        batch=args.batch,
    )
    print(f"Written: {args.out}, {total:,} tokens")
    return 0
