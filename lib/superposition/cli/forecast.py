"""The command ``forecast``: who is at risk from which edit, told before anything is changed."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from superposition.cli import options as cli_options
from superposition.errors import UserError
from superposition.io import console

if TYPE_CHECKING:
    from superposition.editing.forecast import Forecast

LEVELS = ("keys", "values", "passes")
RULES = ("rome", "memit", "memit-history", "emmet", "alphaedit", "rls-soft", "rls-hard")


def add(commands: argparse._SubParsersAction, model_options) -> None:
    """Add the command to a parser's subcommands; ``model_options`` adds what every command on a model takes."""
    command = commands.add_parser(
        "forecast",
        help="which facts a list of edits will damage, before anything is edited",
        description="Reads the model and changes nothing. Level keys looks at overlaps only; values also finds each "
        "edit's target value; passes also runs the protected prompts with the drift put in, and gives nats. Writes "
        "DIR/forecast.json, DIR/forecast.csv (a row a fact) and DIR/by_edit.npz (edits by facts).",
    )
    model_options(command)
    command.add_argument(
        "--edits",
        type=cli_options.source,
        required=True,
        metavar="E",
        help="facts to edit, with target_new: book, .csv or .json",
    )
    command.add_argument(
        "--protect",
        type=cli_options.source,
        default="book",
        metavar="F",
        help="facts to protect, with target_true (default: book)",
    )
    command.add_argument("--edit-limit", type=int, metavar="N", help="only the first N edits")
    command.add_argument("--protect-limit", type=int, metavar="M", help="only the first M facts to protect")
    command.add_argument("--layer", type=int, metavar="L", help="layer to edit (default: a fifth of the way up)")
    command.add_argument(
        "--level", choices=LEVELS, default="passes", help="what the forecast may know (default: passes)"
    )
    command.add_argument("--method", choices=RULES, default="rome", help="how the edits are written (default: rome)")
    command.add_argument(
        "--protect-weight",
        type=cli_options.number,
        default=0.0,
        metavar="W",
        help="forecast for `edit --protect`, where the protected facts' keys count W times in C (default: 0)",
    )
    command.add_argument(
        "--text",
        type=cli_options.source,
        default="book",
        metavar="TEXT",
        help="for C: book, a .jsonl or .txt file, or hub:wikitext",
    )
    command.add_argument(
        "--tokens", type=int, metavar="N", help="tokens of it (default: 16 for each dimension of C, or what there is)"
    )
    cli_options.moment(command)
    command.add_argument(
        "--shrinkage", type=cli_options.number, default=0.0, metavar="X", help="of C toward the identity, 0 to 1"
    )
    command.add_argument("--all-facts", action="store_true", help="protect also facts that the model does not know")
    command.add_argument("--out", type=cli_options.path, required=True, metavar="DIR", help="folder of the result")


def main(options: argparse.Namespace, command: str, load) -> int:
    """Run the command; ``load`` gives the model for the options."""
    from superposition import records
    from superposition.data import facts
    from superposition.editing import forecast
    from superposition.io import files, paths
    from superposition.linear import shrinkage
    from superposition.linear.metric import Metric
    from superposition.lm import keys, models, moments, scoring

    records.check_out(options.out, ("forecast.json", "forecast.csv", "by_edit.npz"), command)
    start = time.perf_counter()
    edits = facts.load(options.edits, limit=options.edit_limit)
    lacking = next((fact for fact in edits if not fact.target_new), None)
    if lacking is not None:
        raise UserError(f"The edit {lacking.text!r} has no target_new: say what the model shall answer.")
    named = facts.load_besides(options.protect, edits, limit=options.protect_limit)
    sketch = models.outline(options.model, down_projection=options.down_projection)
    (place,) = sketch.select([len(sketch.layers) // 5 if options.layer is None else options.layer])
    layer = place.index
    keys.note_first(keys.locate_all(sketch, edits))
    stored = moment = None
    if options.moment:
        if options.tokens or options.shrinkage:
            raise UserError("With --moment no text is read: leave --tokens and --shrinkage out.")
        stored = moments.of_rome(options.moment, place.d_m)
    else:
        tokens = moments.plan(
            sketch.tokenizer,
            options.text,
            place.d_m,
            tokens=options.tokens,
            context=min(512, sketch.context_length or 512),
            shrinkage=options.shrinkage,
        )
    model = load(options)
    before = model.digest()
    protect = named if options.all_facts else scoring.known(model, named)
    if not protect:
        raise UserError("The model knows none of the facts to protect: give others, or --all-facts.")
    if stored is None:
        moment = moments.estimate(model, options.text, tokens=tokens, layers=[layer])
        stored = moment.second_moment(layer, shrinkage=options.shrinkage)
    C = Metric(stored)
    if options.protect_weight:
        spared = forecast.read(model, named, layer, passes=False).everywhere()  # all of them, as `edit` does
        C = Metric(shrinkage.protecting(C.moment, spared, options.protect_weight))
    found = forecast.run(model, edits, protect, options.level, layer=layer, C=C, method=options.method)
    after = model.digest()
    found.write(
        options.out,
        model=records.header(model, architecture=False) | {"digest_before": before, "digest_after": after},
        text={"source": options.text, "tokens": moment.tokens, "shrinkage": options.shrinkage} if moment else None,
        moment={"source": str(options.moment), "sha256": files.sha256_of(options.moment)} if options.moment else None,
        protect_weight=options.protect_weight,
        sources={
            name: files.sha256_of(path) if (path := paths.expanded(value)).is_file() else value
            for name, value in (("edits", options.edits), ("protect", options.protect))
        },
        seconds=round(time.perf_counter() - start, 1),
        provenance=records.provenance(command=command, device=model.device),
    )
    if unknown := len(named) - len(protect):
        print(f"{unknown} of {len(named)} facts to protect are left out: the model does not say them now.")
    print(describe(found, model.name))
    print(f"Nothing was changed: the weights' digest is {before[:12]} before and {after[:12]} after.")
    print(f"Written: {options.out / 'forecast.json'}, forecast.csv and by_edit.npz")
    return 0


def describe(found: Forecast, name: str, count: int = 10) -> str:
    """The ten facts most at risk, each with the edit most to blame, as a table; "lost": will not be said any more."""
    from superposition.editing.forecast import UNITS

    head = (
        f"{name}, layer {found.layer}, {found.method}: {len(found.edits)} edits, "
        f"{len(found.protect)} facts to protect\n"
        f"Forecast from {found.level}, in {UNITS[found.level]}: "
        f"mean {found.total.mean():.3f}, most {found.total.max():.3f}"
    )
    if found.lost is not None:
        head += f"; forecast lost: {found.lost.sum()}"
    lines = [head, f"{'risk':>8}  {'':4}  {'fact at risk':<48}  {'of it':>7}  edit most to blame"]
    for j, i in found.endangered(count):
        fact, edit = found.protect[j], found.edits[i]
        lost = "lost" if found.lost is not None and found.lost[j] else ""
        lines.append(
            f"{found.total[j]:>8.3f}  {lost:4}  {_cut(f'{fact.text} {fact.target_true}'):<48}  "
            f"{found.by_edit[i, j]:>7.3f}  {_cut(f'{edit.text} {edit.target_new}')}"
        )
    return "\n".join(lines)


def _cut(text: str, width: int = 48) -> str:
    text = console.plain(text)
    return text if len(text) <= width else text[: width - 1] + "…"
