"""The command line: ``python -m superposition measure | sample | doctor``."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn

from superposition.cli import edit as cli_edit
from superposition.cli import forecast as cli_forecast
from superposition.cli import options as cli_options
from superposition.errors import UserError
from superposition.io import console


class _Parser(argparse.ArgumentParser):
    def parse_args(self, *arguments: Any, **more: Any) -> argparse.Namespace:
        options = super().parse_args(*arguments, **more)
        if [] in vars(options).values():  # argparse takes "--tokens --" for no value, and checks nothing
            self.error("expected a value before --")
        return options

    def error(self, message: str) -> NoReturn:
        super().error(console.readable(console.one_line(message)))


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = _Parser(
        prog="python -m superposition",
        description="Measure how much the facts in a language model overlap.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    measure = commands.add_parser(
        "measure",
        help="superposition of a list of facts at every layer of a model",
        description="One pass over the text gives C, one over the facts gives the keys; P, Q and the cosines of every "
        "layer follow. Writes DIR/measurement.json and DIR/matrices.npz. Interrupted, it goes on where it stopped.",
    )
    _model_options(measure)
    measure.add_argument(
        "--facts",
        type=cli_options.source,
        default="book",
        metavar="FACTS",
        help="book, or a .csv or CounterFact .json file",
    )
    measure.add_argument(
        "--text",
        type=cli_options.source,
        default="book",
        metavar="TEXT",
        help="book, a .jsonl or .txt file, or hub:wikitext",
    )
    measure.add_argument("--tokens", type=int, metavar="N", help="tokens of the text to count (default: all)")
    measure.add_argument("--skip-first", type=int, default=0, metavar="S", help="positions of each text to leave out")
    measure.add_argument("--context", type=int, default=512, metavar="T", help="token length of a text (default: 512)")
    measure.add_argument(
        "--layers",
        type=cli_options.layers,
        nargs="+",
        metavar="L",
        help="layers by index, or from:to with both ends included, such as 0 5:7 -1 (default: all)",
    )
    measure.add_argument("--limit", type=int, metavar="M", help="only the first M facts")
    measure.add_argument("--batch", type=int, metavar="B", help="texts and prompts a forward pass")
    measure.add_argument(
        "--memory",
        type=cli_options.size,
        metavar="SIZE",
        help="for C of all layers at once, such as 4G; else several passes",
    )
    measure.add_argument(
        "--shrinkage",
        type=cli_options.shrinkage,
        default=0.0,
        metavar="X",
        help="of C toward the identity: 0 to 1, or oas",
    )
    measure.add_argument("--centred", action="store_true", help="subtract the mean key in C")
    measure.add_argument("--resamples", type=int, default=1000, metavar="R", help="of the bootstrap (default: 1000)")
    measure.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    measure.add_argument(
        "--compact", type=cli_options.path, metavar="FILE.json", help="also write the book's compact record here"
    )
    measure.add_argument("--out", type=cli_options.path, required=True, metavar="DIR", help="folder of the result")

    sample = commands.add_parser("sample", help="calibration text sampled from a model itself")
    _model_options(sample)
    sample.add_argument("--tokens", type=int, default=120_000, metavar="N")
    sample.add_argument("--length", type=int, default=256, metavar="T", help="tokens of a text at most (default: 256)")
    sample.add_argument("--temperature", type=cli_options.number, default=0.8, metavar="X")
    sample.add_argument("--batch", type=int, default=64, metavar="B", help="texts at once")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--out", type=cli_options.path, required=True, metavar="FILE.jsonl")

    doctor = commands.add_parser("doctor", help="what is installed, what is missing, and what to do about it")
    doctor.add_argument("--quick", action="store_true", help="do not verify checksums")
    cli_edit.add(commands, _model_options)
    cli_forecast.add(commands, _model_options)
    return top


def _model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", default="smollm2", help="preset, folder, .gguf file or hub id (default: smollm2)")
    command.add_argument(
        "--device", help="cpu, cuda, cuda:1, …, or auto to spread a large model (default: a GPU if any)"
    )
    command.add_argument("--dtype", default="float32", help="float32, bfloat16, float16 or float64")
    command.add_argument(
        "--down-projection",
        metavar="NAME",
        help="name of the MLP's down-projection inside a decoder layer, such as mlp.down_proj (default: looked for)",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status.

    It is 0; 1 where ``doctor`` misses something; 2 for an error of the user's; and 128 plus the signal's number when
    interrupted, as a shell has it: 130 by Ctrl-C, 143 when the process is asked to end, 129 when the terminal is
    closed. Interrupted, the process removes its temporary files and keeps what is done.
    """
    console.encodable()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(arguments)
    command = "python -m superposition " + shlex.join(arguments)
    with warnings.catch_warnings(), console.ends_interrupt():
        warnings.simplefilter("always", console.SuperpositionWarning)
        warnings.showwarning = _show_warning
        try:
            run = {"measure": _measure, "sample": _sample, "doctor": _doctor, "edit": _edit, "forecast": _forecast}
            if options.command != "measure" and os.environ.get("WORLD_SIZE", "1") != "1":
                raise UserError(
                    f"Only measure is shared by several processes: run {options.command} without a launcher."
                )
            return run[options.command](options, command)
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
            console.say(f"\nInterrupted. {_left(options)}")
            return 128 + (error.number if isinstance(error, console.Ended) else signal.SIGINT)


