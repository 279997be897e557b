"""The whole line, as `make repro` runs it: say what is due, run it, sum up.

`dvc repro` does the work and decides what is due; this adds what a person likes to see, a local
Prefect server while the line runs, and an end that leaves nothing running.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
from dvc.exceptions import DvcException
from dvc.repo import Repo
from rich.console import Console
from rich.table import Table

from flows import arrivals, journal, process, server, summary
from flows.command import FAILED, STOPPED, WRONG_USE, fail
from phalar import params as parameters
from phalar.params import Params

PARAMS = Path("params.yaml")
LOCK = Path(".dvc/tmp/line.lock")


@dataclass(frozen=True, slots=True)
class Due:
    """A stage that DVC will run, or may have to."""

    name: str
    what: str
    expected_s: float


def main() -> int:
    """Run what is due; the exit code is 0 done, 1 failed, 2 wrong use, 130 stopped."""
    process.interrupt_on_signals()
    console = Console()
    try:
        params = parameters.load(PARAMS)
    except ValueError as error:
        return fail(error, WRONG_USE)
    try:
        with alone():
            return _run(params, console)
    except OSError as error:
        return fail(error, FAILED)
    except DvcException as error:
        return fail(RuntimeError(str(error)), FAILED)
    except KeyboardInterrupt as error:
        return fail(error, STOPPED)


def _run(params: Params, console: Console) -> int:
    """Announce, run, sum up."""
    records = params.paths.root / "journal.json"
    if stages := due(journal.read(records), arrivals.stages(params)):
        _announce(stages, console)
        started = time.time()
        arrivals.take_in(params)
        with server.background():
            code = reproduce()
        if code != 0:
            print(f"\n{failure(journal.read(records), started)}", file=sys.stderr)
            print("Finished stages are kept: `make repro` goes on from here.", file=sys.stderr)
            return FAILED
        console.print(f"\nThe line took {duration(time.time() - started)}.")
    else:
        console.print("Everything is up to date.")
    summary.show(params, console)
    return 0


@contextmanager
def alone(lock: Path = LOCK, *, what: str = "the line") -> Iterator[None]:
    """Hold the lock of the line, or of something else that must not run twice at once.

    Raises
    ------
    BlockingIOError
        Another run holds it; the message says which.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BlockingIOError(
                f"{what} runs already, as process {file.read()}; wait for it or stop it"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def due(last: dict[str, journal.Entry], arrived: Collection[str] = ()) -> list[Due]:
    """List the stages that changed and all that follow them, in an order they can run in.

    `arrived` names those that changed without DVC's knowledge.
    """
    repo = Repo()
    graph = repo.index.graph  # an edge leads from a stage to one that it depends on
    status = repo.status()
    changed = {stage for stage in graph if stage.addressing in (*status, *arrived)}
    due = changed.union(*(nx.ancestors(graph, stage) for stage in changed))
    return [
        Due(stage.addressing, stage.desc, _expected_s(stage, last.get(stage.addressing)))
        for stage in reversed(list(nx.topological_sort(graph)))
        if stage in due
    ]


def _expected_s(stage: Any, last: journal.Entry | None) -> float:
    """Return what a stage took here when it last ended well, else what dvc.yaml says is usual."""
    if last and last.took_s is not None and last.error is None:
        return last.took_s
    return float(stage.meta["usual_s"])


def _announce(due: list[Due], console: Console) -> None:
    """Say what will run and for about how long."""
    total_s = sum(stage.expected_s for stage in due)
    table = Table(
        "stage", "what", "about", title=f"To do, about {duration(total_s)}", title_justify="left"
    )
    for stage in due:
        table.add_row(stage.name, stage.what, duration(stage.expected_s))
    console.print(table)


def reproduce(*targets: str) -> int:
    """Run `dvc repro` in a session of its own, and leave nothing of it behind."""
    command = [sys.executable, "-m", "dvc", "repro", *targets]
    child = subprocess.Popen(command, env=environment(), start_new_session=True)
    try:
        return child.wait()
    except KeyboardInterrupt:
        print("stopping: the stage may save where it is (Ctrl-C again: at once)", file=sys.stderr)
        raise
    finally:
        process.stop(child)


def environment() -> dict[str, str]:
    """Return the environment of the stages: this interpreter first, and no telemetry."""
    here = str(Path(sys.executable).parent)
    # Under a nightly flow, Prefect's note of that flow's run is not for the flows of the stages.
    given = {name: text for name, text in os.environ.items() if not name.startswith("PREFECT__")}
    return {
        **given,
        "PATH": os.pathsep.join([here, os.environ.get("PATH", os.defpath)]),
        "SHELL": "/bin/sh",
        "DVC_NO_ANALYTICS": "1",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        process.OWNER: str(os.getpid()),
    }


def failure(last: dict[str, journal.Entry], started: float) -> str:
    """Say in one line which stage of a run failed, and why."""
    failed = [
        (stage, entry.error or "was killed; if memory was short, give it fewer workers")
        for stage, entry in last.items()
        if entry.started >= started and (entry.error or entry.took_s is None)
    ]
    return ": ".join(failed[-1]) if failed else "dvc repro failed, for the reason it gives above"


def duration(seconds: float) -> str:
    """Put a duration as a person would say it."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


if __name__ == "__main__":
    sys.exit(main())
