"""The plot of all trials: what was measured in every case, beside what the claim asks for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from superposition.figures.colours import FAINT, GREEN, INK, ORANGE, VERMILION
from superposition.figures.style import broken, canvas, plot
from superposition.studies.verdicts import Trial, Verdict

#: Colour and marker of a verdict.
OF_VERDICT = {"reproduced": (GREEN, "o"), "qualified": (ORANGE, "s"), "refuted": (VERMILION, "X")}
#: How far from the bar an interval is drawn, in units of the case that lies furthest from it.
REACH = 1.25
#: What stands for a forecast that never comes true, in place of infinity.
FAR = np.log(10)


def towards(verdict: Verdict) -> np.ndarray:
    """What was found in every case as distances from the bar, (cases, 3), positive where the claim puts it.

    The unit is the case that lies furthest from the bar. A claim that puts it *at* the bar has its distances below 0,
    and an interval that holds the bar ends at 0.
    """
    ends = np.nan_to_num(np.array(verdict.found, dtype=float), posinf=FAR) - verdict.bar
    if verdict.wanted == "below":
        ends = -ends[:, [0, 2, 1]]
    elif verdict.wanted == "at":
        holds = (ends[:, 1] <= 0) & (ends[:, 2] >= 0)
        far, near = -np.abs(ends[:, 1:]).max(1), -np.abs(ends[:, 1:]).min(1)
        ends = np.stack([-np.abs(ends[:, 0]), far, np.where(holds, 0, near)], axis=1)
    return ends / max(np.abs(ends[:, 0]).max(), 1e-12)


@plot
def trials(board: Sequence[tuple[Trial, Verdict]]) -> Figure:
    """A row a trial: a dot with its interval for every case, on a scale of its own, the bar on one line for all.

    Trials without a number to draw, theorems and identities, are left out.
    """
    shown = [(trial, verdict) for trial, verdict in board if verdict.found]
    figure, (axis,) = canvas(height=0.37 * len(shown) + 0.9)
    axis.axvline(0, color=INK, linewidth=1)
    for row, (_, verdict) in enumerate(reversed(shown)):
        colour, marker = OF_VERDICT[verdict.word]
        cases = towards(verdict)
        heights = row + (np.linspace(-0.28, 0.28, len(cases)) if len(cases) > 1 else np.zeros(1))
        thin = min(1.2, 12 / len(cases))
        ends = np.clip(cases[:, 1:], -REACH, REACH)
        bars = np.column_stack([ends, np.full(len(ends), np.nan)]).ravel()  # one path: a hundred would weigh too much
        axis.plot(bars, np.repeat(heights, 3), color=colour, linewidth=thin, alpha=0.6)
        axis.plot(cases[:, 0], heights, marker, color=colour, markersize=5 if len(cases) < 5 else 2.5, linestyle="")
        count = f"{sum(verdict.cases)} of {len(verdict.cases)}"
        axis.text(REACH + 0.08, row, count, va="center", color=INK)
        axis.axhline(row - 0.5, color=FAINT, linewidth=0.3)
    axis.text(REACH + 0.08, len(shown) - 0.3, "as claimed", va="bottom", color=INK)
    names = [broken(f"{trial.claim}: {_name(trial)}", 40) for trial, _ in reversed(shown)]
    axis.set_yticks(range(len(shown)), names, linespacing=1.0)
    axis.set(xlim=(-REACH, REACH), ylim=(-0.6, len(shown) - 0.4), xticks=[])
    axis.set_xlabel("← not as claimed  |  as claimed →\n(each row in a unit of its own)")
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    marks = [Line2D([], [], color=c, marker=m, linestyle="", label=word) for word, (c, m) in OF_VERDICT.items()]
    figure.legend(handles=marks, loc="outside upper center", ncols=3)
    return figure


def _name(trial: Trial) -> str:
    toy = ", toys" if trial.records and trial.records[0].startswith("toy-") else ""
    return trial.question.removeprefix("(ours) ") + toy
