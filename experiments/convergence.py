"""How many tokens does C need, and of which text? P of 128 facts at six layers, from 1.1 to 160 tokens a dimension.

    python -m superposition sample --model smollm2 --tokens 130000 --seed 1 --out _build/calibration-seed1.jsonl
    python experiments/convergence.py --more _build/calibration-seed1.jsonl \\
        --out book/records/smollm2-convergence.json

The book's text is read first and the further sample after it; P at every size is held against P at the end. Then, at
sizes in between: another kind of text (Python's own manual), the first positions, centring, shrinkage, precision.
Sums are kept in the cache, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from superposition import records
from superposition.data import facts, text
from superposition.io import console
from superposition.linear import overlap, shrinkage
from superposition.linear.metric import Metric
from superposition.lm import keys, models, moments
from superposition.stats import shape

LAYERS = (0, 5, 11, 17, 23, 29)
#: Sizes in tokens a dimension; the last is all there is.
SIZES = (1.1, 1.25, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 84, 120, 160)
#: Where shrinkage is tried, and how much of it.
SHRUNK = (1.25, 2, 4, 16)
SHRINKAGES = (0, 1e-5, 1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3)
#: Tokens, a dimension, of the text of another kind, and for precision.
OTHER, PRECISE = 32, 6


def statistics(P: np.ndarray) -> dict[str, float]:
    found = shape.summary(P, resamples=0)
    return {name: found[name] for name in ("mean", "sd", "excess_kurtosis", "quantile_kurtosis")}


def rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(shape.off_diagonal(difference) ** 2)))


class Reference:
    """P and the geometry of the facts under one C: what other estimates of P are held against."""

    def __init__(self, K: np.ndarray, C: np.ndarray):
        self.whitening = Metric(C)
        found = overlap.measure(K, self.whitening)
        self.P, self.cosine, norms = found.P, found.cosine_whitened, found.norm_whitened
        sine = np.sqrt(np.clip(1 - self.cosine**2, 0, None))
        scale = sine * norms[None, :] / norms[:, None]
        # facts that share their key have no error to speak of
        self.scale = np.where(sine > 1e-3, scale, np.inf)

    def error(self, P: np.ndarray) -> dict[str, float]:
        """Root mean square of the difference, plain and in units of its scale; and the largest."""
        difference = P - self.P
        kept = np.isfinite(self.scale) & ~np.eye(len(P), dtype=bool)
        return {
            "rms": rms(difference),
            "rms_scaled": float(np.sqrt(np.mean((difference / self.scale)[kept] ** 2))),
            "largest": float(np.abs(shape.off_diagonal(difference)).max()),
            "correlation": float(np.corrcoef(shape.off_diagonal(P), shape.off_diagonal(self.P))[0, 1]),
        }

    def compare(self, P: np.ndarray) -> dict[str, float]:
        """The error of an estimate of P, and its own statistics."""
        return self.error(P) | statistics(P)


def in_parts(cut: list[text.Window], sizes: list[float]) -> list[list[text.Window]]:
    """Cut the list of windows wherever the next size is reached; the rest is the last part."""
    parts, part, total, wanted = [], [], 0, list(sizes)
    for window in cut:
        part.append(window)
        total += window.counted
        if wanted and total >= wanted[0]:
            parts.append(part)
            part = []
            wanted = [size for size in wanted if size > total]
    return [*parts, part] if part else parts


def first_positions(cut: list[text.Window]) -> list[text.Window]:
    """The first position of every window: what comes later cannot change its key."""
    return [text.Window(window.token_ids[:1], 0, 1) for window in cut]


def manual() -> list[str]:
    """Python's own manual, as ``help()`` shows it: English of another kind."""
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def fourth_moments(model, cut, references: dict[int, Reference], K) -> dict[int, dict[str, float]]:
    """What independent draws of the text's keys would multiply the squared error by, and sums in float32.

    For Gaussian keys the factor is 1; in general it is the mean of ``(u·z)² (e·z)²`` over the whitened keys z, with u
    along one fact's key and e along what is left of the other's.
    """
    factor = {index: np.zeros_like(reference.P) for index, reference in references.items()}
    single = {index: torch.zeros(len(K[index]), len(K[index])) for index in references}
    double = {index: torch.zeros(len(K[index]), len(K[index]), dtype=torch.float64) for index in references}
    tokens = 0
    for window in console.bar(cut, what="fourth moments", unit="text"):
        ids = torch.tensor([window.token_ids[: window.stop]])

        def receive(layer, read):
            z = read[0]
            single[layer.index].addmm_(z.T, z)
            double[layer.index].addmm_(z.T.double(), z.double())
            reference = references[layer.index]
            x = reference.whitening.whiten(K[layer.index])
            u = x / np.linalg.norm(x, axis=0)
            a2 = (reference.whitening.whiten(z.T.double().numpy()).T @ u).T  # (facts, tokens)
            c, s2 = reference.cosine, np.clip(1 - reference.cosine**2, 1e-6, None)
            # the mean of a_i² (a_j − c a_i)² / s², written out
            factor[layer.index] += ((a2**2) @ (a2**2).T - 2 * c * (a2**3 @ a2.T) + c**2 * (a2**4).sum(1)[:, None]) / s2

        model.read_keys(ids, torch.ones_like(ids), model.select(list(references)), receive)
        tokens += ids.shape[1]
    found = {}
    for index, reference in references.items():
        kept = np.isfinite(reference.scale) & ~np.eye(len(reference.P), dtype=bool)
        exact = overlap.superposition_matrix(K[index], double[index].numpy() / tokens)
        narrow = overlap.superposition_matrix(K[index], single[index].double().numpy() / tokens)
        found[index] = {
            "tokens": tokens,
            "factor": float((factor[index] / tokens)[kept].mean()),
            "factor_median": float(np.median((factor[index] / tokens)[kept])),
            "float32_sums": {"rms": rms(narrow - exact), "largest": float(np.abs(narrow - exact).max())},
        }
    return found


