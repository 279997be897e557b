"""Tell by the sound alone that two tracks are the same music, in another file or at another level.

Peaks of the spectrum are joined to their neighbours, as in "An Industrial Strength Audio Search
Algorithm" (Wang, 2003): a triple (frequency, frequency, time between them) outlives another
codec, rate, level or beginning. Of a track's triples those with the smallest hashes are kept, so
that what two tracks share can be estimated from a few hundred numbers each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FRAME_SAMPLES, HOP_SAMPLES = 1024, 512
BANDS = 6
"""In each frame the strongest peak of each octave is taken."""
REACH_FRAMES = 32
"""A peak is joined to those that follow within a second."""
FAN = 5
"""... the first so many of them."""
QUIETEST = 0.2
"""Peaks below this share of their octave's loudest do not outlive a lossy codec."""
SKETCH = 512
"""Triples that are kept of each track."""
COMMONEST = 50
"""A triple that more tracks than this share tells no two of them apart."""

Sketch = NDArray[np.uint32]
"""Hashes [shape=(n <= SKETCH,)], rising."""


def sketch(audio: NDArray[np.float32]) -> Sketch:
    """Boil a mono signal at 16 kHz down to the smallest hashes of its triples."""
    if len(audio) < FRAME_SAMPLES:
        return np.empty(0, dtype=np.uint32)
    time, frequency = _peaks(audio)
    found = []
    for step in range(1, FAN * BANDS + 1):
        # Halved: frames of two files do not begin at the same samples.
        apart = time[step:] - time[:-step]
        near = (apart > 0) & (apart <= REACH_FRAMES)
        triple = (frequency[:-step] << 20) | (frequency[step:] << 8) | (apart >> 1)
        found.append(triple[near])
    return np.unique(_mixed(np.concatenate(found).astype(np.uint32)))[:SKETCH]


def _peaks(audio: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Times and frequencies, in frames and bins, of peaks in time and frequency, by time."""
    window = np.hanning(FRAME_SAMPLES).astype(np.float32)
    view = np.lib.stride_tricks.sliding_window_view(audio, FRAME_SAMPLES)[::HOP_SAMPLES]
    # In blocks: the spectrum of an hour need not lie there whole.
    blocks = [
        np.abs(np.fft.rfft(view[first : first + 4096] * window, axis=1)).astype(np.float32)
        for first in range(0, len(view), 4096)
    ]
    spectrum = np.concatenate(blocks)
    edges = [len(spectrum[0]) >> octave for octave in range(BANDS, -1, -1)]
    time, frequency = [], []
    for low, high in pairwise(edges):
        band = spectrum[:, low:high]
        place = band.argmax(axis=1)
        level = band[np.arange(len(band)), place]
        before, after = np.r_[0, level[:-1]], np.r_[level[1:], 0]
        # Onsets and swells, not the frames in which a tone just goes on.
        is_peak = (
            (level > 1.1 * before) & (level >= after) & (level > QUIETEST * level.max(initial=0))
        )
        time.append(np.flatnonzero(is_peak))
        frequency.append(place[is_peak] + low)
    times, frequencies = np.concatenate(time), np.concatenate(frequency)
    order = np.lexsort((frequencies, times))
    return times[order], frequencies[order]


def _mixed(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Spread values over all 32 bits, each to one of its own (the finaliser of MurmurHash3)."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        values = (values ^ (values >> np.uint32(shift))) * np.uint32(factor)
    return values


def resemblance(a: Sketch, b: Sketch) -> float:
    """Estimate what share of all triples of two tracks both have."""
    if not len(a) or not len(b):
        return 0.0
    union = np.union1d(a, b)[: min(SKETCH, max(len(a), len(b)))]
    return float(np.mean(np.isin(union, a) & np.isin(union, b)))


def alike(
    sketches: Mapping[str, Sketch], group: Mapping[str, str], *, least: float
) -> Iterator[tuple[str, str, float]]:
    """Find pairs of tracks of different groups that share at least this much.

    Yields
    ------
    a, b : str
        Names, in the order of `sketches`.
    share : float
        Their resemblance.
    """
    names = list(sketches)
    owner = np.repeat(np.arange(len(names)), [len(sketches[name]) for name in names])
    if not len(owner):
        return
    every = np.concatenate([sketches[name] for name in names])
    order = np.argsort(every, kind="stable")
    every, owner = every[order], owner[order]
    bounds = np.flatnonzero(np.diff(every)) + 1
    sharing = [o for o in np.split(owner, bounds) if 2 <= len(o) <= COMMONEST]
    pairs = (np.stack(np.triu_indices(len(o), 1)) for o in sharing)
    found = [np.stack([o[i], o[j]]) for o, (i, j) in zip(sharing, pairs, strict=True)]
    if not found:
        return
    both, count = np.unique(np.concatenate(found, axis=1), axis=1, return_counts=True)
    for (a, b), shared in zip(both.T.tolist(), count.tolist(), strict=True):
        # Cheap first: what two tracks share of their sketches bounds their resemblance.
        if shared < least * SKETCH / 4 or group[names[a]] == group[names[b]]:
            continue
        share = resemblance(sketches[names[a]], sketches[names[b]])
        if share >= least:
            yield names[a], names[b], share
