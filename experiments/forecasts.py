"""Make the records of the chapters on forecasts, causes and cures: sequences of ROME edits, forecast beforehand.

python experiments/forecasts.py {forecasts,causes,cures} --runs smollm2:6 smollm2:12 --out book/records/NAME.json

What takes long (target values, the sequences themselves) is kept in the user's cache edit by edit; run again, an
interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from superposition import editing, records
from superposition.data import facts
from superposition.data.facts import Fact
from superposition.editing import forecast, lifetime, targets
from superposition.editing.forecast import Reading
from superposition.io import cache
from superposition.linear import shrinkage
from superposition.linear.edit import Edit
from superposition.linear.memory import LinearMemory
from superposition.linear.metric import Metric
from superposition.lm import keys, models, moments, passes, scoring
from superposition.stats import ranking

#: Raise it when an arm's name comes to mean something else: arms are kept in the cache under it.
ARMS_VERSION = 3


@dataclass(frozen=True)
class Sizes:
    """How much is done: edits of a sequence, facts they are chosen from, how many an arm takes, when is looked."""

    edits: int = 60
    pool: int = 100
    chosen: int = 40
    looks: tuple[int, ...] = (15, 30, 60)
    tokens: int = 102_400
    resamples: int = 1000
    settings: editing.TargetSettings = field(default_factory=editing.TargetSettings)


@dataclass(frozen=True)
class Case:
    """A model and the layer that is edited, facts to edit and facts to watch, the metric of C at a layer, the sizes."""

    lm: models.LanguageModel
    layer: int
    pool: Sequence[Fact]
    watched: Sequence[Fact]
    metric_of: Callable[[int], Metric]
    sizes: Sizes

    @classmethod
    def of_book(cls, lm: models.LanguageModel, layer: int, sizes: Sizes) -> Case:
        """With the book's facts and text."""

        def metric_of(layer: int) -> Metric:
            summed = moments.estimate(lm, "book", tokens=sizes.tokens, layers=[layer])
            return Metric(summed.second_moment(layer))

        return cls(lm, layer, *choose(lm, sizes.pool), metric_of, sizes)

    @property
    def edits(self) -> Sequence[Fact]:
        return self.pool[: self.sizes.edits]

    @cached_property
    def C(self) -> Metric:
        return self.metric_of(self.layer)

    @property
    def W(self) -> np.ndarray:
        return self.lm.layers[self.layer].weight.detach().double().numpy()

    def key(self, what: str, version: int, **more: Any) -> str:
        """Under which a result is kept."""
        more |= {"weights": self.lm.digest(), "layer": self.layer, "settings": self.sizes.settings.as_dict()}
        return cache.key("forecasts", version, what=what, tokens=self.sizes.tokens, **more)

    def replay(
        self, targets: editing.Targets, order: Any, rule: str = "rome", C: Any = None, **options: Any
    ) -> LinearMemory:
        """The edits of an order, written with the target values that each has alone."""
        memory = LinearMemory(self.W, self.C if C is None else C)
        memory.edit_batch(targets.keys[:, order], targets.values[:, order], rule, **options)
        return memory


def described(edits: Sequence[Fact]) -> list[list[str | None]]:
    return [[fact.text, fact.target_new] for fact in edits]


def say(what: str, start: float = time.perf_counter()) -> None:
    print(f"{time.perf_counter() - start:7.0f} s  {what}", file=sys.stderr, flush=True)


def choose(lm: models.LanguageModel, count: int, seed: int = 0) -> tuple[list[Fact], list[Fact]]:
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


def found_alone(
    lm: models.LanguageModel, layer: int, settings: editing.TargetSettings, edits: Sequence[Fact], batch: int = 10
) -> editing.Targets:
    """The target value of each edit on the unedited model; kept in groups, so that a longer list begins as it did."""
    about = {"weights": lm.digest(), "layer": layer, "settings": settings.as_dict()}
    groups = []
    for first in range(0, len(edits), batch):
        group = edits[first : first + batch]
        key = cache.key("targets", 1, edits=described(group), **about)

        def make(group: Sequence[Fact] = group) -> dict[str, Any]:
            return vars(targets.search(lm, group, layer, settings, batch=batch))

        groups.append(cache.made(key, make))
        say(f"layer {layer}: targets of {first + len(group)} edits, each alone")
    return editing.Targets(**{name: np.concatenate([group[name] for group in groups], -1) for name in groups[0]})


def alone(case: Case, edits: Sequence[Fact]) -> editing.Targets:
    """The target value of each edit on the unedited model."""
    return found_alone(case.lm, case.layer, case.sizes.settings, edits)


