"""Collect the chain behind a model from what the stages left: lineage.json and tracks.parquet."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phalar import dvclock, store
from phalar.lineage.record import Record
from phalar.params import Params, Paths
from phalar.runlog import file_sha256
from phalar.tracks import SPLITS

TRACKS_A_ROW_GROUP = 512
"""Whoever looks for a track's shards reads those of so many."""

SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("track", pa.string()),
        ("song", pa.string()),
        ("artist", pa.string()),
        ("title", pa.string()),
        ("licence", pa.string()),
        ("split", pa.string()),
        ("pairs", pa.int64()),
        ("files", pa.list_(pa.string())),
        ("shards", pa.list_(pa.struct([("shard", pa.string()), ("pairs", pa.int64())]))),
    ]
)
"""tracks.parquet: one row a track, with the SHA-256 of its files and the shards of its pairs."""


def collect(params: Params, paths: Paths) -> Record:
    """Collect everything behind the trained model from the records that the stages left.

    Returns
    -------
    dict
        `dvc`, `pairs`, `shards`, `tracks`, `prepared`, `files`, `sources`: the chain below the
        training run, as it stands in lineage.json. Pairs are counted, not listed: `pairs.parquet`
        has them.

    Raises
    ------
    ValueError
        Two records contradict each other, or one is missing.
    """
    pairs = _pairs(paths)
    shards = _shards(paths, pairs)
    tracks = _tracks(paths, pairs)
    files, sources = _files(paths, params.sources, tracks)
    manifest = paths.render / "pairs.parquet"
    counts = Counter(pairs["split"].to_pylist())
    return {
        "dvc": dvc_outs(paths.root.parent),
        "pairs": {
            "file": _relative(manifest, paths),
            "sha256": file_sha256(manifest),
            "count": {split: counts[split] for split in SPLITS},
        },
        "shards": shards,
        "tracks": tracks,
        "prepared": [
            described
            for folder in map(paths.prepare, params.sources)
            for described in _described(_tables(folder), folder, paths)
        ],
        "files": files,
        "sources": sources,
    }


def manifest(record: Record, paths: Paths) -> pa.Table:
    """List which shards hold each track: what `phalar lineage --track` looks into, years later.

    A table of `SCHEMA` by source and track, so that a search reads names of tracks, not of pairs.
    """
    keys = ["source", "track", "shard"]
    pairs = _table(paths.render / "pairs.parquet", keys, "render")
    counted = pairs.group_by(keys).aggregate([([], "count_all")])
    counted = counted.sort_by([(key, "ascending") for key in keys]).combine_chunks()
    names = [counted[key].combine_chunks().dictionary_encode() for key in ("source", "track")]
    codes = np.stack([each.indices.to_numpy() for each in names])
    starts = np.flatnonzero((np.diff(codes, prepend=-1) != 0).any(axis=0))
    ends = np.append(starts, counted.num_rows).astype(np.int32)
    places = pa.StructArray.from_arrays(
        [counted["shard"].combine_chunks(), counted["count_all"].combine_chunks()],
        fields=list(SCHEMA.field("shards").type.value_type),
    )
    tracks = sorted(record["tracks"], key=lambda track: (track["source"], track["track"]))
    plain = pa.schema([field for field in SCHEMA if field.name != "shards"])
    table = pa.Table.from_pylist(tracks, schema=plain)
    return table.append_column(SCHEMA.field("shards"), pa.ListArray.from_arrays(ends, places))


def write_manifest(path: Path, table: pa.Table) -> None:
    """Write tracks.parquet aside, then into place."""
    aside = path.with_name(path.name + ".part")
    pq.write_table(table, aside, compression="zstd", row_group_size=TRACKS_A_ROW_GROUP)
    aside.replace(path)


def _relative(path: Path, paths: Paths) -> str:
    """Path below the project's folder, so that records do not name the machine's."""
    return path.relative_to(paths.root.parent).as_posix()


def _pairs(paths: Paths) -> Any:
    columns = ["split", "shard", "source", "track", "song", "licence"]
    return _table(paths.render / "pairs.parquet", columns, "render")


def _table(path: store.File, columns: list[str], stage: str) -> Any:
    try:
        with store.open_parquet(path) as file:
            return file.read(columns=columns)
    except store.StoreError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: missing or damaged ({error}); run the {stage} stage again"
        ) from error


