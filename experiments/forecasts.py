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

from superposition import editing, records
from superposition.data import facts
from superposition.data.facts import Fact
from superposition.editing import forecast
from superposition.editing.forecast import Reading
from superposition.io import files, paths
from superposition.linear import shrinkage
from superposition.linear.edit import Edit
from superposition.linear.memory import LinearMemory
from superposition.linear.metric import Metric
from superposition.lm import keys, models, moments, passes, scoring
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
    known = scoring.known(lm, everything)
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


def alone(lm: models.LanguageModel, edits: Sequence[Fact], layer: int, batch: int = 10) -> editing.Targets:
    """The target value of each edit on the unedited model."""
    store = Store("alone", 2, lm.digest(), layer, editing.TargetSettings())
    kept, names = store.load(), tuple(editing.Targets.__dataclass_fields__)
    about = np.array([f"{fact.text}\t{fact.target_new}" for fact in edits])
    done = (
        len(kept.pop("about"))
        if kept and np.array_equal(kept["about"][: len(about)], about[: len(kept["about"])])
        else 0
    )
    while done < len(edits):
        found = editing.targets.search(lm, edits[done : done + batch], layer, batch=batch)
        new = {name: getattr(found, name) for name in names}
        kept = {name: np.concatenate([kept[name], new[name]], -1) for name in names} if done else new
        done = kept["keys"].shape[1]
        store.save(about=about[:done], **kept)
        say(f"layer {layer}: targets of {done} edits, each alone")
    return editing.Targets(**{name: kept[name][..., : len(edits)] for name in names})


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
    store = Store(
        "life", 1, lm.digest(), layer, [(f.text, f.target_new) for f in edits], editing.TargetSettings(), TOKENS
    )
    kept, bits, weight = store.load(), lm.digest(), lm.layers[layer].weight
    memory = LinearMemory(weight.detach().double().numpy(), C)
    d, d_m = weight.shape
    told = {"values": np.zeros((d, 0)), "keys": np.zeros((d_m, 0)), "probability": np.zeros(0)} | kept
    seen = {name: told.pop(name) for name in ("log_probability", "exact") if name in told}
    with passes.restored(weight):
        for i, fact in enumerate(edits):
            if i == told["keys"].shape[1]:
                found = editing.targets.search(lm, [fact], layer)
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
    if lm.digest() != bits:
        raise RuntimeError("The weights are not what they were before the life.")
    return memory, seen, told["probability"].tolist()


# --- forecasts ----------------------------------------------------------------------------------------------


def sources(lm: models.LanguageModel, layer: int, tokens: int = TOKENS) -> Metric:
    """The metric of C at a layer, from the book's text."""
    return Metric(moments.estimate(lm, "book", tokens=tokens, layers=[layer]).second_moment(layer))


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
        edit = replayed.edits
        made = forecast.candidates_from_keys(reading, forecast.shares(edit.M, reading.keys))
        made |= forecast.candidates_from_values(reading, edit, targets.shifts[:, :n])
        made |= candidates_from_slopes(reading, edit)
        store = Store("passes", 1, lm.digest(), layer, editing.TargetSettings(), TOKENS, n)
        kept = store.load()
        if not kept:
            places = forecast.PLACES if n == max(LOOKS) else ("all",)
            kept = forecast.candidates_from_passes(lm, reading, edit, places=places)
            if n == max(LOOKS):
                kept |= hindsight(lm, reading, edit.M, memory, targets)
                slope = forecast.slope_along(lm, reading, forecast.drift(edit, reading.keys), 2)
                kept["by edit"] = forecast.first_order(slope, edit, reading.keys)
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
        row |= {"norm": memory.edits[:n].norm(), "norm_replayed": edit.norm()}
        rows.append(row)
    delta = np.linalg.norm(memory.residuals, axis=0)
    row = {"layer": layer, "watched": len(watched), "looks": rows, "probability": probability}
    row |= {"delta": delta.tolist(), "delta_alone": np.linalg.norm(targets.shifts, axis=0).tolist()}
    row |= {"probability_alone": targets.probability.tolist(), "seconds": round(time.perf_counter() - start, 1)}
    arrays |= {"residuals": edit.delta, "directions": edit.M}
    arrays |= {"edit keys": targets.keys, "residuals in a row": memory.residuals}
    return row, arrays


