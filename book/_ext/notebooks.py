"""Run chapters where they are, or time them::

python book/_ext/notebooks.py execute book/02-single-edit.ipynb
python book/_ext/notebooks.py time book/*.ipynb --out book/records/run-times.json
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nbformat
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

import forms
import pictures
from superposition import records
from superposition.errors import UserError
from superposition.io import paths
from superposition.io.files import write_whole

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
TRANSIENT = ("execution", "ExecuteTime", "collapsed", "lines_to_next_cell", "papermill", "cell_marker")
SECONDS_A_CELL = 600


def normalise(notebook: Any) -> Any:
    """Give a notebook the metadata and cell ids that are the same on every machine, and pictures that weigh little.

    An id is a hash of the cell's text, so that it changes only when the cell does.
    """
    notebook.metadata = dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        cell["id"] = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        for name in TRANSIENT:
            cell.metadata.pop(name, None)
        if "outputs" in cell:
            cell.outputs = _joined(cell.outputs)
        for output in cell.get("outputs", []):
            if svg := output.get("data", {}).get("image/svg+xml"):
                output["data"]["image/svg+xml"] = pictures.lighten_within(svg)
    return notebook


def _joined(outputs: Sequence[Any]) -> list[Any]:
    """Outputs with neighbouring pieces of one stream in one: where a kernel cuts them is a matter of time."""
    done: list[Any] = []
    for output in outputs:
        if done and output.output_type == done[-1].output_type == "stream" and output.name == done[-1].name:
            done[-1].text += output.text
        else:
            done.append(output)
    return done


def run(path: Path) -> Any:
    """Read a chapter and run it in its folder; the file stays as it is.

    Raises
    ------
    UserError
        If the file is missing or no notebook, or if a cell fails.
    """
    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise UserError(f"{path} is not a notebook: {error}") from error
    settings = {"timeout": SECONDS_A_CELL, "record_timing": False, "kernel_name": "python3"}
    settings["skip_cells_with_tag"] = forms.ANSWER
    folder = {"metadata": {"path": str(path.resolve().parent)}}
    try:
        # late outputs of a busy machine are waited for: by default nbclient drops them after 4 s, without a word
        waits = {"iopub_timeout": SECONDS_A_CELL, "raise_on_iopub_timeout": True}
        with patch.dict(os.environ, TQDM_DISABLE="1"):  # a bar would become part of the page
            return NotebookClient(notebook, resources=folder, **waits, **settings).execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise UserError(f"{path} does not run, since a cell failed.\n{error}") from error


def execute(path: Path) -> None:
    """Run a chapter from top to bottom and write it with its outputs.

    Raises
    ------
    UserError
        As :func:`run`, and if a cell writes to standard error. The notebook is left as it was.
    """
    notebook = run(path)
    for number, cell in enumerate(notebook.cells, start=1):
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise UserError(f"{path} was not written: cell {number} wrote to stderr:\n{output.text}")
    fill([path], {path.stem: notebook})


def repository(config: Path) -> str:
    """The public address of the repository, as the book's settings have it; nothing if they have none."""
    settings = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    return (settings.get("repository") or {}).get("url") or ""


def fill(files: Sequence[Path], run: Mapping[str, Any] | None = None) -> None:
    """Write chapters with every value, number and name of their text filled in (:mod:`forms`), without running them.

    Raises
    ------
    UserError
        If a text asks for what no cell gives. The notebook is left as it was.
    """
    books: dict[Path, forms.Book] = {}
    for path in files:
        if path.parent not in books:
            chapters = {stem: forms.directives(notebook) for stem, notebook in (run or {}).items()}
            books[path.parent] = forms.Book(path.parent, chapters, repository(path.parent.parent / "_config.yml"))
        notebook = normalise(forms.for_readers(path.stem, books[path.parent]))
        write_whole(path, lambda part, notebook=notebook: nbformat.write(notebook, part))


def run_times(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Seconds that each chapter takes: the first time, with no measurement in the cache, and again.

    All chapters share a cache that holds the model's weights and nothing else at first: what one chapter leaves there
    serves the next, as it serves a reader.
    """
    rows, weights = [], paths.cache_dir() / "models"
    with tempfile.TemporaryDirectory() as cache, patch.dict(os.environ, SUPERPOSITION_CACHE=cache):
        if weights.is_dir():
            (Path(cache) / "models").symlink_to(weights)
        for path in files:
            times = [time.perf_counter()]
            for _ in range(2):
                run(path)
                times.append(time.perf_counter())
            first, again = (round(end - start, 1) for start, end in pairwise(times))
            rows.append({"chapter": path.stem, "first": first, "again": again})
            print(rows[-1], file=sys.stderr)
    return rows


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Run chapters where they are, or time them.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("execute", help="run chapters and write them with their outputs")
    commands.add_parser("fill", help="write chapters with the values, numbers and names of their text filled in")
    clock = commands.add_parser("time", help="how long chapters take, as a record")
    clock.add_argument("--out", type=Path, required=True, help="the record to write, NAME.json")
    for command in commands.choices.values():
        command.add_argument("files", nargs="+", type=Path, metavar="FILE", help="book/NN-name.ipynb")
    options = parser.parse_args(words)
    try:
        if options.command == "execute":
            for path in options.files:
                execute(path)
                print(path)
        elif options.command == "fill":
            fill(options.files)
        else:
            rows = run_times(options.files)
            command = f"python book/_ext/notebooks.py time book/*.ipynb --out {options.out}"
            record = {"kind": "run times", "chapters": rows, "provenance": records.provenance(command=command)}
            records.write(options.out, record)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
