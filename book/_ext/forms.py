"""Two forms of a chapter: the one that people read, in ``book/``, and the one that Sphinx reads, made when a page is.

A chapter in ``book/`` is plain Markdown: it reads the same in JupyterLab, in VS Code, on GitHub and on Colab. What a
page needs beyond that stands in comments, which none of them shows, and in the targets of links. :func:`for_sphinx`
makes roles and directives of these, and :func:`for_readers` goes the other way and fills in every number: values from
the cells that computed them, numbers of equations, figures, theorems and chapters, authors and years.

==================  ===============================================  =========================================
what                for readers                                      for Sphinx
==================  ===============================================  =========================================
value of a cell     ``90%<!--=share:.0%-->``                         role ``glue:text``
equation            ``\\tag{3.2} % eq-x``, last line of ``$$``         ``$$ (eq-x)``
SymPy's equation    ``\\tag{3.2} % eq-x = name``                      directive ``glue:math``
reference           ``[(3.2)](03-lifelong.ipynb#eq-x)``              roles ``eq``, ``numref``, ``prf:ref``, ``ref``
section of a page   ``[to run it](index.md#run-it)``                 role ``ref``
chapter, page       ``[Chapter 3](03-lifelong.ipynb)``               role ``doc``
citation            ``[Hu et al. (2025)](bibliography.md#hu2024)``   roles ``cite:t``, ``cite``
term                ``[keys](glossary.md "key")``                    role ``term``
function            code that begins with ``superposition.``         role ``py:obj``
box                 quotation, ``> **Title** <!--class-->``          ``admonition``
hint                ``<details><summary>Hint</summary>``             ``admonition``, folded
theorem             ``**Theorem 3.2** (Title) <!--prf:theorem …-->`` ``prf:theorem``
exercise            ``**Exercise 3.1** · Title <!--exercise …-->``   ``exercise``
solution            under the heading *Solutions*                    after its exercise, folded
picture to turn     ``<!--turn keys-->``, and the same in words       ``turn`` (``turn.py``)
caption             a cell after the figure's                        metadata of the figure's cell
==================  ===============================================  =========================================
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat

from superposition.book import cells
from superposition.errors import UserError
from superposition.lm.gguf import PRESETS

#: Directives of sphinx-proof that are numbered, and the word that stands before the number.
PROVED = {"theorem": "Theorem", "proposition": "Proposition", "corollary": "Corollary", "lemma": "Lemma"}

#: What pages without a number are called in a sentence.
PAGES = {
    "capstone": "Now your own model",
    "claims": "claims",
    "notation": "notation",
    "reproduce": "Run it on your own model",
}

END = "<!--end-->"
ANSWER, INSTALL = "answer", "install"

#: What a chapter of a public repository begins with, given the address.
INSTALLS = """\
# Where the library is missing, as on Colab, this installs it.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("superposition") is None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    library = "knowledge-in-superposition @ git+{url}"
    subprocess.run([*pip, library], check=True)
    subprocess.run([*pip, "--no-deps", "{model}"], check=True)"""
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_NUMBER = r"[-−+]?(?:\d[\d.]*·)?10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+|[-−+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:e[-+]?\d+)?%?|\?"
_CODE = re.compile(
    r"(^(?P<fence>`{3,})[^`\n]*\n.*?^(?P=fence)[ \t]*$|(?P<tick>`+)(?!`).+?(?<!`)(?P=tick)(?!`))", re.M | re.S
)


def written(text: str) -> str:
    """A formatted number as readers expect it: −3 for -3, 10⁻⁸ for 1e-08, 4·10⁻⁷ for 4e-07; other text as it is."""
    match = re.fullmatch(r"(-?)([\d.,]+)(?:e([-+]?\d+))?(%?)", text)
    if match is None:
        return text
    minus, digits, power, percent = match.groups()
    if power is not None:
        ten = "10" + str(int(power)).translate(_SUPERSCRIPTS)
        digits = ten if digits == "1" else f"{digits}·{ten}"
    return minus.replace("-", "−") + digits + percent


def outside_code(text: str, change: Callable[[str], str], code: Callable[[str], str] = str) -> str:
    """The text with `change` applied to what is no code, and `code` to spans and blocks of code."""
    done, at = [], 0
    for match in _CODE.finditer(text):
        done += [change(text[at : match.start()]), code(match[0])]
        at = match.end()
    return "".join([*done, change(text[at:])])


# For Sphinx


def _citations(text: str) -> str:
    link = r"\[[^\[\]]+, \d{4}\]\(bibliography\.md#(\w+)\)"

    def group(match: re.Match[str]) -> str:
        return "{cite}`" + ",".join(re.findall(r"#(\w+)\)", match[0])) + "`"

    text = re.sub(rf"\({link}(?:; {link})*\)", group, text)
    return re.sub(r"\[[^\[\]]+ \(\d{4}\)\]\(bibliography\.md#(\w+)\)", r"{cite:t}`\1`", text)


def _reference(match: re.Match[str]) -> str:
    words, page, label = match["words"], match["page"], match["label"]
    if label and match["suffix"] == "md":
        return f"{{ref}}`{words} <{label}>`"
    if label:
        kind = label.split("-")[0]
        role = {"eq": "eq", "def": "eq", "fig": "numref", "tab": "numref", "ex": "ref"}.get(kind, "prf:ref")
        return f"{{{role}}}`{label}`"
    return f"{{doc}}`{words} <{page}>`"


def _roles(text: str) -> str:
    """Links and values of a text as roles."""

    def value(match: re.Match[str]) -> str:
        return f"{{glue:text}}`{match['asked']}`"

    for match in list(re.finditer(r"<!--=(?P<asked>[^|>]+)\|(?P<words>[^>]*?)-->", text)):
        text = text.replace(match["words"] + match[0], value(match))
    text = re.sub(rf"(?P<words>{_NUMBER})<!--=(?P<asked>[^|>]+?)-->", value, text)
    text = _citations(text)
    text = re.sub(r'\[([^\[\]]+)\]\(glossary\.md "([^"]+)"\)', _term, text)
    name = r"[\w.-]+?"
    return re.sub(
        rf"\[(?P<words>[^\[\]]+)\]\((?!https?:)(?:(?P<page>{name})\.(?P<suffix>ipynb|md))?(?:#(?P<label>[a-z]+-[\w-]+))?\)",
        _reference,
        text,
    )


def _term(match: re.Match[str]) -> str:
    words, term = match[1], match[2]
    return f"{{term}}`{term}`" if words == term else f"{{term}}`{words} <{term}>`"


def _code(text: str) -> str:
    return f"{{py:obj}}{text}" if re.fullmatch(r"`superposition(?:\.\w+)+`", text) else text


def _inline(text: str) -> str:
    return outside_code(text, _roles, _code).replace("}{py:obj}`", "}`")  # of a role, which has its own


def _directive(name: str, title: str, options: dict[str, str], body: str, fence: str = ":::") -> str:
    if "`" in title:  # which ends a line of backticks
        fence = ":" * len(fence)
    head = [f"{fence}{{{name}}} {title}".rstrip(), *(f":{key}: {value}" for key, value in options.items() if value)]
    return "\n".join([*head, body.strip("\n"), fence])


_BLOCKS = re.compile(
    r"^(?:"
    r"\*\*(?:Theorem|Proposition|Corollary|Lemma) [\d.?]+\*\*(?: \((?P<named>.*)\))?\. "
    r"<!--prf:(?P<proved>\w+) (?P<label>[\w-]+)-->(?P<states>.*)"
    r"|\*Proof\.\* (?P<proof><!--prf:proof-->)(?P<argues>.*)"
    r"|\*\*Exercise [\w.?]+\*\* · (?P<exercise>.*) <!--exercise (?P<asks>[\w-]+)-->"
    r"|\*\*Table [\d.?]+\.\*\* (?P<table>.*) <!--table (?P<name>[\w-]+)-->"
    r"|<!--turn (?P<turn>\w+)-->"
    r"|(?P<details><details><summary>Hint</summary>)"
    r"|> \*\*(?P<box>.*)\*\* <!--(?P<classes>[\w -]+)-->"
    r"|(?P<math>\$\$)"
    r"|(?P<fence>`{3,}).*"
    r")[ \t]*$"
)
_TAG = re.compile(r"^(?P<before>.*?)[ \t]*\\tag\{[^}]*\} % (?P<label>[\w-]+)(?: = (?P<glued>[\w-]+))?$")


def _until(lines: list[str], end: str) -> list[str]:
    """The lines up to one that reads `end`, which is taken away as well."""
    body = []
    while lines:
        line = lines.pop(0)
        if line.strip() == end:
            return body
        body.append(line)
    raise UserError(f"a block has no line {end!r} at its end")


def _first(lines: list[str], start: str) -> str:
    """The first of the lines, which begins with `start`; it is taken away."""
    if not lines:
        raise UserError(f"a block has no line {start!r} at its end")
    return lines.pop(0)


def _blocks(text: str) -> str:
    """A cell's text with its blocks as directives; their own texts too."""
    lines, done = text.splitlines(), []
    plain: list[str] = []

    def flush() -> None:
        if plain:
            done.append(_inline("\n".join(plain)))
            plain.clear()

    while lines:
        line = lines.pop(0)
        match = _BLOCKS.match(line)
        if match is None:
            plain.append(line)
            continue
        flush()
        if match["fence"]:
            done.append("\n".join([line, *_until(lines, match["fence"]), match["fence"]]))
        elif match["math"]:
            body = []
            while lines and not lines[0].startswith("$$"):
                body.append(lines.pop(0))
            done.append(_equation(body, _first(lines, "$$")))
        elif match["box"] is not None:
            body = []
            while lines and lines[0].startswith(">"):
                body.append(lines.pop(0)[1:].removeprefix(" "))
            done.append(
                _directive("admonition", _inline(match["box"]), {"class": match["classes"]}, _blocks("\n".join(body)))
            )
        elif match["details"]:
            body = _blocks("\n".join(_until(lines, "</details>")))
            done.append(_directive("admonition", "Hint", {"class": "dropdown tip"}, body))
        else:
            begins = (match["states"] or match["argues"] or "").strip()
            body = _blocks("\n".join([begins, *_until(lines, END)]))
            if match["turn"]:
                done.append(_directive("turn", match["turn"], {}, body))
            elif match["proof"]:
                done.append(_directive("prf:proof", "", {}, body))
            elif match["proved"]:
                title = _inline(match["named"] or "")
                done.append(_directive(f"prf:{match['proved']}", title, {"label": match["label"]}, body))
            elif match["asks"]:
                title = _inline(match["exercise"])
                done.append(_directive("exercise", title, {"label": match["asks"]}, body, "```"))
            else:
                done.append(_directive("table", _inline(match["table"]), {"name": match["name"]}, body, "```"))
    flush()
    return "\n".join(done)


