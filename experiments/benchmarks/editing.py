"""How long does an edit take: the target value, the writing, several at once, and the other methods.

    python experiments/benchmarks/editing.py --out book/records/benchmark-editing.json

Two floors stand beside the search for target values: the time that its multiplications would take at this machine's
measured matrix-multiply rate, and the time to read the weights that its passes need at the measured rate of reading.
A pass over a handful of tokens is bound by the second. Seconds are by the clock on the wall, with as many threads as
PyTorch takes by itself; ``one_thread`` has the same edits by one. Each search is the median of several.
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

sys.path.insert(0, str(Path(__file__).resolve().parent))
import machine
from superposition import editing, records
from superposition.data import facts
from superposition.editing import targets
from superposition.linear.memory import RULES, LinearMemory
from superposition.linear.metric import Metric
from superposition.lm import keys, models, moments, scoring

#: Edits whose target values are searched in one pass.
AT_ONCE = 16


def bytes_a_step(model: models.LanguageModel, layer: int) -> int:
    """What one step of the search reads: the decoder layers from ``layer`` up and the head, forwards and backwards."""
    above = {id(p): p for one in model.layers[layer:] for p in model.block(one).parameters()}
    head = model.model.get_output_embeddings().weight
    return 2 * sum(p.numel() * p.element_size() for p in [*above.values(), head])


def seconds_of(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one call, and what it returns."""
    began = time.perf_counter()
    found = run()
    return time.perf_counter() - began, found


def median_of(run: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """The median of the seconds of several calls, and what the last returns."""
    runs = [seconds_of(run) for _ in range(repeats)]
    return statistics.median(seconds for seconds, _ in runs), runs[-1][1]


def writing(model: models.LanguageModel, layer: int, C: np.ndarray, found: editing.Targets) -> dict[str, float]:
    """Seconds an edit of every method's writing, given the target values; the first edit, which factorises, apart."""
    spent = {}
    for method in editing.METHODS:
        if method == "ft":
            continue
        with editing.preserved(model):
            editor = editing.Editor(model, layer, method, C=C)
            times = [seconds_of(lambda i=i, e=editor: e.store(found[i]))[0] for i in range(len(found))]
        spent[method] = statistics.median(times[2:])  # the second edit makes the state that stands for those before
    return spent


def by_history(width: int, answers: int, edits: int, every: int) -> dict[str, list[float]]:
    """Seconds an edit of writing a long sequence of random values, by rule: the median of every so many edits."""
    rng = np.random.default_rng(0)
    text = rng.standard_normal((width, 3 * width))
    C = Metric(text @ text.T / text.shape[1])
    keys, values = rng.standard_normal((width, edits)), rng.standard_normal((answers, edits))
    options: dict[str, dict[str, Any]] = {rule: {} for rule in RULES}
    options["memit"] = options["memit-history"] = options["rls-soft"] = {"weight": 1 / width}
    options["alphaedit"] = dict(
        zip(("projector", "ridge"), editing.null_space(C.moment, editing.EditSettings()), strict=True)
    )
    spent = {}
    for rule, chosen in options.items():
        memory, times = LinearMemory(np.zeros((answers, width)), C), []
        for i in range(edits):
            run = lambda i=i: memory.edit(keys[:, i], values[:, i], rule, **chosen)  # noqa: B023, E731
            times.append(seconds_of(run)[0])
        parts = np.array(times).reshape(-1, every)
        spent[rule] = [round(float(median), 5) for median in np.median(parts, axis=1)]
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
    model: models.LanguageModel, listed: list[facts.Fact], layer: int, repeats: int = 1, **how: Any
) -> list[tuple[float, editing.Targets]]:
    """Seconds of the search for the target value of each fact, and what it gives."""
    return [median_of(lambda fact=fact: targets.search(model, [fact], layer, **how), repeats) for fact in listed]


def flops_of_search(model: models.LanguageModel, fact: facts.Fact, layer: int) -> int:
    with machine.counter() as counter:
        targets.search(model, [fact], layer)
    return counter.get_total_flops()


def largest_difference(searches: Sequence[editing.Targets], others: Sequence[editing.Targets]) -> float:
    """Of shifts (d, 1), as a share of the first's length, to two digits."""
    pairs = zip(searches, others, strict=True)
    shares = [float(np.linalg.norm(a.shifts - b.shifts) / np.linalg.norm(a.shifts)) for a, b in pairs]
    return float(f"{max(shares):.1e}")


def parsed() -> argparse.Namespace:
    parser = machine.parser(__doc__, "searches for each target")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--layer", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=24_576)
    parser.add_argument("--facts", type=int, default=16)
    parser.add_argument("--slow", type=int, default=3, help="facts whose target values are searched without shortcuts")
    parser.add_argument("--edits", type=int, default=1000, help="of the long sequences whose writing is timed")
    return parser.parse_args()


