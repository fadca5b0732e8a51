"""The capstone has the anatomy of a chapter, and a task that can be checked in most of its steps."""

import re

import pytest
import test_anatomy as anatomy

PATH = anatomy.BOOK / "capstone.ipynb"
#: Sections that are no steps, and end with no task of their own.
OTHERS = {"Takeaways", "Exercises", "Sources", "Decide"}
KIND = re.compile(r"exercise|admonitionHint|solution(-start)?ex-")


@pytest.fixture(scope="module")
def capstone():
    return anatomy.read(PATH)


@pytest.mark.parametrize("check", anatomy.CHECKS, ids=lambda check: check.__name__)
def test_anatomy(capstone, check):
    said = [sentence for sentence in check(capstone) if "is labelled 'ex-capstone-" not in sentence]
    assert said == []


def test_every_step_ends_with_a_task_that_has_a_hint_and_a_solution(capstone):
    steps = [title for level, title in capstone.headings if level == 2 and title not in OTHERS]
    assert len(steps) == 6
    for step in steps:
        parts = [d for d in anatomy.directives(capstone.section(re.escape(step))) if KIND.match(d[0] + d[1])]
        tasks = parts[::3]
        assert tasks, f"{step!r} has no task"
        assert [d[0][:8] for d in parts] == ["exercise", "admoniti", "solution"] * len(tasks)
        assert [d[1] for d in parts[2::3]] == [options["label"] for _, _, options, _ in tasks]
        assert all("dropdown" in d[2]["class"].split() for place, d in enumerate(parts) if place % 3)
        assert all(anatomy.EXERCISE.search(title) for _, title, _, _ in tasks)


def test_three_exercises_and_more_check_themselves(capstone):
    checked = {name for cell in capstone.code for name in re.findall(r"exercises\.(check_\w+)", cell.source)}
    assert len(checked) >= 3
    assert all(f"exercises.{name}(" in capstone.prose for name in checked), "an exercise does not name its check"


def test_three_names_are_all_a_reader_has_to_change(capstone):
    names = re.findall(r"^([A-Z]+) = ", capstone.code[1].source, re.MULTILINE)
    assert names[-3:] == ["MODEL", "FACTS", "TEXT"]


def test_a_page_of_modest_weight():
    assert PATH.stat().st_size <= 90_000
