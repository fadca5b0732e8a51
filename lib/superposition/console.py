"""What the library says on its own: progress bars and warnings, in one place, silent where nobody watches."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


class SuperpositionWarning(UserWarning):
    """Something was mended or is worth knowing; the result stands."""


def warn(message: str) -> None:
    """Say one sentence as a :class:`SuperpositionWarning`."""
    warnings.warn(message, SuperpositionWarning, stacklevel=3)


def quiet() -> None:
    """Silence the progress bars and the chatter of the hub and of transformers, unless the user has asked for them."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.disable_progress_bar()


def silent() -> bool:
    """Whether bars stay away: ``CI`` is set, or the standard error is not a terminal."""
    return bool(os.environ.get("CI")) or not sys.stderr.isatty()


def bar(iterable: Iterable[Any] | None = None, *, total: int | None = None, what: str = "", unit: str = "it") -> tqdm:
    """A progress bar on the standard error for anything over a few seconds; nothing where :func:`silent`."""
    return tqdm(iterable, total=total, desc=what, unit=unit, disable=silent(), delay=1.0, unit_scale=True)
