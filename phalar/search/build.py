"""Build and update an index: hear what is new, keep what is known, say what is broken."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from phalar import audio
from phalar.model.similarity import SEARCH_DIMENSIONS
from phalar.progress import track
from phalar.search import approximate, known, store
from phalar.search.store import Entry, Facts, State
from phalar.search.windows import Grid, cut, is_silent

if TYPE_CHECKING:
    from phalar.model import Phalar

logger = logging.getLogger(__name__)

SUFFIXES = frozenset(
    {".wav", ".wave", ".w64", ".rf64", ".aif", ".aiff", ".aifc", ".caf", ".au", ".flac", ".mp3"}
    | {".ogg", ".oga", ".opus"}
)
"""What libsndfile reads and people keep stems in."""

CLIPS = 16
"""Windows that are embedded together."""

COMMIT_EVERY_S = 30.0
"""A killed update loses the work of this time at most."""

UNUSED = 0.25
"""Vectors are written anew when more than this share of them belongs to no file."""

ROW_BYTES = 4 * SEARCH_DIMENSIONS

Waiting = tuple[Path, os.stat_result]
"""A file that has to be read."""


@dataclass(frozen=True, slots=True)
class Built:
    """What an update did."""

    heard: int = 0
    """Files that were embedded."""
    kept: int = 0
    """Files that were known, and are as they were."""
    moved: int = 0
    """Files whose content was known, under another path or with a new date."""
    removed: int = 0
    """Files that are gone."""
    broken: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason of every file that cannot be heard."""


def update(
    library: Path,
    folder: Path,
    model: Phalar,
    *,
    model_name: str,
    model_sha256: str,
    grid: Grid | None = None,
    codes: bool | None = None,
) -> Built:
    """Bring the index of a library up to date, or make it.

    Files are told by their content: one that only moved keeps its vectors. A file whose size and
    date are as they were is taken as unchanged. Interrupted, it goes on where it was.

    Parameters
    ----------
    library : Path
        A folder with sound files at any depth; links to folders are not followed.
    folder : Path
        Of the index.
    model : Phalar
        From `phalar.load_model`.
    model_name, model_sha256 : str
        How the model is named, and the digest of its weights.
    grid : Grid, optional
        What of a sound is heard; None takes that of the index, for a new one the usual.
    codes : bool, optional
        Whether the index has codes, for approximate search; None leaves it as it was, and a new
        one gets them when it is large (`approximate.FROM_ROWS`).

    Raises
    ------
    FileNotFoundError
        The library is no folder.
    ValueError
        The index was made with another model or grid, is damaged, or is being written.
    """
    if not library.is_dir():
        raise FileNotFoundError(f"{library}: no such folder; give the folder of your stems")
    with store.locked(folder):
        facts = _facts(library, folder, model_name, model_sha256, grid)
        if codes is not None and codes != facts.codes:
            facts = replace(facts, codes=codes)
            store.write_facts(folder, facts)
        entries, state = [], State()
        if (folder / store.TABLE).is_file():
            index = store.open_index(folder)
            entries, state = index.entries, index.state
        built = _Update(facts, folder, model, entries, state).run()
        approximate.refresh(folder, model)
        return built


def sound_files(library: Path) -> Iterator[Path]:
    """Find the sound files of a folder tree in a fixed order; hidden ones are left alone."""
    for place, folders, files in os.walk(library):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(place, name)


