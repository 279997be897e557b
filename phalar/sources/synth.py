"""Play a score: draw a performance, and let a sampled SoundFont sound each part by itself."""

from __future__ import annotations

import importlib.resources
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import mido
import numpy as np
import pretty_midi

from phalar import audio
from phalar.sources import Job, Unwanted
from phalar.sources.scores import BEND, BEND_RANGE, DRUM_KIT, Control, Note, Part, Score, chords
from phalar.tracks import Stem, Track

TEMPO_FACTORS = (0.85, 1.18)
TUNING_CENTS = 40.0
TRANSPOSE_ST = 3
LEVEL_DB = 6.0
TIMING_S = 0.008
"""Standard deviation of an onset and of a release; never more than twice this."""
PHRASE_S = (4.0, 9.0)
PHRASE_DEPTH = 0.12
"""Velocities rise and fall by this share over a phrase."""
VELOCITY_SPREAD = 4.0
SHORTEST_S = 0.03

TAIL_S = 1.0
"""Time for the last notes to fade out."""
PEAK = 0.9
"""Greatest sample of a track's mix and of its stems."""
SILENT_PEAK = 1e-3
"""A stem that stays below this in the finished track is not heard: 60 dB under full scale."""

FADE_S = 4.0
"""Every release of the SoundFont is over by then."""
TICKS_A_SECOND = 10_000
GRID_S = 0.004
"""40 ticks, 3 blocks of 64 samples at 48 kHz, 64 samples at 16 kHz."""
SUSTAIN, REVERB, CHORUS = 64, 91, 93
DRUM_CHANNEL = 9


FAMILIES = (
    "piano", "mallets", "organ", "guitar", "bass", "strings", "strings", "brass",
    "reeds", "pipes", "lead", "pad", "effects", "plucked", "percussion", "effects",
)  # fmt: skip
"""Of each eight programs of General MIDI; `EXCEPTIONS` are in the wrong row."""

EXCEPTIONS = {
    46: "plucked", 47: "percussion", 52: "voice", 53: "voice", 54: "voice", 55: "effects",
    85: "voice", 108: "mallets", 109: "reeds", 110: "strings", 111: "reeds", 119: "effects",
}  # fmt: skip