def _equation(body: list[str], end: str) -> str:
    tag = _TAG.match(body[-1]) if body else None
    if tag is None:
        return "\n".join(["$$", *body, end])
    if tag["glued"]:
        return _directive("glue:math", tag["glued"], {"label": tag["label"]}, "", "```")
    return "\n".join(["$$", *body[:-1], *([tag["before"]] if tag["before"] else []), f"$$ ({tag['label']})"])


_CAPTION = re.compile(r"\A\*\*Figure [\d.?]+\.\*\* (?P<caption>.*?) <!--(?P<name>fig-[\w-]+)-->\s*\Z", re.S)
_SOLUTION = re.compile(
    r"^(?:<details><summary>Solution to Exercise [\w.?]+</summary><!--(?P<folded>[\w-]+)-->"
    r"|\*\*Solution to Exercise [\w.?]+\*\* <!--solution (?P<open>[\w-]+)-->)[ \t]*$",
    re.M,
)


def for_sphinx(notebook: Any) -> Any:
    """The chapter as Sphinx reads it: roles, directives, captions in metadata, solutions after their exercises.

    Parameters
    ----------
    notebook : nbformat.NotebookNode
        As people read it, or as Sphinx does already. It stays as it is.

    Raises
    ------
    UserError
        If a block has no end, or a solution no exercise.
    """
    notebook = directives(notebook)
    read: set[str] = set()  # names that the open cells below take from cells above them
    for cell in reversed(notebook.cells):
        if cell.cell_type == "code":
            binds, loads = _names(cell.source)
            folded = _fill_values(cell, needed=bool(binds & read))
            read |= set() if folded else loads
    return notebook


