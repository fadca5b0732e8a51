"""Every chapter has the same anatomy, and the checks that say so are themselves shown to bite.

A check is a function of a chapter that yields what is wrong, in words. ``CHECKS`` runs over the chapters in
``book/``; the second half of this file breaks a good chapter in one place at a time and expects to hear of
it.
"""

import ast
import copy
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

import forms

BOOK = Path(__file__).parents[1] / "book"
CHAPTERS = sorted(BOOK.glob("[0-9][0-9]-*.ipynb"))
VERDICTS = ("reproduced", "qualified", "refuted", "checked")
EXERCISE = re.compile(r" · [1-9]\d? minutes, (easy|medium|hard)$")
MEDIAN_LINES, MAX_LINES = 10, 25

OPAQUE = ("code", "code-block", "code-cell", "math", "eval-rst", "raw", "bibliography", "prf:algorithm")

FENCE = re.compile(r"^(?P<fence>`{3,}|:{3,}|~{3,})(?P<info>.*)$")


class Chapter:
    """A notebook, with its prose and directives taken apart."""

    def __init__(self, name: str, notebook, written=None):
        self.name = name
        self.notebook = notebook
        # in the order in which they stand in the file: solutions at the end
        run = [cell for cell in (written or notebook).cells if cell.cell_type == "code"]
        self.counts = [cell.execution_count for cell in run if forms.ANSWER not in cell.metadata.get("tags", [])]
        self.cells = notebook.cells
        self.code = [cell for cell in self.cells if cell.cell_type == "code"]
        self.markdown = [cell.source for cell in self.cells if cell.cell_type == "markdown"]
        self.prose = "\n\n".join(self.markdown)
        self.directives = [found for source in self.markdown for found in directives(source)]
        self.captions = [
            str(figure_of(cell).get("caption", "")) for cell in self.code if figure_of(cell).get("caption")
        ]
        self.headings = [
            (len(hashes), title.strip())
            for line in outside_fences(self.prose)
            for hashes, title in re.findall(r"^(#{1,6})\s+(.*)$", line)
        ]

    def section(self, title: str) -> str | None:
        """The text from a second-level heading to the next, or None."""
        match = re.search(rf"^## {title}\s*$(.*?)(?=^## |\Z)", self.prose, re.MULTILINE | re.DOTALL)
        return match.group(1) if match else None


def figure_of(cell) -> dict:
    return cell.metadata.get("mystnb", {}).get("figure", {})


def outside_fences(text: str) -> Iterator[str]:
    """The lines of prose of a text: code, mathematics and raw blocks left out, other directives looked into."""
    opaque, open_directives = None, []
    for line in text.splitlines():
        match = re.match(r"^\s*(?P<fence>`{3,}|~{3,})\s*(?:\{(?P<name>[\w:-]+)\})?(?P<rest>.*)$", line)
        bare = match and not match["name"] and not match["rest"].strip()
        if opaque:
            if bare and match["fence"] == opaque:
                opaque = None
        elif bare and open_directives and match["fence"] == open_directives[-1]:
            open_directives.pop()
        elif match and (match["name"] is None or match["name"] in OPAQUE):
            opaque = match["fence"]
        elif match:
            open_directives.append(match["fence"])
        else:
            yield line


def directives(source: str) -> list[tuple[str, str, dict[str, str], str]]:
    """(name, argument, options, body) of the directives of a cell, nested ones too."""
    found, lines = [], source.splitlines()
    for start, line in enumerate(lines):
        match = FENCE.match(line)
        named = match and re.match(r"\{([\w:-]+)\}\s*(.*)$", match["info"].strip())
        if not named:
            continue
        body, options, rest = [], {}, lines[start + 1 :]
        for line in rest:
            if line.strip() == match["fence"]:
                break
            body.append(line)
        while body and (option := re.match(r"^:([\w-]+):\s*(.*)$", body[0].strip())):
            options[option[1]] = option[2].strip()
            body.pop(0)
        found.append((named[1], named[2].strip(), options, "\n".join(body)))
    return found


