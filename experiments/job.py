"""What every stage of a run on a rented machine shares: its clock, its folders, its device, and its record."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from superposition import records
from superposition.errors import UserError
from superposition.io import files, paths

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "experiments" / "benchmarks"))


@dataclass
class Job:
    """A run: what it may use, and where it leaves what it finds.

    Parameters
    ----------
    work : Path
        Folder of what is kept between calls on one machine: records, sampled text, states, the cache.
    device : torch.device
    minutes : float
        The time there is, from the making of the job.
    command : str
        Kept in the records.
    out : Path, optional
        Folder that comes home; a copy of all records is put there whenever one is written.
    about : mapping
        What the packs said of the code that they were made with (:func:`code_of`).
    """

    work: Path
    device: torch.device
    minutes: float
    command: str
    out: Path | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @property
    def records(self) -> Path:
        """Where the records lie."""
        return self.work / "records"

    def left(self) -> float:
        """Seconds until the time is up."""
        return self.minutes * 60 - (time.monotonic() - self.began)

    def fits(self, seconds: float, what: str) -> bool:
        """Whether something that takes so long can still be done; if not, says so."""
        left = self.left()
        if seconds <= left:
            return True
        self.say(f"{what} is left for the next call: it takes some {seconds:.0f} s, and {max(left, 0):.0f} s are left.")
        return False

    def say(self, what: str) -> None:
        """Print a line with the time."""
        print(f"{time.monotonic() - self.began:6.0f} s  {what}", flush=True)

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak_gib(self) -> float | None:
        """The most memory held on the GPU so far, in GiB; None on a CPU."""
        if self.device.type != "cuda":
            return None
        return round(torch.cuda.max_memory_allocated(self.device) / 2**30, 2)

    def read(self, name: str) -> dict[str, Any]:
        """The record of a stage as far as it has come; empty if it has not begun.

        Raises
        ------
        UserError
            The record is damaged.
        """
        path = self.records / f"{name}.json"
        return records.load(path).data if path.is_file() else {}

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of a stage's record."""
        path = self.records / f"{name}.json"
        return records.load(path).arrays if path.is_file() else {}

    def write(self, name: str, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
        """Write a stage's record with its provenance, and a copy of all records for the way home."""
        came_from = records.provenance(command=self.command, device=self.device, seed=0)
        came_from["commit"] = came_from["commit"] or commit_of(self.about)
        seconds = time.monotonic() - self.began
        came_from |= {"driver": driver(self.device), "call_seconds": round(seconds, 1)}
        records.write(self.records / f"{name}.json", {**data, "provenance": came_from}, arrays)
        if self.out is not None:
            files.write_whole(self.out / "records.zip", self._archive)

    def _archive(self, temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w") as archive:
            for path in sorted(self.records.iterdir()):
                if path.suffix in {".json", ".npz"} and not path.name.startswith("."):
                    archive.write(path, path.name)


def bring(archive: Path, to: Path) -> list[str]:
    """Put the records of an archive that came home into a folder, and return their names.

    Raises
    ------
    UserError
        The archive is absent or damaged, or holds something that is no record.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            found = {name: opened.read(name) for name in opened.namelist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{archive} is absent or damaged ({error}): bring records.zip again.") from error
    for name, content in found.items():
        if Path(name).name != name or Path(name).suffix not in {".json", ".npz"}:
            raise UserError(f"{archive} holds {name!r}, which is no record: bring what a run has written.")
        try:
            json.loads(content if name.endswith(".json") else "{}")
        except ValueError as error:
            raise UserError(f"The record {name} in {archive} is damaged: bring records.zip again.") from error
    files.write_together(
        {
            to / name: lambda temporary, content=content: temporary.write_bytes(content)
            for name, content in found.items()
        }
    )
    return sorted(Path(name).stem for name in found if name.endswith(".json"))


def code_of() -> dict[str, Any]:
    """Which code this is: the checkout's commit if there is one, and the digest of library and experiments."""
    sources = sorted([*paths.package_dir().rglob("*.py"), *(ROOT / "experiments").rglob("*.py")])
    return {"commit": records.provenance(command="")["commit"], "source": files.sha256_of(sources)}


def commit_of(about: Mapping[str, Any]) -> str | None:
    """The commit that the packs name, with a plus sign if the code here is not the code there."""
    commit = about.get("commit")
    if commit is None or about.get("source") == code_of()["source"]:
        return commit
    return commit if commit.endswith("+") else commit + "+"


def driver(device: torch.device) -> str | None:
    """The version of the GPU's driver."""
    if device.type != "cuda":
        return None
    try:
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True
        )
    except OSError:
        return None
    return found.stdout.strip().splitlines()[0] if found.stdout.strip() else None
