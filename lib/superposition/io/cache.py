"""What takes long and is kept: arrays and plain content in the user's cache, under a digest of what they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from superposition.errors import UserError
from superposition.io import console, files, paths

#: The member of a file that holds its plain content and the names of its arrays, by which a damaged file is noticed.
_PLAIN = "plain content"


def key(kind: str, version: int, **recipe: Any) -> str:
    """The name under which something is kept.

    Parameters
    ----------
    kind : str
        The folder in the cache.
    version : int
        To be raised when what is computed from the same recipe changes.
    **recipe
        All that it depends on; plain content, as JSON has it.
    """
    content = json.dumps({"version": version} | recipe, sort_keys=True, allow_nan=False)
    return f"{kind}/{hashlib.sha256(content.encode()).hexdigest()[:24]}"


def load(key: str) -> dict[str, Any] | None:
    """What :func:`save` kept under a key; None if there is nothing, or it cannot be read: it is to be made anew."""
    try:
        arrays = files.read_npz(_path(key))
        plain, names = json.loads(str(arrays.pop(_PLAIN)))
        return arrays | plain if names == list(arrays) else None
    except (*files.DAMAGED, KeyError):
        return None


def save(key: str, content: Mapping[str, Any]) -> None:
    """Keep arrays, and plain content as JSON has it, under a key: whole or not at all.

    Where the disk is full or the folder cannot be written, a note says so, and nothing is kept.
    """
    arrays = {name: value for name, value in content.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in content.items() if name not in arrays}
    said = json.dumps([plain, list(arrays)], allow_nan=False)
    try:
        files.write_whole(_path(key), files.npz_writer(arrays | {_PLAIN: np.array(said)}))
    except UserError as error:
        console.warn(f"What took long was not kept in the cache. {error}")


def made(key: str, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """What is kept under a key; if nothing is, what ``make`` returns, which is kept then."""
    content = load(key)
    if content is None:
        content = dict(make())
        save(key, content)
    return content


def _path(key: str) -> Path:
    return paths.cache_dir() / f"{key}.npz"