def _names(code: str) -> tuple[set[str], set[str]]:
    """Names that code binds, and that it loads, anywhere in it."""
    bound, loaded = set(), set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name):
            (loaded if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            bound.add(node.asname or node.name.split(".")[0])
    return bound, loaded


def directives(notebook: Any) -> Any:
    """The chapter with its text as Sphinx reads it, and its outputs as they are."""
    notebook = copy.deepcopy(notebook)
    given, solutions = _without_solutions(notebook.cells)
    done: list[Any] = []
    for cell in given:
        if cell.cell_type == "code":
            if not {ANSWER, INSTALL} & set(cell.metadata.get("tags", [])):
                done.append(cell)
            continue
        if caption := _CAPTION.match(cell.source):
            figure = {"name": caption["name"], "caption": _inline(caption["caption"])}
            done[-1].metadata.setdefault("mystnb", {}).setdefault("figure", {}).update(figure)
            continue
        cell.source = _without_number(_blocks(cell.source))
        done += _with_solutions(cell, solutions)
    if solutions:
        raise UserError(f"there is a solution of {sorted(solutions)[0]}, but no such exercise")
    notebook.cells = done
    return notebook


PREFIX = "application/papermill.record/"
FOLDED = frozenset({"hide-input", "hide-cell", "remove-input", "remove-cell"})


def _fill_values(cell: Any, needed: bool) -> bool:
    """Give a cell its glued values as myst-nb's glue has them; say whether it is folded.

    Values are seen only where an open cell shows nothing else: the text says them. A cell that is folded and shows no
    more is not seen, unless its names are `needed` to read an open cell below.
    """
    outputs, seen = [], False
    folded = FOLDED & set(cell.metadata.get("tags", []))
    bare = all("glued" in output.get("metadata", {}) for output in cell.outputs)
    for output in cell.outputs:
        glued = output.get("metadata", {}).get("glued")
        if glued is None:
            seen = seen or "scrapbook" not in output.get("metadata", {})
            outputs.append(output)
        elif glued is True:
            outputs += [_pasted(name, {"text/plain": repr(value)}) for name, value in _values(output).items()]
            if bare and not folded:
                del output.metadata["glued"]
                outputs.append(output)
        else:
            outputs.append(_pasted(glued, dict(output.data)))
    cell.outputs = outputs
    if folded and not seen and not needed:
        cell.metadata["tags"] = ["remove-cell"]
    return bool(folded)


def _values(output: Any) -> dict[str, Any]:
    return dict(cells.values("".join(output["data"]["text/plain"])))


def _pasted(name: str, data: dict[str, str]) -> Any:
    data = {f"{PREFIX}{kind}": text for kind, text in data.items()}
    return nbformat.v4.new_output("display_data", data, metadata={"scrapbook": {"mime_prefix": PREFIX, "name": name}})


def _without_number(text: str) -> str:
    return re.sub(r"\A# \d+\. ", "# ", text)


def _without_solutions(cells: list[Any]) -> tuple[list[Any], dict[str, list[Any]]]:
    """The cells but for those of the section *Solutions*; and these, as directives, by exercise."""
    kept, solutions, inside = [], {}, False
    for cell in cells:
        text = cell.source
        if cell.cell_type == "markdown" and text.startswith("## "):
            inside = text.startswith("## Solutions")
            text = text.removeprefix("## Solutions")
        if not inside:
            kept.append(cell)
        elif cell.cell_type == "code":
            solutions[list(solutions)[-1]].append(cell)
        else:
            cut = [0, *(match.start() for match in _SOLUTION.finditer(text)), len(text)]
            for start, end in pairwise(cut):
                part = text[start:end].strip("\n")
                if head := _SOLUTION.match(part):
                    solutions[head["folded"] or head["open"]] = [head]
                    part = part[head.end() :].strip("\n")
                    part = part.removesuffix("</details>") if head["folded"] else part
                if part.strip("\n"):
                    solutions[list(solutions)[-1]].append(_markdown(_blocks(part.strip("\n"))))
    return kept, {label: _solution(label, parts) for label, parts in solutions.items()}


def _solution(label: str, parts: list[Any]) -> list[Any]:
    """A solution's cells, given what heads it and what it holds."""
    options = {"label": f"sol-{label.removeprefix('ex-')}", "class": "dropdown"}
    head, *inner = parts
    if head["folded"]:
        return [_markdown(_directive("solution", label, options, inner[0].source, "````"))]
    start = _directive("solution-start", label, options, "", "```").replace("\n\n```", "\n```")
    return [_markdown(start), *inner, _markdown("```{solution-end}\n```")]


def _with_solutions(cell: Any, solutions: dict[str, list[Any]]) -> Iterator[Any]:
    """A cell, cut after each exercise and its hint, and the solutions between."""
    text = cell.source
    pattern = r"^```\{exercise\} .*\n:label: ([\w-]+)\n(?:.*\n)*?```$(?:\n+:::\{admonition\} Hint\n(?:.*\n)*?:::$)?"
    at = 0
    for match in re.finditer(pattern, text, re.M):
        if match[1] in solutions:
            yield _markdown(text[at : match.end()].strip("\n"))
            yield from solutions.pop(match[1])
            at = match.end()
    if text[at:].strip() or at == 0:
        cell.source = text[at:].strip("\n")
        yield cell


def _markdown(text: str) -> Any:
    return nbformat.v4.new_markdown_cell(text)


# For readers


@dataclass
class Book:
    """What chapters say of one another: numbers, values, titles; who wrote what.

    Attributes
    ----------
    folder : Path
        Where the chapters, ``bibliography.md`` and ``references.bib`` are.
    chapters : dict of str to notebook
        By name without ``.ipynb``, as Sphinx reads them; read from the folder where they are not given.
    repository : str
        The public address of the repository, or nothing.
    """

    folder: Path
    chapters: dict[str, Any] = field(default_factory=dict)
    repository: str = ""

    def __post_init__(self) -> None:
        for path in sorted(self.folder.glob("*.ipynb")):
            if path.stem not in self.chapters:
                self.chapters[path.stem] = directives(nbformat.read(path, as_version=4))

    def number(self, page: str) -> str | None:
        """The number of a chapter, or None."""
        match = re.match(r"(\d\d)-", page)
        return str(int(match[1])) if match else None

    def called(self, page: str) -> str:
        """What a page is called in a sentence."""
        number = self.number(page)
        return f"Chapter {number}" if number else PAGES.get(page, page)

    def page_with(self, label: str) -> str:
        """The file of text, no chapter, in which a label stands."""
        for path in sorted(self.folder.glob("*.md")):
            if f"({label})=" in path.read_text(encoding="utf-8").splitlines():
                return path.name
        raise UserError(f"no page of text has the label {label}")

    @cached_property
    def labels(self) -> dict[str, tuple[str, str]]:
        """Page and number of everything that has a label, as the page prints the number."""
        found = {}
        for page, notebook in self.chapters.items():
            counts: dict[str, int] = {}
            for kind, label in _labels(notebook):
                counts[kind] = counts.get(kind, 0) + 1
                number = f"{self.number(page)}.{counts[kind]}" if self.number(page) else str(counts[kind])
                found[label] = page, f"({number})" if kind == "" else f"{kind} {number}"
        return found

    @cached_property
    def authors(self) -> dict[str, tuple[str, str]]:
        """Names and year of every work cited, by key."""
        from pybtex.database import parse_file

        found = {}
        for key, entry in parse_file(str(self.folder / "references.bib")).entries.items():
            names = [" ".join([*person.prelast_names, *person.last_names]) for person in entry.persons["author"]]
            names = [re.sub(r"[{}]", "", name) for name in names]
            who = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
            found[key] = who, entry.fields["year"]
        return found

    def glued(self, page: str) -> dict[str, Any]:
        """What the cells of a chapter have glued, by name: numbers and strings, LaTeX of equations."""
        found = {}
        for cell in self.chapters[page].cells:
            for output in cell.get("outputs", []):
                glued = output.get("metadata", {}).get("glued")
                if glued is True:
                    found.update(_values(output))
                elif glued:
                    found[glued] = re.sub(r"\A\$\\displaystyle |\$\Z", "", output["data"]["text/latex"])
        return found


def _labels(notebook: Any) -> Iterator[tuple[str, str]]:
    """(word, label) of everything numbered in a chapter, in order; equations have no word."""
    kinds = {f"prf:{kind}": word for kind, word in PROVED.items()} | {"glue:math": "", "exercise": "Exercise"}
    directive = r"^[`:]{3,}\{(?P<name>[\w:]+)\}.*\n(?::class:.*\n)?:(?:label|name): (?P<label>[\w-]+)"
    pattern = rf"^\$\$ \((?P<math>[\w-]+)\)|{directive}"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            if name := cell.metadata.get("mystnb", {}).get("figure", {}).get("name"):
                yield "Figure", name
            continue
        for match in re.finditer(pattern, cell.source, re.M):
            kind = "" if match["math"] else (kinds | {"table": "Table"}).get(match["name"])
            if kind is not None:
                yield kind, match["math"] or match["label"]


class Writer:
    """One chapter in the form for readers."""

    def __init__(self, book: Book, page: str):
        self.book, self.page = book, page

    def link(self, label: str) -> str:
        if label not in self.book.labels:
            raise UserError(f"{self.page}: nothing has the label {label}")
        page, number = self.book.labels[label]
        return f"[{number}]({'' if page == self.page else page + '.ipynb'}#{label})"

    def value(self, asked: str) -> str:
        page, _, rest = asked.rpartition("::")
        name, _, spec = rest.partition(":")
        glued = self.book.glued(page.removesuffix(".ipynb") or self.page)
        if name not in glued:
            raise UserError(f"{self.page}: no cell glues {asked}")
        try:
            return written(format(glued[name], spec) if spec else str(glued[name]))
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.page}: {asked} cannot be written: {error}") from error

    def role(self, match: re.Match[str]) -> str:
        role, target = match[1], match[2]
        words, _, inner = target.partition(" <")
        inner = inner.removesuffix(">") or target
        if role == "glue:text":
            return self.filled(match)
        if role == "ref" and inner != target:
            return f"[{words}]({self.book.page_with(inner)}#{inner})"
        if role in ("eq", "numref", "prf:ref", "ref"):
            return self.link(inner)
        if role == "doc":
            suffix = next((end for end in ("ipynb", "md") if (self.book.folder / f"{inner}.{end}").exists()), None)
            if suffix is None:
                raise UserError(f"{self.page}: there is no page {inner}")
            words = self.book.called(inner) if inner == target or self.book.number(inner) else words
            return f"[{words}]({inner}.{suffix})"
        if role == "term":
            return f'[{words if inner != target else target}](glossary.md "{inner}")'
        if role in ("cite", "cite:t"):
            form = "[{} ({})]" if role == "cite:t" else "[{}, {}]"
            keys = [key.strip() for key in target.split(",")]
            if missing := [key for key in keys if key not in self.book.authors]:
                raise UserError(f"{self.page}: there is no such work: {missing[0]}")
            links = [f"{form.format(*self.book.authors[key])}(bibliography.md#{key})" for key in keys]
            return ", ".join(links) if role == "cite:t" else f"({'; '.join(links)})"
        if role.startswith("py:"):
            return f"`{inner.removeprefix('~')}`"
        raise UserError(f"{self.page}: the role {role} has no form for readers")

    def filled(self, match: re.Match[str]) -> str:
        text, asked = self.value(match[2]), match[2]
        before = match.string[max(match.start() - 20, 0) : match.start()]
        seen = re.search(rf"(?:{_NUMBER})\Z", before + text)
        return f"{text}<!--={asked}-->" if seen and seen[0] == text else f"{text}<!--={asked}|{text}-->"

    def inline(self, text: str) -> str:
        return re.sub(r"(?<!`)\{([a-z]+(?::[a-z]+)?)\}`([^`]+)`", self.role, text)

    def blocks(self, text: str, boxed: bool = False) -> str:
        """A text with its directives as blocks of plain Markdown."""
        lines, done, plain = text.splitlines(), [], []

        def flush() -> None:
            if plain:
                done.append(self.inline("\n".join(_unwrapped(plain) if boxed else plain)))
                plain.clear()

        while lines:
            line = lines.pop(0)
            opens = re.match(r"^(?P<fence>`{3,}|:{3,})(?:\{(?P<name>[\w:-]+)\} ?(?P<title>.*))?(?P<rest>.*)$", line)
            if opens and (opens["name"] or opens["fence"][0] == "`"):
                flush()
                body = _until(lines, opens["fence"])
                if opens["name"]:
                    done.append(self.directive(opens["name"], opens["title"].strip(), body))
                else:
                    done.append("\n".join([line, *body, opens["fence"]]))
            elif line == "$$" or (re.match(r"^\$\$ *[^$ ].*", line) and "$$" not in line[2:]):
                flush()
                body = [line[2:].strip()] if line != "$$" else []
                while lines and not lines[0].startswith("$$"):
                    body.append(lines.pop(0))
                label = re.match(r"^\$\$(?: \(([\w-]+)\))?$", lines.pop(0))
                assert label, text
                tag = [self.tag(label[1])] if label[1] else []
                done.append("\n".join(["$$", *body, *tag, "$$"]))
            else:
                plain.append(line)
        flush()
        return "\n".join(done)

    def tag(self, label: str, glued: str = "") -> str:
        number = self.book.labels[label][1].strip("()")
        return rf"\tag{{{number}}} % {label}" + (f" = {glued}" if glued else "")

    def directive(self, name: str, title: str, body: list[str]) -> str:
        options = {}
        while body and (option := re.match(r"^:([\w-]+): *(.*)$", body[0])):
            options[option[1]] = option[2]
            body.pop(0)
        label, text = options.get("label", options.get("name", "")), "\n".join(body).strip("\n")
        if name == "glue:math":
            return "\n".join(["$$", self.book.glued(self.page)[title], self.tag(label, title), "$$"])
        if name == "admonition" and options.get("class") == "dropdown tip":
            return f"<details><summary>{title}</summary>\n\n{self.blocks(text)}\n\n</details>"
        if name == "admonition":
            quoted = self.blocks(text, boxed=True).splitlines()
            head = f"> **{self.inline(title)}** <!--{options['class']}-->"
            return "\n".join([head, ">", *(f"> {line}".rstrip() for line in quoted)])
        inner = self.blocks(text)
        if name == "turn":
            return f"<!--turn {title}-->\n\n{inner}\n\n{END}"
        if name == "prf:proof":
            return f"*Proof.* <!--prf:proof-->{_continued(inner)}\n\n{END}"
        number = self.book.labels[label][1] if label in self.book.labels else ""
        if name.startswith("prf:"):
            named = f" ({self.inline(title)})" if title else ""
            return f"**{number}**{named}. <!--{name} {label}-->{_continued(inner)}\n\n{END}"
        if name == "exercise":
            return f"**{number}** · {self.inline(title)} <!--exercise {label}-->\n\n{inner}\n\n{END}"
        if name == "table":
            return f"**{number}.** {self.inline(title)} <!--table {label}-->\n\n{inner}\n\n{END}"
        raise UserError(f"{self.page}: the directive {name} has no form for readers")

    def write(self) -> Any:
        """The whole chapter."""
        notebook = copy.deepcopy(self.book.chapters[self.page])
        done, solutions = [], []
        for cell in _solutions_apart(notebook.cells, solutions):
            if cell.cell_type == "code":
                done.append(self.code(cell))
                figure = cell.metadata.get("mystnb", {}).get("figure")
                if figure:
                    number = self.book.labels[figure["name"]][1]
                    caption = self.inline(figure.pop("caption"))
                    done.append(_markdown(f"**{number}.** {caption} <!--{figure.pop('name')}-->"))
                    if not figure:
                        del cell.metadata["mystnb"]["figure"]
                continue
            cell.source = self.titled(self.blocks(cell.source))
            done += _with_answers(cell)
        at = [i for i, cell in enumerate(done) if cell.cell_type == "markdown" and cell.source.startswith("## Sources")]
        done[at[-1] if at else len(done) : at[-1] if at else len(done)] = self.solutions(solutions)
        notebook.cells = self.with_install(done)
        return notebook

    def with_install(self, cells: list[Any]) -> list[Any]:
        """The cells, and one that installs the library before the first that has code."""
        at = next((at for at, cell in enumerate(cells) if cell.cell_type == "code"), None)
        if at is None or not self.book.repository:
            return cells
        model = PRESETS["smollm2"].install.split()[-1]
        text = INSTALLS.format(url=self.book.repository, model=model)
        install = nbformat.v4.new_code_cell(text, metadata={"tags": [INSTALL], "jupyter": {"source_hidden": True}})
        return [*cells[:at], install, *cells[at:]]

    def code(self, cell: Any) -> Any:
        if FOLDED & set(cell.metadata.get("tags", [])):
            only_values = all("glued" in output.get("metadata", {}) for output in cell.outputs)
            cell.metadata["jupyter"] = {"source_hidden": True} | ({"outputs_hidden": True} if only_values else {})
        return cell

    def titled(self, text: str) -> str:
        number = self.book.number(self.page)
        return re.sub(r"\A# (?!\d+\. )", f"# {number}. ", text) if number else text

    def solutions(self, solutions: list[tuple[str, list[Any]]]) -> list[Any]:
        """The section *Solutions*."""
        section: list[Any] = [_markdown("## Solutions")] if solutions else []
        for label, parts in solutions:
            number = self.book.labels[label][1]
            if len(parts) == 1 and parts[0].cell_type == "markdown":
                text = f"<details><summary>Solution to {number}</summary><!--{label}-->\n\n"
                section.append(_markdown(f"{text}{self.blocks(parts[0].source)}\n\n</details>"))
                continue
            section.append(_markdown(f"**Solution to {number}** <!--solution {label}-->"))
            for part in parts:
                if part.cell_type == "markdown":
                    part.source = self.blocks(part.source)
                else:
                    part.metadata["jupyter"] = {"source_hidden": True}
                section.append(part)
        return _merged(section)


