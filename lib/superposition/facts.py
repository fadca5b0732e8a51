"""Facts: a subject, a prompt with a slot for it, what is true and what an edit would write instead.

They come from the book's own table, from a CSV file, or from a JSON file in the format of CounterFact (Meng
et al. 2022). The keys that chapter ``11-superposition-in-llms`` compares are read at the last token of a
fact's subject.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from superposition import files, paths
from superposition.errors import UserError

SLOT = "{}"
#: The most neighbourhood prompts that a fact from a table gets, as many as CounterFact has.
NEIGHBOURS = 10
_SURROGATE = re.compile("[\ud800-\udfff]")
_WAYS = "the columns subject and prompt, or subject, relation and target_true with a relations.csv beside it"


@dataclass(frozen=True)
class Fact:
    """One fact, and the prompts that test an edit of it.

    Parameters
    ----------
    subject : str
        What the fact is about, ``"France"``.
    prompt : str
        A template with one slot, ``"The capital of {} is"``; after a space, the object continues it.
    target_true, target_new : str, optional
        The true object, and a false one of the same kind.
    relation : str, optional
        The relation's id, a Wikidata property such as ``"P36"``.
    paraphrases : tuple of str
        Complete texts that ask for the same fact in other words.
    neighbourhood : tuple of str
        Complete texts about other subjects that have the same true object.
    subject_type, object_type : str, optional
        Kinds, ``"country"`` and ``"city"``.

    Raises
    ------
    UserError
        The prompt does not have exactly one slot, or the subject is empty.
    """

    subject: str
    prompt: str
    target_true: str | None = None
    target_new: str | None = None
    relation: str | None = None
    paraphrases: tuple[str, ...] = ()
    neighbourhood: tuple[str, ...] = ()
    subject_type: str | None = None
    object_type: str | None = None

    def __post_init__(self) -> None:
        _check_template(self.prompt, "prompt")
        if not self.subject.strip():
            raise UserError("the subject is empty; name what the fact is about.")

    @property
    def text(self) -> str:
        """The prompt with the subject in its slot."""
        return self.prompt.replace(SLOT, self.subject)

    @property
    def subject_span(self) -> tuple[int, int]:
        """Where the subject starts and ends in :attr:`text`, in characters; the end is exclusive."""
        start = self.prompt.index(SLOT)
        return start, start + len(self.subject)


@dataclass(frozen=True)
class Relation:
    """A relation of a table: its Wikidata id, its name, the kinds it joins, its templates (one slot each)."""

    id: str
    name: str | None
    subject_type: str | None
    object_type: str | None
    prompt: str
    paraphrases: tuple[str, ...]


def load(source: str | Path = "book", limit: int | None = None) -> list[Fact]:
    """Read facts, in the file's order; none is dropped and duplicates are kept.

    White space around a value is removed. The whole file is checked, whatever the limit.

    Parameters
    ----------
    source : str or Path
        One of

        * ``"book"``: the table shipped with the book;
        * a ``.csv`` file with the columns ``subject``, ``prompt`` and, if wanted, ``target_true``,
          ``target_new``, ``relation``;
        * a ``.csv`` file with ``subject``, ``relation``, ``target_true`` and, if wanted, ``target_new``, as
          the book's table is, and beside it a ``relations.csv`` with ``relation``, ``prompt`` and, if wanted,
          ``name``, ``subject_type``, ``object_type``, ``paraphrase_1``, ``paraphrase_2``, …;
        * a ``.json`` file in the format of CounterFact.

        Text is UTF-8, with or without a byte-order mark. A fact from a CSV file gets as its neighbourhood the
        prompts of up to ten other facts with the same relation (without one: the same prompt) and the same
        true object.
    limit : int, optional
        Keep the first facts only, at most this many.

    Raises
    ------
    UserError
        The file is absent, of an unknown kind, not UTF-8, malformed (with the line or the record's number) or
        holds no facts; or the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f"A limit of {limit} leaves no facts: give 1 or more, or no limit for all.")
    path = _find(source)
    found = _read_json(path) if path.suffix.lower() == ".json" else _read_csv(path)
    if not found:
        raise UserError(f"{path.name} holds no facts: add at least one.")
    return found[:limit]


