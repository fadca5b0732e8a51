"""To failure: a thousand edits one after another, by several methods and in several orders, and some way past it.

The edits of a step are searched together on the model as it stands, and written one after the other (ROME) or at once
(MEMIT with history, AlphaEdit). "rome, protected" is ROME with the keys of half of the watched facts in C: the cure
that chapter ``21-cures`` found best. Each checkpoint says what is lost of the facts that nobody edits, what became of
new and old edits, of the perplexity, and how far the layer's answers have drifted, in several units.

The edits come from a table of requests of their own (``book/data/requests``), whose subjects the watched facts do not
have. Two panels say where the loss falls: facts of the relations that are edited, and facts about edited subjects under
a relation that is not. A sequence ends when it is past failure: see :func:`past_failure`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from job import Job
from superposition import editing, records
from superposition.data import facts, text
from superposition.data.facts import Fact
from superposition.editing import evaluation, forecast, lifetime, targets
from superposition.errors import UserError
from superposition.io import files, paths
from superposition.linear import shrinkage
from superposition.lm import keys, models, moments, scoring
from superposition.stats import intervals
from superposition.studies.law import TRIED

#: Methods by name: the rule, and whether half of the watched facts are put into C.
METHODS = {
    "rome": ("rome", False),
    "memit with history": ("memit-history", False),
    "alphaedit": ("alphaedit", False),
    "rome, protected": ("rome", True),
}
#: A panel of which the model knows fewer facts than this gives no share.
FEWEST = 10
#: A sequence has failed once this share of what was known is lost, or the perplexity is so many times what it was.
LOST, PERPLEXITY = 0.5, 2.0


@dataclass(frozen=True)
class Sizes:
    """How large a run is.

    Parameters
    ----------
    edits, block : int
        Of a sequence, at most, and of a step.
    requests : str
        The table that the edits come from.
    methods : tuple of str
        Of :data:`METHODS`.
    orders : int
        In how many orders the edits come.
    checkpoints : tuple of int
        After how many edits the models are examined.
    watched : int
        Facts that the model knows and nobody edits, at most.
    panel : int
        Facts of a panel, at most.
    past : int
        A sequence goes on for so many checkpoints after the one at which it has failed.
    asked : int
        Of the newest and of the oldest edits, how many are asked at a checkpoint.
    alone : int
        Edits whose targets are also found on the unedited model, for c and q.
    tokens, held_out : int
        Of the text for C, at most, and of the text for the perplexity.
    context : int
        Of the windows in which the text is read.
    layer : int, optional
        Default: at a fifth of the depth.
    search : str
        The dtype of the search for the targets.
    protection : float
        Weight of the protected keys in C.
    settings : editing.TargetSettings
        Of the search.
    """

    edits: int = 1000
    block: int = 10
    requests: str = str(paths.data_dir() / "requests" / "facts.csv")
    methods: tuple[str, ...] = tuple(METHODS)
    orders: int = 3
    checkpoints: tuple[int, ...] = (10, 30, 60, 100, 150, 200, 300, 400, 500, 600, 700, 800, 900, 1000)
    watched: int = 400
    panel: int = 100
    past: int = 2
    asked: int = 50
    alone: int = 200
    tokens: int = 1_048_576
    held_out: int = 4_000
    context: int = 256
    layer: int | None = None
    search: str = "bfloat16"
    protection: float = 10.0
    settings: editing.TargetSettings = field(default_factory=editing.TargetSettings)


TINY = Sizes(
    edits=12, block=3, orders=2, checkpoints=(3, 6, 12), watched=40, panel=20, asked=4, alone=6, tokens=900,
    held_out=100, context=16, search="float32",
    settings=editing.TargetSettings(steps=4, contexts=("",), kl_prompt="{} is"),
)  # fmt: skip


# --- which facts --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chosen:
    """The edits; the watched facts, that the model knows and nobody edits; and two panels of such facts.

    Attributes
    ----------
    edits : list of Fact
    watched : list of Fact
        About subjects that are not edited.
    same_relation : list of Fact
        About subjects that are not edited, under relations that are.
    same_subject : list of Fact
        About subjects that are edited, under another relation.
    """

    edits: list[Fact]
    watched: list[Fact]
    same_relation: list[Fact] = field(default_factory=list)
    same_subject: list[Fact] = field(default_factory=list)

    def panels(self, edited: Sequence[Fact]) -> dict[str, tuple[int, list[Fact]]]:
        """Of each panel how many facts there are, and those that these edits may have touched."""
        subjects = {fact.subject for fact in edited}
        touched = [fact for fact in self.same_subject if fact.subject in subjects]
        return {
            "same relation": (len(self.same_relation), self.same_relation),
            "same subject": (len(self.same_subject), touched),
        }


def choose(lm: models.LanguageModel, source: str, sizes: Sizes, seed: int = 0) -> Chosen:
    """Edits out of the requests, with new subjects as long as there are some; the watched facts, out of ``source``.

    A fact whose key is at a prompt's first position is left out. No edit is about a subject of a fact of ``source``
    that the model knows.

    Raises
    ------
    UserError
        The model knows none of the facts, or the requests are fewer than the edits that are asked for.
    """
    rng = np.random.default_rng(seed)

    def shuffled(table: str) -> list[Fact]:
        listed = facts.load(table)
        order = (listed[i] for i in rng.permutation(len(listed)))
        return [fact for fact in order if keys.locate(lm.tokenizer, fact).position > 0]

    def enough(requests: list[Fact]) -> list[Fact]:
        if len(requests) < sizes.edits:
            raise UserError(
                f"{sizes.edits} edits are asked for, and {sizes.requests} has {len(requests)} that can be made in "
                f"{lm.name}: ask for fewer (failure.edits), or give a longer table (failure.requests)."
            )
        return requests

    listed = enough([fact for fact in shuffled(sizes.requests) if fact.target_new is not None])
    known = scoring.known(lm, shuffled(source))
    if not known:
        raise UserError(f"{lm.name} knows none of the facts in {source}, so there is nothing to watch: give others.")
    taken = {fact.subject for fact in known}
    asked = enough([fact for fact in listed if fact.subject not in taken])
    first = {fact.subject: fact for fact in reversed(asked)}
    edits = sorted(asked, key=lambda fact: fact is not first[fact.subject])[: sizes.edits]
    relations, subjects = {fact.relation for fact in edits}, {fact.subject for fact in edits}
    done = {(fact.subject, fact.relation) for fact in edits}
    beside = [fact for fact in asked if fact.subject in subjects and (fact.subject, fact.relation) not in done]
    beside = [fact for fact in beside if fact.target_true is not None]
    return Chosen(
        edits,
        known[: sizes.watched],
        [fact for fact in known if fact.relation in relations][: sizes.panel],
        scoring.known(lm, beside)[: sizes.panel],
    )


# --- what is examined ---------------------------------------------------------------------------------------


class Watched:
    """What the unedited model says of the watched facts, and the lengths that drift is measured in.

    Attributes
    ----------
    perplexity : float
        Of the unedited model.
    named : (m,) bool
        The half of the facts that a protection names.
    untouched : lifetime.Untouched
        What drift is measured by.
    """

    def __init__(self, lm: models.LanguageModel, chosen: Chosen, layer: int, windows: list, asked: int):
        self.lm, self.chosen, self.facts, self.windows, self.asked = lm, chosen, chosen.watched, windows, asked
        self.before = np.array(evaluation.untouched(lm, self.facts)["log_true"])
        self.perplexity = scoring.perplexity(lm, windows)
        self.reading = forecast.read(lm, self.facts, layer, passes=False)
        self.W_0 = lm.layers[layer].weight.detach().double().cpu().numpy()
        self.named = np.arange(len(self.facts)) % 2 == 0
        self.untouched = lifetime.Untouched(lm, self.reading)

    def protected_keys(self) -> np.ndarray:
        """Keys of the named half, at every position of prompt and object, as columns."""
        return self.reading.subset(self.named).everywhere()

    def drift(self, W: np.ndarray) -> dict[str, float]:
        """Root mean square of the drift of the layer's answers, over what they were and over the residual stream."""
        moved = self.reading.keys @ (W - self.W_0).T  # (m, T, d)
        found = {}
        for over, place in (("answer", "subject"), ("stream", "subject"), ("stream", "all")):
            relative = self.untouched.relative(moved, over)[self.reading.mask(place)]
            found[f"drift_over_{over}_{place}"] = lifetime.root_mean_square(relative)
        return found | {"change": float(np.linalg.norm(W - self.W_0) / np.linalg.norm(self.W_0))}

    def examine(self, editor: editing.Editor, edits: Sequence[Fact], last: int) -> dict[str, Any]:
        """The model with an account's W in it, which holds the first of these edits; it is put back afterwards.

        ``last`` is how many of them the last step made: ``residual`` is the median length of theirs.

        Raises
        ------
        UserError
            The model gives no numbers any more.
        """
        n, panels = editor.n_edits, self.chosen.panels(edits[: editor.n_edits])
        lengths = np.linalg.norm(editor.memory.residuals, axis=0)
        row = {"edits": n} | self.drift(editor.memory.W) | {"residual": float(np.median(lengths[n - last :]))}
        with editing.preserved(self.lm):
            editor.apply()
            besides = {fact for _, panel in panels.values() for fact in panel} - set(self.facts)
            asked = [*self.facts, *sorted(besides, key=lambda fact: fact.text)]
            others = evaluation.untouched(self.lm, asked)
            kept = dict(zip(asked, others["hit"], strict=True))
            held = np.array([kept[fact] for fact in self.facts])
            falls = self.before - np.array(others["log_true"])[: len(held)]
            if not np.isfinite(falls).all():
                raise UserError(f"After {n} edits the model's probabilities are no numbers any more.")
            for name, part in (("", slice(None)), ("_named", self.named), ("_unnamed", ~self.named)):
                row[f"lost{name}"] = intervals.share(~held[part])
                row[f"fall{name}"] = intervals.mean_interval(falls[part])
            row["panels"] = {
                name: lost_of(count, [kept[fact] for fact in some]) for name, (count, some) in panels.items()
            }
            for name, some in (("newest", edits[max(0, n - self.asked) : n]), ("oldest", edits[: min(n, self.asked)])):
                found = evaluation.evaluate(self.lm, some, paraphrases=1, neighbours=0)
                row[name] = {kind: found[kind] for kind in ("exact", "paraphrase_exact")}
            row["perplexity"] = scoring.perplexity(self.lm, self.windows)
        return row


