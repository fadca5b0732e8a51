"""Malformed facts, texts, models and options, a thousand and more, the same in every run.

Each must be refused in one readable sentence, or be accepted where it is still valid, which is judged here by other
means than the library's: what is accepted must say what the file says.
"""

import contextlib
import csv
import io
import json
import random
import re
import shutil
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import SENTENCES, build, tokenizer
from test_models import write_gguf
from tokenizers import Tokenizer

from superposition import cli
from superposition.data import facts, text
from superposition.errors import UserError
from superposition.io import console
from superposition.lm import models

pytestmark = pytest.mark.usefixtures("cache")

BLOCKS = 10
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
LONG, DIGITS = "x" * 10_000, "9" * 400
REFUSED, VALID, EITHER = "refused", "valid", "either"


def wrong_sentence(sentence):
    """What is wrong with a sentence for the user; None if it is one readable line of bounded length."""
    if not sentence or not sentence.isprintable():
        return f"not one printable line: {sentence!r}"
    return f"{len(sentence)} characters: {sentence[:80]}…" if len(sentence) > console.MOST else None


def block_of(cases, block):
    """Every tenth case, beginning with the block's number."""
    return list(cases)[block::BLOCKS]


def outcome(call):
    """What a call returns, and what is wrong with how it ended: ``(value or None, complaint or None)``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", console.SuperpositionWarning)
            return call(), None
    except UserError as error:
        return None, wrong_sentence(str(error))
    except BaseException as error:  # Rust's panics are no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        return None, f"{type(error).__name__}: {str(error)[:200]}"


def judged(value, complaint, expected, check):
    """What is wrong with an outcome, given what was expected; ``check`` says what is wrong with an accepted value."""
    if complaint:
        return complaint
    if value is None:
        return "refused, and it is valid" if expected == VALID else None
    return "accepted" if expected == REFUSED else check(value)


def show(failures, cases):
    """Fail with every name that has a complaint."""
    assert cases
    told = [f"{name}: {what}" for name, what in failures if what]
    assert not told, f"{len(told)} of {len(cases)}:\n" + "\n".join(told)


def damaged(content, rng, cuts, flips):
    """A file's bytes cut off at many places, and with one byte changed at others."""
    for place in sorted(rng.sample(range(len(content)), cuts)):
        yield f"cut at {place}", content[:place]
    for place in sorted(rng.sample(range(len(content)), flips)):
        byte = rng.randrange(1, 256)
        yield f"byte {place} xor {byte}", content[:place] + bytes([content[place] ^ byte]) + content[place + 1 :]


def encodings(content):
    """A text in encodings other than UTF-8, and whether it must be refused."""
    yield "utf-8-sig", content.encode("utf-8-sig"), VALID
    yield "utf-16", content.encode("utf-16"), EITHER
    yield "utf-16-be with mark", b"\xfe\xff" + content.encode("utf-16-be"), EITHER
    for name in ("utf-16-le", "utf-16-be", "utf-32-le", "latin-1"):
        yield name, content.encode(name), REFUSED
    yield "utf-16 cut in a character", content.encode("utf-16")[:-1], REFUSED


# Facts

CSV = (
    "subject,prompt,target_true,target_new,relation,joint\n"
    "France,The capital of {} is,Paris,Madrid,P36,space\n"
    '"Zürich, city",People in {} speak,German,Czech,P37,\n'
    "東京,{}は日本の,首都,港,P36,none\n"
)
TABLE = (
    "subject,relation,target_true,target_new\nFrance,P36,Paris,Madrid\nSpain,P36,Madrid,Rome\nZürich,P17,Swiss,Czech\n"
)
RELATIONS = (
    "relation,prompt,name,paraphrase_1\nP36,The capital of {} is,capital,{} has the capital\nP17,{} lies in,country,\n"
)
REWRITE = {
    "subject": "France",
    "prompt": "The capital of {} is",
    "target_true": {"str": "Paris"},
    "target_new": {"str": "Madrid"},
    "relation_id": "P36",
}
RECORDS = {
    "counterfact": {
        "requested_rewrite": REWRITE,
        "paraphrase_prompts": ["The seat of France is"],
        "neighborhood_prompts": ["The Louvre lies in"],
    },
    "mquake": {"requested_rewrite": [REWRITE | {"question": "Which city is the capital of France?"}]},
    "zsre": {
        "subject": "Zürich",
        "src": "In which country is Zürich?",
        "answers": ["Switzerland"],
        "alt": "Spain",
        "rephrase": "Zürich is where?",
    },
    "wikibigedit": {
        "subject": "France",
        "update": "Which is the capital of France?",
        "ans": "Rome",
        "rephrase": "The capital of France?",
        "ground_truth": "Paris",
    },
    "knowedit": {
        "subject": "France",
        "prompt": "The capital of France is",
        "target_new": "Rome",
        "ground_truth": ["Paris", "Lyon"],
        "rephrase_prompt": "France has the capital",
        "relation": "capital",
        "locality_prompt": "The Louvre is in",
        "locality_ground_truth": "Paris",
    },
}
#: Keys without which a record is no fact, by their last name.
NEEDED = {"requested_rewrite", "subject", "prompt", "src", "update", "str", "target_true", "target_new"}
HALF, BELL, ESCAPE = "\ud800", "a\x07b", "\x1b[31mred"
STRANGE = [
    None, True, 0, -1.5, 10**30, float("inf"), float("nan"), "", "  ", [], {}, [[["deep"]]], [1, 2], {"str": 5},
    HALF, "half \udfff", BELL, ESCAPE, "nul \x00", "\x85", "{} and {}", "{", LONG, ["ok", None], [HALF], [BELL],
]  # fmt: skip
CELLS = ["", " ", "NaN", "<NA>", HALF, BELL, ESCAPE, "\x00", "\x85", "{}", "{}{}", LONG, '"', 'a"b', "a,b"]


