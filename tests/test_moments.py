"""C against a naive sum over tokens; the cache, the interruption, and what a singular or spoilt C is told."""

import errno
import json
import os
import re
import signal
import warnings
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
from conftest import tiny, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from test_keys import close, out_of_memory

from superposition.data import facts, text
from superposition.errors import UserError
from superposition.io import console, files
from superposition.linear import overlap, shrinkage
from superposition.linear.metric import Metric
from superposition.lm import keys as reader
from superposition.lm import models, moments
from superposition.lm import sums as summing

pytestmark = pytest.mark.usefixtures("cache")

SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(params=["gpt2", "gemma3_text"])
def model(request):
    return tiny(request.param)


# How many tokens


@pytest.mark.parametrize(
    ("d_m", "options", "counted", "said"),
    [
        (10, {}, 160, None),  # as many as are wanted
        (
            100,
            {},
            887,
            r"holds 887 tokens, 8\.9 for each dimension of C in place of 16: the standard error of p is 1\.4",
        ),
        (100, {"tokens": 300}, 300, None),
        (100, {"tokens": 100}, 100, None),
        (100, {"tokens": 50, "shrinkage": 0.1}, 50, None),
        (300, {"shrinkage": "oas"}, 887, "standard error of p is 2.8 times"),
        (2000, {"shrinkage": 0.5}, 887, None),
    ],
)
def test_the_plan_takes_what_the_text_has_and_says_what_that_costs(corpus, recwarn, d_m, options, counted, said):
    have = text.count(text.read(corpus), tokenizer())
    assert moments.plan(tokenizer(), corpus, d_m, **options) == (have if counted == 887 else counted)
    notes = [str(one.message) for one in recwarn]
    if said is None:
        assert notes == []
    else:
        (note,) = notes
        assert re.search(said.replace("887", f"{have:,}"), note)


@pytest.mark.parametrize(
    ("d_m", "options", "sentence"),
    [
        (300, {}, "holds .* tokens, and C of width 300 takes at least 1,200: give a longer --text, let `sample` write"),
        (100, {"tokens": 99}, "C of width 100 is singular when estimated from 99 tokens"),
        (100, {"tokens": 1}, "C of width 100 is singular when estimated from 1 tokens"),
        (100, {"tokens": 5000}, "tokens and 5,000 were asked for: .* or ask for fewer --tokens"),
        (100, {"tokens": -1}, "-1 tokens were asked for"),
        (100, {"tokens": 0}, "0 tokens were asked for"),
    ],
)
def test_a_plan_that_cannot_be_kept_is_refused(corpus, d_m, options, sentence):
    with pytest.raises(UserError, match=sentence):
        moments.plan(tokenizer(), corpus, d_m, **options)


def test_a_statistics_file_of_romes_code_gives_the_moment(corpus, tmp_path):
    model = tiny()
    summed = moments.estimate(model, corpus, layers=[1], cache=False)
    path = tmp_path / "model.layers.1.mlp.down_proj_float32_mom2_100000.npz"
    content = {
        "mom2.constructor": "util.runningstats.SecondMoment()",
        "mom2.count": summed.tokens,
        "sample_size": None,  # all of the text; NumPy pickles it, so it must not be read
    }
    np.savez(path, **content, **{"mom2.mom2": summed.outer[1].numpy().astype(np.float32)})
    np.testing.assert_allclose(moments.of_rome(path, 40), summed.second_moment(1), rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match=r"holds a moment of shape \(40, 40\) and the layer's keys have width 41"):
        moments.of_rome(path, 41)
    for broken in ({"mom2.mom2": np.full((2, 2), np.nan), "mom2.count": 3}, {"mom2.mom2": np.eye(2), "mom2.count": 0}):
        np.savez(path, **broken)
        with pytest.raises(UserError, match="holds NaN or infinity, or counts no key"):
            moments.of_rome(path, 2)
    np.savez(path, other=np.eye(2))
    for odd in (path, tmp_path / "absent.npz", tmp_path):
        with pytest.raises(UserError, match="is no statistics file of ROME's code"):
            moments.of_rome(odd, 2)


def naive(model, path, *, tokens=None, skip_first=0, context=512):
    """Σ k kᵀ and Σ k token by token in float64, one window a forward pass, keys caught by hooks of its own."""
    context = min(context, model.context_length)
    caught = {}
    hooks = [
        layer.module.register_forward_hook(lambda _m, x, _y, i=layer.index: caught.__setitem__(i, x[0]))
        for layer in model.layers
    ]
    outer = {layer.index: np.zeros((layer.d_m, layer.d_m)) for layer in model.layers}
    total = {layer.index: np.zeros(layer.d_m) for layer in model.layers}
    counted = 0
    for line in path.read_text().splitlines():
        ids = model.tokenizer(json.loads(line)["text"])["input_ids"]
        begins = ids[: model.tokenizer.bos_token is not None]  # of a prompt, and so of every window
        room, body = context - len(begins), ids[len(begins) :]
        for start in range(0, len(body), room):
            window = begins + body[start : start + room]
            with torch.no_grad():
                model.model(torch.tensor([window]))
            for place in range(len(window)):
                if place < skip_first or (tokens is not None and counted == tokens):
                    continue
                counted += 1
                for index, keys in caught.items():
                    key = keys.reshape(-1, keys.shape[-1])[place].double().numpy()
                    outer[index] += np.outer(key, key)
                    total[index] += key
    for hook in hooks:
        hook.remove()
    return outer, total, counted


