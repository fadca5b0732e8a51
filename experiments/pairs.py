"""Make the records of the chapter on pairs of facts: what explains their overlap, and what an edit does to a partner.

python experiments/pairs.py regressions --out book/records/pairs.json
python experiments/pairs.py paper       --out book/records/paper-pairs.json
python experiments/pairs.py edits       --out book/records/pairs-edits.json
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from superposition import editing, records
from superposition.data import facts, wordings
from superposition.data.facts import Fact
from superposition.editing import targets
from superposition.io import cache, paths
from superposition.linear import overlap
from superposition.linear.memory import LinearMemory
from superposition.linear.metric import Metric
from superposition.lm import keys, models, moments, passes, scoring
from superposition.stats import regression
from superposition.studies import pairs
from units import WAYS

RECORDS = {"smollm2": "smollm2-400", "gemma3": "gemma3-400"}
TOKENS = 102_400
RESAMPLES, SHUFFLES = 200, 100
EDITS, PARTNERS, TOP, LAYERS = 40, 64, 16, (6, 15)


def say(what: str, start: float = time.perf_counter()) -> None:
    print(f"{time.perf_counter() - start:7.0f} s  {what}", file=sys.stderr, flush=True)


# What explains an overlap


def explained(
    table: pairs.Pairs, matrices: Sequence[np.ndarray], *, resample: bool
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Effects and shares of all layers; with ``resample``, the shares' intervals and what chance would explain."""
    Y = np.column_stack([table.of(matrix) for matrix in matrices])
    fit = pairs.fit(table, Y)
    groups = ["all", *table.groups]
    arrays = {
        "effects": fit.effects,
        "errors": fit.errors,
        "shares": np.stack([fit.share, *fit.shares.values()]),
        "own": np.array([regression.row_and_column_share(matrix) for matrix in matrices]),
    }
    if resample:
        drawn = pairs.bootstrap_shares(table, Y, resamples=RESAMPLES)
        chance = pairs.shuffled_shares(table, matrices, shuffles=SHUFFLES)
        arrays["shares_interval"] = np.stack([np.quantile(drawn[g], [0.025, 0.975], axis=0) for g in groups], axis=1)
        more, again = (sum(of[g] for g in pairs.RELATED) - of["last token"] for of in (fit.shares, drawn))
        arrays["related"] = np.stack([more, *np.quantile(again, [0.025, 0.975], axis=0)])
        arrays["chance"] = np.quantile(chance, 0.975, axis=0)
    about = {"names": table.names, "groups": groups, "units": table.units.round(6).tolist()}
    about["having"] = [int((column > 0).sum()) for column in table.X.T]
    return about, {name: array.astype(np.float32) for name, array in arrays.items()}


def measured(lm: models.LanguageModel, listed: Sequence[Fact]) -> tuple[keys.Keys, list[overlap.Overlap]]:
    """Keys of facts and their overlaps at all layers, with C from the book's text."""
    C = moments.estimate(lm, "book", tokens=TOKENS)
    read = keys.extract(lm, listed)
    return read, [overlap.measure(read[layer.index], Metric(C.second_moment(layer.index))) for layer in lm.layers]


def table_of(model: str, wording: str, measure: str) -> dict[str, Any]:
    """One regression of all layers: the record's own prompts, or prompts in words drawn at random, measured here."""
    name = RECORDS[model]
    record = records.load(name)
    listed = facts.load("book", limit=record["facts"]["count"])
    if wording == "own":
        tokens, positions = record["token_ids"], record["token_positions"]
        found = [record.overlaps(layer) for layer in record["layers"]]
    else:
        listed = wordings.reworded(listed, facts.relations("book"), seed=0)
        read, found = measured(models.load(model), listed)
        tokens, positions = [token.token_id for token in read.tokens], [token.position for token in read.tokens]
    table = pairs.pairs(listed, tokens, positions, directed=measure == "P")
    about, stacks = explained(table, [getattr(one, measure) for one in found], resample=wording == "own")
    entry = {"name": f"{model} {wording} {measure}", "model": model, "wording": wording, "measure": measure}
    entry |= {"keys_of": name if wording == "own" else "measured here", "facts": len(listed), "pairs": len(table.X)}
    return {"entry": entry | about} | stacks