def _left(options: argparse.Namespace) -> str:
    """What an interrupted command leaves."""
    if options.command in ("forecast", "doctor"):
        return "Nothing was written."
    if options.command == "edit" and not (options.out / cli_edit.STATE).is_file():
        return "No edit was kept: the same command begins with the first."
    return "Run the same command again: it goes on where it stopped."


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    if issubclass(category, console.SuperpositionWarning) and os.environ.get("RANK", "0") == "0":
        console.say(f"note: {console.one_line(message)}")


def _load(options: argparse.Namespace):
    from superposition.lm import distributed as processes
    from superposition.lm import models

    shared = processes.current(options.device)
    if shared.count > 1 and options.device == "auto":
        raise UserError("Several processes each hold the whole model: start one process for --device auto.")
    if shared.count > 1 and options.device is None:
        options.device = str(shared.device)
    if options.device == "auto":
        where = {"device_map": "auto"}
    else:
        where = {"device": options.device}
    return models.load(options.model, dtype=options.dtype, down_projection=options.down_projection, **where)


def _measure(options: argparse.Namespace, command: str) -> int:
    from superposition import measure, records
    from superposition.data import facts
    from superposition.io import files
    from superposition.lm import distributed as processes
    from superposition.lm import keys, models, moments
    from superposition.lm.calibration import Calibration

    records.check_out(options.out, measure.FILES, command)
    if options.compact:
        files.check_targets(records.targets(options.compact))
    sketch = models.outline(options.model, down_projection=options.down_projection)
    chosen = cli_options.chosen(sketch, options.layers)
    keys.note_first(keys.locate_all(sketch, facts.load(options.facts, limit=options.limit)))
    calibration = Calibration(**{field.name: getattr(options, field.name) for field in fields(Calibration)})
    widest = max(layer.d_m for layer in sketch.select(chosen))
    how = calibration.reading(sketch)
    moments.plan(sketch.tokenizer, options.text, widest, shrinkage=options.shrinkage, **how)
    measurement = measure.measure(
        _load(options),
        options.facts,
        calibration,
        layers=chosen,
        limit=options.limit,
        batch=options.batch,
        memory=options.memory,
        resamples=options.resamples,
        seed=options.seed,
        command=command,
    )
    processes.leave()
    if measurement is None:  # another process has it
        return 0
    measurement.write(options.out)
    if options.compact:
        measurement.write_compact(options.compact)
    data = measurement.data
    print(f"{data['model']['name']}: {data['facts']['count']} facts, C from {data['text']['tokens']:,} tokens")
    print("layer    mean      sd    skew  excess kurtosis  share < 0   cond(C)")
    for row in data["statistics"]:
        p = row["P"]
        print(
            f"{row['layer']:>5} {p['mean']:>7.3f} {p['sd']:>7.3f} {p['skew']:>7.2f} {p['excess_kurtosis']:>16.2f} "
            f"{p['share_below_0']:>10.1%} {row['condition']:>9.1e}"
        )
    print(f"Written: {options.out / 'measurement.json'} and {options.out / 'matrices.npz'}")
    return 0


def _sample(options: argparse.Namespace, command: str) -> int:
    from superposition.io import files
    from superposition.lm import sampling

    if options.out.suffix != ".jsonl":
        raise UserError(f"{options.out} does not end in .jsonl, as a sampled text must to be read: name it so.")
    files.check_targets([options.out])
    total = sampling.sample(
        _load(options),
        options.out,
        tokens=options.tokens,
        seed=options.seed,
        length=options.length,
        temperature=options.temperature,
        batch=options.batch,
    )
    print(f"Written: {options.out}, {total:,} tokens")
    return 0


def _edit(options: argparse.Namespace, command: str) -> int:
    return cli_edit.main(options, command, _load)


def _forecast(options: argparse.Namespace, command: str) -> int:
    return cli_forecast.main(options, command, _load)


def _doctor(options: argparse.Namespace, command: str) -> int:
    from superposition.cli import doctor

    report = doctor.examine(verify=not options.quick)
    print(doctor.describe(report))
    return 0 if all(line.fine for line in report if line.needed) else 1
