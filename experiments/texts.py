"""What hangs on the text behind C: the same facts and nulls at every layer, under texts of several kinds.

pip install -r requirements-texts.txt
python experiments/texts.py write _build/texts
python experiments/texts.py measure smollm2 --texts book _build/texts/manual.jsonl _build/texts/wikipedia.jsonl \
    --out book/records/smollm2-texts.json

The texts, beside the one that SmolLM2 wrote: Python's own manual, and articles of the English Wikipedia that gensim
carries for its tests (the first of a dump, all titles in A; the paper's C is from Wikipedia, too). Of each as many
tokens are read, and cut into windows of at most as many tokens as the book's texts have in the mean. Many of the book's
are shorter, so that first positions, which are attention sinks, have a larger share in its C. Under each C the overlaps
of the facts are held against three nulls: prompts about random words, any tokens of another of the texts (those of the
text itself are what C is made of, so that their mean and spread are algebra), and the facts in a model with random
weights, under its own C. A layer is kept in the user's cache.
"""

from __future__ import annotations

import argparse
import bz2
import importlib.util
import itertools
import json
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Bool, Float

from convergence import manual
from forecasts import say
from nulls import strangers
from superposition import records
from superposition.data import facts, text, wordings
from superposition.data.facts import Fact
from superposition.errors import UserError
from superposition.io import cache, files
from superposition.linear import overlap
from superposition.linear.metric import Metric
from superposition.lm import keys, models, moments, text_keys
from superposition.stats import intervals, shape
from superposition.studies import confounds, nulls
from untrained import untrained

#: Where gensim keeps a piece of a Wikipedia dump, and the digest of that file.
DUMP = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
DUMP_SHA256 = "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d"
#: What of an article is no text: comments, footnotes, tables, galleries, formulas; links to pictures and categories.
UNREAD = re.compile(r"(?s)<!--.*?-->|<ref[^<>]*/>|<(ref|gallery|math|timeline)\b.*?</\1>|\n\{\|.*?\n\|\}")
UNSAID = re.compile(r"(?i)\s*(file|image|category|[a-z-]{2,12}):")
#: Raise it when what a layer holds changes: layers are kept in the cache under it.
VERSION = 1
#: What is compared under one text, in the order of the record.
NULLS = ("random subjects", "tokens of another text")
SETS = ("facts", "strangers", *NULLS, "random weights")
#: Of these the kurtosis of every resample is kept.
DRAWN = SETS[:2]
#: Pairs of keys by what they share: the fact in other words; its relation; its kind of subject; neither.
KINSHIP = ("own paraphrase", "one relation", "one kind", "apart")
#: Characters of an article that are read, so that many are; the shortest paragraph that is drawn from.
ARTICLE, PARAGRAPH = 6_000, 200


@dataclass(frozen=True)
class Sizes:
    """How much is done: facts, tokens of each text for each dimension of the keys and in a window, resamples."""

    facts: int = 400
    tokens: int = 50
    context: int = 204
    resamples: int = 100


# --- the texts ----------------------------------------------------------------------------------------------


def articles(dump: Path) -> Iterator[str]:
    """The articles of a Wikipedia dump as plain text: no redirects, tables, templates or footnotes."""
    import mwparserfromhell

    for _, page in ElementTree.iterparse(bz2.open(dump)):
        if not page.tag.endswith("}page"):
            continue
        space = page.tag.removesuffix("page")
        source = page.findtext(f"{space}revision/{space}text") or ""
        if page.findtext(f"{space}ns") == "0" and page.find(f"{space}redirect") is None:
            code = mwparserfromhell.parse(UNREAD.sub("", source))
            for link in code.filter_wikilinks(matches=lambda link: UNSAID.match(str(link.title))):
                if code.contains(link):  # not in one that is gone
                    code.remove(link)
            lines = code.strip_code(normalize=True, collapse=True).splitlines()
            plain = re.sub(r"\n{3,}", "\n\n", "\n".join(line.strip() for line in lines)).strip()
            yield from itertools.islice(text.pieces([plain], ARTICLE), 1)
        page.clear()


def dump() -> Path:
    """gensim's file, found without importing gensim, and checked."""
    found = importlib.util.find_spec("gensim")
    if found is None or not found.submodule_search_locations:
        raise UserError("gensim is not installed: pip install -r requirements-texts.txt.")
    path = Path(found.submodule_search_locations[0]) / DUMP
    if not path.is_file() or files.sha256_of(path) != DUMP_SHA256:
        raise UserError("gensim's piece of Wikipedia is not the one that was read: pip install gensim==4.4.0.")
    return path


def write(folder: Path) -> None:
    """Write the two texts as JSON lines, a text a line."""
    for name, texts in (("manual", manual()), ("wikipedia", articles(dump()))):
        lines = "".join(json.dumps({"text": one}, ensure_ascii=False) + "\n" for one in texts if one.strip())
        files.write_whole(folder / f"{name}.jsonl", lambda path, lines=lines: path.write_text(lines, encoding="utf-8"))


