"""Files are whole or absent, whatever happens while they are written; folders and the cache."""

import errno
import hashlib
import json
import os
import pathlib
import sys
import tempfile
from unittest import mock

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from superposition import files, paths
from superposition.errors import UserError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_checksum_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc" * 1000)
    assert files.sha256_of(path) == hashlib.sha256(b"abc" * 1000).hexdigest()


def test_checksum_of_several_files_depends_on_each_and_on_their_order(tmp_path):
    one, two = tmp_path / "1", tmp_path / "2"
    one.write_bytes(b"x")
    two.write_bytes(b"y")
    both = files.sha256_of([one, two])
    assert both == files.sha256_of((one, two)) != files.sha256_of([two, one])
    two.write_bytes(b"z")
    assert files.sha256_of([one, two]) != both


def test_a_file_is_written_with_its_folders_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    files.write_whole(path, lambda temporary: temporary.write_text("whole"))
    assert path.read_text() == "whole"
    assert names(path.parent) == ["a.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), UserError("a sentence")])
def test_an_error_half_way_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("ne")
        raise error

    with pytest.raises(type(error)) as caught:
        files.write_whole(path, write)
    assert caught.value is error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_files_that_belong_together_change_together(tmp_path):
    first, second = tmp_path / "a.npz", tmp_path / "b.json"
    first.write_text("old a")
    second.write_text("old b")

    def fail(temporary):
        assert first.read_text() == "old a"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"is full, so b\.json was not written"):
        files.write_together({first: lambda temporary: temporary.write_text("new a"), second: fail})
    assert (first.read_text(), second.read_text()) == ("old a", "old b")
    assert names(tmp_path) == ["a.npz", "b.json"]
    files.write_together({p: lambda temporary: temporary.write_text("new") for p in (first, second)})
    assert (first.read_text(), second.read_text()) == ("new", "new")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device that is always full")
@pytest.mark.parametrize("kind", ["text", "npz", "safetensors"])
def test_a_disk_that_is_really_full_gets_one_sentence(tmp_path, kind):
    from safetensors.numpy import save

    array = np.random.default_rng(0).standard_normal((300, 300))

    def write(temporary):
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        if kind == "text":
            temporary.write_text("x" * 100_000)
        elif kind == "npz":
            files.npz_writer({"a": array})(temporary)
        else:
            temporary.write_bytes(save({"a": array}))

    with pytest.raises(UserError, match=r"The disk that holds .* is full, so out was not written: free some space"):
        files.write_whole(tmp_path / "out", write)
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("wrapped", [False, True])
def test_full_disk_is_recognised_by_number_and_behind_another_error(tmp_path, number, wrapped):
    def write(temporary):
        try:
            raise OSError(number, "so the system says")
        except OSError as error:
            if wrapped:
                raise RuntimeError("the library's own words") from error
            raise

    with pytest.raises(UserError, match="is full"):
        files.write_whole(tmp_path / "out", write)


def test_a_library_that_only_says_so_in_words_is_understood(tmp_path):
    def write(temporary):
        raise RuntimeError('IoError(Os { code: 28, message: "No space left on device" })')

    with pytest.raises(UserError, match="is full"):
        files.write_whole(tmp_path / "out", write)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written_gets_one_sentence(tmp_path, monkeypatch, number):
    def refuse(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.tempfile, "mkstemp", refuse)
    with pytest.raises(UserError, match=rf"out cannot be written \({os.strerror(number)}\): choose another folder"):
        files.write_whole(tmp_path / "out", lambda temporary: None)


def test_a_folder_in_the_place_of_the_file_or_a_file_in_that_of_the_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "folder", tmp_path / "file" / "out"):
        with pytest.raises(UserError, match=r"cannot be written .*: choose another folder"):
            files.write_whole(path, lambda temporary: temporary.write_text("x"))
    assert names(tmp_path) == ["file", "folder"] and names(tmp_path / "folder") == []
    assert (tmp_path / "file").read_text() == "mine"


def test_json_is_utf8_and_refuses_what_json_has_no_word_for(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"Pelé": [1, 2.5, None]})
    assert "Pelé" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == {"Pelé": [1, 2.5, None]}
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            files.write_json(path, {"a": value})
    assert json.loads(path.read_text(encoding="utf-8")) == {"Pelé": [1, 2.5, None]}
    assert names(tmp_path) == ["a.json"]


@hypothesis.given(
    strategies.recursive(
        strategies.none()
        | strategies.integers()
        | strategies.floats(allow_nan=False, allow_infinity=False)
        | strategies.text(),
        lambda inner: strategies.lists(inner) | strategies.dictionaries(strategies.text(), inner),
    )
)
def test_json_says_the_same_in_fewer_lines(value):
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(files, "_LINE", 8):
        path = pathlib.Path(folder) / "a.json"
        files.write_json(path, value)
        text = path.read_text(encoding="utf-8")
        assert json.loads(text) == value
        assert text.count("\n") <= json.dumps(value, indent=1, ensure_ascii=False).count("\n") + 1


def test_what_is_short_and_lists_of_numbers_stand_in_one_line(tmp_path):
    deep = {"many": [{"x": ["y" * 100, "z" * 100]}] * 2}
    files.write_json(tmp_path / "a.json", {"a": list(range(100)), "b": {"low": 1, "high": 2}, "c": [deep], "d": "x"})
    lines = (tmp_path / "a.json").read_text().splitlines()
    assert lines[1] == ' "a": ' + str(list(range(100))) + ","
    assert lines[2] == ' "b": {"low": 1, "high": 2},'
    assert lines[3:6] == [' "c": [', "  {", '   "many": ' + json.dumps(deep["many"])]
    assert lines[6:] == ["  }", " ],", ' "d": "x"', "}"]


def test_the_cache_is_where_the_variable_says_and_is_made(cache):
    assert not cache.exists()
    assert paths.cache_dir() == cache and cache.is_dir()


def test_without_the_variable_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("SUPERPOSITION_CACHE", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / "home" / name))
    assert paths.cache_dir() == tmp_path / "home" / "superposition"
    monkeypatch.setitem(sys.modules, "platformdirs", None)  # absent: with the variable it is not needed
    monkeypatch.setenv("SUPERPOSITION_CACHE", str(tmp_path / "named"))
    assert paths.cache_dir() == tmp_path / "named"


def test_a_cache_that_cannot_be_made_says_what_to_set(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SUPERPOSITION_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="set SUPERPOSITION_CACHE"):
        paths.cache_dir()


def test_bars_are_silent_in_ci_and_away_from_a_terminal(monkeypatch):
    from superposition import console

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("CI", raising=False)
    assert not console.silent()
    monkeypatch.setenv("CI", "1")
    assert console.silent() and console.bar(range(3)).disable
    monkeypatch.delenv("CI")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert console.silent()
    assert list(console.bar(range(3))) == [0, 1, 2]
