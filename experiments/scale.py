"""The paper's scale, timed: C of every layer and P of 128 facts, for random weights in the shape of Llama 2 13B.

Weights and tokens are random: what is measured is time and memory, not superposition. The sums stay on the device; the
layers' sums are held in as few groups as its memory allows, one pass over the tokens for each, and P follows group by
group.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from job import Job
from machine import matmul_rate, wait
from measuring import forward_flops
from superposition.data import text
from superposition.linear import overlap
from superposition.lm import models, moments
from superposition.lm.sums import outer_sum
from superposition.stats import shape

#: Width, hidden layer, layers, heads, vocabulary.
SHAPES = {"llama-2-13b": (5120, 13824, 40, 40, 32000), "small": (64, 172, 4, 4, 500)}
#: Tokens of the prompt of a fact.
PROMPT = 12
#: What the paper gives for Llama2-13B: "about a week on an A100".
PUBLISHED = {"model": "Llama2-13B", "device": "A100", "minutes": 7 * 24 * 60, "source": "arXiv 2408.07413"}
#: Device memory that is not given to the sums, in bytes: the activations of a pass and a few matrices of one layer.
RESERVED = 14e9


@dataclass(frozen=True)
class Sizes:
    """How large a run is.

    Parameters
    ----------
    shape : str
        Of :data:`SHAPES`.
    tokens : tuple of int
        One measurement for each.
    context, batch : int
        Tokens of a window, and windows of a forward pass.
    facts : int
    dtype : str
        Of the weights and the forward pass.
    multiplied : int
        Width of the square matrices whose products set the rate that the rest is held against.
    """

    shape: str = "llama-2-13b"
    tokens: tuple[int, ...] = (102_400, 1_024_000)
    context: int = 512
    batch: int = 16
    facts: int = 128
    dtype: str = "bfloat16"
    multiplied: int = 8192


TINY = Sizes("small", (1_024, 2_048), context=64, batch=4, facts=6, multiplied=256)


def random_model(shape: str, dtype: torch.dtype, device: torch.device) -> models.LanguageModel:
    """A model of a named shape with random weights, made where it will run; it has no tokenizer."""
    width, hidden, layers, heads, words = SHAPES[shape]
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        vocab_size=words,
        max_position_embeddings=4096,
    )
    torch.manual_seed(0)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(usual)
    return models.LanguageModel(model, None, models.find_layers(model), f"random {shape}")


def random_windows(words: int, tokens: int, context: int) -> list[text.Window]:
    """Windows of random tokens, all of one length but perhaps the last."""
    ids = np.random.default_rng(0).integers(0, words, size=tokens).tolist()
    cut = [ids[start : start + context] for start in range(0, tokens, context)]
    return [text.Window(tuple(part), 0, len(part)) for part in cut]


def last_keys(model: models.LanguageModel, prompts: torch.Tensor) -> dict[int, np.ndarray]:
    """Keys at the prompts' last token, (d_m, prompts) by layer, from one pass."""
    found: dict[int, np.ndarray] = {}

    def receive(layer: models.Layer, keys: torch.Tensor) -> None:
        found[layer.index] = keys[:, -1].double().cpu().numpy().T

    model.read_keys(prompts, torch.ones_like(prompts), model.layers, receive)
    return found


def rates(dtype: torch.dtype, device: torch.device, size: int) -> dict[str, float]:
    """Measured rates of square matrix products in TFLOP/s, and of a copy in TB/s (bytes read and written)."""
    found = {
        str(one).removeprefix("torch."): matmul_rate(one, size, device=device) / 1e12
        for one in dict.fromkeys((dtype, torch.float32, torch.float64))
    }
    source = torch.randn(16 * size**2, device=device)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(5):
        wait(device)
        began = time.perf_counter()
        target.copy_(source)
        wait(device)
        best = min(best, time.perf_counter() - began)
    return found | {"copy_tb_a_second": 2 * source.nbytes / best / 1e12}


