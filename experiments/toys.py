"""Make the records of the toy chapters: a memory's sequences of edits, and grids of autoencoders.

python experiments/toys.py {memory,autoencoders} --out book/records/NAME.json
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from superposition import records, toys

SEEDS = 20
FEW = 5
LOADS = (0.5, 1.0, 1.5, 2.0, 4.0, 16.0)
LOAD_STOPS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 72, 96, 144, 192)
GROWTH_STOPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 72, 96, 128, 192, 256, 384)

SMALL = [1.0, 0.5, 0.2, 0.1, 0.05]
ASPECTS = [round(float(x), 3) for x in np.geomspace(0.1, 10, 13)]
DENSITIES = [round(float(x), 3) for x in np.geomspace(0.05, 1, 13)]
GEOMETRIES = {  # features, dimensions, density, spread of the initial weights
    "6 in 3": (6, 3, 0.05, 0.1),
    "5 in 2": (5, 2, 0.05, 0.1),
    "24 in 16": (24, 16, 0.55, 1.0),
    "8 in 3": (8, 3, 0.05, 0.1),
}
SPARSITY = [1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 25.0, 50.0]
BRIDGE = [(m, q) for q in (0.02, 0.05, 0.1, 0.3) for m in (32, 64, 128, 256)]
RELATIONS = (0, 4, 8, 16)


def by_seed(function: Callable[[int], Any]) -> np.ndarray:
    return np.array([function(seed) for seed in range(SEEDS)])


def memory() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    kinds = {kind: [toys.spread_of_damage(kind, seed) for seed in range(SEEDS)] for kind in toys.KINDS}
    arrays = {"loads": np.array([by_seed(lambda s, x=x: toys.forget(x, s, LOAD_STOPS)) for x in LOADS])}
    arrays["arms"] = np.array([by_seed(lambda s, x=x: toys.grow(x, s, GROWTH_STOPS)) for x in toys.ARMS])
    arrays["earlier"] = by_seed(lambda s: toys.suffer(s))
    stops = {"loads": LOAD_STOPS, "arms": GROWTH_STOPS}
    return {"kinds": kinds, "loads": LOADS, "arms": list(toys.ARMS), "stops": stops}, arrays


def autoencoders() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    def say(what: str) -> None:
        print(f"{what} {time.perf_counter() - start:.0f} s", flush=True)

    start = time.perf_counter()
    arrays: dict[str, np.ndarray] = {}
    small = toys.train_autoencoders(5, 2, SMALL, importance=0.9 ** np.arange(5), seeds=range(SEEDS), rate=2e-2)
    arrays["small_W"], arrays["small_loss"] = small.W, small.loss
    say("small")
    pairs = [(r, q) for r in ASPECTS for q in DENSITIES]
    importance = np.array([(1.0, r) for r, _ in pairs])
    plane = toys.train_autoencoders(2, 1, [q for _, q in pairs], importance=importance, seeds=range(SEEDS), steps=1500)
    W, b = plane.W[:, :, 0].astype(np.float64), plane.b.astype(np.float64)
    q = np.array([q for _, q in pairs])
    exact = np.array([toys.pair_loss(*one, q, importance) for one in zip(W, b, strict=True)])
    arrays["plane_loss"] = exact.reshape(SEEDS, len(ASPECTS), len(DENSITIES)).astype(np.float32)
    arrays["plane_W"] = plane.W.reshape(SEEDS, len(ASPECTS), len(DENSITIES), 2).astype(np.float16)
    say("plane")
    for name, (n, m, q, init) in GEOMETRIES.items():
        found = toys.train_autoencoders(n, m, [q], seeds=range(SEEDS), init=init, steps=1500, rate=2e-2)
        arrays[f"geometry {name}"] = found.W[:, 0]
    say("geometries")
    large = toys.train_autoencoders(200, 20, [1 / x for x in SPARSITY], seeds=range(FEW), steps=2500, rate=5e-3)
    W = large.W.astype(np.float64)
    arrays["large_D"] = toys.feature_dimensionality(W).astype(np.float16)
    arrays["large_norm"] = np.linalg.norm(W, axis=-2).astype(np.float16)
    statistics = [[toys.features_as_keys(W[s, c], 1 / x) for c, x in enumerate(SPARSITY)] for s in range(FEW)]
    say("large")
    bridge = [[toys.bridge(m, q, seed) for seed in range(SEEDS // 2)] for m, q in BRIDGE]
    shared = [[toys.bridge(128, 0.03, seed, relations=x) for seed in range(SEEDS // 2)] for x in RELATIONS]
    say("bridge")
    data = {"small": SMALL, "aspects": ASPECTS, "densities": DENSITIES, "geometries": GEOMETRIES, "sparsity": SPARSITY}
    data |= {"features_as_keys": statistics, "bridge": BRIDGE, "bridge_runs": bridge}
    return data | {"relations": RELATIONS, "relation_runs": shared}, arrays


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=("memory", "autoencoders"))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    data, arrays = {"memory": memory, "autoencoders": autoencoders}[arguments.which]()
    command = f"python experiments/toys.py {arguments.which} --out {arguments.out}"
    data = {"kind": "toys", "seeds": SEEDS} | records.rounded(data, 6)
    data["seconds"] = round(time.perf_counter() - start, 1)
    data["provenance"] = records.provenance(command=command, seed=0)
    records.write(arguments.out, data, arrays)
    print(f"{arguments.out}: {data['seconds']} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
