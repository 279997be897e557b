"""Shards as training reads them: where each pair lies, crops by their bytes, and whole streams.

A crop is read straight into the memory of its batch. Of shards in an object store exactly the bytes
of a batch are asked for, all at once; WebDataset's readers stream a shard from start to end.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from webdataset.tariterators import group_by_keys, tar_file_expander

from phalar import audio, store
from phalar.train.plan import Ids

SIDES = ("anchor", "positive")
REMEDY = "render again: dvc repro -f -s render"
WAV_HEADER_BYTES = 44


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
    remote: Mapping[str, store.Remote] = field(default_factory=dict)
    """Shards that lie in a store, by their path below `folder`."""
    is_wav: bool = False
    """Whether every sound file has the size of a WAV, in which any sample's place is known."""

    @staticmethod
    def read(folder: Path, split: str, *, by_source: bool = False) -> PairIndex:
        """Read a split's index, and check that its shards are there and as long as they must be.

        With `by_source` each source is a pool of its own.

        Raises
        ------
        ValueError
            The index is missing or damaged, or a shard is missing, short or too long.
        StoreError
            The shards lie in a store, and it cannot be read or lacks one.
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
        sizes = np.stack([table[f"{side}_bytes"] for side in SIDES], axis=1)
        samples = table["samples"][0].as_py()
        index = PairIndex(
            folder=folder,
            split=split,
            samples=samples,
            pair=table["pair"].to_numpy(),
            shard=np.array(table["shard"].to_pylist()),
            key=np.array(table["key"].to_pylist()),
            song=np.unique(["/".join(song) for song in songs], return_inverse=True)[1],
            pool=np.unique(sources, return_inverse=True)[1] * by_source,
            offset=np.stack([table[f"{side}_offset"] for side in SIDES], axis=1),
            bytes=sizes,
            remote=store.read_manifest(folder),
            is_wav=bool((sizes == WAV_HEADER_BYTES + 2 * samples).all()),
        )
        index._check_shards()
        return index

    def file(self, shard: str) -> store.File:
        """Give a shard's path, or where it lies in a store."""
        return self.remote.get(shard, self.folder / shard)

    def _check_shards(self) -> None:
        """Compare the sizes of all shards with where their last members end."""
        ends = self.offset[:, 1] + self.bytes[:, 1]
        shards, firsts = np.unique(self.shard, return_index=True)
        files = [self.file(str(shard)) for shard in shards]
        store.check([file for file in files if isinstance(file, store.Remote)])
        for path, end in zip(files, np.maximum.reduceat(ends, firsts), strict=True):
            blocks = -(-int(end) // tarfile.BLOCKSIZE) + 2
            wanted = -(-blocks * tarfile.BLOCKSIZE // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
            if isinstance(path, store.Remote):
                size: int | None = path.bytes
            else:
                size = path.stat().st_size if path.exists() else None
            if size is None:
                raise ValueError(f"{path}: this shard is missing; {REMEDY}")
            if size != wanted:
                raise ValueError(f"{path}: this shard has {size} bytes, must be {wanted}; {REMEDY}")


def stream(index: PairIndex, pairs: Ids, crop: slice) -> Iterator[NDArray[np.int16]]:
    """Stream the (2, N) sound of each pair, shard after shard.

    Raises
    ------
    ValueError
        A shard is damaged.
    StoreError
        A shard lies in a store that cannot be read.
    """
    for shard in dict.fromkeys(index.shard[pairs].tolist()):
        path = index.file(shard)
        keys = set(index.key[pairs[index.shard[pairs] == shard]].tolist())
        found = 0
        try:
            # Of WebDataset only what reads one shard: the plan alone shares pairs out.
            with store.open_file(path) as stream:
                shards = [{"url": str(path), "stream": stream}]
                for members in group_by_keys(tar_file_expander(shards)):
                    if members["__key__"] in keys:
                        yield np.stack([_decode(members, side, crop) for side in SIDES])
                        found += 1
        except store.StoreError:
            raise
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


def read_crops(index: PairIndex, pairs: Ids, starts: Ids, out: NDArray[np.int16]) -> None:
    """Read N samples of both sides of pairs into memory that is there, by their place in a shard.

    Parameters
    ----------
    index : PairIndex
    pairs, starts : int64 arrays [shape=(B,)]
        Which pairs, and the first sample that is wanted of each.
    out : int16 array [shape=(B, 2, N)]
        Filled with anchors and positives.

    Raises
    ------
    ValueError
        A shard is damaged.
    StoreError
        A shard lies in a store that cannot be read.
    """
    if index.remote:
        _fetch_crops(index, pairs, starts, out)
        return
    for pair, start, rows in zip(pairs.tolist(), starts.tolist(), out, strict=True):
        read_crop(index, pair, start, rows)


def read_crop(index: PairIndex, pair: int, start: int, out: NDArray[np.int16]) -> None:
    """Read N samples of both sides of one pair from a shard on this disk to `out` (2, N)."""
    path = index.folder / str(index.shard[pair])
    crop = slice(start, start + out.shape[1])
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            for side, offset, size, row in zip(
                SIDES, index.offset[pair].tolist(), index.bytes[pair].tolist(), out, strict=True
            ):
                header = os.pread(file, tarfile.BLOCKSIZE, offset - tarfile.BLOCKSIZE)
                if _container(header, f"{index.key[pair]}.{side}") == "wav":
                    first = offset + WAV_HEADER_BYTES + 2 * start
                    if os.preadv(file, [row], first) != row.nbytes:
                        raise ValueError(f"{index.key[pair]}.{side}.wav is cut")
                else:
                    row[:] = _decode_flac(os.pread(file, size, offset), crop)
        finally:
            os.close(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: this shard is damaged ({error}); {REMEDY}") from error


def _container(header: bytes, member: str) -> str:
    """Read from a tar header how a member is encoded; refuse the header of another one."""
    name = header.partition(b"\0")[0].decode("ascii", "replace")
    stem, _, container = name.rpartition(".")
    if stem != member:
        raise ValueError(f"{name!r} stands in the place of {member}")
    return container


def _fetch_crops(index: PairIndex, pairs: Ids, starts: Ids, out: NDArray[np.int16]) -> None:
    """Read crops from a store: of each member the bytes from its tar header to the crop's end."""
    wanted = []
    for pair, start in zip(pairs.tolist(), starts.tolist(), strict=True):
        remote = index.remote[str(index.shard[pair])]
        for offset, size in np.stack([index.offset[pair], index.bytes[pair]], axis=1).tolist():
            needed = WAV_HEADER_BYTES + 2 * (start + out.shape[-1]) if index.is_wav else size
            wanted.append((remote, offset - tarfile.BLOCKSIZE, offset + needed))
    contents = iter(store.read_ranges(wanted))
    for pair, start, rows in zip(pairs.tolist(), starts.tolist(), out, strict=True):
        for side, row in zip(SIDES, rows, strict=True):
            content = next(contents)
            sound = content[tarfile.BLOCKSIZE :]
            try:
                if _container(content, f"{index.key[pair]}.{side}") == "wav":
                    row[:] = np.frombuffer(sound, "<i2", len(row), WAV_HEADER_BYTES + 2 * start)
                else:
                    row[:] = _decode_flac(sound, slice(start, start + len(row)))
            except (OSError, ValueError) as error:
                shard = index.file(str(index.shard[pair]))
                raise ValueError(f"{shard}: this shard is damaged ({error}); {REMEDY}") from error
