"""The trials of the claims: from the records, or for theorems from a few random memories, to what was found.

Each function's docstring says when the claim stands in a case (:mod:`superposition.studies.claims`); its decorator
names the chapter that argues it. Chapter ``claims``.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from superposition.data import facts
from superposition.linear import capacity, overlap
from superposition.linear.memory import LinearMemory
from superposition.records import Record
from superposition.stats import shape
from superposition.stats.intervals import mean_over_seeds
from superposition.studies import edit_sequences, forecasts, measurement, nulls, pairs, scaling, toy_memory, toys
from superposition.studies.claims import (
    CLAIMS,
    MEASURED,
    MODELS_FOR_A_LAW,
    TRIALS,
    Found,
    Trial,
    bounded,
    glued,
    of_each,
    percent,
    told,
    trial,
)

# Theorems, proved in their chapters: here a few random memories, and a bound in place of noisy digits


def _life(seed: int, rule: str = "rome", n: int = 24) -> tuple[LinearMemory, np.ndarray]:
    """A random memory after n edits, and the keys it stores."""
    rng, d, d_m = np.random.default_rng(seed), 8, 32
    K, K_e = rng.normal(size=(d_m, 4 * d_m)), rng.normal(size=(d_m, n))
    memory = LinearMemory.from_pairs(K, rng.normal(size=(d, 4 * d_m)))
    memory.edit_batch(K_e, rng.normal(size=(d, n)), rule)
    return memory, K


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@trial(1, "02-single-edit")
@bounded(1e-11, "exact_tolerance")
def single_edit(seed: int) -> Iterable[float]:
    """The edited key's answer is the value."""
    memory, _ = _life(seed, n=1)
    yield np.linalg.norm(memory.edit_error()) / np.linalg.norm(memory.residuals)


@trial(2, "03-lifelong")
@bounded(1e-8, "tolerance")
def unrolled_sum(seed: int) -> Iterable[float]:
    """The sum, in one triangular solve, gives the memory that the recursion gives."""
    memory, _ = _life(seed)
    P = overlap.superposition_matrix(memory.keys, memory.metric)
    delta = np.linalg.solve(np.triu(P).T, (memory.values - memory.W_0 @ memory.keys).T).T
    yield _apart(memory.W_0 + delta @ memory.directions.T, memory.W)


@trial(3, "03-lifelong")
@bounded(1e-8, "tolerance")
def interference(seed: int) -> Iterable[float]:
    """Predicted and measured agree, on original and on edited knowledge."""
    memory, K = _life(seed)
    yield _apart(memory.predicted_interference(K), memory.measured_interference(K))
    yield _apart(memory.predicted_interference_on_edits(), memory.measured_interference_on_edits())


@trial(4, "04-superposition")
@bounded(1e-12, "tolerance")
def lossless(seed: int) -> Iterable[float]:
    """Keys orthogonal once whitened, edited or not, leave each other's answers alone."""
    rng = np.random.default_rng(seed)
    K = rng.normal(size=(32, 128))
    memory = LinearMemory.from_pairs(K, rng.normal(size=(8, 128)))
    keys = np.linalg.cholesky(K @ K.T) @ nulls.orthonormal(32, 24, rng)
    memory.edit_batch(keys[:, :12], rng.normal(size=(8, 12)), "rome")
    for change in (memory.measured_interference_on_edits(), memory.measured_interference(keys[:, 12:])):
        yield np.abs(change).max()


@trial(5, "06-editors")
def never_lossless() -> Found:
    """Something is lost: in total; of every earlier edit (fixed $C$); of some earlier edit (hard recursion)."""
    total, fixed, hard = [], [], []
    for seed in range(5):
        one, K = _life(seed, n=1)
        floor = np.sum(one.residuals**2) / (one.keys.T @ one.metric.solve(one.keys)).item()
        total.append(np.sum(one.measured_interference(K) ** 2) > 0.999 * floor)
        change = np.linalg.norm(_life(seed)[0].measured_interference_on_edits()[:, :-1], axis=0)
        fixed.append(change.min() > 1e-3)
        hard.append(np.abs(_life(seed, "rls-hard")[0].edit_error()).max() > 1e-6)
    text = "proved; with a fixed $C$ every earlier edit moved, under the hard recursion none by as much as $10^{-6}$"
    return Found([all(total), all(fixed), any(hard)], text, {"kept": 1e-6})


@trial(18, "05-capacity")
@bounded(1e-9)
def conservation(seed: int) -> Iterable[float]:
    """The two sides agree, for each stored key and, with a mean leverage of $d_m/N$, in the mean."""
    K = np.random.default_rng(seed).normal(size=(12, 40)) * np.geomspace(1, 20, 12)[:, None]
    P, h = overlap.superposition_matrix(K, K @ K.T), capacity.leverages(K)
    yield from (_apart((P**2).sum(1), 1 / h), abs(h.mean() * 40 / 12 - 1))