# The checks


def check_opening(chapter: Chapter) -> Iterator[str]:
    first = chapter.cells[0]
    if first.cell_type != "markdown":
        yield "the first cell is not markdown"
        return
    body = re.sub(r"\A(\([\w-]+\)=\n)*", "", first.source)
    title = re.match(r"# (\S.*)\n", body + "\n")
    if not title:
        yield "the first cell does not open with a title"
        return
    if re.match(r"(chapter\b|\d)", title[1], re.IGNORECASE):
        yield "the title carries a number: the book numbers its chapters"
    lead = body[title.end() :].split(":::", 1)[0].split("```", 1)[0].strip()
    if "?" not in lead and "?" not in title[1]:
        yield "no reader's question opens the chapter"
    boxes = [d for d in directives(first.source) if d[0] == "admonition" and d[2].get("class") == "before"]
    if len(boxes) != 1:
        yield "no 'Before you start' box (class before) in the first cell"
        return
    bullets = re.findall(r"^- \*\*(.*?)\*\*", boxes[0][3], re.MULTILINE)
    if bullets != ["You will learn", "You need", "It runs in"]:
        yield f"the box says {bullets}, not what you will learn, what you need, how long it runs"


def check_imports_first(chapter: Chapter) -> Iterator[str]:
    if not chapter.code:
        yield "there is no code"
        return
    lines = [line for line in chapter.code[0].source.splitlines() if line.strip() and not line.startswith("#")]
    text = "\n".join(lines)
    tree = compile(text, chapter.name, "exec", flags=0x400)  # ast.PyCF_ONLY_AST
    if any(type(node).__name__ not in ("Import", "ImportFrom") for node in tree.body):
        yield "the first code cell holds more than imports"
    if not re.search(r"^from superposition\.book\.cells import [^)]*?\bglue(_all)?\b", text, re.MULTILINE):
        yield "the first code cell does not import glue from superposition.book.cells"


def check_equation(chapter: Chapter) -> Iterator[str]:
    labels = re.findall(r"^\$\$ \(([\w-]+)\)\s*$", chapter.prose, re.MULTILINE)
    labels += [d[2].get("label", "") for d in chapter.directives if d[0] in ("math", "glue:math")]
    if not [label for label in labels if re.match(r"(eq|def)-", label)]:
        yield "no equation is labelled eq-… or def-…"
    for label in labels:
        if not re.match(r"(eq|def)-[a-z0-9-]+$", label):
            yield f"an equation is labelled {label!r}, not eq-… or def-…"


def check_figures(chapter: Chapter) -> Iterator[str]:
    for number, cell in enumerate(chapter.code, start=1):
        if not any("image/svg+xml" in o.get("data", {}) for o in cell.outputs):
            continue
        if not str(figure_of(cell).get("name", "")).startswith("fig-"):
            yield f"the figure of code cell {number} has no name fig-…"
        if len(str(figure_of(cell).get("caption", ""))) < 20:
            yield f"the figure of code cell {number} has no caption that states a finding"
        if len(str(cell.metadata.get("mystnb", {}).get("image", {}).get("alt", ""))) < 20:
            yield f"the figure of code cell {number} has no alt text that states a finding"
    for alt in re.findall(r"!\[(.*?)\]\(", chapter.prose):
        if not alt.strip():
            yield "an image in the prose has no alt text"
    for name, argument, options, _ in chapter.directives:
        if name in ("image", "figure", "glue:figure") and not options.get("alt"):
            yield f"{name} {argument} has no alt text"


def check_takeaways(chapter: Chapter) -> Iterator[str]:
    section = chapter.section("Takeaways")
    if section is None:
        yield "there are no Takeaways"
        return
    bullets = re.findall(r"^[-*] ", section, re.MULTILINE)
    if not 3 <= len(bullets) <= 6:
        yield f"there are {len(bullets)} takeaways, not 3 to 6"


