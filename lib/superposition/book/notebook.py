"""What a chapter needs from its notebook: quiet libraries, glued values, and a reproducible file.

Importing this module makes the libraries a chapter uses keep silent (:func:`superposition.io.console.quiet`), since
whatever they write to standard error would become part of the page. :func:`glue` and :func:`glue_math` carry values and
expressions from cells into the prose. ``python -m superposition.book.notebook`` runs chapters in place::

    python -m superposition.book.notebook execute book/02-single-edit.ipynb     # re-run a chapter where it is
    python -m superposition.book.notebook execute drafts/02-single-edit.py      # make book/02-single-edit.ipynb
    python -m superposition.book.notebook text book/02-single-edit.ipynb        # make drafts/02-single-edit.py
    python -m superposition.book.notebook time book/*.ipynb --out book/records/run-times.json
"""

import argparse
import base64
import hashlib
import math
import numbers
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from superposition.errors import UserError
from superposition.io import images, paths
from superposition.io.console import quiet
from superposition.io.files import write_whole

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
CELL_TIMEOUT = 600
TRANSIENT = ("execution", "ExecuteTime", "collapsed", "lines_to_next_cell", "papermill", "cell_marker")


def model_name() -> str:
    """The model that a chapter's live cells measure: ``SUPERPOSITION_MODEL``, or the book's default ``smollm2``."""
    return os.environ.get("SUPERPOSITION_MODEL") or "smollm2"


def table(header, rows):
    """A table below a cell, as Markdown: numbers with two decimals unless they are integers or strings already.

    Parameters
    ----------
    header : sequence of str
    rows : iterable of sequences
        As long as the header.
    """
    from IPython.display import Markdown

    def cell(value) -> str:
        value = plain(value)
        return f"{value:.2f}" if isinstance(value, float) else str(value).replace("|", "\\|")

    lines = [list(map(str, header)), ["---"] * len(list(header)), *([cell(value) for value in row] for row in rows)]
    return Markdown("\n".join("| " + " | ".join(line) + " |" for line in lines))


def plain(value, digits: int = 6):
    """Return `value` as the Python number or string that is to be shown, the same on every machine.

    Parameters
    ----------
    value
        A number, a string, a 0-d array or tensor, a sequence of these, or an object that displays itself.
    digits : int
        Significant digits kept of a float: the last bits differ between machines.

    Returns
    -------
    object
        A ``bool``, ``int``, ``float`` or ``str`` where the value is one; tuples and lists keep their type;
        anything else comes back untouched.
    """
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(plain(v, digits) for v in value)
    if isinstance(value, (str, bool)):
        return value
    if isinstance(value, numbers.Integral) and not hasattr(value, "free_symbols"):
        return int(value)
    if isinstance(value, numbers.Real) and not hasattr(value, "free_symbols"):
        value = float(value)
        return float(f"{value:.{digits}g}") if math.isfinite(value) else value
    return value


def glue(name: str, value, display: bool = False, digits: int = 6) -> None:
    """Carry a value from a cell into the prose, where ``{glue:text}`name:.2f``` shows it.

    Parameters
    ----------
    name : str
        Unique in the chapter.
    value
        Numbers are kept to `digits` significant digits (:func:`plain`), the rest as it displays itself.
    display : bool
        Show the value below the cell as well.
    digits : int
        Significant digits kept of a float.

    Raises
    ------
    UserError
        If the name is empty or holds a colon or a backtick, which the role could not read back.

    Notes
    -----
    Where myst-nb is not installed the chapter still runs: the value is shown if `display` is true, and
    nothing else happens. A glued value is part of the notebook's output and compared when the notebook is
    tested, so glue recorded or exact values; assert live ones.
    """
    if not name or any(character in name for character in ":`\n"):
        raise UserError(f"{name!r} cannot name a glued value: use letters, digits, '-' and '_' (no ':').")
    value = plain(value, digits)
    try:
        from myst_nb import glue as paste
    except ImportError:
        if display:
            from IPython.display import display as show

            show(value)
        return
    paste(name, value, display=display)


