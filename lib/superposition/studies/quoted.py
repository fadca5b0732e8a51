"""The numbers that the prose of a chapter quotes, by the names under which the chapter glues them.

One function a chapter, from its records to names and numbers: estimates give ``name``, ``name_low`` and ``name_high``,
a mapping or dataclass ``name_key`` for each of its keys (:func:`superposition.book.cells.glue_all`). The statistics
are those of the chapter's own module of studies; here they get the names that the prose uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from superposition import records
from superposition.records import Record
from superposition.stats import intervals
from superposition.stats.regression import log_slope
from superposition.stats.shape import extremes
from superposition.studies import (
    edit_sequences,
    forecasts,
    law,
    lists,
    nulls,
    pairs,
    runaway,
    scaling,
    to_failure,
    toys,
)

Numbers = dict[str, Any]


# Chapter 12

#: What the prose says of each null model.
NULLS = {"shuffled": ["mean"], "same norms": ["kurtosis"], "random subjects": ["spread"]}

#: Readings and categories of pairs that the prose quotes.
READINGS = {
    "told": ("table", "same relation, words before"),
    "alone": ("subject alone", "same relation, words before"),
    "strangers": ("prompts swapped", "apart"),
    "one_prompt": ("prompts swapped", "apart, swapped into one prompt"),
}


def nulls_and_confounds(record: Record) -> Numbers:
    """Chapter 12, of one model's record of null models."""
    found = {null: nulls.compared(record, null) for null in NULLS}
    statistics = ("spread", "excess_kurtosis")
    return (
        {f"{null} {part}".replace(" ", "_"): found[null][part] for null, parts in NULLS.items() for part in parts}
        | {statistic: nulls.cleaned(record, statistic) for statistic in ("excess_kurtosis", "l_kurtosis")}
        | {name: nulls.typical(record, *reading) for name, reading in READINGS.items()}
        | {"lengths": nulls.tails_of_lengths(record)}
        | {"at128": {statistic: nulls.uncertainty(record, statistic, 128) for statistic in statistics}}
    )


# Chapter 13


def toy_scaling(record: Record) -> Numbers:
    """Chapter 13 on the toy, of the record ``toy-transformer``: rise of the kurtosis per doubling of the width."""
    return {"distinct_0": intervals.mean_over_seeds(toys.per_doubling(record, "distinct", 0))}


def measured_model(record: Record) -> Numbers:
    """Chapter 13 on one measured model: the kurtosis of its first layer."""
    return {"top_all": scaling.by_layer(record)[0, *scaling.KURTOSIS]}


def before_training(record: Record, listed: str) -> Numbers:
    """Chapter 13 on a model before and after its training, of the record ``random-smollm2`` and one of its lists."""
    spreads = (scaling.untrained_or_trained(record, name, listed, "spread") for name in ("trained", "untrained"))
    trained, untrained = map(np.median, spreads)
    return {"trained_spread_middle": trained, "untrained_spread_middle": untrained}


# Chapter 14

#: A feature of pairs and a place of the network, by the prose's words.
FEATURES = {
    "token_first": ("same last token", "first"),
    "token_last": ("same last token", "last"),
    "read_last": ("same relation, read", "last"),
    "unread_last": ("same relation, unread", "last"),
}


def who_overlaps(study: Record, models: Sequence[str] = ("smollm2", "gemma3")) -> Numbers:
    """Chapter 14 on regressions, of the record ``pairs``."""
    own = {model: pairs.regressions(study, model) for model in models}
    directed = {model: pairs.regressions(study, model, measure="P") for model in models}
    numbers: Numbers = {
        "chance": max(fit["chance"].max() for fit in (*own.values(), *directed.values())),
        "own": extremes(directed[models[0]]["own"]),
    }
    for model, fit in own.items():
        drawn = pairs.regressions(study, model, wording="drawn")
        numbers[model] = {name: pairs.effect(fit, *of) for name, of in FEATURES.items()} | {
            "relation_drawn": pairs.effect(drawn, "same relation, read", "last"),
            "words_drawn": pairs.effect(drawn, "same words", "last"),
            "token_first_share": pairs.share_estimate(fit, "last token", "first"),
            "related_last": pairs.related(fit, "last"),
        }
    return numbers


#: What counts as a large push, in units of the median length of an edit.
LARGE_PUSH = 0.6


