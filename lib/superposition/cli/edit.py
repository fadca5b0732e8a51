"""The command ``edit``: edit a model fact by fact, look at the result, and save the edited model.

Chapter ``15-editing-a-model``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from superposition.cli import options

#: Where the edits made so far are kept, in the folder of the result.
STATE = "state.safetensors"
TARGETS = ("anew", "beforehand")  # as the library has them, which takes seconds to load


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser to those of the others."""
    command = commands.add_parser(
        "edit",
        help="edit a model, evaluate it, and save it",
        description="Makes the edits one step after another, each step's target values found on the model as edited so "
        "far, or with --targets beforehand on the unedited one. "
        "Writes DIR/edit.json (what came of it) and DIR/model (safetensors and tokenizer, as transformers loads them). "
        "Interrupted, it goes on where it stopped.",
    )
    options.share(
        command,
        *("--edits", "--limit", "--method", "--layer", "--protect", "--protect-weight", "--protect-paraphrases"),
        *("--text", "--tokens", "--moment", "--out"),
        method={"help": "rome, memit, memit-history, emmet, alphaedit, …"},
        protect={"help": "facts to spare: their keys are put into C, and they are asked"},
        protect_weight={"default": 10.0, "help": "how much they count (default: 10)"},
    )
    command.add_argument(
        "--targets",
        choices=TARGETS,
        default=TARGETS[0],
        help="look for target values on the model as edited so far (default), or on the unedited one: of edits "
        "made one at a time `forecast` is then exact",
    )
    command.add_argument("--batch", type=int, default=1, metavar="B", help="edits a step (default: 1)")
    command.add_argument(
        "--watch",
        type=options.source,
        metavar="FACTS",
        help="facts that are not edited, to be asked before and after",
    )
    command.add_argument(
        "--text-weight", type=options.number, metavar="W", help="of memit: λ a dimension (see the library)"
    )
    command.add_argument(
        "--protected-share",
        type=options.number,
        metavar="S",
        dest="protected",
        help="of alphaedit: share of C that is left alone",
    )
    command.add_argument(
        "--ft-norm", type=options.number, metavar="E", help="of ft: bound on the change of each weight"
    )


def main(args: argparse.Namespace, command: str) -> int:
    """Run the command; return the exit status."""
    from superposition import records
    from superposition.editing import session

    records.check_out(args.out, ("edit.json", STATE, "model/model.safetensors"), command)
    outcome = session.edit(
        options.model(args),
        args.edits,
        options.plan(args),
        limit=args.limit,
        batch=args.batch,
        watch=args.watch,
        state=args.out / STATE,
        command=command,
    )
    outcome.write(args.out)
    _tell(outcome.data, args.out)
    return 0


def _tell(record: dict[str, Any], out: Path) -> None:
    print(
        f"{record['model']['name']}, layer {record['layer']}: {record['facts']['count']} edits by {record['method']}, "
        f"{record['seconds']['edits'] / record['facts']['count']:.1f} s each; the matrix moved by {record['drift']:.1%}"
    )
    print("                                         before   after")
    for name, words in (
        ("success", "new object above the true one"),
        ("exact", "new object is the answer"),
        ("paraphrase_success", "… above the true one in paraphrases"),
        ("paraphrase_exact", "… is the answer in paraphrases"),
        ("neighbourhood_exact", "neighbours still answered right"),
    ):
        shares = [record[when][name]["share"] for when in ("before", "after")]
        if None not in shares:
            print(f"{words:<40} {shares[0]:>6.0%}  {shares[1]:>6.0%}")
    for name, words in (("watched", "watched facts answered right"), ("protect", "protected facts answered right")):
        if name in record:
            shares = [record[name][when]["exact"]["share"] for when in ("before", "after")]
            print(f"{words:<40} {shares[0]:>6.0%}  {shares[1]:>6.0%}")
    print(f"Written: {out / 'edit.json'} and {out / 'model'}")
