"""What the book prints: glued values in the format of the prose, tables, and the checks that hold a number to them.

An executed chapter keeps a glued value in a cell's output, and the prose says in which format it is printed; a table is
Markdown in an output. Nothing is computed here: a check brings its own numbers (:mod:`recompute`).
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BOOK = Path(__file__).parents[1] / "book"
#: How prose prints a glued value: the page if it is another, the name, the format. In a chapter, and in other pages.
GLUED = re.compile(r"(?:<!--=|\{glue:text\}`)(?:([\w.-]+)\.ipynb::)?([^:`|>]+)(?::([^`|>]+?))?(?:\|[^>]*)?(?:-->|`)")
#: A line of what a cell glues; an estimate has an interval.
VALUE = re.compile(r"^(\S+) = (.+?)(?: \((\S+) to (\S+)\))?$", re.MULTILINE)
#: A number in a cell of a table, and what stands behind it in parentheses.
NUMBER = re.compile(r"[-−]?\d+(?:,\d{3})*(?:\.\d+)?%?|not seen")
PARENTHESES = re.compile(r"\([^()]*\)")

Table = list[list[str]]
#: What a check gives: numbers, or cells of a table, by the first cells of a row and by column.
Numbers = Iterable[Any]
Cells = dict[tuple[str, ...], dict[str, Any]]


class Book:
    """The pages of a folder.

    Attributes
    ----------
    glued : dict
        Values by page and name.
    formats : dict
        By page and name, the formats in which the prose of any page prints the value.
    tables : dict
        By page, its tables: a list of rows of cells, the header first.
    """

    def __init__(self, folder: Path = BOOK) -> None:
        self.glued: dict[str, dict[str, Any]] = {}
        self.formats: dict[tuple[str, str], set[str]] = {}
        self.tables: dict[str, list[Table]] = {}
        for path in sorted(folder.glob("*.md")):
            self._read_prose(path.stem, path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.ipynb")):
            self.glued[path.stem], self.tables[path.stem] = {}, []
            for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
                if cell["cell_type"] == "markdown":
                    self._read_prose(path.stem, "".join(cell["source"]))
                for output in cell.get("outputs", []):
                    self._read_output(path.stem, output)

    def _read_prose(self, page: str, text: str) -> None:
        for other, name, shown in GLUED.findall(text):
            self.formats.setdefault((other or page, name), set()).add(shown)

    def _read_output(self, page: str, output: Mapping[str, Any]) -> None:
        data = output.get("data", {})
        if output.get("metadata", {}).get("glued") is True:
            for name, *ends in VALUE.findall("".join(data["text/plain"])):
                for end, text in zip(("", "_low", "_high"), ends, strict=True):
                    if text:
                        self.glued[page][name + end] = value_of(text)
        elif "text/markdown" in data:
            self.tables[page].append(table_of("".join(data["text/markdown"])))

    def table(self, page: str, column: str) -> Table:
        """The page's table with a column of that name; of two or none of them, an empty one.

        A cell that begins with these words is a table, too: its further lines are ``label: numbers``.
        """
        tables = self.tables.get(page, [])
        cells = [cell for table in tables for row in table for cell in row if cell.startswith(column)]
        lines = [[line.partition(": ")[::2] for line in cell.split("<br>")[1:]] for cell in cells]
        found = [table for table in tables if column in table[0]]
        found += [[["", column], *map(list, of_cell)] for of_cell in lines if of_cell]
        return found[0] if len(found) == 1 else []


def value_of(text: str) -> Any:
    """A glued value from its representation; ``nan`` and ``inf`` are floats, too."""
    try:
        return float(text) if text in ("nan", "inf", "-inf") else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def table_of(text: str) -> Table:
    """The rows of a Markdown table, its header first, without the line below it."""
    lines = [line.strip().removeprefix("|").removesuffix("|") for line in text.strip().splitlines()]
    rows = [[cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)] for line in lines]
    return rows[:1] + rows[2:]


# Is it the same number?


@dataclass(frozen=True)
class Compared:
    """A number of the book beside the same number computed again."""

    page: str
    name: str
    printed: str
    own: str
    agree: bool

    @property
    def place(self) -> str:
        return f"{self.page} {self.name}"


def rounded(value: float, digits: int) -> float:
    """To so many significant digits."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else value


def shown_as(value: Any, shown: str) -> str:
    """A value in a format of the prose; a whole number is expected where it has no decimals to show."""
    if shown.endswith("d"):
        return format(int(value), shown) if float(value).is_integer() else repr(float(value))
    return format(value, shown) if shown else repr(value)


