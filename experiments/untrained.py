"""Make the control record: a model of the same architecture with random weights, measured as the trained one is.

python experiments/untrained.py smollm2 --out book/records/random-smollm2.json
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from superposition import records
from superposition.data import facts, text
from superposition.linear import overlap
from superposition.linear.metric import Metric
from superposition.lm import keys, models, moments
from superposition.stats import shape
from superposition.studies import confounds, nulls

SEEDS, TOKENS = 2, 24_576


def untrained(model: models.LanguageModel, seed: int) -> models.LanguageModel:
    """A model of the same configuration with the weights that its architecture starts training from."""
    torch.manual_seed(seed)
    fresh = type(model.model)(model.model.config).to(model.dtype).eval().requires_grad_(False)
    return models.LanguageModel(fresh, model.tokenizer, models.find_layers(fresh), f"random {model.name}")


def measure(model: models.LanguageModel, listed: list[facts.Fact], layers: list[int]) -> np.ndarray:
    """Statistics by layer and list of facts, (layers, lists, 2, statistics)."""
    summed = moments.estimate(model, "book", tokens=TOKENS, layers=layers)
    found = keys.extract(model, listed, layers=layers)
    rows = []
    for layer in layers:
        products = overlap.whitened_products(found[layer], Metric(summed.second_moment(layer)))
        d_m = found[layer].shape[0]
        rows.append([nulls.of_products(products[np.ix_(i, i)], d_m) for i in lists(found).values()])
    return np.array(rows)


def lists(found: keys.Keys) -> dict[str, list[int]]:
    """The whole table; without keys at position 0; of these one for each last token."""
    inside = [i for i, token in enumerate(found.tokens) if token.position > 0]
    one_a_token = confounds.firsts([found.tokens[i].token_id for i in inside])
    return {
        "all": list(range(len(found.tokens))),
        "no position 0": inside,
        "one a last token": [inside[i] for i in one_a_token],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    start = time.perf_counter()
    trained, listed = models.load(arguments.model), facts.load("book")
    count = len(trained.layers)
    layers = sorted({round(x) for x in np.linspace(0, count - 1, 6)})
    arrays = {"trained": measure(trained, listed, layers)}
    print(f"trained {time.perf_counter() - start:.0f} s", flush=True)
    runs = []
    for seed in range(SEEDS):
        runs.append(measure(untrained(trained, seed), listed, layers))
        print(f"seed {seed} {time.perf_counter() - start:.0f} s", flush=True)
    arrays["untrained"] = np.array(runs)
    data = {
        "kind": "control",
        "layers": layers,
        "depth": count,
        "d_m": trained.layers[0].d_m,
        "lists": {name: len(i) for name, i in lists(keys.extract(trained, listed, layers=[0])).items()},
        "matrices": ["P", "cosine_whitened"],
        "statistics": list(shape.STATISTICS),
        "seeds": SEEDS,
        "text": {"source": "book", "sha256": text.fingerprint("book"), "tokens": TOKENS},
        "facts": {"source": "book", "sha256": facts.fingerprint("book"), "count": len(listed)},
        "model": records.header(trained),
        "seconds": round(time.perf_counter() - start, 1),
    }
    command = f"python experiments/untrained.py {arguments.model} --out {arguments.out}"
    data["provenance"] = records.provenance(command=command, seed=0, device=trained.device)
    records.write(arguments.out, data, {name: array.astype(np.float32) for name, array in arrays.items()})
    print(f"{arguments.out}: {data['seconds']} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
