"""Records that grow: written after every part, so that a run that ends early has lost one part at most."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from superposition import records
from superposition.errors import UserError

Arrays = dict[str, np.ndarray]


def held(path: Path, head: dict[str, Any], parts: str) -> tuple[list[dict[str, Any]], Arrays]:
    """The parts, and all arrays, that the record at a path holds already; nothing if there is no record.

    Parameters
    ----------
    path : Path
    head : dict
        What the record says of all its parts: parts of another head are not put beside these.
    parts : str
        The record's entry that lists them.

    Raises
    ------
    UserError
        The record there has another head.
    """
    if not path.is_file():
        return [], {}
    kept = records.load(path)
    same = json.loads(json.dumps(records.rounded(head, 9)))
    if {name: kept.data.get(name) for name in same} != same:
        raise UserError(f"{path} holds parts of another run: give another --out, or remove it first.")
    return kept[parts], dict(kept.arrays)
