"""Make the records of null models and confounds: what the keys of a model look like beside keys of nothing.

python experiments/nulls.py MODEL --out book/records/MODEL-nulls.json
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from superposition import records
from superposition.data import facts, text, wordings
from superposition.io import cache
from superposition.linear import overlap
from superposition.linear.metric import Metric
from superposition.lm import keys, models, moments, text_keys
from superposition.stats import shape
from superposition.studies import confounds, nulls

SIZES = (32, 64, 128, 256, 400)
SEEDS, RESAMPLES, LISTS = 3, 50, 40
PARTS = 6  # of the reading of text, each kept when done
FIRST = 128  # as many facts as the paper takes
FROM_TEXT, WITH_SUBJECTS = "tokens of text", "random subjects"
STRANGERS = "no position 0, no shared last token"
MEANS = ("cosine", "p")
QUANTILES = (0.025, 0.5, 0.975)


def keep_parts(**recipe: Any) -> Callable[..., dict[str, np.ndarray]]:
    """What makes a part by its name, or takes it from the cache, so that a run that was interrupted goes on."""
    start = time.perf_counter()

    def part(name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        made = cache.made(cache.key("nulls", 1, part=name, **recipe), make)
        print(f"{name} {time.perf_counter() - start:.0f} s", flush=True)
        return made

    return part


def read(model: models.LanguageModel, listed: list[facts.Fact], layers: list[int], source: str, part: Callable) -> dict:
    """Keys of the facts as the table asks them, of the subject alone, with prompts swapped, and of two nulls."""
    rng, texts = np.random.default_rng(0), list(text.read(source))
    asked = {"table": listed, "subject alone": wordings.bare(listed), "prompts swapped": wordings.swapped(listed, rng)}
    asked |= {f"{WITH_SUBJECTS} {s}": wordings.random_subjects(listed, texts, rng) for s in range(SEEDS)}
    found: dict[str, Any] = {}

    def by_name(by_layer: dict[int, np.ndarray]) -> dict[str, np.ndarray]:
        return {str(layer): K.astype(np.float32) for layer, K in by_layer.items()}  # as the model made them

    for name, prompts in asked.items():
        found[name] = part(f"keys {name}", lambda p=prompts: by_name(keys.extract(model, p, layers=layers).by_layer))

    def of_text(number: int) -> dict[str, np.ndarray]:
        how = {"count": len(listed), "draws": SEEDS, "layers": layers, "context": 64, "part": (number, PARTS)}
        drawn, ids = text_keys.keys_of_text(model, texts, **how)
        return by_name(drawn) | {"ids": ids}

    parts = [part(f"keys {FROM_TEXT} {number}", lambda number=number: of_text(number)) for number in range(PARTS)]
    drawn = {layer: sum(one[layer] for one in parts) for layer in parts[0]} | {"ids": parts[0]["ids"]}
    found |= {f"{FROM_TEXT} {s}": {layer: K[s] for layer, K in drawn.items() if layer != "ids"} for s in range(SEEDS)}
    tokens = {name: keys.locate_all(model, prompts) for name, prompts in asked.items()}
    keep = {f"{FROM_TEXT} {s}": ~confounds.same(drawn["ids"][s].tolist()) for s in range(SEEDS)}
    keep |= {name: strangers(located) for name, located in tokens.items()}
    prompts = {name: [fact.prompt for fact in p] for name, p in asked.items()}
    return {"keys": found, "prompts": prompts, "keep": keep, "tokens": tokens}


def strangers(tokens: Any) -> np.ndarray:
    """Pairs of facts that neither share their last token nor have a key at position 0."""
    inside = np.array([token.position > 0 for token in tokens])
    return ~confounds.same([token.token_id for token in tokens]) & np.outer(inside, inside)


def subsets(listed: list[facts.Fact], located: Any) -> dict[str, list[int]]:
    """Lists of facts with a confound taken out: position 0, all but one of those that end in one token."""
    m = len(listed)
    inside = [i for i in range(m) if located[i].position > 0]
    one_a_token = confounds.firsts([found.token_id for found in located])
    one_a_subject = confounds.firsts([fact.subject for fact in listed])
    short = [i for i in range(min(FIRST, m)) if i in set(inside)]
    return {
        "no position 0": inside,
        "one fact a subject": one_a_subject,
        "one fact a last token": one_a_token,
        "first 128": list(range(min(FIRST, m))),
        "first 128, no position 0": short,
        "the same, one fact twice": [*short[1:], short[-1]],
        "no position 0, one a last token": [i for i in one_a_token if i in set(inside)],
    }


def categories(listed: list[facts.Fact], prompts: dict, located: dict) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Which pairs are compared between readings: no shared word, last token or subject, none at position 0."""
    relation = confounds.same([fact.relation for fact in listed])
    kind = confounds.same([fact.subject_type for fact in listed])
    first = np.array([fact.prompt.startswith(facts.SLOT) for fact in listed])
    clean = ~np.eye(len(listed), dtype=bool) & ~confounds.shared_words([fact.subject for fact in listed])
    clean &= ~confounds.same([fact.subject for fact in listed])
    for reading in located.values():
        clean &= ~confounds.same([found.token_id for found in reading])
    inside = np.all([[found.position > 0 for found in reading] for reading in located.values()], axis=0)
    clean &= np.outer(inside, inside)
    words = confounds.same(prompts["prompts swapped"])
    masks = {
        "same relation, words before": relation & ~first[:, None] & ~first[None],
        "same relation, subject first": relation & first[:, None] & first[None],
        "same kind": kind & ~relation,
        "apart": ~kind & ~relation,
        "apart, swapped into one prompt": ~kind & ~relation & words,
        "same relation, swapped apart": relation & ~words,
    }
    swapped_first = np.array([prompt.startswith(facts.SLOT) for prompt in prompts["prompts swapped"]])
    masks["apart, swapped into one prompt"] &= ~swapped_first[:, None]
    return {name: mask & clean for name, mask in masks.items()}, inside


