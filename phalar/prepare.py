"""Stage `prepare`: make the tracks of a source, and keep them as parquet of stems by split."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from phalar import pool, progress, publish, receipt, sources, tracks
from phalar.audio import SAMPLE_RATE_HZ
from phalar.params import Params, Splits, digest
from phalar.sources import Entry, Job, Unwanted

logger = logging.getLogger(__name__)

TRACKS_A_FILE = 64
REPORT = "report.json"
FINDINGS = "findings.json"
"""Of recorded sources: what was done to tracks on the way, and which are alike across splits."""

TASKS = 96
MOST_TRACKS_A_TASK = 32
"""A task is a few tracks: enough to be worth its record, few enough to lose when it is killed."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A track that was found but not kept."""

    track: str
    reason: str
    bad: bool
    """Damaged, rather than sound but not what the source is for."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A track that lies aside as a parquet file of its own."""

    track: str
    song: str
    split: str
    instruments: list[str]
    seconds: float


@dataclass(frozen=True, slots=True)
class Summary:
    """What the stage made of a source; `report.json` in an object."""

    source: str
    found: int
    kept: int
    dropped: list[Dropped]
    splits: dict[str, dict[str, float]]
    """Songs, tracks, stems and seconds of each split."""
    instruments: dict[str, int]
    """Stems of each family, the most frequent first."""


def run(params: Params, source: str, *, over: pool.Over = pool.mapper) -> Summary:
    """Make every track of a downloaded source.

    Tracks are made in parallel, each aside as a file of its own, then joined in order: a stage
    that was killed goes on where it stopped, and the bytes are the same for any number of workers.

    Parameters
    ----------
    params : Params
    source : str
    over : callable
        What runs the work: `pool.mapper`, or a stand-in that also records it.

    Raises
    ------
    ValueError
        The download is missing, more than `prepare.max_bad_fraction` of the tracks are bad, or a
        split is empty.
    OSError
        A worker died, the disk is full or cannot be written, or a store does not take the parquet.
    """
    aside = open_aside(params, source)
    with over(params.prepare.workers, "prepare") as mapper:
        jobs, dropped = plan(params, source, mapper)
        make = partial(make_track, params=params, aside=aside)
        made = _mapped(mapper, make, jobs, f"prepare {source}", unit="tracks")
        kept = [outcome for outcome in made if isinstance(outcome, Kept)]
        dropped += [outcome for outcome in made if isinstance(outcome, Dropped)]
        return finish(params, source, kept, dropped, mapper=mapper)


def plan(
    params: Params, source: str, mapper: pool.Map
) -> tuple[list[tuple[Job, Any]], list[Dropped]]:
    """Scan the pieces, tell songs apart, and give each track its split.

    Returns
    -------
    jobs : list of (Job, scan)
        What `make_track` takes, in the order of the final files.
    dropped : list of Dropped
        Tracks whose files cannot be used.
    """
    module, folder = sources.load(source), params.paths.download(source)
    checksums = {file["path"]: file["sha256"] for file in receipt.read_receipt(folder)["files"]}
    entries = module.find(folder, getattr(params.prepare, source))
    pieces = list(dict.fromkeys(entry.files for entry in entries))
    for path in (path for files in pieces for path in files):
        if path not in checksums:
            raise ValueError(f"{folder / path} is not in the receipt; run the download stage again")
    scan = partial(scan_piece, source, folder)
    found = _mapped(mapper, scan, pieces, f"scan {source}", unit="pieces")
    scans = dict(zip(pieces, found, strict=True))
    usable = {files: scan for files, scan in scans.items() if not isinstance(scan, Dropped)}
    songs = dict(zip(usable, module.songs(list(usable.values())), strict=True))
    jobs = [
        (
            Job(
                source=source,
                entry=entry,
                song=songs[entry.files],
                split=_split(params, source, entry, usable[entry.files], songs[entry.files]),
                licence=module.LICENCE,
                seed=params.prepare.seed,
                source_files=tuple((path, checksums[path]) for path in entry.files),
            ),
            usable[entry.files],
        )
        for entry in entries
        if entry.files in usable
    ]
    dropped = [
        Dropped(entry.track, scans[entry.files].reason, scans[entry.files].bad)
        for entry in entries
        if entry.files not in usable
    ]
    return jobs, dropped


