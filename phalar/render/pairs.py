"""Which pairs a split holds: drawn from the index of the tracks, before any sound is decoded."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phalar import tracks, withdrawn
from phalar.audio import LEVEL_HOP_S, SAMPLE_RATE_HZ
from phalar.params import Params, Paths, Render
from phalar.tracks import MOST_STEMS, TrackIndex

DRAWS = ("paper", "audible")
"""`paper` takes what chance gives; `audible` draws again until both sides are heard."""

TRIES_A_TRACK = 100
MOST_TRIES = 100 * TRIES_A_TRACK

LEVEL_HOP_SAMPLES = round(LEVEL_HOP_S * SAMPLE_RATE_HZ)

PAIR = np.dtype(
    [
        ("track", np.int32),
        ("start", np.int64),
        ("anchor", np.uint64),
        ("positive", np.uint64),
        ("audible", np.bool_),
        ("redrawn", np.int32),
    ]
)
"""Place of the track, first sample, stems of both sides as bits, way of drawing, draws in vain."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of a split, none of their sound."""

    split: str
    samples: int
    """Length of every pair."""
    tracks: list[TrackIndex]
    """Tracks of all sources that are as long as a pair."""
    rows: NDArray[Any]
    """`PAIR` records [shape=(P,)]: pair p is row p."""
    too_short: Mapping[str, int]
    """Tracks of each source that are shorter than a pair."""

    @property
    def source(self) -> NDArray[np.str_]:
        """Source of each pair [shape=(P,)]."""
        return self._of_track([track.source for track in self.tracks])

    @property
    def song(self) -> NDArray[np.str_]:
        """Song of each pair [shape=(P,)], unique within its source."""
        return self._of_track([track.song for track in self.tracks])

    def _of_track(self, values: list[str]) -> NDArray[np.str_]:
        return np.asarray(np.array(values)[self.rows["track"]])


def plan(params: Params, paths: Paths, split: str) -> Pairs:
    """Draw all pairs of a split.

    Training pairs are audible, shared out to the sources by `render.weights`, and interleaved, so
    that every shard holds the same mix. Valid and test pairs are, for each source in turn, as many
    of each way of drawing. Tracks that are withdrawn are as if they had never been prepared.

    Raises
    ------
    ValueError
        Tracks are missing, all too short or all silent, or a source's share is less than a pair.
    """
    samples = round(getattr(params.render.pair_s, split) * SAMPLE_RATE_HZ)
    count = getattr(params.render.pairs, split)
    found: list[TrackIndex] = []
    parts: list[NDArray[Any]] = []
    too_short = {}
    gone = withdrawn.read(paths.root.parent)
    shares = share(params.render.weights, params.sources, count)
    for source in params.sources:
        index = [
            track
            for track in tracks.read_index(paths.prepare(source), split)
            if f"{source}/{track.track}" not in gone
        ]
        usable = [track for track in index if track.samples >= samples]
        _check(usable, f"{paths.prepare(source)}, split {split}", samples)
        too_short[source] = len(index) - len(usable)
        wanted = [("audible", shares[source])]
        if split != "train":
            wanted = [(draw, count) for draw in DRAWS]
        for draw, pairs in wanted:
            part = draw_pairs(usable, params.render, split, draw=draw, count=pairs)
            part["track"] += len(found)
            parts.append(part)
        found += usable
    rows = np.concatenate(parts)
    if split == "train":
        rows = rows[_interleaved([len(part) for part in parts])]
    return Pairs(split, samples, found, rows, too_short)


