"""The loaders of facts, what they say of a bad file, and the book's own table."""

import csv
import hashlib
import io
import json
import re
from collections import Counter, defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from superposition import facts, paths
from superposition.errors import UserError
from superposition.facts import Fact, load

RELATIONS = "relation,prompt,name,subject_type,object_type,paraphrase_1,paraphrase_2\n"
P36 = "P36,The capital of {} is,capital,country,city,{}'s capital is,\n"
P30 = "P30,{} lies in,continent,country,continent,The continent of {} is,{} is in\n"


def record(**changes):
    request = {
        "prompt": "The capital of {} is",
        "relation_id": "P36",
        "subject": "France",
        "target_true": {"str": "Paris", "id": "Q90"},
        "target_new": {"str": "Rome", "id": "Q220"},
    }
    return {
        "case_id": 7,
        "requested_rewrite": request | changes,
        "paraphrase_prompts": ["It rained. France's capital is"],
        "neighborhood_prompts": ["The seat of UNESCO is"],
        "generation_prompts": ["France is"],
    }


@pytest.fixture
def table(tmp_path):
    """Write a table as the book's is, return its path."""

    def write(rows, relations=RELATIONS + P36 + P30, header="subject,relation,target_true,target_new\n"):
        (tmp_path / "relations.csv").write_text(relations, encoding="utf-8")
        path = tmp_path / "mine.csv"
        path.write_text(header + rows, encoding="utf-8")
        return path

    return write


# A fact


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("The capital of {} is", "France"),
        ("In Spain, {} is", "Spain"),
        ("{} lies in", "São Paulo"),
        ("{}", "x"),
    ],
)
def test_the_span_cuts_the_subject_out_of_the_text(prompt, subject):
    fact = Fact(subject, prompt)
    start, end = fact.subject_span
    before, after = prompt.split("{}")
    assert (fact.text[:start], fact.text[start:end], fact.text[end:]) == (before, subject, after)


def test_braces_beside_the_slot_are_plain_text():
    assert Fact("a {0} b", "{{x}} of {} is").text == "{{x}} of a {0} b is"


@pytest.mark.parametrize(
    ("subject", "prompt", "message"),
    [
        ("France", "The capital is", r"no slot; write \{\} once"),
        ("France", "{} and {} are", "2 slots; write"),
        (" ", "The capital of {} is", "subject is empty; name"),
    ],
)
def test_a_fact_that_cannot_be_used_is_refused(subject, prompt, message):
    with pytest.raises(UserError, match=message):
        Fact(subject, prompt)


# Loading


def test_counterfact_records_are_read_whole(tmp_path):
    path = tmp_path / "cf.json"
    path.write_text(json.dumps([record(), record(subject="Italy", relation_id=None)]), encoding="utf-8")
    first, second = load(path)
    assert first == Fact(
        "France",
        "The capital of {} is",
        "Paris",
        "Rome",
        "P36",
        ("It rained. France's capital is",),
        ("The seat of UNESCO is",),
    )
    assert (second.subject, second.relation) == ("Italy", None)


def test_a_table_takes_its_prompts_from_its_relations(table):
    france, peru, italy = load(table("France,P36,Paris,Rome\nPeru,P30,South America,Asia\nItaly,P36,Rome,\n"))
    assert france == Fact(
        "France",
        "The capital of {} is",
        "Paris",
        "Rome",
        "P36",
        ("France's capital is",),
        (),
        "country",
        "city",
    )
    assert peru.paraphrases == ("The continent of Peru is", "Peru is in")
    assert italy.target_new is None


def test_a_csv_with_prompts_needs_no_relations(tmp_path):
    path = tmp_path / "mine.CSV"
    path.write_text('prompt,subject\n"In {}, they speak", Mali \n\n', encoding="utf-8")
    assert load(str(path)) == [Fact("Mali", "In {}, they speak")]