# --- one layer ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Read:
    """Keys of one model, by what is asked and by layer, with the pairs that count.

    Attributes
    ----------
    keys : dict of str to dict of int to (d_m, m)
    keep : dict of str to (m, m) of bool
    """

    keys: dict[str, dict[int, np.ndarray]]
    keep: dict[str, np.ndarray]


def read(lm: models.LanguageModel, listed: Sequence[Fact], other: str, layers: Sequence[int]) -> Read:
    """Keys of the facts, of their first paraphrases, of prompts about random words, and at tokens of another text."""
    rng, texts = np.random.default_rng(0), list(text.read(other))
    asked = {"facts": listed, "random subjects": wordings.random_subjects(listed, text.read("book"), rng)}
    asked |= {"paraphrases": [fact.reworded()[0] for fact in listed]}
    found = {name: keys.extract(lm, some, layers=layers) for name, some in asked.items()}
    every = {name: of.by_layer for name, of in found.items()}
    paragraphs = [one for piece in texts for one in piece.split("\n\n") if len(one) >= PARAGRAPH]
    drawn, ids = text_keys.keys_of_text(lm, paragraphs, count=len(listed), layers=layers, context=64)
    every["tokens of another text"] = {layer: K[0] for layer, K in drawn.items()}
    keep = {name: strangers(found[name].tokens) for name in ("facts", "random subjects")}
    keep |= {"tokens of another text": ~confounds.same(ids[0].tolist())}
    return Read(every, {"strangers": keep.pop("facts"), **keep, **kinship(listed, found)})


def kinship(listed: Sequence[Fact], found: dict[str, keys.Keys]) -> dict[str, Bool[np.ndarray, "m m"]]:
    """Which pairs are of each of :data:`KINSHIP`, none at position 0; the first pairs fact i and paraphrase i.

    A paraphrase counts where other words stand before its subject; of others the key would be the same. The other
    pairs share neither their subject nor their last token.
    """
    relation, kind = ([getattr(fact, name) for fact in listed] for name in ("relation", "subject_type"))
    before = [fact.text[: fact.subject_span[0]] for fact in listed]
    other = [fact.reworded()[0] for fact in listed]
    turned = [fact.text[: fact.subject_span[0]] != was for fact, was in zip(other, before, strict=True)]
    places = zip(found["facts"].tokens, found["paraphrases"].tokens, strict=True)
    inside = [asked.position > 0 and again.position > 0 for asked, again in places]
    apart = ~np.eye(len(listed), dtype=bool) & strangers(found["facts"].tokens)
    apart &= ~confounds.same([fact.subject for fact in listed])
    alike, kin = confounds.same(relation), confounds.same(kind)
    own = np.diag(np.array(turned) & np.array(inside))
    return dict(zip(KINSHIP, (own, alike & apart, kin & ~alike & apart, ~kin & ~alike & apart), strict=True))


def of_set(products: np.ndarray, d_m: int, keep: np.ndarray, sizes: Sizes) -> dict[str, np.ndarray]:
    """Of the overlaps of m keys: ``shape.STATISTICS`` of P and cosines with intervals, and the share beyond 3 sd.

    Also the kurtosis of P under every resample. The same facts are drawn at every layer, under every text and in every
    model, so that differences are paired.
    """
    drawn = nulls.resampled(products, d_m, sizes.resamples, np.random.default_rng(2), keep)
    ends = np.quantile(drawn, [0.025, 0.975], axis=0)
    far = np.abs(overlap.from_products(products)) > 3 / np.sqrt(d_m)
    beyond = intervals.over_pairs(far[None].astype(float), keep, resamples=sizes.resamples)
    return {
        "statistics": np.stack([nulls.of_products(products, d_m, keep), *ends]),
        "beyond": np.array(beyond),
        "kurtosis": drawn[:, 0, shape.STATISTICS.index("excess_kurtosis")],
    }


def right_angle(cosines: Float[np.ndarray, "2 m m"], sizes: Sizes) -> Float[np.ndarray, "3 3"]:
    """Angles of the mean raw and of the mean whitened cosine, and how much nearer to 90 degrees the second is."""

    def angles(means: np.ndarray) -> np.ndarray:
        return np.degrees(np.arccos(means))

    every, rows = np.ones(cosines.shape[1:], dtype=bool), []
    for of in (
        lambda means: angles(means[0]),
        lambda means: angles(means[1]),
        lambda means: np.abs(angles(means[0]) - 90) - np.abs(angles(means[1]) - 90),
    ):
        rows.append(intervals.over_pairs(cosines, every, of, resamples=sizes.resamples))
    return np.array(rows)


def kin(K: dict[str, np.ndarray], metric: Metric, keep: dict[str, np.ndarray], sizes: Sizes) -> np.ndarray:
    """Mean p and mean cosine over the pairs of each of :data:`KINSHIP`, with intervals over facts, (4, 2, 3)."""
    Z, other = metric.whiten(K["facts"]), metric.whiten(K["paraphrases"])
    norms, again = np.linalg.norm(Z, axis=0), np.linalg.norm(other, axis=0)
    own, drawn = np.diag(keep[KINSHIP[0]]), np.random.default_rng(0)
    products = np.einsum("di,di->i", Z, other)[own]  # of a fact with its own paraphrase
    rows = []
    for values in (products / norms[own] ** 2, products / (norms * again)[own]):
        means = values[drawn.integers(0, len(values), size=(sizes.resamples, len(values)))].mean(1)
        rows.append([values.mean(), *np.quantile(means, [0.025, 0.975])])
    found, G = [rows], Z.T @ Z
    for name in KINSHIP[1:]:
        each = (overlap.from_products(G), overlap.cosines(G))
        found.append([intervals.over_pairs(x[None], keep[name], resamples=sizes.resamples) for x in each])
    return np.array(found)


