"""How long does an edit take: the target value, the writing, several at once, and the other methods.

    python experiments/benchmarks/editing.py --out book/records/benchmark-editing.json

Two floors stand beside the search for target values: the time that its multiplications would take at this machine's
measured matrix-multiply rate, and the time to read the weights that its passes need at the measured rate of reading.
A pass over a handful of tokens is bound by the second. All is done by one thread, and seconds are the processor's; only
``two_threads`` is by the clock on the wall, for the same edits by two threads.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent))
from measuring import matmul_rate
from superposition import editing, records
from superposition.data import facts
from superposition.editing import targets
from superposition.lm import keys, models, moments, scoring

#: Edits whose target values are searched in one pass.
AT_ONCE = 8


def reading_rate(megabytes: int = 256, repeats: int = 7) -> float:
    """Bytes a second of reading a matrix once, for its product with a vector: the best of several."""
    A = torch.ones(megabytes * 2**20 // 4 // 1024, 1024)
    x = torch.ones(1024)
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        A @ x
        best = min(best, time.perf_counter() - began)
    return 4 * A.numel() / best


def bytes_a_step(model: models.LanguageModel, layer: int) -> int:
    """What one step of the search reads: the decoder layers from ``layer`` up and the head, forwards and backwards."""
    above = {id(p): p for one in model.layers[layer:] for p in model.block(one).parameters()}
    head = model.model.get_output_embeddings().weight
    return 2 * sum(p.numel() * p.element_size() for p in [*above.values(), head])


def seconds_of(run: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time of one call, all threads together, and what it returns."""
    began = time.process_time()
    found = run()
    return time.process_time() - began, found


def writing(model: models.LanguageModel, layer: int, C: np.ndarray, found: editing.Targets) -> dict[str, float]:
    """Seconds an edit of every method's writing, given the target values; the first edit, which factorises, apart."""
    spent = {}
    for method in editing.METHODS:
        if method == "ft":
            continue
        with editing.preserved(model):
            editor = editing.Editor(model, layer, method, C=C)
            times = [seconds_of(lambda i=i, e=editor: e.store(found[i]))[0] for i in range(len(found))]
        spent[method] = statistics.mean(times[1:])
    return spent


