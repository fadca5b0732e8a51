"""The loaders of facts, what they say of a bad file, and the book's own table."""

import csv
import hashlib
import io
import json
import re
import warnings
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny, tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE

from superposition import editing
from superposition.data import facts
from superposition.data.facts import Fact, load
from superposition.editing import evaluation, forecast, targets
from superposition.errors import UserError
from superposition.io import cache as kept_in
from superposition.io import paths
from superposition.io.console import SuperpositionWarning
from superposition.lm import scoring, tracing

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
    [("The capital of {} is", "France"), ("In Spain, {} is", "Spain"), ("{} lies in", "São Paulo"), ("{}", "x")],
)
def test_the_span_cuts_the_subject_out_of_the_text(prompt, subject):
    fact = Fact(subject, prompt)
    start, end = fact.subject_span
    before, after = prompt.split("{}")
    assert (fact.text[:start], fact.text[start:end], fact.text[end:]) == (before, subject, after)
    assert Fact("a {0} b", "{{x}} of {} is").text == "{{x}} of a {0} b is"  # braces beside the slot are plain text


HOLDERS = {
    "subject": lambda text: {"subject": text},
    "prompt": lambda text: {"prompt": text + "{}"},
    "target_true": lambda text: {"target_true": text},
    "target_new": lambda text: {"target_new": text},
    "paraphrase": lambda text: {"paraphrases": ("a", text)},
    "neighbourhood prompt": lambda text: {"neighbourhood": ("a", text)},
}


@pytest.mark.parametrize(("what", "holder"), HOLDERS.items(), ids=HOLDERS.keys())
@given(character=st.characters(categories=["Cc"]))
@settings(deadline=None)
def test_control_characters_are_refused_but_for_tabs_and_ends_of_lines(what, holder, character):
    given_ = {"subject": "a", "prompt": "{} is"} | holder(f"x{character}y")
    if character in "\t\n\r":
        Fact(**given_)
    else:
        with pytest.raises(UserError) as caught:
            Fact(**given_)
        assert str(caught.value).startswith(f"the {what} 'x")
        assert str(caught.value).endswith(f"holds the control character {character!r}; remove it.")


def test_a_joint_is_a_space_or_nothing():
    assert [Fact("a", "{}", joint=one).joint for one in (None, "", " ")] == [None, "", " "]


@given(st.text(max_size=300))
@settings(max_examples=40, deadline=None)
def test_a_long_text_is_cut_and_a_short_one_is_not(text):
    shown = facts.shown(text)
    assert len(shown) <= 80
    assert shown == repr(text) or (len(repr(text)) > 80 and " … " in shown)


LONG = "x" * 60_000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fact("France", "The capital is"), r"no slot; write \{\} once"),
        (lambda: Fact("France", "{} and {} are"), "2 slots; write"),
        (lambda: Fact(" ", "The capital of {} is"), "subject is empty; name"),
        (lambda: Fact("a", "{}", joint="-"), "the joint '-' is neither a space nor empty; give"),
        (lambda: Fact(LONG, "It is"), "no slot"),
        (lambda: Fact("a", f"{LONG} is"), "no slot"),
        (lambda: Fact(f"{LONG}\0", "{} is"), "control character"),
        (lambda: Fact("a", "{} is", paraphrases=(f"\0{LONG}",)), "control character"),
        (lambda: load("book", 0), "A limit of 0 leaves no facts: give 1 or more"),
        (lambda: load("book", -3), "A limit of -3 leaves no facts: give 1 or more"),
    ],
)
def test_what_cannot_be_used_is_refused_and_no_message_repeats_a_long_text(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert len(str(caught.value)) < 300


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
        "France", "The capital of {} is", "Paris", "Rome", "P36", ("France's capital is",), (), "country", "city"
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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_changes_nothing_and_duplicates_and_order_stay(tmp_path, encoding):
    (tmp_path / "a.csv").write_text("subject,prompt\nÉvora,{} is in\n", encoding=encoding)
    records = json.dumps([record(subject=name) for name in ("Évora", "a", "Évora")], ensure_ascii=False)
    (tmp_path / "a.json").write_text(records, encoding=encoding)
    assert load(tmp_path / "a.csv")[0].subject == "Évora"
    assert [fact.subject for fact in load(tmp_path / "a.json")] == ["Évora", "a", "Évora"]


plain = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], include_characters="\t\n"), min_size=1)
plain = plain.map(str.strip).filter(lambda text: text and text not in facts.EMPTY)
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


