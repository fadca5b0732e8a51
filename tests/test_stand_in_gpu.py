"""The library on a device that is not the CPU: everything is where it belongs, and nothing comes out differently."""

import json

import numpy as np
import pytest
import torch
from conftest import SENTENCES, tiny
from stand_in_gpu import OnGpu, stand_in_gpu

from superposition import editing
from superposition.data import facts, text
from superposition.editing import evaluation, forecast, targets
from superposition.errors import UserError
from superposition.linear import overlap
from superposition.lm import keys, moments, sampling, scoring, sums, tracing

FACTS = [
    facts.Fact(subject, "The home of {} is", target_true="Paris", target_new="Rome", paraphrases=(f"{subject} is in",))
    for subject in ("Rome", "New York", "Vienna", "Tokyo")
]
SETTINGS = editing.TargetSettings(steps=2)


def test_the_stand_in_refuses_what_a_gpu_refuses():
    with stand_in_gpu():
        there, here = torch.ones(3, 2, device="cuda"), torch.ones(3, 2)
        assert there.device == torch.device("cuda:0") and there.is_cuda and torch.cuda.is_available()
        for mixed in (lambda: there + here, lambda: there @ here.T, lambda: torch.cat([there, here])):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()
        with pytest.raises((RuntimeError, TypeError)):
            np.asarray(there)
        assert torch.equal((there + 1).cpu(), here + 1) and there.sum().item() == 6 and there.tolist() == here.tolist()
        there[[0, 2], torch.tensor([1, 0])] = 5  # indices may be on the CPU
        assert there.sum().item() == 14
        x = torch.ones(2, device="cuda", requires_grad=True)
        (x.square() * there[1]).sum().backward()
        assert isinstance(x.grad, OnGpu) and x.grad.tolist() == [2, 2]
    assert torch.cuda.is_available() is False


@pytest.fixture
def windows(tmp_path):
    words, rng = " ".join(SENTENCES).split(), np.random.default_rng(5)
    path = tmp_path / "text.jsonl"
    lines = (json.dumps({"text": " ".join(rng.choice(words, size=40))}) for _ in range(6))
    path.write_text("\n".join(lines), encoding="utf-8")
    return lambda model: text.windows(text.read(path), model.tokenizer, skip_first=1, context=48)


def everything(model, windows, tmp_path):
    """What the library computes with a model, from keys to edits, as NumPy arrays."""
    found, bits = {}, model.digest()
    read = keys.extract(model, FACTS)
    summed = moments.of_windows(model, windows(model), cache=False, to_cpu=False)
    whitening = summed.metric(1, shrinkage=0.01)
    C = moments.of_windows(model, windows(model), cache=False).second_moment(1, shrinkage=0.01)
    found |= {"K": read[1], "P": overlap.measure(read[1], whitening).P, "C": C, "condition": whitening.condition()}
    found["solved"] = whitening.solve(read[1])
    found["value"] = targets.search(model, FACTS, 1, SETTINGS).values
    editors = [editing.Editor(model, 1, name, C=C, settings=SETTINGS) for name in ("rome", "alphaedit")]
    editing.edit_side_by_side(editors, [FACTS[:2]] * 2, 4)
    found |= {editor.method: editor.memory.W for editor in editors}
    with editing.preserved(model):
        editors[0].apply()
        found["after"] = evaluation.evaluate(model, FACTS)["log_new"]
    with editing.preserved(model):
        editing.run(model, FACTS[:2], "ft", layer=1, write=editing.EditSettings(ft_steps=2))
        found["fine-tuned"] = model.layers[1].weight.detach().cpu().double().numpy().copy()
    reading = forecast.read(model, FACTS, 1)
    shift = np.full((*reading.keys.shape[:2], model.layers[1].d), 0.1)
    found |= {"gradient": reading.gradient, "shifted": forecast.ask(model, reading, shift).log_probability}
    found["perplexity"] = scoring.perplexity(model, windows(model))
    found["traced"] = tracing.trace(model, FACTS[0], samples=1)["restored"]
    scoring.generate(model, "The home of", 3)
    assert sampling.sample(model, tmp_path / "sampled.jsonl", tokens=30, length=16, batch=2) >= 30
    assert model.digest() == bits
    return {name: np.asarray(value, dtype=float) for name, value in found.items()}


@pytest.mark.skipif(bool(torch.version.cuda), reason="this PyTorch asks a driver for its GPUs")
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_library_computes_there_what_it_computes_here(architecture, windows, tmp_path, cache):
    here = everything(tiny(architecture), windows, tmp_path)
    with stand_in_gpu():
        model = tiny(architecture)
        model.model.to("cuda")
        assert model.device == torch.device("cuda:0")
        there = everything(model, windows, tmp_path)
    for name, value in here.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(there[name] / scale, value / scale, atol=2e-4, err_msg=name)


def test_narrow_keys_are_multiplied_as_they_are_and_summed_in_float32(windows, monkeypatch):
    """What a GPU's matrix units do: a product of two narrow numbers fits into float32."""
    keys_ = torch.randn(300, 7, generator=torch.Generator().manual_seed(0)).abs().to(torch.bfloat16)
    exact = (keys_.double().T @ keys_.double()).numpy()
    with stand_in_gpu():
        monkeypatch.setattr(sums, "_widen", lambda _: pytest.fail("widened"))
        for block in (None, 3):
            found = sums.outer_sum(keys_.to("cuda"), block=block)
            assert found.dtype == torch.float32 and found.is_cuda
            np.testing.assert_allclose(found.cpu(), exact, rtol=1e-5)
        model = tiny("llama")
        model.model.to(torch.bfloat16)
        model.model.to("cuda")
        summed = moments.of_windows(model, windows(model), cache=False, to_cpu=False)
    assert {str(one.device) for one in summed.outer.values()} == {"cuda:0"}
    model = tiny("llama")
    model.model.to(torch.bfloat16)
    monkeypatch.undo()
    there, here = summed.outer[0].held, moments.of_windows(model, windows(model), cache=False).outer[0]
    assert there.dtype == here.dtype == torch.float64
    np.testing.assert_allclose(
        there, here, rtol=0.02, atol=0.02 * float(here.abs().max())
    )  # attention rounds otherwise


@pytest.mark.usefixtures("unchecked")
def test_a_c_on_the_device_that_cannot_be_factorised_gets_the_same_sentence():
    with stand_in_gpu():
        for bad, said in (
            (torch.zeros(20, 20), "singular"),
            (torch.eye(20) * torch.nan, "NaN"),
            (torch.eye(3)[:2], "sq"),
        ):
            with pytest.raises(UserError, match=said):
                moments.DeviceMetric(bad.to("cuda"))
