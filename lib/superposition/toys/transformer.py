"""A small transformer trained on a world of invented facts, and edited a few hundred times.

The world (people, towns, relations, four phrasings each) is drawn from a seed, so that the truth is known exactly. The
model is transformers' own Llama at a small size: its keys, C and P come from the code that reads any other model.
Chapter ``book/09-toy-transformer.ipynb``. ::

    python experiments/grid.py train --out book/data/toy-transformer
    python experiments/grid.py grid --out book/records/toy-transformer.json
"""

from __future__ import annotations

import csv
import itertools
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch
from jaxtyping import Float, Int

from superposition.data.facts import SLOT, Fact, Relation
from superposition.errors import UserError
from superposition.io import files, paths
from superposition.linear import overlap
from superposition.linear.memory import LinearMemory
from superposition.linear.metric import Metric
from superposition.lm import keys, models, moments, passes
from superposition.stats import shape

#: Facts in each list whose overlaps are compared.
COMPARED = 64
#: Edits of a life, and after how many of them the model is looked at.
LIFE = 192
LOOKS = (1, 2, 4, 8, 16, 32, 64, 96, 128, LIFE)
#: After how many edits each forecast is held against what happened.
FORECAST_AT = (16, 64, LIFE)
#: The shapes of P compared: last tokens all different, shared in pairs, and one key twice.
LISTS = ("distinct", "shared", "twin")
FORECASTS = ("overlap", "norm", "first_order_subject", "first_order", "drift_subject")

_TOWNS, _GIVEN = 32, 32
_PROFESSIONS = (
    "baker brewer carpenter clerk cook doctor farmer fisher gardener judge miner nurse painter sailor smith tailor"
).split()
_INSTRUMENTS = (
    "accordion bassoon cello cornet drum fiddle flute gong guitar harp horn lute oboe piano trumpet viola"
).split()
_PRODUCTS = "amber cheese cloth copper glass honey linen salt silk timber wine wool".split()

RELATIONS: tuple[Relation, ...] = tuple(
    Relation(name, name, subject, kind, templates[0], templates[1:])
    for name, subject, kind, templates in (
        (
            "birthplace", "person", "town",
            ("{} was born in", "{} comes from", "the birthplace of {} is", "the home town of {} is"),
        ),
        (
            "profession", "person", "profession",
            ("the profession of {} is", "{} works as a", "{} earns a living as a", "the job of {} is that of a"),
        ),
        (
            "instrument", "person", "instrument",
            ("{} plays the", "{} practises the", "the instrument of {} is the", "the music of {} is for the"),
        ),
        (
            "country", "town", "country",
            ("{} lies in", "{} is a town in", "the country around {} is", "the flag over {} is that of"),
        ),
        (
            "export", "town", "product",
            ("{} exports", "{} is famous for its", "the pride of {} is its", "the main product of {} is"),
        ),
    )
)  # fmt: skip


# --- the world ----------------------------------------------------------------------------------------------


def _names(count: int, endings: Sequence[str], taken: set[str], rng: np.random.Generator) -> list[str]:
    """Names that can be spoken, none of them taken already."""
    onsets = "b d f g k l m n p r s t v z br dr gr kr st tr".split()
    found: list[str] = []
    while len(found) < count:
        syllables = [str(rng.choice(onsets)) + str(rng.choice(list("aeiou"))) for _ in range(2)]
        name = ("".join(syllables) + str(rng.choice(endings))).capitalize()
        if name not in taken:
            taken.add(name)
            found.append(name)
    return found


def _dictionary(families: int) -> dict[str, list[str]]:
    """All names by kind: the same whatever the seed, and a longer list of families begins with the shorter one."""
    rng, taken = np.random.default_rng(9), set()
    return {
        "given": _names(_GIVEN, ("a", "o", "i"), taken, rng),
        "town": _names(_TOWNS, ("burg", "ford", "stad", "vik"), taken, rng),
        "country": _names(8, ("land", "nia"), taken, rng),
        "profession": _PROFESSIONS,
        "instrument": _INSTRUMENTS,
        "product": _PRODUCTS,
        "family": _names(families, ("n", "r", "s", "l", "th"), taken, rng),
    }


