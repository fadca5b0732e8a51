"""The law of lifelong editing, layer by layer: how far edits move a layer, and how much of what it knew is lost.

python experiments/law.py --model smollm2 --out book/records/law-smollm2.json

At every layer of a model but the last, whose answer at a subject no later word reads, the same edits are written by
ROME, with targets found beforehand; at some layers also with targets found anew. After some of them it is asked which
of the facts that nobody edits are lost, and every quantity that could forecast their share is taken down beside it: the
relative drift in several units (:mod:`superposition.editing.lifetime`), and its rivals. The record is written after
every layer; run again, the layers that it holds are kept, and within a layer what takes long is in the user's cache.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from forecasts import choose, described, found_alone, say
from growing import held
from superposition import editing, records
from superposition.data import facts
from superposition.data.facts import Fact
from superposition.editing import forecast, lifetime
from superposition.editing.forecast import Reading, Said
from superposition.io import cache
from superposition.linear.edit import Edit
from superposition.linear.memory import LinearMemory
from superposition.linear.metric import Metric
from superposition.lm import keys, models, moments, passes, scoring
from superposition.studies.law import MU, TRIED, drifts

#: Raise it when what a point holds changes: points are kept in the cache under it.
POINTS = 2
#: At which places a relative drift is taken.
PLACES = ("subject", "last", "all")
#: After how many edits forecasts of a layer's life look, by drawn drifts and by replay (``book/data/bars.toml``).
DRAWN, REPLAYED = (10, 30, 100, 300), (5, 15, 30, 60)


@dataclass(frozen=True)
class Sizes:
    """How much is done: edits at a layer, how many are written when it is looked, tokens of C and of the perplexity.

    ``anew`` says at every how manyth layer the targets are also found anew.
    """

    edits: int = 30
    looks: tuple[int, ...] = (5, 15, 30)
    anew: int = 3
    tokens: int = 102_400
    held_out: int = 1_000
    settings: editing.TargetSettings = field(default_factory=editing.TargetSettings)


@dataclass(frozen=True)
class Case:
    """One layer of a model: the edits, the facts to watch as the unedited model reads them, C, and held-out text."""

    lm: models.LanguageModel
    layer: int
    edits: Sequence[Fact]
    untouched: lifetime.Untouched
    C: Metric
    windows: list
    sizes: Sizes

    @property
    def W_0(self) -> np.ndarray:
        return self.lm.layers[self.layer].weight.detach().double().cpu().numpy()

    @cached_property
    def before(self) -> tuple[Said, list[torch.Tensor]]:
        """What the unedited model says, and its last states."""
        return asked(self.lm, self.untouched.reading, None)

    def key(self, what: str, **more: Any) -> str:
        """Under which a result is kept."""
        more |= {"weights": self.lm.digest(), "layer": self.layer, "settings": self.sizes.settings.as_dict()}
        watched = [fact.text for fact in self.untouched.reading.facts]
        return cache.key(
            "law", POINTS, what=what, tokens=self.sizes.tokens, edits=described(self.edits), watched=watched, **more
        )


# --- quantities ---------------------------------------------------------------------------------------------


def hyperspherical_energy(W: Float[np.ndarray, "d d_m"]) -> float:
    """``Σ_{i≠j} 1/‖ŵ_i − ŵ_j‖`` over pairs of unit rows, a mean: of SPHERE (arXiv 2510.01172)."""
    rows = W / np.linalg.norm(W, axis=1, keepdims=True)
    apart = np.sqrt(np.clip(2 - 2 * rows @ rows.T, 1e-12, None))
    return float(np.mean(1 / apart[~np.eye(len(rows), dtype=bool)]))


def asked(lm: models.LanguageModel, reading: Reading, moved: np.ndarray | None) -> tuple[Said, list[torch.Tensor]]:
    """What the model says of the watched facts with a drift put in, and its last states, a batch of prompts each."""
    states: list[torch.Tensor] = []
    with passes.hooked((lm.model.base_model, lambda *call: states.append(call[-1].last_hidden_state))):
        return forecast.ask(lm, reading, moved), states


def moved_by(case: Case, states: list[torch.Tensor]) -> Float[np.ndarray, " m"]:
    """How far the last states have moved, relatively: root mean square over the positions where the object is asked."""
    reading = case.untouched.reading
    far = np.zeros(len(reading))
    for rows, old, new in zip(forecast.groups(reading), case.before[1], states, strict=True):
        relative = ((new - old).norm(dim=2) / old.norm(dim=2)).double().cpu().numpy()
        for row, of_row in zip(rows, relative, strict=True):
            where = slice(reading.prompts[row] - 1, reading.lengths[row])
            far[row] = np.sqrt(np.mean(of_row[where] ** 2))
    return far


def point(case: Case, edit: Edit) -> dict[str, Any]:
    """What edits have done: arrays over the watched facts, and one number each of everything else."""
    reading = case.untouched.reading
    moved = forecast.drift(edit, reading.keys)
    said, states = asked(case.lm, reading, moved)
    unedited = case.before[0]
    arrays = {"fall": unedited.log_probability - said.log_probability, "kept": said.exact}
    arrays["margin"] = unedited.margin - said.margin
    arrays["last state"] = moved_by(case, states)
    for over in lifetime.OVER:
        squares = case.untouched.relative(moved, over) ** 2
        for place in PLACES:
            mask = reading.mask(place)
            arrays[f"{over}, {place}"] = np.sqrt((squares * mask).sum(1) / mask.sum(1))
    W = case.W_0 + edit.matrix()
    parameter = case.lm.layers[case.layer].weight
    with passes.restored(parameter):
        parameter.copy_(torch.from_numpy(W))
        perplexity = scoring.perplexity(case.lm, case.windows)
    numbers = {
        "change": edit.norm() / float(np.linalg.norm(case.W_0)),
        "condition": float(np.linalg.cond(W)),
        "energy": hyperspherical_energy(W),
        "perplexity": perplexity,
    }
    return arrays | numbers


def alone(case: Case) -> editing.Targets:
    """The targets of the edits, each found on the unedited model."""
    return found_alone(case.lm, case.layer, case.sizes.settings, case.edits)


def before_any_edit(case: Case, found: editing.Targets) -> dict[str, np.ndarray]:
    """By edit, before any is made: its size and overlaps, and the mean square of its drift in each unit."""
    single = Edit(found.shifts, forecast.directions(found.keys, case.C))
    told = lifetime.outlook(case.untouched, found, case.C, looks=())
    rows = {"delta": np.linalg.norm(found.shifts, axis=0), "size": told.size, "q": told.overlap}
    rows["probability"] = told.probability
    for over in lifetime.OVER:
        squares = case.untouched.by_edit(single, over) ** 2  # (n, m, T)
        for place in PLACES:
            rows[f"D {over}, {place}"] = squares[:, case.untouched.reading.mask(place)].mean(1)
    return rows


def anew(case: Case) -> dict[str, np.ndarray]:
    """Keys and values of the edits made by ROME one after another, each target found on the model as it is by then."""
    settings = case.sizes.settings
    with editing.preserved(case.lm):
        run = editing.run(case.lm, case.edits, "rome", layer=case.layer, C=case.C, settings=settings)
        return {"keys": run.editor.memory.keys, "values": run.editor.memory.values}


def drawn(case: Case, found: editing.Targets) -> dict[str, np.ndarray]:
    """What the first of the edits say of the layer's life, by the sum of their drifts times random numbers.

    For n edits the drift of each is multiplied by a normal number of variance n over the edits tried; for fewer edits
    than were tried they are taken as they are. The facts that are still said with that put in.
    """
    kept, reading = [], case.untouched.reading
    single = Edit(found.shifts, forecast.directions(found.keys, case.C))[:TRIED]
    for n in DRAWN:
        normal = np.random.default_rng([0, n]).standard_normal(TRIED) * (n / TRIED) ** 0.5
        edit = single[:n] if n < TRIED else Edit(single.delta * normal, single.M)
        kept.append(forecast.ask(case.lm, reading, forecast.drift(edit, reading.keys)).exact)
    return {"drawn/looks": np.array(DRAWN), "drawn/kept": np.stack(kept)}


def replay(case: Case) -> dict[str, np.ndarray]:
    """What the first of the edits, and the keys of all, say of the layer's life; after the list come the requests."""
    found, watched = alone(case), case.untouched.reading.facts
    more = lifetime.coming(case.lm, case.edits, case.edits, watched, max(REPLAYED))
    K = np.concatenate([found.keys, keys.extract(case.lm, more, layers=[case.layer])[case.layer]], axis=1)
    told = lifetime.outlook(case.untouched, found[:TRIED], case.C, K, REPLAYED)
    return {"replay/looks": told.looks, "replay/kept": told.kept}


