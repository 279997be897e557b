"""The constant-Q transform as a few small convolutions over ever slower copies of the signal.

A direct constant-Q transform multiplies each frame with kernels of up to 16,458 taps. Here an octave is
analysed at the lowest sample rate that holds its kernels' spectra: half-band filters halve the rate five
times, and each kernel is the least-squares solution that makes filters and kernel together equal the
direct kernel (to 1.1e-7 of its peak response). A signal is read as blocks, a block's samples being the
channels of an ordinary convolution, so no overlapping frame is ever copied and every multiplication happens
in a dense matrix product.

Shape letters: B batch, N audio samples, R block rows, F frequency bins, T frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

SAMPLE_RATE_HZ = 16_000
HOP_SAMPLES = 160
BINS = 96
BINS_PER_OCTAVE = 12
LOWEST_HZ = 16.35

# A kernel is decimated while it keeps 257 taps: then what the half-bands let through of other bands meets
# its Hann window at side lobes below 1e-6.
SHORTEST_DECIMATED_TAPS = 257
MARGIN_TAPS = 2
LEVELS = 6
# Clips at a time on a CPU: few enough for the cache, many enough to hide the cost of a call.
CHUNK_CLIPS = 8

# Blocks of a halving: 32 samples in, 16 out, from two neighbouring blocks.
HALVING_BLOCK = 32
HALVING_ROWS = 2
# Where a half-band filter's centre lies in those 64 samples; even, so that time zero stays on the grid.
HALVING_CENTRE = 16


@dataclass(frozen=True)
class Group:
    """Neighbouring bins that are computed by one convolution at one sample rate."""

    first_bin: int
    bins: int
    level: int
    """The sample rate is 16 kHz / 2**level."""
    block_samples: int

    @property
    def name(self) -> str:
        """The name of the buffer that holds the group's kernels."""
        return f"bins_{self.first_bin}_to_{self.first_bin + self.bins - 1}"

    @property
    def hop_samples(self) -> int:
        """Samples from frame to frame at this level."""
        return HOP_SAMPLES >> self.level

    @property
    def frames_per_row(self) -> int:
        """Frames that begin within a block."""
        return self.block_samples // self.hop_samples


# Blocks and groups were chosen by measuring: matrix products with few rows, columns or terms are slow.
GROUPS = (
    Group(0, 12, 5, 20),
    Group(12, 12, 4, 20),
    Group(24, 12, 3, 40),
    Group(36, 12, 2, 80),
    Group(48, 12, 1, 160),
    Group(60, 12, 0, 160),
    Group(72, 24, 0, 160),
)


