"""What a model says, before an edit and after: probabilities, exact match, paraphrases, neighbours, plain text.

Success *by comparison* asks whether the new object has become more probable than the true one, which flatters: both may
be improbable. *Exact match* asks whether greedy decoding gives the object, token by token. Reported beside each other.

Chapters ``15-editing-a-model`` and ``16-lifelong-failure``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from superposition.data import text
from superposition.data.facts import joint as joint_by_rule
from superposition.errors import UserError
from superposition.io import console, files, paths
from superposition.lm import models
from superposition.lm.passes import logits_of, padded, run_body
from superposition.stats.intervals import mean_interval, share

if TYPE_CHECKING:
    from superposition.data.facts import Fact
    from superposition.lm.models import LanguageModel

__all__ = [
    "Joined",
    "Scores",
    "evaluate",
    "generate",
    "held_out",
    "join",
    "known",
    "log_probability",
    "perplexity",
    "score",
    "trace",
    "untouched",
]


# --- texts and tokens ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Joined:
    """A prompt and its continuation as one run of tokens; the continuation's begin at index ``first``."""

    token_ids: tuple[int, ...]
    first: int
    offsets: tuple[tuple[int, int], ...]

    @property
    def target(self) -> tuple[int, ...]:
        """The continuation's tokens."""
        return self.token_ids[self.first :]


def join(tokenizer: Any, prompt: str, continuation: str, joint: str | None = None) -> Joined:
    """Tokenise ``prompt + joint + continuation`` with the tokenizer's defaults and tell the two apart by characters.

    A token that holds the end of the prompt and the start of the continuation, as there may be where nothing stands
    between them, is the continuation's first: the model has to predict all of it, from the tokens before. Were it the
    prompt's, the start of the answer would be given away.

    Parameters
    ----------
    joint : {None, " ", ""}, optional
        What stands between the two; by default what :func:`superposition.data.facts.joint` says.

    Raises
    ------
    UserError
        The continuation is blank, or nothing comes before it.
    """
    prompt = prompt.rstrip()
    if not continuation.strip():
        raise UserError(f"The continuation of {prompt!r} is empty: give the object as text.")
    between = joint_by_rule(prompt, continuation) if joint is None else joint
    encoded = tokenizer(f"{prompt}{between}{continuation.strip()}", return_offsets_mapping=True)
    offsets = encoded["offset_mapping"]
    inside = [place for place, (_, stop) in enumerate(offsets) if stop > len(prompt)]
    if not prompt or inside[0] == 0:
        raise UserError(f"There is no token before {continuation!r}: give a prompt.")
    stop = inside[-1] + 1
    return Joined(tuple(encoded["input_ids"][:stop]), inside[0], tuple(map(tuple, offsets[:stop])))


# --- forward passes -----------------------------------------------------------------------------------------


def in_batches(
    model: LanguageModel, sequences: Sequence[Sequence[int]], batch: int, use: Callable[[list[int], torch.Tensor], None]
) -> None:
    """Run sequences, the longest first, and hand ``use`` their indices and last hidden states (rows, tokens, d).

    Raises
    ------
    UserError
        A batch below 1; a sequence longer than the model's context; memory that does not suffice for one.
    """
    if batch < 1:
        raise UserError(f"A batch of {batch} makes no sense: give 1 or more.")
    longest = max(map(len, sequences))
    if model.context_length and longest > model.context_length:
        raise UserError(f"A text has {longest} tokens and {model.name} takes {model.context_length}: shorten it.")
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    done = 0

    def run(size: int) -> None:
        nonlocal done
        while done < len(order):
            group = order[done : done + size]
            ids, mask = padded([sequences[i] for i in group])
            with torch.inference_mode():
                use(group, run_body(model, ids, mask, use_cache=False).last_hidden_state)
            done += len(group)

    models.as_memory_allows(
        run, min(batch, len(order)), "Memory does not suffice for one text at a time: give a smaller --dtype."
    )


