"""Written music: notes of several parts with metre and tempo, its beats, chords and variants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np

DRUM_KIT = 128
"""Programs from here on are drum kits, `DRUM_KIT` + the preset; below are those of General MIDI."""

BEND, BEND_RANGE = -1, -2
"""`Control.number` of pitch bend (value -8192..8191) and of its range (semitones)."""

PITCH_CLASSES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
NO_CHORD = "N"
NEIGHBOUR_WEIGHT = 0.1
"""How much the beats beside it count for a beat's chord: enough to name a bare fifth's third."""


class Note(NamedTuple):
    """A note of a part; times in quarter notes from the start."""

    start: float
    end: float
    pitch: int
    velocity: int


class Control(NamedTuple):
    """A controller of a part that takes `value` at a time in quarter notes."""

    at: float
    number: int
    value: int


@dataclass(frozen=True, slots=True)
class Part:
    """What one instrument plays."""

    program: int
    """General MIDI program 0..127, or `DRUM_KIT` + the preset of the kit."""
    notes: list[Note]
    controls: list[Control]

    @property
    def is_drums(self) -> bool:
        """Whether pitches are drums, which no transposition or tuning may touch."""
        return self.program >= DRUM_KIT


@dataclass(frozen=True, slots=True)
class Score:
    """A piece; times in quarter notes from the start."""

    piece: str
    title: str
    artist: str
    parts: list[Part]
    tempos: list[tuple[float, float]]
    """(from where, seconds a quarter note), the first at 0."""
    bars: list[tuple[float, float]]
    """(downbeat, quarter notes a beat) of each full bar."""
    end: float

    def seconds(self, at: Sequence[float] | np.ndarray) -> np.ndarray:
        """Turn quarter notes into seconds at the written tempo."""
        starts, paces = (
            np.asarray(column, dtype=np.float64) for column in zip(*self.tempos, strict=True)
        )
        marks = np.concatenate([[0.0], np.cumsum(np.diff(starts) * paces[:-1])])
        at = np.asarray(at, dtype=np.float64)
        place = np.maximum(np.searchsorted(starts, at, side="right") - 1, 0)
        return np.asarray(marks[place] + (at - starts[place]) * paces[place])

    def until(self, limit_s: float) -> Score:
        """End at the last bar line within so many seconds of the written tempo."""
        if self.seconds([self.end])[0] <= limit_s:
            return self
        lines = [start for start, _ in self.bars[1:] if self.seconds([start])[0] <= limit_s]
        if not lines:
            raise ValueError(f"{self.piece}: no bar ends within {limit_s:.3g} s; raise max_s")
        end = lines[-1]
        parts = [
            Part(
                part.program,
                [note._replace(end=min(note.end, end)) for note in part.notes if note.start < end],
                [control for control in part.controls if control.at < end],
            )
            for part in self.parts
        ]
        bars = [bar for bar in self.bars if bar[0] < end]
        return replace(self, parts=parts, bars=bars, end=end)

    def beats(self) -> list[float]:
        """Every beat from the first that is written, upbeat included, to the end."""
        first, unit = self.bars[0]
        upbeat = [first - k * unit for k in range(int(first / unit + 1e-6), 0, -1)]
        ends = [downbeat for downbeat, _ in self.bars[1:]] + [self.end]
        return upbeat + [
            float(beat)
            for (start, step), end in zip(self.bars, ends, strict=True)
            for beat in np.arange(start, end - 1e-6, step)
        ]


def beat_unit(numerator: int, denominator: int) -> float:
    """Quarter notes a beat: dotted in compound metres (6/8, 9/8, 12/8), else the denominator's."""
    dotted = denominator >= 8 and numerator > 3 and numerator % 3 == 0
    return 4 / denominator * (3 if dotted else 1)


