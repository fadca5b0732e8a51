"""Linear layers by oneDNN: the products of PyTorch's own, their derivatives, and padding left out."""

from __future__ import annotations

import pytest
import torch
from conftest import ARCHITECTURES, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from superposition.lm import passes, products

pytestmark = pytest.mark.skipif(not products.available(), reason="PyTorch here has no oneDNN beside MKL")


def layer(seed: int, rows_in: int, out: int, bias: bool = True) -> products.Linear:
    torch.manual_seed(seed)
    made = nn.Linear(rows_in, out, bias=bias)
    products.use(made)
    return made


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 30), st.integers(1, 30), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_layer_gives_what_pytorchs_own_gives_and_so_do_its_derivatives(seed, tokens, width, out, bias):
    ours, x = layer(seed, width, out, bias), torch.randn(2, tokens, width)
    assert type(ours) is products.Linear
    theirs = nn.Linear(width, out, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    assert type(theirs) is nn.Linear
    answers, gradients = [], []
    for each in (ours, theirs):
        given_ = x.clone().requires_grad_()
        answers.append(each(given_))
        gradients.append(torch.autograd.grad(answers[-1].square().sum(), [given_, *each.parameters()]))
    torch.testing.assert_close(*answers, rtol=1e-5, atol=1e-5)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


@given(st.lists(st.integers(1, 30), min_size=2, max_size=8), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_padding_is_left_out_and_the_rest_is_as_it_was(lengths, seed):
    _, mask = passes.padded([[1] * length for length in lengths])
    ours, x = layer(seed, 5, 7), torch.randn(*mask.shape, 5)
    inside, padding = mask.bool(), mask.numel() - int(mask.sum())
    plain = ours(x)
    for shape in (mask.shape, (mask.numel(),)):  # some models hand on (batch · tokens, d)
        given_ = x.reshape(*shape, 5).clone().requires_grad_()
        with products.own_tokens(mask):
            found = ours(given_)
        (gradient,) = torch.autograd.grad((found * found.detach()).sum(), given_)
        found, gradient = found.reshape(*mask.shape, 7), gradient.reshape(*mask.shape, 5)
        torch.testing.assert_close(found[inside], plain[inside], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradient[inside], (plain @ ours.weight)[inside], rtol=1e-4, atol=1e-4)
        if padding >= max(products.PADDED, products.PADDING * mask.numel()):
            assert not found[~inside].any() and not gradient[~inside].any()
    assert torch.equal(ours(x), plain)


@pytest.mark.parametrize("rows", [2, 40])
def test_oneDNN_is_given_arrays_in_rows_however_they_come(rows, monkeypatch):
    seen, product = [], torch.ops.mkldnn._linear_pointwise

    def look(x, W, *rest):
        seen.append(x.is_contiguous() and (W.is_contiguous() or W.T.is_contiguous()))
        return product(x, W, *rest)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", look)
    wide, x = torch.randn(7, 10), torch.randn(5, rows).T.requires_grad_()
    answers = [products._Linear.apply(x, W, None, None) for W in (wide[:, ::2], wide[:, :5], wide[:5].T[:7, :5])]
    for answer, W in zip(answers, (wide[:, ::2], wide[:, :5], wide[:5].T[:7, :5]), strict=True):
        torch.testing.assert_close(answer, x @ W.T, rtol=1e-5, atol=1e-5)
        torch.autograd.grad(answer.sum(), x)  # the gradient is one number, expanded
    assert len(seen) == 6 and all(seen)


def test_what_is_no_float32_matrix_on_a_cpu_is_left_to_pytorch(monkeypatch):
    ours = layer(0, 3, 4)
    vector = torch.randn(3)
    torch.testing.assert_close(ours(vector), ours.weight @ vector + ours.bias)
    monkeypatch.setattr(products, "_product", lambda *_: pytest.fail("by oneDNN"))
    ours.to(torch.bfloat16)(torch.randn(2, 3, dtype=torch.bfloat16))
    ours.to(torch.float64)(torch.randn(2, 3, dtype=torch.float64))
    ours.to("meta", torch.float32)(torch.randn(2, 3, device="meta"))


def test_where_the_operator_is_gone_or_gives_something_else_pytorchs_own_is_taken(monkeypatch):
    def gone(*_):
        raise AttributeError("no such operator")

    for product in (gone, lambda x, W, bias: x @ W.T):
        monkeypatch.setattr(products, "_product", product)
        products.available.cache_clear()
        assert not products.available()
        plain = nn.Linear(2, 2)
        products.use(plain)
        assert type(plain) is nn.Linear
    monkeypatch.undo()
    products.available.cache_clear()
    assert products.available()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_gives_the_same_at_its_own_tokens_with_and_without(architecture):
    """Right and left padding; the model as loaded, and with PyTorch's own products."""
    model = tiny(architecture)
    texts = [[3] * 29 + [5], [4, 6, 7], [8, 9]]
    for side in ("right", "left"):
        ids, mask = passes.padded(texts, side)
        states = []
        for kind in (products.Linear, nn.Linear):
            for module in model.model.modules():
                if isinstance(module, nn.Linear):
                    module.__class__ = kind
            with torch.inference_mode():
                states.append(passes.run_body(model, ids, mask, use_cache=False).last_hidden_state[mask.bool()])
        torch.testing.assert_close(*states, rtol=1e-4, atol=1e-4)
