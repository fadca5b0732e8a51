"""Every architecture that transformers has a causal language model for, built small: exact, or refused in a sentence.

The outcome of each stands in a table of ``book/reproduce.md``, which this test holds to what it finds. To write the
table anew: ``python tests/test_census.py``.
"""

import re
import sys
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import COMMON, GPT, VOCABULARY, build, tokenizer
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KINDS

from superposition import editing
from superposition.data import facts
from superposition.editing import targets
from superposition.errors import UserError
from superposition.lm import keys, models, passes, scoring, tracing

pytestmark = pytest.mark.usefixtures("cache")

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "book" / "reproduce.md"
FACTS = [
    facts.Fact("France", "The capital of {} is", "Paris", "Rome"),
    facts.Fact("Tokyo", "{} is a city in", "Japan", "Spain"),
]
LAYER, SETTINGS = 1, editing.TargetSettings(steps=2)
#: A model with more parameters than this, or a configuration wider than this, is not built here.
PARAMETERS, WIDTH = 5e6, 64

#: Settings that many configurations know, under their several names.
GENERAL = COMMON | GPT
GENERAL |= {"num_key_value_heads": 1, "head_dim": 12, "ffn_dim": 40, "word_embed_proj_dim": 24, "d_model": 24}
GENERAL |= {"sliding_window": 8, "rotary_dim": 4, "moe_intermediate_size": 16, "num_experts": 2, "num_local_experts": 2}
GENERAL |= {"num_experts_per_tok": 1}
#: Further settings of some.
OWN = {
    "gemma3n_text": {"num_kv_shared_layers": 0, "layer_types": ["full_attention"] * 3, "laurel_rank": 4}
    | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY, "activation_sparsity_pattern": None},
    "gemma4_text": {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY, "global_head_dim": 12}
    | {"num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
    "codegen": {"n_head": 4, "num_attention_heads": 4},
    "deepseek_v3": (LATENT := {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "kv_lora_rank": 8})
    | {
        "q_lora_rank": 8,
        "head_dim": 8,
        "first_k_dense_replace": 1,
        "n_routed_experts": 2,
        "n_group": 1,
        "topk_group": 1,
    },
    "minicpm3": LATENT | {"q_lora_rank": 8, "num_key_value_heads": 2},
    "youtu": LATENT | {"q_lora_rank": 8, "head_dim": 8, "num_key_value_heads": 2},
    "stablelm": {"partial_rotary_factor": 0.5},
    "falcon_h1": {"mamba_d_ssm": 16, "mamba_n_heads": 2, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_chunk_size": 8},
    "gpt_neo": {"num_layers": 3, "num_heads": 2, "attention_types": [[["global"], 3]]},
    "qwen3_5_text": {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8}
    | {"linear_value_head_dim": 8, "linear_conv_kernel_dim": 4, "num_hidden_layers": 4},
}

#: Whether another transformers is installed than the table was made with, which may know other types.
OTHERS = f"transformers=={transformers.__version__}" not in (ROOT / "requirements.txt").read_text().split()

EXACT, WHOLE = "exact", "exact; target values from whole texts at every step"
EXPERTS, NAMES = "refused: a mixture of experts", "refused: a down-projection by a known name is not in every layer"
OTHER, LARGE = (
    "refused: no causal language model on token ids alone",
    "not tried: no small model of it can be built here",
)
OUTCOMES = [EXACT, WHOLE, EXPERTS, NAMES, OTHER, LARGE]


def small(kind):
    """A tiny random model of this type; None where its configuration does not allow one."""
    mine = OWN.get(kind, {})
    for settings in (GENERAL | mine, COMMON | mine, COMMON | GPT | mine):
        settings = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 0} | settings
        try:
            config = AutoConfig.for_model(kind, **settings)
            text = config.get_text_config()
            if max(getattr(text, "hidden_size", 0), 8 * getattr(text, "num_hidden_layers", 0)) > WIDTH:
                continue
            with torch.device("meta"):
                outline = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            if sum(parameter.numel() for parameter in outline.parameters()) > PARAMETERS:
                continue
            return build(kind, **settings)
        except Exception:  # of a configuration that wants other settings: any kind
            continue
    return None


