"""Null models keep what they say and nothing else; robust statistics agree with slower ways and with theory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SENTENCES, tiny
from hypothesis import given
from hypothesis import strategies as st

from superposition import records
from superposition.data import wordings
from superposition.data.facts import Fact
from superposition.errors import UserError
from superposition.linear import overlap
from superposition.linear.metric import Metric
from superposition.lm import keys, text_keys
from superposition.stats import shape
from superposition.studies import confounds, nulls, scaling

RNG = np.random.default_rng


def uneven(d_m=30, m=12, seed=0):
    """Keys of unequal lengths that share a direction."""
    rng = RNG(seed)
    return (rng.standard_normal((d_m, m)) + 1) * np.exp(rng.standard_normal(m))


# --- null models ----------------------------------------------------------------------------------------------


def test_gaussian_keys_have_the_identity_for_their_second_moment():
    Z = nulls.gaussian(np.empty((5, 40_000)), RNG(0))
    np.testing.assert_allclose(Z @ Z.T / Z.shape[1], np.eye(5), atol=0.03)


def test_same_norms_keeps_lengths_and_no_direction():
    Z = uneven(300)
    null = nulls.same_norms(Z, RNG(1))
    np.testing.assert_allclose(np.linalg.norm(null, axis=0), np.linalg.norm(Z, axis=0))
    assert np.abs(shape.off_diagonal(overlap.cosines(null.T @ null))).max() < 0.3
    assert shape.off_diagonal(overlap.cosines(Z.T @ Z)).min() > 0.3


def test_same_spectrum_keeps_singular_values_and_evens_lengths():
    Z = uneven(30, 200)
    null = nulls.same_spectrum(Z, RNG(1))
    np.testing.assert_allclose(np.linalg.svd(null)[1], np.linalg.svd(Z)[1])
    before, after = np.linalg.norm(Z, axis=0), np.linalg.norm(null, axis=0)
    assert after.std() / after.mean() < 0.3 * before.std() / before.mean()


def test_shuffled_keeps_each_dimension_and_the_mean_but_no_key():
    Z = uneven()
    null = nulls.shuffled(Z, RNG(1))
    np.testing.assert_array_equal(np.sort(null, axis=1), np.sort(Z, axis=1))
    assert not any(np.allclose(null[:, j], z) for j in range(Z.shape[1]) for z in Z.T)
    orders = {tuple(np.argsort(np.argsort(row))) for row in null}
    assert len(orders) > len(Z) / 2, "all dimensions were permuted alike"


@pytest.mark.parametrize("m", [4, 60])
def test_turned_keeps_lengths_and_angles_and_no_place(m):
    K = uneven(30, m)
    null = nulls.turned(K, RNG(1))
    np.testing.assert_allclose(null.T @ null, K.T @ K, atol=1e-9 * np.abs(K.T @ K).max())
    C = np.diag(np.geomspace(1e-4, 1, 30))
    before, after = (overlap.superposition_matrix(keys, C) for keys in (K, null))
    assert np.abs(before - after).max() > 0.01


def test_turning_whitened_keys_changes_no_overlap():
    K, C = uneven(), np.cov(RNG(3).standard_normal((30, 100)))
    Z = Metric(C).whiten(K)
    null = nulls.turned(Z, RNG(1))
    np.testing.assert_allclose(null.T @ null, Z.T @ Z, atol=1e-9)


def test_rotations_are_uniform():
    drawn = np.array([nulls.orthonormal(3, 3, RNG(seed)) for seed in range(4000)])
    np.testing.assert_allclose(drawn.mean(0), 0, atol=0.04)
    np.testing.assert_allclose((drawn**2).mean(0), 1 / 3, atol=0.02)
    np.testing.assert_allclose(drawn[0].T @ drawn[0], np.eye(3), atol=1e-12)


# --- readings -------------------------------------------------------------------------------------------------

FACTS = [
    Fact("France", "The capital of {} is", relation="P36"),
    Fact("North Korea", "The capital of {} is", relation="P36"),
    Fact("Windows", "{} was made by", relation="P178"),
    Fact("Mount Everest", "{} lies in", relation="P30"),
    Fact("the Danube", "{} lies in", relation="P30"),
]


def test_bare_facts_are_their_subjects():
    assert [fact.text for fact in wordings.bare(FACTS)] == [fact.subject for fact in FACTS]
    assert [fact.relation for fact in wordings.bare(FACTS)] == [fact.relation for fact in FACTS]


@given(st.lists(st.integers(0, 4), min_size=2, max_size=30), st.integers(0, 5))
def test_swapped_prompts_are_the_same_prompts_and_no_fact_keeps_its_own(kinds, seed):
    facts = [Fact(f"subject {i}", f"{kind} of {{}}") for i, kind in enumerate(kinds)]
    if max(kinds.count(kind) for kind in kinds) > len(kinds) / 2:
        with pytest.raises(UserError, match="More than half"):
            wordings.swapped(facts, RNG(seed))
        return
    after = wordings.swapped(facts, RNG(seed))
    assert sorted(fact.prompt for fact in after) == sorted(fact.prompt for fact in facts)
    assert [fact.subject for fact in after] == [fact.subject for fact in facts]
    assert all(a.prompt != b.prompt for a, b in zip(after, facts, strict=True))


def test_swapping_scatters_a_relation_over_the_others():
    facts = [Fact(f"s{i}", f"{i % 5} of {{}}") for i in range(100)]
    given = {fact.prompt for fact in wordings.swapped(facts, RNG(0))[::5]}
    assert len(given) == 4


def test_random_subjects_have_as_many_words_and_the_same_prompts():
    after = wordings.random_subjects(FACTS, SENTENCES, RNG(0))
    assert [len(fact.subject.split()) for fact in after] == [len(fact.subject.split()) for fact in FACTS]
    assert [fact.prompt for fact in after] == [fact.prompt for fact in FACTS]
    words = {word.strip(".,;").title() for text in SENTENCES for word in text.split()}
    assert {word for fact in after for word in fact.subject.split()} <= words
    drawn = [word for fact in after for word in fact.subject.split()]
    assert len(set(drawn)) == len(drawn)
    assert after != wordings.random_subjects(FACTS, SENTENCES, RNG(1))
    with pytest.raises(UserError, match="4 different words and 8 are needed"):
        wordings.random_subjects(FACTS, ["mice and rats, mice and cats"], RNG(0))


def test_keys_of_text_are_keys_of_its_tokens_and_never_of_the_first():
    lm = tiny("llama")
    found, ids = text_keys.keys_of_text(lm, SENTENCES, count=5, draws=4, layers=[0, 2], context=20, batch=2)
    assert ids.shape == (4, 5)
    assert {layer: K.shape for layer, K in found.items()} == {0: (4, 40, 5), 2: (4, 40, 5)}
    parts = [
        text_keys.keys_of_text(lm, SENTENCES, count=5, draws=4, layers=[0, 2], context=20, batch=2, part=(n, 2))[0]
        for n in (0, 1)
    ]
    np.testing.assert_array_equal(parts[0][2] + parts[1][2], found[2])
    assert parts[0][2].any() and parts[1][2].any()
    every, tokens = {layer: [] for layer in found}, []
    for text in SENTENCES:
        read_ids = torch.tensor([lm.tokenizer(text)["input_ids"][:20]])
        tokens += read_ids[0, 1:].tolist()

        def receive(layer, read):
            every[layer.index].append(read[0, 1:].double().numpy())

        lm.read_keys(read_ids, torch.ones_like(read_ids), lm.select([0, 2]), receive)
    for layer, K in found.items():
        allowed = np.concatenate(every[layer])
        for key, token in zip(K.swapaxes(1, 2).reshape(-1, 40), ids.flatten(), strict=True):
            off = np.abs(allowed - key).max(1)
            assert off.min() < 1e-5 and tokens[off.argmin()] == token
    with pytest.raises(UserError, match="give more text"):
        text_keys.keys_of_text(lm, SENTENCES[:2], count=5)


def test_a_prompt_that_starts_with_the_subject_reads_the_key_of_the_subject_alone():
    lm, listed = tiny("llama"), FACTS[2:]
    asked, alone = (keys.extract(lm, facts, layers=[2])[2] for facts in (listed, wordings.bare(listed)))
    np.testing.assert_allclose(asked, alone, atol=1e-4)
    first = keys.extract(lm, FACTS[1:2], layers=[2])[2]
    assert np.abs(first - keys.extract(lm, wordings.bare(FACTS[1:2]), layers=[2])[2]).max() > 1e-3


# --- confounds ------------------------------------------------------------------------------------------------


def test_pairs_that_agree_and_near_duplicates_that_share_a_word_of_three_letters():
    def above(found):
        assert (found == found.T).all() and not found.diagonal().any()
        return {(i, j) for i, j in zip(*np.nonzero(found), strict=True) if i < j}

    assert above(confounds.same(["a", "b", "a", "c", "a"])) == {(0, 2), (0, 4), (2, 4)}
    subjects = ["University of Washington", "Washington", "universities of Rome", "Rome", "Mac OS X", "OS X"]
    assert above(confounds.shared_words(subjects)) == {(0, 1), (2, 3)}
    assert confounds.firsts([7, 7, 3, 7, 3, 9]) == [0, 2, 5]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: confounds.kurtosis_with_twins(128, 64, 65), "no sense"),
        (lambda: confounds.tail_factor(np.array([1.0, 0.0])), "positive"),
        (lambda: nulls.subsampled(np.eye(8), 4, 9, 1, RNG(0)), "4 to 8"),
    ],
)
def test_errors_say_what_to_do(call, words):
    with pytest.raises(UserError, match=words):
        call()


def test_statistics_of_products():
    K = uneven(60, 40)
    products = K.T @ K
    found = nulls.of_products(products, 60)
    P = overlap.superposition_matrix(K, np.eye(60))
    assert found[0].tolist() == pytest.approx(list(shape.statistics(shape.off_diagonal(P), 60).values()))
    cosine = overlap.cosines(products)[np.triu_indices(40, 1)]
    assert found[1].tolist() == pytest.approx(list(shape.statistics(cosine, 60).values()))


def test_pairs_left_out_do_not_count():
    K = uneven(60, 40)
    keep = ~confounds.same([0, 0, *range(1, 39)])
    found = nulls.of_products(K.T @ K, 60, keep)
    changed = K.T @ K
    changed[0, 1] = changed[1, 0] = 1e6
    np.testing.assert_allclose(nulls.of_products(changed, 60, keep), found)
    assert np.abs(nulls.of_products(changed, 60) - found).max() > 0.1


def test_bootstrap_draws_facts_and_no_fact_meets_itself():
    """Keys at right angles: every overlap but a fact's own is 0, so a 1 would show."""
    products = np.eye(60) + 1e-3 * np.triu(RNG(0).standard_normal((60, 60)), 1)
    products = np.triu(products) + np.triu(products, 1).T
    drawn = nulls.resampled(products, 60, 30, RNG(0))
    assert drawn.shape == (30, 2, len(shape.STATISTICS))
    assert drawn[:, :, 1].max() < 0.02
    assert drawn[:, 0, 0].std() > 0


