"""Read, mix down, resample and write sound: the only file that opens sound files."""

from __future__ import annotations

import io
from os import PathLike

import numpy as np
import soundfile
import soxr

SAMPLE_RATE_HZ = 16_000
"""The rate of everything behind `prepare`: the model hears up to 8 kHz."""

LEVEL_HOP_S = 0.1
"""One level value of a stem covers this much time."""

SILENCE_DB = -100.0
"""The level of digital silence, so that levels stay finite."""


def read_audio(
    file: str | PathLike[str] | bytes, *, frames: slice | None = None
) -> tuple[np.ndarray, int]:
    """Decode a sound file to its end, whatever its header claims.

    Parameters
    ----------
    file : path or bytes
        Any format that libsndfile reads (WAV, AIFF, FLAC, OGG, MP3, ...).
    frames : slice, optional
        Only these sample frames, found by seeking.

    Returns
    -------
    audio : float32 array [shape=(channels, N)]
    sample_rate_hz : int

    Raises
    ------
    ValueError
        The file cannot be decoded, is empty, or ends before its header says.
    """
    name = "sound in memory" if isinstance(file, bytes) else str(file)
    try:
        with soundfile.SoundFile(io.BytesIO(file) if isinstance(file, bytes) else file) as sound:
            start, stop = (0, sound.frames) if frames is None else (frames.start, frames.stop)
            sound.seek(start)
            audio = sound.read(stop - start, dtype="float32", always_2d=True)
            rate_hz = int(sound.samplerate)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise ValueError(
            f"{name}: cannot be decoded ({error}); give a WAV, FLAC, AIFF, OGG or MP3 file"
        ) from error
    if len(audio) == 0:
        raise ValueError(f"{name}: holds no samples; replace or remove the file")
    if len(audio) != stop - start:
        raise ValueError(
            f"{name}: ends after {len(audio)} of {stop - start} samples; it is cut, get it again"
        )
    return audio.T, rate_hz


def mono(audio: np.ndarray) -> np.ndarray:
    """Mean of the channels: (channels, N) or (N,) -> float32 (N,)."""
    return np.asarray(audio if audio.ndim == 1 else audio.mean(axis=0), dtype=np.float32)


def resample(audio: np.ndarray, from_hz: int, to_hz: int = SAMPLE_RATE_HZ) -> np.ndarray:
    """Change the rate of a mono signal with soxr HQ: aliases at -140 dB, flat to 7 kHz of 8."""
    if from_hz == to_hz:
        return audio
    return np.asarray(soxr.resample(audio, from_hz, to_hz, quality="HQ"), dtype=np.float32)


def load_mono(file: str | PathLike[str] | bytes) -> np.ndarray:
    """Decode, mix down and resample a whole file to float32 (N,) at `SAMPLE_RATE_HZ`."""
    audio, rate_hz = read_audio(file)
    return resample(mono(audio), rate_hz)


def encode(audio: np.ndarray, *, container: str = "FLAC") -> bytes:
    """Encode mono float audio in [-1, 1] as 16-bit FLAC or WAV; one input always gives one output.

    Raises
    ------
    ValueError
        A sample is not finite or beyond full scale: libsndfile would clip it without a word.
    """
    peak = float(np.max(np.abs(audio), initial=0.0))
    if not peak <= 1.0:  # also true for NaN
        raise ValueError(f"encode: peak {peak:g} is beyond full scale (1.0); scale the audio first")
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, SAMPLE_RATE_HZ, format=container, subtype="PCM_16")
    return buffer.getvalue()


def levels_db(audio: np.ndarray) -> np.ndarray:
    """Root-mean-square level over each `LEVEL_HOP_S` in dB of full scale, (ceil(N / hop),)."""
    hop = round(LEVEL_HOP_S * SAMPLE_RATE_HZ)
    padded = np.pad(audio.astype(np.float64), (0, -len(audio) % hop)).reshape(-1, hop)
    power = np.mean(padded**2, axis=1)
    return np.asarray(10 * np.log10(np.maximum(power, 10 ** (SILENCE_DB / 10))), dtype=np.float32)