def live(case: Case, watch: Callable[[], forecast.Said]) -> tuple[LinearMemory, dict[str, np.ndarray], list[float]]:
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
    lm, layer, edits, looks = case.lm, case.layer, case.edits, case.sizes.looks
    key, bits, weight = case.key("life", 3, edits=described(edits), looks=looks), lm.digest(), lm.layers[layer].weight
    W_0 = weight.clone()  # the search measures lengths by the unedited answer
    memory, (d, d_m) = LinearMemory(case.W, case.C), weight.shape
    told = {"values": np.zeros((d, 0)), "keys": np.zeros((d_m, 0)), "probability": np.zeros(0)}
    told |= cache.load(key) or {}
    seen = {name: told.pop(name) for name in ("log_probability", "exact") if name in told}
    with passes.restored(weight):
        for i, fact in enumerate(edits):
            if i == told["keys"].shape[1]:
                found = targets.search(lm, [fact], layer, case.sizes.settings, W_0=W_0)
                told = {name: np.concatenate([told[name], getattr(found, name)], -1) for name in told}
            memory.edit(told["keys"][:, i], told["values"][:, i])
            weight.copy_(torch.from_numpy(memory.W))
            rows = len(seen.get("exact", []))
            if i + 1 in looks and looks.index(i + 1) == rows:
                said = watch()
                row = {"log_probability": said.log_probability[None], "exact": said.exact[None]}
                seen = {name: np.concatenate([seen[name], row[name]]) if seen else row[name] for name in row}
                say(f"layer {layer}: {i + 1} edits in a row")
            if (i + 1) % 5 == 0 or i + 1 == len(edits):
                cache.save(key, told | seen)
    if lm.digest() != bits:
        raise RuntimeError("The weights are not what they were before the sequence of edits.")
    return memory, seen, told["probability"].tolist()


# --- forecasts ----------------------------------------------------------------------------------------------


