"""Texts: what a file must look like, how it is cut into windows, and text sampled from a model itself."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import SENTENCES, tiny, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from superposition.data import text
from superposition.errors import UserError
from superposition.io import console, paths
from superposition.lm import sampling

pytestmark = pytest.mark.usefixtures("cache")


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# Reading


def test_jsonl_gives_its_texts_in_order_without_the_empty_ones(tmp_path):
    lines = ['{"text": "one", "id": 3}', "", '{"text": "  "}', '{"text": "zwei\\nPelé"}', '{"text": "東京"}']
    path = write(tmp_path / "a.jsonl", "\ufeff" + "\r\n".join(lines))
    assert list(text.read(path)) == ["one", "zwei\nPelé", "東京"]
    assert list(text.read(str(path))) == ["one", "zwei\nPelé", "東京"]


def test_a_text_file_is_one_text(tmp_path):
    assert list(text.read(write(tmp_path / "a.txt", "\ufeffone\n\ntwo\n"))) == ["one\n\ntwo\n"]


@settings(deadline=None)
@given(st.lists(st.text(st.sampled_from("ab \n東"), max_size=30), max_size=8), st.integers(1, 25))
def test_pieces_hold_the_text_and_are_no_longer_than_asked_for(blocks, size):
    whole, found = "".join(blocks), list(text.pieces(blocks, size))
    assert "".join("".join(found).split()) == "".join(whole.split())
    assert all(piece.strip() and len(piece) <= size for piece in found)
    assert found == list(text.pieces([whole], size))
    if len(whole) <= size and whole.strip():
        assert found == [whole]


def test_a_text_is_cut_where_a_paragraph_ends():
    assert list(text.pieces(["one two\n\nthree\nfour five"], 14)) == ["one two", "three", "four five"]
    assert list(text.pieces(["one two\n\nthree\nfour five"], 40)) == ["one two\n\nthree\nfour five"]
    assert list(text.pieces(["one two three"], 9)) == ["one two", "three"]
    assert list(text.pieces(["abcdefghijk"], 4)) == ["abcd", "efgh", "ijk"]


def test_a_long_text_is_read_and_tokenised_only_as_far_as_needed(tmp_path):
    sentence = SENTENCES[0] + "\n"
    path = write(tmp_path / "long.txt", sentence * 20_000)
    seen = []

    def watched(string, **options):
        seen.append(len(string))
        return tokenizer()(string, **options)

    found = text.windows(text.read(path), watched, tokens=3000)
    assert sum(window.counted for window in found) == 3000
    assert sum(seen) < 2 * text.PIECE < path.stat().st_size / 5
    lines = write(tmp_path / "lines.jsonl", json.dumps({"text": sentence * 20_000}) + "\nno JSON")
    seen.clear()
    assert sum(window.counted for window in text.windows(text.read(lines), watched, tokens=3000)) == 3000
    assert sum(seen) < 2 * text.PIECE


def test_a_bad_byte_far_down_a_text_file_is_found_with_its_line(tmp_path):
    path = write(tmp_path / "a.txt", b"a line of text\n" * 20_000 + b"bad \xff\n")
    with pytest.raises(UserError, match=r"a\.txt, line 20001: not UTF-8"):
        list(text.read(path))


def test_every_window_begins_as_a_prompt_does():
    with_bos, whole = tokenizer(bos=True), " ".join(SENTENCES * 3)
    begin, *rest = with_bos(whole)["input_ids"]
    assert begin == with_bos.bos_token_id
    found = text.windows([whole], with_bos, context=64)
    assert all(window.token_ids[0] == begin and len(window.token_ids) <= 64 for window in found)
    assert [token for window in found for token in window.token_ids[1:]] == rest
    assert sum(window.counted for window in found) == len(rest) + len(found)
    assert sum(window.counted for window in text.windows([whole], with_bos, context=64, skip_first=1)) == len(rest)
    with pytest.raises(UserError, match="hold nothing but what the tokenizer begins them with"):
        text.windows([whole], with_bos, context=1)


def test_a_tilde_is_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.txt", "here")
    assert list(text.read("~/a.txt")) == ["here"]
    assert text.fingerprint("~/a.txt") == text.fingerprint(tmp_path / "a.txt")


def test_the_books_text_is_the_shipped_file():
    assert text.resolve("book") == paths.data_dir() / "calibration-smollm2.jsonl"
    assert text.resolve("mine.txt") == "mine.txt"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", '{"text": "one"}\n{"text": 2}\n', r'a\.jsonl, line 2: no "text" string'),
        ("a.jsonl", '{"text": "one"}\n["text"]\n', r'a\.jsonl, line 2: no "text" string'),
        ("a.jsonl", '{"text": "one"}\n\n{"body": "two"}\n', r'a\.jsonl, line 3: no "text" string'),
        ("a.jsonl", '{"text": "one"\n', r"a\.jsonl, line 1: not a JSON object in UTF-8"),
        ("a.jsonl", '{"text": "one"}\n' + "[" * 100_000, r"a\.jsonl, line 2: not a JSON object in UTF-8"),
        ("a.jsonl", b'{"text": "one"}\n{"text": "\xff"}\n', r"a\.jsonl, line 2: not a JSON object in UTF-8"),
        ("a.jsonl", '{"text": "one"}\n{"text": "half \\ud800"}\n', r"a\.jsonl, line 2: not a JSON object in UTF-8"),
        ("a.jsonl", "\n", r"a\.jsonl holds no text"),
        ("a.jsonl", '{"text": " "}\n', r"a\.jsonl holds no text"),
        ("a.txt", " \n", r"a\.txt holds no text"),
        ("a.txt", b"one\ntwo\xff\n", r"a\.txt, line 2: not UTF-8"),
        ("a.pdf", "x", r"a\.pdf: a text is a \.jsonl file"),
    ],
)
def test_a_malformed_file_gets_a_sentence_with_its_line(tmp_path, name, content, sentence):
    with pytest.raises(UserError, match=sentence):
        list(text.read(write(tmp_path / name, content)))


@pytest.mark.parametrize("name", ["absent.jsonl", "."])
def test_an_absent_file_gets_a_sentence(tmp_path, name):
    for read in (lambda source: list(text.read(source)), text.fingerprint):
        with pytest.raises(UserError, match="There is no text file"):
            read(tmp_path / name)


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    one, two = write(tmp_path / "1.txt", "same"), write(tmp_path / "2.txt", "same")
    assert text.fingerprint(one) == text.fingerprint(two) != text.fingerprint(write(tmp_path / "3.txt", "other"))
    assert text.fingerprint("hub:wikitext") != text.fingerprint("hub:wikipedia")


# The hub


@pytest.mark.parametrize("name", list(text.HUB_TEXTS))
def test_a_hub_data_set_is_streamed(monkeypatch, name):
    asked = []

    def load_dataset(path, configuration, *, split, streaming):
        asked.append((path, configuration, split, streaming))
        return iter([{"text": "one"}, {"text": " \n"}, {"text": "two", "title": "x"}])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert list(text.read(name)) == ["one", "two"]
    assert asked == [(*text.HUB_TEXTS[name], True)]


def test_without_the_library_the_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install datasets"):
        list(text.read("hub:wikitext"))


class OfTheClient(Exception):
    """An error that derives from nothing in particular, as the hub's HTTP client's do."""


@pytest.mark.parametrize("error", [ConnectionError, FileNotFoundError, OfTheClient])
@pytest.mark.parametrize("late", [False, True])
def test_without_a_network_the_sentence_says_so(monkeypatch, error, late):
    def load_dataset(*_args, **_kwargs):
        if not late:
            raise error("no route")

        def rows():
            yield {"text": "one"}
            raise error("lost")

        return rows()

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(UserError, match=rf"{error.__name__}.*check the network, or give a local file"):
        list(text.read("hub:wikipedia"))


# Windows


def naive_windows(texts, tokenizer, tokens, skip_first, context):
    """Every position one by one: (window, place) of those that count, and the windows' ids."""
    counted, pieces = [], []
    for one in filter(None, texts):
        ids = tokenizer(one)["input_ids"]
        begins = ids[: tokenizer.bos_token is not None]
        body = ids[len(begins) :]
        for start in range(0, len(body), context - len(begins)):
            pieces.append(begins + body[start : start + context - len(begins)])
            for place in range(len(pieces[-1])):
                if place >= skip_first and (tokens is None or len(counted) < tokens):
                    counted.append((len(pieces) - 1, place))
    return counted, pieces


