"""Play a score: draw tempo, key, tuning, loudness and small deviations, and annotate the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phalar.sources import Job, Unwanted, synth
from phalar.sources.scores import DRUM_KIT, Note, Part, Score, chords
from phalar.tracks import Stem, Track

TEMPO_FACTORS = (0.85, 1.18)
TUNING_CENTS = 40.0
TRANSPOSE_ST = 3
LEVEL_DB = 6.0
TIMING_S = 0.008
"""Standard deviation of an onset and of a release; none is off by more than twice this."""
PHRASE_S = (4.0, 9.0)
PHRASE_DEPTH = 0.12
"""Velocities rise and fall by this share over a phrase."""
VELOCITY_SPREAD = 4.0
SHORTEST_S = 0.03
TAIL_S = 1.0
"""Time for the last notes to fade out."""


@dataclass(frozen=True, slots=True)
class Performance:
    """One way to play a score."""

    programs: list[int]
    """Of each part."""
    tempo_factor: float
    cents: float
    """Tuning of all pitched parts, -100..100."""
    transpose_st: int
    """Of all pitched parts."""
    levels_db: list[float]
    """Of each part."""
    balanced: bool
    """Parts are made equally loud before their levels apply; otherwise as the score has them."""


def draw(
    score: Score, programs: Sequence[int], *, balanced: bool, rng: np.random.Generator
) -> Performance:
    """Draw everything of a performance but the instruments, which depend on the kind of music."""
    return Performance(
        programs=list(programs),
        tempo_factor=float(np.exp(rng.uniform(*np.log(TEMPO_FACTORS)))),
        cents=float(rng.uniform(-TUNING_CENTS, TUNING_CENTS)),
        transpose_st=int(rng.integers(-TRANSPOSE_ST, TRANSPOSE_ST, endpoint=True)),
        levels_db=rng.uniform(-LEVEL_DB, LEVEL_DB, len(score.parts)).tolist(),
        balanced=balanced,
    )


def play(
    job: Job, score: Score, performance: Performance, *, max_s: float, rng: np.random.Generator
) -> Track:
    """Sound a score, at most its first `max_s`, and annotate it in the time of the performance.

    Raises
    ------
    Unwanted
        Fewer than two parts are heard.
    ValueError
        No bar ends within `max_s`.
    """
    score = score.until(max_s * performance.tempo_factor)

    def when(at: Sequence[float]) -> np.ndarray:
        return score.seconds(at) / performance.tempo_factor

    played = [
        perform(part, score, performance, program=program, rng=rng)
        for part, program in zip(score.parts, performance.programs, strict=True)
    ]
    seconds = float(when([score.end])[0]) + TAIL_S
    sounds = synth.sound(
        played,
        cents=performance.cents,
        levels_db=performance.levels_db,
        balanced=performance.balanced,
        seconds=seconds,
    )
    stems = [
        Stem(
            name=f"{number:02d}-{synth.instrument_name(part.program)}",
            instrument=synth.family(part.program),
            audio=sound,
            program=min(part.program, DRUM_KIT),
        )
        for number, (part, sound) in enumerate(zip(played, sounds, strict=True))
        if sound is not None
    ]
    if len(stems) < 2:
        raise Unwanted(f"{len(stems)} of its {len(score.parts)} parts are heard, a pair needs 2")
    beats = score.beats()
    beats_s = when(beats)
    named = chords(score.parts, beats, score.end, transpose_st=performance.transpose_st)
    return Track(
        source=job.source,
        track=job.entry.track,
        song=job.song,
        split=job.split,
        licence=job.licence,
        stems=stems,
        source_files=list(job.source_files),
        artist=score.artist,
        title=score.title,
        tempo_bpm=float(np.median(60 / np.diff(beats_s))),
        beats_s=beats_s.tolist(),
        downbeats_s=when([downbeat for downbeat, _ in score.bars]).tolist(),
        chords=[(*when([start, end]).tolist(), label) for start, end, label in named],
    )


def perform(
    part: Part, score: Score, performance: Performance, *, program: int, rng: np.random.Generator
) -> Part:
    """Give a part its program and key, and its notes a player's deviations, in seconds."""

    def when(at: list[float]) -> np.ndarray:
        return score.seconds(at) / performance.tempo_factor

    starts = when([note.start for note in part.notes])
    count = len(starts)
    late_s = np.clip(rng.normal(0, TIMING_S, (2, count)), -2 * TIMING_S, 2 * TIMING_S)
    phrase = np.sin(2 * np.pi * (starts / rng.uniform(*PHRASE_S) + rng.uniform()))
    written = np.asarray([note.velocity for note in part.notes])
    velocities = written * (1 + PHRASE_DEPTH * phrase) + rng.normal(0, VELOCITY_SPREAD, count)
    starts = np.maximum(starts + late_s[0], 0)
    ends = np.maximum(when([note.end for note in part.notes]) + late_s[1], starts + SHORTEST_S)
    columns = (starts, ends, np.clip(np.round(velocities), 1, 127).astype(int))
    shift = 0 if part.is_drums else performance.transpose_st
    notes = [
        Note(start, end, note.pitch + shift, velocity)
        for note, start, end, velocity in zip(
            part.notes, *(column.tolist() for column in columns), strict=True
        )
        if 0 <= note.pitch + shift < 128
    ]
    at = when([control.at for control in part.controls]).tolist()
    controls = [c._replace(at=second) for c, second in zip(part.controls, at, strict=True)]
    return Part(program, notes, controls)