def forecast_layer(case: Case) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Forecast a sequence at one layer in every way there is, make it, and set the two side by side."""
    start = time.perf_counter()
    lm, layer, looks, resamples = case.lm, case.layer, case.sizes.looks, case.sizes.resamples
    targets = alone(case, case.edits)
    reading = forecast.read(lm, case.watched, layer)
    say(f"layer {layer}: {len(case.watched)} facts read")
    memory, seen, probability = live(case, lambda: forecast.ask(lm, reading))
    falls = reading.log_probability - seen["log_probability"]
    arrays: dict[str, np.ndarray] = {"fall": falls, "kept": seen["exact"], "before": reading.log_probability}
    rows = []
    for look, n in enumerate(looks):
        edit = case.replay(targets, slice(n)).edits
        made = candidates_from_keys(reading, forecast.shares(edit.M, reading.keys))
        made |= candidates_from_values(reading, edit, targets.shifts[:, :n])
        made |= candidates_from_slopes(reading, edit) | candidates_from_margins(reading, edit)
        kept = cache.made(
            case.key("passes", 2, edits=described(case.edits[:n]), last=n == max(looks)),
            lambda n=n, edit=edit: by_passes(case, reading, edit, n),
        )
        if "by edit" in kept:
            arrays["by edit"] = kept.pop("by edit")
            kept |= cache.made(
                case.key("hindsight", 1, edits=described(case.edits)),
                lambda edit=edit: hindsight(lm, reading, edit.M, memory, targets),
            )
        made |= kept
        known = Edit(memory.residuals[:, :n], edit.M)
        made |= cache.made(
            case.key("margins left", 2, edits=described(case.edits[:n])),
            lambda edit=edit, known=known: margins_left(lm, reading, edit, known),
        )
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
            row["ranks"][name] = ranking.rank_correlation(value, falls[look], resamples=resamples)
            row["sizes"][name] = ranking.rank_correlation(value, np.abs(falls[look]), resamples=resamples)
            if lost.any() and not lost.all():
                row["separations"][name] = ranking.roc_area(value, lost, resamples=resamples)
        say(f"layer {layer}, {n} edits: fall {row['fall']:.3f}, best forecast {row['ranks']['drift, all'][0]:.2f}")
        row |= {"norm": memory.edits[:n].norm(), "norm_replayed": edit.norm()}
        rows.append(row)
    delta = np.linalg.norm(memory.residuals, axis=0)
    row = {"layer": layer, "watched": len(case.watched), "looks": rows, "probability": probability}
    row |= {"delta": delta.tolist(), "delta_alone": np.linalg.norm(targets.shifts, axis=0).tolist()}
    row |= {"probability_alone": targets.probability.tolist(), "seconds": round(time.perf_counter() - start, 1)}
    arrays |= {"residuals": edit.delta, "directions": edit.M}
    arrays |= {"edit keys": targets.keys, "residuals in a row": memory.residuals}
    costs = cache.made(case.key("costs", 2, watched=len(reading)), lambda: costs_of_knowing(case, reading, edit))
    return row | {"costs": costs}, arrays


def costs_of_knowing(case: Case, reading: Reading, edit: Edit, timed: int = 5) -> dict[str, float]:
    """CPU seconds for what forecasts are made of: for all watched facts, or for a target value.

    ``targets`` is for an edit of several that are searched together, ``dry run`` for an edit alone, as a sequence needs
    it; the rest is for all watched facts: ``keys`` as far as the layer, ``pass`` through the model with the drift put
    in, ``slope`` forward and back.
    """
    lm, layer, found = case.lm, case.layer, {}

    def took(name: str, what: Callable[[], Any], times: int = 1) -> None:
        began = time.process_time()
        what()
        found[name] = (time.process_time() - began) / times

    moved, some = forecast.drift(edit, reading.keys), case.edits[:timed]
    took("keys", lambda: forecast.read(lm, case.watched, layer, passes=False))
    took("pass", lambda: forecast.ask(lm, reading, moved))
    took("slope", lambda: forecast.slope_along(lm, reading, moved, 1))
    took("targets", lambda: targets.search(lm, some, layer, case.sizes.settings, batch=timed), timed)
    took("dry run", lambda: [targets.search(lm, [fact], layer, case.sizes.settings) for fact in some], timed)
    return found


def by_passes(case: Case, reading: Reading, edit: Edit, n: int) -> dict[str, np.ndarray]:
    """Forecasts that take passes of the model; after the last look at every place, and by edit."""
    if n < max(case.sizes.looks):
        return candidates_from_passes(case.lm, reading, edit, places=("all",))
    kept = candidates_from_passes(case.lm, reading, edit)
    slope = forecast.slope_along(case.lm, reading, forecast.drift(edit, reading.keys), 2)
    by_edit = forecast.first_order(slope, edit, reading.keys)
    return kept | {"by edit": by_edit}


def candidates_from_keys(reading: Reading, part: Float[np.ndarray, "n m T"]) -> dict[str, Float[np.ndarray, " m"]]:
    """Risks (m,) from the shares ``part`` alone (:func:`superposition.editing.forecast.shares`), by name.

    ``"p norm, PLACE"`` is ``√Σ_i Σ_t (M_iᵀk_t)²`` over the positions of a place; ``"p sum, PLACE"`` is
    ``√Σ_t (Σ_i M_iᵀk_t)²``, which minds the signs; ``"p largest, all"`` the largest ``|M_iᵀk_t|``.
    """
    found = {}
    for place in forecast.PLACES:
        mask = reading.mask(place)
        found[f"p norm, {place}"] = np.sqrt(((part**2).sum(0) * mask).sum(1))
        found[f"p sum, {place}"] = np.sqrt((part.sum(0) ** 2 * mask).sum(1))
    found["p largest, all"] = (np.abs(part).max(0) * reading.mask()).max(1)
    return found


def candidates_from_values(
    reading: Reading, edit: Edit, alone: Float[np.ndarray, "d n"] | None = None
) -> dict[str, Float[np.ndarray, " m"]]:
    """Risks (m,) from directions and residuals: the drift's norm over the positions of each place.

    With ``alone``, the residuals that each edit has as the only one, also the norm of their plain sum.
    """
    found = {}
    for name, residuals in (("drift norm", edit.delta), ("plain sum norm", alone)):
        if residuals is not None:
            squared = (forecast.drift(Edit(residuals, edit.M), reading.keys) ** 2).sum(2)
            found |= {f"{name}, {place}": np.sqrt((squared * reading.mask(place)).sum(1)) for place in forecast.PLACES}
    return found


def candidates_from_passes(
    model: models.LanguageModel,
    reading: Reading,
    edit: Edit,
    places: Sequence[str] = forecast.PLACES,
    *,
    batch: int = 32,
) -> dict[str, Float[np.ndarray, " m"]]:
    """Forecasts (m,) in nats, of the fall of ``log p``, for the drift at each of some places.

    ``"first order, PLACE"`` by the slope at no drift, ``"second order, PLACE"`` by the slope at half the whole drift,
    and ``"drift, PLACE"`` by a pass with the drift put in there.
    """
    moved = forecast.drift(edit, reading.keys)
    half = forecast.slope_along(model, reading, moved, 1, batch=batch)
    found = {}
    for place in places:
        mask = reading.mask(place)[:, :, None]
        found[f"first order, {place}"] = -(reading.gradient * moved * mask).sum((1, 2))
        found[f"second order, {place}"] = -(half * moved * mask).sum((1, 2))
        said = forecast.ask(model, reading, moved * mask, batch=batch)
        found[f"drift, {place}"] = reading.log_probability - said.log_probability
    return found


def slope_spread(gradient: Float[np.ndarray, "m T d"], part: Float[np.ndarray, "n m T"]) -> Float[np.ndarray, "n m"]:
    """``‖Σ_t (M_iᵀk_jt) g_jt‖``: how strongly fact j feels edit i, whatever its target value.

    Were the residual of edit i to point anywhere in d dimensions with equal odds, the standard deviation of the fall to
    first order would be this times ``‖δ(v_i)‖ / √d``. It needs keys and slopes, and no target value.
    """
    return np.sqrt(sum(np.einsum("nmt,mt->nm", part, gradient[:, :, c]) ** 2 for c in range(gradient.shape[2])))


def candidates_from_slopes(reading: Reading, edit: Edit) -> dict[str, np.ndarray]:
    """Forecasts from keys and slopes without target values, and what is known without any edit: the null."""
    spread = slope_spread(reading.gradient, forecast.shares(edit.M, reading.keys))
    slope = np.sqrt((reading.gradient**2).sum((1, 2)))
    by_edit = forecast.first_order(reading.gradient, edit, reading.keys)
    found = {"slope spread": np.sqrt((spread**2).sum(0)), "first order, without signs": np.sqrt((by_edit**2).sum(0))}
    return found | {"null: slope": slope, "null: unsure": -reading.log_probability, "null: margin": -reading.margin}


def candidates_from_margins(reading: Reading, edit: Edit) -> dict[str, Float[np.ndarray, " m"]]:
    """Overlaps, without a target value or with the lengths of the residuals, over how far a fact is from being lost.

    The keys give ``√Σ p²``, the values ``√Σ p² ‖δ‖²``; one pass of the prompts gives the margin.
    """
    part, length = forecast.shares(edit.M, reading.keys), np.linalg.norm(edit.delta, axis=0)
    margin, found = np.maximum(reading.margin, 1e-3), {}
    for place in ("subject", "from the subject on", "all"):
        squares = (part**2 * reading.mask(place)).sum(2)  # (n, m)
        found[f"p over margin, {place}"] = np.sqrt(squares.sum(0)) / margin
        found[f"push over margin, {place}"] = np.sqrt((squares * length[:, None] ** 2).sum(0)) / margin
    return found


def margins_left(
    lm: models.LanguageModel, reading: Reading, edit: Edit, known: Edit
) -> dict[str, Float[np.ndarray, " m"]]:
    """How little of its margin each fact keeps with the drift put in, by forecast residuals and by the true ones.

    With the true ones this is what a dry run says: a fact is lost where it is above 0.
    """
    left = {"": edit, "known residuals: ": known}
    return {
        f"{name}margin left": -forecast.ask(lm, reading, forecast.drift(of, reading.keys)).margin
        for name, of in left.items()
    }


def hindsight(
    lm: models.LanguageModel,
    reading: Reading,
    M: np.ndarray,
    memory: LinearMemory,
    targets: editing.Targets,
) -> dict[str, np.ndarray]:
    """What a forecast would be that knew the residuals to come, and one that lets no edit see another."""
    known = Edit(memory.residuals, M)
    after = candidates_from_passes(lm, reading, known, places=("subject", "all"))
    sizes = candidates_from_values(reading, known)
    at_once = candidates_from_passes(lm, reading, Edit(targets.shifts, M), places=("all",))
    found = {f"known residuals: {name}": value for name, value in (after | sizes).items()}
    return found | {f"each alone: {name}": value for name, value in at_once.items()}


# --- causes -------------------------------------------------------------------------------------------------


class Arms:
    """Arms of one experiment: each is a set of residuals and directions, put into the unedited model as a drift.

    The watched prompts and the edits' own are asked together: what is lost, and whether the edits hold.
    """

    def __init__(self, case: Case, edits: Sequence[Fact], kind: str = "causes"):
        self.lm, self.layer = case.lm, case.layer
        self.reading = forecast.read(self.lm, case.watched, self.layer, passes=False)
        self.before = forecast.ask(self.lm, self.reading)
        self.untouched = lifetime.Untouched(self.lm, self.reading)
        asked = [Fact(f.subject, f.prompt, target_true=f.target_new) for f in edits]
        self.edited = forecast.read(self.lm, asked, self.layer, passes=False)
        sizes = [case.sizes.edits, case.sizes.pool, case.sizes.chosen]
        self.key = case.key(f"arms of {kind}", ARMS_VERSION, edits=described(edits), sizes=sizes)
        kept = cache.load(self.key) or {"rows": {}, "falls": []}
        self.rows: dict[str, dict[str, Any]] = kept["rows"]
        self.falls = dict(zip(self.rows, kept["falls"], strict=True))

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
            "R": lifetime.root_mean_square(self.untouched.relative(moved * mask[..., None])[self.reading.mask()]),
            "size": float(np.sqrt(size.mean())),
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
        cache.save(self.key, {"rows": self.rows, "falls": np.array(list(self.falls.values()))})
        say(
            f"layer {self.layer}, {name}: fall {row['fall']:.3f}, norm {row['norm']:.1f}, held {row.get('held', 0):.2f}"
        )


def weighted(C: Metric, found: np.ndarray, weight: float) -> Metric:
    """The metric of ``C + weight · mean k kᵀ``: protected keys counted ``weight`` times as a text of their own."""
    return Metric(shrinkage.protecting(C.moment, found, weight))


def choose_by_overlap(crowd: np.ndarray, count: int, tilt: float, rng: np.random.Generator) -> np.ndarray:
    """``count`` of the pool, drawn with odds that rise (tilt > 0) or fall with the rank of their overlap."""
    rank = np.argsort(np.argsort(crowd)) / len(crowd)
    weight = np.exp(tilt * (rank - 0.5))
    return rng.choice(len(crowd), size=count, replace=False, p=weight / weight.sum())


def any_direction(
    M: Float[np.ndarray, "d_m n"], K: Float[np.ndarray, "d_m n"], rng: np.random.Generator
) -> Float[np.ndarray, "d_m n"]:
    """Directions that write the same edits, ``M_iᵀk_i = 1``, as long as those given, and random otherwise."""
    along = K / np.sum(K**2, axis=0)
    noise = rng.standard_normal(M.shape)
    noise -= K * np.sum(along * noise, axis=0)
    left = np.sqrt(np.sum(M**2, axis=0) - np.sum(along**2, axis=0))
    return along + noise * left / np.linalg.norm(noise, axis=0)


def causes_layer(case: Case, draws: int = 8) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Arms that change one thing and hold the rest: which edits, where they point, how long they are, in what order."""
    start = time.perf_counter()
    pool, watched, C, edits, count = case.pool, case.watched, case.C, case.sizes.edits, case.sizes.chosen
    targets = alone(case, pool)
    arms, rng, first = Arms(case, pool), np.random.default_rng(1), np.arange(edits)
    edit = case.replay(targets, first).edits
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
            other = case.replay(targets, first, C=weighted(C, found, weight)).edits
            if name == "all":
                arms.add(f"protected: {weight:g}", other, own=first)
                arms.add(f"protected, same norm: {weight:g}", other.scaled_to(norm))
            elif weight in (1.0, 10.0):
                arms.add(f"half protected: {weight:g}", other)
    plain = targets.keys[:, first] / np.sum(targets.keys[:, first] ** 2, axis=0)
    arms.add("not whitened, same norm", Edit(delta, plain).scaled_to(norm))
    for draw in range(draws):
        other = any_direction(M, targets.keys[:, first], rng)
        arms.add(f"any direction, same norm {draw}", Edit(delta, other).scaled_to(norm), own=first)
        arms.add(f"residuals swapped {draw}", Edit(delta[:, rng.permutation(edits)], M).scaled_to(norm))
        arms.add(f"signs drawn {draw}", Edit(delta * rng.choice([-1.0, 1.0], edits), M))
        random = rng.standard_normal(delta.shape)
        random *= np.linalg.norm(delta, axis=0) / np.linalg.norm(random, axis=0)
        arms.add(f"residuals drawn {draw}", Edit(random, M))
        order = rng.permutation(edits)
        arms.add(f"order {draw}", case.replay(targets, order).edits)
    arms.add("all at once", Edit(targets.shifts[:, first], M))
    for rule in ("rls-hard", "rls-soft"):
        other = write_each(
            case, targets, first, rule, editing.Editor(case.lm, case.layer, rule, C=case.C).options
        ).edits
        arms.add(rule, other, own=first)
        arms.add(f"{rule}, same norm", other.scaled_to(norm))
    own = forecast.shares(forecast.directions(targets.keys, C), arms.reading.keys)
    crowd = (own**2).sum((1, 2))
    norm = case.replay(targets, first[:count]).edits.norm()
    for draw, tilt in enumerate(np.linspace(-6, 6, 16)):
        chosen = choose_by_overlap(crowd, count, tilt, rng)
        arms.add(f"drawn {draw}", case.replay(targets, chosen).edits.scaled_to(norm))
    for name, chosen in (("least", np.argsort(crowd)[:count]), ("most", np.argsort(-crowd)[:count])):
        other = case.replay(targets, rng.permutation(chosen)).edits
        arms.add(f"{name} overlapping", other, own=chosen)
        arms.add(f"{name} overlapping, same norm", other.scaled_to(norm))
    row = {"layer": case.layer, "watched": len(watched), "edits": edits, "pool": len(pool), "arms": arms.rows}
    row |= {"seconds": round(time.perf_counter() - start, 1)}
    falls = np.array([arms.falls[name] for name in arms.rows], dtype=np.float32)
    return row, {"falls": falls, "before": arms.before.log_probability}


