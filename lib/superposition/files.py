"""Files that are either whole or absent: checksums, and writing through a temporary file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from superposition.errors import UserError


def sha256_of(paths: Path | Iterable[Path]) -> str:
    """SHA-256 of a file, or of several files' digests joined in the order given. Hexadecimal."""
    if isinstance(paths, Path):
        with paths.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    return hashlib.sha256("".join(sha256_of(path) for path in paths).encode()).hexdigest()


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it: ``path`` is old or new, never half.

    Raises
    ------
    UserError
        The disk is full or the folder cannot be written; the temporary file is removed.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except Exception as error:
        system = error if isinstance(error, OSError) else error.__cause__ or error.__context__
        full = "No space left" in str(error) or getattr(system, "errno", None) == errno.ENOSPC
        if full:
            raise UserError(
                f"The disk that holds {path.parent} is full, so {path.name} was not written: "
                "free some space or choose another folder, then run the same command again."
            ) from error
        if isinstance(error, PermissionError | NotADirectoryError | FileExistsError):
            raise UserError(f"{path} cannot be written ({error.strerror}): choose another folder.") from error
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented UTF-8 JSON, whole or not at all. Refuses NaN and infinities."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