def candidates_from_slopes(reading: Reading, edit: Edit) -> dict[str, np.ndarray]:
    """Forecasts from keys and slopes without target values, and what is known without any edit: the null."""
    spread = forecast.slope_spread(reading.gradient, forecast.shares(edit.M, reading.keys))
    slope = np.sqrt((reading.gradient**2).sum((1, 2)))
    by_edit = forecast.first_order(reading.gradient, edit, reading.keys)
    found = {"slope spread": np.sqrt((spread**2).sum(0)), "first order, without signs": np.sqrt((by_edit**2).sum(0))}
    return found | {"null: slope": slope, "null: unsure": -reading.log_probability}


def hindsight(
    lm: models.LanguageModel,
    reading: Reading,
    M: np.ndarray,
    memory: LinearMemory,
    targets: editing.Targets,
) -> dict[str, np.ndarray]:
    """What a forecast would be that knew the residuals to come, and one that lets no edit see another."""
    known = Edit(memory.residuals, M)
    after = forecast.candidates_from_passes(lm, reading, known, places=("subject", "all"))
    sizes = forecast.candidates_from_values(reading, known)
    at_once = forecast.candidates_from_passes(lm, reading, Edit(targets.shifts, M), places=("all",))
    found = {f"known residuals: {name}": value for name, value in (after | sizes).items()}
    return found | {f"each alone: {name}": value for name, value in at_once.items()}


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
            f"arms of {kind}", ARMS_VERSION, lm.digest(), layer, editing.TargetSettings(), TOKENS, EDITS, POOL, CHOSEN
        )
        kept = self.store.load()
        self.rows: dict[str, dict[str, Any]] = json.loads(str(kept["rows"])) if kept else {}
        self.falls = dict(zip(self.rows, kept["falls"], strict=True)) if kept else {}

    def add(self, name: str, edit: Edit, place: str = "all", own: Sequence[int] = ()) -> float:
        """Run an arm, unless it is kept; the edits that it writes, ``own`` by number, are asked too if given."""
        if name in self.rows:
            return self.rows[name]["fall"]
        part, moved = forecast.shares(edit.M, self.reading.keys), forecast.drift(edit, self.reading.keys)
        mask = self.reading.mask(place)
        said = forecast.ask(self.lm, self.reading, moved * mask[:, :, None])
        fall, size = self.before.log_probability - said.log_probability, np.sum(edit.delta**2, axis=0)
        squares, at_subject = (part**2 * mask).sum(2), (part**2 * self.reading.mask("subject")).sum(2)
        row = {
            "edits": len(edit),
            "fall": float(fall.mean()),
            "loss": float(np.maximum(fall, 0).mean()),
            "kept": float(said.exact.mean()),
            "norm": edit.norm(),
            "sum_of_lengths": float(np.sqrt(size).sum()),
            "crowding": float((squares * size[:, None]).sum() / len(fall)),  # Σ_i Σ_t p² |δ|², mean over facts
            "crowding_at_subject": float((at_subject * size[:, None]).sum() / len(fall)),
            "drift": float((moved**2).sum((1, 2)).mean()),
            "p2": float(squares.sum() / len(fall)),
        }
        if len(own):
            asked = self.edited.subset(list(own))
            there = forecast.drift(edit, asked.keys)
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
    W: np.ndarray, C: Any, targets: editing.Targets, order: Any, rule: str = "rome", **options: Any
) -> LinearMemory:
    """The edits of an order, written with the target values that each has alone."""
    memory = LinearMemory(W, C)
    memory.edit_batch(targets.keys[:, order], targets.values[:, order], rule, **options)
    return memory


