"""Get the pieces of a published source: archives, several at once, or a folder of the user's."""

from __future__ import annotations

import json
import logging
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phalar import pool, receipt
from phalar.params import Fetch
from phalar.receipt import Record
from phalar.sources import Archive, Tree, fetch
from phalar.sources.unpack import unpack

logger = logging.getLogger(__name__)

NOTES = ".notes"
"""Folder aside with what each piece was found to be; gone when the receipt says it all."""


def obtain(
    pieces: Sequence[Archive | Tree], aside: Path, settings: Fetch, *, over: pool.Over
) -> Record:
    """Get every piece, several at once; what an earlier run left of them in `aside` is kept.

    Returns
    -------
    dict
        `archives` and `files`, as the receipt says them.

    Raises
    ------
    ValueError
        An archive is not safe to unpack, or holds nothing of use.
    OSError
        A piece cannot be fetched, is not what it should be, or cannot be written.
    """
    stop = threading.Event()
    (aside / NOTES).mkdir(exist_ok=True)
    with fetch.client(settings) as web, over(settings.workers, "download") as mapper:
        getter = _Getter(settings, aside, _earlier(aside), web, stop)
        try:
            got = list(mapper(getter.get, pieces))
        except BaseException:
            # What else is on its way need not come to its end before the reason is told.
            stop.set()
            raise
    files = [file for note in got for file in note["files"]]
    return {"archives": [note["archive"] for note in got], "files": files}


def _earlier(aside: Path) -> Record:
    """Receipt that a damaged download left, by which its whole pieces are told."""
    try:
        return receipt.read_receipt(aside)
    except ValueError:
        return {"files": [], "archives": []}


@dataclass(frozen=True, slots=True)
class _Getter:
    """What the transfers of a source share."""

    settings: Any
    aside: Path
    earlier: Record
    web: Any = field(repr=False)
    stop: threading.Event = field(repr=False)

    def get(self, piece: Archive | Tree) -> Record:
        """Put a piece's files into place, unless they are there; return what is known of them."""
        note = self.aside / NOTES / f"{re.sub('[^A-Za-z0-9._-]', '-', piece.name)}.json"
        if isinstance(piece, Tree):
            return {"archive": {"name": piece.name, "url": piece.path.absolute().as_uri()}} | {
                "files": list(_link(piece, self.aside))
            }
        record = self._noted(note, piece) or self._whole(piece) or self._unpack(piece)
        part = note.with_suffix(".part")
        part.write_text(json.dumps(record))
        part.replace(note)
        return record

    def _noted(self, note: Path, piece: Archive) -> Record | None:
        """What a run before this one noted when the piece was in place."""
        if not note.exists():
            return None
        record: Record = json.loads(note.read_text())
        sizes = ((self.aside / file["path"], file["bytes"]) for file in record["files"])
        whole = all(path.is_file() and path.stat().st_size == size for path, size in sizes)
        return record if whole and record["archive"]["url"] == piece.url else None

    def _whole(self, piece: Archive) -> Record | None:
        """What a damaged download still holds of a piece, where that is all of it."""
        for archive in self.earlier.get("archives", []):
            if archive["name"] == piece.name and archive["url"] == piece.url:
                files = [f for f in self.earlier["files"] if f.get("archive") == piece.name]
                if all(receipt.fault(self.aside, file) is None for file in files):
                    return {"archive": archive, "files": files}
        return None

    def _unpack(self, piece: Archive) -> Record:
        """Fetch and unpack a piece, and let the archive go if it is not the user's."""
        before = {a["name"]: a.get("sha256") for a in self.earlier.get("archives", [])}
        got = fetch.obtain(
            piece,
            self.aside,
            self.settings,
            web=self.web,
            sha256=before.get(piece.name),
            stop=self.stop,
        )
        logger.info("download: unpacking %s", got.path)
        final = self.aside / piece.into
        staged = final.with_name(f"{final.name}.staged")
        shutil.rmtree(staged, ignore_errors=True)
        members = unpack(got.path, staged, wanted=piece.wanted)
        if not members:
            raise ValueError(f"{got.path}: holds no file of this source; get the right archive")
        shutil.rmtree(final, ignore_errors=True)
        staged.replace(final)
        if got.path.is_relative_to(self.aside):
            got.path.unlink()
        sums = {"bytes": got.bytes, "md5": got.md5, "sha256": got.sha256}
        files = [
            {
                "path": f"{piece.into}/{member.path}",
                "url": f"{piece.url}#{member.path}",
                "archive": piece.name,
                "bytes": member.bytes,
                "sha256": member.sha256,
            }
            for member in members
        ]
        return {"archive": {"name": piece.name, "url": piece.url} | sums, "files": files}


def _link(tree: Tree, aside: Path) -> Iterator[Record]:
    """Link the wanted files of a user's folder, which stays as it is."""
    into = aside / tree.into
    shutil.rmtree(into, ignore_errors=True)
    found = False
    for path in sorted(tree.path.rglob("*")):
        name = path.relative_to(tree.path).as_posix()
        if path.is_dir() or not re.fullmatch(tree.wanted, name):
            continue
        if not path.is_file():
            raise ValueError(f"{path}: a link to nothing or no file; mend or remove it")
        found = True
        link = into / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.absolute())
        yield {
            "path": f"{tree.into}/{name}",
            "url": path.absolute().as_uri(),
            "archive": tree.name,
            "bytes": path.stat().st_size,
            "sha256": receipt.file_sha256(path),
        }
    if not found:
        raise ValueError(f"{tree.path}: holds no file of this source; mend download.<source>.path")