# --- a layer, a model ---------------------------------------------------------------------------------------


def at_layer(case: Case) -> dict[str, Any]:
    """Everything at one layer: what was known before, and a point a look, for targets beforehand and perhaps anew."""
    began = time.perf_counter()
    found = alone(case)
    say(f"layer {case.layer}: {len(found)} targets")
    result: dict[str, Any] = {f"before/{name}": value for name, value in before_any_edit(case, found).items()}
    result |= drawn(case, found)
    ways = {"beforehand": {"keys": found.keys, "values": found.values}}
    if case.sizes.anew and case.layer % case.sizes.anew == 0:
        ways["anew"] = cache.made(case.key("anew"), lambda: anew(case))
    for way, written in ways.items():
        memory = LinearMemory(case.W_0, case.C)
        memory.edit_batch(written["keys"], written["values"], "rome")
        result[f"{way}/delta"] = np.linalg.norm(memory.residuals, axis=0)
        for n in case.sizes.looks:
            for name, value in point(case, memory.edits[:n]).items():
                result[f"{way}/{n}/{name}"] = value
            kept = result[f"{way}/{n}/kept"]
            drift = lifetime.root_mean_square(result[f"{way}/{n}/stream, all"])
            say(f"layer {case.layer}, {way}, {n} edits: R {drift:.3f}, lost {1 - kept.mean():.3f}")
    return result | {"seconds": round(time.perf_counter() - began, 1)}