def _merged(cells: list[Any]) -> list[Any]:
    """Cells with neighbouring texts in one."""
    done: list[Any] = []
    for cell in cells:
        if done and cell.cell_type == done[-1].cell_type == "markdown":
            done[-1].source += "\n\n" + cell.source
        else:
            done.append(cell)
    return done


def _unwrapped(lines: list[str]) -> list[str]:
    """Lines of a paragraph on one line: a quotation's mark must not fall into a formula."""
    done: list[str] = []
    for line in lines:
        new = not line.strip() or re.match(r"^\s*(?:[-*]|\d+\.) ", line) or not done or not done[-1].strip()
        if new:
            done.append(line)
        else:
            done[-1] += " " + line.strip()
    return done


def _continued(text: str) -> str:
    """A text that goes on in the line before it, unless it begins with something that needs a line of its own."""
    return f"\n\n{text}" if re.match(r"\$\$|[-*] |\d+\. |\||<|>|\*\*", text) else f" {text}"


_SOLVED = re.compile(
    r"^(?P<fence>`{3,})\{solution(?P<start>-start)?\} (?P<label>[\w-]+)\n(?::.*\n)*(?P<body>(?:.*\n)*?)(?P=fence)$"
    r"|^`{3,}\{solution-end\}\n`{3,}$",
    re.M,
)


