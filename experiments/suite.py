"""A scaling suite of our own: one family, one text, the same facts, six sizes from one to 150 million parameters.

The text is what a larger model wrote (:mod:`depth`), mixed with sentences about an invented world, so that all that a
model knows of it was told to it. On the way through training: P and its statistics at every layer, and what the model
knows. At the end: the size c of an edit, the overlap q, and how many edits it takes to lose what the model knew.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from failure import Chosen, Watched, before_any_edit
from job import Job
from superposition import editing
from superposition.data import text
from superposition.data.facts import Fact
from superposition.editing import targets
from superposition.linear import overlap
from superposition.lm import keys, models, moments, scoring
from superposition.stats import intervals, shape
from superposition.toys.world import World, make_world

END = "<|endoftext|>"


@dataclass(frozen=True)
class Size:
    """A model of the family: width d (d_m = 4 d), layers, attention heads."""

    width: int
    layers: int
    heads: int


SUITE = (Size(64, 4, 4), Size(128, 6, 4), Size(256, 8, 8), Size(384, 10, 6), Size(512, 12, 8), Size(768, 16, 12))


@dataclass(frozen=True)
class Sizes:
    """How large a run is.

    Parameters
    ----------
    models : tuple of Size
    vocabulary : int
    families : int
        Of the invented world: two people each, with three facts a person.
    tokens, length, batch : int
        Of the training, of a sequence, and sequences a step.
    facts_share : float
        Share of the sequences that are about the invented world.
    rate : float
        Of AdamW at a width of 64; it falls with the root of the width. Tried on four layers of width 64 and a world of
        64 families: 976 steps of 16 sequences teach 99 % of the facts, and 88 % at half the rate.
    checkpoints : tuple of float
        When P is measured, as shares of the training.
    compared : int
        Facts, of as many people of different families, whose overlaps are measured.
    tokens_a_dimension : int
        Of the text for C.
    edits, watched : int
        Of the sequence of edits at the end, and the facts watched.
    edit_checkpoints : tuple of int
        After how many edits the model is examined.
    """

    models: tuple[Size, ...] = SUITE
    vocabulary: int = 8192
    families: int = 256
    tokens: int = 10_000_000
    length: int = 128
    batch: int = 64
    facts_share: float = 0.5
    rate: float = 6e-3
    checkpoints: tuple[float, ...] = (0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
    compared: int = 128
    tokens_a_dimension: int = 32
    edits: int = 128
    watched: int = 256
    edit_checkpoints: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    resamples: int = 200
    settings: editing.TargetSettings = field(default_factory=editing.TargetSettings)


TINY = Sizes(
    (Size(16, 3, 2), Size(24, 3, 2)), vocabulary=512, families=64, tokens=8_000, length=32, batch=8,
    checkpoints=(0.0, 1.0), compared=12, tokens_a_dimension=8, edits=4, watched=12, edit_checkpoints=(2, 4),
    resamples=10, settings=editing.TargetSettings(steps=2, contexts=("",), kl_prompt="{} is"),
)  # fmt: skip


# --- the text -----------------------------------------------------------------------------------------------


def tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer of these texts."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END, pad_token=END)


@dataclass(frozen=True)
class Corpus:
    """Token ids of the text, of the part of it that is held out, and of the sentences about the world."""

    tokenizer: Any
    world: World
    text: np.ndarray
    held_out: np.ndarray
    sentences: tuple[np.ndarray, ...]

    @classmethod
    def make(cls, source: str | Path, sizes: Sizes) -> Corpus:
        """Read the text, draw the world, and cut both into tokens."""
        texts, world = list(text.read(source)), make_world(sizes.families)
        told = world.sentences()
        words = tokenizer(texts + told * max(1, sum(map(len, texts)) // 4 // sum(map(len, told))), sizes.vocabulary)
        end = words.convert_tokens_to_ids(END)
        rows = [np.array([*words(one)["input_ids"], end], dtype=np.int32) for one in texts]
        cut = max(1, len(rows) // 20)
        sentences = tuple(np.array([*words(one)["input_ids"], end], dtype=np.int32) for one in told)
        return cls(words, world, np.concatenate(rows[:-cut]), np.concatenate(rows[-cut:]), sentences)

    def about_the_world(self, tokens: int, rng: np.random.Generator) -> np.ndarray:
        """So many tokens of sentences in an order drawn at random, each as often as the others."""
        rows, total = [], 0
        while total < tokens:
            for i in rng.permutation(len(self.sentences)):
                rows.append(self.sentences[i])
                total += len(rows[-1])
        return np.concatenate(rows)[:tokens]

    def batches(self, sizes: Sizes) -> Iterator[torch.Tensor]:
        """Batches (batch, length) without end, the same ones for every model."""
        rng, mine = np.random.default_rng(0), round(sizes.batch * sizes.facts_share)
        while True:
            starts = rng.integers(0, len(self.text) - sizes.length, size=sizes.batch - mine)
            rows = [self.text[start : start + sizes.length] for start in starts]
            rows += list(self.about_the_world(mine * sizes.length, rng).reshape(mine, sizes.length))
            yield torch.from_numpy(np.stack(rows).astype(np.int64))

    def windows(self, tokens: int, sizes: Sizes) -> list[text.Window]:
        """Windows for C: of the mixture that the models are trained on, but of text that is held out."""
        about = round(tokens * sizes.facts_share)
        ids = [self.about_the_world(about, np.random.default_rng(1)), np.resize(self.held_out, tokens - about)]
        return [
            text.Window(tuple(part), 0, len(part))
            for one in ids
            for part in (one[at : at + sizes.length].tolist() for at in range(0, len(one), sizes.length))
        ]

    def unread(self, tokens: int, length: int) -> list[text.Window]:
        """Windows of held-out text for the perplexity; nothing predicts the first token of one."""
        parts = (self.held_out[at : at + length].tolist() for at in range(0, min(tokens, len(self.held_out)), length))
        return [text.Window(tuple(part), 1, len(part)) for part in parts if len(part) > 1]


# --- the models ---------------------------------------------------------------------------------------------


def build(size: Size, corpus: Corpus, sizes: Sizes, device: torch.device) -> models.LanguageModel:
    """An untrained model of the family."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(corpus.tokenizer),
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=2 * sizes.length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=corpus.tokenizer.convert_tokens_to_ids(END),
    )
    model = LlamaForCausalLM(config).to(device).eval().requires_grad_(False)
    return models.LanguageModel(model, corpus.tokenizer, models.find_layers(model), f"d = {size.width}")


