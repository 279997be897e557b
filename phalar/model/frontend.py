"""From sound to the decibel features that a backbone reads: constant-Q or mel.

Each takes mono sound at 16 kHz (B, N) and gives float32 (B, F=96, T=N//160+1), a clip's features being its
own: its floor lies 80 dB below its own maximum, so nothing else in the batch matters.

Shape letters: B batch, N audio samples, F frequency bins, K spectral lines, T frames.
"""

import torch
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from phalar.model.cqt import (
    BINS,
    HOP_SAMPLES,
    ConstantQ,
    extend,
    full_precision,
    in_chunks,
)
from phalar.model.cqt_kernels import SAMPLE_RATE_HZ

RANGE_DB = 80.0
LEAST_POWER = 1e-20
FFT_SAMPLES = 1024
WINDOW_SAMPLES = 400
LOWEST_MEL_HZ = 60.0
HIGHEST_MEL_HZ = 7800.0
HARMONIC_PERCUSSIVE_BINS = 64
MEDIAN_LENGTH = 31


class ConstantQDecibels(nn.Module):
    """The constant-Q magnitude in decibels, 80 dB of it scaled to [0, 1] for a maximum of 0 dB.

    With m the magnitude of `ConstantQ`: 20 log10(max(m, 1e-10)), raised to the clip's maximum - 80, then
    (dB + 80) / 80. A louder maximum goes beyond 1; digital silence is -1.5 throughout.

    Notes
    -----
    The authors' code takes the maximum over the whole batch, which makes a clip's features move with its
    neighbours; for a batch of one both agree.
    """

    def __init__(self) -> None:
        super().__init__()
        self.transform = ConstantQ()

    def forward(self, wave_BN: Tensor) -> Tensor:
        """Turn (B, N) into (B, F, T)."""
        return in_chunks(
            lambda part_BN: scaled_decibels(self.transform.power(part_BN), 1e-20), wave_BN
        )


class MelDecibels(nn.Module):
    """The mel power spectrogram in decibels, scaled as `ConstantQDecibels` is: the paper's variant "mel".

    Hann windows of 400 samples in a 1,024-point Fourier transform, 96 triangular bands evenly spaced on
    the HTK mel scale from 60 to 7,800 Hz, 10 log10(max(p, 1e-10)).
    """

    def __init__(self) -> None:
        super().__init__()
        self.spectrogram = PowerSpectrogram()
        self.register_buffer("bands_KF", mel_bands(BINS), persistent=False)

    def forward(self, wave_BN: Tensor) -> Tensor:
        """Turn (B, N) into (B, F, T)."""
        with full_precision(wave_BN.device.type):
            power_BTK = self.spectrogram(wave_BN.float()).transpose(1, 2)
            return scaled_decibels((power_BTK @ self.bands_KF).transpose(1, 2), 1e-10)


class HarmonicPercussive(nn.Module):
    """The harmonic and the percussive part of a sound as mel decibels: what the baseline COCOLA reads.

    A tone is a ridge along time and a click a ridge along frequency, so the median of 31 neighbours along
    either axis keeps the one and suppresses the other. The magnitude is shared out by the soft mask
    h^2 / (h^2 + p^2), and each part is given in 64 mel bands, in dB relative to its own maximum, from -80.

    Notes
    -----
    Fitzgerald, "Harmonic/percussive separation using median filtering" (2010), with the borders and the
    mask of ``librosa.decompose.hpss``. A silent part is 0 dB throughout.
    """

    def __init__(self) -> None:
        super().__init__()
        self.spectrogram = PowerSpectrogram()
        self.register_buffer("bands_KF", mel_bands(HARMONIC_PERCUSSIVE_BINS), persistent=False)

    def forward(self, wave_BN: Tensor) -> Tensor:
        """Turn (B, N) into (B, C=2, F=64, T), harmonic before percussive."""
        return in_chunks(self._features, wave_BN, clips=2)

    def _features(self, wave_BN: Tensor) -> Tensor:
        with full_precision(wave_BN.device.type):
            power_BKT = self.spectrogram(wave_BN.float())
            masks_BCKT = harmonic_percussive_masks(power_BKT.sqrt())
            power_BCTK = (power_BKT.unsqueeze(1) * masks_BCKT.square()).transpose(2, 3)
            power_BCFT = (power_BCTK @ self.bands_KF).transpose(2, 3)
            level_db_BCFT = 10 * power_BCFT.clamp_min(1e-10).log10()
            return (level_db_BCFT - level_db_BCFT.amax((2, 3), keepdim=True)).clamp_min(-RANGE_DB)


def harmonic_percussive_masks(magnitude_BKT: Tensor) -> Tensor:
    """Give the shares (B, 2, K, T) of the harmonic and percussive part; they add up to one."""
    harmonic_BKT = _median(magnitude_BKT)
    percussive_BKT = _median(magnitude_BKT.transpose(1, 2)).transpose(1, 2)
    parts_BCKT = torch.stack((harmonic_BKT, percussive_BKT), dim=1)
    # Division by the larger one first: the square of a small float32 would vanish.
    larger_BCKT = parts_BCKT.amax(1, keepdim=True)
    silent_BCKT = larger_BCKT < torch.finfo(torch.float32).tiny
    ratio_BCKT = (parts_BCKT / larger_BCKT.masked_fill(silent_BCKT, 1.0)).square()
    total_BCKT = ratio_BCKT.sum(1, keepdim=True)
    return torch.where(silent_BCKT, 0.5, ratio_BCKT / total_BCKT.masked_fill(silent_BCKT, 1.0))


def _median(values: Tensor) -> Tensor:
    """Take the median of 31 neighbours along the last axis, mirrored at its ends with the end repeated."""
    length, reach = values.shape[-1], MEDIAN_LENGTH // 2
    index = torch.arange(-reach, length + reach, device=values.device) % (2 * length)
    mirrored = values[..., torch.minimum(index, 2 * length - 1 - index)]
    return mirrored.unfold(-1, MEDIAN_LENGTH, 1).median(-1).values


class PowerSpectrogram(nn.Module):
    """The squared magnitude of a centred short-time Fourier transform, for any length from one sample up."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(WINDOW_SAMPLES), persistent=False)

    def forward(self, wave_BN: Tensor) -> Tensor:
        """Turn (B, N) into (B, K=513, T)."""
        padded_BN = extend(wave_BN, FFT_SAMPLES // 2, FFT_SAMPLES // 2)
        spectrum_BKT = torch.stft(
            padded_BN,
            FFT_SAMPLES,
            HOP_SAMPLES,
            WINDOW_SAMPLES,
            self.window,
            center=False,
            return_complex=True,
        )
        return spectrum_BKT.real.square() + spectrum_BKT.imag.square()


def mel_bands(bands: int) -> Tensor:
    """Give the triangular bands (K=513, bands), 60 to 7,800 Hz, evenly spaced on the HTK mel scale."""
    return melscale_fbanks(
        FFT_SAMPLES // 2 + 1, LOWEST_MEL_HZ, HIGHEST_MEL_HZ, bands, SAMPLE_RATE_HZ
    )


def scaled_decibels(power_BFT: Tensor, least_power: float) -> Tensor:
    """Turn power into decibels not below the clip's maximum - 80, scaled by (dB + 80) / 80."""
    level_BFT = power_BFT.clamp_min(least_power).log10() * (10 / RANGE_DB) + 1
    return level_BFT.clamp_min(level_BFT.amax((1, 2), keepdim=True) - 1)
