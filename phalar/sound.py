"""Sound from outside, a file or an array: read, checked, mixed down, at the model's rate."""

from __future__ import annotations

import logging
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phalar import audio
from phalar.model.waveform import SHORTEST_S

logger = logging.getLogger(__name__)

Sound = str | PathLike[str] | NDArray[np.floating] | Tensor

LONGEST_S = 10.0
"""Models are trained on clips of up to this length; longer is heard in windows or in part."""


def whole(sound: Sound, sample_rate: int | None) -> tuple[str, NDArray[np.float32]]:
    """Read, mix down and resample sound; with what it is called in messages."""
    if isinstance(sound, str | PathLike):
        return str(sound), _read(Path(sound))
    return f"array {tuple(sound.shape)}", _from_array(sound, sample_rate)


def cut_moment(
    sound: Sound, sample_rate: int | None, *, start_s: float, seconds: float
) -> NDArray[np.float32]:
    """Read, mix down and resample sound, and cut the moment that is to be heard."""
    if not (0 <= start_s < np.inf and seconds > 0):
        raise ValueError(
            f"moment from {start_s:g} s for {seconds:g} s: must start at 0 or later and be "
            "longer than 0"
        )
    name, heard = whole(sound, sample_rate)
    start = round(start_s * audio.SAMPLE_RATE_HZ)
    stop = len(heard)
    if np.isfinite(seconds):
        stop = min(stop, round((start_s + seconds) * audio.SAMPLE_RATE_HZ))
    refuse_past_end(name, len(heard), start_s)
    refuse_short(name, stop, start_s)
    if (start_s, seconds) == (0.0, LONGEST_S) and stop < len(heard):
        logger.warning(
            "%s: %.1f s long, only its first %g s are heard; choose a moment, or embed its windows",
            name,
            len(heard) / audio.SAMPLE_RATE_HZ,
            seconds,
        )
    return heard[start:stop]


def refuse_past_end(name: str, samples: int, start_s: float) -> None:
    """Refuse a sound of so many samples that ends before a moment of it starts."""
    if round(start_s * audio.SAMPLE_RATE_HZ) >= samples:
        raise ValueError(
            f"{name}: ends at {samples / audio.SAMPLE_RATE_HZ:.1f} s, before the moment at "
            f"{start_s:g} s; choose an earlier one"
        )


def refuse_short(name: str, samples: int, start_s: float) -> None:
    """Refuse a sound of which less is left from a moment on than a model hears."""
    left = samples - round(start_s * audio.SAMPLE_RATE_HZ)
    if left < SHORTEST_S * audio.SAMPLE_RATE_HZ:
        raise ValueError(
            f"{name}: {left / audio.SAMPLE_RATE_HZ:.2f} s from {start_s:g} s on, must be "
            f"{SHORTEST_S:g} s or more"
        )


def _read(path: Path) -> NDArray[np.float32]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a sound file")
    return audio.load_mono(path)


def _from_array(
    sound: NDArray[np.floating] | Tensor, sample_rate: int | None
) -> NDArray[np.float32]:
    """Check an array of samples, and bring it to mono at the model's rate."""
    shape = tuple(sound.shape)
    if sample_rate is None:
        raise ValueError(f"array {shape}: has no sample rate of its own; pass sample_rate in Hz")
    if not (sample_rate >= 1 and float(sample_rate).is_integer()):
        raise ValueError(f"sample_rate: {sample_rate} is not a whole number of Hz above 0")
    samples = sound.detach().cpu().numpy() if isinstance(sound, torch.Tensor) else sound
    if samples.ndim == 2 and shape[0] > shape[1]:
        raise ValueError(
            f"array {shape}: more channels than samples; transpose it to (channels, N)"
        )
    if samples.ndim not in (1, 2) or not samples.size:
        raise ValueError(f"array {shape}: must be (N,) or (channels, N), and not empty")
    if samples.dtype == np.int16:
        samples = samples / np.float32(2**15)
    if not np.issubdtype(samples.dtype, np.floating) or not np.isfinite(samples).all():
        raise ValueError(f"array {shape} of {samples.dtype}: must be of finite floats or int16")
    return audio.resample(audio.mono(samples), int(sample_rate))
