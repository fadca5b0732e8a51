"""Files that are either whole or absent: checksums, and writing through a temporary file."""

from __future__ import annotations

import errno
import functools
import glob
import hashlib
import io
import json
import lzma
import os
import platform
import re
import secrets
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
import psutil

from superposition.errors import UserError


def sha256_of(paths: Path | Iterable[Path]) -> str:
    """SHA-256 of a file, or of several files' digests joined in the order given. Hexadecimal."""
    if isinstance(paths, Path):
        with paths.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    return hashlib.sha256("".join(sha256_of(path) for path in paths).encode()).hexdigest()


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it: ``path`` is old or new, never half.

    A link is followed: the file that it names is written, and the link stays. The temporary files that killed processes
    left of the same target are removed.

    Raises
    ------
    UserError
        The disk is full, the folder cannot be written, or what is there is not a regular file; the temporary file is
        removed.
    """
    write_together({path: write})


def write_together(writers: Mapping[Path, Callable[[Path], object]]) -> None:
    """:func:`write_whole` for files that belong together: none is renamed before all are written and can be."""
    written: dict[Path, Path] = {}
    path = Path()
    try:
        places = {path: _place(path) for path in writers}
        for path, write in writers.items():
            places[path].parent.mkdir(parents=True, exist_ok=True)
            sweep(places[path].parent, f".{glob.escape(places[path].name)}.*.part")
            written[path] = _part(places[path])
            write(written[path])
        for path in writers:
            _place(path)
        for path, temporary in written.items():
            os.replace(temporary, places[path])
    except Exception as error:
        if (said := disk_error(error, path)) is not None:
            raise said from error
        raise
    finally:
        for temporary in written.values():
            temporary.unlink(missing_ok=True)


def check_targets(paths: Iterable[Path]) -> None:
    """Raise a :class:`UserError` for the first of these files that cannot be written: before the work, not after it.

    A temporary file is made beside each and removed, and so are the folders that had to be made for it.
    """
    for path in paths:
        made: list[Path] = []
        try:
            place = _place(path)
            made = [folder for folder in place.parents if not os.path.lexists(folder)]
            place.parent.mkdir(parents=True, exist_ok=True)
            _part(place).unlink()
        except OSError as error:
            raise disk_error(error, path) from error
        finally:
            for folder in made:
                with suppress(OSError):  # another process has put something into it
                    folder.rmdir()


def _place(path: Path) -> Path:
    """The file that is written for ``path``, links followed; refuses what exists and is not a regular file."""
    place = Path(os.path.realpath(path))
    if os.path.lexists(place) and not place.is_file():
        raise UserError(f"{path} cannot be written (it is there and not a regular file): choose another name.")
    return place


def _part(place: Path) -> Path:
    """A new temporary file beside this one, with the permissions that the process gives to new files."""
    part = place.with_name(f".{place.name}.{_mark()}{secrets.token_hex(4)}.part")
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return part


# --- what killed processes leave ----------------------------------------------------------------------------

#: Seconds after which a temporary file is stale whose process cannot be asked after.
STALE_AFTER = 86_400


def _mark() -> str:
    """What the names of temporary files tell of the process that made them."""
    return f"{_machine()}-{os.getpid()}-"


@functools.cache
def _machine() -> str:
    """Digest of where process ids are unique: the host, and on Linux the namespace of its container."""
    space = ""
    with suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def sweep(folder: Path, pattern: str = ".*.part") -> None:
    """Remove the temporary files and folders of this pattern that killed processes left in a folder.

    One of this machine is stale when its process is gone, any other after :data:`STALE_AFTER` seconds.
    """
    for path in folder.glob(pattern):
        made_by = re.search(r"[.-]([0-9a-f]{8})-(\d+)-", path.name)
        with suppress(OSError):
            if made_by and made_by[1] == _machine():
                stale = not _runs(int(made_by[2]))
            else:
                stale = time.time() - path.lstat().st_mtime > STALE_AFTER
            if stale and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif stale:
                path.unlink()


def _runs(process: int) -> bool:
    try:
        return psutil.pid_exists(process)
    except OverflowError:  # no number of a process
        return False


@contextmanager
def scratch_folder(parent: Path, prefix: str) -> Generator[Path]:
    """A new folder in ``parent`` that is removed at the end; those of this prefix that killed processes left go, too.

    Raises
    ------
    UserError
        It cannot be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        sweep(parent, f"{glob.escape(prefix)}*")
        place = tempfile.TemporaryDirectory(dir=parent, prefix=prefix + _mark(), ignore_cleanup_errors=True)
    except OSError as error:
        raise disk_error(error, parent / prefix) from error
    with place:
        yield Path(place.name)


