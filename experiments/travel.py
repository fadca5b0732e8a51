"""Files that travel in pieces of limited size: packed with checksums here, joined and checked there.

A pack named ``smollm2`` is ``smollm2.json`` (what is in it, with SHA-256 of every file and every piece) and the pieces
``smollm2.000``, ``smollm2.001`` …: an archive, compressed, and cut.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from superposition.errors import UserError
from superposition.io import files

#: The most that a piece holds, in bytes.
PIECE = 45 * 2**20


def pack(
    sources: Mapping[str, Path], folder: Path, name: str, *, piece: int = PIECE, about: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Pack files into ``folder`` and return the manifest.

    Parameters
    ----------
    sources : mapping of str to Path
        Where each file will lie when joined, a relative path with ``/``, and where it is.
    piece : int
        Bytes of a piece at most.
    about : mapping, optional
        Plain content that travels in the manifest.

    Raises
    ------
    UserError
        The disk is full or the folder cannot be written.
    """
    try:
        return _pack(sources, folder, name, piece, about)
    except OSError as error:
        raise files.disk_error(error, folder / name) from error


def _pack(
    sources: Mapping[str, Path], folder: Path, name: str, piece: int, about: Mapping[str, Any] | None
) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    manifest: dict[str, Any] = {"name": name, "about": dict(about or {}), "files": {}, "pieces": {}}
    with tempfile.TemporaryFile(dir=folder) as whole:
        with lzma.open(whole, "wb", preset=6) as squeezed, tarfile.open(fileobj=squeezed, mode="w|") as archive:
            for place, path in sorted(sources.items()):
                entry = tarfile.TarInfo(place)  # no owner, no date: the same files make the same pieces
                entry.size = path.stat().st_size
                with path.open("rb") as stream:
                    archive.addfile(entry, stream)
                manifest["files"][place] = {"bytes": entry.size, "sha256": files.sha256_of(path)}
        total = whole.seek(0, 2)
        count = max(1, -(-total // piece))
        whole.seek(0)
        for number in range(count):
            part = whole.read(-(-total // count))  # pieces of one size, as near as can be
            file = f"{name}.{number:03d}"
            manifest["pieces"][file] = {"bytes": len(part), "sha256": hashlib.sha256(part).hexdigest()}
            files.write_whole(folder / file, lambda temporary, part=part: temporary.write_bytes(part))
    files.write_json(folder / f"{name}.json", manifest)
    return manifest


def manifest_of(folder: Path, name: str) -> dict[str, Any]:
    """The manifest of a pack.

    Raises
    ------
    UserError
        It is absent or damaged.
    """
    path = folder / f"{name}.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(manifest[part], dict) for part in ("about", "files", "pieces")):
            raise ValueError("not a manifest")
        return manifest
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"The manifest {path} is absent or damaged: pack again, and bring it with the pieces."
        ) from error


def missing(folder: Path, name: str) -> list[str]:
    """What a pack still lacks in this folder: a sentence for each piece that is absent or damaged."""
    found = []
    for file, entry in manifest_of(folder, name)["pieces"].items():
        path = folder / file
        if not path.is_file():
            found.append(f"The piece {file} is not in {folder}: bring it.")
        elif path.stat().st_size != entry["bytes"] or files.sha256_of(path) != entry["sha256"]:
            found.append(f"The piece {file} in {folder} is damaged: bring it again.")
    return found


def is_joined(manifest: Mapping[str, Any], to: Path) -> bool:
    """Whether the pack's files lie in a folder, by their checksums."""
    return all((to / place).is_file() for place in manifest["files"]) and all(
        files.sha256_of(to / place) == entry["sha256"] for place, entry in manifest["files"].items()
    )


def join(folder: Path, name: str, to: Path) -> dict[str, Any]:
    """Put the files of a pack where they belong below ``to``, all or none, and return the manifest.

    Where they lie there already nothing is read but they.

    Raises
    ------
    UserError
        A piece is absent or damaged, or a file is not what the manifest says.
    """
    manifest = manifest_of(folder, name)
    if is_joined(manifest, to):
        return manifest
    if lacks := missing(folder, name):
        raise UserError(" ".join(lacks))
    try:
        _join(manifest, folder, name, to)
    except OSError as error:
        raise files.disk_error(error, to / name) from error
    return manifest


def _join(manifest: Mapping[str, Any], folder: Path, name: str, to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to, prefix=".joining-") as scratch:
        with _joined([folder / file for file in manifest["pieces"]], Path(scratch)) as whole:
            try:
                with lzma.open(whole) as squeezed, tarfile.open(fileobj=squeezed, mode="r|") as archive:
                    for entry in archive:
                        _take_out(archive, entry, manifest, Path(scratch))
            except (lzma.LZMAError, tarfile.TarError, EOFError) as error:
                raise UserError(f"The pack {name} cannot be unpacked ({error}): pack it again.") from error
        if not is_joined(manifest, Path(scratch)):
            raise UserError(f"The pack {name} does not hold what its manifest says: pack it again.")
        for place in manifest["files"]:
            (to / place).parent.mkdir(parents=True, exist_ok=True)
            (Path(scratch) / place).replace(to / place)


def _take_out(archive: tarfile.TarFile, entry: tarfile.TarInfo, manifest: Mapping[str, Any], to: Path) -> None:
    parts = PurePosixPath(entry.name)
    if not entry.isfile() or entry.name not in manifest["files"] or parts.is_absolute() or ".." in parts.parts:
        raise UserError(f"The pack holds {entry.name!r}, which its manifest does not name: pack it again.")
    (to / entry.name).parent.mkdir(parents=True, exist_ok=True)
    with (to / entry.name).open("wb") as out:
        shutil.copyfileobj(archive.extractfile(entry), out)


@contextmanager
def _joined(pieces: list[Path], scratch: Path) -> Iterator[Any]:
    with tempfile.TemporaryFile(dir=scratch) as whole:
        for path in pieces:
            with path.open("rb") as piece:
                shutil.copyfileobj(piece, whole)
        whole.seek(0)
        yield whole
