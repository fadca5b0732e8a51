"""What the library says on its own: progress bars and warnings, in one place, silent where nobody watches."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


class SuperpositionWarning(UserWarning):
    """Something was mended or is worth knowing; the result stands."""


def warn(message: str) -> None:
    """Say one sentence as a :class:`SuperpositionWarning`."""
    warnings.warn(message, SuperpositionWarning, stacklevel=3)


def quiet() -> None:
    """Silence progress bars and chatter of the hub, of tokenizers and of transformers, imported already or not.

    Variables that are set in the environment win. Bars of libraries go quiet where :func:`silent`.
    """
    defaults = {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    }
    if silent():
        defaults["TQDM_DISABLE"] = "1"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", message="IProgress not found")
    if "transformers" in sys.modules and os.environ["TRANSFORMERS_VERBOSITY"] == "error":
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()


def silent() -> bool:
    """Whether bars stay away: ``CI`` is set, the standard error is no terminal, or another process shows them."""
    return bool(os.environ.get("CI")) or not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0"


def bar(iterable: Iterable[Any] | None = None, *, total: int | None = None, what: str = "", unit: str = "it") -> tqdm:
    """A progress bar on the standard error for anything over a few seconds; nothing where :func:`silent`."""
    from tqdm import tqdm

    return tqdm(iterable, total=total, desc=what, unit=unit, disable=silent(), delay=1.0, unit_scale=True)


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block, so that what the block changes is changed as a whole or not at all."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    came: list[tuple[int, Any]] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            before(*came[0])