def lost_of(known: int, kept: Sequence[bool]) -> dict[str, Any]:
    """Of a panel: how many facts were known, and which share is lost of those asked; none where too few were known."""
    return {"known": known, "lost": intervals.share(not one for one in kept if known >= FEWEST)}


def past_failure(checkpoints: Sequence[Mapping[str, Any]], perplexity: float, past: int) -> str | None:
    """Why a sequence ends: it has failed at each of its last ``past + 1`` checkpoints. None while it has not.

    A sequence has failed where half of what was known is lost, or the perplexity has doubled.
    """
    reasons = []
    for row in checkpoints[-past - 1 :]:
        lost, dearer = row["lost"]["share"] >= LOST, not row["perplexity"] < PERPLEXITY * perplexity
        reasons.append(" and ".join(["half of the facts lost"] * lost + ["the perplexity doubled"] * dearer))
    if len(reasons) <= past or not all(reasons):
        return None
    first, n = checkpoints[-past - 1]["edits"], checkpoints[-1]["edits"]
    return f"past failure: {reasons[0]} after {first} edits, and no better at {past} checkpoints more, up to {n} edits."


def before_any_edit(
    found: editing.Targets, C: np.ndarray, watched: Watched, settings: editing.TargetSettings
) -> dict[str, Any]:
    """What targets on the unedited model say beforehand: an edit's size c, its overlap q with others, c²q and D."""
    told = lifetime.outlook(watched.untouched, found, C, looks=())
    among = forecast.directions(found.keys, C).T @ found.keys
    own = float(np.mean(among[~np.eye(len(found), dtype=bool)] ** 2))
    on_the_bound = float(np.mean(told.size > 0.999 * settings.clamp_norm_factor))
    row = {"edits": len(found), "c": told.c, "q": told.q, "c2q": told.c**2 * told.q, "D": told.D}
    return row | {"q_among_edits": own, "on_the_bound": on_the_bound}


