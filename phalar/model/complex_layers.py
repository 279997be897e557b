"""Layers on complex numbers that commute with a common rotation of the phases.

A complex vector is two reals on an axis of its own, real part first. Shape letters: B batch, R
real and imaginary part (R = 2), D dimensions. Every layer here keeps f(e^{ia} z) = e^{ia} f(z),
which is what lets a shift in time, an angle after the Fourier transform, reach the embedding as an
angle.
"""

import math

import torch
from torch import Tensor, nn

EPSILON = 1e-6


def to_parts(z: Tensor) -> Tensor:
    """Turn complex numbers (..., D) into their real and imaginary parts (..., 2, D)."""
    return torch.stack((z.real, z.imag), dim=-2)


def to_complex(z_RD: Tensor) -> Tensor:
    """Turn parts (..., R, D) into complex numbers (..., D); R = 1 has no imaginary part."""
    real, imag = z_RD[..., 0, :], z_RD[..., 1:, :].sum(-2)
    return torch.complex(real, imag)


class ComplexLinear(nn.Module):
    """Multiply by a complex matrix A + iB, held as one real weight: A above B.

    Parameters
    ----------
    in_features, out_features : int
        Complex dimensions in and out; the weight is (2 * out_features, in_features). There is no
        bias: adding a constant would not commute with a rotation.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2 * out_features, in_features))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        with torch.no_grad():
            self.weight.mul_(1 / math.sqrt(2))

    def forward(self, z_BRD: Tensor) -> Tensor:
        """Map (..., 2, in_features) to (..., 2, out_features)."""
        products_BRD = nn.functional.linear(z_BRD, self.weight)
        by_real, by_imag = products_BRD.chunk(2, dim=-1)
        real = by_real[..., 0, :] - by_imag[..., 1, :]
        imag = by_real[..., 1, :] + by_imag[..., 0, :]
        return torch.stack((real, imag), dim=-2)


class ComplexDropout(nn.Dropout):
    """Drop a complex number as a whole: its real and imaginary part share one mask."""

    def forward(self, z_BRD: Tensor) -> Tensor:
        """Drop and rescale in training, return the input otherwise."""
        if not self.training:
            return z_BRD
        return z_BRD * super().forward(torch.ones_like(z_BRD[..., :1, :]))


class ComplexRMSNorm(nn.Module):
    """Divide by the root mean square magnitude and apply a real gain; nothing is shifted."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(features))

    def forward(self, z_BRD: Tensor) -> Tensor:
        """Normalise each vector (..., 2, D) over both of its axes."""
        power_B = z_BRD.square().sum(-2, keepdim=True).mean(-1, keepdim=True)
        return z_BRD * torch.rsqrt(power_B + EPSILON) * self.gain


class ModReLU(nn.Module):
    """Shrink or stretch each magnitude by a learned real bias, not below zero; angles stay."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.full((features,), -0.01))

    def forward(self, z_BRD: Tensor) -> Tensor:
        """Scale each number of (..., 2, D) by relu(|z| + bias) / |z|."""
        magnitude_BD = torch.sqrt(z_BRD.square().sum(-2, keepdim=True) + EPSILON)
        return z_BRD * (torch.relu(magnitude_BD + self.bias) / magnitude_BD)
