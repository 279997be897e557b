"""The backbone of the COCOLA baseline: EfficientNet-B0 over two mel spectrograms."""

import torch
from torch import Tensor, nn

from phalar.model.frontend import RANGE_DB


class HarmonicPercussiveEncoder(nn.Module):
    """EfficientNet-B0 that sees harmonic and percussive mels (4,007,260 parameters).

    In training each clip shows both channels, only the harmonic or only the percussive one, a
    third each; a hidden channel is silent.

    Notes
    -----
    "COCOLA: Coherence-Oriented Contrastive Learning of Musical Audio Representations", arXiv
    2404.16969. Its authors use another package's EfficientNet-B0; torchvision's has the same
    layers and counts.
    """

    channels_out = 1280

    def __init__(self) -> None:
        super().__init__()
        try:
            from torchvision.models import efficientnet_b0
        except ImportError as error:
            raise ImportError(
                "variant cocola needs torchvision: pip install 'phalar[cocola]'"
            ) from error
        self.layers = efficientnet_b0(weights=None).features
        first = self.layers[0][0]
        self.layers[0][0] = nn.Conv2d(2, first.out_channels, 3, stride=2, padding=1, bias=False)
        nn.init.kaiming_normal_(self.layers[0][0].weight, mode="fan_out")

    def forward(self, feature_BCFT: Tensor) -> Tensor:
        """Turn (B, 2, F, T) into (B, 1280, F / 32, T / 32)."""
        if self.training:
            choice_B = torch.randint(3, (len(feature_BCFT),), device=feature_BCFT.device)
            shown_BC = torch.stack((choice_B != 1, choice_B != 2), dim=1)
            feature_BCFT = torch.where(shown_BC[..., None, None], feature_BCFT, -RANGE_DB)
        z_BCFT: Tensor = self.layers(feature_BCFT)
        return z_BCFT
