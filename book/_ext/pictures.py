"""Pictures that weigh little, and those of the front page, the README and shared links, drawn from the records::

python book/_ext/pictures.py [FOLDER]
"""

import base64
import io
import re
import sys
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

from chromium import browser
from superposition import records
from superposition.figures import loss_by_drift, needed_and_found
from superposition.figures.style import Plot
from superposition.studies import law
from superposition.studies.verdicts import LAW

SEEN = 0.5  # mean change of a channel, of 255, from which a smaller palette could be seen


def lighten(png: bytes) -> bytes:
    """The same picture in 64 colours, or 256 where 64 would show, if it is opaque and that makes it smaller.

    A plot has few colours and loses nothing that can be seen; a heat map keeps some 250 shades. A picture that is not
    opaque, or would not get smaller, comes back as it is, and so does one that has been lightened before.
    """
    with Image.open(io.BytesIO(png)) as image:
        opaque = (image.mode in ("RGB", "P") and "transparency" not in image.info) or (
            image.mode == "RGBA" and image.getextrema()[3][0] == 255
        )
        if not opaque:
            return png
        held = len(image.getcolors()) if image.mode == "P" else None  # how many colours its palette uses
        whole = image.convert("RGB")
    if held and held <= 64:
        return png
    for colours in (64,) if held else (64, 256):
        small = whole.quantize(colours, dither=Image.Dither.NONE, kmeans=2)
        moved = np.abs(np.asarray(small.convert("RGB"), dtype=int) - np.asarray(whole, dtype=int)).mean()
        if moved < SEEN:
            break
    else:
        if held:
            return png
    lighter = io.BytesIO()
    small.save(lighter, "png", optimize=True)
    return min(png, lighter.getvalue(), key=len)


def lighten_within(svg: str) -> str:
    """Vector graphics with every picture in them lightened."""

    def lighter(found: re.Match[str]) -> str:
        return found[1] + base64.b64encode(lighten(base64.b64decode(found[2]))).decode()

    return re.sub(r"(data:image/png;base64,)([A-Za-z0-9+/=]+)", lighter, svg)


def draw(folder: Path) -> list[Path]:
    """Write the pictures into a folder and return their paths."""
    record = records.load("smollm2-128")
    order = np.argsort(record["relations"], kind="stable")
    layer = record["layers"][len(record["layers"]) // 2]
    answer = _write(folder / "answer.svg", needed_and_found(record, layer, order=order))
    points = [point for name in LAW for point in law.points(records.load(name))]
    drifts, groups = (law.R, law.S, law.MU), law.by_kind(points)
    figure = loss_by_drift(groups, {name: law.fit(groups["fitted"], name) for name in drifts}, names=drifts)
    return [answer, _write(folder / "law.svg", figure)]


def _write(path: Path, figure: Plot) -> Path:
    path.write_text(lighten_within(figure._repr_svg_()) + "\n", encoding="utf-8")
    return path


#: What previews of shared links show, in the pixels that they expect.
CARD = (1200, 630)
_CARD = Template("""
<style>body {margin: 0; padding: 40px 60px; background: white; color: #1d2a3a; font: 30px sans-serif}</style>
<h1 style="margin: 0 0 12px; font-size: 60px">Knowledge in Superposition</h1>
<p style="margin: 0 0 4px">Why does editing facts inside a language model, again and again, end in ruin?</p>
<img src="data:image/svg+xml;base64,$picture" style="display: block; height: 440px; margin: auto">""")


def card(answer: Path) -> bytes:
    """The front page's picture under the book's title and question, as a PNG of :data:`CARD`'s size.

    Raises
    ------
    UserError
        There is no Chromium.
    """
    width, height = CARD
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": width, "height": height})
        page.set_content(_CARD.substitute(picture=base64.b64encode(answer.read_bytes()).decode()))
        return lighten(page.screenshot())


if __name__ == "__main__":
    for path in draw(Path(sys.argv[1] if len(sys.argv) > 1 else "book/images")):
        print(path)
    shared = Path(__file__).parents[1] / "_static" / "card.png"
    shared.write_bytes(card(Path(__file__).parents[1] / "images" / "answer.svg"))
    print(shared)
