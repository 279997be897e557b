"""The constant-Q transform against its definition, against nnAudio, and by what it promises."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from nnAudio.features import CQT1992v2
from scipy.signal import get_window

from phalar.model.cqt import CHUNK_CLIPS, ConstantQ, full_precision
from phalar.model.cqt_kernels import decimated_kernels, decimated_span, direct_kernel, half_band
from phalar.model.cqt_plan import GROUPS, convolution_kernels
from phalar.model.frontend import ConstantQDecibels

RATE_HZ = 16_000
BIN_HZ = 16.35 * 2 ** (np.arange(96) / 12)
# What a tone of amplitude 1 gives in its own bin.
FULL_SCALE = 0.5 * np.sqrt(np.ceil(RATE_HZ / BIN_HZ / (2 ** (1 / 12) - 1)))


def music(seed: int, samples: int) -> np.ndarray:
    """Bass, chords and noise bursts with pauses, as float32 numbers."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(samples) / RATE_HZ
    beat = time_s * rng.uniform(1.5, 2.5)
    fade = np.exp(-4 * (beat % 1))
    root_hz = 55 * 2 ** (rng.integers(12) / 12)
    wave = 0.3 * fade * (beat % 2 > 1) * rng.standard_normal(samples)
    for ratio, level in ((1, 1.0), (4, 0.3), (5, 0.3), (6, 0.3), (16, 0.1), (40, 0.03)):
        melody = 2 ** (rng.integers(-3, 4, size=1 + int(beat[-1])) / 12)[beat.astype(int)]
        turns = np.cumsum(root_hz * ratio * melody) / RATE_HZ + rng.uniform()
        wave += level * fade * np.sin(2 * np.pi * turns)
    wave[np.sin(beat) > 0.9] = 0
    return (wave * rng.uniform(0.1, 1) / np.abs(wave).max()).astype(np.float32)


def direct_transform(wave: np.ndarray) -> np.ndarray:
    """Multiply every frame with every kernel, as the definition says, in float64."""
    frames = len(wave) // 160 + 1
    padded = np.pad(wave.astype(np.float64), 16_384, mode="reflect")
    magnitude = np.empty((96, frames))
    for k, frequency_hz in enumerate(BIN_HZ):
        length = int(np.ceil(RATE_HZ / frequency_hz / (2 ** (1 / 12) - 1)))
        times = np.arange(length) - (length + 1) // 2
        kernel = get_window("hann", length) * np.exp(2j * np.pi * frequency_hz / RATE_HZ * times)
        kernel *= np.sqrt(length) / np.abs(kernel).sum()
        for t in range(frames):
            magnitude[k, t] = np.abs(padded[16_384 + 160 * t + times] @ kernel)
    return magnitude


def scaled_db(magnitude: np.ndarray) -> np.ndarray:
    level_db = 20 * np.log10(np.maximum(magnitude, 1e-10))
    return (np.maximum(level_db, level_db.max() - 80) + 80) / 80


@pytest.fixture(scope="module")
def transform() -> ConstantQ:
    return ConstantQ()


@pytest.fixture(scope="module")
def nnaudio() -> CQT1992v2:
    return CQT1992v2(RATE_HZ, 160, fmin=16.35, n_bins=96, verbose=False)


