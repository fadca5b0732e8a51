"""What the book calls its editors and models, by the keys that records have them under."""

from __future__ import annotations

EDITORS = {
    "rome": "ROME",
    "emmet": "EMMET",
    "memit": "MEMIT",
    "memit batch 20": "MEMIT, twenty at a time",
    "memit with history": "MEMIT with history",
    "rls-soft": "soft recursion",
    "rls-hard": "hard recursion",
    "alphaedit": "AlphaEdit",
    "rome, protected": "ROME, facts protected",
    "no overlap": "no overlap among the edits",
    "ft": "fine-tuning",
}
MODELS = {"smollm2": "SmolLM2", "gemma3": "Gemma 3"}
#: Names under which some records have an editor.
ALSO = {
    "recursion, hard": "rls-hard",
    "MEMIT with history (soft)": "memit with history",
    "memit-history": "memit with history",
}


def editor(name: str) -> str:
    """The key of an editor, from its key, from what it is called, or from what a record calls it."""
    keys = {called: key for key, called in EDITORS.items()} | ALSO
    return keys.get(name, name)


def editor_name(name: str) -> str:
    """What the book calls an editor, from its key or from what a record calls it."""
    return EDITORS.get(editor(name), name)
