"""An independent recomputation agrees with what the book prints, imports no statistics, and notices a wrong number."""

import ast
import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
FILES = ("printed", "recompute", "recompute_overlaps", "recompute_edits")
#: What of the library a recomputation may use: the tables of facts and text, and what loads a model.
ALLOWED = {"superposition.data.facts", "superposition.data.text", "superposition.lm.models"}


@pytest.fixture(scope="module")
def recompute():
    sys.path.insert(0, str(EXPERIMENTS))
    yield importlib.import_module("recompute")
    sys.path.remove(str(EXPERIMENTS))


@pytest.fixture(scope="module")
def compared(recompute):
    return list(recompute.compared(recompute.Book()))


def imported(path):
    """The modules that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_every_number_agrees(compared):
    assert len({row.place for row in compared}) >= 60
    assert [row for row in compared if not row.agree] == []


def test_every_chapter_from_10_to_21_has_five_numbers_or_more(compared):
    each = {str(chapter): 0 for chapter in range(10, 22)}
    for row in compared:
        if row.page[:2] in each:
            each[row.page[:2]] += 1
    assert min(each.values()) >= 5, each


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_imported_that_computes_statistics(name):
    modules = set(imported(EXPERIMENTS / f"{name}.py"))
    assert {module for module in modules if module.startswith("superposition")} <= ALLOWED
    roots = {module.split(".")[0] for module in modules} - {"superposition"}
    assert roots <= sys.stdlib_module_names | {"numpy", "scipy", "torch", *FILES}
    assert not any(module == "importlib" or module.startswith("importlib.") for module in modules)


@pytest.mark.parametrize("what", ["glued", "table", "absent"])
def test_a_wrong_number_is_noticed(recompute, tmp_path, what):
    page = tmp_path / "15-editing-a-model.ipynb"
    shutil.copy(EXPERIMENTS.parent / "book" / page.name, page)
    check = {"glued": "price_of_an_edit", "absent": "price_of_an_edit", "table": "efficacy"}[what]
    assert all(row.agree for row in recompute.compared(recompute.Book(tmp_path), check))
    alter(page, what)
    wrong = [row.name for row in recompute.compared(recompute.Book(tmp_path), check) if not row.agree]
    assert wrong == ["edited prompt, new object exactly: after" if what == "table" else "near_after"]


def alter(page, what):
    """Change one glued value of a chapter by a point, leave it out, or change one cell of a table."""
    chapter, changed = json.loads(page.read_text(encoding="utf-8")), 0
    for output in (output for cell in chapter["cells"] for output in cell.get("outputs", [])):
        data = output.get("data", {})
        lines = "".join(data.get("text/plain", [])).splitlines()
        here = [i for i, line in enumerate(lines) if line.startswith("near_after = ")]
        if here and what == "absent":
            data["text/plain"] = "\n".join(lines[: here[0]] + lines[here[0] + 1 :])
        elif here and what == "glued":
            value, _, interval = lines[here[0]].removeprefix("near_after = ").partition(" ")
            lines[here[0]] = f"near_after = {float(value) + 0.01} {interval}".rstrip()
            data["text/plain"] = "\n".join(lines)
        elif what == "table" and "edited prompt, new object exactly" in "".join(data.get("text/markdown", [])):
            first, row, rest = "".join(data["text/markdown"]).partition("edited prompt, new object exactly")
            data["text/markdown"] = [first, row, rest.replace("100%", "99%", 1)]
        else:
            continue
        changed += 1
    assert changed == 1
    page.write_text(json.dumps(chapter), encoding="utf-8")


def test_a_number_is_compared_in_the_format_that_prints_it(recompute):
    same = recompute.same_glued
    assert same(0.2301, 0.2297, ".0%").agree and not same(0.2301, 0.2249, ".0%").agree
    assert same(7.5, 7.5, ".1f").agree and not same(7.44, 7.5, ".1f").agree
    assert same(-0.001, 0.001, ".2f").agree  # zero has no sign
    assert same(12.0, 12, "d").agree and not same(12.4, 12, "d").agree
    assert same(0.38496, 0.385, ".2f").agree  # the book rounded to three digits before it printed two


def test_an_exit_status_says_whether_all_agree(recompute, monkeypatch, capsys):
    rows = [
        recompute.Compared("a page", "a name", "1", "1", True),
        recompute.Compared("a page", "other", "1", "2", False),
    ]
    monkeypatch.setattr(recompute, "compared", lambda book, only: rows[:1])
    assert recompute.main(["--only", "a"]) == 0
    monkeypatch.setattr(recompute, "compared", lambda book, only: rows)
    assert recompute.main([]) == 1
    assert "DISAGREES" in capsys.readouterr().out