@given(
    st.lists(st.lists(st.sampled_from(" ".join(SENTENCES).split()), max_size=25).map(" ".join), max_size=6),
    st.none() | st.integers(1, 120),
    st.integers(0, 7),
    st.integers(1, 20),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_windows_count_the_positions_that_a_naive_loop_counts(texts, tokens, skip_first, context, bos):
    cutter = tokenizer(bos)
    if context <= max(skip_first, bos):
        with pytest.raises(UserError, match=r"leave nothing after|hold nothing but"):
            text.windows(texts, cutter, tokens=tokens, skip_first=skip_first, context=context)
        return
    counted, pieces = naive_windows(texts, cutter, tokens, skip_first, context)
    if not counted or (tokens is not None and len(counted) < tokens):
        sentence = "no token to count" if tokens is None else f"holds {len(counted)} tokens and {tokens} were asked"
        with pytest.raises(UserError, match=sentence):
            text.windows(texts, cutter, tokens=tokens, skip_first=skip_first, context=context)
        return
    found = text.windows(iter(texts), cutter, tokens=tokens, skip_first=skip_first, context=context)
    assert sum(window.counted for window in found) == len(counted) == (tokens or len(counted))
    wanted = {}
    for piece, place in counted:
        wanted.setdefault(piece, []).append(place)
    assert [list(window.token_ids) for window in found] == [pieces[number] for number in wanted]
    assert [list(range(window.first, window.stop)) for window in found] == list(wanted.values())


def test_a_count_stops_at_what_is_asked_for():
    whole = sum(window.counted for window in text.windows(SENTENCES, tokenizer()))
    assert text.count(SENTENCES, tokenizer()) == whole
    assert text.count(SENTENCES, tokenizer(), most=whole + 5) == whole
    assert text.count(iter(SENTENCES), tokenizer(), most=40) == 40
    assert text.count([], tokenizer(), most=40) == 0


def test_no_more_text_is_read_than_needed():
    def texts():
        yield SENTENCES[0]
        raise AssertionError("read on")

    assert sum(window.counted for window in text.windows(texts(), tokenizer(), tokens=5)) == 5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tokens": 0}, "0 tokens were asked for"),
        ({"tokens": -3}, "-3 tokens were asked for"),
        ({"skip_first": -1}, "cannot be -1"),
        ({"context": 0}, "Windows of 0 tokens"),
        ({"skip_first": 4, "context": 4}, "leave nothing after 4 skipped"),
    ],
)
def test_counts_that_make_no_sense_get_a_sentence(options, sentence):
    with pytest.raises(UserError, match=sentence):
        text.windows(SENTENCES, tokenizer(), **options)


