"""C from other texts: articles come out as plain text, pairs are what they are called, sets and intervals agree."""

import bz2
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import SENTENCES, tiny

from superposition.data import facts
from superposition.data.facts import Fact
from superposition.errors import UserError
from superposition.linear import overlap
from superposition.linear.metric import Metric
from superposition.lm import keys, moments
from superposition.stats import intervals, shape

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import texts

PAGE = "<page><title>{}</title><ns>{}</ns>{}<revision><text>{}</text></revision></page>"
ARTICLE = """{{Infobox|name=x}}'''Paris''' is the [[capital city|capital]] of [[France]].&lt;ref&gt;a&lt;/ref&gt;
[[File:Seine.jpg|thumb|The [[Seine]]]]

{| class="wikitable"
| a cell
|}

== History ==
Old. &lt;!-- not said --&gt;

[[Category:Cities]]"""


def test_an_article_is_its_sentences(tmp_path):
    pytest.importorskip("mwparserfromhell", reason="it has no wheel for Python 3.14")
    pages = (("Paris", 0, "", ARTICLE), ("Talk:Paris", 1, "", "no"), ("Lutetia", 0, '<redirect title="Paris"/>', "no"))
    dump = tmp_path / "dump.bz2"
    inside = "".join(PAGE.format(*page) for page in pages)
    dump.write_bytes(bz2.compress(f'<mediawiki xmlns="http://www.mediawiki.org/x/">{inside}</mediawiki>'.encode()))
    assert list(texts.articles(dump)) == ["Paris is the capital of France.\n\nHistory\nOld."]


def test_another_dump_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="not installed"):
        monkeypatch.setattr(texts.importlib.util, "find_spec", lambda name: None)
        texts.dump()
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(texts.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match=r"not the one that was read: pip install gensim"):
        texts.dump()


def test_means_over_pairs_are_those_of_a_loop_and_draw_facts():
    rng = np.random.default_rng(0)
    M, keep = rng.standard_normal((2, 9, 9)), rng.random((9, 9)) < 0.6
    found = intervals.over_pairs(M, keep, lambda means: means[1] - means[0], resamples=300, seed=3)
    pairs = [(i, j) for i in range(9) for j in range(9) if keep[i, j] and i != j]
    assert found.value == pytest.approx(np.mean([M[1, i, j] - M[0, i, j] for i, j in pairs]))
    drawn = np.random.default_rng(3).multinomial(9, np.full(9, 1 / 9), size=300)
    means = []
    for counts in drawn:
        weights = [counts[i] * counts[j] for i, j in pairs]
        means.append(np.average([M[1, i, j] - M[0, i, j] for i, j in pairs], weights=weights))
    assert found[1:] == pytest.approx(np.quantile(means, [0.025, 0.975]))
    with pytest.raises(UserError, match="no pair"):
        intervals.over_pairs(M, np.eye(9, dtype=bool))


def listed() -> list[Fact]:
    """Facts of two relations; those of the second begin with the subject, in the first paraphrase too."""
    ways = {
        "capital": ("The capital of {} is", "The chief city of {} is"),
        "tongue": ("{} speaks", "{} talks in"),
    }
    who = ["France", "Spain", "Japan", "Vienna", "Budapest", "Rome"]
    return [
        Fact(
            subject=subject,
            prompt=ways[relation][0],
            target_true="x",
            relation=relation,
            paraphrases=(ways[relation][1].replace("{}", subject),),
            subject_type="country" if subject in who[:3] else "city",
        )
        for relation in ways
        for subject in who
    ]


def test_kinds_of_pairs_are_what_they_are_called():
    lm, known = tiny("llama"), listed()
    again = [fact.reworded()[0] for fact in known]
    found = {"facts": keys.extract(lm, known, layers=[0]), "paraphrases": keys.extract(lm, again, layers=[0])}
    masks = texts.kinship(known, found)
    own, relation, kind, apart = (masks[name] for name in texts.KINSHIP)
    assert own.diagonal()[:6].all() and not own.diagonal()[6:].any()  # where the subject comes first, the key is one
    for i, a in enumerate(known):
        for j, b in enumerate(known):
            if relation[i, j]:
                assert a.relation == b.relation and a.subject != b.subject
            if kind[i, j]:
                assert a.relation != b.relation and a.subject_type == b.subject_type and a.subject != b.subject
            if apart[i, j]:
                assert a.relation != b.relation and a.subject_type != b.subject_type
    assert not (relation & kind).any() and not (relation & apart).any() and not (kind & apart).any()


