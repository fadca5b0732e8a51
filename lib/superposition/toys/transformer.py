"""A small transformer, trained on an invented world (:mod:`superposition.toys.world`), and edited a few hundred times.

The model is transformers' own Llama at a small size: its keys, C, P, answers and forecasts come from the code that
reads any other model. Chapter ``book/09-toy-transformer.ipynb``; ``experiments/grid.py`` trains the model that ships
and runs the grid of settings.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch
from jaxtyping import Bool, Float, Int

from superposition.data import text
from superposition.data.facts import SLOT, Fact
from superposition.editing import forecast
from superposition.errors import UserError
from superposition.io import paths
from superposition.linear import overlap
from superposition.linear.memory import LinearMemory
from superposition.linear.metric import Metric
from superposition.lm import keys, models, moments, passes, scoring
from superposition.stats import shape
from superposition.toys.world import COMPARED, RELATIONS, World, tokenizer

#: People of whom one fact is edited: so many edits has a sequence at most.
PEOPLE = 192
#: After how many edits the model is asked what it knows.
CHECKPOINTS = (1, 2, 4, 8, 16, 32, 64, 96, 128, PEOPLE)
#: After how many edits each forecast is held against what happened.
FORECAST_AT = (16, 64, PEOPLE)
#: What :func:`forecasts` gives, in its order.
FORECASTS = ("overlap", "norm", "first_order_subject", "first_order", "drift_subject")
#: Edges of ``|p|`` between which :func:`partners` counts.
EDGES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, np.inf)
#: Spread of the initial weights times √d and learning rate times d, that widths learn alike: 0.1 and 0.01 at d = 32.
INITIAL_SPREAD, RATE = 0.57, 0.32
#: Texts a forward pass.
BATCH = 512


# --- the model ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """How a model is made: width d (d_m = 4 d), families in the world, training steps, seed of world and weights."""

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
        initializer_range=INITIAL_SPREAD / setting.width**0.5,
        bos_token_id=0,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    return models.LanguageModel(model, words, models.find_layers(model), "toy-transformer")


def folder() -> Path:
    """Where the trained model of the book is, with its facts and its sentences."""
    return paths.data_dir() / "toy-transformer"


def encode(
    lm: models.LanguageModel, texts: Sequence[str]
) -> tuple[Int[torch.Tensor, "m length"], Int[torch.Tensor, " m"]]:
    """Token ids of texts, padded on the right (which a causal model never looks at), and where each text ends."""
    rows = [lm.tokenizer(text)["input_ids"] for text in texts]
    return passes.padded(rows)[0], torch.tensor([len(row) - 1 for row in rows])


def token_of(lm: models.LanguageModel, objects: Sequence[str]) -> Int[torch.Tensor, " m"]:
    """Token ids of objects, one word each."""
    return torch.tensor(lm.tokenizer.convert_tokens_to_ids(list(objects)))


def logits(
    lm: models.LanguageModel, ids: Int[torch.Tensor, "m length"], last: Int[torch.Tensor, " m"]
) -> Float[torch.Tensor, "m words"]:
    """The model's logits for the word after the last of each text, as :func:`encode` gives them."""
    states = lm.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return lm.model.get_output_embeddings()(states[torch.arange(len(ids)), last])


def accuracy(lm: models.LanguageModel, texts: Sequence[str], objects: Sequence[str]) -> float:
    """The share of texts that the model continues with the right word as its first choice."""
    return float(scoring.score(lm, texts, objects, batch=BATCH).exact.mean())


def knows(lm: models.LanguageModel, world: World) -> dict[str, float]:
    """Accuracy on the sentences of the training text, and on the phrasing held out for each fact."""
    held_out = accuracy(lm, world.unseen(), [str(fact.target_true) for fact in world.facts])
    return {"trained": accuracy(lm, *zip(*world.training(), strict=True)), "held_out": held_out}


@contextmanager
def _one_thread() -> Generator[None]:
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
    prompts, words = zip(*world.training(), strict=True)
    (ids, last), objects = encode(lm, prompts), token_of(lm, words)
    lm.model.requires_grad_(True)
    optimiser = torch.optim.AdamW(lm.model.parameters(), lr=RATE / setting.width, betas=(0.9, 0.98), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1, (step + 1) / (0.05 * setting.steps)) * (1 - step / setting.steps)
    )
    for chosen in itertools.islice(_batches(len(ids), batch), setting.steps):
        loss = torch.nn.functional.cross_entropy(logits(lm, ids[chosen], last[chosen]), objects[chosen])
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
    lm.model.requires_grad_(False)
    return lm


