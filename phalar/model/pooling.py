"""Pooling of the backbone's output into one vector: its slowest changes, or its mean.

Shape letters: B batch, C channels, F frequency bins, T time steps, D projected dimensions, K
components of the Fourier transform, R real and imaginary part.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

EPSILON = 1e-6

Pad = Literal["both", "right"]
"""Where a short sequence gets its zeros: on both sides (an odd rest goes right), or on the right
only, which keeps the phase an absolute position (beat tracking)."""


class SpectralPooling(nn.Module):
    """Describe a sequence by the phases and magnitudes of its slowest changes.

    Each time step is projected to `features` numbers; their real Fourier transform over time
    ('ortho') keeps components 1 to `components`, without the mean, and is divided by its mean
    magnitude, clip by clip. A circular shift of the sequence by t of T steps turns component k by
    2 pi k t / T.

    Parameters
    ----------
    channels, bins : int
        C and F of the input, flattened with the channel as the fast index.
    features, components : int
        D and K; the output has D * K entries with the component as the fast index.
    magnitude : bool
        Give magnitudes alone (R = 1), blind to when something happens.
    """

    def __init__(
        self,
        channels: int,
        bins: int,
        *,
        features: int = 80,
        components: int = 8,
        magnitude: bool = False,
    ) -> None:
        super().__init__()
        self.components = components
        self.magnitude = magnitude
        self.features_out = features * components
        self.projection = nn.Linear(bins * channels, features, bias=False)
        nn.init.xavier_normal_(self.projection.weight)

    def forward(self, z_BCFT: Tensor, *, pad: Pad = "both") -> Tensor:
        """Pool (B, C, F, T) to (B, 2, D * K), or (B, 1, D * K) for magnitudes."""
        steps_BTD = self.projection(z_BCFT.permute(0, 3, 2, 1).flatten(2))
        basis_TK = self._fourier_basis(steps_BTD, pad)
        spectrum_BRDK = (steps_BTD.mT @ basis_TK).unflatten(-1, (2, -1)).transpose(1, 2)
        # vector_norm, unlike a square root, has a finite gradient at the exact zeros of silence.
        magnitude_BDK: Tensor = torch.linalg.vector_norm(spectrum_BRDK, dim=1, keepdim=True)
        mean_B: Tensor = magnitude_BDK.mean(dim=(1, 2, 3), keepdim=True)
        pooled_BRDK = magnitude_BDK if self.magnitude else spectrum_BRDK
        return (pooled_BRDK / (mean_B + EPSILON)).flatten(2)

    def _fourier_basis(self, steps_BTD: Tensor, pad: Pad) -> Tensor:
        """Give cosines and negative sines (T, 2K) of the padded length, without its zeros.

        As a product with a small matrix the transform stays real, exports, and fuses.
        """
        if pad not in ("both", "right"):
            raise ValueError(f"pad: {pad!r} is not a side; choose 'both' or 'right'")
        count = steps_BTD.shape[1]
        length = max(count, 2 * (self.components + 1) + 1)
        first = (length - count) // 2 if pad == "both" else 0
        index_T = torch.arange(first, first + count, device=steps_BTD.device)
        index_K = torch.arange(1, self.components + 1, device=steps_BTD.device)
        # Whole turns are taken off in integers, so that long clips lose no precision.
        turns_TK = (torch.outer(index_T, index_K) % length).to(steps_BTD.dtype) / length
        angle_TK = 2 * math.pi * turns_TK
        return torch.cat((angle_TK.cos(), -angle_TK.sin()), dim=1) / math.sqrt(length)


class GlobalAverage(nn.Module):
    """Describe a sequence by the mean of each channel over frequency and time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features_out = channels

    def forward(self, z_BCFT: Tensor, *, pad: Pad = "both") -> Tensor:
        """Pool (B, C, F, T) to (B, 1, C); a mean needs no padding."""
        return z_BCFT.mean(dim=(2, 3)).unsqueeze(1)
