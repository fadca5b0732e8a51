"""Sums ``Σ k kᵀ`` over keys as they stream by: one triangle, in blocks, a precision wider than the keys.

A CPU multiplies float32 twice as fast as float64. Where C is estimated from many tokens for each of its dimensions, the
keys of a pass are multiplied and summed in float32, and these partial sums are added up in float64. What that rounds
away is of the size of what the forward pass in float32 has rounded away already. Two cases are left to float64: a text
that is short for the width, whose C may be nearly singular; and the few keys that are many times longer than the
others (at the beginnings of texts, in some layers), beside which float32 would lose the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float

from superposition.errors import UserError
from superposition.io import console

if TYPE_CHECKING:
    from superposition.lm.model import Layer

#: Columns of the second moment that are summed at once, on a CPU and on a GPU. Narrow blocks waste less above the
#: diagonal, wide ones multiply faster; of 128, 192, 256, 384 and 512 the first was the fastest on two cores.
BLOCK, BLOCK_GPU = 192, 1536

#: What is narrower than float32.
NARROW = (torch.bfloat16, torch.float16)

#: Tokens whose keys are summed in float32 before float64 takes over, and from how many times the median length of a
#: pass's keys on a key is multiplied in float64.
TOKENS_A_TILE, LONG = 1024, 8


def outer_sum(keys: Float[torch.Tensor, "tokens d_m"], *, block: int | None = None) -> Float[torch.Tensor, "d_m d_m"]:
    """``Σ k kᵀ`` over the rows, in blocks of columns.

    Sums are one precision wider than the keys: float32 for bfloat16 and float16, float64 for float32. Little more than
    one triangle is computed.
    """
    keys = keys if _multiplies_exactly(keys) else _widen(keys)
    sums = torch.float64 if keys.dtype == torch.float64 else torch.float32
    lower = keys.new_zeros(keys.shape[1], keys.shape[1], dtype=sums)
    add_lower(lower, keys, block)
    return lower.tril() + lower.tril(-1).T


def add_lower(lower: torch.Tensor, keys: torch.Tensor, block: int | None = None) -> None:
    """Add ``Σ k kᵀ`` to the lower triangle of ``lower``, in place; both are on one device.

    Both are of one dtype; or ``lower`` is float64 and the keys float32, which are then summed in float32 by tiles; or
    ``lower`` is float32 and the keys are narrower, on a GPU. What stands above the diagonal afterwards means nothing.
    """
    block = block or (BLOCK if lower.device.type == "cpu" else BLOCK_GPU)
    tiled = keys.dtype == torch.float32 and lower.dtype == torch.float64
    # got before anything is added: where memory lacks for it, nothing is
    room = keys.new_empty(len(lower) * min(block, len(lower)) if tiled else 0)
    for tile in keys.split(TOKENS_A_TILE) if tiled else [keys]:
        for start in range(0, len(lower), block):
            part = lower[start:, start : start + block]
            rows, columns = tile[:, start:].T, tile[:, start : start + block]
            if tiled:
                part += torch.mm(rows, columns, out=room[: part.numel()].view(part.shape))
            elif tile.dtype == lower.dtype:
                part.addmm_(rows, columns)
            else:
                part += torch.mm(rows, columns, out_dtype=lower.dtype)


@dataclass
class Sums:
    """The sums of an unfinished pass, each with the number of windows that it holds.

    A layer's sums and its number change together, so that an interrupt or a lack of memory, whenever it comes, leaves
    a state to go on from. ``lower`` is right in its lower triangle only. Of the layers in ``tiled``, keys of float32
    are multiplied in float32 on a CPU (see the module).
    """

    lower: dict[int, torch.Tensor]
    total: dict[int, torch.Tensor]
    windows: dict[int, int]
    tiled: frozenset[int] = frozenset()

    @classmethod
    def zeros(cls, chosen: Sequence[Layer], dtype: torch.dtype = torch.float64) -> Sums:
        def zeros(layer: Layer, *shape: int) -> torch.Tensor:
            return torch.zeros(*shape, dtype=dtype, device=summed_on(layer.weight.device))

        return cls(
            {layer.index: zeros(layer, layer.d_m, layer.d_m) for layer in chosen},
            {layer.index: zeros(layer, layer.d_m) for layer in chosen},
            {layer.index: 0 for layer in chosen},
        )

    @property
    def done(self) -> int:
        """How many windows every layer's sums hold."""
        return min(self.windows.values())

    @property
    def boundary(self) -> float:
        """Where the next group must end at the latest: some layers may be ahead of the others."""
        return min((count for count in self.windows.values() if count > self.done), default=float("inf"))

    def add(self, layer: Layer, keys: torch.Tensor, stop: int) -> None:
        """Add the keys, (tokens, d_m), of all windows up to ``stop`` that are still missing.

        Raises
        ------
        UserError
            NaN or infinity.
        """
        index = layer.index
        lower = self.lower[index]  # (d_m, d_m)
        keys = keys.to(lower.device)
        total = keys.sum(0, dtype=torch.float64)  # (d_m,)
        if not torch.isfinite(total).all():
            raise UserError(
                f"Layer {index} gives NaN or infinity on the text: the weights are damaged, or "
                f"{layer.weight.dtype} is too narrow (try --dtype float32)."
            )
        tiled = (
            index in self.tiled and keys.dtype == torch.float32 and lower.dtype == torch.float64 and not keys.is_cuda
        )
        if tiled:
            parts = _apart(keys)
        else:
            parts = [keys if keys.dtype == lower.dtype or _multiplies_exactly(keys) else _widen(keys)]
        # keys still narrower than the sums are multiplied in float32 first: only this pass's sum is rounded to it
        whole = tiled or parts[0].dtype == lower.dtype
        partial = lower if whole else torch.zeros_like(lower, dtype=torch.float32)
        with console.interrupts_wait():
            for part in parts:
                add_lower(partial, part)
            if partial is not lower:
                lower += partial
            self.total[index] += total
            self.windows[index] = stop

    def finish(self, to_cpu: bool = True) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
        """``Σ k kᵀ`` whole, and ``Σ k``, by layer; the sums are used up."""
        outer, total = {}, {}
        for index, lower in self.lower.items():
            half = (lower.cpu() if to_cpu else lower).tril_()
            half += half.tril(-1).T
            outer[index] = half
            total[index] = self.total[index].cpu() if to_cpu else self.total[index]
        return outer, total


def _apart(keys: torch.Tensor) -> list[torch.Tensor]:
    """The keys, with those many times longer than the others apart, in float64."""
    lengths = keys.norm(dim=1)
    far = lengths > LONG * lengths.median()
    return [keys[~far], keys[far].double()] if far.any() else [keys]


def _multiplies_exactly(keys: torch.Tensor) -> bool:
    """Whether the device multiplies narrow keys without rounding a product, and sums the products in float32.

    A GPU's matrix units do: a product of two numbers of bfloat16 or float16 fits into float32. It is what
    :func:`_widen` would give, at ten times the speed.
    """
    return keys.is_cuda and keys.dtype in NARROW


def _widen(keys: torch.Tensor) -> torch.Tensor:
    """One precision wider: float32 for bfloat16 and float16, else float64."""
    return keys.float() if keys.dtype in NARROW else keys.double()


def summed_on(device: torch.device) -> torch.device:
    """Where a layer's keys are summed in float64: on their own device if it can."""
    return torch.device("cpu") if device.type in {"mps", "meta"} else device
