"""The file of an index's vectors: rows are added at its end, and written anew when few are used."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phalar.model.similarity import SEARCH_DIMENSIONS
from phalar.search import store, writing
from phalar.search.store import Entry, State

UNUSED = 0.25
"""Vectors are written anew when more than this share of them belongs to no file."""

ROW_BYTES = 4 * SEARCH_DIMENSIONS


class Appender:
    """Adds rows to the file of vectors; those that are there are never touched.

    Parameters
    ----------
    folder : Path
        Of the index, locked by the caller.
    state : State
        Of its table. What follows the last row is of an update that was cut short.
    """

    def __init__(self, folder: Path, state: State) -> None:
        path = folder / state.vectors
        self.folder, self.rows = folder, state.rows
        with writing.told(folder):
            # Without a buffer: what is counted has been taken by the system.
            self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
            self._file.truncate(state.rows * ROW_BYTES)

    def add(self, vectors: NDArray[np.float32]) -> int:
        """Write rows (R, 1024), and give the number of the first."""
        first = self.rows
        left = memoryview(vectors.tobytes())
        with writing.told(self.folder):
            self._file.seek(first * ROW_BYTES)
            try:
                while left:
                    left = left[self._file.write(left) :]
            except OSError:
                # The table needs some of this room.
                self._file.truncate(first * ROW_BYTES)
                raise
        self.rows += len(vectors)
        return first

    def sync(self) -> None:
        """Have the system put on disk what was added."""
        with writing.told(self.folder):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def compacted(folder: Path, entries: list[Entry], state: State) -> tuple[list[Entry], State] | None:
    """Write the vectors anew without those of no file; None where these are few."""
    blocks = sorted({(entry.first, entry.windows) for entry in entries if entry.windows})
    used, rows = sum(windows for _, windows in blocks), 0
    vectors = store.map_vectors(folder / state.vectors)
    if used >= (1 - UNUSED) * len(vectors):
        return None
    # Codes are of the rows as they were.
    after = replace(state, vectors=unused_name(folder), rows=used, codes=None)
    path = folder / after.vectors
    moved: dict[int, int] = {}
    with writing.told(folder):
        try:
            with path.open("wb") as file:
                for first, windows in blocks:
                    file.write(vectors[first : first + windows].tobytes())
                    moved[first] = rows
                    rows += windows
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            path.unlink()
            raise
    return [replace(e, first=moved[e.first]) if e.windows else e for e in entries], after


def unused_name(folder: Path) -> str:
    """Name a file of vectors as none was: an index that somebody opens now names an older one."""
    numbers = [int(path.stem.rpartition("-")[2]) for path in folder.glob("vectors-*[0-9].f32")]
    return f"vectors-{max(numbers, default=-1) + 1}.f32"
