"""Publish a stage's big files to an object store, and leave a manifest in their place.

A stage writes on this disk as always; this comes last. An object's name holds the beginning of its
SHA-256, so nothing is ever overwritten, and an older manifest still finds its data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from phalar import pool, progress, store

UPLOADS = 4
"""Files on their way at once: most of the time of each is waiting."""
S3_PARTS = {"chunksize": 16 << 20, "max_concurrency": 4}
"""In how many bytes a file goes to S3, and how many such parts at once: they lie in memory."""
HASH_DIGITS = 16


def publish(folder: Path, names: Sequence[str], uri: str, stage: str) -> list[store.Remote]:
    """Upload files, unless they are there, and write the manifest; the files themselves stay.

    A file is uploaded under another name, read back, and renamed where its SHA-256 is right: what
    has its name in the store is whole, whenever this is killed, and a rerun uploads only the rest.

    Parameters
    ----------
    folder : Path
    names : list of str
        Paths below `folder`.
    uri : str
        What the addresses begin with, such as `s3://bucket/phalar/render`.
    stage : str
        For the progress line and errors.

    Raises
    ------
    StoreError
        The store cannot be reached, or did not keep what it was given.
    """
    remotes = []
    with (
        pool.threads(UPLOADS, stage) as mapper,
        progress.track(len(names), f"publish {stage}", unit="files") as tick,
    ):
        for remote in mapper(partial(_upload, folder, uri), names):
            remotes.append(remote)
            tick(1)
    part = folder / f"{store.MANIFEST}.part"
    part.write_text(json.dumps([asdict(remote) for remote in remotes], indent=1) + "\n")
    part.replace(folder / store.MANIFEST)
    return remotes


def _upload(folder: Path, uri: str, name: str) -> store.Remote:
    path = folder / name
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    place = Path(name)
    unique = place.with_name(f"{place.stem}-{sha256[:HASH_DIGITS]}{place.suffix}")
    remote = store.Remote(name, f"{uri}/{unique.as_posix()}", path.stat().st_size, sha256)
    if _size(remote.url) == remote.bytes:
        return remote
    aside = store.Remote(name, f"{remote.url}.part", remote.bytes, sha256)
    there = store.open_store(aside.url)
    with store.told(aside.url):
        if there.protocol == ("file", "local"):
            there.makedirs(aside.url.rpartition("/")[0], exist_ok=True)
        there.put_file(str(path), aside.url, **(S3_PARTS if "s3" in there.protocol else {}))
    if store.sum_of(aside) != sha256:
        raise store.StoreError(f"{aside.url}: has other bytes than {path}; run again")
    with store.told(remote.url):
        there.mv(aside.url, remote.url)
    return remote


def _size(url: str) -> int | None:
    there = store.open_store(url)
    with store.told(url):
        try:
            return int(there.info(url)["size"])
        except FileNotFoundError:
            return None