def check_exercises(chapter: Chapter) -> Iterator[str]:
    section = chapter.section("Exercises")
    if section is None:
        yield "there is no section Exercises"
        return
    inside = directives(section)
    exercises = [d for d in inside if d[0] in ("exercise", "exercise-start")]
    if len(exercises) < 2:
        yield f"there are {len(exercises)} exercises, not two or more"
    solutions = {d[1]: d[2] for d in inside if d[0] in ("solution", "solution-start")}
    for _, title, options, _ in exercises:
        label = options.get("label", "")
        if not re.match(rf"ex-{chapter.name[:2]}-[a-z0-9-]+$", label):
            yield f"the exercise {title!r} is labelled {label!r}, not ex-{chapter.name[:2]}-…"
        if not EXERCISE.search(title):
            yield f"the exercise {title!r} does not end with its minutes and its difficulty"
        if label not in solutions:
            yield f"the exercise {label} has no solution"
        elif "dropdown" not in solutions[label].get("class", "").split():
            yield f"the solution of {label} does not fold away"
    for label in solutions.keys() - {d[2].get("label") for d in exercises}:
        yield f"a solution is for {label!r}, which is no exercise here"


def check_hints(chapter: Chapter) -> Iterator[str]:
    exercise, hinted = "", set()
    for name, argument, options, body in directives(chapter.section("Exercises") or ""):
        if name in ("exercise", "exercise-start"):
            exercise = options.get("label", "")
        elif name == "admonition" and argument == "Hint":
            if "dropdown" not in options.get("class", "").split():
                yield f"the hint of {exercise} does not fold away"
            if not body.strip():
                yield f"the hint of {exercise} is empty"
            if exercise in hinted:
                yield f"{exercise} has two hints"
            hinted.add(exercise)
        elif name in ("solution", "solution-start") and argument not in hinted:
            yield f"there is no hint between {argument} and its solution"


def check_sources(chapter: Chapter) -> Iterator[str]:
    section = chapter.section("Sources")
    if section is None:
        yield "there is no section Sources"
    elif not re.search(r"\{cite(:\w+)?\}`", section):
        yield "the Sources cite nothing"
    elif chapter.headings[-1] != (2, "Sources"):
        yield "the Sources do not come last"


def check_verdicts(chapter: Chapter) -> Iterator[str]:
    for name, title, options, _ in chapter.directives:
        classes = options.get("class", "").split()
        if name != "admonition":
            continue
        if "verdict" not in classes:
            if set(classes) & set(VERDICTS) or re.match(r"Claim \d", title):
                yield f"{title!r} looks like a verdict, without the class"
            continue
        words = [word for word in classes if word != "verdict"]
        if len(words) != 1 or words[0] not in VERDICTS:
            yield f"the verdict {title!r} has the classes {classes}"
        elif not re.match(rf"Claim \d+( \(ours\))? · {words[0]}$", title):
            yield f"the verdict {title!r} does not say 'Claim N · {words[0]}'"


def check_lengths(chapter: Chapter) -> Iterator[str]:
    lengths = [len(cell.source.splitlines()) for cell in chapter.code]
    if lengths and statistics.median(lengths) > MEDIAN_LINES:
        yield f"the median cell has {statistics.median(lengths)} lines, more than {MEDIAN_LINES}"
    for number, length in enumerate(lengths, start=1):
        if length > MAX_LINES:
            yield f"code cell {number} has {length} lines, more than {MAX_LINES}"


def check_executed(chapter: Chapter) -> Iterator[str]:
    for number, count in enumerate(chapter.counts, start=1):
        if count != number:
            yield f"code cell {number} has the execution count {count}: run all, from the top"
    for number, cell in enumerate(chapter.code, start=1):
        if not cell.source.strip():
            yield f"code cell {number} is empty"
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                yield f"code cell {number} has an error or standard error in its output"


