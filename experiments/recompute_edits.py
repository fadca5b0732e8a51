"""The numbers of chapters 15 to 21, and of the claims that rest on them, computed once more (see :mod:`recompute`).

A convention, such as which points are left out, is one line of comment where it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from printed import Cells, Numbers, glued, interval, table
from recompute_overlaps import MODELS, area, arrays, ends, power, record, spearman, wilson

SINGLE, FAILURE, RUNAWAY, LAW = "15-editing-a-model", "16-lifelong-failure", "17-runaway", "18-law"
LIFETIME, FORECASTS, CURES, CLAIMS = "19-lifetime", "20-forecasting-damage", "21-cures", "claims"


# Chapter 15


def answered(when: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of one kind that were answered as wanted, and asked, edit by edit."""
    counts = np.array([row[when][kind] for row in record("smollm2-single-edits")["edits"]], dtype=float)
    return counts[:, 0], counts[:, 1]


ASKED = {
    "edited prompt, new above true": "success",
    "edited prompt, new object exactly": "exact",
    "paraphrases, new above true": "paraphrase_success",
    "paraphrases, new object exactly": "paraphrase_exact",
    "neighbours, true above new": "neighbourhood_success",
    "neighbours, true object exactly": "neighbourhood_exact",
}


@table(SINGLE, "asked")
def efficacy() -> Cells:
    """Shares of edited prompts, paraphrases and neighbours answered, before and after single edits (chapter 15)."""
    found: Cells = {}
    for words, kind in ASKED.items():
        cells = {when: float(np.divide(*(x.sum() for x in answered(when, kind)))) for when in ("before", "after")}
        found[words,] = {"prompts": int(answered("after", kind)[1].sum())} | cells
    return found


def neighbours() -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Neighbours that were answered exactly before and after, and in points how many fewer; how many were asked."""
    (before, asked), (after, _) = (answered(when, "neighbourhood_exact") for when in ("before", "after"))
    return (before, after, 100 * (before - after)), asked


@glued(SINGLE, "near_before", "near_after", "near_fewer")
def price_of_an_edit() -> Numbers:
    """Shares of neighbours answered exactly before and after, and their difference in points (chapter 15)."""
    counts, asked = neighbours()
    yield from (hits.sum() / asked.sum() for hits in counts)


@interval(SINGLE, "near_before", "near_after", "near_fewer", within=0.2)
def price_over_facts() -> Numbers:
    """Bootstrap of the same: facts are drawn with all their neighbours, before and after in pairs (chapter 15)."""
    counts, asked = neighbours()
    for hits in counts:
        yield ends(lambda drawn, hits=hits: hits[drawn].sum() / asked[drawn].sum(), len(asked))


@glued(SINGLE, "shift", "steps", "drift", "rest_paraphrases", "plain_after")
def shifts() -> Numbers:
    """Medians of ``‖δ‖/‖W₀k‖``, of steps and ``‖ΔW‖/‖W‖``; paraphrases of the facts not tried before (chapter 15)."""
    of = record("smollm2-single-edits")
    rows, tried = of["edits"], of["sweep"][str(of["layer"])]["facts"]
    hits, asked = answered("after", "paraphrase_exact")
    yield np.median([row["shift_norm"] / row["recalled_norm"] for row in rows])
    yield from (np.median([row[name] for row in rows]) for name in ("steps", "drift"))
    yield from (
        hits[tried:].sum() / asked[tried:].sum(),
        np.median([r["perplexity"] for r in rows if "perplexity" in r]),
    )


# Chapter 16


def life(name: str) -> dict[str, Any]:
    """What a sequence's model said at its end."""
    return record("smollm2-lifelong")["lives"][name]["results"][-1]


@glued(FAILURE, *(f"{name}_untouched{end}" for name in ("rome", "soft", "memit") for end in ("", "_low", "_high")))
def untouched() -> Numbers:
    """Untouched facts still said after two hundred edits, with Wilson's interval (chapter 16)."""
    for name in ("rome", "rls-soft", "memit"):
        of = life(name)["untouched_exact"]
        yield from wilson(round(of["share"] * of["n"]) / of["n"], of["n"])


METHODS = {
    "ROME": "rome",
    "MEMIT": "memit",
    "MEMIT, twenty at a time": "memit batch 20",
    "AlphaEdit": "alphaedit",
    "soft recursion": "rls-soft",
    "hard recursion": "rls-hard",
    "ROME, other order": "rome order 2",
    "AlphaEdit, other order": "alphaedit order 2",
}


@table(FAILURE, "slope s")
def growth() -> Cells:
    """``s`` of interference ``∝ n^s`` from edit ten on; the end over a random walk's (eq-failure-walk, chapter 16)."""
    found: Cells = {}
    for words, name in METHODS.items():
        norms, step = (arrays("smollm2-lifelong")[f"{name}/{of}"].astype(float) for of in ("interference", "step"))
        moved, n = np.sqrt((norms**2).mean(1)), np.arange(10, len(step) + 1)
        found[words,] = {"slope s": power(n, moved[9:]), "over the walk": moved[-1] / math.sqrt(np.sum(step**2))}
    return found


