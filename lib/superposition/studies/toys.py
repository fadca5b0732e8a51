"""Laws of the toys in closed form, and readers of the record of toy transformers (chapters 07 to 09, and 13)."""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
from jaxtyping import Float, Int

from superposition.errors import UserError
from superposition.records import Record
from superposition.stats.intervals import Estimate, mean_over_seeds

# Laws


def forgetting(n: Any, d_m: int) -> Any:
    """``1 - (1 - 1/d_m)ⁿ``: the share of its final damage that a memory has after n edits at random keys.

    Fixed targets and a fixed C; the final damage, for normal keys, is ``E|W_0 k|² + E|v|² d_m/(d_m - 2)`` (equation
    ``eq-toymemory-forgetting``).
    """
    return 1 - (1 - 1 / d_m) ** np.asarray(n)


#: The dimensionality of a feature in each small geometry: dimensions over features.
FRACTIONS = {
    "dedicated": 1.0,
    "tetrahedron": 3 / 4,
    "triangle": 2 / 3,
    "antipodal pair": 1 / 2,
    "pentagon": 2 / 5,
    "square antiprism": 3 / 8,
}


def forecast_kurtosis(density: Any, n: Any, m: Any) -> Any:
    """Excess kurtosis to expect of the whitened cosines of facts that are sums of sparse features.

    ``(β₂² - 3)/n · (m/n)² - 6/(m + 2)`` with ``β₂ = 9/(5q)``, equation ``eq-toys-kurtosis``: what shared features make,
    what crowding leaves of it, and what directions in m dimensions have anyhow.

    Parameters
    ----------
    density
        q, the probability that a feature is in a fact.
    n, m
        Features, and dimensions to hold them.
    """
    beta2 = 9 / (5 * density)  # of one feature, Pearson's
    return (beta2**2 - 3) / n * (m / n) ** 2 - 6 / (m + 2)


def twin_of_random_keys(d_m: np.floating | np.ndarray, m: int) -> Any:
    """Excess kurtosis of P for m random keys of width d_m of which two are equal."""
    share = 2 / (m * (m - 1))
    return (3 / d_m**2 + share) / (1 / d_m + share) ** 2 - 3


# The record of toy transformers

#: The lists of facts whose P is compared: last tokens all different, shared in pairs, and one key twice.
LISTS = ("distinct", "shared", "twin")

#: Bound on the relative error of predicted interference, which is computed in double precision.
EXACT = 1e-10

#: A pair's overlap ``|p|`` is high from the one on, and low below the other.
NEAR, FAR = 0.4, 0.05


def select(record: Record, *, edited: bool = False, **where: Any) -> list[dict[str, Any]]:
    """The record's cells whose setting has these values, by seed; with ``edited`` only those that were edited.

    Raises
    ------
    UserError
        There is none.
    """
    rows = [row for row in record["cells"] if all(row[name] == value for name, value in where.items())]
    rows = [row for row in rows if "life" in row or not edited]  # "life": the record's key of a sequence of edits
    if not rows:
        raise UserError(f"The record {record.name} holds no cell with {where}.")
    return sorted(rows, key=lambda row: row["seed"])


def widths(record: Record) -> list[int]:
    """The widths of the cells that were edited, in order."""
    return sorted({row["width"] for row in select(record, edited=True)})


def ranks(record: Record, forecast: str, edits: int, **where: Any) -> list[float]:
    """Spearman correlation of a forecast with what happened, seed by seed, at the cells of the base unless told."""
    at = record["forecast_at"].index(edits)
    cells = select(record, edited=True, **({"width": record["base"]["width"]} | where))
    return [row["life"]["forecasts"][at][forecast] for row in cells]


def series(record: Record, layer: int, kind: str, name: str, **where: Any) -> list[float]:
    """One statistic of P, seed by seed: of a layer, a list of facts, and the cells that :func:`select` gives."""
    return [row["overlaps"][layer][kind][name] for row in select(record, **where)]


def known(record: Record, width: int, what: str) -> list[float]:
    """Share of questions that a trained model answers rightly, seed by seed: ``trained`` phrasings or ``held_out``."""
    return [row["accuracy"][what] for row in select(record, width=width, edited=True)]


def exactness(record: Record) -> list[float]:
    """Largest difference of predicted and measured interference over the largest interference, sequence by sequence."""
    return [row["life"]["exactness"] for row in select(record, edited=True)]


def after(record: Record, edits: int, width: int, what: str) -> list[float]:
    """What was read after so many edits, seed by seed: share of untouched facts ``kept``, of edits that ``held``.

    Seeds whose sequence ended before are left out.
    """
    looks = [look for row in select(record, width=width, edited=True) for look in row["life"]["looks"]]
    return [look[what] for look in looks if look["edits"] == edits]


def course(record: Record, width: int, what: str) -> tuple[list[int], Float[np.ndarray, "seeds steps"]]:
    """The numbers of edits after which every seed was asked, and what :func:`after` reads there."""
    cells = select(record, width=width, edited=True)
    steps = sorted({look["edits"] for row in cells for look in row["life"]["looks"]})
    seen = {edits: after(record, edits, width, what) for edits in steps}
    common = [edits for edits in steps if len(seen[edits]) == len(cells)]
    return common, np.array([seen[edits] for edits in common]).T


