"""The numbers that the prose quotes: each is quoted, and they are what the records hold."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import forms
from superposition import records
from superposition.data import facts
from superposition.stats import shape
from superposition.studies import edit_sequences, quoted
from superposition.studies.pairs import partners
from superposition.studies.verdicts import LAW

BOOK = Path(__file__).parents[1] / "book"
LISTED = "one a last token"
EVERYTHING = facts.load("book")
#: A chapter, what stands before its names (of one model or layer), and the numbers.
QUOTED = [
    ("12-nulls-and-confounds", "smollm2_", lambda load: quoted.nulls_and_confounds(load("smollm2-nulls"))),
    ("13-scaling", "toy_", lambda load: quoted.toy_scaling(load("toy-transformer"))),
    ("13-scaling", "narrow_|wide_", lambda load: quoted.measured_model(load("smollm2-400"))),
    ("13-scaling", "", lambda load: quoted.before_training(load("random-smollm2"), LISTED)),
    ("14-who-overlaps", "", lambda load: quoted.who_overlaps(load("pairs"))),
    ("14-who-overlaps", "high_|low_", lambda load: quoted.partners(partners(load("pairs-edits"), 15, EVERYTHING), 15)),
    (
        "15-editing-a-model",
        "",
        lambda load: quoted.single_edits(load("smollm2-single-edits"), load("benchmark-editing")),
    ),
    ("16-lifelong-failure", "", lambda load: quoted.lifelong_failure(load("smollm2-lifelong"))),
    ("16-lifelong-failure", "lists_", lambda load: quoted.over_lists(load("lists"))),
    ("16-lifelong-failure", "thousand_", lambda load: quoted.to_a_thousand(load("smollm2-failure"))),
    ("17-runaway", "", lambda load: quoted.runaway_residuals(load("runaway"))),
    ("18-law", "", lambda load: quoted.law_of_loss(*map(load, LAW))),
    ("18-law", "ways_", lambda load: quoted.law_by_ways(load("sequences"))),
    ("18-law", "thousand_", lambda load: quoted.law_of_a_thousand(*map(load, ("smollm2-failure", "sequences", *LAW)))),
    ("19-lifetime", "", lambda load: quoted.lifetimes_of_layers(*map(load, LAW))),
    ("19-lifetime", "thousand_", lambda load: quoted.lifetimes_to_a_thousand(load("smollm2-failure"))),
    ("20-forecasting-damage", "other_", lambda load: quoted.forecasts_of_damage(load("forecasts"))),
    ("20-forecasting-damage", "", lambda load: quoted.causes(load("causes"))),
    ("21-cures", "", lambda load: quoted.cures(*map(load, CURES))),
    ("21-cures", "words_", lambda load: quoted.wordings(load("wordings"))),
]
CURES = ("cures", "smollm2-lifelong", "benchmark-editing", "causes")


@pytest.mark.parametrize(("chapter", "prefix", "numbers"), QUOTED)
def test_every_number_is_quoted_by_its_chapter(chapter, prefix, numbers):
    notebook = forms.load(BOOK / f"{chapter}.ipynb")
    texts = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    texts += [json.dumps(cell["metadata"]) for cell in notebook["cells"]]  # captions
    prose = "".join(map("".join, texts))
    glued = set(re.findall(r"\{glue:text\}`([^`:]+)", prose))
    glued |= {re.sub(f"^({prefix})", "", name) for name in glued}
    idle = [name for name in numbers(records.load) if not any(f"{word}_".startswith(f"{name}_") for word in glued)]
    assert idle == []


def test_single_edits():
    record, cost = records.load("smollm2-single-edits"), records.load("benchmark-editing")
    numbers = quoted.single_edits(record, cost)
    rows, chosen = record["edits"], record["sweep"][str(record["layer"])]
    assert numbers["rest"] == len(rows) - chosen["facts"]
    assert numbers["late"] == max(int(layer) for layer in record["sweep"])
    assert numbers["shift"] == np.median([row["shift_norm"] / row["recalled_norm"] for row in rows])
    hits, asked = (sum(row["after"]["neighbourhood_exact"][i] for row in rows) for i in (0, 1))
    near = numbers["near"]
    assert near["after"].value == hits / asked == pytest.approx(record["after"]["neighbourhood_exact"]["share"])
    assert near["fewer"].value == pytest.approx(100 * (near["before"].value - near["after"].value))
    assert 0 < near["fewer"].low < near["fewer"].value < near["fewer"].high
    assert numbers["ten"] == pytest.approx(10 / (10 + 1.959964**2))  # Wilson's low end where all are hits


def test_lifelong_failure():
    record = records.load("smollm2-lifelong")
    numbers = quoted.lifelong_failure(record)
    ends = {name: row["results"][-1] for name, row in record["lives"].items()}  # the record's key
    assert numbers["rome"]["untouched"].value == ends["rome"]["untouched_exact"]["share"]
    assert numbers["rome"]["slope"] == edit_sequences.growth(record, "rome").slope
    assert numbers["ft"]["exact"].value == ends["ft"]["every"]["exact"]["share"]
    assert numbers["worst_error"] == max(edit_sequences.prediction_errors(record))


def test_a_model_of_the_scaling_chapter():
    record = records.load("smollm2-128")
    kurtosis = shape.summary(record.overlaps(0).P, resamples=0)["excess_kurtosis"]
    assert quoted.measured_model(record)["top_all"] == pytest.approx(kurtosis, rel=1e-3)


def test_what_flips_after_failed_edits_and_under_a_large_push():
    at = partners(records.load("pairs-edits"), 6, EVERYTHING)
    numbers, asked = quoted.partners(at, 6), at.groups["all"]
    flipped = [
        bool(at.wrong[edit, partner])
        for edit, partner in zip(*np.nonzero(asked), strict=True)
        if at.push[edit, partner] >= quoted.LARGE_PUSH
    ]
    assert numbers["hard"] == pytest.approx(np.mean(flipped)) and 0 < np.mean(flipped) < 1
    after_failed = at.wrong[~at.held][asked[~at.held]]
    assert numbers["failed_flips"] == pytest.approx(after_failed.mean())
