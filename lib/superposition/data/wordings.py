"""Other readings of the same facts: without a prompt, with another's, of another subject, in other words.

Chapters ``12-nulls-and-confounds`` and ``14-who-overlaps``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from superposition.data.facts import SLOT, Fact, Relation
from superposition.errors import UserError


def bare(facts: Sequence[Fact]) -> list[Fact]:
    """Each fact with its subject alone for a prompt: a key that can carry no relation and no words before it."""
    return [replace(fact, prompt=SLOT) for fact in facts]


def swapped(facts: Sequence[Fact], rng: np.random.Generator) -> list[Fact]:
    """Each fact asked with the prompt of another fact, never with its own prompt where another is left.

    The prompts are those of the list, each as often as before: words and relation part ways.

    Raises
    ------
    UserError
        One prompt belongs to more than half of the facts, so that some would keep theirs.
    """
    prompts = [fact.prompt for fact in facts]
    if any(2 * prompts.count(prompt) > len(prompts) for prompt in set(prompts)):
        raise UserError("More than half of the facts share one prompt, so prompts cannot be swapped: give other facts.")
    given = [prompts[i] for i in rng.permutation(len(prompts))]
    while own := [i for i, prompt in enumerate(given) if prompt == prompts[i]]:
        i, j = rng.choice(own), rng.integers(len(given))
        if given[j] != prompts[i] and given[i] != prompts[j]:
            given[i], given[j] = given[j], given[i]
    return [replace(fact, prompt=prompt) for fact, prompt in zip(facts, given, strict=True)]


def random_subjects(facts: Sequence[Fact], texts: Iterable[str], rng: np.random.Generator) -> list[Fact]:
    """Each fact with as many random words in its subject as it had: the prompts stay, who they ask about goes.

    Words are drawn from the distinct words of the texts, none twice, and capitalised as names are.

    Raises
    ------
    UserError
        The texts hold fewer distinct words of three letters or more.
    """
    words = sorted({word.lower() for text in texts for word in re.findall(r"[A-Za-z]{3,}", text)})
    needed = [len(fact.subject.split()) for fact in facts]
    if len(words) < sum(needed):
        raise UserError(f"The texts hold {len(words)} different words and {sum(needed)} are needed: give more text.")
    drawn = iter(rng.permutation(words))
    return [
        replace(fact, subject=" ".join(next(drawn).title() for _ in range(count)))
        for fact, count in zip(facts, needed, strict=True)
    ]


def reworded(facts: Sequence[Fact], relations: Mapping[str, Relation], seed: int = 0) -> list[Fact]:
    """Each fact with its relation put in words drawn at random from the relation's prompt and paraphrases.

    So two facts of one relation often have different words before their subjects: relation and wording come apart.

    Raises
    ------
    UserError
        A fact's relation is not among the relations.
    """
    rng, changed = np.random.default_rng(seed), []
    for fact in facts:
        if fact.relation not in relations:
            raise UserError(f"The relation {fact.relation} of {fact.subject!r} has no templates: add it.")
        known = relations[fact.relation]
        templates = (known.prompt, *known.paraphrases)
        changed.append(replace(fact, prompt=templates[int(rng.integers(len(templates)))]))
    return changed
