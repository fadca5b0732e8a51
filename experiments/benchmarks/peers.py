"""The covariance and an edit as ROME's and EasyEdit's code go about them, beside the library's way.

    python experiments/benchmarks/peers.py --out book/records/benchmark-peers.json

Neither is to be had from the package registries, so their published procedures are written here plainly, with the
library's own settings, so that the same numbers must come out, and with PyTorch's own linear layers. *Covariance*: for
each layer a pass over the text, which stops at the layer, keys summed in float32. *Edit*: every step of the search runs
all texts through the whole model, with logits at every position, and back; then the value is written along ``C⁻¹k``.
Both sides factorise C anew for each edit here, though both can keep that.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import machine
from editing import drawn, median_of
from superposition import editing, records
from superposition.data import facts, text
from superposition.editing import TargetSettings
from superposition.lm import keys, models, moments, passes, scoring


def covariance(model: models.LanguageModel, layer: models.Layer, cut: Sequence[text.Window], size: int) -> torch.Tensor:
    """``K Kᵀ / N`` of one layer (d_m, d_m), by a pass of its own over the text, ``size`` windows at a time."""
    total, count = torch.zeros(layer.d_m, layer.d_m), 0
    for start in range(0, len(cut), size):
        group = cut[start : start + size]
        ids, mask = passes.padded([window.token_ids for window in group])
        counted = torch.zeros_like(mask, dtype=torch.bool)
        for row, window in enumerate(group):
            counted[row, window.first : window.stop] = True
        seen: list[torch.Tensor] = []

        def keep(_module: Any, inputs: tuple[torch.Tensor, ...], seen: list[torch.Tensor] = seen) -> None:
            seen.append(inputs[0])
            raise passes.Enough

        with torch.no_grad(), passes.hooked((layer.module, keep), before=True), suppress(passes.Enough):
            model.model(ids, attention_mask=mask, use_cache=False)
        K = seen[0][counted]  # (tokens, d_m)
        total += K.T @ K
        count += len(K)
    return total / count


def target(
    model: models.LanguageModel, fact: facts.Fact, layer: models.Layer, settings: TargetSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """The layer's answer at the subject of the bare prompt, and the shift that makes the model say the new object."""
    asked = [replace(fact, prompt=context + fact.prompt) for context in settings.contexts]
    new = str(fact.target_new)
    joined = [scoring.join(model.tokenizer, one.text, new, one.joint_to(new)) for one in asked]
    essence = keys.locate(model.tokenizer, replace(fact, prompt=settings.kl_prompt))
    subjects = [scoring.subject_of(one, text) for one, text in zip(asked, joined, strict=True)]
    subjects = torch.tensor([*subjects, essence.position])
    ids, mask = passes.padded([*(one.token_ids for one in joined), essence.token_ids])
    rows = torch.arange(len(ids))
    shift = torch.zeros(layer.d, requires_grad=True)
    before: dict[str, torch.Tensor] = {}

    def add(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        before.setdefault("answer", output[0, subjects[0]].detach())
        return output.index_put((rows, subjects), shift.expand(len(rows), -1), accumulate=True)

    length, adam = None, None
    for step in range(settings.steps + 1):
        with passes.hooked((layer.module, add)):
            logs = model.model(ids, attention_mask=mask, use_cache=False).logits.log_softmax(2)
        likely = [
            logs[row, one.first - 1 : one.first - 1 + len(one.target)]
            .gather(1, torch.tensor(one.target)[:, None])
            .mean()
            for row, one in enumerate(joined)
        ]
        misfit, kind = -torch.stack(likely).mean(), logs[-1, len(essence.token_ids) - 1]
        before.setdefault("kind", kind.detach())
        if length is None or adam is None:
            length = before["answer"].norm()
            adam = torch.optim.Adam([shift], lr=settings.lr * float(length) / layer.d**0.5)
        divergence = (before["kind"].exp() * (before["kind"] - kind)).sum()
        size = shift.square().sum().clamp(min=1e-30).sqrt()
        loss = misfit + settings.kl_factor * divergence + settings.weight_decay * size / length
        if step == settings.steps or float(misfit.detach()) < -np.log(settings.stop_probability):
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            shift *= (settings.clamp_norm_factor * length / shift.norm()).clamp(max=1)
    return before["answer"], shift.detach()


def edit(
    model: models.LanguageModel, fact: facts.Fact, layer: models.Layer, C: torch.Tensor, settings: TargetSettings
) -> torch.Tensor:
    """What ROME adds to W, (d, d_m): C inverted, the key read, the target found, the rank-one change made."""
    inverse = torch.inverse(C)
    located = keys.locate(model.tokenizer, fact)
    seen: list[torch.Tensor] = []
    with torch.no_grad(), passes.hooked((layer.module, lambda _, inputs, __: seen.append(inputs[0]))):
        model.model(torch.tensor([located.token_ids]))
    k = seen[0][0, located.position]
    _, shift = target(model, fact, layer, settings)
    direction = inverse @ k
    return torch.outer(shift, direction / (direction @ k))


def ours(model: models.LanguageModel, fact: facts.Fact, layer: models.Layer, C: np.ndarray) -> torch.Tensor:
    """The library's change of W for the same edit, (d, d_m)."""
    with editing.preserved(model):
        editor = editing.Editor(model, layer.index, C=C)
        editor.edit([fact])
        return torch.from_numpy(editor.memory.W - editor.memory.W_0)


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    """How far two arrays are apart, as a share of the second, to two digits."""
    return float(f"{float((one.double() - other.double()).norm() / other.double().norm()):.1e}")


def measured(model: models.LanguageModel, plain: models.LanguageModel, options: argparse.Namespace) -> dict[str, Any]:
    """Both ways for C of a few layers and for a few edits, one after the other; ``plain`` is for theirs."""
    layer, repeats = model.layers[options.layer], options.repeats
    cut = sorted(
        text.windows(text.read("book"), model.tokenizer, tokens=options.tokens), key=lambda one: -len(one.token_ids)
    )
    size = max(1, moments.TOKENS_A_PASS // len(cut[0].token_ids))
    chosen = sorted({0, len(model.layers) // 2, len(model.layers) - 1})
    passed = [median_of(lambda i=i: covariance(plain, plain.layers[i], cut, size), repeats) for i in chosen]
    together, summed = median_of(lambda: moments.of_windows(model, cut, cache=False), repeats)
    C = summed.second_moment(layer.index)
    listed = drawn(model, options.facts)
    settings = TargetSettings()
    theirs = [
        median_of(lambda f=f: edit(plain, f, plain.layers[layer.index], torch.from_numpy(C).float(), settings), repeats)
        for f in listed
    ]
    own = [median_of(lambda f=f: ours(model, f, layer, C), repeats) for f in listed]
    per_layer = statistics.mean(seconds for seconds, _ in passed)
    return {
        "covariance": {
            "tokens": summed.tokens,
            "layers": len(model.layers),
            "slice_layers": chosen,
            "seconds_a_layer": [round(seconds, 2) for seconds, _ in passed],
            "seconds_all_layers": round(per_layer * len(model.layers), 1),
            "ours_all_layers": round(together, 2),
            "difference": max(
                relative(found, torch.from_numpy(summed.second_moment(i)))
                for i, (_, found) in zip(chosen, passed, strict=True)
            ),
        },
        "edit": {
            "layer": layer.index,
            "facts": len(listed),
            "seconds": round(statistics.mean(seconds for seconds, _ in theirs), 2),
            "ours": round(statistics.mean(seconds for seconds, _ in own), 2),
            "difference": max(relative(one, other) for (_, one), (_, other) in zip(theirs, own, strict=True)),
        },
    }


def main() -> None:
    parser = machine.parser(__doc__, "of everything that is timed")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--layer", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--facts", type=int, default=5)
    options = parser.parse_args()
    rate = machine.rates()
    print(machine.said(rate))
    model, plain = models.load(options.model), models.load(options.model)
    for module in plain.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.__class__ = torch.nn.Linear
    with machine.load() as load:
        data = {"kind": "benchmark", "model": records.header(model, architecture=False), "repeats": options.repeats}
        data |= measured(model, plain, options)
    data["matmul_gflops"] = machine.gflops(rate)
    machine.keep(data, load, model.device, options.out)
    C, one = data["covariance"], data["edit"]
    print(
        f"C of {C['layers']} layers, {C['tokens']:,} tokens: a pass a layer {C['seconds_all_layers']} s, "
        f"the library {C['ours_all_layers']} s; the same within {C['difference']:.0e}"
    )
    print(f"an edit: {one['seconds']} s, the library {one['ours']} s; the same change within {one['difference']:.0e}")
    print(machine.told(load))


if __name__ == "__main__":
    main()
