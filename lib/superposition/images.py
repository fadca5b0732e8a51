"""Pictures that weigh little: PNG with a palette."""

from __future__ import annotations

import io

SEEN = 0.5  # mean change of a channel, of 255, from which a smaller palette could be seen


def lighten(png: bytes) -> bytes:
    """The same picture in 64 colours, or 256 where 64 would show, if it is opaque and that makes it smaller.

    A plot has few colours and loses nothing that can be seen; a heat map keeps some 250 shades. A picture that is not
    opaque, or would not get smaller, comes back as it is.
    """
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        opaque = (image.mode in ("RGB", "P") and "transparency" not in image.info) or (
            image.mode == "RGBA" and image.getextrema()[3][0] == 255
        )
        if not opaque:
            return png
        whole = image.convert("RGB")
    for colours in (64, 256):
        small = whole.quantize(colours, dither=Image.Dither.NONE, kmeans=2)
        moved = np.abs(np.asarray(small.convert("RGB"), dtype=int) - np.asarray(whole, dtype=int)).mean()
        if moved < SEEN:
            break
    held = io.BytesIO()
    small.save(held, "png", optimize=True)
    return min(png, held.getvalue(), key=len)
