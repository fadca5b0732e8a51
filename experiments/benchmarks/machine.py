"""What this machine does at best, and how busy it was with other things while something was timed."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from superposition import records
from superposition.lm import products


def wait(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best(run: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Seconds of the fastest of several calls."""
    fastest = float("inf")
    for _ in range(repeats):
        wait(device)
        began = time.perf_counter()
        run()
        wait(device)
        fastest = min(fastest, time.perf_counter() - began)
    return fastest


def matmul_rate(dtype: torch.dtype, size: int = 1536, repeats: int = 9, device: torch.device | str = "cpu") -> float:
    """Floating-point operations a second of square matrix products: the best of several."""
    a, b = torch.randn(2, size, size, dtype=torch.float32, device=device).to(dtype).unbind()
    return 2 * size**3 / best(lambda: a @ b, repeats, a.device)


def reading_rate(megabytes: int = 256, repeats: int = 7) -> float:
    """Bytes a second of reading a matrix once, for its product with a vector: the best of several."""
    A = torch.ones(megabytes * 2**20 // 4 // 1024, 1024)
    x = torch.ones(1024)
    return 4 * A.numel() / best(lambda: A @ x, repeats, A.device)


def rates() -> dict[str, float]:
    """:func:`matmul_rate` of float32 and float64 and :func:`reading_rate`, with as many threads as PyTorch has now."""
    found = {str(d).removeprefix("torch."): matmul_rate(d) for d in (torch.float32, torch.float64)}
    return found | {"reading": reading_rate()}


def said(rate: dict[str, float]) -> str:
    """Rates in a line."""
    products = ", ".join(f"{name} {value / 1e9:.0f} GFLOP/s" for name, value in rate.items() if name != "reading")
    return f"this machine, {torch.get_num_threads()} threads: {products}, reading {rate['reading'] / 2**30:.1f} GiB/s"


def gflops(rate: dict[str, float]) -> dict[str, float]:
    """Rates of products as a record has them."""
    return {name: round(rate[name] / 1e9, 1) for name in ("float32", "float64")}


def counter() -> FlopCounterMode:
    """PyTorch's counter of operations, told of oneDNN's product (:mod:`superposition.lm.products`)."""

    def linear(x: torch.Size, W: torch.Size, *_: Any, **__: Any) -> int:
        return 2 * x.numel() * W[0]

    mapping = {torch.ops.mkldnn._linear_pointwise: linear} if products.available() else {}
    return FlopCounterMode(display=False, custom_mapping=mapping)


@contextmanager
def load() -> Generator[dict[str, float]]:
    """How loaded the machine is inside: a dictionary that is filled at the end.

    ``others`` is the share of all cores' time that processes took other than this one and those of its own that have
    ended (where the system tells their time), ``stolen`` the share that the host of a virtual machine kept (Linux tells
    it), ``load_average`` is the last minute's before.
    """
    found = {"load_average": round(psutil.getloadavg()[0], 2)}
    began, cpu, own = time.perf_counter(), psutil.cpu_times(), sum(os.times()[:4])  # with children that ended
    yield found
    total = (time.perf_counter() - began) * (os.cpu_count() or 1)
    after = psutil.cpu_times()
    idle = sum(getattr(after, name, 0) - getattr(cpu, name, 0) for name in ("idle", "iowait"))
    stolen = getattr(after, "steal", 0) - getattr(cpu, "steal", 0)
    others = total - idle - stolen - (sum(os.times()[:4]) - own)
    found |= {"others": round(max(0.0, others / total), 3), "stolen": round(max(0.0, stolen / total), 3)}


def told(found: dict[str, float]) -> str:
    """A load in a line."""
    return f"of the machine's time other processes took {found['others']:.1%} and its host {found['stolen']:.1%}"


def parser(description: str | None, repeated: str) -> argparse.ArgumentParser:
    """The command line of a benchmark, which repeats something and may write a record."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--repeats", type=int, default=5, help=f"{repeated}: the median counts")
    made.add_argument("--out", type=Path, help="the record")
    return made


def keep(data: dict[str, Any], found: dict[str, float], device: torch.device | str, out: Path | None) -> None:
    """Add to a record how loaded the machine was and where it comes from, and write it, if asked to."""
    command = " ".join(["python", f"experiments/benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    data |= {"load": found, "provenance": records.provenance(command=command, device=device)}
    if out:
        records.write(out, data)