# CSV as other programs write it

MALI = Fact("Mali", 'In {}, they say "I; so"', "French", "Thai")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_a_table_is_read_whatever_separates_its_values_and_whoever_saved_it(tmp_path, separator, encoding, ending):
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=separator, lineterminator=ending)
    writer.writerow(["subject", "prompt", "target_true", "target_new"])
    writer.writerow([MALI.subject, MALI.prompt, MALI.target_true, MALI.target_new])
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    path = tmp_path / "f.csv"
    path.write_bytes((mark + stream.getvalue()).encode(encoding))
    assert load(path) == [MALI]
    assert facts.fingerprint(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_both_files_of_a_table_may_have_a_separator_of_their_own(table):
    rows, header = "Peru;P36;Lima;Rome\n", '"subject";"relation";target_true;target_new\n'
    path = table(rows, "relation\tprompt\nP36\tIn {}; there, is\n", header)
    assert load(path) == [Fact("Peru", "In {}; there, is", "Lima", "Rome", "P36")]
    facts.fingerprint(path)


def test_a_separator_after_the_last_value_is_nothing(tmp_path):
    path = tmp_path / "f.csv"
    for text in (
        "subject,prompt\nPeru,{} is,\n",
        "subject,prompt,\nPeru,{} is,\n",
        ",,\nsubject,prompt,,\nPeru,{} is\n",
    ):
        path.write_text(text, encoding="utf-8")
        assert load(path) == [Fact("Peru", "{} is")]


def test_a_column_says_how_an_object_is_joined(tmp_path, table):
    path = tmp_path / "f.csv"
    path.write_text("subject,prompt,joint\na,{} is,space\na,{} is,none\na,{} is,\n", encoding="utf-8")
    assert [fact.joint for fact in load(path)] == [" ", "", None]
    assert load(table("Peru,P36,Lima,none\n", header="subject,relation,target_true,joint\n"))[0].joint == ""


def test_a_csv_prompt_may_hold_its_subject(tmp_path):
    path = tmp_path / "f.csv"
    path.write_text("subject,prompt\nPeru,The capital of Peru is\nMali,Mali or {} is\n", encoding="utf-8")
    assert [fact.prompt for fact in load(path)] == ["The capital of {} is", "Mali or {} is"]


# JSON as the trade writes it


def read(tmp_path, *records):
    path = tmp_path / "f.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    assert facts.fingerprint(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    with warnings.catch_warnings():
        warnings.simplefilter("error", SuperpositionWarning)
        return load(path)


def test_counterfact_may_hold_its_subject_or_stand_in_an_object(tmp_path):
    (found,) = read(tmp_path, record(prompt="France's capital is"))
    assert (found.prompt, found.text) == ("{}'s capital is", "France's capital is")
    path = tmp_path / "f.json"
    path.write_text(json.dumps({"version": 1, "train": [record(joint="none")]}), encoding="utf-8")
    assert [(fact.prompt, fact.joint) for fact in load(path)] == [("The capital of {} is", "")]


def test_each_rewrite_of_mquake_is_a_fact(tmp_path):
    first = record()["requested_rewrite"] | {"question": "What is the capital of France?"}
    second = record(subject="Italy", prompt="Italy lies in", relation_id=None)["requested_rewrite"]
    found = read(tmp_path, {"case_id": 1, "requested_rewrite": [first, second], "questions": ["…"], "new_answer": "x"})
    assert found == [
        Fact("France", "The capital of {} is", "Paris", "Rome", "P36", ("What is the capital of France?",)),
        Fact("Italy", "{} lies in", "Paris", "Rome"),
    ]


def test_zsre_is_read(tmp_path):
    one = {
        "subject": "Watts Humphrey",
        "src": "What university did Watts Humphrey attend?",
        "pred": "Trinity College",
        "rephrase": "What university did Watts Humphrey take part in?",
        "alt": "University of Michigan",
        "answers": ["Illinois Institute of Technology"],
        "loc": "nq question: who played desmond doss father",
        "loc_ans": "Hugo Weaving",
        "cond": "Trinity College >> University of Michigan || What university did Watts Humphrey attend?",
    }
    known, new = "Illinois Institute of Technology", "University of Michigan"
    expected = Fact("Watts Humphrey", "What university did {} attend?", known, new, paraphrases=(one["rephrase"],))
    assert read(tmp_path, one, one | {"alt": ""}) == [expected, replace(expected, target_new=None)]


def test_wikibigedit_is_read(tmp_path):
    one = {
        "tag": "new",
        "subject": "Peru",
        "update": "What is the capital of Peru?",
        "rephrase": "Peru's capital is called?",
        "personas": "Arr, what be the capital of Peru?",
        "ans": "Lyon",
        "loc": "x",
        "loc_ans": "y",
        "mhop": None,
        "mhop_ans": None,
        "joint": "space",
    }
    expected = Fact("Peru", "What is the capital of {}?", None, "Lyon", None, ("Peru's capital is called?",), joint=" ")
    assert read(tmp_path, one) == [expected]


@pytest.mark.parametrize("truth", ["Lima", ["Lima"], [["Lima"]], ["", "Lima"]])
@pytest.mark.parametrize("rephrase", ["rephrase", "rephrase_prompt"])
def test_knowedit_is_read(tmp_path, truth, rephrase):
    one = {
        "subject": "Peru",
        "prompt": "What is the capital of Peru?",
        "target_new": "Lyon",
        "ground_truth": truth,
        "portability": {"Reasoning": [{"prompt": "a", "ground_truth": [["b"]]}]},
        "locality": {"Relation_Specificity": [{"prompt": "a", "ground_truth": ["b"]}]},
        rephrase: "Which city is Peru's capital?",
    }
    question = ("Which city is Peru's capital?",)
    assert read(tmp_path, one) == [Fact("Peru", "What is the capital of {}?", "Lima", "Lyon", paraphrases=question)]


def test_flat_counterfact_gives_neighbours_that_have_the_true_object(tmp_path):
    one = {
        "case_id": 21918,
        "subject": "Subair",
        "prompt": "Subair works as",
        "target_new": "composer",
        "ground_truth": "actor",
        "rephrase_prompt": "Subair is known for",
        "locality_prompt": "The occupation of Michael Jackson is",
        "locality_ground_truth": "actor",
    }
    beside = (one["locality_prompt"],)
    expected = Fact("Subair", "{} works as", "actor", "composer", None, ("Subair is known for",), beside)
    other = one | {"locality_ground_truth": "singer"}
    assert read(tmp_path, one, other) == [expected, replace(expected, neighbourhood=())]


def test_the_columns_of_a_csv_are_keys_too(tmp_path):
    whole = {
        "subject": "a",
        "prompt": "{} is",
        "target_true": "b",
        "target_new": "c",
        "relation": "P1",
        "joint": "none",
    }
    assert read(tmp_path, whole, {"subject": "a", "prompt": "{} is"}) == [
        Fact("a", "{} is", "b", "c", "P1", joint=""),
        Fact("a", "{} is"),
    ]


def test_of_several_true_answers_the_first_counts_and_it_is_said(tmp_path):
    path = tmp_path / "f.json"
    records = [{"subject": "a", "src": "a is", "answers": answers} for answers in (["b", "c"], ["d"], [])]
    path.write_text(json.dumps(records), encoding="utf-8")
    with pytest.warns(
        SuperpositionWarning, match=r"f\.json: of several true answers the first counts \(1 of 3 facts\)"
    ):
        assert [fact.target_true for fact in load(path)] == ["b", "d", None]


def test_a_subject_of_a_script_without_spaces_is_found_inside_its_prompt(tmp_path):
    found = read(tmp_path, record(subject="秘鲁", prompt="秘鲁的首都是"), record(subject="Peru", prompt="在Peru的"))
    assert [fact.prompt for fact in found] == ["{}的首都是", "在{}的"]


words = st.text(st.characters(categories=["Lu", "Ll", "Nd"]), min_size=1, max_size=5)


@in_place
@given(words, st.lists(words, max_size=3), st.lists(words, max_size=3), st.sampled_from([" ", ", ", "'", "-"]))
def test_the_slot_takes_the_place_of_the_whole_word(tmp_path, subject, before, after, between):
    if subject in (*before, *after):
        return
    prompt = between.join([*before, subject, *after])
    assert read(tmp_path, record(subject=subject, prompt=prompt))[0].prompt == between.join([*before, "{}", *after])


# What is said of a bad file


def bad(**changes):
    return json.dumps([record(), record(**changes)])


BAD_FILES = {
    "no facts, csv": ("f.csv", "subject,prompt\n", r"f\.csv holds no facts: add"),
    "empty csv": ("f.csv", "", r"f\.csv holds no facts: give the columns"),
    "no facts, json": ("f.json", "[]", r"f\.json holds no facts: add"),
    "columns missing": ("f.csv", "topic;prompt\na;b\n", r"has the columns topic;prompt: give the columns subject"),
    "no relations": ("f.csv", "subject,relation,target_true\na,P36,b\n", r"no relations\.csv beside it: give"),
    "column twice": ("f.csv", "subject,prompt,subject\n", r"line 1: two columns are named 'subject'; rename"),
    "too many fields": ("f.csv", "subject,prompt\na,In {}, they\n", r"line 2: 3 fields where the header has 2; put"),
    "too few fields": ("f.csv", "subject,prompt\n\na,{} is\nb\n", r"line 4: 1 fields where the header has 2; put"),
    "missing value": ("f.csv", 'subject,prompt\n"a\nb",{} is\nb,\n', r"line 4: the prompt is empty; fill it in"),
    "empty subject": ("f.csv", "subject,prompt\n ,{} is\n", r"line 2: the subject is empty; fill it in"),
    "open quote": ("f.csv", 'subject,prompt\na,{} is\n"b,{} is\n', r"line 3: not CSV \(.*\); mend its quotes"),
    "no slot": (
        "f.csv",
        "subject,prompt\na,{} is\na,It is\n",
        r"line 3: the prompt 'It is' has no slot and does not hold the subject 'a'; write \{\} once",
    ),
    "two slots": ("f.csv", "subject,prompt\na,{} is {}\n", r"line 2: the prompt .* has 2 slots; write \{\} once"),
    "bytes": ("f.csv", b"subject,prompt\na,{} is\nS\xe3o,{} is\n", r"f\.csv, line 3: not UTF-8; save"),
    "bytes, json": ("f.json", b'[\n"\xff"]', r"f\.json, line 2: not UTF-8; save"),
    "extension": ("f.txt", "subject,prompt\na,{} is\n", r"f\.txt is neither \.csv nor \.json: give"),
    "not json": ("f.json", '[\n{"a": 1},\n{"b" 2}]', r"f\.json, line 3: not JSON \(.*\); mend"),
    "empty json": ("f.json", "", r"f\.json, line 1: not JSON"),
    "too deep": ("f.json", "[" * 200_000, r"f\.json is nested too deep to be read: write a list|not JSON"),
    "too long a number": (
        "f.json",
        f'[{{"a": {"9" * 60_000}}}]',
        r"f\.json holds a number of thousands of digits: write it in quotes",
    ),
    "several lists": ("f.json", '{"train": [], "test": []}', r"f\.json holds several lists, train, test: keep one"),
    "not a list": ("f.json", '{"a": 1}', r"f\.json is not a list of records: write"),
    "not a record": ("f.json", "[1]", r"f\.json, record 1 is no object: write a list of records as those of"),
    "no keys": ("f.json", json.dumps([record(), {}]), r"record 2 has the keys none: write"),
    "other keys": (
        "f.json",
        json.dumps([{"concept": "a", "text": "b", "labels": "c"}]),
        r"record 1 has the keys concept, text, labels: write a list of records as those of CounterFact \(.*\), MQuAKE "
        r"\(.*\), zsRE \(.*\), WikiBigEdit \(.*\) or KnowEdit \(.*\); to convert others, name their keys subject, "
        r"prompt, target_true and target_new\.$",
    ),
    "many keys": ("f.json", json.dumps([{f"k{i}": 0 for i in range(99)}]), r"has the keys k0, .*, k19, …: write"),
    "request of another kind": (
        "f.json",
        '[{"requested_rewrite": "France"}]',
        r"record 1 has the keys requested_rewrite: write a list .* CounterFact \(requested_rewrite, an object\)",
    ),
    "json slot": (
        "f.json",
        bad(prompt="It is"),
        r"record 2: the prompt 'It is' has no slot and does not hold the subject 'France'; write",
    ),
    "subject twice": (
        "f.json",
        bad(prompt="France in France is"),
        r"record 2: the prompt .* has no slot and holds the subject 'France' 2 times; write \{\} once",
    ),
    "part of a word": (
        "f.json",
        bad(prompt="The Frances are"),
        r"record 2: the prompt .* does not hold the subject 'France'",
    ),
    "other case": ("f.json", bad(prompt="france is"), r"record 2: the prompt .* does not hold the subject 'France'"),
    "json control": ("f.json", bad(subject="Fra\0nce"), r"record 2: the subject 'Fra\\x00nce' holds the control"),
    "json joint": ("f.json", bad(joint="-"), r"record 2: the joint is neither space nor none; write"),
    "json joint, number": ("f.json", bad(joint=[1]), r"record 2: the joint is neither space nor none; write"),
    "csv joint": (
        "f.csv",
        "subject,prompt,joint\na,{} is,no\n",
        r"f\.csv, line 2: the joint is neither space nor none; write",
    ),
    "csv control": ("f.csv", "subject,prompt\na\0b,{} is\n", r"line 2: the subject 'a\\x00b' holds the control"),
    "semicolons, too many": (
        "f.csv",
        "subject;prompt\na;{} is;b\n",
        r"line 2: 3 fields where the header has 2; put a value that holds a semicolon in double quotes",
    ),
    "no UTF-8": (
        "f.csv",
        "subject,prompt\rx,{} is\rS\u00e3o,{} is\r".encode("cp1252"),
        r"f\.csv, line 3: not UTF-8; save the file as UTF-8",
    ),
    "half of UTF-16": (
        "f.csv",
        b"\xff\xfe" + "subject,prompt\na,{} is\n".encode("utf-16-le") + b"\x00\xd8",
        r"f\.csv, line 3: not UTF-16; save the file as UTF-8",
    ),
    "UTF-16 without a mark": (
        "f.csv",
        "subject,prompt\na,{} is\n".encode("utf-16-le"),
        r"f\.csv, line 1: control characters in 's\\x00u.*; save the file as UTF-8",
    ),
    "no rewrites": ("f.json", '[{"requested_rewrite": []}]', r'record 1: "requested_rewrite" is empty; fill'),
    "second rewrite": (
        "f.json",
        json.dumps([{"requested_rewrite": [record()["requested_rewrite"], {"prompt": "a"}]}]),
        r'record 1, rewrite 2: no "target_true" object; write',
    ),
    "rewrite of another kind": ("f.json", '[{"requested_rewrite": [3]}]', r"record 1, rewrite 1: not an object; write"),
    "answers of another kind": (
        "f.json",
        '[{"subject": "a", "src": "a is", "answers": [["b", 3]]}]',
        r'record 1: "answers" is neither a text nor a list of texts; write',
    ),
    "two true objects": (
        "f.json",
        '[{"subject": "a", "prompt": "a is", "ground_truth": "b", "target_true": "b"}]',
        r'record 1: both "ground_truth" and "target_true"; keep one',
    ),
    "json slots": ("f.json", bad(prompt="{} {}"), r"record 2: the prompt '\{\} \{\}' has 2 slots; write"),
    "json subject": ("f.json", bad(subject=" "), r'record 2: the "subject" is absent, empty or not a text; write'),
    "json number": ("f.json", bad(subject=3), r'record 2: the "subject" is absent, empty or not a text; write'),
    "json prompt": ("f.json", bad(prompt=None), r'record 2: the "prompt" is absent'),
    "json relation": ("f.json", bad(relation_id=36), r'record 2: the "relation_id" is absent'),
    "json target": ("f.json", bad(target_new="Rome"), r'record 2: no "target_new" object; write "target_new": \{'),
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
    "half a character": ("f.json", bad(subject="\ud83d"), r"record 2: half a character .*; write the other half"),
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
    "prompt": ("Peru,P36,Lima,\n", "P36,It is,,,,,\n", r"relations\.csv, line 2: the prompt 'It is' has no slot"),
    "paraphrase": ("Peru,P36,Lima,\n", P36 + "P1,{} a,,,,{},{} {}\n", r"line 3: the paraphrase_2 .* has 2 slots"),
    "empty": ("Peru,P36,Lima,\n", P36 + ",{} is,,,,,\n", r"relations\.csv, line 3: the relation is empty"),
    "twice": ("Peru,P36,Lima,\n", P36 + P36, r"relations\.csv, line 3: P36 has a line already; keep one"),
    "no columns": (
        "Peru,P36,Lima,\n",
        "id,text\nP36,{} is\n",
        r"relations\.csv has the columns id, text: give relation and prompt",
    ),
}


@pytest.mark.parametrize(("rows", "relations", "message"), BAD_TABLES.values(), ids=BAD_TABLES.keys())
def test_a_bad_table_is_explained(table, rows, relations, message):
    with pytest.raises(UserError, match=message):
        load(table(rows, relations if relations.startswith("id") else RELATIONS + relations))


def test_relations_that_are_absent_are_explained(table):
    path = table("")
    (path.parent / "relations.csv").unlink()
    with pytest.raises(UserError, match=r"There is no .*relations\.csv: write one"):
        facts.relations(path)


@pytest.mark.parametrize("cell", ["nan", "NaN", "<NA>", "NULL"])
@pytest.mark.parametrize("column", ["target_true", "target_new", "relation"])
def test_a_cell_that_a_program_left_empty_is_refused(tmp_path, column, cell):
    path = tmp_path / "f.csv"
    path.write_text(f"subject,prompt,{column}\nNaN,{{}} is a,None\nb,{{}} is,{cell}\n", encoding="utf-8")
    with pytest.raises(UserError, match=f"line 3: the {column} is {cell}, as if there were none; leave the cell empty"):
        load(path)


def test_an_answer_that_is_like_no_answer_is_kept(table):
    found = load(table("Peru,P36,None,NA\nMali,P36,Nan,null\n"))
    assert [(fact.target_true, fact.target_new) for fact in found] == [("None", "NA"), ("Nan", "null")]
    with pytest.raises(UserError, match="line 2: the target_new is nan"):
        load(table("Peru,P36,Lima,nan\n"))


@pytest.mark.parametrize("function", [load, facts.fingerprint, facts.relations])
@pytest.mark.parametrize("name", ["absent.csv", "boook", "."])
def test_an_absent_file_is_explained(tmp_path, function, name):
    with pytest.raises(UserError, match=r"There is no facts file .*: give a \.csv file"):
        function(tmp_path / name)


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


def test_the_table_is_large_and_balanced_and_a_limit_keeps_its_first_facts(book, book_relations):
    per_relation = Counter(fact.relation for fact in book)
    assert len(book) >= 400
    assert len(book_relations) >= 12
    assert per_relation.keys() == book_relations.keys()
    assert all(25 <= count <= 40 for count in per_relation.values()), per_relation
    assert load("book", 5) == book[:5] and load("book", 10**6) == book


def test_the_first_128_have_distinct_subjects_all_relations_and_the_pairs_that_the_paper_names(book, book_relations):
    first = book[:128]
    per_relation = Counter(fact.relation for fact in first)
    assert len({fact.subject for fact in first}) == 128
    assert per_relation.keys() == book_relations.keys()
    assert max(per_relation.values()) - min(per_relation.values()) <= 1
    truths = {fact.subject: (fact.relation, fact.target_true) for fact in first}
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


def test_every_relation_has_four_distinct_templates_that_end_in_a_word(book_relations):
    for relation in book_relations.values():
        every = (relation.prompt, *relation.paraphrases)
        assert len(set(every)) == 4, relation.id
        assert all(re.search(r"\w$", template) for template in every), every
        assert relation.name and relation.subject_type and relation.object_type
    begin = sum(relation.prompt.startswith("{}") for relation in book_relations.values())
    assert abs(begin - len(book_relations) / 2) <= 1


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
        assert fact.target_true.casefold() not in fact.subject.casefold().split(), fact
        for text in (fact.text, *fact.paraphrases):
            assert text.count(fact.subject) == 1, text
            assert fact.target_true not in text.replace(fact.subject, ""), text


def test_a_fact_in_its_other_words(book):
    fact = book[0]
    assert [other.text for other in fact.reworded()] == list(fact.paraphrases)
    for other in fact.reworded():
        assert (other.subject, other.target_true, other.joint) == (fact.subject, fact.target_true, fact.joint)
        assert other.paraphrases == other.neighbourhood == ()
    odd = Fact(
        "Peru", "The capital of {} is", "Lima", paraphrases=("Peru, Peru is led from", "It is", "In Peru, it is")
    )
    assert [other.prompt for other in odd.reworded()] == ["In {}, it is"]


def test_the_tables_are_clean_text():
    for name in ("facts.csv", "relations.csv"):
        raw = (paths.data_dir() / name).read_bytes()
        assert not raw.startswith(b"\xef\xbb\xbf") and b"\r" not in raw and raw.endswith(b"\n")
        for row in csv.reader(io.StringIO(raw.decode("utf-8"), newline="")):
            for value in row:
                assert value == " ".join(value.split()) and value, row


# How a prompt and an object are joined


@pytest.mark.parametrize(
    ("prompt", "continuation", "expected"),
    [
        ("The capital of France is", "Paris", " "),
        ("The capital of France is ", " Paris", " "),
        ("What is the capital of France?", "Paris", " "),
        ("France (", "Paris", ""),
        ("France [", "Paris", ""),
        ("He said “", "yes", ""),
        ("He said ‘", "yes", ""),
        ("Il dit «", "oui", ""),
        ("He said ”", "yes", " "),
        ('He said "', "yes", ""),
        ('"France" is "', "a land", ""),
        ('He said "yes"', "and", " "),
        ("The dogs'", "house", " "),
        ("It is at https://", "a.org", ""),
        ("and/", "or", ""),
        ("a well-", "known", ""),
        ("Paris -", "Rome", " "),
        ("-", "1", " "),
        ("秘鲁的首都是", "利马", ""),
        ("秘鲁的首都是：", "利马", ""),
        ("秘鲁的首都是", "《利马》", ""),
        ("秘鲁的首都是", "Lima", " "),
        ("The capital of Peru is", "利马", " "),
        ("ペルーの首都は", "リマ", ""),
        ("เมืองหลวงของเปรูคือ", "ลิมา", ""),
        ("ນະຄອນຫຼວງແມ່ນ", "ລີມາ", ""),
        ("រាជធានីគឺ", "លីម៉ា", ""),
        ("မြို့တော်", "လီမာ", ""),
        ("페루의 수도는", "리마", " "),
        ("Столица Перу —", "Лима", " "),
        ("", "Paris", " "),
    ],
)
def test_a_space_joins_but_where_none_belongs(prompt, continuation, expected):
    assert facts.joint(prompt, continuation) == expected
    assert Fact("a", f"{{}} {prompt}x", joint="").joint_to(continuation) == ""
    if prompt.strip():
        assert Fact(prompt.strip(), "{}").joint_to(continuation) == expected


@given(st.text(), st.text())
@settings(deadline=None)
def test_a_joint_is_a_space_or_nothing_whatever_is_joined(prompt, continuation):
    found = facts.joint(prompt, continuation)
    assert found in ("", " ")
    assert facts.joint(f"{prompt} \n", f" {continuation} ") == found
    assert facts.joint(f"{prompt}n", "a") == facts.joint(f"{prompt}n", "7") == " "


def test_the_whole_table_is_joined_by_spaces_to_the_tokens_of_the_joined_text(book):
    cutter = tokenizer()
    for place, fact in enumerate(book):
        for target in (fact.target_true, fact.target_new):
            for text in (fact.text, *fact.paraphrases, *fact.neighbourhood):
                assert facts.joint(text, target) == " "
        if place % 10 == 0:
            joined = scoring.join(cutter, fact.text, fact.target_true)
            assert list(joined.token_ids) == cutter(f"{fact.text} {fact.target_true}")["input_ids"]
            assert list(joined.token_ids[: joined.first]) == cutter(fact.text)["input_ids"]


@pytest.fixture(scope="module")
def merging():
    """A tokenizer of single characters that makes one token of 是利, one of ``is`` and ``isL``."""
    from transformers import PreTrainedTokenizerFast

    merges = [("是", "利"), ("i", "s"), ("is", "L")]
    pieces = sorted(set("秘鲁的首都是利马 isLma")) + ["".join(pair) for pair in merges]
    model = BPE({piece: number for number, piece in enumerate(pieces)}, merges)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))