def test_bootstrap_moments_agree_with_those_of_the_summary():
    K = uneven(60, 40)
    products = K.T @ K
    drawn = nulls.resampled(products, 60, 300, RNG(0))[:, 1, 0]
    kept = shape.summary(overlap.cosines(products), resamples=2000)["mean_interval"]
    np.testing.assert_allclose(np.quantile(drawn, [0.025, 0.975]), kept, atol=0.03)


def test_lists_of_all_facts_are_the_table():
    products = uneven(60, 40).T @ uneven(60, 40)
    drawn = nulls.subsampled(products, 60, 40, 3, RNG(0))
    np.testing.assert_allclose(drawn, np.broadcast_to(nulls.of_products(products, 60), drawn.shape))
    assert nulls.subsampled(products, 60, 12, 5, RNG(0)).std(0).min() > 0


# --- arithmetic -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("twins", [0, 1, 4])
def test_twins_make_the_kurtosis_that_arithmetic_says(twins):
    m, d_m, found = 64, 256, []
    for seed in range(8):
        K = RNG(seed).standard_normal((d_m, m))
        K[:, :twins] = K[:, twins : 2 * twins]
        K /= np.linalg.norm(K, axis=0)
        found.append(nulls.of_products(K.T @ K, d_m)[0, 2])
    assert np.mean(found) == pytest.approx(confounds.kurtosis_with_twins(m, d_m, twins), rel=0.03, abs=0.05)


