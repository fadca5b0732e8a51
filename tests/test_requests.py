"""The table of edit requests: its rules, and the functions that make it, on a few made-up places."""

import csv
import json
from collections import Counter, defaultdict

import pytest

import edit_requests
from superposition.data import facts
from superposition.data.facts import Fact
from superposition.errors import UserError
from superposition.io import paths

FOLDER = paths.data_dir() / "requests"
TABLE = FOLDER / "facts.csv"


@pytest.fixture(scope="module")
def rows():
    return facts.load(TABLE)


@pytest.fixture(scope="module")
def subjects(rows):
    """The facts of each subject."""
    found = defaultdict(list)
    for fact in rows:
        found[fact.subject].append(fact)
    return found


# The table


def test_no_subject_is_one_of_the_facts_that_are_watched(rows):
    known = {fact.subject.lower() for fact in facts.load("book")}
    assert not known & {fact.subject.lower().removeprefix("the ") for fact in rows}


def test_there_are_a_thousand_subjects_and_then_some_come_back_under_another_relation(rows, subjects):
    assert len(rows) >= 1200
    assert len({fact.subject for fact in rows[:1000]}) == 1000
    twice = {subject for subject, own in subjects.items() if len(own) == 2}
    assert len(twice) >= 150 and max(map(len, subjects.values())) == 2
    for subject in twice:
        pair = frozenset(fact.relation for fact in subjects[subject])
        assert pair in {frozenset(one) for one in (("P17", "P30"), ("P131", "P30"), ("P36", "P38"))}, subject
    first = len(subjects)
    assert len({fact.subject for fact in rows[:first]}) == first  # every second time is after all the first ones


def test_relations_take_turns(rows, subjects):
    fewest = min(Counter(fact.relation for fact in rows[: len(subjects)]).values())
    assert fewest >= 30
    assert [fact.relation for fact in rows[: 5 * fewest]] == [*edit_requests.RELATIONS] * fewest


def test_what_is_written_is_an_object_of_the_relation_and_false(rows):
    objects, true = defaultdict(set), defaultdict(set)
    for fact in rows:
        objects[fact.relation].add(fact.target_true)
        true[fact.subject, fact.relation].add(fact.target_true)
    for fact in rows:
        assert fact.target_new in objects[fact.relation] - true[fact.subject, fact.relation], fact
        assert fact.target_new not in edit_requests.kindred_of(fact.target_true), fact
    for relation, known in objects.items():  # no object is written much more often than another
        count = Counter(fact.target_new for fact in rows if fact.relation == relation)
        assert max(count.values()) <= 2 * sum(count.values()) / len(known) + 6, relation


def test_names_are_ascii_and_continue_the_prompt_as_people_write(rows):
    for fact in rows:
        for name in (fact.subject, fact.target_true, fact.target_new):
            assert edit_requests.usable(name) and not name.startswith("The "), name
            assert fact.joint_to(name) == " "
        small = fact.relation == "P38"
        assert fact.target_true.removeprefix("the ")[0].islower() == small, fact
        # what the prompt ends with is not said twice, and an answer is not in the question
        assert not (fact.text.endswith(" the") and fact.target_true.startswith("the "))
        assert fact.relation == "P30" or not edit_requests.gives_away(fact.subject, fact.target_true), fact


def test_each_relation_has_three_paraphrases_and_the_books_own_are_copied():
    with (FOLDER / "relations.csv").open(newline="", encoding="utf-8") as stream:
        mine = {row["relation"]: row for row in csv.DictReader(stream)}
    with (paths.data_dir() / "relations.csv").open(newline="", encoding="utf-8") as stream:
        books = {row["relation"]: row for row in csv.DictReader(stream)}
    assert set(mine) == set(edit_requests.RELATIONS)
    assert all(mine[name] == books[name] for name in set(mine) & set(books)) and len(set(mine) & set(books)) == 3
    for relation in facts.relations(TABLE).values():
        assert len({relation.prompt, *relation.paraphrases}) == 4


def test_no_country_and_no_state_fills_the_table(rows, subjects):
    country = Counter(fact.target_true for fact in rows if fact.relation == "P17")
    state = Counter(fact.target_true for fact in rows if fact.relation == "P131")
    assert max(country.values()) <= 30 and max(state.values()) <= 6
    in_the_us = [own for own in subjects.values() if {"P131", "P30"} == {fact.relation for fact in own}]
    assert 0 < len(in_the_us) <= 30 and all(fact.target_true == "North America" for _, fact in in_the_us)