def measured(
    model: models.LanguageModel, options: argparse.Namespace, listed: list[facts.Fact], C: np.ndarray
) -> dict[str, Any]:
    """The record's numbers: every search and every writing, one after the other."""
    layer, few, threads = options.layer, listed[: options.slow], torch.get_num_threads()
    targets.search(model, listed[:1], layer)  # the first pass of a process pays for its start
    rates = [machine.rates()]
    alone = each_alone(model, listed, layer, options.repeats)
    rates.append(machine.rates())
    together, at_once = median_of(lambda: targets.search(model, listed, layer, batch=AT_ONCE), options.repeats)
    plain = each_alone(model, few, layer, cached=False)
    torch.set_num_threads(1)
    one_thread = [seconds for seconds, _ in each_alone(model, listed, layer)]
    torch.set_num_threads(threads)
    narrow = models.load(options.model, dtype="bfloat16")
    targets.search(narrow, listed[:1], layer)
    in_bfloat16 = [spent for spent, _ in each_alone(narrow, listed, layer)]
    spent = writing(model, layer, C, at_once)
    tuned = [seconds_of(lambda fact=fact: fine_tuned(model, layer, fact))[0] for fact in few]
    memory = model.layers[layer]

    rate = {name: statistics.mean(each[name] for each in rates) for name in rates[0]}
    seconds, searched = zip(*alone, strict=True)
    first, steps = int(searched[0].steps[0]), statistics.mean(int(each.steps[0]) for each in searched)
    floor_multiplying = flops_of_search(model, listed[0], layer) / rate["float32"] * steps / first
    return {
        "threads": threads,
        "repeats": options.repeats,
        "matmul_gflops": round(rate["float32"] / 1e9, 1),
        "reading_gib_a_second": round(rate["reading"] / 2**30, 1),
        "target": {
            "seconds_alone": round(statistics.mean(seconds), 2),
            "seconds_alone_most": round(max(seconds), 2),
            "seconds_alone_median": round(statistics.median(seconds), 2),
            "seconds_at_once": round(together / len(listed), 2),
            "seconds_alone_bfloat16": round(statistics.mean(in_bfloat16), 2),
            "steps": steps,
            "floor_multiplying": round(floor_multiplying, 3),
            "floor_reading": round(bytes_a_step(model, layer) * (steps + 0.5) / rate["reading"], 3),
            "seconds_without_shortcuts": round(statistics.mean(spent for spent, _ in plain), 2),
            "same_facts_with_shortcuts": round(statistics.mean(seconds[: len(plain)]), 2),
            "difference_at_once": largest_difference(searched, [at_once[i] for i in range(len(at_once))]),
            "difference_without_shortcuts": largest_difference([each for _, each in plain], searched[: len(plain)]),
        },
        "writing": {method: round(median, 4) for method, median in spent.items()},
        "rome_edit_seconds": round(statistics.mean(seconds) + spent["rome"], 2),
        "rome_edit_seconds_most": round(max(seconds) + spent["rome"], 2),
        "one_thread": {
            "rome_edit_seconds": round(statistics.mean(one_thread) + spent["rome"], 2),
            "rome_edit_seconds_most": round(max(one_thread) + spent["rome"], 2),
        },
        "fine_tuning_seconds": round(statistics.mean(tuned), 2),
        "sequence": {
            "edits": options.edits,
            "every": options.edits // 10,
            "seconds_an_edit": by_history(memory.d_m, memory.d, options.edits, options.edits // 10),
        },
    }


def report(data: dict[str, Any]) -> None:
    target = data["target"]
    print(
        f"a ROME edit: {data['rome_edit_seconds']} s (most {data['rome_edit_seconds_most']}), the target value "
        f"{target['seconds_alone']}; {AT_ONCE} at once {target['seconds_at_once']} each; floors "
        f"{target['floor_multiplying']} (multiplying), {target['floor_reading']} (reading)"
    )
    print(f"on one thread: {data['one_thread']}")
    print(f"without shortcuts {target['seconds_without_shortcuts']} s for {target['same_facts_with_shortcuts']}")
    print(f"writing {data['writing']}; fine-tuning {data['fine_tuning_seconds']} s an edit")
    for rule, seconds in data["sequence"]["seconds_an_edit"].items():
        print(f"the first and last tenth of {data['sequence']['edits']} edits by {rule}: {seconds[0]}, {seconds[-1]} s")
    print(machine.told(data["load"]))


def main() -> None:
    options = parsed()
    print(machine.said(machine.rates()))
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
    with machine.load() as load:
        data |= measured(model, options, listed, C)
    machine.keep(data, load, model.device, options.out)
    report(data)


if __name__ == "__main__":
    main()