def places_in(value, path=()):
    """The path of every key and item inside a record."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places_in(inner, (*path, key))


def replaced(value, path, new):
    """A copy of a record with another value at a path."""
    value = value.copy()
    value[path[0]] = new if len(path) == 1 else replaced(value[path[0]], path[1:], new)
    return value


def plain_words(value):
    """Whether a value is a text that a fact may hold: not blank, and without control characters."""
    return isinstance(value, str) and bool(value.strip()) and not CONTROL.search(value.strip())


def facts_in_csv(rng):
    """CSV files, as (name, bytes, bytes of relations.csv or None, expected)."""
    whole = CSV.encode()
    for name, content in damaged(whole, rng, 40, 50):
        yield name, content, None, EITHER
    for name, content in damaged(TABLE.encode(), rng, 12, 14):
        yield f"table, {name}", content, RELATIONS.encode(), EITHER
    for name, content in damaged(RELATIONS.encode(), rng, 12, 14):
        yield f"relations, {name}", TABLE.encode(), content, EITHER
    for name, content, expected in encodings(CSV.replace("東京,{}は日本の,首都,港", "Köln,{} lies in,Wien,Ulm")):
        yield name, content, None, expected
    yield "table without relations", TABLE.encode(), None, REFUSED
    yield "relations empty", TABLE.encode(), b"", REFUSED
    yield "relations twice", TABLE.encode(), (RELATIONS + RELATIONS.splitlines()[1]).encode(), REFUSED
    rows = [line.split(",") for line in CSV.replace('"Zürich, city"', "Zürich").splitlines()]
    needed = ("subject", "prompt")
    for column, title in enumerate(rows[0]):
        without = [row[:column] + row[column + 1 :] for row in rows]
        yield f"no {title}", lines(without), None, REFUSED if title in needed else VALID
        renamed = [[*rows[0][:column], title.upper(), *rows[0][column + 1 :]], *rows[1:]]
        yield f"{title} renamed", lines(renamed), None, REFUSED if title in needed else VALID
        yield f"{title} twice", lines([[*row, row[column]] for row in rows]), None, REFUSED
        for value in CELLS:
            changed = [rows[0], rows[1], [*rows[2][:column], value, *rows[2][column + 1 :]], rows[3]]
            refuse = (
                bool(CONTROL.search(value.strip())) or value in ("a,b", '"') or (title == "joint" and value.strip())
            )
            refuse = refuse or (title in needed and not value.strip()) or (title == "prompt" and value != "{}")
            yield f"{title} is {value[:20]!r}", lines(changed), None, REFUSED if refuse else EITHER
    yield "empty", b"", None, REFUSED
    yield "blank", b" \n\n\t\n", None, REFUSED
    yield "header only", lines(rows[:1]), None, REFUSED
    yield "no header", lines(rows[1:]), None, REFUSED
    yield "NULs", b"\0" * 300, None, REFUSED
    yield "noise", rng.randbytes(500), None, REFUSED
    yield "one long line", LONG.encode(), None, REFUSED
    yield "column of control characters", b"subject,prompt,\x1b[2J\x07\nFrance,{} is,x\n", None, REFUSED
    yield "long column", f"subject,prompt,{LONG}\nFrance,{{}} is,x\n".encode(), None, VALID
    yield "many columns", (",".join(f"c{i}" for i in range(5000)) + "\n").encode(), None, REFUSED
    yield "an extra field", lines([rows[0], [*rows[1], "more"]]), None, REFUSED
    yield "a field too few", lines([rows[0], rows[1][:-2]]), None, REFUSED
    yield "a quote never closed", CSV.replace("France", '"France').encode(), None, REFUSED
    yield "a field of megabytes", f"subject,prompt\n{'y' * 300_000},{{}} is\n".encode(), None, EITHER
    for separator in (";", "\t"):
        yield f"separator {separator!r}", lines(rows, separator), None, VALID
    yield "separator |", lines(rows, "|"), None, REFUSED
    yield "carriage returns", lines(rows).replace(b"\n", b"\r"), None, VALID


def lines(rows, separator=","):
    return "".join(separator.join(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")


def facts_in_json(rng):
    """JSON files, as (name, bytes, None, expected)."""
    for name, record in RECORDS.items():
        content = json.dumps([record], ensure_ascii=False).encode()
        for cut, damage in damaged(content, rng, 10, 12):
            yield f"{name}, {cut}", damage, None, REFUSED if cut.startswith("cut") else EITHER
        changes = [(path, value) for path in places_in(record) for value in STRANGE]
        for path, value in rng.sample(changes, 40):
            refuse = path[-1] in NEEDED and not plain_words(value) and (name, path[-1]) != ("knowedit", "target_new")
            expected = REFUSED if refuse else EITHER
            yield f"{name}, {path} is {str(value)[:20]!r}", dumped(replaced(record, path, value)), None, expected
        for path in places_in(record):
            if len(path) == 1:
                left = {key: value for key, value in record.items() if key != path[0]}
                needed = path[0] in NEEDED and (name, path[0]) != ("knowedit", "target_new")
                yield f"{name} without {path[0]}", dumped(left), None, REFUSED if needed else VALID
        yield f"{name} twice", json.dumps([record, record]).encode(), None, VALID
        yield f"{name} bare", json.dumps(record).encode(), None, REFUSED
        yield f"{name} in an object", json.dumps({"train": [record]}).encode(), None, VALID
        yield f"{name} in two lists", json.dumps({"train": [record], "test": [record]}).encode(), None, REFUSED
    good = json.dumps([RECORDS["zsre"]], ensure_ascii=False)
    for name, content, expected in encodings(good):
        yield name, content, None, expected
    for name, content in {
        "empty": "", "blank": " \n", "null": "null", "number": "5", "text": '"x"', "list": "[]", "object": "{}",
        "list of lists": "[[]]", "list of null": "[null]", "deep lists": "[" * 100_000, "deep": "[" * 900 + "]" * 900,
        "deep objects": '{"a":' * 100_000, "digits": f"[{'9' * 5000}]", "huge": "[1e999]", "NaN": "[NaN]",
        "comment": "[] // no", "two values": "[] []", "single quotes": "[{'subject': 'x'}]", "tab": '["\t"]',
        "key with control": json.dumps([{"\x1b[2J": 1, "subject": "x"}]), "long key": json.dumps([{LONG: 1}]),
        "half key": json.dumps([{HALF: 1}]), "many keys": json.dumps([{str(i): 1 for i in range(3000)}]),
        "lists with strange names": json.dumps({"\x1b": [], HALF: [], LONG: []}),
    }.items():  # fmt: skip
        yield name, content.encode(), None, REFUSED


def dumped(record):
    return json.dumps([record]).encode()


def strings_in(value):
    """Every text inside JSON content, white space around it removed."""
    if isinstance(value, str):
        yield value.strip()
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings_in(inner)


def decoded(content):
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    return content.decode("utf-8-sig")


def unfaithful(found, content, suffix):
    """What is wrong with facts that were read from a file: themselves, or that the file does not hold them."""
    if not found:
        return "no facts"
    whole = decoded(content)
    if suffix == ".json":
        said = set(strings_in(json.loads(whole)))
    else:
        tables = [
            [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(whole, newline=""), delimiter=separator)]
            for separator in ",;\t"
        ]
        counts = [sum(any(row) for row in table) - 1 for table in tables]
        if len(found) not in counts:
            return f"{len(found)} facts of a table with {counts} rows"
        said = {cell for table in tables for row in table for cell in row}
    for fact in found:
        texts = [fact.subject, fact.prompt, *fact.paraphrases, *fact.neighbourhood]
        targets = [one for one in (fact.target_true, fact.target_new) if one is not None]
        kinds = [one for one in (fact.relation, fact.subject_type, fact.object_type) if one is not None]
        if not all(isinstance(one, str) for one in texts + targets + kinds):
            return "a value that is no text"
        if not all(one.strip() for one in (fact.subject, fact.prompt, *targets)):
            return f"a blank value in {fact!r:.200}"
        if any(CONTROL.search(one) for one in texts + targets + kinds):
            return f"a control character in {fact!r:.200}"
        start, stop = fact.subject_span
        if fact.prompt.count("{}") != 1 or fact.text[start:stop] != fact.subject:
            return f"the subject is not where it should be in {fact!r:.200}"
        if not {fact.subject, *targets} <= said:
            return f"not in the file: {fact!r:.200}"
        if suffix == ".json" and not {fact.prompt, fact.text} & said:
            return f"not in the file: {fact.prompt:.200}"
    return None


@pytest.mark.parametrize("block", range(BLOCKS))
@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_malformed_facts(tmp_path, suffix, block):
    family = facts_in_csv if suffix == ".csv" else facts_in_json
    cases, failures = block_of(family(random.Random(f"facts{suffix}")), block), []
    for name, content, beside, expected in cases:
        path, relations = tmp_path / f"facts{suffix}", tmp_path / "relations.csv"
        path.write_bytes(content)
        relations.unlink(missing_ok=True)
        if beside is not None:
            relations.write_bytes(beside)
        found = outcome(lambda path=path: facts.load(path))
        failures.append((name, judged(*found, expected, lambda found, said=content: unfaithful(found, said, suffix))))
    show(failures, cases)


# Paths

PATHS = ["", ".", "..", "/", "~", "absent", "absent.csv", "a/b/c.json", "~nobody-of-that-name/x.csv", "x" * 5000]
PATHS += ["nul\0.csv", "bell\x07.csv", "\x1b[31m.csv", "two\nlines.csv", "\udcff.csv", "é.csv"]
PATHS += ["/dev/null", "/proc/x/y.csv"]


@pytest.mark.parametrize(
    "read",
    [facts.load, facts.relations, facts.fingerprint, text.fingerprint, text.read],
    ids=lambda f: f.__module__.split(".")[1] + "." + f.__name__,
)
def test_paths_to_nothing(tmp_path, monkeypatch, read):
    monkeypatch.chdir(tmp_path)
    cases = [*PATHS, *(name.replace(".csv", ".txt") for name in PATHS[-8:])]
    found = [outcome(lambda name=name: list(read(name))) for name in cases]
    show([(repr(name), judged(*one, REFUSED, None)) for name, one in zip(cases, found, strict=True)], cases)


# Texts

PLAIN = "\n\n".join([*SENTENCES, "Zürich 東京 – end"])
JSONL = (
    "".join(json.dumps({"text": one, "id": number}, ensure_ascii=False) + "\n" for number, one in enumerate(SENTENCES))
    + '{"text": "Zürich"}\n'
)


def texts(rng):
    """Text files, as (name, suffix, bytes)."""
    for name, content in damaged(PLAIN.encode(), rng, 12, 25):
        yield name, rng.choice([".txt", ".md"]), content
    for name, content in damaged(JSONL.encode(), rng, 25, 45):
        yield name, ".jsonl", content
    for name, content, _ in encodings(PLAIN.replace("東京 –", "-")):
        yield name, ".txt", content
    for name, content, _ in encodings(JSONL):
        if name != "latin-1":
            yield name, ".jsonl", content
    for value in STRANGE:
        yield f"text is {str(value)[:20]!r}", ".jsonl", json.dumps({"text": value}).encode()
        yield f"id is {str(value)[:20]!r}", ".jsonl", json.dumps({"text": "Rome", "id": value}).encode()
    for name, content in {
        "empty": b"", "blank": b" \n\t\n ", "NULs": b"\0" * 99, "noise": rng.randbytes(300), "mark": b"\xef\xbb\xbf",
        "NUL inside": b"Rome \0 Paris", "half": b"\xed\xa0\x80", "overlong": b"\xc0\x80",
        "ends in a character": b"Rome \xe6\x9d",
        "deep": b"[" * 100_000, "deep text": b'{"text": ' + b"[" * 100_000, "one line": LONG.encode() * 15,
        "list": b"[]", "number": b"5", "two objects": b'{"text": "a"} {"text": "b"}',
        "digits": b'{"text": "a", "n": ' + b"9" * 5000 + b"}",
        "returns": b"Rome\rParis\r\nVienna", "separators": "Rome\u2028Paris\x85Vienna".encode(),
    }.items():  # fmt: skip
        for suffix in (".jsonl", ".txt"):
            yield name, suffix, content
    for suffix in ("", ".TXT", ".json", ".csv", ".txt.gz", ".\x1b", "\n.txt\n"):
        yield f"suffix {suffix!r}", suffix, PLAIN.encode()


def texts_by_hand(content, suffix):
    """The texts that a file holds, for a plain text as one; None if there are none or it is malformed."""
    try:
        if suffix in (".txt", ".md"):
            whole = re.sub("\r\n|\r", "\n", content.decode("utf-8-sig"))
            return [whole] if whole.strip() and "\0" not in whole else None
        if suffix != ".jsonl":
            return None
        found = []
        for number, line in enumerate(content.split(b"\n")):
            if line.strip():
                record = json.loads(line.decode("utf-8" if number else "utf-8-sig"))
                repr(record["text"]).encode()
                if re.search("[\ud800-\udfff]", json.dumps(record, ensure_ascii=False)) or not isinstance(
                    record["text"], str
                ):
                    return None
                found += [record["text"]] if record["text"].strip() else []
        return found or None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def unlike(found, expected):
    """What is wrong with texts and their windows; expected are the file's own."""
    read, cut = found
    if "".join("".join(read).split()) != "".join("".join(expected).split()):
        return f"reads {''.join(read)[:80]!r}"
    if not all(one.strip() and len(one) <= text.PIECE for one in read) and len(expected) == 1:
        return "a blank or long piece"
    ids = [number for one in read for number in tokenizer()(one)["input_ids"]]
    if [number for window in cut for number in window.token_ids] != ids:
        return "windows of other tokens"
    return None if all(0 < window.counted <= 64 for window in cut) else "a window of another length"


