"""The benchmarks measure what they say: the same P as the paper's procedure, floating-point operations as counted."""

import importlib
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny

from superposition import cli, editing
from superposition.data import facts, text
from superposition.editing import targets
from superposition.io import paths
from superposition.linear import overlap
from superposition.lm import keys, moments

BENCHMARKS = Path(__file__).parents[1] / "experiments"


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module
    sys.path.remove(str(BENCHMARKS))


def some_facts():
    return [facts.Fact(subject, "The home of {} is") for subject in ("Rome", "New York", "Vienna", "Tokyo")]


def test_the_papers_procedure_gives_the_librarys_P(benchmark):
    model, listed = tiny("llama"), some_facts()
    draws = np.random.default_rng(0).standard_normal((model.layers[1].d_m, 200))
    moment = draws @ draws.T / 200
    slow, seconds = benchmark("paper_procedure").superposition_of_pairs(model, 1, listed, moment)
    fast = overlap.superposition_matrix(keys.extract(model, listed)[1], moment)
    assert np.abs(slow - fast).max() < 1e-5
    assert seconds > 0


def test_the_papers_procedure_runs_the_model_once_a_pair(benchmark):
    model, listed = tiny("gpt2"), some_facts()
    passes = []
    model.model.register_forward_hook(lambda *_: passes.append(1))
    benchmark("paper_procedure").superposition_of_pairs(model, 0, listed, np.eye(model.layers[0].d_m))
    assert len(passes) == len(listed) ** 2 + len(listed)


@pytest.mark.parametrize("length", [5, 40])
def test_the_floor_counts_the_operations_of_the_forward_pass(benchmark, length):
    """Against torch's own counter. It counts full attention, so the causal half is added back before comparing."""
    model = tiny("llama")
    window = text.Window(tuple(range(length)), 0, length)
    counter = benchmark("machine").counter()
    model.model.set_attn_implementation("eager")
    ids = torch.arange(length)[None]
    with counter:
        model.read_keys(ids, torch.ones_like(ids), model.layers, lambda *_: None)
    attention = 2 * 2 * length * length * model.layers[0].d * len(model.layers)
    causal = 2 * 2 * length * (length + 1) / 2 * model.layers[0].d * len(model.layers)
    counted = counter.get_total_flops() - attention + causal
    assert benchmark("measuring").forward_flops(model, window) == pytest.approx(counted, rel=0.03)


def test_what_others_take_of_the_machine_is_what_is_left_after_idling_the_host_and_its_own(benchmark, monkeypatch):
    """Of 20 s of two cores 8 idle, 1 the host's, 6 its own, of which children that ended had 4: 5 are others'."""
    machine = benchmark("machine")
    clock, times = iter([100.0, 110.0]), iter([(1.0, 1, 2, 0, 0), (2.0, 2, 5, 1, 0)])
    seen = iter([SimpleNamespace(idle=50.0, iowait=1, steal=0), SimpleNamespace(idle=57.0, iowait=2, steal=1)])
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(machine.os, "times", lambda: next(times))
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(machine.psutil, "cpu_times", lambda: next(seen))
    with machine.load() as load:
        pass
    assert {name: load[name] for name in ("others", "stolen")} == {"others": 0.25, "stolen": 0.05}


def test_the_machines_rates_and_load_are_measured(benchmark):
    machine = benchmark("machine")
    with machine.load() as load:
        assert all(rate > 0 for rate in machine.rates().values())
    assert {"load_average", "others", "stolen"} == set(load) and 0 <= load["others"] <= 1


def test_layer_groups_hold_less_and_give_the_same_sums(benchmark, corpus, monkeypatch):
    monkeypatch.setattr(text, "resolve", lambda _: corpus)
    found = benchmark("measuring").layer_groups(tiny("llama"), tokens=300, layers_at_once=1)
    assert (found["passes"], found["same_sums"]) == (3, True)
    assert found["held_mib"] <= found["limit_mib"] <= found["held_mib_one_pass"]


