"""What makes the records of measurements and toys makes them in the form of the book's, here of a tiny model."""

import importlib
import sys
from itertools import islice

import numpy as np
import pytest

from superposition import records
from superposition.data import facts, text

#: Script, its arguments, the book's record, and what is made smaller.
SCRIPTS = {
    "convergence": (["--facts", "6", "--layers", "0", "1", "--sizes", "2", "6", "40"], "smollm2-convergence", {}),
    "nulls": (["--layers", "0", "1", "--tokens", "600"], "smollm2-nulls", {"SEEDS": 2, "LISTS": 3, "RESAMPLES": 5}),
    "untrained": ([], "random-smollm2", {"SEEDS": 2, "TOKENS": 600}),
    "fifty": ([], "fifty-edits", {}),
    "toys": (
        ["memory"],
        "toy-memory",
        {"SEEDS": 1, "LOADS": (0.5,), "LOAD_STOPS": (1,), "GROWTH_STOPS": (1,)},
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_makes_its_record(name, model_folder, cache, tmp_path, monkeypatch):
    arguments, record, smaller = SCRIPTS[name]
    folder = {"convergence": ["--model", str(model_folder)], "toys": []}.get(name, [str(model_folder)])
    script, load, read, cut = importlib.import_module(name), facts.load, text.read, text.windows
    for constant, value in smaller.items():
        monkeypatch.setattr(script, constant, value)
    monkeypatch.setattr(facts, "load", lambda source, limit=None: load(source, limit=limit or 48))
    monkeypatch.setattr(text, "windows", lambda *a, **how: cut(*a, **{"context": 64} | how))
    monkeypatch.setattr(text, "read", lambda source: list(islice(read(source), 80)))
    asked = [*folder, *arguments, "--out", str(tmp_path / "made.json")]
    monkeypatch.setattr(sys, "argv", [name, *asked])
    assert not script.main()
    made, of_book = records.load(tmp_path / "made.json"), records.load(record)
    assert made.data.keys() == of_book.data.keys()
    command = made["provenance"]["command"].split()
    assert command[:2] == ["python", f"experiments/{name}.py"] and sorted(command[2:]) == sorted(asked)
    assert {name: a.ndim for name, a in made.arrays.items()} == {name: a.ndim for name, a in of_book.arrays.items()}
    assert all(np.isfinite(array).any() for array in made.arrays.values())