def load_besides(source: str | Path, edits: Sequence[Fact], limit: int | None = None) -> list[Fact]:
    """:func:`load` without what is to be edited: the facts that edits are to spare.

    Raises
    ------
    UserError
        Nothing is left; and as :func:`load`.
    """
    edited = {fact.text for fact in edits}
    found = [fact for fact in load(source, limit) if fact.text not in edited]
    if not found:
        raise UserError("No fact is left to protect: --protect holds only what --edits does.")
    return found


def relations(source: str | Path = "book") -> dict[str, Relation]:
    """The relations of a table by id: of the book's, or of the one whose CSV file is ``source``.

    Raises
    ------
    UserError
        There is no ``relations.csv``, or it is malformed (with the line).
    """
    return _read_relations(_find(source).with_name("relations.csv"))


def fingerprint(source: str | Path = "book") -> str:
    """SHA-256 of what :func:`load` would read, hexadecimal; two files where a ``relations.csv`` is read too.

    Raises
    ------
    UserError
        The file is absent, of an unknown kind, or (CSV) lacks columns.
    """
    path = _find(source)
    if path.suffix.lower() == ".csv" and "prompt" not in _table(path)[0]:
        return files.sha256_of([path, path.with_name("relations.csv")])
    return files.sha256_of(path)


def _find(source: str | Path) -> Path:
    path = paths.data_dir() / "facts.csv" if str(source) == "book" else Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"There is no facts file {source}: give a .csv file, a .json file as of CounterFact, or book.")
    if path.suffix.lower() not in {".csv", ".json"}:
        raise UserError(
            f"{path.name} is neither .csv nor .json: give a table as .csv, or CounterFact records as .json."
        )
    return path


