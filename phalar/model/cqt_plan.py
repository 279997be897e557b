"""Which bins of the constant-Q transform are computed at which sample rate, and from which samples.

A level is the signal after so many halvings of its rate. Each group of bins is one convolution over
its level's signal, which it reads in blocks: a block's samples are channels, so that a strided
convolution over blocks is a dense matrix product and no overlap of frames is ever copied.
"""

from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phalar.model.cqt_kernels import decimated_kernels, decimated_span, half_band

HOP_SAMPLES = 160
LEVELS = 6

# A step of the halving reads 32 new samples, in blocks of 8, and writes 16.
HALVING_OUTPUTS = 16
HALVING_BLOCK_SAMPLES = 8
HALVING_STRIDE = 2 * HALVING_OUTPUTS // HALVING_BLOCK_SAMPLES
HALF_BAND_REACH = len(half_band()) // 2
HALVING_BLOCKS = -(-2 * (HALVING_OUTPUTS + HALF_BAND_REACH) // HALVING_BLOCK_SAMPLES)


@dataclass(frozen=True)
class Group:
    """Neighbouring bins that one convolution computes, at the sample rate 16 kHz / 2**level.

    A step of the convolution gives `frames_per_step` frames and moves on by whole blocks.
    """

    first_bin: int
    bins: int
    level: int
    frames_per_step: int
    block_samples: int

    @property
    def name(self) -> str:
        """The name of its kernels."""
        return f"bins_{self.first_bin}_to_{self.first_bin + self.bins - 1}"

    @property
    def hop_samples(self) -> int:
        """Samples from frame to frame, at its rate."""
        return HOP_SAMPLES >> self.level

    @property
    def stride_blocks(self) -> int:
        """Blocks from step to step."""
        return self.frames_per_step * self.hop_samples // self.block_samples

    @cached_property
    def first_tap(self) -> int:
        """The time of its first tap relative to the frame, in samples at its rate."""
        return decimated_span(self.first_bin, self.level)[0]

    @cached_property
    def blocks(self) -> int:
        """Blocks that a step reads."""
        taps = decimated_span(self.first_bin, self.level)[1]
        return -(-(taps + (self.frames_per_step - 1) * self.hop_samples) // self.block_samples)


# A bin is decimated while its kernel keeps 340 taps, 272 from bin 44 on. Aliases then change the
# scaled decibel feature by 1e-4 at most in music and 3e-4 in drums alone, each time near its floor;
# float32 sums in a direct transform change it by 6e-5 and 5e-4. The rest was chosen by measuring:
# outputs in multiples of a vector's 16 numbers, and groups as small as their calls and copies are
# worth.
GROUPS = (
    Group(0, 8, 5, 4, 20),
    Group(8, 12, 4, 2, 20),
    Group(20, 12, 3, 2, 20),
    Group(32, 12, 2, 2, 20),
    Group(44, 16, 1, 1, 16),
    Group(60, 16, 0, 1, 16),
    Group(76, 20, 0, 1, 16),
)


@dataclass(frozen=True)
class Stretch:
    """What one convolution reads of its level's signal: an even number of steps."""

    kernel: str
    first: int
    steps: int
    samples: int
    stride_blocks: int


class Level(NamedTuple):
    """How a level's signal comes from the one above it, and the groups that read it."""

    halving: Stretch | None
    groups: tuple[tuple[Group, Stretch], ...]


class Plan(NamedTuple):
    """All convolutions for a number of frames; samples before the first frame, and in all."""

    before: int
    samples: int
    levels: tuple[Level, ...]


@lru_cache(maxsize=256)
def plan(frames: int) -> Plan:
    """Plan from the lowest rate up: each level holds what its groups and the next level read."""
    levels: list[Level] = []
    length = 0
    for level, start in reversed(list(enumerate(level_starts()))):
        groups = []
        for group in reversed([group for group in GROUPS if group.level == level]):
            steps = 2 * -(-frames // (2 * group.frames_per_step))
            samples = ((steps - 1) * group.stride_blocks + group.blocks) * group.block_samples
            first, stride = group.first_tap - start, group.stride_blocks
            groups.append((group, Stretch(group.name, first, steps, samples, stride)))
            length = max(length, first + samples)
        halving = None
        if level:
            steps = 2 * -(-length // (2 * HALVING_OUTPUTS))
            length = ((steps - 1) * HALVING_STRIDE + HALVING_BLOCKS) * HALVING_BLOCK_SAMPLES
            halving = Stretch("halving", 0, steps, length, HALVING_STRIDE)
        levels.insert(0, Level(halving, tuple(groups)))
    return Plan(-level_starts()[0], length, tuple(levels))


@cache
def level_starts() -> tuple[int, ...]:
    """Give the time of each level's first sample relative to the first frame.

    A sample of time t at one level is the middle of taps that begin at 2 t - reach one level up.
    """
    deepest = LEVELS - 1
    base = min((g.first_tap - HALF_BAND_REACH) >> (deepest - g.level) for g in GROUPS)
    return tuple((base << (deepest - level)) + HALF_BAND_REACH for level in range(LEVELS))


@cache
@torch.inference_mode(False)
def convolution_kernels() -> dict[str, Tensor]:
    """Build the kernels of all convolutions (out, block, 1, blocks), once a process.

    They serve gradients too, even if the first to ask for them computes in inference mode.
    """
    taps = half_band()[None, None]
    halving_shape = (HALVING_BLOCKS, HALVING_BLOCK_SAMPLES)
    kernels = {"halving": _placed(taps, HALVING_OUTPUTS, 2, halving_shape)}
    for group in GROUPS:
        complex_taps = decimated_kernels(group.first_bin, group.bins, group.level)
        taps = np.stack((complex_taps.real, complex_taps.imag))
        shape = (group.blocks, group.block_samples)
        kernels[group.name] = _placed(taps, group.frames_per_step, group.hop_samples, shape)
    return kernels


def _placed(
    taps: NDArray[np.float64], copies: int, hop_samples: int, shape: tuple[int, int]
) -> Tensor:
    """Repeat taps (parts, bins, taps) once for each output of a step, a hop apart."""
    parts, bins, length = taps.shape
    placed = np.zeros((parts, copies, bins, shape[0] * shape[1]), dtype=np.float32)
    for copy in range(copies):
        first = copy * hop_samples
        placed[:, copy, :, first : first + length] = taps
    # Samples of a block are channels, and in memory channels come last.
    return torch.from_numpy(placed.reshape(-1, 1, *shape)).permute(0, 3, 1, 2)