def in_short(found: dict[str, Any], positions: np.ndarray) -> dict[str, Any]:
    """What a record keeps of points: of each fact whether it is still said, of all else numbers over the facts."""
    short = dict(found)
    for stem in [name.removesuffix(MU) for name in found if name.endswith(f"/{MU}")]:
        of = {name.removeprefix(stem): short.pop(name) for name in found if name.startswith(stem)}
        numbers = {name: value for name, value in of.items() if not isinstance(value, np.ndarray)}
        told = numbers | drifts(of, positions) | {"kept": of["kept"]}
        short |= {f"{stem}{name}": value for name, value in told.items()}
    return short


def header(lm: models.LanguageModel, edits: Sequence[Fact], watched: Sequence[Fact], sizes: Sizes) -> dict[str, Any]:
    """What a record says of all its layers; layers of another header are not put beside them."""
    return {
        "kind": "law",
        "points": POINTS,
        "model": records.header(lm),
        "normalised": lm.output_norms[0] is not None,
        "facts": {"source": "book", "sha256": facts.fingerprint("book")},
        "text": {"source": "book", "tokens": sizes.tokens},
        "settings": sizes.settings.as_dict(),
        "edits": described(edits),
        "watched": [fact.text for fact in watched],
        "looks": list(sizes.looks),
        "perplexity": scoring.perplexity(lm, scoring.held_out(lm, sizes.held_out)),
    }


def in_turn(layers: int) -> list[int]:
    """All layers but the last, in an order of which every beginning covers the depth: every sixth, third, other one."""
    return list(dict.fromkeys(layer for step in (6, 3, 2, 1) for layer in range(0, layers - 1, step)))


def measure(lm: models.LanguageModel, layers: Sequence[int], sizes: Sizes, out: Path, command: str) -> None:
    """Measure what the record does not hold yet of these layers, and write it after each."""
    edits, known = choose(lm, sizes.edits)
    windows, bits = scoring.held_out(lm, sizes.held_out), lm.digest()
    head = header(lm, edits, known, sizes)
    planned = {name: value for name, value in head.items() if name != "perplexity"}  # it is measured, and rounds
    listed, arrays = held(out, planned, "layers")
    rows = {row["layer"]: row for row in listed}
    summed = moments.estimate(lm, "book", tokens=sizes.tokens)
    for layer in layers:
        if f"{layer}/replay/kept" in arrays:
            continue
        reading, C = forecast.read(lm, known, layer, passes=False), Metric(summed.second_moment(layer))
        case = Case(lm, layer, edits, lifetime.Untouched(lm, reading), C, windows, sizes)
        key = case.key("layer", sizes=[sizes.looks, sizes.anew, sizes.held_out])
        if layer in rows:
            found = dict(rows[layer])
        else:
            found = in_short(cache.made(key, lambda case=case: at_layer(case)), reading.lengths)
        found |= cache.made(case.key("replay", looks=REPLAYED, tried=TRIED), lambda case=case: replay(case))
        if lm.digest() != bits:
            raise RuntimeError("The weights are not what they were before.")
        kept = {f"{layer}/{name}": value for name, value in found.items() if isinstance(value, np.ndarray)}
        arrays |= {name: x if x.dtype.kind in "bi" else x.astype(np.float32) for name, x in kept.items()}
        told = records.provenance(command=command, seed=0)
        plain = {name: value for name, value in found.items() if not isinstance(value, np.ndarray)}
        rows[layer] = {"layer": layer} | plain | {"commit": told["commit"]}
        records.write(out, head | {"layers": [rows[at] for at in sorted(rows)], "provenance": told}, arrays)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(prog="python experiments/law.py", description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--layers", type=int, nargs="+", help="default: all but the last")
    parser.add_argument("--out", type=Path, required=True)
    words = sys.argv[1:] if arguments is None else arguments
    asked_for = parser.parse_args(words)
    lm = models.load(asked_for.model)
    command = shlex.join(["python", "experiments/law.py", *map(str, words)])
    measure(lm, asked_for.layers or in_turn(len(lm.layers)), Sizes(), asked_for.out, command)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