def partners(at: pairs.Partners, layer: int) -> Numbers:
    """Chapter 14 on the facts that overlap with an edited one, of one layer of the record ``pairs-edits``."""
    return {
        "layer": layer,
        "failed": (~at.held).sum(),
        "failed_flips": at.wrong[at.groups["failed"]].mean(),
        "hard": pairs.flips(at, LARGE_PUSH)[0],
        "ratio": pairs.odds_of_a_flip(at),
        "shift_failed": np.median(at.shift[~at.held]),
        "shift_held": np.median(at.shift[at.held]),
    }


# Chapter 15


def single_edits(record: Record, cost: Record) -> Numbers:
    """Chapter 15, of the records ``smollm2-single-edits`` and ``benchmark-editing``."""
    sweep, rows = record["sweep"], record["edits"]
    late = max(map(int, sweep))
    numbers: Numbers = {"layer": record["layer"], "sweep_layers": len(sweep), "late": late, "count": len(rows)}
    numbers["sweep_facts"] = sweep[str(record["layer"])]["facts"]
    numbers["chosen_paraphrases"] = edit_sequences.paraphrases(record, rest=False)
    numbers["late_paraphrases"] = sweep[str(late)]["paraphrase_exact"]["share"]
    numbers |= {
        "steps": np.median([row["steps"] for row in rows]),
        "shift": np.median([row["shift_norm"] / row["recalled_norm"] for row in rows]),
        "drift": np.median([row["drift"] for row in rows]),
        "rest": len(rows) - numbers["sweep_facts"],
        "rest_paraphrases": edit_sequences.paraphrases(record, rest=True),
    }
    bound = record["settings"]["clamp_norm_factor"]
    numbers["bounded"] = sum(row["shift_norm"] > 0.999 * bound * row["recalled_norm"] for row in rows)
    numbers["timed"] = cost["facts"]
    end = record["after"]
    texts = [row["perplexity"] for row in rows if "perplexity" in row]
    numbers |= {what: end[what]["share"] for what in ("success", "exact")}
    numbers["paraphrase"] = {kind: end[f"paraphrase_{kind}"]["share"] for kind in ("success", "exact")}
    numbers["near"] = {
        when: edit_sequences.answered(record, when, "neighbourhood_exact") for when in ("before", "after")
    }
    more = edit_sequences.answered_more(record, "neighbourhood_exact")
    numbers["near"]["fewer"] = intervals.Estimate(-100 * more.value, -100 * more.high, -100 * more.low)
    numbers["plain"] = {"before": record["perplexity_before"], "after": np.median(texts), "worst": max(texts)}
    numbers["plain"]["count"] = len(texts)
    # if all of ten answers are right, or all of the record's: the least share that this speaks for
    return numbers | {"ten": intervals.share([True] * 10)["low"], "all": intervals.share([True] * len(rows))["low"]}


# Chapter 16


def _share(of: dict[str, float]) -> intervals.Estimate:
    return intervals.Estimate(*(of[end] for end in ("share", "low", "high")))


def lifelong_failure(record: Record) -> Numbers:
    """Chapter 16, of the record ``smollm2-lifelong``."""
    methods = ("rome", "memit", "memit batch 20", "alphaedit", "rls-soft", "rls-hard", "ft")
    ends = {name: edit_sequences.checkpoint(record, name) for name in methods}
    numbers: Numbers = {
        "layer": record["layer"],
        "edits": len(record["subjects"]),
        "known": sum(record["known_edits"]),
        "untouched": len(record["untouched"]),
        "text_weight": record["write"]["text_weight"],
        "free": 1 - record["write"]["protected"],
        "rome_ratio": edit_sequences.residual_ratio(record, "rome"),
    }
    for word, name in {"soft": "rls-soft", "alpha": "alphaedit", "rome": "rome", "memit": "memit", "ft": "ft"}.items():
        end = ends[name]
        shares = end["every"] | {"untouched": end["untouched_exact"]}
        numbers[word] = {what: _share(shares[what]) for what in ("exact", "success", "untouched")}
        numbers[word]["interference"] = end["interference"]
    numbers["history"] = edit_sequences.untouched_change(record, "rls-soft", "memit")
    sequences = record["lives"]  # the record's key
    closed = [row["closed_form_error"] for row in sequences.values() if "closed_form_error" in row]
    errors = edit_sequences.prediction_errors(record)
    numbers |= {"accounts": len(closed), "closed_most": max(closed), "worst_error": max(errors)}
    numbers["free_directions"] = sequences["alphaedit"]["protection"]["free"]
    numbers["rome"] |= vars(edit_sequences.growth(record, "rome"))
    return dict(**numbers, **_growth(record), **_ages(record))


