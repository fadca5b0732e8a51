"""How fast is a measurement: the pass for C against the floor, keys and P, and the paper's own procedure.

    python experiments/benchmarks/measuring.py --out book/records/benchmark-measuring.json

The floor is the time that the arithmetic alone would take at this machine's measured matrix-multiply rates: the
forward pass's multiplications in float32, and the moments' in float64, of which the symmetric half suffices. The
rates are measured before and after each pass, and the ratio is the median over passes. The library multiplies the
moments in float32, so beside it stands the floor with these in float32, too, and what that changes of P.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

sys.path.insert(0, str(Path(__file__).resolve().parent))
import machine
import paper_procedure
from superposition import records
from superposition.data import facts, text
from superposition.linear import overlap
from superposition.linear.metric import Metric
from superposition.lm import keys, models, moments


def forward_flops(model: models.LanguageModel, window: text.Window) -> float:
    """Multiply-adds times two of one window through the decoder layers, without the language-model head."""
    length = len(window.token_ids)
    weights = sum(p.numel() for name, p in model.model.named_parameters() if ".layers." in name and p.ndim == 2)
    last = model.layers[-1]
    attention = 2 * 2 * length * (length + 1) / 2 * last.d * len(model.layers)
    return 2 * (weights - last.weight.numel()) * length + attention


def layer_groups(model: models.LanguageModel, tokens: int = 2048, layers_at_once: int = 6) -> dict:
    """C with a limit on its memory: how much is held, how long it takes, and whether the sums are those of one pass."""
    widest = max(layer.d_m for layer in model.layers)
    limit = 8 * widest**2 * layers_at_once
    began = time.perf_counter()
    held, passes, sums = 0, 0, {}
    for found in moments.in_groups(model, "book", tokens=tokens, memory=limit, cache=False):
        held = max(held, sum(outer.nbytes for outer in found.outer.values()))
        sums |= {index: float(outer.sum()) for index, outer in found.outer.items()}
        passes += 1
    grouped_seconds = time.perf_counter() - began
    began = time.perf_counter()
    whole = moments.estimate(model, "book", tokens=tokens, cache=False)
    return {
        "tokens": tokens,
        "limit_mib": round(limit / 2**20, 1),
        "passes": passes,
        "held_mib": round(held / 2**20, 1),
        "held_mib_one_pass": round(sum(outer.nbytes for outer in whole.outer.values()) / 2**20, 1),
        "seconds": round(grouped_seconds, 2),
        "seconds_one_pass": round(time.perf_counter() - began, 2),
        "same_sums": all(float(outer.sum()) == sums[index] for index, outer in whole.outer.items()),
    }


def c_pass(model: models.LanguageModel, tokens: int, repeats: int) -> tuple[moments.Moments, dict, dict[str, float]]:
    """The sums for C, the record's entry of the pass with its floors, and the rates, the mean of all."""
    cut = text.windows(text.read("book"), model.tokenizer, tokens=tokens)
    forward = sum(forward_flops(model, window) for window in cut)
    moment = sum(layer.d_m * (layer.d_m + 1) for layer in model.layers) * sum(window.counted for window in cut)
    rates, rows = [machine.rates()], []
    for _ in range(repeats):
        began = time.perf_counter()
        summed = moments.estimate(model, "book", tokens=tokens, cache=False)
        seconds = time.perf_counter() - began
        rates.append(machine.rates())
        here = {name: statistics.mean((rates[-2][name], rates[-1][name])) for name in rates[0]}
        floor = forward / here["float32"] + moment / here["float64"]
        rows.append((seconds, floor, seconds / floor, seconds / ((forward + moment) / here["float32"])))
    seconds, floor, ratio, ratio_float32 = (statistics.median(column) for column in zip(*rows, strict=True))
    entry = {
        "seconds": round(seconds, 2),
        "seconds_each": [round(row[0], 2) for row in rows],
        "floor_seconds": round(floor, 2),
        "ratio": round(ratio, 3),
        "ratio_each": [round(row[2], 3) for row in rows],
        "ratio_float32": round(ratio_float32, 3),
        "forward_tflop": round(forward / 1e12, 3),
        "moment_tflop": round(moment / 1e12, 3),
        "peak_memory_mib": records.provenance(command="", device=model.device)["peak_memory_mib"],
    }
    return summed, entry, {name: statistics.mean(rate[name] for rate in rates) for name in rates[0]}


def change_of_P(model: models.LanguageModel, listed: list[facts.Fact], tokens: int) -> float:
    """The largest change of P, of all layers, that multiplying the moments in float32 makes."""
    cut = text.windows(text.read("book"), model.tokenizer, tokens=tokens)
    wide = {layer.index: torch.zeros(layer.d_m, layer.d_m, dtype=torch.float64) for layer in model.layers}

    def receive(layer: models.Layer, found: torch.Tensor) -> None:
        K = found[0, window.first : window.stop].double()  # (tokens, d_m)
        wide[layer.index] += K.T @ K

    for window in cut:
        ids = torch.tensor([window.token_ids])
        model.read_keys(ids, torch.ones_like(ids), model.layers, receive)
    narrow, read = moments.of_windows(model, cut, batch=1, cache=False), keys.extract(model, listed)
    changes = []
    for layer, exact in wide.items():
        C = exact.numpy() / narrow.tokens
        one, other = (overlap.measure(read[layer], Metric(each)).P for each in (C, narrow.second_moment(layer)))
        changes.append(float(np.abs(one - other).max()))
    return max(changes)


