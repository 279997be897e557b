"""Big files where they lie: on this disk, or in an object store, read by exact ranges of bytes.

Where a stage has published its parquet or shards, a small manifest stands in their place: name,
address, size and SHA-256 of each. Whoever reads asks for a file by its folder and name, and gets a
path or a `Remote`; both are opened alike.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

MANIFEST = "stored.json"

READ_BYTES = 8 << 20
"""What reading from start to end asks for at a time."""
CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, to one that may use it"
)


class StoreError(ConnectionError):
    """The store cannot be reached, refuses, or holds something else than its manifest says."""


class MissingError(StoreError):
    """The store answers that it does not hold a file."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file in a store."""

    name: str
    """Below the stage's folder, such as `train/000000.tar`."""
    url: str
    bytes: int
    sha256: str

    def __str__(self) -> str:
        return self.url


File = Path | Remote


def read_manifest(folder: Path) -> Mapping[str, Remote]:
    """Name the files of a folder that lie in a store; none where all are on this disk.

    Raises
    ------
    ValueError
        The manifest is damaged.
    """
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        return {entry["name"]: Remote(**entry) for entry in json.loads(path.read_text())}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path}: damaged ({error!r}); bring it back (dvc checkout) or run its stage again"
        ) from error


def find(folder: Path, pattern: str) -> list[File]:
    """List the files of a folder by name, wherever they lie."""
    here: dict[str, File] = {path.name: path for path in folder.glob(pattern)}
    there = read_manifest(folder)
    found = here | {name: remote for name, remote in there.items() if fnmatch(name, pattern)}
    return [found[name] for name in sorted(found)]


def read_ranges(wanted: Sequence[tuple[Remote, int, int]]) -> list[bytes]:
    """Read ranges of bytes from files of one store, all at once.

    Parameters
    ----------
    wanted : list of (Remote, first byte, byte behind the last)

    Raises
    ------
    StoreError
        A file cannot be read, or is shorter than a range.
    """
    if not wanted:
        return []
    remotes, starts, ends = zip(*wanted, strict=True)
    store = open_store(remotes[0].url)
    with told(remotes[0].url):
        urls = [remote.url for remote in remotes]
        found = store.cat_ranges(urls, list(starts), list(ends), on_error="return")
    for remote, start, end, content in zip(remotes, starts, ends, found, strict=True):
        with told(remote.url):
            if isinstance(content, BaseException):
                raise content
        if len(content) != end - start:
            raise StoreError(
                f"{remote.url}: is shorter than the {remote.bytes} bytes of the manifest; remove "
                f"it there and run its stage again"
            )
    return list(found)


def open_file(file: File) -> IO[bytes]:
    """Open a file to be read from start to end, wherever it lies."""
    if isinstance(file, Path):
        return file.open("rb")
    return io.BufferedReader(_Ranges(file), READ_BYTES)


def open_parquet(file: File) -> Any:
    """Open a parquet as pyarrow does, wherever it lies."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if isinstance(file, Path):
        return pq.ParquetFile(file)
    # Of the columns that are asked for, neighbours come in one request.
    return pq.ParquetFile(pa.PythonFile(_Ranges(file), mode="r"), pre_buffer=True)


class _Ranges(io.RawIOBase):
    """A remote file of which every read is one request, for exactly these bytes."""

    def __init__(self, remote: Remote) -> None:
        super().__init__()
        self._remote = remote
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._remote.bytes}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._remote.bytes)
        if end <= self._at:
            return 0
        (content,) = read_ranges([(self._remote, self._at, end)])
        self._at = end
        buffer[: len(content)] = content
        return len(content)


def check(remotes: Sequence[Remote]) -> None:
    """Compare the sizes of files with the manifest, by a listing of each folder of the store.

    Raises
    ------
    StoreError
        The store cannot be reached, or a file is missing or of another size.
    """
    found: dict[str, int] = {}
    for folder in {remote.url.rpartition("/")[0] for remote in remotes}:
        found |= _sizes(folder)
    for remote in remotes:
        size = found.get(remote.url)
        if size != remote.bytes:
            what = "is missing in the store" if size is None else f"has {size} bytes"
            raise StoreError(
                f"{remote.url}: {what}, must have {remote.bytes}; bring it back, or run its stage "
                f"again"
            )


def sum_of(file: File) -> str:
    """SHA-256 of the bytes of a file, read anew wherever it lies."""
    total = hashlib.sha256()
    with open_file(file) as stream:
        while chunk := stream.read(READ_BYTES):
            total.update(chunk)
    return total.hexdigest()


def _sizes(folder: str) -> dict[str, int]:
    """Sizes of what lies in a folder of a store, by address."""
    store = open_store(folder)
    with told(folder):
        store.invalidate_cache()
        try:
            entries = store.ls(folder, detail=True)
        except FileNotFoundError:
            return {}
    return {f"{folder}/{entry['name'].rpartition('/')[2]}": entry["size"] for entry in entries}


def open_store(url: str) -> Any:
    """Open the store that an address is in; once for a process, whatever thread asks."""
    scheme, _, rest = url.partition("://")
    return _open_root(f"{scheme}://{rest.partition('/')[0]}")


@lru_cache
def _open_root(root: str) -> Any:
    # Not needed, and not imported, where everything lies on this disk.
    import fsspec

    with told(root):
        try:
            return fsspec.url_to_fs(root)[0]
        except ImportError as error:
            raise StoreError(f"{root}: {error}; `pip install 'phalar[s3]'`") from error
        except ValueError as error:
            raise StoreError(f"{root}: no such kind of store ({error}); use s3://") from error


@contextmanager
def told(url: str) -> Iterator[None]:
    """Say in one line what a store did not do; what stores raise has no common base."""
    try:
        yield
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise MissingError(
            f"{url}: is not in the store; bring it back, or mend the store's address"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, PermissionError) or "credentials" in reason:
            raise StoreError(f"{url}: the store refuses ({reason}); {CREDENTIALS}") from error
        raise StoreError(
            f"{url}: the store does not answer ({reason}); check the network and its address "
            f"(AWS_ENDPOINT_URL where it is not Amazon's), then run again"
        ) from error