def train(lm: models.LanguageModel, corpus: Corpus, sizes: Sizes) -> Iterator[tuple[int, float]]:
    """Train the model; at each checkpoint yield the steps done and the last loss, with the model ready for use."""
    steps = max(1, sizes.tokens // (sizes.batch * sizes.length))
    checkpoints = {round(share * steps) for share in sizes.checkpoints}
    width, device = lm.layers[0].d, lm.device
    optimiser = torch.optim.AdamW(
        lm.model.parameters(), sizes.rate * (64 / width) ** 0.5, (0.9, 0.95), weight_decay=0.1
    )
    course = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min((step + 1) / (0.05 * steps), 0.1 + 0.45 * (1 + math.cos(math.pi * min(1, step / steps)))),
    )
    batches, loss = corpus.batches(sizes), float("nan")
    for step in range(steps + 1):
        if step in checkpoints:
            lm.model.eval().requires_grad_(False)
            yield step, float(loss)
        if step == steps:
            return
        lm.model.train().requires_grad_(True)
        ids = next(batches).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = lm.model(ids, use_cache=False).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        course.step()
        loss = loss.detach()


def compared(world: World, count: int) -> list[Fact]:
    """One fact of each of so many people, all of different families; the relations go round."""
    return [world.of_person(person % world.families)[person % 3] for person in range(min(count, world.families))]