def test_no_two_subjects_are_called_alike_and_none_is_what_another_lies_in(rows, subjects):
    assert len({subject.lower().removeprefix("the ") for subject in subjects}) == len(subjects)
    cities = {fact.subject for fact in rows if fact.relation in ("P17", "P30", "P131")}
    lands = {fact.target_true.removeprefix("the ") for fact in rows if fact.relation in ("P17", "P131")}
    lands |= {fact.subject.removeprefix("the ") for fact in rows if fact.relation in ("P36", "P38")}
    people = {word for fact in facts.load("book") if fact.subject_type == "person" for word in fact.subject.split()}
    assert not cities & (lands | people)


GONE = (
    "Serbia and Montenegro; Netherlands Antilles; Nur-Sultan; Puerto Rico; Guadeloupe; Martinique; Reunion; Hong Kong"
)
DISPUTED = (
    "Jerusalem; Sevastopol; Simferopol; Taipei; Taiwan; Kosovo; Pristina; Western Sahara; Laayoune; Donetsk; Gaza"
)
PARTS = (
    "Sha Tin; Brooklyn; Queens; Manhattan; Pudong; Iztapalapa; Shinagawa; Islington; Kowloon; Macau; Greenland; Macao"
)


@pytest.mark.parametrize("names", [GONE, DISPUTED, PARTS], ids=["gone or dependent", "disputed", "parts of a city"])
def test_nothing_outdated_dependent_disputed_or_partial_is_asked_or_answered(rows, names):
    there = {name for fact in rows for name in (fact.subject, fact.target_true, fact.target_new)}
    assert not there & set(names.split("; "))


@pytest.mark.parametrize(
    ("subject", "relation", "true"),
    [
        ("Kazakhstan", "P36", "Astana"),
        ("the Netherlands", "P36", "Amsterdam"),
        ("Ankara", "P17", "Turkey"),
        ("Abidjan", "P17", "Ivory Coast"),
        ("Manila", "P17", None),  # nearer than 25 km to Quezon City, which is larger
        ("Ankara", "P30", None),  # its country lies in two continents
        ("Liverpool", "P30", "Europe"),
        ("Liverpool", "P17", None),  # England, or the United Kingdom
        ("Seattle", "P131", "Washington"),
        ("the Czech Republic", "P38", "koruna"),
        ("Lithuania", "P38", "euro"),
        ("Bolivia", "P36", None),  # two capitals
    ],
)
def test_some_answers(subjects, subject, relation, true):
    assert {fact.relation: fact.target_true for fact in subjects.get(subject, [])}.get(relation) == true


# The generator


def country(name, capital, continent, currency):
    return {"name": name, "capital": capital, "continentcode": continent, "currencyname": currency}


def place(name, people, code="MV", at=(0.0, 0.0), admin="00", number=[0]):  # noqa: B006
    number[0] += 1
    own = {"name": name, "population": people, "countrycode": code, "admin1code": admin, "geonameid": number[0]}
    return own | {"latitude": at[0], "longitude": at[1]}


COUNTRIES = {
    "AQ": country("Antarctica", "", "AN", ""),
    "BY": country("Northland", "Frosk", "EU", "Belarusian ruble"),
    "MV": country("Maldives", "Port Elm", "AF", "Dinar"),
    "RU": country("Halfland", "Middle", "AS", "Krone"),
    "US": country("United States", "Washington", "NA", "Dollar"),
}
STATES = {"AA": {"name": "Ferrum"}, "BB": {"name": "Cuprum"}, "DC": {"name": "District"}}
PLACES = [
    place("Big", 900_000, at=(0, 0)),
    place("Near Big", 800_000, at=(0, 0.2)),  # 22 km
    place("Far", 700_000, at=(0, 0.3)),  # 33 km from Big, 11 km from Near Big
    place("Apart", 300_000, at=(5, 0)),
    place("Small", 149_999, at=(6, 0)),
    place("Port Elm", 3_000, at=(7, 0)),  # a capital
    place("Twice", 500_000, at=(8, 0)),
    place("Twice", 60_000, "BY", at=(50, 0)),
    place("Rarely", 500_000, at=(9, 0)),
    place("Rarely", 40_000, "BY", at=(51, 0)),
    place("Ünder", 500_000, at=(10, 0)),
    place("Ferrum", 500_000, at=(11, 0)),  # called as a state
    place("Ada", 500_000, at=(12, 0)),  # called as a person
    place("Watched", 500_000, at=(13, 0)),
    place("North Northland", 500_000, "BY", at=(52, 0)),  # gives the answer away
    place("Frosk", 400_000, "BY", at=(53, 0)),
    place("Penguin", 900_000, "AQ", at=(-80, 0)),
    place("Middle", 900_000, "RU", at=(60, 0)),
    place("Iron", 90_000, "US", at=(40, 0), admin="AA"),
    place("Copper", 80_000, "US", at=(41, 0), admin="BB"),
    place("Capitol", 700_000, "US", at=(42, 0), admin="DC"),
]
KNOWN = [Fact("Watched", "{} is"), Fact("Ada Lovelace", "{} was", subject_type="person")]


