"""What the units of the target search change: ROME's own against those of the unedited answer.

python experiments/units.py --runs smollm2:6 smollm2:12 smollm2:25 gemma3:5 gemma3:9 \\
    --out book/records/search-units.json

The same edits, each alone on the unedited model. What takes long is kept in the user's cache.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forecasts import choose, described, say
from superposition import editing, records
from superposition.data import facts
from superposition.data.facts import Fact
from superposition.editing import targets
from superposition.io import cache
from superposition.lm import models

#: The searches by name.
WAYS = {
    "ROME's": editing.TargetSettings(step="absolute", bound="moving"),
    "the answer's": editing.TargetSettings(),
}


def search(lm: models.LanguageModel, edits: Sequence[Fact], layer: int, way: str) -> dict[str, Any]:
    """Arrays over the edits: size of the shift, steps, probability and loss reached; and the seconds it took."""
    settings = WAYS[way]
    key = cache.key("units", 1, weights=lm.digest(), layer=layer, edits=described(edits), settings=settings.as_dict())

    def make() -> dict[str, Any]:
        began = time.perf_counter()
        found = targets.search(lm, edits, layer, settings, batch=10)
        answers = np.linalg.norm(found.recalled, axis=0)
        return {
            "answer": answers,
            "size": np.linalg.norm(found.shifts, axis=0) / answers,
            "steps": found.steps,
            "probability": found.probability,
            "loss": found.loss,
            "seconds": round(time.perf_counter() - began, 1),
        }

    return cache.made(key, make)


def run(runs: Sequence[str], count: int) -> list[dict[str, Any]]:
    """A row for each model, layer and way."""
    rows = []
    for name, group in _by_model(runs).items():
        lm = models.load(name)
        edits = choose(lm, count)[0]
        for layer in group:
            for way, settings in WAYS.items():
                found = search(lm, edits, layer, way)
                on_the_bound = found["size"] > 0.999 * settings.clamp_norm_factor
                rows.append(
                    {
                        "model": name,
                        "layer": layer,
                        "way": way,
                        "answer": float(np.median(found["answer"])),
                        "size": float(np.median(found["size"])),
                        "steps": float(np.mean(found["steps"])),
                        "on the bound": float(np.mean(on_the_bound)),
                        "reached": float(np.mean(found["probability"] >= settings.stop_probability)),
                        "probability": float(np.median(found["probability"])),
                        "loss": float(np.mean(found["loss"])),
                        "seconds": found["seconds"],
                    }
                )
                say(f"{name}, layer {layer}, {way}: size {rows[-1]['size']:.2f}, reached {rows[-1]['reached']:.2f}")
    return rows


def _by_model(runs: Sequence[str]) -> dict[str, list[int]]:
    layers: dict[str, list[int]] = {}
    for run_of in runs:
        name, layer = run_of.rsplit(":", 1)
        layers.setdefault(name, []).append(int(layer))
    return layers


def main(arguments: Sequence[str] | None = None) -> int:
    """Search and write the record."""
    parser = argparse.ArgumentParser(prog="python experiments/units.py", description=__doc__)
    parser.add_argument("--runs", nargs="+", required=True, metavar="MODEL:LAYER")
    parser.add_argument("--count", type=int, default=20, help="edits (default: 20)")
    parser.add_argument("--out", type=Path, required=True)
    words = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(words)
    command = shlex.join(["python", "experiments/units.py", *map(str, words)])
    data = {
        "kind": "search units",
        "facts": {"source": "book", "sha256": facts.fingerprint("book")},
        "count": options.count,
        "settings": {way: settings.as_dict() for way, settings in WAYS.items()},
        "rows": run(options.runs, options.count),
        "provenance": records.provenance(command=command, seed=0),
    }
    records.write(options.out, data)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
