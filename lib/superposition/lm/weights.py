"""The folder that a model's weights lie in: which files are read, and that nothing in them is missing."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from superposition.errors import UserError, reason
from superposition.io import console, paths

#: What configurations call the number of decoder layers.
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def files_of(folder: Path, name: str) -> tuple[Path, ...]:
    """The files that transformers will read the weights from, all of them inside the folder and safetensors.

    Raises
    ------
    UserError
        No configuration; no safetensors; an adapter; an index that names other files, or files that are not there;
        a file that is damaged; more layers in the configuration than the files hold tensors.
    """
    config = _configuration(folder, name)
    weight_files = _listed_files(folder, name)
    _check_depth(config, weight_files, name)
    return weight_files


def _check_depth(config: dict[str, Any], weights: Sequence[Path], name: str) -> None:
    """Refuse a number of layers for which the weights cannot be there, before a model of so many is built."""
    parts = [part for part in (config, config.get("text_config")) if isinstance(part, dict)]
    depths = [part[key] for part in parts for key in DEPTHS if isinstance(part.get(key), int | float)]
    count = 0
    for path in weights:
        try:
            with safe_open(path, framework="pt") as stored:
                count += len(stored.keys())
        except (OSError, SafetensorError) as error:
            raise cannot_load(name, error) from error
    if depths and max(depths) > count:
        raise UserError(
            f"config.json of {name} speaks of {max(depths):,} layers and the files hold {count:,} tensors in all: "
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
    strange = [file for file in names if Path(file).name != file or "\\" in file or not file.endswith(".safetensors")]
    if strange:
        raise UserError(
            f"{index.name} of {name} names {_few(strange)}: only .safetensors files in the folder itself are read."
        )
    absent = [file for file in names if not os.path.isfile(folder / file)]  # a name too long is absent too
    if absent:
        raise UserError(f"{name} lacks {_few(absent)}, which {index.name} names: download the missing files.")
    return tuple(folder / file for file in names)


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path.name} of {name} cannot be read ({reason(error)}): download it again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path.name} of {name} is no JSON object: download it again.")
    return content


def check_whole(report: dict[str, Any], name: str) -> None:
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
        prefixes = [key.removesuffix(lost) for key in unexpected for lost in missing if key.endswith(f".{lost}")]
        advice = (
            f"Take the prefix {prefixes[0]!r} off the names in the files"
            if prefixes
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


def cannot_load(name: str, error: Exception) -> UserError:
    return UserError(f"{name} cannot be loaded as a causal language model: {reason(error)}")