def P_of(K: keys.Keys, summed: moments.Moments, layer: int, **how: Any) -> Float[np.ndarray, "m m"]:
    return overlap.superposition_matrix(K[layer], summed.second_moment(layer, **how))


@dataclass
class Growth:
    """Sums over more and more of the text.

    Attributes
    ----------
    P : dict of int to list of (m, m)
        By layer, at every size.
    counts : list of int
        Tokens at every size.
    summed, half : Moments
        Over all of the text, and over about its first half.
    small : list of Moments
        At the sizes where shrinkage is tried.
    """

    P: dict[int, list[np.ndarray]]
    counts: list[int]
    summed: moments.Moments
    half: moments.Moments
    small: list[moments.Moments]


def grow(
    model: models.LanguageModel,
    K: keys.Keys,
    cut: list[text.Window],
    sizes: list[float],
    d_m: int,
    say: Callable[[str], None],
) -> Growth:
    """Read the text up to each size in turn, and take P there."""
    chosen, total = list(K.by_layer), sum(window.counted for window in cut)
    summed, counts, P, at = None, [], {layer: [] for layer in chosen}, {}
    for part in in_parts(cut, sizes):
        more = moments.of_windows(model, part, layers=chosen)
        summed = more if summed is None else summed + more
        counts.append(summed.tokens)
        for layer in chosen:
            P[layer].append(P_of(K, summed, layer))
        for size in SHRUNK:
            if size * d_m <= summed.tokens < (size + 0.5) * d_m and size not in at:
                at[size] = summed
        if summed.tokens <= 0.55 * total:
            half = summed
        say(f"{summed.tokens:,} tokens,")
    return Growth(P, counts, summed, half, list(at.values()))


def by_size(K: keys.Keys, growth: Growth, layer: int, reference: Reference) -> dict[str, Any]:
    """P of a layer at every size against P at the end, and P of one half of the text against the other's."""
    rows = [{"tokens": tokens} | reference.compare(P) for tokens, P in zip(growth.counts, growth.P[layer], strict=True)]
    half, rest = growth.half, growth.summed - growth.half
    halves = {"tokens": [half.tokens, rest.tokens]}
    halves |= Reference(K[layer], half.second_moment(layer)).error(P_of(K, rest, layer))
    return {"by_tokens": rows, "halves": halves}


def other_estimates(
    K: keys.Keys,
    layer: int,
    reference: Reference,
    summed: moments.Moments,
    first: moments.Moments,
    other: moments.Moments,
) -> dict[str, Any]:
    """P of a layer without the first positions, with C centred, with the keys centred too, from another text."""
    without = summed - first
    position = {
        "share_of_trace": float(torch.trace(first.outer[layer]) / torch.trace(summed.outer[layer])),
        "share_of_tokens": first.tokens / summed.tokens,
        "condition_with": Metric(summed.second_moment(layer)).condition(),
        "condition_without": Metric(without.second_moment(layer)).condition(),
        "without": reference.compare(P_of(K, without, layer)),
    }
    mean = (summed.total[layer] / summed.tokens).numpy()[:, None]  # (d_m, 1)
    both_centred = overlap.superposition_matrix(K[layer] - mean, summed.second_moment(layer, centred=True))
    return {
        "first_position": position,
        "centred": reference.compare(P_of(K, summed, layer, centred=True)),
        "centred_keys_too": reference.compare(both_centred),
        "other_text": {"tokens": other.tokens} | reference.compare(P_of(K, other, layer)),
    }


