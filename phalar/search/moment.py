"""The moment of a mix that something shall fit to: read, summed, cut into windows, embedded.

Letters: W windows of the moment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from phalar import audio
from phalar.search.part import read_part
from phalar.search.windows import SHORTEST_S, Grid, Sound, is_silent, loop
from phalar.sound import refuse_past_end

if TYPE_CHECKING:
    from phalar.model import Phalar

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]

WHOLE_S = 120.0
"""Files up to that long are read whole; of longer ones, the moment is found by seeking."""

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


@dataclass(frozen=True, slots=True)
class Part:
    """One of the sounds that are summed."""

    name: str
    samples: int
    """Length at the model's rate."""
    read: Callable[[int, int], Sound]
    """Give what sounds from a sample on, so many samples; silence beyond the ends."""


def read_moment(files: Sequence[Path], moment: Moment, grid: Grid) -> Mix:
    """Read a moment of files that belong together, and sum it.

    Parameters
    ----------
    files : sequence of path
        Sound files that start together. One that is shorter than a window is a loop and goes on;
        others are silent from their end on. Of long files no more is read than is heard.
    moment : Moment
        What is heard; where it reaches beyond the end of all files it starts sooner, and says so.
    grid : Grid
        Of the index: a moment is no shorter than its window.

    Raises
    ------
    ValueError
        The moment is not in the files, too short or silent; or a file cannot be decoded.
    """
    return _sum([_part_of(file) for file in files], moment, grid)


def sum_moments(sounds: Sequence[tuple[str, Sound]], moment: Moment, grid: Grid) -> Mix:
    """Sum a moment of sounds that start together, each with its name; see `read_moment`."""
    return _sum([_part(name, sound) for name, sound in sounds], moment, grid)


def _part(name: str, sound: Sound) -> Part:
    def read(start: int, samples: int) -> Sound:
        heard = sound[max(start, 0) : max(start + samples, 0)]
        before = min(max(-start, 0), samples)
        return np.pad(heard, (before, samples - before - len(heard)))

    return Part(name, len(sound), read)


def _part_of(file: Path) -> Part:
    seconds = audio.length_s(file)
    if seconds <= WHOLE_S:
        return _part(str(file), audio.load_mono(file))
    samples = int(seconds * audio.SAMPLE_RATE_HZ)
    return Part(str(file), samples, lambda start, count: read_part(file, seconds, start, count))


def _sum(parts: Sequence[Part], moment: Moment, grid: Grid) -> Mix:
    start, samples = _place(parts, moment, grid)
    longest, margin = max(part.samples for part in parts), grid.hop_samples
    # Loops have a mix around them on both sides; other sounds as much as there is.
    endless = longest < grid.window_samples
    first = start - margin if endless else max(start - margin, 0)
    stop = start + samples + margin
    around = np.zeros((stop if endless else min(stop, longest)) - first, np.float32)
    for part in parts:
        if part.samples < grid.window_samples:
            around += loop(part.read(0, part.samples), first, len(around))
        else:
            around += part.read(first, len(around))
    before = start - first
    if is_silent(around[before : before + samples]):
        raise ValueError(
            f"{parts[0].name}: silent from {moment.start_s:g} s; choose another moment"
        )
    if len(around) - samples < SILENT_AROUND:
        around = np.pad(around, SILENT_AROUND // 2)
        before += SILENT_AROUND // 2
    return Mix(around, before, samples)


def _place(parts: Sequence[Part], moment: Moment, grid: Grid) -> tuple[int, int]:
    """Find where a moment starts, and how long it is, in samples."""
    for part in parts:
        if part.samples < SHORTEST_S * audio.SAMPLE_RATE_HZ:
            raise ValueError(
                f"{part.name}: {part.samples / audio.SAMPLE_RATE_HZ:.2f} s long, must be "
                f"{SHORTEST_S:g} s or more"
            )
    longest = max(parts, key=lambda part: part.samples)
    length_s = longest.samples / audio.SAMPLE_RATE_HZ
    window, seconds = grid.window_samples, moment.seconds or grid.window_s
    if round(seconds * audio.SAMPLE_RATE_HZ) < window:
        raise ValueError(
            f"{seconds:g} s of {longest.name}: the index has windows of {grid.window_s:g} s, so a "
            "moment must be that long or longer"
        )
    refuse_past_end(longest.name, longest.samples, moment.start_s)
    start = round(moment.start_s * audio.SAMPLE_RATE_HZ)
    if longest.samples < window:
        return start, window
    last = longest.samples - window
    if start > last:
        logger.warning(
            "%s: ends at %.1f s, so the moment is taken from %.2f s, not from %g s, to be full",
            longest.name, length_s, last / audio.SAMPLE_RATE_HZ, moment.start_s,
        )  # fmt: skip
        start = last
    return start, min(round(seconds * audio.SAMPLE_RATE_HZ), longest.samples - start)


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
