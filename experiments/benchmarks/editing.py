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
from collections.abc import Callable, Sequence
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


def drawn(model: models.LanguageModel, count: int) -> list[facts.Fact]:
    """Facts that the model knows, none with its key at position 0, drawn from the seed 0."""
    known = scoring.known(model, facts.load("book"))
    sinks = [token.position == 0 for token in keys.locate_all(model, known)]
    listed = [fact for fact, sink in zip(known, sinks, strict=True) if not sink]
    return [listed[i] for i in np.random.default_rng(0).permutation(len(listed))[:count]]


def each_alone(
    model: models.LanguageModel, listed: list[facts.Fact], layer: int, **how: Any
) -> list[tuple[float, editing.Targets]]:
    """Seconds of the search for the target value of each fact, and what it gives."""
    return [seconds_of(lambda fact=fact: targets.search(model, [fact], layer, **how)) for fact in listed]


def by_the_wall(model: models.LanguageModel, listed: list[facts.Fact], layer: int, threads: int = 2) -> list[float]:
    """Seconds on the wall of the same searches by several threads; one thread afterwards."""
    torch.set_num_threads(threads)
    seconds = []
    for fact in listed:
        began = time.perf_counter()
        targets.search(model, [fact], layer)
        seconds.append(time.perf_counter() - began)
    torch.set_num_threads(1)
    return seconds


def flops_of_search(model: models.LanguageModel, fact: facts.Fact, layer: int) -> int:
    with FlopCounterMode(display=False) as counter:
        targets.search(model, [fact], layer)
    return counter.get_total_flops()


def largest_difference(searches: Sequence[editing.Targets], others: Sequence[editing.Targets]) -> float:
    """Of shifts (d, 1), as a share of the first's length, to two digits."""
    pairs = zip(searches, others, strict=True)
    shares = [float(np.linalg.norm(a.shifts - b.shifts) / np.linalg.norm(a.shifts)) for a, b in pairs]
    return float(f"{max(shares):.1e}")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--layer", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=24_576)
    parser.add_argument("--facts", type=int, default=16)
    parser.add_argument("--slow", type=int, default=3, help="facts whose target values are searched without shortcuts")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def measure(
    model: models.LanguageModel, name: str, layer: int, listed: list[facts.Fact], C: np.ndarray, slow: int
) -> dict[str, Any]:
    """The record's numbers: every search and every writing, one after the other."""
    few = listed[:slow]
    targets.search(model, listed[:1], layer)  # the first pass of a process pays for its start
    rates = [(matmul_rate(torch.float32), reading_rate())]
    alone = each_alone(model, listed, layer)
    rates.append((matmul_rate(torch.float32), reading_rate()))
    together, at_once = seconds_of(lambda: targets.search(model, listed, layer, batch=AT_ONCE))
    on_two = by_the_wall(model, listed, layer)
    plain = each_alone(model, few, layer, cached=False)
    narrow = models.load(name, dtype="bfloat16")
    targets.search(narrow, listed[:1], layer)
    in_bfloat16 = [spent for spent, _ in each_alone(narrow, listed, layer)]
    spent = writing(model, layer, C, at_once)
    tuned = [seconds_of(lambda fact=fact: fine_tuned(model, layer, fact))[0] for fact in few]

    flops, reading = (statistics.mean(rate) for rate in zip(*rates, strict=True))
    seconds, searched = zip(*alone, strict=True)
    first, steps = int(searched[0].steps[0]), statistics.mean(int(each.steps[0]) for each in searched)
    return {
        "matmul_gflops": round(flops / 1e9, 1),
        "reading_gib_a_second": round(reading / 2**30, 1),
        "target": {
            "seconds_alone": round(statistics.mean(seconds), 2),
            "seconds_alone_most": round(max(seconds), 2),
            "seconds_alone_median": round(statistics.median(seconds), 2),
            "seconds_at_once": round(together / len(listed), 2),
            "seconds_alone_bfloat16": round(statistics.mean(in_bfloat16), 2),
            "steps": steps,
            "floor_multiplying": round(flops_of_search(model, listed[0], layer) / flops * steps / first, 3),
            "floor_reading": round(bytes_a_step(model, layer) * (steps + 0.5) / reading, 3),
            "seconds_without_shortcuts": round(statistics.mean(spent for spent, _ in plain), 2),
            "same_facts_with_shortcuts": round(statistics.mean(seconds[: len(plain)]), 2),
            "difference_at_once": largest_difference(searched, [at_once[i] for i in range(len(at_once))]),
            "difference_without_shortcuts": largest_difference([each for _, each in plain], searched[: len(plain)]),
        },
        "writing": {method: round(mean, 4) for method, mean in spent.items()},
        "rome_edit_seconds": round(statistics.mean(seconds) + spent["rome"], 2),
        "rome_edit_seconds_most": round(max(seconds) + spent["rome"], 2),
        "rome_edits_within_4_seconds": sum(one + spent["rome"] <= 4 for one in seconds),
        "two_threads": {
            "rome_edit_seconds": round(statistics.mean(on_two) + spent["rome"], 2),
            "rome_edit_seconds_most": round(max(on_two) + spent["rome"], 2),
        },
        "fine_tuning_seconds": round(statistics.mean(tuned), 2),
    }


def report(data: dict[str, Any]) -> None:
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


def main() -> None:
    options = parsed()
    torch.set_num_threads(1)
    model, layer = models.load(options.model), options.layer
    listed = drawn(model, options.facts)
    C = moments.estimate(model, "book", tokens=options.tokens, layers=[layer]).second_moment(layer)
    data = {
        "kind": "benchmark",
        "model": records.header(model, architecture=False),
        "layer": layer,
        "facts": len(listed),
        "at_once": AT_ONCE,
    }
    data |= measure(model, options.model, layer, listed, C, options.slow)
    data["provenance"] = records.provenance(
        command="python " + " ".join(["experiments/benchmarks/editing.py", *sys.argv[1:]]), device=model.device
    )
    if options.out:
        records.write(options.out, data)
    report(data)


if __name__ == "__main__":
    main()
