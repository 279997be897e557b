"""Sound the parts of a piece one by one with a sampled SoundFont, in tune and in time."""

from __future__ import annotations

import importlib.resources
import io
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

import mido
import numpy as np
import pretty_midi

from phalar import audio
from phalar.sources.scores import BEND, BEND_RANGE, DRUM_KIT, Control, Note, Part

PEAK = 0.9
"""Greatest sample of a track's mix and of its stems."""
SILENT_PEAK = 1e-3
"""A stem that stays below this in the finished track is not heard: 60 dB under full scale."""
FADE_S = 4.0
"""Releases of the SoundFont are over by then."""
TICKS_A_SECOND = 10_000
GRID_S = 0.004
"""40 ticks; 3 of the synthesiser's blocks (64 samples at 48 kHz); 64 samples at 16 kHz."""
SUSTAIN, REVERB, CHORUS = 64, 91, 93
DRUM_CHANNEL = 9

FAMILIES = (
    "piano", "mallets", "organ", "guitar", "bass", "strings", "strings", "brass",
    "reeds", "pipes", "lead", "pad", "effects", "plucked", "percussion", "effects",
)  # fmt: skip
"""Of each eight programs of General MIDI; `EXCEPTIONS` are in a row of others."""

EXCEPTIONS = {
    46: "plucked", 47: "percussion", 52: "voice", 53: "voice", 54: "voice", 55: "effects",
    85: "voice", 108: "mallets", 109: "reeds", 110: "strings", 111: "reeds", 119: "effects",
}  # fmt: skip


def family(program: int) -> str:
    """Word of `phalar.sources.INSTRUMENTS` for a program."""
    return "drums" if program >= DRUM_KIT else EXCEPTIONS.get(program, FAMILIES[program // 8])


def instrument_name(program: int) -> str:
    """Name of a program in General MIDI, of small letters, digits and `_`."""
    if program >= DRUM_KIT:
        return "drums"
    name = pretty_midi.program_to_instrument_name(program).lower()
    return re.sub(r"[^a-z0-9]+", "_", name).strip("_")


def sound(
    parts: Sequence[Part],
    *,
    cents: float,
    levels_db: Sequence[float],
    balanced: bool,
    seconds: float,
) -> list[np.ndarray | None]:
    """Sound each part, and scale all by one gain that keeps each and their sum within `PEAK`.

    Parameters
    ----------
    parts : sequence of Part
        Times in seconds.
    cents : float
        Tuning of the pitched parts, -100..100.
    levels_db : sequence of float
        Level of each part.
    balanced : bool
        Make the parts equally loud before their levels apply.
    seconds : float
        Length of each stem.

    Returns
    -------
    list of float32 array [shape=(N,)] or None
        In the order of the parts; None for a part that is not heard.
    """
    stems = [sound_part(part, cents=cents, seconds=seconds) for part in parts]
    gains = 10 ** (np.asarray(levels_db) / 20)
    if balanced:
        gains = gains / [max(_loudness(stem), 1e-6) for stem in stems]
    scaled = [np.asarray(gain * stem, np.float32) for gain, stem in zip(gains, stems, strict=True)]
    loudest = max(float(np.abs(wave).max()) for wave in [sum(scaled), *scaled])
    final = np.float32(PEAK / max(loudest, 1e-9))
    return [final * stem if final * np.abs(stem).max() > SILENT_PEAK else None for stem in scaled]


def _loudness(stem: np.ndarray) -> float:
    """Root mean square over the time that a stem is within 40 dB of its loudest."""
    levels = audio.levels_db(stem)
    heard = levels[levels > levels.max() - 40]
    return float(np.sqrt(np.mean(10 ** (heard / 10))))


def sound_part(part: Part, *, cents: float, seconds: float) -> np.ndarray:
    """Sound a part from its first note until it has faded; the rest of the time is silence.

    That saves a third of the work for bands. The start is one that ticks, blocks of the synthesiser
    and output samples share, so the samples are those of the part rendered from 0.
    """
    stem = np.zeros(round(seconds * audio.SAMPLE_RATE_HZ), dtype=np.float32)
    if not part.notes:
        return stem
    start = int(min(note.start for note in part.notes) / GRID_S) * GRID_S
    # What a pedal holds sounds until it is released.
    pedal = [control.at for control in part.controls if control.number == SUSTAIN]
    end = max([note.end for note in part.notes] + pedal) + FADE_S
    midi = midi_bytes([part], cents=cents, start_s=start, end_s=min(end, seconds))
    wave = render(midi)
    place = round(start * audio.SAMPLE_RATE_HZ)
    stem[place : place + len(wave)] = wave[: len(stem) - place]
    return stem


def midi_bytes(parts: Sequence[Part], *, cents: float, start_s: float, end_s: float) -> bytes:
    """Write parts whose times are seconds as a MIDI file, each on a channel of its own.

    A control change stands at the very end, since a synthesiser stops at the last event.
    """
    first = _tick(start_s)
    events: list[tuple[int, int, mido.Message]] = []
    free = iter([channel for channel in range(16) if channel != DRUM_CHANNEL])
    for part in parts:
        channel = DRUM_CHANNEL if part.is_drums else next(free)
        for tick, rank, message in _events(part, channel, cents):
            events.append((max(tick - first, 0), rank, message))
        events.append((_tick(end_s) - first, 5, _change(channel, REVERB, 0)))
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


def _tick(second: float) -> int:
    """Tick of a time on the grid."""
    return round(second * TICKS_A_SECOND)


def _odd_tick(second: float) -> int:
    """Odd tick next to a time: no block of the synthesiser begins there, so none is in doubt."""
    return 2 * int(second * TICKS_A_SECOND / 2) + 1


def _events(part: Part, channel: int, cents: float) -> Iterator[tuple[int, int, mido.Message]]:
    """Yield (tick, rank among events of one tick, message) of a part."""
    program = part.program % DRUM_KIT
    yield 0, 0, mido.Message("program_change", channel=channel, program=program)
    tuning = [] if part.is_drums else _registered(1, round(8192 + 81.92 * cents))
    for number, value in [(REVERB, 0), (CHORUS, 0), *tuning]:
        yield 0, 1, _change(channel, number, value)
    for control in part.controls:
        for message in _messages(channel, control):
            yield _odd_tick(control.at), 2, message
    for note in _without_overlaps(part.notes):
        key = {"channel": channel, "note": note.pitch}
        yield _odd_tick(note.end), 3, mido.Message("note_off", **key)
        yield _odd_tick(note.start), 4, mido.Message("note_on", velocity=note.velocity, **key)


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
        end = min(note.end, upcoming.get(note.pitch, np.inf) - 2 / TICKS_A_SECOND)
        if end > note.start + 2 / TICKS_A_SECOND:
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
            "the synthesiser midirenderer is not installed; `pip install 'phalar[embedded]'`, or, "
            "where it has no wheel for this platform, use sources that are recorded already"
        ) from error
    return audio.load_mono(midirenderer.render_wave_from(soundfont(), midi))


@lru_cache(maxsize=1)
def soundfont() -> bytes:
    """Bytes of TimGM6mb.sf2 (GPL-2), which the package pretty_midi carries."""
    return (importlib.resources.files("pretty_midi") / "TimGM6mb.sf2").read_bytes()
