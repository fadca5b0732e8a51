"""Glued values look the same everywhere, chapters run reproducibly, and a failing one changes nothing."""

import json
import os
import subprocess
import sys

import jupytext
import nbformat
import numpy as np
import pytest
import sympy
import torch
from myst_nb.core.variables import format_plain_text
from myst_nb.ext.glue import GLUE_PREFIX

from superposition.book import notebook
from superposition.errors import UserError


@pytest.fixture
def shown(monkeypatch):
    """What cells hand to the front end, instead of a notebook."""
    calls = []
    monkeypatch.setattr(
        "myst_nb.ext.glue.ipy_display",
        lambda data, raw, metadata: calls.append((data, metadata)),
    )
    return calls


@pytest.mark.parametrize(
    ("value", "spec", "page"),
    [
        (np.float64(0.0123456789), ".3f", "0.012"),
        (np.float32(2.5), ".1f", "2.5"),
        (torch.tensor(0.25), ".2f", "0.25"),
        (np.array(3.0), ".0f", "3"),
        (np.int64(8128), ",d", "8,128"),
        (1 / 3, ".4f", "0.3333"),
        (0.1234, ".1%", "12.3%"),
        ("Paris", "s", "Paris"),
        (sympy.Integer(7), "s", "7"),
        (True, "s", "True"),
    ],
)
def test_a_glued_value_reaches_the_page(shown, value, spec, page):
    notebook.glue("x", value)
    [(data, metadata)] = shown
    assert metadata["scrapbook"]["name"] == "x"
    assert format_plain_text(data[GLUE_PREFIX + "text/plain"], spec) == page


def test_floats_keep_only_the_digits_that_machines_agree_on(shown):
    notebook.glue("a", 0.1 + 0.2)
    notebook.glue("b", 0.3)
    notebook.glue("c", 0.123456789, digits=8)
    texts = [data[GLUE_PREFIX + "text/plain"] for data, _ in shown]
    assert texts == ["0.3", "0.3", "0.12345679"]


def test_plain_keeps_what_it_does_not_know():
    frame = object()
    assert notebook.plain(frame) is frame
    assert notebook.plain((np.float64(1 / 3), "a", np.int32(2))) == (0.333333, "a", 2)
    assert notebook.plain(float("inf")) == float("inf")
    assert np.isnan(notebook.plain(np.nan))
    x = sympy.Rational(1, 3)
    assert notebook.plain(x) is x


def test_math_is_glued_as_latex(shown):
    k, c = sympy.symbols("k_e C")
    notebook.glue_math("leverage", sympy.Eq(sympy.Symbol("h"), k**2 / c))
    notebook.glue_math("given", r"\hat W")
    latex = [data[GLUE_PREFIX + "text/latex"] for data, _ in shown]
    assert latex == [r"$\displaystyle h = \frac{k_{e}^{2}}{C}$", r"$\displaystyle \hat W$"]


def test_without_myst_nb_a_chapter_still_runs(monkeypatch):
    displayed = []
    monkeypatch.setitem(sys.modules, "myst_nb", None)
    monkeypatch.setattr("IPython.display.display", displayed.append)
    notebook.glue("x", np.float64(1 / 3))
    assert displayed == []
    notebook.glue("x", np.float64(1 / 3), display=True)
    assert displayed == [0.333333]


@pytest.mark.parametrize("name", ["", "a:b", "a`b", "a\nb"])
def test_a_name_that_the_role_cannot_read_is_refused(name):
    with pytest.raises(UserError, match="cannot name a glued value"):
        notebook.glue(name, 1)


def test_importing_makes_the_libraries_quiet():
    program = (
        "import superposition.book.notebook, os, json; from transformers.utils import logging;"
        "from tqdm import tqdm;"
        "list(tqdm(range(3))); print(json.dumps([logging.get_verbosity() == logging.ERROR,"
        "logging.is_progress_bar_enabled(), os.environ['HF_HUB_DISABLE_PROGRESS_BARS']]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [True, False, "1"]
    assert done.stderr == ""


def test_what_is_set_already_wins(monkeypatch):
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    notebook.quiet()
    assert notebook.os.environ["TRANSFORMERS_VERBOSITY"] == "info"


def write_text(folder, *cells):
    folder.mkdir(exist_ok=True)
    path = folder / "77-probe.py"
    path.write_text('# %% [markdown]\nr"""\n# Title\n"""\n' + "".join(f"\n# %%\n{cell}\n" for cell in cells))
    return path


def test_a_chapter_is_made_from_text_and_back_the_same_on_every_run(tmp_path):
    source = write_text(tmp_path / "drafts", "import os\nprint(os.path.basename(os.getcwd()))", "1 + 1", "1 + 1")
    target = notebook.execute(source)
    assert target == tmp_path / "book" / "77-probe.ipynb"
    first = target.read_bytes()
    made = nbformat.reads(first.decode(), as_version=4)
    nbformat.validate(made)
    assert made.metadata == {"kernelspec": notebook.KERNEL, "language_info": {"name": "python"}}
    assert [cell.get("execution_count") for cell in made.cells] == [None, 1, 2, 3]
    assert made.cells[1].outputs[0].text == "book\n"
    assert all(cell.metadata == {} for cell in made.cells)
    assert len({cell.id for cell in made.cells}) == 4
    notebook.execute(target)
    assert target.read_bytes() == first

    source.unlink()
    assert notebook.to_text(target) == source
    again = jupytext.read(source)
    assert [cell.source for cell in again.cells] == [cell.source for cell in made.cells]
    with pytest.raises(UserError, match="is newer than"):
        notebook.to_text(target)


@pytest.mark.parametrize(
    ("cell", "message"),
    [("1 / 0", "ZeroDivisionError"), ("import sys; print('x', file=sys.stderr)", "cell 2 wrote to stderr")],
)
def test_a_failing_chapter_leaves_the_notebook_as_it_was(tmp_path, capsys, cell, message):
    source = write_text(tmp_path / "drafts", cell)
    target = tmp_path / "book" / "77-probe.ipynb"
    target.parent.mkdir()
    target.write_text("before")
    assert notebook.main(["execute", str(source)]) == 1
    assert message in capsys.readouterr().err
    assert target.read_text() == "before"
    assert [path.name for path in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.ipynb", None, "does not exist"),
        ("broken.ipynb", "{", "is not a notebook"),
        ("page.md", "# Page", "neither a notebook"),
    ],
)
def test_bad_files_are_named(tmp_path, capsys, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    assert notebook.main(["execute", str(path)]) == 1
    assert message in capsys.readouterr().err


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
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), chapter)
    before = chapter.read_bytes()
    assert notebook.main(["time", str(chapter), "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    [row] = record["chapters"]
    assert log.read_text() == "first again "
    assert row["chapter"] == "a" and row["first"] > 0 and row["again"] > 0 and "versions" in record["provenance"]
    assert chapter.read_bytes() == before and [path.name for path in (tmp_path / "cache").iterdir()] == ["before"]
    assert os.environ["SUPERPOSITION_CACHE"] == str(tmp_path / "cache")


def test_a_chapter_that_cannot_be_timed_is_named(tmp_path, capsys):
    chapter = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")]), chapter)
    assert notebook.main(["time", str(chapter), "--out", str(tmp_path / "times.json")]) == 1
    assert "a.ipynb cannot be timed" in capsys.readouterr().err
    assert not (tmp_path / "times.json").exists()
