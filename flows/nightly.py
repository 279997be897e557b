"""Nightly: what is new goes through the line and the gate; `python -m flows.nightly --serve`."""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import sys
import zoneinfo
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import (
    ConcurrencyLimitConfig,
    ConcurrencyLimitStrategy,
    State,
    StateType,
)
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import leftover, night, orchestrator, repro, server
from flows.command import FAILED, STOPPED, WRONG_USE, explain, fail
from flows.night import Report
from phalar import gate, runlog
from phalar import params as parameters
from phalar.params import Params

ARTIFACT = "nightly"


def _step(function: Any) -> Any:
    # DVC alone decides what is up to date; a step that is tried again would hide a bug.
    return task(function, cache_policy=NO_CACHE, persist_result=False)


look, reproduce, decide, push = map(_step, (night.look, night.reproduce, night.decide, night.push))


@flow(name="nightly", validate_parameters=False, persist_result=False)
def nightly(params: str = "params.yaml") -> State[Any]:
    """Run what is new, promote what is better, and say how it went; the champion stays else."""
    runlog.set_up_logging()
    settings = None
    try:
        settings = parameters.load(Path(params))
        with repro.alone(), leftover.noted():
            report = _run(settings)
    except BlockingIOError as error:
        report = Report("Skipped", lines=[str(error)])
    except Exception as error:  # noqa: BLE001 - whatever it is, the night ends with a report of it
        report = Report("Failed", lines=[explain(error)])
    if settings is not None and report.outcome not in ("Failed", "Skipped"):
        report.champion = night.holder(settings)
    night.post(report)  # first: Prefect's server may be what is gone
    create_markdown_artifact(report.markdown(), key=ARTIFACT, description=report.outcome)
    kind = StateType.FAILED if report.outcome == "Failed" else StateType.COMPLETED
    return State(type=kind, name=report.outcome, message="; ".join(report.lines))


def _run(settings: Params) -> Report:
    plan = look(settings)
    if plan.is_empty:
        return Report("Nothing new", lines=["nothing is new, so nothing ran"])
    lines, before = [], night.holder(settings)
    if plan.stages:
        reproduce(settings)
        lines.append(f"ran {', '.join(stage.name for stage in plan.stages)}")
    decision = decide(settings) if plan.decides else None
    if decision:
        lines.append(gate.tell(decision))
    elif plan.decides:
        lines.append("there is no challenger to decide about")
    if plan.remote:
        push(plan.remote)
        lines.append(f"pushed to {plan.remote}")
    same = night.holder(settings) == before
    figures = decision.figures if decision else []
    return Report("Kept" if same else "Promoted", lines=lines, figures=figures)


def main() -> int:
    """Run one night now, say what one would do, or serve a schedule of them."""
    parser = argparse.ArgumentParser(prog="python -m flows.nightly", description=__doc__)
    parser.add_argument("--params", type=Path, default=repro.PARAMS, metavar="PATH")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would run, and run nothing"
    )
    parser.add_argument("--serve", action="store_true", help="stay, and run on a schedule")
    parser.add_argument("--cron", default="0 2 * * *", help="default: %(default)s")
    parser.add_argument("--timezone", default="UTC", help="of --cron; default: %(default)s")
    words = parser.parse_args()
    try:
        settings = parameters.load(words.params)
        zoneinfo.ZoneInfo(words.timezone)
        when = Cron(words.cron, timezone=words.timezone)
    except (ValueError, zoneinfo.ZoneInfoNotFoundError) as error:
        return fail(ValueError(str(error).strip("'\"")), WRONG_USE)
    try:
        if words.dry_run:
            print(night.look(settings).tell())
            return 0
        with temporary_settings({PREFECT_API_URL: _server()}):
            return _serve(words, when) if words.serve else _once(words.params)
    except (OSError, RuntimeError, ValueError, DvcException) as error:
        return fail(error, FAILED)
    except KeyboardInterrupt as error:
        return fail(error, STOPPED)


def _server() -> str:
    """Give the address of a Prefect server: the one that answers, else one until this ends."""
    if os.environ.get("PREFECT_API_URL") and server.find() is None:
        raise ConnectionError(
            f"PREFECT_API_URL={os.environ['PREFECT_API_URL']}: no Prefect server answers there; "
            "start it, or unset this for one of the night's own"
        )
    # Not a `with`: Prefect sends its last words when Python exits, and would try for minutes to
    # reach a server that is gone.
    held = ExitStack()
    atexit.register(held.close)
    held.enter_context(server.background())
    orchestrator.connect()
    url = os.environ.get("PREFECT_API_URL")
    if url is None:
        log = server.HOME / "server.log"
        raise ConnectionError(
            f"a night needs a Prefect server, and none answers; see PHALAR_ORCHESTRATOR and {log}"
        )
    return url


def _once(params: Path) -> int:
    # An error is one line of ours; the traceback is kept on the server.
    for handler in logging.getLogger().handlers:
        if isinstance(handler, PrefectConsoleHandler):
            handler.setLevel(logging.CRITICAL)
    state = nightly(str(params), return_state=True)
    print(f"{state.name}: {state.message}")
    return FAILED if state.is_failed() else 0


def _serve(words: argparse.Namespace, when: Any) -> int:
    """Wait for the schedule until Ctrl-C; a night that would overlap another is cancelled."""
    with suppress(BlockingIOError), repro.alone():  # else a night runs, and none was killed
        leftover.bury()
    print(f"nights start at {words.cron} ({words.timezone}); Ctrl-C ends this", flush=True)
    one = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    nightly.serve(
        name="nightly",
        schedule=when,
        parameters={"params": str(words.params)},
        global_limit=one,
        limit=1,
        pause_on_shutdown=False,
        print_starting_message=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
