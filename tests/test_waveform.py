"""Sound from outside: every form and rate comes in, and what is no sound is refused."""

import numpy as np
import pytest
import torch

from phalar.model.waveform import as_clips, resampler

RATE_HZ = 16_000
CPU = torch.device("cpu")


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_clips_keep_their_shape_and_channels_are_averaged():
    wave = noise(9_000)
    assert torch.equal(as_clips(wave, RATE_HZ), wave)
    assert as_clips(noise(3, 9_000), RATE_HZ).shape == (3, 9_000)
    stereo = torch.stack((wave, 3 * wave))
    for form, axis in ((stereo, 0), (stereo, -2), (stereo.T, 1), (stereo.T, -1)):
        torch.testing.assert_close(as_clips(form, RATE_HZ, channel_axis=axis), 2 * wave)
    both = as_clips(torch.stack((stereo, -stereo)), RATE_HZ, channel_axis=1)
    torch.testing.assert_close(both, torch.stack((2 * wave, -2 * wave)))


@pytest.mark.parametrize(
    "change",
    [
        torch.Tensor.numpy,
        torch.Tensor.double,
        lambda wave: wave.numpy()[::-1].copy()[::-1],
        lambda wave: wave.numpy().astype(">f4"),
        lambda wave: wave.numpy().astype(np.longdouble),
        lambda wave: np.frombuffer(wave.numpy().tobytes(), np.float32),
    ],
    ids=["numpy", "double", "reversed", "big endian", "long double", "read-only"],
)
def test_floats_of_every_kind_are_equal(change):
    wave = noise(9_000)
    found = as_clips(change(wave), RATE_HZ)
    assert found.dtype == torch.float32
    assert torch.equal(found, wave)


def test_integers_count_32768_as_full_scale():
    whole = (noise(9_000) * 32_768).short()
    whole[:2] = torch.tensor([-32_768, 32_767])
    for form in (whole, whole.numpy(), whole.numpy().astype(">i2")):
        found = as_clips(form, RATE_HZ)
        assert torch.equal(found, whole / 32_768)
        assert found[0] == -1


def test_the_given_array_is_not_changed():
    array = noise(2, 9_000).numpy()
    before = array.copy()
    as_clips(array, RATE_HZ, channel_axis=0).zero_()
    as_clips(array, RATE_HZ).zero_()
    assert np.array_equal(array, before)


@pytest.mark.parametrize(
    ("audio", "rate_hz", "options", "message"),
    [
        (torch.zeros(0), RATE_HZ, {}, r"shape \(0,\): 0 samples at 16000 Hz are under the 0.5 s"),
        (torch.zeros(7_999), RATE_HZ, {}, r"7999 samples at 16000 Hz are under the 0\.5 s"),
        (torch.zeros(9_000), 44_100, {}, r"9000 samples at 44100 Hz are under the 0\.5 s"),
        (torch.zeros(40_000, 2), RATE_HZ, {}, r"\(40000, 2\): 2 samples .*with channel_axis"),
        (torch.zeros(1, 2, 9_000), RATE_HZ, {}, r"must be \(samples,\) or \(clips, samples\)"),
        (torch.zeros(0, 9_000), RATE_HZ, {}, r"shape \(0, 9000\): must be .*at least one clip"),
        (torch.tensor(1.0), RATE_HZ, {}, r"shape \(\): must be \(samples,\)"),
        (torch.zeros(9_000), RATE_HZ, {"channel_axis": 1}, "channel_axis 1 is not one of its axes"),
        (torch.zeros(0, 9_000), RATE_HZ, {"channel_axis": 0}, "no channels along axis 0"),
        (torch.zeros(9_000, dtype=torch.int32), RATE_HZ, {}, "int32 is neither a float type nor"),
        (np.zeros(9_000, dtype=np.uint8), RATE_HZ, {}, r"\(9000,\): uint8 is neither a float type"),
        (np.array(["a"] * 9_000), RATE_HZ, {}, "<U1 is neither a float type nor int16"),
        (torch.zeros(9_000, dtype=torch.cfloat), RATE_HZ, {}, "complex64 is neither a float type"),
        (torch.full((9_000,), torch.nan), RATE_HZ, {}, r"9000 samples are not finite .*is nan"),
        (torch.full((9_000,), -torch.inf), RATE_HZ, {}, r"not finite \(the first is -inf\)"),
        (torch.zeros(9_000), 0, {}, "sample rate: 0 is not a whole number of Hz above 0"),
        (torch.zeros(9_000), 16_000.5, {}, r"sample rate: 16000\.5 is not a whole number"),
    ],
)
def test_what_is_no_sound_is_refused_with_shape_value_and_rule(audio, rate_hz, options, message):
    with pytest.raises(ValueError, match=message):
        as_clips(audio, rate_hz, **options)


def tone(rate_hz, pitch_hz):
    time_s = torch.arange(rate_hz, dtype=torch.double) / rate_hz
    return torch.sin(2 * torch.pi * pitch_hz * time_s).float()[None]


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 44_056, 44_100, 48_000, 96_000])
def test_a_tone_is_resampled_to_the_same_tone(rate_hz):
    found = resampler(rate_hz, CPU)(tone(rate_hz, 2_000))
    assert found.shape == (1, RATE_HZ)
    inner = slice(1_000, -1_000)  # the filter reaches beyond both ends
    torch.testing.assert_close(found[:, inner], tone(RATE_HZ, 2_000)[:, inner], atol=1e-4, rtol=0)


def test_what_the_new_rate_cannot_hold_is_gone():
    left = resampler(44_100, CPU)(tone(44_100, 8_300))[:, 1_000:-1_000]
    assert left.abs().max() < 1e-5


def test_an_odd_rate_is_met_within_half_a_cent():
    found = resampler(15_996, CPU)(tone(15_996, 1_000))[0, :8_000]
    lag = torch.dot(found, tone(RATE_HZ, 1_000)[0, :8_000]) / 4_000
    assert lag > 0.7  # half a second at 1 kHz may drift by an eighth of a turn


def test_the_models_own_rate_is_left_alone():
    wave_BN = noise(2, 9_000)
    assert torch.equal(resampler(RATE_HZ, CPU)(wave_BN), wave_BN)
