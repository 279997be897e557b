"""The convolutional backbone: a feature in, 60 channels with a 32nd of the frames out.

Shape letters: B batch, C channels, F frequency bins, T frames.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from phalar.model import fused

DEPTH = 5
FIRST_CHANNELS = 8
CLIPS_IN_CACHE = 2
"""So many clips of 5 s go through the modules at a time where no gradient is wanted: a layer then
still finds in a core's cache what the one before it left there. Sixteen at a time take 2.7 times as
long on a CPU."""

Axis = Literal["frequency", "time", "point"]


class Branch(nn.Module):
    """Normalise each clip's channels, mix them with their neighbours, and add that to the input.

    The learned scale starts at zero, so a fresh branch is the identity.
    """

    def __init__(self, channels: int, axis: Axis, dropout: float) -> None:
        super().__init__()
        kernel = {"frequency": (3, 1), "time": (1, 3), "point": (1, 1)}[axis]
        middle = 2 * channels if axis == "point" else channels
        self.scale = nn.Parameter(torch.zeros(channels))
        self.norm = nn.GroupNorm(channels, channels)
        self.mix = nn.Conv2d(channels, middle, kernel, padding="same")
        self.merge = nn.Conv2d(middle, channels, 1, bias=False)
        self.dropout = nn.Dropout2d(dropout)
        nn.init.kaiming_normal_(self.mix.weight)
        nn.init.constant_(self.mix.get_parameter("bias"), 0)
        nn.init.xavier_normal_(self.merge.weight)

    def forward(self, x_BCFT: Tensor) -> Tensor:
        """Return the input plus this branch's change of it, in the same shape."""
        mixed_BCFT = self.mix(self.norm(x_BCFT))
        if self.training or torch.is_grad_enabled():
            change_BCFT = self.merge(nn.functional.silu(mixed_BCFT))
            change_BCFT = self.dropout(self.scale[:, None, None] * change_BCFT)
        else:  # two passes over memory less: in place, and the scale within the weights
            weight = self.scale[:, None, None, None] * self.merge.weight
            silu_BCFT = nn.functional.silu(mixed_BCFT, inplace=True)
            change_BCFT = nn.functional.conv2d(silu_BCFT, weight)
        out_BCFT: Tensor = x_BCFT + change_BCFT
        return out_BCFT


class Block(nn.Module):
    """Branches over frequency, over time and within a point, then perhaps half the frames."""

    def __init__(self, channels: int, channels_out: int | None, dropout: float) -> None:
        super().__init__()
        self.frequency = Branch(channels, "frequency", dropout)
        self.time = Branch(channels, "time", dropout)
        self.point = Branch(channels, "point", dropout)
        self.shrink: nn.Module = nn.Identity()
        if channels_out is not None:
            self.shrink = nn.Conv2d(
                channels, channels_out, (1, 3), stride=(1, 2), padding=(0, 1), bias=False
            )
            nn.init.xavier_normal_(self.shrink.weight)

    def forward(self, x_BCFT: Tensor) -> Tensor:
        """Apply the branches in turn and the strided convolution last."""
        out_BCFT: Tensor = self.shrink(self.point(self.time(self.frequency(x_BCFT))))
        return out_BCFT


class Encoder(nn.Module):
    """The convolutional backbone of PHALAR (127,344 parameters).

    Frequency keeps its resolution, so that a shift in pitch stays a shift; time is halved five
    times while the channels grow by half each time, rounded down: 8, 12, 18, 27, 40, 60. Clips
    never mix.

    Parameters
    ----------
    dropout : float
        Probability that a channel of a branch's change is left out in training.

    Attributes
    ----------
    channels_out : int
        60.
    compiled : bool
        Whether float32 on a CPU may run in the compiled kernel (`phalar.model.fused`), with
        gradients equal to those of the modules but for rounding, and the same dropout.

    Notes
    -----
    "PHALAR: Phasors for Learned Musical Audio Representations", arXiv 2605.03929.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.compiled = True
        self.lift = nn.Conv2d(1, FIRST_CHANNELS, 1, bias=False)
        nn.init.xavier_normal_(self.lift.weight)
        self.blocks = nn.ModuleList()
        channels = FIRST_CHANNELS
        for _ in range(DEPTH):
            channels_out = channels * 3 // 2
            self.blocks.extend(
                [Block(channels, channels_out, dropout), Block(channels_out, None, dropout)]
            )
            channels = channels_out
        self.channels_out = channels

    def forward(self, feature_BCFT: Tensor) -> Tensor:
        """Encode a feature.

        Parameters
        ----------
        feature_BCFT : float tensor [shape=(B, 1, F, T)]
            Scaled decibels, one frame each 10 ms; any F and T from 1 up.

        Returns
        -------
        float tensor [shape=(B, channels_out, F, ceil(T / 32))]
            One step each 320 ms.

        Raises
        ------
        ValueError
            If the feature has another shape.
        """
        shape = tuple(feature_BCFT.shape)
        if len(shape) != 4 or shape[1] != 1 or 0 in shape[2:]:
            raise ValueError(f"Encoder: feature of shape {shape}, must be (B, 1, F >= 1, T >= 1)")
        if self.compiled and fused.usable(feature_BCFT, self.lift.weight):
            return self._forward_compiled(feature_BCFT)
        traced = torch.compiler.is_compiling()
        wanted = self.training or torch.is_grad_enabled()
        if wanted or traced or feature_BCFT.device.type != "cpu":
            return self._forward_modules(feature_BCFT)
        parts = torch.split(feature_BCFT, CLIPS_IN_CACHE)
        return torch.cat([self._forward_modules(part_BCFT) for part_BCFT in parts])

    def _forward_modules(self, feature_BCFT: Tensor) -> Tensor:
        x_BCFT: Tensor = self.lift(feature_BCFT)
        for block in self.blocks:
            x_BCFT = block(x_BCFT)
        return x_BCFT

    def _forward_compiled(self, feature_BCFT: Tensor) -> Tensor:
        """Draw dropout as the modules would, from the same random numbers, and run the kernel."""
        keeps_BC = []
        for branch in self.modules():
            if isinstance(branch, Branch):
                ones_BCFT = feature_BCFT.new_ones(len(feature_BCFT), len(branch.scale), 1, 1)
                keeps_BC.append(branch.dropout(ones_BCFT).flatten(1))
        weights = torch.cat([weight.flatten() for weight in self.parameters()])
        steps = -(-feature_BCFT.shape[-1] // 2**DEPTH)
        shape = (FIRST_CHANNELS, DEPTH, self.channels_out, steps)
        keep_BC = torch.cat(keeps_BC, 1)
        out_BCFT: Tensor = fused.Encode.apply(feature_BCFT, keep_BC, weights, shape)  # type: ignore[no-untyped-call]
        return out_BCFT