# --- what goes wrong ----------------------------------------------------------------------------------------


@overload
def disk_error(error: OSError, path: Path) -> UserError: ...
@overload
def disk_error(error: Exception, path: Path) -> UserError | None: ...
def disk_error(error: Exception, path: Path) -> UserError | None:
    """The sentence for an error of the disk or the file system on writing ``path``; None for any other error."""
    system = error if isinstance(error, OSError) else error.__cause__ or error.__context__
    # libraries written in Rust give the system's number in words only
    said = re.search(r"\bos error (\d+)|\bOs \{ code: (\d+)", str(error))
    number = int(said[1] or said[2]) if said else getattr(system, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"The disk that holds {path.parent} is full, so {path.name} was not written: "
            "free some space or choose another folder, then run the same command again."
        )
    if number == errno.EFBIG:
        return UserError(
            f"{path.name} is larger than a file may be in {path.parent}, so it was not written: "
            "raise the limit (ulimit -f) or choose another folder, then run the same command again."
        )
    if isinstance(error, OSError) or said:
        reason = os.strerror(number) if number else str(error)
        return UserError(f"{path} cannot be written ({reason}): choose another folder.")
    return None


def kept_json(path: Path) -> Any:
    """Content of a JSON file in the cache; None if it is absent, cannot be read, or is damaged: it is made afresh."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def json_writer(value: object) -> Callable[[Path], object]:
    """What writes ``value`` as indented UTF-8 JSON. Refuses NaN and infinities, and at once."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    return lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n")


def npz_writer(arrays: Mapping[str, np.ndarray], *, smallest: bool = False) -> Callable[[Path], object]:
    """What writes arrays as a compressed ``.npz`` file, which keeps its name and holds no pickled objects.

    Where it should be the ``smallest``, each array is compressed in the way that suits it best, which takes longer.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            if smallest:
                _write_smallest(stream, arrays)
            else:
                np.savez_compressed(stream, allow_pickle=False, **arrays)

    return write


def _write_smallest(stream: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            held = io.BytesIO()
            np.lib.format.write_array(held, np.asanyarray(array), allow_pickle=False)
            sizes = {way: _packed_size(held.getvalue(), way) for way in _WAYS}
            member = zipfile.ZipInfo(f"{name}.npy")  # without a date: the same arrays make the same file
            archive.writestr(member, held.getvalue(), compress_type=min(sizes, key=sizes.__getitem__))


_WAYS = (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED)


def _packed_size(data: bytes, way: int) -> int:
    with zipfile.ZipFile(io.BytesIO(), "w") as archive:
        archive.writestr("data", data, compress_type=way)
        return archive.getinfo("data").compress_size


#: What :func:`read_npz` raises of an archive that is absent or damaged.
DAMAGED = (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


def read_npz(path: Path, *names: str) -> dict[str, np.ndarray]:
    """These arrays of an ``.npz`` file, or all, by name; closed also where it is damaged, and no pickled objects."""
    with path.open("rb") as stream, np.lib.npyio.NpzFile(stream, allow_pickle=False) as archive:
        return {name: archive[name] for name in names or archive.files}


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented UTF-8 JSON, whole or not at all. Refuses NaN and infinities."""
    write_whole(path, json_writer(value))