@pytest.mark.parametrize("group", [group for group in GROUPS if group.level])
def test_half_bands_and_kernels_make_the_direct_kernels(group):
    """At any frequency, the aliases included, nothing else than the direct kernel is heard."""
    kernels = decimated_kernels(group.first_bin, group.bins, group.level)
    first, _ = decimated_span(group.first_bin, group.level)
    for row in (0, group.bins - 1):
        spread, start = kernels[row], first
        for _ in range(group.level):
            upsampled = np.zeros(2 * len(spread) - 1, dtype=complex)
            upsampled[::2] = spread
            spread, start = np.convolve(upsampled, half_band()), 2 * start - 9
        direct = direct_kernel(group.first_bin + row)
        offset = -((len(direct) + 1) // 2) - start
        spread[offset : offset + len(direct)] -= direct
        assert np.abs(np.fft.fft(spread, 1 << 16)).max() < 1.5e-7 * np.abs(direct).sum()


def worst_error(magnitude: np.ndarray, expected: np.ndarray, wave: np.ndarray) -> float:
    """Relate the largest error to what a tone as loud as the wave gives in that bin."""
    return float((np.abs(magnitude - expected) / FULL_SCALE[:, None]).max() / np.abs(wave).max())


@pytest.mark.parametrize("samples", [1, 2, 3, 161, 1599, 8000, 16_384, 16_385, 24_001])
def test_equals_the_definition_at_any_length(transform, samples):
    """Sound shorter than its padding is reflected again and again, as NumPy's `pad` does."""
    wave = music(samples, max(samples, 100))[-samples:]
    magnitude = transform(torch.from_numpy(wave)[None])[0].numpy()
    assert magnitude.shape == (96, samples // 160 + 1)
    assert worst_error(magnitude, direct_transform(wave), wave) < 1e-6


def test_equals_the_definition_in_decibels():
    waves = np.stack([music(seed, 40_000) for seed in range(3)])
    features = ConstantQDecibels()(torch.from_numpy(waves)).numpy()
    errors = np.abs(features - np.stack([scaled_db(direct_transform(wave)) for wave in waves]))
    assert errors.max() < 2e-4
    assert errors.mean() < 1e-6


def test_equals_nnaudio_on_music(nnaudio):
    waves = torch.from_numpy(np.stack([music(seed, 80_000) for seed in range(10, 18)]))
    features = ConstantQDecibels()(waves).numpy()
    errors = np.abs(features - np.stack([scaled_db(m) for m in nnaudio(waves).double().numpy()]))
    assert errors.max() < 2e-4
    assert errors.mean() < 1e-6


@pytest.mark.parametrize("length_s", [1.1, 2.0, 2.5, 3.7, 7.77, 10.0])
def test_equals_nnaudio_at_any_length_that_it_takes(transform, nnaudio, length_s):
    wave = music(1, round(length_s * RATE_HZ))
    wave_BN = torch.from_numpy(wave)[None]
    assert worst_error(transform(wave_BN)[0].numpy(), nnaudio(wave_BN)[0].numpy(), wave) < 2e-6


def test_a_tone_peaks_in_its_own_bin(transform):
    time_s = torch.arange(2 * RATE_HZ, dtype=torch.float64) / RATE_HZ
    tones = torch.sin(2 * np.pi * torch.from_numpy(BIN_HZ)[:, None] * time_s).float()
    middle = transform(tones)[:, :, 100].numpy()
    assert middle.argmax(1).tolist() == list(range(96))
    np.testing.assert_allclose(np.diag(middle), FULL_SCALE, rtol=0.01)


@pytest.mark.parametrize("semitones", [1, 7, 12])
def test_a_shift_in_pitch_is_a_shift_in_frequency(transform, semitones):
    time_s = np.arange(2 * RATE_HZ) / RATE_HZ
    low_hz = np.random.default_rng(0).uniform(60, 1500, size=(12, 1))

    def levels(tones_hz: np.ndarray) -> np.ndarray:
        waves = torch.from_numpy(np.sin(2 * np.pi * tones_hz * time_s))
        return transform(waves)[:, :, 100].numpy() / FULL_SCALE

    low, high = levels(low_hz), levels(low_hz * 2 ** (semitones / 12))
    # Not quite equal: a kernel's length is a whole number of samples.
    np.testing.assert_allclose(high[:, semitones:], low[:, :-semitones], atol=0.01)


@pytest.mark.parametrize("samples", [800, 8000, 33_333])
def test_a_clip_alone_equals_the_clip_in_any_batch(samples):
    front_end = ConstantQDecibels()
    waves = torch.from_numpy(np.stack([music(seed, samples) for seed in range(CHUNK_CLIPS + 3)]))
    waves[3] *= 100
    together = front_end(waves)
    for first, last in ((0, 1), (2, 4), (1, 1 + CHUNK_CLIPS), (CHUNK_CLIPS, CHUNK_CLIPS + 3)):
        assert (front_end(waves[first:last]) - together[first:last]).abs().max() <= 1e-6


def test_float32_whatever_autocast_says(transform):
    wave = torch.from_numpy(music(3, 20_000))[None]
    expected = transform(wave)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(transform(wave), expected)
    assert expected.dtype == torch.float32
    assert torch.equal(transform(wave.bfloat16()), transform(wave.bfloat16().float()))


@pytest.mark.parametrize(
    ("device", "backend"), [("cpu", torch.backends.mkldnn), ("cuda", torch.backends.cudnn)]
)
@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_float32_whatever_the_backend_is_allowed(device, backend):
    before = backend.conv.fp32_precision
    backend.conv.fp32_precision = "tf32"
    try:
        with pytest.raises(KeyError, match="inside"), full_precision(device):
            assert backend.conv.fp32_precision == "ieee"
            raise KeyError("inside")
        assert backend.conv.fp32_precision == "tf32"
    finally:
        backend.conv.fp32_precision = before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_float32_whatever_the_model_is_cast_to(transform, dtype):
    wave = torch.from_numpy(music(4, 20_000))[None]
    cast = copy.deepcopy(transform).to(dtype)
    assert torch.equal(cast(wave), transform(wave))


def test_kernels_are_no_state(transform):
    assert transform.state_dict() == {}
    assert list(transform.parameters()) == []


def test_equal_bits_each_time(transform):
    waves = torch.from_numpy(np.stack([music(seed, 30_000) for seed in range(2)]))
    assert torch.equal(ConstantQ()(waves), transform(waves))


@pytest.mark.parametrize("samples", [1, 8000, 80_000])
def test_silence_is_zero(transform, samples):
    assert torch.count_nonzero(transform(torch.zeros(2, samples))) == 0


def test_input_of_another_shape_is_refused(transform):
    with pytest.raises(ValueError, match=r"shape \(80000,\): must be \(B, N\)"):
        transform(torch.zeros(80_000))
    with pytest.raises(ValueError, match=r"shape \(2, 0\): must be \(B, N\) with N >= 1"):
        transform(torch.zeros(2, 0))


def test_gradient_is_the_slope(transform):
    """Power is quadratic in the sound, so its central difference is exact however wide it is."""
    wave = torch.from_numpy(music(5, 9000))[None].requires_grad_()
    step = torch.from_numpy(music(6, 9000))[None]
    weight = torch.rand(1, 96, 57, generator=torch.Generator().manual_seed(0))
    (weight * transform.power(wave)).sum().backward()
    with torch.no_grad():
        change = transform.power(wave + step) - transform.power(wave - step)
    expected = (weight * change).sum() / 2
    torch.testing.assert_close((wave.grad * step).sum(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("front_end", [ConstantQ(), ConstantQDecibels()])
def test_gradient_is_finite_and_passes_through_chunks(front_end):
    waves = torch.from_numpy(np.stack([music(seed, 4000) for seed in range(CHUNK_CLIPS + 1)]))
    waves[1] = 0
    waves.requires_grad_()
    front_end(waves).sum().backward()
    assert torch.isfinite(waves.grad).all()
    assert torch.count_nonzero(waves.grad[1]) == 0
    assert all(torch.count_nonzero(waves.grad[clip]) for clip in (0, CHUNK_CLIPS))


def test_kernels_first_built_in_inference_mode_serve_gradients():
    convolution_kernels.cache_clear()
    with torch.inference_mode():
        transform = ConstantQ()
    wave = torch.from_numpy(music(7, 4000))[None].requires_grad_()
    transform(wave).sum().backward()
    assert torch.count_nonzero(wave.grad)


def test_exports_to_onnx_with_any_batch_size(tmp_path: Path):
    import onnxruntime

    front_end, path = ConstantQDecibels().eval(), tmp_path / "cqt.onnx"
    waves = torch.from_numpy(np.stack([music(seed, 16_000) for seed in range(3)]))
    clips = torch.export.Dim("clips")
    torch.onnx.export(front_end, (waves[:2],), path, dynamic_shapes=({0: clips},), verbose=False)
    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    for batch in (waves, waves[:1]):
        (features,) = session.run(None, {name: batch.numpy()})
        assert np.abs(features - front_end(batch).numpy()).max() < 2e-4
