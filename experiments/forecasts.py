"""Make the records of the chapters on forecasts, causes and cures: lives of ROME, forecast before they begin.

python experiments/forecasts.py {forecasts,causes,cures} --runs smollm2:6 smollm2:12 --out book/records/NAME.json

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
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from superposition import records
from superposition.data import facts
from superposition.data.facts import Fact
from superposition.editing import editor as editing
from superposition.editing import forecast
from superposition.editing import targets as values
from superposition.editing.forecast import Reading
from superposition.io import files, paths
from superposition.linear.memory import LinearMemory
from superposition.lm import evaluation, keys, models, moments, passes
from superposition.stats import ranking

EDITS, POOL, CHOSEN, LOOKS, TOKENS = 60, 100, 40, (15, 30, 60), 102_400
RESAMPLES = 1000

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
        if fact.subject not in taken and keys.locate(lm.tokenizer, fact).position > 0:  # 0 is the attention sink
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
        made |= candidates_from_slopes(reading, part, replayed.residuals)
        store = Store("passes", 1, lm.digest(), layer, values.Settings(), TOKENS, n)
        kept = store.load()
        if not kept:
            places = forecast.PLACES if n == max(LOOKS) else ("all",)
            kept = forecast.candidates_from_passes(lm, reading, part, replayed.residuals, places=places)
            if n == max(LOOKS):
                kept |= hindsight(lm, reading, part, memory, targets)
                slope = forecast.slope_along(lm, reading, forecast.drift(replayed.residuals, part), 2)
                kept["by edit"] = forecast.first_order(slope, replayed.residuals, part)
            store.save(**kept)
        if "by edit" in kept:
            arrays["by edit"] = kept.pop("by edit")
        made |= kept
        for name, value in made.items():
            arrays[f"forecast {n} {name}"] = value
        lost = reading.exact & ~seen["exact"][look]
        row = {
            "edits": n,
            "fall": float(falls[look].mean()),
            "lost": float(lost.mean()),
            "ranks": {},
            "sizes": {},
            "separations": {},
        }
        for name, value in made.items():
            row["ranks"][name] = ranking.rank_correlation(value, falls[look], resamples=RESAMPLES)
            row["sizes"][name] = ranking.rank_correlation(value, np.abs(falls[look]), resamples=RESAMPLES)
            row["separations"][name] = ranking.roc_area(value, lost, resamples=RESAMPLES)
        say(f"layer {layer}, {n} edits: fall {row['fall']:.3f}, best forecast {row['ranks']['drift, all'][0]:.2f}")
        row |= {"norm": _norm(memory.residuals[:, :n], memory.directions[:, :n])}
        row |= {"norm_replayed": _norm(replayed.residuals, replayed.directions)}
        rows.append(row)
    delta = np.linalg.norm(memory.residuals, axis=0)
    row = {"layer": layer, "watched": len(watched), "looks": rows, "probability": probability}
    row |= {"delta": delta.tolist(), "delta_alone": np.linalg.norm(targets.shifts, axis=0).tolist()}
    row |= {"probability_alone": targets.probability.tolist(), "seconds": round(time.perf_counter() - start, 1)}
    arrays |= {"residuals": replayed.residuals, "directions": replayed.directions}
    arrays |= {"edit keys": targets.keys, "residuals in a row": memory.residuals}
    return row, arrays


def candidates_from_slopes(reading: Reading, part: np.ndarray, delta: np.ndarray) -> dict[str, np.ndarray]:
    """Forecasts from keys and slopes without target values, and what is known without any edit: the null."""
    spread = forecast.slope_spread(reading.gradient, part)
    slope = np.sqrt((reading.gradient**2).sum((1, 2)))
    by_edit = forecast.first_order(reading.gradient, delta, part)
    found = {"slope spread": np.sqrt((spread**2).sum(0)), "first order, without signs": np.sqrt((by_edit**2).sum(0))}
    return found | {"null: slope": slope, "null: unsure": -reading.log_probability}


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

    def __init__(
        self, lm: models.LanguageModel, layer: int, edits: Sequence[Fact], watched: Sequence[Fact], kind: str = "causes"
    ):
        self.lm, self.layer = lm, layer
        self.reading = forecast.read(lm, watched, layer, passes=False)
        self.before = forecast.ask(lm, self.reading)
        asked = [Fact(f.subject, f.prompt, target_true=f.target_new) for f in edits]
        self.edited = forecast.read(lm, asked, layer, passes=False)
        self.store = Store(
            f"arms of {kind}", ARMS_VERSION, lm.digest(), layer, values.Settings(), TOKENS, EDITS, POOL, CHOSEN
        )
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
            "loss": float(np.maximum(fall, 0).mean()),
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
        self._keep(name, row, fall)
        return row["fall"]

    def add_written(self, name: str, norms: dict[int, float], own: Sequence[int]) -> None:
        """An arm that is written into the model's own weights."""
        said = forecast.ask(self.lm, self.reading)
        fall = self.before.log_probability - said.log_probability
        row: dict[str, Any] = {"edits": len(own), "fall": float(fall.mean()), "kept": float(said.exact.mean())}
        row["loss"] = float(np.maximum(fall, 0).mean())
        row |= {"norm": float(np.sqrt(sum(x * x for x in norms.values()))), "norms": list(norms.values())}
        row["held"] = float(forecast.ask(self.lm, self.edited.subset(list(own))).exact.mean())
        self._keep(name, row, fall)

    def _keep(self, name: str, row: dict[str, Any], fall: np.ndarray) -> None:
        self.rows[name], self.falls[name] = row, fall
        self.store.save(rows=np.array(json.dumps(self.rows)), falls=np.array(list(self.falls.values())))
        say(
            f"layer {self.layer}, {name}: fall {row['fall']:.3f}, norm {row['norm']:.1f}, held {row.get('held', 0):.2f}"
        )


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


