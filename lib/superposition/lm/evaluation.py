"""What a model says of edits and of facts that nobody edited: exact match, paraphrases, neighbours.

Success *by comparison* asks whether the new object has become more probable than the true one, which flatters: both may
be improbable. *Exact match* asks whether greedy decoding gives the object, token by token. Reported beside each other.

Chapters ``15-editing-a-model`` and ``16-lifelong-failure``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from superposition.errors import UserError
from superposition.lm.scoring import score
from superposition.stats.intervals import mean_interval, share

if TYPE_CHECKING:
    from superposition.data.facts import Fact
    from superposition.lm.model import LanguageModel
