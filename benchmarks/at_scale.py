"""The paper's scale, timed: C of every layer and P of 128 facts, for random weights in the shape of Llama 2 13B.

    python benchmarks/at_scale.py --out book/records/at-scale.json               # on a GPU with 80 GB
    python benchmarks/at_scale.py --shape small --tokens 4096 --facts 16         # a try on any machine

Weights and tokens are random: what is measured is time and memory, not superposition. The layers' sums are held in as
few groups as ``--memory`` allows, one pass over the tokens for each, and P follows group by group.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent))
from measuring import forward_flops, matmul_rate, wait
from superposition import models, moments, overlap, records, text

#: Width, hidden layer, layers, heads, vocabulary.
SHAPES = {"llama-2-13b": (5120, 13824, 40, 40, 32000), "small": (64, 172, 4, 4, 500)}

#: Tokens of the prompt of a fact.
PROMPT = 12


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


def measure(
    model: models.LanguageModel, cut: list[text.Window], facts: int, memory: int | None, batch: int | None = None
) -> tuple[dict[str, Any], dict[int, np.ndarray]]:
    """Seconds and bytes of C and P, and P by layer."""
    device, words = model.device, model.model.config.vocab_size
    prompts = torch.from_numpy(np.random.default_rng(1).integers(0, words, size=(facts, PROMPT)))
    few = cut[: batch or 1]
    ids = torch.tensor([window.token_ids for window in few])
    model.read_keys(ids, torch.ones_like(ids), model.layers, lambda _layer, _keys: None)  # the first pass pays for more
    wait(device)
    began = time.perf_counter()
    model.read_keys(ids, torch.ones_like(ids), model.layers, lambda _layer, _keys: None)
    wait(device)
    forward = (time.perf_counter() - began) / ids.numel()

    began = time.perf_counter()
    read = last_keys(model, prompts)
    key_seconds = time.perf_counter() - began
    groups = moments.layer_groups(model.layers, memory)
    c_seconds, p_seconds, found = 0.0, 0.0, {}
    for group in groups:
        wait(device)
        began = time.perf_counter()
        summed = moments.of_windows(model, cut, layers=[layer.index for layer in group], batch=batch, cache=False)
        wait(device)
        c_seconds += time.perf_counter() - began
        began = time.perf_counter()
        for layer in group:
            whitening = moments.Whitening(summed.second_moment(layer.index))
            found[layer.index] = overlap.measure(read[layer.index], whitening).P
            del summed.outer[layer.index]
        p_seconds += time.perf_counter() - began
        print(f"layers {group[0].index} to {group[-1].index}: C {c_seconds:.0f} s, P {p_seconds:.0f} s", flush=True)
    tokens = sum(window.counted for window in cut)
    flops = sum(forward_flops(model, window) for window in few) / ids.numel()
    rate = matmul_rate(model.dtype, 1536 if device.type == "cpu" else 8192, device=device)
    return {
        "layers": len(model.layers),
        "d": model.layers[0].d,
        "d_m": model.layers[0].d_m,
        "dtype": str(model.dtype).removeprefix("torch."),
        "tokens": tokens,
        "facts": facts,
        "groups": len(groups),
        "matmul_tflops": round(rate / 1e12, 2),
        "forward_tokens_a_second": round(1 / forward),
        "forward_share_of_rate": round(flops / forward / rate, 3),
        "c_seconds": round(c_seconds, 1),
        "c_tokens_a_second": round(tokens / c_seconds),
        "c_minutes_for_a_million": round(c_seconds / tokens * 1e6 / 60, 1),
        "key_seconds": round(key_seconds, 2),
        "p_seconds": round(p_seconds, 1),
        "device_peak_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 1) if device.type == "cuda" else None,
    }, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="llama-2-13b")
    parser.add_argument("--tokens", type=int, default=102_400)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--facts", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8, help="windows a forward pass")
    parser.add_argument("--memory", type=float, default=40.0, help="GB for the sums held at once")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    began = time.perf_counter()
    model = random_model(options.shape, getattr(torch, options.dtype), device)
    wait(device)
    made = time.perf_counter() - began
    cut = random_windows(model.model.config.vocab_size, options.tokens, options.context)
    found, _ = measure(model, cut, options.facts, int(options.memory * 1e9), options.batch)
    data = {
        "kind": "benchmark",
        "model": {"name": model.name},
        "make_seconds": round(made, 1),
        **found,
        "provenance": records.provenance(
            command="python " + " ".join(["benchmarks/at_scale.py", *sys.argv[1:]]), device=device, seed=0
        ),
    }
    if options.out:
        records.write(options.out, data)
    for name, value in found.items():
        print(f"{name:>26}  {value}")


if __name__ == "__main__":
    main()
