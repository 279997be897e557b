"""The note of the night that runs: of a night that was killed, Prefect is told by who finds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Crashed

NOTE = Path(".dvc/tmp/night")
"""Prefect's name for the night that runs. Who holds the lock of the line and finds it left over
knows that its night was killed."""


@contextmanager
def noted() -> Iterator[None]:
    """Leave the note while a night runs, which holds the lock of the line."""
    bury()
    NOTE.write_text(str(flow_run.id))
    try:
        yield
    finally:
        NOTE.unlink(missing_ok=True)


def bury() -> None:
    """Let Prefect know of a night that was killed.

    For the server it would run for ever, and where nights must not overlap none would follow. The
    lock of the line must be held.
    """
    if not NOTE.is_file():
        return
    with get_client(sync_client=True) as client:
        try:
            found = client.read_flow_run(UUID(NOTE.read_text()))
        except (ObjectNotFound, ValueError):
            found = None  # of another server, or cut short
        if found is not None and found.state is not None and not found.state.is_final():
            killed: State[Any] = Crashed(message="was killed; the next night goes on from there")
            client.set_flow_run_state(found.id, killed, force=True)
    NOTE.unlink()
