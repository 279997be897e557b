"""A part of a file, found by seeking: of a long file it takes no longer than of a short one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from phalar import audio
from phalar.search.windows import Sound

EDGE_S = 0.05
"""Decoded on both sides and thrown away: a resampler needs what is around."""

LAST_S = 4.0
"""A seek to the last page of an Ogg Vorbis lands off its mark; so it is approached from before."""

END_FRAMES = 64
"""A file's length is known to so many frames at its own rate."""


def read_part(path: Path, seconds: float, start: int, samples: int) -> Sound:
    """Read a part of a file at the model's rate.

    Parameters
    ----------
    path : Path
    seconds : float
        Length of the file.
    start, samples : int
        Where the part starts, and its length; beyond the ends of the file it is silent.

    Returns
    -------
    float32 array [shape=(samples,)]
        But for rounding that part of what `audio.load_mono` gives.

    Raises
    ------
    ValueError
        The file cannot be decoded.
    """
    _, rate_hz = audio.read_audio(path, frames=slice(0, 1))
    common_hz = math.gcd(rate_hz, audio.SAMPLE_RATE_HZ)
    step = audio.SAMPLE_RATE_HZ // common_hz
    edge = round(EDGE_S * audio.SAMPLE_RATE_HZ)
    # A sample that lies on a frame, so that nothing is shifted by a fraction of one.
    sure = round((seconds - LAST_S) * audio.SAMPLE_RATE_HZ)
    first = max(min(start - edge, sure), 0) // step * step
    from_frame = first // step * (rate_hz // common_hz)
    to_frame = math.ceil((start + samples + edge) * rate_hz / audio.SAMPLE_RATE_HZ)
    frames = slice(from_frame, min(to_frame, int(seconds * rate_hz) - END_FRAMES))
    if start + samples <= 0 or frames.stop <= frames.start:
        return np.zeros(samples, np.float32)
    heard, _ = audio.read_audio(path, frames=frames)
    sound = audio.resample(audio.mono(heard), rate_hz)[max(start - first, 0) :]
    sound = np.pad(sound, (max(first - start, 0), 0))[:samples]
    return np.pad(sound, (0, samples - len(sound)))
