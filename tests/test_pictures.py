"""Pictures after compression look as before, and never weigh more."""

import io

import numpy as np
import pytest
from PIL import Image

import pictures


def png(array: np.ndarray) -> bytes:
    held = io.BytesIO()
    Image.fromarray(array).save(held, "png")
    return held.getvalue()


def pixels(data: bytes, mode: str = "RGB") -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert(mode)).astype(int)


def test_few_colours_stay_the_same_and_weigh_less():
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, (40, 3), dtype=np.uint8)
    picture = palette[rng.integers(0, 40, (120, 160))]
    before = png(picture)
    after = pictures.lighten(before)
    assert len(after) < 0.6 * len(before)
    np.testing.assert_array_equal(pixels(after), picture)


def test_a_ramp_of_many_colours_moves_by_little():
    x, y = np.meshgrid(np.linspace(0, 1, 300), np.linspace(0, 1, 200))
    picture = (255 * np.stack([x, 0.5 * x + 0.5 * y, 1 - x], -1)).astype(np.uint8)
    picture = np.concatenate([picture, np.full((200, 300, 1), 255, np.uint8)], -1)
    after = pictures.lighten(png(picture))
    assert np.abs(pixels(after) - picture[..., :3]).mean() < 8


def colours(data: bytes) -> int:
    return len(np.unique(pixels(data).reshape(-1, 3), axis=0))


def test_only_a_picture_of_few_colours_gets_the_small_palette():
    rng = np.random.default_rng(0)
    plot = np.full((200, 300, 3), 255, np.uint8)
    plot[::50] = rng.integers(100, 160, (4, 300, 3))  # many shades, in few places
    few = pictures.lighten(png(plot))
    assert colours(few) <= 64 < colours(png(plot))
    assert np.abs(pixels(few) - plot).mean() < pictures.SEEN
    shades = np.stack([np.arange(250), 255 - np.arange(250), np.full(250, 90)], -1).astype(np.uint8)
    heat = pictures.lighten(png(shades[rng.integers(0, 250, (200, 250))]))
    assert 64 < colours(heat) <= 256
    assert pictures.lighten(heat) == heat


@pytest.mark.parametrize("picture", ["transparent", "tiny"])
def test_what_cannot_gain_stays_bit_for_bit(picture):
    array = np.zeros((50, 50, 4), np.uint8)
    if picture == "tiny":
        array = np.full((1, 1, 3), 7, np.uint8)
    data = png(array)
    after = pictures.lighten(data)
    assert after == data or (picture == "tiny" and len(after) < len(data))


def test_a_palette_is_cut_down_as_well_and_twice_is_once():
    rng = np.random.default_rng(1)
    plot = np.full((200, 300, 3), 255, np.uint8)
    plot[::50] = rng.integers(100, 160, (4, 300, 3))
    held = io.BytesIO()
    Image.fromarray(plot).quantize(256).save(held, "png", optimize=True)
    once = pictures.lighten(held.getvalue())
    assert len(once) < len(held.getvalue()) and colours(once) <= 64
    assert pictures.lighten(once) == once
