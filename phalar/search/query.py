"""Search an index: the windows with the largest inner product, by file; exact, or near it by codes.

Letters: W windows of the query, R rows of the index.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phalar.search import codes, names
from phalar.search.codes import Codes
from phalar.search.store import Entry, Index

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]

MOSTLY = 0.5
"""Where less than this share of an index comes into question, it is searched exactly: of the
candidates that codes put first, too few would be left."""

WINDOWS_AT_ONCE = 16
"""Windows of queries of one pass over the index: their products with all rows have to be held."""

MOST = 4
"""Where one in so many windows would be a candidate, all of them are read."""

TOP = 10
"""Numbers of candidates are said for so many files that are wanted."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which files of the library come into question, and how many shall be found."""

    top: int = 10
    instruments: frozenset[str] = frozenset()
    """Only these families, or words of the path, as `names.telling` has it; empty for all."""
    exclude: frozenset[str] = frozenset()
    """Families or words of the path that are not wanted."""
    not_paths: frozenset[Path] = frozenset()
    """Files that are not wanted, such as the query itself; resolved."""
    not_sha256: frozenset[str] = frozenset()
    """Digests of content that is not wanted, by whatever path it lies there."""

    def admits(self, entries: Sequence[Entry]) -> NDArray[np.bool_]:
        """Whether files come into question, apart from `not_paths` and `not_sha256`."""
        admitted = np.full(len(entries), not self.instruments)
        if self.instruments or self.exclude:
            paths = [entry.path for entry in entries]
            families = [entry.instrument for entry in entries]
            for words, value in ((self.instruments, True), (self.exclude, False)):
                for word in words:
                    admitted[list(names.telling(word, paths, families))] = value
        return admitted


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
    windows: int = 1
    """Of how many the score is the mean."""

    @property
    def is_changed(self) -> bool:
        """Whether it has to be transposed or stretched."""
        return (self.transpose_st, self.stretch) != (0, 1.0)


