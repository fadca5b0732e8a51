"""The edit that runs through Part I: SmolLM2 is made to say that the Eiffel Tower is in London.

Chapter ``01-memory`` makes it, line by line. The chapters after it take up what it needed: the layer's weights W, the
key k and the target value v of the edit, the second moment C, and the keys of five facts that nobody edited. From
chapter ``03-lifelong`` on it is the first of fifty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from superposition import records
from superposition.book.cells import model_name
from superposition.data import facts as tables
from superposition.data.facts import Fact
from superposition.editing import targets
from superposition.editing.targets import Targets, TargetSettings
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
#: How many edits are made one after the other, how many target values are searched for at once, and where those of the
#: default model are recorded.
EDITS, BATCH, RECORD = 50, 16, "fifty-edits"


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

    The target value of the default model's edit comes from the record ``fifty-edits``, as in :func:`fifty`.

    Raises
    ------
    UserError
        As :func:`superposition.lm.models.load`.
    """
    lm = models.load(model or model_name())
    layer = layer_of(lm)
    text = moments.estimate(lm, tokens=TOKENS * layer.d_m, layers=[layer.index])
    return Example(
        lm,
        layer,
        layer.weight.detach().double().cpu().numpy(),
        text.second_moment(layer.index),
        _targets(lm, layer, [EDIT]),
        keys.extract(lm, BYSTANDERS, layers=[layer.index])[layer.index],
    )


def layer_of(lm: LanguageModel) -> Layer:
    """The layer that is edited, a fifth of the way up."""
    return lm.layers[len(lm.layers) // 5]


def requests() -> list[Fact]:
    """The fifty edits: the Eiffel Tower, and the first requests of the book's table."""
    return [EDIT, *tables.load("book", limit=EDITS - 1)]


def described(edits: Sequence[Fact]) -> list[list[str | None]]:
    """What an edit's target value depends on, of each."""
    return [[fact.subject, fact.prompt, fact.target_true, fact.target_new] for fact in edits]


def fifty(example: Example) -> tuple[list[Fact], Targets]:
    """The fifty edits with their target values, all of them found in the unedited model.

    For the default model they come from the record ``fifty-edits``; in another they are searched for, which takes a
    minute or more.

    Raises
    ------
    UserError
        As :func:`superposition.editing.targets.search`.
    """
    listed = requests()
    return listed, _targets(example.lm, example.layer, listed)


def _targets(lm: LanguageModel, layer: Layer, edits: Sequence[Fact]) -> Targets:
    """From the record, where it is of this model and layer and begins with these edits; else searched for."""
    kept, count = records.load(RECORD), len(edits)
    asked = [lm.sha256, layer.index, described(edits), TargetSettings().as_dict()]
    if asked != [kept["model"]["sha256"], kept["layer"], kept["edits"][:count], kept["settings"]]:
        return targets.search(lm, edits, layer.index, batch=BATCH)
    K = keys.extract(lm, edits, layers=[layer.index])[layer.index]
    shifts = kept.arrays["shifts"][:, :count].astype(np.float64)
    recalled = layer.weight.detach().double().cpu().numpy() @ K
    columns = {name: np.array(column[:count]) for name, column in kept["columns"].items()}
    return Targets(K, recalled + shifts, shifts, recalled, **columns)


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