@pytest.mark.parametrize("block", range(BLOCKS))
def test_malformed_texts(tmp_path, block):
    cases, failures = block_of(texts(random.Random("texts")), block), []
    for name, suffix, content in cases:
        path = tmp_path / f"text{suffix}"
        path.write_bytes(content)
        expected = texts_by_hand(content, suffix)

        def read(path=path):
            found = list(text.read(path))
            return found, text.windows(found, tokenizer(), context=64)

        valid = VALID if expected else REFUSED
        failures.append(
            (f"{name} {suffix}", judged(*outcome(read), valid, lambda found, own=expected: unlike(found, own)))
        )
    show(failures, cases)


# Models

NUMBERS = [0, -1, 1.5, 10**15, 10**30, "3", None, [], {}, True, float("nan")]


def config_changes(config, rng):
    """Configurations, as (name, bytes)."""
    for key in config:
        yield f"no {key}", json.dumps({name: one for name, one in config.items() if name != key}).encode()
    changes = [(key, value) for key in config for value in [*NUMBERS, "", "\x1b[31m\x07", LONG]]
    for key, value in rng.sample(changes, 90):
        yield f"{key} is {str(value)[:20]!r}", json.dumps(config | {key: value}).encode()
    for count in (31, 10**6, 10**15, 1e30):  # of which a model would be built for hours
        yield f"{count} layers", json.dumps(config | {"num_hidden_layers": count}).encode()
    whole = json.dumps(config, indent=1).encode()
    yield from damaged(whole, rng, 8, 12)
    odd = {"empty": b"", "list": b"[]", "deep": b"[" * 100_000}
    yield from (odd | {"noise": rng.randbytes(200), "latin-1": b'{"a": "\xe9"}'}).items()