def file_sha256(path: Path) -> str:
    """Digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def embed_windows(
    model: Phalar, windows: Iterator[NDArray[np.float32]]
) -> Iterator[tuple[NDArray[np.float32], list[bool]]]:
    """Give the vectors (B, 1024) of windows, a few at a time, and which of them are silent."""
    while batch := list(islice(windows, CLIPS)):
        silent = [is_silent(window) for window in batch]
        z = model.embed(np.stack(batch), audio.SAMPLE_RATE_HZ)
        yield model.search_vectors(z).cpu().numpy(), silent


def _facts(
    library: Path, folder: Path, model_name: str, model_sha256: str, grid: Grid | None
) -> Facts:
    """Read what the index was made with, or decide it for a new one."""
    if not (folder / store.FACTS).is_file():
        facts = Facts(library, model_name, model_sha256, grid or Grid())
        store.write_facts(folder, facts)
        return facts
    facts = store.read_facts(folder)
    if facts.model_sha256 != model_sha256:
        raise ValueError(
            f"{folder}: made with the model {facts.model} ({facts.model_sha256[:12]}), not "
            f"{model_name} ({model_sha256[:12]}); name that one with --model, or hear all with "
            "this one: `phalar index build` with --anew"
        )
    if grid not in (None, facts.grid):
        raise ValueError(
            f"{folder}: has windows of {facts.grid.window_s:g} s every {facts.grid.hop_s:g} s; "
            "others need all to be heard again: `phalar index build` with --anew"
        )
    if facts.library.resolve() != library.resolve():
        raise ValueError(
            f"{folder}: is the index of {facts.library}, not of {library}; name another folder "
            "for this one's with --index"
        )
    return facts


class _Update:
    """One update: what is known, what was found, and the file that vectors are added to."""

    def __init__(
        self, facts: Facts, folder: Path, model: Phalar, entries: list[Entry], state: State
    ) -> None:
        self.facts, self.folder, self.model = facts, folder, model
        self.by_path = {entry.path: entry for entry in entries}
        self.by_content = {entry.sha256: entry for entry in entries if entry.reason is None}
        self.state = state
        self.done: dict[str, Entry] = {}
        self.counts = {"heard": 0, "kept": 0, "moved": 0}

    def run(self) -> Built:
        """Hear every file that is not known, and commit now and then."""
        waiting = self._look()
        path = self.folder / self.state.vectors
        with path.open("r+b" if path.exists() else "w+b") as vectors:
            # What follows the last row is of an update that was cut short.
            vectors.truncate(self.state.rows * ROW_BYTES)
            vectors.seek(0, os.SEEK_END)
            self._hear_all(waiting, vectors)
        there = {entry.sha256 for entry in self.done.values()}
        removed = {
            entry.sha256
            for name, entry in self.by_path.items()
            if name not in self.done and entry.sha256 not in there
        }
        self._commit(self._compacted([*self.done.values()]))
        broken = [(e.path, e.reason) for e in self.done.values() if e.reason is not None]
        return Built(**self.counts, removed=len(removed), broken=sorted(broken))

    def _look(self) -> dict[str, Waiting]:
        """List the files that have to be read; what is as it was, or cannot be, is done."""
        waiting: dict[str, Waiting] = {}
        for path in sound_files(self.facts.library):
            relative = path.relative_to(self.facts.library).as_posix()
            name = os.fsencode(relative).decode("utf-8", "backslashreplace")
            try:
                if name != relative:
                    raise OSError(0, "its name is not UTF-8; rename it")
                status = path.stat()
            except OSError as error:
                self.done[name] = _broken(name, "", f"cannot be read: {error.strerror}")
                continue
            entry = self.by_path.get(name)
            if entry and (entry.bytes, entry.modified_ns) == (status.st_size, status.st_mtime_ns):
                self.done[name] = entry
                self.counts["kept"] += 1
            else:
                waiting[name] = (path, status)
        return waiting

    def _hear_all(self, waiting: dict[str, Waiting], vectors: BinaryIO) -> None:
        megabytes = {name: max(1, status.st_size >> 20) for name, (_, status) in waiting.items()}
        last = time.monotonic()
        with track(sum(megabytes.values()), "index", unit="MB") as tick:
            try:
                for name, (path, status) in waiting.items():
                    self.done[name] = self._entry(name, path, status, vectors)
                    tick(megabytes[name])
                    if time.monotonic() - last > COMMIT_EVERY_S:
                        self._commit_so_far(vectors)
                        last = time.monotonic()
            finally:
                # Also when interrupted: what was heard is kept.
                self._commit_so_far(vectors)

    def _commit_so_far(self, vectors: BinaryIO) -> None:
        vectors.flush()
        os.fsync(vectors.fileno())
        self.state = replace(self.state, rows=vectors.tell() // ROW_BYTES)
        # What is not yet looked at stays known until the end.
        self._commit([*({**self.by_path, **self.done}).values()])

    def _entry(self, name: str, path: Path, status: os.stat_result, vectors: BinaryIO) -> Entry:
        """Give the entry of a file: that of its content where it is known, else a new one."""
        try:
            sha256 = file_sha256(path)
        except OSError as error:
            return _broken(name, "", f"cannot be read: {error.strerror}")
        columns: dict[str, Any] = {
            "path": name,
            "bytes": status.st_size,
            "modified_ns": status.st_mtime_ns,
        }
        if same := self.by_content.get(sha256):
            self.counts["moved"] += 1
            return replace(same, **columns, **known.told(name, path, known.heard_of(same)))
        start = vectors.tell()
        try:
            samples, windows, silent, first = self._hear(path, vectors)
        except (ValueError, OSError) as error:
            vectors.seek(start)
            vectors.truncate()
            reason = str(error).removeprefix(f"{path}: ")
            return replace(_broken(name, sha256, reason), **columns)
        self.counts["heard"] += 1
        row = start // ROW_BYTES
        seconds = samples / audio.SAMPLE_RATE_HZ
        entry = Entry(
            **columns,
            **known.told(name, path, known.heard(first)),
            sha256=sha256,
            seconds=seconds,
            first=row,
            windows=windows,
            silent=silent,
            reason=None,
        )
        self.by_content[sha256] = entry
        return entry

    def _hear(
        self, path: Path, vectors: BinaryIO
    ) -> tuple[int, int, tuple[int, ...], NDArray[np.float32]]:
        """Append the vectors of a file; give its length, their number, the silent, its start."""
        samples, first = 0, np.empty(0, np.float32)

        def counted() -> Iterator[NDArray[np.float32]]:
            nonlocal samples, first
            for block in audio.blocks_mono(path):
                first = block if samples == 0 else first
                samples += len(block)
                yield block

        windows, silent = 0, []
        for rows, quiet in embed_windows(self.model, cut(counted(), self.facts.grid)):
            vectors.write(np.ascontiguousarray(rows, np.float32).tobytes())
            silent += [windows + place for place, is_quiet in enumerate(quiet) if is_quiet]
            windows += len(rows)
        if len(silent) == windows:
            raise ValueError("holds silence only")
        return samples, windows, tuple(silent), first

    def _compacted(self, entries: list[Entry]) -> list[Entry]:
        """Write the vectors anew without those of no file, where these are many."""
        blocks = sorted({(e.first, e.windows) for e in entries if e.windows})
        used, rows = sum(windows for _, windows in blocks), 0
        path = self.folder / self.state.vectors
        vectors = store.map_vectors(path)
        if used >= (1 - UNUSED) * len(vectors):
            return entries
        number = int(path.stem.rpartition("-")[2]) + 1
        self.state = State(f"vectors-{number}.f32", used)
        moved: dict[int, int] = {}
        with (self.folder / self.state.vectors).open("wb") as file:
            for first, windows in blocks:
                vectors[first : first + windows].tofile(file)
                moved[first] = rows
                rows += windows
            os.fsync(file.fileno())
        return [replace(e, first=moved[e.first]) if e.windows else e for e in entries]

    def _commit(self, entries: list[Entry]) -> None:
        store.write_table(self.folder, entries, self.state)
        for other in self.folder.glob("vectors-*.f32"):
            if other.name != self.state.vectors:
                other.unlink()


def _broken(name: str, sha256: str, reason: str) -> Entry:
    """Give the entry of a file that cannot be heard."""
    return Entry(name, sha256, -1, -1, 0.0, 0, 0, (), reason=reason)
