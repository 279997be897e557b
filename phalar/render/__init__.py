"""Stage `render`: draw pairs of sub-mixes, mix them into shards, freeze the trials."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from phalar import pool, progress, publish, store
from phalar.audio import SAMPLE_RATE_HZ
from phalar.params import Params, Paths
from phalar.render import shards, table, trials
from phalar.render.pairs import DRAWS, Pairs, plan
from phalar.render.shards import NO_LEVELS, Layout
from phalar.tracks import SPLITS

PAIRS = "pairs.parquet"
TRIALS = "trials.parquet"
REPORT = "report.json"

KEY = "key"
"""What a folder aside was begun with: the code, the parameters and the drawn pairs, as SHA-256."""

NO_DIFFERENCE = {"workers", "runner", "store"}
"""Parameters that change no byte of any shard."""

TRIAL_NAME = ("split", "source", "protocol", "candidates")


@dataclass(frozen=True, slots=True)
class Count:
    """Pairs of one split, source and way of drawing."""

    split: str
    source: str
    draw: str
    pairs: int
    redrawn: int
    """Draws thrown away because a side was silent."""
    songs: int
    tracks: int
    tracks_too_short: int
    """Tracks of the split that are shorter than a pair, from which none was drawn."""
    seconds: float
    bytes: int
    """Of the sound files."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What the stage made."""

    counts: list[Count]
    trials: dict[str, int]
    """Trials by `split/source/protocol/K`."""
    shards: int


def run(params: Params, paths: Paths, *, over: pool.Over = pool.mapper) -> Summary:
    """Render every pair of every split, and freeze the trials.

    Pairs are drawn first, then mixed in parallel, track by track, then sealed shard by shard, all
    in a folder aside: a stage that was killed goes on where it stopped, and the bytes are the same
    for any number of workers.

    Raises
    ------
    ValueError
        Prepared tracks are missing, damaged or do not suffice (see `pairs.plan`).
    OSError
        The disk is full or cannot be written, a worker died, or a store does not take the shards.
    """
    settings = params.render
    # Workers on other machines have working folders of their own.
    paths = Paths(paths.root.absolute())
    parts = []
    for split in SPLITS:
        pairs = plan(params, paths, split)
        parts.append((pairs, shards.layout(pairs, settings.pairs_per_shard)))
    aside = _open_aside(params, paths, parts)
    for _, layout in parts:
        shards.create(aside, layout)
    tasks = [task for pairs, layout in parts for task in shards.tasks(pairs, layout)]
    jobs = [(layout, shard) for _, layout in parts for shard in range(layout.shards)]
    total = sum(layout.pairs for _, layout in parts)
    with over(settings.workers, "render") as mapper:
        with progress.track(total, "render", unit="pairs") as tick:
            for count in mapper(partial(shards.mix, aside=aside), tasks):
                tick(count)
        seal = partial(shards.seal, aside=aside, container=settings.container)
        sealed = []
        with progress.track(len(jobs), "seal", unit="shards") as tick:
            for places in mapper(seal, jobs):
                sealed.append(places)
                tick(1)

    mixed = [shards.read_mixed(aside, layout) for _, layout in parts]
    ends = np.cumsum([layout.pairs for _, layout in parts])
    members = np.split(np.concatenate(sealed), ends[:-1])
    table.write(aside / PAIRS, parts, mixed, members)
    frozen = pa.concat_tables([trials.freeze(pairs, settings) for pairs, _ in parts[1:]])
    pq.write_table(frozen, aside / TRIALS, compression="zstd")
    summary = _summary(parts, members, frozen, len(jobs))
    (aside / REPORT).write_text(json.dumps(asdict(summary), indent=1) + "\n")
    remotes = []
    if settings.store:
        names = [layout.shard(shard) for layout, shard in jobs]
        remotes = publish.publish(aside, names, settings.store, "render")
    _put_into_place(aside, paths.render, remotes)
    return summary


def _open_aside(params: Params, paths: Paths, parts: list[tuple[Pairs, Layout]]) -> Path:
    """Folder for what is not finished; emptied where it was begun with anything different."""
    aside = paths.render.with_name(paths.render.name + ".part")
    digest = hashlib.sha256(params.render.model_dump_json(exclude=NO_DIFFERENCE).encode())
    for code in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(code.read_bytes())
    for pairs, _ in parts:
        digest.update(pairs.rows.tobytes())
        for track in pairs.tracks:
            digest.update(repr(replace(track, levels_db=NO_LEVELS)).encode())
            digest.update(track.levels_db.tobytes())
    key = aside / KEY
    if not key.exists() or key.read_text() != digest.hexdigest():
        shutil.rmtree(aside, ignore_errors=True)
        (aside / shards.NOTES).mkdir(parents=True)
        _check_space(aside, parts)
        key.write_text(digest.hexdigest())
    return aside


def _check_space(folder: Path, parts: list[tuple[Pairs, Layout]]) -> None:
    """Refuse to begin what the disk cannot hold."""
    needed = sum(layout.shard_bytes(n) for _, layout in parts for n in range(layout.shards))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"{folder}: the shards need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; free "
            f"space or lower render.pairs or render.pair_s"
        )


def _summary(
    parts: list[tuple[Pairs, Layout]],
    members: list[NDArray[Any]],
    frozen: pa.Table,
    shard_count: int,
) -> Summary:
    """Count what was made, by split, source and way of drawing."""
    counts = []
    for (pairs, layout), places in zip(parts, members, strict=True):
        sizes = places["bytes"].sum(axis=1)
        for source, draw in product(pairs.too_short, DRAWS):
            here = (pairs.source == source) & (pairs.rows["audible"] == (draw == "audible"))
            if here.any():
                counts.append(
                    Count(
                        split=pairs.split,
                        source=source,
                        draw=draw,
                        pairs=int(here.sum()),
                        redrawn=int(pairs.rows["redrawn"][here].sum()),
                        songs=len(np.unique(pairs.song[here])),
                        tracks=len(np.unique(pairs.rows["track"][here])),
                        tracks_too_short=pairs.too_short[source],
                        seconds=round(int(here.sum()) * layout.samples / SAMPLE_RATE_HZ, 3),
                        bytes=int(sizes[here].sum()),
                    )
                )
    names = zip(*(frozen[name].to_pylist() for name in TRIAL_NAME), strict=True)
    return Summary(counts, dict(Counter("/".join(map(str, name)) for name in names)), shard_count)


def _put_into_place(aside: Path, final: Path, remotes: list[store.Remote]) -> None:
    """Replace the stage's folder by the finished one, without what lies in a store."""
    (aside / KEY).unlink()
    shutil.rmtree(aside / shards.NOTES)
    for remote in remotes:
        (aside / remote.name).unlink()
    for split in SPLITS if remotes else ():
        (aside / split).rmdir()
    shutil.rmtree(final, ignore_errors=True)
    aside.replace(final)
