"""``python -m superposition.figures FOLDER``: the pictures of the front page and the README, drawn from the records."""

import io
import sys
from pathlib import Path

import numpy as np

from superposition import records
from superposition.figures import needed_and_found
from superposition.io import images


def draw(folder: Path) -> list[Path]:
    """Write the pictures into a folder and return their paths."""
    record = records.load("smollm2-128")
    order = np.argsort(record["relations"], kind="stable")
    answer, drawn = folder / "answer.png", io.BytesIO()
    figure = needed_and_found(record, record["layers"][len(record["layers"]) // 2], order=order)
    figure.savefig(drawn, dpi=110, metadata={"Software": None})
    answer.write_bytes(images.lighten(drawn.getvalue()))
    return [answer]


if __name__ == "__main__":
    for path in draw(Path(sys.argv[1] if len(sys.argv) > 1 else "book/images")):
        print(path)