def _growth(record: Record) -> Numbers:
    growth = {name: edit_sequences.growth(record, name) for name in edit_sequences.with_interference(record)}
    whole = edit_sequences.whole(record)
    slopes = [growth[name].slope for name in whole]
    return {
        "long": len(whole),
        "slope": extremes([slope.value for slope in slopes]) | {"top": max(slope.high for slope in slopes)},
        "late_from": edit_sequences.LATE,
        "late_least": min(edit_sequences.growth(record, name, first=edit_sequences.LATE).slope for name in whole),
        "over": extremes([g.over_walk for g in growth.values()]),
        "second": vars(growth["rome order 2"]) | {"edits": record["lives"]["rome order 2"]["edits"]},
    }


def _ages(record: Record) -> Numbers:
    ages = edit_sequences.ages(record)
    numbers: Numbers = {
        "age": ages["rome"],
        "soft_age": ages["rls-soft"],
        "memit_age": ages["memit"],
        "age_lives": len(ages),
    }
    numbers["age_low_least"] = min(age.ratio.low for age in ages.values())
    return numbers


def over_lists(record: Record) -> Numbers:
    """Chapter 16, of the record ``lists``."""
    found = lists.read(record)
    slope = {rule: found.slope(rule) for rule in found.rules}
    apart = [np.ptp(found.by_list(rule)) for rule in found.rules]
    less = found.more_lost("rome", "rls-soft")
    return {
        "count": found.kept.shape[1],
        "orders": found.kept.shape[2],
        "edits": found.looks[-1],
        "watched": found.kept.shape[-1],
        "order": {"points": 100 * max(found.order_spread(rule) for rule in found.rules)},
        "apart": {"points": 100 * max(apart)},
        "less": {
            "soft": intervals.Estimate(*(100 * end for end in less)),
            "history": intervals.Estimate(*(100 * end for end in found.more_lost("memit", "rls-soft"))),
            "by_list": intervals.Estimate(*(100 * end for end in found.more_lost_by_list("rome", "rls-soft"))),
            "alpha": intervals.Estimate(*(100 * end for end in found.more_lost("alphaedit", "memit"))),
        },
        "slope": {"most": slope["memit"]},
    }


#: Methods of sequences that go on until a model breaks, by the prose's words.
THOUSAND = {"rome": "rome", "memit": "memit with history", "alpha": "alphaedit", "protected": to_failure.PROTECTED}


def to_a_thousand(record: Record) -> Numbers:
    """Chapter 16, of the record ``smollm2-failure``."""
    courses = to_failure.courses(record)
    together = to_failure.together(courses)
    subject = {name: course.at(together)["panels"]["same subject"]["lost"] for name, course in courses.items()}
    half, mine = to_failure.SHARES[-1], {word: courses[name] for word, name in THOUSAND.items()}
    ends = {word: course.checkpoints[-1] for word, course in mine.items()}
    return {
        "edits": record["requests"]["edits"],
        "step": record["block"],
        "watched": record["watched"],
        "together": together,
        "asked": subject["rome"]["n"],
        "subject": extremes([panel["share"] for panel in subject.values()]),
        "exponent": extremes([course.exponent() for course in courses.values()]),
        "half": {word: course.until(half) for word, course in mine.items()},
        "end": {word: end["edits"] for word, end in ends.items()},
        "named": ends["protected"]["lost_named"]["share"],
    }


# Chapter 17


def runaway_residuals(record: Record) -> Numbers:
    """Chapter 17, of the record ``runaway``: in the units of ROME's code, and in those of the unedited answer."""
    numbers: Numbers = {"edits": record["looks"][-1], "first": runaway.FIRST, "last": runaway.LAST}
    bar = records.bars("claim-21.lengths-units")
    numbers["factor"] = bar["factor"]
    for word, units in (("own", "ROME"), ("answer", "answer")):
        loops = runaway.loops(record, units)
        numbers[word] = {"lost": extremes([loop.lost() for loop in loops])}
        numbers[word] |= {str(loop.layer): _loop(loop, numbers["factor"]) for loop in loops}
    return numbers


def _loop(loop: runaway.Loop, factor: float) -> Numbers:
    left = {cause: loop.left(cause) for cause in runaway.CAUSES}
    return {
        "growth": loop.growth(),
        "rank": loop.correlation(),
        "near": loop.near(factor),
        "ten": loop.near(factor, first=10),
        "alone_ten": loop.alone_near(factor, first=10),
        "number": loop.by_number(),
        "shuffled": loop.overlaps_shuffled(),
        "rate": loop.rate,
        "dearer": loop.dearer[runaway.WHOLE],
        "left": max(left.values(), key=lambda share: share.value),
        "apart": loop.loss_left(runaway.CAUSES[0]),
    }


