"""Files that are either whole or absent: checksums, and writing through a temporary file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from superposition.errors import UserError


def sha256_of(paths: Path | Iterable[Path]) -> str:
    """SHA-256 of a file, or of several files' digests joined in the order given. Hexadecimal."""
    if isinstance(paths, Path):
        with paths.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    return hashlib.sha256("".join(sha256_of(path) for path in paths).encode()).hexdigest()


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it: ``path`` is old or new, never half.

    Raises
    ------
    UserError
        The disk is full or the folder cannot be written; the temporary file is removed.
    """
    write_together({path: write})


def write_together(writers: Mapping[Path, Callable[[Path], object]]) -> None:
    """:func:`write_whole` for files that belong together: none is renamed before all are written."""
    written: dict[Path, Path] = {}
    path = Path()
    try:
        for path, write in writers.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
            os.close(handle)
            written[path] = Path(name)
            write(written[path])
            written[path].chmod(0o644)
        for path, temporary in written.items():
            os.replace(temporary, path)
    except Exception as error:
        if (said := disk_error(error, path)) is not None:
            raise said from error
        raise
    finally:
        for temporary in written.values():
            temporary.unlink(missing_ok=True)


def disk_error(error: Exception, path: Path) -> UserError | None:
    """The sentence for an error of the disk or the file system on writing ``path``; None for any other error."""
    system = error if isinstance(error, OSError) else error.__cause__ or error.__context__
    if "No space left" in str(error) or getattr(system, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"The disk that holds {path.parent} is full, so {path.name} was not written: "
            "free some space or choose another folder, then run the same command again."
        )
    if isinstance(error, OSError):
        return UserError(f"{path} cannot be written ({error.strerror or error}): choose another folder.")
    return None


#: What may stand in one line. A string in JSON holds no line break, so that none is changed by taking breaks away.
#: Characters of a line of JSON, and how deep a longer one is divided.
_LINE, _DEEPEST = 160, 3


def json_writer(value: object) -> Callable[[Path], object]:
    """What writes ``value`` as indented UTF-8 JSON. Refuses NaN and infinities, and at once.

    A list of numbers, whatever is short, and whatever lies three levels down stand in one line.
    """
    text = _indented(value, 0) + "\n"
    return lambda temporary: temporary.write_text(text, encoding="utf-8")


def _indented(value: object, level: int) -> str:
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    divided = isinstance(value, dict) or (
        isinstance(value, (list, tuple)) and not all(isinstance(member, (int, float)) for member in value)
    )
    if not divided or len(line) <= _LINE or level == _DEEPEST:
        return line
    if isinstance(value, dict):
        # a dictionary of one member spells its name as JSON has it, whatever its type
        members = [
            json.dumps({name: 0}, ensure_ascii=False)[1:-2] + _indented(member, level + 1)
            for name, member in value.items()
        ]
    else:
        members = [_indented(member, level + 1) for member in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    indent = " " * (level + 1)
    return opening + "\n" + ",\n".join(indent + member for member in members) + "\n" + " " * level + closing


def npz_writer(arrays: Mapping[str, np.ndarray], *, small: bool = False) -> Callable[[Path], object]:
    """What writes arrays as a compressed ``.npz`` file; ``small`` compresses harder (LZMA), at a tenth of the speed."""

    def write(temporary: Path) -> None:
        method = zipfile.ZIP_LZMA if small else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(temporary, "w", method) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                    np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)

    return write


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented UTF-8 JSON, whole or not at all. Refuses NaN and infinities."""
    write_whole(path, json_writer(value))
