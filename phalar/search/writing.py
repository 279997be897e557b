"""Write into an index: by one at a time, aside and into place, with failures told in one line."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "lock"

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Say of a failure to write into an index what it means, and what to do.

    Raises
    ------
    OSError
        One line, in place of the system's own.
    """
    try:
        yield
    except OSError as error:
        mend = (
            "make room, then `phalar index update` goes on from what was heard"
            if error.errno in NO_ROOM
            else "name a folder where it can be with --index"
        )
        raise OSError(f"{folder}: cannot be written ({error.strerror or error}); {mend}") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an index for writing; a second writer is refused, and a killed one holds nothing.

    Raises
    ------
    OSError
        The folder cannot be written.
    ValueError
        Another process writes it.
    """
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder}: another process is updating this index; wait for it, or stop it"
            ) from None
        yield


def put(path: Path, content: bytes) -> None:
    """Write a file aside, then into its place."""
    aside = path.with_name(f"{path.name}.part")
    with told(path.parent):
        try:
            with aside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
