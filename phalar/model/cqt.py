"""The constant-Q transform as a few small convolutions over ever slower copies of the signal.

A direct transform multiplies every frame with kernels of up to 16,458 taps. Here half-band filters
halve the sample rate five times, and each bin is analysed at the lowest rate that holds its kernel's
spectrum, with a kernel of a few hundred taps that makes up for the filters (`cqt_kernels`). The signal
is read in blocks whose samples are the channels of an ordinary strided convolution: overlapping frames
are never copied, and every multiplication is part of a dense matrix product.

Shape letters: B batch, N audio samples, S steps of a convolution, F frequency bins, T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from phalar.model.cqt_kernels import BINS_PER_OCTAVE as BINS_PER_OCTAVE
from phalar.model.cqt_kernels import LOWEST_HZ as LOWEST_HZ
from phalar.model.cqt_kernels import SAMPLE_RATE_HZ as SAMPLE_RATE_HZ
from phalar.model.cqt_kernels import decimated_kernels, decimated_span, half_band

HOP_SAMPLES = 160
BINS = 96

# A step of the halving reads 32 new samples, in blocks of 8, and writes 16.
HALVING_OUTPUTS = 16
HALVING_BLOCK_SAMPLES = 8
HALVING_STRIDE = 2 * HALVING_OUTPUTS // HALVING_BLOCK_SAMPLES
HALF_BAND_REACH = len(half_band()) // 2
HALVING_BLOCKS = -(-2 * (HALVING_OUTPUTS + HALF_BAND_REACH) // HALVING_BLOCK_SAMPLES)

# Clips at a time on a CPU: few enough for its cache, many enough to hide the cost of a call.
CHUNK_CLIPS = 8
# With no more numbers than this, torch convolves a batch of one in another way, whose sums differ in
# the last bit; near a decibel feature's floor that bit would tell a clip's batch.
LONE_NUMBERS = 20_480


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
        """The name of the buffer that holds its kernels."""
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

    def steps(self, frames: int) -> int:
        """Give the steps that cover so many frames."""
        return -(-frames // self.frames_per_step)


# A bin is decimated as long as its kernel keeps 340 taps (300 from bin 36 on, 257 from bin 48 on, where
# a shorter kernel also counts for less): then aliases stay 1.1e-4 below in the scaled decibel feature.
# Beyond that the table minimises measured time: outputs come in multiples of a vector's 16 numbers, and
# cutting a group's kernels shorter by splitting it pays until calls and copies cost more.
GROUPS = (
    Group(0, 2, 5, 8, 20),
    Group(2, 6, 5, 4, 20),
    Group(8, 6, 4, 4, 20),
    Group(14, 6, 4, 4, 20),
    Group(20, 4, 3, 4, 16),
    Group(24, 8, 3, 2, 20),
    Group(32, 6, 2, 4, 20),
    Group(38, 8, 2, 2, 20),
    Group(46, 8, 1, 1, 20),
    Group(54, 7, 1, 1, 16),
    Group(61, 16, 0, 1, 16),
    Group(77, 19, 0, 1, 20),
)
LEVELS = 6


class ConstantQ(nn.Module):
    """The magnitude of a constant-Q transform: 96 bins from 16.35 Hz, 12 an octave, every 10 ms.

    Equal in value to nnAudio's ``CQT1992v2(sr=16000, hop_length=160, fmin=16.35, n_bins=96)``: centred
    frames, kernels of unit sum times the root of their length, and reflection at the ends. It is
    defined for any length from one sample up, where that reflection takes 1.024 s: the sound goes on
    as an even and periodic one, that is, it is reflected at its ends again and again.

    The kernels are constants, absent from the state dict. They and all sums stay float32 whatever
    autocast, TF32 or the model's own precision say.

    Notes
    -----
    Halving the rate from octave to octave is Schoerkhuber and Klapuri's idea, "Constant-Q transform
    toolbox for music processing" (2010); kernels fitted to the filters make it exact.
    """

    def __init__(self) -> None:
        super().__init__()
        for name, kernel in _kernels().items():
            self.register_buffer(name, kernel, persistent=False)

    def forward(self, wave_BN: Tensor) -> Tensor:
        """Turn sound at 16 kHz (B, N) into magnitudes (B, F, T=N//160+1), float32."""
        return in_chunks(lambda part_BN: _root(self.power(part_BN)), wave_BN)

    def power(self, wave_BN: Tensor) -> Tensor:
        """Give the squared magnitudes (B, F, T), whose gradient is finite at silence too."""
        if wave_BN.ndim != 2 or wave_BN.shape[1] < 1:
            raise ValueError(
                f"constant-Q input has shape {tuple(wave_BN.shape)}: must be (B, N) with N >= 1"
            )
        with full_precision(wave_BN.device.type):
            return self._power(wave_BN.float())

    def _power(self, wave_BN: Tensor) -> Tensor:
        clips, samples = wave_BN.shape
        frames = samples // HOP_SAMPLES + 1
        starts, lengths = _level_starts(), _level_lengths(frames)
        signal_BN = extend(wave_BN, -starts[0], lengths[0] + starts[0] - samples)
        parts_BFT: list[Tensor] = []
        for level in range(LEVELS):
            if level:
                steps = -(-lengths[level] // HALVING_OUTPUTS)
                kernel = self.get_buffer("halving")
                signal_BN = _convolve(signal_BN, kernel, steps, HALVING_STRIDE).flatten(1)
            for group in reversed(_groups(level)):
                window_BN = signal_BN[:, group.first_tap - starts[level] :]
                kernel, steps = self.get_buffer(group.name), group.steps(frames)
                product = _convolve(window_BN, kernel, steps, group.stride_blocks)
                real_squared, imag_squared = product.square().chunk(2, dim=-1)
                power_BTF = (real_squared + imag_squared).reshape(clips, -1, group.bins)
                parts_BFT.append(power_BTF[:, :frames].transpose(1, 2))
        return torch.cat(parts_BFT[::-1], dim=1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ConstantQ:
        """Follow the model to a device, but not to another precision."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, kernel in _kernels().items():
            if self.get_buffer(name).dtype != kernel.dtype:
                setattr(self, name, kernel.to(self.get_buffer(name).device))
        return self


@cache
def _kernels() -> dict[str, Tensor]:
    """Build the kernels of all convolutions (out, block, 1, blocks), once a process."""
    taps = half_band()[None, None]
    kernels = {
        "halving": _placed(taps, HALVING_OUTPUTS, 2, (HALVING_BLOCKS, HALVING_BLOCK_SAMPLES))
    }
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


@cache
def _groups(level: int) -> tuple[Group, ...]:
    return tuple(group for group in GROUPS if group.level == level)


@cache
def _level_starts() -> list[int]:
    """Give the time of each level's first sample relative to the first frame.

    A sample of time t at one level is the middle of taps that begin at 2 t - reach one level up.
    """
    deepest = LEVELS - 1
    base = min((g.first_tap - HALF_BAND_REACH) >> (deepest - g.level) for g in GROUPS)
    return [(base << (deepest - level)) + HALF_BAND_REACH for level in range(LEVELS)]


@lru_cache(maxsize=256)
def _level_lengths(frames: int) -> list[int]:
    """Give the samples that each level needs for so many frames."""
    lengths: list[int] = []
    for level in reversed(range(LEVELS)):
        needs = [
            group.first_tap
            - _level_starts()[level]
            + ((group.steps(frames) - 1) * group.stride_blocks + group.blocks) * group.block_samples
            for group in _groups(level)
        ]
        if lengths:
            steps = -(-lengths[0] // HALVING_OUTPUTS)
            blocks = (steps - 1) * HALVING_STRIDE + HALVING_BLOCKS
            needs.append(blocks * HALVING_BLOCK_SAMPLES)
        lengths.insert(0, max(needs))
    return lengths


def extend(wave_BN: Tensor, before: int, after: int) -> Tensor:
    """Continue a signal as an even and periodic one: reflect it at its ends, as often as it takes."""
    if wave_BN.shape[1] == 1:
        return wave_BN.expand(-1, before + 1 + after)
    while before or after:
        last = wave_BN.shape[1] - 1
        left, right = min(before, last), min(after, last)
        head_BN, tail_BN = wave_BN[:, 1 : left + 1], wave_BN[:, last - right : last]
        # Seven times as fast on one core as the reflecting mode of torch's `pad`.
        wave_BN = torch.cat((head_BN.flip(-1), wave_BN, tail_BN.flip(-1)), dim=-1)
        before, after = before - left, after - right
    return wave_BN


def _convolve(signal_BN: Tensor, kernel: Tensor, steps: int, stride: int) -> Tensor:
    """Convolve a signal with kernels (out, block, 1, blocks), block by block: (B, S, out)."""
    _, block, _, blocks = kernel.shape
    used_BN = signal_BN[:, : ((steps - 1) * stride + blocks) * block]
    if not _exporting() and len(used_BN) == 1 and used_BN.numel() <= LONE_NUMBERS:
        used_BN = used_BN.expand(2, -1)
    blocks_last = used_BN.view(len(used_BN), 1, -1, block)
    product = nn.functional.conv2d(blocks_last.permute(0, 3, 1, 2), kernel, stride=(1, stride))
    return product[: len(signal_BN)].permute(0, 2, 3, 1).squeeze(1)


def in_chunks(
    transform: Callable[[Tensor], Tensor], wave_BN: Tensor, *, clips: int = CHUNK_CLIPS
) -> Tensor:
    """Transform a batch in parts: faster in a CPU's cache, and little memory besides the result."""
    if wave_BN.is_cuda or _exporting() or len(wave_BN) <= clips:
        return transform(wave_BN)
    return torch.cat([transform(part_BN) for part_BN in torch.split(wave_BN, clips)])


def _root(power_BFT: Tensor) -> Tensor:
    # A root has no slope at zero: there magnitude and gradient shall be zero.
    audible_BFT = power_BFT > 0
    return torch.where(audible_BFT, power_BFT, 1.0).sqrt() * audible_BFT


def _exporting() -> bool:
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()


@contextmanager
def full_precision(device: str) -> Iterator[None]:
    """Compute in float32 proper: no autocast, and no TF32 or bfloat16 inside a product."""
    backend: Any = torch.backends.cudnn if device == "cuda" else torch.backends.mkldnn
    precision = backend.conv.fp32_precision
    backend.conv.fp32_precision = "ieee"
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        backend.conv.fp32_precision = precision