# Toys, and what edits do to a layer


@trial(3, "09-toy-transformer", "toy-transformer")
def interference_in_toys(record: Record) -> Found:
    """Predicted and measured agree within the bound, in a trained model."""
    exact = toys.exactness(record)
    text = f"in {len(exact)} lives they differ by less than $10^{{-10}}$ of their size"
    return Found([x < 1e-10 for x in exact], text, {"exactness": max(exact), "lives": len(exact), "tolerance": 1e-10})


@trial(3, "15-editing-a-model", "smollm2-lifelong")
def interference_of_one(record: Record) -> Found:
    """Predicted and measured agree within the rounding of the weights, after the first edit of a life."""
    errors = edit_sequences.prediction_errors(record, edits=1)
    text = f"in {len(errors)} lives they differ by less than $10^{{-4}}$ of their size"
    return Found([x < 1e-4 for x in errors], text, {"rounding": 1e-4, "layer": record["layer"]})


@trial(3, "16-lifelong-failure", "smollm2-lifelong")
def interference_of_lives(record: Record) -> Found:
    """Predicted and measured agree within the rounding of the weights, at a stop in a life of up to 200 edits."""
    errors = edit_sequences.prediction_errors(record)
    text = f"at {len(errors)} stops they differ by less than $10^{{-4}}$ of their size"
    return Found([x < 1e-4 for x in errors], text, {"worst_error": max(errors), "looks": len(errors)})


@trial(6, "03-lifelong", "toy-memory")
def earlier_suffer(record: Record) -> Found:
    """The first third of a life's edits suffers more than the last third."""
    old, _, young = toy_memory.by_age(record)
    ends = mean_over_seeds(old), mean_over_seeds(young)
    text = f"proved in the mean, for random keys; squared change {told(ends[0])} against {told(ends[1])}"
    values = glued("07-toy-memory::old", ends[0]) | glued("07-toy-memory::young", ends[1])
    return Found(list(old > young), text, values)


@trial(6, "16-lifelong-failure", "smollm2-lifelong")
def earlier_suffer_in_a_model(record: Record) -> Found:
    """The interval of what a life's first third of edits suffers, over what its last third does, lies above 1."""
    ratios = {name: age.ratio for name, age in edit_sequences.ages(record).items()}
    text = f"ROME {told(ratios['rome'], 1)}; the least of {len(ratios)} lives {told(min(ratios.values()), 1)}"
    values = glued("age_ratio", ratios["rome"]) | {"age_lives": len(ratios)}
    return Found([ratio.low > 1 for ratio in ratios.values()], text, values)


@trial(7, "07-toy-memory", "toy-memory")
def growth(record: Record) -> Found:
    """Late in a life, the interval of the slope on log-log axes reaches 1 (five ways to choose keys and targets)."""
    ends = toy_memory.growth(record, first=96)
    fixed, _, wander, aligned, linear = ends.values()
    text = f"slope {told(fixed)} with fixed targets, {told(wander)} with re-optimised ones, "
    values = glued("fixed", fixed) | glued("wander", wander) | glued("aligned", aligned) | glued("linear", linear)
    cases = [slope.high >= 1 for slope in ends.values()]
    return Found(cases, text + f"{told(linear)} if residuals align and keys lean", values)


@trial(7, "16-lifelong-failure", "smollm2-lifelong")
def growth_in_a_model(record: Record) -> Found:
    """The interval of a life's slope on log-log axes reaches 1; that of a long life, late, lies above 0."""
    slopes = {name: edit_sequences.growth(record, name).slope for name in edit_sequences.with_interference(record)}
    long = edit_sequences.whole(record)
    ends = sorted(slopes[name] for name in long)
    late = sorted(edit_sequences.growth(record, name, first=100).slope for name in long)
    text = (
        f"slope {told(ends[0])} to {told(ends[-1])} in long lives; from the hundredth edit on {told(late[0])} and more"
    )
    cases = [slope.high >= 1 for slope in slopes.values()] + [slope.low > 0 for slope in late]
    values = {"slope_least": ends[0][0], "slope_most": ends[-1][0], "late_least": late[0][0], "late_most": late[-1][0]}
    return Found(cases, text, values)


# Measuring language models