def of_layer(K: dict[str, np.ndarray], random: np.ndarray, keep: dict[str, np.ndarray], C: Metric, sizes: Sizes):
    """Everything at one layer under one C; ``random`` are the products of the facts in a model with random weights."""
    products = {name: overlap.whitened_products(K[name], C) for name in ("facts", *NULLS)}
    products |= {"strangers": products["facts"], "random weights": random}
    every = np.ones(random.shape, dtype=bool)
    masks = keep | {"facts": every, "random weights": keep["strangers"]}
    each = [of_set(products[name], C.d_m, masks[name], sizes) for name in SETS]
    length = np.linalg.norm(K["facts"], axis=0)
    raw = K["facts"].T @ K["facts"] / np.outer(length, length)
    return {name: np.stack([one[name] for one in each]) for name in ("statistics", "beyond")} | {
        "kurtosis": np.stack([each[SETS.index(name)]["kurtosis"] for name in DRAWN]),
        "angles": right_angle(np.stack([raw, overlap.cosines(products["facts"])]), sizes),
        "kinship": kin(K, C, keep, sizes),
    }


# --- a model ------------------------------------------------------------------------------------------------


def measure(lm: models.LanguageModel, sources: Sequence[str], sizes: Sizes) -> tuple[dict, dict[str, np.ndarray]]:
    """Every layer under every text: what the record says, and its arrays, (texts, layers, …)."""
    listed, layers, d_m = facts.load("book", limit=sizes.facts), list(range(len(lm.layers))), lm.layers[0].d_m
    blank, by_text, texts, pairs = untrained(lm, 0), [], [], {}
    asked = keys.extract(blank, listed, layers=layers)
    how = {"tokens": sizes.tokens * d_m, "context": sizes.context}
    about = {"weights": lm.digest(), "facts": facts.fingerprint("book"), "sizes": vars(sizes)}
    for source, other in zip(sources, [*sources[1:], sources[0]], strict=True):
        found = read(lm, listed, other, layers)
        C, of_blank = moments.estimate(lm, source, **how), moments.estimate(blank, source, **how)
        texts.append({"source": Path(source).stem, "sha256": text.fingerprint(source), "tokens": C.tokens})
        about |= {"text": texts[-1]["sha256"], "other": text.fingerprint(other)}

        def at(layer: int, found: Read = found, C: Any = C, of_blank: Any = of_blank) -> dict[str, np.ndarray]:
            K = {name: by_layer[layer] for name, by_layer in found.keys.items()}
            random = overlap.whitened_products(asked[layer], Metric(of_blank.second_moment(layer)))
            return of_layer(K, random, found.keep, Metric(C.second_moment(layer)), sizes)

        rows = []
        for layer in layers:
            key = cache.key("texts", VERSION, layer=layer, **about)
            rows.append(cache.made(key, lambda layer=layer, at=at: at(layer)))
            say(f"{source}, layer {layer}")
        by_text.append({name: np.stack([row[name] for row in rows]) for name in rows[0]})
        beside = {name: np.triu(mask, 0 if name == KINSHIP[0] else 1) for name, mask in found.keep.items()}
        pairs[texts[-1]["source"]] = {name: int(mask.sum()) for name, mask in beside.items()}
    data = {
        "kind": "texts",
        "model": records.header(lm),
        "facts": {"source": "book", "sha256": facts.fingerprint("book"), "count": len(listed)},
        "texts": texts,
        "layers": layers,
        "d_m": d_m,
        "sets": list(SETS),
        "drawn": list(DRAWN),
        "kinship": list(KINSHIP),
        "pairs": pairs,
        "matrices": ["P", "cosine_whitened"],
        "statistics": list(shape.STATISTICS),
        "sizes": vars(sizes),
    }
    return data, {name: np.stack([rows[name] for rows in by_text]).astype(np.float32) for name in by_text[0]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the texts, or measure under them and write the record."""
    parser = argparse.ArgumentParser(prog="python experiments/texts.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("write").add_argument("folder", type=Path)
    measured = commands.add_parser("measure")
    measured.add_argument("model")
    measured.add_argument("--texts", nargs="+", required=True)
    measured.add_argument("--out", type=Path, required=True)
    words = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(words)
    if options.what == "write":
        write(options.folder)
        return 0
    data, arrays = measure(models.load(options.model), options.texts, Sizes())
    command = shlex.join(["python", "experiments/texts.py", *map(str, words)])
    records.write(options.out, data | {"provenance": records.provenance(command=command, seed=0)}, arrays)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
