"""What C is estimated from: a text, how much of it, and what is done to the estimate (``10-keys-and-moments``)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from superposition.linear.shrinkage import check_shrinkage, oas
from superposition.lm import moments

if TYPE_CHECKING:
    from superposition.lm.models import LanguageModel


@dataclass(frozen=True)
class Calibration:
    """How the second moment C of the keys is estimated.

    Attributes
    ----------
    text : str or Path
        See :func:`superposition.data.text.read`.
    tokens : int, optional
        Of the text; default: all.
    skip_first, context : int
        Positions of each text to leave out, and tokens of a window (:func:`superposition.data.text.windows`).
    shrinkage : float or "oas"
        Of C toward the identity, 0 to 1; ``"oas"`` is :func:`superposition.linear.shrinkage.oas`, layer by layer.
    centred : bool
        Whether the mean key is subtracted.
    """

    text: str | Path = "book"
    tokens: int | None = None
    skip_first: int = 0
    context: int = 512
    shrinkage: float | Literal["oas"] = 0.0
    centred: bool = False

    def reading(self, model: LanguageModel) -> dict[str, Any]:
        """How the text is read by a model, whose own context may be shorter."""
        context = min(self.context, model.context_length or self.context)
        return {"tokens": self.tokens, "skip_first": self.skip_first, "context": context}

    def plan(self, model: LanguageModel, d_m: int) -> Calibration:
        """The same with as many tokens as :func:`superposition.lm.moments.plan` says; the model needs no weights.

        Raises
        ------
        UserError
            As there; a shrinkage that makes no sense.
        """
        if self.shrinkage != "oas":
            check_shrinkage(self.shrinkage)
        how = self.reading(model)
        return replace(self, tokens=moments.plan(model.tokenizer, self.text, d_m, shrinkage=self.shrinkage, **how))

    def second_moment(self, summed: moments.Moments, layer: int) -> tuple[Float[np.ndarray, "d_m d_m"], float]:
        """C of a layer, and the shrinkage that it has."""
        shrinkage = self.shrinkage
        if shrinkage == "oas":
            shrinkage = oas(summed.second_moment(layer, centred=self.centred), summed.tokens)
        return summed.second_moment(layer, shrinkage=shrinkage, centred=self.centred), shrinkage