@table(FAILURE, "first third")
def suffering() -> Cells:
    """Norm of ``Δ_e[:, j]`` in a sequence's first third of edits, over that in its last (claim 6, chapter 16)."""
    found: Cells = {}
    for words, name in METHODS.items():
        # Convention: hard recursive least squares is left out, for it has nothing to suffer.
        if name == "rls-hard":
            continue
        norms = arrays("smollm2-lifelong")[f"{name}/on_edits"].astype(float)
        first, last = norms[: len(norms) // 3].mean(), norms[-(len(norms) // 3) :].mean()
        found[words,] = {"first third": first, "last third": last, "ratio": first / last}
    return found


def reached(n: Sequence[float], lost: Sequence[float], share: float) -> float:
    """After how many edits a share was lost: between two looks it rises with ``log n``, before the first with n."""
    for at, (edits, here) in enumerate(zip(n, lost, strict=True)):
        if here >= share:
            if at == 0:
                return edits * share / here
            part = (share - lost[at - 1]) / (here - lost[at - 1])
            return math.exp(math.log(n[at - 1]) + part * math.log(edits / n[at - 1]))
    return math.inf


THOUSAND = {
    "ROME": "rome",
    "MEMIT with history": "memit with history",
    "AlphaEdit": "alphaedit",
    "ROME, facts protected": "rome, protected",
}


@cache
def to_failure() -> dict[str, list[dict[str, Any]]]:
    """The checkpoints of each method of the record of a thousand edits."""
    return {of["method"]: of["checkpoints"] for of in record("smollm2-failure")["sequences"] if of["order"] == 0}


@table(FAILURE, "half lost")
def until_half() -> Cells:
    """Edits until a quarter and half is lost, interpolated; perplexity over the unedited one (chapter 16)."""
    found, start = {}, record("smollm2-failure")["start"]["perplexity"]
    for words, method in THOUSAND.items():
        rows = to_failure()[method]
        n, lost = [row["edits"] for row in rows], [row["lost"]["share"] for row in rows]
        parts = {"a quarter lost": reached(n, lost, 0.25), "half lost": reached(n, lost, 0.5)}
        found[words,] = parts | {"edits in all": n[-1], "perplexity, more": rows[-1]["perplexity"] / start - 1}
    return found


# Chapter 17

ARMS = {
    "own": {
        "as edited": "ROME's units, rome",
        "no overlap among the edits": "ROME's units, no overlap",
        "anchored ball": "ROME's units anchored, rome",
        "targets beforehand": "ROME's units beforehand, rome",
    },
    "answer": {
        "as edited": "moving, rome",
        "no overlap among the edits": "moving, no overlap",
        "anchored ball": "anchored, rome",
        "targets beforehand": "beforehand, rome",
    },
}
LAYERS = (5, 9)


def of_run(layer: int, name: str) -> np.ndarray:
    """An array of the record of growing residuals."""
    return arrays("runaway")[f"gemma3 {layer}/{name}"].astype(float)


def alone(units: str, layer: int) -> np.ndarray:
    """Length of each edit's residual, alone on the unedited model, in the units of the search."""
    return of_run(layer, "before/delta" if units == "answer" else f"{ARMS[units]['targets beforehand']}/shift_norm")


def lengths(units: str, layer: int) -> np.ndarray:
    """``‖δ_n‖ = c_n √(a_n² + Σ_{i<n} p(k_i, k_n)² ‖δ_i‖²)`` (eq-runaway-lengths)."""
    a, P = of_run(layer, "before/delta") / of_run(layer, "before/size"), of_run(layer, "before/P")
    c, found = alone(units, layer) / a, np.zeros(len(a))
    for n in range(len(a)):
        found[n] = c[n] * math.sqrt(a[n] ** 2 + float(P[:n, n] ** 2 @ found[:n] ** 2))
    return found


def grown(units: str, layer: int, arm: str = "as edited") -> np.ndarray:
    """Length of the last ten residuals in a sequence, over the length alone."""
    return (of_run(layer, f"{ARMS[units][arm]}/delta") / alone(units, layer))[-10:]


@glued(RUNAWAY, *(f"{u}_{n}_{of}" for u in ARMS for n in LAYERS for of in ("growth", "rank", "near", "number", "rate")))
def lengths_forecast() -> Numbers:
    """Growth; rank correlation with the first 20 lengths and share within 1.5; ``c² q`` (claim 21, chapter 17)."""
    for units in ARMS:
        for layer in LAYERS:
            came = of_run(layer, f"{ARMS[units]['as edited']}/delta")[:20]
            told, P = lengths(units, layer)[:20], of_run(layer, "before/P")
            a = of_run(layer, "before/delta") / of_run(layer, "before/size")
            yield from (np.median(grown(units, layer)), spearman(told, came))
            yield from (np.mean(np.abs(np.log(told / came)) <= math.log(1.5)), spearman(range(20), came))
            # Convention: q is over the pairs of an earlier with a later edit.
            yield np.mean((alone(units, layer) / a) ** 2) * np.mean(P[np.triu_indices(len(P), 1)] ** 2)


@table(RUNAWAY, "layer 5: growth")
def causes_taken_away() -> Cells:
    """The median growth of the last ten residuals with one cause taken away (claim 21, chapter 17)."""
    words = {"own": "ROME's code", "answer": "unedited answer"}
    return {
        (words[u], arm): {f"layer {layer}: growth": np.median(grown(u, layer, arm)) for layer in LAYERS}
        for u in ARMS
        for arm in ARMS[u]
    }


# Chapter 18


@dataclass(frozen=True)
class State:
    """A model after some edits at one layer: where, how, the share lost, and what was measured of it."""

    source: str
    model: str
    layer: int
    rule: str
    targets: str
    edits: int
    lost: float
    of: Mapping[str, float]

    @property
    def fitted(self) -> bool:
        """Of the fit set: SmolLM2's even layers, ROME, targets beforehand, in the record of all layers."""
        kind = self.source, self.model, self.rule, self.targets
        return kind == ("law", "smollm2", "rome", "beforehand") and self.layer % 2 == 0

    @property
    def kind(self) -> str:
        """Its group, as the tables call it."""
        if self.source == "failure":
            return "a thousand edits"
        if self.rule == "ft":
            return "fine-tuning"
        if self.rule != "rome":
            return "other editors"
        return "targets beforehand" if self.targets.endswith("beforehand") else "targets anew"


R, S, MU, CHANGE = "stream, all", "last state", "margin", "change"
LAW_RECORDS = {"smollm2": "law-smollm2", "gemma3": "law-gemma3"}


def single(name: str, stem: str) -> dict[str, float]:
    """Of single edits alone: ``c`` (root mean square), ``q`` and D (means)."""
    size, q, D = (arrays(name)[f"{stem}/before/{of}"].astype(float) for of in ("size", "q", f"D {R}"))
    return {"c": math.sqrt(np.mean(size**2)), "q": float(q.mean()), "D": float(D.mean())}


@cache
def of_layers() -> list[State]:
    """The states of the records of all layers."""
    found = []
    for model, name in LAW_RECORDS.items():
        for row in record(name)["layers"]:
            before = single(name, str(row["layer"]))
            for targets in ("beforehand", "anew"):
                for n in record(name)["looks"]:
                    stem = f"{targets}/{n}/"
                    if f"{stem}{R}" in row:
                        kept = arrays(name)[f"{row['layer']}/{stem}kept"]
                        of = {key: row[f"{stem}{key}"] for key in (R, S, MU, CHANGE)} | before
                        found.append(State("law", model, row["layer"], "rome", targets, n, 1 - kept.mean(), of))
    return found


@cache
def of_ways() -> list[State]:
    """The states of the record of many ways to write sixty edits; the anchored ball is that of the other records."""
    found, of = [], record("sequences")
    for run in of["runs"]:
        before = single("sequences", f"{run['model']} {run['layer']}")
        for arm, row in run["points"].items():
            if arm == "before":
                continue
            targets, _, rule = arm.partition(", ")
            targets = "anew" if targets == "anchored" else targets
            for n, kept in zip(
                of["looks"], arrays("sequences")[f"{run['model']} {run['layer']}/{arm}/kept"], strict=True
            ):
                told = {key: row[f"{n}/{key}"] for key in (R, S, MU, CHANGE)} | before
                found.append(State("ways", run["model"], run["layer"], rule, targets, n, 1 - kept.mean(), told))
    return found


@cache
def of_thousand() -> list[State]:
    """The states of the record of a thousand edits; the last state and the margins were not measured there."""
    of, found = record("smollm2-failure"), []
    for method, rows in to_failure().items():
        for row in rows:
            told = {R: row["drift_over_stream_all"], CHANGE: row["change"], "D": of["before"]["D"]}
            lost = row["lost"]["share"]
            found.append(State("failure", of["model"]["name"], of["layer"], method, "anew", row["edits"], lost, told))
    return found


def once(states: Sequence[State]) -> list[State]:
    """Without states that two records hold; the first is kept. Convention: they are one if R agrees to four digits."""
    found: list[State] = []
    for state in states:
        key = state.model, state.layer, state.rule, state.targets, state.edits
        alike = [old for old in found if (old.model, old.layer, old.rule, old.targets, old.edits) == key]
        if not any(math.isclose(old.of[R], state.of[R], rel_tol=1e-4) for old in alike):
            found.append(state)
    return found


@cache
def everything() -> list[State]:
    """All states outside the fit set, of all records."""
    return [state for state in once([*of_layers(), *of_ways(), *of_thousand()]) if not state.fitted]


Curve = tuple[float, float]


def share(x: Any, curve: Curve) -> np.ndarray:
    """``x^b / (x_0^b + x^b)``, with ``k = −b log x_0``: the log-odds are ``k + b log x`` (eq-law-curve)."""
    return 1 / (1 + np.exp(-(curve[0] + curve[1] * np.log(x))))


def fit(states: Sequence[State], name: str) -> Curve:
    """k and ``b ≥ 0`` by least squares of the shares: damped Gauss-Newton from four starts.

    Where the share does not rise with the quantity the nearest curve is flat, ``b = 0``.
    """
    x, lost = np.array([state.of[name] for state in states]), np.array([state.lost for state in states])
    middle, found = math.log(np.median(x)), []
    for b in (0.0, 0.5, 2.0, 5.0):
        curve, damping = np.array([-b * middle, b]), 1e-2
        for _ in range(200):
            told = share(x, (curve[0], curve[1]))
            J = (told * (1 - told))[:, None] * np.column_stack([np.ones(len(x)), np.log(x)])
            normal = J.T @ J
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), J.T @ (lost - told))
            tried = np.array([curve[0] + step[0], max(curve[1] + step[1], 0)])
            better = np.sum((share(x, (tried[0], tried[1])) - lost) ** 2) < np.sum((told - lost) ** 2)
            curve, damping = (tried, damping / 3) if better else (curve, damping * 4)
            if damping > 1e9:  # no step is an improvement any more
                break
        found.append((float(np.sum((share(x, (curve[0], curve[1])) - lost) ** 2)), float(curve[0]), float(curve[1])))
    return min(found)[1:]


