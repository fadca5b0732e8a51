"""The numbers that the prose quotes: each is quoted, and they are what the records hold."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from superposition import records
from superposition.studies import edit_sequences, quoted, scaling

BOOK = Path(__file__).parents[1] / "book"
CHAPTERS = {
    "12-nulls-and-confounds": (quoted.nulls_and_confounds, ["smollm2-nulls"], "smollm2_"),
    "13-scaling": (quoted.toy_scaling, ["toy-transformer"], "toy_"),
    "14-who-overlaps": (quoted.who_overlaps, ["pairs"], ""),
    "15-editing-a-model": (quoted.single_edits, ["smollm2-single-edits", "benchmark-editing"], ""),
    "16-lifelong-failure": (
        quoted.lifelong_failure, ["smollm2-lifelong", "benchmark-editing", "smollm2-single-edits"], "",
    ),
    "17-forecasting-damage": (quoted.forecasts_of_damage, ["forecasts"], ""),
    "18-cures": (quoted.cures, ["cures", "smollm2-lifelong", "benchmark-editing"], ""),
}  # fmt: skip


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_number_is_quoted_by_its_chapter(chapter):
    function, names, prefix = CHAPTERS[chapter]
    notebook = json.loads((BOOK / f"{chapter}.ipynb").read_text(encoding="utf8"))
    prose = "".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    glued = {name.removeprefix(prefix) for name in re.findall(r"\{glue:text\}`([^`:]+)", prose)}
    glued |= {name.removeprefix("other_") for name in glued}  # of the second model's runs
    numbers = function(*map(records.load, names))
    idle = [name for name in numbers if not any(f"{word}_".startswith(f"{name}_") for word in glued)]
    assert idle == []


def test_single_edits():
    record, cost = records.load("smollm2-single-edits"), records.load("benchmark-editing")
    numbers = quoted.single_edits(record, cost)
    rows, chosen = record["edits"], record["sweep"][str(record["layer"])]
    assert numbers["rest"] == len(rows) - chosen["facts"]
    assert numbers["late"] == max(int(layer) for layer in record["sweep"])
    assert numbers["shift"] == np.median([row["shift_norm"] / row["recalled_norm"] for row in rows])
    assert numbers["gain"] > 1
    assert numbers["ten"] == pytest.approx(10 / (10 + 1.959964**2))  # Wilson's low end where all are hits


def test_lifelong_failure():
    names = ("smollm2-lifelong", "benchmark-editing", "smollm2-single-edits")
    record, cost, single = map(records.load, names)
    numbers = quoted.lifelong_failure(record, cost, single)
    ends = {name: life["results"][-1] for name, life in record["lives"].items()}
    assert numbers["rome"]["untouched"] == ends["rome"]["untouched_exact"]["share"]
    assert numbers["rome"]["slope"] == edit_sequences.growth(record, "rome").slope
    assert numbers["hard"]["exact"] == ends["rls-hard"]["every"]["exact"]["share"]
    assert numbers["near"]["least"] <= ends["ft"]["old"]["neighbourhood_exact"]["share"] <= numbers["near"]["most"]
    assert numbers["worst_error"] == max(edit_sequences.prediction_errors(record))
    assert numbers["write"]["least"] == 1000 * min(cost["writing"].values())


def test_a_model_of_the_scaling_chapter():
    record = records.load("smollm2-128")
    numbers = quoted.measured_model(record, list(range(len(record["subjects"]))))
    assert numbers["all"] == numbers["clean"]  # all facts were named clean
    assert numbers["share"] == record["text"]["tokens"] / scaling.width(record)
    assert numbers["shared"] == sum(a == b for i, a in enumerate(record["token_ids"]) for b in record["token_ids"][:i])
