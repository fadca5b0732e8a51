"""Load a causal language model by preset, folder, GGUF file or hub id, and check it; save it again."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from superposition.errors import UserError, reason
from superposition.io import files, paths
from superposition.lm import distributed as processes
from superposition.lm import gguf, passes, products, weights
from superposition.lm.gguf import PRESETS
from superposition.lm.model import LanguageModel, find_layers


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
        Name of the down-projection inside a decoder layer, for an architecture that
        :data:`superposition.lm.model.DOWN_PROJECTIONS` lacks.

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
    weight_files = weights.files_of(folder, name)
    try:
        kind, config = _class_of(folder)
        with torch.device("meta"):
            model = kind.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except Exception as error:
        raise weights.cannot_load(name, error) from error
    return LanguageModel(
        model, _tokenizer(folder, name), find_layers(model, down_projection), name, weight_files, known, folder
    )


@dataclass(frozen=True)
class Source:
    """A model whose weights are not loaded yet, to be given in the place of one: what takes it checks its plan first.

    Parameters
    ----------
    source, dtype, down_projection
        See :func:`load`.
    device : str, optional
        As there; ``"auto"`` spreads a large model over the devices there are.
    """

    source: str | Path = "smollm2"
    device: str | None = None
    dtype: torch.dtype | str = torch.float32
    down_projection: str | None = None

    @cached_property
    def outline(self) -> LanguageModel:
        """The model without its weights (:func:`outline`)."""
        return outline(self.source, down_projection=self.down_projection)

    def load(self) -> LanguageModel:
        """The model; of several processes (:mod:`superposition.lm.distributed`) each has it on its own device.

        Raises
        ------
        UserError
            As :func:`load`; several processes with one model spread over all devices.
        """
        shared, where = processes.current(self.device), {"device": self.device}
        if shared.count > 1 and self.device is None:
            where = {"device": str(shared.device)}
        if self.device == "auto":
            if shared.count > 1:
                raise UserError("Several processes each hold the whole model: start one process for --device auto.")
            where = {"device_map": "auto"}
        return load(self.source, dtype=self.dtype, down_projection=self.down_projection, **where)


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
        if (on_disk := files.disk_error(error, folder)) is not None:
            raise on_disk from error
        raise


def _find(source: str | Path, dtype: torch.dtype, revision: str | None) -> tuple[Path, str, str | None]:
    """The folder of a model, its name, and the digest of its weights where it is known already."""
    source = str(source)
    unknown = UserError(
        f"{paths.shown(source)} is no model: give a preset ({', '.join(PRESETS)}), a folder with config.json and "
        "safetensors, a .gguf file, or a hub id."
    )
    try:
        path = Path(source).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, RuntimeError, ValueError):  # a name too long, an unknown user's home, a NUL
        raise unknown from None
    if source in PRESETS:
        preset = PRESETS[source]
        folder = gguf.converted(lambda: gguf.preset_files(source, preset), preset.sha256, dtype)
        return folder, source, preset.sha256
    if path.suffix.lower() == ".gguf":
        if not is_file:
            raise UserError(f"There is no file {paths.shown(source)}: check the path of the GGUF weights.")
        sha256 = files.sha256_of(path)
        return gguf.converted(lambda: [path], sha256, dtype), path.stem, sha256
    if is_folder:
        return path, path.resolve().name or str(path), None
    if path.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise unknown
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
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"The device {device} cannot be used here ({reason(error)}): try cpu.") from error
    return device


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
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"The tokenizer of {name} has no character offsets: save it as a fast tokenizer (tokenizer.json)."
        )
    return tokenizer


def _from_folder(
    folder: Path, name: str, known: str | None, *, device, dtype, device_map, down_projection: str | None = None
) -> LanguageModel:
    weight_files = weights.files_of(folder, name)
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
        raise weights.cannot_load(name, error) from error
    weights.check_whole(report, name)
    if device_map is None:
        model.to(device)
    model.eval().requires_grad_(False)
    products.use(model)
    layers = find_layers(model, down_projection)
    loaded = LanguageModel(model, tokenizer, layers, name, weight_files, known, folder)
    passes.check(loaded)
    return loaded
