"""Whole pieces with their true beats: of the embedded sources always, of GTZAN where it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from phalar import audio, tracks
from phalar.params import Paths
from phalar.tracks import TrackIndex

SPLIT = "test"
SOUNDS = (".wav", ".au", ".flac", ".mp3")


@dataclass(frozen=True, slots=True)
class Piece:
    """One recording and what is known of it."""

    source: str
    name: str
    song: str
    beats_s: NDArray[np.float64]
    load: Callable[[], NDArray[np.float32]]
    """Decodes the mix: mono (N,) at `audio.SAMPLE_RATE_HZ`."""


def of_source(paths: Paths, source: str, songs: int) -> list[Piece]:
    """List one track each of the first so many held-out songs of a prepared source with beats.

    Raises
    ------
    ValueError
        The source is not prepared, or none of its tracks has beats.
    """
    first: dict[str, tuple[TrackIndex, NDArray[np.float64]]] = {}
    for index in tracks.read_index(paths.prepare(source), SPLIT):
        beats_s = _beats(index)
        if len(beats_s) > 1:
            first.setdefault(index.song, (index, beats_s))
    if not first:
        raise ValueError(f"{paths.prepare(source)}: no track of {SPLIT} says where its beats are")
    return [
        Piece(source, index.track, song, beats_s, partial(_mix, index))
        for song, (index, beats_s) in list(first.items())[:songs]
    ]


def of_gtzan(folder: Path) -> list[Piece]:
    """List the recordings below a folder that have a file of beats: `blues.00000.wav` and so on.

    Beats are `*.beats` (as of the project Beat This!): a line a beat that begins with its time.

    Raises
    ------
    ValueError
        There is no such folder, or no recording in it has beats.
    """
    advice = (
        "put GTZAN's sound and the beat annotations of the project Beat This! (*.beats) below it"
    )
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; {advice}")
    beats = {_key(path): path for path in folder.rglob("*.beats")}
    sounds = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SOUNDS)
    found = [
        Piece(
            "gtzan", path.stem, path.stem, _read(beats[_key(path)]), partial(audio.load_mono, path)
        )
        for path in sounds
        if _key(path) in beats
    ]
    if not found:
        raise ValueError(f"{folder}: no recording with beats; {advice}")
    return found


def _key(path: Path) -> str:
    """`blues.00000.wav` and `gtzan_blues_00000.beats` are of one recording."""
    return re.sub(r"[^a-z0-9]", "", path.stem.lower()).removeprefix("gtzan")


def _read(path: Path) -> NDArray[np.float64]:
    try:
        lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
        return np.array([float(words[0]) for words in lines])
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a list of beats ({error})") from error


def _beats(index: TrackIndex) -> NDArray[np.float64]:
    with pq.ParquetFile(index.path) as file:
        column = file.read_row_group(index.row_group, columns=["beats_s"])["beats_s"]
    return np.array(column[0].as_py() or [], dtype=np.float64)


def _mix(index: TrackIndex) -> NDArray[np.float32]:
    return np.asarray(tracks.read_stems(index).sum(axis=0), dtype=np.float32)
