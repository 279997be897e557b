"""Look through a library: which sound files are there, and what of it cannot be read just now."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

SUFFIXES = frozenset(
    {".wav", ".wave", ".w64", ".rf64", ".aif", ".aiff", ".aifc", ".caf", ".au", ".flac", ".mp3"}
    | {".ogg", ".oga", ".opus"}
)
"""What libsndfile reads and people keep stems in."""

KINDS = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
"""What may have the name of a sound file, and would never end; the rest are devices."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look through a library found; everything under its path below it, with `/`."""

    there: dict[str, tuple[Path, os.stat_result]] = field(default_factory=dict)
    """Files that can be heard, as far as their names and kinds tell."""
    refused: dict[str, str] = field(default_factory=dict)
    """Why others cannot, as long as they are what they are."""
    unread: dict[str, str] = field(default_factory=dict)
    """Files that the system does not let us reach now, with what it says."""
    unlisted: dict[str, str] = field(default_factory=dict)
    """Folders whose files it does not name now."""

    def hides(self, library: Path, name: str) -> str | None:
        """Give the folder or file that keeps us from telling whether `name`, not seen, is gone."""
        above = name
        while above := above.rpartition("/")[0]:
            if above in self.unlisted:
                return above
        try:
            os.lstat(library / name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            return name
        return None


def look(library: Path) -> Seen:
    """Look for the sound files of a library; what is wrong with one of them is told, not raised.

    Raises
    ------
    OSError
        The library itself cannot be listed.
    """
    seen = Seen()

    def unlisted(error: OSError) -> None:
        folder = Path(error.filename or library)
        if folder == library:
            raise OSError(
                f"{library}: cannot be listed ({error.strerror}); see to the disk, nothing was "
                "changed"
            ) from error
        seen.unlisted[_name(folder, library)] = f"cannot be listed: {error.strerror}"

    for path in sound_files(library, unlisted):
        name = _name(path, library)
        if name != path.relative_to(library).as_posix():
            seen.refused[name] = "cannot be read: its name is not UTF-8; rename it"
            continue
        try:
            status = path.stat()
        except OSError as error:
            seen.unread[name] = f"cannot be read: {error.strerror}"
            continue
        if stat.S_ISREG(status.st_mode):
            seen.there[name] = (path, status)
        else:
            kind = KINDS.get(stat.S_IFMT(status.st_mode), "a device")
            seen.refused[name] = f"is {kind}, no file; remove it"
    return seen


def sound_files(library: Path, unlisted: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """Find the sound files of a folder tree in a fixed order; hidden ones are left alone.

    `unlisted` is called with the error of each folder that cannot be listed.
    """
    for place, folders, files in os.walk(library, onerror=unlisted):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(place, name)


def _name(path: Path, library: Path) -> str:
    """Name a file as the index does: what is no text is written out."""
    return os.fsencode(path.relative_to(library).as_posix()).decode("utf-8", "backslashreplace")