def falls(record: Record, edits: int, seed: int = 0) -> tuple[Float[np.ndarray, " m"], dict[str, np.ndarray]]:
    """What each untouched fact of the base's model lost after so many edits, in nats, and what each forecast said."""
    fall, *forecasts = record.arrays[f"seed_{seed}_edits_{edits}"]
    return fall, dict(zip(record["forecasts"], forecasts, strict=True))


def lead(record: Record, forecast: str, other: str, edits: int) -> Float[np.ndarray, " seeds"]:
    """By how much one forecast's rank correlation is above another's, seed by seed."""
    return np.subtract(ranks(record, forecast, edits), ranks(record, other, edits), dtype=float)


def reached(record: Record, width: int, relation: str) -> list[float]:
    """Share of the edits tried whose target can be reached, seed by seed."""
    pairs = [row["life"]["reached"][relation] for row in select(record, width=width, edited=True)]
    return [good / max(tried, 1) for good, tried in pairs]


def partners(record: Record, width: int) -> list[dict[str, Any]]:
    """What single edits did to other facts, seed by seed: ``pairs`` and ``flips`` by class of ``|p|``, and more."""
    return [row["partners"] for row in select(record, width=width, edited=True)]


def flip_counts(record: Record, width: int, low: float = 0, high: float = np.inf) -> Float[np.ndarray, "2 seeds"]:
    """Right answers that flipped, and all, in the classes of ``|p|`` whose lower edge is in [low, high)."""
    inside = [n for n, edge in enumerate(record["edges"]) if low <= edge < high]
    cells = partners(record, width)
    return np.array([[np.take(cell[name], inside).sum() for cell in cells] for name in ("flips", "pairs")], dtype=float)


def flips(record: Record, width: int, low: float = 0, high: float = np.inf) -> Float[np.ndarray, " seeds"]:
    """Share of right answers that flipped, seed by seed, in the classes of :func:`flip_counts`."""
    flipped, pairs = flip_counts(record, width, low, high)
    return flipped / np.maximum(pairs, 1)


def flips_near_and_far(record: Record, width: int) -> tuple[Estimate, Estimate]:
    """Share of right answers that flipped where ``|p|`` is at least :data:`NEAR`, and where below :data:`FAR`."""
    return mean_over_seeds(flips(record, width, low=NEAR)), mean_over_seeds(flips(record, width, high=FAR))


def more_flips_near(record: Record, width: int) -> Estimate:
    """By how much the first of :func:`flips_near_and_far` is larger, seed by seed."""
    return mean_over_seeds(flips(record, width, low=NEAR) - flips(record, width, high=FAR))


def reach(
    record: Record, width: int, least: int = 20
) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, "seeds k"], Float[np.ndarray, "seeds k"]]:
    """Classes of ``|p|`` in which every seed has ``least`` pairs or more; mean change of log p, share that flipped."""
    cells = partners(record, width)
    pairs, flipped = (np.array([cell[name] for cell in cells]) for name in ("pairs", "flips"))
    classes = np.flatnonzero((pairs >= least).all(0))
    change = np.array([[cell["change"][n] for n in classes] for cell in cells])
    return classes, change, flipped[:, classes] / pairs[:, classes]


class GridSetting(TypedDict):
    """Width d of a small transformer, families in its world, and training steps."""

    width: int
    families: int
    steps: int


def settings_along(record: Record, knob: str) -> list[GridSetting]:
    """The settings through the base along ``steps``, or along ``families`` (each fact seen as often), in order."""
    base = record["base"]
    settings = {(row["families"], row["steps"]) for row in select(record, width=base["width"])}
    if knob == "steps":
        settings = {(f, steps) for f, steps in settings if f == base["families"]}
    else:
        settings = {(f, steps) for f, steps in settings if steps * base["families"] == base["steps"] * f}
    return [{"width": base["width"], "families": f, "steps": steps} for f, steps in sorted(settings)]


def setting(record: Record, *, trained: bool = True) -> dict[str, int]:
    """Families and steps of the base, or of the same models before any training."""
    return {"families": record["base"]["families"], "steps": record["base"]["steps"] if trained else 0}


def by_width(
    record: Record, layer: int, kind: str, name: str, *, trained: bool = True
) -> Float[np.ndarray, "seeds widths"]:
    """One statistic of P at each of the :func:`widths`."""
    where = setting(record, trained=trained)
    return np.array([series(record, layer, kind, name, width=width, **where) for width in widths(record)]).T


def per_doubling(
    record: Record, kind: str, layer: int, *, trained: bool = True, name: str = "excess_kurtosis"
) -> Float[np.ndarray, " seeds"]:
    """Rise of a statistic of P each time the width doubles, seed by seed: the slope of a line through the widths."""
    return np.polyfit(np.log2(widths(record)), by_width(record, layer, kind, name, trained=trained).T, 1)[0]


def rise_of_random_keys(record: Record) -> float:
    """:func:`per_doubling` of the excess kurtosis of random keys of which two are equal."""
    each = twin_of_random_keys(4.0 * np.array(widths(record)), record["compared"])
    return float(np.polyfit(np.log2(widths(record)), each, 1)[0])


def twin_in_a_crowd(record: Record, width: int, *, trained: bool = True) -> float:
    """Excess kurtosis that one pair of equal keys makes of the measured spread s of the others, in the first layer.

    Random keys of width d_m/s² have the same variance.
    """
    spread = np.mean(series(record, 0, "distinct", "spread", width=width, **setting(record, trained=trained)))
    return float(twin_of_random_keys(4 * width / spread**2, record["compared"]))