def header_changes(content, rng):
    """Safetensors files, as (name, bytes)."""
    size = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]

    def joined(header, data=data):
        said = (header if isinstance(header, str) else json.dumps(header)).encode()
        return struct.pack("<Q", len(said)) + said + data

    for place in (0, 1, 7, 8, 9, 100, size, size + 7, size + 8, size + 9, len(content) // 2, len(content) - 1):
        yield f"cut at {place}", content[:place]
    for length in (0, 1, size - 1, size + 1, len(content), 2**31, 2**63, 2**64 - 1):
        yield f"length {length}", struct.pack("<Q", length) + content[8:]
    yield "longer", content + b"\0"
    names = [name for name in header if name != "__metadata__"]
    for name in rng.sample(names, 6):
        others = {one: entry for one, entry in header.items() if one != name}
        yield f"{name} dropped", joined(others)
        yield f"{name} renamed", joined(others | {f"{name}\x1b": header[name]})
        yield f"{name} twice", joined(json.dumps(header)[:-1] + f', "{name}": {json.dumps(header[name])}}}')
        begin, end = header[name]["data_offsets"]
        for offsets in ([begin + 4, end + 4], [begin, end - 4], [end, begin], [-4, end], [0, 2**63], [begin], "x"):
            yield f"{name} at {offsets}", joined(header | {name: header[name] | {"data_offsets": offsets}})
        shape = header[name]["shape"]
        for other in (shape[::-1], [*shape, 1], [], [-1], [2**40, 2**40], [0], ["x"], None):
            yield f"{name} of shape {other}", joined(header | {name: header[name] | {"shape": other}})
        for dtype in ("F16", "F64", "I32", "U32", "f32", "BOOL", "", 5, None, "\x1b"):
            yield f"{name} of dtype {dtype!r}", joined(header | {name: header[name] | {"dtype": dtype}})
    for place in sorted(rng.sample(range(size + 8), 25)):
        byte = rng.randrange(1, 256)
        yield f"byte {place} xor {byte}", content[:place] + bytes([content[place] ^ byte]) + content[place + 1 :]
    for place in sorted(rng.sample(range(size + 8, len(content)), 6)):
        yield f"weight byte {place}", content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    for name in ("[]", "null", "{}", "[" * 10_000, "{" + '"a":{' * 1000):
        yield f"header {name[:10]}", joined(name)


def index_changes(names, rng):
    """Indices of sharded weights, as (name, bytes)."""
    whole = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, "part.safetensors")}
    for value in [None, 5, "part.safetensors", [], {}, ["part.safetensors"], {"a": 5}, {"a": None}, {"a": ["x"]}]:
        yield f"map {value}", json.dumps(whole | {"weight_map": value}).encode()
    outside = ["..", "../part.safetensors", "/etc/passwd", "a\\b.safetensors"]
    strange = ["", ".", "x\0.safetensors", "\x1b.safetensors", "\ud800.safetensors", f"{LONG}.safetensors"]
    for file in [*outside, *strange, "absent.safetensors", "part.bin", "config.json"]:
        listed = whole["weight_map"] | {names[0]: file}
        yield f"file {file[:20]!r}", json.dumps(whole | {"weight_map": listed}).encode()
    more = whole["weight_map"] | {"more": "part.safetensors"}
    yield "a tensor more", json.dumps(whole | {"weight_map": more}).encode()
    yield "a tensor less", json.dumps(whole | {"weight_map": dict.fromkeys(names[1:], "part.safetensors")}).encode()
    yield "no metadata", json.dumps({"weight_map": whole["weight_map"]}).encode()
    yield from damaged(json.dumps(whole).encode(), rng, 4, 8)
    yield "deep", b"[" * 100_000


