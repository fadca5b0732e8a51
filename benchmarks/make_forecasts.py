"""Make the records of the chapters on forecasts, causes and cures: lives of ROME, forecast before they begin.

python benchmarks/make_forecasts.py {forecasts,causes} --runs smollm2:6 smollm2:12 --out book/records/NAME.json

What takes long (target values, the lives themselves) is kept in the user's cache edit by edit; run again, an
interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from superposition import evaluation, facts, files, forecast, models, moments, paths, records, values
from superposition.facts import Fact
from superposition.forecast import Reading
from superposition.memory import LinearMemory

EDITS, POOL, CHOSEN, LOOKS, TOKENS = 60, 100, 40, (15, 30, 60), 102_400

#: Raise it when an arm's name comes to mean something else: arms are kept in the cache under it.
ARMS_VERSION = 1


def say(what: str, start: float = time.perf_counter()) -> None:
    print(f"{time.perf_counter() - start:7.0f} s  {what}", file=sys.stderr, flush=True)


def choose(lm: models.LanguageModel, count: int = POOL, seed: int = 0) -> tuple[list[Fact], list[Fact]]:
    """The facts to edit and the facts to watch.

    Watched are all facts of the book's table that the model says by itself. Edited are facts that it does not say, one
    a subject, of subjects that no watched fact is about, in an order drawn from the seed: so none of the watched is
    lost to the edits themselves.
    """
    everything = facts.load("book")
    known = evaluation.known(lm, everything)
    taken, edits = {fact.subject for fact in known}, []
    for place in np.random.default_rng(seed).permutation(len(everything)):
        fact = everything[place]
        if fact.subject not in taken:
            taken.add(fact.subject)
            edits.append(fact)
    return edits[:count], known


class Store:
    """Arrays in the user's cache under a key of what they depend on."""

    def __init__(self, *about: Any):
        name = hashlib.sha256(repr(about).encode()).hexdigest()[:24]
        self.path = paths.cache_dir() / "forecasts" / f"{name}.npz"

    def load(self) -> dict[str, np.ndarray]:
        if not self.path.is_file():
            return {}
        with np.load(self.path) as archive:
            return {name: archive[name] for name in archive.files}

    def save(self, **arrays: np.ndarray) -> None:
        files.write_whole(self.path, files.npz_writer(arrays))


def alone(lm: models.LanguageModel, edits: Sequence[Fact], layer: int, batch: int = 10) -> values.Targets:
    """The target value of each edit on the unedited model."""
    store = Store("alone", 2, lm.digest(), layer, values.Settings())
    kept, names = store.load(), tuple(values.Targets.__dataclass_fields__)
    about = np.array([f"{fact.text}\t{fact.target_new}" for fact in edits])
    done = (
        len(kept.pop("about"))
        if kept and np.array_equal(kept["about"][: len(about)], about[: len(kept["about"])])
        else 0
    )
    while done < len(edits):
        found = values.targets(lm, edits[done : done + batch], layer, batch=batch)
        new = {name: getattr(found, name) for name in names}
        kept = {name: np.concatenate([kept[name], new[name]], -1) for name in names} if done else new
        done = kept["keys"].shape[1]
        store.save(about=about[:done], **kept)
        say(f"layer {layer}: targets of {done} edits, each alone")
    return values.Targets(**{name: kept[name][..., : len(edits)] for name in names})


