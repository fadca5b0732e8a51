"""The command ``edit``: edit a model fact by fact, look at the result, and save the edited model.

Chapter ``15-editing-a-model``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from superposition.cli import options as cli_options
from superposition.errors import UserError
from superposition.io import files

if TYPE_CHECKING:
    from superposition.lm.models import LanguageModel


#: Where the edits made so far are kept, in the folder of the result.
STATE = "state.safetensors"


def add(commands: Any, model_options: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the command's parser to those of the others."""
    edit = commands.add_parser(
        "edit",
        help="edit a model, evaluate it, and save it",
        description="Makes the edits one step after another, each step's target values on the model as edited so far. "
        "Writes DIR/edit.json (what came of it) and DIR/model (safetensors and tokenizer, as transformers loads them). "
        "Interrupted, it goes on where it stopped.",
    )
    model_options(edit)
    edit.add_argument(
        "--edits",
        type=cli_options.source,
        required=True,
        metavar="FACTS",
        help="book, or a .csv or CounterFact .json file",
    )
    edit.add_argument("--method", default="rome", metavar="X", help="rome, memit, memit-history, emmet, alphaedit, …")
    edit.add_argument("--layer", type=int, metavar="L", help="which layer (default: a fifth of the way up)")
    edit.add_argument("--limit", type=int, metavar="M", help="only the first M facts")
    edit.add_argument("--batch", type=int, default=1, metavar="B", help="edits a step (default: 1)")
    edit.add_argument(
        "--watch",
        type=cli_options.source,
        metavar="FACTS",
        help="facts that are not edited, to be asked before and after",
    )
    edit.add_argument(
        "--protect",
        type=cli_options.source,
        metavar="FACTS",
        help="facts to spare: their keys are put into C, and they are asked",
    )
    edit.add_argument(
        "--protect-weight", type=cli_options.number, default=10.0, metavar="W", help="how much they count (default: 10)"
    )
    edit.add_argument(
        "--text",
        type=cli_options.source,
        default="book",
        metavar="TEXT",
        help="text for C: book, a file, or hub:wikitext",
    )
    edit.add_argument(
        "--tokens", type=int, metavar="N", help="tokens of it (default: 16 for each dimension of C, or what there is)"
    )
    cli_options.moment(edit)
    edit.add_argument(
        "--text-weight", type=cli_options.number, metavar="W", help="of memit: λ a dimension (see the library)"
    )
    edit.add_argument(
        "--protected-share",
        type=cli_options.number,
        metavar="S",
        dest="protected",
        help="of alphaedit: share of C that is left alone",
    )
    edit.add_argument(
        "--ft-norm", type=cli_options.number, metavar="E", help="of ft: bound on the change of each weight"
    )
    edit.add_argument("--out", type=cli_options.path, required=True, metavar="DIR", help="folder of the result")


def main(options: argparse.Namespace, command: str, load: Callable[[argparse.Namespace], LanguageModel]) -> int:
    """Run the command; return the exit status."""
    from superposition import editing, records
    from superposition.data import facts, text
    from superposition.editing import evaluation, forecast
    from superposition.linear import shrinkage
    from superposition.linear.metric import Metric
    from superposition.lm import keys, models, moments

    records.check_out(options.out, ("edit.json", STATE, "model/model.safetensors"), command)
    edits = facts.load(options.edits, limit=options.limit)
    without = [fact for fact in edits if fact.target_new is None]
    if without:
        raise UserError(
            f"{len(without)} of the {len(edits)} edits have no target_new, the first {without[0].text!r}: "
            "add that column to say what the model shall answer."
        )
    if options.method not in editing.METHODS:
        raise UserError(f"There is no method {options.method!r}: choose from {', '.join(editing.METHODS)}.")
    changes = {name: getattr(options, name) for name in ("text_weight", "protected", "ft_norm")}
    write = replace(editing.EditSettings(), **{name: one for name, one in changes.items() if one is not None})
    watched = facts.load(options.watch) if options.watch else []
    protect = facts.load_besides(options.protect, edits) if options.protect else []
    if options.moment and (options.tokens or options.method == "ft"):
        raise UserError("With --moment no text is read and fine-tuning needs none: leave it or the other out.")
    if protect and options.method == "ft":
        raise UserError("Fine-tuning has no C to put facts into: choose another --method, or leave --protect out.")
    sketch = models.outline(options.model, down_projection=options.down_projection)
    (layer,) = sketch.select([len(sketch.layers) // 5 if options.layer is None else options.layer])
    keys.note_first(keys.locate_all(sketch, edits))
    tokens = stored = None
    if options.moment:
        stored = moments.of_rome(options.moment, layer.d_m)
    elif options.method != "ft":
        context = min(512, sketch.context_length or 512)
        tokens = moments.plan(sketch.tokenizer, options.text, layer.d_m, tokens=options.tokens, context=context)
    model = load(options)
    (layer,) = model.select([layer.index])
    summed, C = None, stored
    if options.method != "ft":
        if stored is None:
            summed = moments.estimate(model, options.text, tokens=tokens, layers=[layer.index])
            C = summed.second_moment(layer.index)
        C = Metric(C)
        if protect:
            spared = forecast.read(model, protect, layer.index, passes=False).everywhere()
            C = Metric(shrinkage.protecting(C.moment, spared, options.protect_weight))
    before = evaluation.evaluate(model, edits)
    asked = {"watched": (options.watch, watched), "protect": (options.protect, protect)}
    untouched = {name: evaluation.untouched(model, listed) for name, (_, listed) in asked.items() if listed}
    state = options.out / STATE
    done = editing.run(
        model, edits, options.method, layer=layer.index, C=C, batch=options.batch, write=write, state=state
    )
    after = evaluation.evaluate(model, edits)
    record = {
        "kind": "edit",
        "model": records.header(model),
        "edited_digest": model.digest(),
        "facts": {"source": str(options.edits), "sha256": facts.fingerprint(options.edits), "count": len(edits)},
        "text": {"source": str(options.text), "sha256": text.fingerprint(options.text), "tokens": summed.tokens}
        if summed
        else None,
        "moment": {"source": str(options.moment), "sha256": files.sha256_of(options.moment)}
        if options.moment
        else None,
        "layer": layer.index,
        "method": options.method,
        "batch": options.batch,
        "dtype": records.dtype(model),
        "settings": editing.TargetSettings().as_dict(),
        "write": asdict(write),
        "drift": done.editor.drift(),
        "before": before,
        "after": after,
        "edits": [
            {"subject": fact.subject, "prompt": fact.text, "target_new": fact.target_new} | row
            for fact, row in zip(edits, done.editor.log, strict=True)
        ],
        "seconds": {"edits": round(done.seconds, 2)},
        "provenance": records.provenance(command=command, device=model.device),
    }
    for name, found in untouched.items():
        source, listed = asked[name]
        record[name] = {
            "source": str(source),
            "sha256": facts.fingerprint(source),
            "count": len(listed),
            "before": found,
            "after": evaluation.untouched(model, listed, found["log_true"]),
        }
    if protect:
        record["protect"] |= {"weight": options.protect_weight, "positions": spared.shape[1]}
    models.save(model, options.out / "model")
    records.write(options.out / "edit.json", record)
    state.unlink(missing_ok=True)
    _tell(record, options.out)
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