def tokenizer_changes(content, rng):
    """Tokenizers, as (name, bytes)."""
    yield from damaged(content, rng, 8, 12)
    whole = json.loads(content)
    for key in whole:
        yield f"no {key}", json.dumps({name: one for name, one in whole.items() if name != key}).encode()
        yield f"{key} is 5", json.dumps(whole | {key: 5}).encode()
        yield f"{key} is {{}}", json.dumps(whole | {key: {}}).encode()
    model = whole["model"]
    changes = [("vocab", value) for value in ({}, [], {"a": -1}, {"a": 2**40})]
    changes += [("merges", value) for value in (None, [], ["a"], [["a", "zz"]])]
    for key, value in [*changes, ("type", "Nothing"), ("unk_token", "absent"), ("dropout", 5)]:
        yield f"{key} is {value}", json.dumps(whole | {"model": model | {key: value}}).encode()
    odd = {"empty": b"", "list": b"[]", "null": b"null", "deep": b"[" * 100_000}
    yield from (odd | {"noise": rng.randbytes(200)}).items()


def model_cases(folder):
    """What replaces a file of the folder, as (file, name, bytes or None to drop it)."""
    rng = random.Random("models")
    read = {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors", "tokenizer.json")}
    changes = {
        "config.json": config_changes(json.loads(read["config.json"]), rng),
        "model.safetensors": header_changes(read["model.safetensors"], rng),
        "model.safetensors.index.json": index_changes(sorted(build("llama").state_dict()), rng),
        "tokenizer.json": tokenizer_changes(read["tokenizer.json"], rng),
    }
    for file, family in changes.items():
        yield file, "dropped", None
        for name, content in family:
            yield file, name, content


def stored(folder):
    """The tensors of a folder's safetensors files by name, read without the library."""
    found = {}
    for path in folder.glob("*.safetensors"):
        content = path.read_bytes()
        size = struct.unpack("<Q", content[:8])[0]
        kinds = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "I32": "<i4", "U32": "<u4"}
        for name, entry in json.loads(content[8 : 8 + size]).items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                array = np.frombuffer(content[8 + size + begin : 8 + size + end], kinds[entry["dtype"]])
                found[name] = array.reshape(entry["shape"]).astype(np.float32)
    return found