def check_code_style(chapter: Chapter) -> Iterator[str]:
    for number, cell in enumerate(chapter.code, start=1):
        if re.search(r";[ \t]*$", cell.source, re.MULTILINE):
            yield f"code cell {number} ends a line with a semicolon"
        if re.search(r"\bplt\.|\bimport matplotlib|\bfrom matplotlib|\bpylab\b", cell.source):
            yield f"code cell {number} plots by hand: plots belong in superposition.figures"


def bare_numbers(text: str) -> list[str]:
    """Decimal numbers and percentages typed into the prose by hand, where the paragraph cites no source."""
    found = []
    lines = "\n".join(outside_fences(text))
    lines = re.sub(r"^\$\$.*?^\$\$.*?$", "", lines, flags=re.MULTILINE | re.DOTALL)
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*[-*] )|\n(?=:{3,})", lines):
        if re.search(r"\{cite(:\w+)?\}`", paragraph):
            continue
        bare = re.sub(r"^:[\w-]+:.*$", "", paragraph, flags=re.MULTILINE)
        bare = re.sub(r"\{[\w:+-]+\}`[^`]*`", "", bare)
        bare = re.sub(r"`+[^`]*`+", "", bare)
        bare = re.sub(r"\$[^$]*\$", "", bare)
        bare = re.sub(r"\]\([^)]*\)|<[^>]*>|https?://\S+", "", bare)
        # The level of an interval is a convention, not a result.
        bare = re.sub(r"\b(?:90|95|99)\s?%\s+(?:\w+\s+){0,2}intervals?\b", "", bare)
        found += re.findall(r"(?<![\w.])\d*\.\d+(?![\w.])|(?<![\w.])\d+(?:\.\d+)?\s?(?:%|per cent\b)", bare)
    return found


def check_numbers(chapter: Chapter) -> Iterator[str]:
    for text in chapter.markdown + chapter.captions:
        for number in bare_numbers(text):
            yield f"{number!r} is typed into the prose: glue it from a cell, or cite its source"


def check_paths(chapter: Chapter) -> Iterator[str]:
    texts = [cell.source for cell in chapter.cells]
    for cell in chapter.code:
        for output in cell.outputs:
            texts += [str(output.get("text", "")), *map(str, output.get("data", {}).values())]
    pattern = r"(?<![\w/.])/(?:home|root|Users|work|tmp|var|mnt|opt)/[\w.-]+|[A-Z]:\\\\?Users"
    for text in texts:
        if match := re.search(pattern, text):
            yield f"a path of one machine: {match.group()}"


def check_headings(chapter: Chapter) -> Iterator[str]:
    levels = [level for level, _ in chapter.headings]
    if levels.count(1) != 1:
        yield f"there are {levels.count(1)} titles, not one"
    for (before, _), (after, title) in zip(chapter.headings, chapter.headings[1:], strict=False):
        if after > before + 1:
            yield f"the heading {title!r} skips a level"
    titles = [title for _, title in chapter.headings]
    if len(set(titles)) != len(titles):
        yield "two headings are the same"


