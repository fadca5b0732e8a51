"""A GGUF file's header, walked before the file is given to a reader that trusts its counts and lengths.

The format is llama.cpp's (ggml, ``docs/gguf.md``), version 2 and 3: magic, counts of tensors and entries, entries of
name, type and value, then each tensor's name, shape, type and offset.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

#: ``struct``'s code for each type of value that has a fixed size.
_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


def entries(path: Path) -> dict[str, Any]:
    """The header's entries by name, arrays as their lengths only.

    Raises
    ------
    ValueError
        The file is no GGUF file, or its header says more than the file holds.
    """
    with path.open("rb") as stream:
        header = _Header(stream, path.stat().st_size)
        if header.take(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        if header.number("I") not in (2, 3):
            raise ValueError("its version is neither 2 nor 3")
        tensors, count = header.number("Q"), header.number("Q")
        header.room(tensors * 24 + count * 13)  # the least that one takes
        found = {header.text(): header.value(header.number("I")) for _ in range(count)}
        for _ in range(tensors):
            header.text()
            header.skip(8 * header.number("I") + 4 + 8)
        depth = found.get(f"{found.get('general.architecture')}.block_count")
        if isinstance(depth, int) and depth > tensors:
            raise ValueError(f"it speaks of {depth} layers and holds {tensors} tensors in all")
        return found


class _Header:
    """Reads on, and never past the end of the file."""

    def __init__(self, stream: BinaryIO, size: int):
        self.stream, self.left = stream, size

    def room(self, size: int) -> None:
        if size > self.left:
            raise ValueError("it ends before its header does")

    def take(self, size: int) -> bytes:
        self.room(size)
        self.left -= size
        return self.stream.read(size)

    def skip(self, size: int) -> None:
        self.room(size)
        self.left -= size
        self.stream.seek(size, 1)

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind in _FIXED:
            return self.number(_FIXED[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise ValueError(f"an entry is of the unknown type {kind}")
        inner, count = self.number("I"), self.number("Q")
        if inner in _FIXED:
            self.skip(count * struct.calcsize(f"<{_FIXED[inner]}"))
        elif inner == _STRING:
            self.room(8 * count)
            for _ in range(count):
                self.skip(self.number("Q"))
        else:
            raise ValueError(f"an array holds the unknown type {inner}")
        return count