def not_the_folders(model, folder, whole):
    """What is wrong with a model: a weight that is not its file's, other tokens, or a sentence that does not come back.

    A sentence must come back where the tokenizer is ``whole``.
    """
    own = stored(folder)
    for name, parameter in model.model.state_dict().items():
        here, there = parameter.numpy(), own.get(name)
        if there is None or here.shape != there.shape or here.tobytes() != there.tobytes():
            return f"{name} is not what the file holds"
    ids = model.tokenizer(SENTENCES[0])["input_ids"]
    if ids != Tokenizer.from_file(str(folder / "tokenizer.json")).encode(SENTENCES[0]).ids:
        return "other tokens than the file's tokenizer gives"
    if whole and model.tokenizer.decode(ids) != SENTENCES[0]:
        return "a sentence does not come back"
    return None


@pytest.mark.parametrize("block", range(BLOCKS))
def test_malformed_models(model_folder, tmp_path, block):
    cases, failures = block_of(model_cases(model_folder), block), []
    for file, name, content in cases:
        folder = shutil.copytree(model_folder, tmp_path / "spoilt")
        if file.endswith(".index.json"):
            (folder / "model.safetensors").rename(folder / "part.safetensors")
        (folder / file).unlink(missing_ok=True)
        if content is not None:
            (folder / file).write_bytes(content)
        found, whole = outcome(lambda folder=folder: models.load(folder, device="cpu")), file != "tokenizer.json"
        expected = REFUSED if content is None else EITHER
        wrong = judged(*found, expected, lambda model, at=folder, own=whole: not_the_folders(model, at, own))
        failures.append((f"{file}: {name}", wrong))
        shutil.rmtree(folder)
    show(failures, cases)


# GGUF


@pytest.fixture(scope="module")
def gguf_content(tmp_path_factory):
    """A GGUF file's bytes, and where its weights begin."""
    import gguf

    path = write_gguf(tmp_path_factory.mktemp("gguf") / "whole.gguf", build("llama"))
    return path.read_bytes(), gguf.GGUFReader(path).data_offset


def gguf_changes(content, begin, rng):
    """GGUF files, as (name, bytes, expected)."""
    for place in sorted({0, 3, 4, 8, 16, 24, begin, len(content) - 1, *rng.sample(range(begin), 22)}):
        yield f"cut at {place}", content[:place], REFUSED
    for place in (*range(0, 24, 2), *rng.sample(range(24, 700), 12), *rng.sample(range(700, begin - 1200), 6)):
        for bit in (1, 128):
            changed = content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]
            yield f"byte {place} xor {bit}", changed, EITHER
    for place in rng.sample(range(begin - 1200, begin), 20):
        changed = content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]
        yield f"tensors' byte {place} inverted", changed, EITHER
    depth = content.index(b"llama.block_count") + len(b"llama.block_count") + 4
    for count in (0, 2, 4, 10**6, 2**32 - 1):
        changed = content[:depth] + struct.pack("<I", count) + content[depth + 4 :]
        yield f"{count} blocks", changed, EITHER if count < 3 else REFUSED