# --- cures --------------------------------------------------------------------------------------------------


def spread(case: Case, layers: Sequence[int], edits: Sequence[Fact], targets: editing.Targets) -> dict[int, float]:
    """Write each edit in equal parts at several layers, the last of them the one that the targets were found at.

    As MEMIT does: at each layer the part is what the stream after the last layer still lacks, divided by the layers to
    come, which includes this one. The directions are ROME's. The model is changed. Returns ``|ΔW|`` of each layer.
    """
    lm, metrics, subject = case.lm, {layer: case.metric_of(layer) for layer in layers}, layers[-1]
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
    memories = {one: LinearMemory(lm.layers[one].weight.detach().double().numpy(), metrics[one]) for one in layers}
    for i in range(len(edits)):
        for turn, one in enumerate(layers):
            stream, found = run(i)
            part = (wanted[i] - stream) / (len(layers) - turn)
            memories[one].edit(found[one], memories[one].recall(found[one]) + part)
            lm.layers[one].weight.copy_(torch.from_numpy(memories[one].W))
    return {one: float(np.linalg.norm(memory.W - memory.W_0)) for one, memory in memories.items()}


def costs(case: Case, targets: editing.Targets) -> dict[str, dict[str, float]]:
    """Seconds to prepare each rule and to write an edit by it, and the most memory that this took at once, in MiB."""
    found, edits = {}, case.sizes.edits
    for rule in ("rome", "memit", "memit-history", "rls-soft", "rls-hard", "alphaedit"):
        tracemalloc.start()
        began = time.perf_counter()
        editor = editing.Editor(case.lm, case.layer, rule, C=case.C.moment)
        ready = time.perf_counter()
        for i in range(edits):
            editor.memory.edit_batch(targets.keys[:, i : i + 1], targets.values[:, i : i + 1], rule, **editor.options)
        done = time.perf_counter()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        found[rule] = {"prepare": ready - began, "edit": (done - ready) / edits, "peak_mib": peak / 2**20}
    return found


