"""What a reader calls: :func:`load` a model, save it, and ask it for its layers and its keys."""

from superposition.lm.gguf import PRESETS, Preset
from superposition.lm.load import Source, load, outline, save
from superposition.lm.model import DOWN_PROJECTIONS, LanguageModel, Layer, digest, find_layers

__all__ = [
    "DOWN_PROJECTIONS",
    "PRESETS",
    "LanguageModel",
    "Layer",
    "Preset",
    "Source",
    "digest",
    "find_layers",
    "load",
    "outline",
    "save",
]