def weighted(C: Metric, found: np.ndarray, weight: float) -> Metric:
    """The metric of ``C + weight · mean k kᵀ``: protected keys counted ``weight`` times as a text of their own."""
    return Metric(shrinkage.protecting(C.moment, found, weight))


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
    edit = base.edits
    delta, M, norm = edit.delta, edit.M, edit.norm()
    arms.add("as it is", edit, own=first)
    for place in ("subject", "not the subject", "last", "subject and last", "after the subject"):
        arms.add(f"only at: {place}", edit, place)
    for scale in (0.25, 0.5, 0.75, 1.5, 2.0):
        arms.add(f"scaled: {scale}", Edit(scale * delta, M))
    seen, half = arms.reading.keys[arms.reading.mask()].T.astype(np.float64), np.arange(len(watched)) % 2 == 0
    some = arms.reading.subset(half)
    for weight in (0.1, 1.0, 10.0, 100.0):
        for name, found in (("all", seen), ("half", some.keys[some.mask()].T.astype(np.float64))):
            other = replay(W, weighted(C, found, weight), targets, first).edits
            if name == "all":
                arms.add(f"protected: {weight:g}", other, own=first)
                arms.add(f"protected, same norm: {weight:g}", other.scaled_to(norm))
            elif weight in (1.0, 10.0):
                arms.add(f"half protected: {weight:g}", other)
    plain = targets.keys[:, first] / np.sum(targets.keys[:, first] ** 2, axis=0)
    length = np.linalg.norm(M, axis=0)
    arms.add("not whitened, same norm", Edit(delta, plain).scaled_to(norm))
    for draw in range(draws):
        noise = rng.standard_normal(M.shape)
        noise *= length / np.linalg.norm(noise, axis=0)
        arms.add(f"any direction, same norm {draw}", Edit(delta, noise).scaled_to(norm))
        arms.add(f"residuals swapped {draw}", Edit(delta[:, rng.permutation(EDITS)], M).scaled_to(norm))
        arms.add(f"signs drawn {draw}", Edit(delta * rng.choice([-1.0, 1.0], EDITS), M))
        random = rng.standard_normal(delta.shape)
        random *= np.linalg.norm(delta, axis=0) / np.linalg.norm(random, axis=0)
        arms.add(f"residuals drawn {draw}", Edit(random, M))
        order = rng.permutation(EDITS)
        arms.add(f"order {draw}", replay(W, C, targets, order).edits)
    arms.add("all at once", Edit(targets.shifts[:, first], M))
    for rule in ("rls-hard", "rls-soft"):
        other = replay(W, C, targets, first, rule).edits
        arms.add(rule, other, own=first)
        arms.add(f"{rule}, same norm", other.scaled_to(norm))
    own = forecast.shares(forecast.directions(targets.keys, C), arms.reading.keys)
    crowd = (own**2).sum((1, 2))
    norm = replay(W, C, targets, first[:CHOSEN]).edits.norm()
    for draw, tilt in enumerate(np.linspace(-6, 6, 16)):
        chosen = choose_by_overlap(crowd, CHOSEN, tilt, rng)
        arms.add(f"drawn {draw}", replay(W, C, targets, chosen).edits.scaled_to(norm))
    for name, chosen in (("least", np.argsort(crowd)[:CHOSEN]), ("most", np.argsort(-crowd)[:CHOSEN])):
        other = replay(W, C, targets, rng.permutation(chosen)).edits
        arms.add(f"{name} overlapping", other, own=chosen)
        arms.add(f"{name} overlapping, same norm", other.scaled_to(norm))
    row = {"layer": layer, "watched": len(watched), "edits": EDITS, "pool": len(pool), "arms": arms.rows}
    row |= {"seconds": round(time.perf_counter() - start, 1)}
    falls = np.array([arms.falls[name] for name in arms.rows], dtype=np.float32)
    return row, {"falls": falls, "before": arms.before.log_probability}