def same_glued(own: Any, glued: Any, shown: str) -> Compared:
    """Compare in a format; page and name are not known here.

    The book rounds a value before it is formatted, to six digits or fewer, so an own value is rounded alike: to six,
    and to as many as the glued one has.
    """
    printed = shown_as(glued, shown)
    held = len(re.sub(r"e.*|\D", "", repr(glued)).strip("0"))
    texts = [shown_as(rounded(float(own), digits), shown) for digits in (6, max(3, held))]
    texts = [re.sub(r"^-(?=[0.]*%?$)", "", text) for text in texts]
    return Compared("", "", printed, texts[0], re.sub(r"^-(?=[0.]*%?$)", "", printed) in texts)


def like(value: float, printed: str) -> str:
    """A number written as another is: with as many decimals, as a percentage, without a sign if it is zero."""
    if not math.isfinite(value):
        return "not seen" if printed == "not seen" else str(value)
    percent = printed.endswith("%")
    decimals = len(printed.rstrip("%").partition(".")[2])
    text = f"{100 * value if percent else value:.{decimals}f}" + "%" * percent
    return re.sub(r"^-(?=[0.]*%?$)", "", text)


def numbers(cell: str) -> list[str]:
    """The numbers of a cell that stand outside of parentheses."""
    plain = (text.replace("−", "-").replace(",", "") for text in NUMBER.findall(PARENTHESES.sub("", cell)))
    return [re.sub(r"^-(?=[0.]*%?$)", "", text) for text in plain]


# Checks


@dataclass(frozen=True)
class Check:
    """A computation and the numbers of the book that it computes again: glued values, their intervals, or a table."""

    page: str
    names: tuple[str, ...]
    kind: str
    own: Callable[[], Any]
    within: float = 0.0

    def compared(self, book: Book) -> Iterator[Compared]:
        """Every number of the check beside that of the book."""
        own = self.own()
        if self.kind == "table":
            yield from self._rows(book.table(self.page, self.names[0]), own)
            return
        values = list(own) if len(self.names) > 1 else [own]
        if len(values) != len(self.names):
            raise ValueError(f"{self.own.__name__} gives {len(values)} numbers for {len(self.names)} names.")
        for name, value in zip(self.names, values, strict=True):
            yield from self._ends(book, name, value) if self.kind == "interval" else self._values(book, name, value)

    def _values(self, book: Book, name: str, value: Any) -> Iterator[Compared]:
        """A value that no prose prints is passed over; the record may not hold it to more digits."""
        if (self.page, name) not in book.formats:
            return
        if name not in book.glued.get(self.page, {}):
            yield Compared(self.page, name, "absent", str(value), False)
            return
        each = [same_glued(value, book.glued[self.page][name], shown) for shown in book.formats[self.page, name]]
        finest = max(each, key=lambda one: len(one.printed))
        yield Compared(self.page, name, finest.printed, finest.own, all(one.agree for one in each))

    def _ends(self, book: Book, name: str, value: tuple[float, float]) -> Iterator[Compared]:
        glued = book.glued.get(self.page, {})
        if (self.page, f"{name}_low") not in book.formats:
            return
        low, high = (glued.get(f"{name}_{end}", math.nan) for end in ("low", "high"))
        near = all(abs(own - end) <= self.within * (high - low) for own, end in zip(value, (low, high), strict=True))
        printed, told = (f"{start:.3g} to {stop:.3g}" for start, stop in ((low, high), value))
        yield Compared(self.page, f"{name} (interval)", printed, told, near)

    def _rows(self, table: Table, own: Cells) -> Iterator[Compared]:
        """Each row that was computed is looked for by its first cells; a row of another kind is passed over."""
        for key, cells in own.items():
            rows = [dict(zip(table[0], row, strict=True)) for row in table[1:] if tuple(row[: len(key)]) == key]
            for column, values in cells.items():
                name = f"{', '.join(key)}: {column}"
                values = values if isinstance(values, tuple) else (values,)
                told = [numbers(row[column])[: len(values)] for row in rows if column in row]
                if len(told) != 1 or len(told[0]) != len(values):
                    yield Compared(self.page, name, "absent", str(values), False)
                    continue
                texts = [like(value, printed) for value, printed in zip(values, told[0], strict=True)]
                yield Compared(self.page, name, ", ".join(told[0]), ", ".join(texts), texts == told[0])


CHECKS: list[Check] = []


def glued(page: str, *names: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a function that gives, in this order, the numbers that a page glues under these names."""
    return _registered(page, names, "glued")


def interval(page: str, *names: str, within: float) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a function that gives the two ends of each interval by draws of its own.

    They agree if each end lies within this share of the printed interval's width.
    """
    return _registered(page, names, "interval", within)


def table(page: str, column: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a function that gives cells of the page's table with that column: by first cells, by column."""
    return _registered(page, (column,), "table")


def _registered(
    page: str, names: tuple[str, ...], kind: str, within: float = 0.0
) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def register(own: Callable[[], Any]) -> Callable[[], Any]:
        CHECKS.append(Check(page, names, kind, own, within))
        return own

    return register