def regressions() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    data: dict[str, Any] = {"tables": [], "resamples": RESAMPLES, "shuffles": SHUFFLES, "tokens": TOKENS}
    data["models"] = {model: records.load(name)["model"]["sha256"] for model, name in RECORDS.items()}
    arrays: dict[str, np.ndarray] = {}
    for model in RECORDS:
        for wording, measure in (("own", "cosine_whitened"), ("own", "P"), ("drawn", "cosine_whitened")):
            name = f"{model} {wording} {measure}"
            recipe = {"name": name, "facts": facts.fingerprint("book"), "sizes": [TOKENS, RESAMPLES, SHUFFLES]}
            key = cache.key("pairs", 2, weights=data["models"][model], **recipe)
            stacks = cache.made(key, lambda asked=(model, wording, measure): table_of(*asked))
            data["tables"].append(stacks.pop("entry"))
            arrays |= {f"{name} {key}": value for key, value in stacks.items()}
            say(name)
    return data, arrays


# The pairs that the paper names


def paper() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    source = paths.data_dir() / "paper-pairs.csv"
    listed = facts.load(source)
    data: dict[str, Any] = {"facts": {"source": source.name, "sha256": facts.fingerprint(source)}, "tokens": TOKENS}
    data |= {"subjects": [fact.subject for fact in listed], "prompts": [fact.text for fact in listed], "models": {}}
    arrays = {}
    for model in RECORDS:
        lm = models.load(model)
        read, found = measured(lm, listed)
        data["models"][model] = {
            "sha256": lm.sha256,
            "layers": [layer.index for layer in lm.layers],
            "token_ids": [token.token_id for token in read.tokens],
            "last_tokens": [lm.tokenizer.decode([token.token_id]) for token in read.tokens],
        }
        arrays[f"{model} P"] = np.stack([one.P for one in found]).astype(np.float32)
        say(model)
    return data, arrays


# Edit one, ask the other


