"""Facts: a subject, a prompt with a slot for it, what is true and what an edit would write instead.

They come from the book's own table, from a CSV file, or from a JSON file in the format of one of the data sets
of the trade, CounterFact (Meng et al. 2022) among them. The keys that chapter ``11-superposition-in-llms``
compares are read at the last token of a fact's subject.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from superposition.errors import UserError
from superposition.io import console, files, paths

SLOT = "{}"
#: The most neighbourhood prompts that a fact from a table gets, as many as CounterFact has.
NEIGHBOURS = 10
#: What a cell of a CSV file or a key of a record may say of the joint, and what is then put between.
JOINTS = {"space": " ", "none": ""}
#: What programs write into an empty cell of an object or a relation. ``None`` and ``NA`` may be answers.
EMPTY = ("nan", "NaN", "<NA>", "NULL")
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # Cc without tab and the ends of lines
#: Scripts that put no space between words, with their punctuation, as ranges of a character class: Thai, Lao,
#: Myanmar, Khmer, Han (with radicals), Hiragana and Katakana, and the full-width forms that are no letters or digits.
_UNSPACED = (
    "\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f\u1780-\u17ff\u19e0-\u19ff"
    "\u2e80-\u2fdf\u3000-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff9f"
)
_ONE_UNSPACED = re.compile(f"[{_UNSPACED}]")
_LETTER = re.compile(rf"[^\W{_UNSPACED}]")  # or digit, of a script with spaces
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
_COLUMNS = ({"subject", "prompt"}, {"subject", "relation", "target_true"})
_WAYS = "the columns subject and prompt, or subject, relation and target_true with a relations.csv beside it"


def shown(text: str) -> str:
    """A text as a message shows it: in quotes, and with its middle left out where it has more than 80 characters."""
    text = repr(text)
    return text if len(text) <= 80 else f"{text[:50]} … {text[-27:]}"


def joint(prompt: str, continuation: str) -> str:
    """What stands between a prompt and its continuation, ``" "`` or ``""``.

    A space, except that there is nothing

    * after an opening bracket or quotation mark, and after a straight double quote that opens: one at the end of a
      prompt that holds an odd number of them;
    * after a slash, and after a hyphen that follows a character directly;
    * between two characters of scripts without spaces between words (Han, Hiragana, Katakana, Thai, Lao, Khmer,
      Myanmar) or of their punctuation.

    White space at the end of the prompt and around the continuation does not count.
    """
    before, after = prompt.rstrip()[-2:], continuation.strip()[:1]
    last = before[-1:]
    if not last:
        return " "
    if last == '"':
        opens = prompt.count('"') % 2 == 1
    elif last in "-\u2010\u2011":
        opens = not before[:-1].isspace() and len(before) == 2
    else:
        opens = last == "/" or unicodedata.category(last) in ("Ps", "Pi")
    unspaced = _ONE_UNSPACED.match(last) and _ONE_UNSPACED.match(after)
    return "" if opens or unspaced else " "


@dataclass(frozen=True)
class Fact:
    """One fact, and the prompts that test an edit of it.

    Parameters
    ----------
    subject : str
        What the fact is about, ``"France"``.
    prompt : str
        A template with one slot, ``"The capital of {} is"``; the object continues it, after a space as a rule.
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
    joint : {None, " ", ""}, optional
        What stands between the prompt and an object, and between a paraphrase or a neighbourhood prompt and an
        object; by default what :func:`joint` says for each.

    Raises
    ------
    UserError
        The prompt does not have exactly one slot, the subject is empty, a text holds a control character (other than
        a tab or the end of a line), or the joint is something else.
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
    joint: str | None = None

    def __post_init__(self) -> None:
        for name in ("subject", "prompt", "target_true", "target_new", "relation", "subject_type", "object_type"):
            _check_characters(getattr(self, name) or "", name)
        for name, texts in {"paraphrase": self.paraphrases, "neighbourhood prompt": self.neighbourhood}.items():
            for text in texts:
                _check_characters(text, name)
        _check_template(self.prompt, "prompt")
        if not self.subject.strip():
            raise UserError("the subject is empty; name what the fact is about.")
        if self.joint not in (None, *JOINTS.values()):
            raise UserError(
                f"the joint {shown(str(self.joint))} is neither a space nor empty; give one of these or None."
            )

    @property
    def text(self) -> str:
        """The prompt with the subject in its slot."""
        return self.prompt.replace(SLOT, self.subject)

    @property
    def subject_span(self) -> tuple[int, int]:
        """Where the subject starts and ends in :attr:`text`, in characters; the end is exclusive."""
        start = self.prompt.index(SLOT)
        return start, start + len(self.subject)

    def reworded(self) -> list[Fact]:
        """The same fact with each of its paraphrases for a prompt; those that do not hold the subject once are no help.

        What tests an edit is left behind: these have no paraphrases and no neighbourhood of their own.
        """
        found: list[Fact] = []
        for paraphrase in self.paraphrases:
            try:
                prompt = _with_slot(paraphrase, self.subject)
            except UserError:
                continue
            found.append(replace(self, prompt=prompt, paraphrases=(), neighbourhood=()))
        return found

    def joint_to(self, continuation: str) -> str:
        """What stands between :attr:`text` and a continuation: the fact's own joint, or by :func:`joint`."""
        return joint(self.text, continuation) if self.joint is None else self.joint


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

    White space around a value is removed. The whole file is checked, whatever the limit. Text is UTF-8, or UTF-16
    with a byte-order mark.

    Parameters
    ----------
    source : str or Path
        One of

        * ``"book"``: the table shipped with the book;
        * a ``.csv`` file with the columns ``subject``, ``prompt`` and, if wanted, ``target_true``, ``target_new``,
          ``relation``, ``joint``;
        * a ``.csv`` file with ``subject``, ``relation``, ``target_true`` and, if wanted, ``target_new`` and
          ``joint``, as the book's table is, and beside it a ``relations.csv`` with ``relation``, ``prompt`` and, if
          wanted, ``name``, ``subject_type``, ``object_type``, ``paraphrase_1``, ``paraphrase_2``, …;
        * a ``.json`` file with a list of records (or one object around it, as ``{"train": […]}``), each in one of the
          formats below.
    limit : int, optional
        Keep the first facts only, at most this many.

    Raises
    ------
    UserError
        The file is absent, of an unknown kind or encoding, malformed (with the line or the record's number) or
        holds no facts; or the limit is below 1.

    Notes
    -----
    **CSV.** Commas, semicolons or tabs separate the values: whichever splits the header into the columns that are
    needed. A fact gets as its neighbourhood the prompts of up to ten other facts with the same relation (without one:
    the same prompt) and the same true object. An object or relation may be left empty, but not be called ``nan``,
    ``NaN``, ``<NA>`` or ``NULL``, which programs write where there is none.

    **JSON.** A format is known by its keys:

    * CounterFact: ``requested_rewrite``, an object with ``subject``, ``prompt``, ``target_true``, ``target_new`` and
      perhaps ``relation_id``; beside it ``paraphrase_prompts`` and ``neighborhood_prompts``;
    * MQuAKE: ``requested_rewrite``, a list of such objects; each is a fact, and its ``question`` a paraphrase. The
      questions of several hops are not read;
    * zsRE: ``subject``, ``src`` (the prompt), ``answers`` (true), ``alt`` (new; may be empty), ``rephrase``. (ROME and
      MEMIT take the true answer as the new one; EasyEdit takes ``alt``, and so does this.);
    * WikiBigEdit: ``subject``, ``update`` (the prompt), ``ans`` (new), ``rephrase``, perhaps ``ground_truth``;
    * KnowEdit, and CounterFact as EasyEdit flattens it: ``subject``, ``prompt`` and, if wanted, ``target_new``,
      ``ground_truth`` or ``target_true``, ``rephrase_prompt`` or ``rephrase``, ``relation``, ``locality_prompt`` with
      ``locality_ground_truth``.

    Of several true answers the first counts, and a warning says so. A locality prompt is read into the neighbourhood
    where its answer is the true object, as the neighbourhood is defined. Questions with answers of their own
    (``loc``, ``locality``, ``portability``, ``mhop``) and ``personas`` are not read.

    **Slot.** A prompt without a slot gets one where it holds the subject, which must be there exactly once, letter for
    letter, as a whole word (in scripts without spaces: anywhere). In a ``relations.csv`` the slot must be written.

    **Joint.** The column or, beside ``prompt`` or what stands for it, the key ``joint`` may be ``space`` or ``none``:
    what stands between prompt and object where :func:`joint` is not to decide.
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
    path = paths.data_dir() / "facts.csv" if str(source) == "book" else paths.expanded(source)
    if not os.path.isfile(path):  # False, too, for what cannot be looked up
        raise UserError(f"There is no facts file {paths.shown(source)}: give a .csv file, a .json file, or book.")
    if path.suffix.lower() not in {".csv", ".json"}:
        raise UserError(
            f"{paths.shown(path.name)} is neither .csv nor .json: give a table as .csv, or records as .json."
        )
    return path


def _decode(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error
    encoding = next((name for mark, name in _MARKS if raw.startswith(mark)), "utf-8")
    try:
        return raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode(encoding, "ignore")
        line = len(re.findall("\r\n|\r|\n", before)) + 1
        raise UserError(f"{path.name}, line {line}: not {encoding.upper()}; save the file as UTF-8.") from error


def _check_template(template: str, what: str) -> None:
    slots = template.count(SLOT)
    if slots != 1:
        have = "no slot" if slots == 0 else f"{slots} slots"
        raise UserError(f"the {what} {shown(template)} has {have}; write {SLOT} once, where the subject goes.")


def _check_characters(text: str, what: str) -> None:
    found = _CONTROL.search(text)
    if found:
        raise UserError(f"the {what} {shown(text)} holds the control character {found[0]!r}; remove it.")


def _with_slot(prompt: str, subject: str) -> str:
    """The prompt, with a slot in place of the subject where it has none."""
    if SLOT in prompt or not subject:
        return prompt
    places = _places(subject, prompt)
    if len(places) == 1:
        return prompt[: places[0]] + SLOT + prompt[places[0] + len(subject) :]
    name = shown(subject)
    holds = f"holds the subject {name} {len(places)} times" if places else f"does not hold the subject {name}"
    raise UserError(f"the prompt {shown(prompt)} has no slot and {holds}; write {SLOT} once, where the subject goes.")


def _places(word: str, text: str, flags: int = 0) -> list[int]:
    """Where ``word`` begins in a text, as a word of its own; characters of scripts without spaces end words."""

    def goes_on(left: str, right: str) -> bool:
        return bool(_LETTER.match(left) and _LETTER.match(right))

    found = []
    for match in re.finditer(f"(?={re.escape(word)})", text, flags):
        start, stop = match.start(), match.start() + len(word)
        if not goes_on(text[:start][-1:], word[0]) and not goes_on(word[-1], text[stop:][:1]):
            found.append(start)
    return found


# CSV


def _separator(text: str, needed: Sequence[set[str]]) -> str:
    """The separator that splits the header into the columns that are needed; a comma where none does, or several."""
    found = []
    for separator in _SEPARATORS:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
        try:
            header = next(({field.strip() for field in row} for row in reader if not _blank(row)), set())
        except csv.Error:
            continue
        if any(columns <= header for columns in needed):
            found.append(separator)
    return found[0] if len(found) == 1 else ","


def _blank(row: Sequence[str]) -> bool:
    return [field.strip() for field in row] in ([], [""])


def _rows(path: Path, needed: Sequence[set[str]]) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The header, and each row with the line it starts on. Lines that are blank are passed over."""
    text = _decode(path)
    separator = _separator(text, needed)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
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
        if _blank(fields):
            continue
        while fields and not fields[-1] and (not header or len(fields) > len(header)):
            fields.pop()  # a separator at the end of the line, with nothing after it
        if not header:
            header = fields
            twice = sorted({name for name in header if header.count(name) > 1})
            if twice:
                raise UserError(f"{path.name}, line {line}: two columns are named {shown(twice[0])}; rename one.")
            if _CONTROL.search("".join(header)):
                names = shown(", ".join(header))
                raise UserError(f"{path.name}, line {line}: control characters in {names}; save the file as UTF-8.")
        elif len(fields) != len(header):
            raise UserError(
                f"{path.name}, line {line}: {len(fields)} fields where the header has {len(header)}; "
                f"put a value that holds a {_SEPARATORS[separator]} in double quotes."
            )
        else:
            rows.append((line, dict(zip(header, fields, strict=True))))


def _require(row: dict[str, str], columns: Sequence[str], where: str) -> None:
    for column in columns:
        if not row[column]:
            raise UserError(f"{where}: the {column} is empty; fill it in or remove the line.")
    for column in ("target_true", "target_new", "relation"):
        if row.get(column) in EMPTY:
            raise UserError(f"{where}: the {column} is {row[column]}, as if there were none; leave the cell empty.")


def _joint(value: Any, where: str) -> str | None:
    """What a cell or a key says of the joint; None where it says nothing."""
    if value in (None, ""):
        return None
    if not isinstance(value, str) or value not in JOINTS:
        raise UserError(f"{where}: the joint is neither space nor none; write one of these, or leave it empty.")
    return JOINTS[value]


def _table(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    header, rows = _rows(path, _COLUMNS)
    if not header:
        raise UserError(f"{path.name} holds no facts: give {_WAYS}.")
    if not any(columns <= set(header) for columns in _COLUMNS):
        raise UserError(f"{path.name} has the columns {_named(header)}: give {_WAYS}.")
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
            raise UserError(f"{where}: {shown(row['relation'])} is not in relations.csv; add it there.")
        own = _joint(row.get("joint"), where)
        try:
            fact = Fact(
                subject=row["subject"],
                prompt=_with_slot(relation.prompt, row["subject"]),
                target_true=row.get("target_true") or None,
                target_new=row.get("target_new") or None,
                relation=relation.id or None,
                paraphrases=tuple(text.replace(SLOT, row["subject"]) for text in relation.paraphrases),
                subject_type=relation.subject_type,
                object_type=relation.object_type,
                joint=own,
            )
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        found.append(fact)
    return _with_neighbourhoods(found)


def _read_relations(path: Path) -> dict[str, Relation]:
    if not path.is_file():
        raise UserError(f"There is no {path}: write one with the columns relation and prompt.")
    header, rows = _rows(path, [{"relation", "prompt"}])
    if not {"relation", "prompt"} <= set(header):
        raise UserError(f"relations.csv has the columns {_named(header)}: give relation and prompt.")
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
            raise UserError(f"{where}: {_named([row['relation']])} has a line already; keep one of the two.")
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
            own = found[position].subject
            prompts: dict[str, None] = {}
            for other in group[turn + 1 :] + group[:turn]:
                if len(prompts) == NEIGHBOURS:
                    break
                if not _places(own, found[other].text, re.IGNORECASE):
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
    except RecursionError as error:
        raise UserError(f"{path.name} is nested too deep to be read: {_HOW}.") from error
    except ValueError as error:  # more digits than Python converts
        raise UserError(f"{path.name} holds a number of thousands of digits: write it in quotes.") from error
    if isinstance(records, dict) and _reader(records) is None:
        lists = [name for name, value in records.items() if isinstance(value, list)]
        if len(lists) > 1:
            raise UserError(f"{path.name} holds several lists, {_named(lists)}: keep one of them.")
        records = records[lists[0]] if lists else records
    if not isinstance(records, list):
        raise UserError(f"{path.name} is not a list of records: {_HOW}.")
    found: list[Fact] = []
    several = 0
    for number, record in enumerate(records, 1):
        place = f"{path.name}, record {number}"
        reader = _reader(record)
        if reader is None:
            keys = f"has the keys {_named(record)}" if isinstance(record, dict) else "is no object"
            raise UserError(f"{place} {keys}: {_HOW}.")
        for where, values in reader(record, place):
            answers = values.pop("answers")
            several += len(answers) > 1
            try:
                values["prompt"] = _with_slot(values["prompt"], values["subject"])
                found.append(Fact(**values, target_true=answers[0] if answers else None))
            except UserError as error:
                raise UserError(f"{where}: {error}") from error
    if several:
        console.warn(f"{path.name}: of several true answers the first counts ({several} of {len(found)} facts).")
    return found


#: What a reader gives for a record: where each of its facts stands, and what :class:`Fact` takes, but all the true
#: ``answers`` in place of the true object.
_Read = list[tuple[str, dict[str, Any]]]


def _counterfact(record: dict[str, Any], where: str) -> _Read:
    paraphrases = _strings(record, "paraphrase_prompts", where)
    neighbourhood = _strings(record, "neighborhood_prompts", where)
    return [(where, _rewrite(record["requested_rewrite"], where, paraphrases, neighbourhood))]


def _mquake(record: dict[str, Any], where: str) -> _Read:
    found = []
    for number, request in enumerate(record["requested_rewrite"], 1):
        place = f"{where}, rewrite {number}"
        if not isinstance(request, dict):
            raise UserError(f"{place}: not an object; write it as MQuAKE does.")
        found.append((place, _rewrite(request, place, _texts(request, "question", place), ())))
    if not found:
        raise UserError(f'{where}: "requested_rewrite" is empty; fill it in or remove the record.')
    return found


def _rewrite(
    request: dict[str, Any], where: str, paraphrases: tuple[str, ...], neighbourhood: tuple[str, ...]
) -> dict[str, Any]:
    targets = []
    for name in ("target_true", "target_new"):
        target = request.get(name)
        if not isinstance(target, dict):
            raise UserError(f'{where}: no "{name}" object; write "{name}": {{"str": "…"}}.')
        targets.append(_string(target, "str", where, f"{name}.str"))
    return {
        "subject": _string(request, "subject", where),
        "prompt": _string(request, "prompt", where),
        "answers": targets[:1],
        "target_new": targets[1],
        "relation": _optional(request, "relation_id", where),
        "paraphrases": paraphrases,
        "neighbourhood": neighbourhood,
        "joint": _joint(request.get("joint"), where),
    }


def _zsre(record: dict[str, Any], where: str) -> _Read:
    return [(where, _flat(record, where, "src", "alt", ("answers",)))]


def _wikibigedit(record: dict[str, Any], where: str) -> _Read:
    return [(where, _flat(record, where, "update", "ans", ("ground_truth",)))]


def _knowedit(record: dict[str, Any], where: str) -> _Read:
    values = _flat(record, where, "prompt", "target_new", ("ground_truth", "target_true"))
    values["relation"] = _optional(record, "relation", where)
    beside = _texts(record, "locality_prompt", where)
    if set(values["answers"][:1]) & set(_texts(record, "locality_ground_truth", where)):
        values["neighbourhood"] = beside
    return [(where, values)]


def _flat(record: dict[str, Any], where: str, prompt: str, new: str, true: Sequence[str]) -> dict[str, Any]:
    """Of a record without objects inside: the keys of its prompt, of its new object and of its true answers."""
    given = [name for name in true if name in record]
    if len(given) > 1:
        raise UserError(f'{where}: both "{given[0]}" and "{given[1]}"; keep one.')
    return {
        "subject": _string(record, "subject", where),
        "prompt": _string(record, prompt, where),
        "answers": _texts(record, given[0], where) if given else (),
        "target_new": _optional(record, new, where),
        "paraphrases": tuple(text for name in ("rephrase_prompt", "rephrase") for text in _texts(record, name, where)),
        "joint": _joint(record.get("joint"), where),
    }


#: The formats of records: a name, the keys by which one is known with the type of their values, and its reader.
_FORMATS: tuple[tuple[str, dict[str, type], Callable[[dict[str, Any], str], _Read]], ...] = (
    ("CounterFact (requested_rewrite, an object)", {"requested_rewrite": dict}, _counterfact),
    ("MQuAKE (requested_rewrite, a list)", {"requested_rewrite": list}, _mquake),
    ("zsRE (subject, src)", {"subject": object, "src": object}, _zsre),
    ("WikiBigEdit (subject, update)", {"subject": object, "update": object}, _wikibigedit),
    ("KnowEdit (subject, prompt)", {"subject": object, "prompt": object}, _knowedit),
)
_HOW = (
    f"write a list of records as those of {', '.join(name for name, *_ in _FORMATS[:-1])} or {_FORMATS[-1][0]}; "
    "to convert others, name their keys subject, prompt, target_true and target_new"
)


def _reader(record: Any) -> Callable[[dict[str, Any], str], _Read] | None:
    if not isinstance(record, dict):
        return None
    for _, keys, reader in _FORMATS:
        if all(key in record and isinstance(record[key], kind) for key, kind in keys.items()):
            return reader
    return None


def _string(holder: dict[str, Any], key: str, where: str, what: str | None = None) -> str:
    value = holder.get(key)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f'{where}: the "{what or key}" is absent, empty or not a text; write it in quotes.')
    return _whole(value, where).strip()


def _optional(holder: dict[str, Any], key: str, where: str) -> str | None:
    return None if holder.get(key) in (None, "") else _string(holder, key, where)


def _strings(holder: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    values = holder.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise UserError(f'{where}: "{key}" is not a list of texts; write ["…", "…"].')
    return tuple(_whole(value, where).strip() for value in values)


def _texts(holder: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    """A text, a list of texts, or of such lists, in order; blank ones and ``null`` are none."""
    waiting, found = [holder.get(key)], []
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += reversed(value)
        elif isinstance(value, str):
            found.append(_whole(value, where).strip())
        elif value is not None:
            raise UserError(f'{where}: "{key}" is neither a text nor a list of texts; write "…" or ["…", "…"].')
    return tuple(filter(None, found))


def _named(names: Iterable[str]) -> str:
    """Names of columns or keys for a message, at most twenty."""
    names = list(names)
    listed = [name if name.isprintable() and len(name) <= 40 else shown(name) for name in names[:20]]
    return ", ".join(listed + ["…"] * (len(names) > 20)) or "none"


def _whole(text: str, where: str) -> str:
    if _SURROGATE.search(text):
        raise UserError(f"{where}: half a character (\\ud800 to \\udfff alone); write the other half too.")
    return text
