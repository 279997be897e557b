"""Who runs a stage: Prefect where a server answers, plain functions where none does.

`PHALAR_ORCHESTRATOR` chooses: `auto` (as without it) asks for a server for a second at most,
`prefect` insists on one, `none` never asks. Without a server Prefect would start one for each
stage, ten seconds a time; as even its import takes one, that waits until a server has answered.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from flows import process, server

P = ParamSpec("P")
R = TypeVar("R")

MODES = ("auto", "prefect", "none")
log = logging.getLogger("phalar.flows")

_connected = False


def connect() -> None:
    """Look for a server, once and before any flow; log who runs the stage.

    Raises
    ------
    ValueError
        The mode is none of `MODES`.
    ConnectionError
        The mode is `prefect`, and no server answers.
    """
    global _connected
    mode = os.environ.get("PHALAR_ORCHESTRATOR", "auto")
    if mode not in MODES:
        raise ValueError(f"PHALAR_ORCHESTRATOR={mode} is not known; choose from {', '.join(MODES)}")
    url = None if mode == "none" else server.find()
    if url is None and mode == "prefect":
        raise ConnectionError(
            "PHALAR_ORCHESTRATOR=prefect, but no server answers; start one with "
            "`python -m flows.server` or set PREFECT_API_URL"
        )
    if url is None:
        asked = "was not asked for" if mode == "none" else "does not answer: no retries, no record"
        log.info("Prefect %s", asked)
        return
    settings = dict(SETTINGS)
    if "PREFECT_API_URL" not in os.environ:
        settings |= {**server.SETTINGS, "PREFECT_API_URL": url}
    os.environ.update({key: value for key, value in settings.items() if key not in os.environ})
    _connected = True
    if process.OWNER not in os.environ:  # else the line has said so
        log.info("Prefect shows this run at %s", url.removesuffix("/api"))


SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "phalar",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # An error is one line of ours; the traceback is kept on the server.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
}


def task(function: Callable[P, R], *, name: str, retries: int = 0) -> Callable[P, R]:
    """Make a step of a flow from a function.

    Only steps that use the network are given retries (after 2, 4, 8 ... seconds): a training that
    is tried again would hide a bug. DVC alone decides what is up to date, so nothing is cached.
    """

    @functools.wraps(function)
    def step(*args: P.args, **kwargs: P.kwargs) -> R:
        if not _connected:
            return function(*args, **kwargs)
        return prefect_task(function, name=name, retries=retries)(*args, **kwargs)  # type: ignore[no-any-return]

    return step


def is_connected() -> bool:
    """Tell whether Prefect records this run."""
    return _connected


def prefect_task(function: Callable[..., Any], *, name: str, retries: int = 0) -> Any:
    """Make a task of Prefect's from a function."""
    import prefect
    from prefect.cache_policies import NO_CACHE
    from prefect.tasks import exponential_backoff

    decorate = prefect.task(
        name=name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=retries,
        retry_delay_seconds=exponential_backoff(2),
        retry_jitter_factor=0.5,
        retry_condition_fn=_is_passing,
    )
    return decorate(function)


def flow(function: Callable[P, R]) -> Callable[P, R]:
    """Make the flow of a stage from a function that bears the stage's name."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if not _connected:
            return function(*args, **kwargs)
        import prefect

        decorate = prefect.flow(
            name=function.__name__, validate_parameters=False, persist_result=False
        )
        return decorate(function)(*args, **kwargs)

    return run


def show_table(key: str, rows: list[dict[str, Any]], description: str) -> None:
    """Put a table beside the run's record; nothing where Prefect does not record."""
    if _connected:
        from prefect.artifacts import create_table_artifact

        create_table_artifact(table=rows, key=key, description=description)


def show_text(key: str, markdown: str, description: str) -> None:
    """Put text with links beside the run's record; nothing where Prefect does not record."""
    if _connected:
        from prefect.artifacts import create_markdown_artifact

        create_markdown_artifact(markdown, key=key, description=description)


def _is_passing(_task: Any, _run: Any, state: Any) -> bool:
    """Tell whether an error may pass by itself: the network's do, a wrong checksum does not."""
    return isinstance(state.data, ConnectionError | TimeoutError)
