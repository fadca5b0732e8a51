"""Glued values look the same everywhere, and a chapter's libraries keep silent."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import sympy
import torch

from superposition.book import cells
from superposition.errors import UserError
from superposition.stats.intervals import Estimate


@pytest.fixture
def shown(monkeypatch):
    """What cells hand to the front end, instead of a front end."""
    calls = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw, metadata: calls.append((data, metadata)))
    return calls


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float64(0.0123456789), "0.0123457"),
        (np.float32(2.5), "2.5"),
        (torch.tensor(0.25), "0.25"),
        (np.array(3.0), "3.0"),
        (np.int64(8128), "8128"),
        (0.1 + 0.2, "0.3"),
        ("Paris (1 to 2)", "'Paris (1 to 2)'"),
        (True, "True"),
        (-1.5e-20, "-1.5e-20"),
        (float("inf"), "inf"),
    ],
)
def test_a_glued_value_is_shown_and_read_again(shown, value, text):
    cells.glue("x", value)
    [(data, metadata)] = shown
    assert data == {"text/plain": f"x = {text}"} and metadata == {cells.GLUED: True}
    assert list(cells.values(data["text/plain"])) == [("x", cells.plain(value))]


def test_what_is_not_a_number_is_read_again(shown):
    cells.glue("x", float("nan"))
    [(name, value)] = cells.values(shown[0][0]["text/plain"])
    assert name == "x" and np.isnan(value)


def test_floats_keep_as_many_digits_as_asked_for(shown):
    cells.glue("c", 0.123456789, digits=8)
    assert shown[0][0]["text/plain"] == "c = 0.12345679"


def test_plain_keeps_what_it_does_not_know():
    frame = object()
    assert cells.plain(frame) is frame
    assert cells.plain((np.float64(1 / 3), "a", np.int32(2))) == (0.333333, "a", 2)
    assert cells.plain(float("inf")) == float("inf")
    assert np.isnan(cells.plain(np.nan))
    x = sympy.Rational(1, 3)
    assert cells.plain(x) is x


def test_math_is_shown_as_latex_under_its_name(shown):
    k, c = sympy.symbols("k_e C")
    cells.glue_math("leverage", sympy.Eq(sympy.Symbol("h"), k**2 / c))
    cells.glue_math("given", r"\hat W")
    assert [data["text/latex"] for data, _ in shown] == [
        r"$\displaystyle h = \frac{k_{e}^{2}}{C}$",
        r"$\displaystyle \hat W$",
    ]
    assert [metadata[cells.GLUED] for _, metadata in shown] == ["leverage", "given"]


def test_what_the_environment_names_wins(monkeypatch):
    monkeypatch.delenv("SUPERPOSITION_MODEL", raising=False)
    assert cells.model_name() == "smollm2"
    monkeypatch.setenv("SUPERPOSITION_MODEL", "gemma3")
    assert cells.model_name() == "gemma3"
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    cells.quiet()
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "info"


@pytest.mark.parametrize("name", ["", "a:b", "a`b", "a\nb", "a b", "a|b", "-a"])
def test_a_name_that_a_comment_cannot_hold_is_refused(name):
    with pytest.raises(UserError, match="cannot name a glued value"):
        cells.glue(name, 1)


@pytest.mark.parametrize("value", [[1, 2], None, object(), sympy.Integer(7), np.ones(2)])
def test_what_is_neither_number_nor_string_is_refused(value):
    with pytest.raises(UserError, match=r"'x' is of type .*: only numbers and strings"):
        cells.glue("x", value)


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
    made = cells.table(["what", "$|p|$"], [("a|b", 0.256), (r"$\|x\|$", 1), (3, np.float64(1.0)), (np.int64(4), "few")])
    assert made.data.splitlines() == [
        r"| what | $\vert p\vert $ |",  # a bar begins no new cell
        "| --- | --- |",
        r"| a\|b | 0.26 |",
        r"| $\Vert x\Vert $ | 1 |",
        "| 3 | 1.00 |",
        "| 4 | few |",
    ]


def test_values_are_glued_together_under_the_names_of_their_parts(shown):
    cells.glue_all(lives=8, age=Estimate(1.5, 1.25, 2), rome={"slope": 1.0, "walk": Estimate(0.5, 0, 1)})
    assert shown.pop()[0]["text/plain"].splitlines() == [
        "lives = 8",
        "age = 1.5 (1.25 to 2)",
        "rome_slope = 1.0",
        "rome_walk = 0.5 (0 to 1)",
    ]
    cells.glue_all("s", most=3, rough={"end": Estimate(2 / 3, 0, 1)}, digits=2)
    text = shown.pop()[0]["text/plain"]
    assert text == "s_most = 3\ns_rough_end = 0.67 (0 to 1)"
    assert dict(cells.values(text)) == {"s_most": 3, "s_rough_end": 0.67, "s_rough_end_low": 0, "s_rough_end_high": 1}


# Comparisons


def test_what_agrees_is_said_with_the_tolerance(capsys):
    cells.agree("two ways", np.ones((2, 3)), np.ones((2, 3)) + 1e-10)
    cells.agree("a share", 0.512, 0.5, within=0.02, of=1)
    cells.agree("of the largest", [1, 100], [0, 100], within=0.01)
    cells.agree("alone", 100, 101, within=0.01)
    assert capsys.readouterr().out.splitlines() == [
        "two ways: 2 × 3 numbers, equal within 1e-09 of the largest",
        "a share: 1 number, equal within 0.02",
        "of the largest: 2 numbers, equal within 0.01 of the largest",
        "alone: 1 number, equal within 0.01 of it",
    ]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("left", "right", "within", "of", "said"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.1, 1, r"x: they differ by 5\.00e-01, and 0\.1 is allowed"),
        ([1.0, -2.0], [1.0, 2.0], 0.1, 1, "differ"),
        ([0.0, 100.0], [2.0, 100.0], 0.01, None, "differ"),
        ([1, 2], [[1, 2]], 1, 1, r"x: the shapes \(2,\) and \(1, 2\) differ"),
        (1.0, [1.0, 1.0], 1, 1, "shapes"),
        *((x, [1.0, 2.0], 1e9, of, "finite") for x in ([1.0, NAN], [INF, 2.0], [NAN, NAN]) for of in (1, None)),
        *(([1.0, 2.0], x, 1e9, of, "finite") for x in ([1.0, NAN], [INF, 2.0], [NAN, NAN]) for of in (1, None)),
        *((x, x, 1e9, of, "finite") for x in ([1.0, NAN], [INF, 2.0], [NAN, NAN]) for of in (1, None)),
    ],
)
def test_what_does_not_agree_is_an_error(left, right, within, of, said, capsys):
    with pytest.raises(AssertionError, match=said):
        cells.agree("x", left, right, within=within, of=of)
    assert capsys.readouterr().out == ""


def test_what_holds_is_said_with_the_number_of_cases(capsys):
    cells.hold("alone", True)
    cells.hold("alone, too", np.bool_(True))
    cells.hold("each", np.ones((2, 3), dtype=bool))
    assert capsys.readouterr().out.splitlines() == ["alone: yes", "alone, too: yes", "each: all 6"]


@pytest.mark.parametrize("truths", [False, [True, False], [], [1, 1], np.array([1.0])])
def test_what_does_not_hold_in_every_case_is_an_error(truths, capsys):
    with pytest.raises(AssertionError, match="x: so in"):
        cells.hold("x", truths)
    assert capsys.readouterr().out == ""