def agrees(found, expected):
    outer, total, counted = expected
    assert found.tokens == counted
    assert found.outer.keys() == found.total.keys()
    for index in found.outer:
        assert found.outer[index].dtype == found.total[index].dtype == torch.float64
        close(found.outer[index], outer[index])
        close(found.total[index], total[index])


@pytest.mark.parametrize("architecture", ["gpt2", "gptj", "llama", "opt", "gemma3_text"])
def test_sums_are_those_of_a_naive_loop_and_the_models_bits_stay(architecture, corpus):
    model = tiny(architecture)
    before = model.digest()
    agrees(moments.estimate(model, corpus), naive(model, corpus))
    assert model.digest() == before


@pytest.mark.parametrize(
    "options",
    [{"tokens": 333}, {"skip_first": 2}, {"context": 17}, {"tokens": 200, "skip_first": 3, "context": 31}],
    ids=str,
)
@pytest.mark.parametrize("batch", [1, 3, None])
def test_options_count_the_tokens_that_a_naive_loop_counts(corpus, options, batch):
    model = tiny("llama", bos=True)
    agrees(moments.estimate(model, corpus, batch=batch, **options), naive(model, corpus, **options))


def test_only_the_layers_asked_for_and_the_passes_stop_after_the_last(model, corpus):
    everything = moments.estimate(model, corpus, cache=False)
    ran = []
    hooks = [layer.module.register_forward_hook(lambda *_, i=layer.index: ran.append(i)) for layer in model.layers]
    some = moments.estimate(model, corpus, layers=[1], cache=False)
    for hook in hooks:
        hook.remove()
    assert list(some.outer) == [1] and set(ran) == {0}
    close(some.outer[1], everything.outer[1])
    assert list(moments.estimate(model, corpus, layers=[-1, 0]).outer) == [0, 2]


# Layer groups


ONE = 8 * 40 * 40  # bytes of a tiny layer's sums


@pytest.mark.parametrize(
    ("memory", "groups"),
    [(None, [[0, 1, 2]]), (3 * ONE, [[0, 1, 2]]), (3 * ONE - 1, [[0, 1], [2]]), (ONE, [[0], [1], [2]])],
)
def test_groups_are_as_few_as_the_limit_allows_and_give_the_sums_of_one_pass_to_the_bit(
    model, corpus, tmp_path, monkeypatch, memory, groups
):
    whole = moments.estimate(model, corpus, skip_first=1)
    monkeypatch.setenv("SUPERPOSITION_CACHE", str(tmp_path / "another"))
    seen, before = [], []
    for found in moments.in_groups(model, corpus, memory=memory, skip_first=1):
        assert all(sums_of() is None for sums_of in before), "the group before is still in memory"
        seen.append(list(found.outer))
        assert (found.tokens, found.cached) == (whole.tokens, False)
        for index in found.outer:
            assert torch.equal(found.outer[index], whole.outer[index])
            assert torch.equal(found.total[index], whole.total[index])
        before = [weakref.ref(outer) for outer in found.outer.values()]
    assert seen == groups
    again = moments.estimate(model, corpus, skip_first=1)
    assert again.cached and all(torch.equal(again.outer[index], whole.outer[index]) for index in whole.outer)


def test_groups_that_are_in_the_cache_are_not_passed_over_again(model, corpus, monkeypatch):
    moments.estimate(model, corpus, layers=[0, 1])
    passes = []
    one_pass = moments._one_pass
    monkeypatch.setattr(moments, "_one_pass", lambda *a: passes.append([x.index for x in a[2]]) or one_pass(*a))
    assert [found.cached for found in moments.in_groups(model, corpus, memory=2 * ONE)] == [True, False]
    assert passes == [[2]]


@given(SEEDS, st.integers(1, 40), st.integers(1, 30), st.integers(1, 50))
@settings(max_examples=80, deadline=None)
def test_outer_sum_is_the_product_whatever_the_blocks(seed, tokens, width, block):
    keys = np.random.default_rng(seed).standard_normal((tokens, width)).astype(np.float32)
    found = summing.outer_sum(torch.from_numpy(keys), block=block)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, keys.T.astype(np.float64) @ keys, rtol=1e-12, atol=1e-12)
    assert torch.equal(found, found.T)


class Told:
    """A layer for :class:`summing.Sums`: its index, width and device."""

    def __init__(self, width):
        self.index, self.d_m, self.weight = 0, width, torch.empty(1, width)