def exactness(model: models.LanguageModel, cut: Sequence[text.Window], facts: int) -> dict[str, float]:
    """The device's sums of one pass at the middle layer against float64 sums of the very same keys: C, and P."""
    layer = model.layers[len(model.layers) // 2]
    ids = torch.tensor([window.token_ids for window in cut])
    seen: list[torch.Tensor] = []
    model.read_keys(ids, torch.ones_like(ids), [layer], lambda _layer, keys: seen.append(keys.flatten(0, 1)))
    fast, exact = outer_sum(seen[0]).double(), outer_sum(seen[0].double())
    some = seen[0][:facts].double().cpu().numpy().T
    ridge = float(exact.trace()) / len(exact) * torch.eye(len(exact), dtype=exact.dtype, device=exact.device)
    P = [overlap.superposition_matrix(some, moments.DeviceMetric(one + ridge)) for one in (fast, exact)]
    return {
        "tokens": len(seen[0]),
        "largest_difference_of_C": float((fast - exact).abs().max() / exact.abs().max()),
        "largest_difference_of_P": float(np.abs(P[0] - P[1]).max()),
    }


def sums_memory(model: models.LanguageModel) -> int | None:
    """Bytes for the sums held at once: what the device has left, less a reserve. None on a CPU: no limit."""
    if model.device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(model.device)
    return max(8 * model.layers[0].d_m ** 2, int(free - RESERVED))


def measure(
    model: models.LanguageModel, cut: Sequence[text.Window], facts: int, memory: int | None, batch: int | None = None
) -> tuple[dict[str, Any], dict[int, np.ndarray]]:
    """Seconds and bytes of C and P, and P by layer."""
    device, words = model.device, model.model.config.vocab_size
    prompts = torch.from_numpy(np.random.default_rng(1).integers(0, words, size=(facts, PROMPT)))
    few = cut[: batch or 1]
    ids = torch.tensor([window.token_ids for window in few])
    forward = float("inf")
    for _ in range(3):  # the first pass pays for more
        wait(device)
        began = time.perf_counter()
        model.read_keys(ids, torch.ones_like(ids), model.layers, lambda _layer, _keys: None)
        wait(device)
        forward = min(forward, (time.perf_counter() - began) / ids.numel())

    began = time.perf_counter()
    read = last_keys(model, prompts)
    key_seconds = time.perf_counter() - began
    groups = moments.layer_groups(model.layers, memory)
    c_seconds, p_seconds, found = 0.0, 0.0, {}
    for group in groups:
        wait(device)
        began = time.perf_counter()
        indices = [layer.index for layer in group]
        summed = moments.of_windows(model, cut, layers=indices, batch=batch, cache=False, to_cpu=False)
        wait(device)
        c_seconds += time.perf_counter() - began
        began = time.perf_counter()
        for layer in group:
            found[layer.index] = overlap.measure(read[layer.index], summed.metric(layer.index)).P
            del summed.outer[layer.index]
        p_seconds += time.perf_counter() - began
    tokens = sum(window.counted for window in cut)
    each = sum(forward_flops(model, window) for window in few) / ids.numel()
    total = each * tokens + sum(layer.d_m * (layer.d_m + 1) for layer in model.layers) * tokens
    seconds = key_seconds + c_seconds + p_seconds
    return {
        "tokens": tokens,
        "facts": facts,
        "groups": len(groups),
        "forward_tokens_a_second": round(1 / forward),
        "forward_tflops": round(each / forward / 1e12, 4),
        "c_seconds": round(c_seconds, 2),
        "c_tokens_a_second": round(tokens / c_seconds),
        "c_tflops": round(total / c_seconds / 1e12, 4),
        "key_seconds": round(key_seconds, 3),
        "p_seconds": round(p_seconds, 2),
        "minutes": round(seconds / 60, 3),
        "minutes_for_a_million": round((c_seconds / tokens * 1e6 + key_seconds + p_seconds) / 60, 2),
    }, found


def run(job: Job, sizes: Sizes, name: str = "at-scale") -> bool:
    """The stage: the same measurement on ever more tokens. True once all are done."""
    record = job.read(name)
    parts = record.get("parts", [])
    waiting = [tokens for tokens in sizes.tokens if tokens not in [part["tokens"] for part in parts]]
    if not waiting:
        return True
    began, dtype = time.perf_counter(), getattr(torch, sizes.dtype)
    model = random_model(sizes.shape, dtype, job.device)
    job.wait()
    width, words = model.layers[0].d_m, model.model.config.vocab_size
    job.say(f"{model.name}, {len(model.layers)} layers, made in {time.perf_counter() - began:.0f} s")
    few = random_windows(words, sizes.context * sizes.batch, sizes.context)
    record |= {
        "kind": "benchmark",
        "model": {"name": model.name, "layers": len(model.layers), "d": model.layers[0].d, "d_m": width},
        "dtype": sizes.dtype,
        "published": PUBLISHED,
        "rates_tflops": (measured := rates(dtype, job.device, sizes.multiplied)),
        "exactness": exactness(model, few, min(sizes.facts, len(few) * sizes.context)),
    }
    rate = measured[sizes.dtype]
    for tokens in waiting:
        if parts:
            last = parts[-1]
            needed = 1.15 * (last["c_seconds"] * tokens / last["tokens"] + last["key_seconds"] + last["p_seconds"])
            if not job.fits(needed, f"C from {tokens:,} tokens"):
                return False
        cut = random_windows(words, tokens, sizes.context)
        found, P = measure(model, cut, sizes.facts, sums_memory(model), sizes.batch)
        spread = [float(shape.off_diagonal(one).std() * width**0.5) for one in P.values()]
        parts.append(
            found
            | {
                "c_share_of_rate": round(found["c_tflops"] / rate, 3),
                "forward_share_of_rate": round(found["forward_tflops"] / rate, 3),
                "sd_of_p_in_1_over_root_d_m": [round(min(spread), 3), round(max(spread), 3)],
                "device_peak_gib": job.peak_gib(),
            }
        )
        job.say(f"{tokens:,} tokens: {found['minutes']:.2f} minutes, {parts[-1]['c_share_of_rate']:.0%} of the rate")
        job.write(name, record | {"parts": parts})
    return True
