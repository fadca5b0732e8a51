"""A GPU that is not there: tensors that say they are on ``cuda:0``, are computed on the CPU, and refuse to be mixed.

What it shows is that the code puts things where they belong: an operation on tensors of two devices, or a NumPy array
of a tensor on the device, fails here as it does on a real GPU. It says nothing of speed or of the GPU's own rounding.

A tensor of the device is a wrapper around a tensor of the CPU. Below autograd a dispatch mode takes every operation,
looks where its tensors are, and runs it on what they wrap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda:0")

#: Operations that a GPU does with indices, or with a source, that are on the CPU.
MIXED = {"index", "index_put", "index_put_", "_index_put_impl_", "copy_", "_to_copy"}


class OnGpu(torch.Tensor):
    """A tensor of the stand-in; ``held`` is what it wraps."""

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnGpu:
        # to torch's own C++ it is a meta tensor: for one of a GPU autograd would ask the driver that is not there
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="meta",
        )
        self.held = held
        return self

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    def __repr__(self, **_: Any) -> str:
        return f"OnGpu({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with Computing():
            return func(*args, **(kwargs or {}))


def held(value: Any) -> Any:
    """What a tensor of the stand-in wraps; anything else itself."""
    return value.held if isinstance(value, OnGpu) else value


def each(change: Callable[[Any], Any], value: Any) -> Any:
    """The value with every member of its tuples, lists and dictionaries changed."""
    if isinstance(value, tuple | list):
        return type(value)(each(change, member) for member in value)
    if isinstance(value, dict):
        return {name: each(change, member) for name, member in value.items()}
    return change(value)


class Computing(TorchDispatchMode):
    """Runs every operation on what its tensors wrap, and wraps what comes out if it belongs on the device."""

    _mode_key = torch._C._TorchDispatchModeKey.FAKE  # so that torch does not look for a driver

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), func.overloadpacket.__name__
        tensors: list[torch.Tensor] = []
        each(lambda leaf: tensors.append(leaf) if isinstance(leaf, torch.Tensor) else None, (args, kwargs))
        here = [one for one in tensors if isinstance(one, OnGpu)]
        there = [one for one in tensors if not isinstance(one, OnGpu) and one.dim()]
        if here and there and name not in MIXED:
            raise RuntimeError(f"Expected all tensors to be on the same device, and {name} got cuda:0 and cpu.")
        if name == "_fused_sdp_choice":
            return 0  # attention in plain products
        goes_here = bool(here)
        if kwargs.get("device") is not None:
            goes_here = torch.device(kwargs["device"]).type in ("cuda", "meta")
            kwargs["device"] = torch.device("cpu")
        elif name == "copy_":
            goes_here = isinstance(args[0], OnGpu)
        plain, options = each(held, args), each(held, kwargs)
        if func is torch.ops.aten.mm.dtype:  # only a GPU has it
            found = plain[0].to(plain[2]) @ plain[1].to(plain[2])
        else:
            found = func(*plain, **options)

        def back(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            same = [one for one in tensors if held(one) is value]  # of an operation in place
            return same[0] if same else OnGpu(value) if goes_here else value

        return each(back, found)


class Naming(TorchFunctionMode):
    """Calls that torch answers before an operation is dispatched."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args = tuple(self._numbered(value) for value in args)
        kwargs = {name: self._numbered(value) for name, value in (kwargs or {}).items()}
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            key = args[1] if isinstance(args[1], tuple) else (args[1],)
            args = (args[0], tuple(torch.tensor(i) if isinstance(i, list | range) else i for i in key), *args[2:])
        if func is torch.Tensor.tolist:
            return held(args[0]).tolist()
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == GPU:
            return func(*args, **kwargs | {"device": "cpu"}).to(GPU)
        return func(*args, **kwargs)

    @staticmethod
    def _numbered(value: Any) -> Any:
        """``cuda`` as ``cuda:0``: torch would ask the driver which one it is."""
        named = isinstance(value, str) and value == "cuda"
        return GPU if named or (isinstance(value, torch.device) and value == torch.device("cuda")) else value


#: What torch.cuda answers here.
ANSWERS = {
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "is_bf16_supported": lambda *_: True,
    "device_count": lambda: 1,
    "get_device_name": lambda *_: "stand-in",
    "get_device_properties": lambda *_: mock.Mock(total_memory=80 * 2**30),
    "mem_get_info": lambda *_: (60 * 2**30, 80 * 2**30),
    "max_memory_allocated": lambda *_: 0,
    "synchronize": lambda *_: None,
    "empty_cache": lambda: None,
}


@contextmanager
def stand_in_gpu() -> Iterator[torch.device]:
    """Within, there is a GPU."""
    with ExitStack() as stack:
        for name, answer in ANSWERS.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch.object(torch, "inference_mode", torch.no_grad))  # it takes no wrappers
        stack.enter_context(Computing())
        stack.enter_context(Naming())
        yield GPU