def glued_here(notebook) -> list[str]:
    return [
        output.metadata["scrapbook"]["name"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "scrapbook" in output.get("metadata", {})
    ]


def glued_names(text: str) -> list[tuple[str | None, str]]:
    """(document or None, name) of what a text asks to be glued."""
    asked = re.findall(r"\{glue(:\w*)?\}`([^`]+)`", text)
    names = []
    for kind, target in asked:
        document, _, key = target.rpartition("::")
        names.append((document or None, key.rsplit(":", 1)[0] if kind == ":text" and ":" in key else key))
    for target in re.findall(r"^[`:]{3,}\{glue(?::\w*)?\}\s+(\S+)", text, re.MULTILINE):
        document, _, key = target.rpartition("::")
        names.append((document or None, key))
    return names


def check_glue(chapter: Chapter) -> Iterator[str]:
    here = glued_here(chapter.notebook)
    for name in sorted({name for name in here if here.count(name) > 1}):
        yield f"{name!r} is glued twice"
    for document, name in glued_names("\n\n".join(chapter.markdown + chapter.captions)):
        if document is not None:
            continue  # test_glue_from_other_chapters
        if name not in here:
            yield f"{name!r} is asked for and glued nowhere"


#: Names that every table, or every draw, may have anew.
OFTEN = {"rows", "head", "header", "rng", "_"}


def bound(code: str) -> set[str]:
    """Names that code binds at its top level: not in a loop, whose names are its own."""
    found = set()
    for node in ast.parse(code).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {name.id for target in targets for name in ast.walk(target) if _stored(name)}
    return found


def _stored(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def check_names(chapter: Chapter) -> Iterator[str]:
    seen: dict[str, int] = {}
    for number, cell in enumerate(chapter.code):
        for name in sorted(bound(cell.source) - OFTEN):
            if seen.setdefault(name, number) != number:
                yield f"{name!r} is bound in two cells: give the second another name"


def check_seen(chapter: Chapter) -> Iterator[str]:
    for cell in chapter.code:
        silent = not cell.outputs and not forms.FOLDED & set(cell.metadata.get("tags", []))
        if silent and any(isinstance(node, ast.Assert) for node in ast.parse(cell.source).body):
            yield f"a cell asserts and shows nothing: let it say what agrees, or fold it: {cell.source[:40]!r}"


CHECKS = [value for name, value in sorted(globals().items()) if name.startswith("check_")]


def problems(chapter: Chapter) -> list[str]:
    return [f"{check.__name__}: {said}" for check in CHECKS for said in check(chapter)]


# The chapters


def read(path: Path) -> Chapter:
    return Chapter(path.stem, forms.load(path), nbformat.read(path, as_version=4))


def test_there_are_chapters():
    assert CHAPTERS, f"no NN-name.ipynb in {BOOK}"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_anatomy(path):
    assert problems(read(path)) == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_notebook_is_the_same_on_every_machine(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    from notebooks import normalise

    assert normalise(copy.deepcopy(notebook)) == notebook, "run `make execute`"


@pytest.mark.parametrize("path", sorted(BOOK.glob("*.md")) + sorted(BOOK.glob("*.ipynb")), ids=lambda p: p.name)
def test_glue_from_other_chapters(path):
    if path.suffix == ".md":
        texts = [path.read_text(encoding="utf8")]
    else:
        chapter = read(path)
        texts = chapter.markdown + chapter.captions
    for text in texts:
        for document, name in glued_names(text):
            if document is None:
                assert path.suffix == ".ipynb", f"{name!r}: a page of text must name the notebook it glues from"
                continue
            notebook = forms.load(path.parent / document)
            assert name in glued_here(notebook), f"{name!r} is not glued in {document}"


@pytest.mark.parametrize("path", sorted(BOOK.glob("*.md")), ids=lambda path: path.name)
def test_pages_of_text(path):
    text = path.read_text(encoding="utf8")
    page = Chapter(path.stem, nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)]))
    said = [s for check in (check_headings, check_paths, check_numbers, check_figures) for s in check(page)]
    assert said == []


# The checks themselves: a good chapter passes, and every way of breaking it is heard of

OPENING = """(ch-probe)=
# One edit is exact

Does one edit reach the value asked for?

:::{admonition} Before you start
:class: before
- **You will learn** how.
- **You need** columns.
- **It runs in** two seconds.
:::
"""
BODY = r"""## Derive the closed form

A **key** is a column $k$ of length 3.5, no: $3.5$; published: 72.7 % {cite}`hu2024superposition`.

$$
x = 0.5
$$ (eq-probe-closed)

```{glue:math} closed
:label: eq-probe-glued
```

The worst residual is {glue:text}`worst:.2e`, version `0.1`, section 3. See {eq}`eq-probe-closed`.

### Look closer

:::{admonition} Claim 1 · reproduced
:class: verdict reproduced
It is {glue:text}`worst:.1e`.
:::
"""
CLOSING = """## Takeaways

- One.
- Two.
- Three.

## Exercises

```{exercise} Rank · 5 minutes, easy
:label: ex-77-rank
Why?
```

:::{admonition} Hint
:class: dropdown tip
Look.
:::

````{solution} ex-77-rank
:label: sol-77-rank
:class: dropdown
Because.

```python
y = 0.5
```
````

```{exercise} Check · 20 minutes, hard
:label: ex-77-check
How?
```

:::{admonition} Hint
:class: dropdown tip
Try.
:::

```{solution} ex-77-check
:label: sol-77-check
:class: dropdown
So.
```

## Sources

{cite:t}`hu2024superposition`.
"""