def shrunken(K: keys.Keys, small: list[moments.Moments], layer: int, reference: Reference) -> list[dict[str, Any]]:
    """The error of P of a layer by how much C is shrunk, from little text."""
    rows = []
    for part in small:
        by_oas = shrinkage.oas(part.second_moment(layer), part.tokens)
        shrinkages = (*SHRINKAGES, by_oas)
        errors = {s: reference.error(P_of(K, part, layer, shrinkage=s))["rms"] for s in shrinkages}
        rows.append(
            {"tokens": part.tokens, "oas": by_oas, "rms_oas": errors[by_oas]}
            | {"shrinkages": list(SHRINKAGES), "rms": [errors[s] for s in SHRINKAGES]}
        )
    return rows


def in_bfloat16(
    model: models.LanguageModel, name: str, K: keys.Keys, listed: list[facts.Fact], cut: list[text.Window]
) -> dict[int, dict[str, Any]]:
    """By layer: how far P moves where the text, or the text and the facts, are read in bfloat16."""
    chosen = list(K.by_layer)
    exact = moments.of_windows(model, cut, layers=chosen)
    narrow_model = models.load(name, dtype="bfloat16")
    narrow = moments.of_windows(narrow_model, cut, layers=chosen)
    narrow_keys = keys.extract(narrow_model, listed, layers=chosen)
    rows = {}
    for layer in chosen:
        P = P_of(K, exact, layer)
        of_text, of_both = P_of(K, narrow, layer) - P, P_of(narrow_keys, narrow, layer) - P
        rows[layer] = {
            "tokens": exact.tokens,
            "text": {"rms": rms(of_text), "largest": float(np.abs(of_text).max())},
            "text_and_keys": {"rms": rms(of_both), "largest": float(np.abs(of_both).max())},
        }
    return rows


def texts_read(more: Path | None, book: int, rest: int, other: int) -> dict[str, Any]:
    """What a record says of the texts: their digests, and the tokens of each."""
    digest = hashlib.sha256("\n".join(manual()).encode()).hexdigest()
    return {
        "book": {"sha256": text.fingerprint("book"), "tokens": book},
        "more": more and {"sha256": text.fingerprint(more), "tokens": rest},
        "manual": {"sha256": digest, "python": platform.python_version(), "tokens": other},
    }


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--more", type=Path, help="text sampled as said above")
    parser.add_argument("--facts", type=int, default=128)
    parser.add_argument("--layers", type=int, nargs="+", default=list(LAYERS))
    parser.add_argument("--sizes", type=float, nargs="+", default=list(SIZES), help="tokens a dimension")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    options, began = parsed(), time.perf_counter()

    def say(what: str) -> None:
        print(f"{what} {time.perf_counter() - began:.0f} s", flush=True)

    model = models.load(options.model)
    chosen = [layer.index for layer in model.select(options.layers)]
    d_m = max(layer.d_m for layer in model.select(chosen))
    listed = facts.load("book", limit=options.facts)
    K = keys.extract(model, listed, layers=chosen)
    cut = text.windows(text.read("book"), model.tokenizer)
    ends_at = sum(window.counted for window in cut)
    if options.more:
        cut += text.windows(text.read(options.more), model.tokenizer)
    sizes = sorted({size * d_m for size in options.sizes} | ({ends_at} if options.more else set()))

    growth = grow(model, K, cut, sizes, d_m, say)
    summed = growth.summed
    references = {layer: Reference(K[layer], summed.second_moment(layer)) for layer in chosen}
    first = moments.of_windows(model, first_positions(cut), layers=chosen)
    other = moments.of_windows(model, text.windows(manual(), model.tokenizer, tokens=OTHER * d_m), layers=chosen)
    rows: dict[int, dict[str, Any]] = {layer: {"layer": layer, "d_m": d_m} for layer in chosen}
    for layer, reference in references.items():
        rows[layer] |= by_size(K, growth, layer, reference)
        rows[layer] |= other_estimates(K, layer, reference, summed, first, other)
        rows[layer]["shrinkage"] = shrunken(K, growth.small, layer, reference)
    say("texts, first positions, centring, shrinkage:")
    few = in_parts(cut, [PRECISE * d_m])[0]
    for name, by_layer in (
        ("fourth_moments", fourth_moments(model, few, references, K)),
        ("bfloat16", in_bfloat16(model, options.model, K, listed, few)),
    ):
        for layer, entry in by_layer.items():
            rows[layer][name] = entry
    say("done:")

    data = {
        "kind": "convergence",
        "model": records.header(model, architecture=False),
        "facts": {"source": "book", "sha256": facts.fingerprint("book"), "count": len(listed)},
        "texts": texts_read(options.more, ends_at, summed.tokens - ends_at, other.tokens),
        "layers": chosen,
        "d_m": d_m,
        "rows": list(rows.values()),
        "seconds": round(time.perf_counter() - began, 1),
        "provenance": records.provenance(
            command="python experiments/convergence.py " + shlex.join(sys.argv[1:]), device=model.device
        ),
    }
    if options.out:
        records.write(options.out, data)


if __name__ == "__main__":
    main()
