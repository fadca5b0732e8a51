"""Several processes that share one measurement: each sums its part of the text, and the sums are added up.

Started by ``accelerate launch -m superposition measure …`` or ``torchrun``; accelerate finds out who is who. Without
such a launcher there is one process, and nothing here does anything.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Processes:
    """This process among those that share the work.

    Attributes
    ----------
    index, count : int
        Number of this process, from 0, and of all.
    device : torch.device, optional
        The one that accelerate gave this process; None if it is alone.
    """

    index: int = 0
    count: int = 1
    device: torch.device | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.index == 0

    def add_up(self, tensor: torch.Tensor) -> None:
        """Replace the tensor by the sum of all processes' tensors, in place. Every process must call it."""
        if self.count > 1:
            from accelerate.utils import reduce

            tensor.copy_(reduce(tensor.to(self.device), reduction="sum"))

    def all(self, value: bool) -> bool:
        """Whether the value is true in every process. Every process must call it."""
        votes = torch.tensor(float(value))
        self.add_up(votes)
        return votes.item() == self.count


def current(device: str | None = None) -> Processes:
    """This process among those that the launcher started, or alone.

    Parameters
    ----------
    device : str, optional
        ``"cpu"`` keeps to the CPU where there are GPUs. Only the first call decides.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes()
    state = _state(device)
    return Processes(state.process_index, state.num_processes, state.device)


def _state(device: str | None) -> Any:
    from accelerate import PartialState

    cpu = device == "cpu" or not torch.cuda.is_available()
    return PartialState() if PartialState._shared_state else PartialState(cpu=cpu)


def leave() -> None:
    """Take leave of the other processes, once nothing is left to add up."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