def cost_of_protection(case: Case) -> dict[str, float]:
    """Seconds to read the keys of the facts to protect, and to make the metric of C with them in it."""
    began = time.perf_counter()
    reading = forecast.read(case.lm, case.watched, case.layer, passes=False)
    read = time.perf_counter()
    weighted(case.C, reading.keys[reading.mask()].T.astype(np.float64), 10.0).solve(np.zeros((len(case.W[0]), 1)))
    return {"read": read - began, "prepare": time.perf_counter() - read, "facts": len(case.watched)}


def write_each(
    case: Case, targets: editing.Targets, order: Int[np.ndarray, " n"], rule: str, options: dict[str, Any]
) -> LinearMemory:
    """The edits of an order, written one after the other by a rule with its editor's options."""
    memory = LinearMemory(case.W, case.C)
    for i in order:
        memory.edit_batch(targets.keys[:, i : i + 1], targets.values[:, i : i + 1], rule, **options)
    return memory


def add_rules(arms: Arms, case: Case, targets: editing.Targets) -> None:
    """All edits by each rule, one after the other, and the seconds that this took; all in one step."""
    first = np.arange(case.sizes.edits)
    for rule in ("rls-soft", "rls-hard", "memit", "memit-history", "alphaedit"):
        options = editing.Editor(case.lm, case.layer, rule, C=case.C).options
        began = time.perf_counter()
        memory = write_each(case, targets, first, rule, options)
        arms.add(f"rule: {rule}", memory.edits, own=first)
        arms.rows[f"rule: {rule}"].setdefault("seconds", round(time.perf_counter() - began, 2))
    arms.add("all in one step", case.replay(targets, first, "emmet").edits, own=first)