@dataclass(frozen=True)
class World:
    """Who there is and what is true of them.

    Attributes
    ----------
    families, seed : int
    facts : tuple of Fact
        Those of people first (three each; all first members of the families, then all second ones), then those of
        towns (two each). ``paraphrases`` are complete prompts; the object continues any of them after a space.
    held_out : tuple of int
        For each fact the paraphrase that no training sentence uses.
    """

    families: int
    seed: int
    facts: tuple[Fact, ...]
    held_out: tuple[int, ...]

    @property
    def people(self) -> int:
        return 2 * self.families

    def of_person(self, person: int) -> tuple[Fact, ...]:
        """The facts of a person, counted from 0: birthplace, profession, instrument."""
        return self.facts[3 * person : 3 * person + 3]

    def sentences(self) -> list[str]:
        """The training text: every fact in every phrasing but the one held out."""
        return [
            f"{prompt} {fact.target_true}"
            for fact, held_out in zip(self.facts, self.held_out, strict=True)
            for prompt in (fact.text, *(p for n, p in enumerate(fact.paraphrases) if n != held_out))
        ]

    def unseen(self) -> list[str]:
        """For each fact the prompt that was held out."""
        return [fact.paraphrases[held_out] for fact, held_out in zip(self.facts, self.held_out, strict=True)]

    def compared(self) -> dict[str, list[Fact]]:
        """Three lists of :data:`COMPARED` facts for P: ``distinct``, ``shared`` and ``twin``.

        ``distinct``: one person of each family, so that no two subjects share their last token. ``shared``: both
        persons of half as many families. ``twin``: ``distinct`` with its last fact replaced by a second fact of the
        first person, both with the subject in front, so that two keys are equal.
        """
        relation = itertools.cycle(range(3))
        distinct = [self.of_person(person)[next(relation)] for person in range(COMPARED)]
        pairs = [person + member * self.families for person in range(COMPARED // 2) for member in (0, 1)]
        relation = itertools.cycle(range(3))
        shared = [self.of_person(person)[next(relation)] for person in pairs]
        return {"distinct": distinct, "shared": shared, "twin": [*distinct[:-1], self.of_person(0)[2]]}


def make_world(families: int = 128, seed: int = 0) -> World:
    """Draw a world: two people in each family, three facts a person, two a town.

    Raises
    ------
    UserError
        Fewer families than facts are compared.
    """
    if families < COMPARED:
        raise UserError(f"A world needs at least {COMPARED} families, and {families} were asked for.")
    names, rng = _dictionary(families), np.random.default_rng([seed, families])
    members = [[str(g) for g in rng.choice(names["given"], 2, replace=False)] for _ in range(families)]
    subjects = {
        "person": [f"{members[f][m]} {names['family'][f]}" for m in (0, 1) for f in range(families)],
        "town": names["town"],
    }
    found = []
    for kind in ("person", "town"):
        for subject in subjects[kind]:
            for relation in (r for r in RELATIONS if r.subject_type == kind):
                true, new = (str(x) for x in rng.choice(names[str(relation.object_type)], 2, replace=False))
                found.append(_fact(subject, relation, true, new))
    return World(families, seed, tuple(found), tuple(int(n) for n in rng.integers(0, 3, len(found))))


def _fact(subject: str, relation: Relation, true: str, new: str) -> Fact:
    return Fact(
        subject=subject,
        prompt=relation.prompt,
        target_true=true,
        target_new=new,
        relation=relation.id,
        paraphrases=tuple(template.replace(SLOT, subject) for template in relation.paraphrases),
        subject_type=relation.subject_type,
        object_type=relation.object_type,
    )


def tokenizer(families: int = 128):
    """A tokenizer with one token a word, and ``<s>`` before every text: a fast one, so that it has offsets."""
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    names = _dictionary(families)
    plain = {word for r in RELATIONS for t in (r.prompt, *r.paraphrases) for word in t.split()} - {SLOT}
    words = ["<s>", "<unk>", *sorted(plain), *itertools.chain.from_iterable(names.values())]
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", unk_token="<unk>")


# --- the model ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One cell of the grid: width d (d_m = 4 d), families in the world, training steps, seed of world and weights."""

    width: int = 32
    families: int = 128
    steps: int = 200
    seed: int = 0


def build(setting: Setting) -> models.LanguageModel:
    """An untrained Llama of two layers, four heads and ``d_m = 4 d``."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(setting.seed)
    words = tokenizer(setting.families)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=setting.width,
        intermediate_size=4 * setting.width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=16,
        tie_word_embeddings=True,
        initializer_range=0.57 / setting.width**0.5,
        bos_token_id=0,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    return models.LanguageModel(model, words, models.find_layers(model), "toy-transformer")


@dataclass(frozen=True)
class Prompts:
    """Texts as token ids, padded on the right (which a causal model never looks at), and where each ends."""

    ids: Int[torch.Tensor, "m length"]
    last: Int[torch.Tensor, " m"]

    def __getitem__(self, chosen) -> Prompts:
        return Prompts(self.ids[chosen], self.last[chosen])

    def __len__(self) -> int:
        return len(self.last)


def encode(lm: models.LanguageModel, texts: Sequence[str]) -> Prompts:
    """Token ids of texts, and the position of each text's last token."""
    rows = [lm.tokenizer(text)["input_ids"] for text in texts]
    return Prompts(passes.padded(rows)[0], torch.tensor([len(row) - 1 for row in rows]))


def token_of(lm: models.LanguageModel, objects: Sequence[str]) -> Int[torch.Tensor, " m"]:
    """Token ids of objects, one word each."""
    return torch.tensor(lm.tokenizer.convert_tokens_to_ids(list(objects)))


def logits(lm: models.LanguageModel, prompts: Prompts) -> Float[torch.Tensor, "m words"]:
    """The model's logits for the word that continues each prompt."""
    states = lm.model.base_model(input_ids=prompts.ids, use_cache=False).last_hidden_state
    return lm.model.get_output_embeddings()(states[torch.arange(len(prompts)), prompts.last])


def log_probability(
    lm: models.LanguageModel, prompts: Prompts, objects: Int[torch.Tensor, " m"]
) -> Float[torch.Tensor, " m"]:
    """``log p(object | prompt)`` of each prompt's own object."""
    return _of(logits(lm, prompts), objects)


def _of(found: torch.Tensor, objects: torch.Tensor) -> torch.Tensor:
    return found.log_softmax(-1).gather(1, objects[:, None])[:, 0]


def accuracy(lm: models.LanguageModel, texts: Sequence[str], objects: Sequence[str]) -> float:
    """The share of texts that the model continues with the right word as its first choice."""
    with torch.no_grad():
        return float((logits(lm, encode(lm, texts)).argmax(1) == token_of(lm, objects)).double().mean())


@contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread, then as many as before: these matrices are too small for two threads to share."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@_one_thread()
def train(world: World, setting: Setting, *, batch: int = 256) -> models.LanguageModel:
    """Train a model on a world's sentences to predict their last word.

    AdamW, a short warm-up, then a rate that falls linearly to 0; batches without replacement. ``setting.steps`` of
    0 returns the model as :func:`build` makes it.

    Raises
    ------
    UserError
        The setting is for another world.
    """
    if (world.families, world.seed) != (setting.families, setting.seed):
        raise UserError("The setting names another world: make it with the world's own families and seed.")
    lm = build(setting)
    if not setting.steps:
        return lm
    pairs = [sentence.rsplit(" ", 1) for sentence in world.sentences()]
    prompts, objects = encode(lm, [prompt for prompt, _ in pairs]), token_of(lm, [word for _, word in pairs])
    lm.model.requires_grad_(True)
    rate = 0.32 / setting.width
    optimiser = torch.optim.AdamW(lm.model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.1)
    shape = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1, (step + 1) / (0.05 * setting.steps)) * (1 - step / setting.steps)
    )
    for chosen in itertools.islice(_batches(len(prompts), batch), setting.steps):
        loss = torch.nn.functional.cross_entropy(logits(lm, prompts[chosen]), objects[chosen])
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        shape.step()
    lm.model.requires_grad_(False)
    return lm