def chords(
    parts: Sequence[Part], beats: Sequence[float], end: float, *, transpose_st: int
) -> list[tuple[float, float, str]]:
    """Name the major or minor triad of each beat, or `N`, and join equal neighbours.

    The rule: a beat's 12 pitch classes weigh as long as they sound in it, its lowest note twice,
    plus a tenth of both neighbouring beats. The triad with the greatest cosine to these weights
    is the chord, unless less than half of the weight lies on its three tones or nothing sounds.

    Returns
    -------
    list of (start, end, label)
        Quarter notes; labels such as `C:maj`, `F#:min`, `N`.
    """
    edges = np.asarray([*beats, end])
    pitched = [part for part in parts if not part.is_drums]
    weights = np.roll(_pitch_class_weights(pitched, edges), transpose_st, axis=1)
    silent = weights.sum(axis=1) == 0
    weights[1:-1] += NEIGHBOUR_WEIGHT * (weights[:-2] + weights[2:])
    labels, triads = _triads()
    on_triad = weights @ triads.T
    best = on_triad.argmax(axis=1)
    share = on_triad[np.arange(len(best)), best] / np.maximum(weights.sum(axis=1), 1e-9)
    names = [
        NO_CHORD if quiet or part < 0.5 else labels[index]
        for quiet, part, index in zip(silent, share, best, strict=True)
    ]
    merged: list[tuple[float, float, str]] = []
    for (start, stop), name in zip(pairwise(edges.tolist()), names, strict=True):
        if merged and merged[-1][2] == name:
            merged[-1] = (merged[-1][0], stop, name)
        else:
            merged.append((start, stop, name))
    return merged


def _triads() -> tuple[list[str], np.ndarray]:
    """Labels and 0/1 pitch classes (24, 12) of the major and minor triads."""
    labels, rows = [], []
    for quality, tones in (("maj", (0, 4, 7)), ("min", (0, 3, 7))):
        for root, name in enumerate(PITCH_CLASSES):
            labels.append(f"{name}:{quality}")
            rows.append(np.isin(np.arange(12), [(root + tone) % 12 for tone in tones]))
    return labels, np.asarray(rows, dtype=np.float64)


def _pitch_class_weights(parts: Sequence[Part], edges: np.ndarray) -> np.ndarray:
    """Time that each pitch class sounds between edges (beats, 12), the lowest note twice."""
    weights = np.zeros((len(edges) - 1, 12))
    lowest = np.full(len(edges) - 1, 128)
    bass = np.zeros(len(edges) - 1)
    for note in (note for part in parts for note in part.notes):
        first = max(int(np.searchsorted(edges, note.start, side="right")) - 1, 0)
        for beat in range(first, len(edges) - 1):
            sounding = min(note.end, edges[beat + 1]) - max(note.start, edges[beat])
            if sounding <= 0:
                break
            weights[beat, note.pitch % 12] += sounding
            if note.pitch < lowest[beat]:
                lowest[beat], bass[beat] = note.pitch, sounding
    rows = lowest < 128
    weights[rows, lowest[rows] % 12] += bass[rows]
    return weights


def group_variants(
    pieces: Sequence[str], figures: Sequence[set[tuple[int, ...]]], *, overlap: float
) -> list[str]:
    """Give pieces that share melodic figures one name: that of the first of them.

    Two pieces belong together where the smaller set of figures lies in the other by `overlap`
    (0..1) or more; so do the pieces that both belong to a third.
    """
    first = list(range(len(pieces)))

    def root(index: int) -> int:
        while first[index] != index:
            index = first[index]
        return index

    for a, b in combinations(range(len(pieces)), 2):
        smaller = min(len(figures[a]), len(figures[b]))
        if smaller and len(figures[a] & figures[b]) >= overlap * smaller:
            low, high = sorted((root(a), root(b)))
            first[high] = low
    return [pieces[root(index)] for index in range(len(pieces))]


def melodic_figures(
    pitches: Sequence[int], *, intervals: int, distinct: int
) -> set[tuple[int, ...]]:
    """All runs of so many successive intervals (semitones), which no transposition changes.

    Runs of fewer than `distinct` different intervals are left out: a repeated note, a scale or an
    arpeggio is in every tune.
    """
    steps = [b - a for a, b in pairwise(pitches)]
    runs = zip(*(steps[k:] for k in range(intervals)), strict=False)
    return {run for run in runs if len(set(run)) >= distinct}
