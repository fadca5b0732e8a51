"""Editing a language model: target values, editors, sequences of edits, forecasts of the damage."""

from superposition.editing import session
from superposition.editing.editor import Editor, EditSettings, edit_side_by_side, null_space, preserved
from superposition.editing.finetune import FineTuner, fine_tune
from superposition.editing.sequence import METHODS, Run, run
from superposition.editing.targets import Targets, TargetSettings

__all__ = [
    "METHODS",
    "EditSettings",
    "Editor",
    "FineTuner",
    "Run",
    "TargetSettings",
    "Targets",
    "edit_side_by_side",
    "fine_tune",
    "null_space",
    "preserved",
    "run",
    "session",
]
