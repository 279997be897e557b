"""From sound to the decibel features that a backbone reads.

Constant-Q, mel, or harmonic and percussive mel: each takes mono sound at 16 kHz (B, N) and gives
float32 features every 10 ms, T = N//160+1 frames. A clip's features are its own: their floor lies
80 dB below the clip's maximum, whatever else is in the batch.

Shape letters: B batch, C channels, N audio samples, F frequency bins, K spectral lines, T frames.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from phalar.model.cqt import (
    CHUNK_CLIPS,
    ConstantQ,
    Float32Constants,
    extend,
    full_precision,
    in_chunks,
)
from phalar.model.cqt_kernels import BINS, SAMPLE_RATE_HZ
from phalar.model.cqt_plan import HOP_SAMPLES

RANGE_DB = 80.0
FFT_SAMPLES = 1024
WINDOW_SAMPLES = 400
LOWEST_MEL_HZ = 60.0
HIGHEST_MEL_HZ = 7800.0
HARMONIC_PERCUSSIVE_BINS = 64
MEDIAN_LENGTH = 31


class ConstantQDecibels(nn.Module):
    """The constant-Q magnitude in decibels, its 80 dB below 0 dB scaled to [0, 1].

    With m the magnitude of `ConstantQ`: 20 log10(max(m, 1e-10)), not below the clip's maximum - 80,
    then (dB + 80) / 80. A maximum above 0 dB goes beyond 1; digital silence is -1.5 throughout.

    Notes
    -----
    The authors' code takes the maximum over the batch, so that a clip's features move with its
    neighbours; for one clip alone both agree.
    """

    def __init__(self) -> None:
        super().__init__()
        self.transform = ConstantQ()

    def forward(self, wave_BN: Tensor) -> Tensor:
        """Turn (B, N) into (B, F=96, T)."""
        return in_chunks(self._features, wave_BN, clips=CHUNK_CLIPS)

    def _features(self, wave_BN: Tensor) -> Tensor:
        return scaled_decibels(self.transform.power(wave_BN), least_power=1e-20)


class MelSpectrogram(Float32Constants):
    """The power of a centred short-time Fourier transform, and its sums over triangular mel bands.

    Hann windows of 400 samples in a transform of 1,024 points; bands from 60 to 7,800 Hz.
    """

    def __init__(self, bands: int, scale: Literal["htk", "slaney"]) -> None:
        super().__init__()
        lines, normalise = FFT_SAMPLES // 2 + 1, "slaney" if scale == "slaney" else None
        edges_hz = (LOWEST_MEL_HZ, HIGHEST_MEL_HZ)
        bands_KF = melscale_fbanks(lines, *edges_hz, bands, SAMPLE_RATE_HZ, normalise, scale)
        self.register_buffer("bands", bands_KF.T.unsqueeze(-1), persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW_SAMPLES), persistent=False)

    def lines(self, wave_BN: Tensor) -> Tensor:
        """Turn (B, N) into the power of spectral lines (B, K=513, T)."""
        frames = wave_BN.shape[1] // HOP_SAMPLES
        padded_BN = extend(wave_BN, FFT_SAMPLES // 2, FFT_SAMPLES // 2)
        spectrum_BKT = torch.stft(
            padded_BN[:, : frames * HOP_SAMPLES + FFT_SAMPLES],
            FFT_SAMPLES,
            HOP_SAMPLES,
            WINDOW_SAMPLES,
            self.get_buffer("window"),
            center=False,
            return_complex=True,
        )
        return torch.view_as_real(spectrum_BKT).square().sum(-1)

    def sums(self, power_BKT: Tensor) -> Tensor:
        """Turn the power of spectral lines into that of bands (B, F, T)."""
        power_BFT: Tensor = nn.functional.conv1d(power_BKT, self.get_buffer("bands"))
        return power_BFT


class MelDecibels(nn.Module):
    """The mel power spectrogram in decibels, scaled as `ConstantQDecibels`: the variant "mel".

    96 bands, evenly spaced on the HTK mel scale, with 10 log10(max(p, 1e-10)); silence is -0.25.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mel = MelSpectrogram(BINS, "htk")

    def forward(self, wave_BN: Tensor) -> Tensor:
        """Turn (B, N) into (B, F=96, T)."""
        return in_chunks(self._features, wave_BN, clips=CHUNK_CLIPS)

    def _features(self, wave_BN: Tensor) -> Tensor:
        with full_precision(wave_BN.device.type):
            power_BFT = self.mel.sums(self.mel.lines(wave_BN.float()))
            return scaled_decibels(power_BFT, least_power=1e-10)