def risks(
    lm: models.LanguageModel, reading: Reading, edit: Edit, K: Float[np.ndarray, "d_m n"]
) -> dict[str, Float[np.ndarray, " n"]]:
    """How much each edit may harm, by what is known of it: in nats, by overlap with the watched, by both sizes."""
    slope = forecast.slope_along(lm, reading, forecast.drift(edit, reading.keys), 2)  # (m, T, d)
    crowd = (forecast.shares(edit.M, reading.keys) ** 2).sum((1, 2))
    among = edit.shares(K) ** 2  # (n, n)
    return {
        "harm": forecast.first_order(slope, edit, reading.keys).sum(1),
        "overlap": crowd,
        "overlap among edits": among.sum(0) + among.sum(1),
        "size": np.linalg.norm(edit.delta, axis=0) ** 2 * crowd,
    }


def add_orders(arms: Arms, case: Case, targets: editing.Targets, risk_of: dict[str, Float[np.ndarray, " n"]]) -> None:
    """The safe edits first or last, the most dangerous left out, by each risk; as many left out by chance."""
    rng, edits = np.random.default_rng(2), case.sizes.edits

    def add(name: str, order: Int[np.ndarray, " k"]) -> None:
        arms.add(name, case.replay(targets, order).edits, own=order)

    for name, risk in risk_of.items():
        safe = np.argsort(risk, kind="stable")
        add(f"order: safe first, by {name}", safe)
        add(f"order: safe last, by {name}", safe[::-1])
        for left in (0.75, 0.9):
            add(f"skip: {1 - left:.0%} by {name}", np.sort(safe[: round(left * edits)]))
    for draw in range(3):
        for left in (0.75, 0.9):
            add(f"skip: {1 - left:.0%} drawn {draw}", np.sort(rng.permutation(edits)[: round(left * edits)]))


