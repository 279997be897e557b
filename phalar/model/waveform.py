"""Sound from outside, checked and brought to mono float32 at the rate of the model.

Shape letters: B batch, N audio samples.
"""

from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchaudio.transforms import Resample

from phalar.model.cqt import SAMPLE_RATE_HZ

SHORTEST_S = 0.5

# Above this a filter would take hundreds of megabytes; every rate in use is exact with it.
LARGEST_DENOMINATOR = 2_000


def as_clips(
    audio: NDArray[Any] | Tensor, sample_rate: int, *, channel_axis: int | None = None
) -> Tensor:
    """Check sound and give it as one mono clip or a batch of them.

    Parameters
    ----------
    audio : float or int16 array or tensor [shape=(N,) or (B, N), with channels one axis more]
        Floats count 1.0 as full scale, int16 counts 32,768.
    sample_rate : int
        In Hz, any; one rate for the whole batch.
    channel_axis : int or None
        The axis of the channels, which are averaged. `None`: there is none, the sound is mono.

    Returns
    -------
    float32 tensor [shape=(N,) or (B, N)]
        On the device of `audio`, at its own rate.

    Raises
    ------
    ValueError
        Where the sound is empty, shorter than 0.5 s, not finite, or of a wrong shape or type.
    """
    if not isinstance(sample_rate, int | np.integer) or sample_rate < 1:
        raise ValueError(f"sample rate: {sample_rate!r} is not a whole number of Hz above 0")
    sound = audio if isinstance(audio, Tensor) else np.asarray(audio)
    try:
        return _mono(_floats(sound), sample_rate, channel_axis)
    except ValueError as error:
        raise ValueError(f"audio of shape {tuple(sound.shape)}: {error}") from None


def _floats(sound: NDArray[Any] | Tensor) -> Tensor:
    if isinstance(sound, np.ndarray):
        if sound.dtype.kind != "f" and sound.dtype.newbyteorder("=") != np.int16:
            raise ValueError(f"{sound.dtype} is neither a float type nor int16; convert it")
        # A copy in native order: torch takes nothing reversed, read-only or big-endian.
        scale = 1 if sound.dtype.kind == "f" else 2**15
        return torch.from_numpy(np.array(sound, dtype=np.float32, order="C")) / scale
    if sound.dtype == torch.int16:
        return sound.float() / 2**15
    if not sound.is_floating_point():
        raise ValueError(f"{sound.dtype} is neither a float type nor int16; convert it")
    return sound.float()


def _mono(wave: Tensor, sample_rate: int, channel_axis: int | None) -> Tensor:
    if channel_axis is not None:
        if not -wave.ndim <= channel_axis < wave.ndim:
            raise ValueError(f"channel_axis {channel_axis} is not one of its axes")
        if wave.shape[channel_axis] == 0:
            raise ValueError(f"no channels along axis {channel_axis}")
        wave = wave.mean(dim=channel_axis)
    if wave.ndim not in (1, 2) or (wave.ndim == 2 and len(wave) == 0):
        raise ValueError(
            "must be (samples,) or (clips, samples) with at least one clip; name the axis of the "
            "channels, if there is one, with channel_axis"
        )
    samples = wave.shape[-1]
    if samples < SHORTEST_S * sample_rate:
        raise ValueError(
            f"{samples} samples at {sample_rate} Hz are under the {SHORTEST_S} s that an embedding "
            "needs; the last axis is time, name an axis of channels with channel_axis"
        )
    finite = wave.isfinite()
    if not finite.all():
        raise ValueError(
            f"{int((~finite).sum())} samples are not finite (the first is "
            f"{wave[~finite][0].item()}); repair or drop the clip"
        )
    return wave


@lru_cache(maxsize=4)
def resampler(sample_rate: int, device: torch.device) -> Resample:
    """Give what turns (B, N) at a rate into 16 kHz on a device, with librosa's kaiser_best filter.

    A rate whose ratio to 16 kHz has no denominator up to 2,000 is taken as the nearest one that
    has: at most 1 part in 4,000 off, under half a cent.
    """
    ratio = Fraction(sample_rate, SAMPLE_RATE_HZ).limit_denominator(LARGEST_DENOMINATOR)
    return Resample(
        ratio.numerator,
        ratio.denominator,
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    ).to(device)
