"""The front page's verdicts are those of the boxes in the chapters. All of them are on the page of claims."""

import ast
import json
import re
from pathlib import Path

import forms
from superposition.book import example
from superposition.data.facts import Fact

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


def test_the_lines_on_the_front_page_are_those_of_the_chapters():
    page = (BOOK / "index.md").read_text(encoding="utf-8")
    lines = re.search(r"```python\n(lm = models\.load.*?)```", page, re.S)[1]
    calls = [node for node in ast.walk(ast.parse(lines)) if isinstance(node, ast.Call)]
    (fact,) = (call for call in calls if ast.unparse(call.func) == "Fact")
    assert Fact(*(ast.literal_eval(text) for text in fact.args)) == example.EDIT
    cells = json.loads((BOOK / "01-memory.ipynb").read_text(encoding="utf-8"))["cells"]
    outputs = [output.get("data", {}).get("text/plain", "") for cell in cells for output in cell.get("outputs", [])]
    glued = "\n".join("".join(text) for text in outputs)
    layer, tokens = (re.search(rf"^{name} = (\d+)$", glued, re.M)[1] for name in ("layer", "tokens"))
    assert re.findall(r"\b\d[\d_]*\b", lines.replace('"smollm2"', "")) == [f"{int(tokens):_}", *[layer] * 4]
