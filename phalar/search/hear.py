"""Hear a sound file: its digest, the vectors of its windows, and whether a failure may pass."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phalar import audio
from phalar.search import estimate
from phalar.search.windows import Grid, Sound, cut, is_silent

if TYPE_CHECKING:
    from phalar.model import Phalar

CLIPS = 16
"""Windows that are embedded together."""

SYSTEM_ERROR = 2
"""libsndfile's code of what the system refused: the sound itself may be good."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What was heard of a file."""

    vectors: NDArray[np.float32]
    """(W, 1024), one a window."""
    silent: tuple[int, ...]
    """Windows in which there is nothing to hear."""
    seconds: float
    first: Sound
    """Its start, all of `estimate.HEARD_S` if it is as long."""


def hear(model: Phalar, path: Path, *, grid: Grid, status: os.stat_result, sha256: str) -> Heard:
    """Hear a file.

    Parameters
    ----------
    model : Phalar
        From `phalar.load_model`.
    path : Path
    grid : Grid
        Where its windows lie.
    status : os.stat_result
        Of the file before anything of it was read.
    sha256 : str
        Its digest.

    Raises
    ------
    ValueError
        It cannot be heard as it is: it is damaged, too short, or silent.
    OSError
        It could not be read, or was written meanwhile: that may pass.
    """
    samples, first, most = 0, [], round(estimate.HEARD_S * audio.SAMPLE_RATE_HZ)

    def counted() -> Iterator[Sound]:
        nonlocal samples
        for block in audio.blocks_mono(path):
            if samples < most:
                first.append(block[: most - samples])
            samples += len(block)
            yield block

    vectors, silent = [], []
    try:
        for few, quiet in embed_windows(model, cut(counted(), grid)):
            vectors.append(np.ascontiguousarray(few, np.float32))
            silent += quiet
    except ValueError as error:
        # libsndfile may take what it could not read for damage: only bytes that are read once more,
        # and are the same, are damaged. It says of an empty MP3 that the system refuses it.
        if getattr(error.__cause__, "code", None) == SYSTEM_ERROR and status.st_size:
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from error
        if file_sha256(path) != sha256:
            raise _written() from error
        raise
    after = path.stat()
    if (after.st_size, after.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
        raise _written()
    if all(silent):
        raise ValueError("holds silence only")
    places = tuple(place for place, is_quiet in enumerate(silent) if is_quiet)
    seconds = samples / audio.SAMPLE_RATE_HZ
    return Heard(np.concatenate(vectors), places, seconds, np.concatenate(first))


def embed_windows(
    model: Phalar, windows: Iterator[Sound]
) -> Iterator[tuple[NDArray[np.float32], list[bool]]]:
    """Give the vectors (B, 1024) of windows, a few at a time, and which of them are silent."""
    while batch := list(islice(windows, CLIPS)):
        silent = [is_silent(window) for window in batch]
        z = model.embed(np.stack(batch), audio.SAMPLE_RATE_HZ)
        yield model.search_vectors(z).cpu().numpy(), silent


def file_sha256(path: Path) -> str:
    """Digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _written() -> OSError:
    """Say that what was heard is not what the digest is of."""
    return OSError(errno.EBUSY, "it was written while it was read")
