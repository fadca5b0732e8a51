"""Figures as readers see them: in the notebooks and on the front page, on a light page and on a dark one."""

import base64
import io
import json
import re

import numpy as np
import pytest
from matplotlib import colormaps, image
from matplotlib.colors import to_hex

import pictures
from superposition import figures
from superposition.figures import style, svg
from superposition.figures.colours import DARK, DARK_PAGE, HAIR, PAGE, SHADE, SIGNED, contrast
from superposition.io.paths import records_dir

BOOK = records_dir().parent
COLOUR = re.compile(r"""(?:fill|stroke)(?::|=["'])(#[0-9a-f]{6})""")
WORDS = re.compile(r"<g [^>]*fill:(#[0-9a-f]{6})[^>]*scale\([\d.]+ -")
SIZES = re.compile(r"<g [^>]*scale\(([\d.]+) -")
#: The least pixel of the outermost rows and columns of pictures as a browser draws them, of 255, and the picture.
RIMS = """pictures => Promise.all(pictures.map(async picture => {
  const image = new Image();
  image.src = "data:image/svg+xml," + encodeURIComponent(picture);
  await image.decode();
  const canvas = document.createElement("canvas");
  const [w, h] = [canvas.width, canvas.height] = [Math.round(image.width), Math.round(image.height)];
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, w, h);
  context.drawImage(image, 0, 0, w, h);
  const of = (...box) => Math.min(...context.getImageData(...box).data);
  return {rim: Math.min(of(0, 0, w, 1), of(0, h - 1, w, 1), of(0, 0, 1, h), of(w - 1, 0, 1, h)),
          pixels: canvas.toDataURL()};
}))"""


def published() -> dict[str, str]:
    """Every figure of the chapters and of the front page."""
    found = {}
    for path in sorted(BOOK.glob("*.ipynb")):
        for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            for output in cell.get("outputs", []):
                if picture := output.get("data", {}).get("image/svg+xml"):
                    found[f"{path.stem}, cell {number}"] = "".join(picture)
    return found | {path.name: path.read_text(encoding="utf-8") for path in sorted((BOOK / "images").glob("*.svg"))}


PUBLISHED = published()


def test_the_front_pages_pictures_are_drawn_from_the_records(tmp_path):
    drawn = pictures.draw(tmp_path)
    assert [path.name for path in drawn] == ["answer.svg", "law.svg"]
    for path in drawn:
        fresh, shipped = path.read_text(encoding="utf-8"), PUBLISHED[path.name]
        assert set(COLOUR.findall(fresh)) == set(COLOUR.findall(shipped))
        one, other = (np.array(re.findall(r" [xy]='([-.\d]+)'", picture), dtype=float) for picture in (fresh, shipped))
        np.testing.assert_allclose(one, other, atol=1)  # points, of a picture 518 of them wide


def test_every_figure_is_vector_graphics_in_whole():
    for path in sorted(BOOK.glob("*.ipynb")):
        assert '"image/png"' not in path.read_text(encoding="utf-8"), path.name
    for name, picture in PUBLISHED.items():
        own = set(re.findall(r" id='([^']+)'", picture))
        assert set(re.findall(r"(?:href='|url\()#([^')]+)", picture)) <= own, name
        inks = re.findall(r"(?:fill|stroke):([^;']+)", picture)
        assert [ink for ink in inks if not re.fullmatch(r"none|#[0-9a-f]{6}|url\(#\w+\)", ink)] == [], name


def test_no_word_in_a_figure_is_smaller_than_its_caption():
    """On a page as wide as the figure. Indices of a formula are seven tenths of it, and are not looked at."""
    css = (BOOK / "_static" / "custom.css").read_text(encoding="utf-8")
    rem = float(re.search(r"figcaption,\s[^}]*font-size: ([\d.]+)rem", css)[1])
    caption = 16 * rem * 3 / 4  # a rem is 16 pixels, four of which are three points
    least = {name: min(100 * float(scale) for scale in SIZES.findall(picture)) for name, picture in PUBLISHED.items()}
    assert {name: size for name, size in least.items() if size < caption - 1e-6} == {}


@pytest.mark.parametrize(("found", "least"), [(COLOUR, 3), (WORDS, 4.5)], ids=["lines", "words"])
def test_what_a_figure_draws_can_be_seen_on_a_light_page_and_on_a_dark_one(found, least):
    ends = {to_hex(colormaps[SIGNED](end)) for end in (0.0, 1.0)}  # of colour bars, that go on beyond the scale
    pale = {PAGE, HAIR, SHADE} | ends
    faint = {}
    for name, picture in PUBLISHED.items():
        for colour in set(found.findall(picture)) - pale:
            pages = contrast(colour, PAGE), contrast(DARK.get(colour, colour), DARK_PAGE)
            if min(pages) < least:
                faint.setdefault(name, []).append((colour, *pages))
    assert faint == {}