def choose(P: np.ndarray, candidates: Sequence[int], partners: Sequence[int], seed: int = 0) -> list[int]:
    """Half of the edits at random, half those of the rest whose strongest partner is strongest; in order."""
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(candidates)[: EDITS // 2].tolist()
    rest = [i for i in candidates if i not in drawn]
    best = {i: max(P[i, j] for j in partners if j != i) for i in rest}
    return sorted(drawn + sorted(rest, key=lambda i: -best[i])[: EDITS - len(drawn)])


def partners_of(p: np.ndarray, count: int = PARTNERS, top: int = TOP) -> np.ndarray:
    """The partners asked for one edit: those of largest overlap, and the rest evenly over the ranks."""
    order = np.argsort(-p, kind="stable")
    rest = np.linspace(top, len(order) - 1, count - top).round().astype(int)
    return order[np.unique(np.concatenate([np.arange(top), rest]))]


class Asker:
    """What a model says to prompts in the first token of its answer."""

    def __init__(self, lm: models.LanguageModel, asked: Sequence[Fact], edited: Sequence[Fact]):
        self.lm = lm
        joined = [scoring.join(lm.tokenizer, fact.text, str(fact.target_true)) for fact in asked]
        self.prompts = [one.token_ids[: one.first] for one in joined]
        self.true = np.array([one.target[0] for one in joined])
        joined = [scoring.join(lm.tokenizer, fact.text, str(fact.target_new)) for fact in edited]
        self.new = np.array([one.target[0] for one in joined])
        self.edited = [one.token_ids[: one.first] for one in joined]

    def __call__(self, prompts: Sequence[tuple[int, ...]], tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities (prompts, tokens) at the prompts' ends, and the likeliest token of each."""
        found, best = np.zeros((len(prompts), len(tokens))), np.zeros(len(prompts), dtype=int)
        wanted = torch.from_numpy(np.asarray(tokens))

        def use(group: list[int], hidden: torch.Tensor) -> None:
            last = torch.tensor([len(prompts[i]) - 1 for i in group])
            logits = passes.logits_of(self.lm, hidden[torch.arange(len(group)), last])
            found[group] = logits.log_softmax(-1)[:, wanted].double().numpy()
            best[group] = logits.argmax(-1).numpy()

        passes.last_states(self.lm, prompts, 32, use)
        return found, best


def partners_after(
    lm: models.LanguageModel,
    layer: int,
    C: Metric,
    edit_targets: editing.Targets,
    ask: Asker,
    p: Float[np.ndarray, "edits partners"],
) -> tuple[dict[str, np.ndarray], list[bool]]:
    """Each edit alone in the weights, and its partners asked: what changed for them, and whether the edit holds.

    The arrays are (edits, partners), with NaN or false where a partner was not asked; ``right_before`` is (partners,).
    """
    before, best = ask(ask.prompts, np.concatenate([ask.true, ask.new]))  # (partners, partners + edits), (partners,)
    right_before = best == ask.true
    change_true, change_new = np.full(p.shape, np.nan), np.full(p.shape, np.nan)
    right, says_new = np.zeros(p.shape, dtype=bool), np.zeros(p.shape, dtype=bool)
    weight, held = lm.layers[layer].weight, []
    W = weight.detach().double().numpy()
    for row in range(len(p)):
        memory = LinearMemory(W, C)
        memory.edit(edit_targets.keys[:, row], edit_targets.values[:, row])
        asked = partners_of(p[row])
        prompts = [*(ask.prompts[j] for j in asked), ask.edited[row]]
        with passes.restored(weight):
            weight.copy_(torch.from_numpy(memory.W))
            after, best = ask(prompts, np.append(ask.true[asked], ask.new[row]))  # (n + 1, n + 1), (n + 1,)
        n = len(asked)
        change_true[row, asked] = np.diag(after[:n, :n]) - before[asked, asked]
        change_new[row, asked] = after[:n, n] - before[asked, len(right_before) + row]
        right[row, asked] = best[:n] == ask.true[asked]
        says_new[row, asked] = best[:n] == ask.new[row]
        held.append(bool(best[n] == ask.new[row]))
        if (row + 1) % 10 == 0:
            say(f"layer {layer}: {row + 1} edits asked about")
    changes = {"change_true": change_true, "change_new": change_new, "right": right, "says_new": says_new}
    return {"right_before": right_before} | changes, held


def edits_at(
    lm: models.LanguageModel,
    layer: int,
    C: Metric,
    K: Float[np.ndarray, "d_m m"],
    everything: Sequence[Fact],
    partners: Sequence[int],
    settings: editing.TargetSettings,
) -> tuple[dict[str, list], dict[str, np.ndarray]]:
    """One layer: the facts to edit are chosen, edited one at a time, and their partners asked after each."""
    P = overlap.superposition_matrix(K, C)  # (m, m)
    chosen = choose(P, range(len(everything)), partners)
    edited = [everything[i] for i in chosen]
    ask = Asker(lm, [everything[j] for j in partners], edited)
    edit_targets = targets.search(lm, edited, layer, settings)
    say(f"layer {layer}: {len(edited)} target values")
    p = P[np.ix_(chosen, partners)]
    changes, held = partners_after(lm, layer, C, edit_targets, ask, p)
    arrays = {"right_before": changes.pop("right_before")}
    here = {"p": p, "asked": ~np.isnan(changes["change_true"])} | changes
    here["shift"] = np.linalg.norm(edit_targets.shifts, axis=0)
    here["recalled"] = np.linalg.norm(lm.layers[layer].weight.detach().double().numpy() @ K, axis=0)
    lists = {"edits": chosen, "probability": edit_targets.probability.round(4).tolist(), "held": held}
    return lists, arrays | {f"layer {layer} {name}": value for name, value in here.items()}


def edits() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    lm = models.load("smollm2", device="cpu")
    everything = facts.load("book")
    known = {(fact.text, fact.target_true) for fact in scoring.known(lm, everything)}
    partners = [j for j, fact in enumerate(everything) if (fact.text, fact.target_true) in known]
    C = moments.estimate(lm, "book", tokens=TOKENS)
    read = keys.extract(lm, everything, layers=list(LAYERS))
    settings = WAYS["ROME's"]
    data: dict[str, Any] = {
        "model": records.header(lm, architecture=False),
        "facts": {"source": "book", "sha256": facts.fingerprint("book"), "count": len(everything)},
        "tokens": TOKENS,
        "settings": settings.as_dict(),
        "partners": partners,
        "token_ids": [token.token_id for token in read.tokens],
        "positions": [token.position for token in read.tokens],
        "layers": list(LAYERS),
    }
    data |= {name: [] for name in ("edits", "probability", "held")}
    arrays: dict[str, np.ndarray] = {}
    bits = lm.digest()
    for layer in LAYERS:
        lists, of_layer = edits_at(
            lm, layer, Metric(C.second_moment(layer)), read[layer], everything, partners, settings
        )
        for name, row in lists.items():
            data[name].append(row)
        arrays |= of_layer
    if lm.digest() != bits:
        raise RuntimeError("The weights are not what they were before.")
    return data, {name: row if row.dtype == bool else row.astype(np.float32) for name, row in arrays.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=("regressions", "paper", "edits"))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    start = time.perf_counter()
    data, arrays = {"regressions": regressions, "paper": paper, "edits": edits}[arguments.which]()
    command = f"python experiments/pairs.py {arguments.which} --out {arguments.out}"
    data = {"kind": f"pairs-{arguments.which}"} | data | {"seconds": round(time.perf_counter() - start, 1)}
    data["provenance"] = records.provenance(command=command, seed=0)
    records.write(arguments.out, data, arrays)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
