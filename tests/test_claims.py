"""The front page's table of claims says what the verdict boxes of the chapters say, all of them and no others."""

import re
from pathlib import Path

import forms

BOOK = Path(__file__).parents[1] / "book"
ROW = re.compile(r"^\| (\d+) \|.*\| (reproduced|qualified|refuted|checked) \| \{doc\}`([\w-]+)` \|$", re.MULTILINE)
BOX = re.compile(r"\{admonition\} Claim (\d+)[^·\n]*· (\w+)")


def boxes() -> set[tuple[str, str, str]]:
    found = set()
    for path in BOOK.glob("[0-9]*.ipynb"):
        for cell in forms.load(path).cells:
            if cell["cell_type"] == "markdown":
                found |= {(number, verdict, path.stem) for number, verdict in BOX.findall("".join(cell["source"]))}
    return found


def test_the_front_page_lists_every_verdict_as_its_chapter_gives_it():
    listed = ROW.findall((BOOK / "index.md").read_text(encoding="utf-8"))
    assert len(listed) > 9
    assert [int(number) for number, _, _ in listed] == sorted(int(number) for number, _, _ in listed)
    assert set(listed) == boxes()
