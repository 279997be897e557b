"""Build and update an index: hear what is new, keep what is known, say what is broken."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phalar.progress import track
from phalar.search import approximate, known, store, tags, terms, writing
from phalar.search.hear import file_sha256, hear
from phalar.search.look import Seen, look
from phalar.search.store import Entry, Facts, State
from phalar.search.vectors import Appender, compacted, unused_name
from phalar.search.windows import Grid

if TYPE_CHECKING:
    from phalar.model import Phalar

COMMIT_EVERY_S = 30.0
"""A killed update loses the work of this time at most."""

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
    unread: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason of files and folders that could not be read this time; what was heard of
    them before is kept."""


@dataclass(frozen=True, slots=True)
class How:
    """How an update goes about it."""

    codes: bool | None = None
    """Whether the index has codes, for approximate search; None leaves it as it was, and a new one
    gets them when it is large (`approximate.FROM_ROWS`)."""
    anew: bool = False
    """Drop what was heard, and hear all with this model and grid."""
    verify: bool = False
    """Read every file: one may have other bytes with the size and date that it had."""
    forget: bool = False
    """Forget also files that may only be out of reach, as those of a disk that is not mounted."""


USUAL = How()


def update(
    library: Path,
    folder: Path,
    model: Phalar,
    *,
    model_name: str,
    model_sha256: str,
    grid: Grid | None = None,
    how: How = USUAL,
) -> Built:
    """Bring the index of a library up to date, or make it.

    Files are told by their content: one that only moved keeps its vectors. A file whose size and
    date are as they were is taken as unchanged; of an index from before names or tags were read as
    they are now, these are read anew. Interrupted, it goes on where it was. A library
    that moved is followed, where most of its files are those that were heard.

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
    how : How
        What else is asked for.

    Raises
    ------
    FileNotFoundError
        The library is no folder.
    ImportError
        There is no tinytag, which the extra `search` installs.
    OSError
        The library cannot be listed, or the index not be written; what was heard is kept.
    ValueError
        The index was made with another model, grid or library, is damaged, or is being written;
        or there is nothing to hear any more.
    """
    tags.need_reader()
    terms.refuse_missing(library, folder)
    with writing.locked(folder):
        is_new = how.anew or not (folder / store.FACTS).is_file()
        entries, state = terms.known(folder, damaged_is_none=is_new)
        if is_new:
            facts = Facts(library, model_name, model_sha256, grid or Grid(), how.codes)
        else:
            facts = terms.agree(
                folder,
                entries,
                library=library,
                model_name=model_name,
                model_sha256=model_sha256,
                grid=grid,
            )
        if how.codes is not None:
            facts = replace(facts, codes=how.codes)
        seen = look(library)
        if not how.forget:
            terms.refuse_nothing(library, seen, entries)
        if is_new:
            entries, state = [], State(unused_name(folder))
            store.begin(folder, facts, state)
        elif facts != store.read_facts(folder):
            store.write_facts(folder, facts)
        built = _Update(facts, folder, model, entries, state, how).run(seen)
        approximate.refresh(folder, model)
        return built