def glue_math(name: str, expression, display: bool = False, **options) -> None:
    """Carry an expression into a numbered equation: ``{glue:math} name`` with ``:label: eq-…``.

    Parameters
    ----------
    name : str
        Unique in the chapter.
    expression : sympy expression, equation or matrix, or str
        A string is taken to be LaTeX already, without delimiters.
    display : bool
        Show the equation below the cell as well.
    **options
        Passed to :func:`sympy.latex`, for instance ``mul_symbol`` or ``symbol_names``.
    """
    from IPython.display import Math

    if not isinstance(expression, str):
        from sympy import latex

        expression = latex(expression, **options)
    glue(name, Math(expression), display=display)


def normalise(notebook):
    """Give a notebook the metadata and cell ids that are the same on every machine, and pictures that weigh little.

    An id is a hash of the cell's text, so that it changes only when the cell does; metadata that records when
    or where a notebook ran goes, and so does the text format it came from.
    """
    notebook.metadata = {"kernelspec": dict(KERNEL), "language_info": {"name": "python"}}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        cell["id"] = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        for transient in TRANSIENT:
            cell.metadata.pop(transient, None)
        for output in cell.get("outputs", []):
            if picture := output.get("data", {}).get("image/png"):
                lighter = base64.b64encode(images.lighten(base64.b64decode(picture)))
                output["data"]["image/png"] = lighter.decode() + "\n"
    return notebook


def execute(path, book: Path | None = None, timeout: int = CELL_TIMEOUT) -> Path:
    """Run a chapter from top to bottom and write it with its outputs.

    Parameters
    ----------
    path : path
        ``book/NN-name.ipynb``, run in place; or its text in jupytext's percent format (``.py``), written to
        ``book/NN-name.ipynb``.
    book : path, optional
        The folder of the notebooks, ``book`` beside the folder of a ``.py`` file unless given.
    timeout : int
        Seconds a cell may run.

    Returns
    -------
    Path
        The notebook written.

    Raises
    ------
    UserError
        If the file is missing or no notebook, if a cell fails, or if one writes to standard error. The
        notebook is left as it was.
    """
    import nbformat

    source = Path(path)
    if not source.is_file():
        raise UserError(f"{source} does not exist: name a notebook in book/ or a percent-format .py file.")
    if source.suffix == ".py":
        import jupytext

        notebook = jupytext.read(source, fmt="py:percent")
        target = (book or source.resolve().parent.parent / "book") / f"{source.stem}.ipynb"
    elif source.suffix == ".ipynb":
        try:
            notebook = nbformat.read(source, as_version=4)
        except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
            raise UserError(f"{source} is not a notebook: {error}") from error
        target = source
    else:
        raise UserError(f"{source} is neither a notebook (.ipynb) nor percent-format text (.py).")

    notebook = normalise(notebook)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        _run(notebook, target.parent, timeout)
    except _failures() as error:
        raise UserError(f"{source} was not written, since a cell failed.\n{error}") from error
    for number, cell in enumerate(notebook.cells, start=1):
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise UserError(f"{source} was not written: cell {number} wrote to stderr:\n{output.text}")
    notebook = normalise(notebook)
    write_whole(target, lambda part: nbformat.write(notebook, part))
    return target


def _run(notebook, folder: Path, timeout: int) -> None:
    from nbclient import NotebookClient

    NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name=KERNEL["name"],
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    ).execute()


def _failures() -> tuple[type[Exception], ...]:
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    return CellExecutionError, CellTimeoutError, DeadKernelError