def test_one_pair_of_twins_among_many_is_as_in_chapter_11():
    M, d_m = 128 * 127, 1536
    rough = (3 / d_m**2 + 2 / M) / (1 / d_m + 2 / M) ** 2 - 3
    assert confounds.kurtosis_with_twins(128, d_m) == pytest.approx(rough, rel=0.005)


def test_the_tail_factor_is_a_ratio_of_means_over_pairs():
    norms = RNG(0).gamma(3, size=9)
    r = [b / a for i, a in enumerate(norms) for j, b in enumerate(norms) if i != j]
    assert confounds.tail_factor(norms) == pytest.approx(np.mean(np.power(r, 4)) / np.mean(np.power(r, 2)) ** 2)
    assert confounds.tail_factor(np.full(9, 2.5)) == pytest.approx(1)


def test_unequal_lengths_multiply_the_kurtosis_of_p():
    norms, found = np.exp(0.2 * RNG(0).standard_normal(300)), []
    for seed in range(6):
        Z = nulls.same_norms(np.ones((200, 300)), RNG(seed)) * norms
        found.append(nulls.of_products(Z.T @ Z, 200)[:, 2])
    p, cosine = np.mean(found, axis=0)
    assert p + 3 == pytest.approx((cosine + 3) * confounds.tail_factor(norms), rel=0.03)
    assert abs(cosine) < 0.1


