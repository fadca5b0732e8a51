"""The edit that runs through Part I: SmolLM2 is made to say that the Eiffel Tower is in London.

Chapter ``01-memory`` makes it, line by line. The chapters after it take up what it needed: the layer's weights W, the
key k and the target value v of the edit, the second moment C, and the keys of five facts that nobody edited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from superposition.book.cells import model_name
from superposition.data.facts import Fact
from superposition.editing import targets
from superposition.editing.targets import Targets
from superposition.lm import keys, models, moments, scoring
from superposition.lm.models import LanguageModel, Layer

PROMPT = "{} is in the city of"
#: The fact that is edited.
EDIT = Fact("The Eiffel Tower", PROMPT, "Paris", "London")
#: Facts that nobody edits and the default model knows. They were chosen so that their overlaps with the edit go from
#: large to none.
BYSTANDERS = (
    Fact("The Tokyo Tower", PROMPT, "Tokyo"),
    Fact("The Brandenburg Gate", PROMPT, "Berlin"),
    Fact("The Statue of Liberty", PROMPT, "New York"),
    Fact("The Louvre", PROMPT, "Paris"),
    Fact("The Colosseum", PROMPT, "Rome"),
)
#: Tokens of text for C, for each of its dimensions.
TOKENS = 16


@dataclass(frozen=True, eq=False)
class Example:
    """What the edit needs, read from the unedited model.

    Attributes
    ----------
    lm : LanguageModel
    layer : Layer
        A fifth of the way up.
    W : (d, d_m) float64
        Its down-projection.
    C : (d_m, d_m) float64
        Mean second moment of the keys of the book's text at this layer.
    target : Targets
        Of the edit: its key, and the answer to it with which the model says the new object.
    others : (d_m, 5) float64
        Keys of the bystanders.
    """

    lm: LanguageModel
    layer: Layer
    W: Float[np.ndarray, "d d_m"]
    C: Float[np.ndarray, "d_m d_m"]
    target: Targets
    others: Float[np.ndarray, "d_m m"]

    @property
    def k(self) -> Float[np.ndarray, " d_m"]:
        """The edit's key."""
        return self.target.keys[:, 0]

    @property
    def v(self) -> Float[np.ndarray, " d"]:
        """The edit's target value."""
        return self.target.values[:, 0]


def load(model: str | None = None) -> Example:
    """Read the example from a model: the default of the chapters, or another by its name.

    Raises
    ------
    UserError
        As :func:`superposition.lm.models.load`.
    """
    lm = models.load(model or model_name())
    layer = lm.layers[len(lm.layers) // 5]
    text = moments.estimate(lm, tokens=TOKENS * layer.d_m, layers=[layer.index])
    target = targets.search(lm, [EDIT], layer.index)
    return Example(
        lm,
        layer,
        layer.weight.detach().double().cpu().numpy(),
        text.second_moment(layer.index),
        target,
        keys.extract(lm, BYSTANDERS, layers=[layer.index])[layer.index],
    )


def ask(lm: LanguageModel, facts: Sequence[Fact]) -> list[tuple[str, float]]:
    """How the model goes on after each prompt (four tokens, greedily), and its probability of the true object."""
    return [(went_on(lm, fact.text), chance) for fact, chance in zip(facts, chances(lm, facts), strict=True)]


def chances(lm: LanguageModel, facts: Sequence[Fact]) -> list[float]:
    """The model's probability of each fact's true object after its prompt."""
    texts, objects = [fact.text for fact in facts], [str(fact.target_true) for fact in facts]
    return [float(chance) for chance in np.exp(scoring.log_probability(lm, texts, objects))]


def went_on(lm: LanguageModel, prompt: str, tokens: int = 4) -> str:
    """The first line with which greedy decoding continues a prompt."""
    return scoring.generate(lm, prompt, tokens).strip().split("\n")[0]
