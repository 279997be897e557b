"""From a model to every source file: what it was trained on, by which code, under which licence."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from rich.tree import Tree

from phalar.params import Params, Paths
from phalar.runlog import file_sha256
from phalar.tracks import SPLITS

FORMAT = 1
FILE = "lineage.json"
SHOWN = 3
"""Tracks of each source that a tree names; JSON names all."""

Record = dict[str, Any]


def collect(params: Params, paths: Paths) -> Record:
    """Collect everything behind the trained model from the records that the stages left.

    Returns
    -------
    dict
        `dvc`, `pairs`, `shards`, `tracks`, `files`, `sources`: the chain below the training run,
        as it stands in lineage.json. Pairs are counted, not listed: `pairs.parquet` has them.

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
        "files": files,
        "sources": sources,
    }


def _relative(path: Path, paths: Paths) -> str:
    """Path below the project's folder, so that records do not name the machine's."""
    return path.relative_to(paths.root.parent).as_posix()


def _pairs(paths: Paths) -> Any:
    columns = ["split", "shard", "source", "track", "song", "licence"]
    return _table(paths.render / "pairs.parquet", columns, "render")


def _table(path: Path, columns: list[str], stage: str) -> Any:
    try:
        return pq.read_table(path, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: missing or damaged ({error}); run the {stage} stage again"
        ) from error


def _shards(paths: Paths, pairs: Any) -> list[Record]:
    """List the shards with their pairs and checksums; every pair's shard must be there."""
    counted = pairs.group_by(["split", "shard"]).aggregate([([], "count_all")]).to_pylist()
    rows = sorted(counted, key=lambda row: (SPLITS.index(row["split"]), row["shard"]))
    found = [paths.render / row["shard"] for row in rows]
    for path in found:
        if not path.is_file():
            raise ValueError(f"{path} is in pairs.parquet but not on disk; run the render stage")
    # Hashing leaves Python's lock alone.
    with ThreadPoolExecutor() as pool:
        sums = list(pool.map(file_sha256, found))
    return [
        {
            "file": _relative(path, paths),
            "split": row["split"],
            "pairs": row["count_all"],
            "bytes": path.stat().st_size,
            "sha256": total,
        }
        for row, path, total in zip(rows, found, sums, strict=True)
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
        tracks.append({key: row[key] for key in keys} | {"pairs": row["count_all"], "files": files})
    return tracks


def _prepared(folder: Path) -> dict[str, Record]:
    """Give the annotations of each prepared track, by name."""
    columns = ["track", "song", "split", "licence", "source_files"]
    found: dict[str, Record] = {}
    for path in sorted(folder.glob("*.parquet")):
        found |= {row["track"]: row for row in _table(path, columns, "prepare").to_pylist()}
    if not found:
        raise ValueError(f"{folder}: no parquet; run the prepare stage")
    return found


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
    """What dvc.lock says of the outputs of all stages before `register`.

    `agrees` compares size and number of files with those on disk: where the stages ran without DVC,
    its lock file is of another time, and the record says so.
    """
    path = root / "dvc.lock"
    if not path.is_file():
        return {"lock_sha256": None, "outs": []}
    outs = [
        {
            "stage": stage,
            "path": out["path"],
            "md5": out["md5"],
            "agrees": _size(root / out["path"]) == (out["size"], out.get("nfiles", 1)),
        }
        for stage, entry in (yaml.safe_load(path.read_text()).get("stages") or {}).items()
        if stage.partition("@")[0] != "register"
        for out in entry.get("outs", [])
    ]
    return {"lock_sha256": file_sha256(path), "outs": outs}


def _size(path: Path) -> tuple[int, int]:
    """Bytes and number of files below a path."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files), len(files)


def read(name: str) -> Record:
    """Read the lineage of a model: a lineage.json, or the name of a registered model.

    Raises
    ------
    ValueError
        There is none, or it is not of this format.
    """
    path = Path(name)
    if path.suffix == ".json":
        if not path.is_file():
            raise ValueError(f"{path}: no such file; run the register stage (`make repro`)")
        text = path.read_text()
    else:
        # MLflow takes seconds to import, and a file does not need it.
        from phalar import register

        text = register.fetch_lineage(name)
    try:
        record = json.loads(text)
        found = record.get("format")
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"{name}: is not a lineage record ({error}); register again") from None
    if found != FORMAT:
        raise ValueError(f"{name}: format {found!r}, this version reads {FORMAT}; register again")
    return dict(record)


def tree(record: Record) -> Tree:
    """Draw the chain from the model down to the source files, for a terminal."""
    model, run, git, dvc = (record[key] for key in ("model", "run", "git", "dvc"))
    root = Tree(
        f"model {model['name']} version {model['version']} ({model['alias']}), "
        f"sha256 {model['sha256'][:12]}"
    )
    below = root.add(f"MLflow run {run['id']} (experiment {run['experiment']})")
    state = "with changes" if git["dirty"] else "clean"
    below = below.add(f"git commit {git['commit'][:12]}, {state}" if git["commit"] else "no git")
    below = below.add(f"dvc.lock sha256 {(dvc['lock_sha256'] or 'none')[:12]}")
    for out in dvc["outs"]:
        note = "" if out["agrees"] else " (not what is on disk)"
        below.add(f"{out['stage']}: {out['path']} md5 {out['md5']}{note}")
    pairs = below.add(f"{record['pairs']['file']} sha256 {record['pairs']['sha256'][:12]}")
    for split, count in record["pairs"]["count"].items():
        shards = [shard for shard in record["shards"] if shard["split"] == split]
        pairs.add(f"{split}: {count:,} pairs in {len(shards)} shards")
    for source in record["sources"]:
        _add_source(pairs, record, source)
    return root


def _add_source(parent: Tree, record: Record, source: Record) -> None:
    """Draw one source: its tracks by split, a few by name, and its licence."""
    name = source["source"]
    tracks = [track for track in record["tracks"] if track["source"] == name]
    files = {file["sha256"]: file for file in record["files"] if file["source"] == name}
    splits = Counter(track["split"] for track in tracks)
    shares = ", ".join(f"{split} {splits[split]}" for split in SPLITS)
    branch = parent.add(f"{name}: {len(tracks)} tracks ({shares}), {source['licence']}")
    for track in tracks[:SHOWN]:
        leaf = branch.add(f"{track['track']} ({track['split']}, {track['pairs']} pairs)")
        for total in track["files"]:
            leaf.add(f"{files[total]['url']} sha256 {total[:12]}")
    if len(tracks) > SHOWN:
        branch.add(f"... {len(tracks) - SHOWN} more tracks, {len(files)} files in all; see --json")
