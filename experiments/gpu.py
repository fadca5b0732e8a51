"""Measurements that need a GPU, in stages, for a machine that is there for half an hour in calls of ten minutes.

    python experiments/gpu.py pack --to PIECES                            # at home: the weights, in pieces
    python experiments/gpu.py run --pieces PIECES --out OUT --minutes 9   # there, as often as it takes
    python experiments/gpu.py bring OUT --to book/records                 # at home: what came back

Every stage writes its record as it goes and takes up where it stopped. ``experiments/README.md`` has the calls.
"""

from __future__ import annotations

import argparse
import ast
import gc
import importlib
import importlib.util
import os
import re
import shlex
import shutil
import sys
import time
import tomllib
import traceback
from collections.abc import Sequence
from dataclasses import fields, replace
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "experiments")]

#: Stages in the order in which they are worth having, and whether each reads the model's weights.
STAGES = {"scale": False, "depth": True, "failure": True, "suite": False}
#: Packages of ``pyproject.toml`` that a run does without; gguf comes with the weights.
NOT_NEEDED = {"gguf", "matplotlib", "platformdirs", "sympy"}
#: Bytes that must be free on the disk, and that the GPU must have for the stage at scale.
DISK, GPU_MEMORY = 4e9, 70e9
#: Bytes of a file that comes home, at most.
HOME = 15 * 2**20


# --- before ---------------------------------------------------------------------------------------------------


def pack(options: argparse.Namespace) -> int:
    """Pack what has to travel: the weights of a preset with what reads them, and what an earlier run left."""
    import travel
    from job import code_of
    from superposition.errors import UserError
    from superposition.lm import gguf

    if options.model not in gguf.PRESETS:
        raise UserError(f"{options.model} is no preset ({', '.join(gguf.PRESETS)}): only their weights are packed.")
    preset = gguf.PRESETS[options.model]
    found = gguf.preset_files(options.model, preset)
    sources = {f"site/{part[0]}/{part[1]}": path for part, path in zip(preset.parts, found, strict=True)}
    for file in distribution("gguf").files or []:
        if (
            file.parts[0] == "gguf" and file.suffix == ".py" and "scripts" not in file.parts
        ) or file.name == "METADATA":
            sources[f"site/{file.as_posix()}"] = Path(str(file.locate()))
    packs = {options.model: sources}
    if options.work is not None:
        left = [path for path in sorted(options.work.rglob("*")) if path.is_file() and _goes_on(path, options.work)]
        packs["work"] = {path.relative_to(options.work).as_posix(): path for path in left}
    for name, sources in packs.items():
        manifest = travel.pack(sources, options.to, name, piece=int(options.piece * 2**20), about=code_of())
        for file, entry in {f"{name}.json": None, **manifest["pieces"]}.items():
            size = (options.to / file).stat().st_size if entry is None else entry["bytes"]
            print(f"{options.to / file}  {size / 2**20:.1f} MiB")
    return 0


def _goes_on(path: Path, work: Path) -> bool:
    """Whether a file of a work folder is one that a stage takes up."""
    return path.suffix in {".json", ".jsonl", ".npz"} and path.relative_to(work).parts[0] not in {"cache", "site"}


def bring(options: argparse.Namespace) -> int:
    """Put the records that came home where the book reads them, and what a next run needs into the work folder."""
    import job
    import travel

    names = job.bring(options.out / "records.zip", options.to)
    if options.work is not None:
        job.bring(options.out / "records.zip", options.work / "records")
        for manifest in sorted(options.out.glob("text-*.json")):
            travel.join(options.out, manifest.stem, options.work)
    print("\n".join(f"{options.to / name}.json" for name in names))
    return 0


# --- there ----------------------------------------------------------------------------------------------------


