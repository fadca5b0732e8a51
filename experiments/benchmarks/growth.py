"""How time and memory grow with tokens, layers, width, facts and edits, beside what the operations alone would take.

    python experiments/benchmarks/growth.py --out book/records/benchmark-growth.json

Each size runs in two processes of its own. The first is timed. In the second a thread looks every few milliseconds at
how much memory the process holds: the most, less what it held before, is the size's memory; large arrays are given
back at once there (on Linux), so that an earlier one does not hide a later one. Models are random, and so is their
text: time does not depend on what they say. Keys of facts are those of the default model.

An exponent is the slope of a least-squares line through the logarithms.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import machine
from editing import median_of
from superposition import editing
from superposition.data import facts
from superposition.data.text import Window
from superposition.linear import overlap
from superposition.linear.memory import LinearMemory
from superposition.linear.metric import Metric
from superposition.lm import keys as reading
from superposition.lm import models, moments, products

#: Of a random model, unless a series says otherwise; keys are three times as wide as the residual stream.
LAYERS, WIDTH, TOKENS, LENGTH, SPREAD = 4, 256, 4096, 256, 3
#: Of keys without a model.
KEYS, FACTS, ANSWERS = 1536, 128, 576


def random_model(layers: int, width: int) -> models.LanguageModel:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": width, "intermediate_size": SPREAD * width, "num_hidden_layers": layers}
    sizes |= {"num_attention_heads": width // 32, "num_key_value_heads": width // 64, "vocab_size": 512}
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes), dtype=torch.float32)
    made.eval().requires_grad_(False)
    products.use(made)
    return models.LanguageModel(made, None, models.find_layers(made), "random")


def second_moments(tokens: int = TOKENS, layers: int = LAYERS, width: int = WIDTH) -> Callable[[], Any]:
    model, rng = random_model(layers, width), np.random.default_rng(0)
    cut = [Window(tuple(rng.integers(1, 512, LENGTH).tolist()), 0, LENGTH) for _ in range(tokens // LENGTH)]
    return lambda: moments.of_windows(model, cut, cache=False)


def of_moments(tokens: int = TOKENS, layers: int = LAYERS, width: int = WIDTH) -> tuple[float, float]:
    """Operations, and bytes of what is kept: the moments. The last layer's down-projection is not needed."""
    keys = SPREAD * width
    attention, mlp = 3 * width**2, 3 * keys * width  # two heads share their keys and values
    forward = 2 * tokens * (layers * (attention + mlp + LENGTH * width) - keys * width)
    return forward + tokens * layers * keys * (keys + 1), 8.0 * layers * keys**2


def keys_of_facts(count: int) -> Callable[[], Any]:
    model = models.load("smollm2")
    listed = facts.load("book", limit=count)
    return lambda: reading.extract(model, listed)


def of_keys(count: int) -> tuple[float, float]:
    """Up to a factor: a prompt costs what a prompt costs."""
    return count, count


def overlaps(count: int = FACTS, keys: int = KEYS) -> Callable[[], Any]:
    """P of some facts: C is factorised, keys whitened, their products taken."""
    rng = np.random.default_rng(0)
    K, text = rng.standard_normal((keys, count)), rng.standard_normal((keys, 2 * keys))
    C = text @ text.T / text.shape[1]
    return lambda: overlap.measure(K, Metric(C))


def of_overlaps(count: int = FACTS, keys: int = KEYS) -> tuple[float, float]:
    """Operations, and bytes of the factor, the whitened keys and P."""
    return keys**3 / 3 + keys**2 * count + 2 * count**2 * keys, 8.0 * (keys**2 + keys * count + count**2)


def sequence(rule: str, edits: int = 100, keys: int = KEYS) -> Callable[[], Any]:
    """A whole sequence of edits of a memory, one after another, targets given."""
    rng = np.random.default_rng(0)
    K, V = rng.standard_normal((keys, edits)), rng.standard_normal((ANSWERS, edits))
    C = Metric(np.diag(rng.uniform(0.5, 2, keys)))
    options: dict[str, Any] = {}
    if rule == "alphaedit":
        options = dict(zip(("projector", "ridge"), editing.null_space(C.moment, editing.EditSettings()), strict=True))

    def run() -> None:
        memory = LinearMemory(np.zeros((ANSWERS, keys)), C)
        for i in range(edits):
            memory.edit(K[:, i], V[:, i], rule, **options)

    return run