# --- probabilities ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model gives to n continuations.

    Attributes
    ----------
    log_probability : (n,) float64
        Of the whole continuation, the sum over its tokens, natural logarithm.
    tokens : (n,) int
        How many tokens it has; CounterFact's own evaluation divides by it.
    exact : (n,) bool
        Whether greedy decoding would give it, token by token.
    """

    log_probability: Float[np.ndarray, " n"]
    tokens: Int[np.ndarray, " n"]
    exact: Bool[np.ndarray, " n"]


def score(
    model: LanguageModel,
    prompts: Sequence[str],
    continuations: Sequence[str],
    *,
    joints: Sequence[str | None] | None = None,
    batch: int = 32,
) -> Scores:
    """Score continuations of prompts; a text that is the beginning of another is not run twice.

    Parameters
    ----------
    prompts, continuations : sequences of n texts
    joints : sequence of n, optional
        What stands between the two, as :func:`join` takes it; by its rule by default.
    batch : int
        Texts a forward pass; made smaller by itself while memory does not suffice.

    Raises
    ------
    UserError
        Sequences of different lengths, or empty; and as :func:`join` and ``in_batches``.
    """
    if len(prompts) != len(continuations) or not prompts:
        raise UserError(f"{len(prompts)} prompts and {len(continuations)} continuations: give one each, at least one.")
    joints = [None] * len(prompts) if joints is None else joints
    if len(joints) != len(prompts):
        raise UserError(f"{len(prompts)} prompts and {len(joints)} joints: give one each.")
    joined = [join(model.tokenizer, *three) for three in zip(prompts, continuations, joints, strict=True)]
    kept, home = _longest([one.token_ids[:-1] for one in joined])
    total = np.zeros(len(joined))
    exact = np.ones(len(joined), dtype=bool)
    guests: list[list[int]] = [[] for _ in kept]
    for i, host in enumerate(home):
        guests[host].append(i)

    def use(group: list[int], hidden: torch.Tensor) -> None:
        asked = [
            (i, row, place, token)
            for row, host in enumerate(group)
            for i in guests[host]
            for place, token in enumerate(joined[i].target, start=joined[i].first - 1)
        ]
        which, rows, places, tokens = zip(*asked, strict=True)
        logits = logits_of(model, hidden[list(rows), list(places)])
        token = torch.tensor(tokens, device=logits.device)
        found = logits.log_softmax(-1).gather(1, token[:, None])[:, 0].double().cpu().numpy()
        best = (logits.argmax(-1) == token).cpu().numpy()
        np.add.at(total, list(which), found)
        np.logical_and.at(exact, list(which), best)

    in_batches(model, kept, batch, use)
    return Scores(total, np.array([len(one.target) for one in joined]), exact)


def _longest(sequences: Sequence[tuple[int, ...]]) -> tuple[list[tuple[int, ...]], list[int]]:
    """The sequences that no other one begins with, and for each sequence the index of one that begins with it."""
    kept: list[tuple[int, ...]] = []
    home = [0] * len(sequences)
    for i in sorted(range(len(sequences)), key=lambda i: sequences[i], reverse=True):
        if not kept or kept[-1][: len(sequences[i])] != sequences[i]:
            kept.append(sequences[i])
        home[i] = len(kept) - 1
    return kept, home


def log_probability(
    model: LanguageModel, prompts: Sequence[str], continuations: Sequence[str], *, batch: int = 32
) -> Float[np.ndarray, " n"]:
    """``log P(continuation | prompt)`` (n,), natural logarithm; arguments and errors as :func:`score`."""
    return score(model, prompts, continuations, batch=batch).log_probability


def generate(model: LanguageModel, prompt: str, tokens: int = 12) -> str:
    """The text with which greedy decoding continues a prompt."""
    encoded = model.tokenizer(prompt, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        out = model.model.generate(
            encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=model.tokenizer.pad_token_id or 0,
        )
    return model.tokenizer.decode(out[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True)


def held_out(model: LanguageModel, tokens: int = 2000, *, source: str | Path = "book", context: int = 256) -> list:
    """Windows of text from the end of a source, as far as can be from where moments begin to read.

    Raises
    ------
    UserError
        The source holds fewer tokens.
    """
    last_first = list(text.read(source))[::-1]
    context = min(context, model.context_length or context)
    return text.windows(last_first, model.tokenizer, tokens=tokens, skip_first=1, context=context)


def perplexity(model: LanguageModel, windows: Sequence[text.Window], *, batch: int = 8) -> float:
    """``exp`` of the mean negative log-probability of the windows' counted tokens.

    Raises
    ------
    UserError
        A window counts its first token, which nothing predicts; and as ``in_batches``.
    """
    if any(window.first < 1 for window in windows):
        raise UserError("The first token of a text cannot be predicted: cut the windows with skip_first=1 or more.")
    sums = [0.0]

    def use(group: list[int], hidden: torch.Tensor) -> None:
        for row, i in enumerate(group):
            window = windows[i]
            logits = logits_of(model, hidden[row, window.first - 1 : window.stop - 1])
            token = torch.tensor(window.token_ids[window.first : window.stop], device=logits.device)
            sums.append(float(torch.nn.functional.cross_entropy(logits, token, reduction="sum")))

    in_batches(model, [window.token_ids[: window.stop] for window in windows], batch, use)
    return _exp(sum(sums) / sum(window.counted for window in windows))


def _exp(x: float) -> float:
    """``exp`` that stays finite: a wrecked model's perplexity is cut at 1e300."""
    return math.exp(min(x, math.log(1e300))) if math.isfinite(x) else 1e300


