"""The measurement of a model's superposition: text to moments, facts to keys, both to overlap, all to a record.

Chapter ``11-superposition-in-llms`` draws from what this makes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from superposition import records
from superposition.data import facts, text
from superposition.errors import UserError
from superposition.io import console, files
from superposition.linear import overlap
from superposition.linear.metric import Metric
from superposition.linear.shrinkage import check_shrinkage, oas
from superposition.lm import distributed as processes
from superposition.lm import keys as key_reader
from superposition.lm import moments
from superposition.stats import shape

if TYPE_CHECKING:
    from superposition.lm.models import LanguageModel

#: What a measurement's folder holds: the record and its matrices.
FILES = ("measurement.json", "matrices.npz")

MATRICES = ("P", "Q", "cosine_whitened", "cosine_raw", "norm_whitened")


@dataclass(frozen=True, eq=False)
class Measurement:
    """What :func:`run` returns: the record's content, and the matrices in float64.

    ``P``, ``Q``, ``cosine_whitened`` and ``cosine_raw`` are (layers, m, m), ``norm_whitened`` is (layers, m).
    """

    data: dict[str, Any]
    matrices: dict[str, np.ndarray]

    def row(self, layer: int) -> dict[str, np.ndarray]:
        """The four matrices of one layer."""
        place = self.data["layers"].index(layer)
        return {name: stack[place] for name, stack in self.matrices.items()}

    def write(self, folder: Path) -> None:
        """Write ``matrices.npz`` (float32) and ``measurement.json`` to a folder, both or neither."""
        single = {name: stack.astype(np.float32) for name, stack in self.matrices.items()}
        record, beside = (folder / name for name in FILES)
        data = self.data | {"matrices": beside.name}
        files.write_together({beside: files.npz_writer(single), record: files.json_writer(data)})

    def write_compact(self, path: Path) -> None:
        """Write the record ``path`` with the compact arrays of :func:`superposition.records.pack` beside it."""
        records.write(path, self.data, records.pack(self.matrices))


def run(
    model: LanguageModel,
    *,
    facts_source: str | Path = "book",
    text_source: str | Path = "book",
    tokens: int | None = None,
    skip_first: int = 0,
    context: int = 512,
    layers: Sequence[int] | None = None,
    limit: int | None = None,
    batch: int | None = None,
    memory: int | None = None,
    shrinkage: float | str = 0.0,
    centred: bool = False,
    resamples: int = 1000,
    seed: int = 0,
    command: str = "superposition.measure.run",
) -> Measurement | None:
    """Measure the superposition of a list of facts at every layer chosen.

    Where several processes share the work (:mod:`superposition.lm.distributed`), each sums its part of the text; the
    first does the rest and returns the measurement, the others return None.

    Parameters
    ----------
    model : LanguageModel
    facts_source, text_source : str or Path
        See :func:`superposition.data.facts.load` and :func:`superposition.data.text.read`.
    tokens, skip_first, context
        Of the calibration text, see :func:`superposition.data.text.windows`.
    layers : sequence of int, optional
        Default: all.
    limit : int, optional
        Only the first facts.
    batch : int, optional
        Texts and prompts a forward pass.
    memory : int, optional
        Bytes for the second moments held at once: where all layers' are more, the text is passed over several times
        (:func:`superposition.lm.moments.in_groups`).
    shrinkage, centred
        See :meth:`superposition.lm.moments.Moments.second_moment`; a shrinkage of ``"oas"`` is that of
        :func:`superposition.linear.shrinkage.oas`, layer by layer.
    resamples, seed
        Of the bootstrap, see :func:`superposition.stats.shape.summary`.
    command : str
        Kept in the record.

    Raises
    ------
    UserError
        Whatever is wrong with model, facts, text or options, in one sentence.
    """
    listed = facts.load(facts_source, limit=limit)
    if len(listed) < 3:
        raise UserError(f"A measurement needs at least three facts, and {facts_source} gives {len(listed)}.")
    shape.check_resamples(resamples, seed)
    if shrinkage != "oas":
        check_shrinkage(shrinkage)
    key_reader.locate_all(model, listed)
    context = min(context, model.context_length or context)
    chosen = model.select(layers)
    widest = max(layer.d_m for layer in chosen)
    if tokens is not None and 0 < tokens < widest and not shrinkage:
        raise UserError(
            f"C of width {widest} is singular when estimated from {tokens} tokens: ask for at least {widest} "
            "(better ten times that), or give a --shrinkage above 0."
        )
    shared = processes.current()
    seconds = dict.fromkeys(("moments", "keys", "overlap"), 0.0)
    stacks: dict[str, list[np.ndarray]] = {name: [] for name in MATRICES}
    statistics, by_layer = [], {layer.index: layer for layer in chosen}
    cached = True
    began = time.perf_counter()
    for summed in moments.in_groups(
        model,
        text_source,
        memory=memory,
        tokens=tokens,
        skip_first=skip_first,
        context=context,
        layers=layers,
        batch=batch,
    ):
        seconds["moments"] += time.perf_counter() - began
        cached, counted, group = cached and summed.cached, summed.tokens, list(summed.outer)
        if shared.is_main:
            began = time.perf_counter()
            read = key_reader.extract(model, listed, layers=group, batch=batch or 32)
            seconds["keys"] += time.perf_counter() - began
            began = time.perf_counter()
            for index in console.bar(group, what="overlap", unit="layer"):
                s = shrinkage
                if s == "oas":
                    s = oas(summed.second_moment(index, centred=centred), counted)
                metric = Metric(summed.second_moment(index, shrinkage=s, centred=centred))
                found = overlap.measure(read[index], metric)
                for name in MATRICES:
                    stacks[name].append(getattr(found, name))
                statistics.append(
                    {"layer": index, "d_m": by_layer[index].d_m, "condition": metric.condition(), "shrinkage": s}
                    | {
                        name: shape.summary(getattr(found, name), resamples=resamples, seed=seed)
                        for name in ("P", "cosine_whitened", "cosine_raw")
                    }
                )
            seconds["overlap"] += time.perf_counter() - began
        del summed
        began = time.perf_counter()
    if not shared.is_main:
        return None
    data = {
        "kind": "measurement",
        "model": {"name": model.name, "sha256": model.sha256, "architecture": type(model.model).__name__},
        "facts": {"source": str(facts_source), "sha256": facts.fingerprint(facts_source), "count": len(listed)},
        "text": {
            "source": str(text_source),
            "sha256": text.fingerprint(text_source),
            "tokens": counted,
            "skip_first": skip_first,
            "context": context,
        },
        "dtype": str(model.dtype).removeprefix("torch."),
        "shrinkage": shrinkage,
        "centred": centred,
        "layers": [layer.index for layer in chosen],
        "subjects": [fact.subject for fact in listed],
        "relations": [fact.relation for fact in listed],
        "token_positions": [found.position for found in read.tokens],
        "token_ids": [found.token_id for found in read.tokens],
        "statistics": statistics,
        "seconds": {name: round(value, 2) for name, value in seconds.items()} | {"moments_from_cache": cached},
        "processes": shared.count,
        "provenance": records.provenance(command=command, seed=seed, device=model.device),
    }
    return Measurement(data, {name: np.stack(stack) for name, stack in stacks.items()})
