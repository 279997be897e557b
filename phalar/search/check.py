"""Whether the files of a library are still those that were heard."""

from __future__ import annotations

from pathlib import Path

from phalar.progress import track
from phalar.search.hear import file_sha256
from phalar.search.look import look
from phalar.search.store import Entry, Index

GONE, CHANGED, NEW, UNHEARD = "gone", "changed", "new", "not heard yet"


def differences(index: Index) -> list[tuple[str, str]]:
    """Compare every file with the index by its bytes.

    Parameters
    ----------
    index : Index
        From `open_index`.

    Returns
    -------
    list of (path, what)
        In order of path: files that are gone, changed, new, not heard yet because they could not
        be read, or cannot be now, and folders that cannot be listed. A file of which the index
        says why it cannot be heard is no difference as long as that is so.
    """
    library = index.facts.library
    seen = look(library)
    found = dict(seen.unlisted | seen.unread)
    with track(len(index.entries), "check", unit="files") as tick:
        for entry in index.entries:
            if entry.path in seen.there:
                what = _difference(seen.there[entry.path][0], entry)
            elif entry.path in seen.refused:
                what = None if entry.reason else seen.refused[entry.path]
            elif entry.path in seen.unread:
                what = seen.unread[entry.path]
            else:
                hidden = seen.hides(library, entry.path)
                # Of a folder that cannot be listed once is enough.
                what = "cannot be reached" if hidden == entry.path else None if hidden else GONE
            if what is not None:
                found[entry.path] = what
            tick()
    known = {entry.path for entry in index.entries}
    unknown = (seen.there.keys() | seen.refused.keys()) - known
    return sorted({**found, **dict.fromkeys(unknown, NEW)}.items())


def _difference(path: Path, entry: Entry) -> str | None:
    """Compare one file that is there."""
    try:
        is_same = file_sha256(path) == entry.sha256
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if entry.bytes < 0:
        # It was there, but could not be read.
        return UNHEARD
    return None if is_same else CHANGED