def replays(
    found: editing.Targets, sequences: Sequence[EditSequence], watched: Watched, sizes: Sizes
) -> dict[str, list[dict[str, Any]]]:
    """By name of sequence and checkpoint, what a replay says beforehand: the share lost, and R.

    All edits are written in their steps by the sequence's own method, on the unedited model's account; an edit that was
    not tried borrows a shift, and each is written whole (:func:`superposition.editing.lifetime.replayed`).

    Parameters
    ----------
    found : editing.Targets
        The first edits of these sequences, each alone on the unedited model.
    """
    told, reading, lm = {}, watched.reading, watched.lm
    for one in sequences:
        editor = one.editor
        K = keys.extract(lm, one.edits, layers=[reading.layer])[reading.layer]
        K = np.concatenate([found.keys, K[:, len(found) :]], axis=1)
        C, method = editor.memory.metric, editor.method
        edits = lifetime.replayed(found, K, C, method, step=sizes.block, whole=True, **editor.options)
        told[one.name] = rows = []
        for n in (n for n in sizes.checkpoints if n <= len(edits)):
            moved = forecast.drift(edits[:n], reading.keys)
            relative = watched.untouched.relative(moved)[reading.mask("all")]
            kept = forecast.ask(lm, reading, moved).exact
            rows.append({"edits": n, "lost": intervals.share(~kept), "drift": lifetime.root_mean_square(relative)})
    return told


