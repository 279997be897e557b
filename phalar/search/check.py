"""Whether the files of a library are still those that were heard."""

from __future__ import annotations

from phalar.progress import track
from phalar.search.build import file_sha256, sound_files
from phalar.search.store import Index


def differences(index: Index) -> list[tuple[str, str]]:
    """Compare every file with the index by its bytes.

    Parameters
    ----------
    index : Index
        From `open_index`.

    Returns
    -------
    list of (path, what)
        In order of path: files that are gone, changed, new, or cannot be read.
    """
    library = index.facts.library
    there = {path.relative_to(library).as_posix() for path in sound_files(library)}
    found = []
    with track(len(index.entries), "check", unit="files") as tick:
        for entry in index.entries:
            if entry.path not in there:
                found.append((entry.path, "gone"))
            elif entry.sha256:
                try:
                    if file_sha256(index.path_of(entry)) != entry.sha256:
                        found.append((entry.path, "changed"))
                except OSError as error:
                    found.append((entry.path, f"cannot be read: {error.strerror}"))
            tick()
    known = {entry.path for entry in index.entries}
    return sorted(found + [(path, "new") for path in there - known])
