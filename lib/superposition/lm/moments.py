"""Second moments of keys: streamed over a text for all layers in one pass, and shrunk.

``C = K Kᵀ / N`` is the uncentred second moment of N keys, (d_m, d_m). The paper writes ``C = K Kᵀ``; the factor
1/N cancels in every ``p`` and every edit of ROME's form (chapter ``11-superposition-in-llms``).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from superposition.data import text
from superposition.errors import UserError, reason
from superposition.io import console, files, paths
from superposition.linear.metric import Metric
from superposition.linear.shrinkage import sampling_error, shrunk
from superposition.lm import distributed as processes
from superposition.lm import passes
from superposition.lm.sums import Sums, summed_on

if TYPE_CHECKING:
    from superposition.lm.model import LanguageModel, Layer

#: Seconds between two checkpoints of a pass.
CHECKPOINT_EVERY = 120.0

#: Tokens of a forward pass on a CPU and on a GPU, unless the caller asks for a number of texts.
TOKENS_A_PASS, TOKENS_A_PASS_GPU = 2048, 16_384

#: Tokens of text for each dimension of C that the commands which edit and forecast read, unless told otherwise.
TOKENS_PER_DIMENSION = 16

#: Where the text has fewer than that, the least with which they go on unless told how many to take.
LEAST_PER_DIMENSION = 4


@dataclass
class Moments:
    """Sums over the keys of a text, by layer index.

    Attributes
    ----------
    outer : dict of int to (d_m, d_m) float64
        ``Σ k kᵀ``; on the CPU, unless they were left where they were summed (:func:`of_windows`).
    total : dict of int to (d_m,) float64
        ``Σ k``.
    tokens : int
        How many keys were summed.
    cached : bool
        Whether they come from the cache.
    """

    outer: dict[int, torch.Tensor]
    total: dict[int, torch.Tensor]
    tokens: int
    cached: bool = False

    def __add__(self, other: Moments) -> Moments:
        """The sums over both texts."""
        return self._combined(other, 1)

    def __sub__(self, other: Moments) -> Moments:
        """The sums over what is left of a text without a part of it."""
        return self._combined(other, -1)

    def _combined(self, other: Moments, sign: int) -> Moments:
        if self.outer.keys() != other.outer.keys():
            raise UserError("Moments of different layers cannot be combined: take the same layers.")
        return Moments(
            {index: outer + sign * other.outer[index] for index, outer in self.outer.items()},
            {index: total + sign * other.total[index] for index, total in self.total.items()},
            self.tokens + sign * other.tokens,
        )

    def second_moment(
        self, layer: int, *, shrinkage: float = 0.0, centred: bool = False
    ) -> Float[np.ndarray, "d_m d_m"]:
        """``C`` of one layer: ``(1 − s) C + s · tr(C)/d_m · I`` for a shrinkage ``s``.

        Parameters
        ----------
        layer : int
        shrinkage : float
            From 0 (the plain estimate) to 1 (a multiple of the identity).
        centred : bool
            Subtract the outer product of the mean: the covariance in place of the uncentred moment.

        Raises
        ------
        UserError
            The shrinkage is outside [0, 1].
        """
        return self._estimate(self.outer[layer].cpu().numpy(), self.total[layer].cpu().numpy(), shrinkage, centred)

    def metric(self, layer: int, *, shrinkage: float = 0.0, centred: bool = False) -> Metric:
        """``C`` of one layer, factorised where its sums are: on a GPU by torch. Arguments as for the second moment.

        Raises
        ------
        UserError
            As :meth:`second_moment` and :class:`superposition.linear.metric.Metric`.
        """
        outer = self.outer[layer]
        if outer.device.type == "cpu":
            return Metric(self.second_moment(layer, shrinkage=shrinkage, centred=centred))
        return DeviceMetric(self._estimate(outer, self.total[layer], shrinkage, centred))

    def _estimate(self, outer: Any, total: Any, shrinkage: float, centred: bool) -> Any:
        moment = outer / self.tokens
        if centred:
            mean = total / self.tokens
            moment = moment - mean[:, None] * mean[None, :]
        return shrunk(moment, shrinkage)


def plan(
    tokenizer: Any,
    source: str | Path,
    d_m: int,
    *,
    tokens: int | None = None,
    skip_first: int = 0,
    context: int = 512,
    shrinkage: float | Literal["oas"] = 0.0,
) -> int:
    """How many tokens of a text C of width ``d_m`` shall be estimated from: to be asked before weights are loaded.

    By default :data:`TOKENS_PER_DIMENSION` for each dimension; where the text holds fewer, all of it, with a note of
    what that costs, as long as there are :data:`LEAST_PER_DIMENSION`. No more of the text is read than that takes.

    Parameters
    ----------
    tokens : int, optional
        How many were asked for.
    skip_first, context : int
        See :func:`superposition.data.text.windows`.
    shrinkage : float or "oas"
        Above 0 C may be estimated from any number of tokens.

    Raises
    ------
    UserError
        The text holds too few tokens, or too few were asked for.
    """
    wanted = TOKENS_PER_DIMENSION * d_m if tokens is None else tokens
    if tokens is not None and 0 < tokens < d_m and not shrinkage:
        raise UserError(
            f"C of width {d_m} is singular when estimated from {tokens} tokens: ask for at least {d_m} "
            "(better ten times that), or give a --shrinkage above 0."
        )
    have = text.count(text.read(source), tokenizer, most=wanted, skip_first=skip_first, context=context)
    if have == wanted:
        return wanted
    if tokens is not None or (have < LEAST_PER_DIMENSION * d_m and not shrinkage):
        least = "" if tokens is not None else f", and C of width {d_m:,} takes at least {LEAST_PER_DIMENSION * d_m:,}"
        raise UserError(
            f"The text holds {have:,} tokens{f' and {tokens:,} were asked for' if tokens is not None else ''}{least}: "
            "give a longer --text, let `sample` write one, or ask for fewer --tokens."
        )
    if have > d_m:
        error, usual = sampling_error(have, d_m), sampling_error(wanted, d_m)
        console.warn(
            f"The text holds {have:,} tokens, {have / d_m:.1f} for each dimension of C in place of "
            f"{TOKENS_PER_DIMENSION}: the standard error of p is {error / usual:.1f} times as large ({error:.2g} in "
            f"place of {usual:.2g}, in units of what p leaves of a key). A longer --text, or one by `sample`, mends it."
        )
    return have


def of_rome(path: Path, d_m: int) -> Float[np.ndarray, "d_m d_m"]:
    """``C``, (d_m, d_m), from a statistics file of the code of ROME and MEMIT, ``…_mom2_100000.npz``.

    The file holds the sum ``Σ k kᵀ`` as ``mom2.mom2`` and the number of keys as ``mom2.count``; C is their ratio.

    Raises
    ------
    UserError
        The file is no such file, is of another width, or holds NaN or infinity.
    """
    try:
        stored = files.read_npz(path, "mom2.mom2", "mom2.count")
        outer, counted = np.asarray(stored["mom2.mom2"], dtype=np.float64), float(stored["mom2.count"])
    except Exception as error:  # of zip, of NumPy: any kind
        raise UserError(
            f"{path} is no statistics file of ROME's code ({reason(error)}): it needs mom2.mom2 and mom2.count, as "
            "its layer_stats writes them."
        ) from error
    if outer.shape != (d_m, d_m):
        raise UserError(f"{path.name} holds a moment of shape {outer.shape} and the layer's keys have width {d_m}.")
    if not np.isfinite(outer).all() or not counted > 0:
        raise UserError(f"{path.name} holds NaN or infinity, or counts no key: make it again.")
    return (outer + outer.T) / (2 * counted)


class DeviceMetric(Metric):
    """:class:`superposition.linear.metric.Metric` by torch, where the moment is.

    For a C that a CPU takes too long to factorise. Keys and results are NumPy arrays, as there.

    Parameters
    ----------
    moment : (d_m, d_m) torch tensor, any device that has float64
    """

    def _read(self, moment: torch.Tensor) -> torch.Tensor:
        return moment.double()

    def _factorised(self) -> torch.Tensor:
        factor, failed = torch.linalg.cholesky_ex(self.moment)
        if int(failed):
            raise scipy.linalg.LinAlgError("not positive definite")
        return factor

    def _reciprocal_condition(self) -> float:
        scale = self.moment.diagonal().sqrt()
        norm = (self.moment / (scale[:, None] * scale[None, :])).abs().sum(0).max()
        inverse = torch.cholesky_inverse(self.factor / scale[:, None])
        return 1 / float(norm * inverse.abs().sum(0).max())

    def _there(self, keys: Any) -> torch.Tensor:
        return torch.from_numpy(self._checked(keys).copy()).to(self.factor.device)

    def _times(self, vector: Float[np.ndarray, " d_m"]) -> Float[np.ndarray, " d_m"]:
        return (self.moment @ self._there(vector)).cpu().numpy()

    def solve(self, K: Float[np.ndarray, "d_m ..."]) -> Float[np.ndarray, "d_m ..."]:
        keys = self._there(K)
        return torch.cholesky_solve(keys.reshape(self.d_m, -1), self.factor).reshape(keys.shape).cpu().numpy()

    def whiten(self, K: Float[np.ndarray, "d_m ..."]) -> Float[np.ndarray, "d_m ..."]:
        keys = self._there(K)
        columns = torch.linalg.solve_triangular(self.factor, keys.reshape(self.d_m, -1), upper=False)
        return columns.reshape(keys.shape).cpu().numpy()


def estimate(
    model: LanguageModel,
    source: str | Path = "book",
    *,
    tokens: int | None = None,
    skip_first: int = 0,
    context: int = 512,
    layers: Sequence[int] | None = None,
    batch: int | None = None,
    cache: bool = True,
) -> Moments:
    """Sum ``Σ k kᵀ`` and ``Σ k`` of all layers over a text in one pass.

    Parameters
    ----------
    model : LanguageModel
    source : str or Path
        See :func:`superposition.data.text.read`.
    tokens : int, optional
        How many positions to count; all of the text by default.
    skip_first, context : int
        See :func:`superposition.data.text.windows`.
    layers : sequence of int, optional
        Default: all.
    batch : int, optional
        Windows a forward pass; by default as many as hold about :data:`TOKENS_A_PASS` tokens.
    cache : bool
        Keep the result in the user's cache under the key of its content, the weights as they are now among it, and
        look there first.

    Raises
    ------
    UserError
        See :func:`superposition.data.text.windows`; a key that is NaN or infinite; memory that does not suffice.
    """
    groups = in_groups(
        model, source, tokens=tokens, skip_first=skip_first, context=context, layers=layers, batch=batch, cache=cache
    )
    return next(groups)


def in_groups(
    model: LanguageModel,
    source: str | Path = "book",
    *,
    memory: int | None = None,
    tokens: int | None = None,
    skip_first: int = 0,
    context: int = 512,
    layers: Sequence[int] | None = None,
    batch: int | None = None,
    cache: bool = True,
) -> Iterator[Moments]:
    """:func:`estimate` in several passes over the text, each for as many layers as a memory limit allows.

    The sums are those of a single pass, to the bit. A group is emptied when the next is asked for: one is in memory.

    Parameters
    ----------
    memory : int, optional
        Bytes for the sums held at once (:func:`layer_groups`); the model and a few matrices of one layer come on top.

    Raises
    ------
    UserError
        As :func:`estimate`; a memory limit below one layer's sums.
    """
    chosen = model.select(layers)
    if batch is not None and batch < 1:
        raise UserError(f"A batch of {batch} makes no sense: give 1 or more.")
    groups = layer_groups(chosen, memory)
    context = min(context, model.context_length or context)
    shared = processes.current()
    store = None
    if cache:  # the digest reads all weights, which takes a while for a large model
        recipe = {
            "weights": model.digest(),
            "dtype": str(model.dtype),
            "text": text.fingerprint(source),
            "tokens": tokens,
            "skip_first": skip_first,
            "context": context,
            "version": _Store.VERSION,
        }
        store = _Store(recipe, shared)
    cut: list[text.Window] = []
    for group in groups:
        moments = store.load(group) if store else None
        everywhere = shared.all(moments is not None)
        if moments is None or not everywhere:
            cut = cut or text.windows(
                text.read(source), model.tokenizer, tokens=tokens, skip_first=skip_first, context=context
            )
            moments = _one_pass(model, cut, group, batch, store, shared)
            if store and shared.is_main:
                store.save(moments)
        yield moments
        moments.outer.clear()
        moments.total.clear()


def of_windows(
    model: LanguageModel,
    cut: Sequence[text.Window],
    *,
    layers: Sequence[int] | None = None,
    batch: int | None = None,
    cache: bool = True,
    to_cpu: bool = True,
    sums: torch.dtype = torch.float64,
) -> Moments:
    """:func:`estimate` for windows that are cut already (:func:`superposition.data.text.windows`).

    Parameters
    ----------
    to_cpu : bool
        Without a cache, False leaves each layer's sums on the device that made them, where
        :meth:`Moments.metric` factorises them.
    sums : torch.dtype
        Without a cache, ``torch.float32`` sums the keys of a float32 model in float32, as the paper's code does.

    Raises
    ------
    UserError
        No windows; sums that are narrower than the keys; otherwise as :func:`estimate`.
    """
    if not cut:
        raise UserError("There are no windows to read keys from: give at least one.")
    if sums == torch.float32 and model.dtype == torch.float64:
        raise UserError("Keys of float64 are not summed in float32: load the model in float32 for that.")
    chosen = model.select(layers)
    if not cache:
        return _one_pass(model, cut, chosen, batch, None, processes.Processes(), to_cpu, sums)
    windows = hashlib.sha256()
    for window in cut:
        windows.update(json.dumps([window.token_ids, window.first, window.stop]).encode())
    recipe = {"weights": model.digest(), "dtype": str(model.dtype), "windows": windows.hexdigest()}
    store = _Store(recipe | {"version": _Store.VERSION}, processes.Processes())
    if (kept := store.load(chosen)) is not None:
        return kept
    moments = _one_pass(model, cut, chosen, batch, store, processes.Processes())
    store.save(moments)
    return moments


def layer_groups(chosen: Sequence[Layer], memory: int | None) -> list[Sequence[Layer]]:
    """The layers in as few groups of neighbours as keep each group's sums, 8 d_m² bytes a layer, within a limit.

    Raises
    ------
    UserError
        One layer alone is over the limit.
    """
    if memory is None:
        return [chosen]
    largest = 8 * max(layer.d_m for layer in chosen) ** 2
    if memory < largest:
        raise UserError(
            f"A memory limit of {memory / 1e9:.2g} GB does not hold the second moment of one layer "
            f"({largest / 1e9:.2g} GB): give more."
        )
    count = -(-len(chosen) // (memory // largest))
    return [[chosen[i] for i in part] for part in np.array_split(np.arange(len(chosen)), count)]


def _one_pass(
    model: LanguageModel,
    cut: Sequence[text.Window],
    chosen: Sequence[Layer],
    batch: int | None,
    store: _Store | None,
    shared: processes.Processes,
    to_cpu: bool = True,
    dtype: torch.dtype = torch.float64,
) -> Moments:
    """Sum over the windows, the longest first; of several processes each takes its part of them.

    The order of the windows and of their groups is the order of the sums: what resumes gives the same bits.
    """
    longest_first = sorted(cut, key=lambda window: -len(window.token_ids))
    at_once = TOKENS_A_PASS if model.device.type == "cpu" else TOKENS_A_PASS_GPU
    size = batch or max(1, at_once // len(longest_first[0].token_ids))
    mine = longest_first[shared.index :: shared.count]
    counted = [window.counted for window in mine]
    sums = (store.resume(chosen) if store else None) or Sums.zeros(chosen, dtype)
    total = sum(window.counted for window in cut)  # by all processes: each layer's sums are the same in any group
    sums.tiled = frozenset(layer.index for layer in chosen if total >= TOKENS_PER_DIMENSION * layer.d_m)
    saved = time.monotonic()
    bar = console.bar(total=sum(counted), what="second moments", unit="tok")
    bar.update(sum(counted[: sums.done]))

    def run(start: int, stop: int) -> int:
        nonlocal saved
        stop = int(min(stop, sums.boundary))
        if sums.done == start:  # else memory lacked after the last layer was summed
            _sum_group(model, mine[start:stop], stop, chosen, sums)
        bar.update(sum(counted[start : sums.done]))
        if store and time.monotonic() - saved > CHECKPOINT_EVERY:
            store.checkpoint(sums)
            saved = time.monotonic()
        return sums.done

    advice = "give a shorter --context, fewer --layers, or a smaller --dtype"
    try:
        with bar:
            passes.in_batches(len(mine), run, size, advice, start=sums.done)
    except KeyboardInterrupt:
        if store and sums.done:
            store.checkpoint(sums)
        raise
    for index in sums.lower:
        shared.add_up(sums.lower[index])
        shared.add_up(sums.total[index])
    return Moments(*sums.finish(to_cpu), total)


def _sum_group(model: LanguageModel, group: Sequence[text.Window], stop: int, chosen: Sequence[Layer], sums: Sums):
    """Add the keys of a group of windows, which ends at window ``stop``, to the layers that do not hold them yet."""
    ids, mask = passes.padded([window.token_ids for window in group])
    counts = torch.zeros(ids.shape, dtype=torch.bool)
    for row, window in enumerate(group):
        counts[row, window.first : window.stop] = True
    counted = None if counts.all() else counts.flatten()

    def receive(layer: Layer, keys: torch.Tensor) -> None:
        keys = keys.flatten(0, 1)  # (windows, tokens, d_m) -> (windows · tokens, d_m)
        sums.add(layer, keys if counted is None else keys[counted.to(keys.device)], stop)

    model.read_keys(ids, mask, [layer for layer in chosen if sums.windows[layer.index] < stop], receive)


class _Store:
    """The cache's entry of one pass: the finished sums, one file a layer, and the checkpoint of an unfinished one.

    Each file holds a digest of its name and tensors, so that it is whole and in its place, or noticed. One that is
    absent, damaged or cannot be read is made again; one that cannot be written is a note.
    """

    #: Raise it when the sums or the files that hold them change.
    VERSION = 5

    def __init__(self, recipe: dict, shared: processes.Processes):
        key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:24]
        self.folder = paths.cache_dir() / "moments" / key
        part = "" if shared.count == 1 else f"-{shared.index}-of-{shared.count}"
        self.unfinished = self.folder / f"unfinished{part}.safetensors"

    def _file(self, layer: int) -> Path:
        return self.folder / f"layer-{layer:03d}.safetensors"

    def load(self, layers: Sequence[Layer]) -> Moments | None:
        moments = Moments({}, {}, 0, cached=True)
        for layer in layers:
            path, shapes = self._file(layer.index), {"outer": (layer.d_m, layer.d_m), "total": (layer.d_m,)}
            tensors = self._read(path)
            if tensors is None:
                return None
            if _shapes(tensors) != shapes | {"tokens": ()}:
                self._damaged(path)
                return None
            moments.outer[layer.index] = tensors["outer"]
            moments.total[layer.index] = tensors["total"]
            moments.tokens = int(tensors["tokens"])
        return moments

    def _read(self, path: Path) -> dict[str, torch.Tensor] | None:
        try:
            with safe_open(path, framework="pt") as stored:
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}
                metadata = stored.metadata() or {}
            if metadata.get("sha256") != self._digest(path, tensors):
                raise ValueError("checksum")
            return tensors
        except FileNotFoundError:
            return None
        except (OSError, ValueError, SafetensorError):
            self._damaged(path)
            return None

    def _digest(self, path: Path, tensors: dict[str, torch.Tensor]) -> str:
        """SHA-256 of which file this is, and of the tensors' names, dtypes, shapes and bytes, read where they are."""
        total = hashlib.sha256(f"{self.folder.name}/{path.name}\n".encode())
        for name, tensor in sorted(tensors.items()):
            total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            total.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return total.hexdigest()

    def _damaged(self, path: Path) -> None:
        console.warn(f"The cached moments {path.name} are damaged or cannot be read: they are computed again.")

    def _write(self, path: Path, tensors: dict[str, torch.Tensor]) -> None:
        metadata = {"sha256": self._digest(path, tensors)}
        files.write_whole(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))

    def save(self, moments: Moments) -> None:
        try:
            for layer in moments.outer:
                entry = {"outer": moments.outer[layer], "total": moments.total[layer]}
                self._write(self._file(layer), entry | {"tokens": torch.tensor(moments.tokens)})
            for path in self.folder.glob("unfinished*"):
                path.unlink(missing_ok=True)  # another process may have been faster
            files.sweep(self.folder)
        except (UserError, OSError) as error:
            console.warn(f"The moments were not kept in the cache. {error}")

    def checkpoint(self, sums: Sums) -> None:
        tensors = {}
        for index, windows in sums.windows.items():
            tensors |= {
                f"lower.{index}": sums.lower[index],
                f"total.{index}": sums.total[index],
                f"windows.{index}": torch.tensor(windows),
            }
        try:
            self._write(self.unfinished, tensors)
        except UserError as error:
            console.warn(f"No checkpoint was written. {error}")

    def resume(self, chosen: Sequence[Layer]) -> Sums | None:
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in chosen:
            shapes[f"lower.{layer.index}"] = (layer.d_m, layer.d_m)
            shapes |= {f"total.{layer.index}": (layer.d_m,), f"windows.{layer.index}": ()}
        tensors = self._read(self.unfinished)
        if tensors is None or _shapes(tensors) != shapes:  # of a pass for other layers
            return None

        def of(what: str, layer: Layer) -> torch.Tensor:
            # a copy is aligned as a fresh tensor is: products round alike
            return tensors[f"{what}.{layer.index}"].to(summed_on(layer.weight.device), copy=True)

        return Sums(
            {layer.index: of("lower", layer) for layer in chosen},
            {layer.index: of("total", layer) for layer in chosen},
            {layer.index: int(of("windows", layer)) for layer in chosen},
        )


def _shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