@given(SEEDS, st.integers(60, 3000), st.integers(1, 20), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_tiles_in_float32_with_long_keys_apart_are_the_sums_to_single_precision(seed, tokens, width, long):
    """Also where a few keys are a thousand times as long as the others, beside which float32 would lose these."""
    rng = np.random.default_rng(seed)
    keys = rng.standard_normal((tokens, width)).astype(np.float32)
    keys[rng.permutation(tokens)[:long]] *= 1000
    layer = Told(width)
    sums = summing.Sums.zeros([layer])
    sums.tiled = frozenset({0})
    for part in np.array_split(keys, 3):
        sums.add(layer, torch.from_numpy(part), 1)
    found = sums.finish()[0][0].numpy()
    wide = keys.astype(np.float64)
    far = np.linalg.norm(wide, axis=1) > 100 * np.sqrt(width)
    rest = found - wide[far].T @ wide[far]
    assert np.abs(rest - wide[~far].T @ wide[~far]).max() <= 1e-6 * max(1, tokens)


@pytest.mark.parametrize("block", [2, 192])
@pytest.mark.parametrize(
    ("dtype", "sums"), [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)]
)
def test_sums_are_wider_than_narrow_keys(dtype, sums, block):
    keys = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)).abs().to(dtype)
    found = summing.outer_sum(keys, block=block)
    assert found.dtype == sums
    np.testing.assert_allclose(found, keys.double().T @ keys.double(), rtol=1e-5)


def test_float32_products_are_for_texts_that_are_long_for_a_layers_width(model, corpus, monkeypatch):
    apart, seen = summing._apart, []
    monkeypatch.setattr(summing, "_apart", lambda keys: seen.append(keys.shape[1]) or apart(keys))
    width, long = model.layers[0].d_m, moments.TOKENS_PER_DIMENSION
    moments.estimate(model, corpus, tokens=long * width - 1, cache=False)
    assert not seen
    whole = moments.estimate(model, corpus, tokens=long * width, cache=False)
    assert set(seen) == {width}
    agrees(whole, naive(model, corpus, tokens=long * width))


def test_a_narrow_layer_is_multiplied_in_float32_and_a_wide_one_in_the_same_text_is_not(corpus, monkeypatch):
    wide = tiny("llama")
    mlp = wide.layers[1].module, wide.block(wide.layers[1]).mlp
    narrow = wide.layers[1].d_m // 4
    for name in ("gate_proj", "up_proj"):
        getattr(mlp[1], name).weight = torch.nn.Parameter(getattr(mlp[1], name).weight[:narrow], requires_grad=False)
    mlp[0].weight = torch.nn.Parameter(mlp[0].weight[:, :narrow], requires_grad=False)
    model = models.LanguageModel(wide.model, wide.tokenizer, models.find_layers(wide.model), "mixed")
    apart, seen = summing._apart, set()
    monkeypatch.setattr(summing, "_apart", lambda keys: seen.add(keys.shape[1]) or apart(keys))
    moments.estimate(model, corpus, tokens=moments.TOKENS_PER_DIMENSION * narrow, cache=False)
    assert [layer.d_m for layer in model.layers] == [4 * narrow, narrow, 4 * narrow] and seen == {narrow}


# Parts of a text


def test_the_parts_of_a_text_add_up_and_can_be_taken_away(model, corpus):
    cut = text.windows(text.read(corpus), model.tokenizer, context=40)
    whole = moments.of_windows(model, cut)
    agrees(whole, naive(model, corpus, context=40))
    a, b = moments.of_windows(model, cut[:7]), moments.of_windows(model, cut[7:])
    for total, expected in ((a + b, whole), (whole - a, b)):
        assert total.tokens == expected.tokens
        for index in expected.outer:
            close(total.outer[index], expected.outer[index])
            close(total.total[index], expected.total[index])
    again = moments.of_windows(model, cut[:7])
    assert again.cached and not whole.cached and torch.equal(again.outer[1], a.outer[1])
    assert not moments.of_windows(model, [*cut[:6], text.Window(cut[6].token_ids, 1, cut[6].stop)]).cached
    with pytest.raises(UserError, match="no windows"):
        moments.of_windows(model, [])
    with pytest.raises(UserError, match="different layers"):
        a + moments.of_windows(model, cut[:7], layers=[1])


def test_a_first_position_alone_is_that_of_its_text(model, corpus):
    """Nothing later changes a key of a causal model."""
    cut = text.windows(text.read(corpus), model.tokenizer, context=40)
    rest = text.windows(text.read(corpus), model.tokenizer, skip_first=1, context=40)
    first = moments.of_windows(model, [text.Window(window.token_ids[:1], 0, 1) for window in cut])
    difference = moments.of_windows(model, cut) - moments.of_windows(model, rest)
    for index in first.outer:
        close(first.outer[index], difference.outer[index])


