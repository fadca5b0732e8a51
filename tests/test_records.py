"""Records: what goes in comes out, damaged ones are refused, and a live value is held against the recorded one."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
from conftest import environment, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from superposition import records
from superposition.errors import UserError
from superposition.io import files, paths
from superposition.linear import overlap
from superposition.measure import MATRICES, Measurement


def test_a_record_is_named_json_so_that_its_arrays_have_a_name_of_their_own(tmp_path):
    for name in ("x.npz", "x", "x.json.gz"):
        with pytest.raises(UserError, match=r"does not end in \.json"):
            records.write(tmp_path / name, {}, {"a": np.ones(3)})
    assert list(tmp_path.iterdir()) == []


def measured(seed=0, layers=(3, 5), m=7, width=20):
    """Overlaps of random keys of very different lengths, and their stacked matrices."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in layers:
        mixing = rng.standard_normal((width, 3 * width))
        keys = rng.standard_normal((width, m)) * rng.lognormal(0, 1, m)
        found.append(overlap.measure(keys, mixing @ mixing.T / width))
    return found, {name: np.stack([getattr(one, name) for one in found]) for name in MATRICES}


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """An empty folder in the place of the book's records."""
    folder = tmp_path / "records"
    folder.mkdir()
    monkeypatch.setattr(paths, "records_dir", lambda: folder)
    return folder


@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
@settings(max_examples=25, deadline=None)
def test_compact_form_restores_all_matrices_within_its_step(tmp_path_factory, seed, m):
    found, stacks = measured(seed, m=m)
    path = tmp_path_factory.mktemp("records") / "one.json"
    records.write(path, {"layers": [3, 5]}, records.pack(stacks))
    record = records.load(path)
    for layer, exact in zip((3, 5), found, strict=True):
        restored = record.overlaps(layer)
        # Rounding of the norms to float32 is far below the step.
        assert np.abs(restored.P - exact.P).max() <= records.STEP / 2 + 1e-6 * np.abs(exact.P).max()
        assert np.abs(restored.cosine_whitened - exact.cosine_whitened).max() <= records.STEP / 2 + 1e-9
        assert np.abs(restored.cosine_raw - exact.cosine_raw).max() <= records.STEP_RAW / 2 + 1e-9
        for name in ("P", "cosine_whitened", "cosine_raw"):
            assert np.array_equal(np.diag(getattr(restored, name)), np.ones(m))
        np.testing.assert_allclose(restored.norm_whitened, exact.norm_whitened, rtol=1e-7)
        raw = np.sqrt(np.diag(exact.Q))
        assert (np.abs(restored.Q - exact.Q) <= records.STEP_RAW * np.outer(raw, raw)).all()


def test_compact_form_is_small():
    _, stacks = measured(m=60)
    packed = records.pack(stacks)
    assert sum(array.nbytes for array in packed.values()) < sum(array.nbytes for array in stacks.values()) / 12


def test_compact_form_is_restored_from_the_file_alone_however_many_layers(tmp_path):
    """What a layer is forecast from are restored numbers: errors do not grow from layer to layer."""
    found, stacks = measured(layers=range(12), m=30)
    alike = {name: np.concatenate([stack, stack[:1], stack[:1]]) for name, stack in stacks.items()}
    records.write(tmp_path / "one.json", {"layers": list(range(14))}, records.pack(alike))
    record = records.load(tmp_path / "one.json")
    for layer, exact in enumerate([*found, found[0], found[0]]):
        largest = np.abs(exact.P).max()
        assert np.abs(record.overlaps(layer).P - exact.P).max() <= records.STEP / 2 + 1e-6 * largest


def test_a_record_says_in_which_steps_it_is_kept(tmp_path):
    _, stacks = measured()
    records.write(tmp_path / "one.json", {"layers": [3, 5]}, records.pack(stacks))
    record = records.load(tmp_path / "one.json")
    for name in ("P", "cosine_whitened", "cosine_raw"):
        errors = [np.abs(getattr(record.overlaps(n), name) - stacks[name][row]).max() for row, n in enumerate((3, 5))]
        assert (
            record.resolution(name) / 20
            < max(errors)
            <= record.resolution(name) / 2 + 1e-6 * np.abs(stacks[name]).max()
        )