def family(program: int) -> str:
    """Word of `phalar.sources.INSTRUMENTS` for a program."""
    return "drums" if program >= DRUM_KIT else EXCEPTIONS.get(program, FAMILIES[program // 8])


def instrument_name(program: int) -> str:
    """Name of a program in General MIDI, of letters, digits and `_`."""
    if program >= DRUM_KIT:
        return "drums"
    return re.sub(r"[^a-z0-9]+", "_", pretty_midi.program_to_instrument_name(program).lower()).strip("_")


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


def draw_performance(
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


def play(job: Job, score: Score, performance: Performance, *, rng: np.random.Generator) -> Track:
    """Sound a score and annotate it in the time of the performance.

    Raises
    ------
    Unwanted
        Fewer than two parts are heard.
    """

    def when(at: Sequence[float]) -> np.ndarray:
        return np.asarray(score.seconds(at) / performance.tempo_factor)

    played = [
        _perform(part, score, performance, program=program, rng=rng)
        for part, program in zip(score.parts, performance.programs, strict=True)
    ]
    seconds = float(when([score.end])[0]) + TAIL_S
    stems = [
        Stem(
            name=f"{number:02d}-{instrument_name(part.program)}",
            instrument=family(part.program),
            audio=stem,
            program=min(part.program, DRUM_KIT),
        )
        for number, (part, stem) in enumerate(
            zip(played, sound(played, performance, seconds=seconds), strict=True)
        )
        if stem is not None
    ]
    if len(stems) < 2:
        raise Unwanted(f"{len(stems)} of its {len(score.parts)} parts are heard, a pair needs 2")
    beats = score.beats()
    beats_s = when(beats)
    spelled = chords(score.parts, beats, score.end, transpose_st=performance.transpose_st)
    return Track(
        source=job.source,
        track=job.entry.track,
        song=job.song,
        split=job.split,
        licence=job.licence,
        stems=stems,
        source_files=list(job.source_files),
        title=score.title,
        tempo_bpm=float(np.median(60 / np.diff(beats_s))),
        beats_s=beats_s.tolist(),
        downbeats_s=when([start for start, _ in score.bars]).tolist(),
        chords=[(*when([start, end]).tolist(), label) for start, end, label in spelled],
    )


def _perform(
    part: Part, score: Score, performance: Performance, *, program: int, rng: np.random.Generator
) -> Part:
    """Give a part its program and key, and its notes times in seconds with a player's deviations."""
    starts, ends, at = (
        score.seconds(column) / performance.tempo_factor
        for column in (
            [note.start for note in part.notes],
            [note.end for note in part.notes],
            [control.at for control in part.controls],
        )
    )
    count = len(part.notes)
    deviations_s = np.clip(rng.normal(0, TIMING_S, (2, count)), -2 * TIMING_S, 2 * TIMING_S)
    phrase = np.sin(2 * np.pi * (starts / rng.uniform(*PHRASE_S) + rng.uniform()))
    velocities = [note.velocity for note in part.notes] * (1 + PHRASE_DEPTH * phrase)
    velocities = np.clip(np.round(velocities + rng.normal(0, VELOCITY_SPREAD, count)), 1, 127)
    starts = np.maximum(starts + deviations_s[0], 0)
    ends = np.maximum(ends + deviations_s[1], starts + SHORTEST_S)
    # Odd ticks are never on the border of two blocks, where rounding errors would choose one.
    starts, ends, at = (
        (2 * np.floor(times * TICKS_A_SECOND / 2) + 1) / TICKS_A_SECOND for times in (starts, ends, at)
    )
    shift = 0 if part.is_drums else performance.transpose_st
    columns = zip(part.notes, starts.tolist(), ends.tolist(), velocities.astype(int).tolist(), strict=True)
    notes = [
        Note(start, end, note.pitch + shift, velocity)
        for note, start, end, velocity in columns
        if 0 <= note.pitch + shift < 128
    ]
    controls = [c._replace(at=float(s)) for c, s in zip(part.controls, at, strict=True)]
    return Part(program, notes, controls)


def midi_bytes(parts: Sequence[Part], *, cents: float, seconds: float) -> bytes:
    """Write parts whose times are seconds as a MIDI file, each on a channel of its own.

    A control change stands at the very end, since a synthesiser stops at the last event.
    """
    events: list[tuple[int, int, mido.Message]] = []
    free = iter([channel for channel in range(16) if channel != DRUM_CHANNEL])
    for part in parts:
        channel = DRUM_CHANNEL if part.is_drums else next(free)
        program = part.program % DRUM_KIT
        events.append((0, 0, mido.Message("program_change", channel=channel, program=program)))
        setup = [(REVERB, 0), (CHORUS, 0)]
        if not part.is_drums:
            setup += _registered(1, round(8192 + 81.92 * cents))
        events += [(0, 1, _change(channel, *pair)) for pair in setup]
        for control in part.controls:
            tick = round(control.at * TICKS_A_SECOND)
            events += [(tick, 2, message) for message in _messages(channel, control)]
        for note in _without_overlaps(part.notes):
            on, off = (round(at * TICKS_A_SECOND) for at in (note.start, note.end))
            key = {"channel": channel, "note": note.pitch}
            events.append((on, 4, mido.Message("note_on", velocity=note.velocity, **key)))
            events.append((off, 3, mido.Message("note_off", **key)))
        events.append((round(seconds * TICKS_A_SECOND), 5, _change(channel, REVERB, 0)))
    events.sort(key=lambda event: event[:2])
    track = mido.MidiTrack()
    now = 0
    for tick, _, message in events:
        track.append(message.copy(time=tick - now))
        now = tick
    # The default tempo is half a second a quarter note.
    file = mido.MidiFile(type=0, ticks_per_beat=TICKS_A_SECOND // 2)
    file.tracks.append(track)
    buffer = io.BytesIO()
    file.save(file=buffer)
    return buffer.getvalue()


def _change(channel: int, number: int, value: int) -> mido.Message:
    return mido.Message("control_change", channel=channel, control=number, value=value)


def _registered(number: int, value: int) -> list[tuple[int, int]]:
    """Control changes that set a registered parameter to 14 bits, then let go of it."""
    return [(101, 0), (100, number), (6, value >> 7), (38, value & 127), (101, 127), (100, 127)]


def _messages(channel: int, control: Control) -> list[mido.Message]:
    if control.number == BEND:
        return [mido.Message("pitchwheel", channel=channel, pitch=control.value)]
    if control.number == BEND_RANGE:
        return [_change(channel, *pair) for pair in _registered(0, control.value << 7)]
    return [_change(channel, control.number, control.value)]


def _without_overlaps(notes: Sequence[Note]) -> list[Note]:
    """End each note before the next of its pitch, whose sound its release would stop."""
    upcoming: dict[int, float] = {}
    kept = []
    for note in sorted(notes, reverse=True):
        end = min(note.end, upcoming.get(note.pitch, np.inf) - 1 / TICKS_A_SECOND)
        if end > note.start:
            kept.append(note._replace(end=end))
            upcoming[note.pitch] = note.start
    return kept[::-1]


def render(midi: bytes) -> np.ndarray:
    """Sound a MIDI file with the SoundFont: float32 (N,) mono at `audio.SAMPLE_RATE_HZ`.

    The synthesiser (48 kHz, stereo, 16 bit) starts anew for each call, so the same MIDI gives the
    same samples.

    Raises
    ------
    OSError
        There is no synthesiser or no SoundFont on this machine.
    """
    try:
        import midirenderer
    except ImportError as error:
        raise OSError(
            "midirenderer is not installed, and it has wheels for Linux, macOS and Windows on x86-64 "
            "and ARM only; `pip install 'phalar[embedded]'`, or use a source that is not synthesised"
        ) from error
    return audio.load_mono(midirenderer.render_wave_from(soundfont(), midi))


@lru_cache(maxsize=1)
def soundfont() -> bytes:
    """Bytes of TimGM6mb.sf2 (GPL-2), which the package pretty_midi carries."""
    try:
        return (importlib.resources.files("pretty_midi") / "TimGM6mb.sf2").read_bytes()
    except (ImportError, FileNotFoundError) as error:
        raise OSError(
            "the SoundFont of pretty_midi is missing; `pip install 'phalar[embedded]'`"
        ) from error


def sound(
    parts: Sequence[Part], performance: Performance, *, seconds: float
) -> list[np.ndarray | None]:
    """Sound each part, and scale all by one gain that keeps their sum and each within `PEAK`.

    Returns
    -------
    list of float32 array [shape=(N,)] or None
        In the order of the parts; None for a part that is not heard.
    """
    stems = [_sound_part(part, cents=performance.cents, seconds=seconds) for part in parts]
    gains = 10 ** (np.asarray(performance.levels_db) / 20)
    if performance.balanced:
        gains = gains / [max(_loudness(stem), 1e-6) for stem in stems]
    scaled = [np.asarray(gain * stem, np.float32) for gain, stem in zip(gains, stems, strict=True)]
    loudest = max(float(np.abs(sound).max()) for sound in [sum(scaled), *scaled])
    final = np.float32(PEAK / max(loudest, 1e-9))
    return [final * stem if final * np.abs(stem).max() > SILENT_PEAK else None for stem in scaled]


def _sound_part(part: Part, *, cents: float, seconds: float) -> np.ndarray:
    """Sound a part from its first note until it has faded; the rest of the time is silence.

    That saves a third of the work for bands. The start is one that ticks, blocks of the synthesiser
    and output samples share, so the samples are those of the whole.
    """
    stem = np.zeros(round(seconds * audio.SAMPLE_RATE_HZ), dtype=np.float32)
    if not part.notes:
        return stem
    start = int(min(note.start for note in part.notes) / GRID_S) * GRID_S
    pedal = [control.at for control in part.controls if control.number == SUSTAIN]
    end = max(*(note.end for note in part.notes), *pedal, 0.0) + FADE_S
    notes = [n._replace(start=n.start - start, end=n.end - start) for n in part.notes]
    controls = [c._replace(at=max(c.at - start, 0.0)) for c in part.controls]
    moved = Part(part.program, notes, controls)
    sound = render(midi_bytes([moved], cents=cents, seconds=min(end, seconds) - start))
    place = round(start * audio.SAMPLE_RATE_HZ)
    stem[place : place + len(sound)] = sound[: len(stem) - place]
    return stem


def _loudness(stem: np.ndarray) -> float:
    """Root mean square over the time that a stem is within 40 dB of its loudest."""
    levels = audio.levels_db(stem)
    heard = levels[levels > levels.max() - 40]
    return float(np.sqrt(np.mean(10 ** (heard / 10))))
