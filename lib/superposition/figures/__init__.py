"""Every plot of the book, by part: functions of records and arrays that return a Matplotlib figure."""

from superposition.figures.measuring import angles, by_depth, densities, heatmaps, needed_and_found

__all__ = ["angles", "by_depth", "densities", "heatmaps", "needed_and_found"]
