"""Train the toy transformers of chapter 09 on a grid of settings, measure them, edit them; or train the one that ships.

python experiments/grid.py grid --out book/records/toy-transformer.json
python experiments/grid.py train --out book/data/toy-transformer
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from superposition import records
from superposition.errors import UserError
from superposition.io import console, files, paths
from superposition.lm.models import LanguageModel
from superposition.toys import transformer as toy
from superposition.toys.transformer import Setting
from superposition.toys.world import COMPARED, RELATIONS, World, make_world

#: Raise it when what a cell computes changes: finished cells are kept in the cache under it.
CELLS = 1
#: What the grid turns, and its seeds.
WIDTHS, FAMILIES, STEPS, SEEDS = (16, 32, 64, 128), (64, 128, 256), (0, 50, 200, 600), (0, 1, 2, 3, 4)
#: The cell that every axis of the grid runs through; the trained model that ships is its seed 0.
BASE = Setting()


def grid_settings() -> list[Setting]:
    """The cells: one axis at a time through :data:`BASE`. The more facts, the more steps: each is seen as often."""
    cells = []
    for seed in SEEDS:
        cells += [Setting(width=width, seed=seed) for width in WIDTHS]
        cells += [Setting(families=f, steps=BASE.steps * f // BASE.families, seed=seed) for f in FAMILIES]
        cells += [Setting(steps=steps, seed=seed) for steps in STEPS]
        cells += [Setting(width=width, steps=0, seed=seed) for width in WIDTHS]
    return list(dict.fromkeys(cells))


def run_cell(setting: Setting) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Train one cell of the grid, measure its overlaps, edit it; the record's row and the arrays of its edits."""
    began = time.perf_counter()
    world = make_world(setting.families, setting.seed)
    lm = toy.train(world, setting)
    row: dict[str, Any] = asdict(setting) | {"train_seconds": round(time.perf_counter() - began, 2)}
    row |= {"accuracy": toy.knows(lm, world)}
    lm.model.double()
    summed = toy.second_moments(lm, world)
    row |= {"overlaps": toy.overlaps(lm, world, summed)}
    arrays: dict[str, np.ndarray] = {}
    if setting == Setting(width=setting.width, seed=setting.seed):
        edits, C = toy.choose_edits(lm, world), summed.second_moment(0)
        sequence, arrays = toy.edit_sequence(lm, world, edits, C)
        row |= {"life": sequence, "partners": toy.partners(lm, world, edits, C)}  # the record's keys
    return row | {"seconds": round(time.perf_counter() - began, 2)}, arrays


def save(lm: LanguageModel, world: World, out: Path) -> None:
    """Write a model as ``save_pretrained`` does, its world as facts.csv and relations.csv, its text as JSONL."""
    lm.model.save_pretrained(out)
    lm.tokenizer.save_pretrained(out)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in world.sentences())
    files.write_whole(out / "sentences.jsonl", lambda path: path.write_text(lines, encoding="utf-8"))
    known = [["subject", "relation", "target_true", "target_new"]]
    known += [[fact.subject, fact.relation, fact.target_true, fact.target_new] for fact in world.facts]
    ways = ["paraphrase_1", "paraphrase_2", "paraphrase_3"]
    table = [["relation", "name", "subject_type", "object_type", "prompt", *ways]]
    table += [[r.id, r.name, r.subject_type, r.object_type, r.prompt, *r.paraphrases] for r in RELATIONS]
    for name, rows in (("facts.csv", known), ("relations.csv", table)):
        files.write_whole(out / name, lambda path, rows=rows: _write_csv(path, rows))


def _write_csv(path: Path, rows: list[list[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


def grid(out: Path, command: str) -> None:
    """Run every cell and write the record; an interrupted run goes on where it stopped."""
    kept = paths.cache_dir() / "toy-transformer" / str(CELLS)
    rows, base = [], {}
    for setting in console.bar(grid_settings(), what="cells", unit="cell"):
        name = "-".join(map(str, asdict(setting).values()))
        path = kept / f"{name}.json"
        found = files.kept_json(path)
        if not isinstance(found, dict) or found.keys() != {"row", "arrays"}:
            row, arrays = run_cell(setting)
            values = {key: value.round(6).tolist() for key, value in arrays.items()}
            files.write_json(path, {"row": row, "arrays": values})
            found = json.loads(path.read_text(encoding="utf-8"))
        rows.append(found["row"] | {"facts": len(make_world(setting.families, setting.seed).facts)})
        if setting == Setting(seed=setting.seed):
            base |= {f"seed_{setting.seed}_{k}": np.array(v, np.float32) for k, v in found["arrays"].items()}
    data = {
        "kind": "toy-transformer",
        "compared": COMPARED,
        "edges": list(toy.EDGES[:-1]),
        "forecasts": list(toy.FORECASTS),
        "forecast_at": list(toy.FORECAST_AT),
        "base": asdict(BASE),
        "cells": rows,
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "provenance": records.provenance(command=command, seed=0),
    }
    records.write(out, data, base)


def main(arguments: Sequence[str] | None = None) -> int:
    """``train`` writes the model that ships, ``grid`` the record."""
    parser = argparse.ArgumentParser(prog="python experiments/grid.py", description=__doc__)
    parser.add_argument("what", choices=("train", "grid"))
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args(arguments)
    try:
        if asked.what == "train":
            world = make_world(BASE.families, BASE.seed)
            lm = toy.train(world, BASE)
            save(lm, world, asked.out)
            print(json.dumps(toy.knows(lm, world)))
        else:
            words = sys.argv[1:] if arguments is None else arguments
            grid(asked.out, "python experiments/grid.py " + " ".join(map(str, words)))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
