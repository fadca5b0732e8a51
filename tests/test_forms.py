"""Chapters read as text in every notebook front end, and what Sphinx reads is made of that text and nothing else."""

import re
from pathlib import Path

import nbformat
import pytest

import forms
from superposition.errors import UserError

BOOK = Path(__file__).parents[1] / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
v4 = nbformat.v4

BIBLIOGRAPHY = """
@article{one2020, author = {One, Ann}, title = {A}, year = {2020}}
@article{two2021, author = {One, Ann and de Two, Bob}, title = {B}, year = {2021}}
@article{three2022, author = {Three, Cy and One, Ann and Two, Bob}, title = {C}, year = {2022}}
"""

VALUES = "share = 0.125 (0.1 to 0.15)\nmany = 12345\ntiny = -3e-08\nplace = 'Paris, France'\nlost = nan"

#: What Sphinx reads, and what people do. Both are of chapter 3, whose cells glue VALUES.
PAIRS = {
    "values": (
        "It is {glue:text}`share:.1%` ({glue:text}`share_low:.2f`, {glue:text}`share_high:.2f`), {glue:text}`many:,d`.",
        "It is 12.5%<!--=share:.1%--> (0.10<!--=share_low:.2f-->, 0.15<!--=share_high:.2f-->), 12,345<!--=many:,d-->.",
    ),
    "values with signs": ("At {glue:text}`tiny:.0e`.", "At −3·10⁻⁸<!--=tiny:.0e-->."),
    "a value in words": ("In {glue:text}`place`!", "In Paris, France<!--=place|Paris, France-->!"),
    "a value after a digit": ("SmolLM2-{glue:text}`many:d`", "SmolLM2-12345<!--=many:d|12345-->"),
    "a value of another chapter": (
        "{glue:text}`04-next.ipynb::there:.0f` of them",
        "7<!--=04-next.ipynb::there:.0f--> of them",
    ),
    "code is let be": ("`{x}` and `[a](#eq-here)`", "`{x}` and `[a](#eq-here)`"),
    "references": (
        "By {eq}`eq-here`, {eq}`eq-there`, {prf:ref}`thm-here`, {numref}`fig-here`, {ref}`ex-03-one` and "
        "{numref}`tab-here`.",
        "By [(3.1)](#eq-here), [(4.1)](04-next.ipynb#eq-there), [Theorem 3.1](#thm-here), [Figure 3.1](#fig-here), "
        "[Exercise 3.1](#ex-03-one) and [Table 3.1](#tab-here).",
    ),
    "pages": (
        "({doc}`Chapter 4 <04-next>`; {doc}`the words <words>`)",
        "([Chapter 4](04-next.ipynb); [the words](words.md))",
    ),
    "a section of a page": ("See {ref}`how it goes <in-words>`.", "See [how it goes](words.md#in-words)."),
    "terms": ("A {term}`key`, {term}`keys <key>`.", 'A [key](glossary.md "key"), [keys](glossary.md "key").'),
    "citations": (
        "{cite:t}`one2020` and {cite}`two2021,three2022`",
        "[One (2020)](bibliography.md#one2020) and "
        "([One and de Two, 2021](bibliography.md#two2021); [Three et al., 2022](bibliography.md#three2022))",
    ),
    "a function": ("{py:obj}`superposition.linear.rules.rome`", "`superposition.linear.rules.rome`"),
    "an equation": ("so\n\n$$\nx = 0.5\n$$ (eq-x)\n\nthen", "so\n\n$$\nx = 0.5\n\\tag{3.3} % eq-x\n$$\n\nthen"),
    "an equation without a number": ("$$\nx\n$$", "$$\nx\n$$"),
    "an equation of a cell": (
        "```{glue:math} grad\n:label: eq-grad\n\n```",
        "$$\n\\nabla f\n\\tag{3.3} % eq-grad = grad\n$$",
    ),
    "a box": (
        ":::{admonition} Claim 1 · checked\n:class: verdict checked\n*So.* It is {glue:text}`share:.2f`.\n\n- a\n:::",
        "> **Claim 1 · checked** <!--verdict checked-->\n>\n> *So.* It is 0.12<!--=share:.2f-->.\n>\n> - a",
    ),
    "a proof": (
        ":::{prf:proof}\nIt follows.\n\n$$\ny\n$$ (eq-y)\n:::",
        "*Proof.* <!--prf:proof--> It follows.\n\n$$\ny\n\\tag{3.3} % eq-y\n$$\n\n<!--end-->",
    ),
    "a theorem": (
        ":::{prf:theorem} On $p$ (more)\n:label: thm-more\nLet it.\n:::",
        "**Theorem 3.2** (On $p$ (more)). <!--prf:theorem thm-more--> Let it.\n\n<!--end-->",
    ),
    "a lemma without a name": (
        ":::{prf:lemma}\n:label: lem-x\n$$\nz\n$$\n:::",
        "**Lemma 3.1**. <!--prf:lemma lem-x-->\n\n$$\nz\n$$\n\n<!--end-->",
    ),
    "a table": (
        ":::{table} All of {eq}`eq-here`.\n:name: tab-x\n| a |\n| --- |\n| b |\n:::",
        "**Table 3.2.** All of [(3.1)](#eq-here). <!--table tab-x-->\n\n| a |\n| --- |\n| b |\n\n<!--end-->",
    ),
    "a picture to turn": (
        ":::{turn} keys\nAt {glue:text}`share:.1f`.\n\nOr not.\n:::",
        "<!--turn keys-->\n\nAt 0.1<!--=share:.1f-->.\n\nOr not.\n\n<!--end-->",
    ),
    "code": ("```shell\npython -m x {eq}\n$$\n```", "```shell\npython -m x {eq}\n$$\n```"),
}