def good() -> Chapter:
    v4 = nbformat.v4
    imports = v4.new_code_cell("import numpy as np\n\nfrom superposition.book.cells import glue", execution_count=1)
    glue = v4.new_code_cell(
        "glue('worst', 1e-14)",
        execution_count=2,
        outputs=[
            v4.new_output("display_data", {"text/plain": "1"}, metadata={"scrapbook": {"name": name}})
            for name in ("worst", "closed")
        ],
    )
    figure = v4.new_code_cell(
        "figures.residuals(1)",
        execution_count=3,
        metadata={
            "mystnb": {
                "figure": {"name": "fig-probe", "caption": "Every residual is below {glue:text}`worst:.0e`."},
                "image": {"alt": "Residuals, all of them tiny."},
            }
        },
        outputs=[v4.new_output("execute_result", {"image/svg+xml": "<svg></svg>", "text/plain": "A figure"})],
    )
    cells = [
        v4.new_markdown_cell(OPENING),
        imports,
        v4.new_markdown_cell(BODY),
        glue,
        figure,
        v4.new_markdown_cell(CLOSING),
    ]
    return Chapter("77-probe", v4.new_notebook(cells=cells))


def test_a_good_chapter_passes():
    assert problems(good()) == []


def replaced(cell, old, new):
    def breaks(cells):
        assert old in cells[cell].source
        cells[cell].source = cells[cell].source.replace(old, new)

    return breaks


def appended(cell, text):
    def breaks(cells):
        cells[cell].source += text

    return breaks


def output(kind, **content):
    return lambda cells: cells[3].outputs.append(nbformat.v4.new_output(kind, **content))


def out_of_order(cells):
    cells[3].execution_count, cells[4].execution_count = 3, 2


def figure_key(*keys):
    def breaks(cells):
        place = cells[4].metadata["mystnb"]
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return breaks


def hint_last(cells):
    hint = ":::{admonition} Hint\n:class: dropdown tip\nTry.\n:::\n\n"
    assert hint in cells[5].source
    cells[5].source = cells[5].source.replace(hint, "").replace("\n## Sources", f"\n{hint}## Sources")


def long_cells(cells):
    for cell in cells[1], cells[3], cells[4]:
        cell.source += "\nx = 1" * 12