# --- the records ----------------------------------------------------------------------------------------------

RECORDS = records.names(kind="nulls")


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_of_nulls_holds_what_its_names_say(name):
    record = records.load(name)
    layers, shape = len(record["layers"]), (2, len(record["statistics"]))
    arrays = record.arrays
    assert arrays["table"].shape == (layers, *shape)
    assert arrays["nulls"].shape == (layers, len(record["nulls"]), record["seeds"], *shape)
    assert arrays["without"].shape == (layers, len(record["without"]), *shape)
    assert arrays["lists"].shape == (3, layers, len(record["sizes"]), *shape)
    assert arrays["pairs"].shape == (layers, len(record["readings"]), len(record["categories"]), 2, 3)
    assert arrays["norm"].shape == (layers, record["facts"]["count"])
    assert all(np.isfinite(array).all() for array in arrays.values())
    gaussian = arrays["nulls"][:, record["nulls"].index("gaussian")]
    np.testing.assert_allclose(gaussian[..., 1], 1, atol=0.03)
    np.testing.assert_allclose(gaussian[..., 0], 0, atol=0.002)


# --- measurements of several models ---------------------------------------------------------------------------


def shelve(folder, name, sha, count, tokens, d_m=40, layers=(0, 3)):
    """A record of a measurement of random keys, as `measure` writes it, at ``folder/name.json``."""
    rng, found = RNG(count), {field: [] for field in ("P", "Q", "cosine_whitened", "cosine_raw", "norm_whitened")}
    for _ in layers:
        measured = overlap.measure(uneven(d_m, count, int(rng.integers(99))), np.eye(d_m) + 0.1)
        for field, stack in found.items():
            stack.append(getattr(measured, field))
    matrices = {field: np.stack(stack) for field, stack in found.items()}
    data = {
        "kind": "measurement",
        "model": {"name": name.split("-")[0], "sha256": sha},
        "facts": {"count": count, "sha256": "facts"},
        "text": {"tokens": tokens},
        "layers": list(layers),
        "statistics": [{"layer": layer, "d_m": d_m} for layer in layers],
        "subjects": [f"subject {3 if i == 7 else i}" for i in range(count)],
        "token_ids": [i % (count - 2) for i in range(count)],
        "token_positions": [0, *([3] * (count - 1))],
    }
    records.write(folder / f"{name}.json", data, records.pack(matrices))
    return matrices


