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
from pathlib import Path

import numpy as np
import torch

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--more", type=Path, help="text sampled as said above")
    parser.add_argument("--facts", type=int, default=128)
    parser.add_argument("--layers", type=int, nargs="+", default=list(LAYERS))
    parser.add_argument("--sizes", type=float, nargs="+", default=list(SIZES), help="tokens a dimension")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    began = time.perf_counter()

    model = models.load(options.model)
    chosen = [layer.index for layer in model.select(options.layers)]
    d_m = max(layer.d_m for layer in model.select(chosen))
    listed = facts.load("book", limit=options.facts)
    K = keys.extract(model, listed, layers=chosen)
    cut = text.windows(text.read("book"), model.tokenizer)
    ends_at = sum(window.counted for window in cut)
    if options.more:
        cut += text.windows(text.read(options.more), model.tokenizer)

    total = sum(window.counted for window in cut)

    def P_of(summed: moments.Moments, layer: int, **how) -> np.ndarray:
        return overlap.superposition_matrix(K[layer], summed.second_moment(layer, **how))

    sizes = sorted({size * d_m for size in options.sizes} | ({ends_at} if options.more else set()))
    summed, counts, found, at = None, [], {layer: [] for layer in chosen}, {}
    for part in in_parts(cut, sizes):
        more = moments.of_windows(model, part, layers=chosen)
        summed = more if summed is None else summed + more
        counts.append(summed.tokens)
        for layer in chosen:
            found[layer].append(P_of(summed, layer))
        for size in SHRUNK:
            if size * d_m <= summed.tokens < (size + 0.5) * d_m and size not in at:
                at[size] = summed
        if summed.tokens <= 0.55 * total:
            half = summed
        print(f"{summed.tokens:,} tokens, {time.perf_counter() - began:.0f} s", flush=True)
    references = {layer: Reference(K[layer], summed.second_moment(layer)) for layer in chosen}

    rows = {layer: {"layer": layer, "d_m": d_m, "by_tokens": []} for layer in chosen}
    for layer, row in rows.items():
        for tokens, P in zip(counts, found[layer], strict=True):
            row["by_tokens"].append({"tokens": tokens} | references[layer].error(P) | statistics(P))
        rest = P_of(summed - half, layer)
        row["halves"] = {"tokens": [half.tokens, summed.tokens - half.tokens]} | Reference(
            K[layer], half.second_moment(layer)
        ).error(rest)

    first = moments.of_windows(model, first_positions(cut), layers=chosen)
    other_cut = text.windows(manual(), model.tokenizer, tokens=OTHER * d_m)
    other = moments.of_windows(model, other_cut, layers=chosen)
    for layer, row in rows.items():
        C, reference = summed.second_moment(layer), references[layer]
        without = summed - first
        row["first_position"] = {
            "share_of_trace": float(torch.trace(first.outer[layer]) / torch.trace(summed.outer[layer])),
            "share_of_tokens": first.tokens / summed.tokens,
            "condition_with": Metric(C).condition(),
            "condition_without": Metric(without.second_moment(layer)).condition(),
        } | {"without": reference.error(P := P_of(without, layer)) | statistics(P)}
        P = P_of(summed, layer, centred=True)
        row["centred"] = reference.error(P) | statistics(P)
        mean = (summed.total[layer] / summed.tokens).numpy()[:, None]
        P = overlap.superposition_matrix(K[layer] - mean, summed.second_moment(layer, centred=True))
        row["centred_keys_too"] = reference.error(P) | statistics(P)
        P = P_of(other, layer)
        row["other_text"] = {"tokens": other.tokens} | reference.error(P) | statistics(P)
        row["shrinkage"] = []
        for part in at.values():
            estimate = part.second_moment(layer)
            by_oas = shrinkage.oas(estimate, part.tokens)
            errors = {s: reference.error(P_of(part, layer, shrinkage=s))["rms"] for s in (*SHRINKAGES, by_oas)}
            row["shrinkage"].append(
                {"tokens": part.tokens, "oas": by_oas, "rms_oas": errors[by_oas]}
                | {"shrinkages": list(SHRINKAGES), "rms": [errors[s] for s in SHRINKAGES]}
            )
    print(f"texts, first positions, centring, shrinkage: {time.perf_counter() - began:.0f} s", flush=True)

    few = in_parts(cut, [PRECISE * d_m])[0]
    for layer, entry in fourth_moments(model, few, references, K).items():
        rows[layer]["fourth_moments"] = entry
    exact = moments.of_windows(model, few, layers=chosen)
    narrow_model = models.load(options.model, dtype="bfloat16")
    narrow = moments.of_windows(narrow_model, few, layers=chosen)
    narrow_keys = keys.extract(narrow_model, listed, layers=chosen)
    for layer, row in rows.items():
        P = P_of(exact, layer)
        of_text = P_of(narrow, layer) - P
        of_both = overlap.superposition_matrix(narrow_keys[layer], narrow.second_moment(layer)) - P
        row["bfloat16"] = {
            "tokens": exact.tokens,
            "text": {"rms": rms(of_text), "largest": float(np.abs(of_text).max())},
            "text_and_keys": {"rms": rms(of_both), "largest": float(np.abs(of_both).max())},
        }
    print(f"done: {time.perf_counter() - began:.0f} s", flush=True)

    digest = hashlib.sha256("\n".join(manual()).encode()).hexdigest()
    data = {
        "kind": "convergence",
        "model": records.header(model, architecture=False),
        "facts": {"source": "book", "sha256": facts.fingerprint("book"), "count": len(listed)},
        "texts": {
            "book": {"sha256": text.fingerprint("book"), "tokens": ends_at},
            "more": options.more and {"sha256": text.fingerprint(options.more), "tokens": summed.tokens - ends_at},
            "manual": {"sha256": digest, "python": platform.python_version(), "tokens": other.tokens},
        },
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
