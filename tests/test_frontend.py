"""The decibel features against slow versions of their definitions, and by what they promise."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torchaudio
from scipy.ndimage import median_filter

from phalar.model.cqt import ConstantQ
from phalar.model.frontend import (
    ConstantQDecibels,
    HarmonicPercussive,
    MelDecibels,
    harmonic_percussive_shares,
)

RATE_HZ = 16_000
FRONT_ENDS = {
    "constant-q": (ConstantQDecibels(), (96,)),
    "mel": (MelDecibels(), (96,)),
    "harmonic-percussive": (HarmonicPercussive(), (2, 64)),
}
every_front_end = pytest.mark.parametrize("kind", FRONT_ENDS)


def song(seed: int, samples: int) -> np.ndarray:
    """A chord that fades, and clicks."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(samples) / RATE_HZ
    pitches_hz = 110 * 2 ** (rng.integers(0, 48, size=4) / 12)
    chord = np.sin(2 * np.pi * pitches_hz[:, None] * time_s).sum(0) * np.exp(-2 * time_s)
    clicks = rng.standard_normal(samples) * (time_s % 0.25 < 0.005)
    return (rng.uniform(0.02, 0.2) * (chord + 3 * clicks)).astype(np.float32)


def songs(count: int, samples: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([song(seed, samples) for seed in range(count)]))


def fourier_power(wave: np.ndarray) -> np.ndarray:
    """Take one frame after the other, in float64."""
    padded = np.pad(wave.astype(np.float64), 512, mode="reflect")
    window = np.pad(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400), 312)
    frames = [padded[160 * t : 160 * t + 1024] for t in range(len(wave) // 160 + 1)]
    return np.abs(np.fft.rfft(np.array(frames) * window)).T ** 2


def triangles(bands: int, to_mel, to_hz) -> np.ndarray:
    """Give triangular bands of height one whose corners are evenly spaced on a mel scale."""
    corners_hz = to_hz(np.linspace(to_mel(60.0), to_mel(7800.0), bands + 2))
    lines_hz = np.arange(513) * RATE_HZ / 1024
    rows = [np.interp(lines_hz, corners_hz[b : b + 3], [0, 1, 0]) for b in range(bands)]
    return np.array(rows), corners_hz[2:] - corners_hz[:-2]


def htk_mel(hz):
    return 2595 * np.log10(1 + np.asarray(hz) / 700)


def htk_hz(mel):
    return 700 * (10 ** (np.asarray(mel) / 2595) - 1)


def slaney_mel(hz):
    """Linear up to 1,000 Hz = 15 mel, then 27 steps of equal ratio up to 6,400 Hz."""
    hz = np.asarray(hz)
    return np.where(
        hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1) / 1000) / np.log(6.4)
    )


def slaney_hz(mel):
    mel = np.asarray(mel)
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))


def test_constant_q_decibels_follow_from_the_magnitude():
    waves = songs(3, 12_000)
    for feature, magnitude in zip(ConstantQDecibels()(waves), ConstantQ()(waves), strict=True):
        level_db = 20 * magnitude.double().clamp_min(1e-10).log10()
        expected = (level_db.clamp_min(level_db.max() - 80) + 80) / 80
        assert (feature - expected).abs().max() < 1e-6


