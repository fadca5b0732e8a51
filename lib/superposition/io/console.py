"""What the library says on its own: progress bars and warnings, in one place, silent where told."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

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
        logging = sys.modules["transformers"].utils.logging  # loaded before its verbosity was set
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def silent() -> bool:
    """Whether bars stay away: ``CI`` or tqdm's own ``TQDM_DISABLE`` is set, or another process shows them."""
    told = os.environ.get("CI") or os.environ.get("TQDM_DISABLE")
    return bool(told) or os.environ.get("RANK", "0") != "0"


def bar(iterable: Iterable[Any] | None = None, *, total: int | None = None, what: str = "", unit: str = "it") -> tqdm:
    """A progress bar for anything over a second, on the standard error or in a notebook; none where :func:`silent`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # without ipywidgets a bar is text
        from tqdm.auto import tqdm

    return tqdm(iterable, total=total, desc=what, unit=unit, disable=silent(), delay=1.0, unit_scale=True)


def encodable() -> None:
    """Let the standard streams write ``\\u1234`` for what their encoding has no byte for, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def plain(text: str) -> str:
    """Control characters written out, ``\\x1b``, so that a text from a file does nothing to a terminal."""
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


#: Characters of a message; the middle of a longer one is left out.
MOST = 1000


def readable(message: str) -> str:
    """A message :func:`plain`, and of :data:`MOST` characters at most."""
    message = plain(message)
    return message if len(message) <= MOST else f"{message[: MOST // 2]} … {message[3 - MOST // 2 :]}"


def one_line(message: object) -> str:
    """A message with the ends of its lines written out: it may quote a name or a text that holds some."""
    return str(message).replace("\n", "\\n")


def say(message: str) -> None:
    """Print a message for the user on the standard error, :func:`readable`."""
    with suppress(OSError):  # the terminal may be gone
        print(readable(message), file=sys.stderr)


# --- signals ------------------------------------------------------------------------------------------------


class Ended(KeyboardInterrupt):
    """The process was asked to end by a signal other than Ctrl-C's; ``number`` is the signal's."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


#: Signals that end a process as Ctrl-C does: from a batch system or a shutdown, and of a terminal that is closed, which
#: Windows has not.
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def ends_interrupt() -> Generator[None]:
    """Let what ends the process from outside (:data:`ENDING`) raise :class:`Ended` in the block, as Ctrl-C would.

    So temporary files are removed and what is done is kept. A signal that is ignored, as ``nohup`` does, or that
    somebody handles already, is left to that; and all are outside the main thread.
    """

    def end(number: int, frame: Any) -> None:
        raise Ended(number)

    changed = []
    if threading.current_thread() is threading.main_thread():
        changed = [number for number in ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def interrupts_wait() -> Generator[None]:
    """Let Ctrl-C and what ends the process wait for the end of the block: what it changes is changed as a whole."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {
        number: handler for number in (signal.SIGINT, *ENDING) if callable(handler := signal.getsignal(number))
    }
    came: list[tuple[int, FrameType | None]] = []
    for number in handlers:
        signal.signal(number, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            handlers[came[0][0]](*came[0])
