"""What the sound itself tells of tempo and key, where it tells it clearly.

Letters: F bins of the constant-Q transform, T frames of 10 ms.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from phalar.audio import SAMPLE_RATE_HZ
from phalar.model.cqt import ConstantQ
from phalar.search.windows import Sound

HEARD_S = 45.0
"""So much of a file is listened to."""

SHORTEST_S = 3.0
"""Of less nothing is told."""

FRAME_HZ = 100.0

SLOWEST_BPM, FASTEST_BPM = 60.0, 200.0
STEPS = 400
"""Tempi that are tried, evenly by ratio: 0.3 % apart."""

LIKELY_BPM, OCTAVES = 110.0, 0.6
"""Among tempi that fit alike, those near the first are likelier; standard deviation in octaves."""

BEATS = np.array([0.5, 1, 2, 3, 4, 6, 8])[:, None]
"""A tempo is heard in what recurs after so many beats."""

LOWEST, HIGHEST = 24, 72
"""Bins that pitch classes are read from, 65 Hz to 1 kHz: above, harmonics outweigh notes."""

MAJOR = (0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081)
MINOR = (0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052)
"""How often each pitch class sounds in a key on the first (Albrecht and Shanahan, 2013). By
listeners' ratings (Krumhansl, 1990) 54 % of the chorales' stems got their key, by these 71 %."""

NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")

SURE_TEMPO, SURE_KEY = 0.15, 0.15
"""From here on an estimate is told: four of five are right then (`benchmarks/estimate.py`)."""

WITHOUT_KEY = ("drums", "percussion", "effects")
"""Instruments whose pitches are no key."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is heard, and how clearly; the tempo of an octave above or below fits nearly as well."""

    tempo_bpm: float
    tempo_clearness: float
    """How much of the changes recurs after whole beats, -1 to 1."""
    key: str
    """Such as `A` or `F#m`."""
    key_clearness: float
    """By how much the correlation with this key is above that with the next."""


@lru_cache(maxsize=1)
def _transform() -> ConstantQ:
    return ConstantQ().eval()


def estimate(sound: Sound) -> Estimate | None:
    """Listen to a sound, mono at the model's rate; None where it is too short or silent."""
    heard = sound[: round(HEARD_S * SAMPLE_RATE_HZ)]
    if len(heard) < SHORTEST_S * SAMPLE_RATE_HZ or not heard.any():
        return None
    with torch.inference_mode():
        power = _transform().power(torch.from_numpy(np.ascontiguousarray(heard))[None])
    magnitude = np.sqrt(power[0].numpy().clip(0))
    tempo_bpm, tempo_clearness = tempo(magnitude)
    name, key_clearness = key(magnitude)
    return Estimate(tempo_bpm, tempo_clearness, name, key_clearness)


def tempo(magnitude: NDArray[np.float32]) -> tuple[float, float]:
    """Find the tempo after whose beats the rises of magnitudes (F, T) recur; and how clearly."""
    level = np.log1p(100 * magnitude / max(float(magnitude.max()), 1e-9))
    rises = np.maximum(level[:, 2:] - level[:, :-2], 0).sum(axis=0)
    # Slow swells are no beats.
    smooth = np.convolve(rises, np.ones(101) / 101, "same")
    rises = rises - smooth
    spectrum = np.fft.rfft(rises, 2 * len(rises))
    recurs = np.fft.irfft(np.abs(spectrum) ** 2)[: len(rises)]
    recurs /= max(recurs[0], 1e-9) * np.linspace(1, 1 / len(rises), len(rises))
    tempi = np.geomspace(SLOWEST_BPM, FASTEST_BPM, STEPS)
    lags = FRAME_HZ * 60 / tempi
    # Beyond half the sound too little of it is compared.
    inside = np.arange(len(recurs) // 2)
    teeth = np.interp(BEATS * lags, inside, recurs[: len(inside)], right=np.nan)
    comb = np.nan_to_num(np.nanmean(teeth, axis=0))
    weight = np.exp(-0.5 * (np.log2(tempi / LIKELY_BPM) / OCTAVES) ** 2)
    best = int(np.argmax(comb * weight))
    return float(tempi[best]), float(comb[best])


def key(magnitude: NDArray[np.float32]) -> tuple[str, float]:
    """Find the key whose profile the pitch classes of magnitudes (F, T) are nearest to."""
    heard, below, above = (magnitude[LOWEST + by : HIGHEST + by] for by in (0, -1, 1))
    # A tone is heard in the bins beside its own too.
    peaks = np.where((heard >= below) & (heard >= above), heard, 0)
    return key_of(peaks.mean(axis=1).reshape(-1, 12).sum(axis=0))


def key_of(classes: NDArray[np.floating]) -> tuple[str, float]:
    """Find the key whose profile weights of the twelve pitch classes, from C on, are nearest to."""
    profiles = np.array([np.roll(mode, tonic) for mode in (MAJOR, MINOR) for tonic in range(12)])
    varied = classes - classes.mean()
    centred = profiles - profiles.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1) * max(float(np.linalg.norm(varied)), 1e-9)
    fits = centred @ varied / lengths
    order = np.argsort(-fits)
    name = NAMES[order[0] % 12] + ("m" if order[0] >= 12 else "")
    return name, float(fits[order[0]] - fits[order[1]])
