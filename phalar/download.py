"""Stage `download`: fetch a source once, and say of each file where it is from."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phalar import pool, sources
from phalar.params import Params
from phalar.sources import Archive, Tree, fetch
from phalar.sources.unpack import unpack

logger = logging.getLogger(__name__)

RECEIPT = "receipt.json"

NOTES = ".notes"
"""Folder aside with what each piece was found to be; gone when the receipt says it all."""

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Summary:
    """What lies in a source's download folder after the stage."""

    source: str
    files: int
    size_bytes: int
    fetched: bool
    """False where everything was there and whole."""


def run(params: Params, source: str, *, over: pool.Over = pool.threads) -> Summary:
    """Fetch a source aside and put it into place, unless it is there and whole.

    Pieces of a published source are fetched several at once; what an earlier run got of them, or
    what is still whole of a damaged download, is kept.

    Parameters
    ----------
    params : Params
    source : str
    over : callable
        What runs the transfers: `pool.threads`, or a stand-in that also records them.

    Raises
    ------
    ValueError
        There is no such source, or an archive is not safe to unpack.
    OSError
        It cannot be fetched, is not what params.yaml says, or cannot be written.
    """
    module: Any = sources.load(source)
    folder = params.paths.download(source)
    section = getattr(params.download, source)
    wanted = section.model_dump(mode="json")
    if folder.exists():
        try:
            receipt = read_receipt(folder)
            verify(folder, receipt, wanted)
        except ValueError as error:
            logger.info("download %s: %s", source, str(error).partition(";")[0])
        else:
            return _summary(receipt, fetched=False)
    aside = _open_aside(folder)
    receipt = {
        "source": source,
        "params": wanted,
        "licence": module.LICENCE,
        "credits": module.CREDITS,
    }
    if hasattr(module, "pieces"):
        pieces = module.pieces(section, params.paths.root.parent)
        receipt |= _get_all(params, pieces, aside, module.LICENCE, over)
    else:
        files = module.download(section, aside)
        receipt["files"] = [
            {
                "path": file.path,
                "url": file.url,
                "licence": module.LICENCE,
                "bytes": (aside / file.path).stat().st_size,
                "sha256": _sha256(aside / file.path),
            }
            for file in files
        ]
    part = aside / f"{RECEIPT}.part"
    part.write_text(json.dumps(receipt, indent=1) + "\n")
    part.replace(aside / RECEIPT)
    _drop_others(aside, receipt)
    aside.replace(folder)
    return _summary(receipt, fetched=True)


def _open_aside(folder: Path) -> Path:
    """Make the folder for what is not whole; it starts with what there is of a damaged download."""
    aside = folder.with_name(folder.name + ".part")
    if folder.exists() and not aside.exists():
        folder.replace(aside)
    elif folder.exists():
        shutil.rmtree(folder)
    aside.mkdir(parents=True, exist_ok=True)
    return aside


# ---- pieces of a published source --------------------------------------------------------------


def _get_all(
    params: Params, pieces: list[Archive | Tree], aside: Path, licence: str, over: pool.Over
) -> Record:
    """Get every piece, several at once; return what the receipt says of them."""
    settings, stop = params.download.fetch, threading.Event()
    (aside / NOTES).mkdir(exist_ok=True)
    with fetch.client(settings) as web, over(settings.workers, "download") as mapper:
        getter = _Getter(settings, aside, _earlier(aside), web, stop)
        try:
            got = list(mapper(getter.get, pieces))
        except BaseException:
            # What else is on its way need not come to its end before the reason is told.
            stop.set()
            raise
    files = [file | {"licence": licence} for note in got for file in note["files"]]
    return {"archives": [note["archive"] for note in got], "files": files}


def _earlier(aside: Path) -> Record:
    """Receipt that a damaged download left, by which its whole pieces are told."""
    try:
        return read_receipt(aside)
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
                if all(_fault(self.aside, file) is None for file in files):
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
            "sha256": _sha256(path),
        }
    if not found:
        raise ValueError(f"{tree.path}: holds no file of this source; mend download.<source>.path")


# ---- receipts ----------------------------------------------------------------------------------


def read_receipt(folder: Path) -> Record:
    """Read the receipt of a download folder.

    Raises
    ------
    ValueError
        It is missing or damaged.
    """
    path = folder / RECEIPT
    try:
        receipt = json.loads(path.read_text())
        _ = receipt["source"], receipt["params"]
        _ = [(file["path"], file["bytes"], file["sha256"]) for file in receipt["files"]]
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; run the download stage of this source") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); delete it and run download") from None
    return dict(receipt)


def verify(folder: Path, receipt: Record, wanted: Record) -> None:
    """Raise `ValueError` with the first reason why a download is not what it should be."""
    if receipt["params"] != wanted:
        raise ValueError(f"{folder} was made with {receipt['params']}, now {wanted} is wanted")
    for file in receipt["files"]:
        if fault := _fault(folder, file):
            raise ValueError(fault)


def _fault(folder: Path, file: Record) -> str | None:
    """Say what is wrong with a file of a receipt."""
    path = folder / file["path"]
    if not path.is_file():
        return f"{path} is missing"
    if path.stat().st_size != file["bytes"] or _sha256(path) != file["sha256"]:
        return f"{path} has other bytes than the receipt says"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _drop_others(folder: Path, receipt: Record) -> None:
    """Remove what an earlier try left and the receipt does not name."""
    named = {RECEIPT, *(file["path"] for file in receipt["files"])}
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in named:
            path.unlink()


def _summary(receipt: Record, *, fetched: bool) -> Summary:
    files = receipt["files"]
    return Summary(receipt["source"], len(files), sum(file["bytes"] for file in files), fetched)
