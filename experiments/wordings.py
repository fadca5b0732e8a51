"""Does protection reach a fact, or only its wording? Sixty edits by ROME with facts protected, asked in other words.

python experiments/wordings.py --runs smollm2:6 --out book/records/wordings.json

C gets the keys of the watched facts: of half of them or of all, in the prompt alone or also in two paraphrases. Then
every watched fact that the model says in a wording is asked in it: in the prompt, in the paraphrases that are in C,
and in one that never is. The edits are made with targets found beforehand, which are kept in the user's cache.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from forecasts import choose, described, found_alone, say
from superposition import editing, records
from superposition.data import facts
from superposition.editing import evaluation, forecast
from superposition.linear import shrinkage
from superposition.linear.edit import Edit
from superposition.linear.metric import Metric
from superposition.lm import models, moments, scoring


@dataclass(frozen=True)
class Sizes:
    """How much is done: edits, paraphrases that may be in C (one more is asked only), weight of the protected keys."""

    edits: int = 60
    inside: int = 2
    weight: float = 10.0
    tokens: int = 102_400
    held_out: int = 4_000
    settings: editing.TargetSettings = field(default_factory=editing.TargetSettings)


#: Which facts are protected, and whether in paraphrases beside the prompt.
ARMS = {
    "nothing": (None, False),
    "all, prompt": ("all", False),
    "half, prompt": ("half", False),
    "all, prompt and paraphrases": ("all", True),
    "half, prompt and paraphrases": ("half", True),
}


def measure_run(lm: models.LanguageModel, layer: int, sizes: Sizes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """One layer of a model: its row of the record, and its arrays."""
    edits, watched = choose(lm, sizes.edits)
    found = found_alone(lm, layer, sizes.settings, edits)
    C = Metric(moments.estimate(lm, "book", tokens=sizes.tokens, layers=[layer]).second_moment(layer))
    windows = scoring.held_out(lm, sizes.held_out)
    ways = [watched, *([fact.reworded()[number] for fact in watched] for number in range(sizes.inside + 1))]
    readings = [forecast.read(lm, asked, layer, passes=False) for asked in ways]
    half = np.arange(len(watched)) % 2 == 0
    arrays = {"half": half}
    before = [forecast.ask(lm, reading) for reading in readings]
    for number, said in enumerate(before):
        arrays[f"before/{number}"], arrays[f"said/{number}"] = said.log_probability, said.exact
    rows = {}
    for name, (who, more) in ARMS.items():
        metric = C
        if who is not None:
            chosen = half if who == "half" else np.ones_like(half)
            keys = [reading.subset(chosen).everywhere() for reading in readings[: 1 + more * sizes.inside]]
            metric = Metric(shrinkage.protecting(C.moment, np.concatenate(keys, axis=1), sizes.weight))
        editor = editing.Editor(lm, layer, C=metric, settings=sizes.settings)
        for i in range(len(found)):
            editor.store(found[i], apply=False)
        edit: Edit = editor.memory.edits
        for number, reading in enumerate(readings):
            said = forecast.ask(lm, reading, forecast.drift(edit, reading.keys))
            arrays[f"{name}/fall/{number}"] = before[number].log_probability - said.log_probability
            arrays[f"{name}/kept/{number}"] = said.exact
        with editing.preserved(lm):
            editor.apply()
            held = evaluation.evaluate(lm, edits, neighbours=0)
            perplexity = scoring.perplexity(lm, windows)
        shares = {key: held[key]["share"] for key in ("exact", "paraphrase_exact")}
        rows[name] = shares | {"norm": edit.norm(), "perplexity": perplexity}
        say(f"{lm.name}, layer {layer}, {name}: {rows[name]}")
    row = {
        "model": lm.name,
        "layer": layer,
        "sha256": lm.sha256,
        "edits": described(edits),
        "watched": len(watched),
        "perplexity": scoring.perplexity(lm, windows),
        "arms": rows,
    }
    stem = f"{lm.name} {layer}/"
    return row, {stem + name: x if x.dtype == bool else x.astype(np.float32) for name, x in arrays.items()}


def measure(runs: Sequence[str], sizes: Sizes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The record's content and its arrays."""
    rows, arrays = [], {}
    for run in runs:
        name, layer = run.rsplit(":", 1)
        lm = models.load(name)
        bits = lm.digest()
        row, found = measure_run(lm, int(layer), sizes)
        if lm.digest() != bits:
            raise RuntimeError("The weights are not what they were before.")
        rows.append(row)
        arrays |= found
    data = {
        "kind": "wordings",
        "facts": {"source": "book", "sha256": facts.fingerprint("book")},
        "text": {"source": "book", "tokens": sizes.tokens},
        "settings": sizes.settings.as_dict(),
        "inside": sizes.inside,
        "weight": sizes.weight,
        "runs": rows,
    }
    return data, arrays


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(prog="python experiments/wordings.py", description=__doc__)
    parser.add_argument("--runs", nargs="+", required=True, metavar="MODEL:LAYER")
    parser.add_argument("--out", type=Path, required=True)
    words = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(words)
    data, arrays = measure(options.runs, Sizes())
    command = shlex.join(["python", "experiments/wordings.py", *map(str, words)])
    records.write(options.out, data | {"provenance": records.provenance(command=command, seed=0)}, arrays)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
