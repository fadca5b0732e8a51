"""What a model says of edits and of facts that nobody edited: exact match, paraphrases, neighbours.

Success *by comparison* asks whether the new object has become more probable than the true one, which flatters: both may
be improbable. *Exact match* asks whether greedy decoding gives the object, token by token. Reported beside each other.

Chapters ``15-editing-a-model`` and ``16-lifelong-failure``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