# --- the sequences ------------------------------------------------------------------------------------------


@dataclass
class EditSequence:
    """One sequence of edits: a method, an order, its account, and what was found at the checkpoints.

    ``recipe`` is a digest of all that determines it: a state of another recipe is not taken up.
    """

    method: str
    order: int
    editor: editing.Editor
    edits: list[Fact]
    recipe: str
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    ended: str | None = None

    @property
    def name(self) -> str:
        return f"{self.method} {self.order}"

    def save(self, folder: Path) -> None:
        """Keep the state, so that :meth:`take_up` goes on from here."""
        arrays, state = self.editor.state()
        content = {"recipe": self.recipe, "state": state, "checkpoints": self.checkpoints, "ended": self.ended}
        path = folder / f"{self.name}.json"
        files.write_together({path.with_suffix(".npz"): lambda to: _save(to, arrays), path: files.json_writer(content)})

    def take_up(self, folder: Path) -> None:
        """Go on from the state that was kept, if one was.

        Raises
        ------
        UserError
            The state is of other edits, another C or other settings.
        """
        path = folder / f"{self.name}.json"
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["recipe"] != self.recipe:
                raise UserError(
                    f"The states in {folder} are of another run: remove them, or give the sizes of that run."
                )
            self.editor.resume(files.read_npz(path.with_suffix(".npz")), content["state"])
            self.checkpoints, self.ended = content["checkpoints"], content["ended"]

    def row(self) -> dict[str, Any]:
        """What the record says of it."""
        names = ("method", "order", "ended", "checkpoints")
        return {"edits": self.editor.n_edits} | {name: getattr(self, name) for name in names}

    def course(self) -> dict[str, np.ndarray]:
        """Arrays over its edits: lengths of the residual, of the shift searched and of the answer; probability."""
        log = self.editor.log
        found = {"residual": np.linalg.norm(self.editor.memory.residuals, axis=0)}
        found |= {key: np.array([row[key] for row in log]) for key in ("shift_norm", "recalled_norm", "probability")}
        return {f"{self.name}/{key}": np.float32(value) for key, value in found.items()}


