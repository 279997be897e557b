"""The constant-Q kernels, and what they become after halvings of the signal's sample rate.

Times are in samples at the rate at hand, relative to the middle of a frame.
"""

import math

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
BINS = 96
BINS_PER_OCTAVE = 12
LOWEST_HZ = 16.35

# Lagrange's interpolation midway, from five samples on either side. Its zeros lie at half the rate,
# where the images of the kernels' main lobes fall; four samples would let 7e-7 of them through,
# five 1.4e-7.
HALF_BAND_PAIRS = 5


def half_band() -> NDArray[np.float64]:
    """Give the maximally flat half-band filter of 19 taps that precedes a halving of the rate."""
    times = np.arange(1.0 - 2 * HALF_BAND_PAIRS, 2 * HALF_BAND_PAIRS, 2)
    taps = np.zeros(2 * len(times) - 1)
    for i, time in enumerate(times):
        others = np.delete(times, i)
        taps[2 * i] = 0.5 * np.prod(others / (others - time))
    taps[len(times) - 1] = 0.5
    return taps


def bin_hz(bin_index: int) -> float:
    """Give the frequency of a bin."""
    return float(LOWEST_HZ * 2 ** (bin_index / BINS_PER_OCTAVE))


def kernel_span(bin_index: int) -> tuple[int, int]:
    """Give the time of a direct kernel's first tap and its number of taps, at 16 kHz.

    A kernel holds 16.8 periods of its bin; one of odd length sits half a sample early.
    """
    q = 1 / (2 ** (1 / BINS_PER_OCTAVE) - 1)
    taps = math.ceil(q * SAMPLE_RATE_HZ / bin_hz(bin_index))
    return -((taps + 1) // 2), taps


def direct_kernel(bin_index: int) -> NDArray[np.complex128]:
    """Give a bin's kernel at 16 kHz: a periodic Hann window times a complex exponential.

    Its magnitudes add up to the square root of its length.
    """
    first, taps = kernel_span(bin_index)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(taps) / taps)
    turns = bin_hz(bin_index) / SAMPLE_RATE_HZ * np.arange(first, first + taps)
    kernel: NDArray[np.complex128] = window / window.sum() * np.exp(2j * np.pi * turns)
    kernel *= math.sqrt(taps)
    return kernel


def decimated_span(bin_index: int, level: int) -> tuple[int, int]:
    """Give the first tap and the number of taps that cover a kernel at 16 kHz / 2**level."""
    first, taps = kernel_span(bin_index)
    last = -(-(first + taps - 1) >> level)
    return first >> level, last - (first >> level) + 1


def decimated_kernels(first_bin: int, bins: int, level: int) -> NDArray[np.complex128]:
    """Give the kernels (bins, taps) that do at 16 kHz / 2**level what direct ones do at 16 kHz.

    Let A spread a decimated kernel g back to 16 kHz through the half-bands. Of all g the
    least-squares solution of A g = k comes nearest to the direct kernel k. Its normal equations
    need no A: A^T k is k sent through the halvings as the signal is, and A^T A is a Toeplitz
    matrix, the autocorrelation of the half-bands, whose eigenvalues lie between 1/2 and 1. What is
    left of A g - k is alias: the tails of a window's spectrum about half the low rate, which fall
    with the third power of the taps.

    All kernels have the span of the lowest bin's.
    """
    first, taps = decimated_span(first_bin, level)
    filter_taps = half_band()
    reach = len(filter_taps) // 2
    start, width = first, taps
    for _ in range(level):
        start, width = 2 * start - reach, 2 * (width + reach) - 1
    projected = np.zeros((bins, width), dtype=np.complex128)
    for row in range(bins):
        kernel = direct_kernel(first_bin + row)
        offset = kernel_span(first_bin + row)[0] - start
        projected[row, offset : offset + len(kernel)] = kernel
    cascade = np.ones(1)
    for i in range(level):
        projected = _halve(projected, filter_taps)
        spread = np.zeros((len(filter_taps) - 1) * 2**i + 1)
        spread[:: 2**i] = filter_taps
        cascade = np.convolve(cascade, spread)
    correlation = np.correlate(cascade, cascade, "full")[len(cascade) - 1 :: 2**level]
    column = np.pad(correlation, (0, taps))[:taps]
    lags = np.abs(np.subtract.outer(np.arange(taps), np.arange(taps)))
    return np.linalg.solve(column[lags], projected.T).T.astype(np.complex128)


def _halve(signal: NDArray[np.complex128], taps: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Filter along the last axis and keep every second of the samples that all taps reach."""
    width = signal.shape[-1] - len(taps) + 1
    halved = np.zeros((*signal.shape[:-1], (width + 1) // 2), dtype=np.complex128)
    for i in np.flatnonzero(taps):
        halved += taps[i] * signal[..., i : i + width : 2]
    return halved
