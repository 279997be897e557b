"""What a training leaves behind: the model, its history, and the record of its run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch

from phalar import dvclock, runlog
from phalar.model import load_model, save_model
from phalar.params import Params, Paths, digest
from phalar.train.checkpoint import write_aside
from phalar.train.distributed import World
from phalar.train.state import Row, State
from phalar.train.validate import Validation

UNRELATED = {"workers", "threads", "recompute_clips", "log_every_steps", "checkpoint_every_s"}
"""Parameters that do not change what comes out, so that a training goes on when they change."""

CODE = Path(__file__).resolve().parents[2]
"""Where git is asked which code this is."""

HISTORY_FILE = "history.csv"
VALIDATION_FILE = "validation.csv"
RUN_FILE = "run.json"

SAME_SCORE = 1e-3
"""Scores of the exported model may differ by so much: the best weights were scored compiled, or in
another precision."""


class Recorder(Protocol):
    """Takes measurements, as `runlog.Recorder` does."""

    @property
    def run_id(self) -> str | None:
        """The MLflow run, if there is one."""

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record metrics of a step."""


class _Silent:
    run_id = None

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record nothing."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a training was given, and where the record of it goes."""

    params: Params
    paths: Paths
    project: Path
    """Folder of the parameter file."""
    git: runlog.Git
    inputs: dict[str, Any]
    """Parameters and data that decide what comes out."""

    @staticmethod
    def of(params: Params, paths: Paths, *, params_path: Path) -> Record:
        """Gather the facts about code, parameters and data."""
        inputs = {
            "train": params.train.model_dump(mode="json", by_alias=True, exclude=UNRELATED),
            "data": runlog.data_digest(paths.render),
        }
        project = params_path.resolve().parent
        return Record(params, paths, project, runlog.git_facts(CODE, params_path), inputs)

    @contextmanager
    def opened(self, state: State, *, writes: bool) -> Iterator[Recorder]:
        """Open the MLflow run of a training, and close it as what became of the training.

        Parameters
        ----------
        state : State
            Names the run that the training goes on with.
        writes : bool
            Whether this process keeps the record; another gets one that records nothing.
        """
        if not writes:
            yield _Silent()
            return
        recorder = runlog.Recorder(
            self.params.tracking, project=self.project, facts=self._facts(), run_id=state.run_id
        )
        status = "FAILED"
        try:
            yield recorder
            status = "FINISHED" if state.is_over(self.params.train) else "KILLED"
        finally:
            recorder.close(status)

    def _facts(self) -> runlog.Facts:
        data, told = dvclock.data_sets(self.project, self.paths, self.inputs["data"])
        lock = self.project / dvclock.FILE
        tags = {
            "git.commit": self.git.commit,
            "git.dirty": str(self.git.dirty).lower(),
            "params.sha256": digest(self.params),
            "data.sha256": self.inputs["data"],
            "data.dvc": told,
        }
        if lock.exists():
            tags["dvc.lock.sha256"] = runlog.file_sha256(lock)
        return runlog.Facts("train", self.params, tags, data)


def export(state: State, record: Record, validation: Validation, world: World) -> None:
    """Write the best weights, read them back, compare scores, and write history and run record.

    Raises
    ------
    OSError
        Something cannot be written, or does not read back as it was.
    """
    folder = record.paths.train
    best = state.best_validation
    model = state.model
    model.load_state_dict(state.best)
    model.float()
    extra = {
        "params_sha256": digest(record.params),
        "data_sha256": record.inputs["data"],
        "git_commit": record.git.commit,
        "git_dirty": record.git.dirty,
        "steps": state.step,
        "best_step": best["step"],
        "validation": {source: value for source, value in best.items() if source != "step"},
        "mlflow_run_id": state.run_id,
    }
    save_model(model, folder, extra=extra)
    _check(model, load_model(folder).to(world.device), validation, world)
    write_aside(folder / HISTORY_FILE, _as_csv(state.history))
    write_aside(folder / VALIDATION_FILE, _as_csv(state.validations))
    tracking = record.params.tracking
    run = {
        "run_id": state.run_id,
        "experiment": tracking.experiment,
        "tracking_uri": runlog.tracking_uri(tracking, record.project),
        "start": state.started,
        "end": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(state.seconds, 1),
        **extra,
    }
    write_aside(folder / RUN_FILE, (json.dumps(run, indent=2) + "\n").encode())


def _check(model: Any, reloaded: Any, validation: Validation, world: World) -> None:
    """Compare the scores of both models over a few validation pairs."""
    pairs = validation.pairs[:8]
    scores = []
    for each in (model.eval(), reloaded):
        with torch.no_grad():
            anchors, positives = torch.cat(validation.embed(each, world, pairs)).unbind(1)
            scores.append(each.score_matrix(anchors, positives, commutative=True))
    difference = float((scores[0] - scores[1]).abs().max())
    if not difference <= SAME_SCORE:
        raise OSError(
            f"the exported model scores {difference:g} away from the trained one; run again, it "
            f"exports anew, and check the disk"
        )


def _as_csv(rows: list[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
