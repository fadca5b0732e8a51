"""The tables of the status page say what the records say."""

import copy
import json

from superposition import figures, records
from superposition.book import status
from superposition.io import paths
from superposition.records import Record


def test_every_record_has_a_line_with_its_command():
    rows, commands = status.kept()
    names = sorted(path.stem for path in paths.records_dir().glob("*.json"))
    assert [row[0] for row in rows] == [name for name, _ in commands] == names
    for (name, command), row in zip(commands, rows, strict=True):
        run = json.loads((paths.records_dir() / f"{name}.json").read_text(encoding="utf-8"))["provenance"]
        assert command == f"`{run['command']}`" and row[2:4] == (run["device"], run["versions"]["torch"])


def test_speeds_are_those_of_the_benchmarks():
    measuring, editing, peers = (records.load(f"benchmark-{name}") for name in ("measuring", "editing", "peers"))
    rows = {what: (seconds, beside) for what, seconds, beside in status.speeds(measuring, editing, peers)}
    assert rows["$P$ of all layers from them"][0] == measuring["p_seconds"]
    assert rows["a ROME edit, one thread"][0] == editing["one_thread"]["rome_edit_seconds"]
    (groups,) = (beside for what, (_, beside) in rows.items() if "MiB" in what)
    assert groups.endswith("the same sums")
    data = copy.deepcopy(measuring.data)
    data["memory"]["same_sums"] = False
    (groups,) = (
        row[2]
        for row in status.speeds(Record(measuring.name, data, measuring.folder), editing, peers)
        if "MiB" in row[0]
    )
    assert groups.endswith("other sums")


def test_no_pass_is_faster_than_its_floor():
    """Or the machine's rates changed while they were measured, and what is above the floor says nothing."""
    assert min(records.load("benchmark-measuring")["c_pass"]["ratio_each"]) >= 1


def test_growth_is_that_of_its_record():
    record = records.load("benchmark-growth")
    rows = {row[0].replace("$", ""): row for row in status.growth(record)}
    assert list(rows) == list(record["series"])
    one = record["series"]["P by facts"]
    assert rows["P by facts"][1] == f"{one['sizes'][0]} to {one['sizes'][-1]:,}"
    assert rows["P by facts"][3] == f"{one['time']['measured']:.1f} and {one['time']['operations']:.1f}"


def test_the_picture_of_growth_has_both_exponents_of_every_series():
    record = records.load("benchmark-growth")
    axes = figures.exponents(record).axes
    names = [label.get_text().replace("$", "") for label in axes[0].get_yticklabels()]
    assert names == list(record["series"])
    for axis, (what, told) in zip(axes, (("time", "operations"), ("memory", "kept")), strict=True):
        open_ones, filled = (
            one.get_offsets() for one in axis.collections if one.get_offsets().shape == (len(names), 2)
        )
        rows = axes[0].get_yticks()
        for dots, key in ((open_ones, told), (filled, "measured")):
            expected = [(one[what][key], row) for one, row in zip(record["series"].values(), rows, strict=True)]
            assert dots.tolist() == [list(pair) for pair in expected]


def test_nothing_grows_faster_than_its_operations():
    """What does is to be mended, or explained on the page, and let through here by name."""
    series = records.load("benchmark-growth")["series"]
    faster = {
        (name, what): one[what]["measured"] - one[what][told]
        for name, one in series.items()
        for what, told in (("time", "operations"), ("memory", "kept"))
    }
    assert {key: round(more, 2) for key, more in faster.items() if more > 0.15} == {}


def test_chapters_are_told_in_order():
    times = records.load("run-times")
    assert status.chapters(times)[0] == tuple(times["chapters"][0][name] for name in ("chapter", "first", "again"))