def _split(params: Params, source: str, entry: Entry, scan: Any, song: str) -> str:
    """Keep a published split; else draw one by artist where that is known, else by song."""
    if published := entry.split or getattr(scan, "split", None):
        return str(published)
    return split_of(source, getattr(scan, "split_key", None) or song, params.prepare.split)


def split_of(source: str, song: str, split: Splits) -> str:
    """Place a song by a hash of its name, so that no other song that comes or goes moves it."""
    word = hashlib.sha256(f"{split.salt}/{source}/{song}".encode()).digest()[:8]
    place = int.from_bytes(word, "big") / 2**64
    if place < split.test:
        return "test"
    return "valid" if place < split.test + split.valid else "train"


def scan_piece(source: str, folder: Path, files: tuple[str, ...]) -> Any:
    """Scan one piece; `Dropped` where it cannot be used."""
    try:
        return sources.load(source).scan(folder, files)
    except (Unwanted, ValueError) as error:
        return Dropped("", str(error), bad=not isinstance(error, Unwanted))


def make_track(task: tuple[Job, Any], *, params: Params, aside: Path) -> Kept | Dropped:
    """Make one track as a parquet file of its own, unless a run before this one did."""
    job, scan = task
    name, source = job.entry.track, job.source
    path = _track_file(aside, name)
    if not path.exists():
        folder, section = params.paths.download(source), getattr(params.prepare, source)
        try:
            module: Any = sources.load(source)
            track = module.make(job, scan, folder, section)
            table = tracks.to_table(track)
        except (Unwanted, ValueError) as error:
            return Dropped(name, str(error), bad=not isinstance(error, Unwanted))
        if hasattr(module, "hear"):
            path.with_suffix(".json").write_text(json.dumps(module.hear(track)))
        tracks.write_tables(path, [table])
    rows = pq.read_table(path, columns=["instrument", "samples"]).to_pylist()
    seconds = rows[0]["samples"] / SAMPLE_RATE_HZ
    return Kept(name, job.song, job.split, [row["instrument"] for row in rows], seconds)


def open_aside(params: Params, source: str) -> Path:
    """Make the folder for what is not finished; it starts empty where anything has changed."""
    aside = _aside(params, source)
    here = Path(__file__).parent
    code = [here / f"{name}.py" for name in ("prepare", "tracks", "audio", "fingerprint")]
    code += sorted((here / "sources").glob("*.py"))
    key = {
        "seed": params.prepare.seed,
        "split": digest(params.prepare.split),
        "section": digest(getattr(params.prepare, source)),
        "receipt": receipt.read_receipt(params.paths.download(source)),
        "code": hashlib.sha256(b"".join(path.read_bytes() for path in code)).hexdigest(),
    }
    text = json.dumps(key)
    path = aside / "key.json"
    if not path.exists() or path.read_text() != text:
        shutil.rmtree(aside, ignore_errors=True)
        (aside / "tracks").mkdir(parents=True)
        path.write_text(text)
    return aside


