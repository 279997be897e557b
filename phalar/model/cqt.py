"""The constant-Q transform as a few small convolutions over ever slower copies of the signal.

A direct transform multiplies every frame with kernels of up to 16,458 taps. Here half-band filters
halve the sample rate five times, and each bin is analysed at the lowest rate that holds its
kernel's spectrum, with a kernel of a few hundred taps that makes up for the filters (`cqt_kernels`,
`cqt_plan`).

Shape letters: B batch, N audio samples, S steps of a convolution, F frequency bins, T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from phalar.model.cqt_kernels import BINS as BINS
from phalar.model.cqt_kernels import BINS_PER_OCTAVE as BINS_PER_OCTAVE
from phalar.model.cqt_kernels import LOWEST_HZ as LOWEST_HZ
from phalar.model.cqt_kernels import SAMPLE_RATE_HZ as SAMPLE_RATE_HZ
from phalar.model.cqt_plan import HOP_SAMPLES as HOP_SAMPLES
from phalar.model.cqt_plan import Stretch, convolution_kernels, plan

# Clips at a time on a CPU, which its cache holds and which hide the cost of a call.
CHUNK_CLIPS = 8
# With no more numbers than this, torch convolves a batch of one in another way, slower and with
# other rounding, which near a decibel feature's floor shows; the two halves of a signal are a batch
# of two.
LONE_NUMBERS = 20_480
# Of fewer frames the rounding depends on the batch too; more are computed and left out.
LEAST_FRAMES = 16


class Float32Constants(nn.Module):
    """A module whose buffers are constants: they follow a model to a device, not to a precision."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in before.items():
            moved = self.get_buffer(name)
            if moved.dtype != buffer.dtype:
                setattr(self, name, buffer.to(moved.device))
        return self


class ConstantQ(Float32Constants):
    """The magnitude of a constant-Q transform: 96 bins from 16.35 Hz, 12 an octave, every 10 ms.

    Equal in value to nnAudio's ``CQT1992v2(16000, 160, fmin=16.35, n_bins=96)``: centred frames,
    kernels of unit sum times the root of their length, and reflection at the ends. It is defined
    for any length from one sample up, where that reflection takes 1.024 s: the sound goes on as an
    even and periodic one, that is, it is reflected at its ends again and again.

    The kernels are constants, absent from the state dict. They and all sums stay float32 whatever
    autocast, TF32 or the model's own precision say. `torch.onnx.export` takes it with any batch
    size and one length of sound.

    Notes
    -----
    Halving the rate from octave to octave is Schoerkhuber and Klapuri's idea, "Constant-Q transform
    toolbox for music processing" (2010); kernels fitted to the filters make it exact.

    Examples
    --------
    >>> ConstantQ()(torch.zeros(2, 80_000)).shape
    torch.Size([2, 96, 501])
    """

    def __init__(self) -> None:
        super().__init__()
        for name, kernel in convolution_kernels().items():
            self.register_buffer(name, kernel, persistent=False)

    def forward(self, wave_BN: Tensor) -> Tensor:
        """Turn sound at 16 kHz (B, N) into magnitudes (B, F, T=N//160+1), float32."""
        return in_chunks(lambda part_BN: _root(self.power(part_BN)), wave_BN, clips=CHUNK_CLIPS)

    def power(self, wave_BN: Tensor) -> Tensor:
        """Give the squared magnitudes (B, F, T), whose gradient is finite at silence too."""
        with full_precision(wave_BN.device.type):
            return self._power(wave_BN.float())

    def _power(self, wave_BN: Tensor) -> Tensor:
        samples = wave_BN.shape[1]
        frames = samples // HOP_SAMPLES + 1
        planned = plan(max(frames, LEAST_FRAMES))
        after = planned.samples - planned.before - samples
        signal_BN = extend(wave_BN, planned.before, after)
        parts_BFT: list[Tensor] = []
        for halving, groups in planned.levels:
            if halving:
                signal_BN = self._convolve(signal_BN, halving).flatten(1)
            for group, stretch in groups:
                real, imag = self._convolve(signal_BN, stretch).chunk(2, dim=-1)
                power = torch.addcmul(real.square(), imag, imag)
                # The outputs of a step are its frames and, within each, its bins.
                power_BTF = power.reshape(power.shape[0], -1, group.bins)[:, :frames]
                parts_BFT.append(power_BTF.transpose(1, 2))
        return torch.cat(parts_BFT[::-1], dim=1)

    def _convolve(self, signal_BN: Tensor, stretch: Stretch) -> Tensor:
        """Convolve a stretch of a signal, read in blocks: (B, S, out)."""
        kernel = self.get_buffer(stretch.kernel)
        outputs, block, _, blocks = kernel.shape
        part_BN = signal_BN[:, stretch.first : stretch.first + stretch.samples]
        lone = stretch.samples <= LONE_NUMBERS and not torch.compiler.is_exporting()
        if lone and part_BN.shape[0] == 1:
            half = stretch.steps // 2 * stretch.stride_blocks * block
            overlap = (blocks - stretch.stride_blocks) * block
            part_BN = torch.cat((part_BN[:, : half + overlap], part_BN[:, half:]))
        blocks_last = part_BN.view(part_BN.shape[0], 1, -1, block).permute(0, 3, 1, 2)
        product = nn.functional.conv2d(blocks_last, kernel, stride=(1, stretch.stride_blocks))
        return product.permute(0, 2, 3, 1).reshape(signal_BN.shape[0], -1, outputs)


def extend(wave_BN: Tensor, before: int, after: int) -> Tensor:
    """Continue a signal as an even and periodic one, reflecting it at its ends again and again."""
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


def in_chunks(transform: Callable[[Tensor], Tensor], wave_BN: Tensor, *, clips: int) -> Tensor:
    """Transform a batch so many clips at a time on a CPU, sixteen times as many on a GPU.

    It is faster in a CPU's cache and takes little memory besides the result.
    """
    if wave_BN.ndim != 2 or wave_BN.shape[1] < 1:
        raise ValueError(f"sound has shape {tuple(wave_BN.shape)}: must be (B, N) with N >= 1")
    clips *= 16 if wave_BN.is_cuda else 1
    if torch.compiler.is_exporting() or wave_BN.shape[0] <= clips:
        return transform(wave_BN)
    first = transform(wave_BN[:clips])
    # Written in place: collecting all parts first takes twice the memory and a seventh more time.
    result = first.new_empty((len(wave_BN), *first.shape[1:]))
    result[:clips] = first
    for i in range(clips, len(wave_BN), clips):
        result[i : i + clips] = transform(wave_BN[i : i + clips])
    return result


def _root(power_BFT: Tensor) -> Tensor:
    # The root's slope at zero is infinite; this way silence is zero, and so is its gradient.
    return power_BFT.clamp_min(2.0**-126).sqrt() - 2.0**-63


@contextmanager
def full_precision(device: str) -> Iterator[None]:
    """Convolve in float32 proper: no autocast, and no TF32 or bfloat16 inside a product."""
    if torch.compiler.is_exporting():
        # A graph holds no such switches; whoever runs it decides.
        yield
        return
    backend: Any = torch.backends.cudnn if device == "cuda" else torch.backends.mkldnn
    precision = backend.conv.fp32_precision
    backend.conv.fp32_precision = "ieee"
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        backend.conv.fp32_precision = precision
