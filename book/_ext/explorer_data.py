"""The data of the interactive explorer: overlaps of many facts at all layers, small enough for a page on disk.

``python book/_ext/explorer_data.py`` writes ``book/_static/explorer/data.js`` from the records. A page opened from disk
may not fetch a file, but it may run a script; so the script assigns the data to a global name. The whitened cosines are
kept with 8 bits each, companded (:func:`compand`), the keys' lengths as they are, and the page computes ``p`` both ways
from the two: ``p(k_i, k_j) = cos θ_ij ‖k_j‖ / ‖k_i‖`` (equation ``eq-superposition-angle``).
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from superposition import records
from superposition.data import facts
from superposition.errors import UserError
from superposition.io import files, paths
from superposition.records import Record

RECORDS = ("smollm2-400", "gemma3-400")
#: How many facts are shipped: ten a relation, since the table takes the relations in turn.
FACTS = 128
NAME = "superpositionExplorer"
TITLES = {"smollm2": "SmolLM2-135M", "gemma3": "Gemma 3 270M"}
STEPS = 127


def compand(cosines: Float[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
    """Cosines to 8 bits: ``q = round(127 √|c|)`` with the sign of ``c``; ``(q / 127)²`` is off by at most 0.0079."""
    return np.rint(STEPS * np.sign(cosines) * np.sqrt(np.abs(cosines))).astype(np.int8)


def cluster_order(cosines: Float[np.ndarray, "m m"]) -> Int[np.ndarray, " m"]:
    """Facts in the order of the leaves of a hierarchical clustering, average linkage on ``1 − cosine``.

    Of the orders that a tree allows, the one in which neighbours are most alike is taken.
    """
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    apart = 1 - np.asarray(cosines, dtype=np.float64)
    apart = (apart + apart.T) / 2
    np.fill_diagonal(apart, 0)
    tree = hierarchy.linkage(squareform(np.clip(apart, 0, None), checks=False), "average", optimal_ordering=True)
    return hierarchy.leaves_list(tree)


def build(names: Sequence[str | Path] = RECORDS, *, count: int = FACTS) -> str:
    """The script that a page runs to get the data of some records.

    Parameters
    ----------
    names : sequence of str or Path
        Records of the book's facts, see :func:`superposition.records.load`.
    count : int
        How many facts, from the first.

    Raises
    ------
    UserError
        A record is absent, holds fewer facts, or measured other facts; more than 255 facts.
    """
    if not 3 <= count <= 255:
        raise UserError(f"The explorer takes 3 to 255 facts, not {count}.")
    listed, known = facts.load("book", limit=count), facts.relations("book")
    ids = sorted({fact.relation for fact in listed}, key=[fact.relation for fact in listed].index)
    header: dict[str, Any] = {
        "facts": [[fact.subject, fact.prompt, fact.target_true, ids.index(fact.relation)] for fact in listed],
        "relations": [known[relation].name for relation in ids],
        "steps": STEPS,
        "models": [],
    }
    parts: list[bytes] = []
    for name in names:
        entry, arrays = _model(records.load(name), [fact.subject for fact in listed])
        header["models"].append(entry)
        parts += [array.tobytes() for array in arrays]
    packed = base64.b64encode(gzip.compress(b"".join(parts), compresslevel=9, mtime=0)).decode()
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
    made = "// Made by `python book/_ext/explorer_data.py`."
    return f'{made}\nwindow.{NAME} = {text};\nwindow.{NAME}.packed = "{packed}";\n'


def _model(record: Record, subjects: list[str]) -> tuple[dict[str, Any], list[np.ndarray]]:
    m = len(subjects)
    if record["subjects"][:m] != subjects:
        raise UserError(f"The record {record.name} does not hold the book's first {m} facts: measure them.")
    upper = np.triu_indices(m, 1)
    overlaps = [record.overlaps(layer) for layer in record["layers"]]
    cosines = [overlap.cosine_whitened[:m, :m] for overlap in overlaps]
    tokens, positions = record["token_ids"][:m], record["token_positions"][:m]
    entry = {
        "name": record["model"]["name"],
        "title": TITLES.get(record["model"]["name"], record["model"]["name"]),
        "record": record.name,
        "layers": record["layers"],
        "tokens": np.unique(tokens, return_inverse=True)[1].tolist(),
        "first": [i for i, position in enumerate(positions) if position == 0],
    }
    codes = np.stack([compand(cosine[upper]) for cosine in cosines])
    lengths = np.stack([overlap.norm_whitened[:m] for overlap in overlaps]).astype("<f4")
    orders = np.stack([cluster_order(cosine) for cosine in cosines]).astype(np.uint8)
    return entry, [codes, lengths, orders]


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", nargs="*", default=list(RECORDS), help="records of the book's facts")
    parser.add_argument("--facts", type=int, default=FACTS, help="how many facts, from the first")
    shipped = paths.data_dir().parent / "_static" / "explorer" / "data.js"
    parser.add_argument("--out", type=Path, default=shipped, help="the script to write")
    arguments = parser.parse_args(words)
    try:
        text = build(arguments.records or RECORDS, count=arguments.facts)
        files.write_whole(arguments.out, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except UserError as error:
        parser.exit(2, f"{error}\n")
    print(f"{arguments.out.name}: {len(text) / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
