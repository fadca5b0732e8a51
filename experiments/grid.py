"""Train the toy transformers of chapter 09 on a grid of settings, measure them, edit them; or train the one that ships.

python experiments/grid.py grid --out book/records/toy-transformer.json
python experiments/grid.py train --out book/data/toy-transformer
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from superposition import records
from superposition.errors import UserError
from superposition.io import console, files, paths
from superposition.toys import transformer as toy

#: Raise it when what a cell computes changes: finished cells are kept in the cache under it.
CELLS = 1


def grid(out: Path, command: str) -> None:
    """Run every cell and write the record; an interrupted run goes on where it stopped."""
    kept = paths.cache_dir() / "toy-transformer" / str(CELLS)
    rows, base = [], {}
    for setting in console.bar(toy.grid_settings(), what="cells", unit="cell"):
        name = "-".join(map(str, asdict(setting).values()))
        path = kept / f"{name}.json"
        found = files.kept_json(path)
        if not isinstance(found, dict) or found.keys() != {"row", "arrays"}:
            row, arrays = toy.run_cell(setting)
            values = {key: value.round(6).tolist() for key, value in arrays.items()}
            files.write_json(path, {"row": row, "arrays": values})
            found = json.loads(path.read_text(encoding="utf-8"))
        rows.append(found["row"] | {"facts": len(toy.make_world(setting.families, setting.seed).facts)})
        if setting == toy.Setting(seed=setting.seed):
            base |= {f"seed_{setting.seed}_{k}": np.array(v, np.float32) for k, v in found["arrays"].items()}
    data = {
        "kind": "toy-transformer",
        "compared": toy.COMPARED,
        "edges": list(toy.EDGES[:-1]),
        "forecasts": list(toy.FORECASTS),
        "forecast_at": list(toy.FORECAST_AT),
        "base": asdict(toy.BASE),
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
            world = toy.make_world(toy.BASE.families, toy.BASE.seed)
            lm = toy.train(world, toy.BASE)
            toy.save(lm, world, asked.out)
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