def correlation(states: Sequence[State], name: str) -> float:
    """Rank correlation of a quantity with the share lost."""
    return spearman([state.of[name] for state in states], [state.lost for state in states])


def error(states: Sequence[State], name: str, curve: Curve) -> float:
    """Root mean square distance from a curve, in points."""
    told = share([state.of[name] for state in states], curve)
    return float(100 * np.sqrt(np.mean((told - np.array([state.lost for state in states])) ** 2)))


@cache
def curve_over(name: str) -> Curve:
    """The curve of the fit set over a quantity."""
    return fit([state for state in of_layers() if state.fitted], name)


def grouped(states: Sequence[State]) -> dict[tuple[str, str], list[State]]:
    """By model and kind, without the fit set."""
    found: dict[tuple[str, str], list[State]] = {}
    for state in states:
        if not state.fitted:
            found.setdefault((state.model, state.kind), []).append(state)
    return found


@table(LAW, "$\\mu$")
def groups_of_layers() -> Cells:
    """Rank correlation, and error in points of the curve fitted to SmolLM2's even layers (eq-law-curve, chapter 18)."""
    columns = {"$R$": R, "$S$": S, "$\\mu$": MU}
    return {
        (MODELS[model], kind.split()[-1]): {
            column: (correlation(some, name), error(some, name, curve_over(name))) for column, name in columns.items()
        }
        for (model, kind), some in grouped(of_layers()).items()
    }