def run_times(files: Sequence[Path], timeout: int = CELL_TIMEOUT) -> list[dict]:
    """Seconds that each chapter takes: the first time, with no measurement in the cache, and again.

    The chapters run one after the other, each twice, with a cache of their own that knows the model's weights and
    nothing else, so that what one chapter leaves there serves the next, as it serves a reader. The files stay as
    they are.

    Raises
    ------
    UserError
        A file is no notebook, or a cell of it fails.
    """
    import nbformat

    rows, theirs = [], os.environ.get("SUPERPOSITION_CACHE")
    weights = paths.cache_dir() / "models"
    with tempfile.TemporaryDirectory() as empty:
        if weights.is_dir():
            (Path(empty) / "models").symlink_to(weights)
        os.environ["SUPERPOSITION_CACHE"] = empty
        try:
            for file in map(Path, files):
                seconds = []
                for _ in range(2):
                    try:
                        notebook = nbformat.read(file, as_version=4)
                        began = time.perf_counter()
                        _run(notebook, file.resolve().parent, timeout)
                    except (OSError, nbformat.reader.NotJSONError, nbformat.ValidationError, *_failures()) as error:
                        raise UserError(f"{file} cannot be timed, since it does not run: {error}") from error
                    seconds.append(round(time.perf_counter() - began, 1))
                rows.append({"chapter": file.stem, "first": seconds[0], "again": seconds[1]})
                print(rows[-1], file=sys.stderr)
        finally:
            if theirs is None:
                del os.environ["SUPERPOSITION_CACHE"]
            else:
                os.environ["SUPERPOSITION_CACHE"] = theirs
    return rows


def to_text(path, drafts: Path | None = None) -> Path:
    """Write a notebook as percent-format text, to be edited and given back to :func:`execute`.

    Parameters
    ----------
    path : path
        ``book/NN-name.ipynb``.
    drafts : path, optional
        Folder of the text, ``drafts`` beside ``book`` unless given.

    Returns
    -------
    Path
        The ``.py`` file written.

    Raises
    ------
    UserError
        If the notebook is missing, or the text is there already and newer than the notebook.
    """
    import jupytext

    source = Path(path)
    if not source.is_file():
        raise UserError(f"{source} does not exist: name a notebook in book/.")
    target = (drafts or source.resolve().parent.parent / "drafts") / f"{source.stem}.py"
    if target.exists() and target.stat().st_mtime > source.stat().st_mtime:
        raise UserError(f"{target} is newer than {source}: execute it, or remove it first.")
    notebook = jupytext.read(source)
    notebook.metadata = {"jupytext": {"notebook_metadata_filter": "-all"}}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.metadata["cell_marker"] = 'r"""'
    text = jupytext.writes(notebook, fmt="py:percent")
    write_whole(target, lambda part: part.write_text(text, encoding="utf-8"))
    return target


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m superposition.book.notebook", description="Run chapters, or turn them into text and back."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("execute", help="run chapters and write them with their outputs")
    run.add_argument("files", nargs="+", metavar="FILE", help="book/NN-name.ipynb, or drafts/NN-name.py")
    run.add_argument("--timeout", type=int, default=CELL_TIMEOUT, help="seconds a cell may run")
    clock = commands.add_parser("time", help="how long chapters take, as a record")
    clock.add_argument("files", nargs="+", metavar="FILE", help="book/NN-name.ipynb")
    clock.add_argument("--out", type=Path, required=True, help="the record to write, NAME.json")
    clock.add_argument("--timeout", type=int, default=CELL_TIMEOUT, help="seconds a cell may run")
    text = commands.add_parser("text", help="write chapters as percent-format text into drafts/")
    text.add_argument("files", nargs="+", metavar="FILE", help="book/NN-name.ipynb")
    options = parser.parse_args(arguments)
    if options.command == "time":
        from superposition import records

        try:
            rows = run_times(options.files, options.timeout)
            command = f"python -m superposition.book.notebook time book/*.ipynb --out {options.out}"
            records.write(
                options.out,
                {"kind": "run times", "chapters": rows, "provenance": records.provenance(command=command)},
            )
        except UserError as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    for file in options.files:
        try:
            done = execute(file, timeout=options.timeout) if options.command == "execute" else to_text(file)
        except UserError as error:
            print(error, file=sys.stderr)
            return 1
        print(done)
    return 0


quiet()

if __name__ == "__main__":
    raise SystemExit(main())
