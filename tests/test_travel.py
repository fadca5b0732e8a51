"""What is packed arrives as it was, whole or not at all."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from superposition.errors import UserError

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))
import travel  # noqa: E402

NAMES = st.lists(
    st.sampled_from(["weights.gguf", "site/gguf/quants.py", "site/a b/ü.json", "records/x.npz"]),
    min_size=1,
    unique=True,
)


def some(folder, contents):
    sources = {}
    for number, (place, content) in enumerate(contents.items()):
        path = folder / f"source-{number}"
        path.write_bytes(content)
        sources[place] = path
    return sources


@given(NAMES, st.data(), st.integers(30, 400))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_joined_is_what_was_packed(tmp_path_factory, names, data, piece):
    here = tmp_path_factory.mktemp("packed")
    contents = {name: data.draw(st.binary(max_size=600)) for name in names}
    manifest = travel.pack(some(here, contents), here / "pieces", "all", piece=piece, about={"commit": "abc"})
    sizes = [path.stat().st_size for path in sorted((here / "pieces").glob("all.0*"))]
    assert max(sizes) <= piece and [entry["bytes"] for entry in manifest["pieces"].values()] == sizes
    assert travel.missing(here / "pieces", "all") == []
    assert travel.join(here / "pieces", "all", here / "there") == manifest
    assert {name: (here / "there" / name).read_bytes() for name in names} == contents
    assert not list((here / "there").glob(".joining*"))


@pytest.fixture
def packed(tmp_path):
    contents = {"site/one.bin": bytes(range(256)) * 40, "two.txt": b"two"}
    travel.pack(some(tmp_path, contents), tmp_path / "pieces", "all", piece=150)
    return tmp_path / "pieces", tmp_path / "there"


def test_what_is_joined_already_is_left_alone(packed):
    pieces, there = packed
    travel.join(pieces, "all", there)
    before = (there / "two.txt").stat().st_mtime_ns
    for path in pieces.glob("all.0*"):
        path.unlink()
    travel.join(pieces, "all", there)
    assert (there / "two.txt").stat().st_mtime_ns == before
    (there / "two.txt").write_bytes(b"2wo")
    with pytest.raises(UserError, match=r"The piece all\.000 is not in .*: bring it"):
        travel.join(pieces, "all", there)


def test_an_absent_and_a_damaged_piece_are_both_named(packed):
    pieces, there = packed
    assert len(list(pieces.glob("all.0*"))) > 2
    (pieces / "all.000").unlink()
    spoilt = bytearray((pieces / "all.002").read_bytes())
    spoilt[0] ^= 1
    (pieces / "all.002").write_bytes(spoilt)
    with pytest.raises(UserError, match=r"all\.000 is not in .*all\.002 in .* is damaged: bring it again"):
        travel.join(pieces, "all", there)
    assert not there.exists()


def test_a_manifest_that_is_absent_or_no_manifest(packed):
    pieces, there = packed
    with pytest.raises(UserError, match="absent or damaged: pack again"):
        travel.join(pieces, "other", there)
    for content in ("{", "[]", '{"files": {}}', '{"about": {}, "files": [], "pieces": {}}'):
        (pieces / "all.json").write_text(content)
        with pytest.raises(UserError, match="absent or damaged: pack again"):
            travel.missing(pieces, "all")


@pytest.mark.parametrize("place", ["../outside", "/outside"])
def test_what_the_manifest_does_not_name_is_refused_and_so_is_other_content(packed, tmp_path, place):
    pieces, there = packed
    travel.pack(some(tmp_path, {place: b"x"}), tmp_path / "odd", "all")
    with pytest.raises(UserError, match="which its manifest does not name"):
        travel.join(tmp_path / "odd", "all", tmp_path / "deep" / "there")
    assert not (tmp_path / "deep" / "outside").exists()
    manifest = json.loads((pieces / "all.json").read_text())
    entry = manifest["files"].pop("two.txt")
    (pieces / "all.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"'two\.txt', which its manifest does not name"):
        travel.join(pieces, "all", there)
    manifest["files"]["two.txt"] = entry | {"sha256": "0" * 64}
    (pieces / "all.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="does not hold what its manifest says"):
        travel.join(pieces, "all", there)
    assert not [path for path in there.rglob("*") if path.is_file()]


def test_pieces_that_are_no_archive(tmp_path):
    travel.pack(some(tmp_path, {"a": b"a" * 999}), tmp_path / "pieces", "all")
    path = tmp_path / "pieces" / "all.000"
    path.write_bytes(b"no archive")
    manifest = json.loads((tmp_path / "pieces" / "all.json").read_text())
    from superposition.io import files

    manifest["pieces"]["all.000"] = {"bytes": 10, "sha256": files.sha256_of(path)}
    (tmp_path / "pieces" / "all.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="cannot be unpacked"):
        travel.join(tmp_path / "pieces", "all", tmp_path / "there")


def test_the_same_files_make_the_same_pieces_and_a_full_disk_gets_a_sentence(tmp_path, monkeypatch):
    sources = some(tmp_path, {"b": b"b" * 99, "a": b"a" * 99})
    one, two = (travel.pack(sources, tmp_path / name, "all") for name in ("one", "two"))
    assert one == two

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(travel.tempfile, "TemporaryFile", full)
    with pytest.raises(UserError, match=r"The disk .* is full"):
        travel.pack(sources, tmp_path / "pieces", "all")
