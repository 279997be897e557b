"""Frozen K-way trials: which of K positives is the rest of this anchor?"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from phalar.params import Render
from phalar.render.pairs import Pairs
from phalar.tracks import SPLITS

PROTOCOLS = ("paper", "songs", "song")
SONG_CANDIDATES = (8, 4)
"""Within one song K is the first of these for which half of the source's songs are long enough."""

TRIES_A_TRIAL = 20

SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("source", pa.string()),
        ("protocol", pa.string()),
        ("candidates", pa.int16()),
        ("trial", pa.int32()),
        ("anchor", pa.int64()),
        ("choices", pa.list_(pa.int64())),
        ("answer", pa.int16()),
    ]
)
"""One row a trial: choice `answer` of `choices` is the positive that belongs to `anchor`."""

Ids = NDArray[np.int64]


def freeze(pairs: Pairs, settings: Render) -> pa.Table:
    """Draw the trials of a split.

    - `paper`, from pairs drawn as the paper does: random batches of K, each anchor against the
      positives of its batch; a last batch that does not fill is completed with other pairs.
    - `songs`, from audible pairs: each anchor against its own positive and one of each of K - 1
      other songs.
    - `song`, from audible pairs: each anchor against K positives of its own track, no two of which
      overlap.

    Test pairs have `paper` and `songs` trials for every K of `render.trial_candidates` that there
    are pairs or songs for, and `song` trials for one K of `SONG_CANDIDATES`. Training validates on
    `paper` trials of the largest K: valid pairs have no others.
    """
    tables = [SCHEMA.empty_table()]
    for source in dict.fromkeys(pairs.source.tolist()):
        here = pairs.source == source
        paper = np.flatnonzero(here & ~pairs.rows["audible"])
        audible = np.flatnonzero(here & pairs.rows["audible"])
        for protocol, k in _asked(pairs, paper, audible, settings.trial_candidates):
            rng = np.random.default_rng(
                [
                    settings.seed,
                    SPLITS.index(pairs.split),
                    zlib.crc32(source.encode()),
                    PROTOCOLS.index(protocol),
                    k,
                ]
            )
            if protocol == "paper":
                drawn = _batches(paper, k, rng)
            elif protocol == "songs":
                drawn = _other_songs(audible, pairs.song[audible], k, rng)
            else:
                drawn = _other_moments(audible, pairs, k, rng)
            tables.append(_table((pairs.split, source, protocol), drawn, rng))
    return pa.concat_tables(tables)


def _asked(
    pairs: Pairs, paper: Ids, audible: Ids, candidates: Sequence[int]
) -> list[tuple[str, int]]:
    """List the protocols and K that a source's pairs suffice for."""
    found = [("paper", k) for k in sorted(set(candidates)) if k <= len(paper)]
    if pairs.split != "test":
        return found[-1:]
    songs = len(set(pairs.song[audible].tolist()))
    found += [("songs", k) for k in sorted(set(candidates)) if k <= songs]
    longest: dict[str, int] = {}
    for ids in _by_track(audible, pairs):
        song = str(pairs.song[ids[0]])
        longest[song] = max(longest.get(song, 0), len(_apart(ids, pairs)))
    enough = [k for k in SONG_CANDIDATES if sum(n >= k for n in longest.values()) * 2 >= songs]
    return found + [("song", k) for k in enough[:1]]


def _batches(ids: Ids, k: int, rng: np.random.Generator) -> Iterator[tuple[int, Ids]]:
    """Cut the pairs, in random order, into batches of K."""
    order = rng.permutation(ids)
    for first in range(0, len(order), k):
        asked = order[first : first + k]
        others = rng.choice(np.setdiff1d(ids, asked), k - len(asked), replace=False)
        for anchor in asked:
            yield int(anchor), np.concatenate([asked, others])


def _other_songs(
    ids: Ids, songs: NDArray[np.str_], k: int, rng: np.random.Generator
) -> Iterator[tuple[int, Ids]]:
    """Set each pair against one pair of each of K - 1 other songs."""
    names, song_of = np.unique(songs, return_inverse=True)
    of_song = [ids[song_of == song] for song in range(len(names))]
    for anchor, own in zip(ids, song_of, strict=True):
        others = rng.choice(np.delete(np.arange(len(names)), own), k - 1, replace=False)
        yield int(anchor), np.array([anchor, *(rng.choice(of_song[song]) for song in others)])


def _other_moments(
    ids: Ids, pairs: Pairs, k: int, rng: np.random.Generator
) -> Iterator[tuple[int, Ids]]:
    """Set each pair against K - 1 others of its track; a pair that has too few is left out."""
    for track in _by_track(ids, pairs):
        starts = pairs.rows["start"][track]
        for anchor, start in zip(track, starts, strict=True):
            free = track[np.abs(starts - start) >= pairs.samples]
            for _ in range(TRIES_A_TRIAL):
                others = _apart(rng.permutation(free), pairs)
                if len(others) >= k - 1:
                    yield int(anchor), np.array([anchor, *others[: k - 1]])
                    break


def _by_track(ids: Ids, pairs: Pairs) -> list[Ids]:
    """Group pairs by track, each group in order of time."""
    rows = pairs.rows[ids]
    order = np.lexsort((rows["start"], rows["track"]))
    return np.split(ids[order], np.flatnonzero(np.diff(rows["track"][order])) + 1)


def _apart(ids: Ids, pairs: Pairs) -> list[int]:
    """Take pairs of a track in the given order, each that overlaps none of those before it."""
    chosen: list[int] = []
    for pair in ids:
        starts = pairs.rows["start"][chosen]
        if (np.abs(starts - pairs.rows["start"][pair]) >= pairs.samples).all():
            chosen.append(int(pair))
    return chosen


def _table(
    name: tuple[str, str, str], drawn: Iterator[tuple[int, Ids]], rng: np.random.Generator
) -> pa.Table:
    """Shuffle the choices of each trial, so that no place is the answer more often than others."""
    rows = []
    for trial, (anchor, choices) in enumerate(drawn):
        shuffled = rng.permutation(choices)
        rows.append(
            dict(zip(("split", "source", "protocol"), name, strict=True))
            | {
                "candidates": len(choices),
                "trial": trial,
                "anchor": anchor,
                "choices": shuffled,
                "answer": int(np.flatnonzero(shuffled == anchor)[0]),
            }
        )
    return pa.Table.from_pylist(rows, schema=SCHEMA)