# --- cures --------------------------------------------------------------------------------------------------


def spread(
    lm: models.LanguageModel, layers: Sequence[int], edits: Sequence[Fact], targets: editing.Targets
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

        reading = passes.hooked(*((lm.layers[one].module, key(one)) for one in layers), before=True)
        with torch.no_grad(), passes.hooked((block, stream)), reading:
            passes.run_body(lm, ids, torch.ones_like(ids), use_cache=False)
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


def costs(lm: models.LanguageModel, layer: int, targets: editing.Targets, C: Metric) -> dict[str, dict[str, float]]:
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


def cost_of_protection(lm: models.LanguageModel, layer: int, watched: Sequence[Fact], C: Metric) -> dict[str, float]:
    """Seconds to read the keys of the facts to protect, and to make the metric of C with them in it."""
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
        arms.add(name, memory.edits, own=own)

    base = replay(W, C, targets, first)
    add("as it is", base)
    for rule in ("rls-soft", "rls-hard", "memit", "memit-history", "alphaedit"):
        options = editing.Editor(lm, layer, rule, C=C).options
        began = time.perf_counter()
        memory = LinearMemory(W, C)
        for i in first:
            memory.edit_batch(targets.keys[:, i : i + 1], targets.values[:, i : i + 1], rule, **options)
        add(f"rule: {rule}", memory)
        arms.rows[f"rule: {rule}"].setdefault("seconds", round(time.perf_counter() - began, 2))
    add("all in one step", replay(W, C, targets, first, "emmet"))
    reading = forecast.read(lm, watched, layer)
    edit = base.edits
    slope = forecast.slope_along(lm, reading, forecast.drift(edit, reading.keys), 2)
    harm = forecast.first_order(slope, edit, reading.keys).sum(1)
    crowd = (forecast.shares(edit.M, reading.keys) ** 2).sum((1, 2))
    among = edit.shares(targets.keys[:, first]) ** 2
    size = np.linalg.norm(edit.delta, axis=0)
    for name, risk in (
        ("harm", harm),
        ("overlap", crowd),
        ("overlap among edits", among.sum(0) + among.sum(1)),
        ("size", size**2 * crowd),
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
    for quantile in (0.25, 0.5, 0.75):
        cap = np.quantile(size, quantile)
        arms.add(f"cap: {quantile}", Edit(edit.delta * np.minimum(1, cap / size), edit.M), own=first)
    for share in (0.01, 0.1):
        smooth = Metric(shrinkage.shrunk(C.moment, share))
        add(f"shrinkage: {share}", replay(W, smooth, targets, first))
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
            options = editing.Editor(lm, layer, rule, C=C).options
            lives[name] = LinearMemory(W, C)
            for i in first[:n]:
                lives[name].edit_batch(targets.keys[:, i : i + 1], targets.values[:, i : i + 1], rule, **options)
        lives["protect: 10"] = replay(W, weighted(C, seen, 10.0), targets, first[:n])
        if n == min(LOOKS):
            protecting = lives["protect: 10"].directions
        for name, memory in lives.items():
            add(f"after {n}: {name}", memory, first[:n])
        cap = np.quantile(size, 0.5)
        capped = Edit(edit.delta[:, :n] * np.minimum(1, cap / size[:n]), edit.M[:, :n])
        arms.add(f"after {n}: cap: 0.5", capped, own=first[:n])
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
        store = Store(
            asked.which, VERSIONS[asked.which], lm.digest(), int(layer), editing.TargetSettings(), TOKENS, EDITS
        )
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
        "settings": editing.TargetSettings().as_dict(),
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "provenance": records.provenance(command="python experiments/forecasts.py " + shlex.join(sys.argv[1:]), seed=0),
    }
    records.write(asked.out, data, arrays)
    say(f"{asked.out} written")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