def live(
    lm: models.LanguageModel,
    edits: Sequence[Fact],
    layer: int,
    C: Any,
    watch: Callable[[], forecast.Said],
    looks: Sequence[int] = LOOKS,
) -> tuple[LinearMemory, dict[str, np.ndarray], list[float]]:
    """ROME, one edit after the other, every target found anew on the model as it is by then.

    Returns
    -------
    LinearMemory
        With the ledger.
    dict of arrays
        ``log_probability`` and ``exact`` of the watched, a row a look.
    list of float
        The probability each target had when it was found.
    """
    store = Store("life", 1, lm.digest(), layer, [(f.text, f.target_new) for f in edits], values.Settings(), TOKENS)
    kept, bits, weight = store.load(), lm.digest(), lm.layers[layer].weight
    old = weight.detach().clone()
    memory = LinearMemory(old.double().numpy(), C)
    told = {"values": np.zeros((len(old), 0)), "keys": np.zeros((old.shape[1], 0)), "probability": np.zeros(0)} | kept
    seen = {name: told.pop(name) for name in ("log_probability", "exact") if name in told}
    try:
        for i, fact in enumerate(edits):
            if i == told["keys"].shape[1]:
                found = values.targets(lm, [fact], layer)
                new = {"values": found.values, "keys": found.keys, "probability": found.probability}
                told = {name: np.concatenate([told[name], new[name]], -1) for name in told}
            memory.edit(told["keys"][:, i], told["values"][:, i])
            weight.copy_(torch.from_numpy(memory.W))
            rows = len(seen.get("exact", []))
            if i + 1 in looks and looks.index(i + 1) == rows:
                said = watch()
                row = {"log_probability": said.log_probability[None], "exact": said.exact[None]}
                seen = {name: np.concatenate([seen[name], row[name]]) if seen else row[name] for name in row}
                say(f"layer {layer}: {i + 1} edits in a row")
            if (i + 1) % 5 == 0 or i + 1 == len(edits):
                store.save(**told, **seen)
    finally:
        weight.copy_(old)
    if lm.digest() != bits:
        raise RuntimeError("The weights are not what they were before the life.")
    return memory, seen, told["probability"].tolist()


# --- forecasts ----------------------------------------------------------------------------------------------


def sources(lm: models.LanguageModel, layer: int, tokens: int = TOKENS) -> moments.Whitening:
    """The factor of C at a layer, from the book's text."""
    return moments.Whitening(moments.estimate(lm, "book", tokens=tokens, layers=[layer]).second_moment(layer))


