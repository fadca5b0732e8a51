"""Products with a linear layer's weights by oneDNN, which PyTorch brings along, where they are faster than its own.

On a CPU PyTorch multiplies float32 matrices by MKL, which lays out all weights anew in each product. For a handful of
tokens that takes longer than the product. oneDNN reads the weights where they are: on an AMD processor an edit's
products take a third less time, and those of a pass over a text a tenth. Both are the same sums in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import nn


@cache
def available() -> bool:
    """Whether PyTorch was built with both, and its oneDNN gives MKL's product, forwards and backwards."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    x, W, y = (torch.linspace(-1, 1, a * b).reshape(a, b) for a, b in ((2, 3), (4, 3), (2, 4)))
    bias = torch.ones(4)
    try:
        forwards, backwards = _product(x, W, bias), _product(y, W.T, None)
    except (AttributeError, RuntimeError, TypeError):  # the operator is PyTorch's own affair: it may change or go
        return False
    return torch.allclose(forwards, x @ W.T + bias) and torch.allclose(backwards, y @ W, atol=1e-6)


def _product(x: torch.Tensor, W: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``x Wᵀ + bias``. Of arrays laid out neither in rows nor in columns oneDNN takes a thousand times as long."""
    W = W if W.is_contiguous() or W.T.is_contiguous() else W.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), W, bias, "none", [], "")


#: Which rows of the tokens of a pass are a text's own, and how many rows there are: set by :func:`own_tokens`.
_own: ContextVar[tuple[torch.Tensor, torch.Size] | None] = ContextVar("own", default=None)

#: Padding is left out of the products where it is this share of a pass's tokens, and this many: picking costs, too.
PADDING, PADDED = 0.1, 16


@contextmanager
def own_tokens(mask: torch.Tensor) -> Generator[None]:
    """Inside, :class:`Linear` leaves padding out: of a pass of (batch, tokens) it multiplies where ``mask`` is 1.

    What it gives at padding is 0.
    """
    own = None
    if mask.device.type == "cpu" and mask.numel() - int(mask.sum()) >= max(PADDED, PADDING * mask.numel()):
        own = mask.flatten().nonzero().flatten(), mask.shape
    token = _own.set(own)
    try:
        yield
    finally:
        _own.reset(token)


class _Linear(torch.autograd.Function):
    """``x Wᵀ + bias`` and its derivatives by oneDNN; with ``own`` only of these rows of x (rows, i), 0 elsewhere."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, W: torch.Tensor, bias: torch.Tensor | None, own: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, W, own)
        return _at(own, x, lambda rows: _product(rows, W, bias))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        x, W, own = ctx.saved_tensors
        seen = gradient if own is None else gradient[own]
        return (
            _at(own, gradient, lambda rows: _product(rows, W.T, None)) if ctx.needs_input_grad[0] else None,
            seen.flatten(0, -2).T @ (x if own is None else x[own]).flatten(0, -2) if ctx.needs_input_grad[1] else None,
            seen.flatten(0, -2).sum(0) if ctx.needs_input_grad[2] else None,
            None,
        )


def _at(own: torch.Tensor | None, x: torch.Tensor, product: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """A product with some of the rows of x, with 0 for the others."""
    if own is None:
        return product(x)
    found = product(x.index_select(0, own))
    return found.new_zeros(len(x), found.shape[1]).index_copy_(0, own, found)


class Linear(nn.Linear):
    """:class:`torch.nn.Linear` whose float32 products on a CPU are oneDNN's; all else is its parent's."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        kinds = {(tensor.device.type, tensor.dtype) for tensor in (input, self.weight)}
        if kinds != {("cpu", torch.float32)} or input.ndim < 2:
            return super().forward(input)
        if (own := _own.get()) is None or input.shape[:-1] not in (own[1], (own[1].numel(),)):
            return _Linear.apply(input, self.weight, self.bias, None)
        found = _Linear.apply(input.flatten(0, -2), self.weight, self.bias, own[0])
        return found.view(*input.shape[:-1], -1)


def use(model: nn.Module) -> None:
    """Let a model's linear layers multiply by oneDNN, if it is :func:`available`; parameters and names stay."""
    if available():
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = Linear
