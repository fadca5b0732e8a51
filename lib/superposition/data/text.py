"""Calibration text: read it from a file or a hub data set and cut it into token windows.

The second moment ``C`` of the keys is estimated on this text (chapter ``11-superposition-in-llms``).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from superposition.errors import UserError
from superposition.io import files, paths

if TYPE_CHECKING:
    pass

#: Data sets of the hub by short name: path, configuration, split.
HUB_TEXTS = {
    "hub:wikitext": ("Salesforce/wikitext", "wikitext-103-raw-v1", "train"),
    "hub:wikipedia": ("wikimedia/wikipedia", "20231101.en", "train"),
}


def resolve(source: str | Path) -> str | Path:
    """Where a text is: ``"book"`` is the text shipped with the book, anything else stays itself."""
    return paths.data_dir() / "calibration-smollm2.jsonl" if str(source) == "book" else source


def read(source: str | Path = "book") -> Iterator[str]:
    """Yield the texts of a source, in order.

    Parameters
    ----------
    source : str or Path
        ``"book"``; a ``.jsonl`` file with a ``{"text": …}`` a line; a ``.txt`` or ``.md`` file, given in pieces
        (:func:`pieces`) as it is read; ``"hub:wikitext"`` or ``"hub:wikipedia"`` (needs the ``hub`` extra and a
        network).

    Raises
    ------
    UserError
        The file is absent, empty, not UTF-8 or malformed (with the line), or the data set cannot be had.
    """
    if str(source) in HUB_TEXTS:
        yield from _read_hub(str(source))
        return
    path = paths.expanded(resolve(source))
    if not os.path.isfile(path):  # False, too, for what cannot be looked up
        raise UserError(
            f"There is no text file {paths.shown(source)}: give a .jsonl or .txt file, book, or one of "
            f"{', '.join(HUB_TEXTS)}."
        )
    empty = True
    if path.suffix == ".jsonl":
        for text in _read_jsonl(path):
            empty = False
            yield text
    elif path.suffix in {".txt", ".md"}:
        for text in _read_plain(path):
            empty = False
            yield text
    else:
        raise UserError(
            f"{paths.shown(path.name)}: a text is a .jsonl file with a {{'text': …}} a line, or a .txt file."
        )
    if empty:
        raise UserError(f"{path.name} holds no text.")


#: Characters after which a long text is cut: a tokenizer takes no longer for a piece than a reader waits.
PIECE = 100_000


def pieces(blocks: Iterable[str], size: int | None = None) -> Iterator[str]:
    """Cut a text that comes in blocks into pieces of about ``size`` characters (:data:`PIECE`), none of them blank.

    A cut is at the last blank line of a piece, else at its last line break, else at its last white space, else
    wherever the piece is full. White space at a cut is dropped. A text that is no longer than a piece stays as it is.
    """
    size = PIECE if size is None else size
    left, cut = "", False
    for block in blocks:
        left += block.lstrip() if cut and not left else block
        while len(left) > size:
            places = (left.rfind(mark, 1, size) for mark in ("\n\n", "\n", " "))
            place = next((place for place in places if place >= size // 4), size)
            if left[:place].strip():
                yield left[:place]
            left, cut = left[place:].lstrip(), True
    if left.strip():
        yield left


def _read_plain(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as stream:
        try:
            yield from pieces(_without_nul(iter(lambda: stream.read(PIECE), ""), path.name))
        except UnicodeDecodeError as error:
            with path.open("rb") as lines:
                line = next((number for number, raw in enumerate(lines, 1) if not _is_utf8(raw)), 1)
            raise UserError(f"{path.name}, line {line}: not UTF-8; save the file as UTF-8.") from error


def _without_nul(blocks: Iterable[str], name: str) -> Iterator[str]:
    """The blocks, unless one holds a NUL: UTF-16 without a mark is UTF-8 with one after every letter."""
    for block in blocks:
        if "\0" in block:
            raise UserError(f"{name} holds NUL characters, as UTF-16 and binary files do; save the file as UTF-8.")
        yield block


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _read_jsonl(path: Path) -> Iterator[str]:
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            if not raw.strip():
                continue
            try:
                record = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
                json.dumps(record, ensure_ascii=False).encode("utf-8")  # refuses half a surrogate pair
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{path.name}, line {number}: not a JSON object in UTF-8; mend or remove the line."
                ) from error
            if not isinstance(record, dict) or not isinstance(record.get("text"), str):
                raise UserError(f'{path.name}, line {number}: no "text" string; each line is {{"text": "…"}}.')
            if record["text"].strip():
                yield record["text"]


def _read_hub(source: str) -> Iterator[str]:
    path, configuration, split = HUB_TEXTS[source]
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise UserError(f"{source} needs the data sets library: run `pip install datasets`.") from error
    try:
        rows = load_dataset(path, configuration, split=split, streaming=True)
        for row in rows:
            if row["text"].strip():
                yield row["text"]
    except Exception as error:  # the library's, the hub's, the network's: many kinds
        raise UserError(
            f"{source} cannot be had from the hub ({type(error).__name__}): check the network, or give a local file."
        ) from error


def fingerprint(source: str | Path = "book") -> str:
    """Digest of a text source's content; of a hub data set, of its name."""
    if str(source) in HUB_TEXTS:
        return hashlib.sha256("/".join(HUB_TEXTS[str(source)]).encode()).hexdigest()
    path = paths.expanded(resolve(source))
    if not os.path.isfile(path):
        raise UserError(f"There is no text file {paths.shown(source)}: give a .jsonl or .txt file, or book.")
    return files.sha256_of(path)


