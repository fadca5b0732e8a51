"""What is installed here, which models and devices there are, and what to do about what is missing."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from superposition import records
from superposition.errors import UserError
from superposition.io import files, paths
from superposition.lm import gguf


@dataclass(frozen=True)
class Line:
    """One finding: a topic, whether it is fine, what was found, and what to do if it is not fine."""

    topic: str
    fine: bool
    found: str
    todo: str = ""
    needed: bool = True


def examine(*, verify: bool = True) -> list[Line]:
    """Look at packages, models, devices, data, records and the cache.

    Parameters
    ----------
    verify : bool
        Compare the checksums of installed weights, which reads them whole.
    """
    return [*_packages(), *_presets(verify), _device(), *_shipped(), _cache()]


def _packages() -> list[Line]:
    needed = [("torch", True), ("transformers", True), ("accelerate", True), ("gguf", True), ("scipy", True)]
    optional = [("jupyter-book", False), ("nbval", False), ("datasets", False)]
    lines = []
    for name, required in needed + optional:
        try:
            lines.append(Line(name, True, version(name), needed=required))
        except PackageNotFoundError:
            purpose = "" if required else " (needed only for hub texts)" if name == "datasets" else " (for the book)"
            lines.append(Line(name, False, "not installed" + purpose, _install(name), needed=required))
    return lines


def _install(name: str) -> str:
    """The line that installs a package in the range that this library asks for."""
    if paths.made_by_make() and name != "datasets":
        return "make setup"
    found = (re.match(rf"{re.escape(name)}([^;]*)", line) for line in requires("knowledge-in-superposition") or ())
    pip = ".venv/bin/pip" if paths.made_by_make() else "pip"
    return f'{pip} install "{name}{next((match[1].strip() for match in found if match), "")}"'


def _presets(verify: bool) -> list[Line]:
    lines = []
    for name, preset in gguf.PRESETS.items():
        topic = f"model {name}"
        found = []
        for package, filename in preset.parts:
            spec = importlib.util.find_spec(package)
            places = list(spec.submodule_search_locations or []) if spec else []
            found += [path for place in places if (path := Path(place) / filename).is_file()]
        if len(found) < len(preset.parts):
            what = f"{preset.title}: not installed" + (f" (optional; {preset.licence})" if preset.terms else "")
            lines.append(Line(topic, False, what, preset.how(), needed=not preset.terms))
        elif verify and gguf.sha256_joined(found) != preset.sha256:
            lines.append(Line(topic, False, f"{preset.title}: wrong checksum", f"install it again: {preset.install}"))
        else:
            converted = gguf.conversion_dir(preset.sha256).is_dir()
            state = "converted, in the cache" if converted else "installed; the first load converts it (half a minute)"
            lines.append(Line(topic, True, f"{preset.title}, {preset.licence}: {state}"))
    return lines


def _device() -> Line:
    import torch

    threads = f"CPU with {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        return Line("device", True, f"{torch.cuda.get_device_name()} (default), {threads}")
    return Line("device", True, f"{threads}; no GPU found, which is enough for the book")


def _shipped() -> list[Line]:
    from superposition.data import facts

    lines = []
    again = "install the library again" if paths.data_dir().parent.name == "_book" else "git checkout book"
    try:
        lines.append(Line("facts", True, f"{len(facts.load('book'))} facts in the book's table"))
    except UserError as error:
        lines.append(Line("facts", False, str(error), again))
    calibration = paths.data_dir() / "calibration-smollm2.jsonl"
    found = f"{calibration.stat().st_size / 1e6:.1f} MB" if calibration.is_file() else "absent"
    lines.append(Line("text", calibration.is_file(), f"calibration text: {found}", again))
    names = records.names()
    lines.append(Line("records", bool(names), f"{len(names)} in the book", again))
    return lines


def _cache() -> Line:
    folder = paths.cache_dir()
    try:
        files.check_targets([folder / "doctor"])
    except UserError as error:
        return Line("cache", False, str(error), "make it writable, or set SUPERPOSITION_CACHE")
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    where = "SUPERPOSITION_CACHE" if os.environ.get("SUPERPOSITION_CACHE") else "the user's cache folder"
    roomy = free > 2e9
    found = f"{used / 1e9:.1f} GB in {where}, {free / 1e9:.0f} GB free"
    return Line("cache", roomy, found, "free some disk space, or set SUPERPOSITION_CACHE")


def describe(report: list[Line]) -> str:
    """The report as text: a line each, and below what is missing what to do about it."""
    width = max(len(line.topic) for line in report)
    text = []
    for line in report:
        mark = "ok     " if line.fine else "MISSING" if line.needed else "absent "
        text.append(f"{mark}  {line.topic:<{width}}  {line.found}")
        if not line.fine and line.todo:
            text.append(f"         {'':<{width}}  -> {line.todo}")
    return "\n".join(text)
