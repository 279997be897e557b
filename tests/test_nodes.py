"""Two nodes: two launchers that share a folder and meet over the loopback device."""

from __future__ import annotations

import csv
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from test_launch import await_end
from tiny_render import ROOT, tiny_params

from phalar import params as parameters
from phalar import render
from phalar.params import Paths
from phalar.train import loop

EXACT = ("loss", "accuracy_percent", "gradient_norm", "muon_rate", "adam_rate")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_songs) -> Path:
    """A project with half-second pairs."""
    root = tmp_path_factory.mktemp("nodes")
    paths = Paths(root / "data")
    tiny_songs(paths.prepare("bands"), source="bands", songs=6, seconds=3.0)
    render.run(tiny_params(render={"pairs": {"train": 24, "valid": 8, "test": 4}}), paths)
    return root


@pytest.fixture(autouse=True)
def without_mlflow(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////nowhere/mlflow.db")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_params(folder: Path, name: str, **train: Any) -> Path:
    """Write parameters of a small training on the CPU, in float64."""
    validate = {"every_steps": 500, "pairs": 8, "candidates": 4, "clip_s": 0.5, "patience": None}
    small = {"batch_pairs": 4, "crop_s": [0.5], "threads": 1, "workers": 0, "devices": "cpu"}
    small |= {"precision": "float64", "log_every_steps": 1, "checkpoint_every_s": 1e-3}
    raw = tiny_params(train={**small, "validate": validate, **train})
    path = folder / f"{name}.yaml"
    values = raw.model_dump(mode="json", by_alias=True)
    # Five steps in float64 take most of the time.
    values["train"]["optimiser"]["muon"]["newton_schulz_steps"] = 1
    path.write_text(yaml.safe_dump(values))
    return path


def start(path: Path, count: int = 2) -> list[subprocess.Popen[str]]:
    """Start the same command on all nodes."""
    return [
        subprocess.Popen(
            [sys.executable, "-m", "phalar.train", "--params", str(path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]


def nodes() -> dict[str, Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return {"count": 2, "endpoint": f"127.0.0.1:{free.getsockname()[1]}", "id": "test"}


def history(folder: Path) -> list[list[float]]:
    with (folder / "data/train/history.csv").open() as file:
        return [[float(row[name]) for name in EXACT] for row in csv.DictReader(file)]


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "data/train/checkpoints").glob("*/step-*.safetensors"))


def test_two_nodes_train_as_one_process(folder):
    path = write_params(folder, "alone", steps=6)
    params = parameters.load(path)
    loop.train(params, params.paths, params_path=path, stop=lambda: False, resume=False)
    alone = history(folder)
    (folder / "data/train/history.csv").unlink()
    ends = [
        (trainer.communicate(timeout=200)[0], trainer.returncode)
        for trainer in start(write_params(folder, "spread", steps=6, nodes=nodes()))
    ]
    assert [code for _, code in ends] == [0, 0]
    # One of them tells; both say what came out.
    assert sum("6 steps of 4 pairs on 2 x CPU" in said for said, _ in ends) == 1
    assert all("data/train: best at step 6" in said for said, _ in ends)
    # The front end, always float32, rounds by the size of a batch.
    np.testing.assert_allclose(history(folder), alone, rtol=1e-5)
    assert list((folder / "data/train/checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (
            signal.SIGKILL,
            "error: train: lost contact with another process (.*); see what the other nodes say, "
            "and run again on all: it goes on at the last checkpoint (traceback: ",
        ),
        pytest.param(
            signal.SIGTERM,
            "error: train: another process was stopped, so all saved and stopped; run again",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_node_that_ends_ends_the_other_with_one_line(folder, number, error):
    path = write_params(folder, f"ends-{number}", steps=500, seed=int(number), nodes=nodes())
    stays, ends = start(path)
    deadline = time.monotonic() + 200
    while not checkpoints(folder):
        assert stays.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    family = [psutil.Process(trainer.pid) for trainer in (stays, ends)]
    family += [child for leader in family for child in leader.children(recursive=True)]
    if number == signal.SIGKILL:
        # All of the machine at once, as where the power fails.
        gone = psutil.Process(ends.pid)
        for process in [gone, *gone.children(recursive=True)]:
            process.kill()
    else:
        ends.send_signal(number)
    said, _ = stays.communicate(timeout=100)
    assert stays.returncode == 1
    before, _, after = error.partition(".*")
    last = said.splitlines()[-1]
    assert last.startswith(before) and after in last
    ends.communicate(timeout=100)
    assert ends.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    for process in family:
        await_end(process.pid)
    kept = checkpoints(folder)
    assert kept
    for path in kept:
        path.unlink()


def test_an_endpoint_without_a_port_is_refused(folder):
    path = write_params(folder, "apart", steps=1)
    path.write_text(
        path.read_text().replace("nodes: null", "nodes: {count: 2, endpoint: a, id: b}")
    )
    with pytest.raises(ValueError, match=r"train.nodes.endpoint = 'a': String should match"):
        parameters.load(path)
