"""What of a sound is heard: windows of one length at regular starts, of loops one round."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phalar.audio import SAMPLE_RATE_HZ

Sound = NDArray[np.float32]

SHORTEST_S = 0.5
"""A hit that is over sooner tells neither harmony nor rhythm."""

LOOP_STARTS = 4
"""A sound shorter than a window is heard as a loop, from so many places of it."""

SILENT_PEAK = 1e-3
"""A window that never goes beyond -60 dB of full scale is not heard."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the windows of a sound lie."""

    window_s: float = 5.0
    hop_s: float = 2.5
    """A window starts every so often."""

    def __post_init__(self) -> None:
        if not SHORTEST_S <= self.window_s <= 60 or not 0.1 <= self.hop_s <= self.window_s:
            raise ValueError(
                f"windows of {self.window_s:g} s every {self.hop_s:g} s: must be {SHORTEST_S:g} to "
                "60 s long, and start every 0.1 s or more, but not further apart than they are long"
            )

    @property
    def window_samples(self) -> int:
        """Length of a window at the model's rate."""
        return round(self.window_s * SAMPLE_RATE_HZ)

    @property
    def hop_samples(self) -> int:
        """Distance of two starts at the model's rate."""
        return round(self.hop_s * SAMPLE_RATE_HZ)

    def is_loop(self, seconds: float) -> bool:
        """Whether a sound of that length is heard as a loop."""
        return round(seconds * SAMPLE_RATE_HZ) < self.window_samples

    def starts_s(self, seconds: float, windows: int) -> NDArray[np.float64]:
        """Starts of the windows of a sound, in seconds of the sound (of a loop: of its round)."""
        if self.is_loop(seconds):
            return np.arange(windows) * seconds / LOOP_STARTS
        return np.arange(windows) * self.hop_samples / SAMPLE_RATE_HZ


def cut(blocks: Iterable[Sound], grid: Grid) -> Iterator[Sound]:
    """Cut a sound that comes in blocks into windows, holding two blocks at most.

    A sound shorter than a window is heard as a loop: repeated until the window is full, from
    `LOOP_STARTS` places of it. The rest of a long sound that fills no window is not heard.

    Raises
    ------
    ValueError
        The sound is shorter than `SHORTEST_S`.
    """
    window, hop = grid.window_samples, grid.hop_samples
    held = np.empty(0, np.float32)
    found = False
    for block in blocks:
        held = np.concatenate((held, block))
        while len(held) >= window:
            found = True
            yield held[:window]
            held = held[hop:]
    if found:
        return
    if len(held) < SHORTEST_S * SAMPLE_RATE_HZ:
        raise ValueError(
            f"{len(held) / SAMPLE_RATE_HZ:.2f} s long, must be {SHORTEST_S:g} s or more"
        )
    for start in range(LOOP_STARTS):
        yield loop(held, start * len(held) // LOOP_STARTS, window)


def loop(sound: Sound, start: int, samples: int) -> Sound:
    """Play a loop from a place of it until `samples` are full."""
    return np.resize(np.roll(sound, -start), samples)


def is_silent(window: Sound) -> bool:
    """Whether there is nothing to hear."""
    return float(np.abs(window).max(initial=0.0)) < SILENT_PEAK
