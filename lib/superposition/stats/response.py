"""Dose and response: which share of many is gone at a dose, by the log-logistic curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.optimize
from numpy.typing import ArrayLike

from superposition.errors import UserError


@dataclass(frozen=True)
class LogLogistic:
    """``share(x) = x^b / (x_0^b + x^b)``: none at dose 0, half at ``middle``, all in the end.

    Parameters
    ----------
    middle : float
        ``x_0``, above 0.
    steepness : float
        ``b``, above 0: the slope of the share's log-odds over the logarithm of the dose.

    Raises
    ------
    UserError
        One of them is not above 0.
    """

    middle: float
    steepness: float

    def __post_init__(self) -> None:
        if not (self.middle > 0 and self.steepness > 0):
            raise UserError(f"A curve needs a middle and a steepness above 0, not {self.middle} and {self.steepness}.")

    def share(self, dose: ArrayLike) -> float | np.ndarray:
        """The share that is gone at a dose of 0 or more."""
        with np.errstate(divide="ignore"):
            return 1 / (1 + (self.middle / np.asarray(dose, dtype=float)) ** self.steepness)

    def dose(self, share: ArrayLike) -> float | np.ndarray:
        """The dose at which a share between 0 and 1 is gone.

        Raises
        ------
        UserError
            A share is not between 0 and 1.
        """
        share = np.asarray(share, dtype=float)
        if not ((share > 0) & (share < 1)).all():
            raise UserError(f"A share that is reached at some dose lies between 0 and 1, and {share} does not.")
        return self.middle * (share / (1 - share)) ** (1 / self.steepness)


def fit(dose: ArrayLike, share: ArrayLike) -> LogLogistic:
    """The curve nearest to shares at doses above 0, by least squares over the shares.

    Raises
    ------
    UserError
        Fewer than three points, or a dose that is not above 0.
    """
    dose, share = np.asarray(dose, dtype=float), np.asarray(share, dtype=float)
    if dose.ndim != 1 or dose.shape != share.shape or len(dose) < 3 or not (dose > 0).all():
        raise UserError("A curve is fitted to three points or more, with doses above 0.")

    def errors(logs: np.ndarray) -> np.ndarray:
        return LogLogistic(*np.exp(logs)).share(dose) - share

    start = (np.log(np.median(dose)) + 1, 0.0)
    widest = (np.array([start[0] - 50, -7]), np.array([start[0] + 50, 7]))  # where no curve fits it would run away
    return LogLogistic(*map(float, np.exp(scipy.optimize.least_squares(errors, start, bounds=widest, xtol=1e-12).x)))


def reached(dose: ArrayLike, share: ArrayLike, wanted: float) -> float:
    """The dose at which a share was first reached, from what was seen at ascending doses above 0.

    Between two of them the share is taken to rise evenly with the logarithm of the dose, before the first of them with
    the dose; infinite if it was not reached at the last. :func:`at` is the way back.
    """
    dose, share = np.asarray(dose, dtype=float), np.asarray(share, dtype=float)
    above = np.flatnonzero(share >= wanted)
    if not len(above):
        return np.inf
    after = int(above[0])
    if after == 0:
        return float(dose[0] * wanted / share[0])
    part = slice(after - 1, after + 1)
    return float(np.exp(np.interp(wanted, share[part], np.log(dose[part]))))


def at(dose: ArrayLike, share: ArrayLike, wanted: float) -> float:
    """The share that is gone at a dose, from what was seen at ascending doses above 0.

    Read off as :func:`reached` does; beyond the last dose it is what was gone there.
    """
    dose, share = np.asarray(dose, dtype=float), np.asarray(share, dtype=float)
    if wanted <= dose[0]:
        return float(share[0] * wanted / dose[0])
    return float(np.interp(np.log(wanted), np.log(dose), share))