class _Update:
    """One update: what is known, what was found, and the file that vectors are added to."""

    def __init__(
        self,
        facts: Facts,
        folder: Path,
        model: Phalar,
        entries: list[Entry],
        state: State,
        how: How,
    ) -> None:
        self.facts, self.folder, self.model, self.how = facts, folder, model, how
        self.by_path = {entry.path: entry for entry in entries}
        self.by_content = {entry.sha256: entry for entry in entries if entry.reason is None}
        self.state = state
        self.done: dict[str, Entry] = {}
        self.unread: dict[str, str] = {}
        self.is_all_read = True  # all names and tags, as they are read now
        self.counts = {"heard": 0, "kept": 0, "moved": 0}

    def run(self, seen: Seen) -> Built:
        """Hear every file that is not known, and commit now and then."""
        waiting = self._waiting(seen)
        vectors = Appender(self.folder, self.state)
        try:
            self._hear_all(waiting, vectors)
        finally:
            vectors.close()
        self._keep_hidden(seen)
        there = {entry.sha256 for entry in self.done.values()}
        removed = {
            entry.sha256
            for name, entry in self.by_path.items()
            if name not in self.done and entry.sha256 not in there
        }
        entries = [*self.done.values()]
        if self.is_all_read:
            self.state = replace(self.state, readings=known.READINGS)
        self._commit(entries)
        if fewer := compacted(self.folder, entries, self.state):
            entries, self.state = fewer
            self._commit(entries)
        broken = [(e.path, e.reason) for e in entries if e.reason and e.path not in self.unread]
        unread = sorted(self.unread.items())
        return Built(**self.counts, removed=len(removed), broken=sorted(broken), unread=unread)

    def _waiting(self, seen: Seen) -> dict[str, Waiting]:
        """List the files that have to be read; what is as it was, or cannot be, is done."""
        for name, reason in seen.refused.items():
            self.done[name] = _broken(name, "", reason)
        for name, reason in seen.unread.items():
            self.done[name] = self._out_of_reach(name, reason)
        is_old = self.state.readings < known.READINGS
        waiting: dict[str, Waiting] = {}
        for name, (path, status) in seen.there.items():
            entry = self.by_path.get(name)
            if entry and not self.how.verify and _is_as_it_was(entry, status):
                self.done[name] = known.told_anew(entry, path) if is_old else entry
                self.counts["kept"] += 1
            else:
                waiting[name] = (path, status)
        return waiting

    def _keep_hidden(self, seen: Seen) -> None:
        """Keep files of which nothing says that they are gone."""
        kept: dict[str, int] = {}
        for name in [] if self.how.forget else self.by_path.keys() - self.done.keys():
            if self.by_path[name].windows and (hidden := seen.hides(self.facts.library, name)):
                self.done[name] = self.by_path[name]
                self.is_all_read = False
                kept[hidden] = kept.get(hidden, 0) + 1
        for hidden in seen.unlisted.keys() | kept.keys():
            reason = seen.unlisted.get(hidden, "cannot be reached")
            files = f"; known files that are kept: {kept[hidden]}" if hidden in kept else ""
            self.unread[hidden] = f"{reason}{files}"

    def _hear_all(self, waiting: dict[str, Waiting], vectors: Appender) -> None:
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
                # Also when interrupted, or when the disk is full: what was heard is kept.
                self._commit_so_far(vectors)

    def _commit_so_far(self, vectors: Appender) -> None:
        vectors.sync()
        self.state = replace(self.state, rows=vectors.rows)
        # What is not yet looked at stays known until the end.
        self._commit([*({**self.by_path, **self.done}).values()])

    def _entry(self, name: str, path: Path, status: os.stat_result, vectors: Appender) -> Entry:
        """Give the entry of a file: that of its content where it is known, else a new one."""
        try:
            sha256 = file_sha256(path)
        except OSError as error:
            return self._out_of_reach(name, f"cannot be read: {error.strerror}")
        columns: dict[str, Any] = {
            "path": name,
            "bytes": status.st_size,
            "modified_ns": status.st_mtime_ns,
        }
        if same := self.by_content.get(sha256):
            before = self.by_path.get(name)
            is_kept = before and before.sha256 == sha256 and _is_as_it_was(before, status)
            self.counts["kept" if is_kept else "moved"] += 1
            return replace(same, **columns, **known.told(name, path, known.heard_of(same)))
        try:
            heard = hear(self.model, path, grid=self.facts.grid, status=status, sha256=sha256)
        except OSError as error:
            self.unread[name] = f"cannot be read: {error.strerror}"
            return _broken(name, sha256, self.unread[name])
        except ValueError as error:
            reason = str(error).removeprefix(f"{path}: ")
            return replace(_broken(name, sha256, reason), **columns)
        entry = Entry(
            **columns,
            **known.told(name, path, known.heard(heard.first)),
            sha256=sha256,
            seconds=heard.seconds,
            first=vectors.add(heard.vectors),
            windows=len(heard.vectors),
            silent=heard.silent,
            reason=None,
        )
        self.counts["heard"] += 1
        self.by_content[sha256] = entry
        return entry

    def _out_of_reach(self, name: str, reason: str) -> Entry:
        """Give the entry of a file that cannot be read now: the one it had, if it was heard."""
        self.unread[name] = reason
        before = self.by_path.get(name)
        if before and before.windows and not self.how.forget:
            self.is_all_read = False
            return before
        return _broken(name, "", reason)

    def _commit(self, entries: list[Entry]) -> None:
        store.write_table(self.folder, entries, self.state)
        for other in self.folder.glob("vectors-*.f32"):
            if other.name != self.state.vectors:
                other.unlink()


def _is_as_it_was(entry: Entry, status: os.stat_result) -> bool:
    """Whether a file has the size and date that it was heard with."""
    return (entry.bytes, entry.modified_ns) == (status.st_size, status.st_mtime_ns)


def _broken(name: str, sha256: str, reason: str) -> Entry:
    """Give the entry of a file that cannot be heard; without a date it is looked at again."""
    return Entry(name, sha256, -1, -1, 0.0, 0, 0, (), reason=reason)
