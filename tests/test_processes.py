"""Several processes share the text and give the result of one; alone, nothing changes."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import environment
from test_measure import ROWS, table  # noqa: F401
from test_moments import agrees, naive

from superposition import cli, measure
from superposition.lm import distributed as processes
from superposition.lm import load as loading
from superposition.lm import models, moments
from superposition.lm.calibration import Calibration


def test_alone_is_main_and_nothing_is_added():
    alone = processes.current()
    assert (alone.index, alone.count, alone.is_main) == (0, 1, True)
    numbers = torch.arange(3.0)
    alone.add_up(numbers)
    assert numbers.tolist() == [0, 1, 2]
    assert alone.all(True) and not alone.all(False)
    processes.leave()


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(table, corpus, cache, model_folder, tmp_path, monkeypatch):  # noqa: F811
    """Through ``accelerate launch`` on the CPU, with layer groups besides: one prints and writes, none counts twice."""
    words = ["measure", "--model", model_folder, "--facts", table, "--text", corpus, "--device", "cpu"]
    words += ["--resamples", "5", "--memory", "30K", "--out", tmp_path / "out"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    done = subprocess.run(
        [*launch, "-m", "superposition", *map(str, words)], env=environment(CI="1"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Written: ") == 1 and done.stdout.count("share < 0") == 1
    data = json.loads((tmp_path / "out" / "measurement.json").read_text(encoding="utf-8"))
    assert data["processes"] == 2 and data["layers"] == [0, 1, 2]

    model = models.load(model_folder, device="cpu")
    read = moments.estimate(model, corpus)
    assert read.cached
    agrees(read, naive(model, corpus))  # p alone would not tell a text counted twice
    monkeypatch.setenv("SUPERPOSITION_CACHE", str(tmp_path / "another"))
    one = measure.measure(model, table, Calibration(corpus), resamples=5)
    with np.load(tmp_path / "out" / "matrices.npz") as archive:
        for name, stack in one.matrices.items():
            assert np.abs(archive[name] - stack).max() <= 1e-6 * max(1, np.abs(stack).max()), name
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["matrices.npz", "measurement.json"]


@pytest.mark.slow
def test_what_several_processes_cannot_do_gets_a_sentence(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["sample", "--out", str(tmp_path / "x.jsonl")]) == 2
    assert "Only measure is shared by several processes: run sample without a launcher" in capsys.readouterr().err
    monkeypatch.setattr(processes, "current", lambda device=None: processes.Processes(0, 2, torch.device("cpu")))
    assert cli.main(["measure", "--device", "auto", "--out", str(tmp_path / "out")]) == 2
    assert "start one process for --device auto" in capsys.readouterr().err


def test_each_process_loads_on_the_device_it_was_given(monkeypatch):
    given = []
    monkeypatch.setattr(loading, "load", lambda source, **options: given.append(options["device"]))
    monkeypatch.setattr(processes, "current", lambda device=None: processes.Processes(1, 2, torch.device("cuda:1")))
    models.Source().load()
    models.Source(device="cpu").load()
    assert given == ["cuda:1", "cpu"]
