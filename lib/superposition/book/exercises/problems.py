"""What the exercises share: the loop over random problems, the call of the reader's function, and some oracles."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float


def require(condition: Any, complaint: str) -> None:
    """Raise an ``AssertionError`` with the complaint if the condition does not hold, under ``python -O`` too."""
    if not condition:
        raise AssertionError(complaint)


def as_array(answer: Any, name: str, shape: tuple[int, ...], where: Any) -> np.ndarray:
    """The answer as a finite array of this shape; complaints speak of it by name, and of the problem by where."""
    require(answer is not None, f"The function returned None: end it with `return {name}`.")
    answer = np.asarray(answer)
    require(answer.shape == shape, f"{name} has shape {answer.shape} where {shape} is needed ({where}).")
    require(np.isfinite(answer).all(), f"{name} holds NaN or infinity ({where}).")
    return answer


class Ask:
    """Puts problems to the reader's function, with copies of the arguments, which must come back unchanged."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, read: Callable[[Any], Any] = lambda answer: answer, /, **given: Any) -> Any:
        """What ``read`` makes of the answer to the arguments, which are handed over in their order."""
        copies = {name: copy.copy(argument) for name, argument in given.items()}
        answer = read(self.function(*copies.values()))
        for name, argument in given.items():
            same = not isinstance(argument, np.ndarray) or np.array_equal(argument, copies[name])
            require(same, f"The function changed its argument {name} in place: work on a copy.")
        return answer

    def array(self, name: str, shape: tuple[int, ...], where: Any, **given: Any) -> np.ndarray:
        """The answer to the arguments, as :func:`as_array` takes it."""
        return self(lambda answer: as_array(answer, name, shape, where), **given)


def check(right: str, *, problems: int, seed: int) -> Callable[[Callable[..., None]], Callable[..., str]]:
    """Make a check of ``body(ask, rng, number)``, which draws one problem, asks and compares.

    The check takes the reader's function, and by name how many problems and which seed; it returns the sentence
    ``right``.
    """

    def decorate(body: Callable[..., None]) -> Callable[..., str]:
        def checked(function: Callable[..., Any], *, problems: int = problems, seed: int = seed) -> str:
            ask, rng = Ask(function), np.random.default_rng(seed)
            for number in range(problems):
                body(ask, rng, number)
            return right.format(problems)

        for name in ("__module__", "__name__", "__qualname__", "__doc__"):  # not the signature
            setattr(checked, name, getattr(body, name))
        return checked

    return decorate


def far(a: float | np.ndarray, b: float | np.ndarray, tolerance: float = 1e-6) -> bool:
    """Whether a is off b by more than rounding explains."""
    return not np.linalg.norm(a - b) <= tolerance * (1 + np.linalg.norm(b))


def moment(rng: np.random.Generator, d_m: int) -> Float[np.ndarray, "d_m d_m"]:
    """A random well-conditioned second moment."""
    K = rng.normal(size=(d_m, 4 * d_m + 2)) * np.exp(rng.uniform(-1, 1, size=(d_m, 1)))
    return K @ K.T


def direction(C: Float[np.ndarray, "d_m d_m"], k: Float[np.ndarray, " d_m"]) -> Float[np.ndarray, " d_m"]:
    """ROME's direction of writing, ``C⁻¹k / kᵀC⁻¹k``."""
    m = np.linalg.solve(C, k)
    return m / (m @ k)


def least_change(
    C: Float[np.ndarray, "d_m d_m"],
    K: Float[np.ndarray, "d_m n"],
    R: Float[np.ndarray, "d n"],
    weight: float = np.inf,
) -> Float[np.ndarray, "d d_m"]:
    """The least ``tr(D C Dᵀ) + w |R - D K|²`` (``D K = R`` if w is infinite): stationarity as one linear system."""
    system = np.block([[C, -K], [K.T, np.eye(K.shape[1]) / weight]])  # D C = Λ Kᵀ and D K + Λ/w = R
    return np.linalg.solve(system, np.vstack([np.zeros((len(C), len(R))), R.T]))[: len(C)].T


@dataclass(frozen=True)
class Memory:
    """A random memory W (d, d_m) of skewed keys K (d_m, N), and facts K_e (d_m, n), V_e (d, n) to be written."""

    K: np.ndarray
    W: np.ndarray
    K_e: np.ndarray
    V_e: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, n: int = 1) -> Memory:
        d, d_m = int(rng.integers(1, 6)), int(rng.integers(max(2, n), 9))
        N = d_m + int(rng.integers(1, 20))
        stretch = np.exp(rng.normal(size=d_m))[:, None]
        K = rng.normal(size=(d_m, d_m)) @ (stretch * rng.normal(size=(d_m, N)))
        return cls(K, rng.normal(size=(d, d_m)), rng.normal(size=(d_m, n)), rng.normal(size=(d, n)))

    @property
    def C(self) -> np.ndarray:
        return self.K @ self.K.T

    def __str__(self) -> str:
        return f"d = {len(self.W)}, d_m = {len(self.K)}, N = {self.K.shape[1]}"

    def fit(self) -> tuple[np.ndarray, np.ndarray]:
        """Values V (d, N) for the keys, noisy, and the least-squares memory of them, by a generic solver."""
        N = self.K.shape[1]
        V = self.W @ self.K + np.random.default_rng(N).normal(size=(len(self.W), N))
        return V, np.linalg.lstsq(self.K.T, V.T, rcond=None)[0].T

    def edited(self) -> np.ndarray:
        """The memory with all facts, at the least damage."""
        return self.W + least_change(self.C, self.K_e, self.V_e - self.W @ self.K_e)

    def edited_in_turn(self) -> np.ndarray:
        """The memory with the facts written one after the other, each at the least damage to the memory so far."""
        W = self.W
        for k, v in zip(self.K_e.T, self.V_e.T, strict=True):
            W = W + least_change(self.C, k[:, None], (v - W @ k)[:, None])
        return W
