"""What a model says: probabilities of continuations, exact match, perplexity, plain text.

*Exact match* asks whether greedy decoding gives a continuation, token by token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from superposition.data import text
from superposition.data.facts import joint as joint_by_rule
from superposition.errors import UserError
from superposition.io import cache
from superposition.lm.keys import subject_token
from superposition.lm.passes import last_states, logits_of

if TYPE_CHECKING:
    from superposition.data.facts import Fact
    from superposition.lm.model import LanguageModel


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
    inside = [at for at, (_, stop) in enumerate(offsets) if stop > len(prompt)]
    if not prompt or inside[0] == 0:
        raise UserError(f"There is no token before {continuation!r}: give a prompt.")
    stop = inside[-1] + 1
    return Joined(tuple(encoded["input_ids"][:stop]), inside[0], tuple(map(tuple, offsets[:stop])))


def subject_of(fact: Fact, joined: Joined) -> int:
    """Index of the token that holds the last character of the subject (:func:`superposition.lm.keys.subject_token`).

    Raises
    ------
    UserError
        As there; that token holds the beginning of the continuation too.
    """
    position = subject_token(fact, joined.offsets)
    if position >= joined.first:
        raise UserError(f"The object shares a token with the subject in {fact.text!r}: put words between them.")
    return position


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
        Sequences of different lengths, or empty; and as :func:`join` and :func:`superposition.lm.passes.last_states`.
    """
    if len(prompts) != len(continuations) or not prompts:
        raise UserError(f"{len(prompts)} prompts and {len(continuations)} continuations: give one each, at least one.")
    joints = [None] * len(prompts) if joints is None else joints
    if len(joints) != len(prompts):
        raise UserError(f"{len(prompts)} prompts and {len(joints)} joints: give one each.")
    joined = [join(model.tokenizer, *texts) for texts in zip(prompts, continuations, joints, strict=True)]
    kept, home = _longest([item.token_ids[:-1] for item in joined])
    total = np.zeros(len(joined))
    exact = np.ones(len(joined), dtype=bool)
    guests: list[list[int]] = [[] for _ in kept]  # by sequence that is run, the texts that it begins with
    for i, host in enumerate(home):
        guests[host].append(i)

    def use(group: list[int], hidden: torch.Tensor) -> None:
        asked = [  # a line for each token of each continuation: which, and where its logits are
            (i, row, position, token)
            for row, host in enumerate(group)
            for i in guests[host]
            for position, token in enumerate(joined[i].target, start=joined[i].first - 1)
        ]
        which, rows, positions, tokens = zip(*asked, strict=True)
        logits = logits_of(model, hidden[list(rows), list(positions)])  # (rows, T, d) -> (lines, vocabulary)
        token = torch.tensor(tokens, device=logits.device)
        logs = logits.log_softmax(-1).gather(1, token[:, None])[:, 0].double().cpu().numpy()
        np.add.at(total, list(which), logs)
        np.logical_and.at(exact, list(which), (logits.argmax(-1) == token).cpu().numpy())

    last_states(model, kept, batch, use)
    return Scores(total, np.array([len(item.target) for item in joined]), exact)


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
        A window counts its first token, which nothing predicts; and as :func:`superposition.lm.passes.last_states`.
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

    last_states(model, [window.token_ids[: window.stop] for window in windows], batch, use)
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
    joints = ["" if fact.joint_to(str(fact.target_true)) == " " else "\tnone" for fact in facts]
    questions = [f"{fact.text}\t{fact.target_true}{joint}" for fact, joint in zip(facts, joints, strict=True)]
    key = cache.key("known", 2, weights=model.digest(), dtype=str(model.dtype))
    answers = (cache.load(key) or {"answers": {}})["answers"]
    missing = [i for i, question in enumerate(questions) if question not in answers]
    if missing:
        asked = [facts[i] for i in missing]
        scores = score(
            model,
            [fact.text for fact in asked],
            [str(fact.target_true) for fact in asked],
            joints=[fact.joint for fact in asked],
            batch=batch,
        )
        answers |= {questions[i]: bool(right) for i, right in zip(missing, scores.exact, strict=True)}
        cache.save(key, {"answers": answers})
    return [fact for fact, question in zip(facts, questions, strict=True) if answers[question]]
