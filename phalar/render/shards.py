"""Mix pairs track by track, straight into their places in the shards.

A member of a WAV shard has a size that is known before its sound, so a shard's layout is too: each
track is decoded once, whatever shards its pairs belong to, and the memory is that of one track.
"""

from __future__ import annotations

import io
import math
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from phalar import audio, tracks
from phalar.render.pairs import Pairs, stems_of
from phalar.tracks import TrackIndex

SIDES = ("anchor", "positive")
FEW_PAIRS, MANY_PAIRS = 128, 1024
"""A task is as many pairs: enough to be worth a message, few enough to lose when it is killed."""

FULL_SCALE = 32767

NOTES = "mixed"
"""Folder aside in which workers note what they mixed."""

NO_LEVELS = np.empty(0, dtype=np.float32)

SPACE = "make space or mend the folder, then run again: it goes on where it stopped"

BLOCK = tarfile.BLOCKSIZE

MIXED = np.dtype([("pair", np.int64), ("gain", np.float32), ("level_db", np.float32, (2,))])
"""What mixing finds out about a pair; levels of both sides as they stand in the shard."""

MEMBERS = np.dtype([("offset", np.int64, (2,)), ("bytes", np.int64, (2,))])
"""Where the sound files of a pair's two sides lie within its shard."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies in the WAV shards of a split."""

    split: str
    samples: int
    pairs: int
    pairs_per_shard: int

    @property
    def shards(self) -> int:
        """Number of shards; the last may hold fewer pairs."""
        return -(-self.pairs // self.pairs_per_shard)

    @property
    def member_bytes(self) -> int:
        """Tar header, sound file, and padding to a whole block."""
        return BLOCK + _padded(len(wav_header(self.samples)) + 2 * self.samples, BLOCK)

    def shard(self, number: int) -> str:
        """Path of a shard below the stage's folder."""
        return f"{self.split}/{number:06d}.tar"

    def pairs_in(self, shard: int) -> range:
        """Pairs that a shard holds, in order."""
        first = shard * self.pairs_per_shard
        return range(first, min(first + self.pairs_per_shard, self.pairs))

    def shard_bytes(self, shard: int) -> int:
        """Size of a shard, with the zeros that end an archive."""
        used = 2 * self.member_bytes * len(self.pairs_in(shard))
        return _padded(used + 2 * BLOCK, tarfile.RECORDSIZE)

    def members(self) -> NDArray[Any]:
        """`MEMBERS` records of all pairs [shape=(P,)]."""
        found = np.empty(self.pairs, dtype=MEMBERS)
        place = np.arange(self.pairs) % self.pairs_per_shard
        first = 2 * place * self.member_bytes + BLOCK
        found["offset"] = np.stack([first, first + self.member_bytes], axis=1)
        found["bytes"] = len(wav_header(self.samples)) + 2 * self.samples
        return found


@dataclass(frozen=True, slots=True)
class Task:
    """Pairs of a few tracks: what a worker mixes at once."""

    number: int
    layout: Layout
    tracks: list[TrackIndex]
    """Without their levels, which mixing does not need."""
    pairs: NDArray[np.int64]
    rows: NDArray[Any]
    """`PAIR` records of `pairs`, sorted by track, with places in this task's `tracks`."""


def key(pair: int) -> str:
    """Name of a pair within its shard."""
    return f"{pair:09d}"


@lru_cache
def wav_header(samples: int) -> bytes:
    """What a WAV file of so many samples starts with, before the samples themselves."""
    return audio.encode(np.zeros(samples, dtype=np.float32), container="WAV")[: -2 * samples]


def layout(pairs: Pairs, pairs_per_shard: int) -> Layout:
    """Lay out a split's shards."""
    return Layout(pairs.split, pairs.samples, len(pairs.rows), pairs_per_shard)


def create(aside: Path, plan: Layout) -> None:
    """Make the shards of a split, as files of zeros in their final size."""
    (aside / plan.split).mkdir(exist_ok=True)
    for number in range(plan.shards):
        if not (aside / plan.shard(number)).exists():
            with _unsealed(aside, plan, number).open("ab") as file:
                file.truncate(plan.shard_bytes(number))


def tasks(pairs: Pairs, plan: Layout) -> Iterator[Task]:
    """Cut a split's pairs, sorted by track, into tasks: between tracks, unless one has too many."""
    order = np.argsort(pairs.rows["track"], kind="stable")
    track = pairs.rows["track"][order]
    number = first = 0
    while first < len(order):
        # To the end of the track in which the task gets long enough.
        last = min(first + FEW_PAIRS, len(order)) - 1
        end = min(int(np.searchsorted(track, track[last], side="right")), first + MANY_PAIRS)
        chosen = order[first:end]
        rows = pairs.rows[chosen]
        found, rows["track"] = np.unique(rows["track"], return_inverse=True)
        light = [replace(pairs.tracks[place], levels_db=NO_LEVELS) for place in found]
        yield Task(number, plan, light, chosen, rows)
        number, first = number + 1, end


def mix(task: Task, *, aside: Path) -> int:
    """Write a task's pairs into their shards, unless a run before this one did; return how many.

    Raises
    ------
    ValueError
        A track's parquet is damaged.
    OSError
        The disk is full or cannot be written.
    """
    done = _mixed(aside, task.layout.split, task.number)
    if done.exists():
        return len(task.pairs)
    found = np.empty(len(task.pairs), dtype=MIXED)
    found["pair"] = task.pairs
    for place, index in enumerate(task.tracks):
        stems = tracks.read_stems(index)
        for at in np.flatnonzero(task.rows["track"] == place):
            pcm, found["gain"][at] = mix_pair(stems, task.rows[at], task.layout.samples)
            found["level_db"][at] = [_level_db(side) for side in pcm]
            _write(aside, task.layout, int(task.pairs[at]), pcm)
    # Last and at once: what is noted here is in the shards.
    part = done.with_suffix(".part")
    part.write_bytes(found.tobytes())
    part.replace(done)
    return len(task.pairs)


def mix_pair(stems: NDArray[np.float32], row: Any, samples: int) -> tuple[NDArray[np.int16], float]:
    """Sum the stems of both sides, and lower both alike where 16 bit would clip.

    Stems are 16-bit too: their sums are exact in float32, and a gain of 1 keeps them so.

    Returns
    -------
    pcm : int16 array [shape=(2, N)]
    gain : float
        1 or less.
    """
    moment = slice(row["start"], row["start"] + samples)
    sums = np.stack([stems[stems_of(row[side]), moment].sum(axis=0) for side in SIDES])
    sums *= 1 + FULL_SCALE
    peak = max(sums.max(), -sums.min())
    gain = np.float32(1)
    if peak > FULL_SCALE:
        gain = np.float32(FULL_SCALE / peak)
        sums = np.rint(sums * gain)
    return sums.astype("<i2"), float(gain)


def read_mixed(aside: Path, plan: Layout) -> NDArray[Any]:
    """Read what mixing found out: `MIXED` records of all pairs in order.

    Raises
    ------
    ValueError
        Pairs are missing.
    """
    paths = sorted((aside / NOTES).glob(f"{plan.split}-*.bin"))
    found = np.concatenate([np.fromfile(path, dtype=MIXED) for path in paths])
    found = found[np.argsort(found["pair"])]
    if not np.array_equal(found["pair"], np.arange(plan.pairs)):
        raise ValueError(
            f"{aside}: notes on {len(found)} of {plan.pairs} {plan.split} pairs; delete the folder "
            f"and render again"
        )
    return found


def seal(job: tuple[Layout, int], *, aside: Path, container: str) -> NDArray[Any]:
    """Give a shard, all of whose pairs are mixed, its container and its name.

    Returns
    -------
    `MEMBERS` records [shape=(pairs of the shard,)]

    Raises
    ------
    ValueError
        Members are missing.
    """
    plan, number = job
    path, part = aside / plan.shard(number), _unsealed(aside, plan, number)
    here = plan.pairs_in(number)
    members = plan.members()[here.start : here.stop]
    if path.exists():
        part.unlink(missing_ok=True)
    else:
        _check(part, members, here)
        if container == "flac":
            _to_flac(part, path, plan.samples)
        else:
            part.replace(path)
    if container == "wav":
        return members
    with tarfile.open(path) as tar:
        places = [(member.offset_data, member.size) for member in tar]
    found = np.empty(len(here), dtype=MEMBERS)
    found["offset"] = np.reshape([offset for offset, _ in places], (-1, 2))
    found["bytes"] = np.reshape([size for _, size in places], (-1, 2))
    return found


def _check(part: Path, members: NDArray[Any], pairs: range) -> None:
    """Refuse a shard in which a member is not at its place."""
    with part.open("rb") as file:
        for pair, member in zip(pairs, members, strict=True):
            for side, offset in zip(SIDES, member["offset"], strict=True):
                file.seek(offset - BLOCK)
                name = file.read(BLOCK).split(b"\0", 1)[0].decode("ascii", "replace")
                if name != f"{key(pair)}.{side}.wav":
                    raise ValueError(
                        f"{part}: {name!r} stands in the place of pair {pair}; delete "
                        f"{part.parents[1]} and render again"
                    )


def _to_flac(wav: Path, path: Path, samples: int) -> None:
    """Encode a WAV shard's sound anew, aside and then into place."""
    part = path.with_suffix(".flac.part")
    with tarfile.open(wav) as source, tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member in source:
            sound = cast(IO[bytes], source.extractfile(member)).read()
            pcm = np.frombuffer(sound, dtype="<i2", offset=len(wav_header(samples)))
            flac = audio.encode(pcm / (1 + FULL_SCALE), container="FLAC")
            info = _tar_info(member.name.removesuffix("wav") + "flac", len(flac))
            tar.addfile(info, io.BytesIO(flac))
    part.replace(path)
    wav.unlink()


def _write(aside: Path, plan: Layout, pair: int, pcm: NDArray[np.int16]) -> None:
    """Write both members of a pair to their place."""
    shard, place = divmod(pair, plan.pairs_per_shard)
    header = wav_header(plan.samples)
    members = bytearray(2 * plan.member_bytes)
    for first, side, samples in zip((0, plan.member_bytes), SIDES, pcm, strict=True):
        sound = header + samples.tobytes()
        info = _tar_info(f"{key(pair)}.{side}.wav", len(sound))
        members[first : first + BLOCK] = info.tobuf(tarfile.USTAR_FORMAT)
        members[first + BLOCK : first + BLOCK + len(sound)] = sound
    path = _unsealed(aside, plan, shard)
    try:
        with path.open("r+b", buffering=0) as file:
            written = os.pwrite(file.fileno(), members, place * len(members))
    except OSError as error:
        raise OSError(error.errno, f"{path}: {error.strerror}; {SPACE}") from error
    if written != len(members):
        raise OSError(f"{path}: took {written} of {len(members)} bytes; {SPACE}")


def _tar_info(name: str, size: int) -> tarfile.TarInfo:
    """Header of a member; its time is 0, so that one input always gives one output."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def _level_db(pcm: NDArray[np.int16]) -> float:
    """Root-mean-square level in dB of full scale; sums of squares this short are exact."""
    exact = pcm.astype(np.float64)
    power = float(exact @ exact) / len(exact) / (1 + FULL_SCALE) ** 2
    return max(audio.SILENCE_DB, 10 * math.log10(power)) if power else audio.SILENCE_DB


def _mixed(aside: Path, split: str, number: int) -> Path:
    return aside / NOTES / f"{split}-{number:06d}.bin"


def _unsealed(aside: Path, plan: Layout, number: int) -> Path:
    return aside / f"{plan.shard(number)}.part"


def _padded(size: int, to: int) -> int:
    return -(-size // to) * to