def last(states: Sequence[State]) -> list[State]:
    """The states of most edits, by model, layer, rule and targets."""
    found = {(s.model, s.layer, s.rule, s.targets): s for s in sorted(states, key=lambda state: state.edits)}
    return [*found.values()]


@table(LAW, "gain $\\mu/R$")
def gains() -> Cells:
    """R, S, μ and the gain ``μ/R`` of every third layer at the end, targets beforehand (eq-law-drift, chapter 18)."""
    some = [end for end in last(of_layers()) if end.targets == "beforehand" and end.layer % 3 == 0]
    head = ("$R$", "$S$", "$\\mu$, nats", "gain $\\mu/R$", "lost")
    rows = [(end.of[R], end.of[S], end.of[MU], end.of[MU] / end.of[R], end.lost) for end in some]
    keys = [(MODELS[end.model], str(end.layer)) for end in some]
    return {key: dict(zip(head, cells, strict=True)) for key, cells in zip(keys, rows, strict=True)}


LAW_NUMBERS = ("points", "smollm2_layers", "gemma3_layers", "gain_least", "gain_most", "ranks_R", "ranks_change")
LAW_NUMBERS += ("mu_error", "R_smollm2_error", "R_gemma3_error", "S_gemma3_error")
LAW_NUMBERS += ("early_drift", "early_lost", "late_drift", "late_lost")