class ConstantQ(nn.Module):
    """The magnitude of a constant-Q transform at 16 kHz: 96 bins, 12 an octave from 16.35 Hz, hop 160.

    Equal in value to nnAudio's ``CQT1992v2(sr=16000, hop_length=160, fmin=16.35, n_bins=96)``, which is
    centred, pads by reflection and multiplies by the root of a kernel's length; defined for any length
    from one sample up, where reflection alone ends at 1.024 s: the sound is continued as an even and
    periodic one, that is, reflected at both ends again and again.

    The kernels are constants of the configuration: they are in no state dict, and they and all sums stay
    float32 whatever autocast, TF32 or the model's own precision say.

    Notes
    -----
    The multirate form follows Schoerkhuber and Klapuri, "Constant-Q transform toolbox for music processing"
    (2010); least-squares kernels, which undo the filters' slopes, are what makes it exact.
    """

    def __init__(self) -> None:
        super().__init__()
        for name, kernel in _kernels().items():
            self.register_buffer(name, kernel, persistent=False)

    def forward(self, wave_BN: Tensor) -> Tensor:
        """Turn sound at 16 kHz (B, N) into magnitudes (B, F=96, T=N//160+1), float32."""
        return in_chunks(lambda part_BN: _root(self.power(part_BN)), wave_BN)

    @torch.compiler.disable
    def power(self, wave_BN: Tensor) -> Tensor:
        """Give the squared magnitudes (B, F, T): differentiable at silence, and a root cheaper."""
        if wave_BN.ndim != 2 or wave_BN.shape[1] < 1:
            raise ValueError(
                f"constant-Q input has shape {tuple(wave_BN.shape)}: must be (B, N), N >= 1"
            )
        with full_precision(wave_BN.device.type):
            return self._power(wave_BN.float())

    def _power(self, wave_BN: Tensor) -> Tensor:
        """Analyse each level, halve the rate, and go on."""
        samples = wave_BN.shape[1]
        frames = samples // HOP_SAMPLES + 1
        lengths = _level_lengths(frames)
        starts = _level_starts()
        signal_BN = extend(wave_BN, -starts[0], lengths[0] + starts[0] - samples)
        power_BTF: list[Tensor] = []
        for level in range(LEVELS):
            if level:
                rows = -(-lengths[level] // (HALVING_BLOCK // 2))
                signal_BN = _block_convolution(signal_BN, self.halving, rows).flatten(1)
            for group in reversed([group for group in GROUPS if group.level == level]):
                rows = -(-frames // group.frames_per_row)
                window_BN = signal_BN[:, _first_tap(group) - starts[level] :]
                kernel = self.get_buffer(group.name)
                parts_BRF = _block_convolution(window_BN, kernel, rows).square().chunk(2, dim=-1)
                power_BRF = parts_BRF[0] + parts_BRF[1]
                power_BTF.append(power_BRF.reshape(len(wave_BN), -1, group.bins)[:, :frames])
        return torch.cat(power_BTF[::-1], dim=-1).transpose(1, 2)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ConstantQ:
        """Follow the model to a device, but not to a precision."""
        super()._apply(fn, recurse)
        for name, kernel in _kernels().items():
            buffer = self.get_buffer(name)
            if buffer.dtype != kernel.dtype:
                setattr(self, name, kernel.to(buffer.device))
        return self


def half_band(pairs: int = 6) -> NDArray[np.float64]:
    """Give a maximally flat half-band filter of 4 * pairs - 1 taps (Lagrange's interpolation midway)."""
    nodes = np.arange(1 - 2 * pairs, 2 * pairs, 2, dtype=np.float64)
    taps = np.zeros(4 * pairs - 1)
    for i, node in enumerate(nodes):
        others = np.delete(nodes, i)
        taps[2 * i] = 0.5 * np.prod(others / (others - node))
    taps[2 * pairs - 1] = 0.5
    return taps


def direct_kernel(bin_index: int) -> tuple[int, NDArray[np.complex128]]:
    """Give a bin's kernel at 16 kHz and the time of its first tap relative to the frame, in samples.

    A periodic Hann window times a complex exponential, normalised to a sum of magnitudes of sqrt(length).
    The window of an odd length sits half a sample early.
    """
    q = 1 / (2 ** (1 / BINS_PER_OCTAVE) - 1)
    frequency_hz = LOWEST_HZ * 2 ** (bin_index / BINS_PER_OCTAVE)
    taps = math.ceil(q * SAMPLE_RATE_HZ / frequency_hz)
    first = -((taps + 1) // 2)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(taps) / taps)
    phase = 2 * np.pi * frequency_hz / SAMPLE_RATE_HZ * np.arange(first, first + taps)
    return first, window * np.exp(1j * phase) * math.sqrt(taps) / window.sum()


@lru_cache(maxsize=None)
def _first_tap(group: Group) -> int:
    """Give the time of a group's first tap relative to its frame, in samples of its level."""
    first, _ = direct_kernel(group.first_bin)
    return (first >> group.level) - (MARGIN_TAPS if group.level else 0)


def _decimated_kernels(group: Group) -> NDArray[np.complex128]:
    """Give the kernels (bins, taps) that follow the half-bands of a group's level.

    With A the matrix that spreads a decimated kernel g over 16 kHz by the half-bands, and k the direct
    kernel, g is the least-squares solution of A g = k. Both sides of its normal equations are filters
    again: A^T k is the kernel sent through the halvings, and A^T A their autocorrelation, a Toeplitz matrix.
    """
    first, longest = direct_kernel(group.first_bin)
    if group.level:
        taps = -(-(first + len(longest)) >> group.level) + MARGIN_TAPS + 1 - _first_tap(group)
    else:
        taps = len(longest)
    filter_ = half_band()
    reach = len(filter_) // 2
    start, length = _first_tap(group), taps
    for _ in range(group.level):
        start, length = 2 * start - reach, 2 * length + 2 * reach - 1
    spread = np.zeros((group.bins, length), dtype=np.complex128)
    for row in range(group.bins):
        first, kernel = direct_kernel(group.first_bin + row)
        spread[row, first - start : first - start + len(kernel)] = kernel
    cascade = np.ones(1)
    for level in range(group.level):
        length = 2 * ((spread.shape[1] - 1) // 2 - reach) + 1
        spread = sum(h * spread[:, i : i + length : 2] for i, h in enumerate(filter_) if h)
        upsampled = np.zeros((len(filter_) - 1) * 2**level + 1)
        upsampled[:: 2**level] = filter_
        cascade = np.convolve(cascade, upsampled)
    correlation = np.correlate(cascade, cascade, "full")[len(cascade) - 1 :: 2**group.level]
    column = np.pad(correlation, (0, taps))[:taps]
    lags = np.abs(np.subtract.outer(np.arange(taps), np.arange(taps)))
    return np.linalg.solve(column[lags], spread.T).T


@lru_cache(maxsize=1)
def _kernels() -> dict[str, Tensor]:
    """Give all convolution kernels (out, block samples, rows, 1): pure constants, built once a process."""
    taps = half_band()
    halving = np.zeros((HALVING_BLOCK // 2, HALVING_ROWS * HALVING_BLOCK))
    for out in range(len(halving)):
        first = HALVING_CENTRE - len(taps) // 2 + 2 * out
        halving[out, first : first + len(taps)] = taps
    kernels = {"halving": _as_block_kernel(halving, HALVING_BLOCK)}
    for group in GROUPS:
        kernel = _decimated_kernels(group)
        taps_of = kernel.shape[1]
        span = taps_of + (group.frames_per_row - 1) * group.hop_samples
        width = -(-span // group.block_samples) * group.block_samples
        weight = np.zeros((2, group.frames_per_row, group.bins, width))
        for frame in range(group.frames_per_row):
            first = frame * group.hop_samples
            weight[0, frame, :, first : first + taps_of] = kernel.real
            weight[1, frame, :, first : first + taps_of] = kernel.imag
        kernels[group.name] = _as_block_kernel(weight.reshape(-1, width), group.block_samples)
    return kernels


def _as_block_kernel(weight: NDArray[np.float64], block_samples: int) -> Tensor:
    blocks = torch.from_numpy(weight.reshape(len(weight), -1, block_samples, 1)).float()
    return blocks.transpose(1, 2).contiguous(memory_format=torch.channels_last)


@lru_cache(maxsize=1)
def _level_starts() -> list[int]:
    """Give the time of the first sample that each level needs, in its own samples."""
    starts = [min(_first_tap(group) for group in GROUPS if group.level == LEVELS - 1)]
    while len(starts) < LEVELS:
        starts.insert(0, 2 * starts[0] - HALVING_CENTRE)
    return starts


def _level_lengths(frames: int) -> list[int]:
    """Give the samples that each level needs for so many frames."""
    lengths: list[int] = []
    for level in reversed(range(LEVELS)):
        needs = [
            _first_tap(group)
            - _level_starts()[level]
            + (-(-frames // group.frames_per_row) + _kernels()[group.name].shape[2] - 1)
            * group.block_samples
            for group in GROUPS
            if group.level == level
        ]
        if lengths:
            needs.append(
                (-(-lengths[0] // (HALVING_BLOCK // 2)) + HALVING_ROWS - 1) * HALVING_BLOCK
            )
        lengths.insert(0, max(needs))
    return lengths


def extend(wave_BN: Tensor, before: int, after: int) -> Tensor:
    """Continue a signal as an even and periodic one: reflect it at both ends, as often as it takes."""
    if wave_BN.shape[1] == 1:
        return wave_BN.expand(-1, before + 1 + after)
    while before or after:
        last = wave_BN.shape[1] - 1
        left, right = min(before, last), min(after, last)
        head_BN, tail_BN = wave_BN[:, 1 : left + 1], wave_BN[:, last - right : last]
        # Eight times as fast on one core as the reflecting mode of torch's own `pad`.
        wave_BN = torch.cat((head_BN.flip(-1), wave_BN, tail_BN.flip(-1)), dim=-1)
        before, after = before - left, after - right
    return wave_BN


def _block_convolution(signal_BN: Tensor, kernel: Tensor, rows: int) -> Tensor:
    """Convolve a signal with kernels (out, block, k, 1), block by block: (B, rows, out)."""
    _, block, k, _ = kernel.shape
    blocks = signal_BN[:, : (rows + k - 1) * block].unflatten(-1, (-1, 1, block))
    # A block's samples are the channels, and in memory channels come last.
    product = nn.functional.conv2d(blocks.permute(0, 3, 1, 2), kernel)
    return product.permute(0, 2, 3, 1).flatten(2)


def in_chunks(
    transform: Callable[[Tensor], Tensor], wave_BN: Tensor, *, clips: int = CHUNK_CLIPS
) -> Tensor:
    """Transform a batch in parts that fit a CPU's cache: faster, and with little memory besides the result."""
    whole = wave_BN.is_cuda or torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
    if whole or len(wave_BN) <= clips:
        return transform(wave_BN)
    return torch.cat([transform(part_BN) for part_BN in wave_BN.split(clips)])


def _root(power_BFT: Tensor) -> Tensor:
    # The root has no slope at zero; digital silence shall be zero and its gradient too.
    audible_BFT = power_BFT > 0
    return torch.where(audible_BFT, power_BFT, 1.0).sqrt() * audible_BFT


@contextmanager
def full_precision(device: str) -> Iterator[None]:
    """Compute in float32 proper: no autocast, no TF32 or bfloat16 inside a convolution."""
    backend: Any = torch.backends.cudnn if device == "cuda" else torch.backends.mkldnn
    precision = backend.conv.fp32_precision
    backend.conv.fp32_precision = "ieee"
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        backend.conv.fp32_precision = precision
