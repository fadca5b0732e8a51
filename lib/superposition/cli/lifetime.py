"""The command ``lifetime``: how many edits each layer bears, told before any is made."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from superposition.cli import options

if TYPE_CHECKING:
    from superposition.editing.session import LifetimeResult
    from superposition.stats.intervals import Estimate


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser to those of the others."""
    command = commands.add_parser(
        "lifetime",
        help="how many edits each layer bears until a tenth, a quarter, half of what the model knows is lost",
        description="Reads the model and changes nothing. At each layer a few edits are tried, each alone, and the "
        "keys of all are read; what they would write one after another by ROME, with targets found beforehand, is put "
        "in, and the model is asked what it still knows. "
        "Writes DIR/lifetime.json and DIR/lifetime.csv (a row a layer). Interrupted, it goes on where it stopped.",
    )
    options.share(
        command,
        *("--edits", "--layers", "--memory", "--protect", "--text", "--tokens", "--shrinkage", "--out"),
        edits={"required": False, "default": "book", "help": "edits that are planned, or like them (default: book)"},
        protect={"default": "book", "help": "facts with target_true, of which some may be lost (default: book)"},
        layers={"help": options.SHARED["--layers"]["help"].replace("default: all", "default: all but the last")},
        shrinkage={"type": options.shrinkage, "help": "of C toward the identity: 0 to 1, or oas"},
    )
    command.add_argument("--tries", type=int, default=10, metavar="N", help="edits tried at each layer (default: 10)")


def main(args: argparse.Namespace, command: str) -> int:
    """Run the command; return the exit status."""
    from superposition import records
    from superposition.editing import session
    from superposition.lm.calibration import Calibration

    records.check_out(args.out, ("lifetime.json", "lifetime.csv"), command)
    model = options.model(args)
    outcome = session.lifetime(
        model,
        args.edits,
        options.of(Calibration, args),
        layers=options.chosen(model.outline, args.layers),
        protect=args.protect,
        tries=args.tries,
        memory=args.memory,
        command=command,
    )
    outcome.write(args.out)
    print(describe(outcome))
    print(f"Nothing was changed: the weights' digest is {outcome.data['model']['digest'][:12]}, before and after.")
    print(f"Written: {args.out / 'lifetime.json'} and lifetime.csv")
    return 0


def describe(outcome: LifetimeResult) -> str:
    """A table of layers, and which of them to edit."""
    from superposition.editing.lifetime import SHARES, TAKEN, TAKES

    data = outcome.data
    lines = [
        f"{data['model']['name']}: {data['facts']['tried']} edits tried at each layer, each alone; "
        f"{data['protect']['asked']} facts that the model knows and nobody edits",
        "Edits by ROME until a share of them is lost (95 % interval over edits and facts; ∞: over "
        f"{max(outcome.outlooks[0].looks)}):",
        f"{'layer':>5} {'takes':>6} {'c':>5} {'q':>7} {'c²q':>7}" + "".join(f"{f'{s:.0%} lost':>22}" for s in SHARES),
    ]
    for one in outcome.outlooks:
        numbers = "".join(f"{count(one.edits_until(share)):>22}" for share in SHARES)
        lines.append(f"{one.layer:>5} {one.takes:>6.0%} {one.c:>5.2f} {one.q:>7.4f} {one.c**2 * one.q:>7.4f}" + numbers)
    best = outcome.best
    if best is None:
        rare = f"At no layer does the value found make the new object of {TAKES:.0%} of the edits {TAKEN:.0%} likely"
        return "\n".join([*lines, f"{rare}: try other edits."])
    lost = " to ".join(f"{share:.0%}" for share in best.lost_after(outcome.planned)[1:])
    left_out = data["facts"]["count"] - outcome.planned
    after = f"all {outcome.planned} edits of the list"
    if left_out:
        after = f"{outcome.planned} edits of the list (left out: {left_out} about what is asked for)"
    lines.append(
        f"Edit layer {best.layer}: by these numbers it lasts longest of the layers at which the edits take. After "
        f"{after} {lost} of what the model knows would be lost."
    )
    return "\n".join(lines)


def count(ends: Estimate) -> str:
    """``n (low to high)``, rounded to two digits; ∞ is more than was looked at."""
    value, low, high = ("∞" if math.isinf(end) else f"{float(f'{end:.2g}'):,.0f}" for end in ends)
    return f"{value} ({low} to {high})"