def _decode(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError(f"{path.name}, line {line}: not UTF-8; save the file as UTF-8.") from error


def _check_template(template: str, what: str) -> None:
    slots = template.count(SLOT)
    if slots != 1:
        have = "no slot" if slots == 0 else f"{slots} slots"
        raise UserError(f"the {what} {template!r} has {have}; write {SLOT} once, where the subject goes.")


# CSV


def _rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The header, and each row with the line it starts on. Lines that are blank are passed over."""
    reader = csv.reader(io.StringIO(_decode(path), newline=""), strict=True)
    header: list[str] = []
    rows: list[tuple[int, dict[str, str]]] = []
    while True:
        line = reader.line_num + 1
        try:
            fields = [field.strip() for field in next(reader)]
        except StopIteration:
            return header, rows
        except csv.Error as error:
            raise UserError(f"{path.name}, line {line}: not CSV ({error}); mend its quotes.") from error
        if fields in ([], [""]):
            continue
        if not header:
            header = fields
            twice = sorted({name for name in header if header.count(name) > 1})
            if twice:
                raise UserError(f"{path.name}, line {line}: two columns are named {twice[0]!r}; rename one.")
        elif len(fields) != len(header):
            raise UserError(
                f"{path.name}, line {line}: {len(fields)} fields where the header has {len(header)}; "
                "put a value that holds a comma in double quotes."
            )
        else:
            rows.append((line, dict(zip(header, fields, strict=True))))


def _require(row: dict[str, str], columns: Sequence[str], where: str) -> None:
    for column in columns:
        if not row[column]:
            raise UserError(f"{where}: the {column} is empty; fill it in or remove the line.")


def _table(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    header, rows = _rows(path)
    if not header:
        raise UserError(f"{path.name} holds no facts: give {_WAYS}.")
    if not {"subject", "prompt"} <= set(header) and not {"subject", "relation", "target_true"} <= set(header):
        raise UserError(f"{path.name} has the columns {', '.join(header)}: give {_WAYS}.")
    if "prompt" not in header and not path.with_name("relations.csv").is_file():
        raise UserError(f"{path.name} has no column prompt and no relations.csv beside it: give {_WAYS}.")
    return header, rows


def _read_csv(path: Path) -> list[Fact]:
    header, rows = _table(path)
    known = {} if "prompt" in header else _read_relations(path.with_name("relations.csv"))
    needed = ["subject", "prompt"] if "prompt" in header else ["subject", "relation", "target_true"]
    found = []
    for line, row in rows:
        where = f"{path.name}, line {line}"
        _require(row, needed, where)
        if "prompt" in row:
            relation = Relation(row.get("relation", ""), None, None, None, row["prompt"], ())
        elif row["relation"] in known:
            relation = known[row["relation"]]
        else:
            raise UserError(f"{where}: {row['relation']!r} is not in relations.csv; add it there.")
        try:
            fact = Fact(
                subject=row["subject"],
                prompt=relation.prompt,
                target_true=row.get("target_true") or None,
                target_new=row.get("target_new") or None,
                relation=relation.id or None,
                paraphrases=tuple(text.replace(SLOT, row["subject"]) for text in relation.paraphrases),
                subject_type=relation.subject_type,
                object_type=relation.object_type,
            )
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        found.append(fact)
    return _with_neighbourhoods(found)


def _read_relations(path: Path) -> dict[str, Relation]:
    if not path.is_file():
        raise UserError(f"There is no {path}: write one with the columns relation and prompt.")
    header, rows = _rows(path)
    if not {"relation", "prompt"} <= set(header):
        names = ", ".join(header) or "none"
        raise UserError(f"relations.csv has the columns {names}: give relation and prompt.")
    found: dict[str, Relation] = {}
    for line, row in rows:
        where = f"relations.csv, line {line}"
        _require(row, ["relation", "prompt"], where)
        templates = {name: row[name] for name in header if name.startswith("paraphrase_") and row[name]}
        try:
            for what, template in {"prompt": row["prompt"], **templates}.items():
                _check_template(template, what)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        if row["relation"] in found:
            raise UserError(f"{where}: {row['relation']} has a line already; keep one of the two.")
        found[row["relation"]] = Relation(
            id=row["relation"],
            name=row.get("name") or None,
            subject_type=row.get("subject_type") or None,
            object_type=row.get("object_type") or None,
            prompt=row["prompt"],
            paraphrases=tuple(templates.values()),
        )
    return found


def _with_neighbourhoods(found: list[Fact]) -> list[Fact]:
    """Each fact's neighbours are the next in the file, going round, so that not all share ten prompts."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for position, fact in enumerate(found):
        if fact.target_true is not None:
            groups[fact.relation or fact.prompt, fact.target_true].append(position)
    complete = list(found)
    for group in groups.values():
        for turn, position in enumerate(group):
            own = re.compile(rf"(?<!\w){re.escape(found[position].subject)}(?!\w)", re.IGNORECASE)
            prompts: dict[str, None] = {}
            for other in group[turn + 1 :] + group[:turn]:
                if len(prompts) == NEIGHBOURS:
                    break
                if not own.search(found[other].text):
                    prompts[found[other].text] = None
            complete[position] = replace(found[position], neighbourhood=tuple(prompts))
    return complete


# JSON


def _read_json(path: Path) -> list[Fact]:
    text = _decode(path)
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        line = error.lineno
        raise UserError(f"{path.name}, line {line}: not JSON ({error.msg}); mend the line.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path.name} cannot be read as JSON ({error}): write it as CounterFact does.") from error
    if not isinstance(records, list):
        raise UserError(f"{path.name} is not a list of records: write it as CounterFact does.")
    return [_from_record(record, f"{path.name}, record {number}") for number, record in enumerate(records, 1)]


def _from_record(record: Any, where: str) -> Fact:
    if not isinstance(record, dict) or not isinstance(record.get("requested_rewrite"), dict):
        raise UserError(f'{where}: no "requested_rewrite" object; write the record as CounterFact does.')
    request = record["requested_rewrite"]
    targets = []
    for name in ("target_true", "target_new"):
        target = request.get(name)
        if not isinstance(target, dict):
            raise UserError(f'{where}: no "{name}" object; write "{name}": {{"str": "…"}}.')
        targets.append(_string(target, "str", where, f"{name}.str"))
    has_relation = request.get("relation_id") is not None
    values = {
        "subject": _string(request, "subject", where),
        "prompt": _string(request, "prompt", where),
        "target_true": targets[0],
        "target_new": targets[1],
        "relation": _string(request, "relation_id", where) if has_relation else None,
        "paraphrases": _strings(record, "paraphrase_prompts", where),
        "neighbourhood": _strings(record, "neighborhood_prompts", where),
    }
    try:
        return Fact(**values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _string(holder: dict[str, Any], key: str, where: str, what: str | None = None) -> str:
    value = holder.get(key)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f'{where}: the "{what or key}" is absent, empty or not a text; write it in quotes.')
    return _whole(value, where).strip()


def _strings(holder: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    values = holder.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise UserError(f'{where}: "{key}" is not a list of texts; write ["…", "…"].')
    return tuple(_whole(value, where).strip() for value in values)


def _whole(text: str, where: str) -> str:
    if _SURROGATE.search(text):
        raise UserError(f"{where}: half a character (\\ud800 to \\udfff alone); write the other half too.")
    return text
