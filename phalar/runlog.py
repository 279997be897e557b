"""What a run says: log lines, facts about the code it ran with, and its record in MLflow."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from phalar import params

logger = logging.getLogger(__name__)

CODE = ("phalar", "flows", "dvc.yaml", "pyproject.toml", "constraints.txt", "withdrawn.yaml")
PARAMS = "params.yaml"
"""What a result depends on. dvc.lock is not among it: the line itself rewrites that."""

RETRY_S = 60.0
"""After a failure MLflow is left alone for this long: its timeouts would add up."""

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
}
"""For processes that record a run: a server that does not answer must not cost minutes."""

METRICS_A_CALL = 1000
DIGEST_LENGTH = 36
"""Longer ones MLflow refuses; DVC's hash of a folder is just as long."""

SQLITE = "sqlite:///"
SQLITE_WAIT_S = 30.0
"""For others that write to the database."""


def set_up_logging() -> None:
    """Send the lines of the `phalar` loggers to stdout, warnings and errors marked as such."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Plain())
    root = logging.getLogger("phalar")
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    root.propagate = False


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


@dataclass(frozen=True, slots=True)
class Git:
    """Which code a run ran with."""

    commit: str
    """Empty where the code lies in no git repository."""
    dirty: bool
    """Code or parameters are not those of the commit."""


def git_facts(folder: Path, params_path: Path) -> Git:
    """Ask git about the code in a folder, and whether a parameter file is the one of its commit."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return Git("", dirty=False)
    changed = _git(folder, "status", "--porcelain", "--", *CODE)
    committed = _git(folder, "show", f"HEAD:./{PARAMS}")
    return Git(commit, dirty=bool(changed) or params_path.read_text().strip() != committed)


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_digest(render: Path) -> str:
    """Digest of rendered data: both tables, of which one describes the sound of each pair.

    Raises
    ------
    ValueError
        A table is not there.
    """
    found = hashlib.sha256()
    for name in ("pairs.parquet", "trials.parquet"):
        path = render / name
        if not path.exists():
            raise ValueError(f"{path}: no such file; run the render stage")
        found.update(file_sha256(path).encode())
    return found.hexdigest()


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Name nested values by their dotted path, as in params.yaml; lists become JSON."""
    flat = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


def tracking_uri(config: params.Tracking, project: Path) -> str:
    """Where runs are recorded: MLFLOW_TRACKING_URI, or params.yaml relative to the project."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or config.uri
    if uri.startswith(SQLITE):
        path = Path(uri.removeprefix(SQLITE))
        return f"{SQLITE}{(project / path).resolve()}"
    return uri


@dataclass(frozen=True, slots=True)
class DataSet:
    """Data that a run depends on."""

    name: str
    folder: Path
    digest: str
    context: str
    """`training` for what the run reads, `source` for what that was made from."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a run is described by in MLflow, once."""

    name: str
    params: BaseModel
    tags: dict[str, str]
    data: tuple[DataSet, ...]