# Chapter 18


def law_of_loss(*measured: Record) -> Numbers:
    """Chapter 18, of the records of the law, a model each."""
    points = law.gathered(*measured)
    fitted, bar = [point for point in points if law.is_fitted(point)], records.bars("claim-19.curve")
    groups = law.grouped(points)
    held_out = [point for group in groups.values() for point in group]
    curves = {word: law.fit(fitted, name) for word, name in (("R", law.R), ("S", law.S), ("mu", law.MU))}
    ends = {of: some[-1] for of, some in law.series(points).items()}
    numbers: Numbers = {
        record["model"]["name"]: {"layers": len(record["layers"]), "watched": len(record["watched"])}
        for record in measured
    }
    numbers |= {
        "edits": len(measured[0]["edits"]),
        "points": len(points),
        "bar": {"correlation": bar["correlation"], "error": round(100 * bar["error"])},
        "gain": extremes([x.quantities[law.MU] / x.drift for x in ends.values() if x.targets == "beforehand"]),
        "ranks": {word: law.correlation(held_out, name) for word, name in (("R", law.R), ("change", "change"))},
        "early": _end(ends["gemma3", 0, "rome", "beforehand"]),
        "late": _end(ends["smollm2", 18, "rome", "beforehand"]),
    }
    beforehand = {model: groups[model, "targets beforehand"] for model in ("smollm2", "gemma3")}
    numbers["mu"] = _scored(law.score(held_out, curves["mu"], law.MU))
    numbers["R"] = {model: _scored(law.score(some, curves["R"])) for model, some in beforehand.items()}
    numbers["S_gemma3"] = _scored(law.score(law.unseen(beforehand["gemma3"]), curves["S"], law.S))
    return numbers


def law_by_ways(ways: Record) -> Numbers:
    """Chapter 18, of the record ``sequences``: its layers but the one that had been seen, by name."""
    layers = law.by_layer(law.points(ways))
    numbers: Numbers = {"layers": len(layers), "most": ways["looks"][-1]}
    unseen = {place: at for place, at in layers.items() if place != law.WAYS_SEEN}
    for (model, layer), at in unseen.items():
        more = {"without": extremes([100 * off for off in at.without_one()])}
        more |= {name: 100 * off for name, off in at.by_reach().items()}
        numbers[f"{model}_{layer}"] = _scored(at.score()) | more
    return numbers


def law_of_a_thousand(failure: Record, ways: Record, *measured: Record) -> Numbers:
    """Chapter 18, of the record ``smollm2-failure``, beside those of the law and of ways to make a sequence."""
    points, others = law.points(failure), law.gathered(*measured)
    fitted = [point for point in others if law.is_fitted(point)]
    every = law.grouped(law.gathered(*measured, ways, failure))
    curve, by_norm = law.fit(fitted), law.fit(fitted, "change")
    three = [point for point in points if point.rule != to_failure.PROTECTED]
    return {
        "layer": failure["layer"],
        "most": max(point.edits for point in points),
        "R": _scored(law.score(points, curve)),
        "three": {"R": _scored(law.score(three, curve)), "change": _scored(law.score(three, by_norm, "change"))},
        "lead": law.ahead([point for group in every.values() for point in group], "change"),
    }


def _end(point: law.Point) -> Numbers:
    return {"drift": point.drift, "lost": point.lost}


def _scored(score: law.Score) -> Numbers:
    error = intervals.Estimate(*(100 * end for end in score.error))
    return {"correlation": score.correlation, "error": error}


# Chapter 19


