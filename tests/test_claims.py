"""The front page's verdicts are those of the boxes in the chapters. All of them are on the page of claims."""

import re
from pathlib import Path

import forms

BOOK = Path(__file__).parents[1] / "book"
LINE = re.compile(r"^- \*\*Claim (\d+) · (reproduced|qualified|refuted)\*\* \(\{doc\}`([\w-]+)`\)\. ", re.MULTILINE)
BOX = re.compile(r"\{admonition\} Claim (\d+)[^·\n]*· (\w+)")


def boxes() -> set[tuple[str, str, str]]:
    found = set()
    for path in BOOK.glob("[0-9]*.ipynb"):
        for cell in forms.load(path).cells:
            if cell["cell_type"] == "markdown":
                found |= {(number, verdict, path.stem) for number, verdict in BOX.findall("".join(cell["source"]))}
    return found


def test_the_front_page_gives_a_few_verdicts_of_each_kind_as_their_chapters_do():
    page = (BOOK / "index.md").read_text(encoding="utf-8")
    listed = LINE.findall(page)
    assert len(listed) == len(re.findall(r"^- \*\*Claim", page, re.MULTILINE)) and 4 <= len(listed) <= 5
    assert {verdict for _, verdict, _ in listed} == {"reproduced", "qualified", "refuted"}
    assert set(listed) <= boxes()
