"""Every plot of the book, by part: functions of records and arrays that return a Matplotlib figure."""

from superposition.figures.derivation import recall_against_load, shares_of_others, staircase, touching_ellipse
from superposition.figures.geometry import (
    capacity,
    damage_around,
    interval,
    keys_that_fit,
    lifetimes,
    null_spread,
    transfers,
    whitened_plane,
)
from superposition.figures.measuring import angles, by_depth, densities, heatmaps, needed_and_found
from superposition.figures.toys import (
    crowding,
    dimensionality_steps,
    earlier_edits,
    feature_planes,
    features_by_sparsity,
    forgetting_curves,
    growth,
    overlap_and_loss,
    phase_plane,
    price_of_exactness,
    solids,
)

__all__ = [
    "angles",
    "by_depth",
    "capacity",
    "crowding",
    "damage_around",
    "densities",
    "dimensionality_steps",
    "earlier_edits",
    "feature_planes",
    "features_by_sparsity",
    "forgetting_curves",
    "growth",
    "heatmaps",
    "interval",
    "keys_that_fit",
    "lifetimes",
    "needed_and_found",
    "null_spread",
    "overlap_and_loss",
    "phase_plane",
    "price_of_exactness",
    "recall_against_load",
    "shares_of_others",
    "solids",
    "staircase",
    "touching_ellipse",
    "transfers",
    "whitened_plane",
]