def test_a_set_has_the_statistics_of_its_overlaps_and_an_angle_its_own():
    rng, sizes = np.random.default_rng(1), texts.Sizes(facts=12, resamples=40)
    K, C = rng.standard_normal((20, 12)), np.eye(20)
    products, every = overlap.whitened_products(K, C), np.ones((12, 12), dtype=bool)
    found = texts.of_set(products, 20, every, sizes)
    P = overlap.superposition_matrix(K, C)
    told = shape.statistics(shape.off_diagonal(P), 20)
    np.testing.assert_allclose(found["statistics"][0, 0], list(told.values()))
    column = shape.STATISTICS.index("excess_kurtosis")
    assert found["statistics"][1:, 0, column] == pytest.approx(np.quantile(found["kurtosis"], [0.025, 0.975]))
    assert found["beyond"][0] == pytest.approx(np.mean(np.abs(shape.off_diagonal(P)) > 3 / np.sqrt(20)))
    raw, white = np.full((12, 12), 0.5), np.full((12, 12), 0.0)
    np.testing.assert_allclose(texts.right_angle(np.stack([raw, white]), sizes)[:, 0], [60, 90, 30])


def test_kin_is_near_one_for_a_fact_in_other_words_that_has_the_same_key():
    rng, sizes = np.random.default_rng(2), texts.Sizes(resamples=20)
    K = rng.standard_normal((30, 12))
    masks = {name: np.ones((12, 12), dtype=bool) for name in texts.KINSHIP}
    found = texts.kin({"facts": K, "paraphrases": 2 * K}, Metric(np.eye(30)), masks, sizes)
    np.testing.assert_allclose(found[0, :, 0], [2, 1])  # p, cosine
    P = overlap.superposition_matrix(K, np.eye(30))
    assert found[1, 0, 0] == pytest.approx(shape.off_diagonal(P).mean())


def test_a_record_holds_every_layer_under_every_text(tmp_path, cache, monkeypatch):
    lm = tiny("llama")
    paragraphs = "\n\n".join(" ".join(SENTENCES[i:] + SENTENCES[:i]) for i in range(len(SENTENCES)))
    sources = []
    for name, repeat in (("one", 5), ("two", 6)):
        source = tmp_path / f"{name}.txt"
        source.write_text("\n\n".join([paragraphs] * repeat), encoding="utf-8")
        sources.append(str(source))
    some = facts.load("book", limit=210)[::7]
    monkeypatch.setattr(texts.facts, "load", lambda source, limit=None: some[:limit])
    monkeypatch.setattr(texts.wordings, "random_subjects", lambda listed, of, rng: list(listed))
    data, arrays = texts.measure(lm, sources, texts.Sizes(facts=30, tokens=15, context=24, resamples=10))
    assert [one["source"] for one in data["texts"]] == ["one", "two"] and data["layers"] == [0, 1, 2]
    assert arrays["statistics"].shape == (2, 3, len(texts.SETS), 3, 2, len(shape.STATISTICS))
    assert arrays["beyond"].shape == (2, 3, len(texts.SETS), 3)
    assert arrays["kurtosis"].shape == (2, 3, 2, 10)
    assert arrays["angles"].shape == (2, 3, 3, 3) and arrays["kinship"].shape == (2, 3, 4, 2, 3)
    facts_row, strangers_row = (texts.SETS.index(name) for name in ("facts", "strangers"))
    assert np.isfinite(arrays["statistics"][:, :, facts_row]).all()
    assert not np.array_equal(arrays["statistics"][0], arrays["statistics"][1])
    blank, layer = texts.untrained(lm, 0), 1
    asked = keys.extract(blank, some, layers=[layer])
    C = moments.estimate(blank, sources[0], tokens=15 * lm.layers[0].d_m, context=24)
    apart = texts.strangers(keys.extract(lm, some, layers=[0]).tokens) & ~np.eye(len(some), dtype=bool)
    P = overlap.superposition_matrix(asked[layer], C.second_moment(layer))
    place = 0, layer, texts.SETS.index("random weights"), 0, 0, shape.STATISTICS.index("mean")
    assert arrays["statistics"][place] == pytest.approx(P[apart].mean(), rel=1e-4)
    assert data["pairs"]["one"]["strangers"] == apart.sum() // 2
    again = texts.measure(lm, sources, texts.Sizes(facts=30, tokens=15, context=24, resamples=10))[1]
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)
    assert strangers_row != facts_row