def test_a_city_is_large_apart_and_has_its_name_to_itself():
    countries = edit_requests.countries_of(COUNTRIES)
    states = {"AA": "Ferrum", "BB": "Cuprum"}
    found = edit_requests.cities_of(PLACES, countries, states, {"Watched", "Ada"})
    named = {city.name: city for city in found}
    assert list(named) == ["Big", "Middle", "Rarely", "Frosk", "Apart", "Iron", "Copper", "Port Elm"]
    assert named["Rarely"].others == {"Northland"} and named["Apart"].others == set()
    assert (named["Iron"].state, named["Copper"].state, named["Big"].state) == ("Ferrum", "Cuprum", None)


def test_of_a_country_and_of_a_state_come_only_so_many_the_largest_first(monkeypatch):
    monkeypatch.setattr(edit_requests, "OF_A_COUNTRY", 2)
    monkeypatch.setattr(edit_requests, "OF_A_STATE", 1)
    more = [*PLACES, place("Iron Hill", 95_000, "US", at=(43, 0), admin="AA")]
    found = edit_requests.cities_of(
        more, edit_requests.countries_of(COUNTRIES), {"AA": "Ferrum", "BB": "Cuprum"}, set()
    )
    assert [city.name for city in found if city.country == "MV"] == ["Big", "Rarely"]
    assert [city.name for city in found if city.country == "US"] == ["Iron Hill", "Copper"]


def test_the_table_of_made_up_places():
    rows = edit_requests.requests(COUNTRIES, PLACES, STATES, KNOWN)
    asked = {(row["subject"], row["relation"]): row["target_true"] for row in rows}
    assert len(asked) == len(rows)
    assert asked["the Maldives", "P38"] == "dinar" and ("the Maldives", "P36") not in asked  # left out by code
    assert asked["Northland", "P36"] == "Frosk" and asked["Northland", "P38"] == "ruble"  # its usual name
    assert asked["Big", "P17"] == "the Maldives" and asked["Big", "P30"] == "Africa"
    assert ("Middle", "P17") in asked and ("Middle", "P30") not in asked  # in two continents
    assert asked["Iron", "P131"] == "Ferrum" and asked["Iron", "P30"] == "North America"
    subjects = [row["subject"] for row in rows]
    first = len(set(subjects))
    assert len(set(subjects[:first])) == first < len(subjects)
    for row in rows:
        others = {true for (_, relation), true in asked.items() if relation == row["relation"]}
        assert row["target_new"] in others - {row["target_true"]}
    assert (
        next(row for row in rows if row["subject"] == "Rarely" and row["relation"] == "P17")["target_new"] == "Halfland"
    )
    assert rows == edit_requests.requests(COUNTRIES, PLACES, STATES, KNOWN)


def test_where_nothing_is_false_there_is_no_request():
    only = edit_requests.Request("Big", "P17", "Maldives")
    with pytest.raises(UserError, match="P17 has nothing else than 'Maldives' for Big: give more subjects"):
        edit_requests.with_new([only])
    near = [edit_requests.Request("A", "P38", one, edit_requests.kindred_of(one)) for one in ("krona", "krone")]
    with pytest.raises(UserError, match="has nothing else than 'krona'"):
        edit_requests.with_new(near)


def test_the_command_writes_the_table_and_says_what_lacks(tmp_path, capsys):
    words = ["--data", str(tmp_path), "--out", str(tmp_path)]
    assert edit_requests.main(words) == 2
    assert "countries.json cannot be read" in capsys.readouterr().err
    numbered = {str(one["geonameid"]): one for one in PLACES}
    for name, content in (("countries", COUNTRIES), ("cities15000", numbered), ("us_states", STATES)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    assert edit_requests.main(words) == 0
    count = int(capsys.readouterr().out.split()[0])
    with (tmp_path / "facts.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == count and list(rows[0]) == ["subject", "relation", "target_true", "target_new"]