def lacks(options: argparse.Namespace) -> list[str]:
    """Everything that a run would miss, a sentence each."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = []
    if sys.version_info < _numbers(project["requires-python"]):
        found.append(f"Python {project['requires-python']} is needed, and this is {sys.version.split()[0]}.")
    for needed in project["dependencies"]:
        name = re.match(r"[\w-]+", needed)[0]
        if name in NOT_NEEDED:
            continue
        try:
            if _numbers(version(name)) < _numbers(needed):
                found.append(f"{needed} is needed, and {version(name)} is installed.")
        except PackageNotFoundError:
            found.append(f"{needed} is needed, and is not installed.")
    if any("torch" in one for one in found):
        return found
    import torch

    if options.device.startswith("cuda"):
        if not torch.cuda.is_available():
            found.append("No GPU is seen by torch: look at the driver, or give --device cpu.")
        elif "scale" in options.stages and options.sizes == "full":
            memory = torch.cuda.get_device_properties(options.device).total_memory
            if memory < GPU_MEMORY:
                found.append(
                    f"The stage scale needs {GPU_MEMORY / 1e9:.0f} GB of GPU memory; there are {memory / 1e9:.0f}."
                )
    options.work.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(options.work).free) < DISK:
        found.append(f"{DISK / 1e9:.0f} GB must be free at {options.work}; there are {free / 1e9:.1f}.")
    return found + _weights_lacking(options)


def _numbers(text: str) -> tuple[int, ...]:
    """The first version in a text, as numbers: (2, 11, 0) for ``2.11.0+cu130`` and for ``torch>=2.11.0,<3``."""
    return tuple(int(part) for part in re.search(r"\d+(?:\.\d+)*", text)[0].split("."))


def _weights_lacking(options: argparse.Namespace) -> list[str]:
    import travel
    from superposition.errors import UserError
    from superposition.lm import gguf

    if not any(STAGES[stage] for stage in options.stages) or options.model not in gguf.PRESETS:
        return []
    try:
        gguf.preset_files(options.model, gguf.PRESETS[options.model])
        return []  # they are installed
    except UserError as error:
        if options.pieces is None:
            return [str(error) + " Or give --pieces."]
    try:
        manifest = travel.manifest_of(options.pieces, options.model)
        joined = travel.is_joined(manifest, options.work)
        return [] if joined else travel.missing(options.pieces, options.model)
    except UserError as error:
        return [str(error)]


def unpack(options: argparse.Namespace) -> dict[str, Any]:
    """Join the packs whose pieces are all there, let Python find what they hold, and say what code they come from."""
    import travel

    about: dict[str, Any] = {}
    if options.pieces is not None:
        for path in sorted(options.pieces.glob("*.json")):
            if not travel.missing(options.pieces, path.stem):
                about = travel.join(options.pieces, path.stem, options.work)["about"]
    if (site := options.work / "site").is_dir():
        sys.path.append(str(site))
        importlib.invalidate_caches()
    return about


def agreement(device: Any) -> dict[str, float]:
    """A tiny random model on the device and on the CPU: the largest relative difference of P, target value and W.

    Raises
    ------
    UserError
        They do not agree, so that nothing that this device computes can be trusted.
    """
    import numpy as np
    import torch

    import suite
    from superposition import editing
    from superposition.errors import UserError
    from superposition.linear import overlap
    from superposition.lm import keys, moments

    sizes = replace(suite.TINY, tokens_a_dimension=16)
    corpus = suite.Corpus.make("book", sizes)
    found = []
    lm = suite.build(sizes.models[0], corpus, sizes, torch.device("cpu"))
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter.mul_(10)  # so that keys differ
    for there in (torch.device("cpu"), device):
        lm.model.to(there)
        facts = suite.compared(corpus.world, 6)
        summed = moments.of_windows(lm, corpus.windows(1024, sizes), cache=False, to_cpu=False)
        read = keys.extract(lm, facts, layers=[1])
        P = overlap.superposition_matrix(read[1], summed.metric(1, shrinkage=0.01))
        settings = editing.TargetSettings(steps=2, lr=0.01)
        editor = editing.Editor(lm, 1, "rome", C=summed.second_moment(1, shrinkage=0.01), settings=settings)
        with editing.preserved(lm):
            editor.edit(facts[:3])
        found.append({"P": P, "target": editor.memory.values, "W": editor.memory.W})
    off = {name: float(np.abs(found[0][name] - one).max() / np.abs(one).max()) for name, one in found[1].items()}
    if not max(off.values()) < 1e-3:
        raise UserError(f"This device does not compute what a CPU does (relative differences {off}): do not use it.")
    return off


def run(options: argparse.Namespace) -> int:
    """The stages, one after the other, until they are done or the time is up."""
    began = time.monotonic()
    os.environ.setdefault("SUPERPOSITION_CACHE", str((options.work / "cache").resolve()))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.device.startswith("cuda"):  # sequences are written side by side, each by a thread of its own
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")
    if problems := lacks(options):
        print("\n".join(problems), file=sys.stderr)
        return 2
    about = unpack(options)
    import torch

    from job import Job
    from superposition.errors import UserError

    device = torch.device(options.device)
    folders = {str(options.out): "OUT", str(options.work): "WORK"}  # where they are differs from machine to machine
    command = "python experiments/gpu.py " + shlex.join(folders.get(word, word) for word in options.words)
    job = Job(options.work, device, options.minutes, command, options.out, about, began)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    off = agreement(device)
    job.say(f"{name}, torch {torch.__version__}: agrees with the CPU within {max(off.values()):.0e}")
    texts = {path: path.stat().st_mtime for path in options.work.glob("text-*.jsonl")}
    state: dict[str, str] = {}
    for stage in options.stages:
        module = importlib.import_module(stage)
        sizes = _changed(module.TINY if options.sizes == "tiny" else module.Sizes(), stage, options.change)
        told = {"depth": (options.model, options.facts), "failure": (options.model, options.facts)}
        told |= {"suite": (options.model,)}
        gc.freeze()  # what is there already need not be looked through for garbage before every pass
        try:
            state[stage] = "done" if module.run(job, sizes, *told.get(stage, ())) else "goes on in the next call"
        except UserError as error:
            print(f"{stage}: {error}", file=sys.stderr)
            state[stage] = "broke off"
        except Exception:  # the next stage may do better, and what is written is written
            traceback.print_exc()
            state[stage] = "broke off"
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    travel_home(job, texts)
    for stage, how in state.items():
        job.say(f"{stage}: {how}")
    return 1 if "broke off" in state.values() else 0


def travel_home(job: Any, texts: dict[Path, float]) -> None:
    """Pack texts sampled in this call, all but those given with their dates, into the folder that comes home."""
    import travel

    for path in sorted(job.work.glob("text-*.jsonl")) if job.out is not None else []:
        if texts.get(path) != path.stat().st_mtime:
            travel.pack({path.name: path}, job.out, path.stem, piece=HOME)


def _changed(sizes: Any, stage: str, changes: Sequence[str]) -> Any:
    """Sizes with what ``--set STAGE.NAME=VALUE`` changes."""
    from superposition.errors import UserError

    known = {field.name for field in fields(sizes)}
    new = {}
    for change in changes:
        match = re.fullmatch(r"(\w+)\.(\w+)=(.+)", change)
        if match is None or match[1] not in STAGES:
            raise UserError(f"{change!r} changes nothing: write STAGE.NAME=VALUE, as in failure.edits=500.")
        if match[1] == stage:
            if match[2] not in known:
                raise UserError(f"The stage {stage} has no {match[2]}: choose from {', '.join(sorted(known))}.")
            try:
                new[match[2]] = ast.literal_eval(match[3])
            except (ValueError, SyntaxError):
                new[match[2]] = match[3]
    return replace(sizes, **new)


# --- the command line -----------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The three commands."""
    whole = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = whole.add_subparsers(required=True, metavar="{pack,run,bring}")
    one = commands.add_parser("pack", help="the weights and what an earlier run left, in pieces")
    one.add_argument("--to", type=Path, required=True, metavar="PIECES")
    one.add_argument("--model", default="smollm2", help="a preset; default %(default)s")
    one.add_argument("--work", type=Path, help="also pack what a run left in this folder")
    one.add_argument("--piece", type=float, default=45, metavar="MIB", help="of a piece at most; default %(default)s")
    one.set_defaults(do=pack)
    one = commands.add_parser("run", help="the stages, as far as the time goes")
    one.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    one.add_argument("--minutes", type=float, default=9.0, help="that the run may take; default %(default)s")
    one.add_argument("--pieces", type=Path, help="folder of what was packed")
    one.add_argument("--work", type=Path, default=Path("_build/gpu"), help="what is kept between calls")
    one.add_argument("--out", type=Path, help="folder that comes home")
    one.add_argument("--device", default="cuda")
    one.add_argument("--model", default="smollm2", help="of the stages depth and failure")
    one.add_argument("--facts", default="book", help="of the stages depth and failure")
    one.add_argument("--sizes", choices=["full", "tiny"], default="full", help="tiny: a try on any machine")
    one.add_argument(
        "--set", dest="change", nargs="+", action="extend", default=[], metavar="STAGE.NAME=VALUE", help="other sizes"
    )
    one.set_defaults(do=run)
    one = commands.add_parser("bring", help="the records that came home")
    one.add_argument("out", type=Path, metavar="OUT")
    one.add_argument("--to", type=Path, required=True, metavar="RECORDS")
    one.add_argument("--work", type=Path, help="also put there what a next run goes on from")
    one.set_defaults(do=bring)
    return whole


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; what the user can put right is said in a sentence."""
    words = list(sys.argv[1:] if words is None else words)
    options = parser().parse_args(words)
    options.words = words
    try:
        return options.do(options)
    except ValueError as error:
        from superposition.errors import UserError

        if not isinstance(error, UserError):
            raise
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