def test_no_figure_is_cut_off_at_an_edge(browser):
    """Titles, labels and legends end before the picture does: its outermost pixels are blank."""
    page = browser.new_page()
    rims = [of["rim"] for of in page.evaluate(RIMS, list(PUBLISHED.values()))]
    page.close()
    assert [name for name, rim in zip(PUBLISHED, rims, strict=True) if rim < 200] == []


DRAWN = {
    "words and arrows": figures.gram_schmidt,
    "hatches": lambda: figures.tails_of_p({"one": np.random.default_rng(0).standard_t(3, 900)}, 2),
    "bars": lambda: figures.shares_of_others(*np.random.default_rng(0).normal(size=(2, 200))),
    "lines and bands": lambda: figures.capacity(np.array([8, 16]), np.eye(2) + 1, 4),
    "a map and a cloud": lambda: figures.staircase(np.eye(9), np.ones((9, 30)), np.ones(9)),
}


@pytest.mark.parametrize("kind", DRAWN)
def test_a_light_picture_shows_what_the_heavy_one_does(kind, browser):
    heavy = io.StringIO()
    with style.mpl.rc_context({"svg.fonttype": "path"}):
        DRAWN[kind]().savefig(heavy, format="svg", dpi=style.DPI)
    shown = [heavy.getvalue(), svg.light(heavy.getvalue())]
    shown += [svg.dark(shown[1]), shown[1].replace("viewBox='0 0 518.4", "viewBox='0 0 418.4")]
    page = browser.new_page()
    before, after, dark, cut = page.evaluate(RIMS, shown)
    page.close()
    assert len(shown[1]) < 0.7 * len(shown[0])
    one, other = (image.imread(io.BytesIO(base64.b64decode(of["pixels"].split(",")[1]))) for of in (before, after))
    assert np.abs(one - other).mean() < 0.002 and np.abs(one - other).max() < 0.7
    assert before["rim"] == after["rim"] == 255 and dark["rim"] == int(DARK_PAGE[1:3], 16) and cut["rim"] < 200


def test_two_translucent_parts_stay_two():
    figure, (axis,) = style.canvas(height=2)
    for ends in ((0, 2), (1, 3)):
        axis.axvspan(*ends, alpha=0.3)
    assert len(re.findall(r"<path [^>]*style='[^']*(?<!-)opacity:\.?0?\.3", figure._repr_svg_())) == 2


def test_a_path_goes_through_the_same_points_in_fewer_characters():
    path = "M 0.04 10.26 L 5.123456 10.26 L 5.12 -3.5 Q 1.55 2.5 -0.55 0.5 C 1 2 3 4 5.5 6.5 z M 1.25 1.27 L 2.25 1.5 "
    assert svg._relative(path) == "m0 10.3h5.1v-13.8q-3.5 6-5.7 4c1.6 1.5 3.6 3.5 6.1 6zm1.2-9l1 .2"
    short = svg._relative("M 0 0" + "".join(f" L {0.04 * n:.6f} {n}" for n in range(1, 101)))
    at = np.zeros(2)
    for command, numbers in re.findall(r"([lhv])([^lhv]*)", short):
        step = [float(number) for number in re.findall(r"-?(?:\d*\.\d+|\d+)", numbers)]
        at += {"l": step, "h": [*step, 0], "v": [0, *step]}[command]
    np.testing.assert_allclose(at, [4, 100], atol=0.05)  # a hundred roundings add up to no more than one


def test_two_pictures_in_one_page_have_no_name_in_common():
    one, other = (figures.capacity(np.array([8, 16]), np.ones((3, 2)) * x, 4)._repr_svg_() for x in (1, 2))
    names = [set(re.findall(r" id='([^']+)'", picture)) for picture in (one, other)]
    assert names[0] and not names[0] & names[1]
    for picture, own in zip((one, other), names, strict=True):
        assert set(re.findall(r"(?:href='|url\()#([^')]+)", picture)) == own


def test_a_picture_for_a_dark_page_differs_in_the_colours_of_page_and_ink_only():
    parts = "<path style='{};{}'/>", "<use href='#222222'/>", "<path style='fill:#d55e00'/>", "<rect fill='{}'/>"
    picture = "".join(parts).format("fill:#ffffff", "stroke:#222222", "#ffffff")
    assert svg.dark(picture) == "".join(parts).format("fill:#121212", "stroke:#e6e6e6", "#121212")
