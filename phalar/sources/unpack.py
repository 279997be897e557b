"""Unpack an archive of somebody else's: only files, only below one folder, each with its sum."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from phalar.sources import fetch

DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)


@dataclass(frozen=True, slots=True)
class Member:
    """A file that was unpacked."""

    path: str
    """Below the folder, with `/`."""
    bytes: int
    sha256: str


def unpack(archive: Path, folder: Path, *, wanted: str) -> list[Member]:
    """Unpack the wanted files of a tar (plain, gz, bz2, xz) or zip into a new folder.

    Nothing is trusted: the archive is refused as a whole where any member, wanted or not, would
    lie outside of the folder, or is a link, a device or anything but a file or a folder.

    Parameters
    ----------
    archive : Path
    folder : Path
        Made here; it is the caller's to rename when all is well.
    wanted : str
        Regular expression for whole member names; the others stay packed.

    Raises
    ------
    ValueError
        The archive is none, damaged, or has such a member.
    OSError
        The disk is full or cannot be written.
    """
    folder.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(archive):
            return list(_unpack_zip(archive, folder, re.compile(wanted)))
        return list(_unpack_tar(archive, folder, re.compile(wanted)))
    except FileExistsError as error:
        raise ValueError(f"{archive}: holds {error.filename} twice; get another copy") from error
    except DAMAGED as error:
        raise ValueError(
            f"{archive}: not a whole tar.gz, tar.bz2 or zip ({error}); get it again"
        ) from error
    except OSError as error:
        # What the decompressors raise for foreign bytes has no errno.
        if error.errno is None:
            raise ValueError(f"{archive}: damaged ({error}); get it again") from error
        raise


def _unpack_tar(archive: Path, folder: Path, wanted: re.Pattern[str]) -> Iterator[Member]:
    # Not tarfile's own decompression: that does not look at the checksum in the end.
    with _decompressed(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            kind = "" if member.isreg() or member.isdir() else "a link, a device or the like"
            name = _safe(archive, member.name, kind)
            if member.isreg() and wanted.fullmatch(name):
                content = tar.extractfile(member)
                if content is None:
                    raise tarfile.ReadError(f"{name} has no content")
                yield _write(content, folder, name)
        while stream.read(fetch.CHUNK_BYTES):
            pass


def _decompressed(archive: Path) -> IO[bytes]:
    """Open an archive as what its first bytes say it is."""
    with archive.open("rb") as file:
        start = file.read(6)
    for magic, module in ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ\0", lzma)):
        if start.startswith(magic):
            return cast(IO[bytes], module.open(archive, "rb"))
    return archive.open("rb")


def _unpack_zip(archive: Path, folder: Path, wanted: re.Pattern[str]) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        for member in members:
            mode = stat.S_IFMT(member.external_attr >> 16)
            odd = mode not in (0, stat.S_IFREG, stat.S_IFDIR)
            _safe(archive, member.filename, "a link or the like" if odd else "")
        chosen = [m for m in members if not m.is_dir() and wanted.fullmatch(_plain(m.filename))]
        _refuse_space(archive, folder, sum(member.file_size for member in chosen))
        for member in chosen:
            if member.flag_bits & 1:
                raise ValueError(f"{archive}: {member.filename} is encrypted; get another copy")
            with file.open(member) as content:
                yield _write(content, folder, _plain(member.filename))


def _write(content: IO[bytes], folder: Path, name: str) -> Member:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    size, sha256 = fetch.copy(content, target)
    return Member(name, size, sha256)


def _plain(name: str) -> str:
    return PurePosixPath(name).as_posix()


def _safe(archive: Path, name: str, kind: str) -> str:
    """Return a member's name without `./`; refuse the archive where it is not harmless."""
    path = PurePosixPath(name)
    if kind:
        why = f"is {kind}"
    elif path.is_absolute() or ".." in path.parts or "\\" in name or ":" in path.parts[:1]:
        why = "would lie outside of the folder"
    elif re.match(r"[A-Za-z]:", name) or "\0" in name:
        why = "has a name that is none here"
    else:
        return path.as_posix()
    raise ValueError(f"{archive}: member {name!r} {why}; do not trust it, get another copy")


def _refuse_space(archive: Path, folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise OSError(
            f"{archive}: needs {needed_bytes / 1e9:.1f} GB unpacked, {free / 1e9:.1f} GB are free "
            f"at {os.fspath(folder)}; free space and run again"
        )
