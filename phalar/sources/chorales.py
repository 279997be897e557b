"""Source `chorales`: the four-part chorales of J. S. Bach that the package music21 carries."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from phalar.params import DownloadChorales, PrepareScores
from phalar.sources import Entry, File, Job, performance
from phalar.sources.scores import Note, Part, Score, beat_unit, group_variants, melodic_figures
from phalar.tracks import Track

LICENCE = "BSD-3-Clause (music21); the compositions are in the public domain"
CREDITS = (
    "Johann Sebastian Bach; encoded for the corpus of music21, Michael Scott Asato Cuthbert and "
    "cuthbertLab, https://www.music21.org"
)

VOICES = 4
VELOCITY = 84
BEATS_PER_MINUTE = 88.0
"""The scores have no tempo marks; performances go around this."""

TUNE = {"intervals": 6, "distinct": 2}
TUNE_OVERLAP = 0.25
"""Settings of one tune share a quarter of the runs of six soprano steps from beat to
beat at least; chance alone stays below."""

# Programs that can hold a line, with the range in which the SoundFont sounds like the instrument.
CHOICES: dict[str, dict[int, tuple[int, int]]] = {
    "voice": {52: (36, 84), 53: (36, 84), 54: (36, 84)},
    "strings": {40: (55, 96), 41: (48, 84), 42: (36, 72), 43: (28, 60), 48: (33, 88), 49: (33, 88)},
    "brass": {56: (54, 82), 57: (38, 70), 58: (28, 60), 59: (54, 82), 60: (38, 74), 61: (36, 84)},
    "reeds": {64: (55, 84), 65: (48, 78), 66: (42, 74), 67: (34, 66), 68: (57, 88), 69: (52, 80),
              70: (34, 68), 71: (50, 88)},
    "pipes": {73: (59, 96), 74: (57, 96), 75: (55, 90), 79: (57, 90)},
    "organ": {16: (36, 88), 17: (36, 88), 19: (36, 88), 20: (36, 88)},
    "piano": {0: (28, 100), 1: (28, 100), 4: (28, 96), 5: (28, 96), 6: (30, 88)},
    "guitar": {24: (38, 84), 25: (38, 84), 26: (38, 84), 27: (38, 84)},
    "bass": {32: (28, 60), 33: (28, 60), 35: (28, 60), 39: (28, 62)},
    "mallets": {11: (48, 90), 12: (45, 90)},
    "pad": {89: (33, 88), 90: (33, 88)},
}  # fmt: skip


def download(params: DownloadChorales, folder: Path) -> list[File]:
    """Copy the scores out of the installed package.

    Raises
    ------
    OSError
        The package is not installed, or in another version than `download.chorales.version`.
    """
    try:
        version = importlib.metadata.version(params.package)
    except importlib.metadata.PackageNotFoundError as error:
        raise OSError(
            f"{params.package} is not installed; `pip install 'phalar[embedded]'`"
        ) from error
    if version != params.version:
        raise OSError(
            f"{params.package} {version} is installed, download.chorales.version is "
            f"{params.version}; `pip install {params.package}=={params.version}`"
        )
    from music21.corpus.corpora import CoreCorpus

    # The compressed ones only: files in Humdrum form reserve rights of their own.
    scores = [
        path
        for path in CoreCorpus().getPaths()
        if path.parent.name == "bach" and path.suffix == ".mxl"
    ]
    files = []
    for path in sorted(scores):
        if _written_parts(path) == VOICES:
            shutil.copyfile(path, folder / path.name)
            url = f"pkg:pypi/{params.package}@{version}#music21/corpus/bach/{path.name}"
            files.append(File(path.name, url))
    return files


def _written_parts(path: Path) -> int:
    """Parts of a compressed MusicXML file, found without parsing its notes."""
    with zipfile.ZipFile(path) as archive:
        scores = [name for name in archive.namelist() if not name.startswith("META-INF")]
        return archive.read(scores[0]).count(b"<score-part ")


def find(folder: Path, params: PrepareScores) -> list[Entry]:
    """List the renditions of each chorale in the order of the catalogue."""
    names = sorted((path.name for path in folder.glob("*.mxl")), key=_catalogue_order)
    return [
        Entry(f"{re.sub('[^A-Za-z0-9_-]', '-', Path(name).stem)}_r{rendition}", (name,), rendition)
        for name in names
        for rendition in range(params.renditions)
    ]


def _catalogue_order(name: str) -> list[tuple[int, str]]:
    return [(int(number or 0), word) for number, word in re.findall(r"(\d+)|(\D+)", name)]


def scan(folder: Path, files: tuple[str, ...]) -> Score:
    """Parse a score and join tied notes."""
    from music21 import converter, exceptions21, stream

    path = folder / files[0]
    unreadable = (
        ElementTree.ParseError,
        zipfile.BadZipFile,
        zlib.error,
        exceptions21.Music21Exception,
    )
    try:
        # Without the pickles that music21 would put into a folder of its own.
        parsed: Any = converter.parse(path, format="musicxml", forceSource=True, storePickle=False)
    except unreadable as error:
        raise ValueError(f"{files[0]}: not readable as MusicXML ({error})") from error
    if not isinstance(parsed, stream.Score):
        raise ValueError(f"{files[0]}: holds a {type(parsed).__name__}, not a score")
    parts = [_part(part) for part in parsed.parts]
    if len(parts) != VOICES or not all(part.notes for part in parts):
        raise ValueError(
            f"{files[0]}: {sum(bool(p.notes) for p in parts)} sounding parts, needs {VOICES}"
        )
    return Score(
        piece=Path(files[0]).stem,
        title=f"BWV {Path(files[0]).stem.removeprefix('bwv')}",
        artist="Johann Sebastian Bach",
        parts=parts,
        tempos=[(0.0, 60 / BEATS_PER_MINUTE)],
        bars=_bars(parsed.parts[0]),
        end=max(note.end for part in parts for note in part.notes),
    )


def _part(part: Any) -> Part:
    """Notes of a music21 part, each tie continued into the note before it."""
    notes: list[Note] = []
    for element in part.flatten().notes:
        start = float(element.offset)
        for pitch in element.pitches:
            note = Note(start, start + float(element.quarterLength), pitch.midi, VELOCITY)
            continues = element.tie is not None and element.tie.type in ("stop", "continue")
            if continues and notes and notes[-1].pitch == note.pitch:
                notes[-1] = notes[-1]._replace(end=note.end)
            else:
                notes.append(note)
    return Part(0, notes, [])


def _bars(part: Any) -> list[tuple[float, float]]:
    """Downbeats: where a measure starts and the bar before is full, since repeats split bars."""
    bars: list[tuple[float, float]] = []
    metre, filled = part.recurse().getElementsByClass("TimeSignature").first(), 0.0
    for measure in part.getElementsByClass("Measure"):
        metre = measure.timeSignature or metre
        length, full = float(measure.duration.quarterLength), metre.barDuration.quarterLength
        is_upbeat = not bars and length < full
        if not is_upbeat and filled == 0:
            bars.append((float(measure.offset), beat_unit(metre.numerator, metre.denominator)))
        filled = 0.0 if is_upbeat or filled + length >= full else filled + length
    return bars


def songs(scans: Sequence[Score]) -> list[str]:
    """Name each tune after the first chorale upon it: no two settings of a tune in two splits."""
    figures = [melodic_figures(_tune(score), **TUNE) for score in scans]
    return group_variants([score.piece for score in scans], figures, overlap=TUNE_OVERLAP)


def _tune(score: Score) -> list[int]:
    """Pitch of the soprano on each beat, which passing notes leave as it is."""
    notes = score.parts[0].notes
    starts = np.asarray([note.start for note in notes])
    places = np.searchsorted(starts, np.asarray(score.beats()) + 1e-6) - 1
    return [notes[place].pitch for place in places if place >= 0]


def make(job: Job, scan: Score, folder: Path, params: PrepareScores) -> Track:
    """Play a chorale on four instruments, any on any voice that its range allows."""
    rng = job.rng()
    drawn = performance.draw(scan, _instruments(scan, rng), balanced=True, rng=rng)
    return performance.play(job, scan, drawn, max_s=params.max_s, rng=rng)


def _instruments(score: Score, rng: np.random.Generator) -> list[int]:
    """Draw a family, then a program of it, for each part; no program twice."""
    chosen: list[int] = []
    for part in score.parts:
        low, high = min(n.pitch for n in part.notes), max(n.pitch for n in part.notes)
        able = {
            family: fitting
            for family, programs in CHOICES.items()
            if (
                fitting := [
                    program
                    for program, (lowest, highest) in programs.items()
                    if lowest - 2 <= low and high <= highest + 2 and program not in chosen
                ]
            )
        }
        family = str(rng.choice(list(able)))
        chosen.append(int(rng.choice(able[family])))
    return chosen
