"""From a track, file, artist or licence to every shard, run and model version that saw it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from phalar import registry, runlog, store
from phalar.lineage.record import TRACKS
from phalar.params import Paths

FEWEST_DIGITS = 8
"""Of a file's SHA-256: fewer might mean another file."""

ABOUT = ["source", "track", "song", "artist", "licence", "split", "pairs", "files"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked for; what is None does not matter."""

    track: str | None = None
    """SOURCE/TRACK."""
    file: str | None = None
    """SHA-256 of a source file, or its first digits."""
    artist: str | None = None
    licence: str | None = None
    """Part of the artist's name or of the licence, in any case."""

    def __post_init__(self) -> None:
        if self.track is not None and "/" not in self.track:
            raise ValueError(
                f"track {self.track!r}: must be SOURCE/TRACK, such as chorales/bwv1_r0"
            )
        if self.file is not None and len(self.file) < FEWEST_DIGITS:
            raise ValueError(f"file {self.file!r}: {FEWEST_DIGITS} digits of its SHA-256 at least")


@dataclass(frozen=True, slots=True)
class Sighting:
    """One track in one set of rendered pairs."""

    source: str
    track: str
    split: str
    pairs: int
    artist: str | None
    licence: str | None
    """None where only a table of pairs was searched, which does not hold it."""
    shards: dict[str, int]
    """Pairs in each."""


@dataclass(frozen=True, slots=True)
class Place:
    """Rendered pairs that were searched, and who learned from them."""

    name: str
    """A model version such as `phalar/3`, or `data/render`."""
    run: str | None
    """MLflow run of the training."""
    sightings: list[Sighting]


@dataclass(slots=True)
class Found:
    """What a search finds."""

    places: list[Place] = field(default_factory=list)
    """Those that saw it."""
    runs: list[str] = field(default_factory=list)
    """Runs that trained on the pairs of one of these places, and whose model is not registered."""
    searched: int = 0
    """Model versions."""
    unknown: list[str] = field(default_factory=list)
    """What could not be searched, and why."""


def find(wanted: Wanted, paths: Paths) -> Found:
    """Search the pairs of every registered version, and those that lie in data/render.

    Raises
    ------
    ConnectionError
        The registry does not answer.
    """
    found = Found()
    seen = search_render(paths, wanted)
    if seen:
        found.places.append(Place("data/render", None, seen))
    try:
        uri = registry.find("lineage")
    except FileNotFoundError as error:
        found.unknown.append(str(error).partition(": ")[2])
    else:
        with registry.opened(uri) as client:
            _search_registry(client, wanted, found, here=_here(paths, seen))
    return found


def _here(paths: Paths, seen: list[Sighting]) -> dict[str, bool]:
    """Give the digest of the pairs in data/render, and whether they hold what is wanted."""
    if not (paths.render / "trials.parquet").is_file():
        return {}
    return {runlog.data_digest(paths.render): bool(seen)}


def _search_registry(client: Any, wanted: Wanted, found: Found, *, here: dict[str, bool]) -> None:
    from mlflow.exceptions import MlflowException

    digests = dict(here)
    for version in registry.versions_of(client):
        name = f"{version.name}/{version.version}"
        try:
            run = client.get_run(version.run_id)
            seen = search(registry.fetch_document(version, TRACKS), wanted)
        except (MlflowException, OSError, pa.ArrowException) as error:
            first = str(error).partition("\n")[0]
            found.unknown.append(f"{name}: its {TRACKS} cannot be read ({first}); register again")
            continue
        found.searched += 1
        digests[run.data.tags.get("data.sha256", "")] = bool(seen)
        if seen:
            found.places.append(Place(name, version.run_id, seen))
    registered = {version.run_id for version in registry.versions_of(client)}
    for run in registry.runs_of(client):
        digest = run.data.tags.get("data.sha256")
        if digest is None or run.info.run_id in registered:
            continue
        if digest not in digests:
            found.unknown.append(
                f"run {run.info.run_id}: trained on pairs of which no table was kept, and not "
                "registered"
            )
        elif digests[digest]:
            found.runs.append(run.info.run_id)


def search(path: Path, wanted: Wanted) -> list[Sighting]:
    """Search a tracks.parquet: names first, then the shards of what was found and no others."""
    with pq.ParquetFile(path) as file:
        table = file.read(columns=ABOUT)
        rows = np.flatnonzero(_matches(table, wanted))
        shards: list[dict[str, int]] = []
        for group, places in _by_group(file, rows):
            column = file.read_row_group(group, columns=["shards"])["shards"]
            here = column.take(pa.array(places)).to_pylist()
            shards += [{each["shard"]: each["pairs"] for each in row} for row in here]
    kept = ("source", "track", "split", "pairs", "artist", "licence")
    return [
        Sighting(**{name: row[name] for name in kept}, shards=places)
        for row, places in zip(table.take(pa.array(rows)).to_pylist(), shards, strict=True)
    ]


def _matches(table: pa.Table, wanted: Wanted) -> Any:
    """Tell of each row whether it is wanted: bool (rows,)."""
    fits = np.ones(table.num_rows, dtype=bool)

    def narrow(mask: Any) -> None:
        fits[:] &= pc.fill_null(mask, False).to_numpy(zero_copy_only=False)

    if wanted.track is not None:
        source, _, track = wanted.track.partition("/")
        narrow(pc.and_(pc.equal(table["source"], source), pc.equal(table["track"], track)))
    for name in ("artist", "licence"):
        if (text := getattr(wanted, name)) is not None:
            narrow(pc.match_substring(table[name], text, ignore_case=True))
    if wanted.file is not None:
        files = table["files"].combine_chunks()
        hits = pc.starts_with(files.flatten(), wanted.file.lower())
        parents = files.value_parent_indices().filter(hits).to_numpy()
        fits &= np.isin(np.arange(table.num_rows), parents)
    return fits


def search_render(paths: Paths, wanted: Wanted) -> list[Sighting]:
    """Search the pairs that lie in data/render, which no model need have seen yet."""
    table = paths.render / "pairs.parquet"
    if not table.is_file():
        return []
    if wanted == Wanted(track=wanted.track) and wanted.track is not None:
        source, _, track = wanted.track.partition("/")
        return _scan(table, [(source, track, None, None)])
    return _scan(table, list(_prepared(paths, wanted)))


Known = tuple[str, str, str | None, str | None]
"""Source, track, artist, licence."""


def _prepared(paths: Paths, wanted: Wanted) -> Iterator[Known]:
    """Find tracks among those that lie prepared, which say what the table of pairs does not."""
    columns = ["source", "track", "artist", "licence", "source_files"]
    folders = sorted((paths.root / "prepare").glob("*"))
    for path in (path for folder in folders for path in store.find(folder, "*.parquet")):
        with store.open_parquet(path) as file:
            table = file.read(columns=columns)
        sums = pc.struct_field(table["source_files"].combine_chunks().flatten(), "sha256")
        offsets = table["source_files"].combine_chunks().offsets
        files = pa.ListArray.from_arrays(offsets, sums)
        table = table.drop_columns("source_files").append_column("files", files)
        rows = table.filter(pa.array(_matches(table, wanted))).to_pylist()
        yield from {(r["source"], r["track"], r["artist"], r["licence"]) for r in rows}


def _scan(path: Path, tracks: Iterable[Known]) -> list[Sighting]:
    """Count the pairs of tracks by shard: names first, then the rows of what was found alone."""
    about = {(source, track): rest for source, track, *rest in tracks}
    if not about:
        return []
    keys = ["source", "track", "split", "shard"]
    with pq.ParquetFile(path, read_dictionary=keys) as file:
        wanted = [pa.array(sorted({key[place] for key in about})) for place in (0, 1)]
        names = file.read(columns=keys[:2])
        fits = [_is_in(names[key], each) for key, each in zip(keys[:2], wanted, strict=True)]
        parts = [
            file.read_row_group(group, columns=keys).take(pa.array(rows))
            for group, rows in _by_group(file, np.flatnonzero(np.logical_and(*fits)))
        ]
    if not parts:
        return []
    table = pa.concat_tables(parts).cast(pa.schema([(key, pa.string()) for key in keys]))
    shards: dict[tuple[str, str, str], dict[str, int]] = defaultdict(dict)
    for row in table.group_by(keys).aggregate([([], "count_all")]).sort_by("shard").to_pylist():
        # A name that another source has too is not meant.
        if (row["source"], row["track"]) in about:
            shards[row["source"], row["track"], row["split"]][row["shard"]] = row["count_all"]
    found = []
    for (source, track, split), places in sorted(shards.items()):
        artist, licence = about[source, track]
        pairs = sum(places.values())
        found.append(Sighting(source, track, split, pairs, artist, licence, places))
    return found


def _is_in(column: pa.ChunkedArray, wanted: pa.Array) -> Any:
    """Tell which rows of a dictionary column are wanted: its few words are compared, once each."""
    return np.concatenate(
        [
            pc.is_in(chunk.dictionary, wanted).to_numpy(zero_copy_only=False)[chunk.indices]
            for chunk in column.chunks
        ]
        or [np.zeros(0, dtype=bool)]
    )


def _by_group(file: pq.ParquetFile, rows: Any) -> Iterator[tuple[int, Any]]:
    """Give the row groups that hold some rows, each with where they stand in it."""
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    starts = np.cumsum([0, *sizes])
    groups = np.searchsorted(starts, rows, side="right") - 1
    for group in np.unique(groups):
        yield int(group), rows[groups == group] - starts[group]