THERE = """$$
a
$$ (eq-here)

$$
b
$$ (eq-second)

:::{prf:theorem} T
:label: thm-here
A.
:::

```{table} A table.
:name: tab-here
| a |
| --- |
```

```{exercise} One · easy
:label: ex-03-one
Why?
```

:::{admonition} Hint
:class: dropdown tip
Look at {eq}`eq-here`.
:::

````{solution} ex-03-one
:label: sol-03-one
:class: dropdown
Because.

```python
1
```
````

```{exercise} Two · hard
:label: ex-03-two
What?
```

:::{admonition} Hint
:class: dropdown tip
See.
:::

```{solution-start} ex-03-two
:label: sol-03-two
:class: dropdown
```"""


def value(name):
    return v4.new_output("display_data", {"text/plain": name}, metadata={"glued": True})


@pytest.fixture
def book(tmp_path):
    """Chapters 3 and 4 in Sphinx's form, a page of text and a bibliography."""
    (tmp_path / "references.bib").write_text(BIBLIOGRAPHY)
    (tmp_path / "words.md").write_text("# Words\n\n(in-words)=\n## In words\n")
    latex = {"text/latex": r"$\displaystyle \nabla f$", "text/plain": "grad"}
    figure = {"figure": {"name": "fig-here", "caption": "It is {glue:text}`share:.1f`."}, "image": {"alt": "A line."}}
    picture = v4.new_output("execute_result", {"image/svg+xml": "<svg></svg>", "text/plain": "A figure"})
    third = [
        v4.new_markdown_cell("# The third\n\nIs it?"),
        v4.new_code_cell("glue_all()", outputs=[value(VALUES)]),
        v4.new_code_cell("glue_math()", outputs=[v4.new_output("display_data", latex, metadata={"glued": "grad"})]),
        v4.new_code_cell("figure()", outputs=[picture], metadata={"mystnb": figure}),
        v4.new_code_cell("glue()", outputs=[value("hid = 1")], metadata={"tags": ["hide-input"]}),
        v4.new_markdown_cell("## Exercises\n\n" + THERE),
        v4.new_code_cell("answer = 1"),
        v4.new_markdown_cell("More of it.\n```{solution-end}\n```"),
        v4.new_markdown_cell("## Sources\n\n{cite:t}`one2020`"),
    ]
    fourth = [v4.new_markdown_cell("# The fourth\n\n$$\nc\n$$ (eq-there)"), v4.new_code_cell("glue()")]
    fourth[1].outputs = [value("there = 7.0")]
    pages = {"03-third": third, "04-next": fourth}
    for page, cells in pages.items():
        nbformat.write(v4.new_notebook(cells=cells), tmp_path / f"{page}.ipynb")
    return tmp_path


def with_cell(folder, text):
    """The book of a folder, its third chapter with one more cell."""
    chapter = nbformat.read(folder / "03-third.ipynb", as_version=4)
    chapter.cells.insert(-1, v4.new_markdown_cell(text))
    return forms.Book(folder, {"03-third": forms.directives(chapter)})


@pytest.mark.parametrize("name", PAIRS)
def test_either_form_makes_the_other(book, name):
    sphinx, readers = PAIRS[name]
    made = forms.for_readers("03-third", with_cell(book, sphinx))
    assert made.cells[-1].source.startswith("## Sources")
    assert readers in [cell.source for cell in made.cells]
    back = forms.directives(v4.new_notebook(cells=[v4.new_markdown_cell(readers)]))
    assert back.cells[0].source == sphinx


