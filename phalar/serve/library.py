"""The library as its index has it now: opened anew when that has changed, and what may go out."""

from __future__ import annotations

import logging
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phalar.search import Searcher, open_index
from phalar.search.store import TABLE, Entry

logger = logging.getLogger(__name__)

GOES_ON = "goes on with the index as it was"

Stamp = tuple[int, int, int]
"""By which a table is told from the one that replaces it."""


class NotThereError(LookupError):
    """The library has no such file, or no longer as it was indexed."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An index as it was when it was opened; an answer that has begun with one ends with it."""

    searcher: Searcher
    entries: dict[str, list[Entry]]
    """By the digest of the content: files that are heard, copies in order of path."""
    info: dict[str, Any]
    """What is searched."""

    def find(self, sha256: str) -> tuple[Entry, Path]:
        """Find a file by what it is called in the answers; nothing else can be asked for.

        Returns
        -------
        entry : Entry
        path : Path
            Within the library, links resolved; of copies the first that is there.

        Raises
        ------
        NotThereError
            There is none, or what is there now is another one or lies elsewhere.
        """
        copies = self.entries.get(sha256, [])
        for entry in copies:
            if path := self._as_indexed(entry):
                return entry, path
        if not copies:
            raise NotThereError("no such file in the library")
        raise NotThereError(
            f"{copies[0].path}: no longer as it was indexed, or a link out of the library; `phalar "
            "index update` looks what is there"
        )

    def _as_indexed(self, entry: Entry) -> Path | None:
        index = self.searcher.index
        try:
            path = index.path_of(entry).resolve(strict=True)
            found = path.stat()
        except (OSError, RuntimeError):  # the latter where links go in a circle
            return None
        is_within = path.is_relative_to(index.facts.library.resolve())
        is_same = (found.st_size, found.st_mtime_ns) == (entry.bytes, entry.modified_ns)
        return path if is_within and is_same and stat.S_ISREG(found.st_mode) else None


class Library:
    """Gives the index as it is now.

    Parameters
    ----------
    searcher : Searcher
        Of the index as it was.
    """

    def __init__(self, searcher: Searcher) -> None:
        self._opened = _with_entries(searcher)
        self._stamp: Stamp | None = None
        self._lock = threading.Lock()
        # It may have been updated since it was opened.
        self.current()

    def current(self) -> Opened:
        """Give the index, opened anew where its table is another one; it may take a moment.

        Who comes meanwhile gets the one before. Where the new one cannot be used, this is said
        once, and the one before is kept.
        """
        stamp = _stamp(self._opened.searcher.index.folder / TABLE)
        if stamp != self._stamp and self._lock.acquire(blocking=False):
            try:
                self._take_up(is_there=stamp is not None)
                self._stamp = stamp
            finally:
                self._lock.release()
        return self._opened

    def _take_up(self, *, is_there: bool) -> None:
        old = self._opened.searcher.index
        if not is_there:
            logger.warning("%s: its table is out of reach; %s", old.folder, GOES_ON)
            return
        try:
            new = open_index(old.folder)
            if new.facts.model_sha256 != old.facts.model_sha256:
                logger.warning("%s: is now of another model; start the server anew", old.folder)
            elif (new.facts, new.state, new.entries) != (old.facts, old.state, old.entries):
                self._opened = _with_entries(Searcher(new))
        except (ValueError, OSError) as error:
            logger.warning("%s; %s", error, GOES_ON)


def _stamp(table: Path) -> Stamp | None:
    """Look at a table; None where it is gone, or its disk fails."""
    try:
        found = table.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _with_entries(searcher: Searcher) -> Opened:
    index = searcher.index
    entries: dict[str, list[Entry]] = {}
    for entry in index.entries:
        if entry.windows:
            entries.setdefault(entry.sha256, []).append(entry)
    heard = [entry for copies in entries.values() for entry in copies]
    info = {
        "library": index.facts.library.name,
        "files": len(entries),
        "window_s": index.facts.grid.window_s,
        "hop_s": index.facts.grid.hop_s,
        "search": "exact" if searcher.codes is None else "approximate",
        "recall": None if searcher.quality is None else searcher.quality.recall,
        "instruments": sorted({entry.instrument for entry in heard if entry.instrument}),
    }
    return Opened(searcher, entries, info)
