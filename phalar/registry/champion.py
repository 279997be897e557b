"""Champion and challenger: who holds which alias, promotion in one step, and the way back."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from phalar import runlog

CHAMPION, CHALLENGER = "champion", "challenger"
"""Aliases: the version that users get, and the one that would replace it."""

BEFORE, SINCE, BACK, RETRAIN = "champion.before", "champion.since", "champion.back", "retrain"
"""Tags of a version: whom it replaced ("" for nobody), when, when it was taken back, and that a
track of its training was withdrawn."""


def holder(client: Any, name: str, alias: str) -> str | None:
    """Give the version that an alias points to; None where nobody holds it."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_registered_model(name).aliases.get(alias)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return None if found is None else str(found)


def obstacles(version: Any) -> list[str]:
    """List what keeps a version from becoming champion, however good it is."""
    tags = version.tags
    found = []
    if not tags.get("git.commit"):
        found.append("it was trained outside git, so no commit names its code")
    if tags.get("git.dirty") == "true":
        found.append("the tree was dirty when it was trained; commit, and train again")
    if tags.get(RETRAIN):
        found.append("a track that it was trained on is withdrawn; train again")
    if tags.get(BACK):
        found.append(f"it was champion, and was rolled back on {tags[BACK]}")
    return found


def challenge(client: Any, name: str, version: str) -> None:
    """Name a version as challenger, unless it is champion already."""
    if holder(client, name, CHAMPION) != version:
        client.set_registered_model_alias(name, CHALLENGER, version)


def promote(client: Any, name: str, version: str, *, instead_of: str | None) -> None:
    """Make a version champion.

    One request moves the alias, so that a reader finds the old champion or the new one. What was
    decided against a champion holds for that one alone.

    Raises
    ------
    ValueError
        The champion is not `instead_of` (any more), or the version may not be one.
    """
    with _alone(client.tracking_uri, name):
        now = holder(client, name, CHAMPION)
        if now != instead_of:
            raise ValueError(
                f"{name}: the champion is version {now} now, and version {version} was compared "
                f"with {instead_of}; compare again"
            )
        if found := obstacles(client.get_model_version(name, version)):
            raise ValueError(f"{name}/{version} cannot be champion: {'; '.join(found)}")
        # First, so that the way back is known whenever the alias has moved.
        client.set_model_version_tag(name, version, BEFORE, now or "")
        client.set_model_version_tag(name, version, SINCE, _now())
        client.set_registered_model_alias(name, CHAMPION, version)
        _dismiss(client, name)


def finish(client: Any, name: str) -> None:
    """End a promotion that was killed between its steps: who is champion is no challenger."""
    with _alone(client.tracking_uri, name):
        _dismiss(client, name)


def _dismiss(client: Any, name: str) -> None:
    challenger = holder(client, name, CHALLENGER)
    if challenger is not None and challenger == holder(client, name, CHAMPION):
        client.delete_registered_model_alias(name, CHALLENGER)


def rollback(client: Any, name: str) -> tuple[str, str]:
    """Return to the champion before this one; give both versions, the left one first.

    The version that is left is marked, so that no gate promotes it again.

    Raises
    ------
    ValueError
        There is no champion, or none was before it.
    """
    with _alone(client.tracking_uri, name):
        now = holder(client, name, CHAMPION)
        if now is None:
            raise ValueError(f"{name}: there is no champion; `phalar promote` makes one")
        before = client.get_model_version(name, now).tags.get(BEFORE)
        if not before:
            raise ValueError(f"{name}: version {now} is the first champion, none was before it")
        client.set_model_version_tag(name, now, BACK, _now())
        client.set_registered_model_alias(name, CHAMPION, before)
    return now, before


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _alone(uri: str, name: str) -> Iterator[None]:
    """Wait until no other process of this machine changes the champion of this registry."""
    if uri.startswith(runlog.SQLITE):
        path = Path(uri.removeprefix(runlog.SQLITE) + ".lock")
    else:
        digest = hashlib.sha256(f"{uri} {name}".encode()).hexdigest()[:16]
        path = Path(tempfile.gettempdir()) / f"phalar-{os.getuid()}-{digest}.lock"
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
