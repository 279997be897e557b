"""Search an index: the windows with the largest inner product, by file, exact.

Letters: W windows of the query, R rows of the index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from phalar import audio
from phalar.search.store import Entry, Index
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


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which files of the library come into question, and how many shall be found."""

    top: int = 10
    instruments: frozenset[str] = frozenset()
    """Only these families, or words of the path; empty for all."""
    exclude: frozenset[str] = frozenset()
    """Families or words of the path that are not wanted."""
    not_paths: frozenset[Path] = frozenset()
    """Files that are not wanted, such as the query itself; resolved."""

    def admits(self, entry: Entry) -> bool:
        """Whether a file comes into question, apart from `not_paths`."""
        if not self.instruments and not self.exclude:
            return True
        here = {word for word in self.instruments | self.exclude if _names(entry, word)}
        return not here & self.exclude and (not self.instruments or bool(here & self.instruments))


@dataclass(frozen=True, slots=True)
class Found:
    """A file that fits, and from where."""

    entry: Entry
    score: float
    start_s: float
    """Where in the file that starts which fits best to the start of the moment."""
    transpose_st: int = 0
    """By how many semitones it has to be transposed."""
    stretch: float = 1.0
    """How many times as fast it has to be played, at the same pitch."""


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


class Searcher:
    """Searches one opened index, from several threads if need be.

    Parameters
    ----------
    index : Index
        From `open_index`.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        heard = sorted((e for e in index.entries if e.windows), key=lambda e: (e.first, e.path))
        places: dict[int, list[Entry]] = {}
        for entry in heard:
            places.setdefault(entry.first, []).append(entry)
        self._copies = list(places.values())
        self._firsts = np.array([group[0].first for group in self._copies], np.int64)
        self._windows = np.array([group[0].windows for group in self._copies], np.int64)
        last = self._firsts[-1] + self._windows[-1] if len(self._copies) else 0
        self._rows = np.asarray(index.vectors)[:last]
        # Rows that are silent, or of files that are gone, never win.
        self._out = np.ones(len(self._rows), bool)
        for group in self._copies:
            first = group[0].first
            self._out[first : first + group[0].windows] = False
            self._out[[first + window for window in group[0].silent]] = True
        window = index.facts.grid.window_samples / audio.SAMPLE_RATE_HZ
        self._loops = np.array([group[0].seconds < window for group in self._copies], bool)
        self._admitted = lru_cache(maxsize=16)(self._admit)

    def search(self, queries: Sequence[Floats], wanted: Wanted) -> list[list[Found]]:
        """Find what fits best to each of several queries, in one pass over the index.

        Parameters
        ----------
        queries : sequence of float array [shape=(W, 1024)]
            From `query_vectors`; all of one shape. A file is scored by the mean over the W windows,
            which it has to have one after the other; a loop by the first.
        wanted : Wanted
            Which files, and how many.

        Returns
        -------
        list of list of Found
            For each query, best first; of files with the same content one. The scores are exactly
            those of all pairs of windows, without approximation.
        """
        if not self._copies:
            return [[] for _ in queries]
        admitted = self._admitted(replace(wanted, top=0))
        chosen = np.array([entry is not None for entry in admitted])
        width = len(queries[0])
        products = np.concatenate(queries) @ self._rows.T
        products[:, self._out] = -np.inf
        found = []
        for number in range(len(queries)):
            scores = self._along(products[number * width : (number + 1) * width])
            best = np.maximum.reduceat(scores, self._firsts)
            best[~chosen] = -np.inf
            top = _largest(best, min(wanted.top, int(np.isfinite(best).sum())))
            found.append([self._found(admitted[place], scores) for place in top])
        return found

    def _found(self, entry: Entry | None, scores: Floats) -> Found:
        if entry is None:
            raise RuntimeError("a file that was not admitted was found")
        window = int(np.argmax(scores[entry.first : entry.first + entry.windows]))
        start_s = self.index.facts.grid.starts_s(entry.seconds, entry.windows)[window]
        return Found(entry, float(scores[entry.first + window]), float(start_s))

    def _along(self, products: Floats) -> Floats:
        """Mean over consecutive windows: (W, R) -> (R,); -inf where a file has not so many."""
        width, rows = products.shape
        if width == 1:
            return np.asarray(products[0])
        scores = np.full(rows, -np.inf, np.float32)
        if rows >= width:
            steps = [products[step, step : rows - width + 1 + step] for step in range(width)]
            scores[: rows - width + 1] = np.mean(steps, axis=0)
        for place in range(1, width):
            # The last starts of each file reach into the next one.
            late = self._firsts + self._windows - place
            scores[late[self._windows >= place]] = -np.inf
        for first, windows in zip(
            self._firsts[self._loops], self._windows[self._loops], strict=True
        ):
            scores[first : first + windows] = products[0, first : first + windows]
        return scores

    def _admit(self, wanted: Wanted) -> list[Entry | None]:
        """For each content a file that comes into question, or None."""
        library = self.index.facts.library.resolve()
        barred = {
            path.relative_to(library).as_posix()
            for path in wanted.not_paths
            if path.is_relative_to(library)
        }
        return [
            None
            if any(entry.path in barred for entry in group)
            else next(filter(wanted.admits, group), None)
            for group in self._copies
        ]


def _largest(values: Floats, count: int) -> NDArray[np.int64]:
    """Places of the largest values, largest first; equal ones in order of place."""
    if count == 0:
        return np.empty(0, np.int64)
    some = np.argpartition(-values, count - 1)[:count]
    return np.asarray(some[np.lexsort((some, -values[some]))])


def _names(entry: Entry, word: str) -> bool:
    """Whether a word is the family of an entry's instrument, or stands in its path."""
    return word == entry.instrument or word.lower() in entry.path.lower()