@trial(8, "11-superposition-in-llms", *MEASURED)
@of_each
def everywhere(record: Record) -> Found:
    """More of a layer's pairs overlap by over three standard deviations of random keys than random keys would."""
    shares, random = measurement.crowded(record), measurement.BEYOND_RANDOM
    text = f"{percent(min(shares))} of pairs at the least; random keys: {100 * random:.1f} %"
    return Found([share.low > random for share in shares], text, {"crowded": min(shares).value})


@trial(9, "11-superposition-in-llms", *MEASURED)
@of_each
def mean_is_zero(record: Record) -> Found:
    """The interval of a layer's mean holds zero."""
    means = measurement.statistic(record, "mean")
    least, most = means[means[:, 0].argmin()], means[means[:, 0].argmax()]
    values = {"mean_least": least[0], "mean_most": most[0], "positive": measurement.means(record)["positive"]}
    cases = (means[:, 1] <= 0) & (means[:, 2] >= 0)
    return Found(list(cases), f"from {told(least, 3)} to {told(most, 3)} by layer", values)


@trial(10, "11-superposition-in-llms", *MEASURED)
@of_each
def kurtosis_is_high(record: Record) -> Found:
    """The interval of a layer's excess kurtosis lies above zero."""
    tails, of = measurement.statistic(record, "excess_kurtosis"), measurement.tails(record)
    least = tails[tails[:, 0].argmin()]
    values = glued("first", tails[0]) | {"excess_kurtosis_least": least[0], "heavy": of["heavy"]}
    text = f"{told(tails[0], 0)} in the first layer, at the least {told(least, 1)}"
    return Found(list(tails[:, 1] > 0), text, values)


@trial(11, "11-superposition-in-llms", *MEASURED)
@of_each
def kurtosis_falls(record: Record) -> Found:
    """The first layer lies above the last; and no layer lies above one before it (intervals apart)."""
    tails, of = measurement.statistic(record, "excess_kurtosis"), measurement.course(record)
    turns = {name: of[name] for name in ("first", "dip", "rise", "last")}
    text = "{} in the first layer, {} at the lowest, then up to {}, {} in the last".format(
        *(told(ends, 1) for ends in turns.values())
    )
    values = {part: x for name, ends in turns.items() for part, x in glued(name, ends).items()}
    cases = [tails[0, 1] > tails[-1, 2], not np.any(tails[1:, 1] > np.minimum.accumulate(tails[:-1, 2]))]
    return Found(cases, text, values)


@trial(16, "11-superposition-in-llms", *MEASURED)
@of_each
def angles(record: Record) -> Found:
    """The angle of a layer's mean cosine is within ten degrees of 90° once whitened, and was not before."""
    raw, white = (measurement.mean_angles(record, of) for of in ("raw", "whitened"))
    of, (near, far) = measurement.angles(record), measurement.right_angles(record)
    values = {f"{name}_{end}": x for name in ("raw", "white") for end, x in of[name].items()}
    most, least = raw[raw[:, 0].argmax(), [0, 2, 1]], white[white[:, 0].argmin(), [0, 2, 1]]
    return Found(list(near & far), f"raw up to {told(most, 1, '°')}, whitened down to {told(least, 1, '°')}", values)


@trial(12, "09-toy-transformer", "toy-transformer")
def rises_in_toys(record: Record) -> Found:
    """The interval of the rise per doubling of the width lies above zero (three lists of facts, two layers)."""
    lists = [(kind, layer) for kind in toys.LISTS for layer in (0, 1)]
    ends = {f"{kind}_{layer}": mean_over_seeds(toys.per_doubling(record, kind, layer)) for kind, layer in lists}
    distinct, shared, twin = (told(ends[f"{kind}_0"], 1) for kind in toys.LISTS)
    text = f"first layer: {distinct} where last tokens differ, {shared} where shared, {twin} with one key twice"
    values = {part: x for name, one in ends.items() for part, x in glued(f"rise_{name}", one).items()}
    return Found([one[1] > 0 for one in ends.values()], text, values)


@trial(12, "13-scaling", *MEASURED)
def rises_in_models(*measured: Record) -> Found:
    """The wider model lies above, on facts without confounds (first, middle, last layer); two are too few to judge."""
    two = sorted(measured, key=scaling.width)
    alike, found = scaling.clean_in_every(two)[0], []
    for record in two:
        places = [scaling.layer_at(record, depth) for depth in (0, 0.5, 1)]
        kept = [shape.summary(record.overlaps(n).P[np.ix_(alike, alike)], resamples=500) for n in places]
        found.append([(one["excess_kurtosis"], *one["excess_kurtosis_interval"]) for one in kept])
    first, middle, last = (f"{told(b, 1)} against {told(a, 1)}" for a, b in zip(*found, strict=True))
    values = {"top_clean_narrow": found[0][0][0], "top_clean_wide": found[1][0][0], "clean": len(alike)}
    cases = [b[1] > a[2] for a, b in zip(*found, strict=True)]
    text = f"Gemma 3 against SmolLM2: {first} in the first layer, {middle} in the middle, {last} in the last"
    return Found(cases, text, values, enough=len(measured) >= MODELS_FOR_A_LAW)