def means_of_pairs(products: np.ndarray, masks: dict[str, np.ndarray], counts: np.ndarray) -> np.ndarray:
    """Mean of cosine and p over pairs of each kind with their interval, (categories, 2, 3): value, low, high."""
    found = np.full((len(masks), 2, 3), np.nan)
    for column, matrix in enumerate((overlap.cosines(products), overlap.from_products(products))):
        for row, mask in enumerate(masks.values()):
            total = np.einsum("bi,ij,bj->b", counts, mask, counts, optimize=True)
            summed = np.einsum("bi,ij,bj->b", counts, mask * matrix, counts, optimize=True)
            values = summed[total > 0] / total[total > 0]
            found[row, column] = matrix[mask].mean(), *np.quantile(values, [0.025, 0.975])
    return found


def pairs_kept(listed: list[facts.Fact], located: Any) -> dict[str, Bool[np.ndarray, "m m"]]:
    """Pairs of facts that are left when those that share something are taken out."""
    return {
        "no shared last token": ~confounds.same([x.token_id for x in located]),
        STRANGERS: strangers(located),
        "no shared word": ~confounds.shared_words([fact.subject for fact in listed]),
        "no shared relation": ~confounds.same([fact.relation for fact in listed]),
    }


def of_nulls(
    layer: int,
    table: Float[np.ndarray, "d_m m"],
    whitening: Metric,
    products: dict[str, Float[np.ndarray, "m m"]],
    keep: dict[str, Bool[np.ndarray, "m m"]],
) -> Float[np.ndarray, "nulls seeds 2 statistics"]:
    """Statistics of every null: keys drawn from the table's, whitened and raw; tokens of text; random subjects."""
    Z, d_m, of_seeds = whitening.whiten(table), whitening.d_m, []
    for seed in range(SEEDS):
        rng = np.random.default_rng([seed, layer])
        drawn_keys = [null(Z, rng) for null in nulls.WHITENED.values()]
        drawn_keys += [whitening.whiten(null(table, rng)) for null in nulls.RAW.values()]
        each = [nulls.of_products(z.T @ z, d_m) for z in drawn_keys]
        for name in (f"{FROM_TEXT} {seed}", f"{WITH_SUBJECTS} {seed}"):
            each.append(nulls.of_products(products[name], d_m, keep[name]))
        of_seeds.append(each)
    return np.array(of_seeds).swapaxes(0, 1)


def of_layer(
    layer: int,
    K: dict[str, Float[np.ndarray, "d_m m"]],
    whitening: Metric,
    keep: dict[str, Bool[np.ndarray, "m m"]],
    variants: dict[str, list[int]],
    pairs: dict[str, Bool[np.ndarray, "m m"]],
    masks: dict[str, Bool[np.ndarray, "m m"]],
    readings: list[str],
) -> dict[str, np.ndarray]:
    """Statistics of one layer: of the table and its resamples, of nulls, with confounds out, of lists, of pairs."""
    products = {name: (z := whitening.whiten(keys_)).T @ z for name, keys_ in K.items()}
    G, d_m, m = products["table"], whitening.d_m, len(products["table"])
    drawn = nulls.resampled(G, d_m, RESAMPLES, np.random.default_rng(2))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    without = [nulls.of_products(G[np.ix_(i, i)], d_m) for i in variants.values()]
    without += [nulls.of_products(G, d_m, kept) for kept in pairs.values()]
    lists = [nulls.subsampled(G, d_m, n, LISTS, np.random.default_rng([3, n])) for n in SIZES if n <= m]
    counts = np.random.default_rng(1).multinomial(m, np.full(m, 1 / m), size=200).astype(float)  # (200, m)
    return {
        "table": nulls.of_products(G, d_m),
        "low": low,
        "high": high,
        "norm": np.sqrt(np.diag(G)),
        "nulls": of_nulls(layer, K["table"], whitening, products, keep),
        "without": np.array(without),
        "lists": np.array(lists),
        "pairs": np.array([means_of_pairs(products[name], masks, counts) for name in readings]),
    }