def test_a_value_is_written_anew_and_a_number_that_is_not_there_yet_filled_in(book):
    text = "A share of ?<!--=share:.1%-->, then 99%<!--=share:.2%-->, by [(?)](#eq-here).\n\n$$\nw\n\\tag{?} % eq-w\n$$"
    made = forms.for_readers("03-third", with_cell(book, text))
    assert (
        "A share of 12.5%<!--=share:.1%-->, then 12.50%<!--=share:.2%-->, by [(3.1)](#eq-here).\n\n"
        "$$\nw\n\\tag{3.3} % eq-w\n$$" in [cell.source for cell in made.cells]
    )


def test_a_whole_chapter_for_readers(book):
    made = forms.for_readers("03-third", forms.Book(book))
    texts = [cell.source for cell in made.cells]
    assert texts[0] == "# 3. The third\n\nIs it?"
    assert texts[texts.index("figure()") + 1] == "**Figure 3.1.** It is 0.1<!--=share:.1f-->. <!--fig-here-->"
    at = texts.index("# Your answer to Exercise 3.1")
    assert texts[at - 1].endswith("<details><summary>Hint</summary>\n\nLook at [(3.1)](#eq-here).\n\n</details>")
    assert "**Exercise 3.2** · Two · hard <!--exercise ex-03-two-->\n\nWhat?\n\n<!--end-->" in texts[at + 1]
    assert texts[at + 2] == "# Your answer to Exercise 3.2"
    solutions = (
        "## Solutions\n\n<details><summary>Solution to Exercise 3.1</summary><!--ex-03-one-->\n\n"
        "Because.\n\n```python\n1\n```\n\n</details>\n\n**Solution to Exercise 3.2** <!--solution ex-03-two-->"
    )
    assert texts[at + 3 : at + 6] == [solutions, "answer = 1", "More of it."]
    assert texts[-1].startswith("## Sources")
    folded = {cell.source: cell.metadata.get("jupyter", {}) for cell in made.cells if cell.cell_type == "code"}
    assert folded["answer = 1"] == {"source_hidden": True}
    assert folded["glue()"] == {"source_hidden": True, "outputs_hidden": True}
    assert folded["figure()"] == folded["glue_all()"] == {}


def test_a_chapter_for_readers_stays_as_it_is_and_for_sphinx_comes_back(book):
    before = forms.load(book / "03-third.ipynb")
    made = forms.for_readers("03-third", forms.Book(book))
    again = forms.for_readers("03-third", forms.Book(book, {"03-third": forms.directives(made)}))
    assert [(c.source, c.metadata) for c in made.cells] == [(c.source, c.metadata) for c in again.cells]

    def text(notebook):
        whole = "\n\n".join(f"{c.cell_type}: {c.source}\n{c.get('outputs', '')}" for c in notebook.cells)
        return re.sub(r"(?:\n|markdown: |\n\[\])+", "\n", whole).strip()

    assert text(forms.for_sphinx(made)) == text(before)
    captions = [forms.for_sphinx(made).cells[3].metadata["mystnb"], before.cells[3].metadata["mystnb"]]
    assert captions[0] == captions[1]


def test_sphinx_sees_values_where_code_is_shown_and_no_cell_that_shows_nothing(book):
    chapter = forms.load(book / "03-third.ipynb")
    shown, equation, _, hidden = [cell for cell in chapter.cells if cell.cell_type == "code"][:4]
    names = [output.metadata.get("scrapbook", {}).get("name") for output in shown.outputs]
    assert names == ["share", "share_low", "share_high", "many", "tiny", "place", "lost", None]
    assert shown.outputs[-1].data["text/plain"] == VALUES
    assert list(equation.outputs[0].data) == [forms.PREFIX + "text/latex", forms.PREFIX + "text/plain"]
    assert hidden.metadata["tags"] == ["remove-cell"] and len(hidden.outputs) == 1


def test_values_are_not_seen_beside_what_an_open_cell_shows():
    printed = v4.new_output("stream", text="said\n")
    cell = v4.new_code_cell("x = 1", outputs=[printed, value("x = 1")])
    made = forms.for_sphinx(v4.new_notebook(cells=[cell])).cells[0]
    assert [output.get("metadata", {}).get("scrapbook", {}).get("name") for output in made.outputs] == [None, "x"]


def test_a_folded_cell_that_an_open_one_needs_stays_as_a_fold():
    def folded(code):
        return v4.new_code_cell(code, metadata={"tags": ["hide-input"]}, outputs=[value("hid = 1")])

    needed = ("x = 1", "def y(): pass", "import math as m", "for i in (1, 2): pass")
    cells = [*map(folded, needed), folded("z = 1"), folded("w = z"), v4.new_code_cell("print(x, y, m, i)")]
    made = forms.for_sphinx(v4.new_notebook(cells=cells)).cells
    assert [cell.metadata.get("tags") for cell in made] == [["hide-input"]] * 4 + [["remove-cell"]] * 2 + [None]


