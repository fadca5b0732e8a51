"""Every plot of the book, by part: functions of records and arrays that return a Matplotlib figure."""

from superposition.figures.derivation import recall_against_load, shares_of_others, touching_ellipse
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

__all__ = [
    "angles",
    "by_depth",
    "capacity",
    "damage_around",
    "densities",
    "heatmaps",
    "interval",
    "keys_that_fit",
    "lifetimes",
    "needed_and_found",
    "null_spread",
    "recall_against_load",
    "shares_of_others",
    "touching_ellipse",
    "transfers",
    "whitened_plane",
]