def sequences_of(
    lm: models.LanguageModel, edits: Sequence[Fact], layer: int, moment_of: Mapping[bool, np.ndarray], sizes: Sizes
) -> list[EditSequence]:
    """Every method in every order, nothing edited yet; ``moment_of`` are C without and with the protected keys."""
    found = []
    for order in range(sizes.orders):
        turned = np.random.default_rng(order).permutation(len(edits)) if order else range(len(edits))
        mine = [edits[i] for i in turned]
        for method in sizes.methods:
            rule, protected = METHODS[method]
            editor = editing.Editor(lm, layer, rule, C=moment_of[protected], settings=sizes.settings)
            recipe = recipe_of(lm, mine, rule, moment_of[protected], sizes)
            found.append(EditSequence(method, order, editor, mine, recipe))
    return found


def recipe_of(lm: models.LanguageModel, edits: Sequence[Fact], rule: str, C: np.ndarray, sizes: Sizes) -> str:
    """Digest of the model, the edits in their order, the rule, C, and the sizes that count."""
    told = [[fact.text, fact.target_new] for fact in edits]
    content = [
        lm.sha256,
        told,
        rule,
        sizes.block,
        sizes.search,
        sizes.settings.as_dict(),
        list(C.shape),
        float(C.sum()),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _save(temporary: Path, arrays: dict[str, np.ndarray]) -> None:
    with temporary.open("wb") as stream:  # not compressed: it is written often and read rarely
        np.savez(stream, **arrays)


def step(going: list[EditSequence], block: int, searcher: models.LanguageModel | None) -> None:
    """One step of sequences that have equally many edits. One that cannot go on ends, and the others go on."""
    n = going[0].editor.n_edits
    steps = [one.edits[n : n + block] for one in going]
    try:
        editing.edit_side_by_side([one.editor for one in going], steps, len(going) * block, searcher)
    except UserError:
        for one, some in zip(going, steps, strict=True):
            if one.editor.n_edits == n:
                try:
                    editing.edit_side_by_side([one.editor], [some], block, searcher)
                except UserError as error:
                    one.ended = str(error)


def go_on(
    job: Job,
    sizes: Sizes,
    sequences: Sequence[EditSequence],
    watched: Watched,
    searcher: models.LanguageModel | None,
    write: Callable[[], None],
    states: Path,
) -> bool:
    """Edit and examine until all is done, or until the time is up. True once all is done."""
    step_took, checkpoint_took = 0.0, 0.0
    while going := [one for one in sequences if one.ended is None and one.editor.n_edits < len(one.edits)]:
        n = min(one.editor.n_edits for one in going)
        now = [one for one in going if one.editor.n_edits == n]
        if not job.fits(2 * step_took + 1.5 * checkpoint_took, f"the rest after {n} edits"):
            for one in sequences:
                one.save(states)
            return False
        began = time.monotonic()
        step(now, sizes.block, searcher)
        step_took = time.monotonic() - began
        done = [one for one in now if one.editor.n_edits > n]
        if not any(n < checkpoint <= n + sizes.block for checkpoint in sizes.checkpoints):
            continue
        began = time.monotonic()
        for one in done:
            try:
                one.checkpoints.append(watched.examine(one.editor, one.edits, one.editor.n_edits - n))
                one.ended = past_failure(one.checkpoints, watched.perplexity, sizes.past)
            except UserError as error:
                one.ended = str(error)
            one.save(states)
        checkpoint_took = time.monotonic() - began
        write()
        lost = ", ".join(f"{one.name} {one.checkpoints[-1]['lost']['share']:.2f}" for one in done if one.checkpoints)
        job.say(f"{n + sizes.block} edits, {step_took:.1f} s a step, {checkpoint_took:.1f} s to examine; lost: {lost}")
    return True


# --- the stage ----------------------------------------------------------------------------------------------


def moment(
    lm: models.LanguageModel, source: str | Path, layer: int, sizes: Sizes
) -> tuple[np.ndarray, int, list[text.Window]]:
    """C of the layer with how many tokens it is from, and windows from the text's end for the perplexity."""
    windows = scoring.held_out(lm, sizes.held_out, source=source, context=sizes.context)
    cut = text.windows(text.read(source), lm.tokenizer, context=sizes.context)
    left = min(sizes.tokens, sum(window.counted for window in cut) - 2 * sizes.held_out)
    counts = np.cumsum([window.counted for window in cut])
    summed = moments.of_windows(lm, cut[: max(1, int(np.searchsorted(counts, left)))], layers=[layer], cache=False)
    return summed.second_moment(layer), summed.tokens, windows


def run(job: Job, sizes: Sizes, source: str = "smollm2", facts_source: str = "book") -> bool:
    """The stage, step by step. True once every sequence is at its end."""
    name = f"{Path(source).stem}-failure"
    record = job.read(name)
    if record.get("complete"):
        return True
    lm = models.load(source, device=job.device, dtype="float32")
    searcher = None if sizes.search == "float32" else models.load(source, device=job.device, dtype=sizes.search)
    layer = len(lm.layers) // 5 if sizes.layer is None else sizes.layer
    chosen = choose(lm, facts_source, sizes)
    edits = chosen.edits
    sampled = job.work / f"text-{Path(source).stem}.jsonl"
    where, named = (sampled, "sampled") if sampled.is_file() else ("book", "book")
    C, tokens, windows = moment(lm, where, layer, sizes)
    watched = Watched(lm, chosen, layer, windows, sizes.asked)
    job.say(
        f"{lm.name}, layer {layer}: {len(edits)} edits, {len(watched.facts)} facts watched, C from {tokens:,} tokens"
    )
    record |= {
        "kind": "failure",
        "model": records.header(lm, architecture=False),
        "layer": layer,
        "facts": {"source": str(facts_source), "sha256": facts.fingerprint(facts_source)},
        "watched": len(watched.facts),
        "requests": {"sha256": facts.fingerprint(sizes.requests), "edits": len(edits)},
        "panels": {name: count for name, (count, _) in chosen.panels([]).items()},
        "text": {
            "source": named,
            "sha256": text.fingerprint(where),
            "tokens": tokens,
        },
        "settings": sizes.settings.as_dict(),
        "search": sizes.search,
        "block": sizes.block,
        "protection": sizes.protection,
        "start": {"perplexity": watched.perplexity},
    }
    if "before" not in record:
        alone = targets.search(lm, edits[: sizes.alone], layer, sizes.settings, batch=64)
        record["before"] = before_any_edit(alone, C, watched, sizes.settings)
    job.say(f"c²q = {record['before']['c2q']:.4f}")
    sequences = sequences_of(
        lm, edits, layer, {False: C, True: shrinkage.protecting(C, watched.protected_keys(), sizes.protection)}, sizes
    )
    if "replay" not in record:
        first = [one for one in sequences if one.order == 0]  # the others begin with edits that were not tried
        record["replay"] = replays(targets.search(lm, edits[:TRIED], layer, sizes.settings), first, watched, sizes)
    states = job.work / name
    with editing.preserved(lm), ThreadPoolExecutor() as pool:
        list(pool.map(lambda one: one.take_up(states), sequences))

    def write(complete: bool = False) -> None:
        arrays: dict[str, np.ndarray] = {}
        for one in sequences:
            arrays |= one.course()
        rows = [one.row() for one in sequences]
        job.write(name, record | {"sequences": rows, "complete": complete}, arrays)

    complete = go_on(job, sizes, sequences, watched, searcher, write, states)
    write(complete)
    return complete