def _solutions_apart(cells: list[Any], solutions: list[tuple[str, list[Any]]]) -> Iterator[Any]:
    """The cells without solutions, which are put into the list."""
    inside: list[Any] | None = None
    for cell in cells:
        if cell.cell_type == "code":
            if inside is None:
                yield cell
            else:
                inside.append(cell)
            continue
        text, at = cell.source, 0

        def piece(text: str) -> list[Any]:
            return [_markdown(text.strip("\n"))] if text.strip() else []

        kept: list[Any] = []
        for match in _SOLVED.finditer(text):
            (kept if inside is None else inside).extend(piece(text[at : match.start()]))
            at = match.end()
            if match["label"] is None:
                inside = None
            elif match["start"]:
                inside = []
                solutions.append((match["label"], inside))
            else:
                solutions.append((match["label"], piece(match["body"])))
        (kept if inside is None else inside).extend(piece(text[at:]) if at else [cell])
        yield from kept


def _with_answers(cell: Any) -> Iterator[Any]:
    """A cell, cut after each exercise and its hint, with a cell for the answer after each."""
    text, at = cell.source, 0
    hint = r"\n+<details><summary>Hint</summary>\n(?:.*\n)*?</details>$"
    pattern = rf"^\*\*Exercise [\w.?]+\*\* .*\n(?:.*\n)*?{END}$(?:{hint})?"
    for match in re.finditer(pattern, text, re.M):
        number = re.match(r"\*\*(Exercise [\w.?]+)\*\*", match[0])
        assert number
        yield _markdown(text[at : match.end()].strip("\n"))
        answer = nbformat.v4.new_code_cell(f"# Your answer to {number[1]}", metadata={"tags": [ANSWER]})
        yield answer
        at = match.end()
    if at == 0:
        yield cell
    elif text[at:].strip():
        yield _markdown(text[at:].strip("\n"))


def for_readers(page: str, book: Book) -> Any:
    """The chapter in the form for readers, with every number filled in.

    Raises
    ------
    UserError
        If a label, a value or a directive is unknown.
    """
    return Writer(book, page).write()


def load(path: Path) -> Any:
    """The chapter in a file as Sphinx reads it."""
    return read(path.read_text(encoding="utf-8"))


def read(text: str) -> Any:
    """The chapter in a file's text as Sphinx reads it: myst-nb's reader of notebooks (``nb_custom_formats``)."""
    return for_sphinx(nbformat.reads(text, as_version=4))
