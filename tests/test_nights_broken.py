"""Nights that go wrong, with real kills: each says why, keeps the champion; the next goes on."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from nights import Nights, wait_until

from flows import leftover, night

pytestmark = [pytest.mark.slow, pytest.mark.timeout(6000)]

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def nights(tmp_path_factory) -> Iterator[Nights]:
    """A project with a champion. The tests go on in order, and leave it as champion."""
    made = Nights(tmp_path_factory.mktemp("broken") / "project")
    assert made.run()[1].startswith("Promoted: ran render, train, evaluate, register; ")
    assert made.aliases() == {"champion": "1"}
    # What is trained here must not become champion by luck.
    made.change(lambda values: values["register"]["promote"].update(gain=1.0, loss=1.0))
    made.commit()
    yield made
    made.kill_all()


def weights(folder: Path) -> str:
    return str(json.loads((folder / "data/train/model.json").read_text())["sha256"])


def test_killed_in_the_training_beside_others_that_may_not_run(nights, tmp_path) -> None:
    """Kill -9 of all that runs; two more nights and `make repro` were refused before."""
    line = nights.line
    nights.change(lambda values: values["train"].update(steps=30, checkpoint_every_s=0.01))
    nights.commit()
    before = len(nights.states())
    first = line.start("flows.nightly")
    checkpoints = nights.folder / "data/train/checkpoints"
    started = line.journal()["train"].started
    wait_until(lambda: line.journal()["train"].started > started or first.poll() is not None)
    wait_until(lambda: any(checkpoints.rglob("step-*")) or first.poll() is not None)
    for process in line.processes():
        if "phalar.train.worker" in process.cmdline():
            process.suspend()  # until all has been tried on it

    code, said = nights.run()
    assert (code, said.partition("; ")[0]) == (
        0,
        f"Skipped: the line runs already, as process {first.pid}",
    )
    by_hand = line.run("flows.repro")
    assert (by_hand.returncode, "the line runs already" in by_hand.stderr) == (1, True)

    assert first.poll() is None
    assert line.journal()["train"].took_s is None
    nights.kill_all()
    assert first.wait() == -signal.SIGKILL
    assert nights.states()[before][0] == "RUNNING"
    assert (nights.folder / leftover.NOTE).exists()
    assert nights.aliases() == {"champion": "1"}

    assert nights.run()[1].startswith("Kept: ran train, evaluate, register; ")
    kind, _, why = nights.states()[before]
    assert (kind, "was killed" in why) == ("CRASHED", True)
    assert not (nights.folder / leftover.NOTE).exists()
    assert nights.aliases() == {"champion": "1", "challenger": "2"}
    # A training that nobody disturbed gives the same weights.
    other = tmp_path / "data"
    shutil.copytree(nights.folder / "data/render", other / "render")
    line.succeed("phalar.train", "--data", str(other))
    assert weights(tmp_path) == weights(nights.folder)
    code, said = nights.run()
    assert (code, said) == (0, "Nothing new: nothing is new, so nothing ran")


def test_without_the_remote(nights) -> None:
    """What was not pushed is pushed by the next night, which runs nothing else."""
    aside = nights.store.rename(nights.store.with_name("away"))
    nights.store.write_text("a file in place of the folder")
    nights.change(lambda values: values["evaluate"].update(seed=2))
    nights.commit()
    code, said = nights.run()
    assert (code, said.startswith("Failed: dvc push to store failed: ")) == (1, True), said
    assert "Not a directory" in said
    assert said.endswith("the next night tries again")
    assert nights.aliases()["champion"] == "1"
    nights.store.unlink()
    aside.rename(nights.store)
    before = nights.line.journal()
    assert nights.line.succeed("flows.nightly", "--dry-run") == "dvc push: store\n"
    assert nights.run() == (0, "Kept: pushed to store")
    assert nights.line.ran_since(before) == set()
    printed = nights.line.succeed("flows.nightly", "--dry-run")
    assert printed == "Nothing is new: nothing would run.\n"


def test_without_mlflow(nights) -> None:
    reason = f"MLflow ({NOWHERE}): no server answers there; see MLFLOW_TRACKING_URI"
    assert nights.run(MLFLOW_TRACKING_URI=NOWHERE) == (1, f"Failed: {reason}")
    assert nights.states()[-1][::2] == ("FAILED", reason)
    assert reason in nights.artifacts()[-1]
    done = nights.line.run("flows.nightly", "--dry-run", MLFLOW_TRACKING_URI=NOWHERE)
    assert (done.returncode, done.stderr) == (1, f"{reason}\n")


def test_without_prefect(nights) -> None:
    done = nights.line.run("flows.nightly", PREFECT_API_URL=f"{NOWHERE}/api")
    assert done.returncode == 1
    assert done.stderr.startswith(f"PREFECT_API_URL={NOWHERE}/api: no Prefect server answers")
    assert done.stderr.count("\n") == 1


def test_on_a_full_disk_with_a_webhook_that_is_deaf(nights) -> None:
    """A limit on each file's bytes fails a write as a full disk does, and spares the databases."""
    limit = 6_000_000
    nights.change(lambda values: values["train"].update(seed=2))
    nights.commit()
    environment = {**nights.line.environment, night.WEBHOOK: NOWHERE}
    done = subprocess.run(
        [sys.executable, "-m", "flows.nightly"],
        cwd=nights.folder,
        env=environment,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
    )
    said = done.stdout.strip().splitlines()[-1]
    assert (done.returncode, said.startswith("Failed: train: ")) == (1, True), said
    assert "File too large" in said
    assert "free some space" in said
    assert f"{night.WEBHOOK}: the report was not taken" in done.stdout
    assert nights.aliases()["champion"] == "1"
    assert nights.run()[1].startswith("Kept: ran train, evaluate, register; ")
    wait_until(nights.line.nothing_runs)
