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

SILENT_AROUND = audio.SAMPLE_RATE_HZ // 2
"""So much silence is put around a mix of which there is hardly more than the moment."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The moment of a mix that something shall fit to."""

    start_s: float = 0.0
    seconds: float | None = None
    """None: as long as a window of the index."""


@dataclass(frozen=True, slots=True)
class Mix:
    """A moment of a mix, and what is around it."""

    around: Sound
    """At the model's rate."""
    before: int
    """How many samples of it come before the moment."""
    samples: int
    """Length N of the moment."""

    @property
    def sound(self) -> Sound:
        """What something shall fit to, (N,)."""
        return self.shifted(0)

    def shifted(self, samples: int) -> Sound:
        """Give what would be the moment had it started later, or earlier where negative."""
        start = self.before + samples
        return self.around[start : start + self.samples]

    def reach(self, span: int) -> tuple[int, int]:
        """Between which shifts it can be moved, in all `span` samples at most, evenly if it can."""
        after = len(self.around) - self.before - self.samples
        low = max(-self.before, min(-span // 2, after - span))
        return low, min(low + span, after)


def read_moment(files: Sequence[Path], moment: Moment, grid: Grid) -> Mix:
    """Read a moment of files that belong together, and sum it.

    Parameters
    ----------
    files : sequence of path
        Sound files that start together.
    moment : Moment
        What is heard; of a file shorter than a window all is, as a loop.
    grid : Grid
        Of the index: a moment is no shorter than its window.

    Raises
    ------
    ValueError
        The moment is not in the files, too short or silent.
    """
    return sum_moments([(str(file), audio.load_mono(file)) for file in files], moment, grid)


def sum_moments(sounds: Sequence[tuple[str, Sound]], moment: Moment, grid: Grid) -> Mix:
    """Sum a moment of sounds that start together, each with its name; see `read_moment`."""
    parts = [_cut_moment(sound, name, moment, grid) for name, sound in sounds]
    before = max(part.before for part in parts)
    length = max(part.samples for part in parts)
    around = np.zeros(max(before + len(p.around) - p.before for p in parts), np.float32)
    for part in parts:
        first = before - part.before
        around[first : first + len(part.around)] += part.around
    if is_silent(around[before : before + length]):
        raise ValueError(f"{sounds[0][0]}: silent from {moment.start_s:g} s; choose another moment")
    if len(around) - length < SILENT_AROUND:
        around = np.pad(around, SILENT_AROUND // 2)
        before += SILENT_AROUND // 2
    return Mix(around, before, length)


def _cut_moment(sound: Sound, name: str, moment: Moment, grid: Grid) -> Mix:
    window, margin = grid.window_samples, grid.hop_samples
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
        return Mix(loop(sound, start - margin, window + 2 * margin), margin, window)
    # A moment that would reach beyond the end is moved to end there, so that a window is full.
    start = min(start, len(sound) - window)
    end = min(start + round(seconds * audio.SAMPLE_RATE_HZ), len(sound))
    first = max(start - margin, 0)
    return Mix(sound[first : end + margin], start - first, end - start)


def windows_of(sound: Sound, grid: Grid) -> NDArray[np.float32]:
    """Cut a moment into windows (W, N) that follow each other as those of the index do."""
    starts = range(0, len(sound) - grid.window_samples + 1, grid.hop_samples)
    return np.stack([sound[start : start + grid.window_samples] for start in starts])


def query_vectors(model: Phalar, windows: NDArray[np.float32]) -> Floats:
    """Give what has the score as its inner product with the vectors of an index, (W, 1024)."""
    return as_queries(model, model.embed(windows, audio.SAMPLE_RATE_HZ))


@torch.no_grad()
def as_queries(model: Phalar, z: torch.Tensor) -> Floats:
    """Turn embeddings (W, 512) into what `query_vectors` gives."""
    query = model.search_vectors(z) @ model.similarity.query_map()
    return np.asarray(query.cpu().numpy(), np.float32)