def _batches(size: int, batch: int) -> Iterator[torch.Tensor]:
    while True:
        order = torch.randperm(size)
        yield from (order[start : start + batch] for start in range(0, size - batch + 1, batch))


def knows(lm: models.LanguageModel, world: World) -> dict[str, float]:
    """Accuracy on the sentences of the training text, and on the phrasing held out for each fact."""
    pairs = [sentence.rsplit(" ", 1) for sentence in world.sentences()]
    return {
        "trained": accuracy(lm, [prompt for prompt, _ in pairs], [word for _, word in pairs]),
        "held_out": accuracy(lm, world.unseen(), [str(fact.target_true) for fact in world.facts]),
    }


# --- its overlaps -------------------------------------------------------------------------------------------


def second_moments(lm: models.LanguageModel, world: World) -> moments.Moments:
    """``Σ k kᵀ`` over the world's own sentences, every token but the ``<s>`` in front."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "sentences.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in world.sentences()), encoding="utf-8")
        return moments.estimate(lm, path, skip_first=1, batch=512, cache=False)


def tails(P: Float[np.ndarray, "m m"], cosine: Float[np.ndarray, "m m"], d_m: int) -> dict[str, float]:
    """Statistics of one P: mean, ``sd · √d_m``, excess kurtosis of p and of the symmetric cosine, quantile kurtosis."""
    found = shape.summary(P, resamples=0)
    return {
        "mean": found["mean"],
        "spread": found["sd"] * d_m**0.5,
        "excess_kurtosis": found["excess_kurtosis"],
        "quantile_kurtosis": found["quantile_kurtosis"],
        "cosine_kurtosis": shape.summary(cosine, resamples=0)["excess_kurtosis"],
        "max": found["max"],
    }


def overlaps(lm: models.LanguageModel, world: World, summed: moments.Moments) -> list[dict[str, Any]]:
    """For each layer the condition of C, and :func:`tails` of P for each list of :meth:`World.compared`."""
    listed = world.compared()
    read = {name: keys.extract(lm, found) for name, found in listed.items()}
    rows = []
    for layer in lm.layers:
        metric = Metric(summed.second_moment(layer.index))
        row: dict[str, Any] = {"layer": layer.index, "d_m": layer.d_m, "condition": metric.condition()}
        for name in LISTS:
            found = overlap.measure(read[name][layer.index], metric)
            row[name] = tails(found.P, found.cosine_whitened, layer.d_m)
            if name == "shared":
                strangers = np.kron(np.eye(COMPARED // 2), np.ones((2, 2))) == 0
                row[name]["kurtosis_of_strangers"] = float(scipy.stats.kurtosis(found.P[strangers]))
        rows.append(row)
    return rows


# --- its edits ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Questions:
    """Facts as the model is asked about them: the main prompts, where the subject's last token is, the right words.

    ``K`` holds the keys of one layer there, (d_m, m) float64.
    """

    facts: tuple[Fact, ...]
    prompts: Prompts
    places: Int[torch.Tensor, " m"]
    true: Int[torch.Tensor, " m"]
    new: Int[torch.Tensor, " m"]
    K: Float[np.ndarray, "d_m m"]

    def __len__(self) -> int:
        return len(self.facts)


def questions(lm: models.LanguageModel, listed: Sequence[Fact], layer: int = 0) -> Questions:
    """Encode facts and read their keys at one layer."""
    read = keys.extract(lm, listed, layers=[layer], batch=512)
    return Questions(
        tuple(listed),
        encode(lm, [fact.text for fact in listed]),
        torch.tensor([found.position for found in read.tokens]),
        token_of(lm, [str(fact.target_true) for fact in listed]),
        token_of(lm, [str(fact.target_new) for fact in listed]),
        read[layer],
    )


@_one_thread()
def target_values(
    lm: models.LanguageModel,
    asked: Questions,
    layer: int = 0,
    *,
    steps: int = 60,
    rate: float = 0.2,
    pull: float = 0.05,
) -> tuple[Float[np.ndarray, "d n"], np.ndarray]:
    """``v*``: what the memory should answer at each subject for the model to say the new object, (d, n) float64.

    With it, whether the model then does say it, (n,) bool: where nothing later listens to the subject's last token for
    this relation, no answer there can change what the model says.

    Adam on a shift z of the memory's answer at the subject's last token, for all facts at once on the model as it is:
    the least ``−log p(new) + pull · |z|²`` after so many steps.
    """
    memory = lm.layers[layer]
    shift = torch.zeros(len(asked), memory.d, dtype=lm.dtype, requires_grad=True)
    optimiser = torch.optim.Adam([shift], lr=rate)
    for _ in range(steps):
        with passes.shifted(memory, shift, asked.places):
            loss = -log_probability(lm, asked.prompts, asked.new).sum() + pull * shift.square().sum()
        (shift.grad,) = torch.autograd.grad(loss, shift)
        optimiser.step()
    with torch.no_grad(), passes.shifted(memory, shift, asked.places):
        reached = (logits(lm, asked.prompts).argmax(1) == asked.new).numpy()
    return memory.weight.double().numpy() @ asked.K + shift.detach().double().numpy().T, reached


@contextmanager
def written(layer: models.Layer, W: Float[np.ndarray, "d d_m"]) -> Iterator[None]:
    """Within, the layer's memory is W; afterwards it has its old bits again."""
    with passes.restored(layer.weight):
        layer.weight.copy_(torch.from_numpy(W))
        yield


