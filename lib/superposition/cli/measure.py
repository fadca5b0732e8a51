"""The command ``measure``: the superposition of a list of facts at every layer of a model."""

from __future__ import annotations

import argparse

from superposition.cli import options


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser to those of the others."""
    command = commands.add_parser(
        "measure",
        help="superposition of a list of facts at every layer of a model",
        description="One pass over the text gives C, one over the facts gives the keys; P, Q and the cosines of every "
        "layer follow. Writes DIR/measurement.json and DIR/matrices.npz. Interrupted, it goes on where it stopped.",
    )
    options.share(
        command,
        *("--limit", "--layers", "--memory", "--text", "--tokens", "--shrinkage", "--seed", "--out"),
        tokens={"help": "tokens of the text to count (default: all)"},
        shrinkage={"type": options.shrinkage, "help": "of C toward the identity: 0 to 1, or oas"},
        seed={"help": "of the bootstrap (default: 0)"},
    )
    command.add_argument(
        "--facts",
        type=options.source,
        default="book",
        metavar="FACTS",
        help="book, or a .csv or CounterFact .json file",
    )
    command.add_argument("--skip-first", type=int, default=0, metavar="S", help="positions of each text to leave out")
    command.add_argument("--context", type=int, default=512, metavar="T", help="token length of a text (default: 512)")
    command.add_argument("--batch", type=int, metavar="B", help="texts and prompts a forward pass")
    command.add_argument("--centred", action="store_true", help="subtract the mean key in C")
    command.add_argument("--resamples", type=int, default=1000, metavar="R", help="of the bootstrap (default: 1000)")
    command.add_argument(
        "--compact", type=options.path, metavar="FILE.json", help="also write the book's compact record here"
    )


def main(args: argparse.Namespace, command: str) -> int:
    """Run the command; return the exit status."""
    from superposition import measure, records
    from superposition.io import files
    from superposition.lm import distributed as processes
    from superposition.lm.calibration import Calibration

    records.check_out(args.out, measure.FILES, command)
    if args.compact:
        files.check_targets(records.targets(args.compact))
    model = options.model(args)
    measurement = measure.measure(
        model,
        args.facts,
        options.of(Calibration, args),
        layers=options.chosen(model.outline, args.layers),
        limit=args.limit,
        batch=args.batch,
        memory=args.memory,
        resamples=args.resamples,
        seed=args.seed,
        command=command,
    )
    processes.leave()
    if measurement is None:  # another process has it
        return 0
    measurement.write(args.out)
    if args.compact:
        measurement.write_compact(args.compact)
    data = measurement.data
    print(f"{data['model']['name']}: {data['facts']['count']} facts, C from {data['text']['tokens']:,} tokens")
    print("layer    mean      sd    skew  excess kurtosis  share < 0   cond(C)")
    for row in data["statistics"]:
        p = row["P"]
        print(
            f"{row['layer']:>5} {p['mean']:>7.3f} {p['sd']:>7.3f} {p['skew']:>7.2f} {p['excess_kurtosis']:>16.2f} "
            f"{p['share_below_0']:>10.1%} {row['condition']:>9.1e}"
        )
    print(f"Written: {args.out / 'measurement.json'} and {args.out / 'matrices.npz'}")
    return 0