def capped(edit: Edit, quantile: float, count: int | None = None) -> Edit:
    """The first edits, no residual longer than a quantile of the lengths of all."""
    length = np.linalg.norm(edit.delta, axis=0)  # (n,)
    cap = np.quantile(length, quantile)
    return Edit(edit.delta[:, :count] * np.minimum(1, cap / length[:count]), edit.M[:, :count])


def add_protection(arms: Arms, case: Case, targets: editing.Targets, reading: Reading) -> None:
    """C with the keys of the watched facts in it, or of half of them: how strongly, and with a rule besides."""
    first, seen = np.arange(case.sizes.edits), reading.everywhere()  # (d_m, N)
    half = reading.subset(np.arange(len(case.watched)) % 2 == 0).everywhere()
    for name, protected, weight, rule in (
        ("protect: 1", seen, 1.0, "rome"),
        ("protect: 10", seen, 10.0, "rome"),
        ("protect: 100", seen, 100.0, "rome"),
        ("protect half: 10", half, 10.0, "rome"),
        ("protect: 10, rls-hard", seen, 10.0, "rls-hard"),
    ):
        arms.add(name, case.replay(targets, first, rule, C=weighted(case.C, protected, weight)).edits, own=first)


def add_spread(arms: Arms, case: Case, targets: editing.Targets) -> None:
    """Every edit in equal parts at two and at three layers, the last of them the edited one."""
    for count in (2, 3):
        if case.layer + 1 >= count and f"spread: {count}" not in arms.rows:
            with editing.preserved(case.lm):
                norms = spread(case, list(range(case.layer - count + 1, case.layer + 1)), case.edits, targets)
                arms.add_written(f"spread: {count}", norms, np.arange(case.sizes.edits))


def add_on_the_way(
    arms: Arms, case: Case, targets: editing.Targets, edit: Edit, protected: Metric
) -> Float[np.ndarray, "d_m n"]:
    """The main cures at the looks before the last; the directions of the first of these with the watched protected."""
    for n in (look for look in case.sizes.looks if look < case.sizes.edits):
        first = np.arange(n)
        memories = {name: case.replay(targets, first, name) for name in ("rome", "rls-hard")}
        for rule in ("alphaedit", "memit-history"):
            options = editing.Editor(case.lm, case.layer, rule, C=case.C).options
            memories[rule] = write_each(case, targets, first, rule, options)
        memories["protect: 10"] = case.replay(targets, first, C=protected)
        if n == min(case.sizes.looks):
            protecting = memories["protect: 10"].directions
        for name, memory in memories.items():
            arms.add(f"after {n}: {name}", memory.edits, own=first)
        arms.add(f"after {n}: cap: 0.5", capped(edit, 0.5, n), own=first)
    return protecting


