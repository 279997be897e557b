"""Where music comes from: the table of sources, and what each of their modules offers."""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from phalar.params import Download
from phalar.tracks import Track

SOURCES = {name: f"phalar.sources.{name}" for name in Download.model_fields if name != "fetch"}
"""Modules by name. A new source is a module with what `Source` names, a line in `Download` and in
`Prepare` of phalar/params/data.py, and its folder in `needs/`: nothing that other sources need."""

INSTRUMENTS = (
    "piano",
    "mallets",
    "organ",
    "guitar",
    "bass",
    "strings",
    "voice",
    "brass",
    "reeds",
    "pipes",
    "lead",
    "pad",
    "plucked",
    "percussion",
    "effects",
    "drums",
    "other",
)
"""Families of instruments that all sources share."""


class Unwanted(Exception):  # noqa: N818 - nothing is wrong with such a track
    """A track is sound but not what this source is for; the message says why."""


@dataclass(frozen=True, slots=True)
class File:
    """A downloaded file and where it is from."""

    path: str
    """Below the source's download folder, with `/`."""
    url: str
    """Address, or package URL such as `pkg:pypi/music21@10.5.1#music21/corpus/bach/bwv1.6.mxl`."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A published archive, fetched and unpacked, or one that the user has."""

    name: str
    """Path, unique within the source; where it may be found below `download.fetch.have`."""
    url: str
    into: str
    """Folder below the source's download folder that it is unpacked into."""
    wanted: str
    """Regular expression for the names of members that are of use."""
    size_bytes: int | None = None
    md5: str | None = None
    sha256: str | None = None
    path: Path | None = None
    """Where the user has it; it is not fetched then, and stays."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder of the user's, whose files are linked and never changed."""

    path: Path
    into: str
    wanted: str

    @property
    def name(self) -> str:
        """What it is called in the receipt."""
        return self.path.name


@dataclass(frozen=True, slots=True)
class Entry:
    """A track that can be made."""

    track: str
    """Name, unique within the source, of `[A-Za-z0-9_-]`."""
    files: tuple[str, ...]
    """What it is made from: paths below the source's download folder."""
    rendition: int = 0
    """Which performance, where a score is played several times."""
    split: str | None = None
    """Where the list of tracks decides it, and no hash."""


@dataclass(frozen=True, slots=True)
class Job:
    """What `make` needs to know about a track besides its scan."""

    source: str
    entry: Entry
    song: str
    split: str
    licence: str
    seed: int
    source_files: tuple[tuple[str, str], ...]

    def rng(self) -> np.random.Generator:
        """Chance of this track alone, whatever else is made and in whatever order."""
        first = hashlib.sha256("/".join([self.source, *self.entry.files]).encode()).digest()
        words = [self.seed, self.entry.rendition, *np.frombuffer(first, dtype="<u4").tolist()]
        return np.random.default_rng(words)


class Source(Protocol):
    """The functions of a source's module. `params` is its own section of params.yaml.

    A source that comes in archives or lies in a folder of the user's has, in the place of
    `download`, `pieces(params, root) -> list[Archive | Tree]`, where `root` is the folder that the
    user's relative paths start from, and `published.obtain`. One of recorded tracks also has
    `recorded.hear` and `recorded.findings`, for findings.json; where a scan has a `split` or a
    `split_key`, the split goes by that, and else by the song.
    """

    LICENCE: str
    """SPDX name and what it covers."""
    CREDITS: str
    """Who made the music, and where it is at home."""

    def download(self, params: Any, folder: Path, /) -> list[File]:
        """Put everything into an empty folder, or into one that an earlier try left."""

    def find(self, folder: Path, params: Any, /) -> list[Entry]:
        """List the tracks that there could be, in an order that never changes."""

    def scan(self, folder: Path, files: tuple[str, ...], /) -> Any:
        """Read what `songs` and `make` need; `Unwanted` or `ValueError` drops the track."""

    def songs(self, scans: Sequence[Any], /) -> list[str]:
        """Name the song of each scan; variants of one song share it."""

    def make(self, job: Job, scan: Any, folder: Path, params: Any, /) -> Track:
        """Make the track; `Unwanted` or `ValueError` drops it."""


def slug(name: str) -> str:
    """Turn any name into one for a track; two names stay two, whatever others there are."""
    plain = re.sub("[^A-Za-z0-9_-]+", "-", name)
    if plain == name:
        return plain
    return f"{plain.strip('-')[:60]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def load(name: str) -> Source:
    """Import the module of a source.

    Raises
    ------
    ValueError
        There is no such source; the message lists those there are.
    OSError
        A package that the source needs is not installed.
    """
    if name not in SOURCES:
        raise ValueError(f"source {name!r} is unknown; choose from {', '.join(SOURCES)}")
    try:
        return cast(Source, importlib.import_module(SOURCES[name]))
    except ImportError as error:
        raise OSError(
            f"source {name!r} needs the package {error.name}; `pip install 'phalar[embedded]'`"
        ) from error
