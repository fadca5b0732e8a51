"""Files are whole or absent, whatever happens while they are written; folders and the cache."""

import errno
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import nbformat
import numpy as np
import pytest
from conftest import environment
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from nbclient import NotebookClient

from superposition.errors import UserError
from superposition.io import console, files, paths


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


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_has_the_permissions_that_the_process_gives(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        files.write_json(tmp_path / "a.json", [])
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == mode


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
@pytest.mark.parametrize("kind", ["text", "npz", "smallest npz", "safetensors"])
def test_a_disk_that_is_really_full_gets_one_sentence(tmp_path, kind):
    from safetensors.numpy import save

    array = np.random.default_rng(0).standard_normal((300, 300))

    def write(temporary):
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        if kind == "text":
            temporary.write_text("x" * 100_000)
        elif kind.endswith("npz"):
            files.npz_writer({"a": array}, smallest=kind != "npz")(temporary)
        else:
            temporary.write_bytes(save({"a": array}))

    with pytest.raises(UserError, match=r"The disk that holds .* is full, so out was not written: free some space"):
        files.write_whole(tmp_path / "out", write)
    assert names(tmp_path) == []


FULL, QUOTA = OSError(errno.ENOSPC, "so the system says"), OSError(errno.EDQUOT, "so the system says")
WORDS = RuntimeError('IoError(Os { code: 28, message: "No space left on device" })')


@pytest.mark.parametrize("error, wrapped", [(FULL, False), (QUOTA, False), (FULL, True), (QUOTA, True), (WORDS, False)])
def test_a_full_disk_is_recognised_by_number_or_words_and_behind_another_error(tmp_path, error, wrapped):
    def write(temporary):
        if not wrapped:
            raise error
        raise RuntimeError("the library's own words") from error

    with pytest.raises(UserError, match="is full"):
        files.write_whole(tmp_path / "out", write)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written_gets_one_sentence(tmp_path, monkeypatch, number):
    def refuse(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    said = rf"out cannot be written \({os.strerror(number)}\): choose another folder"
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "open", refuse)
        with pytest.raises(UserError, match=said):
            files.write_whole(tmp_path / "out", lambda temporary: None)
        with pytest.raises(UserError, match=said):
            files.check_targets([tmp_path / "new" / "out"])
    assert names(tmp_path) == []


def test_a_folder_in_the_place_of_the_file_or_a_file_in_that_of_the_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "folder", tmp_path / "file" / "out"):
        for attempt in (
            lambda path=path: files.write_whole(path, lambda temporary: temporary.write_text("x")),
            lambda path=path: files.check_targets([path]),
        ):
            with pytest.raises(UserError, match=r"cannot be written .*: choose another (name|folder)"):
                attempt()
    assert names(tmp_path) == ["file", "folder"] and names(tmp_path / "folder") == []
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("kind", ["fifo", "socket", "folder", "loop", "link to a fifo"])
def test_what_is_there_and_no_regular_file_is_never_replaced(tmp_path, kind):
    path = tmp_path / "out"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            here = os.getcwd()
            os.chdir(tmp_path)  # the name of a socket is short
            try:
                made.bind("out")
            finally:
                os.chdir(here)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to("out")
    else:
        os.mkfifo(tmp_path / "fifo")
        path.symlink_to("fifo")
    before, there = path.lstat(), names(tmp_path)
    for attempt in (
        lambda: files.write_together({tmp_path / "a": lambda _: pytest.fail("written"), path: print}),
        lambda: files.check_targets([path]),
    ):
        with pytest.raises(UserError, match=r"out cannot be written .it is there and not a regular file"):
            attempt()
    assert path.lstat().st_mode == before.st_mode and names(tmp_path) == there


def test_a_link_is_followed_and_stays(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "out").symlink_to("far/a.txt")
    for content in ("new", "newer"):  # the file that the link names is not there at first
        files.check_targets([tmp_path / "out"])
        files.write_whole(tmp_path / "out", lambda temporary, content=content: temporary.write_text(content))
        assert (tmp_path / "out").is_symlink() and (tmp_path / "far" / "a.txt").read_text() == content
    assert names(tmp_path) == ["far", "out"] and names(tmp_path / "far") == ["a.txt"]