@pytest.mark.parametrize(
    ("prompt", "continuation", "joint", "before", "target"),
    [
        ("秘鲁的首都是", "利马", None, "秘鲁的首都", ["是利", "马"]),
        ("秘鲁的首都是", "利马", "", "秘鲁的首都", ["是利", "马"]),
        ("秘鲁的首都是", "利马", " ", "秘鲁的首都是", [" ", "利", "马"]),
        ("秘鲁的首都是", "马利", None, "秘鲁的首都是", ["马", "利"]),
        ("a is", "Lima", None, "a is", [" ", "L", "i", "m", "a"]),
        ("a is", "Lima", "", "a ", ["isL", "i", "m", "a"]),
        ("a is ", " Lima ", "", "a ", ["isL", "i", "m", "a"]),
    ],
)
def test_a_token_that_holds_both_is_the_first_of_the_object(merging, prompt, continuation, joint, before, target):
    joined = scoring.join(merging, prompt, continuation, joint)
    assert merging.convert_ids_to_tokens(joined.target) == target
    assert "".join(merging.convert_ids_to_tokens(joined.token_ids[: joined.first])) == before
    with pytest.raises(UserError, match="no token before '利马'"):
        scoring.join(merging, "是", "利马")


def test_every_use_of_a_fact_joins_as_the_fact_says(cache):
    lm = tiny("llama")
    fact = Fact(
        "France",
        "The capital of {} is",
        "Paris",
        "Madrid",
        paraphrases=("In France",),
        neighbourhood=("Of Spain",),
        joint="",
    )
    glued = lm.tokenizer("The capital of France isMadrid")["input_ids"]
    texts, both = ["The capital of France is"] * 2, ["Madrid", "Paris"]
    said = scoring.score(lm, texts, both, joints=["", ""])
    spaced = scoring.score(lm, texts, both)
    assert not np.isclose(said.log_probability, spaced.log_probability).any()
    found = evaluation.evaluate(lm, [fact])
    assert [*found["log_new"], *found["log_true"]] == pytest.approx(said.log_probability, rel=1e-4)
    found = evaluation.evaluate(lm, [replace(fact, joint=None)])
    assert [*found["log_new"], *found["log_true"]] == pytest.approx(spaced.log_probability, rel=1e-4)
    assert evaluation.untouched(lm, [fact])["log_true"] == pytest.approx([said.log_probability[1]], rel=1e-4)
    first = scoring.join(lm.tokenizer, fact.text, "Paris", "")
    clean = tracing.trace(lm, fact, layers=[0], samples=1)["clean"]
    alone = lm.model(torch.tensor([first.token_ids[: first.first]])).logits[0, -1].softmax(-1)[first.target[0]]
    assert clean == pytest.approx(float(alone), rel=1e-4)
    rows = targets._texts(lm, 0, fact, editing.TargetSettings())
    assert list(rows[0].token_ids) == glued[:-1]
    assert all(len(row.object_ids) == len(rows[0].object_ids) for row in rows[:-1])
    reading = forecast.read(lm, [fact], 1)
    assert reading.log_probability == pytest.approx([said.log_probability[1]], rel=1e-4)
    loss = editing.fine_tune(lm, 1, [fact], editing.EditSettings(ft_steps=1))[0]
    assert loss == pytest.approx(-said.log_probability[0] / said.tokens[0], rel=1e-4)
    with pytest.raises(UserError, match="2 prompts and 1 joints: give one each"):
        scoring.score(lm, texts, both, joints=[""])


def test_what_is_known_is_kept_apart_by_the_joint(cache, monkeypatch):
    lm, asked = tiny("llama"), []
    score = scoring.score
    monkeypatch.setattr(scoring, "score", lambda *a, **options: asked.append(options["joints"]) or score(*a, **options))
    fact = Fact("France", "The capital of {} is", "Paris")
    scoring.known(lm, [fact, replace(fact, joint=" "), replace(fact, joint="")])
    (stored,) = (cache / "known").iterdir()
    assert sorted(kept_in.load(f"known/{stored.stem}")["answers"]) == [
        f"{fact.text}\tParis",
        f"{fact.text}\tParis\tnone",
    ]
    assert asked == [[None, " ", ""]]


def test_an_object_that_shares_a_token_with_the_subject_is_refused(merging):
    lm = replace(tiny("llama"), tokenizer=merging)
    fact = Fact("都是", "首{}", "利马", "利马")
    for use in (
        lambda: forecast.read(lm, [fact], 1),
        lambda: tracing.trace(lm, replace(fact, subject="是", prompt="都{}")),
        lambda: targets._texts(lm, 0, fact, editing.TargetSettings(contexts=("",))),
    ):
        with pytest.raises(UserError, match="shares a token with the subject"):
            use()