@glued(LAW, *LAW_NUMBERS)
def law_in_short() -> Numbers:
    """States, gains, rank correlations, errors on what was not fitted, in points (claim 19, chapter 18)."""
    states = of_layers()
    rest = [state for state in states if not state.fitted]
    gain = [end.of[MU] / end.of[R] for end in last(states) if end.targets == "beforehand"]
    yield from (len(states), *(len(record(name)["layers"]) for name in LAW_RECORDS.values()), min(gain), max(gain))
    yield from (correlation(rest, R), correlation(rest, CHANGE), error(rest, MU, curve_over(MU)))
    groups = grouped(states)
    yield from (error(groups[model, "targets beforehand"], R, curve_over(R)) for model in MODELS)
    # Convention: Gemma's layer 0 had been seen when the bar for S was written, and is left out.
    unseen = [state for state in groups["gemma3", "targets beforehand"] if state.layer > 0]
    yield error(unseen, S, curve_over(S))
    for model, layer in (("gemma3", 0), ("smollm2", 18)):
        (end,) = (e for e in last(states) if (e.model, e.layer, e.targets) == (model, layer, "beforehand"))
        yield from (end.of[R], end.lost)


@interval(LAW, "R_gemma3_error", within=0.25)
def error_over_layers() -> Numbers:
    """Bootstrap of the curve's error on Gemma 3: whole layers are drawn (claim 19, chapter 18)."""
    some = grouped(of_layers())["gemma3", "targets beforehand"]
    layers = sorted({state.layer for state in some})
    of = {layer: [state for state in some if state.layer == layer] for layer in layers}
    return ends(lambda drawn: error([s for n in drawn for s in of[layers[n]]], R, curve_over(R)), len(layers))


def at_layer(model: str, layer: int) -> tuple[list[State], list[State], list[State]]:
    """ROME's states with targets beforehand, to which the layer's own curve is fitted; others'; fine-tuning's."""
    here = [state for state in of_ways() if (state.model, state.layer) == (model, layer)]
    own = [state for state in here if (state.rule, state.targets) == ("rome", "beforehand")]
    return own, [s for s in here if s not in own and s.rule != "ft"], [s for s in here if s.rule == "ft"]


def places() -> list[tuple[str, int]]:
    """The layers at which sixty edits were written in many ways."""
    return sorted({(state.model, state.layer) for state in of_ways()})


@table(LAW, "error over $R$, points")
def one_layer() -> Cells:
    """A layer's own curve: its error on other closed forms, over R and over the norm; fine-tuning (chapter 18)."""
    found: Cells = {}
    for model, layer in places():
        own, others, tuned = at_layer(model, layer)
        cells = {"error over $R$, points": error(others, R, fit(own, R)), "rank, $R$": correlation(others, R)}
        cells |= {"over the norm": error(others, CHANGE, fit(own, CHANGE)), "norm": correlation(others, CHANGE)}
        end = max(tuned, key=lambda state: state.edits)
        cells |= {"fine-tuning lost": end.lost, "told by $R$": float(share(end.of[R], fit(own, R)))}
        found[f"{MODELS[model]}, {layer}",] = cells
    return found


@table(CLAIMS, "Error of the layer's own curve over $R$")
def one_layer_claimed() -> Cells:
    """The same of layers not seen before the bar, and the errors with one point of the fit left out (claim 19)."""
    column, found = "Error of the layer's own curve over $R$", {}
    for model, layer in places():
        own, others, _ = at_layer(model, layer)
        if (model, layer) != ("smollm2", 6):
            rest = [error(others, R, fit([s for s in own if s is not gone], R)) for gone in own]
            both = error(others, R, fit(own, R)), error(others, CHANGE, fit(own, CHANGE))
            found[f"{MODELS[model]}, layer {layer}",] = {column: (*both, min(rest), max(rest))}
    return found


@glued(LAW, "thousand_R_error", "thousand_three_R_correlation", "thousand_three_R_error", "thousand_three_change_error")
def a_thousand() -> Numbers:
    """The curves over R and over the norm on a thousand edits, of four methods and of three (chapter 18)."""
    three = [state for state in of_thousand() if state.rule != "rome, protected"]
    yield from (error(of_thousand(), R, curve_over(R)), correlation(three, R), error(three, R, curve_over(R)))
    yield error(three, CHANGE, curve_over(CHANGE))


@glued(LAW, "thousand_lead", "ways_layers")
def lead_over_the_norm() -> Numbers:
    """By how much R's rank correlation exceeds that of ``‖ΔW‖/‖W‖``, over all states not fitted (chapter 18)."""
    return correlation(everything(), R) - correlation(everything(), CHANGE), len(places())


@table(CLAIMS, "Rank correlation with the layer's drift $R$")
def claimed_of_R() -> Cells:
    """Every group of states over R: rank correlation, error of the curve in points (claim 19)."""
    told, groups = "Rank correlation with the layer's drift $R$", grouped(everything())
    return {
        (f"{MODELS[model]}, {kind}",): {told: (correlation(some, R), error(some, R, curve_over(R)))}
        for (model, kind), some in groups.items()
    }


# Chapter 19

SHARES = (0.1, 0.25, 0.5)