def test_of_files_that_belong_together_none_is_renamed_if_one_cannot_be(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"

    def late(temporary):
        second.mkdir()

    with pytest.raises(UserError, match="b cannot be written"):
        files.write_together({first: lambda temporary: temporary.write_text("a"), second: late})
    assert names(tmp_path) == ["b"]


def test_a_check_of_targets_leaves_nothing_but_what_was_there(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a").write_text("old")
    files.check_targets([tmp_path / "here" / "a", tmp_path / "new" / "deep" / "b", tmp_path / "new" / "c"])
    assert names(tmp_path) == ["here"] and (tmp_path / "here" / "a").read_text() == "old"
    with pytest.raises(UserError, match="File name too long"):
        files.check_targets([tmp_path / "new" / ("x" * 5000)])
    assert names(tmp_path) == ["here"]


@pytest.mark.parametrize("kind", ["bytes", "safetensors"])
def test_a_file_over_the_limit_on_sizes_gets_one_sentence(tmp_path, kind):
    script = (
        "import pathlib, resource, sys\n"
        "import numpy as np\n"
        "from safetensors.numpy import save_file\n"
        "from superposition.io import files\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "array = np.zeros(10_000)\n"
        "write = {'bytes': lambda to: to.write_bytes(array), 'safetensors': lambda to: save_file({'a': array}, to)}\n"
        "try:\n"
        "    files.write_whole(pathlib.Path(sys.argv[1]), write[sys.argv[2]])\n"
        "except files.UserError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "out", kind], capture_output=True, text=True, env=environment()
    )
    assert done.stdout.startswith("out is larger than a file may be in") and "ulimit -f" in done.stdout, done.stderr
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_swept_by_the_next_that_writes(tmp_path):
    script = (
        "import pathlib, sys, time\n"
        "from superposition.io import files\n"
        "def write(part):\n"
        "    part.write_text('half'); print('writing', flush=True); time.sleep(60)\n"
        "with files.scratch_folder(pathlib.Path(sys.argv[1]), '.converting-') as place:\n"
        "    (place / 'weights').write_text('half')\n"
        "    files.write_whole(pathlib.Path(sys.argv[1]) / 'out', write)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout.readline() == "writing\n"
    files.write_whole(tmp_path / "out", lambda part: part.write_text("whole"))
    with files.scratch_folder(tmp_path, ".converting-"):
        assert len(names(tmp_path)) == 4  # a running process's are left alone
    process.kill()
    process.communicate()
    assert len(names(tmp_path)) == 3
    files.write_whole(tmp_path / "other", lambda part: part.write_text("whole"))
    assert len(names(tmp_path)) == 4  # another target's part is not this one's business
    files.write_whole(tmp_path / "out", lambda part: part.write_text("whole"))
    with files.scratch_folder(tmp_path, ".converting-") as place:
        assert names(tmp_path) == [place.name, "other", "out"]
    assert names(tmp_path) == ["other", "out"]


def test_a_temporary_file_of_this_machine_is_stale_when_its_process_is_gone(tmp_path):
    """Also where the number is none that a process can have."""
    mine = f".out.{files._mark()}aa.part"
    for name in (mine, f".out.{files._machine()}-{2**70}-aa.part"):
        (tmp_path / name).write_text("")
    files.sweep(tmp_path)
    assert names(tmp_path) == [mine]


def test_another_machines_temporary_file_is_stale_after_a_day(tmp_path):
    old, young = (tmp_path / f".out.{'0' * 8}-1-{name}.part" for name in "ab")
    unmarked = tmp_path / ".out.abcdefgh.part"
    for path in (old, young, unmarked):
        path.write_text("half")
    for path in (old, unmarked):
        os.utime(path, (time.time() - 2 * files.STALE_AFTER,) * 2)
    (tmp_path / ".out.part").write_text("mine")
    (tmp_path / "out.part").write_text("mine")
    files.sweep(tmp_path)
    assert names(tmp_path) == [young.name, ".out.part", "out.part"]


def test_a_scratch_folder_that_cannot_be_made_gets_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), files.scratch_folder(tmp_path / "file", ".x-"):
        pytest.fail("made")


def test_a_kept_file_that_cannot_be_read_is_none(tmp_path):
    path = tmp_path / "a.json"
    assert files.kept_json(path) is None and files.kept_json(tmp_path) is None
    for content in (b"", b"{", b"\xff", b"[" * 100_000):
        path.write_bytes(content)
        assert files.kept_json(path) is None
    path.write_text("[1]")
    assert files.kept_json(path) == [1]


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


def test_a_home_folder_is_meant_by_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SUPERPOSITION_CACHE", "~/kept")
    assert paths.cache_dir() == tmp_path / "kept"
    monkeypatch.setenv("SUPERPOSITION_CACHE", "~nobody-of-this-name/kept")
    with pytest.raises(UserError, match="names the home folder of a user who is not there"):
        paths.cache_dir()


def test_a_cache_that_cannot_be_made_says_what_to_set(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SUPERPOSITION_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="set SUPERPOSITION_CACHE"):
        paths.cache_dir()


def test_bars_are_silent_where_told_and_nowhere_else(monkeypatch):
    from superposition.io import console

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("TQDM_DISABLE")
    assert not console.silent() and not console.bar(range(3)).disable
    for name, value in (("CI", "true"), ("TQDM_DISABLE", "1"), ("RANK", "1")):
        monkeypatch.setenv(name, value)
        assert console.silent() and console.bar(range(3)).disable
        monkeypatch.delenv(name)
    assert list(console.bar(range(3))) == [0, 1, 2]


def test_a_bar_shows_in_a_notebook():
    cell = (
        "import time; from superposition.io import console\nfor _ in console.bar(range(7), what='a'): time.sleep(0.2)"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    told = {name: value for name, value in os.environ.items() if name not in ("CI", "TQDM_DISABLE")}
    done = NotebookClient(notebook, kernel_name="python3").execute(env=told)
    text = "".join(output.text for output in done.cells[0].outputs)
    assert "a: 100%" in text


def test_a_message_is_short_and_does_nothing_to_the_terminal(capsys):
    console.say("a\x1b[31mb\x00c\x9bd\r\te\nPelé → ok")
    assert capsys.readouterr().err == "a\\x1b[31mb\\x00c\\x9bd\\x0d\\x09e\nPelé → ok\n"
    console.say("first " + "x" * 60_000 + " last")
    said = capsys.readouterr().err
    assert len(said) == console.MOST + 1 and said.startswith("first x") and said.endswith("x last\n")


@pytest.mark.parametrize("number", console.ENDING)
def test_a_signal_that_ends_is_an_interrupt_and_waits_for_what_is_whole(number):
    before = signal.signal(number, signal.SIG_DFL)  # it may be ignored, as under nohup
    done = []
    with pytest.raises(console.Ended) as caught, console.ends_interrupt():
        with console.interrupts_wait():
            os.kill(os.getpid(), number)
            done.append("whole")
        done.append("too late")
    assert done == ["whole"] and caught.value.number == number
    assert signal.signal(number, before) is signal.SIG_DFL


def test_a_signal_that_is_ignored_or_handled_is_left_alone():
    mine = lambda *_: None  # noqa: E731
    for handler in (signal.SIG_IGN, mine):
        before = signal.signal(signal.SIGHUP, handler)
        try:
            with console.ends_interrupt():
                assert signal.getsignal(signal.SIGHUP) is handler
                os.kill(os.getpid(), signal.SIGHUP)
        finally:
            signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_no_handler_is_touched():
    def enter():
        with console.ends_interrupt(), console.interrupts_wait():
            seen.append(signal.getsignal(signal.SIGTERM))

    seen = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


@settings(deadline=None, max_examples=25)
@given(arrays=st.dictionaries(st.text("abc_", min_size=1, max_size=4), npst.arrays(npst.scalar_dtypes(), (3, 5))))
def test_the_smallest_archive_holds_the_same_arrays_and_is_the_same_each_time(arrays, tmp_path_factory):
    one, other, plain = (tmp_path_factory.mktemp("npz") / f"{n}.npz" for n in range(3))
    files.npz_writer(arrays, smallest=True)(one)
    files.npz_writer(arrays, smallest=True)(other)
    assert one.read_bytes() == other.read_bytes()
    with np.load(one, allow_pickle=False) as read:
        assert {*read} == {*arrays}
        for name, array in arrays.items():
            assert read[name].dtype == array.dtype
            np.testing.assert_array_equal(read[name], array)
    steps = {"a": np.random.default_rng(0).normal(0, 300, 40_000).astype(np.int16)}
    files.npz_writer(steps, smallest=True)(one)
    files.npz_writer(steps)(plain)
    assert one.stat().st_size < 0.95 * plain.stat().st_size
