"""Batches of pairs from the shards: one plan for all processes, each reads its share of it.

The order of an epoch is drawn here, from (seed, epoch) alone, and pairs are read by their place in
the shards: what a process gets does not depend on how many processes or readers there are, and any
step can be the first. A crop is read straight into the memory of its batch, by threads: such reads
let other threads run. WebDataset streams whole splits in the order in which they were written.
"""

from __future__ import annotations

import os
import tarfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import webdataset
from numpy.typing import NDArray
from torch import Tensor

from phalar import audio
from phalar.params import Train
from phalar.train.plan import Ids, batches_an_epoch, plan_epoch

SIDES = ("anchor", "positive")
REMEDY = "render again: dvc repro -f -s render"
WAV_HEADER_BYTES = 44
BATCHES_AHEAD = 2
"""Batches that each reader has ready or is reading."""

LENGTHS, OFFSETS = 1, 2
"""Stand behind (seed, epoch) where something else than the order is drawn."""


@dataclass(frozen=True, slots=True)
class PairIndex:
    """Where the pairs of a split lie; P pairs in order."""

    folder: Path
    split: str
    samples: int
    """Length of every pair."""
    pair: Ids
    """(P,): 0 to P - 1."""
    shard: NDArray[np.str_]
    """(P,): path below `folder`."""
    key: NDArray[np.str_]
    """(P,): name within the shard."""
    song: Ids
    """(P,): number of the song; pairs of one song share it."""
    pool: Ids
    """(P,): number of the source, or 0 for all; a batch takes its pairs from one pool."""
    offset: Ids
    """(P, 2): first byte of the anchor's and the positive's sound file within the shard."""
    bytes: Ids
    """(P, 2): their sizes."""

    @staticmethod
    def read(folder: Path, split: str, *, by_source: bool = False) -> PairIndex:
        """Read a split's index, and check that its shards are there and as long as they must be.

        With `by_source` each source is a pool of its own.

        Raises
        ------
        ValueError
            The index is missing or damaged, or a shard is missing, short or too long.
        """
        path = folder / "pairs.parquet"
        names = ["pair", "shard", "key", "source", "song", "samples"]
        names += [f"{side}_{what}" for side in SIDES for what in ("offset", "bytes")]
        try:
            table = pq.read_table(path, columns=names, filters=[("split", "=", split)])
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: missing or damaged ({error}); {REMEDY}") from error
        if not np.array_equal(table["pair"], np.arange(table.num_rows)) or not table.num_rows:
            raise ValueError(f"{path}: does not list the pairs of {split} from 0 on; {REMEDY}")
        sources = table["source"].to_pylist()
        songs = zip(sources, table["song"].to_pylist(), strict=True)
        index = PairIndex(
            folder=folder,
            split=split,
            samples=table["samples"][0].as_py(),
            pair=table["pair"].to_numpy(),
            shard=np.array(table["shard"].to_pylist()),
            key=np.array(table["key"].to_pylist()),
            song=np.unique(["/".join(song) for song in songs], return_inverse=True)[1],
            pool=np.unique(sources, return_inverse=True)[1] * by_source,
            offset=np.stack([table[f"{side}_offset"] for side in SIDES], axis=1),
            bytes=np.stack([table[f"{side}_bytes"] for side in SIDES], axis=1),
        )
        index._check_shards()
        return index

    def _check_shards(self) -> None:
        """Compare the sizes of all shards with where their last members end."""
        ends = self.offset[:, 1] + self.bytes[:, 1]
        shards, firsts = np.unique(self.shard, return_index=True)
        for shard, end in zip(shards, np.maximum.reduceat(ends, firsts), strict=True):
            path = self.folder / str(shard)
            blocks = -(-int(end) // tarfile.BLOCKSIZE) + 2
            wanted = -(-blocks * tarfile.BLOCKSIZE // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
            size = path.stat().st_size if path.exists() else None
            if size is None:
                raise ValueError(f"{path}: this shard is missing; {REMEDY}")
            if size != wanted:
                raise ValueError(f"{path}: this shard has {size} bytes, must be {wanted}; {REMEDY}")


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
        for pair, start, out in zip(pairs, starts, wave.numpy(), strict=True):
            read_crop(self.index, int(pair), int(start), out)
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
    waves = _stream(index, pairs, slice(start, start + samples))
    for first in range(0, len(pairs), batch_pairs):
        here = pairs[first : first + batch_pairs]
        wave = torch.from_numpy(np.stack(list(islice(waves, len(here)))))
        yield Batch(torch.tensor(here), torch.tensor(index.song[here]), wave)


def _stream(index: PairIndex, pairs: Ids, crop: slice) -> Iterator[NDArray[np.int16]]:
    """Yield the (2, N) sound of each pair, shard after shard."""
    for shard in dict.fromkeys(index.shard[pairs].tolist()):
        path = index.folder / shard
        keys = set(index.key[pairs[index.shard[pairs] == shard]].tolist())
        found = 0
        try:
            # Every process that asks gets all pairs: the plan alone shares them out.
            stream = webdataset.WebDataset(
                str(path), shardshuffle=False, nodesplitter=None, empty_check=False
            )
            for members in stream:
                if members["__key__"] in keys:
                    yield np.stack([_decode(members, side, crop) for side in SIDES])
                    found += 1
        except (tarfile.TarError, OSError, ValueError, KeyError) as error:
            raise ValueError(f"{path}: this shard is damaged ({error}); {REMEDY}") from error
        if found != len(keys):
            raise ValueError(f"{path}: this shard has {found} of {len(keys)} pairs; {REMEDY}")


def _decode(members: dict[str, bytes], side: str, crop: slice) -> NDArray[np.int16]:
    """Decode a side of a pair that WebDataset read."""
    if f"{side}.wav" in members:
        first = WAV_HEADER_BYTES + 2 * crop.start
        return np.frombuffer(members[f"{side}.wav"], "<i2", crop.stop - crop.start, first)
    return _decode_flac(members[f"{side}.flac"], crop)


def _decode_flac(file: bytes, crop: slice) -> NDArray[np.int16]:
    sound, _ = audio.read_audio(file, frames=crop)
    return np.asarray(sound[0] * 32768, dtype=np.int16)


def read_crop(index: PairIndex, pair: int, start: int, out: NDArray[np.int16]) -> None:
    """Read N samples of both sides of a pair into memory that is there, by their place in a shard.

    Parameters
    ----------
    index : PairIndex
    pair, start : int
        Which pair, and the first of its samples that is wanted.
    out : int16 array [shape=(2, N)]
        Filled with anchor and positive.

    Raises
    ------
    ValueError
        The shard is damaged.
    """
    path = index.folder / str(index.shard[pair])
    crop = slice(start, start + out.shape[1])
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            for side, offset, size, row in zip(
                SIDES, index.offset[pair].tolist(), index.bytes[pair].tolist(), out, strict=True
            ):
                header = os.pread(file, tarfile.BLOCKSIZE, offset - tarfile.BLOCKSIZE)
                name = header.partition(b"\0")[0].decode("ascii", "replace")
                stem, _, container = name.rpartition(".")
                if stem != f"{index.key[pair]}.{side}":
                    raise ValueError(f"{name!r} stands in the place of {index.key[pair]}.{side}")
                if container == "wav":
                    first = offset + WAV_HEADER_BYTES + 2 * start
                    if os.preadv(file, [row], first) != row.nbytes:
                        raise ValueError(f"{name} is cut")
                else:
                    row[:] = _decode_flac(os.pread(file, size, offset), crop)
        finally:
            os.close(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: this shard is damaged ({error}); {REMEDY}") from error
