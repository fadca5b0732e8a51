"""How far C settles, and what precision costs: text that the model writes, C at doubling lengths, P of all facts.

P of all facts at all layers, with C from ever more tokens, is held against P with C from all there are; and C from a
pass in one precision against C from a pass in another. Chapter ``10-keys-and-moments`` does the same on two cores, with
a fortieth of the text, 128 facts and six layers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convergence import Reference, in_parts, rms, statistics
from job import Job
from superposition import records
from superposition.data import facts, text
from superposition.errors import UserError
from superposition.io import files
from superposition.linear import overlap
from superposition.lm import keys, models, moments, sampling
from superposition.stats import shape

#: Passes by name: dtype of the model, and of the sums. The first is what the others are held against.
PASSES = {
    "float32": ("float32", torch.float64),
    "bfloat16": ("bfloat16", torch.float64),
    "float32, summed in float32": ("float32", torch.float32),
    "float64": ("float64", torch.float64),
}


@dataclass(frozen=True)
class Sizes:
    """How large a run is.

    Parameters
    ----------
    tokens : int
        Of the sample, or as many as the model writes in a ``share`` of the time left.
    shortest : float
        Tokens a dimension of the first C; each of the next has twice as many.
    length, batch : int
        Of a sampled text in tokens, and how many are sampled at once.
    sampled_in : str
        The dtype in which the model samples.
    context : int
        Of the windows in which the text is read.
    resamples : int
        Of the bootstrap over facts, at the longest text.
    """

    tokens: int = 5_242_880
    shortest: float = 4 / 3
    length: int = 256
    batch: int = 2048
    sampled_in: str = "bfloat16"
    share: float = 0.5
    context: int = 512
    resamples: int = 1000


TINY = Sizes(tokens=1_200, length=16, batch=64, sampled_in="float32", context=16, resamples=20)


def sample(job: Job, source: str, sizes: Sizes) -> Path:
    """Text that the model writes, made once."""
    path = job.work / f"text-{Path(source).stem}.jsonl"
    if not path.is_file():
        began, lm = time.monotonic(), models.load(source, device=job.device, dtype=sizes.sampled_in)
        seconds = sizes.share * job.left()
        tokens = sampling.sample(
            lm, path, tokens=sizes.tokens, length=sizes.length, batch=sizes.batch, seconds=max(seconds, 0)
        )
        job.say(f"{lm.name}: {tokens:,} tokens sampled in {time.monotonic() - began:.0f} s")
    return path


def lengths(d_m: int, total: int, shortest: float) -> list[float]:
    """So many tokens: ``shortest`` a dimension, doubled until the text is used up."""
    found = [shortest * d_m]
    while found[-1] * 2 < total:
        found.append(found[-1] * 2)
    return found


def overlaps(
    job: Job, lm: models.LanguageModel, parts: Sequence[Sequence[text.Window]], read: keys.Keys, sums: torch.dtype
) -> tuple[np.ndarray, list[int], moments.Moments]:
    """P (lengths, layers, m, m) float32 with C from the first part, the first two …; the tokens; the sums of all.

    Where C cannot be factorised, P is NaN.
    """
    found, counts, summed = [], [], None
    for part in parts:
        more = moments.of_windows(lm, part, cache=False, to_cpu=False, sums=sums)
        summed = more if summed is None else summed + more
        del more
        found.append(stack(read, summed))
        counts.append(summed.tokens)
    job.say(f"{lm.model.dtype}, summed in {sums}: C from {counts[0]:,} to {counts[-1]:,} tokens")
    return np.stack(found), counts, summed


def stack(read: keys.Keys, summed: moments.Moments) -> np.ndarray:
    """P of all layers (layers, m, m) float32, NaN where C cannot be factorised."""
    rows = []
    for layer in summed.outer:
        try:
            rows.append(overlap.superposition_matrix(read[layer], summed.metric(layer)))
        except UserError:
            rows.append(np.full((len(read.tokens),) * 2, np.nan))
    return np.float32(rows)


def convergence(
    P: np.ndarray, counts: Sequence[int], read: keys.Keys, summed: moments.Moments, sizes: Sizes
) -> list[dict[str, Any]]:
    """For each layer: the error of P by tokens against P of all tokens, and the statistics of P on the way."""
    rows = []
    for index, layer in enumerate(summed.outer):
        reference = Reference(read[layer], summed.second_moment(layer))
        by_tokens = [
            {"tokens": tokens} | reference.error(one[index].astype(float)) | statistics(one[index].astype(float))
            for one, tokens in zip(P, counts, strict=True)
            if np.isfinite(one[index]).all()
        ]
        rows.append(
            {
                "layer": layer,
                "condition": reference.whitening.condition(),
                "by_tokens": by_tokens,
                "statistics": shape.summary(reference.P, resamples=sizes.resamples),
            }
        )
    return rows


def differences(P: np.ndarray, other: np.ndarray) -> dict[str, list]:
    """Root mean square and largest difference of P, (lengths, layers); None where C could not be factorised."""
    found: dict[str, list] = {"rms": [], "largest": []}
    for one, two in zip(P, other, strict=True):
        pairs = [(a.astype(float), b.astype(float)) for a, b in zip(one, two, strict=True)]
        good = [bool(np.isfinite(a).all() and np.isfinite(b).all()) for a, b in pairs]
        found["rms"].append([rms(a - b) if fine else None for (a, b), fine in zip(pairs, good, strict=True)])
        found["largest"].append(
            [
                float(np.abs(shape.off_diagonal(a - b)).max()) if fine else None
                for (a, b), fine in zip(pairs, good, strict=True)
            ]
        )
    return found


def run(job: Job, sizes: Sizes, source: str = "smollm2", facts_source: str = "book") -> bool:
    """The stage, pass by pass. True once all are done."""
    name = f"{Path(source).stem}-depth"
    record = job.read(name)
    if set(PASSES) == set(record.get("seconds", {})):
        return True
    path, listed = sample(job, source, sizes), facts.load(facts_source)
    kept = job.work / f"{name}.npy"  # P of the first pass, which the others are held against
    if not kept.is_file() or record.get("text", {}).get("sha256") != files.sha256_of(path):
        record = {}  # begun on another machine, with another sample
    first = next(iter(PASSES))
    lm = models.load(source, device=job.device, dtype=PASSES[first][0])
    read = keys.extract(lm, listed)
    cut = text.windows(text.read(path), lm.tokenizer, context=sizes.context)
    total, d_m = sum(window.counted for window in cut), max(layer.d_m for layer in lm.layers)
    parts = in_parts(cut, lengths(d_m, total, sizes.shortest))
    for what, (dtype, sums) in PASSES.items():
        seconds = record.setdefault("seconds", {})
        if what in seconds:
            continue
        if seconds and not job.fits(1.5 * max(seconds.values()), f"the pass in {what}"):
            return False
        began = time.monotonic()
        del lm
        lm = models.load(source, device=job.device, dtype=dtype)
        P, counts, summed = overlaps(job, lm, parts, read, sums)  # the keys of the first pass: only C differs
        if what == first:
            files.write_whole(kept, lambda temporary, P=P: _save(temporary, P))
            record |= {
                "kind": "depth",
                "model": records.header(lm, architecture=False),
                "facts": {"source": str(facts_source), "sha256": facts.fingerprint(facts_source), "count": len(listed)},
                "text": {"sha256": files.sha256_of(path), "tokens": total, "sampled_in": sizes.sampled_in},
                "d_m": d_m,
                "tokens": counts,
                "rows": convergence(P, counts, read, summed, sizes),
                "precision": {},
            }
        else:
            exact, own = np.load(kept), stack(keys.extract(lm, listed), summed)
            record["precision"][what] = differences(P, exact) | {
                "with_its_own_keys": differences(own[None], exact[-1:])
            }
        seconds[what] = round(time.monotonic() - began, 1)
        job.write(name, record)
    return True


def _save(temporary: Path, array: np.ndarray) -> None:
    with temporary.open("wb") as stream:
        np.save(stream, array)