def test_a_record_is_read_without_torch():
    script = (
        "import sys, superposition.linear.overlap\n"
        "for name in [n for n in sys.modules if n.split('.')[0] == 'torch']: del sys.modules[name]\n"
        "from superposition import records\n"
        "records.load('smollm2-128').overlaps(3)\n"
        "said = records.provenance(command='x')\n"
        "assert 'torch' not in sys.modules and said['threads'] >= 1 and 'torch' in said['versions'], said\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=environment())


def test_a_header_names_a_model_and_its_files():
    model = tiny()
    assert records.header(model) == {"name": "llama", "sha256": model.sha256, "architecture": "LlamaForCausalLM"}
    assert records.header(model, architecture=False) == {"name": "llama", "sha256": model.sha256}
    assert records.dtype(model) == "float32"


def test_a_plain_measurement_reads_back_too(tmp_path):
    found, stacks = measured()
    Measurement({"layers": [3, 5]}, stacks).write(tmp_path / "out")
    record = records.load(tmp_path / "out")
    assert record.resolution("cosine_raw") == 0
    for layer, exact in zip((3, 5), found, strict=True):
        for name in MATRICES:
            np.testing.assert_allclose(getattr(record.overlaps(layer), name), getattr(exact, name), rtol=1e-6)


def test_a_layer_that_was_not_recorded_gets_a_sentence(tmp_path):
    records.write(tmp_path / "one.json", {"layers": [3, 5]}, records.pack(measured()[1]))
    with pytest.raises(UserError, match=r"The record one holds the layers \[3, 5\], not 4"):
        records.load(tmp_path / "one.json").overlaps(4)


def test_records_are_found_by_name_and_by_kind(shelf):
    records.write(shelf / "b.json", {"kind": "measurement", "x": 1})
    records.write(shelf / "a.json", {"kind": "other"}, {"values": np.arange(3)})
    assert records.names() == ["a", "b"] and records.names("measurement") == ["b"]
    assert records.load("b")["x"] == 1 and records.load("b").arrays == {}
    assert records.load("a").arrays["values"].tolist() == [0, 1, 2]
    assert records.load("a").name == "a"


def test_an_absent_record_gets_a_sentence_with_those_there_are(shelf, tmp_path):
    with pytest.raises(UserError, match="There is no record absent; the book has: none"):
        records.load("absent")
    records.write(shelf / "one.json", {})
    records.write(shelf / "two.json", {})
    for name in ("absent", tmp_path / "absent.json", tmp_path):
        with pytest.raises(UserError, match=r"There is no record .*; the book has: one, two"):
            records.load(name)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b'{"a": "\xff"}'])
def test_a_damaged_record_gets_a_sentence(shelf, content):
    (shelf / "one.json").write_bytes(content)
    with pytest.raises(UserError, match=r"The record one\.json is damaged: make it again"):
        records.load("one")


@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "flipped", "other", "array"])
def test_damaged_arrays_get_a_sentence(shelf, damage):
    records.write(shelf / "one.json", {"layers": [0]}, {"values": np.random.default_rng(0).standard_normal(1000)})
    beside = shelf / "one.npz"
    content = bytearray(beside.read_bytes())
    if damage == "absent":
        beside.unlink()
    elif damage == "flipped":
        content[len(content) // 2] ^= 255
        beside.write_bytes(content)
    elif damage == "array":
        with beside.open("wb") as stream:
            np.save(stream, np.ones(3))
    else:
        beside.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "other": b"not an archive"}[damage])
    with pytest.raises(UserError, match=r"The arrays one\.npz of the record one are absent or damaged: make it again"):
        _ = records.load("one").arrays


def test_arrays_of_objects_are_never_unpickled(shelf):
    records.write(shelf / "one.json", {}, {"values": np.zeros(2)})
    np.savez(shelf / "one.npz", values=np.array([{}, []], dtype=object))
    with pytest.raises(UserError, match="absent or damaged"):
        _ = records.load("one").arrays


@pytest.mark.parametrize("fails", ["write_array", "dumps", "replace"])
def test_a_record_is_written_whole_or_not_at_all(shelf, monkeypatch, fails):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    records.write(shelf / "one.json", {"old": True}, {"a": np.zeros(3)})
    before = {path.name: path.read_bytes() for path in shelf.iterdir()}
    assert sorted(before) == ["one.json", "one.npz"]
    if fails == "dumps":
        with pytest.raises(ValueError, match="JSON"):
            records.write(shelf / "one.json", {"value": float("nan")}, {"a": np.ones(3)})
    else:
        monkeypatch.setattr(np.lib.format if fails == "write_array" else files.os, fails, full)
        with pytest.raises(UserError, match="is full"):
            records.write(shelf / "one.json", {"old": False}, {"a": np.ones(3)})
    assert {path.name: path.read_bytes() for path in shelf.iterdir()} == before


NAN, INF = float("nan"), float("inf")


# Provenance


def test_provenance_says_what_made_the_record():
    found = records.provenance(command="python -m superposition measure", seed=3)
    assert found["command"] == "python -m superposition measure" and found["seed"] == 3
    assert found["versions"]["torch"] == version("torch")
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["device"].startswith("cpu, ") and found["threads"] >= 1
    assert 50 < found["peak_memory_mib"] < 100_000
    json.dumps(found, allow_nan=False)


def test_the_commit_is_the_checkouts_and_is_marked_when_the_library_differs(tmp_path, monkeypatch):
    def git(*words):
        done = subprocess.run(
            ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *words],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    package = tmp_path / "lib" / "superposition"
    shutil.copytree(paths.package_dir(), package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(paths, "package_dir", lambda: package)
    assert records.provenance(command="x")["commit"] is None
    git("init", "-q")
    (tmp_path / "unrelated").write_text("x")
    git("add", "unrelated")
    git("commit", "-qm", "another project, in which the library is only installed")
    assert records.provenance(command="x")["commit"] is None
    git("add", ".")
    git("commit", "-qm", "x")
    head = git("rev-parse", "--short=12", "HEAD")
    assert records.provenance(command="x")["commit"] == head
    (tmp_path / "unrelated").write_text("y")
    assert records.provenance(command="x")["commit"] == head
    (package / "records.py").write_text("")
    assert records.provenance(command="x")["commit"] == head + "+"


def test_bars_are_those_of_the_file():
    bar = records.bars("claim-19.curve")
    assert bar["correlation"] == 0.95 and bar["error"] == 0.05
    with pytest.raises(UserError, match="holds no trial"):
        records.bars("claim-19.none")