def test_measurements_are_found_one_a_model_and_by_width(tmp_path, monkeypatch):
    monkeypatch.setattr("superposition.io.paths.records_dir", lambda: tmp_path)
    shelve(tmp_path, "small-20", "a", 20, 500)
    shelve(tmp_path, "small-30", "a", 30, 100)
    shelve(tmp_path, "small-30b", "a", 30, 200)
    shelve(tmp_path, "narrow-20", "b", 20, 500, d_m=12)
    records.write(tmp_path / "other.json", {"kind": "control"})
    found = scaling.largest_measurements()
    assert [record.name for record in found] == ["narrow-20", "small-30b"]
    assert [scaling.width(record) for record in found] == [12, 40]
    shelve(tmp_path, "dropped-25", "c", 25, 100, d_m=90)
    assert [record.name for record in scaling.largest_measurements()][-1] == "dropped-25"


def test_clean_facts_have_no_confound_left(tmp_path):
    shelve(tmp_path, "x", "a", 12, 100)
    record = records.load(tmp_path / "x.json")
    clean = scaling.clean_facts(record)
    assert set(range(12)) - set(clean) == {0, 7, 11}  # at position 0, a subject again, a last token again
    for field in ("token_ids", "subjects"):
        assert len({record[field][i] for i in clean}) == len(clean)


def test_statistics_by_layer_are_those_of_the_keys(tmp_path):
    matrices = shelve(tmp_path, "x", "a", 25, 100)
    record = records.load(tmp_path / "x.json")
    chosen = [1, 3, 4, 5, 8, 9, 12, 17, 20, 21, 24]
    for facts in (None, chosen):
        found, keep = scaling.by_layer(record, facts), range(25) if facts is None else facts
        assert found.shape == (2, 2, len(shape.STATISTICS))
        for row, P, norm in zip(found, matrices["P"], matrices["norm_whitened"], strict=True):
            products = (P * norm[:, None] ** 2)[np.ix_(keep, keep)]
            np.testing.assert_allclose(row, nulls.of_products(products, 40), atol=2e-2)


def test_a_dropped_record_appears_in_the_chapter_without_a_change_of_code(tmp_path, monkeypatch):
    import nbformat

    from superposition.io import paths

    for path in paths.records_dir().iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.setattr("superposition.io.paths.records_dir", lambda: tmp_path)
    shelve(tmp_path, "dropped-30", "another", 30, 100, d_m=90)
    book = Path(__file__).parents[1] / "book"
    chapter = nbformat.read(book / "13-scaling.ipynb", as_version=4)
    monkeypatch.setattr("superposition.studies.scaling.resampled", lambda G, d_m, count, rng: np.ones((2, 2, 6)))
    space, shown = {}, []
    for cell in chapter.cells:
        if cell.cell_type == "code" and "simulated" not in cell.source:
            lines = cell.source.rstrip().split("\n")
            if lines[-1].startswith(("table(", "figures.")):
                lines[-1] = "shown = " + lines[-1]
            exec("\n".join(lines), space)
            shown.append(space.pop("shown", None))
    tables = [one.data for one in shown if hasattr(one, "data")]
    assert sum("dropped" in text for text in tables) == 2
    drawn = [one for one in shown if hasattr(one, "axes")]
    assert any("dropped" in [line.get_label() for axis in one.axes for line in axis.lines] for one in drawn)
    assert any("90\ndropped" in [t.get_text() for axis in one.axes for t in axis.get_xticklabels()] for one in drawn)