def slopes(
    lm: models.LanguageModel, asked: Questions, layer: int = 0
) -> tuple[Float[torch.Tensor, "m length d"], Float[torch.Tensor, "m length d_m"]]:
    """The gradient of each ``log p(true)`` by the memory's answer at every position, and the keys there."""
    memory, taken = lm.layers[layer], []
    shift = torch.zeros(*asked.prompts.ids.shape, memory.d, dtype=lm.dtype, requires_grad=True)
    keep = (memory.module, lambda _module, inputs: taken.append(inputs[0].detach()))
    with passes.hooked(keep, before=True), passes.shifted(memory, shift):
        total = log_probability(lm, asked.prompts, asked.true).sum()
    (gradient,) = torch.autograd.grad(total, shift)
    return gradient, taken[0]


def forecasts(
    lm: models.LanguageModel, asked: Questions, memory: LinearMemory, layer: int = 0
) -> dict[str, Float[np.ndarray, " m"]]:
    """How much each fact is forecast to lose, before the edits of ``memory`` touch the model.

    ``overlap``: ``Σ_i p(k_i, k_j)²``, from keys alone. ``norm``: ``|Δ_o[:, j]|``, from the target values too.
    ``first_order_subject``: less the gradient of log p times ``Δ_o[:, j]``. ``first_order``: the same summed over
    every position of the prompt. ``drift_subject``: the fall of log p when ``Δ_o[:, j]`` is added at the subject.
    """
    Delta_o = torch.from_numpy(memory.predicted_interference(asked.K))
    gradient, taken = slopes(lm, asked, layer)
    rows = torch.arange(len(asked))
    change = torch.from_numpy(memory.W - memory.W_0).to(taken.dtype)
    with torch.no_grad():
        before = log_probability(lm, asked.prompts, asked.true)
        with passes.shifted(lm.layers[layer], Delta_o.T, asked.places):
            drifted = log_probability(lm, asked.prompts, asked.true)
    found = {
        "overlap": (memory.transfer(asked.K) ** 2).sum(0),
        "norm": Delta_o.norm(dim=0),
        "first_order_subject": -(gradient[rows, asked.places] * Delta_o.T).sum(1),
        "first_order": -torch.einsum("mld,de,mle->m", gradient, change, taken),
        "drift_subject": before - drifted,
    }
    return {name: np.asarray(value, dtype=np.float64) for name, value in found.items()}


