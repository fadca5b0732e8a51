"""Colours, markers and lines of the book's figures.

Categories use the Okabe–Ito colours, signed values a diverging map centred at 0, so that nothing rests on telling red
from green.
"""

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
#: Line colours in the order in which they are used.
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
SIGNED = "RdBu_r"
#: Ink for what is no data: text on the drawing, reference lines.
INK, GREY, FAINT = "#222222", "#666666", "#888888"
#: A reference line.
DASHED = {"color": GREY, "linestyle": "--", "linewidth": 1}
#: Markers in the order in which they are used.
MARKERS = "osD^vPX*"
