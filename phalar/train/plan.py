"""Which pairs meet in which batch: an epoch dealt out by song, from (seed, epoch) alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


def batches_an_epoch(song: Ids, pool: Ids, batch_pairs: int) -> int:
    """Count the batches of an epoch, the same for every epoch.

    Where a pool has as many songs as a batch has places, or more, no song is twice in a batch: a
    song with more pairs than there are batches gives only so many of them. With fewer songs all
    pairs are used.

    Parameters
    ----------
    song, pool : int64 arrays [shape=(P,)]
        The song of each pair, and the pool that it belongs to; batches do not mix pools.
    batch_pairs : int
        Pairs of a global batch.

    Raises
    ------
    ValueError
        A pool has fewer pairs than a batch has places.
    """
    return sum(_batches(song[pool == number], batch_pairs) for number in np.unique(pool))


def plan_epoch(song: Ids, pool: Ids, *, seed: int, epoch: int, batch_pairs: int) -> Ids:
    """Draw the batches of an epoch; those of different pools come in an order of chance.

    Parameters
    ----------
    song, pool : int64 arrays [shape=(P,)]
        As in `batches_an_epoch`.
    seed, epoch : int
        All the chance there is.
    batch_pairs : int
        Pairs of a global batch.

    Returns
    -------
    int64 array [shape=(batches, batch_pairs)]
        Pairs, each at most once; those that fill no batch are others in each epoch.
    """
    rng = np.random.default_rng([seed, epoch])
    dealt = []
    for number in np.unique(pool):
        pairs = np.flatnonzero(pool == number)
        dealt.append(pairs[_deal(song[pairs], batch_pairs, rng=rng)])
    plan = np.concatenate(dealt)
    return plan[rng.permutation(len(plan))]


def _batches(song: Ids, batch_pairs: int) -> int:
    """Count the batches that one pool fills."""
    counts = np.unique(song, return_counts=True)[1]
    batches = len(song) // batch_pairs
    if batches == 0:
        raise ValueError(
            f"train.batch_pairs = {batch_pairs} is more than the {len(song)} pairs there are; "
            f"lower it or raise render.pairs.train"
        )
    if len(counts) < batch_pairs:
        return batches
    while (fewer := int(np.minimum(counts, batches).sum()) // batch_pairs) < batches:
        batches = fewer
    return batches


def _deal(song: Ids, batch_pairs: int, *, rng: np.random.Generator) -> Ids:
    """Deal the pairs of one pool into batches (batches, batch_pairs).

    Pairs are sorted by song, songs in random order, and dealt out like cards, in rounds: each batch
    gets one, the batches in an order of chance. So a song comes to no batch twice before it came to
    all; where it runs on into the next round, the batches that hold least of it go first.
    """
    batches = _batches(song, batch_pairs)
    shuffled = rng.permutation(len(song))
    by_song = shuffled[np.argsort(song[shuffled], kind="stable")]
    _, firsts, counts = np.unique(song[by_song], return_index=True, return_counts=True)
    nth = np.empty(len(shuffled), dtype=np.int64)
    nth[by_song] = np.arange(len(shuffled)) - np.repeat(firsts, counts)
    if len(counts) >= batch_pairs:
        shuffled = shuffled[nth[shuffled] < batches]
    chosen = shuffled[: batches * batch_pairs]
    place_of_song = rng.permutation(song.max() + 1)
    cards = chosen[np.argsort(place_of_song[song[chosen]], kind="stable")]

    plan = np.empty((batches, batch_pairs), dtype=np.int64)
    running, held = -1, np.zeros(batches, dtype=np.int64)
    for place, dealt in enumerate(cards.reshape(batch_pairs, batches)):
        songs = song[dealt]
        order = rng.permutation(batches)
        if runs_on := int(np.sum(songs == running)):
            order = order[np.argsort(held[order], kind="stable")]
            order[runs_on:] = rng.permutation(order[runs_on:])
        plan[order, place] = dealt
        if songs[-1] != running:
            running, held = songs[-1], np.zeros(batches, dtype=np.int64)
        held[order[songs == running]] += 1
    return plan