@pytest.mark.parametrize("samples", [1, 500, 9000, 33_333])
def test_mel_decibels_follow_their_definition(samples):
    wave = song(1, max(samples, 400))[-samples:]
    bands, _ = triangles(96, htk_mel, htk_hz)
    level_db = 10 * np.log10(np.maximum(bands @ fourier_power(wave), 1e-10))
    expected = (np.maximum(level_db, level_db.max() - 80) + 80) / 80
    feature = MelDecibels()(torch.from_numpy(wave)[None])[0].numpy()
    assert feature.shape == (96, samples // 160 + 1)
    assert np.abs(feature - expected).max() < 1e-4


def test_mel_decibels_equal_torchaudio():
    wave = songs(1, 40_000)
    power = torchaudio.transforms.MelSpectrogram(
        RATE_HZ, n_fft=1024, win_length=400, hop_length=160, f_min=60, f_max=7800, n_mels=96
    )(wave)
    level_db = torchaudio.functional.amplitude_to_DB(power, 10, 1e-10, 0, 80.0)
    assert (MelDecibels()(wave) - (level_db + 80) / 80).abs().max() < 1e-5


@pytest.mark.parametrize("frames", [1, 7, 40])
def test_shares_equal_a_slow_median_version(frames):
    magnitude = np.random.default_rng(frames).gamma(0.5, size=(2, 60, frames)).astype(np.float32)
    magnitude[1, :, frames // 2 :] = 0
    shares = harmonic_percussive_shares(torch.from_numpy(magnitude**2)).numpy()
    for clip, share in zip(magnitude.astype(np.float64), shares, strict=True):
        harmonic = median_filter(clip, size=(1, 31), mode="reflect")
        percussive = median_filter(clip, size=(31, 1), mode="reflect")
        both = harmonic**2 + percussive**2
        expected = np.divide(harmonic**2, both, where=both > 0, out=np.full_like(both, 0.5))
        np.testing.assert_allclose(share[0], expected, atol=1e-6)
        np.testing.assert_allclose(share.sum(0), 1, atol=1e-6)


def test_harmonic_percussive_follows_its_definition():
    wave = song(2, 20_000)
    power = fourier_power(wave)
    harmonic = median_filter(np.sqrt(power), size=(1, 31), mode="reflect")
    percussive = median_filter(np.sqrt(power), size=(31, 1), mode="reflect")
    bands, widths_hz = triangles(64, slaney_mel, slaney_hz)
    feature = HarmonicPercussive()(torch.from_numpy(wave)[None])[0].numpy()
    for part, row in ((harmonic, feature[0]), (percussive, feature[1])):
        share = part**2 / (harmonic**2 + percussive**2)
        band_power = (bands * 2 / widths_hz[:, None]) @ (power * share**2)
        level_db = 10 * np.log10(np.maximum(band_power, 1e-10))
        np.testing.assert_allclose(row, np.maximum(level_db - level_db.max(), -80), atol=0.02)


def test_tones_are_harmonic_and_clicks_percussive():
    time_s = torch.arange(2 * RATE_HZ) / RATE_HZ
    tone, click = torch.sin(2 * torch.pi * 1000 * time_s), torch.zeros(2 * RATE_HZ)
    click[RATE_HZ] = 1
    power = np.stack([fourier_power(wave.numpy()) for wave in (tone, click)])
    shares = harmonic_percussive_shares(torch.from_numpy(power).float())
    assert shares[0, 0, 64, 50:150].min() > 0.99
    assert shares[1, 1, 50:450, 100].min() > 0.99


@every_front_end
@pytest.mark.parametrize("samples", [1, 159, 160, 8000, 16_384, 50_001])
def test_shape_and_type(kind, samples):
    front_end, bins = FRONT_ENDS[kind]
    feature = front_end(songs(2, samples))
    assert feature.shape == (2, *bins, samples // 160 + 1)
    assert feature.dtype == torch.float32
    assert feature.is_contiguous()
    assert torch.isfinite(feature).all()


@every_front_end
def test_a_clip_alone_equals_the_clip_in_any_batch(kind):
    front_end, _ = FRONT_ENDS[kind]
    waves = songs(9, 8000) * torch.logspace(-4, 1, 9)[:, None]
    together = front_end(waves)
    for clip in range(9):
        assert (front_end(waves[clip : clip + 1])[0] - together[clip]).abs().max() <= 1e-6


@every_front_end
def test_float32_whatever_autocast_and_casts_say(kind):
    front_end, _ = FRONT_ENDS[kind]
    waves = songs(2, 8000)
    expected = front_end(waves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(front_end(waves), expected)
    assert torch.equal(copy.deepcopy(front_end).bfloat16()(waves), expected)
    assert front_end.state_dict() == {}


@pytest.mark.parametrize(("kind", "value"), [("constant-q", -1.5), ("mel", -0.25)])
def test_silence_has_its_own_value_beside_any_music(kind, value):
    front_end, _ = FRONT_ENDS[kind]
    waves = songs(2, 8000)
    waves[1] = 0
    assert (front_end(waves)[1] == value).all()


def test_harmonic_percussive_silence_is_its_own_maximum():
    assert (HarmonicPercussive()(torch.zeros(1, 8000)) == 0).all()


@pytest.mark.parametrize("amplitude", [1e-15, 1e-12, 1e-6, 2**-15, 1.0])
def test_constant_q_from_silence_to_full_scale(amplitude):
    """A click's feature rises with its level, 20 dB for a factor of ten, above -200 dB only."""
    wave = torch.zeros(1, 8000)
    wave[0, 4000] = amplitude
    feature = ConstantQDecibels()(wave)
    loudest = 20 * np.log10(max(amplitude * float(ConstantQ()(wave / amplitude).max()), 1e-10))
    assert float(feature.max()) == pytest.approx((loudest + 80) / 80, abs=1e-5)
    assert float(feature.min()) >= max(float(feature.max()) - 1, -1.5) - 1e-6


@every_front_end
def test_gradient_is_finite_with_silence_too(kind):
    front_end, _ = FRONT_ENDS[kind]
    waves = songs(3, 4000)
    waves[1] = 0
    waves[2, :2000] = 0
    waves.requires_grad_()
    front_end(waves).square().sum().backward()
    assert torch.isfinite(waves.grad).all()
    assert torch.count_nonzero(waves.grad[0])


@every_front_end
def test_input_of_another_shape_is_refused(kind):
    front_end, _ = FRONT_ENDS[kind]
    with pytest.raises(ValueError, match=r"sound has shape \(1, 2, 800\): must be \(B, N\)"):
        front_end(torch.zeros(1, 2, 800))