@dataclass(frozen=True)
class Window:
    """A run of token ids that is fed to the model as one text, of which the positions [first, stop) are counted."""

    token_ids: tuple[int, ...]
    first: int
    stop: int

    @property
    def counted(self) -> int:
        return self.stop - self.first


def windows(
    texts: Iterable[str], tokenizer, *, tokens: int | None = None, skip_first: int = 0, context: int = 512
) -> list[Window]:
    """Cut texts into windows until ``tokens`` positions are counted.

    Each text is tokenised with the tokenizer's own defaults and cut into windows of at most ``context`` tokens. Every
    window begins as a prompt does: where the tokenizer puts a token before a text (BOS), each window has it, and it
    counts as one of its tokens. A window counts from its position ``skip_first`` on (position 0 of a text often holds
    an attention sink). The last window is counted only as far as needed, so that exactly ``tokens`` positions count,
    and no more of the texts is read than that takes. A long text is tokenised in :func:`pieces`, and a window does not
    run from one into the next.

    Raises
    ------
    UserError
        ``tokens``, ``skip_first`` or ``context`` make no sense, or the texts hold fewer tokens than asked for.
    """
    found = list(_cut(texts, tokenizer, tokens, skip_first, context))
    total = sum(window.counted for window in found)
    if tokens is not None and total < tokens:
        raise UserError(f"The text holds {total} tokens and {tokens} were asked for: give more text or ask for fewer.")
    if not found:
        raise UserError("The text holds no token to count: give more text.")
    return found


def count(texts: Iterable[str], tokenizer, *, most: int | None = None, skip_first: int = 0, context: int = 512) -> int:
    """How many positions :func:`windows` could count, and no more than ``most``. Arguments and errors as there."""
    return sum(window.counted for window in _cut(texts, tokenizer, most, skip_first, context))


def _cut(texts: Iterable[str], tokenizer, tokens: int | None, skip_first: int, context: int) -> Iterator[Window]:
    """The windows of texts, up to so many counted positions."""
    if tokens is not None and tokens < 1:
        raise UserError(f"{tokens} tokens were asked for: ask for at least 1.")
    if skip_first < 0:
        raise UserError(f"The positions to skip cannot be {skip_first}: give 0 or more.")
    if context <= skip_first:
        raise UserError(f"Windows of {context} tokens leave nothing after {skip_first} skipped: give a longer context.")
    opening = _opening(tokenizer)
    if context <= len(opening):
        raise UserError(f"Windows of {context} tokens hold nothing but what the tokenizer begins them with: give more.")
    total = 0
    for text in (piece for whole in texts for piece in pieces([whole])):
        ids = tokenizer(text, verbose=False)["input_ids"]
        begins = opening if tuple(ids[: len(opening)]) == opening else ()
        body, room = ids[len(begins) :], context - len(begins)
        for start in range(0, max(len(body), 1), room):
            piece = (*begins, *body[start : start + room])
            stop = len(piece) if tokens is None else min(len(piece), skip_first + tokens - total)
            if stop > skip_first:
                total += stop - skip_first
                yield Window(piece, skip_first, stop)
            if total == tokens:
                return


def _opening(tokenizer) -> tuple[int, ...]:
    """The token ids that a tokenizer puts before a text."""
    whole, bare = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
    places = (at for at in range(len(whole)) if whole[at : at + len(bare)] == bare)
    return tuple(whole[: next(places, 0)])