BREAKS = {
    "code first": (lambda cells: cells.insert(0, cells.pop(1)), "opening", "not markdown"),
    "no title": (replaced(0, "# One edit is exact", "One edit is exact"), "opening", "a title"),
    "numbered title": (replaced(0, "# One", "# 2. One"), "opening", "carries a number"),
    "no question": (replaced(0, "asked for?", "asked for."), "opening", "question"),
    "no box": (replaced(0, ":class: before", ":class: note"), "opening", "Before you start"),
    "a bullet missing": (replaced(0, "- **You need** columns.\n", ""), "opening", "the box says"),
    "no code": (
        lambda cells: cells.__setitem__(slice(None), [cells[0], cells[2], cells[5]]),
        "imports_first",
        "no code",
    ),
    "more than imports": (appended(1, "\nx = 1"), "imports_first", "more than imports"),
    "glue not imported": (replaced(1, "import glue", "import quiet"), "imports_first", "import glue"),
    "no label": (replaced(2, "$$ (eq-probe-closed)", "$$"), "equation", None),
    "odd label": (replaced(2, "eq-probe-glued", "closed"), "equation", "is labelled 'closed'"),
    "figure without a name": (figure_key("figure", "name"), "figures", "name"),
    "figure without a caption": (figure_key("figure", "caption"), "figures", "caption"),
    "figure without alt text": (figure_key("image", "alt"), "figures", "alt text"),
    "image without alt text": (appended(2, "\n![](x.png)\n"), "figures", "in the prose"),
    "directive without alt text": (appended(2, "\n```{figure} x.png\n```\n"), "figures", "figure x.png"),
    "no takeaways": (replaced(5, "## Takeaways", "## Summary"), "takeaways", "no Takeaways"),
    "two takeaways": (replaced(5, "- Three.\n", ""), "takeaways", "2 takeaways"),
    "no exercises": (replaced(5, "## Exercises", "## Try"), "exercises", "no section"),
    "one exercise": (replaced(5, "{exercise} Check", "{note} Check"), "exercises", "1 exercises"),
    "no difficulty": (replaced(5, ", hard", ""), "exercises", "difficulty"),
    "no minutes": (replaced(5, "20 minutes, hard", "hard"), "exercises", "minutes"),
    "label of another chapter": (replaced(5, ":label: ex-77-rank", ":label: ex-78-rank"), "exercises", "labelled"),
    "no solution": (replaced(5, "{solution} ex-77-check", "{note}"), "exercises", "has no solution"),
    "open solution": (
        replaced(5, ":label: sol-77-rank\n:class: dropdown", ":label: sol-77-rank"),
        "exercises",
        "fold away",
    ),
    "stray solution": (replaced(5, "{solution} ex-77-check", "{solution} ex-77-x"), "exercises", "no exercise here"),
    "no hint": (replaced(5, "{admonition} Hint\n:class: dropdown tip\nTry.", "{note}\nTry."), "hints", "no hint"),
    "hint after its solution": (hint_last, "hints", "no hint between ex-77-check"),
    "open hint": (replaced(5, ":class: dropdown tip\nTry.", ":class: tip\nTry."), "hints", "fold away"),
    "empty hint": (replaced(5, "Try.", ""), "hints", "ex-77-check is empty"),
    "two hints": (
        replaced(5, "Try.\n:::", "Try.\n:::\n\n:::{admonition} Hint\n:class: dropdown\nOr.\n:::"),
        "hints",
        "two",
    ),
    "no sources": (replaced(5, "## Sources", "## Thanks"), "sources", "no section"),
    "nothing cited": (replaced(5, "{cite:t}`hu2024superposition`", "a paper"), "sources", "cite nothing"),
    "sources not last": (appended(5, "\n## More\n"), "sources", "last"),
    "unknown verdict": (replaced(2, "verdict reproduced", "verdict proved"), "verdicts", "has the classes"),
    "verdict against its title": (replaced(2, "1 · reproduced", "1 · refuted"), "verdicts", "does not say"),
    "verdict without the class": (replaced(2, ":class: verdict reproduced\n", ""), "verdicts", "without the class"),
    "long cells": (long_cells, "lengths", "median"),
    "one very long cell": (appended(3, "\nx = 1" * 25), "lengths", "26 lines"),
    "empty cell": (replaced(3, "glue('worst', 1e-14)", ""), "executed", "is empty"),
    "cell not run": (lambda cells: setattr(cells[3], "execution_count", None), "executed", "execution count None"),
    "cells out of order": (out_of_order, "executed", "execution count 3"),
    "standard error": (output("stream", name="stderr", text="warning"), "executed", "standard error"),
    "traceback": (output("error", ename="E", evalue="", traceback=[]), "executed", "an error"),
    "semicolon": (replaced(3, "1e-14)", "1e-14);"), "code_style", "semicolon"),
    "semicolon inside": (replaced(3, "glue(", "x = 1;\nglue("), "code_style", "semicolon"),
    "plots by hand": (appended(3, "\nplt.plot(x)"), "code_style", "plots by hand"),
    "matplotlib imported": (appended(1, "\nimport matplotlib.pyplot as p"), "code_style", "plots by hand"),
    "decimal typed": (appended(2, "\nIt is 0.37 wide.\n"), "numbers", "'0.37'"),
    "decimal without a zero": (appended(2, "\nIt is .37 wide.\n"), "numbers", "'.37'"),
    "percentage typed": (appended(2, "\nSome 12 % of pairs.\n"), "numbers", "'12 %'"),
    "percentage before an interval": (appended(2, "\nIn 96 % of intervals.\n"), "numbers", "'96 %'"),
    "per cent typed": (appended(2, "\nSome 12 per cent of pairs.\n"), "numbers", "'12 per cent'"),
    "number in an exercise": (replaced(5, "Why?", "Why 0.37?"), "numbers", "'0.37'"),
    "number in a caption": (
        lambda cells: cells[4].metadata["mystnb"]["figure"].update(caption="0.37 wide"),
        "numbers",
        "'0.37'",
    ),
    "number in a verdict": (replaced(2, "It is {glue", "It is 1.5, {glue"), "numbers", "'1.5'"),
    "name bound twice": (
        lambda cells: [appended(3, "\nx, y = 1, 2")(cells), appended(4, "\ndef y():\n    pass")(cells)],
        "names",
        "'y' is bound in two cells",
    ),
    "silent assertion": (
        lambda cells: cells.insert(4, nbformat.v4.new_code_cell("x = 1\nassert x", execution_count=3)),
        "seen",
        "asserts and shows nothing",
    ),
    "path in the source": (appended(3, "\nopen('/home/me/x')"), "paths", "/home/me"),
    "path in an output": (output("stream", text="saved to /home/me/x.json"), "paths", "/home/me"),
    "two titles": (appended(2, "\n# Again\n"), "headings", "2 titles"),
    "skipped level": (replaced(2, "### Look closer", "#### Look closer"), "headings", "skips a level"),
    "same heading twice": (appended(2, "\n## Takeaways\n"), "headings", "the same"),
    "glued twice": (
        lambda cells: cells[3].outputs.append(copy.deepcopy(cells[3].outputs[0])),
        "glue",
        "'worst' is glued twice",
    ),
    "glued nowhere": (lambda cells: cells[3].outputs.clear(), "glue", "'worst' is asked for"),
    "math glued nowhere": (replaced(2, "{glue:math} closed", "{glue:math} open"), "glue", "'open' is asked for"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_chapter_is_heard_of(name):
    breaks, check, words = BREAKS[name]
    notebook = good().notebook
    breaks(notebook.cells)
    if name == "no label":
        replaced(2, ":label: eq-probe-glued\n", "")(notebook.cells)
    said = list(globals()[f"check_{check}"](Chapter("77-probe", notebook)))
    assert said, f"check_{check} is silent"
    if words:
        assert any(words in sentence for sentence in said), said


def test_every_check_is_broken_at_least_once():
    assert {f"check_{check}" for _, check, _ in BREAKS.values()} == {check.__name__ for check in CHECKS}


@pytest.mark.parametrize(
    "text",
    [
        "Version 1.2.3 of the page, section 2.",
        "The value $0.5$ and `0.5` and {glue:text}`x:.2f`.",
        "$$\n0.5\n$$ (eq-x)",
        "```python\n0.5\n```",
        "```\n0.5\n```",
        "```{math}\n0.5\n```",
        "Excess kurtosis 72.7 in print {cite}`hu2024superposition`.",
        "[link](https://arxiv.org/abs/2408.07413)",
        "SmolLM2-135M in GPT-2.",
        "The bands are 95 %\nbootstrap intervals; the 95 % interval lies above zero.",
    ],
)
def test_numbers_with_a_source_or_in_code_are_let_be(text):
    assert bare_numbers(text) == []


def test_glued_names_are_read_in_every_form():
    text = "{glue:text}`a:.2f` {glue:text}`b` {glue}`c` {glue:text}`11-x.ipynb::d:,d`\n\n```{glue:math} e\n```\n"
    assert glued_names(text) == [(None, "a"), (None, "b"), (None, "c"), ("11-x.ipynb", "d"), (None, "e")]