def lifetimes_of_layers(*measured: Record) -> Numbers:
    """Chapter 19, of the records of the law, a model each."""
    points = law.gathered(*measured)
    curve = law.fit([point for point in points if law.is_fitted(point)])
    held_out = [point for group in law.grouped(points).values() for point in group]
    ends = [some[-1] for some in law.series(points).values()]
    numbers: Numbers = {"edits": len(measured[0]["edits"]), "factor": records.bars("claim-20.lifetime")["factor"]}
    for targets in ("beforehand", "anew"):
        over = [end.quantities["forecast"] / end.drift for end in ends if end.targets == targets]
        numbers[f"over_{targets}"] = {"middle": float(np.median(over))}
    lives = {"by_drift": law.lifetimes(held_out, law.by_drift(curve)), "by_draw": [], "by_replay": [], "anew": []}
    for record in measured:
        own, replay = law.points(record), law.by_asking(record, "replay")
        lives["by_draw"] += law.lifetimes(own, law.by_asking(record, "drawn"))
        lives["by_replay"] += law.lifetimes(law.beforehand(own, unseen=True), replay)
        lives["anew"] += law.lifetimes([point for point in own if point.targets == "anew"], replay)
    lives["beyond"] = [life for life in lives["by_replay"] if life.came > law.TRIED]
    return numbers | {word: _forecast_lives(some) for word, some in lives.items()}


def lifetimes_to_a_thousand(failure: Record) -> Numbers:
    """Chapter 19, of the record ``smollm2-failure``."""
    lives = law.lifetimes(law.points(failure), law.by_replay(failure))
    seen = [life for life in lives if life.seen and life.came > law.TRIED]
    rome = to_failure.courses(failure)["rome"].checkpoints[-1]
    replay = failure["replay"]["rome 0"]
    told = next(row for row in replay if row["edits"] == rome["edits"])
    late = [row for row in replay if row["edits"] >= edit_sequences.LATE]
    steep = log_slope([row["edits"] for row in late], np.array([row["drift"] for row in late]))
    return {
        "requests": failure["requests"]["edits"],
        "tried": failure["before"]["edits"],
        "seen": len(seen),
        "near": law.share_within(seen, records.bars("claim-20.thousand")["factor"]),
        "middle": float(np.median([life.factor for life in seen])),
        "over": told["drift"] / rome["drift_over_stream_all"],
        "over_at": rome["edits"],
        "over_exponent": float(steep),
    }


def _forecast_lives(lives: Sequence[law.Lifetime]) -> Numbers:
    seen = [life for life in lives if life.seen]
    near = law.share_within(seen, records.bars("claim-20.lifetime")["factor"])
    return {"seen": len(seen), "near": near, "middle": float(np.median([life.factor for life in seen]))}


# Chapter 20

#: The overlap that the chapter speaks of.
OVERLAP = "p norm, from the subject on"


def forecasts_of_damage(record: Record) -> Numbers:
    """Chapter 20 on forecasts, of the record ``forecasts``: the first model, and as ``other`` the second."""
    runs = list(forecasts.runs(record).values())
    main = runs[0]
    few = main.damage(0)
    first, others = ([run for run in runs if (run.model == main.model) == same] for same in (True, False))
    worst, kept = main.at_risk(), main.arrays["kept"][-1]
    doses = {"dose": OVERLAP, "dose_margin": "p over margin, from the subject on"}
    return dict(
        edits=max(record["looks"]),
        few=record["looks"][0],
        some=record["looks"][1],
        runs=len(runs),
        live_layer=main.layer,
        watched=main.data["watched"],
        few_fall=few.fall,
        few_gained=few.gained,
        few_lost=few.lost,
        theorem_error=float(f"{max(run.theorem_error() for run in runs):.2g}"),
        ten_lost=int((~kept[worst]).sum()),
        ten_chance=10 * float((~kept).mean()),
        ten_of={f"{run.model}_{run.layer}": int((~run.arrays["kept"][-1])[run.at_risk()].sum()) for run in runs[1:]},
        overlap={"falls": main.statistic(OVERLAP), "sizes": main.statistic(OVERLAP, "sizes")},
        overlap_last=runs[-1].statistic(OVERLAP),
        other=_of_model(others),
        seconds={"dry": main.seconds("known residuals: margin left")},
        **{word: {"safest": of[0], "worst": of[-1]} for word, name in doses.items() for of in [main.dose(name)]},
        **_of_model(first),
    )


def _of_model(runs: list[forecasts.Forecasts]) -> Numbers:
    return {"lost_end": extremes([run.damage().lost for run in runs])}


