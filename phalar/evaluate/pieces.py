"""Whole pieces with their true beats and chords: held-out tracks, GTZAN and GuitarSet."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from phalar import audio, tracks, withdrawn
from phalar.params import Paths
from phalar.tracks import TrackIndex

SPLIT = "test"
SOUNDS = (".wav", ".au", ".flac", ".mp3")

GTZAN = "put GTZAN's sound and the beats of the project Beat This! (*.beats) into one folder"
GUITARSET = (
    "unpack annotation.zip and audio_mono-mic.zip of https://zenodo.org/records/3371780 into one "
    "folder"
)
"""Where data come from that nobody may pass on, or that are no source of the line."""

INSTRUCTED = 0
"""Of a file's two lists of chords the first, what the players were given: it names the harmony in
triads and sevenths, one a bar or half. The second was inferred from the notes played, voicings with
omitted tones and all, for which the 24 triads have no name."""

Chord = tuple[float, float, str]
"""Start and end in seconds, and a label as of `tracks.Track.chords`."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One recording and what is known of it."""

    source: str
    name: str
    song: str
    """Recordings of one piece share it."""
    load: Callable[[], NDArray[np.float32]]
    """Decodes the mix: mono (N,) at `audio.SAMPLE_RATE_HZ`."""
    beats_s: Sequence[float] = ()
    chords: Sequence[Chord] = ()


def of_source(paths: Paths, source: str) -> list[Piece]:
    """List the held-out tracks of a prepared source that are not withdrawn.

    Raises
    ------
    ValueError
        The source is not prepared, or its parquet is damaged.
    """
    gone = withdrawn.read(paths.root.parent)
    found = []
    for index in tracks.read_index(paths.prepare(source), SPLIT):
        if f"{source}/{index.track}" not in gone:
            beats_s, chords = _annotations(index)
            mix = partial(_mix, index)
            found.append(Piece(source, index.track, index.song, mix, beats_s, chords))
    return found


def one_a_song(listed: list[Piece], songs: int) -> list[Piece]:
    """Keep the first recording of each of the first so many songs."""
    first: dict[str, Piece] = {}
    for piece in listed:
        first.setdefault(piece.song, piece)
    return list(first.values())[:songs]


def of_gtzan(folder: Path) -> list[Piece]:
    """List the recordings below a folder that have a file of beats: `blues.00000.wav` and so on.

    Beats are `*.beats` (as of the project Beat This!): a line a beat that begins with its time.

    Raises
    ------
    ValueError
        There is no such folder, or no recording in it has beats.
    """
    _need_folder(folder, GTZAN)
    beats = {_key(path): path for path in folder.rglob("*.beats")}
    sounds = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SOUNDS)
    found = [
        Piece("gtzan", path.stem, path.stem, partial(audio.load_mono, path), _beats(beats[key]))
        for path in sounds
        if (key := _key(path)) in beats
    ]
    if not found:
        raise ValueError(f"{folder}: no recording with beats; {GTZAN}")
    return found


def of_guitarset(folder: Path) -> list[Piece]:
    """List the accompaniments below a folder: `00_BN1-129-Eb_comp.jams` and `..._comp_mic.wav`.

    The first two digits are the player; what follows, style, progression, tempo and key, is the
    piece that six players share.

    Raises
    ------
    ValueError
        There is no such folder, no accompaniment in it, one without its sound, or a damaged file.
    """
    _need_folder(folder, GUITARSET)
    sounds = {path.name: path for path in folder.rglob("*_comp_mic.wav")}
    annotated = sorted(folder.rglob("*_comp.jams"))
    if not annotated:
        raise ValueError(f"{folder}: no *_comp.jams; {GUITARSET}")
    found = []
    for path in annotated:
        name = f"{path.stem}_mic.wav"
        if name not in sounds:
            raise ValueError(f"{folder}: {path.name} is there and {name} is not; {GUITARSET}")
        piece = path.stem.split("_")[1]
        load = partial(audio.load_mono, sounds[name])
        found.append(Piece("guitarset", path.stem, piece, load, chords=_jams_chords(path)))
    return found


def _need_folder(folder: Path, advice: str) -> None:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; {advice}")


def _key(path: Path) -> str:
    """`blues.00000.wav` and `gtzan_blues_00000.beats` are of one recording."""
    return re.sub(r"[^a-z0-9]", "", path.stem.lower()).removeprefix("gtzan")


def _beats(path: Path) -> list[float]:
    try:
        lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
        return [float(words[0]) for words in lines]
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a list of beats ({error})") from error


def _jams_chords(path: Path) -> list[Chord]:
    try:
        annotations = json.loads(path.read_text(encoding="utf-8"))["annotations"]
        listed = [found["data"] for found in annotations if found["namespace"] == "chord"]
        return [
            (float(row["time"]), float(row["time"]) + float(row["duration"]), str(row["value"]))
            for row in listed[INSTRUCTED]
        ]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"{path}: not a JAMS file with chords ({type(error).__name__}: {error}); unpack it "
            "again from annotation.zip"
        ) from error


def _annotations(index: TrackIndex) -> tuple[list[float], list[Chord]]:
    with pq.ParquetFile(index.path) as file:
        table = file.read_row_group(index.row_group, columns=["beats_s", "chords"])
    first = table.slice(0, 1).to_pylist()[0]
    chords = [(row["start_s"], row["end_s"], row["label"]) for row in first["chords"] or []]
    return first["beats_s"] or [], chords


def _mix(index: TrackIndex) -> NDArray[np.float32]:
    return np.asarray(tracks.read_stems(index).sum(axis=0), dtype=np.float32)
