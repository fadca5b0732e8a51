"""The command ``forecast``: who is at risk from which edit, told before anything is changed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from superposition.cli import options
from superposition.io import console

if TYPE_CHECKING:
    from superposition.editing.forecast import Forecast

# As the library has them, which takes seconds to load.
LEVELS = ("keys", "values", "passes")
RULES = ("rome", "memit", "memit-history", "emmet", "alphaedit", "rls-soft", "rls-hard")


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser to those of the others."""
    command = commands.add_parser(
        "forecast",
        help="which facts a list of edits will damage, before anything is edited",
        description="Reads the model and changes nothing. Level keys sets overlaps over margins; values also finds "
        "each edit's target value; passes also runs the protected prompts with the drift put in, and gives nats. It is "
        "exact for edits made one at a time by `edit --targets beforehand`. Writes "
        "DIR/forecast.json, DIR/forecast.csv (a row a fact) and DIR/by_edit.npz (edits by facts).",
    )
    options.share(
        command,
        *("--edits", "--method", "--layer", "--protect", "--protect-weight", "--protect-paraphrases"),
        *("--text", "--tokens", "--moment", "--shrinkage", "--out"),
        method={"choices": RULES, "metavar": None, "help": "how the edits are written (default: rome)"},
        protect={"default": "book", "help": "facts to protect, with target_true (default: book)"},
        protect_weight={
            "default": 0.0,
            "help": "forecast for `edit --protect`, where the protected facts' keys count W times in C (default: 0)",
        },
    )
    command.add_argument("--edit-limit", type=int, metavar="N", help="only the first N edits")
    command.add_argument("--protect-limit", type=int, metavar="M", help="only the first M facts to protect")
    command.add_argument(
        "--level", choices=LEVELS, default="passes", help="what the forecast may know (default: passes)"
    )
    command.add_argument("--all-facts", action="store_true", help="protect also facts that the model does not know")


def main(args: argparse.Namespace, command: str) -> int:
    """Run the command; return the exit status."""
    from superposition import records
    from superposition.editing import session

    records.check_out(args.out, ("forecast.json", "forecast.csv", "by_edit.npz"), command)
    outcome = session.forecast(
        options.model(args),
        args.edits,
        options.plan(args),
        level=args.level,
        limit=args.edit_limit,
        all_facts=args.all_facts,
        command=command,
    )
    outcome.write(args.out)
    known, model = len(outcome.forecast.protect), outcome.data["model"]
    if outcome.unknown:
        print(
            f"{outcome.unknown} of {outcome.unknown + known} facts to protect are left out: "
            "the model does not say them now."
        )
    print(describe(outcome.forecast, model["name"], outcome.data["expected_lost"]))
    print(cost(outcome.forecast, outcome.data["seconds"]))
    before, after = (model[f"digest_{when}"][:12] for when in ("before", "after"))
    print(f"Nothing was changed: the weights' digest is {before} before and {after} after.")
    print(f"Written: {args.out / 'forecast.json'}, forecast.csv and by_edit.npz")
    return 0


def describe(found: Forecast, name: str, expected: dict[str, Any] | None = None, count: int = 10) -> str:
    """How many facts are forecast to be lost, then the ten most at risk, each with the edit most to blame, as a table.

    Where the margins that facts keep are forecast they stand under "left", and the facts in their order; "lost" marks a
    fact that will not be said any more. ``expected`` is their share, with an interval for what the model
    knows besides.
    """
    from superposition.editing.forecast import UNITS

    m = len(found.protect)
    lines = [f"{name}, layer {found.layer}, {found.method}: {len(found.edits)} edits, {m} facts to protect"]
    if found.lost is not None:
        lines.append(f"Forecast lost: {found.lost.sum()} of them")
    if expected is not None:
        share, low, high = (100 * expected[end] for end in ("share", "low", "high"))
        lines[-1] += f"; if the rest of what the model knows is like them, {share:.0f} % ({low:.0f} to {high:.0f} %)"
    lines += [
        f"Risk from {found.level}, in {UNITS[found.level]}: "
        f"mean {found.total.mean():.3f}, most {found.total.max():.3f}",
        f"{'risk':>8}  {_left(found)}{'':4}  {'fact at risk':<48}  {'of it':>7}  edit most to blame",
    ]
    for j, i in found.endangered(count):
        fact, edit = found.protect[j], found.edits[i]
        lost = "lost" if found.lost is not None and found.lost[j] else ""
        lines.append(
            f"{found.total[j]:>8.3f}  {_left(found, j)}{lost:4}  {_cut(f'{fact.text} {fact.target_true}'):<48}  "
            f"{found.by_edit[i, j]:>7.3f}  {_cut(f'{edit.text} {edit.target_new}')}"
        )
    return "\n".join(lines)


def _left(found: Forecast, j: int | None = None) -> str:
    """A column of the margins that are left, in nats, if they are known: its head, or what it says of fact j."""
    if found.left is None:
        return ""
    return f"{'left' if j is None else format(found.left[j], '.2f'):>6}  "


def cost(found: Forecast, seconds: float) -> str:
    """What the forecast took, and what making the edits to see would."""
    n = len(found.edits)
    if found.level == "keys":
        return f"It took {seconds:.0f} s. Levels values and passes also look for {n} target values."
    return (
        f"It took {seconds:.0f} s. A dry run (`edit` into a folder of its own) looks for the same {n} target values, "
        "one at a time, and is exact; a forecast also says which edit is to blame, and for any part of the list."
    )


def _cut(text: str, width: int = 48) -> str:
    text = console.plain(text)
    return text if len(text) <= width else text[: width - 1] + "…"