def measure(
    model: models.LanguageModel, tokens: int | None, layers: list[int] | None, source: str
) -> tuple[dict, dict[str, np.ndarray]]:
    listed = facts.load("book")
    chosen = [layer.index for layer in model.select(layers)]
    about = {"facts": facts.fingerprint("book"), "text": text.fingerprint(source), "tokens": tokens, "layers": chosen}
    part = keep_parts(weights=model.digest(), dtype=str(model.dtype), **about)
    before = read(model, listed, chosen, source, part)
    summed = moments.estimate(model, source, tokens=tokens, layers=layers)
    m = len(listed)
    located = {name: before["tokens"][name] for name in ("table", "subject alone", "prompts swapped")}
    variants, pairs = subsets(listed, located["table"]), pairs_kept(listed, located["table"])
    masks, inside = categories(listed, before["prompts"], located)

    def at(layer: int) -> dict[str, np.ndarray]:
        K = {name: by_layer[str(layer)].astype(np.float64) for name, by_layer in before["keys"].items()}
        metric = Metric(summed.second_moment(layer))
        return of_layer(layer, K, metric, before["keep"], variants, pairs, masks, list(located))

    rows = [part(f"layer {layer}", lambda layer=layer: at(layer)) for layer in chosen]
    arrays = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    lists = arrays.pop("lists")  # (layers, sizes, lists, 2, statistics)
    arrays["lists"] = np.quantile(lists, QUANTILES, axis=2)  # (quantiles, layers, sizes, 2, statistics)
    data = {
        "kind": "nulls",
        "layers": chosen,
        "d_m": [layer.d_m for layer in model.select(layers)],
        "statistics": list(shape.STATISTICS),
        "matrices": ["P", "cosine_whitened"],
        "nulls": [*nulls.WHITENED, *nulls.RAW, FROM_TEXT, WITH_SUBJECTS],
        "without": [*variants, *pairs],
        "facts_left": {name: len(i) for name, i in variants.items()},
        "pairs_left": {name: int(np.triu(keep, 1).sum()) for name, keep in pairs.items()},
        "sizes": [n for n in SIZES if n <= m],
        "quantiles": QUANTILES,
        "seeds": SEEDS,
        "resamples": RESAMPLES,
        "lists": LISTS,
        "readings": list(located),
        "categories": {name: int(mask.sum() / 2) for name, mask in masks.items()},
        "means": list(MEANS),
        "at_position_0": {name: sum(x.position == 0 for x in reading) for name, reading in located.items()},
        "token_ids": [x.token_id for x in located["table"]],
        "token_positions": [x.position for x in located["table"]],
        "depth": ranks_by_depth(lists, arrays["table"], [n for n in SIZES if n <= m]),
        "text": {"source": source, "sha256": text.fingerprint(source), "tokens": summed.tokens},
        "facts": {"source": "book", "sha256": facts.fingerprint("book"), "count": m, "compared": int(inside.sum())},
        "model": records.header(model),
        "dtype": records.dtype(model),
    }
    return data, {name: array.astype(np.float32) for name, array in arrays.items()}


def ranks_by_depth(lists: np.ndarray, table: np.ndarray, sizes: list[int]) -> dict[str, Any]:
    """Spearman correlation of a statistic of p with depth: of the table, and quantiles over lists of each size."""
    layers = np.arange(len(lists))
    if len(layers) < 3:
        return {}
    found: dict[str, Any] = {}
    for column, name in enumerate(shape.STATISTICS):
        each = [
            [float(stats.spearmanr(layers, lists[:, s, i, 0, column]).statistic) for i in range(lists.shape[2])]
            for s in range(len(sizes))
        ]
        found[name] = {
            "table": float(stats.spearmanr(layers, table[:, 0, column]).statistic),
            "lists": np.quantile(each, QUANTILES, axis=1).round(4).tolist(),
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--text", default="book")
    parser.add_argument("--tokens", type=int, default=102_400)
    parser.add_argument("--layers", type=int, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    start, model = time.perf_counter(), models.load(arguments.model)
    data, arrays = measure(model, arguments.tokens, arguments.layers, arguments.text)
    command = f"python experiments/nulls.py {arguments.model}"
    if arguments.text != "book":
        command += f" --text {arguments.text}"
    if arguments.tokens != 102_400:
        command += f" --tokens {arguments.tokens}"
    if arguments.layers:
        command += f" --layers {' '.join(map(str, arguments.layers))}"
    data["provenance"] = records.provenance(command=f"{command} --out {arguments.out}", seed=0, device=model.device)
    records.write(arguments.out, data, arrays)
    print(f"{arguments.out}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