class Searcher:
    """Searches one opened index, from several threads if need be.

    Parameters
    ----------
    index : Index
        From `open_index`.
    exact : bool
        Search exactly, also where the index has codes.
    """

    def __init__(self, index: Index, *, exact: bool = False) -> None:
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
        grid = index.facts.grid
        self._loops = np.array([grid.is_loop(group[0].seconds) for group in self._copies], bool)
        self._admitted = lru_cache(maxsize=16)(self._admit)
        self.codes, self.quality = (None, None) if exact else codes.of(index)
        self.candidates = (self.quality and self.quality.candidates) or 0

    def heard_rows(self) -> NDArray[np.int32]:
        """List the rows that a search can find."""
        return np.flatnonzero(~self._out).astype(np.int32)

    def path_of(self, row: int) -> str:
        """Give the path of the file that a row is of; of copies, the first."""
        return self._copies[int(np.searchsorted(self._firsts, row, "right")) - 1][0].path

    def copies(self, entry: Entry, wanted: Wanted) -> Iterator[Entry]:
        """Give the other files with the content of one that come into question."""
        group = self._copies[int(np.searchsorted(self._firsts, entry.first, "right")) - 1]
        for other, is_wanted in zip(group, wanted.admits(group), strict=True):
            if is_wanted and other.path != entry.path:
                yield other

    def search(self, queries: Sequence[Floats], wanted: Wanted) -> list[list[Found]]:
        """Find what fits best to each of several queries.

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
            those of all pairs of windows. Where the index has codes, most of it comes into
            question and W = 1, a file may be missed, as often as `quality` says; else none is.
        """
        if not self._copies:
            return [[] for _ in queries]
        admitted = self._admitted(replace(wanted, top=0))
        chosen = np.array([entry is not None for entry in admitted])
        share = self._windows[chosen].sum() / self._windows.sum()
        # Several windows have to fit one after the other: by one alone they are not found.
        single = len(queries[0]) == 1
        if self.codes is not None and self.candidates and single and share >= MOSTLY:
            return [
                self._nearly(self.codes, query, admitted, chosen, wanted.top) for query in queries
            ]
        return self._exactly(queries, admitted, chosen, wanted.top)

    def _exactly(
        self,
        queries: Sequence[Floats],
        admitted: list[Entry | None],
        chosen: NDArray[np.bool_],
        top: int,
    ) -> list[list[Found]]:
        """Search in a pass over all rows for every few queries."""
        width = len(queries[0])
        at_once = max(1, WINDOWS_AT_ONCE // width)
        if len(queries) > at_once:
            few = [queries[place : place + at_once] for place in range(0, len(queries), at_once)]
            return [each for part in few for each in self._exactly(part, admitted, chosen, top)]
        products = np.concatenate(queries) @ self._rows.T
        products[:, self._out] = -np.inf
        found = []
        for number in range(len(queries)):
            scores = self._along(products[number * width : (number + 1) * width])
            best = np.maximum.reduceat(scores, self._firsts)
            best[~chosen] = -np.inf
            largest = _largest(best, min(top, int(np.isfinite(best).sum())))
            found.append([self._found(admitted[place], scores, width) for place in largest])
        return found

    def _found(self, entry: Entry | None, scores: Floats, width: int) -> Found:
        if entry is None:
            raise RuntimeError("a file that was not admitted was found")
        window = int(np.argmax(scores[entry.first : entry.first + entry.windows]))
        return self._found_at(entry, float(scores[entry.first + window]), window, width)

    def _found_at(self, entry: Entry, score: float, window: int, width: int = 1) -> Found:
        grid = self.index.facts.grid
        start_s = grid.starts_s(entry.seconds, entry.windows)[window]
        # A loop is scored by the first window of the mix alone.
        windows = 1 if grid.is_loop(entry.seconds) else width
        return Found(entry, score, float(start_s), windows=windows)

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

    def _nearly(
        self,
        made: Codes,
        query: Floats,
        admitted: list[Entry | None],
        chosen: NDArray[np.bool_],
        top: int,
    ) -> list[Found]:
        """Search for one window (1, 1024) among what the codes put first.

        Where these are of too few files that come into question, more is asked for, in the end all.
        """
        count = -(-self.candidates * max(top, TOP) // TOP)
        while count < len(made.rows) // MOST:
            late = np.arange(made.covered, len(self._rows))
            rows = np.sort(np.concatenate((made.nearest(query, count)[0], late)))
            places = np.searchsorted(self._firsts, rows, "right") - 1
            scores = self._rows[rows] @ query[0]
            scores[self._out[rows] | ~chosen[places]] = -np.inf
            files, at = np.unique(places, return_index=True)
            best = np.maximum.reduceat(scores, at)
            found = int(np.isfinite(best).sum())
            if found >= top:
                # A file may fit better from a start that was no candidate: all are scored.
                some = files[_largest(best, min(2 * top, found))]
                ranked = [self._best_start(query[0], admitted[place]) for place in some]
                return sorted(ranked, key=lambda each: -each.score)[:top]
            count *= 4
        return self._exactly([query], admitted, chosen, top)[0]

    def _best_start(self, window: Floats, entry: Entry | None) -> Found:
        """Score all windows of a file."""
        if entry is None:
            raise RuntimeError("a file that was not admitted was found")
        here = slice(entry.first, entry.first + entry.windows)
        scores = self._rows[here] @ window
        scores[self._out[here]] = -np.inf
        best = int(np.argmax(scores))
        return self._found_at(entry, float(scores[best]), best)

    def _admit(self, wanted: Wanted) -> list[Entry | None]:
        """For each content a file that comes into question, or None."""
        library = self.index.facts.library.resolve()
        barred = {
            path.relative_to(library).as_posix()
            for path in wanted.not_paths
            if path.is_relative_to(library)
        }
        heard = [entry for group in self._copies for entry in group]
        admits = iter(wanted.admits(heard).tolist())
        admitted: list[Entry | None] = []
        for group in self._copies:
            chosen = None
            for entry in group:
                if next(admits) and chosen is None:
                    chosen = entry
            out = group[0].sha256 in wanted.not_sha256
            if out or (barred and any(entry.path in barred for entry in group)):
                chosen = None
            admitted.append(chosen)
        return admitted


def _largest(values: Floats, count: int) -> NDArray[np.int64]:
    """Places of the largest values, largest first; equal ones in order of place."""
    if count == 0:
        return np.empty(0, np.int64)
    some = np.argpartition(-values, count - 1)[:count]
    return np.asarray(some[np.lexsort((some, -values[some]))])
