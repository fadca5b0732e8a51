"""Compute numbers of the book once more, from the equations alone, and hold them to what the book prints.

    python experiments/recompute.py
    python experiments/recompute.py --only 18-law
    python experiments/recompute.py --live

A second pair of eyes: the records are read as JSON and arrays, and every statistic is written anew, from the equations
and the prose of the chapters (:mod:`recompute_overlaps`, :mod:`recompute_edits`); none is taken from the library. What
the prose leaves open, such as which facts count, is a convention, and stands in a comment where it is used. An interval
is drawn again with other random numbers, so its ends need only be near. ``--live`` runs the model, too: it reads the
text and the facts at one layer by plain hooks, and makes C and P.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

import recompute_edits  # noqa: F401 (it registers its checks)
from printed import CHECKS, Book, Compared, same_glued
from recompute_overlaps import P_of, beside, kurtosis, listed, record
from superposition.data import facts, text
from superposition.lm import models

#: The measurement that is made again, and how far its P may differ: it is kept in steps of 0.00014.
MEASURED, WITHIN = "smollm2-400", 1e-3


class Read(Exception):
    """The layer has been read: the rest of the pass is not needed."""


def keys_at(lm: models.LanguageModel, layer: int, ids: Sequence[int]) -> torch.Tensor:
    """What enters the down-projection at every position (T, d_m), by a hook that ends the pass (def-llm-key)."""
    seen: list[torch.Tensor] = []

    def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(inputs[0][0].double())
        raise Read

    handle = lm.model.model.layers[layer].mlp.down_proj.register_forward_pre_hook(hook)
    try:
        with torch.no_grad():
            lm.model(torch.tensor([list(ids)]))
    except Read:
        pass
    finally:
        handle.remove()
    return seen[0]


def second_moment(lm: models.LanguageModel, layer: int, tokens: int, context: int) -> np.ndarray:
    """``C = Σ k kᵀ / N`` over the first N tokens of the book's text, in windows of a text each (def-llm-moment)."""
    summed, left = 0.0, tokens
    for one in text.read("book"):
        ids = lm.tokenizer(one)["input_ids"]
        for start in range(0, len(ids), context):
            window = ids[start : start + context][:left]
            if window:
                keys = keys_at(lm, layer, window)
                summed, left = summed + keys.T @ keys, left - len(window)
    assert isinstance(summed, torch.Tensor) and left == 0, "the text holds fewer tokens"
    return summed.numpy() / tokens


def key_of(lm: models.LanguageModel, layer: int, fact: facts.Fact) -> np.ndarray:
    """The key at the token that holds the subject's last character."""
    encoded = lm.tokenizer(fact.text, return_offsets_mapping=True)
    end = fact.text.index(fact.subject, fact.prompt.index("{}")) + len(fact.subject) - 1
    # Convention: where several tokens hold that character, the last of them.
    held = [at for at, (start, stop) in enumerate(encoded["offset_mapping"]) if start <= end < stop]
    return keys_at(lm, layer, encoded["input_ids"])[held[-1]].numpy()


def live(book: Book, layer: int) -> Iterator[Compared]:
    """A layer of SmolLM2, from its weights to P, beside the record's P and statistics; the first beside chapter 13."""
    of, lm = record(MEASURED), models.load("smollm2")
    at = of["layers"].index(layer)
    C = second_moment(lm, layer, of["text"]["tokens"], of["text"]["context"])
    K = np.column_stack([key_of(lm, layer, fact) for fact in listed()[: of["facts"]["count"]]])
    products = K.T @ np.linalg.solve(C, K)
    P = products / np.diag(products)[:, None]
    off = float(np.abs(P - P_of(MEASURED, at)).max())
    yield Compared("live", f"layer {layer}: largest difference of P", f"below {WITHIN}", f"{off:.2g}", off < WITHIN)
    x, kept = beside(P), of["statistics"][at]["P"]
    for name, own in (("mean", x.mean()), ("sd", x.std()), ("excess_kurtosis", kurtosis(x))):
        told = same_glued(own, kept[name], ".4g")
        yield Compared("live", f"layer {layer}: {name}, beside the record", told.printed, told.own, told.agree)
    page, name = "13-scaling", "narrow_top_all"
    for shown in book.formats[page, name] if layer == of["layers"][0] else ():
        told = same_glued(kurtosis(x), book.glued[page][name], shown)
        yield Compared("live", f"layer {layer}: {page} {name}", told.printed, told.own, told.agree)


def compared(book: Book, only: str = "") -> Iterator[Compared]:
    """Every number of the checks whose page and name match a pattern."""
    for check in CHECKS:
        if re.search(only, " ".join((check.page, check.own.__name__, *check.names))):
            yield from check.compared(book)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the numbers side by side; 1 if any of them disagree."""
    parser = argparse.ArgumentParser(prog="python experiments/recompute.py", description=__doc__)
    parser.add_argument("--only", default="", help="a pattern for page, function or name")
    parser.add_argument(
        "--live", type=int, nargs="?", const=0, metavar="LAYER", help="run the model, by default layer 0"
    )
    asked = parser.parse_args(arguments)
    book, rows = Book(), []
    for row in [*compared(book, asked.only), *(() if asked.live is None else live(book, asked.live))]:
        rows.append(row)
        print(f"{row.place:95} {row.printed:>22} {row.own:>22}  {'agrees' if row.agree else 'DISAGREES'}")
    apart = [row for row in rows if not row.agree]
    print(f"{len(rows)} numbers of {len({row.page for row in rows})} pages; {len(apart)} disagree")
    return bool(apart)


if __name__ == "__main__":
    raise SystemExit(main())
