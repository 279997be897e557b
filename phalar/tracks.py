"""Tracks and stems: the parquet of `prepare`, written, checked and read one track at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phalar import audio, store

SPLITS = ("train", "valid", "test")

HUGGING_FACE_AUDIO = {"_type": "Audio", "sampling_rate": audio.SAMPLE_RATE_HZ}
"""Tells Hugging Face `datasets` that the struct of bytes and path is sound."""

SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("track", pa.string()),
        ("song", pa.string()),
        ("artist", pa.string()),
        ("title", pa.string()),
        ("split", pa.string()),
        ("licence", pa.string()),
        ("stem", pa.string()),
        ("instrument", pa.string()),
        ("program", pa.int16()),
        ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("samples", pa.int64()),
        ("peak", pa.float32()),
        ("level_db", pa.list_(pa.float32())),
        ("tempo_bpm", pa.float32()),
        ("beats_s", pa.list_(pa.float32())),
        ("downbeats_s", pa.list_(pa.float32())),
        (
            "chords",
            pa.list_(
                pa.struct(
                    [("start_s", pa.float32()), ("end_s", pa.float32()), ("label", pa.string())]
                )
            ),
        ),
        ("source_files", pa.list_(pa.struct([("path", pa.string()), ("sha256", pa.string())]))),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": {"audio": HUGGING_FACE_AUDIO}}})},
)
"""One row a stem; what is true of the whole track stands in each of its rows."""

MOST_STEMS = 64
"""`render` names the stems of a side by the bits of one integer."""


@dataclass(frozen=True, slots=True)
class Stem:
    """One instrument of a track: mono sound at `audio.SAMPLE_RATE_HZ`."""

    name: str
    """Unique within the track, such as `03-electric_bass_finger`."""
    instrument: str
    """Family of the instrument: a word of `phalar.sources.INSTRUMENTS`."""
    audio: np.ndarray
    """float32 (N,), within full scale."""
    program: int | None = None
    """General MIDI program 0..127, 128 for a drum kit, None where unknown."""


@dataclass(frozen=True, slots=True)
class Track:
    """A song, or one rendition of it, as time-aligned stems and what is known about it."""

    source: str
    track: str
    """Unique within the source; of letters, digits, `-` and `_`: it becomes part of keys."""
    song: str
    """What the split goes by: all versions of one piece share it."""
    split: str
    licence: str
    stems: list[Stem]
    source_files: list[tuple[str, str]]
    """Path below `data/download/<source>/` and SHA-256 of each file this track was made from."""
    artist: str | None = None
    title: str | None = None
    tempo_bpm: float | None = None
    beats_s: list[float] = field(default_factory=list)
    downbeats_s: list[float] = field(default_factory=list)
    chords: list[tuple[float, float, str]] = field(default_factory=list)
    """(start, end, label) with labels such as `C:maj`, `A:min`, `N`."""
    notes: list[str] = field(default_factory=list)
    """What was done to it on the way, for the report; not part of the parquet."""


def validate(track: Track) -> None:
    """Raise `ValueError` with the reason where a track breaks a rule that later stages rely on."""
    name = f"{track.source}/{track.track}"
    if track.split not in SPLITS:
        raise ValueError(f"{name}: split {track.split!r} is not one of {', '.join(SPLITS)}")
    if len(track.stems) < 2:
        raise ValueError(f"{name}: {len(track.stems)} stem(s), a pair needs 2 at least")
    names = [stem.name for stem in track.stems]
    if len(set(names)) < len(names):
        raise ValueError(f"{name}: stem names are not unique: {', '.join(sorted(names))}")
    lengths = {len(stem.audio) for stem in track.stems}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"{name}: stems of {sorted(lengths)} samples, must be one length above 0")
    for stem in track.stems:
        if not np.isfinite(stem.audio).all():
            raise ValueError(f"{name}/{stem.name}: holds samples that are not finite")
        peak = float(np.abs(stem.audio).max())
        if peak > 1.0:
            raise ValueError(
                f"{name}/{stem.name}: peak {peak:g} is beyond full scale (1.0); scale the track"
            )


def to_table(track: Track) -> pa.Table:
    """Encode a valid track as a table of `SCHEMA`: one row a stem, in the order of `stems`."""
    validate(track)
    shared = {
        "source": track.source,
        "track": track.track,
        "song": track.song,
        "artist": track.artist,
        "title": track.title,
        "split": track.split,
        "licence": track.licence,
        "tempo_bpm": track.tempo_bpm,
        "beats_s": track.beats_s,
        "downbeats_s": track.downbeats_s,
        "chords": [{"start_s": a, "end_s": b, "label": label} for a, b, label in track.chords],
        "source_files": [{"path": path, "sha256": sha} for path, sha in track.source_files],
    }
    rows = [
        shared
        | {
            "stem": stem.name,
            "instrument": stem.instrument,
            "program": stem.program,
            "audio": {
                "bytes": audio.encode(stem.audio),
                "path": f"{track.source}/{track.track}/{stem.name}.flac",
            },
            "samples": len(stem.audio),
            "peak": float(np.abs(stem.audio).max()),
            "level_db": audio.levels_db(stem.audio),
        }
        for stem in track.stems
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def write_tables(path: Path, tables: Iterable[pa.Table]) -> int:
    """Write track tables, one row group each, aside and then into place; return how many.

    The bytes depend on the tables and their order alone.
    """
    aside = path.with_name(path.name + ".part")
    count = 0
    # FLAC is dense already; zstd is for the annotations, whose level lists repeat.
    with pq.ParquetWriter(aside, SCHEMA, compression="zstd", write_statistics=True) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=max(table.num_rows, 1))
            count += 1
    aside.replace(path)
    return count


@dataclass(frozen=True, slots=True)
class TrackIndex:
    """Where one track lies and what its stems are, without their sound."""

    path: store.File
    row_group: int
    source: str
    track: str
    song: str
    split: str
    licence: str
    stems: list[str]
    instruments: list[str]
    samples: int
    levels_db: np.ndarray
    """float32 (S, hops): level of each stem over each `audio.LEVEL_HOP_S`."""
    tempo_bpm: float | None
    source_files: list[tuple[str, str]]


def read_index(folder: Path, split: str) -> list[TrackIndex]:
    """List the tracks of one source's split, in file order.

    Raises
    ------
    ValueError
        There is no parquet for the split, or one is damaged.
    StoreError
        The parquet lie in a store that cannot be read.
    """
    paths = store.find(folder, f"{split}-*.parquet")
    if not paths:
        raise ValueError(f"{folder}: no {split}-*.parquet; run prepare for this source first")
    return [index for path in paths for index in _index_file(path)]


def _index_file(path: store.File) -> Iterator[TrackIndex]:
    heavy = ("audio", "beats_s", "downbeats_s", "chords")
    columns = [name for name in SCHEMA.names if name not in heavy]
    try:
        with store.open_parquet(path) as file:
            groups = [file.read_row_group(g, columns=columns) for g in range(file.num_row_groups)]
    except store.StoreError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error
    for number, table in enumerate(groups):
        rows = table.to_pylist()
        first = rows[0]
        yield TrackIndex(
            path=path,
            row_group=number,
            source=first["source"],
            track=first["track"],
            song=first["song"],
            split=first["split"],
            licence=first["licence"],
            stems=[row["stem"] for row in rows],
            instruments=[row["instrument"] for row in rows],
            samples=first["samples"],
            levels_db=np.asarray([row["level_db"] for row in rows], dtype=np.float32),
            tempo_bpm=first["tempo_bpm"],
            source_files=[(f["path"], f["sha256"]) for f in first["source_files"]],
        )


def _damaged(path: store.File, error: Exception) -> ValueError:
    return ValueError(f"{path}: damaged ({error}); delete it and prepare this source again")


def read_stems(index: TrackIndex) -> np.ndarray:
    """Decode all stems of a track to float32 (S, N).

    Raises
    ------
    ValueError
        The row group or a stem's sound is damaged, or shorter than the index says.
    StoreError
        The parquet lies in a store that cannot be read.
    """
    try:
        with store.open_parquet(index.path) as file:
            column = file.read_row_group(index.row_group, columns=["audio"])["audio"]
    except store.StoreError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise _damaged(index.path, error) from error
    stems = np.empty((len(index.stems), index.samples), dtype=np.float32)
    for row, value in enumerate(column.to_pylist()):
        sound, _ = audio.read_audio(value["bytes"])
        if sound.shape[1] != index.samples:
            raise ValueError(
                f"{index.path}: {value['path']} holds {sound.shape[1]} samples, "
                f"its row says {index.samples}; delete the file and prepare this source again"
            )
        stems[row] = sound[0]
    return stems
