"""Chapters run reproducibly where they are, a failing one changes nothing, and timing leaves no trace."""

import copy
import json
import os
from pathlib import Path

import nbformat
import pytest

import forms
import notebooks

BOOK = Path(__file__).parents[1] / "book"


def write(path, *cells):
    v4 = nbformat.v4
    title = v4.new_markdown_cell("# Title")
    nbformat.write(v4.new_notebook(cells=[title, *map(v4.new_code_cell, cells)]), path)
    return path


def test_a_chapter_is_the_same_after_every_run(tmp_path):
    path = write(tmp_path / "77-probe.ipynb", "import os\nprint(os.path.basename(os.getcwd()))", "1 + 1", "1 + 1")
    assert notebooks.main(["execute", str(path)]) == 0
    first = path.read_bytes()
    made = nbformat.reads(first.decode(), as_version=4)
    nbformat.validate(made)
    assert made.metadata == notebooks.METADATA
    assert [cell.get("execution_count") for cell in made.cells] == [None, 1, 2, 3]
    assert made.cells[1].outputs[0].text == f"{tmp_path.name}\n"
    assert all(cell.metadata == {} for cell in made.cells)
    assert len({cell.id for cell in made.cells}) == 4
    notebooks.execute(path)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("cell", "message"),
    [("1 / 0", "ZeroDivisionError"), ("import sys; print('x', file=sys.stderr)", "cell 2 wrote to stderr")],
)
def test_a_failing_chapter_leaves_the_notebook_as_it_was(tmp_path, capsys, cell, message):
    path = write(tmp_path / "77-probe.ipynb", cell)
    before = path.read_bytes()
    assert notebooks.main(["execute", str(path)]) == 1
    assert message in capsys.readouterr().err
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [None, "{", "# Page"])
def test_a_file_that_is_no_notebook_is_named(tmp_path, capsys, content):
    path = tmp_path / "broken.ipynb"
    if content is not None:
        path.write_text(content)
    assert notebooks.main(["execute", str(path)]) == 1
    assert f"{path} is not a notebook" in capsys.readouterr().err


def test_chapters_are_timed_without_a_cache_and_with_it_and_left_as_they_are(tmp_path, monkeypatch):
    log = tmp_path / "log"
    code = (
        "from superposition.io import paths\nkept = paths.cache_dir() / 'kept'\n"
        "assert not (paths.cache_dir() / 'before').exists()\n"
        f"with open({str(log)!r}, 'a') as log:\n    log.write('again ' if kept.exists() else 'first ')\nkept.touch()"
    )
    monkeypatch.setenv("SUPERPOSITION_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "before").touch()
    chapter, out = tmp_path / "a.ipynb", tmp_path / "times.json"
    write(chapter, code)
    before = chapter.read_bytes()
    assert notebooks.main(["time", str(chapter), "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    [row] = record["chapters"]
    assert log.read_text() == "first again "
    assert row["chapter"] == "a" and row["first"] > 0 and row["again"] > 0 and "versions" in record["provenance"]
    assert chapter.read_bytes() == before and [path.name for path in (tmp_path / "cache").iterdir()] == ["before"]
    assert os.environ["SUPERPOSITION_CACHE"] == str(tmp_path / "cache")


def test_a_chapter_that_cannot_be_timed_is_named(tmp_path, capsys):
    chapter = tmp_path / "a.ipynb"
    write(chapter, "1 / 0")
    assert notebooks.main(["time", str(chapter), "--out", str(tmp_path / "times.json")]) == 1
    assert "a.ipynb does not run, since a cell failed" in capsys.readouterr().err
    assert not (tmp_path / "times.json").exists()


def test_pieces_of_one_stream_are_joined_and_others_stay_apart():
    v4 = nbformat.v4
    shown = v4.new_output("execute_result", {"text/plain": "1"}, execution_count=1)
    pieces = [v4.new_output("stream", name=name, text=text) for name, text in (("stdout", "a\n"), ("stdout", "b\n"))]
    error = v4.new_output("stream", name="stderr", text="c\n")
    cell = v4.new_code_cell("x", outputs=[*pieces, error, shown, copy.deepcopy(pieces[0])])
    (made,) = notebooks.normalise(v4.new_notebook(cells=[cell])).cells
    assert [output.get("text") for output in made.outputs] == ["a\nb\n", "c\n", None, "a\n"]


def texts(outputs) -> list[str]:
    """What outputs say: pictures and the numbers of cells left out."""
    found = []
    for output in outputs:
        data = output.get("data", {})
        found.append(output.get("text") or data.get("text/markdown") or data.get("text/latex") or "")
        found[-1] = found[-1] or ("" if "image/svg+xml" in data else data.get("text/plain", ""))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(BOOK.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_cell_that_is_run_twice_says_the_same(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if forms.ANSWER not in cell.metadata.get("tags", [])]
    written = [texts(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
    twice = [copy.deepcopy(cell) for cell in notebook.cells if cell.cell_type == "code" for _ in range(2)]
    notebook.cells = twice
    nbformat.write(notebooks.normalise(notebook), tmp_path / path.name)
    run = notebooks.normalise(notebooks.run(tmp_path / path.name))
    said = [texts(cell.outputs) for cell in run.cells]
    assert said[::2] == written
    assert said[1::2] == written