def test_the_error_of_p_is_students_t_for_gaussian_keys():
    """thm-moments-error and eq-moments-nested of chapter 10, on C that is not the identity."""
    rng, d, N, end, draws = np.random.default_rng(0), 6, 15, 60, 4000
    C = well_conditioned(0, d)
    L, K = np.linalg.cholesky(C), rng.standard_normal((d, 2))
    x = np.linalg.solve(L, K)
    p = x[:, 0] @ x[:, 1] / (x[:, 0] @ x[:, 0])
    scale = np.linalg.norm(x[:, 1] - p * x[:, 0]) / np.linalg.norm(x[:, 0])

    def estimates(S):
        solved = np.linalg.solve(S, np.broadcast_to(K, (draws, d, 2)))
        return (K[:, 0] @ solved)[:, 1] / (K[:, 0] @ solved)[:, 0]

    keys = L @ rng.standard_normal((draws, d, end))
    first = keys[:, :, :N]
    short, long = estimates(first @ first.transpose(0, 2, 1)), estimates(keys @ keys.transpose(0, 2, 1))
    n = N - d + 2
    assert scipy.stats.kstest((short - p) / scale * np.sqrt(n), "t", args=(n,)).pvalue > 0.01
    assert short.std() / scale == pytest.approx(shrinkage.sampling_error(N, d), rel=0.05)
    assert (short - long).std() / scale == pytest.approx(shrinkage.sampling_error(N, d, end), rel=0.05)


def test_a_sampling_error_needs_more_tokens_than_dimensions():
    np.testing.assert_allclose(shrinkage.sampling_error([11, 14], 10), [1, 0.5])
    assert shrinkage.sampling_error(14, 10, 14) == 0
    with pytest.raises(UserError, match="C is singular: take more"):
        shrinkage.sampling_error(10, 10)
    with pytest.raises(UserError, match="give a longer end"):
        shrinkage.sampling_error(20, 10, 19)


def test_oas_is_the_published_formula_and_near_the_best_shrinkage():
    """Chen et al. (2010), equation 23; among independent Gaussian keys its error is near the smallest there is."""
    rng, width, tokens = np.random.default_rng(0), 30, 60
    scale = np.linspace(0.5, 2, width)
    gains = []
    for _ in range(20):
        keys = rng.standard_normal((width, tokens)) * scale[:, None]
        S = keys @ keys.T / tokens
        squares, trace = np.trace(S @ S), np.trace(S)
        top = (1 - 2 / width) * squares + trace**2
        published = min(1, top / ((tokens + 1 - 2 / width) * (squares - trace**2 / width)))
        found = shrinkage.oas(S, tokens)
        assert found == pytest.approx(published, rel=0.1)  # scikit-learn drops the terms in 2/d, and so do we

        def error(s, S=S):
            return np.linalg.norm((1 - s) * S + s * np.trace(S) / width * np.eye(width) - np.diag(scale**2))

        gains.append(error(found) / min(error(s) for s in np.linspace(0, 1, 101)))
    assert np.mean(gains) < 1.02
    assert shrinkage.oas(np.eye(4), 100) == 1.0


# C


def test_c_is_the_mean_outer_product_and_centred_the_covariance():
    keys = np.random.default_rng(0).standard_normal((7, 50)) + 2
    sums = moments.Moments({4: torch.from_numpy(keys @ keys.T)}, {4: torch.from_numpy(keys.sum(1))}, 50)
    np.testing.assert_allclose(sums.second_moment(4), sum(np.outer(k, k) for k in keys.T) / 50, rtol=1e-12)
    np.testing.assert_allclose(sums.second_moment(4, centred=True), np.cov(keys, bias=True), rtol=1e-9)


def test_shrinkage_goes_from_the_estimate_to_the_identity_and_keeps_the_trace():
    keys = np.random.default_rng(1).standard_normal((5, 40))
    sums = moments.Moments({0: torch.from_numpy(keys @ keys.T)}, {0: torch.from_numpy(keys.sum(1))}, 40)
    C = keys @ keys.T / 40
    np.testing.assert_allclose(sums.second_moment(0, shrinkage=0), C)
    np.testing.assert_allclose(sums.second_moment(0, shrinkage=1), np.trace(C) / 5 * np.eye(5), atol=1e-15)
    quarter = sums.second_moment(0, shrinkage=0.25)
    np.testing.assert_allclose(quarter, 0.75 * C + 0.25 * np.trace(C) / 5 * np.eye(5))
    covariance = sums.second_moment(0, shrinkage=0.25, centred=True)
    assert np.trace(covariance) == pytest.approx(np.trace(np.cov(keys, bias=True)))
    for outside in (-0.01, 1.01, float("nan")):
        with pytest.raises(UserError, match="makes no sense: give a number from 0 to 1"):
            sums.second_moment(0, shrinkage=outside)


def well_conditioned(seed, width):
    mixing = np.random.default_rng(seed).standard_normal((width, 3 * width))
    return mixing @ mixing.T / width


#: The two ways to factorise C: by SciPy, and by torch, where the sums are.
FACTORS = [Metric, lambda C: moments.DeviceMetric(torch.from_numpy(C))]