def not_the_files(model, path):
    """What is wrong with a model that was read from a GGUF file; rows of queries and keys have another order there."""
    import gguf

    def values(array):
        return np.sort(np.asarray(array, dtype=np.float32), axis=None).tobytes()

    held = {values(tensor.data) for tensor in gguf.GGUFReader(path).tensors}
    return next(
        (f"{name} is not in the file" for name, one in model.model.state_dict().items() if values(one) not in held),
        None,
    )


@pytest.mark.parametrize("block", range(BLOCKS))
def test_malformed_gguf(gguf_content, tmp_path, cache, block):
    cases, failures = block_of(gguf_changes(*gguf_content, random.Random("gguf")), block), []
    path = tmp_path / "bad.gguf"
    for name, content, expected in cases:
        path.write_bytes(content)
        found = outcome(lambda: models.load(path, device="cpu"))
        failures.append((name, judged(*found, expected, lambda model: not_the_files(model, path))))
        shutil.rmtree(cache, ignore_errors=True)
    show(failures, cases)


# Options

WHOLE = ["", "text", "nan", "inf", "1.5", "-1", "0", "1e3", "\0", "x" * 5000, "--", "5 6"]
NOT_NEGATIVE = [value for value in WHOLE if value != "0"]
REAL = ["", "text", "nan", "inf", "-inf", "-1", "\x1b[31m", "1,5", "1e400", "--", DIGITS]
SIZES = ["", "text", "nan", "inf", "-1", "0", "1B", "G", "1..5G", "5 GG", "1e3", "\0", DIGITS + "x"]
LAYERS = ["", "text", "3", "-4", "2:1", "0:3", ":", "1:", "1.5", "nan", "٣", DIGITS, "\0", "--", "\x1b[31m"]
LAYER = ["", "text", "3", "-4", "1.5", "nan", "--", DIGITS]
WORDS = ["", "text", "\0", "\x1b[31m", "two\nlines", "x" * 5000]
NOWHERE = ["", "~nobody-of-that-name/x", "x" * 5000, "a\0b", "notes.txt/x"]
NAMES = [*NOWHERE, ".", "/", "absent", "\x1b[31m\x07", "two\nlines", "\udcff", "/dev/null"]
FILES = [*NAMES, "notes.txt", "noise.csv", "noise.json", "noise.jsonl", "folder", "hub:nothing"]
OUT = [*NOWHERE, "/dev/null", "/dev/null/x", "/proc/absent/x", "notes.txt"]
MOMENT = [*NAMES, "notes.txt", "folder", "noise.npz"]
#: Bad values by command and option.
BAD = {
    "measure": {
        "--model": [*NAMES, "notes.txt", "a/b/c", "absent.gguf", "noise.gguf", "folder"],
        "--device": [*WORDS, "cuda:99", "meta", "cpu:1:2", "-1"],
        "--dtype": [*WORDS, "float8", "int8", "32"],
        "--down-projection": [*WORDS, "mlp", "(", "\\"],
        "--facts": FILES,
        "--text": FILES,
        "--tokens": [*WHOLE, "39", DIGITS],
        "--skip-first": [*NOT_NEGATIVE, DIGITS],
        "--context": WHOLE,
        "--layers": LAYERS,
        "--limit": [*WHOLE, "2"],
        "--batch": WHOLE,
        "--memory": SIZES,
        "--shrinkage": [*REAL, "1.01", "OAS"],
        "--resamples": [*NOT_NEGATIVE, DIGITS],
        "--seed": NOT_NEGATIVE,
        "--out": OUT,
        "--compact": [*OUT, "x.npz", "folder", "folder.json"],
    },
    "edit": {
        "--edits": FILES,
        "--text": FILES[1::2],
        "--watch": FILES[::3],
        "--protect": FILES,
        "--method": [*WORDS, "ROME"],
        "--layer": LAYER,
        "--limit": WHOLE,
        "--batch": WHOLE,
        "--tokens": [*WHOLE, "39", DIGITS],
        "--protect-weight": REAL,
        "--moment": MOMENT,
        "--text-weight": [*REAL, "0"],
        "--protected-share": [*REAL, "0", "1"],
        "--ft-norm": [*REAL, "0"],
        "--out": OUT,
    },
    "forecast": {
        "--edits": FILES[::2],
        "--protect": FILES,
        "--text": FILES[1::2],
        "--edit-limit": WHOLE,
        "--protect-limit": WHOLE,
        "--layer": LAYER,
        "--level": WORDS,
        "--method": [*WORDS, "ft"],
        "--protect-weight": REAL,
        "--tokens": [*WHOLE, "39", DIGITS],
        "--moment": MOMENT,
        "--shrinkage": [*REAL, "1.01", "oas"],
        "--out": OUT,
    },
    "sample": {
        "--tokens": WHOLE,
        "--length": [*WHOLE, "15"],
        "--temperature": [*REAL, "0"],
        "--batch": WHOLE,
        "--seed": [*(value for value in NOT_NEGATIVE if value != "-1"), DIGITS],
        "--out": [*OUT, "x.txt", "folder", "folder.jsonl"],
    },
}
#: Odd values that are valid.
GOOD = [
    ("measure", "--context", DIGITS), ("measure", "--limit", DIGITS), ("measure", "--batch", DIGITS),
    ("measure", "--memory", "1.5 GB"), ("measure", "--layers", "-1"), ("measure", "--shrinkage", "oas"),
    ("measure", "--shrinkage", "1"), ("measure", "--resamples", "0"), ("measure", "--seed", DIGITS),
    ("measure", "--facts", "./good.csv"), ("measure", "--out", "a/b\x1b c"), ("edit", "--layer", "-2"),
    ("edit", "--batch", DIGITS), ("edit", "--protect-weight", "0"), ("forecast", "--edit-limit", DIGITS),
    ("forecast", "--protect-weight", "1e3"), ("sample", "--temperature", "2.5"), ("sample", "--seed", "-1"),
    ("sample", "--length", DIGITS),
]  # fmt: skip


