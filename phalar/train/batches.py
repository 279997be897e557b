"""Batches of pairs from the shards: one plan for all processes, each reads its share of it.

The order of an epoch is drawn here, from (seed, epoch) alone, and pairs are read by their place in
the shards: what a process gets does not depend on how many processes or readers there are, and any
step can be the first. Sound is read by threads: such reads let other threads run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from phalar import audio
from phalar.params import Train
from phalar.train import shards
from phalar.train.plan import Ids, batches_an_epoch, plan_epoch
from phalar.train.shards import PairIndex

BATCHES_AHEAD = 2
"""Batches that each reader has ready or is reading."""

LENGTHS, OFFSETS = 1, 2
"""Stand behind (seed, epoch) where something else than the order is drawn."""


@dataclass(frozen=True, slots=True)
class Batch:
    """B pairs, their sound all of one length."""

    pair: Tensor
    """int64 (B,)"""
    song: Tensor
    """int64 (B,): equal for pairs of one song, which are no negatives of each other."""
    wave: Tensor
    """(B, 2, N), anchor and positive: int16 as stored, float32 in [-1, 1) after `to`."""

    @property
    def anchor(self) -> Tensor:
        """(B, N), a view."""
        return self.wave[:, 0]

    @property
    def positive(self) -> Tensor:
        """(B, N), a view."""
        return self.wave[:, 1]

    def to(self, device: torch.device | str) -> Batch:
        """Move to a device, as half the bytes, and make the sound float32 there."""
        wave = self.wave.to(device, non_blocking=True)
        return Batch(
            pair=self.pair.to(device, non_blocking=True),
            song=self.song.to(device, non_blocking=True),
            wave=wave if wave.is_floating_point() else wave.float().mul_(1 / 32768),
        )


@dataclass(frozen=True, slots=True)
class Batches:
    """Endless batches of one process, epoch after epoch.

    Iterating yields this process's share of global batch `start_batch`, then of the next, and so
    on: places `rank * B / world` to `(rank + 1) * B / world` of each. A batch's length is drawn
    from `train.crop_s`, and each pair's moment, the same for both sides, by (seed, epoch, pair).
    """

    index: PairIndex
    settings: Train
    rank: int = 0
    world: int = 1
    start_batch: int = 0
    """Batches of the whole run that came before; the rest is as if they had been read."""
    pin: bool = False
    """Whether sound lies in memory that a GPU can copy from while the process goes on."""

    def __post_init__(self) -> None:
        batch, longest = self.settings.batch_pairs, max(self.settings.crop_s)
        if batch % self.world:
            raise ValueError(
                f"train.batch_pairs = {batch} cannot be shared by {self.world} processes; make it "
                f"a multiple of their number"
            )
        if round(longest * audio.SAMPLE_RATE_HZ) > self.index.samples:
            raise ValueError(
                f"train.crop_s: {longest:g} s is more than the {self._pair_s:g} s of the pairs; "
                f"lower it or raise render.pair_s.{self.index.split}"
            )
        # Refuses a batch of more pairs than there are.
        batches_an_epoch(self.index.song, self.index.pool, batch)

    @property
    def batches_an_epoch(self) -> int:
        """Number of batches after which each pair may come again."""
        return batches_an_epoch(self.index.song, self.index.pool, self.settings.batch_pairs)

    @property
    def _pair_s(self) -> float:
        return self.index.samples / audio.SAMPLE_RATE_HZ

    def __iter__(self) -> Iterator[Batch]:
        crops = self._crops()
        if self.settings.workers == 0:
            yield from (self._read(*crop) for crop in crops)
            return
        pool = ThreadPoolExecutor(self.settings.workers, thread_name_prefix="batches")
        try:
            ahead: deque[Future[Batch]] = deque()
            while True:
                missing = BATCHES_AHEAD * self.settings.workers - len(ahead)
                ahead.extend(pool.submit(self._read, *crop) for crop in islice(crops, missing))
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _crops(self) -> Iterator[tuple[Ids, Ids, int]]:
        """Yield pairs, first samples, and the length for each batch of this process."""
        seed, batch = self.settings.seed, self.settings.batch_pairs
        first_epoch, first = divmod(self.start_batch, self.batches_an_epoch)
        share = slice(self.rank * batch // self.world, (self.rank + 1) * batch // self.world)
        for epoch in count(first_epoch):
            plan = plan_epoch(
                self.index.song, self.index.pool, seed=seed, epoch=epoch, batch_pairs=batch
            )
            crop_s = np.random.default_rng([seed, epoch, LENGTHS]).choice(
                self.settings.crop_s, len(plan)
            )
            fractions = np.random.default_rng([seed, epoch, OFFSETS]).random(len(self.index.pair))
            for number in range(first, len(plan)):
                pairs = plan[number, share]
                samples = round(crop_s[number] * audio.SAMPLE_RATE_HZ)
                starts = fractions[pairs] * (self.index.samples - samples + 1)
                yield pairs, starts.astype(np.int64), samples
            first = 0

    def _read(self, pairs: Ids, starts: Ids, samples: int) -> Batch:
        wave = torch.empty((len(pairs), 2, samples), dtype=torch.int16, pin_memory=self.pin)
        shards.read_crops(self.index, pairs, starts, wave.numpy())
        return Batch(torch.tensor(pairs), torch.tensor(self.index.song[pairs]), wave)


def read_pairs(
    folder: Path, split: str, *, clip_s: float, batch_pairs: int, wanted: Ids | None = None
) -> Iterator[Batch]:
    """Stream a split's pairs in order, cut to the middle `clip_s` seconds of each.

    Parameters
    ----------
    folder : Path
        Of the render stage.
    split : str
    clip_s : float
        Length that is left of each pair.
    batch_pairs : int
        Pairs of a batch; the last may have fewer.
    wanted : int64 array [shape=(W,)], optional
        Only these pairs, in rising order; shards that hold none of them are not opened.

    Raises
    ------
    ValueError
        The pairs are shorter than `clip_s`, or a shard is damaged.
    """
    index = PairIndex.read(folder, split)
    samples = round(clip_s * audio.SAMPLE_RATE_HZ)
    if samples > index.samples:
        raise ValueError(
            f"evaluate.clip_s = {clip_s:g} s is more than the "
            f"{index.samples / audio.SAMPLE_RATE_HZ:g} s of the pairs; lower it or raise "
            f"render.pair_s.{index.split}"
        )
    start = (index.samples - samples) // 2
    pairs = index.pair if wanted is None else np.unique(wanted)
    waves = shards.stream(index, pairs, slice(start, start + samples))
    for first in range(0, len(pairs), batch_pairs):
        here = pairs[first : first + batch_pairs]
        wave = torch.from_numpy(np.stack(list(islice(waves, len(here)))))
        yield Batch(torch.tensor(here), torch.tensor(index.song[here]), wave)