@dataclass(frozen=True)
class Edits:
    """What is to be written, one fact a person, and whom it leaves alone.

    Attributes
    ----------
    asked : Questions
        The facts to edit, in order.
    values : (d, n) array
        Their target values, found one by one on the unedited model.
    beside : tuple of tuple of Fact
        For each edit the other two facts of the same person.
    untouched : tuple of Fact
        The facts of people whom no edit names, and of towns.
    reached : dict of str to (int, int)
        By relation, how many targets could be reached, of how many tried.
    """

    asked: Questions
    values: Float[np.ndarray, "d n"]
    beside: tuple[tuple[Fact, ...], ...]
    untouched: tuple[Fact, ...]
    reached: dict[str, tuple[int, int]]

    def __len__(self) -> int:
        return len(self.asked)


def choose_edits(lm: models.LanguageModel, world: World, *, layer: int = 0, people: int = LIFE) -> Edits:
    """For each of so many people, the first of their facts whose target can be reached at this layer.

    Which fact is tried first goes round; a person of whom no fact can be reached is left out.

    Raises
    ------
    UserError
        The world has not so many people, or no target can be reached.
    """
    if not 0 < people <= world.people:
        raise UserError(f"{people} people were to be edited, and the world has {world.people}.")
    order = np.random.default_rng([world.seed, 1]).permutation(world.people)
    waiting, written_facts, tally = list(range(people)), {}, {r.id: [0, 0] for r in RELATIONS[:3]}
    for attempt in range(3):
        if not waiting:
            break
        tried = [world.of_person(int(order[turn]))[(turn + attempt) % 3] for turn in waiting]
        values, reached = target_values(lm, questions(lm, tried, layer), layer)
        for fact, value, turn, good in zip(tried, values.T, waiting, reached, strict=True):
            tally[str(fact.relation)][0] += int(good)
            tally[str(fact.relation)][1] += 1
            if good:
                written_facts[turn] = (fact, value)
        waiting = [turn for turn, good in zip(waiting, reached, strict=True) if not good]
    if not written_facts:
        raise UserError(f"No target can be reached at layer {layer}: nothing later reads the subject there.")
    chosen = [(turn, *written_facts[turn]) for turn in sorted(written_facts)]
    beside = [tuple(f for f in world.of_person(int(order[turn])) if f != fact) for turn, fact, _ in chosen]
    others = tuple(fact for person in order[people:] for fact in world.of_person(int(person)))
    return Edits(
        questions(lm, [fact for _, fact, _ in chosen], layer),
        np.stack([value for *_, value in chosen], axis=1),
        tuple(beside),
        others + world.facts[3 * world.people :],
        {relation: (good, tried) for relation, (good, tried) in tally.items()},
    )