@trial(13, "12-nulls-and-confounds", "smollm2-nulls", "gemma3-nulls")
def facts_suffice(*measured: Record) -> Found:
    """Over lists of 128 facts the mean, the spread, the kurtosis scatter by a fifth at most."""
    values = {
        f"{record['model']['name']}_at128_{name}": nulls.uncertainty(record, name, 128)
        for record in measured
        for name in ("mean", "spread", "excess_kurtosis")
    }
    each = [f"±{100 * value:.0f} %" for value in values.values()]
    text = f"half an interval of each<br>SmolLM2: {', '.join(each[:3])}<br>Gemma 3: {', '.join(each[3:])}"
    return Found([value <= 0.2 for value in values.values()], text, values)


# Neighbours and causes


@trial(14, "14-who-overlaps", "pairs")
def related(record: Record) -> Found:
    """Relation or kind of subject explains more of the overlap than the last token (first, middle, last layer)."""
    cases, values, shown = [], {}, []
    for model in ("smollm2", "gemma3"):
        own = pairs.regressions(record, model)
        for place in pairs.PLACES:
            groups = ("last token", "kind", "relation")
            token, kind, relation = (pairs.share_estimate(own, group, place) for group in groups)
            cases.append(bool(max(kind.low, relation.low) > token.high))
        token, kind = pairs.share_estimate(own, "last token", "first"), pairs.share_estimate(own, "kind", "middle")
        values |= glued(f"{model}_token_first_share", token) | glued(f"{model}_kind_middle_share", kind)
        shown.append(f"last token {percent(token)} in the first layer; kind {percent(kind)} midway")
    return Found(cases, f"variance explained<br>SmolLM2: {shown[0]}<br>Gemma 3: {shown[1]}", values)


@trial(15, "09-toy-transformer", "toy-transformer")
def partners_in_toys(record: Record) -> Found:
    """At a width, answers flip more often where $p$ is above 0.4 than below 0.05 (intervals apart)."""
    widths = toys.widths(record)
    near = {width: mean_over_seeds(toys.flips(record, width, low=0.4)) for width in widths}
    far = {width: mean_over_seeds(toys.flips(record, width, high=0.05)) for width in widths}
    shown = percent(near[16]), percent(far[16], 1), percent(near[32], 1)
    text = "flips, narrowest: {} against {}; above 0.4, next wider: {}".format(*shown)
    values = glued("flips_near", near[16]) | glued("flips_far", far[16]) | glued("middle_near", near[32])
    return Found([near[width].low > far[width].high for width in widths], text, values)


@trial(15, "14-who-overlaps", "pairs-edits")
def partners_change(record: Record) -> Found:
    """At a layer, the interval of the odds ratio of a flipped answer lies above 1."""
    known = facts.load("book")
    low, high = (pairs.odds_of_a_flip(pairs.partners(record, layer, known)) for layer in record["layers"])
    text = "each tenth of $p$ multiplies the odds by {} at layer {} and by {} at layer {}"
    text = text.format(told(low), record["layers"][0], told(high), record["layers"][1])
    return Found([low[1] > 1, high[1] > 1], text, glued("low_ratio_all", low) | glued("high_ratio_all", high))


@trial(17, "17-forecasting-damage", "causes")
def causes(record: Record) -> Found:
    """Loss falls with overlap: by half where it is taken out; from list to list; between the extremes of one norm."""
    conditions = forecasts.Conditions(record)
    removed, half = forecasts.gone(conditions.left("protected: 100")), conditions.left("scaled: 0.5")
    ends = conditions.left("most overlapping, same norm", of="least overlapping, same norm")
    rank = conditions.rank(conditions.starting("drawn"))
    text = f"loss gone: {percent(removed, 1)} with the overlap, {percent(forecasts.gone(half))} with half the norm<br>"
    text += f"rank correlation over lists: {told(rank)}<br>most over least overlap at one norm: {told(ends)}"
    values = glued("removed", removed) | glued("half", half) | glued("ends_same", ends) | glued("rank_drawn", rank)
    return Found([removed.low > 0.5, rank.low > 0, ends.low > 1], text, values)


def scoreboard(claims: Iterable[int] = CLAIMS) -> list[tuple[Trial, Found]]:
    """The trials of some claims, settled with the book's records, in the order of the claims."""
    return [(each, each.run()) for claim in claims for each in TRIALS if each.claim == claim]