def causes(record: Record) -> Numbers:
    """Chapter 20 on causes, of the record ``causes``."""
    conditions = forecasts.Conditions(record)
    left, relative, starting = conditions.left, conditions.relative, conditions.starting
    least, most = ("least overlapping", "most overlapping")
    drawn, groups = starting("drawn"), conditions.of_one_norm()
    of_full_norm = [name for kind, names in groups.items() if kind != "other edits" for name in names]
    alone = {kind: [left(name).value for name in starting(kind)] for kind in ("any direction", "order")}
    return {
        "arms": len(conditions.names),
        "chosen_edits": int(conditions["drawn 0"]["edits"]),
        "pool": conditions.data["pool"],
        "protected_norm": relative("norm", "protected: 100"),
        "protected": left("protected: 100").value,
        "signs": left(*starting("signs drawn")),
        "turned": left(*starting("residuals drawn")),
        "removed": forecasts.gone(left("protected: 100")),
        "full_norm_arms": len(of_full_norm),
        "rank_full": conditions.rank(of_full_norm),
        "ends": left(most, of=least),
        "ends_norm": relative("norm", most, of=least),
        "ends_same": left(f"{most}, same norm", of=f"{least}, same norm"),
        "ends_crowding": relative("crowding", f"{most}, same norm", of=f"{least}, same norm"),
        "lists_norm": relative("norm", "drawn 0"),
        "drawn": len(drawn),
        "rank_drawn": conditions.rank(drawn),
        "rank_drift": conditions.rank(drawn, "drift"),
        "norm_exponent": conditions.norm_exponent(),
        "draws": len(alone["any direction"]),
        "any": extremes(alone["any direction"]),
        "order": extremes(alone["order"]),
        "half": left("scaled: 0.5"),
        "three_quarters": left("scaled: 0.75"),
        "exactly": left("rls-hard"),
        "exactly_same": left("rls-hard, same norm"),
        "blind": left("all at once"),
        "at_subject": left("only at: subject"),
        "elsewhere": left("only at: not the subject"),
    }


# Chapter 21

#: Conditions of chapter 21 by the prose's words.
CURES = {
    "cap": "cap: 0.25",
    "ridge": "shrinkage: 0.1",
    "skip": "skip: 25% by harm",
    "alpha": "rule: alphaedit",
    "memit": "rule: memit",
    "hard": "rule: rls-hard",
    "protect10": "protect: 10",
    "spread2": "spread: 2",
    "spread3": "spread: 3",
    "first": "order: safe last, by harm",
    "last": "order: safe first, by harm",
}


def cures(record: Record, lifelong: Record, cost: Record, causes: Record) -> Numbers:
    """Chapter 21, of the records ``cures``, ``smollm2-lifelong``, ``benchmark-editing`` and ``causes``.

    The last has other orders of the edits of the first, asked of the same facts.
    """
    conditions, ordered = forecasts.Conditions(record, seed=18), forecasts.Conditions(causes)
    assert np.array_equal(conditions.loss("as it is"), ordered.loss("as it is"))
    orders = ordered.loss(*ordered.starting("order"))
    of_orders = {"hard_mean": "rule: rls-hard", "alpha_mean": "rule: alphaedit"}
    data, wide = conditions.data, 14336  # the width of a Llama 3 8B's keys
    numbers: Numbers = {
        "arms": len(conditions.names),
        "minutes": record["seconds"] / 60,
        "edits": data["edits"],
        "watched": data["watched"],
        "layer": data["layer"],
        "few": record["looks"][0],
        "any": conditions.cure(*conditions.starting("skip: 25% drawn")),
        "search": cost["target"]["seconds_alone"],
        "wide": wide,
        "wide_gb": 8 * wide**2 / 1e9,
        "read": data["costs"]["protect"]["read"],
        "prepare": data["costs"]["protect"]["prepare"],
        "orders": forecasts.ratio_of_sums(orders, ordered.loss("as it is"), seed=18),
        "soft_same": ordered.left("rls-soft, same norm"),
        "long": lifelong["lives"]["rome"]["edits"],
        "long_watched": len(lifelong["untouched"]),
    }
    for name in ("rome", "rls-soft"):
        numbers[f"long_{name}"] = edit_sequences.untouched_lost(lifelong, name)
    for word, name in of_orders.items():
        numbers[word] = forecasts.ratio_of_sums(conditions.loss(name), orders, seed=18)
    return numbers | {word: conditions.cure(name) for word, name in CURES.items()}


def wordings(record: Record) -> Numbers:
    """Chapter 21 on protection in other words, of the record ``wordings``."""
    found, prompt, more = forecasts.Wordings(record), "all, prompt", "all, prompt and paraphrases"
    last = found.inside + 1
    return {
        "inside": found.inside,
        "asked": int(found.arrays[f"said/{last}"].sum()),
        "prompt_other": found.left(prompt, last),
        "dearer": found.dearer(prompt),
        "dearer_plain": found.dearer("nothing"),
        "held": found.data["arms"][more]["exact"],
    }