def _shards(paths: Paths, pairs: Any) -> list[Record]:
    """List the shards with their pairs and checksums; every pair's shard must be there."""
    counted = pairs.group_by(["split", "shard"]).aggregate([([], "count_all")]).to_pylist()
    rows = sorted(counted, key=lambda row: (SPLITS.index(row["split"]), row["shard"]))
    remote = store.read_manifest(paths.render)
    found = [remote.get(row["shard"], paths.render / row["shard"]) for row in rows]
    for path in found:
        if isinstance(path, Path) and not path.is_file():
            raise ValueError(f"{path} is in pairs.parquet but not on disk; run the render stage")
    return [
        described | {"split": row["split"], "pairs": row["count_all"]}
        for row, described in zip(rows, _described(found, paths.render, paths), strict=True)
    ]


def _described(files: Sequence[store.File], folder: Path, paths: Paths) -> list[Record]:
    """Give name, size and SHA-256 of files of a stage, and the address of those in a store."""
    # Hashing leaves Python's lock alone. What was published was hashed then.
    with ThreadPoolExecutor() as pool:
        sums = pool.map(lambda f: file_sha256(f) if isinstance(f, Path) else f.sha256, files)
        return [
            {"file": _relative(file, paths), "bytes": file.stat().st_size, "sha256": total}
            if isinstance(file, Path)
            else asdict(file) | {"file": _relative(folder / file.name, paths)}
            for file, total in zip(files, sums, strict=True)
        ]


def _tracks(paths: Paths, pairs: Any) -> list[Record]:
    """List the tracks that gave pairs; what prepare says of each must be what render says."""
    keys = ["source", "track", "song", "split", "licence"]
    counted = pairs.group_by(keys).aggregate([([], "count_all")]).to_pylist()
    prepared = {
        source: _prepared(paths.prepare(source)) for source in {row["source"] for row in counted}
    }
    tracks = []
    for row in sorted(counted, key=lambda row: [row[key] for key in keys]):
        name = f"{row['source']}/{row['track']}"
        known = prepared[row["source"]].get(row["track"])
        if known is None:
            raise ValueError(f"{name} gave pairs but is not in prepare's parquet; render again")
        for key in ("song", "split", "licence"):
            if known[key] != row[key]:
                raise ValueError(
                    f"{name}: {key} is {row[key]!r} in pairs.parquet and {known[key]!r} in "
                    "prepare's parquet; render again"
                )
        files = [[file["path"], file["sha256"]] for file in known["source_files"]]
        about = {key: row[key] for key in keys} | {key: known[key] for key in ("artist", "title")}
        tracks.append(about | {"pairs": row["count_all"], "files": files})
    return tracks


def _prepared(folder: Path) -> dict[str, Record]:
    """Give the annotations of each prepared track, by name."""
    columns = ["track", "song", "artist", "title", "split", "licence", "source_files"]
    found: dict[str, Record] = {}
    for path in _tables(folder):
        found |= {row["track"]: row for row in _table(path, columns, "prepare").to_pylist()}
    if not found:
        raise ValueError(f"{folder}: no parquet; run the prepare stage")
    return found


def _tables(folder: Path) -> list[store.File]:
    return store.find(folder, "*.parquet")


def _files(
    paths: Paths, sources: Iterable[str], tracks: list[Record]
) -> tuple[list[Record], list[Record]]:
    """List the source files that the tracks were made from, and the sources they belong to."""
    wanted: dict[str, dict[str, str]] = defaultdict(dict)
    for track in tracks:
        wanted[track["source"]].update(track["files"])
    files, described = [], []
    for source in sources:
        path = paths.download(source) / "receipt.json"
        if not path.is_file():
            raise ValueError(f"{path} is not there; run the download stage")
        receipt = json.loads(path.read_text())
        known = {file["path"]: file for file in receipt["files"]}
        for name, total in sorted(wanted[source].items()):
            if known.get(name, {}).get("sha256") != total:
                raise ValueError(
                    f"{source}: tracks were made from {name} with SHA-256 {total[:12]}, which the "
                    "receipt does not hold; run download and prepare again"
                )
            files.append({"source": source, **known[name]})
        described.append({key: receipt[key] for key in ("source", "params", "licence", "credits")})
    # A track names its files by their checksum; what a file is stands with the file, once.
    for track in tracks:
        track["files"] = [total for _, total in track["files"]]
    return files, described


def dvc_outs(root: Path) -> Record:
    """What dvc.lock says of the outputs of all stages before `register`, and its own hash."""
    path = root / dvclock.FILE
    total = file_sha256(path) if path.is_file() else None
    return {"lock_sha256": total, "outs": dvclock.outs(root)}