class Recorder:
    """An MLflow run that must never stop the work it records.

    All talk with MLflow is done by a thread of its own. Where MLflow cannot be reached, metrics are
    kept and sent later; `close` says what was lost.

    Parameters
    ----------
    config : params.Tracking
        Server and experiment.
    project : Path
        Folder of params.yaml, against which a relative sqlite path is resolved.
    facts : Facts
        Describes a new run.
    run_id : str or None
        A run to go on with, as from a checkpoint; a run that is not there any more is made anew.
    """

    def __init__(
        self, config: params.Tracking, *, project: Path, facts: Facts, run_id: str | None = None
    ) -> None:
        self.uri = tracking_uri(config, project)
        self.experiment = config.experiment
        self._run_id = run_id
        self._facts = facts
        self._waiting: list[tuple[str, float, int, int]] = []
        self._started = False
        self._problem = ""
        self._silent_until = 0.0
        self._client: Any = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        self._monitor: Any = None
        self._opening = self._thread.submit(self._attempt)

    @property
    def run_id(self) -> str | None:
        """The run, once the first attempt to make it is over; `None` where none succeeded."""
        self._opening.result()
        return self._run_id

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record metrics of a step (names with units), together with those that wait."""
        now_ms = int(time.time() * 1000)
        self._waiting += [(name, value, now_ms, step) for name, value in metrics.items()]
        self._thread.submit(self._attempt)

    def close(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED, and say what MLflow has not got."""
        self._thread.submit(self._attempt, status)
        self._thread.shutdown()
        if self._waiting:
            logger.warning(
                "MLflow lacks %d values of this run (%s); they are in the history files",
                len(self._waiting),
                self._problem,
            )

    def _attempt(self, status: str = "") -> None:
        """Open the run, send what waits, end the run; what fails is tried again later."""
        if time.monotonic() < self._silent_until and not status:
            return
        try:
            if not self._started:
                self._start()
            self._send()
            if status:
                self._monitor.finish()
                self._client.set_terminated(self._run_id, status)
        except Exception as error:  # noqa: BLE001 - a driver may raise anything, and none of it matters
            if not self._problem:
                logger.warning("MLflow (%s): %s; training goes on", self.uri, _first_line(error))
            self._problem = _first_line(error)
            self._silent_until = time.monotonic() + RETRY_S

    def _start(self) -> None:
        # Imported late: it takes 2 s, and a training without the extra `pipeline` does without.
        import mlflow
        from mlflow.exceptions import MlflowException
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        for noisy in ("mlflow", "alembic", "urllib3"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        open_store(self.uri)
        self._client = mlflow.MlflowClient(self.uri)
        if self._run_id is not None:
            try:
                self._client.update_run(self._run_id, status="RUNNING")
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                logger.warning("MLflow run %s is gone; a new one is made", self._run_id)
                self._run_id = None
        resumed = self._run_id is not None
        if self._run_id is None:
            self._run_id = self._create_run()
        self._started = True
        self._monitor = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
            self._run_id, resume_logging=resumed, tracking_uri=self.uri
        )
        self._monitor.start()

    def _create_run(self) -> str:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        facts = self._facts
        run = self._client.create_run(
            self._experiment_id(),
            run_name=facts.name,
            tags={"mlflow.source.name": "phalar", "mlflow.source.type": "LOCAL", **facts.tags},
        )
        run_id: str = run.info.run_id
        flat = flatten(facts.params.model_dump(mode="json", by_alias=True))
        self._client.log_batch(run_id, params=[Param(k, v) for k, v in flat.items()])
        inputs = []
        for data in facts.data:
            # As MetaDataset describes data that MLflow shall not open.
            source = json.dumps({"uri": data.folder.resolve().as_uri()})
            digest = data.digest[:DIGEST_LENGTH]
            entity = Dataset(data.name, digest, source_type="local", source=source)
            context = [InputTag("mlflow.data.context", data.context)]
            inputs.append(DatasetInput(entity, context))
        self._client.log_inputs(run_id, inputs)
        return run_id

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        # A server keeps artifacts where it likes; without one they go beside the database.
        database = Path(self.uri.removeprefix(SQLITE))
        local = self.uri.startswith(SQLITE)
        place = (database.parent / "mlartifacts").resolve().as_uri() if local else None
        return str(self._client.create_experiment(self.experiment, artifact_location=place))

    def _send(self) -> None:
        from mlflow.entities import Metric

        while self._waiting:
            batch = self._waiting[:METRICS_A_CALL]
            metrics = [Metric(name, value, when, step) for name, value, when, step in batch]
            self._client.log_batch(self._run_id, metrics=metrics)
            del self._waiting[: len(batch)]


def open_store(uri: str) -> None:
    """Make sure that a SQLite database is there and can be written.

    MLflow itself would try for hours to open one that cannot, and processes that all make the
    tables of the same new database fail. So they are made aside, and the first to link them in
    place wins.
    """
    if not uri.startswith(SQLITE):
        return
    path = Path(uri.removeprefix(SQLITE))
    if not path.exists():
        _create_store(path)
    with closing(sqlite3.connect(path, timeout=SQLITE_WAIT_S)) as database:
        database.execute("BEGIN IMMEDIATE")


def _create_store(path: Path) -> None:
    from mlflow import MlflowClient
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def hasten(connection: Any, record: Any) -> None:
        # Hundreds of small changes, each flushed to the disk, took 43 s on a busy one, and 3 s so.
        connection.execute("PRAGMA synchronous=OFF")

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mlflow-") as folder:
        aside = Path(folder) / path.name
        event.listen(Engine, "connect", hasten)
        try:
            MlflowClient(f"{SQLITE}{aside}").search_experiments(max_results=1)
        finally:
            event.remove(Engine, "connect", hasten)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            path.hardlink_to(aside)


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return textwrap.shorten(lines[0], 200) if lines else type(error).__name__
