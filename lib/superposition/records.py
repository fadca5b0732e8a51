"""Measurement records: a JSON file with provenance, and arrays beside it.

A long measurement writes a record once; a chapter draws from it and re-measures a small part on the reader's machine.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from superposition.errors import UserError
from superposition.io import console, files, paths
from superposition.linear import overlap

_PACKAGES = ("knowledge-in-superposition", "torch", "transformers", "accelerate", "numpy", "scipy", "safetensors")


@dataclass(frozen=True, eq=False)
class Record:
    """A record that was read: its JSON as a mapping, and the arrays beside it.

    Attributes
    ----------
    name : str
    data : dict
        The JSON file's content.
    folder : Path
        Where the arrays are.
    """

    name: str
    data: dict[str, Any]
    folder: Path

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays beside the record, by name; empty if it has none."""
        beside = self.data.get("arrays") or self.data.get("matrices")
        if beside is None:
            return {}
        path = self.folder / beside
        try:
            return files.read_npz(path)
        except files.DAMAGED as error:
            raise UserError(
                f"The arrays {path.name} of the record {self.name} are absent or damaged: make it again."
            ) from error

    def overlaps(self, layer: int) -> overlap.Overlap:
        """The four matrices of one recorded layer, as they were written or from the compact form (:func:`pack`).

        Raises
        ------
        UserError
            The record holds no such layer.
        """
        layers = list(self.data["layers"])
        if layer not in layers:
            raise UserError(f"The record {self.name} holds the layers {layers}, not {layer}.")
        row = layers.index(layer)
        if "P" in self.arrays:
            return overlap.Overlap.from_arrays({name: stack[row] for name, stack in self.arrays.items()})
        norms, norms_raw = (self.arrays[name][row].astype(np.float64) for name in ("norm_whitened", "norm_raw"))
        larger, cosine_raw = (rows[row][self._pair] for rows in self._restored)  # (m, m), symmetric
        products = larger * np.minimum.outer(norms, norms) ** 2
        np.fill_diagonal(products, norms**2)
        cosine_raw = np.clip(cosine_raw, -1, 1)
        np.fill_diagonal(cosine_raw, 1)
        return overlap.Overlap(
            P=overlap.from_products(products),
            Q=cosine_raw * np.outer(norms_raw, norms_raw),
            cosine_whitened=overlap.cosines(products),
            cosine_raw=cosine_raw,
            norm_whitened=norms,
        )

    def resolution(self, matrix: str) -> float:
        """Step in which the entries of a matrix are kept: they are exact to half of it. 0 if they are kept as floats.

        Parameters
        ----------
        matrix : str
            ``"P"``, ``"cosine_whitened"`` or ``"cosine_raw"``.
        """
        if "P" in self.arrays:
            return 0.0
        return STEP_RAW if matrix == "cosine_raw" else STEP

    @cached_property
    def _pair(self) -> np.ndarray:
        """The number of the pair of two facts, (m, m); on the diagonal 0."""
        m = self.arrays["norm_whitened"].shape[1]
        number = np.zeros((m, m), dtype=np.intp)
        number[np.triu_indices(m, 1)] = np.arange(m * (m - 1) // 2)
        return number + number.T

    @cached_property
    def _restored(self) -> tuple[np.ndarray, np.ndarray]:
        """Of all layers and pairs (layers, pairs): the larger overlap of each pair, and its raw cosine."""
        raw = _restore(self.arrays["cosine_raw"], self.arrays["cosine_raw_fit"], STEP_RAW)
        return _restore(self.arrays["overlap"], self.arrays["overlap_fit"], STEP, raw), raw


#: Steps of the compact form: an overlap is restored within half of the first, a raw cosine within half of the second.
STEP, STEP_RAW = 1.4e-4, 0.06


def pack(matrices: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Compact form of a measurement's matrices: what :meth:`Record.overlaps` restores all four from.

    Of the two overlaps of a pair, ``P[i, j]`` and ``P[j, i]``, the larger is kept in steps of ``STEP``, and the keys'
    whitened norms give the other: every entry of P and every whitened cosine is restored within ``STEP / 2``. The raw
    cosines are there for figures and are kept in coarse steps of ``STEP_RAW``. Layers are alike, so what is written are
    the whole steps by which a layer differs from its least-squares fit by the two layers before.
    """
    norms = matrices["norm_whitened"]
    i, j = np.triu_indices(norms.shape[1], 1)
    larger = np.where(norms[:, i] <= norms[:, j], matrices["P"][:, i, j], matrices["P"][:, j, i])
    steps_raw, fit_raw = _in_steps(matrices["cosine_raw"][:, i, j], STEP_RAW)
    steps, fit = _in_steps(larger, STEP, _restore(steps_raw, fit_raw, STEP_RAW))
    norms_raw = np.sqrt(np.diagonal(matrices["Q"], axis1=1, axis2=2))
    return {
        "overlap": steps,
        "overlap_fit": fit,
        "cosine_raw": steps_raw,
        "cosine_raw_fit": fit_raw,
        "norm_whitened": norms.astype(np.float32),
        "norm_raw": norms_raw.astype(np.float32),
    }


def _in_steps(rows: np.ndarray, step: float, beside: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Whole steps (layers, pairs) between each row and its fit, in the smallest integers; the fits (layers, 4)."""
    restored, steps, fits = np.zeros(rows.shape), [], []
    for layer, row in enumerate(rows):
        regressors = _regressors(restored, layer, beside)
        fits.append(np.linalg.lstsq(regressors.T, row, rcond=None)[0])
        steps.append(np.rint((row - fits[-1] @ regressors) / step).astype(np.int64))
        restored[layer] = fits[-1] @ regressors + step * steps[-1]
    whole = np.stack(steps)
    return whole.astype(np.min_scalar_type(-1 - np.abs(whole).max())), np.stack(fits)


def _restore(steps: np.ndarray, fits: np.ndarray, step: float, beside: np.ndarray | None = None) -> np.ndarray:
    """The rows (layers, pairs) that :func:`_in_steps` put into steps."""
    restored = np.zeros(steps.shape)
    for layer, (row, fit) in enumerate(zip(steps, fits, strict=True)):
        restored[layer] = fit @ _regressors(restored, layer, beside) + step * row
    return restored


def _regressors(restored: np.ndarray, layer: int, beside: np.ndarray | None) -> np.ndarray:
    """What a layer is fitted by (4, pairs): one, the two layers before it, another quantity of the same layer."""
    pairs = restored.shape[1]
    rows = [np.ones(pairs), *restored[max(layer - 2, 0) : layer], *([] if beside is None else [beside[layer]])]
    return np.stack(rows + [np.zeros(pairs)] * (4 - len(rows)))


def header(model: Any, *, architecture: bool = True) -> dict[str, Any]:
    """What a record says of a model: its name, the digest of its files, and the class of its network.

    Parameters
    ----------
    model : :class:`superposition.lm.models.LanguageModel`
    """
    content = {"name": model.name, "sha256": model.sha256}
    return content | {"architecture": type(model.model).__name__} if architecture else content


def dtype(model: Any) -> str:
    """The name of a model's dtype, such as ``float32``."""
    return str(model.dtype).removeprefix("torch.")


def provenance(*, command: str, seed: int | None = None, device: Any = "cpu") -> dict[str, Any]:
    """What a record says of the run that made it: command, commit, versions, machine, peak memory.

    Peak memory is in MiB, of this process, and of the GPU if one was used.
    """
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    torch = sys.modules.get("torch")  # where it is not loaded it took no part
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kind = str(device).split(":")[0]
    entry: dict[str, Any] = {
        "command": command,
        "commit": _commit(),
        "seed": seed,
        "versions": versions,
        "device": f"{kind}, {platform.machine()}, {cores} cores",
        "threads": torch.get_num_threads() if torch else cores,
        "peak_memory_mib": round(_peak_memory() / 2**20),
    }
    if torch and kind == "cuda":
        entry["device"] = torch.cuda.get_device_name(torch.device(device))
    if torch and torch.cuda.is_available():
        entry["peak_gpu_memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
        entry["cuda"] = torch.version.cuda
    return entry


def _peak_memory() -> int:
    """Bytes that this process has held at most."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)


def _commit() -> str | None:
    """The checkout's commit, with a plus sign if the library differs from it; None outside a checkout."""
    here = paths.package_dir()

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "records.py")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def rounded(value: Any, digits: int) -> Any:
    """Plain content with its floats to so many digits, so that the JSON stays small."""
    if isinstance(value, Mapping):
        return {name: rounded(part, digits) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(part, digits) for part in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def targets(path: Path) -> tuple[Path, Path]:
    """The files of the record that is written to ``path``: itself, and its arrays beside it.

    Raises
    ------
    UserError
        The name does not end in ``.json``.
    """
    if path.suffix != ".json":
        raise UserError(f"{path} does not end in .json, as a record must: name it so, and its arrays go beside it.")
    return path, path.with_suffix(".npz")


def check_out(folder: Path, names: Sequence[str], command: str) -> None:
    """Before the work, make sure that these files can be written into a result's folder; the first is its record.

    A record of another command in its place will be replaced: that is said in a note.

    Raises
    ------
    UserError
        The folder is none, or a file cannot be written.
    """
    if os.path.exists(folder) and not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name one for --out.")
    files.check_targets(folder / name for name in names)
    if (folder / names[0]).is_file():
        kept = files.kept_json(folder / names[0])
        try:
            made_by = kept["provenance"]["command"]
        except (TypeError, KeyError):
            made_by = "unknown"
        if made_by != command:
            console.warn(f"{folder / names[0]} is the result of another command and will be replaced ({made_by}).")


def write(path: Path, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
    """Write a record and the arrays beside it (``NAME.npz``), both whole or neither written.

    Numbers are kept to nine digits, more than float32 has.

    Raises
    ------
    UserError
        The disk is full, the folder cannot be written, or the name does not end in ``.json``.
    """
    content, writers = rounded(data, 9), {}
    path, beside = targets(path)
    if arrays:
        content["arrays"] = beside.name
        writers[beside] = files.npz_writer(arrays, smallest=True)
    files.write_together(writers | {path: files.json_writer(content)})


def load(name: str | Path) -> Record:
    """Read a record: a name in the book's records, or the path of a ``.json`` file or of a measurement's folder.

    Raises
    ------
    UserError
        It is absent or damaged; the message lists the records there are.
    """
    path = Path(name)
    if path.is_dir():
        path = path / "measurement.json"
    elif path.suffix != ".json":
        path = paths.records_dir() / f"{name}.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("not an object")
        return Record(path.stem, data, path.parent)
    except FileNotFoundError as error:
        raise UserError(f"There is no record {name}; the book has: {', '.join(names()) or 'none'}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"The record {path.name} is damaged: make it again with the command it was made by.") from error


def names(kind: str | None = None) -> list[str]:
    """Names of the book's records, of one ``kind`` if given, in alphabetical order."""
    found = sorted(path.stem for path in paths.records_dir().glob("*.json"))
    return [name for name in found if kind is None or load(name).data.get("kind") == kind]


def bars(trial: str) -> dict[str, Any]:
    """What decides a trial of a claim about a lifetime of edits, as it was written down before (``bars.toml``).

    Parameters
    ----------
    trial : str
        The claim and the trial's word, such as ``"claim-19.curve"``.

    Raises
    ------
    UserError
        There is no such trial.
    """
    claim, _, word = trial.partition(".")
    frozen = tomllib.loads((paths.data_dir() / "bars.toml").read_text(encoding="utf-8"))
    try:
        return frozen[claim][word]
    except KeyError as error:
        raise UserError(f"bars.toml holds no trial {trial!r}.") from error