@dataclass(frozen=True)
class Lifetime:
    """Edits until a share is lost: as forecast, and as it came (infinite if it did not, NaN if nobody saw it go)."""

    first: State
    share: float
    told: float
    came: float

    @property
    def seen(self) -> bool:
        return math.isfinite(self.came)

    @property
    def near(self) -> bool:
        """Within a factor of 1.5."""
        return abs(math.log(self.told / self.came)) <= math.log(1.5)


def lifetimes(states: Sequence[State], forecast: Callable[[State, float], float]) -> list[Lifetime]:
    """Of every sequence among states, for each share: what a forecast says, and what came."""
    series: dict[tuple[Any, ...], list[State]] = {}
    for state in sorted(states, key=lambda state: state.edits):
        series.setdefault((state.model, state.layer, state.rule, state.targets), []).append(state)
    found = []
    for of in series.values():
        for part in SHARES:
            came = reached([state.edits for state in of], [state.lost for state in of], part)
            # Convention: if more than one and a half times the share was lost at the first look, it was not seen.
            found.append(Lifetime(of[0], part, forecast(of[0], part), math.nan if of[0].lost > 1.5 * part else came))
    return found


def by_drift(state: State, part: float) -> float:
    """``n_a = R_a²/D`` with ``R_a = x_0 (a/(1 − a))^(1/b)`` (eq-lifetime-edits)."""
    k, b = curve_over(R)
    return math.exp(2 * (math.log(part / (1 - part)) - k) / b) / state.of["D"]


def by_asking(way: str) -> Callable[[State, float], float]:
    """What the model still said with forecast drifts put in, drawn or replayed, as the records of layers have it."""

    def edits(state: State, part: float) -> float:
        kept, looks = (arrays(LAW_RECORDS[state.model])[f"{state.layer}/{way}/{of}"] for of in ("kept", "looks"))
        return reached([float(n) for n in looks], [float(lost) for lost in 1 - kept.mean(1)], part)

    return edits


def rest_of_layers() -> list[State]:
    """The states of layers that the curve was not fitted to."""
    return [state for state in of_layers() if not state.fitted]


@cache
def forecasts_of_life() -> dict[str, list[Lifetime]]:
    """The lists of lifetimes that were seen, as the prose of chapter 19 names them."""
    replay, states = by_asking("replay"), of_layers()
    # Convention: the four layers of SmolLM2 at which replays had been tried are left out.
    tried = [s for s in states if s.model == "smollm2" and s.layer in (6, 12, 18, 24)]
    found = {
        "by_drift": lifetimes(rest_of_layers(), by_drift),
        "by_draw": lifetimes(states, by_asking("drawn")),
        "by_replay": lifetimes([s for s in states if s.targets == "beforehand" and s not in tried], replay),
        "anew": lifetimes([s for s in states if s.targets == "anew"], replay),
    }
    # Convention: within the ten edits that were tried a replay is the edited model itself.
    found["beyond"] = [life for life in found["by_replay"] if life.came > 10]
    return {name: [life for life in lives if life.seen] for name, lives in found.items()}


LIVES = ("by_drift", "by_draw", "by_replay", "anew", "beyond")


@glued(LIFETIME, *(f"{name}_{of}" for name in LIVES for of in ("seen", "near", "middle")))
def lifetimes_in_short() -> Numbers:
    """How many lifetimes were seen, the share within a factor of 1.5, the median factor (claim 20, chapter 19)."""
    for name in LIVES:
        lives = forecasts_of_life()[name]
        yield from (len(lives), np.mean([life.near for life in lives]))
        yield np.median([life.told / life.came for life in lives])


@table(LIFETIME, "$c$")
def life_of_layers() -> Cells:
    """c, q, D and the edits until a quarter is lost, by replay and as it came, of every third layer (chapter 19)."""
    found: Cells = {}
    for life in lifetimes([s for s in of_layers() if s.targets == "beforehand"], by_asking("replay")):
        if life.share == 0.25 and life.first.layer % 3 == 0:
            cells = {f"${name}$": life.first.of[name] for name in ("c", "q", "D")}
            found[MODELS[life.first.model], str(life.first.layer)] = cells | {"forecast": life.told, "came": life.came}
    return found


@glued(LIFETIME, "over_beforehand_middle", "over_anew_middle")
def squares_add() -> Numbers:
    """``√(nD)`` over the R that came after all edits, in the median layer (eq-lifetime-drift, chapter 19)."""
    for targets in ("beforehand", "anew"):
        some = [end for end in last(of_layers()) if end.targets == targets]
        yield np.median([math.sqrt(end.edits * end.of["D"]) / end.of[R] for end in some])


@glued(LIFETIME, "thousand_seen", "thousand_near", "thousand_middle", "thousand_over")
def replay_of_a_thousand() -> Numbers:
    """The same of a thousand edits, by the replay of each method; its drift over ROME's at the end (chapter 19)."""
    replays = record("smollm2-failure")["replay"]

    def replay(state: State, part: float) -> float:
        rows = replays[f"{state.rule} 0"]
        return reached([row["edits"] for row in rows], [row["lost"]["share"] for row in rows], part)

    lives = [life for life in lifetimes(of_thousand(), replay) if life.seen and life.came > 10]
    yield from (
        len(lives),
        np.mean([life.near for life in lives]),
        np.median([life.told / life.came for life in lives]),
    )
    end = to_failure()["rome"][-1]
    (drift,) = (row["drift"] for row in replays["rome 0"] if row["edits"] == end["edits"])
    yield drift / end["drift_over_stream_all"]