def known(model: LanguageModel, facts: Sequence[Fact], *, batch: int = 32) -> list[Fact]:
    """Those of the facts whose true object greedy decoding gives, in their order.

    The answers are kept in the user's cache under the digest of the weights, the prompt, the object and their joint.

    Raises
    ------
    UserError
        A fact has no true object; and as :func:`score`.
    """
    for fact in facts:
        if fact.target_true is None:
            raise UserError(f"The fact {fact.text!r} has no target_true: a model cannot be asked whether it knows it.")
    marks = ["" if fact.joint_to(str(fact.target_true)) == " " else "\tnone" for fact in facts]
    wanted = [f"{fact.text}\t{fact.target_true}{mark}" for fact, mark in zip(facts, marks, strict=True)]
    key = hashlib.sha256(f"{model.digest()} {model.dtype} 1".encode()).hexdigest()[:24]
    store = paths.cache_dir() / "known" / f"{key}.json"
    answers = files.kept_json(store)
    if not isinstance(answers, dict) or not all(isinstance(right, bool) for right in answers.values()):
        answers = {}
    missing = [i for i, what in enumerate(wanted) if what not in answers]
    if missing:
        asked = [facts[i] for i in missing]
        joints = [f.joint for f in asked]
        found = score(
            model, [f.text for f in asked], [str(f.target_true) for f in asked], joints=joints, batch=batch
        ).exact
        answers |= {wanted[i]: bool(right) for i, right in zip(missing, found, strict=True)}
        try:
            files.write_json(store, answers)
        except UserError as error:
            console.warn(f"What the model knows was not kept in the cache. {error}")
    return [fact for fact, what in zip(facts, wanted, strict=True) if answers[what]]


# --- causal tracing -----------------------------------------------------------------------------------------