BROKEN = {
    "{eq}`eq-nowhere`": "nothing has the label eq-nowhere",
    "{glue:text}`nowhere:.1f`": "no cell glues nowhere:.1f",
    "{glue:text}`place:.1f`": "place:.1f cannot be written",
    "{cite}`nobody1999`": "no such work: nobody1999",
    "{kbd}`x`": "the role kbd has no form",
    ":::{warning}\nx\n:::": "the directive warning has no form",
    ":::{admonition} x": "has no line ':::' at its end",
    "{doc}`nowhere`": "there is no page nowhere",
    "{ref}`words <in-nothing>`": "no page of text has the label in-nothing",
}


@pytest.mark.parametrize("text", BROKEN)
def test_what_cannot_be_written_is_named(book, text):
    with pytest.raises(UserError, match=re.escape(BROKEN[text])):
        forms.for_readers("03-third", with_cell(book, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("*Proof.* <!--prf:proof--> Never ends.", "has no line '<!--end-->' at its end"),
        ("$$\nx", "has no line '$$' at its end"),
        ("## Solutions\n\n<details><summary>Solution to Exercise 1</summary><!--ex-1-->\n\nx\n\n</details>", "ex-1"),
    ],
)
def test_a_block_without_an_end_and_a_stray_solution_are_named(text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        forms.for_sphinx(v4.new_notebook(cells=[v4.new_markdown_cell(text)]))


# The book


@pytest.fixture(scope="module")
def whole():
    return forms.Book(BOOK)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_value_and_number_in_a_chapter_is_the_current_one(path, whole):
    from notebooks import normalise

    now = normalise(forms.for_readers(path.stem, whole))
    assert now == nbformat.read(path, as_version=4), "run `make fill`"


#: What MyST alone understands, and what would be seen of it.
RAW = (
    r"\{(?:glue|eq|doc|cite|term|numref|ref|prf|py|admonition|exercise|solution|table)(?:[:-]\w+)?\}",
    r"^\s*(?:`{3,}|:{3,})\s*\{",  # a directive
    r"^\([\w-]+\)=",  # a target
    r"\$\$ *\([\w-]+\)",  # the label of an equation
    r"^:::",
)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_as_jupyter_shows_it_has_no_trace_of_markup(path):
    from bs4 import BeautifulSoup
    from nbconvert import HTMLExporter

    html, _ = HTMLExporter().from_notebook_node(nbformat.read(path, as_version=4))
    page = BeautifulSoup(html, "html.parser")
    texts = [cell.get_text() for cell in page.select(".jp-RenderedMarkdown, .jp-RenderedHTMLCommon")]
    assert texts
    seen = "\n".join(texts)
    for raw in RAW:
        assert re.findall(raw, seen, re.M) == []
    equations = [found for text in texts for found in re.findall(r"\$\$(.*?)\$\$", text, re.S)]
    assert all(found.strip() for found in equations)
    assert "<!--" not in page.get_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_figure_has_its_caption_below(path):
    cells = nbformat.read(path, as_version=4).cells
    drawn = [any("image/svg+xml" in output.get("data", {}) for output in cell.get("outputs", [])) for cell in cells]
    captions = [cell.source.startswith("**Figure ") for cell in cells]
    assert captions == [False, *drawn[:-1]]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_link_in_a_chapter_leads_to_a_file_beside_it(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            text = forms.outside_code(cell.source, str, lambda code: "")
            targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text) + re.findall(r'href="(?!https?:)([^"#]+)', text)
            assert [target for target in targets if not (BOOK / target).is_file()] == []


@pytest.mark.parametrize(
    ("formatted", "shown"),
    [
        ("-0.03", "−0.03"),
        ("-12%", "−12%"),
        ("1e-08", "10⁻⁸"),
        ("4e-07", "4·10⁻⁷"),
        ("-2.5e+10", "−2.5·10¹⁰"),
        ("1,536", "1,536"),
        ("90%", "90%"),
        ("nan", "nan"),
        ("Jean-Claude", "Jean-Claude"),
        ("2024-11-30", "2024-11-30"),
    ],
)
def test_numbers_are_written_as_readers_expect_them(formatted, shown):
    assert forms.written(formatted) == shown


@pytest.mark.parametrize("number", ["−0.03", "10⁻⁸", "−2.5·10¹⁰", "1,536", "90%", "?"])
def test_a_number_as_it_is_written_is_read_back_whole(number):
    assert re.fullmatch(forms._NUMBER, number)
