"""Gain and noise for a whole batch of pairs at once, on the device where the batch lies.

Noises whose spectra have a shape are made in the frequency domain. White, pink, brown and
band-limited noise on one clip share one draw of Gaussian numbers: a sum of independent Gaussian
noises is a Gaussian noise whose power spectrum is the sum of theirs, so the law is that of separate
draws at a quarter of the work.

Shape letters: B pairs, P sides of a pair (anchor and positive), N samples, F frequencies, K kinds
of noise, J bursts, M samples of a burst.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from phalar import params
from phalar.audio import SAMPLE_RATE_HZ

SLOPES = {"white": 0, "pink": 1, "brown": 2}
"""Power falls with 1 / f to this exponent: 0, -3 and -6 dB an octave."""

LOWEST_HZ = 20.0
"""Below it nothing is heard, and brown noise would hold nearly all of its power there."""

BAND_HZ = (100.0, 8000.0)
BURST_SAMPLES = (10, 30)
MOST_BURSTS = 3
SIDES = 2


@dataclass(frozen=True, slots=True)
class Chance:
    """Random numbers for some rows of a global batch, drawn for all of its rows.

    So what a pair gets does not depend on how the batch is shared between processes. On a GPU the
    draws for the others cost less than a millisecond.
    """

    generator: torch.Generator
    """On the device of the batch."""
    pairs: int
    """Of the global batch."""
    rows: slice
    """Those of this process."""

    def normal(self, *shape: int) -> Tensor:
        """Draw (B, *shape) from a standard normal law."""
        device = self.generator.device
        return torch.randn(self.pairs, *shape, generator=self.generator, device=device)[self.rows]

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw (B, *shape) from low to high."""
        device = self.generator.device
        drawn = torch.rand(self.pairs, *shape, generator=self.generator, device=device)[self.rows]
        return low + (high - low) * drawn

    def integers(self, *shape: int, low: int, high: int) -> Tensor:
        """Draw (B, *shape) from low to high, both included."""
        size = (self.pairs, *shape)
        device = self.generator.device
        drawn = torch.randint(low, high + 1, size, generator=self.generator, device=device)
        return drawn[self.rows]


def augment(wave_BPN: Tensor, config: params.Augment, *, chance: Chance) -> Tensor:
    """Change the level of each pair and add noise to each of its clips.

    Parameters
    ----------
    wave_BPN : float32 tensor [shape=(B, 2, N)]
        Anchor and positive at 16 kHz.
    config : params.Augment
        Gain in dB, the same for both sides of a pair; for each kind of noise its probability, and
        the range of the clip's ratio to it in dB, drawn for each clip on its own. Ratios are of
        mean powers, for a burst within the burst. Silence stays silent.
    chance : Chance
        The only source of chance; it says which rows of the global batch these are.

    Returns
    -------
    float32 tensor [shape=(B, 2, N)]
        Not clipped to full scale.
    """
    power_BP1 = wave_BPN.square().mean(dim=-1, keepdim=True)
    # In bfloat16, as autocast has it, the products would make the ratios rough.
    with torch.autocast(wave_BPN.device.type, enabled=False):
        noise_BPN = _shaped_noise(power_BP1, wave_BPN.shape[-1], config.noises, chance)
    noisy_BPN = wave_BPN + noise_BPN
    _add_bursts(noisy_BPN, power_BP1, config.noises.bursts, chance)
    low, high = config.gain_db
    gain_db_B11 = chance.uniform(1, 1, low=low, high=high)
    return noisy_BPN * 10 ** (gain_db_B11 / 20)


def _shaped_noise(power_BP1: Tensor, samples: int, noises: params.Noises, chance: Chance) -> Tensor:
    """Draw the sum (B, P, N) of white, pink, brown and band-limited noise.

    Each kind is scaled by its own power in this very draw, so ratios are exact, not only expected.
    """
    hz_F = torch.fft.rfftfreq(samples, 1 / SAMPLE_RATE_HZ, device=power_BP1.device)
    heard_F = (hz_F >= LOWEST_HZ) & (hz_F < SAMPLE_RATE_HZ / 2)
    parts_BPF2 = chance.normal(SIDES, len(hz_F), 2)
    drawn_power_BPF = parts_BPF2.square().sum(-1)

    slope_K1 = torch.tensor(list(SLOPES.values()), device=hz_F.device)[:, None]
    shape_KF = heard_F * (hz_F.clamp(min=LOWEST_HZ) / LOWEST_HZ) ** -slope_K1
    wanted_BPK = torch.cat(
        [_noise_power(power_BP1, getattr(noises, kind), chance) for kind in SLOPES], dim=-1
    )
    spectrum_BPF = (wanted_BPK / (drawn_power_BPF @ shape_KF.T)) @ shape_KF

    # Uniform in the logarithm, as hearing is, and at least an octave wide.
    low, high = (math.log2(edge) for edge in BAND_HZ)
    bottom_BP1 = chance.uniform(SIDES, 1, low=low, high=high - 1)
    top_BP1 = bottom_BP1 + 1 + (high - 1 - bottom_BP1) * chance.uniform(SIDES, 1)
    band_BPF = heard_F & (hz_F >= 2**bottom_BP1) & (hz_F < 2**top_BP1)
    found_BP1 = (drawn_power_BPF * band_BPF).sum(-1, keepdim=True)
    spectrum_BPF += _noise_power(power_BP1, noises.band, chance) / found_BP1 * band_BPF

    # Parseval: with this factor the powers of the bins add up to the mean square of the samples.
    spectrum_BPF *= samples**2 / 2
    coloured_BPF = torch.view_as_complex(parts_BPF2) * spectrum_BPF.sqrt()
    noise_BPN: Tensor = torch.fft.irfft(coloured_BPF, n=samples)
    return noise_BPN


def _add_bursts(wave_BPN: Tensor, power_BP1: Tensor, noise: params.Noise, chance: Chance) -> None:
    """Add, in place, 1 to 3 bursts of 10 to 30 samples of white noise where they are drawn."""
    shortest, longest = BURST_SAMPLES
    samples = wave_BPN.shape[-1]
    count_BP1 = chance.integers(SIDES, 1, low=1, high=MOST_BURSTS)
    length_BPJ1 = chance.integers(SIDES, MOST_BURSTS, 1, low=shortest, high=longest)
    start_BPJ1 = chance.integers(SIDES, MOST_BURSTS, 1, low=0, high=samples - longest)
    burst_BPJM = chance.normal(SIDES, MOST_BURSTS, longest)
    index_M = torch.arange(longest, device=wave_BPN.device)
    burst_BPJM = burst_BPJM * (index_M < length_BPJ1)
    found_BPJ1 = burst_BPJM.square().sum(-1, keepdim=True) / length_BPJ1
    wanted_BPJ = _noise_power(power_BP1, noise, chance) * (index_M[:MOST_BURSTS] < count_BP1)
    burst_BPJM *= (wanted_BPJ[..., None] / found_BPJ1).sqrt()
    wave_BPN.scatter_add_(-1, (start_BPJ1 + index_M).flatten(2), burst_BPJM.flatten(2))


def _noise_power(power_BP1: Tensor, noise: params.Noise, chance: Chance) -> Tensor:
    """Draw the mean power of one kind of noise for each clip, 0 where the clip has none."""
    low, high = noise.snr_db
    snr_db_BP1 = chance.uniform(SIDES, 1, low=low, high=high)
    noisy_BP1 = chance.uniform(SIDES, 1) < noise.probability
    return power_BP1 * 10 ** (-snr_db_BP1 / 10) * noisy_BP1