def cures_layer(case: Case) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Each cure alone, with the target values that each edit has alone: what is damaged, what holds, what it costs."""
    start = time.perf_counter()
    targets = alone(case, case.edits)
    arms, first = Arms(case, case.edits, "cures"), np.arange(case.sizes.edits)
    edit = case.replay(targets, first).edits
    arms.add("as it is", edit, own=first)
    add_rules(arms, case, targets)
    reading = forecast.read(case.lm, case.watched, case.layer)
    add_orders(arms, case, targets, risks(case.lm, reading, edit, targets.keys[:, first]))
    for quantile in (0.25, 0.5, 0.75):
        arms.add(f"cap: {quantile}", capped(edit, quantile), own=first)
    for share in (0.01, 0.1):
        smooth = Metric(shrinkage.shrunk(case.C.moment, share))
        arms.add(f"shrinkage: {share}", case.replay(targets, first, C=smooth).edits, own=first)
    add_protection(arms, case, targets, reading)
    add_spread(arms, case, targets)
    protecting = add_on_the_way(arms, case, targets, edit, weighted(case.C, reading.everywhere(), 10.0))
    row = {"layer": case.layer, "watched": len(case.watched), "edits": case.sizes.edits, "arms": arms.rows}
    row |= {"seconds": round(time.perf_counter() - start, 1), "costs": costs(case, targets)}
    row["costs"]["protect"] = cost_of_protection(case)
    falls = np.array([arms.falls[name] for name in arms.rows], dtype=np.float32)
    return row, {"falls": falls, "protecting": protecting}


# --- the record ---------------------------------------------------------------------------------------------


#: Of the forecasts themselves a record keeps those that its chapter draws or checks: after the last look, after each
#: look, and after the first look of the first run (with that drift a chapter goes through the model again).
KEPT_AT_THE_END = (
    "p norm, subject",
    "p norm, from the subject on",
    "drift norm, all",
    "slope spread",
    "null: margin",
    "p over margin, from the subject on",
    "known residuals: drift, all",
    "margin left",
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
VERSIONS = {"forecasts": 6, "causes": 3, "cures": 5}
KINDS = {"forecasts": forecast_layer, "causes": causes_layer, "cures": cures_layer}
#: What the book's records are made by.
SIZES = Sizes()


def joined(case: Case, which: str) -> dict[str, Any]:
    """A layer's row and its arrays, as the cache keeps them."""
    row, arrays = KINDS[which](case)
    return {"row": row} | arrays


def main(arguments: Sequence[str] | None = None, sizes: Sizes = SIZES) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=KINDS)
    parser.add_argument("--runs", nargs="+", required=True, metavar="MODEL:LAYER", help="the first one's drift is kept")
    parser.add_argument("--out", type=Path, required=True)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows, arrays, listed, lm = [], {}, facts.load("book"), None
    for turn, (name, layer) in enumerate(run.split(":") for run in asked.runs):
        lm = lm if turn and name == rows[-1]["model"] else models.load(name, device="cpu")
        case = Case.of_book(lm, int(layer), sizes)
        for what, some in (("edits", case.pool if asked.which == "causes" else case.edits), ("watched", case.watched)):
            arrays[f"{name} {what}"] = np.array([listed.index(fact) for fact in some], dtype=np.int16)
        how = {
            "edits": described(case.pool),
            "looks": sizes.looks,
            "sizes": [sizes.edits, sizes.chosen, sizes.resamples],
        }
        found = cache.made(
            case.key(asked.which, VERSIONS[asked.which], **how), lambda case=case: joined(case, asked.which)
        )
        row, found = compact(found.pop("row"), found, first=turn == 0)
        rows.append({"model": name, "sha256": lm.sha256} | row)
        arrays |= {f"{name} {layer} {what}": value for what, value in found.items()}
    data = {
        "kind": asked.which,
        "runs": records.rounded(rows, 6),
        "looks": list(sizes.looks),
        "facts": {"source": "book", "sha256": facts.fingerprint("book")},
        "text": {"source": "book", "tokens": sizes.tokens},
        "settings": sizes.settings.as_dict(),
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "provenance": records.provenance(command="python experiments/forecasts.py " + shlex.join(arguments), seed=0),
    }
    records.write(asked.out, data, arrays)
    say(f"{asked.out} written")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
