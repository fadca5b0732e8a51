"""Pictures that weigh little: PNG with a palette."""

from __future__ import annotations

import io


def lighten(png: bytes) -> bytes:
    """The same picture with at most 256 colours, if it is opaque and that makes it smaller; else the bytes given.

    A plot has few colours and loses nothing that can be seen; a heat map keeps some 250 shades.
    """
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        opaque = image.mode == "RGB" or (image.mode == "RGBA" and image.getextrema()[3][0] == 255)
        if not opaque:
            return png
        small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        held = io.BytesIO()
        small.save(held, "png", optimize=True)
    return min(png, held.getvalue(), key=len)
