"""Stage `train`: what it leaves, that nothing can make it lose or change its course."""

from __future__ import annotations

import csv
import errno
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from test_dvclock import lock_by_dvc
from test_launch import await_end
from tiny_render import ROOT, tiny_params

from phalar import params as parameters
from phalar import render, runlog
from phalar.model import load_model
from phalar.params import Params, Paths
from phalar.train import checkpoint, launch, loop, run
from phalar.train.checkpoint import Checkpoints, Snapshot

EXACT = ("loss", "accuracy_percent", "gradient_norm", "muon_rate", "adam_rate")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory, tiny_songs) -> Path:
    """A folder of half-second pairs, and an MLflow database that all trainings here share."""
    root = tmp_path_factory.mktemp("rendered")
    paths = Paths(root)
    tiny_songs(paths.prepare("bands"), source="bands", songs=6, seconds=6.0)
    render.run(tiny_params(render={"pairs": {"train": 48, "valid": 8, "test": 4}}), paths)
    return root


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path_factory):
    """One thread, and a database that is made once."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    store = tmp_path_factory.getbasetemp() / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    for name, value in runlog.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def project(rendered, tmp_path):
    """Return a function that makes a project folder of these data and changed parameters."""

    def make(name="project", **train) -> tuple[Path, Params, Paths]:
        folder = tmp_path / name
        data = folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        if not (data / "render").exists():
            shutil.copytree(rendered / "render", data / "render")
        tiny = {
            "steps": 6,
            "batch_pairs": 4,
            "crop_s": [0.5],
            "threads": 1,
            "workers": 0,
            "devices": "cpu",
            "log_every_steps": 1,
            "checkpoint_every_s": 1000.0,
            "validate": {
                "every_steps": 3,
                "pairs": 8,
                "candidates": 4,
                "clip_s": 0.5,
                "patience": None,
            },
        }
        raw = tiny_params(train=tiny | train).model_dump(mode="json", by_alias=True)
        path = folder / "params.yaml"
        path.write_text(yaml.safe_dump(raw))
        return path, parameters.load(path), Paths(data)

    return make


def train_here(
    path: Path,
    params: Params,
    paths: Paths,
    *,
    stop_after: int | None = None,
    resume: bool = False,
) -> bool:
    """Train in this process, asked to stop after some steps."""
    asked = iter(range(1, 1000))
    return loop.train(
        params,
        paths,
        params_path=path,
        stop=lambda: next(asked) == (stop_after or 1000),
        resume=resume,
    )


def runs_in_mlflow() -> int:
    from mlflow import MlflowClient

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    return len(client.search_runs([each.experiment_id for each in client.search_experiments()]))


def history(paths: Paths) -> list[list[float]]:
    with (paths.train / "history.csv").open() as file:
        return [[float(row[name]) for name in EXACT] for row in csv.DictReader(file)]


def exported(paths: Paths) -> bytes:
    return (paths.train / "model.safetensors").read_bytes()


def test_a_training_leaves_model_history_and_record_and_no_checkpoint(project, rendered, caplog):
    caplog.set_level(logging.INFO)
    path, params, paths = project(steps=4)
    shutil.copytree(rendered / "prepare", paths.root / "prepare")
    hashes = lock_by_dvc(path.parent)
    summary = run(path, params, paths)
    model = load_model(paths.train)
    assert model.extra["best_step"] == summary.best_step
    assert model.extra["validation"] == summary.validation
    assert set(summary.validation) == {"bands", "mean"}
    assert len(history(paths)) == 4
    line = (
        r"step 3/4  loss [\d.]+  accuracy \d+ % of 4  .* data wait \d+ %  .* GiB  0:\d\d:\d\d left"
    )
    assert re.search(line, caplog.text)
    record = json.loads((paths.train / "run.json").read_text())
    assert record["start"] < record["end"]
    from mlflow import MlflowClient

    logged = MlflowClient(record["tracking_uri"]).get_run(record["run_id"])
    assert logged.info.status == "FINISHED"
    assert logged.data.params["train.steps"] == "4"
    assert logged.data.metrics["loss"] == pytest.approx(history(paths)[-1][0])
    expected = {"validation/mean_percent", "validation/bands_percent", "memory_gib"}
    expected |= {"pairs_per_s", "data_wait_percent", "muon_rate", "adam_rate", "gradient_norm"}
    assert expected <= set(logged.data.metrics)
    assert {each.dataset.name: each.dataset.digest for each in logged.inputs.dataset_inputs} == {
        "render": hashes["data/render"],
        "prepare": hashes["data/prepare"],
    }
    assert logged.data.tags["data.dvc"] == hashes["data/render"]
    assert logged.data.tags["data.sha256"] == record["data_sha256"]
    assert list((paths.train / "checkpoints").iterdir()) == []


CHANGED_OPTIMISER = {
    "muon": {
        "learning_rate": 0.02,
        "momentum": 0.95,
        "newton_schulz_steps": 5,
        "weight_decay": 0.001,
    },
    "adam": {"learning_rate": 0.004, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.001},
    "warmup_steps": 2,
    "decay": {"shape": "cosine", "fraction": 0.5},
    "ema_decay": 0.5,
}


# One step of Newton and Schulz: five in float64 take most of the time.
IN_FLOAT64 = {
    "precision": "float64",
    "optimiser": CHANGED_OPTIMISER
    | {"muon": CHANGED_OPTIMISER["muon"] | {"newton_schulz_steps": 1}},
}


def test_a_resume_after_kill_9_equals_the_unbroken_training_to_the_bit(project):
    changes = {"optimiser": CHANGED_OPTIMISER, "crop_s": [0.5, 0.4], "steps": 10}
    unbroken = project("unbroken", **changes)
    train_here(*unbroken)
    path, params, paths = project("killed", **changes, checkpoint_every_s=1e-3)
    errors = paths.train / "checkpoints"
    command = [sys.executable, "-m", launch.WORKER, "--params", str(path)]
    worker = subprocess.Popen(
        [*command, "--data", str(paths.root), "--errors", str(errors)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(errors.glob("*/step-0000000[4-6].safetensors")):
        assert worker.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    worker.kill()
    worker.wait()
    steps = sorted(errors.glob("*/step-*.safetensors"))
    assert steps and "step-00000010" not in steps[-1].name
    kept = Checkpoints(errors, _inputs_of(errors), writes=True, resume=True)
    killed_run = kept.newest().facts["run_id"]
    train_here(path, params, paths, resume=True)
    assert history(paths) == history(unbroken[2])
    assert exported(paths) == exported(unbroken[2])
    assert json.loads((paths.train / "run.json").read_text())["run_id"] == killed_run


def _inputs_of(errors: Path) -> dict:
    (path,) = errors.glob("*/inputs.json")
    return json.loads(path.read_text())


def test_a_stop_between_two_rows_is_exact_too(project):
    unbroken = project("unbroken", log_every_steps=4)
    train_here(*unbroken)
    stopped = project("stopped", log_every_steps=4)
    assert not train_here(*stopped, stop_after=2)
    assert not (stopped[2].train / "model.safetensors").exists()
    assert not train_here(*stopped, stop_after=3)
    assert train_here(*stopped)
    assert history(stopped[2]) == history(unbroken[2])
    assert exported(stopped[2]) == exported(unbroken[2])


def test_two_processes_train_as_one(project):
    same = {"steps": 20, "batch_pairs": 6, **IN_FLOAT64}
    one, two = project("one", **same), project("two", **same, devices=2)
    train_here(*one)
    before = runs_in_mlflow()
    run(*two)
    assert runs_in_mlflow() == before + 1
    # All of the network is float64; the front end, always float32, rounds by the size of a batch.
    np.testing.assert_allclose(history(two[2]), history(one[2]), rtol=1e-5)
    assert len(history(two[2])) == 20


def test_recomputed_activations_change_nothing_but_memory(project):
    same = {"steps": 3, **IN_FLOAT64}
    kept, dropped = project("kept", **same), project("dropped", **same, recompute_clips=3)
    train_here(*kept)
    train_here(*dropped)
    np.testing.assert_allclose(history(dropped[2]), history(kept[2]), rtol=1e-9)


def test_a_training_in_bfloat16_goes_as_in_float32(project, caplog):
    caplog.set_level(logging.INFO)
    exact, rough = project("exact"), project("rough", precision="bfloat16")
    train_here(*exact)
    train_here(*rough)
    assert "bfloat16, backbone: modules" in caplog.text
    found, expected = (np.array(history(each[2]))[:, 0] for each in (rough, exact))
    assert not np.array_equal(found, expected)
    np.testing.assert_allclose(found, expected, rtol=0.05)
    weights = load_model(rough[2].train).state_dict().values()
    assert {weight.dtype for weight in weights if weight.is_floating_point()} == {torch.float32}


def test_32_pairs_are_learnt_by_heart(project):
    # An epoch of one batch: as many of the pairs there are as fit, the same in each epoch.
    path, params, paths = project(
        steps=40,
        batch_pairs=32,
        log_every_steps=1,
        dropout=0.0,
        validate={
            "every_steps": 40,
            "pairs": 8,
            "candidates": 4,
            "clip_s": 0.5,
            "patience": None,
        },
    )
    train_here(path, params, paths)
    assert history(paths)[-1][1] == 100


def test_other_parameters_start_afresh_and_lose_nothing(project, caplog):
    caplog.set_level(logging.INFO)
    path, params, paths = project()
    assert not train_here(path, params, paths, stop_after=2)
    path, params, paths = project(steps=5, workers=1)
    assert not train_here(path, params, paths, stop_after=1)
    assert "other inputs (train.steps was 6, is 5); it stays there" in caplog.text
    assert "goes on at step" not in caplog.text
    path, params, paths = project(steps=5, workers=0, recompute_clips=2)
    train_here(path, params, paths)
    assert "goes on at step 1 of 5" in caplog.text
    train_here(*project())
    assert "goes on at step 2 of 6" in caplog.text
    assert _steps_kept(paths) == []


def test_other_data_start_afresh_and_say_so(project, caplog):
    caplog.set_level(logging.INFO)
    path, params, paths = project(steps=2)
    assert not train_here(path, params, paths, stop_after=1)
    trials = paths.render / "trials.parquet"
    pq.write_table(pq.read_table(trials), trials, compression="gzip")
    train_here(path, params, paths)
    assert re.search(r"other inputs \(data was \w{64}, is \w{64}\); it stays", caplog.text)
    assert "goes on at step" not in caplog.text


def test_a_resume_with_other_inputs_is_refused_with_the_difference(project):
    path, params, paths = project()
    with pytest.raises(ValueError, match=r"checkpoints: no training to resume; begin one without"):
        train_here(path, params, paths, resume=True)
    assert not train_here(path, params, paths, stop_after=2)
    (kept,) = (paths.train / "checkpoints").iterdir()
    trials = paths.render / "trials.parquet"
    pq.write_table(pq.read_table(trials), trials, compression="gzip")
    path, params, paths = project(steps=5, workers=1)
    refused = (
        rf"{kept}: an unfinished training with other inputs \(data was \w{{64}}, is \w{{64}}, "
        r"train.steps was 6, is 5\); it is not resumed: go back to those inputs, or begin anew"
    )
    with pytest.raises(ValueError, match=refused):
        train_here(path, params, paths, resume=True)
    assert list((paths.train / "checkpoints").iterdir()) == [kept]
    assert _steps_kept(paths) == [2]


def test_damaged_checkpoints_alone_are_no_training_to_resume(tmp_path):
    first = Checkpoints(tmp_path, {"train": {"steps": 3}}, writes=True, resume=False)
    first.save(Snapshot(1, {"x": torch.ones(100)}, {}))
    path = first.folder / "step-00000001.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert first.newest() is None
    with pytest.raises(ValueError, match=r"all checkpoints are damaged; begin anew without"):
        Checkpoints(tmp_path, {"train": {"steps": 3}}, writes=True, resume=True).newest()


def test_the_commands_refuse_in_one_line(project):
    path, params, paths = project()
    assert not train_here(path, params, paths, stop_after=1)
    path, params, paths = project(seed=7)
    for words, asked in (("phalar.train --resume", {}), ("flows.train", {"PHALAR_RESUME": "1"})):
        done = subprocess.run(
            [sys.executable, "-m", *words.split(), "--params", str(path)],
            cwd=ROOT,
            env={**os.environ, "PHALAR_ORCHESTRATOR": "none", "OMP_NUM_THREADS": "1", **asked},
            capture_output=True,
            text=True,
        )
        (line,) = [line for line in (done.stdout + done.stderr).splitlines() if "other" in line]
        assert done.returncode == 1
        assert "other inputs (train.seed was 1, is 7); it is not resumed: go back" in line
    assert _steps_kept(paths) == [1]


def test_patience_ends_a_training_that_gains_nothing(project, monkeypatch):
    accuracies = iter([0.5, 0.7, 0.6, 0.6, 0.9])
    monkeypatch.setattr(
        loop.Validation,
        "accuracies",
        lambda self, model, world: dict.fromkeys(["bands", "mean"], next(accuracies)),
    )
    validate = {"every_steps": 1, "pairs": 8, "candidates": 4, "clip_s": 0.5, "patience": 2}
    path, params, paths = project(validate=validate)
    train_here(path, params, paths)
    record = json.loads((paths.train / "run.json").read_text())
    assert (record["steps"], record["best_step"]) == (4, 2)


def test_a_loss_that_is_not_a_number_ends_it_and_keeps_the_last_checkpoint(project, monkeypatch):
    path, params, paths = project(checkpoint_every_s=1e-3)
    steps = iter(range(1, 100))

    def failing(score_BB, song_B, **settings):
        return score_BB.sum() * (float("nan") if next(steps) == 4 else 1.0)

    monkeypatch.setattr(loop, "contrastive_loss", failing)
    with pytest.raises(
        FloatingPointError, match=r"at step 4 the loss is nan .* lower the learning"
    ):
        train_here(path, params, paths)
    assert _steps_kept(paths) == [2, 3]


def test_weights_that_are_not_finite_come_into_no_checkpoint(project):
    adam = {"learning_rate": 1e36, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.0}
    optimiser = CHANGED_OPTIMISER | {"adam": adam, "warmup_steps": 0, "ema_decay": 0.0}
    path, params, paths = project(optimiser=optimiser, checkpoint_every_s=1e-3)
    with pytest.raises(FloatingPointError, match=r"step 1 made the norm of the weights inf; lower"):
        train_here(path, params, paths)
    assert _steps_kept(paths) == []


def _steps_kept(paths: Paths) -> list[int]:
    found = (paths.train / "checkpoints").glob("*/step-*.safetensors")
    return sorted(int(file.stem.removeprefix("step-")) for file in found)


def test_a_full_disk_ends_it_and_keeps_the_last_checkpoint(project, monkeypatch):
    path, params, paths = project(checkpoint_every_s=1e-3)
    flushes = iter(range(100))

    def full(file: int) -> None:
        # Each file is flushed, and then its folder: the fourth file is the third step's.
        if next(flushes) == 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left.*MiB free\); free some space.* at step 2"):
        train_here(path, params, paths)
    assert _steps_kept(paths) == [1, 2]
    assert not list((paths.train / "checkpoints").rglob("*.partial"))


def test_a_corrupt_shard_ends_it_with_its_name_and_keeps_the_last_checkpoint(project):
    path, params, paths = project()
    assert not train_here(path, params, paths, stop_after=2)
    for shard in (paths.render / "train").glob("*.tar"):
        with shard.open("r+b") as file:
            file.seek(0)
            file.write(bytes(512))
    with pytest.raises(ValueError, match=r"train/\d+\.tar: this shard is damaged"):
        train_here(path, params, paths)
    assert _steps_kept(paths) == [2, 3]


def test_a_folder_that_cannot_be_written_is_named(project):
    path, params, paths = project()
    paths.train.mkdir()
    (paths.train / "checkpoints").write_text("in the way")
    with pytest.raises(OSError, match=r"checkpoints/\w+: cannot be written \(Not a directory\)"):
        train_here(path, params, paths)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, caplog):
    kept = Checkpoints(tmp_path, {"train": {"steps": 3}}, writes=True, resume=False)
    for step in (1, 2, 3):
        kept.save(Snapshot(step, {"x": torch.full((100,), step)}, {"note": step}))
    newest = kept.folder / "step-00000003.safetensors"
    newest.write_bytes(newest.read_bytes()[:-10])
    found = kept.newest()
    assert (found.step, found.facts, found.tensors["x"][0]) == (2, {"note": 2}, 2)
    assert "step-00000003.safetensors: damaged" in caplog.text
    assert not (kept.folder / "step-00000001.safetensors").exists()


@pytest.mark.parametrize(
    ("validate", "message"),
    [
        ({"candidates": 64}, r"validate.candidates = 64: .* has no such trials, only 4; choose"),
        ({"pairs": 3}, r"validate.pairs = 3 does not suffice for a trial of 4 candidates"),
    ],
)
def test_trials_that_cannot_be_asked_are_refused(project, validate, message):
    settings = {"every_steps": 3, "pairs": 8, "candidates": 4, "clip_s": 0.5, "patience": None}
    path, params, paths = project(validate=settings | validate)
    with pytest.raises(ValueError, match=message):
        train_here(path, params, paths)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_backbone_can_be_chosen(project, caplog, compiled, monkeypatch):
    caplog.set_level(logging.INFO)
    if compiled:
        # A compiler that fails: the training must go on without.
        monkeypatch.setattr(loop.Phalar, "features", _fail_once(loop.Phalar.features))
    path, params, paths = project(compile=compiled, steps=1)
    train_here(path, params, paths)
    assert "backbone: modules" in caplog.text
    assert ("torch.compile failed (no compiler)" in caplog.text) == compiled


def _fail_once(method):
    calls = iter(range(1000))

    def features(self, wave_BN):
        if next(calls) == 0:
            raise RuntimeError("no compiler")
        return method(self, wave_BN)

    return features


def test_a_killed_rank_ends_all_and_keeps_the_last_checkpoint(project):
    path, _, paths = project(devices=2, steps=500, checkpoint_every_s=1e-3)
    trainer = subprocess.Popen(
        [sys.executable, "-m", "phalar.train", "--params", str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 200
    while not _steps_kept(paths):
        assert trainer.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    (torchrun,) = psutil.Process(trainer.pid).children()
    first, second = torchrun.children()
    second.kill()
    said, _ = trainer.communicate(timeout=100)
    assert trainer.returncode == 1
    assert said.splitlines()[-1].startswith("error: train: a process was killed by SIGKILL")
    for process in (torchrun, first, second):
        await_end(process.pid)
    assert _steps_kept(paths)


def test_a_batch_in_pieces_is_refused_where_its_statistics_need_it_whole(project):
    settings = project(variant="gap", recompute_clips=4)[1].train
    world = loop.World(0, 1, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"recompute_clips: variant gap .* set it to null"):
        loop._fresh_state(settings, world)