def trace(
    model: LanguageModel,
    fact: Fact,
    *,
    kind: str = "state",
    layers: Sequence[int] | None = None,
    window: int = 1,
    noise: float = 3.0,
    samples: int = 4,
    seed: int = 0,
    batch: int = 64,
) -> dict[str, Any]:
    """Causal tracing: spoil the subject, put back what the model had at one place, and see whether the fact returns.

    Normal noise of ``noise`` standard deviations of the subject's embeddings is added to them. Then, layer by layer,
    the clean run's output is put back at one token: the last of the subject, the one after it, or the last of the
    prompt.

    Parameters
    ----------
    fact : Fact
        With ``target_true``; its first token is watched.
    kind : {"state", "mlp"}
        What is put back: the decoder layer's output, or the down-projection's.
    layers : sequence of int, optional
        Default: all.
    window : int
        How many layers around each are put back together (for ``"mlp"``; Meng et al. take 10).
    samples : int
        Draws of the noise, the same for every place; results are means over them.

    Returns
    -------
    dict
        ``clean`` and ``corrupted``, probabilities of the object's first token; ``restored``, a list for each token of
        ``places`` ("subject", "after", "last") with a probability for each of ``layers``. Where the subject ends the
        prompt, the three are one token.

    Raises
    ------
    UserError
        No true object, an unknown kind, or a layer the model does not have.

    Notes
    -----
    Meng et al. (2022), section 2; chapter ``15-editing-a-model``.
    """
    if fact.target_true is None:
        raise UserError(f"The fact {fact.text!r} has no target_true: tracing watches the true object.")
    if kind not in ("state", "mlp"):
        raise UserError(f"There is nothing called {kind!r} to put back: choose state or mlp.")
    chosen = [layer.index for layer in model.select(layers)]
    joined = join(model.tokenizer, fact.text, fact.target_true, fact.joint)
    ids = torch.tensor([joined.token_ids[: joined.first]])
    start, stop = fact.subject_span
    inside = [at for at, (a, b) in enumerate(joined.offsets[: joined.first]) if a < stop and b > start]
    if not inside:
        raise UserError(f"The object {fact.target_true!r} shares a token with the subject in {fact.text!r}.")
    last = joined.first - 1
    places = [inside[-1], min(inside[-1] + 1, last), last]
    modules = [model.block(layer) if kind == "state" else layer.module for layer in model.layers]
    embedding = model.model.get_input_embeddings()
    kept: list[torch.Tensor] = []

    def run(rows: int, hooks: list[tuple[torch.nn.Module, Callable[..., Any]]]) -> Float[np.ndarray, " rows"]:
        handles = [module.register_forward_hook(hook) for module, hook in hooks]
        try:
            with torch.inference_mode():
                hidden = run_body(model, ids.expand(rows, -1), torch.ones(rows, ids.shape[1]).long(), use_cache=False)
                logits = logits_of(model, hidden.last_hidden_state[:, -1])
        finally:
            for handle in handles:
                handle.remove()
        return logits.softmax(-1)[:, joined.target[0]].double().cpu().numpy()

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        state = _tensor(output).detach()
        if state.numel() != ids.shape[1] * model.layers[0].d:
            raise UserError(
                f"The layers of {type(model.model).__name__} hand on more than one state a token, which tracing cannot "
                "put back: trace with kind mlp."
            )
        kept.append(state.reshape(1, ids.shape[1], -1).clone())

    scale: list[float] = []
    measure = (embedding, lambda _m, _i, output: scale.append(float(output[0, inside].std())))
    clean = float(run(1, [measure, *((module, keep) for module in modules)])[0])
    drawn = torch.from_numpy(
        np.random.default_rng(seed).normal(size=(samples, len(inside), kept[0].shape[-1])) * noise * scale[0]
    )

    def spoilt(turns: list[int]) -> Callable[..., Any]:
        def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            output[:, inside] += drawn[turns].to(output)
            return output

        return hook

    def put_back(number: int, cells: list[tuple[int, int, int]]) -> Callable[..., Any]:
        rows = [row for row, (_, layer, _) in enumerate(cells) if abs(2 * (number - layer)) < window + 1]
        at = [cells[row][0] for row in rows]

        def hook(_module: Any, _inputs: Any, output: Any) -> Any:
            own = _tensor(output)
            flat = own.reshape(len(cells), ids.shape[1], -1).clone()
            flat[rows, at] = kept[number][0, at].to(flat)
            flat = flat.reshape(own.shape)
            return (flat, *output[1:]) if isinstance(output, tuple) else flat

        return hook

    corrupted = float(run(samples, [(embedding, spoilt(list(range(samples))))]).mean())
    cells = [(place, layer, turn) for place in dict.fromkeys(places) for layer in chosen for turn in range(samples)]
    found: dict[tuple[int, int], list[float]] = {}
    for at in range(0, len(cells), batch):
        group = cells[at : at + batch]
        hooks = [(embedding, spoilt([turn for *_, turn in group]))]
        hooks += [(module, put_back(number, group)) for number, module in enumerate(modules)]
        for (place, layer, _), probability in zip(group, run(len(group), hooks), strict=True):
            found.setdefault((place, layer), []).append(float(probability))
    restored = [[float(np.mean(found[place, layer])) for layer in chosen] for place in places]
    return {
        "places": ["subject", "after", "last"],
        "layers": chosen,
        "clean": clean,
        "corrupted": corrupted,
        "restored": restored,
    }


