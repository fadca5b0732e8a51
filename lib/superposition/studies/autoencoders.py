"""What the record of toy models of superposition says (``toy-autoencoders``, chapter ``08-toy-superposition``)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from superposition.records import Record
from superposition.stats.intervals import Estimate, mean_over_seeds
from superposition.studies.toys import forecast_kurtosis

#: A feature is represented if its direction is longer, and sits at a fraction of a dimension if its share is nearer.
REPRESENTED, NEAR = 0.5, 0.02


def represented(record: Record, sparsity: float) -> Bool[np.ndarray, "seeds features"]:
    """Which features of the large model are represented, at one 1/q."""
    return record.arrays["large_norm"][:, record["sparsity"].index(sparsity)].astype(float) > REPRESENTED


def at_fraction(record: Record, sparsity: float, fraction: float) -> Estimate:
    """Share of the represented features whose dimensionality is within ``NEAR`` of a fraction, over seeds."""
    D = dimensionality(record)[:, record["sparsity"].index(sparsity)]
    shares = (np.abs(D - fraction) < NEAR).sum(1) / np.isfinite(D).sum(1)
    return Estimate(*(min(max(end, 0.0), 1.0) for end in mean_over_seeds(shares)))


def dimensionality(record: Record) -> Float[np.ndarray, "seeds densities features"]:
    """The share of a dimension that each feature of the large model has to itself; NaN where it is not represented."""
    there = record.arrays["large_norm"].astype(float) > REPRESENTED
    return np.where(there, record.arrays["large_D"].astype(float), np.nan)


def dimensions_per_length(record: Record, m: int = 20) -> Float[np.ndarray, "seeds densities"]:
    """``m/‖W‖_F²``: dimensions for each unit of squared length that the large model has given away."""
    return m / (record.arrays["large_norm"].astype(float) ** 2).sum(-1)


def of_features(record: Record, name: str) -> Float[np.ndarray, "seeds densities"]:
    """A statistic of the overlap of features as keys; NaN where none could be taken."""
    return np.array([[x[name] if x else np.nan for x in row] for row in record["features_as_keys"]], dtype=float)


def of_facts(record: Record, name: str) -> Float[np.ndarray, "seeds settings"]:
    """A statistic of facts that are sums of features, in the order of the record's ``bridge``, pairs of m and q."""
    return np.array([[run[name] for run in runs] for runs in record["bridge_runs"]]).T


def forecasts(record: Record, n: int = 256) -> Float[np.ndarray, "2 settings"]:
    """Excess kurtosis of the cosines of facts: :func:`superposition.studies.toys.forecast_kurtosis`, and measured."""
    said = [forecast_kurtosis(q, n, m) for m, q in record["bridge"]]
    return np.array([said, of_facts(record, "kurtosis_cosine").mean(0)])