def finish(
    params: Params,
    source: str,
    kept: list[Kept],
    dropped: list[Dropped],
    *,
    mapper: pool.Map = map,
) -> Summary:
    """Check the whole, join the tracks by split, write the report, and put all into place."""
    _refuse_bad(params, source, len(kept), dropped)
    splits = {split: [track for track in kept if track.split == split] for split in tracks.SPLITS}
    for split, members in splits.items():
        if not members:
            raise ValueError(f"prepare {source}: split {split!r} is empty; change prepare.split")
    summary = Summary(
        source=source,
        found=len(kept) + len(dropped),
        kept=len(kept),
        dropped=dropped,
        splits={split: _counts(members) for split, members in splits.items()},
        instruments=dict(Counter(word for k in kept for word in k.instruments).most_common()),
    )
    aside = _aside(params, source)
    whole = aside / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    files = [
        (
            f"{split}-{number:05d}.parquet",
            [track.track for track in members[first:][:TRACKS_A_FILE]],
        )
        for split, members in splits.items()
        for number, first in enumerate(range(0, len(members), TRACKS_A_FILE))
    ]
    _mapped(mapper, partial(join, aside=aside), files, f"join {source}", unit="files")
    module: Any = sources.load(source)
    if hasattr(module, "findings"):
        notes = {track.track: _track_file(aside, track.track) for track in kept}
        heard = {name: json.loads(p.with_suffix(".json").read_text()) for name, p in notes.items()}
        places = {track.track: track.split for track in kept}
        found = module.findings(heard, places, getattr(params.prepare, source))
        (whole / FINDINGS).write_text(json.dumps(found, indent=1) + "\n")
    (whole / REPORT).write_text(json.dumps(asdict(summary), indent=1) + "\n")
    if params.prepare.store:
        names, uri = [name for name, _ in files], f"{params.prepare.store}/{source}"
        for remote in publish.publish(whole, names, uri, f"prepare {source}"):
            (whole / remote.name).unlink()
    final = params.paths.prepare(source)
    if final.exists():
        shutil.rmtree(final)
    whole.replace(final)
    shutil.rmtree(aside)
    return summary


def join(file: tuple[str, list[str]], *, aside: Path) -> None:
    """Join tracks that lie aside to a parquet of the finished folder."""
    name, members = file
    tables = (pq.read_table(_track_file(aside, track)) for track in members)
    tracks.write_tables(aside / "whole" / name, tables)


def _aside(params: Params, source: str) -> Path:
    return params.paths.prepare(source).with_name(f"{source}.part")


def _track_file(aside: Path, track: str) -> Path:
    return aside / "tracks" / f"{track}.parquet"


def _counts(members: Sequence[Kept]) -> dict[str, float]:
    """Songs, tracks, stems and seconds of a split."""
    return {
        "songs": len({track.song for track in members}),
        "tracks": len(members),
        "stems": sum(len(track.instruments) for track in members),
        "seconds": round(sum(track.seconds for track in members), 3),
    }


def _refuse_bad(params: Params, source: str, kept: int, dropped: Sequence[Dropped]) -> None:
    """Raise where more tracks are bad than `prepare.max_bad_fraction` allows."""
    bad = [drop for drop in dropped if drop.bad]
    found = kept + len(dropped)
    for drop in bad:
        logger.warning("prepare %s: %s is bad: %s", source, drop.track, drop.reason)
    if len(bad) > params.prepare.max_bad_fraction * found:
        raise ValueError(
            f"prepare {source}: {len(bad)} of {found} tracks are bad, prepare.max_bad_fraction is "
            f"{params.prepare.max_bad_fraction:g}; the first is {bad[0].track}: {bad[0].reason}"
        )


def _mapped(
    mapper: pool.Map, function: Any, items: Sequence[Any], name: str, *, unit: str
) -> list[Any]:
    """Apply a function to all items, a few a task, and show how many are done."""
    size = max(1, min(MOST_TRACKS_A_TASK, len(items) // TASKS))
    tasks = [items[first : first + size] for first in range(0, len(items), size)]
    collected: list[Any] = []
    with progress.track(len(items), name, unit=unit) as tick:
        for outcomes in mapper(partial(_apply, function), tasks):
            collected += outcomes
            tick(len(outcomes))
    return collected


def _apply(function: Any, items: Sequence[Any]) -> list[Any]:
    return [function(item) for item in items]