def _tensor(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


# --- edits and bystanders -----------------------------------------------------------------------------------


def evaluate(
    model: LanguageModel,
    edits: Sequence[Fact],
    *,
    paraphrases: int | None = None,
    neighbours: int | None = None,
    batch: int = 32,
) -> dict[str, Any]:
    """How edited facts fare in the model as it is now, in one run of all their prompts.

    Parameters
    ----------
    edits : sequence of Fact
        With ``target_new``. Those without ``target_true`` are left out where the two are compared.
    paraphrases, neighbours : int, optional
        How many prompts of each kind to ask for an edit; all by default.

    Returns
    -------
    dict
        ``success`` (new above true), ``exact`` (greedy decoding gives the new object), the same two for
        ``paraphrase_…``; ``neighbourhood_success`` (true above new), ``neighbourhood_exact`` (greedy decoding gives the
        true object): each a :func:`superposition.stats.intervals.share`. And lists by edit: ``log_new``, ``log_true``
        (None without a true object), ``hit`` (exact).

    Raises
    ------
    UserError
        An edit lacks an object; and as :func:`score`.
    """
    for fact in edits:
        if fact.target_new is None:
            raise UserError(f"The edit {fact.text!r} has no target_new: say what the model shall answer.")
    prompts = [
        (kind, i, prompt)
        for i, fact in enumerate(edits)
        for kind, prompt in chain(
            [("", fact.text)],
            (("paraphrase_", one) for one in fact.paraphrases[:paraphrases]),
            (("neighbourhood_", one) for one in fact.neighbourhood[:neighbours]),
        )
    ]
    texts = [prompt for _, _, prompt in prompts]
    of = np.array([i for _, i, _ in prompts])
    compared = np.array([fact.target_true is not None for fact in edits])[of]
    new = [str(edits[i].target_new) for i in of]
    true = [edits[i].target_true or edits[i].target_new for i in of]
    joints = [edits[i].joint for i in of] * 2
    found = score(model, texts * 2, [*new, *map(str, true)], joints=joints, batch=batch)
    log_new, log_true = found.log_probability[: len(texts)], found.log_probability[len(texts) :]
    exact_new, exact_true = found.exact[: len(texts)], found.exact[len(texts) :]
    result: dict[str, Any] = {}
    for kind in ("", "paraphrase_", "neighbourhood_"):
        rows = np.array([one == kind for one, _, _ in prompts])
        beyond, exact = log_new > log_true, exact_new
        if kind == "neighbourhood_":
            rows, beyond, exact = rows & compared, log_true > log_new, exact_true
        result[f"{kind}success"] = share(beyond[rows & compared])
        result[f"{kind}exact"] = share(exact[rows])
    own = [row for row, (kind, _, _) in enumerate(prompts) if kind == ""]
    return result | {
        "log_new": log_new[own].tolist(),
        "log_true": [float(log_true[row]) if compared[row] else None for row in own],
        "hit": exact_new[own].tolist(),
    }


def untouched(
    model: LanguageModel, facts: Sequence[Fact], before: Float[np.ndarray, " n"] | None = None, *, batch: int = 32
) -> dict[str, Any]:
    """How facts that nobody edited fare.

    Returns
    -------
    dict
        ``exact`` (:func:`superposition.stats.intervals.share`), ``log_true`` and ``hit`` by fact, and ``change`` from
        before (:func:`superposition.stats.intervals.mean_interval`).

    Raises
    ------
    UserError
        A fact without a true object; and as :func:`score`.
    """
    if any(fact.target_true is None for fact in facts):
        raise UserError("A fact has no target_true: give the true object of every fact that is to be watched.")
    joints = [f.joint for f in facts]
    found = score(model, [f.text for f in facts], [str(f.target_true) for f in facts], joints=joints, batch=batch)
    result = {"exact": share(found.exact), "log_true": found.log_probability.tolist(), "hit": found.exact.tolist()}
    if before is not None:
        result["change"] = mean_interval(found.log_probability - np.asarray(before))
    return result