def weighted(C: moments.Whitening, found: np.ndarray, weight: float) -> moments.Whitening:
    """The factor of ``C + weight · mean k kᵀ``: protected keys counted ``weight`` times as a text of their own."""
    return moments.Whitening(moments.protecting(C.moment, found, weight))


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


# --- cures --------------------------------------------------------------------------------------------------


def spread(
    lm: models.LanguageModel, layers: Sequence[int], edits: Sequence[Fact], targets: values.Targets
) -> Callable[[], Any]:
    """Write each edit in equal parts at several layers, the last of them the one that the targets were found at.

    As MEMIT does: at each layer the part is what the stream after the last layer still lacks, divided by the layers to
    come, which includes this one. The directions are ROME's. The model is changed.
    """
    factors, subject = {layer: sources(lm, layer) for layer in layers}, layers[-1]
    block = lm.block(lm.layers[subject])
    asked = forecast.read(lm, edits, subject, passes=False)

    def run(i: int) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        place, ids = int(asked.subjects[i]), torch.from_numpy(asked.token_ids[i : i + 1, : asked.prompts[i]])
        found: dict[Any, np.ndarray] = {}

        def stream(_module: Any, _inputs: Any, output: Any) -> None:
            out = output[0] if isinstance(output, tuple) else output
            found["stream"] = out[0, place].double().numpy()

        def key(layer: int) -> Callable[..., None]:
            return lambda _module, inputs: found.__setitem__(layer, inputs[0][0, place].double().numpy())

        handles = [block.register_forward_hook(stream)]
        handles += [lm.layers[one].module.register_forward_pre_hook(key(one)) for one in layers]
        try:
            with torch.no_grad():
                passes.run_body(lm, ids, torch.ones_like(ids), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return found.pop("stream"), found

    wanted = [run(i)[0] + targets.shifts[:, i] for i in range(len(edits))]
    memories = {one: LinearMemory(lm.layers[one].weight.detach().double().numpy(), factors[one]) for one in layers}
    for i in range(len(edits)):
        for turn, one in enumerate(layers):
            stream, found = run(i)
            part = (wanted[i] - stream) / (len(layers) - turn)
            memories[one].edit(found[one], memories[one].recall(found[one]) + part)
            lm.layers[one].weight.copy_(torch.from_numpy(memories[one].W))
    return lambda: {one: float(np.linalg.norm(memory.W - memory.W_0)) for one, memory in memories.items()}


def costs(
    lm: models.LanguageModel, layer: int, targets: values.Targets, C: moments.Whitening
) -> dict[str, dict[str, float]]:
    """Seconds to prepare each rule and to write an edit by it, and the most memory that this took at once, in MiB."""
    found = {}
    for rule in ("rome", "memit", "memit-history", "rls-soft", "rls-hard", "alphaedit"):
        tracemalloc.start()
        began = time.perf_counter()
        editor = editing.Editor(lm, layer, rule, C=C.moment)
        ready = time.perf_counter()
        for i in range(EDITS):
            editor.memory.edit_batch(targets.keys[:, i : i + 1], targets.values[:, i : i + 1], rule, **editor.options)
        done = time.perf_counter()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        found[rule] = {"prepare": ready - began, "edit": (done - ready) / EDITS, "peak_mib": peak / 2**20}
    return found


def cost_of_protection(
    lm: models.LanguageModel, layer: int, watched: Sequence[Fact], C: moments.Whitening
) -> dict[str, float]:
    """Seconds to read the keys of the facts to protect, and to make the factor of C with them in it."""
    began = time.perf_counter()
    reading = forecast.read(lm, watched, layer, passes=False)
    read = time.perf_counter()
    weighted(C, reading.keys[reading.mask()].T.astype(np.float64), 10.0).solve(np.zeros((len(C.moment), 1)))
    return {"read": read - began, "prepare": time.perf_counter() - read, "facts": len(watched)}


def cures_layer(lm: models.LanguageModel, layer: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Each cure alone, with the target values that each edit has alone: what is damaged, what holds, what it costs."""
    start = time.perf_counter()
    pool, watched = choose(lm)
    pool = pool[:EDITS]
    targets = alone(lm, pool, layer)
    C, W = sources(lm, layer), lm.layers[layer].weight.detach().double().numpy()
    arms, rng, first = Arms(lm, layer, pool, watched, "cures"), np.random.default_rng(2), np.arange(EDITS)

    def add(name: str, memory: LinearMemory, own: Sequence[int] = first) -> None:
        arms.add(name, memory.residuals, memory.directions, own=own)

    base = replay(W, C, targets, first)
    add("as it is", base)
    for rule in ("rls-soft", "rls-hard", "memit", "memit-history", "alphaedit"):
        options = editing.Editor(lm, layer, rule, C=C.moment).options
        began = time.perf_counter()
        memory = LinearMemory(W, C)
        for i in first:
            memory.edit_batch(targets.keys[:, i : i + 1], targets.values[:, i : i + 1], rule, **options)
        add(f"rule: {rule}", memory)
        arms.rows[f"rule: {rule}"].setdefault("seconds", round(time.perf_counter() - began, 2))
    add("all in one step", replay(W, C, targets, first, "emmet"))
    reading = forecast.read(lm, watched, layer)
    part = forecast.shares(base.directions, reading.keys)
    slope = forecast.slope_along(lm, reading, forecast.drift(base.residuals, part), 2)
    harm = forecast.first_order(slope, base.residuals, part).sum(1)
    crowd, among = (part**2).sum((1, 2)), (base.directions.T @ targets.keys[:, first]) ** 2
    for name, risk in (
        ("harm", harm),
        ("overlap", crowd),
        ("overlap among edits", among.sum(0) + among.sum(1)),
        ("size", np.linalg.norm(base.residuals, axis=0) ** 2 * crowd),
    ):
        safe = np.argsort(risk, kind="stable")
        add(f"order: safe first, by {name}", replay(W, C, targets, safe), safe)
        add(f"order: safe last, by {name}", replay(W, C, targets, safe[::-1]), safe[::-1])
        for left in (0.75, 0.9):
            kept = np.sort(safe[: round(left * EDITS)])
            add(f"skip: {1 - left:.0%} by {name}", replay(W, C, targets, kept), kept)
    for draw in range(3):
        for left in (0.75, 0.9):
            kept = np.sort(rng.permutation(EDITS)[: round(left * EDITS)])
            add(f"skip: {1 - left:.0%} drawn {draw}", replay(W, C, targets, kept), kept)
    size = np.linalg.norm(base.residuals, axis=0)
    for quantile in (0.25, 0.5, 0.75):
        cap = np.quantile(size, quantile)
        arms.add(f"cap: {quantile}", base.residuals * np.minimum(1, cap / size), base.directions, own=first)
    for shrinkage in (0.01, 0.1):
        smooth = moments.Whitening(
            (1 - shrinkage) * C.moment + shrinkage * np.trace(C.moment) / len(C.moment) * np.eye(len(C.moment))
        )
        add(f"shrinkage: {shrinkage}", replay(W, smooth, targets, first))
    seen = reading.keys[reading.mask()].T.astype(np.float64)
    half = reading.subset(np.arange(len(watched)) % 2 == 0)
    for weight in (1.0, 10.0, 100.0):
        add(f"protect: {weight:g}", replay(W, weighted(C, seen, weight), targets, first))
    add("protect half: 10", replay(W, weighted(C, half.keys[half.mask()].T.astype(np.float64), 10.0), targets, first))
    add("protect: 10, rls-hard", replay(W, weighted(C, seen, 10.0), targets, first, "rls-hard"))
    for count in (2, 3):
        if layer + 1 >= count and f"spread: {count}" not in arms.rows:
            with editing.preserved(lm):
                norms = spread(lm, list(range(layer - count + 1, layer + 1)), pool, targets)()
                arms.add_written(f"spread: {count}", norms, first)
    for n in (look for look in LOOKS if look < EDITS):  # the same on the way
        lives = {name: replay(W, C, targets, first[:n], name) for name in ("rome", "rls-hard")}
        for name, rule in {"alphaedit": "alphaedit", "memit-history": "memit-history"}.items():
            options = editing.Editor(lm, layer, rule, C=C.moment).options
            lives[name] = LinearMemory(W, C)
            for i in first[:n]:
                lives[name].edit_batch(targets.keys[:, i : i + 1], targets.values[:, i : i + 1], rule, **options)
        lives["protect: 10"] = replay(W, weighted(C, seen, 10.0), targets, first[:n])
        if n == min(LOOKS):
            protecting = lives["protect: 10"].directions
        for name, memory in lives.items():
            add(f"after {n}: {name}", memory, first[:n])
        cap = np.quantile(size, 0.5)
        part = slice(0, n)
        arms.add(f"after {n}: cap: 0.5", base.residuals[:, part] * np.minimum(1, cap / size[part]),
                 base.directions[:, part], own=first[:n])  # fmt: skip
    row = {"layer": layer, "watched": len(watched), "edits": EDITS, "arms": arms.rows}
    row |= {"seconds": round(time.perf_counter() - start, 1), "costs": costs(lm, layer, targets, C)}
    row["costs"]["protect"] = cost_of_protection(lm, layer, watched, C)
    falls = np.array([arms.falls[name] for name in arms.rows], dtype=np.float32)
    return row, {"falls": falls, "protecting": protecting}


# --- the record ---------------------------------------------------------------------------------------------


def rounded(value: Any) -> Any:
    """Floats to six digits, so that the JSON stays small."""
    if isinstance(value, dict):
        return {key: rounded(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(x) for x in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


#: Of the forecasts themselves a record keeps those that its chapter draws or checks: after the last look, after each
#: look, and after the first look of the first run (with that drift a chapter goes through the model again).
KEPT_AT_THE_END = (
    "p norm, subject",
    "p norm, from the subject on",
    "drift norm, all",
    "slope spread",
    "known residuals: drift, all",
)
KEPT_AT_EACH_LOOK = ("first order, all", "drift, all")
KEPT_LIVE = ("p norm, all", "drift norm, all")
MEASURES = ("ranks", "sizes", "separations")


def compact(row: dict[str, Any], arrays: dict[str, np.ndarray], first: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a record keeps of a layer: short lists in its JSON, all tables as arrays, what is long in half precision."""
    row, kept = dict(row), {}
    if "arms" in row:
        arms = row.pop("arms")
        row["columns"] = list(dict.fromkeys(name for arm in arms.values() for name in arm if name != "norms"))
        row["arms"] = list(arms)
        kept["table"] = np.array([[arm.get(name, np.nan) for name in row["columns"]] for arm in arms.values()])
        halves = {name: arrays[name].astype(np.float16) for name in ("falls", "protecting") if name in arrays}
        return row, {"table": kept["table"].astype(np.float32)} | halves
    names, row["looks"] = list(row["looks"][-1]["ranks"]), [dict(look) for look in row["looks"]]
    absent = [np.nan] * 3
    kept["statistics"] = np.array(
        [
            [[measured.get(name, absent) for name in names] for measured in (look.pop(measure) for measure in MEASURES)]
            for look in row["looks"]
        ]
    )
    row["forecasts"] = names
    for name in ("probability", "probability_alone", "delta", "delta_alone"):
        kept[name] = np.array(row.pop(name))
    looks = [look["edits"] for look in row["looks"]]
    wanted = {f"forecast {looks[-1]} {name}" for name in KEPT_AT_THE_END} | {"fall", "before"}
    wanted |= {f"forecast {n} {name}" for n in looks for name in KEPT_AT_EACH_LOOK}
    if first:
        wanted |= {f"forecast {looks[0]} {name}" for name in KEPT_LIVE}
        blame = arrays["by edit"].argmax(0)
        kept |= {"directions": arrays["directions"][:, : looks[0]], "residuals": arrays["residuals"][:, : looks[0]]}
        kept["blamed share"] = np.take_along_axis(arrays["by edit"], blame[None], 0)[0]
    kept |= {name: arrays[name] for name in arrays if name in wanted}
    kept = {name: np.asarray(value).astype(np.float16) for name, value in kept.items()}
    if first:
        kept["blamed"] = blame.astype(np.int16)
    return row, kept | {"kept": arrays["kept"]}


#: Raise one when what it computes changes: what is finished is kept in the cache under it.
VERSIONS = {"forecasts": 2, "causes": 1, "cures": 3}
KINDS = {"forecasts": forecast_layer, "causes": causes_layer, "cures": cures_layer}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=KINDS)
    parser.add_argument("--runs", nargs="+", required=True, metavar="MODEL:LAYER", help="the first one's drift is kept")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows, arrays, name, lm = [], {}, "", None
    for turn, (wanted, layer) in enumerate(run.split(":") for run in asked.runs):
        if wanted != name:
            name, lm = wanted, models.load(wanted, device="cpu")
            listed, (edits, watched) = facts.load("book"), choose(lm)
            count = EDITS if asked.which != "causes" else POOL
            for what, some in (("edits", edits[:count]), ("watched", watched)):
                arrays[f"{name} {what}"] = np.array([listed.index(fact) for fact in some], dtype=np.int16)
        store = Store(asked.which, VERSIONS[asked.which], lm.digest(), int(layer), values.Settings(), TOKENS, EDITS)
        kept = store.load()
        if kept:
            row, found = json.loads(str(kept.pop("row"))), kept
        else:
            row, found = KINDS[asked.which](lm, int(layer))
            store.save(row=np.array(json.dumps(row)), **found)
        row, found = compact(row, found, first=turn == 0)
        rows.append({"model": name, "sha256": lm.sha256} | row)
        arrays |= {f"{name} {layer} {what}": value for what, value in found.items()}
    data = {
        "kind": asked.which,
        "runs": rounded(rows),
        "looks": list(LOOKS),
        "facts": {"source": "book", "sha256": facts.fingerprint("book")},
        "text": {"source": "book", "tokens": TOKENS},
        "settings": values.Settings().as_dict(),
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "provenance": records.provenance(command="python experiments/forecasts.py " + shlex.join(sys.argv[1:]), seed=0),
    }
    records.write(asked.out, data, arrays)
    say(f"{asked.out} written")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
