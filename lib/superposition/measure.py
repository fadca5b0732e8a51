"""The measurement of a model's superposition: text to moments, facts to keys, both to overlap, all to a record.

Chapter ``11-superposition-in-llms`` draws from what this makes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from superposition import records
from superposition.data import facts as tables
from superposition.data import text
from superposition.errors import UserError
from superposition.io import console, files
from superposition.linear import overlap
from superposition.linear.metric import Metric
from superposition.lm import distributed as processes
from superposition.lm import keys as key_reader
from superposition.lm import moments
from superposition.lm.calibration import Calibration
from superposition.lm.models import LanguageModel, Source
from superposition.stats import shape

#: What a measurement's folder holds: the record and its matrices.
FILES = ("measurement.json", "matrices.npz")

MATRICES = tuple(field.name for field in fields(overlap.Overlap))


@dataclass(frozen=True, eq=False)
class Measurement:
    """What :func:`measure` returns: the record's content, and the matrices in float64.

    ``P``, ``Q``, ``cosine_whitened`` and ``cosine_raw`` are (layers, m, m), ``norm_whitened`` is (layers, m).
    """

    data: dict[str, Any]
    matrices: dict[str, np.ndarray]

    def overlaps(self, layer: int) -> overlap.Overlap:
        """The matrices of one layer."""
        row = self.data["layers"].index(layer)
        return overlap.Overlap.from_arrays({name: stack[row] for name, stack in self.matrices.items()})

    def write(self, folder: Path) -> None:
        """Write ``matrices.npz`` (float32) and ``measurement.json`` to a folder, both or neither."""
        single = {name: stack.astype(np.float32) for name, stack in self.matrices.items()}
        record, beside = (Path(folder) / name for name in FILES)
        data = self.data | {"matrices": beside.name}
        files.write_together({beside: files.npz_writer(single), record: files.json_writer(data)})

    def write_compact(self, path: Path) -> None:
        """Write the record ``path`` with the compact arrays of :func:`superposition.records.pack` beside it."""
        records.write(Path(path), self.data, records.pack(self.matrices))


def measure(
    model: LanguageModel | Source,
    facts: str | Path = "book",
    calibration: Calibration | None = None,
    *,
    layers: Sequence[int] | None = None,
    limit: int | None = None,
    batch: int | None = None,
    memory: int | None = None,
    resamples: int = 1000,
    seed: int = 0,
    command: str = "superposition.measure.measure",
) -> Measurement | None:
    """Measure the superposition of a list of facts at every layer chosen.

    Where several processes share the work (:mod:`superposition.lm.distributed`), each sums its part of the text; the
    first does the rest and returns the measurement, the others return None.

    Parameters
    ----------
    model : LanguageModel or Source
        With a source, all that needs no weights is checked before they are loaded.
    facts : str or Path
        See :func:`superposition.data.facts.load`.
    calibration : Calibration, optional
        What C is estimated from; default: all of the book's text.
    layers : sequence of int, optional
        Default: all.
    limit : int, optional
        Only the first facts.
    batch : int, optional
        Texts and prompts a forward pass.
    memory : int, optional
        Bytes for the second moments held at once: where all layers' are more, the text is passed over several times
        (:func:`superposition.lm.moments.in_groups`).
    resamples, seed
        Of the bootstrap, see :func:`superposition.stats.shape.summary`.
    command : str
        Kept in the record.

    Raises
    ------
    UserError
        Whatever is wrong with model, facts, text or options, in one sentence.
    """
    calibration = calibration or Calibration()
    listed = tables.load(facts, limit=limit)
    if len(listed) < 3:
        raise UserError(f"A measurement needs at least three facts, and {facts} gives {len(listed)}.")
    shape.check_resamples(resamples, seed)
    sketch = model.outline if isinstance(model, Source) else model
    chosen = sketch.select(layers)
    located = key_reader.locate_all(sketch, listed)
    key_reader.note_first(located)
    calibration.plan(sketch, max(layer.d_m for layer in chosen))
    model = model.load() if isinstance(model, Source) else model
    reading, shared = calibration.reading(model), processes.current()
    seconds = dict.fromkeys(("moments", "keys", "overlap"), 0.0)
    overlaps, statistics, cached, counted, began = [], [], True, 0, time.perf_counter()

    def lap(what: str) -> None:
        nonlocal began
        seconds[what] += time.perf_counter() - began
        began = time.perf_counter()

    for summed in moments.in_groups(model, calibration.text, memory=memory, layers=layers, batch=batch, **reading):
        lap("moments")
        cached, counted = cached and summed.cached, summed.tokens
        if shared.is_main:
            read = key_reader.extract(model, listed, layers=list(summed.outer), batch=batch or 32)
            lap("keys")
            for layer in console.bar(list(summed.outer), what="overlap", unit="layer"):
                C, shrinkage = calibration.second_moment(summed, layer)
                matrices, row = _of_layer(read[layer], C, resamples, seed)
                overlaps.append(matrices)
                statistics.append({"layer": layer} | row | {"shrinkage": shrinkage})
            lap("overlap")
        del summed  # or two groups are in memory
    if not shared.is_main:
        return None
    source = {"source": str(facts), "sha256": tables.fingerprint(facts)}
    data = _inputs(model, source, listed, calibration, counted) | {
        "layers": [layer.index for layer in chosen],
        "subjects": [fact.subject for fact in listed],
        "relations": [fact.relation for fact in listed],
        "token_positions": [token.position for token in located],
        "token_ids": [token.token_id for token in located],
        "statistics": statistics,
        "seconds": {name: round(value, 2) for name, value in seconds.items()} | {"moments_from_cache": cached},
        "processes": shared.count,
        "provenance": records.provenance(command=command, seed=seed, device=model.device),
    }
    return Measurement(data, {name: np.stack([getattr(one, name) for one in overlaps]) for name in MATRICES})


def _inputs(
    model: LanguageModel, source: dict[str, str], listed: Sequence[tables.Fact], calibration: Calibration, tokens: int
) -> dict[str, Any]:
    """What a record says was measured: the model, the facts, the text with the tokens read, and how C is estimated."""
    read_from = {"source": str(calibration.text), "sha256": text.fingerprint(calibration.text)}
    return {
        "kind": "measurement",
        "model": records.header(model),
        "facts": source | {"count": len(listed)},
        "text": read_from | calibration.reading(model) | {"tokens": tokens},
        "dtype": records.dtype(model),
        "shrinkage": calibration.shrinkage,
        "centred": calibration.centred,
    }


def _of_layer(
    keys: Float[np.ndarray, "d_m m"], C: Float[np.ndarray, "d_m d_m"], resamples: int, seed: int
) -> tuple[overlap.Overlap, dict[str, Any]]:
    """The overlaps of a layer and their statistics."""
    metric = Metric(C)
    matrices = overlap.measure(keys, metric)
    row: dict[str, Any] = {"d_m": metric.d_m, "condition": metric.condition()}
    for name in ("P", "cosine_whitened", "cosine_raw"):
        row[name] = shape.summary(getattr(matrices, name), resamples=resamples, seed=seed)
    return matrices, row