def keys_and_P(
    model: models.LanguageModel, listed: list[facts.Fact], summed: moments.Moments
) -> tuple[list[Float[np.ndarray, "m m"]], float, float]:
    """P of every layer, and the seconds of the keys and of P."""
    began = time.perf_counter()
    read = keys.extract(model, listed)
    read_at = time.perf_counter()
    P = [overlap.measure(read[i], Metric(summed.second_moment(i))).P for i in (layer.index for layer in model.layers)]
    return P, read_at - began, time.perf_counter() - read_at


def papers_procedure(
    model: models.LanguageModel,
    listed: list[facts.Fact],
    summed: moments.Moments,
    P: list[Float[np.ndarray, "m m"]],
    few: int,
) -> tuple[list[int], float, float, float]:
    """The paper's procedure for a few facts at three layers: these, the largest difference of P, and two seconds.

    The seconds are those of a pass for one pair, and those of an inverse of C.
    """
    chosen = sorted({0, len(model.layers) // 2, len(model.layers) - 1})
    worst, pass_seconds = 0.0, []
    for layer in chosen:
        slow, seconds = paper_procedure.superposition_of_pairs(model, layer, listed[:few], summed.second_moment(layer))
        worst = max(worst, float(np.abs(slow - P[layer][:few, :few]).max()))
        pass_seconds.append(seconds)
    began = time.perf_counter()
    np.linalg.inv(summed.second_moment(0))
    return chosen, worst, statistics.mean(pass_seconds), time.perf_counter() - began


def report(data: dict) -> None:
    c, groups, paper = (data[name] for name in ("c_pass", "memory", "paper"))
    if min(c["ratio_each"]) < 1:
        print(
            "A pass was faster than its floor: the machine's rates changed meanwhile. Measure again when it is quiet."
        )
    print(f"C, {data['layers']} layers, {data['tokens']:,} tokens: {c['seconds']} s, floor {c['floor_seconds']} s:")
    print(
        f"  {c['ratio']} of it ({c['ratio_float32']} of the floor in float32), peak memory {c['peak_memory_mib']} MiB; "
        f"moments in float32 change P by {c['change_of_P']:.0e} at most"
    )
    print(
        f"C in {groups['passes']} passes: {groups['held_mib']} MiB held in place of {groups['held_mib_one_pass']}, "
        f"{groups['seconds']} s in place of {groups['seconds_one_pass']}, the same sums: {groups['same_sums']}"
    )
    print(
        f"keys of {data['facts']} facts: {data['keys_seconds']} s; P of {data['layers']} layers: {data['p_seconds']} s"
    )
    print(
        f"the paper's procedure: {paper['seconds_a_pass']} s a pass, so {paper['scaled_hours']} h; "
        f"same P within {paper['largest_difference_of_P']:.1e}; {paper['cost_ratio']:,} times our keys and P"
    )
    print(machine.told(data["load"]))


def measured(model: models.LanguageModel, listed: list[facts.Fact], options: argparse.Namespace) -> dict:
    """The record's numbers, one thing timed after the other; keys, P and layer groups by their median as well."""
    layers = len(model.layers)
    summed, c_entry, rate = c_pass(model, options.tokens, options.repeats)
    runs = [keys_and_P(model, listed, summed) for _ in range(options.repeats)]
    P, (keys_seconds, p_seconds) = runs[0][0], np.median([run[1:] for run in runs], axis=0)
    chosen, worst, pass_seconds, inverse_seconds = papers_procedure(model, listed, summed, P, options.slice)
    paper_seconds = layers * ((options.facts**2 + options.facts) * pass_seconds + inverse_seconds)
    c_entry["change_of_P"] = float(f"{change_of_P(model, listed, options.tokens):.1e}")
    return {
        "kind": "benchmark",
        "model": records.header(model, architecture=False),
        "tokens": summed.tokens,
        "facts": len(listed),
        "layers": layers,
        "repeats": options.repeats,
        "matmul_gflops": machine.gflops(rate),
        "reading_gib_a_second": round(rate["reading"] / 2**30, 1),
        "c_pass": c_entry,
        "memory": layer_groups(model),
        "keys_seconds": round(keys_seconds, 2),
        "p_seconds": round(p_seconds, 2),
        "paper": {
            "slice_facts": options.slice,
            "slice_layers": chosen,
            "seconds_a_pass": round(pass_seconds, 4),
            "scaled_hours": round(paper_seconds / 3600, 2),
            "largest_difference_of_P": float(f"{worst:.2e}"),
            "cost_ratio": round(paper_seconds / (keys_seconds + p_seconds)),
        },
    }


def main() -> None:
    parser = machine.parser(__doc__, "passes for C, and of what else is timed")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=24_576)
    parser.add_argument("--facts", type=int, default=128)
    parser.add_argument("--slice", type=int, default=3, help="facts in the slice of the paper's procedure")
    options = parser.parse_args()

    print(machine.said(machine.rates()))
    model = models.load(options.model)
    with machine.load() as load:
        data = measured(model, facts.load("book", limit=options.facts), options)
    machine.keep(data, load, model.device, options.out)
    report(data)


if __name__ == "__main__":
    main()
