"""What the commands of all stages share: `python -m flows.<stage> [SOURCE] [--params PATH]`."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from flows import journal, orchestrator, process
from phalar import params as parameters
from phalar import runlog
from phalar.params import Params

FAILED, WRONG_USE, STOPPED = 1, 2, 130

RESUME = "PHALAR_RESUME"
"""Environment variable, for a stage that `make repro` runs: 1 is the option --resume."""
RESUME_HELP = "only go on with what was interrupted; with other inputs it is refused"

log = logging.getLogger("phalar.flows")


@dataclass(frozen=True, slots=True)
class Line:
    """What a flow is run with."""

    params_path: Path
    params: Params
    source: str
    """Empty for a stage that takes all sources together."""
    resume: bool = False
    """Whether to refuse to begin anew what was interrupted with other inputs."""


def main(
    flow: Callable[[Line], Any], *, of_source: bool = False, can_resume: bool = False
) -> NoReturn:
    """Run a flow as a command.

    Exit codes: 0 done, 1 failed, 2 wrong use, 130 stopped. An error is one line; the environment
    variable PHALAR_DEBUG=1 adds where it came from.
    """
    process.interrupt_on_signals()
    process.end_with_the_line()
    runlog.set_up_logging()
    try:
        line = _read_line(flow, of_source=of_source, can_resume=can_resume)
        orchestrator.connect()
    except (ValueError, OSError) as error:
        sys.exit(fail(error, WRONG_USE))
    sys.exit(_run(flow, line))


def _read_line(flow: Callable[[Line], Any], *, of_source: bool, can_resume: bool) -> Line:
    """Parse the arguments and read the parameters."""
    parser = argparse.ArgumentParser(
        prog=f"python -m flows.{flow.__name__}", description=flow.__doc__
    )
    if of_source:
        parser.add_argument("source", help="one of `sources` in the parameters")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="PATH")
    if can_resume:
        parser.add_argument("--resume", action="store_true", help=f"as {RESUME}=1: {RESUME_HELP}")
    arguments = parser.parse_args()
    params = parameters.load(arguments.params)
    source = arguments.source if of_source else ""
    if of_source and source not in params.sources:
        known = ", ".join(params.sources)
        raise ValueError(f"source {source!r} is not in {arguments.params}; choose from {known}")
    resume = can_resume and (arguments.resume or os.environ.get(RESUME) == "1")
    return Line(arguments.params, params, source, resume)


def _run(flow: Callable[[Line], Any], line: Line) -> int:
    """Run the flow with a note in the journal of when, how long, and how it ended."""
    stage = f"{flow.__name__}@{line.source}" if line.source else flow.__name__
    path = line.params.paths.root / "journal.json"
    started = time.time()
    error: BaseException | None = None
    try:
        journal.write(path, stage, journal.Entry(started, None, None))
        flow(line)
    except (KeyboardInterrupt, SystemExit, Exception) as caught:  # noqa: BLE001 - told in one line
        error = caught
    took_s = time.time() - started
    # What the stage itself ran into, such as a full disk, matters more than its note.
    with suppress(OSError):
        journal.write(
            path, stage, journal.Entry(started, took_s, explain(error) if error else None)
        )
    if error is None:
        log.info("%s: done in %.0f s", stage, took_s)
        return 0
    stopped = isinstance(error, KeyboardInterrupt | SystemExit)
    return fail(error, STOPPED if stopped else FAILED, stage)


def fail(error: BaseException, code: int, stage: str = "") -> int:
    """Say on stderr what went wrong, and return the exit code."""
    if os.environ.get("PHALAR_DEBUG") == "1":
        traceback.print_exception(error)
    message = explain(error)
    told = not stage or message.startswith(stage.partition("@")[0])
    print(message if told else f"{stage}: {message}", file=sys.stderr, flush=True)
    return code


REMEDIES = {
    errno.ENOSPC: "free some space; the next run goes on from here",
    errno.EFBIG: "free some space; the next run goes on from here",
    errno.EDQUOT: "free some space; the next run goes on from here",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EROFS: "make it writable",
    errno.ENOTDIR: "a file stands where a folder must be; move it away",
    errno.EEXIST: "a file stands where a folder must be; move it away",
}


def explain(error: BaseException) -> str:
    """Put an error into words: what, where, and what to do."""
    match error:
        case KeyboardInterrupt() | SystemExit():
            return "stopped; the next run goes on from here"
        case OSError(errno=int(number), strerror=str(reason)):
            where = f"{error.filename}: " if error.filename else ""
            # Where the library adds its own advice, it knows better.
            advice = REMEDIES.get(number, "") if ";" not in reason else ""
            return f"{where}{reason}{advice and '; '}{advice}"
        case ValueError() | OSError() | RuntimeError() if str(error):
            return str(error)
    return f"{type(error).__name__}: {error}; PHALAR_DEBUG=1 shows where"