# Sampling


@pytest.fixture
def talker():
    """A tiny model to sample from."""
    return tiny("gpt2")


def sampled(path):
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_sampled_text_has_the_tokens_asked_for_differs_and_reads_back(talker, tmp_path):
    path = tmp_path / "new" / "a.jsonl"
    total = sampling.sample(talker, path, tokens=300, length=40, batch=2)
    texts = sampled(path)
    counts = [len(talker.tokenizer(one)["input_ids"]) for one in texts]
    assert total == sum(counts) >= 300 > total - counts[-1]
    assert min(counts) >= sampling.SHORTEST
    assert len(set(texts)) == len(texts) > 4  # every batch draws others
    assert list(text.read(path)) == texts
    assert sum(w.counted for w in text.windows(text.read(path), talker.tokenizer, tokens=300)) == 300


def test_sampling_stops_when_its_time_is_up_and_goes_on_later(talker, tmp_path):
    short = sampling.sample(talker, tmp_path / "a.jsonl", tokens=500, length=40, batch=2, seconds=0)
    assert 0 < short < 500 and len(sampled(tmp_path / "a.jsonl")) <= 2
    assert sampling.sample(talker, tmp_path / "b.jsonl", tokens=500, length=40, batch=2) >= 500
    assert sampled(tmp_path / "b.jsonl")[: len(sampled(tmp_path / "a.jsonl"))] == sampled(tmp_path / "a.jsonl")


def test_a_seed_gives_the_same_text_and_another_seed_or_model_another(talker, tmp_path, monkeypatch):
    results = []
    for number, (model, seed) in enumerate(((talker, 0), (talker, 0), (talker, 1), (tiny("gpt2", seed=7), 1))):
        if number < 3:  # the other model finds the cache of this one, and does not take from it
            monkeypatch.setenv("SUPERPOSITION_CACHE", str(tmp_path / f"cache-{number}"))
        torch.manual_seed(number)
        sampling.sample(model, tmp_path / f"{number}.jsonl", tokens=150, length=40, batch=4, seed=seed)
        results.append((tmp_path / f"{number}.jsonl").read_bytes())
    assert results[0] == results[1] != results[2] != results[3]


