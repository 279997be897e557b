"""Verify the files of a chain on this disk: hashes anew, and the counts of pairs again."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from phalar import dvclock, progress, store, withdrawn
from phalar.lineage.check import Check, right, unknown, wrong
from phalar.lineage.record import Record
from phalar.params import Paths

CHUNK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Sums:
    """Checksums of one file, of one reading."""

    md5: str
    """What DVC goes by."""
    sha256: str


def checks(record: Record, paths: Paths) -> list[Check]:
    """Check dvc.lock's outputs, shards, pairs, tracks, parquet and source files."""
    project = paths.root.parent
    outs = record["dvc"]["outs"]
    locked = dvclock.stages(project).values()
    there = {out["path"]: out["md5"] for stage in locked for out in stage.get("outs", [])}
    # Where the lock file of today names other data, no file below can be what the record means.
    moved = {o["path"] for o in outs if there.get(o["path"], o["md5"]) != o["md5"]}
    kinds = {
        "shards": record["shards"],
        "pairs": [record["pairs"]],
        "prepared parquet": record["prepared"],
        "source files": [
            {"file": f"data/download/{file['source']}/{file['path']}", **file}
            for file in record["files"]
        ],
    }
    entries = [entry for listed in kinds.values() for entry in listed]
    files = {project / entry["file"] for entry in entries}
    files.update(*(_files(project / out["path"]) for out in outs))
    wanted: dict[Path, store.File] = {path: path for path in sorted(files) if path.is_file()}
    wanted |= {project / e["file"]: _remote(e) for e in entries if "name" in e}
    sums = _sums(wanted)
    found = [_out(project, out, sums, moved) for out in outs]
    if not outs:
        found.append(unknown("dvc.lock", "the stages ran without DVC"))
    for kind, entries in kinds.items():
        found += _same(kind, entries, project, sums, moved)
    found += _pairs(record, paths, moved)
    found += _withdrawn(record, project)
    return found


def _remote(entry: Record) -> store.Remote:
    return store.Remote(entry["name"], entry["url"], entry["bytes"], entry["sha256"])


def _sums(files: Mapping[Path, store.File]) -> dict[Path, Sums]:
    """Read every file once, wherever it lies; those that a store lacks are left out."""
    with (
        progress.track(len(files), "verify", unit="files") as tick,
        ThreadPoolExecutor() as pool,
    ):
        found = {}
        for path, sums in zip(files, pool.map(_sums_of, files.values()), strict=True):
            if sums is not None:
                found[path] = sums
            tick(1)
        return found


def _sums_of(file: store.File) -> Sums | None:
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    try:
        with store.open_file(file) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                md5.update(chunk)
                sha256.update(chunk)
    except store.MissingError:
        return None
    return Sums(md5.hexdigest(), sha256.hexdigest())


def _files(path: Path) -> list[Path]:
    """List the files of an output as DVC does; .dvcignore leaves unfinished ones out."""
    found = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return [file for file in found if file.suffix != ".part"]


def _out(project: Path, out: Record, sums: dict[Path, Sums], moved: set[str]) -> Check:
    """Compare an output with its MD5 in the lock file of the training."""
    link, path = f"dvc.lock, {out['stage']}", project / out["path"]
    if not out["agrees"]:
        return unknown(link, f"{out['path']} was not what dvc.lock named when this was registered")
    if not path.exists():
        return unknown(link, f"{out['path']} is not here; dvc pull may bring it")
    if out["path"] in moved:
        return unknown(link, f"{out['path']} is of another run now: dvc.lock has moved on")
    if _md5(path, sums) != out["md5"]:
        return wrong(link, f"{out['path']} has not the MD5 {out['md5']} of dvc.lock")
    return right(link, f"{out['path']} has MD5 {out['md5']}")


def _md5(path: Path, sums: dict[Path, Sums]) -> str:
    """Compute the hash that DVC gives a file, or a folder: that of the list of its files."""
    if path.is_file():
        return sums[path].md5
    rows = [
        {"md5": sums[file].md5, "relpath": file.relative_to(path).as_posix()}
        for file in _files(path)
    ]
    listed = json.dumps(sorted(rows, key=lambda row: row["relpath"]), sort_keys=True)
    return hashlib.md5(listed.encode(), usedforsecurity=False).hexdigest() + ".dir"


def _same(
    kind: str, entries: list[Record], project: Path, sums: dict[Path, Sums], moved: set[str]
) -> Iterator[Check]:
    """Compare files with their SHA-256; each that is changed or missing is named."""
    here = [entry for entry in entries if not _is_below(entry["file"], moved)]
    if len(here) < len(entries):
        count = len(entries) - len(here)
        yield unknown(kind, f"{count} of {len(entries)} are of another run now")
    lost = [entry for entry in here if project / entry["file"] not in sums]
    if here and len(lost) == len(here):
        yield unknown(kind, f"none of {len(here)} is here; dvc pull, or the stage, brings them")
        return
    for entry in lost:
        yield wrong(kind, f"{entry['file']} is missing")
    found = [entry for entry in here if entry not in lost]
    changed = [e for e in found if sums[project / e["file"]].sha256 != e["sha256"]]
    for entry in changed:
        yield wrong(kind, f"{entry['file']} has not SHA-256 {entry['sha256'][:12]}: it was changed")
    if found and not changed and not lost:
        yield right(kind, f"{len(found)} with the SHA-256 of the record")


def _is_below(file: str, folders: set[str]) -> bool:
    return any(Path(file).is_relative_to(folder) for folder in folders)


def _pairs(record: Record, paths: Paths, moved: set[str]) -> Iterator[Check]:
    """Count the pairs of every track, split and shard again."""
    manifest = paths.root.parent / record["pairs"]["file"]
    if not manifest.is_file() or _is_below(record["pairs"]["file"], moved):
        yield unknown("pairs and tracks", f"{record['pairs']['file']} of this run is not here")
        return
    try:
        table = pq.read_table(manifest, columns=["split", "shard", "source", "track"])
    except (pa.ArrowException, OSError) as error:
        yield wrong("pairs and tracks", f"{record['pairs']['file']} cannot be read: {error}")
        return
    keys = ["source", "track", "split"]
    rows = table.group_by(keys).aggregate([([], "count_all")]).to_pylist()
    counted = {tuple(row[key] for key in keys): row["count_all"] for row in rows}
    told = {tuple(track[key] for key in keys): track["pairs"] for track in record["tracks"]}
    changed = {key for key, _ in set(counted.items()) ^ set(told.items())}
    for source, track, split in sorted(changed):
        count = counted.get((source, track, split), 0)
        yield wrong("pairs and tracks", f"{source}/{track}: {count} {split} pairs in the table")
    shards = Counter(table["shard"].to_pylist())
    for shard in record["shards"]:
        name = Path(shard["file"]).relative_to("data/render").as_posix()
        if shards[name] != shard["pairs"]:
            yield wrong("pairs and tracks", f"{shard['file']}: {shards[name]} pairs in the table")
    if counted == told:
        yield right("pairs and tracks", f"{len(told)} tracks gave {table.num_rows:,} pairs")


def _withdrawn(record: Record, project: Path) -> Iterator[Check]:
    """Whether a track was withdrawn since."""
    gone = withdrawn.read(project)
    for track in record["tracks"]:
        if entry := gone.get(f"{track['source']}/{track['track']}"):
            name = f"{track['source']}/{track['track']} ({track['split']})"
            yield wrong("withdrawn", f"{name} is withdrawn: {entry.reason}; train again")