def fine_tuned(model: models.LanguageModel, layer: int, fact: facts.Fact) -> None:
    with editing.preserved(model):
        editing.FineTuner(model, layer).edit([fact])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--layer", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=24_576)
    parser.add_argument("--facts", type=int, default=16)
    parser.add_argument("--slow", type=int, default=3, help="facts whose target values are searched without shortcuts")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    torch.set_num_threads(1)
    model = models.load(options.model)
    layer = options.layer
    listed = scoring.known(model, facts.load("book"))
    sinks = [found.position == 0 for found in keys.locate_all(model, listed)]
    listed = [fact for fact, sink in zip(listed, sinks, strict=True) if not sink]
    rng = np.random.default_rng(0)
    listed = [listed[i] for i in rng.permutation(len(listed))[: options.facts]]
    C = moments.estimate(model, "book", tokens=options.tokens, layers=[layer]).second_moment(layer)
    targets.search(model, listed[:1], layer)  # the first pass of a process pays for its start
    rates = [(matmul_rate(torch.float32), reading_rate())]

    alone = [seconds_of(lambda fact=fact: targets.search(model, [fact], layer)) for fact in listed]
    rates.append((matmul_rate(torch.float32), reading_rate()))
    together, at_once = seconds_of(lambda: targets.search(model, listed, layer, batch=AT_ONCE))
    torch.set_num_threads(2)
    on_two = []
    for fact in listed:
        began = time.perf_counter()
        targets.search(model, [fact], layer)
        on_two.append(time.perf_counter() - began)
    torch.set_num_threads(1)
    few = listed[: options.slow]
    slow = [seconds_of(lambda fact=fact: targets.search(model, [fact], layer, cached=False)) for fact in few]
    narrow = models.load(options.model, dtype="bfloat16")
    targets.search(narrow, listed[:1], layer)
    in_bfloat16 = [seconds_of(lambda fact=fact: targets.search(narrow, [fact], layer))[0] for fact in listed]
    spent = writing(model, layer, C, at_once)
    tuned = [seconds_of(lambda fact=fact: fine_tuned(model, layer, fact))[0] for fact in few]
    with FlopCounterMode(display=False) as counter:
        targets.search(model, listed[:1], layer)
    flops, reading = (statistics.mean(one) for one in zip(*rates, strict=True))
    steps = [int(found.steps[0]) for _, found in alone]
    seconds = [one for one, _ in alone]
    differences = [
        float(np.linalg.norm(found.shifts - at_once.shifts[:, [i]]) / np.linalg.norm(found.shifts))
        for i, (_, found) in enumerate(alone)
    ]
    slow_differences = [
        float(np.linalg.norm(found.shifts - one.shifts) / np.linalg.norm(found.shifts))
        for (_, found), (_, one) in zip(slow, alone, strict=False)
    ]
    data = {
        "kind": "benchmark",
        "model": records.header(model, architecture=False),
        "layer": layer,
        "facts": len(listed),
        "at_once": AT_ONCE,
        "matmul_gflops": round(flops / 1e9, 1),
        "reading_gib_a_second": round(reading / 2**30, 1),
        "target": {
            "seconds_alone": round(statistics.mean(seconds), 2),
            "seconds_alone_most": round(max(seconds), 2),
            "seconds_alone_median": round(statistics.median(seconds), 2),
            "seconds_at_once": round(together / len(listed), 2),
            "seconds_alone_bfloat16": round(statistics.mean(in_bfloat16), 2),
            "steps": statistics.mean(steps),
            "floor_multiplying": round(counter.get_total_flops() / flops * statistics.mean(steps) / steps[0], 3),
            "floor_reading": round(bytes_a_step(model, layer) * (statistics.mean(steps) + 0.5) / reading, 3),
            "seconds_without_shortcuts": round(statistics.mean(one for one, _ in slow), 2),
            "same_facts_with_shortcuts": round(statistics.mean(seconds[: len(slow)]), 2),
            "difference_at_once": float(f"{max(differences):.1e}"),
            "difference_without_shortcuts": float(f"{max(slow_differences):.1e}"),
        },
        "writing": {name: round(one, 4) for name, one in spent.items()},
        "rome_edit_seconds": round(statistics.mean(seconds) + spent["rome"], 2),
        "rome_edit_seconds_most": round(max(seconds) + spent["rome"], 2),
        "rome_edits_within_4_seconds": sum(one + spent["rome"] <= 4 for one in seconds),
        "two_threads": {
            "rome_edit_seconds": round(statistics.mean(on_two) + spent["rome"], 2),
            "rome_edit_seconds_most": round(max(on_two) + spent["rome"], 2),
        },
        "fine_tuning_seconds": round(statistics.mean(tuned), 2),
        "provenance": records.provenance(
            command="python " + " ".join(["experiments/benchmarks/editing.py", *sys.argv[1:]]), device=model.device
        ),
    }
    if options.out:
        records.write(options.out, data)
    target = data["target"]
    print(f"matrix multiply {data['matmul_gflops']} GFLOP/s, reading {data['reading_gib_a_second']} GiB/s")
    print(
        f"a ROME edit: {data['rome_edit_seconds']} s (most {data['rome_edit_seconds_most']}), the target value "
        f"{target['seconds_alone']}; {AT_ONCE} at once {target['seconds_at_once']} each; floors "
        f"{target['floor_multiplying']} (multiplying), {target['floor_reading']} (reading)"
    )
    print(f"on two threads: {data['two_threads']}")
    print(f"without shortcuts {target['seconds_without_shortcuts']} s for {target['same_facts_with_shortcuts']}")
    print(f"writing {data['writing']}; fine-tuning {data['fine_tuning_seconds']} s an edit")


if __name__ == "__main__":
    main()