def draw_pairs(
    usable: Sequence[TrackIndex], settings: Render, split: str, *, draw: str, count: int
) -> NDArray[Any]:
    """Draw pairs of one source; pair i is drawn from (seed, split, source, draw, i) and no more.

    A track uniformly, a start uniformly, stems as `draw_stems` does. For `audible`, start and stems
    are drawn again until both sides are heard at once for `audible_fraction` of the time; a track
    that fails `TRIES_A_TRACK` times gives way to another.

    Returns
    -------
    `PAIR` records [shape=(count,)]
        With places in `usable`.
    """
    samples = round(getattr(settings.pair_s, split) * SAMPLE_RATE_HZ)
    loud = [track.levels_db > settings.audible_db for track in usable]
    # The name rather than the place in a list: other sources that come or go change nothing here.
    source = usable[0].source
    key = [
        settings.seed,
        tracks.SPLITS.index(split),
        zlib.crc32(source.encode()),
        DRAWS.index(draw),
    ]

    def one(item: int) -> tuple[int, int, int, int, bool, int]:
        rng = np.random.default_rng([*key, item])
        for tries in range(MOST_TRIES):
            if tries % TRIES_A_TRACK == 0:
                place = int(rng.integers(len(usable)))
            start = int(rng.integers(usable[place].samples - samples + 1))
            anchor, positive = draw_stems(len(usable[place].stems), rng)
            if draw == "paper" or settings.audible_fraction <= _heard(
                loud[place], slice(start, start + samples), anchor, positive
            ):
                return place, start, _bits(anchor), _bits(positive), draw == "audible", tries
        raise ValueError(
            f"render: no audible pair in {MOST_TRIES} draws from the {len(usable)} {split} tracks "
            f"of {source}; lower render.audible_db or render.audible_fraction"
        )

    return np.fromiter(map(one, range(count)), dtype=PAIR, count=count)


def draw_stems(count: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw two disjoint, non-empty sets of `count` >= 2 stems.

    The anchor gets n1 of them, n1 uniform in 1..count-1, the positive n2 of the others, n2 uniform
    in 1..count-n1 (the paper, section 3.3).
    """
    order = rng.permutation(count)
    n1 = int(rng.integers(1, count))
    n2 = int(rng.integers(1, count - n1 + 1))
    return order[:n1], order[n1 : n1 + n2]


def stems_of(bits: int) -> list[int]:
    """List the stems that a side's bits name, in rising order."""
    return [stem for stem in range(MOST_STEMS) if int(bits) >> stem & 1]


def share(weights: Mapping[str, float], sources: Sequence[str], count: int) -> dict[str, int]:
    """Share `count` pairs out by weight, by largest remainders.

    Raises
    ------
    ValueError
        A source's share is less than one pair.
    """
    total = math.fsum(weights[source] for source in sources)
    exact = {source: count * weights[source] / total for source in sources}
    whole = {source: math.floor(exact[source]) for source in sources}
    by_remainder = sorted(sources, key=lambda source: whole[source] - exact[source])
    for source in by_remainder[: count - sum(whole.values())]:
        whole[source] += 1
    for source in sources:
        if whole[source] == 0:
            raise ValueError(
                f"render.weights: {source} = {weights[source]:g} of {total:g} gives it none of the "
                f"{count} training pairs; raise it, or take the source out of sources"
            )
    return whole


def _interleaved(counts: Sequence[int]) -> NDArray[np.int64]:
    """Order the items of concatenated parts so that each part is spread evenly."""
    places = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    return np.argsort(places, kind="stable")


def _heard(
    loud: NDArray[np.bool_],
    moment: slice,
    anchor: NDArray[np.int64],
    positive: NDArray[np.int64],
) -> float:
    """Share of a moment's time in which both sides have a loud stem."""
    first, last = moment.start // LEVEL_HOP_SAMPLES, -(-moment.stop // LEVEL_HOP_SAMPLES)
    window = loud[:, first:last]
    return float(np.mean(window[anchor].any(axis=0) & window[positive].any(axis=0)))


def _bits(stems: NDArray[np.int64]) -> int:
    return sum(1 << int(stem) for stem in stems)


def _check(usable: Sequence[TrackIndex], where: str, samples: int) -> None:
    """Refuse a source without a track that a pair can be drawn from."""
    if not usable:
        raise ValueError(
            f"{where}: no track is as long as a pair ({samples / SAMPLE_RATE_HZ:g} s); lower "
            f"render.pair_s or prepare longer tracks"
        )
    for track in usable:
        if not 2 <= len(track.stems) <= MOST_STEMS:
            raise ValueError(
                f"{where}: track {track.track} has {len(track.stems)} stems, must be 2 to "
                f"{MOST_STEMS}; prepare this source again"
            )
