"""What ran where, how long it took and how fast it is, as the rows of the status page's tables. Chapter ``status``."""

from __future__ import annotations

import re

from superposition import records
from superposition.io import paths
from superposition.records import Record


def chapters(times: Record) -> list[tuple[str, float, float]]:
    """A row a chapter: its name, and its seconds the first time and again."""
    return [(row["chapter"], row["first"], row["again"]) for row in times["chapters"]]


def _power(number: float) -> str:
    """``8e-07`` as a formula, 8·10⁻⁷."""
    digits, power = f"{number:.0e}".split("e")
    return rf"${digits} \cdot 10^{{{int(power)}}}$"


def speeds(measuring: Record, editing: Record, peers: Record) -> list[tuple[str, float | str, str]]:
    """A row for each thing that was timed: what, seconds, and what it is to be compared with."""
    c, groups, paper = measuring["c_pass"], measuring["memory"], measuring["paper"]
    target, alone = editing["target"], editing["one_thread"]
    sequence, their_C, their_edit = editing["sequence"], peers["covariance"], peers["edit"]
    first, last = (sequence["seconds_an_edit"]["alphaedit"][at] for at in (0, -1))
    same = "the same sums" if groups["same_sums"] else "other sums"
    return [
        (
            f"$C$ of {measuring['layers']} layers, {measuring['tokens']:,} tokens",
            c["seconds"],
            f"{c['floor_seconds']} s of arithmetic: {c['ratio']:.2f} times as long "
            f"({min(c['ratio_each']):.2f} to {max(c['ratio_each']):.2f})",
        ),
        (
            f"$C$ of {their_C['layers']} layers, {their_C['tokens']:,} tokens",
            their_C["ours_all_layers"],
            f"the usual procedure, a pass for each layer: {their_C['seconds_all_layers']:.0f} s; "
            f"the same $C$ within {_power(their_C['difference'])}",
        ),
        (
            f"$C$, {groups['tokens']:,} tokens, at most {groups['limit_mib']:.0f} MiB held",
            groups["seconds"],
            f"{groups['seconds_one_pass']} s in one pass, which holds {groups['held_mib_one_pass']:.0f} MiB; {same}",
        ),
        (f"keys of {measuring['facts']} facts, all layers", measuring["keys_seconds"], ""),
        (
            "$P$ of all layers from them",
            measuring["p_seconds"],
            f"the paper's procedure: {paper['scaled_hours']} hours, {paper['cost_ratio']:,} times keys and $P$",
        ),
        (
            f"a ROME edit, {editing['threads']} threads",
            editing["rome_edit_seconds"],
            f"at most {editing['rome_edit_seconds_most']} s over {editing['facts']} facts; "
            f"{target['floor_multiplying']:.1f} s of arithmetic and {target['floor_reading']:.1f} s of reading weights",
        ),
        (
            "a ROME edit, one thread",
            alone["rome_edit_seconds"],
            f"at most {alone['rome_edit_seconds_most']} s",
        ),
        (
            f"a ROME edit, {their_edit['facts']} facts",
            their_edit["ours"],
            f"the usual procedure: {their_edit['seconds']:.1f} s; the same change of $W$ within "
            f"{_power(their_edit['difference'])}",
        ),
        (f"a target value, {editing['at_once']} at once", target["seconds_at_once"], ""),
        (
            f"writing an edit by AlphaEdit after {sequence['edits'] - sequence['every']:,} others",
            f"{last:.3f}",
            f"{first:.3f} s for each of the first {sequence['every']}",
        ),
    ]


def growth(record: Record) -> list[tuple[str, ...]]:
    """A row a series: what, its sizes, seconds and MiB at the smallest and the largest, and the exponents.

    An exponent's first number is measured, its second that of the operations, or of what is kept.
    """

    def ends(values: list[float], kind: str = ",") -> str:
        return f"{values[0]:{kind}} to {values[-1]:{kind}}"

    def both(measured: float, told: float) -> str:
        return f"{round(measured, 1) + 0.0:.1f} and {round(told, 1) + 0.0:.1f}"  # no -0.0

    return [
        (
            re.sub("^([CP]) ", r"$\1$ ", name),
            ends(one["sizes"]),
            ends(one["seconds"], ".2g"),
            both(one["time"]["measured"], one["time"]["operations"]),
            ends(one["mib"], ".0f"),
            both(one["memory"]["measured"], one["memory"]["kept"]),
        )
        for name, one in record["series"].items()
    ]


def kept() -> tuple[list[tuple[str, ...]], list[tuple[str, str]]]:
    """A row a record: name, model, device, torch, commit and size with its arrays; and each record's command."""
    rows, commands = [], []
    for name in records.names():
        data = records.load(name).data
        run, model = data["provenance"], data.get("model", "")
        of = model.get("name", "") if isinstance(model, dict) else model
        size = sum(file.stat().st_size for file in paths.records_dir().glob(f"{name}.*")) / 1000
        rows.append((name, of, run["device"], run["versions"]["torch"], run["commit"] or "", f"{size:,.0f} kB"))
        commands.append((name, f"`{run['command']}`"))
    return rows, commands