def test_neighbours_share_relation_and_object_and_leave_the_subject_out(table):
    rows = "Guinea,P30,Africa,\nPeru,P30,South America,\nEquatorial Guinea,P30,Africa,\nKenya,P30,Africa,\n"
    found = {fact.subject: fact.neighbourhood for fact in load(table(rows))}
    assert found == {
        "Guinea": ("Kenya lies in",),
        "Equatorial Guinea": ("Kenya lies in", "Guinea lies in"),
        "Kenya": ("Guinea lies in", "Equatorial Guinea lies in"),
        "Peru": (),
    }


def test_neighbours_are_at_most_ten_and_not_the_same_for_all(table):
    found = load(table("".join(f"Land {i},P30,Asia,\n" for i in range(25))))
    assert {len(fact.neighbourhood) for fact in found} == {10}
    assert len({fact.neighbourhood for fact in found}) == 25


def test_without_relation_neighbours_share_the_prompt_and_without_object_there_are_none(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(
        "subject,prompt,target_true\nKenya,{} lies in,Africa\nMali,{} lies in,Africa\n"
        "Chad,Where is {}? In,Africa\nTogo,{} lies in,\nBenin,{} lies in,\n",
        encoding="utf-8",
    )
    assert [fact.neighbourhood for fact in load(path)] == [("Mali lies in",), ("Kenya lies in",), (), (), ()]


def test_a_limit_keeps_the_first_facts_unchanged():
    assert load("book", 5) == load("book")[:5]
    assert load("book", 10**6) == load("book")


def test_duplicates_and_order_are_kept(tmp_path):
    path = tmp_path / "cf.json"
    path.write_text(json.dumps([record(subject=name) for name in "bab"]), encoding="utf-8")
    assert [fact.subject for fact in load(path)] == ["b", "a", "b"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_changes_nothing(tmp_path, encoding):
    (tmp_path / "a.csv").write_text("subject,prompt\nÉvora,{} is in\n", encoding=encoding)
    (tmp_path / "a.json").write_text(json.dumps([record(subject="Évora")], ensure_ascii=False), encoding=encoding)
    assert load(tmp_path / "a.csv")[0].subject == load(tmp_path / "a.json")[0].subject == "Évora"


plain = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1).map(str.strip).filter(bool)
slotless = plain.filter(lambda text: "{" not in text and "}" not in text)
templates = st.tuples(slotless, slotless).map(lambda ends: f"{ends[0]} {{}} {ends[1]}")
in_place = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@in_place
@given(st.lists(st.tuples(plain, templates, st.none() | plain, st.none() | plain, st.none() | plain), min_size=1))
def test_a_csv_gives_back_what_was_written(tmp_path, rows):
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(["subject", "prompt", "target_true", "target_new", "relation"])
    writer.writerows([[value or "" for value in row] for row in rows])
    path = tmp_path / "any.csv"
    path.write_text(stream.getvalue(), encoding="utf-8", newline="")
    read = [(f.subject, f.prompt, f.target_true, f.target_new, f.relation) for f in load(path)]
    assert read == rows


@in_place
@given(
    st.lists(
        st.builds(
            Fact,
            plain,
            templates,
            plain,
            plain,
            st.none() | plain,
            st.lists(plain).map(tuple),
            st.lists(plain).map(tuple),
        ),
        min_size=1,
    ),
    st.booleans(),
)
def test_counterfact_json_gives_back_what_was_written(tmp_path, written, ascii_only):
    records = [
        {
            "requested_rewrite": {
                "subject": fact.subject,
                "prompt": fact.prompt,
                "relation_id": fact.relation,
                "target_true": {"str": fact.target_true},
                "target_new": {"str": fact.target_new},
            },
            "paraphrase_prompts": fact.paraphrases,
            "neighborhood_prompts": fact.neighbourhood,
        }
        for fact in written
    ]
    path = tmp_path / "any.json"
    path.write_text(json.dumps(records, ensure_ascii=ascii_only), encoding="utf-8")
    assert load(path) == written


# What is said of a bad file


def bad(**changes):
    return json.dumps([record(), record(**changes)])


BAD_FILES = {
    "no facts, csv": ("f.csv", "subject,prompt\n", r"f\.csv holds no facts: add"),
    "empty csv": ("f.csv", "", r"f\.csv holds no facts: give the columns"),
    "no facts, json": ("f.json", "[]", r"f\.json holds no facts: add"),
    "columns missing": (
        "f.csv",
        "topic;prompt\na;b\n",
        r"has the columns topic;prompt: give the columns subject",
    ),
    "no relations": (
        "f.csv",
        "subject,relation,target_true\na,P36,b\n",
        r"no relations\.csv beside it: give",
    ),
    "column twice": ("f.csv", "subject,prompt,subject\n", r"line 1: two columns are named 'subject'; rename"),
    "too many fields": (
        "f.csv",
        "subject,prompt\na,In {}, they\n",
        r"line 2: 3 fields where the header has 2; put",
    ),
    "too few fields": (
        "f.csv",
        "subject,prompt\n\na,{} is\nb\n",
        r"line 4: 1 fields where the header has 2; put",
    ),
    "missing value": (
        "f.csv",
        'subject,prompt\n"a\nb",{} is\nb,\n',
        r"line 4: the prompt is empty; fill it in",
    ),
    "empty subject": ("f.csv", "subject,prompt\n ,{} is\n", r"line 2: the subject is empty; fill it in"),
    "open quote": (
        "f.csv",
        'subject,prompt\na,{} is\n"b,{} is\n',
        r"line 3: not CSV \(.*\); mend its quotes",
    ),
    "no slot": (
        "f.csv",
        "subject,prompt\na,{} is\na,It is\n",
        r"line 3: the prompt 'It is' has no slot; write \{\}",
    ),
    "two slots": (
        "f.csv",
        "subject,prompt\na,{} is {}\n",
        r"line 2: the prompt .* has 2 slots; write \{\} once",
    ),
    "bytes": ("f.csv", b"subject,prompt\na,{} is\nS\xe3o,{} is\n", r"f\.csv, line 3: not UTF-8; save"),
    "bytes, json": ("f.json", b'[\n"\xff"]', r"f\.json, line 2: not UTF-8; save"),
    "extension": ("f.txt", "subject,prompt\na,{} is\n", r"f\.txt is neither \.csv nor \.json: give"),
    "not json": ("f.json", '[\n{"a": 1},\n{"b" 2}]', r"f\.json, line 3: not JSON \(.*\); mend"),
    "empty json": ("f.json", "", r"f\.json, line 1: not JSON"),
    "too deep": ("f.json", "[" * 200_000, r"f\.json cannot be read as JSON|not JSON"),
    "not a list": ("f.json", '{"a": 1}', r"f\.json is not a list of records: write"),
    "not a record": ("f.json", "[1]", r'f\.json, record 1: no "requested_rewrite" object; write'),
    "no request": ("f.json", json.dumps([record(), {}]), r'record 2: no "requested_rewrite" object; write'),
    "json slot": ("f.json", bad(prompt="It is"), r"record 2: the prompt 'It is' has no slot; write"),
    "json slots": ("f.json", bad(prompt="{} {}"), r"record 2: the prompt '\{\} \{\}' has 2 slots; write"),
    "json subject": (
        "f.json",
        bad(subject=" "),
        r'record 2: the "subject" is absent, empty or not a text; write',
    ),
    "json number": (
        "f.json",
        bad(subject=3),
        r'record 2: the "subject" is absent, empty or not a text; write',
    ),
    "json prompt": ("f.json", bad(prompt=None), r'record 2: the "prompt" is absent'),
    "json relation": ("f.json", bad(relation_id=36), r'record 2: the "relation_id" is absent'),
    "json target": (
        "f.json",
        bad(target_new="Rome"),
        r'record 2: no "target_new" object; write "target_new": \{',
    ),
    "json str": ("f.json", bad(target_true={"id": "Q1"}), r'record 2: the "target_true\.str" is absent'),
    "json list": (
        "f.json",
        json.dumps([record() | {"paraphrase_prompts": "one"}]),
        r'record 1: "paraphrase_prompts" is not a list of texts; write',
    ),
    "json neighbours": (
        "f.json",
        json.dumps([record() | {"neighborhood_prompts": [1]}]),
        r'record 1: "neighborhood_prompts" is not a list of texts; write',
    ),
    "half a character": (
        "f.json",
        bad(subject="\ud83d"),
        r"record 2: half a character .*; write the other half",
    ),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_explained(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value).strip()


BAD_TABLES = {
    "unknown relation": ("Peru,P99,Lima,\n", P36, r"mine\.csv, line 2: 'P99' is not in relations\.csv; add"),
    "no object": ("Peru,P36,,\n", P36, r"mine\.csv, line 2: the target_true is empty; fill"),
    "prompt": (
        "Peru,P36,Lima,\n",
        "P36,It is,,,,,\n",
        r"relations\.csv, line 2: the prompt 'It is' has no slot",
    ),
    "paraphrase": (
        "Peru,P36,Lima,\n",
        P36 + "P1,{} a,,,,{},{} {}\n",
        r"line 3: the paraphrase_2 .* has 2 slots",
    ),
    "empty": ("Peru,P36,Lima,\n", P36 + ",{} is,,,,,\n", r"relations\.csv, line 3: the relation is empty"),
    "twice": ("Peru,P36,Lima,\n", P36 + P36, r"relations\.csv, line 3: P36 has a line already; keep one"),
}


@pytest.mark.parametrize(("rows", "relations", "message"), BAD_TABLES.values(), ids=BAD_TABLES.keys())
def test_a_bad_table_is_explained(table, rows, relations, message):
    with pytest.raises(UserError, match=message):
        load(table(rows, RELATIONS + relations))


def test_relations_without_their_columns_are_explained(table):
    path = table("Peru,P36,Lima,\n", "id,text\nP36,{} is\n")
    with pytest.raises(UserError, match=r"relations\.csv has the columns id, text: give relation and prompt"):
        load(path)
    (path.parent / "relations.csv").unlink()
    with pytest.raises(UserError, match=r"There is no .*relations\.csv: write one"):
        facts.relations(path)


@pytest.mark.parametrize("function", [load, facts.fingerprint, facts.relations])
@pytest.mark.parametrize("name", ["absent.csv", "boook", "."])
def test_an_absent_file_is_explained(tmp_path, function, name):
    with pytest.raises(UserError, match=r"There is no facts file .*: give a \.csv file"):
        function(tmp_path / name)


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(UserError, match=f"A limit of {limit} leaves no facts: give 1 or more"):
        load("book", limit)


# Fingerprints


def test_the_fingerprint_of_one_file_is_its_sha256(tmp_path):
    for name, content in {"a.json": json.dumps([record()]), "a.csv": "subject,prompt\na,{} is\n"}.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        (tmp_path / "relations.csv").write_text("not read", encoding="utf-8")
        assert facts.fingerprint(tmp_path / name) == hashlib.sha256(content.encode()).hexdigest()


def test_the_fingerprint_of_a_table_changes_with_either_file(table):
    rows = "Peru,P36,Lima,\n"
    seen = {
        facts.fingerprint(table(rows)),
        facts.fingerprint(table(rows + rows)),
        facts.fingerprint(table(rows, RELATIONS + P36)),
    }
    assert len(seen) == 3
    assert facts.fingerprint(table(rows)) in seen


# The book's table


@pytest.fixture(scope="module")
def book():
    return load("book")


@pytest.fixture(scope="module")
def book_relations():
    return facts.relations()


def test_the_table_is_large_and_balanced(book, book_relations):
    per_relation = Counter(fact.relation for fact in book)
    assert len(book) >= 400
    assert len(book_relations) >= 12
    assert per_relation.keys() == book_relations.keys()
    assert all(25 <= count <= 40 for count in per_relation.values()), per_relation


def test_the_first_128_have_distinct_subjects_and_all_relations(book, book_relations):
    first = book[:128]
    per_relation = Counter(fact.relation for fact in first)
    assert len({fact.subject for fact in first}) == 128
    assert per_relation.keys() == book_relations.keys()
    assert max(per_relation.values()) - min(per_relation.values()) <= 1


def test_the_first_128_hold_the_pairs_that_the_paper_names(book):
    truths = {fact.subject: (fact.relation, fact.target_true) for fact in book[:128]}
    named = {
        "Vladimir Mayakovsky": ("P103", "Russian"),
        "Vladimir Bukovsky": ("P103", "Russian"),
        "Alfred Rambaud": ("P103", "French"),
        "Pierre Trabaud": ("P103", "French"),
        "Mac OS X 10.1": ("P178", "Apple"),
        "Windows 8.1": ("P178", "Microsoft"),
        "Independent State of Croatia": ("P37", "Croatian"),
        "Croatia": ("P37", "Croatian"),
        "University of Washington": ("P159", "Seattle"),
    }
    assert {subject: truths.get(subject) for subject in named} == named


def test_some_subjects_come_back_under_a_second_relation_after_row_200(book):
    assert len({(fact.subject, fact.relation) for fact in book}) == len(book)
    rows = defaultdict(list)
    for row, fact in enumerate(book):
        rows[fact.subject].append(row)
    again = {subject: found for subject, found in rows.items() if len(found) > 1}
    assert len(rows) >= 380
    assert 30 <= len(again) <= 50
    assert min(found[1] for found in again.values()) >= 200


def test_false_objects_are_of_the_relation_and_not_true_of_the_subject(book):
    objects, truths, used = defaultdict(set), defaultdict(set), defaultdict(set)
    for fact in book:
        objects[fact.relation].add(fact.target_true)
        truths[fact.subject].add(fact.target_true)
        used[fact.relation].add(fact.target_new)
    for fact in book:
        assert fact.target_new in objects[fact.relation], fact
        assert fact.target_new not in truths[fact.subject], fact
        assert fact.target_new.casefold() != fact.target_true.casefold(), fact
    assert all(len(names) >= 5 for names in used.values()), used


def test_about_half_the_prompts_begin_with_the_subject(book_relations):
    begin = sum(relation.prompt.startswith("{}") for relation in book_relations.values())
    assert abs(begin - len(book_relations) / 2) <= 1


def test_every_relation_has_four_distinct_templates_that_end_in_a_word(book_relations):
    for relation in book_relations.values():
        every = (relation.prompt, *relation.paraphrases)
        assert len(set(every)) == 4, relation.id
        assert all(re.search(r"\w$", template) for template in every), every
        assert relation.name and relation.subject_type and relation.object_type


def test_neighbourhoods_follow_counterfact(book):
    truths = {fact.text: (fact.relation, fact.target_true) for fact in book}
    for fact in book:
        assert len(fact.neighbourhood) <= 10
        assert len(set(fact.neighbourhood)) == len(fact.neighbourhood)
        for prompt in fact.neighbourhood:
            assert truths[prompt] == (fact.relation, fact.target_true)
            assert f" {fact.subject} " not in f" {prompt} "
    assert sum(bool(fact.neighbourhood) for fact in book) >= 0.8 * len(book)


def test_paraphrases_name_the_subject_and_never_the_object(book):
    for fact in book:
        for text in (fact.text, *fact.paraphrases):
            assert text.count(fact.subject) == 1, text
            assert fact.target_true not in text.replace(fact.subject, ""), text


def test_the_object_is_not_spelt_in_the_subject(book):
    assert [fact for fact in book if fact.target_true.casefold() in fact.subject.casefold().split()] == []


def test_the_tables_are_clean_text():
    for name in ("facts.csv", "relations.csv"):
        raw = (paths.data_dir() / name).read_bytes()
        assert not raw.startswith(b"\xef\xbb\xbf") and b"\r" not in raw and raw.endswith(b"\n")
        for row in csv.reader(io.StringIO(raw.decode("utf-8"), newline="")):
            for value in row:
                assert value == " ".join(value.split()) and value, row
