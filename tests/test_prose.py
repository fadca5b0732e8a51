"""The prose of every page: no doubled words, no filler, one spelling, no sentence without an end in sight."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import forms

BOOK = Path(__file__).parents[1] / "book"
PAGES = sorted([*BOOK.glob("*.md"), *BOOK.glob("*.ipynb")])

#: What says nothing, and what this book spells otherwise.
FILLER = r"obviously|clearly|basically|actually|of course|needless to say|it should be noted|note that|in order to"
AMERICAN = r"\w*(?:behavior|neighbor|color(?!bar)|favor|center|normaliz|optimiz|generaliz|summariz|analyz)\w*"
LONGEST = 60  # words of a sentence


def prose(path: Path) -> str:
    """A page's sentences."""
    if path.suffix == ".ipynb":
        cells = forms.load(path).cells
        return sentences("\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown"))
    return sentences(path.read_text(encoding="utf-8"))


def sentences(text: str) -> str:
    """Markdown without code, formulas, heads of directives, addresses and tables."""
    text = re.sub(r"^(`{3,})(?!\{(?:exercise|solution|prf|glossary)).*?^\1`*$", "", text, flags=re.M | re.S)
    text = re.sub(r"\$\$.*?\$\$|\$[^$]+\$", " X ", text, flags=re.S)
    text = re.sub(r"^(?::::|```|\||:[a-z-]+:|\(.*\)=$|#|<).*$", "", text, flags=re.M)
    text = re.sub(r"\{[a-z:]+\}`[^`]*`", " X ", text)
    return re.sub(r"`[^`]*`|\]\([^)]*\)|https?://\S+", " X ", text)


def faults(text: str) -> list[str]:
    found = [f"doubled: {m[0]}" for m in re.finditer(r"\b(\w+)\s+\1\b", text) if m[1].lower() not in {"x", "had"}]
    found += [f"filler: {m[0]}" for m in re.finditer(rf"\b(?:{FILLER})\b", text, re.I)]
    found += [f"spelling: {m[0]}" for m in re.finditer(rf"\b{AMERICAN}", text, re.I)]
    found += [f"number of a chapter: {m[0]}" for m in re.finditer(r"\b[Cc]hapters? \d+", text)]
    for paragraph in re.split(r"\n\s*\n|\n\s*(?:[-*]|\d+\.) ", text):
        for sentence in re.split(r"(?<=[.!?:;])\s", paragraph):
            if len(sentence.split()) > LONGEST:
                found.append(f"long: {' '.join(sentence.split()[:8])} …")
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_prose(path):
    assert faults(prose(path)) == []
    twice = re.findall(r"\(\{eq\}`[^`]*`\)", path.read_text(encoding="utf-8"))
    assert twice == [], "the number of an equation brings its own brackets"


def test_spelling(tmp_path):
    for path in PAGES:
        (tmp_path / f"{path.stem}.txt").write_text(prose(path), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib", "--toml", str(BOOK.parent / "pyproject.toml"), str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("It is the the key.", "doubled"),
        ("This is obviously so.", "filler"),
        ("Its behavior is odd.", "spelling"),
        ("As in chapter 7.", "number"),
        ("and " * 61 + "so.", "long"),
    ],
)
def test_a_fault_is_heard_of(text, start):
    assert any(fault.startswith(start) for fault in faults(text))


def test_what_is_no_prose_is_let_be():
    text = "One.\n\n```python\nthe the\n```\n\n$$\nx x\n$$ (eq-a)\n\nSee {doc}`chapter 7` and `color`."
    assert faults(sentences(text)) == []