def _batches(size: int, batch: int) -> Iterator[torch.Tensor]:
    while True:
        order = torch.randperm(size)
        yield from (order[start : start + batch] for start in range(0, size - batch + 1, batch))


# --- its overlaps -------------------------------------------------------------------------------------------


def second_moments(lm: models.LanguageModel, world: World) -> moments.Moments:
    """``Σ k kᵀ`` over the world's own sentences, every token but the ``<s>`` in front."""
    windows = text.windows(world.sentences(), lm.tokenizer, skip_first=1)
    return moments.of_windows(lm, windows, batch=BATCH, cache=False)


def tails(P: Float[np.ndarray, "m m"], cosine: Float[np.ndarray, "m m"], d_m: int) -> dict[str, float]:
    """Statistics of one P: mean, ``sd · √d_m``, excess kurtosis of p and of the symmetric cosine, quantile kurtosis."""
    summary = shape.summary(P, resamples=0)
    cosine_kurtosis = shape.summary(cosine, resamples=0)["excess_kurtosis"]
    kept = {name: summary[name] for name in ("mean", "excess_kurtosis", "quantile_kurtosis", "max")}
    return kept | {"spread": summary["sd"] * d_m**0.5, "cosine_kurtosis": cosine_kurtosis}


def overlaps(lm: models.LanguageModel, world: World, summed: moments.Moments) -> list[dict[str, Any]]:
    """For each layer the condition of C, and :func:`tails` of P for each of the world's lists to compare."""
    read = {kind: keys.extract(lm, facts) for kind, facts in world.compared().items()}
    strangers = np.kron(np.eye(COMPARED // 2), np.ones((2, 2))) == 0
    rows = []
    for layer in lm.layers:
        metric = summed.metric(layer.index)
        row: dict[str, Any] = {"layer": layer.index, "d_m": layer.d_m, "condition": metric.condition()}
        for kind, K in read.items():
            measured = overlap.measure(K[layer.index], metric)
            row[kind] = tails(measured.P, measured.cosine_whitened, layer.d_m)
            if kind == "shared":
                row[kind]["kurtosis_of_strangers"] = float(scipy.stats.kurtosis(measured.P[strangers]))
        rows.append(row)
    return rows


# --- its edits ----------------------------------------------------------------------------------------------


@_one_thread()
def target_values(
    lm: models.LanguageModel, reading: forecast.Reading, *, steps: int = 60, rate: float = 0.2, pull: float = 0.05
) -> tuple[Float[np.ndarray, "d n"], Bool[np.ndarray, " n"]]:
    """``v*``: what the memory should answer at each subject for the model to say the new object, (d, n) float64.

    With it, whether the model then does say it, (n,) bool: where nothing later listens to the subject's last token for
    this relation, no answer there can change what the model says.

    Adam on a shift z of the memory's answer at the subject's last token, for all facts at once on the model as it is:
    the least ``−log p(new) + pull · |z|²`` after so many steps.
    """
    memory = lm.layers[reading.layer]
    ids, last, subjects = map(torch.from_numpy, (reading.token_ids[:, :-1], reading.prompts - 1, reading.subjects))
    new = token_of(lm, [str(fact.target_new) for fact in reading.facts])
    shift = torch.zeros(len(reading), memory.d, dtype=lm.dtype, requires_grad=True)
    optimiser = torch.optim.Adam([shift], lr=rate)
    for _ in range(steps):
        with passes.shifted(memory, shift, subjects):
            log_p = logits(lm, ids, last).log_softmax(-1).gather(1, new[:, None])  # (n, 1)
        (shift.grad,) = torch.autograd.grad(pull * shift.square().sum() - log_p.sum(), shift)
        optimiser.step()
    with torch.no_grad(), passes.shifted(memory, shift, subjects):
        reached = (logits(lm, ids, last).argmax(1) == new).numpy()
    return memory.weight.double().numpy() @ reading.at_subject() + shift.detach().double().numpy().T, reached


@contextmanager
def written(layer: models.Layer, W: Float[np.ndarray, "d d_m"]) -> Generator[None]:
    """Within, the layer's memory is W; afterwards it has its old bits again."""
    with passes.restored(layer.weight):
        layer.weight.copy_(torch.from_numpy(W))
        yield


def recalled(lm: models.LanguageModel, reading: forecast.Reading) -> Float[np.ndarray, "d m"]:
    """What the memory of the reading's layer answers at the subjects now, in the model's own forward pass."""
    seen: list[torch.Tensor] = []
    keep = (lm.layers[reading.layer].module, lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad(), passes.hooked(keep):
        lm.model.base_model(input_ids=torch.from_numpy(reading.token_ids[:, :-1]), use_cache=False)
    return seen[0][np.arange(len(reading)), reading.subjects].double().numpy().T


def forecasts(
    lm: models.LanguageModel, reading: forecast.Reading, memory: LinearMemory
) -> dict[str, Float[np.ndarray, " m"]]:
    """How much each fact is forecast to lose, before the edits of ``memory`` touch the model.

    ``overlap``: ``Σ_i p(k_i, k_j)²``, from keys alone. ``norm``: ``|Δ_o[:, j]|``, from the target values too.
    ``first_order_subject``: less the gradient of log p times ``Δ_o[:, j]``. ``first_order``: the same summed over
    every position of the prompt. ``drift_subject``: the fall of log p when ``Δ_o[:, j]`` is added at the subject.
    """
    moved = forecast.drift(memory.edits, reading.keys)  # (m, T, d)
    at_subject = moved * reading.mask("subject")[..., None]
    return {
        "overlap": (memory.transfer(reading.at_subject()) ** 2).sum(0),
        "norm": np.sqrt((at_subject**2).sum((1, 2))),
        "first_order_subject": -(reading.gradient * at_subject).sum((1, 2)),
        "first_order": -(reading.gradient * moved).sum((1, 2)),
        "drift_subject": reading.log_probability - forecast.ask(lm, reading, at_subject).log_probability,
    }


@dataclass(frozen=True)
class Edits:
    """What is to be written, one fact a person, and whom it leaves alone.

    Attributes
    ----------
    facts : tuple of Fact
        The facts to edit, in order.
    K, values : (d_m, n) and (d, n) array
        Their keys and target values, found one by one on the unedited model.
    beside : tuple of tuple of Fact
        For each edit the other two facts of the same person.
    untouched : tuple of Fact
        The facts of people whom no edit names, and of towns.
    reached : dict of str to (int, int)
        By relation, how many targets could be reached, of how many tried.
    """

    facts: tuple[Fact, ...]
    K: Float[np.ndarray, "d_m n"]
    values: Float[np.ndarray, "d n"]
    beside: tuple[tuple[Fact, ...], ...]
    untouched: tuple[Fact, ...]
    reached: dict[str, tuple[int, int]]

    def __len__(self) -> int:
        return len(self.facts)


def choose_edits(lm: models.LanguageModel, world: World, *, layer: int = 0, people: int = PEOPLE) -> Edits:
    """For each of so many people, the first of their facts whose target can be reached at this layer.

    Which fact is tried first goes round; a person of whom no fact can be reached is left out.

    Raises
    ------
    UserError
        The world has not so many people, or no target can be reached.
    """
    if not 0 < people <= world.people:
        raise UserError(f"{people} people were to be edited, and the world has {world.people}.")
    order = np.random.default_rng([world.seed, 1]).permutation(world.people).tolist()
    waiting, chosen, tally = list(range(people)), {}, {relation.id: [0, 0] for relation in RELATIONS[:3]}
    for attempt in range(3):
        if not waiting:
            break
        tried = [world.of_person(order[turn])[(turn + attempt) % 3] for turn in waiting]
        reading = forecast.read(lm, tried, layer, passes=False)
        values, reached = target_values(lm, reading)
        for turn, fact, k, v, good in zip(waiting, tried, reading.at_subject().T, values.T, reached, strict=True):
            tally[str(fact.relation)][0] += int(good)
            tally[str(fact.relation)][1] += 1
            if good:
                chosen[turn] = fact, k, v
        waiting = [turn for turn in waiting if turn not in chosen]
    if not chosen:
        raise UserError(f"No target can be reached at layer {layer}: nothing later reads the subject there.")
    turns = sorted(chosen)
    facts, K, values = zip(*(chosen[turn] for turn in turns), strict=True)
    beside = (tuple(f for f in world.of_person(order[t]) if f != fact) for t, fact in zip(turns, facts, strict=True))
    others = tuple(fact for person in order[people:] for fact in world.of_person(person))
    reached = {relation: (good, tried) for relation, (good, tried) in tally.items()}
    untouched = others + world.facts[3 * world.people :]
    return Edits(facts, np.stack(K, axis=1), np.stack(values, axis=1), tuple(beside), untouched, reached)


def edit_sequence(
    lm: models.LanguageModel, world: World, edits: Edits, C: Float[np.ndarray, "d_m d_m"], *, layer: int = 0
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Edit a model one fact after another by ROME at one layer, ask it at the checkpoints, and put it back.

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
    bits, untouched = lm.digest(), forecast.read(lm, edits.untouched, layer)
    unseen = dict(zip(world.facts, world.unseen(), strict=True))
    memory = LinearMemory(lm.layers[layer].weight.double().numpy(), C)
    looks, ranks, arrays, exactness = [], [], {}, 0.0
    for number in sorted({min(checkpoint, len(edits)) for checkpoint in CHECKPOINTS}):
        for i in range(memory.n_edits, number):
            memory.edit(edits.K[:, i], edits.values[:, i])
        done, beside = edits.facts[:number], sum(edits.beside[:number], ())
        new = [str(fact.target_new) for fact in done]
        with written(lm.layers[layer], memory.W):
            said = forecast.ask(lm, untouched, batch=BATCH)
            look = {
                "held": accuracy(lm, [fact.text for fact in done], new),
                "held_unseen": accuracy(lm, [unseen[fact] for fact in done], new),
                "beside": accuracy(lm, [fact.text for fact in beside], [str(fact.target_true) for fact in beside]),
            }
            measured = recalled(lm, untouched)
        measured -= recalled(lm, untouched)
        off = np.abs(memory.predicted_interference(untouched.at_subject()) - measured).max()
        exactness = max(exactness, float(off / np.abs(measured).max()))
        fall = untouched.log_probability - said.log_probability
        looks.append({"edits": number, "kept": float(said.exact.mean()), "fall": float(fall.mean())} | look)
        if number in {min(at, len(edits)) for at in FORECAST_AT}:
            made = forecasts(lm, untouched, memory)
            at = min(at for at in FORECAST_AT if at >= number)
            arrays[f"edits_{at}"] = np.stack([fall, *made.values()])
            rank = {name: float(scipy.stats.spearmanr(values, fall).statistic) for name, values in made.items()}
            ranks.append({"edits": number} | rank)
    if lm.digest() != bits:
        raise RuntimeError("The weights are not what they were before the edits.")
    residual = np.linalg.norm(memory.residuals, axis=0)
    data = {"looks": looks, "forecasts": ranks, "exactness": exactness, "residual": float(residual.mean())}
    return data | {"edits": len(edits), "reached": edits.reached}, arrays


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
        the mean size of the change of log p; ``rank``, the Spearman correlation of ``|p|`` with that size;
        ``same_subject``, flips and number of the edited person's other facts: ``key`` where both prompts begin with the
        subject, so that their keys are one, and ``other_key``.
    """
    everyone, metric = forecast.read(lm, world.facts, layer), Metric(C)
    W, K = lm.layers[layer].weight.double().numpy().copy(), everyone.at_subject()
    subjects = np.array([fact.subject for fact in world.facts])
    in_front = np.array([fact.prompt.startswith(SLOT) for fact in world.facts])
    cells, same = [], {"key": [], "other_key": []}
    for i, fact in enumerate(edits.facts[:count]):
        memory = LinearMemory(W, metric)
        memory.edit(edits.K[:, i], edits.values[:, i])
        with written(lm.layers[layer], memory.W):
            said = forecast.ask(lm, everyone, batch=BATCH)
        own = subjects == fact.subject
        sibling = own & everyone.exact & np.array([other != fact for other in world.facts])
        same_key = in_front & fact.prompt.startswith(SLOT)
        same["key"] += list(~said.exact[sibling & same_key])
        same["other_key"] += list(~said.exact[sibling & ~same_key])
        change = np.abs(said.log_probability - everyone.log_probability)
        cells.append((np.abs(memory.transfer(K)[0]), change, ~said.exact, ~own & everyone.exact))
    p, change, flip, counted = map(np.array, zip(*cells, strict=True))  # each (edits, facts)
    bins = np.digitize(p, EDGES) - 1
    by_bin = [counted & (bins == b) for b in range(len(EDGES) - 1)]
    return {
        "pairs": [int(chosen.sum()) for chosen in by_bin],
        "flips": [int(flip[chosen].sum()) for chosen in by_bin],
        "change": [float(change[chosen].mean()) if chosen.any() else None for chosen in by_bin],
        "rank": float(scipy.stats.spearmanr(p[counted], change[counted]).statistic),
        "same_subject": {name: [int(sum(flips)), len(flips)] for name, flips in same.items()},
    }