def option_cases():
    """One odd option on an otherwise good command, as (command, option, value, expected)."""
    for command, options in BAD.items():
        for option, values in options.items():
            for value in values:
                yield command, option, value, REFUSED
    for case in [*GOOD, *((command, "--device", "cpu") for command in BAD)]:
        yield *case, VALID


@pytest.fixture
def workplace(model_folder, tmp_path, monkeypatch):
    """A folder of good and bad files as the current one; returns the words of a good command for each command."""
    monkeypatch.chdir(tmp_path)
    rng = random.Random("options")
    (tmp_path / "good.csv").write_bytes(CSV.replace("東京,{}は日本の,首都,港", "Rome,{} lies in,Italy,Spain").encode())
    (tmp_path / "other.csv").write_text("subject,prompt,target_true\nSpain,The capital of {} is,Madrid\n")
    (tmp_path / "good.txt").write_text("\n".join(SENTENCES * 3), encoding="utf-8")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "empty.csv").write_text("")
    for suffix in ("csv", "json", "jsonl", "npz", "gguf"):
        (tmp_path / f"noise.{suffix}").write_bytes(rng.randbytes(200))
    for name in ("folder", "folder.json", "folder.jsonl"):
        (tmp_path / name).mkdir()
    every = {"--model": str(model_folder), "--device": "cpu"}
    read = {"--text": "good.txt", "--tokens": "200"}
    return {
        "measure": every | read | {"--facts": "good.csv", "--resamples": "2", "--out": "out"},
        "edit": every | read | {"--edits": "good.csv", "--protect": "other.csv", "--layer": "1", "--out": "out"},
        "forecast": every | read | {"--edits": "good.csv", "--protect": "other.csv", "--layer": "1", "--out": "out"},
        "sample": every | {"--tokens": "50", "--length": "20", "--batch": "2", "--out": "out.jsonl"},
    }


def said_by(words):
    """What a command comes to: its status, or the error that it ends in, and what it says on the standard error."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = cli.main(words)
        except SystemExit as error:
            status = error.code
        except Exception as error:
            status = f"{type(error).__name__}: {str(error)[:200]}"
    return status, err.getvalue().encode("utf-8", "backslashreplace").decode()


def written(out):
    """Whether a command's result is there and whole."""
    if out.endswith(".jsonl"):
        rows = [json.loads(line) for line in Path(out).read_text(encoding="utf-8").splitlines()]
        return bool(rows) and all(row["text"].strip() for row in rows)
    records = [path for path in Path(out).glob("*.json") if json.loads(path.read_text(encoding="utf-8"))]
    return len(records) == 1


@pytest.mark.parametrize("block", range(BLOCKS))
def test_malformed_options(workplace, tmp_path, monkeypatch, block):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cases, failures = block_of(option_cases(), block), []
    before = sorted(tmp_path.rglob("*"))
    for command, option, value, expected in cases:
        changed = workplace[command] | {option: value}
        if option == "--moment":
            del changed["--tokens"]
        words = [command, "--all-facts"] if command == "forecast" else [command]
        for name, one in changed.items():
            words += [f"{name}={one}"] if one.startswith("-") and name != "--layers" else [name, one]
        status, said = said_by(words)
        *notes, last = said.split("\n")[:-1] or [""]
        if expected == VALID:
            wrong = None if status == 0 and written(changed["--out"]) else f"ends in {status}: {said[:200]}"
        elif status != 2:
            wrong = f"ends in {status}"
        elif re.match("(python -m )?superposition[ :]", last):
            wrong = None if said.startswith("usage: ") else "no usage"
        else:
            notes = [note for note in notes if not note.startswith("note: ")]
            wrong = f"says {said[:200]!r}" if notes or not last.startswith("error: ") else wrong_sentence(last)
        if CONTROL.search(said):
            wrong = f"control characters: {said[:200]!r}"
        if wrong:
            failures.append((f"{command} {option} {value[:40]!r}", wrong))
        for path in {"out", "out.jsonl", changed["--out"].split("/")[0]} if expected == VALID else ():
            if Path(path).is_dir():
                shutil.rmtree(path)
            else:
                Path(path).unlink(missing_ok=True)
    left = [path.name for path in sorted(tmp_path.rglob("*")) if path not in before and "cache" not in path.parts]
    if left:
        failures.append(("left over", left))
    show(failures, cases)
