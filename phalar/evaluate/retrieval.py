"""Frozen retrieval trials: ranks from scores, and the accuracy expected at every K.

Letters: N pairs, T trials, K candidates of a trial, S songs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Trials:
    """Trials of one source, protocol and K: which of K positives is the rest of this anchor?"""

    source: str
    protocol: str
    """`paper`: random pairs; `songs`: K different songs; `song`: K moments of one song."""
    anchors: Integers
    """(T,): the pair whose anchor is asked about."""
    choices: Integers
    """(T, K): the pairs whose positives are the candidates."""
    answers: Integers
    """(T,): where among the choices the anchor's own pair stands."""

    @property
    def candidates(self) -> int:
        """K."""
        return int(self.choices.shape[1])

    def among(self, pairs: Integers) -> Trials:
        """Number the pairs by their place in the sorted `pairs`, as the rows of a score matrix.

        Raises
        ------
        ValueError
            A trial asks for a pair that is not there.
        """
        wanted = np.union1d(self.anchors, self.choices)
        if len(missing := np.setdiff1d(wanted, pairs)):
            raise ValueError(
                f"trials {self.source}/{self.protocol}/{self.candidates}: {len(missing)} pairs "
                f"(first {missing[0]}) are not in pairs.parquet; render again"
            )
        return replace(
            self,
            anchors=np.searchsorted(pairs, self.anchors),
            choices=np.searchsorted(pairs, self.choices),
        )


def read_trials(path: Path, split: str) -> list[Trials]:
    """Read a split's trials from `trials.parquet`, one `Trials` for each source, protocol and K.

    Raises
    ------
    ValueError
        The file is missing or damaged, or holds none for the split.
    """
    try:
        table = pq.read_table(path, filters=[("split", "=", split)]).sort_by("trial")
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: missing or damaged ({error}); render again") from error
    if not table.num_rows:
        raise ValueError(f"{path}: no trials of split {split!r}; render again")
    columns = [table[name].to_pylist() for name in ("source", "protocol", "candidates")]
    keys = list(zip(*columns, strict=True))
    anchors, answers = (table[name].to_numpy().astype(np.int64) for name in ("anchor", "answer"))
    choices = table["choices"].to_pylist()
    found = []
    for source, protocol, candidates in sorted(set(keys)):
        rows = [row for row, key in enumerate(keys) if key == (source, protocol, candidates)]
        drawn = np.array([choices[row] for row in rows], dtype=np.int64)
        found.append(Trials(source, protocol, anchors[rows], drawn, answers[rows]))
    return found


def score_trials(scores: Floats, trials: Trials) -> Integers:
    """Rank the true positive of each trial among its candidates.

    Parameters
    ----------
    scores : float array [shape=(N, N)]
        Score of each anchor (row) with each positive (column), higher is better; `trials` number
        the rows and columns (see `Trials.among`).
    trials : Trials
        What to ask.

    Returns
    -------
    int64 array [shape=(T,)]
        How many other candidates the true one does not beat: 0 is a hit, K - 1 the last place.
        Neither a tie nor NaN is beaten: a scorer that says nothing never hits.
    """
    asked = scores[trials.anchors[:, None], trials.choices]
    truth = np.take_along_axis(asked, trials.answers[:, None], axis=1)
    ranks: Integers = np.sum(~(truth > asked), axis=1) - 1
    return ranks


def rank_among_all(
    scores: Floats, songs: Sequence[str], *, same_song: bool
) -> tuple[Integers, Integers]:
    """Rank each true positive among the positives of all pairs.

    Parameters
    ----------
    scores : float array [shape=(N, N)]
        Score of each anchor (row) with each positive (column).
    songs : sequence of str [length=N]
        The song of each pair.
    same_song : bool
        Whether other moments of the anchor's own song are among the candidates.

    Returns
    -------
    ranks, others : int64 arrays [shape=(N,)]
        How many others the true one does not beat, and of how many.
    """
    unbeaten = ~(np.diagonal(scores)[:, None] > scores)
    np.fill_diagonal(unbeaten, False)
    place, sizes = np.unique(songs, return_inverse=True, return_counts=True)[1:]
    others = np.full(len(scores), len(scores) - 1)
    if not same_song:
        for song in range(len(sizes)):
            own = np.flatnonzero(place == song)
            unbeaten[np.ix_(own, own)] = False
        others = len(scores) - sizes[place]
    return np.sum(unbeaten, axis=1), others


def expected_top1(ranks: Integers, others: Integers, most: int) -> Floats:
    """Top-1 accuracy expected over all draws of K - 1 other pairs, exactly, for K = 1..`most`.

    The mean over anchors of C(N - 1 - r, K - 1) / C(N - 1, K - 1), where r of the N - 1 others are
    not beaten by the true positive: protocol `paper` without the chance in its trials.

    Parameters
    ----------
    ranks, others : int64 arrays [shape=(N,)]
        As `rank_among_all` gives them.
    most : int
        The largest K, at most one more than the fewest others.

    Returns
    -------
    float array [shape=(most,)]
        Accuracy at K = 1, 2, ..., `most`.
    """
    found = np.ones(most)
    chances = np.ones(len(ranks))
    beaten = others - ranks
    for drawn in range(most - 1):
        # One more distractor: beaten too with the chance left once `drawn` of both are gone.
        chances = chances * np.maximum(beaten - drawn, 0) / (others - drawn)
        found[drawn + 1] = chances.mean()
    return found


def expected_top1_songs(scores: Floats, songs: Sequence[str], most: int) -> Floats:
    """Top-1 accuracy expected over all draws of K - 1 other songs and a pair of each: see above.

    Protocol `songs` without the chance in its trials; `most` is at most the number of songs.
    """
    place = np.unique(songs, return_inverse=True)[1]
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    beaten = (np.diagonal(scores)[:, None] > scores)[:, order]
    # For each anchor and song, the chance that a pair of that song loses to the true positive.
    loses = np.add.reduceat(beaten, starts, axis=1, dtype=np.int64) / np.bincount(place)
    # mean[j]: mean over all sets of j of the songs seen so far of the product of their chances. A
    # new song is in such a set with chance j / seen, so each step is a weighted mean of two: exact,
    # with no differences of large binomials.
    mean = np.zeros((most, len(scores)))
    mean[0] = 1.0
    seen = np.zeros(len(scores))
    size = np.arange(1, most)[:, None]
    for song, chance in enumerate(loses.T):
        other = place != song
        seen += other
        share = other * np.minimum(size / np.maximum(seen, 1), 1)
        mean[1:] += share * (chance * mean[:-1] - mean[1:])
    expected: Floats = mean.mean(axis=1)
    return expected
