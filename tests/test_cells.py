"""Glued values look the same everywhere, and a chapter's libraries keep silent."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import sympy
import torch
from myst_nb.core.variables import format_plain_text
from myst_nb.ext.glue import GLUE_PREFIX

from superposition.book import cells
from superposition.errors import UserError
from superposition.stats.intervals import Estimate


@pytest.fixture
def shown(monkeypatch):
    """What cells hand to the front end, instead of a cells."""
    calls = []
    monkeypatch.setattr("myst_nb.ext.glue.ipy_display", lambda data, raw, metadata: calls.append((data, metadata)))
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
    cells.glue("x", value)
    [(data, metadata)] = shown
    assert metadata["scrapbook"]["name"] == "x"
    assert format_plain_text(data[GLUE_PREFIX + "text/plain"], spec) == page


def test_floats_keep_only_the_digits_that_machines_agree_on(shown):
    cells.glue("a", 0.1 + 0.2)
    cells.glue("b", 0.3)
    cells.glue("c", 0.123456789, digits=8)
    texts = [data[GLUE_PREFIX + "text/plain"] for data, _ in shown]
    assert texts == ["0.3", "0.3", "0.12345679"]


def test_plain_keeps_what_it_does_not_know():
    frame = object()
    assert cells.plain(frame) is frame
    assert cells.plain((np.float64(1 / 3), "a", np.int32(2))) == (0.333333, "a", 2)
    assert cells.plain(float("inf")) == float("inf")
    assert np.isnan(cells.plain(np.nan))
    x = sympy.Rational(1, 3)
    assert cells.plain(x) is x


def test_math_is_glued_as_latex(shown):
    k, c = sympy.symbols("k_e C")
    cells.glue_math("leverage", sympy.Eq(sympy.Symbol("h"), k**2 / c))
    cells.glue_math("given", r"\hat W")
    latex = [data[GLUE_PREFIX + "text/latex"] for data, _ in shown]
    assert latex == [r"$\displaystyle h = \frac{k_{e}^{2}}{C}$", r"$\displaystyle \hat W$"]


def test_without_myst_nb_a_chapter_still_runs(monkeypatch):
    displayed = []
    monkeypatch.setitem(sys.modules, "myst_nb", None)
    monkeypatch.setattr("IPython.display.display", displayed.append)
    cells.glue("x", np.float64(1 / 3))
    assert displayed == []
    cells.glue("x", np.float64(1 / 3), display=True)
    assert displayed == [0.333333]


def test_what_the_environment_names_wins(monkeypatch):
    monkeypatch.delenv("SUPERPOSITION_MODEL", raising=False)
    assert cells.model_name() == "smollm2"
    monkeypatch.setenv("SUPERPOSITION_MODEL", "gemma3")
    assert cells.model_name() == "gemma3"
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    cells.quiet()
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "info"


@pytest.mark.parametrize("name", ["", "a:b", "a`b", "a\nb"])
def test_a_name_that_the_role_cannot_read_is_refused(name):
    with pytest.raises(UserError, match="cannot name a glued value"):
        cells.glue(name, 1)


def test_importing_makes_the_libraries_quiet():
    program = (
        "import superposition.book.cells, os, json; from transformers.utils import logging;"
        "from tqdm import tqdm;"
        "list(tqdm(range(3))); print(json.dumps([logging.get_verbosity() == logging.ERROR,"
        "logging.is_progress_bar_enabled(), os.environ['HF_HUB_DISABLE_PROGRESS_BARS']]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [True, False, "1"]
    assert done.stderr == ""


def test_a_table_shows_numbers_with_two_decimals_and_words_as_they_are():
    made = cells.table(["what", "$p$"], [("a|b", 0.256), (3, np.float64(1.0)), (np.int64(4), "few")])
    assert made.data.splitlines() == [
        "| what | $p$ |",
        "| --- | --- |",
        r"| a\|b | 0.26 |",
        "| 3 | 1.00 |",
        "| 4 | few |",
    ]


def test_values_are_glued_together_under_the_names_of_their_parts(monkeypatch):
    pasted = {}
    monkeypatch.setattr(cells, "glue", lambda name, value, digits: pasted.update({name: cells.plain(value, digits)}))
    cells.glue_all(lives=8, age=Estimate(1.5, 1.25, 2), rome={"slope": 1.0, "walk": Estimate(0.5, 0, 1)})
    cells.glue_all("s", most=3)
    cells.glue_all(third=1 / 3, rough={"end": Estimate(2 / 3, 0, 1)})
    assert pasted.pop("third") == 0.333333 and pasted.pop("rough_end") == 0.666667
    cells.glue_all(rough={"end": Estimate(2 / 3, 0, 1)}, digits=2)
    assert [pasted.pop(f"rough_end{end}") for end in ("", "_low", "_high")] == [0.67, 0, 1]
    assert pasted == {
        **{"lives": 8, "age": 1.5, "age_low": 1.25, "age_high": 2},
        **{"rome_slope": 1.0, "rome_walk": 0.5, "rome_walk_low": 0, "rome_walk_high": 1, "s_most": 3},
    }