def outcome(kind):
    """What becomes of a model of this type; raises where the library would get it wrong or ends in a traceback."""
    model = small(kind)
    if model is None:
        return LARGE
    try:
        lm = models.LanguageModel(model, tokenizer(), models.find_layers(model), kind)
        passes.check(lm)
    except UserError as error:
        said = str(error)
        assert "\n" not in said
        return EXPERTS if "a mixture of experts" in said else NAMES if said.startswith("No down-projection") else OTHER
    assert_exact(lm)
    return EXACT if lm.cached_search[LAYER] else WHOLE


def own_pass(lm, ids):
    """The model's own log-probabilities (tokens, vocabulary) of a text, and what enters each down-projection."""
    caught = {}
    hooks = [
        layer.module.register_forward_pre_hook(lambda _m, x, i=layer.index: caught.__setitem__(i, x[0].clone()))
        for layer in lm.layers
    ]
    with torch.no_grad():
        logs = lm.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    for hook in hooks:
        hook.remove()
    return logs, caught


def assert_exact(lm):
    """Keys, probabilities, target values and an edit against the model's own forward pass."""
    read = keys.extract(lm, FACTS)
    scores = scoring.score(lm, [fact.text for fact in FACTS], [fact.target_true for fact in FACTS])
    for number, fact in enumerate(FACTS):
        joined = scoring.join(lm.tokenizer, fact.text, fact.target_true)
        logs, caught = own_pass(lm, joined.token_ids)
        place = keys.locate(lm.tokenizer, fact).position
        for layer in lm.layers:
            key = caught[layer.index].reshape(-1, layer.d_m)[place].double().numpy()
            np.testing.assert_allclose(read[layer.index][:, number], key, rtol=1e-3, atol=1e-4 * abs(key).max())
        own = sum(float(logs[joined.first - 1 + at, token]) for at, token in enumerate(joined.target))
        np.testing.assert_allclose(scores.log_probability[number], own, rtol=1e-4, atol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = targets.search(lm, FACTS, LAYER, SETTINGS)
    slow = targets.search(lm, FACTS, LAYER, SETTINGS, cached=False)
    np.testing.assert_allclose(found.values, slow.values, rtol=1e-2, atol=1e-2 * abs(slow.values).max())
    before = lm.digest()
    with editing.preserved(lm):
        editor = editing.Editor(lm, LAYER, "rome", C=np.eye(lm.layers[LAYER].d_m), settings=SETTINGS)
        editor.store(found)
        written = lm.layers[LAYER].weight.double().numpy() @ found.keys[:, -1:] + editor._bias()
        np.testing.assert_allclose(written[:, 0], found.values[:, -1], rtol=1e-3, atol=1e-3 * abs(found.values).max())
    assert lm.digest() == before


def table():
    """The outcomes on the page, by type of model."""
    rows = re.findall(r"^\| ([^|]+) \| (`[^|]+`) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {kind: said for said, listed in rows if said in OUTCOMES for kind in re.findall(r"`([^`]+)`", listed)}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_model_of_this_type_is_exact_or_refused(kind):
    found = outcome(kind)
    assert found == table().get(kind, found if OTHERS else None)


def test_tracing_refuses_states_that_it_cannot_put_back():
    model = small("gemma3n_text")
    lm = models.LanguageModel(model, tokenizer(), models.find_layers(model), "gemma3n")
    with pytest.raises(UserError, match=r"hand on more than one state a token, .*: trace with kind mlp"):
        tracing.trace(lm, FACTS[0], samples=1)
    assert 0 <= tracing.trace(lm, FACTS[0], kind="mlp", samples=1)["clean"] <= 1


@pytest.mark.skipif(OTHERS, reason="the table is of the pinned transformers")
def test_the_table_names_no_other_types():
    assert set(table()) == set(KINDS)


if __name__ == "__main__":
    found = defaultdict(list)
    for kind in sys.argv[1:] or sorted(KINDS):
        try:
            found[outcome(kind)].append(kind)
        except Exception as error:
            found[f"WRONG {type(error).__name__} {str(error)[:300]}"].append(kind)
    for said in [*OUTCOMES, *(said for said in found if said not in OUTCOMES)]:
        if found[said]:
            print(f"| {said} | {', '.join(f'`{kind}`' for kind in found[said])} |")
