"""Spectral pooling against NumPy's Fourier transform, and the shift theorem it rests on."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from phalar.model.complex_layers import to_complex
from phalar.model.pooling import GlobalAverage, SpectralPooling

CHANNELS, BINS, FEATURES, COMPONENTS = 3, 4, 5, 8


@pytest.fixture
def pooling():
    torch.manual_seed(0)
    return SpectralPooling(CHANNELS, BINS, features=FEATURES).double()


def steps(count, clips=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(clips, CHANNELS, BINS, count, dtype=torch.double, generator=generator)


def slow_pooling(z_BCFT, weight, pad):
    """Do the same with loops and NumPy's transform."""
    pooled = []
    for z_CFT in z_BCFT.numpy():
        count = z_CFT.shape[-1]
        sequence = np.zeros((max(count, 19), FEATURES))
        first = max(19 - count, 0) // 2 if pad == "both" else 0
        for t in range(count):
            flat = [z_CFT[c, f, t] for f in range(BINS) for c in range(CHANNELS)]
            sequence[first + t] = weight.detach().numpy() @ flat
        spectrum_DK = np.fft.rfft(sequence, axis=0, norm="ortho")[1 : COMPONENTS + 1].T
        pooled.append((spectrum_DK / (np.abs(spectrum_DK).mean() + 1e-6)).reshape(-1))
    return np.stack(pooled)


@pytest.mark.parametrize("pad", ["both", "right"])
@pytest.mark.parametrize("count", [1, 2, 16, 18, 19, 20, 32, 57])
def test_equals_the_slow_version(pooling, count, pad):
    z_BCFT = steps(count)
    expected = slow_pooling(z_BCFT, pooling.projection.weight, pad)
    found = to_complex(pooling(z_BCFT, pad=pad)).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("count", [19, 32])
@pytest.mark.parametrize("shift", [1, 5])
def test_a_circular_shift_turns_component_k_by_2_pi_k_t_over_the_length(pooling, count, shift):
    z_BCFT = steps(count)
    before = to_complex(pooling(z_BCFT)).unflatten(-1, (FEATURES, COMPONENTS))
    after = to_complex(pooling(z_BCFT.roll(shift, -1))).unflatten(-1, (FEATURES, COMPONENTS))
    angle_K = 2 * torch.pi * torch.arange(1, COMPONENTS + 1).double() * shift / count
    torch.testing.assert_close(after, before * torch.exp(-1j * angle_K))


def test_sides_of_padding_differ_by_a_shift_of_phase_alone(pooling):
    z_BCFT = steps(16)
    both, right = (to_complex(pooling(z_BCFT, pad=pad)) for pad in ("both", "right"))
    torch.testing.assert_close(both.abs(), right.abs())
    assert not torch.allclose(both, right)


def test_a_constant_is_left_out_and_loudness_divided_away(pooling):
    z_BCFT = steps(32)
    expected = pooling(z_BCFT)
    torch.testing.assert_close(pooling(z_BCFT + 7), expected)
    torch.testing.assert_close(pooling(z_BCFT * 100), expected, rtol=1e-5, atol=1e-5)


def test_the_mean_magnitude_of_each_clip_is_one(pooling):
    magnitude = to_complex(
        pooling(steps(32) * torch.tensor([1.0, 50.0])[:, None, None, None])
    ).abs()
    torch.testing.assert_close(magnitude.mean(-1), torch.ones(2).double(), atol=1e-5, rtol=0)


def test_magnitudes_are_those_of_the_complex_form_and_blind_to_a_shift(pooling):
    blind = SpectralPooling(CHANNELS, BINS, features=FEATURES, magnitude=True).double()
    blind.load_state_dict(pooling.state_dict())
    z_BCFT = steps(32)
    assert blind(z_BCFT).shape == (2, 1, FEATURES * COMPONENTS)
    torch.testing.assert_close(blind(z_BCFT)[:, 0], to_complex(pooling(z_BCFT)).abs())
    torch.testing.assert_close(blind(z_BCFT.roll(3, -1)), blind(z_BCFT))


def test_gradient_equals_finite_differences(pooling):
    z_BCFT = steps(7).requires_grad_()
    assert gradcheck(lambda z, _: pooling(z), (z_BCFT, pooling.projection.weight))


def test_stillness_has_finite_values_and_gradients(pooling):
    z_BCFT = torch.zeros(2, CHANNELS, BINS, 19, dtype=torch.double, requires_grad=True)
    pooled = pooling(z_BCFT)
    pooled.sum().backward()
    assert not pooled.any()
    assert z_BCFT.grad.isfinite().all()


def test_an_unknown_side_is_refused(pooling):
    with pytest.raises(ValueError, match="pad: 'left' is not a side; choose 'both' or 'right'"):
        pooling(steps(5), pad="left")


def test_the_projection_starts_xavier_normal():
    weight = SpectralPooling(60, 96).projection.weight
    assert weight.shape == (80, 5760)
    assert weight.std().item() == pytest.approx((2 / (80 + 5760)) ** 0.5, rel=0.01)


def test_global_average_is_the_mean_of_each_channel():
    z_BCFT = steps(9)
    pooled = GlobalAverage(CHANNELS)(z_BCFT)
    assert pooled.shape == (2, 1, CHANNELS)
    torch.testing.assert_close(pooled[1, 0, 2], z_BCFT[1, 2].sum() / (BINS * 9))