def forecast_layer(lm: models.LanguageModel, layer: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Forecast a life at one layer in every way there is, live it, and set the two side by side."""
    start = time.perf_counter()
    edits, watched = choose(lm)
    edits = edits[:EDITS]
    targets = alone(lm, edits, layer)
    C, W = sources(lm, layer), lm.layers[layer].weight.detach().double().numpy()
    reading = forecast.read(lm, watched, layer)
    say(f"layer {layer}: {len(watched)} facts read")
    memory, seen, probability = live(lm, edits, layer, C, lambda: forecast.ask(lm, reading))
    falls = reading.log_probability - seen["log_probability"]
    arrays: dict[str, np.ndarray] = {"fall": falls, "kept": seen["exact"], "before": reading.log_probability}
    rows = []
    for look, n in enumerate(LOOKS):
        replayed = LinearMemory(W, C)
        replayed.edit_batch(targets.keys[:, :n], targets.values[:, :n], rule="rome")
        part = forecast.shares(replayed.directions, reading.keys)
        made = forecast.candidates_from_keys(reading, part) | forecast.candidates_from_values(
            reading, part, replayed.residuals, targets.shifts[:, :n]
        )
        full = n == max(LOOKS)
        made |= forecast.candidates_from_passes(
            lm, reading, part, replayed.residuals, places=forecast.PLACES if full else ("all",)
        )
        if full:
            made |= hindsight(lm, reading, part, memory, targets)
        for name, value in made.items():
            arrays[f"forecast {n} {name}"] = value
        found = {name: forecast.rank_correlation(value, falls[look]) for name, value in made.items()}
        best = forecast.rank_correlation(made["drift, all"], falls[look])[0]
        say(f"layer {layer}, {n} edits: fall {falls[look].mean():.3f}, best forecast {best:.2f}")
        rows.append({"edits": n, "fall": float(falls[look].mean()), "ranks": found})
        rows[-1] |= {"norm": _norm(memory.residuals[:, :n], memory.directions[:, :n])}
        rows[-1] |= {"norm_replayed": _norm(replayed.residuals, replayed.directions)}
    delta = np.linalg.norm(memory.residuals, axis=0)
    row = {"layer": layer, "watched": len(watched), "looks": rows, "probability": probability}
    row |= {"delta": delta.tolist(), "delta_alone": np.linalg.norm(targets.shifts, axis=0).tolist()}
    row |= {"probability_alone": targets.probability.tolist(), "seconds": round(time.perf_counter() - start, 1)}
    arrays |= {"residuals": replayed.residuals, "directions": replayed.directions}
    arrays |= {"edit keys": targets.keys, "residuals in a row": memory.residuals}
    return row, arrays


def hindsight(
    lm: models.LanguageModel,
    reading: Reading,
    part: np.ndarray,
    memory: LinearMemory,
    targets: values.Targets,
) -> dict[str, np.ndarray]:
    """What a forecast would be that knew the residuals to come, and one that lets no edit see another."""
    after = forecast.candidates_from_passes(lm, reading, part, memory.residuals, places=("subject", "all"))
    sizes = forecast.candidates_from_values(reading, part, memory.residuals, None)
    at_once = forecast.candidates_from_passes(lm, reading, part, targets.shifts, places=("all",))
    found = {f"known residuals: {name}": value for name, value in (after | sizes).items()}
    return found | {f"each alone: {name}": value for name, value in at_once.items()}


def _norm(delta: np.ndarray, M: np.ndarray) -> float:
    """``‖Σ_i δ_i M_iᵀ‖`` (Frobenius), without forming the matrix."""
    return float(np.sqrt(max(0.0, np.sum((delta.T @ delta) * (M.T @ M)))))


# --- causes -------------------------------------------------------------------------------------------------


class Arms:
    """Arms of one experiment: each is a set of residuals and directions, put into the unedited model as a drift.

    The watched prompts and the edits' own are asked together: what is lost, and whether the edits hold.
    """

    def __init__(self, lm: models.LanguageModel, layer: int, edits: Sequence[Fact], watched: Sequence[Fact]):
        self.lm, self.layer = lm, layer
        self.reading = forecast.read(lm, watched, layer, passes=False)
        self.before = forecast.ask(lm, self.reading)
        asked = [Fact(f.subject, f.prompt, target_true=f.target_new) for f in edits]
        self.edited = forecast.read(lm, asked, layer, passes=False)
        self.store = Store("arms", ARMS_VERSION, lm.digest(), layer, values.Settings(), TOKENS, EDITS, POOL, CHOSEN)
        kept = self.store.load()
        self.rows: dict[str, dict[str, Any]] = json.loads(str(kept["rows"])) if kept else {}
        self.falls = dict(zip(self.rows, kept["falls"], strict=True)) if kept else {}

    def add(self, name: str, delta: np.ndarray, M: np.ndarray, place: str = "all", own: Sequence[int] = ()) -> float:
        """Run an arm, unless it is kept; the edits that it writes, ``own`` by number, are asked too if given."""
        if name in self.rows:
            return self.rows[name]["fall"]
        part = forecast.shares(M, self.reading.keys)
        mask = self.reading.mask(place)
        said = forecast.ask(self.lm, self.reading, forecast.drift(delta, part) * mask[:, :, None])
        fall, size = self.before.log_probability - said.log_probability, np.sum(delta**2, axis=0)
        squares, at_subject = (part**2 * mask).sum(2), (part**2 * self.reading.mask("subject")).sum(2)
        row = {
            "edits": delta.shape[1],
            "fall": float(fall.mean()),
            "kept": float(said.exact.mean()),
            "norm": _norm(delta, M),
            "sum_of_lengths": float(np.sqrt(size).sum()),
            "crowding": float((squares * size[:, None]).sum() / len(fall)),  # Σ_i Σ_t p² |δ|², mean over facts
            "crowding_at_subject": float((at_subject * size[:, None]).sum() / len(fall)),
            "drift": float((forecast.drift(delta, part) ** 2).sum((1, 2)).mean()),
            "p2": float(squares.sum() / len(fall)),
        }
        if len(own):
            asked = self.edited.subset(list(own))
            there = forecast.drift(delta, forecast.shares(M, asked.keys))
            row["held"] = float(forecast.ask(self.lm, asked, there).exact.mean())
        self.rows[name], self.falls[name] = row, fall
        self.store.save(rows=np.array(json.dumps(self.rows)), falls=np.array(list(self.falls.values())))
        say(f"layer {self.layer}, {name}: fall {row['fall']:.3f}, norm {row['norm']:.1f}")
        return row["fall"]


def replay(
    W: np.ndarray, C: Any, targets: values.Targets, order: Any, rule: str = "rome", **options: Any
) -> LinearMemory:
    """The edits of an order, written with the target values that each has alone."""
    memory = LinearMemory(W, C)
    memory.edit_batch(targets.keys[:, order], targets.values[:, order], rule, **options)
    return memory


def at_norm(delta: np.ndarray, M: np.ndarray, norm: float) -> np.ndarray:
    """The residuals scaled so that ``|ΔW|`` is what is asked."""
    return delta * norm / _norm(delta, M)


def weighted(C: moments.Whitening, keys: np.ndarray, weight: float) -> moments.Whitening:
    """The factor of ``C + weight · mean k kᵀ``: protected keys counted ``weight`` times as a text of their own."""
    return moments.Whitening(C.moment + weight * keys @ keys.T / keys.shape[1])


def choose_by_overlap(crowd: np.ndarray, count: int, tilt: float, rng: np.random.Generator) -> np.ndarray:
    """``count`` of the pool, drawn with odds that rise (tilt > 0) or fall with the rank of their overlap."""
    rank = np.argsort(np.argsort(crowd)) / len(crowd)
    weight = np.exp(tilt * (rank - 0.5))
    return rng.choice(len(crowd), size=count, replace=False, p=weight / weight.sum())


def causes_layer(lm: models.LanguageModel, layer: int, draws: int = 3) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Arms that change one thing and hold the rest: which edits, where they point, how long they are, in what order."""
    start = time.perf_counter()
    pool, watched = choose(lm)
    targets = alone(lm, pool, layer)
    C, W = sources(lm, layer), lm.layers[layer].weight.detach().double().numpy()
    arms, rng, first = Arms(lm, layer, pool, watched), np.random.default_rng(1), np.arange(EDITS)
    base = replay(W, C, targets, first)
    delta, M = base.residuals, base.directions
    norm = _norm(delta, M)
    arms.add("as it is", delta, M, own=first)
    for place in ("subject", "not the subject", "last", "subject and last", "after the subject"):
        arms.add(f"only at: {place}", delta, M, place)
    for scale in (0.25, 0.5, 0.75, 1.5, 2.0):
        arms.add(f"scaled: {scale}", scale * delta, M)
    seen, half = arms.reading.keys[arms.reading.mask()].T.astype(np.float64), np.arange(len(watched)) % 2 == 0
    some = arms.reading.subset(half)
    for weight in (0.1, 1.0, 10.0, 100.0):
        for name, found in (("all", seen), ("half", some.keys[some.mask()].T.astype(np.float64))):
            other = replay(W, weighted(C, found, weight), targets, first)
            if name == "all":
                arms.add(f"protected: {weight:g}", other.residuals, other.directions, own=first)
                arms.add(
                    f"protected, same norm: {weight:g}",
                    at_norm(other.residuals, other.directions, norm),
                    other.directions,
                )
            elif weight in (1.0, 10.0):
                arms.add(f"half protected: {weight:g}", other.residuals, other.directions)
    plain = targets.keys[:, first] / np.sum(targets.keys[:, first] ** 2, axis=0)
    length = np.linalg.norm(M, axis=0)
    arms.add("not whitened, same norm", at_norm(delta, plain, norm), plain)
    for draw in range(draws):
        noise = rng.standard_normal(M.shape)
        noise *= length / np.linalg.norm(noise, axis=0)
        arms.add(f"any direction, same norm {draw}", at_norm(delta, noise, norm), noise)
        arms.add(f"residuals swapped {draw}", at_norm(delta[:, rng.permutation(EDITS)], M, norm), M)
        arms.add(f"signs drawn {draw}", delta * rng.choice([-1.0, 1.0], EDITS), M)
        random = rng.standard_normal(delta.shape)
        random *= np.linalg.norm(delta, axis=0) / np.linalg.norm(random, axis=0)
        arms.add(f"residuals drawn {draw}", random, M)
        order = rng.permutation(EDITS)
        other = replay(W, C, targets, order)
        arms.add(f"order {draw}", other.residuals, other.directions)
    arms.add("all at once", targets.shifts[:, first], M)
    for rule in ("rls-hard", "rls-soft"):
        other = replay(W, C, targets, first, rule)
        arms.add(rule, other.residuals, other.directions, own=first)
        arms.add(f"{rule}, same norm", at_norm(other.residuals, other.directions, norm), other.directions)
    own = forecast.shares(forecast.directions(targets.keys, C), arms.reading.keys)
    crowd = (own**2).sum((1, 2))
    usual = replay(W, C, targets, first[:CHOSEN])
    norm = _norm(usual.residuals, usual.directions)
    for draw, tilt in enumerate(np.linspace(-6, 6, 16)):
        chosen = choose_by_overlap(crowd, CHOSEN, tilt, rng)
        other = replay(W, C, targets, chosen)
        scaled = at_norm(other.residuals, other.directions, norm)
        arms.add(f"drawn {draw}", scaled, other.directions)
    for name, chosen in (("least", np.argsort(crowd)[:CHOSEN]), ("most", np.argsort(-crowd)[:CHOSEN])):
        other = replay(W, C, targets, rng.permutation(chosen))
        arms.add(f"{name} overlapping", other.residuals, other.directions, own=chosen)
        scaled = at_norm(other.residuals, other.directions, norm)
        arms.add(f"{name} overlapping, same norm", scaled, other.directions)
    row = {"layer": layer, "watched": len(watched), "edits": EDITS, "pool": len(pool), "arms": arms.rows}
    row |= {"seconds": round(time.perf_counter() - start, 1)}
    falls = np.array([arms.falls[name] for name in arms.rows], dtype=np.float32)
    return row, {"falls": falls, "before": arms.before.log_probability}


# --- the record ---------------------------------------------------------------------------------------------


def rounded(value: Any) -> Any:
    """Floats to six digits, so that the JSON stays small."""
    if isinstance(value, dict):
        return {key: rounded(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(x) for x in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


#: Arrays that a record keeps of its first run at most: with them a chapter can put the drift in again.
ONCE, KEPT_ONCE = (
    ("directions", "residuals", "edit keys", "residuals in a row"),
    ("directions", "residuals"),
)
#: Raise one when what it computes changes: what is finished is kept in the cache under it.
VERSIONS = {"forecasts": 1, "causes": 1}
KINDS = {"forecasts": forecast_layer, "causes": causes_layer}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=KINDS)
    parser.add_argument("--runs", nargs="+", required=True, metavar="MODEL:LAYER", help="the first one's drift is kept")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows, arrays, chosen, name, lm = [], {}, {}, "", None
    for turn, (wanted, layer) in enumerate(run.split(":") for run in asked.runs):
        if wanted != name:
            name, lm = wanted, models.load(wanted, device="cpu")
            edits, watched = choose(lm)
            chosen[name] = {
                "edits": [[f.subject, f.relation, f.target_new] for f in edits],
                "watched": [[f.subject, f.relation] for f in watched],
            }
        store = Store(asked.which, VERSIONS[asked.which], lm.digest(), int(layer), values.Settings(), TOKENS, EDITS)
        kept = store.load()
        if kept:
            row, found = json.loads(str(kept.pop("row"))), kept
        else:
            row, found = KINDS[asked.which](lm, int(layer))
            store.save(row=np.array(json.dumps(row)), **found)
        rows.append({"model": name, "sha256": lm.sha256} | row)
        arrays |= {
            f"{name} {layer} {what}": value.astype(np.float32) if value.dtype == np.float64 else value
            for what, value in found.items()
            if what not in ONCE or (what in KEPT_ONCE and turn == 0)
        }
    data = {
        "kind": asked.which,
        "runs": rounded(rows),
        "looks": list(LOOKS),
        "chosen": chosen,
        "facts": {"source": "book", "sha256": facts.fingerprint("book")},
        "text": {"source": "book", "tokens": TOKENS},
        "settings": values.Settings().as_dict(),
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "provenance": records.provenance(
            command="python benchmarks/make_forecasts.py " + shlex.join(sys.argv[1:]), seed=0
        ),
    }
    records.write(asked.out, data, arrays)
    say(f"{asked.out} written")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