@pytest.mark.parametrize("factor", FACTORS)
@given(SEEDS, st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_whitening_solves_whitens_and_conditions_as_numpy_does(factor, seed, width):
    C = well_conditioned(seed, width)
    keys = np.random.default_rng(seed).standard_normal((width, 4))
    whitening = factor(C)
    assert whitening.d_m == width
    np.testing.assert_allclose(whitening.solve(keys), np.linalg.inv(C) @ keys, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(whitening.solve(keys[:, 0]), np.linalg.inv(C) @ keys[:, 0], rtol=1e-6, atol=1e-9)
    white = whitening.whiten(keys)
    np.testing.assert_allclose(white.T @ white, keys.T @ np.linalg.inv(C) @ keys, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(whitening.whiten(keys[:, 1]), white[:, 1], rtol=1e-12, atol=1e-12)
    assert whitening.condition() == pytest.approx(np.linalg.cond(C), rel=1e-3)


@pytest.mark.parametrize("factor", FACTORS)
@given(SEEDS, st.integers(2, 80), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_c_from_fewer_tokens_than_its_width_is_refused(factor, seed, width, missing):
    rng = np.random.default_rng(seed)
    keys = rng.standard_normal((width, max(width - missing, 1))) * rng.lognormal(0, 1, (width, 1))
    with pytest.raises(UserError, match=f"C of width {width} is singular .*\\(at least {width},"):
        factor(keys @ keys.T / keys.shape[1])


@pytest.mark.parametrize("factor", FACTORS)
def test_neurons_of_very_different_size_are_no_reason_to_refuse(factor):
    C = well_conditioned(3, 20)
    scale = np.logspace(-6, 6, 20)
    keys = np.random.default_rng(0).standard_normal((20, 3)) * scale[:, None]
    solved = factor(C * np.outer(scale, scale)).solve(keys)
    np.testing.assert_allclose(solved * scale[:, None], np.linalg.inv(C) @ (keys / scale[:, None]), rtol=1e-8)


@pytest.mark.parametrize("factor", FACTORS)
def test_a_dead_neuron_makes_c_singular_and_shrinkage_mends_it(factor):
    C = well_conditioned(4, 6)
    C[2] = C[:, 2] = 0
    with pytest.raises(UserError, match="give a shrinkage above 0"):
        factor(C)
    sums = moments.Moments({0: torch.from_numpy(C)}, {0: torch.zeros(6)}, 1)
    Metric(sums.second_moment(0, shrinkage=0.01))


def test_sums_can_stay_where_they_are_and_can_be_narrow(model, corpus):
    """On a CPU they stay there anyway; in float32 they are those of a float32 loop."""
    cut = text.windows(text.read(corpus), model.tokenizer, context=40)
    wide, stayed = (moments.of_windows(model, cut, cache=False, to_cpu=to_cpu) for to_cpu in (True, False))
    narrow = moments.of_windows(model, cut, cache=False, sums=torch.float32)
    for index in wide.outer:
        assert torch.equal(stayed.outer[index], wide.outer[index])
        assert narrow.outer[index].dtype == torch.float32
        close(narrow.outer[index].double(), wide.outer[index])
        shrunk = [one.metric(index, shrinkage=0.1).moment for one in (wide, narrow)]
        np.testing.assert_allclose(*shrunk, rtol=1e-3, atol=1e-3 * np.abs(shrunk[0]).max())
        np.testing.assert_array_equal(shrunk[0], wide.second_moment(index, shrinkage=0.1))
    model.model.double()
    with pytest.raises(UserError, match="load the model in float32"):
        moments.of_windows(model, cut, cache=False, sums=torch.float32)


# Too little, too much, not a number


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch": 0}, "batch of 0"),
        ({"layers": [3]}, "layers 0 to 2"),
        ({"tokens": 99_999}, r"The text holds \d+ tokens and 99999 were asked for"),
        ({"memory": ONE - 1}, r"does not hold the second moment of one layer \(1\.3e-05 GB\): give more"),
    ],
)
def test_options_that_make_no_sense_get_a_sentence(corpus, options, sentence):
    with pytest.raises(UserError, match=sentence):
        next(moments.in_groups(tiny(), corpus, **options))


def test_sums_that_another_process_lacks_are_summed_again_by_all(model, corpus, monkeypatch, cache):
    """Or the processes would wait for each other in vain."""
    first, done = moments.estimate(model, corpus, layers=[1]), []
    one_pass = moments._one_pass
    monkeypatch.setattr(moments, "_one_pass", lambda *a: done.append(1) or one_pass(*a))
    assert np.array_equal(moments.estimate(model, corpus, layers=[1]).outer[1], first.outer[1]) and not done
    monkeypatch.setattr(moments.processes.Processes, "all", lambda self, value: False)
    assert np.array_equal(moments.estimate(model, corpus, layers=[1]).outer[1], first.outer[1]) and done


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_activations_get_a_sentence_and_nothing_is_cached(corpus, cache, value):
    model = tiny()
    model.model.model.layers[1].mlp.up_proj.weight[0, 0] = value
    with pytest.raises(UserError, match="Layer 1 gives NaN or infinity on the text"):
        moments.estimate(model, corpus)
    assert not [path for path in cache.rglob("*") if path.is_file()]
    assert not any(layer.module._forward_pre_hooks for layer in model.layers)


def test_out_of_memory_makes_batches_smaller_and_counts_nothing_twice(model, corpus, monkeypatch):
    expected = naive(model, corpus)
    tried = out_of_memory(model, monkeypatch, above=2)
    agrees(moments.estimate(model, corpus, batch=4), expected)
    assert tried[0] == 4 and tried[-1] <= 2


def test_memory_that_does_not_suffice_for_one_text_gets_a_sentence(model, corpus, monkeypatch):
    out_of_memory(model, monkeypatch, above=0)
    with pytest.raises(UserError, match="Memory does not suffice for one text at a time: give a shorter --context"):
        moments.estimate(model, corpus, batch=2)


# The cache


def count_passes(model, monkeypatch):
    read, calls = models.LanguageModel.read_keys, []

    def counting(self, ids, *args):
        calls.append(len(ids))
        return read(self, ids, *args)

    monkeypatch.setattr(models.LanguageModel, "read_keys", counting)
    return calls


class Killed(BaseException):
    pass


def break_off(model, corpus, passes, at, error=KeyboardInterrupt, **options):
    """A run that ends in an error in pass number ``at``."""

    def end(*_):
        if len(passes) == at:
            raise error

    hook = model.layers[0].module.register_forward_pre_hook(end)
    with pytest.raises(error):
        moments.estimate(model, corpus, batch=1, **options)
    hook.remove()


def windows_of(model, corpus):
    return len(text.windows(text.read(corpus), model.tokenizer, context=model.context_length))


def same_bits(one, two):
    assert one.tokens == two.tokens and one.outer.keys() == two.outer.keys()
    for index in one.outer:
        assert torch.equal(one.outer[index], two.outer[index]) and torch.equal(one.total[index], two.total[index])


def test_the_second_time_there_is_no_forward_pass(model, corpus, monkeypatch):
    calls = count_passes(model, monkeypatch)
    first = moments.estimate(model, corpus, tokens=300)
    made = len(calls)
    assert made
    same_bits(moments.estimate(model, corpus, tokens=300), first)
    same_bits(moments.estimate(model, corpus, tokens=300, batch=1, layers=[0, 1, 2]), first)
    assert list(moments.estimate(model, corpus, tokens=300, layers=[1]).outer) == [1]
    assert len(calls) == made
    moments.estimate(model, corpus, tokens=300, cache=False)
    assert len(calls) > made


@pytest.mark.parametrize("what", ["tokens", "skip_first", "context", "text", "weights", "dtype"])
def test_anything_that_changes_c_is_computed_afresh(model, corpus, monkeypatch, what, tmp_path):
    options = {"tokens": 200, "skip_first": 0, "context": 40}
    moments.estimate(model, corpus, **options)
    source = corpus
    if what in options:
        options[what] += 1
    elif what == "text":
        source = tmp_path / "other.jsonl"
        source.write_text("\n".join(reversed(corpus.read_text().splitlines())))
    else:
        other = tiny(model.name, seed=0 if what == "dtype" else 9)
        if what == "dtype":
            other.model.double()
        model = other
    calls = count_passes(model, monkeypatch)
    fresh = moments.estimate(model, source, **options)
    assert calls
    outer, total, counted = naive(model, source, **options)
    agrees(fresh, (outer, total, counted))


def test_an_edit_in_place_is_noticed_and_undoing_it_finds_the_cache_again(model, corpus, monkeypatch):
    first = moments.estimate(model, corpus, tokens=200)
    weight = model.layers[0].weight
    kept = weight.clone()
    weight.mul_(2)
    edited = moments.estimate(model, corpus, tokens=200)
    assert not torch.equal(first.outer[2], edited.outer[2])
    weight.copy_(kept)
    calls = count_passes(model, monkeypatch)
    again = moments.estimate(model, corpus, tokens=200)
    assert not calls
    assert torch.equal(first.outer[2], again.outer[2])


def test_an_interrupted_pass_goes_on_with_the_same_sums(model, corpus, monkeypatch, cache):
    whole = moments.estimate(model, corpus, batch=1, cache=False)
    passes = count_passes(model, monkeypatch)
    break_off(model, corpus, passes, 5)
    assert len(list(cache.rglob("unfinished.safetensors"))) == 1
    assert not any(layer.module._forward_pre_hooks for layer in model.layers)
    before = len(passes)
    same_bits(moments.estimate(model, corpus, batch=1), whole)
    assert before == 5 and len(passes) - before == windows_of(model, corpus) - 4
    assert not list(cache.rglob("unfinished.*"))
    same_bits(moments.estimate(model, corpus), whole)
    assert len(passes) - before == windows_of(model, corpus) - 4


def test_a_run_that_is_killed_goes_on_from_its_last_checkpoint(model, corpus, monkeypatch):
    whole = moments.estimate(model, corpus, batch=1, cache=False)
    monkeypatch.setattr(moments, "CHECKPOINT_EVERY", 0.0)
    passes = count_passes(model, monkeypatch)
    break_off(model, corpus, passes, 4, Killed)
    same_bits(moments.estimate(model, corpus, batch=1), whole)
    assert len(passes) == windows_of(model, corpus) + 1


@pytest.mark.parametrize("cache_", [True, False])
def test_a_checkpoint_is_made_every_two_minutes_where_there_is_a_cache(corpus, monkeypatch, cache_):
    """By a clock on which a pass takes 50 seconds."""
    model, done = tiny(), []
    passes = count_passes(model, monkeypatch)
    monkeypatch.setattr(moments, "time", SimpleNamespace(monotonic=lambda: 50.0 * len(passes)))
    monkeypatch.setattr(moments._Store, "checkpoint", lambda _, sums: done.append(sums.done))
    moments.estimate(model, corpus, batch=1, cache=cache_)
    assert done == (list(range(3, windows_of(model, corpus) + 1, 3)) if cache_ else [])


def test_windows_are_of_512_tokens_and_a_pass_of_2048_by_default(tmp_path, monkeypatch):
    path, model = tmp_path / "long.txt", tiny(max_position_embeddings=600)
    path.write_text("a b c d e " * 366, encoding="utf-8")
    count = len(tokenizer()(path.read_text())["input_ids"])
    passes, windows = count_passes(model, monkeypatch), -(-count // 512)
    assert windows == 6 and -(-count // 513) == 5
    found = moments.estimate(model, path, skip_first=1, cache=False)
    assert found.tokens == next(moments.in_groups(model, path, skip_first=1, cache=False)).tokens == count - windows
    assert passes == [4, 2, 4, 2]
    assert moments.plan(tokenizer(), path, 10**6, skip_first=1, shrinkage=0.1) == count - windows


def test_a_resumed_pass_of_other_layers_starts_anew(model, corpus, monkeypatch):
    break_off(model, corpus, count_passes(model, monkeypatch), 3, layers=[0])
    agrees(moments.estimate(model, corpus, batch=1), naive(model, corpus))


@pytest.mark.parametrize("name", ["layer-001.safetensors", "unfinished.safetensors"])
@pytest.mark.parametrize("damage", [b"", b"half"])
def test_a_corrupt_cache_is_noted_and_computed_again(model, corpus, cache, monkeypatch, name, damage):
    if name.startswith("unfinished"):
        break_off(model, corpus, count_passes(model, monkeypatch), 3)
    else:
        moments.estimate(model, corpus)
    (path,) = cache.rglob(name)
    path.write_bytes(damage)
    with pytest.warns(console.SuperpositionWarning, match="damaged or cannot be read: they are computed again"):
        again = moments.estimate(model, corpus)
    agrees(again, naive(model, corpus))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same_bits(moments.estimate(model, corpus), again)


def test_a_flipped_bit_in_the_cache_is_noticed(model, corpus, cache):
    whole = moments.estimate(model, corpus)
    (path,) = cache.rglob("layer-001.safetensors")
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.warns(console.SuperpositionWarning, match="layer-001"):
        same_bits(moments.estimate(model, corpus), whole)


@pytest.mark.parametrize("damage", ["half", "other tensors", "other shapes", "folder", "loop"])
def test_a_cache_that_cannot_be_written_and_is_damaged_is_no_more_than_notes(model, corpus, cache, monkeypatch, damage):
    whole = moments.estimate(model, corpus)
    (path,) = cache.rglob("layer-001.safetensors")
    path.unlink()
    if damage == "half":
        path.write_bytes(b"half")
    elif damage == "folder":
        path.mkdir()
    elif damage == "loop":
        path.symlink_to(path.name)
    else:  # with a digest that is right
        tensors = {"outer": torch.eye(3).double(), "total": torch.ones(3).double(), "tokens": torch.tensor(7)}
        if damage == "other tensors":
            del tensors["outer"]
        store = SimpleNamespace(folder=path.parent)
        save_file(tensors, path, metadata={"sha256": moments._Store._digest(store, path, tensors)})

    def refuse(*_args, **_kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files.os, "open", refuse)
    monkeypatch.setattr(files.Path, "unlink", refuse)
    with pytest.warns(console.SuperpositionWarning) as notes:
        same_bits(moments.estimate(model, corpus), whole)
    said = [str(note.message) for note in notes]
    assert "not kept in the cache" in said[-1]
    # safetensors calls a loop absent
    assert [one for one in said[:-1] if "layer-001.safetensors are damaged" in one] == said[: damage != "loop"]


def test_a_checkpoint_that_another_process_removed_is_no_error(model, corpus, cache, monkeypatch):
    monkeypatch.setattr(moments, "CHECKPOINT_EVERY", 0.0)
    glob = files.Path.glob

    def late(self, pattern, **more):
        for path in glob(self, pattern, **more):
            if pattern == "unfinished*":
                path.unlink()
            yield path

    monkeypatch.setattr(files.Path, "glob", late)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moments.estimate(model, corpus, batch=1)
    assert not list(cache.rglob("unfinished*")) and len(list(cache.rglob("layer-*"))) == 3


def test_a_checkpoint_is_one_file_and_whole_at_any_time(model, corpus, cache, monkeypatch):
    """Killed right after any renaming, the next run has a checkpoint to go on from."""
    whole = moments.estimate(model, corpus, batch=1, cache=False)
    monkeypatch.setattr(moments, "CHECKPOINT_EVERY", 0.0)
    replace, renamed = os.replace, []

    def kill(source, target):
        replace(source, target)
        renamed.append(target)
        if len(renamed) == 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", kill)
        with pytest.raises(Killed):
            moments.estimate(model, corpus, batch=1)
    passes = count_passes(model, monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same_bits(moments.estimate(model, corpus, batch=1), whole)
    assert len(passes) == windows_of(model, corpus) - 3


def test_a_swapped_layer_in_the_cache_is_noticed(model, corpus, cache):
    moments.estimate(model, corpus)
    (one,), (two,) = cache.rglob("layer-000.safetensors"), cache.rglob("layer-002.safetensors")
    one.write_bytes(two.read_bytes())
    with pytest.warns(console.SuperpositionWarning):
        agrees(moments.estimate(model, corpus), naive(model, corpus))


def test_a_full_disk_while_caching_is_noted_and_the_result_stands(model, corpus, cache, monkeypatch):
    def full(path, *_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    monkeypatch.setattr(moments, "CHECKPOINT_EVERY", 0.0)
    with pytest.warns(console.SuperpositionWarning, match="disk .* is full") as notes:
        found = moments.estimate(model, corpus)
    assert any("not kept in the cache" in str(note.message) for note in notes)
    agrees(found, naive(model, corpus))
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_an_interrupt_waits_for_the_end_of_a_layers_sums(model, corpus, monkeypatch, cache):
    """Ctrl-C in the middle of a layer's addition: the layer is added as a whole; the next run goes on."""
    whole = moments.estimate(model, corpus, tokens=600, context=16, batch=4, cache=False)
    add, calls = summing.add_lower, []

    def interrupted(lower, keys, block=summing.BLOCK):
        calls.append(1)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGINT)
        add(lower, keys, block)

    monkeypatch.setattr(summing, "add_lower", interrupted)
    with pytest.raises(KeyboardInterrupt):
        moments.estimate(model, corpus, tokens=600, context=16, batch=4)
    assert len(list(cache.rglob("unfinished.safetensors"))) == 1
    monkeypatch.setattr(summing, "add_lower", add)
    resumed = moments.estimate(model, corpus, tokens=600, context=16, batch=4)
    for layer in whole.outer:
        assert torch.equal(whole.outer[layer], resumed.outer[layer])


def test_memory_that_runs_out_between_two_layers_counts_no_key_twice(model, corpus, monkeypatch):
    """The group is read again in smaller pieces, and the layers that had it already leave it out."""
    whole = moments.estimate(model, corpus, tokens=600, context=16, batch=8, cache=False)
    add, calls = summing.add_lower, []

    def scarce(lower, keys, block=summing.BLOCK):
        calls.append(len(keys))
        if len(calls) == 4:
            raise RuntimeError("CUDA out of memory.")
        add(lower, keys, block)

    monkeypatch.setattr(summing, "add_lower", scarce)
    found = moments.estimate(model, corpus, tokens=600, context=16, batch=8, cache=False)
    assert calls[4] < calls[3]
    for layer in whole.outer:
        torch.testing.assert_close(
            whole.outer[layer], found.outer[layer], rtol=1e-4, atol=1e-3
        )  # the pass itself rounds by batch


@pytest.mark.usefixtures("unchecked")
def test_protected_keys_count_as_a_text_of_their_own():
    rng = np.random.default_rng(0)
    C, K = np.cov(rng.standard_normal((4, 50))), rng.standard_normal((4, 3))
    by_hand = C + 10 * sum(np.outer(k, k) for k in K.T) / 3
    np.testing.assert_allclose(shrinkage.protecting(C, K), by_hand, rtol=1e-12)
    assert (shrinkage.protecting(C, K, 0) == C).all()
    for keys, weight, said in (
        (K, -1, "weight"),
        (K, float("nan"), "weight"),
        (K[:3], 1, "width"),
        (K[:, :0], 1, "width"),
    ):
        with pytest.raises(UserError, match=said):
            shrinkage.protecting(C, keys, weight)


@pytest.mark.slow
@pytest.mark.real_model
def test_products_in_float32_change_smollm2s_p_by_no_more_than_the_forward_pass_rounds(smollm2):
    """Also at layer 11, where a few positions hold huge keys and C's condition is 10⁷."""
    layers, listed = [0, 11], facts.load("book", limit=64)
    cut = text.windows(text.read("book"), smollm2.tokenizer, tokens=16 * 1536)
    fast = moments.of_windows(smollm2, cut, layers=layers, cache=False)
    wide = {layer: torch.zeros(1536, 1536, dtype=torch.float64) for layer in layers}
    for window in cut:
        ids = torch.tensor([window.token_ids])

        def receive(layer, found, window=window):
            K = found[0, window.first : window.stop].double()
            wide[layer.index] += K.T @ K

        smollm2.read_keys(ids, torch.ones_like(ids), smollm2.select(layers), receive)
    read = reader.extract(smollm2, listed, layers=layers)
    for layer, exact in wide.items():
        one = overlap.superposition_matrix(read[layer], exact.numpy() / fast.tokens)
        other = overlap.superposition_matrix(read[layer], fast.second_moment(layer))
        assert np.abs(one - other).max() < 1e-4