def life(
    lm: models.LanguageModel, world: World, edits: Edits, C: Float[np.ndarray, "d_m d_m"], *, layer: int = 0
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Edit a model one fact after another by ROME at one layer, look at it now and then, and put it back.

    Returns
    -------
    dict
        ``looks``: after each number of edits the share of edits that hold (``held``), in their held-out phrasing
        (``held_unseen``), the accuracy on facts of other subjects (``kept``) and on other facts of the same subjects
        (``beside``), the mean fall of log p of the untouched. ``forecasts``: Spearman correlation of each forecast
        with the fall. ``exactness``: the largest difference between predicted and measured interference, relative to
        the largest interference.
    dict of arrays
        For each number of :data:`FORECAST_AT` the falls and the forecasts, (1 + forecasts, untouched).
    """
    memory_layer, edited = lm.layers[layer], edits.asked
    before_bits = models.digest(lm.model)
    beside, untouched = questions(lm, sum(edits.beside, ()), layer), questions(lm, edits.untouched, layer)
    unseen = dict(zip(world.facts, world.unseen(), strict=True))
    rephrased = encode(lm, [unseen[fact] for fact in edited.facts])
    memory = LinearMemory(memory_layer.weight.detach().double().numpy(), C)
    with torch.no_grad():
        start = log_probability(lm, untouched.prompts, untouched.true).numpy()
    looks, ranks, arrays, exactness = [], [], {}, 0.0
    for number in sorted({min(look, len(edits)) for look in LOOKS}):
        for i in range(memory.n_edits, number):
            memory.edit(edited.K[:, i], edits.values[:, i])
        predicted = memory.predicted_interference(untouched.K)
        with written(memory_layer, memory.W), torch.no_grad():
            answers = logits(lm, untouched.prompts)
            fall = start - _of(answers, untouched.true).numpy()
            so_far = slice(0, number)
            says, unseen_says = logits(lm, edited.prompts[so_far]), logits(lm, rephrased[so_far])
            looks.append(
                {
                    "edits": number,
                    "held": _share(says.argmax(1) == edited.new[so_far]),
                    "held_unseen": _share(unseen_says.argmax(1) == edited.new[so_far]),
                    "kept": _share(answers.argmax(1) == untouched.true),
                    "beside": _share(logits(lm, beside.prompts[: 2 * number]).argmax(1) == beside.true[: 2 * number]),
                    "fall": float(fall.mean()),
                }
            )
            measured = recalled(lm, untouched, layer)
        measured -= recalled(lm, untouched, layer)
        exactness = max(exactness, float(np.abs(predicted - measured).max() / np.abs(measured).max()))
        if number in {min(at, len(edits)) for at in FORECAST_AT}:
            made = forecasts(lm, untouched, memory, layer)
            arrays[f"edits_{min(at for at in FORECAST_AT if at >= number)}"] = np.stack(
                [fall, *(made[name] for name in FORECASTS)]
            )
            rank = {name: float(scipy.stats.spearmanr(made[name], fall).statistic) for name in FORECASTS}
            ranks.append({"edits": number} | rank)
    if models.digest(lm.model) != before_bits:
        raise RuntimeError("The weights are not what they were before the edits.")
    residual = np.linalg.norm(memory.residuals, axis=0)
    data = {"looks": looks, "forecasts": ranks, "exactness": exactness, "residual": float(residual.mean())}
    data |= {"edits": len(edits), "reached": edits.reached}
    return data, arrays


def _share(right: torch.Tensor) -> float:
    return float(right.double().mean())


def recalled(lm: models.LanguageModel, asked: Questions, layer: int = 0) -> Float[np.ndarray, "d m"]:
    """What the memory of a layer answers at the subjects, in the model's own forward pass."""
    seen: list[torch.Tensor] = []
    keep = (lm.layers[layer].module, lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad(), passes.hooked(keep):
        lm.model.base_model(input_ids=asked.prompts.ids, use_cache=False)
    return seen[0][torch.arange(len(asked)), asked.places].double().numpy().T


#: Edges of ``|p|`` between which :func:`partners` counts.
EDGES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, np.inf)


def partners(
    lm: models.LanguageModel,
    world: World,
    edits: Edits,
    C: Float[np.ndarray, "d_m d_m"],
    *,
    layer: int = 0,
    count: int = 32,
) -> dict[str, Any]:
    """Write the first edits one at a time into the unedited model, and ask about every fact of other subjects.

    Returns
    -------
    dict
        By bin of ``|p(k_i, k_j)|`` (:data:`EDGES`): ``pairs``, ``flips`` (a right answer before, another one after) and
        the mean size of the change of log p; ``rank``, the Spearman correlation of ``|p|`` with that size; ``flips``
        of ``same``, the other facts of the edited person, by whether both prompts begin with the subject.
    """
    edited, everyone, memory_layer = edits.asked, questions(lm, world.facts, layer), lm.layers[layer]
    memory = LinearMemory(memory_layer.weight.detach().double().numpy(), C)
    subjects = np.array([fact.subject for fact in world.facts])
    front = np.array([fact.prompt.startswith(SLOT) for fact in world.facts])
    with torch.no_grad():
        answers = logits(lm, everyone.prompts)
    start, right = _of(answers, everyone.true).numpy(), (answers.argmax(1) == everyone.true).numpy()
    overlapping, changes, flips, other, same = [], [], [], [], {"key": [], "other_key": []}
    for i, fact in enumerate(edited.facts[:count]):
        once = LinearMemory(memory.W_0, memory.metric)
        once.edit(edited.K[:, i], edits.values[:, i])
        with written(memory_layer, once.W), torch.no_grad():
            answers = logits(lm, everyone.prompts)
        after = _of(answers, everyone.true).numpy()
        flipped = (answers.argmax(1) != everyone.true).numpy()
        own = subjects == fact.subject
        for n in np.flatnonzero(own & right & np.array([f is not fact for f in world.facts])):
            begins = front[n] and fact.prompt.startswith(SLOT)
            same["key" if begins else "other_key"].append(bool(flipped[n]))
        overlapping.append(np.abs(once.transfer(everyone.K)[0]))
        changes.append(np.abs(after - start))
        flips.append(flipped)
        other.append(~own & right)
    p, change, flip, counted = (np.array(part) for part in (overlapping, changes, flips, other))
    bins = np.digitize(p, EDGES) - 1
    by_bin = [counted & (bins == b) for b in range(len(EDGES) - 1)]
    return {
        "pairs": [int(chosen.sum()) for chosen in by_bin],
        "flips": [int(flip[chosen].sum()) for chosen in by_bin],
        "change": [float(change[chosen].mean()) if chosen.any() else None for chosen in by_bin],
        "rank": float(scipy.stats.spearmanr(p[counted], change[counted]).statistic),
        "same_subject": {name: [sum(found), len(found)] for name, found in same.items()},
    }


# --- the grid -----------------------------------------------------------------------------------------------

#: What the grid turns, and its seeds.
WIDTHS, FAMILIES, STEPS, SEEDS = (16, 32, 64, 128), (64, 128, 256), (0, 50, 200, 600), (0, 1, 2, 3, 4)
#: The cell that every axis of the grid runs through; the trained model that ships is its seed 0.
BASE = Setting()


def grid_settings() -> list[Setting]:
    """The cells: one axis at a time through :data:`BASE`. The more facts, the more steps: each is seen as often."""
    found = []
    for seed in SEEDS:
        found += [Setting(width=width, seed=seed) for width in WIDTHS]
        found += [Setting(families=f, steps=BASE.steps * f // BASE.families, seed=seed) for f in FAMILIES]
        found += [Setting(steps=steps, seed=seed) for steps in STEPS]
        found += [Setting(width=width, steps=0, seed=seed) for width in WIDTHS]
    return list(dict.fromkeys(found))


def run_cell(setting: Setting) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Train one cell of the grid, measure its overlaps, edit it; the record's row and the arrays of :func:`life`."""
    began = time.perf_counter()
    world = make_world(setting.families, setting.seed)
    lm = train(world, setting)
    row: dict[str, Any] = asdict(setting) | {"train_seconds": round(time.perf_counter() - began, 2)}
    row |= {"accuracy": knows(lm, world)}
    lm.model.double()
    summed = second_moments(lm, world)
    row |= {"overlaps": overlaps(lm, world, summed)}
    arrays: dict[str, np.ndarray] = {}
    if setting == Setting(width=setting.width, seed=setting.seed):
        edits, C = choose_edits(lm, world), summed.second_moment(0)
        lived, arrays = life(lm, world, edits, C)
        row |= {"life": lived, "partners": partners(lm, world, edits, C)}
    return row | {"seconds": round(time.perf_counter() - began, 2)}, arrays


# --- the model that ships -----------------------------------------------------------------------------------


def folder() -> Path:
    """Where the trained model of the book is, with its facts and its sentences."""
    return paths.data_dir() / "toy-transformer"


def save(lm: models.LanguageModel, world: World, out: Path) -> None:
    """Write a model as ``save_pretrained`` does, its world as facts.csv and relations.csv, its text as JSONL."""
    lm.model.save_pretrained(out)
    lm.tokenizer.save_pretrained(out)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in world.sentences())
    files.write_whole(out / "sentences.jsonl", lambda path: path.write_text(lines, encoding="utf-8"))
    known = [["subject", "relation", "target_true", "target_new"]]
    known += [[fact.subject, fact.relation, fact.target_true, fact.target_new] for fact in world.facts]
    ways = ["paraphrase_1", "paraphrase_2", "paraphrase_3"]
    table = [["relation", "name", "subject_type", "object_type", "prompt", *ways]]
    table += [[r.id, r.name, r.subject_type, r.object_type, r.prompt, *r.paraphrases] for r in RELATIONS]
    for name, rows in (("facts.csv", known), ("relations.csv", table)):
        files.write_whole(out / name, lambda path, rows=rows: _write_csv(path, rows))


def _write_csv(path: Path, rows: list[list[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)