def test_an_interrupted_run_goes_on_where_it_stopped_with_the_same_result(talker, tmp_path, monkeypatch):
    whole, path = tmp_path / "whole.jsonl", tmp_path / "a.jsonl"
    sampling.sample(talker, whole, tokens=1200, length=40, batch=4)
    monkeypatch.setenv("SUPERPOSITION_CACHE", str(tmp_path / "another-cache"))
    generate, calls = talker.model.generate, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(*args, **kwargs)

    monkeypatch.setattr(talker.model, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sampling.sample(talker, path, tokens=1200, length=40, batch=4)
    assert not path.exists()
    sampling.sample(talker, path, tokens=1200, length=40, batch=4)
    assert path.read_bytes() == whole.read_bytes()
    batches = len(calls)
    # Batches 1 and 2 were kept: the second run made the third again and then only new ones.
    monkeypatch.setattr(talker.model, "generate", lambda *a, **k: calls.append(1) or generate(*a, **k))
    sampling.sample(talker, path, tokens=1200, length=40, batch=4)
    assert len(calls) == batches


def test_a_cache_that_cannot_be_written_is_one_note(talker, tmp_path, cache):
    cache.mkdir(exist_ok=True)
    (cache / "samples").write_text("a file in the place of the folder")
    with pytest.warns(console.SuperpositionWarning, match="not kept in the cache") as notes:
        sampling.sample(talker, tmp_path / "a.jsonl", tokens=400, length=40, batch=4)
    assert len(notes) == 1 and sampled(tmp_path / "a.jsonl")


@pytest.mark.parametrize("damage", ['["half', "{}", "[1, 2]", "[" * 100_000])
def test_a_damaged_batch_in_the_cache_is_made_again(talker, tmp_path, cache, damage):
    path = tmp_path / "a.jsonl"
    sampling.sample(talker, path, tokens=150, length=40, batch=4)
    before = path.read_bytes()
    for part in (cache / "samples").rglob("*.json"):
        part.write_text(damage)
    sampling.sample(talker, path, tokens=150, length=40, batch=4)
    assert path.read_bytes() == before


def test_a_model_that_ends_at_once_gets_a_sentence_not_an_endless_run(tmp_path, monkeypatch):
    model = tiny("llama")
    end = model.tokenizer.eos_token_id
    calls = []

    def generate(prompt, **_):
        calls.append(1)
        return torch.full((len(prompt), 2), end)

    monkeypatch.setattr(model.model, "generate", generate)
    with pytest.raises(UserError, match="ends its texts at once"):
        sampling.sample(model, tmp_path / "a.jsonl", tokens=100, length=40, batch=4)
    assert len(calls) == sampling.FRUITLESS
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.usefixtures("cache")
def test_sampled_texts_are_no_longer_than_the_model_takes(tmp_path):
    model = tiny("gpt2")  # has no position beyond its last
    sampling.sample(model, tmp_path / "a.jsonl", tokens=60, length=10 * model.context_length, batch=2)
    ids = [tokenizer()(one)["input_ids"] for one in text.read(tmp_path / "a.jsonl")]
    assert sum(map(len, ids)) >= 60


def test_a_tokenizer_without_an_end_samples_too(tmp_path):
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    model = tiny("gpt2", eos_token_id=None, bos_token_id=None, pad_token_id=None)
    plain = tokenizer().backend_tokenizer.to_str().replace("<|endoftext|>", "<|never|>")
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(plain))
    assert sampling.sample(model, tmp_path / "a.jsonl", tokens=60, length=40, batch=4) >= 60


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tokens": 0}, "must be positive"),
        ({"tokens": 9, "batch": 0}, "must be positive"),
        ({"tokens": 9, "temperature": 0.0}, "must be positive"),
        ({"tokens": 9, "length": 8}, "Texts of 8 tokens are too short"),
    ],
)
def test_sampling_refuses_what_makes_no_sense(talker, tmp_path, options, sentence):
    with pytest.raises(UserError, match=sentence):
        sampling.sample(talker, tmp_path / "a.jsonl", **options)
    assert not (tmp_path / "a.jsonl").exists()