def measured(lm: models.LanguageModel, corpus: Corpus, sizes: Sizes) -> dict[str, Any]:
    """What the model knows, and the statistics of P at every layer."""
    width = lm.layers[0].d_m
    summed = moments.of_windows(lm, corpus.windows(sizes.tokens_a_dimension * width, sizes), cache=False, to_cpu=False)
    read = keys.extract(lm, compared(corpus.world, sizes.compared))
    rows = []
    for layer in lm.layers:
        P = overlap.superposition_matrix(read[layer.index], summed.metric(layer.index))
        rows.append({"layer": layer.index} | shape.summary(P, resamples=sizes.resamples))
    some = corpus.world.facts[:: max(1, len(corpus.world.facts) // 300)]
    unseen = dict(zip(corpus.world.facts, corpus.world.unseen(), strict=True))
    true = [str(fact.target_true) for fact in some]
    told = scoring.score(lm, [fact.text for fact in some], true).exact
    other = scoring.score(lm, [unseen[fact] for fact in some], true).exact
    return {
        "perplexity": scoring.perplexity(lm, corpus.unread(20 * sizes.length, sizes.length)),
        "knows": intervals.share(told),
        "knows_unseen": intervals.share(other),
        "layers": rows,
    }


def lifetime(lm: models.LanguageModel, corpus: Corpus, layer: int, sizes: Sizes) -> dict[str, Any] | None:
    """A sequence of ROME edits whose targets are found beforehand: c, q, and what is lost on the way.

    None where the model knows too little to lose.
    """
    world, windows = corpus.world, corpus.windows(sizes.tokens_a_dimension * lm.layers[layer].d_m, sizes)
    half = world.families // 2
    edits = [world.of_person(person)[person % 3] for person in range(min(sizes.edits, half))]
    others = [world.of_person(person)[person % 3] for person in range(half, world.families)]
    others += [world.of_person(person)[(person + 1) % 3] for person in range(half, world.families)]
    asked = scoring.score(lm, [fact.text for fact in others], [str(fact.target_true) for fact in others])
    known = [fact for fact, said in zip(others, asked.exact, strict=True) if said][: sizes.watched]
    if len(known) < 10:
        return None
    C = moments.of_windows(lm, windows, layers=[layer], cache=False).second_moment(layer)
    watched = Watched(lm, Chosen(edits, known), layer, corpus.unread(sizes.length, sizes.length), 50)
    found = targets.search(lm, edits, layer, sizes.settings, batch=64)
    before = before_any_edit(found, C, watched, sizes.settings)
    editor = editing.Editor(lm, layer, "rome", C=C, settings=sizes.settings)
    rows, done = [], 0
    with editing.preserved(lm):
        for checkpoint in (n for n in sizes.edit_checkpoints if n <= len(edits)):
            editor.store(found[done:checkpoint])
            rows.append(watched.examine(editor, edits, checkpoint - done))
            done = checkpoint
    return {"layer": layer, "watched": len(known), "before": before, "checkpoints": rows}


def run(job: Job, sizes: Sizes, source: str = "smollm2", name: str = "own-suite") -> bool:
    """The stage, size by size. True once all are done."""
    record = job.read(name)
    rows = record.get("models", [])
    sampled = job.work / f"text-{Path(source).stem}.jsonl"
    where, named = (sampled, "sampled") if sampled.is_file() else ("book", "book")
    if rows and record["text"]["sha256"] != text.fingerprint(where):
        rows = []  # begun on another machine, with another sample: all are trained on one text
    corpus, last = None, 0.0
    for size in sizes.models:
        if size.width in [row["width"] for row in rows]:
            continue
        if not job.fits(2.5 * last, f"the model of width {size.width}"):
            return False
        began = time.monotonic()
        corpus = corpus or Corpus.make(where, sizes)
        lm = build(size, corpus, sizes, job.device)
        row: dict[str, Any] = {"width": size.width, "layers": size.layers, "heads": size.heads, "d_m": lm.layers[0].d_m}
        row |= {"parameters": sum(p.numel() for p in lm.model.parameters()), "checkpoints": []}
        for step, loss in train(lm, corpus, sizes):
            found = {"steps": step, "tokens": step * sizes.batch * sizes.length, "loss": loss if step else None}
            row["checkpoints"].append(found | measured(lm, corpus, sizes))
        row["lifetime"] = lifetime(lm, corpus, max(1, size.layers // 3), sizes)
        last = time.monotonic() - began
        rows.append(row | {"seconds": round(last, 1)})
        known = row["checkpoints"][-1]["knows"]["share"]
        job.say(f"width {size.width}, {row['parameters'] / 1e6:.1f} M parameters: knows {known:.0%}, {last:.0f} s")
        record |= {
            "kind": "suite",
            "text": {"source": named, "sha256": text.fingerprint(where)},
            "world": {"families": sizes.families, "facts": len(corpus.world.facts)},
            "training": {"tokens": sizes.tokens, "length": sizes.length, "batch": sizes.batch, "rate": sizes.rate,
                         "facts_share": sizes.facts_share, "text_tokens": len(corpus.text)},
            "settings": sizes.settings.as_dict(),
            "models": rows,
        }  # fmt: skip
        job.write(name, record)
    return True
