"""Colours, markers and lines of the book's figures, each in one place.

Categories have the hues of Okabe and Ito, signed values a diverging map centred at 0: nothing rests on telling red from
green. On a light page the colours are darker than theirs, so that every one stands out from it by 3 to 1 and more (WCAG
2.2, 1.4.11), and as far from one another as that allows to readers with any kind of colour blindness; on a dark page
they are theirs. Words in a colour stand out by 4.5 to 1: :func:`word`.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle
from typing import NamedTuple

from matplotlib.colors import to_hex, to_rgb

from superposition.studies.names import EDITORS, MODELS, editor

BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = (
    "#111111",
    "#c48700",
    "#4a9dcc",
    "#008a64",
    "#0068a4",
    "#ba5100",
    "#b26992",
)
#: The same on a dark page.
_ON_DARK = dict(
    zip(
        (ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE),
        ("#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7"),
        strict=True,
    )
)
# Black is not quite: vector graphics leave black out, and what is left out cannot take another colour on a dark page.
#: Line colours in the order in which they are used.
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, BLACK, SKY)
SIGNED = "RdBu_r"
#: Ink for what is no data: text on the drawing, reference lines, frames, the ground of a part.
INK, GREY, FAINT, HAIR, SHADE = "#222222", "#666666", "#888888", "#cccccc", "#f1f1f1"
#: A reference line.
DASHED = {"color": GREY, "linestyle": "--", "linewidth": 1}
#: Markers in the order in which they are used.
MARKERS = "osD^vPX*"
#: The page that figures are drawn on, and a dark one.
PAGE, DARK_PAGE = "#ffffff", "#121212"


class Look(NamedTuple):
    """How one thing is drawn and called wherever it comes up."""

    name: str
    colour: str
    marker: str
    dash: str = "-"

    def line(self, **other) -> dict:
        """Style of a line with markers."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.dash, "label": self.name} | other


#: How every editor is drawn, by its key.
OF_EDITOR = {
    key: Look(EDITORS[key], *look)
    for key, look in {
        "rome": (BLUE, "o"),
        "emmet": (BLACK, "v", "--"),
        "memit": (ORANGE, "s"),
        "memit batch 20": (ORANGE, "s", "--"),
        "memit with history": (PURPLE, "D"),
        "rls-soft": (PURPLE, "D"),
        "rls-hard": (PURPLE, "P", "--"),
        "alphaedit": (GREEN, "^"),
        "rome, protected": (SKY, "h"),
        "no overlap": (GREY, "X", "--"),
        "ft": (VERMILION, "X"),
    }.items()
}
#: How every language model is drawn whose measurements the book has, by its key.
OF_MODEL = {"smollm2": Look(MODELS["smollm2"], BLUE, "o"), "gemma3": Look(MODELS["gemma3"], VERMILION, "s")}
#: What others have published of a model.
PUBLISHED = {"color": BLACK, "linestyle": ":"}
_MOVING, _ANCHORED, _BEFOREHAND = (VERMILION, "^"), (GREEN, "D"), (PURPLE, "s")
#: How sequences of edits are drawn that differ in how their target values are searched for (chapters 7, 17 and 18).
OF_SEARCH = {
    "as edited": Look("as edited", *_MOVING),
    "moving": Look("moving ball", *_MOVING),
    "no overlap": Look("no overlap", GREY, "o"),
    "no overlap among the edits": Look("no overlap among the edits", GREY, "o"),
    "anchored": Look("anchored ball", *_ANCHORED),
    "anchored ball": Look("anchored ball", *_ANCHORED),
    "beforehand": Look("targets beforehand", *_BEFOREHAND),
    "targets beforehand": Look("targets beforehand", *_BEFOREHAND),
}


def editor_look(name: str) -> Look:
    """How an editor is drawn, by its key or by what it is called; one that the book does not have is dotted."""
    return OF_EDITOR.get(editor(name), Look(name, BLACK, "p", ":"))


def search_look(name: str) -> Look:
    """How a sequence of edits is drawn, by how its target values were searched for; others are dotted."""
    return OF_SEARCH.get(name, Look(name, BLACK, "p", ":"))


def model_looks(names: Iterable[str]) -> list[Look]:
    """How models are drawn, by the names that records have them under; a reader's own take what is left."""
    names = list(names)
    known = {OF_MODEL[name].colour for name in names if name in OF_MODEL}
    left = cycle(Look("", *pair) for pair in zip(CYCLE, MARKERS, strict=False) if pair[0] not in known)
    return [OF_MODEL[name] if name in OF_MODEL else next(left)._replace(name=name) for name in names]


def luminance(colour: str) -> float:
    """Relative luminance of a colour, 0 black to 1 white (WCAG 2.2)."""
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast of two colours, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _mixed(colour: str, page: str, least: float, start: int = 0) -> str:
    """A colour, with as much of the ink opposite to a page as it takes to stand out from it, or ``start`` per cent."""
    ink = 0.0 if luminance(page) > 0.5 else 1.0
    for share in range(start, 101):
        red, green, blue = (channel + share / 100 * (ink - channel) for channel in to_rgb(colour))
        mixed = to_hex((red, green, blue))
        if contrast(mixed, page) >= least:
            return mixed
    raise AssertionError(f"nothing stands out from {page} by {least}")


def word(colour: str) -> str:
    """The colour in which words are written about what is drawn in a colour: darker, for letters are thin.

    It is never quite the same, so that words and lines can take different colours on a dark page.
    """
    return _mixed(colour, PAGE, 4.5, start=2)


#: What every colour of a figure becomes on a dark page. Colours that are not here stay, those of maps.
DARK = {
    PAGE: DARK_PAGE,
    BLACK: "#ffffff",
    INK: "#e6e6e6",
    GREY: "#a8a8a8",
    FAINT: "#8c8c8c",
    HAIR: "#4d4d4d",
    SHADE: "#242424",
} | _ON_DARK
DARK |= {word(colour): _mixed(_ON_DARK.get(colour, colour), DARK_PAGE, 4.5) for colour in (*_ON_DARK, FAINT, HAIR)}
DARK |= {word(ink): DARK[ink] for ink in (BLACK, INK, GREY)}