def of_sequence(rule: str, edits: int = 100, keys: int = KEYS) -> tuple[float, float]:
    """ROME solves with the factor of C and changes W; AlphaEdit uses and changes its state. Each keeps its ledger."""
    an_edit = (2 if rule == "rome" else 4) * keys**2 + 6 * ANSWERS * keys
    state = 0 if rule == "rome" else keys**2
    return edits * an_edit, 8.0 * (edits * (2 * keys + 3 * ANSWERS) + 2 * ANSWERS * keys + state)


@dataclass(frozen=True)
class Series:
    """One way to grow: what is timed, its sizes, and the operations and bytes of each."""

    make: Callable[..., Callable[[], Any]]
    cost: Callable[..., tuple[float, float]]
    by: str
    sizes: tuple[int, ...]
    fixed: tuple[Any, ...] = ()


SERIES = {
    "C by tokens": Series(second_moments, of_moments, "tokens", (2048, 4096, 8192, 16384)),
    "C by layers": Series(second_moments, of_moments, "layers", (2, 4, 8, 16)),
    "C by width": Series(second_moments, of_moments, "width", (128, 256, 512, 1024)),
    "keys by facts": Series(keys_of_facts, of_keys, "count", (64, 128, 256, 512)),
    "P by facts": Series(overlaps, of_overlaps, "count", (128, 256, 512, 1024)),
    "P by width": Series(overlaps, of_overlaps, "keys", (512, 1024, 2048, 4096)),
    "ROME by edits": Series(sequence, of_sequence, "edits", (125, 250, 500, 1000), ("rome",)),
    "AlphaEdit by edits": Series(sequence, of_sequence, "edits", (125, 250, 500, 1000), ("alphaedit",)),
    "ROME by width": Series(sequence, of_sequence, "keys", (512, 1024, 2048, 4096), ("rome",)),
}


class Watched:
    """The most memory that this process holds inside, in bytes, more than before: ``held`` at the end."""

    def __enter__(self) -> Watched:
        self.process, self.done = psutil.Process(), threading.Event()
        self.before = self.most = self.process.memory_info().rss
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.done.wait(0.002):
            self.most = max(self.most, self.process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self.most = max(self.most, self.process.memory_info().rss)
        self.done.set()
        self.thread.join()
        self.held = self.most - self.before


def point(name: str, size: int, repeats: int) -> float:
    """Of one size the seconds, the median of several runs after a first; without repeats the MiB that a run holds."""
    one = SERIES[name]
    run = one.make(*one.fixed, **{one.by: size})
    if repeats:
        run()
        return round(median_of(run, repeats)[0], 5)
    with Watched() as watched:
        kept = run()
    del kept
    return round(watched.held / 2**20, 2)


def exponent(sizes: np.ndarray, values: np.ndarray) -> float:
    """The slope of the logarithm of values by that of sizes, a least-squares line."""
    return round(float(np.polyfit(np.log(sizes), np.log(values), 1)[0]), 3)


def grown(name: str, repeats: int) -> dict[str, Any]:
    """All sizes of a series, each in a process of its own, and the exponents."""
    one, rows = SERIES[name], []
    quiet = os.environ | {"TQDM_DISABLE": "1"}
    environments = quiet, quiet | {"MALLOC_MMAP_THRESHOLD_": str(2**17)}
    for size in one.sizes:
        of = [[sys.executable, __file__, "--point", json.dumps([name, size, count])] for count in (repeats, 0)]
        told = [
            subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout
            for command, env in zip(of, environments, strict=True)
        ]
        rows.append([json.loads(line) for line in told])
        print(f"{name}, {size:,}: {rows[-1][0]} s, {rows[-1][1]} MiB", flush=True)
    sizes = np.array(one.sizes)
    operations, kept = np.transpose([one.cost(*one.fixed, **{one.by: size}) for size in one.sizes])
    times, memory = np.array(rows).T
    return {
        "sizes": list(one.sizes),
        "seconds": times.tolist(),
        "mib": memory.tolist(),
        "time": {"measured": exponent(sizes, times), "operations": exponent(sizes, operations)},
        "memory": {"measured": exponent(sizes, memory), "kept": exponent(sizes, kept)},
    }


def main() -> None:
    parser = machine.parser(__doc__, "runs of each size")
    parser.add_argument("--series", nargs="*", choices=SERIES, help="only these")
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        print(json.dumps(point(*options.point)))
        return
    rate = machine.rates()
    print(machine.said(rate))
    with machine.load() as load:
        series = {name: grown(name, options.repeats) for name in options.series or SERIES}
    data = {
        "kind": "benchmark",
        "repeats": options.repeats,
        "matmul_gflops": machine.gflops(rate),
        "series": series,
    }
    machine.keep(data, load, "cpu", options.out)
    for name, one in series.items():
        print(f"{name}: time {one['time']}, memory {one['memory']}")


if __name__ == "__main__":
    main()
