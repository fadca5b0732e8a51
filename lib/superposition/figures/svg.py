"""Vector pictures that weigh little, and their twins for a dark page.

Matplotlib writes coordinates to a millionth of a point, a line for each vertex and a name for every part. What a reader
can see needs none of that, and a notebook with a dozen figures would be heavy with it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from itertools import pairwise
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from superposition.figures.colours import DARK

SPACE, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_DRAWN = (f"{SPACE}use", f"{SPACE}path")
#: How matplotlib sets the outline of a letter, in 64ths, in the units in which it places it.
GLYPH = "scale(0.015625)"
_COMMAND = re.compile(r"([MLQCzZ])([^MLQCzZ]*)")
_NAMED = re.compile(r"(url\(#|^#)([^)]+)")  # as a link has it, and as a style or a clip has it
_NAMING = ("href", "clip-path", "style")
_WHOLE = re.compile(r"(?<!-)opacity")  # of a group it is that of all its parts together
_COLOUR = re.compile(r"""((?:fill|stroke)(?::|=["']))(#[0-9a-f]{6})\b""")
_TRANSFORM = re.compile(r"(translate|scale|rotate|matrix)\(([^)]*)\)")


def light(svg: str) -> str:
    """The same picture in fewer characters: what it draws moves by less than a tenth of a point.

    Parameters
    ----------
    svg : str
        As matplotlib writes it, with its text as paths.
    """
    ElementTree.register_namespace("", SPACE[1:-1])
    root = ElementTree.fromstring(re.sub(r"<!DOCTYPE.*?>", "", svg, flags=re.DOTALL))
    _unwrap(root)
    for part in root.iter():
        part.text = (part.text or "").strip()
        part.tail = None
        if LINK in part.attrib:
            part.set("href", re.sub(r"\s", "", part.attrib.pop(LINK)))
        for name, decimals in (("x", 1), ("y", 1), ("width", 2), ("height", 2)):
            if part.get(name):
                part.set(name, _short(float(part.get(name, "").removesuffix("pt")), decimals))
        if part.get("d"):
            glyph = part.get("transform") == GLYPH
            part.set("d", _relative(part.get("d", ""), 1 / 64 if glyph else 1))
            part.attrib.pop("transform" if glyph else "", None)
        if part.get("style"):
            part.set("style", re.sub(r"(?<=[:;]) ", "", part.get("style", "")))
        if part.get("transform"):
            _place(part)
    _gather(root)
    root.set("width", root.get("width", "") + "pt")
    root.set("height", root.get("height", "") + "pt")
    root.attrib.pop("version", None)
    _rename(root)
    text = ElementTree.tostring(root, encoding="unicode").replace(" />", "/>")
    return text if "'" in text else text.replace('"', "'")  # which a notebook's JSON need not escape


def dark(svg: str) -> str:
    """The same picture in the colours of a dark page, :data:`colours.DARK`; maps and what is drawn in dots stay."""
    return _COLOUR.sub(lambda match: match[1] + DARK.get(match[2], match[2]), svg)


def _unwrap(node: Element) -> None:
    """Without comments on the picture, and without groups that say nothing but a name that nothing else uses."""
    children: list[Element] = []
    for child in node:
        _unwrap(child)
        bare = child.tag == f"{SPACE}g" and set(child.attrib) <= {"id"}
        children += list(child) if bare else [] if child.tag == f"{SPACE}metadata" else [child]
    node[:] = children


def _gather(node: Element) -> None:
    """With neighbours of one style, or of one clip, in a group that has it."""
    for key in ("clip-path", "style"):
        children: list[Element] = []
        for child in node:
            same = children and child.get(key) and child.tag in _DRAWN and children[-1].get(key) == child.get(key)
            same = same and not _WHOLE.search(child.get(key, ""))
            if same and children[-1].tag == f"{SPACE}g" and not children[-1].get("transform"):
                children[-1].append(child)
                del child.attrib[key]
            elif same and children[-1].tag in _DRAWN:
                first, value = children[-1], child.get(key, "")
                children[-1] = Element(f"{SPACE}g", {key: value})
                children[-1].extend([first, child])
                del first.attrib[key], child.attrib[key]
            else:
                children.append(child)
        node[:] = children
    for child in node:
        if child.tag == f"{SPACE}g":
            _gather(child)


def _place(part: Element) -> None:
    """A transform rounded; of a part drawn by name, a shift alone as the place where it is drawn."""
    steps = _TRANSFORM.findall(part.attrib.pop("transform"))
    found = [(kind, [float(x) for x in values.replace(",", " ").split()]) for kind, values in steps]
    if part.tag == f"{SPACE}use" and [kind for kind, _ in found] == ["translate"]:
        for name, value in zip("xy", found[0][1], strict=False):
            part.set(name, _short(value, 0))  # in units of a glyph, a hundredth of its size
    else:
        decimals = {"translate": 2, "rotate": 2}
        text = [f"{kind}({' '.join(_short(x, decimals.get(kind, 6)) for x in values)})" for kind, values in found]
        part.set("transform", "".join(text))
    for name in "xy":
        if part.get(name) == "0" and part.tag == f"{SPACE}use":
            del part.attrib[name]


def _rename(root: Element) -> None:
    """Short names, for those parts only that are drawn by name, and no style twice.

    Another picture in the same page has other names.
    """
    used: dict[str, str] = {}
    digest = hashlib.sha256(ElementTree.tostring(root)).digest()
    own = "p" + base64.b32encode(digest)[:4].decode().lower()
    for part in root.iter():
        for key in _NAMING:
            for _, name in _NAMED.findall(part.get(key, "")):
                used.setdefault(name, f"{own}{len(used):x}")
    styles = {part.get("id"): part.get("style") for part in root.iter(f"{SPACE}path") if part.get("id")}
    for part in root.iter():
        if part.get("style") and part.get("style") == styles.get(part.get("href", "")[1:]):
            del part.attrib["style"]
        if name := part.attrib.pop("id", None):
            part.attrib |= {"id": used[name]} if name in used else {}
        for key in _NAMING:
            if part.get(key):
                part.set(key, _NAMED.sub(lambda found: f"{found[1]}{used[found[2]]}", part.get(key, "")))


def _short(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else re.sub(r"^(-?)0\.", r"\1.", text)


def _relative(path: str, scale: float = 1.0) -> str:
    """A path's data with each point relative to the last, rounded so that errors do not add up."""
    done, at, start = "", (0, 0), (0, 0)
    for command, points in _commands(path):
        if not points:
            done, at = done + "z", start
            continue
        rounded = [(round(10 * scale * x), round(10 * scale * y)) for x, y in points]
        moved = [_short((x - at[i]) / 10, 1) for point in rounded for i, x in enumerate(point)]
        if command == "L" and "0" in moved:
            done += f"h{moved[0]}" if moved[1] == "0" else f"v{moved[1]}"
        else:
            done += command.lower() + _joined(moved)
        at = rounded[-1]
        start = at if command == "M" else start
    return done


def _joined(numbers: list[str]) -> str:
    """Numbers of a path, with a space only where two of them would run together."""
    text = numbers[0]
    for before, number in pairwise(numbers):
        text += number if number[0] == "-" or (number[0] == "." and "." in before) else f" {number}"
    return text


def _commands(path: str) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    for command, numbers in _COMMAND.findall(path):
        values = [float(x) for x in numbers.split()]
        yield command, list(zip(values[::2], values[1::2], strict=True))
