"""Stage `prepare`: make the tracks of a source, and keep them as parquet of stems by split."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq

from phalar import download, progress, sources, tracks
from phalar.params import Params, Splits, digest
from phalar.sources import Entry, Job, Unwanted

logger = logging.getLogger(__name__)

TRACKS_A_FILE = 64
REPORT = "report.json"

In = TypeVar("In")
Out = TypeVar("Out")


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
    split: str
    song: str
    stems: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Summary:
    """What the stage kept of a source."""

    source: str
    found: int
    kept: int
    dropped: list[Dropped]
    splits: dict[str, dict[str, float]]
    """Songs, tracks, stems and seconds of each split."""


def run(params: Params, source: str) -> Summary:
    """Make every track of a downloaded source.

    Tracks are made in parallel, each aside as a file of its own, then joined in order: a stage
    that was killed goes on where it stopped, and the bytes are the same for any number of workers.

    Raises
    ------
    ValueError
        The download is missing, more than `prepare.max_bad_fraction` of the tracks are bad, or a
        split is empty.
    OSError
        A worker died, or the disk is full or cannot be written.
    """
    aside = _open_aside(params, source)
    jobs, dropped = plan(params, source)
    section = getattr(params.prepare, source)
    make = partial(make_track, folder=params.paths.download(source), section=section, aside=aside)
    with _mapper(params) as mapper, progress.track(len(jobs), f"prepare {source}", unit="tracks") as tick:
        made = []
        for outcome in mapper(make, jobs):
            made.append(outcome)
            tick(1)
    kept = [outcome for outcome in made if isinstance(outcome, Kept)]
    dropped += [outcome for outcome in made if isinstance(outcome, Dropped)]
    return _finish(params, source, kept, dropped)


def plan(params: Params, source: str) -> tuple[list[tuple[Job, Any]], list[Dropped]]:
    """Scan the pieces, tell songs apart, and give each track its split.

    Returns
    -------
    jobs : list of (Job, scan)
        What `make_track` takes, in the order of the final files.
    dropped : list of Dropped
        Tracks whose files cannot be used.
    """
    module, folder = sources.load(source), params.paths.download(source)
    checksums = {file["path"]: file["sha256"] for file in download.read_receipt(folder)["files"]}
    entries = module.find(folder, getattr(params.prepare, source))
    pieces = list(dict.fromkeys(entry.files for entry in entries))
    for path in (path for files in pieces for path in files):
        if path not in checksums:
            raise ValueError(f"{folder / path} is not in the receipt; run the download stage again")
    with _mapper(params) as mapper, progress.track(len(pieces), f"scan {source}", unit="pieces") as tick:
        scans = {}
        for files, scan in zip(pieces, mapper(partial(scan_piece, source, folder), pieces), strict=True):
            scans[files] = scan
            tick(1)
    usable = [files for files in pieces if not isinstance(scans[files], Dropped)]
    names = module.songs([scans[files] for files in usable])
    song_of = dict(zip(usable, names, strict=True))
    jobs: list[tuple[Job, Any]] = []
    dropped: list[Dropped] = []
    for entry in entries:
        scan = scans[entry.files]
        if isinstance(scan, Dropped):
            dropped.append(Dropped(entry.track, scan.reason, scan.bad))
            continue
        song = song_of[entry.files]
        job = Job(
            source=source,
            entry=entry,
            song=song,
            split=split_of(source, song, params.prepare.split),
            licence=module.LICENCE,
            seed=params.prepare.seed,
            source_files=tuple((path, checksums[path]) for path in entry.files),
        )
        jobs.append((job, scan))
    return jobs, dropped


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


def make_track(
    task: tuple[Job, Any], *, folder: Path, section: Any, aside: Path
) -> Kept | Dropped:
    """Make one track as a parquet file of its own, unless a run before this one did."""
    job, scan = task
    path = aside / "tracks" / f"{job.entry.track}.parquet"
    if not path.exists():
        try:
            track = sources.load(job.source).make(job, scan, folder, section)
            table = tracks.to_table(track)
        except (Unwanted, ValueError) as error:
            return Dropped(job.entry.track, str(error), bad=not isinstance(error, Unwanted))
        tracks.write_tables(path, [table])
    with pq.ParquetFile(path) as file:
        samples = file.read(columns=["samples"])["samples"].to_pylist()
    seconds = samples[0] / tracks.audio.SAMPLE_RATE_HZ
    return Kept(job.entry.track, job.split, job.song, len(samples), seconds)


def _open_aside(params: Params, source: str) -> Path:
    """Folder for what is not finished; emptied where it was begun with anything different."""
    aside = params.paths.prepare(source).with_name(f"{source}.part")
    key = {
        "split": digest(params.prepare.split),
        "section": digest(getattr(params.prepare, source)),
        "seed": params.prepare.seed,
        "receipt": download.read_receipt(params.paths.download(source)),
        "code": _code_digest(),
    }
    text = json.dumps(key, sort_keys=True)
    path = aside / "key.json"
    if not path.exists() or path.read_text() != text:
        shutil.rmtree(aside, ignore_errors=True)
        (aside / "tracks").mkdir(parents=True)
        path.write_text(text)
    return aside


def _code_digest() -> str:
    """SHA-256 of the code that decides what a track sounds like."""
    here = Path(__file__).parent
    files = [here / "prepare.py", here / "tracks.py", here / "audio.py", *sorted((here / "sources").glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _finish(params: Params, source: str, kept: list[Kept], dropped: list[Dropped]) -> Summary:
    """Check the whole, join the tracks by split, write the report, and put all into place."""
    bad = [drop for drop in dropped if drop.bad]
    found = len(kept) + len(dropped)
    if len(bad) > params.prepare.max_bad_fraction * found:
        for drop in bad:
            logger.error("prepare %s: %s: %s", source, drop.track, drop.reason)
        raise ValueError(
            f"prepare {source}: {len(bad)} of {found} tracks are bad, prepare.max_bad_fraction is "
            f"{params.prepare.max_bad_fraction:g}; the first is {bad[0].track}: {bad[0].reason}"
        )
    splits = {}
    for split in tracks.SPLITS:
        members = [track for track in kept if track.split == split]
        if not members:
            raise ValueError(
                f"prepare {source}: no song fell into split {split!r}; change prepare.split"
            )
        splits[split] = {
            "songs": len({track.song for track in members}),
            "tracks": len(members),
            "stems": sum(track.stems for track in members),
            "seconds": round(sum(track.seconds for track in members), 3),
        }
    summary = Summary(source, found, len(kept), dropped, splits)
    final = params.paths.prepare(source)
    aside = final.with_name(f"{source}.part")
    whole = aside / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    for split in tracks.SPLITS:
        names = [track.track for track in kept if track.split == split]
        for number, first in enumerate(range(0, len(names), TRACKS_A_FILE)):
            paths = [aside / "tracks" / f"{name}.parquet" for name in names[first : first + TRACKS_A_FILE]]
            tracks.write_tables(whole / f"{split}-{number:05d}.parquet", map(pq.read_table, paths))
    (whole / REPORT).write_text(json.dumps(asdict(summary), indent=1) + "\n")
    shutil.rmtree(final, ignore_errors=True)
    os.replace(whole, final)
    shutil.rmtree(aside)
    return summary


Mapper = Callable[[Callable[[In], Out], Sequence[In]], Iterable[Out]]


@contextmanager
def _mapper(params: Params) -> Iterator[Any]:
    """Yield a `map` that keeps order, in processes of one thread each where there are several."""
    wanted = params.prepare.workers
    workers = (os.cpu_count() or 1) if wanted == "auto" else wanted
    if workers == 1:
        yield map
        return
    with _single_threaded(), ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
    ) as pool:
        try:
            yield pool.map
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "prepare: a worker process was killed, most likely for want of memory; run again, "
                "it goes on where it stopped, with fewer prepare.workers if it happens again"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes started in here use one thread each: the cores are shared out already."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent does, even when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