# Chapter 20


def runs() -> dict[str, tuple[str, Mapping[str, Any]]]:
    """The runs of the record of forecasts as tables call them: the stem of their arrays, and their entries."""
    rows = record("forecasts")["runs"]
    return {f"{MODELS[row['model']]}, layer {row['layer']}": (f"{row['model']} {row['layer']}", row) for row in rows}


def forecast(stem: str, name: str) -> np.ndarray:
    """What a forecast said of each watched fact, after all edits."""
    return arrays("forecasts")[f"{stem} forecast {record('forecasts')['looks'][-1]} {name}"].astype(float)


def came(stem: str, look: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """The fall of each watched fact, and which are lost."""
    return arrays("forecasts")[f"{stem} fall"][look].astype(float), ~arrays("forecasts")[f"{stem} kept"][look]


LEVELS = {
    "margin now": "null: margin",
    "overlap": "p norm, from the subject on",
    "overlap over margin": "p over margin, from the subject on",
    "margin left": "margin left",
}


@table(FORECASTS, "CPU seconds")
def separations() -> Cells:
    """The chance that a lost fact was forecast to be worse off than a kept one: area under the curve (chapter 20)."""
    stems = {label: stem for label, (stem, _) in runs().items()}
    return {(words,): {n: area(forecast(s, of), came(s)[1]) for n, s in stems.items()} for words, of in LEVELS.items()}


@table(FORECASTS, "lead over the margin now")
def leads() -> Cells:
    """That area less the one of the margin now (chapter 20)."""
    areas = {words: cells for (words,), cells in separations().items()}
    start = areas.pop("margin now")
    return {(words,): {label: cells[label] - start[label] for label in cells} for words, cells in areas.items()}


@glued(FORECASTS, "few_fall", "few_gained", "few_lost", "overlap_falls", "overlap_sizes", "overlap_last", "ten_lost")
def who_is_lost() -> Numbers:
    """The mean fall hides losses; rank correlation of overlap and fall; of the ten most at risk (chapter 20)."""
    (main, _), *_, (end, _) = runs().values()
    (few, gone), (fall, lost), overlap = came(main, 0), came(main), forecast(main, LEVELS["overlap"])
    yield from (few.mean(), (few < 0).mean(), gone.mean(), spearman(overlap, fall), spearman(overlap, np.abs(fall)))
    yield spearman(forecast(end, LEVELS["overlap"]), came(end)[0])
    yield lost[np.argsort(-forecast(main, "margin left"), kind="stable")[:10]].sum()


def losses(name: str, *which: str) -> np.ndarray:
    """The loss of each fact under some arms, in the mean over them: the fall, or zero where there was none."""
    rows = [record(name)["runs"][0]["arms"].index(arm) for arm in which]
    return np.maximum(arrays(name)["smollm2 6 falls"][rows].astype(float), 0).mean(0)


def column(name: str, what: str) -> dict[str, float]:
    """A column of an experiment's table, by arm."""
    of = record(name)["runs"][0]
    values = arrays(name)["smollm2 6 table"][:, of["columns"].index(what)].astype(float).tolist()
    return dict(zip(of["arms"], values, strict=True))


def left(name: str, *which: str, of: str = "as it is") -> float:
    """Loss under some arms over that under another, summed over facts."""
    return float(losses(name, *which).sum() / losses(name, of).sum())


def named(name: str, begins: str) -> list[str]:
    """The arms of an experiment whose names begin with these words."""
    return [arm for arm in record(name)["runs"][0]["arms"] if arm.startswith(begins)]


ALONE = {
    "protected": "protected: 100",
    "half": "scaled: 0.5",
    "three_quarters": "scaled: 0.75",
    "exactly": "rls-hard",
    "exactly_same": "rls-hard, same norm",
    "blind": "all at once",
    "at_subject": "only at: subject",
    "elsewhere": "only at: not the subject",
}


@glued(FORECASTS, *ALONE, "signs", "turned", "any_least", "order_least", "order_most", "ends", "ends_same")
def loss_by_cause() -> Numbers:
    """The loss with one cause changed, over the loss as it is (claim 17, chapter 20)."""
    yield from (left("causes", arm) for arm in ALONE.values())
    yield from (left("causes", *named("causes", begins)) for begins in ("signs drawn", "residuals drawn"))
    orders = [left("causes", arm) for arm in named("causes", "order")]
    yield from (min(left("causes", arm) for arm in named("causes", "any direction")), min(orders), max(orders))
    for norm in ("", ", same norm"):
        yield left("causes", f"most overlapping{norm}", of=f"least overlapping{norm}")


@glued(
    FORECASTS, "removed", "protected_norm", "ends_crowding", "rank_full", "rank_drift", "rank_drawn", "norm_exponent"
)
def causes_in_short() -> Numbers:
    """Ratios of norm and crowding (def-forecast-crowding), ranks over arms, ``s`` of loss ``∝ norm^s`` (chapter 20)."""
    norm, crowding, loss = (column("causes", what) for what in ("norm", "crowding", "loss"))
    yield from (1 - left("causes", "protected: 100"), norm["protected: 100"] / norm["as it is"])
    yield crowding["most overlapping, same norm"] / crowding["least overlapping, same norm"]
    full = ["as it is", *named("causes", "protected, same norm"), *named("causes", "any direction")]
    full += named("causes", "not whitened")
    yield spearman([crowding[arm] for arm in full], [loss[arm] for arm in full])
    drawn, drift = named("causes", "drawn"), column("causes", "drift")
    yield from (spearman([x[arm] for arm in drawn], [loss[arm] for arm in drawn]) for x in (drift, crowding))
    scaled = ["as it is", *named("causes", "scaled")]
    yield power([norm[arm] for arm in scaled], [losses("causes", arm).mean() for arm in scaled])


# Chapter 21

REMEDIES = {
    "watched facts in C, λ = 1": "protect: 1",
    "watched facts in C, λ = 10": "protect: 10",
    "watched facts in C, λ = 100": "protect: 100",
    "AlphaEdit": "rule: alphaedit",
    "MEMIT": "rule: memit",
    "soft recursion": "rule: rls-soft",
    "hard recursion": "rule: rls-hard",
    "one batch (EMMET)": "all in one step",
    "a ridge of a tenth of C's mean": "shrinkage: 0.1",
    "residuals capped, lower quartile": "cap: 0.25",
    "spread over 2 layers": "spread: 2",
    "spread over 3 layers": "spread: 3",
    "harmful edits first": "order: safe last, by harm",
    "harmful edits last": "order: safe first, by harm",
    "skip the most harmful quarter": "skip: 25% by harm",
    "skip any quarter": "skip: 25% drawn",
}


@table(CURES, "remedy")
def remedies() -> Cells:
    """Loss left, facts lost, edits held; c and ``√q`` of what is written, over ROME's (eq-cures-terms, chapter 21)."""
    kept, held, size, p2, edits = (column("cures", what) for what in ("kept", "held", "size", "p2", "edits"))
    found: Cells = {}
    for number, (words, begins) in enumerate(REMEDIES.items(), 2):
        some = named("cures", begins) if begins.endswith("drawn") else [begins]
        cells = {"loss left (95 %)": left("cures", *some), "n": np.mean([edits[arm] for arm in some])}
        cells |= {"lost": 1 - np.mean([kept[arm] for arm in some]), "held": np.mean([held[arm] for arm in some])}
        if not begins.startswith("spread"):
            q = np.mean([p2[arm] / edits[arm] for arm in some]) / (p2["as it is"] / edits["as it is"])
            cells |= {"c": np.mean([size[arm] for arm in some]) / size["as it is"], "√q": math.sqrt(q)}
        found[str(number), words] = cells
    return found


@interval(CURES, "protect10_left", "memit_left", "hard_mean", within=0.2)
def left_over_facts() -> Numbers:
    """Bootstrap of such ratios: facts are drawn, the same for both (chapter 21)."""
    whole, orders = losses("cures", "as it is"), losses("causes", *named("causes", "order"))
    for arm, below in (("protect: 10", whole), ("rule: memit", whole), ("rule: rls-hard", orders)):
        above = losses("cures", arm)
        yield ends(lambda drawn, a=above, b=below: a[drawn].sum() / b[drawn].sum(), len(whole))


@table(CURES, "facts lost, of ROME's")
def norm_anchors() -> Cells:
    """Facts lost, norm and paraphrases with norm anchors, beside ROME in the same ball, at the end (chapter 21)."""
    of, found = record("sequences"), {}
    for run in of["runs"]:
        stem, n = f"{run['model']} {run['layer']}", of["looks"][-1]
        anchored, moving = (run["points"][f"{targets}, rome"] for targets in ("norm anchors", "moving"))
        lost = [(~arrays("sequences")[f"{stem}/{t}, rome/kept"][-1]).sum() for t in ("norm anchors", "moving")]
        cells = {
            "facts lost, of ROME's": lost[0] / lost[1],
            "norm, of ROME's": anchored[f"{n}/change"] / moving[f"{n}/change"],
        }
        answered = {"paraphrases answered": anchored, "by ROME": moving}
        cells |= {words: row[f"{n}/paraphrase_exact"] for words, row in answered.items()}
        found[f"{MODELS[run['model']]}, {run['layer']}",] = cells
    return found