def test_every_record_names_a_command_that_is_known_and_parses(benchmark):
    known = benchmark("make").COMMANDS
    for path in sorted(paths.records_dir().glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        commands = known.get(path.stem, "").split(" && ")
        commands = [re.sub(r"--(work|out) _build\S+", lambda of: f"--{of[1]} {of[1].upper()}", one) for one in commands]
        made = record["provenance"]["command"]  # a stage's folders differ from machine to machine
        assert made in (known.get(path.stem, "").split(" && ")[-1], commands[0]), path.name
    for command in " && ".join(known.values()).split(" && "):
        words = command.split()
        assert words[0] == "python"
        if words[1:3] == ["-m", "superposition"]:
            cli.parser().parse_args(words[3:])
        elif words[1] != "-m":
            assert (BENCHMARKS.parent / words[1]).is_file()


def test_a_step_of_the_search_reads_the_layers_from_the_edited_one_up(benchmark):
    """Against the weights counted by name, in both directions."""
    model = tiny("llama")
    counted = sum(
        p.numel() * 4
        for name, p in model.model.named_parameters()
        if name.startswith(("model.layers.1.", "model.layers.2."))
    )
    counted += model.model.get_output_embeddings().weight.numel() * 4
    assert benchmark("editing").bytes_a_step(model, 1) == 2 * counted


def test_the_usual_procedures_give_the_librarys_numbers(benchmark, corpus):
    """ROME's, written plainly: C of a layer by a pass of its own, and the change of W by an edit."""
    peers, model = benchmark("peers"), tiny("llama", seed=1)
    fact = facts.Fact("France", "The capital of {} is", "Paris", "Rome")
    cut = text.windows(text.read(corpus), model.tokenizer, tokens=600, context=32)
    summed = moments.of_windows(model, cut, cache=False)
    layer, C = model.layers[1], summed.second_moment(1)
    torch.testing.assert_close(
        peers.covariance(model, layer, cut, 3).double(), torch.from_numpy(C), rtol=1e-3, atol=1e-4
    )
    settings, before = editing.TargetSettings(), model.digest()
    theirs = peers.edit(model, fact, layer, torch.from_numpy(C).float(), settings)
    assert peers.relative(theirs, peers.ours(model, fact, layer, C)) < 1e-2
    assert model.digest() == before and theirs.norm() > 0


def test_growth_counts_the_operations_of_its_model(benchmark):
    """Against torch's own counter. It counts full attention, so half of that is taken away before comparing."""
    growth, layers, width = benchmark("growth"), 3, 64
    model, keys_wide = growth.random_model(layers, width), growth.SPREAD * width
    model.model.set_attn_implementation("eager")
    ids = torch.arange(growth.LENGTH)[None]
    with benchmark("machine").counter() as counter:
        model.read_keys(ids, torch.ones_like(ids), model.layers, lambda *_: None)
    causal = 2 * growth.LENGTH**2 * width * layers
    moment = growth.LENGTH * layers * keys_wide * (keys_wide + 1)
    counted = counter.get_total_flops() - causal + moment
    assert growth.of_moments(growth.LENGTH, layers, width)[0] == pytest.approx(counted, rel=0.02)


def test_growth_is_a_slope_and_memory_is_what_is_held(benchmark):
    growth = benchmark("growth")
    sizes = np.array([1.0, 2, 4, 8])
    assert growth.exponent(sizes, 3 * sizes**1.5) == pytest.approx(1.5)
    with growth.Watched() as watched:
        held = np.ones(2**23)
    assert held.nbytes * 0.9 < watched.held < held.nbytes * 1.5
    shorter = [growth.of_sequence("alphaedit", edits, 64)[0] for edits in (10, 20)]
    assert shorter[1] == 2 * shorter[0]
    growth.overlaps(3, 8)(), growth.sequence("alphaedit", 3, 8)(), growth.second_moments(256, 1, 64)()


def test_a_long_sequence_is_timed_by_rule(benchmark):
    spent = benchmark("editing").by_history(width=12, answers=4, edits=10, every=5)
    assert set(spent) == set(editing.METHODS) - {"ft"} and {len(parts) for parts in spent.values()} == {2}


def test_writing_times_every_closed_form(benchmark):
    model = tiny("llama")
    edits = [facts.Fact(subject, "The home of {} is", "here", "there") for subject in ("Rome", "Vienna", "Tokyo")]
    found = targets.search(model, edits, 1, editing.TargetSettings(steps=1))
    before, draws = model.digest(), np.random.default_rng(0).standard_normal((model.layers[1].d_m, 200))
    spent = benchmark("editing").writing(model, 1, draws @ draws.T / 200, found)
    assert set(spent) == set(editing.METHODS) - {"ft"} and min(spent.values()) > 0
    assert model.digest() == before
