"""An invented world for a small transformer to learn: people and towns, and facts about them in four phrasings each.

It is drawn from a seed, so that the truth is known exactly, and its words are tokens. Chapter
``book/09-toy-transformer.ipynb``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from superposition.data.facts import SLOT, Fact, Relation
from superposition.errors import UserError

#: Facts in each list whose overlaps are compared.
COMPARED = 64

_TOWNS, _GIVEN = 32, 32
_PROFESSIONS = (
    "baker brewer carpenter clerk cook doctor farmer fisher gardener judge miner nurse painter sailor smith tailor"
).split()
_INSTRUMENTS = (
    "accordion bassoon cello cornet drum fiddle flute gong guitar harp horn lute oboe piano trumpet viola"
).split()
_PRODUCTS = "amber cheese cloth copper glass honey linen salt silk timber wine wool".split()

#: The relations: three of people, two of towns.
RELATIONS: tuple[Relation, ...] = tuple(
    Relation(name, name, subject, kind, prompt, tuple(others))
    for name, subject, kind, prompt, *others in (
        ("birthplace", "person", "town", "{} was born in",
         "{} comes from", "the birthplace of {} is", "the home town of {} is"),
        ("profession", "person", "profession", "the profession of {} is",
         "{} works as a", "{} earns a living as a", "the job of {} is that of a"),
        ("instrument", "person", "instrument", "{} plays the",
         "{} practises the", "the instrument of {} is the", "the music of {} is for the"),
        ("country", "town", "country", "{} lies in",
         "{} is a town in", "the country around {} is", "the flag over {} is that of"),
        ("export", "town", "product", "{} exports",
         "{} is famous for its", "the pride of {} is its", "the main product of {} is"),
    )
)  # fmt: skip


def _names(count: int, endings: Sequence[str], taken: set[str], rng: np.random.Generator) -> list[str]:
    """Names that can be spoken, none of them taken already."""
    onsets = "b d f g k l m n p r s t v z br dr gr kr st tr".split()
    names: list[str] = []
    while len(names) < count:
        syllables = [str(rng.choice(onsets)) + str(rng.choice(list("aeiou"))) for _ in range(2)]
        name = ("".join(syllables) + str(rng.choice(endings))).capitalize()
        if name not in taken:
            taken.add(name)
            names.append(name)
    return names


def _dictionary(families: int) -> dict[str, Sequence[str]]:
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

    def training(self) -> list[tuple[str, str]]:
        """What a model learns, prompts and objects: every fact in every phrasing but the one held out."""
        return [
            (prompt, str(fact.target_true))
            for fact, held_out in zip(self.facts, self.held_out, strict=True)
            for prompt in (fact.text, *(p for n, p in enumerate(fact.paraphrases) if n != held_out))
        ]

    def sentences(self) -> list[str]:
        """The training text: each prompt with its object."""
        return [f"{prompt} {word}" for prompt, word in self.training()]

    def unseen(self) -> list[str]:
        """For each fact the prompt that was held out."""
        return [fact.paraphrases[held_out] for fact, held_out in zip(self.facts, self.held_out, strict=True)]

    def compared(self) -> dict[str, list[Fact]]:
        """Three lists of :data:`COMPARED` facts for P: ``distinct``, ``shared`` and ``twin``.

        ``distinct``: one person of each family, so that no two subjects share their last token. ``shared``: both
        persons of half as many families. ``twin``: ``distinct`` with its last fact replaced by a second fact of the
        first person, both with the subject in front, so that two keys are equal.
        """
        distinct = [self.of_person(person)[person % 3] for person in range(COMPARED)]
        pairs = [family + member * self.families for family in range(COMPARED // 2) for member in (0, 1)]
        shared = [self.of_person(person)[n % 3] for n, person in enumerate(pairs)]
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
    given = [[str(name) for name in rng.choice(names["given"], 2, replace=False)] for _ in range(families)]
    people = [f"{pair[m]} {family}" for m in (0, 1) for pair, family in zip(given, names["family"], strict=True)]
    facts = []
    for kind, subjects in (("person", people), ("town", names["town"])):
        for subject, relation in itertools.product(subjects, [r for r in RELATIONS if r.subject_type == kind]):
            true, new = (str(word) for word in rng.choice(names[str(relation.object_type)], 2, replace=False))
            paraphrases = tuple(template.replace(SLOT, subject) for template in relation.paraphrases)
            types = {"subject_type": kind, "object_type": relation.object_type}
            facts.append(Fact(subject, relation.prompt, true, new, relation.id, paraphrases, **types))
    return World(families, seed, tuple(facts), tuple(int(n) for n in rng.integers(0, 3, len(facts))))


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
