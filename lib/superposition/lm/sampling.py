"""Calibration text from the model itself, where there is none at hand: ``superposition sample``."""

from __future__ import annotations

import hashlib
import json
import math
import time
from pathlib import Path

import torch

from superposition.errors import UserError
from superposition.io import console, files, paths
from superposition.lm.model import LanguageModel

#: Sampled texts with fewer tokens are left out, and after so many batches in a row without any other, sampling ends.
SHORTEST, FRUITLESS = 16, 5

#: The largest seed: what the batches' own seeds are made of fits PyTorch's 64 bits.
MOST_SEED = 10**12

#: Seeds of batches of one seed are consecutive, those of two seeds this far apart.
SEED_STEP = 1_000_003


def sample(
    model: LanguageModel,
    path: Path,
    *,
    tokens: int,
    seed: int = 0,
    length: int = 256,
    temperature: float = 0.8,
    batch: int = 64,
    seconds: float | None = None,
) -> int:
    """Sample texts from the model itself and write them as JSONL; return how many tokens they hold.

    Each text starts from the tokenizer's document separator and ends where the model ends it, or after ``length``
    tokens, or after as many as the model takes. Every batch draws from its own seed and is kept as soon as it is done,
    so that a run that was interrupted goes on where it stopped and gives the same file. With ``seconds``, no batch is
    begun later than that, and the texts may hold fewer tokens than asked for.

    Raises
    ------
    UserError
        ``tokens``, ``length``, ``batch`` or ``temperature`` is not positive; the temperature is infinite, or the seed
        too large; the model gives no text long enough.
    """
    if min(tokens, batch) < 1 or not 0 < temperature < math.inf:
        raise UserError("Tokens, batch and temperature must be positive, and the temperature finite.")
    if abs(seed) > MOST_SEED:
        raise UserError(f"A seed of {seed} is too large: give one from {-MOST_SEED} to {MOST_SEED}.")
    if length < SHORTEST:
        raise UserError(f"Texts of {length} tokens are too short: give a length of {SHORTEST} or more.")
    length = min(length, model.context_length or length)
    recipe = [model.sha256, seed, length, temperature, batch, str(model.dtype), "v1"]
    key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
    kept = paths.cache_dir() / "samples" / key
    total, texts, number, fruitless, keep, began = 0, [], 0, 0, True, time.monotonic()
    with console.bar(total=tokens, what="sampling", unit="tok") as bar:
        while total < tokens and not (total and seconds is not None and time.monotonic() - began > seconds):
            part = kept / f"{number:05d}.json"
            rows = _kept(part)
            if rows is None:
                torch.manual_seed(seed * SEED_STEP + number)
                rows = _draw(model, batch, length, temperature)
                if keep:
                    keep = _keep(part, rows)
            before = total
            for text in rows:
                count = len(model.tokenizer(text)["input_ids"])
                if count >= SHORTEST and total < tokens:
                    texts.append(text)
                    total += count
                    bar.update(count)
            number += 1
            fruitless = fruitless + 1 if total == before else 0
            if fruitless == FRUITLESS:
                raise UserError(
                    f"{model.name} ends its texts at once: no text of {SHORTEST} tokens in {FRUITLESS} batches; "
                    "give a text of your own."
                )
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    files.write_whole(Path(path), lambda temporary: temporary.write_text(lines, encoding="utf-8", newline="\n"))
    return total


def _draw(model: LanguageModel, batch: int, length: int, temperature: float) -> list[str]:
    """As many texts as ``batch``, each from the document separator to where the model ends it, or ``length`` tokens."""
    tokenizer = model.tokenizer
    ends = [tokenizer.convert_tokens_to_ids("<|endoftext|>"), tokenizer.bos_token_id, tokenizer.eos_token_id]
    start = next((i for i in ends if i is not None and i != tokenizer.unk_token_id), 0)
    stops = sorted({i for i in ends if i is not None}) or None
    prompt = torch.full((batch, 1), start, device=model.device)
    with torch.inference_mode():
        drawn = model.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=length,
            eos_token_id=stops,
            pad_token_id=stops[0] if stops else None,
        )
    return [tokenizer.decode(row[1:], skip_special_tokens=True).strip() for row in drawn.tolist()]


def _keep(part: Path, rows: list[str]) -> bool:
    """Keep a batch's texts for a run that goes on; where they cannot be, say so and return False."""
    try:
        files.write_json(part, rows)
    except UserError as error:
        console.warn(f"The texts are not kept in the cache, so an interrupted run begins anew. {error}")
        return False
    return True


def _kept(part: Path) -> list[str] | None:
    """The texts of a batch that an earlier run kept, if it did and they are whole."""
    rows = files.kept_json(part)
    return rows if isinstance(rows, list) and all(isinstance(row, str) for row in rows) else None