class HarmonicPercussive(nn.Module):
    """The harmonic and the percussive part of a sound as mel decibels: what COCOLA reads.

    A tone is a ridge along time and a click a ridge along frequency, so the median of 31 neighbours
    along either axis keeps the one and suppresses the other. The magnitude is shared out by the
    soft masks h^2 / (h^2 + p^2) and p^2 / (h^2 + p^2). Each part is given in 64 mel bands (Slaney's
    scale and areas), in dB relative to its own maximum, not below -80; a part of nothing is 0 dB
    throughout.

    Notes
    -----
    Fitzgerald, "Harmonic/percussive separation using median filtering" (2010), with the borders and
    masks of ``librosa.decompose.hpss``, which COCOLA, arXiv 2404.16969, calls for each clip.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mel = MelSpectrogram(HARMONIC_PERCUSSIVE_BINS, "slaney")

    def forward(self, wave_BN: Tensor) -> Tensor:
        """Turn (B, N) into (B, C=2, F=64, T), harmonic before percussive."""
        return in_chunks(self._features, wave_BN, clips=2)

    def _features(self, wave_BN: Tensor) -> Tensor:
        with full_precision(wave_BN.device.type):
            power_BKT = self.mel.lines(wave_BN.float())
            shares_BCKT = harmonic_percussive_shares(power_BKT)
            parts_BKT = (shares_BCKT.square() * power_BKT.unsqueeze(1)).flatten(0, 1)
            level_db = 10 * self.mel.sums(parts_BKT).clamp_min(1e-10).log10()
            relative_db = level_db - level_db.amax((1, 2), keepdim=True)
            return relative_db.clamp_min(-RANGE_DB).reshape(len(wave_BN), 2, *level_db.shape[1:])


def harmonic_percussive_shares(power_BKT: Tensor) -> Tensor:
    """Give each part's share of a magnitude (B, C=2, K, T), of which the square is given."""
    # A median of squares is the square of the median.
    harmonic_BKT = _median(power_BKT)
    percussive_BKT = _median(power_BKT.transpose(1, 2)).transpose(1, 2)
    parts_BCKT = torch.stack((harmonic_BKT, percussive_BKT), dim=1)
    silent_BCKT = parts_BCKT.amax(1, keepdim=True) == 0
    parts_BCKT = parts_BCKT.masked_fill(silent_BCKT, 1.0)
    return parts_BCKT / parts_BCKT.sum(1, keepdim=True)


def _median(values: Tensor) -> Tensor:
    """Take the median of 31 neighbours along the last axis, mirrored at its ends."""
    length, reach = values.shape[-1], MEDIAN_LENGTH // 2
    # The value at an end is repeated, as in scipy's median filter.
    index = torch.arange(-reach, length + reach, device=values.device) % (2 * length)
    mirrored = values[..., torch.minimum(index, 2 * length - 1 - index)]
    return mirrored.unfold(-1, MEDIAN_LENGTH, 1).median(-1).values


def scaled_decibels(power_BFT: Tensor, *, least_power: float) -> Tensor:
    """Turn power into decibels not below the clip's maximum - 80, then into (dB + 80) / 80."""
    level_BFT = power_BFT.clamp_min(least_power).log10() * (10 / RANGE_DB) + 1
    return level_BFT.clamp_min(level_BFT.amax((1, 2), keepdim=True) - 1)
