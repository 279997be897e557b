"""The moment of a mix that something shall fit to: read, summed, cut into windows, embedded.

Letters: W windows of the moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from phalar import audio
from phalar.search.windows import Grid, Sound, is_silent, loop

if TYPE_CHECKING:
    from phalar.model import Phalar

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Moment:
    """The moment of a mix that something shall fit to."""

    start_s: float = 0.0
    seconds: float | None = None
    """None: as long as a window of the index."""


def read_moment(files: Sequence[Path], moment: Moment, grid: Grid) -> Sound:
    """Read a moment of files that belong together, and sum it.

    Parameters
    ----------
    files : sequence of path
        Sound files that start together.
    moment : Moment
        What is heard; of a file shorter than a window all is, as a loop.
    grid : Grid
        Of the index: a moment is no shorter than its window.

    Returns
    -------
    float32 array [shape=(N,)]
        At the model's rate.

    Raises
    ------
    ValueError
        The moment is not in the files, too short or silent.
    """
    return sum_moments([(str(file), audio.load_mono(file)) for file in files], moment, grid)


def sum_moments(sounds: Sequence[tuple[str, Sound]], moment: Moment, grid: Grid) -> Sound:
    """Sum a moment of sounds that start together, each with its name; see `read_moment`."""
    parts = [_cut_moment(sound, name, moment, grid) for name, sound in sounds]
    summed = np.zeros(max(map(len, parts)), np.float32)
    for part in parts:
        summed[: len(part)] += part
    if is_silent(summed):
        raise ValueError(f"{sounds[0][0]}: silent from {moment.start_s:g} s; choose another moment")
    return summed


def _cut_moment(sound: Sound, name: str, moment: Moment, grid: Grid) -> Sound:
    window = grid.window_samples
    seconds = moment.seconds or grid.window_s
    if round(seconds * audio.SAMPLE_RATE_HZ) < window:
        raise ValueError(
            f"{seconds:g} s of {name}: the index has windows of {grid.window_s:g} s, so a moment "
            "must be that long or longer"
        )
    length_s = len(sound) / audio.SAMPLE_RATE_HZ
    if moment.start_s >= length_s:
        raise ValueError(
            f"{name}: ends at {length_s:.1f} s, before the moment at {moment.start_s:g} s; "
            "choose an earlier one"
        )
    start = round(moment.start_s * audio.SAMPLE_RATE_HZ)
    if len(sound) < window:
        if len(sound) < audio.SAMPLE_RATE_HZ // 2:
            raise ValueError(f"{name}: {length_s:.2f} s long, must be 0.5 s or more")
        return loop(sound, start, window)
    # A moment that would reach beyond the end is moved to end there, so that a window is full.
    start = min(start, len(sound) - window)
    return sound[start : start + round(seconds * audio.SAMPLE_RATE_HZ)]


def windows_of(sound: Sound, grid: Grid) -> NDArray[np.float32]:
    """Cut a moment into windows (W, N) that follow each other as those of the index do."""
    starts = range(0, len(sound) - grid.window_samples + 1, grid.hop_samples)
    return np.stack([sound[start : start + grid.window_samples] for start in starts])


def query_vectors(model: Phalar, windows: NDArray[np.float32]) -> Floats:
    """Give what has the score as its inner product with the vectors of an index, (W, 1024)."""
    x = model.search_vectors(model.embed(windows, audio.SAMPLE_RATE_HZ))
    with torch.no_grad():
        return np.asarray((x @ model.similarity.query_map()).cpu().numpy(), np.float32)
