"""Where the book's data, its records and the user's cache are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from superposition.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]


def package_dir() -> Path:
    """The folder of the library itself."""
    return _PACKAGE


def _shipped(name: str) -> Path:
    checkout = _PACKAGE.parents[1] / "book" / name
    return checkout if checkout.is_dir() else _PACKAGE / "_book" / name


def made_by_make() -> bool:
    """Whether this Python is the environment that ``make setup`` makes in a checkout of the repository."""
    environment = _PACKAGE.parents[1] / ".venv"
    return Path(sys.prefix) == environment and (environment / ".ready").is_file()


def data_dir() -> Path:
    """The folder of the facts table and the calibration text: ``book/data`` of a checkout, or its installed copy."""
    return _shipped("data")


def records_dir() -> Path:
    """The folder of the measurement records: ``book/records`` of a checkout, or its installed copy."""
    return _shipped("records")


def shown(name: str | Path, most: int = 120) -> str:
    """A name as a message shows it: in one line of bounded length, what cannot be printed written out."""
    name = str(name)
    name = name if name.isprintable() else repr(name)
    return name if len(name) <= most else name[: most - 1] + "…"


def expanded(name: str | Path) -> Path:
    """A path as a user names it, ``~`` and ``~name`` replaced by a home folder.

    Raises
    ------
    UserError
        There is no such user.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{shown(name)} names the home folder of a user who is not there: give the whole path."
        ) from error


def cache_dir() -> Path:
    """The user's cache folder, or the folder that the variable ``SUPERPOSITION_CACHE`` names. Made if absent.

    Raises
    ------
    UserError
        It cannot be made, or ``~name`` names nobody.
    """
    named = os.environ.get("SUPERPOSITION_CACHE")
    if not named:
        import platformdirs  # not needed, and may be absent, where the variable names the folder

        named = platformdirs.user_cache_dir("superposition")
    folder = expanded(named)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The cache folder {folder} cannot be made ({error.strerror}): set SUPERPOSITION_CACHE to another."
        ) from error
    return folder
