"""Candidates changed to fit: transposed at the same tempo, or stretched at the same pitch.

To transpose every candidate by k would mean to hear the library anew for each k. But a candidate
transposed by k fits a mix about as well as it fits the mix transposed by -k: so the mix is changed,
a few candidates are found, and these alone are changed, heard and scored as they will sound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torchaudio import functional

from phalar import audio
from phalar.search.moment import Mix
from phalar.search.part import read_part
from phalar.search.query import Found, Searcher
from phalar.search.windows import Sound, loop

FFT_SAMPLES = 1024
"""64 ms: notes of a bass are told apart, and hits stay together."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is done to a candidate."""

    transpose_st: int = 0
    stretch: float = 1.0
    """How many times as fast."""

    @property
    def undone(self) -> Change:
        """What done to the mix stands for this done to the candidate."""
        return Change(-self.transpose_st, 1 / self.stretch)


NONE = Change()


def changes(transpose: tuple[int, int], stretch: tuple[float, float]) -> list[Change]:
    """List the changes to try: every semitone, and tempi in steps of 2 %, none at all first.

    Where the range of tempi holds the tempo as it is, steps go from there.

    Raises
    ------
    ValueError
        A range is empty or beyond an octave, or a factor of two.
    """
    low, high = transpose
    slow, fast = stretch
    if not -12 <= low <= high <= 12:
        raise ValueError(f"transpose {low}..{high}: must rise, from -12 or more to 12 or less")
    if not 0.5 <= slow <= fast <= 2:
        raise ValueError(f"stretch {slow:g}..{fast:g}: must rise, from 0.5 or more to 2 or less")
    middle = min(max(slow, 1.0), fast)
    factors = {*_steps(slow, middle), *_steps(middle, fast)}
    wanted = {Change(st, factor) for st in range(low, high + 1) for factor in factors}
    rest = sorted(
        wanted - {NONE}, key=lambda c: (abs(c.transpose_st), abs(c.stretch - 1), c.stretch)
    )
    return [NONE, *rest]


def _steps(slow: float, fast: float) -> list[float]:
    """Go from one tempo to another in even steps of about 2 %, both ends with them."""
    count = max(1, round(float(np.log(fast / slow) / np.log(1.02))))
    return [round(float(factor), 4) for factor in np.geomspace(slow, fast, count + 1)]


def apply(sound: Sound, change: Change) -> Sound:
    """Transpose and stretch a sound with a phase vocoder; N samples become N / stretch."""
    if change == NONE:
        return sound
    # Played slower by the interval and stretched back: higher at the same tempo.
    interval = 2 ** (change.transpose_st / 12)
    wave = torch.from_numpy(np.ascontiguousarray(sound, np.float32))
    window, hop = torch.hann_window(FFT_SAMPLES), FFT_SAMPLES // 4
    spectrum = torch.stft(wave, FFT_SAMPLES, hop, window=window, return_complex=True)
    advance = torch.linspace(0, np.pi * hop, FFT_SAMPLES // 2 + 1)[:, None]
    longer = functional.phase_vocoder(spectrum, change.stretch / interval, advance)
    samples = round(len(sound) / change.stretch * interval)
    stretched = torch.istft(longer, FFT_SAMPLES, hop, window=window, length=samples).numpy()
    return audio.resample(stretched, round(audio.SAMPLE_RATE_HZ * interval))


def changed(mix: Mix, change: Change) -> Mix:
    """Change a mix in place of the candidates: undo to it what is done to them."""
    if change == NONE:
        return mix
    undone = change.undone
    around = apply(mix.around, undone)
    before = round(mix.before / undone.stretch)
    missing = before + mix.samples - len(around)
    # Of one played faster too little may be there; it is played again.
    around = np.concatenate((around, np.resize(around[before:], max(missing, 0))))
    return Mix(around, before, mix.samples)


def read_from(searcher: Searcher, found: Found, samples: int) -> Sound:
    """Read a candidate from its start, changed as found; a loop goes round, others may end early.

    Returns
    -------
    float32 array [shape=(samples,)]
        Zeros before the file starts and where it has ended.
    """
    path, seconds = searcher.index.path_of(found.entry), found.entry.seconds
    start = round(found.start_s * audio.SAMPLE_RATE_HZ)
    needed = round(samples * found.stretch) + (FFT_SAMPLES if found.is_changed else 0)
    if searcher.index.facts.grid.is_loop(seconds):
        part = loop(audio.load_mono(path), start, needed)
    else:
        part = read_part(path, seconds, start, needed)
    part = apply(part, Change(found.transpose_st, found.stretch))[:samples]
    return np.pad(part, (0, samples - len(part)))
